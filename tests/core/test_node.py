"""The node's core as a whole: sessions, fencing, publishing, delivering, status."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import BadFrameReceived, FrameReceived, RetentionPlanned
from meshmq.core.log import TrimEntry
from meshmq.frames import (
    PROTOCOL_MINOR,
    START_EARLIEST,
    SYNCED,
    Bye,
    Command,
    Confirm,
    Credit,
    Deliver,
    Envelope,
    Hello,
    Nothing,
    Ping,
    Publish,
    Refuse,
    Result,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from tests.core.helpers import LINK, ORIGIN, OTHER_LINK, SECOND, A, B, batch_of
from tests.core.nodes import WALL, NodeBench, hello


@pytest.fixture
def bench():
    return NodeBench()


@pytest.fixture
def linked(bench):
    bench.connect()
    return bench


def confirmations(bench, link=LINK):
    return [c for frame in bench.take(link, Confirm) for c in frame.confirmations]


# -- handshake -------------------------------------------------------------------------------------


def test_the_welcome_says_who_the_node_is(bench):
    welcome = bench.connect()
    assert welcome == Welcome(
        1, PROTOCOL_MINOR, ORIGIN, "node-1", "meshmq test", limits.PRODUCER_IN_FLIGHT_BYTES_MAX
    )


def test_another_protocol_is_refused_and_both_versions_are_named(bench):
    refusal = bench.connect(greeting=hello(major=2))
    assert refusal.code == "version-mismatch"
    assert f"1.{PROTOCOL_MINOR}" in refusal.message
    assert f"2.{PROTOCOL_MINOR}" in refusal.message
    assert bench.node.peers == {}


def test_another_minor_version_is_welcome(bench):
    greeting = Hello(1, 99, "local", b"i" * 16, A)
    assert isinstance(bench.connect(greeting=greeting), Welcome)


def test_another_mesh_is_refused_and_both_are_named(bench):
    refusal = bench.connect(greeting=hello(mesh="other-mesh"))
    assert refusal.code == "mesh-mismatch"
    assert "'local'" in refusal.message
    assert "'other-mesh'" in refusal.message


def test_sessions_are_bounded(bench, monkeypatch):
    monkeypatch.setattr("meshmq.limits.SESSIONS_MAX", 2)
    for i in range(2):
        assert isinstance(bench.connect(bytes([i]), greeting=hello(bytes([i]) * 16)), Welcome)
    refusal = bench.connect(b"third", greeting=hello(b"t" * 16))
    assert refusal.code == "busy"
    assert "2 sessions" in refusal.message
    bench.lose(bytes([0]))
    assert isinstance(bench.connect(b"third", greeting=hello(b"t" * 16)), Welcome)
    assert bench.node.status()["sessions"] == {"open": 2, "opened": 3, "refused": 1, "readers": 0}


def test_a_hello_said_again_is_answered_again_in_the_same_session(linked):
    linked.subscribe("a")
    assert isinstance(linked.connect(), Welcome)
    assert len(linked.node.delivery) == 1
    assert linked.node.sessions_opened == 1


def test_a_hello_with_a_new_number_on_the_same_link_is_a_new_session(linked):
    linked.subscribe("a")
    assert isinstance(linked.connect(session=8), Welcome)
    assert len(linked.node.delivery) == 0
    assert len(linked.node.peers) == 1


def test_frames_of_a_session_the_node_does_not_know_are_told_so(bench):
    for body in (Nothing(), Ping(), Publish((), b"")):
        bench.handle(FrameReceived(LINK, Envelope(99, 1, 0, body)))
        (refusal,) = bench.take()
        assert (refusal.code, bench.node.peers) == ("link-lost", {})


def test_the_answer_names_the_number_of_the_unknown_session(linked):
    linked.handle(FrameReceived(LINK, Envelope(99, 1, 0, Nothing())))
    (envelope,) = linked.inbox[LINK]
    assert (envelope.session, envelope.sequence) == (99, 0)
    assert LINK in linked.node.peers


def test_a_refusal_is_never_answered(bench):
    bench.handle(FrameReceived(LINK, Envelope(99, 0, 0, Refuse("x", "y"))))
    assert bench.take() == []


def test_a_restarted_node_knows_no_session_of_its_earlier_life(linked):
    linked.start()
    linked.sequences[LINK, 7] = 0
    linked.publish("a", 1, b"x")
    assert [r.code for r in linked.take(kind=Refuse)] == ["link-lost"]
    assert linked.appends == []


# -- one producer, one program ---------------------------------------------------------------------


def test_another_program_with_the_producers_name_fences_the_first(bench):
    bench.connect(LINK, greeting=hello(A, b"1" * 16))
    assert isinstance(bench.connect(OTHER_LINK, 9, hello(A, b"2" * 16)), Welcome)
    (refusal,) = bench.take(LINK, Refuse)
    assert refusal.code == "producer-fenced"
    assert list(bench.node.peers) == [OTHER_LINK]
    bench.sequences[LINK, 7] = 0
    bench.publish("a", 1, b"late")
    assert bench.appends == []
    assert [r.code for r in bench.take(LINK, Refuse)] == ["link-lost"]


def test_the_same_program_over_a_new_link_is_not_fenced(bench):
    bench.connect(LINK)
    bench.subscribe("a")
    assert isinstance(bench.connect(OTHER_LINK, 9), Welcome)
    assert bench.take(LINK, Refuse) == []
    assert bench.closed == [LINK]
    assert len(bench.node.delivery) == 0


def test_a_fenced_links_end_does_not_harm_its_successor(bench):
    bench.connect(LINK, greeting=hello(A, b"1" * 16))
    bench.connect(OTHER_LINK, 9, hello(A, b"2" * 16))
    bench.lose(LINK)
    refused = bench.connect(b"third", 11, hello(A, b"3" * 16))
    assert isinstance(refused, Welcome)
    assert [r.code for r in bench.take(OTHER_LINK, Refuse)] == ["producer-fenced"]


def test_producers_with_other_names_do_not_meet(bench):
    bench.connect(LINK, greeting=hello(A))
    bench.connect(OTHER_LINK, 9, hello(B, b"2" * 16))
    assert len(bench.node.peers) == 2
    assert bench.take(LINK, Refuse) == []


# -- publish, confirm, deliver ---------------------------------------------------------------------


def test_a_durable_record_is_confirmed_and_delivered_after_its_sync_only(linked):
    linked.subscribe("a")
    linked.publish("a", 1, b"1", b"2")
    assert linked.node.has_unsynced
    assert linked.take(kind=(Confirm, Deliver)) == []
    linked.sync()
    assert not linked.node.has_unsynced
    assert linked.delivered() == [("a", b"1"), ("a", b"2")]
    (c,) = confirmations(linked)
    assert (c.topic, c.first, c.count, c.code) == ("a", 1, 2, "")
    assert (c.base_offset, c.has_offset, c.durability) == (0, True, SYNCED)
    assert (c.append_time_ns, c.last) == (WALL, 2)


def test_a_confirmation_goes_out_before_the_deliveries(linked):
    linked.subscribe("a")
    linked.publish("a", 1, b"1")
    linked.sync()
    kinds = [type(b) for b in linked.take(kind=(Confirm, Deliver))]
    assert kinds == [Confirm, Deliver]  # who waits for it does not wait for others' records


def test_a_transient_record_is_delivered_and_confirmed_at_once(linked):
    linked.done("topic.create", pattern="t", durability="transient")
    linked.subscribe("t")
    linked.publish("t", 1, b"1")
    assert linked.delivered() == [("t", b"1")]
    (c,) = confirmations(linked)
    assert (c.code, c.has_offset, linked.appends) == ("", False, [])


def test_one_frame_may_carry_batches_of_many_topics(linked):
    parts = [batch_of(t, 1, t.encode() * 3) for t in ("a", "b", "c")]
    linked.send(Publish(tuple(row for row, _ in parts), b"".join(d for _, d in parts)))
    assert len(linked.appends) == 1
    linked.sync()
    assert [c.topic for c in confirmations(linked)] == ["a", "b", "c"]
    assert sorted(v for (_, _), v in linked.disk.synced.items()) == [b"aaa", b"bbb", b"ccc"]


def test_what_came_in_one_turn_is_appended_and_confirmed_together(linked):
    frames = []
    for i in range(1, 4):
        row, data = batch_of("a", i, b"x")
        other, more = batch_of("b", i, b"y")
        frames.append(Publish((row, other), data + more))
    linked.turn(*frames)
    (append,) = linked.appends
    assert len(append.entries) == 2 + 6  # two topics are made
    linked.sync()
    (confirm,) = linked.take(kind=Confirm)
    covered = sorted(
        (c.topic, c.first + i, c.base_offset + i)
        for c in confirm.confirmations
        for i in range(c.count)
    )
    assert covered == [(t, i, i - 1) for t in "ab" for i in (1, 2, 3)]


def test_a_transient_record_does_not_wait_for_the_end_of_the_turn(linked):
    linked.done("topic.create", pattern="t", durability="transient")
    linked.subscribe("t")
    linked.take()
    row, data = batch_of("t", 1, b"1")
    event = FrameReceived(LINK, Envelope(7, 3, 0, Publish((row,), data)))
    linked.perform(linked.node.handle(event, linked.now_ns))
    assert [type(b) for b in linked.take()] == [Deliver]
    linked.perform(linked.node.end_turn(linked.now_ns))
    assert [type(b) for b in linked.take()] == [Confirm]
    assert linked.node.end_turn(linked.now_ns) == []


def test_batches_of_one_topic_in_one_commit_are_confirmed_in_one_row(linked):
    parts = [batch_of("a", i, b"x") for i in range(1, 6)]
    linked.send(Publish(tuple(row for row, _ in parts), b"".join(d for _, d in parts)))
    linked.sync()
    (c,) = confirmations(linked)
    assert (c.first, c.count, c.base_offset, c.last) == (1, 5, 0, 5)


def test_what_two_producers_wrote_in_turn_is_not_confirmed_as_one(bench):
    bench.connect(LINK, greeting=hello(A))
    bench.connect(OTHER_LINK, 7, hello(B, b"2" * 16))
    for i in (1, 2):
        bench.publish("a", i, b"mine")
        bench.publish("a", i, b"theirs", link=OTHER_LINK)
    bench.sync()
    for link, offsets in ((LINK, [0, 2]), (OTHER_LINK, [1, 3])):
        assert [(c.first, c.base_offset) for c in confirmations(bench, link)] == list(
            zip((1, 2), offsets, strict=True)
        )


def test_a_confirm_frame_is_bounded(linked, monkeypatch):
    monkeypatch.setattr("meshmq.limits.FRAME_BATCHES_MAX", 3)
    parts = [batch_of(f"t{i}", 1, b"x") for i in range(7)]
    linked.send(Publish(tuple(row for row, _ in parts), b"".join(d for _, d in parts)))
    linked.sync()
    assert [len(f.confirmations) for f in linked.take(kind=Confirm)] == [3, 3, 1]


def test_a_refused_batch_is_answered_at_once(linked):
    linked.publish("$x", 1, b"1")
    (c,) = confirmations(linked)
    assert (c.code, c.first) == ("invalid-name", 1)
    assert linked.appends == []
    assert linked.node.status()["refused"] == {"invalid-name": 1}


def test_a_confirmation_for_a_link_that_went_is_dropped(linked):
    linked.publish("a", 1, b"1")
    linked.lose()
    linked.sync()
    assert linked.take(kind=Confirm) == []
    linked.connect(session=8)
    row, data = batch_of("a", 1, b"1", resent=True)
    linked.send(Publish((row,), data), session=8)
    ((c,),) = [confirmations(linked)]
    assert (c.duplicate, c.base_offset) == (True, 0)


def test_a_repeat_over_a_new_link_before_the_sync_is_answered_by_it(linked):
    linked.publish("a", 1, b"1")
    linked.connect(OTHER_LINK, 9)
    row, data = batch_of("a", 1, b"1", resent=True)
    linked.send(Publish((row,), data), OTHER_LINK, 9)
    assert confirmations(linked, OTHER_LINK) == []
    linked.sync()
    (c,) = confirmations(linked, OTHER_LINK)
    assert (c.duplicate, c.has_offset, c.base_offset) == (True, True, 0)


def test_the_answer_to_a_subscription_comes_before_its_records(linked):
    linked.publish("a", 1, b"1")
    linked.sync()
    linked.subscribe("a", START_EARLIEST)
    kinds = [type(b) for b in linked.take(kind=(Subscribed, Deliver))]
    assert kinds == [Subscribed, Deliver]


def test_a_refused_subscription_gets_nothing(linked):
    linked.subscribe("a..b")
    (answer,) = linked.take(kind=Subscribed)
    assert answer.code == "invalid-name"
    assert len(linked.node.delivery) == 0


def test_credit_and_the_end_of_a_subscription_are_obeyed(linked):
    linked.subscribe("a")
    linked.send(Credit(1, 5, 6))
    (sub,) = linked.node.delivery.subscriptions
    assert (sub.credit_bytes, sub.credit_records) == ((1 << 20) + 5, (1 << 16) + 6)
    linked.send(Credit(9, 5, 6))
    linked.send(Unsubscribe(1))
    linked.publish("a", 1, b"1")
    linked.sync()
    assert linked.take(kind=Deliver) == []


def test_bodies_that_are_not_for_a_node_are_ignored(linked):
    for body in (Confirm(()), Deliver(1, (), 0, b""), Subscribed(1)):
        linked.send(body)
    assert list(linked.node.peers) == [LINK]
    linked.publish("a", 1, b"1")
    assert len(linked.appends) == 1


def test_everything_confirmed_is_there_after_a_crash_and_nothing_else(linked):
    linked.publish("a", 1, b"1")
    linked.sync()
    linked.publish("a", 2, b"not synced")
    linked.start()
    linked.connect()
    linked.subscribe("a", START_EARLIEST)
    assert linked.delivered() == [("a", b"1")]
    linked.publish("a", 2, b"2")
    linked.sync()
    assert linked.delivered() == [("a", b"2")]


# -- sessions at the node --------------------------------------------------------------------------


def test_a_bad_frame_ends_the_session_with_a_reason_and_is_counted(linked):
    linked.subscribe("a")
    linked.handle(BadFrameReceived(LINK, "batch of 0 records"))
    (refusal,) = linked.take(kind=Refuse)
    assert (refusal.code, refusal.message) == ("bad-frame", "batch of 0 records")
    assert (linked.node.peers, len(linked.node.delivery)) == ({}, 0)
    linked.handle(BadFrameReceived(b"stranger", "no frame"))
    assert linked.node.status()["bad_frames"] == 2
    (answer,) = linked.take(b"stranger")  # a stranger is told too
    assert (answer.code, answer.message) == ("bad-frame", "no frame")


def test_a_silent_client_is_let_go_and_its_subscriptions_with_it(linked):
    linked.subscribe("a")
    linked.wait(limits.LINK_SILENT_NS - 1)
    assert LINK in linked.node.peers
    linked.wait(1)
    assert linked.node.peers == {}
    assert linked.closed == [LINK]
    assert len(linked.node.delivery) == 0


def test_clients_that_went_leave_nothing_behind(bench):
    for i in range(20):
        link, greeting = b"link-%d" % i, hello(b"%016d" % i)
        bench.connect(link, greeting=greeting)
        bench.subscribe("a", link=link)
        bench.lose(link)
    node = bench.node
    assert (node.peers, node.sessions.producers, len(node.delivery)) == ({}, {}, 0)
    assert bench.closed == [b"link-%d" % i for i in range(20)]
    bench.wait(10 * SECOND)
    assert node.sessions._timers._due == []


def test_each_client_has_its_own_deadline(linked):
    linked.wait(2 * SECOND)
    linked.connect(OTHER_LINK, 9, hello(B, b"2" * 16))
    linked.wait(1 * SECOND)
    assert list(linked.node.peers) == [OTHER_LINK]
    linked.wait(2 * SECOND)
    assert linked.node.peers == {}


def test_a_client_that_is_heard_stays(linked):
    for _ in range(10):
        linked.now_ns += 2 * SECOND
        linked.handle(FrameReceived(LINK, Envelope(7, 0, 0, Nothing())))
        linked.wait(0)
    assert LINK in linked.node.peers


def test_the_next_deadline_is_met_by_a_timer(linked):
    """Driven by its own deadlines alone the node pings, and lets go of who never answers."""
    start = linked.now_ns
    while linked.node.peers:
        due = linked.node.next_deadline_ns()
        linked.wait(max(due - linked.now_ns, 0))
        assert linked.node.next_deadline_ns() > linked.now_ns
    assert linked.now_ns <= start + limits.LINK_SILENT_NS + SECOND
    assert len(linked.take(kind=Ping)) == 2


def test_goodbye_ends_the_session(linked):
    linked.handle(FrameReceived(LINK, Envelope(7, 0, 0, Bye())))
    assert linked.node.peers == {}
    assert linked.take() == []


def test_the_node_says_goodbye_to_everybody(linked):
    linked.connect(OTHER_LINK, 9, hello(B, b"2" * 16))
    linked.perform(linked.node.goodbye(linked.now_ns))
    assert linked.take(LINK) == linked.take(OTHER_LINK) == [Bye()]
    assert linked.node.peers == {}


# -- retention, status -----------------------------------------------------------------------------


def test_retention_is_planned_each_second_but_one_plan_at_a_time(bench):
    bench.wait(0)
    assert bench.plans == 1
    bench.wait(10 * limits.RETENTION_INTERVAL_NS)
    assert bench.plans == 1
    bench.handle(RetentionPlanned(()))
    bench.wait(limits.RETENTION_INTERVAL_NS)
    assert bench.plans == 2


def test_what_retention_takes_is_stored_before_it_is_shown(linked):
    linked.publish("a", 1, b"1", b"2", b"3")
    linked.sync()
    linked.handle(RetentionPlanned(((1, 2),)))
    (append,) = linked.appends
    assert append.entries == (TrimEntry(1, 2),)
    assert linked.node.topics.by_name["a"].first_offset == 0
    linked.sync()
    assert linked.node.topics.by_name["a"].first_offset == 2
    shown = linked.done("topic.show", topic="a")
    assert (shown["first_offset"], shown["next_offset"], shown["records"]) == (2, 3, 1)


def test_status_holds_every_counter(linked):
    linked.done("topic.create", pattern="t", durability="transient")
    linked.subscribe(">", number=4)
    linked.publish("a", 1, b"1", b"2")
    linked.publish("t", 1, b"1")
    linked.sync()
    linked.publish("a", 1, b"1", b"2", resent=True)
    status = linked.node.status()
    assert status["node"] == {
        "name": "node-1", "mesh": "local", "origin": ORIGIN.hex(), "software": "meshmq test"
    }  # fmt: skip
    assert (status["published"], status["confirmed"], status["repeated"]) == (3, 3, 2)
    assert (status["delivered"], status["topics"], status["refused"]) == (3, 2, {})
    assert status["drops"] == {"subscription-queue-full": 0, "damaged": 0}
    assert status["committed_lsn"] == 2
    assert status["sessions"] == {"open": 1, "opened": 1, "refused": 0, "readers": 0}
    (sub,) = status["subscriptions"]
    assert (sub["client"], sub["pattern"], sub["live"]) == ("test", ">", True)
    assert (sub["lag_commits"], sub["delivered"], sub["dropped"]) == (0, 3, 0)
    assert (sub["queued_bytes"], sub["credit_records"]) == (0, (1 << 16) - 3)


def test_the_shell_adds_to_status(bench):
    bench.start(more_status=lambda: {"disk": {"bytes": 5}})
    assert bench.node.status()["disk"] == {"bytes": 5}


def test_a_producers_last_sequence_is_told_when_it_is_synced(linked):
    linked.publish("a", 1, b"x", b"y")
    linked.send(Command(5, "producer.last", b'{"topic":"a"}'))
    assert linked.take(kind=Result) == []
    linked.sync()
    (result,) = linked.take(kind=Result)
    assert result.body == b'{"last":2}'
