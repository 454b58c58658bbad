"""The consuming side: what is handed on, what is counted as missed, and what becomes credit."""

from __future__ import annotations

import pytest

from meshmq import limits
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
    Place,
    Streams,
    StreamsRow,
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
    assert one == ("a", 0, 2, 0, b"x" * 10, 5, 6, ORIGIN, 1, 0, 0, (), "")
    assert two == ("b", 7, 1, 0, b"yyy", 5, 6, ORIGIN, 1, 1, 0, (), "")


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


# -- the logs of other nodes -----------------------------------------------------------------------

THIRD = b"q" * 16


def abroad(base, count, lsn, slot=0, origin=OTHER_ORIGIN, **more):
    return row(base, count, lsn, slot, **more)._replace(origin=origin)


def arrivals(sub, *rows):
    """What is for the program of rows without bytes that matter."""
    payload = b"x" * sum(r.length for r in rows)
    return sub.on_deliver(Deliver(3, rows, 0, payload))


def test_each_log_has_a_place_of_its_own_and_all_are_asked_for():
    sub = accepted(Start(START_EARLIEST))
    assert deliver(sub, row(0, 2, 5), abroad(0, 3, 9, 4)) == [("a", 0, 0), ("a", 0, 0)]
    assert deliver(sub, abroad(3, 1, 10), row(2, 1, 6, 2)) == [("a", 3, 0), ("a", 2, 0)]
    frame = sub.subscribe()
    assert (frame.origin, *place(frame)) == (ORIGIN, START_POSITION, 6, 3)
    assert frame.places == (Place(OTHER_ORIGIN, 10, 1),)
    assert sub.missed == 0


def test_what_is_passed_over_is_counted_in_each_stream():
    sub = accepted()
    deliver(sub, row(0, 2, 1), abroad(10, 2, 1))
    deliver(sub, row(5, 1, 2), abroad(14, 1, 2), abroad(15, 1, 3))
    assert sub.missed == 3 + 2


def test_what_comes_again_of_another_log_is_not_handed_on():
    sub = accepted()
    deliver(sub, abroad(0, 4, 1))
    assert deliver(sub, abroad(0, 4, 1)) == []
    assert deliver(sub, abroad(2, 5, 1)) == [("a", 2, 2)]
    assert deliver(sub, row(0, 4, 1)) == [("a", 0, 0)]  # of the own log nothing was there


def test_at_another_node_its_log_is_the_own_one_and_the_first_one_another():
    sub = accepted(Start(START_EARLIEST))
    deliver(sub, row(0, 2, 5), abroad(0, 3, 9))
    sub.subscribe()
    sub.on_subscribed(Subscribed(3, "", "", OTHER_ORIGIN, 9, 1, 1))
    frame = sub.subscribe()
    assert (frame.origin, *place(frame)) == (OTHER_ORIGIN, START_POSITION, 9, 1)
    assert frame.places == (Place(ORIGIN, 5, 1),)
    assert deliver(sub, row(0, 3, 9), abroad(0, 2, 5, origin=ORIGIN)) == []
    assert deliver(sub, row(3, 1, 10), abroad(2, 1, 6, origin=ORIGIN)) == [
        ("a", 3, 0),
        ("a", 2, 0),
    ]
    assert sub.missed == 0


@pytest.mark.parametrize(
    ("start", "since"),
    [
        (Start(START_NEW), 77),
        (Start(START_EARLIEST), 0),
        (Start(START_TIME, 5), 5),
        (Start(START_TIME, -5), 0),
        (Start(START_POSITION, 6, ORIGIN, 4, 2, 1), 6),
    ],
)
def test_a_log_without_a_place_is_read_from_a_time_on(start, since):
    sub = subscriber(start)
    sub.subscribe()
    sub.on_subscribed(Subscribed(3, "", "", ORIGIN, 4, 2, 1, 77))
    sub.on_subscribed(Subscribed(3, "", "", ORIGIN, 4, 2, 1, 99))  # of the first answer
    frame = sub.subscribe()
    assert (frame.start, frame.value) == (START_POSITION, since)
    (arrival,) = arrivals(sub, row(0, 2, 8))
    assert arrival.since == since


def test_a_time_is_asked_for_again_until_it_shows_where_that_is():
    sub = accepted(Start(START_TIME, 5), lsn=0)
    frame = sub.subscribe()
    assert (frame.start, frame.value, frame.origin, frame.lsn) == (START_POSITION, 5, b"", 0)
    deliver(sub, row(7, 1, 40, 2))
    assert place(sub.subscribe()) == (START_POSITION, 40, 3)


