"""The hosts of each role: who they are, and whether each hears, over the very way that a deployment takes.

A probe is an event of the role's own name. Its manifest only answers (templates/host/probe.sh): nothing is wanted,
unpacked or switched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.connection.client import error_of
from deploytool.errors import DeployError, FleetError, LockedError
from deploytool.hosts.manifest import hosts_url
from deploytool.hosts.probes import probe_archive, render_probe, render_proof
from deploytool.model.fleet import LONGEST_LINE, named, unremoved_words
from deploytool.model.history import RoleHost
from deploytool.model.proof import PROOFS, asked_proof, is_weaker
from deploytool.model.release import (
    DeploymentId,
    consul_prefix,
    event_name,
    probe_archive_key,
    probe_key,
    probes_prefix,
)
from deploytool.queries.checks.finding import Check, failed, tried
from deploytool.session import Session
from deploytool.state.history_store import moment_name
from deploytool.state.targets import Expected, event_room, read_audience, refuse_deaf_role, refuse_impossible_ids
from deploytool.text import ids
from deploytool.text.untrusted import printable, read_json
from deploytool.trust.signing import find_key, is_agents, is_hardware, key_name, sign
from deploytool.trust.statement import name_of, statement
from deploytool.worker.wire import Answers, Question, Signed, Trouble

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: So long hosts are waited for. A host that is well answers within a second or two.
ANSWER_SECONDS = 15
#: And while they prove anew: one that serves is as quick, another looks again for a while (prove.sh).
PROOF_SECONDS = 30


def check_event_sizes(session: Session) -> list[Check]:
    """Whether each role's event can hold the URL of its manifests."""
    return [tried(f"event size {role}", partial(event_room, session, role)) for role in session.settings.roles]


def check_hosts(session: Session, probe: DeploymentId, why_not: str | None) -> list[Check]:
    """Each role's hosts, then each host. `why_not`: what keeps hosts from being asked, if anything does."""
    try:
        expected = read_audience(session)
    except DeployError as error:
        return [failed("hosts", error)]
    checks = [tried(f"hosts of {role}", partial(hosts_found, session, expected, role)) for role in expected.up]
    checks += [
        Check(f"room on {host} ({role})", True, unremoved_words(host, role, word.unremoved))
        for (role, host), word in expected.words.items()
        if word.unremoved
    ]
    if why_not is None and expected.hosts:
        try:
            with session.lock(session.settings.environment, wait=False):
                # Read once more: somebody may have deployed, and left, before the lock was ours.
                return [*checks, *ask_hosts(session, read_audience(session), probe)]
        except LockedError as error:
            why_not = f"a deployment may be under way: {error.message}"
        except DeployError as error:
            return [*checks, failed("watches", error)]
    return [*checks, *(not_asked(role, host, why_not) for role, hosts in expected.up.items() for host in hosts)]


def not_asked(role: str, host: str, why: str | None) -> Check:
    return Check(f"watch {host} ({role})", None, f"not asked: {why}")


def hosts_found(session: Session, expected: Expected, role: str) -> str:
    refuse_deaf_role(session, expected, role)
    up = expected.up[role]
    down = [host for of, host in expected.down if of == role]
    return f"{len(up)} up: {', '.join(up)}" + (f"; {len(down)} down: {', '.join(down)}" if down else "")


def busy_hosts(session: Session, expected: Expected) -> Mapping[RoleHost, DeploymentId]:
    """Hosts that may be at the deployment which is wanted of them, though nobody holds the lock (`--no-wait`, say).

    Such a host gets what comes meanwhile in one list, and its stretcher takes any of that: no probe may be among it.
    """
    refuse_impossible_ids(session, expected)
    wait = session.settings.wait
    patience = timedelta(seconds=wait.fetch_seconds + wait.activate_seconds)
    found = {}
    for role, host in expected.hosts:
        wanted = expected.single.get((role, host)) or expected.whole.get(role)
        word = expected.words.get((role, host))
        if wanted is None or (word is not None and word.deployment == wanted):
            continue
        if session.now() - ids.moment_of(wanted) < patience:
            found[role, host] = wanted
    return found


