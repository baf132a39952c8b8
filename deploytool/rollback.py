"""`fab ENV rollback`: back to the last good release before the current one, without a build, mostly without a download.

lock → history → choice → what changes → rollout by what the hosts have kept, else an ordinary one → retention

A freeze does not stop it: who freezes an environment wants it to stay good, and this is the way back to that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deploytool.build.commits import begin_compare, compare, tell_changes
from deploytool.errors import DeployError, Interrupted, SettingsError, UsageError
from deploytool.hosts.manifest import render_manifest
from deploytool.hosts.rehearsal import TEMPLATES
from deploytool.hosts.role_manifest import TEMPLATE_NAME
from deploytool.migrations import warn_of_migrations
from deploytool.model.fleet import LastWord, Verdict
from deploytool.model.history import Choice, Deployment, History, RoleHost, is_proven, rollback_choice, standings
from deploytool.model.release import NO_DEPLOYMENT, DeploymentId, Release, ReleaseId, is_release_id, record_key
from deploytool.rollout import Attempt, ReleaseNotKept, attempt_at, bring, by_role
from deploytool.screen.console import counted
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.cleanup import cleaned_up
from deploytool.state.history_store import read_history
from deploytool.state.releases import read_release
from deploytool.state.targets import Expected, Here, begin_stand, check_event_sizes, expected_hosts, strays, tell_lost

#: So many releases of the choice are shown.
SHOWN = 10


def rollback(session: Session, release_id: str | None, outcome: Outcome) -> None:
    """The whole story. Fills `outcome`; raises DeployError for whatever ends it before the hosts were let go."""
    settings = session.settings
    check_event_sizes(session)
    with session.lock_ahead(settings.environment, wait=False) as held, cleaned_up(session):
        standing = begin_stand(session, after=held)
        session.begins(f"rollback to {release_id}" if release_id else "rollback", outcome)
        with outcome.phase("hosts"):
            here = standing()
            tell_lost(session, here.expected)
            outcome.down = here.expected.down
        with outcome.phase("choice"):
            release = read_release(session, choose_target(session, here, release_id))
            outcome.release, outcome.revision, outcome.reused = release.id, release.revision, True
            comparing = begin_compare(session, here.served.revision, release.revision)
            # What was wanted last has migrated, even if its hosts went back.
            same = here.served == here.live
            wanting = None if same else begin_compare(session, here.live.revision, release.revision)
            changes = comparing()
            tell_changes(session, here, changes)
            wanted = changes if wanting is None else wanting()
            warn_of_migrations(session, here.history, release, wanted)
            kept = kept_roles(release, here.expected)
            kept -= bound_to_an_archive(session, release, kept)
        bring_back(session, attempt_at(release, "rollback", here, changes, kept=kept), outcome)


def bring_back(session: Session, attempt: Attempt, outcome: Outcome) -> None:
    """Bring a release that hosts have kept; where one has not, they download it. To no other hosts than before."""
    try:
        bring(session, attempt, outcome)
    except ReleaseNotKept as error:
        session.console.note(f"{error.message}; all hosts of {', '.join(sorted(error.roles))} download it now")
        first = DeploymentId(outcome.deployment or "")
        outcome.exit_code, outcome.hosts, outcome.unexpected, outcome.let_go = 0, (), (), False
        now, before = expected_hosts(session, ()), attempt.expected
        up = {role: tuple(host for host in hosts if host in now.up.get(role, ())) for role, hosts in before.up.items()}
        expected = replace(now, up=up, down=() if attempt.nodes else now.down)
        bring(session, replace(attempt, expected=expected, kept=attempt.kept - error.roles, after=(first,)), outcome)


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
                outcome.undone += (undone,)
                last = DeploymentId(undone.deployment)
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
    warn_of_migrations(session, with_halted, release, compare(session, halted.revision, release.revision))
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
                f"the release {chosen} has never been verified in {environment}: there is no going back to it",
                hint=f"`fab {environment} releases` lists them; `fab {environment} deploy --release {chosen}` "
                "brings one that is new here",
            )
        choice = replace(choice, target=chosen)
        if known.bad is not None:
            session.console.note(f"{chosen} is {known.words}")
    elif astray and live is not None and choice.standing is not None and choice.standing.may_return:
        names = ", ".join(f"{host} ({role}) at {release}" for (role, host), release in sorted(astray.items()))
        session.console.note(f"{names}: going back to what is wanted of all")
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
            else f"mend what failed, and: fab {environment} deploy",
        )
    return choice.target


def _still_there(session: Session, history: History, choice: Choice) -> Choice:
    """The choice among what the store has still: a mark may have moved it to one that retention had given up."""
    while choice.target is not None:
        if session.worker.ask("store_exists", key=record_key(choice.target))["exists"]:
            break
        choice = rollback_choice(history, choice.current, choice.gone | {choice.target})
    return choice


def choice_lines(choice: Choice) -> list[str]:
    """For people: the current release, those before it, and an arrow at the one that was chosen."""
    words = f", {choice.standing.words}" if choice.standing is not None else ""
    lines = [f"   {choice.current or 'nothing'}  live now{words}"]
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


def kept_roles(release: Release, expected: Expected) -> frozenset[str]:
    """The roles whose hosts all say that they have the release still."""
    return frozenset(
        role
        for role, hosts in expected.up.items()
        if all(release.id in expected.words.get((role, host), LastWord()).kept for host in hosts)
    )


def bound_to_an_archive(session: Session, release: Release, roles: frozenset[str]) -> frozenset[str]:
    """The roles whose manifests can't be had without an archive: the user's own template insists on one."""
    settings, bound = session.settings, set()
    if not (settings.directory / TEMPLATES / TEMPLATE_NAME).is_file():
        return frozenset()
    for role in roles:
        try:
            render_manifest(settings, role, release, NO_DEPLOYMENT, settings.directory / TEMPLATES, kept=True)
        except SettingsError as error:
            bound.add(role)
            session.console.note(f"{role} downloads the release: {'; '.join(error.problems)}")
    return frozenset(bound)
