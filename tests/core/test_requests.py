"""The client's two sides of requests: asking and answering, over any number of sessions."""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest

from meshmq import codec, limits
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import (
    CallsAnswered,
    CloseLink,
    RequestsStopped,
    Send,
    ServiceAnswered,
    StateChanged,
)
from meshmq.core.events import FrameReceived, LinkOpened, TimerFired
from meshmq.core.requester import Call, Requester
from meshmq.core.responder import Registration, Responder
from meshmq.core.rows import request_bytes
from meshmq.core.session import Session
from meshmq.errors import (
    NOT_DONE,
    UNKNOWN,
    ClosedError,
    DeadlineExceeded,
    InstanceLost,
    LinkLost,
    MeshError,
    NodeUnreachable,
    NoResponders,
    ServiceError,
)
from meshmq.frames import (
    EACH,
    ONE,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    RETURNED,
    STREAM,
    Cancel,
    Envelope,
    Grant,
    Nothing,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
    Served,
    Welcome,
)
from meshmq.limits import SECOND

# -- asking ---------------------------------------------------------------------------------------


@pytest.fixture
def asking():
    return Requester(nullcontext())


def ask(asking, value=b"v", kind=ONE, idempotent=False, deadline_ns=SECOND, window=0):
    call = Call("s", value, b"", kind, idempotent, deadline_ns, window)
    asking.add(call)
    return call


def reply(asking, number, value=b"r", **more):
    given = {"has_value": True, "end": True, "length": len(value), **more}
    asking.on_reply(Reply((ReplyRow(number, **given),), value))


def values(call):
    return [data for _, data in call.replies]


