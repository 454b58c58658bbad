"""Transactions as a program uses them, with a node that the test plays."""

from __future__ import annotations

import pytest

from meshmq import codec, errors, limits
from meshmq.frames import ACK, Consume, Consumed, Settle, Transact, TransactAck, Transacted
from tests.client.fake_node import ORIGIN, FakeNode, fake_mesh
from tests.client.test_consumer import working


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def mesh(node):
    return fake_mesh(node)[0]


@pytest.fixture
def channel(mesh):
    return mesh._connection


def batches(frame):
    """(topic, values, options) of a transaction's batches."""
    found, at = [], 0
    for row in frame.batches:
        data = frame.payload[at : at + row.length]
        at += row.length
        assert (row.first, row.after, row.checksum) == (1, 0, codec.checksum(data))
        values = list(codec.decode_batch(data, row.count).values)
        found.append((row.topic, values, codec.job_options(data)))
    return found


def test_all_of_it_travels_in_one_frame_and_is_settled_by_the_answer(mesh, node, channel):
    worker = working(mesh, *[b"x"] * 5)
    jobs = worker.fetch(5)
    node.on[Transact] = lambda b: [Transacted(b.id, offsets=(7, 40, 2), topic_keys=(1, 2, 3))]
    with mesh.transaction() as tx:
        one = tx.publish("out", b"1", key=b"k", headers={"a": "b"})
        tx.publish("other", b"2")
        three = tx.publish("out", b"3")
        job = tx.enqueue("follow", b"4", priority=5)
        for i in (1, 2, 4):
            tx.ack(jobs[i])
        tx.ack(jobs[4])
        assert node.of(Transact) == []
    (frame,) = node.of(Transact)
    assert frame.id == 1
    number = worker.member.id
    assert frame.acks == (TransactAck(number, 1, 1, 2), TransactAck(number, 1, 4, 1))
    assert batches(frame) == [
        ("out", [b"1", b"3"], None),
        ("other", [b"2"], None),
        ("$priority.5.follow", [b"4"], (0, 0, 5, b"")),
    ]
    assert tx.committed
    assert (one.offset, three.offset) == (7, 8)
    assert job.job_id == f"j1-{ORIGIN.hex()}-{3:016x}-2"
    assert [j.is_settled for j in jobs] == [False, True, True, False, True]
    jobs[0].ack()
    jobs[3].ack()
    channel.play()
    assert sorted(node.settled()) == [(1, 0, 1, ACK), (1, 3, 1, ACK)]
    assert worker.member.is_idle
    assert not worker.member.held


def test_left_by_an_exception_nothing_is_sent_and_the_job_is_free(mesh, node, channel):
    worker = working(mesh, b"x")
    (job,) = worker.fetch(1)
    tx = mesh.transaction()

    def fail():
        with tx:
            tx.publish("out", b"1")
            tx.ack(job)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    channel.play()
    assert node.of(Transact) == []
    with pytest.raises(errors.ClosedError):
        tx.publish("out", b"2")
    job.ack(wait=True)


def test_what_the_node_refuses_is_raised_and_the_job_is_free(mesh, node, caplog):
    worker = working(mesh, b"x")
    (job,) = worker.fetch(1)
    node.on[Transact] = lambda b: [Transacted(b.id, "transaction-failed", "topic is transient")]
    with job.process(), mesh.transaction() as tx:
        tx.publish("out", b"1")
        tx.ack(job)
    assert not tx.committed
    assert "topic is transient" in caplog.text
    worker.close()
    (row,) = [row for frame in node.of(Settle) for row in frame.rows]
    assert row.reason == "TransactionFailed: topic is transient"


def test_within_process_a_transactions_ack_is_the_only_one(mesh, node, channel):
    worker = working(mesh, b"x")
    for job in worker:
        with job.process(), mesh.transaction() as tx:
            tx.ack(job)
        break
    channel.play()
    assert node.settled() == []
    assert worker.stale == 0


def test_it_is_said_again_in_the_next_session_as_that_counts(mesh, node, channel):
    worker = working(mesh, *[b"x"] * 4)
    jobs = worker.fetch(4)
    jobs[0].ack()
    jobs[1].ack()
    channel.play()
    node.on[Transact] = lambda b: []
    with pytest.raises(errors.DeadlineExceeded) as raised, mesh.transaction(timeout=1) as tx:
        tx.ack(jobs[3])
    assert raised.value.outcome == "unknown"
    node.on[Transact] = lambda b: [Transacted(b.id)]
    channel.lose()
    channel.play()
    first, again = node.of(Transact)
    assert (first.id, first.acks[0].first) == (1, 3)
    assert (again.id, again.acks[0].first) == (1, 1)
    kinds = [type(b) for b in node.heard]
    assert kinds.index(Transact, kinds.index(Transact) + 1) > len(kinds) - 3  # behind Consume
    assert jobs[3].is_settled
    assert not jobs[2].is_settled


