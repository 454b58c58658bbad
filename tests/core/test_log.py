"""LogState: what each kind of entry does, and that replaying gives the same state."""

from __future__ import annotations

import re
import zlib
from importlib import resources

import capnp
import pytest

from meshmq import codec_log, limits
from meshmq.core.log import (
    BatchEntry,
    Commit,
    LogState,
    ProducerState,
    RuleEntry,
    TopicEntry,
    TrimEntry,
    split_entries,
)
from meshmq.core.retention import Portion, SegmentInfo
from meshmq.errors import BadFrame
from meshmq.frames_moving import Moved

A, B = b"a" * 16, b"b" * 16


def topic(stream, name="t", **changes):
    return TopicEntry(stream, bytes([stream]) * 16, name, stream > 0, 0, 0)._replace(**changes)


def batch(stream, base, count=1, producer=A, first=None, payload=b"x"):
    first = base + 1 if first is None else first
    return BatchEntry(stream, base, count, payload, zlib.crc32(payload), producer, first)


def commit_of(state, *entries, time_ns=0):
    return Commit(state.next_lsn, time_ns, *split_entries(list(entries)))


def applied(*commits):
    state = LogState(b"o" * 16)
    for i, entries in enumerate(commits):
        state.apply(commit_of(state, *entries, time_ns=i + 1))
    return state


def test_offsets_and_numbers_go_on():
    state = applied([topic(1), topic(2, "u")], [batch(1, 0, 3), batch(2, 0)], [batch(1, 3, 2)])
    assert (state.next_lsn, state.append_time_ns, state.next_stream) == (4, 3, 3)
    assert [state.streams[i].next_offset for i in (1, 2)] == [5, 1]
    assert state.streams[1] is state.topics["t"]


def test_commit_out_of_order_is_an_error():
    with pytest.raises(AssertionError):
        LogState(b"o" * 16).apply(Commit(2, 0, ()))


def test_topic_and_batch_in_one_commit():
    state = applied([batch(1, 0), topic(1)])
    assert state.streams[1].next_offset == 1


def test_deleted_topic_takes_its_producers_along_and_leaves_its_alias_used():
    state = applied([topic(1)], [batch(1, 0)], [topic(1, deleted=True)])
    assert (state.topics, state.streams, state.producers) == ({}, {}, {})
    assert state.next_stream == 2
    again = applied([topic(1)], [batch(1, 0)], [topic(1, deleted=True), topic(2)], [batch(1, 1)])
    assert again.topics["t"].topic.stream == 2
    assert again.streams[2].next_offset == 0  # a batch of the old one changes nothing


def test_changed_topic_keeps_its_records():
    state = applied([topic(1)], [batch(1, 0, 4)], [topic(1, retention_ns=5)])
    assert (state.topics["t"].topic.retention_ns, state.topics["t"].next_offset) == (5, 4)


def test_transient_topic_has_no_stream():
    state = applied([topic(0)])
    assert state.streams == {}
    assert "t" in state.topics


def test_rules_are_replaced_and_removed():
    first, second = RuleEntry("a.>", True, 1, 1), RuleEntry("b", True, 2, 2)
    state = applied([first, second], [first._replace(retention_ns=9)])
    assert list(state.rules) == ["b", "a.>"]
    state.apply(commit_of(state, second._replace(removed=True)))
    assert list(state.rules.values()) == [first._replace(retention_ns=9)]


def test_trim_only_moves_forward():
    state = applied([topic(1)], [batch(1, 0, 9)], [TrimEntry(1, 5)], [TrimEntry(1, 3)])
    assert state.streams[1].first_offset == 5
    state.apply(commit_of(state, TrimEntry(7, 3)))  # of a stream that is gone


def test_producer_ranges_join_where_both_numbers_go_on():
    held = ProducerState()
    held.add(1, 0, 5, 1)
    held.add(6, 5, 5, 2)
    held.add(11, 20, 5, 3)
    assert held.ranges == [(1, 0, 10), (11, 20, 5)]
    assert (held.last, held.last_time_ns) == (15, 3)
    assert [held.offset_of(*q) for q in ((1, 5), (6, 5), (4, 4), (11, 5), (9, 4), (16, 1))] == [
        0,
        5,
        3,
        20,
        None,
        None,
    ]


def test_producer_ranges_are_bounded():
    held = ProducerState()
    for i in range(limits.PRODUCER_RECENT_RANGES_MAX + 5):
        held.add(i + 1, 10 * i, 1, i)
    assert len(held.ranges) == limits.PRODUCER_RECENT_RANGES_MAX
    assert held.offset_of(1, 1) is None
    assert held.offset_of(6, 1) == 50


