"""The part of a client that goes from node to node: what it loses, and where it goes then."""

from __future__ import annotations

import random
from collections.abc import Sequence

from meshmq.core.consumer import Member
from meshmq.core.effects import ClientEffect, CloseLink, Send, StateChanged
from meshmq.core.leaving import Leaving
from meshmq.core.moving import Moving
from meshmq.core.publisher import Publisher
from meshmq.core.requester import Requester
from meshmq.core.responder import Responder
from meshmq.core.session import Session, SessionState
from meshmq.core.transaction import Transaction
from meshmq.errors import Busy, MeshError, NodeDrains, from_code
from meshmq.frames import Body, Command, KnownPeer, Refuse, Welcome

FINAL_REFUSALS = frozenset(
    {"mesh-mismatch", "version-mismatch", "producer-fenced", "node-unreachable"}
)


class Roaming:
    """See the module's header, and ``Client``, whose base it is.

    Attributes:
        moving: knows where to find a node.
        state: see ``Client``.
        origin, node_name: of the node we are at, or were.
        reconnects: sessions that were lost.
        refused: what the last node that let us not in has said; None: one lets us in.
    """

    publisher: Publisher
    requester: Requester
    responder: Responder
    members: dict[int, Member]

    def __init__(self, entropy: random.Random) -> None:
        self.moving = Moving((), entropy)
        self.state = "connecting"
        self.closed_error: MeshError | None = None
        self.refused: MeshError | None = None
        self.origin = b""
        self.node_name = ""
        self.reconnects = 0
        self._entropy = entropy
        self._link = b""
        self._session: Session | None = None
        self._leaving = Leaving()
        self._site = ""  # of the node we are at, or were
        self._greeted_by_ns = 0
        self._lost_ns = 0  # when the last session ended
        self._attempt = 0
        self._commands: dict[int, Command] = {}
        self._transactions: dict[int, Transaction] = {}
        self._wanting: dict[int, set[str]] = {}  # transactions that wait for queues
        self._effects: list[ClientEffect] = []

    @property
    def has_questions(self) -> bool:
        """Whether the node has something to answer that is asked once only."""
        return bool(self._commands or self._transactions)

    def _tick_session(self, now_ns: int) -> None:
        session = self._session
        if session is None:
            return
        session.tick(now_ns)
        if session.state is SessionState.GREETING and now_ns >= self._greeted_by_ns:
            self._lose("no node answers there", "link-lost", now_ns)
        for body in self._leaving.tick(self, now_ns):
            self._send(body, now_ns)

    def _session_due(self) -> list[int]:
        session = self._session
        if session is None:
            return []
        due = [session.next_deadline_ns()]
        leaving_ns = self._leaving.next_deadline_ns()
        if leaving_ns is not None:
            due.append(leaving_ns)
        if session.state is SessionState.GREETING:
            due.append(self._greeted_by_ns)
        return due

    def _come(self, welcome: Welcome) -> tuple[bool, str | None]:
        """A node lets us in: whether it has another log than the one before and, if it is of the
        same site as that, the name of the node before."""
        changed = bool(self.origin) and self.origin != welcome.origin
        moves = changed and bool(welcome.site) and welcome.site == self._site
        before, self.node_name = self.node_name, welcome.name
        self.origin, self._site = welcome.origin, welcome.site
        self._attempt = 0
        self.refused = None
        self.moving.connected(welcome.origin)
        return changed, (before or "?") if moves else None

    def _on_refused(self, frame: Refuse) -> None:
        """A node does not let us in, or no longer; one that drains tells where to go instead."""
        self.refused = from_code(frame.code, frame.message)
        if frame.peers and not self.moving.stays:
            self.moving.on_known(frame.peers)

    def _on_drained(self, peers: Sequence[KnownPeer], now_ns: int) -> None:
        """The node is to end; who wants no other one stays until it does."""
        self.moving.on_known(peers)
        if self.moving.has_others:
            self._leaving.begin(now_ns)

    def _go_if_time(self, now_ns: int) -> None:
        """Leave a node that drains, if nothing of ours is under way there."""
        session = self._session
        if session is not None and self._leaving.may_go(self):
            session.say_goodbye(now_ns)
            self._lose("the node drains", NodeDrains.code, now_ns)

    def _lose(self, reason: str, code: str, now_ns: int) -> None:
        self._flush_outbox()
        self._session = None
        self._on_session_lost(now_ns)
        if code in FINAL_REFUSALS and self._is_final(code):
            self._effects.append(CloseLink(self._link))
            self._end(from_code(code, reason), reason, code)
            return
        if code == NodeDrains.code or (code == Busy.code and self.state != "connected"):
            self.moving.avoid(now_ns)
        if self.state == "connected":
            self._lost_ns = now_ns
            self.reconnects += 1
            self.state = "reconnecting"
            self._effects.append(StateChanged("reconnecting", reason, code))
        self._attempt += 1
        effect = CloseLink(self._link)
        if self._tries_again():
            address, delay_ns, is_one_of = self.moving.next(now_ns)
            effect = CloseLink(self._link, delay_ns, address, is_one_of, code == NodeDrains.code)
        self._effects.append(effect)

    def _is_final(self, code: str) -> bool:
        """Whether a refusal that waiting cannot mend ends the client: not what somebody says who is
        now where a node was that we have heard of."""
        return code == "producer-fenced" or not (self.origin and self.moving.has_others)

    def _tries_again(self) -> bool:
        """Whether the same node is dialled again."""
        return True

    def _on_session_lost(self, now_ns: int) -> None:
        self._leaving.reset(self)
        self.publisher.on_session_lost()
        for member in self.members.values():
            member.on_session_lost()
        self.requester.on_session_lost()

    def _send(self, body: Body, now_ns: int) -> None:
        # Before the welcome nothing is sent: the welcome sends what is open then.
        if self._session is not None and self._session.state is SessionState.OPEN:
            self._session.send(body, now_ns)

    def _flush_outbox(self) -> None:
        session = self._session
        if session is not None and session.outbox:
            link = self._link
            self._effects += [Send(link, envelope) for envelope in session.outbox]
            session.outbox = []

    def _end(
        self, error: MeshError, reason: str, code: str, of_calls: MeshError | None = None
    ) -> None:
        self._session = None
        self.state = "closed"
        self.closed_error = error
        self.publisher.fail_all(error)
        self.requester.fail_all(of_calls or error)
        self.responder.on_session_lost()
        self._effects.append(StateChanged("closed", reason, code))
