"""Nodes of a site: how they find each other, who is refused, who is there."""

from __future__ import annotations

import pytest

from meshmq.limits import MS, SECOND
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
    from meshmq.core.log import RuleEntry

    return RuleEntry("orders.>", False, 0, 0)
