"""A deployment's claim on its release, its manifests, and its announcement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploytool.connection.client import Asked, Pending
from deploytool.errors import StoreError
from deploytool.hosts.manifest import hosts_url, render_manifest
from deploytool.hosts.rehearsal import TEMPLATES
from deploytool.model.release import (
    DeploymentId,
    Release,
    event_name,
    kept_manifest_key,
    manifest_key,
    record_key,
    sha256,
)
from deploytool.rollout.attempt import Attempt
from deploytool.session import Session
from deploytool.state.history_store import RETENTION_LOCK, write_begun
from deploytool.state.releases import check_signer
from deploytool.text import ids
from deploytool.trust.signing import sign
from deploytool.trust.statement import name_of, statement
from deploytool.worker import wire
from deploytool.worker.wire import Exists, Signed, Target


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim on a release, under way. What is asked after `done` happens only if it holds."""

    session: Session
    release: Release
    #: whether the store has each of what the release needs
    present: tuple[Pending[Exists], ...]
    done: Asked

    def settle(self) -> None:
        """Wait for it. Raises StoreError if retention was quicker."""
        if all(each.answer().exists for each in self.present):
            self.done.answer()
            return
        # Retention takes it at the end of a failed deployment, too.
        self.session.let_go(RETENTION_LOCK).answer()
        raise StoreError(
            f"the release {self.release.id} has been removed from {self.session.settings.store.url}",
            hint="it was pruned (store.keep_releases); a deploy of its branch or revision builds it again",
        )


def claim_release(session: Session, release: Release, deployment: DeploymentId, story: Mapping[str, Any]) -> Claim:
    """Write down that this deployment needs the release. From then on retention leaves it alone."""
    held = session.take(RETENTION_LOCK, wait=True)
    archive = session.store.exists(release.archive_key, after=held)
    record = session.store.exists(record_key(release.id), after=archive)
    written = write_begun(session, deployment, story, after=record)
    return Claim(session, release, (archive, record), session.let_go(RETENTION_LOCK, after=written))


@dataclass(frozen=True, slots=True)
class Urls:
    """Where a role's manifests are: the one that is wanted, and the one that the event names."""

    wanted: str
    event: str


@dataclass(frozen=True, slots=True)
class Manifests:
    """A deployment's manifests, and what names them to hosts."""

    #: key in the store → text
    texts: Mapping[str, str]
    #: name in the statement → key in the store
    keys: Mapping[str, str]
    #: by role
    urls: Mapping[str, Urls]
    signed: Signed
    #: who has signed them; None: nobody's signature is asked for
    signer: str | None


def manifests(session: Session, attempt: Attempt, deployment: DeploymentId) -> Manifests:
    """Render and check this deployment's manifests, and sign what names them. Raises SettingsError, StoreError.

    With signers, a release that nobody has signed needs `attempt.force`.

    What is wanted always names an archive: a host that is new, or comes back, has nothing to keep.
    """
    settings, release = session.settings, attempt.release
    texts, keys, urls = dict[str, str](), dict[str, str](), dict[str, Urls]()

    def add(key: str, *, kept: bool, role: str) -> str:
        text = render_manifest(
            settings,
            role,
            release,
            deployment,
            settings.directory / TEMPLATES,
            kept=kept,
            rollback_release=attempt.rollback_release,
        )
        texts[key], keys[name_of(role, kept=kept)] = text, key
        return hosts_url(settings, key)

    for role in attempt.expected.up:
        wanted = add(manifest_key(settings.environment, deployment, role), kept=False, role=role)
        event = wanted
        if role in attempt.kept:
            event = add(kept_manifest_key(settings.environment, deployment, role), kept=True, role=role)
        urls[role] = Urls(wanted, event)
    said = statement(
        settings.application,
        settings.environment,
        deployment,
        ((name, texts[key]) for name, key in keys.items()),
        {role: [*hosts, *attempt.unheard.get(role, ())] for role, hosts in attempt.expected.up.items()}
        if attempt.nodes
        else {},
    )
    # Somebody whose own key may not sign hears of that first; nobody gets the signature of what is refused then.
    signature = sign(settings, said, ids.moment_of(deployment), tell=session.console.note)
    check_signer(session, release, attempt.force)
    signed = Signed(said, signature.text if signature else None)
    return Manifests(texts, keys, urls, signed, signature.name if signature else None)


@dataclass(frozen=True, slots=True)
class Announced:
    """An announcement under way, and what tells the hosts' reports from then on; None if nobody waits for them."""

    asked: Pending[wire.Announced]
    reports: Asked | None


def announce(
    session: Session,
    attempt: Attempt,
    deployment: DeploymentId,
    made: Manifests,
    *,
    after: Asked | None = None,
) -> Announced:
    """Have the manifests, the barrier, `wanted` and the events written, without waiting for that."""
    digest = sha256(made.signed.statement)
    roles = [
        Target(
            role=role,
            event=event_name(session.settings.application, role, session.settings.environment),
            # Hosts of before take the URL, and what follows it is nothing to a URL.
            url=f"{url.wanted}#sha256={digest}",
            payload=url.event,
            hosts=[*attempt.expected.up[role], *attempt.unheard.get(role, ())],
            spared=[*attempt.spared.get(role, ())],
        )
        for role, url in made.urls.items()
    ]
    published = session.bus.publish(deployment, made.keys, made.signed, after=after)
    asked = session.bus.announce(
        deployment,
        roles,
        only_hosts=bool(attempt.nodes),
        in_waves=bool(attempt.plan.waves),
        wait=attempt.wait,
        goes_back=attempt.kind == "rollback",
        after=published,
    )
    hosts = {role.role: role.hosts for role in roles}
    reports = session.bus.watch(deployment, attempt.release.id, hosts, after=asked) if attempt.wait else None
    return Announced(asked, reports)
