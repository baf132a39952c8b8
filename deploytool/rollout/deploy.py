"""The story of a deployment, from what the operator asked for to a fleet that serves it.

    lock → release → expected hosts → what changes → rollout → retention

A release is finished before a rollout begins.
"""

from deploytool.build.build import fetch
from deploytool.build.commits import compare, tell_changes
from deploytool.errors import UsageError
from deploytool.model.history import usual_steps
from deploytool.rollout.attempt import attempt_at
from deploytool.rollout.choose_release import Request, choose_release
from deploytool.rollout.migrations import leave_out
from deploytool.rollout.rollout import bring
from deploytool.rollout.steps import go_back_if_halted, plan_of
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.cleanup import cleaned_up
from deploytool.state.freeze import refuse_if_frozen
from deploytool.state.targets import check_event_sizes, stand, tell_lost


def deploy(session: Session, request: Request, outcome: Outcome) -> None:
    """The whole story. Fills `outcome`; raises DeployError for whatever ends it before the hosts were let go.

    What does not need the answer before it is asked along with it: a round trip may be long.
    """
    settings = session.settings
    if settings.in_waves and not (request.wait or request.nodes):
        raise UsageError(
            "--no-wait would switch all hosts at once, and `rollout.waves` asks for several steps",
            hint="leave --no-wait out, or choose the hosts with --nodes",
        )
    check_event_sizes(session)
    outcome.branch = request.reference if request.of_reference else None
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        thawed = session.bus.frozen(after=held)
        standing = stand(session, request.nodes, after=held)
        fetching = fetch(session, request.reference, after=thawed) if request.of_reference else None
        refuse_if_frozen(session, thawed)
        session.begins(f"deploy {request.what}", outcome)
        with outcome.phase("hosts"):
            here = standing.answer()
            tell_lost(session, here.expected)
            session.console.expected = usual_steps(here.history)
            # Also later on, if a build comes between; but no build is worth while without it.
            plan_of(settings, request, here.expected)
        with outcome.phase("build"):
            chosen = choose_release(session, request, here, fetching)
        release, outcome.reused = chosen.release, chosen.reused
        outcome.release, outcome.revision = release.id, release.revision
        with outcome.phase("hosts"):
            comparing, since = compare(session, here.served.revision, release.revision), here.served
            if not chosen.reused:
                # A build takes its time, and hosts come and go.
                here = stand(session, request.nodes).answer()
            outcome.down = here.expected.down
            if here.served != since:
                comparing = compare(session, here.served.revision, release.revision)
            changes = comparing.answer()
            tell_changes(session, here, changes)
        if not request.migrate:
            leave_out(session, release, outcome, sure=request.sure, force=request.force)
        attempt = attempt_at(
            release,
            "deploy",
            here,
            changes,
            migrate=request.migrate,
            wait=request.wait,
            nodes=request.nodes,
            force=request.force,
            story={
                "reference": chosen.reference,
                "promoted_from": request.promote_from,
            },
            plan=plan_of(settings, request, here.expected),
        )
        bring(session, attempt, outcome)
        go_back_if_halted(session, attempt, here, outcome)
