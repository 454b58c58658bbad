"""What really happened to a queue's jobs, and whether that is allowed.

Workers append Events to files, the director says when it killed or stopped whom; ``judge`` returns
sentences about what is wrong and counts of the rest. It knows nothing of how the history was made.

Deliveries of one job are put in the order in which the node made them: by the node's life, and by
the number of the hand-out, which grows within one. So a delivery that lay in a stopped worker's
buffer is no second one after an ack, however late the worker begins it.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

EVENT = struct.Struct("<qQIIHBBI")  # 32 bytes: a page holds a whole number, so none is ever torn
GOT, ACKING, ACKED, NACKING, NACKED, REJECTING, REJECTED, PUT = range(1, 9)
CONFIRMED = (ACKED, NACKED, REJECTED)
DOUBTFUL = 1
"""Flag of GOT: the delivery said ``maybe_duplicate``."""
PART = 100_000  # jobs that are judged together: it bounds memory
LIVES_APART = 1 << 40  # hand-out numbers of two lives of a node are further apart
EXPIRY_SHARE = 0.6  # a timeout runs from when a job was begun, or from up to a third earlier
EARLY_NS = 2_000_000  # clocks of the machine may differ so much
SLACK_NS = 1_000_000_000
FAULTS_MAX = 20


class Event(NamedTuple):
    """One thing that a worker or producer says of a job.

    ``number`` is the hand-out's; ``delay_ms`` of a nack or a job that is put later.
    """

    time_ns: int
    number: int
    job: int
    delay_ms: int
    attempt: int
    kind: int
    flags: int
    spare: int = 0

    def pack(self) -> bytes:
        return EVENT.pack(*self)


class Letter(NamedTuple):
    """A dead letter of a job."""

    reason: str
    attempts: int


class Span(NamedTuple):
    """From when to when something was the matter."""

    begin_ns: int
    end_ns: int


@dataclass(slots=True)
class Trouble:
    """What the director did: when the node was away, and when each worker was stopped or killed.

    Workers have numbers; a killed one's successor has another.
    """

    node: list[Span] = field(default_factory=list)
    stopped: dict[int, list[Span]] = field(default_factory=lambda: defaultdict(list))
    killed: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Delivery:
    """One delivery of one job and what became of it."""

    worker: int
    number: int
    time_ns: int
    attempt: int
    doubtful: bool
    said: int = 0
    said_ns: int = 0
    delay_ms: int = 0
    confirmed: bool = False
    life: int = 0


@dataclass(slots=True)
class Verdict:
    """What was found: sentences, and how often what happened."""

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def fault(self, kind: str, text: str) -> None:
        self.counts["faults"] += 1
        self.counts[f"fault: {kind}"] += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(f"{kind}: {text}")


class Judge:
    """The rules of one queue.

    Args:
        jobs: they are numbered from 0, and all of them were confirmed to be stored.
        ack_timeout: of the workers, in seconds.
        max_deliveries: of the queue.
        letters: the dead letters of each job at the end.
        trouble: what the director did.
    """

    def __init__(
        self, jobs: int, ack_timeout: float, max_deliveries: int,
        letters: Mapping[int, Sequence[Letter]], trouble: Trouble,
    ) -> None:  # fmt: skip
        self.jobs = jobs
        self.timeout_ns = int(ack_timeout * 1e9)
        self.most = max_deliveries
        self.letters = letters
        self.trouble = trouble
        self.verdict = Verdict()

    def judge(self, files: Sequence[tuple[int, Path]]) -> Verdict:
        """Judge what (worker, file) pairs say."""
        lives = self._lives(files)
        self.verdict.counts["lives"] = len(lives)
        for begin in range(0, self.jobs, PART):
            found: dict[int, list[tuple[int, Event]]] = defaultdict(list)
            for worker, path in files:
                for event in events_of(path):
                    if begin <= event.job < begin + PART:
                        found[event.job].append((worker, event))
            for job in range(begin, min(begin + PART, self.jobs)):
                self.job(job, found.get(job, ()), lives)
        for job in self.letters:
            if not 0 <= job < self.jobs:
                self.verdict.fault("unknown", f"a dead letter of a job {job} that nobody put")
        return self.verdict

    @staticmethod
    def _lives(files: Sequence[tuple[int, Path]]) -> list[tuple[int, int]]:
        """(lowest number, highest) of each life of the node, in the order of their times."""
        spread: dict[int, list[int]] = {}  # by number // LIVES_APART: lowest, highest, time
        for _, path in files:
            for event in events_of(path):
                if event.kind == GOT:
                    n = event.number
                    one = spread.setdefault(n // LIVES_APART, [n, n, event.time_ns])
                    one[0], one[1] = min(one[0], n), max(one[1], n)
                    one[2] = min(one[2], event.time_ns)
        ranges: list[list[int]] = []
        for low, high, time_ns in sorted(spread.values()):
            if ranges and low - ranges[-1][1] < LIVES_APART:  # one life over an edge
                ranges[-1] = [ranges[-1][0], high, min(time_ns, ranges[-1][2])]
            else:
                ranges.append([low, high, time_ns])
        ranges.sort(key=lambda one: one[2])
        return [(low, high) for low, high, _ in ranges]

    # -- one job ------------------------------------------------------------------------------

    def job(
        self, job: int, said: Iterable[tuple[int, Event]], lives: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Judge one job's history."""
        due_ns, deliveries = self._deliveries(job, said)
        for d in deliveries:
            d.life = next((i for i, (low, high) in enumerate(lives) if low <= d.number <= high), 0)
        deliveries.sort(key=attrgetter("life", "number"))
        counts = self.verdict.counts
        counts["deliveries"] += len(deliveries)
        counts["most_deliveries"] = max(counts["most_deliveries"], len(deliveries))
        self._times(job, due_ns, deliveries)
        for first, second in pairwise(deliveries):
            self._pair(job, first, second)
        self._end(job, deliveries, self.letters.get(job, ()))

    def _deliveries(
        self, job: int, said: Iterable[tuple[int, Event]]
    ) -> tuple[int, list[Delivery]]:
        found: dict[tuple[int, int], Delivery] = {}
        due_ns = 0
        for worker, e in said:
            key = (worker, e.number)
            if e.kind == PUT:
                due_ns = e.time_ns + e.delay_ms * 1_000_000
            elif e.kind == GOT:
                if key in found:
                    self.verdict.fault("shown twice", f"{name(job)}: in one hand-out")
                found[key] = Delivery(
                    worker, e.number, e.time_ns, e.attempt, bool(e.flags & DOUBTFUL)
                )
            elif key not in found:
                self.verdict.fault("history", f"{name(job)} was settled and never got")
            elif e.kind in CONFIRMED:
                found[key].confirmed = True
                self.verdict.counts["confirmed"] += 1
            else:
                d = found[key]
                d.said, d.said_ns, d.delay_ms = e.kind, e.time_ns, e.delay_ms
        return due_ns, list(found.values())

    def _times(self, job: int, due_ns: int, deliveries: Sequence[Delivery]) -> None:
        """Nothing comes before it is due."""
        for d in deliveries:
            if d.time_ns < due_ns - EARLY_NS:
                early = (due_ns - d.time_ns) / 1e6
                self.verdict.fault("early", f"{name(job)} came {early:.1f} ms before its time")
        for first, second in pairwise(deliveries):
            if first.said == NACKING and first.confirmed:
                due = first.said_ns + first.delay_ms * 1_000_000
                if second.time_ns < due - EARLY_NS:
                    early = (due - second.time_ns) / 1e6
                    self.verdict.fault(
                        "early", f"{name(job)} came {early:.1f} ms before its retry's time"
                    )

    def _pair(self, job: int, first: Delivery, second: Delivery) -> None:
        """One delivery after another: it needs a cause and a warning."""
        if first.confirmed and first.said in (ACKING, REJECTING):
            done = "acked" if first.said == ACKING else "rejected"
            self.verdict.fault(
                "returned",
                f"{name(job)} was {done} for certain and came again: {show(first)}, {show(second)}",
            )
            return
        if second.attempt == 1 and not second.doubtful:
            self.verdict.fault(
                "unmarked", f"{name(job)} came again without a word: {show(first)}, {show(second)}"
            )
        if second.attempt < first.attempt:
            self.verdict.fault(
                "attempts", f"{name(job)}: attempt {second.attempt} after {first.attempt}"
            )
        if first.confirmed and first.said == NACKING and second.attempt <= first.attempt:
            self.verdict.fault("attempts", f"{name(job)}: its nack was not counted")
        cause = self._cause(first, second)
        self.verdict.counts[f"again: {cause or 'no cause'}"] += 1
        if not cause:
            self.verdict.fault("no cause", f"{name(job)} came again: {show(first)}, {show(second)}")

    def _cause(self, first: Delivery, second: Delivery) -> str:
        if first.said == NACKING and second.attempt > first.attempt:
            return "nack"
        begin = min(first.time_ns, second.time_ns) - SLACK_NS
        end = max(first.time_ns, second.time_ns)
        killed_ns = self.trouble.killed.get(first.worker, 0)
        if begin <= killed_ns <= end:
            return "worker killed"
        if _meets(self.trouble.stopped.get(first.worker, ()), begin, end):
            return "worker stopped"
        if second.life != first.life or _meets(self.trouble.node, begin, end):
            return "node killed"
        quiet_ns = second.time_ns - first.time_ns
        answered_ns = first.said_ns - first.time_ns if first.said else quiet_ns
        least_ns = EXPIRY_SHARE * self.timeout_ns
        if quiet_ns >= least_ns and answered_ns >= least_ns:
            return "expired"
        return ""

    def _end(self, job: int, deliveries: Sequence[Delivery], letters: Sequence[Letter]) -> None:
        """It was acked or is dead, once."""
        counts, fault = self.verdict.counts, self.verdict.fault
        acked = [d for d in deliveries if d.said == ACKING]
        sure = any(d.confirmed for d in acked)
        if len(letters) > 1:
            fault("dead twice", f"{name(job)} has {len(letters)} dead letters")
        if max((d.attempt for d in deliveries), default=0) > self.most:
            fault("attempts", f"{name(job)} was handed out more than {self.most} times")
        if letters:
            counts[f"dead: {letters[0].reason}"] += 1
            if sure:
                fault("dead and done", f"{name(job)} was acked for certain and has a dead letter")
            if letters[0].reason == "rejected":
                if not any(d.said == REJECTING for d in deliveries):
                    fault("dead", f"{name(job)} is dead as rejected and nobody did that")
            elif letters[0].attempts < self.most:
                fault("dead", f"{name(job)} is dead after {letters[0].attempts} attempts")
            return
        if any(d.said == REJECTING and d.confirmed for d in deliveries):
            fault("no letter", f"{name(job)} was rejected for certain and has no dead letter")
        elif any(d.said == NACKING and d.confirmed and d.attempt >= self.most for d in deliveries):
            fault("no letter", f"{name(job)} failed its last attempt and has no dead letter")
        elif not deliveries:
            fault("lost", f"{name(job)} was never handed out and has no dead letter")
        elif not acked:
            fault("lost", f"{name(job)} was never acked and has no dead letter: "
                          f"{', '.join(map(show, deliveries))}")  # fmt: skip
        else:
            counts["acked"] += 1
            counts["acked for certain"] += sure
            counts["acked more than once"] += len(acked) > 1


def events_of(path: Path) -> Iterator[Event]:
    """What a file says; an event that a kill cut off is none."""
    data = path.read_bytes() if path.exists() else b""
    whole = len(data) // EVENT.size * EVENT.size
    return map(Event._make, EVENT.iter_unpack(memoryview(data)[:whole]))


def _meets(spans: Iterable[Span], begin: int, end: int) -> bool:
    return any(span.begin_ns <= end and begin <= span.end_ns for span in spans)


def name(job: int) -> str:
    """A job in words."""
    return f"job {job}"


WORDS = {0: "not settled", ACKING: "acked", NACKING: "nacked", REJECTING: "rejected"}


def show(d: Delivery) -> str:
    """A delivery in words."""
    sure = " for certain" if d.confirmed else ""
    doubt = ", maybe a duplicate" if d.doubtful else ""
    return (
        f"[{d.time_ns / 1e9:.3f} s, life {d.life}, hand-out {d.number}, worker {d.worker}, "
        f"attempt {d.attempt}{doubt}: {WORDS[d.said]}{sure} at {d.said_ns / 1e9:.3f} s]"
    )
