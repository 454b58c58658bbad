"""Services between sites: which of them a node of another site is told of, and which it may serve
for us.

A far node is to a service as a sibling is (core/site_services.py), with a narrower door: it is told
what is served here only of the services it asks for, and counts for ours only as far as
``services`` of the link covers them. Nothing is told over a link that does not say ``services``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshmq.core.link_wish import LinkWish
from meshmq.core.sibling import Sibling
from meshmq.frames import Offer
from meshmq.names import matches


class LinkServices:
    """See the module's header."""

    def __init__(self) -> None:
        self._wished: dict[str, tuple[str, ...]] = {}  # by site
        self._asked: dict[bytes, tuple[str, ...]] = {}  # by far node, what it asks for

    def set_wishes(self, wishes: tuple[LinkWish, ...]) -> set[str]:
        """What other sites are to serve from now on; those of which it is not what it was."""
        before = self._wished
        self._wished = {wish.to: wish.services for wish in wishes if wish.services}
        both = {*before, *self._wished}
        return {site for site in both if before.get(site) != self._wished.get(site)}

    def wished(self, site: str) -> tuple[str, ...]:
        """Patterns of what it is to serve for us."""
        return self._wished.get(site, ())

    def asks(self, far: Sibling, patterns: tuple[str, ...]) -> None:
        """A far node asks for these services, and for no others any more."""
        self._asked[far.origin] = patterns

    def has_asked(self, far: Sibling) -> bool:
        """Whether it has, since its data link was gone last."""
        return far.origin in self._asked

    def leave(self, far: Sibling) -> None:
        """Its data link is gone."""
        self._asked.pop(far.origin, None)

    def may_serve(self, node: Sibling, service: str) -> bool:
        """Whether what another node serves is for us."""
        return not node.site or any(matches(p, service) for p in self.wished(node.site))

    def known_to(self, node: Sibling, offers: Iterable[tuple[str, Offer]]) -> list[Offer]:
        """Of offers, each with its service, those that another node is told."""
        if not node.site:
            return [offer for _, offer in offers]
        patterns = self._asked.get(node.origin, ())
        return [offer for name, offer in offers if any(matches(p, name) for p in patterns)]
