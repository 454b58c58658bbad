"""Members that lie: what they say costs them their session or one refusal, never the node."""

from __future__ import annotations

import zlib

import pytest

from meshmq import codec, limits
from meshmq.core import group_hands
from meshmq.core.journal import Transactions
from meshmq.frames import (
    ACK,
    BACKOFF,
    EXTEND,
    NACK,
    REJECT,
    Confirm,
    Consume,
    Consumed,
    Holding,
    Publish,
    PublishBatch,
    Refuse,
    Revoke,
    Settle,
    Settled,
    SettleRow,
    Transact,
    Transacted,
)
from tests.core.groups import GroupBench
from tests.core.helpers import LINK, OTHER_LINK, SECOND

WHOLE = 2**64 - 1


@pytest.fixture
def bench():
    bench = GroupBench()
    bench.join()
    return bench


def restarted(bench, **settings):
    """A member had two records; the node begins anew, and it is back."""
    bench.put("a", b"1", b"2")
    bench.consume("g", "a", **settings)
    bench.got()
    bench.crash()
    bench.join()


def every_other(bench, kind=ACK):
    """A member has 4,096 records and settles every other one; the hand-out's number."""
    bench.put("a", *[b"x"] * 4096)
    bench.consume("g", "a", prefetch=4096, timeout_s=5)
    number = bench.got()[0][1]
    for half in range(2):
        rows = [SettleRow(number, half * 2048 + 2 * i, 1, kind) for i in range(1024)]
        assert bench.settle(*rows).stale == ()
    return number


@pytest.mark.parametrize(
    "claim",
    [
        Holding(5, "a", (0,), 0),  # no attempt is the 0th
        Holding(5, "a", (0, 0), 1),
        Holding(5, "a", (2,), 1),  # not published yet
        Holding(5, "a", (WHOLE,), 1),
        Holding(5, "$journal", (0,), 1),
        Holding(5, "other", (0,), 1),
        Holding(5, "transient", (0,), 1),
    ],
)
def test_what_cannot_have_been_handed_out_is_not_taken_back(bench, claim):
    bench.put("other", b"x")
    bench.done("topic.create", pattern="transient", durability="transient")
    restarted(bench)
    answer = bench.consume("g", "a", holdings=(claim,))
    assert answer.lost == (5,)
    bench.settle(SettleRow(5, 0, 1, NACK, BACKOFF))
    bench.put("a", b"3")
    bench.wait(3 * SECOND)
    assert sorted(bench.values()) == [b"1", b"2", b"3"]


def test_nobody_claims_a_number_that_the_node_will_give_out(bench):
    restarted(bench)
    bench.join(OTHER_LINK, instance=b"j" * 16)
    bench.put("z", b"1")
    bench.consume("h", "z", number=9)
    number = bench.got()[0][1]
    claim = Holding(number + 1, "a", (1,), 1)
    assert bench.consume("g", "a", holdings=(claim,)).lost == (number + 1,)
    bench.consume("g", "a", link=OTHER_LINK)
    bench.wait(3 * SECOND)
    bench.settle(SettleRow(number + 1, 0, 1, ACK))
    for item in bench.got(OTHER_LINK):
        bench.ack(item, link=OTHER_LINK)
    assert bench.show("g")["in_flight"] + bench.show("g")["acked"] == 2


def test_a_claim_of_more_than_was_handed_out_is_lost(bench):
    bench.put("a", b"1", b"2")
    bench.consume("g", "a")
    number = bench.got()[0][1]
    bench.lose()
    bench.join()
    answer = bench.consume("g", "a", holdings=(Holding(number, "a", (0, 1, 2), 1),))
    assert answer.lost == (number,)
    assert bench.values() == [b"1", b"2"]


