# shellcheck shell=sh disable=SC2154
# Phase `post`, before the switch.

drain || leave failed "$hook_problem"
