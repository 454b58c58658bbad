"""Copies inside a site: the same bytes at the same offsets, after any kill, cut and lost disk."""

from __future__ import annotations

import json
import random

import pytest

from meshmq import limits
from meshmq.core.events import StorageMeasured
from meshmq.core.lanes import DONE, WAITING
from meshmq.core.mending import Mender
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.site_copies import FULL
from meshmq.frames import (
    REPLICATED,
    START_EARLIEST,
    SYNCED,
    Command,
    Confirm,
    Credit,
    Deliver,
    Result,
    Streams,
)
from meshmq.limits import MS, SECOND
from meshmq.testing.disk import Disk
from tests.core.helpers import decode
from tests.core.site_workers import WorkNet
from tests.core.sites import Program, joined, site_of


def own_log(node):
    """Batches of a node's own streams: (topic, base offset, bytes, place, time)."""
    state, found = node.disk.state, []
    for commit in node.disk.commits:
        copied = {c.index for c in commit.copied}
        for slot, b in enumerate(commit.batches):
            held = state.streams.get(b.stream)
            if slot not in copied and held and b.base_offset + b.count > held.first_offset:
                place = (commit.lsn, slot, commit.append_time_ns)
                found.append(
                    (held.topic.name, b.base_offset, b.payload, place, b.producer, b.first)
                )
    return found


def copy_of(node, other):
    """The same, as ``node`` has it of ``other``'s log."""
    state, found = node.disk.state, []
    for commit in node.disk.commits:
        for c in commit.copied:
            b = commit.batches[c.index]
            held = state.streams.get(b.stream)
            if c.origin == other.origin and held and b.base_offset + b.count > held.first_offset:
                place = (c.lsn, c.slot, c.append_time_ns)
                found.append(
                    (held.topic.name, b.base_offset, b.payload, place, b.producer, b.first)
                )
    return found


def holders(net, node):
    return [n for n in net.nodes if n is not node and node.origin in n.disk.state.mirrors]


def holder(net, node):
    (found,) = holders(net, node)
    return found


def is_copied(net, node, by=1):
    """Whether ``by`` others that run have all of a node's log."""
    full = [n for n in holders(net, node) if n.node and copy_of(n, node) == own_log(node)]
    return len(full) >= by


def confirmations(program):
    return [c for frame in program.take(Confirm) for c in frame.confirmations]


def test_each_log_is_copied_on_one_other_node_byte_for_byte():
    net, nodes = site_of(3, copies=2)
    programs = [Program(net, node) for node in nodes]
    for i in range(20):
        for n, program in enumerate(programs):
            program.publish("orders.eu", b"%d-%d" % (n, i))
            program.publish(f"only.{n}", b"%d" % i, b"more")
        net.run(30 * MS)
    assert net.run(2 * SECOND, lambda: all(is_copied(net, node) for node in nodes))
    for node in nodes:
        assert len(holders(net, node)) == 1
        assert len(own_log(node)) == 40


def test_without_copies_nothing_is_copied():
    net, (a, b) = site_of(2)
    Program(net, a).publish("orders", b"1")
    net.run(2 * SECOND)
    assert not a.disk.state.mirrors
    assert not b.disk.state.mirrors


def test_a_copy_goes_on_where_it_was_after_kills_of_both_sides_and_has_nothing_twice():
    net, (a, b, _c) = site_of(3, copies=2)
    program = Program(net, a)
    killed = 0
    for i in range(60):
        program.publish("orders", b"%d" % i)
        net.run(7 * MS)
        if i in (10, 25, 40):
            other = holder(net, a)
            net.kill(other)
            net.run(5 * MS)
            other.start([a.address])
            killed += 1
        if i == 30:
            net.run(100 * MS)
            net.kill(a)
            net.run(50 * MS)
            a.start([b.address])
            first = program.first
            program = Program(net, a)
            program.first = dict.fromkeys(first, 1)
    assert killed == 3
    assert net.run(8 * SECOND, lambda: joined(net) and is_copied(net, a))
    assert len(holders(net, a)) == 1


def test_a_copy_catches_up_after_a_cut_and_from_the_beginning_when_copies_come_later():
    net, (a, b) = site_of(2)
    program = Program(net, a)
    for i in range(30):
        program.publish("orders", b"%d" % i)
        net.run(5 * MS)
    net.kill(a)
    a.copies = 2
    a.start([b.address])
    assert net.run(6 * SECOND, lambda: joined(net) and is_copied(net, a))
    net.cut(a, b)
    program = Program(net, a)
    for i in range(30):
        program.publish("orders", b"later %d" % i)
    net.run(5 * SECOND)
    assert not is_copied(net, a)
    net.heal()
    assert net.run(8 * SECOND, lambda: joined(net) and is_copied(net, a))


