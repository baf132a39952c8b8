#!/bin/sh
# Asks what ssh wants to know ($1) on the operator's terminal, DEPLOYTOOL_TERMINAL. ssh runs in a session of its own, so
# that Ctrl-C is for deploytool, and has no terminal there. What `fab --prompt-for-...` has asked already waits in a pipe
# in the directory DEPLOYTOOL_ASKING; while a question is open, `asking` is there.
#
# Servers choose the words of their questions. ssh puts (USER@HOST) before those since 8.5, so that a question for a
# key's passphrase is its own. The password is for the last host only, once: for the client DEPLOYTOOL_CLIENT.
answers=
case $1 in
  "Enter passphrase for key '"*) [ -z "$DEPLOYTOOL_MARKS_SERVERS" ] || answers=$DEPLOYTOOL_ASKING/passphrase ;;
  *assword*) [ "$PPID" != "$DEPLOYTOOL_CLIENT" ] || answers=$DEPLOYTOOL_ASKING/password ;;
esac
if [ -p "$answers" ]; then
  exec 4<>"$answers"
  case $answers in */password) rm -f "$answers" ;; esac
  IFS= read -r answer <&4
  printf '%s\n' "$answer"
  exit
fi
[ -c "$DEPLOYTOOL_TERMINAL" ] || exit 1
exec 3<>"$DEPLOYTOOL_TERMINAL" || exit 1
end() {
  stty echo <&3
  rm -f "$DEPLOYTOOL_ASKING/asking"
}
trap 'end; exit 1' HUP INT TERM
: >"$DEPLOYTOOL_ASKING/asking"
# Over what is drawn there at the moment.
sleep 0.3
printf '\r\033[K%s' "$1" >&3
case $SSH_ASKPASS_PROMPT$1 in
  none*)
    # It asks for nothing: a key is waiting to be touched.
    echo >&3
    end
    exit
    ;;
  *'(yes/no'*) ;;
  *) stty -echo <&3 ;;
esac
IFS= read -r answer <&3
status=$?
case $1 in *'(yes/no'*) ;; *) echo >&3 ;; esac
end
[ "$SSH_ASKPASS_PROMPT" != confirm ] || [ -z "$answer" ] || [ "$answer" = yes ] || exit 1
printf '%s\n' "$answer"
exit "$status"
