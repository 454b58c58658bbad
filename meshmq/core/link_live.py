"""Transient topics between sites: each record over one link, once, to a site that wants it now.

Data: of each link of ours with ``live``, what of that our site wants; of each far node what its
site has told us that it wants, and the subscription of it that ``Delivery`` queues for.

Rules:
1. What our site wants is what its nodes tell each other (core/site_interests.py), as far as
   ``live`` of the link covers it. Every node of ours that has a data link tells that to the far
   node, all of it, then what changes.
2. Of the nodes of a far site that want a topic one gets what our own clients publish: the one that
   got the latest, as long as it wants it, else the first that was linked. It hands it on inside its
   site. So nothing is there twice, and what one publisher sends keeps its order; when that node is
   gone another one has the rest.
3. What another node brought, of our site or of a far one, goes to no far node. So a record crosses
   one link at most, from the site where it was published, and there is no loop in whatever shape.
4. What comes goes to our own clients and to siblings that want it, with the name of its site.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshmq import limits
from meshmq.core.delivery import Delivery, Takers
from meshmq.core.link_wish import LinkWish
from meshmq.core.sibling import Sibling
from meshmq.core.site_interests import Reach
from meshmq.core.wants import Wants
from meshmq.errors import BadFrame, InvalidName
from meshmq.frames import Body, Deliver, DeliverBatch, SiteInterests
from meshmq.names import check_topic, matches, meet


class _Wished:
    """What comes by one link of ours.

    Attributes:
        live: patterns of the configuration.
        wants: what of that our site wants.
        is_wide: that is more than can be told: ``live`` is told instead.
        received, lost: records that came, and that were dropped on their way.
    """

    __slots__ = ("is_wide", "live", "lost", "received", "wants")

    def __init__(self, live: tuple[str, ...]) -> None:
        self.live = live
        self.wants = Wants()
        self.is_wide = False
        self.received = self.lost = 0

    def note(self, pattern: str, change: int) -> None:
        """Somebody at our site more wants it, or less."""
        for found in filter(None, [meet(pattern, live) for live in self.live]):
            if change > 0:
                self.wants.add(found)
            else:
                self.wants.remove(found)

    def whole(self) -> tuple[str, ...]:
        """All that is told."""
        return self.live if self.is_wide else tuple(self.wants.told)


class LinkLive(Reach):
    """See the module's header.

    Args:
        site: of the node's own site: what its nodes want.
    """

    def __init__(self, delivery: Delivery, site: Reach) -> None:
        super().__init__(delivery)
        self._of_site = site
        self._wished: dict[str, _Wished] = {}  # by site
        self._far: dict[bytes, Sibling] = {}  # by data link
        self._way: dict[str, bytes] = {}  # by site: who got the latest

    def set_wishes(self, wishes: tuple[LinkWish, ...]) -> None:
        """What is to come of other sites from now on."""
        self._follow()
        live = {wish.to: wish.live for wish in wishes if wish.live}
        before, self._wished = self._wished, {}
        for to, patterns in live.items():
            had = before.pop(to, None)
            if had is not None and had.live == patterns:
                self._wished[to] = had
                continue
            wished = self._wished[to] = _Wished(patterns)
            for pattern in self._of_site.patterns():
                wished.note(pattern, 1)
            self._say_whole(to)
        for to in before:
            self._say_whole(to)

    def _say_whole(self, to: str) -> None:
        wished = self._wished.get(to)
        patterns: tuple[str, ...] = ()
        if wished is not None:
            wished.is_wide = len(wished.wants.told) > limits.SITE_PATTERNS_MAX
            wished.wants.added, wished.wants.removed = {}, {}
            patterns = wished.whole()
        for link, far in self._far.items():
            if far.site == to:
                self._say(link, True, patterns, ())

    # -- who is there -----------------------------------------------------------------------------

    def join(self, sibling: Sibling) -> None:
        """The data link with a node of another site is open."""
        self.tell()  # those that were there before
        self._open(sibling)
        self._far[sibling.link] = sibling
        if sibling.site in self._wished:
            self._say(sibling.link, True, self._wished[sibling.site].whole(), ())

    def leave(self, sibling: Sibling) -> None:
        super().leave(sibling)
        self._far.pop(sibling.link, None)
        self.news = []

    # -- what our site wants ----------------------------------------------------------------------

    def _follow(self) -> None:
        news, self._of_site.news = self._of_site.news, []
        for wished in self._wished.values():
            for pattern, change in news:
                wished.note(pattern, change)

    def tell(self) -> bool:
        """Tell far nodes what has changed of what our site wants; whether something has."""
        self._follow()
        changed = {to: w for to, w in self._wished.items() if w.wants.added or w.wants.removed}
        for to, wished in changed.items():
            self._tell_of(to, wished)
        return bool(changed)

    def _tell_of(self, to: str, wished: _Wished) -> None:
        wants = wished.wants
        if wished.is_wide or len(wants.told) > limits.SITE_PATTERNS_MAX:
            was_wide = wished.is_wide
            wished.is_wide = len(wants.told) > limits.SITE_PATTERNS_MAX
            wants.added, wants.removed = {}, {}
            if wished.is_wide != was_wide:
                self._say_whole(to)
            return
        added, wants.added = tuple(wants.added), {}
        removed, wants.removed = tuple(wants.removed), {}
        for link, far in self._far.items():
            if far.site == to:
                self._say(link, False, added, removed)

    def on_interests(self, link: bytes, frame: SiteInterests) -> tuple[str, ...]:
        """A far site says what it wants; patterns of it that are new. Raises BadFrame."""
        new = super().on_interests(link, frame)
        self.news = []  # what a site wants of us is nothing that we want
        return new

    # -- what far sites want ----------------------------------------------------------------------

    def wanting(self, topic: str) -> Takers:
        """Rule 2: who of the far nodes gets a transient topic of our clients."""
        if not self._theirs:
            return ()
        found = self._matching.get(topic)
        if found is None:
            found = self._matching[topic] = self._choose(topic)
            if len(self._matching) > limits.TOPICS_MAX:
                self._matching.clear()
        return found

    def _choose(self, topic: str) -> Takers:
        chosen: dict[str, bytes] = {}
        for link, theirs in self._theirs.items():
            site = self._far[link].site
            is_first = site not in chosen or self._way.get(site) == link
            if is_first and theirs.patterns.match(topic):
                chosen[site] = link
        self._way |= chosen
        return tuple([self._theirs[link].subscription for link in chosen.values()])

    # -- what far nodes bring ---------------------------------------------------------------------

    def take(self, link: bytes, frame: Deliver) -> Iterable[tuple[DeliverBatch, bytes]]:
        """Batches of a delivery that are wished, with their site. Raises BadFrame."""
        site = self._far[link].site
        wished = self._wished.get(site)
        for row, data in super().take(link, frame):
            try:
                check_topic(row.topic)
            except InvalidName as error:
                raise BadFrame(str(error)) from None
            if row.lsn:
                raise BadFrame("what is stored comes as copies, not live")
            if wished is None or not any(matches(pattern, row.topic) for pattern in wished.live):
                continue  # it was on its way when that changed
            wished.received += 0 if row.missing else row.count
            wished.lost += row.count if row.missing else 0
            yield row._replace(site=site), data

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames for data links, since the last time; what has changed is among them."""
        self.tell()
        sends, self.sends = self.sends, []
        return sends

    def shown(self, link: dict[str, Any]) -> dict[str, Any]:
        """A link as ``status`` shows it, with what comes live by it."""
        wished = self._wished.get(link["to"], _Wished(()))
        rows = {"live": list(wished.live), "live_received": wished.received,
                "live_lost": wished.lost}  # fmt: skip
        return {**link, **rows}
