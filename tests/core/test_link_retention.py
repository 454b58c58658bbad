"""Mirrors that are kept by their own site's word, longer or shorter than their nodes keep them."""

from __future__ import annotations

import pytest

from meshmq.core.link_wish import LinkWish
from meshmq.frames import START_POSITION, Subscribe
from meshmq.limits import MIB, SECOND
from tests.core.sites import WALL, Program, trim
from tests.core.test_copies import records_of
from tests.core.test_link_problems import links_of
from tests.core.test_links_groups import far_sites, filled
from tests.core.test_mirrored import levels
from tests.core.test_replication import begin, fill, read
from tests.core.test_site_problems import told
from tests.core.test_strands import change, mirror_of, pair

TOPIC = "orders.eu"
EVER = (0, 0)
WEEK = 7 * 86400 * SECOND


def trimmed(offset):
    """A node of eu, and one of us that has trimmed its mirror of 20 records of eu."""
    net, (eu, us) = pair("eu", "us", retention=(0, 1000))
    fill(net, eu, 20)
    net.run(SECOND)
    trim(us, eu.origin, offset)
    return net, eu, us


def kept(node, at, topic=TOPIC):
    """Offsets that a node has of a stream of another one."""
    return [offset for _, name, offset, _ in read(at.net, at, ">") if name == topic]


def again(node):
    """Kill it and start it from its disk."""
    node.net.kill(node)
    begin(node)
    node.net.run(3 * SECOND)


def test_what_the_owner_trims_stays_where_the_site_keeps_it_longer():
    net, (eu, us) = pair("eu", "us", retention=(WEEK, 0))
    fill(net, eu, 20)
    net.run(SECOND)
    trim(eu, eu.origin, 15)
    fill(net, eu, 5, first=20)
    net.run(SECOND)
    again(us)
    assert eu.node.topics.by_name[TOPIC].first_offset == 15
    assert kept(eu, us) == [*range(25)]
    (stream,) = mirror_of(eu, us).topics.by_source[1]
    assert (stream.entry.retention_ns, stream.entry.retention_bytes) == (WEEK, 0)


def test_a_topic_that_is_deleted_is_deleted_here_too():
    net, (eu, us) = pair("eu", "us", retention=EVER)
    fill(net, eu, 5)
    net.run(SECOND)
    entries = []
    eu.node.topics.delete(TOPIC, entries)
    eu.node._entries += entries
    eu.end_turn()
    net.run(2 * SECOND)
    assert kept(eu, us) == []


def test_what_was_trimmed_here_is_not_had_again_and_the_owner_keeps_it():
    net, eu, us = trimmed(15)
    fill(net, eu, 5, first=20)
    net.run(SECOND)
    for _ in range(2):
        assert kept(eu, us) == [*range(15, 25)]
        assert not mirror_of(eu, us).holes
        again(us)
        again(eu)
    assert kept(eu, eu) == [*range(25)]
    assert mirror_of(eu, us).received <= 25


def test_all_of_a_mirror_may_go_and_what_is_new_comes():
    net, eu, us = trimmed(20)
    again(us)
    assert kept(eu, us) == []
    fill(net, eu, 5, first=20)
    net.run(SECOND)
    assert kept(eu, us) == [*range(20, 25)]
    assert mirror_of(eu, us).lag() == {}


def test_a_reader_below_what_is_kept_goes_on_behind_what_it_missed():
    net, eu, us = trimmed(15)
    again(us)
    reader = Program(net, us)
    reader.send(Subscribe(1, TOPIC, START_POSITION, 3, eu.origin, 0, 0, 4 * MIB, 1000))
    net.run(SECOND)
    assert [offset for _, _, offset, _ in records_of(reader)] == [*range(15, 20)]


