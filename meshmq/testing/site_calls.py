"""Requests in the history of a site: programs at any node ask, and serve.

What they do, and what is known of it, is that of the world of one node: see ``request_program`` and
``request_ledger``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from meshmq.core.effects import ClientEffect
from meshmq.core.node import Node
from meshmq.core.sessions import Peer
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.testing.request_ledger import RequestLedger
from meshmq.testing.request_program import RequestProgram
from meshmq.testing.request_world import ANCHORED, SERVICES
from meshmq.testing.site_part import Part
from meshmq.testing.site_program import Player, SiteProgram

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_world import SiteWorld

ROLL_CALL_NS = 1 * SECOND


class Caller(Player, RequestProgram):
    """A program of the site, as far as it asks and serves."""

    def __init__(self, part: Calls, program: SiteProgram) -> None:
        self.at = program
        super().__init__(part, program.name, program.run, program.name, program.client)

    @property
    def link(self) -> bytes:
        """Its newest one."""
        return self.at.link

    @link.setter
    def link(self, link: bytes) -> None: ...


class Calls(Part, RequestLedger):
    """See the module's header."""

    def __init__(self, world: SiteWorld) -> None:
        super().__init__(world)
        more = world.more
        self.rng = world.rng
        self.services = SERVICES
        self.pace_ns = more.choice([300, 600, 1200]) * MS
        self.cancelling = more.choice([0.0, 0.1, 0.4])
        self.slowness = more.choice([0.0, 0.02, 0.1])
        self.turns = 3  # what others do at a node is known a little later
        self.stops = more.choice([0, 3, 10])
        self.bounds = more.choice(
            [{}, {}, {}, {}, {"REQUESTS_UNACKED_BYTES": 500},
             {"INSTANCE_BYTES_MAX": 1_600}]
        )  # fmt: skip
        self.programs: dict[str, RequestProgram] = {}
        self.begin_ledger()

    # -- what programs need ---------------------------------------------------------------------

    @property
    def now_ns(self) -> int:  # type: ignore[override]
        """The world's."""
        return self.world.now_ns

    @property
    def unrest(self) -> list[str]:  # type: ignore[override]
        """The world's."""
        return self.world.unrest

    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        self.world.after(delay_ns, work)

    def note(self, *what: object) -> None:
        self.world.note(*what)

    def settle(self, program: RequestProgram) -> None:
        assert isinstance(program, Caller)
        program.at.settle()

    def nodes(self) -> list[Node]:
        return [host.node for host in self.world.members if host.node is not None]

    # -- moments of the history -----------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        rng = self.rng
        before = self.programs.get(program.name)
        if before is not None:
            before.die()
        caller = self.programs[program.name] = Caller(self, program)
        self.after(int(rng.random() * 100 * MS), caller.ask_now_and_then)
        for _ in range(rng.choice([0, 1, 2])):
            service = rng.choice(self.services)
            self.after(int(rng.random() ** 2 * SECOND), partial(caller.serve, service))

    def break_down(self) -> None:
        self.is_calm = False
        self.rested_ns = 0
        if not self.is_asking:
            self._ask_again()
        for _ in range(self.stops):
            self.after(int(self.rng.random() * self.world.faults.span_ns), self._stop)

    def _ask_again(self) -> None:
        self.is_asking = True
        for caller in self.programs.values():
            self.after(int(self.rng.random() * 100 * MS), caller.ask_now_and_then)

    def heal(self) -> None:
        self.is_asking = False

    def calm(self) -> None:
        anchor = self.programs["p0"]
        for service in ANCHORED:
            if not any(s.service == service and not s.down_ns for s in anchor.servings.values()):
                anchor.serve(service)
        # What a program serves siblings hear in a moment.
        self.after(200 * MS, self._begin_calm)

    def _begin_calm(self) -> None:
        self.is_calm = True
        self.calm_ns = self.now_ns
        self._ask_again()
        for _ in range(self.stops):
            self.after(int(self.rng.random() * 500 * MS), self._stop)

    def _stop(self) -> None:
        """An instance stops in order; in the calm p0's serve on."""
        at_hand = [
            serving
            for serving in self.servings
            if serving.program.alive
            and not serving.down_ns
            and not (self.world.healed and serving.program.name == "p0")
        ]
        if at_hand and self.is_asking:
            serving = self.rng.choice(at_hand)
            serving.program.stop(serving)

    def hush(self) -> None:
        self.is_asking = False

    def close(self) -> None:
        """As many requests as there are places, at once; then one to each instance."""
        self.rested_ns = self.now_ns
        caller = self.programs[self.rng.choice(sorted(self.programs))]
        self.call_roll(caller)
        self.world.play(self.now_ns + ROLL_CALL_NS)

    def find_unrest(self) -> list[str]:
        return self.find_open()

    # -- what happens -----------------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        caller = self.programs.get(program.name)
        if isinstance(caller, Caller) and caller.at is program:
            caller.on_effect(effect)

    def on_said(self, program: SiteProgram, envelope: Envelope) -> None:
        self.said(program.link, envelope)

    def on_taken(self, host: Host, peer: Peer, envelope: Envelope) -> None:
        if peer.sibling is None:
            self.accepted(peer.link, envelope)
        else:
            self.passed_on(envelope.body)

    def on_told(self, host: Host, link: bytes, envelope: Envelope) -> None:
        self.told(link, envelope)

    def on_link_dropped(self, host: Host, link: bytes) -> None:
        self.forget(link)

    def on_turn_ended(self, host: Host) -> None:
        assert host.node is not None
        self.look_at(host.node)


__all__ = ["Calls"]
