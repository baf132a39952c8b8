# shellcheck shell=sh disable=SC2034
# How long a host is patient, in seconds. The environment of stretcher may say otherwise, as tests do.
# Sets: lock_seconds, report_seconds, silence_seconds.

# without a word from the operator at the barrier
silence_seconds=${DEPLOYTOOL_SILENCE_SECONDS:-60}
# for Consul, which may be restarting
report_seconds=${DEPLOYTOOL_REPORT_SECONDS:-60}
# for another stretcher at work in the same deploy_to
lock_seconds=${DEPLOYTOOL_LOCK_SECONDS:-60}
