"""The session machine, both ends of it, on virtual time and over a list instead of a network."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import limits
from meshmq.core.session import Session, SessionState
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Bye,
    Command,
    Deliver,
    Envelope,
    Gap,
    Hello,
    Nothing,
    Ping,
    Publish,
    Refuse,
    Welcome,
)
from tests.core.helpers import MS, ORIGIN, SECOND, A, B

HELLO = Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, "local", A, B)
WELCOME = Welcome(PROTOCOL_MAJOR, PROTOCOL_MINOR, ORIGIN, "node-1", "", 1)
START = 1000 * SECOND
GREETING, OPEN, CLOSED = SessionState.GREETING, SessionState.OPEN, SessionState.CLOSED


def body(number):
    return Command(number, "body", b"")


def sent(session):
    """Take what ``session`` wants to send."""
    envelopes, session.outbox = session.outbox, []
    return envelopes


def bodies(session):
    return [e.body for e in sent(session)]


def carry(source, target, now_ns=START):
    """Bring everything over; return what came out at the other end."""
    came = [target.receive(e, now_ns) for e in sent(source)]
    return [b for b in came if b is not None]


def pair():
    """Two ends after their handshake, with nothing under way."""
    one, other = Session(7, HELLO, START), Session(7, WELCOME, START)
    sent(one)
    carry(other, one)
    return one, other


def send(session, *numbers, now_ns=START):
    for number in numbers:
        session.send(body(number), now_ns)


# -- handshake -----------------------------------------------------------------------------------


def test_the_initiator_says_hello_and_opens_with_the_welcome():
    one = Session(7, HELLO, START)
    assert one.state is GREETING
    assert sent(one) == [Envelope(7, 0, 0, HELLO)]
    other = Session(7, WELCOME, START)
    assert other.state is OPEN
    assert carry(other, one) == [WELCOME]
    assert one.state is OPEN


def test_hello_is_said_again_until_the_welcome_comes():
    one = Session(7, HELLO, START)
    sent(one)
    one.tick(START + limits.HELLO_RETRY_NS - 1)
    assert sent(one) == []
    one.tick(START + limits.HELLO_RETRY_NS)
    assert bodies(one) == [HELLO]
    one.tick(START + 2 * limits.HELLO_RETRY_NS - 1)
    assert sent(one) == []
    one.tick(START + 2 * limits.HELLO_RETRY_NS)
    assert bodies(one) == [HELLO]


def test_a_lost_welcome_is_said_again_when_the_hello_is():
    one, other = Session(7, HELLO, START), Session(7, WELCOME, START)
    sent(one), sent(other)  # both are lost
    one.tick(START + limits.HELLO_RETRY_NS)
    assert carry(one, other) == []
    assert carry(other, one) == [WELCOME]
    assert one.state is OPEN


def test_a_second_welcome_is_not_handed_on():
    one, other = pair()
    other.receive(Envelope(7, 0, 0, HELLO), START)
    assert carry(other, one) == []
    assert one.state is OPEN


def test_an_initiator_does_not_answer_a_hello():
    one, _ = pair()
    assert one.receive(Envelope(7, 0, 0, HELLO), START) is None
    assert sent(one) == []


def test_a_refusal_closes_with_its_code_and_is_handed_on():
    one = Session(7, HELLO, START)
    refusal = Refuse("mesh-mismatch", "the node belongs to mesh 'b'")
    assert one.receive(Envelope(7, 0, 0, refusal), START) == refusal
    assert (one.state, one.closed_code) == (CLOSED, "mesh-mismatch")
    assert one.closed_reason == "the node belongs to mesh 'b'"


def test_a_refusal_closes_an_open_session_too():
    one, _ = pair()
    refusal = Refuse("producer-fenced", "another program")
    assert one.receive(Envelope(7, 0, 0, refusal), START) == refusal
    assert (one.state, one.closed_code) == (CLOSED, "producer-fenced")


def test_frames_before_the_welcome_are_not_taken_and_come_again():
    one, other = Session(7, HELLO, START), Session(7, WELCOME, START)
    send(other, 1)
    welcome, first = sent(other)
    assert one.receive(first, START) is None
    assert one.receive(welcome, START) == WELCOME
    other.tick(START + limits.RESEND_NS)
    assert body(1) in carry(other, one, START + limits.RESEND_NS)


def test_nothing_is_sent_before_the_handshake():
    with pytest.raises(AssertionError):
        Session(7, HELLO, START).send(body(1), START)


def test_no_answer_to_the_hello_for_three_seconds_closes():
    one = Session(7, HELLO, START)
    one.tick(START + limits.LINK_SILENT_NS - 1)
    assert one.state is GREETING
    one.tick(START + limits.LINK_SILENT_NS)
    assert (one.state, one.closed_code) == (CLOSED, "link-lost")


def test_frames_of_another_session_are_ignored_and_prove_no_life():
    one, other = pair()
    send(other, 1)
    (frame,) = sent(other)
    stranger = Envelope(8, 1, 0, body(9))
    assert one.receive(stranger, START + SECOND) is None
    one.tick(START + limits.LINK_SILENT_NS)
    assert one.state is CLOSED
    assert one.receive(frame, START + limits.LINK_SILENT_NS) is None


# -- order, loss, repeats ------------------------------------------------------------------------


def test_bodies_come_once_in_order_numbered_from_one():
    one, other = pair()
    send(one, 1, 2, 3)
    assert [e.sequence for e in one.outbox] == [1, 2, 3]
    assert carry(one, other) == [body(1), body(2), body(3)]


def test_a_repeat_is_not_handed_on_and_is_acknowledged_at_once():
    one, other = pair()
    send(one, 1)
    (frame,) = sent(one)
    assert other.receive(frame, START) == body(1)
    assert sent(other) == []
    assert other.receive(frame, START) is None
    assert sent(other) == [Envelope(7, 0, 1, Nothing())]


def test_a_gap_is_asked_for_once_an_interval_and_filled_from_the_first_missing():
    one, other = pair()
    send(one, 1, 2, 3, 4)
    first, second, third, fourth = sent(one)
    other.receive(first, START)
    assert other.receive(third, START) is None
    assert sent(other) == [Envelope(7, 0, 1, Gap())]
    assert other.receive(fourth, START + limits.GAP_INTERVAL_NS - 1) is None
    assert sent(other) == []
    other.receive(fourth, START + limits.GAP_INTERVAL_NS)
    assert bodies(other) == [Gap()]
    one.receive(Envelope(7, 0, 1, Gap()), START)
    assert [e.sequence for e in one.outbox] == [2, 3, 4]
    assert carry(one, other) == [body(2), body(3), body(4)]
    assert second.sequence == 2


def test_a_gap_is_asked_for_again_by_itself_and_ever_more_seldom():
    one, other = pair()
    send(one, 1, 2, 3)
    first, second, third = sent(one)
    other.receive(third, START)
    sent(other)
    now_ns = START
    for factor in (1, 2, 4):
        assert other.next_deadline_ns() == now_ns + factor * limits.GAP_INTERVAL_NS
        now_ns = other.next_deadline_ns()
        other.tick(now_ns - 1)
        assert sent(other) == []
        other.tick(now_ns)
        assert bodies(other) == [Gap()]
    other.receive(first, now_ns)  # the next wait is short again
    other.receive(third, now_ns + 8 * limits.GAP_INTERVAL_NS)
    assert bodies(other) == [Gap()]
    assert other.next_deadline_ns() == now_ns + 9 * limits.GAP_INTERVAL_NS
    other.receive(second, now_ns)
    other.receive(third, now_ns)
    other.acknowledge(now_ns)
    assert other.next_deadline_ns() > now_ns + 9 * limits.GAP_INTERVAL_NS


def test_what_is_not_acknowledged_is_sent_again_after_resend_ns():
    one, other = pair()
    send(one, 1, 2)
    sent(one)
    one.tick(START + limits.RESEND_NS - 1)
    assert sent(one) == []
    one.tick(START + limits.RESEND_NS)
    assert [e.sequence for e in one.outbox] == [1, 2]
    assert carry(one, other, START + limits.RESEND_NS) == [body(1), body(2)]


def test_an_ack_puts_the_resend_off_and_frees_what_it_covers():
    one, _ = pair()
    send(one, 1, 2, 3)
    sent(one)
    one.receive(Envelope(7, 0, 2, Nothing()), START + 900 * MS)
    assert one.unacked_count == 1
    one.tick(START + 900 * MS + limits.RESEND_NS - 1)
    assert [e.sequence for e in sent(one) if e.sequence] == []
    one.tick(START + 900 * MS + limits.RESEND_NS)
    assert [e.sequence for e in sent(one) if e.sequence] == [3]


def test_an_old_ack_neither_frees_nor_puts_off():
    one, _ = pair()
    send(one, 1, 2)
    one.receive(Envelope(7, 0, 1, Nothing()), START)
    sent(one)
    one.receive(Envelope(7, 0, 1, Nothing()), START + 500 * MS)
    one.receive(Envelope(7, 0, 0, Nothing()), START + 600 * MS)
    assert one.unacked_count == 1
    one.tick(START + limits.RESEND_NS)
    assert [e.sequence for e in sent(one) if e.sequence] == [2]


def test_a_resend_is_bounded():
    one, _ = pair()
    send(one, *range(limits.RESEND_FRAMES_MAX + 10))
    sent(one)
    one.tick(START + limits.RESEND_NS)
    assert [e.sequence for e in sent(one)] == list(range(1, limits.RESEND_FRAMES_MAX + 1))


# -- acknowledging -------------------------------------------------------------------------------


def test_what_was_sent_again_has_come_and_the_rest_follows_at_once():
    one, other = pair()
    many = 3 * limits.RESEND_FRAMES_MAX
    send(one, *range(many))
    sent(one)  # all of it is lost
    now_ns = START + limits.RESEND_NS
    one.tick(now_ns)
    for _ in range(3):
        carry(one, other, now_ns)
        other.acknowledge(now_ns)
        carry(other, one, now_ns)
    assert other.received == many
    assert one.unacked_count == 0
    assert bodies(one) == []


def test_an_ack_waits_for_a_frame_to_ride_on():
    one, other = pair()
    send(one, 1)
    carry(one, other)
    send(other, 5, now_ns=START + MS)
    assert [e.ack for e in sent(other)] == [1]
    other.tick(START + limits.ACK_DELAY_NS + MS)
    assert sent(other) == []


def test_an_ack_goes_alone_when_nothing_else_left():
    one, other = pair()
    send(one, 1)
    carry(one, other)
    other.tick(START + limits.ACK_DELAY_NS - 1)
    assert sent(other) == []
    other.tick(START + limits.ACK_DELAY_NS)
    assert sent(other) == [Envelope(7, 0, 1, Nothing())]
    other.tick(START + limits.ACK_DELAY_NS + 1)
    assert sent(other) == []


def test_the_delay_of_an_ack_counts_from_the_first_frame():
    one, other = pair()
    send(one, 1)
    carry(one, other, START)
    send(one, 2)
    carry(one, other, START + limits.ACK_DELAY_NS - 1)
    other.tick(START + limits.ACK_DELAY_NS)
    assert sent(other) == [Envelope(7, 0, 2, Nothing())]


def test_many_frames_are_acknowledged_without_waiting():
    one, other = pair()
    send(one, *range(limits.ACK_FRAMES_MAX - 1))
    carry(one, other)
    assert sent(other) == []
    send(one, 99)
    carry(one, other)
    assert sent(other) == [Envelope(7, 0, limits.ACK_FRAMES_MAX, Nothing())]


# -- liveness and bounds -------------------------------------------------------------------------


def test_an_idle_end_pings_and_the_other_answers():
    one, other = pair()
    one.tick(START + limits.PING_INTERVAL_NS - 1)
    assert sent(one) == []
    one.tick(START + limits.PING_INTERVAL_NS)
    assert one.outbox == [Envelope(7, 0, 0, Ping())]
    assert carry(one, other, START + limits.PING_INTERVAL_NS) == []
    assert bodies(other) == [Nothing()]


def test_an_idle_link_stays_open_for_ever():
    one, other = pair()
    now = START
    for _ in range(200):
        now = min(one.next_deadline_ns(), other.next_deadline_ns())
        for end, far in ((one, other), (other, one)):
            end.tick(now)
            carry(end, far, now)
            carry(far, end, now)
    assert now > START + 60 * SECOND
    assert one.state is other.state is OPEN


def test_three_silent_seconds_close_whatever_was_sent():
    one, _ = pair()
    one.tick(START + limits.LINK_SILENT_NS - 1)
    assert one.state is OPEN
    one.tick(START + limits.LINK_SILENT_NS)
    assert (one.state, one.closed_code) == (CLOSED, "link-lost")
    assert one.unacked_count == 0


def test_a_peer_that_never_acknowledges_is_closed_by_frames(monkeypatch):
    monkeypatch.setattr("meshmq.limits.SESSION_UNACKED_FRAMES_MAX", 5)
    one, _ = pair()
    send(one, *range(5))
    assert one.state is OPEN
    send(one, 6)
    assert (one.state, one.closed_code) == (CLOSED, "busy")
    assert one.unacked_count == 0


@pytest.mark.parametrize("kind", [Publish, Deliver])
def test_a_peer_that_never_acknowledges_is_closed_by_bytes(monkeypatch, kind):
    monkeypatch.setattr("meshmq.limits.SESSION_UNACKED_BYTES_MAX", 250)
    frame = Publish((), b"x" * 100) if kind is Publish else Deliver(1, (), 0, b"x" * 100)
    one, _ = pair()
    for i in range(1, 21):
        one.send(frame, START)
        one.receive(Envelope(7, 0, i, Nothing()), START)  # acknowledged bytes count no more
    one.send(frame, START)
    one.send(frame, START)
    assert one.state is OPEN
    one.send(frame, START)
    assert (one.state, one.closed_code) == (CLOSED, "busy")


def test_one_that_is_patient_has_more_on_its_way(monkeypatch):
    monkeypatch.setattr("meshmq.limits.SESSION_UNACKED_BYTES_MAX", 250)
    monkeypatch.setattr("meshmq.limits.LINK_FULL_UNACKED_BYTES_MAX", 450)
    one, _ = pair()
    one.be_patient()
    for _ in range(4):
        one.send(Publish((), b"x" * 100), START)
    assert one.state is OPEN
    one.send(Publish((), b"x" * 100), START)
    assert (one.state, one.closed_code) == (CLOSED, "busy")


def test_goodbye_closes_both_ends_without_a_code():
    one, other = pair()
    one.say_goodbye(START)
    assert one.state is CLOSED
    assert one.outbox == [Envelope(7, 0, 0, Bye())]
    carry(one, other)
    assert (other.state, other.closed_code) == (CLOSED, "")
    assert sent(other) == []


def test_goodbye_with_a_refusal_names_its_code_at_both_ends():
    one, other = pair()
    refusal = Refuse("producer-fenced", "another program")
    other.say_goodbye(START, refusal)
    assert carry(other, one) == [refusal]
    assert one.closed_code == other.closed_code == "producer-fenced"


def test_a_closed_session_says_and_takes_nothing():
    one, other = pair()
    send(other, 1)
    (frame,) = sent(other)
    one.say_goodbye(START)
    sent(one)
    send(one, 1)
    one.tick(START + 10 * SECOND)
    one.say_goodbye(START)
    assert one.receive(frame, START) is None
    assert sent(one) == []


def test_something_happens_at_each_deadline_and_the_next_lies_later():
    one, other = pair()
    send(one, 1)
    carry(one, other)
    send(other, 1)
    sent(other)
    now = START
    while other.state is OPEN:
        due = other.next_deadline_ns()
        assert due > now
        other.tick(due - 1)
        assert sent(other) == []
        other.tick(due)
        assert sent(other) or other.state is CLOSED
        now = due
    assert now == START + limits.LINK_SILENT_NS


def test_the_next_deadline_is_the_earliest_of_what_is_due():
    one = Session(7, HELLO, START)
    assert one.next_deadline_ns() == START + limits.HELLO_RETRY_NS
    one, other = pair()
    assert one.next_deadline_ns() == START + limits.PING_INTERVAL_NS
    send(one, 1, now_ns=START + 10 * MS)
    assert one.next_deadline_ns() == START + 10 * MS + limits.RESEND_NS
    carry(one, other, START + 20 * MS)
    assert other.next_deadline_ns() == START + 20 * MS + limits.ACK_DELAY_NS


# -- any loss, any repeat, any order -------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "arrive", "arrive", "lose", "repeat", "wait"]),
        st.integers(0, 1),
        st.integers(0, 5),
    ),
    max_size=80,
)


class Ends:
    """Two open ends and what is under way to each, in a list that need not keep its order."""

    def __init__(self):
        self.ends = pair()
        self.under_way = ([], [])
        self.given = ([], [])
        self.taken = ([], [])
        self.now_ns = START

    def gather(self):
        for end in (0, 1):
            self.under_way[1 - end].extend(sent(self.ends[end]))

    def arrive(self, end, envelope):
        got = self.ends[end].receive(envelope, self.now_ns)
        if got is not None:
            self.taken[end].append(got.id)

    def step(self, what, end, number):
        waiting = self.under_way[end]
        if what == "send":
            self.given[end].append(len(self.given[end]))
            send(self.ends[end], self.given[end][-1], now_ns=self.now_ns)
        elif what == "wait":
            self.now_ns += (number + 1) * 10 * MS
            for session in self.ends:
                session.tick(self.now_ns)
        elif waiting:
            at = number % len(waiting)
            envelope = waiting[at] if what == "repeat" else waiting.pop(at)
            if what != "lose":
                self.arrive(end, envelope)
        self.gather()

    def heal(self):
        """From now on nothing is lost; until nobody waits for anything."""
        for _ in range(1000):
            for end in (0, 1):
                waiting, self.under_way[end][:] = list(self.under_way[end]), []
                for envelope in waiting:
                    self.arrive(end, envelope)
            self.gather()
            if not any(self.under_way) and not any(e.unacked_count for e in self.ends):
                return
            self.now_ns += 20 * MS
            for session in self.ends:
                session.tick(self.now_ns)
            self.gather()
        raise AssertionError("the ends never came to rest")


@settings(max_examples=150, deadline=None)
@given(steps)
def test_whatever_the_link_does_bodies_come_once_and_in_order(steps):
    world = Ends()
    for step in steps:
        world.step(*step)
        for end in (0, 1):
            taken = world.taken[end]
            assert taken == world.given[1 - end][: len(taken)]
    if CLOSED not in [e.state for e in world.ends]:  # 80 waits of 60 ms can be 3 silent seconds
        world.heal()
        assert world.taken[0] == world.given[1]
        assert world.taken[1] == world.given[0]


def test_a_peer_that_has_forgotten_the_session_is_noticed():
    """A hello that came twice can begin it anew at a node that had let it go."""
    one, other = pair()
    one.send(body(1), START)
    carry(one, other)
    carry(other, one, START + 41 * MS)
    other.tick(START + 41 * MS)
    carry(other, one, START + 41 * MS)
    assert one.unacked_count == 0
    anew = Session(7, WELCOME, START + 50 * MS)
    for at in range(60, 1060, 100):
        one.receive(Envelope(7, 0, anew.received, Nothing()), START + at * MS)
        assert one.state is OPEN  # it may be a frame that was late
    one.receive(Envelope(7, 0, anew.received, Nothing()), START + 1100 * MS)
    assert (one.state, one.closed_code) == (CLOSED, "link-lost")


def test_a_late_ack_is_no_sign_of_forgetting():
    one, other = pair()
    for number in (1, 2):
        one.send(body(number), START)
    carry(one, other)
    for at in range(0, 5000, 100):
        one.receive(Envelope(7, 0, 1, Nothing()), START + at * MS)
        one.receive(Envelope(7, 0, 2, Nothing()), START + (at + 50) * MS)
    assert one.state is OPEN


def test_one_that_is_patient_waits_for_a_thin_line_and_sends_nothing_twice_meanwhile():
    a, _ = pair()
    sent(a)
    a.be_patient()
    a.send(body(1), START)
    sent(a)
    for second in range(1, 10):
        a.tick(START + second * SECOND)
        assert not [e for e in sent(a) if e.sequence]
    a.tick(START + limits.LINK_FULL_RESEND_NS)
    assert [e.sequence for e in sent(a) if e.sequence] == [1]
    a.tick(START + limits.LINK_FULL_SILENT_NS - MS)
    assert a.state is OPEN
    a.tick(START + limits.LINK_FULL_SILENT_NS)
    assert (a.state, a.closed_code) == (CLOSED, "link-lost")
