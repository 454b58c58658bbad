"""Links of a program to nodes other than its own, at which it reads what was published there.

A link is opened when it is needed and closed when it is not; who wants it decides that
(core/direct_reads.py). One that fails is not dialled again by itself. A node is known by its
origin: who answers at its address and is another one is not taken for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from meshmq import limits
from meshmq.core.effects import CloseLink, OpenLink, Send
from meshmq.core.session import Session, SessionState
from meshmq.core.session_timers import SessionTimers
from meshmq.frames import (
    DIRECT_READS_MINOR,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Body,
    Envelope,
    Hello,
    Welcome,
)

OWNER_LINK = b"\0owner-"
"""What names of these links begin with."""


@dataclass(slots=True, eq=False)
class OwnerLink:
    """One link, or the attempt at one.

    Attributes:
        until_ns: the owner has so long to answer.
        is_open: it has.
    """

    name: bytes
    origin: bytes
    session: Session
    until_ns: int
    is_open: bool = False
    due_ns: int = 0


class OwnerLinks:
    """See the module's header.

    Args:
        mesh, name, software: what we say of ourselves.
        entropy: chooses session numbers, and whom we say we are: at another node we are nobody
            that it would take for the program itself, should that come.

    Attributes:
        opened, lost: links that are open from now on, and that are over, of all that the owner has
            not closed itself; the owner takes them.
        effects: what to do, in order; the owner takes them.
    """

    def __init__(self, mesh: str, name: str, software: str, entropy: random.Random) -> None:
        self._said = (mesh, name, software)
        self._entropy = entropy
        self.by_origin: dict[bytes, OwnerLink] = {}
        self.by_name: dict[bytes, OwnerLink] = {}
        self.opened: list[OwnerLink] = []
        self.lost: list[OwnerLink] = []
        self.effects: list[OpenLink | CloseLink | Send] = []
        self._timers: SessionTimers[OwnerLink] = SessionTimers(self.by_name)
        self._touched: dict[bytes, OwnerLink] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self.by_origin)

    def open(self, origin: bytes, address: str, now_ns: int) -> None:
        """Dial a node to which there is no link."""
        self._count += 1
        mesh, name, software = self._said
        me = self._entropy.getrandbits(128).to_bytes(16, "big")
        hello = Hello(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, mesh, me, me, name, software, reads=True
        )  # fmt: skip
        session = Session(self._entropy.getrandbits(63) + 1, hello, now_ns)
        link = OwnerLink(
            OWNER_LINK + b"%d" % self._count, origin, session, now_ns + limits.DIRECT_READ_DIAL_NS
        )
        self.by_origin[origin] = self.by_name[link.name] = self._touched[link.name] = link
        self.effects.append(OpenLink(link.name, address))

    def close(self, link: OwnerLink, now_ns: int) -> None:
        """It is not needed any more."""
        link.session.say_goodbye(now_ns)
        self._drop(link)

    def send(self, link: OwnerLink, body: Body, now_ns: int) -> None:
        """Send in order and once, while the session lives."""
        link.session.send(body, now_ns)
        self._touched[link.name] = link

    def receive(
        self, name: bytes, envelope: Envelope, now_ns: int
    ) -> tuple[OwnerLink, Body] | None:
        """Take a frame; return the body that an open link has brought, if any."""
        link = self.by_name.get(name)
        if link is None:
            return None
        self._touched[name] = link
        body = link.session.receive(envelope, now_ns)
        if body is None:
            return None
        if not isinstance(body, Welcome):
            return (link, body) if link.is_open else None
        if body.direct or body.origin != link.origin or body.minor < DIRECT_READS_MINOR:
            self._lose(link, now_ns)
        else:
            link.is_open = True
            self.opened.append(link)
        return None

    def fail(self, name: bytes, now_ns: int) -> None:
        """The transport says that nothing more comes, or bytes that are no frame came."""
        link = self.by_name.get(name)
        if link is not None:
            self._lose(link, now_ns)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self._touched.update(self._timers.tick(now_ns))
        for link in list(self.by_name.values()):
            if not link.is_open and now_ns >= link.until_ns:
                self._lose(link, now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        due = [link.until_ns for link in self.by_name.values() if not link.is_open]
        at = self._timers.next_deadline_ns()
        return min(due if at is None else [*due, at], default=None)

    def flush(self, now_ns: int) -> None:
        """Put what sessions have to send among the effects, and notice those that have ended."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for name, link in touched.items():
                if self.by_name.get(name) is not link:
                    continue
                self._flush(link)
                if link.session.state is SessionState.CLOSED:
                    self._lose(link, now_ns)
                else:
                    self._timers.look(name, link)

    def _lose(self, link: OwnerLink, now_ns: int) -> None:
        link.session.say_goodbye(now_ns)
        self._drop(link)
        self.lost.append(link)

    def _drop(self, link: OwnerLink) -> None:
        self._flush(link)
        del self.by_name[link.name]
        del self.by_origin[link.origin]
        self._touched.pop(link.name, None)
        self.effects.append(CloseLink(link.name))

    def _flush(self, link: OwnerLink) -> None:
        session = link.session
        if session.outbox:
            self.effects += [Send(link.name, envelope) for envelope in session.outbox]
            session.outbox = []
