"""A node hands out, and takes words back: groups and queues frame by frame."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.journal import Delta
from meshmq.frames import BACKOFF, NACK, Consume, Consumed, HandOut, Holding, Settled, SettleRow
from meshmq.limits import MS, SECOND
from meshmq.names import JobId, topic_key
from tests.core.groups import GroupBench
from tests.core.helpers import LINK, ORIGIN, OTHER_LINK
from tests.core.nodes import WALL, hello


@pytest.fixture
def bench():
    bench = GroupBench()
    bench.join()
    return bench


def wall_ms(bench, seconds=0.0):
    return (WALL + bench.now_ns) // MS + int(seconds * 1000)


def others(bench):
    bench.join(OTHER_LINK, instance=b"j" * 16)


# -- joining and handing out -----------------------------------------------------------------------


def test_a_group_gets_what_its_pattern_matches_and_begins_where_it_is_asked_to(bench):
    bench.put("orders.eu", b"1", b"2")
    bench.put("other", b"x")
    assert bench.consume("all", "orders.>").code == ""
    assert bench.values() == [b"1", b"2"]
    bench.consume("new", "orders.>", number=2, start="new")
    bench.put("orders.us", b"3")
    got = bench.take(LINK, HandOut)
    assert [(frame.consumer, frame.rows[0].topic) for frame in got] == [
        (1, "orders.us"), (2, "orders.us"),
    ]  # fmt: skip


def test_nothing_is_handed_out_before_it_is_synced_nor_before_the_join_is(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", sync=False)
    assert bench.values() == []
    bench.sync()
    assert bench.values() == [b"1"]


def test_a_member_never_holds_more_than_its_prefetch(bench):
    bench.put("a", *[b"%d" % i for i in range(10)])
    bench.consume("g", "a", prefetch=4)
    first = bench.got()
    assert [v for v, *_ in first] == [b"0", b"1", b"2", b"3"]
    bench.ack(first[0], first[1])
    assert bench.values() == [b"4", b"5"]
    assert bench.show("g")["in_flight"] == 4


def test_prefetch_counts_bytes_too_and_lets_a_large_record_through_alone(bench):
    bench.put("a", *[bytes(1000)] * 4)
    bench.consume("g", "a", size=100)
    got = bench.got()
    assert len(got) == 1
    bench.ack(*got)
    assert len(bench.got()) == 1


def test_members_share_and_nobody_gets_what_another_has(bench):
    others(bench)
    bench.consume("g", "a", prefetch=5)
    bench.consume("g", "a", prefetch=5, link=OTHER_LINK)
    bench.put("a", *[b"%d" % i for i in range(8)])
    mine, theirs = bench.values(), bench.values(OTHER_LINK)
    assert sorted(mine + theirs) == [b"%d" % i for i in range(8)]
    assert mine
    assert theirs


def test_a_group_has_one_pattern_one_order_and_one_kind(bench):
    assert bench.consume("g", "a.>").code == ""
    assert bench.consume("g", "b.>").code == "group-mismatch"
    assert bench.consume("g", "a.>", order="key").code == "group-mismatch"
    assert bench.consume("g", kind="queue").code == "group-mismatch"


# -- settling --------------------------------------------------------------------------------------


def test_an_ack_is_answered_when_it_is_synced(bench):
    bench.consume("g", "a")
    bench.put("a", b"1")
    (item,) = bench.got()
    bench.ack(item, sync=False)
    assert bench.take(LINK, Settled) == []
    bench.settle_down()
    assert bench.take(LINK, Settled) == [Settled(1, 1)]
    bench.crash()
    bench.join()
    bench.consume("g", "a")
    bench.wait(2 * SECOND)
    assert bench.values() == []


def test_the_ack_and_what_it_is_about_are_one_commit(bench):
    """Acks, and whatever else a turn brings, go into one journal record of one commit."""
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    bench.ack(*bench.got())
    commit = bench.disk.commits[-1]
    (delta,) = [record for record in commit.journal if isinstance(record, Delta)]
    stream = bench.node.topics.by_name["a"].entry.stream
    assert delta.settled == ((stream, 0, 2),)


def test_a_word_about_a_record_that_is_no_longer_ones_own_is_refused(bench):
    bench.consume("g", "a")
    bench.put("a", b"1")
    (item,) = bench.got()
    bench.ack(item)
    answer = bench.ack(item)
    assert [(row.number, row.first, row.count) for row in answer.stale] == [(item[1], 0, 1)]
    assert "settled" in answer.stale[0].reason
    assert bench.show("g")["acked"] == 1


def test_an_ack_of_anothers_hand_out_is_refused(bench):
    others(bench)
    bench.put("a", b"1")
    bench.consume("g", "a")
    (item,) = bench.got()
    bench.consume("g", "a", link=OTHER_LINK)
    answer = bench.ack(item, link=OTHER_LINK)
    assert "another consumer" in answer.stale[0].reason


def test_a_nacked_record_comes_again_when_its_delay_is_over(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    first, second = bench.got()
    bench.nack(first, delay_s=1.0, reason="not now")
    bench.ack(second)
    assert bench.show("g")["retrying"] == 1
    bench.wait(SECOND - 2 * MS)
    assert bench.values() == []
    bench.wait(3 * MS)
    ((value, _, _, row),) = bench.got()
    assert (value, row.attempt, row.maybe_duplicate) == (b"1", 2, False)


def test_back_off_doubles_within_its_bounds(bench):
    bench.consume("g", "a", backoff_ns=SECOND, backoff_max_ns=3 * SECOND, max_deliveries=10)
    bench.put("a", b"1")
    waits = []
    for _ in range(4):
        (item,) = bench.got()
        bench.settle(SettleRow(item[1], item[2], 1, NACK, BACKOFF))
        mark = next(iter(bench.node.groups.by_name["g"].state.marks.values()))
        waits.append((mark.due_ms - wall_ms(bench)) / 1000)
        bench.wait(int(waits[-1] * SECOND) + 2 * MS)
    assert all(0.8 * w <= waited <= 1.2 * w for w, waited in zip((1, 2, 3, 3), waits, strict=True))


def test_too_many_failures_or_a_reject_end_in_the_dead_letters(bench):
    bench.consume("g", "a", max_deliveries=2)
    bench.put("a", b"poison", b"fine", b"bad")
    poison, fine, bad = bench.got()
    bench.ack(fine)
    bench.reject(bad, "will not do")
    bench.nack(poison, reason="boom")
    (again,) = bench.got()
    bench.nack(again, reason="boom again")
    bench.wait(SECOND)
    shown = bench.show("g")
    assert (shown["dead"], shown["records"], shown["retrying"]) == (2, 0, 0)
    dead = bench.done("dlq.show", group="g")
    assert (dead["records"], dead["ranges"]) == (2, [[0, 2]])
    moves = [c for c in bench.disk.commits if any(r.unmarked for r in c.journal)]
    dlq = bench.node.topics.by_name["$dlq.g"].entry.stream
    for commit in moves:  # the copy and the original's end are one commit
        assert sum(b.count for b in commit.batches if b.stream == dlq) == sum(
            len(record.unmarked) for record in commit.journal
        )


def test_a_dead_letter_that_is_put_back_goes_to_its_group_only(bench):
    bench.consume("g", "a")
    bench.consume("h", "a", number=2)
    bench.put("a", b"1")
    mine = next(item for item in bench.got() if item[3].number)
    bench.reject(mine, "no")
    bench.wait(SECOND)
    assert bench.done("dlq.replay", group="g")["replaying"] == 1
    bench.wait(SECOND)
    frames = bench.take(LINK, HandOut)
    assert [(f.consumer, f.rows[0].topic) for f in frames] == [(1, "$retry.g")]
    assert bench.done("dlq.show", group="g")["records"] == 0


# -- time and lost members -------------------------------------------------------------------------


def test_what_is_not_settled_in_time_goes_to_others_and_is_told(bench):
    others(bench)
    bench.consume("g", "a", timeout_s=5)
    bench.put("a", b"1")
    (item,) = bench.got()
    bench.consume("g", "a", link=OTHER_LINK)
    bench.wait(5 * SECOND - MS)
    assert bench.values(OTHER_LINK) == []
    bench.wait(2 * MS)
    got = bench.got() + bench.got(OTHER_LINK)
    assert [(v, row.attempt, row.maybe_duplicate) for v, _, _, row in got] == [(b"1", 2, True)]
    assert bench.revoked() == [(item[1], 0, 1)]
    assert bench.ack(item).stale


@pytest.mark.parametrize("records", [1, 2])
def test_extended_records_have_longer(bench, records):
    bench.consume("g", "a", timeout_s=5)
    bench.put("a", *[b"%d" % i for i in range(records)])
    item = bench.got()[0]
    bench.wait(4 * SECOND)
    bench.extend(item, 5)
    bench.wait(2 * SECOND)
    assert (item[1], 0, records) not in bench.revoked()
    assert not bench.ack(item).stale


def test_a_lost_session_waits_for_its_member_and_then_counts_its_oldest_record(bench):
    others(bench)
    bench.consume("g", "a")
    bench.put("a", b"1", b"2", b"3")
    bench.got()
    bench.consume("g", "a", link=OTHER_LINK)
    bench.lose()
    bench.wait(limits.ORPHANED_NS - MS)
    assert bench.values(OTHER_LINK) == []
    bench.wait(2 * MS)
    got = {v: row for v, _, _, row in bench.got(OTHER_LINK)}
    assert {v: row.attempt for v, row in got.items()} == {b"1": 2, b"2": 1, b"3": 1}
    assert all(row.maybe_duplicate for row in got.values())


def test_a_lost_session_counts_one_record_of_all_its_hand_outs(bench):
    others(bench)
    bench.consume("g", "a")
    for value in (b"1", b"2", b"3"):  # three batches, so three hand-outs
        bench.put("a", value)
    bench.got()
    bench.consume("g", "a", link=OTHER_LINK)
    bench.lose()
    bench.wait(limits.ORPHANED_NS + MS)
    got = {v: row.attempt for v, _, _, row in bench.got(OTHER_LINK)}
    assert got == {b"1": 2, b"2": 1, b"3": 1}


def test_a_member_that_comes_back_goes_on_with_what_it_holds(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2", b"3")
    items = bench.got()
    bench.ack(items[0])
    bench.lose()
    bench.join()
    number = items[0][1]
    answer = bench.consume("g", "a", holdings=(Holding(number, "a", (0, 1, 2), 1),))
    assert answer.lost == ()  # the first was acked by this very member
    assert bench.values() == []
    assert bench.ack((b"1", number, 0, None)).stale == ()  # said again, its answer was lost
    assert bench.ack((b"2", number, 1, None), (b"3", number, 2, None)).stale == ()
    assert bench.show("g")["records"] == 0


def test_a_member_that_comes_back_to_a_restarted_node_goes_on_too(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    items = bench.got()
    bench.crash()
    bench.join()
    number = items[0][1]
    answer = bench.consume("g", "a", holdings=(Holding(number, "a", (0, 1), 1),))
    assert answer.lost == ()
    bench.wait(3 * SECOND)
    assert bench.values() == []
    assert bench.ack((b"1", number, 0, None), (b"2", number, 1, None)).stale == ()
    assert bench.show("g")["records"] == 0


def test_a_member_may_come_back_in_the_first_turn_of_a_restarted_node(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    number = bench.got()[0][1]
    bench.crash()
    claim = Consume(1, "g", "a", b"", 100, 1 << 20, 30 * SECOND, (Holding(number, "a", (0, 1), 1),))
    bench.turn(hello(), claim)
    bench.settle_down()
    (answer,) = bench.take(LINK, Consumed)
    assert answer.lost == ()
    assert bench.ack((b"1", number, 0, None), (b"2", number, 1, None)).stale == ()


def test_what_is_claimed_before_it_is_read_and_given_back_is_not_handed_out_twice(bench):
    bench.consume("g", "a", size=1 << 24)
    batch = bytes(limits.GROUP_READY_BYTES_MAX // 2)
    for i in range(6):
        bench.put("a", b"%d" % i + batch)
    number = bench.got()[-1][1]
    bench.crash()
    bench.join()
    holding = Holding(number, "a", (5,), 1)
    assert bench.consume("g", "a", size=1 << 24, holdings=(holding,)).lost == ()
    bench.give_back((None, number, 0, None))
    bench.wait(3 * SECOND)
    got = bench.got()
    assert sorted(value[:1] for value, *_ in got) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert all(row.maybe_duplicate for *_, row in got)
    assert bench.ack(*got).stale == ()
    bench.put("a", b"new")
    bench.ack(*bench.got())
    assert bench.show("g")["records"] == 0
    source = bench.node.groups.by_name["g"].sources[0]
    assert not source.trail  # all of it is settled: the next start reads none of it again


def test_a_delayed_job_claimed_before_its_time_is_found_is_not_handed_out_twice(bench, monkeypatch):
    monkeypatch.setattr("meshmq.core.group_waiting.DUE_A_TURN", 1)
    bench.consume("q", kind="queue", prefetch=100)
    bench.put("$delayed.q", b"late", due_ms=wall_ms(bench, 0.2))
    bench.put("$delayed.q", *[b"early"] * 50, due_ms=wall_ms(bench, 0.1))
    bench.wait(SECOND)
    number, row = next((n, row) for value, n, _, row in bench.got() if value == b"late")
    bench.crash()
    bench.join()
    holding = Holding(number, row.topic, (row.first,), 1)
    bench.send(Consume(1, "q", "", b"", 100, 1 << 20, 30 * SECOND, (holding,)))
    bench.give_back((None, number, 0, None), sync=False)
    bench.wait(3 * SECOND)
    got = bench.got()
    assert len(got) == 51
    assert bench.ack(*got).stale == ()
    shown = bench.show("q")
    assert (shown["records"], shown["delayed"]) == (0, 0)


def test_after_a_restart_what_may_have_been_handed_out_waits_a_moment_and_says_so(bench):
    bench.put("a", b"1", b"2")
    bench.consume("g", "a", prefetch=1)
    bench.got()
    bench.crash()
    bench.join()
    bench.consume("g", "a", prefetch=10)
    assert bench.values() == []
    bench.wait(limits.STARTED_NS + MS)
    got = bench.got()
    assert [v for v, *_ in got] == [b"1", b"2"]
    assert got[0][3].maybe_duplicate
    bench.ack(*got)
    bench.put("a", b"3")
    ((_, _, _, row),) = bench.got()
    assert not row.maybe_duplicate


def test_who_leaves_gives_back_what_it_has_not_settled(bench):
    others(bench)
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    bench.got()
    bench.consume("g", "a", link=OTHER_LINK)
    bench.leave()
    got = bench.got(OTHER_LINK)
    assert [(v, row.attempt) for v, _, _, row in got] == [(b"1", 1), (b"2", 1)]


def test_who_returned_records_gets_more_when_nobody_else_has_room(bench):
    others(bench)
    bench.consume("g", "a", prefetch=10)
    bench.put("a", b"1")
    bench.give_back(bench.got()[0])
    assert bench.values() == [b"1"]  # there is nobody else
    bench.consume("g", "a", prefetch=2, link=OTHER_LINK)
    for value in (b"2", b"3", b"4"):
        bench.put("a", value)
    assert bench.values(OTHER_LINK) == [b"2", b"3"]
    (item,) = bench.got()
    assert item[0] == b"4"
    bench.ack(item)  # it comes to them again
    bench.put("a", b"5", b"6")
    assert bench.values() == [b"5", b"6"]


# -- order by key ----------------------------------------------------------------------------------


def test_a_record_that_failed_holds_back_its_own_key_only(bench):
    bench.consume("g", "a", order="key")
    bench.put("a", b"a1", b"b1", b"a2", b"b2", keys=[b"a", b"b", b"a", b"b"])
    items = {item[0]: item for item in bench.got()}
    bench.nack(items[b"a1"], delay_s=1)
    assert bench.revoked() == [(items[b"a2"][1], items[b"a2"][2], 1)]
    assert not bench.ack(items[b"b1"], items[b"b2"]).stale
    bench.put("a", b"a3", b"b3", keys=[b"a", b"b"])
    assert bench.values() == [b"b3"]
    assert bench.show("g")["held"] == 2
    bench.wait(SECOND + 2 * MS)
    (again,) = bench.got()
    assert again[0] == b"a1"
    bench.ack(again)
    bench.wait(MS)
    assert bench.values() == [b"a2", b"a3"]


def test_a_key_stays_with_its_member_while_something_of_it_is_in_flight(bench):
    others(bench)
    bench.consume("g", "a", order="key", prefetch=2)
    bench.consume("g", "a", order="key", prefetch=50, link=OTHER_LINK)
    for n in range(6):
        bench.put("a", b"k%d" % n, keys=[b"k"])
    mine, theirs = bench.values(), bench.values(OTHER_LINK)
    assert (mine == []) != (theirs == [])


def test_records_of_a_batch_that_go_to_different_members_say_where_they_lie(bench):
    others(bench)
    bench.consume("g", "a", order="key", prefetch=2)
    bench.put("a", b"j1", keys=[b"j"])
    bench.consume("g", "a", order="key", prefetch=50, link=OTHER_LINK)
    bench.put("a", b"j2", b"k1", b"l1", b"j3", b"m1", keys=[b"j", b"k", b"l", b"j", b"m"])
    (j1, j2), theirs = bench.got(), bench.got(OTHER_LINK)
    assert (j1[0], j2[0]) == (b"j1", b"j2")
    assert [v for v, *_ in theirs] == [b"k1", b"l1", b"m1"]
    row = theirs[0][3]
    assert (row.offsets, row.skip, row.held) == ((2, 3, 5), 1, 5)
    bench.ack(j1, j2)
    (j3,) = bench.got()
    assert (j3[0], j3[3].first, j3[3].skip, j3[3].held) == (b"j3", 4, 3, 1)


def test_what_was_taken_back_of_a_key_comes_before_what_nobody_had(bench):
    bench.consume("g", "a", order="key", prefetch=2)
    bench.put("a", b"j1", b"k1", keys=[b"j", b"k"])
    j1, k1 = bench.got()
    bench.nack(j1, delay_s=1)
    bench.put("a", b"j2", b"k2", b"k3", keys=[b"j", b"k", b"k"])
    assert bench.values() == [b"k2"]
    bench.nack(k1, delay_s=1)
    seen = []
    bench.wait(2 * SECOND)
    for _ in range(6):
        got = bench.got()
        seen += [v for v, *_ in got]
        if got:
            bench.ack(*got)
        bench.wait(MS)
    assert [v for v in seen if v[:1] == b"k"] == [b"k1", b"k2", b"k3"]
    assert [v for v in seen if v[:1] == b"j"] == [b"j1", b"j2"]


@pytest.mark.parametrize("ending", ["ack", "leave"])
def test_a_failed_record_is_due_while_its_key_waits_for_room_at_a_member(bench, ending):
    others(bench)
    bench.consume("g", "a", order="key", prefetch=2)
    bench.put("a", b"k1", b"y1", b"y2", b"k2", keys=[b"k", b"y", b"y", b"k"])
    k1, y1 = bench.got()
    bench.consume("g", "a", order="key", prefetch=50, link=OTHER_LINK)
    bench.nack(k1, delay_s=0.1)
    (y2,) = bench.got()  # and so there is no room for k2 again
    bench.wait(SECOND)
    assert bench.got() == bench.got(OTHER_LINK) == []
    if ending == "leave":
        bench.leave()
    else:
        bench.ack(y1, y2)
    seen = []
    for _ in range(4):
        bench.wait(MS)
        for link in (LINK, OTHER_LINK):
            got = bench.got(link)
            seen += [v for v, *_ in got if v[:1] == b"k"]
            if got:
                bench.ack(*got, link=link)
    assert seen == [b"k1", b"k2"]
    assert bench.show("g")["records"] == 0


def test_what_waits_for_room_at_a_slow_member_goes_to_others_that_have_room(bench):
    others(bench)
    bench.consume("g", "a", order="key", prefetch=3)
    bench.put("a", b"j", b"k1", keys=[b"j", b"k"])
    j, _ = bench.got()
    bench.give_back(j)  # its program does not come to it, and there is nobody else
    (j,) = bench.got()
    bench.put("a", b"x", b"k2", keys=[b"x", b"k"])
    (x,) = bench.got()  # so there is no room for k2
    bench.consume("g", "a", order="key", prefetch=50, link=OTHER_LINK)
    bench.extend(j, 60)
    bench.extend(x, 60)
    bench.wait(31 * SECOND)  # k1 fails
    seen = []
    for _ in range(3):
        got = bench.got(OTHER_LINK)
        seen += [v for v, *_ in got]
        if got:
            bench.ack(*got, link=OTHER_LINK)
        bench.wait(MS)
    assert seen == [b"k1", b"k2"]
    assert bench.values() == []


def test_so_much_may_be_held_and_then_the_group_stops_and_says_why(bench):
    bench.consume("g", "a", order="key", max_held=3)
    bench.put("a", b"1", keys=[b"k"])
    bench.nack(bench.got()[0], delay_s=60)
    for n in range(5):
        bench.put("a", b"%d" % n, keys=[b"k"])
    shown = bench.show("g")
    assert (shown["state"], shown["held"]) == ("stopped", 3)
    assert "'k'" in shown["stopped_by"]
    bench.wait(60 * SECOND)
    seen = []
    for _ in range(8):
        got = bench.got()
        seen += [v for v, *_ in got]
        if got:
            bench.ack(*got)
        bench.wait(MS)
    assert seen == [b"1", b"0", b"1", b"2", b"3", b"4"]


def test_where_the_group_is_stopped_a_failed_record_waits_for_older_ones_not_read_again_yet(bench):
    """Seed 203 of the groups' world."""
    bench.consume("g", "a", order="key", prefetch=2, max_held=1)
    bench.put("a", b"1", b"2", keys=[b"k", b"k"])
    _, two = bench.got()
    bench.nack(two, delay_s=5)
    bench.crash()
    bench.join()
    bench.consume("g", "a", order="key", prefetch=2, max_held=1)
    assert bench.show("g")["state"] == "stopped"
    seen = []
    for _ in range(30):
        bench.wait(SECOND)
        got = bench.got()
        seen += [v for v, *_ in got]
        if got:
            bench.ack(*got)
    assert seen == [b"1", b"2"]


