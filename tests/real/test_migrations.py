"""Schema changes in two times, by the whole `fab` command on the playground with the real stretcher.

The database is SQLite's, the tool that migrates it is a small one of the application's own.
"""

import contextlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import Playground
from tests.support.fab import Result
from tests.support.waiting import until
from tests.support.waves import HOSTS, Waves, left_as_found

#: `db.py migrate DIRECTORY` applies what is not applied yet, `db.py pending DIRECTORY` names it.
DB = """\
import os, pathlib, sqlite3, sys

base = sqlite3.connect(os.environ["DB"])
base.execute("create table if not exists applied (name text primary key, release text)")
applied = {row[0] for row in base.execute("select name from applied")}
new = [path for path in sorted(pathlib.Path(sys.argv[2]).glob("*.sql")) if path.name not in applied]
if sys.argv[1] == "pending":
    print(*(path.name for path in new), sep="\\n")
    sys.exit(0 if new else 1)
for path in new:
    try:
        base.executescript(path.read_text())
    except sqlite3.Error as error:
        sys.exit(f"{path}: {error}")
    base.execute("insert into applied values (?, ?)", (path.name, pathlib.Path.cwd().name))
    base.commit()
"""


class Schema(Waves):
    """A project that is deployed once, with its database; all hosts go at once."""

    def __init__(self, playground: Playground, directory: Path) -> None:
        self.database = directory / "shop.sqlite"
        super().__init__(playground, directory)
        self.rollout(waves=["100%"])
        self.settings["build"] |= {
            "env": {"DB": str(self.database)},
            "migrate": ["python3 db.py migrate before"],
            "migrate_pending": ["python3 db.py pending before"],
            "migrate_after": ["python3 db.py migrate after"],
        }
        self.write()
        # A column is renamed: here comes the new one, and the old one goes when no host needs it any more.
        self.commit(
            "create table item (name text); alter table item add column title text;",
            after="alter table item drop column name;",
        )

    def commit(self, before: str | None = None, *, after: str | None = None) -> None:
        """A change with its migrations."""
        number = len(self.repository.git("log", "--format=%H").splitlines())
        files = {"db.py": DB, "VERSION": str(number)}
        for directory, sql in (("before", before), ("after", after)):
            if sql is not None:
                files[f"{directory}/{number:04d}_{directory}.sql"] = sql
        self.repository.commit(files)

    def applied(self) -> dict[str, str]:
        """Each migration that has run, and the release whose code ran it."""
        with contextlib.closing(sqlite3.connect(self.database)) as base:
            try:
                return dict(base.execute("select name, release from applied order by rowid"))
            except sqlite3.OperationalError:
                return {}

    def columns(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.database)) as base:
            return [row[1] for row in base.execute("pragma table_info(item)")]

    def record(self, deployment: str) -> Any:
        client = self.playground.s3_client()
        key = f"waves/{self.directory.parent.name}/environments/playground/deployments/{deployment}.json"
        text = client.get_object(Bucket=self.playground.bucket, Key=key)["Body"].read()
        client.close()
        return json.loads(text)

    def due(self) -> Any:
        """What `status` says is due."""
        return self.fab_json("status").json["migrate_after_due"]

    def make_silent(self) -> Result:
        """A deploy during which app2 loses its agent at the barrier: it neither switches nor says a word."""
        work = self.directory.parent
        migrate = self.settings["build"]["migrate"]
        self.settings["build"]["migrate"] = [*migrate, f"touch {work}/at; while [ ! -e {work}/on ]; do sleep 0.1; done"]
        self.settings["wait"] |= {"activate_seconds": 20, "hook_seconds": 8}
        self.write()
        process = self.start("playground", "deploy", "--json")
        until((work / "at").exists, "all hosts wait at the barrier", seconds=90)
        self.playground.stop_agent("app2")
        (work / "on").touch()
        out, err = process.communicate(timeout=120)
        self.playground.start_agent("app2")
        until(
            lambda: self.fab("playground", "status").code == 0, "app2 is up again, and catches up by itself", seconds=90
        )
        self.settings["build"]["migrate"] = migrate
        self.write()
        return Result(process.returncode, out, err)

    def answer(self, answer: str, *arguments: str) -> tuple[int, str]:
        """`fab ARGUMENTS` at a terminal, where its question gets this answer; returns exit code and screen."""
        ours, its = pty.openpty()
        with subprocess.Popen(
            [str(Path(sys.executable).parent / "fab"), *arguments],
            cwd=self.directory,
            env={**self.environment(), "TERM": "dumb"},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        ) as process:
            os.close(its)
            screen = b""
            # At the end Linux says EIO, as nobody has the other side open.
            with contextlib.suppress(OSError):
                while data := os.read(ours, 4096):
                    screen += data
                    if b"[y/N]" in screen and answer:
                        os.write(ours, answer.encode() + b"\n")
                        answer = ""
            os.close(ours)
        return process.returncode, screen.decode("utf-8", "replace")


