#!/bin/sh
# Asks what ssh wants to know ($1) on the operator's terminal, DEPLOYTOOL_TERMINAL. ssh runs in a session of its own, so that Ctrl-C
# is for deploytool, and has no terminal there. What `fab --prompt-for-…` has asked already waits in a pipe in DEPLOYTOOL_ANSWERS.
case $1 in
  *assphrase*) answers=$DEPLOYTOOL_ANSWERS/passphrase ;;
  *assword*) answers=$DEPLOYTOOL_ANSWERS/password ;;
  *) answers= ;;
esac
if [ -p "$answers" ]; then
  IFS= read -r answer <"$answers"
  printf '%s\n' "$answer"
  exit
fi
[ -c "$DEPLOYTOOL_TERMINAL" ] || exit 1
exec 3<>"$DEPLOYTOOL_TERMINAL" || exit 1
printf '%s' "$1" >&3
if [ "$SSH_ASKPASS_PROMPT" = none ]; then
  # It asks for nothing: a key is waiting to be touched.
  echo >&3
  exit
fi
case $1 in
  *'(yes/no'*) ;;
  *)
    trap 'stty echo <&3; exit 1' HUP INT TERM
    stty -echo <&3
    ;;
esac
IFS= read -r answer <&3
status=$?
stty echo <&3
case $1 in *'(yes/no'*) ;; *) echo >&3 ;; esac
[ "$SSH_ASKPASS_PROMPT" != confirm ] || [ -z "$answer" ] || [ "$answer" = yes ] || exit 1
printf '%s\n' "$answer"
exit "$status"
