"""What is due, who is asked, and what a way back is warned of."""

import io
import json
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.build.stages import Comparison
from deploytool.connection.paths import Place
from deploytool.connection.step import Step
from deploytool.errors import StepError, StoreError, UsageError
from deploytool.model.history import Deployment, Due, History, MigratedAfter, due_of, read_deployment
from deploytool.model.release import DeploymentId, deployment_record_key, manifest_key
from deploytool.rollout.migrations import (
    leave_out,
    migrate_after,
    migrate_after_by_hand,
    migrate_by_hand,
    refuse_unless_sure,
    warn_of_migrations,
)
from deploytool.screen.console import Console
from deploytool.screen.summary import Outcome
from deploytool.state.history_store import read_history, write_migrated_after
from deploytool.state.targets import read_due
from tests.support.histories import RELEASES
from tests.support.numbered import A, B, C, good, name
from tests.support.stage_settings import settings
from tests.support.stores import Session, Store, built, record, store_of

OLD, NEW = RELEASES[0], RELEASES[-1]


# --- due


def due(number: int, release: Any, **changes: Any) -> Deployment:
    return good(number, release, migrate_after="due", **changes)


def done(number: int, release: Any) -> Deployment:
    return good(number, release, migrate_after="done")


SINCE_1 = Due(B, "20260201T000001Z")


@pytest.mark.parametrize(
    ("deployments", "live", "expected"),
    [
        ((), None, None),
        ((due(1, B),), B, SINCE_1),
        # A host was silent, was mended by `--nodes`, and nobody has run it since.
        ((due(1, B), due(2, B, whole=False)), B, SINCE_1),
        ((due(1, B), done(2, B)), B, None),
        # Migrations add up.
        ((due(1, B), done(2, C)), C, None),
        ((due(1, B), done(2, C), good(3, B, kind="rollback")), B, None),
        # Gone back to what has no such debt; and to what has.
        ((done(1, A), due(2, B), good(3, A, kind="rollback")), A, None),
        ((due(1, B), due(2, C), good(3, B, kind="rollback")), B, SINCE_1),
        # A canary of another release does not pay.
        ((due(1, B), due(2, C, partial=True)), B, SINCE_1),
    ],
)
def test_what_is_due_is_what_the_live_release_has_not_run(
    deployments: tuple[Deployment, ...], live: Any, expected: Due | None
) -> None:
    assert due_of(History(deployments), live) == expected


def test_what_was_run_by_hand_is_not_due_until_it_is_due_again() -> None:
    by_hand = (MigratedAfter(B, "20260201T000002Z0001"),)
    assert due_of(History((due(1, B),), migrated_after=by_hand), B) is None
    again = due_of(History((due(1, B), due(3, B)), migrated_after=by_hand), B)
    assert again == Due(B, "20260201T000003Z")


def test_killed_deployment_leaves_it_due_and_a_record_says_otherwise() -> None:
    begun = json.dumps({"release": B, "migrate_after": "due"})
    assert read_deployment(name(1), None, begun).migrate_after == "due"
    assert read_deployment(name(1), '{"migrate_after": null, "exit_code": 4}', begun).migrate_after is None
    assert read_deployment(name(1), '{"migrate_after": "done"}', begun).migrate_after == "done"
    assert read_deployment(name(1), '{"migrate_after": ["done"]}', begun).migrate_after is None


# --- asking


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def asked(answer: str | None) -> Any:
    """A session whose operator types this; None: at no terminal."""
    session: Any = Session(Store({}))
    progress = Screen() if answer is not None else io.StringIO()
    session.console = Console(
        as_json=False, progress=progress, results=io.StringIO(), answers=Screen(answer) if answer is not None else None
    )
    session.progress = progress
    return session


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_yes_goes_on(answer: str) -> None:
    session = asked(answer)
    refuse_unless_sure(session, "a column is missing", sure=False)
    assert session.progress.getvalue() == "a column is missing. Continue anyway? [y/N] "


@pytest.mark.parametrize(
    ("answer", "why"),
    [("n\n", "not confirmed"), ("\n", "not confirmed"), ("", "not confirmed"), (None, "there is no terminal")],
)
def test_everything_else_is_refused(answer: str | None, why: str) -> None:
    with pytest.raises(UsageError, match=f"a column is missing; {why}") as refused:
        refuse_unless_sure(asked(answer), "a column is missing", sure=False)
    assert "--yes" in (refused.value.hint or "")


def test_flag_is_an_answer_that_is_told() -> None:
    session = asked(None)
    refuse_unless_sure(session, "a column is missing", sure=True)
    assert "a column is missing; --yes: continuing" in session.progress.getvalue()


# --- by hand, and at the end


class BuildServer(Store):
    """It runs every step, or refuses to."""

    def __init__(self, objects: Mapping[str, str]) -> None:
        super().__init__(objects)
        self.steps: list[str] = []

    def ask(self, do: str, **parameters: Any) -> Any:
        match do:
            case "unpack_release":
                return {"directory": f"/srv/unpacked/{parameters['name']}"}
            case "remove_unpacked":
                return {}
        return super().ask(do, **parameters)