def test_what_is_on_its_way_to_a_copy_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "COPY_CREDIT_BYTES", 3000)
    net, (a, b) = site_of(2)
    program = Program(net, a)
    for _i in range(100):
        program.publish("orders", b"x" * 500)
        net.run(3 * MS)
    net.kill(a)
    a.copies = 2
    a.start([b.address])
    most = 0

    def look():
        nonlocal most
        peers = [p for p in a.node.peers.values() if p.sibling is not None] if a.node else []
        most = max([most, *[p.session.unacked_bytes for p in peers]])
        return joined(net) and is_copied(net, a)

    assert net.run(20 * SECOND, look)
    assert 0 < most <= 3000 + 600


def test_what_was_trimmed_on_its_way_to_a_copy_holds_up_nothing(monkeypatch):
    """The simulator found it: its credit was never given back, and the copy stood still."""
    monkeypatch.setattr(limits, "COPY_CREDIT_BYTES", 3000)
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"0")
    assert net.run(SECOND, lambda: is_copied(net, a))
    net.cut(a, b)
    net.run(5 * SECOND)
    for _ in range(20):
        program.publish("orders", b"x" * 500)
        net.run(5 * MS)
    from meshmq.core.events import RetentionPlanned

    a.handle(RetentionPlanned(((a.node.topics.by_name["orders"].entry.stream, 16),)))
    net.run(SECOND)
    net.heal()
    assert net.run(10 * SECOND, lambda: is_copied(net, a))


def test_what_is_trimmed_while_a_copy_catches_up_is_no_hole(monkeypatch):
    monkeypatch.setattr(limits, "COPY_CREDIT_BYTES", 1)
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"0")
    assert net.run(SECOND, lambda: is_copied(net, a))
    net.cut(a, b)
    for i in range(100):
        program.publish("orders", b"%d" % i)
        net.run(20 * MS)
    net.heal()
    restarted(net, a, [b])  # so that it reads from its disk
    assert net.run(10 * SECOND, lambda: len(copy_of(b, a)) > 5)
    from meshmq.core.events import RetentionPlanned

    a.handle(RetentionPlanned(((a.node.topics.by_name["orders"].entry.stream, 90),)))
    assert net.run(3 * SECOND, lambda: is_copied(net, a))
    (kept,) = b.node.site.describe(net.now_ns)["copies"]["kept"]
    assert not kept["holes"]


def test_trims_and_deletions_go_to_the_copies():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    for i in range(10):
        program.publish("orders", b"%d" % i)
        program.publish("gone", b"%d" % i)
        net.run(5 * MS)
    assert net.run(SECOND, lambda: is_copied(net, a))
    from meshmq.core.events import RetentionPlanned

    stream = a.node.topics.by_name["orders"].entry.stream
    a.handle(RetentionPlanned(((stream, 6),)))
    a.node.topics.delete("gone", a.node._entries)
    a.end_turn()
    net.run(2 * SECOND)
    mirror = b.disk.state.mirrors[a.origin]
    (alias,) = mirror.streams.values()
    held = b.disk.state.streams[alias]
    assert (held.topic.name, held.first_offset, held.next_offset) == ("orders", 6, 10)
    assert is_copied(net, a)


def test_a_topic_s_policy_says_how_many_copies():
    net, nodes = site_of(4, copies=1)
    a = nodes[0]
    from meshmq.core.log import RuleEntry

    for name, copies in (("three", 3), ("two", 2), ("one", 1)):
        a.node.topics.set_policy(RuleEntry(name, True, 0, 0, copies=copies), a.node._entries)
    a.end_turn()
    net.run(2 * SECOND)
    program = Program(net, a)
    for name in ("one", "two", "three"):
        program.publish(name, b"x")
    net.run(2 * SECOND)
    had = sorted(sorted({t for t, *_ in copy_of(n, a)}) for n in nodes[1:])
    assert had == [[], ["three", "two"], ["three", "two"]]


def test_a_node_away_for_long_is_replaced_and_gets_its_copy_back():
    net, nodes = site_of(4, copies=2)
    a = nodes[0]
    program = Program(net, a)
    program.publish("orders", b"1")
    assert net.run(SECOND, lambda: is_copied(net, a))
    first = holder(net, a)
    net.kill(first)
    net.run(limits.COPY_AWAY_NS - 5 * SECOND)
    assert holders(net, a) == [first]  # it may be back soon
    assert net.run(10 * SECOND, lambda: is_copied(net, a))
    assert len(holders(net, a)) == 2
    first.start([a.address])
    assert net.run(10 * SECOND, lambda: holders(net, a) == [first] and is_copied(net, a))
    program.publish("orders", b"2")
    assert net.run(SECOND, lambda: is_copied(net, a))