@pytest.fixture
def schema(playground: Playground, tmp_path: Path) -> Iterator[Schema]:
    with left_as_found(playground):
        yield Schema(playground, tmp_path)


def test_each_runs_once_at_its_time_and_not_where_nothing_is_pending(schema: Schema) -> None:
    schema.settings["build"]["migrate_after"].insert(0, 'cp "$DB" "$DB.before"')
    schema.role("web")["hooks"] = {"post": [f"test ! -e {schema.database}.before"]}
    schema.write()
    planned = schema.fab_json("plan").json
    assert (planned["migrate"], planned["migrate_if_pending"]) == (["python3 db.py migrate before"], True)
    assert planned["migrate_after"] == ['cp "$DB" "$DB.before"', "python3 db.py migrate after"]
    assert schema.applied() == {}
    first = schema.fab_json("deploy")
    new = first.json["release"]
    assert schema.serve(new, new, new)
    [before, after] = schema.applied()
    assert schema.applied() == {before: new, after: new}
    # Hosts switched in between: a hook of theirs would have seen the copy.
    assert schema.columns() == ["title"]
    with contextlib.closing(sqlite3.connect(f"{schema.database}.before")) as copy:
        assert [row[1] for row in copy.execute("pragma table_info(item)")] == ["name", "title"]
    assert first.json["migrate_after"] == "done"
    assert schema.record(first.json["deployment"])["migrate_after"] == "done"
    assert schema.due() is None

    schema.role("web")["hooks"] = {}
    schema.write()
    schema.commit()
    second = schema.fab_json("deploy")
    assert "migrate: skipped, nothing is pending" in second.err
    assert "migrate …" not in second.err
    assert schema.record(second.json["deployment"])["migrated"] is False
    assert set(schema.applied()) == {before, after}

    back = schema.fab_json("rollback")
    assert (back.json["release"], back.json["migrate_after"]) == (new, None)
    assert f"WARNING: migrate_after of {second.json['release']} has run since: {new} may" in back.err


def test_failed_migration_switches_nobody_and_leaves_nothing_due(schema: Schema) -> None:
    schema.commit("alter table nowhere add column x;")
    hosts, wanted = schema.state_of(*HOSTS), schema.wanted()
    failed = schema.fab_json("deploy", code=4)
    assert "migrate: command 1 failed on the build server with exit code 1" in failed.json["error"]["message"]
    assert any("no such table: nowhere" in line for line in failed.json["error"]["tail"])
    assert (schema.state_of(*HOSTS), schema.wanted()) == (hosts, wanted)
    assert (failed.json["migrate_after"], schema.due()) == (None, None)


def test_command_that_can_not_tell_what_is_pending_is_a_failed_step(schema: Schema) -> None:
    schema.settings["build"]["migrate_pending"] = ["echo the database is away >&2; exit 2"]
    schema.write()
    hosts = schema.state_of(*HOSTS)
    failed = schema.fab_json("deploy", code=4)
    assert "migrate_pending: command 1 failed on the build server with exit code 2" in failed.json["error"]["message"]
    assert "the database is away" in failed.json["error"]["tail"]
    assert (schema.state_of(*HOSTS), schema.applied()) == (hosts, {})


def test_no_migrate_with_something_pending_needs_a_person_or_a_flag(schema: Schema) -> None:
    hosts, wanted, records = schema.state_of(*HOSTS), schema.wanted(), deployments(schema)
    refused = schema.fab_json("deploy", "--no-migrate", code=2)
    assert "--no-migrate leaves out what is pending for" in refused.json["error"]["message"]
    assert ".sql; there is no terminal to ask on" in refused.json["error"]["message"]
    code, screen = schema.answer("n", "playground", "deploy", "--no-migrate")
    assert (code, "Continue anyway? [y/N]" in screen, "not confirmed" in screen) == (2, True, True), screen
    assert (schema.state_of(*HOSTS), schema.wanted(), deployments(schema)) == (hosts, wanted, records)

    code, screen = schema.answer("y", "playground", "deploy", "--no-migrate")
    assert code == 0, screen
    assert schema.applied() == {}
    schema.commit()
    result = schema.fab_json("deploy", "--no-migrate", "--yes")
    assert schema.serve(*[result.json["release"]] * 3)
    assert schema.applied() == {}
    # All hosts are verified; still, the drop without the rest would be out of order.
    assert result.json["migrate_after"] == "due"
    assert schema.due()["release"] == result.json["release"]

    assert schema.fab_json("migrate").code == 0
    assert len(schema.applied()) == 1
    assert schema.fab_json("migrate", "--after").json["migrate_after"] == "done"
    assert len(schema.applied()) == 2
    assert schema.due() is None
    again = schema.fab_json("deploy", "--no-migrate")
    assert "--no-migrate: nothing is pending" in again.err


