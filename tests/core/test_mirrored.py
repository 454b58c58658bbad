"""Receipts that wait for other sites: confirmed when so many have synced, never before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshmq.core.claims import OF_GROUPS
from meshmq.core.link_wish import LinkWish
from meshmq.core.log import RuleEntry
from meshmq.core.mirror_progress import MirrorProgress
from meshmq.durability import durability_of, mirrored, name_of, sites_of
from meshmq.errors import InvalidArgument
from meshmq.frames import Confirm, Publish
from meshmq.frames_copies import Mirrored, MirroredRow, Strand
from meshmq.limits import MS, SECOND
from tests.core.helpers import batch_of
from tests.core.sites import WALL, Net, Program, trim
from tests.core.test_copies import confirmations, values_at
from tests.core.test_replication import begin, fill, linked, read

CHAIN = {"eu": ["us"], "us": ["eu"], "asia": ["us"]}
"""us and eu pull from each other, asia from us only: that has eu's log from there."""


def publish(program, *values, sites=1, topic="orders.eu", first=None):
    program.publish(topic, *values, mirrors=sites, first=first)


def again(program):
    """The same producer, at its node's next life."""
    number = int(program.link[1:])
    kind = type("Again", (Program,), {"_numbers": iter([number])})
    return kind(program.net, program.at)


def levels(program):
    return [name_of(c.durability) for c in confirmations(program)]


def words(program):
    """What was said last of why the second confirmation does not come."""
    return [c.message for c in confirmations(program) if c.more][-1]


def test_mirrored_is_said_when_another_site_has_synced_it_and_not_before():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(SECOND)
    program = Program(net, eu)
    for i in range(20):
        publish(program, b"%d" % i)
        found = []
        while len(found) < 2:
            assert net.run(SECOND, lambda: program.find(Confirm))
            found += confirmations(program)
            assert len(found) < 2 or b"%d" % i in values_at(us)
        first, last = found
        assert (name_of(first.durability), first.more, first.base_offset) == ("synced", True, i)
        assert (name_of(last.durability), last.more, last.base_offset) == ("mirrored:1", False, i)


def test_two_nodes_of_one_site_count_once():
    net, sites = linked("eu", "us", nodes=2)
    eu = sites["eu"][0]
    program = Program(net, eu)
    publish(program, b"one")
    publish(program, b"two", sites=2)
    net.run(5 * SECOND)
    found = confirmations(program)
    assert [(c.first, name_of(c.durability)) for c in found if not c.more] == [(1, "mirrored:1")]
    assert [c.message for c in found if c.first == 2][-1] == "1 of 2 sites has it: us"


def test_it_waits_for_so_many_sites():
    net, sites = linked("eu", "us", "asia")
    eu, us, asia = (sites[site][0] for site in ("eu", "us", "asia"))
    net.run(2 * SECOND)
    program = Program(net, eu)
    net.cut(eu, asia)
    net.cut(us, asia)
    publish(program, b"x", sites=2)
    net.run(5 * SECOND)
    assert "mirrored:2" not in levels(program)
    assert b"x" in values_at(us)
    net.heal()
    assert net.run(10 * SECOND, lambda: "mirrored:2" in levels(program))
    assert b"x" in values_at(us) & values_at(asia)


def test_a_site_that_has_the_log_from_another_one_counts_too():
    net, sites = linked("eu", "us", "asia", shape=CHAIN)
    eu, us, asia = (sites[site][0] for site in ("eu", "us", "asia"))
    fill(net, eu, 3)
    net.run(5 * SECOND)
    program = Program(net, eu)
    for i in range(5):
        publish(program, b"far %d" % i, sites=2)
        assert net.run(5 * SECOND, lambda: "mirrored:2" in levels(program))
        assert b"far %d" % i in values_at(us) & values_at(asia)
    net.cut(us, asia)
    publish(program, b"cut", sites=2)
    net.run(3 * SECOND)
    assert words(program) == "1 of 2 sites has it: us; site 'asia' has not come so far"
    for node in (us, eu):
        net.kill(node)
        net.run(50 * MS)
        begin(node)
    net.heal()
    program = again(program)
    publish(program, b"cut", sites=2, first=6)
    assert net.run(20 * SECOND, lambda: "mirrored:2" in levels(program))
    assert b"cut" in values_at(asia)


