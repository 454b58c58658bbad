"""What a node has to do with nodes of other sites, put together: copies of logs
(core/replication.py), what is passed on as it is published (core/link_live.py) and requests
(core/site_services.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshmq.core.link_live import LinkLive
from meshmq.core.link_wish import Endpoint, LinkWish
from meshmq.core.registrar import Registrar
from meshmq.core.replication import Replication
from meshmq.core.sessions import Peer
from meshmq.core.sibling import Sibling
from meshmq.core.site_services import SiteServices
from meshmq.core.transients import Transients
from meshmq.frames import Body, Cancel, Credit, Grant, Reply, Request, SiteInterests


class FarSide:
    """See the module's header.

    Args:
        services: what nodes tell each other of theirs.
        transients: what our own publishers know of who wants what.
        registrar: knows the links by which nothing is to come for now.
    """

    def __init__(
        self,
        replication: Replication,
        live: LinkLive,
        services: SiteServices,
        transients: Transients,
        registrar: Registrar,
    ) -> None:
        self._replication = replication
        self._live = live
        self._services = services
        self._transients = transients
        self._pauses = registrar.pauses
        self._wishes: dict[str, LinkWish] = {}
        self._pauses.changed = self._follow

    def set_wishes(self, wishes: tuple[LinkWish, ...], now_ns: int) -> None:
        """What is to come of other sites from now on, but for what is paused."""
        self._wishes = {wish.to: wish for wish in wishes}
        self._follow(now_ns)

    def _follow(self, now_ns: int) -> None:
        wishes = self._pauses.left_of(tuple(self._wishes.values()))
        self._replication.set_wishes(wishes)
        self._live.set_wishes(wishes)
        self._services.set_wishes(wishes, now_ns)

    def join(self, peer: Peer, far: Sibling, now_ns: int) -> None:
        """The data link with a node of another site is open. It may be full for a while; whether
        the node is there the control link says, with which this one ends."""
        peer.session.be_patient()
        self._replication.join(far, now_ns)
        self._live.join(far)
        self._services.join(far, now_ns)

    def leave(self, far: Sibling, now_ns: int) -> None:
        """It is over."""
        self._replication.leave(far)
        self._live.leave(far)
        self._services.leave(far, now_ns)

    def on_body(self, far: Sibling, body: Body, now_ns: int) -> bool:
        """What came over it, if it is for us; the rest is as from a client. Raises BadFrame."""
        match body:
            case SiteInterests():
                for pattern in self._live.on_interests(far.link, body):
                    self._transients.want(pattern)  # no subscriber there waits for that
            case Credit(0) | Request() | Reply() | Cancel() | Grant():
                return False
            case _:
                self._replication.on_body(far, body, now_ns)
        return True

    def describe(self, now_ns: int, endpoints: Mapping[str, Endpoint]) -> list[dict[str, Any]]:
        """Links as ``status`` shows them; ``endpoints``: by address, how its dial goes."""
        rows = self._replication.describe(now_ns, endpoints)
        return [self._shown(self._live.shown(row)) for row in rows]

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        wish, paused = self._wishes[row["to"]], self._pauses.shown(row["to"])
        wished = {"topics": list(wish.topics), "live": list(wish.live),
                  "services": list(wish.services)}  # fmt: skip
        state = row["state"] if paused is None else "paused"
        return {**row, **wished, "state": state, "paused": paused}

    def command(self, verb: str, to: str, now_ns: int, *, node: str) -> dict[str, Any]:
        """``link pause`` or ``resume``; ``node``: our name. Raises CommandFailed."""
        return self._pauses.command(verb, to, tuple(self._wishes), now_ns, node=node)
