"""A queue on bad days: ``python -m tests.chaos.jobs --jobs 1000000 --minutes 20 --kills 10``.

Producers put numbered jobs into one queue, some later, some with priorities, some twice under one
id. Workers ack, nack with delays, reject and hang; they are stopped for longer than the ack
timeout, killed and replaced. The node is killed and started again. A seed says what happens to
which job, and who is struck when. Everything is written down; ``job_history`` judges it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import struct
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench.job import Job, ready, ready_then_go, rss_mib
from meshmq.bench.procs import Node, Role, Team
from tests.bench import about, report
from tests.chaos import job_history as history
from tests.chaos.job_history import Event, Judge, Letter, Span, Trouble

MODULE = "tests.chaos.jobs"
QUEUE = "jobs"
ACK_TIMEOUT = 2.0
MAX_DELIVERIES = 5
BACKOFF, BACKOFF_MAX = 0.05, 0.5
FETCH = 32
PREFETCH = 128
PRODUCERS = 2
PRODUCING_SHARE = 0.7  # of the time; then what is there is worked off
CONNECT_SECONDS = 60.0
SETTLE_SECONDS = 120.0
WATCH_SECONDS = 0.5
NUMBER = struct.Struct("<IB")  # of a job, and whether it is the second one under its id
PADDING = bytes(59)
KILL_EVERY, STOP_EVERY = 6.0, 5.0  # seconds, on average
STOP_SECONDS = (2.3, 6.0)  # some end before the session is given up (3 s), some after

ACK, NACK, REJECT, POISON, HANG = "ack", "nack", "reject", "poison", "hang"


def chance(seed: int, job: int, salt: str) -> float:
    """A number in [0, 1) that belongs to a job."""
    return zlib.crc32(f"{seed}/{job}/{salt}".encode()) / 2**32


def fate(seed: int, job: int) -> str:
    """What workers do to a job."""
    x = chance(seed, job, "fate")
    if x < 0.03:
        return NACK  # the first time
    if x < 0.035:
        return REJECT
    if x < 0.037:
        return POISON  # nacked every time
    return HANG if x < 0.03705 else ACK


# -- producers ---------------------------------------------------------------------------------


def put(job: Job) -> dict[str, Any]:
    """Put jobs number ``index``, ``index + PRODUCERS``, ...; all are confirmed at the end."""
    o = job.options
    seed, numbers = o["seed"], range(job.index, o["jobs"], PRODUCERS)
    twice = late = ranked = 0
    with (
        meshmq.connect(job.address, timeout=CONNECT_SECONDS) as mesh,
        open(o["file"], "ab", buffering=0) as file,
    ):
        ready_then_go()
        begin, rate = time.monotonic(), len(numbers) / job.seconds
        plain: list[bytes] = []
        receipts: list[Any] = []
        for done, n in enumerate(numbers):
            x, value = chance(seed, n, "put"), NUMBER.pack(n, 0) + PADDING
            if x < 0.05:
                delay = 0.05 + chance(seed, n, "delay") * o["delay"]
                priority = 5 if x < 0.01 else 0
                file.write(Event(time.monotonic_ns(), 0, n, int(delay * 1000), 0,
                                 history.PUT, 0).pack())  # fmt: skip
                receipts.append(mesh.enqueue(QUEUE, value, delay=delay, priority=priority))
                late += 1
            elif x < 0.08:
                receipts.append(mesh.enqueue(QUEUE, value, priority=1 + n % 9))
                ranked += 1
            elif x < 0.10:
                receipts.append(mesh.enqueue(QUEUE, value, dedup_id=f"d{n}"))
                again = NUMBER.pack(n, 1) + PADDING
                receipts.append(mesh.enqueue(QUEUE, again, dedup_id=f"d{n}"))
                twice += 1
            else:
                plain.append(value)
            if len(plain) == 50:
                receipts.append(mesh.enqueue_many(QUEUE, plain))
                plain = []
                if len(receipts) > 5000:
                    for receipt in receipts:
                        receipt.wait(SETTLE_SECONDS)
                    receipts.clear()
                ahead = begin + done / rate - time.monotonic()
                if ahead > 0:
                    time.sleep(ahead)
        if plain:
            receipts.append(mesh.enqueue_many(QUEUE, plain))
        for receipt in receipts:
            receipt.wait(SETTLE_SECONDS)
        seconds = time.monotonic() - begin
    return {"put": len(numbers), "twice": twice, "late": late, "ranked": ranked,
            "seconds": seconds}  # fmt: skip


# -- workers -----------------------------------------------------------------------------------


class Diary:
    """What a worker says, written before the next thing happens: a kill does not take it back."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115  open to the end
        self._lines: list[bytes] = []

    def add(self, job: meshmq.Job, kind: int, delay_ms: int = 0) -> None:
        """Say it with the next ``write``."""
        self._lines.append(
            Event(
                time.monotonic_ns(), job[4].row.number, number_of(job), delay_ms, job.attempt, kind,
                history.DOUBTFUL if job.maybe_duplicate else 0,
            ).pack()
        )  # fmt: skip

    def write(self) -> None:
        self._file.write(b"".join(self._lines))
        self._lines.clear()

    def say(self, job: meshmq.Job, kind: int, delay_ms: int = 0) -> None:
        self.add(job, kind, delay_ms)
        self.write()


