"""The member's side of a group: what is shown, settled, told, claimed and dropped, by hand-made
frames."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import codec, limits
from meshmq.core import consumer
from meshmq.core.consumer import Member
from meshmq.core.held import Held
from meshmq.core.settling import ORDER_KEY, URGENT_FRAMES_IN_FLIGHT
from meshmq.errors import BadFrame
from meshmq.frames import (
    ACK,
    BACKOFF,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Consume,
    Consumed,
    Envelope,
    HandOut,
    HandOutRow,
    Holding,
    Owner,
    Revoke,
    Settled,
    SettleRow,
)
from tests.core.helpers import ORIGIN, OTHER_ORIGIN, SECOND, decode, packed

PREFETCH, TIMEOUT = 100, 30 * SECOND
LONGER = 40 * SECOND  # what a renewal asks for


class Program:
    """A member and the program that reads it: ``seen`` are (number, index) begun, in order."""

    def __init__(self, order=0, prefetch=PREFETCH, timeout=TIMEOUT):
        wish = Consume(3, "g", "a.>", b"{}", prefetch, 1 << 20, timeout)
        self.member = Member(wish, nullcontext(), "owner")
        self.member.consume(ORIGIN)
        self.member.on_consumed(Consumed(3, "", "", order), 0)
        self.by_number = {}
        self.seen = []
        self.iterator = iter(())
        self.current = None

    def hand_out(self, number, *values, first=None, attempt=1, topic="a", offsets=(), now=0):
        data = packed(*values)
        row = HandOutRow(
            topic, number, 10 * number if first is None else first, len(values), 0, len(values),
            len(data), 0, 5, 1, 0, attempt, False, tuple(offsets),
        )  # fmt: skip
        self.member.on_hand_out(HandOut(3, (row,), data), ORIGIN, now)
        self.by_number[number] = self.member.held[number]
        return self.by_number[number]

    def decode(self, held):
        if b"broken" in held.data:
            raise BadFrame("malformed batch: broken")
        held.records = decode(held.data)
        held.keys = [value.split(b"=")[0] if b"=" in value else b"" for value in held.records]

    def begin(self):
        """The next record, or None; as the client's iteration does it."""
        while True:
            for value, index, held in self.iterator:
                self.seen.append((held.row.number, index))
                return held, index, value
            if self.current is not None:
                self.member.finished(self.current)
                self.current = None
            held = self.member.begin(self.decode)
            if held is None:
                return None
            held.feed = [held.records[i] for i in held.picks]
            self.current = held
            self.iterator = zip(held.feed, held.cursor, [held] * len(held.picks), strict=False)

    def begin_all(self):
        found = []
        while (one := self.begin()) is not None:
            found.append(one)
        return found

    def ack(self, number, *indices):
        for index in indices:
            held = self.by_number[number]
            if held.next == index:
                held.next = index + 1
                if held.is_quiet:
                    self.member.touch(held)
            else:
                self.member.settle(held, index, ACK)

    def settle(self, number, index, kind, delay=0, reason=""):
        return self.member.settle(self.by_number[number], index, kind, delay, reason)

    def take(self):
        """Rows of each frame that leaves now: (number, first, count, kind)."""
        return [[tuple(row[:4]) for row in frame.rows] for frame in self.member.take()]

    def answer(self, number, *stale):
        return self.member.on_settled(Settled(3, number, tuple(stale)))

    def reconnect(self, lost=()):
        self.member.on_session_lost()
        frame = self.member.consume()
        self.member.on_consumed(Consumed(3, "", "", self.member.order, tuple(lost)), 0)
        return frame.holdings


def values(count):
    return [b"%d" % i for i in range(count)]


# -- reading -----------------------------------------------------------------------------------


def test_records_come_in_the_order_they_were_handed_out():
    p = Program()
    p.hand_out(1, b"x", b"y")
    p.hand_out(2, b"z")
    assert [value for _, _, value in p.begin_all()] == [b"x", b"y", b"z"]
    assert p.seen == [(1, 0), (1, 1), (2, 0)]
    assert not p.member.is_ready


