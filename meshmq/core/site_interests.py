"""Transient topics between the nodes of a site: each record once to every node that wants it.

With other sites see core/link_live.py, which is the same with a narrower door.

Data: how many of our clients' subscriptions have each pattern, and which patterns cover the others
(those are what siblings are told); for each sibling what it has told us, and the subscription of it
that ``Delivery`` queues for.

Rules:
1. A sibling is told all patterns when its data link opens, then what changes. The session keeps the
   order, and a new one begins anew, so what it knows is what we last said.
2. What our own clients publish goes once to each sibling that has a pattern for it; what a sibling
   brought goes to our own clients only. So there is no loop, and two hops at most.
3. A sibling tells when all publishers at it know what we want (``noted``, core/transients.py): a
   subscription of our client is answered behind that.
4. A sibling gives credit in bytes; beyond that its queue drops the oldest, and what was dropped is
   told by topic, so that each subscriber there counts it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from meshmq import limits
from meshmq.core.delivery import Delivery, Subscription
from meshmq.core.sibling import Sibling
from meshmq.core.wants import Patterns
from meshmq.errors import BadFrame, InvalidName
from meshmq.frames import Body, Credit, Deliver, DeliverBatch, SiteInterests
from meshmq.names import check_pattern


class _Theirs:
    """What one sibling wants of us."""

    __slots__ = ("arriving", "patterns", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.patterns = Patterns()
        self.arriving: Patterns | None = None  # a whole of several frames


class Reach:
    """See the module's header.

    Attributes:
        sends: frames for data links; the owner takes them.
        lost: records that were dropped on their way here, as siblings have told.
        news: patterns that somebody at the site more wants (1), or less (-1); the owner takes them.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.wants = delivery.wants
        self._theirs: dict[bytes, _Theirs] = {}
        self._matching: dict[str, tuple[Subscription, ...]] = {}  # by topic, as it comes up
        self._owed: dict[bytes, tuple[int, int]] = {}  # credit to give back: bytes, records
        self.sends: list[tuple[bytes, Body]] = []
        self.lost = 0
        self.news: list[tuple[str, int]] = []

    def join(self, sibling: Sibling) -> None:
        """Its data link is open."""
        self._open(sibling)
        self._say(sibling.link, True, tuple(self.wants.told), ())

    def _open(self, sibling: Sibling) -> None:
        self._theirs[sibling.link] = _Theirs(self._delivery.open_node(sibling.link, sibling.origin))
        self._matching.clear()
        self._owed[sibling.link] = (0, 0)

    def leave(self, sibling: Sibling) -> None:
        """It is over; the owner has dropped what was subscribed over it."""
        theirs = self._theirs.pop(sibling.link, None)
        if theirs is not None:
            self._matching.clear()
            del self._owed[sibling.link]
            self.news += [(pattern, -1) for pattern in theirs.patterns]

    def patterns(self) -> Iterable[str]:
        """What the nodes of the site want, as far as ``news`` has told it."""
        own = (set(self.wants.told) - set(self.wants.added)) | set(self.wants.removed)
        return chain(own, *[theirs.patterns for theirs in self._theirs.values()])

    def _say(self, link: bytes, whole: bool, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
        most = limits.SITE_PATTERNS_PER_FRAME
        while True:
            more = len(add) > most or len(remove) > most
            # From the first frame on the other end knows that we say what is noted.
            frame = SiteInterests(whole, add[:most], remove[:most], more, 1 if whole else 0)
            self.sends.append((link, frame))
            add, remove = add[most:], remove[most:]
            if not more:
                return

    def tell(self) -> bool:
        """Tell siblings what has changed; whether something has."""
        wants = self.wants
        if not (wants.added or wants.removed):
            return False
        added, wants.added = tuple(wants.added), {}
        removed, wants.removed = tuple(wants.removed), {}
        self.news += [*[(pattern, 1) for pattern in added], *[(pattern, -1) for pattern in removed]]
        for link in self._theirs:
            self._say(link, False, added, removed)
        return True

    # -- what siblings want ---------------------------------------------------------------------

    def on_interests(self, link: bytes, frame: SiteInterests) -> tuple[str, ...]:
        """A sibling says what it wants; patterns of it that are new. Raises BadFrame."""
        theirs = self._theirs[link]
        try:
            for pattern in frame.add:
                check_pattern(pattern)
        except InvalidName as error:
            raise BadFrame(str(error)) from None
        patterns = theirs.patterns
        if frame.whole:
            patterns = theirs.arriving = theirs.arriving or Patterns()
        new = tuple([p for p in dict.fromkeys(frame.add) if p not in theirs.patterns])
        if not frame.whole:
            gone = [p for p in dict.fromkeys(frame.remove) if p in patterns and p not in frame.add]
            self.news += [*[(pattern, 1) for pattern in new], *[(pattern, -1) for pattern in gone]]
        for pattern in frame.remove:
            patterns.discard(pattern)
        for pattern in frame.add:
            patterns.add(pattern)
        if len(patterns) > limits.SITE_PATTERNS_MAX:
            raise BadFrame(f"more than {limits.SITE_PATTERNS_MAX} patterns of one node")
        if frame.whole and not frame.more:
            self.news += [*[(p, 1) for p in patterns], *[(p, -1) for p in theirs.patterns]]
            theirs.patterns, theirs.arriving = patterns, None
        self._matching.clear()
        return new

    def wanting(self, topic: str) -> tuple[Subscription, ...]:
        """Siblings that want a transient topic of our clients."""
        if not self._theirs:
            return ()
        found = self._matching.get(topic)
        if found is None:
            found = tuple(
                [t.subscription for t in self._theirs.values() if t.patterns.match(topic)]
            )
            if len(self._matching) >= limits.TOPICS_MAX:
                self._matching.clear()
            self._matching[topic] = found
        return found

    # -- what siblings bring --------------------------------------------------------------------

    def take(self, link: bytes, frame: Deliver) -> Iterable[tuple[DeliverBatch, bytes]]:
        """Batches of a delivery, each with its bytes; credit for them goes back."""
        payload = bytes(frame.payload)
        alone = len(frame.batches) == 1
        at = records = 0
        for row in frame.batches:
            data = payload if alone else payload[at : at + row.length]
            at += row.length
            if row.missing:
                self.lost += row.count
            else:
                records += row.count
            yield row, data
        if link not in self._owed:
            return
        size, count = self._owed[link]
        size, count = size + len(payload), count + records
        if 4 * size >= limits.SITE_CREDIT_BYTES or 4 * count >= limits.CREDIT_RECORDS_MAX:
            self.sends.append((link, Credit(0, size, count)))
            size = count = 0
        self._owed[link] = (size, count)
