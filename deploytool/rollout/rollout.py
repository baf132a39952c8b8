"""One deployment of a release that is in the store.

    claim → manifests → announce → all fetched → migrate → go, wave by wave → all verified → migrate_after → record

In between stand the operator's own hooks: what fails there before `go` is a failed step, and later on a failed wave.

Up to `go` nothing changes on any host, and a failure takes back what was announced. From `go` on the hosts finish by
themselves: all that can be done is to listen, to tell what each of them says, and to let no more of them go.
"""

import json
from collections.abc import Iterable

from deploytool.errors import DeployError, FleetError, HookError, Interrupted
from deploytool.hooks.local import Moment
from deploytool.model.fleet import Fleet, Verdict
from deploytool.model.history import RoleHost
from deploytool.model.lifecycle import Event, Status
from deploytool.model.release import (
    DeploymentId,
    deployment_record_key,
)
from deploytool.model.waves import Wave, pauses
from deploytool.rollout.announce import Announced, announce, claim_release, manifests
from deploytool.rollout.attempt import Attempt, by_role, new_deployment_id, pairs
from deploytool.rollout.listening import Listening, ReleaseNotKept
from deploytool.rollout.migrations import migrate, migrate_after
from deploytool.screen.summary import Outcome, role_hosts
from deploytool.session import Session
from deploytool.state.freeze import note_freeze, refuse_if_frozen
from deploytool.state.history_store import random_characters
from deploytool.text import ids
from deploytool.text.words import counted
from deploytool.trace import log

#: After an abort, hosts at the barrier leave within a poll or two; their last words are waited for this long.
LAST_WORDS_SECONDS = 5.0
#: How long an interrupted operator waits for the worker to put things in order.
FAREWELL_SECONDS = 15.0
RECORD_SECONDS = 60.0


def earlier_deployments(session: Session, attempt: Attempt) -> list[str]:
    """What a new deployment must be later than: hosts take only what is.

    What no clock can have made counts where a host has had it. Whoever can write to the store could else give every
    later deployment an id that hosts never get over.
    """
    expected = attempt.expected
    had = {word.deployment for word in expected.words.values()}
    found = []
    for name in dict.fromkeys((*expected.wanted, *attempt.after)):
        why = ids.why_impossible(name, session.now())
        if why is None or name in had:
            found.append(name)
        else:
            session.console.note(f"the history's deployment {name} {why}: no host ever had it; it is ignored")
    return found


