"""What linked programs want of this one; each interest is put where it belongs.

An interest that is known already is left as it is: the credit that it was given counts. What a
program wants beyond what we know to be allowed is kept for when that comes: it may have heard of it
before us.
"""

from __future__ import annotations

from dataclasses import replace

from meshmq import limits
from meshmq.core.outlets import Outlets
from meshmq.core.pushes import Pushes
from meshmq.core.services import Services
from meshmq.errors import InvalidName, LimitReached
from meshmq.frames import (
    PULL,
    SERVICE,
    SUBSCRIPTION,
    Credit,
    Interest,
    Interests,
    Noted,
    Serve,
    Unserve,
)
from meshmq.names import check_pattern


class Demand:
    """See the module's header."""

    def __init__(self, outlets: Outlets, pushes: Pushes, services: Services) -> None:
        self._outlets = outlets
        self._pushes = pushes
        self._services = services
        self._known: dict[bytes, dict[int, Interest]] = {}  # by link and the program's own number
        self._early: dict[bytes, list[Interests]] = {}
        self._early_credits: dict[bytes, list[Credit]] = {}

    def join(self, link: bytes) -> None:
        """A program is linked; it wants nothing yet."""
        self._known[link] = {}

    def leave(self, link: bytes) -> None:
        """It is gone; those who serve what it wants are told by others."""
        self._known.pop(link, None)
        self._early.pop(link, None)
        self._early_credits.pop(link, None)

    def is_early(self, link: bytes, frame: Interests, is_allowed: bool) -> bool:
        """Whether a frame, or one before it, is kept until more is allowed. Raises LimitReached."""
        if is_allowed and link not in self._early:
            return False
        early = self._early.setdefault(link, [])
        if len(early) >= limits.EARLY_INTERESTS_MAX:
            raise LimitReached("it wants what the node has not allowed, again and again")
        early.append(frame)
        return True

    def drop_early(self, link: bytes, numbers: tuple[int, ...]) -> bool:
        """It wants these no longer; whether that changes anything of what is kept."""
        early = self._early.get(link, [])
        if link in self._early_credits:  # wanted again, they get credit anew
            kept = self._early_credits[link]
            self._early_credits[link] = [c for c in kept if c.subscription not in numbers]
        has_dropped = False
        for i, frame in enumerate(early):
            left = tuple([interest for interest in frame.add if interest.number not in numbers])
            if len(left) < len(frame.add):
                early[i] = replace(frame, add=left)
                has_dropped = True
        return has_dropped

    def keep_credit(self, link: bytes, credit: Credit) -> None:
        """Credit came for what is not known; it may be for an interest that is kept."""
        kept = self._early_credits.setdefault(link, [])
        if link in self._early and len(kept) < limits.INTERESTS_MAX:
            kept.append(credit)

    def take_early(self, link: bytes) -> tuple[list[Interests], list[Credit]]:
        """What was kept, to be taken in this order: more is allowed now."""
        return self._early.pop(link, []), self._early_credits.pop(link, [])

    def known(self, link: bytes) -> list[Interest]:
        """All that it wants, as far as we know."""
        return list(self._known[link].values())

    def take(self, link: bytes, name: str, frame: Interests, now_ns: int) -> list[str]:
        """Take what a program called ``name`` wants; the patterns that are new. Raises
        LimitReached."""
        known = self._known[link]
        for number in list(known) if frame.whole else frame.remove:
            self.lose(link, number, now_ns)
        patterns: list[str] = []
        for interest in frame.add:
            number, kind, pattern, concurrency = interest
            if len(known) >= limits.INTERESTS_MAX:
                raise LimitReached(f"more than {limits.INTERESTS_MAX} interests")
            if known.get(number) == interest:
                continue
            if number in known:
                self.lose(link, number, now_ns)
            if kind == SERVICE:
                serve = Serve(number, pattern, concurrency)
                if self._services.serve(link, name, serve, now_ns).code:
                    continue
            else:
                try:
                    check_pattern(pattern)
                except InvalidName:
                    continue
                if kind == PULL:
                    self._pushes.want(link, number, pattern)
                elif kind == SUBSCRIPTION:
                    self._outlets.want(link, number, pattern)
                    patterns.append(pattern)
                else:
                    continue  # of a later version
            known[number] = interest
        return patterns

    def lose(self, link: bytes, number: int, now_ns: int) -> None:
        """It wants this no longer."""
        interest = self._known[link].pop(number, None)
        kind = interest.kind if interest is not None else -1
        if kind == SERVICE:
            self._services.unserve(link, Unserve(number), now_ns)
        elif kind == PULL:
            self._pushes.unwant(link, number)
        elif kind == SUBSCRIPTION:
            self._outlets.unwant(link, number)

    def noted(self, frame: Interests, patterns: list[str]) -> list[Noted]:
        """The answer, with where the topics of new patterns go on."""
        rows = self._outlets.next_numbers(patterns) if patterns else []
        most = limits.FRAME_BATCHES_MAX
        found = []
        while len(rows) > most:
            part, rows = tuple(rows[:most]), rows[most:]
            found.append(Noted(frame.version, frame.whole, part, True))
        found.append(Noted(frame.version, frame.whole, tuple(rows)))
        return found
