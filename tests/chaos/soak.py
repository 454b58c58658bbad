"""A long run at half of the maximum rate: ``python -m tests.chaos.soak --minutes 60``.

First it measures how many records a second this machine publishes and reads, until the last is
read; then one process publishes at half of that (or another ``--share``) to a topic with 1 GB of
retention, another reads everything. Every record must come once and in order; after a tenth of the
time, rate, memory, open files and disk use of the node must be flat. Before and after, the same
bytes a second go to plain files with write and ``fdatasync``: what the disk alone makes of that
rate stands beside the confirmations.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import meshmq
from tests.bench import about
from tests.chaos import pauses
from tests.chaos.power import Node

VALUE = bytes(92)
BATCH = 500
RETENTION = "1GB"
RETENTION_BYTES = 10**9
SLACK = 1.05  # what is flat grows by less
RECORD_BYTES = 104  # on disk, of values of 100 bytes
OTHERS_CORES = 0.15  # more than so much of a core is a disturbance
QUIET_SECONDS = 5.0  # what lay waiting after one is worked off by then
RAW_SECONDS_MAX = 60.0  # of each of the two turns of the disk alone

WRITER = """
import json, queue, sys, threading, time, meshmq
url, topic, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
from tests.chaos.soak import BATCH, VALUE
sampled, delays = queue.SimpleQueue(), []
def wait():
    # Beside the loop that publishes: who waits must not hold up what is due.
    while (sample := sampled.get()) is not None:
        due, receipts = sample
        receipts.wait(60)
        now = time.monotonic()
        delays.append((now, now - due))
waiter = threading.Thread(target=wait)
waiter.start()
with meshmq.connect(url, timeout=60) as mesh:
    begin, n = time.monotonic(), 0
    while (now := time.monotonic()) < begin + seconds:
        due = begin + n / rate if rate else now
        if due > now:
            time.sleep(due - now)
        receipts = mesh.publish_many(
            topic, [(n + i).to_bytes(8, "little") + VALUE for i in range(BATCH)]
        )
        n += BATCH
        if rate and n % (BATCH * 20) == 0:
            sampled.put((due, receipts))
    mesh.flush(120)
    took = time.monotonic() - begin
    sampled.put(None)
    waiter.join()
print(json.dumps({"count": n, "begin": begin, "took": took, "delays": delays}))
"""

READER = """
import json, sys, time, meshmq
url, topic, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
with meshmq.connect(url, timeout=60) as mesh, mesh.subscribe(topic) as sub:
    print("ready", flush=True)
    until, expected = time.monotonic() + seconds, None
    count, last = 0, 0.0
    while True:
        messages = sub.fetch(10_000, timeout=5)
        if not messages and time.monotonic() > until:
            break
        if messages:
            last = time.monotonic()
        for m in messages:
            number = int.from_bytes(m.value[:8], "little")
            assert expected is None or number == expected, (number, expected)
            expected = number + 1
            count += 1
    assert sub.missed == 0, sub.missed
print(json.dumps({"count": count, "last": last}))
"""


def child(code: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(about.ROOT), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def start(
    url: str, topic: str, rate: float, seconds: float
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A writer and the reader of all that it writes."""
    reader = child(READER, url, topic, seconds)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    return child(WRITER, url, topic, rate, seconds), reader


