"""The scripts that a manifest carries: what each phase is made of, and the values that they get, quoted."""

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from deploytool.hosts.role_manifest import TEMPLATE_NAME, Phase, RoleManifest
from deploytool.model.release import consul_prefix

#: Stands for the file of the bus in use: consul.sh, or directory.sh for pretend hosts.
BUS = "bus"
#: What each phase is made of, in the order in which it is read; each file needs those before it.
_TO_TELL = ("limits", "log", "process", "keys", "http", BUS, "strict", "room", "report")
_ALWAYS = (*_TO_TELL, "lock", "word", "hooks")
_TREE = ("inside", "shared", "incoming", "virtualenv")
_PROOF = ("sockets", "verify")
_POST = ("post", "drain", "activate", "undrain", "settle")
_FAILURE = ("failure", "failure-undrain", "failure-tell")
PARTS: dict[Phase, tuple[str, ...]] = {
    "pre": (*_ALWAYS, "guard", "barrier", "switch", "inside", "shared", "incoming", "pre"),
    "post": (*_ALWAYS, "switch", *_TREE, *_PROOF, "retention", "draining", *_POST),
    "success": (*_ALWAYS, "retention", "success"),
    "failure": (*_ALWAYS, "guard", "switch", *_PROOF, "retention", "draining", *_FAILURE),
}
#: What a host keeps with a verified release, to see every minute whether it serves still.
LOOK_PARTS = (*_ALWAYS, "guard", "switch", *_PROOF, "look")
#: Only for roles with the hooks `drain` and `undrain`.
DRAINING = frozenset({"draining", "drain", "undrain", "failure-undrain"})
#: The same for a probe of `fab ENV check`.
PROBE_PARTS = (*_TO_TELL, "inside", "shared", "sockets", "probe")
#: What the program needs that stands between Consul and stretcher, and the line of it that they take the place of.
RECEIVE_PARTS = (*_TO_TELL,)
_RECEIVE_MARK = "# the parts of a manifest's scripts that are needed here\n"
#: And for one of `fab ENV status --probe`.
PROVE_PARTS = (*_ALWAYS, "switch", *_PROOF, "prove")


def own_templates() -> Path:
    """Our own templates: beside the modules when installed, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(
        path for path in (package / "templates", package.parent / "templates") if (path / TEMPLATE_NAME).is_file()
    )


def shell_quote(text: str) -> str:
    """`text` as one word of sh, without two opening braces in a row: '{''{' is the same word to a shell."""
    quoted = "'" + text.replace("'", "'\\''") + "'"
    return re.sub(r"\{(?=\{)", "{''", quoted)


def host_script(manifest: RoleManifest, phase: Phase) -> str:
    """The one command of a phase: its values, what it is made of, and a line on either side.

    Comments stay behind: each command is logged twice by stretcher.
    """
    bus = "directory" if manifest.bus_directory else "consul"
    names = (part for part in PARTS[phase] if manifest.drains or part not in DRAINING)
    parts = (host_part(bus if name == BUS else name) for name in names)
    look = [f"look_script={shell_quote(look_script(manifest))}"] if phase == "success" else []
    lines = [*values_of(manifest), *lists_of(manifest, phase), *look, *parts]
    return marked(lines, manifest.deployment, phase)


def marked(lines: Iterable[str], deployment: str, phase: str = "probe") -> str:
    """A command with a line on either side, by which hosts find its text in stretcher's log, and leave it out."""
    mark = f"# deploytool {deployment} {phase}"
    return "\n".join([f"{mark} begin", *lines, f"{mark} end"])


def look_script(manifest: RoleManifest) -> str:
    """What the host runs every minute while it serves the release: see `look.sh`."""
    bus = "directory" if manifest.bus_directory else "consul"
    parts = (host_part(bus if name == BUS else name) for name in LOOK_PARTS)
    return "\n".join([*values_of(manifest), *lists_of(manifest, "failure"), *parts])


def receive_script() -> str:
    """`receive.sh` as it is installed on hosts: with all that it needs of the manifest's scripts within it."""
    own = (own_templates() / "app-server" / "receive.sh").read_text("utf-8")
    values, _, story = own.partition(_RECEIVE_MARK)
    parts = (host_part("consul" if name == BUS else name) for name in RECEIVE_PARTS)
    # Comments stay behind, as clouds take no more than 16 KB of user data.
    head = "#!/bin/sh\n# Stands between Consul and stretcher; deploytool's templates/app-server/receive.sh says how."
    return "\n".join([head, _without_comments(values), *parts, _without_comments(story), ""])


def values_of(manifest: RoleManifest) -> Iterator[str]:
    values = {
        **manifest.names,
        "consul_prefix": consul_prefix(manifest.application, manifest.environment),
        "bus_directory": manifest.bus_directory,
        "kept": "yes" if manifest.kept else "no",
        "unpacked_prefix": manifest.unpacked_prefix,
        "unpacked_name": manifest.unpacked_name,
        "rollback_release": manifest.rollback_release or "",
        "verify_settings": " ".join(f"verify_{name}" for name in manifest.verify),
        **{f"verify_{name}": text for name, text in manifest.verify.items()},
        "build_root": manifest.build_root,
    }
    numbers = {
        "unpacked_bytes": manifest.release.unpacked_bytes,
        "keep_releases": manifest.keep_releases,
        "hook_seconds": manifest.hook_seconds,
        "stable_seconds": manifest.stable_seconds,
    }
    yield from (f"{name}={shell_quote(value)}" for name, value in values.items())
    # Not quoted, so `int` sees to it that nothing but a number gets into the shell.
    yield from (f"{name}={int(number)}" for name, number in numbers.items())


def lists_of(manifest: RoleManifest, phase: Phase) -> Iterator[str]:
    """sh has no lists: each is a function that calls what it is given with each item, and stops at a failure."""
    yield each_item("linked_dirs", ((path,) for path in manifest.linked_dirs))
    yield each_item("linked_files", ((path,) for path in manifest.linked_files))
    if phase in ("post", "failure"):
        yield each_item("restart_commands", ((command.label, command.text) for command in manifest.restart))
    if phase == "post" and manifest.drains:
        yield each_item("drain_commands", ((command.label, command.text) for command in manifest.drain))
        yield each_item("undrain_commands", ((command.label, command.text) for command in manifest.undrain))
    yield each_item(f"{phase}_hooks", ((command.label, command.text) for command in manifest.hooks[phase]))


def each_item(name: str, items: Iterator[tuple[str, ...]]) -> str:
    calls = [f'  "$1" {" ".join(map(shell_quote, item))} || return' for item in items]
    return "\n".join([f"{name}() {{", *calls, "  return 0", "}"])


@functools.cache
def host_part(name: str) -> str:
    return _without_comments((own_templates() / "host" / f"{name}.sh").read_text("utf-8"))


def _without_comments(script: str) -> str:
    return "\n".join(line for line in script.splitlines() if line.strip() and not line.lstrip().startswith("#"))
