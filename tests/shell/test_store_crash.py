"""What was confirmed is there after the process dies at any moment, and while it rolls over."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import zlib

import pytest

from meshmq.errors import StoreDamaged, StoreFailed
from meshmq.shell import store_files
from meshmq.shell.segment import Segment
from meshmq.shell.store import LogStore

CHILD = """
import random, sys, zlib
from pathlib import Path
from meshmq import limits
from meshmq.core.log import BatchEntry, TopicEntry
from meshmq.shell.store import LogStore

limits.SEGMENT_COMMITS_MAX = 60
store = LogStore.open(Path(sys.argv[1]), background=True)
rng = random.Random(int(sys.argv[2]))
if not store.state.streams:
    store.append([TopicEntry(i, bytes([i]) * 16, f"t{i}", True, 0, 0) for i in (1, 2, 3)])
out = sys.stdout
while True:
    batches, ends = [], {}
    for _ in range(rng.randrange(1, 8)):
        stream, count = rng.randrange(1, 4), rng.randrange(1, 5)
        base = ends.get(stream, store.state.streams[stream].next_offset)
        ends[stream] = base + count
        payload = rng.randbytes(rng.choice([20, 500, 9_000]))
        crc = zlib.crc32(payload)
        batches.append(BatchEntry(stream, base, count, payload, crc, b"p" * 16, base + 1))
    commit = store.append(batches)
    for slot, b in enumerate(batches):
        out.write(f"{commit.lsn} {slot} {b.stream} {b.base_offset} {b.count} {b.checksum}\\n")
    out.write("confirmed\\n")
    out.flush()
"""


def run_and_kill(directory, seed, rng):
    """Let a child append, kill it in the middle, return the lines of its confirmed commits."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory), str(seed)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert child.stdout is not None
    lines, pending, left = [], [], rng.randrange(1, 200)
    for line in child.stdout:
        if line != "confirmed\n":
            pending.append(tuple(map(int, line.split())))
            continue
        lines += pending
        pending = []
        left -= 1
        if left == 0:
            child.kill()  # what is still in the pipe was confirmed too, and is read
    child.stdout.close()
    child.wait()
    assert child.returncode == -9, "the child died by itself"
    return lines


def assert_sound(store, confirmed, reader):
    found = reader(store)
    assert not any(batch.damaged for batch in found)
    for batch in found:
        assert zlib.crc32(batch.payload) == batch.checksum
    places = [(b.lsn, b.slot, b.stream, b.base_offset, b.count, b.checksum) for b in found]
    assert places == sorted(places)
    missing = set(confirmed) - set(places)
    assert not missing
    for stream, state in store.state.streams.items():
        offset = 0
        for batch in found:
            if batch.stream == stream:
                assert batch.base_offset == offset
                offset += batch.count
        assert state.next_offset == offset
        producer = store.state.producers.get((b"p" * 16, stream))
        assert (producer.last if producer else 0) == offset


def test_kill_in_the_middle_of_appends(tmp_path, reader):
    rng = random.Random(5)
    confirmed = []
    for seed in range(12):
        confirmed += run_and_kill(tmp_path / "data", seed, rng)
        store = LogStore.open(tmp_path / "data")
        assert_sound(store, confirmed, reader)
        store.close()
    assert len(confirmed) > 100


def test_death_before_the_snapshot(opened, writer_of, reader, tmp_path):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    writer.write(1)
    log = tmp_path / "data" / "log"
    before = repr(writer.store.state)
    writer.store.close()
    made = Segment.create(log, 2, b"", 3)  # a directory with its final name ...
    made._cache.delete("snapshot")  # ... that holds no snapshot
    made.close()
    writer.store = opened()
    assert repr(writer.store.state) == before
    assert not store_files.segment_path(log, 2).exists()
    writer.write(1)
    assert reader(opened()) == writer.expected()


@pytest.mark.parametrize("step", ["mkdir", "rename", "sync_directory"])
def test_death_at_each_step_of_rolling(
    opened, writer_of, reader, tmp_path, monkeypatch, small_segments, step
):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for _ in range(9):
        writer.write(1, 30_000)

    def die(*_args, **_kwargs):
        raise OSError(5, "died here")

    if step == "sync_directory":
        real = store_files.sync_directory
        monkeypatch.setattr(
            store_files,
            step,
            lambda path: die() if path.name == "log" else real(path),
        )
    else:
        monkeypatch.setattr(f"meshmq.shell.segment.Path.{step}", die)
    with pytest.raises(StoreFailed, match="could not be made"):
        writer.store.append([writer.batch(1)])
    monkeypatch.undo()
    monkeypatch.setattr("meshmq.limits.SEGMENT_COMMITS_MAX", 10)
    writer.offsets[1] -= 1
    writer.store = opened()
    assert reader(writer.store) == writer.expected()
    for _ in range(15):
        writer.write(1)
    assert reader(opened()) == writer.expected()
    assert not any(p.name.endswith(".new") for p in (tmp_path / "data" / "log").iterdir())


def test_only_segment_without_snapshot_is_not_thrown_away(opened, writer_of, tmp_path):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    writer.store._segments.active._cache.delete("snapshot")
    writer.store.close()
    with pytest.raises(StoreDamaged, match="lost its snapshot"):
        LogStore.open(tmp_path / "data")


def test_copy_of_the_files_taken_at_any_commit_opens(opened, writer_of, reader, tmp_path):
    """As after a kill: files as they are, nothing closed."""
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for i in range(12):
        writer.write(1, 20_000 if i % 3 else 10)
        copy = tmp_path / f"copy{i}"
        shutil.copytree(tmp_path / "data", copy)
        copy.chmod(0o700)
        store = LogStore.open(copy)
        assert reader(store) == writer.expected()
        store.close()
