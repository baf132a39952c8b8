"""An HTTP relay in front of the real S3 server or the real Consul agent: sees each request, can hold it, or break it.

A request goes to the server as it came, but for `Expect`, which the relay answers itself. What the server said is held
back while a gate is closed: at that moment the effect has happened, and nobody has been told.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of the server."""

    method: str
    #: path and query, as sent
    target: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the relay says in the server's place."""

    status: str
    body: bytes

    def as_bytes(self) -> bytes:
        head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + self.body


class Hang:
    """The server takes the request and says nothing."""


#: None: the request goes to the server
Fault = Callable[[Request], Answer | Hang | None]
Seen = Callable[[Request], None]


def healthy(_request: Request) -> None:
    return None


class Closed(Exception):
    """One of the two ends has gone."""


class Relay:
    """Listens on `port` from `with` on and passes on to the server on `far`. `seen` may hold the answer back."""

    def __init__(self, far: Callable[[], int], port: int, seen: Seen) -> None:
        self._far = far
        self.port = port
        self._seen = seen
        self.fault: Fault = healthy
        #: how many requests it has answered, or left hanging, in the server's place
        self.broken = 0
        self._listener: socket.socket | None = None
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()

    def accept(self) -> None:
        """Listen, unless it does already."""
        if self._listener is None:
            self._listener = socket.create_server((LOOPBACK, self.port), backlog=64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Nobody listens any more, and every connection is cut."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            # Closing alone would not wake the thread that waits in `accept`, nor end the listening.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut the connections that there are."""
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket()
        with self._guard:
            self._open |= {near, far}
        try:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError, Closed, ValueError):
                far.connect((LOOPBACK, self._far()))
                self._converse(Stream(near), Stream(far))
        finally:
            with self._guard:
                self._open -= {near, far}
            near.close()
            far.close()

    def _converse(self, near: "Stream", far: "Stream") -> None:
        while True:
            head, headers = near.head()
            if "100-continue" in headers.get("expect", ""):
                near.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
            method, target, version = head.decode("latin-1").split("\r\n", 1)[0].split(" ", 2)
            body = near.body(headers)
            request = Request(method, target, body)
            answer = self.fault(request)
            self.broken += answer is not None
            if isinstance(answer, Answer):
                near.socket.sendall(answer.as_bytes())
                return
            if answer is not None:
                near.wait_for_the_end()
                return
            far.socket.sendall(head + body)
            far.wait_for_data(unless=near)
            answered, answer_headers = far.head()
            status = int(answered.split(b" ", 2)[1])
            bodiless = method == "HEAD" or status in (204, 304)
            content = b"" if bodiless else far.body(answer_headers, until_end=True)
            self._seen(request)
            near.socket.sendall(answered + content)
            closing = {answer_headers.get("connection"), headers.get("connection")}
            if "close" in closing or version == "HTTP/1.0":
                return


class Wire(Relay):
    """A line that can be cut: any bytes, both ways."""

    def _converse(self, near: "Stream", far: "Stream") -> None:
        ways = {near.socket: far.socket, far.socket: near.socket}
        while True:
            for source in select.select(list(ways), [], [])[0]:
                data = source.recv(PIECE_BYTES)
                if not data:
                    # SSH ends both ways at once.
                    return
                ways[source].sendall(data)


class Stream:
    """One end of a connection, read message by message."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._held = b""

    def _more(self) -> None:
        data = self.socket.recv(PIECE_BYTES)
        if not data:
            raise Closed
        self._held += data

    def _take(self, count: int) -> bytes:
        pieces, have = [self._held], len(self._held)
        while have < count:
            data = self.socket.recv(PIECE_BYTES)
            if not data:
                raise Closed
            pieces.append(data)
            have += len(data)
        whole = b"".join(pieces)
        self._held = whole[count:]
        return whole[:count]

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            self._more()
        line, _, self._held = self._held.partition(b"\r\n")
        return line + b"\r\n"

    def head(self) -> tuple[bytes, Mapping[str, str]]:
        """The next message's head, as it came, and its headers by lower-case name."""
        while b"\r\n\r\n" not in self._held:
            self._more()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[1:]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return head + b"\r\n\r\n", headers

    def body(self, headers: Mapping[str, str], *, until_end: bool = False) -> bytes:
        """The message's body, as it came. `until_end`: without a length it goes on until the connection ends."""
        if "chunked" in headers.get("transfer-encoding", ""):
            return self._chunks()
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        whole = b""
        if until_end:
            with contextlib.suppress(Closed):
                while True:
                    self._more()
            whole, self._held = self._held, b""
        return whole

    def _chunks(self) -> bytes:
        whole = b""
        while True:
            line = self._line()
            size = int(line.split(b";")[0], 16)
            whole += line
            if size == 0:
                while (trailer := self._line()) != b"\r\n":
                    whole += trailer
                return whole + b"\r\n"
            whole += self._take(size + 2)

    def wait_for_data(self, *, unless: "Stream") -> None:
        """Wait until something comes. Raises Closed if the other end goes meanwhile."""
        while True:
            readable, _, _ = select.select([self.socket, unless.socket], [], [])
            if self.socket in readable:
                return
            if not unless.socket.recv(1, socket.MSG_PEEK):
                raise Closed

    def wait_for_the_end(self) -> None:
        with contextlib.suppress(Closed):
            while True:
                self._more()
