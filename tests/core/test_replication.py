"""Sites that mirror each other's topics: the same records at the same offsets, once each."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from meshmq import limits
from meshmq.core.copy_rows import weight
from meshmq.core.link_wish import LinkWish
from meshmq.frames import START_EARLIEST, START_POSITION, Command, Deliver, Place, Subscribe
from meshmq.limits import MIB, MS, SECOND
from tests.core.sites import Net, Program
from tests.core.test_copies import flip, records_of


def linked(*sites, shape=None, topics=("orders.>",), exclude=(), nodes=1):
    """Sites of so many nodes each, that pull ``topics`` from each other, or from whom ``shape``
    says: (network, nodes by site)."""
    net = Net(0)
    found = {site: [net.add(site=site) for _ in range(nodes)] for site in sites}
    shape = shape or {site: [o for o in sites if o != site] for site in sites}
    for site, members in found.items():
        net.links_of = getattr(net, "links_of", {})
        wishes = tuple(
            [LinkWish(to, tuple([n.address for n in found[to]]), topics, exclude)
             for to in shape.get(site, ())]
        )  # fmt: skip
        for node in members:
            net.links_of[node] = wishes
            begin(node, [o.address for o in members if o is not node])
    return net, found


def begin(node, peers=()):
    node.start(peers)
    node.node.site.set_links(node.net.links_of[node], node.net.now_ns)
    node.end_turn()


def fill(net, node, count, topic="orders.eu", first=0):
    program = Program(net, node)
    for i in range(first, first + count):
        program.publish(topic, b"%d" % i)
        net.run(3 * MS)


def read(net, node, pattern="orders.>", wait_ns=2 * SECOND):
    """All records that a program gets there: (origin, topic, offset, value)."""
    reader = Program(net, node)
    reader.subscribe(pattern, start=START_EARLIEST)
    net.run(wait_ns)
    return [(origin or node.origin, *rest) for origin, *rest in records_of(reader)]


def of(node, count, topic="orders.eu"):
    return [(node.origin, topic, i, b"%d" % i) for i in range(count)]


def test_records_of_another_site_are_read_with_its_offsets_and_its_name():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 20)
    fill(net, us, 10, "orders.us")
    net.run(2 * SECOND)
    want = sorted([*of(eu, 20), *of(us, 10, "orders.us")])
    for node in (eu, us):
        assert sorted(read(net, node)) == want
    (row,) = us.node.site.describe(net.now_ns)["links"]
    assert (row["to"], row["nodes"]) == ("eu", [eu.name])
    assert [(log["name"], log["from"], log["received"]) for log in row["logs"]] == [
        (f"eu/{eu.name}", eu.name, 20)
    ]  # fmt: skip


def test_what_is_published_while_somebody_reads_comes_as_it_is_stored():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 1)
    net.run(2 * SECOND)
    reader = Program(net, us)
    reader.subscribe("orders.>")
    net.run(SECOND)
    fill(net, eu, 30, first=1)
    net.run(SECOND)
    assert records_of(reader) == of(eu, 31)[1:]


@pytest.mark.parametrize("nodes", [1, 2])
def test_sites_at_rest_write_nothing(nodes):
    net, sites = linked("eu", "us", "ap", nodes=nodes)
    members = [node for some in sites.values() for node in some]
    for node in members:
        fill(net, node, 3, f"orders.{node.name}")
    fill(net, members[0], 3, "audit")  # which nobody pulls
    net.run(10 * SECOND)
    before = {node: len(node.disk.commits) for node in members}
    net.run(30 * SECOND)
    assert {node: len(node.disk.commits) for node in members} == before


def test_what_is_passed_over_is_not_looked_through_again_after_a_restart(monkeypatch):
    monkeypatch.setattr("meshmq.limits.PASSED_COMMITS_MAX", 20)
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 1)
    for i in range(60):
        fill(net, eu, 1, "audit", first=i)
        net.run(300 * MS)
    at_eu = eu.node.delivery.committed_lsn
    mirror = us.node.site.copies.mirrors.by_origin[eu.origin]
    assert mirror.synced[0] > at_eu - 5
    assert at_eu - 25 <= us.disk.state.mirrors[eu.origin].lsn < mirror.synced[0]
    net.kill(us)
    begin(us)
    net.run(5 * SECOND)
    fill(net, eu, 1, first=1)
    net.run(SECOND)
    assert read(net, us) == of(eu, 2)


def test_only_what_is_wished_comes():
    net, sites = linked("eu", "us", exclude=("orders.tmp.>",))
    (eu,), (us,) = sites["eu"], sites["us"]
    for topic in ("orders.eu", "orders.tmp.eu", "audit", "orders.us"):
        fill(net, eu, 3, topic)
    net.run(2 * SECOND)
    mirror = us.node.site.copies.mirrors.by_origin[eu.origin]
    assert sorted(mirror.topics.by_name) == ["orders.eu", "orders.us"]
    assert read(net, us, ">") == [*of(eu, 3), *of(eu, 3, "orders.us")]


def test_kills_of_either_side_and_a_cut_bring_nothing_twice_and_lose_nothing():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    for i in range(6):
        fill(net, eu, 10, first=10 * i)
        victim = (eu, us)[i % 2]
        net.kill(victim)
        net.run(50 * MS)
        begin(victim)
        net.run(3 * SECOND)
        net.cut(eu, us, one_way=bool(i % 3))
        fill(net, eu, 2, "orders.cut", first=2 * i)
        net.run(5 * SECOND)
        net.heal()
        net.run(5 * SECOND)
    want = sorted([*of(eu, 60), *of(eu, 12, "orders.cut")])
    assert sorted(read(net, us)) == want
    mirror = us.node.site.copies.mirrors.by_origin[eu.origin]
    assert mirror.received == len(want) or mirror.received < len(want)  # counts from its last start


def test_a_ring_carries_each_log_once_and_round_a_broken_link():
    ring = {"eu": ["us"], "us": ["asia"], "asia": ["eu"]}
    net, sites = linked("eu", "us", "asia", shape=ring)
    nodes = {site: members[0] for site, members in sites.items()}
    for site, node in nodes.items():
        fill(net, node, 10, f"orders.{site}")
    net.run(4 * SECOND)
    want = sorted([r for site, node in nodes.items() for r in of(node, 10, f"orders.{site}")])
    for node in nodes.values():
        assert sorted(read(net, node)) == want
        assert node.origin not in node.node.site.copies.mirrors.by_origin
    # us has asia's log from asia itself; eu has it by us.
    assert {log["name"] for row in nodes["eu"].node.site.describe(0)["links"]
            for log in row["logs"]} == {"us/node-1", "asia/node-2"}  # fmt: skip


def test_a_log_comes_from_its_own_site_and_by_another_one_when_that_is_cut():
    net, sites = linked("eu", "us", "asia")
    eu, _, asia = [members[0] for members in sites.values()]
    fill(net, eu, 10)
    net.run(3 * SECOND)
    net.cut(eu, asia)
    fill(net, eu, 10, first=10)
    net.run(8 * SECOND)
    assert read(net, asia) == of(eu, 20)
    net.heal()
    net.run(6 * SECOND)
    fill(net, eu, 5, first=20)
    net.run(3 * SECOND)
    assert read(net, asia) == of(eu, 25)
    mirror = asia.node.site.copies.mirrors.by_origin[eu.origin]
    assert mirror.link == asia.node.site.far[eu.origin].link


def test_what_has_less_of_a_log_than_is_wished_is_no_source_of_it():
    net = Net(0)
    eu, us, asia = [net.add(site=site) for site in ("eu", "us", "asia")]
    wide, narrow = ("orders.>",), ("orders.eu.>",)
    net.links_of = {
        eu: (),
        us: (LinkWish("eu", (eu.address,), narrow),),
        asia: (LinkWish("us", (us.address,), wide),),
    }
    for node in (eu, us, asia):
        begin(node)
    fill(net, eu, 5, "orders.eu.a")
    net.run(3 * SECOND)
    assert eu.origin not in asia.node.site.copies.mirrors.by_origin
    net.links_of[asia] = (LinkWish("us", (us.address,), ("orders.eu.*",)),)
    asia.node.site.set_links(net.links_of[asia], net.now_ns)
    net.run(3 * SECOND)
    assert read(net, asia) == of(eu, 5, "orders.eu.a")


def test_what_is_wished_no_longer_comes_no_longer_and_goes_on_when_it_is_again():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 5)
    net.run(2 * SECOND)
    us.node.site.set_links((), net.now_ns)
    net.run(2 * SECOND)
    fill(net, eu, 5, first=5)
    net.run(2 * SECOND)
    assert read(net, us) == of(eu, 5)
    us.node.site.set_links(net.links_of[us], net.now_ns)
    net.run(2 * SECOND)
    assert read(net, us) == of(eu, 10)


def test_topics_that_are_wished_later_come_with_their_past_to_further_sites_too():
    net = Net(0)
    eu, us, asia = [net.add(site=site) for site in ("eu", "us", "asia")]
    some, every = ("orders.a",), ("orders.>",)
    net.links_of = {
        eu: (),
        us: (LinkWish("eu", (eu.address,), some),),
        asia: (LinkWish("us", (us.address,), every), LinkWish("eu", (eu.address,), every)),
    }
    net.cut(eu, asia)
    for node in (eu, us, asia):
        begin(node)
    fill(net, eu, 5, "orders.b")
    fill(net, eu, 5, "orders.a")
    net.run(3 * SECOND)
    us.node.site.set_links((LinkWish("eu", (eu.address,), every),), net.now_ns)
    net.run(3 * SECOND)
    fill(net, eu, 5, "orders.b", first=5)
    net.run(5 * SECOND)
    want = [*of(eu, 5, "orders.b"), *of(eu, 5, "orders.a"), *of(eu, 10, "orders.b")[5:]]
    assert read(net, us) == want  # in the order of the log
    assert read(net, asia) == want


def test_two_nodes_of_a_site_share_the_logs_and_take_over_from_each_other():
    net, sites = linked("eu", "us", nodes=2)
    for i, node in enumerate(sites["eu"]):
        fill(net, node, 10, f"orders.{i}")
    net.run(4 * SECOND)
    want = sorted([r for i, n in enumerate(sites["eu"]) for r in of(n, 10, f"orders.{i}")])
    kept = {n: list(n.node.site.copies.mirrors.by_origin) for n in sites["us"]}
    assert sorted([o for held in kept.values() for o in held]) == sorted(
        [n.origin for n in sites["eu"]])  # fmt: skip
    for node in sites["us"]:
        assert sorted(read(net, node)) == want
    gone = max(sites["us"], key=lambda n: len(kept[n]))
    (stays,) = [n for n in sites["us"] if n is not gone]
    net.kill(gone)
    for i, node in enumerate(sites["eu"]):
        fill(net, node, 5, f"orders.{i}", first=10)
    net.run(8 * SECOND)
    want = sorted([r for i, n in enumerate(sites["eu"]) for r in of(n, 15, f"orders.{i}")])
    assert sorted(read(net, stays)) == want
    begin(gone, [stays.address])
    net.run(8 * SECOND)
    assert sorted(read(net, gone)) == want
    kept = [o for n in sites["us"] for o in n.node.site.copies.mirrors.by_origin]
    assert sorted(kept) == sorted([n.origin for n in sites["eu"]])


@pytest.mark.parametrize("own", [True, False])
def test_what_is_damaged_at_one_site_is_had_again_from_the_other(own):
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 10)
    net.run(2 * SECOND)
    node = eu if own else us
    flip(node.disk, "orders.eu", 4, b"" if own else eu.origin)
    net.kill(node)
    net.run(SECOND)
    begin(node)
    net.run(5 * SECOND)
    assert read(net, node) == of(eu, 10)
    assert not node.disk.flipped


def test_how_far_a_mirror_is_behind_is_told_by_topic():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 5)
    net.run(2 * SECOND)

    def told():
        (row,) = us.node.site.describe(net.now_ns)["links"]
        (log,) = row["logs"]
        return log["lag"], log["lag_seconds"]

    assert told() == ({}, 0.0)
    us.sync = lambda life, append: None  # its disk hangs
    fill(net, eu, 10, "orders.a")
    fill(net, eu, 3, first=5)
    net.run(2 * SECOND)
    lag, seconds = told()
    assert lag == {"orders.a": 10, "orders.eu": 3}
    assert 1.5 < seconds < 3


def test_a_position_goes_on_at_the_other_site():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 20)
    net.run(2 * SECOND)
    reader = Program(net, us)
    reader.subscribe("orders.>", start=START_EARLIEST)
    net.run(SECOND)
    rows = [r for frame in reader.take(Deliver) for r in frame.batches]
    assert {row.origin for row in rows} == {eu.origin}
    at = rows[7]
    for node in (eu, us):
        again = Program(net, node)
        places = (Place(eu.origin, at.lsn, at.slot),)
        again.send(Subscribe(
            1, "orders.>", START_POSITION, 0, bytes(16), 0, 0, 4 * MIB, 10_000, places=places,
        ))  # fmt: skip
        net.run(SECOND)
        found = [(origin or node.origin, *rest) for origin, *rest in records_of(again)]
        assert found == of(eu, 20)[at.base_offset :]


@pytest.mark.parametrize("at", [0, 1])
def test_what_is_read_of_a_mirror_does_not_end_where_a_link_has_all_that_may_be_on_its_way(at):
    """It is acknowledged meanwhile; at the node that has the mirror, and at its sibling."""
    net, sites = linked("eu", "us", nodes=2)
    eu, program = sites["eu"][0], Program(net, sites["eu"][0])
    count = limits.LINK_UNACKED_BYTES_MAX // MIB + 8
    for i in range(count):
        program.publish("orders.eu", i.to_bytes(4, "big") + bytes(MIB - 4096))
        net.run(20 * MS)
    net.run(5 * SECOND)
    reader = Program(net, sites["us"][at])
    reader.send(Subscribe(
        1, "orders.>", START_EARLIEST, 0, bytes(16), 0, 0, limits.CREDIT_BYTES_MAX, 10_000,
    ))  # fmt: skip
    net.run(10 * SECOND)
    assert [row[:3] for row in records_of(reader)] == [
        (eu.origin, "orders.eu", i) for i in range(count)
    ]


def test_who_wants_the_own_site_alone_gets_nothing_of_others():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    early = Program(net, us)  # before there is anything of another site
    wish = Subscribe(
        1, "orders.>", START_EARLIEST, 0, b"", 0, 0, 4 * MIB, 10_000, own_site=True,
    )  # fmt: skip
    early.send(wish)
    net.run(SECOND)
    fill(net, eu, 5)
    fill(net, us, 5, "orders.us")
    net.run(2 * SECOND)
    late = Program(net, us)
    late.send(wish)
    placed = Program(net, us)
    placed.send(replace(wish, places=(Place(eu.origin, 1, 0),)))
    net.run(2 * SECOND)
    for program in (early, late, placed):
        assert [r[1:] for r in records_of(program)] == [
            r[1:] for r in of(us, 5, "orders.us")
        ]  # fmt: skip


def test_a_node_of_a_wrong_site_is_refused_in_words_on_both_sides():
    net = Net(0)
    eu, us = net.add(site="eu"), net.add(site="us")
    net.links_of = {eu: (LinkWish("asia", (us.address,), (">",)),), us: ()}
    for node in (eu, us):
        begin(node)
    net.run(3 * SECOND)
    said = "looks for site 'asia' there: mend the endpoints of its link"
    assert said in " ".join(eu.node.site.links.refusals.values())
    assert said in " ".join(us.node.site.links.refusals.values())
    assert (eu.node.site.far, us.node.site.far) == ({}, {})


@pytest.mark.parametrize("behind", [1, 5])
def test_a_backup_that_is_put_back_is_found_out_by_the_mirror(behind):
    net, sites = linked("eu", "us")
    (eu,) = sites["eu"]
    fill(net, eu, 5)
    net.run(SECOND)
    backup = copy.deepcopy(eu.disk)
    fill(net, eu, behind, first=5)
    net.run(2 * SECOND)
    net.kill(eu)
    eu.disk = backup
    begin(eu)
    net.run(limits.OWN_LOG_WAIT_NS + 2 * SECOND)
    assert eu.node.site.copies.own.behind is not None


def test_who_reads_a_mirror_has_the_first_batch_of_a_topic_that_is_stored_meanwhile():
    line = {"us": ["eu"], "asia": ["us"]}
    net, sites = linked("eu", "us", "asia", shape=line)
    eu, us, asia = [members[0] for members in sites.values()]
    net.run(2 * SECOND)
    net.read_ns = 6 * MS
    reader = Program(net, us)
    reader.subscribe("orders.>", start=START_EARLIEST)
    topics = [f"orders.n{i}" for i in range(20)]
    for topic in topics:
        fill(net, eu, 1, topic)
    net.run(2 * SECOND)
    want = sorted([r for topic in topics for r in of(eu, 1, topic)])
    assert sorted(records_of(reader)) == want
    assert sorted(read(net, asia)) == want


def one_behind_the_other():
    """A site that pulls a log of another one, with a node that does it until the other one is
    there, and a third site that pulls it from there: (network, eu, that node, the other, asia)."""
    net = Net(0)
    eu, one, other, asia = [net.add(site=site) for site in ("eu", "us", "us", "asia")]
    first, second = sorted((one, other), key=lambda node: weight(eu.origin, node.origin))
    wish = ("orders.>",)
    of_us = (LinkWish("eu", (eu.address,), wish),)
    net.links_of = {
        eu: (), first: of_us, second: of_us,
        asia: (LinkWish("us", (first.address, second.address), wish),),
    }  # fmt: skip
    for node in (eu, first, asia):
        begin(node, [second.address] if node is first else ())
    fill(net, eu, 10)
    net.run(3 * SECOND)
    return net, eu, first, second, asia


def test_who_reads_a_mirror_goes_on_at_another_node_when_that_has_it_instead():
    net, eu, first, second, _ = one_behind_the_other()
    reader = Program(net, first)
    reader.subscribe("orders.>", start=START_EARLIEST)
    net.run(SECOND)
    begin(second, [first.address])
    net.run(5 * SECOND)
    assert eu.origin not in first.node.site.copies.mirrors.by_origin
    fill(net, eu, 10, first=10)
    net.run(2 * SECOND)
    assert records_of(reader) == of(eu, 20)


def test_who_mirrors_a_mirror_goes_on_at_another_node_when_that_has_it_instead():
    net, eu, first, second, asia = one_behind_the_other()
    assert read(net, asia) == of(eu, 10)
    begin(second, [first.address])
    net.run(5 * SECOND)
    fill(net, eu, 10, first=10)
    net.run(4 * SECOND)
    assert read(net, asia) == of(eu, 20)


def test_a_log_does_not_come_back_to_where_it_came_by():
    net = Net(0)
    eu, us, asia = [net.add(site=site) for site in ("eu", "us", "asia")]
    wide = ("orders.>",)
    net.links_of = {
        eu: (),
        us: (LinkWish("eu", (eu.address,), wide), LinkWish("asia", (asia.address,), wide)),
        asia: (LinkWish("us", (us.address,), wide),),
    }
    for node in (eu, us, asia):
        begin(node)
    fill(net, eu, 5)
    net.run(3 * SECOND)
    net.cut(eu, us)
    net.run(6 * SECOND)
    mirror = us.node.site.copies.mirrors.by_origin[eu.origin]
    assert (mirror.link, mirror.number) == (b"", 0)
    net.heal()
    fill(net, eu, 5, first=5)
    net.run(6 * SECOND)
    assert read(net, asia) == of(eu, 10)


def test_a_log_comes_the_other_way_round_when_where_it_came_by_is_cut_off():
    ring = {"eu": ["us", "asia"], "us": ["eu", "sa"], "sa": ["us", "asia"], "asia": ["sa", "eu"]}
    net, sites = linked("eu", "us", "sa", "asia", shape=ring)
    eu, us, sa, asia = [members[0] for members in sites.values()]
    fill(net, eu, 5)
    net.run(4 * SECOND)
    mirror = sa.node.site.copies.mirrors.by_origin[eu.origin]
    by = [n for n in (us, asia) if sa.node.site.far[n.origin].link == mirror.link]
    net.cut(eu, by[0])
    net.run(4 * SECOND)
    fill(net, eu, 5, first=5)
    net.run(8 * SECOND)
    for node in (us, sa, asia):
        assert read(net, node) == of(eu, 10)


def test_a_mirror_that_is_dropped_begins_again_once_that_is_stored():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 10)
    net.run(2 * SECOND)
    site = us.node.site
    site.copies.drop(eu.origin)
    site.replication._choose(net.now_ns)
    assert eu.origin not in site.copies.mirrors.by_origin
    us.end_turn()
    net.run(2 * SECOND)
    fill(net, eu, 5, first=10)
    net.run(2 * SECOND)
    assert read(net, us) == of(eu, 15)


def one_that_wishes_less():
    """As of one_behind_the_other, and the first one has a topic more; the second one has begun and
    is not to have that: (network, eu, first, second, what each of the two wishes)."""
    net, eu, first, second, _ = one_behind_the_other()
    fill(net, eu, 5, "orders.tmp")
    net.run(SECOND)
    (wish,) = net.links_of[first]
    fewer = net.links_of[second] = (wish._replace(exclude=("orders.tmp",)),)
    begin(second, [first.address])
    net.run(5 * SECOND)
    return net, eu, first, second, (wish,), fewer


def test_a_node_drops_what_another_one_pulls_now_also_where_less_is_wished_than_when_it_did():
    net, eu, first, second, _, fewer = one_that_wishes_less()  # the first has not been told yet
    assert eu.origin in first.node.site.copies.mirrors.by_origin
    assert read(net, second, "orders.eu") == of(eu, 10)
    first.node.site.set_links(fewer, net.now_ns)
    net.run(3 * SECOND)
    assert eu.origin not in first.node.site.copies.mirrors.by_origin
    fill(net, eu, 5, first=10)
    net.run(2 * SECOND)
    for node in (first, second):
        assert read(net, node) == of(eu, 15)


def test_a_node_that_takes_a_log_over_from_another_one_is_not_kept_from_a_wider_wish():
    net, eu, first, second, wider, _ = one_that_wishes_less()  # as it was before
    second.node.site.set_links(wider, net.now_ns)
    net.run(5 * SECOND)
    assert eu.origin not in first.node.site.copies.mirrors.by_origin
    fill(net, eu, 5, first=10)
    net.run(2 * SECOND)
    for node in (first, second):
        assert read(net, node) == [*of(eu, 10), *of(eu, 5, "orders.tmp"), *of(eu, 15)[10:]]


@pytest.mark.parametrize("sites", [("eu", "us"), ("eu", "us", "ap")])
def test_a_topic_that_is_made_anew_while_nobody_pulls_takes_the_place_of_the_one_before(sites):
    chain = {"us": ["eu"], "ap": ["us"]}
    net, found = linked(*sites, shape=chain)
    (eu,), *others = found.values()
    fill(net, eu, 9)
    fill(net, eu, 3, "orders.kept")
    net.run(3 * SECOND)
    last = others[-1][0]
    assert sorted(read(net, last)) == sorted([*of(eu, 9), *of(eu, 3, "orders.kept")])
    for (node,) in others:
        net.kill(node)
    program = Program(net, eu)
    program.send(Command(1, "topic.delete", b'{"topic": "orders.eu"}'))
    net.run(SECOND)
    fill(net, eu, 4)
    for (node,) in others:
        begin(node)
    net.run(6 * SECOND)
    want = sorted([*of(eu, 4), *of(eu, 3, "orders.kept")])
    for (node,) in others:
        assert sorted(read(net, node)) == want
        net.kill(node)
        begin(node)
        net.run(3 * SECOND)
        assert sorted(read(net, node)) == want


def wish_fewer(net, node):
    net.links_of[node] = tuple([w._replace(topics=("orders.>",)) for w in net.links_of[node]])


@pytest.mark.parametrize("first", ["us", "ap"])
def test_a_topic_that_was_deleted_while_nobody_pulled_goes_when_the_mirrors_go_on(first):
    net, found = linked("eu", "us", "ap", shape={"us": ["eu"], "ap": ["us"]})
    (eu,), *others = found.values()
    fill(net, eu, 9)
    fill(net, eu, 3, "orders.kept")
    net.run(3 * SECOND)
    for (node,) in others:
        net.kill(node)
    program = Program(net, eu)
    program.send(Command(1, "topic.delete", b'{"topic": "orders.eu"}'))
    net.run(SECOND)
    for (node,) in sorted(others, key=lambda nodes: nodes[0].site != first):
        begin(node)
        net.run(6 * SECOND)
    for (node,) in others:
        assert read(net, node) == of(eu, 3, "orders.kept")


def test_what_is_not_wished_any_more_stays_where_it_is_pulled_from_who_never_had_it():
    shape = {"us": ["eu"], "ap": ["us", "eu"]}
    net, found = linked("eu", "us", "ap", topics=("orders.>", "bills"), shape=shape)
    (eu,), (us,), (ap,) = found.values()
    wish_fewer(net, us)
    net.kill(us)
    fill(net, eu, 9)
    fill(net, eu, 3, "bills")
    net.run(3 * SECOND)
    begin(us)
    net.run(3 * SECOND)
    net.cut(eu, ap)
    wish_fewer(net, ap)
    ap.node.site.set_links(net.links_of[ap], net.now_ns)
    net.run(20 * SECOND)
    assert ap.node.site.copies.mirrors.by_origin[eu.origin].link != b""
    fill(net, eu, 5, first=9)
    net.run(3 * SECOND)
    assert sorted(read(net, ap, ">")) == sorted([*of(eu, 14), *of(eu, 3, "bills")])
