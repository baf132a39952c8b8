"""One function of a host script, tried alone."""

import subprocess
from pathlib import Path

from deploytool.hosts.scripts import host_part

#: files that only define functions and values, in the order in which phases read them
PARTS = (
    *(
        "limits",
        "log",
        "process",
        "keys",
        "consul",
        "strict",
        "room",
        "report",
        "lock",
        "word",
        "hooks",
        "guard",
        "switch",
        "inside",
        "shared",
    ),
    *("virtualenv", "sockets", "verify", "retention"),
)


def call(
    function: str,
    *arguments: str,
    shell: str = "sh",
    shows: tuple[str, ...] = (),
    stdin: str = "",
    directory: Path | None = None,
    **variables: str,
) -> tuple[int, str]:
    """Its exit status, and what it printed; then, a line each, the variables that it `shows`."""
    shown = [f"printf '%s\\n' \"${name}\"" for name in shows]
    known = {"deploy_to": str(directory or "/nowhere"), **variables}
    values = [f"{name}=$VALUE_{name}" for name in known]
    script = [*values, *map(host_part, PARTS), f'{function} "$@"', "status=$?", *shown, "exit $status"]
    done = subprocess.run(
        [shell, "-c", "\n".join(script), function, *arguments],
        input=stdin,
        env={
            "PATH": variables.get("PATH", "/usr/bin:/bin"),
            **{f"VALUE_{name}": value for name, value in known.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout
