"""Figures of the house: rooms, the arrows that imports draw between them, circles, and lines.

    python -m tools.house [DIRECTORY]      a checkout; by default this one

A room is a directory of `deploytool/`, or a module at its top.
"""

import argparse
import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "deploytool"


def modules(root: Path) -> Mapping[str, Path]:
    """name → file"""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(name: str, file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that one imports, wherever in it that stands."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found = (f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names)
            yield from (each for each in found if each in known)


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Circles, each found once the one before was cut."""
    left, found = {room: set(others) for room, others in arrows.items()}, []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))
            found.append(circle)
            left[circle[0]].discard(circle[1])
        else:
            return found


def floors(arrows: Mapping[str, set[str]]) -> int:
    """How many floors the rooms need if each stands above all that it imports; circles are cut first."""
    left = {room: set(others) for room, others in arrows.items()}
    for circle in circles(arrows):
        left[circle[0]].discard(circle[1])
    floor: dict[str, int] = {}
    for room in TopologicalSorter(left).static_order():
        floor[room] = 1 + max((floor[other] for other in left.get(room, ())), default=0)
    return max(floor.values())


def lines(directory: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in directory.rglob("*.py"))


def figures(root: Path) -> Mapping[str, object]:
    known = modules(root)
    arrows: dict[str, set[str]] = {room_of(name): set() for name in known}
    for name, file in known.items():
        arrows[room_of(name)] |= {room_of(other) for other in imports(name, file, known)} - {room_of(name)}
    found = circles(arrows)
    return {
        "rooms": len(arrows),
        "floors": floors(arrows),
        "arrows between rooms": sum(map(len, arrows.values())),
        "circles": len(found),
        "modules at the top": sum(1 for file in (root / PACKAGE).glob("*.py") if not file.name.startswith("__")),
        f"lines of {PACKAGE}/": lines(root / PACKAGE),
        "lines of tests/": lines(root / "tests"),
        **{f"circle {number}": " → ".join(circle) for number, circle in enumerate(found, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.house", description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path(__file__).parents[1])
    for name, value in figures(parser.parse_args().directory).items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
