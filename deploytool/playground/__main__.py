"""`python -m deploytool.playground up|down|status|config`: the playground for people."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploytool.errors import DeployError, UsageError
from deploytool.playground.parts import (
    CHECKERS,
    CHECKOUT,
    PROGRAMS,
    find_or_install,
    find_or_install_checker,
    find_or_install_program,
    versions,
)
from deploytool.playground.playground import (
    DEFAULT_ROLES,
    ENVIRONMENT,
    HOSTS,
    SHOP,
    Application,
    Playground,
    PlaygroundError,
    PlaygroundRole,
    write_settings,
)
from deploytool.settings.files import NAME, NAME_RULE, RESERVED
from deploytool.streams import outlast_readers

#: How often the hosts catch up; a real host's timer has a minute.
CATCH_UP_SECONDS = 10
DEFAULT_STATE = CHECKOUT / "var" / "playground"


def fab_command() -> str:
    """What to type for `fab`: as it is if PATH has it, else the one beside this Python."""
    beside = Path(sys.executable).parent / "fab"
    if shutil.which("fab") or not beside.exists():
        return "fab"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def up(state: Path, project: Path) -> None:
    """Start a playground that stays until `down`, and write the project's `config/playground.yml`."""
    playground = Playground(state, catch_up_seconds=CATCH_UP_SECONDS, say=_say)
    config = project / "config"
    if not config.is_dir():
        raise UsageError(
            f"{project} has no config directory, so config/playground.yml can't be written.",
            hint="run this in the directory of a deploytool project",
        )
    playground.start(tied=False)
    try:
        kept = write_settings(config / "playground.yml", playground.settings_text())
    except OSError:
        playground.stop()
        raise
    assert playground.parts is not None
    for name, version in versions(playground.parts).items():
        print(f"{name:<10} {version}")
    print()
    print("\n".join(description(playground)))
    print()
    if kept is not None:
        print(f"Your old config/playground.yml is now {kept.relative_to(project)}.")
    print("Written: config/playground.yml. Next:")
    print()
    print(f"    {fab_command()} playground deploy")
    for line in _curl_lines(playground, SHOP):
        print(f"    {line}")
    print("    make playground-down")


def _curl_lines(playground: Playground, application: Application) -> list[str]:
    return [
        f"curl http://127.0.0.1:{playground.app_port(host, 'web', application.name, application.environment)}/"
        f"    # {host}"
        for role in application.roles
        if role.name == "web"
        for host in role.hosts
    ]


def description(playground: Playground) -> list[str]:
    """What runs where, one line each."""
    lines = [
        f"build server   ssh -F {shlex.quote(str(playground.ssh_config))} playground",
        f"S3             {playground.endpoint_url}, bucket {playground.bucket}",
        f"Consul         {playground.consul_address()}",
    ]
    for host in playground.hosts:
        roles = [
            _role_line(playground, application, role.name, host)
            for application in playground.applications
            for role in application.roles
            if host in role.hosts
        ]
        lines.append(f"{host:<14} {', '.join(roles)}; {shlex.quote(str(playground.host_directory(host)))}")
    lines.append(f"repository     {shlex.quote(str(playground.repository))}")
    return lines


def _role_line(playground: Playground, application: Application, role: str, host: str) -> str:
    where = "" if application.environment == ENVIRONMENT else f" in {application.environment}"
    port = playground.app_port(host, role, application.name, application.environment)
    return f"{application.name}/{role}{where} on port {port}"


def down(state: Path) -> int:
    """Stop the playground and prove that nothing is left; 1 if something is."""
    try:
        playground = Playground.attach(state)
    except PlaygroundError:
        print(f"No playground is running in {state}.")
        return 0
    left = playground.stop()
    for sentence in left:
        print(sentence, file=sys.stderr)
    if left:
        return 1
    print(f"The playground is down: its processes have ended and its {len(playground.ports)} ports are free.")
    return 0


