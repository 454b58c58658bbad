"""Instances that may be on their way here: requests for what nobody serves wait for them a while.

Rules:
1. After its own start a node waits for programs that were there before.
2. Of a sibling that is new it waits to hear what is served there.
3. In a site it waits for programs that have served and are lost, with or without their node: they
   come to another one.
4. No wait is longer than STARTED_NS.
"""

from __future__ import annotations

from meshmq import limits


class Comeback:
    """See the module's header. What is told of one ends with ``is_over``."""

    def __init__(self) -> None:
        self._until_ns = -1  # known with the first tick; 0: it is over
        self._expected: dict[bytes, int] = {}  # siblings, by origin: until when
        self._lost: dict[str, int] = {}  # services: until when

    def is_due(self, name: str, now_ns: int) -> bool:
        """Whether somebody may still come who serves it."""
        if self._until_ns < 0 or now_ns < self._until_ns:
            return True
        if self._expected and any(now_ns < until for until in self._expected.values()):
            return True
        return bool(self._lost) and now_ns < self._lost.get(name, 0)

    def until_ns(self, name: str, now_ns: int) -> int:
        """When that is over, if nobody comes."""
        own_ns = self._until_ns if self._until_ns >= 0 else now_ns + limits.STARTED_NS
        return max(own_ns, *self._expected.values(), self._lost.get(name, 0))

    def expect(self, origin: bytes, now_ns: int) -> None:
        """A sibling is to tell what it serves."""
        self._expected[origin] = now_ns + limits.STARTED_NS

    def heard(self, origin: bytes) -> bool:
        """It has told, or is gone; whether it was waited for."""
        return self._expected.pop(origin, None) is not None

    def lost(self, name: str, now_ns: int) -> None:
        """Who served it is lost, and may come again."""
        self._lost.pop(name, None)  # the next one to be over is the first
        self._lost[name] = now_ns + limits.STARTED_NS

    def next_deadline_ns(self) -> int | None:
        """When ``is_over`` has something to say."""
        due = [*self._expected.values(), *list(self._lost.values())[:1]]
        if self._until_ns > 0:
            due.append(self._until_ns)
        return min(due, default=None)

    def is_over(self, now_ns: int) -> bool:
        """Whether some wait has ended since the last time. The first call is the start."""
        if self._until_ns < 0:
            self._until_ns = now_ns + limits.STARTED_NS
            return False
        found = False
        if self._until_ns and now_ns >= self._until_ns:
            self._until_ns = 0
            found = True
        for origin in [one for one, until in self._expected.items() if until <= now_ns]:
            del self._expected[origin]
            found = True
        while self._lost and (first := next(iter(self._lost.items())))[1] <= now_ns:
            del self._lost[first[0]]
            found = True
        return found
