"""A log that was put back gets another identity: what it has is a copy of what it was."""

from __future__ import annotations

import zlib

import pytest

from meshmq import codec
from meshmq.core.journal import Delta, JournalState, Settings, pack_deltas
from meshmq.core.log import BatchEntry, CopiedEntry, JournalEntry, TopicEntry
from meshmq.core.mirror_log import BehindEntry, MirrorEntry
from meshmq.names import JOURNAL
from meshmq.shell import store_renew
from meshmq.shell.store import LogStore
from tests.shell.test_store_copies import Copier, copied_topic, places, read_all, wanted

SETTINGS = Settings(1, "billing", "group", "topic.>")


@pytest.fixture
def renewed(opened, small_segments):
    """(store of before the renewal as it was read, the one behind it, a copy that it had)."""
    store = opened()
    store.append([
        TopicEntry(1, b"o" * 16, "topic.1", True, 9, 9),
        TopicEntry(2, b"p" * 16, "topic.2", True, 0, 0),
        TopicEntry(3, b"j" * 16, JOURNAL, True, 0, 0),
        TopicEntry(0, b"t" * 16, "loose", False, 0, 0), copied_topic(4),
    ])  # fmt: skip
    copier = Copier([4])
    for i in range(30):
        rows = []
        for stream in (1, 2):
            data = b"%d of %d" % (i, stream) * (900 if i % 9 == 0 else 1)
            rows.append(BatchEntry(stream, i, 1, data, zlib.crc32(data), b"q" * 16, i + 1))
        store.append([*rows, *(copier.entries(1) if i % 3 == 0 else ())][i % 2 :])
        if i % 2:
            store.append(rows[:1])
    words = (Delta(1, SETTINGS, settled=((1, 0, 7),)),)
    data = codec.encode_batch([pack_deltas(words)], None, None, None, 0)
    batch = BatchEntry(3, 0, 1, data, zlib.crc32(data), store.state.origin, 1)
    store.append([JournalEntry(batch, words)])
    read = store.read(frozenset({1, 2}), ("position", 1, 0), 1 << 60, 1 << 30).batches
    began = store.state.next_lsn
    store.append([BehindEntry(store.state.origin, 99, 1, began, "node-2")])
    wrong = BatchEntry(2, 30, 1, b"wrong", zlib.crc32(b"wrong"), b"q" * 16, 99)
    store.append([wrong])  # before it was known that the log was not what it was
    before = store.state
    before.next_lsn = began
    directory = opened.directory
    store.close()
    origins = store_renew.renew(directory, "node-1")
    assert origins[0] == before.origin
    return before, read, opened, origins, copier


def test_what_it_has_is_read_at_its_places_as_a_copy(renewed):
    before, read, opened, (old, new), copier = renewed
    store = opened()
    state = store.state
    assert state.streams[2].next_offset == 30
    assert (state.origin, set(state.topics)) == (new, {"loose"})
    mirror = state.mirrors[old]
    assert (mirror.name, mirror.lsn, mirror.slot) == ("node-1", before.next_lsn, 0)
    assert mirror.journal.groups == before.journal.groups
    assert (state.journal, state.behind) == (JournalState(next_id=2), None)
    for bytes_max in (1, 500, 1 << 30):
        assert read_all(store, {1, 2}, ("position", 1, 0), old, bytes_max) == list(read)
    for b in read[:: len(read) // 9]:
        start = ("position", b.lsn, b.slot)
        assert read_all(store, {1, 2}, start, old)[0] == b
        found = store.read(frozenset({2}), ("offset", b.base_offset, 0), 1 << 60, 1, old).batches
        assert (found[0].stream, found[0].base_offset) == (2, b.base_offset)
    assert places(read_all(store, {4}, ("position", 1, 0))) == wanted(copier, {4})
    assert store.check() == []


def test_what_is_missing_is_had_from_another_copy_and_the_log_goes_on(renewed):
    before, read, opened, (old, _), _ = renewed
    store = opened()
    data = b"after"
    lsn = before.next_lsn
    batch = BatchEntry(2, 30, 1, data, zlib.crc32(data), b"q" * 16, 61)
    own = TopicEntry(store.state.next_stream, b"o" * 16, "topic.1", True, 0, 0)
    mine = BatchEntry(own.stream, 0, 1, data, zlib.crc32(data), b"q" * 16, 1)
    store.append([CopiedEntry(batch, old, lsn + 5, 2, 77), MirrorEntry(old, "node-1", lsn + 5, 3),
                  own, mine])  # fmt: skip
    for one in (store, None):
        one = one or opened()
        found = read_all(one, {1, 2}, ("position", 1, 0), old)
        assert found[:-1] == list(read)
        assert (found[-1].lsn, found[-1].slot, found[-1].base_offset) == (lsn + 5, 2, 30)
        assert found[-1].append_time_ns == 77
        assert read_all(one, {1, 2}, ("position", lsn, 0), old) == found[-1:]
        assert one.state.mirrors[old].own_until == lsn
        (own_read,) = one.read(frozenset({own.stream}), ("position", 1, 0), 1 << 60, 99).batches
        assert own_read.payload == data
        assert one.check() == []


def test_a_log_may_be_renewed_again(renewed):
    _, read, opened, (old, new), _ = renewed
    store_renew.renew(opened.directory, "node-1")
    store = opened()
    assert set(store.state.mirrors) >= {old, new}
    assert read_all(store, {1, 2}, ("position", 1, 0), old) == list(read)


def test_a_log_that_is_in_use_is_left_alone(opened):
    from meshmq.errors import StoreBusy

    store = opened()
    store.append([TopicEntry(1, b"o" * 16, "topic.1", True, 0, 0)])
    with pytest.raises(StoreBusy):
        store_renew.renew(opened.directory, "node-1")
    origin = store.state.origin
    store.close()
    again = LogStore.open(opened.directory)
    assert again.state.origin == origin
    again.close()
