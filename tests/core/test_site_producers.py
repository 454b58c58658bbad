"""Producers with names on a site: numbers of one run at another node than an earlier one's."""

from __future__ import annotations

import json

import pytest

from meshmq import limits, names
from meshmq.core.directory import Directory
from meshmq.core.lanes import DONE, FAILED
from meshmq.errors import InvalidArgument
from meshmq.frames_moving import moved_of
from meshmq.limits import DAY, MS, SECOND
from tests.core.helpers import decode
from tests.core.movers import Mover, joined, kill, moving_site
from tests.core.sites import site_of

NAMED = names.producer_of("plant", "import")
T = "orders.eu"


def run(net, at, name, *, producer=NAMED, **more):
    """One run of the program, at a node."""
    mover = Mover(net, at.client_address, name=name, producer=producer, **more)
    assert net.run(5 * SECOND, lambda: mover.is_connected)
    net.run(50 * MS)
    return mover


def settled(net, *batches):
    return net.run(5 * SECOND, lambda: all(batch.state for batch in batches))


def stored(*nodes):
    """(value, node) of all records in the nodes' own logs."""
    found = []
    for node in nodes:
        state = node.disk.state
        for commit in node.disk.commits:
            for index, batch in enumerate(commit.batches):
                is_own = all(c.index != index for c in commit.copied)
                if is_own and state.streams[batch.stream].topic.name == T:
                    found += [(value, node.name) for value in decode(batch.payload)]
    return found


def publish_all(net, mover, values):
    batches = [mover.publish(T, value) for value in values]
    assert settled(net, *batches)
    assert [b.state for b in batches] == [DONE] * len(batches)


def moves(net, mover, dies, to):
    kill(net, dies)
    assert net.run(5 * SECOND, lambda: mover.is_connected and mover.client.node_name == to.name)
    net.run(50 * MS)


# -- ids ----------------------------------------------------------------------------------------


def test_runs_of_a_name_have_ids_of_their_own():
    a, b = (names.run_of(NAMED, x * 16) for x in (b"a", b"b"))
    assert len({NAMED, a, b}) == 3
    assert {len(x) for x in (NAMED, a, b)} == {16}
    assert all(names.is_named(x) and names.has_name_of(x, NAMED) for x in (NAMED, a, b))
    other = names.producer_of("plant", "export")
    assert not names.has_name_of(other, NAMED)
    assert other != names.producer_of("other", "export")
    assert not names.is_named(b"p" * 16)
    assert names.has_name_of(b"p" * 16, b"p" * 16)
    assert not names.has_name_of(b"p" * 15 + b"q", b"p" * 16)


# -- numbers that are given automatically ---------------------------------------------------------


def test_a_later_run_s_records_are_not_taken_for_repeats_where_an_earlier_one_got_further():
    net, (a, b, _) = moving_site(3)
    first = run(net, a, "run-1")
    first.learn(T, by_program=False)
    publish_all(net, first, [b"old-%d" % i for i in range(20)])
    first.die()
    net.cut(a, b)  # what a has b does not hear
    second = Mover(net, b.client_address, a.client_address, name="run-2", producer=NAMED)
    net.run(5 * SECOND)
    code, known = second.learn(T, by_program=False)
    assert (code, known["last"]) == ("", 0)
    publish_all(net, second, [b"new-%d" % i for i in range(3)])
    net.heal()
    assert net.run(10 * SECOND, lambda: joined(net))
    kill(net, b)
    assert net.run(9 * SECOND, lambda: second.is_connected and second.client.origin == a.origin)
    publish_all(net, second, [b"new-%d" % i for i in range(3, 9)])
    values = [value for value, _ in stored(a, b)]
    assert sorted(values) == sorted(
        [b"old-%d" % i for i in range(20)] + [b"new-%d" % i for i in range(9)]
    )


def test_a_run_goes_on_with_the_numbers_of_the_site_as_far_as_they_are_known():
    net, (a, b) = moving_site(2)
    first = run(net, a, "run-1")
    first.learn(T, by_program=False)
    publish_all(net, first, [b"%d" % i for i in range(5)])
    second = run(net, b, "run-2")
    assert second.learn(T, by_program=False)[1]["last"] == 5
    (batch,) = [second.publish(T, b"next")]
    assert settled(net, batch)
    assert batch.first == 6
    assert second.learn(T, by_program=False)[1] == {
        "last": 6, "said": 0, "topic_id": ""
    }  # fmt: skip


