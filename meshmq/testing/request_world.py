"""A node with programs that ask and serve, on virtual time; see ``world`` for the rest.

A history has four parts: faults (lost and repeated frames, cut links, kills, crashes of programs,
handlers that are too slow, fail, or do not stop when they are told), healing, a calm part where
much more must hold, and a roll call, in which every place of every instance must take one request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from meshmq import codec, limits
from meshmq.core.effects import ClientEffect
from meshmq.core.events import FrameReceived, LinkClosed, NodeEvent
from meshmq.core.node import Node
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.testing.faults import FAULTS_NS, Faults
from meshmq.testing.request_ledger import RequestLedger
from meshmq.testing.request_program import RequestProgram
from meshmq.testing.scene import Scene

SETTLED_NS = 6 * SECOND  # by then sessions of programs that died are given up
CALM_NS = 1500 * MS
REST_NS = 30 * SECOND
SERVICES = ["s.a", "s.b", "s.c"]
ANCHORED = ("s.a", "s.b")  # served by p0 all through the calm part


@contextmanager
def small(bounds: dict[str, int]) -> Iterator[None]:
    """Bounds that a history reaches, in place of those of every node."""
    usual = {name: getattr(limits, name) for name in bounds}
    try:
        for name, value in bounds.items():
            setattr(limits, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(limits, name, value)


class RequestWorld(Scene[RequestProgram], RequestLedger):
    """One history of requests, from one seed. ``run`` plays it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, codec.TOOLS, lambda payload: [])
        rng = self.rng
        self.loss = rng.choice([0.0, 0.0, 0.01, 0.1])
        self.repeat = rng.choice([0.0, 0.02, 0.1])
        self.late = rng.choice([0.0, 0.05, 0.2])
        self.kill_count = rng.choice([0, 0, 1, 2, 4])
        self.cuts = rng.choice([0, 0, 1, 3])
        self.swizzle = rng.random() < 0.1
        self.pace_ns = rng.choice([100, 300, 600]) * MS
        self.cancelling = rng.choice([0.0, 0.1, 0.4])
        self.slowness = rng.choice([0.0, 0.02, 0.1])  # how often a handler is much too slow
        self.stops = rng.choice([0, 3, 10])
        self.leaves = rng.choice([0, 0, 1])
        self.breaks = rng.choice([0, 0, 4, 30, 120])  # links that are seen to close
        self.spared = rng.choice(["", "p0"])  # whose does not
        self.bounds = rng.choice(
            [{}, {}, {"REQUESTS_BYTES_MAX": 20_000}, {"REQUESTS_SHARE_BYTES_MAX": 8_000},
             {"REPLIES_UNACKED_BYTES": 300, "REPLY_BACKLOG_BYTES_MAX": 900},
             {"REPLIES_UNACKED_BYTES": 300, "REPLY_BACKLOG_BYTES_MAX": 500,
              "REPLY_TOLD_BYTES_MAX": 500, "REPLY_BACKLOGS_BYTES_MAX": 1_500},
             {"REQUESTS_UNACKED_BYTES": 500}, {"SERVICES_UNACKED_FRAMES": 4},
             {"REQUESTS_PER_SESSION_MAX": 4}]
        )  # fmt: skip
        self.instance_bytes = rng.choice([limits.INSTANCE_BYTES_MAX, 1_600])
        self.services = SERVICES
        self.begin_ledger()
        self.unrest: list[str] = []
        self._digest = hashlib.sha256()
        self.faults = Faults(self)

    # -- the play -----------------------------------------------------------------------------

    def run(self) -> RequestWorld:
        """Play the history: faults, healing, calm, rest, roll call."""
        with small({"INSTANCE_BYTES_MAX": self.instance_bytes}):
            self._run()
        return self

    def _run(self) -> None:
        self.start_node()
        for i in range(self.rng.choice([2, 3, 4])):
            self._start_program(f"p{i}", 0)
        self.faults.plan()
        for _ in range(self.stops):
            self.after(int(self.rng.random() * FAULTS_NS), self._stop)
        for _ in range(self.breaks):
            self.after(int(self.rng.random() * FAULTS_NS), self._break)
        for _ in range(self.leaves):
            self.after(int(self.rng.random() * FAULTS_NS), self._leave)
        with small(self.bounds):
            self.play(self.now_ns + FAULTS_NS)
        self._heal()
        self.play(self.now_ns + SETTLED_NS)
        self._calm()
        self.play(self.now_ns + CALM_NS)
        self.is_asking = False
        self.play(self.now_ns + SECOND)
        end = self.now_ns + REST_NS
        while self.now_ns < end and self.find_unrest():
            self.play(self.now_ns + 250 * MS)
        self.unrest = self.find_unrest()
        self.rested_ns = self.now_ns
        self._call_roll()
        self.play(self.now_ns + SECOND)
        self.unrest += self.find_unrest()

    def note(self, *what: object) -> None:
        self._digest.update(repr((self.now_ns, what)).encode())

    @property
    def digest(self) -> str:
        """Of every event in order: equal for equal seeds."""
        return self._digest.hexdigest()

    def _heal(self) -> None:
        self.is_asking = False
        self.heal_links()
        anchor = self.programs["p0"]
        for service in ANCHORED:
            if not any(s.service == service and not s.down_ns for s in anchor.servings.values()):
                anchor.serve(service)

    def _calm(self) -> None:
        self.note("calm")
        self.is_asking = self.is_calm = True
        self.calm_ns = self.now_ns
        for program in self.programs.values():
            self.after(int(self.rng.random() * 100 * MS), program.ask_now_and_then)
        for _ in range(self.stops):
            self.after(int(self.rng.random() * CALM_NS), self._stop)

    def _call_roll(self) -> None:
        """As many requests as there are places, at once; then one to each instance."""
        self.note("roll call")
        asker = self.programs[self.rng.choice(sorted(self.programs))]
        self.call_roll(asker)

    # -- the node -----------------------------------------------------------------------------

    def on_node_started(self) -> None:
        self.forget_all()

    def node_event(self, event: NodeEvent) -> None:
        if self.taker(event) is not None and isinstance(event, FrameReceived):
            self.accepted(event.link, event.envelope)
        super().node_event(event)

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        self.told(link, envelope)
        super().to_client(link, envelope)

    def _to_node(self, program: RequestProgram, envelope: Envelope) -> None:
        self.said(program.link, envelope)
        super()._to_node(program, envelope)

    def on_link_dropped(self, link: bytes) -> None:
        self.forget(link)

    def on_turn_ended(self) -> None:
        if self.node is not None:
            self.look_at(self.node)

    def nodes(self) -> list[Node]:
        return [self.node] if self.node is not None else []

    # -- programs -----------------------------------------------------------------------------

    def _start_program(self, name: str, run: int) -> None:
        rng = self.rng
        title = name if rng.random() < 0.8 else ""
        program = self.programs[name] = RequestProgram(self, name, run, title)
        self.open_link(program)
        self.after(int(rng.random() * 100 * MS), program.ask_now_and_then)
        for _ in range(rng.choice([1, 2, 4])):
            service = rng.choice(self.services)
            self.after(int(rng.random() ** 2 * SECOND), partial(program.serve, service))

    def restart(self, name: str) -> None:
        old = self.programs[name]
        if self.healed:
            return
        self.note("restart", name)
        old.die()
        self._start_program(name, old.run + 1)

    def _leave(self) -> None:
        """A program closes its connection in order; another one takes its place."""
        if not self.healed:
            program = self.programs[self.rng.choice(sorted(self.programs))]
            program.client.close(self.now_ns)
            self.settle(program)
            self.restart(program.name)

    def _break(self) -> None:
        """A link closes, and its program knows it: it is back at once."""
        names = sorted(set(self.programs) - {self.spared})
        program = self.programs[self.rng.choice(names)]
        if not self.healed:
            self.note("break", program.name)
            self.client_event(program, LinkClosed(program.link, "cut"))

    def _stop(self) -> None:
        """An instance stops in order, or all of its service; in the calm part p0's serve on."""
        at_hand = [
            serving
            for serving in self.servings
            if serving.program.alive
            and not serving.down_ns
            and not (self.healed and serving.program.name == "p0")
        ]
        if at_hand and not (self.healed and not self.is_asking):
            serving = self.rng.choice(at_hand)
            all_of_it = self.rng.random() < 0.3
            for other in at_hand:
                if other is serving or (all_of_it and other.service == serving.service):
                    other.program.stop(other)

    def on_effect(self, program: RequestProgram, effect: ClientEffect) -> None:
        program.on_effect(effect)

    # -- rest ---------------------------------------------------------------------------------

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet, in words; empty when all has."""
        found = [
            f"{program.name}: {program.client.state}"
            for program in self.programs.values()
            if not program.client.is_connected
        ]
        return found + self.find_open()
