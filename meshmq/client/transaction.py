"""Transactions: records published and others acked, all of it or nothing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from meshmq import codec, limits
from meshmq.client.channel import Answer, Channel
from meshmq.client.job import AnyJob
from meshmq.client.job_options import wish_of
from meshmq.client.opening import OnlySync
from meshmq.client.values import check_key, check_value
from meshmq.core.held import Held
from meshmq.errors import (
    ClosedError,
    DeadlineExceeded,
    InvalidArgument,
    MessageTooLarge,
    StaleDelivery,
    TransactionFailed,
)
from meshmq.frames import PublishBatch
from meshmq.names import JobId, check_topic

if TYPE_CHECKING:
    from meshmq.client.mesh import Mesh

OPEN, SENT, DONE, DROPPED = range(4)


class Placed:
    """A record that a transaction publishes.

    Attributes:
        topic: where to.
        offset: once it is committed; None before, and of a job the queue had already.
    """

    __slots__ = ("_origin", "_topic_key", "offset", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.offset: int | None = None
        self._origin = ""
        self._topic_key = 0

    @property
    def job_id(self) -> str:
        """Names a queue's job, once it is committed; raises InvalidArgument before."""
        if self.offset is None:
            raise InvalidArgument("a job has an id once its transaction is committed")
        return str(JobId(self._origin, self._topic_key, self.offset))

    def put(self, origin: str, topic_key: int, offset: int) -> None:
        """It is committed."""
        self._origin, self._topic_key, self.offset = origin, topic_key, offset


class _Gathered:
    """One batch of a transaction."""

    def __init__(self, topic: str, options: tuple[int, int, int, bytes] | None) -> None:
        self.topic = topic
        self.options = options
        self.is_job = False
        self.values: list[bytes] = []
        self.keys: list[bytes] = []
        self.headers: list[bytes] = []
        self.placed: list[Placed] = []

    def encoded(self, time_ns: int) -> bytes:
        keys = self.keys if any(self.keys) else None
        headers = self.headers if any(self.headers) else None
        if self.options is None:
            return codec.encode_batch(self.values, keys, headers, None, time_ns)
        options = codec.JobOptions(*self.options)
        return codec.encode_jobs(self.values, keys, headers, None, time_ns, options)


