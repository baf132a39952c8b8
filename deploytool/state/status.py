"""An environment as a whole, asked of Consul, the store and the build server at once. It changes nothing."""

from dataclasses import replace

from deploytool.errors import ConsulError
from deploytool.model.fleet import read_last_word
from deploytool.model.release import ReleaseId, deployment_in, is_release_id
from deploytool.model.status import HostStatus, Status
from deploytool.session import Session
from deploytool.state.history_store import release_of
from deploytool.state.targets import read_due, selectors
from deploytool.worker.announcement import is_open


def read_status(session: Session) -> Status:
    """Ask Consul, the store and the build server. Raises ConsulError if Consul knows no host of any role."""
    settings = session.settings
    asked = session.bus.status(selectors(session))
    holder = session.build_server.lock_holder(settings.environment)
    freezing = session.bus.frozen()
    roles = asked.answer().roles
    releases: dict[str, str | None] = {}
    hosts: list[HostStatus] = []
    under_way: set[str] = set()
    unfinished: dict[str, tuple[str, ...]] = {}

    def release_in(value: str | None, role: str) -> str | None:
        name = deployment_in(value)
        if name is not None and name not in releases:
            releases[name] = release_of(session, settings.environment, name, role)
        return releases[name] if name is not None else None

    for role, found in roles.items():
        whole = release_in(found.wanted, role)
        for host in sorted({*found.up, *found.down}):
            value = found.exceptions.get(host, found.wanted)
            release = release_in(value, role)
            said = found.serving.get(host)
            hosts.append(_host(role, host, host in found.up, said, release, deployment_in(value)))
            if release is not None and release != whole:
                unfinished[release] = (*unfinished.get(release, ()), f"{host} ({role})")
        under_way |= {name for name, go in found.go.items() if is_open(go)}
    if not hosts:
        raise ConsulError(
            f"Consul knows no host of {settings.environment}", hint="check `roles.….hosts`; `fab ENV check` has details"
        )
    lock, frozen = holder.answer().sentence, freezing.answer().frozen
    return Status(tuple(hosts), tuple(sorted(under_way)), lock, frozen, unfinished, asked_at=session.now())


def read_whole_status(session: Session) -> Status:
    """The same, and what is due when all hosts are verified. Raises StoreError as well."""
    return replace(read_status(session), migrate_after_due=read_due(session))


def running_releases(session: Session) -> frozenset[ReleaseId]:
    """The releases that the environment's hosts serve, by their last word, or are wanted to. Raises ConsulError."""
    found = read_status(session)
    names = {name for host in found.hosts for name in (host.release, host.wanted_release)}
    return frozenset(ReleaseId(name) for name in names if name is not None and is_release_id(name))


def _host(role: str, host: str, up: bool, serving: str | None, release: str | None, wanted: str | None) -> HostStatus:
    said = read_last_word(serving)
    return HostStatus(
        role=role,
        host=host,
        up=up,
        release=said.release,
        deployment=said.deployment,
        time=said.time,
        verified=said.verified,
        wanted_release=release,
        wanted_deployment=wanted,
        reason=said.reason,
        proof=said.proof,
        receiver=said.receiver,
        unremoved=said.unremoved,
    )
