"""What a synchronous Mesh offers for requests and services."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from meshmq.client.channel import Channel
from meshmq.client.opening import OnlySync
from meshmq.client.pending import PendingReply
from meshmq.client.pool import Pool, check_concurrency, check_takes_one
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
    from meshmq.client.mesh import Mesh


QUICK_NS = 200_000  # a handler that takes no longer is back at once
QUICK_COUNT = 16  # ... if so many in a row have been
BUSY_GAP_NS, BUSY_NS = 5_000_000, 60_000_000  # by then the I/O thread looks every 5 ms
REPLIES_TOGETHER = 32  # then the requester has something to do while the others are answered


class Instance(Pool[Incoming]):
    """A function that answers the requests of a service; call it to run the function yourself.

    Attributes:
        service: its name.
        error: why it ended by itself, or None.
        running: requests at work now.
    """

    registration: Registration
    _item = "request"

    def __init__(
        self,
        function: Callable[[Request], Any],
        mesh: Mesh,
        service: str,
        concurrency: int,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(function, f"an instance of {service!r}", service, concurrency, ended)
        self._mesh = mesh
        self.service = service
        self._lost: MeshError | None = None
        self._leader = 0  # the thread that has ``_reading``
        self._is_at_work = False  # the leader is
        self._begun_ns = 0  # when it began with that
        self._ended_ns = 0  # when a request was last done
        self._busy_ns = 0  # since when one has come soon behind another
        self._quick = 0  # so many in a row were done at once
        self._unsent = 0  # replies that the leader has left to its next turn

    def _open(self) -> Channel:
        channel = self._mesh._connection
        if self.concurrency > 1:
            channel.watchers.append(self._watch)
        answer = channel.open_service(self.service, self.concurrency, self, self._on_ended)
        channel.wait_answer(answer, self._mesh._timeout, f"serve {self.service!r}")
        answer.get()
        return channel

    def _on_ended(self, error: MeshError) -> None:
        self._lost = error

    def _close(self, timeout: float) -> None:
        channel, registration = self._channel, self.registration
        if channel is None or channel.dead is not None:
            return
        channel.unserve(registration)
        channel.wait_until(lambda: registration.is_ended, timeout)
        if self._watch in channel.watchers:
            channel.watchers.remove(self._watch)

    def stop(self, timeout: float = 30.0) -> bool:
        """Take nothing new, let what runs come to its end; what is not begun goes to others.

        Args:
            timeout: seconds to wait for what runs. What is not done then runs on, and is still
                answered while the mesh is open.

        Returns:
            Whether everything that ran came to its end. Called by a thread of its own it does not
            wait, and returns False.
        """
        return super().stop(timeout)

    def announce_stop(self) -> None:
        """Take nothing new; ``stop`` waits for what runs."""
        super().announce_stop()
        if self._channel is not None and self._channel.dead is None:
            self._channel.unserve(self.registration)

    def _next(self) -> Incoming | None:
        channel, registration = self._channel, self.registration
        assert channel is not None
        responder = channel.client.responder
        me = threading.get_ident()
        if self._leader != me:
            # What is there is begun by whoever is free; only to wait they take turns.
            incoming = None if self._stopping else responder.begin(registration)
            if incoming is not None:
                return incoming
            self._reading.acquire()
            self._leader = me
        goes_on = False
        try:
            while not self._stopping:
                incoming = responder.begin(registration)
                if incoming is not None:
                    goes_on = self._is_at_work = self._may_go_on(channel)
                    return incoming
                if self._lost is not None:
                    raise self._lost
                self._unsent = 0  # to wait is to send
                channel.wait_until(self._has_news, None)
                channel.check()
        finally:
            if not goes_on:
                self._leader = 0
                self._reading.release()
                if self._unsent:
                    self._unsent = 0
                    channel.urge()
        return None

    def _has_news(self) -> bool:
        return bool(self.registration.queue or self._stopping or self._lost)

    def _may_go_on(self, channel: Channel) -> bool:
        """Whether the leader does a request itself and leads on, since it will be back at once: to
        wake another thread for each costs more than most handlers."""
        now_ns = self._begun_ns = channel.now_ns()
        if now_ns - self._ended_ns > BUSY_GAP_NS:
            self._busy_ns = now_ns
        return self.concurrency == 1 or (
            self._quick >= QUICK_COUNT and now_ns - self._busy_ns > BUSY_NS
        )

    def _watch(self, now_ns: int) -> bool:
        """The I/O thread looks: a leader that is not back at once leads no more. Whether to look
        again."""
        if self._is_at_work and now_ns - self._begun_ns > QUICK_NS:
            self._resign()
        # Between two requests of many nobody is at work.
        return self._is_at_work or now_ns - self._ended_ns < BUSY_NS

    def _resign(self) -> None:
        """The leader does not come back."""
        with self._books:
            if self._is_at_work:
                self._is_at_work = False
                self._quick = self._leader = 0
                self._reading.release()

    def _see_to_reply(self, item: Incoming, channel: Channel, begun_ns: int) -> None:
        """It is done: see that its reply leaves."""
        now_ns = self._ended_ns = channel.now_ns()
        is_quick = now_ns - begun_ns < QUICK_NS
        self._quick = self._quick + 1 if is_quick else 0
        leads = self._leader == threading.get_ident()
        if not leads:
            channel.urge(gather=bool(item.registration.queue))
            return
        with self._books:
            leads = self._is_at_work
            self._is_at_work = False
        self._unsent += 1
        if not leads or not is_quick:
            self._unsent = 0
            channel.urge()
        elif item.registration.queue and self._unsent >= REPLIES_TOGETHER:
            self._unsent = 0
            channel.urge_together()

    def _do(self, item: Incoming) -> None:
        channel = self._channel
        assert channel is not None
        request = Request(item, channel)
        responder = channel.client.responder
        begun_ns = channel.now_ns()
        try:
            result = self._function(request)
            self._end_child()
            if inspect.isgenerator(result):
                self._stream(item, result)
            else:
                responder.reply(item, answer_of(result), True)
        except Exception as error:
            self._end_child(error)
            responder.finish(item, failure_of(error, request, self._function))
        except BaseException as error:
            self._end_child(error)
            responder.finish(item, instance_lost(self.service))
            self._resign()
            raise
        finally:
            self._see_to_reply(item, channel, begun_ns)

    def _stream(self, incoming: Incoming, values: Iterator[Any]) -> None:
        """Send what a generator yields, as far as the requester takes it."""
        channel = self._channel
        assert channel is not None
        responder = channel.client.responder
        try:
            if not takes_stream(incoming):
                raise NO_STREAM
            self._wait_for_room(incoming)  # a requester may give none at first
            for value in values:
                self._end_child()
                if incoming.cancelled:
                    break
                responder.reply(incoming, answer_of(value, "yielded"), False)
                channel.urge()
                self._wait_for_room(incoming)
                if channel.dead is not None:
                    break
        finally:
            values.close()  # type: ignore[attr-defined]
        self._end_child()
        responder.finish(incoming)

    def _wait_for_room(self, incoming: Incoming) -> None:
        """Wait until more of a stream may be sent, or nobody waits for it."""
        channel = self._channel
        assert channel is not None
        if incoming.window <= 0:  # else it would drive for nothing, and wake another to drive
            channel.wait_until(lambda: incoming.window > 0 or bool(incoming.cancelled), None)

    def on_stopped(self, request: Incoming) -> None:
        """Nobody waits for a request at work: a thread cannot be ended, its handler looks."""

    def __repr__(self) -> str:
        return f"Instance({self.service!r}, concurrency={self.concurrency}, {self._state})"


class ReplyStream(OnlySync):
    """Replies of a service as they come: ``for reply in mesh.request_stream(...)``.

    Leaving its ``with``, or ``close``, tells the service to stop. Closed by another thread, it ends
    for the one that iterates it. Left without either, by a ``break`` say, it is closed when Python
    has no more use for it.
    """

    def __init__(self, channel: Channel, call: Question) -> None:
        self._channel = channel
        self._call = call
        self._is_closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Reply:
        """The next one; raises the error that ended it."""
        call, channel = self._call, self._channel
        if isinstance(channel.dead, ForkedError):
            raise channel.dead  # what came before the fork is its parent's, as are the locks
        if not (call.replies or self._is_closed):
            channel.wait_until(lambda: bool(call.replies or call.is_over), None)
            if channel.dead is not None:
                channel.cancel(call)
        if self._is_closed:
            raise StopIteration
        if call.replies:
            row, data = call.replies.popleft()
            channel.client.requester.taken(call, len(data))
            if channel.client.requester.has_work:
                channel.urge()
            return reply_of(call, row, data)
        if call.error is not None:
            raise failure_told(call)
        raise StopIteration

    def close(self) -> None:
        """Take no more of it; safe to call twice, and from any thread."""
        self._is_closed = True
        self._channel.cancel(self._call)

    def __del__(self) -> None:
        self._channel.abandon(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Services:
    """The part of Mesh that asks and answers."""

    _connection: Channel
    _timeout: float
    _workers: list[Any]
    _on_worker_ended: Callable[[], None]

    def request(
        self,
        service: str,
        value: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        route: str = "auto",
    ) -> Reply:
        """Ask a service; returns its reply.

        The instance with the least to do gets it. If that one goes away before it has answered,
        the request is handed to another if ``idempotent``.

        Args:
            service: its name.
            value: at most 1 MiB.
            timeout: seconds until nobody waits any more, up to a day; it travels with the request,
                which is not handed out after it. None: as given to ``connect``.
            headers: at most 32, 4 KiB together; str to str.
            idempotent: whether doing it twice does no harm.
            route: ``"auto"``: directly if an instance is linked, else by the node; or ``"direct"``
                or ``"node"``, and only so.

        Raises:
            NoResponders: nobody serves it.
            ServiceError: the service answered with an error; it has ``code`` and text.
            DeadlineExceeded: no reply in time; NodeUnreachable: nor was anybody asked.
            InstanceLost, LinkLost: who had it is gone; whether it was done is unknown.
            InvalidName, InvalidArgument, MessageTooLarge: nothing was asked.
            Busy, LimitReached: the node has too many requests; nothing was asked.
        """
        call = self._call(service, value, ONE, timeout, headers, idempotent, route)
        self._await(call, lambda: call.is_over)
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
    ) -> PendingReply:
        """Ask a service and do not wait: ``result()`` of what is returned does, later.

        Arguments are those of ``request``, and so are errors, which come with ``result``; what was
        asked with wrong arguments is told at once. Requests that are made one behind the other
        travel together; so many may be under way from one thread.
        """
        call = self._call(service, value, ONE, timeout, headers, idempotent, route)
        self._connection.call_soon(call)
        return PendingReply(call, self._connection)

    def request_many(
        self,
        service: str,
        value: bytes = b"",
        *,
        timeout: float | None = None,
        max_replies: int | None = None,
        headers: Mapping[str, str] | None = None,
        route: str = "auto",
    ) -> Replies:
        """Ask every instance of a service, by the node if there is one; returns their answers.

        It ends with ``max_replies`` replies, when all have answered, or at the deadline, with what
        there is then, which may be nothing (the list has ``deadline_exceeded``). Of an instance
        that failed the reply has ``error``. Arguments and errors are else those of ``request``:
        where the link to the node is lost before all have answered, or ``max_replies``, that is
        LinkLost, whatever has come.
        """
        check_most(max_replies)
        call = self._call(service, value, EACH, timeout, headers, False, route)
        most = max_replies or 1 << 62
        self._await(call, lambda: call.is_over or len(call.replies) >= most)
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
        """Ask a service that answers with a stream (its handler is a generator).

        ``timeout`` is for all of it. Not more than 1 MiB, counting 32 bytes more for each value, is
        on its way before the program takes it.
        Arguments and errors are else those of ``request``; errors come with the iteration.
        """
        call = self._call(service, value, STREAM, timeout, headers, False, route)
        stream = ReplyStream(self._connection, call)
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
        seconds = self._timeout if timeout is None else timeout
        return call_of(self._connection, service, value, kind, seconds, headers, idempotent, route)

    def _await(self, call: Question, is_done: Callable[[], bool]) -> None:
        channel = self._connection
        try:
            channel.call(call, waits=True)  # Ctrl-C may come once it is sent
            channel.wait_until(is_done, None)
        finally:
            channel.cancel(call)

    def serve(
        self,
        service: str,
        handler: Callable[[Request], Any],
        *,
        concurrency: int = 1,
    ) -> Instance:
        """Answer requests of a service with ``handler``, in ``concurrency`` threads.

        It is called with a Request, and returns the reply's bytes (None: empty), or is a generator
        of them for ``request_stream``. ServiceError, raised by it, is the reply with its code and
        text; any other exception is one with the code ``handler-failed``, and logged.

        Args:
            service: its name; every program that serves it is another instance.
            handler: see above.
            concurrency: requests at work at a time, 1 to 1024; others wait at the node.

        Returns:
            An Instance: ``stop(timeout)`` it, or close the mesh, or ``run``.

        Raises:
            InvalidName, InvalidArgument, LimitReached, DeadlineExceeded.
        """
        check_name(service, 'the name comes first: mesh.serve("name", handler)')
        return self.service(service, concurrency=concurrency)(handler)

    def service(
        self, service: str, *, concurrency: int = 1, start: bool = True
    ) -> Callable[[Callable[[Request], Any]], Instance]:
        """``@mesh.service("pricing.quote", concurrency=8)``: as ``serve``, for a decorator.

        ``start=False`` leaves the beginning to ``run`` or ``instance.start()``.
        """
        check_name(service, 'write it as @mesh.service("name")')
        check_concurrency(concurrency)

        def decorate(handler: Callable[[Request], Any]) -> Instance:
            if not callable(handler):
                raise InvalidArgument(f"a handler is a function of a Request, not {handler!r}")
            if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
                raise InvalidArgument("a coroutine function needs meshmq.aio.connect()")
            check_takes_one(handler, "a handler", "a Request")
            mesh: Any = self
            instance = Instance(handler, mesh, service, concurrency, self._on_worker_ended)
            if start:
                instance.start()
            self._workers.append(instance)
            return instance

        return decorate
