"""A long line on one machine: a TCP proxy on loopback that holds back each direction by half a round trip.

    with SlowLink(port, round_trip_seconds=0.15) as link: …      whoever connects to `link.port` is far from `port`

The line is long, not narrow: bytes are stamped as they arrive and let go when their time has come, however many came
meanwhile. A connection takes one round trip to be made, as TCP's own does. An end of one direction leaves the other
open, and comes as late as bytes do.
"""

import asyncio
import contextlib
import socket
import threading
from types import TracebackType

LOOPBACK = "127.0.0.1"
PIECE_BYTES = 65_536
#: So many pieces are under way in one direction before whoever sends has to wait for whoever reads: 256 MB.
PIECES = 4_096


class SlowLink:
    """Listens on `port` from `with` on, for as long as that lasts; then all its connections end."""

    def __init__(self, port: int, *, round_trip_seconds: float) -> None:
        self._far = port
        self._round_trip_seconds = round_trip_seconds
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._serving = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "SlowLink":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def _work(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as connections:
            while True:
                near, _ = await self._loop.sock_accept(self._listener)
                connections.create_task(self._connect(near))

    async def _connect(self, near: socket.socket) -> None:
        with near, socket.socket() as far:
            near.setblocking(False)
            far.setblocking(False)
            # A reset, or nobody at the far end: both ends are closed, and with that each sees the other go.
            with contextlib.suppress(OSError):
                await asyncio.sleep(self._round_trip_seconds)
                await self._loop.sock_connect(far, (LOOPBACK, self._far))
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._join(near, far)

    async def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Carry both ways until both have ended. Raises OSError if one broke."""
        broken = False
        try:
            async with asyncio.TaskGroup() as ways:
                for source, sink in ((near, far), (far, near)):
                    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES)
                    ways.create_task(self._take(source, held))
                    ways.create_task(self._let_go(held, sink))
        except* OSError:
            # What is raised in here is a group again, which only later versions of 3.11 suppress as an OSError.
            broken = True
        if broken:
            raise OSError("the line broke")

    async def _take(self, source: socket.socket, held: "asyncio.Queue[tuple[float, bytes]]") -> None:
        while True:
            data = await self._loop.sock_recv(source, PIECE_BYTES)
            await held.put((self._loop.time() + self._round_trip_seconds / 2, data))
            if not data:
                return

    async def _let_go(self, held: "asyncio.Queue[tuple[float, bytes]]", sink: socket.socket) -> None:
        while True:
            due, data = await held.get()
            await asyncio.sleep(due - self._loop.time())
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, data)
