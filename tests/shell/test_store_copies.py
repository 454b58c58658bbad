"""Copies of other nodes' logs in the log: kept, and found by their own places."""

from __future__ import annotations

import random
import zlib

import pytest

from meshmq.core.log import BatchEntry, CopiedEntry, TopicEntry, TrimEntry
from meshmq.core.mirror_log import (
    BEHIND_ALL,
    MirrorEntry,
    StrandEntry,
    StrandsEntry,
    TakeoverEntry,
)
from meshmq.frames_copies import Strand
from meshmq.shell import store_copies

THEIRS, OTHERS = b"b" * 16, b"c" * 16
HOUR = 3600 * 10**9


def copied_topic(alias, source=1, origin=THEIRS, name="orders"):
    return TopicEntry(alias, bytes([source]) * 16, name, True, 0, 0, origin=origin, source=source)


class Copier:
    """Makes entries as a node does that copies ``origin``: batches at rising places there."""

    def __init__(self, aliases, origin=THEIRS, seed=1):
        self.random = random.Random(seed)
        self.aliases, self.origin = aliases, origin
        self.ends = dict.fromkeys(aliases, 0)
        self.lsn, self.slot = 1, 0
        self.written = []

    def batch(self, size=60):
        if self.random.random() < 0.5:
            self.lsn, self.slot = self.lsn + self.random.randrange(1, 4), 0
        alias = self.aliases[-1 if self.random.random() < 0.15 else 0]
        data, count = self.random.randbytes(size), self.random.randrange(1, 4)
        batch = BatchEntry(alias, self.ends[alias], count, data, zlib.crc32(data), b"p" * 16, 1)
        self.ends[alias] += count
        entry = CopiedEntry(batch, self.origin, self.lsn, self.slot, HOUR + self.lsn)
        self.slot += 1
        self.written.append(entry)
        return entry

    def entries(self, count, size=60):
        rows = [self.batch(size) for _ in range(count)]
        return [*rows, MirrorEntry(self.origin, "there", self.lsn, self.slot)]


def read_all(store, streams, start, origin=THEIRS, bytes_max=500):
    found = []
    end = store.state.mirrors[origin]
    while True:
        r = store.read(frozenset(streams), start, 1 << 60, bytes_max, origin)
        found += r.batches
        if (r.next_lsn, r.next_slot) >= end.end:
            return found
        assert ("position", r.next_lsn, r.next_slot) != start
        start = ("position", r.next_lsn, r.next_slot)


def places(rows):
    return [(b.lsn, b.slot, b.base_offset, b.payload, b.append_time_ns) for b in rows]


def wanted(copier, streams, lsn=0, slot=0):
    return [
        (e.lsn, e.slot, e.batch.base_offset, e.batch.payload, e.append_time_ns)
        for e in copier.written
        if e.batch.stream in streams and (e.lsn, e.slot) >= (lsn, slot)
    ]


