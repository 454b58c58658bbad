"""What programs of a simulated site do with one feature, and what must hold of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshmq.core.effects import Arrived, ClientEffect
from meshmq.core.lanes import Batch
from meshmq.core.log import Commit, Entry
from meshmq.core.sessions import Peer
from meshmq.frames import Envelope
from meshmq.limits import MS

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host, Wire
    from meshmq.testing.site_program import SiteProgram
    from meshmq.testing.site_world import SiteWorld


class Part:
    """What programs do with one feature in a history, and what must hold of it.

    Attributes:
        bounds: limits that this history has in place of the usual ones.
        has_jumps: clocks may be set. has_copies: a node may run on a copy of another one's disk; if
            that one is dead, the copy takes its place, with what is done since then undone.
    """

    def __init__(self, world: SiteWorld) -> None:
        self.world = world
        self.bounds: dict[str, int] = {}
        self.has_jumps = self.has_copies = True

    def prepare(self) -> list[Entry]:
        """What a fresh disk has."""
        return []

    def begin(self, program: SiteProgram) -> None:
        """A program has started."""

    def later(self, busy_ns: int, idle_ns: int, act: Callable[[], None]) -> None:
        """Do something after a while: at most so long, while programs do much and while not."""
        most = busy_ns if self.world.is_busy else idle_ns
        self.world.after(int(self.world.rng.random() ** 2 * most), act)

    def consume_soon(self, program: SiteProgram, arrived: Arrived) -> None:
        """A program is done with what has come, a moment later."""
        size = sum(len(a.payload) for a in arrived.arrivals)
        records = sum(a.count for a in arrived.arrivals)

        def consume() -> None:
            if program.is_alive:
                number, now_ns = arrived.subscription, self.world.now_ns
                program.client.consumed(number, size, records, now_ns)
                program.settle()

        self.world.after(int(self.world.rng.random() * 20 * MS), consume)

    # -- moments of the history -----------------------------------------------------------------

    def break_down(self) -> None:
        """A round begins, with its faults."""

    def heal(self) -> None:
        """Faults are over."""

    def on_disk_lost(self, host: Host) -> None:
        """What a node has on its disk is about to be lost, or all that is newer than a copy."""

    def agrees(self) -> bool:
        """Whether all nodes have the same, where they are to have that soon after a heal."""
        return True

    def rejoined(self) -> None:
        """All nodes have the same view."""

    def calm(self) -> None:
        """Nothing fails any more: what is done now must come through."""

    def hush(self) -> None:
        """The calm is over, and all is to come to rest."""

    def close(self) -> None:
        """All is over and at rest; what happens now nobody has to come to rest from."""

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet, in words."""
        return []

    # -- what happens in it ---------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        """What a client's machine tells its program."""

    def on_finished(self, program: SiteProgram, batch: Batch) -> None:
        """What became of a batch that was published is known."""

    def on_synced(self, host: Host, commit: Commit) -> None:
        """A node's disk has one more commit."""

    def on_said(self, program: SiteProgram, envelope: Envelope) -> None:
        """A program sends to its node, perhaps not for the first time."""

    def on_taken(self, host: Host, peer: Peer, envelope: Envelope) -> None:
        """A node takes a frame of a session that stands, in its turn."""

    def on_told(self, host: Host, link: bytes, envelope: Envelope) -> None:
        """A node sends to a program, perhaps not for the first time."""

    def on_heard(self, program: SiteProgram, envelope: Envelope) -> None:
        """What its node has sent has come to a program."""

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        """A node sends to another one."""

    def on_link_dropped(self, host: Host, link: bytes) -> None:
        """A node has given up a session."""

    def on_turn_ended(self, host: Host) -> None:
        """A node's machines are at rest for a moment."""

    def on_view(self, host: Host) -> None:
        """A node has linked with another one, or is no longer."""