def test_two_runs_at_once_do_not_take_each_other_s_records():
    """Nobody is told of the other run at another node, and nothing is lost."""
    net, (a, b, _) = moving_site(3)
    one, two = run(net, a, "run-1"), run(net, b, "run-2")
    for mover in (one, two):
        mover.learn(T, by_program=False)
    publish_all(net, one, [b"one-%d" % i for i in range(4)])
    publish_all(net, two, [b"two-%d" % i for i in range(6)])
    assert len(stored(a, b)) == 10
    assert one.is_connected


def test_what_a_run_said_and_was_not_told_of_is_one_record_at_its_node_after_a_restart_of_that():
    net, (a, b) = moving_site(2)
    mover = run(net, a, "run-1", stays=True)
    mover.learn(T, by_program=False)
    publish_all(net, mover, [b"0"])
    send = net.send
    net.send = lambda node, link, envelope: None if link in net.programs else send(
        node, link, envelope)  # fmt: skip
    batch = mover.publish(T, b"1")
    net.run(20 * MS)
    net.send = send
    kill(net, a)
    a.start([b.address])
    assert net.run(10 * SECOND, lambda: batch.state == DONE)
    assert batch.duplicate
    assert [v for v, _ in stored(a)] == [b"0", b"1"]


def test_producers_without_a_name_ask_nobody():
    net, (a, b) = moving_site(2)
    mover = run(net, a, "anybody", producer=None)
    publish_all(net, mover, [b"%d" % i for i in range(5)])
    moves(net, mover, a, b)
    publish_all(net, mover, [b"5"])
    assert b.node.site.producers.asked == 0
    assert len(stored(a, b)) == 6


# -- numbers that the program gives ---------------------------------------------------------------


def said(net, mover, *numbers):
    """Say these; whether each was a repeat."""
    places = []
    for n in numbers:
        batch = mover.say(T, n)
        places.append((batch, sum(b is batch for b, _ in places)))
    batches = [batch for batch, _ in places]
    assert settled(net, *batches)
    assert [b.state for b in batches] == [DONE] * len(batches), [b.error for b in batches]
    return [batch.duplicate or index < batch.skipped for batch, index in places]


def test_a_number_is_stored_once_wherever_it_is_said_again():
    net, (a, b, c) = moving_site(3)
    first = run(net, a, "run-1")
    assert first.learn(T)[1] == {"last": 0, "said": 0, "topic_id": ""}
    assert said(net, first, *range(1, 11)) == [False] * 10
    first.die()
    second = run(net, b, "run-2")
    code, known = second.learn(T)
    assert (code, known["last"], known["said"]) == ("", 10, 10)
    assert said(net, second, 1, *range(8, 13)) == [True] * 4 + [False] * 2
    second.die()
    third = run(net, c, "run-3")
    assert third.learn(T)[1]["said"] == 12
    assert said(net, third, 5, 12, 13) == [True, True, False]
    assert sorted(stored(a, b, c)) == sorted(
        (b"%d" % n, (a if n < 11 else b if n < 13 else c).name) for n in range(1, 14)
    )


