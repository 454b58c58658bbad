"""What a node tells its clients of the other nodes of its site: where they may be dialled.

Rules:
1. A client that comes is told at once. When something has changed all are told, the whole of it,
   and no more often than every KNOWN_TOLD_NS: a client that moves finds out by itself who is there.
2. It is told of the node as well: a client may have come by another address than it has.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshmq import limits
from meshmq.core.sessions import Sessions
from meshmq.core.sibling import Sibling
from meshmq.frames import Known, KnownPeer


class Signposts:
    """See the module's header.

    Args:
        me: the node itself.
        sessions: of the node.
    """

    def __init__(self, me: KnownPeer, sessions: Sessions) -> None:
        self._me = me
        self._sessions = sessions
        self._others: tuple[KnownPeer, ...] = ()
        self._told: tuple[KnownPeer, ...] = ()
        self._told_ns = -limits.KNOWN_TOLD_NS

    @property
    def others(self) -> tuple[KnownPeer, ...]:
        """Nodes where clients may go."""
        return self._others

    def look(self, siblings: Iterable[Sibling]) -> None:
        """Nodes have come or gone."""
        rows = [KnownPeer(s.origin, True, s.name, s.clients) for s in siblings if s.clients]
        self._others = tuple(sorted(rows)[: limits.SITE_NODES_MAX])

    def join(self, link: bytes, now_ns: int) -> None:
        """A client has come."""
        if self._others:
            self._sessions.send(link, Known((self._me, *self._others)), now_ns)

    def tick(self, now_ns: int) -> None:
        """Tell all, if it is time."""
        if self._others == self._told or now_ns < self._told_ns + limits.KNOWN_TOLD_NS:
            return
        self._told, self._told_ns = self._others, now_ns
        known = Known((self._me, *self._others))
        for peer in self._sessions.by_link.values():
            if peer.sibling is None:
                self._sessions.send(peer.link, known, now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        if self._others == self._told:
            return None
        return self._told_ns + limits.KNOWN_TOLD_NS
