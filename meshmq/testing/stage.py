"""Virtual time, a simulated disk and the real node on it: the ground of every simulation."""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections.abc import Callable

from meshmq.core.batches import BatchTools
from meshmq.core.effects import (
    Append,
    CloseLink,
    MendLog,
    NodeEffect,
    OpenLink,
    PlanRetention,
    ReadLog,
    Send,
    SurveyLog,
)
from meshmq.core.events import (
    Committed,
    FrameReceived,
    NodeEvent,
    RetentionPlanned,
    TimerFired,
    WallClock,
)
from meshmq.core.log import Commit
from meshmq.core.node import Node
from meshmq.core.session import SessionState
from meshmq.core.sessions import Peer
from meshmq.core.site_identity import SiteIdentity
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.testing.disk import Disk

WALL_NS = 1_700_000_000 * SECOND
ORIGIN = b"simulated-origin"


class Stage(ABC):
    """One node on virtual time; subclasses bring its clients.

    Args:
        seed: of everything that happens.
        tools: the node's view of a batch's bytes.
        records: a batch's records, for the disk to remember; may give none.

    Attributes:
        now_ns: virtual monotonic time; ``wall_ns`` behind it is the wall clock's.
        epoch: changes when the node is killed or started.
    """

    name = "n"
    mesh = "local"

    def __init__(
        self,
        seed: int,
        tools: BatchTools,
        records: Callable[[bytes], list[bytes]],
    ) -> None:
        self.rng = random.Random(seed)
        self.tools = tools
        self.records = records
        self.now_ns = SECOND
        self.wall_ns = WALL_NS
        self.disk = Disk(ORIGIN)
        self.node: Node | None = None
        self.events = 0
        self.epoch = 0
        self.waiting: list[Append] = []
        self.syncing = False
        self.stall = 0.0  # how often a sync takes up to a second
        self.recent_bytes = self.queue_bytes = 1 << 24
        self.budget_bytes = self.delivered_bytes = 1 << 30
        self._node_due: int | None = None
        self._heap: list[tuple[int, float, int, Callable[[], None]]] = []

    # -- time ---------------------------------------------------------------------------------

    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do ``work`` ``delay_ns`` from now."""
        self.events += 1
        entry = (self.now_ns + delay_ns, self.rng.random(), self.events, work)
        heapq.heappush(self._heap, entry)

    def play(self, until_ns: int) -> None:
        """Let everything happen that is due until then."""
        heap = self._heap
        while heap and heap[0][0] <= until_ns:
            self.now_ns, _, _, work = heapq.heappop(heap)
            work()
        self.now_ns = until_ns

    def note(self, *what: object) -> None:  # noqa: B027 (a hook that may stay empty)
        """Something happened; for who keeps a history."""

    # -- the node -----------------------------------------------------------------------------

    def start_node(self) -> None:
        """A node over what the disk has, unless one runs."""
        if self.node is not None:
            return
        self.epoch += 1
        self.node = self.make_node()
        self._node_due = None
        self._perform_node(self.node.handle(WallClock(self.wall_ns + self.now_ns), self.now_ns))
        self.on_node_started()
        self._node_timer()

    def make_node(self) -> Node:
        """A node over what the disk has; it runs from now on."""
        return Node(
            self.disk.state, name=self.name, mesh=self.mesh, software="simulated",
            tools=self.tools, entropy=self.rng, recent_bytes=self.recent_bytes,
            queue_bytes=self.queue_bytes, budget_bytes=self.budget_bytes,
            delivered_bytes=self.delivered_bytes, site=self.site_identity(),
        )  # fmt: skip

    def site_identity(self) -> SiteIdentity | None:
        """What the node is in its site, if it is of one."""
        return None

    def stop_node(self) -> None:
        """Kill it: what was not synced is forgotten, the sync under way may have made it."""
        self.node = None
        self.epoch += 1
        self.waiting = []
        self.syncing = False

    def on_node_started(self) -> None:  # noqa: B027 (as above)
        """Before the node's first event."""

    def on_synced(self, commit: Commit) -> None:  # noqa: B027 (as above)
        """The disk has one more commit."""

    def on_link_dropped(self, link: bytes) -> None:  # noqa: B027 (as above)
        """The node gave up the session over ``link``."""

    def on_link_opened(self, link: bytes, address: str) -> None:  # noqa: B027 (as above)
        """The node dials another one."""

    def on_turn_ended(self) -> None:  # noqa: B027 (as above)
        """The node's machines are at rest for a moment."""

    def plan_trims(self) -> list[tuple[int, int]]:
        """What retention takes, when the node asks."""
        return []

    @abstractmethod
    def to_client(self, link: bytes, envelope: Envelope) -> None:
        """The node sends."""

    def taker(self, event: NodeEvent) -> Peer | None:
        """Whose session stands and has not had the frame that comes, if one does."""
        if self.node is None or not isinstance(event, FrameReceived):
            return None
        peer, envelope = self.node.peers.get(event.link), event.envelope
        if peer is None or peer.session.state is not SessionState.OPEN:
            return None
        is_next = envelope.sequence == peer.session.received + 1
        return peer if is_next and peer.session.id == envelope.session else None

    def node_event(self, event: NodeEvent) -> None:
        if self.node is not None:
            self.note("node", type(event).__name__)
            self._perform_node(self.node.handle(event, self.now_ns))
            if self.rng.random() < 0.5:
                self._end_turn()
            else:
                # More events may come before the turn ends.
                epoch = self.epoch
                self.after(int(self.rng.random() * MS), lambda: self._end_turn(epoch))
            self._node_timer()

    def _end_turn(self, epoch: int = 0) -> None:
        if self.node is not None and epoch in (0, self.epoch):
            self._perform_node(self.node.end_turn(self.now_ns))
            self.on_turn_ended()
            self._node_timer()

    def _node_timer(self) -> None:
        if self.node is None:
            return
        due = max(self.node.next_deadline_ns(), self.now_ns)
        if self._node_due is None or due < self._node_due or self._node_due <= self.now_ns:
            self._node_due = due
            epoch = self.epoch

            def fire() -> None:
                if epoch == self.epoch and self._node_due == due:
                    self._node_due = None
                    if self.node is not None:
                        wall = WallClock(self.wall_ns + self.now_ns)
                        self._perform_node(self.node.handle(wall, self.now_ns))
                    self.node_event(TimerFired())

            self.after(due - self.now_ns, fire)

    def _perform_node(self, effects: list[NodeEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    self.to_client(link, envelope)
                case Append():
                    self.waiting.append(effect)
                    self._sync()
                case ReadLog():
                    self._read(effect)
                case PlanRetention():
                    self._retain()
                case SurveyLog():
                    self._survey(effect)
                case MendLog():
                    self.disk.mend(effect)
                case CloseLink(link):
                    self.on_link_dropped(link)
                case OpenLink(link, address):
                    self.on_link_opened(link, address)

    def _sync(self) -> None:
        """Group commit: what waits when a sync begins goes together; the rest waits."""
        if self.syncing or not self.waiting:
            return
        group, self.waiting = self.waiting, []
        self.syncing = True
        epoch, disk = self.epoch, self.disk

        def done() -> None:
            # After a kill the sync may have made it all the same: nobody is told.
            if disk is not self.disk:
                return  # another one was put in its place
            if epoch != self.epoch and self.rng.random() < 0.5:
                return
            if self.epoch > epoch + 1:
                return  # a restarted node has already read the log without it
            entries = [entry for append in group for entry in append.entries]
            commit = self.disk.commit(entries, self.wall_ns + self.now_ns, self.records)
            self.note("synced", commit.lsn)
            self.on_synced(commit)
            if epoch == self.epoch:
                self.syncing = False
                self.node_event(Committed(group[-1].ticket, (commit,)))
                self._sync()

        stalled = int(self.rng.random() * SECOND) if self.rng.random() < self.stall else 0
        self.after(int(self.rng.random() ** 3 * 20 * MS) + 100_000 + stalled, done)

    def _read(self, order: ReadLog) -> None:
        epoch = self.epoch

        def done() -> None:
            if epoch == self.epoch:
                self.node_event(self.disk.read(order))

        self.after(int(self.rng.random() * 3 * MS), done)

    def _survey(self, order: SurveyLog) -> None:
        epoch = self.epoch

        def done() -> None:
            if epoch == self.epoch:
                self.node_event(self.disk.survey(order))

        self.after(int(self.rng.random() * 3 * MS), done)

    def _retain(self) -> None:
        trims = self.plan_trims()
        epoch = self.epoch

        def done() -> None:
            if epoch == self.epoch:
                self.node_event(RetentionPlanned(tuple(trims)))

        self.after(MS, done)
