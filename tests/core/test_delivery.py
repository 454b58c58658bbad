"""Who gets which batch: from a commit, from memory, from the log, within credit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import limits
from meshmq.core.feed import Reader
from meshmq.core.log import StoredBatch
from meshmq.frames import (
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_POSITION,
    START_TIME,
)
from tests.core.deliveries import Bench
from tests.core.helpers import LINK, ORIGIN, OTHER_LINK, OTHER_ORIGIN, SECOND, decode

SMALL_COMMIT = limits.COMMIT_MEMORY_BYTES + limits.BATCH_MEMORY_BYTES + 6  # two bytes, length

# -- rule 1: after the commit, in order, without a gap ---------------------------------------------


def test_a_live_subscription_gets_each_commit_once_with_its_places():
    bench = Bench()
    answer = bench.subscribe("a", START_NEW)
    assert (answer.code, answer.origin, answer.lsn, answer.slot, answer.topics) == (
        "", ORIGIN, 1, 0, 1
    )  # fmt: skip
    assert bench.got() == []
    bench.store(("b", b"x"), ("a", b"1", b"2"), wall_ns=7)
    (frame,) = bench.frames()
    (row,) = frame.batches
    assert (row.topic, row.base_offset, row.count, row.append_time_ns, row.lsn, row.slot) == (
        "a", 0, 2, 7, 1, 1
    )  # fmt: skip
    bench.store(("a", b"3"))
    assert bench.got() == [("a", 2, b"3")]
    assert bench.delivery.reads == []
    assert bench.delivery.delivered == 3


def test_nothing_is_delivered_before_delivery_hears_of_the_commit():
    bench = Bench()
    bench.subscribe("a", START_NEW)
    bench.subscribe("a", START_EARLIEST, number=2)
    bench.store(("a", b"1"), tell=False)
    bench.read()
    bench.delivery.grant(LINK, 1, 10, 10)
    bench.delivery.grant(LINK, 2, 10, 10)
    assert bench.delivery.sends == []
    assert bench.delivery.reads == []


def test_reads_end_at_the_commit_that_is_known_to_be_synced():
    bench = Bench()
    bench.store(("a", b"1"))
    bench.restart()
    bench.store(("a", b"2"), tell=False)
    bench.subscribe("a")
    (order,) = bench.delivery.reads
    assert order.end_lsn == 1
    bench.read()
    assert bench.values() == [b"1"]


def test_replay_reads_the_log_then_is_live():
    bench = Bench()
    for i in range(5):
        bench.store(("a", b"%d" % i), ("b", b"no"))
    bench.subscribe("a")
    assert bench.got() == []
    assert not bench.sub().is_live
    assert bench.read() == 1
    assert bench.values() == [b"0", b"1", b"2", b"3", b"4"]
    assert bench.sub().is_live
    bench.store(("a", b"5"))
    assert bench.values() == [b"5"]


@pytest.mark.parametrize("recent", [0, 1 << 20])
def test_what_is_committed_during_a_read_comes_once_behind_it(recent):
    bench = Bench(recent=recent)
    bench.store(("a", b"0"))
    bench.restart()
    bench.subscribe("a")
    bench.store(("a", b"1"))
    bench.store(("a", b"2"))
    assert bench.got() == []
    bench.read()
    assert bench.got() == [("a", 0, b"0"), ("a", 1, b"1"), ("a", 2, b"2")]
    bench.store(("a", b"3"))
    assert bench.got() == [("a", 3, b"3")]


def test_a_little_behind_is_fed_from_memory():
    bench = Bench(recent=1 << 20)
    bench.subscribe("a", START_NEW, records=1)
    for i in range(4):
        bench.store(("a", b"%d" % i))
    assert bench.values() == [b"0"]
    bench.delivery.grant(LINK, 1, 0, 3)
    assert bench.values() == [b"1", b"2", b"3"]
    assert bench.delivery.reads == []


def test_far_behind_is_fed_from_the_log_and_then_from_memory():
    bench = Bench(recent=10 * SMALL_COMMIT)
    bench.subscribe("a", START_NEW, records=1)
    for i in range(20):
        bench.store(("a", b"%02d" % i))
    assert bench.values() == [b"00"]
    bench.delivery.grant(LINK, 1, 0, 30)
    assert len(bench.delivery.reads) == 1
    bench.read()
    assert bench.values() == [b"%02d" % i for i in range(1, 20)]
    assert bench.sub().is_live


def test_memory_holds_the_newest_commits_within_its_bytes():
    bench = Bench(recent=10 * SMALL_COMMIT)
    for i in range(20):
        bench.store(("a", b"%02d" % i))
    assert len(bench.delivery._recent) == 10  # what a commit costs besides its bytes counts
    assert bench.delivery._recent[-1].lsn == 20
    bench.store(("a", b"x" * 20_000))
    assert [c.lsn for c in bench.delivery._recent] == [21]


def test_a_pattern_gets_its_topics_in_the_order_of_the_log():
    bench = Bench(durable=["x.a", "x.b", "y"])
    bench.store(("x.b", b"1"), ("y", b"no"), ("x.a", b"2"))
    bench.store(("x.a", b"3"), ("x.b", b"4"))
    bench.subscribe("x.*")
    bench.read()
    bench.store(("x.b", b"5"), ("x.a", b"6"))
    assert bench.values() == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_a_topic_made_later_is_in_the_pattern():
    bench = Bench(durable=["x.a"])
    bench.subscribe("x.>", START_NEW)
    bench.store(("x.a", b"1"))
    bench.topics.create("x.b", bench.entries)
    bench.store(("x.b", b"2"))
    assert bench.values() == [b"1", b"2"]


def test_a_topic_made_during_a_read_is_not_missed():
    bench = Bench(durable=["x.a"])
    bench.store(("x.a", b"1"))
    bench.subscribe("x.>")
    bench.topics.create("x.b", bench.entries)
    bench.store(("x.b", b"2"))
    bench.read()
    assert bench.values() == [b"1", b"2"]


# -- where to begin --------------------------------------------------------------------------------


def fill(bench, count=6):
    for i in range(count):
        bench.store(("a", b"%d" % (2 * i), b"%d" % (2 * i + 1)), wall_ns=i * SECOND)


@pytest.mark.parametrize(
    ("wish", "first"),
    [
        ({"start": START_EARLIEST}, 0),
        ({"start": START_TIME, "value": 3 * SECOND}, 6),
        ({"start": START_TIME, "value": 3 * SECOND + 1}, 8),
        ({"start": START_TIME, "value": -5}, 0),
        ({"start": START_OFFSET, "value": 0}, 0),
        ({"start": START_OFFSET, "value": 5}, 4),  # the batch that holds it
        ({"start": START_POSITION, "lsn": 5, "slot": 0}, 8),
        ({"start": START_POSITION, "lsn": 5, "slot": 1}, 10),
        ({"start": START_POSITION, "lsn": 0, "slot": 0}, 0),
        ({"start": START_POSITION, "lsn": 5, "origin": OTHER_ORIGIN}, 0),
        ({"start": START_NEW}, 12),
        ({"start": START_OFFSET, "value": 12}, 12),
        ({"start": START_TIME, "value": 99 * SECOND}, 12),
        ({"start": START_POSITION, "lsn": 99, "slot": 4}, 12),
    ],
)
@pytest.mark.parametrize("recent", [0, 1 << 20])
def test_reading_begins_where_it_is_asked_to_and_goes_on(wish, first, recent):
    bench = Bench(recent=recent)
    fill(bench)
    assert bench.subscribe("a", **wish).code == ""
    bench.read()
    bench.store(("a", b"12"), wall_ns=200 * SECOND)
    bench.read()
    assert bench.values() == [b"%d" % i for i in range(first, 13)]


def test_an_offset_beyond_the_end_is_refused():
    bench = Bench()
    fill(bench, 1)
    told = bench.subscribe("a", START_OFFSET, 3)
    assert (told.code, len(bench.delivery)) == ("offset-out-of-range", 0)
    assert bench.subscribe("a", START_OFFSET, -1).code == "offset-out-of-range"
    assert bench.subscribe("unheard", START_OFFSET, 1).code == "offset-out-of-range"
    assert bench.subscribe("unheard", START_OFFSET, 0).code == ""


def test_an_offset_needs_one_durable_topic():
    bench = Bench()
    assert bench.subscribe("*", START_OFFSET, 0).code == "invalid-argument"
    assert bench.subscribe("t", START_OFFSET, 0).code == "durability-unavailable"


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b", "x*", "a b"])
def test_a_pattern_that_is_not_well_formed_is_refused(pattern):
    bench = Bench()
    told = bench.subscribe(pattern)
    assert told.code == "invalid-name"
    assert told.message
    assert len(bench.delivery) == 0


def test_subscriptions_of_one_link_are_bounded(monkeypatch):
    monkeypatch.setattr("meshmq.limits.SUBSCRIPTIONS_PER_SESSION_MAX", 2)
    bench = Bench()
    assert [bench.subscribe("a", number=i).code for i in (1, 2, 3)] == ["", "", "limit"]
    assert bench.subscribe("a", number=3, link=OTHER_LINK).code == ""
    bench.delivery.unsubscribe(LINK, 1)
    assert bench.subscribe("a", number=3).code == ""


def test_credit_is_bounded_at_the_start_and_when_granted():
    bench = Bench()
    bench.subscribe("a", size=1 << 60, records=1 << 60)
    top = (limits.CREDIT_BYTES_MAX, limits.CREDIT_RECORDS_MAX)
    assert (bench.sub().credit_bytes, bench.sub().credit_records) == top
    bench.delivery.grant(LINK, 1, 1 << 63, 1 << 63)
    assert (bench.sub().credit_bytes, bench.sub().credit_records) == top


# -- coming and going ------------------------------------------------------------------------------


def test_a_subscription_that_ended_gets_nothing_more():
    bench = Bench()
    bench.store(("a", b"0"))
    bench.restart()
    bench.subscribe("a", START_NEW)
    bench.subscribe("a", number=2)  # a read is under way
    bench.delivery.unsubscribe(LINK, 1)
    bench.delivery.unsubscribe(LINK, 2)
    bench.delivery.unsubscribe(LINK, 2)
    bench.store(("a", b"1"))
    bench.transient("t", b"x")
    bench.read()
    bench.delivery.grant(LINK, 1, 10, 10)
    assert bench.delivery.sends == []


def test_a_link_takes_its_own_subscriptions_with_it():
    bench = Bench()
    for number in (1, 2):
        bench.subscribe("a", START_NEW, number=number)
    bench.subscribe("a", START_NEW, link=OTHER_LINK)
    bench.delivery.drop_link(LINK)
    bench.store(("a", b"1"))
    assert [link for link, _ in bench.delivery.sends] == [OTHER_LINK]


def test_a_number_used_again_begins_anew():
    bench = Bench()
    bench.store(("a", b"0"))
    bench.restart()
    bench.subscribe("a")
    (stale,) = bench.delivery.reads
    bench.delivery.reads = []
    bench.subscribe("a")
    done = bench.disk.read(stale)
    bench.delivery.on_read(done.reader, done.batches, done.next_lsn, done.next_slot)
    assert bench.got() == []
    bench.read()
    assert bench.values() == [b"0"]


def test_records_of_a_topic_deleted_during_a_read_are_left_out():
    bench = Bench()
    bench.store(("a", b"0"), ("b", b"1"))
    bench.restart()
    bench.subscribe("*")
    (order,) = bench.delivery.reads
    bench.delivery.reads = []
    done = bench.disk.read(order)
    bench.topics.delete("a", bench.entries)
    bench.delivery.on_read(done.reader, done.batches, done.next_lsn, done.next_slot)
    assert bench.values() == [b"1"]


def test_damaged_batches_are_told_without_bytes_and_counted():
    bench = Bench()
    bench.store(("a", b"0", b"1"), ("a", b"2"))
    bench.restart()
    bench.subscribe("a")
    (order,) = bench.delivery.reads
    stream = bench.topics.by_name["a"].entry.stream
    damaged = StoredBatch(stream, 0, 2, b"", 5, 0, 1, 0, True)
    bench.delivery.on_read(order.reader, (damaged,), 2, 0)
    ((row,),) = [f.batches for f in bench.frames()]
    assert (row.damaged, row.count, row.length) == (True, 2, 0)
    assert bench.delivery.damaged == 2


# -- rule 2: credit --------------------------------------------------------------------------------


def test_without_credit_nothing_goes_and_nothing_is_read():
    bench = Bench()
    bench.store(("a", b"0"))
    for number, wish in enumerate(({"size": 0}, {"records": 0}), 1):
        bench.subscribe("a", number=number, **wish)
    bench.store(("a", b"1"))
    assert bench.delivery.sends == []
    assert bench.delivery.reads == []
    bench.delivery.grant(LINK, 1, 1, 0)
    assert len(bench.delivery.reads) == 1


def test_credit_is_overdrawn_by_one_batch_at_most():
    bench = Bench(recent=1 << 20)
    bench.subscribe("a", START_NEW, size=10, records=100)
    for i in range(5):
        bench.store(("a", b"x" * 96))  # 100 bytes
        assert len(bench.got()) == (1 if i == 0 else 0)
    assert bench.sub().credit_bytes == -90
    bench.delivery.grant(LINK, 1, 90, 0)
    assert bench.got() == []
    bench.delivery.grant(LINK, 1, 1, 0)
    assert len(bench.got()) == 1
    assert bench.sub().credit_bytes == -99


@pytest.mark.parametrize("recent", [0, 1 << 20])
def test_what_is_sent_ahead_is_bounded_by_the_credit_and_one_batch(recent):
    bench = Bench(recent=recent)
    bench.subscribe("a", START_NEW, size=0)
    for i in range(50):
        bench.store(("a", b"%04d" % i, b"x" * 88))  # 100 bytes
    for _ in range(8):
        bench.delivery.grant(LINK, 1, 250, 0)
        bench.read()
        assert bench.sub().credit_bytes > -100
    assert len(bench.got()) == 2 * 20


def test_a_read_overdraws_the_credit_in_records_by_one_batch_at_most():
    bench = Bench()
    fill(bench, 10)
    bench.restart()
    bench.subscribe("a", records=3)
    bench.read()
    assert bench.values() == [b"0", b"1", b"2", b"3"]
    bench.delivery.grant(LINK, 1, 0, 2)
    bench.read()
    assert bench.values() == [b"4", b"5"]


@pytest.mark.parametrize("wish", [{"records": 3}, {"size": 25}])
def test_waiting_transient_batches_overdraw_the_credit_by_one_at_most(wish):
    bench = Bench()
    bench.subscribe("t", START_NEW, **{**wish, "records": 0})
    for i in range(10):
        bench.transient("t", b"%d" % i, b"x")  # two records, ten bytes
    bench.delivery.grant(LINK, 1, 0, wish.get("records", 1000))
    assert len(bench.got()) == (4 if "records" in wish else 6)


def test_one_stalled_subscriber_costs_no_memory_and_stalls_nobody():
    bench = Bench(recent=2 * SMALL_COMMIT)
    bench.subscribe("a", START_NEW, records=1)
    bench.subscribe("a", START_NEW, link=OTHER_LINK)
    for i in range(300):
        bench.store(("a", b"%03d" % i))
        assert bench.values(OTHER_LINK) == [b"%03d" % i]
    assert bench.values() == [b"000"]
    stalled = bench.sub()
    assert (len(stalled.queue), stalled.queue_bytes, stalled.lsn) == (0, 0, 2)
    assert bench.delivery._recent_bytes <= 2 * SMALL_COMMIT
    bench.delivery.grant(LINK, 1, 0, 1000)
    bench.read()
    assert bench.values() == [b"%03d" % i for i in range(1, 300)]


def test_frames_are_bounded_in_bytes_and_batches(monkeypatch):
    monkeypatch.setattr("meshmq.limits.FRAME_BATCHES_MAX", 4)
    bench = Bench(recent=1 << 20)
    bench.store(*[("a", b"x")] * 10)
    bench.subscribe("a")
    assert [len(f.batches) for f in bench.frames()] == [4, 4, 2]
    big = b"y" * (limits.BATCH_BYTES_TARGET - 4)
    bench.store(*[("b", big)] * 8)
    for number, pattern in ((2, "b"), (3, "*")):
        bench.subscribe(pattern, number=number)
        frames = bench.frames(number=number)
        assert max(len(f.payload) for f in frames) <= limits.DELIVER_BYTES_MAX
        assert sum(f.payload.count(big) for f in frames) == 8


def test_a_read_is_delivered_in_frames_of_bounded_size(monkeypatch):
    bench = Bench()
    big = b"y" * (limits.BATCH_BYTES_TARGET // 2)
    bench.store(*[("a", big)] * 9)
    bench.restart()
    bench.subscribe("a")
    assert bench.read() >= 1
    frames = bench.frames()
    assert sum(len(f.batches) for f in frames) == 9
    assert max(len(f.payload) for f in frames) <= limits.BATCH_BYTES_TARGET * 5 // 4


class Bulk(Reader):
    """Keeps the sizes of what it is given together."""

    is_bulk = True

    def __init__(self):
        super().__init__("a", 1 << 30, 1 << 30)
        self.sizes = []

    def take(self, batches):
        self.sizes.append(sum(len(b.payload) for b in batches))


@pytest.mark.parametrize("recent", [0, 1 << 20])
def test_to_another_node_small_batches_go_in_larger_frames(recent):
    bench = Bench(recent=recent)
    big = b"y" * (limits.BATCH_BYTES_TARGET // 2)
    bench.store(*[("a", big)] * 16)
    reader = Bulk()
    bench.delivery.add_reader(reader)
    bench.delivery.feed(reader)
    bench.read()
    assert len(reader.sizes) < 5
    assert max(reader.sizes) <= limits.DELIVER_BYTES_MAX
    assert sum(reader.sizes) >= 16 * len(big)


# -- rule 3: transient records ---------------------------------------------------------------------


def test_transient_records_go_at_once_to_whoever_wants_them():
    bench = Bench()
    bench.subscribe("t", START_NEW)
    bench.subscribe("*", START_NEW, number=2)
    bench.subscribe("a", START_NEW, number=3)
    bench.transient("t", b"1", b"2")
    assert bench.values() == bench.values(number=2) == [b"1", b"2"]
    assert bench.values(number=3) == []
    bench.transient("u", b"3")
    assert bench.values(number=2) == [b"3"]
    assert bench.values() == []


def test_transient_records_wait_for_credit():
    bench = Bench()
    bench.subscribe("t", START_NEW, records=0)
    bench.transient("t", b"1")
    bench.transient("t", b"2")
    assert bench.got() == []
    bench.delivery.grant(LINK, 1, 0, 9)
    (frame,) = bench.frames()
    assert (len(frame.batches), frame.missed) == (2, 0)
    assert bench.sub().queue_bytes == 0


def test_of_a_full_queue_the_oldest_are_dropped_counted_and_told_once():
    bench = Bench(queue=30)
    bench.subscribe("t", START_NEW, records=0)
    bench.subscribe("t", START_NEW, link=OTHER_LINK)
    for i in range(10):
        bench.transient("t", b"%02d" % i)  # 6 bytes each: five fit
    assert bench.values(OTHER_LINK) == [b"%02d" % i for i in range(10)]
    assert (bench.sub().queue_bytes, bench.sub().dropped) == (30, 5)
    bench.delivery.grant(LINK, 1, 0, 100)
    (frame,) = bench.frames()
    assert frame.missed == 5
    assert decode(frame.payload) == [b"05", b"06", b"07", b"08", b"09"]
    bench.transient("t", b"10")
    assert [f.missed for f in bench.frames()] == [0]
    assert (bench.delivery.dropped, bench.sub().dropped_total) == (5, 5)


def test_dropping_counts_records_not_batches():
    bench = Bench(queue=30)
    bench.subscribe("t", START_NEW, records=0)
    bench.transient("t", b"1", b"2", b"3")
    bench.transient("t", b"x" * 40)
    bench.delivery.grant(LINK, 1, 0, 100)
    (frame,) = bench.frames()
    assert (frame.missed, decode(frame.payload)) == (3, [b"x" * 40])


def test_the_newest_stays_though_it_alone_is_over_the_bound():
    bench = Bench(queue=10)
    bench.subscribe("t", START_NEW, records=0)
    for _ in range(3):
        bench.transient("t", b"x" * 40)
    assert len(bench.sub().queue) == 1
    assert bench.delivery.dropped == 2


# -- live, behind, and the change between ----------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["store", "store", "read", "grant", "topic"]), st.integers(1, 4)),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(
    steps=steps,
    before=st.integers(0, 5),
    recent=st.sampled_from([0, 2 * SMALL_COMMIT, 1 << 20]),
    credit=st.integers(0, 5),
    kind=st.sampled_from([START_NEW, START_EARLIEST]),
)
def test_live_or_behind_nothing_is_left_out_or_repeated(steps, before, recent, credit, kind):
    bench = Bench(recent=recent, durable=["x.0", "no"])
    topics = ["x.0"]
    stored = []

    def store(count):
        commit = [("no", b"no")]
        for _ in range(count):
            value = b"%d" % len(stored)
            stored.append(value)
            commit.append((topics[len(stored) % len(topics)], value))
        bench.store(*commit)

    for _ in range(before):
        store(2)
    bench.subscribe("x.*", kind, records=credit)
    begin = 0 if kind == START_EARLIEST else len(stored)
    granted, got = credit, []
    for what, number in steps:
        match what:
            case "store":
                store(number)
            case "read":
                bench.read()
            case "topic":
                topics.append(f"x.{len(topics)}")
                bench.topics.create(topics[-1], bench.entries)
            case "grant":
                granted += number
                bench.delivery.grant(LINK, 1, 0, number)
        got += bench.values()
        assert got == stored[begin : begin + len(got)]
        assert len(got) <= granted or recent < 1 << 20
    bench.delivery.grant(LINK, 1, 0, 10_000)
    bench.read()
    got += bench.values()
    assert got == stored[begin:]
    assert bench.sub().is_live