@pytest.fixture
def filled(opened, small_segments):
    """A store with own records and copies of two logs between each other, over many segments."""
    store = opened()
    own = TopicEntry(1, b"o" * 16, "orders", True, 0, 0)
    store.append([own, copied_topic(2), copied_topic(3, 2, name="bills")])
    store.append([copied_topic(4, 1, OTHERS)])
    copier, other = Copier([2, 3]), Copier([4], OTHERS, 2)
    for i in range(60):
        entries = []
        if i % 2:
            data = b"own %d" % i
            entries.append(BatchEntry(1, i // 2, 1, data, zlib.crc32(data), b"q" * 16, i // 2 + 1))
        if i % 3:
            entries += copier.entries(1 + i % 4, 9000 if i % 10 == 0 else 60)
        if i % 5 == 0:
            entries += other.entries(2)
        store.append(entries)
    return store, copier, other


def test_copies_are_read_by_the_places_of_their_own_log(filled):
    store, copier, _ = filled
    for streams in ({2, 3}, {2}, {3}):
        assert places(read_all(store, streams, ("position", 1, 0))) == wanted(copier, streams)
    for e in copier.written[:: len(copier.written) // 12]:
        found = read_all(store, {2, 3}, ("position", e.lsn, e.slot))
        assert places(found) == wanted(copier, {2, 3}, e.lsn, e.slot)
        later = read_all(store, {2, 3}, ("time", e.append_time_ns, 0))
        assert places(later) == wanted(copier, {2, 3}, e.lsn)
    behind = store.read(frozenset({2, 3}), ("position", copier.lsn, copier.slot), 1, 99, THEIRS)
    assert behind == ((), *BEHIND_ALL)


def test_readers_that_go_on_where_a_read_ended_have_all_while_more_comes(filled):
    store, copier, _ = filled
    chance = random.Random(3)
    readers = [[("position", 1, 0), frozenset(streams), []] for streams in ({2, 3}, {2, 3}, {3})]
    for i in range(400):
        if i % 4 == 0 and i < 200:
            store.append(copier.entries(2))
        reader = chance.choice(readers)
        start, streams, found = reader
        r = store.read(streams, start, 1 << 60, chance.randrange(1, 400), THEIRS)
        found += r.batches
        place = (r.next_lsn, r.next_slot)
        reader[0] = ("position", *min(place, store.state.mirrors[THEIRS].end))
    for start, streams, found in readers:
        found += read_all(store, streams, start)
        assert places(found) == wanted(copier, streams)
    assert store._reader.stops.last(THEIRS, frozenset({2, 3}), (copier.lsn, copier.slot))[0] > (
        1,
        0,
    )


def test_an_offset_of_a_copied_stream_is_found(filled):
    store, copier, _ = filled
    e = [e for e in copier.written if e.batch.stream == 3][3]
    last = e.batch.base_offset + e.batch.count - 1
    found = store.read(frozenset({3}), ("offset", last, 0), 1 << 60, 1, THEIRS).batches[0]
    assert (found.lsn, found.slot, found.payload) == (e.lsn, e.slot, e.batch.payload)


def test_a_restart_and_new_segments_keep_copies_and_how_far_they_go(filled, opened):
    store, copier, other = filled
    taken = TakeoverEntry(THEIRS, 3, b"t" * 16, 77, 1)
    store.append([taken, TakeoverEntry(THEIRS, 2, b"u" * 16, 5, 0)])
    before = store.state
    store = opened()
    assert store.state == before
    for origin, one in ((THEIRS, copier), (OTHERS, other)):
        mirror = store.state.mirrors[origin]
        assert (mirror.name, mirror.lsn, mirror.slot) == ("there", one.lsn, one.slot)
        assert places(read_all(store, one.aliases, ("position", 1, 0), origin)) == wanted(
            one, one.aliases
        )
    assert store.state.takeovers[THEIRS] == taken
    assert {t.origin for t in (s.topic for s in store.state.topics.values())} == {b""}
    assert store.check() == []


def test_producers_of_copies_are_not_the_nodes_own(filled):
    store, _, _ = filled
    assert {stream for _, stream in store.state.producers} == {1}


def test_what_the_owner_has_trimmed_goes_and_a_rewritten_segment_keeps_places(
    filled, opened, monkeypatch
):
    from meshmq.core import retention
    from meshmq.shell import store as store_module

    monkeypatch.setattr(retention, "REWRITE_BYTES_MIN", 100)
    monkeypatch.setattr(store_module, "_PLAN_SHARE", 0)
    monkeypatch.setattr(store_module, "_SETTLE_SECONDS", 0)
    store, copier, other = filled
    gone = [TrimEntry(2, copier.ends[2]), TrimEntry(1, 30), TrimEntry(4, other.ends[4])]
    store.append(gone)
    for _ in range(40):
        store.plan_retention()
        while store.is_rewriting:
            store.rewrite()
    assert store.stats()["segments_rewritten"] > 0
    store = opened()
    assert places(read_all(store, {2, 3}, ("position", 1, 0))) == wanted(copier, {3})
    e = [e for e in copier.written if e.batch.stream == 3][3]
    found = read_all(store, {2, 3}, ("position", e.lsn, e.slot))
    assert places(found) == wanted(copier, {3}, e.lsn, e.slot)


def test_a_dropped_copy_is_gone_after_a_restart_too(filled, opened):
    store, _, other = filled
    store.append([MirrorEntry(THEIRS, "there", 1, 0, True)])
    for one in (store, None):
        one = one or opened()
        assert set(one.state.mirrors) == {OTHERS}
        assert set(one.state.streams) == {1, 4}
        assert one.read(frozenset({2}), ("position", 1, 0), 1 << 60, 99, THEIRS) == ((), 1, 0)
        assert places(read_all(one, {4}, ("position", 1, 0), OTHERS)) == wanted(other, {4})


def test_a_batch_that_came_damaged_keeps_its_offsets(opened):
    store = opened()
    lost = BatchEntry(2, 3, 4, b"", 1, b"p" * 16, 1)
    data = b"after"
    after = BatchEntry(2, 7, 1, data, zlib.crc32(data), b"p" * 16, 5)
    store.append([copied_topic(2), CopiedEntry(lost, THEIRS, 5, 0, 9), TrimEntry(2, 3),
                  CopiedEntry(after, THEIRS, 6, 1, 9), MirrorEntry(THEIRS, "b", 6, 2)])  # fmt: skip
    for one in (store, None):
        one = one or opened()
        found = read_all(one, {2}, ("position", 1, 0))
        assert [(b.base_offset, b.count, b.damaged) for b in found] == [(3, 4, True), (7, 1, False)]
        assert one.state.streams[2].first_offset == 3


def test_a_damaged_batch_is_written_in_its_place(opened):
    store = opened()
    data = random.Random(5).randbytes(70_000)
    other = random.Random(6).randbytes(50_000)
    store.append([TopicEntry(1, b"o" * 16, "orders", True, 0, 0)])
    store.append([BatchEntry(1, 0, 2, data, zlib.crc32(data), b"q" * 16, 1),
                  BatchEntry(1, 2, 1, other, zlib.crc32(other), b"q" * 16, 3)])  # fmt: skip
    (values,) = opened.directory.glob("log/*/values.bin")
    with values.open("r+b") as file:
        file.seek(1000)
        file.write(b"broken")

    def read(one):
        return [
            (b.payload, b.damaged)
            for b in one.read(frozenset({1}), ("position", 1, 0), 1 << 60, 1 << 20).batches
        ]

    assert read(store) == [(b"", True), (other, False)]
    assert not store.mend(1, 0, 2, other)  # not what it was
    assert not store.mend(1, 1, 1, data)
    assert not store.mend(7, 0, 2, data)
    assert read(store) == [(b"", True), (other, False)]
    assert store.mend(1, 0, 2, data)
    assert read(store) == [(data, False), (other, False)]
    assert store.stats()["batches_mended"] == 1
    assert opened().check() == []


# -- strands of a log of another site --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_strands_are_put_together_in_the_order_of_their_log(opened, seed):
    """Two strands, of which one comes with the past later, and a topic that changes strands."""
    rng = random.Random(seed)
    store = opened()
    aliases = {(0, 1): 5, (1, 2): 6, (1, 1): 7}  # by strand and source
    store.append([
        copied_topic(alias, source, name=f"t{source}")._replace(strand=strand)
        for (strand, source), alias in aliases.items()
    ])  # fmt: skip
    ends, log = {1: 0, 2: 0}, []
    for lsn in range(1, 80):
        for slot in range(rng.randrange(1, 4)):
            source, count = rng.choice([1, 2]), rng.randrange(1, 3)
            data = rng.randbytes(60)
            batch = (ends[source], count, data, zlib.crc32(data), b"p" * 16, 1)
            log.append((source, lsn, slot, batch))
            ends[source] += count

    def entries(strand, rows, end):
        said = [
            CopiedEntry(BatchEntry(aliases[strand, s], *b), THEIRS, lsn, slot, HOUR + lsn)
            for s, lsn, slot, b in rows
        ]  # fmt: skip
        return [*said, StrandEntry(THEIRS, strand, end, 0)]

    claims = (((">",), ()),)
    store.append(
        [StrandsEntry(THEIRS, (Strand(0, 0, 1, 0, claims), Strand(1, 0, 1, 0, claims)))]
    )  # fmt: skip
    first = [row for row in log if row[0] == 1 and row[1] < 50]
    past = [row for row in log if row[0] == 2 or row[1] >= 50]
    while first or past:  # some of both in one commit, in whatever order
        ours, later = rng.randrange(8), rng.randrange(6)
        store.append([*entries(0, first[:ours], 50), *entries(1, past[:later], 80)])
        first, past = first[ours:], past[later:]
    store = opened()
    want = [(lsn, slot, b[0]) for s, lsn, slot, b in log]
    for size in (1, 200, 1 << 20):
        found = read_all(store, aliases.values(), ("position", 1, 0), bytes_max=size)
        assert [(b.lsn, b.slot, b.base_offset) for b in found] == want
    found = read_all(store, aliases.values(), ("time", HOUR + 40, 0))
    assert [(b.lsn, b.slot, b.base_offset) for b in found] == [row for row in want if row[0] >= 40]
    found = read_all(store, (5, 7), ("position", 45, 0))
    assert [b.base_offset for b in found] == [
        b[0] for s, lsn, _, b in log if s == 1 and lsn >= 45
    ]  # fmt: skip


def test_who_reads_on_is_searched_for_once_in_each_strand(opened, monkeypatch):
    """Three strands one after the other, as after changes of a link: those that are over, and those
    that come later, too."""
    store = opened()
    store.append([copied_topic(5 + n)._replace(strand=n) for n in range(3)])
    claims = (((">",), ()),)
    store.append([StrandsEntry(THEIRS, tuple([Strand(n, 0, 1, 0, claims) for n in range(3)]))])
    for lsn in range(1, 91):
        strand, data = (lsn - 1) // 30, b"%d" % lsn * 60
        batch = BatchEntry(5 + strand, lsn - 1, 1, data, zlib.crc32(data), b"p" * 16, 1)
        store.append(
            [CopiedEntry(batch, THEIRS, lsn, 0, HOUR), StrandEntry(THEIRS, strand, lsn, 1)]
        )
    searched = []
    real = store_copies._locate
    monkeypatch.setattr(
        store_copies, "_locate", lambda *args: searched.append(args[1]) or real(*args)
    )
    found = read_all(store, (5, 6, 7), ("position", 1, 0))
    assert [b.base_offset for b in found] == [*range(90)]
    assert len(searched) == 3
