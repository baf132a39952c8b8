"""A step: one script for the build server, and what its exit code means. Pure."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from deploytool.errors import StepError
from deploytool.worker.wire import StepEnd


@dataclass(frozen=True, slots=True)
class Step:
    """One script, run as `bash -euo pipefail` with standard input closed.

    What it writes to file descriptor 3 comes back as result lines, `key<TAB>value…`; what to do about a failure is told
    by its exit code (`Code`) and by result lines with the key `problem`.
    """

    name: str
    script: str
    timeout_seconds: float


class Code(IntEnum):
    """Exit codes that our scripts choose. Any other code is a surprise, and is reported as one."""

    UNKNOWN_REVISION = 65
    LINKED_FILE_MISSING = 66
    AMBIGUOUS_REVISION = 67
    REPOSITORY_UNREACHABLE = 68
    TOOL_MISSING = 69
    COMMAND_FAILED = 70
    SUBDIRECTORY_MISSING = 71
    SUBMODULE_FAILED = 72
    WORK_TREE_NOT_CLEAN = 73
    MIRROR_UNUSABLE = 74
    DIRECTORY_MISSING = 75
    VERSION_MISSING = 76
    PATH_LEADS_OUT = 77
    FILTER_MISSING = 78
    FILTER_FAILED = 79
    GIT_TOO_OLD = 80


#: the same for the head of a script: `$d_unknown_revision` and so on
CODES = {"d_" + code.name.lower(): str(code.value) for code in Code}


#: in an answer: a number of ours, within 64 bits
NUMBER = "[0-9]{1,18}"


def values(results: Sequence[str], key: str) -> tuple[str, ...]:
    """What the result lines say under that key, in their order."""
    found = []
    for line in results:
        name, _, value = line.partition("\t")
        if name == key:
            found.append(value)
    return tuple(found)


def groups(results: Sequence[str], key: str, pattern: str, step: str) -> tuple[tuple[str, ...], ...]:
    """The groups of the pattern in each of that key's values. Raises StepError if one does not match."""
    found = [re.fullmatch(pattern, value) for value in values(results, key)]
    if None in found:
        raise StepError(f"the step {step} succeeded on the build server, but printed an invalid {key}")
    return tuple(each.groups() for each in found if each)


