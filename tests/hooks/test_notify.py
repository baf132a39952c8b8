"""Notices of a deployment's start and end: a real webhook on loopback, and commands, by the whole `fab` command."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local import HOSTS, Local


class Webhook:
    """A server that takes whatever is posted, as Slack does, or does with it what a test wants."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.status = 200
        self.answering: Callable[[], object] = lambda: None
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                webhook.heard.append({"path": self.path, **json.loads(body)})
                webhook.answering()
                # Whoever asked may have given up by now.
                with contextlib.suppress(OSError):
                    self.send_response(webhook.status)
                    self.end_headers()
                    self.wfile.write(b"ok" if webhook.status == 200 else b"no_such_hook\x1b[2J")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.secret = "/services/T000/B000/kept-under-the-mat"
        self.url = f"http://127.0.0.1:{self._server.server_port}{self.secret}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def texts(self) -> list[str]:
        return [heard["text"] for heard in self.heard]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    running = Webhook()
    yield running
    running.close()


class Told(Local):
    """A project on this machine that tells the webhook, and a command that writes down what it gets."""

    def __init__(self, directory: Path, url: str) -> None:
        super().__init__(directory)
        self.settings["notify"] = {"webhook": "${WEBHOOK}", "command": "cat >>told"}
        self.url = url
        self.write()

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "WEBHOOK": self.url}

    def records(self) -> list[dict[str, Any]]:
        told = self.directory / "told"
        return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


@pytest.fixture
def told(tmp_path: Path, webhook: Webhook) -> Told:
    return Told(tmp_path, webhook.url)


def test_start_and_success_are_told_to_the_webhook_and_to_the_command(told: Told, webhook: Webhook) -> None:
    result = told.fab("local", "deploy", "--json")
    assert result.code == 0, result.err
    begin, end = webhook.texts
    assert begin.startswith("tiny local: deploy main started by ")
    first, second = end.splitlines()
    assert first == "tiny local: deploy succeeded"
    assert second.startswith(f"{result.json['release']} is verified on all ")
    assert {heard["path"] for heard in webhook.heard} == {webhook.secret}
    started, ended = told.records()
    assert (started["notice"], started["environment"], started["exit_code"]) == ("start", "local", None)
    assert (ended["notice"], ended["exit_code"], ended["release"]) == ("success", 0, result.json["release"])
    assert {host["verdict"] for host in ended["hosts"]} == {"verified"}
    assert "kept-under-the-mat" not in result.out + result.err + json.dumps(told.records())


def test_failure_is_told_with_its_reason_and_rollback_by_its_name(told: Told, webhook: Webhook) -> None:
    for version in "12":
        told.repository.commit({"VERSION": version})
        assert told.fab("local", "deploy").code == 0
    told.settings["build"]["assets"] = "echo '<!channel> & more' >&2; exit 9"
    told.settings["notify"]["when"] = ["failure"]
    told.write()
    del webhook.heard[:]
    assert told.fab("local", "deploy").code == 4
    (text,) = webhook.texts
    assert text.startswith("tiny local: deploy FAILED with exit code 4\nassets: command 1 failed on the build server")
    assert told.records()[-1]["error"]["tail"][-1] == "<!channel> & more"
    told.settings["notify"]["when"] = ["start", "success"]
    told.write()
    assert told.fab("local", "rollback").code == 0
    begin, end = webhook.texts[1:]
    assert begin.startswith("tiny local: rollback started by ")
    assert end.startswith("tiny local: rollback succeeded\n")


def test_what_a_branch_is_called_names_no_channel(told: Told, webhook: Webhook) -> None:
    told.repository.git("checkout", "--quiet", "-b", "<!here>&x")
    told.fab("local", "deploy", "--branch", "<!here>&x")
    assert "deploy &lt;!here&gt;&amp;x started" in webhook.texts[0]


def test_refused_deploy_and_other_commands_are_not_told(told: Told, webhook: Webhook) -> None:
    assert told.fab("local", "deploy", "--release", "nonsense").code == 2
    assert told.fab("local", "freeze", "--why", "a holiday").code == 0
    assert told.fab("local", "deploy").code == 3
    assert told.fab("local", "thaw").code == 0
    assert told.fab("local", "build").code == 0
    assert webhook.heard == []
    assert told.records() == []


def test_webhook_that_refuses_fails_no_deploy(told: Told, webhook: Webhook) -> None:
    webhook.status = 404
    result = told.fab("local", "deploy")
    assert result.code == 0
    assert result.err.count("notify.webhook failed: it answered 404 no_such_hook") == 2
    assert "\x1b" not in result.err
    assert None not in [told.served()[host] for host in HOSTS]


def test_nobody_behind_the_webhooks_address_fails_no_deploy(told: Told) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        told.url = f"http://127.0.0.1:{taken.getsockname()[1]}/kept-under-the-mat"
        result = told.fab("local", "deploy")
    assert result.code == 0
    assert "notify.webhook failed: it can't be reached: [Errno 111] Connection refused" in result.err
    assert "kept-under-the-mat" not in result.err


def test_webhook_that_never_answers_holds_up_no_step(told: Told, webhook: Webhook) -> None:
    """The deployment goes on while the start is being told; only the end waits, and not for ever."""
    over = threading.Event()
    webhook.answering = over.wait
    moments: list[float] = []
    process = told.start("local", "deploy")
    try:
        while process.poll() is None:
            if not moments and None not in [told.served()[host] for host in HOSTS]:
                moments.append(time.monotonic())
            time.sleep(0.05)
        _, err = process.communicate()
    finally:
        process.kill()
        over.set()
    assert process.returncode == 0, err
    # The hosts had switched before anybody gave up on the webhook.
    assert moments
    before = err.partition("notify.webhook failed: it can't be reached: timed out")[0]
    assert "activate" in before or "verified" in before, err
    assert len(webhook.heard) == 2


def test_command_that_fails_or_hangs_fails_no_deploy(told: Told) -> None:
    told.settings["notify"] = {
        "command": ["echo no; exit 3", "sleep 60", "cat >>told"], "timeout_seconds": 1, "when": ["success"]
    }  # fmt: skip
    told.write()
    result = told.fab("local", "deploy")
    assert result.code == 0
    assert "notify.command[0] | no" in result.err
    assert "notify.command[0] failed with exit status 3: its success may not have been notified" in result.err
    assert "notify.command[1] was stopped after 1 s (`notify.timeout_seconds`)" in result.err
    assert [record["notice"] for record in told.records()] == ["success"]
