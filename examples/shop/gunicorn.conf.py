"""gunicorn's configuration. bin/web calls `gunicorn shop.wsgi` in the release, by its real path."""

import os
import sys
from pathlib import Path

RELEASE = Path(__file__).resolve().parent
sys.path.insert(0, str(RELEASE))

from shop.environment import BIND  # noqa: E402

bind = BIND
chdir = str(RELEASE)
workers = 2
graceful_timeout = 20
pidfile = str(RELEASE / "tmp/pids/web.pid")
# gunicorn's default is below /tmp; its control files must not be shared by several hosts of one machine.
control_socket_disable = True


def pre_exec(server):
    """After USR2: the new master is the release that `current` points to now, with that release's virtual environment.

    (After HUP the old master would fork workers that import from the old release's virtual environment.)
    """
    current = RELEASE.parent.parent / "current" if RELEASE.parent.name == "releases" else RELEASE
    release = current.resolve()
    python = str(release / "venv/bin/python")
    if not os.access(python, os.X_OK):
        # An exception, now or in exec, would make this copy of the old master end the old master's workers.
        os._exit(1)
    server.START_CTX["cwd"] = str(release)
    server.START_CTX["args"] = [python, str(release / "venv/bin/gunicorn"), "shop.wsgi"]
    server.START_CTX[0] = python
    server.cfg.env_orig["PWD"] = str(release)


def post_worker_init(worker):
    """The application is loaded: bin/web waits for this before it ends the old master."""
    (RELEASE / f"tmp/pids/web.{worker.ppid}.ready").touch()


def on_exit(server):
    (RELEASE / f"tmp/pids/web.{os.getpid()}.ready").unlink(missing_ok=True)
