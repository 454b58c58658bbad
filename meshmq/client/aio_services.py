"""What an asyncio Mesh offers for requests and services."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from meshmq.client.bell import Bell
from meshmq.client.connection import Connection
from meshmq.client.opening import OnlyAsync
from meshmq.client.pool import check_concurrency, check_takes_one
from meshmq.client.requests import (
    NO_STREAM,
    Question,
    Replies,
    Reply,
    Request,
    answer_of,
    call_of,
    check_most,
    check_name,
    failure_of,
    failure_told,
    gathered,
    instance_lost,
    reply_of,
    result_of,
    takes_stream,
)
from meshmq.core.responder import Incoming, Registration
from meshmq.errors import ForkedError, InvalidArgument, MeshError
from meshmq.frames import EACH, ONE, STREAM

if TYPE_CHECKING:
    from meshmq.aio import Mesh

logger = logging.getLogger("meshmq")

LEAVE_SECONDS = 5.0  # for the node to say that it hands out nothing more
CANCELLED_SECONDS = 1.0  # for handlers that were cancelled to come to their end


class Instance:
    """A coroutine function that answers the requests of a service, each in a task of its own.

    A task whose request is cancelled, too late, or lost with the link is cancelled. Await the
    instance to have it registered with the node: ``instance = await mesh.serve(...)``.

    Attributes:
        service: its name.
        error: why it ended by itself, or None.
        running: requests at work now.
    """

    registration: Registration
    _item = "request"

    def __init__(
        self, function: Callable[[Request], Any], mesh: Mesh, service: str, concurrency: int
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._mesh = mesh
        self._channel = mesh._connection
        self._bell = mesh._bell
        self.service = service
        self.concurrency = concurrency
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._main: asyncio.Task[None] | None = None
        self._is_in = False
        self._answered = asyncio.Event()  # the node has let it in, or it has ended
        self._tasks: dict[asyncio.Task[None], Incoming] = {}
        self._deaf: set[asyncio.Task[None]] = set()  # they swallow their cancellation
        self._stopping = False
        self._what = f"an instance of {service!r}"
        self._has_begun = False
        self._lost: MeshError | None = None

    def __call__(self, request: Request) -> Any:
        return self._function(request)

    @property
    def running(self) -> int:
        return len(self._tasks)

    @property
    def started(self) -> bool:
        """Whether ``start`` was called."""
        return self._main is not None

    @property
    def stopped(self) -> bool:
        """Whether it was started and answers no more."""
        return self._main is not None and self._main.done()

    def start(self) -> None:
        """Serve, in the background; done by the decorator unless told otherwise. Once only. What
        the node refuses is in ``error``, and raised by ``mesh.run``."""
        if self._main is None:
            self._main = self._loop.create_task(self._run(), name=f"meshmq-{self.service}")
            self._main.add_done_callback(lambda _: self._answered.set())

    def __await__(self) -> Generator[Any, None, Self]:
        """Start it, if nobody has, and wait until the node has let it in, at most as long as
        ``connect`` was told; raises what the node refused it for."""
        return self._registered().__await__()

    async def _registered(self) -> Self:
        self.start()
        await self._answered.wait()
        if self.error is not None and not self._is_in:
            raise self.error
        return self

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._main is not None:
            await asyncio.wait([self._main])

    async def stop(self, timeout: float = 30.0) -> bool:
        """Take nothing new, let what runs come to its end; what is not begun goes to others.

        Args:
            timeout: seconds to wait for what runs; what is not done then is cancelled, and its
                requester told that it is lost. A handler that does not end though it is cancelled
                is left behind after 1 s more, and logged.

        Returns:
            Whether everything that ran came to its end. Called by a handler of its own it does
            not wait, and returns False.
        """
        self.announce_stop()
        if self._main is None:
            return True
        if asyncio.current_task() in self._tasks:
            return False
        done = True
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=timeout)
            done = not late
            if late:
                await self._end_late(late)
        if not self._is_in:
            self._main.cancel()  # the node has not answered yet
        await asyncio.wait([self._main])
        return done

    async def _end_late(self, late: set[asyncio.Task[None]]) -> None:
        for task in late:
            task.cancel()
        _, deaf = await asyncio.wait(late, timeout=CANCELLED_SECONDS)
        if not deaf or self._main is None:
            return
        logger.error(
            "%d handlers of %r do not end though they were cancelled: they are left behind",
            len(deaf), self.service,
        )  # fmt: skip
        self._deaf |= deaf
        for task in deaf:
            self._finish(self._tasks[task])
        self._main.cancel()  # it waits for them

    def announce_stop(self) -> None:
        """Take nothing new; ``stop`` waits for what runs."""
        self._stopping = True
        if self._is_in:
            self._leave()
            self._bell.note(self.registration)
            self._bell.tell()

    def _leave(self) -> None:
        if self._channel.dead is None:
            self._channel.unserve(self.registration)

    def _on_ended(self, error: MeshError) -> None:
        self._lost = error

    def on_stopped(self, request: Incoming) -> None:
        """Nobody waits for a request at work; from whatever thread."""
        try:
            self._loop.call_soon_threadsafe(self._cancel, request)
        except RuntimeError:
            pass  # the loop was closed before the connection

    @staticmethod
    def _cancel(request: Incoming) -> None:
        if request.task is not None:
            request.task.cancel()

    # -- its tasks ------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            answer = self._channel.open_service(
                self.service, self.concurrency, self, self._on_ended
            )
            await self._mesh._wait_answer(answer, f"serve {self.service!r}")
            answer.get()
            self._is_in = True
            self._answered.set()
            await self._read()
        except MeshError as error:
            if not self._stopping:
                self.error = error
                logger.error("%s ended: %s", self._what, error)
        finally:
            if self._is_in:
                self._leave()
            for task in list(self._tasks):
                if not self._stopping:
                    task.cancel()
            while ending := self._tasks.keys() - self._deaf:
                await asyncio.wait(ending)
            if self._is_in:
                await self._bell.wait_until(
                    self.registration,
                    lambda: self.registration.is_ended or self._channel.dead is not None,
                    LEAVE_SECONDS,
                )

    async def _read(self) -> None:
        registration, responder = self.registration, self._channel.client.responder
        while not self._stopping:
            if len(self._tasks) >= self.concurrency:
                await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)
                continue
            incoming = responder.begin(registration)
            if incoming is not None:
                task = self._loop.create_task(self._work(incoming))
                incoming.task = task
                self._tasks[task] = incoming
                self._has_begun = True
                task.add_done_callback(self._on_done)
                continue
            if self._lost is not None:
                raise self._lost
            await self._bell.wait_until(
                registration,
                lambda: bool(
                    registration.queue
                    or self._stopping
                    or self._lost
                    or self._channel.dead is not None
                ),
                None,
            )
            self._channel.check()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step runs nothing of ``_work``.
        self._finish(self._tasks.pop(task))

    def _finish(self, incoming: Incoming) -> None:
        """Free its place, unless that is done."""
        if incoming.is_over or isinstance(self._channel.dead, ForkedError):
            return
        error = None if incoming.cancelled else instance_lost(self.service)
        self._channel.client.responder.finish(incoming, error)
        self._channel.urge()

    async def _work(self, incoming: Incoming) -> None:
        request = Request(incoming, self._channel)
        responder = self._channel.client.responder
        try:
            result = self._function(request)
            if inspect.isasyncgen(result):
                await self._stream(incoming, result)
            else:
                responder.reply(incoming, answer_of(await result), True)
        except asyncio.CancelledError:
            self._finish(incoming)
        except Exception as error:
            responder.finish(incoming, failure_of(error, request, self._function))
        self._channel.urge()

    async def _stream(self, incoming: Incoming, values: AsyncIterator[Any]) -> None:
        """Send what an asynchronous generator yields, as far as the requester takes it."""
        responder = self._channel.client.responder
        try:
            if not takes_stream(incoming):
                raise NO_STREAM
            await self._wait_for_room(incoming)  # a requester may give none at first
            async for value in values:
                if incoming.cancelled:
                    break
                responder.reply(incoming, answer_of(value, "yielded"), False)
                self._channel.urge()
                if incoming.window <= 0:
                    await self._wait_for_room(incoming)
                else:
                    await asyncio.sleep(0)
        finally:
            await values.aclose()  # type: ignore[attr-defined]
        responder.finish(incoming)

    async def _wait_for_room(self, incoming: Incoming) -> None:
        """Wait until more of a stream may be sent, or nobody waits for it."""
        await self._bell.wait_until(
            incoming.registration,
            lambda: (
                incoming.window > 0 or bool(incoming.cancelled) or self._channel.dead is not None
            ),
            None,
        )

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "running" if self.started else "not started"
        return f"aio.Instance({self.service!r}, concurrency={self.concurrency}, {state})"


class ReplyStream(OnlyAsync):
    """As ``meshmq.ReplyStream``: ``async for reply in mesh.request_stream(...)``."""

    def __init__(self, channel: Connection, bell: Bell, call: Question) -> None:
        self._channel = channel
        self._bell = bell
        self._call = call
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        """The next one; raises the error that ended it."""
        call, channel = self._call, self._channel
        if not (call.replies or self._is_closed):
            await self._bell.wait_until(
                call, lambda: bool(call.replies or call.is_over or channel.dead), None
            )
            if channel.dead is not None:
                channel.cancel(call)
        if self._is_closed:
            raise StopAsyncIteration
        if call.replies:
            row, data = call.replies.popleft()
            channel.client.requester.taken(call, len(data))
            if channel.client.requester.has_work:
                channel.urge()
            return reply_of(call, row, data)
        if call.error is not None:
            raise failure_told(call)
        raise StopAsyncIteration

    async def close(self) -> None:
        """Take no more of it; a task that iterates it comes to the end."""
        self._is_closed = True
        self._channel.cancel(self._call)

    def __del__(self) -> None:
        self._channel.abandon(self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class Services:
    """The part of the asyncio Mesh that asks and answers."""

    _connection: Connection
    _bell: Bell
    _timeout: float
    _workers: list[Any]

    async def request(
        self,
        service: str,
        value: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        route: str = "auto",
    ) -> Reply:
        """As ``meshmq.Mesh.request``; when the task is cancelled the service is told to stop."""
        call = self._call(service, value, ONE, timeout, headers, idempotent, route)
        await self._await(call, lambda: call.is_over)
        return result_of(call)

    def request_nowait(
        self,
        service: str,
        value: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        route: str = "auto",
    ) -> asyncio.Task[Reply]:
        """As ``request``, in a task of its own, which is returned: await it, or cancel it."""
        asked = self.request(
            service, value, timeout=timeout, headers=headers, idempotent=idempotent, route=route
        )
        return asyncio.create_task(asked, name=f"meshmq-request-{service}")

    async def request_many(
        self,
        service: str,
        value: bytes = b"",
        *,
        timeout: float | None = None,
        max_replies: int | None = None,
        headers: Mapping[str, str] | None = None,
        route: str = "auto",
    ) -> Replies:
        """As ``meshmq.Mesh.request_many``."""
        check_most(max_replies)
        call = self._call(service, value, EACH, timeout, headers, False, route)
        most = max_replies or 1 << 62
        await self._await(call, lambda: call.is_over or len(call.replies) >= most)
        return gathered(call, max_replies)

    def request_stream(
        self,
        service: str,
        value: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        route: str = "auto",
    ) -> ReplyStream:
        """As ``meshmq.Mesh.request_stream``, with ``async for``; asked when it is called."""
        call = self._call(service, value, STREAM, timeout, headers, False, route)
        stream = ReplyStream(self._connection, self._bell, call)
        self._connection.call(call)
        return stream

    def _call(
        self,
        service: str,
        value: bytes,
        kind: int,
        timeout: float | None,
        headers: Mapping[str, str] | None,
        idempotent: bool,
        route: str,
    ) -> Question:
        self._bell.check_loop()
        seconds = self._timeout if timeout is None else timeout
        return call_of(self._connection, service, value, kind, seconds, headers, idempotent, route)

    async def _await(self, call: Question, is_done: Callable[[], bool]) -> None:
        channel = self._connection
        try:
            channel.call(call)
            await self._bell.wait_until(call, lambda: is_done() or channel.dead is not None, None)
        finally:
            channel.cancel(call)

    def serve(
        self, service: str, handler: Callable[[Request], Any], *, concurrency: int = 1
    ) -> Instance:
        """As ``meshmq.Mesh.serve`` with a coroutine function, or an asynchronous generator for
        ``request_stream``. It begins in the background: ``instance = await mesh.serve(...)`` waits
        until it is registered, and raises what the node refuses it for."""
        check_name(service, 'the name comes first: mesh.serve("name", handler)')
        return self.service(service, concurrency=concurrency)(handler)

    def service(
        self, service: str, *, concurrency: int = 1, start: bool = True
    ) -> Callable[[Callable[[Request], Any]], Instance]:
        """``@mesh.service("pricing.quote", concurrency=8)``; see ``serve``."""
        check_name(service, 'write it as @mesh.service("name")')
        check_concurrency(concurrency)

        def decorate(handler: Callable[[Request], Any]) -> Instance:
            if not (inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)):
                raise InvalidArgument("an asyncio handler is a coroutine function: async def ...")
            check_takes_one(handler, "a handler", "a Request")
            mesh: Any = self
            instance = Instance(handler, mesh, service, concurrency)
            if start:
                instance.start()
            self._workers.append(instance)
            return instance

        return decorate
