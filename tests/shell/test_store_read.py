"""Reads find exactly what a naive search through everything finds, whatever the start and end."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshmq.core.log import TrimEntry
from meshmq.shell import store_read
from meshmq.shell.store import LogStore


def naive(writer, streams, start, end_lsn):
    """What a read to the end must give, found by going through everything."""
    kind, value, slot = start
    found = []
    for batch in writer.expected(streams):
        state = writer.store.state.streams.get(batch.stream)
        if state is None or batch.base_offset + batch.count <= state.first_offset:
            continue
        if batch.lsn > end_lsn:
            continue
        if kind == "offset" and batch.base_offset + batch.count <= value:
            continue
        if kind == "time" and batch.append_time_ns < value:
            continue
        if kind == "position" and (batch.lsn, batch.slot) < (value, slot):
            continue
        found.append(batch)
    return found


def fill(writer, rng, commits):
    writer.store.append([writer.topic(i) for i in range(1, 5)])
    for _ in range(commits):
        size = rng.choice([10, 10, 3_000])
        writer.append(
            [
                writer.batch(rng.randrange(1, 5), size, rng.randrange(1, 9))
                for _ in range(rng.randrange(1, 9))
            ]
        )


@pytest.mark.parametrize("seed", range(3))
def test_any_start_and_end(tmp_path, writer_of, reader, small_segments, seed):
    rng = random.Random(seed)
    now = [1_000]

    def clock():
        now[0] += rng.choice([0, 0, 5])
        return now[0]

    store = LogStore.open(tmp_path / "data", clock=clock)
    writer = writer_of(store, seed)
    fill(writer, rng, 60)
    store.append([TrimEntry(1, writer.offsets[1] // 3), TrimEntry(4, writer.offsets[4])])
    fill_more = [writer.batch(2, 40, 2), writer.batch(4, 40, 2)]
    writer.append(fill_more)
    store.append([writer.topic(3, deleted=True)])
    for _ in range(2):
        last = store.state.next_lsn - 1
        for _ in range(150):
            streams = rng.sample([1, 2, 3, 4, 9], rng.randrange(1, 5))
            kinds = ["position", "time"] + ["offset"] * (len(streams) == 1)
            kind = rng.choice(kinds)
            top = {"position": last + 3, "time": now[0] + 10, "offset": 250}[kind]
            start = (kind, rng.randrange(top), rng.randrange(8) if kind == "position" else 0)
            end = rng.randrange(last + 1)
            found = reader(store, streams, start, end, rng.choice([1, 500, 5_000, 1 << 20]))
            assert found == naive(writer, streams, start, end), (streams, start, end)
        store.close()
        writer.store = store = LogStore.open(tmp_path / "data", clock=clock)
    store.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    commits=st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40), st.integers(1, 5)), max_size=6),
        max_size=25,
    ),
    offset=st.integers(0, 60),
)
def test_offsets_of_any_log(writer_of, reader, small_segments, commits, offset):
    with tempfile.TemporaryDirectory() as directory:
        store = LogStore.open(Path(directory) / "data")
        writer = writer_of(store)
        store.append([writer.topic(i) for i in (1, 2, 3)])
        for batches in commits:
            writer.append([writer.batch(*batch) for batch in batches])
        for stream in (1, 2, 3):
            start = ("offset", offset, 0)
            end = store.state.next_lsn - 1
            assert reader(store, [stream], start) == naive(writer, [stream], start, end)
        assert reader(store) == writer.expected()
        store.close()


def test_bytes_bound_holds_but_one_batch_always_comes(opened, writer_of):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2)])
    for _ in range(5):
        writer.append([writer.batch(1, 1000), writer.batch(1, 1000), writer.batch(2, 1000)])
    end = writer.store.state.next_lsn - 1
    for streams in ([1], [1, 2]):
        found = writer.store.read(frozenset(streams), ("position", 1, 0), end, 2500)
        assert sum(len(batch.payload) for batch in found.batches) == 2000
        found = writer.store.read(frozenset(streams), ("position", 2, 1), end, 1)
        assert [(batch.lsn, batch.slot) for batch in found.batches] == [(2, 1)]
        assert (found.next_lsn, found.next_slot) > (2, 1)


def test_work_bound_holds(opened, writer_of, reader, monkeypatch):
    monkeypatch.setattr(store_read, "COMMITS_PER_READ_MAX", 10)
    writer = writer_of(opened())
    writer.store.append([writer.topic(i) for i in (1, 2, 3)])
    for i in range(60):
        writer.write(1 if i != 57 else 2)
    end = writer.store.state.next_lsn - 1
    found = writer.store.read(frozenset([2, 3]), ("position", 1, 0), end, 1 << 20)
    assert found.batches == ()
    assert 2 < found.next_lsn < 20
    assert reader(writer.store, [2, 3]) == writer.expected([2, 3])
    found = writer.store.read(frozenset([1]), ("position", 1, 0), end, 1 << 20)
    assert len(found.batches) == 10
    assert reader(writer.store, [1]) == writer.expected([1])


def test_end_and_beyond(opened, writer_of):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for _ in range(5):
        writer.write(1)
    read = writer.store.read
    one = frozenset([1])
    assert read(one, ("position", 3, 0), 4, 1 << 20)[1:] == (5, 0)
    assert read(one, ("position", 3, 0), 99, 1 << 20)[1:] == (7, 0)  # the newest is 6
    assert read(one, ("position", 7, 0), 6, 1 << 20) == ((), 7, 0)
    assert read(one, ("offset", 99, 0), 6, 1 << 20) == ((), 7, 0)
    assert read(one, ("time", 2**62, 0), 6, 1 << 20) == ((), 7, 0)
    assert read(frozenset([5]), ("position", 1, 0), 6, 1 << 20) == ((), 7, 0)
    assert read(frozenset(), ("position", 1, 0), 6, 1 << 20) == ((), 7, 0)
