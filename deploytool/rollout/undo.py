"""After a rollout that was halted: the hosts that switched go back to where they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deploytool.build.commits import compare
from deploytool.errors import DeployError, Interrupted
from deploytool.model.fleet import LastWord, Verdict
from deploytool.model.history import Deployment, RoleHost
from deploytool.model.lifecycle import Status
from deploytool.model.release import DeploymentId, is_release_id
from deploytool.rollout.attempt import attempt_at, by_role
from deploytool.rollout.kept import bound_to_an_archive, bring_back, kept_roles
from deploytool.rollout.migrations import warn_of_migrations
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.releases import read_release
from deploytool.state.targets import Here
from deploytool.text.words import counted


def undo(session: Session, here: Here, outcome: Outcome) -> None:
    """Take the hosts that have switched in a halted rollout back to the releases that they came from; see `here`.

    How that goes is `outcome.undone`; what did not even begin stands in `outcome.not_undone`, and none of it keeps the
    others from going back. Of a silent host nobody knows whether it has switched: it is told to go back, too, but the
    others do not wait for it.
    """
    verdicts = {(result.role, result.host): result.verdict for result in outcome.hosts}
    origins: dict[str, list[RoleHost]] = {}
    for key in sorted(outcome.gone):
        word = here.expected.words.get(key, LastWord())
        if verdicts.get(key) not in (Verdict.VERIFIED, Verdict.SILENT) or word.release == outcome.release:
            # It has gone back by itself, or comes from where it is.
            continue
        if word.release is None or not is_release_id(word.release):
            outcome.not_undone += (f"{key[1]} ({key[0]}) has no release to go back to: this was its first deployment",)
        else:
            origins.setdefault(word.release, []).append(key)
    last = DeploymentId(outcome.deployment or "")
    for name, hosts in sorted(origins.items()):
        heard = by_role(key for key in hosts if verdicts[key] is Verdict.VERIFIED)
        unheard = by_role(key for key in hosts if verdicts[key] is Verdict.SILENT)
        undone = Outcome(release=name)
        try:
            _bring_back_to(session, here, outcome, name, heard, unheard, last, undone)
        except DeployError as error:
            undone.exit_code = error.exit_code
            outcome.not_undone += (f"going back to {name} failed: {error.message}",)
        finally:
            if undone.deployment is not None:
                last = DeploymentId(undone.deployment)
            if undone.status is not Status.BUILDING:
                outcome.undone += (undone,)
        if undone.exit_code == Interrupted.exit_code:
            outcome.exit_code = undone.exit_code
            return


def _bring_back_to(
    session: Session,
    here: Here,
    halted: Outcome,
    name: str,
    heard: Mapping[str, tuple[str, ...]],
    unheard: Mapping[str, tuple[str, ...]],
    last: DeploymentId,
    undone: Outcome,
) -> None:
    """One deployment of `undo`, later than the one that was halted, and than the last one."""
    release = read_release(session, name)
    undone.revision, undone.reused = release.revision, True
    undoes = DeploymentId(halted.deployment or "")
    with_halted = here.history.then(Deployment(undoes, record={"migrated": halted.migrated}))
    warn_of_migrations(session, with_halted, release, compare(session, halted.revision, release.revision).answer())
    nodes = tuple(dict.fromkeys(host for told in (heard, unheard) for hosts in told.values() for host in hosts))
    session.console.note(f"going back to {release.id} on {counted(len(nodes), 'host')}")
    expected = replace(here.expected, up=dict.fromkeys(unheard, ()) | dict(heard), down=())
    kept = kept_roles(release, replace(expected, up=together(heard, unheard)))
    attempt = attempt_at(
        release,
        "rollback",
        replace(here, expected=expected),
        None,
        kept=kept - bound_to_an_archive(session, release, kept),
        nodes=nodes,
        unheard=unheard,
        unasked=True,
        story={"undoes": undoes},
    )
    bring_back(session, replace(attempt, after=(*attempt.after, undoes, last)), undone)


def together(*told: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The hosts of each role in any of these."""
    roles = dict.fromkeys(role for each in told for role in each)
    return {role: tuple(host for each in told for host in each.get(role, ())) for role in roles}
