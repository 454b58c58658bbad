"""Links of one program to others: who is dialled, who dials, and one session with each.

Rules:
1. Discovery decides whom to dial; the handshake says who is there.
2. Who dialled decides, once it is welcomed, whether the session is kept: not if another one with
   the same program is. Its first numbered frame tells the other end, which says nothing before
   that, so that no record travels in a session that is given up.
3. Of two that dial each other at once the one with the smaller instance keeps the session that it
   dialled; both ends judge alike. What was kept for longer than CROSSING_NS gives way to a new one:
   the other end has lost it.
4. A node that answers is none of ours: the dial has failed, and the owner is told (``nodes``).

It does not know what bodies mean. What is new gathers in ``joined``, ``left`` and ``effects``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from meshmq import limits
from meshmq.core.discovery import (
    GOSSIP,
    Dial,
    DialFailed,
    Discovery,
    Event,
    LinkDown,
    LinkUp,
    SightLost,
    Tick,
)
from meshmq.core.effects import CloseLink, OpenLink, Send
from meshmq.core.permits import NO_PERMIT, Permit, Permits
from meshmq.core.session import Session, SessionState
from meshmq.core.session_timers import SessionTimers
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Body,
    Envelope,
    Hello,
    Interest,
    Introduce,
    NodeFacts,
    PeerFacts,
    Refuse,
    Welcome,
)

REDUNDANT = "redundant"
"""Code of a refusal: there is another session between the two."""

NOT_INTRODUCED = "not-introduced"
"""Code of a refusal: the program talks only to those whom its node has introduced."""

IS_NODE = "node"
"""Reason of a failed dial: a node answered."""


@dataclass(slots=True, eq=False)
class Link:
    """One session with another program, or the attempt at one.

    Attributes:
        address: the one dialled; empty: the other end dialled us.
        facts: what the other end said of itself; of a dial known with its welcome.
        kept_ns: since when the session is the one that counts, or -1.
        node: what a node said of itself.
    """

    name: bytes
    session: Session
    address: str
    facts: PeerFacts
    kept_ns: int = -1
    due_ns: int = 0
    node: NodeFacts | None = None

    @property
    def instance(self) -> bytes:
        return self.facts.instance


class Links:
    """See the module's header.

    Args:
        hello: what we say of ourselves, to whom we dial; a welcome says the same.
        discovery: decides whom to dial.
        entropy: chooses session numbers.

    Attributes:
        joined, left: sessions that count from now on, and that do no longer; the owner takes them.
        effects: what to do, in order; the owner takes them.
        answered: addresses where somebody was, whoever it was.
        nodes: addresses where a node was; the owner takes them.
        node_address: where the node is that we are at, or empty.
        permits: whom we may talk to; None: to all.
    """

    name_prefix = b"dial-"
    links_max = limits.DIRECT_PEERS_MAX
    full = "this program has as many links as it may"

    def __init__(self, hello: Hello, discovery: Discovery, entropy: random.Random) -> None:
        self.hello = hello
        self.discovery = discovery
        self.by_name: dict[bytes, Link] = {}
        self.by_instance: dict[bytes, Link] = {}  # those that are kept
        self.joined: list[Link] = []
        self.left: list[Link] = []
        self.effects: list[OpenLink | CloseLink | Send] = []
        self.answered: set[str] = set()
        self.nodes: list[str] = []
        self.node_address = ""
        self.permits: Permits | None = None
        self.bad_frames = 0
        self.refused = 0
        self._introducer = b""
        self._permits_due_ns: int | None = None
        self._entropy = entropy
        self._dialled: dict[str, Link] = {}
        self._timers = SessionTimers(self.by_name)
        self._touched: dict[bytes, Link] = {}
        self._owing: dict[bytes, Link] = {}
        self._count = 0
        self._dial_due_ns = discovery.next_deadline_ns()  # it changes with what it is told

    # -- dials --------------------------------------------------------------------------------

    def tell(self, fact: Event, now_ns: int) -> None:
        """Something is known of peers: dial, or give up dials."""
        effects = self.discovery.handle(fact, now_ns)
        self._dial_due_ns = self.discovery.next_deadline_ns()
        for effect in effects:
            if isinstance(effect, Dial):
                if effect.address == self.node_address:
                    self.tell(DialFailed(effect.address, IS_NODE), now_ns)  # we know who is there
                else:
                    self._dial(effect.address, now_ns)
            else:
                link = self._dialled.get(effect.address)
                if link is not None:
                    link.session.say_goodbye(now_ns)
                    self._drop(link, now_ns)

    def _dial(self, address: str, now_ns: int) -> None:
        self._count += 1
        name = self.name_prefix + b"%d" % self._count
        self.effects.append(OpenLink(name, address))
        session = Session(self._entropy.getrandbits(63) + 1, self._hello_to(address), now_ns)
        link = Link(name, session, address, PeerFacts(addresses=(address,)))
        self.by_name[name] = self._dialled[address] = link
        self._touched[name] = link

    def _hello_to(self, address: str) -> Hello:
        """What we say of ourselves to whom we dial there."""
        return self.hello

    # -- what a node allows -------------------------------------------------------------------

    def introduce(self, frame: Introduce, node: bytes, now_ns: int) -> bool:
        """A node says what may pass between us and another program; whether he may be dialled."""
        self._introducer = node
        if self.permits is None:
            return True
        over = self.permits.introduce(frame, self.by_instance, now_ns)
        self._permits_due_ns = self.permits.next_deadline_ns()
        for instance in over:
            self.tell(SightLost(GOSSIP, instance, node), now_ns)
        return frame.instance not in over

    def permit_of(self, link: Link) -> Permit | None:
        """What a link is confined to; None: nothing."""
        if self.permits is None:
            return None
        return self.permits.by_instance.get(link.instance, NO_PERMIT)

    def may_know(self, link: Link, interest: Interest) -> bool:
        """Whether the other end may know of an interest of ours, or act on it."""
        permit = self.permit_of(link)
        return permit is None or permit.covers(interest)

    def _expire(self, now_ns: int) -> None:
        due, permits = self._permits_due_ns, self.permits
        if due is None or now_ns < due or permits is None:
            return
        over = permits.expired(now_ns)
        self._permits_due_ns = permits.next_deadline_ns()
        for instance in over:
            self.tell(SightLost(GOSSIP, instance, self._introducer), now_ns)
            link = self.by_instance.get(instance)
            if link is not None:
                why = "what the node has allowed the two programs is over"
                self.refuse(link, Refuse(NOT_INTRODUCED, why), now_ns)

    # -- events -------------------------------------------------------------------------------

    def receive(self, name: bytes, envelope: Envelope, now_ns: int) -> tuple[Link, Body] | None:
        """Take a frame; return the body that a session that counts has brought, if any."""
        self._expire(now_ns)  # after a pause frames come before the timer
        link = self.by_name.get(name)
        body = envelope.body
        if isinstance(body, Hello) and (link is None or link.session.id != envelope.session):
            self._on_hello(name, envelope.session, body, now_ns)
            return None
        if link is None or link.session.id != envelope.session:
            if not isinstance(body, Refuse):
                refusal = Refuse("link-lost", "this program does not know the session")
                self.effects.append(Send(name, Envelope(envelope.session, 0, 0, refusal)))
            return None
        self._touched[name] = link
        received = link.session.receive(envelope, now_ns)
        if received is None:
            return None
        if isinstance(received, Welcome):
            self._on_welcome(link, received, now_ns)
            return None
        if isinstance(received, Refuse):
            return None  # it has closed the session
        if link.kept_ns < 0 and not self._on_first(link, now_ns):
            return None
        return link, received

    def on_bad_frame(self, name: bytes, reason: str, now_ns: int) -> None:
        """Bytes that are no frame came."""
        self.bad_frames += 1
        link = self.by_name.get(name)
        if link is not None:
            self.refuse(link, Refuse("bad-frame", reason), now_ns)

    def on_closed(self, name: bytes, reason: str, now_ns: int) -> None:
        """The transport says that nothing more comes."""
        link = self.by_name.get(name)
        if link is not None:
            self._lose(link, reason, now_ns)

    def refuse(self, link: Link, refusal: Refuse, now_ns: int) -> None:
        """End a session in words."""
        link.session.say_goodbye(now_ns, refusal)
        self._lose(link, refusal.message, now_ns)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self._touched.update(self._timers.tick(now_ns))
        at = self._dial_due_ns
        if at is not None and at <= now_ns:
            self.tell(Tick(), now_ns)
        self._expire(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        found = (self._timers.next_deadline_ns(), self._dial_due_ns, self._permits_due_ns)
        return min([at for at in found if at is not None], default=None)

    # -- handshakes ---------------------------------------------------------------------------

    def _on_hello(self, name: bytes, number: int, hello: Hello, now_ns: int) -> None:
        refusal = self._judge(hello)
        if refusal is not None:
            self.refused += 1
            self.effects.append(Send(name, Envelope(number, 0, 0, refusal)))
            return
        before = self.by_name.get(name)
        if before is not None:
            self._lose(before, "the other end began anew", now_ns)
        me = self.hello
        welcome = Welcome(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, me.instance, me.name, me.software, 0, me.direct,
            me.addresses, me.node,
        )  # fmt: skip
        facts = self._facts(hello.instance, hello)
        link = Link(name, Session(number, welcome, now_ns), "", facts, node=hello.node)
        self.by_name[name] = self._touched[name] = link

    def _facts(self, instance: bytes, said: Hello | Welcome) -> PeerFacts:
        kind = "client" if said.node is None else "node"
        return PeerFacts(
            instance, kind, self.hello.mesh, said.name, said.major, said.minor, said.addresses
        )

    def _judge(self, hello: Hello) -> Refuse | None:
        if hello.major != PROTOCOL_MAJOR:
            return Refuse(
                "version-mismatch",
                f"this program speaks protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}, the other "
                f"{hello.major}.{hello.minor}: install the same major version on both",
            )
        if hello.mesh != self.hello.mesh:
            return Refuse(
                "mesh-mismatch",
                f"this program belongs to mesh {self.hello.mesh!r}, the other to {hello.mesh!r}",
            )
        if not hello.direct:
            return Refuse(
                "node-unreachable",
                f"{self.hello.name!r} is a program, not a node: name it in peers=[...], or start a "
                f"node with `meshmq node`",
            )
        if len(self.by_name) >= 2 * limits.DIRECT_PEERS_MAX:
            return Refuse("busy", self.full)
        return self._stranger(hello.instance)

    def _stranger(self, instance: bytes) -> Refuse | None:
        if self.permits is None or instance in self.permits.by_instance:
            return None
        return Refuse(NOT_INTRODUCED, "no node has introduced the two programs to each other")

    def _on_welcome(self, link: Link, welcome: Welcome, now_ns: int) -> None:
        if not self._is_ours(link, welcome, now_ns):
            return
        me, other = self.hello.instance, welcome.origin
        self.answered.add(link.address)
        link.facts = facts = self._facts(other, welcome)
        link.node = welcome.node
        crossing = any(
            x.instance == other and not x.address and x.kept_ns < 0 for x in self.by_name.values()
        )
        is_first = other not in self.by_instance and (not crossing or me < other)
        if is_first and len(self.by_instance) >= self.links_max:
            is_first = False
        address = link.address
        stranger = self._stranger(other)
        if stranger is not None:
            self.refuse(link, stranger, now_ns)
            return
        if is_first and other != me:
            self._keep(link, now_ns)
        self.tell(LinkUp(facts, address), now_ns)
        if link.kept_ns < 0 and self.by_name.get(link.name) is link:
            self.refuse(link, Refuse(REDUNDANT, "there is another session"), now_ns)

    def _is_ours(self, link: Link, welcome: Welcome, now_ns: int) -> bool:
        """Whether who answers is one of those we talk to; else the dial has failed."""
        if not welcome.direct:
            link.session.say_goodbye(now_ns)
            self.nodes.append(link.address)
            self._lose(link, IS_NODE, now_ns)
            return False
        return True

    def _is_same(self, link: Link, other: Link) -> bool:
        """Whether both are links of one run of the other end."""
        return True

    def _on_first(self, link: Link, now_ns: int) -> bool:
        """The other end has dialled and keeps the session: whether it counts from now on."""
        other = self.by_instance.get(link.instance)
        if other is None:
            if len(self.by_instance) >= self.links_max:
                self.refuse(link, Refuse("busy", self.full), now_ns)
                return False
        else:
            is_crossing = bool(other.address) and now_ns - other.kept_ns < limits.CROSSING_NS
            if is_crossing and self._is_same(link, other) and self.hello.instance < link.instance:
                self.refuse(link, Refuse(REDUNDANT, "there is another session"), now_ns)
                return False
        self._keep(link, now_ns)
        if other is None or other.address:
            self.tell(LinkUp(link.facts), now_ns)  # before the other is lost, or it is dialled
        if other is not None:
            other.session.say_goodbye(now_ns, Refuse(REDUNDANT, "there is another session"))
            self._drop(other, now_ns)
            if other.address:
                self.tell(LinkDown(other.instance, other.address, REDUNDANT), now_ns)
        return True

    def _keep(self, link: Link, now_ns: int) -> None:
        link.kept_ns = now_ns
        self.by_instance[link.instance] = link
        self.joined.append(link)

    # -- ends ---------------------------------------------------------------------------------

    def _lose(self, link: Link, reason: str, now_ns: int) -> None:
        """It is over: discovery is told."""
        if not self._drop(link, now_ns):
            return
        if not link.address:
            if link.kept_ns >= 0:
                self.tell(LinkDown(link.instance, "", reason), now_ns)
        elif link.instance:
            self.tell(LinkDown(link.instance, link.address, reason), now_ns)
        else:
            code = link.session.closed_code
            if code != "link-lost":
                self.answered.add(link.address)
            self.tell(DialFailed(link.address, code or reason), now_ns)

    def _drop(self, link: Link, now_ns: int) -> bool:
        if self.by_name.get(link.name) is not link:
            return False
        self._flush(link)
        del self.by_name[link.name]
        self._touched.pop(link.name, None)
        self._owing.pop(link.name, None)
        if self._dialled.get(link.address) is link:
            del self._dialled[link.address]
        if self.by_instance.get(link.instance) is link:
            del self.by_instance[link.instance]
        if link.kept_ns >= 0:
            if link in self.joined:
                self.joined.remove(link)
            else:
                self.left.append(link)
        self.effects.append(CloseLink(link.name))
        return True

    def goodbye(self, now_ns: int) -> None:
        """The program ends: tell all."""
        for link in list(self.by_name.values()):
            link.session.say_goodbye(now_ns)
            self._drop(link, now_ns)

    # -- sending ------------------------------------------------------------------------------

    def send(self, link: Link, body: Body, now_ns: int) -> None:
        """Send in order and once, while the session lives."""
        link.session.send(body, now_ns)
        self._touched[link.name] = link

    def owe(self, link: Link) -> None:
        """What came is to be acknowledged at the turn's end."""
        self._owing[link.name] = link

    def acknowledge(self, now_ns: int) -> None:
        """The turn's end."""
        owing, self._owing = self._owing, {}
        for link in owing.values():
            link.session.acknowledge(now_ns)
            self._touched[link.name] = link

    def flush(self, now_ns: int) -> None:
        """Put what sessions have to send among the effects, and notice those that have ended."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for name, link in touched.items():
                if self.by_name.get(name) is not link:
                    continue
                self._flush(link)
                session = link.session
                if session.state is SessionState.CLOSED:
                    self._lose(link, session.closed_reason, now_ns)
                    continue
                self._timers.look(name, link)

    def _flush(self, link: Link) -> None:
        session = link.session
        if session.outbox:
            name = link.name
            self.effects += [Send(name, envelope) for envelope in session.outbox]
            session.outbox = []
