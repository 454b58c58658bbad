"""A node that drains: when that is over, who is let in meanwhile, and how it ends or is undone."""

from __future__ import annotations

import json

import pytest

from meshmq.core.lanes import WAITING
from meshmq.frames import REPLICATED, SYNCED
from meshmq.limits import MS, SECOND
from tests.core.movers import DONE, Mover, joined, moving_site
from tests.core.sites import Net, Program


def connected(net, *movers):
    assert net.run(5 * SECOND, lambda: all(m.is_connected for m in movers))
    net.run(50 * MS)


def admin_of(net, node, name="admin"):
    admin = Mover(net, node.client_address, name=name, stays=True, admin=True)
    connected(net, admin)
    return admin


def drain(net, admin, timeout_ns=30 * SECOND, **more):
    return admin.command("node.drain", json.dumps({"timeout_ns": timeout_ns, **more}).encode())


def answer(net, admin, number, span_ns=SECOND):
    assert net.run(span_ns, lambda: number in admin.answers)
    return admin.answers[number]


def replicated(writer):
    """Publish a record that is to be confirmed by its copies."""
    batch = writer.client.publisher.add_many(
        "orders.eu", [b"x"], None, None, None, lambda: 0, REPLICATED
    )
    writer.flush()
    return batch


def drained(net, admin, number, span_ns=SECOND):
    code, message, body = answer(net, admin, number, span_ns)
    assert code == "", message
    return json.loads(body)


def alone(site="eu"):
    net = Net(0)
    net.movers = []
    node = net.add(site=site or "eu")
    node.start() if site else node.start_alone()
    return net, node


def test_what_it_copies_of_a_busy_node_does_not_hold_up_a_drain():
    net, (a, b) = moving_site(2, copies=2)
    writer = Mover(net, b.client_address, name="writer")
    mover = Mover(net, a.client_address, name="mover")
    connected(net, writer, mover)
    batches = []

    def write():
        batches.append(writer.publish("orders.eu", b"x"))
        net.at(5 * MS, write)

    write()
    net.run(SECOND)
    assert a.node.has_unsynced or net.run(10 * MS, lambda: a.node.has_unsynced)
    admin = admin_of(net, a)
    number = drain(net, admin)
    assert drained(net, admin, number) == {"node": a.name, "moved": 1, "left": 0, "forced": False}
    assert batches[0].state == DONE


def test_what_its_programs_wait_for_holds_up_a_drain():
    net, (a, _b) = moving_site(2)
    mover = Mover(net, a.client_address, name="mover")
    connected(net, mover)
    lost = Program(net, a)
    net.run(10 * MS)
    a.sync = lambda life, append: None  # its disk hangs
    lost.publish("orders.eu", b"1")
    admin = admin_of(net, a)
    number = drain(net, admin, 3 * SECOND)
    net.programs.pop(lost.link)
    a.node._drop(lost.link, net.now_ns)
    assert not net.run(2 * SECOND, lambda: number in admin.answers)
    assert drained(net, admin, number, 2 * SECOND)["left"] == 0


