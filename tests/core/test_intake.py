"""Whether queues take jobs: bounds that hold at once, transactions as a whole, ids remembered."""

from __future__ import annotations

import random
import zlib

import pytest

from meshmq import codec, limits
from meshmq.core import units
from meshmq.frames import Confirm, Publish, PublishBatch, Transact, TransactAck, Transacted
from tests.core.groups import GroupBench
from tests.core.helpers import LINK, OTHER_LINK, SECOND

MS = limits.MS


@pytest.fixture
def bench():
    found = GroupBench()
    found.join()
    return found


def queue(bench, name="q", **settings):
    bench.done("group.create", group=name, kind="queue", **settings)


def codes(bench, link=LINK):
    """What was confirmed or refused over a link, by its code."""
    return [c.code for frame in bench.take(link, Confirm) for c in frame.confirmations]


def batch(topic, *values, job=True, **options):
    """One batch as a transaction has it."""
    data = (
        codec.encode_jobs(list(values), None, None, None, 0, codec.JobOptions(**options))
        if options
        else codec.encode_batch(list(values), None, None, None, 0)
    )
    row = PublishBatch(topic, 1, 0, len(values), len(data), zlib.crc32(data), False, job)
    return row, data


def transact(bench, number, *batches, acks=()):
    said = tuple([TransactAck(1, n, i, 1) for _, n, i, _ in acks])
    payload = b"".join([data for _, data in batches])
    bench.send(Transact(number, said, tuple([row for row, _ in batches]), payload))
    bench.settle_down()
    return bench.take(LINK, Transacted)[-1]


# -- bounds ----------------------------------------------------------------------------------------


def test_what_is_not_synced_yet_counts_records(bench):
    queue(bench, max_records=3)
    bench.join(OTHER_LINK, instance=b"j" * 16)
    bench.put("q", b"1", b"2", sync=False)
    bench.put("q", b"3", b"4", sync=False, link=OTHER_LINK)
    assert codes(bench, OTHER_LINK) == ["queue-full"]
    bench.put("$priority.3.q", b"3", sync=False, link=OTHER_LINK, priority=3)
    bench.put("$delayed.q", b"4", sync=False, link=OTHER_LINK, due_ms=1)
    assert codes(bench, OTHER_LINK) == ["queue-full"]
    bench.settle_down()
    assert bench.show("q")["records"] == 3
    group = bench.node.groups.by_name["q"]
    assert (group.unsynced, group.unsynced_bytes) == (0, 0)


def test_what_is_not_synced_yet_counts_bytes(bench):
    queue(bench, max_bytes=2000)
    rows = [batch("q", b"x" * 800)[1] for _ in range(8)]
    frame = tuple(
        [PublishBatch("q", i + 1, i, 1, len(d), zlib.crc32(d)) for i, d in enumerate(rows)]
    )
    bench.send(Publish(frame, b"".join(rows)))
    bench.settle_down()
    assert bench.show("q")["records"] == 2
    assert bench.show("q")["bytes"] <= 2000


def test_what_never_fits_is_told_so(bench):
    queue(bench, max_records=2)
    queue(bench, "b", max_bytes=100_000)
    bench.put("q", b"1", b"2", b"3")
    bench.put("b", b"x" * 100_000)
    messages = [c.message for f in bench.take(LINK, Confirm) for c in f.confirmations]
    assert messages == [
        "queue 'q' holds at most 2 jobs: one batch of more never fits, put fewer at a time",
        "queue 'b' holds at most 100kB: one batch of more never fits, put fewer at a time",
    ]


def test_a_transaction_is_judged_as_a_whole_over_its_batches_and_lanes(bench):
    queue(bench, max_records=10)
    queue(bench, "b", max_bytes=5000)
    bench.put("q", b"1")
    ids = [batch("q", b"x", dedup=bytes([i]) * 16) for i in range(10)]
    lanes = [batch(f"$priority.{p}.q", b"x", b"y", priority=p) for p in range(1, 6)]
    large = [batch("b", b"x" * 600, dedup=bytes([i]) * 16) for i in range(8)]
    for number, batches in enumerate([ids, lanes, large], 1):
        answer = transact(bench, number, *batches)
        assert answer.code == "queue-full"
    assert (bench.show("q")["records"], bench.show("b")["records"]) == (1, 0)
    assert transact(bench, 4, *ids[:9]).code == ""
    assert bench.show("q")["records"] == 10
    group = bench.node.groups.by_name["q"]
    assert (group.unsynced, group.unsynced_bytes) == (0, 0)


