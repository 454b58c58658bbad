"""Store benchmark: ``python -m tests.bench.store [DIRECTORY]``, on a disk, about 15 s.

Each storage figure stands beside the raw system calls doing the same, in turns, as ratio of
medians: the disk's own speed swings too much for anything else.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from meshmq import limits
from meshmq.core.log import BatchEntry, TopicEntry
from meshmq.shell.store import LogStore

PRODUCER = b"p" * 16


class Writer:
    """Appends made-up batches with dense offsets."""

    def __init__(self, store: LogStore, streams: int) -> None:
        self.store = store
        self.offsets = [0] * (streams + 1)
        store.append(
            [
                TopicEntry(i, i.to_bytes(16, "big"), f"bench.{i}", True, 0, 0)
                for i in range(1, streams + 1)
            ]
        )

    def batch(self, stream: int, count: int, payload: bytes, checksum: int) -> BatchEntry:
        base = self.offsets[stream]
        self.offsets[stream] += count
        return BatchEntry(stream, base, count, payload, checksum, PRODUCER, base + 1)


def per_call(work: Callable[[], object], calls: int) -> list[float]:
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took


def interleave(
    ours: Callable[[], object], raw: Callable[[], object], turns: int, calls: int
) -> tuple[float, float]:
    """Median seconds a call of both, measured in turns."""
    a: list[float] = []
    b: list[float] = []
    for _ in range(turns):
        b += per_call(raw, calls)
        a += per_call(ours, calls)
    return statistics.median(a), statistics.median(b)


def bench_large(root: Path) -> None:
    store = LogStore.open(root / "large")
    writer = Writer(store, 1)
    payload = os.urandom(64 * 1024 - 100)
    checksum = zlib.crc32(payload)
    fd = os.open(root / "raw-large", os.O_RDWR | os.O_CREAT, 0o600)

    def raw() -> None:
        os.writev(fd, [payload] * 16)
        os.fdatasync(fd)

    def ours() -> None:
        store.append([writer.batch(1, 600, payload, checksum) for _ in range(16)])

    mine, base = interleave(ours, raw, 150, 1)
    size = 16 * len(payload) / 1e6
    print(
        f"commit of 16 x 64 KiB: {mine * 1e3:.2f} ms = {size / mine:.0f} MB/s; raw writev + "
        f"fdatasync {base * 1e3:.2f} ms = {size / base:.0f} MB/s; ratio {mine / base:.2f}"
    )
    store.close()
    os.close(fd)


def bench_lone(root: Path) -> None:
    store = LogStore.open(root / "lone")
    writer = Writer(store, 1)
    payload = os.urandom(200)
    checksum = zlib.crc32(payload)
    page = os.urandom(4096)
    fd = os.open(root / "raw-lone", os.O_RDWR | os.O_CREAT, 0o600)
    at = 0

    def raw() -> None:
        nonlocal at
        os.pwrite(fd, page, at)
        os.fdatasync(fd)
        at += 4096

    def ours() -> None:
        store.append([writer.batch(1, 1, payload, checksum)])

    mine, base = interleave(ours, raw, 10, 200)
    began = time.process_time()
    for _ in range(500):
        ours()
    cpu = (time.process_time() - began) / 500
    print(
        f"commit of one 200-byte record: {mine * 1e6:.0f} us ({cpu * 1e6:.0f} us CPU); raw pwrite "
        f"of 4 KiB + fdatasync {base * 1e6:.0f} us; ratio {mine / base:.2f}"
    )
    store.close()
    os.close(fd)


def bench_many(root: Path) -> None:
    store = LogStore.open(root / "many")
    writer = Writer(store, 1000)
    payload = os.urandom(200)
    checksum = zlib.crc32(payload)
    cpu = []
    for _ in range(40):
        batches = [writer.batch(i, 1, payload, checksum) for i in range(1, 1001)]
        began = time.process_time()
        store.append(batches)
        cpu.append(time.process_time() - began)
    print(f"commit of 1,000 tiny batches: {statistics.median(cpu) * 1e3:.2f} ms CPU")
    everything = frozenset(range(1, 1001))
    for name, streams in (("all 1,000 streams", everything), ("one stream", frozenset([7]))):
        began = time.perf_counter()
        count = drain(store, streams)
        took = time.perf_counter() - began
        print(f"  read back {name}: {count / took:,.0f} batches/s")
    store.close()


def drain(store: LogStore, streams: frozenset[int]) -> int:
    end = store.state.next_lsn - 1
    place, count = (1, 0), 0
    while place[0] <= end:
        found = store.read(streams, ("position", *place), end, limits.READ_BYTES_MAX)
        assert not any(batch.damaged for batch in found.batches)
        count += len(found.batches)
        place = (found.next_lsn, found.next_slot)
    return count


def bench_replay(root: Path) -> None:
    """5 million records of 100 bytes in 64 KiB batches."""
    store = LogStore.open(root / "replay")
    writer = Writer(store, 2)
    payload = os.urandom(64 * 1024 - 100)
    checksum = zlib.crc32(payload)
    batches = 5_000_000 // 600
    began = time.perf_counter()
    for i in range(batches // 16):
        store.append([writer.batch(1 + i % 2, 600, payload, checksum) for _ in range(16)])
    took = time.perf_counter() - began
    print(f"wrote 5 M records in {batches} batches: {took:.1f} s, {5 / took:.2f} M records/s")
    for name, streams in (("both", frozenset([1, 2])), ("one", frozenset([1]))):
        began = time.perf_counter()
        count = drain(store, streams)
        took = time.perf_counter() - began
        print(f"  read {name} streams: {count / took:,.0f} batches/s")
    store._lock.release()  # as after a kill: nothing is closed
    began = time.perf_counter()
    again = LogStore.open(root / "replay")
    print(f"  open again: {(time.perf_counter() - began) * 1e3:.0f} ms")
    print(f"  rolls {store.stats()['rolls']}, latencies {store.stats()['sync_latency_us']}")
    again.close()


def bench_open(root: Path) -> None:
    """A segment full of lone commits, the slowest to replay."""
    store = LogStore.open(root / "open")
    writer = Writer(store, 1)
    payload = os.urandom(200)
    checksum = zlib.crc32(payload)
    store.append([writer.batch(1, 1, payload, checksum)])
    store._segments.active._cache._sql("PRAGMA synchronous = 0")  # only here: to fill it quickly
    began = time.perf_counter()
    for _ in range(limits.SEGMENT_COMMITS_MAX - 2):
        store.append([writer.batch(1, 1, payload, checksum)])
    took = time.perf_counter() - began
    print(f"{limits.SEGMENT_COMMITS_MAX} lone commits, not synced: {took:.1f} s")
    began = time.perf_counter()
    count = drain(store, frozenset([1]))
    print(f"  read: {count / (time.perf_counter() - began):,.0f} batches/s")
    store.close()
    began = time.perf_counter()
    store = LogStore.open(root / "open")
    print(f"  open again: {(time.perf_counter() - began) * 1e3:.0f} ms")
    began = time.perf_counter()
    store.append([writer.batch(1, 1, payload, checksum)])
    took = time.perf_counter() - began
    began = time.perf_counter()
    store.append([writer.batch(1, 1, payload, checksum)])
    usual = time.perf_counter() - began
    print(f"  first commit, which rolls: {took * 1e3:.1f} ms; the next: {usual * 1e3:.1f} ms")
    store.close()


def main() -> None:
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    root = Path(tempfile.mkdtemp(prefix="meshmq-store-", dir=where))
    try:
        for bench in (bench_large, bench_lone, bench_many, bench_replay, bench_open):
            bench(root)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
