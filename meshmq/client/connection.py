"""What a program's threads and the I/O thread share: one socket, one client machine, one lock.

Whoever holds ``_io`` may touch the socket and the machine: each turn takes what came, does what is
due, sends what is ready. Waiting happens outside the lock, on file descriptors.

* A program thread that waits (``wait_until``) *drives*: it sleeps on the socket itself and runs the
  turns, so an answer wakes the thread that wants it and no other. One thread drives at a time; the
  others are told, and one of them takes over when the driver is done.
* A lone record is sent by the thread that publishes it.
* The I/O thread does all that when no program thread does; while one drives it is parked.

ZeroMQ's file descriptor tells of changes only, and whoever touches the socket may take the news: a
turn therefore receives until nothing is left.

Ctrl-C in a program thread must not cut a turn in two, or records would be lost in the middle: for
its length SIGINT is held back and raised again behind it. A handler of another signal that raises
there ends the connection with an error.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from _signal import SIGINT, getsignal, raise_signal
from _signal import signal as set_handler
from collections import deque
from collections.abc import Callable
from types import FrameType
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
from meshmq.shell.sockets import ClientSocket, Sleeper

logger = logging.getLogger("meshmq")

FRAMES_PER_TURN = 64  # then waiting threads get a look at what came
PARK_MS_MIN, PARK_MS_MAX = 5, 50  # how long the I/O thread leaves a socket alone after a driver

_LIVE: weakref.WeakSet[Connection] = weakref.WeakSet()


class Answer:
    """One answer of the node, and whether it is there."""

    def __init__(self) -> None:
        self.is_set = False
        self._value: Any = None
        self._error: MeshError | None = None

    def set(self, value: Any = None, error: MeshError | None = None) -> None:
        self._value, self._error = value, error
        self.is_set = True

    def get(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class _Interrupts:
    """Holds SIGINT back in the main thread, the only one it comes to. See the module's header.

    By ``_signal``, what ``signal`` wraps: its conversions to enums cost as much as a lone publish.
    """

    def __init__(self) -> None:
        self.may_raise = False  # between turns: let it through at once
        self._is_holding = False
        self._held = False
        self._handler: Any = None

    def hold(self) -> bool:
        """Begin; whether ``release`` is to be called."""
        if threading.get_ident() != threading.main_thread().ident or self._is_holding:
            return False
        if not callable(getsignal(SIGINT)):
            return False  # ignored, or it ends the process: nothing will be raised
        self._is_holding = True
        self._handler = set_handler(SIGINT, self._on_interrupt)
        return True

    def release(self) -> None:
        self._is_holding = False
        set_handler(SIGINT, self._handler)
        if self._held:
            self._held = False
            raise_signal(SIGINT)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.may_raise:
            self._handler(number, frame)
        else:
            self._held = True


class Connection:
    """Runs a Client. All public methods may be called from any thread.

    Attributes:
        dead: why nothing can be asked any more, or None.
        sleeping: whether the I/O thread sleeps, so that a publisher must see to its record.
    """

    def __init__(
        self, url: str, identity: ClientIdentity, on_state: Callable[[str, str], None] | None
    ) -> None:
        self.url = url
        self.dead: MeshError | None = None
        self.sleeping = False
        self._on_state = on_state
        self.client = Client(identity, codec.encode_batch, clock.entropy(), threading.Lock())
        self.publisher = self.client.publisher
        self.publisher.owner = self
        self._answers: dict[int, Answer] = {}
        self._arrived: dict[int, Callable[[Arrived], None]] = {}
        self._ended: dict[int, Callable[[MeshError], None]] = {}
        self._failed: MeshError | None = None
        self._greeted = False
        self._io = threading.Lock()
        self._interrupts = _Interrupts()
        self._more = False  # the last turn left something at the socket
        self._planned_ns = 0  # when the I/O thread wakes by itself
        self._driving = threading.Lock()
        self._driving_thread = 0
        self._drives = 0
        self._driver = Sleeper()
        self._io_sleeper = Sleeper()
        self._news = threading.Condition()
        self._waiting = 0
        self._callbacks: deque[Callable[[], None]] = deque()
        self._telling = threading.Lock()
        self._socket = ClientSocket(url)
        self._reopen_at: int | None = 0
        self._closing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="meshmq-io", daemon=True)
        _LIVE.add(self)

    @property
    def state(self) -> str:
        return self.client.state

    def start(self) -> None:
        self._thread.start()

    # -- turns: under the lock -----------------------------------------------------------------

    def _locked(self, work: Callable[[], None]) -> None:
        """Do ``work`` under the lock, whole even if Ctrl-C comes, then tell who waits."""
        is_held = self._interrupts.hold()
        try:
            with self._io:
                try:
                    work()
                except MeshError as error:
                    self._die(error)
                    raise
                except BaseException as error:
                    # A bug, or a signal's handler that raised: nobody may be left waiting.
                    logger.exception("a turn of meshmq was cut short")
                    what = f"{type(error).__name__}: {error}"
                    self._die(MeshError(f"the connection was cut short by {what}: connect again"))
                    raise
            self._tell()
        finally:
            if is_held:
                self._interrupts.release()

    def _turn(self) -> None:
        """Take what came, do what is due, send what is ready."""
        if self._is_closed:
            return
        now = clock.now_ns()
        socket = self._socket
        if socket.was_cut():
            self._handle(LinkClosed(socket.link, "the connection was cut"), now)
        for _ in range(FRAMES_PER_TURN):
            if not socket.has_input():
                break
            self._on_message(socket.receive(), now)
        if self._reopen_at is not None and now >= self._reopen_at:
            self._reopen_at = None
            self._handle(LinkOpened(socket.open()), now)
        due = self.client.next_deadline_ns()
        if due is not None and due <= now:
            self._handle(TimerFired(), now)
        self._send_ready(now)

    def _send_ready(self, now: int) -> None:
        self.client.pump(now)
        self._perform(self.client.take_effects(now))
        # Sending takes the news of what came meanwhile.
        self._more = self._socket.has_input()

    def _send_now(self) -> None:
        if not self._is_closed:
            self._send_ready(clock.now_ns())

    def _on_message(self, parts: list[bytes], now: int) -> None:
        link = self._socket.link
        try:
            envelope = codec.decode(parts)
        except BadFrame as error:
            self._handle(BadFrameReceived(link, str(error)), now)
            return
        self._handle(FrameReceived(link, envelope), now)

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
        if state == "closed" and not self._closing:
            self._die(from_code(code or "closed", reason))
        if state != "reconnecting":
            self._greeted = True
        told = self._on_state
        if told is not None:
            self.tell(lambda: told(state, reason))

    def _die(self, error: MeshError) -> None:
        if self.dead is None:
            self.dead = error
        self.publisher.buffer_bytes = self.publisher.ceiling_bytes = -1
        self._greeted = True
        for answer in self._answers.values():
            answer.set(error=self.dead)
        self._answers.clear()
        for ended in self._ended.values():
            ended(self.dead)
        self._ended.clear()
        if not self.publisher.is_idle:
            self.publisher.fail_all(self.dead)

    # -- telling: outside the lock -------------------------------------------------------------

    def tell(self, callback: Callable[[], None]) -> None:
        """Call the program back once the lock is free; callbacks come one at a time, in order."""
        self._callbacks.append(callback)

    def _tell(self) -> None:
        """After a turn: note failures, wake who waits, call the program back."""
        if self.publisher.finished:
            for batch in self.publisher.take_finished():
                if batch.state == FAILED and self._failed is None:
                    self._failed = batch.error
        if self._waiting:
            with self._news:
                self._news.notify_all()
        if self._driver.is_asleep:
            self._driver.wake()
        while self._callbacks and self._telling.acquire(blocking=False):
            try:
                while self._callbacks:
                    self._call_back(self._callbacks.popleft())
            finally:
                self._telling.release()

    @staticmethod
    def _call_back(callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            logger.exception("a callback of the program failed")

    # -- the I/O thread ------------------------------------------------------------------------

    def _run(self) -> None:
        sleeper, drives, park_ms = self._io_sleeper, 0, PARK_MS_MIN
        try:
            while not self._closing:
                self.sleeping = sleeper.is_asleep = True
                if self._driving.locked() or self._drives != drives:
                    # Not to wake for what a driver takes; it drives again soon, as a rule.
                    again = self._drives != drives
                    park_ms = PARK_MS_MIN if again else min(2 * park_ms, PARK_MS_MAX)
                    drives = self._drives
                    self._planned_ns = 0
                    sleeper.sleep((), 0 if self._closing else park_ms)
                else:
                    timeout_ms = self._timeout_ms()
                    self._planned_ns = clock.now_ns() + timeout_ms * 1_000_000
                    sleeper.sleep(self._socket.fds, timeout_ms)
                self.sleeping = sleeper.is_asleep = False
                if not self._driving.locked():
                    self._locked(self._turn)
        except Exception:
            pass  # logged, and the connection is dead
        finally:
            with self._io:
                self._end()
            self._tell()

    def _end(self) -> None:
        now = clock.now_ns()
        self._is_closed = True
        self.client.close(now)
        self._perform(self.client.take_effects(now))
        self._die(ClosedError("the connection is closed"))
        self._socket.close()

    def _timeout_ms(self) -> int:
        if self._more or self._closing or (self.client.is_connected and self.publisher.has_work):
            return 0
        due = self.client.next_deadline_ns()
        reopen = self._reopen_at
        if reopen is not None:
            due = reopen if due is None else min(due, reopen)
        if due is None:
            return 1000
        return max(0, min(1000, (due - clock.now_ns()) // 1_000_000 + 1))

    def _follow_up(self) -> None:
        """After a turn of a thread that does not drive: what remains to be done, others do."""
        due = self.client.next_deadline_ns()
        if self._more or due is None or due < self._planned_ns:
            self.wake()

    def wake(self) -> None:
        """Have what is ready sent by whoever sees to the socket now."""
        if self._driving.locked():
            self._driver.wake()
        else:
            self._io_sleeper.wake()

    # -- any thread ----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise why nothing can be asked of this connection any more, if so."""
        if self.dead is not None:
            raise self.dead

    def run(self, work: Callable[[int], None]) -> None:
        """Do ``work(now_ns)`` on the machine and send what it brings about."""

        def whole() -> None:
            if self.dead is None:
                now = clock.now_ns()
                work(now)
                self._send_ready(now)

        self._locked(whole)
        self._follow_up()

    def published(self) -> None:
        """A record was added: see that it leaves, if it would leave now."""
        publisher = self.publisher
        if not self.client.is_connected:
            return  # the handshake's end sends it
        if not publisher.frames_in_flight and not publisher.has_full and not self._io.locked():
            self._locked(self._send_now)
            self._follow_up()
        elif self.sleeping and (
            publisher.frames_in_flight < PARTIAL_FRAMES_IN_FLIGHT or publisher.has_full
        ):
            self.wake()

    def wait_until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for something that a turn can make true, or for the connection's end."""
        deadline = self.deadline(timeout)
        while self.dead is None:
            if self._driving_thread == threading.get_ident():
                self._drive(is_true, deadline)  # a callback that waits
                break
            if self._driving.acquire(blocking=False):
                is_held = self._interrupts.hold()
                try:
                    self._driving_thread = threading.get_ident()
                    self._drives += 1
                    self._drive(is_true, deadline)
                finally:
                    self._driver.is_asleep = False
                    self._driving_thread = 0
                    self._driving.release()
                    self._hand_over()
                    if is_held:
                        self._interrupts.release()
                break
            with self._news:
                self._waiting += 1
                try:
                    if not is_true() and self.dead is None and self._driving.locked():
                        self._news.wait(self.left(deadline))
                finally:
                    self._waiting -= 1
            if is_true() or self.left(deadline) == 0.0:
                break
        return is_true()

    def _drive(self, is_true: Callable[[], bool], deadline: float | None) -> None:
        driver = self._driver
        while not is_true() and self.dead is None:
            left = self.left(deadline)
            driver.is_asleep = True
            if not is_true() and self.dead is None:
                timeout_ms = self._timeout_ms()
                if left is not None:
                    timeout_ms = min(timeout_ms, math.ceil(left * 1000))
                self._interrupts.may_raise = True
                driver.sleep(self._socket.fds, timeout_ms)
                self._interrupts.may_raise = False
            driver.is_asleep = False
            self._locked(self._turn)
            if left == 0.0:
                return

    def _hand_over(self) -> None:
        """The driver leaves: let another thread that waits drive, and see to what is unsent."""
        if self._waiting:
            with self._news:
                self._news.notify_all()
        if self.client.is_connected and self.publisher.has_work:
            self._io_sleeper.wake()

    def command(self, verb: str, arguments: bytes, timeout: float) -> bytes:
        """Run an admin command; return the JSON answer."""
        answer = Answer()
        numbers: list[int] = []

        def work(now_ns: int) -> None:
            numbers.append(self.client.command(verb, arguments, now_ns))
            self._answers[numbers[0]] = answer

        self._ask(work, answer, timeout, verb, lambda now: self._forget(numbers[0]))
        body: bytes = answer.get()
        return body

    def _forget(self, number: int) -> None:
        self._answers.pop(number, None)
        self.client.forget_command(number)

    def subscribe(
        self,
        opening: Callable[[int], int],
        arrived: Callable[[Arrived], None],
        ended: Callable[[MeshError], None],
        timeout: float,
    ) -> tuple[int, int]:
        """Open a subscription by ``opening(now_ns)``; its number and how many topics match."""
        answer = Answer()
        opened: list[int] = []

        def work(now_ns: int) -> None:
            number = opening(now_ns)
            opened.append(number)
            self._answers[number] = answer
            self._arrived[number] = arrived
            self._ended[number] = ended

        undo: Callable[[int], None] = lambda now: self._unsubscribe(opened[0], now)  # noqa: E731
        self._ask(work, answer, timeout, "subscribe", undo)
        try:
            topics = answer.get()
        except MeshError:
            self.run(undo)
            raise
        return opened[0], topics

    def _ask(
        self,
        work: Callable[[int], None],
        answer: Answer,
        timeout: float,
        what: str,
        undo: Callable[[int], None],
    ) -> None:
        """Do ``work`` and wait for its answer; ``undo`` it if none comes."""
        self.check()
        self.run(work)
        is_there = False
        try:
            is_there = self.wait_until(lambda: answer.is_set, timeout)
        finally:
            if not is_there:
                self.run(undo)
        if not is_there:
            self.check()
            raise DeadlineExceeded(f"{what}: no answer from the node within {timeout} s")

    def unsubscribe(self, number: int) -> None:
        self.run(lambda now: self._unsubscribe(number, now))

    def _unsubscribe(self, number: int, now_ns: int) -> None:
        self._answers.pop(number, None)
        self._arrived.pop(number, None)
        self._ended.pop(number, None)
        self.client.unsubscribe(number, now_ns)

    def wait_connected(self, timeout: float | None) -> bool:
        """Whether the first handshake was done (or refused) in time."""
        return self.wait_until(lambda: self._greeted, timeout)

    def deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else time.monotonic() + timeout

    def left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def wait_for(self, batch: Batch, timeout: float | None) -> bool:
        """Wait until ``batch`` is settled."""
        return self.wait_until(lambda: batch.state != WAITING, timeout)

    def take_failure(self) -> MeshError | None:
        """The first failure of a publish since the last call."""
        failed, self._failed = self._failed, None
        return failed

    def close(self, timeout: float) -> None:
        """Say goodbye and end the thread."""
        self._closing = True
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._io_sleeper.wake()
            self._thread.join(timeout)


def _after_fork_in_child() -> None:
    # The child has the sockets' file descriptors but not the thread that sees to them, and locks
    # may be held for ever by threads that are not there.
    for connection in _LIVE:
        connection.dead = ForkedError(
            "this connection was made before a fork: connect again in the child process "
            "(multiprocessing: use the 'spawn' start method, or connect after the fork)"
        )
        connection.publisher.buffer_bytes = connection.publisher.ceiling_bytes = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
