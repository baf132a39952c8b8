"""Writes files that are not there yet, and leaves those that are."""

from collections.abc import Mapping
from pathlib import Path

from deploytool.errors import UsageError


def write_new(directory: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Write those of `files` (paths below `directory` → texts) that don't exist, and return their paths.

    Whatever has such a name already stays as it is, a broken link too. Raises UsageError if one can't be written.
    """
    written: list[str] = []
    for name, text in files.items():
        try:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            if (directory / name).parent.is_dir():
                continue
            raise UsageError(f"{name} can't be written: {(directory / name).parent} is not a directory") from None
        except OSError as error:
            raise UsageError(
                f"{name} can't be written: {error.strerror}", hint=_so_far(written) if written else None
            ) from None
        written.append(name)
    return tuple(written)


def _so_far(written: list[str]) -> str:
    return f"written so far: {', '.join(written)}"
