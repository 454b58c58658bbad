"""A node's side of topics that also go directly: numbers, gaps, routes, markers, the unwanted."""

from __future__ import annotations

import pytest

from meshmq import codec, limits
from meshmq.core.events import FrameReceived
from meshmq.frames import (
    START_EARLIEST,
    START_OFFSET,
    Bye,
    Confirm,
    Deliver,
    Envelope,
    Refuse,
    Route,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Wanted,
)
from meshmq.limits import MS, SECOND
from tests.core.routes import LOTS, PUB, SUB, THIRD, Bench, P, S, T, batch, gap, marker, rec, routes

SMALL = {"queue_bytes": 300}  # three batches of a hundred bytes fit


def big(letter):
    return letter.encode() * 96  # with its length a batch of 100 bytes


def answers(bench, link=SUB):
    return [(a.subscription, a.code) for a in bench.take(link, Subscribed)]


# -- numbers ---------------------------------------------------------------------------------------


def test_rows_of_numbered_batches_carry_the_number_and_whose_it_is():
    bench = Bench()
    bench.open("x")
    bench.tell("x", 1, b"a", b"b")
    bench.tell("x", 3, b"c")
    assert bench.got() == [rec(1, b"a"), rec(2, b"b"), rec(3, b"c")]


def test_rows_of_others_are_as_before():
    bench = Bench()
    bench.open("x")
    bench.tell("x", 1, b"a", numbered=False)
    (frame,) = bench.take(SUB, Deliver)
    (row,) = frame.batches
    assert (row.base_offset, row.source, row.missing) == (0, b"", False)


def test_the_flags_mean_nothing_on_a_durable_topic():
    bench = Bench()
    bench.routes([S])
    bench.open("durable")
    bench.send(batch("durable", 1, b"a", routed=True))
    bench.sync()
    assert bench.got() == [marker(), ("durable", 0, b"", b"a")]
    (confirm,) = bench.take(PUB, Confirm)
    assert not confirm.confirmations[0].unwanted


# -- gaps ------------------------------------------------------------------------------------------


def test_what_was_dropped_is_told_by_its_numbers_before_what_is_newer():
    bench = Bench(**SMALL)
    bench.open("x", size=0)
    for i, letter in enumerate("abcde", 1):
        bench.tell("x", i, big(letter))
    assert bench.got() == []
    bench.credit()
    assert bench.got() == [gap("x", 1, 2), *[rec(i, big("abcde"[i - 1])) for i in (3, 4, 5)]]
    bench.tell("x", 6, b"f")
    assert bench.got() == [rec(6, b"f")]  # told once


def test_what_was_dropped_is_counted_as_before_but_not_told_as_missed():
    bench = Bench(**SMALL)
    bench.open("x", size=0)
    for i, letter in enumerate("abcde", 1):
        bench.tell("x", i, big(letter))
    status = bench.node.status()
    assert status["drops"]["subscription-queue-full"] == 2
    assert status["subscriptions"][0]["dropped"] == 2
    bench.credit()
    assert [frame.missed for frame in bench.take(SUB, Deliver)] == [0]


def test_what_has_no_numbers_is_told_as_missed():
    bench = Bench(**SMALL)
    bench.open(">", size=0)
    bench.tell("y", 1, big("n"), numbered=False)
    bench.tell("x", 1, big("a"))
    for i, letter in enumerate("bcd", 2):
        bench.tell("x", i, big(letter))
    bench.credit()
    (frame,) = bench.take(SUB, Deliver)
    assert frame.missed == 1
    rows = [(r.missing, r.topic, r.base_offset, r.count) for r in frame.batches]
    assert rows == [(True, "x", 1, 1), *[(False, "x", i, 1) for i in (2, 3, 4)]]


