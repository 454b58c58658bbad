"""What was confirmed survives a power cut, at the level of the store.

An ext4 file system on a loop device is told to forget all that it has not been asked to sync (its
SHUTDOWN ioctl, without flushing its log), while a child appends; then it is mounted again, which
replays its journal as after a real cut. This proves our syncs, not the honesty of a disk.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshmq.core.log import TrimEntry

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

CYCLES = 20
SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = struct.pack("I", 2)

CHILD = """
import random, sys, time, zlib
from pathlib import Path
from meshmq import limits
from meshmq.core.log import BatchEntry, TopicEntry, TrimEntry
from meshmq.shell.store import LogStore

limits.SEGMENT_COMMITS_MAX = 40
store = LogStore.open(Path(sys.argv[1]))
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
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(image, mount point) of a small ext4 that may lose power, or skip."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    image, point = tmp_path / "disk.img", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 1024 * 1024)
    made = subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"mkfs.ext4: {made.stderr.decode().strip()}")
    mounted = mount(image, point)
    if mounted:
        pytest.skip(f"cannot mount a loop device: {mounted}")
    try:
        yield image, point
    finally:
        if point.is_mount():
            # Lazily: a test that failed may still have files open there.
            subprocess.run(["umount", "-l", str(point)], check=False)


def mount(image: Path, point: Path) -> str:
    """Mount ``image``; return what went wrong, or an empty string."""
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(point)], capture_output=True, check=False
    )
    return done.stderr.decode().strip() if done.returncode else ""


def umount(point: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)  # the kernel has not let go of the killed child's files yet
    raise subprocess.CalledProcessError(1, ["umount", str(point)])


def cut_power(point: Path) -> None:
    fd = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, NO_LOG_FLUSH)
    finally:
        os.close(fd)


def append_until_the_cut(point, seed, rng):
    """Let a child append, cut the power in the middle; return the lines it confirmed before.

    A real cut takes the process along. Here it lives on, and the kernel was seen to let the one
    sync that is under way during the ioctl return success after it, for what is then gone. So each
    line says when it was confirmed, and those of after the cut do not count.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(point / "data"), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert child.stdout is not None
    lines, pending, left, cut_at = [], [], rng.randrange(1, 120), 0
    for line in child.stdout:
        if line != "confirmed\n":
            pending.append(tuple(map(int, line.split())))
            continue
        lines += pending
        pending = []
        left -= 1
        if left == 0:
            cut_at = time.monotonic_ns()
            cut_power(point)
    child.stdout.close()
    child.wait()
    assert cut_at, "the child ended before the cut"
    return [tuple(rest) for at, *rest in lines if at < cut_at]


def test_confirmed_survives_power_cuts(disk, opened, reader):
    image, point = disk
    opened.directory = point / "data"
    rng = random.Random(11)
    confirmed: list[tuple[int, ...]] = []
    counted = 0
    for cycle in range(CYCLES):
        before = append_until_the_cut(point, cycle, rng)
        confirmed += before
        counted += len(before)
        umount(point)
        failed = mount(image, point)
        assert not failed
        store = opened()
        found = reader(store)
        assert not any(batch.damaged for batch in found), cycle
        assert all(zlib.crc32(batch.payload) == batch.checksum for batch in found)
        places = {(b.lsn, b.slot, b.stream, b.base_offset, b.count, b.checksum) for b in found}
        kept_from = {alias: held.first_offset for alias, held in store.state.streams.items()}
        confirmed = [line for line in confirmed if line[3] + line[4] > kept_from[line[2]]]
        lost = sorted(set(confirmed) - places)
        assert not lost, cycle
        for stream, state in store.state.streams.items():
            mine = [batch for batch in found if batch.stream == stream]
            ends = [batch.base_offset + batch.count for batch in mine]
            assert [batch.base_offset for batch in mine[1:]] == ends[:-1]
            assert not ends or ends[-1] == state.next_offset
        assert store.check() == []
        # Room for the next cycle: all but the newest records go.
        store.append(
            [
                TrimEntry(alias, held.next_offset - 3)
                for alias, held in store.state.streams.items()
                if held.next_offset > 3
            ]
        )
        store.plan_retention()
        store.close()
        kept_from = {alias: held.first_offset for alias, held in store.state.streams.items()}
        confirmed = [line for line in confirmed if line[3] + line[4] > kept_from[line[2]]]
    assert counted > 500
