"""Programs that go from node to node: those that read with ``dedup`` get each record once, those
that are to wait for their node do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from meshmq.core.effects import ClientEffect, StateChanged
from meshmq.limits import SECOND
from meshmq.testing.copies_program import CopiesProgram
from meshmq.testing.site_copying import Reading
from meshmq.testing.site_part import Part

if TYPE_CHECKING:
    from meshmq.testing.copies_world import CopiesWorld
    from meshmq.testing.site_program import SiteProgram


class Moves(Part):
    """See the module's header.

    Attributes:
        moves: how often a program came to another node.
    """

    world: CopiesWorld

    def __init__(self, world: CopiesWorld) -> None:
        super().__init__(world)
        self.moves = 0

    def begin(self, program: SiteProgram) -> None:
        assert isinstance(program, CopiesProgram)
        rng = self.world.rng
        if program.name.startswith("p") and rng.random() < 0.5:
            subscribe = partial(self.world.copying.subscribe, program, True)
            program.later(int(rng.random() * 3 * SECOND), subscribe)

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        if isinstance(effect, StateChanged) and effect.state == "connected":
            assert isinstance(program, CopiesProgram)
            if program.homes and program.homes[-1] is not program.host:
                self.moves += 1
            program.homes.append(program.host)

    def open_readings(self) -> list[Reading]:
        """Those with ``dedup`` whose programs run."""
        found = self.world.copying.readings
        return [r for r in found if r.is_dedup and r.program.is_alive]

    def waits(self) -> Iterator[str]:
        """What is to come yet."""
        wanted = {one.value for one in self.world.copying.expected("c.")}
        for reading in self.open_readings():
            # While faults went on nobody may have been there who had whole what is damaged.
            if not reading.damaged and not wanted <= reading.values.keys():
                yield f"{reading!r} has not got all"
