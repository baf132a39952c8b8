"""`fab ENV promote`: go on with a rollout that was paused, halted, or left by its operator."""

from dataclasses import replace

from deploytool.build.commits import compare
from deploytool.errors import UsageError
from deploytool.model.fleet import LastWord
from deploytool.model.history import RoleHost
from deploytool.model.release import ReleaseId
from deploytool.model.waves import RolloutPlan, Wave, failures_of, plan_waves
from deploytool.rollout.attempt import attempt_at, by_role
from deploytool.rollout.kept import bound_to_an_archive, bring_back, kept_roles
from deploytool.rollout.steps import go_back_if_halted
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.cleanup import cleaned_up
from deploytool.state.freeze import refuse_if_frozen
from deploytool.state.releases import read_release
from deploytool.state.targets import Here, check_event_sizes, release_wanted, stand, tell_lost
from deploytool.text.words import counted


def promote(session: Session, force: str | None, outcome: Outcome) -> None:
    """Go on with a rollout that was paused, halted, or left by its operator: the same release, to all other hosts.

    In the waves that are left, and without another pause: somebody has looked. Hosts that serve the release, proven,
    are not touched. `force` says why, if nobody has signed it. Raises UsageError if there is nothing to go on with.
    """
    settings = session.settings
    check_event_sizes(session)
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        thawed = session.bus.frozen(after=held)
        standing = stand(session, after=held)
        refuse_if_frozen(session, thawed)
        session.begins("promote", outcome)
        with outcome.phase("hosts"):
            here = standing.answer()
            tell_lost(session, here.expected)
            outcome.down = here.expected.down
            release = read_release(session, unfinished_release(session, here))
        outcome.release, outcome.revision, outcome.reused = release.id, release.revision, True
        done = at_it(here, release.id)
        # Also a role that has none left is to be wanted to run it as a whole.
        left = replace(here.expected, up=dict.fromkeys(here.expected.up, ()) | by_role(here.expected.hosts - done))
        with outcome.phase("choice"):
            changes = compare(session, here.served.revision, release.revision).answer()
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
            force=force,
            story={"promotes": release.id},
            plan=RolloutPlan(
                waves=waves or (Wave(1, frozenset()),),
                max_failures=failures_of(settings.rollout.max_failures, len(here.expected.hosts)),
                goes_back=settings.rollout.on_failure == "rollback",
            ),
            spared=by_role(done),
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
            f"no rollout of {name} is unfinished: every host is expected to run {here.live.release or 'nothing'}",
            hint=f"`fab {name} deploy --from OTHER` deploys what another environment has verified; "
            f"`fab {name} status` shows which host is behind",
        )
    if len(found) > 1:
        raise UsageError(
            f"hosts of {name} are expected to run several releases: {', '.join(found)}",
            hint=f"`fab {name} deploy --release ID` deploys one of them to all, `fab {name} rollback` goes back",
        )
    return found[0]