def test_offsets_follow_the_first_or_are_named():
    p = Program()
    assert [p.hand_out(1, *values(3), first=7).offset(i) for i in range(3)] == [7, 8, 9]
    assert p.hand_out(2, *values(2), offsets=(3, 9)).offset(1) == 9


def test_a_frame_of_several_hand_outs_is_cut_to_each():
    p = Program()
    rows, payload = [], b""
    for number, names in ((1, (b"x",)), (2, (b"yy", b"zz"))):
        data = packed(*names)
        rows.append(HandOutRow("a", number, 0, len(names), 0, len(names), len(data), 0, 5, 1, 0))
        payload += data
    p.member.on_hand_out(HandOut(3, tuple(rows), payload), ORIGIN, 0)
    assert [value for _, _, value in p.begin_all()] == [b"x", b"yy", b"zz"]


def test_a_hand_out_that_does_not_decode_is_rejected_whole():
    p = Program()
    p.hand_out(1, b"broken", b"x")
    p.hand_out(2, b"y")
    assert [value for _, _, value in p.begin_all()] == [b"y"]
    (frame,) = p.member.take()
    assert frame.rows == (SettleRow(1, 0, 2, REJECT, 0, "malformed batch: broken"),)


# -- settling ----------------------------------------------------------------------------------


def test_a_lone_ack_leaves_at_once_and_is_closed_by_the_answer():
    p = Program()
    held = p.hand_out(1, b"x")
    p.begin_all()
    assert p.member.is_idle
    held.next = 1
    assert p.member.touch(held)
    assert p.take() == [[(1, 0, 1, ACK)]]
    assert not p.member.is_idle
    assert not held.is_closed(0)
    assert p.answer(1) == (held,)
    assert held.is_closed(0)
    assert p.member.is_idle
    assert not p.member.held


def test_a_thousand_acks_in_a_row_are_one_row():
    p = Program(prefetch=10_000)
    p.hand_out(1, *values(1000))
    p.begin_all()
    p.ack(1, *range(1000))
    assert p.take() == [[(1, 0, 1000, ACK)]]


def test_acks_out_of_turn_are_gathered_into_runs():
    p = Program()
    p.hand_out(1, *values(9))
    p.begin_all()
    p.ack(1, 0, 1, 4, 3, 7)
    assert p.take() == [[(1, 0, 2, ACK), (1, 3, 2, ACK), (1, 7, 1, ACK)]]
    p.ack(1, 2, 5, 6, 8)
    assert p.take() == [[(1, 2, 1, ACK), (1, 5, 2, ACK), (1, 8, 1, ACK)]]


def test_after_a_nack_acks_in_a_row_are_in_a_row_again():
    p = Program()
    held = p.hand_out(1, *values(5))
    p.begin_all()
    p.ack(1, 0, 1)
    p.settle(1, 2, NACK, BACKOFF, "why")
    assert held.next == 3
    p.ack(1, 3, 4)
    (frame,) = p.member.take()
    assert frame.rows == (
        SettleRow(1, 0, 2, ACK), SettleRow(1, 3, 2, ACK), SettleRow(1, 2, 1, NACK, BACKOFF, "why"),
    )  # fmt: skip
    p.answer(1)
    assert not p.member.held


def test_equal_nacks_in_a_row_are_one_row():
    p = Program()
    p.hand_out(1, *values(6))
    p.begin_all()
    for i in range(3):
        p.settle(1, i, NACK, SECOND)
    p.settle(1, 3, NACK, 2 * SECOND)
    p.settle(1, 5, RETURN)
    assert p.take() == [[(1, 0, 3, NACK), (1, 3, 1, NACK), (1, 5, 1, RETURN)]]


