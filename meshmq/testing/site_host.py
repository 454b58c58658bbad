"""Nodes of a simulated site, each on its disk, and the connections between them.

Every node dials; the listener names what it accepts. A node that is killed resets its connections:
who dialled is told which, who listens that one is over, and finds by sending that it is that one.
Where the path is cut, or the host has no power, nobody is told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from meshmq import codec
from meshmq.core.discovery import MDNS, Sighted
from meshmq.core.events import FrameReceived, LinkClosed, ListenerCut, NodeEvent, PeerSighted
from meshmq.core.log import Commit
from meshmq.core.site_identity import NODE_LINK, SiteIdentity
from meshmq.frames import Envelope, PeerFacts
from meshmq.limits import MS
from meshmq.testing.disk import Disk
from meshmq.testing.network import Network
from meshmq.testing.stage import Stage

if TYPE_CHECKING:
    from meshmq.testing.site_world import SiteWorld

RESET_NS = 100_000  # until the other end's host has heard


class Way:
    """One direction of a connection; ``last_ns`` is when the newest frame in it arrives."""

    last_ns = 0


class Wire:
    """One connection between two nodes.

    Attributes:
        link: what its dialler calls it; ``name``: what the listener does.
        epoch: of the dialler's run; ``listener_epoch`` of the other, once something has come there.
        closed: its dialler has let it go, or knows that it is over.
        is_gone: the listener's transport knows that it is over.
    """

    def __init__(
        self, number: int, dialler: Host, link: bytes, address: str, listener: Host | None
    ) -> None:
        self.dialler = dialler
        self.link = link
        self.address = address
        self.listener = listener
        self.name = NODE_LINK + b"%d" % number
        self.epoch = dialler.epoch
        self.listener_epoch = 0
        self.closed = False
        self.is_gone = False
        self.there, self.back = Way(), Way()

    @property
    def is_dialled(self) -> bool:
        """Whether the dialler's end still stands."""
        return not self.closed and self.dialler.epoch == self.epoch


