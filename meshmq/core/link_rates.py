"""What a node knows of how its links do: rates, lag, compression, errors; for people.

Data: of each log that is pulled over a link, and of each of its topics, records and bytes that
came; of how far a topic goes at the other site marks (end, when it was told), MARKS_MAX at most.

Rules:
1. A rate is that of the last RATES_NS, about.
2. A topic is so far behind in time as the oldest mark is old that is not reached here: so long ago
   the other site had more than there is here now.
3. Bytes that are missing are reckoned: the missing records, each as long as those that came were.
4. A link has caught up after the missing records at the rate at which that falls: what comes, less
   what is published there. If it does not fall, nobody knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from meshmq import limits
from meshmq.core.mirror import Mirror
from meshmq.frames_copies import Fetched
from meshmq.names import JOURNAL

RATES_NS = 5 * limits.SECOND
MARKS_MAX = 16


class Meter:
    """How many came in all, and per second of late."""

    __slots__ = ("_before", "_now", "_since_ns", "total")

    def __init__(self) -> None:
        self.total = self._before = self._now = 0
        self._since_ns = 0

    def add(self, count: int, now_ns: int) -> None:
        """So many have come."""
        self._turn(now_ns)
        self.total += count
        self._now += count

    def _turn(self, now_ns: int) -> None:
        passed_ns = now_ns - self._since_ns
        if passed_ns >= RATES_NS:
            self._before = self._now if passed_ns < 2 * RATES_NS else 0
            self._now = 0
            self._since_ns = now_ns - passed_ns % RATES_NS

    def rate(self, now_ns: int) -> float:
        """Per second, rule 1."""
        self._turn(now_ns)
        share = 1 - (now_ns - self._since_ns) / RATES_NS
        return (self._now + share * self._before) * limits.SECOND / RATES_NS


@dataclass(slots=True)
class _Come:
    """Of one topic, or log."""

    records: Meter = field(default_factory=Meter)
    bytes: Meter = field(default_factory=Meter)
    end: int = 0
    marks: deque[tuple[int, int]] = field(default_factory=deque)

    def add(self, records: int, size: int, now_ns: int) -> None:
        self.records.add(records, now_ns)
        self.bytes.add(size, now_ns)

    def mean(self) -> float | None:
        """Bytes of a record."""
        return self.bytes.total / self.records.total if self.records.total else None

    def mark(self, end: int, here: int, now_ns: int) -> None:
        """It goes up to before ``end`` at the other site, and ``here`` up to before that."""
        marks = self.marks
        while marks and marks[0][0] <= here:
            marks.popleft()
        if end > here and (not marks or end > marks[-1][0]):
            marks.append((end, now_ns))
            if len(marks) > MARKS_MAX:
                self.marks = deque([m for i, m in enumerate(marks) if i % 2 == 0 or m is marks[-1]])

    def behind_ns(self, here: int, now_ns: int) -> int:
        """Rule 2."""
        waiting = [since_ns for end, since_ns in self.marks if end > here]
        return now_ns - waiting[0] if waiting else 0


class LinkRates:
    """See the module's header."""

    def __init__(self) -> None:
        self._logs: dict[bytes, _Come] = {}
        self._topics: dict[bytes, dict[str, _Come]] = {}
        self._published: dict[bytes, Meter] = {}  # by log, at the other site
        self._crossed: dict[str, tuple[Meter, Meter]] = {}  # by site: on the line, as stored
        self._flights: dict[bytes, tuple[int, int]] = {}  # by link: what the last frame told, when
        self._errors: dict[str, tuple[str, int]] = {}  # by site
        self._problems: dict[bytes, tuple[str, int]] = {}  # by log, and at how many looks by now

    # -- what happens ---------------------------------------------------------------------------

    def on_crossed(self, site: str, link: bytes, frame: Fetched, now_ns: int) -> None:
        """A frame came over a link, as it was on the line."""
        if frame.batches:
            line, stored = self._crossed.setdefault(site, (Meter(), Meter()))
            line.add(len(frame.payload), now_ns)
            stored.add(frame.size or len(frame.payload), now_ns)
            self._flights[link] = frame.flight, now_ns

    def on_taken(self, mirror: Mirror, frame: Fetched, now_ns: int) -> None:
        """What it brought of a log was taken."""
        log = self._logs.setdefault(mirror.origin, _Come())
        topics = self._topics.setdefault(mirror.origin, {})
        for row in frame.batches:
            topic = mirror.topics.of_source(row.stream)
            if topic is not None:
                log.add(row.count, row.length, now_ns)
                come = topics.setdefault(topic.entry.name, _Come())
                come.add(row.count, row.length, now_ns)

    def on_left(self, site: str, node: str, link: bytes, now_ns: int) -> None:
        """A link with a node is over."""
        self._flights.pop(link, None)
        self._errors[site] = f"the link with {site}/{node} was lost", now_ns

    def note(self, site: str, problem: str, now_ns: int) -> None:
        """Something went wrong on a link."""
        self._errors[site] = problem, now_ns

    def tick(self, mirrors: list[Mirror], now_ns: int) -> None:
        """Look at how far logs are, every now and then."""
        self._forget({mirror.origin for mirror in mirrors})
        for mirror in mirrors:
            published = self._published.setdefault(mirror.origin, Meter())
            topics = self._topics.setdefault(mirror.origin, {})
            for number, end in mirror.ends.items():
                topic = mirror.topics.of_source(number)
                if topic is None:
                    continue
                come = topics.setdefault(topic.entry.name, _Come())
                if come.end:
                    published.add(max(0, end - come.end), now_ns)
                come.end = end
                come.mark(end, topic.synced_offset, now_ns)
            before, looks = self._problems.get(mirror.origin, ("", 0))
            looks = looks + 1 if mirror.problem == before else 1
            self._problems[mirror.origin] = mirror.problem, looks
            # Who turns to another source may be without one for a moment: that is no error.
            if mirror.problem and looks == 2 and mirror.linked is not None:
                self.note(mirror.linked.site, f"{mirror.shown}: {mirror.problem}", now_ns)

    def _forget(self, kept: set[bytes]) -> None:
        for held in (self._logs, self._topics, self._published, self._problems):
            for origin in held.keys() - kept:
                del held[origin]

    # -- what is shown --------------------------------------------------------------------------

    def log(self, mirror: Mirror, now_ns: int) -> dict[str, Any]:
        """Of one log, as ``status`` has it."""
        come = self._logs.get(mirror.origin, _Come())
        known = self._topics.get(mirror.origin, {})
        lag = mirror.lag()
        rows: list[dict[str, Any]] = []
        for name, topic in sorted(mirror.topics.by_name.items()):
            if name == JOURNAL:
                continue
            found = known.get(name, _Come())
            records = lag.get(name, 0)
            rate = found.records.rate(now_ns)
            if not (records or rate):
                continue
            mean = found.mean() or come.mean()
            behind_ns = found.behind_ns(topic.synced_offset, now_ns) if records else 0
            rows.append(
                {"name": name, "lag": records, "lag_bytes": _reckoned(records, mean),
                 "lag_seconds": _seconds(behind_ns), "records_per_second": round(rate, 1),
                 "bytes_per_second": round(found.bytes.rate(now_ns))}
            )  # fmt: skip
        sizes = [row["lag_bytes"] for row in rows]
        published = self._published.get(mirror.origin, Meter()).rate(now_ns)
        rate = come.records.rate(now_ns)
        return {
            "topics": rows, "lag_bytes": None if None in sizes else sum(sizes),
            "lag_seconds": max([row["lag_seconds"] for row in rows], default=0.0),
            "records_per_second": round(rate, 1),
            "bytes_per_second": round(come.bytes.rate(now_ns)),
            "published_per_second": round(published, 1),
            "catch_up_seconds": catch_up(sum(lag.values()), rate, published),
        }  # fmt: skip

    def link(
        self, site: str, links: Iterable[bytes], logs: list[dict[str, Any]], now_ns: int
    ) -> dict[str, Any]:
        """Of a link, with what ``log`` says of those that come by it."""
        line, stored = self._crossed.get(site, (Meter(), Meter()))
        told = [self._flights[link] for link in links if link in self._flights]
        rate = sum([log["records_per_second"] for log in logs])
        published = sum([log["published_per_second"] for log in logs])
        lag = sum([sum(log["lag"].values()) for log in logs])
        sizes = [log["lag_bytes"] for log in logs]
        what, at_ns = self._errors.get(site, ("", 0))
        return {
            "lag": lag, "lag_bytes": None if None in sizes else sum(sizes),
            "lag_seconds": max([log["lag_seconds"] for log in logs], default=0.0),
            "records_per_second": round(rate, 1),
            "bytes_per_second": round(line.rate(now_ns)),
            "ratio": round(stored.total / line.total, 2) if line.total else None,
            "in_flight": sum([size for size, at in told if now_ns - at < 2 * limits.SECOND]),
            "catch_up_seconds": catch_up(lag, rate, published),
            "last_error": what or None,
            "last_error_seconds": _seconds(now_ns - at_ns) if what else None,
        }  # fmt: skip


def catch_up(lag: int, rate: float, published: float) -> float | None:
    """Rule 4."""
    if not lag:
        return 0.0
    return round(lag / (rate - published), 1) if rate > published else None


def _reckoned(records: int, mean: float | None) -> int | None:
    if not records:
        return 0
    return None if mean is None else round(records * mean)


def _seconds(ns: int) -> float:
    return round(ns / limits.SECOND, 3)