def test_what_was_lost_meanwhile_makes_it_fail_unless_it_was_done(mesh, node, channel):
    worker = working(mesh, *[b"x"] * 2)
    jobs = worker.fetch(2)
    node.on[Transact] = lambda b: []
    with pytest.raises(errors.DeadlineExceeded), mesh.transaction(timeout=1) as tx:
        tx.ack(jobs[0])
    from meshmq.frames import Revoke, SettleRow

    channel.say(Revoke(worker.member.id, (SettleRow(1, 0, 1, 0),)))
    channel.play()
    channel.lose()
    channel.play()
    assert node.of(Transact)[1].acks[0].first == limits.BATCH_RECORDS_MAX
    assert not tx.committed


def test_one_at_a_time_is_under_way(mesh, node, channel):
    node.on[Transact] = lambda b: []
    with pytest.raises(errors.DeadlineExceeded), mesh.transaction(timeout=1) as tx:
        tx.publish("out", b"1")
    tx = mesh.transaction(timeout=1)
    tx.publish("out", b"2")
    with pytest.raises(errors.DeadlineExceeded, match="an earlier transaction"):
        tx.commit()
    assert len(node.of(Transact)) == 1
    channel.say(Transacted(1))
    node.on[Transact] = lambda b: [Transacted(b.id, offsets=(0,))]
    with mesh.transaction(timeout=1) as tx:
        tx.publish("out", b"3")
    assert [frame.id for frame in node.of(Transact)] == [1, 2]


def test_its_jobs_are_of_one_node_and_of_this_connection(mesh, node, channel):
    worker = working(mesh, b"x")
    (here,) = worker.fetch(1)
    node.origin = b"q" * 16
    node.on[Consume] = lambda b: [Consumed(b.consumer)]
    channel.lose()
    channel.play()
    channel.say(node.hand_out(worker.member.id, b"y"))
    (there,) = worker.fetch(1, timeout=1)
    with mesh.transaction() as tx:
        tx.ack(there)
        with pytest.raises(errors.StaleDelivery):
            tx.ack(here)
    other, _ = fake_mesh()
    with pytest.raises(errors.InvalidArgument, match="own connection"), other.transaction() as tx:
        tx.ack(there)
    with pytest.raises(errors.InvalidArgument, match="only what a consumer gave"):
        mesh.transaction().ack("job")


def test_a_transaction_is_its_first_jobs_owners_and_a_second_one_is_refused(mesh, node):
    one = working(mesh, b"x")
    two = working(mesh, b"y")
    (a,), (b,) = one.fetch(1), two.fetch(1)
    b[4].origin = b"z" * 16
    tx = mesh.transaction()
    tx.ack(a)
    with pytest.raises(errors.TransactionFailed, match="belongs to the node of its first"):
        tx.ack(b)
    tx = mesh.transaction()
    tx.ack(b)
    tx.commit()
    (frame,) = node.of(Transact)
    assert frame.origin == b"z" * 16, "it is done by the owner of what it acks"


def test_a_transaction_has_bounds(mesh, node):
    tx = mesh.transaction()
    for _ in range(limits.TRANSACTION_RECORDS_MAX):
        tx.publish("out", b"")
    with pytest.raises(errors.InvalidArgument, match="at most 1024"):
        tx.publish("out", b"")
    tx = mesh.transaction()
    for _ in range(3):
        tx.publish("out", b"x" * 600_000)
    with pytest.raises(errors.MessageTooLarge):
        tx.commit()
    assert node.of(Transact) == []
    with pytest.raises(errors.InvalidName):
        mesh.transaction().publish("$x", b"")
    with pytest.raises(errors.InvalidArgument):
        mesh.transaction().publish("x", "text")


def test_an_empty_one_asks_nothing(mesh, node):
    with mesh.transaction() as tx:
        pass
    assert tx.committed
    assert node.of(Transact) == []
    assert "committed" in repr(tx)


def test_offsets_are_unknown_where_the_queue_had_a_job(mesh, node):
    node.on[Transact] = lambda b: [Transacted(b.id, offsets=(5,))]
    with mesh.transaction() as tx:
        one = tx.enqueue("q", b"1", dedup_id="a")
        tx.publish("out", b"2")
    assert one.offset is None
    with pytest.raises(errors.InvalidArgument):
        _ = one.job_id
