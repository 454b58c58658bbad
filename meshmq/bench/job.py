"""What one measuring process is told, and the loops and counters all of them share.

Clock: ``time.monotonic_ns``, which all processes of one machine share. Side channel: a small
mapped file of 64-bit numbers (Board), so that a publisher can keep at most ``window`` records
ahead of its slowest receiver without a message of its own through what is being measured.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VALUE_COUNT = 1000  # values a publisher goes round; a multiple of every chunk size
VALUES_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 512 * 1024  # a sixth of the smallest window: larger steps would make it stutter
NUMBER = struct.Struct("<Q")  # first in the values of a shared job
STAMP = struct.Struct("<qQ")  # monotonic ns at sending, number
QUIET_NS = 2_000_000_000  # after the last send a receiver that hears nothing so long has lost some
BOARD_BYTES = 4096


@dataclass(slots=True)
class Job:
    """One process's work.

    Attributes:
        address: where the node or server is.
        topic: topic, key, subject or pattern; what the role says.
        size: value size in bytes, at least 16 where times travel in the value.
        seconds: how long to publish, if ``count`` is 0.
        count: records to publish or to receive, 0 for no fixed number.
        rate: records a second for paced publishers.
        window: records a publisher may be ahead of its slowest receiver; 0: no limit.
        index: this receiver's slot on the board, from 0.
        receivers: receivers that a publisher looks at.
        shared: receivers are workers that share the records; each record carries its number.
        board: path of the board, "" without one.
        options: whatever else a role needs.
    """

    address: str
    topic: str = "bench"
    size: int = 100
    seconds: float = 3.0
    count: int = 0
    rate: int = 0
    window: int = 0
    index: int = 0
    receivers: int = 0
    shared: bool = False
    board: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))

    def values(self) -> list[bytes]:
        """VALUE_COUNT values of ``size`` bytes, distinct up to VALUES_BYTES in all."""
        filler = bytes(range(256)) * (self.size // 256 + 1)
        count = min(VALUE_COUNT, max(1, VALUES_BYTES // self.size))
        distinct = [(struct.pack("<Q", i) + filler)[: self.size] for i in range(count)]
        return (distinct * (VALUE_COUNT // count + 1))[:VALUE_COUNT]

    def chunks(self, size: int) -> Iterator[list[bytes]]:
        """What to publish, ``size`` values at a time and without end."""
        values = self.values()
        chunks = itertools.cycle([values[i : i + size] for i in range(0, VALUE_COUNT, size)])
        if not self.shared:
            yield from chunks  # has no end
        pack, first = NUMBER.pack, 0
        for chunk in chunks:
            yield [pack(n) + value[8:] for n, value in enumerate(chunk, first)]
            first += size

    def chunk(self, most: int) -> int:
        """Up to ``most`` values that together stay under CHUNK_BYTES; divides VALUE_COUNT."""
        fits = max(1, min(most, CHUNK_BYTES // self.size))
        return next(n for n in range(fits, 0, -1) if VALUE_COUNT % n == 0)

    def stamped(self, number: int) -> bytes:
        """A value of ``size`` bytes that carries the time now."""
        return STAMP.pack(time.monotonic_ns(), number) + bytes(self.size - STAMP.size)


class Board:
    """Numbers shared by the processes of one run: what was sent, what each receiver has."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), BOARD_BYTES)).cast("Q")

    @staticmethod
    def create(path: str) -> str:
        with open(path, "wb") as file:
            file.write(bytes(BOARD_BYTES))
        return path

    @property
    def target(self) -> int | None:
        """Records sent in all, None while the publisher is still at it."""
        raw = self._slots[0]
        return raw - 1 if raw else None

    def finish(self, sent: int) -> None:
        self._slots[0] = sent + 1

    def note(self, index: int, received: int) -> None:
        self._slots[index + 1] = received

    def least(self, receivers: int) -> int:
        """Records that the slowest of ``receivers`` has."""
        return min(self._slots[1 : receivers + 1])

    def total(self, receivers: int) -> int:
        """Records that ``receivers`` have together."""
        return sum(self._slots[1 : receivers + 1])

    def taken(self, job: Job) -> int:
        """Records that no longer count as ahead of the receivers of ``job``."""
        return self.total(job.receivers) if job.shared else self.least(job.receivers)

    def set_flag(self, index: int) -> None:
        self._slots[256 + index] = 1

    def wait_flags(self, count: int, timeout: float) -> None:
        """Return once ``count`` flags are up; TimeoutError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while sum(self._slots[256 : 256 + count]) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {count} receivers came up in {timeout:g} s")
            time.sleep(0.01)


@dataclass(slots=True)
class Sent:
    """What a publishing loop did; times are monotonic ns."""

    count: int
    start_ns: int
    stop_ns: int


def send_chunks(
    job: Job,
    send: Callable[[Sequence[bytes]], object],
    chunk: int,
    idle: Callable[[float], object] = time.sleep,
) -> Sent:
    """Publish as fast as the window allows, for ``job.count`` records or ``job.seconds``.

    ``send`` gets ``chunk`` values at a time; the count is rounded up to whole chunks.
    """
    chunks, board = job.chunks(chunk), Board(job.board) if job.window else None
    sent, clock = 0, time.monotonic
    start_ns = time.monotonic_ns()
    end = clock() + job.seconds
    while sent < job.count if job.count else clock() < end:
        if board is not None and sent + chunk - board.taken(job) > job.window:
            if job.count and clock() > end + 60:
                raise TimeoutError("the slowest receiver does not keep up")
            idle(0.0001)
            continue
        send(next(chunks))
        sent += chunk
    return Sent(sent, start_ns, time.monotonic_ns())


def send_paced(job: Job, send: Callable[[bytes], object]) -> Sent:
    """Publish one stamped value every ``1 / job.rate`` seconds for ``job.seconds``.

    Not caught up after a late wake-up by more than the schedule asks: a value is sent at its
    time or at once if that has passed.
    """
    sent, period = 0, 1.0 / job.rate
    start_ns, start = time.monotonic_ns(), time.monotonic()
    while (due := start + sent * period) < start + job.seconds:
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        send(job.stamped(sent))
        sent += 1
    return Sent(sent, start_ns, time.monotonic_ns())


class Tally:
    """What one receiver got. ``add`` per record, or ``add_many`` per list of them."""

    def __init__(self, job: Job) -> None:
        self.board = Board(job.board)
        self.index = job.index
        self.step = max(1, min(64, job.window // 32)) if job.window else 64
        self.count = 0
        self.bytes = 0
        self.first_ns = 0
        self.last_ns = 0

    def add(self, value: bytes) -> None:
        self.count += 1
        self.bytes += len(value)
        if not self.count % self.step:
            self.stamp()

    def stamp(self) -> None:
        """Tell the publisher how far we are. Called by ``add``, and after every list."""
        now = time.monotonic_ns()
        if not self.first_ns:
            self.first_ns = now
        self.last_ns = now
        self.board.note(self.index, self.count)

    def is_finished(self) -> bool:
        """Whether all that was sent is here, or the rest has been missing for QUIET_NS."""
        target = self.board.target
        if target is None:
            return False
        if self.count >= target:
            return True
        return time.monotonic_ns() - max(self.last_ns, self.first_ns) > QUIET_NS

    def result(self, **more: Any) -> dict[str, Any]:
        return {
            "count": self.count,
            "bytes": self.bytes,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            **more,
        }


class WorkTally(Tally):
    """What one worker of a queue took; each record is told from all others by its number.

    The publisher of such a job waits for every worker's flag (see ``result``) before it asks what
    was left. A record that is handed out twice ends the workers early: then as many count as lost.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.workers = job.receivers
        self.path = _numbers_path(job.board, job.index)
        self.numbers = array("Q")

    def add(self, value: bytes) -> None:
        self.numbers.append(NUMBER.unpack_from(value)[0])
        super().add(value)

    def is_finished(self) -> bool:
        """Whether all workers together have what was sent, or the rest has long been missing."""
        target = self.board.target
        if target is not None and self.board.total(self.workers) >= target:
            return True
        return super().is_finished()

    def result(self, **more: Any) -> dict[str, Any]:
        """To be called once every acknowledgement has left: the publisher may then ask."""
        self.path.write_bytes(self.numbers.tobytes())
        self.board.set_flag(self.index)
        return super().result(**more)


