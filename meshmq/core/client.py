"""A client: one session at a time to a node; the producer, subscriptions and consumers over it.

States: connecting (no session yet), connected, reconnecting (had one), closed.

Rules:
1. Whatever was promised to the program outlives the session: unconfirmed batches are sent again,
   subscriptions resume, consumers claim what they hold, commands and transactions that were not
   answered are sent again (they are idempotent). A queue that was deleted is made again for jobs.
2. A refusal that waiting cannot mend (mesh, version, fenced producer) closes the client.
3. When its node is lost, or drains, it goes to another one (core/moving.py, core/leaving.py). Of
   the same site, that goes on where the first one ended; with any other log, as if it were new.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from meshmq import limits
from meshmq.core.consumer import Member, on_fenced
from meshmq.core.direct_reads import DirectReads
from meshmq.core.effects import (
    Arrived,
    CallsAnswered,
    ClientEffect,
    CloseLink,
    CommandAnswered,
    ConsumerAnswered,
    HandedOut,
    RequestsCame,
    RequestsStopped,
    ServiceAnswered,
    SettlesAnswered,
    StateChanged,
    SubscriptionAnswered,
    TransactionAnswered,
)
from meshmq.core.events import (
    BadFrameReceived,
    ClientEvent,
    FrameReceived,
    LinkClosed,
    LinkOpened,
    TimerFired,
)
from meshmq.core.held import Held
from meshmq.core.owner_links import OWNER_LINK
from meshmq.core.publisher import EncodeBatch, EncodeJobs, Publisher
from meshmq.core.requester import Requester
from meshmq.core.responder import Registration, Responder
from meshmq.core.roaming import Roaming
from meshmq.core.session import Session, SessionState
from meshmq.core.subscriber import Start, Subscriber
from meshmq.core.transaction import Transaction
from meshmq.errors import (
    ClosedError,
    GroupNotFound,
    InvalidArgument,
    LinkLost,
    MeshError,
    from_code,
)
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Body,
    Cancel,
    Command,
    Confirm,
    Consume,
    Consumed,
    Deliver,
    Drained,
    Grant,
    HandOut,
    Hello,
    Known,
    Leave,
    Owner,
    PublishBatch,
    Refuse,
    Reply,
    Request,
    Result,
    Revoke,
    Served,
    Settled,
    Streams,
    Subscribed,
    Transacted,
    Unserve,
    Unsubscribe,
    Welcome,
    Window,
)
from meshmq.names import is_named, queue_of

NOT_BY_NODES = (
    "push and pull go directly between programs, and this connection goes by its node alone "
    "(route='node'); a node has queues for that: enqueue and work"
)


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who the client says it is: see Hello, and what it wants there."""

    mesh: str
    instance: bytes
    producer: bytes
    name: str = ""
    software: str = ""
    admin: bool = False