def test_of_a_refused_transaction_nothing_is_done(bench):
    queue(bench, max_records=1)
    bench.put("a", b"1")
    bench.consume("g", "a")
    (got,) = bench.got()
    both = [batch("q", b"x"), batch("out", b"y", job=False), batch("$priority.1.q", b"z")]
    assert transact(bench, 1, *both, acks=[got]).code == "queue-full"
    assert "out" not in bench.node.topics.by_name
    assert bench.show("g")["in_flight"] == 1
    assert transact(bench, 1, *both[:2], acks=[got]).code == ""


def test_what_a_transaction_acks_makes_room_for_what_it_puts(bench):
    """Else a full queue whose workers put the next step into it would stand still for ever."""
    queue(bench, max_records=2, max_bytes=1000)
    bench.put("q", b"1" * 300)
    bench.put("q", b"2" * 300)
    bench.consume("q", kind="queue")
    got = bench.got()
    assert transact(bench, 1, batch("q", b"3" * 300), acks=got[:1]).code == ""
    assert transact(bench, 2, batch("q", b"4" * 300), batch("q", b"5"), acks=got[1:]).code == (
        "queue-full"
    )
    assert bench.show("q")["records"] == 2


def test_what_a_queue_has_already_needs_no_room(bench):
    queue(bench, max_records=1)
    bench.put("q", b"1", dedup=b"d" * 16)
    bench.put("q", b"1", dedup=b"d" * 16)
    assert codes(bench) == ["", ""]
    same = batch("q", b"1", dedup=b"d" * 16)
    assert transact(bench, 1, same, same).code == ""
    bench.consume("q", kind="queue")
    bench.ack(*bench.got())
    one = batch("q", b"2", dedup=b"e" * 16)
    assert transact(bench, 2, one, one).code == ""
    assert bench.show("q")["records"] == 1


def test_a_duplicate_of_a_job_in_a_transaction_is_confirmed_when_that_is_synced(bench):
    queue(bench)
    bench.put("q", b"before", sync=False)
    row, data = batch("q", b"1", dedup=b"d" * 16)
    bench.send(Transact(1, (), (row,), data))
    bench.put("q", b"again", dedup=b"d" * 16, sync=False)
    bench.put("$priority.2.q", b"again", dedup=b"d" * 16, priority=2, sync=False)
    first, *rest = bench.appends
    bench.appends = [first]
    bench.sync()
    assert codes(bench) == [""]
    bench.appends = rest + bench.appends
    bench.settle_down()
    assert codes(bench) == ["", ""]


def test_until_the_log_has_said_how_large_a_queue_is_its_producers_wait(bench):
    queue(bench, max_bytes=1000)
    bench.put("q", b"x" * 700)
    survey, bench.disk.survey = bench.disk.survey, None
    kept = []
    bench.disk.survey = lambda order: kept.append(order)
    bench.crash()
    bench.join()
    bench.nexts.clear()
    bench.put("q", b"y" * 700, link=LINK)
    bench.join(OTHER_LINK, instance=b"j" * 16)
    bench.put("q", b"y" * 700, link=OTHER_LINK)
    assert codes(bench, OTHER_LINK) == ["busy"]
    for order in kept:
        bench.handle(survey(order))
    bench.put("q", b"y" * 700, link=OTHER_LINK)
    bench.nexts[OTHER_LINK, "q"] = 1
    bench.put("q", b"y" * 700, link=OTHER_LINK)
    assert "queue-full" in codes(bench, OTHER_LINK)


# -- a job needs a queue ---------------------------------------------------------------------------


