"""What a node tells of its links with other sites: their state, and what is not well with them."""

from __future__ import annotations

import json

from meshmq.core.link_wish import LinkWish
from meshmq.core.site_copies import FULL, PUT_BACK
from meshmq.core.site_problems import problems
from meshmq.frames import Command, Result
from meshmq.limits import SECOND
from tests.core import test_copies
from tests.core.sites import Net, Program, trim
from tests.core.test_replication import begin, fill, linked, of, read
from tests.core.test_site_problems import told


def site_of(node):
    return node.node.status()["site"]


def links_of(node):
    return site_of(node)["links"]


def seen(node):
    return [row["seen"] for row in node.node.status()["problems"]]


def pulls(node, *wishes):
    """Has a node pull this from now on."""
    node.net.links_of[node] = wishes
    node.node.site.set_links(wishes, node.net.now_ns)
    node.end_turn()


def test_links_that_are_well_are_told_with_what_comes_by_them():
    net, sites = linked("eu", "us", exclude=("orders.tmp",))
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, us, 5)
    net.run(2 * SECOND)
    assert told(eu) == told(us) == []
    (row,) = links_of(eu)
    (log,) = row.pop("logs")
    flow = row.pop("flow")
    assert (flow["lag"], flow["lag_seconds"], flow["last_error"]) == (0, 0, None)
    assert (row.pop("bytes_per_second"), row.pop("compression")) == (None, "none")
    assert row == {
        "to": "us", "state": "linked", "endpoints": [us.address], "refused": {},
        "topics": ["orders.>"], "exclude": ["orders.tmp"], "nodes": [us.name],
        "priority": [], "not_pulled": [], "retention_ns": None, "retention_bytes": None,
        "live": [], "live_lost": 0, "live_received": 0, "services": [],
        "paused": None, "reached": [{"endpoint": us.address, "state": "linked", "node": us.name}],
    }  # fmt: skip
    assert log.pop("lsn") > 1
    assert [topic["name"] for topic in log.pop("topics")] == ["orders.eu"]
    assert log.pop("records_per_second") > 0
    assert (log.pop("bytes_per_second"), log.pop("published_per_second")) != (0, 0)
    assert (log.pop("lag_bytes"), log.pop("catch_up_seconds")) == (0, 0)
    assert log == {
        "name": f"us/{us.name}", "origin": us.origin.hex(), "from": us.name, "received": 5,
        "lag": {}, "lag_seconds": 0.0, "problem": "",
        "strands": 2, "since": 0, "partial": False,
    }  # fmt: skip
    (far,) = site_of(eu)["far"]
    assert (far["site"], far["name"], far["state"]) == ("us", us.name, "linked")
    assert far["linked_seconds"] > 1
    assert [row["site"] for row in site_of(eu)["copies"]["kept"]] == ["us"]


def test_who_is_pulled_from_tells_of_the_other_site_as_well():
    net = Net(0)
    eu, us = net.add(site="eu"), net.add(site="us")
    net.links_of = {eu: (LinkWish("us", (us.address,), (">",)),), us: ()}
    for node in (eu, us):
        begin(node)
    net.run(2 * SECOND)
    assert links_of(us) == []
    assert [(row["site"], row["name"]) for row in site_of(us)["far"]] == [("eu", eu.name)]
    assert told(eu) == told(us) == []


def test_only_endpoints_of_a_link_are_dialled_for_a_node_of_another_site():
    """Who is pulled from knows where the other one listens, by its hello: it neither dials that
    when the other one is started again, nor has its siblings dial it, as a node of its own site."""
    net = Net(0)
    us, more, eu = [net.add(site=site) for site in ("us", "us", "eu")]
    net.links_of = {eu: (LinkWish("us", (us.address,), (">",)),), us: (), more: ()}
    for node in (us, more, eu):
        begin(node, [us.address] if node is more else [])
    net.run(5 * SECOND)
    for _ in range(3):
        net.kill(eu)
        net.run(5 * SECOND)
        begin(eu)
        net.run(5 * SECOND)
        assert [row["state"] for row in links_of(eu)] == ["linked"]
        assert told(eu) == told(us) == told(more) == []
        assert site_of(eu)["refused"] == {}