def test_a_copy_that_is_dropped_begins_again_once_that_is_stored():
    net, (node, other) = site_of(2, copies=2)
    program = Program(net, node)
    program.publish("orders", b"1")
    net.run(SECOND)
    copies = other.node.site.copies
    for level in (0, 1):
        copies._on_ask(copies.siblings[node.origin], level)
    assert node.origin not in copies.mirrors.by_origin
    other.end_turn()
    net.run(2 * SECOND)
    assert holders(net, node) == [other]
    assert is_copied(net, node)


def test_a_node_that_lost_its_disk_leaves_its_old_log_at_its_copies():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"1", b"2")
    assert net.run(SECOND, lambda: is_copied(net, a))
    old, log = a.origin, own_log(a)
    net.kill(a)
    lost, a.disk = a.disk, Disk(b"new disk".ljust(16))
    a.start([b.address])
    assert net.run(6 * SECOND, lambda: joined(net))
    program = Program(net, a)
    program.publish("orders", b"3")
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    assert set(b.disk.state.mirrors) == {old, a.origin}

    class Old:
        origin = old

    assert copy_of(b, Old) == log
    assert lost.state.origin == old


def test_a_log_that_was_put_back_is_not_copied_over_what_is_ahead():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"1")
    net.run(SECOND)
    older = Disk(a.origin)
    for i in range(5):
        program.publish("orders", b"later %d" % i)
        net.run(50 * MS)
    assert net.run(SECOND, lambda: is_copied(net, a))
    log = own_log(a)
    net.kill(a)
    a.disk = older
    a.start([b.address])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    assert copy_of(b, a) == log
    (kept,) = b.node.site.describe(net.now_ns)["copies"]["kept"]
    assert "older state" in kept["problem"]


def test_status_tells_where_copies_are_and_how_far():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    for i in range(5):
        program.publish("orders", b"%d" % i)
        net.run(20 * MS)
    net.run(SECOND)
    copies = a.node.site.describe(net.now_ns)["copies"]
    assert copies["wanted"] == 2
    (row,) = copies["nodes"]
    assert (row["name"], row["caught_up"], row["lag_commits"]) == (b.name, True, 0)
    net.cut(a, b, one_way=True)
    program.publish("orders", b"more")
    net.run(100 * MS)
    (row,) = a.node.site.describe(net.now_ns)["copies"]["nodes"]
    assert row["lag_commits"] > 0
    assert not row["caught_up"]


# -- receipts --------------------------------------------------------------------------------


def values_at(node):
    """All values on a node's disk, own and copied."""
    return {v for commit in node.disk.commits for b in commit.batches for v in decode(b.payload)}


def test_replicated_is_said_when_the_copies_are_synced_and_synced_before():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"1")
    net.run(SECOND)
    program.take(Confirm)
    program.publish("orders", b"2", b"3", replicated=True)
    assert net.run(SECOND, lambda: program.find(Confirm))
    (first,) = confirmations(program)
    assert (first.durability, first.more, first.base_offset) == (SYNCED, True, 1)
    assert b"2" not in values_at(b)
    assert net.run(SECOND, lambda: program.find(Confirm))
    (second,) = confirmations(program)
    assert (second.durability, second.more, second.base_offset) == (REPLICATED, False, 1)
    assert {b"2", b"3"} <= values_at(b)
    program.publish("orders", b"4")
    net.run(SECOND)
    assert [(c.durability, c.more) for c in confirmations(program)] == [(SYNCED, False)]


def test_with_too_few_nodes_there_it_waits():
    net, (a, b, c) = site_of(3, copies=3)
    program = Program(net, a)
    program.publish("orders", b"1", replicated=True)
    net.run(SECOND)
    assert [c.durability for c in confirmations(program)] == [SYNCED, REPLICATED]
    net.kill(c)
    program.publish("orders", b"2", replicated=True)
    net.run(5 * SECOND)
    assert [c.durability for c in confirmations(program)] == [SYNCED]
    c.start([a.address])
    assert net.run(5 * SECOND, lambda: program.find(Confirm))
    assert [c.durability for c in confirmations(program)] == [REPLICATED]
    assert b"2" in values_at(b) & values_at(c)


def test_what_is_sent_again_is_confirmed_as_replicated_when_it_is():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"1", replicated=True)
    net.run(SECOND)
    program.take(Confirm)
    program.publish("orders", b"1", replicated=True, first=1)
    net.run(SECOND)
    again = confirmations(program)
    assert [(c.durability, c.duplicate, c.base_offset) for c in again] == [
        (SYNCED, True, 0), (REPLICATED, True, 0),
    ]  # fmt: skip
    net.kill(b)
    net.run(50 * MS)
    program.publish("orders", b"1", replicated=True, first=1)
    net.run(SECOND)
    assert [(c.durability, c.more) for c in confirmations(program)] == [(SYNCED, True)]