def test_what_was_handed_out_before_a_kill_is_doubtful_though_its_key_held_it_back(bench):
    bench.consume("g", "a", order="key")
    bench.put("a", b"1", b"2", keys=[b"k", b"k"])
    first, second = bench.got()
    bench.ack(first, second, sync=False)
    bench.crash()
    bench.join()
    bench.consume("g", "a", order="key", prefetch=1)
    bench.wait(2 * SECOND)
    (first,) = bench.got()
    bench.nack(first)  # so the second one waits for its turn
    seen = []
    for _ in range(4):
        bench.wait(MS)
        seen += bench.got()
        bench.ack(*seen[-1:])
    assert [(v, row.attempt, row.maybe_duplicate) for v, _, _, row in seen[-2:]] == [
        (b"1", 2, False), (b"2", 1, True),
    ]  # fmt: skip


# -- queues ----------------------------------------------------------------------------------------


def queue(bench, **settings):
    bench.done("group.create", group="q", kind="queue", **settings)


@pytest.mark.parametrize("moved", [False, True])
def test_a_late_job_that_a_kill_may_have_undone_is_doubtful(bench, moved):
    queue(bench)
    bench.consume("q", kind="queue")
    bench.put("$delayed.q", b"1", due_ms=wall_ms(bench, 60 if moved else 1))
    bench.put("$delayed.q", b"2", due_ms=wall_ms(bench, 30))
    if moved:
        job = job_of(bench, "$delayed.q", 0)
        bench.done("queue.reschedule", queue="q", job=job, due_ms=wall_ms(bench, 1))
    bench.wait(2 * SECOND)
    (item,) = bench.got()
    bench.ack(item, sync=False)
    bench.crash()
    bench.join()
    bench.consume("q", kind="queue")
    bench.wait(40 * SECOND)
    seen = [(v, row.attempt, row.maybe_duplicate) for v, _, _, row in bench.got()]
    assert seen[:2] == [(b"1", 1, True), (b"2", 1, False)]


