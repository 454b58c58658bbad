"""The real flights as jobs, in order by tail number: ``python -m tests.bench.flights_queue``.

Every line of the file is put into one queue with ``order="key"`` and its tail number as key; six
worker processes take them. One in a hundred fails, at every attempt, and ends in the dead letters.
Then all dead letters are put back, and succeed.

1. A flight is begun when every earlier one of its tail number is acked or dead, not before.
2. Each failing flight is in the dead letters once, nobody else is; all others are acked once.
3. After the replay every flight has been acked once, and those put back in order as well.
"""

from __future__ import annotations

import argparse
import gzip
import random
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import meshmq
from meshmq.bench.job import Job, ready, ready_then_go
from meshmq.bench.procs import BenchError, Node, Role, Team
from tests.bench import about, report
from tests.bench.flights import FLIGHTS, TAIL
from tests.chaos.job_history import ACKING, GOT, NACKING, Event, events_of

MODULE = "tests.bench.flights_queue"
QUEUE = "flights"
WORKERS = 6
PREFETCH = 256
CHUNK = 500
FAIL_SHARE = 0.01
MAX_DELIVERIES = 3
BACKOFF = 0.02
ACK_TIMEOUT = 30
STEP_SECONDS = 600.0  # for each part at most
WRONG = (
    *("lost", "acked_twice", "failed_acked", "out_of_order", "dead_twice", "dead_missing"),
    *("dead_wrong", "replay_lost", "replay_acked_twice", "replay_out_of_order", "left"),
)


def fails(seed: int, row: int) -> bool:
    """Whether a flight fails, until it is put back."""
    return zlib.crc32(f"{seed}/{row}".encode()) < FAIL_SHARE * 2**32


def read(source: Path) -> list[bytes]:
    """The lines of the file, without the header."""
    with gzip.open(source) as packed:
        packed.readline()
        return [line.rstrip(b"\r\n") for line in packed]


def tail_of(line: bytes) -> bytes:
    """The tail number of a flight, empty for those that have none."""
    return line.split(b",", TAIL + 1)[TAIL]


# -- roles -------------------------------------------------------------------------------------


def put(job: Job) -> dict[str, Any]:
    """Put all flights; a flight's number is its offset then."""
    lines = read(Path(job.options["file"]))
    with meshmq.connect(job.address, timeout=30, route="node") as mesh:
        ready_then_go()
        begin = time.monotonic()
        for i in range(0, len(lines), CHUNK):
            part = lines[i : i + CHUNK]
            receipts = mesh.enqueue_many(QUEUE, part, keys=[tail_of(line) or None for line in part])
        receipts.wait(120)
        assert receipts[-1].offset == len(lines) - 1
    return {"put_seconds": time.monotonic() - begin}


def work(job: Job) -> dict[str, Any]:
    """Take flights until a line comes on standard input, and write down what happens to each."""
    seed = job.options["seed"]
    with (
        meshmq.connect(job.address, timeout=30, route="node") as mesh,
        mesh.work(QUEUE, order="key", prefetch=PREFETCH, ack_timeout=ACK_TIMEOUT) as consumer,
        Path(job.options["file"]).open("wb") as file,
    ):

        def end() -> None:
            sys.stdin.readline()
            consumer.close()

        threading.Thread(target=end, daemon=True).start()
        ready()
        for one in consumer:
            headers = one.headers
            again = "$replays" in headers
            row = int(headers["$offset"]) if again else one.offset
            assert row is not None
            now, attempt = time.monotonic_ns(), one.attempt
            file.write(Event(now, 0, row, 0, attempt, GOT, 0, int(again)).pack())
            kind = ACKING if again or not fails(seed, row) else NACKING
            now = time.monotonic_ns()
            file.write(Event(now, 0, row, 0, attempt, kind, 0, int(again)).pack())
            if kind == ACKING:
                one.ack()
            else:
                one.nack(reason=f"flight {row} fails")
        stale = consumer.stale
    return {"stale": stale}


ROLES = {"put": put, "work": work}


# -- judging -----------------------------------------------------------------------------------


class Letter(NamedTuple):
    """What of a dead letter is looked at."""

    row: int
    value: bytes
    reason: str
    attempts: int


def out_of_order(events: Sequence[Event], tails: Sequence[bytes]) -> int:
    """How many were begun before an earlier one of their tail number was acked or given up."""
    wrong = 0
    waiting: dict[bytes, list[int]] = defaultdict(list)  # rows not done, the next one last
    for row in sorted({e.job for e in events}, reverse=True):
        if tails[row]:
            waiting[tails[row]].append(row)
    for e in sorted(events, key=itemgetter(0)):
        tail = tails[e.job]
        if not tail:
            continue
        rows = waiting[tail]
        if e.kind == GOT:
            wrong += not rows or rows[-1] != e.job
        elif e.job in rows and (e.kind == ACKING or e.attempt >= MAX_DELIVERIES):
            rows.remove(e.job)
    return wrong


