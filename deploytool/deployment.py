"""The story of a deployment, from a release in the store to a fleet that serves it.

    lock → release → manifests → expected hosts → announce → all fetched → migrate → go → all verified → record

Up to `go` nothing changes on any host, and a failure takes back what was announced. From `go` on the hosts finish by
themselves: all that can be done is to listen, and to tell what each of them says.
"""

import contextlib
import json
import random
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deploytool import stages
from deploytool.building import TEMPLATES, obtain_release, read_release
from deploytool.errors import ConnectionFailed, ConsulError, DeployError, FleetError, Interrupted, UsageError
from deploytool.fleet import Fleet, HostResult, Verdict, read_report
from deploytool.manifest import manifest_url, render_manifest
from deploytool.release import (
    NO_DEPLOYMENT,
    DeploymentId,
    Release,
    deployment_record_key,
    event_name,
    is_deployment_id,
    manifest_key,
)
from deploytool.session import Session
from deploytool.worker_client import Asked

#: An event of Consul may have this many bytes in all. Its name counts twice, the envelope takes 96 to 99, and the rest
#: is for the payload (measured on Consul 1.8.7; tests/integration/test_consul.py pins it).
EVENT_BYTES = 512
EVENT_ENVELOPE_BYTES = 99
#: After an abort, hosts at the barrier leave within a poll or two; their last words are waited for this long.
LAST_WORDS_SECONDS = 5.0
#: How long an interrupted operator waits for the worker to put things in order.
FAREWELL_SECONDS = 15.0
RECORD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asked of a deployment."""

    #: branch, tag or SHA
    reference: str
    #: deploy this release instead of building one
    release: str | None = None
    migrate: bool = True
    wait: bool = True
    #: only these hosts; empty: all
    nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What is known of a deployment so far; filled as it goes, so that a failure can tell how far it came."""

    release: str | None = None
    revision: str | None = None
    deployment: str | None = None
    reused: bool | None = None
    exit_code: int = 0
    #: seconds
    phases: dict[str, float] = field(default_factory=dict)
    hosts: tuple[HostResult, ...] = ()
    unexpected: tuple[HostResult, ...] = ()
    #: hosts that match, and were down before the event: (role, host)
    down: tuple[tuple[str, str], ...] = ()
    #: announced, and nobody waited for the hosts
    unverified: bool = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0) + time.monotonic() - begin, 3)

    def as_dict(self) -> dict[str, object]:
        return {
            "release": self.release,
            "revision": self.revision,
            "deployment": self.deployment,
            "reused": self.reused,
            "exit_code": self.exit_code,
            "phases": dict(self.phases),
            "hosts": [result.as_dict() for result in self.hosts],
            "unexpected": [result.as_dict() for result in self.unexpected],
            "down": [{"role": role, "host": host} for role, host in self.down],
        }


@dataclass(frozen=True, slots=True)
class Expected:
    """The hosts that will hear, those that are down, and what each role is wanted to run now."""

    up: Mapping[str, tuple[str, ...]]
    down: tuple[tuple[str, str], ...]
    #: deployment ids that are wanted now
    wanted: tuple[str, ...]


def check_event_sizes(session: Session) -> None:
    """Raise ConsulError if an event of this environment could not hold its manifest's URL."""
    settings = session.settings
    for role in settings.roles:
        url = manifest_url(settings.store.url, manifest_key(settings.environment, NO_DEPLOYMENT, role))
        name = event_name(settings.application, role, settings.environment)
        room = EVENT_BYTES - EVENT_ENVELOPE_BYTES - 2 * len(name)
        if len(url.encode()) > room:
            size_bytes = len(url.encode())
            raise ConsulError(
                f"the manifest's URL for the role {role} has {size_bytes} bytes, the event {name} holds {room}: {url}",
                hint="shorten the prefix in store.url, or the names of application, role or environment",
            )