def only_value(results: Sequence[str], key: str, pattern: str, step: str) -> str:
    """The one value of that key. Raises StepError if the step did not say it: an empty answer must not pass."""
    found = values(results, key)
    if len(found) != 1 or not re.fullmatch(pattern, found[0]):
        raise StepError(f"the step {step} succeeded on the build server, but printed no {key}")
    return found[0]


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a code of ours says. In its texts stand `{subject}`, the last problem that the script told, and `{listed}`,
    the first of all."""

    message: str
    hint: str | None = None
    #: whether the output tells more
    output: bool = False


_SENTENCES: Mapping[int, Sentence] = {
    Code.UNKNOWN_REVISION: Sentence(
        "{subject} is not a branch, tag or commit of the repository",
        "push it, or choose one that exists: --branch takes a branch, a tag or a commit's SHA",
    ),
    Code.AMBIGUOUS_REVISION: Sentence(
        "several commits' SHAs begin with {subject}", "give more digits of the one you mean"
    ),
    Code.LINKED_FILE_MISSING: Sentence(
        "files of `build.linked_files` are missing on the build server: {listed}",
        "create them there, readable by the build user; or, if the application has none, remove them from "
        "`build.linked_files` (`fab ENV settings` shows the recipe's)",
    ),
    Code.REPOSITORY_UNREACHABLE: Sentence(
        "the build server could not fetch from the repository {subject}",
        "run `git ls-remote` on the build server, as the build user",
        output=True,
    ),
    Code.TOOL_MISSING: Sentence(
        "the build needs {listed}, which can't be run on the build server",
        "install it there, or add its directory to `build.path`",
        output=True,
    ),
    Code.SUBDIRECTORY_MISSING: Sentence(
        "the revision has no directory {subject}", "fix `subdirectory`, or deploy another revision"
    ),
    Code.SUBMODULE_FAILED: Sentence(
        "the submodule {subject} could not be checked out on the build server",
        "check that its URL is reachable from there, and that its commit was pushed",
        output=True,
    ),
    Code.WORK_TREE_NOT_CLEAN: Sentence(
        "the work tree on the build server could not be brought to the revision: {listed}",
        "something there can't be replaced or removed: check it with lsattr, findmnt and ls -l",
        output=True,
    ),
    Code.MIRROR_UNUSABLE: Sentence(
        "the repository answers, but its mirror {subject} could not be brought up to date",
        "check free disk space there, and that the build user may write",
        output=True,
    ),
    Code.DIRECTORY_MISSING: Sentence(
        "the directory {subject} is missing on the build server", "unpack the release again"
    ),
    Code.FILTER_FAILED: Sentence(
        "git's filters ({listed}) failed on the build server for some files of the revision",
        "run `git clone` of the repository there, as the build user",
        output=True,
    ),
}


#: what git says in its output → what to do about that, in place of the sentence's own hint; the first that fits. In a
#: hint stand the pattern's groups.
_GIT_SAYS = tuple(
    (re.compile(pattern, re.MULTILINE), hint)
    for pattern, hint in (
        (
            r"^fatal: (?:detected dubious ownership in repository at|unsafe repository \() ?'([^'\n]+)'",
            "another user owns the repository: on the machine that has it, as the user that reads it, run "
            "`git config --global --add safe.directory {0}`, or change its owner",
        ),
        (
            r"^fatal: transport '(\w+)' not allowed",
            "git there accepts no {0} submodules: set another URL in .gitmodules, or allow them with `git config "
            "--global protocol.{0}.allow always` as the build user (GIT_ALLOW_PROTOCOL overrides that)",
        ),
        (
            r"^fatal: could not read (?:Username|Password) for|^fatal: Authentication failed for",
            "the server rejects the credentials: set them in `repository`, as https://${{USER}}:${{TOKEN}}@…, which "
            "also applies to submodules on the same server, or set up a credential helper for the build user",
        ),
        (
            r"Host key verification failed",
            "ssh does not know the server's host key: add it to ~/.ssh/known_hosts of the build user",
        ),
        (
            r"Permission denied \(",
            "the server accepts no SSH key of the build user: give that user one, or use yours with "
            "`build.forward_agent: true`",
        ),
        (
            r"^error: object [0-9a-f]+: (\w+): ",
            "fetch.fsckObjects or transfer.fsckObjects is set there, and rejects an object of the repository: allow it "
            "with `git config --global fetch.fsck.{0} ignore` as the build user",
        ),
        (
            r"^\s*objectformat$",
            "the repository uses sha256 object names, which need git 2.29 or newer on the build server",
        ),
        (r"No space left on device|Disk quota exceeded", "free some space there, or set `build.root` to a larger disk"),
    )
)


#: whose output is git's
_GITS = {Code.REPOSITORY_UNREACHABLE, Code.MIRROR_UNUSABLE, Code.SUBMODULE_FAILED, Code.WORK_TREE_NOT_CLEAN}


def _git_hint(tail: Sequence[str]) -> str | None:
    """What to do about what git says there; None if that is not known."""
    for pattern, hint in _GIT_SAYS:
        if found := pattern.search("\n".join(tail)):
            return hint.format(*map(shlex.quote, found.groups()))
    return None


def explain(step: Step, end: StepEnd) -> StepError:
    """The sentence and the hint for a step that ended with an exit code other than 0."""
    problems = values(end.results, "problem")
    if end.timed_out:
        said = Sentence(
            f"the step {step.name} took longer than {step.timeout_seconds:g} s on the build server and was stopped",
            "raise `build.timeout_seconds` if it needs more time",
            output=True,
        )
    elif end.exit_code in _SENTENCES:
        said = _SENTENCES[end.exit_code]
        about = {"subject": problems[-1] if problems else "?", "listed": _listed(problems)}
        # Where the script could not name anything, the sentence does without.
        hint = (_git_hint(end.tail) if end.exit_code in _GITS else None) or said.hint
        said = replace(said, message=said.message.format(**about).removesuffix(": ?"), hint=hint)
    elif end.exit_code in _TOLD_BY:
        said = _TOLD_BY[end.exit_code](step, problems or ("?",))
    else:
        said = Sentence(f"the step {step.name} failed on the build server with exit code {end.exit_code}", output=True)
    where = f"the whole output is in {end.log} on the build server" if said.output and end.log else None
    hint = "; ".join(each for each in (said.hint, where) if each)
    return StepError(said.message, tail=telling(end.tail) if said.output else (), hint=hint or None)


#: What installers print for each package that is no trouble.
_ROUTINE = re.compile(
    r"\s*(Collecting|Downloading|Using cached|Requirement already satisfied|Obtaining dependency|Installing collected|"
    r"Installing build dependencies|Getting requirements to build|Preparing metadata|Looking in indexes|"
    r"Fetching |Using [\w.-]+ [\d.]+$|[━╸╺ ]+\s*[\d.]+/[\d.]+ [kM]B)"
)


def telling(tail: Sequence[str]) -> tuple[str, ...]:
    """The end of a step's output without the lines about packages that were no trouble, unless nothing else is left."""
    return tuple(line for line in tail if not _ROUTINE.match(line)) or tuple(tail)


