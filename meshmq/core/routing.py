"""Which of the linked programs have what is published directly, and which by the node.

Data: the links whose interests we know, where each of them is, and which do not answer.

Rules:
1. A linked program has directly what we know that it wants, subscription by subscription. The node
   is told so in order with the records that it gets (``Routes``), and tells the program by markers.
2. One that is at the same node and leaves what it was sent unacknowledged for ROUTE_SILENT_NS has
   it by the node instead, until it acknowledges again.

Frames for the node gather in ``to_node``, in order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from meshmq import limits
from meshmq.core.outlets import Outlets, UnderWay
from meshmq.core.session import Session
from meshmq.frames import Body, Deliver, Publish, PublishBatch, Route, Routes


class Routing:
    """See the module's header.

    Args:
        me: our own run; what we want ourselves never takes the way by the node.
        outlets: who wants what; told of whom the node reaches, and who has it by the node.

    Attributes:
        node: origin of the node that we are at, or empty.
        to_node: frames for it, with the batches in them that it confirms by acknowledging.
    """

    def __init__(self, me: bytes, outlets: Outlets) -> None:
        self.node = b""
        self.to_node: list[tuple[Body, list[UnderWay]]] = []
        self._me = me
        self._outlets = outlets
        self._known: dict[bytes, tuple[bytes, set[int]]] = {}  # by link: run and subscriptions
        self._nodes: dict[bytes, bytes] = {}  # where each linked program is
        self._sessions: dict[bytes, Session] = {}

    @property
    def silent(self) -> set[bytes]:
        """Links that do not answer: they have by the node what is published."""
        return self._outlets.over

    def attach(self, origin: bytes, window_bytes: int) -> None:
        """There is a session with a node, which takes so much at a time."""
        self.node = origin
        self._outlets.attach(window_bytes)
        routes = [Route(self._me)]
        for link, (run, numbers) in self._known.items():
            if numbers and link not in self.silent:
                routes.append(Route(run, tuple(sorted(numbers))))
        self.to_node.append((Routes(tuple(routes)), []))
        self._reach()

    def detach(self) -> None:
        """It is over: nobody is reached by it."""
        self.node = b""
        self.to_node.clear()
        self._outlets.detach()
        self._reach()

    def join(self, link: bytes, run: bytes, session: Session) -> None:
        """A program is linked; we know of nothing that it wants."""
        self._known[link] = (run, set())
        self._sessions[link] = session

    def note(self, link: bytes, numbers: Iterable[int]) -> None:
        """We know of subscriptions of a program: from here on they go directly."""
        run, known = self._known[link]
        new = sorted(set(numbers) - known)
        known.update(new)
        if new and link not in self.silent:
            self._tell(add=Route(run, tuple(new)))

    def forget(self, link: bytes, numbers: Iterable[int]) -> None:
        """It wants them no longer, or not from us."""
        run, known = self._known[link]
        old = sorted(known.intersection(numbers))
        known.difference_update(old)
        if old and link not in self.silent:
            self._tell(remove=Route(run, tuple(old)))

    def move(self, link: bytes, node: bytes) -> None:
        """A program is at this node, or at none."""
        self._nodes[link] = node
        self._reach()

    def leave(self, link: bytes) -> None:
        """A program is linked no more."""
        self.silent.discard(link)
        self._nodes.pop(link, None)
        self._sessions.pop(link, None)
        run, known = self._known.pop(link, (b"", set()))
        if known and all(run != other for other, _ in self._known.values()):
            self._tell(remove=Route(run))
        self._reach()

    def fall_silent(self, link: bytes) -> None:
        """Rule 2."""
        self.silent.add(link)
        run, known = self._known[link]
        if known:
            self._tell(remove=Route(run, tuple(sorted(known))))

    def hear(self, link: bytes) -> None:
        """It answers again."""
        self.silent.discard(link)
        self._outlets.changed()
        run, known = self._known[link]
        if known:
            self._tell(add=Route(run, tuple(sorted(known))))

    def is_at_our_node(self, link: bytes) -> bool:
        """Whether the node reaches a program as well."""
        return bool(self.node) and self._nodes.get(link) == self.node

    def turned(self, now_ns: int) -> Iterable[tuple[bytes, bool]]:
        """Links of which rule 2 says something new, and whether they are silent now."""
        if not self.node:
            return [(link, False) for link in self._known if link in self.silent]
        found = []
        for link in self._in_reach():
            since = self._sessions[link].waits_since_ns
            is_silent = since is not None and now_ns - since >= limits.ROUTE_SILENT_NS
            if is_silent != (link in self.silent):
                found.append((link, is_silent))
        return found

    def next_deadline_ns(self) -> int | None:
        """When ``turned`` has something new, if nothing else happens."""
        due = None
        for link in self._in_reach():
            since = self._sessions[link].waits_since_ns
            if since is not None and link not in self.silent and (due is None or since < due):
                due = since
        return None if due is None else due + limits.ROUTE_SILENT_NS

    def _in_reach(self) -> Iterable[bytes]:
        """Who is at our node, in the order they came: that of a set is another in every process."""
        return filter(self._outlets.reachable.__contains__, self._nodes)

    def _reach(self) -> None:
        self._outlets.reachable = {link for link in self._nodes if self.is_at_our_node(link)}
        self._outlets.changed()

    def _tell(self, *, add: Route | None = None, remove: Route | None = None) -> None:
        if not self.node:
            return
        if remove:
            self._outlets.want_again()
        self.to_node.append((Routes((add,) if add else (), (remove,) if remove else ()), []))
        self._outlets.changed()


def to_publish(frame: Deliver, batches: list[UnderWay]) -> Publish:
    """What is delivered to others, for the node, which checks the bytes."""
    rows, at, payload = [], 0, memoryview(frame.payload)
    for row, under_way in zip(frame.batches, batches, strict=True):
        checksum = zlib.crc32(payload[at : at + row.length])
        at += row.length
        rows.append(
            PublishBatch(
                row.topic, row.base_offset, 0, row.count, row.length, checksum, False, False, True,
                under_way.is_routed,
            )
        )  # fmt: skip
    return Publish(tuple(rows), bytes(frame.payload))
