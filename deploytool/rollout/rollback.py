"""`fab ENV rollback`: back to the last good release before the current one, without a build, mostly without a download.

lock → history → choice → what changes → rollout by what the hosts have kept, else an ordinary one → retention

A freeze does not stop it: who freezes an environment wants it to stay good, and this is the way back to that.
"""

from dataclasses import replace

from deploytool.build.commits import compare, tell_changes
from deploytool.errors import UsageError
from deploytool.model.history import Choice, History, is_proven, rollback_choice, standings
from deploytool.model.release import ReleaseId, record_key
from deploytool.rollout.attempt import attempt_at
from deploytool.rollout.kept import bound_to_an_archive, bring_back, kept_roles
from deploytool.rollout.migrations import warn_of_migrations
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.cleanup import cleaned_up
from deploytool.state.history_store import read_history
from deploytool.state.releases import read_release
from deploytool.state.targets import Here, check_event_sizes, stand, strays, tell_lost

#: So many releases of the choice are shown.
SHOWN = 10


def rollback(session: Session, release_id: str | None, force: str | None, outcome: Outcome) -> None:
    """The whole story; `force` says why, if nobody has signed the release.

    Fills `outcome`; raises DeployError for whatever ends it before the hosts were let go.
    """
    settings = session.settings
    check_event_sizes(session)
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        standing = stand(session, after=held)
        session.begins(f"rollback to {release_id}" if release_id else "rollback", outcome)
        with outcome.phase("hosts"):
            here = standing.answer()
            tell_lost(session, here.expected)
            outcome.down = here.expected.down
        with outcome.phase("choice"):
            release = read_release(session, choose_target(session, here, release_id))
            outcome.release, outcome.revision, outcome.reused = release.id, release.revision, True
            comparing = compare(session, here.served.revision, release.revision)
            # What was wanted last has migrated, even if its hosts went back.
            same = here.served == here.live
            wanting = None if same else compare(session, here.live.revision, release.revision)
            changes = comparing.answer()
            tell_changes(session, here, changes)
            wanted = changes if wanting is None else wanting.answer()
            warn_of_migrations(session, here.history, release, wanted)
            kept = kept_roles(release, here.expected)
            kept -= bound_to_an_archive(session, release, kept)
        bring_back(session, attempt_at(release, "rollback", here, changes, kept=kept, force=force), outcome)


def choose_target(session: Session, here: Here, release_id: str | None) -> ReleaseId:
    """The release to go back to; shows the list it chose from. Raises UsageError if there is none."""
    environment, history, live = session.settings.environment, here.history, here.live.release
    choice = rollback_choice(history, live)
    astray = strays(session, here.expected, history, here.live)
    if release_id is not None:
        chosen = ReleaseId(release_id)
        if not is_proven(history, chosen):
            history = read_history(session, environment, lambda found: is_proven(found, chosen))
        known = standings(history).get(chosen)
        if known is None or not known.proven:
            raise UsageError(
                f"the release {chosen} was never verified in {environment}: a rollback can't go back to it",
                hint=f"`fab {environment} releases` lists them; `fab {environment} deploy --release {chosen}` "
                "deploys one that is new here",
            )
        choice = replace(choice, target=chosen)
        if known.bad is not None:
            session.console.note(f"{chosen} is {known.words}")
    elif astray and live is not None and choice.standing is not None and choice.standing.may_return:
        names = ", ".join(f"{host} ({role}) at {release}" for (role, host), release in sorted(astray.items()))
        session.console.note(f"{names}: going back to the release expected on all hosts")
        choice = replace(choice, target=live)
    else:
        choice = _still_there(session, history, choice)
    for line in choice_lines(choice):
        session.console.note(line)
    if choice.target is None:
        raise UsageError(
            f"{environment} has no release to go back to: none before {live or 'now'} was verified here"
            + (" and is neither bad nor gone" if choice.before else ""),
            hint=f"`fab {environment} releases` lists them; `fab {environment} rollback --release ID` chooses one"
            if choice.before
            else f"fix what failed, then run `fab {environment} deploy`",
        )
    return choice.target


def _still_there(session: Session, history: History, choice: Choice) -> Choice:
    """The choice among what the store has still: a mark may have moved it to one that retention had given up."""
    while choice.target is not None:
        if session.store.exists(record_key(choice.target)).answer().exists:
            break
        choice = rollback_choice(history, choice.current, choice.gone | {choice.target})
    return choice


def choice_lines(choice: Choice) -> list[str]:
    """For people: the current release, those before it, and an arrow at the one that was chosen."""
    words = f", {choice.standing.words}" if choice.standing is not None else ""
    lines = [f"   {choice.current or 'nothing'}  current{words}"]
    for standing in choice.before[:SHOWN]:
        arrow = "->" if standing.release == choice.target else "  "
        revision = f"  {standing.revision[:10]}" if standing.revision else ""
        gone = ", gone from the store" if standing.release in choice.gone else ""
        lines.append(f"{arrow} {standing.release}{revision}  {standing.words}{gone}")
    if len(choice.before) > SHOWN:
        lines.append(f"   and {len(choice.before) - SHOWN} older")
    if choice.target is not None and choice.target not in [each.release for each in choice.before[:SHOWN]]:
        lines.append(f"-> {choice.target}")
    return lines
