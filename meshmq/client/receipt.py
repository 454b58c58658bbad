"""What a publisher gets back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, overload

from meshmq.core.in_flight import too_few
from meshmq.core.lanes import DONE, FAILED, WAITING, Batch
from meshmq.durability import name_of
from meshmq.errors import DONE as APPLIED
from meshmq.errors import (
    DeadlineExceeded,
    DurabilityTimeout,
    DurabilityUnavailable,
    JobNotFound,
)
from meshmq.frames import REPLICATED, SENT
from meshmq.names import JobId, Stream, pushed_topic, topic_key

if TYPE_CHECKING:
    from meshmq.client.channel import Channel


P = TypeVar("P", bound="Promise")


class Promise:
    """What both clients' receipts know."""

    # One is made per record, so it holds two things; the batch knows the rest.
    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    @property
    def _connection(self) -> Channel:
        connection: Channel = self._batch.lane.owner
        return connection

    @property
    def done(self) -> bool:
        """Whether the outcome is known: confirmed or failed."""
        return self._batch.state != WAITING

    def _in_time(self, timeout: float | None) -> DeadlineExceeded | DurabilityTimeout:
        timeout = timeout and round(timeout, 3)  # of several records it is what was left
        if self._batch.durability > SENT:
            why = f" ({self._batch.lane.waits})" if self._batch.lane.waits else ""
            wanted = max(self._batch.wanted, REPLICATED)
            error = DurabilityTimeout(
                f"stored and {self._reached(self._batch)}, do not resend; not {name_of(wanted)} "
                f"within {timeout} s: {too_few(wanted, 'it')}{why}",
                self,
            )
            error.told = True
            self._batch.error = error  # close need not say it again
            return error
        where = "the record is still on its way"
        if pushed_topic(self._batch.lane.topic):
            where = "nobody has taken the record so far"
        state = self._connection.state
        return DeadlineExceeded(f"no confirmation within {timeout} s; {where} (state: {state})")

    def _judge(self) -> None:
        """Raise unless the record reached what was asked for; its outcome must be known."""
        batch = self._batch
        if batch.state != DONE and not self.duplicate:
            assert batch.error is not None
            if isinstance(batch.error, DurabilityTimeout):
                batch.error.receipt = self
            self._connection.told(batch.error)
            raise batch.error
        if batch.wanted > batch.durability and not self.duplicate:
            why = ": the node confirms that" if batch.durability > SENT else " is transient:"
            error = DurabilityUnavailable(
                f"topic {batch.lane.topic!r}{why} records are {self._reached(batch)}, "
                f"never {name_of(batch.wanted)}"
            )
            error.outcome = APPLIED
            raise error

    @staticmethod
    def _reached(batch: Batch) -> str:
        return name_of(batch.durability)

    @property
    def duplicate(self) -> bool:
        """Whether the node had the record already, from an earlier attempt or program run."""
        return self._batch.duplicate or self._index < self._batch.skipped

    @property
    def offset(self) -> int | None:
        """Offset in the stream; None for a transient topic, or a duplicate too old to know."""
        return self._offset_in(self._settled())

    def _offset_in(self, batch: Batch) -> int | None:
        if batch.base_offset is None or self._index < batch.skipped:
            return None
        return batch.base_offset + self._index - batch.skipped

    @property
    def durability(self) -> str:
        """What was reached: ``sent`` (the node has it in memory), ``synced`` (on its disk),
        ``replicated`` (on as many as the topic is to have copies) or ``mirrored:N`` (on its disk,
        and on one at each of so many other sites)."""
        return name_of(self._settled().durability)

    @property
    def route(self) -> str:
        """How it went: ``"node"``, ``"direct"``, ``"both"`` (directly, and by the node to others),
        or empty: nobody wanted it."""
        return self._settled().route

    @property
    def append_time_ns(self) -> int:
        """When the node appended it (unix ns); 0 for a transient topic."""
        return self._settled().append_time_ns

    @property
    def stream(self) -> Stream:
        """The stream that holds it."""
        return self._stream_of(self._settled())

    def _stream_of(self, batch: Batch) -> Stream:
        return Stream(self._topic, batch.topic_id.hex(), batch.origin.hex())

    @property
    def _topic(self) -> str:
        topic: str = self._batch.lane.topic
        return pushed_topic(topic) or topic

    @property
    def job_id(self) -> str:
        """Names a queue's job for as long as it lives, for ``cancel`` and ``reschedule``."""
        batch, offset = self._settled(), self.offset
        if offset is None:
            raise JobNotFound("the job was stored before, its id is not known any more")
        return str(JobId(batch.origin.hex(), topic_key(batch.topic_id), offset))

    def _settled(self) -> Batch:
        if self._batch.durability > SENT and self._batch.state != DONE:
            return self._batch  # its copies are not confirmed, or never will be
        if self._batch.state == WAITING:
            raise self._in_time(0)
        self._judge()
        return self._batch

    def __repr__(self) -> str:
        batch, state = self._batch, self._batch.state
        known, waits = f"topic={self._topic!r}", "waiting"
        if state == DONE or batch.durability > SENT:
            known = f"{self._stream_of(batch)}, offset={self._offset_in(batch)}, "
            known += f"durability={self._reached(batch)!r}"
            waits = f"waiting to be {name_of(max(batch.wanted, REPLICATED))}"
        ends = {WAITING: f", {waits}", DONE: "", FAILED: f", failed: {batch.error}"}
        return f"{type(self).__name__}({known}{ends[state]})"


class Receipt(Promise):
    """The promise for one record; ``wait`` makes it good.

    After ``wait`` (or once ``done``): ``stream``, ``offset``, ``durability``.
    """

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> Receipt:
        """Wait until the node has confirmed the record; return this receipt.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            DurabilityTimeout: stored, and not copied, or mirrored, in time
                (``durability="replicated"``, ``"mirrored:N"``): do not resend. It has this
                receipt, which tells where; ``wait`` may be called again. Or it is gone at its own
                node before so many sites had it, by retention, say.
            DeadlineExceeded: not confirmed in time; it may still be. Keep the receipt.
            MeshError: it was refused or failed; ``outcome`` tells whether it may be stored.
        """
        batch = self._batch
        if batch.state == WAITING and not self._connection.wait_for(batch, timeout):
            raise self._in_time(timeout)
        self._judge()
        return self


class Promises(Sequence[P]):
    """Receipts of one ``publish_many``, made when looked at."""

    __slots__ = ("_batches", "_connection", "_count", "_kind")

    def __init__(
        self, connection: Channel, batches: list[tuple[int, Batch]], kind: type[P]
    ) -> None:
        self._connection = connection
        self._batches = batches  # (index of its first record, batch)
        self._count = sum(batch.count for _, batch in batches)
        self._kind = kind

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> P: ...
    @overload
    def __getitem__(self, index: slice) -> list[P]: ...
    def __getitem__(self, index: int | slice) -> P | list[P]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError("receipt index out of range")
        low, high = 0, len(self._batches)
        while high - low > 1:
            middle = (low + high) // 2
            if self._batches[middle][0] <= index:
                low = middle
            else:
                high = middle
        base, batch = self._batches[low]
        return self._kind(batch, index - base)


class Receipts(Promises[Receipt]):
    """Receipts of one ``publish_many``, made when looked at."""

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> Receipts:
        """Wait for all of them; raise the first error. ``timeout`` is in seconds, for all."""
        deadline = self._connection.deadline(timeout)
        for _, batch in self._batches:
            Receipt(batch, batch.skipped).wait(self._connection.left(deadline))
        return self
