"""Applications made from a seed: half text, half bytes that no compressor makes smaller; the same ones each time."""

import random
from dataclasses import dataclass
from pathlib import Path

from tests.support.project import Repository

SEED = 20261123
#: in one directory
FILES_TOGETHER = 100
#: capistrano-stretcher reads the hooks out of the work tree
PEER_HOOKS = "config/stretcher.yml.erb"
_PEER_HOOKS_TEXT = "web: {pre: [], post: [], success: [], failure: []}\n"


@dataclass(frozen=True, slots=True)
class App:
    """An application without dependencies: so many files of one size."""

    name: str
    files: int
    file_bytes: int

    @property
    def megabytes(self) -> float:
        return self.files * self.file_bytes / 1e6

    def path(self, number: int) -> str:
        """The path of a file of this application, numbered from 0."""
        return f"d{number // FILES_TOGETHER:04}/f{number:06}"


SMALL = App("small", 200, 10_000)
LARGE = App("large", 8_000, 37_625)


class Content:
    """Gives the files' content, one after the other."""

    def __init__(self, seed: int = SEED) -> None:
        # The same bytes in every run: nothing here is to be hard to guess.
        self._chance = random.Random(seed)  # noqa: S311
        letters = b"abcdefghijklmnopqrstuvwxyz"
        words = [bytes(self._chance.choices(letters, k=self._chance.randint(2, 9))) + b" " for _ in range(2_000)]
        # As in a language, the second word comes half as often as the first: gzip makes a third of it.
        weights = [1 / rank for rank in range(1, len(words) + 1)]
        # As many as two random bytes can name: that is much faster than choosing words.
        self._named = self._chance.choices(words, weights, k=1 << 16)

    def text(self, size_bytes: int) -> bytes:
        # A word has two letters and a space at least.
        numbers = memoryview(self._chance.randbytes(2 * (size_bytes // 3 + 1))).cast("H")
        return b"".join(map(self._named.__getitem__, numbers))[:size_bytes]

    def noise(self, size_bytes: int) -> bytes:
        return self._chance.randbytes(size_bytes)


def write(app: App, directory: Path) -> None:
    """Write the application's files into a directory."""
    content = Content()
    for number in range(app.files):
        path = directory / app.path(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((content.noise if number % 2 else content.text)(app.file_bytes))
    hooks = directory / PEER_HOOKS
    hooks.parent.mkdir(exist_ok=True)
    hooks.write_text(_PEER_HOOKS_TEXT)


def change_one_file(app: App, repository: Repository, number: int) -> None:
    """Commit other text in one of the files; each number changes it in another way."""
    path = repository.directory / app.path(0)
    path.write_bytes(Content(SEED + 1 + number).text(app.file_bytes))
    repository.commit({}, f"one file changed, {number}")


def fill(app: App, repository: Repository) -> None:
    """Commit the application to a new repository, packed as one that a server keeps."""
    # Time spent on making it is lost, and gc would run while something is measured.
    repository.git("config", "gc.auto", "0")
    repository.git("config", "core.compression", "1")
    write(app, repository.directory)
    repository.commit({}, app.name)
    repository.git("repack", "-a", "-d", "-q", "--window=0")
