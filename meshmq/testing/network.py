"""How frames travel between simulated programs: lost, late, twice; once it is healed, in order."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable

from meshmq.limits import MS


class Network(ABC):
    """What every world has between its programs.

    Attributes:
        loss, repeat, late: how likely a frame meets each.
        healed: from now on links do what they should.
    """

    rng: random.Random
    now_ns: int
    loss: float
    repeat: float
    late: float
    healed = False
    _fifo_ns = 0

    @abstractmethod
    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do ``work`` so much later."""

    def _travel(self, arrive: Callable[[], None]) -> None:
        rng = self.rng
        if self.healed:
            # As TCP does: in order. (Not at one and the same instant, which would be shuffled.)
            self._fifo_ns = max(self.now_ns + 100_000, self._fifo_ns + 1)
            self.after(self._fifo_ns - self.now_ns, arrive)
            return
        if rng.random() < self.loss:
            return
        delay = 50_000 + int(rng.random() * 200_000)
        if rng.random() < self.late:
            delay += int(rng.random() * 300 * MS)
        self.after(delay, arrive)
        if rng.random() < self.repeat:
            self.after(delay + int(rng.random() * 100 * MS), arrive)