def test_a_drain_ends_at_its_time_though_nothing_happens():
    net, (a, _b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    admin = admin_of(net, a)
    drain(net, admin, 300 * MS)
    assert net.run(310 * MS, lambda: a.node.drain.is_over)


def test_a_drain_whose_asker_is_gone_ends_all_the_same():
    net, (a, _b) = moving_site(2)
    mover = Mover(net, a.client_address, name="mover")
    connected(net, mover)
    admin = admin_of(net, a)
    drain(net, admin)
    net.run(5 * MS)
    admin.client.close(net.now_ns)
    admin.flush()
    assert net.run(2 * SECOND, lambda: a.node.drain.is_over)


def test_commands_are_let_in_at_a_node_that_drains_and_not_waited_for():
    net, (a, _b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    first = admin_of(net, a)
    number = drain(net, first, 2 * SECOND, stay=True)
    net.run(100 * MS)
    asks = admin_of(net, a, "asks")
    status = json.loads(answer(net, asks, asks.command("status"))[2])
    assert status["drain"] == {
        "over": False, "stays": True, "moved": 0, "left": 1, "forced": False
    }  # fmt: skip
    assert drained(net, first, number, 3 * SECOND)["left"] == 1
    status = json.loads(answer(net, asks, asks.command("status"))[2])
    assert status["drain"]["over"]


def test_a_program_that_comes_to_a_node_that_drains_is_sent_to_another_one():
    net, (a, b) = moving_site(2)
    drain(net, admin_of(net, a), stay=True)
    net.run(SECOND)
    late = Mover(net, a.client_address, name="late")
    assert net.run(SECOND, lambda: late.client.node_name == b.name)
    assert late.client.refused is None


def test_one_that_stays_with_its_node_is_told_that_it_drains_and_where_to_go():
    net, (a, b) = moving_site(2)
    drain(net, admin_of(net, a), stay=True)
    net.run(SECOND)
    late = Mover(net, a.client_address, name="late", stays=True)
    assert not net.run(2 * SECOND, lambda: late.is_connected)
    assert late.client.refused.code == "draining"
    assert str(late.client.refused) == (
        f"node {a.name} drains and lets no program in: go to another one of its site, "
        f"{b.client_address} ({b.name})"
    )


def test_a_second_drain_ends_a_node_that_was_to_stay():
    net, (a, _b) = moving_site(2)
    admin = admin_of(net, a)
    drained(net, admin, drain(net, admin, stay=True))
    assert a.node.drain.stays
    again = admin_of(net, a, "again")
    assert drained(net, again, drain(net, again))["left"] == 0
    assert a.node.drain.is_over
    assert not a.node.drain.stays


def test_a_drain_can_be_undone():
    net, (a, b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    admin = admin_of(net, a)
    number = drain(net, admin)
    net.run(100 * MS)
    other = admin_of(net, a, "other")
    undone = other.command("node.undrain")
    assert json.loads(answer(net, other, undone)[2]) == {"node": a.name}
    code, message, _ = answer(net, admin, number)
    assert code == "command-failed"
    assert "undone" in message
    late = Mover(net, a.client_address, name="late")
    connected(net, late)
    assert late.client.node_name == a.name
    assert not a.node.admission.is_draining
    assert answer(net, other, other.command("node.undrain"))[0] == "command-failed"
    # And again, as if it had not been.
    assert drained(net, admin, drain(net, admin, 2 * SECOND), 3 * SECOND)["left"] == 1
    assert late.client.node_name == b.name


def test_groups_hand_out_again_when_a_drain_is_undone():
    net, (a, _b) = moving_site(2)
    group = next(iter(a.node.groups.by_name.values()), None)
    admin = admin_of(net, a)
    made = json.dumps({"group": "billing", "pattern": "orders.>"}).encode()
    answer(net, admin, admin.command("group.create", made))
    group = a.node.groups.by_name["billing"]
    drained(net, admin, drain(net, admin, stay=True))
    looked = []
    group.pump = lambda now_ns, pump=group.pump: looked.append(pump(now_ns))
    answer(net, admin, admin.command("node.undrain"))
    assert looked


@pytest.mark.parametrize("site", ["eu", ""])
def test_the_last_node_refuses_to_drain_unless_it_is_forced(site):
    net, node = alone(site)
    held = Mover(net, node.client_address, name="waits")
    connected(net, held)
    admin = admin_of(net, node)
    code, message, _ = answer(net, admin, drain(net, admin))
    assert code == "command-failed"
    assert "nowhere to go" in message
    assert not node.node.drain.is_on
    told = drained(net, admin, drain(net, admin, force=True))
    assert told == {"node": node.name, "moved": 0, "left": 1, "forced": True}
    assert held.is_connected


def test_a_forced_drain_does_not_wait_for_who_goes_on_publishing():
    net, node = alone()
    writer = Mover(net, node.client_address, name="writer")
    connected(net, writer)
    sync = node.sync
    node.sync = lambda life, append: net.at(20 * MS, lambda: sync(life, append))

    def write():
        writer.publish("orders.eu", b"x")
        net.at(5 * MS, write)

    write()
    net.run(SECOND)
    admin = admin_of(net, node)
    told = drained(net, admin, drain(net, admin, force=True), 2 * SECOND)
    assert told["forced"]
    assert node.node.has_unsynced


def test_a_node_whose_siblings_are_gone_refuses_to_drain():
    net, (a, b) = moving_site(2)
    net.kill(b)
    assert net.run(10 * SECOND, lambda: joined(net))
    admin = admin_of(net, a)
    assert answer(net, admin, drain(net, admin))[0] == "command-failed"


def test_what_waits_for_its_copies_is_confirmed_before_its_program_leaves():
    net, (a, _b) = moving_site(2, copies=2)
    writer = Mover(net, a.client_address, name="writer")
    connected(net, writer)
    batches = []

    def write():
        batches.append(replicated(writer))
        if len(batches) < 300:
            net.at(MS, write)

    write()
    net.run(100 * MS)
    drain(net, admin_of(net, a), stay=True)
    assert net.run(5 * SECOND, lambda: all(batch.state != WAITING for batch in batches))
    assert {batch.durability for batch in batches if batch.state == DONE} == {REPLICATED}
    assert [str(batch.error) for batch in batches if batch.error] == []
    assert len(batches) == 300


def test_who_waits_for_copies_that_do_not_come_leaves_all_the_same():
    net, (a, b, c) = moving_site(3, copies=3)
    writer = Mover(net, a.client_address, name="writer")
    connected(net, writer)
    net.run(SECOND)
    net.kill(c)
    batch = replicated(writer)
    net.run(100 * MS)
    assert batch.durability == SYNCED
    admin = admin_of(net, a)
    number = drain(net, admin)
    assert drained(net, admin, number, 3 * SECOND)["moved"] == 1
    assert writer.client.node_name == b.name
    assert batch.error.outcome == "done"


def test_a_second_drain_has_a_time_of_its_own():
    net, (a, _b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    admin = admin_of(net, a)
    first = drain(net, admin, 300 * MS, stay=True)
    assert drained(net, admin, first)["left"] == 1
    again = drain(net, admin, 3 * SECOND)
    assert not net.run(2 * SECOND, lambda: a.node.drain.is_over and again in admin.answers)
    assert not a.node.drain.is_over
    assert drained(net, admin, again, 2 * SECOND)["left"] == 1
    assert a.node.drain.is_over


def test_a_second_drain_sends_programs_to_a_node_that_came_after_a_forced_one():
    net, (a, b) = moving_site(2)
    net.kill(b)
    assert net.run(10 * SECOND, lambda: joined(net))
    mover = Mover(net, a.client_address, name="mover")
    connected(net, mover)
    admin = admin_of(net, a)
    told = drained(net, admin, drain(net, admin, force=True, stay=True))
    assert told == {"node": a.name, "moved": 0, "left": 1, "forced": True}
    b.start()
    assert net.run(20 * SECOND, lambda: a.node.drain._others)
    told = drained(net, admin, drain(net, admin), 5 * SECOND)
    assert told == {"node": a.name, "moved": 1, "left": 0, "forced": False}
    assert mover.client.node_name == b.name


def test_a_drain_whose_other_nodes_are_gone_can_be_forced():
    net, (a, b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    admin = admin_of(net, a)
    drain(net, admin)
    net.kill(b)
    assert net.run(10 * SECOND, lambda: not a.node.drain._others)
    assert answer(net, admin, drain(net, admin))[0] == "command-failed"
    forced = drain(net, admin, force=True)
    assert drained(net, admin, forced, 2 * SECOND)["forced"]
