"""Reads batches back: one stream through its index, several by going through the commits.

Rules:
1. Every batch's checksum is verified; one that fails is returned as damaged, never as data.
2. A commit whose row is damaged is known by the index only: its batches are returned as damaged.
3. A read is bounded in bytes and in commits looked at, and may so return nothing but a place to
   go on.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from meshmq.codec_log import BatchMeta, CommitMeta
from meshmq.core.log import LogState, StoredBatch
from meshmq.core.retention import live_bytes
from meshmq.shell.segment import Segment, decode_row
from meshmq.shell.store_disk import payload_start
from meshmq.shell.store_index import SegmentIndex
from meshmq.shell.store_segments import SegmentSet

COMMITS_PER_READ_MAX = 2000  # about 50 ms of work
_RUN_BYTES_MAX = 256 * 1024  # neighbouring small batches are fetched together up to this ...
_RUN_BATCH_BYTES_MAX = 16 * 1024  # ... larger ones alone, which saves a copy
_ROWS_KEPT = 4
_ROWS_KEPT_BATCHES_MIN = 16
_STOPS, _STOPS_OF_STREAMS = 64, 8


class ReadResult(NamedTuple):
    """Batches in log order, and where to go on; at ``end_lsn + 1`` the end was reached."""

    batches: tuple[StoredBatch, ...]
    next_lsn: int
    next_slot: int


class _Commit(NamedTuple):
    """One commit found: its meta, or None if damaged, and its row."""

    meta: CommitMeta | None
    row: bytes


Place = tuple[int, int]
"""lsn and slot."""


class Stops:
    """Where reads of streams of another log ended: in that log, and here. Who reads on begins
    there, and need not be searched for."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, frozenset[int]], list[tuple[Place, Place]]] = {}

    def clear(self) -> None:
        """What lies where is another now."""
        self._found.clear()

    def add(self, origin: bytes, streams: frozenset[int], there: Place, here: Place) -> None:
        """All of these streams that is before ``there`` lies before ``here``."""
        stops = self._found.pop((origin, streams), [])
        self._found[origin, streams] = stops  # the newest
        stops.append((there, here))
        if len(stops) > _STOPS_OF_STREAMS:
            del stops[0]
        if len(self._found) > _STOPS:
            del self._found[next(iter(self._found))]

    def last(self, origin: bytes, streams: frozenset[int], there: Place) -> tuple[Place, Place]:
        """The last that is not behind a place there; ((0, 0), (0, 0)): nothing is known."""
        stops = self._found.get((origin, streams), ())
        return max([s for s in stops if s[0] <= there], default=((0, 0), (0, 0)))


