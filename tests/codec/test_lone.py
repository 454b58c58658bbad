"""The short cut for lone frames against the general path: the same bytes, the same readings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import codec, codec_lone, limits
from meshmq.errors import BadFrame
from meshmq.frames import (
    Confirm,
    Confirmation,
    Credit,
    Deliver,
    DeliverBatch,
    Envelope,
    Nothing,
    Ping,
    Publish,
    PublishBatch,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
)

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
topics = st.text(min_size=1, max_size=40).filter(lambda t: "\0" not in t)
payloads = st.binary(max_size=200)


@st.composite
def publishes(draw):
    payload, after = draw(payloads), draw(st.integers(0, 2**64 - 2))
    first = draw(st.integers(after + 1, 2**64 - 1))
    count, checksum = draw(st.integers(1, 4096)), draw(u32)
    row = PublishBatch(
        draw(topics),
        first,
        after,
        count,
        len(payload),
        checksum,
        *[draw(st.booleans()) for _ in range(4)],
        replicated=draw(st.booleans()),
        of_run=draw(st.booleans()),
    )
    return Publish((row,), payload)


@st.composite
def delivers(draw):
    payload = draw(payloads)
    row = DeliverBatch(
        draw(topics), draw(u64), draw(u32), len(payload), draw(u32), draw(i64), draw(u64),
        draw(u32), draw(st.booleans()), draw(st.booleans()),
        *[draw(st.just(b"") | st.binary(min_size=16, max_size=16)) for _ in range(2)],
        None, draw(st.just("") | topics),
    )  # fmt: skip
    return Deliver(draw(u32), (row,), draw(u64), payload)


def split(draw, payload, count):
    """The lengths of ``count`` values that make up a payload."""
    ends = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=count, max_size=count)))
    return [end - begin for begin, end in zip([0, *ends], [*ends[:-1], len(payload)], strict=False)]


@st.composite
def requests(draw):
    payload = draw(payloads)
    rows = [
        RequestRow(
            draw(u64), draw(u32), draw(st.just("") | topics), draw(u64), draw(st.integers(0, 2)),
            draw(st.booleans()), draw(u64), b"", length,
        )
        for length in split(draw, payload, draw(st.integers(1, 5)))
    ]  # fmt: skip
    return Request(tuple(rows), payload)


@st.composite
def replies(draw):
    payload = draw(payloads)
    rows = [
        ReplyRow(
            draw(u64), length > 0 or draw(st.booleans()), draw(st.booleans()),
            instance=draw(st.just("") | topics), length=length,
        )
        for length in split(draw, payload, draw(st.integers(1, 5)))
    ]  # fmt: skip
    return Reply(tuple(rows), payload)


confirms = st.builds(
    Confirmation, topics, u64, u32, st.just(""), st.just(""), u64, i64,
    st.binary(min_size=16, max_size=16), st.integers(0, 255), u64, st.booleans(), st.booleans(),
    st.booleans(), st.just("node"),
).map(lambda row: Confirm((row,)))  # fmt: skip
bodies = st.one_of(
    publishes(), delivers(), confirms, st.builds(Credit, u32, u64, u64), st.just(Nothing()),
    st.just(Ping()), requests(), replies(),
)  # fmt: skip
envelopes = st.builds(Envelope, u64, u64, u64, bodies)


def general(monkeypatch):
    monkeypatch.setattr(codec_lone, "encode", lambda envelope: None)
    monkeypatch.setattr(codec_lone, "decode", lambda header, payload: None)


@given(envelopes)
@settings(max_examples=400)
def test_both_paths_write_and_read_the_same(envelope):
    short = codec_lone.encode(envelope)
    assert short is not None
    assert codec_lone.decode(short[0], short[1] if len(short) > 1 else None) == envelope
    with pytest.MonkeyPatch.context() as patch:
        general(patch)
        assert codec.encode(envelope) == short
        assert codec.decode(short) == envelope


@pytest.mark.parametrize("count", [64, limits.FRAME_BATCHES_MAX])
def test_many_rows_are_read_by_the_general_path_too(count):
    asked = [RequestRow(i, 0, f"s.{i % 7}", 5, 0, False, 0, b"", 3) for i in range(count)]
    answered = [ReplyRow(i, True, True, instance=f"i{i % 3}", length=3) for i in range(count)]
    for body in (Request(tuple(asked), b"abc" * count), Reply(tuple(answered), b"abc" * count)):
        envelope = Envelope(1, 2, 3, body)
        short = codec_lone.encode(envelope)
        assert codec_lone.decode(*short) == envelope
        with pytest.MonkeyPatch.context() as patch:
            general(patch)
            assert codec.decode(short) == envelope


@given(envelopes, st.integers(0, 2**32))
@settings(max_examples=400)
def test_what_the_short_cut_reads_of_damaged_bytes_the_general_path_reads_too(envelope, seed):
    entropy = random.Random(seed)
    header, *rest = codec_lone.encode(envelope)
    damaged = bytearray(header)
    for _ in range(entropy.choice([1, 1, 2, 5])):
        damaged[entropy.randrange(len(damaged))] ^= 1 << entropy.randrange(8)
    if entropy.random() < 0.2:
        del damaged[entropy.randrange(len(damaged)) :]
    parts = [bytes(damaged), *rest]
    found = codec_lone.decode(parts[0], parts[1] if rest else None)
    if found is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        general(patch)
        try:
            assert codec.decode(parts) == found
        except BadFrame as error:
            pytest.fail(f"the general path refuses it: {error}")