def test_a_longer_chain_tells_of_all_behind():
    chain = {"b": ["a"], "c": ["b"], "d": ["c"]}
    net, sites = linked("a", "b", "c", "d", shape=chain)
    net.run(4 * SECOND)
    program = Program(net, sites["a"][0])
    publish(program, b"x", sites=3)
    assert net.run(8 * SECOND, lambda: "mirrored:3" in levels(program))
    assert all(b"x" in values_at(sites[site][0]) for site in "bcd")


def test_a_site_behind_one_that_has_all_has_all_where_it_is_as_far_with_the_same_topics():
    a, b, groups = (("o.a",), ()), (("o.b",), ()), (("o.a", "o.b"), ())

    def sender(number, claims, lsn):
        strand = Strand(number, number, 1, 0, claims)
        place = (lsn, 0)
        return SimpleNamespace(
            strand=strand,
            copied=place,
            sent=place,
            is_live=True,
            damaged_at=(0, 0),
            gap_at=(0, 0),
        )

    senders = [
        sender(0, (groups, OF_GROUPS), 9), sender(1, (a,), 53), sender(2, (b,), 52),
    ]  # fmt: skip
    frame = SimpleNamespace(origin=b"log", since=0, whole=(0, 0))
    log = SimpleNamespace(frame=frame, senders=senders, had={})
    progress = MirrorProgress("eu", lambda origin: (60, 0))
    us = SimpleNamespace(origin=b"us", site="us")
    progress.begin(us, log)
    progress.note(us, log)
    for claim, lsn, has in [
        (a, 52, False), (a, 53, True), (b, 51, False), (b, 52, True), (groups, 52, False),
        (groups, 53, True), ((("o.>",), ()), 53, False),  # more than us wishes
    ]:  # fmt: skip
        progress.hear(us, Mirrored(b"log", (MirroredRow("asia", (claim,), 1, 0, lsn, 0),)))
        topic = "o.b" if claim is b else "o.a"
        spans = progress.spans(b"log", topic)
        assert spans == {"us": [((1, 0), (60, 0))], "asia": [((1, 0), (60 if has else lsn, 0))]}
    log.had = {1: 5}  # of a topic that us had already nothing was sent, however far that goes
    progress.hear(us, Mirrored(b"log", (MirroredRow("asia", (a,), 1, 0, 53, 0),)))
    assert progress.spans(b"log", "o.a")["asia"] == [((1, 0), (53, 0))]


def test_a_site_whose_link_leaves_the_topic_out_does_not_count_and_that_is_said():
    net, sites = linked("eu", "us", exclude=("orders.tmp.>",))
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(2 * SECOND)
    program = Program(net, eu)
    publish(program, b"x", topic="orders.tmp.a")
    publish(program, b"y")
    net.run(3 * SECOND)
    assert b"x" not in values_at(us)
    found = confirmations(program)
    assert {c.topic for c in found if not c.more} == {"orders.eu"}
    assert [c.message for c in found if c.topic == "orders.tmp.a"][-1] == (
        "0 of 1 sites have it; site 'us' does not mirror topic 'orders.tmp.a' from here"
    )
    (row,) = eu.node.site.describe(net.now_ns)["copies"]["waiting_for_sites"]
    assert (row["topic"], row["sites"], row["batches"]) == ("orders.tmp.a", 1, 1)