def expected_hosts(session: Session, nodes: Sequence[str]) -> Expected:
    """Ask Consul which hosts will hear. Raises ConsulError if a role has none, UsageError for an unknown name."""
    settings = session.settings
    selectors = {name: role.hosts.model_dump(mode="json") for name, role in settings.roles.items()}
    answer = session.worker.ask("hosts", roles=selectors)["roles"]
    up: dict[str, tuple[str, ...]] = {}
    for role, found in answer.items():
        if not found["up"]:
            raise ConsulError(
                f"the role {role} has no host that could hear the event: nothing matches {described(selectors[role])}"
                + (f"; down: {', '.join(found['down'])}" if found["down"] else ""),
                hint=f"mend roles.{role}.hosts, or start the Consul agents of its hosts",
            )
        up[role] = tuple(found["up"])
    down = tuple((role, host) for role, found in answer.items() for host in found["down"])
    if nodes:
        known = {host for hosts in up.values() for host in hosts}
        for name in nodes:
            if name in {host for _, host in down}:
                raise ConsulError(f"the host {name} is down", hint="start its Consul agent, or leave it out of --nodes")
            if name not in known:
                raise UsageError(
                    f"--nodes: no role has a host {name}", hint="hosts that are up: " + ", ".join(sorted(known))
                )
        chosen = {role: tuple(host for host in hosts if host in nodes) for role, hosts in up.items()}
        up = {role: hosts for role, hosts in chosen.items() if hosts}
        down = ()
    values = [
        value
        for found in answer.values()
        for value in (found["wanted"], *found["exceptions"].values())
        if value is not None
    ]
    return Expected(up, down, tuple(value.split(" ")[0] for value in values))


def described(selector: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in selector.items() if value}, ensure_ascii=False)


def new_deployment_id(moment: datetime, wanted: Sequence[str], characters: str) -> DeploymentId:
    """An id that is greater than every wanted one: hosts refuse what is not newer, even if a clock went back."""
    for name in wanted:
        # What is no id, whoever wrote it, is nothing to be later than.
        if is_deployment_id(name):
            with contextlib.suppress(ValueError, OverflowError):
                last = datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                moment = max(moment, last + timedelta(seconds=1))
    return DeploymentId(f"{moment:%Y%m%dT%H%M%SZ}{characters}")


def random_characters() -> str:
    return "".join(random.SystemRandom().choices(string.ascii_lowercase + string.digits, k=4))


def deploy(session: Session, wishes: Wishes, outcome: Outcome) -> None:
    """The whole story. Fills `outcome`; raises DeployError for whatever ends it before the hosts were let go."""
    settings = session.settings
    check_event_sizes(session)
    with session.lock(settings.environment, wait=False):
        with outcome.phase("hosts"):
            expected_hosts(session, wishes.nodes)
        with outcome.phase("build"):
            if wishes.release is not None:
                release, outcome.reused = read_release(session, wishes.release), True
            else:
                built = obtain_release(session, wishes.reference)
                release, outcome.reused = built.release, built.reused
        outcome.release, outcome.revision = release.id, release.revision
        with outcome.phase("hosts"):
            expected = expected_hosts(session, wishes.nodes)
            outcome.down = expected.down
        deployment = new_deployment_id(session.now(), expected.wanted, random_characters())
        outcome.deployment = deployment
        with outcome.phase("manifests"):
            urls = put_manifests(session, release, deployment, expected.up)
        if wishes.migrate and not wishes.wait:
            with outcome.phase("migrate"), unpacked(session, release) as directory:
                run_migrations(session, directory)
        fleet = Fleet(expected.up)
        try:
            rollout(session, wishes, release, deployment, urls, fleet, outcome)
        except DeployError as error:
            outcome.exit_code = error.exit_code
            raise
        except KeyboardInterrupt:
            outcome.exit_code = Interrupted.exit_code
            raise
        finally:
            # Nobody listened to hosts that were not waited for: there is nothing to tell of them.
            if not outcome.unverified:
                outcome.hosts, outcome.unexpected = fleet.results(), fleet.unexpected()
            record(session, wishes, deployment, outcome)


