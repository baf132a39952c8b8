"""Which faults strike at which points: the product of both, less what is left out for a reason.

A point is a boundary between two effects: the one that names it has happened, the next has not begun. A fault lasts
from there until the command has ended, or for `Case.lasts_seconds`, and is mended before the same command is given
again.

No point is what nobody waits for: `activated`, which a host tells beside its verification, and what it says it serves.
There is no `current/` in the store: the deployment's record is the last that a deployment writes.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Longer than what it strikes is tried again, where it is tried again at once. Most commands end earlier.
LASTS_SECONDS = 10
#: Longer than a request to S3 waits for its answer.
HANGS_SECONDS = 35
#: S3 hangs that long where it is asked by each of those that ask it: the upload, a record's writer, the hosts. At the
#: other points it is the same code that waits, and an answer that comes late is tried.
HANGS_LONG = ("first_part", "manifest", "event", "recorded")

#: in the order of a deployment
POINTS: Mapping[str, str] = {
    "fetched": "the mirror is fetched",
    "checked_out": "the revision is checked out",
    "dependencies": "dependencies are installed",
    "assets": "assets are built",
    "packed": "tar has ended",
    "first_part": "the upload's first part of two is stored",
    "last_part": "the upload's last part is stored",
    "archived": "the upload is complete",
    "release_written": "the release's record is written",
    "reuse_written": "the record for reuse is written",
    "begun": "the deployment's beginning is written",
    "manifest": "the deployment's manifest is written",
    "claimed": "`go` says `wait 0`",
    "wanted": "`wanted` is written",
    "event": "the event is fired",
    "fetched_first": "the first host has reported `fetched`",
    "fetched_last": "the last host has reported `fetched`",
    "migrated": "the migrations have run",
    "go": "`go all` is written",
    "switched": "a host has switched `current`",
    "restarted": "a host's application is restarted",
    "verifying": "a host's application is being verified",
    "verified_first": "the first host has reported `verified`",
    "verified_last": "the last host has reported `verified`",
    "recorded": "the deployment's record is written",
}

OPERATOR = ("sigkill", "sigterm", "ctrl_c")
#: where a release is uploaded in several parts
IN_PARTS = ("packed", "first_part", "last_part", "archived")

LINE = ("ssh_cut", "sshd_restarted")
S3 = ("s3_refuses", "s3_hangs", "s3_500", "s3_503", "s3_403")
#: the agent is the build server's
CONSUL = ("consul_leader_lost", "consul_agent_down", "consul_403")
DISK = ("build_server_full", "host_full")
#: of the build server, and of a host
CLOCK = ("clock_ahead", "clock_back", "host_clock_ahead")
HOST = ("host_agent_down", "host_full", "host_clock_ahead")
FAULTS = tuple(dict.fromkeys((*OPERATOR, *LINE, *S3, *CONSUL, *DISK, *CLOCK, *HOST)))

#: What a command may end with, beside 0: what it met may have been mended in time, or not been in its way any more.
EXIT_CODES: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(OPERATOR, frozenset({130})),
    **dict.fromkeys(LINE, frozenset({5})),
    **dict.fromkeys(S3, frozenset({6, 8})),
    **dict.fromkeys(CONSUL, frozenset({7, 8})),
    **dict.fromkeys(CLOCK, frozenset({6, 8})),
    **dict.fromkeys(HOST, frozenset({8})),
    "build_server_full": frozenset({4}),
}


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Cases that are left out."""

    faults: Sequence[str]
    points: Sequence[str]
    reason: str


def _between(first: str, last: str) -> tuple[str, ...]:
    names = list(POINTS)
    return tuple(names[names.index(first) : names.index(last) + 1])