def from_a_time(in_ns):
    """us mirrors what eu stores so long after it has begun, or later: (network, eu, us)."""
    net, sites = linked("eu", "us", shape={"us": ["eu"]})
    (eu,), (us,) = sites["eu"], sites["us"]
    wishes = tuple([w._replace(since_ns=WALL + net.now_ns + in_ns) for w in net.links_of[us]])
    net.links_of[us] = wishes
    us.node.site.set_links(wishes, net.now_ns)
    net.run(SECOND)
    return net, eu, us


def test_a_site_does_not_count_for_what_is_older_than_its_mirror_is_to_be():
    net, eu, us = from_a_time(20 * SECOND)
    fill(net, eu, 5)
    net.run(2 * SECOND)
    net.cut(us, eu)
    net.run(5 * SECOND)
    net.heal()  # it goes on behind what was passed over
    net.run(2 * SECOND)
    program = Program(net, eu)
    publish(program, b"old")
    net.run(12 * SECOND)
    publish(program, b"new")
    net.run(2 * SECOND)
    assert read(net, us) == [(eu.origin, "orders.eu", 6, b"new")]
    found = [(c.first, name_of(c.durability)) for c in confirmations(program)]
    assert (2, "mirrored:1") in found
    assert (1, "mirrored:1") not in found


def test_such_a_site_does_not_count_for_what_is_sent_again_as_that_may_be_older():
    net, eu, us = from_a_time(2 * SECOND)
    program = Program(net, eu)
    publish(program, b"old")
    net.run(3 * SECOND)
    fill(net, eu, 1)
    net.run(SECOND)
    program.take(Confirm)
    publish(program, b"old", first=1)
    net.run(3 * SECOND)
    assert set(levels(program)) == {"synced"}
    assert read(net, us) == [(eu.origin, "orders.eu", 1, b"0")]


def test_what_a_site_with_such_a_mirror_has_counts_after_a_cut_too():
    net, eu, us = from_a_time(0)
    program = Program(net, eu)
    publish(program, b"1")
    net.run(SECOND)
    net.cut(us, eu, one_way=True)
    publish(program, b"2")
    net.run(8 * SECOND)
    assert {b"1", b"2"} <= set(values_at(us))
    assert levels(program).count("mirrored:1") == 1
    net.heal()
    net.run(8 * SECOND)
    assert levels(program) == ["mirrored:1"]


def test_a_topic_that_was_not_wished_when_it_was_published_is_not_confirmed_when_it_is():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(2 * SECOND)
    program = Program(net, eu)
    publish(program, b"before", topic="audit.a")
    net.run(3 * SECOND)
    program.take(Confirm)
    wish = LinkWish("eu", (eu.address,), ("orders.>", "audit.>"))
    us.node.site.set_links((wish,), net.now_ns)
    net.run(3 * SECOND)
    publish(program, b"after", topic="audit.a")
    net.run(3 * SECOND)
    there = values_at(us)
    done = {c.first for c in confirmations(program) if not c.more}
    assert done == {n for n, v in ((1, b"before"), (2, b"after")) if v in there}
    assert b"after" in there


@pytest.mark.parametrize("goes", ["trimmed", "deleted"])
def test_what_is_gone_before_it_was_elsewhere_is_told_and_never_confirmed(goes):
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(SECOND)
    net.cut(eu, us)
    net.run(20 * SECOND)
    program = Program(net, eu)
    for i in range(10):
        publish(program, b"%d" % i)
    net.run(SECOND)
    if goes == "trimmed":
        trim(eu, eu.origin, 5)
    else:
        entries = []
        eu.node.topics.delete("orders.eu", entries)
        eu.node._entries += entries
        eu.end_turn()
        net.run(SECOND)
    told = [c for c in confirmations(program) if not c.more]
    net.heal()
    net.run(20 * SECOND)
    told += [c for c in confirmations(program) if not c.more]
    gone = {c.first for c in told if c.code == "durability-timeout"}
    assert gone == set(range(1, 6 if goes == "trimmed" else 11))
    assert all("gone at its own node" in c.message for c in told if c.code)
    found = {name_of(c.durability): (c.first, c.count) for c in told if not c.code}
    assert found == ({"mirrored:1": (6, 5)} if goes == "trimmed" else {})
    assert eu.node.site.copies.waiting.count == 0
    if goes == "trimmed":  # what is sent again is gone, too
        publish(program, b"0", first=1)
        net.run(SECOND)
        assert [c.code for c in confirmations(program) if not c.more] == ["durability-timeout"]


