"""A step: one script for the build server, and what its exit code means. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from deploytool.errors import StepError


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
        raise StepError(f"the step {step} ended well on the build server, but what it said of its {key} makes no sense")
    return tuple(each.groups() for each in found if each)


def only_value(results: Sequence[str], key: str, pattern: str, step: str) -> str:
    """The one value of that key. Raises StepError if the step did not say it: an empty answer must not pass."""
    found = values(results, key)
    if len(found) != 1 or not re.fullmatch(pattern, found[0]):
        raise StepError(f"the step {step} ended well on the build server, but did not say its {key}")
    return found[0]


def explain(
    step: Step,
    exit_code: int,
    results: Sequence[str],
    *,
    tail: Sequence[str] = (),
    log: str | None = None,
    timed_out: bool = False,
) -> StepError:
    """The sentence and the hint for a step that ended with an exit code other than 0.

    `tail` is the end of the step's output and `log` the path of its log on the build server.
    """
    problems = values(results, "problem")
    subject = problems[-1] if problems else "?"
    where = f"the whole output is in {log} on the build server" if log else None
    if timed_out:
        return StepError(
            f"the step {step.name} took longer than {step.timeout_seconds:g} seconds on the build server and was ended",
            tail=tail,
            hint=_joined("raise build.timeout_seconds, if it only needs longer", where),
        )
    match exit_code:
        case Code.UNKNOWN_REVISION:
            return StepError(
                f"{subject} is no branch, tag or commit of the repository",
                hint="push it, or name one that exists: --branch takes a branch, a tag or a commit's SHA",
            )
        case Code.AMBIGUOUS_REVISION:
            return StepError(
                f"{subject} is the beginning of several commits' SHAs", hint="give more digits of the one you mean"
            )
        case Code.LINKED_FILE_MISSING:
            return StepError(
                f"missing on the build server, and build.linked_files asks for it: {_listed(problems)}",
                hint="put it there, readable by the user that builds; or, if the app has none, take it out of "
                "build.linked_files (`fab ENV settings` shows what the recipe asks for)",
            )
        case Code.REPOSITORY_UNREACHABLE:
            return StepError(
                f"the build server could not fetch from the repository {subject}",
                tail=tail,
                hint=_joined("try `git ls-remote` on the build server, as the user that builds", where),
            )
        case Code.TOOL_MISSING:
            return StepError(
                f"{_listed(problems)} can't be run on the build server, and the build needs it",
                tail=tail,
                hint="install it there, or name the directory that holds it in build.path",
            )
        case Code.COMMAND_FAILED:
            number, _, code = subject.partition("\t")
            return StepError(
                f"{step.name}: command {number} failed on the build server with exit code {code}", tail=tail, hint=where
            )
        case Code.SUBDIRECTORY_MISSING:
            return StepError(
                f"the revision has no directory {subject}", hint="correct `subdirectory`, or deploy another revision"
            )
        case Code.SUBMODULE_FAILED:
            return StepError(
                f"the submodule {subject} could not be checked out on the build server",
                tail=tail,
                hint=_joined("its URL must be reachable from there, and its commit pushed", where),
            )
        case Code.WORK_TREE_NOT_CLEAN:
            names = f": {_listed(problems)}" if problems else ""
            return StepError(
                f"the work tree on the build server could not be brought to the revision{names}",
                tail=tail,
                hint=_joined("something there can't be replaced or removed (lsattr, findmnt, ls -l); free it", where),
            )
        case Code.MIRROR_UNUSABLE:
            return StepError(
                f"the repository answers, but its mirror {subject} could not be brought up to date",
                tail=tail,
                hint=_joined("is there room on the disk, and may this user write there?", where),
            )
        case Code.DIRECTORY_MISSING:
            return StepError(f"the directory {subject} is missing on the build server", hint="unpack the release again")
        case Code.VERSION_MISSING:
            asked = [(*problem.split("\t", 2), "?", "?")[:3] for problem in problems or (subject,)]
            return StepError(
                "; ".join(
                    f"{file} asks for {wanted}, which {manager} on the build server has not installed"
                    for file, manager, wanted in asked
                ),
                hint="there, as the user that builds: "
                + "; ".join(f"{manager} install {wanted.replace(':', ' ')}" for _, manager, wanted in asked),
            )
        case Code.FILTER_MISSING:
            return _filters_missing(problems)
        case Code.FILTER_FAILED:
            return StepError(
                f"git's filters ({_listed(problems)}) could not make all files of the revision on the build server",
                tail=tail,
                hint=_joined("try `git clone` of the repository there, as the user that builds", where),
            )
        case Code.PATH_LEADS_OUT:
            link, target, place = (*subject.split("\t", 2), "?", "")[:3]
            reached = f"which is {place}" if place else "and nothing is there"
            return StepError(
                f"{step.name}: {link} is a link that leads to {target}, out of the application's tree ({reached})",
                hint=f"nothing was removed or replaced there: make {link} a directory, or a link to something inside, "
                "or correct the path in the settings (`build.linked_files`, `linked_dirs`, `linked_files`, "
                "`subdirectory`)",
            )
        case _:
            return StepError(
                f"the step {step.name} failed on the build server with exit code {exit_code}", tail=tail, hint=where
            )


def _filters_missing(problems: Sequence[str]) -> StepError:
    """The sentence for filters that are asked for and not set up: `problems` holds name, program and file of each."""
    files: dict[tuple[str, str], list[str]] = {}
    for problem in problems or ("?",):
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
            "install git-lfs there and run `git lfs install` as the user that builds"
            if name == "lfs"
            else f"set `filter.{name}.smudge` there with `git config --global`, as the user that builds (`cat` takes "
            "the files as they are)"
        )
    return StepError(
        "; ".join(said),
        hint="; ".join(dict.fromkeys(hints)) + "; or take the attribute `filter` out of .gitattributes",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) or "?"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _joined(*hints: str | None) -> str:
    return "; ".join(hint for hint in hints if hint)
