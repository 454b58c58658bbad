"""How long confirmations pause: ``python -m tests.chaos.pauses --turns 2 --seconds 20``.

Appends at a steady rate to a disk thread as a node has it, while segments roll, are rewritten and
are unlinked. In turn with it the same bytes go to plain files with write and ``fdatasync``, for
what the disk itself takes. A wait is the time in which something was to be stored and nothing was
confirmed. Each is told under all that went on meanwhile; under "quiet" where nothing did.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from meshmq import limits
from meshmq.core.effects import Append, PlanRetention
from meshmq.core.events import Committed, RetentionPlanned
from meshmq.core.log import BatchEntry, Entry, TopicEntry, TrimEntry
from meshmq.shell.disk import DiskThread
from meshmq.shell.store import LogStore
from meshmq.shell.store_background import Background
from tests.bench import about

TICK_SECONDS = 0.005
BATCH_BYTES = 64 * limits.KIB
RETENTION_BYTES = 400_000_000
STAYING_SHARE = 20  # one batch in so many is kept, where segments are to be rewritten
GOAL_MS = 50
TURNED = ("roll", "rewrite", "unlink")

Span = tuple[float, float]


class Watch:
    """When what went on, by name."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = {name: [] for name in TURNED}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note calls of what may hold up a commit."""
        with ExitStack() as stack:
            for name, owner, method in (
                ("roll", LogStore, "_roll"),
                ("rewrite", LogStore, "rewrite"),
                ("unlink", Background, "_remove"),
            ):
                real = getattr(owner, method)
                stack.enter_context(patch.object(owner, method, self._noting(name, real)))
            yield

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return real(*args, **kwargs)
            finally:
                self.spans[name].append((began, time.monotonic()))

        return call


class Feeder:
    """A node's loop, with made-up publishers and nobody who reads."""

    def __init__(self, directory: Path, rate: float, rewrites: bool) -> None:
        self.waits: list[Span] = []
        self.delays: list[float] = []
        self._rate = rate
        self._rewrites = rewrites
        self._payload = os.urandom(BATCH_BYTES)
        self._checksum = zlib.crc32(self._payload)
        self._offsets = {1: 0, 2: 0}
        self._batches = 0
        self._ticket = 0
        self._due: dict[int, float] = {}
        self._confirmed = 0.0
        self._told = threading.Event()
        self._times: deque[float] = deque()  # of the results, in their order
        self.disk = DiskThread(directory, self._note)

    def run(self, seconds: float) -> None:
        """Append for so long."""
        self.disk.open()
        topics = [(1, RETENTION_BYTES), (2, 0)]
        self._append([TopicEntry(n, bytes([n]) * 16, f"t{n}", True, 0, kept) for n, kept in topics])
        begin = plan = time.monotonic()
        self._confirmed = begin
        while (now := time.monotonic()) < begin + seconds and self.disk.failure is None:
            due = int((now - begin) * self._rate / BATCH_BYTES) - self._batches
            if due > 0:
                self._append([self._batch() for _ in range(due)])
            if now >= plan:
                self.disk.put([PlanRetention()])
                plan = now + limits.RETENTION_INTERVAL_NS / limits.SECOND
            self._told.wait(TICK_SECONDS)
            self._told.clear()
            self._take()
            time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
        self.disk.close()
        self._take()
        assert self.disk.failure is None, self.disk.failure
        assert not self._due

    def _note(self) -> None:
        self._times.append(time.monotonic())
        self._told.set()

    def _batch(self) -> BatchEntry:
        self._batches += 1
        stream = 2 if self._rewrites and self._batches % STAYING_SHARE == 0 else 1
        base = self._offsets[stream]
        self._offsets[stream] += 600
        return BatchEntry(stream, base, 600, self._payload, self._checksum, b"p" * 16, base + 1)

    def _append(self, entries: list[Entry] | list[TopicEntry] | list[BatchEntry]) -> None:
        self._ticket += 1
        self._due[self._ticket] = time.monotonic()
        self.disk.put([Append(self._ticket, tuple(entries))])

    def _take(self) -> None:
        """What the disk thread said, and when."""
        while self._times and self.disk.results:
            event = self.disk.results.popleft()
            done = self._times.popleft()
            if isinstance(event, RetentionPlanned) and event.trims:
                self._append([TrimEntry(*trim) for trim in event.trims])
            elif isinstance(event, Committed):
                self._on_commit(event, done)

    def _on_commit(self, event: Committed, done: float) -> None:
        tickets = [ticket for ticket in self._due if ticket <= event.ticket]
        put = [self._due.pop(ticket) for ticket in tickets]
        self.delays += [done - at for at in put]
        self.waits.append((max(min(put), self._confirmed), done))
        self._confirmed = done