EXCLUSIONS = (
    Exclusion(
        S3,
        _between("checked_out", "dependencies"),
        "nothing but git and the user's commands runs until `assets`: S3 is met where it is met from `assets` on",
    ),
    Exclusion(
        S3,
        _between("claimed", "wanted"),
        "S3 is next asked by the hosts, once they have the event: met where it is met from `event` on",
    ),
    Exclusion(
        S3,
        _between("migrated", "verified_first"),
        "every host holds the archive, and records are written last: met where it is met from `verified_last` on",
    ),
    Exclusion(
        CONSUL,
        _between("fetched", "release_written"),
        "Consul is asked beside the fetch, and again once the release is published: met from `reuse_written` on",
    ),
    Exclusion(
        ("build_server_full",),
        (*_between("archived", "release_written"), *_between("begun", "fetched_first")),
        "nothing is written to the build server's disk but the end of the log, and who holds the lock for what is "
        "claimed: met at `reuse_written` and from `fetched_last` on",
    ),
    Exclusion(
        ("build_server_full",),
        _between("go", "verified_last"),
        "nothing is written to the build server's disk but the end of the log once hosts are let go",
    ),
    Exclusion(
        ("clock_ahead", "clock_back"),
        _between("checked_out", "dependencies"),
        "its clock is next read to sign what `assets` asks of S3: met where it is met from `assets` on",
    ),
    Exclusion(
        ("clock_ahead", "clock_back"),
        _between("claimed", "wanted"),
        "its clock is next read to sign the request for what is unpacked for migrations: met from `event` on",
    ),
    Exclusion(
        ("clock_ahead", "clock_back"),
        _between("migrated", "verified_first"),
        "its clock is next read to sign the deployment's record for S3: met where it is met from `verified_last` on",
    ),
    Exclusion(
        HOST,
        _between("fetched", "wanted"),
        "hosts do nothing before they have the event: met where it is met from `event` on",
    ),
    Exclusion(
        ("host_agent_down", "host_clock_ahead"),
        _between("verified_last", "recorded"),
        "every host has done and said all that it has to",
    ),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one point."""

    point: str
    fault: str

    def __str__(self) -> str:
        return f"{self.fault}-at-{self.point}"

    @property
    def lasts_seconds(self) -> float:
        """How long the fault lasts at most."""
        return HANGS_SECONDS if self.fault == "s3_hangs" and self.point in HANGS_LONG else LASTS_SECONDS


def product() -> Iterator[Case]:
    """Every fault at every point."""
    for point in POINTS:
        for fault in FAULTS:
            yield Case(point, fault)


def excluded(case: Case) -> Exclusion | None:
    """Why the case is left out; None if it is not."""
    return next((each for each in EXCLUSIONS if case.fault in each.faults and case.point in each.points), None)


#: those of `make test`: quick ones, each kind of fault at a point where it is likely to hurt
SELECTION = (
    Case("wanted", "sigkill"),
    Case("first_part", "sigterm"),
    Case("fetched_last", "ctrl_c"),
    Case("switched", "ssh_cut"),
    Case("assets", "sshd_restarted"),
    Case("verified_last", "s3_refuses"),
    Case("release_written", "s3_403"),
    Case("manifest", "consul_403"),
    Case("fetched_first", "host_full"),
)


#: Their cases mostly wait.
SLOW = ("s3_hangs", *CONSUL, "host_agent_down")


def comes_before(point: str, other: str) -> bool:
    names = list(POINTS)
    return names.index(point) < names.index(other)


def cases(*, whole: bool) -> tuple[Case, ...]:
    """In the order in which they run: to each slow one two others, so that somebody uses the processors meanwhile, and
    no slow one is waited for at the end alone."""
    every = [case for case in product() if excluded(case) is None]
    slow = [case for case in every if case.fault in SLOW]
    others = iter([case for case in every if case.fault not in SLOW])
    mixed = [case for first in slow for case in (first, *itertools.islice(others, 2))]
    return (*mixed, *others) if whole else SELECTION


def counts() -> str:
    """How many cases there are, and why others are not."""
    every = list(product())
    left_out: dict[str, int] = {}
    for case in every:
        if (exclusion := excluded(case)) is not None:
            left_out[exclusion.reason] = left_out.get(exclusion.reason, 0) + 1
    without = sum(left_out.values())
    product_of = f"{len(POINTS)} points × {len(FAULTS)} faults = {len(every)}"
    lines = [
        f"{product_of}, less {without} left out = {len(every) - without} cases",
        *(f"  {count:3} left out: {reason}" for reason, count in left_out.items()),
    ]
    return "\n".join(lines)
