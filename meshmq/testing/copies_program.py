"""A program of the world of copies: it goes from node to node, and publishes real batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshmq.core.effects import CloseLink
from meshmq.core.moving import Moving
from meshmq.testing.site_program import SiteProgram

if TYPE_CHECKING:
    from meshmq.testing.copies_world import CopiesWorld
    from meshmq.testing.site_host import Host


class CopiesProgram(SiteProgram):
    """One run of one program.

    Attributes:
        stays: it wants its node and no other (``on_node_loss="wait"``).
        homes: nodes that have let it in, each time.
    """

    world: CopiesWorld

    def __init__(self, world: CopiesWorld, name: str, run: int, host: Host, stays: bool) -> None:
        self.stays = stays
        self.homes: list[Host] = []
        super().__init__(world, name, run, host)
        others = [] if stays else [h.client_address for h in world.hosts if h is not host]
        given = [host.client_address, *others]
        self.client.moving = Moving(given, world.rng, stays=stays)

    def reopen(self, closed: CloseLink) -> None:
        if not self.is_alive or self.client.has_link:
            return
        host = self.world.client_host_at(closed.address)
        if host is not None:
            self.host = host
        self.open_link()

    def on_node_killed(self) -> None:
        if not self.host.is_off:  # else nobody is there who would tell it
            super().on_node_killed()

    def find_unrest(self) -> list[str]:
        if self.stays and self.host not in self.world.members:
            return []  # it waits
        return super().find_unrest()

    def close(self) -> None:
        """It ends in order."""
        if self.is_alive:
            self.client.close(self.world.now_ns)
            self.settle()
            self.is_alive = False
            self.world.programs.pop(self.name, None)

    def later(self, delay_ns: int, work: Callable[[], object]) -> None:
        """Do something if it still runs by then."""

        def act() -> None:
            if self.is_alive:
                work()

        self.world.after(delay_ns, act)