def test_a_record_is_settled_once():
    p = Program()
    p.hand_out(1, *values(3))
    p.begin_all()
    p.ack(1, 0)
    assert not p.settle(1, 0, NACK)
    assert p.settle(1, 2, REJECT)
    assert not p.settle(1, 2, ACK)
    assert p.member.stale == 2
    assert p.take() == [[(1, 0, 1, ACK), (1, 2, 1, REJECT)]]


def test_settles_gather_while_frames_are_unanswered():
    p = Program()
    p.hand_out(1, *values(50))
    p.begin_all()
    for i in range(limits.SETTLE_FRAMES_IN_FLIGHT):
        p.ack(1, i)
        assert p.take() == [[(1, i, 1, ACK)]]
    p.ack(1, 2, 3, 4)
    assert not p.member.has_work
    assert p.take() == []
    p.answer(1)
    assert p.member.has_work
    assert p.take() == [[(1, 2, 3, ACK)]]


def test_a_quarter_of_the_prefetch_leaves_all_the_same():
    p = Program(prefetch=8)
    for number in range(1, 40):
        p.hand_out(number, b"x")
    p.begin_all()
    for number in (1, 2):
        p.ack(number, 0)
        assert len(p.take()) == 1
    p.ack(3, 0)
    assert p.take() == []
    p.ack(4, 0)
    assert p.take() == [[(3, 0, 1, ACK), (4, 0, 1, ACK)]]
    frames = 3
    for number in range(5, 40):
        p.ack(number, 0)
        frames += len(p.take())
    assert frames == URGENT_FRAMES_IN_FLIGHT


def test_a_finished_hand_out_counts_for_the_quarter():
    p = Program(prefetch=40)
    p.hand_out(1, b"x")
    p.hand_out(2, b"x")
    p.hand_out(3, *values(12))
    p.begin_all()
    p.ack(1, 0)
    p.take()
    p.ack(2, 0)
    p.take()
    p.ack(3, *range(12))
    assert not p.member.has_work
    p.member.finished(p.by_number[3])
    assert p.member.has_work


def test_a_frame_has_a_bounded_number_of_rows():
    p = Program(prefetch=limits.PREFETCH_RECORDS_MAX)
    count = 3 * limits.SETTLE_ROWS_MAX
    p.hand_out(1, *values(2 * count))
    p.begin_all()
    p.ack(1, *range(1, 2 * count, 2))
    assert [len(rows) for rows in p.take()] == [limits.SETTLE_ROWS_MAX] * 2
    p.answer(1)
    assert [len(rows) for rows in p.take()] == [limits.SETTLE_ROWS_MAX]
    p.answer(3)
    assert p.member.is_idle


def test_a_refused_settle_is_counted_and_told_with_its_reason():
    p = Program()
    held = p.hand_out(1, *values(3))
    p.begin_all()
    p.ack(1, 0, 1, 2)
    p.take()
    p.answer(1, SettleRow(1, 1, 1, ACK, 0, "it expired"))
    assert p.member.stale == 1
    assert held.refused == {1: "it expired"}
    assert held.is_closed(1)
    assert not p.member.held


def test_more_time_is_asked_for_before_what_was_settled():
    p = Program()
    p.hand_out(1, *values(2))
    p.begin_all()
    p.ack(1, 0)
    assert p.settle(1, 1, EXTEND, 5 * SECOND)
    p.ack(1, 1)
    (frame,) = p.member.take()
    assert frame.rows == (SettleRow(1, 1, 1, EXTEND, 5 * SECOND), SettleRow(1, 0, 2, ACK))
    assert not p.settle(1, 1, EXTEND, SECOND)


def test_a_record_settled_by_a_transaction_is_closed_and_passed_over():
    p = Program()
    held = p.hand_out(1, *values(3))
    p.begin_all()
    p.ack(1, 0)
    p.member.close(held, 1)
    p.ack(1, 2)
    assert p.take() == [[(1, 0, 1, ACK), (1, 2, 1, ACK)]]
    assert not p.settle(1, 1, ACK)


