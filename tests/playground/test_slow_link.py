"""The slow link, between real sockets of loopback."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from deploytool.playground.slow_link import SlowLink

ROUND_TRIP_SECONDS = 0.2
#: A hung test fails rather than waits.
LIMIT_SECONDS = 30


@contextmanager
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_SECONDS)
        yield listener


@contextmanager
def joined(round_trip_seconds: float = ROUND_TRIP_SECONDS) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The near and the far end of one connection through a slow link."""
    with (
        server() as listener,
        SlowLink(listener.getsockname()[1], round_trip_seconds=round_trip_seconds) as link,
        socket.create_connection(("127.0.0.1", link.port), timeout=LIMIT_SECONDS) as near,
    ):
        far, _ = listener.accept()
        far.settimeout(LIMIT_SECONDS)
        with closing(far):
            yield near, far


def receive(source: socket.socket, size_bytes: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size_bytes and (data := source.recv(1 << 20)):
        pieces += data
    return bytes(pieces)


def test_an_answer_comes_a_round_trip_after_its_question() -> None:
    with joined() as (near, far):
        asked = time.monotonic()
        near.sendall(b"question")
        assert receive(far, 8) == b"question"
        assert time.monotonic() - asked >= ROUND_TRIP_SECONDS / 2
        far.sendall(b"answer")
        assert receive(near, 6) == b"answer"
        assert time.monotonic() - asked >= ROUND_TRIP_SECONDS


def test_a_connection_takes_a_round_trip_to_be_made() -> None:
    began = time.monotonic()
    with joined():
        assert time.monotonic() - began >= ROUND_TRIP_SECONDS


def test_many_pieces_share_one_delay() -> None:
    """Held back one after the other, these pieces would take 200 half round trips: 100 s."""
    with joined(round_trip_seconds=1.0) as (near, far):
        began = time.monotonic()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(200):
            near.sendall(b"%06d" % number)
            time.sleep(0.002)
        assert receive(far, 1200) == b"".join(b"%06d" % number for number in range(200))
        assert time.monotonic() - began < 100


def test_every_byte_arrives_in_its_order_in_both_directions() -> None:
    there, back = bytes(range(256)) * 20_000, bytes(reversed(range(256))) * 20_000
    with joined() as (near, far):
        senders = [threading.Thread(target=end.sendall, args=(data,)) for end, data in ((near, there), (far, back))]
        for sender in senders:
            sender.start()
        assert receive(far, len(there)) == there
        assert receive(near, len(back)) == back
        for sender in senders:
            sender.join()


def test_an_end_of_one_direction_leaves_the_other_open() -> None:
    with joined() as (near, far):
        near.sendall(b"all")
        near.shutdown(socket.SHUT_WR)
        assert receive(far, 100) == b"all"
        far.sendall(b"understood")
        assert receive(near, 10) == b"understood"
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""


def test_a_broken_end_breaks_the_other() -> None:
    with joined() as (near, far):
        # Close with a reset.
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        near.close()
        assert far.recv(1) == b""


def test_a_port_where_nobody_listens_ends_the_connection() -> None:
    with server() as listener:
        port = listener.getsockname()[1]
    with (
        SlowLink(port, round_trip_seconds=ROUND_TRIP_SECONDS) as link,
        socket.create_connection(("127.0.0.1", link.port), timeout=LIMIT_SECONDS) as near,
    ):
        assert near.recv(1) == b""


def test_whoever_does_not_read_stops_whoever_sends() -> None:
    with joined(round_trip_seconds=0) as (near, far):
        near.settimeout(1)
        with pytest.raises(TimeoutError):
            # More than all buffers on the way hold.
            near.sendall(bytes(400 << 20))
        assert far.recv(1) == b"\0"


def test_its_end_ends_open_connections() -> None:
    with server() as listener:
        with SlowLink(listener.getsockname()[1], round_trip_seconds=0) as link:
            near = socket.create_connection(("127.0.0.1", link.port), timeout=LIMIT_SECONDS)
            far, _ = listener.accept()
        with closing(near), closing(far):
            assert near.recv(1) == b""
            assert far.recv(1) == b""