def test_what_is_kept_changes_with_the_settings_and_back_to_what_the_owner_keeps():
    net, (eu, us) = pair("eu", "us")
    fill(net, eu, 20)
    net.run(SECOND)
    change(net, us, retention=(WEEK, 10**9))
    net.run(SECOND)
    trim(eu, eu.origin, 15)
    (alias, held), *_ = [(a, s) for a, s in us.disk.state.streams.items() if s.topic.name == TOPIC]
    assert (held.topic.retention_ns, held.topic.retention_bytes) == (WEEK, 10**9)
    assert kept(eu, us) == [*range(20)]
    change(net, us, retention=None)
    net.run(SECOND)
    assert kept(eu, us) == [*range(15, 20)]
    held = us.disk.state.streams[alias]
    assert (held.topic.retention_ns, held.topic.retention_bytes) == (0, 0)


def test_it_changes_while_the_other_site_is_away_too():
    net, (eu, us) = pair("eu", "us")
    fill(net, eu, 20)
    net.run(SECOND)
    net.kill(eu)
    net.run(5 * SECOND)
    change(net, us, retention=(WEEK, 0))
    net.run(SECOND)
    streams = us.disk.state.streams.values()
    assert [s.topic.retention_ns for s in streams if s.topic.name == TOPIC] == [WEEK]
    again(us)  # with the same settings: nothing is said anew
    said = [e for c in us.disk.commits for e in c.topics if e.name == TOPIC]
    assert len(said) == 2


def test_a_mirror_whose_link_is_taken_out_stays_as_it_is():
    net, (eu, us) = pair("eu", "us", retention=(WEEK, 0))
    fill(net, eu, 20)
    net.run(SECOND)
    net.links_of[us] = ()
    us.node.site.set_links((), net.now_ns)
    us.end_turn()
    net.run(SECOND)
    streams = us.disk.state.streams.values()
    assert [s.topic.retention_ns for s in streams if s.topic.name == TOPIC] == [0]


def test_journals_and_queues_go_by_their_owner():
    net, sites = far_sites("eu", "us", topics=(">",))
    (eu,), (us,) = sites["eu"], sites["us"]
    change(net, us, retention=(WEEK, 1000))
    filled(net, eu, kind="queue", topic="thumbs", group="thumbs")
    filled(net, eu)
    net.run(2 * SECOND)
    bounds = {s.topic.name: s.topic.retention_ns for s in us.disk.state.streams.values()
              if s.topic.origin == eu.origin}  # fmt: skip
    assert bounds.pop("orders.us") == WEEK
    assert {name[:4] for name in bounds} == {"$jou", "thum"}
    assert set(bounds.values()) == {0}
    (queue,) = [name for name in bounds if name == "thumbs"]
    trim(eu, eu.origin, 2, queue)
    net.run(SECOND)
    (stream,) = [s for s in us.disk.state.streams.values()
                 if s.topic.name == queue and s.topic.origin == eu.origin]  # fmt: skip
    assert stream.first_offset == 2


def test_a_new_mirror_does_not_begin_with_what_is_older_than_is_kept():
    net, (eu, us) = pair("eu", "us", retention=(5 * SECOND, 0))
    net.kill(us)
    fill(net, eu, 10)
    net.run(20 * SECOND)
    fill(net, eu, 10, first=10)
    begin(us)
    net.run(2 * SECOND)
    assert kept(eu, us) == [*range(10, 20)]
    assert mirror_of(eu, us).received == 10
    assert not mirror_of(eu, us).holes


# -- sources that have less ------------------------------------------------------------------------


def chain():
    """eu, us and asia in a row; us has kept the last 5 of 20 records of eu, and asia is down."""
    net, (eu, us, asia) = pair("eu", "us", "asia")
    net.kill(asia)
    change(net, us, retention=(0, 1000))
    fill(net, eu, 20)
    net.run(SECOND)
    trim(us, eu.origin, 15)
    return net, eu, us, asia