def test_an_ack_in_the_middle_of_gathering_is_gathered_or_tells(monkeypatch):
    """Who gathers has read ``next`` when another thread acks: the ack must ask for its turn."""

    class Racing(Held):
        __slots__ = ("race",)

    slot = Held.next

    def look(held):
        value = slot.__get__(held)
        race, held.race = getattr(held, "race", None), None
        if race is not None:
            race()
        return value

    Racing.next = property(look, slot.__set__)
    monkeypatch.setattr(consumer, "Held", Racing)
    p = Program()
    held = p.hand_out(1, *values(3))
    p.begin_all()
    p.ack(1, 0)
    held.race = lambda: p.ack(1, 1)
    assert p.take() == [[(1, 0, 1, ACK)], [(1, 1, 1, ACK)]]


def test_an_ack_on_its_way_while_the_member_leaves_is_counted():
    p = Program()
    held = p.hand_out(1, *values(3))
    p.begin_all()
    p.member.leave()
    held.next = 1
    assert not p.member.touch(held)
    assert p.member.stale == 1


# -- taken back --------------------------------------------------------------------------------


def test_what_is_revoked_and_not_begun_is_never_shown():
    p = Program()
    p.hand_out(1, *values(5))
    p.hand_out(2, *values(3))
    p.begin()
    closed = p.member.on_revoke(Revoke(3, (SettleRow(1, 2, 2, 0), SettleRow(2, 0, 3, 0))))
    assert set(closed) == {p.by_number[1], p.by_number[2]}
    p.begin_all()
    assert p.seen == [(1, 0), (1, 1), (1, 4)]
    p.ack(1, 0, 1, 4)
    assert p.take() == [[(1, 0, 2, ACK), (1, 4, 1, ACK)]]
    p.answer(1)
    assert not p.member.held
    assert p.member.stale == 0


def test_what_is_revoked_and_begun_makes_its_settle_stale():
    p = Program()
    held = p.hand_out(1, *values(3))
    p.begin_all()
    p.member.on_revoke(Revoke(3, (SettleRow(1, 0, 2, 0),)))
    assert held.is_closed(0)
    p.ack(1, 0, 1, 2)
    assert p.member.stale == 2
    assert p.take() == [[(1, 2, 1, ACK)]]


def test_an_ack_that_was_said_before_the_revoke_is_for_the_node_to_judge():
    p = Program()
    p.hand_out(1, *values(3))
    p.begin_all()
    p.ack(1, 0, 1)
    p.member.on_revoke(Revoke(3, (SettleRow(1, 1, 1, 0),)))
    assert p.take() == [[(1, 0, 2, ACK)]]
    p.answer(1, SettleRow(1, 1, 1, ACK, 0, "stale"))
    assert p.member.stale == 1


# -- sessions ----------------------------------------------------------------------------------


def test_what_is_unanswered_is_claimed_and_told_again():
    p = Program()
    p.hand_out(1, *values(4), first=50, attempt=2)
    p.hand_out(2, b"y", first=90)
    p.begin_all()
    p.ack(1, 0, 1)
    p.take()
    p.ack(1, 2)
    p.member.on_session_lost()
    assert not p.member.has_work
    frame = p.member.consume()
    first = Holding(1, "a", (50, 51, 52, 53), 2, size=20)
    assert frame.holdings == (first, Holding(2, "a", (90,), 1, size=5))
    assert p.take() == []
    p.member.on_consumed(Consumed(3), 0)
    assert p.take() == [[(1, 0, 2, ACK), (1, 2, 1, ACK)]]
    p.answer(1)
    assert set(p.member.held) == {1, 2}


