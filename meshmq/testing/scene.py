"""A node with programs over a network that loses, repeats and delays: the ground of both worlds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from meshmq.core.batches import BatchTools
from meshmq.core.client import Client
from meshmq.core.effects import ClientEffect, CloseLink, Send
from meshmq.core.events import FrameReceived, LinkOpened, TimerFired
from meshmq.frames import Envelope, Hello
from meshmq.testing.network import Network
from meshmq.testing.stage import Stage


class Program:
    """A client with its program.

    Attributes:
        run: how often a program of this name was started before.
        link: the newest one; ``links`` counts them.
        deaf: frames to it are lost; ``mute``: frames from it.
    """

    def __init__(self, name: str, run: int, client: Client) -> None:
        self.name = name
        self.run = run
        self.client = client
        self.link = b""
        self.links = 0
        self.alive = True
        self.deaf = False
        self.mute = False
        self.due_ns: int | None = None


P = TypeVar("P", bound=Program)


class Scene(Stage, Network, Generic[P]):
    """See the module's header; what programs do is up to subclasses.

    Attributes:
        loss, repeat, late: how often a frame is.
        kill_count, cuts, full_count, flips, jumps, swizzle: see Faults.
        healed: whether faults are over.
    """

    def __init__(
        self, seed: int, tools: BatchTools, records: Callable[[bytes], list[bytes]]
    ) -> None:
        super().__init__(seed, tools, records)
        self.seed = seed
        self.programs: dict[str, P] = {}
        self.kills = 0
        self.loss = self.repeat = self.late = 0.0
        self.kill_count = self.cuts = self.full_count = self.flips = self.jumps = 0
        self.swizzle = False
        self.is_full = False

    def heal_links(self) -> None:
        """From now on links and disk do what they should, and the node runs."""
        self.note("heal")
        self.healed = True
        self.loss = self.repeat = self.late = self.stall = 0.0
        for program in self.programs.values():
            program.deaf = program.mute = False
        if self.node is None:
            self.start_node()

    # -- the network --------------------------------------------------------------------------

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        name = link.decode().split("/")[0]
        program = self.programs.get(name)
        if program is None or program.link != link or program.deaf:
            return
        self._travel(lambda: self.client_event(program, FrameReceived(link, envelope)))

    def _to_node(self, program: P, envelope: Envelope) -> None:
        link = program.link

        def arrive() -> None:
            # The newest hello has a producer's name: a late one of a program that is dead by then
            # would fence the living, as with any system that goes by arrival.
            if program.alive or not isinstance(envelope.body, Hello):
                self.node_event(FrameReceived(link, envelope))

        if not program.mute:
            self._travel(arrive)

    # -- programs -----------------------------------------------------------------------------

    @abstractmethod
    def restart(self, name: str) -> None:
        """The program dies with everything it had in memory and starts again."""

    @abstractmethod
    def on_effect(self, program: P, effect: ClientEffect) -> None:
        """What a client's machine tells its program."""

    def on_handled(self, program: P) -> None:
        """A client's effects were carried out."""

    def open_link(self, program: P) -> None:
        """A new link for the program's client."""
        program.links += 1
        program.link = f"{program.name}/{program.run}/{program.links}".encode()
        self.client_event(program, LinkOpened(program.link))

    def client_event(self, program: P, event: object) -> None:
        """Something happened to a program's client."""
        if not program.alive:
            return
        if getattr(event, "link", program.link) != program.link:
            return
        self.note(program.name, type(event).__name__)
        self._perform_client(program, program.client.handle(event, self.now_ns))  # type: ignore[arg-type]
        self.settle(program)

    def settle(self, program: P) -> None:
        """After a call of the program: send what it brought about."""
        program.client.pump(self.now_ns)
        self._perform_client(program, program.client.take_effects(self.now_ns))

    def _perform_client(self, program: P, effects: list[ClientEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    if link == program.link:
                        self._to_node(program, envelope)
                case CloseLink(_, after):
                    if after >= 0:
                        self.after(after + 1, lambda: self._reopen(program))
                case _:
                    self.on_effect(program, effect)
        self.on_handled(program)
        self._client_timer(program)

    def _reopen(self, program: P) -> None:
        if program.alive and not program.client.has_link:
            self.open_link(program)

    def _client_timer(self, program: P) -> None:
        due = program.client.next_deadline_ns()
        if due is None:
            return
        due = max(due, self.now_ns + 1)
        if program.due_ns is None or due < program.due_ns or program.due_ns <= self.now_ns:
            program.due_ns = due

            def fire() -> None:
                if program.due_ns == due:
                    program.due_ns = None
                    self.client_event(program, TimerFired())

            self.after(due - self.now_ns, fire)
