"""What is encoded reads back as it was: frames, batches, headers, commits, snapshots."""

from __future__ import annotations

import dataclasses
from array import array
from collections import OrderedDict
from itertools import accumulate
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshmq import codec, codec_log, frames, frames_copies, frames_site_words, frames_verify, limits
from meshmq.core.copied_journal import CopiedJournal
from meshmq.core.directory_rows import (
    NEVER,
    Forgotten,
    GroupRow,
    LinkRow,
    NodeRow,
    RuleRow,
    Stamp,
    TopicRow,
)
from meshmq.core.journal import Delta, Settings
from meshmq.core.log import (
    BatchEntry,
    Commit,
    LogState,
    ProducerState,
    RuleEntry,
    StreamState,
    TopicEntry,
    TrimEntry,
)
from meshmq.core.mirror_log import (
    BehindEntry,
    Copied,
    ForgottenEntry,
    LinkedEntry,
    MirrorEntry,
    MirrorState,
    SiteRetention,
    StrandEntry,
    StrandsEntry,
    TakenEntry,
    TakeoverEntry,
)
from meshmq.core.retention import Portion, SegmentInfo
from meshmq.errors import BadFrame, InvalidArgument, MessageTooLarge
from tests.core.nodes import NodeBench

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
nth, slots = st.integers(0, limits.LOG_NUMBER_MAX), st.integers(0, limits.LOG_SLOT_MAX)
before = st.integers(0, limits.LOG_SLOT_MAX - 4096)
i64 = st.integers(-(2**63), 2**63 - 1)
clocks = st.integers(0, 2**62 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ids = st.binary(min_size=16, max_size=16)
origins = st.just(b"") | ids
blobs = st.binary(max_size=60)
flags = st.booleans()
u63 = st.integers(0, 2**63 - 1)


# -- frames ----------------------------------------------------------------------------------------

patterns = st.lists(
    st.sampled_from(["a", "orders.>", "*.eu", ">", "größe.*", "$x.a"]),
    max_size=limits.LINK_PATTERNS_MAX,
).map(tuple)
claims = st.lists(st.tuples(patterns, patterns), min_size=1, max_size=limits.STRAND_CLAIMS_MAX).map(
    tuple
)
strands = st.lists(st.builds(frames_copies.Strand, u16, u8, nth, slots, claims), max_size=3).map(
    tuple
)
places = st.lists(st.builds(frames_copies.StrandPlace, u16, nth, slots), max_size=3).map(tuple)
copies_row = st.builds(
    frames_copies.CopiesRow, ids, texts, nth, slots, u64, st.just(b"") | ids, nth, slots, flags,
    u64, nth, slots, flags, strands, patterns, patterns, i64,
)  # fmt: skip


moves = st.just(b"") | st.builds(
    lambda origin, first: frames.Moved(origin, first).pack(), ids, st.integers(1, 2**64 - 1)
)


@st.composite
def publishes(draw, moved=moves):
    rows, payload = [], b""
    for data in draw(st.lists(blobs, max_size=6)):
        after = draw(st.integers(0, 2**64 - 2))
        rows.append(
            frames.PublishBatch(
                draw(texts), draw(st.integers(after + 1, 2**64 - 1)), after,
                draw(st.integers(1, limits.BATCH_RECORDS_MAX)), len(data), draw(u32), draw(flags),
                draw(flags), draw(flags), draw(flags), draw(moved), of_run=draw(flags),
            )
        )  # fmt: skip
        payload += data
    return frames.Publish(tuple(rows), payload)


@st.composite
def delivers(draw):
    rows, payload = [], b""
    for data in draw(st.lists(blobs, max_size=6)):
        rows.append(
            frames.DeliverBatch(
                draw(texts), draw(u64), draw(u32), len(data), draw(u32), draw(i64), draw(u64),
                draw(u32), draw(flags), draw(flags), draw(blobs),
                draw(st.just(b"") | ids),
                draw(st.none() | st.builds(frames.Published, ids, u64, moves)),
            )
        )  # fmt: skip
        payload += data
    return frames.Deliver(draw(u32), tuple(rows), draw(u64), payload)


@st.composite
def hand_outs(draw):
    rows, payload = [], b""
    for data in draw(st.lists(blobs, max_size=5)):
        count, skip, more = draw(st.integers(0, 9)), draw(st.integers(0, 9)), draw(u8)
        first = draw(st.integers(0, 2**60))
        rising = st.lists(st.integers(1, 20), min_size=count, max_size=count)
        offsets = tuple(accumulate(draw(st.just([]) | rising), initial=first))[:count]
        if len(offsets) < count:
            offsets = ()
        end = offsets[-1] - first + 1 if offsets else count
        rows.append(
            frames.HandOutRow(
                draw(texts), draw(u64), first, count, skip,
                draw(st.sampled_from([count, skip + end + more])), len(data),
                draw(u32), draw(i64), draw(u64), draw(u32), draw(u16), draw(flags), offsets,
            )
        )  # fmt: skip
        payload += data
    return frames.HandOut(draw(u32), tuple(rows), payload, draw(origins))


@st.composite
def transacts(draw):
    publish = draw(publishes(st.just(b"")))
    acks = st.builds(frames.TransactAck, u32, u64, u32, u32)
    return frames.Transact(
        draw(u64), tuple(draw(st.lists(acks, max_size=4))), publish.batches, publish.payload,
        draw(origins), draw(origins), draw(u64),
    )  # fmt: skip


@st.composite
def requests(draw):
    rows, payload = [], b""
    for data in draw(st.lists(blobs, max_size=6)):
        rows.append(
            frames.RequestRow(
                draw(u64), draw(u32), draw(texts), draw(u64), draw(st.integers(0, 2)), draw(flags),
                draw(u64), draw(blobs), len(data),
            )
        )  # fmt: skip
        payload += data
    return frames.Request(tuple(rows), payload)


@st.composite
def replies(draw):
    rows, payload = [], b""
    for data in draw(st.lists(blobs, max_size=6)):
        code, message = draw(st.just(("", "")) | st.tuples(texts.filter(bool), texts))
        rows.append(
            frames.ReplyRow(
                draw(u64), bool(data) or draw(flags), draw(flags), code, draw(texts), message,
                draw(texts), len(data),
            )
        )  # fmt: skip
        payload += data
    return frames.Reply(tuple(rows), payload)


@st.composite
def fetched(draw):
    rows, payload = [], b""
    for data in draw(st.lists(blobs, max_size=5)):
        damaged = draw(flags) and not data
        rows.append(
            frames_copies.CopiedBatch(
                draw(u32), draw(before), draw(st.integers(1, 4096)), len(data), draw(u32),
                draw(i64), draw(nth), draw(before), damaged, draw(ids), draw(before), draw(moves),
            )
        )  # fmt: skip
        payload += data
    streams = st.builds(frames_copies.CopiedTopic, u32, ids, texts, nth, flags, nth, nth)
    topics = st.lists(streams, max_size=3)
    code, message = draw(st.just(("", "")) | st.tuples(texts.filter(bool), texts))
    size = len(payload)
    block, size = (b"block", size) if size and draw(flags) else (payload, 0)
    return frames_copies.Fetched(
        draw(u32), tuple(draw(topics)), tuple(rows), draw(nth), draw(slots), block, code, message,
        size, draw(u16), draw(places), draw(u32),
        draw(st.none() | st.lists(u32, max_size=3).map(tuple)),
    )  # fmt: skip


settle_rows = st.builds(
    frames.SettleRow, u64, u32, st.integers(1, 2**32 - 1), st.integers(0, 4), i64, texts
)
holdings = st.builds(
    frames.Holding, u64, texts, st.lists(u64, max_size=4).map(tuple), u16, origins, u64
)


def _confirmation(topic, first, count, told, *rest):
    return frames.Confirmation(topic, first, count, *told, *rest)


told = st.just(("", "")) | st.tuples(texts, texts)
handed_runs = st.lists(
    st.builds(frames_site_words.HandedRun, texts, u32, u64, u32, u64, u32, u8), max_size=3
).map(tuple)


confirmations = st.builds(
    _confirmation, texts, u64, u32, told, u64, i64, blobs, u8, u64, flags, flags, flags
)
addresses = st.lists(texts, max_size=4).map(tuple)
nodes = st.none() | st.builds(
    frames.NodeFacts, st.integers(1, (1 << 64) - 1), texts, addresses, flags, texts
)
runs = st.lists(st.builds(frames.Route, ids, st.lists(u32, max_size=4).map(tuple)), max_size=4).map(
    tuple
)
known = st.lists(st.builds(frames.KnownPeer, ids, flags, texts, addresses), max_size=4).map(tuple)
BODIES = {
    frames.Hello: st.builds(
        frames.Hello, u16, u16, texts, ids, ids, texts, texts, flags, addresses, nodes, flags,
        flags,
    ),
    frames.Welcome: st.builds(
        frames.Welcome, u16, u16, ids, texts, texts, u64, flags, addresses, nodes, texts
    ),
    frames.Refuse: st.builds(frames.Refuse, texts, texts, known),
    frames.Nothing: st.just(frames.Nothing()),
    frames.Gap: st.just(frames.Gap()),
    frames.Ping: st.just(frames.Ping()),
    frames.Bye: st.just(frames.Bye()),
    frames.Publish: publishes(),
    frames.Confirm: st.builds(
        frames.Confirm, st.lists(confirmations, max_size=5).map(tuple)
    ),
    frames.Subscribe: st.builds(
        frames.Subscribe, u32, texts, u8, i64, blobs, u64, u32, u64, u64, u8,
        st.lists(st.builds(frames.Place, ids, u64, u32, st.just(0), flags), max_size=4).map(tuple),
        flags, st.just(b"") | ids, flags, flags,
    ),
    frames.Subscribed: st.builds(
        frames.Subscribed, u32, texts, texts, blobs, u64, u32, u32, i64
    ),
    frames.Unsubscribe: st.builds(frames.Unsubscribe, u32),
    frames.Credit: st.builds(frames.Credit, u32, u64, u64),
    frames.Window: st.builds(frames.Window, u64, u64),
    frames.Deliver: delivers(),
    frames.Command: st.builds(frames.Command, u64, texts, blobs),
    frames.Result: st.builds(frames.Result, u64, texts, texts, blobs),
    frames.Consume: st.builds(
        frames.Consume, u32, texts, texts, blobs, u32, u64, u64,
        st.lists(holdings, max_size=4).map(tuple), origins, ids, texts, u32, u32,
    ),
    frames.Consumed: st.builds(
        frames.Consumed, u32, texts, texts, u8, st.lists(u64, max_size=4).map(tuple), origins,
        flags,
    ),
    frames.HandOut: hand_outs(),
    frames.Settle: st.builds(
        frames.Settle, u32, u64, st.lists(settle_rows, max_size=5).map(tuple), origins
    ),
    frames.Settled: st.builds(
        frames.Settled, u32, u64, st.lists(settle_rows, max_size=5).map(tuple), origins
    ),
    frames.Revoke: st.builds(
        frames.Revoke, u32, st.lists(settle_rows, max_size=5).map(tuple), origins
    ),
    frames.Leave: st.builds(frames.Leave, u32, flags),
    frames.Transact: transacts(),
    frames.Transacted: st.builds(
        frames.Transacted, u64, texts, texts, st.lists(u64, max_size=4).map(tuple),
        st.lists(u64, max_size=4).map(tuple), origins, u64,
    ),
    frames.Serve: st.builds(frames.Serve, u32, texts, u32),
    frames.Served: st.builds(frames.Served, u32, texts, texts, flags),
    frames.Unserve: st.builds(frames.Unserve, u32),
    frames.Request: requests(),
    frames.Reply: replies(),
    frames.Cancel: st.builds(frames.Cancel, st.lists(u64, max_size=4).map(tuple)),
    frames.Grant: st.builds(frames.Grant, u64, u64),
    frames.Interests: st.builds(
        frames.Interests, u64, flags,
        st.lists(st.builds(frames.Interest, u32, u8, texts, u32), max_size=4).map(tuple),
        st.lists(u32, max_size=4).map(tuple), blobs,
    ),
    frames.Noted: st.builds(
        frames.Noted, u64, flags,
        st.lists(st.builds(frames.NotedRow, texts, u64, u64), max_size=4).map(tuple), flags,
    ),
    frames.Routes: st.builds(frames.Routes, runs, runs),
    frames.Wanted: st.builds(frames.Wanted, addresses),
    frames.Introduce: st.builds(
        frames.Introduce, ids, texts, addresses, addresses, addresses, u64
    ),
    frames.Known: st.builds(
        frames.Known,
        known,
        flags,
    ),
    frames.SiteInterests: st.builds(frames.SiteInterests, flags, addresses, addresses, flags, u64),
    frames.Pulse: st.builds(frames.Pulse, u64, flags),
    frames.Streams: st.builds(
        frames.Streams, u32,
        st.lists(
            st.builds(frames.StreamsRow, ids, texts, flags, u64, u32, flags, u64, u64, flags),
            max_size=4,
        ).map(tuple),
    ),
    frames_copies.AskCopy: st.builds(frames_copies.AskCopy, u8),
    frames_copies.Fetch: st.builds(
        frames_copies.Fetch, u32, ids, nth, slots, u64, u8, st.just(b"") | ids, u64, strands, i64,
        st.lists(st.tuples(u32, u64), max_size=3).map(tuple), flags, st.tuples(nth, slots),
    ),
    frames_copies.Fetched: fetched(),
    frames_copies.Copied: st.builds(
        frames_copies.Copied, ids, nth, slots, u64, flags, texts, flags, places
    ),
    frames_copies.Copies: st.builds(
        frames_copies.Copies,
        st.lists(copies_row, max_size=4).map(tuple),
    ),
    frames_copies.LogOffers: st.builds(
        frames_copies.LogOffers,
        st.lists(
            st.builds(
                frames_copies.LogOffer, ids, texts, texts, nth, slots, patterns, patterns,
                st.lists(texts, max_size=3).map(tuple), strands, i64, flags, clocks,
            ),
            max_size=4,
        ).map(tuple),
    ),
    frames_verify.CheckRange: st.builds(
        frames_verify.CheckRange, u32, ids, ids, nth, st.lists(nth, max_size=4).map(tuple), flags
    ),
    frames_verify.RangeChecked: st.builds(
        frames_verify.RangeChecked, u32, nth, nth, st.lists(ids, max_size=4).map(tuple),
        st.lists(
            st.builds(frames_verify.CheckedBatch, u64, u32, flags, st.just(b"") | ids), max_size=4
        ).map(tuple),
        texts, texts,
    ),
    frames_copies.Mirrored: st.builds(
        frames_copies.Mirrored, ids,
        st.lists(
            st.builds(
                frames_copies.MirroredRow, texts, claims, u64, u32, nth, slots,
            ),
            max_size=4,
        ).map(tuple),
    ),
    frames_site_words.SiteWords: st.builds(
        frames_site_words.SiteWords, u64,
        st.lists(
            st.builds(frames_site_words.SeenRow, texts, flags, u64), max_size=3
        ).map(tuple),
        st.lists(
            st.builds(
                frames_site_words.SiteTaken, ids, texts, texts, u64, texts, ids,
                st.lists(u32, max_size=3).map(tuple),
                st.lists(
                    st.builds(frames_site_words.TakenRange, u32, u64, u64), max_size=3
                ).map(tuple),
                flags, flags, st.just(False), st.just(0), st.just(()),  # these stay at their node
            ),
            max_size=3,
        ).map(tuple),
        st.lists(copies_row, max_size=3).map(tuple),
    ),
    frames_site_words.HandBack: st.builds(frames_site_words.HandBack, u64, u64, handed_runs),
    frames_site_words.HandedBack: st.builds(frames_site_words.HandedBack, u64, u64, handed_runs),
    frames.Offers: st.builds(
        frames.Offers, u64, flags, flags,
        st.lists(st.builds(frames.Offer, u32, texts, u32, u32, u32, u32), max_size=4).map(tuple),
    ),
    frames.WorkReady: st.builds(
        frames.WorkReady,
        st.lists(st.builds(frames.WorkReadyRow, texts, u64), max_size=4).map(tuple),
    ),
    frames.Lend: st.builds(frames.Lend, u32, u64, u32, u64, flags, flags),
    frames.Lent: st.builds(frames.Lent, u32, u64),
    frames.Owner: st.builds(frames.Owner, u32, ids, texts, flags),
    frames.DirectoryFrame: st.builds(frames.DirectoryFrame, u8, blobs),
    frames.Drained: st.builds(frames.Drained, known),
}  # fmt: skip


def test_every_body_is_tested():
    assert set(BODIES) == set(get_args(frames.Body))


def same_types(one, other):
    """Equality says 1 == True; types must be the same too, or a caller meets a foreign object."""
    if dataclasses.is_dataclass(one):
        one = [getattr(one, f.name) for f in dataclasses.fields(one)]
        other = [getattr(other, f.name) for f in dataclasses.fields(other)]
    elif type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return all(same_types(a, b) for a, b in zip(one, other, strict=True))
    return True


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_frame_reads_back_as_it_was(kind, data):
    body = data.draw(BODIES[kind])
    envelope = frames.Envelope(data.draw(u64), data.draw(u64), data.draw(u64), body)
    parts = codec.encode(envelope)
    assert all(type(part) is bytes for part in parts)
    assert len(parts) == (2 if kind in frames.WITH_PAYLOAD else 1)
    found = codec.decode(parts)
    assert found == envelope
    assert same_types(found, envelope)


def test_the_largest_frames_pass():
    topic = "t" * limits.TOPIC_BYTES_MAX
    rows = tuple(
        frames.PublishBatch(topic, i + 1, i, 1, 0, 0) for i in range(limits.FRAME_BATCHES_MAX)
    )
    confirm = frames.Confirm(
        tuple(
            frames.Confirmation(topic, i, 1, topic_id=b"t" * 16)
            for i in range(limits.FRAME_BATCHES_MAX)
        )
    )
    payload = bytes(limits.BATCH_BYTES_MAX)
    whole = (frames.PublishBatch(topic, 1, 0, 1, len(payload), 0),)
    for body in (frames.Publish(rows, b""), confirm, frames.Publish(whole, payload)):
        parts = codec.encode(frames.Envelope(1, 1, 1, body))
        assert len(parts[0]) <= limits.FRAME_HEADER_BYTES_MAX
        assert codec.decode(parts).body == body


def test_the_largest_answer_to_a_command_passes():
    body = frames.Result(1, "", "", b" " * limits.RESULT_BYTES_MAX)
    assert codec.decode(codec.encode(frames.Envelope(1, 1, 1, body))).body == body


@pytest.mark.parametrize("letter", ["t", "\U0010ffff"], ids=["plain", "escaped"])
def test_the_largest_refusal_of_batches_passes(letter):
    """A producer forgotten by the node that sends to many topics at once, with long names."""
    node = NodeBench()
    node.connect()
    topic = letter * ((limits.TOPIC_BYTES_MAX - 5) // len(letter.encode()))
    payload = codec.encode_batch([b"x"], None, None, None, 0)
    rows = tuple(
        frames.PublishBatch(f"{topic}.{i:04}", 2, 1, 1, len(payload), codec.checksum(payload))
        for i in range(limits.FRAME_BATCHES_MAX)
    )
    node.send(frames.Publish(rows, payload * len(rows)))
    refused = 0
    for body in node.take(kind=frames.Confirm):
        envelope = frames.Envelope(1, 1, 1, body)
        assert codec.decode(codec.encode(envelope)) == envelope
        refused += len(body.confirmations)
    assert refused == len(rows)


def test_a_long_refusal_is_cut_not_refused():
    parts = codec.encode(frames.Envelope(1, 0, 0, frames.Refuse("busy", "x" * 5000)))
    assert codec.decode(parts).body == frames.Refuse("busy", "x" * 4096)


# -- batches ---------------------------------------------------------------------------------------


@st.composite
def batches(draw):
    values = draw(st.lists(blobs, min_size=1, max_size=8))
    count = len(values)

    def column(items):
        full = st.lists(items, min_size=count, max_size=count)
        return draw(st.none() | full)

    return values, column(blobs), column(blobs), column(i64), draw(i64)


@settings(max_examples=200, deadline=None)
@given(batches())
def test_a_batch_reads_back_as_it_was(columns):
    values, keys, headers, times, time_ns = columns
    data = codec.encode_batch(*columns)
    codec.check_batch(data, len(values))
    found = codec.decode_batch(data, len(values))
    assert list(found.values) == values
    assert found.keys == keys
    assert found.headers == headers
    assert found.time_ns == time_ns
    assert (list(found.times) if found.times is not None else None) == times
    assert {type(v) for v in (*found.values, *(keys or ()), *(headers or ()))} <= {bytes}


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(0, 20))
def test_a_batch_is_read_only_with_its_own_count(columns, count):
    data = codec.encode_batch(*columns)
    if count != len(columns[0]):
        with pytest.raises(BadFrame, match=f"{count}"):
            codec.decode_batch(data, count)
        with pytest.raises(BadFrame):
            codec.check_batch(data, count)


def test_the_largest_batches_pass():
    most = [b"v"] * limits.BATCH_RECORDS_MAX
    largest = [bytes(limits.VALUE_BYTES_MAX)]
    keys, headers = [b"k" * limits.KEY_BYTES_MAX], [b"h" * limits.HEADER_BYTES_MAX]
    for columns in ((most, most, most, range(len(most))), (largest, keys, headers, [1])):
        data = codec.encode_batch(*columns, 5)
        assert len(data) <= limits.BATCH_BYTES_MAX
        codec.check_batch(data, len(columns[0]))
        assert codec.decode_batch(data, len(columns[0])).values == columns[0]


@pytest.mark.parametrize(
    ("value", "key", "header", "said"),
    [
        (bytes(limits.VALUE_BYTES_MAX + 1), b"", b"", "value of 1048577 bytes"),
        (b"", bytes(limits.KEY_BYTES_MAX + 1), b"", "keys"),
        (b"", b"", bytes(limits.HEADER_BYTES_MAX + 1), "headers"),
    ],
    ids=["value", "key", "headers"],
)
def test_what_is_over_a_records_limits_is_not_stored(value, key, header, said):
    data = codec.encode_batch([b"1", value], [b"", key], [b"", header], None, 0)
    with pytest.raises(BadFrame, match=said):
        codec.check_batch(data, 2)


@pytest.mark.parametrize(
    "columns",
    [
        ([b"1", b"2"], [b"k"], None, None),
        ([b"1", b"2"], None, [b"h"] * 3, None),
        ([b"1", b"2"], None, None, [5]),
        ([b"1", b"2"], None, None, [5, 6, 7]),
    ],
)
def test_columns_of_unequal_length_are_refused(columns):
    data = codec.encode_batch(*columns, 0)
    for read in (codec.decode_batch, codec.check_batch):
        with pytest.raises(BadFrame, match="for 2 values"):
            read(data, 2)


def test_times_that_are_no_whole_numbers_are_refused():
    data = codec._Batch.new_message(values=[b"1"], times=b"1234567").to_bytes()
    for read in (codec.decode_batch, codec.check_batch):
        with pytest.raises(BadFrame, match="7 bytes of times"):
            read(data, 1)


def test_times_are_little_endian():
    data = codec.encode_batch([b"1"], None, None, [0x0102], 0)
    assert array("q", [0x0102]).itemsize == 8
    assert b"\x02\x01\0\0\0\0\0\0" in data


# -- headers ---------------------------------------------------------------------------------------

header_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None)
@given(st.dictionaries(header_texts, header_texts, max_size=limits.HEADER_COUNT_MAX))
@example({"": ""})
@example({"raw": b"\xff\xfe".decode("utf-8", "surrogateescape")})
def test_headers_read_back_as_they_were(headers):
    assert codec.decode_headers(codec.encode_headers(headers)) == headers


