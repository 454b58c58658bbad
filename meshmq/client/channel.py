"""What a program asks of a client machine and what it gets back, whoever moves the bytes.

A Channel owns the machine, the answers that are waited for and the subscriptions' ends. Its
subclasses bring the transport and the waiting: ``Connection`` a socket and threads, the simulated
mesh of ``meshmq.testing`` virtual time.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NoReturn, Protocol

from meshmq import codec
from meshmq.client.values import deadline_of
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import (
    Arrived,
    CallsAnswered,
    ClientEffect,
    CloseLink,
    CommandAnswered,
    ConsumerAnswered,
    FoundNode,
    HandedOut,
    OpenLink,
    RequestsCame,
    RequestsStopped,
    Send,
    ServiceAnswered,
    SettlesAnswered,
    StateChanged,
    SubscriptionAnswered,
    TransactionAnswered,
)
from meshmq.core.events import ClientEvent
from meshmq.core.held import Held
from meshmq.core.lanes import FAILED, WAITING, Batch
from meshmq.core.requester import Call
from meshmq.core.responder import Registration
from meshmq.errors import DeadlineExceeded, ForkedError, InvalidArgument, MeshError, from_code
from meshmq.frames import Consume, Envelope, PublishBatch
from meshmq.shell import clock

logger = logging.getLogger("meshmq")


def encode_jobs(
    values: Sequence[bytes],
    keys: Sequence[bytes] | None,
    headers: Sequence[bytes] | None,
    times: Sequence[int] | None,
    time_ns: int,
    options: tuple[Any, ...],
) -> bytes:
    """``codec.encode_jobs`` as the core calls it."""
    return codec.encode_jobs(values, keys, headers, times, time_ns, codec.JobOptions(*options))


class Answer:
    """One answer of the node, and whether it is there.

    Attributes:
        number: the command's or subscription's number.
        undo: what to do (at a time in ns) when nobody waits for it any more.
    """

    def __init__(self) -> None:
        self.is_set = False
        self.number = 0
        self.undo: Callable[[int], None] = lambda now_ns: None
        self._value: Any = None
        self._error: MeshError | None = None

    def set(self, value: Any = None, error: MeshError | None = None) -> None:
        self._value, self._error = value, error
        self.is_set = True

    def get(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class Listener(Protocol):
    """Who is told what a turn brought about, instead of a thread that waits for it."""

    def note(self, what: object) -> None:
        """An Answer, a Batch, a hand-out, a Call, a Registration, the number of a subscription or
        consumer, or the Channel has news; under the lock."""

    def tell(self) -> None:
        """A turn is over, from whatever thread."""


class Channel(ABC):
    """Runs a Client for a program.

    Attributes:
        dead: why nothing can be asked any more, or None.
        sleeping: whether nobody sees to a record that is published now.
        addresses: where other programs may dial this one; empty: it talks to its node alone.
        listener: see Listener.
        wall_ns: the time of records that bring none.
        watchers: called with the time, without the lock, whenever the I/O thread looks; it looks
            again soon if one of them says so.
    """

    def __init__(
        self,
        url: str,
        identity: ClientIdentity,
        on_state: Callable[[str, str], None] | None,
        entropy: random.Random,
        guard: AbstractContextManager[Any],
    ) -> None:
        self.url = url
        self.dead: MeshError | None = None
        self.sleeping = False
        self.addresses: tuple[str, ...] = ()
        self.listener: Listener | None = None
        self.client = self._make_client(identity, entropy, guard)
        self.publisher = self.client.publisher
        self.publisher.owner = self
        self.wall_ns: Callable[[], int] = clock.wall_ns
        self.watchers: list[Callable[[int], bool]] = []
        self._on_state = on_state
        self._answers: dict[int, Answer] = {}
        self._transactions: dict[int, Answer] = {}
        self._arrived: dict[int, Callable[[Arrived], None]] = {}
        self._ended: dict[int, Callable[[MeshError], None]] = {}
        self._callbacks: deque[Callable[[], None]] = deque()
        self._failed: MeshError | None = None
        self._greeted = False
        self._closing = False

    def _make_client(
        self, identity: ClientIdentity, entropy: random.Random, guard: AbstractContextManager[Any]
    ) -> Client:
        return Client(identity, codec.encode_batch, entropy, guard, encode_jobs)

    def check_node(self, what: str) -> None:
        """Raise NodeUnreachable if ``what`` needs a node and the program does without one."""
        self.check()

    def peers(self) -> list[dict[str, Any]]:
        """Programs that this one is linked with."""
        return []

    @property
    def state(self) -> str:
        return self.client.state

    def __reduce__(self) -> NoReturn:
        # Whatever belongs to a connection leads here.
        raise TypeError(
            "a connection of meshmq cannot be pickled or copied, nor can what belongs to it: give "
            "the other process the url and connect there again"
        )

    # -- what a subclass brings ----------------------------------------------------------------

    @abstractmethod
    def run(self, work: Callable[[int], None]) -> None:
        """Do ``work(now_ns)`` on the machine, unless dead, and send what it brings about."""

    @abstractmethod
    def wait_until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for something that a turn can make true, or for the connection's end."""

    @abstractmethod
    def published(self) -> None:
        """A record was added: see that it leaves, if it would leave now."""

    def urge(self, gather: bool = False) -> None:
        """Something was settled or asked: see that it leaves, if it would leave now.

        ``gather``: the caller will have more at once; it may travel together.
        """
        self.published()

    def urge_together(self) -> None:
        """As ``urge``, by this thread; what comes behind it may wait for some ms."""
        self.urge()

    def wake(self) -> None:  # noqa: B027  (one that looks by itself needs none)
        """Have what is ready sent soon, without a lock."""

    @abstractmethod
    def close(self, timeout: float) -> None:
        """Say goodbye and end."""

    @abstractmethod
    def _transmit(self, link: bytes, envelope: Envelope) -> None: ...

    @abstractmethod
    def _close_link(self, effect: CloseLink) -> None: ...

    def _open_link(self, effect: OpenLink) -> None:
        raise AssertionError("a client of a node opens its links itself")

    def _found_node(self, address: str) -> None:
        raise AssertionError("a client of a node knows where it is")

    # -- turns ---------------------------------------------------------------------------------

    def _handle(self, event: ClientEvent, now: int) -> None:
        self._perform(self.client.handle(event, now))

    def _perform(self, effects: list[ClientEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    self._transmit(link, envelope)
                case Arrived():
                    take = self._arrived.get(effect.subscription)
                    if take is not None:
                        take(effect)
                        self._note(effect.subscription)
                case CloseLink():
                    self._close_link(effect)
                case StateChanged():
                    self._on_state_changed(effect)
                case SubscriptionAnswered(number, code, message, topics):
                    self._on_answer(number, topics, code, message)
                case CommandAnswered(number, code, message, body):
                    self._on_answer(number, body, code, message)
                case ConsumerAnswered(number, code, message):
                    self._on_answer(number, None, code, message)
                case HandedOut(number):
                    self._note(number)
                case SettlesAnswered(number, closed):
                    if self.listener is not None:
                        for held in closed:
                            self.listener.note(held)
                        self.listener.note(number)
                case CallsAnswered(calls):
                    for call in calls:
                        self._note(call)
                case RequestsCame(registrations):
                    for registration in registrations:
                        self._note(registration)
                case RequestsStopped(requests):
                    for request in requests:
                        self.tell(request.registration.owner.on_stopped, request)
                case ServiceAnswered(registration, code, message):
                    self._on_answer(registration.id, None, code, message)
                    self._note(registration)
                case OpenLink():
                    self._open_link(effect)
                case FoundNode(address):
                    self._found_node(address)
                case TransactionAnswered(number, code, message, offsets, keys, origin):
                    transaction = self._transactions.pop(number, None)
                    if transaction is not None:
                        error = from_code(code, message) if code else None
                        transaction.set((offsets, keys, origin.hex()), error)
                        self._note(transaction)

    def _note(self, what: object) -> None:
        if self.listener is not None:
            self.listener.note(what)

    def _on_answer(self, number: int, value: Any, code: str, message: str) -> None:
        answer = self._answers.pop(number, None)
        error = from_code(code, message) if code else None
        if answer is not None:
            answer.set(value, error)
            self._note(answer)
        elif error is not None:
            ended = self._ended.pop(number, None)
            self._arrived.pop(number, None)
            if ended is not None:
                ended(error)
                self._note(number)

    def _on_state_changed(self, news: StateChanged) -> None:
        state, reason, code = news.state, news.reason, news.code
        logger.log(logging.WARNING if news.is_warning else logging.INFO, "%s: %s", state, reason)
        if state == "closed" and not self._closing:
            self._die(from_code(code or "closed", reason))
        if state not in ("connecting", "reconnecting"):
            self._greeted = True
        self._note(self)
        told = self._on_state
        if told is not None:
            self.tell(told, state, reason)

    def _die(self, error: MeshError) -> None:
        if self.dead is None:
            self.dead = error
        self.publisher.buffer_bytes = self.publisher.ceiling_bytes = -1
        self._greeted = True
        for answers in (self._answers, self._transactions):
            for answer in answers.values():
                answer.set(error=self.dead)
            answers.clear()
        for ended in self._ended.values():
            ended(self.dead)
        self._ended.clear()
        if not self.publisher.is_idle:
            self.publisher.fail_all(self.dead)
        self.client.requester.fail_all(self.dead)
        self._note(self)

    def _settle(self) -> None:
        """After a turn: note what was confirmed and what failed."""
        if not self.publisher.finished:
            return
        for batch in self.publisher.take_finished():
            if batch.state == FAILED and (self._failed is None or self._failed.told):
                self._failed = batch.error
            if self.listener is not None:
                self.listener.note(batch)

    # -- telling: outside the lock -------------------------------------------------------------

    def tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call the program back once the lock is free; callbacks come one at a time, in order."""
        self._callbacks.append(partial(callback, *arguments))

    @staticmethod
    def _call_back(callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            logger.exception("a callback of the program failed")

    # -- what programs ask ---------------------------------------------------------------------

    def check(self) -> None:
        """Raise why nothing can be asked of this connection any more, if so."""
        if self.dead is not None:
            raise self.dead

    def check_use(self) -> None:
        """As ``check``, for what is no command."""
        self.check()
        if self.client.is_admin:
            raise InvalidArgument(
                "a connection with admin=True is for mesh.admin only, and no node waits for it: "
                "connect without it to publish, subscribe, work on jobs, serve or ask services"
            )

    def ask(self, verb: str, arguments: bytes) -> Answer:
        """Send an admin command; its answer is JSON."""
        answer = Answer()

        def work(now_ns: int) -> None:
            answer.number = self.client.command(verb, arguments, now_ns)
            self._answers[answer.number] = answer

        answer.undo = lambda now_ns: self._forget(answer.number)
        self.check()
        self.run(work)
        return answer

    def _forget(self, number: int) -> None:
        self._answers.pop(number, None)
        self.client.forget_command(number)

    def command(self, verb: str, arguments: bytes, timeout: float) -> bytes:
        """Run an admin command; return the JSON answer."""
        answer = self.ask(verb, arguments)
        self.wait_answer(answer, timeout, verb)
        body: bytes = answer.get()
        return body

    def wait_answer(self, answer: Answer, timeout: float, what: str) -> None:
        """Wait for an answer; undo what was asked if none comes."""
        is_there = False
        try:
            is_there = self.wait_until(lambda: answer.is_set, timeout)
        finally:
            if not is_there:
                self.run(answer.undo)
        if not is_there:
            raise self.no_answer(what, timeout)

    def no_answer(self, what: str, timeout: float) -> MeshError:
        """The error for an answer that did not come."""
        return self.dead or DeadlineExceeded(f"{what}: no answer from the node within {timeout} s")

    def open_subscription(
        self,
        opening: Callable[[int], int],
        arrived: Callable[[Arrived], None],
        ended: Callable[[MeshError], None],
    ) -> Answer:
        """Open a subscription by ``opening(now_ns)``; the answer is how many topics match."""
        answer = Answer()

        def work(now_ns: int) -> None:
            number = answer.number = opening(now_ns)
            self._answers[number] = answer
            self._arrived[number] = arrived
            self._ended[number] = ended

        answer.undo = lambda now_ns: self._unsubscribe(answer.number, now_ns)
        self.check()
        self.run(work)
        return answer

    def unsubscribe(self, number: int) -> None:
        self.run(lambda now: self._unsubscribe(number, now))

    def _unsubscribe(self, number: int, now_ns: int) -> None:
        self._answers.pop(number, None)
        self._arrived.pop(number, None)
        self._ended.pop(number, None)
        self.client.unsubscribe(number, now_ns)

    def open_consumer(
        self, wish: Consume, owner: Any, ended: Callable[[MeshError], None]
    ) -> Answer:
        """Join a group; ``owner`` gets a ``member`` at once, and the answer once it is let in."""
        answer = Answer()

        def work(now_ns: int) -> None:
            owner.member = self.client.consume(wish, owner, now_ns)
            number = answer.number = owner.member.id
            self._answers[number] = answer
            self._ended[number] = ended

        answer.undo = lambda now_ns: self._leave(answer.number, now_ns)
        self.check_use()
        self.run(work)
        return answer

    def leave(self, number: int) -> None:
        self.run(lambda now: self._leave(number, now))

    def _leave(self, number: int, now_ns: int) -> None:
        self._answers.pop(number, None)
        self._ended.pop(number, None)
        self.client.leave(number, now_ns)

    def transact(
        self, acks: Sequence[tuple[Held, int]], batches: tuple[PublishBatch, ...], payload: bytes
    ) -> Answer:
        """Send a transaction; the answer: offsets of its batches, and the keys of their topics."""
        answer = Answer()

        def work(now_ns: int) -> None:
            answer.number = self.client.transact(acks, batches, payload, now_ns)
            self._transactions[answer.number] = answer

        self.check_use()
        self.run(work)
        return answer

    def now_ns(self) -> int:
        """The time that deadlines of calls are of."""
        return clock.now_ns()

    def call(self, call: Call, waits: bool = False) -> None:
        """Send a request; ``cancel`` it if nobody waits for it any more.

        ``waits``: this thread calls ``wait_until`` next, which may send it.
        """
        self.check_use()
        self.client.requester.add(call)
        if not (waits and self._will_drive):
            self._see_to_calls()  # its deadline may be the next thing to happen

    def call_soon(self, call: Call) -> None:
        """As ``call``, from a thread that may have more to ask before it waits."""
        self.call(call)

    @property
    def _will_drive(self) -> bool:
        """Whether ``wait_until``, called now, runs turns in this very thread."""
        return False

    def _see_to_calls(self) -> None:
        if self.client.is_connected:
            self.urge()
        else:
            self.run(lambda now_ns: None)

    def cancel(self, call: Call) -> None:
        """Nobody waits for a call any more, if it is not over: now it is. On a connection that has
        ended it has that for its error, on one that lives it has none."""
        if call.is_over or isinstance(self.dead, ForkedError):
            return
        if self.dead is not None:
            self.client.requester.fail(call, self.dead)
        else:
            self.client.requester.cancel(call)
            self._see_to_calls()  # whoever reads it looks up

    def abandon(self, call: Call) -> None:
        """As ``cancel``, soon, and without a lock, for the garbage collector."""
        if not call.is_over and self.dead is None:
            self.client.requester.abandon(call)
            self.wake()

    def open_service(
        self, service: str, concurrency: int, owner: Any, ended: Callable[[MeshError], None]
    ) -> Answer:
        """Serve; ``owner`` gets a ``registration`` at once, the answer once the node knows."""
        answer = Answer()

        def work(now_ns: int) -> None:
            owner.registration = self.client.serve(service, concurrency, owner, now_ns)
            number = answer.number = owner.registration.id
            self._answers[number] = answer
            self._ended[number] = ended

        answer.undo = lambda now_ns: self._unserve(owner.registration, now_ns)
        self.check_use()
        self.run(work)
        return answer

    def unserve(self, registration: Registration) -> None:
        """Take no more requests; ``registration.is_ended`` once none comes."""
        self.run(lambda now: self._unserve(registration, now))

    def _unserve(self, registration: Registration, now_ns: int) -> None:
        self._answers.pop(registration.id, None)
        self._ended.pop(registration.id, None)
        self.client.unserve(registration, now_ns)

    @property
    def is_greeted(self) -> bool:
        """Whether the first handshake was done, or refused."""
        return self._greeted

    def deadline(self, timeout: float | None) -> float | None:
        return deadline_of(time.monotonic(), timeout)

    def left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def wait_for(self, batch: Batch, timeout: float | None) -> bool:
        """Wait until ``batch`` is settled."""
        return self.wait_until(lambda: batch.state != WAITING, timeout)

    def told(self, error: MeshError) -> None:
        """The program has heard of this failure: flush and close need not raise it. It may come
        before ``_settle``: another thread's turn is not over yet."""
        error.told = True

    def take_failure(self) -> MeshError | None:
        """The first failure of a publish since the last call."""
        failed, self._failed = self._failed, None
        return failed if failed is not None and not failed.told else None
