"""`relocate_virtualenv DIRECTORY`: makes a virtual environment find itself, wherever a release comes to lie.

Build steps have it as a command; the virtual environment's own Python runs it, in the application's directory. pip
writes the interpreter's absolute path into each console script, and venv its own into the activate scripts. Byte code
would hold the build's paths and time stamps: the hosts make their own. On a host `templates/host/virtualenv.sh` leads
`bin/python`, a symbolic link, to the host's own interpreter.
"""

import base64
import csv
import hashlib
import os
import pathlib
import re
import shutil
import sys

# To sh this is `exec <directory of the script>/python <script> <arguments>`, to Python a string that nobody uses.
FINDS_ITSELF = b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"\n\' \'\'\'\n'
LONG_SHEBANG = re.compile(rb"#!/bin/sh\n'''exec' .*\n' '''\n")

ACTIVATE = """\
# Source this from bash or zsh: . {directory}/bin/activate
VIRTUAL_ENV="$(cd -P -- "$(dirname -- "${{BASH_SOURCE:-$0}}")/.." && pwd)"
_OLD_VIRTUAL_PATH="$PATH"
PATH="$VIRTUAL_ENV/bin:$PATH"
export VIRTUAL_ENV PATH
unset PYTHONHOME
deactivate () {{ PATH="$_OLD_VIRTUAL_PATH"; export PATH; unset VIRTUAL_ENV _OLD_VIRTUAL_PATH; unset -f deactivate; }}
"""


def relocate(directory):
    """Rewrite what names the place. Returns the files that still do: these need another installation."""
    venv = pathlib.Path(directory).absolute()
    places = {os.fsencode(os.getcwd()), os.fsencode(os.path.realpath("."))}
    rewrite_scripts(venv, [place + b"/" + os.fsencode(directory.strip("/")) for place in places])
    (venv / "bin" / "activate").write_text(ACTIVATE.format(directory=directory))
    config = venv / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("command ")]
    config.write_text("\n".join(lines) + "\n")
    make_paths_relative(venv, places)
    for cache in sorted(venv.rglob("__pycache__")):
        shutil.rmtree(str(cache))
    for record in sorted(venv.rglob("*.dist-info/RECORD")):
        correct_record(record)
    return sorted(
        str(path.relative_to(venv.parent))
        for pattern in ("bin/*", "pyvenv.cfg", "**/*.pth", "**/__editable__*", "**/*.egg-link")
        for path in venv.glob(pattern)
        if path.is_file() and not path.is_symlink() and any(place in path.read_bytes() for place in places)
    )


def rewrite_scripts(venv, prefixes):
    for script in sorted((venv / "bin").iterdir()):
        if script.name.lower().startswith("activate"):
            script.unlink()
        elif script.is_file() and not script.is_symlink():
            old = script.read_bytes()
            new = LONG_SHEBANG.sub(lambda match: FINDS_ITSELF, old, count=1) if LONG_SHEBANG.match(old) else old
            if any(old.startswith(b"#!" + prefix + b"/bin/") for prefix in prefixes):
                new = FINDS_ITSELF + old.partition(b"\n")[2]
            if new != old:
                script.write_bytes(new)


def make_paths_relative(venv, places):
    """`-e .` in requirements.txt: a path in a .pth file may be relative to the directory that holds the file."""
    for listed in venv.rglob("*.pth"):
        lines = os.fsdecode(listed.read_bytes()).splitlines()
        inside = [any(os.fsencode(line + "/").startswith(place + b"/") for place in places) for line in lines]
        if any(inside):
            made = [os.path.relpath(line, str(listed.parent)) if own else line for line, own in zip(lines, inside)]
            listed.write_bytes(os.fsencode("\n".join(made) + "\n"))


def correct_record(record):
    """A list of installed files names byte code that is gone and hashes of scripts that were rewritten."""
    with record.open(newline="", encoding="utf-8") as listing:
        rows = [row for row in csv.reader(listing) if "__pycache__" not in row[0].split("/")]
    for row in rows:
        script = record.parent.parent / row[0]
        if row[0].startswith("../") and script.parent.name == "bin" and script.is_file():
            digest = base64.urlsafe_b64encode(hashlib.sha256(script.read_bytes()).digest()).decode().rstrip("=")
            row[1:] = ["sha256=" + digest, str(script.stat().st_size)]
    with record.open("w", newline="", encoding="utf-8") as listing:
        csv.writer(listing, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    left = ", ".join(relocate(sys.argv[1]))
    if left:
        sys.exit(f"{left}: holds the build's path and would not work on an app server; install without --editable")