def test_two_sessions_of_one_program_lost_at_once_lose_no_record(bench):
    bench.put("a", b"1", b"2")
    bench.join(OTHER_LINK)
    bench.consume("g", "a", prefetch=1, timeout_s=86_400)
    bench.consume("g", "a", prefetch=1, timeout_s=86_400, link=OTHER_LINK)
    assert len(bench.values() + bench.values(OTHER_LINK)) == 2
    bench.lose()
    bench.lose(OTHER_LINK)
    bench.sequences.clear()
    bench.wait(SECOND)
    bench.join()
    bench.consume("g", "a")
    bench.wait(SECOND)
    assert sorted(bench.values()) == [b"1", b"2"]


def test_what_was_acked_is_remembered_in_few_runs(bench):
    bench.put("a", *[b"x"] * 4096)
    bench.consume("g", "a", prefetch=4096)
    number = bench.got()[0][1]
    for i in range(0, 4096, 1024):
        bench.settle(*[SettleRow(number, at, 1, ACK) for at in range(i, i + 1024)])
    members = bench.node.groups.members
    assert list(members._done.values()) == [[(0, 4096)]]


def test_only_so_many_runs_are_remembered(bench, monkeypatch):
    monkeypatch.setattr(limits, "ACKED_RUNS_REMEMBERED_MAX", 3)
    bench.consume("g", "a")
    for _ in range(10):
        bench.put("a", b"1", b"2", b"3")
        one, two, three = bench.got()
        bench.ack(one)
        bench.ack(three)
        bench.settle(SettleRow(two[1], 1, 1, REJECT))
        bench.put("a", b"4")
        bench.ack(*bench.got())
    members = bench.node.groups.members
    assert members._done_runs == sum(map(len, members._done.values())) <= 3


def test_a_long_reason_is_cut(bench):
    bench.put("a", b"1")
    bench.consume("g", "a")
    bench.nack(bench.got()[0], 10, reason="r" * 100_000)
    (mark,) = bench.node.groups.by_name["g"].state.marks.values()
    assert len(mark.reason) == limits.REASON_BYTES_MAX


@pytest.mark.parametrize("delay", [-(2**63), -2, BACKOFF, 0])
def test_no_delay_loses_a_record(bench, delay):
    bench.put("a", b"1")
    bench.consume("g", "a")
    bench.wait(5 * SECOND)
    bench.settle(SettleRow(bench.got()[0][1], 0, 1, NACK, delay))
    bench.wait(5 * SECOND)
    assert bench.values() == [b"1"]
    assert bench.show("g")["retrying"] == 0


def test_extensions_of_every_length_take_bounded_room(bench):
    bench.put("a", *[b"x"] * 4000)
    bench.consume("g", "a", prefetch=4096)
    number = bench.got()[0][1]
    for first in range(8):
        rows = [
            SettleRow(number, first, 3990 - i, EXTEND, 10 * SECOND - first * 1024 - i)
            for i in range(1024)
        ]
        bench.settle(*rows)
    assert len(bench.node.groups.by_name["g"]._deadlines) < 5000


def test_deadlines_of_what_is_settled_are_forgotten(bench):
    bench.consume("g", "a", timeout_s=86_400)
    for _ in range(50):
        for _ in range(200):
            bench.put("a", b"x", sync=False)
        bench.settle_down()
        bench.ack(*bench.got())
    assert len(bench.node.groups.by_name["g"]._deadlines) < 5000


def test_who_settles_what_is_not_his_again_and_again_loses_his_session(bench):
    number = every_other(bench)
    bench.send(Settle(1, 9, (SettleRow(number, 0, 4096, EXTEND, SECOND),) * 100))
    assert [answer.code for answer in bench.take(LINK, Refuse)] == ["bad-frame"]
    assert LINK in bench.closed


