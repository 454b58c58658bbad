"""Requests over a link between sites: local first, remote as fallback, one link at most."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.core.link_wish import LinkWish
from meshmq.frames import EACH, STREAM, Offers
from tests.core.site_requests import MS, SECOND, TOLD_NS, Asker, Server, is_idle
from tests.core.sites import Net

LOAD_NS = limits.OFFERS_NS + TOLD_NS


def sites(*names, links, nodes=1):
    """Sites of so many nodes each; ``links``: (site, other) pairs: services of the other that the
    site may ask."""
    net = Net(0)
    found = {site: [net.add(site=site) for _ in range(nodes)] for site in names}
    net.wishes = {}
    for site, members in found.items():
        net.wishes[site] = tuple(
            [LinkWish(to, tuple([n.address for n in found[to]]), (), services=services)
             for (one, to), services in links.items() if one == site]
        )  # fmt: skip
        for node in members:
            start(node, members)
    net.run(8 * SECOND)
    return net, found


def start(node, members):
    node.start([other.address for other in members if other is not node])
    node.node.site.set_links(node.net.wishes[node.site], node.net.now_ns)
    node.end_turn()


def pair(services=("s",), nodes=1):
    net, found = sites("eu", "us", links={("us", "eu"): services}, nodes=nodes)
    return net, found["eu"], found["us"]


def listed(node, net):
    return {row["service"]: row["nodes"] for row in node.node.site.services.describe(net.now_ns)}


def test_what_nobody_serves_here_is_asked_at_the_other_site():
    net, (eu,), (us,) = pair()
    server = Server(net, eu, "eu-server")
    net.run(TOLD_NS)
    asker = Asker(net, us)
    asked = asker.ask(b"q", headers=b"h", timeout=SECOND)
    net.run(TOLD_NS)
    ((row, value),) = server.came()
    assert (value, row.headers) == (b"q", b"h")
    assert SECOND - 20 * MS < row.remaining_ns <= SECOND
    server.answer(row, b"a")
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"a", True, "eu-server")]
    assert is_idle(eu)
    assert is_idle(us)
    (node,) = listed(us, net)["s"]
    assert (node["node"], node["site"], node["instances"]) == (f"eu/{eu.name}", "eu", 1)


def test_only_where_a_link_says_so():
    net, (eu,), (us,) = pair(("quote.>",))
    here, there = Server(net, us, "us-server", "quote.us"), Server(net, eu, "eu-server", "s")
    net.run(2 * SECOND)
    for node, service in ((us, "s"), (eu, "quote.us")):
        asker = Asker(net, node)
        asked = asker.ask(service=service)
        net.run(TOLD_NS)
        assert [row[:2] for row in asker.replies()] == [(asked, "no-responders")]
    assert (here.came(), there.came()) == ([], [])
    assert listed(us, net).keys() == {"quote.us"}
    assert listed(eu, net).keys() == {"s"}


def test_own_instances_come_first_then_those_of_the_site_then_others():
    net, (eu,), (one, two) = sites_of_two_and_one()
    own, sibling, far = (
        Server(net, node, "x", concurrency=2) for node in (one, two, eu)
    )  # fmt: skip
    net.run(TOLD_NS)
    asker = Asker(net, one)
    for i in range(7):
        asker.ask(b"%d" % i)
    net.run(TOLD_NS)
    assert own.values() == [b"0", b"1"]
    assert sibling.values() == [b"2", b"3"]
    assert far.values() == [b"4", b"5"]
    assert len(one.node.services.by_name["s"].waiting) == 1


def sites_of_two_and_one():
    net = Net(0)
    eu, one, two = net.add(site="eu"), net.add(site="us"), net.add(site="us")
    net.wishes = {"eu": (), "us": (LinkWish("eu", (eu.address,), (), services=("s",)),)}
    start(eu, [eu])
    for node in (one, two):
        start(node, [one, two])
    net.run(8 * SECOND)
    return net, [eu], [one, two]


def test_what_waits_there_waits_only_when_nobody_serves_it_here():
    net, (eu,), (us,) = pair()
    far = Server(net, eu, "eu-server", concurrency=2)
    net.run(TOLD_NS)
    for value in (b"a", b"b"):
        Asker(net, eu).ask(value)  # it is busy with these
    net.run(LOAD_NS)
    asker = Asker(net, us)
    asker.ask(b"0")
    net.run(TOLD_NS)
    assert len(us.node.services.by_name["s"].waiting) == 0
    own = Server(net, us, "us-server")
    net.run(TOLD_NS)
    asker.ask(b"1")
    asker.ask(b"2")
    net.run(TOLD_NS)
    assert own.values() == [b"1"]
    assert len(us.node.services.by_name["s"].waiting) == 1
    assert far.answer_all() == 2
    net.run(TOLD_NS)
    assert far.values() == [b"0"]


@pytest.mark.parametrize("shape", ["chain", "ring"])
def test_no_request_crosses_two_links(shape):
    links = {("ap", "us"): ("s",), ("us", "eu"): ("s",)}
    if shape == "ring":
        links |= {("eu", "ap"): ("s",)}
    net, found = sites("eu", "us", "ap", links=links)
    server = Server(net, found["eu"][0], "eu-server")
    net.run(2 * SECOND)
    asker = Asker(net, found["ap"][0])
    asked = asker.ask()
    net.run(TOLD_NS)
    assert [row[:2] for row in asker.replies()] == [(asked, "no-responders")]
    assert server.came() == []
    near = Asker(net, found["us"][0])
    near.ask(b"q")
    net.run(TOLD_NS)
    assert server.values() == [b"q"]


def test_two_that_believe_that_the_other_serves_it_send_nothing_round():
    net, found = sites("eu", "us", links={("us", "eu"): ("s",), ("eu", "us"): ("s",)})
    (eu,), (us,) = found["eu"], found["us"]
    servers = [Server(net, node, node.name) for node in (eu, us)]
    net.run(TOLD_NS)
    for server in servers:
        server.stop()
    askers = [Asker(net, node) for node in (eu, us)]
    for asker in askers:
        asker.ask(timeout=3 * SECOND)
    net.run(2 * SECOND)
    assert [[r[1] for r in a.replies()] for a in askers] == [["no-responders"]] * 2
    assert is_idle(eu)
    assert is_idle(us)


@pytest.mark.parametrize("end", ["kill", "unlink"])
def test_what_was_there_when_the_link_ends_is_told_at_once_and_not_done_again(end):
    net, eu, us = pair(nodes=2)
    servers = [Server(net, node, "eu-server") for node in eu]
    net.run(TOLD_NS)
    asker = Asker(net, us[0])
    first, second = asker.ask(b"once"), asker.ask(b"again", idempotent=True)
    net.run(TOLD_NS)
    came = [server.values() for server in servers]
    assert sorted(came) == [[b"again"], [b"once"]]
    at = came.index([b"once"])
    if end == "kill":
        net.kill(eu[at])
    else:  # whatever it is that ends it
        far = us[0].node.site.far[eu[at].origin]
        us[0].handle(LinkClosed(far.link, "cut"))
    net.run(TOLD_NS)
    rows = [row for row, _ in asker.rows()]
    assert [(row.id, row.code) for row in rows] == [(first, "instance-lost")]
    assert f"eu/{eu[at].name}" in rows[0].message
    other = servers[1 - at]
    assert other.came() == []  # not done again
    if end == "kill":
        net.kill(eu[1 - at])
        net.run(TOLD_NS)
        assert asker.replies() == []  # idempotent: it waits for who may come
        own = Server(net, us[1], "us-server")
        net.run(TOLD_NS)
        assert own.values() == [b"again"]
        assert second


def test_a_cut_link_is_told_when_it_is_found_out_and_the_deadline_is_kept_meanwhile():
    net, (eu,), (us,) = pair()
    Server(net, eu, "eu-server", concurrency=9)
    net.run(TOLD_NS)
    asker = Asker(net, us)
    soon, late = asker.ask(timeout=SECOND), asker.ask(timeout=60 * SECOND)
    net.run(TOLD_NS)
    net.cut(eu, us)
    net.run(1100 * MS)
    assert [row[:2] for row in asker.replies()] == [(soon, "deadline-exceeded")]
    net.run(10 * SECOND)
    assert [row[:2] for row in asker.replies()] == [(late, "instance-lost")]
    assert is_idle(us)


def test_a_cancel_and_a_deadline_go_along():
    net, (eu,), (us,) = pair()
    server = Server(net, eu, "eu-server", concurrency=9)
    net.run(TOLD_NS)
    asker = Asker(net, us)
    one, _ = asker.ask(), asker.ask(timeout=SECOND)
    net.run(TOLD_NS)
    first, second = (row.id for row, _ in server.came())
    asker.cancel(one)
    net.run(TOLD_NS)
    assert server.cancelled() == [first]
    net.run(1100 * MS)
    assert second in server.cancelled()


def test_a_stream_comes_as_far_as_it_is_granted():
    net, (eu,), (us,) = pair()
    server = Server(net, eu, "eu-server")
    net.run(TOLD_NS)
    asker = Asker(net, us)
    asked = asker.ask(kind=STREAM, window=1000)
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    assert row.window == 1000
    server.answer(row, b"1", end=False)
    asker.grant(asked, 500)
    net.run(TOLD_NS)
    assert server.granted() == [(row.id, 500)]
    server.answer(row, b"2")
    net.run(TOLD_NS)
    assert [r[1:3] for r in asker.replies()] == [(b"1", False), (b"2", True)]


def test_one_of_each_is_of_our_site_and_of_others_only_if_nobody_serves_it_here():
    net, eu, us = pair(nodes=2)
    far = [Server(net, node, f"{node.name}-{i}") for node in eu for i in range(2)]
    net.run(TOLD_NS)
    asker = Asker(net, us[0])
    asker.ask(kind=EACH)
    net.run(TOLD_NS)
    assert sum(server.answer_all() for server in far) == 4
    net.run(TOLD_NS)
    replies = asker.replies()
    assert (len(replies), [r[2] for r in replies].count(True)) == (5, 1)
    own = [Server(net, node, node.name) for node in us]
    net.run(TOLD_NS)
    asker.ask(kind=EACH)
    net.run(TOLD_NS)
    assert sum(server.answer_all() for server in far) == 0
    assert sum(server.answer_all() for server in own) == 2


def test_what_may_be_asked_is_read_again_while_the_node_runs():
    net, (eu,), (us,) = pair(("s",))
    servers = {name: Server(net, eu, name, name, concurrency=9) for name in ("s", "t")}
    net.run(TOLD_NS)
    asker = Asker(net, us)
    (wish,) = net.wishes["us"]
    for services, can in ((("t",), "t"), ((), ""), (("*",), "st"), (("s", "s"), "s")):
        us.node.site.set_links((wish._replace(services=services),), net.now_ns)
        us.end_turn()
        net.run(2 * SECOND)
        assert {name for name in listed(us, net) if listed(us, net)[name]} == set(can)
        for name, server in servers.items():
            asker.ask(service=name)
            net.run(TOLD_NS)
            assert server.answer_all() == (name in can), (services, name)
            net.run(TOLD_NS)
            asker.replies()
    (row,) = us.node.site.describe(net.now_ns)["links"]
    assert row["services"] == ["s", "s"]
    us.node.site.set_links((), net.now_ns)
    us.end_turn()
    net.run(2 * SECOND)
    assert not any(listed(us, net).values())


def test_load_is_told_over_the_link_and_an_end_at_once():
    net, (eu,), (us,) = pair()
    server = Server(net, eu, "eu-server", "s", concurrency=4)
    other = Server(net, eu, "hidden", "t")
    net.run(TOLD_NS)
    asker = Asker(net, eu)
    for _ in range(4):
        asker.ask()
    net.run(LOAD_NS)
    (node,) = listed(us, net)["s"]
    assert node["free"] == 0
    server.answer_all()
    other.stop()
    server.stop()
    net.run(TOLD_NS)
    assert not any(listed(us, net).values())


def test_a_frame_that_is_missing_is_asked_for_with_what_is_wished():
    net, (eu,), (us,) = pair()
    Server(net, eu, "eu-server", "s", "t")
    net.run(TOLD_NS)
    eu.node.site.services._versions[us.origin] += 1
    Server(net, eu, "more", concurrency=3)
    net.run(LOAD_NS)
    assert {s: [n["instances"] for n in nodes] for s, nodes in listed(us, net).items()} == {
        "s": [2]
    }


def test_what_begins_between_the_question_and_the_open_link_is_told():
    net, (eu,), (us,) = pair()
    far = eu.node.site.far[us.origin]
    services = eu.node.site.services
    services.leave(far, net.now_ns)  # as it is when the other end has joined first
    services.on_offers(far, Offers(9, asks=True, patterns=("s",)), net.now_ns)
    Server(net, eu, "eu-server")
    net.run(TOLD_NS)
    assert not listed(us, net)
    services.join(far, net.now_ns)
    eu.end_turn()
    net.run(TOLD_NS)
    assert [n["instances"] for n in listed(us, net)["s"]] == [1]
