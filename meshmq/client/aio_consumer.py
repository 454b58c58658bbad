"""Consumers and workers of the asyncio client."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from itertools import islice
from types import TracebackType
from typing import Any, Self

from meshmq.client.bell import Bell
from meshmq.client.channel import Channel
from meshmq.client.consumer import Intake
from meshmq.client.job import AnyJob, Process, clipped, delay_ns, extension_ns
from meshmq.client.opening import OnlyAsync
from meshmq.client.pool import check_takes_one
from meshmq.client.values import check_records
from meshmq.client.worker import Turns
from meshmq.core.held import Held
from meshmq.errors import InvalidArgument, MeshError
from meshmq.frames import ACK, EXTEND, NACK, REJECT, Consume

logger = logging.getLogger("meshmq")


class Job(AnyJob):
    """As ``meshmq.Job``, with awaited settling. What is said is said before the first await:
    cancelling only ends the wait for the answer."""

    __slots__ = ()

    async def ack(self, wait: bool = False, timeout: float | None = None) -> None:
        """It is done; see ``meshmq.Job.ack``."""
        held = self[4]
        index = self[3]
        if held.next == index and not wait:
            held.next = index + 1
            if held.is_quiet:
                held.owner.touched(held)
        else:
            await self._finish(ACK, 0, "", wait, timeout)

    async def nack(
        self,
        delay: float | str | None = None,
        reason: str = "",
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """It failed; see ``meshmq.Job.nack``."""
        await self._finish(NACK, delay_ns(delay), clipped(reason), wait, timeout)

    async def reject(
        self, reason: str = "", *, wait: bool = False, timeout: float | None = None
    ) -> None:
        """It can never be done; see ``meshmq.Job.reject``."""
        await self._finish(REJECT, 0, clipped(reason), wait, timeout)

    async def extend(self, seconds: float) -> None:
        """Ask for more time; see ``meshmq.Job.extend``."""
        self._settle(EXTEND, extension_ns(seconds))

    def process(self) -> Process[Self]:
        """``async with msg.process(): ...``, or ``with``; see ``meshmq.Job.process``.

        A task that is cancelled inside returns the record.
        """
        return Process(self)

    async def _finish(
        self, kind: int, delay_ns: int, reason: str, wait: bool, timeout: float | None
    ) -> None:
        held, index = self[4], self[3]
        done = self._settle(kind, delay_ns, reason)
        if not wait:
            return
        if not done:
            raise self._not_mine()
        await held.owner.wait_closed(held, index, timeout)
        refused = self._refused()
        if refused is not None:
            raise refused


class Consumer(OnlyAsync, Intake[Job]):
    """As ``meshmq.Consumer``: ``async for msg in consumer``, or ``fetch``.

    One task at a time may read it, any task may settle what it gave.
    """

    def __init__(self, channel: Channel, bell: Bell, wish: Consume) -> None:
        super().__init__(channel, wish, Job)
        self._bell = bell

    async def _next_batch(
        self, timeout: float | None, until: Callable[[], bool] | None = None
    ) -> bool:
        """Make the next hand-out the current one; False on timeout or when closed."""
        deadline = self._channel.deadline(timeout)

        def is_over() -> bool:
            return self._has_news or (until is not None and until())

        if self.member.is_ready:
            await asyncio.sleep(0)  # a flood leaves the loop to others, once a hand-out
        while not self._take_batch():
            if self._closed or (until is not None and until()):
                return False
            left = self._channel.left(deadline)
            if not await self._bell.wait_until(self.member.id, is_over, left):
                self._channel.check()
                return False
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Job:
        """The next job; waits for it without end."""
        while True:
            for job in self._current:
                return job
            if not await self._next_batch(None):
                raise StopAsyncIteration

    async def fetch(self, max_records: int = 100, timeout: float | None = None) -> list[Job]:
        """As ``meshmq.Consumer.fetch``; when it is cancelled it has taken nothing."""
        check_records(max_records)
        while True:
            jobs = list(islice(self._current, max_records))
            while len(jobs) < max_records and self.member.is_ready:
                if not self._take_batch():
                    break
                jobs += islice(self._current, max_records - len(jobs))
            if jobs or not await self._next_batch(timeout):
                return jobs or self._nothing()

    async def take(self, until: Callable[[], bool]) -> Job | None:
        """The next job; None when it is closed, or once ``until`` is true and ``look`` called."""
        while True:
            for job in self._current:
                return job
            if not await self._next_batch(None, until):
                return None

    def look(self) -> None:
        """Have a task that waits in ``take`` look at its ``until``."""
        self._bell.note(self.member.id)
        self._bell.tell()

    async def wait_closed(self, held: Held, index: int, timeout: float | None) -> None:
        """Wait until the node has answered a settle; raises DeadlineExceeded."""
        is_there = await self._bell.wait_until(
            held, lambda: held.is_closed(index) or self._channel.dead is not None, timeout
        )
        if not is_there or not held.is_closed(index):
            raise self.unanswered(timeout)

    async def close(self, timeout: float = 5.0) -> None:
        """End it, as ``meshmq.Consumer.close``; cancelled, it does not wait for the node."""
        if self._closed:
            return
        self._closed = True
        member, channel = self.member, self._channel
        self.look()
        try:
            if channel.dead is None and self._error is None:
                channel.urge()
                await self._bell.wait_until(
                    member.id,
                    lambda: member.is_idle or self._error is not None or channel.dead is not None,
                    timeout,
                )
        finally:
            self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class Worker:
    """A coroutine function that is run for each job; call it to run the function yourself.

    Attributes:
        group: the queue's or group's name.
        error: why it ended by itself, or None.
        running: jobs at work now.
    """

    _item = "job"

    def __init__(
        self,
        function: Callable[[Job], Awaitable[Any]],
        join: Callable[[], Awaitable[Consumer]],
        group: str,
        concurrency: int,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise InvalidArgument("an asyncio worker is a coroutine function: async def ...")
        check_takes_one(function, "a worker", "a Job")
        functools.update_wrapper(self, function)
        self._function = function
        self._join = join
        self.group = group
        self.concurrency = concurrency
        self.error: BaseException | None = None
        self.running = 0
        self._consumer: Consumer | None = None
        self._main: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._what = f"a worker of {group!r}"
        self._has_begun = False
        self._reading = asyncio.Lock()
        self._turns: Turns[Job] = Turns()
        self._by_key = False

    def __call__(self, job: Job) -> Awaitable[Any]:
        return self._function(job)

    @property
    def started(self) -> bool:
        """Whether ``start`` was called."""
        return self._main is not None

    @property
    def stopped(self) -> bool:
        """Whether it was started and works no more."""
        return self._main is not None and self._main.done()

    def start(self) -> None:
        """Join and begin, in the background; done by the decorator unless told otherwise. Once
        only. What the node refuses is in ``error``, and raised by ``mesh.run``."""
        if self._main is None:
            self._main = asyncio.get_running_loop().create_task(
                self._run_all(), name=f"meshmq-{self.group}"
            )

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._main is not None:
            await asyncio.wait([self._main])

    async def stop(self, timeout: float = 30.0) -> bool:
        """Take nothing new, let what runs come to its end, return the rest to the node.

        Args:
            timeout: seconds to wait for what runs. What is not done then is cancelled and handed
                to others.

        Returns:
            Whether everything that ran came to its end. Called by a job of its own it does not
            wait, and returns False.
        """
        self.announce_stop()
        if self._main is None:
            return True
        if asyncio.current_task() in self._tasks:
            return False
        if self._consumer is None:
            self._main.cancel()  # the node has not answered yet
        done = True
        waiting = [task for task in self._tasks if not task.done()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout)
            done = not late
            for task in late:
                task.cancel()
        await asyncio.wait([self._main])
        return done

    def announce_stop(self) -> None:
        """Take nothing new; ``stop`` waits for what runs."""
        self._stopping = True
        if self._consumer is not None:
            self._consumer.look()

    # -- its tasks ------------------------------------------------------------------------------

    async def _run_all(self) -> None:
        try:
            consumer = await self._join()
        except MeshError as error:
            self._fail(error)
            return
        self._consumer = consumer
        self._by_key = consumer.order == "key"
        loop = asyncio.get_running_loop()
        try:
            self._tasks = [
                loop.create_task(self._run(), name=f"meshmq-{self.group}-{i + 1}")
                for i in range(self.concurrency)
            ]
            await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await consumer.close()

    async def _run(self) -> None:
        try:
            while (job := await self._next()) is not None:
                await self._work(job)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except BaseException as error:
            self._fail(error)

    async def _next(self) -> Job | None:
        """The next job that can begin, or None at the end."""
        consumer = self._consumer
        assert consumer is not None
        async with self._reading:
            while not self._stopping:
                job = await consumer.take(lambda: self._stopping)
                if job is None or not self._by_key or self._turns.begin(job):
                    return job
        return None

    async def _work(self, first: Job) -> None:
        job: Job | None = first
        while job is not None:
            self.running += 1
            self._has_begun = True
            try:
                with job.process():
                    await self._function(job)
            finally:
                self.running -= 1
                following = None
                if self._by_key:
                    following = self._turns.end(job, not self._stopping)
            job = following

    def _fail(self, error: BaseException) -> None:
        is_first = self.error is None and not (self._stopping and isinstance(error, MeshError))
        self._stopping = True
        if is_first:
            self.error = error
            logger.error(
                "%s ended: %s: %s", self._what, type(error).__name__, error,
                exc_info=None if isinstance(error, MeshError) else error,
            )  # fmt: skip
        if self._consumer is not None:
            self._consumer.look()

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "running" if self.started else "not started"
        return f"aio.Worker({self.group!r}, concurrency={self.concurrency}, {state})"
