"""Sessions of a node: with whom, what leaves over them, what is due, what is on its way.

Data: a Peer for each link, of clients and of the other nodes of the site alike.

Rules:
1. What a session has to send leaves when it is ``flush``ed: at the end of each event and turn.
2. What is sent and not acknowledged is counted over all sessions; beyond the node's bound delivery
   holds back links that owe acknowledgements (its rule 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshmq import limits
from meshmq.core.effects import NodeEffect, Send
from meshmq.core.session import Session, SessionState
from meshmq.core.session_timers import SessionTimers
from meshmq.frames import Body, Hello, Refuse
from meshmq.names import run_of

if TYPE_CHECKING:
    from meshmq.core.sibling import Sibling


@dataclass(slots=True)
class Peer:
    """One client's session at this node, or another node's of the site.

    Attributes:
        sibling: the node at the other end, or None: a client.
    """

    link: bytes
    session: Session
    hello: Hello
    due_ns: int = 0
    unacked_bytes: int = 0
    sibling: Sibling | None = None

    def who(self, of_run: bool) -> bytes:
        """The producer whose numbers a batch has: see PublishBatch."""
        hello = self.hello
        return run_of(hello.producer, hello.instance) if of_run else hello.producer


class Burden(Protocol):
    """Who is told of what is on its way."""

    is_crowded: bool
    burdened: set[bytes]
    unacked: dict[bytes, int]


class Sessions:
    """See the module's header.

    Args:
        delivery: is told which links owe acknowledgements.
        unacked_max: bytes on their way to all, see rule 2.

    Attributes:
        by_link: who has a session.
        producers: link of each client, by what it says it is as a producer.
        effects: what sessions have sent, in order with what the owner adds, who takes them.
        unacked_bytes: on their way, of all sessions.
        here: gets what is for a link that has no session: an answer to the node itself.
    """

    def __init__(self, delivery: Burden, unacked_max: int) -> None:
        self.by_link: dict[bytes, Peer] = {}
        self.producers: dict[bytes, bytes] = {}
        self.effects: list[NodeEffect] = []
        self.unacked_bytes = 0
        self.here: Callable[[bytes, Body], None] = lambda link, body: None
        self._delivery = delivery
        self._unacked_max = unacked_max
        self._touched: dict[bytes, Peer] = {}
        self._timers = SessionTimers(self.by_link)

    @property
    def has_news(self) -> bool:
        """Whether ``flush`` has something to look at."""
        return bool(self._touched)

    def add(self, peer: Peer) -> None:
        """A session begins."""
        self.by_link[peer.link] = self._touched[peer.link] = peer
        if peer.sibling is None:
            self.producers[peer.hello.producer] = peer.link

    def remove(self, link: bytes) -> Peer | None:
        """A session is over; nothing more of it leaves."""
        peer = self.by_link.pop(link, None)
        if peer is not None:
            self._touched.pop(link, None)
            self._set_unacked(peer, 0)
            self._delivery.unacked.pop(link, None)
            if self.producers.get(peer.hello.producer) == link:
                del self.producers[peer.hello.producer]
        return peer

    def of_producer(self, producer: bytes) -> Peer | None:
        """The client that says it is this producer."""
        return self.by_link.get(self.producers.get(producer, b""))

    def unacked_of(self, link: bytes) -> tuple[int, int]:
        """Bytes and frames on their way to one."""
        peer = self.by_link.get(link)
        return (0, 0) if peer is None else (peer.session.unacked_bytes, peer.session.unacked_count)

    def send(self, link: bytes, body: Body, now_ns: int) -> None:
        """Send over ``link``, if its session is still there."""
        peer = self.by_link.get(link)
        if peer is not None:
            self._touched[link] = peer
            peer.session.send(body, now_ns)
        else:
            self.here(link, body)

    def receive(self, peer: Peer) -> None:
        """A frame came, and may have acknowledged what was sent."""
        self._touched[peer.link] = peer
        self._count_unacked(peer)

    def end(self, peer: Peer, refusal: Refuse | None, now_ns: int) -> None:
        """End a session in words; ``flush`` sees that it is over."""
        peer.session.say_goodbye(now_ns, refusal)
        self._touched[peer.link] = peer

    def end_now(self, peer: Peer, refusal: Refuse, now_ns: int) -> None:
        """End it in words that leave at once; the owner removes it."""
        peer.session.say_goodbye(now_ns, refusal)
        self.effects += [Send(peer.link, envelope) for envelope in peer.session.outbox]

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self._touched.update(self._timers.tick(now_ns))

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return self._timers.next_deadline_ns()

    def flush(self) -> list[bytes]:
        """Let out what sessions have to send; links of those that are over."""
        touched, self._touched = self._touched, {}
        over = []
        for link, peer in touched.items():
            session = peer.session
            if session.outbox:
                self.effects += [Send(link, envelope) for envelope in session.outbox]
                session.outbox = []
                self._count_unacked(peer)
            if session.state is SessionState.CLOSED:
                over.append(link)
                continue
            self._timers.look(link, peer)
        return over

    def _count_unacked(self, peer: Peer) -> None:
        unacked = peer.session.unacked_bytes
        frames = peer.session.unacked_count * limits.LINK_UNACKED_FRAME_BYTES
        self._delivery.unacked[peer.link] = unacked + frames
        if unacked != peer.unacked_bytes:
            self._set_unacked(peer, unacked)

    def _set_unacked(self, peer: Peer, unacked: int) -> None:
        self.unacked_bytes += unacked - peer.unacked_bytes
        peer.unacked_bytes = unacked
        delivery = self._delivery
        delivery.is_crowded = self.unacked_bytes > self._unacked_max
        if unacked:
            delivery.burdened.add(peer.link)
        else:
            delivery.burdened.discard(peer.link)