def test_a_link_without_a_node_of_the_other_site_is_told_until_there_is_one():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, us, 5)
    net.run(2 * SECOND)
    net.kill(us)
    net.run(5 * SECOND)
    assert told(eu) == [("link-down", "us", "warning")]
    assert seen(eu) == [f"there is no link with a node of site us: nobody answers at {us.address}"]
    (row,) = links_of(eu)
    assert (row["state"], row["nodes"], site_of(eu)["far"]) == ("down", [], [])
    # What it had sent is here, and comes from nowhere now.
    assert [(log["name"], log["from"]) for log in row["logs"]] == [(f"us/{us.name}", None)]
    begin(us)
    net.run(5 * SECOND)
    assert told(eu) == []
    assert [(row["state"], row["logs"][0]["from"]) for row in links_of(eu)] == [("linked", us.name)]


def test_a_link_is_connecting_until_its_endpoints_were_asked_once():
    net = Net(0)
    eu, us, more = [net.add(site=site) for site in ("eu", "us", "us")]
    net.links_of = {eu: (LinkWish("us", (us.address, more.address), (">",)),), us: ()}
    begin(eu)
    (row,) = links_of(eu)
    assert (row["state"], [end["state"] for end in row["reached"]]) == (
        "connecting", ["connecting"] * 2,
    )  # fmt: skip
    assert told(eu) == []  # nobody knows yet
    net.run(10 * SECOND)
    (row,) = links_of(eu)
    assert (row["state"], [end["state"] for end in row["reached"]]) == ("down", ["down"] * 2)
    assert told(eu) == [("link-down", "us", "warning")]
    begin(us)
    net.run(5 * SECOND)
    (row,) = links_of(eu)
    assert (row["state"], row["reached"]) == ("linked", [
        {"endpoint": us.address, "state": "linked", "node": us.name},
        {"endpoint": more.address, "state": "down", "node": None},
    ])  # fmt: skip
    net.kill(us)  # one that was linked is not asked for the first time
    net.run(5 * SECOND)
    assert links_of(eu)[0]["state"] == "down"


def test_one_node_of_the_other_site_is_enough():
    net, sites = linked("eu", "us", nodes=2)
    net.run(2 * SECOND)
    net.kill(sites["us"][0])
    net.run(5 * SECOND)
    for node in sites["eu"]:
        assert told(node) == []
        assert links_of(node)[0]["nodes"] == [sites["us"][1].name]


def test_a_wrong_site_at_an_endpoint_is_told_by_the_link_until_that_is_mended():
    net = Net(0)
    eu, us = net.add(site="eu"), net.add(site="us")
    net.links_of = {eu: (LinkWish("asia", (us.address,), (">",)),), us: ()}
    for node in (eu, us):
        begin(node)
    net.run(3 * SECOND)
    assert told(eu) == [("link-down", "asia", "warning")]
    assert told(us) == [("refused", eu.name, "warning")]
    (row,) = links_of(eu)
    assert (row["state"], list(row["refused"])) == ("refused", [us.address])
    assert f"at {us.address}, node '{us.name}' belongs to site 'us'" in seen(eu)[0]
    assert "then send the node SIGHUP" in eu.node.status()["problems"][0]["remedy"]
    pulls(eu, LinkWish("us", (us.address,), (">",)))
    net.run(10 * SECOND)
    assert told(eu) == told(us) == []
    assert site_of(eu)["refused"] == {}
    assert [(row["state"], row["refused"]) for row in links_of(eu)] == [("linked", {})]


def test_a_refusal_is_over_with_the_link_that_met_it():
    """The other node has linked with this one itself, so this one need not dial it anew."""
    net = Net(0)
    eu, us = net.add(site="eu"), net.add(site="us")
    net.links_of = {eu: (), us: (LinkWish("eu", (eu.address,), (">",)),)}
    for node in (eu, us):
        begin(node)
    net.run(2 * SECOND)
    pulls(eu, LinkWish("asia", (us.address,), (">",)))
    net.run(3 * SECOND)
    assert told(eu) == [("link-down", "asia", "warning")]
    pulls(eu, LinkWish("us", (us.address,), (">",)))
    net.run(3 * SECOND)
    assert told(eu) == []
    assert [(row["state"], row["refused"]) for row in links_of(eu)] == [("linked", {})]


