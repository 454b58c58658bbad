"""What a node has allowed this program to say directly to others, and for how long.

A program that was told its node, and no other programs, talks directly to those alone whom the node
introduces, about what the node names, until that is over. It is shown to each no more of what it
wants than its permit covers, and a link over which anything else comes is ended.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from meshmq import limits
from meshmq.frames import PULL, SERVICE, Interest, Introduce


@dataclass(slots=True)
class Permit:
    """What may pass between this program and another one, until ``expires_ns``."""

    name: str
    patterns: frozenset[str]
    services: frozenset[str]
    expires_ns: int

    def covers(self, interest: Interest) -> bool:
        """Whether the other may know of an interest, and act on it."""
        if interest.kind == PULL:
            return False
        return interest.name in (self.services if interest.kind == SERVICE else self.patterns)


NO_PERMIT = Permit("", frozenset(), frozenset(), 0)


class Permits:
    """See the module's header; by the run of the other program."""

    def __init__(self) -> None:
        self.by_instance: dict[bytes, Permit] = {}

    def introduce(self, frame: Introduce, linked: Container[bytes], now_ns: int) -> list[bytes]:
        """A node says what is allowed now; whose permits give way to it, the frame's own if there
        is no room. Who is not ``linked`` gives way, the one told of longest ago first: of those who
        are gone nobody says so, and they may be many."""
        known = self.by_instance
        known.pop(frame.instance, None)
        over = []
        if len(known) >= limits.DIRECT_PEERS_MAX:
            over = [next((i for i in known if i not in linked), frame.instance)]
            if over == [frame.instance]:
                return over
            del known[over[0]]
        lifetime_ns = min(frame.lifetime_ns, limits.DAY)
        known[frame.instance] = Permit(
            frame.name, frozenset(frame.patterns), frozenset(frame.services), now_ns + lifetime_ns
        )
        return over

    def next_deadline_ns(self) -> int | None:
        """When ``expired`` has something to tell, or None."""
        return min([permit.expires_ns for permit in self.by_instance.values()], default=None)

    def expired(self, now_ns: int) -> list[bytes]:
        """Forget what is over; return whose it was."""
        over = [i for i, permit in self.by_instance.items() if permit.expires_ns <= now_ns]
        for instance in over:
            del self.by_instance[instance]
        return over