def test_gaps_are_told_of_each_source_and_topic():
    bench = Bench(**SMALL)
    bench.open(">", size=0)
    bench.tell("x", 1, big("a"))
    bench.tell("y", 1, big("b"))
    bench.tell("x", 1, big("c"), link=THIRD)
    bench.tell("x", 2, big("d"))
    for i in range(2, 5):
        bench.tell("y", i, big("e"))
    bench.credit()
    got = bench.got()
    assert got[:3] == [gap("x", 1, 2), gap("y", 1, 1), gap("x", 1, 1, T)]
    assert [g[1] for g in got[3:]] == [2, 3, 4]


def test_numbers_between_two_gaps_that_went_another_way_are_not_told_as_missing():
    bench = Bench(**SMALL)
    bench.open("x", size=0)
    bench.tell("x", 1, big("a"))
    for i in (7, 8, 9, 10):
        bench.send(batch_after("x", i, big("b"), after=i - 1 if i > 7 else 1))
    bench.credit()
    assert bench.got()[:2] == [gap("x", 1, 1), gap("x", 7, 1)]


def batch_after(topic, first, value, after):
    frame = batch(topic, first, value)
    return type(frame)((frame.batches[0]._replace(after=after),), frame.payload)


def test_a_row_names_no_more_than_its_field_holds(monkeypatch):
    monkeypatch.setattr(limits, "GAP_RECORDS_MAX", 2)
    bench = Bench(**SMALL)
    bench.open("x", size=0)
    for i in range(1, 9):
        bench.tell("x", i, big("a"))
    bench.credit()
    assert bench.got()[:3] == [gap("x", 1, 2), gap("x", 3, 2), gap("x", 5, 1)]


def test_gaps_that_are_not_told_are_bounded_then_told_without_credit(monkeypatch):
    monkeypatch.setattr(limits, "GAPS_MAX", 4)
    bench = Bench(**SMALL)
    bench.open("t.>", size=0)
    for i in range(9):
        bench.tell(f"t.{i}", 1, big("a"))
        (sub,) = bench.node.delivery.subscriptions
        assert len(sub.gaps) < 4
    assert bench.got() == [gap(f"t.{i}", 1, 1) for i in range(4)]


# -- routes ----------------------------------------------------------------------------------------


def test_what_is_routed_does_not_go_to_those_who_have_it_directly():
    bench = Bench()
    bench.open("x")
    bench.open("x", THIRD)
    bench.routes([S])
    assert bench.got() == [marker()]
    bench.tell("x", 1, b"a", routed=True)
    bench.tell("x", 2, b"b")
    assert bench.got() == [rec(2, b"b")]
    assert bench.got(THIRD) == [rec(1, b"a"), rec(2, b"b")]


def test_routes_are_of_one_publisher():
    bench = Bench()
    bench.open("x")
    bench.routes([S])
    bench.got()
    bench.tell("x", 1, b"a", routed=True, link=THIRD)
    assert bench.got() == [rec(1, b"a", source=T)]


def test_its_own_subscriptions_may_be_among_them():
    bench = Bench()
    bench.open("x", PUB)
    bench.routes([P])
    assert bench.got(PUB) == [marker()]
    bench.tell("x", 1, b"a", routed=True)
    assert bench.got(PUB) == []


def test_a_route_that_is_taken_back_has_a_marker_too_and_all_goes_by_the_node():
    bench = Bench()
    bench.open("x")
    bench.routes([S])
    bench.routes(remove=[S])
    bench.tell("x", 1, b"a", routed=True)
    assert bench.got() == [marker(), marker(), rec(1, b"a")]


def test_only_what_changes_has_a_marker():
    bench = Bench()
    bench.open("x")
    bench.routes([S])
    bench.got()
    bench.routes([S], remove=[T])
    bench.routes(remove=[T])
    assert bench.got() == []


def test_each_subscription_of_the_program_has_its_marker_and_nobody_elses():
    bench = Bench()
    bench.open("x", number=1)
    bench.open("y", number=2)
    bench.open("x", THIRD)
    bench.take(SUB, Subscribed)
    bench.routes([S])
    assert sorted(f.subscription for f in bench.take(SUB, Deliver)) == [1, 2]
    assert bench.got(THIRD) == []


