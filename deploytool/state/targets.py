"""Who will hear a deployment, and what they are wanted to run now."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploytool.connection.client import Asked, Later, Pending
from deploytool.errors import ConsulError, UsageError
from deploytool.hosts.manifest import hosts_url
from deploytool.model.fleet import LastWord, read_last_word
from deploytool.model.history import Due, History, Learned, RoleHost, due_of, news, reaches_target, with_learned
from deploytool.model.release import (
    NO_DEPLOYMENT,
    DeploymentId,
    ReleaseId,
    consul_prefix,
    deployment_in,
    event_name,
    is_release_id,
    kept_manifest_key,
)
from deploytool.session import Session
from deploytool.state.history_store import NEWEST, ask_history, read_history, release_of
from deploytool.state.releases import read_release
from deploytool.worker.announcement import refuse_impossible
from deploytool.worker.bus import Entry
from deploytool.worker.failure import Failure
from deploytool.worker.wire import Roles, Selector

#: An event of Consul may have this many bytes in all. Its name counts twice, the envelope takes 96 to 103, and the rest
#: is for the payload. By the length of the name it is 96 to 99, and up to 4 more by the cluster's clock of events: that
#: has 1, 2, 3 or 5 bytes, 5 once there were 65,536 events, whoever fired them. What fits today is to fit then, too
#: (measured on Consul 1.8.7; tests/real/test_consul.py pins it).
EVENT_BYTES = 512
EVENT_ENVELOPE_BYTES = 103


@dataclass(frozen=True, slots=True)
class Expected:
    """The hosts that will hear, those that are down, and what each role is wanted to run now."""

    up: Mapping[str, tuple[str, ...]]
    down: tuple[tuple[str, str], ...]
    #: deployment ids that are wanted now
    wanted: tuple[str, ...]
    #: role → the deployment that is wanted of all its hosts
    whole: Mapping[str, DeploymentId]
    #: role and host → the deployment that is wanted of that one, after `--nodes`
    single: Mapping[RoleHost, DeploymentId]
    #: what each host said last
    words: Mapping[RoleHost, LastWord]

    @property
    def hosts(self) -> frozenset[RoleHost]:
        return frozenset((role, host) for role, hosts in self.up.items() for host in hosts)


def check_event_sizes(session: Session) -> None:
    """Raise ConsulError if an event of this environment could not hold its manifest's URL."""
    for role in session.settings.roles:
        event_room(session, role)


def event_room(session: Session, role: str) -> str:
    """How much of the role's event is used, in words. Raises ConsulError if it could not hold its manifest's URL."""
    settings = session.settings
    # The longest that an event ever carries.
    url = hosts_url(settings, kept_manifest_key(settings.environment, NO_DEPLOYMENT, role))
    name = event_name(settings.application, role, settings.environment)
    room, size_bytes = EVENT_BYTES - EVENT_ENVELOPE_BYTES - 2 * len(name), len(url.encode())
    if size_bytes > room:
        raise ConsulError(
            f"the manifest's URL for the role {role} has {size_bytes} bytes, the event {name} holds {room}: {url}",
            hint="shorten the prefix in store.url, or the names of application, role or environment",
        )
    return f"the manifest's URL has {size_bytes} bytes, the event {name} holds {room}"


def ask_audience(session: Session, *, after: Asked | None = None) -> Pending[Roles]:
    """Ask Consul for what `read_audience` tells."""
    return session.bus.status(selectors(session), after=after)


def read_audience(session: Session, asked: Pending[Roles] | None = None) -> Expected:
    """Which hosts would hear, and what is wanted of them. `asked` is the question, if it was put already.

    Raises ConsulError if Consul can't be asked.
    """
    answer = (asked or ask_audience(session)).answer().roles
    by_host = [(role, host, value) for role, found in answer.items() for host, value in found.exceptions.items()]
    values = [*(found.wanted for found in answer.values()), *(value for _, _, value in by_host)]
    return Expected(
        up={role: tuple(found.up) for role, found in answer.items()},
        down=tuple((role, host) for role, found in answer.items() for host in found.down),
        wanted=tuple(value.split(" ")[0] for value in values if value is not None),
        whole={role: name for role, found in answer.items() if (name := deployment_in(found.wanted)) is not None},
        single={(role, host): name for role, host, value in by_host if (name := deployment_in(value)) is not None},
        words={
            (role, host): read_last_word(value)
            for role, found in answer.items()
            for host, value in found.serving.items()
        },
    )


def expected_hosts(session: Session, nodes: Sequence[str], asked: Pending[Roles] | None = None) -> Expected:
    """Which hosts will hear; see `read_audience`.

    Raises ConsulError if a role has none, or a deployment is wanted that can't be; UsageError for an unknown name.
    """
    found = read_audience(session, asked)
    refuse_impossible_ids(session, found)
    refuse_deaf_roles(session, found)
    return only_nodes(found, nodes) if nodes else found


def refuse_impossible_ids(session: Session, found: Expected) -> None:
    """Raise ConsulError if a deployment is wanted that nobody can have made: a new one would have to be later still.

    What a host has had was made, if by a clock that was wrong: it takes only what is later.
    """
    had = {word.deployment for word in found.words.values()}
    top = f"{consul_prefix(session.settings.application, session.settings.environment)}/wanted/"
    places = {**found.whole, **{f"{role}/{host}": name for (role, host), name in found.single.items()}}
    for place, name in places.items():
        try:
            refuse_impossible(Entry(top + place, name, 0), session.now())
        except Failure as failure:
            if name in had:
                continue
            raise ConsulError(failure.message, hint=failure.hint) from failure