class World:
    """An environment whose two hosts are wanted to run NEW, and whose migrate_after is due."""

    def __init__(self, serving: Mapping[str, str]) -> None:
        deployment = DeploymentId("20260120T000000Zabcd")
        ended = {"release": NEW, "migrate_after": "due"}
        self.worker = BuildServer(
            {
                **built(NEW),
                deployment_record_key("production", deployment): json.dumps(ended),
                manifest_key("production", deployment, "web"): "manifest",
            }
        )
        self.worker.wanted = f"{deployment} url"
        self.worker.serving = {
            host: json.dumps({"release": release, "deployment": deployment, "verified": True})
            for host, release in serving.items()
        }
        session: Any = Session(self.worker)
        self.session = session
        self.session.settings.build = settings().build
        self.session.settings.linked_files = self.session.settings.linked_dirs = ()
        self.session.settings.secrets = ()
        self.session.place = Place("/srv", "app", "production")
        self.session.run = self.run_step
        self.outcome = Outcome()

    def run_step(self, step: Step) -> Any:
        self.worker.steps.append(step.name)
        return SimpleNamespace(results=lambda: ())

    def by_hand(self, *, sure: bool = False) -> None:
        migrate_after_by_hand(self.session, None, self.outcome, sure=sure)


def test_by_hand_it_runs_where_all_hosts_serve_the_release_and_is_due_no_more() -> None:
    world = World({"one": NEW, "two": NEW})
    assert read_due(world.session) == Due(NEW, "20260120T000000Z")
    world.by_hand()
    assert (world.worker.steps, world.outcome.release, world.outcome.migrate_after) == (["migrate_after"], NEW, "done")
    assert read_due(world.session) is None


@pytest.mark.parametrize("serving", [{"one": NEW, "two": OLD}, {"one": NEW}])
def test_by_hand_it_is_refused_while_a_host_can_not_prove_the_release(serving: Mapping[str, str]) -> None:
    world = World(serving)
    with pytest.raises(UsageError, match=r"1 of 2 hosts are not verified: two \(web\)"):
        world.by_hand()
    assert world.worker.steps == []
    assert read_due(world.session) is not None
    forced = World(serving)
    forced.by_hand(sure=True)
    assert forced.worker.steps == ["migrate_after"]


def unsigned() -> World:
    """Its release was built before there were signers."""
    world = World({"one": NEW, "two": NEW})
    world.session.settings.trust.signers = "config/signers"
    return world


def test_code_of_a_release_that_nobody_has_signed_does_not_run_on_the_build_server() -> None:
    for by_hand in (migrate_by_hand, partial(migrate_after_by_hand, sure=True)):
        world, forced = unsigned(), unsigned()
        with pytest.raises(StoreError, match="the release"):
            by_hand(world.session, NEW, world.outcome)
        assert world.worker.steps == []
        by_hand(forced.session, NEW, forced.outcome, force="built before there were signers")
        assert forced.worker.steps
    world = unsigned()
    with pytest.raises(StoreError, match="the release"):
        leave_out(world.session, record(NEW), world.outcome, sure=True)


def test_nothing_is_due_where_there_is_nothing_to_run() -> None:
    world = World({"one": NEW, "two": NEW})
    world.session.settings.build.migrate_after = ()
    assert read_due(world.session) is None
    world.by_hand()
    assert (world.worker.steps, world.outcome.migrate_after) == ([], None)


def test_failure_at_the_end_says_that_all_hosts_serve_the_release() -> None:
    world = World({"one": NEW, "two": NEW})

    def fail(step: Any) -> Any:
        raise StepError("command 1 failed", hint="the log is there")

    world.session.run = fail
    world.outcome.migrate_after = "due"
    with pytest.raises(
        StepError, match=f"command 1 failed; every host runs {NEW}, and only its migrate_after is due"
    ) as error:
        migrate_after(world.session, record(NEW), world.outcome)
    assert error.value.hint == (
        "fix it, then run `fab production migrate --after`; the next deploy runs it, too; the log is there"
    )
    assert world.outcome.migrate_after == "due"


def test_history_reads_what_was_run_by_hand() -> None:
    session: Any = Session(Store(store_of(RELEASES)))
    write_migrated_after(session, NEW)
    [run] = read_history(session, "production").migrated_after
    assert run.release == NEW
    assert run.moment.startswith(f"{session.now():%Y%m%dT%H%M%SZ}")


# --- on the way back

UNTOLD = Comparison(known=True)
FILES = Comparison(known=True, migrations_told=True, migrations_taken_away=("b.py",))


def warnings(*deployments: Deployment, changes: Comparison | None = UNTOLD) -> list[str]:
    session: Any = Session(Store({}))
    warn_of_migrations(session, History(deployments), record(OLD, id=A), changes)
    return [line.partition("WARNING: ")[2] for line in session.progress.getvalue().splitlines()]


def test_way_back_names_the_files_where_they_can_be_told() -> None:
    ran = good(2, B, record={"migrated": True})
    assert warnings(good(1, A), ran, changes=FILES) == [
        "1 migration between them, which a rollback does not undo: b.py"
    ]
    assert warnings(good(1, A), ran, done(3, B), changes=Comparison(known=True, migrations_told=True)) == []


def test_way_back_over_drops_says_that_they_may_be_missed() -> None:
    dropped = f"migrate_after of {B} has run since: {A} may need what it dropped"
    assert warnings(done(1, A), done(2, B), changes=FILES)[1:] == [dropped]
    assert warnings(done(1, A), done(2, B)) == [dropped]
    # What has run with the very release that we go to is no news to it.
    assert warnings(done(1, B), done(2, A)) == []


def test_way_back_says_that_migrations_ran_where_the_files_can_not_be_told() -> None:
    [said] = warnings(good(1, A), good(2, B, record={"migrated": True}), good(3, C, record={"migrated": False}))
    assert said.startswith(f"migrations have run with 1 deployment since {A} was live")