def test_no_bytes_are_no_headers():
    assert codec.decode_headers(b"") == {}


def test_headers_are_bounded_in_number_and_bytes():
    assert codec.encode_headers({str(i): "" for i in range(limits.HEADER_COUNT_MAX)})
    with pytest.raises(MessageTooLarge, match="33 headers"):
        codec.encode_headers({str(i): "" for i in range(limits.HEADER_COUNT_MAX + 1)})
    with pytest.raises(MessageTooLarge, match="4096"):
        codec.encode_headers({"a": "x" * limits.HEADER_BYTES_MAX})


@pytest.mark.parametrize(
    "headers", [{"a": 1}, {1: "a"}, {"a": b"b"}, {"a": None}, {"\ud800": "a"}, {"a": "\ud800"}]
)
def test_headers_that_cannot_travel_are_refused(headers):
    with pytest.raises(InvalidArgument, match="header"):
        codec.encode_headers(headers)


@pytest.mark.parametrize("pairs", [[b"name"], [b"\xff", b"value"], [b"a", b"b", b"c"]])
def test_headers_that_are_no_pairs_of_text_are_refused(pairs):
    with pytest.raises(BadFrame, match="malformed headers"):
        codec.decode_headers(codec._Headers.new_message(pairs=pairs).to_bytes())