def judge(
    lines: Sequence[bytes], seed: int, events: Sequence[Event], letters: Sequence[Letter]
) -> dict[str, int]:
    """What is wrong, in counts: all of them should be 0."""
    tails = [tail_of(line) for line in lines]
    failing = {row for row in range(len(lines)) if fails(seed, row)}
    first = [e for e in events if not e.spare]
    again = [e for e in events if e.spare]
    acked = Counter(e.job for e in first if e.kind == ACKING)
    put_back = Counter(e.job for e in again if e.kind == ACKING)
    dead = Counter(letter.row for letter in letters)
    return {
        "lost": sum(row not in acked and row not in failing for row in range(len(lines))),
        "acked_twice": sum(n - 1 for n in acked.values()),
        "failed_acked": sum(row in failing for row in acked),
        "out_of_order": out_of_order(first, tails),
        "dead_twice": sum(n - 1 for n in dead.values()),
        "dead_missing": len(failing - dead.keys()),
        "dead_wrong": len(dead.keys() - failing)
        + sum(
            letter.value != lines[letter.row]
            or letter.reason != "max-deliveries"
            or letter.attempts != MAX_DELIVERIES
            for letter in letters
            if letter.row in failing
        ),
        "replay_lost": len(failing - put_back.keys()),
        "replay_acked_twice": sum(n - 1 for n in put_back.values())
        + len(put_back.keys() - failing),
        "replay_out_of_order": out_of_order(again, tails),
    }


# -- running -----------------------------------------------------------------------------------


def _until(roles: Sequence[Role], what: str, is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STEP_SECONDS
    while not is_true():
        for role in roles:
            if role.popen.poll():
                raise BenchError("a worker ended", role.log.read_text("utf-8", "replace"))
        if time.monotonic() > deadline:
            raise BenchError(f"not in {STEP_SECONDS:g} s: {what}")
        time.sleep(0.05)


def run(source: Path, seed: int, workers: int, directory: Path | None = None) -> dict[str, Any]:
    """Run it and judge it; what was found."""
    lines = read(source)
    count, failing = len(lines), sum(fails(seed, row) for row in range(len(lines)))
    with Team(directory) as team:
        node = Node(team)
        with meshmq.connect(node.url, timeout=60, route="node") as mesh:
            mesh.admin.queues.create(
                QUEUE, order="key", max_deliveries=MAX_DELIVERIES, backoff=BACKOFF,
                backoff_max=1,
            )  # fmt: skip
            files = [team.path(f"worker-{i}").resolve() for i in range(workers)]
            roles = [
                team.role(MODULE, "work", Job(node.url, options={"seed": seed, "file": str(file)}))
                for file in files
            ]
            producer = team.role(
                MODULE, "put", Job(node.url, options={"file": str(source.resolve())})
            )
            for role in [*roles, producer]:
                role.wait_ready()
            begin = time.monotonic()
            producer.go()
            made = producer.result(STEP_SECONDS)
            show = mesh.admin.queues.show
            _until(roles, "all flights done", lambda: show(QUEUE)["records"] == 0)
            seconds = time.monotonic() - begin
            letters = [
                Letter(one.offset, one.value, one.reason, one.attempts)
                for one in mesh.admin.dlq.list(QUEUE, limit=count)
            ]
            told = show(QUEUE)
            begin = time.monotonic()
            replayed = mesh.admin.dlq.replay(QUEUE)
            _until(
                roles, "all dead letters put back and done",
                lambda: not show(QUEUE)["dead"] and show(QUEUE)["records"] == 0
                and show(QUEUE)["acked"] == count,
            )  # fmt: skip
            replay_seconds = time.monotonic() - begin
            for role in roles:
                role.go()
            stale = sum(role.result(60)["stale"] for role in roles)
            left = show(QUEUE)
        events = [event for file in files for event in events_of(file)]
    found = judge(lines, seed, events, letters)
    return {
        "date": about.date(), "commit": about.commit(), "seed": seed, "records": count,
        "tails": len({tail_of(line) for line in lines} - {b""}), "workers": workers,
        "failing": failing, "dead": told["dead"], "replayed": replayed,
        "deliveries": sum(e.kind == GOT for e in events), "stale": stale,
        "put_seconds": round(made["put_seconds"], 3), "seconds": round(seconds, 3),
        "flights_a_second": round(count / seconds), "replay_seconds": round(replay_seconds, 3),
        **found,
        "left": sum(left[n] for n in ("records", "in_flight", "retrying", "held", "dead")),
    }  # fmt: skip


def wrong(result: dict[str, Any]) -> list[str]:
    """What of a result is not as it must be."""
    bad = [name for name in WRONG if result[name]]
    if not result["failing"] == result["dead"] == result["replayed"]:
        bad.append("numbers of dead letters")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.flights_queue", description=__doc__
    )
    parser.add_argument("--file", type=Path, default=FLIGHTS, help="flights.csv.gz")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seed", type=int, help="which flights fail; default: a random one")
    parser.add_argument("--dir", type=Path, help="where all data go meanwhile")
    parser.add_argument("--json", type=Path, help="write the result here instead")
    options = parser.parse_args()
    if not options.file.exists():
        print(f"no flights: {options.file.name} is not there (--file PATH)", file=sys.stderr)
        return 1
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    result = run(options.file, seed, options.workers, options.dir)
    for name, value in result.items():
        print(f"{name:20} {value:,}" if isinstance(value, int) else f"{name:20} {value}")
    bad = wrong(result)
    report.write_result("flights-queue", result, options.json)
    print(f"BROKEN: {', '.join(bad)}" if bad else "in order, each once, none lost")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(report.run(main))
