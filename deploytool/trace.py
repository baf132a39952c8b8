"""What a command does, line by line on stderr, for `--verbose` and DEPLOYTOOL_DEBUG: requests, steps and decisions.

Whoever has something to say uses `log`: `info` for each request, step and decision, `debug` for what requests carry.
Secrets are masked here, whatever a line is made of.
"""

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from deploytool.text.masking import Masking

#: A payload may be a manifest of each role; the rest of it says nothing more to a person.
LONGEST_LINE = 4000

log = logging.getLogger("deploytool")
# `fab --debug` opens the logs of all packages, and masks nothing.
log.propagate = False
log.setLevel(logging.CRITICAL)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes to what is stderr by now: while a table is shown, that is another one."""

    def __init__(self, masking: "Masking") -> None:
        super().__init__()
        self.masking = masking

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass

    def format(self, record: logging.LogRecord) -> str:
        from deploytool.text.untrusted import one_line

        text = one_line(self.masking.text(record.getMessage()))
        more = f" … and {len(text) - LONGEST_LINE} more characters" if len(text) > LONGEST_LINE else ""
        # GitHub's runner obeys lines of stderr, too.
        return f"[trace {record.relativeCreated / 1000:.3f}] {text[:LONGEST_LINE]}{more}".replace("##[", "# #[")


def begin(verbose: int, environ: Mapping[str, str]) -> None:
    """Trace from now on, if `--verbose` was given, once or more often, or DEPLOYTOOL_DEBUG is 1 or more."""
    given = environ.get("DEPLOYTOOL_DEBUG", "")
    verbose = max(verbose, int(given) if given.isdecimal() else int(bool(given)))
    for handler in log.handlers[:]:
        log.removeHandler(handler)
    log.setLevel({0: logging.CRITICAL, 1: logging.INFO}.get(verbose, logging.DEBUG))
    if verbose:
        # Not before: every command begins by importing this module.
        from deploytool.text.masking import Masking, secrets_in

        log.addHandler(_Lines(Masking(secrets_in(environ))))


def learn(secrets: Iterable[str]) -> None:
    """More secrets to mask."""
    for handler in log.handlers:
        if isinstance(handler, _Lines):
            handler.masking.learn(secrets)
