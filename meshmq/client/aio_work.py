"""What an asyncio Mesh offers for sharing work: groups, queues, workers, transactions."""

from __future__ import annotations

import asyncio
import signal
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from meshmq import limits
from meshmq.client.admin import ask_last
from meshmq.client.aio_consumer import Consumer, Job, Worker
from meshmq.client.aio_services import Instance
from meshmq.client.bell import Bell
from meshmq.client.channel import Answer
from meshmq.client.connection import Connection
from meshmq.client.job import AnyJob
from meshmq.client.job_options import JobWish, wish_of
from meshmq.client.opening import OnlyAsync, Opening
from meshmq.client.transaction import DONE, DROPPED, OPEN, Draft, Placed
from meshmq.client.work import ask_cancel, ask_queue, ask_reschedule, consume_wish, work_wish
from meshmq.client.worker import check_worker, first_error, tell_running
from meshmq.core.lanes import Lane
from meshmq.core.publisher import Publisher
from meshmq.errors import DeadlineExceeded, InvalidArgument
from meshmq.frames import Consume

if TYPE_CHECKING:
    from meshmq.aio import Mesh, Receipt, Receipts


class Signals:
    """Notes the first SIGINT or SIGTERM and the second; a third is Python's again."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = loop
        self._taken: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._on_signal)
                self._taken.append(number)
            except (NotImplementedError, RuntimeError, ValueError):
                pass  # not the main thread's loop: then ``run`` ends by being cancelled

    def _on_signal(self) -> None:
        if self.first.is_set():
            self.second.set()
            self.close()
        self.first.set()

    def close(self) -> None:
        """Note no more."""
        while self._taken:
            self._loop.remove_signal_handler(self._taken.pop())


class Transaction(OnlyAsync, Draft):
    """``async with mesh.transaction() as tx``; see ``meshmq.client.transaction.Transaction``.

    Cancelled while it waits for the answer, it may be done or not; the node does not forget it.
    """

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        super().__init__(mesh._connection)
        self._mesh = mesh
        self._timeout = timeout

    async def publish(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Placed:
        """Publish a record to a durable topic with it."""
        return self._publish(topic, value, key, headers)

    async def enqueue(
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
        """Put a job into a queue with it."""
        await self._mesh.learn_queue(queue)
        return self._enqueue(queue, value, key, headers, delay, at, priority, ttl, dedup_id)

    async def ack(self, job: AnyJob) -> None:
        """Ack a job with it; raises StaleDelivery, TransactionFailed."""
        self._ack(job)

    async def commit(self) -> None:
        """Do it, before the end of the ``async with``; returns once it is synced."""
        mesh, bell, timeout = self._mesh, self._mesh._bell, self._timeout
        bell.check_loop()
        async with mesh._transacting:
            last = mesh._transaction
            if last is not None and not await bell.wait_until(
                last, lambda: last.is_set or self._channel.dead is not None, timeout
            ):
                raise DeadlineExceeded(
                    f"an earlier transaction has no answer yet, after {timeout} s more"
                )
            if not self._records:
                self._check_open()
                self._state = DONE
                return
            answer = mesh._transaction = self._send()
            if not await bell.wait_until(answer, lambda: answer.is_set, timeout):
                raise self._no_answer(timeout, self._channel)
            self._answered(answer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            if self._state == OPEN:
                self._state = DROPPED
        elif self._state == OPEN:
            await self.commit()


class Work:
    """The part of the asyncio Mesh that shares work."""

    _connection: Connection
    _bell: Bell
    _publisher: Publisher
    _lanes: dict[str, Lane]
    _timeout: float
    _named: bool

    def _begin_work(self) -> None:
        self._queues = self._publisher.queues
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._workers: list[Worker | Instance] = []
        self._transacting = asyncio.Lock()
        self._transaction: Answer | None = None

    @property
    def _mesh(self) -> Mesh:
        return self  # type: ignore[return-value]

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
    ) -> Opening[Consumer]:
        """As ``meshmq.Mesh.consume``: await it, or ``async with mesh.consume(...) as consumer``."""
        wish = consume_wish(
            pattern, group, order=order, start=start, ack_timeout=ack_timeout, prefetch=prefetch,
            prefetch_bytes=prefetch_bytes, max_deliveries=max_deliveries, backoff=backoff,
            backoff_max=backoff_max, max_held=max_held, rate=rate,
        )  # fmt: skip
        return Opening(lambda: self._join(wish), "mesh.consume(...)")

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
    ) -> Opening[Consumer]:
        """As ``meshmq.Mesh.work``: await it, or ``async with mesh.work(...) as worker``."""
        wish = work_wish(
            queue, order=order, ack_timeout=ack_timeout, prefetch=prefetch,
            prefetch_bytes=prefetch_bytes, max_deliveries=max_deliveries, backoff=backoff,
            backoff_max=backoff_max, max_held=max_held, rate=rate,
        )  # fmt: skip
        return Opening(lambda: self._join(wish), "mesh.work(...)")

    async def _join(self, wish: Consume) -> Consumer:
        self._bell.check_loop()
        consumer = Consumer(self._connection, self._bell, wish)
        answer = consumer._open()
        await self._mesh._wait_answer(answer, f"consume {wish.group!r}")
        consumer._opened(answer)
        self._consumers.add(consumer)
        return consumer

    # -- jobs ---------------------------------------------------------------------------------

    async def enqueue(
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
        """As ``meshmq.Mesh.enqueue``: waits for room in the buffer, never for the confirmation.

        Cancelled, it has published nothing.
        """
        if not isinstance(queue, str) or queue not in self._queues:
            await self.learn_queue(queue)
        mesh = self._mesh
        if delay is None and at is None and not priority and ttl is None and dedup_id is None:
            return await mesh.publish(queue, value, key=key, headers=headers, durability=durability)
        wish = wish_of(queue, delay, at, priority, ttl, dedup_id, self._connection.wall_ns())
        await self._ready(wish)
        placed: Any = mesh._records._enqueue(wish, value, key, headers, durability)
        receipt: Receipt = placed
        return receipt

    async def enqueue_many(
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
        """As ``meshmq.Mesh.enqueue_many``; all of it or, cancelled, nothing.

        It waits for room once, so the buffer may be exceeded by one call's jobs.
        """
        await self.learn_queue(queue)
        wish = wish_of(queue, delay, at, priority, ttl, None, self._connection.wall_ns())
        await asyncio.sleep(0)
        await self._ready(wish)
        mesh = self._mesh
        return mesh._receipts(mesh._records._enqueue_many(wish, values, keys, headers, durability))

    async def cancel(self, queue: str, job_id: str) -> None:
        """Remove a job that waits; raises JobNotFound."""
        await self._mesh._run(ask_cancel(queue, job_id))

    async def reschedule(
        self,
        queue: str,
        job_id: str,
        *,
        delay: float | str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Have a job that waits due at another time; raises JobNotFound."""
        now_ns = self._connection.wall_ns()
        await self._mesh._run(ask_reschedule(queue, job_id, delay, at, now_ns))

    async def learn_queue(self, queue: str) -> None:
        """Make a queue on its first use by this connection."""
        if not isinstance(queue, str) or queue not in self._queues:
            self._mesh._connection.check_use()
            await self._mesh._run(ask_queue(queue))
            self._queues.add(queue)

    async def _learn_lane(self, topic: str) -> None:
        """As the synchronous client does."""
        if topic not in self._lanes:
            self._mesh._connection.check_use()
            last = int(await self._mesh._run(ask_last(topic, at_least=True))) if self._named else 0
            self._mesh._publisher.know(topic, last)

    async def _ready(self, wish: JobWish) -> None:
        """The lane is known and the buffer has room."""
        mesh = self._mesh
        await self._learn_lane(wish.topic)
        if mesh._publisher.added_bytes >= mesh._publisher.ceiling_bytes:
            await mesh._make_room()

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
    ) -> Callable[[Callable[[Job], Awaitable[Any]]], Worker]:
        """``@mesh.worker("thumbnails", concurrency=8)``: run a coroutine function for each job.

        As ``meshmq.Mesh.worker``, with tasks for threads; it joins in the background.
        """
        check_worker(queue, concurrency, options, self.work if group is None else self.consume)
        held = 2 * concurrency if prefetch is None else prefetch

        def opening() -> Opening[Consumer]:
            if group is None:
                return self.work(queue, prefetch=held, **options)
            return self.consume(queue, group, prefetch=held, **options)

        opening()  # what is wrong with the arguments is said here

        async def join() -> Consumer:
            return await opening()

        def decorate(function: Callable[[Job], Awaitable[Any]]) -> Worker:
            worker = Worker(function, join, group or queue, concurrency)
            if start:
                worker.start()
            self._workers.append(worker)
            return worker

        return decorate

    async def run(self, timeout: float = 30.0) -> None:
        """Let the workers work until SIGINT or SIGTERM comes, or all have ended; then stop them.

        As ``meshmq.Mesh.run``, but a second Ctrl-C cancels what runs, and it returns. Cancelled, it
        stops them too.
        """
        if not self._workers:
            raise InvalidArgument(
                "there is nothing to run: make a worker with @mesh.worker(...) or serve"
            )
        self._bell.check_loop()
        loop = asyncio.get_running_loop()
        signals = Signals(loop)
        for worker in self._workers:
            worker.start()
        every = loop.create_task(self._all_ended())
        first = loop.create_task(signals.first.wait())
        second = loop.create_task(signals.second.wait())
        try:
            await asyncio.wait([every, first], return_when=asyncio.FIRST_COMPLETED)
        finally:
            tell_running(self._workers, timeout)
            stop = loop.create_task(self._stop_workers(timeout))
            try:
                await asyncio.wait([stop, second], return_when=asyncio.FIRST_COMPLETED)
                if not stop.done():
                    await self._stop_workers(0)
                await stop
                await every
            finally:
                signals.close()
                for task in (first, second, stop, every):
                    task.cancel()
        error = first_error(self._workers)
        if error is not None:
            raise error

    async def _all_ended(self) -> None:
        for worker in self._workers:
            await worker.wait()

    async def _stop_workers(self, timeout: float) -> None:
        for worker in self._workers:
            worker.announce_stop()
        await asyncio.gather(*[worker.stop(timeout) for worker in self._workers])

    async def _close_consumers(self, timeout: float) -> None:
        """Workers stop, what every consumer has settled reaches the node, the rest goes back."""
        deadline = self._connection.deadline(timeout)
        await self._stop_workers(timeout)
        for consumer in list(self._consumers):
            await consumer.close(self._connection.left(deadline) or 0.0)

    # -- transactions -------------------------------------------------------------------------

    def transaction(self, timeout: float | None = None) -> Transaction:
        """``async with mesh.transaction() as tx``; see ``meshmq.Mesh.transaction``."""
        return Transaction(self._mesh, self._timeout if timeout is None else timeout)