def test_claims_fit_a_frame_and_what_does_not_is_given_up():
    p = Program(prefetch=limits.PREFETCH_RECORDS_MAX)
    for number in range(1, 20_001):
        p.hand_out(number, b"x")
    p.begin_all()
    p.ack(20_000, 0)
    p.member.on_session_lost()
    frame = p.member.consume()
    parts = codec.encode(Envelope(1, 1, 0, frame))
    assert limits.FRAME_HEADER_BYTES_MAX // 2 < len(parts[0]) <= limits.FRAME_HEADER_BYTES_MAX
    assert codec.decode(parts).body == frame
    assert set(p.member.held) == {h.number for h in frame.holdings}
    assert p.by_number[20_000].is_closed(0)
    assert p.member.stale == 1


def test_after_a_claim_the_node_counts_in_what_was_claimed():
    p = Program()
    held = p.hand_out(1, *values(6), first=50)
    p.begin_all()
    p.ack(1, 0, 1, 3)
    p.take()
    p.answer(1)
    assert p.reconnect() == (Holding(1, "a", (52, 54, 55), 1, size=15),)
    p.ack(1, 2)
    p.ack(1, 5)
    assert p.take() == [[(1, 0, 1, ACK), (1, 2, 1, ACK)]]
    p.answer(1, SettleRow(1, 2, 1, ACK, 0, "no"))
    assert held.refused == {5: "no"}
    p.member.on_revoke(Revoke(3, (SettleRow(1, 1, 1, 0),)))
    assert held.is_closed(4)
    assert not p.member.held


def test_what_was_given_away_meanwhile_is_dropped_or_left_to_the_node():
    p = Program()
    lost = p.hand_out(1, *values(5))
    p.hand_out(2, *values(2))
    for _ in range(3):
        p.begin()
    p.ack(1, 0)
    p.take()
    p.ack(1, 1)
    p.reconnect(lost=[1])
    p.begin_all()
    assert p.seen == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    p.ack(1, 2)
    p.ack(2, 0)
    assert p.take() == [
        [(1, 0, 1, ACK), (1, 1, 2, ACK), (2, 0, 1, ACK), (1, 3, 2, RETURN)],
    ]  # fmt: skip
    assert p.member.stale == 0
    p.answer(1, SettleRow(1, 0, 2, ACK, 0, "not yours"), SettleRow(1, 3, 2, RETURN, 0, "nor this"))
    assert p.member.stale == 2
    assert lost.refused[0] == "not yours"
    assert set(p.member.held) == {2}


def test_what_is_begun_while_its_owner_cannot_be_heard_may_be_a_duplicate():
    p = Program()
    kept, lost = p.hand_out(1, *values(2)), p.hand_out(2, *values(2))
    assert not kept.maybe_duplicate
    p.member.on_session_lost()
    p.begin_all()
    assert kept.maybe_duplicate  # others may have it by now
    p.member.consume()
    assert kept.maybe_duplicate
    p.member.on_consumed(Consumed(3, lost=(2,)), 0)
    assert not kept.maybe_duplicate  # it was in nobody else's hands
    assert lost.maybe_duplicate


def test_what_another_node_has_may_be_a_duplicate_while_that_is_away():
    p = Program()
    p.member.on_consumed(Consumed(3, origin=OTHER_ORIGIN), 0)
    data = packed(b"x")
    row = HandOutRow("a", 7, 0, 1, 0, 1, len(data), 0, 5, 1, 0)
    p.member.on_hand_out(HandOut(3, (row,), data, OTHER_ORIGIN), OTHER_ORIGIN, 0)
    held = p.member.held[7]
    assert not held.maybe_duplicate
    p.member.on_owner_away(Owner(3, OTHER_ORIGIN, "two"), 0)
    assert held.maybe_duplicate


def test_another_log_knows_nothing_of_what_is_held():
    p = Program()
    p.hand_out(1, *values(3))
    p.begin()
    p.ack(1, 0)
    p.take()
    p.member.on_session_lost()
    (claimed,) = p.member.consume(OTHER_ORIGIN).holdings  # whoever that is may be of the same site
    assert claimed.origin == ORIGIN
    p.member.on_consumed(Consumed(3), 0)
    assert p.take() == []
    assert p.begin() is None
    assert p.member.stale == 1


