"""Nodes of a site: how they find each other, who is refused, who is there."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import FrameReceived, TimerFired
from meshmq.core.log import RuleEntry
from meshmq.core.site_identity import NODE_LINK
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    START_NEW,
    TRANSIENT_ONLY,
    Deliver,
    Envelope,
    Hello,
    Refuse,
    Subscribe,
    Subscribed,
)
from meshmq.limits import MIB, MS, SECOND
from tests.core.sites import Net, Program, joined, site_of


def test_two_join_by_a_peers_list_of_one():
    net = Net()
    a, b = net.add(), net.add()
    a.start()
    b.start([a.address])
    assert net.run(100 * MS, lambda: joined(net))


def test_all_join_who_know_one_of_them():
    net = Net()
    nodes = [net.add() for _ in range(6)]
    for node in nodes:
        node.start([nodes[0].address])
    assert net.run(3 * SECOND, lambda: joined(net))


def test_all_join_by_mdns_alone():
    net = Net()
    nodes = [net.add() for _ in range(5)]
    for node in nodes:
        node.start()
    for node in nodes:
        for other in nodes:
            net.sight(node, other)
    assert net.run(3 * SECOND, lambda: joined(net))


def test_a_node_that_is_killed_is_missed_at_once_and_back_when_it_starts():
    net, (a, b, c) = site_of(3)
    net.kill(b)
    assert net.run(50 * MS, lambda: a.siblings() == [c.name] and c.siblings() == [a.name])
    b.start([a.address])
    assert net.run(3 * SECOND, lambda: joined(net))


def test_a_node_behind_a_cut_is_dead_after_three_seconds_and_back_after_the_heal():
    net, (a, b, c) = site_of(3)
    net.cut(a, b)
    assert net.run(3500 * MS, lambda: b.name not in a.siblings() and a.name not in b.siblings())
    assert c.siblings() == [a.name, b.name]
    net.heal()
    assert net.run(5 * SECOND, lambda: joined(net))


def test_a_cut_of_one_way_ends_both():
    net, (a, b) = site_of(2)
    net.cut(a, b, one_way=True)
    assert net.run(7 * SECOND, lambda: not a.siblings() and not b.siblings())
    net.heal()
    assert net.run(5 * SECOND, lambda: joined(net))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"site": "us"}, "belongs to site"),
        ({"mesh": "other"}, "belongs to mesh"),
        ({"name": "node-0"}, "two nodes are named 'node-0'"),
    ],
)
def test_who_does_not_belong_is_refused_in_words_on_both_sides(other, words):
    net = Net()
    a, b = net.add(), net.add(**other)
    a.start()
    b.start([a.address])
    net.run(2 * SECOND)
    for node in (a, b):
        assert node.siblings() == []
        told = " ".join(node.node.site.describe(net.now_ns)["refused"].values())
        assert words in told
        assert words in " ".join(node.node.site.links.news)


def test_a_copy_of_a_data_directory_is_refused_in_words_on_all_sides():
    net, (a, b) = site_of(2)
    copy = net.add(name="copy", disk=b.disk)
    copy.start([a.address, b.address])
    net.run(3 * SECOND)
    assert (copy.siblings(), a.siblings()) == ([], [b.name])
    for node, words in ((a, "data directory"), (b, "copies of one data directory"),
                        (copy, "data directory")):  # fmt: skip
        assert words in " ".join(node.node.site.describe(net.now_ns)["refused"].values())


def test_what_is_published_at_one_node_comes_once_to_who_wants_it_at_others():
    net, (a, b, c) = site_of(3)
    for node in (a, b, c):
        node.node.topics.set_policy(_transient(), [])
    here, there, there_too = Program(net, a), Program(net, b), Program(net, b)
    there.subscribe("orders.>")
    there_too.subscribe("orders.*")
    net.run(100 * MS)
    here.publish("orders.eu", b"0")  # then all know of the topic, and have said so
    net.run(1850 * MS)
    assert there.values() == there_too.values() == [("orders.eu", b"0")]
    frames = net.frames
    here.publish("orders.eu", b"1", b"2")
    net.run(20 * MS)
    assert there.values() == there_too.values() == [("orders.eu", b"1"), ("orders.eu", b"2")]
    assert net.frames - frames <= 2  # the batch, and perhaps an acknowledgement; none to c
    there.publish("orders.us", b"3")
    net.run(20 * MS)
    assert there.values() == [("orders.us", b"3")]


def _transient():
    return RuleEntry("orders.>", False, 0, 0)


def test_the_timer_of_a_node_does_not_spin_while_a_data_link_is_being_dialled():
    net = Net()
    a, b = net.add(), net.add()
    a.start()
    b.start([a.address])
    assert net.run(SECOND, lambda: bool(b.node.site.siblings))
    net.cut(a, b)  # the hello of the data link is lost
    for _ in range(20):
        net.run(100 * MS)
        b.handle(TimerFired())
        assert b.node.next_deadline_ns() > net.now_ns


def test_one_of_two_with_the_same_name_that_say_hello_at_once_is_linked():
    net = Net()
    a, b, c = net.add(), net.add(name="twin"), net.add(name="twin")
    a.start()
    b.start([a.address])
    c.start([a.address])
    net.run(2 * SECOND)
    assert a.siblings() == ["twin"]
    assert "is named 'twin'" in " ".join(a.node.site.links.news)


def test_nodes_that_only_gossip_has_told_of_are_linked_soon_after_a_long_cut():
    net = Net()
    a, b, c = net.add(), net.add(), net.add()
    a.start()
    b.start([a.address])
    c.start([a.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    net.cut(b, c)
    net.run(100 * SECOND)
    net.heal()
    assert net.run(3 * SECOND, lambda: joined(net))


def test_a_late_hello_of_who_does_not_dial_is_no_data_link():
    net, (a, b) = site_of(2)
    dialler, other = (a, b) if next(iter(a.node.site.siblings.values())).dials else (b, a)
    hello = Hello(
        PROTOCOL_MAJOR, PROTOCOL_MINOR, "plant", other.origin, b"p" * 16, other.name,
        node=other.node.site.facts,
    )  # fmt: skip
    late = NODE_LINK + b"late"
    before = dict(dialler.node.peers)
    effects = dialler.node.handle(FrameReceived(late, Envelope(77, 0, 0, hello)), net.now_ns)
    assert any(isinstance(e.envelope.body, Refuse) for e in effects if e.link == late)
    assert dialler.node.peers == before
    assert dialler.siblings() == [other.name]


@pytest.mark.parametrize("empties", [False, True])
def test_a_node_that_starts_again_at_once_is_not_taken_for_a_copy(empties):
    net, (a, b) = site_of(2)
    net.cut(a, b)
    net.kill(b)  # a is not told
    net.heal()
    if empties:
        b.disk = net.add().disk
    b.start([a.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    assert a.node.site.links.news == []
    assert b.node.site.links.news == []


def test_what_a_node_has_answered_for_another_one_does_not_make_its_next_start_a_copy():
    net, (a, b) = site_of(2)
    namesake = net.add(name=b.name)
    namesake.start([a.address])
    assert net.run(SECOND, lambda: a.node.site.links.refused)
    net.kill(namesake)
    net.run(100 * MS)  # b says that it is there, and nobody comes to hear of it
    net.cut(a, b)
    net.kill(b)  # a is not told
    net.heal()
    b.start([a.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    assert a.node.site.links.news == []
    assert b.node.site.links.news == []


def _subscribe(reader, pattern, number):
    """As a program that has no use for what is stored: no durable read holds its answer up."""
    reader.send(Subscribe(number, pattern, START_NEW, 0, b"", 0, 0, MIB, 1000, only=TRANSIENT_ONLY))


def test_a_subscription_is_answered_once_other_nodes_know_what_it_wants():
    net, (a, b) = site_of(2)
    reader = Program(net, a)
    net.run(20 * MS)
    for number, pattern in enumerate(("t.>", "t.a", "u.*"), 1):  # the second is covered already
        _subscribe(reader, pattern, number)
        assert net.run(SECOND, lambda: bool(reader.take(Subscribed)))
        assert b.node.site.reach.wanting(pattern.replace(">", "a").replace("*", "a"))


def test_of_two_the_second_waits_for_what_is_on_its_way_for_the_first():
    net, (a, b) = site_of(2)
    readers = [Program(net, a), Program(net, a)]
    net.run(20 * MS)
    for reader in readers:
        _subscribe(reader, "t.>", 1)
    assert net.run(SECOND, lambda: bool(readers[1].take(Subscribed)))
    assert b.node.site.reach.wanting("t.a")


def test_it_is_answered_when_who_does_not_acknowledge_is_silent_or_gone():
    net, (a, b, _) = site_of(3)
    reader = Program(net, a)
    net.run(20 * MS)
    net.cut(a, b)
    _subscribe(reader, "t.>", 1)
    assert net.run(limits.NOTED_NS + 10 * MS, lambda: bool(reader.take(Subscribed)))
    net.heal()
    net.run(5 * SECOND)
    net.cut(a, b)
    _subscribe(reader, "u.>", 2)
    net.run(100 * MS)
    assert not reader.take(Subscribed)
    net.heal()
    net.kill(b)
    assert net.run(50 * MS, lambda: bool(reader.take(Subscribed)))


def test_what_was_dropped_on_the_way_is_told_though_nothing_follows(monkeypatch):
    monkeypatch.setattr(limits, "SITE_CREDIT_BYTES", 100)
    net, (a, b) = site_of(2)
    for node in (a, b):
        node.node.topics.set_policy(RuleEntry("t.>", False, 0, 0), [])
        node.node.delivery._queue_bytes_max = 100
    reader, writer = Program(net, b), Program(net, a)
    reader.subscribe("t.lost")
    reader.subscribe("t.more", number=2)
    net.run(50 * MS)
    writer.publish("t.more", bytes(90))
    writer.publish("t.more", bytes(90))
    writer.publish("t.lost", b"1", b"2")  # waits for credit, and is dropped for what comes then
    writer.publish("t.more", bytes(90))
    net.run(SECOND)
    told = {f.subscription: f.missed for f in reader.take(Deliver) if f.missed}
    assert told[1] == 2


def test_a_node_whose_name_could_steer_a_terminal_is_refused_and_not_shown_raw():
    net = Net()
    a = net.add()
    bad = net.add(name="\x1b[2Jnode")
    a.start()
    bad.start([a.address])
    net.run(3 * SECOND)
    assert a.siblings() == bad.siblings() == []
    refusals = a.node.site.links.refusals
    assert refusals
    assert "control characters" in next(iter(refusals.values()))
    assert all(text.isprintable() for row in refusals.items() for text in row)
