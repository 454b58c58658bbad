"""What is due when, for any number of records: 21 bytes each until a second before its time.

Data: ``_buckets`` holds packed rows by the second they fall into; those of the seconds that have
come are in ``_near``, a heap.
"""

from __future__ import annotations

import heapq
import struct

_ROW = struct.Struct("<QIQB")


class Schedule:
    """(due in unix ms, stream, offset, priority) of records; what is no longer wanted comes all
    the same, its owner knows better."""

    def __init__(self) -> None:
        self._buckets: dict[int, bytearray] = {}
        self._seconds: list[int] = []
        self._near: list[tuple[int, int, int, int]] = []
        self._near_until = 0  # the first second that is not in ``_near``

    def __len__(self) -> int:
        return len(self._near) + sum(len(b) for b in self._buckets.values()) // _ROW.size

    def add(self, due_ms: int, stream: int, offset: int, priority: int) -> None:
        second = max(0, due_ms) // 1000
        if second < self._near_until:
            heapq.heappush(self._near, (due_ms, stream, offset, priority))
            return
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = bytearray()
            heapq.heappush(self._seconds, second)
        bucket += _ROW.pack(max(0, due_ms), stream, offset, priority)

    def next_ms(self) -> int | None:
        """When something is due at the earliest."""
        if self._near:
            return self._near[0][0]
        if not self._seconds:
            return None
        self._open(self._seconds[0])
        return self._near[0][0]

    def _open(self, second: int) -> None:
        """Spread the bucket of the earliest second."""
        heapq.heappop(self._seconds)
        self._near += _ROW.iter_unpack(self._buckets.pop(second))
        heapq.heapify(self._near)
        self._near_until = max(self._near_until, second + 1)

    def pop_due(self, now_ms: int, most: int) -> list[tuple[int, int, int, int]]:
        """Take at most ``most`` rows that are due, earliest first."""
        found: list[tuple[int, int, int, int]] = []
        while len(found) < most:
            if self._seconds and (not self._near or self._seconds[0] * 1000 <= self._near[0][0]):
                if self._seconds[0] * 1000 > now_ms:
                    break
                self._open(self._seconds[0])
                continue
            if not self._near or self._near[0][0] > now_ms:
                break
            found.append(heapq.heappop(self._near))
        return found

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]
