"""The short cut for batches of values alone against the general path: each reads both."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import codec, codec_values, limits
from meshmq.errors import BadFrame
from meshmq.frames import Deliver, DeliverBatch, Envelope, Publish, PublishBatch

i64 = st.integers(-(2**63), 2**63 - 1)
even = st.tuples(st.integers(1, 60), st.integers(0, 70), st.integers(0, 2**32)).map(
    lambda x: [random.Random(x[2] + i).randbytes(x[1]) for i in range(x[0])]
)
uneven = st.lists(st.binary(max_size=70), min_size=1, max_size=20)
large = st.lists(st.integers(0, 9000), min_size=1, max_size=9).map(
    lambda sizes: [random.Random(i).randbytes(size) for i, size in enumerate(sizes)]
)


def generally(patch):
    """Leave all to the general path."""
    patch.setattr(codec_values, "encode", lambda values, time_ns: None)
    patch.setattr(codec_values, "decode", lambda data, count: None)
    patch.setattr(codec_values, "is_plain", lambda data, count: False)


def plain(values, time_ns):
    return codec.encode_batch(values, None, None, None, time_ns)


def seen(data, count):
    read = codec.decode_batch(data, count)
    assert (read.keys, read.headers, read.times) == (None, None, None)
    assert {type(value) for value in read.values} == {bytes}
    return list(read.values), read.time_ns


@given(even | uneven | large, i64)
@settings(max_examples=300)
def test_both_paths_read_what_either_wrote(values, time_ns):
    count = len(values)
    mine = plain(values, time_ns)
    with pytest.MonkeyPatch.context() as patch:
        generally(patch)
        general = plain(values, time_ns)
        assert seen(mine, count) == (values, time_ns)
        codec.check_batch(mine, count)
        assert not codec.decode_keys(mine, count)
        for other in (count - 1, count + 1):
            with pytest.raises(BadFrame):
                codec.decode_batch(mine, other)
    for data in (mine, general, memoryview(mine), memoryview(general)):
        assert seen(data, count) == (values, time_ns)
    for data in (mine, general):
        codec.check_batch(data, count)
        assert not codec.decode_keys(data, count)
        with pytest.raises(BadFrame):
            codec.check_batch(data, count + 1)


@given(st.binary(max_size=4096), i64)
def test_a_lone_value_is_written_as_by_the_general_path(value, time_ns):
    mine = plain([value], time_ns)
    with pytest.MonkeyPatch.context() as patch:
        generally(patch)
        assert plain([value], time_ns) == mine


def test_the_largest_batches_go_both_ways():
    for values in ([bytes(limits.VALUE_BYTES_MAX)], [b"7"] * limits.BATCH_RECORDS_MAX):
        data = plain(values, 1)
        codec.check_batch(data, len(values))
        assert seen(data, len(values)) == (values, 1)
    over = plain([bytes(limits.VALUE_BYTES_MAX + 1)], 1)
    with pytest.raises(BadFrame):
        codec.check_batch(over, 1)


@given(even | large, st.integers(0, 2**32))
@settings(max_examples=300)
def test_what_is_read_of_damaged_bytes_the_general_path_reads_too(values, seed):
    entropy = random.Random(seed)
    damaged = bytearray(plain(values, 5))
    pointers = min(len(damaged), 64 + 8 * len(values))
    for _ in range(entropy.choice([1, 1, 2, 5])):
        damaged[entropy.randrange(pointers)] ^= 1 << entropy.randrange(8)
    if entropy.random() < 0.2:
        del damaged[entropy.randrange(len(damaged)) :]
    data, count = bytes(damaged), entropy.choice([len(values), len(values), 1, 2])
    found = codec_values.decode(data, count)
    is_plain = codec_values.is_plain(data, count)
    assert found is not None or not is_plain
    if found is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        generally(patch)
        assert seen(data, count) == (list(found[0]), found[1])
        if is_plain:
            codec.check_batch(data, count)


@pytest.mark.parametrize("rows", [1, 2])
def test_only_what_is_delivered_stays_a_view(rows):
    data = plain([b"v" * 100] * 3, 1)
    payload = data * rows
    delivered = tuple([DeliverBatch("t", 1, 3, len(data), 0, 0, 0, 0)] * rows)
    published = tuple([PublishBatch("t", 1, 0, 3, len(data), 0)] * rows)
    for body, kind in (
        (Deliver(1, delivered, 0, payload), memoryview),
        (Publish(published, payload), bytes),
    ):
        parts = codec.encode(Envelope(1, 2, 3, body))
        read = codec.decode([memoryview(part) for part in parts])
        assert read == Envelope(1, 2, 3, body)
        assert type(read.body.payload) is kind
    with pytest.raises(BadFrame):
        codec.decode([memoryview(parts[0]), memoryview(parts[1])[8:]])


def test_many_threads_with_many_shapes_of_batches_do_not_meet():
    def run(seed):
        for i in range(400):
            count, size = 2 + (i + seed) % 40, 8 + (i * seed) % 9
            values = [bytes([i % 256]) * size] * count
            assert seen(plain(values, 5), count) == (values, 5)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(run, range(1, 13)))
    finally:
        sys.setswitchinterval(before)
