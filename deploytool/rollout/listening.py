"""What hosts report while a command waits for them."""

import time

from deploytool.connection.client import Asked, Pending
from deploytool.errors import FleetError
from deploytool.model.fleet import Fleet, Report, State, Verdict, read_last_word, read_report
from deploytool.model.history import RoleHost
from deploytool.session import Session
from deploytool.worker.wire import Reports, Words


class ReleaseNotKept(FleetError):
    """Hosts that were to have the release still have not; nobody was switched."""

    #: of those hosts
    roles: frozenset[str] = frozenset()


class Listening:
    """Hears what the hosts report while time passes."""

    def __init__(self, session: Session, fleet: Fleet, reports: Asked) -> None:
        self.fleet = fleet
        self._session = session
        self._reports = reports
        self._begin = time.monotonic()
        self._troubled = ""
        #: reports of `verified` that are not shown yet: anybody might have written them
        self._unproven: dict[RoleHost, tuple[Report, bool]] = {}

    def _hear(self, timeout_seconds: float) -> bool:
        heard: Reports | None = self._reports.hear(timeout_seconds)
        self.fleet.listened_seconds = round(time.monotonic() - self._begin, 1)
        if heard is None:
            return False
        if heard.trouble is not None and heard.trouble != self._troubled:
            self._troubled = heard.trouble
            self._session.console.note(f"no reports right now: {self._troubled}")
        for news in heard.reports:
            report = read_report(news.role, news.host, news.state, news.value, news.written)
            if report is not None:
                seconds = self.fleet.listened_seconds
                expected = self.fleet.hear(report, seconds)
                if report.state is State.VERIFIED:
                    self._unproven[report.role, report.host] = report, expected
                else:
                    self._session.console.report(report, seconds, expected=expected)
        for said in heard.words:
            self.fleet.hear_word(said.role, said.host, None if said.agrees else read_last_word(said.value).sentence)
        self._show_proven()
        return True

    def _show_proven(self) -> None:
        for key, (report, expected) in list(self._unproven.items()):
            if self.fleet.result(*key).verdict is Verdict.VERIFIED:
                del self._unproven[key]
                self._session.console.report(report, self.fleet.listened_seconds, expected=expected)

    def ask_last_words(self, asked: Pending[Words]) -> None:
        """Take in what hosts serve now that all have reported: one may have died since it was verified."""
        for said in asked.answer().words:
            self.fleet.hear_word(said.role, said.host, None if said.agrees else read_last_word(said.value).sentence)

    def hear_now(self) -> None:
        """Take in what has arrived already."""
        while self._hear(0):
            pass

    def for_seconds(self, seconds: float, among: frozenset[RoleHost] | None = None) -> None:
        """Listen until every host, or every one among these, has made a final report; this long at most."""
        deadline = time.monotonic() + seconds
        while self.fleet.is_waiting(fetched=False, among=among) and (left := deadline - time.monotonic()) > 0:
            self._hear(min(0.25, left))

    def refuse_if_lost(self) -> None:
        """Raise FleetError if a host has already failed, or left for another deployment."""
        if lost := self.fleet.lost():
            names = ", ".join(f"{result.host} ({result.role}) {result.verdict.value}" for result in lost[:10])
            incomplete = frozenset(result.role for result in lost if result.incomplete)
            error = (ReleaseNotKept if incomplete else FleetError)(
                f"before any host was switched: {names}: {lost[0].reason}",
                hint="no host was changed; fix the problem above and deploy again",
            )
            if isinstance(error, ReleaseNotKept):
                error.roles = incomplete
            raise error

    def until_fetched(self, seconds: float) -> None:
        """Wait until every host holds the archive. Raises FleetError at the first that fails, or when time is over."""
        deadline = time.monotonic() + seconds
        while True:
            self.refuse_if_lost()
            if not self.fleet.is_waiting(fetched=True):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                missing = self.fleet.waiting_for(fetched=True)
                names = ", ".join(f"{host} ({role})" for role, host in missing[:10])
                more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
                raise FleetError(
                    f"{len(missing)} of {len(self.fleet.expected)} hosts did not fetch the release within {seconds:g} "
                    f"s: {names}{more}",
                    hint="no host was changed. On those hosts: is consul watch running, can stretcher read the store, "
                    "is one still at an earlier deployment? wait.fetch_seconds is the limit; --nodes leaves hosts out",
                )
            self._hear(min(0.25, left))