def test_a_node_without_copies_says_what_is_missing_and_stores_nothing():
    net, (a, _) = site_of(2)
    program = Program(net, a)
    program.publish("orders", b"1", replicated=True)
    net.run(SECOND)
    (refusal,) = confirmations(program)
    assert refusal.code == "durability-unavailable"
    assert "--copies 2" in refusal.message
    assert b"1" not in values_at(a)


def test_replicated_is_never_said_too_early():
    for seed in range(12):
        net, nodes = site_of(4, seed, copies=2 + seed % 2)
        rng = random.Random(seed)
        programs = {n.name: Program(net, n) for n in nodes}
        said, wanted, down = set(), 0, []
        for i in range(60):
            node = rng.choice(nodes)
            if node.node is not None:
                wanted += 1
                programs[node.name].publish("orders", b"%s %d" % (node.name.encode(), i),
                                            replicated=True)  # fmt: skip
            net.run(rng.randrange(1, 12) * MS)
            if not down and rng.random() < 0.15:
                down = [rng.choice(nodes)]
                net.kill(down[0])
            elif down and rng.random() < 0.3:
                down[0].start([n.address for n in nodes if n is not down[0]])
                programs[down[0].name] = Program(net, down[0])
                down = []
            for name, program in programs.items():
                for c in confirmations(program):
                    if c.durability == REPLICATED:
                        said.add((name, c.base_offset))
                        at = next(n for n in nodes if n.name == name)
                        copies = [n for n in holders(net, at)
                                  if any(t == "orders" and base == c.base_offset
                                         for t, base, *_ in copy_of(n, at))]  # fmt: skip
                        assert len(copies) >= 1 + seed % 2
        assert len(said) > wanted // 3


# -- reading ---------------------------------------------------------------------------------


def records_of(program, number=1):
    """What came for a subscription: (origin, topic, offset, value), and who is said to be away."""
    found = []
    for frame in program.take(Deliver):
        at = 0
        for row in frame.batches:
            values = decode(frame.payload[at : at + row.length])
            at += row.length
            found += [(row.origin, row.topic, row.base_offset + i, v) for i, v in enumerate(values)]
    return found


def away(program):
    rows = {}
    for frame in program.take(Streams):
        rows.update({row.origin: row.away for row in frame.rows})
    return {origin for origin, is_away in rows.items() if is_away}


def test_a_node_that_was_started_while_another_is_away_tells_its_readers_so():
    net, (a, b, c) = site_of(3)
    Program(net, a).publish("orders", b"1")
    net.run(2 * SECOND)
    net.kill(a)
    net.kill(c)
    net.run(SECOND)
    c.start()
    early = Program(net, c)  # before it has met anybody
    early.subscribe("orders", start=START_EARLIEST)
    net.run(10 * MS)
    b.node.site.look_for((c.address,), net.now_ns)
    b.end_turn()
    net.run(5 * SECOND)
    late = Program(net, c)
    late.subscribe("orders", start=START_EARLIEST)
    net.run(SECOND)
    assert away(early) == away(late) == {a.origin}


def filled(count=3, values=20, copies=2):
    net, nodes = site_of(count, copies=copies)
    program = Program(net, nodes[0])
    for i in range(values):
        program.publish("orders", b"%d" % i)
        net.run(5 * MS)
    assert net.run(2 * SECOND, lambda: is_copied(net, nodes[0]))
    return net, nodes, program


def test_a_dead_node_s_streams_are_read_from_its_copy_at_any_node():
    net, (a, *others), _ = filled()
    want = [(a.origin, "orders", i, b"%d" % i) for i in range(20)]
    net.kill(a)
    net.run(100 * MS)
    for node in others:  # one has the copy, one has not
        reader = Program(net, node)
        reader.subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        assert records_of(reader) == want
        assert away(reader) == set()


def test_a_subscription_goes_on_at_the_copy_and_at_the_node_when_it_is_back():
    net, (a, *others), program = filled()
    readers = [Program(net, node) for node in others]
    for reader in readers:
        reader.subscribe("orders", start=START_EARLIEST, records=3)  # it is in the middle of it
    net.run(SECOND)
    net.kill(a)
    net.run(200 * MS)
    for reader in readers:
        reader.send(Credit(1, 1 << 20, 1000))
    net.run(2 * SECOND)
    a.start([n.address for n in others])
    assert net.run(5 * SECOND, lambda: joined(net))
    program = Program(net, a)
    for i in range(20, 25):
        program.publish("orders", b"%d" % i)
    net.run(3 * SECOND)
    for reader in readers:
        assert records_of(reader) == [(a.origin, "orders", i, b"%d" % i) for i in range(25)]


