"""Requests that are not over, as the services of a node keep them: who asked, what they take.

Rules:
1. All that are here take no more than the node's bound, those of one program no more than its
   share; what goes beyond is refused.
2. A request counts for who asked until nobody has to answer it any more, even if nobody waits.
"""

from __future__ import annotations

import heapq

from meshmq import limits
from meshmq.core.instances import Asked, Service, Taker
from meshmq.core.outgoing import Outgoing
from meshmq.core.remotes import Outpost
from meshmq.errors import Busy, DeadlineExceeded, MeshError
from meshmq.frames import EACH, ReplyRow
from meshmq.frames_offers import OF_NODE


class Ledger:
    """See the module's header.

    Attributes:
        outgoing: what waits to leave, and links that take none of it.
        siblings: other nodes that are linked, by link; those of other sites are among them.
        changed, moved: services whose load has changed, and those whose instances have, while
            somebody wants to know; taken by ``site_services``.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self.by_name: dict[str, Service] = {}
        self.outgoing = outgoing
        self.siblings: dict[bytes, Outpost] = {}
        self._asked: dict[int, Asked] = {}
        self._asking: dict[bytes, dict[int, Asked]] = {}  # by link and the requester's number
        self._deadlines: list[tuple[int, int]] = []
        self._bytes = 0  # of requests that are held
        self._shares: dict[bytes, int] = {}  # of those, by the link that asked
        self._last_id = 0
        self.changed: dict[str, None] | None = None
        self.moved: dict[str, None] = {}
        self._freed: dict[Service, None] = {}  # a sibling has room for what waits

    # -- services -----------------------------------------------------------------------------

    def _service(self, name: str) -> Service:
        service = self.by_name.get(name)
        if service is None:
            service = self.by_name[name] = Service(name)
        return service

    def _forget(self, service: Service) -> None:
        if service.is_idle and self.by_name.get(service.name) is service:
            del self.by_name[service.name]

    # -- requests -----------------------------------------------------------------------------

    @property
    def has_requests(self) -> bool:
        """Whether some are under way."""
        return bool(self._asked)

    def _refusal(self, link: bytes, size: int) -> Busy | None:
        """Why a program may not ask for so much more now."""
        share = self._shares.get(link, 0)
        if share + size > limits.REQUESTS_SHARE_BYTES_MAX:
            return Busy(f"the program has {share} bytes of requests under way, its share")
        if self._bytes + size > limits.REQUESTS_BYTES_MAX:
            return Busy(f"{self._bytes} bytes of requests are under way at the node, its limit")
        return None

    def _enter(self, asked: Asked) -> None:
        self._asked[asked.id] = asked
        self._count(asked, asked.size)

    def _await(self, asked: Asked) -> None:
        """Have a look at it when its time is over."""
        if len(self._deadlines) > 2 * len(self._asked) + 1024:
            self._deadlines = [(a.deadline_ns, a.id) for a in self._asked.values() if a.link]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (asked.deadline_ns, asked.id))

    def _count(self, asked: Asked, size: int) -> None:
        """What is held grows by so much, or shrinks."""
        self._bytes += size
        share = self._shares.get(asked.payer, 0) + size
        if share:
            self._shares[asked.payer] = share
        else:
            del self._shares[asked.payer]

    def _drop(self, asked: Asked) -> None:
        """Forget it."""
        if self._asked.pop(asked.id, None) is not None:
            self._count(asked, -asked.size)
        service = asked.service
        if asked.is_guest:
            service.guests.pop(asked.id, None)
        elif service.waiting:
            service.waiting.pop(asked.id, None)
        if asked.kind == EACH:
            service.early.pop(asked.id, None)
        if asked.instance is not None:
            asked.instance.waiting.pop(asked.id, None)
        self._unlink(asked)
        if not service.instances:
            self._forget(service)

    def _unlink(self, asked: Asked) -> None:
        """Nobody waits for it any more."""
        if asked.link:
            mine = self._asking.get(asked.link, {})
            mine.pop(asked.their_id, None)
            if not mine:
                self._asking.pop(asked.link, None)
            asked.link = b""

    def _let_bytes_go(self, asked: Asked) -> None:
        """Who works on it has them, and nobody else will get them."""
        for part in asked.parts.values():
            part.data = part.headers = b""
        asked.data = asked.headers = b""
        self._count(asked, limits.REQUEST_OVERHEAD_BYTES - asked.size)
        asked.size = limits.REQUEST_OVERHEAD_BYTES

    def _change(self, service: Service, is_moved: bool = True) -> None:
        """Siblings may want to know."""
        if self.changed is not None:
            self.changed[service.name] = None
            if is_moved:
                self.moved[service.name] = None

    def _free(self, asked: Asked, instance: Taker) -> None:
        instance.free(asked)
        instance.service.place(instance)
        if self.changed is not None and not instance.is_remote:
            self.changed[instance.service.name] = None
        asked.handed_ns = 0
        if asked.parent is None:
            asked.instance = None

    # -- ends ---------------------------------------------------------------------------------

    def _finish(self, asked: Asked, error: MeshError) -> None:
        """It is over without a reply of a service: tell who asked."""
        parent = asked.parent
        if parent is not None:
            name = asked.instance.name if asked.instance is not None else ""
            self._drop(asked)
            if parent.link:
                self._answer(parent.link, parent.their_id, error, end=False, instance=name)
            self._close_part(asked, parent)
            return
        if asked.link:
            self._answer(asked.link, asked.their_id, error)
        self._drop(asked)

    def _close_part(self, part: Asked, parent: Asked) -> None:
        del parent.parts[part.id]
        if not parent.parts:
            if parent.link:
                self._reply(parent.link, ReplyRow(parent.their_id, False, True), b"")
            self._drop(parent)

    def _abandon(self, asked: Asked) -> None:
        """The requester is no longer interested, or too late: stop who works on it."""
        for part in list(asked.parts.values()):
            if not self._stop(part):
                del asked.parts[part.id]
        if asked.parts or (asked.kind != EACH and self._stop(asked)):
            self._unlink(asked)
            self._let_bytes_go(asked)
        else:
            self._drop(asked)

    def _stop(self, asked: Asked) -> bool:
        """Tell who works on it, if somebody does: its place is free when the instance says so. A
        sibling says nothing more of it."""
        instance = asked.instance
        if asked.handed_ns and instance is not None:
            self.outgoing.cancel(instance.link, asked.id)
            if not instance.is_remote:
                return True
            self._free(asked, instance)
            self._freed[instance.service] = None
        if asked.parent is not None:
            self._drop(asked)
        return False

    def _expire(self, asked: Asked) -> None:
        if asked.parent is not None:
            return  # its parent's time is over as well
        asked.service.expired += 1
        what = "the service did not answer" if asked.handed_ns else "no instance had room"
        self._answer(asked.link, asked.their_id, DeadlineExceeded(f"{what} in time"))
        self._abandon(asked)

    # -- what goes back -----------------------------------------------------------------------

    def _answer(
        self, link: bytes, number: int, error: MeshError, end: bool = True, instance: str = ""
    ) -> None:
        detail = OF_NODE if link in self.siblings else ""
        row = ReplyRow(number, False, end, error.code, detail, str(error), instance)
        self._reply(link, row, b"")

    def _reply(self, link: bytes, row: ReplyRow, data: bytes) -> bool:
        """Whether there is room for it; else the requester is told so in its place."""
        return self.outgoing.reply(link, row, data)

    def held_bytes(self) -> int:
        """About how much memory requests and replies take."""
        remotes = sum([len(outpost.remotes) for outpost in self.siblings.values()])
        told = remotes * limits.OFFERED_MEMORY_BYTES
        return self._bytes + self.outgoing.backlog + told
