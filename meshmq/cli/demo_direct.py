"""The part of ``meshmq demo`` about programs that talk directly, with and without a node."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from meshmq.cli.boundary import CommandError
from meshmq.cli.output import say

RADAR = "radar.>"
TOPIC = "radar.JFK"
SERVICE = "gates.free"
POSITIONS = 200
WAIT_S = 10.0


class Airport:
    """Two programs: a tower that publishes and asks, and a gate that listens and answers.

    They know each other's addresses, and where a node may be some day.
    """

    def __init__(self, node_url: str) -> None:
        import meshmq

        self.states: list[str] = []
        self.gate = meshmq.connect(listen="tcp://127.0.0.1:*", peers=[node_url], name="gate")
        addresses = [*self.gate.addresses, node_url]
        self.tower = meshmq.connect(peers=addresses, name="tower", on_state=self._note)
        self._positions = self.gate.subscribe(RADAR)
        self.gate.serve(SERVICE, lambda request: b"B22")
        self._count = self._read = 0  # positions

    def _note(self, change: Any) -> None:
        """Who comes and goes is told too, in a state that stays."""
        if self.states[-1:] != [change.state]:
            self.states.append(change.state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for mesh in (self.tower, self.gate):
            mesh.__exit__(kind, error, trace)

    def talk(self) -> None:
        """Say positions and ask for a gate; all of it directly, and nothing missing."""
        for number in range(POSITIONS):
            receipt = self.tower.publish(TOPIC, b"%d" % number).wait(WAIT_S)
            is_direct = receipt.route in ("direct", "both")  # to others by the node
            self._check(is_direct, f"position went by {receipt.route!r}")
        self._count += POSITIONS
        self._hear(self._count)
        reply = self.tower.request(SERVICE, b"", timeout=WAIT_S)
        self._check(reply.route == "direct", f"request went by {reply.route!r}")
        say(f"   direct  tower to gate: {POSITIONS} positions, {self._positions.missed} missed;")
        say(f"   direct  tower asks for a free gate, and is told {reply.value.decode()}")

    def _hear(self, count: int) -> None:
        until(lambda: self._heard() >= count, "not all positions came")
        self._check(
            self._heard() == count and not self._positions.missed,
            "positions are not all there, or twice",
        )

    def attach(self) -> None:
        """Wait until both are at the node, and have it that positions go directly again."""
        meshes = (self.tower, self.gate)
        until(lambda: all(m.state == "connected" for m in meshes), "no node was found")
        self.tower.admin.topics.create(RADAR, durability="transient")
        until(self._goes_directly, "positions still go by the node")

    def _goes_directly(self) -> bool:
        self._count += 1
        return self.tower.publish(TOPIC, b"").wait(WAIT_S).route == "direct"

    def _heard(self) -> int:
        self._read += len(self._positions.fetch(max_records=1000, timeout=0.0))
        return self._read

    @staticmethod
    def _check(is_so: bool, what: str) -> None:
        if not is_so:
            raise CommandError(f"the demo's {what}: please report this")


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise CommandError(f"in the demo {what} within {WAIT_S:.0f} s: please report this")
        time.sleep(0.01)
