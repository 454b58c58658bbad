"""A backup of a node's disk that is put back: it gives no offset twice, and nothing is lost."""

from __future__ import annotations

import copy

import pytest

from meshmq import limits
from meshmq.core.journal import JournalState
from meshmq.frames import REPLICATED, START_EARLIEST, SYNCED, Confirm, Refuse
from meshmq.limits import MS, SECOND
from tests.core.helpers import batch_of
from tests.core.site_workers import WorkNet
from tests.core.sites import Program, joined, site_of
from tests.core.test_copies import confirmations, copy_of, holder, is_copied, own_log, records_of


def backed_up(count=3, kind=None, early=5, late=1, copies=2):
    """A site in which node 0 was killed, and a backup put back that lacks its last batches:
    (network, nodes, the log as it was)."""
    net, nodes = site_of(count, copies=copies, **({"kind": kind} if kind else {}))
    a = nodes[0]
    program = Program(net, a)
    for i in range(early):
        program.publish("orders", b"%d" % i)
        net.run(20 * MS)
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    backup = copy.deepcopy(a.disk)
    for i in range(early, early + late):
        program.publish("orders", b"%d" % i)
        net.run(20 * MS)
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    net.run(SECOND)  # those that have no copy have heard of it
    log = own_log(a)
    net.kill(a)
    a.disk = backup
    return net, nodes, log


def renew(node):
    """As ``meshmq log renew`` does."""
    node.disk.renew(node.origin[1:] + b"n", node.name)


def start(net, node):
    node.start([n.address for n in net.nodes if n is not node])


def news(node):
    return " ".join(node.node.site.links.news)


def test_it_takes_no_records_and_says_why_also_after_a_restart():
    for late in (1, 2, 9):
        net, (a, *_), log = backed_up(late=late)
        start(net, a)
        for life in range(2):
            program = Program(net, a)
            program.publish("orders", b"again")
            net.run(3 * SECOND)
            program.publish("orders", b"and again", first=1)
            net.run(SECOND)
            codes = [c.code for c in confirmations(program)]
            assert set(codes) <= {"busy", "log-behind"}, (late, life)
            assert codes[-1] == "log-behind"
            assert "meshmq log renew" in news(a)
            assert copy_of(holder(net, a), a) == log
            shown = a.node.site.describe(net.now_ns)["copies"]["behind"]
            assert shown["lsn"] > 0
            net.run(2 * SECOND)  # others' logs are copied here, so commits go on
            net.kill(a)
            start(net, a)


def test_a_node_that_is_told_by_one_that_has_no_copy_knows_too():
    net, (a, *others), _ = backed_up()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    net.kill(at)
    net.run(200 * MS)
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(100 * MS)
    program = Program(net, a)
    program.publish("orders", b"again")
    net.run(SECOND)
    assert [c.code for c in confirmations(program)] == ["log-behind"]
    assert other.name in news(a)


def test_a_restart_that_lost_nothing_takes_records_as_soon_as_it_has_met_a_sibling():
    net, nodes = site_of(3, copies=2)
    a = nodes[0]
    Program(net, a).publish("orders", b"1")
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    net.kill(a)
    start(net, a)
    program = Program(net, a)
    program.publish("orders", b"too early")
    net.run(100 * MS)
    assert [c.code for c in confirmations(program)] == ["busy"]
    assert net.run(6 * SECOND, lambda: joined(net))
    program.publish("orders", b"2", first=1)
    assert net.run(SECOND, lambda: program.find(Confirm))
    assert [c.code for c in confirmations(program)] == [""]


def test_a_node_that_starts_alone_takes_records_after_a_bounded_wait():
    net, (a, b) = site_of(2, copies=2)
    Program(net, a).publish("orders", b"1")
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    net.kill(a)
    net.kill(b)
    a.start()
    net.run(limits.OWN_LOG_WAIT_NS + SECOND)
    program = Program(net, a)
    program.publish("orders", b"2")
    net.run(SECOND)
    assert [c.code for c in confirmations(program)] == [""]


def test_what_it_took_before_it_knew_is_in_no_copy_of_the_log_that_was():
    """The simulator found it: the copy went on with it, and it was said to be replicated."""
    net, (a, *others), log = backed_up(late=2)
    at = holder(net, a)
    for node in others:
        net.kill(node)
    start(net, a)
    net.run(limits.OWN_LOG_WAIT_NS + SECOND)
    program = Program(net, a)
    for _ in range(9):
        program.publish("orders", b"wrong", replicated=True)
        net.run(20 * MS)
    net.run(SECOND)
    assert {c.durability for c in confirmations(program)} == {SYNCED}
    for node in others:
        start(net, node)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    program.publish("orders", b"more", replicated=True)
    net.run(SECOND)
    told = confirmations(program)
    assert REPLICATED not in {c.durability for c in told}
    assert told[-1].code == "log-behind"
    assert copy_of(at, a) == log