class LogReader:
    """Reads one log.

    Attributes:
        damaged_batches, damaged_commits: found by reads so far.
        stops: where reads of other logs ended (store_copies).
    """

    def __init__(self, segments: SegmentSet, state: LogState) -> None:
        self._segments = segments
        self._state = state
        self._kept: dict[int, _Commit] = {}
        self.stops = Stops()
        self.damaged_batches = 0
        self.damaged_commits = 0

    def read(
        self, streams: frozenset[int], start: tuple[str, int, int], end_lsn: int, bytes_max: int
    ) -> ReadResult:
        """Read as effects.ReadLog says. Streams that do not exist are skipped.

        ``end_lsn`` beyond the newest commit means the newest.
        """
        end_lsn = min(end_lsn, self._state.next_lsn - 1)
        kind, value, slot = start
        wanted = frozenset(s for s in streams if s in self._state.streams)
        page = _Page(end_lsn, max(bytes_max, 1))
        if not wanted:
            return page.end()
        if kind == "fresh":
            self.forget()
            kind, page.is_fresh = "offset", True
        if kind == "offset":
            if len(wanted) != 1:
                raise ValueError("a read from an offset is of exactly one stream")
            return self._read_one(next(iter(wanted)), page, 0, 0, value)
        if kind == "time":
            value, slot = self._segments.lsn_at_time(value), 0
        elif kind != "position":
            raise ValueError(f"start of unknown kind {kind!r}")
        first = self._segments.first_lsn()
        if value < first:
            value, slot = first, 0
        if value > end_lsn:
            return page.end(value, slot)
        if len(wanted) == 1:
            return self._read_one(next(iter(wanted)), page, value, slot, 0)
        return self._read_many(wanted, page, value, slot)

    def survey(
        self,
        floors: Sequence[tuple[int, int]],
        time_ns: int | None,
        place: tuple[int, int] | None = None,
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """(lsn of the time asked for or 0, per stream: its offset there and the bytes from it)."""
        lsn = 0 if time_ns is None else self._segments.lsn_at_time(time_ns)
        if time_ns is not None:
            place = (lsn, 0)
        rows = []
        for stream, floor in floors:
            state = self._state.streams.get(stream)
            if state is None:
                continue
            if place is not None:
                floor = self._offset_at(stream, place, state.next_offset)
            floor = max(floor, state.first_offset)
            size = sum([live_bytes(p, floor) for p in self._segments.portions(stream)])
            rows.append((stream, floor, size))
        return lsn, rows

    def _offset_at(self, stream: int, place: tuple[int, int], end: int) -> int:
        """First offset of ``stream`` at a place or later."""
        for portion in self._segments.portions(stream):
            if self._segments.range_of(portion.segment)[1] < place[0]:
                continue
            segment = self._segments.get(portion.segment)
            held = segment.index.streams.get(stream) if segment is not None else None
            if held is not None:
                i = held.at_place(*place)
                if i < len(held):
                    return held.bases[i]
        return end

    def forget(self) -> None:
        """A segment was rewritten: what is kept of its commits is no longer true."""
        self._kept.clear()
        self.stops.clear()

    # --- one stream ------------------------------------------------------------------------

    def _read_one(self, stream: int, page: _Page, lsn: int, slot: int, offset: int) -> ReadResult:
        """Batches of ``stream`` from a place and from an offset on, whichever is later."""
        offset = max(offset, self._state.streams[stream].first_offset)
        for portion in self._segments.portions(stream):
            _, last = self._segments.range_of(portion.segment)
            if portion.next_offset <= offset or last < lsn:
                continue
            segment = self._segments.get(portion.segment)
            if segment is None:
                self._add_lost_segment(portion.segment, (stream,), page, lsn, slot, offset)
                continue
            held = segment.index.streams.get(stream)
            if held is None:  # the index was built by a scan, and every row of the stream is lost
                continue
            i = max(held.at_offset(offset), held.at_place(lsn, slot))
            if page.is_fresh:
                segment.forget_pages()
            rows = _Rows(segment)
            try:
                while i < len(held):
                    at = held.lsns[i]
                    if at > page.end_lsn:
                        return page.end()
                    if page.full(held.size_of(i)):
                        return page.stop(at, held.slots[i])
                    found = self._commit(segment, rows, at)
                    slots = []
                    while i < len(held) and held.lsns[i] == at and page.take(held.size_of(i)):
                        slots.append(held.slots[i])
                        i += 1
                    if found.meta is None:
                        page.batches += self._lost(segment.index, at, (stream,), offset, slots)
                        continue
                    metas = [found.meta.batches[s] for s in slots]
                    page.batches += self._stored(segment, found, slots, metas)
            finally:
                rows.close()
        return page.end()

    # --- several streams -------------------------------------------------------------------

    def _read_many(self, wanted: frozenset[int], page: _Page, lsn: int, slot: int) -> ReadResult:
        for number in self._segments.from_lsn(lsn):
            first, last = self._segments.range_of(number)
            if first > page.end_lsn:
                break
            if last < lsn or not self._segments.holds_any(number, wanted):
                continue
            segment = self._segments.get(number)
            if segment is None:
                self._add_lost_segment(number, sorted(wanted), page, lsn, slot, 0)
                continue
            rows = _Rows(segment)
            try:
                begin, end = max(first, lsn), min(last, page.end_lsn)
                places: Sequence[int] = range(begin, end + 1)
                if segment.is_rewritten:
                    places = segment.index.places(wanted, begin, end)
                for at in places:
                    if page.over():
                        return page.stop(at, slot if at == lsn else 0)
                    stopped = self._read_commit(
                        segment, rows, at, slot if at == lsn else 0, wanted, page
                    )
                    if stopped is not None:
                        return page.stop(at, stopped)
            finally:
                rows.close()
        return page.end()

    def _read_commit(
        self,
        segment: Segment,
        rows: _Rows,
        lsn: int,
        from_slot: int,
        wanted: frozenset[int],
        page: _Page,
    ) -> int | None:
        """Add what is wanted of one commit; return the slot where the page was full, or None."""
        page.looked()
        found = self._commit(segment, rows, lsn)
        if found.meta is None:
            lost = self._lost(segment.index, lsn, sorted(wanted), 0, None)
            page.batches += [batch for batch in lost if batch.slot >= from_slot]
            return None
        streams = self._state.streams
        slots: list[int] = []
        metas: list[BatchMeta] = []
        stopped = None
        for slot, meta in enumerate(found.meta.batches):
            if meta.stream not in wanted or slot < from_slot:
                continue
            if meta.base_offset + meta.records <= streams[meta.stream].first_offset:
                continue
            if not page.take(meta.length):
                stopped = slot
                break
            slots.append(slot)
            metas.append(meta)
        page.batches += self._stored(segment, found, slots, metas)
        return stopped

    # --- commits and bytes -----------------------------------------------------------------

    def _commit(self, segment: Segment, rows: _Rows, lsn: int) -> _Commit:
        found = self._kept.get(lsn)
        if found is not None:
            return found
        row = rows.get(lsn)
        meta = decode_row(lsn, row)
        found = _Commit(meta, row if meta is not None and meta.inline and row else b"")
        if meta is None:
            self.damaged_commits += 1
        elif len(meta.batches) >= _ROWS_KEPT_BATCHES_MIN:
            # Whoever reads a large commit bit by bit comes back to it soon.
            if len(self._kept) >= _ROWS_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[lsn] = found
        return found

    def _stored(
        self, segment: Segment, found: _Commit, slots: Sequence[int], metas: Sequence[BatchMeta]
    ) -> list[StoredBatch]:
        assert found.meta is not None
        lsn, time_ns = found.meta.lsn, found.meta.append_time_ns
        if found.meta.inline:
            start = payload_start(found.row)
            payloads: Iterator[bytes] = (
                found.row[start + m.position : start + m.position + m.length] for m in metas
            )
        else:
            payloads = _from_values(segment, metas)
        batches = []
        places = {c.index: (c.lsn, c.slot, c.append_time_ns) for c in found.meta.copied}
        for slot, meta, payload in zip(slots, metas, payloads, strict=True):
            damaged = len(payload) != meta.length or zlib.crc32(payload) != meta.checksum
            if damaged:
                self.damaged_batches += 1
                payload = b""
            batches.append(
                StoredBatch(
                    meta.stream,
                    meta.base_offset,
                    meta.records,
                    payload,
                    meta.checksum,
                    time_ns,
                    lsn,
                    slot,
                    damaged,
                    meta.producer,
                    meta.first,
                    meta.moved,
                    places.get(slot),
                )
            )
        return batches

    def _lost(
        self,
        index: SegmentIndex,
        lsn: int,
        streams: Sequence[int],
        offset: int,
        slots: Sequence[int] | None,
    ) -> list[StoredBatch]:
        """What the index knows of the batches of a commit whose row is damaged, in slot order."""
        lost = []
        for stream in streams:
            held = index.streams.get(stream)
            if held is None:
                continue
            kept_from = max(offset, self._state.streams[stream].first_offset)
            i = held.at_place(lsn, 0)
            while i < len(held) and held.lsns[i] == lsn:
                base, end, slot = held.bases[i], held.end_of(i), held.slots[i]
                if end > kept_from and (slots is None or slot in slots):
                    lost.append(
                        StoredBatch(
                            stream, base, end - base, b"", 0, index.time_of(lsn), lsn, slot, True
                        )
                    )
                i += 1
        self.damaged_batches += len(lost)
        lost.sort(key=lambda batch: batch.slot)
        return lost

    def _add_lost_segment(
        self,
        number: int,
        streams: Sequence[int],
        page: _Page,
        lsn: int,
        slot: int,
        offset: int,
    ) -> None:
        """Report what a segment whose file is damaged held: one damaged batch a stream.

        A reader that was in the middle of it is not told twice; it sees the gap in the offsets.
        """
        info = self._segments.closed[number]
        if (lsn, slot) > (info.first_lsn, 0):
            return
        for stream in streams:
            portion = info.portions.get(stream)
            if portion is None:
                continue
            kept_from = max(offset, self._state.streams[stream].first_offset, portion.first_offset)
            count = portion.next_offset - kept_from
            if count > 0:
                self.damaged_batches += 1
                page.batches.append(
                    StoredBatch(
                        stream,
                        kept_from,
                        count,
                        b"",
                        0,
                        info.first_time_ns,
                        info.first_lsn,
                        0,
                        True,
                    )
                )


class _Page:
    """What one read has gathered, and whether it may go on."""

    def __init__(self, end_lsn: int, bytes_max: int) -> None:
        self.end_lsn = end_lsn
        self.batches: list[StoredBatch] = []
        self.is_fresh = False
        self._bytes_left = bytes_max
        self._bytes_max = bytes_max
        self._commits_left = COMMITS_PER_READ_MAX

    def take(self, size: int) -> bool:
        """Whether a batch of ``size`` bytes still fits; counts it if so. The first always fits."""
        if self._bytes_left < size and self._bytes_left < self._bytes_max:
            return False
        self._bytes_left -= size
        return True

    def full(self, size: int) -> bool:
        """Whether no other commit may be looked at for a batch of ``size`` bytes."""
        self._commits_left -= 1
        full = self._bytes_left < size and self._bytes_left < self._bytes_max
        return full or self._commits_left < 0

    def looked(self) -> None:
        self._commits_left -= 1

    def over(self) -> bool:
        return self._commits_left <= 0 or self._bytes_left <= 0

    def stop(self, lsn: int, slot: int) -> ReadResult:
        return ReadResult(tuple(self.batches), lsn, slot)

    def end(self, lsn: int = 0, slot: int = 0) -> ReadResult:
        """The end was reached; a place that lies behind it stays where it is."""
        if lsn <= self.end_lsn:
            lsn, slot = self.end_lsn + 1, 0
        return ReadResult(tuple(self.batches), lsn, slot)


class _Rows:
    """Rows of one segment; from the second neighbour on through one running query."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._last = -2
        self._running: Generator[tuple[int, bytes], None, None] | None = None

    def get(self, lsn: int) -> bytes | None:
        """The row of commit ``lsn``; None if it cannot be had."""
        neighbour = lsn == self._last + 1
        self._last = lsn
        if not neighbour:
            self.close()
            return self._segment.row(lsn)
        try:
            if self._running is None:
                self._running = self._segment.rows(lsn, self._segment.index.last_lsn)
            found = next(self._running, None)
        except sqlite3.DatabaseError:
            found = None
        if found is None or found[0] != lsn:
            self.close()
            return self._segment.row(lsn)
        return found[1]

    def close(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


def _from_values(segment: Segment, metas: Sequence[BatchMeta]) -> Iterator[bytes]:
    """The bytes of each of ``metas``; what cannot be read is short."""
    i = 0
    while i < len(metas):
        position = metas[i].position
        end = position + metas[i].length
        j = i + 1
        while (
            j < len(metas)
            and metas[j].position == end
            and metas[j].length < _RUN_BATCH_BYTES_MAX
            and end + metas[j].length - position <= _RUN_BYTES_MAX
        ):
            end += metas[j].length
            j += 1
        try:
            data = segment.disk.read_values(end - position, position)
        except OSError:
            data = b""
        if j == i + 1:
            yield data
        else:
            for meta in metas[i:j]:
                at = meta.position - position
                yield data[at : at + meta.length]
        i = j