class Host(Stage):
    """One node, and the host it runs on.

    Attributes:
        address, client_address: where nodes and programs dial it.
        peers: what it is told to dial.
        uses_mdns: it hears of others, and they of it.
        wires: its connections, by what it calls them.
        is_off: it has no power: nothing resets what comes to it.
        still_until_ns: it handles nothing before.
        words: what it told people of others, and when.
        runs: its incarnations.
        since: by origin of each other node that it is wholly linked with, the data link and when.
        copies: nodes that are to have its log.
    """

    copies = 1

    def __init__(
        self, world: SiteWorld, index: int, name: str, disk: Disk, site: str, mesh: str
    ) -> None:
        self.world = world
        super().__init__(world.seed, world.tools, world.records)
        self.rng = world.rng
        self.index = index
        self.name = name
        self.mesh = mesh
        self.site = site
        self.disk = disk
        self.client_address = f"tcp://127.0.0.1:{40_000 + index}"
        self.move(index)
        self.peers: tuple[str, ...] = ()
        self.uses_mdns = False
        self.wires: dict[bytes, Wire] = {}
        self.is_off = False
        self.still_until_ns = 0
        self.words: list[tuple[int, str]] = []
        self.runs: dict[int, bytes] = {}
        self.since: dict[bytes, tuple[bytes, int]] = {}
        self._version = -1

    def __repr__(self) -> str:
        return self.name

    @property
    def now_ns(self) -> int:
        """The world's."""
        return self.world.now_ns

    @now_ns.setter
    def now_ns(self, now_ns: int) -> None: ...

    @property
    def origin(self) -> bytes:
        return self.disk.state.origin

    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        self.world.after(delay_ns, work)

    def note(self, *what: object) -> None:
        self.world.note(self.name, *what)

    def move(self, index: int) -> None:
        """Nodes dial it elsewhere from now on; programs know one address, and no mDNS."""
        self.address = f"tcp://127.0.0.1:{20_000 + index}"

    def site_identity(self) -> SiteIdentity:
        incarnation = self.wall_ns + self.now_ns  # as the shell takes it from the clock
        self.runs[incarnation] = self.origin
        return SiteIdentity(
            self.site, incarnation, (self.address,), (self.client_address,), copies=self.copies
        )

    def on_node_started(self) -> None:
        assert self.node is not None
        assert self.node.site is not None
        self.is_off = False
        self.still_until_ns = 0
        self.wires = {}
        self.since = {}
        self._version = -1
        self.node.site.look_for(self.peers, self.now_ns)
        self._end_turn()
        self.world.on_started(self)

    def node_event(self, event: NodeEvent) -> None:
        still_ns = self.still_until_ns - self.now_ns
        if still_ns > 0 and self.node is not None:
            epoch = self.epoch
            self.after(still_ns, lambda: self.epoch == epoch and self.node_event(event))  # type: ignore[func-returns-value,arg-type]
            return
        peer = self.taker(event)
        if peer is not None and isinstance(event, FrameReceived):
            for part in self.world.parts:
                part.on_taken(self, peer, event.envelope)
        super().node_event(event)

    def wake(self) -> None:
        """It stands still no longer."""
        self.still_until_ns = 0

    def on_synced(self, commit: Commit) -> None:
        self.world.on_synced(self, commit)

    def on_turn_ended(self) -> None:
        site = self.node.site if self.node is not None else None
        if site is None:
            return
        if site.links.news:
            self.words += [(self.now_ns, text) for text in site.links.news]
            site.links.news.clear()
        if site.version != self._version:
            self._version = site.version
            self._note_siblings()
        for part in self.world.parts:
            part.on_turn_ended(self)

    def _note_siblings(self) -> None:
        assert self.node is not None
        assert self.node.site is not None
        siblings = self.node.site.siblings
        for origin in [o for o in self.since if o not in siblings or not siblings[o].link]:
            del self.since[origin]
        for origin, sibling in siblings.items():
            if sibling.link and self.since.get(origin, (b"", 0))[0] != sibling.link:
                self.since[origin] = (sibling.link, self.now_ns)
        self.world.on_view(self)

    def view(self) -> dict[bytes, int]:
        """The incarnation of each other node that it is wholly linked with."""
        site = self.node.site if self.node is not None else None
        if site is None:
            return {}
        return {s.origin: s.incarnation for s in site.siblings.values() if s.link}

    # -- what the node has done -------------------------------------------------------------------

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        if link in self.wires or link.startswith(NODE_LINK):
            self.world.carry(self, link, envelope)
        else:
            self.world.to_program(self, link, envelope)

    def on_link_opened(self, link: bytes, address: str) -> None:
        self.world.open_wire(self, link, address)

    def on_link_dropped(self, link: bytes) -> None:
        wire = self.wires.get(link)
        if wire is not None and link == wire.link:  # a listener keeps nothing of single links
            del self.wires[link]
            wire.closed = True
            self.world.reset_listener(wire)
        for part in self.world.parts:
            part.on_link_dropped(self, link)

    def kill(self, is_silent: bool) -> None:
        """The node dies; if it is the host that does, no connection is reset."""
        if self.node is None:
            return
        wires, self.wires = self.wires, {}
        self.stop_node()
        self.is_off = is_silent
        self.still_until_ns = 0
        if is_silent:
            return
        for link, wire in wires.items():
            if link == wire.link:
                self.world.reset_listener(wire)
            else:
                self.world.reset_dialler(wire)