def test_a_job_that_was_in_hands_before_a_kill_and_is_moved_after_it_is_doubtful(bench):
    queue(bench)
    bench.consume("q", kind="queue")
    bench.put("q", b"1")
    assert bench.values() == [b"1"]
    bench.crash()
    bench.join()
    bench.done("queue.reschedule", queue="q", job=job_of(bench, "q", 0), due_ms=wall_ms(bench, 5))
    bench.put("q", b"2")
    bench.done("queue.reschedule", queue="q", job=job_of(bench, "q", 1), due_ms=wall_ms(bench, 6))
    bench.consume("q", kind="queue")
    bench.wait(7 * SECOND)
    seen = [(v, row.attempt, row.maybe_duplicate) for v, _, _, row in bench.got()]
    assert seen == [(b"1", 1, True), (b"2", 1, False)]


def test_jobs_come_by_priority_and_in_order_within_it(bench):
    queue(bench)
    bench.put("q", b"plain 1")
    bench.put("$priority.3.q", b"three", priority=3)
    bench.put("$priority.9.q", b"nine", priority=9)
    bench.put("q", b"plain 2")
    bench.consume("q", kind="queue", prefetch=1)
    seen = []
    for _ in range(4):
        (item,) = bench.got()
        seen.append(item[0])
        bench.ack(item)
    assert seen == [b"nine", b"three", b"plain 1", b"plain 2"]