@pytest.mark.parametrize("has_run", [False, True])
def test_renewed_it_goes_on_as_another_log_and_every_record_is_read_once_from_any_node(has_run):
    net, nodes, log = backed_up(late=7)
    a = nodes[0]
    old = a.origin
    if has_run:  # it has written before it knew, too
        start(net, a)
        assert net.run(6 * SECOND, lambda: joined(net))
        a.node.groups.append_own("orders", batch_of("orders", 1, b"wrong")[1], 1)
        a.node.groups.append_own("orders", batch_of("orders", 1, b"wrong")[1], 1)
        a.end_turn()
        net.run(3 * SECOND)
        net.kill(a)
        assert a.disk.state.behind.began < a.disk.state.next_lsn - 1
    renew(a)
    assert a.origin != old
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    program = Program(net, a)
    program.publish("orders", b"new")
    net.run(SECOND)
    assert [c.code for c in confirmations(program)] == [""]
    want = [(i, b"%d" % i) for i in range(len(log))]
    for node in nodes:
        reader = Program(net, node)
        reader.subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        found = records_of(reader)
        assert [r[2:] for r in found if r[0] == old] == want
        assert [r[2:] for r in found if r[0] != old] == [(0, b"new")]
        assert not reader.find(Refuse)
    (kept,) = [k for k in a.node.site.describe(net.now_ns)["copies"]["kept"]
               if k["origin"] == old.hex()]  # fmt: skip
    assert kept["received"] == 7  # what it had it keeps


def test_what_had_no_copies_is_read_where_it_was_renewed():
    net, nodes = site_of(3)
    a = nodes[0]
    from meshmq.core.log import RuleEntry

    a.node.topics.set_policy(RuleEntry("orders", True, 0, 0, copies=2), a.node._entries)
    a.end_turn()
    net.run(2 * SECOND)
    program = Program(net, a)
    program.publish("bills", b"b1", b"b2")
    program.publish("orders", b"1")
    net.run(SECOND)
    backup = copy.deepcopy(a.disk)
    program.publish("orders", b"2")
    net.run(SECOND)
    net.kill(a)
    a.disk = backup
    old = a.origin
    renew(a)
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    for node in nodes:
        for topic, values in (("bills", [b"b1", b"b2"]), ("orders", [b"1", b"2"])):
            reader = Program(net, node)
            reader.subscribe(topic, start=START_EARLIEST)
            net.run(2 * SECOND)
            assert [r[3] for r in records_of(reader) if r[0] == old] == values


def put_back_with_work():
    """A site whose node 0 was put back, from a backup that lacks two of six records and that three
    were done: (network, nodes)."""
    net, nodes = site_of(3, kind=WorkNet, copies=2)
    a = nodes[0]
    worker = net.worker(a).consume("billing", "orders", prefetch=100)
    net.run(SECOND)
    maker = net.worker(a)
    maker.put("orders", b"0", b"1", b"2", b"3")
    net.run(SECOND)
    backup = copy.deepcopy(a.disk)
    maker.put("orders", b"4", b"5")
    net.run(SECOND)
    for one in worker.hands[1:4]:
        worker.settle(one)
    net.run(SECOND)
    for one in (worker, maker):
        one.die()
    net.run(SECOND)
    assert is_copied(net, a)
    kept = holder(net, a)
    net.kill(a)
    a.disk = backup
    renew(a)
    assert a.disk.state.journal == JournalState(next_id=2)
    return net, a, kept, next(n for n in nodes[1:] if n is not kept)


def test_the_work_of_its_groups_is_taken_over_by_itself():
    net, a, _, other = put_back_with_work()
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    code, message, told = net.worker(a).command("node.takeover", name=a.name)
    assert (code, message, told["groups"]) == ("", "", ["billing"])
    again = net.worker(other).consume("billing", "orders", prefetch=100)
    net.run(3 * SECOND)
    assert sorted(again.got) == [b"0", b"4", b"5"]


def test_what_a_copy_has_that_was_away_is_taken_over_when_that_is_back():
    net, a, kept, other = put_back_with_work()
    net.kill(kept)
    start(net, a)
    assert net.run(8 * SECOND, lambda: joined(net))
    assert net.worker(a).command("node.takeover", name=a.name, assume_dead=True)[0] == ""
    worker = net.worker(other).consume("billing", "orders", prefetch=100)
    net.run(3 * SECOND)
    assert worker.got == [b"0", b"1", b"2", b"3"]  # what the backup knew
    worker.ack_all()
    start(net, kept)
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(5 * SECOND)
    assert worker.got == [b"0", b"1", b"2", b"3", b"4", b"5"]
