"""A site of nodes with their programs, on virtual time: nodes come, die and return, paths are cut.

A history has rounds of three parts: faults, healing, and a calm in which everything must come
through. Healing ends when all nodes have the same view: how long that took is noted. What programs
do, and what must hold of it, is the business of parts (see Part), one for each feature.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

from meshmq import codec
from meshmq.core.log import Commit
from meshmq.core.publisher import EncodeBatch
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.testing.disk import Disk
from meshmq.testing.history import check_batch, decode, encode
from meshmq.testing.request_world import small
from meshmq.testing.site_calls import Calls
from meshmq.testing.site_directory import Agreements
from meshmq.testing.site_durables import Durables
from meshmq.testing.site_faults import FAULTS_NS, SiteFaults
from meshmq.testing.site_host import Host, SiteNetwork, Wire
from meshmq.testing.site_part import Part
from meshmq.testing.site_program import SiteProgram
from meshmq.testing.site_transients import Transients
from meshmq.testing.site_works import Works
from meshmq.testing.stage import WALL_NS

VIEW_NS = 3 * SECOND  # after a heal all nodes have the same view: a longest back-off, handshakes
SETTLE_NS = 30 * SECOND
CALM_NS = 1 * SECOND
REST_NS = 30 * SECOND
SPARING = 0.1
PARTS: dict[str, Callable[[SiteWorld], Part]] = {
    "transients": Transients, "durables": Durables, "works": Works, "calls": Calls,
    "agreements": Agreements,
}  # fmt: skip
COMMON = ("transients", "agreements")
FEATURES = (
    COMMON, COMMON, ("durables",), ("works",), ("calls",), ("transients", "durables"),
    ("calls", "works"), ("calls", "durables"),
)  # fmt: skip
EVENTS_MAX = 400_000  # several times what the busiest history has, of few nodes


class SiteWorld(SiteNetwork):
    """One history, from one seed. ``run`` plays it.

    Args:
        nodes: how many; None: as the seed says.
        features: names of the parts that are played; None: as the seed says.

    Attributes:
        parts: what programs do, and must have of it.
        disks: of members, all that ever were, by their logs' origin.
        hosts: nodes that belong to the site, and what of others was started meanwhile.
        members: those that belong to it.
        programs: all that ever ran.
        has_movers: some programs go to another node when they have lost theirs.
        usual: how often frames are lost, repeated and late while there are faults.
        heals: after each heal how long it took until all views were the same; -1: they never were.
        agreed: the same until all nodes had agreed on the same.
        strange: what may not be and was.
        is_sparing: publishers send nothing of what they were told that nobody wants.
    """

    host_kind: type[Host] = Host

    def __init__(
        self, seed: int, nodes: int | None = None, features: Sequence[str] | None = None
    ) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.now_ns = SECOND
        self.tools = codec.TOOLS._replace(check=check_batch)
        self.encode: EncodeBatch = encode
        self.records: Callable[[bytes], list[bytes]] = decode
        few = rng.choice([2, 2, 3, 3, 4, 5, 6])
        self.size = nodes or (20 if rng.random() < 0.02 else few)
        self.loss = rng.choice([0.0, 0.0, 0.01, 0.1])
        self.repeat = rng.choice([0.0, 0.02, 0.1])
        self.late = rng.choice([0.0, 0.0, 0.05, 0.2])
        self.usual: tuple[float, float, float] | None = None
        self.knowing = rng.choice(["all", "first", "ring", "mdns", "mdns", "both"])
        self.rounds = 1 if self.size > 6 else rng.choice([1, 2, 3])
        self.bounds = rng.choice([{}, {}, {"SITE_CREDIT_BYTES": 400}, {"SITE_CREDIT_BYTES": 4000}])
        self.bounds = {**self.bounds, **rng.choice([{}, {"SITE_PATTERNS_PER_FRAME": 2}])}
        self.queue_bytes = rng.choice([1 << 24, 1 << 24, 600])
        self.is_sparing = random.Random(f"{seed} sparing").random() < SPARING
        if self.is_sparing:  # then what is dropped would be told by numbers
            self.bounds.pop("SITE_CREDIT_BYTES", None)
            self.queue_bytes = 1 << 24
        self.hosts: list[Host] = []
        self.members: list[Host] = []
        self.programs: dict[str, SiteProgram] = {}
        self.all_programs: list[SiteProgram] = []
        self.cut = set()
        self.heals: list[int] = []
        self.agreed: list[int] = []
        self.strange: list[str] = []
        self.unrest: list[str] = []
        self.is_calm = False
        self.round = 0
        self.round_ns = self.now_ns
        self.kills = 0
        self.events = 0
        # By a source of their own: a history of transient topics alone is what it always was.
        self.more = random.Random(~seed)
        self.features = tuple(features or self.more.choice(FEATURES))
        self.has_movers = not set(self.features) <= set(COMMON)
        if "works" in self.features:  # hand-outs are records of real batches
            self.tools = codec.TOOLS
            self.encode, self.records = codec.encode_batch, lambda payload: []
        self.disks: dict[bytes, Disk] = {}
        self.parts: tuple[Part, ...] = tuple([PARTS[name](self) for name in self.features])
        for part in self.parts:
            self.bounds |= part.bounds
        self.faults = SiteFaults(self)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._digest = hashlib.sha256()

    # -- the play -----------------------------------------------------------------------------

    def run(self) -> Self:
        """Play the history."""
        with small(self.bounds):
            self._run()
        return self

    def _run(self) -> None:
        self.build()
        for number in range(self.rounds):
            self.round = number
            self._break()
            self._heal()
            if not self.is_calm or self.unrest:
                return
        for part in self.parts:
            part.close()

    def build(self) -> None:
        """The nodes, and programs at some of them; all begin within a moment."""
        rng = self.rng
        for _ in range(self.size):
            self.add_member()
        for i, host in enumerate(self.members):
            host.peers = self._peers_of(i)
            self.after(int(rng.random() * 300 * MS), host.start_node)
        for i in range(rng.choice([2, 3, 4]) if self.size <= 6 else 8):
            at = rng.choice(self.members)
            self.after(int(rng.random() * SECOND), partial(self.start_program, f"p{i}", 0, at))

    def _peers_of(self, i: int) -> tuple[str, ...]:
        members = self.members
        match self.knowing:
            case "all" | "both":
                return tuple([h.address for h in members])  # as one writes it once for all
            case "first":
                return (members[0].address,)
            case "ring":
                return (members[(i + 1) % len(members)].address,)
        return ()

    def add_member(self) -> Host:
        """One more node of the site, which does not run yet."""
        host = self.add_host(f"n{len(self.members)}")
        host.uses_mdns = self.knowing in ("mdns", "both")
        self.members.append(host)
        return host

    def add_host(
        self, name: str, disk: Disk | None = None, site: str = "eu", mesh: str = "plant"
    ) -> Host:
        """A host with a node that does not run yet."""
        index = len(self.hosts)
        if disk is None:
            disk = self.fresh_disk()
        host = self.host_kind(self, index, name, disk, site, mesh)
        host.queue_bytes = self.queue_bytes
        self.hosts.append(host)
        return host

    def fresh_disk(self) -> Disk:
        """A disk with an identity of its own."""
        disk = Disk(self.rng.getrandbits(128).to_bytes(16, "big"))
        entries = [entry for part in self.parts for entry in part.prepare()]
        if entries:
            disk.commit(entries, WALL_NS, self.records)
        self.disks[disk.state.origin] = disk
        return disk

    def _break(self) -> None:
        self.is_calm = self.healed = False
        self.round_ns = self.now_ns
        if self.usual is None:
            self.usual = self.loss, self.repeat, self.late
        self.loss, self.repeat, self.late = self.usual
        self.faults.plan()
        for part in self.parts:
            part.break_down()
        self.play(self.now_ns + self.faults.span_ns)
        self.faults.end()
        self.note("heal")
        self.healed = True
        self.cut.clear()
        self.loss = self.repeat = self.late = 0.0
        for host in self.members:
            host.wake()
            host.start_node()
        for part in self.parts:
            part.heal()

    def _heal(self) -> None:
        begun = self.now_ns
        self.heals.append(self._until(self.views_agree, begun))
        if self.heals[-1] < 0:  # nothing more is shown by what comes after
            self.unrest = list(self.find_differences())
            return
        self.agreed.append(self._until(lambda: all(p.agrees() for p in self.parts), begun))
        for part in self.parts:
            part.rejoined()
        self._rest()
        if self.unrest:
            return
        self.note("calm")
        self.is_calm = True
        for part in self.parts:
            part.calm()
        self.play(self.now_ns + CALM_NS)
        for part in self.parts:
            part.hush()
        self._rest()

    def _until(self, is_so: Callable[[], bool], begun_ns: int) -> int:
        """Play until something is so; how long after the heal that is, -1: never."""
        while not is_so():
            if self.now_ns >= begun_ns + SETTLE_NS:
                return -1
            self.play(self.now_ns + 10 * MS)
        return self.now_ns - begun_ns

    def _rest(self) -> None:
        end = self.now_ns + REST_NS
        self.play(self.now_ns + SECOND)
        while self.now_ns < end and self.find_unrest():
            self.play(self.now_ns + 250 * MS)
        self.unrest = self.find_unrest()

    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do ``work`` in a while."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now_ns + delay_ns, self._count, work))

    def play(self, until_ns: int) -> None:
        """Let time pass."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= until_ns:
            self.now_ns, _, work = heapq.heappop(agenda)
            self.events += 1
            if self.events > EVENTS_MAX * max(1, self.size - 5):
                raise RuntimeError("it does not come to rest")
            work()
        self.now_ns = until_ns

    def note(self, *what: object) -> None:
        """An event, for the digest."""
        self._digest.update(repr((self.now_ns, what)).encode())

    @property
    def digest(self) -> str:
        """Of every event in order: equal for equal seeds."""
        return self._digest.hexdigest()

    @property
    def is_busy(self) -> bool:
        """Whether programs do much: not while a long fault goes on."""
        return self.now_ns < self.round_ns + FAULTS_NS

    # -- nodes ----------------------------------------------------------------------------------

    def on_started(self, host: Host) -> None:
        """A node runs."""
        self.announce(host)

    def host_for(self, address: str) -> Host | None:
        """Which of the members programs find there."""
        return next((h for h in self.members if h.client_address == address), None)

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        for part in self.parts:
            part.on_carried(host, wire, envelope)

    def on_synced(self, host: Host, commit: Commit) -> None:
        """A node's disk has one more commit."""
        for part in self.parts:
            part.on_synced(host, commit)

    def on_view(self, host: Host) -> None:
        """A node has linked with another one, or is no longer."""
        self._check_siblings(host)
        for part in self.parts:
            part.on_view(host)

    def _check_siblings(self, host: Host) -> None:
        assert host.node is not None
        assert host.node.site is not None
        names = [host.name]
        for origin, sibling in host.node.site.siblings.items():
            others = [h for h in self.hosts if h.runs.get(sibling.incarnation) == origin]
            if origin == host.origin:
                self._wrong(f"{host} is linked with itself, or a copy of itself")
            elif sibling.name in names:
                self._wrong(f"{host} is linked with two nodes named {sibling.name!r}")
            elif not others:
                self._wrong(f"{host} is linked with a run of {sibling.name!r} that never was")
            elif (others[0].site, others[0].mesh) != (host.site, host.mesh):
                self._wrong(f"{host} is linked with {others[0]}, which is not of its site")
            names.append(sibling.name)

    def _wrong(self, what: str) -> None:
        self.strange.append(f"{what} (at {self.now_ns / SECOND:.4f} s)")

    def views_agree(self) -> bool:
        """Whether all nodes of the site are wholly linked with all others."""
        return not next(self.find_differences(), "")

    def find_differences(self) -> Iterator[str]:
        """Where views differ, in words."""
        runs = {h.origin: next(reversed(h.runs)) for h in self.members if h.node is not None}
        for host in self.members:
            view = host.view()
            for other in self.members:
                if other is not host and view.get(other.origin) != runs.get(other.origin):
                    yield f"{host} is not linked with {other}"

    def are_linked(self, one: Host, other: Host) -> bool:
        """Whether both say that they are wholly linked with each other, over one connection."""
        mine, theirs = one.since.get(other.origin), other.since.get(one.origin)
        if mine is None or theirs is None or one.node is None or other.node is None:
            return False
        ours, its = one.node.peers.get(mine[0]), other.node.peers.get(theirs[0])
        return ours is not None and its is not None and ours.session.id == its.session.id

    # -- programs -------------------------------------------------------------------------------

    def start_program(self, name: str, run: int, at: Host) -> None:
        """A program begins, for the first time or again."""
        if name in self.programs:
            self.programs[name].is_alive = False
        self.note("start", name, run)
        program = self.add_program(name, at, run, self.has_movers and self.more.random() < 0.6)
        for part in self.parts:
            part.begin(program)

    def make_program(self, name: str, run: int, at: Host, moves: bool) -> SiteProgram:
        """One that does not run yet."""
        return SiteProgram(self, name, run, at, moves)

    def add_program(self, name: str, at: Host, run: int = 0, moves: bool = False) -> SiteProgram:
        """A program that does nothing by itself."""
        program = self.programs[name] = self.make_program(name, run, at, moves)
        self.all_programs.append(program)
        program.open_link()
        return program

    def to_program(self, host: Host, link: bytes, envelope: Envelope) -> None:
        """A node sends to a program."""
        for part in self.parts:
            part.on_told(host, link, envelope)
        program = self.programs.get(link.decode().split("/")[0])
        if program is not None:
            program.on_frame(host, link, envelope)

    # -- rest -----------------------------------------------------------------------------------

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet, in words; empty when all has."""
        found = list(self.find_differences())
        links = {program.link for program in self.programs.values()}
        for host in self.members:
            for link, peer in host.node.peers.items() if host.node is not None else ():
                if peer.sibling is None and link not in links:
                    found.append(f"{host} has a session with a program that is gone")
        for program in self.programs.values():
            found += program.find_unrest()
        for part in self.parts:
            found += part.find_unrest()
        return found
