"""Tells others that a deployment begins, and how it ended: a Slack-compatible webhook, and commands of the user's.

Whatever becomes of that, the deployment goes on as if nothing had been told.
"""

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from deploytool.errors import DeployError
from deploytool.hooks.local import Record, masking_of_output, problem_of, record_of, run_command
from deploytool.screen.ending import message
from deploytool.text.masking import Masking
from deploytool.text.untrusted import one_line, printable

if TYPE_CHECKING:
    from deploytool.model.operator import Operator
    from deploytool.screen.console import Console
    from deploytool.screen.summary import Outcome
    from deploytool.settings import Settings

Notice = Literal["start", "success", "failure"]

#: A webhook that has not answered by then is dead.
WEBHOOK_SECONDS = 10.0
#: Slack cuts longer texts.
LONGEST_TEXT = 3000


class Notifications:
    """The notices of one command."""

    def __init__(self, settings: "Settings", console: "Console", operator: "Operator") -> None:
        self._settings = settings
        self._console = console
        self._operator = operator
        self._masking = Masking(settings.secrets)
        #: tells the webhook
        self._posting: threading.Thread | None = None

    def begin(self, what: str, outcome: "Outcome") -> None:
        """Tell that it begins: `what` as in "deploy main". Nobody waits for the webhook."""
        if self._wanted("start"):
            self._post(begin_text(self._settings, self._operator, what))
            self._run("start", self._record("start", outcome, None, None))

    def end(self, name: str, outcome: "Outcome", exit_code: int, error: DeployError | None) -> None:
        """Tell how the command of that name ended."""
        notice: Notice = "failure" if exit_code else "success"
        # Else the end might arrive first.
        self._wait()
        if self._wanted(notice):
            self._post(end_text(self._settings, self._operator, name, outcome, exit_code, error))
            self._run(notice, self._record(notice, outcome, exit_code, error))
            self._wait()

    def _wanted(self, notice: Notice) -> bool:
        notify = self._settings.notify
        return notice in notify.when and bool(notify.webhook or notify.command)

    def _record(self, notice: Notice, outcome: "Outcome", exit_code: int | None, error: DeployError | None) -> Record:
        record = record_of(self._settings, self._operator, outcome, exit_code=exit_code, error=error)
        masked: Record = self._masking.value({"notice": notice, **record})
        return masked

    def _post(self, text: str) -> None:
        url = self._settings.notify.webhook
        if url is None:
            return
        document = {"text": escaped(self._masking.text(text))}

        def told() -> None:
            try:
                post(url, document)
            except NotTold as problem:
                self._console.note(self._masking.text(f"notify.webhook failed: {problem}"))

        self._posting = threading.Thread(target=told, daemon=True)
        self._posting.start()

    def _wait(self) -> None:
        """Wait until the webhook has answered, as long as an answer may take."""
        if self._posting is not None:
            self._posting.join(WEBHOOK_SECONDS + 1)
            if self._posting.is_alive():
                self._console.note(f"notify.webhook did not answer within {WEBHOOK_SECONDS:g} s")
            self._posting = None

    def _run(self, notice: Notice, record: Record) -> None:
        for number, command in enumerate(self._settings.notify.command):
            label = f"notify.command[{number}]"
            try:
                ended = run_command(
                    command,
                    record,
                    directory=self._settings.directory,
                    timeout_seconds=self._settings.notify.timeout_seconds,
                    masking=masking_of_output(self._settings),
                    tell=self._teller(label),
                )
            except OSError as trouble:
                self._console.note(f"{label} could not be started on this machine: {trouble}")
                continue
            if problem := problem_of(ended, self._settings.notify.timeout_seconds, "notify.timeout_seconds"):
                self._console.note(f"{label} {problem}: its {notice} may not have been notified")

    def _teller(self, label: str) -> Callable[[str], None]:
        return lambda line: self._console.note(f"{label} | {line}")


# --- what is said


def begin_text(settings: "Settings", operator: "Operator", what: str) -> str:
    """One line: who begins what, where."""
    return "\n".join(_told(settings, f"{what} started by {operator.name}", operator))


def end_text(
    settings: "Settings",
    operator: "Operator",
    name: str,
    outcome: "Outcome",
    exit_code: int,
    error: DeployError | None,
) -> str:
    """The last lines of the command, in the words of the screen."""
    lines = message(outcome, settings.environment)
    if error is not None and (not lines or exit_code not in (0, 8)):
        lines = [error.message, *([f"hint: {error.hint}"] if error.hint else [])]
    first = f"{name} {'succeeded' if exit_code == 0 else f'FAILED with exit code {exit_code}'}"
    return "\n".join([*_told(settings, first, operator), *map(one_line, lines)])[:LONGEST_TEXT]


def _told(settings: "Settings", what: str, operator: "Operator") -> Sequence[str]:
    job = [operator.ci_job] if operator.ci_job else []
    return [printable(f"{settings.application} {settings.environment}: {what}"), *job]


def escaped(text: str) -> str:
    """The text with Slack's three special characters taken literally: nothing in it names a channel or is a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- the wire


class NotTold(Exception):
    """A webhook did not take what it was told; the sentence says why."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent elsewhere arrives as a GET, without what it was to say."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def post(url: str, document: Mapping[str, Any]) -> None:
    """Send a JSON document. Raises NotTold; the sentence does not have the URL, which is a secret."""
    # http or https: the settings let nothing else through (`_webhook`).
    request = urllib.request.Request(  # noqa: S310
        url,
        data=json.dumps(document).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "deploytool"},
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=WEBHOOK_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        with error:
            said = printable(error.read(200).decode(errors="replace").strip())
        raise NotTold(f"it answered {error.code} {said}".rstrip()) from None
    except urllib.error.URLError as error:
        raise NotTold(f"it can't be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTold(f"it can't be reached: {error or type(error).__name__}") from None