def test_a_refused_member_is_done():
    p = Program()
    held = p.hand_out(1, *values(3))
    p.begin()
    assert p.member.on_consumed(Consumed(3, "group-not-found", "gone"), 0) == (held,)
    assert p.member.is_done
    p.ack(1, 0)
    assert p.member.stale == 1
    assert p.begin() is None
    assert held.is_closed(2)


# -- renewing ----------------------------------------------------------------------------------


def renewed(p, now):
    p.member.tick(now)
    return [row for frame in p.member.take() for row in frame.rows if row.kind == EXTEND]


def test_what_is_not_begun_is_renewed_before_a_third_of_its_timeout():
    p = Program()
    p.hand_out(1, *values(3), now=SECOND)
    p.hand_out(2, b"x", now=7 * SECOND)
    p.hand_out(3, b"x", now=10 * SECOND)
    p.begin()
    assert p.member.next_deadline_ns() == 11 * SECOND
    assert renewed(p, 10 * SECOND) == []
    assert renewed(p, 12 * SECOND) == [
        SettleRow(1, 1, 2, EXTEND, LONGER), SettleRow(2, 0, 1, EXTEND, LONGER),
    ]  # fmt: skip
    assert p.member.next_deadline_ns() == 20 * SECOND
    p.begin_all()
    assert renewed(p, 20 * SECOND) == []
    assert p.member.next_deadline_ns() is None
    p.hand_out(4, b"x", now=40 * SECOND)
    assert p.member.next_deadline_ns() == 50 * SECOND


def test_what_a_worker_has_put_aside_is_renewed_until_it_begins():
    p = Program()
    held = p.hand_out(1, *values(4))
    p.begin_all()
    p.member.park(held, 1)
    p.member.park(held, 2)
    assert renewed(p, 10 * SECOND) == [SettleRow(1, 1, 2, EXTEND, LONGER)]
    assert p.member.unpark(held, 1)
    assert renewed(p, 20 * SECOND) == [SettleRow(1, 2, 1, EXTEND, LONGER)]
    p.member.on_revoke(Revoke(3, (SettleRow(1, 2, 1, 0),)))
    assert not p.member.unpark(held, 2)
    assert renewed(p, 30 * SECOND) == []


def test_what_waits_goes_back_when_the_program_has_begun_nothing_for_a_whole_timeout():
    p = Program()
    p.hand_out(1, *values(4))
    p.begin()
    for now in (10, 20, 30):
        assert renewed(p, now * SECOND) == [SettleRow(1, 1, 3, EXTEND, LONGER)]
        p.answer(p.member._own.frame)
    p.begin()  # so it is only slow
    for now in (40, 50, 60):
        assert renewed(p, now * SECOND) == [SettleRow(1, 2, 2, EXTEND, LONGER)]
        p.answer(p.member._own.frame)
    p.member.tick(70 * SECOND)
    (frame,) = p.member.take()
    assert frame.rows == (SettleRow(1, 2, 2, RETURN),)
    assert p.begin() is None
    assert p.member.next_deadline_ns() is None
    assert p.member.stale == 0


def test_a_refused_renewal_takes_the_records_back():
    p = Program()
    p.hand_out(1, *values(3))
    assert renewed(p, 10 * SECOND) == [SettleRow(1, 0, 3, EXTEND, LONGER)]
    p.answer(1, SettleRow(1, 1, 1, EXTEND, 0, "expired"))
    assert p.member.stale == 0
    p.begin_all()
    assert p.seen == [(1, 0), (1, 2)]


def test_after_a_reconnect_what_waits_is_renewed_at_once():
    p = Program()
    p.hand_out(1, *values(2), now=5)
    p.reconnect()
    assert p.member.next_deadline_ns() == 0
    assert len(renewed(p, 0)) == 1


