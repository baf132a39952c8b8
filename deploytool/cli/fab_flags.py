"""Fabric's and Invoke's own flags: what each one does for deploytool's commands, or what to use instead. Pure.

A fabfile mixes our commands with tasks of the user's own. Flags that set how `context.run` behaves are for the latter:
without one in the line they are refused, as are those that no deployment can follow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploytool.errors import UsageError


@dataclass(frozen=True, slots=True)
class Flag:
    """One of the flags in `fab --help`."""

    #: as it is typed: the short form first, if there is one
    typed: str
    #: what it does for our commands, as the rest of a line of help; empty if it is refused
    does: str = ""
    #: why it is refused and what to use instead, as a sentence; empty if it works
    instead: str = ""
    #: whether tasks of the user's own in the same line make use of it
    for_own_tasks: bool = False

    @property
    def name(self) -> str:
        """The long form without its dashes, which is Invoke's key for it."""
        return self.typed.rpartition("--")[2]


#: All of them, by the alphabet of their long forms.
FLAGS: tuple[Flag, ...] = (
    Flag("-c/--collection", "loads this fabfile (default: fabfile)"),
    Flag(
        "-T/--command-timeout",
        instead="set `build.timeout_seconds` for steps on the build server, `wait` for hosts",
        for_own_tasks=True,
    ),
    Flag("--complete", "completes a command line; `deploytool completion SHELL` prints what shells need"),
    Flag("-f/--config", "reads this file as Fabric's configuration (deploytool's settings are in config/)"),
    Flag("-t/--connect-timeout", "seconds for the connection to the build server, and for each jump host"),
    Flag("-d/--debug", "shows what Fabric and Invoke do, on stderr"),
    Flag("-R/--dry", "turns `deploy` into `plan`; commands that only read run, others are refused"),
    Flag(
        "-e/--echo",
        instead="`plan` shows what a deploy would do, and the output of steps is in `logs/` on the build server",
        for_own_tasks=True,
    ),
    Flag("-h/--help", "shows this help; `fab --help deploy` shows a command's"),
    Flag(
        "--hide",
        instead="redirect stderr, which has the progress; the result is on stdout",
        for_own_tasks=True,
    ),
    Flag(
        "-H/--hosts",
        instead="deploytool finds its hosts in the settings: set `roles.<role>.hosts`, or choose some with "
        "`deploy --nodes`",
    ),
    Flag("-i/--identity", "this SSH key, tried first, for the build server and jump hosts; may be repeated"),
    Flag("-l/--list", "lists environments and commands"),
    Flag("--list-agent-keys", "lists the keys in ssh-agent"),
    Flag("-D/--list-depth", "limits `--list` to so many levels of collections"),
    Flag("-F/--list-format", "the format of `--list`: flat, nested or json"),
    Flag("--no-dedupe", "changes nothing: Fabric runs every task as often as you type it"),
    Flag("--print-completion-script", "prints Invoke's script; `deploytool completion SHELL` also completes releases"),
    Flag("--prompt-for-login-password", "asks for the password of the build server and jump hosts"),
    Flag("--prompt-for-passphrase", "asks for the passphrase of your SSH key"),
    Flag(
        "--prompt-for-sudo-password",
        instead="allow that one command with NOPASSWD in sudoers, for the user of the build server or app server",
        for_own_tasks=True,
    ),
    Flag("-p/--pty", instead="steps run without a terminal: use the program's own flag for that", for_own_tasks=True),
    Flag("-r/--search-root", "looks for the fabfile, and `config/` beside it, from this directory upwards"),
    Flag("-S/--ssh-config", "this SSH configuration instead of `build.ssh_config`, for this run"),
    Flag("-V/--version", "shows the versions of deploytool, Fabric, Paramiko and Invoke"),
    Flag(
        "-w/--warn-only",
        instead="a step that fails ends the command: write `COMMAND || true` if it may fail",
        for_own_tasks=True,
    ),
    Flag("--write-pyc", "lets Python keep compiled modules of this machine's code"),
)
BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}

#: Only for the connection to the build server.
CONNECTING = ("ssh-config", "identity", "connect-timeout", "prompt-for-login-password", "prompt-for-passphrase")

#: With --dry: the writing commands, and what to use instead. `deploy` becomes `plan`; all others only read.
WRITING: Mapping[str, str] = {
    "build": "`fab {} plan --branch NAME` shows whether a release would be built or reused",
    "rollback": "`fab {} releases` lists what it would choose from",
    "promote": "`fab {} status` shows which hosts it would deploy to",
    "migrate": "`fab {} status` shows which migrations are due",
    "mark": "`fab {} releases` shows the marks",
    "cleanup": "`store.keep_releases` and `fab {} releases` show what stays",
    "check": "it writes probes to the store and to Consul and removes them again; `fab {} plan` writes nothing",
    "freeze": "`fab {} status` shows whether it is frozen",
    "thaw": "`fab {} status` shows whether it is frozen",
    "unlock": "`fab {} status` shows who holds the lock",
}


def refusal(given: Mapping[str, Any], ours: Sequence[str], own: Sequence[str], environment: str) -> UsageError | None:
    """Why a line with these flags can't be run; None if it can.

    `given` are the values of the flags that were typed, by name; `ours` the commands of deploytool in the line, `own`
    the other tasks.
    """
    if not ours:
        return None
    for flag in (flag for flag in FLAGS if flag.name in given and flag.instead):
        if not (flag.for_own_tasks and own):
            return UsageError(f"{flag.typed} does not work with `{ours[0]}`: {flag.instead}")
    for name in ("list-depth", "list-format"):
        if name in given:
            return UsageError(f"{BY_NAME[name].typed} needs --list")
    if "connect-timeout" in given and given["connect-timeout"] < 1:
        return UsageError("-t/--connect-timeout must be at least 1 second")
    prompts = [BY_NAME[name].typed for name in given if name.startswith("prompt-for-")]
    if prompts and "debug" in given:
        return UsageError(
            f"-d/--debug and {prompts[0]} can't be used together: Fabric's debug output shows the password"
        )
    if "dry" in given:
        return next((error for name in ours if (error := dry_refusal(name, environment, "--dry"))), None)
    return None


def dry_refusal(command: str, environment: str, because: str) -> UsageError | None:
    """Why a command can't run dry, which is asked for by `because`; None if it can."""
    instead = WRITING.get(command)
    if instead is None:
        return None
    return UsageError(f"`{command}` can't run dry ({because}): {instead.format(environment)}")


def for_others(given: Mapping[str, Any], own: Sequence[str]) -> str | None:
    """The sentence that says which flags of a mixed line are only for the user's own tasks; None if none are."""
    flags = [flag.typed for flag in FLAGS if flag.name in given and flag.for_own_tasks]
    return f"{', '.join(flags)}: only for {', '.join(own)}" if flags else None


def help_lines() -> list[str]:
    """What `fab` shows below its own help: which of these flags work, and which are refused."""
    rows = {flag.typed: flag.does for flag in FLAGS if flag.does}
    refused = [flag.typed for flag in FLAGS if not flag.does]
    width = max(len(typed) for typed in rows)
    return [
        "With the commands of deploytool:",
        "",
        *(f"  {typed:<{width}}   {does}" for typed, does in rows.items()),
        "",
        "Only for your own tasks; the commands of deploytool refuse them:",
        "",
        *(f"  {', '.join(refused[at : at + 4])}" for at in range(0, len(refused), 4)),
    ]
