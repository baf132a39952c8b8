"""What is in the directory that `deploytool init` is called in. Reads files and asks git; changes nothing."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploytool.settings.files import settings_directory, shared_file
from deploytool.settings.load import looks_like_settings
from deploytool.settings.recipes import RECIPES

#: Files that tell what kind of application this is, or what was said of its deployment before.
TELLING = (*(name for recipe in RECIPES.values() for name in recipe.sign_files), "Capfile", "config/deploy.rb")


@dataclass(frozen=True, slots=True)
class Git:
    """The repository that the directory is in."""

    #: the URL or absolute path of `origin`, without a password; None if there is no remote
    origin: str | None
    #: whether a password was left out of it
    had_password: bool
    #: the branch that the remote calls its default; None if that is not known here
    default_branch: str | None
    #: None if no branch is checked out
    current_branch: str | None
    #: where the directory is in the repository; `.` for its top
    subdirectory: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found."""

    #: the directory's own
    name: str
    #: the telling files that are there, with what they hold
    texts: Mapping[str, str]
    git: Git | None
    #: where the settings belong: `config` or `config/deploy`
    place: str
    #: other programs' files that would be taken for environments there, or that keep ours out of `config`
    foreign: tuple[str, ...]
    #: what the fabfile says; None if there is none
    fabfile: str | None
    #: where Django collects static files, relative to the directory; None if that is not easily known
    static_root: str | None = None


def survey(directory: Path) -> Survey:
    """Look at `directory`. Raises OSError if it can't be read."""
    texts = {name: text for name in TELLING if (text := _text(directory / name)) is not None}
    place, foreign = _place(directory)
    fabfile = next(
        (text for name in ("fabfile.py", "fabfile/__init__.py") if (text := _text(directory / name)) is not None), None
    )
    static_root = _static_root(directory, texts.get("manage.py", ""))
    return Survey(directory.name, texts, _git(directory), place, foreign, fabfile, static_root)


def _static_root(directory: Path, manage: str) -> str | None:
    """Django's STATIC_ROOT, where the settings that manage.py names have it in one plain line below BASE_DIR."""
    module = re.search(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""", manage)
    if module is None:
        return None
    text = _text(directory / f"{module[1].replace('.', '/')}.py") or ""
    below = r"""(?:BASE_DIR\s*/|os\.path\.join\(\s*BASE_DIR\s*,|str\(\s*BASE_DIR\s*/)\s*["']([\w./-]+)["']"""
    found = re.search(rf"^STATIC_ROOT\s*=\s*{below}", text, re.MULTILINE)
    return found[1] if found else None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _place(directory: Path) -> tuple[str, tuple[str, ...]]:
    """Where the settings are or belong, and the files in `config` that are other programs'."""
    files = sorted(path for path in (directory / "config").glob("*.yml") if not path.name.startswith("."))
    foreign = tuple(f"config/{path.name}" for path in files if not looks_like_settings(_text(path) or ""))
    here = settings_directory(directory)
    ours_are_there = (directory / shared_file(directory)).is_file() and shared_file(directory) not in foreign
    return (here, foreign) if ours_are_there or not foreign else ("config/deploy", foreign)


def _git(directory: Path) -> Git | None:
    subdirectory = _ask(directory, "rev-parse", "--show-prefix")
    if subdirectory is None:
        return None
    remotes = (_ask(directory, "remote") or "").split()
    remote = "origin" if "origin" in remotes or not remotes else remotes[0]
    # As it was given: `git remote get-url` would apply this machine's own rewriting.
    url = _ask(directory, "config", "--get", f"remote.{remote}.url")
    head = _ask(directory, "symbolic-ref", "--quiet", f"refs/remotes/{remote}/HEAD")
    current = _ask(directory, "symbolic-ref", "--quiet", "--short", "HEAD")
    top = Path(_ask(directory, "rev-parse", "--show-toplevel") or directory)
    origin = _as_others_see_it(url, top) if url else None
    return Git(
        origin=_without_password(origin) if origin else None,
        had_password=origin is not None and _without_password(origin) != origin,
        default_branch=head.removeprefix(f"refs/remotes/{remote}/") if head else None,
        current_branch=current or None,
        subdirectory=subdirectory.rstrip("/") or ".",
    )


def _as_others_see_it(url: str, top: Path) -> str:
    """A path counts from the repository, and for nobody else."""
    is_path = "://" not in url and not re.match(r"[^/]+:", url)
    return str((top / url).resolve()) if is_path else url


def _without_password(url: str) -> str:
    """An HTTP URL without user and password; a token may stand in the place of either."""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url)


def _ask(directory: Path, *arguments: str) -> str | None:
    """What git answers; None if it refuses, or is not here."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError:
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None
