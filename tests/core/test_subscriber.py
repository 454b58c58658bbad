"""The consuming side: what is handed on, what is counted as missed, and what becomes credit."""

from __future__ import annotations

import pytest

from meshmq.core.subscriber import Start, Subscriber
from meshmq.frames import (
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_POSITION,
    START_TIME,
    Credit,
    Deliver,
    DeliverBatch,
    Subscribed,
)
from tests.core.helpers import ORIGIN, OTHER_ORIGIN

WINDOW_BYTES, WINDOW_RECORDS = 1000, 100


def subscriber(start=Start(), pattern="a"):
    return Subscriber(3, pattern, start, WINDOW_BYTES, WINDOW_RECORDS)


def accepted(start=Start(), lsn=1, slot=0, origin=ORIGIN):
    sub = subscriber(start)
    sub.subscribe()
    sub.on_subscribed(Subscribed(3, "", "", origin, lsn, slot, 1))
    return sub


def again(sub, origin=ORIGIN):
    """A new session, and the node's yes to where the subscription wants to go on."""
    frame = sub.subscribe()
    sub.on_subscribed(Subscribed(3, "", "", origin, frame.lsn, frame.slot, 1))
    return frame


def row(base, count, lsn, slot=0, topic="a", length=10, damaged=False):
    length = 0 if damaged else length
    return DeliverBatch(topic, base, count, length, 5, 6, lsn, slot, damaged)


def deliver(sub, *rows, missed=0):
    """Hand over rows; return (topic, base offset, skip) of what is for the program."""
    payload = b"".join([b"%d" % (i % 10) * r.length for i, r in enumerate(rows)])
    found = sub.on_deliver(Deliver(3, rows, missed, payload))
    for arrival in found:
        assert len(arrival.payload) == next(
            r.length for r in rows if (r.lsn, r.slot) == (arrival.lsn, arrival.slot)
        )
    return [(a.topic, a.base_offset, a.skip) for a in found]


def place(frame):
    return frame.start, frame.lsn, frame.slot


# -- rule 1: once, and nothing skipped -------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        Start(START_NEW),
        Start(START_EARLIEST),
        Start(START_TIME, 99),
        Start(START_OFFSET, 7),
        Start(START_POSITION, 0, ORIGIN, 4, 2, 1),
    ],
)
def test_the_first_session_asks_for_what_the_program_wished_with_all_credit(start):
    frame = subscriber(start).subscribe()
    assert (frame.subscription, frame.pattern) == (3, "a")
    assert (frame.start, frame.value) == (start.kind, start.value)
    assert (frame.origin, frame.lsn, frame.slot) == (start.origin, start.lsn, start.slot)
    assert (frame.credit_bytes, frame.credit_records) == (WINDOW_BYTES, WINDOW_RECORDS)


def test_batches_are_handed_on_with_their_own_bytes_and_places():
    sub = accepted()
    rows = (row(0, 2, 1), row(7, 1, 1, 1, topic="b", length=3))
    one, two = sub.on_deliver(Deliver(3, rows, 0, b"x" * 10 + b"yyy"))
    assert one == ("a", 0, 2, 0, b"x" * 10, 5, 6, ORIGIN, 1, 0, 0, ())
    assert two == ("b", 7, 1, 0, b"yyy", 5, 6, ORIGIN, 1, 1, 0, ())


@pytest.mark.parametrize("kind", [START_NEW, START_EARLIEST, START_TIME])
def test_after_the_answer_a_session_resumes_by_place_even_before_the_first_record(kind):
    sub = accepted(Start(kind, 5), lsn=40, slot=3)
    frame = sub.subscribe()
    assert place(frame) == (START_POSITION, 40, 3)
    assert frame.origin == ORIGIN


def test_reading_resumes_behind_the_last_batch():
    sub = accepted(Start(START_EARLIEST))
    deliver(sub, row(0, 1, 5), row(1, 1, 6, 2))
    assert place(sub.subscribe()) == (START_POSITION, 6, 3)


def test_what_comes_again_is_not_handed_on_and_becomes_credit():
    sub = accepted()
    assert deliver(sub, row(0, 40, 1)) == [("a", 0, 0)]
    assert deliver(sub, row(0, 40, 1)) == []
    assert sub.credit() == Credit(3, 10, 40)
    assert sub.missed == 0


