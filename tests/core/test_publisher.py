"""The producing side: how records gather, leave, come back and end."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from meshmq import limits
from meshmq.client.receipt import Promise
from meshmq.core.lanes import DONE, FAILED, WAITING
from meshmq.core.publisher import TOPIC_DEFAULT, Publisher
from meshmq.errors import (
    NOT_DONE,
    UNKNOWN,
    BatchRefused,
    ClosedError,
    LinkLost,
    ProducerUnknown,
)
from meshmq.frames import SENT, SYNCED
from tests.core.helpers import ORIGIN, OTHER_ORIGIN, SECOND, encode
from tests.core.publishing import add, answer, no, outcome, reconnect, rows, take, yes

TARGET = limits.BATCH_BYTES_TARGET


@pytest.fixture
def pub():
    return Publisher(encode, nullcontext())


# -- rule 1: natural batching --------------------------------------------------------------------


def test_a_lone_record_leaves_at_once(pub):
    add(pub, "a", b"1")
    assert pub.has_work
    assert take(pub) == [("a", 1, 0, [b"1"])]
    assert not pub.has_work
    assert pub.frames_in_flight == 1


def test_what_gathers_while_two_frames_are_under_way_leaves_in_one(pub):
    assert limits.PARTIAL_FRAMES_IN_FLIGHT == 2
    add(pub, "a", b"1")
    take(pub)
    add(pub, "a", b"2")
    assert take(pub) == [("a", 2, 1, [b"2"])]
    add(pub, "a", b"3", b"4")
    assert not pub.has_work
    assert take(pub) == []
    add(pub, "a", b"5")
    answer(pub, yes("a", 1, 1))
    assert pub.has_work
    assert take(pub) == [("a", 3, 2, [b"3", b"4", b"5"])]


def test_a_full_batch_does_not_wait(pub):
    add(pub, "a", b"1")
    take(pub)
    add(pub, "a", b"2")
    take(pub)
    add(pub, "a", b"x" * TARGET)
    assert pub.node.full
    assert pub.has_work
    add(pub, "a", b"3")
    assert [r[:3] for r in take(pub)] == [("a", 3, 2)]
    assert take(pub) == []


def test_a_batch_closes_at_its_bytes_or_its_records(pub, monkeypatch):
    monkeypatch.setattr("meshmq.limits.BATCH_RECORDS_MAX", 10)
    batch, index = add(pub, "a", *[b""] * 10)
    assert (batch.count, index) == (10, 9)
    half = b"x" * (TARGET // 2 - limits.RECORD_OVERHEAD_BYTES)
    add(pub, "a", half)
    full, _ = add(pub, "a", half)
    last, _ = add(pub, "a", b"next")
    assert full is not last
    assert (full.first, full.count, last.first) == (11, 2, 13)


def test_a_large_value_does_not_join_a_batch_that_has_no_room_for_it(pub):
    pub.way_of = lambda topic: pub.direct
    small, large = b"x" * limits.KIB, b"y" * limits.VALUE_BYTES_MAX
    for _ in range(limits.DIRECT_BATCH_BYTES // limits.KIB - 10):
        full, _ = add(pub, "a", small)
    lone, _ = add(pub, "a", large)
    assert (lone.first, lone.count, lone.state) == (full.count + 1, 1, WAITING)
    assert max(full.size, lone.size) <= limits.BATCH_BYTES_MAX
    for _ in range(limits.DIRECT_BATCH_BYTES // limits.KIB - 10):
        full, _ = add(pub, "a", small)
    both, _ = add(pub, "a", large[: limits.LARGE_VALUE_BYTES])
    assert both is full
    assert both.size <= limits.BATCH_BYTES_MAX


def test_directly_each_batch_goes_by_itself_without_a_checksum(pub):
    pub.way_of = lambda topic: pub.direct
    for i in range(3):
        add(pub, f"t{i}", b"v")
    frames = pub.take(ORIGIN, pub.direct)
    assert [[b.topic for b in f.batches] for f in frames] == [["t0"], ["t1"], ["t2"]]
    assert {b.checksum for f in frames for b in f.batches} == {0}


def test_small_batches_of_many_topics_share_a_frame(pub):
    for i in range(5):
        add(pub, f"t{i}", b"v")
    (frame,) = pub.take(ORIGIN)
    assert rows([frame]) == [(f"t{i}", 1, 0, [b"v"]) for i in range(5)]
    assert pub.frames_in_flight == 1
    answer(pub, *[yes(f"t{i}", 1, 1) for i in range(4)])
    assert pub.frames_in_flight == 1
    answer(pub, yes("t4", 1, 1))
    assert pub.frames_in_flight == 0


def test_a_shared_frame_is_bounded_in_bytes_and_batches(pub, monkeypatch):
    monkeypatch.setattr("meshmq.limits.FRAME_PAYLOAD_BYTES_TARGET", 250)
    for i in range(5):
        add(pub, f"t{i}", b"x" * 96)  # 100 bytes encoded
    assert [len(f.batches) for f in pub.take(ORIGIN)] == [2, 2, 1]
    monkeypatch.setattr("meshmq.limits.FRAME_BATCHES_MAX", 3)
    reconnect(pub)
    monkeypatch.setattr("meshmq.limits.FRAME_PAYLOAD_BYTES_TARGET", 10_000)
    assert [len(f.batches) for f in pub.take(ORIGIN)] == [3, 2]


def test_a_slice_of_many_is_a_batch_of_its_own_with_its_columns(pub):
    add(pub, "a", b"1")
    seen = []

    def spy(*columns):
        seen.append(columns)
        return encode(*columns)

    pub._encode = spy
    batch = pub.add_many("a", (b"2", b"3"), [b"k", b""], None, [8, 9], lambda: 5, TOPIC_DEFAULT)
    assert take(pub) == [("a", 1, 0, [b"1"]), ("a", 2, 1, [b"2", b"3"])]
    assert batch.count == 2
    assert seen[1] == ([b"2", b"3"], [b"k", b""], None, [8, 9], 5)


def test_columns_begin_where_they_are_first_used(pub):
    seen = []

    def spy(*columns):
        seen.append(columns)
        return encode(*columns)

    pub._encode = spy
    add(pub, "a", b"1")
    pub.add("a", b"2", b"k", None, None, lambda: 9, TOPIC_DEFAULT, None)
    pub.add("a", b"3", None, b"h", 33, lambda: 9, TOPIC_DEFAULT, None)
    add(pub, "a", b"4")
    take(pub)
    assert seen == [
        (
            [b"1", b"2", b"3", b"4"], [b"", b"k", b"", b""], [b"", b"", b"h", b""],
            [5, 5, 33, 5], 5,
        )
    ]  # fmt: skip


def test_records_that_want_another_durability_do_not_share_a_batch(pub):
    one, _ = add(pub, "a", b"1")
    two, _ = add(pub, "a", b"2", wanted=SYNCED)
    assert one is not two
    assert take(pub) == [("a", 1, 0, [b"1"]), ("a", 2, 1, [b"2"])]


def test_a_batch_is_plain_while_it_holds_nothing_but_values(pub):
    lane = pub.lane("a")
    assert lane.plain is None
    batch, _ = add(pub, "a", b"1")
    assert lane.plain is batch
    for key, headers, time_ns in ((b"k", None, None), (None, b"h", None), (None, None, 5)):
        pub.add("a", b"2", key, headers, time_ns, lambda: 5, TOPIC_DEFAULT, None)
        assert lane.plain is None
        pub.close(lane.open)
    add(pub, "a", b"3", wanted=SYNCED)
    assert lane.plain is None
    add(pub, "a", b"9", sequence=9)
    assert lane.plain is None
    pub.close(lane.open)
    add(pub, "a", b"10")
    assert lane.plain is lane.open is not None
    take(pub)
    assert lane.plain is None


# -- rule 2: sequences -----------------------------------------------------------------------------


def test_each_topic_counts_its_own_records_from_one(pub):
    add(pub, "a", b"1", b"2")
    add(pub, "b", b"1")
    assert take(pub) == [("a", 1, 0, [b"1", b"2"]), ("b", 1, 0, [b"1"])]
    add(pub, "a", b"3")
    add(pub, "b", b"2")
    assert take(pub) == [("a", 3, 2, [b"3"]), ("b", 2, 1, [b"2"])]


def test_the_program_may_number_its_records_itself(pub):
    add(pub, "a", b"1", b"2", sequence=1)
    add(pub, "a", b"9", sequence=9)
    add(pub, "a", b"10")
    assert take(pub) == [("a", 1, 0, [b"1", b"2"]), ("a", 9, 2, [b"9", b"10"])]
    assert pub.lanes["a"].explicit


def test_a_program_that_repeats_an_old_number_names_no_later_one(pub):
    add(pub, "a", b"1", b"2", b"3", sequence=1)
    add(pub, "a", b"2", sequence=2)
    assert take(pub) == [("a", 1, 0, [b"1", b"2", b"3"]), ("a", 2, 1, [b"2"])]


def test_a_batch_goes_again_with_its_bytes_and_sequences_after_a_lost_session(pub):
    add(pub, "a", b"1", b"2")
    (before,) = pub.take(ORIGIN)
    assert not before.batches[0].resent
    reconnect(pub)
    (after,) = pub.take(ORIGIN)
    assert after.payload == before.payload
    assert after.batches == (before.batches[0]._replace(resent=True),)
    reconnect(pub)
    assert pub.take(ORIGIN) == [after]


def test_after_a_lost_session_the_order_is_as_before(pub):
    for i in range(1, 6):
        add(pub, "a", b"x" * TARGET + b"%d" % i)
        add(pub, "b", b"%d" % i)
        if i <= 3:
            take(pub)
    reconnect(pub)
    found = take(pub)
    assert [r[1] for r in found if r[0] == "a"] == [1, 2, 3, 4, 5]
    assert [(r[1], r[3]) for r in found if r[0] == "b"] == [
        (1, [b"1"]), (2, [b"2", b"3", b"4", b"5"])
    ]  # fmt: skip


def test_only_what_was_not_confirmed_goes_again(pub):
    add(pub, "a", b"1")
    take(pub)
    add(pub, "a", b"2")
    take(pub)
    answer(pub, yes("a", 1, 1))
    reconnect(pub)
    assert take(pub) == [("a", 2, 1, [b"2"])]


# -- rule 3: how a batch ends ----------------------------------------------------------------------


def test_one_confirmation_may_answer_many_batches(pub):
    held = []
    for i in range(3):
        held.append(add(pub, "a", b"x" * TARGET)[0])
        add(pub, "b", b"%d" % i)
    pub.take(ORIGIN)
    answer(pub, yes("a", 1, 3, base=40))
    assert [(b.state, b.base_offset) for b in held] == [(DONE, 40), (DONE, 41), (DONE, 42)]
    assert {b.origin for b in held} == {ORIGIN}
    assert {(b.append_time_ns, b.topic_id, b.durability) for b in held} == {(77, b"t" * 16, SYNCED)}
    assert pub.confirmed_records == 3
    assert pub.take_finished() == held
    assert pub.take_finished() == []


def test_a_confirmation_is_not_taken_for_another_batch(pub):
    one, _ = add(pub, "a", b"1")
    take(pub)
    two, _ = add(pub, "a", b"2")
    take(pub)
    answer(pub, yes("a", 2, 1, base=9))  # a repeat of the first is answered later
    assert (one.state, two.state, two.base_offset) == (WAITING, DONE, 9)
    answer(pub, yes("a", 1, 1, base=4))
    assert (one.state, one.base_offset) == (DONE, 4)


@pytest.mark.parametrize(
    "told", [yes("other", 1, 1), yes("a", 2, 9), yes("a", 1, 0), no("a", 2, "batch-refused")]
)
def test_an_answer_to_nothing_changes_nothing(pub, told):
    batch, _ = add(pub, "a", b"1")
    take(pub)
    answer(pub, told)
    assert batch.state == WAITING
    assert pub.frames_in_flight == 1


def test_a_second_answer_changes_nothing(pub):
    batch, _ = add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1, base=3), yes("a", 1, 1, base=8), no("a", 1, "batch-refused"))
    assert (batch.state, batch.base_offset) == (DONE, 3)
    assert pub.is_idle


def test_a_duplicate_is_done_with_or_without_its_offset(pub):
    known, _ = add(pub, "a", b"1")
    forgotten, _ = add(pub, "b", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1, base=6, duplicate=True))
    answer(pub, yes("b", 1, 1, base=6, duplicate=True, has_offset=False))
    assert (known.state, known.base_offset, known.duplicate) == (DONE, 6, True)
    assert (forgotten.state, forgotten.base_offset) == (DONE, None)


def test_transient_records_under_way_are_lost_with_the_link_and_told_as_unknown(pub):
    add(pub, "t", b"1")
    take(pub)
    answer(pub, yes("t", 1, 1, durability=SENT, has_offset=False))
    under_way, _ = add(pub, "t", b"2")
    take(pub)
    waiting, _ = add(pub, "t", b"3")
    pub.on_session_lost()
    assert outcome(under_way) == ("link-lost", UNKNOWN)
    pub.on_origin(ORIGIN, 0)
    assert take(pub) == [("t", 3, 2, [b"3"])]
    assert waiting.state == WAITING


def test_a_refused_batch_fails_and_its_successors_follow_what_the_node_has(pub):
    bad, _ = add(pub, "a", b"x" * TARGET)
    second, _ = add(pub, "a", b"y" * TARGET)
    third, _ = add(pub, "a", b"z" * TARGET)
    take(pub)
    answer(pub, no("a", 1, "batch-refused"))
    assert outcome(bad) == ("batch-refused", NOT_DONE)
    assert isinstance(bad.error, BatchRefused)
    assert str(bad.error) == "told batch-refused"
    answer(pub, no("a", 2, "sequence-gap"), no("a", 3, "sequence-gap"))
    assert [r[:3] for r in take(pub)] == [("a", 2, 0), ("a", 3, 2)]
    answer(pub, yes("a", 2, 2))
    assert (second.state, third.state) == (DONE, DONE)
    assert pub.is_idle


def test_a_batch_skips_nothing_while_its_predecessor_is_not_settled(pub):
    add(pub, "a", b"x" * TARGET)
    add(pub, "a", b"y" * TARGET)
    take(pub)
    answer(pub, no("a", 2, "sequence-gap", last=0))
    assert [r[:3] for r in take(pub)] == [("a", 2, 1)]


def test_what_was_refused_goes_again_before_what_was_never_sent(pub):
    pub.node.window_bytes = 2 * TARGET + 1000
    for _ in range(4):
        add(pub, "a", b"x" * TARGET)
    assert [r[1] for r in take(pub)] == [1, 2]
    answer(pub, no("a", 1, "limit"), no("a", 2, "sequence-gap"))
    assert [r[1:3] for r in take(pub)] == [(2, 0), (3, 2)]


def test_of_an_overlap_only_the_rest_goes_again(pub):
    pub.add_many("a", [b"1", b"2", b"3"], [b"k", b"l", b"m"], None, [7, 8, 9], lambda: 5, -1)
    batch = pub.lanes["a"].unsettled[0]
    take(pub)
    answer(pub, no("a", 1, "sequence-overlap", last=2, count=3))
    assert (batch.skipped, batch.count, batch.keys, batch.times) == (2, 1, [b"m"], [9])
    assert take(pub) == [("a", 3, 2, [b"3"])]
    answer(pub, yes("a", 3, 1, base=50))
    assert (batch.state, batch.base_offset) == (DONE, 50)


def test_a_refusal_is_that_of_the_batch_it_names_not_of_one_that_begins_alike(pub):
    said, _ = add(pub, "a", b"1", b"2", sequence=1)
    take(pub)
    again, _ = add(pub, "a", b"1", b"2", b"3", sequence=1)
    take(pub)
    answer(pub, no("a", 1, "sequence-overlap", last=2, count=3), yes("a", 1, 2, base=7))
    assert (said.state, said.base_offset) == (DONE, 7)
    assert take(pub) == [("a", 3, 2, [b"3"])]
    answer(pub, yes("a", 3, 1, base=9))
    assert (again.state, again.skipped) == (DONE, 2)


def test_a_confirmation_is_of_no_batch_that_goes_beyond_it(pub):
    said, _ = add(pub, "a", b"1", b"2", sequence=1)
    take(pub)
    again, _ = add(pub, "a", b"1", b"2", b"3", sequence=1)
    take(pub)
    answer(pub, yes("a", 1, 2, base=7))
    assert (said.state, said.base_offset) == (DONE, 7)
    assert again.state != DONE


def test_a_producer_the_node_forgot_numbers_anew_what_was_never_sent_before(pub):
    add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1))
    second, _ = add(pub, "a", b"x" * TARGET)
    third, _ = add(pub, "a", b"y" * TARGET)
    take(pub)
    later, index = add(pub, "a", b"later")
    answer(pub, no("a", 2, "producer-unknown"))
    assert take(pub) == []  # the third is still under way
    answer(pub, no("a", 3, "producer-unknown"))
    assert [r[:3] for r in take(pub)] == [("a", 1, 0), ("a", 2, 1), ("a", 3, 2)]
    assert [b.first for b in (second, third, later)] == [1, 2, 3]
    answer(pub, yes("a", 1, 3))
    assert [b.state for b in (second, third, later)] == [DONE] * 3
    add(pub, "a", b"next")
    assert take(pub) == [("a", 4, 3, [b"next"])]
    assert index == 0


def test_a_full_batch_that_waited_meanwhile_is_numbered_anew_too(pub):
    add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1))
    pub.node.window_bytes = 1
    add(pub, "a", b"x" * TARGET)
    take(pub)
    add(pub, "a", b"y" * TARGET)
    add(pub, "a", b"z")
    assert take(pub) == []
    answer(pub, no("a", 2, "producer-unknown"))
    pub.node.window_bytes = 10 * TARGET
    assert [r[:3] for r in take(pub)] == [("a", 1, 0), ("a", 2, 1), ("a", 3, 2)]


def test_a_resent_batch_of_an_unknown_producer_fails_as_unknown(pub):
    batch, _ = add(pub, "a", b"1")
    take(pub)
    reconnect(pub)
    take(pub)
    answer(pub, no("a", 1, "producer-unknown"))
    assert outcome(batch) == ("producer-unknown", UNKNOWN)
    add(pub, "a", b"2")
    take(pub)
    answer(pub, no("a", 2, "producer-unknown"))
    assert take(pub) == [("a", 1, 0, [b"2"])]


def test_records_the_program_numbered_are_never_numbered_anew(pub):
    batch, _ = add(pub, "a", b"5", sequence=5)
    take(pub)
    answer(pub, no("a", 5, "producer-unknown"))
    assert isinstance(batch.error, ProducerUnknown)


def test_a_refusal_with_an_unknown_code_is_told(pub):
    batch, _ = add(pub, "a", b"1")
    take(pub)
    answer(pub, no("a", 1, "from-the-future"))
    assert outcome(batch) == ("operation", NOT_DONE)


# -- another log, giving up ------------------------------------------------------------------------


def test_what_went_to_another_log_stays_unknown_and_the_rest_goes(pub):
    sent, _ = add(pub, "a", b"1")
    take(pub)
    fresh, _ = add(pub, "b", b"1")
    reconnect(pub, OTHER_ORIGIN)
    assert outcome(sent) == ("producer-unknown", UNKNOWN)
    assert "another log" in str(sent.error)
    assert take(pub, OTHER_ORIGIN) == [("b", 1, 0, [b"1"])]
    assert fresh.state == WAITING


def test_what_was_sent_so_long_ago_that_it_is_forgotten_stays_unknown(pub):
    near = limits.PRODUCER_FORGET_NS - limits.PRODUCER_SWEEP_NS
    batch, _ = add(pub, "a", b"1")
    take(pub)
    reconnect(pub, ORIGIN, near)
    assert [r[1] for r in take(pub)] == [1]
    reconnect(pub, ORIGIN, near + 1)
    assert outcome(batch) == ("producer-unknown", UNKNOWN)
    assert "away" in str(batch.error)
    assert take(pub) == []


def test_what_was_never_sent_does_not_age(pub):
    add(pub, "a", b"1")
    reconnect(pub, OTHER_ORIGIN, 30 * limits.DAY)
    assert take(pub, OTHER_ORIGIN) == [("a", 1, 0, [b"1"])]


def test_giving_up_fails_everything_that_is_not_answered(pub):
    pub.node.window_bytes = TARGET
    done, _ = add(pub, "a", b"0")
    take(pub)
    answer(pub, yes("a", 1, 1))
    held = [add(pub, "a", b"x" * TARGET)[0] for _ in range(3)]
    take(pub)
    held += [add(pub, "b", b"open")[0]]
    pub.take_finished()
    error = ClosedError("the client was closed")
    pub.fail_all(error)
    assert {b.state for b in held} == {FAILED}
    assert [b.attempts for b in held] == [1, 0, 0, 0]
    assert outcome(held[0]) == ("closed", UNKNOWN)  # it was sent
    assert all(b.error is error for b in held[1:])
    assert sorted(map(id, pub.take_finished())) == sorted(map(id, held))
    assert done.state == DONE
    assert pub.is_idle
    assert pub.unsettled() == []
    assert take(pub) == []


def test_giving_up_reaches_batches_that_wait_for_new_numbers(pub):
    add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1))
    held = [add(pub, "a", b"x" * TARGET)[0] for _ in range(2)]
    take(pub)
    answer(pub, no("a", 2, "producer-unknown"))
    pub.fail_all(LinkLost("gone"))
    assert [b.state for b in held] == [FAILED, FAILED]
    assert pub.is_idle


def test_a_lost_session_puts_batches_that_wait_for_new_numbers_back_in_order(pub):
    add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1))
    for _ in range(3):
        add(pub, "a", b"x" * TARGET)
    take(pub)
    answer(pub, no("a", 2, "producer-unknown"))
    reconnect(pub)
    assert [r[:3] for r in take(pub)] == [("a", 2, 1), ("a", 3, 2), ("a", 4, 3)]


# -- bounds ----------------------------------------------------------------------------------------


def test_no_more_is_under_way_than_the_window(pub):
    size = TARGET + limits.RECORD_OVERHEAD_BYTES
    pub.node.window_bytes = 3 * size
    for _ in range(5):
        add(pub, "a", b"x" * TARGET)
    assert [r[1] for r in take(pub)] == [1, 2, 3]
    assert not pub.has_work
    assert take(pub) == []
    answer(pub, yes("a", 1, 1))
    assert pub.has_work
    assert [r[1] for r in take(pub)] == [4]


def test_a_batch_larger_than_the_window_goes_alone(pub):
    pub.node.window_bytes = 10
    add(pub, "a", b"x" * TARGET)
    add(pub, "a", b"y" * TARGET)
    assert [r[1] for r in take(pub)] == [1]
    answer(pub, yes("a", 1, 1))
    assert [r[1] for r in take(pub)] == [2]


def test_the_number_of_batches_under_way_is_bounded(pub, monkeypatch):
    monkeypatch.setattr("meshmq.limits.PRODUCER_IN_FLIGHT_BATCHES_MAX", 3)
    for i in range(5):
        add(pub, f"t{i}", b"v")
    assert len(take(pub)) == 3
    answer(pub, yes("t0", 1, 1))
    assert len(take(pub)) == 1


def test_bytes_are_accounted_until_the_answer(pub):
    assert pub.is_idle
    start = pub.ceiling_bytes
    one, _ = add(pub, "a", b"x" * 100, b"y")
    two, _ = add(pub, "b", b"z")
    assert one.size == 101 + 2 * limits.RECORD_OVERHEAD_BYTES
    assert pub.buffered_bytes == one.size + two.size
    take(pub)
    assert not pub.is_idle
    answer(pub, yes("a", 1, 2))
    assert pub.buffered_bytes == two.size
    assert pub.ceiling_bytes == start + one.size
    answer(pub, no("b", 1, "limit"))
    assert pub.buffered_bytes == 0
    assert pub.is_idle


def test_keys_and_headers_are_accounted(pub):
    plain, _ = add(pub, "a", b"v")
    rich, _ = pub.add("b", b"v", b"k" * 10, b"h" * 20, None, lambda: 0, -1, None)
    many = pub.add_many("c", [b"v"], [b"k" * 10], [b"h" * 20], None, lambda: 0, -1)
    assert rich.size == many.size == plain.size + 30


def test_the_bytes_of_a_settled_batch_are_let_go(pub):
    batch, _ = add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1))
    assert (batch.values, batch.encoded, batch.count) == ([], None, 1)


def test_everything_not_settled_is_listed_the_open_batches_too(pub):
    one, _ = add(pub, "a", b"x" * TARGET)
    two, _ = add(pub, "a", b"open")
    three, _ = add(pub, "b", b"open")
    assert pub.unsettled() == [one, two, three]
    take(pub)
    answer(pub, yes("a", 1, 1))
    assert pub.unsettled() == [two, three]


def test_time_is_read_once_a_batch(pub):
    clock = iter([10 * SECOND, 20 * SECOND])
    one, _ = pub.add("a", b"1", None, None, None, lambda: next(clock), -1, None)
    pub.add("a", b"2", None, None, None, lambda: next(clock), -1, None)
    take(pub)
    two, _ = pub.add("a", b"3", None, None, None, lambda: next(clock), -1, None)
    assert (one.time_ns, two.time_ns) == (10 * SECOND, 20 * SECOND)


def test_a_busy_node_gets_the_batch_again_after_the_pause(pub):
    one, _ = add(pub, "a", b"x" * TARGET)
    assert [r[:2] for r in take(pub)] == [("a", 1)]
    pub.node.paused_until_ns = 5
    answer(pub, no("a", 1, "busy"))
    assert one.state == WAITING
    assert not pub.has_work
    assert take(pub) == []
    pub.node.paused_until_ns = 0
    assert pub.has_work
    assert [r[:2] for r in take(pub)] == [("a", 1)]


def test_what_is_refused_twice_stays_before_what_follows_it_also_at_another_node(pub):
    for _ in range(2):
        add(pub, "a", b"x" * TARGET)
        take(pub)
    answer(pub, no("a", 1, "busy"))
    assert [r[1] for r in take(pub)] == [1]
    answer(pub, no("a", 2, "busy"), no("a", 1, "busy"))
    assert [b.first for b in pub.node.queue] == [1, 2]
    take(pub)
    answer(pub, no("a", 1, "busy"))
    for _ in range(2):  # and what was under way meanwhile, once that is over
        pub.on_session_lost()
        pub.on_origin(OTHER_ORIGIN, 0, "other")
        assert [b.first for b in pub.node.queue] == [1, 2]
    assert [r[:3] for r in take(pub, OTHER_ORIGIN)] == [("a", 1, 0), ("a", 2, 1)]


# -- jobs whose queue was deleted ------------------------------------------------------------------


def test_jobs_wait_until_their_queue_is_made_again_and_keep_their_order(pub):
    pub.queues.add("q")
    add(pub, "q", b"0")
    (frame,) = pub.take(ORIGIN)
    assert frame.batches[0].job
    answer(pub, yes("q", 1, 1))
    batches = [add(pub, "q", b"%d" % i * TARGET)[0] for i in range(1, 4)]
    assert [r[1] for r in take(pub)] == [2, 3, 4]
    for first in (2, 3, 4):  # of a deleted topic the node knows no producer
        answer(pub, no("q", first, "producer-unknown"))
    assert [r[:3] for r in take(pub)] == [("q", 1, 0), ("q", 2, 1), ("q", 3, 2)]
    answer(pub, no("q", 1, "group-not-found"), no("q", 2, "producer-unknown"))
    assert pub.missing == ["q"]
    assert take(pub) == []
    answer(pub, no("q", 3, "producer-unknown"))
    more, _ = add(pub, "q", b"4")
    assert take(pub) == []
    pub.on_queue("other", None)
    assert take(pub) == []
    pub.on_queue("q", None)
    assert [r[:3] for r in take(pub)] == [("q", i, i - 1) for i in range(1, 5)]
    answer(pub, yes("q", 1, 4))
    assert all(b.state == DONE for b in [*batches, more])
    assert pub.is_idle


def test_jobs_whose_queue_cannot_be_made_fail_with_the_reason(pub):
    pub.queues.add("q")
    batch, _ = add(pub, "$delayed.q", b"1")
    take(pub)
    answer(pub, no("$delayed.q", 1, "group-not-found"))
    assert pub.missing == ["q"]
    pub.on_queue("q", ClosedError("no"))
    assert outcome(batch) == ("closed", NOT_DONE)
    add(pub, "$delayed.q", b"2")
    assert [r[:3] for r in take(pub)] == [("$delayed.q", 2, 1)]


def test_a_job_that_was_sent_before_and_finds_no_queue_is_unknown(pub):
    """It may have been in the queue that was deleted, and done."""
    pub.queues.add("q")
    batch, _ = add(pub, "q", b"1")
    take(pub)
    reconnect(pub)
    take(pub)
    answer(pub, no("q", 1, "group-not-found"))
    assert outcome(batch) == ("producer-unknown", UNKNOWN)
    assert pub.missing == ["q"]


def test_a_job_that_waits_for_its_queue_is_sent_again_after_a_lost_session(pub):
    pub.queues.add("q")
    batch, _ = add(pub, "q", b"1")
    take(pub)
    answer(pub, no("q", 1, "group-not-found"))
    reconnect(pub)
    (frame,) = pub.take(ORIGIN)
    assert not frame.batches[0].resent
    answer(pub, no("q", 1, "group-not-found"))
    pub.on_queue("q", None)
    take(pub)
    answer(pub, yes("q", 1, 1))
    assert batch.state == DONE


def test_a_job_that_the_program_numbered_is_refused_where_there_is_no_queue(pub):
    pub.queues.add("q")
    batch, _ = add(pub, "q", b"1", sequence=1)
    take(pub)
    answer(pub, no("q", 1, "group-not-found"))
    assert outcome(batch) == ("group-not-found", NOT_DONE)


# -- copies --------------------------------------------------------------------------------------


def stored(sequence, message=""):
    return yes("a", sequence, 1)._replace(durability=SYNCED, more=True, message=message)


def test_who_waits_no_longer_for_copies_says_what_the_node_said_of_them(pub):
    record = add(pub, "a", b"1")
    take(pub)
    answer(pub, stored(1))
    assert str(Promise(*record)._in_time(1.0)).endswith("have answered so far")
    answer(pub, stored(1, "node 'b': its disk is full"))
    sentence = str(Promise(*record)._in_time(1.0))
    assert sentence.endswith("have answered so far (node 'b': its disk is full)")
    answer(pub, stored(1))
    assert str(Promise(*record)._in_time(1.0)).endswith("have answered so far")


def test_a_buffer_of_what_waits_for_copies_only_is_told_from_one_that_goes_on(pub):
    assert not pub.waits_for_copies
    add(pub, "a", b"1")
    assert not pub.waits_for_copies
    take(pub)
    assert not pub.waits_for_copies
    answer(pub, stored(1, "node 'b': its disk is full"))
    assert pub.waits_for_copies
    assert pub.buffered_bytes  # they may have to be sent again
    assert pub.why_copies == " (node 'b': its disk is full)"
    add(pub, "a", b"2")
    assert not pub.waits_for_copies
    take(pub)
    answer(pub, stored(2))
    assert pub.waits_for_copies
    pub.on_session_lost()
    assert not pub.waits_for_copies  # the node is away, that is another thing
