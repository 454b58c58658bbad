"""What programs of a simulated site do with one feature, and what must hold of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshmq.core.effects import ClientEffect
from meshmq.core.lanes import Batch
from meshmq.core.log import Commit, Entry
from meshmq.frames import Envelope

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host, Wire
    from meshmq.testing.site_program import SiteProgram
    from meshmq.testing.site_world import SiteWorld


class Part:
    """What programs do with one feature in a history, and what must hold of it.

    ``check`` gives what is wrong, as sentences, when the history is over; ``unrest`` what has not
    come to rest yet. The rest are moments of the history.
    """

    def __init__(self, world: SiteWorld) -> None:
        self.world = world

    def prepare(self) -> list[Entry]:
        """What a fresh disk has."""
        return []

    def begin(self, program: SiteProgram) -> None:
        """A program has started."""

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        """What a client's machine tells its program."""

    def on_finished(self, program: SiteProgram, batch: Batch) -> None:
        """What became of a batch that was published is known."""

    def on_synced(self, host: Host, commit: Commit) -> None:
        """A node's disk has one more commit."""

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        """A node sends to another one."""

    def on_view(self, host: Host) -> None:
        """A node has linked with another one, or is no longer."""

    def on_disk_lost(self, host: Host) -> None:
        """What a node has on its disk is about to be lost, or all that is newer than a copy."""

    def agrees(self) -> bool:
        """Whether all nodes have the same, where they are to have that soon after a heal."""
        return True

    def healed(self) -> None:
        """All nodes have the same view."""

    def calm(self) -> None:
        """Nothing fails any more: what is done now must come through."""

    def unrest(self) -> list[str]:
        """What has not come to rest yet, in words."""
        return []