def test_a_subscription_opened_later_has_its_own_at_once():
    bench = Bench()
    bench.routes([S])
    bench.open("x")
    assert bench.got() == [marker()]
    bench.tell("x", 1, b"a", routed=True)
    assert bench.got() == []
    bench.routes(remove=[S])
    assert bench.got() == [marker()]


def test_a_route_may_be_of_some_subscriptions():
    bench = Bench()
    bench.open("x", number=1)
    bench.routes([Route(S, (2, 3))])
    assert bench.got() == []
    bench.tell("x", 1, b"a", routed=True)
    assert bench.got() == [rec(1, b"a")]
    bench.routes([Route(S, (1, 2))])
    assert bench.got() == [marker()]
    bench.routes([Route(S, (1, 3))])  # no news
    bench.tell("x", 2, b"b", routed=True)
    assert bench.got() == []
    bench.routes(remove=[Route(S, (2,))])
    assert bench.got() == []
    bench.routes(remove=[Route(S, (1,))])
    bench.tell("x", 3, b"c", routed=True)
    assert bench.got() == [marker(), rec(3, b"c")]


def test_a_subscription_that_is_named_before_it_is_there_has_its_marker_once_it_is():
    bench = Bench()
    bench.routes([Route(S, (3,))])
    bench.open("x", number=2)
    assert bench.got(number=2) == []
    bench.open("x", number=3)
    assert bench.got(number=3) == [marker()]


def test_a_marker_stands_behind_what_waits_and_needs_no_credit_itself():
    bench = Bench()
    bench.open("x", size=100, records=1)
    for i, letter in enumerate("abc", 1):
        bench.tell("x", i, big(letter))
    bench.routes([S])
    bench.tell("x", 4, big("d"))
    assert bench.got() == [rec(1, big("a"))]
    bench.credit(100, 1)
    assert bench.got() == [rec(2, big("b"))]
    bench.credit(100, 1)
    assert bench.got() == [rec(3, big("c")), marker()]
    bench.credit(100, 1)
    assert bench.got() == [rec(4, big("d"))]


def test_a_marker_leaves_at_once_where_nothing_waits_before_it():
    bench = Bench()
    bench.open("x", size=0, records=0)
    bench.routes([S])
    assert bench.got() == [marker()]


def test_a_marker_is_not_dropped_with_what_is_before_it():
    bench = Bench(queue_bytes=700)
    bench.open("x", size=0)
    for i in (1, 2, 3):
        bench.tell("x", i, big("a"))
    bench.routes([S])
    for i in (4, 5, 6):
        bench.tell("x", i, big("b"))
    assert bench.got() == []
    bench.tell("x", 7, big("b"))
    assert bench.got() == [gap("x", 1, 3), marker()]
    bench.credit()
    assert bench.got() == [rec(i, big("b")) for i in (4, 5, 6, 7)]


def test_markers_and_rows_of_one_turn_keep_their_order():
    bench = Bench()
    bench.open("x")
    bench.take(SUB)
    bench.together(
        (PUB, batch("x", 1, b"a", routed=True)),
        (PUB, routes((S,))),
        (PUB, batch("x", 2, b"b", routed=True)),
        (PUB, routes((), (S,))),
        (PUB, batch("x", 3, b"c", routed=True)),
    )
    assert bench.got() == [rec(1, b"a"), marker(), marker(), rec(3, b"c")]


def test_what_was_dropped_before_a_marker_is_told_before_it():
    bench = Bench(**SMALL)
    bench.open("x", size=0)
    bench.tell("x", 1, big("a"))
    bench.tell("x", 2, big("b"))
    bench.routes([S])
    bench.tell("x", 3, big("c"))
    assert bench.got() == [gap("x", 1, 2), marker()]  # the marker is not dropped, nor overtakes
    bench.tell("x", 4, big("d"))
    bench.tell("x", 5, big("e"))
    bench.tell("x", 6, big("f"))
    bench.credit()
    assert bench.got() == [gap("x", 3, 1), *[rec(i, big("abcdef"[i - 1])) for i in (4, 5, 6)]]