def tell_lost(session: Session, found: Expected) -> None:
    """Note each host that has lost what it had proved: its release has died since."""
    for (role, host), word in sorted(found.words.items()):
        if word.reason and not word.verified and (role, host) in found.hosts:
            session.console.note(f"{host} ({role}) no longer runs {word.release}, since {word.time}: {word.reason}")


def refuse_deaf_roles(session: Session, found: Expected) -> None:
    """Raise ConsulError if a role has no host that could hear the event."""
    for role in found.up:
        refuse_deaf_role(session, found, role)


def refuse_deaf_role(session: Session, found: Expected, role: str) -> None:
    """Raise ConsulError if this role has no host that could hear the event."""
    if not found.up[role]:
        down = ", ".join(host for of, host in found.down if of == role)
        raise ConsulError(
            f"the role {role} has no host that could hear the event: nothing matches "
            f"{described(selectors(session)[role])}" + (f"; down: {down}" if down else ""),
            hint=f"fix `roles.{role}.hosts`, or start the Consul agents of its hosts",
        )


def only_nodes(found: Expected, nodes: Sequence[str]) -> Expected:
    """The audience without all hosts but these. Raises ConsulError if one is down, UsageError if there is none."""
    known = {host for _, host in found.hosts}
    for name in nodes:
        if name in {host for _, host in found.down}:
            raise ConsulError(f"the host {name} is down", hint="start its Consul agent, or leave it out of --nodes")
        if name not in known:
            raise UsageError(
                f"--nodes: no role has a host {name}", hint="hosts that are up: " + ", ".join(sorted(known))
            )
    chosen = {role: tuple(host for host in hosts if host in nodes) for role, hosts in found.up.items()}
    return replace(found, up={role: hosts for role, hosts in chosen.items() if hosts}, down=())


def selectors(session: Session) -> Mapping[str, Selector]:
    """For each role, how its hosts are chosen."""
    return {name: Selector(**role.hosts.model_dump(mode="json")) for name, role in session.settings.roles.items()}


def described(selector: Selector) -> str:
    return json.dumps({key: value for key, value in selector._asdict().items() if value}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Live:
    """What an environment is wanted to run before a deployment; nothing at first."""

    release: ReleaseId | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Here:
    """Where an environment stands before a deployment."""

    expected: Expected
    #: the records, with what hosts have proved since
    history: History
    live: Live
    #: what its hosts serve, if all of them serve the same; else as `live`. Commits count from here
    served: Live
    #: what hosts have proved, and no record has yet
    learned: tuple[Learned, ...]


def stand(session: Session, nodes: Sequence[str] = (), *, after: Asked | None = None) -> Later[Here]:
    """Where the environment stands, by Consul and the store. Its answer raises ConsulError, StoreError or
    UsageError."""
    environment = session.settings.environment
    audience = ask_audience(session, after=after)
    history = ask_history(session, environment, after=after)

    def found() -> Here:
        expected = expected_hosts(session, nodes, audience)
        return here_by(session, expected, read_history(session, environment, reaches_target, asked=history))

    return Later(found)


def here_by(session: Session, expected: Expected, history: History) -> Here:
    """Where it stands, by what is known already."""
    learned = news(history, expected.words)
    history = with_learned(history, learned)
    live = find_live(session, expected, history)
    served = {word.release for key in expected.hosts if (word := expected.words.get(key, LastWord()))}
    name = served.pop() if len(served) == 1 else None
    if name is None or name == live.release or not is_release_id(name):
        return Here(expected, history, live, live, learned)
    return Here(expected, history, live, Live(ReleaseId(name), revision_of(session, history, ReleaseId(name))), learned)


def find_live(session: Session, expected: Expected, history: History) -> Live:
    """What the environment is wanted to run: the newest deployment that is wanted of all hosts of a role.

    Where `--nodes` has brought every host to one release, that is it.
    """
    single = {release_wanted(session, history, name, role) for (role, _), name in expected.single.items()}
    if len(single) == 1 and expected.hosts <= set(expected.single):
        release = single.pop()
    elif expected.whole:
        role, name = max(expected.whole.items(), key=lambda item: item[1])
        release = release_wanted(session, history, name, role)
    else:
        release = None
    return Live() if release is None else Live(release, revision_of(session, history, release))


def revision_of(session: Session, history: History, release: ReleaseId) -> str | None:
    known = next((each.revision for each in history.deployments if each.release == release and each.revision), None)
    if known is None:
        # Of a release that has gone from the store the commits can't be told; that must not stop anything.
        with contextlib.suppress(UsageError):
            known = read_release(session, release).revision
    return known


def release_wanted(session: Session, history: History, name: DeploymentId, role: str) -> ReleaseId | None:
    """The release of a deployment that is wanted."""
    known = next((each.release for each in history.deployments if each.id == name), None)
    return known or release_of(session, session.settings.environment, name, role)


def strays(session: Session, expected: Expected, history: History, live: Live) -> Mapping[RoleHost, ReleaseId]:
    """Hosts of which `--nodes` wants another release than is wanted of all."""
    found = {
        (role, host): release_wanted(session, history, name, role) for (role, host), name in expected.single.items()
    }
    return {key: release for key, release in found.items() if release is not None and release != live.release}


def read_due(session: Session) -> Due | None:
    """The `build.migrate_after` that is due; None if there is none. Raises ConsulError or StoreError."""
    environment = session.settings.environment
    if not session.settings.build.migrate_after:
        return None
    audience, history = ask_audience(session), ask_history(session, environment, newest=NEWEST)
    expected, known = read_audience(session, audience), read_history(session, environment, asked=history)
    return due_of(known, find_live(session, expected, known).release)
