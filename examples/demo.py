"""`make demo`: the main job on this machine, without a server, without root. `make demo-down` ends it.

It types what a user would: `fab local deploy`. The first run deploys the shop's first commit to three pretend hosts.
Each further run commits a change that needs a new setting, which one host lacks: that host goes back to the old
release, and the deploy says so and ends with exit code 8. Then the host gets its setting, and the very command that was
printed puts it right.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from deploytool.playground.configs import dotenv

PROJECT = Path(__file__).resolve().parent.parent
SHOP = PROJECT / "examples" / "shop"
VAR = PROJECT / "var"
REPOSITORY = VAR / "demo" / "repository"
HOSTS = {"app1": ("web",), "app2": ("web",), "app3": ("web", "batch")}
FORGETFUL = "app2"
PATIENCE_SECONDS = 120


def say(text: str = "") -> None:
    print(text, flush=True)


def headline(text: str) -> None:
    say()
    say(f"=== {text}")
    say()


# --- what an administrator and a developer would have made


def home(host: str, role: str) -> Path:
    """`deploy_to` of a role on a pretend host."""
    return VAR / "hosts" / host / "shop" / role


def env_of(host: str, role: str) -> Path:
    return home(host, role) / "shared" / ".env"


def read_env(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def write_env(path: Path, values: dict[str, str]) -> None:
    """Write these values; whatever else was written there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dotenv(path.read_text() if path.exists() else "", values))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def prepare() -> None:
    """The repository with its first commit, and `.env` on each pretend host and on the build server."""
    database = str(VAR / "demo" / "shop.sqlite3")
    shared = VAR / "build" / "shop" / "shared" / "local" / ".env"
    write_env(shared, {"DATABASE": database})
    for host, roles in HOSTS.items():
        for role in roles:
            path = env_of(host, role)
            values = read_env(path)
            write_env(path, {"PORT": values.get("PORT") or free_port(), "DATABASE": database})
    if not (REPOSITORY / ".git").is_dir():
        shutil.rmtree(REPOSITORY, ignore_errors=True)
        shutil.copytree(SHOP, REPOSITORY, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "ruff.toml"))
        git("init", "--quiet", "--initial-branch=main")
        commit("The shop")


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=Demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false", *arguments],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def commit(message: str) -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", message)


def develop() -> int:
    """A commit that needs one more setting, GREETING_<number>; returns the number."""
    number = int(git("rev-list", "--count", "HEAD"))
    name = f"GREETING_{number}"
    settings = REPOSITORY / "shop" / "environment.py"
    with settings.open("a") as file:
        file.write(f'\n{name} = VALUES["{name}"]\n')
    commit(f"The shop needs {name}")
    shared = VAR / "build" / "shop" / "shared" / "local" / ".env"
    give(shared, number)
    for host, roles in HOSTS.items():
        for role in roles:
            if host != FORGETFUL:
                give(env_of(host, role), number)
    return number


def give(path: Path, number: int) -> None:
    """All settings that the shop needs by now: an earlier demo may have been interrupted."""
    write_env(path, {f"GREETING_{each}": "hello" for each in range(1, number + 1)})


# --- what an operator types, and sees


def fab(*arguments: str) -> int:
    """Run `fab` as typed, in view; returns its exit code."""
    say(f"$ .venv/bin/fab {' '.join(arguments)}")
    program = Path(sys.executable).parent / "fab"
    process = subprocess.Popen([str(program), *arguments], cwd=PROJECT, stdin=subprocess.DEVNULL)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # It got the Ctrl-C as well, and has things to put in order.
        process.wait()
        raise
    say(f"(exit code {code})")
    if code == 130:
        raise KeyboardInterrupt
    return code


def answer(host: str) -> str:
    """The revision that a host's web server says it runs."""
    port = read_env(env_of(host, "web"))["PORT"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
            return str(response.read().decode().strip())
    except OSError as error:
        return f"no answer: {error}"


def show() -> dict[str, str]:
    """Ask every host; returns what they said."""
    answers = {host: answer(host) for host in HOSTS}
    for host, said in answers.items():
        port = read_env(env_of(host, "web"))["PORT"]
        say(f"  {host}  http://127.0.0.1:{port}/  serves {said}")
    return answers


def demo() -> int:
    begin = time.monotonic()
    again = (VAR / "store").exists()
    prepare()
    if not again:
        headline("A first deploy: build once, publish, three pretend hosts pull, each proves what it serves")
        if fab("local", "deploy") != 0:
            return 1
    else:
        if answer(FORGETFUL).startswith("no answer"):
            headline("Starting the servers that `make demo-down` stopped")
            servers("start")
        needed = develop()
        old = answer(FORGETFUL)
        headline(f"A further commit, which needs GREETING_{needed}: {FORGETFUL} has no such setting")
        code = fab("local", "deploy")
        say()
        say(f"That is a failed deploy: exit code 8, and {FORGETFUL} serves the old release again, proven:")
        answers = show()
        if code != 8 or answers[FORGETFUL] != old:
            say(f"This is not what was to be shown: {FORGETFUL} should serve {old}, and the exit code should be 8.")
            return 1
        headline(f"{FORGETFUL} gets its setting; the command that was printed puts it right")
        give(env_of(FORGETFUL, "web"), needed)
        release = (home("app1", "web") / "current").resolve().name
        if fab("local", "deploy", "--release", release, "--nodes", FORGETFUL) != 0:
            return 1
    revision = git("rev-parse", "HEAD")
    headline(f"Every host answers with the commit {revision[:10]}")
    answers = show()
    if set(answers.values()) != {revision}:
        say("This is not what was to be shown: every host should serve that commit.")
        return 1
    say()
    say(f"That took {time.monotonic() - begin:.0f} s. Look at:")
    say("  var/hosts/app1/shop/web/         a pretend host: releases/, shared/, current")
    say("  var/store/releases/              archives, records and manifests")
    say("  var/consul/deploytool/shop/      what the hosts reported")
    say("  var/demo/repository              commit something, then: .venv/bin/fab local deploy")
    say()
    if not again:
        say("Run `make demo` again to see a further commit, and a host that fails.")
    say("`make demo-down` stops it all.")
    return 0


def servers(do: str) -> None:
    """`start` or `stop` what runs on the pretend hosts, each by its own script."""
    for host, roles in HOSTS.items():
        for role in roles:
            program = home(host, role) / "current" / "bin" / ("web" if role == "web" else "worker")
            if program.exists():
                done = subprocess.run([str(program), do], stdin=subprocess.DEVNULL, cwd="/")
                say(f"{host} ({role}): {do}{'' if done.returncode == 0 else ' FAILED'}")


def is_at_work(host: str, role: str) -> bool:
    """Whether a receiver is still at a deployment there: it would start what we stop."""
    try:
        holder = os.readlink(home(host, role) / ".deploytool" / "lock")
    except OSError:
        return False
    return Path("/proc", holder.partition(":")[0]).exists()


def down() -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(is_at_work(host, role) for host, roles in HOSTS.items() for role in roles):
        if time.monotonic() > deadline:
            say("A pretend host is still at a deployment; run `make demo-down` again when it has ended.")
            break
        time.sleep(0.2)
    servers("stop")
    say("What was deployed stays in var/; `rm -r var` removes it.")


def main() -> int:
    if sys.argv[1:] == ["down"]:
        down()
        return 0
    os.environ.pop("MAKEFLAGS", None)
    try:
        return demo()
    except KeyboardInterrupt:
        headline("Interrupted: stopping what runs")
        down()
        return 130


if __name__ == "__main__":
    sys.exit(main())
