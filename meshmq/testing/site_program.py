"""A program at a node of a simulated site: the real client machine, and what parts do with it.

Some stay with their node, others move to another one when theirs is lost. A program that has moved
finds where it goes by what its node has told it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from meshmq import codec
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import ClientEffect, CloseLink, Send
from meshmq.core.events import ClientEvent, FrameReceived, LinkClosed, LinkOpened, TimerFired
from meshmq.core.moving import Moving
from meshmq.frames import Confirm, Envelope, Hello, Publish, Wanted, Welcome
from meshmq.limits import MS
from meshmq.testing.site_host import Way

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_world import SiteWorld


class SiteProgram:
    """One run of one program.

    Attributes:
        host: the node it is at, or was last. is_astray: it has dialled where no node is.
        moves: it goes elsewhere when it has lost its node.
        link: its newest one; ``links`` counts them.
        is_alive: it is the newest run of its name.
        unwanted: topics that its node wants nothing of, as it said; in worlds that are sparing.
    """

    def __init__(
        self, world: SiteWorld, name: str, run: int, host: Host, moves: bool = False
    ) -> None:
        self.world = world
        self.name = name
        self.run = run
        self.host = host
        self.link = b""
        self.links = 0
        self.is_alive = True
        self.is_astray = False
        self.moves = moves
        self.due_ns: int | None = None
        self.unwanted: set[str] = set()
        self._there, self._back = Way(), Way()
        tag = hashlib.sha256(f"{name}/{run}".encode()).digest()[:16]
        self.client = self.make_client(ClientIdentity(host.mesh, tag, tag, name))
        if world.has_movers:
            self.client.moving = Moving((host.client_address,), world.rng, stays=not moves)

    def __repr__(self) -> str:
        return f"{self.name}.{self.run}"

    def make_client(self, identity: ClientIdentity) -> Client:
        """Its machine."""
        encode_jobs = codec.encode_jobs
        return Client(identity, self.world.encode, self.world.rng, encode_jobs=encode_jobs)  # type: ignore[arg-type]

    # -- its link -----------------------------------------------------------------------------

    def open_link(self, address: str = "") -> None:
        """A new connection, to its node or where another one is."""
        if self.moves and address:
            found = self.world.host_for(address)
            self.is_astray = found is None
            self.host = found or self.host
        self.links += 1
        self.link = f"{self.name}/{self.run}/{self.links}".encode()
        self.event(LinkOpened(self.link))
        if self.host.node is None or self.is_astray:
            self._cut_later(self.link)

    def _cut_later(self, link: bytes) -> None:
        delay = int(self.world.rng.random() * 5 * MS) + 1
        self.world.after(delay, lambda: self.event(LinkClosed(link, "cut")))

    def on_node_killed(self) -> None:
        """Its connection is over; mostly it is told."""
        if self.world.rng.random() < 0.8:
            self._cut_later(self.link)

    def on_frame(self, host: Host, link: bytes, envelope: Envelope) -> None:
        """The node sends."""

        def arrive() -> None:
            if self.is_alive and link == self.link:
                for part in self.world.parts:
                    part.on_heard(self, envelope)
                self.event(FrameReceived(link, envelope))

        if self.is_alive and link == self.link:
            self.world.travel(self._back, arrive)

    def _send(self, link: bytes, envelope: Envelope) -> None:
        host = self.host
        if self.is_astray:
            return
        if self.world.is_sparing and isinstance(envelope.body, Publish):
            envelope = _routed(envelope, envelope.body)
        for part in self.world.parts:
            part.on_said(self, envelope)

        def arrive() -> None:
            # The newest hello has a producer's name: a late one of a program that is dead by then
            # would fence the living, as with any system that goes by arrival.
            if host.node is None:
                if link == self.link:
                    self._cut_later(link)
            elif self.is_alive or not isinstance(envelope.body, Hello):
                host.node_event(FrameReceived(link, envelope))

        self.world.travel(self._there, arrive)

    # -- its machine --------------------------------------------------------------------------

    def event(self, event: ClientEvent) -> None:
        """Something happened to its client."""
        if not self.is_alive or getattr(event, "link", self.link) != self.link:
            return
        self.world.note(self.name, type(event).__name__)
        session = self.client._session
        heard = session.received if session is not None else 0
        self._perform(self.client.handle(event, self.world.now_ns))
        if self.world.is_sparing and isinstance(event, FrameReceived):
            session = self.client._session
            if session is not None and session.received == event.envelope.sequence > heard:
                self._note_unwanted(event.envelope)
            elif isinstance(event.envelope.body, Welcome):
                self.unwanted.clear()
        self.settle()

    def _note_unwanted(self, envelope: Envelope) -> None:
        match envelope.body:
            case Confirm(rows):
                self.unwanted.update(row.topic for row in rows if row.unwanted)
            case Wanted(topics):
                self.unwanted.difference_update(topics)
            case _:
                pass

    def settle(self) -> None:
        """After a call of the program: send what it brought about."""
        now_ns = self.world.now_ns
        self.client.pump(now_ns)
        self._perform(self.client.take_effects(now_ns))

    def _perform(self, effects: list[ClientEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    if link == self.link:
                        self._send(link, envelope)
                case CloseLink(_, after):
                    if after >= 0:
                        self.world.after(after + 1, partial(self.reopen, effect))
                case _:
                    for part in self.world.parts:
                        part.on_effect(self, effect)
        for batch in self.client.publisher.take_finished():
            for part in self.world.parts:
                part.on_finished(self, batch)
        self._set_timer()

    def reopen(self, closed: CloseLink) -> None:
        """Its link was closed, and the pause is over."""
        if self.is_alive and not self.client.has_link:
            self.open_link(closed.address)

    def _set_timer(self) -> None:
        due = self.client.next_deadline_ns()
        if due is None:
            return
        due = max(due, self.world.now_ns + 1)
        if self.due_ns is None or due < self.due_ns or self.due_ns <= self.world.now_ns:
            self.due_ns = due

            def fire() -> None:
                if self.due_ns == due:
                    self.due_ns = None
                    self.event(TimerFired())

            self.world.after(due - self.world.now_ns, fire)

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet, in words."""
        found = []
        if not self.client.is_connected:
            found.append(f"{self!r} is {self.client.state}")
        if not self.client.publisher.is_idle:
            found.append(f"{self!r} has published what has no outcome")
        return found


class Player:
    """A program of another world, as one of the site (``at``) plays it."""

    at: SiteProgram
    _is_over = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.at.is_alive and not self._is_over

    @alive.setter
    def alive(self, alive: bool) -> None:
        self._is_over = not alive


def _routed(envelope: Envelope, body: Publish) -> Envelope:
    """As from one that goes directly as well, and sends its node no more than that wants."""
    rows = tuple([row._replace(numbered=True, routed=True) for row in body.batches])
    return replace(envelope, body=replace(body, batches=rows))