def test_of_a_batch_that_overlaps_only_the_rest_is_handed_on():
    sub = accepted()
    deliver(sub, row(0, 4, 1))
    assert deliver(sub, row(2, 5, 1)) == [("a", 2, 2)]
    assert deliver(sub, row(7, 1, 3)) == [("a", 7, 0)]
    assert sub.missed == 0


def test_a_position_inside_a_batch_skips_its_leading_records():
    sub = accepted(Start(START_POSITION, 0, ORIGIN, 4, 1, 3), lsn=4, slot=1)
    assert deliver(sub, row(20, 5, 4, 1)) == [("a", 20, 3)]
    assert deliver(sub, row(25, 5, 5)) == [("a", 25, 0)]


def test_a_position_inside_a_batch_holds_over_a_reconnect_before_the_first_record():
    sub = accepted(Start(START_POSITION, 0, ORIGIN, 4, 1, 3), lsn=4, slot=1)
    assert place(again(sub)) == (START_POSITION, 4, 1)
    assert deliver(sub, row(20, 5, 4, 1)) == [("a", 20, 3)]


def test_the_skip_of_a_position_is_for_its_own_batch_only():
    sub = accepted(Start(START_POSITION, 0, ORIGIN, 4, 1, 3), lsn=4, slot=1)
    assert deliver(sub, row(30, 5, 4, 2)) == [("a", 30, 0)]


def test_a_position_at_the_end_of_a_batch_hands_nothing_of_it_on():
    sub = accepted(Start(START_POSITION, 0, ORIGIN, 4, 1, 5), lsn=4, slot=1)
    assert deliver(sub, row(20, 5, 4, 1)) == []
    assert deliver(sub, row(25, 1, 4, 2)) == [("a", 25, 0)]


def test_an_offset_inside_a_batch_skips_its_leading_records():
    sub = accepted(Start(START_OFFSET, 7))
    assert deliver(sub, row(5, 4, 3)) == [("a", 5, 2)]
    assert deliver(sub, row(9, 1, 4)) == [("a", 9, 0)]
    assert sub.missed == 0


def test_an_offset_is_asked_for_again_until_the_first_record_came():
    sub = accepted(Start(START_OFFSET, 7), lsn=1)
    assert sub.subscribe().start == START_OFFSET
    deliver(sub, row(5, 4, 3))
    assert place(sub.subscribe()) == (START_POSITION, 3, 1)


def test_in_another_log_everything_is_unseen():
    sub = accepted(Start(START_EARLIEST))
    deliver(sub, row(0, 10, 1))
    sub.subscribe()
    sub.on_subscribed(Subscribed(3, "", "", OTHER_ORIGIN, 1, 0, 1))
    (arrival,) = sub.on_deliver(Deliver(3, (row(0, 4, 1),), 0, b"x" * 10))
    assert (arrival.skip, arrival.origin) == (0, OTHER_ORIGIN)
    assert sub.missed == 0
    frame = sub.subscribe()
    assert (frame.origin, *place(frame)) == (OTHER_ORIGIN, START_POSITION, 1, 1)


def test_a_position_of_another_log_skips_nothing_in_this_one():
    sub = accepted(Start(START_POSITION, 0, OTHER_ORIGIN, 1, 0, 3), lsn=1, slot=0)
    assert deliver(sub, row(0, 5, 1)) == [("a", 0, 0)]


# -- rule 2: what is passed over is counted --------------------------------------------------------


def test_offsets_passed_over_are_counted_per_topic():
    sub = accepted()
    deliver(sub, row(0, 2, 1), row(100, 1, 1, 1, topic="b"))
    assert sub.missed == 0  # where a topic begins is no gap
    deliver(sub, row(5, 1, 2), row(103, 1, 2, 1, topic="b"))
    assert sub.missed == 3 + 2


def test_what_retention_took_before_the_offset_asked_for_is_counted():
    sub = accepted(Start(START_OFFSET, 7))
    deliver(sub, row(12, 1, 9))
    assert sub.missed == 5


def test_what_retention_took_while_away_is_counted():
    sub = accepted()
    deliver(sub, row(0, 2, 1))
    again(sub)
    deliver(sub, row(10, 2, 8))
    assert sub.missed == 8


