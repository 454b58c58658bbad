"""The program's end of a subscription: iterate it, or fetch lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Self

from meshmq.client.channel import Answer, Channel
from meshmq.client.message import Delivered, Message
from meshmq.client.opening import OnlySync
from meshmq.client.values import check_records
from meshmq.core.effects import Arrival, Arrived
from meshmq.core.subscriber import Start
from meshmq.errors import BadFrame, ClosedError, MeshError


class Wish(NamedTuple):
    """What a program asks for: see ``Mesh.subscribe`` and, with ``pulls``, ``Mesh.pull``."""

    pattern: str
    start: Start
    window_bytes: int
    window_records: int
    on_missed: Callable[[int], None] | None
    pulls: bool = False
    dedup: bool = False
    own_site: bool = False


class Inbox:
    """What has come of one subscription and is not yet read; gives credit back as it is.

    Attributes:
        pattern: as given.
        topics: how many topics matched when it was opened.
        damaged: records of ``missed`` whose bytes on the node's disk are damaged.
    """

    def __init__(self, channel: Channel, wish: Wish) -> None:
        self.pattern = wish.pattern
        self.topics = 0
        self.damaged = 0
        self._wish = wish
        self._passed = 0
        self._undecodable = 0
        self._channel = channel
        self._arrivals: deque[Arrival] = deque()
        self._current: Iterator[Message] = iter(())
        self._reading: Arrival | None = None
        self._owed_bytes = 0
        self._owed_records = 0
        self._closed = False
        self._error: MeshError | None = None
        self._id = 0

    def _open(self) -> Answer:
        pattern, start, size, records, _, pulls, dedup, own_site = self._wish
        client = self._channel.client

        def opening(now_ns: int) -> int:
            if pulls:
                return client.pull(pattern, size, records, now_ns)
            return client.subscribe(pattern, start, size, records, now_ns, dedup, own_site)

        return self._channel.open_subscription(opening, self._on_arrived, self._on_ended)

    def _opened(self, answer: Answer) -> None:
        """The node has answered: note it, or raise its refusal."""
        self._id = answer.number
        try:
            self.topics = answer.get()
        except MeshError:
            self._channel.run(answer.undo)
            raise

    # -- the connection's turns -------------------------------------------------------------

    def _on_arrived(self, event: Arrived) -> None:
        self._arrivals.extend(event.arrivals)
        self.damaged = event.damaged
        if event.missed != self._passed:
            more, self._passed = event.missed - self._passed, event.missed
            self._tell_missed(more)

    def _on_ended(self, error: MeshError) -> None:
        self._error = error

    def _tell_missed(self, records: int) -> None:
        told = self._wish.on_missed
        if told is not None:
            self._channel.tell(lambda: told(records))

    @property
    def missed(self) -> int:
        """Records passed over so far: dropped for this subscription because it was slow or
        undecodable (transient topics), removed by retention unread, or damaged on disk (these are
        in ``damaged`` too)."""
        return self._passed + self._undecodable

    @property
    def away(self) -> tuple[str, ...]:
        """Names of nodes whose stored records wait until they are back; nothing of them is
        skipped. Empty while the connection is lost, since nobody tells then."""
        sub = self._channel.client.subscribers.get(self._id)
        return sub.away if sub is not None else ()

    @property
    def direct(self) -> tuple[str, ...]:
        """Names of nodes other than our own that stored records come from now, each its own; those
        of all others come by our own node."""
        return self._channel.client.reads.read_directly(self._id)

    # -- the program ------------------------------------------------------------------------

    @property
    def _has_news(self) -> bool:
        """Whether waiting for more is over."""
        return bool(self._arrivals or self._closed or self._error)

    def _take_batch(self) -> bool:
        """Make the next batch the current one; False if there is none.

        Raises why there will be none, unless the program closed it.
        """
        while self._arrivals:
            arrival = self._arrivals.popleft()
            self._reading = arrival
            try:
                self._current = Delivered(arrival).messages()
            except BadFrame:
                # A node checks what it stores, not what it only passes on: a broken producer of
                # a transient topic costs its own records.
                records = arrival.count - arrival.skip
                self._undecodable += records
                self._tell_missed(records)
                self._give_back()
                continue
            return True
        if not self._closed:
            if self._error is not None:
                raise self._error
            self._channel.check()
        return False

    def _give_back(self) -> None:
        """The batch read last is done with: return its credit, in quarters of the window."""
        done = self._reading
        if done is None:
            return
        self._reading = None
        self._owed_bytes += len(done.payload)
        self._owed_records += done.count
        wish, client, number = self._wish, self._channel.client, self._id
        if (
            self._owed_bytes * 4 >= wish.window_bytes
            or self._owed_records * 4 >= wish.window_records
            or (not self._arrivals and client.is_thirsty(number))
        ):
            size, records = self._owed_bytes, self._owed_records
            self._owed_bytes = self._owed_records = 0
            self._channel.run(lambda now: client.consumed(number, size, records, now))

    def _nothing(self) -> list[Message]:
        """What a fetch without a message returns; raises ClosedError where there will be none."""
        if self._closed:
            raise ClosedError(f"this subscription to {self._wish.pattern!r} is closed")
        return []

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._channel.unsubscribe(self._id)


class Subscription(OnlySync, Inbox):
    """Messages of the topics that match a pattern, in log order per node.

    One thread at a time may read it. Iterating ends when it is closed.

    Attributes:
        pattern: as given.
        topics: how many topics matched when it was opened.
        damaged: records of ``missed`` whose bytes on the node's disk are damaged.
    """

    def __init__(self, channel: Channel, wish: Wish, timeout: float) -> None:
        super().__init__(channel, wish)
        answer = self._open()
        channel.wait_answer(answer, timeout, "subscribe")
        self._opened(answer)

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come; waits for more without end."""
        while True:
            # The iterator is kept, so that a loop left by break goes on at the next message.
            yield from self._current
            if not self._next_batch(None):
                return

    def fetch(self, max_records: int = 100, timeout: float | None = None) -> list[Message]:
        """Take up to ``max_records`` messages; an empty list when none came in time.

        Args:
            max_records: at least 1.
            timeout: seconds to wait for the first one; None waits without end, 0 not at all.

        Raises:
            MeshError: it or the connection is closed, or the node refused to go on.
        """
        check_records(max_records)
        messages = list(islice(self._current, max_records))
        while len(messages) < max_records:
            if not self._next_batch(0 if messages else timeout):
                break
            messages += islice(self._current, max_records - len(messages))
        return messages or self._nothing()

    def _next_batch(self, timeout: float | None) -> bool:
        """Make the next batch the current one; False on timeout or when closed."""
        self._give_back()
        if not self._arrivals:
            self._channel.wait_until(lambda: self._has_news, timeout)
        return self._take_batch()

    def close(self) -> None:
        """End it; a thread that iterates it comes to the end."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Subscription({self.pattern!r}, missed={self.missed})"
