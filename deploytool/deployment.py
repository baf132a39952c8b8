"""The story of a deployment, from what the operator asked for to a fleet that serves it.

    lock → release → expected hosts → what changes → rollout → retention

A release is finished before a rollout begins.
"""

from dataclasses import dataclass

from deploytool.audience import begin_stand, check_event_sizes, stand
from deploytool.building import begin_fetch, read_release
from deploytool.changes import begin_compare, compare, tell_changes
from deploytool.cleanup import cleaned_up
from deploytool.errors import UsageError
from deploytool.freezing import ask_frozen, refuse_if_frozen
from deploytool.outcome import Outcome
from deploytool.promotion import choose_release
from deploytool.rollout import attempt_at, bring, migrate_with
from deploytool.session import Session


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asked of a deployment."""

    #: branch, tag or SHA
    reference: str
    #: deploy this release instead of building one
    release: str | None = None
    #: deploy what this other environment has verified
    promote_from: str | None = None
    #: why a release is deployed that nothing has verified yet
    force: str | None = None
    #: build, also where equal inputs were built already
    rebuild: bool = False
    migrate: bool = True
    wait: bool = True
    #: only these hosts; empty: all
    nodes: tuple[str, ...] = ()

    @property
    def of_reference(self) -> bool:
        """Whether the release is to be that of `reference`."""
        return self.release is None and self.promote_from is None


def deploy(session: Session, wishes: Wishes, outcome: Outcome) -> None:
    """The whole story. Fills `outcome`; raises DeployError for whatever ends it before the hosts were let go.

    What does not need the answer before it is asked along with it: a round trip may be long.
    """
    settings = session.settings
    check_event_sizes(session)
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        thawed = ask_frozen(session, after=held)
        standing = begin_stand(session, wishes.nodes, after=held)
        fetching = begin_fetch(session, wishes.reference, after=thawed) if wishes.of_reference else None
        refuse_if_frozen(session, thawed)
        with outcome.phase("hosts"):
            here = standing()
        with outcome.phase("build"):
            chosen = choose_release(session, wishes, here, fetching)
        release, outcome.reused = chosen.release, chosen.reused
        outcome.release, outcome.revision = release.id, release.revision
        with outcome.phase("hosts"):
            comparing, since = begin_compare(session, here.served.revision, release.revision), here.served
            if not chosen.reused:
                # A build takes its time, and hosts come and go.
                here = stand(session, wishes.nodes)
            outcome.down = here.expected.down
            changes = comparing() if here.served == since else compare(session, here.served.revision, release.revision)
            tell_changes(session, here, changes)
        attempt = attempt_at(
            release,
            "deploy",
            here,
            changes,
            migrate=wishes.migrate,
            wait=wishes.wait,
            nodes=wishes.nodes,
            story={
                "reference": chosen.reference,
                "promoted_from": wishes.promote_from,
                "forced": wishes.force,
            },
        )
        bring(session, attempt, outcome)


def migrate(session: Session, release_id: str | None, outcome: Outcome) -> None:
    """Run the migrations of a release, by default of the one that the environment runs, with its own code."""
    settings = session.settings
    with session.lock(settings.environment, wait=False):
        refuse_if_frozen(session)
        chosen = release_id or stand(session).live.release
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
        migrate_with(session, release, outcome)