def deployments(schema: Schema) -> list[str]:
    found = schema.fab_json("releases", "--deployments").json["deployments"]
    return [each["deployment"] for each in found]


def test_migrate_after_waits_for_a_silent_host_and_runs_with_the_next_deploy(schema: Schema) -> None:
    result = schema.make_silent()
    assert result.code == 8, result.err
    document = result.json
    assert result.verdicts() == {"app1/web": "verified", "app2/web": "silent", "app3/web": "verified"}
    assert len(schema.applied()) == 1
    assert schema.columns() == ["name", "title"]
    assert document["migrate_after"] == "due"
    due = schema.due()
    assert due["release"] == document["release"]
    assert f"migrate_after of {document['release']} has been due since {due['since']}" in schema.status()
    assert schema.fab_json("plan").json["migrate_after_due"] == due
    assert len(schema.applied()) == 1

    schema.commit()
    following = schema.fab_json("deploy").json
    assert following["migrate_after"] == "done"
    assert list(schema.applied().values()) == [document["release"], following["release"]]
    assert schema.columns() == ["title"]
    assert schema.due() is None


def test_failed_migrate_after_is_told_apart_stays_due_and_runs_by_hand(schema: Schema) -> None:
    right = schema.settings["build"]["migrate_after"]
    schema.settings["build"]["migrate_after"] = ["echo another session holds a lock; exit 3"]
    schema.write()
    failed = schema.fab_json("deploy", code=4)
    new = failed.json["release"]
    message = failed.json["error"]["message"]
    assert message.endswith(f"exit code 3; every host runs {new}, and only its migrate_after is due")
    assert "fab playground migrate --after" in failed.json["error"]["hint"]
    assert schema.serve(new, new, new)
    assert set(failed.verdicts().values()) == {"verified"}
    assert (failed.json["migrate_after"], schema.due()["release"]) == ("due", new)
    # All hosts have proved it: that is what counts for what may be deployed elsewhere, and for a rollback.
    rows = schema.fab("playground", "releases", "--json").json["releases"]
    assert next(row for row in rows if row["release"] == new)["verified"] is not None

    schema.settings["build"]["migrate_after"] = right
    schema.write()
    by_hand = schema.fab("playground", "migrate", "--after")
    assert by_hand.code == 0, by_hand.err
    assert f"migrate_after of {new} has run" in by_hand.out
    assert schema.columns() == ["title"]
    assert schema.due() is None


def test_pause_leaves_it_to_the_promotion(schema: Schema) -> None:
    schema.rollout(waves=[1, "100%"], pause_after=1)
    paused = schema.fab_json("deploy").json
    assert (paused["paused"], paused["migrate_after"]) == (True, "due")
    assert len(schema.applied()) == 1
    promoted = schema.fab_json("promote")
    assert promoted.json["migrate_after"] == "done"
    assert "migrate: skipped, nothing is pending" in promoted.err
    assert schema.columns() == ["title"]
    assert schema.due() is None


def test_automatic_rollback_names_the_migrations_that_stay(schema: Schema) -> None:
    schema.settings["build"] |= {"recipe": "django", "dependencies": ["true"], "assets": ["true"]}
    schema.rollout(waves=[1, "100%"], on_failure="rollback")
    schema.break_on("app2")
    schema.repository.commit({"shop/migrations/0002_title.py": "# adds a column\n"})
    halted = schema.fab_json("deploy", code=8)
    assert [undone["release"] for undone in halted.json["rollbacks"]] == [schema.old]
    assert (
        "WARNING: 1 migration between them, which a rollback does not undo: shop/migrations/0002_title.py" in halted.err
    )
    assert schema.serve(*[schema.old] * 3)
    assert len(schema.applied()) == 1
    assert (halted.json["migrate_after"], schema.due()) == (None, None)