def test_the_copy_s_own_node_does_not_read_it_as_its_own():
    net, (a, *_others), _ = filled()
    at = holder(net, a)
    reader = Program(net, at)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(2 * SECOND)
    assert len(records_of(reader)) == 20  # once, from its node
    assert "orders" not in at.node.topics.by_name


def test_the_log_of_a_lost_disk_is_read_from_its_copy():
    net, (a, *others), _ = filled()
    old = a.origin
    net.kill(a)
    a.disk = Disk(b"new disk".ljust(16))
    a.start([n.address for n in others])
    assert net.run(5 * SECOND, lambda: joined(net))
    Program(net, a).publish("orders", b"new")
    net.run(SECOND)
    for node in (a, *others):
        reader = Program(net, node)
        reader.subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        found = records_of(reader)
        assert [r[2:] for r in found if r[0] == old] == [(i, b"%d" % i) for i in range(20)]
        assert [r[3] for r in found if r[0] != old] == [b"new"]


def test_without_a_copy_the_log_of_a_node_that_is_gone_is_away():
    net, (a, b, _c) = site_of(3)
    Program(net, a).publish("orders", b"1")
    net.run(SECOND)
    reader = Program(net, b)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(SECOND)
    net.kill(a)
    net.run(SECOND)
    assert a.origin in away(reader)


# -- damage ----------------------------------------------------------------------------------


def flip(disk, topic, offset, origin=b""):
    """The batch of a topic that begins with ``offset`` is damaged on a disk."""
    for commit in disk.commits:
        for slot, b in enumerate(commit.batches):
            held = disk.state.streams.get(b.stream)
            here = held and (held.topic.name, held.topic.origin) == (topic, origin)
            if here and b.base_offset == offset:
                disk.flipped.add((commit.lsn, slot))
                return
    raise AssertionError("no such batch")


def restarted(net, node, others):
    net.kill(node)
    node.start([n.address for n in others])
    assert net.run(6 * SECOND, lambda: joined(net))


def test_what_is_damaged_at_its_node_is_had_again_from_the_copy():
    net, (a, *others), _ = filled()
    for offset in (4, 11):
        flip(a.disk, "orders", offset)
    restarted(net, a, others)  # nothing of it is in memory
    for node in (a, others[0]):
        reader = Program(net, node)
        reader.subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        assert [r[3] for r in records_of(reader)] == [b"%d" % i for i in range(20)]
    assert not a.disk.flipped
    assert a.node.site.describe(net.now_ns)["copies"]["mended"] == 2


def test_what_is_damaged_a_second_time_is_mended_a_second_time():
    net, (a, *others), _ = filled()
    restarted(net, a, others)
    for _ in range(2):
        flip(a.disk, "orders", 4)
        reader = Program(net, a)
        reader.subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        assert [r[3] for r in records_of(reader)] == [b"%d" % i for i in range(20)]
        assert not a.disk.flipped


def test_a_batch_that_is_mended_once_only_is_noticed(monkeypatch):
    write, written = Mender._write, set()

    def once(self, batch):
        if (batch.stream, batch.base_offset) not in written:
            written.add((batch.stream, batch.base_offset))
            write(self, batch)

    monkeypatch.setattr(Mender, "_write", once)
    with pytest.raises(AssertionError):
        test_what_is_damaged_a_second_time_is_mended_a_second_time()


def test_what_is_damaged_in_a_copy_is_had_again_from_its_node():
    net, (a, *_others), _ = filled()
    at = holder(net, a)
    flip(at.disk, "orders", 7, a.origin)
    reader = Program(net, at)
    # Read from the copy while its node is alive: as another node would that cannot reach it.
    from meshmq.frames import Subscribe

    frame = Subscribe(9, "orders", START_EARLIEST, 0, b"", 0, 0, 1 << 20, 1000, copy_of=a.origin)
    copies = at.node.site.copies
    copies.on_body(copies.me, frame, net.now_ns)
    at.end_turn()
    net.run(SECOND)
    assert not at.disk.flipped
    assert at.node.site.describe(net.now_ns)["copies"]["mended"] == 1
    del reader


