"""What groups had done is known at other sites: journals are mirrored with what is wished."""

from __future__ import annotations

import pytest

from meshmq.core.link_wish import LinkWish
from meshmq.core.log import TrimEntry
from meshmq.core.wished import is_wished
from meshmq.frames import REJECT
from meshmq.limits import MS, SECOND
from meshmq.names import overlap
from tests.core.site_workers import WorkNet

FENCE_NS = 20 * SECOND


def far_sites(
    *sites, topics=("orders.>", "thumbs"), exclude=(), shape=None, nodes=1, fences=()
):  # fmt: skip
    """Sites whose nodes hand out records of groups, and pull ``topics`` from each other, or from
    whom ``shape`` says: (network, nodes by site)."""
    net = WorkNet(0)
    found = {site: [net.add(site=site) for _ in range(nodes)] for site in sites}
    shape = shape or {site: [o for o in sites if o != site] for site in sites}
    net.links_of = {}
    for site, members in found.items():
        wishes = tuple(
            [LinkWish(to, tuple([n.address for n in found[to]]), topics, exclude)
             for to in shape.get(site, ())]
        )  # fmt: skip
        for node in members:
            net.links_of[node] = wishes
    for members in found.values():
        for node in members:
            node.fence_ns = FENCE_NS if node.site in fences else 0
            begin(node, [o.address for o in members if o is not node])
    net.run(2 * SECOND)
    return net, found


def begin(node, peers=()):
    node.start(peers)
    node.node.site.set_links(node.net.links_of[node], node.net.now_ns)
    node.end_turn()


def mirror_at(node, origin):
    return node.node.site.copies.mirrors.by_origin[origin]


def filled(net, at, count=20, acked=8, kind="group", topic="orders.us", group="billing"):
    """A group at ``at`` with records of which some are acked, and no member any more; values that
    are left, in order."""
    pattern = topic if kind == "group" else ""
    worker = net.worker(at).consume(group, pattern, prefetch=100, kind=kind)
    net.run(SECOND)
    maker = net.worker(at)
    for i in range(0, count, 2):
        maker.put(topic, b"%d" % i, b"%d" % (i + 1), priority=0 if kind == "queue" else None)
        net.run(10 * MS)
    net.run(SECOND)
    for one in worker.hands[:acked]:
        worker.settle(one)
    net.run(SECOND)
    worker.die()
    maker.die()
    net.run(SECOND)
    return worker.got[acked:]


def undone(node, of, topic):
    """Offsets of a topic that a mirror says are not done, for its one group."""
    mirror = mirror_at(node, of.origin)
    (state,) = mirror.journal.groups.values()
    there = mirror.topics.by_name[topic]
    return mirror.journal.undone(state, there.entry.source, 0, there.synced_offset)


def test_what_a_group_had_done_is_known_at_the_other_site():
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us)
    assert undone(eu, us, "orders.us") == list(range(8, 20))
    assert len(left) == 12
    assert "billing" not in eu.node.groups.by_name  # it is not handed out here
    (log,) = eu.node.site.describe(net.now_ns)["links"][0]["logs"]
    assert log["lag"] == {}


def test_lanes_of_a_queue_and_its_dead_letters_are_mirrored():
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    worker = net.worker(us).consume("thumbs", "", prefetch=100, kind="queue")
    maker = net.worker(us)
    maker.put("thumbs", b"1", priority=0)
    maker.put("thumbs", b"2", priority=5)
    net.run(SECOND)
    for one in worker.hands:
        worker.settle(one, REJECT)
    net.run(3 * SECOND)
    names = mirror_at(eu, us.origin).topics.by_name
    assert {"thumbs", "$priority.5.thumbs", "$dlq.thumbs", "$journal"} <= set(names)


def test_nothing_of_groups_comes_where_nothing_is_wished():
    net, sites = far_sites("eu", "us", topics=())
    (eu,), (us,) = sites["eu"], sites["us"]
    filled(net, us)
    assert us.origin not in eu.node.site.copies.mirrors.by_origin


@pytest.mark.parametrize("shape", [None, {"eu": ["asia"], "asia": ["us"]}])
def test_a_mirror_that_begins_late_is_given_the_sum(shape):
    net, sites = far_sites("us", "asia", "eu", shape=shape)
    (us,), (eu,) = sites["us"], sites["eu"]
    net.kill(eu)
    filled(net, us)
    journal = us.node.topics.by_name["$journal"]
    us.node._entries.append(_trim(us.node.topics, journal))
    us.end_turn()
    net.run(SECOND)
    eu.disk = type(eu.disk)(eu.origin)
    begin(eu)
    net.run(5 * SECOND)
    assert not mirror_at(eu, us.origin).lacks
    assert undone(eu, us, "orders.us") == list(range(8, 20))


def _trim(topics, topic):
    topic.first_offset = topic.next_offset
    return TrimEntry(topic.entry.stream, topic.next_offset)


def test_which_topics_of_groups_are_wished():
    patterns = {"billing": "orders.*", "all": ">", "thumbs": "thumbs"}.get
    for name, wished in (
        ("orders.a", True), ("orders.tmp.a", False), ("$journal", True), ("$dlq.billing", True),
        ("$retry.billing", True), ("$dlq.all", False), ("$delayed.thumbs", True),
        ("$priority.3.thumbs", True), ("$delayed.other", False), ("$dlq.nobody", False),
        ("$push.orders.a", False),
    ):  # fmt: skip
        said = is_wished(name, ("orders.>", "thumbs"), ("orders.tmp.>",), patterns)
        assert said is wished, name
    assert not is_wished("$dlq.billing", ("orders.>",), ("orders.tmp",), patterns)
    assert not is_wished("$journal", (), (), patterns)


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [("a.b", "a.b", True), ("a.b", "a.c", False), ("a.*", "*.b", True), ("a.>", "a", False),
     (">", "a.b", True), ("a.*", "a.b.c", False), ("a.*.c", "a.>", True)],
)  # fmt: skip
def test_patterns_that_may_cover_one_topic(one, other, may):
    assert overlap(one, other) is may
    assert overlap(other, one) is may


def test_a_log_of_a_site_that_was_renamed_is_known_by_its_new_name_and_not_pulled_back():
    """The other site has a mirror of it under the old one, and no link to the new one at first."""
    net, sites = far_sites("eu", "us", shape={"us": ["eu"]})
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, eu, topic="orders.eu")
    net.run(2 * SECOND)
    net.kill(eu)
    eu.site = "ap"
    net.links_of[eu] = (LinkWish("us", (us.address,), (">",)),)
    begin(eu)
    net.run(3 * SECOND)
    assert eu.origin not in eu.node.site.copies.mirrors.by_origin
    asked = {"name": "eu", "assume_dead": True}
    code, message, answer = net.worker(us).command("site.takeover", **asked)
    assert (code, message) == ("", "")
    assert f"is linked, as ap/{eu.name} now" in answer["nodes"][0]["refused"]
    net.links_of[us] = (LinkWish("ap", (eu.address,), ("orders.>",)),)
    us.node.site.set_links(net.links_of[us], net.now_ns)
    net.run(3 * SECOND)
    assert mirror_at(us, eu.origin).linked.site == "ap"
    worker = net.worker(eu).consume("billing", "orders.eu", prefetch=100)
    net.run(2 * SECOND)
    assert sorted(worker.got) == sorted(left)
