"""Programs without a node, on virtual time: links that fail, programs that stop, die and come back.

A history has three parts: faults (lost, repeated and late frames, links that close at both ends, at
one or at none, one-way cuts, programs that stand still, are killed, or change what they want),
healing, and a calm part, in which everything must come through.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from meshmq.core.effects import ClientEffect, CloseLink, OpenLink, Send
from meshmq.core.events import ClientEvent, FrameReceived, LinkClosed, TimerFired
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.testing.direct_program import Asking, DirectProgram, Pushed, Reading, Run
from meshmq.testing.network import Network
from meshmq.testing.request_world import small

FAULTS_NS = 6 * SECOND
CALM_NS = 1 * SECOND
REST_NS = 60 * SECOND
EVENTS_MAX = 300_000  # several times what the busiest history has


class Wire:
    """One connection: who dialled, whom, and what each calls it.

    Attributes:
        closed: its dialler has closed it.
    """

    def __init__(self, number: int, dialler: DirectProgram, link: bytes, address: str) -> None:
        self.number = number
        self.dialler = dialler
        self.link = link
        self.address = address
        self.closed = False

    def name_at(self, acceptor: DirectProgram) -> bytes:
        """What who was dialled calls it."""
        return b"<%d/%d" % (self.number, acceptor.run)


class DirectWorld(Network):
    """One history, from one seed. ``run`` plays it.

    Attributes:
        programs: those that live, by name; ``all_programs`` the dead too.
        readings, pushes, askings, runs: what happened, in order.
        published: for each run of a program and topic, how many records it has published.
        unrest: what had not come to rest at the end.
    """

    settled_ns = 12 * SECOND  # after healing: by then back-offs and sessions that died are over

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.now_ns = SECOND
        self.loss = rng.choice([0.0, 0.0, 0.01, 0.1])
        self.repeat = rng.choice([0.0, 0.02, 0.1])
        self.late = rng.choice([0.0, 0.05, 0.2])
        self.kill_count = rng.choice([0, 0, 1, 3])
        self.cut_count = rng.choice([0, 0, 2, 6])
        self.break_count = rng.choice([0, 0, 3, 20])
        self.stop_count = rng.choice([0, 0, 2])
        self.change_count = rng.choice([0, 3, 12])
        self.laziness = rng.choice([0.0, 0.0, 0.3])  # how often a reader waits long
        self.bounds = rng.choice(
            [
                {},
                {"DIRECT_QUEUE_BYTES_MAX": 1500, "DIRECT_IN_FLIGHT_BYTES": 1000},
                {"DIRECT_QUEUE_BYTES_MAX": 1500, "DIRECT_IN_FLIGHT_BYTES": 1 << 20,
                 "FRAME_BATCHES_MAX": 4},
            ]
        )  # fmt: skip
        self.window = rng.choice([(1 << 20, 10_000), (1 << 20, 10_000), (2000, 8), (400, 2)])
        self.programs: dict[str, Any] = {}
        self.all_programs: list[Any] = []
        self.readings: list[Reading] = []
        self.pushes: list[Pushed] = []
        self.askings: list[Asking] = []
        self.runs: list[Run] = []
        self.published: dict[tuple[bytes, str], int] = {}
        self.strange: list[str] = []
        self.unrest: list[str] = []
        self.is_calm = False
        self.is_busy = True
        self.events = 0
        self._peers: dict[str, list[str]] = {}
        self._wires: dict[tuple[int, bytes], Wire] = {}  # by program and its name for it
        self._wire_count = 0
        self._cut: set[tuple[str, str]] = set()  # from, to
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._digest = hashlib.sha256()

    # -- the play -----------------------------------------------------------------------------

    def run(self) -> Self:
        """Play the history: faults, healing, calm, rest."""
        with small(self.bounds):
            self._run()
        return self

    def _run(self) -> None:
        rng = self.rng
        names = [f"p{i}" for i in range(rng.choice([2, 2, 3, 4]))]
        for i, name in enumerate(names):
            others = [n for n in names if n != name]
            self._peers[name] = rng.choice([names[:i], names[:1] if i else [], others])
        for name in names:
            self.after(int(rng.random() * 200 * MS), partial(self.start, name, 0))
        plans = (
            (self.kill_count, self._kill), (self.cut_count, self._cut_pair),
            (self.break_count, self._break), (self.stop_count, self._stand_still),
            (self.change_count, self._change),
        )  # fmt: skip
        self._plan(plans)
        self._play_out()

    def _plan(self, plans: tuple[tuple[int, Callable[[], None]], ...]) -> None:
        """So many faults of each kind, at any time."""
        for count, work in plans:
            for _ in range(count):
                self.after(int(self.rng.random() * FAULTS_NS), work)

    def _play_out(self) -> None:
        """Faults, healing, calm, rest."""
        self.play(self.now_ns + FAULTS_NS)
        self._heal()
        self.play(self.now_ns + self.settled_ns)
        self._calm()
        self.play(self.now_ns + CALM_NS)
        self.is_busy = False
        end = self.now_ns + REST_NS
        self.play(self.now_ns + SECOND)
        while self.now_ns < end and self.find_unrest():
            self.play(self.now_ns + 250 * MS)
        self.unrest = self.find_unrest()

    def _heal(self) -> None:
        self.note("heal")
        self.healed = True
        self.is_busy = False
        self.loss = self.repeat = self.late = 0.0
        self._cut.clear()

    def _calm(self) -> None:
        self.note("calm")
        self.is_calm = self.is_busy = True
        for program in self.programs.values():
            program.begin_calm()

    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do ``work`` in a while."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now_ns + delay_ns, self._count, work))

    def play(self, until_ns: int) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= until_ns:
            self.now_ns, _, work = heapq.heappop(self._agenda)
            self.events += 1
            if self.events > EVENTS_MAX:
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

    # -- programs -----------------------------------------------------------------------------

    @staticmethod
    def address_of(name: str) -> str:
        return f"tcp://127.0.0.1:{7000 + int(name[1:])}"

    @staticmethod
    def name_at(address: str) -> str:
        return f"p{int(address.rsplit(':', 1)[1]) - 7000}"

    def start(self, name: str, run: int) -> None:
        """A program begins, for the first time or again."""
        self.note("start", name, run)
        program = DirectProgram(self, name, run)
        self.programs[name] = program
        self.all_programs.append(program)
        program.client.start(tuple(map(self.address_of, self._peers[name])), self.now_ns)
        program.client.do_without()
        self.settle(program)
        program.begin()

    def _some(self) -> Any:
        return self.programs[self.rng.choice(sorted(self.programs))] if self.programs else None

    def _kill(self) -> None:
        program = self._some()
        if program is None or self.healed:
            return
        self.note("kill", program.name)
        program.is_alive = False
        for wire in list(self._wires.values()):
            if wire.address == program.address and not wire.closed and self.rng.random() < 0.7:
                delay = int(self.rng.random() * 20 * MS)
                self.after(delay, partial(self._tell_closed, wire.dialler, wire.link))
        self.after(int(self.rng.random() * SECOND), partial(self.start, program.name,
                                                            program.run + 1))  # fmt: skip
        del self.programs[program.name]

    def _tell_closed(self, program: DirectProgram, link: bytes) -> None:
        self.event(program, LinkClosed(link, "cut"))

    def _cut_pair(self) -> None:
        """Frames from one program to another are lost, or both ways, for a while."""
        if self.healed or len(self.programs) < 2:
            return
        one, other = self.rng.sample(sorted(self.programs), 2)
        pairs = {(one, other)} | ({(other, one)} if self.rng.random() < 0.5 else set())
        self.note("cut", sorted(pairs))
        self._cut |= pairs
        self.after(int(self.rng.random() * 5 * SECOND), lambda: self._cut.difference_update(pairs))

    def _break(self) -> None:
        """A connection ends: who dialled is told, or nobody is."""
        open_wires = [w for w in self._wires.values() if not w.closed and w.dialler.is_alive]
        if self.healed or not open_wires:
            return
        wire = self.rng.choice(open_wires)
        self.note("break", wire.number)
        self._disturb(wire.dialler.name, self.name_at(wire.address))
        wire.closed = True
        if self.rng.random() < 0.6:
            self._tell_closed(wire.dialler, wire.link)

    def _disturb(self, *names: str, at_ns: int = 0) -> None:
        """A fault hits these programs, now or at ``at_ns``: for worlds that ask when."""

    def _stand_still(self) -> None:
        """A program is stopped for a while, as by SIGSTOP."""
        program = self._some()
        if program is not None and not self.healed:
            self.note("stop", program.name)
            program.still_until_ns = self.now_ns + int(self.rng.random() * 5 * SECOND)

    def _change(self) -> None:
        program = self._some()
        if program is not None and not self.healed:
            program.change()

    # -- the network --------------------------------------------------------------------------

    def event(self, program: DirectProgram, event: ClientEvent) -> None:
        """Something happens to a program, once it does not stand still."""
        if not program.is_alive:
            return
        if self.now_ns < program.still_until_ns and not self.healed:
            self.after(program.still_until_ns - self.now_ns, partial(self.event, program, event))
            return
        self.note(program.name, type(event).__name__)
        program.client.handle(event, self.now_ns)
        self.settle(program)

    def settle(self, program: DirectProgram) -> None:
        """Do what a program's machine wants done."""
        client = program.client
        for _ in range(1000):
            client.pump(self.now_ns)
            effects = client.take_effects(self.now_ns)
            for effect in effects:
                match effect:
                    case Send(link, envelope):
                        self._carry(program, link, envelope)
                    case OpenLink(link, address):
                        self._open(program, link, address)
                    case CloseLink():
                        self._close(program, effect)
                    case _:
                        self._tell(program, effect)
            program.on_settled()
            if not effects and not client.has_work:
                break
        else:
            self.strange.append(f"{program!r} does not come to rest")
        self._set_timer(program)

    def _tell(self, program: Any, effect: ClientEffect) -> None:
        program.on_effect(effect)

    def _open(self, program: DirectProgram, link: bytes, address: str) -> None:
        self._wire_count += 1
        self._wires[id(program), link] = Wire(self._wire_count, program, link, address)

    def _close(self, program: Any, effect: CloseLink) -> None:
        wire = self._wires.pop((id(program), effect.link), None)
        if wire is not None and effect.link == wire.link:
            wire.closed = True

    def _carry(self, sender: DirectProgram, link: bytes, envelope: Envelope) -> None:
        wire = self._wires.get((id(sender), link))
        if wire is None or (wire.closed and link != wire.link):
            return
        if link == wire.link:  # its dialler's; who dials itself has both ends
            name = self.name_at(wire.address)
            travel = partial(self._to_acceptor, wire, name, envelope)
        else:
            name = wire.dialler.name
            travel = partial(self._to_dialler, wire, envelope)
        if (sender.name, name) not in self._cut:
            self._travel(travel)

    def _to_acceptor(self, wire: Wire, name: str, envelope: Envelope) -> None:
        program = self.programs.get(name)
        if program is None:
            return
        link = wire.name_at(program)
        self._wires[id(program), link] = wire
        self.event(program, FrameReceived(link, envelope))

    def _to_dialler(self, wire: Wire, envelope: Envelope) -> None:
        if self._wires.get((id(wire.dialler), wire.link)) is wire and not wire.closed:
            self.event(wire.dialler, FrameReceived(wire.link, envelope))

    def wire_number(self, program: DirectProgram, link: bytes) -> int:
        """Which connection a program calls ``link``."""
        wire = self._wires.get((id(program), link))
        return wire.number if wire is not None else 0

    def _set_timer(self, program: DirectProgram) -> None:
        due = program.client.next_deadline_ns()
        if due is None:
            return
        due = max(due, self.now_ns + 1)
        if program.due_ns is None or due < program.due_ns or program.due_ns <= self.now_ns:
            program.due_ns = due

            def fire() -> None:
                if program.due_ns == due:
                    program.due_ns = None
                    self.event(program, TimerFired())

            self.after(due - self.now_ns, fire)

    # -- rest ---------------------------------------------------------------------------------

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet, in words; empty when all has."""
        found = []
        for program in self.programs.values():
            found += program.find_unrest()
        names = sorted(self.programs)
        for name in names:
            direct = self.programs[name].client.direct
            linked = {link.facts.name for link in direct.links.by_instance.values()}
            for other in names:
                if other == name:
                    continue
                if other not in linked:  # told of it, if it is not listed
                    found.append(f"{name} is not linked with {other}")
        return found