def status(state: Path) -> int:
    """Say what runs where; 1 if it is not running."""
    playground = Playground.attach(state)
    if not playground.is_running():
        print(f"The playground in {state} is down.")
        return 1
    print("\n".join(description(playground)))
    if not playground.sees_all_nodes():
        print("Consul reports unhealthy hosts.")
    return 0


def config(state: Path, application: Application, repository: Path, write: Path | None) -> None:
    """Prepare the running playground for another application or environment, and give its `<environment>.yml`."""
    if application.name == SHOP.name and application.environment == SHOP.environment and application != SHOP:
        raise UsageError(
            f"--application {SHOP.name}: the playground's own application has this name.", hint="choose another name"
        )
    if write is not None and not write.parent.is_dir():
        raise UsageError(
            f"--write {write}: there is no directory {write.parent}.", hint="create it, or choose another place"
        )
    source = whole_repository(repository)
    playground = Playground.attach(state)
    if not playground.is_running():
        raise PlaygroundError(f"The playground in {state} is down.", hint="start it: make playground")
    if application != SHOP:
        playground.add_application(application)
        for sentence in playground.other_ports(application):
            _say(sentence)
    text = playground.settings_text(application, source)
    if write is None:
        print(text, end="")
        return
    done = "Replaced" if write.exists() else "Written"
    kept = write_settings(write, text)
    if kept is not None:
        print(f"Your old {write} is now {kept}.")
    print(f"{done}: {write}. Each host's shared/.env has its PORT and BIND: add .env to `linked_files`. Next:")
    print()
    print(f"    {fab_command()} {application.environment} deploy")
    for line in _curl_lines(playground, application):
        print(f"    {line}")


def whole_repository(path: Path) -> Path:
    """The path of a git repository, absolute. UsageError if it is something else, or a directory within one."""
    directory = path.resolve()
    if not directory.is_dir():
        raise UsageError(f"--repository {path}: there is no such directory")
    # Without those with which git itself calls hooks.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(directory), "rev-parse", "--show-prefix"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise PlaygroundError(f"The playground needs git: {error.strerror}.", hint="install git") from error
    prefix = done.stdout.strip().rstrip("/")
    if done.returncode != 0:
        raise UsageError(
            f"--repository {path} is not a git repository",
            tail=done.stderr.splitlines()[-4:],
            hint="releases are built from what is committed: run `git init`, `git add` and `git commit` there",
        )
    if prefix:
        top = str(directory).removesuffix(f"/{prefix}")
        raise UsageError(
            f"--repository {path} is a subdirectory of the git repository {top}",
            hint=f"write `--repository {shlex.quote(top)}`, and `subdirectory: {prefix}` in config/deploy.yml",
        )
    return directory


def application_of(
    name: str, roles: Sequence[str], environment: str | None, hosts: str | None, write: Path | None
) -> Application:
    """The application that the options of `config` mean; UsageError if they mean none."""
    if not NAME.fullmatch(name):
        raise UsageError(f"--application {name} is not a valid name: a name {NAME_RULE}.")
    meant = environment or (write.stem if write else ENVIRONMENT)
    if not NAME.fullmatch(meant) or meant.replace("_", "-") in RESERVED:
        why = f"`{meant}` is a command of fab" if NAME.fullmatch(meant) else f"a name {NAME_RULE}"
        raise UsageError(
            f"{meant} can't be an environment: {why}.",
            hint="for instance --environment staging, or --write config/staging.yml",
        )
    if write and write.name != f"{meant}.yml":
        # Announced to one environment, heard in another: a deploy would wait for its hosts in vain.
        raise UsageError(
            f"--write {write} is not the file of the environment {meant}: the file's name is the environment.",
            hint=f"use --write config/{meant}.yml",
        )
    chosen = None if hosts is None else _hosts(hosts, f"--hosts {hosts}")
    given = roles or [role.name for role in DEFAULT_ROLES]
    return Application(name, tuple(_role(text, chosen) for text in given), meant)