def test_transient_records_the_node_dropped_are_counted():
    sub = accepted()
    assert deliver(sub, row(0, 2, 0), missed=6) == [("a", 0, 0)]
    assert deliver(sub, row(0, 2, 0), missed=1) == [("a", 0, 0)]
    assert sub.missed == 7
    assert sub.damaged == 0


def test_a_transient_batch_moves_no_place():
    sub = accepted(lsn=9)
    deliver(sub, row(0, 2, 0))
    assert place(sub.subscribe()) == (START_POSITION, 9, 0)


def test_damaged_records_are_missed_and_named_as_damaged():
    sub = accepted()
    assert deliver(sub, row(0, 4, 1, damaged=True), row(4, 1, 2)) == [("a", 4, 0)]
    assert (sub.missed, sub.damaged) == (4, 4)
    deliver(sub, row(3, 4, 2, damaged=True))  # two of them were seen
    assert (sub.missed, sub.damaged) == (6, 6)


# -- rule 3: credit --------------------------------------------------------------------------------


def test_credit_returns_by_the_quarter_of_its_bytes():
    sub = accepted()
    deliver(sub, row(0, 1, 1, length=WINDOW_BYTES))
    sub.on_consumed(WINDOW_BYTES // 4 - 1, 0)
    assert sub.credit() is None
    sub.on_consumed(1, 1)
    assert sub.credit() == Credit(3, WINDOW_BYTES // 4, 1)
    assert sub.credit() is None


def test_credit_returns_by_the_quarter_of_its_records():
    sub = accepted()
    deliver(sub, row(0, 50, 1))
    sub.on_consumed(5, 24)
    assert sub.credit() is None
    sub.on_consumed(1, 1)
    assert sub.credit() == Credit(3, 6, 25)


def test_a_new_session_grants_what_is_not_held_and_owes_nothing():
    sub = accepted()
    deliver(sub, row(0, 10, 1, length=300), row(10, 20, 2, length=200))
    sub.on_consumed(100, 4)
    frame = again(sub)
    assert (frame.credit_bytes, frame.credit_records) == (WINDOW_BYTES - 400, WINDOW_RECORDS - 26)
    assert sub.credit() is None
    sub.on_consumed(400, 26)
    assert sub.credit() == Credit(3, 400, 26)


def test_an_overdrawn_window_grants_nothing_in_a_new_session():
    sub = accepted()
    deliver(sub, row(0, 150, 1, length=1500))
    frame = sub.subscribe()
    assert (frame.credit_bytes, frame.credit_records) == (0, 0)


def test_no_credit_is_granted_before_the_first_answer():
    sub = subscriber()
    sub.on_consumed(800, 80)
    assert not sub.is_active
    assert sub.credit() is None


def test_no_credit_is_granted_before_the_answer_of_a_new_session():
    sub = accepted()
    deliver(sub, row(0, 80, 1, length=800))
    sub.subscribe()
    assert not sub.is_active
    sub.on_consumed(800, 80)
    assert sub.credit() is None
    sub.on_subscribed(Subscribed(3, "", "", ORIGIN, 1, 1, 1))
    assert sub.is_active
    assert sub.credit() == Credit(3, 800, 80)


def test_what_the_node_may_send_is_never_more_than_the_window():
    """Whatever comes and goes: credit given less what came is what the window still takes."""
    sub = accepted()
    given, came, done = WINDOW_RECORDS, 0, 0
    for i in range(500):
        count = min(1 + i % 7, given - came)
        if count:
            deliver(sub, row(came, count, i + 1))
            came += count
        if i % 3 == 0:
            taken = min(5, came - done)
            sub.on_consumed(0, taken)
            done += taken
        grant = sub.credit()
        given += grant.records if grant else 0
        assert given - done <= WINDOW_RECORDS
    assert done > 5 * WINDOW_RECORDS


def test_a_topic_that_was_deleted_and_made_anew_begins_anew():
    sub = accepted()
    assert deliver(sub, row(0, 3, 1), row(3, 2, 2)) == [("a", 0, 0), ("a", 3, 0)]
    assert deliver(sub, row(0, 2, 5), row(2, 2, 6)) == [("a", 0, 0), ("a", 2, 0)]
    again(sub)
    assert deliver(sub, row(2, 2, 6)) == []  # a repeat is one still
    assert deliver(sub, row(1, 1, 9)) == [("a", 1, 0)]  # anew, and its first record is gone
    assert sub.missed == 1