# -- the log ---------------------------------------------------------------------------------------


def batch_entries(moved):
    return st.builds(BatchEntry, u32, u64, u32, blobs, u32, ids, u64, moved)


topic_entries = st.builds(
    TopicEntry,
    u32,
    ids,
    texts,
    flags,
    i64,
    i64,
    flags,
    u8,
    st.just(b"") | ids,
    u32,
    flags,
    u64,
    u16,
)
own_topics = topic_entries.map(lambda t: t._replace(origin=b""))
rule_entries = st.builds(RuleEntry, texts, flags, i64, i64, flags, u8, flags)
takings = st.lists(st.tuples(u32, u64, u32), max_size=3).map(tuple)
retentions = st.none() | st.builds(SiteRetention, texts, u63, u63)
wholes = st.tuples(u63, u32)


def linked_entries(origin):
    return st.builds(
        LinkedEntry, origin, texts, patterns, patterns, patterns, u63, retentions, flags, wholes
    )


copied_entries = st.builds(Copied, u32, ids, u64, u32, i64)
mirror_entries = (
    st.builds(MirrorEntry, ids, texts, u64, u32, flags, flags, flags)
    | st.builds(TakeoverEntry, ids, u64, ids, u64, u32, u64, u32, flags)
    | st.builds(lambda *row: TakenEntry(row[0], Delta(row[1], settled=row[2])), ids, u32, takings)
    | st.builds(BehindEntry, ids, u64, u32, u64, texts)
    | st.builds(ForgottenEntry, ids, u64, texts, flags)
    | linked_entries(ids)
    | st.builds(StrandsEntry, ids, strands)
    | st.builds(StrandEntry, ids, u16, u64, u32)
)
trim_entries = st.builds(TrimEntry, u32, u64)


