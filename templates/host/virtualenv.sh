# shellcheck shell=sh disable=SC2034,SC2154
# A Python virtual environment is tied to the interpreter that made it: by links in bin/ and by the line `home` in
# pyvenv.cfg, both with the build server's path. What is installed in it runs with any interpreter of the same X.Y.
# Reads: strict_problem, way_out.
# Sets: virtualenv_problem.

# virtualenv_runs TREE: sees to it that TREE/venv, if there is one, has its Python on this host: the one that it names,
# else the pythonX.Y that PATH has. Fails, with virtualenv_problem. A tree that others can change, the application's user
# say, is left as it is, and nothing of it is run.
virtualenv_runs() {
  virtualenv=$1/venv
  [ -f "$virtualenv/pyvenv.cfg" ] || return 0
  if ! strict_way "$virtualenv/bin" || ! strict_way "$virtualenv/pyvenv.cfg"; then
    virtualenv_problem="the release's venv has no Python here, and $strict_problem"
    [ -x "$virtualenv/bin/python" ]
    return
  fi
  python_version=$(sed -n 's/^version[_info]* *= *\([0-9]*\.[0-9]*\).*/\1/p' "$virtualenv/pyvenv.cfg")
  [ -n "$python_version" ] || return 0
  # What a Python says of itself: its version, and where it is, whatever it was called by. What is installed there may run
  # with any Python (.pth), so it stays out.
  python_says='import os, sys; print("%d.%d" % sys.version_info[:2], os.path.realpath(sys.executable))'
  if ! strict_way "$virtualenv/bin/python"; then
    # Another user's Python: the proof shows whether it does.
    [ ! -x "$virtualenv/bin/python" ] || return 0
  else
    case $("$virtualenv/bin/python" -I -S -c "$python_says" 2>/dev/null) in
      "$python_version "*) return 0 ;;
    esac
  fi
  virtualenv_problem="the release's venv needs Python $python_version, and this host has no python$python_version in PATH: install it"
  python_found=$("python$python_version" -I -S -c "$python_says" 2>/dev/null) || return 1
  python_found=${python_found#* }
  virtualenv_problem="the release's venv can't be led to $python_found"
  if ! lies_inside "$1" venv/bin/python; then
    virtualenv_problem="$virtualenv_problem: $way_out"
    return 1
  fi
  rm -f -- "$virtualenv/pyvenv.cfg.new"
  for python_link in python python3 "python$python_version"; do
    ln -sfn -- "$python_found" "$virtualenv/bin/$python_link" || return 1
  done
  sed "s|^home *=.*|home = ${python_found%/*}|" "$virtualenv/pyvenv.cfg" >"$virtualenv/pyvenv.cfg.new" &&
    mv -- "$virtualenv/pyvenv.cfg.new" "$virtualenv/pyvenv.cfg"
}