def number_of(job: meshmq.Job) -> int:
    """The number of a job; a second one under an id that should not be there counts on top."""
    n, second = NUMBER.unpack_from(job.value)
    if second:
        raise SystemExit(f"job {n} came although its id was there before")
    return int(n)


def work(job: Job) -> dict[str, Any]:
    """Work until a line comes on standard input."""
    o = job.options
    diary, dice = Diary(o["file"]), random.Random(o["seed"] * 1000 + job.index)
    jobs = rounds = 0
    with (
        meshmq.connect(job.address, timeout=CONNECT_SECONDS) as mesh,
        mesh.work(QUEUE, prefetch=PREFETCH, ack_timeout=ACK_TIMEOUT) as consumer,
    ):
        ready()
        while not select.select([sys.stdin], [], [], 0)[0]:
            got = consumer.fetch(FETCH, timeout=0.2)
            for one in got:
                diary.add(one, history.GOT)
            diary.write()
            outcomes = [deal_with(one, o["seed"], diary, dice) for one in got]
            rounds += 1
            jobs += len(got)
            if got and rounds % 3 == 0:
                note_confirmed(got, outcomes, diary)
        stale = consumer.stale
    return {"jobs": jobs, "stale": stale}


def deal_with(job: meshmq.Job, seed: int, diary: Diary, dice: random.Random) -> int:
    """Settle one job as its fate wants; now and then wait until that is certain.

    Returns what its answer will confirm, 0 if that is known already.
    """
    what = fate(seed, number_of(job))
    sure = dice.random() < 0.02
    outcome = history.ACKED
    try:
        if what == REJECT:
            outcome = history.REJECTED
            diary.say(job, history.REJECTING)
            job.reject("of no use", wait=sure, timeout=CONNECT_SECONDS)
        elif what == POISON or (what == NACK and job.attempt == 1):
            outcome = history.NACKED
            delay_ms = 0 if what == POISON else dice.randrange(0, 500)
            diary.say(job, history.NACKING, delay_ms)
            delay = None if what == POISON else delay_ms / 1000
            job.nack(delay, "not now", wait=sure, timeout=CONNECT_SECONDS)
        else:
            if what == HANG and job.attempt == 1:
                time.sleep(ACK_TIMEOUT * 1.5)
            diary.say(job, history.ACKING)
            job.ack(wait=sure, timeout=CONNECT_SECONDS)
    except meshmq.StaleDelivery:
        return 0  # what became of it is open
    if sure:
        diary.say(job, outcome)
        return 0
    return outcome