def test_where_reading_begins_in_another_log_is_told():
    sub = accepted()
    sub.on_streams(Streams(3, (StreamsRow(OTHER_ORIGIN, "n2", False, 30, 2),)))
    assert sub.subscribe().places == (Place(OTHER_ORIGIN, 30, 2),)
    deliver(sub, abroad(0, 1, 31))
    sub.on_streams(Streams(3, (StreamsRow(OTHER_ORIGIN, "n2", False, 30, 2),)))
    assert sub.subscribe().places == (Place(OTHER_ORIGIN, 31, 1),)  # that is known better here


def test_a_start_in_several_logs_skips_in_each_what_was_read():
    others = (Place(OTHER_ORIGIN, 7, 1, 2), Place(THIRD, 3, 0))
    sub = subscriber(Start(START_POSITION, 9, ORIGIN, 4, 2, 1, others))
    frame = sub.subscribe()
    assert (frame.places, frame.value) == (others, 9)
    sub.on_subscribed(Subscribed(3, "", "", ORIGIN, 4, 2, 1))
    assert deliver(
        sub, abroad(5, 3, 7, 1), row(1, 4, 4, 2), abroad(0, 2, 3, origin=THIRD)
    ) == [("a", 5, 2), ("a", 1, 1), ("a", 0, 0)]  # fmt: skip


def test_an_arrival_says_where_the_other_logs_are_read_on():
    others = (Place(THIRD, 3, 0, 1),)
    sub = subscriber(Start(START_POSITION, 9, ORIGIN, 4, 2, 1, others))
    sub.subscribe()
    sub.on_subscribed(Subscribed(3, "", "", ORIGIN, 4, 2, 1))
    last = abroad(0, 1, 3, 0, THIRD)
    found = arrivals(sub, abroad(0, 3, 7), abroad(3, 3, 8), row(0, 4, 5), abroad(6, 1, 9), last)
    third = Place(THIRD, 3, 0, 1)
    assert [set(a.others) for a in found] == [
        {Place(ORIGIN, 4, 2, 1), third},
        {Place(ORIGIN, 4, 2, 1), third},
        {Place(OTHER_ORIGIN, 8, 1), third},
        {Place(ORIGIN, 5, 1), third},
    ]
    assert len(found) == 4  # of the third log one record was not wanted


def test_an_offset_is_of_the_own_log():
    sub = accepted(Start(START_OFFSET, 7))
    assert deliver(sub, abroad(0, 2, 1)) == [("a", 0, 0)]
    frame = sub.subscribe()
    assert (frame.start, frame.value) == (START_OFFSET, 7)
    assert frame.places == (Place(OTHER_ORIGIN, 1, 1),)
    sub.on_subscribed(Subscribed(3, "", "", ORIGIN, 1, 0, 1))
    assert deliver(sub, row(5, 4, 3)) == [("a", 5, 2)]
    assert place(sub.subscribe()) == (START_POSITION, 3, 1)


def test_who_is_away_is_known_by_name_until_it_is_back_or_the_session_ends():
    sub = accepted()
    one, two = StreamsRow(OTHER_ORIGIN, "n2", True), StreamsRow(THIRD, "", True)
    assert sub.on_streams(Streams(3, (one, two))) == [
        "subscription to 'a': node n2 is away: its records wait",
        f"subscription to 'a': node {THIRD.hex()[:8]} is away: its records wait",
    ]
    assert sub.away == (THIRD.hex()[:8], "n2")
    assert sub.on_streams(Streams(3, (one,))) == []
    back = one._replace(name="", away=False)
    assert sub.on_streams(Streams(3, (back,))) == ["subscription to 'a': node n2 is back"]
    assert sub.away == (THIRD.hex()[:8],)
    gone = two._replace(away=False, gone=True)
    (news,) = sub.on_streams(Streams(3, (gone,)))
    assert news.endswith("is forgotten: nobody waits for its records any more")
    assert sub.away == ()
    sub.subscribe()
    assert sub.away == ()
    assert sub.on_streams(Streams(3, (one,))) != []  # this node has not told it yet


def test_the_logs_that_are_known_are_bounded():
    sub = accepted()
    deliver(sub, row(0, 1, 1))
    for i in range(limits.PLACES_MAX + 50):
        deliver(sub, abroad(0, 1, 1, origin=b"%016d" % i))
    frame = sub.subscribe()
    assert frame.origin == ORIGIN
    assert len(frame.places) == limits.PLACES_MAX - 1
    assert frame.places[-1].origin == b"%016d" % (limits.PLACES_MAX + 49)
