"""Makes docs/deploy.svg, the picture in the README: a real `fab local deploy`, as it printed. Run it after `make demo`.

.venv/bin/python -m tools.picture
"""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PROJECT = Path(__file__).resolve().parent.parent
COLUMNS = 96


def main() -> int:
    program = Path(sys.executable).parent / "fab"
    done = subprocess.run(
        [str(program), "local", "deploy"],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in ("$ fab local deploy", *done.stdout.splitlines(), f"$ echo $?\n{done.returncode}"):
            text = Text(line)
            text.highlight_words(["verified"], "green")
            text.highlight_words(["failed", "NOT"], "red")
            text.highlight_regex(r"^\[\d\d:\d\d\]", "dim")
            text.highlight_regex(r"^\$ .*", "bold")
            console.print(text)
        picture = console.export_svg(title="fab local deploy")
    # The picture must not ask anybody's server for fonts.
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    (PROJECT / "docs" / "deploy.svg").write_text(picture)
    print(f"docs/deploy.svg: exit code {done.returncode}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