def bring(session: Session, attempt: Attempt, outcome: Outcome) -> None:
    """One deployment, from its claim on the release to its record. The environment's lock is held.

    Raises ReleaseNotKept if a host has not kept what it was to keep: then nobody was switched. Raises HookError if the
    operator's side objects before `go`.
    """
    release = attempt.release
    deployment = new_deployment_id(session.now(), earlier_deployments(session, attempt), random_characters())
    outcome.deployment = deployment
    outcome.spared, outcome.told = pairs(attempt.spared), pairs(attempt.unheard)
    outcome.migrate_after = "due" if attempt.kind == "deploy" and session.settings.build.migrate_after else None
    outcome.story = {
        "environment": session.settings.environment,
        "deployment": deployment,
        "kind": attempt.kind,
        "release": release.id,
        "revision": release.revision,
        "checksum": release.checksum,
        "subject": release.subject,
        "from": attempt.live.release,
        "from_revision": attempt.live.revision,
        "operator": session.operator.name,
        "ci_job": session.operator.ci_job,
        "began_at": ids.recorded(session.now()),
        "nodes": list(attempt.nodes),
        "waves": len(attempt.plan.waves),
        "expected": role_hosts((role, host) for role, hosts in attempt.expected.up.items() for host in hosts),
        "spared": role_hosts(outcome.spared),
        "downloaded": sorted(set(attempt.expected.up) - attempt.kept),
        # Whoever is killed leaves it due.
        "migrate_after": outcome.migrate_after,
        **attempt.story,
    }
    outcome.branch = release.branch
    log.info(
        "%s %s brings %s to %s; without a download to %s; in %d waves; already on it: %s; a rollback would go to %s",
        *(attempt.kind, deployment, release.id, named_hosts(attempt.expected.hosts), sorted(attempt.kept)),
        *(max(1, len(attempt.plan.waves)), named_hosts(outcome.spared), attempt.rollback_release),
    )
    hook(session, attempt, "before_announce", outcome)
    made = manifests(session, attempt, deployment)
    outcome.story["signed_by"] = made.signer
    with outcome.phase("manifests"):
        # Each of these is in line behind the one before: what fails leaves undone what comes after it.
        claim = claim_release(session, release, deployment, outcome.story)
        published = session.store.put([*made.texts.items()], after=claim.done)
        announced = announce(session, attempt, deployment, made, after=published) if attempt.wait else None
        claim.settle()
    fleet = Fleet(attempt.expected.up)
    fell_back = False
    try:
        if announced is None:
            with outcome.phase("manifests"):
                published.answer()
            if attempt.migrate:
                # Later on, announcing would refuse: with the schema changed already.
                refuse_if_frozen(session)
                migrate(session, release, outcome)
            hook(session, attempt, "before_go", outcome)
            # They go without being waited for: from here on it is unknown whether a host was switched.
            outcome.advance(Event.LOSE)
            announced = announce(session, attempt, deployment, made)
        rollout(session, attempt, announced, fleet, outcome)
        if outcome.migrate_after == "due" and attempt.is_for_all and outcome.status is Status.VERIFIED:
            migrate_after(session, release, outcome)
    except DeployError as error:
        outcome.exit_code = error.exit_code
        outcome.story["error"] = error.message
        fell_back = isinstance(error, ReleaseNotKept)
        raise
    except KeyboardInterrupt:
        outcome.exit_code = Interrupted.exit_code
        raise
    except BaseException as bug:
        outcome.exit_code = DeployError.exit_code
        outcome.story["error"] = f"{type(bug).__name__}: {bug}"
        raise
    finally:
        outcome.end()
        # Nobody listened to hosts that were not waited for: there is nothing to tell of them.
        if attempt.wait:
            outcome.hosts, outcome.unexpected = fleet.results(), fleet.unexpected()
        if outcome.status is Status.ABORTED or (outcome.status is Status.HALTED and attempt.plan.goes_back):
            outcome.migrate_after = None
        record(session, deployment, outcome, fell_back=fell_back)


def named_hosts(hosts: Iterable[RoleHost]) -> str:
    return ", ".join(f"{host} ({role})" for role, host in sorted(hosts)) or "none"


def hook(session: Session, attempt: Attempt, moment: Moment, outcome: Outcome) -> None:
    """Run the operator's own commands for this moment. Raises HookError."""
    if not attempt.unasked:
        session.hook(moment, outcome)