def ask_hosts(session: Session, expected: Expected, probe: DeploymentId) -> list[Check]:
    """Ask every host that is not busy. The caller holds the environment's lock. Raises DeployError if none can be."""
    settings = session.settings
    busy = busy_hosts(session, expected)
    asked = {role: [host for host in hosts if (role, host) not in busy] for role, hosts in expected.up.items()}
    answer = ask(session, probe, asked, render_probe, ANSWER_SECONDS, probe_archive(probe))
    checks, shared = list[Check](), dict[str, list[str]]()
    for role, hosts in expected.up.items():
        failure = answer.failures.get(role)
        for host in hosts:
            if (role, host) in busy:
                checks.append(not_asked(role, host, f"{busy[role, host]} is still under way there"))
            elif failure is not None:
                checks.append(not_asked(role, host, error_of(failure).message))
            else:
                said = read_answer(answer.answers[role].get(host))
                wanted = expected.single.get((role, host)) or expected.whole.get(role)
                checks.append(tried(f"watch {host} ({role})", partial(judged, settings, role, said, wanted)))
                checks += [*weak_proof(settings, role, host, said), *weak_trust(settings, role, host, said)]
                if said is not None and said.shared:
                    shared.setdefault(role, []).append(host)
    return [*checks, *(shared_tokens(settings, role, hosts) for role, hosts in shared.items())]


def shared_tokens(settings: "Settings", role: str, hosts: Sequence[str]) -> Check:
    """A line for hosts that could report for each other. A host that means harm does not say so."""
    return Check(
        f"reports of {role}",
        True,
        f"the Consul token of {named(hosts)} can report for any host of {role} that a release is verified there, and "
        "so can anyone where ACLs are off. Give each host a token of its own: "
        f"`fab {settings.environment} app-server --role {role} --node NAME --output DIR` writes its policy",
    )


def weak_proof(settings: "Settings", role: str, host: str, said: "HostAnswer | None") -> list[Check]:
    """A line for a host that has learned where its role listens, while the settings ask for less than that."""
    asked = asked_proof(settings.roles[role].verify)
    if said is None or not said.listens or not is_weaker(asked, "listening"):
        return []
    return [
        Check(
            f"proof {host} ({role})",
            True,
            f"the role listens on {said.listens}, and its settings ask only for: {PROOFS[asked]}. "
            f"Hosts ask each release to listen where the one before did; say so yourself with "
            f"`roles.{role}.verify.port`, or better `verify.url`",
        )
    ]


def weak_trust(settings: "Settings", role: str, host: str, said: "HostAnswer | None") -> list[Check]:
    """A line for a host that checks less than the settings ask for before it runs anything."""
    if said is None or said.receiver not in ("none", "digest"):
        return []
    again = f"run there again what `fab {settings.environment} app-server` prints"
    if said.receiver == "none":
        return [Check(f"trust {host} ({role})", True, f"it runs whatever an event names without checking it; {again}")]
    if settings.trust.signers is not None:
        return [
            Check(f"trust {host} ({role})", True, f"it does not check signatures, and trust.signers is set; {again}")
        ]
    return []


def check_trust(settings: "Settings") -> list[Check]:
    """What hosts check before they run anything, and whether this machine's key will do."""
    if settings.has_pretend_hosts:
        return []
    if settings.trust.signers is None:
        return [
            Check(
                "trust",
                True,
                "hosts run what Consul's keys name, by its digest: anyone who can write those can run anything on "
                "hosts. With `trust.signers` hosts run only what one of these signers has signed",
            )
        ]
    return [tried("trust", partial(signer_found, settings))]


def signer_found(settings: "Settings") -> str:
    key, signers = find_key(settings) or (Path(), ())
    names = ", ".join(name for signer in signers for name in signer.names)
    lent = settings.build.forward_agent and is_agents(key) and not is_hardware(key)
    return f"signed with {key_name(key)}; who may deploy here: {names}" + (
        "; build.forward_agent lends the agent that has this key to the build server, which can sign meanwhile: "
        "use another key (`trust.key`), or load it with `ssh-add -c`, which asks each time"
        if lent
        else ""
    )


def ask(
    session: Session,
    probe: DeploymentId,
    hosts: Mapping[str, Sequence[str]],
    render: Callable[["Settings", str, DeploymentId], str],
    seconds: float,
    archive: str = "",
) -> Answers:
    """The answers of these hosts, by role, to a probe, signed as a deployment is. Raises DeployError."""
    settings = session.settings
    questions = []
    for role in (role for role, names in hosts.items() if names):
        key = probe_key(settings.environment, probe, role)
        event = event_name(settings.application, role, settings.environment)
        url = hosts_url(settings, key)
        fetched = (archive, probe_archive_key(settings.environment, probe, role))
        questions.append(Question(role, event, key, render(settings, role, probe), url, list(hosts[role]), *fetched))
    manifests = ((name_of(each.role), each.manifest) for each in questions)
    said = statement(settings.application, settings.environment, probe, manifests)
    signature = sign(settings, said, ids.moment_of(probe), tell=session.console.note) if questions else None
    signed = Signed(said, signature.text if signature else None)
    return session.bus.probe(probe, probes_prefix(settings.environment), questions, signed, seconds).answer()


