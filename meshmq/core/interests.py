"""What a program is interested in, as it tells others: a versioned set, and who has noted it.

A change is sent to every linked program; who joins later gets all there is. What the program asked
for is answered once all who were linked then have noted it, are gone, or NOTED_NS are over: from
then on nothing is sent past it.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshmq import limits
from meshmq.core.permits import Permit
from meshmq.errors import LimitReached
from meshmq.frames import Body, Interest, Interests


@dataclass(slots=True)
class _Waiting:
    """An answer for the program, and whom it waits for."""

    answer: Body
    version: int
    links: set[bytes]
    due_ns: int


class Wishes:
    """See the module's header.

    Attributes:
        version: counts changes.
        by_number: all there are.
        answers: for the program, in the order they may be given.
        node: the one that the program is at, or empty.
    """

    def __init__(self) -> None:
        self.version = 0
        self.node = b""
        self.by_number: dict[int, Interest] = {}
        self.answers: list[Body] = []
        self._waiting: list[_Waiting] = []

    def add(self, interest: Interest, answer: Body, links: set[bytes], now_ns: int) -> Interests:
        """One more; the frame for those at ``links``. Raises LimitReached."""
        if len(self.by_number) >= limits.INTERESTS_MAX:
            raise LimitReached(
                f"a program subscribes, pulls and serves at most {limits.INTERESTS_MAX} times"
            )
        self.by_number[interest.number] = interest
        self._wait(answer, links, now_ns)
        return Interests(self.version, False, (interest,), (), self.node)

    def remove(
        self, number: int, answer: Body | None, links: set[bytes], now_ns: int
    ) -> Interests | None:
        """One less; the frame for those at ``links``."""
        if self.by_number.pop(number, None) is None:
            return None
        self._wait(answer, links, now_ns)
        return Interests(self.version, False, (), (number,), self.node)

    def whole(self) -> Interests:
        """The frame for who joins."""
        return Interests(self.version, True, tuple(self.by_number.values()), (), self.node)

    def permitted(self, permit: Permit, *, whole: bool) -> Interests:
        """The frame for who may know of a part only: when it joins, or more is permitted."""
        shown = tuple([i for i in self.by_number.values() if permit.covers(i)])
        return Interests(self.version, whole, shown, (), self.node)

    def moved(self, node: bytes) -> Interests:
        """We are at this node now, or at none; the frame for those who are linked."""
        self.node = node
        return Interests(self.version, False, (), (), node)

    def _wait(self, answer: Body | None, links: set[bytes], now_ns: int) -> None:
        self.version += 1
        if answer is not None:
            due_ns = now_ns + limits.NOTED_NS
            self._waiting.append(_Waiting(answer, self.version, links, due_ns))
            self._look(now_ns)

    def on_noted(self, link: bytes, version: int, now_ns: int) -> None:
        """A program knows of everything up to ``version``."""
        if self._waiting:
            for waiting in self._waiting:
                if waiting.version <= version:
                    waiting.links.discard(link)
            self._look(now_ns)

    def leave(self, link: bytes, now_ns: int) -> None:
        """A program is gone."""
        for waiting in self._waiting:
            waiting.links.discard(link)
        self._look(now_ns)

    def _look(self, now_ns: int) -> None:
        if any(not w.links or w.due_ns <= now_ns for w in self._waiting):
            left = []
            for waiting in self._waiting:
                if waiting.links and waiting.due_ns > now_ns:
                    left.append(waiting)
                else:
                    self.answers.append(waiting.answer)
            self._waiting = left

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return self._waiting[0].due_ns if self._waiting else None

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self._look(now_ns)