def some(entries, most=4, least=0):
    return st.lists(entries, min_size=least, max_size=most).map(tuple)


nothing = st.just(())
plain_commits = st.builds(
    Commit, u64, i64, some(batch_entries(st.just(b"")), 30, least=1), nothing, nothing, nothing,
    nothing, nothing, nothing, nothing, nothing,
)  # fmt: skip
set_stamps = st.builds(Stamp, st.integers(1, 1 << 58), ids, texts)
stamps = st.just(NEVER) | set_stamps
u62 = st.integers(0, (1 << 62) - 1)
rows = (
    st.builds(
        RuleRow,
        st.sampled_from(["a", "a.>"]),
        set_stamps,
        flags,
        u62,
        u62,
        flags,
        st.integers(0, limits.COPIES_MAX),
        flags,
    )
    | st.builds(TopicRow, ids, st.just("a"), flags, stamps, stamps, stamps, u62, u62)
    | st.builds(GroupRow, st.just("g"), stamps, stamps, texts, stamps, st.just(NEVER), st.just(""))
    | st.builds(GroupRow, st.just("g"), stamps, stamps, texts, stamps, set_stamps, texts)
    | st.builds(NodeRow, set_stamps)
    | st.builds(LinkRow, st.just("eu"), set_stamps, flags)
)
commits = plain_commits | st.builds(
    Commit, u64, i64, some(batch_entries(moves)), some(topic_entries), some(rule_entries),
    some(trim_entries), nothing, some(rows | st.builds(Forgotten, blobs)), some(copied_entries),
    some(mirror_entries), nothing,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(commits, st.integers(0, 2**40), flags)
def test_a_commit_reads_back_as_it_was(commit, start, inline):
    data = codec_log.encode_commit(commit, start, inline)
    found = codec_log.decode_commit(data)
    assert (found.lsn, found.append_time_ns, found.inline) == (
        commit.lsn, commit.append_time_ns, inline
    )  # fmt: skip
    assert (found.topics, found.rules, found.trims) == (commit.topics, commit.rules, commit.trims)
    assert found.directory == commit.directory
    assert len(found.batches) == len(commit.batches)
    for slot, (meta, batch) in enumerate(zip(found.batches, commit.batches, strict=True)):
        assert meta == (
            batch.stream, batch.count, batch.base_offset, start, len(batch.payload),
            batch.checksum, batch.producer, batch.first, batch.moved,
        )  # fmt: skip
        assert found.batches[slot] == meta
        start += len(batch.payload)
    assert found.without_bytes() == commit._replace(
        batches=tuple(b._replace(payload=b"") for b in commit.batches)
    )


@settings(max_examples=100, deadline=None)
@given(plain_commits, flags)
def test_the_packed_commit_is_the_message_the_schema_describes(commit, inline):
    data = codec_log.encode_commit(commit, 7, inline)
    general = codec_log._read_commit(data)
    assert general == codec_log.decode_commit(data)._replace(batches=general.batches)
    assert general.batches == tuple(codec_log.decode_commit(data).batches)


def test_a_batch_beyond_the_last_slot_is_an_index_error():
    commit = Commit(1, 1, (BatchEntry(1, 0, 1, b"x", 0, b"p" * 16, 1),))
    found = codec_log.decode_commit(codec_log.encode_commit(commit, 0, True))
    for slot in (1, -1):
        with pytest.raises(IndexError):
            found.batches[slot]


@pytest.mark.parametrize("topics", [(), (TopicEntry(1, b"t" * 16, "a", True, 0, 0),)])
def test_a_producer_that_is_not_sixteen_bytes_is_not_stored(topics):
    commit = Commit(1, 1, (BatchEntry(1, 0, 1, b"x", 0, b"short", 1),), topics)
    with pytest.raises(BadFrame, match="5 bytes"):
        codec_log.encode_commit(commit, 0, True)


ranges = st.lists(st.tuples(u64, u64, u64), max_size=3)
producer_states = st.builds(ProducerState, u64, i64, ranges)


@st.composite
def copied_journals(draw):
    journal = CopiedJournal()
    for number in draw(st.lists(st.integers(1, 2**32 - 2), max_size=2, unique=True)):
        journal.say([Delta(number, Settings(number, draw(texts), "group", ">"))], 0)
        if draw(flags):
            runs = draw(st.lists(st.tuples(u32, st.integers(0, 9999), st.integers(1, 9))))
            journal.take(Delta(number, settled=tuple(runs)))
    return journal


@st.composite
def mirrors(draw):
    """Of some logs, each with what is mirrored of it if it is of another site."""
    made = st.builds(
        MirrorState, texts, u64, u32, journal=copied_journals(), lacks=flags, own_until=u64,
        holes=flags,
    )  # fmt: skip
    found = draw(st.dictionaries(ids, made, max_size=2))
    for origin, mirror in found.items():
        mirror.linked = draw(st.none() | linked_entries(st.just(origin)))
        mirror.strands = {strand.number: strand for strand in draw(strands)}
    return found


@st.composite
def states(draw):
    state = LogState(draw(ids), draw(u64), draw(i64), draw(u32))
    for entry in draw(st.lists(own_topics, max_size=4, unique_by=lambda t: t.name)):
        held = StreamState(entry, draw(u64), draw(u64))
        state.topics[entry.name] = held
    for held in state.topics.values():
        if held.topic.stream and held.topic.stream not in state.streams:
            state.streams[held.topic.stream] = held
        else:
            held.topic = held.topic._replace(stream=0)
    state.rules = {r.pattern: r for r in draw(st.lists(rule_entries, max_size=3))}
    state.directory = {row.key: row for row in draw(st.lists(rows, max_size=3))}
    state.mirrors = draw(mirrors())
    keys = draw(st.lists(st.tuples(ids, u32), max_size=4, unique=True))
    state.producers = OrderedDict((key, draw(producer_states)) for key in keys)
    return state


@st.composite
def segments(draw):
    number = draw(u64)
    portions = {
        stream: Portion(number, stream, draw(u64), draw(u64), draw(u64), draw(i64))
        for stream in draw(st.lists(u32, max_size=3, unique=True))
    }
    return SegmentInfo(number, draw(u64), draw(u64), draw(i64), draw(i64), portions)


@settings(max_examples=100, deadline=None)
@given(states(), st.lists(segments(), max_size=3))
def test_a_snapshot_reads_back_as_it_was(state, older):
    found, read = codec_log.decode_snapshot(codec_log.encode_snapshot(state, older))
    assert found == state
    assert read == older
    assert list(found.producers) == list(state.producers)
    assert list(found.rules) == list(state.rules)
    for alias, held in found.streams.items():
        assert found.topics[held.topic.name] is held
        assert held.topic.stream == alias


def test_a_snapshot_of_another_format_is_refused_by_its_number(monkeypatch):
    data = codec_log.encode_snapshot(LogState(b"o" * 16), [])
    monkeypatch.setattr(codec_log, "FORMAT", 3)
    with pytest.raises(BadFrame, match="format 1, this version reads up to 2"):
        codec_log.decode_snapshot(data)
