"""Which records a subscription has had already from another node's log.

A batch that was unconfirmed when its node was lost is sent again to another one, and perhaps both
have it. The second one names the first, and the sequence it had there: so a record is known by
topic, producer, the first node it was sent to, and its sequence there.

Rules:
1. Of a record that came from one log, the copy in another one is dropped, whichever comes first.
2. What is in one log under its own name is never dropped for itself: a topic that is made anew is
   numbered anew.
3. What is too long ago to be known comes again: runs of sequences are kept, the newest ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict

from meshmq import limits
from meshmq.frames_moving import Moved, Published, moved_of


class Dedup:
    """See the module's header."""

    def __init__(self) -> None:
        # By topic, producer and first node: of each log that it came from, runs in order.
        self._seen: OrderedDict[tuple[str, bytes, bytes], dict[bytes, list[tuple[int, int]]]] = (
            OrderedDict()
        )

    def take(self, topic: str, origin: bytes, published: Published, count: int) -> int:
        """A batch of ``count`` records comes from the log ``origin``; return how many of its
        leading ones are copies of what came from another log."""
        first_sent = Moved(origin, published.first)
        if published.moved:
            first_sent = moved_of(published.moved)
        key = topic, published.producer, first_sent.origin
        logs = self._seen.get(key)
        if logs is None:
            logs = self._seen[key] = {}
            if len(self._seen) > limits.DEDUP_PRODUCERS_MAX:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        first, end = first_sent.first, first_sent.first + count
        at = first
        if len(logs) > (origin in logs) or published.moved:
            found = [runs for log, runs in logs.items() if log != origin or published.moved]
            while at < end:
                further = max([_covered(runs, at) for runs in found], default=at)
                if further == at:
                    break
                at = further
        _add(logs.setdefault(origin, []), first, end)
        return min(at, end) - first


def _covered(runs: list[tuple[int, int]], at: int) -> int:
    """How far a run goes that has the sequence ``at``; else ``at``."""
    i = bisect_left(runs, (at + 1,)) - 1
    return max(at, runs[i][1]) if i >= 0 else at


def _add(runs: list[tuple[int, int]], first: int, end: int) -> None:
    """Note sequences from ``first`` to before ``end``."""
    if runs and runs[-1][1] == first:
        runs[-1] = (runs[-1][0], end)
        return
    i = bisect_left(runs, (first,))
    if i and runs[i - 1][1] >= first:
        i -= 1
        first = runs[i][0]
    j = i
    while j < len(runs) and runs[j][0] <= end:
        end = max(end, runs[j][1])
        j += 1
    runs[i:j] = [(first, end)]
    if len(runs) > limits.DEDUP_RUNS_MAX:
        del runs[0]
