"""What a program's threads and the I/O thread share: one socket, one client machine, one lock.

Whoever holds ``_io`` may touch the socket and the machine: each turn takes what came, does what is
due, sends what is ready. Waiting happens outside the lock, on file descriptors.

* A program thread that waits (``wait_until``) *drives*: it sleeps on the socket itself and runs the
  turns, so an answer wakes the thread that wants it and no other. One thread drives at a time; of
  the others each has a lock to sleep on, which a turn opens that made true what it waits for. When
  the driver is done, the one that came last takes over: it is likely to wait longest.
* A lone record is sent by the thread that publishes it.
* The I/O thread does all that when no program thread does; while one drives it is parked. For an
  event loop it does everything: what the loop asks for is posted to it.

ZeroMQ's file descriptor tells of changes only, and whoever touches the socket may take the news: a
turn therefore receives until nothing is left.

Ctrl-C in a program thread must not cut a turn in two, or records would be lost in the middle: for
its length SIGINT is held back and raised again behind it. A handler of another signal that raises
there ends the connection with an error.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import weakref
from _signal import SIGINT, getsignal, raise_signal
from _signal import signal as set_handler
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from meshmq import codec, limits
from meshmq.client.channel import Channel
from meshmq.core.client import ClientIdentity
from meshmq.core.effects import CloseLink, OpenLink
from meshmq.core.events import (
    BadFrameReceived,
    FrameReceived,
    LinkClosed,
    LinkOpened,
    TimerFired,
)
from meshmq.core.moving import Moving
from meshmq.core.owner_links import OWNER_LINK
from meshmq.core.requester import Call
from meshmq.errors import BadFrame, ClosedError, ConfigError, ForkedError, MeshError
from meshmq.frames import Envelope, Payload
from meshmq.shell import clock
from meshmq.shell.sockets import ClientSocket, ProgramSocket, Sleeper

logger = logging.getLogger("meshmq")

FRAMES_PER_TURN = 64  # then waiting threads get a look at what came
FRAMES_LEFT = 1024  # what a connection that was cut may have left behind, as ZeroMQ is set up
REQUESTS_ALONE = 4  # if more are under way, what is not waited for at once may gather
REQUESTS_TOGETHER = 32  # then the service has something to do while the next are asked
PARK_MS_MIN, PARK_MS_MAX = 5, 50  # how long the I/O thread leaves a socket alone after a driver

_LIVE: weakref.WeakSet[Connection] = weakref.WeakSet()


class _Interrupts:
    """Holds SIGINT back in the main thread, the only one it comes to. See the module's header.

    By ``_signal``, what ``signal`` wraps: its conversions to enums cost as much as a lone publish.
    """

    def __init__(self) -> None:
        self.may_raise = False  # between turns: let it through at once
        self._is_holding = False
        self._held = False
        self._handler: Any = None

    @staticmethod
    def is_here() -> bool:
        """Whether this is the thread that SIGINT comes to."""
        return threading.get_ident() == threading.main_thread().ident

    def hold(self) -> bool:
        """Begin; whether ``release`` is to be called."""
        if self._is_holding or not self.is_here():
            return False
        if not callable(getsignal(SIGINT)):
            return False  # ignored, or it ends the process: nothing will be raised
        self._held = False
        # In this order: one that comes before it holds must not leave it as if it did.
        self._handler = set_handler(SIGINT, self._on_interrupt)
        self._is_holding = True
        return True

    def let_through(self) -> None:
        """From here on one that comes is raised at once; so is one that was held back."""
        self.may_raise = True
        if self._held:
            self._held = False
            raise_signal(SIGINT)

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


class _Waiter:
    """A thread that waits while another one drives; who takes it from the waiters wakes it."""

    __slots__ = ("is_true", "lock")

    def __init__(self, is_true: Callable[[], bool]) -> None:
        self.is_true = is_true
        self.lock = threading.Lock()
        self.lock.acquire()


class Connection(Channel):
    """Runs a Client over a socket. All public methods may be called from any thread.

    Args:
        hands_over: no thread of the program works for the connection: what it asks is posted to
            the I/O thread (an event loop must never wait for a lock).
        moving: where nodes may be; None: at ``url`` alone.
    """

    def __init__(
        self,
        url: str,
        identity: ClientIdentity,
        on_state: Callable[[str, str], None] | None,
        hands_over: bool = False,
        moving: Moving | None = None,
    ) -> None:
        super().__init__(url, identity, on_state, clock.entropy(), threading.Lock())
        if moving is not None:
            self.client.moving = moving
        self._hands_over = hands_over
        self._posted: deque[Callable[[int], None]] = deque()
        self._io = threading.Lock()
        self._interrupts = _Interrupts()
        self._more = False  # the last turn left something at the socket
        self._planned_ns = 0  # when the I/O thread wakes by itself
        self._due_ns = 0  # no timer before this
        self._together_ns = -limits.SECOND  # when a thread has last sent many rows together
        self._looks_soon = False  # the I/O thread does, within PARK_MS_MIN
        self._driving = threading.Lock()
        self._driving_thread = 0
        self._drives = 0
        self._driver = Sleeper()
        self._io_sleeper = Sleeper()
        self._waiters: dict[_Waiter, None] = {}
        self._telling = threading.Lock()
        self._socket: Any = self._make_socket(url)
        self._owners: ProgramSocket | None = None  # links to nodes other than ours, once there are
        self._fds: tuple[int, ...] = ()
        self._reopen_at: int | None = 0
        self._dials_one_of = self.client.moving.has_others
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="meshmq-io", daemon=True)
        _LIVE.add(self)

    def _make_socket(self, url: str) -> Any:
        return ClientSocket(url)

    @property
    def was_started(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin, if that was not done."""
        if not self.was_started:
            self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the I/O thread has not come to its end."""
        return not self._is_closed

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
        link = socket.link if socket.was_cut() else b""
        for _ in range(FRAMES_LEFT if link else FRAMES_PER_TURN):
            if not socket.has_input():
                break
            self._on_message(socket.receive(), now)
        if link:  # behind what it has brought: a node that ends may have said the last word
            self._handle(LinkClosed(link, "the connection was cut"), now)
        if self._reopen_at is not None and now >= self._reopen_at:
            self._reopen_at = None
            self._open_node(now)
        if self._owners is not None:
            self._receive_of_owners(self._owners, now)
        if self._is_due(now):
            self._handle(TimerFired(), now)
        while self._posted:
            self._work(self._posted.popleft(), now)
        self._send_ready(now)

    def _receive_of_owners(self, owners: ProgramSocket, now: int) -> None:
        owners.look()
        cut = owners.take_cut()
        for _ in range(FRAMES_LEFT if cut else FRAMES_PER_TURN):
            message = owners.receive()
            if message is None:
                break
            self._on_message(message[1], now, message[0])
        for link in cut:
            self._handle(LinkClosed(link, "the connection was cut"), now)

    def _open_node(self, now: int) -> None:
        try:
            link = self._socket.open(self.url, self._dials_one_of)
        except ConfigError:  # what the system takes for no address, another node has told
            self._reopen_at = now + limits.RECONNECT_NS_MAX
            return
        self._handle(LinkOpened(link), now)

    def _is_due(self, now: int) -> bool:
        """Whether it is time for TimerFired. What came up since somebody has last thought of going
        to sleep is seen then."""
        if now < self._due_ns:
            return False
        due = self.client.next_deadline_ns()
        return due is not None and due <= now

    def _transmit(self, link: bytes, envelope: Envelope) -> None:
        if link == self._socket.link:
            self._socket.send(codec.encode(envelope))
        elif self._owners is not None:
            self._owners.send(link, codec.encode(envelope))

    def _open_link(self, effect: OpenLink) -> None:
        if self._owners is None:
            self._owners = ProgramSocket(())
        with contextlib.suppress(ConfigError):  # then nobody answers
            self._owners.open(effect.link, effect.address, is_one_of=True)

    def _close_link(self, effect: CloseLink) -> None:
        if effect.link == self._socket.link:
            is_last = effect.reopen_after_ns < 0
            self._socket.shut(linger_ms=100 if is_last or effect.lingers else 0)
        elif effect.link.startswith(OWNER_LINK):
            if self._owners is not None:
                self._owners.shut(effect.link)
            return
        self._open_after(effect)

    def _open_after(self, effect: CloseLink) -> None:
        """Open a link to a node again, or to another one."""
        if effect.reopen_after_ns >= 0:
            self.url = effect.address or self.url
            self._dials_one_of = effect.is_one_of
            self._reopen_at = clock.now_ns() + effect.reopen_after_ns

    def _send_ready(self, now: int) -> None:
        self.client.pump(now)
        self._perform(self.client.take_effects(now))
        # Sending takes the news of what came meanwhile.
        self._more = self._socket.has_input()
        if self._owners is not None:
            self._more = self._more or self._owners.has_input()

    def _send_now(self) -> None:
        if not self._is_closed:
            self._send_ready(clock.now_ns())

    def _on_message(self, parts: Sequence[Payload], now: int, link: bytes = b"") -> None:
        link = link or self._socket.link
        try:
            envelope = codec.decode(parts)
        except BadFrame as error:
            self._handle(BadFrameReceived(link, str(error)), now)
            return
        self._handle(FrameReceived(link, envelope), now)

    # -- telling: outside the lock -------------------------------------------------------------

    def _tell(self) -> None:
        """After a turn: note failures, wake who waits, call the program back."""
        self._settle()
        if self._waiters:
            # A copy in one step: making a tuple may run the garbage collector, and with it others.
            for waiter in self._waiters.copy():
                if (self.dead is not None or waiter.is_true()) and self._take(waiter):
                    waiter.lock.release()
        if self._driver.is_asleep:
            self._driver.wake()
        if self.listener is not None:
            self.listener.tell()
        while self._callbacks and self._telling.acquire(blocking=False):
            try:
                while self._callbacks:
                    self._call_back(self._callbacks.popleft())
            finally:
                self._telling.release()

    def _take(self, waiter: _Waiter) -> bool:
        """Whether it was this thread that took it from the waiters."""
        try:
            del self._waiters[waiter]
        except KeyError:
            return False
        return True

    # -- the I/O thread ------------------------------------------------------------------------

    def _run(self) -> None:
        sleeper, drives, park_ms = self._io_sleeper, 0, PARK_MS_MIN
        is_watching = False
        try:
            while not self._closing:
                self.sleeping = sleeper.is_asleep = True
                if self._driving.locked() or self._drives != drives or self._keeps_out:
                    # Not to wake for what a driver takes; it drives again soon, as a rule.
                    again = self._drives != drives or self._keeps_out or is_watching
                    park_ms = PARK_MS_MIN if again else min(2 * park_ms, PARK_MS_MAX)
                    drives = self._drives
                    self._planned_ns = 0
                    self._looks_soon = park_ms == PARK_MS_MIN
                    sleeper.sleep((), 0 if self._closing else park_ms)
                else:
                    timeout_ms = self._timeout_ms()
                    if is_watching:
                        timeout_ms = min(timeout_ms, PARK_MS_MIN)
                    self._planned_ns = clock.now_ns() + timeout_ms * 1_000_000
                    sleeper.sleep(self._all_fds(), timeout_ms)
                self.sleeping = sleeper.is_asleep = self._looks_soon = False
                if self.watchers:
                    now = clock.now_ns()
                    watching = [watch(now) for watch in self.watchers.copy()]  # all are asked
                    is_watching = any(watching)
                if not self._driving.locked():
                    self._locked(self._turn)
        except Exception:
            pass  # logged, and the connection is dead
        finally:
            with self._io:
                self._end()
            self._tell()

    @property
    def _keeps_out(self) -> bool:
        """Whether a thread of the program is busy with many requests or replies: what comes for it,
        it takes as well, and two that take turns at that wait for each other most of the time."""
        since_ns = clock.now_ns() - self._together_ns
        return since_ns < PARK_MS_MIN * 1_000_000 and not self.publisher.frames_in_flight

    def _end(self) -> None:
        now = clock.now_ns()
        self.client.close(now)
        self._perform(self.client.take_effects(now))
        self._die(ClosedError("the connection is closed"))
        self._socket.close()
        if self._owners is not None:
            self._owners.close()
        # Last: who sees it may ask, and has to be told that the connection is closed.
        self._is_closed = True

    def _all_fds(self) -> tuple[int, ...]:
        """What to sleep on: the same tuple as long as nothing has changed."""
        fds: tuple[int, ...] = self._socket.fds
        owners = self._owners
        if owners is None or not owners.fds:
            return fds
        told = self._fds
        both = (*fds, *owners.fds)
        if told != both:
            self._fds = told = both
        return told

    def _timeout_ms(self) -> int:
        if self._more or self._closing or self._posted or self.client.has_work:
            self._due_ns = 0
            return 0
        due = self._next_deadline_ns()
        self._due_ns = clock.now_ns() + limits.SECOND if due is None else due
        reopen = self._reopen_at
        if reopen is not None:
            due = reopen if due is None else min(due, reopen)
        if due is None:
            return 1000
        return max(0, min(1000, (due - clock.now_ns()) // 1_000_000 + 1))

    def _next_deadline_ns(self) -> int | None:
        """When the machine wants a turn by itself. Not while another thread's turn changes what is
        looked through for it, links that come and go say."""
        with self._io:
            return self.client.next_deadline_ns()

    def _follow_up(self) -> None:
        """After a turn of a thread that does not drive: what remains to be done, others do."""
        due = self._next_deadline_ns()
        if self._more or due is None or due < self._planned_ns:
            self.wake()

    def wake(self) -> None:
        """Have what is ready sent by whoever sees to the socket now."""
        if self._driving.locked():
            self._driver.wake()
        else:
            self._io_sleeper.wake()

    # -- any thread ----------------------------------------------------------------------------

    def run(self, work: Callable[[int], None]) -> None:
        """Do ``work(now_ns)`` on the machine and send what it brings about."""
        if self._hands_over:
            self._posted.append(work)
            self.wake()
            return

        def whole() -> None:
            now = clock.now_ns()
            self._work(work, now)
            if self.dead is None:
                self._send_ready(now)

        self._locked(whole)
        self._follow_up()

    def _work(self, work: Callable[[int], None], now: int) -> None:
        if self.dead is None:
            work(now)

    def published(self) -> None:
        """A record was added: see that it leaves, if it would leave now."""
        publisher = self.publisher
        if not self.client.is_connected:
            return  # the handshake's end sends it
        if self._hands_over:
            if self.sleeping:
                self.wake()
        elif publisher.node.is_quiet and not self._io.locked():
            self._locked(self._send_now)
            self._follow_up()
        elif self.sleeping and (publisher.node.takes_partial or publisher.node.full):
            self.wake()

    def urge(self, gather: bool = False) -> None:
        """See Channel."""
        if not self.client.is_connected or self.dead is not None:
            return  # it is told once the consumer is let in again
        if self._hands_over:
            if self.sleeping:
                self.wake()
        elif gather or self._waiters:
            # More is coming, from this thread or others that are at it, too: whoever sees to the
            # socket sends it all in one frame.
            self.wake()
        elif not self._io.locked():
            self._locked(self._send_now)
            self._follow_up()
        elif self.sleeping:
            self.wake()

    def call_soon(self, call: Call) -> None:
        requester = self.client.requester
        if (
            (len(requester.calls) < REQUESTS_ALONE and not self._keeps_out)
            or self._hands_over or not self.client.is_connected
        ):  # fmt: skip
            self.call(call)
            return
        self.check_use()
        requester.add(call)
        if requester.unsent >= REQUESTS_TOGETHER:
            self.urge_together()
        elif not self._looks_soon:
            self.wake()

    def urge_together(self) -> None:
        if self.dead is None and not self._io.locked():
            self._together_ns = clock.now_ns()
            self._locked(self._send_now)
            if not self._looks_soon:
                self._follow_up()

    @property
    def _will_drive(self) -> bool:
        # Whoever begins to drive before this thread does finds what there is to send.
        return not (self._hands_over or self._driving.locked())

    def wait_until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for something that a turn can make true, or for the connection's end."""
        deadline = self.deadline(timeout)
        while self.dead is None:
            if self._driving_thread == threading.get_ident():
                self._drive(is_true, deadline)  # a callback that waits
                break
            if self._drive_if_free(is_true, deadline):
                break
            waiter = _Waiter(is_true)
            try:
                self._waiters[waiter] = None
                # In this order: who changes something, or stops driving, looks for waiters after.
                if not is_true() and self.dead is None and self._driving.locked():
                    left = self.left(deadline)
                    if self.client.has_work:
                        self.wake()  # what this thread was to send
                    waiter.lock.acquire(timeout=-1 if left is None else left)
            finally:
                self._take(waiter)
                if self._waiters and not self._driving.locked():
                    self._hand_over()  # it was this thread's turn to drive, and it leaves
            if is_true() or self.left(deadline) == 0.0:
                break
        return is_true()

    def _drive_if_free(self, is_true: Callable[[], bool], deadline: float | None) -> bool:
        """Drive, unless another thread does."""
        # Before it drives: who was interrupted in between would be the driver for ever.
        is_held = self._interrupts.hold()
        try:
            if not self._driving.acquire(blocking=False):
                return False
            try:
                self._driving_thread = threading.get_ident()
                self._drives += 1
                self._drive(is_true, deadline)
            finally:
                self._driver.is_asleep = False
                self._driving_thread = 0
                self._driving.release()
                self._hand_over()
            return True
        finally:
            if is_held:
                self._interrupts.release()

    def _drive(self, is_true: Callable[[], bool], deadline: float | None) -> None:
        driver, interrupts = self._driver, self._interrupts
        is_main = interrupts.is_here()  # what others let through would cut its turns
        if self.client.has_work:
            self._locked(self._send_now)
        while not is_true() and self.dead is None:
            left = self.left(deadline)
            driver.is_asleep = True
            if not is_true() and self.dead is None:
                timeout_ms = self._timeout_ms()
                if left is not None:
                    timeout_ms = min(timeout_ms, math.ceil(left * 1000))
                try:
                    if is_main:
                        interrupts.let_through()
                    if timeout_ms:
                        driver.sleep(self._all_fds(), timeout_ms)
                finally:
                    if is_main:
                        interrupts.may_raise = False
            driver.is_asleep = False
            self._locked(self._turn)
            if left == 0.0:
                return

    def _hand_over(self) -> None:
        """The driver leaves: let another thread that waits drive, and see to what is unsent."""
        if self._waiters:
            with contextlib.suppress(KeyError):  # nobody waits any more
                self._waiters.popitem()[0].lock.release()
        if self.client.has_work or self.publisher.frames_in_flight:
            self._io_sleeper.wake()  # it may be parked: what others await is taken by it again

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
