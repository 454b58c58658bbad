"""Strands of a log of another site: who goes first, what is wished later, what is too old."""

from __future__ import annotations

from itertools import pairwise

import pytest

from meshmq import limits
from meshmq.core.claims import are_disjoint, classes, has_all, is_empty, joined, takes
from meshmq.core.copy_rows import weight
from meshmq.core.events import TimerFired
from meshmq.core.link_wish import LinkWish
from meshmq.core.mirror_log import StrandEntry, StrandsEntry
from meshmq.core.site_copies import NO_COPY
from meshmq.core.strands import BEGIN, covering, have_more, rewish, split, strand_of, together
from meshmq.core.strands import begin as begun
from meshmq.frames import START_EARLIEST, START_NEW
from meshmq.frames_copies import Strand
from meshmq.limits import MS, SECOND
from tests.core.sites import WALL, Net, Program
from tests.core.test_copies import records_of
from tests.core.test_replication import begin, fill, of, read

EVERY = (">",), ()


def pair(*sites, **wish):
    """Sites in a row, each of which pulls from the one before: (network, nodes)."""
    net = Net(0)
    nodes = [net.add(site=site) for site in sites]
    net.links_of = {nodes[0]: ()}
    for one, other in pairwise(nodes):
        net.links_of[other] = (LinkWish(one.site, (one.address,), **{"topics": (">",), **wish}),)
    for node in nodes:
        begin(node)
    return net, nodes


def change(net, node, **wish):
    net.links_of[node] = tuple([w._replace(**wish) for w in net.links_of[node]])
    node.node.site.set_links(net.links_of[node], net.now_ns)


def mirror_of(node, at):
    return at.node.site.copies.mirrors.by_origin[node.origin]


def sent_by(node):
    """Bytes of records that went over its link."""
    (flow,) = node.node.site.copies.logs._flows.values()
    return flow.raw_bytes


# -- which strands there are -----------------------------------------------------------------------


def test_a_topic_is_in_the_strand_of_the_first_pattern_that_it_matches():
    strands = begun((("orders.>", "audit.>", "x"), ("orders.tmp.>",)), ("audit.>", "*.eu"))
    names = ("audit.eu", "orders.eu", "orders.us", "x", "orders.tmp.a", "y")
    assert [strand_of(strands, name) for name in names] == [1, 2, 3, 3, None, None]
    of_groups = ("$journal", "$priority.1.audit.a", "$delayed.orders.us", "$dlq.g", "$unknown")
    assert [strand_of(strands, name, lambda group: "x") for name in of_groups] == [0, 1, 3, 0, None]


def test_priorities_that_match_nothing_that_is_wished_make_no_strands():
    assert [s.rank for s in begun((("orders.>",), ()), ("audit.>", "orders.>"))] == [0, 2]


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        ((("a.>",), ()), (("b.>",), ()), True),
        ((("a.>",), ()), (("*.b",), ()), False),
        ((("a.>",), ("a.b",)), (("a.b",), ()), True),
        ((("a.*",), ()), (("a.b.c",), ()), True),
        (((">",), ("a.>",)), (("a.>",), ()), True),
        (((">",), ()), (("$x",), ()), True),
    ],
)
def test_claims_that_have_no_topic_in_common_are_told_by_their_patterns(one, other, are):
    assert are_disjoint((one,), (other,)) == are_disjoint((other,), (one,)) == are
    assert is_empty((one, other)) == are


def test_a_claim_that_says_nothing_beside_the_others_is_left_out():
    assert joined(EVERY, (("a.>",), ())) == joined((("a.>",), ()), EVERY) == ((("a.>",), ()),)
    assert has_all((("a.>",), ("b.>",)), (("a.>",), ()))  # what is excluded was not in it


def test_a_new_wish_keeps_each_topic_at_the_place_that_it_has():
    old, new = (("a.>", "b.>"), ()), (("b.>", "c.>"), ())
    groups, strand = begun(old, ())
    strands = rewish((groups, strand._replace(lsn=9)), old, new, ("c.>",), ())
    at = {name: strand_of(strands, name) for name in ("a.x", "b.x", "c.x")}
    places = {strand.number: strand.lsn for strand in strands}
    assert at["a.x"] is None
    assert (places[at["b.x"]], places[at["c.x"]]) == (9, 1)


