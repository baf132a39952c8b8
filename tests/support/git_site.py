"""Git repositories on a web server that asks for a password."""

import base64
import contextlib
import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

#: whom it lets in, as in a URL
LOGIN = "us%20er:p%40ss%27w"


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Git's dumb protocol behind a user's name and password."""

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(b"us er:p@ss'w").decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def git_site(*repositories: Path) -> Iterator[str]:
    """host:port of a server that has these repositories, as they are now, by their last names."""
    root = repositories[0].parent / "http"
    for each in repositories:
        bare = root / each.name
        subprocess.run(["git", "clone", "-q", "--bare", str(each), str(bare)], check=True)
        subprocess.run(["git", "-C", str(bare), "update-server-info"], check=True)
    handler = functools.partial(_Guarded, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()
