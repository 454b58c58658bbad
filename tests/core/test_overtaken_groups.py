"""Retention takes what members of a group in order of keys have, or what waits for them."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import RetentionPlanned
from meshmq.frames import Holding
from meshmq.limits import MS, SECOND
from meshmq.testing.group_audit import audit, leftovers
from tests.core.groups import GroupBench
from tests.core.helpers import LINK, OTHER_LINK


@pytest.fixture
def bench():
    bench = GroupBench()
    bench.join()
    bench.join(OTHER_LINK, instance=b"j" * 16)
    return bench


def consume(bench, link=LINK, **options):
    return bench.consume("g", "a", order="key", link=link, **options)


def put(bench, *values):
    """A batch each, so a hand-out each; the key is the first letter."""
    for value in values:
        bench.put("a", value, keys=[value[:1]])


def overtake(bench, offset):
    """Retention takes what is before an offset."""
    stream = bench.node.topics.by_name["a"].entry.stream
    bench.handle(RetentionPlanned(((stream, offset),)))
    bench.settle_down()


def places(bench):
    """How many records there are, in hands and held back; they add up."""
    assert audit(bench.node) == []
    shown = bench.done("group.show", link=OTHER_LINK, group="g")
    return shown["records"], shown["in_flight"], shown["held"]


def finish(bench, *values, link=OTHER_LINK):
    """The member of a link gets these, one after the other, and nothing is left of anything."""
    for value in values:
        (item,) = bench.got(link)
        assert item[0] == value
        bench.ack(item, link=link)
        bench.wait(MS)
    assert bench.got() + bench.got(OTHER_LINK) == []
    assert places(bench) == (0, 0, 0)
    assert leftovers(bench.node) == []


def test_what_is_gone_is_not_held_by_its_key_when_it_comes_back(bench):
    """Seed 861 of the groups' world."""
    consume(bench)
    put(bench, b"k1", b"k2")
    _, k2 = bench.got()
    overtake(bench, 1)
    assert places(bench) == (1, 2, 0)
    bench.lose()
    bench.join()
    answer = consume(bench, holdings=(Holding(k2[1], "a", (1,), 1),))  # the other never arrived
    assert answer.lost == ()
    assert places(bench) == (1, 1, 0)
    assert not bench.ack(k2).stale
    finish(bench)


def test_what_is_gone_is_not_held_by_its_key_when_its_member_is_lost_before_it_had_room(bench):
    """Seed 861 of the groups' world."""
    consume(bench, prefetch=2)
    bench.put("a", b"k1", b"k2", b"k3", b"k4", keys=[b"k"] * 4)
    assert bench.values() == [b"k1", b"k2"]
    overtake(bench, 3)  # of what waits for room one is left
    bench.lose()
    assert places(bench) == (1, 2, 1)
    consume(bench, OTHER_LINK)
    bench.wait(limits.ORPHANED_NS + MS)
    finish(bench, b"k4")


@pytest.mark.parametrize("ending", ["return", "leave", "lose", "expire"])
def test_a_failed_record_that_is_gone_does_not_block_its_key_when_it_comes_back(bench, ending):
    consume(bench, prefetch=2, timeout_s=20)
    put(bench, b"k1", b"j1", b"k2")
    k1, j1 = bench.got()
    bench.nack(k1)
    bench.ack(j1)
    bench.wait(2 * SECOND)
    (again,) = bench.got()
    assert again[:1] == (b"k1",)
    overtake(bench, 1)
    if ending != "expire":
        consume(bench, OTHER_LINK)
    if ending == "return":
        bench.give_back(again)
    elif ending == "leave":
        bench.leave()
    elif ending == "lose":
        bench.lose()
        bench.wait(limits.ORPHANED_NS + MS)
    else:
        bench.wait(21 * SECOND)
    finish(bench, b"k2", link=LINK if ending == "expire" else OTHER_LINK)


def test_what_is_gone_leaves_its_member_what_follows_it_in_its_key(bench):
    consume(bench)
    put(bench, b"k1", b"k2")
    k1, k2 = bench.got()
    overtake(bench, 1)
    bench.give_back(k1)
    assert bench.revoked() == []
    assert places(bench) == (1, 1, 0)
    assert not bench.ack(k2).stale
    finish(bench)


def test_what_is_gone_is_not_kept_as_doubtful_when_it_comes_back(bench):
    consume(bench)
    put(bench, b"k1", b"k2", b"j1")
    bench.got()
    overtake(bench, 3)
    bench.lose()
    bench.wait(limits.ORPHANED_NS + MS)
    assert places(bench) == (0, 0, 0)
    assert leftovers(bench.node) == []


def test_a_failed_record_that_is_gone_before_it_is_given_does_not_block_its_key(bench):
    consume(bench, rate=1)
    put(bench, b"k1", b"k2")
    (k1,) = bench.got()
    bench.nack(k1, delay_s=1.5)
    bench.wait(1100 * MS)
    put(bench, b"j1")
    (j1,) = bench.got()
    assert places(bench) == (3, 1, 1)
    bench.wait(600 * MS)  # the first is due and fetched, and waits for the group's rate
    overtake(bench, 1)  # before this all was settled, or known by its mark
    assert places(bench) == (2, 1, 0)
    bench.ack(j1)
    bench.wait(2 * SECOND)
    finish(bench, b"k2", link=LINK)