def rollout(session: Session, attempt: Attempt, announced: Announced, fleet: Fleet, outcome: Outcome) -> None:
    """Wait until every host holds the archive, migrate, let them go in waves, wait for every host's proof."""
    try:
        with outcome.phase("announce"), session.console.step("announce"):
            answer = announced.asked.answer()
            note_freeze(session, answer.frozen)
            if answer.note is not None:
                session.console.note(answer.note)
    except KeyboardInterrupt:
        take_back(session, cancel=True)
        raise
    if announced.reports is None:
        outcome.advance(Event.GO)
        session.console.note("announced; not waiting for the hosts (--no-wait): nothing is verified")
        return
    outcome.advance(Event.ANNOUNCE)
    listening = Listening(session, fleet, announced.reports)
    try:
        prepare_hosts(session, attempt, listening, outcome)
        let_go(session, attempt, 0, outcome)
        outcome.advance(Event.GO)
    except (DeployError, KeyboardInterrupt) as reason:
        interrupted = isinstance(reason, KeyboardInterrupt)
        if outcome.status is not Status.ROLLING:
            outcome.advance(take_back(session, cancel=interrupted))
        # Ctrl-C may come between the word and its answer: then it came after `go`.
        if not (interrupted and outcome.status is Status.ROLLING):
            with session.console.fleet(fleet, "abort"):
                listening.for_seconds(LAST_WORDS_SECONDS)
            raise
        hear_last_words(session, listening, outcome)
        return
    try:
        with outcome.phase("activate"):
            go_on(session, attempt, listening, outcome)
    except KeyboardInterrupt:
        if attempt.plan.waves:
            take_back(session, cancel=False)
            if outcome.gone == attempt.expected.hosts and outcome.status is not Status.HALTED:
                settle_in_the_end(session, outcome)
        hear_last_words(session, listening, outcome)
    except DeployError:
        # Consul can't be asked, or a newer deployment has ended this one: those that went are on their way.
        take_back(session, cancel=False)
        with session.console.fleet(fleet, "abort"):
            listening.for_seconds(LAST_WORDS_SECONDS)
        raise
    session.bus.end_watch()


def let_go(session: Session, attempt: Attempt, number: int, outcome: Outcome) -> None:
    """Let the hosts of a wave go, the first being 0: with the last one all that are left. Raises ConsulError."""
    before = outcome.gone
    if number >= len(attempt.plan.waves) - 1:
        outcome.gone = attempt.expected.hosts
        asked = session.bus.go()
    else:
        outcome.gone = before | attempt.plan.waves[number].hosts
        asked = session.bus.go_only(by_role(outcome.gone))
    try:
        # Ctrl-C may come between the word and its answer: then it came after the word.
        asked.answer()
    except DeployError:
        outcome.gone = before
        raise


def go_on(session: Session, attempt: Attempt, listening: "Listening", outcome: Outcome) -> None:
    """From the first `go` on: wait for each wave's proofs, let the next go; halt when too many hosts have failed."""
    fleet, console = listening.fleet, session.console
    waves = attempt.plan.waves or (Wave(1, frozenset(fleet.expected)),)
    for number, wave in enumerate(waves):
        last = number == len(waves) - 1
        if number > 0:
            let_go(session, attempt, number, outcome)
        if len(waves) > 1:
            console.note(f"wave {number + 1} of {len(waves)}: {counted(len(wave.hosts), 'host')} may switch")
        with console.fleet(fleet, "activate", outcome.gone):
            listening.for_seconds(session.settings.wait.activate_seconds, wave.hosts)
        failed = [result for result in fleet.bad() if (result.role, result.host) in outcome.gone]
        too_many = len(failed) > attempt.plan.max_failures
        if not too_many:
            outcome.objection = objection_to_wave(session, attempt, fleet, outcome)
        refused = too_many or outcome.objection is not None
        if failed or refused:
            outcome.exit_code = FleetError.exit_code
        halted = refused and (not last or attempt.plan.goes_back)
        if halted or pauses(waves, number, attempt.plan.pause_after):
            outcome.advance(Event.HALT if halted else Event.PAUSE)
            stop(session, listening, outcome.gone)
            return
    settling = session.bus.settle() if attempt.plan.waves else None
    words = session.bus.last_words(outcome.deployment or "", attempt.release.id, by_role(fleet.expected))
    if settling is not None:
        settling.answer()
        outcome.settled = True
    listening.ask_last_words(words)
    if fleet.bad():
        outcome.exit_code = FleetError.exit_code
    outcome.advance(Event.FAIL if outcome.exit_code else Event.VERIFY)


def objection_to_wave(session: Session, attempt: Attempt, fleet: Fleet, outcome: Outcome) -> str | None:
    """What the operator's own commands have against the wave that has just gone; None if nothing."""
    outcome.hosts = fleet.results()
    try:
        hook(session, attempt, "after_wave", outcome)
    except HookError as error:
        session.console.note(error.message)
        return error.message
    return None


