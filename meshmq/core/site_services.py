"""Services of a site: what siblings are told of those at this node, and what they tell.

Data: of each service of our own clients the Offer that siblings know; of each sibling a _Heard,
with its services as it has told them.

Rules:
1. A sibling is told all that is served here when it joins, and when it asks; then what changes.
   Its frames are numbered: when one is missing it asks for all.
2. That a service begins or ends is told at once, what comes within OFFERS_GATHER_NS after that
   together. Its load is told when it has changed enough to choose otherwise, OFFERS_NS after it
   began to change or later, so that all that is told to all siblings stays below
   OFFERS_BYTES_PER_SECOND. Who is idle tells nothing, nor of what is over by then.
3. Only what our own clients serve is told, and at most OFFERED_MAX services of it.
4. What a sibling tells counts as long as its data link is open; it goes to ``services``, which
   sends requests there.
5. A node of another site is as a sibling, with a narrower door (core/link_services.py): it asks for
   some services, when its data link opens and when its configuration says others.
"""

from __future__ import annotations

from typing import Any

from meshmq import limits
from meshmq.core.link_services import LinkServices
from meshmq.core.link_wish import LinkWish
from meshmq.core.services import Services
from meshmq.core.sibling import Sibling
from meshmq.frames import Body, Offer, Offers


class _Heard:
    """What one sibling serves, as it has told.

    Attributes:
        version: of its last frame; 0: none has counted yet.
        names: of services, by the sibling's number.
    """

    __slots__ = ("name", "names", "offers", "site", "version")

    def __init__(self, sibling: Sibling) -> None:
        self.name = _name_of(sibling)
        self.site = sibling.site
        self.version = 0
        self.names: dict[int, str] = {}
        self.offers: dict[str, Offer] = {}