def test_markers_that_wait_are_bounded():
    bench = Bench(queue_bytes=4 * limits.MARKER_BYTES)
    bench.open("x", size=0)
    bench.tell("x", 1, big("a"))
    for _ in range(20):
        bench.routes([S])
        bench.routes(remove=[S])
    (sub,) = bench.node.delivery.subscriptions
    assert sub.queue_bytes <= 4 * limits.MARKER_BYTES
    assert bench.got() == [gap("x", 1, 1), *[marker()] * 40]


def test_what_waits_is_accounted_for_to_the_byte():
    bench = Bench()
    for link in (SUB, THIRD):
        bench.open("x", link, size=0)
        bench.tell("x", 1 if link == SUB else 2, big("a"))
    bench.routes([S, T])
    assert bench.node.delivery.queued_bytes == 3 * 100 + 2 * limits.MARKER_BYTES
    bench.credit()
    assert bench.node.delivery.queued_bytes == 100 + limits.MARKER_BYTES
    bench.lose(THIRD)
    assert bench.node.delivery.queued_bytes == 0


def test_a_node_that_is_crowded_lets_markers_pass():
    bench = Bench(delivered_bytes=50)
    bench.deaf.add(SUB)
    bench.open("x")
    bench.tell("x", 1, big("a"))
    bench.tell("x", 2, big("b"))
    bench.routes([S])
    assert bench.got() == [rec(1, big("a"))]  # it does not overtake the second one
    bench.ack(SUB)
    assert bench.got() == [rec(2, big("b")), marker()]
    bench.routes(remove=[S])
    assert bench.got() == [marker()]


def test_routes_end_with_their_session():
    bench = Bench()
    bench.open("x")
    bench.routes([S])
    bench.lose(PUB)
    bench.join(PUB, P)
    bench.got()
    bench.tell("x", 1, b"a", routed=True)
    assert bench.got() == [rec(1, b"a")]
    bench.routes([S])
    assert bench.got() == [marker()]  # the new session says it anew


def test_a_program_that_comes_back_is_still_among_the_routes():
    bench = Bench()
    bench.open("x")
    bench.routes([S])
    bench.lose(SUB)
    assert bench.join(SUB, S)
    bench.open("x")
    bench.take(SUB)
    bench.tell("x", 1, b"a", routed=True)
    assert bench.got() == []
    bench.routes(remove=[S])
    assert bench.got() == [marker()]


def test_a_subscription_that_was_closed_gets_no_marker():
    bench = Bench()
    bench.open("x")
    bench.send(Unsubscribe(1), SUB)
    bench.routes([S])
    assert bench.got() == []
    assert bench.node.delivery.mark(Route(S), P) == []


def test_too_many_routes_end_the_session(monkeypatch):
    monkeypatch.setattr(limits, "DIRECT_PEERS_MAX", 2)
    bench = Bench()
    runs = [bytes([i]) * 16 for i in range(5)]
    bench.routes(runs[:3])
    bench.routes([runs[3]], remove=[runs[0]])
    assert bench.take(PUB, Refuse) == []
    bench.routes([runs[4]])
    (refusal,) = bench.take(PUB, Refuse)
    assert refusal.code == "bad-frame"
    assert PUB not in bench.node.peers


# -- unwanted --------------------------------------------------------------------------------------


def unwanted(bench, topic="x", first=1, link=PUB):
    return bench.tell(topic, first, b"a", routed=True, link=link).unwanted


def test_a_topic_nobody_wants_here_is_said_to_be_unwanted():
    bench = Bench()
    bench.open("x")
    assert not unwanted(bench)
    bench.routes([S])
    assert unwanted(bench, first=2)
    assert not bench.tell("x", 3, b"a").unwanted  # not routed
    assert not bench.tell("x", 4, b"a", numbered=False, routed=True).unwanted


def test_confirmations_are_joined_only_where_both_are_unwanted():
    bench = Bench()
    bench.together(
        (PUB, batch("x", 1, b"a", routed=True)),
        (PUB, batch("x", 2, b"a", routed=True)),
        (PUB, batch("x", 3, b"a")),
    )
    (confirm,) = bench.take(PUB, Confirm)
    assert [(c.first, c.count, c.unwanted) for c in confirm.confirmations] == [
        (1, 2, True), (3, 1, False),
    ]  # fmt: skip


