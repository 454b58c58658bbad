"""Damaged bytes are reported as damaged: wrong data never comes out, and nothing is dropped."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3

import pytest

from meshmq import limits
from meshmq.errors import StoreDamaged, StoreFailed
from meshmq.shell import store_files
from meshmq.shell.store import LogStore


def segment(store_dir, number=1):
    return store_files.segment_path(store_dir / "data" / "log", number)


def flip(path, position, bit=1):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ bit]))


def change_row(path, key, change):
    connection = sqlite3.connect(path / "cache.db")
    (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
    connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (change(value), key))
    connection.commit()
    connection.close()


def flip_last(value):
    return value[:-1] + bytes([value[-1] ^ 1])


def flip_meta(value):
    return value[:30] + bytes([value[30] ^ 1]) + value[31:]


def filled(opened, writer_of, sizes):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2)])
    for i, size in enumerate(sizes):
        writer.append([writer.batch(1 + i % 2, size, 3), writer.batch(1, size)])
    return writer


def places(batches):
    return [(b.stream, b.base_offset, b.count, b.lsn, b.slot) for b in batches]


def assert_only_damaged(found, expected, damaged):
    """``found`` is ``expected``, but for the batches at ``damaged`` places, which are empty."""
    assert places(found) == places(expected)
    for got, want in zip(found, expected, strict=True):
        if (got.lsn, got.slot) in damaged:
            assert (got.damaged, got.payload) == (True, b"")
        else:
            assert got == want


def test_bit_flip_in_the_values_file(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of, [20_000] * 6)
    writer.store.close()
    flip(segment(tmp_path) / "values.bin", 45_000)  # the first batch of the second commit
    store = opened()
    for streams in (None, [1], [2]):
        assert_only_damaged(reader(store, streams), writer.expected(streams), {(3, 0)})
    assert store.stats()["damaged_batches"] > 0
    assert "are damaged" in store.check()[0].sentence


def test_tail_of_the_values_file_cut(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of, [20_000] * 6)
    writer.store.close()
    os.truncate(segment(tmp_path) / "values.bin", 6 * 40_000 - 25_000)
    writer.store = opened()
    damaged = {(7, 0), (7, 1)}
    assert_only_damaged(reader(writer.store), writer.expected(), damaged)
    writer.write(1, 30_000)  # goes behind the hole, not into it
    writer.store = opened()
    assert_only_damaged(reader(writer.store), writer.expected(), damaged)


def test_unconfirmed_tail_of_the_values_file_is_dropped(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of, [20_000] * 2)
    writer.store.close()
    values = segment(tmp_path) / "values.bin"
    with values.open("ab") as file:
        file.write(b"torn" * 10_000)
    writer.store = opened()
    assert values.stat().st_size == 80_000
    writer.write(1, 30_000)
    assert reader(opened()) == writer.expected()


def test_bit_flip_in_an_inline_payload(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of, [100] * 6)
    writer.store.close()
    change_row(segment(tmp_path), 4, flip_last)
    assert_only_damaged(reader(opened()), writer.expected(), {(4, 1)})


def test_damaged_commit_in_the_active_segment_refuses_the_start(
    opened, writer_of, reader, tmp_path
):
    writer = filled(opened, writer_of, [100] * 6)
    writer.store.close()
    for key in (4, 7):  # in the middle and the newest: both were confirmed
        change_row(segment(tmp_path), key, flip_meta)
        with pytest.raises(StoreDamaged, match=f"cache.db: commit {key} is damaged"):
            LogStore.open(tmp_path / "data")
        change_row(segment(tmp_path), key, flip_meta)
    assert reader(opened()) == writer.expected()


def test_missing_commit_refuses_the_start(opened, writer_of, tmp_path):
    filled(opened, writer_of, [100] * 6).store.close()
    connection = sqlite3.connect(segment(tmp_path) / "cache.db")
    connection.execute("DELETE FROM Cache WHERE key = 5")
    connection.commit()
    connection.close()
    with pytest.raises(StoreDamaged, match="commit 5"):
        LogStore.open(tmp_path / "data")


def test_damaged_snapshot_refuses_the_start(opened, writer_of, tmp_path):
    filled(opened, writer_of, [100] * 6).store.close()
    change_row(segment(tmp_path), "snapshot", flip_last)
    with pytest.raises(StoreDamaged, match="snapshot"):
        LogStore.open(tmp_path / "data")


@pytest.mark.parametrize("without_index", [False, True])
def test_damaged_commit_in_a_closed_segment_is_reported(
    opened, writer_of, reader, tmp_path, small_segments, without_index
):
    writer = filled(opened, writer_of, [100] * 25)
    writer.store.close()
    change_row(segment(tmp_path), 4, flip_meta)
    if without_index:
        change_row(segment(tmp_path), "index", flip_last)
    store = opened()
    if without_index:  # nobody knows then what the commit held: a gap
        assert reader(store) == [b for b in writer.expected() if b.lsn != 4]
        assert reader(store, [1]) == [b for b in writer.expected([1]) if b.lsn != 4]
    else:
        for streams in (None, [1], [2]):
            assert_only_damaged(reader(store, streams), writer.expected(streams), {(4, 0), (4, 1)})
    assert store.stats()["damaged_commits"] > 0


def test_unreadable_closed_segment_is_one_reported_gap(
    opened, writer_of, reader, tmp_path, small_segments
):
    writer = filled(opened, writer_of, [100] * 25)
    writer.store.close()
    (segment(tmp_path) / "cache.db").write_bytes(b"not a database at all" * 1000)
    store = opened()
    later = [b for b in writer.expected() if b.lsn > 10]
    for streams in (None, [1], [2]):
        found = reader(store, streams)
        kept = [b for b in later if streams is None or b.stream in streams]
        lost = found[: len(found) - len(kept)]
        assert found[len(lost) :] == kept
        for batch in lost:
            assert (batch.damaged, batch.payload, batch.base_offset) == (True, b"", 0)
            first = next(b.base_offset for b in later if b.stream == batch.stream)
            assert batch.count == first
    assert reader(store, [1], ("offset", 5, 0))[0].base_offset == 5
    assert reader(store, [1], ("position", 4, 0)) == [b for b in later if b.stream == 1]
    assert reader(store, [1], ("time", 0, 0))[0].damaged
    assert "cannot be opened" in store.check()[0].sentence


def test_missing_segment_refuses_the_start(opened, writer_of, tmp_path, small_segments):
    filled(opened, writer_of, [100] * 25).store.close()
    shutil.rmtree(segment(tmp_path, 2))
    with pytest.raises(StoreDamaged, match="2 is missing"):
        LogStore.open(tmp_path / "data")


@pytest.mark.parametrize("name", ["cache.db", "values.bin"])
def test_random_flips_never_give_wrong_data(
    opened, writer_of, reader, tmp_path, small_segments, name
):
    writer = filled(opened, writer_of, [100, limits.COMMIT_INLINE_BYTES_MAX, 50] * 8)
    writer.store.close()
    shutil.copytree(tmp_path / "data", tmp_path / "whole")
    expected = {(b.lsn, b.slot): b for b in writer.expected()}
    rng = random.Random(7)
    seen = 0
    for _ in range(60):
        path = segment(tmp_path, rng.choice([1, 2, 3])) / name
        flip(path, rng.randrange(path.stat().st_size), 1 << rng.randrange(8))
        try:
            found = reader(opened())
        except (StoreDamaged, StoreFailed):
            seen += 1
        else:
            damaged = [b for b in found if b.damaged]
            seen += bool(damaged)
            for batch in found:
                if not batch.damaged:
                    assert batch == expected[batch.lsn, batch.slot]
            if name == "values.bin":
                assert places(found) == places(writer.expected())
        opened.close()
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(tmp_path / "whole", tmp_path / "data")
    assert seen > 3
    assert reader(opened()) == writer.expected()


@pytest.mark.parametrize("at", [0, 12288])
def test_whatever_is_damaged_the_refusal_names_the_way_out(opened, writer_of, tmp_path, at):
    filled(opened, writer_of, [100] * 200).store.close()
    path = segment(tmp_path) / "cache.db"
    data = bytearray(path.read_bytes())
    data[at : at + 4096] = bytes(b ^ 0xFF for b in data[at : at + 4096])
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match=r"or give up what .* with `meshmq log repair`"):
        LogStore.open(tmp_path / "data")
