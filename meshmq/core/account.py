"""What a member has told one owner of records, and what that owner has not answered."""

from __future__ import annotations

from collections import deque

from meshmq.core.held import Told
from meshmq.frames import ACK, EXTEND


class Account:
    """A member's account with one owner: the node it is at, or another one of its site.

    Attributes:
        origin: the owner's.
        name: for people.
        is_active: whether the owner has let the member in, in this session.
        is_joining: it was asked to.
        is_away: the node the member is at cannot reach the owner, or has not said that it can. What
            is settled is told all the same, so that it counts against the prefetch no longer; the
            node drops it, and it is told again.
        given_up_ns: when what is held of an owner that is away is given up.
        frame: number of the last frame.
        frames: those that are not answered, with their rows.
        ready: rows gathered, or to be told again.
        waiting: how many records ``ready`` settles that were not told before.
    """

    __slots__ = (
        "frame", "frames", "given_up_ns", "is_active", "is_away", "is_joining", "name",
        "origin", "ready", "waiting",
    )  # fmt: skip

    def __init__(self, origin: bytes) -> None:
        self.origin = origin
        self.name = ""
        self.is_active = False
        self.is_away = False
        self.is_joining = False
        self.given_up_ns = 0
        self.frame = 0
        self.frames: deque[tuple[int, list[Told]]] = deque()
        self.ready: deque[Told] = deque()
        self.waiting = 0

    @property
    def is_idle(self) -> bool:
        """Whether everything that was gathered is told and answered."""
        return not (self.frames or self.ready)

    def add(self, row: Told) -> None:
        """A row to tell."""
        if row.kind != EXTEND:
            self.waiting += row.count
        ready = self.ready
        if ready and self.frames and row.kind == ACK:  # gathered while it had no room
            last = ready[-1]
            if last.held is row.held and last.kind == ACK and last.first + last.count == row.first:
                ready[-1] = last._replace(count=last.count + row.count)
                return
        ready.append(row)

    def begin_again(self) -> None:
        """In a new session all that is not answered is told again."""
        again = [row for _, rows in self.frames for row in rows]
        self.ready.extendleft(reversed(again))
        self.frames.clear()
        self.frame = 0
        self.is_active = self.is_away = self.is_joining = False
        self.given_up_ns = 0
