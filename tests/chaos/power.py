"""Power cuts under load: ``python -m tests.chaos.power --store 1000 --node 200``. Needs root.

The store: a child appends commits of 100 B to 200 KB and says which are confirmed; the power is cut
in the middle; what was confirmed before must be there, whole, once.

The node: a client publishes records of 100 B to 1 MiB while the power of its node's disk is cut.
The node must say why and exit with code 74; with power and node back, the client, which never went
away, gets everything confirmed, and each record is in the log once and in order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import meshmq
from meshmq.core.log import TrimEntry
from meshmq.shell.store import LogStore
from tests.bench import about
from tests.chaos.disks import LoopDisk, Unavailable

EXIT_STORE_FAILED = 74
SIZES = (100, 100, 100, 100, 1_000, 10_000, 100_000, 1 << 20)
NUMBER = struct.Struct("<Q")

CHILD = """
import random, sys, time, zlib
from pathlib import Path
from meshmq import limits
from meshmq.core.log import BatchEntry, TopicEntry, TrimEntry
from meshmq.shell.store import LogStore

limits.SEGMENT_COMMITS_MAX = 40
store = LogStore.open(Path(sys.argv[1]), background=True)
rng = random.Random(int(sys.argv[2]))
if not store.state.streams:
    entries = [TopicEntry(i, bytes([i]) * 16, f"t{i}", True, 0, 0) for i in (1, 2)]
    store.append([*entries, TopicEntry(3, bytes(16), "t3", True, 0, 100_000)])
while True:
    batches, ends = [], {}
    for _ in range(rng.choice([1, 1, 4, 30])):
        stream, count = rng.randrange(1, 4), rng.randrange(1, 5)
        base = ends.get(stream, store.state.streams[stream].next_offset)
        ends[stream] = base + count
        payload = rng.randbytes(rng.choice([100, 1_000, 20_000, 200_000]))
        crc = zlib.crc32(payload)
        batches.append(BatchEntry(stream, base, count, payload, crc, b"p" * 16, base + 1))
    commit = store.append(batches)
    now = time.monotonic_ns()
    for slot, b in enumerate(batches):
        print(now, commit.lsn, slot, b.stream, b.base_offset, b.count, b.checksum)
    print("confirmed", flush=True)
    trims = store.plan_retention()
    if trims:
        store.append([TrimEntry(*trim) for trim in trims])
    while store.is_rewriting:
        store.rewrite()
"""

Line = tuple[int, ...]  # lsn, slot, stream, base offset, count, checksum


def append_until_the_cut(disk: LoopDisk, seed: int, rng: random.Random) -> list[Line]:
    """Let a child append, cut the power in the middle; return what it confirmed before."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(disk.point / "data"), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert child.stdout is not None
    lines: list[Line] = []
    pending: list[Line] = []
    left, cut_ns = rng.randrange(1, 120), 0
    for line in child.stdout:
        if line != "confirmed\n":
            pending.append(tuple(map(int, line.split())))
            continue
        lines += pending
        pending = []
        left -= 1
        if left == 0:
            cut_ns = disk.cut()
    child.stdout.close()
    child.wait()
    assert cut_ns, "the child ended before the cut"
    return [tuple(rest) for at, *rest in lines if at < cut_ns]


def cut_the_store(disk: LoopDisk, cycles: int, seed: int) -> int:
    """Cut and check ``cycles`` times; return how many batches were confirmed."""
    rng = random.Random(seed)
    directory = disk.point / "data"
    confirmed: list[Line] = []
    counted = 0
    for cycle in range(cycles):
        before = append_until_the_cut(disk, seed * 100_000 + cycle, rng)
        confirmed += before
        counted += len(before)
        disk.again()
        store = LogStore.open(directory)
        confirmed = _kept(store, confirmed)
        _check_store(store, confirmed, cycle)
        # Room for the next cycle: all but the newest records go.
        store.append(
            [
                TrimEntry(alias, held.next_offset - 3)
                for alias, held in store.state.streams.items()
                if held.next_offset > 3
            ]
        )
        store.plan_retention()
        confirmed = _kept(store, confirmed)
        store.close()
    return counted


def _kept(store: LogStore, lines: list[Line]) -> list[Line]:
    first = {alias: held.first_offset for alias, held in store.state.streams.items()}
    return [line for line in lines if line[3] + line[4] > first[line[2]]]


def _check_store(store: LogStore, confirmed: list[Line], cycle: int) -> None:
    found = []
    place, end = ("position", 1, 0), store.state.next_lsn - 1
    streams = frozenset(store.state.streams)
    while True:
        result = store.read(streams, place, end, 1 << 20)
        found += result.batches
        if result.next_lsn > end:
            break
        place = ("position", result.next_lsn, result.next_slot)
    assert not any(batch.damaged for batch in found), cycle
    assert all(zlib.crc32(batch.payload) == batch.checksum for batch in found)
    places = {(b.lsn, b.slot, b.stream, b.base_offset, b.count, b.checksum) for b in found}
    lost = sorted(set(confirmed) - places)
    assert not lost, (cycle, lost[:5])
    for stream, state in store.state.streams.items():
        mine = [batch for batch in found if batch.stream == stream]
        ends = [batch.base_offset + batch.count for batch in mine]
        assert [batch.base_offset for batch in mine[1:]] == ends[:-1], cycle
        assert not ends or ends[-1] == state.next_offset, cycle
    assert store.check() == []


