"""What goes wrong in the history of a site, and when: all of it from the world's seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from meshmq.limits import MS, SECOND

if TYPE_CHECKING:
    from meshmq.testing.disk import Disk
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_world import SiteWorld

HOUR_NS = 3_600 * SECOND
FAULTS_NS = 6 * SECOND
LONG_NS = 100 * SECOND  # longer than who was lost is dialled as before
STAY_NS = 8 * SECOND  # of who does not belong: so long that all must have heard of it
WORDS = {
    "copy": ("data directory",),
    "name": ("named",),
    "site": ("belongs to site", "is of site"),
    "mesh": ("belongs to mesh",),
}


class Stay:
    """Somebody who does not belong was there for a while.

    Attributes:
        rival: who has its name or its log, or just one of the nodes that it dials.
        since_ns, until_ns: when both were there; until_ns 0: not over.
    """

    def __init__(self, kind: str, host: Host, rival: Host, since_ns: int) -> None:
        self.kind = kind
        self.host = host
        self.rival = rival
        self.since_ns = since_ns
        self.until_ns = 0
        self.epoch = rival.epoch


class SiteFaults:
    """Breaks a world, in each round anew.

    Attributes:
        span_ns: how long a round's faults take.
        disturbed: by those it hit (a node alone, or two whose path it was) when a fault was last.
        stays: of those that do not belong.
        restarted: what the names of programs begin with that may be started anew.
    """

    restarted = ""

    def __init__(self, world: SiteWorld) -> None:
        self.world = world
        self.span_ns = FAULTS_NS
        self.disturbed: dict[frozenset[Host], int] = {}
        self.stays: list[Stay] = []
        self._is_on = False
        self._backups: dict[Host, Disk] = {}

    def plan(self) -> None:
        """Faults of this round."""
        world, rng = self.world, self.world.rng
        self._is_on = True
        is_long = world.size <= 4 and rng.random() < 0.1
        self.span_ns = LONG_NS if is_long else FAULTS_NS
        if rng.random() < 0.1:
            return  # a round without any: all there is to see is that nothing happens
        counts = (
            (self._kill, [0, 1, 2, 4]), (self._cut, [0, 1, 3]), (self._isolate, [0, 0, 1]),
            (self._flap, [0, 0, 1]), (self._swizzle, [0, 0, 0, 1]), (self._break, [0, 0, 2, 8]),
            (self._stand_still, [0, 0, 1]), (self._jump, [0, 0, 2]), (self._intrude, [0, 0, 1]),
            (self._restart_program, [0, 1, 2]), (self._back_up, [0, 1, 3]),
            (self._join, [0, 0, 0, 1]),
        )  # fmt: skip
        for work, choices in counts:
            count = rng.choice(choices)
            for _ in range(count):
                self._some_time(work)
            if work == self._intrude and count:
                self.span_ns = FAULTS_NS + STAY_NS  # nothing else happens while both are there
        if is_long:
            world.after(SECOND, partial(self._cut, LONG_NS))
            world.after(SECOND, partial(self._isolate, LONG_NS))

    def end(self) -> None:
        """All is well again; who does not belong goes."""
        self._is_on = False
        for pair in self.world.cut:
            self._disturb(*pair)
        for stay in self.stays:
            self._leave(stay)

    def is_quiet(self, hosts: set[Host], since_ns: int) -> bool:
        """Whether no fault has hit these, nor any two of them, since then."""
        return all(at < since_ns for hit, at in self.disturbed.items() if hit <= hosts)

    def _some_time(self, work: Callable[[], None]) -> None:
        world = self.world

        def act() -> None:
            if self._is_on:
                work()

        world.after(int(world.rng.random() * min(self.span_ns, FAULTS_NS)), act)

    def _disturb(self, *hosts: Host, at_ns: int = 0) -> None:
        key = frozenset(hosts)
        self.disturbed[key] = max(self.disturbed.get(key, 0), at_ns or self.world.now_ns)

    def _some(self) -> Host | None:
        running = [h for h in self.world.members if h.node is not None]
        return self.world.rng.choice(running) if running else None

    # -- nodes ----------------------------------------------------------------------------------

    def _kill(self) -> None:
        host = self._some()
        if host is not None:
            self.kill(host)

    def kill(self, host: Host) -> None:
        """A node dies, and is started again after a while."""
        world, rng = self.world, self.world.rng
        if host.node is None or not self._is_on:
            return
        self.fell(host, is_silent=rng.random() < 0.3)
        kind = rng.choice(["same", "same", "same", "empty", "old", "moved"])
        if kind == "old" and not all(part.has_copies for part in world.parts):
            kind = "same"
        delay = int(rng.random() ** 2 * 4 * SECOND)
        world.after(delay, partial(self._start, host, kind, world.round))

    def fell(self, host: Host, is_silent: bool) -> None:
        """A node dies, or its host does (``is_silent``)."""
        world = self.world
        world.kills += 1
        self._disturb(host)
        world.note("kill", host.name, is_silent)
        host.kill(is_silent)
        for program in world.programs.values():
            if program.host is host:
                program.on_node_killed()

    def _start(self, host: Host, kind: str, of_round: int) -> None:
        world = self.world
        if host.node is not None or world.round != of_round or not self._is_on:
            return
        world.note("again", host.name, kind)
        if kind == "empty":
            self._replace(host, world.fresh_disk())
        elif kind == "old" and host in self._backups:
            self._replace(host, copy.deepcopy(self._backups[host]))
        elif kind == "moved" and host.uses_mdns:
            host.move(host.index + 1000 * (world.kills + 1))
        self._disturb(host)
        host.start_node()

    def _replace(self, host: Host, disk: Disk) -> None:
        for part in self.world.parts:
            part.on_disk_lost(host)
        host.disk = disk

    def _back_up(self) -> None:
        """Somebody copies a disk, which may come back as it was then."""
        host = self.world.rng.choice(self.world.members)
        self._backups[host] = copy.deepcopy(host.disk)

    def _join(self) -> None:
        """A node more, for good."""
        world = self.world
        world.note("join", len(world.hosts))
        host = world.add_member()
        host.peers = tuple([h.address for h in world.members])
        self._disturb(host)
        host.start_node()

    def _stand_still(self) -> None:
        """A node handles nothing for a while, then all at once."""
        host = self._some()
        if host is not None:
            until_ns = self.world.now_ns + int(self.world.rng.random() * 5 * SECOND)
            self.world.note("stop", host.name)
            host.still_until_ns = max(host.still_until_ns, until_ns)
            self._disturb(host, at_ns=host.still_until_ns)

    def _jump(self) -> None:
        """Somebody sets a host's clock: nothing but timestamps may notice."""
        host = self.world.rng.choice(self.world.members)
        by_ns = self.world.rng.choice([-HOUR_NS, HOUR_NS])
        if all(part.has_jumps for part in self.world.parts):
            host.wall_ns += by_ns

    def _restart_program(self) -> None:
        world = self.world
        names = sorted(name for name in world.programs if name.startswith(self.restarted))
        if names:
            old = world.programs[world.rng.choice(names)]
            world.start_program(old.name, old.run + 1, world.rng.choice(world.members))

    # -- paths ----------------------------------------------------------------------------------

    def _lose(self, pairs: set[tuple[Host, Host]], span_ns: int) -> None:
        world = self.world
        if not self._is_on:
            return
        world.note("cut", sorted((a.name, b.name) for a, b in pairs))
        world.cut |= pairs
        for pair in pairs:
            self._disturb(*pair)

        of_round = world.round

        def mend() -> None:
            if world.round != of_round:
                return
            world.cut.difference_update(pairs)
            for pair in pairs:
                self._disturb(*pair)

        world.after(span_ns, mend)

    def _pair(self) -> list[Host]:
        return self.world.rng.sample(self.world.members, 2)

    def _cut(self, span_ns: int = 0) -> None:
        """Frames from one node to another are lost, or both ways, for a while."""
        one, other = self._pair()
        pairs = {(one, other)} | ({(other, one)} if self.world.rng.random() < 0.5 else set())
        self._lose(pairs, span_ns or self._span())

    def _span(self) -> int:
        """How long a path is cut: a while, or until all is healed."""
        rng = self.world.rng
        return LONG_NS if rng.random() < 0.4 else int(rng.random() * 6 * SECOND)

    def _isolate(self, span_ns: int = 0) -> None:
        """A node and all others hear nothing of each other, or one of the two of the other."""
        rng = self.world.rng
        host = rng.choice(self.world.members)
        others = [h for h in self.world.members if h is not host]
        pairs = {(host, h) for h in others} if rng.random() < 0.8 else set()
        if not pairs or rng.random() < 0.7:
            pairs |= {(h, host) for h in others}
        self._lose(pairs, span_ns or self._span())

    def _flap(self) -> None:
        """A path comes and goes."""
        one, other = self._pair()
        at = 0
        rng = self.world.rng
        for _ in range(rng.randrange(4, 12)):
            span_ns = int(rng.random() * 700 * MS)
            self.world.after(at, partial(self._lose, {(one, other), (other, one)}, span_ns))
            at += span_ns + int(rng.random() * 700 * MS)

    def _swizzle(self) -> None:
        """Paths are lost one after another, in one direction or both, and come back in another
        order."""
        world, rng = self.world, self.world.rng
        pairs = [(a, b) for a in world.members for b in world.members if a is not b]
        rng.shuffle(pairs)
        pairs = pairs[: rng.randrange(1, len(pairs) + 1)]
        ends = [SECOND + int(rng.random() * 4 * SECOND) for _ in pairs]
        for i, (pair, end) in enumerate(zip(pairs, ends, strict=True)):
            world.after(i * 20 * MS, partial(self._lose, {pair}, end))

    def _break(self) -> None:
        """A connection ends."""
        world = self.world
        wires = [w for h in world.members for link, w in h.wires.items() if link == w.link]
        if wires:
            wire = world.rng.choice(wires)
            if wire.listener is not None:
                self._disturb(wire.dialler, wire.listener)
            world.note("break", wire.name)
            world.break_wire(wire)

    # -- who does not belong --------------------------------------------------------------------

    def _intrude(self) -> None:
        """A node on a copy of another one's disk, one that has another one's name, or one of
        another site or mesh."""
        world, rng = self.world, self.world.rng
        rival = self._some()
        if rival is None:
            return
        kind = rng.choice(sorted(WORDS))
        if kind == "copy" and not all(part.has_copies for part in world.parts):
            kind = "name"
        name = f"x{len(world.hosts)}"
        if kind == "copy":
            name = rival.name if rng.random() < 0.3 else name
            host = world.add_host(name, copy.deepcopy(rival.disk))
        elif kind == "name":
            host = world.add_host(rival.name)
        else:
            site, mesh = ("us", "plant") if kind == "site" else ("eu", "other")
            host = world.add_host(rival.name if rng.random() < 0.5 else name, None, site, mesh)
        host.peers = tuple([h.address for h in world.members])
        host.uses_mdns = rng.random() < 0.5 and kind in ("copy", "name")
        host.wall_ns += rng.randrange(1, SECOND)  # no two clocks say the same
        world.note("intrude", kind, rival.name)
        if rng.random() < 0.3:  # both begin at once, and nobody knows either
            self.fell(rival, is_silent=False)
            rival.start_node()
        host.start_node()
        stay = Stay(kind, host, rival, world.now_ns)
        self.stays.append(stay)
        span_ns = STAY_NS if rng.random() < 0.6 else int(rng.random() * SECOND)
        world.after(span_ns, partial(self._leave, stay))

    def _leave(self, stay: Stay) -> None:
        if not stay.until_ns:
            stay.until_ns = self.world.now_ns
            stay.host.kill(is_silent=False)