def note_confirmed(jobs: list[meshmq.Job], outcomes: list[int], diary: Diary) -> None:
    """Wait until the node has answered all settles of these jobs, and write down what they made
    certain. Waiting for one job is public; for many it is looked up inside."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome:
            job[4].owner.wait_closed(job[4], job[3], CONNECT_SECONDS)
            if job._refused() is None:
                diary.add(job, outcome)
    diary.write()


ROLES = {"put": put, "work": work}


# -- the director ------------------------------------------------------------------------------


class Director:
    """Starts everybody, strikes as the seed says, and writes down when."""

    def __init__(self, team: Team, options: argparse.Namespace, seed: int) -> None:
        self.team, self.seed = team, seed
        self.jobs, self.seconds = options.jobs, options.minutes * 60
        self.dice = random.Random(seed)
        self.trouble = Trouble()
        self.node = Node(team)
        self.files: list[tuple[int, Path]] = []
        self.workers: list[tuple[int, Role]] = []
        self.stopped: dict[int, tuple[int, Role, float]] = {}  # since when, until when
        self.counts = {"node_kills": 0, "worker_kills": 0, "worker_stops": 0}
        self.peaks = {"backlog": 0, "node_mib": 0}
        self.faults: list[str] = []
        self.kills = options.kills
        self.begin = time.monotonic()
        with meshmq.connect(self.node.url, timeout=CONNECT_SECONDS) as mesh:
            mesh.admin.queues.create(
                QUEUE, max_deliveries=MAX_DELIVERIES, backoff=BACKOFF, backoff_max=BACKOFF_MAX,
                dedup_window="1h",
            )  # fmt: skip
        for _ in range(options.workers):
            self.start_worker()

    def start_worker(self) -> None:
        number = len(self.files)
        path = self.team.path("worker").resolve()
        self.files.append((number, path))
        job = Job(self.node.url, index=number, options={"seed": self.seed, "file": str(path)})
        self.workers.append((number, self.team.role(MODULE, "work", job)))

    def start_producers(self) -> list[Role]:
        found = []
        for index in range(PRODUCERS):
            path = self.team.path("producer").resolve()
            self.files.append((len(self.files), path))
            options = {"seed": self.seed, "file": str(path), "jobs": self.jobs,
                       "delay": min(30.0, self.seconds / 10)}  # fmt: skip
            job = Job(self.node.url, index=index, seconds=self.seconds * PRODUCING_SHARE,
                      options=options)  # fmt: skip
            found.append(self.team.role(MODULE, "put", job))
        for role in found:
            role.wait_ready()
        for role in found:
            role.go()
        return found

    def strikes(self) -> list[tuple[float, Callable[[], None]]]:
        """What happens when, in seconds from the beginning."""
        dice, last = self.dice, self.seconds * (PRODUCING_SHARE + 0.1)
        found = [
            (last * (i + dice.uniform(0.2, 0.8)) / self.kills, self.kill_node)
            for i in range(self.kills)
        ]
        for every, strike in ((KILL_EVERY, self.kill_worker), (STOP_EVERY, self.stop_worker)):
            at = dice.expovariate(1 / every)
            while at < last:
                found.append((at, strike))
                at += dice.expovariate(1 / every)
        return sorted(found, key=lambda one: one[0])

    def kill_node(self) -> None:
        begin = time.monotonic_ns()
        self.team.stop(self.node.process, 0.0)
        self.node = Node(self.team, self.node.data, self.node.url)
        self.trouble.node.append(Span(begin, time.monotonic_ns()))
        self.counts["node_kills"] += 1

    def kill_worker(self) -> None:
        at = self.dice.randrange(len(self.workers))
        number, role = self.workers.pop(at)
        self.trouble.killed[number] = time.monotonic_ns()
        self.team.stop(role, 0.0)
        self._note_stop(number)
        self.counts["worker_kills"] += 1
        self.start_worker()

    def stop_worker(self) -> None:
        number, role = self.dice.choice(self.workers)
        seconds = self.dice.uniform(*STOP_SECONDS)
        if number not in self.stopped:
            self.stopped[number] = time.monotonic_ns(), role, time.monotonic() + seconds
            os.kill(role.pid, signal.SIGSTOP)
            self.counts["worker_stops"] += 1

    def _note_stop(self, number: int) -> None:
        stop = self.stopped.pop(number, None)
        if stop is not None:
            self.trouble.stopped[number].append(Span(stop[0], time.monotonic_ns()))

    def wake(self, everybody: bool = False) -> None:
        """Let those go on whose time has come."""
        for number, (_, role, until) in list(self.stopped.items()):
            if everybody or time.monotonic() >= until:
                os.kill(role.pid, signal.SIGCONT)
                self._note_stop(number)

    def look(self, mesh: meshmq.Mesh) -> int | None:
        """Jobs that are not done; None if nobody says. What ended by itself is a fault."""
        for number, role in list(self.workers):
            if role.popen.poll() is not None:
                said = role.log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
                self.faults.append(f"worker {number} ended by itself: {said}")
                self.trouble.killed[number] = time.monotonic_ns()
                self.workers.remove((number, role))
                self.start_worker()
        self.peaks["node_mib"] = max(self.peaks["node_mib"], int(rss_mib(self.node.pid, True)))
        try:
            backlog = int(mesh.admin.queues.show(QUEUE)["records"])
        except meshmq.OperationError:
            return None
        self.peaks["backlog"] = max(self.peaks["backlog"], backlog)
        return backlog

    def run(self) -> dict[str, Any]:
        """The whole day; returns what the producers say and how it ended."""
        producers = self.start_producers()
        self.begin = time.monotonic()
        limit = self.seconds + SETTLE_SECONDS
        strikes = deque(self.strikes())
        with meshmq.connect(self.node.url, timeout=CONNECT_SECONDS) as mesh:
            looked, backlog = 0.0, None
            while strikes or backlog != 0 or any(one.popen.poll() is None for one in producers):
                now = time.monotonic() - self.begin
                if now > limit:
                    self.faults.append(f"after {now:.0f} s {backlog} jobs are not done")
                    break
                self.wake()
                if strikes and strikes[0][0] <= now:
                    strikes.popleft()[1]()
                if now - looked >= WATCH_SECONDS:
                    looked, backlog = now, self.look(mesh)
                time.sleep(0.02)
            seconds = time.monotonic() - self.begin
            self.wake(True)
            for _, role in self.workers:
                role.go()  # any line ends it
            said = [role.result(SETTLE_SECONDS) for _, role in self.workers]
            shown = mesh.admin.queues.show(QUEUE)
            letters = self._letters(mesh)
            made = [one.result(SETTLE_SECONDS) for one in producers]
        for name in ("records", "in_flight", "delayed", "retrying", "members"):
            if shown[name]:
                self.faults.append(f"at the end {name} is {shown[name]}")
        if shown["dead"] != sum(map(len, letters.values())):
            self.faults.append(f"{shown['dead']} dead letters are told, {len(letters)} are there")
        return {"seconds": round(seconds, 1), "letters": letters, "made": made,
                "stale_of_the_last": sum(one["stale"] for one in said)}  # fmt: skip

    @staticmethod
    def _letters(mesh: meshmq.Mesh) -> dict[int, list[Letter]]:
        found: dict[int, list[Letter]] = {}
        for letter in mesh.admin.dlq.list(QUEUE, limit=1_000_000):
            number, _ = NUMBER.unpack_from(letter.value)
            found.setdefault(number, []).append(Letter(letter.reason, letter.attempts))
        return found


def jobs(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run it and judge it; what was found."""
    with Team(options.dir) as team:
        director = Director(team, options, seed)
        ran = director.run()
        judge = Judge(options.jobs, ACK_TIMEOUT, MAX_DELIVERIES, ran["letters"], director.trouble)
        verdict = judge.judge(director.files)
    made = ran["made"]
    return {
        "what": "jobs", "commit": about.commit(), "date": about.date(), "seed": seed,
        "jobs": options.jobs, "workers": options.workers, "seconds": ran["seconds"],
        **director.counts, "peaks": director.peaks,
        "put": {n: sum(one[n] for one in made) for n in ("put", "late", "ranked", "twice")},
        "counts": dict(sorted(verdict.counts.items())),
        "faults": [*director.faults, *verdict.faults],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--kills", type=int, default=2, help="of the node")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, help="what happens; default: a random one")
    parser.add_argument("--dir", type=Path, help="where all data go meanwhile")
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    result = jobs(options, seed)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        (options.out / f"jobs-{about.stamp()}.json").write_text(text + "\n", "utf-8")
    print("every promise kept" if not result["faults"] else "BROKEN")
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(report.run(main))