def test_nothing_is_renewed_without_a_session():
    p = Program()
    p.hand_out(1, b"x")
    p.member.on_session_lost()
    assert p.member.next_deadline_ns() is None
    p.member.tick(100 * SECOND)
    assert p.take() == []


# -- keys in order -----------------------------------------------------------------------------


def test_a_failed_record_takes_what_follows_of_its_key_along():
    p = Program(order=ORDER_KEY)
    p.hand_out(1, b"k=1", b"l=1", b"k=2", b"l=2")
    p.hand_out(2, b"k=3", b"m=1")
    p.begin()
    p.settle(1, 0, NACK)
    assert [value for _, _, value in p.begin_all()] == [b"l=1", b"l=2", b"m=1"]
    assert p.take() == [[(1, 0, 1, NACK)]]
    p.ack(1, 1, 3)
    p.ack(2, 1)
    p.take()
    p.answer(2)
    assert not p.member.held


def test_what_follows_a_failed_record_and_was_begun_counts_for_nothing():
    p = Program(order=ORDER_KEY)
    held = p.hand_out(1, b"k=1", b"k=2", b"l=1", b"k=3", b"k=4")
    p.begin_all()
    p.ack(1, 0, 3)
    p.settle(1, 1, NACK)
    assert held.is_settled(4)
    assert not p.settle(1, 4, ACK)
    p.ack(1, 2)
    assert p.take() == [[(1, 0, 1, ACK), (1, 2, 2, ACK), (1, 1, 1, NACK)]]


def test_what_comes_of_a_failed_key_waits_until_the_node_has_heard():
    p = Program(order=ORDER_KEY)
    p.hand_out(1, b"k=1")
    p.begin()
    p.settle(1, 0, REJECT)
    p.take()
    p.hand_out(2, b"k=2", b"l=1")
    assert p.begin() is None
    assert not p.member.is_ready
    p.member.on_revoke(Revoke(3, (SettleRow(2, 0, 1, 0),)))
    p.answer(1)
    assert p.member.is_ready
    assert [value for _, _, value in p.begin_all()] == [b"l=1"]
    p.hand_out(3, b"k=1", attempt=2)
    assert [value for _, _, value in p.begin_all()] == [b"k=1"]


def test_what_a_worker_has_put_aside_of_a_failed_key_is_dropped():
    p = Program(order=ORDER_KEY)
    held = p.hand_out(1, b"k=1", b"k=2", b"l=1")
    p.begin_all()
    p.member.park(held, 1)
    p.member.park(held, 2)
    p.settle(1, 0, NACK)
    assert not p.member.unpark(held, 1)
    assert p.member.unpark(held, 2)


@pytest.mark.parametrize("order", [0, ORDER_KEY])
def test_without_a_key_or_an_order_nothing_follows(order):
    p = Program(order=order)
    p.hand_out(1, b"x", b"y")
    p.begin()
    p.settle(1, 0, NACK)
    assert [value for _, _, value in p.begin_all()] == [b"y"]


def test_a_failed_key_is_no_longer_held_up_when_its_hand_out_is_lost():
    p = Program(order=ORDER_KEY)
    p.hand_out(1, b"k=1")
    p.begin()
    p.settle(1, 0, NACK)
    p.member.on_session_lost()
    p.member.consume(OTHER_ORIGIN)
    p.member.on_consumed(Consumed(3, order=ORDER_KEY), 0)
    p.hand_out(2, b"k=1")
    assert p.begin() is not None


# -- leaving -----------------------------------------------------------------------------------


def test_who_has_left_holds_nothing_and_settles_nothing():
    p = Program()
    held = p.hand_out(1, *values(4))
    p.begin()
    p.begin()
    p.ack(1, 0)
    assert p.member.leave() == (held,)
    p.ack(1, 1)
    assert not p.settle(1, 2, NACK)
    assert p.member.stale == 2
    assert p.begin() is None
    assert p.take() == []
    assert p.member.next_deadline_ns() is None


