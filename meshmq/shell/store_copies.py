"""Reads what is copied of another node's log, by the places that log has; writes what was damaged
here and had again from there.

Batches of one origin lie here in its own order, or those of each strand do, so a place is found by
halving: first the segment, then the commit. Strands are put together by their places. What comes
back has the places and times of the origin's log. What was this log's own before it was renewed
(store_renew) lies at its places.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshmq.core.log import LogState, StoredBatch
from meshmq.core.mirror_log import BEHIND_ALL, Copied
from meshmq.shell.segment import decode_row
from meshmq.shell.store_read import LogReader, Place, ReadResult
from meshmq.shell.store_segments import SegmentSet

IsBefore = Callable[[Copied], bool]


class _Whose(NamedTuple):
    """Of which log, and what is wanted of it; before ``own_until`` this one was it."""

    origin: bytes
    streams: frozenset[int]
    own_until: int


def read_copies(
    reader: LogReader,
    segments: SegmentSet,
    state: LogState,
    origin: bytes,
    streams: frozenset[int],
    start: tuple[str, int, int],
    bytes_max: int,
) -> ReadResult:
    """As LogReader.read, from a ``start`` in the log of ``origin``; where to go on is there too,
    and BEHIND_ALL once there is no more."""
    mirror = state.mirrors.get(origin)
    if mirror is None:
        return ReadResult((), 1, 0)
    by_strand: dict[int, set[int]] = {}
    for alias in streams & mirror.streams.keys():
        by_strand.setdefault(state.streams[alias].topic.strand, set()).add(alias)
    each_bytes = max(1, bytes_max // max(1, len(by_strand)))
    parts = []
    for some in by_strand.values():
        whose = _Whose(origin, frozenset(some), mirror.own_until)
        parts.append(_read_strand(reader, segments, state.next_lsn - 1, whose, start, each_bytes))
    end = min([part.end for part in parts if part.end is not None], default=BEHIND_ALL)
    batches: list[StoredBatch] = []
    for part in parts:
        before, here = part.split(end)
        batches += before
        # Also of a strand that is over, or has nothing for long: it is not searched each time.
        if here is not None and end != BEHIND_ALL and not mirror.own_until:
            reader.stops.add(origin, part.whose.streams, end, here)
    if len(parts) > 1:
        batches.sort(key=lambda b: (b.lsn, b.slot))
    return ReadResult(tuple(batches), *end)


class _Part(NamedTuple):
    """What was read of one strand.

    Attributes:
        rows: each with where it lies here.
        end: before this place there that is all; None: it is all there is.
        here: behind that here; None: nobody knows.
    """

    whose: _Whose
    rows: Sequence[tuple[Place, StoredBatch]]
    end: Place | None
    here: Place | None

    def split(self, end: Place) -> tuple[list[StoredBatch], Place | None]:
        """What is before a place there, and where here to go on from that."""
        for i, (here, b) in enumerate(self.rows):
            if (b.lsn, b.slot) >= end:
                return [row[1] for row in self.rows[:i]], here
        return [row[1] for row in self.rows], self.here


def _read_strand(
    reader: LogReader,
    segments: SegmentSet,
    last: int,
    whose: _Whose,
    start: tuple[str, int, int],
    bytes_max: int,
) -> _Part:
    """Streams whose batches lie here in their log's order."""
    kind, value, slot = start
    local = ("offset", value, 0)
    if kind != "offset":
        known, here = (0, 0), (0, 0)
        if kind == "position":
            known, here = reader.stops.last(whose.origin, whose.streams, (value, slot))
        if known == (value, slot):
            found: Place | None = here
        else:
            found = _locate(segments, whose, _is_before(kind, value, slot), here[0])
        if found is None:
            return _Part(whose, (), None, (last + 1, 0))
        local = ("position", *found)
    while True:
        result = reader.read(whose.streams, local, last, bytes_max)
        before = (value, slot) if kind == "position" else (1, 0)
        rows = _translated(result.batches, before, whose.own_until)
        if result.next_lsn > last:
            return _Part(whose, rows, None, (last + 1, 0))
        if rows:
            newest, b = result.batches[-1], rows[-1][1]
            behind = (newest.lsn, newest.slot + 1) if newest.place is not None else None
            return _Part(whose, rows, (b.lsn, b.slot + 1), behind)
        local = ("position", result.next_lsn, result.next_slot)


def _is_before(kind: str, value: int, slot: int) -> IsBefore:
    if kind == "time":
        return lambda c: c.append_time_ns < value
    return lambda c: (c.lsn, c.slot) < (value, slot)