def test_a_delayed_job_comes_at_its_time_and_at_once_if_that_has_passed_while_nobody_was_there(
    bench,
):
    queue(bench)
    bench.consume("q", kind="queue")
    bench.put("$delayed.q", b"later", due_ms=wall_ms(bench, 10))
    assert bench.show("q")["delayed"] == 1
    bench.wait(10 * SECOND - 2 * MS)
    assert bench.values() == []
    bench.wait(2 * MS)
    assert bench.values() == [b"later"]
    bench.put("$delayed.q", b"missed", due_ms=wall_ms(bench, 5))
    bench.now_ns += 60 * SECOND
    bench.crash()
    bench.join()
    bench.consume("q", kind="queue")
    bench.wait(MS)
    assert b"missed" in bench.values()


def test_a_job_whose_time_to_live_is_over_is_dropped_and_counted(bench):
    queue(bench)
    bench.put("q", b"1", expires_ms=wall_ms(bench, 1))
    bench.put("q", b"2")
    bench.now_ns += 2 * SECOND
    bench.tick_clock()
    bench.consume("q", kind="queue")
    assert bench.values() == [b"2"]
    assert bench.show("q")["expired_jobs"] == 1


def test_a_job_whose_time_is_over_while_it_waits_for_its_keys_member_is_dropped_too(bench):
    queue(bench, order="key")
    bench.consume("q", kind="queue", order="key", prefetch=1)
    bench.put("q", b"k1", keys=[b"k"])
    (k1,) = bench.got()
    bench.put("q", b"k2", keys=[b"k"], expires_ms=wall_ms(bench, 5))
    bench.put("q", b"k3", keys=[b"k"])
    bench.wait(6 * SECOND)
    bench.ack(k1)
    assert bench.values() == [b"k3"]
    assert bench.show("q")["expired_jobs"] == 1