@pytest.mark.parametrize("again", ["", "owner", "copy"])
def test_a_copy_stays_until_another_one_has_all_of_it_whole(monkeypatch, again):
    """The simulator found it: what was damaged when the other one came was whole nowhere. So it
    was when one of the two that knew of that was started again."""
    monkeypatch.setattr(limits, "COPY_AWAY_NS", 2 * SECOND)
    net, nodes = site_of(3, copies=2)
    a = nodes[0]
    Program(net, a).publish("topics", b"1")
    assert net.run(SECOND, lambda: is_copied(net, a))
    first = holder(net, a)
    (other,) = [n for n in nodes if n not in (a, first)]
    net.kill(first)
    assert net.run(5 * SECOND, lambda: other in holders(net, a))
    program = Program(net, a)
    for i in range(5):
        program.publish("orders", b"%d" % i)
        net.run(5 * MS)
    assert net.run(SECOND, lambda: len(copy_of(other, a)) == 6)
    flip(a.disk, "orders", 2)
    net.kill(a)
    net.cut(a, other)
    first.start()
    a.start([first.address])
    assert net.run(5 * SECOND, lambda: len(copy_of(first, a)) == 6)
    net.heal()
    assert net.run(10 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    assert first.node.site.copies.mirrors.by_origin[a.origin].holes
    if again:
        one = a if again == "owner" else first
        restarted(net, one, [n for n in nodes if n is not one])
        net.run(3 * SECOND)
        assert first.node.site.describe(net.now_ns)["copies"]["kept"][0]["holes"]
    assert set(holders(net, a)) == {first, other}
    reader = Program(net, first)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(3 * SECOND)
    assert [r[3] for r in records_of(reader)] == [b"%d" % i for i in range(5)]


def fetching(monkeypatch):
    """A node is killed of which one copy is short, and is fetched from another one, batch by batch;
    (net, nodes: that one, with the short copy, it is fetched from, with a whole copy too)."""
    monkeypatch.setattr(limits, "COPY_CREDIT_BYTES", 1)
    net, (a, b, *others) = site_of(4, copies=4)
    program = Program(net, a)
    program.publish("orders", b"0")
    assert net.run(SECOND, lambda: is_copied(net, a, by=3))
    net.cut(a, b)
    for i in range(100):
        program.publish("orders", b"%d" % i)
        net.run(20 * MS)
    assert net.run(3 * SECOND, lambda: is_copied(net, a, by=2))
    net.kill(a)
    net.heal()
    assert net.run(10 * SECOND, lambda: any(n.node.site.copies._others for n in others))
    assert len(copy_of(b, a)) < 100
    others.sort(key=lambda n: not n.node.site.copies._others)
    return net, (a, b, *others)


def test_a_copy_that_is_fetched_from_another_one_is_so_no_more_when_its_node_is_back(monkeypatch):
    net, (a, b, c, d) = fetching(monkeypatch)
    a.start([n.address for n in (b, c, d)])
    assert net.run(10 * SECOND, lambda: is_copied(net, a, by=3))
    assert not c.node.site.copies._others
    assert c.node.site.copies.mirrors.by_origin[a.origin].feed.readers() == []


def test_who_fetches_from_a_copy_that_is_dropped_turns_to_another_one(monkeypatch):
    net, (a, b, c, d) = fetching(monkeypatch)
    c.node.site.copies.drop(a.origin)
    c.end_turn()
    assert net.run(10 * SECOND, lambda: copy_of(b, a) == own_log(a))
    assert d.node.site.copies._others
    assert b.node.site.copies.mirrors.by_origin[a.origin].problem == ""


def test_what_nobody_has_whole_is_told_as_damaged():
    net, (a, *others), _ = filled()
    at = holder(net, a)
    flip(a.disk, "orders", 4)
    flip(at.disk, "orders", 4, a.origin)
    restarted(net, a, others)
    reader = Program(net, a)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(5 * SECOND)
    damaged = [row for frame in reader.take(Deliver) for row in frame.batches if row.damaged]
    assert [(row.base_offset, row.count) for row in damaged] == [(4, 1)]


def test_each_batch_that_nobody_has_counts_once_until_somebody_has_it():
    net, (a, *others), _ = filled()
    at = holder(net, a)
    flip(a.disk, "orders", 4)
    flip(at.disk, "orders", 4, a.origin)
    flipped = set(at.disk.flipped)
    restarted(net, a, others)

    def counted():
        Program(net, a).subscribe("orders", start=START_EARLIEST)
        net.run(2 * SECOND)
        return a.node.site.describe(net.now_ns)["copies"]["not_mended"]

    assert counted() == 1
    for one in (others[0], others[1]):
        restarted(net, one, [a])  # this is news of copies
    assert counted() == 1
    at.disk.flipped -= flipped
    restarted(net, others[0], [a])
    restarted(net, others[1], [a])
    assert counted() == 0
    assert not a.disk.flipped


def test_a_batch_that_nobody_has_counts_until_its_records_are_trimmed():
    net, (a, *others), _ = filled()
    at = holder(net, a)
    flip(a.disk, "orders", 4)
    flip(at.disk, "orders", 4, a.origin)
    restarted(net, a, others)
    Program(net, a).subscribe("orders", start=START_EARLIEST)
    net.run(2 * SECOND)

    def counted():
        return a.node.site.describe(net.now_ns)["copies"]["not_mended"]

    assert counted() == 1
    topic = a.node.topics.by_name["orders"]
    topic.first_offset = 4
    assert counted() == 1
    topic.first_offset = 5
    assert counted() == 0


def test_a_node_that_does_not_answer_holds_up_no_reader_for_long():
    net, (a, *others), _ = filled()
    at = holder(net, a)
    flip(a.disk, "orders", 4)
    restarted(net, a, others)
    net.cut(a, at)
    reader = Program(net, a)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(8 * SECOND)
    assert [r[3] for r in records_of(reader)][-1] == b"19"


def test_who_had_not_answered_and_is_back_is_asked_again():
    net, (a, b, c), _ = filled(copies=3)
    flip(a.disk, "orders", 4)
    restarted(net, a, [b, c])
    net.cut(a, b)
    net.cut(a, c)
    reader = Program(net, a)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(SECOND)
    net.kill(b)
    net.heal()
    net.cut(a, c)
    b.start([a.address])
    net.run(8 * SECOND)
    assert [r[3] for r in records_of(reader)] == [b"%d" % i for i in range(20)]


def test_a_copy_that_begins_after_the_damage_keeps_the_offsets():
    net, (a, b) = site_of(2)
    program = Program(net, a)
    for i in range(10):
        program.publish("orders", b"%d" % i)
        net.run(5 * MS)
    net.run(SECOND)
    flip(a.disk, "orders", 5)
    net.kill(a)
    a.copies = 2
    a.start([b.address])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    net.kill(a)
    net.run(SECOND)
    reader = Program(net, b)
    reader.subscribe("orders", start=START_EARLIEST)
    net.run(2 * SECOND)
    rows = [row for frame in reader.take(Deliver) for row in frame.batches]
    assert [(row.base_offset, row.damaged) for row in rows] == [(i, i == 5) for i in range(10)]


# -- what receipts wait for where nobody says ------------------------------------------------


def policy(node, name, **kept):
    """Set a topic's policy by the command."""
    program = Program(node.net, node)
    arguments = json.dumps({"pattern": name, "durability": "durable", **kept}).encode()
    program.send(Command(1, "topic.create", arguments))
    assert node.net.run(SECOND, lambda: program.find(Result))
    (result,) = program.take(Result)
    return result.code, result.message, json.loads(result.body)


def test_a_topic_s_policy_says_what_receipts_wait_for_at_every_node():
    net, (a, b, c) = site_of(3)
    assert policy(a, "orders", copies=2, confirm="replicated")[2]["confirm"] == "replicated"
    assert policy(a, "orders", retention_ns=5)[2]["confirm"] == "replicated"  # it stays
    net.run(2 * SECOND)
    for node in (a, b, c):
        program = Program(net, node)
        program.publish("orders", b"1")
        net.run(SECOND)
        assert [(r.durability, r.more) for r in confirmations(program)] == [
            (SYNCED, True), (REPLICATED, False),
        ]  # fmt: skip
        assert node.node.registrar.rules()[0].replicated
    for node in (a, b, c):
        net.kill(node)
        net.run(50 * MS)
        node.start([n.address for n in (a, b, c) if n is not node])
        assert net.run(6 * SECOND, lambda: joined(net))
    net.run(SECOND)
    program = Program(net, a)
    program.publish("orders", b"2")
    net.run(SECOND)
    assert confirmations(program)[-1].durability == REPLICATED
    assert policy(b, "orders", confirm="synced")[2]["confirm"] == "synced"
    net.run(2 * SECOND)
    program.publish("orders", b"3")
    net.run(SECOND)
    assert [r.durability for r in confirmations(program)] == [SYNCED]


def test_a_policy_without_copies_to_wait_for_is_refused():
    _, (a, _) = site_of(2)
    code, message, _ = policy(a, "orders", confirm="replicated")
    assert (code, "--copies 2" in message) == ("command-failed", True)
    assert policy(a, "orders", confirm="always", copies=2)[0] == "command-failed"
    assert policy(a, "orders", copies=2)[0] == ""
    code, message, _ = policy(a, "orders", copies=1, confirm="replicated")
    assert code == "command-failed"


def test_a_transient_topic_has_no_copies_to_wait_for():
    _, (a, _) = site_of(2, copies=2)
    code, message, _ = policy(a, "ticks", durability="transient", confirm="replicated")
    assert (code, "transient" in message) == ("command-failed", True)
    assert policy(a, "ticks", durability="transient", confirm="synced")[0] == ""


def test_who_asks_for_less_is_content_with_less():
    net, (a, b) = site_of(2, copies=2, kind=WorkNet)
    assert policy(a, "orders", confirm="replicated")[0] == ""
    net.kill(b)
    net.run(100 * MS)
    worker = net.worker(a)
    publisher = worker.client.publisher

    def put(wanted):
        batch = publisher.add_many("orders", [b"1"], None, None, None, lambda: 0, wanted)
        worker.flush()
        net.run(500 * MS)
        return batch

    waits, less, asked = put(TOPIC_DEFAULT), put(SYNCED), put(REPLICATED)
    assert [x.state for x in (waits, less, asked)] == [WAITING, DONE, WAITING]
    assert [x.base_offset for x in (waits, less, asked)] == [0, 1, 2]
    b.start([a.address])
    assert net.run(6 * SECOND, lambda: waits.state == asked.state == DONE)
    assert [x.durability for x in (waits, less, asked)] == [REPLICATED, SYNCED, REPLICATED]


def test_jobs_wait_for_the_copies_of_their_queue():
    net, (a, _) = site_of(2, copies=2, kind=WorkNet)
    worker = net.worker(a).work("thumbs")
    net.run(SECOND)
    assert policy(a, "thumbs", confirm="replicated")[0] == ""
    for priority in (0, 3):
        batch = worker.put("thumbs", b"1", priority=priority)
        net.run(SECOND)
        assert (batch.state, batch.durability) == (DONE, REPLICATED)


def fill(node, free):
    node.handle(StorageMeasured(free, 16 * limits.MIB))


def problems(net, node):
    copies = node.node.site.describe(net.now_ns)["copies"]
    return [r["problem"] for r in copies["nodes"]], [r["problem"] for r in copies["kept"]]


@pytest.mark.parametrize("is_under_way", [False, True], ids=["told_before", "under_way"])
def test_a_copy_whose_disk_is_full_is_named_and_goes_on_when_there_is_room(is_under_way):
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"1")
    assert net.run(SECOND, lambda: is_copied(net, a))
    net.run(SECOND)
    program.take(Confirm)
    # What came before it was full, and is not synced, is no copy either.
    sync = b.sync
    held = []
    if is_under_way:  # the disk meets it with what came last, and says so then
        b.sync = lambda life, append: (held.append((life, append)), fill(b, 0))
    else:
        fill(b, 0)
    program.publish("orders", b"2", replicated=True)
    assert net.run(2 * SECOND, lambda: problems(net, a)[0] == [FULL])
    assert problems(net, b)[1] == [FULL]
    assert net.run(SECOND, lambda: len(confirmations_so_far(program)) >= 2)
    program.publish("orders", b"3", replicated=True)
    net.run(5 * SECOND)
    assert problems(net, a)[0] == problems(net, b)[1] == [FULL]
    told = confirmations(program)
    assert not any(c.durability == REPLICATED for c in told)
    assert {c.message for c in told if c.more} == {"", f"node {b.name!r}: {FULL}"}
    assert told[-1].message
    b.sync = sync
    fill(b, 1 << 40)
    for life, append in held:
        b.sync(life, append)
    assert net.run(3 * SECOND, lambda: is_copied(net, a))
    net.run(SECOND)
    done = [c for c in confirmations(program) if not c.more]
    assert sum(c.count for c in done) == 2
    assert {c.durability for c in done} == {REPLICATED}
    assert problems(net, a)[0] == problems(net, b)[1] == [""]


