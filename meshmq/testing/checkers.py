"""What a history must keep, whatever happened in it. Each checker returns sentences: what is wrong.

The promises: nothing confirmed is lost; nothing appears twice in a stream; offsets have no gaps and
never change their record; order per producer and stream; a consumer never sees what a power cut
could undo; every record a subscription does not get is counted; everything comes to rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshmq.core.lanes import DONE, FAILED
from meshmq.frames import START_EARLIEST, START_NEW
from meshmq.names import matches
from meshmq.testing.history import History, Published, Reader, decode
from meshmq.testing.world import is_durable

if TYPE_CHECKING:
    from collections.abc import Callable


def check(history: History) -> list[str]:
    """Everything that is wrong with ``history``; empty when it kept its promises."""
    return [fault for checker in CHECKERS for fault in checker(history)]


def logs(history: History) -> dict[str, list[bytes]]:
    """The final log of each durable topic, by offset, as the commits on disk say it."""
    names = {alias: s.topic.name for alias, s in history.disk.state.streams.items()}
    found: dict[str, list[bytes]] = {name: [] for name in names.values()}
    for commit in history.disk.commits:
        for batch in commit.batches:
            found[names[batch.stream]] += decode(batch.payload)
    return found


def _source(value: bytes) -> tuple[str, int]:
    """(producer, number) of a value the simulated programs made."""
    producer, _, number = value.decode().strip().split("|")
    return producer, int(number)


def rest(history: History) -> Iterator[str]:
    """After healing all publishes have an outcome and all subscriptions are at the end."""
    for fault in history.unrest:
        yield f"no rest: {fault}"


def times(history: History) -> Iterator[str]:
    """Append times never go back, whatever the wall clock does."""
    before = 0
    for commit in history.disk.commits:
        if commit.append_time_ns < before:
            yield f"commit {commit.lsn}: its append time went back"
        before = commit.append_time_ns


def offsets(history: History) -> Iterator[str]:
    """Offsets have no gaps, and each keeps the record it was first given."""
    ends: dict[int, int] = {}
    for commit in history.disk.commits:
        for batch in commit.batches:
            end = ends.get(batch.stream, 0)
            if batch.base_offset != end:
                yield f"stream {batch.stream}: offset {batch.base_offset} follows {end}"
            ends[batch.stream] = batch.base_offset + batch.count
            for i, value in enumerate(decode(batch.payload)):
                if history.disk.synced[batch.stream, batch.base_offset + i] != value:
                    yield f"stream {batch.stream}: offset {batch.base_offset + i} was reused"


def streams(history: History) -> Iterator[str]:
    """Nothing is twice in a stream, and each producer's records are in its order."""
    for topic, values in logs(history).items():
        last: dict[str, int] = {}
        for value in values:
            producer, number = _source(value)
            if number <= last.get(producer, 0):
                yield f"{topic}: {value!r} comes after {producer}'s record {last[producer]}"
            last[producer] = max(number, last.get(producer, 0))


def receipts(history: History) -> Iterator[str]:
    """A confirmed record is in the log, at the offset its receipt names."""
    final = logs(history)
    present = {topic: set(values) for topic, values in final.items()}
    for p in history.published:
        if not is_durable(p.topic):
            continue
        if p.batch.state == DONE or p.index < p.batch.skipped:
            yield from _confirmed(p, final.get(p.topic, []), present.get(p.topic, set()))
        elif p.batch.state == FAILED and _code(p) not in _failures(history):
            yield f"{p.topic}: {p.value!r} failed with {_code(p)}"


FAILURES = ("link-lost", "producer-fenced", "batch-refused", "storage-full", "sequence-gap")


def _failures(history: History) -> tuple[str, ...]:
    # Where all that a producer sent was refused for room, the node does not know it, and whoever
    # was cut off from it meanwhile cannot know either.
    return (*FAILURES, "producer-unknown") if history.filled else FAILURES


def _code(p: Published) -> str:
    return p.batch.error.code if p.batch.error is not None else ""


