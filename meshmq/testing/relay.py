"""A slow, thin or broken line between two programs: ``python -m meshmq.testing.relay``.

A relay of TCP connections, in a process of its own. What comes at one of its addresses goes on to
the target behind that, and back, as over one line: later by a delay, no faster than a rate, and
not at all while it is cut. ``Relay`` starts one from a program or a test; by hand:

    python -m meshmq.testing.relay tcp://127.0.0.1:5758 --delay 0.1 --rate 125000

It says where it listens, and takes commands on stdin, a line each: ``to URL``, ``delay SECONDS``,
``rate BYTES``, ``cut``, ``heal``, ``reset``, ``stats``. It ends at the end of stdin.

Rules:
1. The line is duplex: each direction has the rate to itself. The connections of a direction share
   it by turns, so a short message does not wait behind all of a long stream.
2. Of what waits for the rate each connection has QUEUE_BYTES at most; then its sender waits. Of
   what is under way without a rate there are UNDER_WAY_BYTES at most.
3. While it is cut nothing passes, ends of connections neither, and nobody is told: as a
   cable that was pulled out. ``heal`` lets pass what was held; ``reset`` ends all connections.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any, Self

READ_BYTES = 1 << 18
QUEUE_BYTES = 1 << 16  # as a modest router has
UNDER_WAY_BYTES = 1 << 26  # 0.3 s at 200 MB/s
TURN_S = 0.01  # of the line, in one go, by one connection
SEGMENT_BYTES = 1448  # of TCP over Ethernet: the kernel's own queues are as on such a line


class _Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.waiting: deque[memoryview] = deque()  # for the rate
        self.under_way: deque[tuple[float, memoryview]] = deque()  # until then; empty: the end
        self.waiting_bytes = self.under_way_bytes = 0
        self.is_over = self.has_ended = self.is_blocked = False

    def has_room(self, rate: float) -> bool:
        if self.is_over or self.under_way_bytes >= UNDER_WAY_BYTES:
            return False
        return self.waiting_bytes < (QUEUE_BYTES if rate else UNDER_WAY_BYTES)

    def read(self, rate: float) -> None:
        try:
            data = self.source.recv(min(READ_BYTES, QUEUE_BYTES) if rate else READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.is_over = not data
        self.waiting.append(memoryview(data))
        self.waiting_bytes += len(data)

    def take(self, most: int, due: float) -> int:
        """Put up to so many bytes under way, but for the end; how many."""
        taken = 0
        while self.waiting and (taken < most or not self.waiting[0]):
            part = self.waiting.popleft()
            if len(part) > most - taken:
                self.waiting.appendleft(part[most - taken :])
                part = part[: most - taken]
            self.under_way.append((due, part))
            taken += len(part)
        self.waiting_bytes -= taken
        self.under_way_bytes += taken
        return taken

    def write(self, now: float) -> int:
        """Send what is due; how many bytes went."""
        gone = 0
        while self.under_way and self.under_way[0][0] <= now and not self.is_blocked:
            due, part = self.under_way.popleft()
            if not part:
                self.has_ended = True
                try:
                    self.target.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                break
            try:
                sent = self.target.send(part)
            except BlockingIOError:
                sent = 0
            except OSError:  # nobody is there any more: the rest goes nowhere
                sent = len(part)
            gone += sent
            if sent < len(part):
                self.under_way.appendleft((due, part[sent:]))
                self.is_blocked = True
        self.under_way_bytes -= gone
        return gone


class _Line:
    """The connections in one direction, and the rate that they share."""

    def __init__(self) -> None:
        self.ways: deque[_Way] = deque()
        self.free_at = 0.0
        self.carried = 0

    def turn(self, rate: float, delay: float, now: float) -> None:
        """Put under way what the rate allows by now, by turns."""
        most = max(SEGMENT_BYTES, min(READ_BYTES, int(rate * TURN_S))) if rate else READ_BYTES
        self.free_at = max(self.free_at, now - TURN_S)
        idle = 0
        while self.ways and idle < len(self.ways) and (not rate or self.free_at <= now):
            way = self.ways[0]
            self.ways.rotate(-1)
            taken = way.take(most, (self.free_at if rate else now) + delay) if way.waiting else 0
            if rate:
                self.free_at += taken / rate
            idle = 0 if taken else idle + 1

    def deadline(self, rate: float) -> float | None:
        """When there is something to do but for what comes."""
        found = [way.under_way[0][0] for way in self.ways if way.under_way and not way.is_blocked]
        if rate and any(way.waiting for way in self.ways):
            found.append(self.free_at)
        return min(found, default=None)


class _Server:
    """The process; see the module's header."""

    def __init__(self, delay: float, rate: float) -> None:
        self.delay, self.rate, self.is_cut = delay, rate, False
        self.listeners: dict[socket.socket, tuple[str, int]] = {}
        self.lines = (_Line(), _Line())
        self.connections: list[tuple[_Way, _Way]] = []
        self.accepted = 0

    def listen(self, target: str, at: str = "tcp://127.0.0.1:0") -> str:
        host, port = _place(at)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.rate:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        listener.bind((host, port))
        listener.listen(128)
        listener.setblocking(False)
        self.listeners[listener] = _place(target)
        return "tcp://{}:{}".format(*listener.getsockname())

    def accept(self, listener: socket.socket) -> None:
        try:
            near, _ = listener.accept()
        except BlockingIOError:
            return
        far = socket.socket()
        if self.rate:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        try:
            far.connect(self.listeners[listener])
        except OSError:
            near.close()
            far.close()
            return
        self.accepted += 1
        for one in (near, far):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Way(near, far), _Way(far, near)
        self.connections.append(pair)
        for line, way in zip(self.lines, pair, strict=True):
            line.ways.append(way)

    def drop(self, pair: tuple[_Way, _Way], with_reset: bool = False) -> None:
        self.connections.remove(pair)
        for line, way in zip(self.lines, pair, strict=True):
            line.ways.remove(way)
            if with_reset:  # no time to linger: the other end sees an error
                option = b"\1\0\0\0\0\0\0\0"
                way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            way.source.close()

    def command(self, line: str) -> dict[str, Any]:
        """Do what a line says; the answer."""
        word, *rest = line.split()
        match word, rest:
            case "to", [target, *at]:
                return {"url": self.listen(target, *at)}
            case "delay", [seconds]:
                self.delay = float(seconds)
            case "rate", [rate]:
                self.rate = float(rate)
            case "cut", []:
                self.is_cut = True
            case "heal", []:
                self.is_cut = False
            case "reset", []:
                for pair in list(self.connections):
                    self.drop(pair, with_reset=True)
            case "stats", []:
                return {
                    "connections": len(self.connections), "accepted": self.accepted,
                    "carried": [line.carried for line in self.lines],
                }  # fmt: skip
            case _:
                return {"error": f"no such command: {line.strip()}"}
        return {}

    def step(self, stdin: int) -> bool:
        """Wait for something and see to it; whether stdin has something."""
        ways = [] if self.is_cut else [way for line in self.lines for way in line.ways]
        reads: list[Any] = [stdin]
        if not self.is_cut:
            reads += self.listeners
        by_source = {way.source: way for way in ways if way.has_room(self.rate)}
        by_target = {way.target: way for way in ways if way.is_blocked}
        due = [at for line in self.lines if (at := line.deadline(self.rate)) is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due and not self.is_cut else None
        ready, open_again, _ = select.select([*reads, *by_source], list(by_target), [], wait)
        for one in ready:
            if one in by_source:
                by_source[one].read(self.rate)
            elif one != stdin:
                self.accept(one)
        for one in open_again:
            by_target[one].is_blocked = False
        if not self.is_cut:
            now = time.monotonic()
            for line in self.lines:
                line.turn(self.rate, self.delay, now)
                line.carried += sum([way.write(now) for way in line.ways if way.under_way])
            for pair in [p for p in self.connections if p[0].has_ended and p[1].has_ended]:
                self.drop(pair)
        return stdin in ready


def _place(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    return host, int(port)


class Relay:
    """A line in a process of its own, as a context manager.

    Args:
        delay_s: one way, 0 to some seconds.
        bytes_per_second: of each direction, all connections together; 0: as fast as it goes. What
            the kernel keeps of a connection is small only where the rate was there from the start.

    Raises:
        OSError: the process did not start, or an address cannot be had.
    """

    def __init__(self, delay_s: float = 0.0, bytes_per_second: float = 0.0) -> None:
        argv = [sys.executable, "-m", "meshmq.testing.relay", "--delay", str(delay_s),
                "--rate", str(bytes_per_second)]  # fmt: skip
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise OSError(f"the relay ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise OSError(found["error"])
        return found

    def to(self, target: str) -> str:
        """Where to dial for ``target``, ``tcp://address:port``, over the line."""
        url: str = self._ask(f"to {target}")["url"]
        return url

    def set(self, delay_s: float | None = None, bytes_per_second: float | None = None) -> None:
        """Another delay or rate, for what comes from now on."""
        if delay_s is not None:
            self._ask(f"delay {delay_s}")
        if bytes_per_second is not None:
            self._ask(f"rate {bytes_per_second}")

    def cut(self) -> None:
        """Let nothing pass any more; nobody is told."""
        self._ask("cut")

    def heal(self) -> None:
        """Let all pass again, what was held too."""
        self._ask("heal")

    def reset(self) -> None:
        """End all connections with an error at both ends; new ones are taken."""
        self._ask("reset")

    def stats(self) -> dict[str, Any]:
        """``connections`` now, ``accepted`` ever, ``carried`` bytes there and back."""
        return self._ask("stats")

    def close(self) -> None:
        """End it, and all its connections."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def main() -> None:
    """Relay until stdin ends."""
    parser = argparse.ArgumentParser(description="A slow, thin or broken line for TCP.")
    parser.add_argument("target", nargs="*", help="tcp://address:port, each gets an address here")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, one way")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second each way; 0: any")
    options = parser.parse_args()
    server = _Server(options.delay, options.rate)
    answers = [{"target": target, "url": server.listen(target)} for target in options.target]
    stdin, rest = sys.stdin.fileno(), b""
    while True:
        if answers:
            sys.stdout.write("".join([json.dumps(answer) + "\n" for answer in answers]))
            sys.stdout.flush()
            answers = []
        if server.step(stdin):
            data = os.read(stdin, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.strip():
                    answers.append(_done(server, line.decode(errors="replace")))


def _done(server: _Server, line: str) -> dict[str, Any]:
    try:
        return server.command(line)
    except (OSError, ValueError) as error:
        return {"error": f"{line.strip()}: {error}"}


if __name__ == "__main__":
    main()
