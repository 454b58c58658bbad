"""A node that never comes back is forgotten; one that does all the same is told so."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.frames import START_EARLIEST, Deliver, Streams
from meshmq.limits import MS, SECOND
from tests.core.site_workers import WorkNet
from tests.core.sites import Program, joined, site_of
from tests.core.test_copies import away, holder, is_copied
from tests.core.test_takeover import begun, member, take_over


def forget(net, at, name, **arguments):
    """Sends the command to a node; (code, message, answer)."""
    return net.worker(at).command("node.forget", name=name, **arguments)


def gone(count=3, copies=2):
    """A site whose node 0, which had records, was killed."""
    net, nodes, _ = begun(count, copies=copies)
    net.kill(nodes[0])
    net.run(SECOND)
    return net, nodes


def kept(nodes, origin):
    return [n.name for n in nodes if n.node and origin in n.node.site.copies.mirrors.by_origin]


def test_its_copies_are_dropped_everywhere_and_nobody_waits_for_it():
    net, (a, *others) = gone(4, copies=3)
    assert len(kept(others, a.origin)) == 2
    readers = [Program(net, node) for node in others]
    for reader in readers:
        reader.subscribe("orders.>", start=START_EARLIEST, records=1)
    net.run(SECOND)
    code, message, told = forget(net, others[0], a.name, assume_dead=True)
    assert (code, message, told["origins"]) == ("", "", [a.origin.hex()])
    net.run(2 * SECOND)
    assert forget(net, others[0], a.name)[2] == told  # the answer may have been lost
    assert kept(others, a.origin) == []
    for reader in readers:
        rows = [row for f in reader.take(Streams) for row in f.rows if row.origin == a.origin]
        assert (rows[-1].away, rows[-1].gone) == (False, True)
        assert not any(row.gone for row in rows[:-1])
    for node in others:
        assert a.origin not in node.disk.state.mirrors
        assert node.disk.state.forgotten[a.origin].name == a.name
        reader = Program(net, node)
        reader.subscribe("orders.>", start=START_EARLIEST)
        net.run(SECOND)
        assert away(reader) == set()
    shown = net.worker(others[0]).command("group.list")[2]
    assert shown["away"] == []


def test_it_is_refused_while_the_node_is_there_was_seen_lately_or_is_not_known():
    net, (a, b, _), _ = begun()
    assert "is there" in forget(net, b, a.name)[1]
    assert "is there" in forget(net, b, a.name, assume_dead=True)[1]
    assert "no node named" in forget(net, b, "other")[1]
    assert "this node itself" in forget(net, b, b.name)[1]
    net.kill(a)
    net.run(SECOND)
    assert "--assume-dead" in forget(net, b, a.name)[1]
    net.run(11 * SECOND)
    assert forget(net, b, a.name)[0] == ""


def test_not_before_what_is_taken_over_was_moved():
    net, (a, *_), left = begun()
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    copies = at.node.site.copies
    if copies.takeovers.is_moving(a.origin):
        assert "being moved" in forget(net, at, a.name, assume_dead=True)[1]
    net.run(3 * SECOND)
    assert forget(net, at, a.name, assume_dead=True)[0] == ""
    net.run(SECOND)
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left


def test_a_node_that_was_away_drops_its_copy_when_it_hears_of_it():
    net, (a, *others) = gone(4, copies=3)
    (late, *_) = [n for n in others if n.name in kept(others, a.origin)]
    net.kill(late)
    net.run(100 * MS)
    (other, *_) = [n for n in others if n is not late]
    assert forget(net, other, a.name, assume_dead=True)[0] == ""
    net.run(SECOND)
    late.start([n.address for n in others if n is not late])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(SECOND)
    assert kept(others, a.origin) == []
    assert a.origin not in late.disk.state.mirrors


def test_one_that_comes_back_is_told_and_copied_anew():
    net, (a, *others) = gone()
    assert forget(net, others[0], a.name, assume_dead=True)[0] == ""
    net.run(SECOND)
    a.start([n.address for n in others])
    assert net.run(6 * SECOND, lambda: joined(net) and is_copied(net, a))
    assert "was forgotten while it was away" in " ".join(a.node.site.links.news)
    net.run(2 * SECOND)
    at = holder(net, a)
    for node in others:  # from now on the old word says nothing
        net.kill(node)
        net.run(100 * MS)
        node.start([n.address for n in net.nodes if n is not node])
        assert net.run(6 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    assert holder(net, a) is at
    assert is_copied(net, a)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("is_cut", [False, True])
def test_one_that_came_back_and_is_lost_again_is_away_as_any_other(copies, is_cut):
    net, nodes = site_of(3, kind=WorkNet, copies=copies)
    a, b, c = nodes
    net.worker(a).put("orders", b"1", b"2")
    net.run(2 * SECOND)
    net.kill(a)
    net.run(SECOND)
    assert forget(net, b, a.name, assume_dead=True)[0] == ""
    net.run(2 * SECOND)
    if is_cut:  # it hears of it by the other one
        net.cut(a, c)
    a.start([b.address] if is_cut else [b.address, c.address])
    net.run(6 * SECOND)
    net.kill(a)
    net.heal()
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    for node in (b, c):
        assert [row["name"] for row in node.node.site.describe(net.now_ns)["away"]] == [a.name]
        reader = Program(net, node)
        reader.subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        rows = [row for frame in reader.take(Deliver) for row in frame.batches]
        assert sum(row.count for row in rows) == (2 if copies > 1 else 0)
        assert away(reader) == (set() if copies > 1 else {a.origin})
    assert forget(net, c, a.name)[0] == ""
    net.run(2 * SECOND)
    assert kept((b, c), a.origin) == []
    for node in (b, c):
        assert node.node.site.describe(net.now_ns)["away"] == []


def test_what_is_left_of_a_log_that_its_node_no_longer_has_is_forgotten_by_its_name():
    from meshmq.testing.disk import Disk

    net, nodes = site_of(3, kind=WorkNet, copies=2)
    a, b, _ = nodes
    net.worker(a).put("orders", b"1")
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    old = a.origin
    net.kill(a)
    a.disk = Disk(b"new disk".ljust(16))
    a.start([n.address for n in nodes if n is not a])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.worker(a).put("orders", b"2")
    net.run(2 * SECOND)
    assert forget(net, b, a.name, assume_dead=True)[2]["origins"] == [old.hex()]
    net.run(2 * SECOND)
    assert kept(nodes, old) == []
    assert len(kept(nodes, a.origin)) == 1


def test_what_is_no_name_of_a_node_is_refused_in_words():
    net, (_, b, _) = gone()
    for verb in ("node.forget", "node.takeover"):
        for name in (3, None, [], "", "x" * 5000):
            code, message, _ = net.worker(b).command(verb, name=name)
            assert (code, len(message) < 200) == ("command-failed", True)
            assert "named by a text" in message
        code, message, _ = net.worker(b).command(verb, name="node-0", assume_dead="yes")
        assert message == "assume_dead is true or false"
