"""The job files in examples/ci, as their CI systems run them: each step's script in a shell of its own, with the CI's
variables, against the playground."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploytool import __version__
from deploytool.playground.parts import CHECKOUT, programs_directory
from deploytool.playground.playground import Playground
from tests.support.github_commands import commands, page, read_command
from tests.support.releases import STAGES, Stages, record_of

EXAMPLES = CHECKOUT / "examples" / "ci"


@dataclass(frozen=True, slots=True)
class Step:
    """How a step, or a job's script, ended."""

    code: int
    log: str


class Machine:
    """Where jobs run: a home of its own, and nothing but what the job gets from its CI system."""

    def __init__(self, stages: Stages, directory: Path) -> None:
        self.stages = stages
        self.home = directory / "home"
        self.home.mkdir()
        self.temporary = directory / "runner"
        self.temporary.mkdir()
        self.key = stages.playground.identity_file.read_text()
        self.known_hosts = stages.playground.known_hosts.read_text()
        for settings in stages.each.values():
            # As on a machine of a CI system: only ~/.ssh tells.
            del settings["build"]["ssh_config"]
        stages.write_all()
        # It is installed already, so pip looks at no file of it.
        locked = f"deploytool=={__version__} --hash=sha256:{'0' * 64}\n"
        (stages.directory / "requirements-deploy.txt").write_text(locked)

    @property
    def environment(self) -> dict[str, str]:
        bin_directory = Path(sys.executable).parent
        return {
            "HOME": str(self.home),
            "PATH": f"{bin_directory}:/usr/local/bin:/usr/bin:/bin:{programs_directory()}",
            "LANG": "C.UTF-8",
            "CI": "true",
            # What is installed already is enough; a test asks nobody else.
            "PIP_NO_INDEX": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def start(self, command: list[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=self.stages.directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def document(self) -> dict[str, Any]:
        """The artifact."""
        content = json.loads((self.stages.directory / "deploy.json").read_text())
        assert isinstance(content, dict)
        return content


def ended(process: "subprocess.Popen[bytes]", log: Path) -> Step:
    return Step(process.wait(timeout=180), log.read_text())


Meanwhile = Callable[["subprocess.Popen[bytes]", Path], None]


@dataclass
class GitHub:
    """GitHub's runner, as far as `run:` steps go."""

    machine: Machine
    secrets: dict[str, str]
    #: what earlier steps have put into $GITHUB_ENV
    exported: dict[str, str] = field(default_factory=dict)
    #: job → what it hands on to those that need it
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def job(self, name: str, meanwhile: Meanwhile | None = None) -> tuple[dict[str, Step], str]:
        """Run a job; its steps that were run, and its summary. `meanwhile` is given the process of the step Deploy."""
        job = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"][name]
        done: dict[str, Step] = {}
        handed_on: dict[str, str] = {}
        summary = self.machine.temporary / f"summary-{name}.md"
        for number, step in enumerate(step for step in job["steps"] if "run" in step):
            failed = any(each.code for each in done.values())
            condition = step.get("if", "success()")
            assert condition in ("success()", "always() && env.SSH_AGENT_PID != ''")
            if failed if condition == "success()" else not self.exported.get("SSH_AGENT_PID"):
                continue
            script = self.machine.temporary / f"{number}.sh"
            script.write_text(step["run"])
            exports, output = (self.machine.temporary / f"{number}.{suffix}" for suffix in ("env", "output"))
            exports.touch()
            output.touch()
            environment = {
                **self.machine.environment,
                "GITHUB_ACTIONS": "true",
                "GITHUB_ENV": str(exports),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "acme/stages",
                "GITHUB_RUN_ID": "7",
                "GITHUB_RUN_ATTEMPT": "1",
                "GITHUB_SHA": self.machine.stages.repository.git("rev-parse", "HEAD"),
                **self.exported,
                **{name: self._value(text) for name, text in step.get("env", {}).items()},
            }
            log = self.machine.temporary / f"{number}.log"
            # The shell of a step that names none.
            process = self.machine.start(["bash", "-e", str(script)], environment, log)
            if step["name"] == "Deploy" and meanwhile is not None:
                meanwhile(process, log)
            done[step["name"]] = ended(process, log)
            self.exported |= dict(line.split("=", 1) for line in exports.read_text().splitlines())
            for line in output.read_text().splitlines():
                key, _, value = line.partition("=")
                handed_on[f"${{{{ steps.{step['id']}.outputs.{key} }}}}"] = value
        if not any(each.code for each in done.values()):
            self.outputs[name] = {key: handed_on[text] for key, text in job.get("outputs", {}).items()}
        return done, summary.read_text() if summary.exists() else ""

    def _value(self, text: str) -> str:
        if needed := re.fullmatch(r"\$\{\{ needs\.(\w+)\.outputs\.(\w+) \}\}", text):
            return self.outputs[needed[1]][needed[2]]
        found = re.fullmatch(r"\$\{\{ (?:secrets|vars)\.(\w+) \}\}", text)
        assert found is not None, text
        return self.secrets[found[1]]

    def forget(self) -> None:
        """Whatever became of the job: no agent outlives it."""
        if pid := self.exported.get("SSH_AGENT_PID"):
            try:
                os.kill(int(pid), signal.SIGTERM)
            except ProcessLookupError:
                return


@pytest.fixture
def machine(playground: Playground, tmp_path: Path) -> Machine:
    playground.add_application(STAGES)
    return Machine(Stages(playground, tmp_path), tmp_path)


@pytest.fixture
def github(machine: Machine) -> Iterator[GitHub]:
    # A secret that was pasted on Windows.
    secrets = {"DEPLOY_SSH_KEY": machine.key.replace("\n", "\r\n"), "DEPLOY_KNOWN_HOSTS": machine.known_hosts.strip()}
    made = GitHub(machine, secrets)
    yield made
    made.forget()


def gitlab_job(machine: Machine, name: str, meanwhile: Meanwhile | None = None) -> Step:
    """Run a job's script as GitLab's runner does: all its lines in one bash."""
    jobs = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())
    job = {**jobs[jobs[name]["extends"]], **jobs[name]}
    files = {"DEPLOY_SSH_KEY": machine.key, "DEPLOY_KNOWN_HOSTS": machine.known_hosts}
    for variable, content in files.items():
        (machine.temporary / variable).write_text(content)
    # Of jobs that this one needs.
    variables = machine.stages.directory / "release.env"
    handed_on = variables.read_text().splitlines() if "needs" in job else []
    environment = {
        **machine.environment,
        "GITLAB_CI": "true",
        **dict(line.split("=", 1) for line in handed_on),
        "CI_JOB_URL": f"https://gitlab.example.com/acme/stages/-/jobs/{name}",
        "CI_COMMIT_SHA": machine.stages.repository.git("rev-parse", "HEAD"),
        **{variable: str(machine.temporary / variable) for variable in files},
    }
    script = machine.temporary / "job.sh"
    script.write_text("set -eo pipefail\n" + "".join(f"{line}\n" for line in (*job["before_script"], *job["script"])))
    log = machine.temporary / "job.log"
    process = machine.start(["bash", str(script)], environment, log)
    if meanwhile is not None:
        meanwhile(process, log)
    return ended(process, log)


def waits_in_migration(stages: Stages) -> Path:
    """From now on migrations do not end by themselves; returns the file that tells that one has begun."""
    begun = stages.directory / "migrating"
    for settings in stages.each.values():
        settings["build"]["migrate"] = [f"touch {begun}; sleep 300"]
    stages.write_all()
    return begun


def cut_off_at(begun: Path, send: Callable[["subprocess.Popen[bytes]"], None]) -> Meanwhile:
    def act(process: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + 120
        while not begun.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        send(process)

    return act


def served(stages: Stages, environment: str, host: str) -> str | None:
    link = stages.playground.deploy_to_outside(host, f"web-{environment}", STAGES.name) / "current"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else None


# --- GitHub Actions


def test_github_deploys_to_staging_and_then_the_same_to_production(github: GitHub) -> None:
    stages = github.machine.stages
    revision = stages.repository.commit({"VERSION": "merged"})
    done, summary = github.job("staging")
    assert {name: step.code for name, step in done.items()} == dict.fromkeys(done, 0), done
    names = ("Install deploytool", "Load the key and the host keys", "Deploy", "Forget the key", "Pass the release on")
    assert tuple(done) == names
    built = github.machine.document()
    assert (built["revision"], built["exit_code"]) == (revision, 0)
    assert not [path for path in (github.machine.home / ".ssh").iterdir() if path.name != "known_hosts"]
    assert not commands(done["Deploy"].log)
    found = page(summary)
    assert found[0] == ("h3", "fab staging deploy")
    cells = [words.strip() for tag, words in found if tag == "td"]
    assert cells[:4] == ["web", "app1", "verified", "verified"]
    record = record_of(stages, built["deployment"], "staging")
    assert record["ci_job"] == "https://github.com/acme/stages/actions/runs/7/attempts/1"

    of_this_run = github.outputs["staging"]
    stages.repository.commit({"VERSION": "merged while the first run waited for its approval"})
    assert github.job("staging")[0]["Deploy"].code == 0
    assert github.outputs["staging"] != of_this_run
    github.outputs["staging"] = of_this_run
    done, summary = github.job("production")
    assert done["Deploy"].code == 0, done["Deploy"].log
    document = github.machine.document()
    assert (document["release"], document["reused"]) == (built["release"], True)
    assert {host["verdict"] for host in document["hosts"]} == {"verified"}
    assert "on all 2 hosts of production" in dict(page(summary))["pre"]


def test_github_shows_failures_as_annotations_and_no_host_can_forge_one(github: GitHub) -> None:
    stages = github.machine.stages
    stages.repository.commit({"VERSION": "breaks"})
    said = [
        "::set-output name=approved::true",
        "   ::error::forged",
        "##[add-mask]e",
        "50% of <b>it</b> | broke, here: x",
    ]
    stages.each["staging"]["roles"]["web"]["hooks"] = {"post": ["cat SAID; exit 1"]}
    stages.repository.commit({"SAID": "\n".join(("It says:", *said)) + "\n"})
    stages.write_all()
    done, summary = github.job("staging")
    assert done["Deploy"].code == 8, done["Deploy"].log
    document = github.machine.document()
    assert document["error"]["kind"] == "fleet"
    (host,) = document["hosts"]
    assert {f"  | {line}" for line in said} <= set(host["log"]), "the artifact tells it as it was"
    assert not commands((stages.directory / "deploy.json").read_text()), "whoever shows the artifact in a log is safe"
    obeyed = [read_command(line) for line in commands(done["Deploy"].log)]
    assert [properties["title"] for properties, _ in obeyed] == [
        "fab staging deploy: exit code 8",
        "app1 (web) failed",
    ]
    assert {f"  | {line}" for line in said} <= set(obeyed[1][1].split("\n"))
    blocks = [words for tag, words in page(summary) if tag == "pre"]
    assert "fab staging deploy --release" in blocks[0]
    assert said[3] in blocks[1]


def test_github_without_json_is_as_safe(github: GitHub) -> None:
    machine = github.machine
    stages = machine.stages
    said = ["::stop-commands::x", "##[group]y"]
    stages.each["staging"]["roles"]["web"]["hooks"] = {"post": ["cat SAID; exit 1"]}
    stages.repository.commit({"SAID": "\n".join(("It says:", *said)) + "\n"}, "::error::in a commit ##[error]too")
    for settings in stages.each.values():
        settings["build"]["ssh_config"] = str(stages.playground.ssh_config)
    stages.write_all()
    result = stages.fab("staging", "deploy", env={"GITHUB_ACTIONS": "true"})
    assert result.code == 8
    assert "# #[group]y" in result.out
    assert not commands(result.out)
    assert [read_command(line)[0]["title"] for line in commands(result.err)] == [
        "fab staging deploy: exit code 8",
        "app1 (web) failed",
    ]
    for arguments in (("staging", "plan"), ("staging", "status"), ("staging", "releases"), ("nowhere", "deploy")):
        result = stages.fab(*arguments, env={"GITHUB_ACTIONS": "true"})
        assert not commands(result.out)
        assert len(commands(result.err)) == (result.code != 0)


def test_cancelled_github_run_switches_no_host_and_says_so(github: GitHub) -> None:
    stages = github.machine.stages
    assert github.job("staging")[0]["Deploy"].code == 0
    before = served(stages, "staging", "app1")
    stages.repository.commit({"VERSION": "cancelled"})
    begun = waits_in_migration(stages)
    done, summary = github.job(
        # To the step's own process, and to no other.
        "staging",
        cut_off_at(begun, lambda process: process.send_signal(signal.SIGINT)),
    )
    assert done["Deploy"].code == 130, done["Deploy"].log
    assert done["Forget the key"].code == 0
    document = github.machine.document()
    assert document["error"]["kind"] == "interrupted"
    assert served(stages, "staging", "app1") == before
    (told,) = [read_command(line) for line in commands(done["Deploy"].log)]
    assert told[0]["title"] == "fab staging deploy: exit code 130"
    assert told[1].endswith("; no host was switched")
    assert ("h3", "fab staging deploy: exit code 130") in page(summary)


def test_github_run_does_not_trust_an_unknown_build_server(github: GitHub) -> None:
    github.secrets["DEPLOY_KNOWN_HOSTS"] = "# nothing"
    done, _ = github.job("staging")
    assert done["Deploy"].code == 5, done["Deploy"].log
    (told,) = [read_command(line) for line in commands(done["Deploy"].log)]
    assert told[0]["title"] == "fab staging deploy: exit code 5"
    assert "known_hosts" in told[1]
    assert github.machine.document()["error"]["kind"] == "connection"


# --- GitLab


def test_gitlab_deploys_to_staging_and_then_the_same_to_production(machine: Machine) -> None:
    stages = machine.stages
    revision = stages.repository.commit({"VERSION": "merged in GitLab"})
    step = gitlab_job(machine, "staging")
    assert step.code == 0, step.log
    built = machine.document()
    assert (built["revision"], built["exit_code"]) == (revision, 0)
    assert (machine.home / ".ssh/id_ed25519").stat().st_mode & 0o777 == 0o600
    record = record_of(stages, built["deployment"], "staging")
    assert record["ci_job"] == "https://gitlab.example.com/acme/stages/-/jobs/staging"
    step = gitlab_job(machine, "production")
    assert step.code == 0, step.log
    assert machine.document()["release"] == built["release"]
    assert not commands(step.log), "what only GitHub understands is told to GitHub only"


def test_cancelled_gitlab_job_switches_no_host_and_says_so(machine: Machine) -> None:
    stages = machine.stages
    assert gitlab_job(machine, "staging").code == 0
    before = served(stages, "staging", "app1")
    stages.repository.commit({"VERSION": "cancelled in GitLab"})
    begun = waits_in_migration(stages)
    # To all processes of the job.
    step = gitlab_job(machine, "staging", cut_off_at(begun, lambda process: os.killpg(process.pid, signal.SIGTERM)))
    assert step.code != 0
    deadline = time.monotonic() + 60
    # bash is gone at once, and fab takes its leave.
    while not (machine.stages.directory / "deploy.json").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert machine.document()["error"]["kind"] == "interrupted"
    assert served(stages, "staging", "app1") == before