def test_strands_come_together_once_the_source_has_said_that_they_are_at_its_end():
    old, new = (("a.>",), ()), (("a.>", "b.>"), ())
    strands = rewish(begun(old, ()), old, new, (), ())
    assert [s.rank for s in strands] == [0, 1, 0, 1]
    at_end = tuple([s._replace(lsn=7) for s in strands])
    assert together(at_end, (), new, ()) == at_end
    groups, *rest = together(at_end, (0, 2), new, ())
    assert (groups.number, len(rest)) == (0, 2)
    one = together(at_end, (0, 1, 2, 3), new, ())[1]
    assert one.place == (7, 0)
    assert all(takes(one.claims, name) for name in ("a.x", "b.x"))


def test_what_has_unequal_strands_splits_those_of_who_pulls_from_it():
    old, new = (("a.>",), ()), (("a.>", "b.>"), ())
    at = tuple([s._replace(lsn=100) for s in begun(old, ())])
    theirs = rewish(at, old, new, (), ())
    ours = split(begun(new, ()), theirs, ())
    assert len(ours) == 4
    assert strand_of(ours, "a.x") != strand_of(ours, "b.x")
    assert split(ours, theirs, ()) == ours


def test_none_has_more_than_another_one_that_is_as_far_with_each_topic():
    old, new = (("o.*",), ("o.b",)), (("x.>", "o.b"), ())
    ranks = ("o.tmp.>",)
    strands = rewish(rewish(begun(old, ranks), old, new, ranks, ()), new, old, ranks, ())
    # Several may have one topic, at whatever places: it is in the first one.
    at = tuple([s._replace(lsn=10 + i) for i, s in enumerate(reversed(strands))])
    assert any(not are_disjoint(a.claims, b.claims) for a, b in pairwise(at))
    for these in (strands, at, tuple(reversed(at))):
        assert not have_more(these, these)
        more = (these[0]._replace(lsn=50), *these[1:])
        assert have_more(more, these)
        assert not have_more(these, more)


def test_there_are_so_many_strands_at_most(monkeypatch):
    monkeypatch.setattr(limits, "STRANDS_MAX", 4)
    old, new = (("a.>",), ()), (("a.>", "b.>"), ())
    assert rewish(begun(old, ()), old, new, ("a.b", "a.c"), ()) is None
    assert rewish(begun(old, ()), old, new, (), {2}) is None  # of one something is here still
    assert len(rewish(begun(old, ()), old, new, (), ())) == len(classes(("a", "b"))) == 4


# -- what comes ------------------------------------------------------------------------------------


def test_what_goes_first_overtakes_what_was_published_before_it(monkeypatch):
    monkeypatch.setattr(limits, "LINK_CREDIT_BYTES", 600)
    net, (eu, us) = pair("eu", "us", priority=("audit.>",))
    net.cut(eu, us)
    fill(net, eu, 400, "orders.a")
    fill(net, eu, 5, "audit.a")
    net.heal()
    reader = Program(net, us)
    reader.subscribe("audit.>", start=START_EARLIEST)
    net.run(3 * SECOND)
    assert records_of(reader) == of(eu, 5, "audit.a")
    lag = mirror_of(eu, us).lag()
    assert lag.get("orders.a", 400) > 100
    assert "audit.a" not in lag
    net.run(20 * SECOND)
    assert read(net, us, ">") == [*of(eu, 400, "orders.a"), *of(eu, 5, "audit.a")]


def test_a_reader_of_all_has_the_log_in_its_order_while_it_comes_in_another_one(monkeypatch):
    monkeypatch.setattr(limits, "LINK_CREDIT_BYTES", 600)
    net, (eu, us, asia) = pair("eu", "us", "asia", priority=("audit.>",))
    readers = [Program(net, node) for node in (us, asia)]
    for reader in readers:
        reader.subscribe(">", start=START_EARLIEST)
    want = []
    net.run(3 * SECOND)
    net.cut(eu, us)
    for i in range(30):
        fill(net, eu, 4, "orders.a", first=4 * i)
        fill(net, eu, 1, "audit.a", first=i)
        want += of(eu, 4 * i + 4, "orders.a")[4 * i :] + of(eu, i + 1, "audit.a")[i:]
    net.heal()
    net.run(30 * SECOND)
    assert [records_of(reader) for reader in readers] == [want, want]