def test_answers_fit_their_frames(bench):
    number = every_other(bench)
    bench.settle(SettleRow(number, 0, 4096, EXTEND, SECOND), sync=False)
    bench.settle_down()
    answers = bench.take(LINK, Settled)
    assert [len(a.stale) for a in answers] == [1024, 1024]
    assert [a.number for a in answers] == [0, 3]
    bench.wait(8 * SECOND)
    revoked = bench.take(LINK, Revoke)
    assert [len(frame.rows) for frame in revoked[:2]] == [1024, 1024]


def test_ranges_of_dead_letters_that_overlap_are_taken_once(bench):
    bench.put("a", *[b"x"] * 4000)
    bench.consume("g", "a", prefetch=4096)
    number = bench.got()[0][1]
    bench.settle(SettleRow(number, 0, 4000, REJECT))
    bench.settle_down()
    ranges = [[0, 1 << 60], [5, 3], [3999, 1]] * 1000
    assert bench.done("dlq.purge", group="g", ranges=[[i, 1] for i in range(0, 4000, 2)]) == {
        "purged": 2000
    }
    assert bench.done("dlq.replay", group="g", ranges=[[0, 2], [1, 3], [9, 1]]) == {"replaying": 3}
    assert bench.done("dlq.purge", group="g", ranges=ranges)["purged"] >= 1997


@pytest.mark.parametrize("said", ["²", "9" * 4000, "-1", "x", ""])
def test_a_programs_own_headers_of_replays_do_no_harm(bench, said):
    head = codec.encode_headers({"$replays": said})
    data = codec.encode_batch([b"v"], None, [head], None, 0)
    row = PublishBatch("a", 1, 0, 1, len(data), zlib.crc32(data))
    bench.send(Publish((row,), data))
    bench.settle_down()
    bench.consume("g", "a")
    bench.reject(bench.got()[0])
    bench.settle_down()
    assert bench.done("dlq.replay", group="g") == {"replaying": 1}
    bench.settle_down()
    assert bench.values() == [b"v"]


@pytest.mark.parametrize("depth", [500, 900, 960, 980, 990, 995])
@pytest.mark.parametrize("field", [b"max_deliveries", b"start", b"kind", b"group", b"pattern"])
def test_deep_json_is_refused(bench, field, depth):
    deep = b'{"' + field + b'":' + b"[" * depth + b"]" * depth + b"}"
    bench.send(Consume(1, "g", "", deep, 0, 2**32 - 1, 2**63))
    bench.settle_down()
    (answer,) = bench.take(LINK, Consumed)
    assert answer.code in ("command-failed", "invalid-name"), answer


def test_dead_letters_with_what_they_say_of_themselves_fit_a_frame(bench):
    bench.put("a", *[b"x"] * 4096)
    bench.consume("g", "a", prefetch=4096)
    number = bench.got()[0][1]
    bench.settle(SettleRow(number, 0, 4096, REJECT, 0, "r" * 1000))
    bench.settle_down()
    topic = bench.node.topics.by_name["$dlq.g"]
    assert topic.synced_offset == 4096
    batches = [
        b for c in bench.disk.commits for b in c.batches if b.stream == topic.entry.stream
    ]  # fmt: skip
    assert sum(b.count for b in batches) == 4096
    assert max(len(b.payload) for b in batches) <= 2 * limits.BATCH_BYTES_TARGET


def test_a_group_of_which_too_much_failed_reads_no_more_until_it_is_due(bench):
    bench.consume("g", "a", prefetch=10, max_held=20, backoff_ns=60 * SECOND)
    for _ in range(10):
        bench.put("a", *[bytes(100_000)] * 10)
    seen = 0
    while got := bench.got():
        seen += len(got)
        bench.settle(*[SettleRow(n, i, 1, NACK, BACKOFF) for _, n, i, _ in got])
    assert 20 <= seen <= 50  # what was read ahead goes out
    assert bench.show("g")["state"] == "stopped"
    bench.wait(80 * SECOND)
    while got := bench.got():
        bench.ack(*got)
        bench.wait(SECOND)
    assert bench.show("g")["records"] == 0


# -- transactions ------------------------------------------------------------------------------