def test_a_job_that_the_queue_has_is_not_stored_again_even_after_a_restart(bench):
    queue(bench)
    bench.put("q", b"1", dedup=b"d" * 16)
    bench.put("q", b"1 again", dedup=b"d" * 16)
    bench.crash()
    bench.join()
    bench.nexts[LINK, "q"] = 2  # the log has not stored the repeat's sequence
    bench.put("q", b"1 again", dedup=b"d" * 16)
    bench.consume("q", kind="queue")
    bench.wait(2 * SECOND)
    assert bench.values() == [b"1"]
    bench.now_ns += limits.DEDUP_NS_DEFAULT
    bench.tick_clock()
    bench.put("q", b"much later", dedup=b"d" * 16)
    assert bench.values() == [b"much later"]


def test_a_full_queue_says_so_and_takes_more_when_there_is_room(bench):
    queue(bench, max_records=2)
    bench.put("q", b"1", b"2")
    bench.put("q", b"3")
    refused = [c for c in confirmations(bench) if c.code]
    assert [c.code for c in refused] == ["queue-full"]
    bench.consume("q", kind="queue")
    bench.ack(*bench.got())
    bench.nexts[LINK, "q"] = 3
    bench.put("q", b"3")
    assert bench.values() == [b"3"]


def confirmations(bench):
    from meshmq.frames import Confirm

    return [c for frame in bench.take(LINK, Confirm) for c in frame.confirmations]