def test_what_is_known_moves_with_the_program():
    """Its node is dead, and nobody else has to be asked."""
    net, (a, b) = moving_site(2)
    mover = run(net, a, "run-1")
    mover.learn(T)
    said(net, mover, *range(1, 11))
    moves(net, mover, a, b)
    assert said(net, mover, 3, 9, 10, 11, 12) == [True] * 3 + [False] * 2
    a.start([b.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    moves(net, mover, b, a)
    assert said(net, mover, 11, 12, 13) == [True, True, False]
    assert sorted(int(v) for v, _ in stored(a, b)) == list(range(1, 14))


def test_what_was_unconfirmed_names_its_first_node_and_the_numbers_go_on():
    net, (a, b) = moving_site(2)
    mover = run(net, a, "run-1")
    mover.learn(T)
    said(net, mover, 1, 2)
    send = net.send
    net.send = lambda node, link, envelope: None if link in net.programs else send(
        node, link, envelope)  # fmt: skip
    batches = [mover.say(T, n) for n in (3, 4)]
    net.run(20 * MS)
    net.send = send
    moves(net, mover, a, b)
    assert settled(net, *batches)
    assert said(net, mover, 4, 5) == [True, False]
    moved = [
        (batch.first, moved_of(batch.moved))
        for commit in b.disk.commits
        for batch in commit.batches
        if batch.moved
    ]
    assert [(first, m.origin, m.first) for first, m in moved] == [
        (3, a.origin, 3), (4, a.origin, 4)
    ]  # fmt: skip


def test_what_was_refused_comes_first_at_the_next_node_too():
    net, (a, b) = moving_site(2)
    mover = run(net, a, "run-1")
    mover.learn(T)
    said(net, mover, 1, 2)
    a.node.admission.on_measured(0, 1 << 30)
    refused = [mover.say(T, n) for n in (3, 4)]
    assert settled(net, *refused)
    assert [r.error.code for r in refused] == ["storage-full", "storage-full"]
    moves(net, mover, a, b)
    late = mover.say(T, 5)
    assert settled(net, late)
    assert late.state == FAILED
    assert late.error.code == "sequence-gap"
    assert said(net, mover, 3, 4, 5) == [False] * 3


def test_a_node_that_is_away_may_know_more_and_is_named():
    net, (a, b, c) = moving_site(3)
    first = run(net, a, "run-1")
    first.learn(T)
    said(net, first, 1, 2, 3)
    first.die()
    kill(net, a)
    second = run(net, b, "run-2")
    code, known = second.learn(T)
    assert code == "owner-away"
    assert a.name in known["message"]
    assert second.learn(T, by_program=False)[0] == ""  # that has numbers of its own
    kill(net, b)
    b.start([c.address])  # has not seen it in this life
    second.die()
    assert net.run(5 * SECOND, lambda: joined(net))
    third = run(net, b, "run-3")
    assert third.learn(T)[0] == "owner-away"
    empty = net.add()
    empty.start([c.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    fourth = run(net, empty, "run-4")
    assert fourth.learn(T)[0] == "owner-away"
    net.at(500 * MS, lambda: a.start([b.address]))
    assert fourth.learn(T)[1]["said"] == 3  # it is waited for a moment
    assert said(net, fourth, 3, 4) == [True, False]


def test_a_node_that_was_away_for_as_long_as_producers_are_known_is_not_missed():
    directory = Directory(b"a" * 16, "a", {})
    directory.set_wall(100 * DAY, 0)
    directory.be_there(0)
    assert not directory.table.nodes, "it is alone"
    directory.join(b"b" * 16, 0)
    directory.be_there(0)
    other = Directory(b"b" * 16, "b", directory.table.rows)
    other.set_wall(100 * DAY, 0)
    assert other.roster(0) == {b"a" * 16: "a"}
    assert other.roster(limits.PRODUCER_FORGET_NS) == {b"a" * 16: "a"}
    assert other.roster(limits.PRODUCER_FORGET_NS + DAY) == {}
    assert directory.roster(0) == {}


def test_a_node_says_that_it_is_there_no_more_often_than_need_be():
    directory = Directory(b"a" * 16, "a", {})
    directory.set_wall(100 * DAY, 0)
    directory.join(b"b" * 16, 0)
    directory.be_there(0)
    (row,) = directory.table.nodes.values()
    directory.be_there(SECOND)
    assert directory.table.nodes[row.key] is row
    directory.be_there(limits.NODE_SAID_NS + SECOND)
    assert directory.table.nodes[row.key].set > row.set
    assert directory.describe()["deleted"] == 0


def test_an_earlier_run_at_another_node_is_ended_before_that_answers():
    net, (a, b) = moving_site(2)
    first = run(net, a, "run-1")
    first.learn(T)
    said(net, first, 1)
    second = run(net, b, "run-2")
    late = first.say(T, 2)  # on its way
    assert second.learn(T)[1]["said"] in (1, 2)
    net.run(SECOND)
    assert first.client.state == "closed"
    assert first.client.closed_error.code == "producer-fenced"
    assert late.state == FAILED or second.learn(T)[1]["said"] == 2


def test_an_earlier_run_that_comes_back_numbers_no_more():
    """It was on its way to the node when the later one asked."""
    net, (a, b, c) = moving_site(3)
    first = run(net, a, "run-1")
    first.learn(T)
    said(net, first, 1)
    kill(net, a)
    net.cuts |= {(first, node) for node in (a, b, c)}
    late = first.say(T, 2)
    a.start([b.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    second = run(net, b, "run-2")
    assert second.learn(T)[1]["said"] == 1
    assert said(net, second, 1, 2, 3) == [True, False, False]
    net.cuts.clear()
    assert net.run(9 * SECOND, lambda: first.client.state == "closed")
    assert late.error.code == "producer-fenced"
    assert sorted(value for value, _ in stored(a, b, c)) == [b"1", b"2", b"3"]
    assert second.is_connected
    assert first.client.closed_error.outcome == "unknown"


def test_a_node_remembers_others_that_it_has_not_seen_since_it_began():
    net, (a, b) = moving_site(2)
    first = run(net, a, "run-1")
    first.learn(T)
    said(net, first, 1)
    first.die()
    kill(net, a)
    kill(net, b)
    b.start([a.address])
    second = run(net, b, "run-2")
    assert second.learn(T)[0] == "owner-away"


def test_a_node_that_has_just_begun_waits_for_others_that_may_be_there():
    net, (a,) = moving_site(1)
    first = run(net, a, "run-1")
    assert first.learn(T)[1]["said"] == 0
    said(net, first, 1, 2)
    late = net.add()
    late.start([a.address])
    second = Mover(net, late.client_address, name="run-2", producer=NAMED)
    asked = second.command("producer.last", json.dumps({"topic": T}).encode())
    assert net.run(3 * SECOND, lambda: asked in second.answers)
    assert second.learned(T, True, asked)[1]["said"] == 2


def test_a_copy_answers_for_a_node_that_was_taken_over():
    net, nodes = site_of(3, copies=2)
    net.movers = []
    a = nodes[0]
    net.run(2 * SECOND)
    first = run(net, a, "run-1")
    first.learn(T)
    said(net, first, *range(1, 8))
    first.die()
    net.run(3 * SECOND)
    kill(net, a)
    holder = next(n for n in nodes[1:] if a.origin in n.node.site.copies.mirrors.by_origin)
    net.run(SECOND)
    admin = run(net, holder, "admin", producer=None)
    second = run(net, next(n for n in nodes[1:] if n is not holder), "run-2")
    assert second.learn(T)[0] == "owner-away"
    wish = json.dumps({"name": a.name, "assume_dead": True}).encode()
    number = admin.command("node.takeover", wish)
    assert net.run(5 * SECOND, lambda: number in admin.answers)
    assert admin.answers[number][0] == ""
    net.run(2 * SECOND)
    code, known = second.learn(T)
    assert (code, known.get("said")) == ("", 7)
    assert said(net, second, 7, 8) == [True, False]
    kill(net, holder)  # what the copy knows is on its disk
    holder.start([n.address for n in nodes[1:]])
    assert net.run(5 * SECOND, lambda: holder.siblings() == [second.at.name])
    assert holder.node.topics.copied(T, NAMED)[a.origin.hex()]["said"] == 7


def test_a_node_that_was_forgotten_is_not_waited_for_until_it_is_back():
    net, (a, b, c) = moving_site(3)
    first = run(net, a, "run-1")
    first.learn(T)
    said(net, first, 1, 2, 3)
    first.die()
    net.run(SECOND)
    kill(net, a)
    net.run(SECOND)
    second = run(net, b, "run-2")
    assert second.learn(T)[0] == "owner-away"
    second.die()
    admin = run(net, b, "admin", producer=None)
    number = admin.command(
        "node.forget", json.dumps({"name": a.name, "assume_dead": True}).encode()
    )
    assert net.run(5 * SECOND, lambda: number in admin.answers)
    assert admin.answers[number][0] == ""
    net.run(2 * SECOND)
    for node in (b, c):
        later = run(net, node, f"at {node.name}")
        code, known = later.learn(T)
        assert (code, known.get("said")) == ("", 0)
        later.die()
    a.start([b.address, c.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    last = run(net, c, "run-9")
    assert last.learn(T)[1]["said"] == 3


def test_a_topic_that_was_deleted_takes_its_numbers_with_it():
    net, (a, b) = moving_site(2)
    mover = run(net, a, "run-1")
    mover.learn(T)
    said(net, mover, 1, 2, 3)
    admin = run(net, b, "admin", producer=None)
    number = admin.command("topic.delete", json.dumps({"topic": T}).encode())
    assert net.run(SECOND, lambda: number in admin.answers)
    net.run(SECOND)
    moves(net, mover, a, b)
    assert said(net, mover, 1, 2) == [False, False]


def test_what_was_numbered_automatically_and_by_the_program_does_not_mix():
    net, (a, _) = moving_site(2)
    mover = run(net, a, "run-1")
    mover.learn(T, by_program=False)
    publish_all(net, mover, [b"x"])
    with pytest.raises(InvalidArgument, match="numbered automatically"):
        mover.learn(T)
    second = run(net, a, "run-2")
    assert second.learn(T)[1] == {"last": 1, "said": 0, "topic_id": ""}
    assert said(net, second, 2) == [False]  # behind what earlier runs were given
    publish_all(net, second, [b"y"])  # goes on with the program's numbers
    third = run(net, a, "run-3")
    assert third.learn(T)[1]["said"] == 3


@pytest.mark.parametrize(
    "rows", [None, 3, [[1, 2, 3]], [["a", "x", ""]], [["a", 1]], [["a.*", 1, ""]], [["a", 1, "zz"]]]
)
def test_what_is_said_of_producers_is_checked(rows):
    net, (a, _) = moving_site(2)
    mover = run(net, a, "run-1")
    number = mover.command("producer.known", json.dumps({"topics": rows}).encode())
    assert net.run(SECOND, lambda: number in mover.answers)
    assert mover.answers[number][0] == ("" if rows is None else mover.answers[number][0])
    assert (mover.answers[number][0] != "") == (rows is not None)
    assert mover.is_connected
