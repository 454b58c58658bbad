"""What groups have of a batch that is damaged on one disk and whole on another."""

from __future__ import annotations

import pytest

from meshmq import codec, limits
from meshmq.frames import ACK, NACK, REJECT, START_EARLIEST, Deliver
from meshmq.limits import MS, SECOND
from meshmq.testing.disk import Disk
from tests.core.site_workers import WorkNet
from tests.core.sites import Program, joined, site_of
from tests.core.test_copies import fill, flip, holder, is_copied

VALUES = [b"%d" % i for i in range(6)]


def put_all(net, a):
    """The records, and a group."""
    maker = net.worker(a)
    for value in VALUES:
        maker.put("orders", value)
        net.run(10 * MS)
    assert maker.command("group.create", group="billing", pattern="orders")[0] == ""
    net.run(SECOND)
    maker.die()


def stored(copies=2):
    """A site in which node 0 has records that are copied, and a group nobody has begun with."""
    net, (a, *others) = site_of(3, kind=WorkNet, copies=copies)
    put_all(net, a)
    assert is_copied(net, a)
    return net, a, others


def begins_anew(net, a):
    """Nothing is in its memory any more, and it is not linked yet."""
    net.kill(a)
    net.run(100 * MS)
    a.start()
    return net.worker(a).consume("billing", "orders", prefetch=100)


def with_others(net, a, others):
    for other in others:
        if other.node is None:
            other.start([a.address])
    assert net.run(8 * SECOND, lambda: joined(net))


def test_a_group_waits_for_a_copy_that_is_away_and_passes_nothing_over():
    net, a, others = stored()
    for other in others:
        net.kill(other)
    flip(a.disk, "orders", 2)
    worker = begins_anew(net, a)
    net.run(20 * SECOND)
    assert worker.got == VALUES[:2]
    assert a.node.site.describe(net.now_ns)["copies"]["mending"] == 1
    with_others(net, a, others)
    net.run(SECOND)
    assert worker.got == VALUES
    assert not a.disk.flipped
    assert worker.show("billing")["damaged"] == 0


def test_who_only_reads_is_told_meanwhile():
    net, a, others = stored()
    for other in others:
        net.kill(other)
    flip(a.disk, "orders", 2)
    worker = begins_anew(net, a)
    net.run(7 * SECOND)
    assert worker.got == VALUES[:2]
    reader = Program(net, a)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(SECOND)
    told = [b.damaged for frame in reader.take(Deliver) for b in frame.batches]
    assert told == [False, False, True, False, False, False]


def test_a_group_waits_so_long_and_no_longer(monkeypatch):
    monkeypatch.setattr(limits, "MEND_PATIENCE_NS", 30 * SECOND)
    net, a, others = stored()
    for other in others:
        net.kill(other)
    for offset in (2, 4):
        flip(a.disk, "orders", offset)
    worker = begins_anew(net, a)
    net.run(30 * SECOND)
    assert worker.got == VALUES[:2]
    worker.ack_all()
    net.run(10 * SECOND)
    assert worker.got == [VALUES[0], VALUES[1], VALUES[3], VALUES[5]]
    assert worker.show("billing")["damaged"] == 2


@pytest.mark.parametrize("is_back", [False, True])
def test_who_goes_away_again_is_waited_for_again(monkeypatch, is_back):
    monkeypatch.setattr(limits, "MEND_PATIENCE_NS", 10 * SECOND)
    net, a, others = stored()
    for other in others:
        net.kill(other)
    flip(a.disk, "orders", 1)
    worker = begins_anew(net, a)
    net.run(18 * SECOND)
    assert worker.got == [VALUES[0], *VALUES[2:]]
    if is_back:
        with_others(net, a, others)
        net.run(SECOND)
        for other in others:
            net.kill(other)
        net.run(SECOND)
    flip(a.disk, "orders", 4)
    worker.settle(next(one for one in worker.hands if one[2] == VALUES[4]), NACK)
    net.run(5 * SECOND)
    assert worker.show("billing")["damaged"] == (1 if is_back else 2)
    with_others(net, a, others)
    net.run(SECOND)
    assert worker.got.count(VALUES[4]) == (2 if is_back else 1)