def settle_in_the_end(session: Session, outcome: Outcome) -> None:
    """The operator interrupted once all had gone. Trouble is noted: the worker tries again as the session ends."""
    try:
        session.bus.settle().answer(limit_seconds=FAREWELL_SECONDS)
        outcome.settled = True
    except DeployError as trouble:
        session.console.note(str(trouble))


def stop(session: Session, listening: "Listening", gone: frozenset[RoleHost]) -> None:
    """Let no more hosts go. Those that wait keep what they have, and what is wanted of them is what it was before.

    Of a host that was let go and said nothing more, nobody knows whether it has switched.
    """
    switched = {
        (result.role, result.host)
        for result in listening.fleet.results()
        if result.verdict in (Verdict.VERIFIED, Verdict.SILENT)
    }
    session.bus.halt(by_role(gone & switched)).answer()
    with session.console.fleet(listening.fleet, "abort"):
        listening.for_seconds(LAST_WORDS_SECONDS, frozenset(listening.fleet.expected) - gone)


def hear_last_words(session: Session, listening: "Listening", outcome: Outcome) -> None:
    """The operator interrupted after `go`: nothing is taken back, and what hosts say at once is heard."""
    outcome.exit_code = Interrupted.exit_code
    session.console.note(
        "interrupted after `go`: the hosts finish by themselves"
        + (", and no more are let go" if len(outcome.gone) < len(listening.fleet.expected) else "")
    )
    with session.console.fleet(listening.fleet, "interrupted"):
        listening.for_seconds(LAST_WORDS_SECONDS)


def take_back(session: Session, *, cancel: bool) -> Event:
    """Abort what was announced, and end what runs first if the operator interrupted.

    Returns what has happened: GO if the hosts had been let go before, so that nothing was taken back; LOSE if that is
    unknown. Trouble on the way is noted: it must not hide why the deployment ended. The worker tries again as the
    session ends.
    """
    try:
        if cancel:
            session.build_server.cancel().answer(limit_seconds=FAREWELL_SECONDS)
        let_go = session.bus.abort().answer(limit_seconds=FAREWELL_SECONDS).let_go
    except DeployError as trouble:
        session.console.note(str(trouble))
        return Event.LOSE
    return Event.LOSE if let_go is None else Event.GO if let_go else Event.ABORT


def prepare_hosts(session: Session, attempt: Attempt, listening: "Listening", outcome: Outcome) -> None:
    """Wait until every host holds the archive, then migrate. Raises FleetError, StepError or HookError: then nobody may
    go."""
    with outcome.phase("fetch"), session.console.fleet(listening.fleet, "fetch"):
        listening.until_fetched(session.settings.wait.fetch_seconds)
    outcome.advance(Event.FETCH)
    outcome.hosts = listening.fleet.results()
    hook(session, attempt, "after_fetch", outcome)
    if attempt.migrate:
        migrate(session, attempt.release, outcome)
    hook(session, attempt, "before_go", outcome)
    listening.hear_now()
    listening.refuse_if_lost()


def record(session: Session, deployment: DeploymentId, outcome: Outcome, *, fell_back: bool) -> None:
    """Write down how the deployment ended. A record that can't be written does not make the deployment fail."""
    content = {
        **outcome.story,
        **outcome.as_dict(),
        "ended_at": ids.recorded(session.now()),
        "let_go": outcome.status.let_go,
        "settled": outcome.settled,
        "migrated": outcome.migrated,
        "fell_back": fell_back,
        "verified": outcome.status is Status.VERIFIED,
        "steps": dict(session.console.took),
    }
    key = deployment_record_key(session.settings.environment, deployment)
    try:
        entries = [(key, json.dumps(content, indent=2) + "\n")]
        session.store.put(entries).answer(limit_seconds=RECORD_SECONDS)
    except DeployError as error:
        session.console.note(f"the deployment's record could not be written: {error.message}")
