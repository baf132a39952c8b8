"""What a plan says, to people and in JSON; that its diff is honest about what only a build can tell."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from deploytool.build.stages import Commit, Comparison, Fetched
from deploytool.connection.store import StoreClient
from deploytool.errors import ConsulError, LockedError
from deploytool.hosts.manifest import render_manifest
from deploytool.hosts.manifest_check import check_manifest
from deploytool.model.history import Due
from deploytool.model.release import DeploymentId, Release, ReleaseId, Revision, manifest_key
from deploytool.model.status import HostStatus
from deploytool.model.waves import Wave
from deploytool.queries.plan import (
    WHEN_BUILT,
    ManifestChange,
    Plan,
    manifest_change,
    manifest_diff,
    page,
    release_to_come,
)
from deploytool.state.targets import Live
from deploytool.worker.wire import Compressor, Freeze
from tests.support.answering import Answering
from tests.support.manifests import RELEASE, given_settings

LIVE = ReleaseId("20260101T000000Z-aaaaaaa")
DEPLOYMENT = DeploymentId("20260101T000001Zaaaa")
REVISION = Revision("1a2b3c4" + "0" * 33)
COMMIT = Commit(REVISION, "Sell more")
FETCHED = Fetched(REVISION, "heads", 0, "Sell\x1b[2J more", (), {})
OWN = Compressor("python-isal 1.7.2", ready=True, warning=None)
CHANGES = Comparison(known=True, brings=(COMMIT,), brings_count=1)


def plan(**changes: Any) -> Plan:
    given = Plan(
        environment="production",
        reference="main",
        live=Live(LIVE, "a" * 40),
        served=Live(LIVE, "a" * 40),
        live_deployment=DEPLOYMENT,
        fetched=FETCHED,
        reused=None,
        made_up_release=ReleaseId("20260102T000000Z-1a2b3c4"),
        compressor=OWN,
        changes=CHANGES,
        recipe="none",
        migrate=(),
        migrate_after=(),
        asks_pending=False,
        migrate_after_due=None,
        manifests=(),
        up={"web": ("app1", "app2")},
        down={"web": ()},
        hosts=(),
        under_way=(),
        lock=None,
        workspace_lock=None,
        frozen=None,
        problems=(),
    )
    if "live" in changes:
        changes.setdefault("served", changes["live"])
    return replace(given, **changes)


def text(**changes: Any) -> str:
    return "\n".join(page(plan(**changes)).lines())


def test_plan_begins_with_the_revision_and_the_commits_that_it_brings() -> None:
    assert page(plan()).lines()[:4] == [
        "the branch main is 1a2b3c4000 Sell\N{REPLACEMENT CHARACTER}[2J more",
        f"brings 1 commit since {LIVE}:",
        "  1a2b3c4000 Sell more",
        "build: no release in the store matches these inputs",
    ]


@pytest.mark.parametrize(
    ("compressor", "sentence"),
    [
        (OWN, "the build compresses with python-isal 1.7.2"),
        (OWN._replace(ready=False), "the build installs python-isal 1.7.2 on the build server first"),
        (Compressor("gzip 1.12", ready=True, warning="gzip 1.12 compresses, because"), "gzip 1.12 compresses, because"),
    ],
)
def test_plan_names_the_compressor_that_a_build_would_use(compressor: Compressor, sentence: str) -> None:
    assert sentence in text(compressor=compressor)
    assert sentence not in text(compressor=compressor, reused=RELEASE)
    assert plan(compressor=compressor).as_dict()["compressor"] == compressor._asdict()


def test_plan_of_equal_inputs_names_the_release_that_is_used_again() -> None:
    said = text(reused=RELEASE, made_up_release=None, changes=Comparison(known=True))
    assert f"current: {LIVE}, the same revision" in said
    assert f"reuse: {RELEASE.id} has the same inputs, built at {RELEASE.built_at}; nothing is built" in said
    assert plan(reused=RELEASE).as_dict()["build"] is False


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"live": Live(), "live_deployment": None, "changes": None}, "nothing is deployed to production yet"),
        ({"live": Live()}, f"current: deployment {DEPLOYMENT}, of an unknown release"),
        ({"changes": None}, f"current: {LIVE}; the commits since then are unknown"),
    ],
)
def test_what_is_not_known_of_the_live_release_is_said(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in text(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"changes": CHANGES, "migrate": ("rake db",)}, "unknown: the recipe none can't list them"),
        ({"changes": CHANGES}, "migrations: none would run: `build.migrate` is empty"),
        ({"changes": None, "migrate": ("rake db",)}, "unknown: nothing to compare with"),
        ({"changes": replace(CHANGES, migrations_told=True)}, "migrations: none since the current release"),
        (
            {
                "changes": replace(CHANGES, migrations_told=True, migrations_added=("a.py", "b.py")),
                "migrate": ("rake db",),
            },
            "migrations: 2 since the current release: a.py, b.py\nbefore any host switches: rake db",
        ),
        (
            {"migrate": ("rake db\n  again",), "asks_pending": True, "migrate_after": ("rake drops",)},
            "before any host switches, unless nothing is pending: rake db …\nwhen every host is verified: rake drops",
        ),
        (
            {"migrate_after": ("rake drops",), "migrate_after_due": Due(LIVE, "2026-01-01T00:00:01Z")},
            f"when every host is verified: rake drops\nmigrate_after of {LIVE} has been due since 2026-01-01T00:00:01Z",
        ),
        (
            {"changes": replace(CHANGES, migrations_told=True, migrations_taken_away=("c.py",))},
            "migrations of the current release that this one lacks, which stay applied: c.py",
        ),
    ],
)
def test_pending_migrations_are_told_as_far_as_the_recipe_can(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in text(**changes)


def test_manifest_of_a_role_is_shown_by_what_changes() -> None:
    changed = ManifestChange("web", DEPLOYMENT, None, ("@@ -1 +1 @@", "-old", "+new"))
    said = text(
        manifests=(
            changed,
            ManifestChange("batch", DEPLOYMENT, None, ()),
            ManifestChange("new", None, None, ("@@", "+1")),
        )
    )
    assert f"manifest of web, compared with that of {DEPLOYMENT}:\n  @@ -1 +1 @@\n  -old\n  +new\n" in said
    assert "manifest of batch: unchanged" in said
    assert "manifest of new: the first one, 1 line; --json shows it" in said
    assert "20260102T000000Z-1a2b3c4 is a placeholder for the release that is not built yet" in said


def test_change_that_every_phase_has_is_shown_once() -> None:
    change = ("-old", "+new", " same")
    changed = ManifestChange("web", DEPLOYMENT, None, ("@@ 1 @@", *change, "@@ 2 @@", *change, "@@ 3 @@", "-gone"))
    said = page(plan(manifests=(changed,))).lines()
    begin = said.index("  @@ 1 @@")
    assert said[begin : begin + 7] == [
        "  @@ 1 @@",
        *(f"  {line}" for line in change),
        "  @@ 2 @@ as above",
        "  @@ 3 @@",
        "  -gone",
    ]


def test_hosts_that_are_down_or_behind_are_named() -> None:
    behind = HostStatus("web", "app2", True, LIVE, DEPLOYMENT, None, True, RELEASE.id, None)
    away = replace(behind, host="app3", up=False)
    given = plan(down={"web": ("app3",)}, hosts=(behind, away), under_way=(DEPLOYMENT,))
    assert "hosts of web: app1, app2; down: app3" in page(given).lines()
    assert [line for line in page(given).lines() if line.startswith("behind")] == [f"behind: app2 (web) runs {LIVE}"]
    assert f"deployment {DEPLOYMENT} is under way: its hosts wait for `go`" in page(given).lines()


def test_plan_without_a_problem_ends_with_the_command_that_deploys_it() -> None:
    assert plan().exit_code == 0
    assert (
        page(plan()).lines()[-1]
        == "nothing stands in the way: a deploy would build and bring main to 2 hosts of production"
    )
    assert "error" not in plan().as_dict()


def test_a_lock_is_told_and_is_no_problem() -> None:
    given = plan(lock="jo@laptop", workspace_lock="ann@laptop")
    assert given.exit_code == 0
    assert "production is locked by jo@laptop" in page(given).lines()
    assert "the workspace is locked by ann@laptop; a build waits for it" in page(given).lines()


def test_exit_code_is_that_of_the_first_problem_and_all_are_told() -> None:
    frozen = Freeze("audit", "jo", "today")
    given = plan(frozen=frozen, problems=(LockedError("it is frozen"), ConsulError("no host", hint="start one")))
    assert given.exit_code == 3
    assert "PROBLEM (exit code 3): it is frozen" in page(given).lines()
    told = page(given).lines()
    assert told[told.index("PROBLEM (exit code 7): no host") + 1] == "hint: start one"
    document = json.loads(json.dumps(given.as_dict()))
    assert [problem["exit_code"] for problem in document["problems"]] == [3, 7]
    assert document["error"]["message"] == "it is frozen"


def test_a_plan_is_a_json_document_with_everything() -> None:
    changed = ManifestChange("web", DEPLOYMENT, None, ("+new",))
    document = json.loads(json.dumps(plan(manifests=(changed,), down={"web": ("app3",)}).as_dict()))
    assert document["live"] == {"release": LIVE, "revision": "a" * 40, "deployment": DEPLOYMENT}
    assert document["commits"] == {"count": 1, "newest": [{"revision": REVISION, "subject": "Sell more"}]}
    assert document["migrations"] is None
    assert document["roles"] == {"web": {"up": ["app1", "app2"], "down": ["app3"]}}
    assert document["manifests"] == [{"role": "web", "deployment": DEPLOYMENT, "problem": None, "diff": ["+new"]}]
    assert (document["build"], document["release"], document["exit_code"]) == (True, None, 0)


# The manifest's diff


def test_diff_has_only_what_changes_and_hides_secrets() -> None:
    assert manifest_diff("a\nb\n", "a\nb\n", ()) == ()
    diff = manifest_diff("a\ntoken=old-secret\n", "a\ntoken=new-secret\n\x1b", ("old-secret", "new-secret"))
    assert diff == ("@@ -1,3 +1,3 @@", " a", "-token=***", "-", "+token=***", "+\N{REPLACEMENT CHARACTER}")


class ReadingSession(Answering):
    """A session whose store has these texts, and which can do nothing else."""

    operator = "jo@laptop"

    def __init__(self, settings: Any, texts: dict[str, str]) -> None:
        self.settings, self._texts, self.worker = settings, texts, self
        self.store = StoreClient(self)

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        assert do == "store_read", f"unscripted: {do}"
        return {"contents": {key: self._texts.get(key) for key in parameters["keys"]}}

    def now(self) -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)


def settings_of_a_project(tmp_path: Any, **changes: Any) -> Any:
    made = given_settings(**changes)
    made.directory, made.secrets = tmp_path, ()
    made.build = type("Build", (), {"compression": "gzip", "root": "~/work"})()
    return made


def change(session: Any, release: Release, deployment: DeploymentId | None = DEPLOYMENT) -> ManifestChange:
    return manifest_change(session, "web", release, deployment, None)


def live_texts(settings: Any) -> dict[str, str]:
    live = replace(RELEASE, id=LIVE, revision=Revision("a" * 40))
    return {
        manifest_key(settings.environment, DEPLOYMENT, "web"): render_manifest(settings, "web", live, DEPLOYMENT, None)
    }


def test_manifest_of_the_live_release_and_the_same_settings_does_not_change(tmp_path: Any) -> None:
    settings = settings_of_a_project(tmp_path)
    session = ReadingSession(settings, live_texts(settings))
    live = replace(RELEASE, id=LIVE, revision=Revision("a" * 40))
    assert change(session, live) == ManifestChange("web", DEPLOYMENT, None, ())


def test_manifest_of_a_release_to_come_says_what_only_the_build_can_tell(tmp_path: Any) -> None:
    settings = settings_of_a_project(tmp_path)
    session = ReadingSession(settings, live_texts(settings))
    coming = release_to_come(session, "main", FETCHED, "0" * 64)  # type: ignore[arg-type]
    assert coming.id == "20260102T000000Z-1a2b3c4"
    found = change(session, coming)
    assert f'+checksum: "{WHEN_BUILT}"' in found.diff
    assert any(line.endswith(f"unpacked_bytes={WHEN_BUILT}") for line in found.diff)
    assert coming.checksum not in "\n".join(found.diff)
    # The deployment is the live one's, so nothing differs by it alone.
    assert not [line for line in found.diff if line[0] in "+-" and DEPLOYMENT in line]


def test_first_manifest_of_a_role_is_new_from_end_to_end(tmp_path: Any) -> None:
    session = ReadingSession(settings_of_a_project(tmp_path), {})
    found = change(session, RELEASE, None)
    assert found.problem is None
    assert all(line.startswith("+") for line in found.diff[1:])
    check_manifest("\n".join(line[1:] for line in found.diff[1:]))


def test_live_manifest_that_is_gone_is_said(tmp_path: Any) -> None:
    found = change(ReadingSession(settings_of_a_project(tmp_path), {}), RELEASE)
    assert found == ManifestChange(
        "web", DEPLOYMENT, f"the current one, of {DEPLOYMENT}, is no longer in the store", ()
    )


def test_manifest_that_can_not_be_rendered_is_said(tmp_path: Any) -> None:
    found = change(ReadingSession(settings_of_a_project(tmp_path, restart=("{{ nonsense }}",)), {}), RELEASE)
    assert found.problem is not None
    assert "nonsense" in found.problem


def test_plan_shows_who_would_go_when_and_where_it_would_pause() -> None:
    waves = (Wave(1, frozenset({("web", "app2")})), Wave(3, frozenset({("web", "app1")})))
    said = page(plan(waves=waves, pause_after=2)).lines()
    first = said.index("wave 1 of 2, 1 host: app2 (web)")
    assert said[first + 1 : first + 3] == [
        "then it pauses, and `fab production promote` continues",
        "wave 2 of 2, 1 host: app1 (web)",
    ]
    # All at once is not worth a line.
    assert "wave" not in text(waves=waves[:1], pause_after=1)


def test_plan_shows_a_rollout_that_did_not_come_to_its_end() -> None:
    assert "R7 is expected on app1 (web), and not on every host: a deploy starts with all hosts" in text(
        unfinished={"R7": ("app1 (web)",)}
    )
