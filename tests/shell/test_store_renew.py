"""A log that was put back gets another identity: what it has is a copy of what it was."""

from __future__ import annotations

import copy
import zlib

import pytest

from meshmq import codec
from meshmq.core.directory_rows import NodeRow, Stamp
from meshmq.core.journal import Delta, JournalState, Settings, pack_deltas
from meshmq.core.log import BatchEntry, CopiedEntry, JournalEntry, TopicEntry, TrimEntry
from meshmq.core.mirror_log import BehindEntry, MirrorEntry
from meshmq.errors import ConfigError
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


def test_a_log_may_be_renewed_again_once_it_has_stored_something(renewed):
    _, read, opened, (old, new), _ = renewed
    with pytest.raises(ConfigError, match="was renewed already, and nothing was stored"):
        store_renew.renew(opened.directory, "node-1")
    store = opened()  # a start alone changes nothing
    assert store.state.origin == new
    store.append([TopicEntry(store.state.next_stream, b"o" * 16, "topic.1", True, 0, 0)])
    store.close()
    assert store_renew.renew(opened.directory, "node-1")[0] == new
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


def put_back(opened, rounds):
    """A log that was put back behind its first 4 commits, and ran on: it made a topic, a queue's
    group and other words on the group that was there, over so many commits."""
    store = opened()
    store.append([TopicEntry(1, b"o" * 16, "old", True, 0, 0), copied_topic(2),
                  TopicEntry(3, b"j" * 16, JOURNAL, True, 0, 0)])  # fmt: skip
    store.append([row_of(1, 0), row_of(1, 1)])
    store.append([words_of(store, 0, Delta(1, SETTINGS, settled=((1, 0, 1),)))])
    store.append([row_of(1, 2)])
    before = copy.deepcopy(store.state)
    store.append([BehindEntry(store.state.origin, 99, 1, 5, "node-2")])
    store.append([TopicEntry(4, b"l" * 16, "late", True, 0, 0), row_of(4, 0)])
    copier = Copier([2])
    for i in range(rounds):
        settled = Delta(1, SETTINGS, settled=((1, 1, 9),))
        made = Delta(2 + i, Settings(2 + i, f"jobs-{i}", "queue", f"jobs-{i}"))
        store.append([words_of(store, i + 1, settled, made), row_of(4, i + 1),
                      row_of(1, 3 + i), *copier.entries(1)])  # fmt: skip
    return store, before, copier


def row_of(stream, offset):
    data = b"%d of %d" % (offset, stream)
    return BatchEntry(stream, offset, 1, data, zlib.crc32(data), b"q" * 16, offset + 1)


def words_of(store, offset, *words):
    data = codec.encode_batch([pack_deltas(words)], None, None, None, 0)
    batch = BatchEntry(3, offset, 1, data, zlib.crc32(data), store.state.origin, 1)
    return JournalEntry(batch, words)


@pytest.mark.parametrize("rounds", [0, 1, 8, 40])
def test_what_it_stored_after_it_was_put_back_is_nobodys(opened, small_segments, rounds):
    store, before, copier = put_back(opened, rounds)
    store.append([TrimEntry(1, 2), TrimEntry(3, store.state.streams[3].next_offset)])
    store.close()
    old, _ = store_renew.renew(opened.directory, "node-1")
    for _ in range(2):
        store = opened()
        mirror = store.state.mirrors[old]
        assert mirror.streams == {1: 1, 3: 3}
        assert mirror.journal.groups == before.journal.groups
        assert (mirror.lsn, mirror.own_until, mirror.lacks) == (5, 5, False)
        assert (store.state.streams[1].first_offset, store.state.streams[1].next_offset) == (2, 3)
        assert (store.state.streams[3].first_offset, store.state.streams[3].next_offset) == (1, 1)
        assert 4 not in store.state.streams
        assert store.state.next_stream == 5
        assert [b.base_offset for b in read_all(store, {1}, ("position", 1, 0), old)] == [2]
        assert places(read_all(store, {2}, ("position", 1, 0))) == wanted(copier, {2})
        assert store.check() == []
        store.close()


def test_the_rows_that_say_what_it_was_are_kept_until_it_is_renewed(opened, small_segments):
    store, before, _ = put_back(opened, 40)
    store.append([TrimEntry(alias, s.next_offset) for alias, s in store.state.streams.items()])
    for _ in range(5):
        store._plan_not_before = 0.0
        store.plan_retention()
        while store.is_rewriting:
            store.rewrite()
    store.close()
    old, _ = store_renew.renew(opened.directory, "node-1")
    mirror = opened().state.mirrors[old]
    assert mirror.journal.groups == before.journal.groups
    assert not mirror.lacks


def test_where_they_are_gone_the_copy_lacks_what_groups_had_done(
    opened, small_segments, monkeypatch
):
    store, _, _ = put_back(opened, 40)
    store.close()
    monkeypatch.setattr(store_renew, "_state_before", lambda log, lsn: None)
    old, _ = store_renew.renew(opened.directory, "node-1")
    state = opened().state
    mirror = state.mirrors[old]
    assert (mirror.streams, mirror.lacks, mirror.journal.groups) == ({1: 1, 3: 3}, True, {})
    assert [state.streams[alias].next_offset for alias in (1, 3)] == [3, 1]


def test_another_nodes_log_is_left_alone(opened):
    store = opened()
    origin = store.state.origin
    store.append([NodeRow(Stamp(7, origin, "one"))])
    store.close()
    with pytest.raises(ConfigError, match="is the log of node 'one': say --name one"):
        store_renew.renew(opened.directory, "node-1")
    before, _ = store_renew.renew(opened.directory, "")
    assert before == origin
    assert opened().state.mirrors[origin].name == "one"


def test_a_log_that_knows_no_name_is_to_be_given_one(opened):
    opened().append([TopicEntry(1, b"o" * 16, "topic.1", True, 0, 0)])
    opened().close()
    with pytest.raises(ConfigError, match="give --name"):
        store_renew.renew(opened.directory, "")


def test_a_renewed_log_that_copies_know_more_of_is_renewed_though_it_has_nothing(renewed):
    """Its backup was made before its first start: its node was told so."""
    _, _, opened, (_, new), _ = renewed
    store = opened()
    store.append([BehindEntry(new, 99, 1, store.state.next_lsn, "node-2")])
    store.close()
    assert store_renew.renew(opened.directory, "node-1")[0] == new
