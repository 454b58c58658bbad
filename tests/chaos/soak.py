"""A long run at half of the maximum rate: ``python -m tests.chaos.soak --minutes 60``.

First it measures how fast this machine publishes; then one process publishes at half of that (or
another ``--share``) to a topic with 1 GB of retention, another reads everything. Every record must
come once and in order; after a tenth of the time, rate, memory, open files and disk use of the node
must be flat. Before and after, the same bytes a second go to plain files with write and
``fdatasync``: what the disk alone makes of that rate stands beside the confirmations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
RAW_SECONDS_MAX = 60.0  # of each of the two turns of the disk alone

WRITER = """
import sys, time, meshmq
url, topic, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
from tests.chaos.soak import BATCH, VALUE
with meshmq.connect(url, timeout=60) as mesh:
    begin, n, delays = time.monotonic(), 0, []
    while (now := time.monotonic()) < begin + seconds:
        due = begin + n / rate if rate else now
        if due > now:
            time.sleep(due - now)
        receipts = mesh.publish_many(
            topic, [(n + i).to_bytes(8, "little") + VALUE for i in range(BATCH)]
        )
        n += BATCH
        if rate and n % (BATCH * 20) == 0:
            receipts.wait(60)
            delays.append(time.monotonic() - max(due, begin))
    mesh.flush(120)
    took = time.monotonic() - begin
delays.sort()
at = lambda q: round(delays[int(len(delays) * q)] * 1000, 2) if delays else 0
print(n, took, at(0.5), at(0.99), at(0.999))
"""

READER = """
import sys, time, meshmq
url, topic, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
with meshmq.connect(url, timeout=60) as mesh, mesh.subscribe(topic) as sub:
    print("ready", flush=True)
    until, expected = time.monotonic() + seconds, None
    count = 0
    while True:
        messages = sub.fetch(10_000, timeout=5)
        if not messages and time.monotonic() > until:
            break
        for m in messages:
            number = int.from_bytes(m.value[:8], "little")
            assert expected is None or number == expected, (number, expected)
            expected = number + 1
            count += 1
    assert sub.missed == 0, sub.missed
print(count)
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


def written(process: subprocess.Popen[str]) -> list[float]:
    out, _ = process.communicate()
    assert process.returncode == 0, "a child failed"
    return list(map(float, out.split()))


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


def cpu(pid: int) -> tuple[float, float]:
    """Seconds of CPU so far: of the whole machine, and of us, the node and ended children."""
    tick = os.sysconf("SC_CLK_TCK")
    lines = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _, _, irq, softirq, *_ = map(int, lines[0].split()[1:])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    node = (int(fields[11]) + int(fields[12])) / tick
    return (user + nice + system + irq + softirq) / tick, sum(os.times()[:4]) + node


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
                count, took, *_ = written(writer)
                assert written(reader) == [count]
                mesh.admin.topics.delete("soak.max")
            most = count / took
            seconds = minutes * 60
            rate = most * share
            raw_seconds = min(RAW_SECONDS_MAX, seconds / 8)
            took_alone, late_alone = alone(rate, raw_seconds)
            everyone, ours = cpu(node.process.pid)
            begin = time.monotonic()
            writer, reader = start(node.url, "soak", rate, seconds)
            looks: list[dict[str, float]] = []
            every = max(1.0, seconds / 60)
            while writer.poll() is None:
                time.sleep(every)
                looks.append(look(node.process.pid, node.data))
            sent, took, p50, p99, p999 = written(writer)
            (seen,) = written(reader)
            assert seen == sent, f"{seen} of {sent} came"
            now = cpu(node.process.pid)
            lasted = time.monotonic() - begin
            used = (now[1] - ours) / lasted
            others = (now[0] - everyone) / lasted - used
            for one, other in zip((took_alone, late_alone), alone(rate, raw_seconds), strict=True):
                one += other
        finally:
            node.stop()
    result: dict[str, Any] = {
        "minutes": minutes, "maximum_rate": round(most), "share": share,
        "rate": round(sent / took), "records": int(sent),
        "confirm_ms": {"p50": p50, "p99": p99, "p99.9": p999},
        "disk_alone": {
            "mb_a_second": round(rate * RECORD_BYTES / 1e6, 1), "seconds": 2 * raw_seconds,
            "write_and_sync_ms": pauses.spread(took_alone),
            "delay_ms": pauses.spread(late_alone),
        },
        "cores": {"ours": round(used, 2), "others": round(others, 2)},
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