def test_of_a_link_that_is_there_another_endpoint_that_refuses_is_told_for_itself():
    net = Net(0)
    eu, us, asia = [net.add(site=site) for site in ("eu", "us", "asia")]
    net.links_of = {eu: (LinkWish("us", (us.address, asia.address), (">",)),), us: (), asia: ()}
    for node in (eu, us, asia):
        begin(node)
    net.run(3 * SECOND)
    assert told(eu) == [("refused", asia.address, "warning")]
    (row,) = links_of(eu)
    assert (row["state"], list(row["refused"])) == ("linked", [asia.address])


def test_a_mirror_that_stands_still_is_told():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 2)
    net.run(2 * SECOND)
    test_copies.fill(us, 0)
    fill(net, eu, 3, first=2)
    net.run(2 * SECOND)
    assert ("mirror", f"eu/{eu.name} at {us.name}", "warning") in told(us)
    assert f"the mirror of eu/{eu.name} at node {us.name} stands still: {FULL}" in seen(us)
    (log,) = links_of(us)[0]["logs"]
    assert (log["problem"], log["lag"]) == (FULL, {"orders.eu": 3})
    assert told(eu) == []
    test_copies.fill(us, 1 << 40)
    net.run(4 * SECOND)
    assert told(us) == []
    assert read(net, us) == of(eu, 5)


def test_who_is_to_see_to_a_mirror_is_who_has_the_trouble():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 1)
    net.run(2 * SECOND)
    report = us.node.status()
    (log,) = report["site"]["links"][0]["logs"]

    def remedies(**said):
        log.update(said)
        found = problems(us.name, report["site"], report["directory"])
        return [(row["problem"], row["remedy"].partition(";")[0]) for row in found]

    assert remedies(problem="") == []
    assert remedies(problem=FULL) == [("mirror", f"see to node {us.name}")]
    assert remedies(problem=PUT_BACK) == [("mirror", f"see to node {eu.name}")]
    assert remedies(**{"from": None}) == [("mirror", f"see to node eu/{eu.name}")]


def ask(net, node, verb, **said):
    program = Program(net, node)
    program.send(Command(1, verb, json.dumps(said).encode()))
    assert net.run(20 * SECOND, lambda: program.find(Result))
    (result,) = program.take(Result)
    return json.loads(result.body) if not result.code else result.code


def test_topics_that_are_only_mirrored_are_listed_and_shown():
    net, sites = linked("eu", "us", "asia", topics=("orders.>",))
    (eu,), (us,), (asia,) = sites["eu"], sites["us"], sites["asia"]
    fill(net, eu, 5)
    fill(net, asia, 3)
    fill(net, us, 2, "orders.us")
    net.run(3 * SECOND)
    trim(eu, eu.origin, 2)
    listed = {row["topic"]: row for row in ask(net, us, "topic.list", pattern=">")["topics"]}
    assert set(listed) == {"orders.eu", "orders.us"}
    only = listed["orders.eu"]
    assert (only["records"], only["mirrored_from"]) == (6, ["asia", "eu"])
    assert "mirrored_from" not in listed["orders.us"]
    assert ask(net, us, "topic.list", pattern="other.>")["topics"] == []
    shown = ask(net, us, "topic.show", topic="orders.eu")
    assert [(row["owner"], row["first_offset"], row["records"]) for row in shown["streams"]] == [
        (f"eu/{eu.name}", 2, 3), (f"asia/{asia.name}", 0, 3),
    ]  # fmt: skip
    assert ask(net, us, "topic.show", topic="orders.none") == "topic-not-found"


def test_two_nodes_of_a_site_list_what_either_mirrors_once():
    net, sites = linked("eu", "us", nodes=2)
    for node in sites["eu"]:
        fill(net, node, 5)
    net.run(3 * SECOND)
    for node in sites["us"]:
        (row,) = ask(net, node, "topic.list", pattern="orders.eu")["topics"]
        assert (row["records"], row["mirrored_from"]) == (10, ["eu"])
    fill(net, sites["us"][1], 1)
    net.run(SECOND)
    for node in sites["us"]:
        (row,) = ask(net, node, "topic.list", pattern="orders.eu")["topics"]
        assert (row["records"], "mirrored_from" in row) == (1, False)
