"""Closed segments of which little lives are copied without the rest; nobody who reads notices."""

from __future__ import annotations

import os
import shutil

import pytest

from meshmq.core.log import TrimEntry
from meshmq.shell import store as store_module
from meshmq.shell import store_files
from meshmq.shell.store import LogStore

pytestmark = pytest.mark.usefixtures("small_segments")


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Small segments are worth it, nothing is ever put off, a slice is one commit."""
    monkeypatch.setattr("meshmq.core.retention.REWRITE_BYTES_MIN", 1000)
    monkeypatch.setattr("meshmq.shell.store_rewrite.SLICE_SECONDS", 0)
    monkeypatch.setattr(store_module, "_PLAN_SHARE", 0)
    monkeypatch.setattr(store_module, "_SETTLE_SECONDS", 0)


def filled(opened, writer_of, commits=35):
    """Three topics in every commit: one that will be trimmed, one deleted, one small that stays."""
    store = opened()
    writer = writer_of(store, seed=3)
    store.append([writer.topic(i) for i in (1, 2, 3)])
    for i in range(commits):
        sizes = (9_000, 9_000, 50) if i % 2 else (200, 200, 50)
        writer.append([writer.batch(stream, size, 2) for stream, size in enumerate(sizes, 1)])
    return writer


def kill_most(writer):
    """Topic 2 is deleted, topic 1 keeps its newest few records."""
    store = writer.store
    end = store.state.streams[1].next_offset
    store.append([writer.topic(2, deleted=True), TrimEntry(1, end - 5)])
    return end - 5


def rewrite_all(store):
    """Plan and rewrite until nothing is left to do; how many segments were."""
    for _ in range(50):
        store.plan_retention()
        if not store.is_rewriting:
            break
        while store.is_rewriting:
            store.rewrite()
    return store.stats()["segments_rewritten"]


def alive(writer, kept_from):
    """What readers must get: all of topic 3, of topic 1 what is kept."""
    return [
        b for b in writer.expected([1, 3]) if b.stream == 3 or b.base_offset + b.count > kept_from
    ]


def test_what_lives_is_read_as_before_and_the_bytes_are_given_back(opened, writer_of, reader):
    writer = filled(opened, writer_of)
    kept_from = kill_most(writer)
    store = writer.store
    before = store.stats()["bytes"]
    done = rewrite_all(store)
    assert done >= 2
    assert rewrite_all(store) == done  # nothing left to gain
    assert store.stats()["bytes"] < before / 2
    assert reader(store) == alive(writer, kept_from)
    assert reader(store, [3]) == [b for b in alive(writer, kept_from) if b.stream == 3]
    assert store.check() == []
    for b in writer.expected([3]):  # every place and offset still leads where it did
        found = store.read(frozenset([3]), ("position", b.lsn, b.slot), 10**9, 1)
        assert found.batches[0] == b
        found = store.read(frozenset([3]), ("offset", b.base_offset, 0), 10**9, 1)
        assert found.batches[0] == b
    again = opened()
    assert reader(again) == alive(writer, kept_from)
    assert again.check() == []


def test_commits_and_reads_go_on_meanwhile(opened, writer_of, reader):
    writer = filled(opened, writer_of)
    kept_from = kill_most(writer)
    store = writer.store
    store.plan_retention()
    assert store.is_rewriting
    steps = 0
    while store.is_rewriting:
        store.rewrite()
        writer.write(3, 60)
        assert reader(store) == alive(writer, kept_from)
        steps += 1
    assert steps > 1
    assert reader(opened()) == alive(writer, kept_from)


def test_a_segment_that_dies_while_it_is_rewritten_is_removed(opened, writer_of, reader):
    writer = filled(opened, writer_of)
    kill_most(writer)
    store = writer.store
    store.plan_retention()
    store.rewrite()
    assert store.is_rewriting
    end = store.state.streams[3].next_offset
    store.append([TrimEntry(3, end - 1)])
    store.plan_retention()
    rewrite_all(store)
    assert [b.base_offset + b.count for b in reader(store, [3])] == [end]
    assert not list((store._log).glob("*.new"))


def test_a_damaged_row_keeps_its_segment_as_it_is(opened, writer_of, reader, tmp_path):
    import sqlite3

    writer = filled(opened, writer_of)
    kept_from = kill_most(writer)
    path = store_files.segment_path(tmp_path / "data" / "log", 1) / "cache.db"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE Cache SET value = zeroblob(90) WHERE key = 4")
    connection.commit()
    connection.close()
    store = opened()
    rewrite_all(store)
    found = reader(store)
    lost = {b.lsn for b in found if b.damaged}
    assert lost == {4}
    assert [b for b in found if not b.damaged] == [
        b for b in alive(writer, kept_from) if b.lsn != 4
    ]
    assert store.check()


@pytest.mark.parametrize("left", ["new", "both", "rewritten", "rewritten and removing"])
def test_a_crash_at_any_moment_leaves_one_whole_segment(opened, writer_of, reader, tmp_path, left):
    """Every state of the directory between the first byte and the last rename."""
    writer = filled(opened, writer_of)
    kept_from = kill_most(writer)
    log = tmp_path / "data" / "log"
    old = store_files.segment_path(log, 1)
    shutil.copytree(old, tmp_path / "old")
    store = writer.store
    rewrite_all(store)
    store.close()
    made = tmp_path / "made"
    shutil.copytree(old, made)
    shutil.rmtree(old)
    names = {
        "new": {"": tmp_path / "old", ".new": made},
        "both": {"": tmp_path / "old", ".rewritten": made},
        "rewritten": {".rewritten": made},
        "rewritten and removing": {".rewritten": made, ".removing": tmp_path / "old"},
    }[left]
    for suffix, source in names.items():
        shutil.copytree(source, old.with_name(old.name + suffix))
    if left == "new":  # cut short: half of it is there
        os.unlink(old.with_name(old.name + ".new") / "values.bin")
    again = opened()
    assert reader(again) == alive(writer, kept_from)
    assert again.check() == []
    assert sorted(p.name for p in log.iterdir()) == [
        p.name for p in sorted(log.iterdir()) if p.name.isdecimal()
    ]
    assert isinstance(again, LogStore)


def test_an_active_segment_of_the_dead_is_closed(opened, writer_of, monkeypatch):
    monkeypatch.setattr("meshmq.limits.SEGMENT_COMMITS_MAX", 10_000)
    monkeypatch.setattr("meshmq.core.retention.REFINE_BYTES_MIN", 1000)
    writer = filled(opened, writer_of)
    store = writer.store
    assert store.stats()["segments"] == 1
    kill_most(writer)
    assert rewrite_all(store) == 1
    assert store.stats()["segments"] == 2


def test_a_segment_that_still_loses_records_is_left_to_die(opened, writer_of, monkeypatch):
    monkeypatch.setattr(store_module, "_SETTLE_SECONDS", 5)
    now = 100.0
    monkeypatch.setattr("meshmq.shell.store.time.monotonic", lambda: now)
    writer = filled(opened, writer_of, commits=15)
    kill_most(writer)
    store = writer.store
    store.plan_retention()
    assert not store.is_rewriting
    now += 4
    first = store.state.streams[3].first_offset
    store.append([TrimEntry(3, first + 2)])
    store.plan_retention()
    now += 4
    store.plan_retention()
    assert not store.is_rewriting  # its last record went 4 s ago
    now += 2
    store.plan_retention()
    assert store.is_rewriting