@dataclass(frozen=True, slots=True)
class ProofAnswer:
    """What a host found when it was asked to prove anew what it serves."""

    proven: bool
    reason: str


def prove_hosts(session: Session) -> Mapping[RoleHost, ProofAnswer]:
    """Have every host that is up prove anew what it serves, and correct its last word.

    A host that does not answer has proved nothing. Hosts are left out to which a deployment may be on its way. Raises
    LockedError while somebody deploys, ConsulError if Consul can't be asked.
    """
    environment = session.settings.environment
    with session.lock(environment, wait=False), session.console.step("prove"):
        expected = read_audience(session)
        busy = busy_hosts(session, expected)
        probe = DeploymentId(moment_name(session.now()))
        asked = {role: [host for host in hosts if (role, host) not in busy] for role, hosts in expected.up.items()}
        answer = ask(session, probe, asked, render_proof, PROOF_SECONDS)
    for (role, host), deployment in busy.items():
        session.console.note(f"{host} ({role}) is not asked: {deployment} is still under way there")
    return {
        (role, host): read_proof(answer.answers.get(role, {}).get(host), answer.failures.get(role))
        for role, hosts in asked.items()
        for host in hosts
    }


def read_proof(value: str | None, failure: Trouble | None) -> ProofAnswer:
    """A host's answer as it stands in Consul, where any host may write anything. `failure`: why it was not asked."""
    if failure is not None:
        return ProofAnswer(False, f"it was not asked: {error_of(failure).message}")
    if value is None:
        return ProofAnswer(False, f"it did not answer within {PROOF_SECONDS} s; `fab ENV check` tries the way to it")
    try:
        said = read_json(value)
        return ProofAnswer(said["proven"] is True, printable(str(said.get("reason") or "")[:LONGEST_LINE]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return ProofAnswer(False, f"its answer is not understood: {printable(value[:100])}")


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """What a host says of itself."""

    #: the path of its stretcher; empty for a pretend host's receiver
    program: str
    #: as it tells it; empty if it was built without
    version: str
    #: whether it is newer than 1.1.0
    newer: bool
    user: str
    #: the deployment that the host sees to be wanted of its role; empty if it sees none
    wanted: str
    #: what a deployment would lack there
    problems: tuple[str, ...]
    #: where the release that serves listens, for people; empty if the host has not learned that
    listens: str = ""
    #: see `fleet.LastWord`
    receiver: str = ""
    #: whether its token may report for other hosts
    shared: bool = False

    @property
    def stretcher(self) -> str:
        if not self.program:
            return "the built-in receiver"
        version = self.version or (
            "newer than 1.1.0, built without its version" if self.newer else "1.1.0 or older, built without its version"
        )
        return f"stretcher {version} ({self.program})"


def read_answer(value: str | None) -> HostAnswer | None:
    """A host's answer as it stands in Consul, where any host may write anything; None if there is none."""
    if value is None:
        return None
    try:
        said = read_json(value)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {"problems": [f"its answer is not understood: {value[:100]}"]}

    def text(name: str) -> str:
        found = said.get(name)
        return printable(found) if isinstance(found, str) else ""

    problems = said.get("problems")
    return HostAnswer(
        program=text("program"),
        version=text("version"),
        newer=text("newer") == "yes",
        user=text("user"),
        wanted=text("wanted"),
        problems=tuple(printable(str(each)) for each in problems) if isinstance(problems, list) else (),
        listens=text("listens"),
        receiver=text("receiver"),
        shared=text("shared") == "yes",
    )


def wanted_right(settings: "Settings", role: str) -> str:
    return f'key_prefix "{consul_prefix(settings.application, settings.environment)}/wanted/{role}" read'


def judged(settings: "Settings", role: str, said: HostAnswer | None, wanted: str | None) -> str:
    """What the host said, in words; `wanted` is what is wanted of it.

    Raises FleetError if it said nothing, or if a deployment could not go well there.
    """
    if said is None:
        raise FleetError(
            f"it did not answer within {ANSWER_SECONDS} s",
            hint=f"on the host: does its watch run (`systemctl status deploy-{settings.application}-{role}-"
            f"{settings.environment}`, its journal tells more)? Has its token the right to read the event, "
            f"{wanted_right(settings, role)}, and to report, its key to read the store? `fab ENV app-server` prints "
            "all that it needs",
        )
    problems = list(said.problems)
    if wanted is not None and not said.wanted:
        problems.append(f"it can't read `wanted/` in Consul: its token needs {wanted_right(settings, role)}")
    alive = f"hears, {said.stretcher}" + (f", as {said.user}" if said.user else "")
    if problems:
        raise FleetError(f"{alive}; but {'; '.join(problems)}")
    return alive
