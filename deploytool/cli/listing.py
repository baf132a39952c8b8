"""What `fab --list` shows: the environments, then the commands in the order of use. Pure."""

from collections.abc import Mapping, Sequence


def listing(
    environments: Mapping[str, str], groups: Mapping[str, Mapping[str, str]], others: Mapping[str, str]
) -> list[str]:
    """The lines. `environments` maps names to files; commands come in groups, and map names to a line of help."""
    first = next(iter(environments), "ENV")
    width = max(len(name) for part in (environments, *groups.values(), others) for name in (*part, ""))
    parts = [
        ("Environments", environments),
        *groups.items(),
        *([("Defined in this fabfile", others)] if others else []),
    ]
    lines = [f"Type an environment, then a command: fab {first} deploy"]
    for heading, rows in parts:
        lines += ["", f"{heading}:", *_rows(rows, width)]
        if rows is environments and not rows:
            lines.append("  none yet: `deploytool init` creates staging and production")
    return [*lines, "", "Help on a command: fab --help deploy. Help on fab's own flags: fab --help"]


def _rows(rows: Mapping[str, str], width: int) -> Sequence[str]:
    return [f"  {name:<{width}}   {text}".rstrip() for name, text in rows.items()]