def written(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a child said at its end."""
    out, _ = process.communicate()
    assert process.returncode == 0, "a child failed"
    found: dict[str, Any] = json.loads(out)
    return found


class Others(threading.Thread):
    """Looks every second at how much CPU others have."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.busy: list[tuple[float, float]] = []  # (when, cores since the last look)
        self._pids = pids
        self._ending = threading.Event()

    def run(self) -> None:
        before, at = self._look(), time.monotonic()
        while not self._ending.wait(1):
            now, when = self._look(), time.monotonic()
            self.busy.append((when, (now - before) / (when - at)))
            before, at = now, when

    def _look(self) -> float:
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, *_ = map(
            int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        )
        ours = sum(os.times()[:2])
        for pid in self._pids:
            with contextlib.suppress(OSError, IndexError):  # it has ended
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ours += (int(fields[11]) + int(fields[12])) / tick
        return (user + nice + system + irq + softirq) / tick - ours

    def end(self) -> None:
        self._ending.set()
        self.join()

    def leave_alone(self, delays: list[list[float]]) -> list[float]:
        """Delays before which others had next to nothing for some seconds."""
        loud = [when for when, cores in self.busy if cores > OTHERS_CORES]
        return [
            delay for at, delay in delays
            if not any(at - QUIET_SECONDS < when < at + 1 for when in loud)
        ]  # fmt: skip


def look(pid: int, data: Path) -> dict[str, float]:
    """Memory, open files and disk use of the node now."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    held = 0
    for path in data.rglob("*"):
        try:
            held += path.stat().st_size
        except FileNotFoundError:
            continue  # unlinked meanwhile
    return {
        "memory_mib": round(resident / 2**20, 1),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "disk_mib": round(held / 2**20, 1),
    }


def alone(rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """The disk without us at ``rate`` records a second, as ``pauses.raw``."""
    pauses.settle()
    with tempfile.TemporaryDirectory() as folder:
        found = pauses.raw(Path(folder), rate * RECORD_BYTES, seconds, RETENTION_BYTES)
    pauses.settle()
    return found


def soak(minutes: float, share: float) -> dict[str, Any]:
    """Run it; what was measured."""
    with tempfile.TemporaryDirectory() as temporary:
        node = Node(Path(temporary) / "data")
        node.start()
        assert node.process is not None
        try:
            with meshmq.connect(node.url) as mesh:
                mesh.admin.topics.create("soak", retention_bytes=RETENTION)
                mesh.admin.topics.create("soak.max")
                writer, reader = start(node.url, "soak.max", 0, 5)
                fast = written(writer)
                all_read = written(reader)
                assert all_read["count"] == fast["count"]
                mesh.admin.topics.delete("soak.max")
            most = fast["count"] / (all_read["last"] - fast["begin"])
            seconds = minutes * 60
            rate = most * share
            raw_seconds = min(RAW_SECONDS_MAX, seconds / 8)
            took_alone, late_alone = alone(rate, raw_seconds)
            writer, reader = start(node.url, "soak", rate, seconds)
            others = Others([node.process.pid, writer.pid, reader.pid])
            others.start()
            looks: list[dict[str, float]] = []
            every = max(1.0, seconds / 60)
            with ThreadPoolExecutor(1) as pool:
                ended = pool.submit(written, writer)
                while not ended.done():
                    time.sleep(every)
                    looks.append(look(node.process.pid, node.data))
            others.end()
            sent, seen = ended.result(), written(reader)
            assert seen["count"] == sent["count"], f"{seen['count']} of {sent['count']} came"
            quiet = others.leave_alone(sent["delays"])
            for one, other in zip((took_alone, late_alone), alone(rate, raw_seconds), strict=True):
                one += other
        finally:
            node.stop()
    result: dict[str, Any] = {
        "minutes": minutes, "maximum_rate": round(most), "share": share,
        "maximum_of_publishing": round(fast["count"] / fast["took"]),
        "rate": round(sent["count"] / sent["took"]), "records": sent["count"],
        "confirm_ms": pauses.spread([delay for _, delay in sent["delays"]]),
        "while_others_rested": {
            "of_the_time": round(len(quiet) / max(1, len(sent["delays"])), 3),
            "confirm_ms": pauses.spread(quiet) if quiet else None,
        },
        "disk_alone": {
            "mb_a_second": round(rate * RECORD_BYTES / 1e6, 1), "seconds": 2 * raw_seconds,
            "write_and_sync_ms": pauses.spread(took_alone),
            "delay_ms": pauses.spread(late_alone),
        },
        "others_cores": round(sum(c for _, c in others.busy) / max(1, len(others.busy)), 2),
        "looks": looks,
    }  # fmt: skip
    result["flat"] = flat(looks)
    return result


def flat(looks: list[dict[str, float]]) -> dict[str, float]:
    """How much each figure grew from the second tenth of the run to the last."""
    tenth = max(1, len(looks) // 10)
    grown = {}
    for name in looks[0]:
        early = max(one[name] for one in looks[tenth : 3 * tenth])
        late = max(one[name] for one in looks[-2 * tenth :])
        grown[name] = round(late / early, 3)
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description="A long run at half of the maximum rate.")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--share", type=float, default=0.5, help="of the maximum rate")
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    found = soak(options.minutes, options.share)
    result = {"what": "soak", "commit": about.commit(), "date": about.date(), **found}
    text = json.dumps(result)
    print(json.dumps({**result, "looks": len(found["looks"])}, indent=1))
    if options.out:
        (options.out / f"soak-{about.stamp()}.json").write_text(text + "\n")
    grown = {name: ratio for name, ratio in found["flat"].items() if ratio > SLACK}
    if grown and options.minutes >= 10:
        sys.exit(f"soak: not flat: {grown}")


if __name__ == "__main__":
    main()
