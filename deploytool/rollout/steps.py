"""In which steps a rollout goes, and whether it goes back."""

from typing import TYPE_CHECKING

from deploytool.errors import FleetError
from deploytool.model.lifecycle import Status
from deploytool.model.waves import ALL_AT_ONCE, RolloutPlan, failures_of, plan_waves, refuse_missing_canaries
from deploytool.rollout.attempt import Attempt
from deploytool.rollout.choose_release import Request
from deploytool.rollout.undo import undo
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.targets import Expected, Here

if TYPE_CHECKING:
    from deploytool.settings import Settings


def go_back_if_halted(session: Session, attempt: Attempt, here: Here, outcome: Outcome) -> None:
    """After a rollout that was halted, as the settings ask. Whatever becomes of that, the rollout has failed.

    Not where the operator has interrupted it since: what happens then is for him to say.
    """
    if outcome.status is Status.HALTED and attempt.plan.goes_back and outcome.exit_code == FleetError.exit_code:
        undo(session, here, outcome)


def plan_of(settings: "Settings", request: Request, expected: Expected) -> RolloutPlan:
    """How a rollout to these hosts goes.

    All at once where nobody waits, who could take hosts back. Raises ConsulError if none of the canaries that the
    settings name is there.
    """
    rollout = settings.rollout
    if request.nodes or not request.wait or (not settings.in_waves and rollout.on_failure == "halt"):
        return ALL_AT_ONCE
    refuse_missing_canaries(settings, expected.up)
    return RolloutPlan(
        waves=plan_waves(settings, expected.up),
        pause_after=rollout.pause_after,
        max_failures=failures_of(rollout.max_failures, len(expected.hosts)),
        goes_back=rollout.on_failure == "rollback",
    )
