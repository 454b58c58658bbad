"""What the store's tests share."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshmq.core.log import BatchEntry, Commit, StoredBatch, TopicEntry
from meshmq.shell.store import LogStore

PRODUCERS = [bytes([i]) * 16 for i in range(4)]


class Writer:
    """Appends batches of random bytes with dense offsets and remembers what was confirmed.

    ``written`` holds (commit, slot, entry) in log order.
    """

    def __init__(self, store: LogStore, seed: int = 0) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.offsets: dict[int, int] = {}
        self.sequences: dict[tuple[bytes, int], int] = {}
        self.written: list[tuple[Commit, int, BatchEntry]] = []

    def topic(
        self, stream: int, *, retention_ns: int = 0, retention_bytes: int = 0, deleted: bool = False
    ) -> TopicEntry:
        return TopicEntry(
            stream,
            stream.to_bytes(16, "big"),
            f"topic.{stream}",
            True,
            retention_ns,
            retention_bytes,
            deleted,
        )

    def batch(self, stream: int, size: int = 100, count: int = 1) -> BatchEntry:
        producer = self.random.choice(PRODUCERS)
        first = self.sequences.get((producer, stream), 1)
        self.sequences[producer, stream] = first + count
        base = self.offsets.get(stream, 0)
        self.offsets[stream] = base + count
        payload = self.random.randbytes(size)
        return BatchEntry(stream, base, count, payload, zlib.crc32(payload), producer, first)

    def append(self, batches: Sequence[BatchEntry]) -> Commit:
        commit = self.store.append(batches)
        self.written += [(commit, slot, entry) for slot, entry in enumerate(batches)]
        return commit

    def write(self, stream: int, size: int = 100, count: int = 1) -> Commit:
        return self.append([self.batch(stream, size, count)])

    def expected(self, streams: Sequence[int] | None = None) -> list[StoredBatch]:
        """What reading back ``streams`` (None: all) must give."""
        return [
            StoredBatch(
                entry.stream,
                entry.base_offset,
                entry.count,
                entry.payload,
                entry.checksum,
                commit.append_time_ns,
                commit.lsn,
                slot,
                False,
                entry.producer,
                entry.first,
            )
            for commit, slot, entry in self.written
            if streams is None or entry.stream in streams
        ]


def read_all(
    store: LogStore,
    streams: Sequence[int] | None = None,
    start: tuple[str, int, int] = ("position", 1, 0),
    end_lsn: int | None = None,
    bytes_max: int = 1 << 20,
) -> list[StoredBatch]:
    """Read to the end in as many reads as it takes."""
    wanted = frozenset(store.state.streams if streams is None else streams)
    end = store.state.next_lsn - 1 if end_lsn is None else end_lsn
    found: list[StoredBatch] = []
    while True:
        result = store.read(wanted, start, end, bytes_max)
        found += result.batches
        if result.next_lsn > end:
            return found
        start = ("position", result.next_lsn, result.next_slot)


@pytest.fixture
def reader() -> Callable[..., list[StoredBatch]]:
    return read_all


@pytest.fixture
def writer_of() -> type[Writer]:
    return Writer


class Opener:
    """Calling it opens the store in ``directory``, after closing the one it opened before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._store: LogStore | None = None

    def __call__(self, **options: Any) -> LogStore:
        self.close()
        self._store = LogStore.open(self.directory, **options)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """``opened()`` opens the store in ``tmp_path/data``, again after closing what is open."""
    opener = Opener(tmp_path / "data")
    yield opener
    opener.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of a few commits, so that a short test has many."""
    monkeypatch.setattr("meshmq.limits.SEGMENT_COMMITS_MAX", 10)
