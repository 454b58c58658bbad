"""What is due when, for any number of records: 21 bytes each until a second before its time.

Data: ``_far`` holds packed rows by spans of SPAN seconds, ``_buckets`` those of the spans that have
come near, by the second they fall into; those of the seconds that have come are in ``_near``, a
heap. A second or a span of very many rows is taken apart LARGE rows at a time, so that nothing
waits long for it; those of one such second come when it is over, in the order they were added.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator

_ROW = struct.Struct("<QIQB")
SPAN_BITS = 12  # 68 minutes: a year has 7,700 of those
AHEAD_MS = 5_000  # a span is taken apart so long before it begins
LARGE = 8192  # rows

Row = tuple[int, int, int, int]


class Schedule:
    """(due in unix ms, stream, offset, priority) of records; what is no longer wanted comes all
    the same, its owner knows better."""

    def __init__(self) -> None:
        self._far: dict[int, bytearray] = {}
        self._spans: list[int] = []
        self._far_from = 0  # the first second that belongs into ``_far``
        self._buckets: dict[int, bytearray] = {}
        self._seconds: list[int] = []
        self._near: list[Row] = []
        self._near_until = 0  # the first second that is not in ``_near``

    def __len__(self) -> int:
        packed = sum([len(b) for held in (self._far, self._buckets) for b in held.values()])
        return len(self._near) + packed // _ROW.size

    def __iter__(self) -> Iterator[Row]:
        """All rows, in no order."""
        yield from self._near
        for held in (self._far, self._buckets):
            for rows in held.values():
                yield from _ROW.iter_unpack(bytes(rows))

    def add(self, due_ms: int, stream: int, offset: int, priority: int) -> None:
        self.add_run(due_ms, stream, offset, 1, priority)

    def add_run(self, due_ms: int, stream: int, first: int, count: int, priority: int) -> None:
        """Add records that follow each other."""
        second = max(0, due_ms) // 1000
        if second < self._near_until:
            for offset in range(first, first + count):
                heapq.heappush(self._near, (due_ms, stream, offset, priority))
            return
        pack, due = _ROW.pack, max(0, due_ms)
        rows = b"".join([pack(due, stream, at, priority) for at in range(first, first + count)])
        self._put(second, rows)

    def _put(self, second: int, rows: bytes) -> None:
        held, order, place = self._buckets, self._seconds, second
        if second >= self._far_from:
            held, order, place = self._far, self._spans, second >> SPAN_BITS
        bucket = held.get(place)
        if bucket is None:
            bucket = held[place] = bytearray()
            heapq.heappush(order, place)
        bucket += rows

    def next_ms(self) -> int | None:
        """When something is due, or to be taken apart, at the earliest."""
        if self._near:
            return self._near[0][0]
        if self._seconds:
            second = self._seconds[0]
            if len(self._buckets[second]) > LARGE * _ROW.size:
                return (second + 1) * 1000
            self._open(second)
            return self._near[0][0]
        if not self._spans:
            return None
        if len(self._far[self._spans[0]]) > LARGE * _ROW.size:
            return (self._spans[0] << SPAN_BITS) * 1000
        self._come_near((self._spans[0] << SPAN_BITS) * 1000)
        return self.next_ms()

    def _open(self, second: int) -> None:
        """Spread the bucket of the earliest second."""
        heapq.heappop(self._seconds)
        self._near += _ROW.iter_unpack(self._buckets.pop(second))
        heapq.heapify(self._near)
        self._near_until = max(self._near_until, second + 1)

    def _come_near(self, now_ms: int) -> None:
        """Take the earliest span apart, if it is time."""
        if not self._spans or (self._spans[0] << SPAN_BITS) * 1000 > now_ms + AHEAD_MS:
            return
        span = self._spans[0]
        rows = self._far[span]
        self._far_from = max(self._far_from, (span + 1) << SPAN_BITS)
        size = LARGE * _ROW.size
        for row in _ROW.iter_unpack(bytes(rows[:size])):
            second = row[0] // 1000
            if second < self._near_until:
                heapq.heappush(self._near, row)
            else:
                self._put(second, _ROW.pack(*row))
        del rows[:size]
        if not rows:
            heapq.heappop(self._spans)
            del self._far[span]

    def pop_due(self, now_ms: int, most: int) -> list[Row]:
        """Take at most ``most`` rows that are due, earliest first."""
        self._come_near(now_ms)
        found: list[Row] = []
        while len(found) < most:
            if self._seconds and (not self._near or self._seconds[0] * 1000 <= self._near[0][0]):
                second = self._seconds[0]
                is_large = len(self._buckets[second]) > LARGE * _ROW.size
                if (second + is_large) * 1000 > now_ms:
                    break
                if is_large:
                    size = (most - len(found)) * _ROW.size
                    found += _ROW.iter_unpack(bytes(self._buckets[second][:size]))
                    del self._buckets[second][:size]
                    if not self._buckets[second]:
                        del self._buckets[heapq.heappop(self._seconds)]
                else:
                    self._open(second)
                continue
            if not self._near or self._near[0][0] > now_ms:
                break
            found.append(heapq.heappop(self._near))
        return found

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]
