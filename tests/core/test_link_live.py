"""Transient topics between sites: each record over one link, once, to a site that wants it."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.link_wish import LinkWish
from meshmq.core.log import RuleEntry
from meshmq.frames import (
    START_NEW,
    Confirm,
    Deliver,
    DeliverBatch,
    Publish,
    Subscribe,
    Unsubscribe,
    Wanted,
)
from meshmq.limits import MIB, MS, SECOND
from tests.core.helpers import batch_of, decode
from tests.core.sites import Net, Program

LIVE = ("prices.>",)


class Live(Program):
    """A program whose records have numbers, and that looks where records are from."""

    def tell(self, topic, *values, routed=False):
        first = self.first.get(topic, 1)
        self.first[topic] = first + len(values)
        row, data = batch_of(topic, first, *values)
        self.send(Publish((row._replace(numbered=True, routed=routed),), data))

    def want(self, pattern, number=1, own_site=False, size=4 * MIB):
        self.send(Subscribe(number, pattern, START_NEW, 0, b"", 0, 0, size, 100_000,
                            own_site=own_site))  # fmt: skip

    def got(self, number=1):
        """What came: (topic, number of the record, site, value), and what was lost of it."""
        found, lost = [], 0
        for frame in self.take(Deliver):
            if frame.subscription != number:
                continue
            lost, at = lost + frame.missed, 0
            for row in frame.batches:
                if row.missing:
                    lost += row.count
                    continue
                values = decode(frame.payload[at : at + row.length])
                found += [(row.topic, row.base_offset + i, row.site, v)
                          for i, v in enumerate(values)]  # fmt: skip
                at += row.length
        return found, lost


def sites(*names, links, nodes=1):
    """Sites of so many nodes each; ``links``: (site, other) pairs, what goes live from the other
    to the site."""
    net = Net(0)
    found = {site: [net.add(site=site) for _ in range(nodes)] for site in names}
    net.wishes = {}
    for site, members in found.items():
        net.wishes[site] = tuple(
            [LinkWish(to, tuple([n.address for n in found[to]]), (), live=live)
             for (one, to), live in links.items() if one == site]
        )  # fmt: skip
        for node in members:
            start(node, members)
    net.run(4 * SECOND)
    return net, found


def start(node, members):
    node.start([other.address for other in members if other is not node])
    node.node.topics.set_policy(RuleEntry(">", False, 0, 0), [])
    node.node.site.set_links(node.net.wishes[node.site], node.net.now_ns)
    node.end_turn()


def rows(site, *numbers, topic="prices.a"):
    return [(topic, n, site, b"%d" % n) for n in numbers]


def publish(net, program, *numbers, topic="prices.a"):
    for n in numbers:
        program.tell(topic, b"%d" % n)
        net.run(2 * MS)
    net.run(50 * MS)


def test_what_is_published_at_the_other_site_comes_with_its_name():
    net, found = sites("eu", "us", links={("us", "eu"): LIVE})
    (eu,), (us,) = found["eu"], found["us"]
    reader, other, writer = Live(net, us), Live(net, eu), Live(net, eu)
    reader.want(">")
    other.want("prices.*")
    net.run(50 * MS)
    publish(net, writer, 1, 2, 3)
    publish(net, writer, 1, topic="audit")  # no link says that
    assert reader.got() == (rows("eu", 1, 2, 3), 0)
    assert other.got() == (rows("", 1, 2, 3), 0)
    there = Live(net, us)
    publish(net, there, 1)
    assert reader.got() == (rows("", 1), 0)
    assert other.got() == ([], 0)  # eu pulls nothing
    (row,) = us.node.site.describe(net.now_ns)["links"]
    assert (row["live"], row["live_received"], row["live_lost"]) == (["prices.>"], 3, 0)


def test_who_wants_the_own_site_alone_gets_nothing_of_others():
    net, found = sites("eu", "us", links={("us", "eu"): LIVE}, nodes=2)
    readers = [Live(net, node) for node in found["us"]]
    for reader in readers:
        reader.want(">", 1)
        reader.want(">", 2, own_site=True)
    net.run(50 * MS)
    publish(net, Live(net, found["eu"][0]), 1, 2)
    publish(net, Live(net, found["us"][0]), 1)
    for reader in readers:
        bodies = list(reader.bodies)
        assert reader.got(1) == (rows("eu", 1, 2) + rows("", 1), 0)
        reader.bodies = bodies
        assert reader.got(2) == (rows("", 1), 0)


def test_nothing_crosses_that_nobody_wants_now():
    net, found = sites("eu", "us", links={("us", "eu"): LIVE})
    (eu,), (us,) = found["eu"], found["us"]
    reader, writer = Live(net, us), Live(net, eu)
    reader.want("prices.a")
    reader.want("orders.>", 2)
    net.run(50 * MS)
    live = eu.node.site.live
    assert live.wanting("prices.a")
    assert not live.wanting("prices.b")
    assert not live.wanting("orders.a")
    reader.send(Unsubscribe(1))
    net.run(50 * MS)
    assert not live.wanting("prices.a")
    publish(net, writer, 1)
    assert reader.got() == ([], 0)
    assert us.node.site.live.shown({"to": "eu"})["live_received"] == 0


def test_a_publisher_that_sends_no_more_what_nobody_wanted_is_told_when_another_site_does():
    net, found = sites("eu", "us", links={("us", "eu"): LIVE})
    (eu,), (us,) = found["eu"], found["us"]
    writer, reader = Live(net, eu), Live(net, us)
    writer.tell("prices.a", b"1", routed=True)
    net.run(50 * MS)
    assert writer.take(Confirm)[0].confirmations[0].unwanted
    reader.want("prices.>")
    net.run(50 * MS)
    assert [frame.topics for frame in writer.take(Wanted)] == [("prices.a",)]
    publish(net, writer, 2)
    assert reader.got() == (rows("eu", 2), 0)


def test_one_copy_crosses_for_all_nodes_and_subscribers_of_a_site():
    net, found = sites("eu", "us", links={("us", "eu"): LIVE}, nodes=2)
    readers = [Live(net, node) for node in found["us"] for _ in range(2)]
    for reader in readers:
        reader.want("prices.>")
    net.run(50 * MS)
    for writer in (Live(net, found["eu"][0]), Live(net, found["eu"][1])):
        publish(net, writer, 1, 2, 3)
    for reader in readers:
        assert reader.got() == (rows("eu", 1, 2, 3) * 2, 0)
    received = [n.node.site.live.shown({"to": "eu"})["live_received"] for n in found["us"]]
    assert sum(received) == 6


@pytest.mark.parametrize("one_way", [False, True])
def test_another_node_of_the_site_goes_on_when_the_one_that_received_is_gone(one_way):
    net, found = sites("eu", "us", links={("us", "eu"): LIVE}, nodes=2)
    eu, _ = found["eu"]
    writer = Live(net, eu)
    readers = [Live(net, node) for node in found["us"]]
    for reader in readers:
        reader.want("prices.>")
    net.run(50 * MS)
    publish(net, writer, 1)
    (link,) = [s.link for s in eu.node.site.live.wanting("prices.a")]
    far = next(s for s in eu.node.site.far.values() if s.link == link)
    first, second = found["us"]
    if far.origin == second.origin:
        first, second = second, first
        readers.reverse()
    if one_way:
        net.cut(eu, first)
        net.run(8 * SECOND)
    else:
        net.kill(first)
        net.run(100 * MS)
    publish(net, writer, 2, 3)
    assert readers[1].got() == (rows("eu", 1, 2, 3), 0)
    if one_way:  # its own link is cut, and it has all by the other one
        assert readers[0].got() == (rows("eu", 1, 2, 3), 0)
        net.heal()
    else:
        start(first, found["us"])
    net.run(8 * SECOND)
    publish(net, writer, 4, 5)
    assert readers[1].got() == (rows("eu", 4, 5), 0)


SHAPES = {
    "pair": [("eu", "us")],
    "ring": [("eu", "us"), ("us", "ap"), ("ap", "eu")],
    "chain": [("eu", "us"), ("us", "ap")],
    "mesh": [("eu", "us"), ("us", "ap"), ("eu", "ap")],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nodes", [1, 2])
def test_in_any_shape_a_record_crosses_one_link_and_comes_once(shape, nodes):
    pairs = SHAPES[shape] + [(b, a) for a, b in SHAPES[shape]]
    names = ("eu", "us") if shape == "pair" else ("eu", "us", "ap")
    net, found = sites(*names, links=dict.fromkeys(pairs, LIVE), nodes=nodes)
    readers = {site: [Live(net, node) for node in found[site]] for site in names}
    for reader in [r for mine in readers.values() for r in mine]:
        reader.want(">")
    net.run(50 * MS)
    publish(net, Live(net, found["eu"][0]), 1, 2)
    for site, mine in readers.items():
        want = rows("" if site == "eu" else "eu", 1, 2)
        if site != "eu" and (site, "eu") not in pairs:
            want = []  # no link of it is with eu
        for reader in mine:
            assert reader.got() == (want, 0), site


def test_what_is_wished_is_read_again_while_the_node_runs():
    net, found = sites("eu", "us", links={("us", "eu"): LIVE})
    (eu,), (us,) = found["eu"], found["us"]
    reader, writer = Live(net, us), Live(net, eu)
    reader.want(">")
    net.run(50 * MS)
    (wish,) = net.wishes["us"]
    for live, topic, comes in (
        (("audit.*",), "prices.a", False), (("audit.*",), "audit.x", True),
        ((), "audit.x", False), (("audit.>", "prices.a"), "prices.a", True),
        (("audit.>", "audit.x"), "audit.x", True),
    ):  # fmt: skip
        us.node.site.set_links((wish._replace(live=live),), net.now_ns)
        us.end_turn()
        net.run(50 * MS)
        number = writer.first.get(topic, 1)
        publish(net, writer, number, topic=topic)
        assert reader.got() == (rows("eu", number, topic=topic) if comes else [], 0)
    us.node.site.set_links((), net.now_ns)
    us.end_turn()
    net.run(50 * MS)
    assert not eu.node.site.live.wanting("audit.x")


def test_what_is_dropped_on_the_way_is_told_to_who_wanted_it(monkeypatch):
    monkeypatch.setattr(limits, "SITE_CREDIT_BYTES", 100)
    net, found = sites("eu", "us", links={("us", "eu"): ("t.>",)}, nodes=2)
    for node in (*found["eu"], *found["us"]):
        node.node.delivery._queue_bytes_max = 100
    writer = Live(net, found["eu"][0])
    readers = [Live(net, node) for node in found["us"]]
    for reader in readers:
        reader.want("t.>")
        reader.want("t.>", 2, own_site=True)
    net.run(50 * MS)
    writer.tell("t.more", bytes(90))
    writer.tell("t.more", bytes(90))
    writer.tell("t.lost", b"1", b"2")  # waits for credit, and is dropped for what comes then
    writer.tell("t.more", bytes(90))
    net.run(SECOND)
    for reader in readers:
        bodies = list(reader.bodies)
        got, lost = reader.got()
        assert len(got) + lost == 5
        assert lost >= 2
        reader.bodies = bodies
        assert reader.got(2) == ([], 0)
    assert sum(n.node.site.live.shown({"to": "eu"})["live_lost"] for n in found["us"]) >= 2


def test_more_patterns_than_may_be_told_are_told_as_what_the_link_brings(monkeypatch):
    monkeypatch.setattr(limits, "SITE_PATTERNS_MAX", 5)
    net, found = sites("eu", "us", links={("us", "eu"): LIVE})
    (eu,), (us,) = found["eu"], found["us"]
    reader, writer = Live(net, us), Live(net, eu)
    for number in range(1, 8):
        reader.want(f"prices.{number}", number)
    net.run(50 * MS)
    assert eu.node.site.live.wanting("prices.z")
    publish(net, writer, 1, topic="prices.3")
    assert reader.got(3) == (rows("eu", 1, topic="prices.3"), 0)
    for number in range(4, 8):
        reader.send(Unsubscribe(number))
    net.run(50 * MS)
    assert not eu.node.site.live.wanting("prices.z")
    assert eu.node.site.live.wanting("prices.3")


@pytest.mark.parametrize("row", [{"lsn": 5}, {"topic": "prices..a"}])
def test_what_no_node_may_bring_live_ends_the_link(row):
    net, found = sites("eu", "us", links={("us", "eu"): LIVE})
    (eu,), (us,) = found["eu"], found["us"]
    (far,) = eu.node.site.far.values()
    batch, data = batch_of("prices.a", 1, b"x")
    bad = DeliverBatch("prices.a", 1, 1, len(data), batch.checksum, 0, 0, 0)._replace(**row)
    eu.node.sessions.send(far.link, Deliver(0, (bad,), 0, data), net.now_ns)
    eu.end_turn()
    before = us.node.bad_frames
    net.run(50 * MS)
    assert us.node.bad_frames == before + 1
