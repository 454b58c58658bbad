"""A node that was taken over is back: it works as before; and what becomes of its dead letters."""

from __future__ import annotations

import pytest

from meshmq import codec, limits
from meshmq.limits import MS, SECOND
from meshmq.names import lane_of
from tests.core.sites import WALL, joined
from tests.core.test_copies import holder, is_copied
from tests.core.test_takeover import begun, member, take_over

QUEUE = "thumbs"


def put_later(net, maker, delay_ns, *values):
    """Jobs that wait for their time."""
    due_ms = (WALL + net.now_ns + delay_ns) // MS
    maker.client.publisher.add_many(
        lane_of(QUEUE, delayed=True), list(values), None, None, None, lambda: WALL + net.now_ns,
        -1, codec.JobOptions(due_ms=due_ms),
    )  # fmt: skip
    maker.flush()


def back(net, a, others, wait_ns=3 * SECOND):
    a.start([n.address for n in others])
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(wait_ns)


def counts(worker, group=QUEUE):
    shown = worker.show(group, here=True)
    names = ("records", "ready", "in_flight", "delayed", "retrying", "held")
    return {name: shown[name] for name in names if shown[name]}


@pytest.mark.parametrize("wait_s", [5, 30])
def test_work_of_a_node_that_is_back_comes_to_members_anywhere(wait_s):
    net, (a, *others), left = begun(kind="queue", topic=QUEUE, group=QUEUE)
    maker = net.worker(a)
    put_later(net, maker, 20 * SECOND, b"later 1", b"later 2")
    net.run(SECOND)
    maker.die()
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, "queue", QUEUE)
    net.run(2 * SECOND)
    assert worker.got == left
    worker.ack_all()
    back(net, a, others, wait_s * SECOND)
    maker = net.worker(a)
    assert counts(maker) == {}
    maker.put(QUEUE, b"new 1", b"new 2", priority=0)
    net.run(2 * SECOND)
    maker.put(QUEUE, b"new 3", priority=0)
    net.run(2 * SECOND)
    assert [v for v in worker.got if v.startswith(b"new")] == [b"new 1", b"new 2", b"new 3"]
    assert counts(maker) == {"records": 3, "in_flight": 3}
    worker.ack_all()
    net.run(20 * SECOND)
    assert sorted(worker.got[len(left) :])[:2] == [b"later 1", b"later 2"]
    assert len(worker.got) == len(left) + 5


def test_what_a_member_holds_of_a_node_that_was_taken_over_is_no_longer_its_own():
    net, (a, *others), left = begun(kind="queue", topic=QUEUE, group=QUEUE)
    at = holder(net, a)
    holds = member(net, a, "queue", QUEUE)
    net.run(2 * SECOND)
    assert holds.got == left
    for other in others:
        net.cut(a, other)
    net.run(5 * SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, "queue", QUEUE)
    net.run(2 * SECOND)
    assert worker.got == left
    worker.ack_all()
    net.heal()
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    assert counts(net.worker(a)) == {}
    assert (holds.got, holds.in_hands()) == (left, 0)


def test_a_delayed_job_that_is_acked_by_who_held_it_before_a_restart_is_counted_no_more():
    net, (a, *others), _ = begun(kind="queue", topic=QUEUE, group=QUEUE, acked=20)
    maker = net.worker(a)
    put_later(net, maker, SECOND, b"later")
    worker = net.worker(a).work(QUEUE)
    net.run(3 * SECOND)
    assert worker.got == [b"later"]
    for other in others:
        net.cut(a, other)
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    net.run(SECOND)
    assert a.node.groups.is_fenced
    assert counts(maker) == {"records": 1, "in_flight": 1}
    worker.ack_all()
    net.run(limits.RETURN_WAIT_NS + SECOND)
    assert counts(maker) == {}
    assert worker.got == [b"later"]
