"""What another node may have as well, after a program's link or the node itself was lost."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.doubts import Doubts
from meshmq.core.events import TimerFired
from meshmq.core.log import StoredBatch
from meshmq.limits import SECOND
from tests.core.site_workers import works_of

P, Q = b"p" * 16, b"q" * 16


def stored(at_s, producer=P):
    return StoredBatch(1, 0, 1, b"", 0, int(at_s * SECOND), 1, 0, producer=producer)


@pytest.fixture
def doubts():
    doubts = Doubts(100 * SECOND)
    doubts.is_on = True
    return doubts


def test_what_a_lost_program_published_lately_is_doubtful(doubts):
    doubts.lose((P,), heard_ns=200 * SECOND, wall_ns=203 * SECOND)
    assert [doubts.has(stored(at)) for at in (194, 195, 200, 208, 209)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert not doubts.has(stored(200, Q))


def test_what_a_node_stored_last_before_it_was_started_again_is_doubtful(doubts):
    assert [doubts.has(stored(at, Q)) for at in (94, 95, 100, 101)] == [False, True, True, False]


def test_what_comes_after_a_node_stood_still_is_doubtful(doubts):
    doubts.stood_still(306 * SECOND)
    assert [doubts.has(stored(at)) for at in (304, 305, 311, 312)] == [
        False, True, True, False,
    ]  # fmt: skip


def test_nothing_is_where_there_is_no_other_node(doubts):
    doubts.is_on = False
    doubts.lose((P,), 200 * SECOND, 200 * SECOND)
    assert not doubts.has(stored(100))
    assert not doubts.has(stored(200))


def test_a_program_that_is_lost_again_at_once_has_one_doubt(doubts):
    doubts.lose((P,), 200 * SECOND, 203 * SECOND)
    doubts.lose((P,), 206 * SECOND, 209 * SECOND)
    assert doubts.has(stored(196))
    assert doubts.has(stored(212))


def test_programs_that_are_lost_are_bounded(doubts, monkeypatch):
    monkeypatch.setattr(limits, "DOUBTS_MAX", 2)
    for number in range(3):
        doubts.lose((b"%016d" % number,), 200 * SECOND, 200 * SECOND)
    assert [doubts.has(stored(200, b"%016d" % number)) for number in range(3)] == [
        False, True, True,
    ]  # fmt: skip


def handed_out(net, at):
    """What a new group gives: value to whether it may be worked twice."""
    worker = net.worker(at).consume("late", "t", prefetch=50, start="earliest")
    net.run(3 * SECOND)
    return {value: held.row.maybe_duplicate for held, _, value in worker.hands}


@pytest.mark.parametrize("how", ["lost", "goodbye", "restart"])
def test_a_group_says_what_another_node_may_have_as_well(how):
    net, (a, b) = works_of(2)
    other, writer = net.worker(a), net.worker(a)
    net.run(SECOND)
    writer.put("t", b"old")
    net.run(limits.DOUBT_NS + 2 * SECOND)
    writer.put("t", b"new")
    other.put("t", b"other")
    net.run(SECOND)
    if how == "goodbye":
        writer.client.close(net.now_ns)
        writer.flush()
    else:
        writer.lose(b)
    if how == "restart":
        net.kill(a)
        a.start([b.address])
    net.run(SECOND)
    assert handed_out(net, a) == {
        b"old": False, b"new": how != "goodbye", b"other": how == "restart",
    }  # fmt: skip


def test_what_waited_for_a_node_that_stood_still_is_said_to_be_maybe_twice():
    net, (a, _) = works_of(2)
    writer = net.worker(a)
    net.run(SECOND)
    writer.put("t", b"before")
    net.run(2 * limits.DOUBT_NS)
    node, a.node = a.node, None  # nothing comes to it, and it does nothing
    net.run(2 * SECOND)
    a.node = node
    writer.put("t", b"waited")
    a.handle(TimerFired())
    net.run(SECOND)
    assert handed_out(net, a) == {b"before": False, b"waited": True}