def test_so_many_topics_are_said_to_be_unwanted(monkeypatch):
    monkeypatch.setattr(limits, "UNWANTED_PER_SESSION_MAX", 2)
    monkeypatch.setattr(limits, "UNWANTED_MAX", 3)
    bench = Bench()
    assert [unwanted(bench, f"t.{i}") for i in range(3)] == [True, True, False]
    assert [unwanted(bench, f"t.{i}", link=THIRD) for i in range(2)] == [True, False]
    assert unwanted(bench, "t.1", first=2)  # it is known
    bench.lose(PUB)
    assert unwanted(bench, "t.1", first=2, link=THIRD)


def test_a_publisher_is_told_when_somebody_wants_it_and_only_then_the_answer_goes():
    bench = Bench()
    unwanted(bench)
    unwanted(bench, "y")
    bench.deaf.add(PUB)
    bench.open("x")
    assert bench.wanted() == ["x"]
    assert answers(bench) == []
    bench.ack()
    assert answers(bench) == [(1, "")]
    bench.open(">", number=2)
    assert bench.wanted() == ["y"]  # x is forgotten
    assert answers(bench) == []


def test_what_comes_while_the_answer_waits_goes_behind_it():
    bench = Bench()
    unwanted(bench)
    bench.deaf.add(PUB)
    bench.open("x")
    bench.tell("x", 2, b"b", routed=True)
    bench.routes([S])
    assert bench.take(SUB) == []
    bench.ack()
    answer, frame = bench.take(SUB)
    assert isinstance(answer, Subscribed)
    assert [(r.topic, r.base_offset) for r in frame.batches] == [("x", 2), ("", 0)]


def test_durable_records_wait_for_the_answer_too():
    bench = Bench()
    bench.tell("t.x", 1, b"a", routed=True)
    bench.publish("log", 1, b"old")
    bench.sync()
    bench.deaf.add(PUB)
    bench.send(Subscribe(1, ">", START_EARLIEST, 0, b"", 0, 0, LOTS, LOTS), SUB)
    bench.publish("log", 2, b"new")
    bench.sync()
    assert bench.take(SUB) == []
    bench.ack()
    assert answers(bench) == [(1, "")]
    assert [value for *_, value in bench.got()] == [b"old", b"new"]


def test_the_answer_does_not_wait_where_nobody_was_told():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("y")
    assert answers(bench) == [(1, "")]
    assert bench.wanted() == []


def test_who_has_it_directly_waits_for_nobody():
    bench = Bench()
    bench.deaf.add(PUB)
    bench.routes([S])
    unwanted(bench)
    bench.open("x")
    assert answers(bench) == [(1, "")]
    assert bench.wanted() == []
    bench.open("x", THIRD)
    assert answers(bench, THIRD) == []
    assert bench.wanted() == ["x"]


def test_the_answer_waits_for_every_publisher():
    bench = Bench()
    bench.join(b"q", b"Q" * 16)
    for link in (PUB, THIRD, b"q"):
        bench.deaf.add(link)
        unwanted(bench, link=link)
    bench.open("x")
    for link in (PUB, THIRD, b"q"):
        assert answers(bench) == []
        assert bench.wanted(link) == ["x"]
        bench.ack(link)
    assert answers(bench) == [(1, "")]


def test_a_second_one_waits_for_what_is_on_its_way_already():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    bench.open("x", THIRD)
    assert bench.wanted() == ["x"]
    assert answers(bench, THIRD) == []
    bench.ack()
    assert answers(bench) == answers(bench, THIRD) == [(1, "")]


def test_the_session_must_acknowledge_that_frame():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    sent = bench.node.peers[PUB].session.sent
    bench.ack(acked=sent - 1)
    assert answers(bench) == []
    bench.ack(acked=sent)
    assert answers(bench) == [(1, "")]


