# shellcheck shell=sh disable=SC2154
# Phase `post`, after the proof. A host without traffic is no success: it goes back, and to bring it back is tried again.
# Reads: hook_problem, release.

undrain || leave failed "$release serves, but the host could not be brought back: $hook_problem"
