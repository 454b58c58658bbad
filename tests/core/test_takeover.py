"""Groups of a node that is gone are worked on by another: nothing is left, nothing comes again."""

from __future__ import annotations

from meshmq import codec, limits
from meshmq.limits import MS, SECOND
from tests.core.site_workers import WorkNet
from tests.core.sites import joined, site_of
from tests.core.test_copies import holder, is_copied


def begun(count=3, records=20, acked=8, kind="group", topic="orders.eu", group="billing"):
    """A site in which node 0 has records of which some are acked, all of it copied, and whose
    member is gone; values that are left."""
    net, nodes = site_of(count, kind=WorkNet, copies=2)
    a = nodes[0]
    worker = member(net, a, kind, group)
    net.run(SECOND)
    maker = net.worker(a)
    for i in range(0, records, 2):
        maker.put(topic, b"%d" % i, b"%d" % (i + 1), priority=0 if kind == "queue" else None)
        net.run(10 * MS)
    net.run(SECOND)
    assert worker.got == [b"%d" % i for i in range(records)]
    for one in worker.hands[:acked]:
        worker.settle(one)
    net.run(SECOND)
    worker.die()
    maker.die()
    net.run(200 * MS)
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    return net, nodes, worker.got[acked:]


def member(net, at, kind="group", group="billing"):
    pattern = "orders.>" if kind == "group" else ""
    return net.worker(at).consume(group, pattern, prefetch=100, kind=kind)


def take_over(net, at, gone, **arguments):
    """Sends the command to a node; (code, message, answer)."""
    return net.worker(at).command("node.takeover", name=gone.name, **arguments)


def lineage(worker):
    """Headers that the worker's records have."""
    found = []
    for held, index, _ in worker.hands:
        found.append(codec.decode_headers(held.records.headers[index]))
    return found


def test_what_was_not_acked_is_worked_on_and_what_was_is_not():
    net, (a, *_), left = begun()
    at = holder(net, a)
    net.kill(a)
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    code, message, told = take_over(net, at, a)
    assert (code, message) == ("", "")
    assert (told["epoch"], told["groups"], told["skipped"]) == (1, ["billing"], [])
    assert take_over(net, at, a)[2] == told  # the answer may have been lost
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left
    assert {h["$topic"] for h in lineage(worker)} == {"orders.eu"}
    assert {h["$taken-from"] for h in lineage(worker)} == {a.name}
    worker.ack_all()
    net.run(SECOND)
    again = member(net, at)
    net.run(2 * SECOND)
    assert again.got == []


def test_members_at_any_node_work_on_what_was_taken_over():
    net, (a, *others), left = begun()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, other)
    net.run(3 * SECOND)
    assert worker.got == left


def test_jobs_of_a_queue_are_taken_over_in_their_lane():
    net, (a, *_), left = begun(kind="queue", topic="thumbs", group="thumbs")
    at = holder(net, a)
    net.kill(a)
    net.run(100 * MS)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, "queue", "thumbs")
    net.run(2 * SECOND)
    assert worker.got == left
    assert {held.row.topic for held, *_ in worker.hands} == {"thumbs"}


def test_it_is_refused_while_the_node_lives_or_was_just_seen_or_no_copy_is_here():
    net, (a, *others), _ = begun()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    assert "is alive" in take_over(net, at, a)[1]
    assert "is alive" in take_over(net, at, a, assume_dead=True)[1]
    net.kill(a)
    net.run(SECOND)
    assert "--assume-dead" in take_over(net, at, a)[1]
    assert "no copy of a node named" in take_over(net, other, a)[1]
    assert not at.disk.state.takeovers


def test_the_node_that_is_back_hands_out_only_what_had_not_been_copied():
    net, (a, *others), left = begun()
    at = holder(net, a)
    for other in others:
        net.cut(a, other)
    maker = net.worker(a)
    maker.put("orders.eu", b"tail 1", b"tail 2")  # no copy gets it
    net.run(SECOND)
    maker.die()
    net.run(100 * MS)
    net.kill(a)
    net.run(4 * SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left
    net.heal()
    a.start([n.address for n in others])
    back = member(net, a)
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    assert back.got + worker.got[len(left) :] == [b"tail 1", b"tail 2"]
    # So it is after another restart, which finds that in its log.
    back.die()
    worker.ack_all()
    net.run(SECOND)
    worker.die()
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    again = member(net, a)
    net.run(8 * SECOND)
    assert set(again.got) <= {b"tail 1", b"tail 2"}
    assert a.disk.state.takeovers[a.origin].taker == at.origin
    net.worker(a).put("orders.eu", b"new")
    net.run(2 * SECOND)
    assert again.got[-1] == b"new"


def test_a_taker_that_is_killed_in_the_middle_moves_each_record_once(monkeypatch):
    monkeypatch.setattr(limits, "TAKEOVER_BYTES", 1)  # one batch a commit
    net, (a, *others), left = begun(records=40)
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    for wait in (3, 7, 5, 11):
        net.run(wait * MS)
        net.kill(at)
        at.start([n.address for n in others if n is not at])
        net.run(700 * MS)
    net.run(5 * SECOND)
    worker = member(net, at)
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted(left)


def test_a_node_that_starts_alone_hands_out_after_a_bounded_wait():
    net, (a, *others), left = begun()
    net.kill(a)
    for other in others:
        net.kill(other)
    a.start()
    worker = member(net, a)
    net.run(limits.RETURN_WAIT_NS - SECOND)
    assert worker.got == []
    net.run(3 * SECOND)
    assert worker.got == left


def test_a_restart_with_siblings_there_waits_no_longer_than_it_takes_to_meet_them():
    net, (a, *others), left = begun()
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    worker = member(net, a)
    net.run(2500 * MS)
    assert worker.got == left


def test_a_takeover_is_known_to_all():
    net, nodes, _ = begun(4)
    a = nodes[0]
    at = holder(net, a)
    net.kill(a)
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    assert take_over(net, at, a)[0] == ""
    net.run(2 * SECOND)
    for node in nodes[1:]:
        assert node.disk.state.takeovers[a.origin].taker == at.origin
    (row,) = at.node.site.describe(net.now_ns)["copies"]["takeovers"]
    assert (row["of"], row["epoch"], row["moving"]) == (a.name, 1, False)