def confirmations_so_far(program):
    return [c for f in program.bodies if isinstance(f, Confirm) for c in f.confirmations]


def test_a_node_that_leaves_or_copies_no_longer_is_no_problem_any_more():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    fill(b, 0)
    program.publish("orders", b"1")
    assert net.run(3 * SECOND, lambda: problems(net, a)[0] == [FULL])
    net.kill(b)
    assert net.run(10 * SECOND, lambda: problems(net, a)[0] == [])


def test_topics_with_unlike_numbers_of_copies_are_whole_at_every_copy():
    net, (a, *others) = site_of(4)
    for topic, copies in (("two", 2), ("three", 3)):
        policy(a, topic, copies=copies)
    program = Program(net, a)
    net.run(2 * SECOND)
    program.publish("two", b"1", replicated=True)
    program.publish("three", b"2", replicated=True)
    net.run(2 * SECOND)
    assert [c.durability for c in confirmations(program)].count(REPLICATED) == 2
    net.kill(a)
    net.run(SECOND)
    for node in others:
        reader = Program(net, node)
        reader.subscribe(">", start=START_EARLIEST)
        net.run(2 * SECOND)
        assert [(topic, value) for _, topic, _, value in records_of(reader)] == [
            ("two", b"1"), ("three", b"2"),
        ]  # fmt: skip