def test_what_is_new_of_what_goes_first_comes_to_a_reader_of_all_at_once():
    net, (eu, us) = pair("eu", "us", priority=("audit.>",))
    fill(net, eu, 3, "orders.a")
    net.run(3 * SECOND)
    reader = Program(net, us)
    reader.subscribe(">", start=START_NEW)
    net.run(SECOND)
    for i in range(5):
        fill(net, eu, 1, ("audit.a", "orders.b")[i % 2], first=i // 2)
        net.run(100 * MS)  # less than until the next tick
        assert len(records_of(reader)) == 1


def test_a_new_reader_of_all_gets_nothing_of_the_past_that_comes_for_a_new_wish(monkeypatch):
    monkeypatch.setattr(limits, "LINK_CREDIT_BYTES", 300)
    net, (eu, us) = pair("eu", "us", topics=("orders.>",))
    fill(net, eu, 200, "audit.a")
    fill(net, eu, 5, "orders.a")
    net.run(3 * SECOND)
    change(net, us, topics=(">",))
    net.run(600 * MS)
    assert len(mirror_of(eu, us).strands) == 4
    reader = Program(net, us)
    reader.subscribe(">", start=START_NEW)
    net.run(10 * MS)
    fill(net, eu, 3, "orders.a", first=5)
    net.run(20 * SECOND)
    assert records_of(reader) == of(eu, 8, "orders.a")[5:]
    assert len(mirror_of(eu, us).strands) == 2
    assert read(net, us, ">") == [*of(eu, 200, "audit.a"), *of(eu, 8, "orders.a")]


def test_what_was_wished_before_goes_on_while_the_past_of_what_is_new_comes(monkeypatch):
    monkeypatch.setattr(limits, "LINK_CREDIT_BYTES", 30)
    net, (eu, us) = pair("eu", "us", topics=("orders.>",))
    fill(net, eu, 300, "audit.a")
    net.run(2 * SECOND)
    change(net, us, topics=(">",))
    reader = Program(net, us)
    reader.subscribe("orders.>", start=START_EARLIEST)
    fill(net, eu, 5, "orders.a")
    net.run(200 * MS)
    assert records_of(reader) == of(eu, 5, "orders.a")
    assert mirror_of(eu, us).topics.of_source(1).next_offset < 300


def test_topics_that_are_wished_again_come_from_where_they_were_left():
    net, (eu, us) = pair("eu", "us")
    fill(net, eu, 20, "audit.a")
    fill(net, eu, 20, "orders.a")
    net.run(2 * SECOND)
    change(net, us, exclude=("audit.>",))
    net.run(SECOND)
    fill(net, eu, 10, "orders.a", first=20)
    fill(net, eu, 10, "audit.a", first=20)
    net.run(2 * SECOND)
    assert mirror_of(eu, us).received == 50
    sent = sent_by(eu)
    net.kill(us)
    begin(us)
    net.run(2 * SECOND)
    before = sent_by(eu)
    change(net, us, exclude=())
    net.run(3 * SECOND)
    assert (sent_by(eu) - before) * 4 < sent
    assert mirror_of(eu, us).received == 10  # since its start: nothing came twice
    want = [*of(eu, 20, "audit.a"), *of(eu, 30, "orders.a"), *of(eu, 30, "audit.a")[20:]]
    assert read(net, us, ">") == want


def test_priorities_that_come_and_go_change_nothing_of_what_is_read():
    net, (eu, us, asia) = pair("eu", "us", "asia")
    want = []
    for i, priority in enumerate([(), ("audit.>",), ("orders.>",), (), ("audit.>", "*.a")]):
        change(net, us, priority=priority)
        net.run(200 * MS)
        for topic in ("audit.a", "orders.a", "audit.a"):
            first = len([row for row in want if row[1] == topic])
            fill(net, eu, 3, topic, first=first)
            want += of(eu, first + 3, topic)[first:]
        net.kill((eu, us)[i % 2])
        net.run(50 * MS)
        begin((eu, us)[i % 2])
        net.run(4 * SECOND)
    assert read(net, us, ">") == read(net, asia, ">") == want
    assert [s.place for s in mirror_of(eu, us).strands.values()] != []
    streams = us.node.site.copies.of_topic(None, "audit.a", "us")["streams"]
    assert [row["records"] for row in streams] == [30]


def test_a_mirror_begins_at_the_time_that_its_link_says():
    net, (eu, us, asia) = pair("eu", "us", "asia")
    for node in (us, asia):
        net.kill(node)
    fill(net, eu, 10)
    net.run(10 * SECOND)
    since = WALL + net.now_ns
    fill(net, eu, 10, first=10)
    wish = net.links_of[us][0]._replace(since_ns=since)
    net.links_of[us] = (wish,)
    begin(us)
    begin(asia)
    net.run(3 * SECOND)
    assert read(net, us) == of(eu, 20)[10:]
    assert not mirror_of(eu, us).holes
    assert mirror_of(eu, us).topics.by_source[1][0].first_offset == 10
    # Who wants all of it does not take it from there.
    assert eu.origin not in asia.node.site.copies.mirrors.by_origin
    change(net, asia, since_ns=since)
    net.run(3 * SECOND)
    assert read(net, asia) == of(eu, 20)[10:]


def test_an_age_counts_back_from_when_a_mirror_begins():
    net, (eu, us) = pair("eu", "us", since_age_ns=5 * SECOND)
    net.kill(us)
    fill(net, eu, 10)
    net.run(20 * SECOND)
    fill(net, eu, 10, first=10)
    fill(net, eu, 3, "audit.a")
    begin(us)
    net.run(2 * SECOND)
    assert read(net, us, ">") == [*of(eu, 20)[10:], *of(eu, 3, "audit.a")]
    net.kill(us)
    net.run(20 * SECOND)
    fill(net, eu, 10, first=20)
    begin(us)
    net.run(2 * SECOND)
    assert read(net, us, "orders.>") == of(eu, 30)[10:]


@pytest.mark.parametrize("years", [-20, 20])
@pytest.mark.parametrize("third", [False, True])
def test_what_is_stored_after_a_mirror_began_comes_whatever_the_clocks_say(years, third):
    """Also where the log comes by a third site, whose clock is right."""
    net = Net(0)
    eu, asia, us = [net.add(site=site) for site in ("eu", "asia", "us")]
    us.clock_ns = years * 365 * 24 * 3600 * SECOND
    by = asia if third else eu
    net.links_of = {
        eu: (), asia: (LinkWish("eu", (eu.address,), (">",)),),
        us: (LinkWish(by.site, (by.address,), (">",), since_age_ns=5 * SECOND),),
    }  # fmt: skip
    begin(eu)
    begin(asia)
    fill(net, eu, 10)
    net.run(20 * SECOND)
    begin(us)
    net.run(2 * SECOND)
    fill(net, eu, 10, first=10)
    net.run(2 * SECOND)
    assert read(net, us, ">")[-10:] == of(eu, 20)[10:]


def two_of_a_site_that_begin_at_an_age():
    """Of two nodes of us the one that pulls eu's log when the other one is not there, and that is
    not yet: (network, eu, that one, the other)."""
    net = Net(0)
    eu, one, other = [net.add(site=site) for site in ("eu", "us", "us")]
    first, second = sorted((one, other), key=lambda node: weight(eu.origin, node.origin))
    wish = LinkWish("eu", (eu.address,), ("orders.>",), since_age_ns=5 * SECOND)
    net.links_of = {eu: (), first: (wish,), second: (wish,)}
    begin(eu)
    fill(net, eu, 10)
    net.run(20 * SECOND)
    begin(first, [second.address])
    fill(net, eu, 10, first=10)
    net.run(20 * SECOND)
    fill(net, eu, 10, first=20)
    return net, eu, first, second


def test_a_node_that_takes_a_log_over_begins_where_the_one_before_did():
    net, eu, first, second = two_of_a_site_that_begin_at_an_age()
    begin(second, [first.address])
    net.run(5 * SECOND)
    assert eu.origin not in first.node.site.copies.mirrors.by_origin
    for node in (first, second):
        assert read(net, node) == of(eu, 30)[10:]


def test_of_two_that_begin_without_each_other_that_one_counts_that_has_begun_earlier():
    net, eu, first, second = two_of_a_site_that_begin_at_an_age()
    net.kill(first)
    begin(second)
    net.run(5 * SECOND)
    assert read(net, second) == of(eu, 30)[20:]
    begin(first, [second.address])
    net.run(5 * SECOND)
    fill(net, eu, 5, first=30)
    net.run(SECOND)
    at = [n for n in (first, second) if eu.origin in n.node.site.copies.mirrors.by_origin]
    assert at == [second]  # as of any log, once that has nothing of its own any more
    for node in (first, second):
        assert read(net, node) == of(eu, 35)[10:]


# -- who has it from a mirror that comes to have less ----------------------------------------------


@pytest.mark.parametrize("asks", [False, True])
def test_who_pulls_more_than_a_mirror_is_to_have_by_now_is_refused_and_loses_nothing(
    monkeypatch, asks
):
    """That one has not come to look at the offers before what is sent of less comes, whether it is
    sent the log by then, or asks for it at that very moment."""
    monkeypatch.setattr(limits, "LINK_CREDIT_BYTES", 30)
    net, (eu, us, asia) = pair("eu", "us", "asia", topics=("orders.>",))
    change(net, us, topics=("orders.a",))
    fill(net, eu, 300, "orders.b")
    fill(net, eu, 5, "orders.a")
    net.run(3 * SECOND)
    change(net, us, topics=("orders.>",))

    def is_midway():
        mirror = asia.node.site.copies.mirrors.by_origin.get(eu.origin)
        return mirror is not None and mirror.received > 100

    assert net.run(5 * SECOND, is_midway)
    if asks:
        change(net, asia, compression="zstd")
        asia.handle(TimerFired())
    fire = net._fire
    net._fire = lambda node, *rest: net.at(
        SECOND if node is asia else 0, lambda: fire(node, *rest)
    )  # fmt: skip
    change(net, us, topics=("orders.a",))
    us.handle(TimerFired())
    net.run(500 * MS)
    assert (mirror_of(eu, asia).number, mirror_of(eu, asia).problem) == (0, NO_COPY)
    net._fire = fire
    change(net, us, topics=("orders.>",))
    net.run(5 * SECOND)
    assert read(net, asia) == [*of(eu, 300, "orders.b"), *of(eu, 5, "orders.a")]


def test_what_is_wished_anew_counts_as_lacking_until_that_is_stored():
    net, (eu, us, asia) = pair("eu", "us", "asia", topics=("orders.>",))
    change(net, us, topics=("orders.a",))
    fill(net, eu, 20, "orders.b")
    fill(net, eu, 5, "orders.a")
    net.run(3 * SECOND)
    assert eu.origin not in asia.node.site.copies.mirrors.by_origin
    us.sync = lambda life, append: None  # its disk hangs
    change(net, us, topics=("orders.>",))
    net.run(2 * SECOND)
    stored = mirror_of(eu, us).stored
    of_a, of_b = [strand_of(stored, name) for name in ("orders.a", "orders.b")]
    assert of_b is not None
    places = {strand.number: strand.place for strand in stored}
    assert places[of_a] > places[of_b] == mirror_of(eu, us).synced == BEGIN
    del us.sync
    net.kill(us)
    begin(us)
    net.run(3 * SECOND)
    assert read(net, asia) == [*of(eu, 20, "orders.b"), *of(eu, 5, "orders.a")]


def test_the_number_of_a_strand_that_is_given_anew_takes_no_place_of_the_one_before():
    net, (eu, us) = pair("eu", "us")
    fill(net, eu, 5)
    net.run(2 * SECOND)
    mirror = mirror_of(eu, us)
    groups, had = mirror.stored
    anew = groups, had._replace(lsn=1, slot=0, claims=((("audit.>",), ()),))
    came = StrandEntry(eu.origin, had.number, had.lsn + 5, 0)
    mirror.begin_strands(anew)
    mirror.on_strands(came)  # of the one before, stored only now
    assert mirror.synced == BEGIN
    mirror.on_strands(StrandsEntry(eu.origin, anew))
    assert mirror.stored == anew
    mirror.on_strands(came)
    assert mirror.stored[1].place == (had.lsn + 5, 0)


def test_a_reader_of_a_strand_is_held_by_none_whose_topics_those_before_it_have():
    plain, every = ((("o.>",), ("o.tmp.>",)),), ((("o.>",), ()),)
    behind, ahead = Strand(1, 1, 54, 0, plain), Strand(3, 1, 57, 0, every)
    assert covering((behind, ahead), every) == [behind, ahead]
    assert covering((behind, ahead), every, (Strand(7, 1, 54, 0, plain),)) == [ahead]
    assert covering((behind, ahead), every, (Strand(7, 1, 54, 0, ((("x",), ()),)),)) == [
        behind, ahead,
    ]  # fmt: skip