def raw(
    directory: Path, rate: float, seconds: float, kept_bytes: int
) -> tuple[list[float], list[float]]:
    """(write and sync, delay from when it was due) of the same bytes, in the same ticks.

    Files are unlinked as those of a log with ``kept_bytes`` are, in a thread, in slices.
    """
    payload = os.urandom(BATCH_BYTES)
    took: list[float] = []
    delays: list[float] = []
    made: list[Path] = []
    fd, size, batches = -1, 0, 0
    background = Background(threaded=True)
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        due = min(int((now - begin) * rate / BATCH_BYTES) - batches, 128)
        if due > 0:
            if fd < 0 or size > limits.SEGMENT_BYTES_MAX:
                if fd >= 0:
                    os.close(fd)
                made.append(directory / str(len(made)))
                made[-1].mkdir()
                fd, size = os.open(made[-1] / "values", os.O_CREAT | os.O_WRONLY, 0o600), 0
                if len(made) > 1 + kept_bytes // limits.SEGMENT_BYTES_MAX:
                    background.remove(made[-2 - kept_bytes // limits.SEGMENT_BYTES_MAX])
            os.writev(fd, [payload] * due)
            os.fdatasync(fd)
            done = time.monotonic()
            took.append(done - now)
            delays += [done - (begin + (batches + i) * BATCH_BYTES / rate) for i in range(due)]
            batches += due
            size += due * BATCH_BYTES
        time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
    os.close(fd)
    background.close()
    return took, delays


def at(values: list[float], share: float) -> float:
    """A percentile, in ms."""
    values = sorted(values)
    return round(values[min(len(values) - 1, int(len(values) * share))] * 1000, 2)


def spread(values: list[float]) -> dict[str, float]:
    return {
        "p50": at(values, 0.5), "p99": at(values, 0.99), "p99.9": at(values, 0.999),
        "longest": at(values, 1),
    }  # fmt: skip


def longest(waits: list[Span], spans: dict[str, list[Span]]) -> dict[str, dict[str, Any]]:
    """For each thing that went on: how often, and the longest wait that overlaps it."""
    found = {}
    busy: set[int] = set()
    for name, them in spans.items():
        over = [
            i for i, (a, b) in enumerate(waits) if any(begin < b and a < end for begin, end in them)
        ]
        busy.update(over)
        if them:
            found[name] = {
                "times": len(them),
                "longest_itself_ms": at([end - begin for begin, end in them], 1),
                "wait_ms": spread([waits[i][1] - waits[i][0] for i in over]) if over else None,
            }
    quiet = [b - a for i, (a, b) in enumerate(waits) if i not in busy]
    found["quiet"] = {"times": len(quiet), "wait_ms": spread(quiet)}
    return found


def settle() -> None:
    """What was unlinked before is done with: the journal is committed every 5 s."""
    os.sync()
    time.sleep(6)
    os.sync()


def measure(directory: Path, rate: float, seconds: float, turns: int) -> dict[str, Any]:
    """Unlinking, rewriting and the raw disk in turn; what was measured."""
    watches = {"unlink": Watch(), "rewrite": Watch()}
    waits: dict[str, list[Span]] = {"unlink": [], "rewrite": []}
    delays: dict[str, list[float]] = {"unlink": [], "rewrite": [], "raw": []}
    took: list[float] = []

    for _ in range(turns):
        for kind, watch in watches.items():
            settle()
            with tempfile.TemporaryDirectory(dir=directory) as folder, watch.watching():
                feeder = Feeder(Path(folder) / "data", rate, kind == "rewrite")
                feeder.run(seconds)
                waits[kind] += feeder.waits
                delays[kind] += feeder.delays
        settle()
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            more, late = raw(Path(folder), rate, seconds, RETENTION_BYTES)
            took += more
            delays["raw"] += late
    return {
        "rate_mb": rate / 1e6, "seconds": seconds, "turns": turns, "goal_ms": GOAL_MS,
        "pauses": {kind: longest(waits[kind], watches[kind].spans) for kind in watches},
        "confirm_ms": {kind: spread(delays[kind]) for kind in watches},
        "raw": {"write_and_sync_ms": spread(took), "delay_ms": spread(delays["raw"])},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="How long confirmations pause.")
    parser.add_argument("--rate", type=float, default=80, help="MB a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--data", type=Path, help="on which disk; else where temporary files lie")
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    found = measure(options.data, options.rate * 1e6, options.seconds, options.turns)
    result = {"what": "pauses", "commit": about.commit(), "date": about.date(), **found}
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        (options.out / f"pauses-{about.stamp()}.json").write_text(text + "\n")
    worst = max(
        one["wait_ms"]["longest"]
        for kinds in found["pauses"].values()
        for name, one in kinds.items()
        if name != "quiet" and one["wait_ms"]
    )
    base = found["raw"]["write_and_sync_ms"]["longest"]
    if worst > max(GOAL_MS, 2 * base):
        sys.exit(f"pauses: {worst} ms, the goal is {GOAL_MS}, the disk alone took {base}")


if __name__ == "__main__":
    main()