def test_a_mirror_that_may_have_less_is_no_source_for_others_which_go_to_the_log_itself():
    net, eu, _, asia = chain()
    begin(asia)
    net.run(5 * SECOND)
    assert eu.origin not in asia.node.site.copies.mirrors.by_origin
    name = f"eu/{eu.name}"
    assert links_of(asia)[0]["not_pulled"] == [{"name": name, "lacks": "some"}]
    assert told(asia) == [("not-pulled", f"{name} from us", "warning")]
    net.links_of[asia] = (*net.links_of[asia], LinkWish("eu", (eu.address,), (">",)))
    again(asia)
    assert kept(eu, asia) == [*range(20)]
    assert not mirror_of(eu, asia).topics.is_partial
    assert links_of(asia)[0]["not_pulled"] == told(asia) == []
    net.cut(eu, asia)
    fill(net, eu, 5, first=20)
    net.run(10 * SECOND)
    assert kept(eu, asia) == [*range(20)]
    net.heal()
    net.run(10 * SECOND)
    assert kept(eu, asia) == [*range(25)]


def test_what_others_have_from_a_mirror_ends_when_that_is_kept_by_its_sites_own_word():
    net, (eu, us, asia) = pair("eu", "us", "asia")
    fill(net, eu, 20)
    net.run(3 * SECOND)
    assert kept(eu, asia) == [*range(20)]
    change(net, us, retention=(0, 1000))
    net.run(SECOND)
    trim(us, eu.origin, 15)
    net.run(5 * SECOND)
    assert kept(eu, asia) == [*range(20)]
    assert not mirror_of(eu, asia).number
    assert told(asia) == [("not-pulled", f"eu/{eu.name} from us", "warning")]


def test_a_new_node_of_the_site_has_what_the_site_kept_longer():
    net, (eu, us) = pair("eu", "us", retention=(WEEK, 0))
    fill(net, eu, 20)
    net.run(SECOND)
    trim(eu, eu.origin, 15)
    other = net.add(site="us")
    net.links_of[other] = net.links_of[us]
    begin(other, [us.address])
    net.run(20 * SECOND)
    fill(net, eu, 5, first=20)
    net.run(5 * SECOND)
    for node in (us, other):
        assert kept(eu, node) == [*range(25)]


@pytest.mark.parametrize("retention", [(WEEK, 0), EVER])
def test_of_two_nodes_that_began_without_each_other_that_keeps_it_which_has_more(retention):
    net, (eu, us) = pair("eu", "us", retention=retention)
    fill(net, eu, 20)
    net.run(SECOND)
    net.kill(us)
    trim(eu, eu.origin, 15)
    others = [net.add(site="us") for _ in range(3)]  # one of them comes first by its hash
    for other in others:
        net.links_of[other] = net.links_of[us]
        begin(other, [us.address])
    net.run(20 * SECOND)
    begin(us)
    net.run(30 * SECOND)
    fill(net, eu, 5, first=20)
    net.run(5 * SECOND)
    for node in (us, *others):
        assert kept(eu, node) == [*range(25)]


@pytest.mark.parametrize("wish", [{}, {"retention": (WEEK, 0)}, {"since_ns": WALL}])
def test_a_receipt_is_told_when_the_word_of_it_was_lost_with_the_link(wish):
    net, (eu, us) = pair("eu", "us", **wish)
    fill(net, eu, 5)
    net.run(SECOND)
    net.cut(us, eu, one_way=True)
    program = Program(net, eu)
    program.publish(TOPIC, b"x", mirrors=1)
    net.run(SECOND)
    assert mirror_of(eu, us).topics.by_source[1][0].synced_offset == 6
    net.run(20 * SECOND)
    net.heal()
    assert net.run(20 * SECOND, lambda: "mirrored:1" in levels(program))


def test_topics_of_sites_behind_that_the_one_between_does_not_pull_are_shown_and_no_problem():
    net, (eu, us, asia) = pair("eu", "us", "asia")
    change(net, asia, topics=("other.>",))
    change(net, us, topics=("orders.>",))
    net.run(5 * SECOND)
    assert links_of(asia)[0]["not_pulled"] == [{"name": f"eu/{eu.name}", "lacks": "topics"}]
    assert told(asia) == []