# -- the books ---------------------------------------------------------------------------------

KINDS = [ACK, ACK, ACK, ACK, NACK, REJECT, RETURN]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_record_is_told_as_it_was_settled_and_is_closed_once(data):
    """Hand out, settle in any order, answer, lose sessions: a node that keeps its own books is
    told exactly what the program said, and of each record once a session."""
    p = Program(prefetch=data.draw(st.sampled_from([4, 40, 4000])))
    wanted, told, refused = {}, {}, set()
    numbers, open_records, claimed = 0, [], {}

    def judge(frame):
        for row in frame.rows:
            if row.kind == EXTEND:
                continue
            indices = claimed.get(row.number, range(10_000))[row.first : row.first + row.count]
            assert len(indices) == row.count
            for i in indices:
                assert (row.number, i) not in told, "told twice"
                told[row.number, i] = row.kind
        p.answer(frame.number)

    pending = []
    for _ in range(data.draw(st.integers(5, 60))):
        action = data.draw(st.sampled_from(["hand", "begin", "settle", "take", "answer", "lose"]))
        if action == "hand":
            numbers += 1
            p.hand_out(numbers, *values(data.draw(st.integers(1, 12))))
        elif action == "begin":
            one = p.begin()
            if one is not None:
                open_records.append((one[0].row.number, one[1]))
        elif action == "settle":
            for _ in range(min(len(open_records), data.draw(st.integers(1, 5)))):
                at = data.draw(st.sampled_from([0, 0, 0, -1, len(open_records) // 2]))
                number, i = open_records.pop(at)
                kind = data.draw(st.sampled_from(KINDS))
                wanted[number, i] = kind
                if kind == ACK:
                    p.ack(number, i)
                else:
                    assert p.settle(number, i, kind)
        elif action == "take":
            pending.extend(p.member.take())
        elif action == "answer" and pending:
            judge(pending.pop(0))
        elif action == "lose":
            # What the node has heard and not answered it may have stored or not: here not.
            pending.clear()
            holdings = {h.number: h for h in p.reconnect()}
            for number, held in p.by_number.items():
                mine = [
                    i for i in range(held.row.count)
                    if (number, i) not in told and (number, i) not in refused
                ]  # fmt: skip
                offsets = tuple(held.offset(i) for i in mine)
                assert (holdings[number].offsets if mine else ()) == offsets
                claimed[number] = mine
    while not p.member.is_idle:
        pending.extend(p.member.take())
        while pending:
            judge(pending.pop(0))
    assert told == wanted
    assert p.member.stale == 0
    left = {
        (number, i)
        for number, held in p.by_number.items()
        for i in range(held.row.count)
        if not held.is_closed(i)
    }
    assert left.isdisjoint(wanted)
    assert {number for number, _ in left} == set(p.member.held)
    assert sum(held.open for held in p.member.held.values()) == len(left)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_taken_back_is_shown_and_nothing_else_is_left_out(data):
    p = Program()
    gone = set()
    numbers = 0
    for _ in range(data.draw(st.integers(3, 40))):
        action = data.draw(st.sampled_from(["hand", "begin", "begin", "revoke"]))
        if action == "hand":
            numbers += 1
            p.hand_out(numbers, *values(data.draw(st.integers(1, 9))))
        elif action == "begin":
            p.begin()
        elif numbers:
            number = data.draw(st.integers(1, numbers))
            first = data.draw(st.integers(0, 8))
            count = min(data.draw(st.integers(1, 4)), p.by_number[number].row.count - first)
            if count > 0:
                before = set(p.seen)
                p.member.on_revoke(Revoke(3, (SettleRow(number, first, count, 0),)))
                gone |= {(number, i) for i in range(first, first + count)} - before
    p.begin_all()
    everything = {(n, i) for n, held in p.by_number.items() for i in range(held.row.count)}
    assert len(p.seen) == len(set(p.seen))
    assert set(p.seen) == everything - gone