def test_producers_are_forgotten_by_age_and_by_number(monkeypatch):
    monkeypatch.setattr(limits, "PRODUCERS_MAX", 2)
    state = applied([topic(1)])
    for i, name in enumerate((A, B, A, b"c" * 16)):
        state.apply(commit_of(state, batch(1, i, producer=name), time_ns=10))
    assert [name for name, _ in state.producers] == [A, b"c" * 16]
    late = 10 + limits.PRODUCER_FORGET_NS + 1
    state.apply(commit_of(state, batch(1, 4, producer=B), time_ns=late))
    assert [name for name, _ in state.producers] == [B]


# --- the bytes ------------------------------------------------------------------------------


def big_state():
    return applied(
        [topic(1), topic(2, "ü"), topic(0, "loose"), RuleEntry("a.>", False, 3, 4)],
        [batch(1, 0, 3), batch(2, 0, producer=B), batch(1, 3, 2, first=9)],
        [TrimEntry(1, 2)],
    )


def test_snapshot_round_trip():
    state = big_state()
    info = SegmentInfo(3, 5, 9, -1, 2**62, {2: Portion(3, 2, 1, 2**40, 7, 8)})
    found, segments = codec_log.decode_snapshot(codec_log.encode_snapshot(state, [info]))
    assert repr(found) == repr(state)
    assert segments == [info]
    assert found.streams[1] is found.topics["t"]


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("more", [(), (topic(1), RuleEntry("x", True, 1, 2), TrimEntry(4, 5))])
@pytest.mark.parametrize("count", [0, 1, 17, 300])
def test_commit_round_trip(inline, more, count):
    state = LogState(b"o" * 16, next_lsn=2**40)
    batches = [batch(i + 1, 2**33 + i, i + 1, A if i % 2 else B, i + 7) for i in range(count)]
    commit = commit_of(state, *batches, *more, time_ns=-5)
    meta = codec_log.decode_commit(codec_log.encode_commit(commit, 1000, inline))
    stripped = commit._replace(batches=tuple(b._replace(payload=b"") for b in batches))
    assert meta.without_bytes() == stripped
    assert meta.inline is inline
    assert [m.position for m in meta.batches] == list(range(1000, 1000 + count))
    for slot in range(count):
        assert meta.batches[slot] == list(meta.batches)[slot]
    with pytest.raises(IndexError):
        meta.batches[count]


def test_packed_commit_is_what_the_builder_makes_of_its_first_version(tmp_path):
    text = resources.files("meshmq.schemas").joinpath("log.capnp").read_text()
    first = re.sub(
        r" +(?:directory|moved|mirrors|takeovers) +@.*\n", "",
        text.replace("@0xe4b86a1c73d2f905", "@0xe4b86a1c73d2f906"),
    )  # fmt: skip
    (tmp_path / "first.capnp").write_text(first)
    state = LogState(b"o" * 16, next_lsn=7)
    commit = commit_of(state, *(batch(i, i * 3, 3, bytes(range(16))) for i in range(1, 9)))
    built = capnp.load(str(tmp_path / "first.capnp")).Commit
    message = built.new_message(lsn=7, appendTime=0, inline=True)
    codec_log._build_batches(message.init("batches", 8), commit.batches, 55)
    packed = codec_log.encode_commit(commit, 55, True)
    assert packed == message.to_bytes()
    assert codec_log._read_commit(packed).batches == tuple(codec_log.decode_commit(packed).batches)


def test_a_commit_says_which_batches_were_moved_and_the_others_stay_as_they_are():
    state = LogState(b"o" * 16, next_lsn=7)
    moved = Moved(b"f" * 16, 5).pack()
    batches = [batch(1, i * 3, 3, A, 1 + i) for i in range(4)]
    batches[2] = batches[2]._replace(moved=moved)
    commit = commit_of(state, *batches)
    meta = codec_log.decode_commit(codec_log.encode_commit(commit, 0, True))
    assert [b.moved for b in meta.batches] == [b"", b"", moved, b""]
    assert meta.without_bytes().batches == tuple(b._replace(payload=b"") for b in batches)


def test_malformed_bytes_are_refused_or_decode():
    state = LogState(b"o" * 16)
    commit = codec_log.encode_commit(commit_of(state, batch(1, 0), topic(1)), 0, True)
    plain = codec_log.encode_commit(commit_of(state, batch(1, 0)), 0, True)
    snapshot = codec_log.encode_snapshot(big_state(), [])
    for decode, data in (
        (codec_log.decode_commit, commit),
        (codec_log.decode_commit, plain),
        (codec_log.decode_snapshot, snapshot),
    ):
        for at in range(0, len(data), 3):
            for changed in (
                data[:at],
                data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :],
            ):
                try:
                    decode(changed)
                except BadFrame:
                    pass


def test_producer_of_other_length_is_refused():
    state = LogState(b"o" * 16)
    for more in ((), (topic(1),)):
        with pytest.raises(BadFrame, match="must be 16"):
            codec_log.encode_commit(commit_of(state, batch(1, 0, producer=b"x"), *more), 0, True)
