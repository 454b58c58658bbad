"""The program's end of a subscription: iterate it, or fetch lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from meshmq.client.connection import Connection
from meshmq.client.message import Delivered, Message
from meshmq.core.effects import Arrival, Arrived
from meshmq.core.subscriber import Start
from meshmq.errors import BadFrame, MeshError


class Subscription:
    """Messages of the topics that match a pattern, in log order per node.

    One thread at a time may read it. Iterating ends when it is closed.

    Attributes:
        pattern: as given.
        topics: how many topics matched when it was opened.
    """

    def __init__(
        self,
        connection: Connection,
        pattern: str,
        start: Start,
        window_bytes: int,
        window_records: int,
        timeout: float,
        on_missed: Callable[[int], None] | None,
    ) -> None:
        self.pattern = pattern
        self._passed = 0
        self._undecodable = 0
        self._connection = connection
        self._on_missed = on_missed
        self._window_bytes = window_bytes
        self._window_records = window_records
        self._arrivals: deque[Arrival] = deque()
        self._current: Iterator[Message] = iter(())
        self._reading: Arrival | None = None
        self._owed_bytes = 0
        self._owed_records = 0
        self._closed = False
        self._error: MeshError | None = None
        client = connection.client
        self._id, self.topics = connection.subscribe(
            lambda now: client.subscribe(pattern, start, window_bytes, window_records, now),
            self._on_arrived,
            self._on_ended,
            timeout,
        )

    # -- the connection's turns -------------------------------------------------------------

    def _on_arrived(self, event: Arrived) -> None:
        self._arrivals.extend(event.arrivals)
        if event.missed != self._passed:
            more, self._passed = event.missed - self._passed, event.missed
            self._tell_missed(more)

    def _on_ended(self, error: MeshError) -> None:
        self._error = error

    def _tell_missed(self, records: int) -> None:
        told = self._on_missed
        if told is not None:
            self._connection.tell(lambda: told(records))

    @property
    def missed(self) -> int:
        """Records passed over so far: dropped for this subscription because it was slow or
        undecodable (transient topics), removed by retention unread, or damaged on disk."""
        return self._passed + self._undecodable

    # -- the program ------------------------------------------------------------------------

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
            MeshError: the connection is closed, or the node refused to go on.
        """
        messages = list(islice(self._current, max_records))
        while len(messages) < max_records:
            if not self._next_batch(0 if messages else timeout):
                break
            messages += islice(self._current, max_records - len(messages))
        return messages

    def _next_batch(self, timeout: float | None) -> bool:
        """Make the next batch the current one; False on timeout or when closed."""
        while True:
            self._give_back()
            if not self._arrivals and not self._wait(timeout):
                if self._error is not None and not self._closed:
                    raise self._error
                if not self._closed:
                    self._connection.check()
                return False
            arrival = self._arrivals.popleft()
            self._reading = arrival
            try:
                self._current = Delivered(arrival).messages()
            except BadFrame:
                # A node checks what it stores, not what it only passes on: a broken producer of
                # a transient topic costs its own records.
                self._passed_over(arrival.count - arrival.skip)
                continue
            return True

    def _passed_over(self, records: int) -> None:
        self._undecodable += records
        self._tell_missed(records)

    def _wait(self, timeout: float | None) -> bool:
        self._connection.wait_until(
            lambda: bool(self._arrivals or self._closed or self._error), timeout
        )
        return bool(self._arrivals)

    def _give_back(self) -> None:
        """The batch read last is done with: return its credit, in quarters of the window."""
        done = self._reading
        if done is None:
            return
        self._reading = None
        self._owed_bytes += len(done.payload)
        self._owed_records += done.count
        if (
            self._owed_bytes * 4 >= self._window_bytes
            or self._owed_records * 4 >= self._window_records
        ):
            size, records = self._owed_bytes, self._owed_records
            self._owed_bytes = self._owed_records = 0
            client, number = self._connection.client, self._id
            self._connection.run(lambda now: client.consumed(number, size, records, now))

    def close(self) -> None:
        """End it; a thread that iterates it comes to the end."""
        if not self._closed:
            self._closed = True
            self._connection.unsubscribe(self._id)

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