def _numbers_path(board: str, index: int) -> Path:
    return Path(f"{board}.{index}")


def worked(board: str, got: list[dict[str, Any]], sent: dict[str, Any]) -> dict[str, float]:
    """Records a second from the first publish to the last acknowledgement, and what went wrong.

    ``lost``: no worker got it. ``doubled``: handed out once more than needed. ``unacked``: what
    the server still kept at the end, as the publisher says. IndexError: nobody sent that record.
    """
    span = (max(one["last_ns"] for one in got) - sent["start_ns"]) / 1e9
    seen, count = bytearray(sent["count"]), 0
    for index in range(len(got)):
        numbers = array("Q", _numbers_path(board, index).read_bytes())
        count += len(numbers)
        for number in numbers:
            seen[number] = 1
    distinct = seen.count(1)
    return {
        "rate": distinct / span,
        "lost": float(len(seen) - distinct),
        "doubled": float(count - distinct),
        "unacked": float(sent["unacked"]),
    }


def spread(samples_ns: list[int]) -> dict[str, float]:
    """p50, p99 and p999 of ``samples_ns`` in microseconds."""
    ordered = sorted(samples_ns)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000

    return {"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "samples": len(ordered)}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, from /proc."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int, peak: bool = False) -> float:
    """Resident memory of a process in MiB, now or (``peak``) at its highest."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(wanted):
                return int(line.split()[1]) / 1024
    return 0.0


def link_of(job: Job) -> dict[str, Any]:
    """How ``connect`` comes to whom the job is with: by a node, or to each other directly."""
    match job.options.get("direct"):
        case "listen":
            return {"listen": job.address}
        case "dial":
            return {"peers": [job.address]}
    return {"url": job.address, "route": "node"}


def ready() -> None:
    """Tell the parent that set-up is done."""
    sys.stdout.write("READY\n")
    sys.stdout.flush()


def ready_then_go() -> None:
    """Tell the parent that set-up is done and wait for its word."""
    ready()
    if sys.stdin.readline() != "GO\n":
        raise SystemExit(1)