def test_a_group_waits_until_less_is_asked_for(monkeypatch):
    monkeypatch.setattr(limits, "MEND_PATIENCE_NS", 20 * SECOND)
    net, a, others = stored()
    worker = begins_anew(net, a)
    with_others(net, a, others)
    net.run(SECOND)
    assert worker.got == VALUES
    monkeypatch.setattr(limits, "MENDS_MAX", 0)
    flip(a.disk, "orders", 2)
    worker.settle(next(one for one in worker.hands if one[2] == VALUES[2]), NACK)
    net.run(4 * SECOND)
    assert worker.got == VALUES
    assert a.node.site.describe(net.now_ns)["copies"]["mending"] == 1
    reader = Program(net, a)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(SECOND)
    told = [b.damaged for frame in reader.take(Deliver) for b in frame.batches]
    assert told == [False, False, True, False, False, False]
    monkeypatch.setattr(limits, "MENDS_MAX", 1)
    net.run(SECOND)
    assert worker.got == [*VALUES, VALUES[2]]
    assert not a.disk.flipped


def one_is_done(net, a, others):
    """A record is done, and damaged then, with the copies away."""
    worker = net.worker(a).consume("billing", "orders", prefetch=100)
    net.run(SECOND)
    assert worker.got == VALUES
    worker.settle(worker.hands[2], ACK)
    net.run(SECOND)
    for other in others:
        net.kill(other)
    flip(a.disk, "orders", 2)
    return worker


def test_a_group_that_begins_anew_does_not_wait_for_what_is_done():
    net, a, others = stored()
    one_is_done(net, a, others).die()
    worker = begins_anew(net, a)
    net.run(10 * SECOND)
    assert worker.got == [*VALUES[:2], *VALUES[3:]]
    assert worker.show("billing")["damaged"] == 0


def test_what_comes_again_does_not_wait_for_what_is_done_between():
    net, a, others = stored()
    one_is_done(net, a, others).die()
    worker = net.worker(a).consume("billing", "orders", prefetch=100)
    net.run(5 * SECOND)
    assert worker.got == [*VALUES[:2], *VALUES[3:]]
    assert worker.show("billing")["damaged"] == 0


def test_a_group_waits_no_longer_for_what_is_given_away():
    net, a, others = stored()
    for other in others:
        net.kill(other)
    flip(a.disk, "orders", 2)
    worker = begins_anew(net, a)
    net.run(10 * SECOND)
    assert worker.got == VALUES[:2]
    stream = a.node.topics.by_name["orders"].entry.stream
    a.node.groups.by_name["billing"].give_away(stream, 0, 3)
    net.run(2 * SECOND)
    assert worker.got == [*VALUES[:2], *VALUES[3:]]
    copies = a.node.site.describe(net.now_ns)["copies"]
    assert (copies["mending"], copies["not_mended"]) == (0, 0)


def test_a_dead_letter_does_not_wait_for_what_is_read_with_it():
    net, a, others = stored()
    worker = one_is_done(net, a, others)
    worker.settle(worker.hands[1], REJECT)
    net.run(4 * SECOND)
    reader = Program(net, a)
    reader.subscribe("$dlq.billing", start=START_EARLIEST)
    net.run(SECOND)
    assert len(reader.take(Deliver)) == 1
    assert worker.show("billing")["damaged"] == 0


def test_what_is_whole_nowhere_is_passed_over_at_once():
    net, a, others = stored()
    at = holder(net, a)
    flip(a.disk, "orders", 2)
    flip(at.disk, "orders", 2, a.origin)
    net.kill(at)
    net.run(100 * MS)
    at.start([a.address])
    worker = begins_anew(net, a)
    with_others(net, a, others)
    net.run(SECOND)
    assert worker.got == [*VALUES[:2], *VALUES[3:]]
    assert worker.show("billing")["damaged"] == 1


def replaced(monkeypatch, *more, is_full=False):
    """The copy is away with all that it has. What took its place began when a record was damaged
    already, or has nothing yet: its disk is full."""
    monkeypatch.setattr(limits, "COPY_AWAY_NS", 2 * SECOND)
    net, a, others = stored()
    maker = net.worker(a)
    for value in more:
        maker.put("other", value)
        net.run(10 * MS)
    net.run(SECOND)
    maker.die()
    at = holder(net, a)
    (newer,) = [other for other in others if other is not at]
    net.kill(at)
    net.kill(a)
    flip(a.disk, "orders", 2)
    if is_full:
        fill(newer, 0)
    a.start([newer.address])
    net.run(8 * SECOND)
    place = newer.node.site.copies.mirrors.by_origin[a.origin].synced
    assert (place < (3, 0)) == is_full
    assert is_full or newer.node.site.copies.mirrors.by_origin[a.origin].holes
    return net, a, at


