"""A site whose nodes copy each other's logs, on virtual time; see ``site_world`` for the rest.

What a history may lose is bounded: one disk, for good, or bytes of rows that another disk has. The
node whose disk that is, or one that only seems to be dead, is taken over; it may come back.
"""

from __future__ import annotations

from meshmq import codec
from meshmq.core.log import Commit
from meshmq.core.mirror_log import TakeoverEntry
from meshmq.frames import Envelope, HandOut
from meshmq.limits import MS, SECOND
from meshmq.testing.copies_faults import CopiesFaults, Doom
from meshmq.testing.copies_host import CopiesHost
from meshmq.testing.copies_program import CopiesProgram
from meshmq.testing.disk import Disk
from meshmq.testing.site_copying import Copying
from meshmq.testing.site_host import Host, Wire
from meshmq.testing.site_moves import Moves
from meshmq.testing.site_part import Part
from meshmq.testing.site_takeovers import TakeoverPart
from meshmq.testing.site_world import COMMON, REST_NS, SiteWorld

HARMS = ("none", "flips", "flips", "doom", "doom", "doom", "doom", "copy")


class CopiesWorld(SiteWorld):
    """One history, from one seed. ``run`` plays it.

    Attributes:
        harm: what disks suffer.
        copies: nodes that are to have each log.
        doom: who died, once somebody has.
        taken_in: nodes that were linked with one on a copied disk.
        is_unfound: a node on a backup has met only nodes that had not heard of its copies, and was
            copied by one; so it is not found out, and what is at its offsets is not promised
            (docs/decisions/0043).
    """

    host_kind = CopiesHost

    def __init__(self, seed: int, nodes: int | None = None) -> None:
        super().__init__(seed, nodes, COMMON)
        rng = self.rng
        self.tools, self.encode = codec.TOOLS, codec.encode_batch
        self.records = _nothing
        self.size = nodes or rng.choice([3, 3, 3, 4, 4, 5])
        self.harm = rng.choice(HARMS)
        self.knowing = rng.choice(["all", "mdns", "both"])  # who is gone cannot tell of others
        self.copies = 3 if self.size > 3 and rng.random() < 0.2 else 2
        self.rounds = rng.choice([1, 1, 2])
        self.recent_bytes = 0 if self.harm == "flips" else rng.choice([0, 2_000, 1 << 24])
        self.queue_bytes = 1 << 24
        self.bounds = {
            "COPY_AWAY_NS": 3 * SECOND,
            **rng.choice([{}, {"COPY_CREDIT_BYTES": 600}]),
            **rng.choice([{}, {"TAKEOVER_BYTES": 1}, {"TAKEOVER_BYTES": 500}]),
        }
        if self.harm == "copy":
            self.loss = self.late = 0.0  # both must be heard, or nobody knows who was first
        self.doom: Doom | None = None
        self.taken_in: list[str] = []
        self.is_unfound = False
        self.copying = Copying(self)
        self.takeovers = TakeoverPart(self)
        self.moves = Moves(self)
        self.parts: tuple[Part, ...] = (self.copying, self.takeovers, self.moves)
        self.faults: CopiesFaults = CopiesFaults(self)
        self._frames: dict[tuple[Host, int, bytes, int], int] = {}

    # -- nodes ----------------------------------------------------------------------------------

    def add_host(
        self, name: str, disk: Disk | None = None, site: str = "eu", mesh: str = "plant"
    ) -> Host:
        host = super().add_host(name, disk, site, mesh)
        host.copies = self.copies
        host.recent_bytes = self.recent_bytes
        return host

    def on_started(self, host: Host) -> None:
        self.takeovers.started[host] = self.now_ns
        super().on_started(host)

    def on_synced(self, host: Host, commit: Commit) -> None:
        super().on_synced(host, commit)
        self.faults.on_synced(host, commit)

    def on_view(self, host: Host) -> None:
        super().on_view(host)
        site = host.node.site if host.node is not None else None
        for stay in self.faults.stays:
            sibling = site.siblings.get(stay.host.origin) if site is not None else None
            if sibling is not None and sibling.incarnation in stay.host.runs:
                self.taken_in.append(f"{host} is linked with {stay.host}, a copy of {stay.rival}")

    def client_host_at(self, address: str) -> Host | None:
        """Whose programs dial there."""
        return next((h for h in self.hosts if h.client_address == address), None)

    def takeover_of(self, origin: bytes) -> tuple[TakeoverEntry, Host] | None:
        """The newest takeover of a log that is on its taker's disk, and who that is."""
        found = [
            (entry, host)
            for host in self.hosts
            if (entry := host.disk.state.takeovers.get(origin)) and entry.taker == host.origin
        ]
        return max(found, key=lambda f: f[0].rank, default=None)

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        link = wire.link if wire.dialler is host and wire.link in host.wires else wire.name
        self._look(host, link, envelope)
        super().on_carried(host, wire, envelope)

    def to_program(self, host: Host, link: bytes, envelope: Envelope) -> None:
        self._look(host, link, envelope)
        super().to_program(host, link, envelope)

    def _look(self, host: Host, link: bytes, envelope: Envelope) -> None:
        """A node hands records out: the first time that it sends this frame."""
        body = envelope.body
        if not isinstance(body, HandOut) or body.origin not in (b"", host.origin):
            return
        key = (host, host.epoch, link, envelope.session)
        if envelope.sequence > self._frames.get(key, 0):
            self._frames[key] = envelope.sequence
            self.takeovers.on_handed(host, body)

    # -- programs -------------------------------------------------------------------------------

    def make_program(self, name: str, run: int, at: Host, moves: bool) -> CopiesProgram:
        stays = name.startswith(("a", "r")) or (name == "p1" and self.seed % 2 == 0)
        return CopiesProgram(self, name, run, at, stays)

    def begin_reader(self, name: str, at: Host) -> CopiesProgram:
        """A program that stays at a node, and does what somebody has it do."""
        program = self.add_program(name, at)
        assert isinstance(program, CopiesProgram)
        return program

    def copies_programs(self) -> list[CopiesProgram]:
        """All that ever ran."""
        return [p for p in self.all_programs if isinstance(p, CopiesProgram)]

    # -- rest -----------------------------------------------------------------------------------

    def find_waiting(self) -> list[str]:
        """What may still come; that it does not is for checkers to say."""
        return [
            text for part in (self.copying, self.takeovers, self.moves) for text in part.waits()
        ]

    def _break(self) -> None:
        self.copying.end_readings()
        super()._break()

    def _rest(self) -> None:
        end = self.now_ns + REST_NS
        self.play(self.now_ns + SECOND)
        while self.now_ns < end and (self.find_unrest() or self.find_waiting()):
            self.play(self.now_ns + 250 * MS)
        self.unrest = self.find_unrest()
        self.copying.compare()


def _nothing(payload: bytes) -> list[bytes]:
    return []
