# shellcheck shell=sh disable=SC2154
# Phase `post`, before the switch.
# Reads: hook_problem.

drain || leave failed "$hook_problem"
