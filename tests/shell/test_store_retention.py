"""Retention in the store: what is over its bound is trimmed, and its disk space comes back."""

from __future__ import annotations

import zlib

import pytest

from meshmq import limits
from meshmq.core.log import BatchEntry, CopiedEntry, TopicEntry, TrimEntry
from meshmq.shell.store import LogStore


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000 * limits.SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def retain(store):
    """One round as the node does it, without its pacing; returns the trims."""
    store._plan_not_before = 0.0
    trims = store.plan_retention()
    if trims:
        store.append([TrimEntry(*trim) for trim in trims])
    return trims


def size_kept(writer, stream):
    first = writer.store.state.streams[stream].first_offset
    return sum(len(b.payload) for b in writer.expected([stream]) if b.base_offset >= first)


def test_nothing_is_due(opened, writer_of, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2, retention_ns=limits.DAY)])
    for _ in range(40):
        writer.append([writer.batch(1), writer.batch(2)])
    assert retain(writer.store) == ()
    assert writer.store.stats()["segments"] == 5


def test_age(opened, writer_of, reader, clock, small_segments):
    writer = writer_of(opened(clock=clock))
    writer.store.append([writer.topic(1, retention_ns=50 * limits.SECOND)])
    for _ in range(100):
        clock.now += limits.SECOND
        writer.write(1, 200, 2)
    retain(writer.store)
    first = writer.store.state.streams[1].first_offset
    assert 80 <= first <= 100  # whole segments, of ten commits
    retain(writer.store)
    assert writer.store.stats()["segments"] <= 7
    kept = [b for b in writer.expected() if b.base_offset >= first]
    assert reader(writer.store) == kept
    assert reader(opened(clock=clock)) == kept


def test_age_in_the_active_segment_is_to_the_commit(opened, writer_of, reader, clock):
    writer = writer_of(opened(clock=clock))
    writer.store.append(
        [writer.topic(1, retention_ns=5 * limits.SECOND), writer.topic(2, retention_ns=limits.DAY)]
    )
    for _ in range(10):
        clock.now += limits.SECOND
        writer.append([writer.batch(1, 50, 3), writer.batch(2)])
    assert retain(writer.store) == ((1, 12),)  # not older than 5 s: commits 5 to 10 of ten
    assert retain(writer.store) == ()
    assert reader(writer.store, [1]) == writer.expected([1])[4:]
    clock.now += 60 * limits.SECOND
    assert retain(writer.store) == ((1, 30),)
    assert reader(writer.store, [1]) == []
    assert reader(writer.store, [2]) == writer.expected([2])
    writer.write(1)
    assert [b.base_offset for b in reader(writer.store, [1])] == [30]


@pytest.mark.parametrize("bound", [500, 3_000, 20_000])
def test_bytes(opened, writer_of, reader, bound, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1, retention_bytes=bound), writer.topic(2)])
    for i in range(150):
        writer.append([writer.batch(1, 50 + 20 * (i % 10), 2)])
        if i % 50 == 0:
            writer.write(2)
        retain(writer.store)
    assert 0.85 * bound - 250 <= size_kept(writer, 1) <= 1.1 * bound
    first = writer.store.state.streams[1].first_offset
    kept = [b for b in writer.expected([1]) if b.base_offset >= first]
    assert reader(writer.store, [1]) == kept
    assert reader(writer.store, [2]) == writer.expected([2])
    assert reader(opened(), [1]) == kept


def test_segments_with_nothing_kept_are_unlinked_wherever_they_are(
    opened, writer_of, reader, tmp_path, small_segments
):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2, retention_bytes=300)])
    writer.write(1)
    for _ in range(50):
        writer.write(2)
    for _ in range(3):
        retain(writer.store)
    numbers = sorted(int(path.name) for path in (tmp_path / "data" / "log").iterdir())
    assert numbers[0] == 1  # holds stream 1
    assert len(numbers) <= 3
    stats = writer.store.stats()
    assert stats["segments"] == len(numbers)
    assert stats["segments_removed"] >= 3
    for store in (writer.store, None):
        store = store or opened()
        assert reader(store, [1]) == writer.expected([1])
        two = reader(store, [2])
        assert two == writer.expected([2])[-len(two) :]
        assert reader(store) == writer.expected([1]) + two
        assert reader(store, [1, 2], ("time", 0, 0)) == writer.expected([1]) + two
        assert reader(store, [1, 2], ("position", 15, 0)) == two


