"""Siblings that serve, as a node sees them, and nodes of other sites: all instances of a service
there as one that takes.

Data: an Outpost for each sibling whose data link is open, a Remote for each service it offers.

Rules:
1. A remote has the room that its sibling said it has, less what was handed to it since. When more
   waits there than there is room, it has none.
2. Where no instance is here, a sibling may have as many requests of ours as its instances take at
   a time, whoever has them: else who asks there would be served before who asks here, for ever.
3. A sibling never has more of ours than its share for one program: it would be refused.
"""

from __future__ import annotations

from meshmq import limits
from meshmq.core.instances import NO_ROOM, Asked, Service, Taker
from meshmq.frames import Offer

_SHARE_BYTES = limits.REQUESTS_SHARE_BYTES_MAX - 2 * limits.VALUE_BYTES_MAX
"""What is handed out below this is within the share, and what was cancelled and is not over."""


class Outpost:
    """A sibling, as far as it serves.

    Attributes:
        name: the node's.
        remotes: what it serves, by name of the service.
        count, bytes: requests of ours that it has.
        is_far: it is of another site.
    """

    __slots__ = ("bytes", "count", "is_far", "link", "name", "remotes")

    def __init__(self, link: bytes, name: str, is_far: bool = False) -> None:
        self.link = link
        self.name = name
        self.is_far = is_far
        self.remotes: dict[str, Remote] = {}
        self.count = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it has its share, see rule 3."""
        return self.bytes > _SHARE_BYTES or self.count >= limits.REQUESTS_PER_SESSION_MAX // 2


class Remote(Taker):
    """See the module's header.

    Attributes:
        concurrency: requests of ours that have room there, by what it said.
        places: what its instances take at a time.
    """

    __slots__ = ("is_far", "outpost", "places")

    is_remote = True

    def __init__(self, outpost: Outpost, service: Service) -> None:
        super().__init__(outpost.link, outpost.name, service)
        self.outpost = outpost
        self.is_far = outpost.is_far
        self.places = 0

    def follow(self, offer: Offer) -> None:
        """It has told its load: what it has of ours by now is in it."""
        self.places = offer.places
        self.concurrency = max(0, offer.free - offer.waiting + len(self.held))

    @property
    def rank(self) -> int:
        """Less with more room: halves are one step."""
        if self.draining or self.is_stuck or self.held_bytes >= limits.INSTANCE_BYTES_MAX:
            return -1
        spare = self.concurrency - len(self.held)
        if spare > 0:
            return max(0, NO_ROOM - spare.bit_length())
        if len(self.held) < self.places:
            return NO_ROOM + (-spare).bit_length()
        return -1

    @property
    def takes_own(self) -> bool:
        """Whether it may have what waits for it alone: it has queues of its own."""
        return not (self.draining or self.is_stuck)

    def hold(self, asked: Asked) -> None:
        """It is handed a request."""
        super().hold(asked)
        self.outpost.count += 1
        self.outpost.bytes += asked.weight

    def free(self, asked: Asked) -> None:
        """It has done with one."""
        super().free(asked)
        self.outpost.count -= 1
        self.outpost.bytes -= asked.weight
