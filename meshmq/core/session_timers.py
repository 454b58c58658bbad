"""When sessions have something to do: one heap for all that a node, or a program, has."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from meshmq.core.session import Session


class Timed(Protocol):
    """What a session hangs on; ``due_ns``: when it is in the heap, 0: not."""

    session: Session
    due_ns: int


T = TypeVar("T", bound=Timed)


class SessionTimers(Generic[T]):
    """See the module's header. ``by_name`` is the owner's, by link: who is there no longer is
    skipped."""

    def __init__(self, by_name: Mapping[bytes, T]) -> None:
        self._by_name = by_name
        self._due: list[tuple[int, bytes]] = []

    def tick(self, now_ns: int) -> list[tuple[bytes, T]]:
        """Tick the sessions that are due; return them."""
        due, ticked = self._due, []
        while due and due[0][0] <= now_ns:
            _, name = heapq.heappop(due)
            one = self._by_name.get(name)
            if one is not None:
                one.due_ns = 0
                one.session.tick(now_ns)
                ticked.append((name, one))
        return ticked

    def look(self, name: bytes, one: T) -> None:
        """A session has changed: see to it when it wants."""
        due = one.session.next_deadline_ns()
        if one.due_ns == 0 or due < one.due_ns:
            one.due_ns = due
            heapq.heappush(self._due, (due, name))

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        due = self._due
        while due and due[0][1] not in self._by_name:
            heapq.heappop(due)
        return due[0][0] if due else None