class Client(Roaming):
    """The machine behind ``meshmq.connect``. ``moving`` knows where to find a node.

    Args:
        identity: what the hello says.
        encode: see Publisher.
        entropy: chooses session numbers and jitter.
        guard: see Publisher; consumers share it.
        encode_jobs: see Publisher.
    """

    def __init__(
        self,
        identity: ClientIdentity,
        encode: EncodeBatch,
        entropy: random.Random,
        guard: AbstractContextManager[Any] | None = None,
        encode_jobs: EncodeJobs | None = None,
    ) -> None:
        self.addresses: tuple[str, ...] = ()  # where other programs may dial this one
        super().__init__(entropy)
        self._identity = identity
        self._site = ""  # of the node that we are at
        self._guard = guard if guard is not None else nullcontext()
        self.publisher = Publisher(encode, self._guard, encode_jobs)
        self.publisher.by_name = is_named(identity.producer)
        self.requester = Requester(self._guard)
        self.responder = Responder(self._guard)
        self.subscribers: dict[int, Subscriber] = {}
        said = (identity.mesh, identity.name, identity.software)
        self.reads = DirectReads(said, lambda node: self.moving.addresses_of(node), entropy)
        self.members: dict[int, Member] = {}
        self._ranks: tuple[Member, ...] = ()  # the same, for threads that only look
        self._epoch = 0  # sessions with nodes so far
        self._making: dict[int, str] = {}  # commands that make a queue again, and which
        self._last_transaction = 0
        self._last_id = 0

    @property
    def is_admin(self) -> bool:
        """Whether it is for commands alone."""
        return self._identity.admin

    @property
    def has_node(self) -> bool:
        """Whether there is a session with a node."""
        return self.state == "connected"

    @property
    def is_connected(self) -> bool:
        """Whether what the program asks can be sent."""
        return self.has_node

    @property
    def has_link(self) -> bool:
        """Whether there is a session, or one is being opened."""
        return self._session is not None

    def is_thirsty(self, number: int) -> bool:
        """Whether somebody may soon have to wait for credit of a subscription, so that all that is
        read of it counts. A node has credit for all of the window, but for shares of others."""
        sub = self.subscribers.get(number)
        return sub is not None and sub.is_thirsty

    @property
    def has_work(self) -> bool:
        """Whether ``pump`` would send something now, or there is news to tell."""
        if not self.is_connected:
            return False
        if self.publisher.has_work or self.requester.ended:
            return True
        requester = self.requester
        has_calls = requester.has_work or requester.has_held or self.responder.has_work
        if has_calls and min(self._room()) > 0:
            return True
        return any(member.has_work for member in self._ranks)

    def _room(self) -> tuple[int, int]:
        """How many bytes and frames of requests and replies the session may take now."""
        session = self._session
        if session is None:
            return 0, 0
        return (
            limits.CALLS_UNACKED_BYTES_MAX - session.unacked_bytes,
            limits.CALLS_UNACKED_FRAMES_MAX - session.unacked_count,
        )

    # -- what the program asks for (on the owner's thread) ----------------------------------

    def subscribe(
        self, pattern: str, start: Start, window_bytes: int, window_records: int, now_ns: int,
        dedup: bool = False, own_site: bool = False,
    ) -> int:  # fmt: skip
        """Open a subscription; the answer comes as SubscriptionAnswered. Returns its number."""
        self._last_id += 1
        wish = (start, window_bytes, window_records, dedup, own_site)
        sub = Subscriber(self._last_id, pattern, *wish)
        sub.site = self._site
        self.subscribers[sub.id] = sub
        self._ask(sub.subscribe(), now_ns)
        return sub.id

    def pull(self, pattern: str, window_bytes: int, window_records: int, now_ns: int) -> int:
        """Take what other programs push; only without a node. Raises InvalidArgument."""
        raise InvalidArgument(NOT_BY_NODES)

    def unsubscribe(self, number: int, now_ns: int) -> None:
        """End a subscription; what is on its way is dropped."""
        sub = self.subscribers.pop(number, None)
        if sub is not None:
            self.reads.closed(sub, now_ns)
            self._ask(Unsubscribe(number), now_ns)

    def consumed(self, number: int, size: int, records: int, now_ns: int) -> None:
        """The program has taken so much of a subscription."""
        sub = self.subscribers.get(number)
        if sub is not None:
            sub.on_consumed(size, records)
            self._grant(sub, now_ns)

    def _grant(self, sub: Subscriber, now_ns: int) -> None:
        """Give credit to those who deliver."""
        self.reads.grant(sub, now_ns)
        self._tell_node(now_ns)

    def _tell_node(self, now_ns: int) -> None:
        """Send what is to be said of logs that are read directly."""
        while self.reads.to_node:
            bodies, self.reads.to_node = self.reads.to_node, []
            for body in bodies:
                self._send(body, now_ns)

    def command(self, verb: str, arguments: bytes, now_ns: int) -> int:
        """Send an admin command; the answer comes as CommandAnswered. Returns its number."""
        self._last_id += 1
        command = Command(self._last_id, verb, arguments)
        self._commands[command.id] = command
        self._ask(command, now_ns)
        return command.id

    def forget_command(self, number: int) -> None:
        """Stop waiting for a command's answer."""
        self._commands.pop(number, None)

    def consume(self, wish: Consume, owner: Any, now_ns: int) -> Member:
        """Join a group as ``wish`` says (but for its number); the answer is ConsumerAnswered."""
        self._last_id += 1
        member = Member(replace(wish, consumer=self._last_id), self._guard, owner)
        self.members[member.id] = member
        self._ranks = tuple(self.members.values())
        self._ask(member.consume(self.origin, self._epoch), now_ns)
        return member

    def leave(self, number: int, now_ns: int) -> None:
        """End a consumer; the node hands what it holds to others."""
        member = self.members.pop(number, None)
        if member is not None:
            self._ranks = tuple(self.members.values())
            for body in member.take():
                self._ask(body, now_ns)
            self._ask(Leave(number), now_ns)
            self._effects.append(SettlesAnswered(number, member.leave()))

    def serve(self, service: str, concurrency: int, owner: Any, now_ns: int) -> Registration:
        """Serve requests; the answer is ServiceAnswered."""
        self._last_id += 1
        registration = Registration(self._last_id, service, concurrency, owner)
        self.responder.registrations[registration.id] = registration
        self._ask(registration.serve(), now_ns)
        return registration

    def unserve(self, registration: Registration, now_ns: int) -> None:
        """Take no more requests; those that are begun may still be answered, the others go to
        other instances. Once the node knows,
        ServiceAnswered tells that nothing more comes; at once where there is no session."""
        if registration.is_ended or registration.is_leaving:
            return
        registration.is_leaving = True
        self.responder.give_back(registration)
        if self.is_connected:
            self._ask(Unserve(registration.id), now_ns)
        else:
            self._on_served(Served(registration.id, ended=True))

    def transact(
        self,
        acks: Sequence[tuple[Held, int]],
        batches: tuple[PublishBatch, ...],
        payload: bytes,
        now_ns: int,
    ) -> int:
        """Publish batches and ack records (hand-out and index), all or nothing.

        The answer comes as TransactionAnswered. It must come before the next one is sent: a node
        remembers a program's last one only. Returns its number.
        """
        self._last_transaction += 1
        origin = acks[0][0].origin if acks else self.origin
        transaction = Transaction(self._last_transaction, tuple(acks), batches, payload, origin)
        self._transactions[transaction.id] = transaction
        if origin == self.origin or transaction.is_ready:
            self._ask(transaction.frame(self.origin), now_ns)
        return transaction.id

    def close(self, now_ns: int) -> None:
        """Say goodbye; what the node has and has not answered fails with ClosedError's cousin,
        LinkLost."""
        if self.state == "closed":
            return
        self.reads.goodbye(now_ns)
        self._effects += self.reads.take_effects(now_ns)
        if self._session is not None:
            self._session.say_goodbye(now_ns)
            self._flush_outbox()
            self._effects.append(CloseLink(self._link))
        unconfirmed = LinkLost("the client was closed before the node confirmed")
        self._end(unconfirmed, "closed here", "", ClosedError("the connection is closed"))

    def pump(self, now_ns: int) -> None:
        """Send what producer and consumers have ready: once the events at hand are handled."""
        if self.is_connected:
            self._tell_stored(now_ns)
            for body in self.publisher.take(self.origin):
                self._send(body, now_ns)
            for member in self.members.values():
                for settle in member.take():
                    self._send(settle, now_ns)
            if self.responder.has_work:
                for answered in self.responder.take(*self._room()):
                    self._send(answered, now_ns)
            if self.requester.has_work or self.requester.has_held:
                for asked in self.requester.take(now_ns, *self._room()):
                    self._send(asked, now_ns)
            self._go_if_time(now_ns)

    def _tell_stored(self, now_ns: int) -> None:
        """Before the node gets more that the program has numbered: what is stored of it."""
        untold = self.publisher.take_untold() if self.publisher.untold else []
        for i in range(0, len(untold), limits.PRODUCER_TOLD_MAX):
            rows = [
                (lane.topic, lane.stored, lane.topic_id.hex())
                for lane in untold[i : i + limits.PRODUCER_TOLD_MAX]
            ]
            self._send(Command(0, "producer.known", json.dumps({"topics": rows}).encode()), now_ns)

    # -- events -----------------------------------------------------------------------------

    def handle(self, event: ClientEvent, now_ns: int) -> list[ClientEffect]:
        """Take one event; return what to do. Never raises for what a peer sends."""
        self._take(event, now_ns)
        return self.take_effects(now_ns)

    def _take(self, event: ClientEvent, now_ns: int) -> None:
        match event:
            case FrameReceived(link, envelope) if link.startswith(OWNER_LINK):
                came = self.reads.on_frame(link, envelope, now_ns)
                if came is not None:
                    self._on_deliver(came, now_ns)
            case LinkClosed(link) | BadFrameReceived(link) if link.startswith(OWNER_LINK):
                self.reads.on_failed(link, now_ns)
            case FrameReceived(link, envelope):
                session = self._session
                if session is not None and link == self._link:
                    body = session.receive(envelope, now_ns)
                    self._on_heard(session)
                    if body is not None:
                        self._on_body(body, now_ns)
            case LinkOpened(link):
                self._on_link_opened(link, now_ns)
            case LinkClosed(link, reason):
                if link == self._link and self._session is not None:
                    self._lose(reason, "link-lost", now_ns)
            case BadFrameReceived(link, reason):
                if link == self._link and self._session is not None:
                    self._lose(f"the node sent a bad frame: {reason}", "bad-frame", now_ns)
            case TimerFired():
                self._tick(now_ns)

    def _on_heard(self, session: Session) -> None:
        """A frame of the node came, and may have acknowledged what was sent."""

    def _tick(self, now_ns: int) -> None:
        way = self.publisher.node
        if 0 < way.paused_until_ns <= now_ns:
            way.paused_until_ns = 0
        self._tick_session(now_ns)
        self.reads.tick(now_ns)
        for member in self.members.values():
            closed = member.tick(now_ns)
            if closed:
                self._effects.append(SettlesAnswered(member.id, closed))
        self.requester.tick(now_ns, self.has_node)
        self.responder.tick(now_ns)

    def take_effects(self, now_ns: int) -> list[ClientEffect]:
        """Effects of calls since the last time, sends included."""
        if self.state == "closed":
            self.reads.goodbye(now_ns)
        self._effects += self.reads.take_effects(now_ns)
        self._tell_node(now_ns)
        session = self._session
        if session is not None:
            self._flush_outbox()
            if session.state is SessionState.CLOSED and session is self._session:
                self._lose(session.closed_reason, session.closed_code, now_ns)
        return self._taken()

    def _taken(self) -> list[ClientEffect]:
        """The effects, with what is new of requests."""
        if self.requester.ended:
            self._effects.append(CallsAnswered(tuple(self.requester.take_news())))
        if self.responder.came:
            self._effects.append(RequestsCame(tuple(self.responder.take_came())))
        if self.responder.stopped:
            self._effects.append(RequestsStopped(tuple(self.responder.take_stopped())))
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_ns(self) -> int | None:
        """When TimerFired is due, or None."""
        due = [self.requester.next_deadline_ns(), self.reads.next_deadline_ns()]
        if self._session is None:
            return min([at for at in due if at is not None], default=None)
        due += [*self._session_due(), self.responder.next_deadline_ns()]
        due += [member.next_deadline_ns() for member in self._ranks]
        due.append(self.publisher.node.paused_until_ns or None)
        return min(at for at in due if at is not None)

    def _on_link_opened(self, link: bytes, now_ns: int) -> None:
        if self.state == "closed":
            return
        me = self._identity
        self._link = link
        number = self._entropy.getrandbits(63) + 1
        hello = Hello(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, me.mesh, me.instance, me.producer, me.name, me.software,
            addresses=self.addresses, admin=me.admin,
        )  # fmt: skip
        self._session = Session(number, hello, now_ns)
        self._greeted_by_ns = now_ns + self.moving.greeting_ns()

    def _on_body(self, body: Body, now_ns: int) -> None:
        match body:
            case Confirm(confirmations):
                for c in confirmations:
                    self.publisher.on_confirmation(c, self.origin)
                if self.publisher.missing:
                    missing, self.publisher.missing = self.publisher.missing, []
                    self._make_queues(missing, now_ns)
            case Deliver():
                self._on_deliver(body, now_ns)
            case HandOut() | Settled() | Revoke() | Consumed() | Owner():
                self._on_member(body, now_ns)
            case Window(in_flight, pause):
                way = self.publisher.node
                way.window_bytes = _window(in_flight)
                if pause:
                    most = now_ns + min(pause, limits.SECOND)
                    way.paused_until_ns = max(way.paused_until_ns, most)
            case Welcome():
                self._on_welcome(body, now_ns)
            case Subscribed():
                self._on_subscribed(body, now_ns)
            case Streams(number) if number in self.subscribers:
                news = self.subscribers[number].on_streams(body)
                self._effects += [StateChanged(self.state, what) for what in news]
                self.reads.on_streams(number, body, now_ns)
            case Result(number, code, message, result):
                if self._commands.pop(number, None) is None:
                    pass
                elif number in self._making:
                    queue = self._making.pop(number)
                    self._on_queue(queue, from_code(code, message) if code else None, now_ns)
                else:
                    self._effects.append(CommandAnswered(number, code, message, result))
            case Transacted():
                self._on_transacted(body, now_ns)
            case Reply():
                self.requester.on_reply(body)
            case Request():
                self.responder.on_request(body, now_ns)
            case Cancel():
                self.responder.on_cancel(body)
            case Grant():
                self.responder.on_grant(body)
            case Served():
                if not self._leaving.takes(body):
                    self._on_served(body)
            case Known(peers):
                self.moving.on_known(peers)
            case Drained(peers):
                self._on_drained(peers, now_ns)
            case Refuse():  # it has closed the session
                self._on_refused(body)
            case _:
                pass  # Anything else is not for a client.

    def _on_welcome(self, welcome: Welcome, now_ns: int) -> None:
        self._epoch += 1
        changed, before = self._come(welcome)
        self.reads.attach(welcome.origin, welcome.minor, now_ns)
        publisher = self.publisher
        publisher.node.window_bytes = _window(welcome.in_flight_bytes)
        publisher.node.paused_until_ns = 0
        publisher.on_origin(welcome.origin, now_ns - self._lost_ns, before)
        self.state = "connected"
        reason = f"connected to node {welcome.name or '?'}"
        if before is not None:
            reason += f", from {before}"
        elif changed:
            reason += "; its log is another one than before"
        self._effects.append(StateChanged("connected", reason))
        self._site = welcome.site
        for sub in self.subscribers.values():
            sub.site = self._site
            self._send(sub.subscribe(), now_ns)
        for member in self.members.values():
            self._send(member.consume(self.origin, self._epoch), now_ns)
        # Behind the consumers: a transaction's acks are of what they have claimed. Those of other
        # owners' records wait until these have let the consumers in.
        self._send_transactions(lambda t: t.origin == self.origin or not t.acks, now_ns)
        for command in self._commands.values():
            self._send(command, now_ns)
        for registration in self.responder.registrations.values():
            self._send(registration.serve(), now_ns)

    def _on_served(self, frame: Served) -> None:
        registration = self.responder.registrations.get(frame.registration)
        if registration is None:
            return
        if frame.ended and not (frame.code or registration.is_leaving):
            why = "the node has ended it without being asked"
            frame = Served(registration.id, LinkLost.code, why, ended=True)
        registration.is_serving = not (frame.code or frame.ended)
        if not registration.is_serving:
            del self.responder.registrations[registration.id]
            registration.is_ended = True
            if frame.code:
                registration.error = from_code(frame.code, frame.message)
        self._effects.append(ServiceAnswered(registration, frame.code, frame.message))

    def _on_deliver(self, frame: Deliver, now_ns: int) -> None:
        sub = self.subscribers.get(frame.subscription)
        if sub is None:
            return
        before = sub.missed
        arrivals = sub.on_deliver(frame)
        if arrivals or sub.missed != before:
            self._effects.append(Arrived(sub.id, tuple(arrivals), sub.missed, sub.damaged))
        self._delivered(sub, frame, now_ns)

    def _delivered(self, sub: Subscriber, frame: Deliver, now_ns: int) -> None:
        """What came is noted."""
        if frame.batches and frame.batches[0].origin:
            self.reads.on_home(sub, frame, now_ns)
        self._grant(sub, now_ns)

    def _send_transactions(self, which: Callable[[Transaction], bool], now_ns: int) -> None:
        for transaction in self._transactions.values():
            if which(transaction):
                self._send(transaction.frame(self.origin), now_ns)

    def _on_member(self, body: HandOut | Settled | Revoke | Consumed | Owner, now_ns: int) -> None:
        member = self.members.get(body.consumer)
        if member is None:
            return  # it has left, and what is on its way is taken back by that
        number = member.id
        closed: tuple[Held, ...] = ()
        match body:
            case HandOut():
                member.on_hand_out(body, body.origin or self.origin, now_ns)
            case Settled():
                closed = member.on_settled(body)
            case Revoke():
                closed = member.on_revoke(body)
            case Owner():
                if body.here:
                    self._send(member.consume_of(body), now_ns)
                elif body.origin == self.origin:
                    self._effects += on_fenced(body, member, self.members.values(), self.state)
                else:
                    member.on_owner_away(body, now_ns)
            case Consumed():
                closed = member.on_consumed(body, now_ns)
                if body.origin:
                    where = body.origin
                    self._send_transactions(lambda t: bool(t.acks) and t.origin == where, now_ns)
                elif body.code:
                    del self.members[number]
                    self._ranks = tuple(self.members.values())
                if not body.origin:
                    self._effects.append(ConsumerAnswered(number, body.code, body.message))
        if closed:
            self._effects.append(SettlesAnswered(number, closed))
        if member.is_ready:
            self._effects.append(HandedOut(number))

    def _make_queues(self, queues: Iterable[str], now_ns: int) -> None:
        """Somebody deleted these queues, and there are jobs for them: they are made on use."""
        for queue in queues:
            if queue not in self._making.values():
                wish = json.dumps({"group": queue, "kind": "queue"}).encode()
                self._making[self.command("group.create", wish, now_ns)] = queue

    def _on_queue(self, queue: str, error: MeshError | None, now_ns: int) -> None:
        """A queue is there again, or cannot be: so are the jobs that waited for it."""
        self.publisher.on_queue(queue, error)
        for number, wanted in list(self._wanting.items()):
            if queue not in wanted:
                continue
            wanted.discard(queue)
            if error is None and wanted:
                continue
            del self._wanting[number]
            if error is None:
                self._send(self._transactions[number].frame(self.origin), now_ns)
            else:
                del self._transactions[number]
                self._effects.append(TransactionAnswered(number, error.code, str(error), ()))

    def _on_transacted(self, answer: Transacted, now_ns: int) -> None:
        transaction = self._transactions.get(answer.id)
        if transaction is None:
            return
        if answer.code == GroupNotFound.code:
            # Nothing was done: the same is said again once its queues are there.
            queues = {queue_of(b.topic) or b.topic for b in transaction.batches if b.job}
            if queues:
                self._wanting[answer.id] = queues
                self._make_queues(sorted(queues), now_ns)
                return
        self._wanting.pop(answer.id, None)
        del self._transactions[answer.id]
        if not answer.code:
            for held, index in transaction.acks:
                held.member.close(held, index)
        self._effects.append(
            TransactionAnswered(
                answer.id,
                answer.code,
                answer.message,
                answer.offsets,
                answer.topic_keys,
                answer.origin or self.origin,
            )
        )

    def _on_subscribed(self, frame: Subscribed, now_ns: int) -> None:
        sub = self.subscribers.get(frame.subscription)
        if sub is None:
            return
        if frame.code:
            del self.subscribers[sub.id]
            self.reads.closed(sub, now_ns)
        else:
            sub.on_subscribed(frame)
            self._grant(sub, now_ns)  # what the program consumed while the answer was on its way
        self._effects.append(SubscriptionAnswered(sub.id, frame.code, frame.message, frame.topics))

    def _ask(self, body: Body, now_ns: int) -> None:
        """Send what the program asks for."""
        self._send(body, now_ns)

    def _on_session_lost(self, now_ns: int) -> None:
        super()._on_session_lost(now_ns)
        self.reads.detach()
        for sub in self.subscribers.values():
            sub.is_active = False
        self._drop_requests(now_ns)

    def _drop_requests(self, now_ns: int) -> None:
        """The requests that the node had handed out are its no more."""
        self.responder.on_session_lost()
        for registration in list(self.responder.registrations.values()):
            if registration.is_leaving:
                self._on_served(Served(registration.id, ended=True))


def _window(in_flight_bytes: int) -> int:
    """What a node may ask for, within our own bounds."""
    return min(limits.PRODUCER_IN_FLIGHT_BYTES_MAX, max(1, in_flight_bytes))
