"""The same cases on every stretcher that can be had and on the built-in receiver, compared by what is on disk then.

stretcher 1.1.0 is taken as the playground takes it. The newest one can't be had by its module path everywhere: the
environment variable STRETCHER_NEWEST names its binary. The table at the end says which versions ran.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploytool import __version__
from deploytool.playground.parts import Parts, find_or_install, version
from deploytool.playground.playground import Playground
from tests.support.receiver_cases import CASES, TREE, hooks
from tests.support.receiver_world import (
    BUILT_IN,
    ORDINARY,
    SHM,
    Case,
    Outcome,
    Receiver,
    WebServer,
    directory,
    fifo,
    file,
    hard_link,
    pack,
    run,
)

NEWEST = "STRETCHER_NEWEST"


class Table:
    """Cases × receivers, printed at the end."""

    def __init__(self, receivers: tuple[Receiver, ...]) -> None:
        self.receivers = receivers
        self.rows: list[tuple[str, dict[str, str]]] = []

    def add(self, sentence: str, marks: dict[str, str]) -> None:
        self.rows.append((sentence, marks))

    def text(self) -> str:
        names = [receiver.name for receiver in self.receivers]
        headers = [f"{receiver.name}: {receiver.version}" for receiver in self.receivers]
        if "newest" not in names:
            headers.append(f"newest: did not run, since {NEWEST} names no binary")
        lines = ["", "Conformance of receivers", *(f"  {header}" for header in headers), ""]
        lines.append("  ".join(f"{name:8}" for name in names) + "  case")
        for sentence, marks in self.rows:
            cells = "  ".join(f"{marks.get(name, '–'):8}" for name in names)
            lines.append(f"{cells}  {sentence if len(sentence) < 100 else sentence[:99] + '…'}")
        same = sum(set(marks.values()) == {"same"} for _, marks in self.rows)
        lines.append(
            f"{same} of {len(self.rows)} cases: the same with all that ran; '–': not asked, its rule is another"
        )
        return "\n".join(lines)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return find_or_install(print)


@pytest.fixture(scope="module")
def receivers(parts: Parts) -> tuple[Receiver, ...]:
    """The real ones first, the newest of all first."""
    found = [Receiver("1.1.0", version("stretcher", parts.stretcher), (str(parts.stretcher),), parts.rsync)]
    if newest := os.environ.get(NEWEST):
        assert os.access(newest, os.X_OK), f"{NEWEST} names {newest}, which is no program"
        found.insert(0, Receiver("newest", version("stretcher", Path(newest)), (newest,), parts.rsync))
    return (*found, Receiver("built-in", f"deploytool {__version__}", BUILT_IN, parts.rsync))


@pytest.fixture(scope="module")
def table(receivers: tuple[Receiver, ...], request: pytest.FixtureRequest) -> Iterator[Table]:
    made = Table(receivers)
    yield made
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(made.text(), flush=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("receiver") / "world"


@pytest.fixture(scope="module")
def web(world: Path) -> Iterator[WebServer]:
    with WebServer(world) as server:
        yield server


def compare(
    case: Case,
    receivers: tuple[Receiver, ...],
    table: Table,
    world: Path,
    web: WebServer,
    extra: dict[str, str] | None = None,
) -> None:
    """Run `case` on each receiver that it holds for; each must do what the case says and the same as the others."""
    asked = [each for each in receivers if each.name == "built-in" or each.name in case.holds_for]
    outcomes: dict[str, Outcome] = {}
    marks: dict[str, str] = {}
    problems: list[str] = []
    try:
        for receiver in asked:
            marks[receiver.name] = "failed"
            outcome = run(case, receiver, world, web, extra)
            wrong = list(_unlike_the_case(case, outcome, world))
            first = next(iter(outcomes.values()), outcome)
            if wrong:
                marks[receiver.name] = "wrong"
            else:
                marks[receiver.name] = "same" if outcome.tree == first.tree else "differs"
            if outcome.tree != first.tree:
                wrong += [f"only {asked[0].name}: {line}" for line in sorted(set(first.tree) - set(outcome.tree))]
                wrong += [f"only {receiver.name}: {line}" for line in sorted(set(outcome.tree) - set(first.tree))]
            if wrong:
                problems += [f"{receiver.name} ({receiver.version}):", *wrong, "its log:", outcome.log[-3000:]]
            outcomes[receiver.name] = outcome
    finally:
        table.add(case.sentence, marks)
    assert not problems, "\n".join(problems)


def _unlike_the_case(case: Case, outcome: Outcome, world: Path) -> Iterator[str]:
    if outcome.exit_status != case.exit_status:
        yield f"exit status {outcome.exit_status}, not {case.exit_status}"
    for name, content in case.leaves.items():
        path = world / "disk" / name
        found = path.read_text() if path.is_file() else None
        if found != content:
            yield f"disk/{name} holds {found!r}, not {content!r}"
    if any(line.startswith("tmp/") for line in outcome.tree):
        yield "something is left in TMPDIR"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_receivers_do_the_same(
    case: Case, receivers: tuple[Receiver, ...], table: Table, world: Path, web: WebServer
) -> None:
    if case.needs_shm and not (SHM.is_dir() and SHM.stat().st_dev != world.parent.stat().st_dev):
        pytest.skip("this machine has no second file system at /dev/shm")
    compare(case, receivers, table, world, web)


def test_s3_is_read_with_the_usual_settings(
    playground: Playground, receivers: tuple[Receiver, ...], table: Table, world: Path, web: WebServer
) -> None:
    import boto3

    keys = playground.deploy_keys
    client = boto3.client(
        "s3",
        endpoint_url=playground.endpoint_url,
        region_name=playground.region,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
    )
    packed = pack(ORDINARY)
    client.put_object(Bucket=playground.bucket, Key="conformance/a b.tar.gz", Body=packed)
    # gzip writes the time into it: packed again it would have another checksum.
    manifest = {"src": f"s3://{playground.bucket}/conformance/a%20b.tar.gz", "dest": "@WORLD@/disk/www", **hooks()}
    environment = {
        "AWS_ENDPOINT_URL": playground.endpoint_url,
        "AWS_REGION": playground.region,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
    }
    url = f"s3://{playground.bucket}/conformance/manifest.yml"
    good = Case(
        "src from S3", packed, manifest=manifest, environment=environment, leaves={"www/app.py": "print('hello')\n"}
    )
    compare(good, receivers, table, world, web)
    shutil.copy(world / "manifest.yml", world.parent / "manifest.yml")
    client.upload_file(str(world.parent / "manifest.yml"), playground.bucket, "conformance/manifest.yml")
    for case in (
        Case(
            "the manifest from S3", stdin=url + "\n", environment=environment, leaves={"www/bin/start": "#!/bin/sh\n"}
        ),
        Case("a manifest that is not in S3", stdin=url + "2\n", environment=environment, exit_status=1),
        Case(
            "an archive that is not in S3 fails before pre",
            manifest={**manifest, "src": f"s3://{playground.bucket}/nothing"},
            environment=environment,
            exit_status=1,
            leaves={"trace": "failure 1\nfailure 2\n"},
        ),
        Case(
            "wrong keys for S3",
            stdin=url + "\n",
            environment={**environment, "AWS_SECRET_ACCESS_KEY": "wrong"},
            exit_status=1,
            leaves={"trace": None},
        ),
        Case(
            "AWS_DEFAULT_REGION is as good as AWS_REGION",
            stdin=url + "\n",
            environment={
                **{k: v for k, v in environment.items() if k != "AWS_REGION"},
                "AWS_DEFAULT_REGION": "us-east-1",
            },
            leaves={"www/bin/start": "#!/bin/sh\n"},
        ),
    ):
        compare(case, receivers, table, world, web)


def test_placeholders_are_mapped_to_paths_with_spaces(parts: Parts, world: Path, web: WebServer) -> None:
    receiver = Receiver("built-in", __version__, BUILT_IN, parts.rsync)
    where = "@WORLD@/disk/a b"
    case = Case(
        "placeholders are mapped",
        disk=(directory("a b"),),
        manifest={
            "dest": "/pretend/host/www",
            "commands": {"post": ["cd '/pretend/host/www' && pwd >out", 'echo "/pretend/host2" >>/pretend/host2/out']},
        },
        options=("--map", f"/pretend/host={where}", "--map", "/pretend/host2=@WORLD@/disk"),
    )
    outcome = run(case, receiver, world, web)
    assert outcome.exit_status == 0, outcome.log
    assert (world / "disk/a b/www/out").read_text() == f"{world}/disk/a b/www\n"
    assert (world / "disk/out").read_text() == f"{world}/disk\n"
    refused = run(replace(case, options=("--map", "/pretend/host=/it's")), receiver, world, web)
    assert refused.exit_status == 2
    assert "would break the quoting" in refused.log


def test_the_receiver_unpacks_the_same_without_a_tar_program(
    parts: Parts, world: Path, web: WebServer, tmp_path: Path
) -> None:
    receiver = Receiver("built-in", __version__, BUILT_IN, parts.rsync)
    shell = shutil.which("sh")
    assert shell is not None
    (tmp_path / "sh").symlink_to(shell)
    (tmp_path / "rsync").symlink_to(parts.rsync)
    archive = (*TREE, hard_link("hard", "a.txt"), fifo("queue"), directory("t", 0o1777), file("/abs/olute", "x"))
    usual = Case("as usual", archive)
    without = Case("without tar", archive, environment={"PATH": str(tmp_path)})
    first, second = (run(case, receiver, world, web) for case in (usual, without))
    assert (first.exit_status, second.exit_status) == (0, 0), second.log
    assert first.tree == second.tree
    leading_out = replace(without, archive=(file("../../disk/out", "x"),))
    third = run(leading_out, receiver, world, web)
    assert (third.exit_status, (world / "disk/out").exists()) == (1, False)
    assert "leads out of it" in third.log
    broken = run(replace(without, archive=b"no archive"), receiver, world, web)
    assert broken.exit_status == 1
    assert "there is no tar program here" in broken.log