class SiteServices:
    """See the module's header.

    Attributes:
        tells: frames for control links of siblings; taken by the owner each turn.
    """

    def __init__(self, services: Services, name: str) -> None:
        self.tells: list[tuple[Sibling, Body]] = []
        self._services = services
        self._name = name
        self._siblings: dict[bytes, Sibling] = {}  # whose data link is open, by origin
        self._heard: dict[bytes, _Heard] = {}
        self._versions: dict[bytes, int] = {}
        self._told: dict[str, Offer] = {}
        self._untold: dict[str, None] = {}  # beyond OFFERED_MAX
        self._due_ns = 0  # when load is told that has changed; 0: none has
        self._gather_ns = 0  # until when it waits to be told that services begin or end
        self._pause_ns = 0  # until when no load is told, for the bytes that were
        self._last_number = 0
        self._links = LinkServices()
        services.changed = {}

    # -- siblings -----------------------------------------------------------------------------

    def expect(self, sibling: Sibling, now_ns: int) -> None:
        """It is there, its data link will be: what nobody else serves waits for it a while."""
        self._services.comeback.expect(sibling.origin, now_ns)

    def join(self, sibling: Sibling, now_ns: int) -> None:
        """Its data link is open."""
        origin = sibling.origin
        self._siblings[origin] = sibling
        self._heard[origin] = _Heard(sibling)
        self._services.join(sibling.link, _name_of(sibling), bool(sibling.site))
        if not sibling.site:
            self._services.comeback.expect(origin, now_ns)
            self._tell_all(sibling, asks=True)
            return
        if self._links.has_asked(sibling):  # before we joined: what began since was not told
            self._tell_all(sibling)
        if self._links.wished(sibling.site):
            self._services.comeback.expect(origin, now_ns)
            self._ask(sibling)

    def leave(self, sibling: Sibling, now_ns: int) -> None:
        """Its data link is gone; ``Services.drop_link`` has seen to its requests."""
        if self._siblings.get(sibling.origin) is sibling:
            del self._siblings[sibling.origin], self._heard[sibling.origin]
            self._versions.pop(sibling.origin, None)
            self._links.leave(sibling)
            self._services.heard(sibling.origin, now_ns)

    def set_wishes(self, wishes: tuple[LinkWish, ...], now_ns: int) -> None:
        """What nodes of other sites are to serve for us from now on; of what is not, nothing new
        goes there any more, whether they have heard of it or not."""
        changed = self._links.set_wishes(wishes)
        for sibling in self._siblings.values():
            if sibling.site in changed:
                offers = self._heard[sibling.origin].offers
                for name in [n for n in offers if not self._links.may_serve(sibling, n)]:
                    gone = offers.pop(name)._replace(instances=0)
                    self._services.offer(sibling.link, gone, now_ns)
                self._ask(sibling)

    def wished(self, site: str) -> tuple[str, ...]:
        """Patterns of what another site is to serve for us."""
        return self._links.wished(site)

    def _ask(self, sibling: Sibling) -> None:
        """It is to tell all that it serves for us; what it tells before that counts no more."""
        self._heard[sibling.origin].version = 0
        patterns = self._links.wished(sibling.site)
        self._send(sibling, Offers(self._next_version(sibling), asks=True, patterns=patterns))

    # -- what it tells ------------------------------------------------------------------------

    def on_offers(self, sibling: Sibling, frame: Offers, now_ns: int) -> None:
        """A sibling tells; by its control link, so perhaps before its data link is open."""
        if frame.asks:
            self._links.asks(sibling, frame.patterns)
            self._tell_all(sibling)
        heard = self._heard.get(sibling.origin)
        if heard is None:
            return  # we ask when we join
        if not frame.whole and frame.version != heard.version + 1:
            if heard.version:
                self._ask(sibling)
            return
        gone: dict[str, Offer] = {}
        if frame.whole:
            gone, heard.offers, heard.names = heard.offers, {}, {}
        heard.version = frame.version
        for row in frame.rows:
            name = row.service or heard.names.get(row.number, "")
            if not self._links.may_serve(sibling, name):
                continue
            if name and (name in heard.offers or len(heard.offers) < limits.OFFERED_MAX):
                gone.pop(name, None)
                self._hear(sibling, heard, row._replace(service=name), now_ns)
        for row in gone.values():
            self._services.offer(sibling.link, row._replace(instances=0), now_ns)
        self._services.heard(sibling.origin, now_ns)

    def _hear(self, sibling: Sibling, heard: _Heard, row: Offer, now_ns: int) -> None:
        if row.instances:
            heard.names[row.number] = row.service
            heard.offers[row.service] = row
        else:
            heard.names.pop(row.number, None)
            heard.offers.pop(row.service, None)
        self._services.offer(sibling.link, row, now_ns)

    # -- what it is told ----------------------------------------------------------------------

    def end_turn(self, now_ns: int) -> None:
        """Tell what has begun or ended, and load if it is time."""
        services = self._services
        if services.moved and now_ns >= self._gather_ns:
            self._gather_ns = now_ns + limits.OFFERS_GATHER_NS
            moved, services.moved = services.moved, {}
            self._tell_some([name for name in moved if self._has_moved(name)], now_ns)
        if not services.changed:
            return
        if not self._due_ns:  # what is over by then is not told
            self._due_ns = max(self._pause_ns, now_ns + limits.OFFERS_NS)
        elif now_ns >= self._due_ns:
            self._due_ns = 0
            busy, services.changed = services.changed, {}
            self._tell_some([name for name in busy if self._is_news(name)], now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``end_turn`` has something to tell, if nothing else happens."""
        if self._services.moved and (not self._due_ns or self._gather_ns < self._due_ns):
            return self._gather_ns
        return self._due_ns or None

    def _offer_of(self, name: str) -> Offer:
        service = self._services.by_name.get(name)
        return service.offer() if service is not None else Offer(0, name, 0, 0, 0, 0)

    def _has_moved(self, name: str) -> bool:
        """Whether other instances serve it than siblings know."""
        offer, told = self._offer_of(name), self._told.get(name)
        if told is None:
            return offer.instances > 0
        return (offer.instances, offer.places) != (told.instances, told.places)

    def _is_news(self, name: str) -> bool:
        """Whether its load is another one than siblings know, so far as to matter."""
        told = self._told.get(name)
        if told is None:
            return False
        offer = self._offer_of(name)
        free, waiting = abs(offer.free - told.free), abs(offer.waiting - told.waiting)
        return (
            bool(offer.free) != bool(told.free)
            or bool(offer.waiting) != bool(told.waiting)
            or 4 * free >= max(1, offer.places)
            or 2 * waiting > offer.waiting
        )

    def _tell_some(self, names: list[str], now_ns: int) -> None:
        """Tell all siblings of these services."""
        rows: list[tuple[str, Offer]] = []
        for name in names:
            offer, told = self._offer_of(name), self._told.get(name)
            if told is None and len(self._told) >= limits.OFFERED_MAX:
                self._untold[name] = None
                continue
            if told is None:
                self._last_number += 1
                offer = offer._replace(number=self._last_number)
            else:
                offer = offer._replace(number=told.number)
            if offer.instances:
                self._told[name] = offer
            else:
                del self._told[name]
                self._services.moved.update(self._untold)
                self._untold = {}
            rows.append((name, offer if told is None else offer._replace(service="")))
        if not rows:
            return
        for origin in self._versions:
            sibling = self._siblings.get(origin)
            if sibling is not None:
                self._send_rows(sibling, self._links.known_to(sibling, rows))
        size = len(rows) * len(self._versions) * limits.OFFER_BYTES
        pause_ns = size * limits.SECOND // limits.OFFERS_BYTES_PER_SECOND
        self._pause_ns = max(self._pause_ns, now_ns) + pause_ns

    def _tell_all(self, sibling: Sibling, asks: bool = False) -> None:
        rows = self._links.known_to(sibling, self._told.items())
        first = Offers(
            self._next_version(sibling), True, asks, tuple(rows[: limits.FRAME_BATCHES_MAX])
        )
        self._send(sibling, first)
        self._send_rows(sibling, rows[limits.FRAME_BATCHES_MAX :])

    def _send_rows(self, sibling: Sibling, rows: list[Offer]) -> None:
        for at in range(0, len(rows), limits.FRAME_BATCHES_MAX):
            part = tuple(rows[at : at + limits.FRAME_BATCHES_MAX])
            self._send(sibling, Offers(self._next_version(sibling), rows=part))

    def _next_version(self, sibling: Sibling) -> int:
        version = self._versions[sibling.origin] = self._versions.get(sibling.origin, 0) + 1
        return version

    def _send(self, sibling: Sibling, frame: Offers) -> None:
        self.tells.append((sibling, frame))

    # -- listings -----------------------------------------------------------------------------

    def describe(self, now_ns: int) -> list[dict[str, Any]]:
        """Services as listings show them, with ``nodes`` where each is served, this one first."""
        shown = {service["service"]: service for service in self._services.describe(now_ns)}
        for name, service in shown.items():
            mine = self._offer_of(name)
            service["nodes"] = [_row(self._name, mine)] if mine.instances else []
        for heard in sorted(self._heard.values(), key=lambda heard: heard.name):
            for name, offer in heard.offers.items():
                if name not in shown:
                    shown[name] = {
                        "service": name, "requests": 0, "waiting": 0, "expired": 0,
                        "instances": [], "nodes": [],
                    }  # fmt: skip
                row = _row(heard.name, offer)
                shown[name]["nodes"].append({**row, "site": heard.site} if heard.site else row)
        return [shown[name] for name in sorted(shown)]

    def held_bytes(self) -> int:
        """About how much memory what siblings serve takes."""
        count = sum(len(heard.offers) for heard in self._heard.values())
        return count * limits.OFFERED_MEMORY_BYTES


def _name_of(sibling: Sibling) -> str:
    """A node's, with its site if that is another one."""
    return f"{sibling.site}/{sibling.name}" if sibling.site else sibling.name


def _row(node: str, offer: Offer) -> dict[str, Any]:
    return {
        "node": node,
        "instances": offer.instances,
        "concurrency": offer.places,
        "free": offer.free,
        "waiting": offer.waiting,
    }