def job_of(bench, topic, offset):
    entry = bench.node.topics.by_name[topic].entry
    return str(JobId(ORIGIN.hex(), topic_key(entry.topic_id), offset))


def test_jobs_that_wait_can_be_cancelled_and_moved(bench):
    queue(bench)
    bench.put("q", b"1", b"2", b"3")
    bench.put("$delayed.q", b"4", due_ms=wall_ms(bench, 100))
    bench.done("queue.cancel", queue="q", job=job_of(bench, "q", 1))
    bench.done("queue.reschedule", queue="q", job=job_of(bench, "q", 2), due_ms=wall_ms(bench, 50))
    bench.done("queue.reschedule", queue="q", job=job_of(bench, "$delayed.q", 0), due_ms=0)
    bench.consume("q", kind="queue")
    bench.wait(MS)
    assert sorted(bench.values()) == [b"1", b"4"]
    code, message, _ = bench.command("queue.cancel", queue="q", job=job_of(bench, "q", 0))
    assert code == "job-not-found"
    assert "hands" in message
    bench.wait(50 * SECOND)
    assert b"3" in bench.values()


@pytest.mark.parametrize("verb", ["cancel", "reschedule"])
def test_a_job_that_waits_for_room_at_its_keys_member_can_be_cancelled_and_moved(bench, verb):
    queue(bench, order="key")
    bench.consume("q", kind="queue", order="key", prefetch=2)
    bench.put("q", b"k1", b"k2", b"k3", b"k4", keys=[b"k"] * 4)
    k1, k2 = bench.got()
    when = {"due_ms": wall_ms(bench, 5)} if verb == "reschedule" else {}
    bench.done(f"queue.{verb}", queue="q", job=job_of(bench, "q", 2), **when)
    bench.ack(k1, k2)
    (k4,) = bench.got()
    assert k4[0] == b"k4"
    bench.ack(k4)
    bench.wait(6 * SECOND)
    assert bench.values() == ([b"k3"] if verb == "reschedule" else [])


