"""What differs between hosts: variables of the environment, else lines `NAME=value` of the release's `.env`.

Imports nothing of Django's: gunicorn's configuration and the health check read it as well.
"""

import os
from pathlib import Path

#: The release itself, not `current`: a running process must not see the next release's files.
RELEASE = Path(__file__).resolve().parent.parent


def _from_file() -> dict[str, str]:
    try:
        text = (RELEASE / ".env").read_text()
    except FileNotFoundError:
        return {}
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


VALUES = {**_from_file(), **os.environ}

BIND = VALUES.get("BIND") or "127.0.0.1:" + VALUES.get("PORT", "8000")
DATABASE = VALUES.get("DATABASE") or str(RELEASE / "db.sqlite3")
SECRET_KEY = VALUES.get("SECRET_KEY") or "only-for-the-demonstration-never-in-production"
ALLOWED_HOSTS = VALUES.get("ALLOWED_HOSTS", "127.0.0.1,localhost").split(",")


def _revision() -> str:
    try:
        return (RELEASE / "REVISION").read_text().strip()
    except FileNotFoundError:
        return "unknown"


#: Read once, when the process starts: an old process goes on telling the old one.
REVISION = _revision()