def test_a_publisher_that_is_gone_holds_nothing_up():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    bench.tell("y", 1, b"a")
    bench.lose(PUB)
    assert answers(bench) == [(1, "")]
    bench.join(PUB, P)
    bench.tell("x", 2, b"b")
    assert bench.got() == [rec(2, b"b")]


def test_a_publisher_that_says_goodbye_holds_nothing_up_and_what_waited_goes_at_once():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    bench.tell("x", 2, b"b", routed=True)
    bench.handle(FrameReceived(PUB, Envelope(7, 0, 0, Bye())))
    assert answers(bench) == [(1, "")]
    assert bench.got() == [rec(2, b"b")]


def test_a_publisher_that_is_silent_holds_it_up_for_so_long():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    assert bench.node.next_deadline_ns() <= bench.now_ns + limits.NOTED_NS
    bench.wait(limits.NOTED_NS - 1)
    assert answers(bench) == []
    bench.wait(1)
    assert answers(bench) == [(1, "")]


def test_the_node_wakes_up_for_an_answer_that_waits():
    bench = Bench()
    bench.deaf.add(PUB)
    bench.wait(0)
    unwanted(bench)
    bench.wait(500 * MS)
    for link in (PUB, SUB, THIRD):
        bench.ack(link)
    bench.open("x")
    transients = bench.node.transients
    assert transients.next_deadline_ns() == bench.now_ns + limits.NOTED_NS
    bench.node._retention_ns = bench.now_ns + 10 * SECOND
    for peer in bench.node.peers.values():
        peer.due_ns = 0
    bench.node.sessions._timers._due = [(bench.now_ns + 10 * SECOND, PUB)]
    assert bench.node.next_deadline_ns() == bench.now_ns + limits.NOTED_NS


def test_credit_that_comes_while_the_answer_waits_counts():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x", size=0, records=0)
    bench.credit(50, 5)
    bench.tell("x", 2, b"b")
    assert bench.take(SUB) == []
    bench.ack()
    assert answers(bench) == [(1, "")]
    assert bench.got() == [rec(2, b"b")]
    (sub,) = bench.node.delivery.subscriptions
    assert (sub.credit_bytes, sub.credit_records) == (50 - 5, 4)


def test_a_subscription_closed_while_its_answer_waits_is_answered_and_gone():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    bench.tell("x", 2, b"b")
    bench.send(Unsubscribe(1), SUB)
    assert answers(bench) == [(1, "")]
    bench.ack()
    bench.ack(SUB)
    bench.wait(limits.NOTED_NS)
    assert bench.take(SUB, (Subscribed, Deliver)) == []
    assert len(bench.node.delivery) == 0


def test_one_opened_again_under_its_number_is_answered_once_for_each():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    unwanted(bench, "y")
    bench.open("x")
    bench.open("y")
    assert answers(bench) == [(1, "")]
    bench.ack()
    assert answers(bench) == [(1, "")]
    bench.tell("y", 2, b"b")
    assert bench.got() == [rec(2, b"b", "y")]


def test_a_refused_one_is_answered_at_once_and_wakes_nobody():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.send(Subscribe(1, "x", START_OFFSET, 5, b"", 0, 0, LOTS, LOTS), SUB)
    assert answers(bench) == [(1, "durability-unavailable")]
    assert bench.wanted() == []


def test_an_answer_to_a_session_that_is_gone_waits_no_more():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    bench.lose(SUB)
    assert bench.node.transients.next_deadline_ns() is None
    bench.join(SUB, S)
    bench.ack()
    assert answers(bench) == []


def test_a_queue_that_is_full_ends_the_waiting():
    bench = Bench(**SMALL)
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x", size=0)
    for i, letter in enumerate("abcd", 2):
        assert bench.take(SUB) == []
        bench.tell("x", i, big(letter))
    assert answers(bench) == [(1, "")]
    bench.credit()
    assert bench.got()[:2] == [gap("x", 2, 1), rec(3, big("b"))]