def _command_failed(step: Step, problems: Sequence[str]) -> Sentence:
    number, _, code = problems[-1].partition("\t")
    return Sentence(f"{step.name}: command {number} failed on the build server with exit code {code}", output=True)


def _version_missing(step: Step, problems: Sequence[str]) -> Sentence:
    asked = [(*problem.split("\t", 2), "?", "?")[:3] for problem in problems]
    lacking = (
        f"{file} asks for {wanted}, which {manager} has not installed on the build server"
        for file, manager, wanted in asked
    )
    installs = (f"{manager} install {wanted.replace(':', ' ')}" for _, manager, wanted in asked)
    return Sentence("; ".join(lacking), "run there, as the build user: " + "; ".join(installs))


def _git_too_old(step: Step, problems: Sequence[str]) -> Sentence:
    found, least = (*problems[-1].split("\t", 1), "?")[:2]
    return Sentence(
        f"git on the build server is {found}, and a build needs {least} or newer",
        "install a newer git there, or add its directory to `build.path`",
    )


def _path_leads_out(step: Step, problems: Sequence[str]) -> Sentence:
    link, target, place = (*problems[-1].split("\t", 2), "?", "")[:3]
    reached = f"which is {place}" if place else "and nothing is there"
    return Sentence(
        f"{step.name}: {link} is a symlink to {target}, outside the application's tree ({reached})",
        f"nothing was removed or replaced there: make {link} a directory, or a symlink to a path inside, or fix "
        "the path in the settings (`build.linked_files`, `linked_dirs`, `linked_files`, `subdirectory`)",
    )


def _filters_missing(step: Step, problems: Sequence[str]) -> Sentence:
    """The sentence for filters that are asked for and not set up: `problems` holds name, program and file of each."""
    files: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        name, program, path = (*problem.split("\t", 2), "?", "?")[:3]
        files.setdefault((name, program), []).append(path)
    said, hints = [], list[str]()
    for (name, program), paths in files.items():
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        why = (
            "is not set up on the build server" if program == "-" else f"needs {program}, which is not installed there"
        )
        said.append(f"git's filter {name} {why}, and the revision has files for it: {', '.join(paths[:5])}{more}")
        hints.append(
            "install git-lfs there and run `git lfs install` as the build user"
            if name == "lfs"
            else f"set `filter.{name}.smudge` there with `git config --global` as the build user (`cat` takes "
            "the files as they are)"
        )
    return Sentence(
        "; ".join(said), "; ".join(dict.fromkeys(hints)) + "; or remove the attribute `filter` from .gitattributes"
    )


#: those that tell more than one subject
_TOLD_BY: Mapping[int, Callable[[Step, Sequence[str]], Sentence]] = {
    Code.COMMAND_FAILED: _command_failed,
    Code.VERSION_MISSING: _version_missing,
    Code.FILTER_MISSING: _filters_missing,
    Code.PATH_LEADS_OUT: _path_leads_out,
    Code.GIT_TOO_OLD: _git_too_old,
}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) or "?"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