def _role(text: str, chosen: tuple[str, ...] | None) -> PlaygroundRole:
    """`web`, or `web=app1,app2`. Without hosts: the chosen ones, else those of the sample app's role of that name,
    else all."""
    name, separator, listed = text.partition("=")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--role {text} is not a valid role: a name {NAME_RULE}.",
            hint="for instance --role web or --role web=app1,app2",
        )
    usual = next((role.hosts for role in DEFAULT_ROLES if role.name == name), HOSTS)
    return PlaygroundRole(name, _hosts(listed, f"--role {text}") if separator else chosen or usual)


def _hosts(listed: str, option: str) -> tuple[str, ...]:
    """`app1,app2`, as `option` says it."""
    hosts = tuple(dict.fromkeys(host.strip() for host in listed.split(",")))
    unknown = [host or "(none)" for host in hosts if host not in HOSTS]
    if unknown:
        raise UsageError(
            f"{option}: unknown hosts: {', '.join(unknown)}.",
            hint=f"the hosts are {', '.join(HOSTS)}; write them as {','.join(HOSTS[:2])}",
        )
    return hosts


def outlive(state: Path) -> None:
    """Wait until whoever started this is gone, then stop the playground. Started by `Playground.start`."""
    sys.stdin.buffer.read()
    try:
        playground = Playground.attach(state)
    except PlaygroundError:
        return
    playground.stop()


def main(arguments: Sequence[str]) -> int:
    outlast_readers()
    parser = argparse.ArgumentParser(
        prog="python -m deploytool.playground",
        description="The real sshd, S3 server, Consul cluster and stretcher on this machine's loopback.",
    )
    given = os.environ.get("DEPLOYTOOL_PLAYGROUND")
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|down|status|config|parts")

    def command(name: str, help_text: str | None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_text) if help_text else commands.add_parser(name)
        added.add_argument(
            "--state",
            type=Path,
            default=Path(given) if given else DEFAULT_STATE,
            help="the playground's directory (default: $DEPLOYTOOL_PLAYGROUND, else var/playground of the checkout)",
        )
        return added

    starting = command("up", "start it, wait until it is ready, and write config/playground.yml")
    starting.add_argument("--project", type=Path, default=Path(), help="where config/ is (default: this directory)")
    command("down", "stop it, and check that no process or port is left")
    command("status", "show what runs where")
    another = command(
        "config", "add another application or environment: print its settings, and have the hosts watch its events"
    )
    another.add_argument("--application", required=True, metavar="NAME")
    another.add_argument("--repository", required=True, type=Path, metavar="PATH", help="its git repository")
    another.add_argument(
        "--role", action="append", default=[], metavar="NAME[=HOST,…]", help="its roles (default: web and batch)"
    )
    another.add_argument(
        "--environment", metavar="NAME", help="the environment (default: the name of the --write file, else playground)"
    )
    another.add_argument(
        "--hosts", metavar="HOST,…", help="the hosts of roles given without hosts (default: all; batch: app3)"
    )
    another.add_argument(
        "--write", type=Path, metavar="FILE", help="write the settings to this file instead of printing them"
    )
    command("parts", "install missing programs, and print their versions")
    command("outlive", None)

    options = parser.parse_args(arguments)
    state = options.state.resolve()
    try:
        match options.command:
            case "up":
                up(state, options.project)
            case "down":
                return down(state)
            case "status":
                return status(state)
            case "config":
                application = application_of(
                    options.application, options.role, options.environment, options.hosts, options.write
                )
                config(state, application, options.repository, options.write)
            case "parts":
                for name, version in versions(find_or_install(_say)).items():
                    print(f"{name:<10} {version}")
                for path in (
                    *(find_or_install_program(name, _say) for name in PROGRAMS),
                    *(find_or_install_checker(name, _say) for name in CHECKERS),
                ):
                    print(path)
            case "outlive":
                outlive(state)
    except DeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    if shutil.which("unshare") is None:
        sys.exit("The playground needs Linux and util-linux: the program `unshare` is not installed.")
    sys.exit(main(sys.argv[1:]))
