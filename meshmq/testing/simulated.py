"""A mesh on virtual time for tests of programs: real client API, real node core, no sockets.

    from meshmq.testing import Simulation

    def test_my_service():
        sim = Simulation(seed=1)
        mesh = sim.connect()
        mesh.publish("orders", b"1").wait()
        sim.kill_node()
        receipt = mesh.publish("orders", b"2")
        sim.advance(0.5)
        sim.start_node()
        assert receipt.wait(timeout=10).offset == 1      # ten virtual seconds, no real ones

Waiting plays virtual time until what is waited for is there, so a test never sleeps and a seed
always gives the same run. One thread. The synchronous client only: its calls are what moves time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from meshmq import codec, limits
from meshmq.client.channel import Channel
from meshmq.client.connecting import Where, check_options
from meshmq.client.mesh import Mesh, StateChange
from meshmq.client.values import deadline_of
from meshmq.core.client import ClientIdentity
from meshmq.core.effects import CloseLink
from meshmq.core.events import (
    FrameReceived,
    LinkClosed,
    LinkOpened,
    StorageMeasured,
    TimerFired,
)
from meshmq.errors import ClosedError, DeadlineExceeded, NodeUnreachable
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.testing.stage import Stage

FOREVER_NS = 3600 * SECOND  # who waits without a timeout waits so long
_RESERVE = 1 << 20


class Simulation(Stage):
    """One node and its clients. The node runs from the start.

    Args:
        seed: of delays, losses and ids.
        delay: seconds a frame travels, one way.

    Attributes:
        loss: share of frames that are lost, 0..1; they are sent again.
        node: the running node's core, or None.
    """

    def __init__(self, seed: int = 0, delay: float = 0.0001) -> None:
        super().__init__(seed, codec.TOOLS, lambda data: [])
        self.loss = 0.0
        self._delay_ns = int(delay * SECOND)
        self._channels: dict[str, _SimulatedChannel] = {}
        self._is_full = False
        self.start_node()

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.now_ns / SECOND - 1

    def connect(
        self,
        *,
        producer: str | None = None,
        name: str | None = None,
        timeout: float = 5.0,
        max_buffer: int = limits.PRODUCER_BUFFER_BYTES_MAX,
        on_full: str = "block",
        on_state: Callable[[StateChange], None] | None = None,
    ) -> Mesh:
        """A client, as ``meshmq.connect`` gives it; NodeUnreachable if the node is down."""
        where = Where(None, None, None, "node")
        check_options(where, producer, name, timeout, max_buffer, on_full, on_state)
        number = f"client-{len(self._channels) + 1}"
        told = None if on_state is None else lambda s, r: on_state(StateChange(s, r))
        channel = _SimulatedChannel(self, number, producer or number, name or number, told)
        self._channels[number] = channel
        channel.open()
        if not channel.wait_until(lambda: channel.is_greeted, timeout):
            channel.close(0)
            raise NodeUnreachable("the simulated node is down: start_node()")
        channel.check()
        return Mesh(channel, timeout, max_buffer, on_full == "block", producer is not None)

    def advance(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        self.play(self.now_ns + int(seconds * SECOND))

    def kill_node(self) -> None:
        """As kill -9: what is not synced is forgotten, and connections are cut."""
        self.stop_node()
        for channel in self._channels.values():
            self.after(MS, partial(channel.cut, channel.link))

    def cut(self, mesh: Mesh) -> None:
        """A client's frames are lost both ways until ``mend``; nobody is told."""
        _channel_of(mesh).is_cut = True

    def mend(self, mesh: Mesh) -> None:
        """End a ``cut``."""
        _channel_of(mesh).is_cut = False

    def fill_disk(self) -> None:
        """The node's disk has no room: publishers get StorageFull."""
        self._is_full = True
        self._measure()

    def free_disk(self) -> None:
        """There is room again."""
        self._is_full = False
        self._measure()

    def damage(self, topic: str, offset: int) -> None:
        """The stored batch with this record no longer matches its checksum."""
        stream = self.disk.state.topics[topic].topic.stream
        for commit in self.disk.commits:
            for slot, batch in enumerate(commit.batches):
                inside = batch.base_offset <= offset < batch.base_offset + batch.count
                if batch.stream == stream and inside:
                    self.disk.flipped.add((commit.lsn, slot))

    def jump_clock(self, seconds: float) -> None:
        """The wall clock is set; timeouts do not notice."""
        self.wall_ns += int(seconds * SECOND)

    # -- the stage ----------------------------------------------------------------------------

    def on_node_started(self) -> None:
        self._measure()

    def _measure(self) -> None:
        self.node_event(StorageMeasured(0 if self._is_full else 1 << 40, _RESERVE))

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        channel = self._channels[link.decode().split("/")[0]]
        self.travel(channel, partial(channel.receive, link, envelope))

    def travel(self, channel: _SimulatedChannel, arrive: Callable[[], None]) -> None:
        """One frame on its way, in order."""
        if channel.is_cut or self.rng.random() < self.loss:
            return
        channel.busy_until_ns = max(self.now_ns + self._delay_ns, channel.busy_until_ns + 1)
        self.after(channel.busy_until_ns - self.now_ns, arrive)

    def next_event(self, end_ns: int) -> bool:
        """Let the next thing happen; False if there is none until ``end_ns``."""
        if not self._heap or self._heap[0][0] > end_ns:
            self.play(end_ns)
            return False
        self.play(self._heap[0][0])
        return True


