"""All real flights through the CLI, the node killed twice: ``python -m tests.bench.flights``.

Every line of the file is published durable by ``meshmq pub --lines`` to
``flights.<origin>.<carrier>`` with the tail number as key. The node is killed (SIGKILL) at two
random places of the file and restarted on the same port and data. Then everything is replayed:
byte for byte what went in, once, in order per topic, offsets without gaps.
"""

from __future__ import annotations

import argparse
import gzip
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench.procs import BenchError, Node, Process, Team
from tests.bench import about, report

FLIGHTS = about.ROOT.parent / "shared" / "data" / "flights.csv.gz"
CARRIER, TAIL, ORIGIN = 1, 3, 4
PUBLISH_SECONDS = 300.0
Record = tuple[bytes | None, bytes]  # key, value


def _unpack(source: Path, target: Path) -> dict[str, list[Record]]:
    """Write the lines without the header to ``target``; what each topic has to hold then."""
    expected: dict[str, list[Record]] = {}
    with gzip.open(source) as packed, open(target, "wb") as plain:
        packed.readline()
        for line in packed:
            plain.write(line)
            value = line.removesuffix(b"\n")
            fields = value.removesuffix(b"\r").split(b",")
            topic = f"flights.{fields[ORIGIN].decode()}.{fields[CARRIER].decode()}"
            expected.setdefault(topic, []).append((fields[TAIL] or None, value))
    return expected


def _position(process: Process, path: Path) -> int:
    """How far ``process`` has read the file at ``path``, in bytes; 0 if it has not opened it."""
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            if entry.readlink() == path:
                text = Path(f"/proc/{process.pid}/fdinfo/{entry.name}").read_text("utf-8")
                return int(text.split()[1])
        except OSError:
            continue
    return 0


def _publish(team: Team, node: Node, lines: Path, places: list[int]) -> tuple[Node, int]:
    """Run the CLI over ``lines``; kill and restart the node as the reader passes ``places``."""
    command = [sys.executable, "-m", "meshmq", "pub", "flights.{4}.{1}", "--key", "{3}"]
    cli = team.server([*command, "--lines", str(lines), "--url", node.url], "pub")
    deadline, kills = time.monotonic() + PUBLISH_SECONDS, 0
    while cli.popen.poll() is None:
        if time.monotonic() > deadline:
            raise BenchError("the CLI did not end", cli.log.read_text("utf-8", "replace"))
        if kills < len(places) and _position(cli, lines) >= places[kills]:
            team.stop(node.process, 0.0)
            node = Node(team, node.data, node.url)
            kills += 1
        time.sleep(0.001)
    said = cli.log.read_text("utf-8", "replace")
    if cli.popen.returncode:
        raise BenchError(f"the CLI ended with {cli.popen.returncode}", said)
    print(said.strip().rpartition("\n")[2])
    return node, kills


def _replay(url: str, count: int) -> dict[str, list[tuple[int, bytes | None, bytes]]]:
    """Everything stored under flights.>, per topic in the order it came."""
    found: dict[str, list[tuple[int, bytes | None, bytes]]] = {}
    received = 0
    with (
        meshmq.connect(url, route="node") as mesh,
        mesh.subscribe("flights.>", start="earliest") as sub,
    ):
        # Past the expected count it goes on until nothing comes: doubled records would follow.
        while batch := sub.fetch(4096, timeout=10 if received < count else 1):
            for message in batch:
                offset = -1 if message.offset is None else message.offset
                row = (offset, message.key, message.value)
                found.setdefault(message.topic, []).append(row)
            received += len(batch)
    return found


def _compare(
    expected: dict[str, list[Record]], found: dict[str, list[tuple[int, bytes | None, bytes]]]
) -> dict[str, int]:
    """Count what differs; everything 0 means equal, in order and with dense offsets."""
    result = {"received": 0, "lost": 0, "doubled": 0, "changed": 0, "out_of_order": 0, "gaps": 0}
    for topic in sorted(expected.keys() | found.keys()):
        want, rows = expected.get(topic, []), found.get(topic, [])
        have = [(key, value) for _, key, value in rows]
        result["received"] += len(have)
        result["gaps"] += sum(offset != i for i, (offset, _, _) in enumerate(rows))
        if have == want:
            continue
        missing, extra = Counter(want) - Counter(have), Counter(have) - Counter(want)
        known = set(want)
        result["lost"] += missing.total()
        result["doubled"] += sum(n for record, n in extra.items() if record in known)
        result["changed"] += sum(n for record, n in extra.items() if record not in known)
        if not missing and not extra:
            result["out_of_order"] += sum(a != b for a, b in zip(have, want, strict=True))
    return result


def _run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    with Team(options.dir) as team:
        lines = team.path("flights.csv").resolve()
        expected = _unpack(options.file, lines)
        count, size = sum(map(len, expected.values())), lines.stat().st_size
        places = [int(size * chance.uniform(*span)) for span in ((0.1, 0.45), (0.55, 0.9))]
        start = time.monotonic()
        node, kills = _publish(team, Node(team), lines, places)
        seconds = time.monotonic() - start
        compared = _compare(expected, _replay(node.url, count))
    return {
        "date": about.date(),
        "commit": about.commit(),
        "seed": seed,
        "records": count,
        "topics": len(expected),
        "kills": kills,
        "publish_seconds": round(seconds, 3),
        **compared,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flights", description=__doc__)
    parser.add_argument("--file", type=Path, default=FLIGHTS, help="flights.csv.gz")
    parser.add_argument("--seed", type=int, help="where the kills come; default: a random one")
    parser.add_argument("--dir", type=Path, help="where all data go meanwhile")
    parser.add_argument("--json", type=Path, help="write the result here instead")
    options = parser.parse_args()
    if not options.file.exists():
        print(f"no flights: {options.file.name} is not there (--file PATH)", file=sys.stderr)
        return 1
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    result = _run(options, seed)
    for name, value in result.items():
        print(f"{name:16} {value:,}" if isinstance(value, int) else f"{name:16} {value}")
    wrong = [k for k in ("lost", "doubled", "changed", "out_of_order", "gaps") if result[k]]
    good = not wrong and result["received"] == result["records"] and result["kills"] == 2
    report.write_result("flights", result, options.json)
    print("all of it, once, in order" if good else f"NOT as it went in: {', '.join(wrong)}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(report.run(main))
