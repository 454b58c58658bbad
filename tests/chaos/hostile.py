"""Peers that break the rules, on plain sockets: what libzmq would never send."""

from __future__ import annotations

import random
import socket
import threading
import time

from meshmq import codec
from meshmq.frames import Credit, Envelope, Hello, Ping, Subscribe

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL" + bytes(16) + b"\0" + bytes(31)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"


def connect(url: str, timeout: float = 20.0) -> socket.socket:
    """A TCP connection to the node at ``url``."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout)


def greet(sock: socket.socket) -> None:
    """The handshake of ZMTP 3.1 without security, as a DEALER."""
    assert len(GREETING) == 64
    sock.sendall(GREETING)
    _exactly(sock, 64)
    sock.sendall(READY)
    head = _exactly(sock, 2)
    _exactly(sock, head[1])


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("closed during the handshake")
        data += more
    return data


def part(data: bytes, more: bool = False) -> bytes:
    """One part of a message on the wire."""
    if len(data) > 255:
        return bytes([2 | more]) + len(data).to_bytes(8, "big") + data
    return bytes([int(more), len(data)]) + data


def message(parts: list[bytes]) -> bytes:
    """A whole message on the wire."""
    return b"".join(part(p, i + 1 < len(parts)) for i, p in enumerate(parts))


def hello(rng: random.Random, mesh: str = "local", major: int = 1) -> Hello:
    return Hello(major, 1, mesh, rng.randbytes(16), rng.randbytes(16), "hostile", "hostile 1")


def endless_multipart(url: str, bytes_max: int, seconds: float) -> int:
    """Send parts of one message that never ends, until cut off; return how many bytes went."""
    sent, chunk = 0, part(bytes(1 << 20), more=True)
    with connect(url) as sock:
        greet(sock)
        until = time.monotonic() + seconds
        try:
            while sent < bytes_max and time.monotonic() < until:
                sock.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    return sent


class SlowReader(threading.Thread):
    """Subscribes to a topic and then reads so many bytes a second, answering nothing."""

    def __init__(self, url: str, pattern: str, bytes_per_second: int, pings: bool) -> None:
        super().__init__(daemon=True)
        self.url, self.pattern, self.pace, self.pings = url, pattern, bytes_per_second, pings
        self.stop = threading.Event()
        self.failed = ""

    def run(self) -> None:
        rng = random.Random(4)
        session = rng.getrandbits(63)
        try:
            with connect(self.url) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                greet(sock)
                big = Subscribe(1, self.pattern, 0, 0, b"", 0, 0, 1 << 26, 1_000_000)
                for sequence, body in ((0, hello(rng)), (1, big), (2, Credit(1, 1 << 26, 10**6))):
                    sock.sendall(message(codec.encode(Envelope(session, sequence, 0, body))))
                while not self.stop.wait(1.0):
                    if self.pings:
                        sock.sendall(message(codec.encode(Envelope(session, 0, 0, Ping()))))
                    if self.pace:
                        sock.recv(self.pace)
        except OSError as error:
            self.failed = str(error)