def test_what_became_of_a_transaction_that_was_overtaken_is_not_made_up(bench):
    assert bench.transact(2**64 - 1, [], [("t", b"1")]).offsets == (0,)
    assert bench.transact(2**64 - 1, [], [("t", b"1")]).offsets == (0,)
    assert bench.transact(5, [], [("t", b"2")]).code == "transaction-failed"
    assert bench.node.topics.by_name["t"].synced_offset == 1


def test_a_flood_of_transactions_waits_for_the_disk_within_bounds(bench):
    data = codec.encode_batch([bytes(1 << 20)], None, None, None, 0)
    row = PublishBatch("t", 1, 0, 1, len(data), zlib.crc32(data))
    for number in range(1, 60):
        bench.send(Transact(number, (), (row,), data))
    assert bench.node.admission.waiting_bytes <= limits.PRODUCER_UNSYNCED_BYTES_MAX
    bench.settle_down()
    answers = bench.take(LINK, Transacted)
    assert len(answers) == 59
    assert {a.code for a in answers} == {"", "transaction-failed"}
    assert sum(not a.code for a in answers) == bench.node.topics.by_name["t"].synced_offset
    assert bench.node.admission.waiting_bytes == 0


def test_a_transaction_that_has_a_job_twice_puts_it_once(bench):
    bench.done("group.create", group="q", kind="queue")
    data = codec.encode_jobs([b"v"], None, None, None, 0, codec.JobOptions(dedup=b"d" * 16))
    row = PublishBatch("q", 1, 0, 1, len(data), zlib.crc32(data))
    bench.send(Transact(1, (), (row, row), data + data))
    bench.settle_down()
    assert bench.take(LINK, Transacted)[0].offsets == (0, 0)
    assert bench.show("q")["records"] == 1


@pytest.mark.parametrize("topic", ["$journal", "$dlq.g", "$retry.g", "$delayed.none", "a b", "$x"])
def test_nobody_writes_into_the_meshs_own_topics(bench, topic):
    bench.put("a", b"x")
    bench.consume("g", "a")
    bench.reject(bench.got()[0])
    bench.settle_down()
    before = {n: t.next_offset for n, t in bench.node.topics.by_name.items()}
    code = bench.transact(1, [], [(topic, b"1")]).code
    assert code == ("group-not-found" if topic == "$delayed.none" else "transaction-failed")
    bench.put(topic, b"1")
    assert bench.take(LINK, Confirm)[-1].confirmations[0].code in (
        "invalid-name", "group-not-found",
    )  # fmt: skip
    assert {n: t.next_offset for n, t in bench.node.topics.by_name.items()} == before


def test_offsets_of_transactions_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr(limits, "TRANSACTION_OFFSETS_REMEMBERED_MAX", 10)
    known = Transactions()
    for i in range(5):
        known.note(bytes([i]) * 16, 1, (1, 2, 3))
    assert len(known) == 3
    known.note(bytes([2]) * 16, 2, ())
    known.note(b"x" * 16, 1, (1,) * 20)
    assert [number for _, (number, _) in known.items()] == [1]


def test_a_whole_prefetch_is_taken_back_a_part_at_a_time(bench, monkeypatch):
    monkeypatch.setattr(group_hands, "EXPIRED_A_TURN", 20)
    for _ in range(10):
        bench.put("a", *[b"x"] * 10)
    bench.consume("g", "a", prefetch=100, timeout_s=1)
    assert len(bench.values()) == 100
    group = bench.node.groups.by_name["g"]
    bench.now_ns += 3 * SECOND // 2
    group.tick(bench.now_ns)
    assert 20 <= group.expired <= 30
    assert group.next_deadline_ns(bench.now_ns) <= bench.now_ns
    while group.expired < 100:
        group.tick(bench.now_ns)
    bench.wait(SECOND // 2)
    assert len(bench.values()) == 100
