"""The client's I/O thread: one socket, the client machine, and who waits for what.

Every other thread meets it in three places: the publisher's guard (records in), ``call`` (work to
do on this thread) and the waits at the end of this file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from meshmq import codec
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import (
    Arrived,
    ClientEffect,
    CloseLink,
    CommandAnswered,
    Send,
    StateChanged,
    SubscriptionAnswered,
)
from meshmq.core.events import (
    BadFrameReceived,
    ClientEvent,
    FrameReceived,
    LinkClosed,
    LinkOpened,
    TimerFired,
)
from meshmq.core.publisher import FAILED, WAITING, Batch
from meshmq.errors import (
    BadFrame,
    ClosedError,
    DeadlineExceeded,
    ForkedError,
    MeshError,
    from_code,
)
from meshmq.limits import PARTIAL_FRAMES_IN_FLIGHT
from meshmq.shell import clock
from meshmq.shell.sockets import ClientSocket, Wake

logger = logging.getLogger("meshmq")

_LIVE: weakref.WeakSet[Connection] = weakref.WeakSet()


class Answer:
    """One answer from the I/O thread to a thread that waits for it."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._value: Any = None
        self._error: MeshError | None = None

    def set(self, value: Any = None, error: MeshError | None = None) -> None:
        self._value, self._error = value, error
        self._ready.set()

    def get(self, timeout: float | None, what: str) -> Any:
        if not self._ready.wait(timeout):
            raise DeadlineExceeded(f"{what}: no answer from the node within {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value


class Connection:
    """Runs a Client. All public methods may be called from any thread."""

    def __init__(
        self, url: str, identity: ClientIdentity, on_state: Callable[[str, str], None] | None
    ) -> None:
        self.url = url
        self.dead: MeshError | None = None
        self._on_state = on_state
        self._wake = Wake()
        self.sleeping = False
        self._calls: deque[Callable[[], None]] = deque()
        self.client = Client(identity, codec.encode_batch, clock.entropy(), threading.Lock())
        self.publisher = self.client.publisher
        self.publisher.owner = self
        self._answers: dict[int, Answer] = {}
        self._arrived: dict[int, Callable[[Arrived], None]] = {}
        self._ended: dict[int, Callable[[MeshError], None]] = {}
        self._settled = threading.Condition()
        self._waiting = 0
        self._failed: MeshError | None = None
        self._greeted = threading.Event()
        self._socket = ClientSocket(url, self._wake)
        self._reopen_at: int | None = 0
        self._closing: Answer | None = None
        self._thread = threading.Thread(target=self._run, name="meshmq-io", daemon=True)
        _LIVE.add(self)

    @property
    def state(self) -> str:
        return self.client.state

    def start(self) -> None:
        self._thread.start()

    # -- the I/O thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._closing is None:
                self._turn()
            self.client.close(clock.now_ns())
            self._perform(self.client.take_effects(clock.now_ns()))
            self._tell_settled()
        except Exception as error:  # a bug: nobody may be left waiting for this thread
            logger.exception("the I/O thread of meshmq failed")
            self._die(MeshError(f"the I/O thread failed: {type(error).__name__}: {error}"))
        finally:
            self._die(ClosedError("the connection is closed"))
            self._socket.close()
            if self._closing is not None:
                self._closing.set()

    def _turn(self) -> None:
        self.sleeping = True
        timeout = self._timeout_ms()
        cut = self._socket.poll(timeout)
        self.sleeping = False
        now = clock.now_ns()
        calls = self._calls
        while calls:
            calls.popleft()()
        if cut:
            self._handle(LinkClosed(self._socket.link, "the connection was cut"), now)
        receive = self._socket.receive
        for _ in range(64):
            parts = receive()
            if parts is None:
                break
            self._on_message(parts, now)
        self._on_time(now)
        self.client.pump(now)
        self._perform(self.client.take_effects(now))
        if self.publisher.finished:
            self._tell_settled()

    def _timeout_ms(self) -> int:
        if self._calls or (self.client.is_connected and self.publisher.has_work):
            return 0
        due = self.client.next_deadline_ns()
        if self._reopen_at is not None:
            due = self._reopen_at if due is None else min(due, self._reopen_at)
        if due is None:
            return 1000
        return max(0, min(1000, (due - clock.now_ns()) // 1_000_000 + 1))

    def _on_message(self, parts: list[bytes], now: int) -> None:
        link = self._socket.link
        try:
            envelope = codec.decode(parts)
        except BadFrame as error:
            self._handle(BadFrameReceived(link, str(error)), now)
            return
        self._handle(FrameReceived(link, envelope), now)

    def _on_time(self, now: int) -> None:
        if self._reopen_at is not None and now >= self._reopen_at:
            self._reopen_at = None
            self._handle(LinkOpened(self._socket.open()), now)
        due = self.client.next_deadline_ns()
        if due is not None and due <= now:
            self._handle(TimerFired(), now)

    def _handle(self, event: ClientEvent, now: int) -> None:
        self._perform(self.client.handle(event, now))

    def _perform(self, effects: list[ClientEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    if link == self._socket.link:
                        self._socket.send(codec.encode(envelope))
                case Arrived():
                    take = self._arrived.get(effect.subscription)
                    if take is not None:
                        take(effect)
                case CloseLink(link, after):
                    if link == self._socket.link:
                        self._socket.shut(linger_ms=100 if after < 0 else 0)
                    if after >= 0:
                        self._reopen_at = clock.now_ns() + after
                case StateChanged(state, reason, code):
                    self._on_state_changed(state, reason, code)
                case SubscriptionAnswered(number, code, message, topics):
                    self._on_answer(number, topics, code, message)
                case CommandAnswered(number, code, message, body):
                    self._on_answer(number, body, code, message)

    def _on_answer(self, number: int, value: Any, code: str, message: str) -> None:
        answer = self._answers.pop(number, None)
        error = from_code(code, message) if code else None
        if answer is not None:
            answer.set(value, error)
        elif error is not None:
            ended = self._ended.pop(number, None)
            self._arrived.pop(number, None)
            if ended is not None:
                ended(error)

    def _on_state_changed(self, state: str, reason: str, code: str) -> None:
        logger.info("%s: %s", state, reason)
        if state == "closed" and self._closing is None:
            self._die(from_code(code or "closed", reason))
        if state != "reconnecting":
            self._greeted.set()
        if self._on_state is not None:
            try:
                self._on_state(state, reason)
            except Exception:
                logger.exception("the on_state callback failed")

    def _die(self, error: MeshError) -> None:
        if self.dead is None:
            self.dead = error
        self.publisher.buffer_bytes = self.publisher.ceiling_bytes = -1
        self._greeted.set()
        for answer in self._answers.values():
            answer.set(error=self.dead)
        self._answers.clear()
        for ended in self._ended.values():
            ended(self.dead)
        self._ended.clear()
        if self.publisher.finished or not self.publisher.is_idle:
            self.publisher.fail_all(self.dead)
        self._tell_settled()

    def _tell_settled(self) -> None:
        for batch in self.publisher.take_finished():
            if batch.state == FAILED and self._failed is None:
                self._failed = batch.error
        if self._waiting:
            with self._settled:
                self._settled.notify_all()

    # -- any thread ---------------------------------------------------------------------------

    def check(self) -> None:
        """Raise why nothing can be asked of this connection any more, if so."""
        if self.dead is not None:
            raise self.dead

    def call(self, work: Callable[[], None]) -> None:
        """Do ``work`` on the I/O thread soon."""
        self._calls.append(work)
        self.wake()

    def wake(self) -> None:
        if self.sleeping:
            self.sleeping = False
            self._wake.set()

    def published(self) -> None:
        """A record was added: wake the thread if it would send it now."""
        if self.sleeping and (
            self.publisher.frames_in_flight < PARTIAL_FRAMES_IN_FLIGHT or self.publisher.has_full
        ):
            self.wake()

    def command(self, verb: str, arguments: bytes, timeout: float) -> bytes:
        """Run an admin command; return the JSON answer."""
        self.check()
        answer = Answer()

        def work() -> None:
            self._answers[self.client.command(verb, arguments, clock.now_ns())] = answer

        self.call(work)
        body: bytes = answer.get(timeout, verb)
        return body

    def subscribe(
        self,
        opening: Callable[[int], int],
        arrived: Callable[[Arrived], None],
        ended: Callable[[MeshError], None],
        timeout: float,
    ) -> tuple[int, int]:
        """Open a subscription by ``opening(now_ns)``; its number and how many topics match."""
        self.check()
        answer = Answer()
        opened: list[int] = []

        def work() -> None:
            number = opening(clock.now_ns())
            opened.append(number)
            self._answers[number] = answer
            self._arrived[number] = arrived
            self._ended[number] = ended

        self.call(work)
        try:
            topics = answer.get(timeout, "subscribe")
        except MeshError:
            self.call(lambda: self._unsubscribe(opened[0]))
            raise
        return opened[0], topics

    def unsubscribe(self, number: int) -> None:
        self.call(lambda: self._unsubscribe(number))

    def _unsubscribe(self, number: int) -> None:
        self._answers.pop(number, None)
        self._arrived.pop(number, None)
        self._ended.pop(number, None)
        self.client.unsubscribe(number, clock.now_ns())

    def wait_connected(self, timeout: float | None) -> bool:
        """Whether the first handshake was done (or refused) in time."""
        return self._greeted.wait(timeout)

    def deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else time.monotonic() + timeout

    def left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def wait_until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for something that batches settling can make true."""
        with self._settled:
            self._waiting += 1
            try:
                return self._settled.wait_for(is_true, timeout)
            finally:
                self._waiting -= 1

    def wait_for(self, batch: Batch, timeout: float | None) -> bool:
        """Wait until ``batch`` is settled."""
        self.published()
        if timeout == 0:
            return batch.state != WAITING
        return self.wait_until(lambda: batch.state != WAITING, timeout)

    def take_failure(self) -> MeshError | None:
        """The first failure of a publish since the last call."""
        failed, self._failed = self._failed, None
        return failed

    def close(self, timeout: float) -> None:
        """End the thread."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            answer = Answer()

            def work() -> None:
                self._closing = answer

            self.call(work)
            self._thread.join(timeout)


def _after_fork_in_child() -> None:
    # The child has the sockets' file descriptors but not the thread that drives them.
    for connection in _LIVE:
        connection.dead = ForkedError(
            "this connection was made before a fork: connect again in the child process "
            "(multiprocessing: use the 'spawn' start method, or connect after the fork)"
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
