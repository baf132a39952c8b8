"""`make audit`: known vulnerabilities of the packages in this environment, by pip-audit.

Fails on each that is found. What was not audited is said, and is never a success that says nothing: pip-audit by itself
ends with 0 where an index knows its packages and no vulnerabilities of theirs.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

#: Ours is installed from this directory, and in no index.
OURS = "deploytool"
COMMAND = (sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable")
#: How the last line of pip-audit's stderr begins when nobody answered it: classes of its HTTP client, and its own. A
#: service that answers, and refuses, or with a certificate or a text that is none, is another matter.
NO_ANSWER = (
    *(f"requests.exceptions.{name}:" for name in ("ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout")),
    "requests.exceptions.ProxyError:",
    "pip_audit._service.interface.ConnectionError:",
)


def verdict(exit_code: int, out: str, err: str) -> tuple[int, list[str]]:
    """The exit code and the lines for a run of pip-audit, from its own exit code, stdout and stderr."""
    try:
        said = json.loads(out)
    except ValueError:
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        if last.startswith(NO_ANSWER) or "Could not connect" in last:
            return 0, [f"NOT AUDITED: no vulnerability service can be reached from here ({last[:160]})"]
        return 1, [f"pip-audit failed with exit code {exit_code}:", *err.strip().splitlines()[-20:]]
    packages = [each for each in said["dependencies"] if each["name"] != OURS]
    bad = [_sentence(package, found) for package in packages for found in package.get("vulns", ())]
    left_out = [package["name"] for package in packages if "skip_reason" in package]
    audited = len(packages) - len(left_out)
    lines = list(bad)
    if not audited:
        lines.append(
            f"NOT AUDITED: the index of this machine answers, but tells no vulnerabilities of any of {len(left_out)} "
            "packages"
        )
    elif left_out:
        lines.append(f"NOT AUDITED, as the service does not know them: {', '.join(left_out)}")
    if audited:
        lines.append(f"audit: {len(bad)} known vulnerabilities in {audited} packages")
    # Whatever else pip-audit objects to is no success either.
    return (1 if bad or exit_code else 0), lines


def _sentence(package: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    cure = f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not mended yet"
    return f"{package['name']} {package['version']}: {' '.join((found['id'], *found['aliases']))}, {cure}"


def main() -> int:
    done = subprocess.run(COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    exit_code, lines = verdict(done.returncode, done.stdout, done.stderr)
    print("\n".join(lines), file=sys.stderr if exit_code else sys.stdout)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