class Node:
    """A node in a process of its own, at one address over its lives."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = "tcp://127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "meshmq",
                "node",
                "--no-mdns",
                "--listen",
                self.url,
                "--data",
                self.data,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        assert " ready at " in line, line + self.process.stderr.read()
        self.url = line.split(" ready at ")[1].split(",")[0]

    def wait(self) -> tuple[int, str]:
        """Exit code and what it said, once it has ended by itself."""
        assert self.process is not None
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=30)


def cut_the_node(disk: LoopDisk, cycles: int, seed: int) -> dict[str, int]:
    """Cut and check ``cycles`` times; return counts."""
    rng = random.Random(seed)
    node = Node(disk.point / "node")
    node.start()
    confirmed = codes = 0
    try:
        with meshmq.connect(node.url, timeout=60) as mesh:
            for cycle in range(cycles):
                topic = f"power.{cycle}"
                receipts, cut_ns = _publish_until_the_cut(mesh, disk, topic, rng)
                code, said = node.wait()
                assert code == EXIT_STORE_FAILED, (cycle, code, said)
                assert said.count("\n") == 1, said
                assert "Traceback" not in said
                codes += 1
                before = {n for n, _, at in receipts if 0 < at < cut_ns}
                disk.again()
                node.start()
                mesh.flush(120)
                _check_topic(mesh, topic, len(receipts), before, cycle)
                confirmed += len(receipts)
                mesh.admin.topics.delete(topic)
    finally:
        node.stop()
    return {"cuts": cycles, "confirmed": confirmed, "exits_with_74": codes}


def _publish_until_the_cut(
    mesh: meshmq.Mesh, disk: LoopDisk, topic: str, rng: random.Random
) -> tuple[list[tuple[int, meshmq.Receipt, int]], int]:
    """[(number, receipt, when it was confirmed or 0)], and when the power was cut.

    The cut is in the middle: much is confirmed, much is not, and more is published after it.
    """
    receipts: list[meshmq.Receipt] = []
    whens: list[int] = []
    at = cut_ns = 0
    cut_after = rng.choice([1, 50, 500, 3_000, 8_000, 20_000])
    while not cut_ns or len(receipts) < cut_after + 200:
        for _ in range(rng.randrange(1, 200)):
            size = rng.choice(SIZES) if rng.random() < 0.02 else 100
            receipts.append(mesh.publish(topic, NUMBER.pack(len(receipts)) + bytes(size - 8)))
        if not cut_ns and len(receipts) >= cut_after:
            receipts[cut_after // 2].wait(60)
        now = time.monotonic_ns()
        while at < len(receipts) and receipts[at].done:
            whens.append(now)
            at += 1
        if not cut_ns and len(receipts) >= cut_after:
            cut_ns = disk.cut()
    whens += [0] * (len(receipts) - len(whens))
    return list(zip(range(len(receipts)), receipts, whens, strict=True)), cut_ns


def _check_topic(
    mesh: meshmq.Mesh, topic: str, count: int, confirmed: set[int], cycle: int
) -> None:
    """Each record once and in order, those confirmed before the cut among them.

    What was confirmed after the cut, by the sync that was under way, may be gone: the node's word
    of then does not count. It can only be at one place, right before what was sent again.
    """
    info = mesh.admin.topics.show(topic)
    numbers: list[int] = []
    with mesh.subscribe(topic, start="earliest") as sub:
        while len(numbers) < info["records"]:
            messages = sub.fetch(10_000, timeout=60)
            assert messages, (cycle, len(numbers), info["records"])
            for message in messages:
                assert message.offset == len(numbers)
                numbers.append(NUMBER.unpack_from(message.value)[0])
        assert sub.missed == 0
    assert numbers == sorted(set(numbers)), f"cycle {cycle}: doubled or out of order"
    lost = confirmed - set(numbers)
    assert not lost, f"cycle {cycle}: {len(lost)} confirmed records are lost: {sorted(lost)[:5]}"
    assert count - len(numbers) < 20_000
    assert numbers[-1] == count - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(". ")[0])
    parser.add_argument("--store", type=int, default=20, help="power cuts of the store")
    parser.add_argument("--node", type=int, default=5, help="power cuts of a whole node")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    began = time.monotonic()
    result: dict[str, Any] = {
        "what": "power cuts", "commit": about.commit(), "date": about.date(), "seed": options.seed,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("store", "node"):
            cycles = getattr(options, name)
            if not cycles:
                continue
            directory = Path(temporary) / name
            directory.mkdir()
            try:
                disk = LoopDisk(directory)
            except Unavailable as error:
                sys.exit(f"power: {error}")
            try:
                if name == "store":
                    batches = cut_the_store(disk, cycles, options.seed)
                    result[name] = {"cuts": cycles, "batches_confirmed": batches}
                else:
                    result[name] = cut_the_node(disk, cycles, options.seed)
            finally:
                disk.close()
            print(f"{name}: {result[name]}", flush=True)
    result["seconds"] = round(time.monotonic() - began)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        (options.out / f"power-{about.stamp()}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
