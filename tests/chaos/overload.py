"""More than the disk can take: ``python -m tests.chaos.overload --seconds 600``. Needs root.

A node with a disk of a few MB a second runs in 512 MiB of memory; producers, ten times faster than
that, publish all the time. Nothing may be killed, the node must stay under 80 % of its memory,
producers must be slowed down or told Busy, and all that was confirmed must be in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import meshmq
from tests.bench import about
from tests.chaos.disks import Unavailable

MIB = 1 << 20
LIMIT_MIB = 512
PRODUCERS = 24
DISK_BYTES_PER_SECOND = 4 * MIB

SLOW_NODE = """
import sys, time
from meshmq.shell import segment
real, pace = segment.Segment.append, float(sys.argv[1])
def slow(self, commit):
    real(self, commit)
    time.sleep(sum(len(b.payload) for b in commit.batches) / pace)
segment.Segment.append = slow
sys.argv = ["meshmq", "node", "--no-mdns", "--listen", "tcp://127.0.0.1:0", "--data", sys.argv[2]]
from meshmq.cli import main
sys.exit(main())
"""


class MemoryLimit:
    """A memory cgroup for one process, of version 1 or 2."""

    def __init__(self, mib: int) -> None:
        if os.geteuid() != 0:
            raise Unavailable("needs root to make a cgroup")
        root = Path("/sys/fs/cgroup")
        old = (root / "memory").is_dir()
        self._path = (root / "memory" if old else root) / f"meshmq-test-{os.getpid()}"
        limit = "memory.limit_in_bytes" if old else "memory.max"
        try:
            self._path.mkdir()
            (self._path / limit).write_text(str(mib * MIB))
        except OSError as error:
            raise Unavailable(f"cannot limit memory: {error}") from error

    def add(self, pid: int) -> None:
        (self._path / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        for _ in range(50):
            with contextlib.suppress(OSError):
                self._path.rmdir()
                return
            time.sleep(0.1)


class Producer(threading.Thread):
    """Publishes 20 KB records as fast as it is let, and keeps what was confirmed."""

    def __init__(self, url: str, index: int, until: float) -> None:
        super().__init__(daemon=True)
        self.url, self.index, self.until = url, index, until
        self.confirmed: list[tuple[int, int]] = []  # offset, number
        self.full = 0
        self.error = ""

    def run(self) -> None:
        topic = f"overload.{self.index}"
        try:
            with meshmq.connect(self.url, on_full="fail", max_buffer=8 * MIB, timeout=60) as mesh:
                receipts: list[meshmq.Receipt] = []
                while time.monotonic() < self.until:
                    value = len(receipts).to_bytes(8, "little") + bytes(20_000)
                    try:
                        receipts.append(mesh.publish(topic, value))
                    except meshmq.BufferFull:
                        self.full += 1
                        time.sleep(0.01)
                mesh.flush(300)
                for number, receipt in enumerate(receipts):
                    offset = receipt.wait(0).offset
                    assert offset is not None
                    self.confirmed.append((offset, number))
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"


def overload(seconds: float) -> dict[str, Any]:
    """Run it; what happened."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        limit = MemoryLimit(LIMIT_MIB)
        stack.callback(limit.close)
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_NODE, str(DISK_BYTES_PER_SECOND), f"{temporary}/data"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        stack.callback(_end, process)
        limit.add(process.pid)
        assert process.stdout is not None
        url = process.stdout.readline().split(" ready at ")[1].split(",")[0]
        until = time.monotonic() + seconds
        producers = [Producer(url, i, until) for i in range(PRODUCERS)]
        for producer in producers:
            producer.start()
        highest = 0
        with meshmq.connect(url, timeout=60) as mesh:
            while any(producer.is_alive() for producer in producers):
                highest = max(highest, mesh.admin.status()["memory_bytes"])
                assert process.poll() is None, f"the node ended: {process.returncode}"
                time.sleep(0.2)
            status = mesh.admin.status()
            errors = [producer.error for producer in producers if producer.error]
            assert not errors, errors
            assert highest < LIMIT_MIB * MIB * 8 // 10, f"{highest // MIB} MiB"
            confirmed = 0
            for producer in producers:
                _check(mesh, producer)
                confirmed += len(producer.confirmed)
    return {
        "seconds": round(seconds), "limit_mib": LIMIT_MIB, "highest_mib": highest // MIB,
        "confirmed": confirmed, "busy": status["refused"].get("busy", 0),
        "buffer_full": sum(producer.full for producer in producers),
    }  # fmt: skip


def _check(mesh: meshmq.Mesh, producer: Producer) -> None:
    """All that was confirmed is there, once, in order."""
    topic = f"overload.{producer.index}"
    found: list[tuple[int, int]] = []
    with mesh.subscribe(topic, start="earliest") as sub:
        while len(found) < len(producer.confirmed):
            messages = sub.fetch(1000, timeout=60)
            assert messages, f"{topic}: {len(found)} of {len(producer.confirmed)}"
            found += [(m.offset, int.from_bytes(m.value[:8], "little")) for m in messages]
    assert found == producer.confirmed


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        process.communicate(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description="A node with a slow disk and little memory.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    try:
        found = overload(options.seconds)
    except Unavailable as error:
        sys.exit(f"overload: {error}")
    result = {"what": "overload", "commit": about.commit(), "date": about.date(), **found}
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        (options.out / f"overload-{about.stamp()}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