def test_what_is_sent_again_is_confirmed_when_a_site_has_all_there_is():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(2 * SECOND)
    program = Program(net, eu)
    publish(program, b"x")
    net.run(SECOND)
    assert levels(program) == ["synced", "mirrored:1"]
    fill(net, eu, 2, "not.wished")
    for _ in range(2):
        publish(program, b"x", first=1)
        net.run(2 * SECOND)
        assert "mirrored:1" in levels(program)
        net.kill(us)
        net.kill(eu)
        net.run(50 * MS)
        begin(us)
        begin(eu)
        program = again(program)


def test_a_site_that_is_pulled_from_and_does_not_pull_does_not_count():
    net, sites = linked("eu", "us", shape={"eu": ["us"]})
    (eu,) = sites["eu"]
    program = Program(net, eu)
    publish(program, b"x")
    net.run(3 * SECOND)
    assert words(program).startswith("0 of 1 sites have it; site 'us' does not mirror topic")


def test_after_a_restart_a_repeat_waits_for_the_whole_of_the_last_commit():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 1)
    net.run(2 * SECOND)
    program = Program(net, eu)
    net.cut(eu, us)
    rows = [batch_of("orders.eu", n, b"%d" % n) for n in (1, 2, 3)]  # one commit
    frame = Publish(
        tuple([row._replace(mirrors=1) for row, _ in rows]), b"".join([data for _, data in rows])
    )
    program.send(frame)
    net.run(SECOND)
    net.kill(eu)
    net.run(50 * MS)
    begin(eu)
    net.run(SECOND)
    program = again(program)
    publish(program, b"3", first=3)
    net.run(SECOND)
    place = eu.node.streams._last_place
    assert place > (eu.disk.commits[-1].lsn, len(eu.disk.commits[-1].batches) - 1)
    net.heal()
    assert net.run(10 * SECOND, lambda: "mirrored:1" in levels(program))
    assert b"3" in values_at(us)


def test_who_is_of_no_site_or_asks_it_of_a_transient_topic_is_refused():
    net, sites = linked("eu", "us")
    (eu,) = sites["eu"]
    eu.node.topics.create("fast", [], RuleEntry("fast", False, 0, 0), told=False)
    program = Program(net, eu)
    publish(program, b"x", topic="fast")
    net.run(SECOND)
    (refusal,) = confirmations(program)
    assert refusal.code == "durability-unavailable"
    assert refusal.message == "topic 'fast' is transient: no site mirrors it"
    net = Net(0)
    alone = net.add()
    alone.start_alone()
    program = Program(net, alone)
    publish(program, b"x")
    net.run(SECOND)
    (refusal,) = confirmations(program)
    assert refusal.code == "durability-unavailable"
    assert refusal.message.startswith("the node belongs to no site")


@pytest.mark.parametrize("said", ["0", "x", "17", "", "-1", "1.5", "٣"])
def test_a_bad_number_of_sites_is_one_sentence(said):
    with pytest.raises(InvalidArgument, match=r"how many other sites are waited for, 1 to 16"):
        durability_of(f"mirrored:{said}")


@pytest.mark.parametrize("name", ["", "Synced", "mirrored", None, 3])
def test_another_word_is_told_what_there_is(name):
    with pytest.raises(InvalidArgument, match="'replicated' or 'mirrored:N', not"):
        durability_of(name)


def test_names_and_numbers_are_each_others_inverse():
    for number in range(mirrored(16) + 1):
        assert durability_of(name_of(number)) == number
    assert [sites_of(n) for n in (0, 2, 3, 18)] == [0, 0, 1, 16]