def _translated(
    batches: Sequence[StoredBatch], before: tuple[int, int], own_until: int
) -> list[tuple[Place, StoredBatch]]:
    """With the places of their own log; those whose row is lost have that of the one before. Each
    with its place here."""
    found = []
    lsn, slot = before
    for here in batches:
        b = here
        if b.place is not None:
            lsn, slot, time_ns = b.place
            b = b._replace(append_time_ns=time_ns)
        elif b.lsn < own_until:
            lsn, slot = b.lsn, b.slot
        elif own_until and not b.damaged:
            continue  # written before it was known that the log was not what it was
        found.append(((here.lsn, here.slot), b._replace(lsn=lsn, slot=slot)))
    return found


def _locate(
    segments: SegmentSet, whose: _Whose, is_before: IsBefore, from_lsn: int
) -> tuple[int, int] | None:
    """Where here the first batch is that is not before some place there; None: behind all. What is
    before ``from_lsn`` here is known to be before it."""
    numbers = [n for n in segments.from_lsn(from_lsn) if segments.holds_any(n, whose.streams)]
    low, high = 0, len(numbers)
    while low < high:  # the first segment whose last batch is not before it
        middle = (low + high) // 2
        last = _last_of(segments, numbers[middle], whose, from_lsn)
        if last is not None and is_before(last):
            low = middle + 1
        else:
            high = middle
    for number in numbers[low:]:
        found = _locate_in(segments, number, whose, is_before, from_lsn)
        if found is not None:
            return found
    return None


def _last_of(segments: SegmentSet, number: int, whose: _Whose, from_lsn: int) -> Copied | None:
    places = _places(segments, number, whose.streams, from_lsn)
    for lsn in reversed(places):
        rows = _copied(segments, number, lsn, whose)
        if rows:
            return rows[-1]
    return None


def _locate_in(
    segments: SegmentSet, number: int, whose: _Whose, is_before: IsBefore, from_lsn: int
) -> tuple[int, int] | None:
    places = _places(segments, number, whose.streams, from_lsn)
    low, high = 0, len(places)
    while low < high:
        middle = (low + high) // 2
        rows = _copied(segments, number, places[middle], whose)
        if rows and is_before(rows[-1]):
            low = middle + 1
        else:
            high = middle
    if low == len(places):
        return None
    for row in _copied(segments, number, places[low], whose):
        if not is_before(row):
            return places[low], row.index
    return places[low], 0


def _places(segments: SegmentSet, number: int, wanted: frozenset[int], from_lsn: int) -> list[int]:
    segment = segments.get(number)
    if segment is None:
        return []
    first, last = segments.range_of(number)
    return segment.index.places(wanted, max(first, from_lsn), last)


def _copied(segments: SegmentSet, number: int, lsn: int, whose: _Whose) -> list[Copied]:
    """What of a log is in a commit, in order; nothing where its row is damaged."""
    segment = segments.get(number)
    meta = decode_row(lsn, segment.row(lsn)) if segment is not None else None
    if meta is None:
        return []
    if lsn >= whose.own_until:
        # Of another strand that came with the same commit the order says nothing.
        return [
            c for c in meta.copied
            if c.origin == whose.origin and meta.batches[c.index].stream in whose.streams
        ]  # fmt: skip
    return [
        Copied(slot, whose.origin, lsn, slot, meta.append_time_ns)
        for slot, batch in enumerate(meta.batches)
        if batch.stream in whose.streams
    ]


def mend(segments: SegmentSet, stream: int, offset: int, count: int, payload: bytes) -> bool:
    """Write a batch's bytes, with the checksum that its commit names, where they lie; whether they
    were written. Only those beside the rows can be: a row is one piece with its own checksum."""
    for portion in segments.portions(stream):
        if not portion.first_offset <= offset < portion.next_offset:
            continue
        segment = segments.get(portion.segment)
        held = segment.index.streams.get(stream) if segment is not None else None
        if segment is None or held is None:
            return False
        i = held.at_offset(offset)
        if i == len(held) or held.bases[i] != offset:
            return False
        lsn, slot = held.lsns[i], held.slots[i]
        meta = decode_row(lsn, segment.row(lsn))
        if meta is None or meta.inline or slot >= len(meta.batches):
            return False
        batch = meta.batches[slot]
        same = (batch.base_offset, batch.records, batch.length, batch.checksum)
        if same != (offset, count, len(payload), zlib.crc32(payload)):
            return False
        segment.disk.write_values(payload, batch.position)
        return True
    return False