def _confirmed(p: Published, log: list[bytes], present: set[bytes]) -> Iterator[str]:
    index = p.index - p.batch.skipped
    if p.batch.base_offset is None or index < 0:
        if p.value not in present:
            yield f"{p.topic}: {p.value!r} was confirmed and is not in the log"
        return
    offset = p.batch.base_offset + index
    if offset >= len(log) or log[offset] != p.value:
        yield f"{p.topic}: {p.value!r} was confirmed at {offset} and is not there"


def deliveries(history: History) -> Iterator[str]:
    """What is handed on was synced, comes in order, once, and what is left out is counted."""
    for reader in history.readers:
        name = f"{reader.client} {reader.pattern}"
        expected: dict[str, int] = {}
        passed = 0
        for seen in reader.seen:
            if not matches(reader.pattern, seen.topic):
                yield f"{name}: got {seen.topic}"
            if seen.offset is None:
                continue
            if not seen.synced:
                yield f"{name}: {seen.topic} {seen.offset} was not synced when it came"
            before = expected.get(seen.topic, seen.offset)
            if seen.offset < before:
                yield f"{name}: {seen.topic} {seen.offset} came again or out of order"
            passed += max(0, seen.offset - before)
            expected[seen.topic] = seen.offset + 1
        if passed > reader.missed:
            yield f"{name}: {passed} records passed over, {reader.missed} told"
        told = history.trims or history.disk.flipped or _may_drop(reader)
        if reader.missed and not told:
            yield f"{name}: missed {reader.missed} though nothing was taken away"


def _may_drop(reader: Reader) -> bool:
    return matches(reader.pattern, "t.a") or matches(reader.pattern, "t.b")


def beginnings(history: History) -> Iterator[str]:
    """ "earliest" begins at the first record, "new" misses nothing after its answer."""
    final = logs(history)
    first: dict[tuple[str, bytes], int] = {}  # a program may publish a record again
    for p in history.published:
        first.setdefault((p.topic, p.value), p.at_ns)
    for reader in history.readers:
        if reader.ended or reader.refused or history.trims or history.disk.flipped:
            continue
        got = {(s.topic, s.offset) for s in reader.seen}
        name = f"{reader.client} {reader.pattern}"
        for topic, values in final.items():
            if not matches(reader.pattern, topic):
                continue
            if reader.start.kind == START_EARLIEST and values and (topic, 0) not in got:
                yield f"{name}: began at earliest and has no {topic} 0"
        if reader.start.kind == START_NEW:
            for p in history.published:
                if (
                    is_durable(p.topic)
                    and first[p.topic, p.value] > reader.answered_ns
                    and p.batch.state == DONE
                ):
                    offset = _offset(p)
                    wanted = offset is not None and matches(reader.pattern, p.topic)
                    if wanted and (p.topic, offset) not in got:
                        yield f"{name}: {p.topic} {offset} was published after its answer"


def _offset(p: Published) -> int | None:
    if p.batch.base_offset is None or p.batch.duplicate or p.index < p.batch.skipped:
        return None
    return p.batch.base_offset + p.index - p.batch.skipped


def transient(history: History) -> Iterator[str]:
    """Transient records come at most once, in order; what does not come is counted."""
    for reader in history.readers:
        last: dict[tuple[str, str], int] = {}
        count = 0
        for seen in reader.seen:
            if seen.offset is not None:
                continue
            count += 1
            producer, number = _source(seen.value)
            if number <= last.get((seen.topic, producer), 0):
                yield f"{reader.client} {reader.pattern}: {seen.value!r} again or out of order"
            last[seen.topic, producer] = number
        if reader.sessions_lost or reader.ended or reader.refused or history.trims:
            continue
        sent = sum(
            1
            for p in history.published
            if not is_durable(p.topic)
            and matches(reader.pattern, p.topic)
            and p.at_ns > reader.answered_ns
            and p.batch.state == DONE
        )
        if count + reader.missed < sent:
            yield (
                f"{reader.client} {reader.pattern}: {count} transient records came, "
                f"{reader.missed} told as missed, {sent} were sent"
            )


CHECKERS: tuple[Callable[[History], Iterator[str]], ...] = (
    rest,
    times,
    offsets,
    streams,
    receipts,
    deliveries,
    beginnings,
    transient,
)