def _channel_of(mesh: Mesh) -> _SimulatedChannel:
    channel = mesh._connection
    assert isinstance(channel, _SimulatedChannel), "this client is not of a simulation"
    return channel


class _SimulatedChannel(Channel):
    """A Channel whose waiting plays the simulation."""

    def __init__(
        self,
        simulation: Simulation,
        number: str,
        producer: str,
        name: str,
        on_state: Callable[[str, str], None] | None,
    ) -> None:
        identity = ClientIdentity(
            "local",
            hashlib.sha256(f"instance {number}".encode()).digest()[:16],
            hashlib.sha256(f"producer {producer}".encode()).digest()[:16],
            name,
        )
        super().__init__("simulated", identity, on_state, simulation.rng, nullcontext())
        self.wall_ns = lambda: simulation.wall_ns + simulation.now_ns
        self.sleeping = True  # every record is seen to by who publishes it
        self.is_cut = False
        self.busy_until_ns = 0
        self.link = b""
        self._simulation = simulation
        self._number = number
        self._links = 0
        self._due_ns: int | None = None
        self._telling = False

    # -- links and timers ---------------------------------------------------------------------

    def open(self) -> None:
        self._links += 1
        self.link = f"{self._number}/{self._links}".encode()
        self._turn(lambda now: self._handle(LinkOpened(self.link), now))

    def cut(self, link: bytes) -> None:
        if link == self.link and not self._closing:
            self._turn(lambda now: self._handle(LinkClosed(link, "the connection was cut"), now))

    def receive(self, link: bytes, envelope: Envelope) -> None:
        if link == self.link and not self._closing:
            self._turn(lambda now: self._handle(FrameReceived(link, envelope), now))

    def _transmit(self, link: bytes, envelope: Envelope) -> None:
        if link == self.link:
            arrive = partial(self._simulation.node_event, FrameReceived(link, envelope))
            self._simulation.travel(self, arrive)

    def _close_link(self, effect: CloseLink) -> None:
        if effect.reopen_after_ns >= 0:
            self._simulation.after(effect.reopen_after_ns + MS, self._reopen)

    def _reopen(self) -> None:
        if not self._closing and not self.client.has_link:
            self.open()

    def _turn(self, work: Callable[[int], None]) -> None:
        now = self._simulation.now_ns
        work(now)
        self.client.pump(now)
        self._perform(self.client.take_effects(now))
        self._plan()
        self._settle()
        if not self._telling:
            self._telling = True
            try:
                while self._callbacks:
                    self._call_back(self._callbacks.popleft())
            finally:
                self._telling = False

    def _plan(self) -> None:
        """Have the machine's next deadline come."""
        simulation = self._simulation
        due = self.client.next_deadline_ns()
        if due is None or (self._due_ns is not None and simulation.now_ns < self._due_ns <= due):
            return
        due = self._due_ns = max(due, simulation.now_ns + 1)

        def fire() -> None:
            if self._due_ns == due and not self._closing:
                self._due_ns = None
                self._turn(lambda now: self._handle(TimerFired(), now))

        simulation.after(due - simulation.now_ns, fire)

    # -- Channel ------------------------------------------------------------------------------

    def run(self, work: Callable[[int], None]) -> None:
        if self.dead is None:
            self._turn(work)

    def published(self) -> None:
        self._turn(lambda now: None)

    def wait_until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        simulation = self._simulation
        if deadline_of(0, timeout) is None:
            timeout = None
        end_ns = simulation.now_ns + (FOREVER_NS if timeout is None else int(timeout * SECOND))
        while not is_true() and self.dead is None:
            if simulation.next_event(end_ns):
                continue
            if timeout is None and not is_true():
                raise DeadlineExceeded(
                    "a virtual hour has passed and what is waited for did not come"
                )
            break
        return is_true()

    def now_ns(self) -> int:
        return self._simulation.now_ns

    def deadline(self, timeout: float | None) -> float | None:
        return deadline_of(self._simulation.now_ns / SECOND, timeout)

    def left(self, deadline: float | None) -> float | None:
        if deadline is None:
            return None
        return max(0.0, deadline - self._simulation.now_ns / SECOND)

    def close(self, timeout: float) -> None:
        if self._closing:
            return
        now = self._simulation.now_ns
        self.client.close(now)
        self._closing = True
        self._perform(self.client.take_effects(now))
        self._die(ClosedError("the connection is closed"))