def test_deleted_topic_frees_its_segments(opened, writer_of, reader, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for _ in range(50):
        writer.write(1)
    writer.store.append([writer.topic(1, deleted=True)])
    retain(writer.store)
    assert writer.store.stats()["segments"] == 1
    assert reader(writer.store, [1]) == []
    store = opened()
    assert store.state.next_lsn == writer.store.state.next_lsn
    assert store.read(frozenset([1]), ("position", 1, 0), 20, 100) == ((), 21, 0)


def test_active_segment_is_closed_so_that_age_can_free_it(opened, writer_of, clock):
    writer = writer_of(opened(clock=clock))
    writer.store.append([writer.topic(1, retention_ns=400 * limits.SECOND)])
    for _ in range(2):
        writer.write(1, 800_000)
    clock.now += 100 * limits.SECOND
    retain(writer.store)
    assert writer.store.stats()["segments"] == 1
    clock.now += limits.SECOND
    retain(writer.store)
    assert writer.store.stats()["segments"] == 2
    retain(writer.store)
    assert writer.store.stats()["segments"] == 2
    clock.now += 400 * limits.SECOND
    assert retain(writer.store) == ((1, 2),)
    retain(writer.store)
    assert writer.store.stats()["segments"] == 1
    assert writer.store.stats()["bytes"] < 200_000


def test_half_removed_segment_is_removed_at_start(opened, writer_of, tmp_path, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1, retention_bytes=100)])
    for _ in range(25):
        writer.write(1)
    retain(writer.store)
    writer.store.close()
    log = tmp_path / "data" / "log"
    first = min(log.iterdir())
    (first / "values.bin").unlink()
    first.rename(first.with_name(first.name + ".removing"))
    opened()
    assert not any(path.name.endswith(".removing") for path in log.iterdir())


def test_planning_that_takes_long_is_paced(tmp_path, monkeypatch, writer_of):
    store = LogStore.open(tmp_path / "data")
    writer = writer_of(store)
    store.append([writer.topic(1, retention_bytes=10)])
    writer.write(1)
    writer.write(1)
    ticks = iter([0.0, 0.0, 2.0, 3.0, 99.0, 101.0, 101.0, 101.0])
    monkeypatch.setattr("meshmq.shell.store.time.monotonic", lambda: next(ticks))
    assert store.plan_retention() == ((1, 1),)  # took 2 s
    assert store.plan_retention() == ()  # at 3 s: too early
    assert store.plan_retention() == ()  # at 99 s: still
    assert store.plan_retention() == ((1, 1),)
    monkeypatch.undo()
    store.close()


def test_many_streams_are_planned_in_parts(opened, writer_of, monkeypatch):
    writer = writer_of(opened())
    store = writer.store
    store.append([writer.topic(i, retention_bytes=10) for i in range(1, 41)])
    for _ in range(2):
        writer.append([writer.batch(i) for i in range(1, 41)])
    now = 0.0

    def tick():
        nonlocal now
        now += 0.001
        return now

    monkeypatch.setattr("meshmq.shell.store_retention.time.perf_counter", tick)
    monkeypatch.setattr("meshmq.shell.store_retention._PLAN_SECONDS", 0.0105)
    found = []
    for _ in range(4):
        trims = retain(store)
        assert len(trims) == 10
        found += [stream for stream, _ in trims]
    assert found == list(range(1, 41))
    assert retain(store) == ()


def test_streams_that_hold_one_of_another_log_have_one_bound_and_the_oldest_goes_first(opened):
    """A stream there that came by two strands, and another one of the same bound."""
    store = opened()
    origin = b"their log" + bytes(7)
    made = TopicEntry(1, b"t" * 16, "orders", True, 0, 3 * limits.MIB, origin=origin, source=7)
    other = made._replace(stream=3, name="bills", topic_id=b"u" * 16, source=8)
    store.append([made, made._replace(stream=2, strand=1), other, TrimEntry(2, 20)])

    def write(alias, offset, count):
        for i in range(offset, offset + count):
            data = b"%d" % i + bytes(99_998)
            batch = BatchEntry(alias, i, 1, data, zlib.crc32(data), b"p" * 16, 1)
            store.append([CopiedEntry(batch, origin, i, alias, 1)])

    write(1, 0, 20)
    write(2, 20, 20)
    write(3, 0, 20)
    assert {stream for stream, _ in retain(store)} == {1}
    kept = store.state.first_offsets()
    assert (kept[2], kept[3]) == (20, 0)
    assert 5 < kept[1] <= 10
    write(2, 40, 30)
    retain(store)
    kept = store.state.first_offsets()
    assert kept[1] == 20
    assert 35 < kept[2] <= 41