@pytest.mark.parametrize("is_full", [False, True])
def test_a_copy_that_came_too_late_does_not_stand_for_the_one_that_is_away(monkeypatch, is_full):
    """The simulator found it."""
    net, a, at = replaced(monkeypatch, is_full=is_full)
    worker = begins_anew(net, a)
    net.run(20 * SECOND)
    assert len(a.siblings()) == 1
    assert worker.got == VALUES[:2]
    with_others(net, a, [at])
    net.run(SECOND)
    assert worker.got == VALUES
    assert not a.disk.flipped
    assert worker.show("billing")["damaged"] == 0


def test_a_node_that_is_forgotten_is_not_waited_for(monkeypatch):
    net, a, at = replaced(monkeypatch)
    worker = begins_anew(net, a)
    net.run(20 * SECOND)
    assert worker.got == VALUES[:2]
    assert worker.command("node.forget", name=at.name)[0] == ""
    net.run(2 * SECOND)
    assert worker.got == [*VALUES[:2], *VALUES[3:]]


def test_what_is_mended_meanwhile_does_not_have_it_wait_for_longer(monkeypatch):
    net, a, _ = replaced(monkeypatch, b"1", b"2", b"3", b"4")
    monkeypatch.setattr(limits, "MEND_PATIENCE_NS", 30 * SECOND)
    worker = begins_anew(net, a)
    for offset in range(4):
        net.run(9 * SECOND)
        if offset < 3:
            assert worker.got == VALUES[:2]
        worker.ack_all()
        flip(a.disk, "other", offset)
        Program(net, a).subscribe("other", start=START_EARLIEST)
        net.run(SECOND)
        assert len(a.disk.flipped) == 1
    assert worker.got == [*VALUES[:2], *VALUES[3:]]


def is_passed_over(net, a, b):
    """A record is damaged before it is copied; all are there: nobody waits for it."""
    put_all(net, a)
    net.kill(a)
    flip(a.disk, "orders", 2)
    a.copies = 2
    a.start([b.address])
    net.run(8 * SECOND)
    assert b.node.site.copies.mirrors.by_origin[a.origin].holes
    worker = begins_anew(net, a)
    with_others(net, a, [b])
    net.run(SECOND)
    assert worker.got == [*VALUES[:2], *VALUES[3:]]


def test_what_was_damaged_before_it_was_copied_is_passed_over_once_all_are_there():
    net, (a, b) = site_of(2, kind=WorkNet)
    is_passed_over(net, a, b)


@pytest.mark.parametrize("is_own", [False, True])
def test_the_log_of_a_disk_that_was_lost_is_no_node_to_wait_for(is_own):
    net, (a, b) = site_of(2, kind=WorkNet)
    lost = a if is_own else b
    net.kill(lost)
    lost.disk = Disk(b"new disk".ljust(16))
    lost.start([(b if is_own else a).address])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(SECOND)
    assert len(a.node.registrar.roster()) == 2
    is_passed_over(net, a, b)


@pytest.mark.parametrize("kind", [NACK, REJECT])
def test_what_is_damaged_in_a_member_s_hands_comes_again_or_is_a_dead_letter(kind):
    net, a, others = stored()
    worker = begins_anew(net, a)
    with_others(net, a, others)
    net.run(SECOND)
    assert worker.got == VALUES
    for offset in (2, 3):
        flip(a.disk, "orders", offset)
        worker.settle(next(one for one in worker.hands if one[2] == VALUES[offset]), kind)
    net.run(4 * SECOND)
    assert not a.disk.flipped
    if kind == NACK:
        assert worker.got[6:] == VALUES[2:4]
    else:
        reader = Program(net, a)
        reader.subscribe("$dlq.billing", start=START_EARLIEST)
        net.run(SECOND)
        (frame,) = reader.take(Deliver)
        one, two = frame.batches
        parts = [(one, frame.payload[: one.length]), (two, frame.payload[one.length :])]
        found = [codec.decode_batch(data, row.count).values for row, data in parts]
        assert found == [[VALUES[2]], [VALUES[3]]]