class Draft:
    """What a transaction is to do, until it is sent; the same for both clients."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._state = OPEN
        self._records = 0
        self._batches: list[_Gathered] = []
        self._open: dict[tuple[str, object], _Gathered] = {}
        self._acks: dict[tuple[int, int], tuple[Held, int]] = {}
        self._origin = ""

    # -- gathering ------------------------------------------------------------------------------

    def _publish(
        self, topic: str, value: bytes, key: bytes | None, headers: Mapping[str, str] | None
    ) -> Placed:
        return self._add(check_topic(topic), None, False, value, key, headers)[1]

    def _enqueue(
        self,
        queue: str,
        value: bytes,
        key: bytes | None,
        headers: Mapping[str, str] | None,
        delay: float | str | None,
        at: datetime | None,
        priority: int,
        ttl: float | str | None,
        dedup_id: str | None,
    ) -> Placed:
        wish = wish_of(queue, delay, at, priority, ttl, dedup_id, self._channel.wall_ns())
        batch, placed = self._add(wish.topic, wish.options, wish.alone, value, key, headers)
        batch.is_job = True
        return placed

    def _add(
        self,
        topic: str,
        options: tuple[int, int, int, bytes] | None,
        alone: bool,
        value: bytes,
        key: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[_Gathered, Placed]:
        self._check_open()
        value = check_value(value)
        if key is not None:
            check_key(key)
        coded = codec.encode_headers(headers) if headers else b""
        self._count_one()
        batch = None if alone else self._open.get((topic, options))
        if batch is None:
            batch = _Gathered(topic, options)
            self._batches.append(batch)
            if not alone:
                self._open[topic, options] = batch
        placed = Placed(topic)
        batch.values.append(value)
        batch.keys.append(key or b"")
        batch.headers.append(coded)
        batch.placed.append(placed)
        return batch, placed

    def _ack(self, job: AnyJob) -> None:
        self._check_open()
        if not isinstance(job, AnyJob):
            raise InvalidArgument(f"only what a consumer gave can be acked, not {job!r}")
        held, index = job[4], job[3]
        if held.owner._channel is not self._channel:
            raise InvalidArgument("a transaction acks jobs of consumers of its own connection")
        if (id(held), index) in self._acks:
            return
        if job.is_settled:
            raise job._not_mine()
        self._origin = self._origin or job.origin
        if job.origin != self._origin:
            raise TransactionFailed(
                "a transaction belongs to the node of its first acked job, and this job is in "
                "another node's log: ack it in a transaction of its own"
            )
        self._count_one()
        self._acks[id(held), index] = held, index

    def _check_open(self) -> None:
        if self._state != OPEN:
            raise ClosedError("the transaction has ended")

    def _count_one(self) -> None:
        if self._records >= limits.TRANSACTION_RECORDS_MAX:
            raise InvalidArgument(
                f"a transaction has at most {limits.TRANSACTION_RECORDS_MAX} records and acks: "
                f"cut it into smaller ones"
            )
        self._records += 1

    # -- sending --------------------------------------------------------------------------------

    def _send(self) -> Answer:
        """Send it, once; raises what can be said without the node."""
        self._check_open()
        self._state = SENT
        acks = list(self._acks.values())
        for held, index in acks:
            if held.is_settled(index):
                raise StaleDelivery(
                    f"record {held.offset(index)} of {held.row.topic!r} was settled, or taken "
                    f"back, before the transaction ended"
                )
        rows, parts, total = [], [], 0
        for batch in self._batches:
            data = batch.encoded(self._channel.wall_ns())
            total += len(data)
            parts.append(data)
            rows.append(
                PublishBatch(
                    batch.topic,
                    1,
                    0,
                    len(batch.values),
                    len(data),
                    zlib.crc32(data),
                    False,
                    batch.is_job,
                )
            )
        if total > limits.FRAME_PAYLOAD_BYTES_MAX:
            raise MessageTooLarge(
                f"a transaction of {total} bytes exceeds the limit of "
                f"{limits.FRAME_PAYLOAD_BYTES_MAX}: cut it into smaller ones"
            )
        return self._channel.transact(acks, tuple(rows), b"".join(parts))

    def _answered(self, answer: Answer) -> None:
        """Note what the node says; raises TransactionFailed."""
        offsets: tuple[int, ...]
        keys: tuple[int, ...]
        origin: str
        offsets, keys, origin = answer.get()
        self._state = DONE
        if not len(offsets) == len(keys) == len(self._batches):
            return  # the queue had some of the jobs already
        for base, key, batch in zip(offsets, keys, self._batches, strict=True):
            for i, placed in enumerate(batch.placed):
                placed.put(origin, key, base + i)

    @property
    def committed(self) -> bool:
        """Whether all of it is done and synced."""
        return self._state == DONE

    @staticmethod
    def _no_answer(timeout: float, channel: Channel) -> Exception:
        return channel.dead or DeadlineExceeded(
            f"transaction: no answer from the node within {timeout} s; it may still be done"
        )

    def __repr__(self) -> str:
        state = ("open", "sent", "committed", "dropped")[self._state]
        published = sum(len(batch.values) for batch in self._batches)
        return f"{type(self).__name__}({published} records, {len(self._acks)} acks, {state})"


class Transaction(OnlySync, Draft):
    """``with mesh.transaction() as tx``: all of it is done at the end, or nothing.

    Left by an exception nothing is sent, and the jobs it would have acked stay the consumer's.
    """

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        super().__init__(mesh._connection)
        self._mesh = mesh
        self._timeout = timeout

    def publish(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Placed:
        """Publish a record to a durable topic with it: arguments and errors as of Mesh's."""
        return self._publish(topic, value, key, headers)

    def enqueue(
        self,
        queue: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        ttl: float | str | None = None,
        dedup_id: str | None = None,
    ) -> Placed:
        """Put a job into a queue with it: arguments and errors as of Mesh's."""
        self._mesh.learn_queue(queue)
        return self._enqueue(queue, value, key, headers, delay, at, priority, ttl, dedup_id)

    def ack(self, job: AnyJob) -> None:
        """Ack a job with it.

        Raises:
            StaleDelivery: it was settled, or taken back.
            TransactionFailed: it belongs to another node than the first one.
        """
        self._ack(job)

    def commit(self) -> None:
        """Do it, before the end of the ``with``; returns once it is synced.

        Raises:
            TransactionFailed, QueueFull: nothing was done.
            DeadlineExceeded: no answer in time; it is done, or will be, or not: unknown.
        """
        with self._mesh._transacting:
            self._mesh._await_transaction(self._timeout)
            if not self._records:
                self._check_open()
                self._state = DONE
                return
            answer = self._mesh._transaction = self._send()
            channel = self._channel
            if not channel.wait_until(lambda: answer.is_set, self._timeout):
                raise self._no_answer(self._timeout, channel)
            self._answered(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            if self._state == OPEN:
                self._state = DROPPED
        elif self._state == OPEN:
            self.commit()