def test_a_job_is_never_stored_where_there_is_no_queue(bench):
    row, data = batch("q", b"1")
    bench.send(Publish((row,), data))
    bench.settle_down()
    assert codes(bench) == ["group-not-found"]
    assert transact(bench, 1, (row, data)).code == "group-not-found"
    assert "q" not in bench.node.topics.by_name
    bench.done("topic.create", pattern="q", durability="transient")
    bench.send(Publish((row,), data))
    assert codes(bench) == ["group-not-found"]
    assert bench.node.topics.by_name["q"].published == 0
    bench.put("plain", b"no job")
    assert codes(bench) == [""]


# -- ids -------------------------------------------------------------------------------------------


def remembered(bench):
    """Ids by group, in their window: as the node goes by them, and as after a restart."""
    now_ms = bench.node.groups.shared.wall_now_ms

    def valid(state):
        after = now_ms - state.settings.dedup_ns // MS
        return [dedup for dedup, row in state.dedups.items() if row[2] >= after]

    now = {g.settings.id: valid(g.state) for g in bench.node.groups.by_name.values()}
    return now, {n: valid(g) for n, g in bench.disk.state.journal.groups.items()}


def test_the_oldest_ids_are_forgotten_and_a_restart_remembers_the_same(bench, monkeypatch):
    monkeypatch.setattr(limits, "DEDUP_IDS_MAX", 3)
    queue(bench)
    queue(bench, "r")
    for i, name in enumerate(["q", "r", "q", "r", "q"]):
        bench.wait(MS)
        bench.put(name, b"v", dedup=bytes([i]) * 16)
    assert codes(bench) == [""] * 5
    now, log = remembered(bench)
    assert now == log
    assert sorted(one[0] for ids in now.values() for one in ids) == [2, 3, 4]
    bench.crash()
    assert remembered(bench)[0] == now


@pytest.mark.parametrize("seed", range(30))
def test_ids_are_forgotten_alike_by_node_and_journal(bench, monkeypatch, seed):
    """Many in one turn, in transactions, said again after they were forgotten, windows that end."""
    monkeypatch.setattr(limits, "DEDUP_IDS_MAX", 5)
    rng = random.Random(seed)
    names = ["q", "r", "s"]
    for name in names:
        queue(bench, name, dedup_ns=rng.choice([2, 10]) * SECOND)
    number = 0
    for _ in range(60):
        name, dedup = rng.choice(names), bytes([rng.randrange(12)]) * 16
        if rng.random() < 0.3:
            number += 1
            more = [bytes([rng.randrange(12)]) * 16 for _ in range(3)]
            transact(bench, number, *[batch(name, b"v", dedup=d) for d in (dedup, *more)])
        else:
            bench.put(name, b"v", dedup=dedup, sync=rng.random() < 0.5)
        if rng.random() < 0.2:
            bench.settle_down()
            bench.wait(rng.randrange(1, 3000) * MS)
        if rng.random() < 0.1:
            bench.settle_down()
            now, log = remembered(bench)
            assert now == log
            bench.crash()
            bench.join()
        groups = bench.node.groups.by_name.values()
        assert sum([len(g.state.dedups) for g in groups]) <= 5


# -- settings --------------------------------------------------------------------------------------


def test_a_dedup_window_is_at_most_seven_days(bench):
    queue(bench, dedup_ns=7 * limits.DAY)
    code, message, _ = bench.command("group.set", group="q", dedup_ns=8 * limits.DAY)
    assert (code, message) == ("command-failed", "dedup window is at most 7d, not 8d")
    code, message, _ = bench.command("group.set", group="q", max_bytes=1 << 54)
    assert message == "max bytes is at most 8192TiB, not 16384TiB"


@pytest.mark.parametrize(
    ("ns", "said"),
    [
        (0, "0s"), (1, "0.000000001s"), (1_500_000, "0.0015s"), (20 * MS, "20ms"),
        (1_500 * MS, "1500ms"), (90 * SECOND, "90s"), (600 * SECOND, "10m"),
        (36 * 3600 * SECOND, "36h"), (365 * limits.DAY, "365d"),
    ],
)  # fmt: skip
def test_durations_in_words(ns, said):
    assert units.duration(ns) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0B"), (1234, "1234B"), (100_000, "100kB"), (10**10, "10GB"), (64 << 20, "64MiB")],
)
def test_sizes_in_words(count, said):
    assert units.size(count) == said