class SiteNetwork(Network):
    """Connections between nodes.

    Attributes:
        hosts: all there are, whether their nodes run or not.
        cut: (from, to): what travels so is lost.
        frames: that nodes have sent to each other; is_coded: they go through the codec.
    """

    seed: int
    hosts: list[Host]
    cut: set[tuple[Host, Host]]
    frames = 0
    is_coded = False
    _wire_count = 0

    def travel(self, way: Way, arrive: Callable[[], None]) -> None:
        """A frame is on its way: in order, unless frames are late in this history."""
        rng = self.rng
        if self.late and not self.healed:
            self._travel(arrive)
            return
        if rng.random() < self.loss:
            return
        way.last_ns = max(self.now_ns + 50_000 + int(rng.random() * 200_000), way.last_ns + 1)
        self.after(way.last_ns - self.now_ns, arrive)
        if rng.random() < self.repeat:
            self.after(way.last_ns - self.now_ns + int(rng.random() * 100 * MS), arrive)

    def host_at(self, address: str) -> Host | None:
        """Who listens for nodes there, or did last."""
        return next((h for h in reversed(self.hosts) if h.address == address), None)

    def is_open(self, one: Host, other: Host) -> bool:
        """Whether what one sends comes to the other's host."""
        return (one, other) not in self.cut and not other.is_off

    def open_wire(self, host: Host, link: bytes, address: str) -> None:
        """A node dials."""
        self._wire_count += 1
        other = self.host_at(address)
        wire = host.wires[link] = Wire(self._wire_count, host, link, address, other)
        if other is None or (other.node is None and self.is_open(host, other)):
            self._refuse(wire)

    def _refuse(self, wire: Wire) -> None:
        """Nobody listens there, or not the one it was connected to: the dialler is told."""

        def arrive() -> None:
            if wire.is_dialled:
                wire.closed = True
                wire.dialler.wires.pop(wire.link, None)
                wire.dialler.node_event(LinkClosed(wire.link, "the connection was cut"))

        if wire.listener is None or (wire.listener, wire.dialler) not in self.cut:
            self.after(RESET_NS, arrive)

    def reset_dialler(self, wire: Wire) -> None:
        """The listener is gone."""
        self._refuse(wire)

    def reset_listener(self, wire: Wire) -> None:
        """The dialler has ended it."""
        listener = wire.listener
        if listener is None or not wire.listener_epoch or not self.is_open(wire.dialler, listener):
            return

        def arrive() -> None:
            if not wire.is_gone and listener.epoch == wire.listener_epoch:
                wire.is_gone = True
                listener.node_event(ListenerCut())

        self.after(RESET_NS, arrive)

    def carry(self, host: Host, link: bytes, envelope: Envelope) -> None:
        """A node sends to another one."""
        wire = host.wires.get(link)
        if wire is None:
            return
        self.frames += 1
        if self.is_coded:
            envelope = codec.decode(codec.encode(envelope))
        self.on_carried(host, wire, envelope)
        if link == wire.link:
            self._to_listener(wire, envelope)
        else:
            self._to_dialler(wire, envelope)

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        """A frame leaves; for who looks on."""

    def _to_listener(self, wire: Wire, envelope: Envelope) -> None:
        listener = wire.listener
        if listener is None or not self.is_open(wire.dialler, listener):
            return

        def arrive() -> None:
            if wire.dialler.epoch != wire.epoch:
                return  # its connection was reset, and what was on its way is discarded
            is_known = wire.listener_epoch == listener.epoch
            is_new = not wire.listener_epoch and wire.address == listener.address
            if listener.node is None or not (is_known or is_new):
                if not listener.is_off:
                    self._refuse(wire)
                return
            wire.listener_epoch = listener.epoch
            listener.wires[wire.name] = wire
            listener.node_event(FrameReceived(wire.name, envelope))

        self.travel(wire.there, arrive)

    def _to_dialler(self, wire: Wire, envelope: Envelope) -> None:
        listener, dialler = wire.listener, wire.dialler
        assert listener is not None
        if wire.is_gone:
            epoch = listener.epoch
            closed = LinkClosed(wire.name, "gone")
            self.after(1, lambda: listener.epoch == epoch and listener.node_event(closed))  # type: ignore[func-returns-value,arg-type]
            return
        if not self.is_open(listener, dialler):
            return

        def arrive() -> None:
            if wire.is_dialled:
                dialler.node_event(FrameReceived(wire.link, envelope))
            elif not dialler.is_off:
                self.reset_listener(wire)

        self.travel(wire.back, arrive)

    def break_wire(self, wire: Wire) -> None:
        """The connection ends, and both ends' hosts notice where the path is not cut."""
        self.reset_listener(wire)
        self._refuse(wire)

    # -- mDNS -------------------------------------------------------------------------------------

    def announce(self, host: Host) -> None:
        """A node that has started and those there are hear of each other, in a while."""
        if not host.uses_mdns:
            return
        for other in self.hosts:
            if other is not host and other.uses_mdns:
                for one, two in ((host, other), (other, host)):
                    delay = int(self.rng.random() * 300 * MS)
                    self.after(delay, partial(self._sight, one, two, one.epoch, two.epoch))

    def _sight(self, host: Host, other: Host, epoch: int, other_epoch: int) -> None:
        if host.node is None or other.node is None:
            return
        if (host.epoch, other.epoch) != (epoch, other_epoch):
            return
        if not self.is_open(other, host):
            # It is asked for again, and again.
            self.after(1000 * MS, partial(self._sight, host, other, epoch, other_epoch))
            return
        facts = PeerFacts(other.origin, "node", other.mesh, other.name, addresses=(other.address,))
        host.node_event(PeerSighted(Sighted(MDNS, facts)))
