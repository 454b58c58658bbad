"""Consumers, jobs and queues as a program uses them, with a node that the test plays."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from meshmq import codec, errors
from meshmq.frames import (
    ACK,
    BACKOFF,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Consume,
    Consumed,
    Leave,
    Owner,
    Publish,
    Revoke,
    Settle,
    Settled,
    SettleRow,
)
from meshmq.limits import MS, SECOND
from tests.client.fake_node import ORIGIN, FakeNode, fake_mesh


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def channel(mesh):
    return mesh._connection


@pytest.fixture
def mesh(node):
    mesh, _ = fake_mesh(node)
    return mesh


def working(mesh, *values, **more):
    """A worker that was handed ``values`` in one hand-out."""
    worker = mesh.work("jobs")
    channel = mesh._connection
    channel.say(channel.node.hand_out(worker.member.id, *values, **more))
    return worker


def test_a_consumer_of_a_fenced_site_says_why_it_waits_and_logs_that_once(mesh, node, caplog):
    workers = [mesh.work("jobs"), mesh.work("more")]
    assert workers[0].fenced == ""
    said = [Owner(w.member.id, ORIGIN, fenced="site us has no link") for w in workers]
    with caplog.at_level(logging.INFO, "meshmq"):
        mesh._connection.say(*said)
        assert workers[0].fetch(timeout=1) == []
        assert [w.fenced for w in workers] == ["site us has no link"] * 2
        mesh._connection.say(*[replace(frame, fenced="") for frame in said])
        assert workers[0].fetch(timeout=1) == []
    assert [w.fenced for w in workers] == [""] * 2
    told = [(r.levelname, r.getMessage()) for r in caplog.records if "consumers" in r.getMessage()]
    assert told == [
        ("WARNING", "connected: consumers wait: site us has no link"),
        ("INFO", "connected: consumers go on: the node hands out records again"),
    ]


# -- joining -----------------------------------------------------------------------------------


def test_consume_joins_a_group_as_it_was_asked_for(mesh, node):
    consumer = mesh.consume(
        "orders.>", "billing", order="key", start="new", ack_timeout="1m", prefetch=10,
        prefetch_bytes="1MiB", max_deliveries=3, backoff="2s", backoff_max=60, max_held=7, rate=5,
    )  # fmt: skip
    (frame,) = node.of(Consume)
    assert (frame.group, frame.pattern) == ("billing", "orders.>")
    assert (frame.prefetch_records, frame.prefetch_bytes) == (10, 1 << 20)
    assert frame.ack_timeout_ns == 60 * SECOND
    assert json.loads(frame.create) == {
        "group": "billing", "kind": "group", "pattern": "orders.>", "order": "key",
        "start": "new", "max_deliveries": 3, "backoff_ns": 2 * SECOND,
        "backoff_max_ns": 60 * SECOND, "max_held": 7, "rate": 5,
    }  # fmt: skip
    assert consumer.group == "billing"


def test_work_joins_a_queue_and_leaves_it_as_it_is(mesh, node):
    mesh.work("jobs")
    (frame,) = node.of(Consume)
    assert json.loads(frame.create) == {"group": "jobs", "kind": "queue"}
    assert frame.prefetch_records == 64


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ("earliest", "earliest"),
        (7, {"offset": 7}),
        (datetime(2024, 1, 1, tzinfo=UTC), {"time_ns": 1_704_067_200 * SECOND}),
    ],
)
def test_a_group_begins_where_it_is_told(mesh, node, start, told):
    mesh.consume("a", "g", start=start)
    assert json.loads(node.of(Consume)[0].create)["start"] == told


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": "keys"}, {"start": "later"}, {"start": -1}, {"start": datetime(2024, 1, 1)},
        {"ack_timeout": 0.05}, {"ack_timeout": 90_000}, {"ack_timeout": "soon"},
        {"ack_timeout": None}, {"ack_timeout": float("nan")}, {"ack_timeout": float("inf")},
        {"prefetch": 0}, {"prefetch": 100_001}, {"prefetch": 1.5}, {"prefetch_bytes": 0},
        {"prefetch_bytes": "65MiB"}, {"max_deliveries": 0}, {"max_deliveries": 1001},
        {"max_deliveries": True}, {"backoff": -1}, {"rate": -1}, {"rate": "fast"}, {"rate": 1.5},
        {"group": "$g"}, {"group": ""}, {"group": "a" * 250}, {"pattern": "a..b"},
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_travels(mesh, node, wrong):
    arguments = {"pattern": "a", "group": "g", **wrong}
    with pytest.raises((errors.InvalidArgument, errors.InvalidName)):
        mesh.consume(**arguments)
    assert node.of(Consume) == []


def test_a_refusal_is_raised_and_leaves_nothing_behind(mesh, node, channel):
    node.on[Consume] = lambda b: [Consumed(b.consumer, "group-mismatch", "another pattern")]
    with pytest.raises(errors.GroupMismatch, match="another pattern"):
        mesh.consume("a", "g")
    assert not channel.client.members
    assert not channel._ended


def test_a_silent_node_is_told_to_forget_the_consumer(mesh, node, channel):
    node.on[Consume] = lambda b: []
    with pytest.raises(errors.DeadlineExceeded):
        mesh.consume("a", "g")
    channel.play()
    assert len(node.of(Leave)) == 1


# -- reading and settling ------------------------------------------------------------------------


def test_a_job_knows_what_it_is(mesh, node):
    headers = codec.encode_headers({"a": "b"})
    worker = working(
        mesh, b"x", b"y", keys=[b"k", b""], headers=[headers, b""], attempt=2,
        maybe_duplicate=True, first=40, lsn=6, slot=2,
    )  # fmt: skip
    one, two = worker.fetch(10, timeout=0)
    assert (one.value, one.key, one.offset, one.topic) == (b"x", b"k", 40, "jobs")
    assert (two.value, two.key, two.offset) == (b"y", None, 41)
    assert (one.headers, two.headers) == ({"a": "b"}, {})
    assert (one.attempt, one.maybe_duplicate) == (2, True)
    assert one.origin == ORIGIN.hex()
    assert one.job_id == f"j1-{ORIGIN.hex()}-{7:016x}-40"
    assert str(two.position) == f"p1-{ORIGIN.hex()}-6-2-1"
    assert (one.timestamp_ns, one.append_time_ns) == (99, 5)
    assert "attempt=2" in repr(one)


@pytest.mark.parametrize(
    ("offsets", "is_cut"),
    [((10, 11), False), ((10, 11), True), ((10, 12), False), ((10, 12), True)],
)
def test_of_a_batch_only_what_was_handed_out_is_shown(mesh, node, channel, offsets, is_cut):
    worker = mesh.work("jobs")
    batch = {9: b"a", 10: b"b", 11: b"c", 12: b"d"}
    held = {o: v for o, v in batch.items() if o in offsets or not is_cut}
    row, data = node.row(*held.values(), keys=[b"k" + v for v in held.values()], first=9)
    told = offsets if offsets == (10, 12) else ()
    row = row._replace(count=2, skip=1, first=10, offsets=told)
    channel.say(Consumed(worker.member.id))
    channel.say(type(node.hand_out(1, b"z"))(worker.member.id, (row,), data))
    found = worker.fetch(10, timeout=0)
    assert [(m.value, m.key, m.offset, m.position.index) for m in found] == [
        (batch[o], b"k" + batch[o], o, o - 9) for o in offsets
    ]  # fmt: skip


def test_lanes_and_replays_show_where_a_job_belongs(mesh, node, channel):
    worker = mesh.work("jobs")
    back = codec.encode_headers({"$topic": "jobs.first"})
    for topic, headers in (("$priority.3.jobs", None), ("$delayed.jobs", None),
                           ("$retry.jobs", [back])):  # fmt: skip
        channel.say(node.hand_out(worker.member.id, b"x", topic=topic, headers=headers, first=1))
    found = worker.fetch(10, timeout=0)
    assert [m.topic for m in found] == ["jobs", "jobs", "jobs.first"]


def test_acks_travel_as_ranges(mesh, node, channel):
    worker = working(mesh, *[b"x"] * 500)
    for count, job in enumerate(worker, 1):
        job.ack()
        if count == 500:
            break
    channel.play()
    assert sum(row[2] for row in node.settled()) == 500
    assert len(node.of(Settle)) == 3
    assert worker.member.is_idle


def test_a_loop_left_by_break_goes_on_at_the_next_job(mesh):
    worker = working(mesh, b"a", b"b", b"c")
    assert next(iter(worker)).value == b"a"
    assert [m.value for m in worker.fetch(5, timeout=0)] == [b"b", b"c"]
    assert worker.fetch(5, timeout=0) == []


def test_fetch_takes_no_more_than_it_may(mesh, node, channel):
    worker = working(mesh, b"a", b"b", b"c")
    channel.say(node.hand_out(worker.member.id, b"d", b"e"))
    assert [m.value for m in worker.fetch(2, timeout=1)] == [b"a", b"b"]
    assert [m.value for m in worker.fetch(2, timeout=1)] == [b"c", b"d"]
    assert [m.value for m in worker.fetch(2, timeout=1)] == [b"e"]


def test_ack_with_wait_returns_when_it_is_synced(mesh, node):
    worker = working(mesh, b"a")
    (job,) = worker.fetch(1)
    job.ack(wait=True)
    assert node.settled() == [(1, 0, 1, ACK)]
    assert worker.stale == 0
    with pytest.raises(errors.StaleDelivery, match="settled before"):
        job.ack(wait=True)
    assert worker.stale == 1


def test_ack_with_wait_raises_what_the_node_refused(mesh, node):
    worker = working(mesh, b"a")
    (job,) = worker.fetch(1)
    node.on[Settle] = lambda b: [
        Settled(b.consumer, b.number, (SettleRow(1, 0, 1, ACK, 0, "its time was over"),))
    ]
    with pytest.raises(errors.StaleDelivery, match=r"attempt 1: its time was over"):
        job.ack(wait=True)
    assert worker.stale == 1


def test_ack_with_wait_has_an_end(mesh, node):
    worker = working(mesh, b"a")
    (job,) = worker.fetch(1)
    node.on[Settle] = lambda b: []
    with pytest.raises(errors.DeadlineExceeded, match="no answer to a settle"):
        job.ack(wait=True, timeout=1)


def test_nack_reject_and_extend_say_what_they_are_told(mesh, node, channel):
    worker = working(mesh, *[b"x"] * 5)
    jobs = worker.fetch(5)
    jobs[0].nack()
    jobs[1].nack(delay="2s", reason="busy")
    jobs[2].nack(0)
    jobs[3].reject("broken" + "é" * 2000)
    jobs[4].extend(90)
    channel.play()
    rows = [row for body in node.of(Settle) for row in body.rows]
    assert sorted(rows) == sorted(
        [
            SettleRow(1, 0, 1, NACK, BACKOFF, ""),
            SettleRow(1, 1, 1, NACK, 2 * SECOND, "busy"),
            SettleRow(1, 2, 1, NACK, 0, ""),
            SettleRow(1, 3, 1, REJECT, 0, "broken" + "é" * 509),
            SettleRow(1, 4, 1, EXTEND, 90 * SECOND, ""),
        ]
    )
    assert not jobs[4].is_settled


@pytest.mark.parametrize("delay", [-1, "soon", 366 * 86400, float("nan"), True, b"1"])
def test_a_delay_that_cannot_be_settles_nothing(mesh, delay):
    (job,) = working(mesh, b"x").fetch(1)
    with pytest.raises(errors.InvalidArgument):
        job.nack(delay)
    with pytest.raises(errors.InvalidArgument):
        job.extend(0.01)
    with pytest.raises(errors.InvalidArgument):
        job.reject(3)
    assert not job.is_settled


def test_process_acks_or_nacks_and_the_loop_goes_on(mesh, node, channel, caplog):
    worker = working(mesh, b"a", b"b", b"c", b"d")
    seen = []
    for job in worker:
        with job.process() as same:
            assert same is job
            seen.append(job.value)
            if job.value == b"b":
                raise ValueError("no b")
            if job.value == b"c":
                job.reject("by hand")
                raise RuntimeError("after it was settled")
        if job.value == b"d":
            break
    assert seen == [b"a", b"b", b"c", b"d"]
    channel.play()
    rows = {row.first: row for body in node.of(Settle) for row in body.rows}
    assert rows[1] == SettleRow(1, 1, 1, NACK, BACKOFF, "ValueError: no b")
    assert rows[2] == SettleRow(1, 2, 1, REJECT, 0, "by hand")
    assert worker.stale == 0
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.getMessage().split(" (")[0] for r in told] == [
        f"job j1-{ORIGIN.hex()}-{7:016x}-101", f"job j1-{ORIGIN.hex()}-{7:016x}-102",
    ]  # fmt: skip
    assert "no b" in caplog.text


def test_ctrl_c_returns_the_record_and_goes_on_its_way(mesh, node, channel):
    (job,) = working(mesh, b"a").fetch(1)
    with pytest.raises(KeyboardInterrupt), job.process():
        raise KeyboardInterrupt
    channel.play()
    assert node.settled() == [(1, 0, 1, RETURN)]


def test_what_is_revoked_in_the_middle_of_a_loop_is_not_shown(mesh, node, channel):
    worker = working(mesh, *[b"%d" % i for i in range(6)])
    seen = []
    for job in worker:
        seen.append(job.value)
        if job.value == b"1":
            rows = (SettleRow(1, 0, 1, 0), SettleRow(1, 3, 2, 0))
            channel.say(Revoke(worker.member.id, rows))
            channel.play()
        job.ack()
        if job.value == b"5":
            break
    assert seen == [b"0", b"1", b"2", b"5"]
    channel.play()
    assert not worker.member.held


def test_in_a_group_ordered_by_key_a_failure_takes_its_key_along(mesh, node, channel):
    node.on[Consume] = lambda b: [Consumed(b.consumer, order=1)]
    worker = working(mesh, b"a1", b"b1", b"a2", b"b2", keys=[b"a", b"b", b"a", b"b"])
    assert worker.order == "key"
    seen = []
    for job in worker:
        seen.append(job.value)
        if job.value == b"a1":
            job.nack()
        else:
            job.ack()
        if job.value == b"b2":
            break
    assert seen == [b"a1", b"b1", b"b2"]


def test_a_member_that_comes_back_claims_and_tells_again(mesh, node, channel):
    worker = working(mesh, b"a", b"b", b"c")
    jobs = worker.fetch(2)
    node.on[Settle] = lambda b: []
    jobs[0].ack()
    channel.play()
    node.on[Settle] = lambda b: [Settled(b.consumer, b.number)]
    channel.lose()
    channel.play()
    assert node.of(Consume)[1].holdings[0].offsets == (100, 101, 102)
    assert node.settled() == [(1, 0, 1, ACK)] * 2
    assert [m.value for m in worker.fetch(5, timeout=0)] == [b"c"]
    jobs[1].ack(wait=True)


def test_what_was_lost_with_the_link_is_stale(mesh, node, channel):
    worker = working(mesh, b"a", b"b")
    (job,) = worker.fetch(1)
    node.on[Consume] = lambda b: [Consumed(b.consumer, lost=(1,))]
    node.on[Settle] = lambda b: [
        Settled(b.consumer, b.number, tuple(row._replace(reason="gone") for row in b.rows))
    ]
    channel.lose()
    channel.play()
    assert worker.fetch(1, timeout=0) == []
    with pytest.raises(errors.StaleDelivery, match="gone"):
        job.ack(wait=True)
    job.ack()
    assert worker.stale == 2
    assert node.settled() == [(1, 1, 1, RETURN), (1, 0, 1, ACK)]


def test_waiting_records_are_renewed(mesh, node, channel):
    worker = working(mesh, b"a", b"b", b"c")
    worker.fetch(1)
    channel.pass_time(11)
    assert node.settled() == [(1, 1, 2, EXTEND)]


# -- ending ------------------------------------------------------------------------------------


def test_close_confirms_what_was_settled_and_returns_the_rest(mesh, node, channel):
    worker = working(mesh, *[b"x"] * 6)
    for job in worker.fetch(3):
        job.ack()
    worker.close()
    channel.play()
    kinds = [type(b) for b in node.heard if isinstance(b, Settle | Leave)]
    assert kinds[-1] is Leave
    assert sum(row[2] for row in node.settled()) == 3
    assert list(worker) == []
    worker.close()
    assert len(node.of(Leave)) == 1
    job.ack()
    assert worker.stale == 1


def test_close_waits_only_so_long(mesh, node, channel, caplog):
    worker = working(mesh, b"x")
    node.on[Settle] = lambda b: []
    worker.fetch(1)[0].ack()
    before = channel.now_ns
    worker.close(timeout=2)
    assert channel.now_ns - before == 2 * SECOND
    assert "before the node confirmed" in caplog.text


def test_closing_the_mesh_closes_its_consumers(mesh, node):
    worker = working(mesh, b"x", b"y")
    worker.fetch(1)[0].ack()
    mesh.close()
    assert node.settled() == [(1, 0, 1, ACK)]
    assert len(node.of(Leave)) == 1
    assert worker.closed


def test_a_group_that_is_deleted_ends_its_consumers(mesh, channel):
    worker = working(mesh, b"x")
    (job,) = worker.fetch(1)
    channel.say(Consumed(worker.member.id, "group-not-found", "it was deleted"))
    with pytest.raises(errors.GroupNotFound, match="it was deleted"):
        worker.fetch(1)
    job.ack()
    assert worker.stale == 1
    worker.close()


def test_a_dead_connection_ends_its_consumers(mesh, channel):
    worker = working(mesh, b"x")
    (job,) = worker.fetch(1)
    channel._die(errors.ClosedError("gone"))
    with pytest.raises(errors.ClosedError):
        worker.fetch(1)
    with pytest.raises(errors.ClosedError):
        job.ack(wait=True)
    worker.close()


# -- jobs --------------------------------------------------------------------------------------


def published(node):
    """(topic, values, options) of every batch."""
    found = []
    for frame in node.of(Publish):
        at = 0
        for batch in frame.batches:
            data = frame.payload[at : at + batch.length]
            at += batch.length
            values = codec.decode_batch(data, batch.count).values
            found.append((batch.topic, list(values), codec.job_options(data)))
    return found


def test_a_plain_job_is_a_plain_record_of_the_queues_topic(mesh, node):
    receipt = mesh.enqueue("jobs", b"x", key=b"k", headers={"a": "b"})
    assert not receipt.done
    receipt.wait(1)
    assert receipt.job_id == f"j1-{ORIGIN.hex()}-{b't'.hex() * 8}-0"
    mesh.enqueue("jobs", b"y").wait(1)
    assert published(node) == [("jobs", [b"x"], None), ("jobs", [b"y"], None)]
    assert node.commands() == [("group.create", {"group": "jobs", "kind": "queue"})]


def test_options_choose_the_lane_and_travel_with_the_batch(mesh, node, channel):
    now_ms = channel.wall_ns() // MS
    mesh.enqueue("jobs", b"a", priority=3).wait(1)
    receipt = mesh.enqueue("jobs", b"b", delay=1.5, priority=9).wait(1)
    at = datetime.fromtimestamp(channel.wall_ns() / 1e9, UTC) + timedelta(hours=1)
    mesh.enqueue("jobs", b"c", at=at, ttl="1m").wait(1)
    mesh.enqueue("jobs", b"d", ttl=2).wait(1)
    mesh.enqueue("jobs", b"e", delay=0, at=None).wait(1)
    mesh.enqueue("jobs", b"f", at=at - timedelta(hours=2)).wait(1)
    mesh.enqueue("jobs", b"g", delay=0.0000001).wait(1)
    hour = now_ms + 3_600_000
    assert published(node) == [
        ("$priority.3.jobs", [b"a"], (0, 0, 3, b"")),
        ("$delayed.jobs", [b"b"], (now_ms + 1500, 0, 9, b"")),
        ("$delayed.jobs", [b"c"], (hour, hour + 60_000, 0, b"")),
        ("jobs", [b"d"], (0, now_ms + 2000, 0, b"")),
        ("jobs", [b"e"], None),
        ("jobs", [b"f"], None),
        ("$delayed.jobs", [b"g"], (now_ms + 1, 0, 0, b"")),
    ]
    assert receipt.job_id.split("-")[2] == b"t".hex() * 8  # the beginning of the topic's id


def test_jobs_share_a_batch_only_with_their_like(mesh, node, channel):
    channel.is_cut = True
    mesh._queues.add("jobs")
    mesh.enqueue("jobs", b"0")
    for value, options in (
        (b"a", {}), (b"b", {}), (b"c", {"ttl": 5}), (b"d", {"ttl": 5}), (b"e", {"ttl": 6}),
        (b"f", {}), (b"g", {"dedup_id": "x"}), (b"h", {"dedup_id": "x"}), (b"i", {}),
    ):  # fmt: skip
        mesh.enqueue("jobs", value, **options)
    mesh.enqueue_many("jobs", [b"j", b"k"], keys=[b"1", b"2"], ttl=5)
    channel.is_cut = False
    mesh.flush(1)
    assert [b"".join(values) for _, values, _ in published(node)] == [
        b"0", b"a", b"b", b"cd", b"e", b"f", b"g", b"h", b"i", b"jk",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 10}, {"priority": -1}, {"priority": True}, {"priority": "high"},
        {"delay": "later"}, {"delay": 366 * 86400}, {"delay": 1, "at": datetime.now(UTC)},
        {"at": datetime(2030, 1, 1)}, {"at": 5}, {"at": datetime(2199, 1, 1, tzinfo=UTC)},
        {"ttl": 0}, {"ttl": -1}, {"ttl": "x"}, {"dedup_id": ""}, {"dedup_id": 5},
        {"value": "text"}, {"key": "text", "priority": 1},
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_is_not_published(mesh, node, wrong):
    arguments = {"queue": "jobs", "value": b"x", **wrong}
    with pytest.raises(errors.InvalidArgument):
        mesh.enqueue(**arguments)
    assert published(node) == []


def test_a_queue_that_is_no_queue_is_refused_at_its_first_use(mesh, node):
    node.answers["group.create"] = ("group-mismatch", "it is a group")
    with pytest.raises(errors.GroupMismatch):
        mesh.enqueue("jobs", b"x")
    with pytest.raises(errors.InvalidName):
        mesh.enqueue("$jobs", b"x")
    assert published(node) == []


def test_a_full_queue_fails_the_receipt(mesh, node):
    from meshmq.frames import Confirm, Confirmation

    node.on[Publish] = lambda b: [
        Confirm((Confirmation(x.topic, x.first, x.count, "queue-full", "1000 jobs"),))
        for x in b.batches
    ]
    receipt = mesh.enqueue("jobs", b"x", delay=5)
    with pytest.raises(errors.QueueFull, match="1000 jobs") as raised:
        receipt.wait(1)
    assert raised.value.outcome == "not done"


def test_cancel_and_reschedule_name_the_job(mesh, node, channel):
    job = mesh.enqueue("jobs", b"x", delay=60).wait(1).job_id
    mesh.cancel("jobs", job)
    mesh.reschedule("jobs", job, delay=2)
    due = -(-channel.wall_ns() // MS) + 2000
    assert node.commands()[1:] == [
        ("queue.cancel", {"queue": "jobs", "job": job}),
        ("queue.reschedule", {"queue": "jobs", "job": job, "due_ms": due}),
    ]
    node.answers["queue.cancel"] = ("job-not-found", "it is done")
    with pytest.raises(errors.JobNotFound):
        mesh.cancel("jobs", job)
    with pytest.raises(errors.InvalidArgument):
        mesh.cancel("jobs", "42")
    with pytest.raises(errors.InvalidArgument):
        mesh.reschedule("jobs", job)