def test_what_is_asked_in_a_turn_goes_in_one_frame(asking):
    assert not asking.has_work
    first, second = ask(asking, b"ab"), ask(asking, b"c", idempotent=True)
    assert asking.has_work
    (frame,) = asking.take(SECOND // 4)
    assert frame.payload == b"abc"
    assert [(r.id, r.remaining_ns, r.idempotent, r.length) for r in frame.rows] == [
        (first.id, SECOND * 3 // 4, False, 2), (second.id, SECOND * 3 // 4, True, 1)
    ]  # fmt: skip
    assert not asking.has_work


def test_large_ones_go_in_frames_of_their_own(asking):
    for _ in range(3):
        ask(asking, bytes(limits.VALUE_BYTES_MAX))
    assert [len(f.rows) for f in asking.take(0)] == [1, 1, 1]
    for _ in range(limits.FRAME_BATCHES_MAX + 1):
        ask(asking, b"")
    assert [len(f.rows) for f in asking.take(0)] == [limits.FRAME_BATCHES_MAX, 1]


def test_a_reply_ends_its_call_and_no_other(asking):
    first, second = ask(asking), ask(asking)
    asking.take(0)
    reply(asking, second.id)
    assert (first.is_over, second.is_over, values(second)) == (False, True, [b"r"])
    assert asking.take_news() == [second]
    reply(asking, second.id, b"again")
    assert values(second) == [b"r"]


def test_an_empty_reply_of_no_value_is_a_reply(asking):
    call = ask(asking)
    asking.take(0)
    reply(asking, call.id, b"", has_value=False, instance="a")
    assert (call.is_over, call.error, values(call)) == (True, None, [b""])


@pytest.mark.parametrize(
    ("code", "kind", "outcome"),
    [("no-responders", NoResponders, NOT_DONE), ("instance-lost", InstanceLost, UNKNOWN)],
)
def test_an_error_of_the_node_ends_it(asking, code, kind, outcome):
    call = ask(asking)
    asking.take(0)
    reply(asking, call.id, b"", has_value=False, code=code, message="told so")
    assert type(call.error) is kind
    assert (str(call.error), call.error.outcome) == ("told so", outcome)


def test_a_service_s_own_error_has_its_code(asking):
    call = ask(asking)
    asking.take(0)
    reply(
        asking, call.id, b"", has_value=False, code="service-error", detail="not-found",
        message="no such price",
    )  # fmt: skip
    assert isinstance(call.error, ServiceError)
    assert (call.error.code, str(call.error)) == ("not-found", "no such price")


def test_the_deadline_is_kept_here_and_the_node_told(asking):
    call = ask(asking)
    asking.take(0)
    assert asking.next_deadline_ns() == SECOND
    asking.tick(SECOND - 1)
    assert not call.is_over
    asking.tick(SECOND)
    assert isinstance(call.error, DeadlineExceeded)
    assert asking.take(SECOND) == [Cancel((call.id,))]


def test_what_was_never_sent_was_certainly_not_done(asking):
    call = ask(asking)
    asking.tick(SECOND)
    assert isinstance(call.error, NodeUnreachable)
    assert call.error.outcome == NOT_DONE
    assert "no node was there" in str(call.error)
    hurried = ask(asking, deadline_ns=2 * SECOND)
    assert asking.take(2 * SECOND) == []
    asking.tick(2 * SECOND, is_connected=True)
    assert isinstance(hurried.error, NodeUnreachable)
    assert "no time to send" in str(hurried.error)


def test_a_lost_session_ends_what_was_sent_and_is_not_idempotent(asking):
    once, again = ask(asking), ask(asking, b"again", idempotent=True)
    asking.take(0)
    unsent = ask(asking, b"unsent")
    asking.on_session_lost()
    assert isinstance(once.error, LinkLost)
    (frame,) = asking.take(0)
    assert [row.id for row in frame.rows] == [again.id, unsent.id]
    reply(asking, again.id)
    assert values(again) == [b"r"]


@pytest.mark.parametrize("how", ["deadline", "no-responders", "busy"])
def test_what_was_sent_once_is_never_said_to_be_not_done(asking, how):
    call = ask(asking, idempotent=True)
    asking.take(0)
    asking.on_session_lost()
    if how == "deadline":
        asking.tick(SECOND)
    else:
        asking.take(0)
        reply(asking, call.id, b"", has_value=False, code=how)
    assert call.error.outcome == UNKNOWN


def test_a_stream_that_has_begun_is_not_asked_again(asking):
    call = ask(asking, kind=STREAM, idempotent=True, window=8)
    asking.take(0)
    reply(asking, call.id, b"a", end=False)
    asking.on_session_lost()
    assert isinstance(call.error, LinkLost)
    assert values(call) == [b"a"]
    assert asking.take(0) == []


def test_who_no_longer_waits_tells_the_node_if_it_knows(asking):
    sent = ask(asking)
    asking.take(0)
    unsent = ask(asking)
    asking.cancel(sent)
    asking.cancel(unsent)
    asking.cancel(unsent)
    assert asking.take_news() == [sent, unsent]  # who reads it is to look up
    assert (sent.is_over, sent.error) == (True, None)
    assert asking.take(0) == [Cancel((sent.id,))]
    left = ask(asking)
    asking.take(0)
    assert not asking.has_work
    asking.abandon(left)
    assert asking.has_work
    assert asking.take(0) == [Cancel((left.id,))]
    assert asking.calls == {}


def test_many_cancels_travel_together(asking):
    calls = [ask(asking) for _ in range(limits.FRAME_BATCHES_MAX + 1)]
    asking.take(0)
    for call in calls:
        asking.cancel(call)
    assert [len(frame.ids) for frame in asking.take(0)] == [limits.FRAME_BATCHES_MAX, 1]


def test_what_a_session_takes_no_more_of_waits(asking):
    for _ in range(4):
        ask(asking, b"12345")
    assert asking.take(0, 0) == asking.take(0, 10, 0) == asking.take(0, -5, -5) == []
    assert asking.has_held
    assert [frame.payload for frame in asking.take(0, 6)] == [b"1234512345"]
    assert [len(frame.rows) for frame in asking.take(0, most_frames=1)] == [1]
    assert [len(frame.rows) for frame in asking.take(0)] == [1]


def test_headers_and_names_count_for_frames_too(asking):
    for _ in range(100):
        call = Call("s" * 255, b"", bytes(limits.HEADER_BYTES_MAX), ONE, False, SECOND)
        asking.add(call)
    for frame in asking.take(0):
        assert sum(request_bytes((row, b"")) for row in frame.rows) <= 256 * limits.KIB


def test_an_idempotent_request_is_asked_in_so_many_sessions(asking):
    call = ask(asking, idempotent=True)
    for _ in range(limits.REQUEST_ATTEMPTS_MAX):
        assert len(asking.take(0)) == 1
        assert not call.is_over
        asking.on_session_lost()
        asking.on_session_lost()  # before it was sent again: that is none
    assert isinstance(call.error, LinkLost)
    assert f"{limits.REQUEST_ATTEMPTS_MAX} links" in str(call.error)
    assert asking.take(0) == []


def test_what_is_cancelled_without_a_link_is_forgotten(asking):
    for _ in range(5000):
        asking.cancel(ask(asking))
    assert len(asking._unsent) < 2000


def test_half_a_window_taken_is_granted_again(asking):
    each = limits.RECORD_OVERHEAD_BYTES
    call = ask(asking, kind=STREAM, window=4 * each)
    asking.take(0)
    asking.taken(call, each - 1)
    assert not asking.has_work
    asking.taken(call, 0)
    assert asking.take(0) == [Grant(call.id, 3 * each - 1)]
    asking.taken(call, each)
    asking.taken(call, each)
    assert asking.take(0, most_frames=0) == []
    asking.taken(call, each)
    assert asking.take(0) == [Grant(call.id, 6 * each)]
    reply(asking, call.id, b"", has_value=False)
    asking.taken(call, 8 * each)
    assert asking.take(0) == []
    assert call.is_over
    assert call.error is None


def test_of_each_errors_are_replies_and_the_end_is_the_end(asking):
    call = ask(asking, kind=EACH)
    asking.take(0)
    reply(asking, call.id, b"1", end=False, instance="a")
    reply(
        asking, call.id, b"", has_value=False, end=False, code="instance-lost", instance="b"
    )  # fmt: skip
    assert not call.is_over
    reply(asking, call.id, b"", has_value=False)
    assert (call.is_over, call.error) == (True, None)
    assert [(row.instance, row.code) for row, _ in call.replies] == [
        ("a", ""), ("b", "instance-lost")
    ]  # fmt: skip


def test_of_each_an_instance_without_a_name_is_told_too(asking):
    call = ask(asking, kind=EACH)
    asking.take(0)
    reply(asking, call.id, b"", has_value=False, end=False, code="instance-lost")
    reply(asking, call.id, b"", has_value=False)
    assert [row.code for row, _ in call.replies] == ["instance-lost"]


def test_of_each_nobody_is_an_error(asking):
    call = ask(asking, kind=EACH)
    asking.take(0)
    reply(asking, call.id, b"", has_value=False, code="no-responders")
    assert isinstance(call.error, NoResponders)


def test_the_end_of_the_connection_ends_all_also_what_is_asked_later(asking):
    sent, lost = ask(asking), ask(asking, idempotent=True)
    asking.take(0)
    asking.on_session_lost()
    asking.take_news()
    assert isinstance(sent.error, LinkLost)
    unsent = ask(asking)
    asking.fail_all(ClosedError("closed"))
    asking.fail_all(MeshError("another"))
    later = ask(asking)
    assert asking.take_news() == [lost, unsent, later]
    for call in (unsent, later):
        assert (type(call.error), str(call.error)) == (ClosedError, "closed")
    assert (type(lost.error), lost.error.outcome) == (LinkLost, UNKNOWN)
    assert "closed; 's' had not answered" in str(lost.error)
    assert asking.calls == {}
    assert asking.take(0) == []
    assert asking.next_deadline_ns() is None


def test_a_call_that_outlives_its_connection_is_failed_alone(asking):
    sent, unsent = ask(asking), None
    asking.take(0)
    unsent = ask(asking)
    for call in (sent, unsent):
        asking.fail(call, ClosedError("closed"))
        asking.fail(call, MeshError("another"))
    assert (type(sent.error), type(unsent.error)) == (LinkLost, ClosedError)


def test_a_deadline_of_what_is_over_wakes_nobody(asking):
    over, open_ = ask(asking), ask(asking, deadline_ns=2 * SECOND)
    asking.take(0)
    reply(asking, over.id)
    assert asking.next_deadline_ns() == 2 * SECOND
    reply(asking, open_.id)
    assert asking.next_deadline_ns() is None


def test_deadlines_of_calls_that_are_over_are_forgotten(asking):
    for _ in range(5000):
        call = ask(asking, deadline_ns=3600 * SECOND)
        asking.take(0)
        reply(asking, call.id)
    assert len(asking._deadlines) < 2000


# -- answering --------------------------------------------------------------------------------


@pytest.fixture
def answering():
    return made()


def made():
    responder = Responder(nullcontext())
    responder.registrations[1] = Registration(1, "s", 2, None)
    return responder


def come(answering, number, value=b"v", registration=1, remaining_ns=SECOND, kind=ONE, window=0):
    row = RequestRow(
        number, registration, "", remaining_ns, kind, False, window, b"", len(value)
    )  # fmt: skip
    answering.on_request(Request((row,), value), 0)
    return answering.registrations.get(registration)


def rows(answering):
    return [row for frame in answering.take() for row in frame.rows]


def test_a_request_is_begun_and_answered_once(answering):
    registration = come(answering, 7, b"q")
    assert answering.take_came() == {registration}
    request = answering.begin(registration)
    assert (request.data, request.deadline_ns) == (b"q", SECOND)
    assert answering.begin(registration) is None
    answering.reply(request, b"a", True)
    answering.reply(request, b"b", True)
    answering.finish(request)
    assert rows(answering) == [ReplyRow(7, True, True, length=1)]
    assert registration.held == {}


def test_what_is_cancelled_before_it_begins_is_never_shown_but_answered(answering):
    registration = come(answering, 7)
    answering.on_cancel(Cancel((7, 8)))
    assert answering.take_stopped() == []
    assert answering.begin(registration) is None
    assert rows(answering) == [ReplyRow(7, False, True)]


def test_who_works_on_what_is_cancelled_is_told(answering):
    registration = come(answering, 7)
    request = answering.begin(registration)
    answering.on_cancel(Cancel((7,)))
    answering.on_cancel(Cancel((7,)))
    assert answering.take_stopped() == [request]
    assert request.cancelled == "cancelled"
    answering.reply(request, b"", True)
    assert [row.id for row in rows(answering)] == [7]  # its place is free by that


def test_its_deadline_stops_it(answering):
    registration = come(answering, 7)
    request = answering.begin(registration)
    assert answering.next_deadline_ns() == SECOND
    answering.tick(SECOND - 1)
    assert not request.cancelled
    answering.tick(SECOND)
    assert request.cancelled == "deadline"
    late = come(answering, 8)
    answering.tick(2 * SECOND)
    assert answering.begin(late) is None
    assert [(row.id, row.code) for row in rows(answering)] == [(8, "deadline-exceeded")]


def test_a_lost_session_takes_its_requests_and_their_replies(answering):
    registration = come(answering, 7)
    come(answering, 8)
    request = answering.begin(registration)
    answering.on_session_lost()
    assert answering.take_stopped() == [request]
    assert answering.begin(registration) is None
    come(answering, 7, b"of the next session")
    answering.reply(request, b"old", True)
    assert rows(answering) == []
    again = answering.begin(registration)
    answering.reply(again, b"new", True)
    assert [row.id for row in rows(answering)] == [7]


def test_what_is_not_begun_is_given_back(answering):
    registration = come(answering, 7)
    come(answering, 8)
    request = answering.begin(registration)
    answering.give_back(registration)
    assert rows(answering) == [ReplyRow(8, False, True, RETURNED)]
    assert answering.begin(registration) is None
    registration.is_leaving = True
    come(answering, 9)
    come(answering, 10, registration=99)
    assert [(row.id, row.code) for row in rows(answering)] == [(9, RETURNED), (10, RETURNED)]
    answering.reply(request, b"a", True)
    assert [row.id for row in rows(answering)] == [7]


def test_errors_travel_with_code_and_text_cut_to_the_limit(answering):
    registration = come(answering, 7)
    answering.finish(answering.begin(registration), ServiceError("x" * 9999, "c" * 300))
    come(answering, 8)
    answering.finish(answering.begin(registration), InstanceLost("gone"))
    own, other = rows(answering)
    assert (own.code, len(own.detail), len(own.message)) == (
        "service-error", 255, limits.SERVICE_TEXT_MAX
    )  # fmt: skip
    assert (other.code, other.detail, other.message) == ("instance-lost", "", "gone")


def test_a_stream_counts_its_window(answering):
    each = limits.RECORD_OVERHEAD_BYTES
    registration = come(answering, 7, kind=STREAM, window=each + 4)
    request = answering.begin(registration)
    answering.reply(request, b"abc", False)
    assert request.window == 1
    answering.reply(request, b"", False)
    assert request.window == 1 - each
    answering.take_came()
    answering.on_grant(Grant(7, each + 1))
    answering.on_grant(Grant(99, 4))
    assert (request.window, answering.take_came()) == (2, {registration})
    answering.on_grant(Grant(7, 1 << 63))
    assert request.window == limits.STREAM_WINDOW_BYTES_MAX
    answering.finish(request)
    assert [(row.length, row.end) for row in rows(answering)] == [
        (3, False), (0, False), (0, True)
    ]  # fmt: skip


def test_replies_wait_too_for_what_a_session_takes(answering):
    answering.registrations[1].concurrency = 4
    for number in range(4):
        registration = come(answering, number)
        answering.reply(answering.begin(registration), b"12345", True)
    assert answering.take(0) == answering.take(10, 0) == []
    assert [len(frame.rows) for frame in answering.take(6)] == [2]
    assert [len(frame.rows) for frame in answering.take(most_frames=1)] == [1]
    assert answering.has_work
    assert [len(frame.rows) for frame in answering.take()] == [1]


def test_more_than_it_has_room_for_and_the_same_again_are_not_shown(answering):
    for number in (7, 8, 9):
        registration = come(answering, number)
    come(answering, 7)
    assert len(registration.queue) == 2
    assert [(row.id, row.code) for row in rows(answering)] == [(9, "busy")]
    answering.reply(answering.begin(registration), b"", True)
    assert [row.id for row in rows(answering)] == [7]
    come(answering, 10)
    assert [request.id for request in registration.queue] == [8, 10]


def test_of_a_cancelled_stream_nothing_more_is_sent(answering):
    registration = come(answering, 7, kind=STREAM, window=4)
    request = answering.begin(registration)
    answering.on_cancel(Cancel((7,)))
    answering.reply(request, b"abc", False)
    answering.finish(request)
    assert rows(answering) == [ReplyRow(7, False, True)]


def test_deadlines_of_requests_that_are_over_are_forgotten_here_too(answering):
    for number in range(5000):
        registration = come(answering, number, remaining_ns=3600 * SECOND)
        answering.reply(answering.begin(registration), b"", True)
        answering.take()
    assert len(answering._deadlines) < 2000


# -- in a client ------------------------------------------------------------------------------


class Linked:
    """A client and the session of its node, that takes frames when it is told to.

    Attributes:
        effects: what the client wanted and nobody has taken.
    """

    def __init__(self):
        identity = ClientIdentity("local", b"i" * 16, b"p" * 16, "test")
        self.client = Client(identity, codec.encode_batch, random.Random(1))
        self.effects = []
        self.sent = []
        self.do(LinkOpened(b"l"))
        hello = self.sent.pop()
        welcome = Welcome(PROTOCOL_MAJOR, PROTOCOL_MINOR, b"o" * 16, "node", "test", 1 << 23)
        self.far = Session(hello.session, welcome, 0)
        self.say()

    def do(self, event):
        self.take(self.client.handle(event, 0))

    def take(self, effects):
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append(effect.envelope)
            else:
                self.effects.append(effect)

    def pump(self):
        self.client.pump(0)
        self.take(self.client.take_effects(0))

    def receive(self):
        """The node takes what was sent, and acknowledges it."""
        sent, self.sent = self.sent, []
        found = [self.far.receive(envelope, 0) for envelope in sent]
        self.say(Nothing())
        return [body for body in found if body is not None]

    def say(self, *bodies):
        for body in bodies:
            if isinstance(body, Nothing):
                self.far.outbox.append(Envelope(self.far.id, 0, self.far.received, body))
            else:
                self.far.send(body, 0)
        outbox, self.far.outbox = self.far.outbox, []
        for envelope in outbox:
            self.do(FrameReceived(b"l", envelope))

    def of(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]


@pytest.fixture
def linked():
    return Linked()


def test_a_session_outlives_any_number_of_bytes_asked_at_once(linked):
    requester = linked.client.requester
    for _ in range(100):
        ask(requester, bytes(limits.MIB), idempotent=True)
    linked.pump()
    asked = []
    while linked.client.requester.has_held:
        assert not linked.client.has_work  # nothing to do before an ack comes
        assert linked.client._session.unacked_bytes <= limits.CALLS_UNACKED_BYTES_MAX + limits.MIB
        asked += linked.receive()
        assert linked.client.has_work
        linked.pump()
    asked += linked.receive()
    assert sum(len(frame.rows) for frame in asked) == 100
    assert linked.of(CloseLink) == []


def test_a_session_outlives_any_number_of_replies_that_nobody_acknowledges(linked):
    registration = linked.client.serve("s", 1, None, 0)
    linked.say(Served(registration.id))
    window = limits.STREAM_WINDOW_BYTES
    row = RequestRow(7, registration.id, "", SECOND, STREAM, False, window, b"", 0)
    linked.say(Request((row,), b""))
    responder = linked.client.responder
    incoming = responder.begin(registration)
    sent = 0
    while incoming.window > 0:
        responder.reply(incoming, b"", False)
        linked.pump()  # as fast as they come
        sent += 1
    assert 20_000 < sent <= window / limits.RECORD_OVERHEAD_BYTES
    assert not linked.client.has_work
    assert linked.of(CloseLink) == []
    linked.receive()
    while linked.client.has_work:
        linked.pump()
    gathered = [body for body in linked.receive() if isinstance(body, Reply)]
    assert sum(len(frame.rows) for frame in gathered) > 10_000
    assert len(gathered) < 100


def test_who_reads_a_call_is_told_that_it_was_cancelled(linked):
    call = ask(linked.client.requester, kind=STREAM, window=8)
    linked.pump()
    linked.client.requester.cancel(call)
    assert linked.client.has_work
    linked.pump()
    assert linked.of(CallsAnswered) == [CallsAnswered((call,))]
    assert linked.receive()[-1] == Cancel((call.id,))


def test_the_end_of_a_client_cancels_what_it_works_on_and_what_it_asked(linked):
    registration = linked.client.serve("s", 1, None, 0)
    row = RequestRow(7, registration.id, "", SECOND, ONE, False, 0, b"", 0)
    linked.say(Request((row,), b""))
    incoming = linked.client.responder.begin(registration)
    sent = ask(linked.client.requester)
    linked.pump()
    unsent = ask(linked.client.requester)
    linked.client.close(0)
    linked.take(linked.client.take_effects(0))
    assert incoming.cancelled == "lost"
    assert linked.of(RequestsStopped) == [RequestsStopped((incoming,))]
    assert (type(sent.error), type(unsent.error)) == (LinkLost, ClosedError)
    assert "'s' had not answered" in str(sent.error)
    assert "confirmed" not in f"{sent.error} {unsent.error}"


def test_a_request_with_no_time_left_on_a_link_is_not_said_to_have_none(linked):
    call = ask(linked.client.requester, deadline_ns=0)
    linked.do(TimerFired())
    assert isinstance(call.error, NodeUnreachable)
    assert "no node" not in str(call.error)


def test_an_instance_that_the_node_ends_unasked_has_an_error(linked):
    registration = linked.client.serve("s", 1, None, 0)
    linked.say(Served(registration.id), Served(registration.id, ended=True))
    assert [answer.code for answer in linked.of(ServiceAnswered)] == ["", "link-lost"]
    assert isinstance(registration.error, LinkLost)
    other = linked.client.serve("s", 1, None, 0)
    linked.client.unserve(other, 0)
    linked.say(Served(other.id, ended=True))
    assert (other.is_ended, other.error) == (True, None)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_that_a_node_says_makes_a_client_fall_over(linked, seed):
    rng = random.Random(seed)
    client = linked.client
    registrations = [client.serve("s", rng.randint(1, 3), None, 0) for _ in range(2)]
    number = [0, 1, 2, 3, 4, 5, 1 << 62, (1 << 64) - 1]

    def reply_row(size):
        code = rng.choice(["", "", "service-error", "busy", "nonsense", "returned"])
        return ReplyRow(
            rng.choice(number), rng.random() < 0.7, rng.random() < 0.5, code,
            rng.choice(["", "x"]), rng.choice(["", "t"]), rng.choice(["", "i"]), size,
        )  # fmt: skip

    def request_row(size):
        return RequestRow(
            rng.choice(number), rng.choice([r.id for r in registrations] + number), "",
            rng.choice(number), rng.choice([ONE, EACH, STREAM]), rng.random() < 0.5,
            rng.choice(number), b"", size,
        )  # fmt: skip

    def body():
        kind = rng.randrange(6)
        sizes = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
        data = bytes(sum(sizes))
        if kind == 0:
            return Reply(tuple(map(reply_row, sizes)), data)
        if kind == 1:
            return Request(tuple(map(request_row, sizes)), data)
        if kind == 2:
            return Cancel(tuple(rng.choices(number, k=len(sizes))))
        if kind == 3:
            return Grant(rng.choice(number), rng.choice(number))
        if kind == 4:
            code = rng.choice(["", "", "busy", "nonsense"])
            return Served(rng.choice(number), code, "t", rng.random() < 0.3)
        return Nothing()

    for now in range(200):
        call = ask(
            client.requester, kind=rng.choice([ONE, EACH, STREAM]), idempotent=rng.random() < 0.5,
            deadline_ns=now + rng.randint(1, 50),
        )  # fmt: skip
        linked.say(*[body() for _ in range(3)])
        linked.pump()
        linked.receive()
        if rng.random() < 0.3:
            client.requester.cancel(call)
        for registration in registrations:
            incoming = client.responder.begin(registration)
            if incoming is not None:
                client.responder.reply(incoming, b"x", rng.random() < 0.5)
                assert incoming.window <= limits.STREAM_WINDOW_BYTES_MAX
            assert len(registration.held) <= registration.concurrency
        linked.take(client.handle(TimerFired(), now))
        client.next_deadline_ns()
    assert all(state.state == "connected" for state in linked.of(StateChanged))
    assert len(client.requester.calls) <= 50
