"""What discovery keeps: peers, their addresses, and whose dials are in flight."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from meshmq.frames import PeerFacts

KNOWN = "known"
"""Source of the address of a link that was."""

WAITING, DIALLING, LINKED, OWN = "waiting", "dialling", "linked", "own"
FOREIGN = ("mesh-mismatch", "version-mismatch")
LISTED_RANK, KNOWN_RANK, MDNS_RANK, GOSSIP_RANK = range(4)

Claim = tuple[bytes, str, bytes]
"""Who is said to be at an address (nobody in particular if it is listed), by source and teller."""


class Lane:
    """Dials by what one source says: so many in flight, so many new ones in a while.

    Attributes:
        rank: of several sources that name an address, the lowest dials.
        queue: (due, address), a heap; what is no longer so in the address is stale.
        queued: entries of it that are not stale.
    """

    __slots__ = (
        "_interval_ns", "_spent_until_ns", "_window_ns", "in_flight", "queue", "queued", "rank",
        "room",
    )  # fmt: skip

    def __init__(self, rank: int, room: int, burst: int = 1, interval_ns: int = 0) -> None:
        self.rank = rank
        self.room = room
        self.in_flight = 0
        self.queue: list[tuple[int, str]] = []
        self.queued = 0
        self._interval_ns = interval_ns
        self._window_ns = (burst - 1) * interval_ns
        self._spent_until_ns = 0

    def free_ns(self) -> int:
        """When the next dial may begin, were there room."""
        return self._spent_until_ns - self._window_ns

    def spend(self, now_ns: int) -> None:
        """A dial begins."""
        self.in_flight += 1
        if self._interval_ns:
            self._spent_until_ns = max(self._spent_until_ns, now_ns) + self._interval_ns


class Address:
    """One address, whoever named it.

    Attributes:
        claims: the lane that each claim is dialled by.
        answered: instance of who did, the last time; one link of it, by any address, is enough.
        lane: whose dial is in flight.
        queue, queued_ns: in whose queue it is, and as due when.
    """

    __slots__ = (
        "answered", "claims", "due_ns", "failures", "lane", "queue", "queued_ns", "reason",
        "since_ns", "state", "text",
    )  # fmt: skip

    def __init__(self, text: str, now_ns: int) -> None:
        self.text = text
        self.claims: dict[Claim, Lane] = {}
        self.answered = b""
        self.state = WAITING
        self.reason = ""
        self.failures = 0
        self.due_ns = now_ns
        self.since_ns = 0
        self.lane: Lane | None = None
        self.queue: Lane | None = None
        self.queued_ns = 0


class Peer:
    """What is known of one instance.

    Attributes:
        sights: addresses by (source, teller).
        answered: addresses where it did, the newest last.
        links: address of each of its links, empty for one that it dialled.
    """

    __slots__ = ("answered", "facts", "links", "sights")

    def __init__(self, facts: PeerFacts) -> None:
        self.facts = facts
        self.sights: dict[tuple[str, bytes], tuple[str, ...]] = {}
        self.answered: OrderedDict[str, None] = OrderedDict()
        self.links: set[str] = set()

    def addresses(self) -> list[str]:
        """All that it may be at, once each."""
        said = (text for addresses in self.sights.values() for text in addresses)
        return list(dict.fromkeys([*said, *self.answered]))


def address_row(address: Address) -> dict[str, Any]:
    return {
        "address": address.text,
        "state": address.state,
        "failures": address.failures,
        "reason": address.reason or None,
    }