def put_manifests(
    session: Session, release: Release, deployment: DeploymentId, hosts: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Render, check and publish this deployment's manifest of each role; returns their URLs."""
    settings = session.settings
    entries, urls = [], {}
    for role in hosts:
        text = render_manifest(settings, role, release, deployment, settings.directory / TEMPLATES)
        key = manifest_key(settings.environment, deployment, role)
        entries.append((key, text))
        urls[role] = manifest_url(settings.store.url, key)
    session.worker.ask("store_put", entries=entries)
    return urls


def rollout(
    session: Session,
    wishes: Wishes,
    release: Release,
    deployment: DeploymentId,
    urls: Mapping[str, str],
    fleet: Fleet,
    outcome: Outcome,
) -> None:
    """Announce, wait until every host holds the archive, migrate, let them go, wait for every host's proof."""
    settings, worker = session.settings, session.worker
    roles = [
        {
            "role": role,
            "event": event_name(settings.application, role, settings.environment),
            "url": url,
            "hosts": [host for known, host in fleet.expected if known == role],
        }
        for role, url in urls.items()
    ]
    # From here on nobody can say that no host was switched, if they go without being waited for.
    outcome.unverified = not wishes.wait
    try:
        with outcome.phase("announce"), session.console.step("announce"):
            worker.ask("announce", deployment=deployment, roles=roles, only_hosts=bool(wishes.nodes), wait=wishes.wait)
    except KeyboardInterrupt:
        take_back(session, cancel=True)
        raise
    if not wishes.wait:
        session.console.note("announced; nobody waits for the hosts (--no-wait): nothing is verified")
        return
    listening = Listening(session, fleet, worker.start("watch", deployment=deployment))
    try:
        prepare_hosts(session, wishes, release, listening, outcome)
        worker.ask("go", value="all")
    except (DeployError, KeyboardInterrupt) as reason:
        take_back(session, cancel=isinstance(reason, KeyboardInterrupt))
        with session.console.fleet(fleet, "abort"):
            listening.for_seconds(LAST_WORDS_SECONDS)
        raise
    try:
        with outcome.phase("activate"), session.console.fleet(fleet, "activate"):
            listening.for_seconds(settings.wait.activate_seconds)
        if fleet.bad():
            outcome.exit_code = FleetError.exit_code
    except KeyboardInterrupt:
        outcome.exit_code = Interrupted.exit_code
        session.console.note("interrupted after `go`: the hosts finish by themselves")
        with session.console.fleet(fleet, "interrupted"):
            listening.for_seconds(LAST_WORDS_SECONDS)
    worker.start("end_watch")


def take_back(session: Session, *, cancel: bool) -> None:
    """Abort what was announced, and end what runs first if the operator interrupted.

    Trouble on the way is noted: it must not hide why the deployment ended. The worker tries again as the session ends.
    """
    try:
        if cancel:
            session.worker.ask("cancel", limit_seconds=FAREWELL_SECONDS)
        session.worker.ask("abort", limit_seconds=FAREWELL_SECONDS)
    except DeployError as trouble:
        session.console.note(str(trouble))


def prepare_hosts(session: Session, wishes: Wishes, release: Release, listening: "Listening", outcome: Outcome) -> None:
    """Wait until every host holds the archive, then migrate. Raises FleetError or StepError: then nobody may go."""
    with outcome.phase("fetch"), session.console.fleet(listening.fleet, "fetch"):
        listening.until_fetched(session.settings.wait.fetch_seconds)
    if wishes.migrate:
        with outcome.phase("migrate"), unpacked(session, release) as directory:
            run_migrations(session, directory)
    listening.hear_now()
    listening.refuse_if_lost()


class Listening:
    """Hears what the hosts report while time passes."""

    def __init__(self, session: Session, fleet: Fleet, reports: Asked) -> None:
        self.fleet = fleet
        self._session = session
        self._reports = reports
        self._begin = time.monotonic()
        self._troubled = ""

    def _hear(self, timeout_seconds: float) -> bool:
        message = self._reports.next(timeout_seconds)
        if message is None or "event" not in message:
            return False
        for news in message["event"]["reports"]:
            if "trouble" in news:
                if news["trouble"] != self._troubled:
                    self._troubled = news["trouble"]
                    self._session.console.note(f"no reports for the moment: {self._troubled}")
                continue
            report = read_report(news["role"], news["host"], news["state"], news["value"])
            if report is not None:
                seconds = round(time.monotonic() - self._begin, 1)
                expected = self.fleet.hear(report, seconds)
                self._session.console.report(report, seconds, expected=expected)
        return True

    def hear_now(self) -> None:
        """Take in what has arrived already."""
        while self._hear(0):
            pass

    def for_seconds(self, seconds: float) -> None:
        """Listen until every host has made a final report, this long at most."""
        deadline = time.monotonic() + seconds
        while self.fleet.waiting_for(fetched=False) and (left := deadline - time.monotonic()) > 0:
            self._hear(min(0.25, left))

    def refuse_if_lost(self) -> None:
        """Raise FleetError if a host has already failed, or left for another deployment."""
        lost = [result for result in self.fleet.bad() if result.verdict is not Verdict.SILENT]
        if lost:
            names = ", ".join(f"{result.host} ({result.role}) {result.verdict.value}" for result in lost[:10])
            raise FleetError(
                f"before any host was switched: {names}: {lost[0].reason}",
                hint="no host was changed; mend what is above and deploy again",
            )

    def until_fetched(self, seconds: float) -> None:
        """Wait until every host holds the archive. Raises FleetError at the first that fails, or when time is over."""
        deadline = time.monotonic() + seconds
        while True:
            self.refuse_if_lost()
            missing = self.fleet.waiting_for(fetched=True)
            if not missing:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                names = ", ".join(f"{host} ({role})" for role, host in missing[:10])
                more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
                raise FleetError(
                    f"{len(missing)} of {len(self.fleet.expected)} hosts did not fetch the release within {seconds:g} "
                    f"s: {names}{more}",
                    hint="no host was changed. On those hosts: is consul watch running, can stretcher read the store, "
                    "is one still at an earlier deployment? wait.fetch_seconds is the limit; --nodes leaves hosts out",
                )
            self._hear(min(0.25, left))


@contextmanager
def unpacked(session: Session, release: Release) -> Iterator[str | None]:
    """The release, unpacked on the build server for its migrations; None if there are no commands to run."""
    if not session.settings.build.migrate:
        yield None
        return
    with session.console.step("unpack"):
        directory = session.worker.ask(
            "unpack_release",
            key=release.archive_key,
            compression=release.compression,
            checksum=release.checksum,
            name=release.id,
        )["directory"]
    yield directory
    # After a failure it stays, until the next one is unpacked: a migration may still be running in it. And it must not
    # make a deployment fail that it can't be removed now.
    with contextlib.suppress(ConnectionFailed):
        session.worker.ask("remove_unpacked", limit_seconds=FAREWELL_SECONDS)


def run_migrations(session: Session, directory: str | None) -> None:
    """Run `build.migrate` with the release's own code. Raises StepError."""
    step = stages.migrate(session.settings, session.place, directory) if directory is not None else None
    if step is not None:
        session.run(step)


def record(session: Session, wishes: Wishes, deployment: DeploymentId, outcome: Outcome) -> None:
    """Write down how the deployment ended. A record that can't be written does not make the deployment fail."""
    content = {
        **outcome.as_dict(),
        "environment": session.settings.environment,
        "operator": session.operator,
        "ended_at": f"{session.now():%Y-%m-%dT%H:%M:%SZ}",
        "reference": None if wishes.release else wishes.reference,
        "nodes": list(wishes.nodes),
        "verified": not outcome.unverified and outcome.exit_code == 0,
    }
    key = deployment_record_key(session.settings.environment, deployment)
    try:
        entries = [(key, json.dumps(content, indent=2) + "\n")]
        session.worker.ask("store_put", entries=entries, limit_seconds=RECORD_SECONDS)
    except DeployError as error:
        session.console.note(f"the deployment's record could not be written: {error.message}")


def live_release(session: Session) -> str | None:
    """The release that the environment is wanted to run, by the wanted deployment's record; None if there is none."""
    wanted = [name for name in expected_hosts(session, ()).wanted if is_deployment_id(name)]
    for name in sorted(set(wanted), reverse=True):
        key = deployment_record_key(session.settings.environment, DeploymentId(name))
        content = session.worker.ask("store_get", key=key)["content"]
        try:
            found = json.loads(content or "{}")["release"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(found, str):
            return found
    return None


def migrate(session: Session, release_id: str | None, outcome: Outcome) -> None:
    """Run the migrations of a release, by default of the one that the environment runs, with its own code."""
    settings = session.settings
    with session.lock(settings.environment, wait=False):
        chosen = release_id or live_release(session)
        if chosen is None:
            raise UsageError(
                f"nothing was deployed to {settings.environment} yet",
                hint=f"fab {settings.environment} migrate --release ID",
            )
        release = read_release(session, chosen)
        outcome.release, outcome.revision = release.id, release.revision
        if not settings.build.migrate:
            session.console.note("build.migrate is empty: there is nothing to run")
            return
        with outcome.phase("migrate"), unpacked(session, release) as directory:
            run_migrations(session, directory)
