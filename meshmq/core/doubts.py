"""Which of a node's records another node may have as well, for groups to say so.

A program that has lost its node sends what was not confirmed to another one, marked as moved. That
copy is known by its mark. This is about the other one: what the first node stored before it was
lost, and hands out when it is back, perhaps behind the copy.

Rules:
1. When a program's link is lost, what it published from DOUBT_NS before it was last heard may be at
   another node: until then confirmations had reached it.
2. When a node starts, the same holds for whatever it stored in the last DOUBT_NS of its log.
3. When a node has stood still, what it stores in the DOUBT_NS behind may have waited for it: who
   sent that is at another node by then, and that it has left is heard later.
4. It is said too often rather than too seldom. Not known are programs lost before the newest
   DOUBTS_MAX, and after a restart those that were lost longer than DOUBT_NS before it.
"""

from __future__ import annotations

from collections import deque

from meshmq import limits
from meshmq.core.log import StoredBatch


class Doubts:
    """See the module's header. Times are unix ns, as the log has them.

    Args:
        stored_ns: when the newest record of the log was stored, as the node started.

    Attributes:
        is_on: there are other nodes that a program may go to.
    """

    def __init__(self, stored_ns: int) -> None:
        self.is_on = False
        self._started_ns = stored_ns
        self._lost: dict[bytes, tuple[int, int]] = {}  # from when to when, by producer
        self._still: deque[tuple[int, int]] = deque(maxlen=limits.DOUBTS_STILL_MAX)

    def lose(self, producers: tuple[bytes, ...], heard_ns: int, wall_ns: int) -> None:
        """A program's link is lost; it published as these, and was last heard at ``heard_ns``."""
        for producer in producers:
            before = self._lost.pop(producer, None)
            start = heard_ns - limits.DOUBT_NS
            if before is not None and before[1] >= start:
                start = min(start, before[0])
            # What came and was not synced yet is stored a little later.
            self._lost[producer] = start, wall_ns + limits.DOUBT_NS
        while len(self._lost) > limits.DOUBTS_MAX:
            del self._lost[next(iter(self._lost))]

    def stood_still(self, wall_ns: int) -> None:
        """The node goes on, after it has done nothing for a while that it had to do."""
        self._still.append((wall_ns - limits.SECOND, wall_ns + limits.DOUBT_NS))

    def has(self, batch: StoredBatch) -> bool:
        """Whether another node may have it as well."""
        if not self.is_on:
            return False
        stored_ns = batch.append_time_ns
        if self._started_ns - limits.DOUBT_NS <= stored_ns <= self._started_ns:
            return True
        if self._still and any(start <= stored_ns <= end for start, end in self._still):
            return True
        lost = self._lost.get(batch.producer)
        return lost is not None and lost[0] <= stored_ns <= lost[1]
