"""Programs whose node dies, or drains: where they go, and what comes along."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

import pytest

from meshmq import limits
from meshmq.core.dedup import Dedup
from meshmq.core.moving import Moving
from meshmq.frames import KnownPeer
from meshmq.frames_moving import Moved, Published
from meshmq.limits import MS, SECOND
from tests.core.movers import (
    DONE,
    FAILED,
    START_EARLIEST,
    Mover,
    freeze,
    joined,
    kill,
    moving_site,
)

A, B, C, D = (f"tcp://127.0.0.1:{port}" for port in (5001, 5002, 5003, 5004))


def known(*addresses):
    return [KnownPeer(a.encode()[-16:], True, a, (a,)) for a in addresses]


def dialled(moving, count, now_ns=0):
    return [moving.next(now_ns).address for _ in range(count)]


# -- which address ------------------------------------------------------------------------------


def test_at_first_the_given_addresses_are_tried_in_their_order():
    moving = Moving((A, B, C), random.Random(1))
    assert moving.address == A
    assert dialled(moving, 5) == [B, C, A, B, C]


def test_a_lost_node_gets_one_quick_try_then_the_given_ones_then_those_of_the_site():
    for seed in range(20):
        moving = Moving((A, B), random.Random(seed))
        moving.on_known(known(A, B, C, D))
        moving.connected(known(A)[0].instance)
        dials = [moving.next(0) for _ in range(4)]
        assert [d.address for d in dials[:2]] == [A, B]
        assert {d.address for d in dials[2:]} == {C, D}
        assert dials[0].delay_ns == 0
        assert 0 <= dials[1].delay_ns < limits.MOVE_SPREAD_NS


def test_programs_of_a_dead_node_do_not_all_go_to_the_same_one():
    counts = Counter()
    for seed in range(1000):
        moving = Moving((A,), random.Random(seed))
        moving.on_known(known(A, B, C, D))
        moving.connected(known(A)[0].instance)
        counts[dialled(moving, 2)[1]] += 1
    assert set(counts) == {B, C, D}
    assert max(counts.values()) < 400


def test_who_drains_or_is_full_is_avoided_for_a_while():
    moving = Moving((A,), random.Random(1))
    moving.on_known(known(A, B))
    moving.connected(known(A)[0].instance)
    moving.avoid(0)
    assert dialled(moving, 3) == [B, B, B]
    assert A in dialled(moving, 2, limits.AVOIDED_NS + 1)


def test_with_no_other_even_one_that_drains_is_dialled():
    moving = Moving((A,), random.Random(1))
    moving.connected(b"o" * 16)
    moving.avoid(0)
    assert dialled(moving, 2) == [A, A]


def test_those_that_are_away_are_kept_and_come_last():
    for seed in range(20):
        moving = Moving((A,), random.Random(seed))
        moving.on_known(known(A, B, C, D))
        moving.on_known(known(A, D))
        moving.connected(known(A)[0].instance)
        assert dialled(moving, 2)[1] == D
        assert set(dialled(moving, 2)) == {B, C}


def test_nodes_that_are_known_are_bounded():
    moving = Moving((A,), random.Random(1))
    for i in range(10):
        origins = [i.to_bytes(8, "big") + n.to_bytes(8, "big") for n in range(40)]
        moving.on_known([KnownPeer(o, True, "n", (B,)) for o in origins])
    assert len(moving.nodes) == limits.SITE_NODES_MAX
    assert set(origins) <= set(moving.nodes)


def test_what_is_told_is_dialled_only_where_it_can_be():
    moving = Moving((A,), random.Random(1))
    moving.on_known(
        [
            KnownPeer(b"1" * 16, True, "far", ("tcp://10.0.0.1:5757",)),
            KnownPeer(b"2" * 16, True, "named", ("tcp://example.org:5757",)),
            KnownPeer(b"3" * 16, False, "program", (B,)),
        ]
    )
    assert not moving.has_others
    far = Moving((A,), random.Random(1), "plant", insecure=True)
    far.on_known([KnownPeer(b"1" * 16, True, "far", ("tcp://10.0.0.1:5757",))])
    assert far.has_others


def test_who_stays_dials_its_node_alone():
    moving = Moving((A, B), random.Random(1), stays=True)
    assert dialled(moving, 1) == [B]
    moving.on_known(known(A, B, C))
    moving.connected(b"o" * 16)
    assert dialled(moving, 5) == [B] * 5


def test_pauses_grow_once_all_were_tried():
    moving = Moving((A, B), random.Random(1))
    moving.connected(b"o" * 16)
    delays = [moving.next(0).delay_ns for _ in range(20)]
    assert sum(delays[:2]) < limits.MOVE_SPREAD_NS
    assert max(delays) <= limits.RECONNECT_NS_MAX * 3 // 2
    assert delays[-2] > limits.SECOND // 2 or delays[-1] > limits.SECOND // 2


# -- what came already --------------------------------------------------------------------------

P = b"p" * 16
X, Y, Z = b"x" * 16, b"y" * 16, b"z" * 16


def test_a_copy_is_dropped_whichever_comes_first():
    moved = Moved(X, 5).pack()
    for order in ("own first", "moved first"):
        dedup = Dedup()
        rows = [(X, Published(P, 5), 0), (Y, Published(P, 5, moved), 0)]
        if order == "moved first":
            rows.reverse()
        assert [dedup.take("t", o, p, 3) for o, p, _ in rows] == [0, 3]


def test_a_copy_with_another_number_is_known_by_the_first_one():
    dedup = Dedup()
    assert dedup.take("t", X, Published(P, 5), 3) == 0
    assert dedup.take("t", Y, Published(P, 900, Moved(X, 5).pack()), 3) == 3


def test_what_is_no_copy_is_kept():
    dedup = Dedup()
    assert dedup.take("t", X, Published(P, 1), 10) == 0
    assert dedup.take("t", Y, Published(P, 1), 10) == 0  # numbered by itself at another node
    assert dedup.take("t", X, Published(P, 1), 10) == 0  # the topic was made anew
    assert dedup.take("u", Y, Published(P, 1, Moved(X, 1).pack()), 10) == 0
    assert dedup.take("t", Y, Published(b"q" * 16, 1, Moved(X, 1).pack()), 10) == 0
    assert dedup.take("t", Y, Published(P, 9, Moved(X, 9).pack()), 4) == 2  # two of them are


def test_a_copy_that_was_moved_twice_is_dropped_everywhere():
    dedup = Dedup()
    moved = Moved(X, 5).pack()
    took = [dedup.take("t", o, Published(P, 5, moved if o != X else b""), 1) for o in (Y, Z, X, Y)]
    assert took == [0, 1, 1, 1]


def test_what_is_known_is_bounded():
    dedup = Dedup()
    for i in range(limits.DEDUP_RUNS_MAX * 3):
        dedup.take("t", X, Published(P, 1 + 2 * i), 1)
    runs = next(iter(dedup._seen.values()))[X]
    assert len(runs) == limits.DEDUP_RUNS_MAX
    assert dedup.take("t", Y, Published(P, 1, Moved(X, 2 * i + 1).pack()), 1) == 1


# -- programs -----------------------------------------------------------------------------------


def connected(net, *movers):
    assert net.run(5 * SECOND, lambda: all(m.is_connected for m in movers))
    net.run(50 * MS)


def test_a_client_is_told_of_the_other_nodes_and_of_what_changes():
    net, (a, b, c) = moving_site(3)
    mover = Mover(net, a.client_address)
    connected(net, mover)
    assert set(mover.client.moving.nodes.values()) == {a.name, b.name, c.name}
    late = net.add()
    late.start([a.address])
    assert net.run(3 * SECOND, lambda: late.name in mover.client.moving.nodes.values())


def test_clients_are_told_of_changes_no_more_often_than_every_second():
    net, (a, b, _c) = moving_site(3)
    mover = Mover(net, a.client_address)
    connected(net, mover)
    told = []
    moving = mover.client.moving
    learn = moving.on_known
    moving.on_known = lambda peers: (told.append(net.now_ns), learn(peers))
    for _ in range(6):
        net.kill(b)
        net.run(200 * MS)
        b.start([a.address])
        net.run(200 * MS)
    net.run(2 * SECOND)
    assert len(told) >= 2
    assert all(y - x >= limits.KNOWN_TOLD_NS - 10 * MS for x, y in itertools.pairwise(told))


def test_a_program_whose_node_is_killed_is_at_another_one_at_once():
    net, (a, b, c) = moving_site(3)
    mover = Mover(net, a.client_address)
    connected(net, mover)
    kill(net, a)
    assert net.run(200 * MS, lambda: mover.client.node_name in (b.name, c.name))
    assert mover.is_connected


def test_a_program_whose_node_is_silent_is_at_another_one_within_five_seconds():
    net, (a, b, c) = moving_site(3)
    mover = Mover(net, a.client_address)
    connected(net, mover)
    freeze(net, a)
    assert net.run(5 * SECOND, lambda: mover.client.node_name in (b.name, c.name))


def test_two_dead_nodes_are_passed_over_in_time():
    net, (a, b, c, d) = moving_site(4)
    mover = Mover(net, a.client_address)
    connected(net, mover)
    for node in (b, c, a):
        freeze(net, node)
    assert net.run(5 * SECOND, lambda: mover.client.node_name == d.name)


def test_who_waits_stays_with_its_node():
    net, (a, b) = moving_site(2)
    mover = Mover(net, a.client_address, stays=True)
    connected(net, mover)
    kill(net, a)
    net.run(10 * SECOND)
    assert not mover.is_connected
    a.start([b.address])
    assert net.run(5 * SECOND, lambda: mover.is_connected and mover.client.node_name == a.name)


def test_a_full_node_is_passed_over(monkeypatch):
    monkeypatch.setattr(limits, "SESSIONS_MAX", 4)
    net, (a, b, c) = moving_site(3)
    crowd = [Mover(net, b.client_address, name=f"crowd-{i}") for i in range(2)]
    connected(net, *crowd)
    mover = Mover(net, a.client_address)
    connected(net, mover)
    kill(net, a)
    monkeypatch.setattr(limits, "SESSIONS_MAX", 3)  # b has two clients and a node
    assert net.run(5 * SECOND, lambda: mover.client.node_name == c.name)


def test_subscriptions_go_on_at_the_other_node_without_loss_or_repeat():
    net, (a, b, _c) = moving_site(3)
    reader, writer = Mover(net, a.client_address, name="r"), Mover(net, b.client_address, name="w")
    connected(net, reader, writer)
    number = reader.subscribe("orders.>", START_EARLIEST)
    batches = [writer.publish("orders.eu", b"%d" % i) for i in range(50)]
    net.run(200 * MS)
    kill(net, a)
    batches += [writer.publish("orders.eu", b"%d" % i) for i in range(50, 100)]
    assert net.run(5 * SECOND, lambda: len(reader.values(number)) >= 100)
    net.run(SECOND)
    assert reader.values(number) == [b"%d" % i for i in range(100)]
    assert all(batch.state == DONE for batch in batches)


def _in_flight(net, a, writer, count):
    """Publish at a node that stores it, and dies before it has said so."""
    send = net.send
    net.send = lambda node, link, envelope: None if node is a and link in net.programs else send(
        node, link, envelope)  # fmt: skip
    batches = [writer.publish("orders.eu", b"%d" % i) for i in range(count)]
    net.run(20 * MS)
    net.send = send
    return batches


@pytest.mark.parametrize("dedup", [True, False])
def test_what_was_unconfirmed_is_published_again_and_the_copy_is_dropped_or_not(dedup):
    net, (a, b, c) = moving_site(3)
    reader, writer = Mover(net, c.client_address, name="r"), Mover(net, a.client_address, name="w")
    connected(net, reader, writer)
    number = reader.subscribe("orders.>", START_EARLIEST, dedup)
    writer.publish("orders.eu", b"before")
    net.run(200 * MS)
    net.cut(a, c)  # what it stores now the reader gets later
    net.cut(a, b)
    batches = _in_flight(net, a, writer, 3)
    stored = [e for commit in a.disk.commits for e in commit.batches]
    kill(net, a)
    assert net.run(5 * SECOND, lambda: all(batch.state == DONE for batch in batches))
    after = writer.publish("orders.eu", b"after")
    assert net.run(SECOND, lambda: after.state == DONE)
    net.heal()
    a.start([b.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    had = Counter(reader.values(number))
    assert set(had) == {b"before", b"0", b"1", b"2", b"after"}
    twice = {value for value, n in had.items() if n > 1}
    assert len(stored) > 1, "the node had stored what it did not confirm"
    assert twice == (set() if dedup else {b"0", b"1", b"2"} & twice)
    assert dedup or twice


@pytest.mark.parametrize("dedup", [True, False])
def test_what_moved_to_a_node_that_is_away_is_known_in_its_copy(dedup):
    net, nodes = moving_site(3, copies=2)
    a = nodes[0]
    writer = Mover(net, a.client_address)
    connected(net, writer)
    batches = _in_flight(net, a, writer, 3)
    kill(net, a)
    assert net.run(5 * SECOND, lambda: all(batch.state == DONE for batch in batches))
    to = writer.at
    a.start([n.address for n in nodes if n is not a])
    assert net.run(5 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    kill(net, to)
    (other,) = [n for n in nodes if n not in (a, to)]
    net.run(SECOND)
    reader = Mover(net, other.client_address, name="r")
    connected(net, reader)
    number = reader.subscribe("orders.>", START_EARLIEST, dedup)
    net.run(3 * SECOND)
    had = Counter(reader.values(number))
    assert set(had) == {b"0", b"1", b"2"}
    assert (max(had.values()) == 1) == dedup


def test_a_moved_batch_says_where_it_was_and_the_producer_goes_on_with_its_numbers():
    net, (a, b) = moving_site(2)
    writer = Mover(net, a.client_address)
    connected(net, writer)
    for i in range(5):
        writer.publish("orders.eu", b"%d" % i)
    net.run(100 * MS)
    batches = _in_flight(net, a, writer, 2)
    kill(net, a)
    net.run(10 * MS)
    more = [writer.publish("orders.eu", b"new") for _ in range(2)]
    assert net.run(5 * SECOND, lambda: all(m.state == DONE for m in batches + more))
    entries = [e for commit in b.disk.commits for e in commit.batches if e.producer != b.origin]
    had = {e.first: e.moved for e in entries}
    assert had[6] == Moved(a.origin, 6).pack()
    assert had == {6: had[6], 7: Moved(a.origin, 7).pack(), 8: b"", 9: b""}


def test_each_node_still_drops_what_it_has_of_a_producer_that_came_back():
    net, (a, b) = moving_site(2)
    writer = Mover(net, a.client_address)
    reader = Mover(net, b.client_address, name="r", stays=True)
    connected(net, writer, reader)
    number = reader.subscribe("orders.>", START_EARLIEST)
    first = writer.publish("orders.eu", b"0")
    net.run(100 * MS)
    for i, (dies, lives) in enumerate(((a, b), (b, a))):
        batches = _in_flight(net, dies, writer, 1)
        kill(net, dies)
        assert net.run(5 * SECOND, lambda found=batches: all(x.state == DONE for x in found)), i
        dies.start([lives.address])
        assert net.run(5 * SECOND, lambda: joined(net))
    assert first.state == DONE
    net.run(3 * SECOND)
    assert set(reader.values(number)) == {b"0"}


def test_a_job_with_an_id_is_never_sent_to_a_second_node():
    net, (a, _b) = moving_site(2)
    writer = Mover(net, a.client_address)
    connected(net, writer)
    send = net.send
    net.send = lambda node, link, envelope: None if link in net.programs else send(
        node, link, envelope)  # fmt: skip
    with_id = writer.publish("orders.eu", b"1", options=(0, 0, 0, b"img-9"))
    without = writer.publish("orders.us", b"2", options=(0, 0, 5, b""))
    net.run(20 * MS)
    net.send = send
    kill(net, a)
    assert net.run(5 * SECOND, lambda: with_id.state == FAILED and without.state == DONE)
    assert (with_id.error.code, with_id.error.outcome) == ("owner-away", "unknown")
    assert a.name in str(with_id.error)


def test_a_transaction_that_another_node_had_ends_with_what_is_known():
    net, (a, _b) = moving_site(2)
    writer = Mover(net, a.client_address)
    connected(net, writer)
    number = writer.client.transact((), (), b"", net.now_ns)
    writer.flush()
    kill(net, a)
    assert net.run(5 * SECOND, lambda: number in writer.transactions)
    assert writer.transactions[number][0] == "owner-away"


def test_requests_that_may_be_asked_twice_are_and_others_end_with_their_outcome():
    net, (a, b) = moving_site(2)
    asker = Mover(net, a.client_address, name="asker")
    server = Mover(net, b.client_address, name="server")
    server.serve("quote", server.answer, 4)
    connected(net, asker, server)
    freeze(net, a)
    again, once = asker.request("quote", idempotent=True), asker.request("quote")
    assert net.run(5 * SECOND, lambda: again.is_over and once.is_over)
    assert again.error is None
    assert once.error.code == "link-lost"
    assert once.error.outcome == "unknown"


def test_a_service_is_served_again_at_the_other_node():
    net, (a, b) = moving_site(2)
    asker = Mover(net, b.client_address, name="asker")
    server = Mover(net, a.client_address, name="server")
    server.serve("quote", server.answer)
    connected(net, asker, server)
    kill(net, a)
    assert net.run(SECOND, lambda: server.client.node_name == b.name)
    net.run(50 * MS)
    call = asker.request("quote")
    assert net.run(SECOND, lambda: call.is_over)
    assert call.error is None


def test_a_program_at_nodes_of_different_sites_does_not_take_one_for_the_other():
    net, (a, b) = moving_site(2)
    alone = net.add(site="us")
    alone.start()
    writer = Mover(net, a.client_address, alone.client_address)
    connected(net, writer)
    batches = _in_flight(net, a, writer, 1)
    freeze(net, b)
    kill(net, a)
    assert net.run(10 * SECOND, lambda: batches[0].state == FAILED)
    assert batches[0].error.code == "producer-unknown"


# -- a node that drains -------------------------------------------------------------------------


def drain(net, node, timeout_ns=30 * SECOND, stay=False):
    admin = Mover(net, node.client_address, name="admin", stays=True)
    connected(net, admin)
    wish = json.dumps({"timeout_ns": timeout_ns, "stay": stay}).encode()
    return admin, admin.command("node.drain", wish)


def test_a_drained_node_is_left_by_all_and_says_so():
    net, (a, b, c) = moving_site(3)
    movers = [Mover(net, a.client_address, name=f"m{i}") for i in range(6)]
    connected(net, *movers)
    admin, number = drain(net, a)
    assert net.run(SECOND, lambda: number in admin.answers)
    assert json.loads(admin.answers[number][2]) == {
        "node": a.name, "moved": 6, "left": 0, "forced": False
    }  # fmt: skip
    assert a.node.drain.is_over
    assert net.run(SECOND, lambda: all(m.is_connected for m in movers))
    assert {m.client.node_name for m in movers} <= {b.name, c.name}


def test_a_node_that_drains_lets_nobody_in():
    net, (a, b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    drain(net, a)
    late = Mover(net, a.client_address, b.client_address, name="late")
    assert net.run(SECOND, lambda: late.client.node_name == b.name)


def test_a_drain_ends_with_its_time_and_tells_who_is_left():
    net, (a, _b) = moving_site(2)
    held = Mover(net, a.client_address, name="waits", stays=True)
    connected(net, held)
    admin, number = drain(net, a, 2 * SECOND)
    assert not net.run(1900 * MS, lambda: number in admin.answers)
    assert net.run(300 * MS, lambda: number in admin.answers)
    assert json.loads(admin.answers[number][2])["left"] == 1


def test_a_drain_waits_for_a_request_at_work_and_loses_none():
    net, (a, b) = moving_site(2)
    asker = Mover(net, a.client_address, name="asker")
    server = Mover(net, a.client_address, name="server")
    works = []
    server.serve("slow", works.append)
    connected(net, asker, server)
    first = asker.request("slow", timeout_ns=20 * SECOND)
    assert net.run(SECOND, lambda: bool(works))
    admin, number = drain(net, a)
    net.run(3 * SECOND)
    assert number not in admin.answers
    server.answer(works.pop())
    assert net.run(3 * SECOND, lambda: number in admin.answers)
    assert first.error is None
    assert first.is_over
    assert net.run(SECOND, lambda: {asker.client.node_name, server.client.node_name} == {b.name})


def test_what_is_asked_while_a_program_leaves_is_asked_at_the_other_node():
    net, (a, b) = moving_site(2)
    asker = Mover(net, a.client_address, name="asker")
    server = Mover(net, b.client_address, name="server")
    server.serve("quote", server.answer, 8)
    connected(net, asker, server)
    drain(net, a)
    calls, batches = [], []
    for _ in range(40):
        calls.append(asker.request("quote"))
        batches.append(asker.publish("orders.eu", b"x"))
        net.run(5 * MS)
    assert net.run(2 * SECOND, lambda: all(c.is_over for c in calls))
    assert [c.error for c in calls] == [None] * len(calls)
    assert asker.client.node_name == b.name
    assert net.run(SECOND, lambda: all(x.state == DONE for x in batches))


@pytest.mark.parametrize("seed", range(10))
def test_what_other_nodes_ask_of_a_drained_one_is_not_lost_with_it(seed):
    net, (a, b) = moving_site(2, seed)
    asker = Mover(net, b.client_address, name="asker")
    server = Mover(net, a.client_address, name="server")
    server.serve("quote", server.answer, 8)
    connected(net, asker, server)
    calls = []

    def ask():
        calls.append(asker.request("quote"))
        if len(calls) < 1500:
            net.at(MS // 2, ask)

    ask()
    drain(net, a)
    assert net.run(SECOND, lambda: a.node.drain.is_over)
    a.perform(a.node.goodbye(net.now_ns))
    kill(net, a)
    assert net.run(5 * SECOND, lambda: len(calls) == 1500 and all(c.is_over for c in calls))
    assert [c.error for c in calls] == [None] * len(calls)


@pytest.mark.parametrize("arguments", [b"{}", b'{"timeout_ns":-1}', b'{"timeout_ns":1,"stay":3}'])
def test_a_wrong_wish_to_drain_is_refused_in_words(arguments):
    net, (a, _b) = moving_site(2)
    admin = Mover(net, a.client_address, name="admin")
    connected(net, admin)
    number = admin.command("node.drain", arguments)
    assert net.run(SECOND, lambda: number in admin.answers)
    assert admin.answers[number][0] == "command-failed"
    assert not a.node.drain.is_on


def test_a_rolling_restart_of_all_nodes_loses_nothing_and_repeats_nothing():
    net, nodes = moving_site(3)
    writer = Mover(net, nodes[0].client_address, name="w")
    reader = Mover(net, nodes[1].client_address, name="r")
    connected(net, writer, reader)
    number = reader.subscribe("orders.>", START_EARLIEST)
    batches = []
    for node in nodes:
        admin, asked = drain(net, node)
        for _ in range(60):
            batches.append(writer.publish("orders.eu", b"%d" % len(batches)))
            net.run(10 * MS)
        assert net.run(30 * SECOND, lambda a=admin, n=asked: n in a.answers)
        admin.client.close(net.now_ns)
        kill(net, node)
        net.run(500 * MS)
        node.start([n.address for n in nodes if n is not node])
        assert net.run(5 * SECOND, lambda: joined(net))
        net.run(500 * MS)
    assert net.run(5 * SECOND, lambda: all(x.state == DONE for x in batches))
    assert net.run(5 * SECOND, lambda: len(reader.values(number)) >= len(batches))
    assert Counter(reader.values(number)) == Counter(b"%d" % i for i in range(len(batches)))