@pytest.mark.parametrize("order", ["any", "key"])
def test_a_job_that_is_given_one_time_twice_comes_once(bench, order):
    """Seed 92 of the groups' world."""
    queue(bench, order=order)
    bench.put("q", b"1", keys=[b"k"])
    when, other = wall_ms(bench, 5), wall_ms(bench, 4)
    for due_ms in (when, other, when, when):
        bench.done("queue.reschedule", queue="q", job=job_of(bench, "q", 0), due_ms=due_ms)
    bench.consume("q", kind="queue", order=order)
    bench.wait(6 * SECOND)
    (one,) = bench.got()
    assert bench.show("q")["retrying"] == 0
    bench.ack(one)
    assert bench.show("q")["records"] == 0


def test_a_moved_job_waits_for_older_ones_of_its_key_that_were_not_looked_at_yet(bench):
    """Seeds 447 and 454 of the groups' world."""
    queue(bench, order="key")
    bench.consume("q", kind="queue", order="key", prefetch=1)
    bench.put("q", b"j1", keys=[b"j"])
    bench.put("q", b"k1", b"k2", keys=[b"k", b"k"])
    (j1,) = bench.got()
    bench.done("queue.reschedule", queue="q", job=job_of(bench, "q", 2), due_ms=0)
    bench.wait(MS)
    assert bench.got() == []
    bench.ack(j1)
    (k1,) = bench.got()
    assert k1[0] == b"k1"
    bench.ack(k1)
    bench.wait(MS)
    assert bench.values() == [b"k2"]


def test_purge_leaves_what_is_in_hands(bench):
    queue(bench)
    bench.put("q", *[b"%d" % i for i in range(5)])
    bench.put("$delayed.q", b"x", due_ms=wall_ms(bench, 5))
    bench.consume("q", kind="queue", prefetch=2)
    items = bench.got()
    assert bench.done("queue.purge", queue="q")["purged"] == 4
    assert bench.show("q")["records"] == 2
    assert not bench.ack(*items).stale
    bench.wait(10 * SECOND)
    assert bench.values() == []
    assert bench.show("q")["records"] == 0


def test_what_is_done_of_a_queue_is_given_back_to_the_disk(bench):
    queue(bench)
    bench.consume("q", kind="queue")
    bench.put("q", b"1", b"2")
    bench.ack(*bench.got())
    from meshmq.core.events import RetentionPlanned

    bench.handle(RetentionPlanned(()))
    bench.settle_down()
    assert bench.disk.state.topics["q"].first_offset == 2


# -- transactions ----------------------------------------------------------------------------------


def test_a_transaction_is_one_commit_and_its_repeat_does_nothing(bench):
    bench.consume("g", "in")
    bench.put("in", b"1")
    (item,) = bench.got()
    before = len(bench.disk.commits)
    first = bench.transact(1, [item], [("out", b"result")])
    assert (first.code, first.offsets) == ("", (0,))
    out = bench.node.topics.by_name["out"].entry.stream
    (commit,) = [c for c in bench.disk.commits[before:] if any(b.stream == out for b in c.batches)]
    assert any(isinstance(r, Delta) and r.settled for r in commit.journal)
    bench.crash()
    bench.join()
    again = bench.transact(1, [item], [("out", b"result")])
    assert (again.code, again.offsets) == ("", (0,))
    assert bench.disk.state.topics["out"].next_offset == 1


def test_a_transaction_with_a_stale_ack_does_nothing(bench):
    bench.consume("g", "in")
    bench.put("in", b"1")
    (item,) = bench.got()
    bench.ack(item)
    answer = bench.transact(1, [item], [("out", b"result")])
    assert answer.code == "transaction-failed"
    assert "out" not in bench.disk.state.topics


# -- steering --------------------------------------------------------------------------------------


def test_a_paused_group_hands_out_nothing_until_it_goes_on(bench):
    bench.consume("g", "a")
    bench.done("group.pause", group="g")
    bench.put("a", b"1")
    assert bench.values() == []
    bench.crash()
    bench.join()
    bench.consume("g", "a")
    bench.wait(2 * SECOND)
    assert bench.values() == []
    bench.done("group.resume", group="g")
    assert bench.values() == [b"1"]


@pytest.mark.parametrize(
    ("start", "expected"),
    [("earliest", [b"1", b"2", b"3"]), ("new", []), ({"offset": 2}, [b"3"])],
)
def test_a_group_that_seeks_goes_on_there(bench, start, expected):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2", b"3")
    items = bench.got()
    bench.ack(items[0])
    bench.done("group.seek", group="g", start=start)
    bench.settle_down()
    bench.wait(MS)
    assert bench.values() == expected
    assert bench.show("g")["records"] == len(expected)
    assert bench.ack(items[1]).stale


def test_a_group_that_seeks_to_a_time_gets_what_came_after(bench):
    bench.consume("g", "a")
    bench.put("a", b"1")
    bench.now_ns += 10 * SECOND
    bench.put("a", b"2")
    bench.ack(*bench.got())
    bench.done("group.seek", group="g", start={"time_ns": WALL + bench.now_ns - SECOND})
    bench.wait(MS)
    assert bench.values() == [b"2"]


def test_a_rate_is_kept(bench):
    bench.put("a", *[b"%d" % i for i in range(100)])
    bench.consume("g", "a", rate=10)
    seen = len(bench.got())
    for _ in range(20):
        bench.wait(100 * MS)
        seen += len(bench.got())
    assert 18 <= seen <= 22


