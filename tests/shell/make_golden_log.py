"""Makes the golden data directory: ``python -m tests.shell.make_golden_log``, once a format.

It holds what a log can hold: several segments, one rewritten, small and large commits, batches of
records with keys and headers, topics changed and deleted, rules, trims.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from meshmq import codec, limits
from meshmq.core import retention
from meshmq.core.log import BatchEntry, RuleEntry, TopicEntry, TrimEntry
from meshmq.shell import store as store_module
from meshmq.shell.store import LogStore

DIRECTORY = Path(__file__).with_name("golden")
TIME_NS = 1_700_000_000_000_000_000


def make(directory: Path) -> None:
    """Write the log."""
    times = iter(range(TIME_NS, TIME_NS + 10**15, 10**9))
    limits.SEGMENT_COMMITS_MAX = 8
    retention.REWRITE_BYTES_MIN = 100
    store_module._PLAN_SHARE = 0
    store_module._SETTLE_SECONDS = 0
    store = LogStore.open(directory, clock=lambda: next(times))
    names = {1: "orders.eu", 2: "orders.us", 3: "gone"}
    topics = {
        stream: TopicEntry(stream, bytes([stream]) * 16, name, True, 0, 0)
        for stream, name in names.items()
    }
    store.append([*topics.values(), TopicEntry(0, b"t" * 16, "ticks", False, 0, 0)])
    store.append([RuleEntry("orders.>", True, 7 * limits.DAY, 10 << 30)])
    ends = dict.fromkeys(names, 0)
    for i in range(30):
        batches = []
        for stream in names:
            count = i % 3 + 1
            longer = (400 if i % 4 == 3 else 1) * (20 if stream == 3 else 1)
            values = [b"%d-%d-%d" % (stream, i, k) * longer for k in range(count)]
            data = codec.encode_batch(
                values,
                [b"key-%d" % k for k in range(count)] if i % 2 else None,
                [codec.encode_headers({"n": str(k)}) for k in range(count)] if i % 5 == 0 else None,
                None,
                TIME_NS + i,
            )
            base = ends[stream]
            batches.append(
                BatchEntry(stream, base, count, data, zlib.crc32(data), b"p" * 16, base + 1)
            )
            ends[stream] = base + count
        store.append(batches)
    store.append([topics[3]._replace(deleted=True), TrimEntry(1, 20)])
    store.append([topics[2]._replace(retention_ns=30 * limits.DAY)])
    for _ in range(9):
        store.plan_retention()
        while store.is_rewriting:
            store.rewrite()
    assert store.stats()["segments_rewritten"] > 0
    store.close()


def contents(store: LogStore) -> dict[str, object]:
    """What is in it, as JSON says it."""
    state = store.state
    records = {}
    for alias, stream in state.streams.items():
        found = store.read(
            frozenset([alias]), ("offset", stream.first_offset, 0), state.next_lsn, 1 << 30
        )
        rows = records[stream.topic.name] = []
        for b in found.batches:
            assert not b.damaged
            decoded = codec.decode_batch(b.payload, b.count)
            keys = decoded.keys or [b""] * b.count
            rows.append(
                [b.lsn, b.slot, b.base_offset, b.append_time_ns, zlib.crc32(b.payload),
                 [v.decode()[:20] for v in decoded.values], [k.decode() for k in keys]]
            )  # fmt: skip
    return {
        "next_lsn": state.next_lsn,
        "topics": sorted([list(map(str, s.topic[:7])), s.first_offset, s.next_offset]
                         for s in state.topics.values()),
        "rules": [list(r[:5]) for r in state.rules.values()],
        "producers": [[p.hex(), s, v.last] for (p, s), v in state.producers.items()],
        "records": records,
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "data"
        make(directory)
        again = LogStore.open(directory)
        found = contents(again)
        again.close()
        DIRECTORY.mkdir(exist_ok=True)
        (DIRECTORY / "log-1.json").write_text(json.dumps(found, indent=1) + "\n")
        for left in directory.rglob("cache.db-*"):
            left.unlink()
        with tarfile.open(DIRECTORY / "log-1.tar.gz", "w:gz") as archive:
            archive.add(directory, "data")
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