def test_wanted_comes_behind_the_confirmation_that_says_the_contrary():
    bench = Bench()
    bench.together(
        (PUB, batch("x", 1, b"a", routed=True)),
        (SUB, Subscribe(1, "x", 0, 0, b"", 0, 0, LOTS, LOTS)),
    )
    confirm, wanted = bench.take(PUB)[-2:]
    assert (type(confirm), type(wanted)) == (Confirm, Wanted)
    assert confirm.confirmations[0].unwanted
    assert wanted == Wanted(("x",))


def test_what_is_wanted_no_more_is_unwanted_again():
    bench = Bench()
    bench.deaf.add(PUB)
    unwanted(bench)
    bench.open("x")
    bench.send(Unsubscribe(1), SUB)
    assert unwanted(bench, first=2)  # sent before it knew
    bench.ack()  # of the Wanted before
    bench.open("x", number=2)
    assert bench.wanted() == ["x", "x"]


def test_topics_that_are_wanted_share_frames(monkeypatch):
    monkeypatch.setattr(limits, "FRAME_BATCHES_MAX", 2)
    bench = Bench()
    for i in range(5):
        unwanted(bench, f"t.{i}")
    bench.deaf.add(PUB)
    bench.open("t.>")
    assert [len(frame.topics) for frame in bench.take(PUB, Wanted)] == [2, 2, 1]
    sent = bench.node.peers[PUB].session.sent
    for acked in (sent - 2, sent - 1, sent):
        assert answers(bench) == []
        bench.ack(acked=acked)
    assert answers(bench) == [(1, "")]


def test_a_route_that_is_taken_back_makes_both_forget_what_was_unwanted():
    bench = Bench()
    bench.deaf.add(PUB)
    bench.routes([S])
    unwanted(bench)
    bench.routes(remove=[S])
    bench.open("x", THIRD)
    assert answers(bench, THIRD) == [(1, "")]
    assert bench.wanted() == []


def test_a_route_that_is_taken_back_ends_the_waiting():
    bench = Bench()
    bench.deaf.add(PUB)
    bench.routes([S])
    unwanted(bench)
    bench.open("x", THIRD)
    assert answers(bench, THIRD) == []
    bench.routes(remove=[S])
    assert answers(bench, THIRD) == [(1, "")]
    bench.ack()  # of what is forgotten
    assert unwanted(bench, "y")


def test_a_topic_that_is_deleted_is_sent_again_for_it_may_be_durable_now():
    bench = Bench()
    unwanted(bench)
    bench.done("topic.delete", topic="x")
    assert bench.wanted() == ["x"]


def test_nothing_is_kept_of_sessions_that_are_gone():
    bench = Bench()
    bench.deaf.add(PUB)
    bench.routes([S])
    unwanted(bench)
    bench.open("x", THIRD)
    for link in (PUB, SUB, THIRD):
        bench.lose(link)
    transients = bench.node.transients
    kept = (transients._publishers, transients._unwanted, transients.wanted, transients._held)
    assert kept == ({}, {}, {}, {})
    assert transients.telling == {}
    assert transients._count == 0
    assert bench.node.delivery._of_instance == {}


def test_all_of_it_travels():
    bench = Bench(queue_bytes=700)
    bench.open("x", size=0)
    for i in range(1, 9):
        bench.tell("x", i, big("a"))
    bench.routes([S])
    bench.credit()
    unwanted(bench, "y")
    bench.open("y", THIRD)
    for envelopes in bench.inbox.values():
        for envelope in envelopes:
            assert codec.decode(codec.encode(envelope)) == envelope
    assert bench.got() == [gap("x", 1, 4), *[rec(i, big("a")) for i in range(5, 9)], marker()]


@pytest.mark.parametrize("flags", [{}, {"numbered": True}])
def test_clients_that_say_nothing_of_routes_are_served_as_before(flags):
    bench = Bench()
    bench.open("x")
    confirmation = bench.tell("x", 1, b"a", **{"numbered": False, **flags})
    assert not confirmation.unwanted
    assert len(bench.got()) == 1
    assert not bench.node.transients._publishers