def test_a_group_that_retention_overtakes_moves_on_and_counts_the_loss(bench):
    from meshmq.core.events import RetentionPlanned

    bench.consume("g", "a", prefetch=1)
    for n in range(5):
        bench.put("a", b"%d" % n)
    (item,) = bench.got()
    stream = bench.node.topics.by_name["a"].entry.stream
    bench.handle(RetentionPlanned(((stream, 3),)))
    bench.settle_down()
    shown = bench.show("g")
    assert (shown["overtaken"], shown["records"]) == (3, 2)
    bench.ack(item)
    got = bench.got()
    assert got[0][0] == b"3"


def test_what_retention_took_before_a_kill_is_not_counted_down_twice(bench):
    """Seed 530 of the groups' world."""
    from meshmq.core.events import RetentionPlanned

    bench.consume("g", "a", prefetch=1)
    bench.put("a", b"1", b"2", b"3", b"4")
    bench.put("a", b"5", b"6")
    stream = bench.node.topics.by_name["a"].entry.stream
    bench.handle(RetentionPlanned(((stream, 3),)))
    bench.sync()  # the trim is on disk, and what the group says of it is not
    bench.crash()
    bench.join()
    bench.consume("g", "a")
    bench.wait(20 * SECOND)
    shown = bench.show("g")
    assert (shown["records"], shown["in_flight"], shown["overtaken"]) == (3, 3, 3)


def test_a_deleted_group_is_told_to_its_members_and_leaves_nothing(bench):
    bench.consume("g", "a")
    bench.put("a", b"1")
    bench.reject(bench.got()[0])
    bench.wait(SECOND)
    bench.done("group.delete", group="g")
    assert "$dlq.g" not in bench.node.topics.by_name
    assert bench.disk.state.journal.groups == {}
    code, _, _ = bench.command("group.show", group="g")
    assert code == "group-not-found"


def test_a_queue_in_order_of_keys_takes_no_priorities(bench):
    queue(bench, order="key")
    bench.put("$priority.3.q", b"1", priority=3)
    assert [c.code for c in confirmations(bench) if c.code] == ["invalid-argument"]


def test_a_kill_before_a_time_is_looked_up_leaves_the_group_as_it_was(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    bench.ack(*bench.got())
    survey, bench.disk.survey = bench.disk.survey, None
    bench.handle = lambda event, handle=bench.handle: None if event is None else handle(event)
    bench.disk.survey = lambda order: None  # the answer does not come before the kill
    code = None
    try:
        code, _, _ = bench.command("group.seek", group="g", start={"time_ns": 1})
    except ValueError:
        pass  # no answer, either
    assert code is None
    bench.disk.survey = survey
    bench.crash()
    bench.join()
    bench.consume("g", "a")
    bench.wait(3 * SECOND)
    assert bench.values() == []


def test_a_place_that_does_not_exist_yet_is_refused(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    assert bench.command("group.seek", group="g", start={"offset": 3})[0] == "offset-out-of-range"
    assert bench.done("group.seek", group="g", start={"offset": 2})
    made = {"group": "h", "pattern": "a", "start": {"offset": 3}}
    assert bench.command("group.create", **made)[0] == "offset-out-of-range"
    assert bench.command("group.show", group="h")[0] == "group-not-found"


def test_what_is_read_again_after_a_seek_is_a_maybe_duplicate(bench):
    bench.consume("g", "a")
    bench.put("a", b"1", b"2")
    items = bench.got()
    bench.ack(items[0])
    bench.put("a", b"3")
    bench.done("group.seek", group="g", start="earliest")
    assert {v: row.maybe_duplicate for v, _, _, row in bench.got()} == {
        b"1": True, b"2": True, b"3": True,
    }  # fmt: skip
    bench.put("a", b"4")
    assert [row.maybe_duplicate for _, _, _, row in bench.got()] == [False]


def test_a_deleted_topics_records_are_not_handed_out(bench):
    bench.put("a.x", b"1", b"2")
    bench.done("group.create", group="g", pattern="a.>", start="earliest", order="key")
    bench.consume("g", "a.>", prefetch=1)
    bench.nack(bench.got()[0])
    assert bench.values() == [b"2"]
    bench.done("topic.delete", topic="a.x")
    show = bench.show("g")
    assert (show["records"], show["ready"], show["retrying"], show["delayed"]) == (0, 0, 0, 0)
    bench.wait(60 * SECOND)
    assert bench.values() == []
    assert bench.show("g")["delayed"] == 0
    bench.put("a.y", b"3")
    assert bench.values() == [b"3"]


def test_a_consumer_that_begins_at_a_time_takes_no_others_answer(bench):
    bench.put("a", b"1")
    bench.consume("g", "a", start={"time_ns": 1})
    assert bench.done("status")


def test_a_job_id_is_never_anothers(bench):
    queue(bench)
    bench.put("q", b"1")
    old = job_of(bench, "q", 0)
    bench.consume("p", kind="queue")
    assert bench.command("queue.cancel", queue="p", job=old)[0] == "job-not-found"
    bench.done("group.delete", group="q")
    queue(bench)
    bench.put("q", b"2")
    assert bench.command("queue.cancel", queue="q", job=old)[0] == "job-not-found"
    assert old != job_of(bench, "q", 0)
