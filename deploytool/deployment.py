"""The story of a deployment, from what the operator asked for to a fleet that serves it.

    lock → release → expected hosts → what changes → rollout → retention

A release is finished before a rollout begins.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deploytool.build.build import begin_fetch
from deploytool.build.commits import begin_compare, compare, tell_changes
from deploytool.errors import FleetError, UsageError
from deploytool.migrations import leave_out
from deploytool.model.fleet import LastWord
from deploytool.model.history import RoleHost
from deploytool.model.release import ReleaseId
from deploytool.model.waves import Wave, failures_of, plan_waves, refuse_missing_canaries
from deploytool.promotion import choose_release
from deploytool.rollback import bound_to_an_archive, bring_back, kept_roles, undo
from deploytool.rollout import Attempt, attempt_at, bring, by_role
from deploytool.screen.console import counted
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.cleanup import cleaned_up
from deploytool.state.freeze import ask_frozen, refuse_if_frozen
from deploytool.state.releases import read_release
from deploytool.state.targets import Expected, Here, begin_stand, check_event_sizes, release_wanted, stand, tell_lost

if TYPE_CHECKING:
    from deploytool.settings import Settings


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
    #: go on where there would be a question
    sure: bool = False
    wait: bool = True
    #: only these hosts; empty: all
    nodes: tuple[str, ...] = ()

    @property
    def of_reference(self) -> bool:
        """Whether the release is to be that of `reference`."""
        return self.release is None and self.promote_from is None

    @property
    def what(self) -> str:
        """What is deployed, in words."""
        return self.release or (f"what {self.promote_from} runs" if self.promote_from else self.reference)


def deploy(session: Session, wishes: Wishes, outcome: Outcome) -> None:
    """The whole story. Fills `outcome`; raises DeployError for whatever ends it before the hosts were let go.

    What does not need the answer before it is asked along with it: a round trip may be long.
    """
    settings = session.settings
    if settings.in_waves and not (wishes.wait or wishes.nodes):
        raise UsageError(
            "--no-wait would let all hosts go at once, and rollout.waves asks for several steps",
            hint="leave --no-wait out, or choose the hosts with --nodes",
        )
    check_event_sizes(session)
    outcome.branch = wishes.reference if wishes.of_reference else None
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        thawed = ask_frozen(session, after=held)
        standing = begin_stand(session, wishes.nodes, after=held)
        fetching = begin_fetch(session, wishes.reference, after=thawed) if wishes.of_reference else None
        refuse_if_frozen(session, thawed)
        session.begins(f"deploy {wishes.what}", outcome)
        with outcome.phase("hosts"):
            here = standing()
            tell_lost(session, here.expected)
            # Also later on, if a build comes between; but no build is worth while without it.
            in_steps(settings, wishes, here.expected)
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
        if not wishes.migrate:
            leave_out(session, release, outcome, sure=wishes.sure)
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
            **in_steps(settings, wishes, here.expected),
        )
        bring(session, attempt, outcome)
        go_back_if_halted(session, attempt, here, outcome)


def go_back_if_halted(session: Session, attempt: Attempt, here: Here, outcome: Outcome) -> None:
    """After a rollout that was halted, as the settings ask. Whatever becomes of that, the rollout has failed.

    Not where the operator has interrupted it since: what happens then is for him to say.
    """
    if outcome.halted and attempt.goes_back and outcome.exit_code == FleetError.exit_code:
        undo(session, here, outcome)


def in_steps(settings: "Settings", wishes: Wishes, expected: Expected) -> dict[str, Any]:
    """How a rollout to these hosts goes, as fields of Attempt; nothing where all go at once and stay.

    So it is where nobody waits, who could take hosts back. Raises ConsulError if none of the canaries that the settings
    name is there.
    """
    rollout = settings.rollout
    if wishes.nodes or not wishes.wait or (not settings.in_waves and rollout.on_failure == "halt"):
        return {}
    refuse_missing_canaries(settings, expected.up)
    return {
        "waves": plan_waves(settings, expected.up),
        "pause_after": rollout.pause_after,
        "max_failures": failures_of(rollout.max_failures, len(expected.hosts)),
        "goes_back": rollout.on_failure == "rollback",
    }


def promote(session: Session, outcome: Outcome) -> None:
    """Go on with a rollout that was paused, halted, or left by its operator: the same release, to all other hosts.

    In the waves that are left, and without another pause: somebody has looked. Hosts that serve the release, proven,
    are not touched. Raises UsageError if there is nothing to go on with.
    """
    settings = session.settings
    check_event_sizes(session)
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        thawed = ask_frozen(session, after=held)
        standing = begin_stand(session, after=held)
        refuse_if_frozen(session, thawed)
        session.begins("promote", outcome)
        with outcome.phase("hosts"):
            here = standing()
            tell_lost(session, here.expected)
            outcome.down = here.expected.down
            release = read_release(session, unfinished_release(session, here))
        outcome.release, outcome.revision, outcome.reused = release.id, release.revision, True
        done = at_it(here, release.id)
        # Also a role that has none left is to be wanted to run it as a whole.
        left = replace(here.expected, up=dict.fromkeys(here.expected.up, ()) | by_role(here.expected.hosts - done))
        with outcome.phase("choice"):
            changes = compare(session, here.served.revision, release.revision)
        session.console.note(f"{release.id} runs on {counted(len(done), 'host')}; {len(left.hosts)} to go")
        kept = kept_roles(release, left)
        waves = tuple(
            Wave(wave.number, wave.hosts - done)
            for wave in plan_waves(settings, here.expected.up)
            if not wave.hosts <= done
        )
        attempt = attempt_at(
            release,
            "deploy",
            replace(here, expected=left),
            changes,
            migrate=True,
            kept=kept - bound_to_an_archive(session, release, kept),
            story={"promotes": release.id},
            waves=waves or (Wave(1, frozenset()),),
            spared=by_role(done),
            max_failures=failures_of(settings.rollout.max_failures, len(here.expected.hosts)),
            goes_back=settings.rollout.on_failure == "rollback",
        )
        bring_back(session, attempt, outcome)
        go_back_if_halted(session, attempt, here, outcome)


def at_it(here: Here, release: ReleaseId) -> frozenset[RoleHost]:
    """The hosts that serve the release, proven, and are wanted to.

    One that serves it because it could not be brought to another is still wanted to run that one.
    """
    expected = here.expected
    of_release = {each.id for each in here.history.deployments if each.release == release}
    return frozenset(
        key
        for key in expected.hosts
        if (word := expected.words.get(key, LastWord())).release == release
        and word.verified
        and expected.single.get(key, expected.whole.get(key[0])) in of_release
    )


def unfinished_release(session: Session, here: Here) -> ReleaseId:
    """The release that hosts are wanted to run, and their roles as a whole not. Raises UsageError if there is none, or
    several."""
    name = session.settings.environment
    wanted = {
        role: release_wanted(session, here.history, deployment, role)
        for role, deployment in here.expected.whole.items()
    }
    found = sorted(
        {
            release
            for (role, _), deployment in here.expected.single.items()
            if (release := release_wanted(session, here.history, deployment, role)) is not None
            and release != wanted.get(role)
        }
    )
    if not found:
        raise UsageError(
            f"no rollout of {name} is unfinished: all hosts are wanted to run {here.live.release or 'nothing'}",
            hint=f"`fab {name} deploy --from OTHER` brings what another environment has verified; "
            f"`fab {name} status` shows which host is behind",
        )
    if len(found) > 1:
        raise UsageError(
            f"hosts of {name} are wanted to run several releases: {', '.join(found)}",
            hint=f"`fab {name} deploy --release ID` brings one of them to all, `fab {name} rollback` goes back",
        )
    return found[0]
