"""Which records of a log are over the age or bytes that are kept of their topic.

Data: the streams that are still to be looked at, in this round.

Rules:
1. Of many streams a part is looked at by each call, so that commits do not wait long.
2. Streams that hold one stream of another site's log, one behind the other, are one: a bound is for
   all of them together, and the oldest go first.
3. An age counts from when a record was stored in this log.
"""

from __future__ import annotations

import time

from meshmq.core import retention
from meshmq.core.log import LogState
from meshmq.core.log_time import LogTime
from meshmq.shell.store_segments import SegmentSet

_PLAN_SECONDS = 0.01  # commits wait for so long at most; some 2,000 streams


class RetentionPlanner:
    """See the module's header.

    Args:
        state: of the log; what is planned is as it is then.
        segments: where its batches lie.
        ages: what time it was, for records of an age.
    """

    def __init__(self, state: LogState, segments: SegmentSet, ages: LogTime) -> None:
        self._state = state
        self._segments = segments
        self._ages = ages
        self._to_plan: list[list[int]] = []  # streams that are one

    def plan(self, now_ns: int) -> tuple[tuple[int, int], ...]:
        """(stream, new first offset) of those that there is time for; the next call goes on with
        the rest. ``now_ns``: of the log, unix ns."""
        trims: list[tuple[int, int]] = []
        until = time.perf_counter() + _PLAN_SECONDS
        self._to_plan = self._to_plan or self._round()
        while self._to_plan and time.perf_counter() < until:
            trims += self._plan(self._to_plan.pop(), now_ns)
        return tuple(trims)

    def _round(self) -> list[list[int]]:
        """All streams that have a bound, those that are one together."""
        found: list[list[int]] = []
        mirrored: dict[tuple[bytes, int], list[int]] = {}
        for alias, stream in reversed(self._state.streams.items()):
            topic = stream.topic
            if topic.retention_ns <= 0 and topic.retention_bytes <= 0:
                continue
            same = mirrored.setdefault((topic.origin, topic.source), []) if topic.origin else []
            if not same:
                found.append(same)
            same.append(alias)
        return found

    def _plan(self, same: list[int], now_ns: int) -> list[tuple[int, int]]:
        streams = self._state.streams
        same = [alias for alias in same if alias in streams]
        if not same:
            return []
        same.sort(key=lambda alias: (streams[alias].first_offset, streams[alias].next_offset))
        topic = streams[same[-1]].topic
        oldest_ns = self._ages.oldest_ns(now_ns, topic.retention_ns)
        found = retention.plan(
            [portion for alias in same for portion in self._segments.portions(alias)],
            streams[same[0]].first_offset,
            now_ns - oldest_ns if topic.retention_ns > 0 else 0,
            topic.retention_bytes,
            now_ns,
        )
        first = found.first_offset
        if found.boundary is not None:
            first = max(first, self._cut(found.boundary))
        trims = []
        for alias in same:
            stream, begin = streams[alias], first
            if topic.retention_ns > 0:
                begin = max(begin, self._first_young(alias, oldest_ns))
            begin = min(begin, stream.next_offset)
            if begin > stream.first_offset:
                trims.append((alias, begin))
        return trims

    def _cut(self, boundary: retention.Boundary) -> int:
        segment = self._segments.get(boundary.portion.segment)
        stream = boundary.portion.stream
        held = segment.index.streams.get(stream) if segment is not None else None
        return held.cut(boundary.keep_bytes) if held is not None else 0

    def _first_young(self, alias: int, oldest_ns: int) -> int:
        """First offset in the active segment that is not older than ``oldest_ns``; 0: no matter."""
        index = self._segments.active.index
        held = index.streams.get(alias)
        if held is None or index.times[0] >= oldest_ns:
            return 0
        i = held.at_place(index.at_time(oldest_ns), 0)
        if i == 0:
            return 0
        return held.bases[i] if i < len(held) else held.next_offset

    def is_due(self, now_ns: int, kept: dict[int, int], is_short: bool) -> bool:
        """Whether the active segment should be closed, so that what is old in it can go."""
        index = self._segments.active.index
        if index.bytes < retention.REFINE_BYTES_MIN:
            return False
        living = retention.living_bytes(index.info(self._segments.active.number), kept)
        if retention.worth_rewriting(index.bytes, living, is_short):
            return True  # its dead bytes can go once it is closed
        streams = self._state.streams
        bounds = [
            stream.topic.retention_ns
            for alias in index.streams
            if (stream := streams.get(alias)) and stream.topic.retention_ns > 0
        ]
        return retention.due_to_roll(index.times[0], index.bytes, min(bounds, default=0), now_ns)
