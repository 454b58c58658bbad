"""What a synchronous Mesh offers for sharing work: groups, queues and their jobs."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshmq import codec, limits
from meshmq.client.admin import Ask, ask, ask_last
from meshmq.client.channel import Answer, Channel
from meshmq.client.consumer import Consumer
from meshmq.client.group_settings import group_of, queue_of, settings_of, to_consume
from meshmq.client.job import Job
from meshmq.client.job_options import JobWish, due_of, wish_of
from meshmq.client.pool import check_takes_one
from meshmq.client.receipt import Receipt, Receipts
from meshmq.client.services import Instance
from meshmq.client.transaction import Transaction
from meshmq.client.values import check_key, check_value
from meshmq.client.worker import Awaited, Worker, check_worker, first_error, tell_running
from meshmq.core.lanes import Batch, Lane
from meshmq.core.publisher import Publisher
from meshmq.errors import DeadlineExceeded, InvalidArgument
from meshmq.frames import Consume
from meshmq.names import JobId, check_group

if TYPE_CHECKING:
    from meshmq.client.mesh import Mesh


def ask_queue(queue: str) -> Ask:
    """What makes a queue on its first use."""
    return ask("group.create", **queue_of(queue, None, {}))


def ask_cancel(queue: str, job_id: str) -> Ask:
    """``cancel``."""
    return ask("queue.cancel", queue=check_group(queue, "queue"), job=_job_of(job_id))


def _job_of(job_id: object) -> str:
    if not isinstance(job_id, str):
        raise InvalidArgument(f"a job id is a text (take one from receipt.job_id), not {job_id!r}")
    return str(JobId.parse(job_id))


def ask_reschedule(
    queue: str, job_id: str, delay: float | str | None, at: datetime | None, now_ns: int
) -> Ask:
    """``reschedule``."""
    if delay is None and at is None:
        raise InvalidArgument("reschedule needs a delay or a time")
    return ask(
        "queue.reschedule",
        queue=check_group(queue, "queue"),
        job=_job_of(job_id),
        due_ms=due_of(delay, at, now_ns) or -(-now_ns // limits.MS),
    )


def consume_wish(
    pattern: str,
    group: str,
    *,
    order: str,
    start: str | int | datetime,
    ack_timeout: float | str,
    prefetch: int,
    prefetch_bytes: int | str,
    **settings: Any,
) -> Consume:
    """Check what ``consume`` was asked for."""
    create = group_of(group, pattern, order, start, settings_of(**settings))
    return to_consume(create, ack_timeout, prefetch, prefetch_bytes)


def work_wish(
    queue: str,
    *,
    order: str | None,
    ack_timeout: float | str,
    prefetch: int,
    prefetch_bytes: int | str,
    **settings: Any,
) -> Consume:
    """Check what ``work`` was asked for."""
    create = queue_of(queue, order, settings_of(**settings))
    return to_consume(create, ack_timeout, prefetch, prefetch_bytes)


class Work:
    """The part of Mesh that shares work."""

    _connection: Channel
    _publisher: Publisher
    _lanes: dict[str, Lane]
    _guard: AbstractContextManager[Any]
    _timeout: float
    _named: bool
    _promise: type[Any]

    def _begin_work(self) -> None:
        self._queues = self._publisher.queues
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._workers: list[Worker | Instance] = []
        self._awaited: list[Awaited] = []
        self._transacting = threading.Lock()
        self._transaction: Answer | None = None  # the last one sent

    # -- groups -------------------------------------------------------------------------------

    def consume(
        self,
        pattern: str,
        group: str,
        *,
        order: str = "any",
        start: str | int | datetime = "earliest",
        ack_timeout: float | str = 30,
        prefetch: int = limits.PREFETCH_RECORDS_DEFAULT,
        prefetch_bytes: int | str = limits.PREFETCH_BYTES_DEFAULT,
        max_deliveries: int | None = None,
        backoff: float | str | None = None,
        backoff_max: float | str | None = None,
        max_held: int | None = None,
        rate: int | None = None,
    ) -> Consumer:
        """Join a group that reads the topics matching ``pattern``: its members share the records.

        The first to come makes the group, with the settings given; they stay as they are then
        (``admin.groups.set`` changes them).

        Args:
            pattern: as for ``subscribe``; a group has one.
            group: its name.
            order: ``"any"``, or ``"key"``: records of one key one after the other, over all
                members; those without a key in any order.
            start: where a new group begins: ``"earliest"``, ``"new"``, an aware datetime or an
                offset (of one topic).
            ack_timeout: seconds (0.1 to a day, or ``"5m"``) that a record may take from when it
                was begun, before others get it.
            prefetch, prefetch_bytes: unsettled records this member may hold: 1 to 100,000, and
                1 B to 64 MiB; one larger record is handed out alone.
            max_deliveries: then a record goes to the dead letters: 1 to 1000; None: 5.
            backoff, backoff_max: delay of the first retry and of all; doubled from one to the
                next. None: 1 s and 5 minutes.
            max_held: records behind keys that wait, at most; None: 1 million.
            rate: records a second for all members together; 0: no limit, as None.

        Raises:
            InvalidName, InvalidArgument: nothing was asked of the node.
            GroupMismatch: the group is there with another pattern, order or kind.
            DeadlineExceeded: the node did not answer.
        """
        wish = consume_wish(
            pattern, group, order=order, start=start, ack_timeout=ack_timeout, prefetch=prefetch,
            prefetch_bytes=prefetch_bytes, max_deliveries=max_deliveries, backoff=backoff,
            backoff_max=backoff_max, max_held=max_held, rate=rate,
        )  # fmt: skip
        return self._join(wish)

    def work(
        self,
        queue: str,
        *,
        prefetch: int = 64,
        prefetch_bytes: int | str = limits.PREFETCH_BYTES_DEFAULT,
        order: str | None = None,
        ack_timeout: float | str = 30,
        max_deliveries: int | None = None,
        backoff: float | str | None = None,
        backoff_max: float | str | None = None,
        max_held: int | None = None,
        rate: int | None = None,
    ) -> Consumer:
        """Take jobs of a queue; it is made on first use.

        Arguments and errors are those of ``consume``. ``order`` None takes the queue as it is.
        A high ``prefetch`` is for many small jobs: what one worker holds, others wait for.
        """
        wish = work_wish(
            queue, order=order, ack_timeout=ack_timeout, prefetch=prefetch,
            prefetch_bytes=prefetch_bytes, max_deliveries=max_deliveries, backoff=backoff,
            backoff_max=backoff_max, max_held=max_held, rate=rate,
        )  # fmt: skip
        return self._join(wish)

    def _join(self, wish: Consume) -> Consumer:
        consumer = Consumer(self._connection, wish, self._timeout)
        self._consumers.add(consumer)
        return consumer

    # -- jobs ---------------------------------------------------------------------------------

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
        durability: str | None = None,
    ) -> Receipt:
        """Put one job into a queue, which is made on use; returns before it is confirmed.

        Args:
            queue: its name.
            value, key, headers: as for ``publish``.
            delay: seconds, or ``"10m"``, until it is due; up to 365 days. Never early.
            at: the same as an aware datetime; one that has passed is at once.
            priority: 0 to 9, the highest first; not in queues ordered by key.
            ttl: seconds that it is worth doing, from when it is due; then it is dropped.
            dedup_id: jobs with an id the queue has had within its window (10 minutes) are not
                stored again: the receipt says ``duplicate``.
            durability: as for ``publish``.

        Raises:
            InvalidName, InvalidArgument, MessageTooLarge, BufferFull: nothing was published.

        ``receipt.wait()`` raises QueueFull if the queue has no room for its batch;
        ``receipt.job_id`` names the job for ``cancel`` and ``reschedule``.
        """
        self.learn_queue(queue)
        if delay is None and at is None and not priority and ttl is None and dedup_id is None:
            return self._mesh.publish(queue, value, key=key, headers=headers, durability=durability)
        wish = wish_of(
            queue, delay, at, priority, ttl, dedup_id, self._connection.wall_ns()
        )  # fmt: skip
        return self._enqueue(wish, value, key, headers, durability)

    def _enqueue(
        self, wish: JobWish, value: bytes, key: bytes | None, headers: Mapping[str, str] | None,
        durability: str | None,
    ) -> Receipt:  # fmt: skip
        wanted = self._mesh._wanted(durability)
        value = check_value(value)
        if key is not None:
            check_key(key)
        coded = codec.encode_headers(headers) if headers else None
        self._learn_lane(wish.topic)
        self._mesh._make_room()
        batch, index = self._publisher.add(
            wish.topic, value, key, coded, None, self._connection.wall_ns, wanted, None,
            wish.options, wish.alone,
        )  # fmt: skip
        self._connection.published()
        receipt: Receipt = self._promise(batch, index)
        return receipt

    def enqueue_many(
        self,
        queue: str,
        values: Sequence[bytes],
        *,
        keys: Sequence[bytes | None] | None = None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
        delay: float | str | None = None,
        at: datetime | None = None,
        priority: int = 0,
        ttl: float | str | None = None,
        durability: str | None = None,
    ) -> Receipts:
        """Put many jobs into a queue in one call; returns a sequence of receipts.

        The columns have one item a job, ``headers`` may be one mapping for all; the options are
        shared by all. Limits and errors are those of ``enqueue``; if one job is invalid nothing
        is published.
        """
        self.learn_queue(queue)
        wish = wish_of(queue, delay, at, priority, ttl, None, self._connection.wall_ns())
        batches = self._enqueue_many(wish, values, keys, headers, durability)
        return Receipts(self._connection, batches, Receipt)

    def _enqueue_many(
        self,
        wish: JobWish,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None,
        durability: str | None,
    ) -> list[tuple[int, Batch]]:
        self._learn_lane(wish.topic)
        return self._mesh._publish_many(
            wish.topic, values, keys, headers, None, durability, wish.options
        )

    def cancel(self, queue: str, job_id: str) -> None:
        """Remove a job that waits, due or not.

        Raises:
            JobNotFound: it is done, under way, or there is none of that id.
        """
        self._do(ask_cancel(queue, job_id))

    def reschedule(
        self,
        queue: str,
        job_id: str,
        *,
        delay: float | str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Have a job that waits due at another time: arguments as for ``enqueue``, one of them.

        Raises:
            JobNotFound: it is done, under way, or there is none of that id.
        """
        self._do(ask_reschedule(queue, job_id, delay, at, self._connection.wall_ns()))

    # -- workers ------------------------------------------------------------------------------

    def worker(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        start: bool = True,
        group: str | None = None,
        **options: Any,
    ) -> Callable[[Callable[[Job], Any]], Worker]:
        """``@mesh.worker("thumbnails", concurrency=8)``: run the function for each job.

        When it returns the job is acked. An Exception nacks the job with the group's back-off and
        is logged once, with the job's id. In order of keys a key's jobs never run at the same time
        or out of order.

        Args:
            queue: a queue, or with ``group`` a pattern of topics that this group reads.
            concurrency: threads that run it, 1 to 1024.
            prefetch: unsettled jobs it may hold; None: two for each thread.
            start: begin at once. Jobs may then run before the lines below the function: False
                leaves it to ``run`` or to ``worker.start()``.
            group: see ``queue``.
            options: as for ``work``, or for ``consume`` with ``group``.

        Returns:
            A decorator that returns a Worker: ``stop(timeout)`` it, or close the mesh, or ``run``.
        """
        check_worker(queue, concurrency, options, self.work if group is None else self.consume)
        held = 2 * concurrency if prefetch is None else prefetch

        def join() -> Consumer:
            if group is None:
                return self.work(queue, prefetch=held, **options)
            return self.consume(queue, group, prefetch=held, **options)

        def decorate(function: Callable[[Job], Any]) -> Worker:
            if inspect.iscoroutinefunction(function):
                raise InvalidArgument("a coroutine function needs meshmq.aio.connect()")
            if not callable(function):
                raise InvalidArgument(f"a worker is a function of a Job, not {function!r}")
            check_takes_one(function, "a worker", "a Job")
            worker = Worker(function, join, group or queue, concurrency, self._on_worker_ended)
            if start:
                worker.start()
            self._workers.append(worker)
            return worker

        return decorate

    def _on_worker_ended(self) -> None:
        if all(worker.stopped for worker in self._workers):
            for awaited in list(self._awaited):
                awaited.end()

    def run(self, timeout: float = 30.0) -> None:
        """Let the workers work until SIGINT or SIGTERM comes, or all have ended; then stop them.

        Args:
            timeout: seconds to let what runs come to its end. If something runs when the signal
                comes, that is logged, as a warning.

        Raises:
            KeyboardInterrupt: there was a second Ctrl-C: what runs is not waited for.
            MeshError: a worker ended by itself: its group was deleted, the connection closed.
            InvalidArgument: there is no worker.
        """
        if not self._workers:
            raise InvalidArgument(
                "there is nothing to run: make a worker with @mesh.worker(...) or serve"
            )
        awaited = Awaited()
        self._awaited.append(awaited)
        try:
            # From before they start: a signal that comes then is no reason to fall over.
            with awaited:
                for worker in self._workers:
                    worker.start()
                if not all(worker.stopped for worker in self._workers):
                    awaited.wait()
        finally:
            self._awaited.remove(awaited)
            try:
                tell_running(self._workers, timeout)
                self._stop_workers(timeout)
            except KeyboardInterrupt:
                # Where in here it came is nothing to show.
                raise KeyboardInterrupt("what ran was not waited for") from None
        error = first_error(self._workers)
        if error is not None:
            raise error

    def _stop_workers(self, timeout: float) -> None:
        deadline = self._connection.deadline(timeout)
        for worker in self._workers:
            worker.announce_stop()
        for worker in self._workers:
            worker.stop(self._connection.left(deadline) or 0.0)

    # -- transactions -------------------------------------------------------------------------

    def transaction(self, timeout: float | None = None) -> Transaction:
        """``with mesh.transaction() as tx``: publish, enqueue and ack as one.

        All of it is synced when the ``with`` ends, or nothing of it was done. All jobs it acks are
        of one node, the one connected to. At most 1,024 records and acks, 1 MiB together.

        Args:
            timeout: seconds to wait for the answer; None: as given to ``connect``.
        """
        return Transaction(self._mesh, self._timeout if timeout is None else timeout)

    def _await_transaction(self, timeout: float) -> None:
        """The last one must be answered before another is sent."""
        last = self._transaction
        if last is not None and not self._connection.wait_until(lambda: last.is_set, timeout):
            raise self._connection.dead or DeadlineExceeded(
                f"an earlier transaction has no answer yet, after {timeout} s more"
            )

    # -- inside -------------------------------------------------------------------------------

    @property
    def _mesh(self) -> Mesh:
        return self  # type: ignore[return-value]

    def _do(self, asked: Ask) -> Any:
        return asked.read(self._connection.command(asked.verb, asked.arguments, self._timeout))

    def learn_queue(self, queue: str) -> None:
        """Make a queue on its first use by this connection."""
        if not isinstance(queue, str) or queue not in self._queues:
            self._connection.check_use()
            self._do(ask_queue(queue))
            self._queues.add(queue)

    def _learn_lane(self, topic: str) -> None:
        """On a topic's first use; a named producer goes on where its last run ended, as far as that
        is known: no other run has its numbers."""
        if topic not in self._lanes:
            self._connection.check_use()
            last = int(self._do(ask_last(topic, at_least=True))) if self._named else 0
            self._mesh._publisher.know(topic, last)

    def _close_consumers(self, timeout: float) -> None:
        """Workers stop, what every consumer has settled reaches the node, the rest goes back."""
        deadline = self._connection.deadline(timeout)
        self._stop_workers(timeout)
        for consumer in list(self._consumers):
            consumer.close(self._connection.left(deadline) or 0.0)
