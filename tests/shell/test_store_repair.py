"""A log that refuses to start, repaired: what can be read stays, nothing is named twice."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from meshmq.errors import ConfigError, StoreBusy, StoreDamaged
from meshmq.shell import store_files
from meshmq.shell.store import LogStore
from meshmq.shell.store_repair import GAP, repair

pytestmark = pytest.mark.usefixtures("small_segments")


def filled(opened, writer_of, commits=25):
    store = opened()
    writer = writer_of(store, seed=8)
    store.append([writer.topic(i) for i in (1, 2)])
    for i in range(commits):
        writer.append([writer.batch(1, 100, 3), writer.batch(2, 20_000 if i % 3 else 50)])
    store.close()
    return writer


def segment(tmp_path, number):
    return store_files.segment_path(tmp_path / "data" / "log", number)


def spoil(path, lsn):
    connection = sqlite3.connect(path / "cache.db")
    connection.execute("UPDATE Cache SET value = zeroblob(90) WHERE key = ?", (lsn,))
    connection.commit()
    connection.close()


def goes_on(writer, opened, reader, expected, gap):
    """After the repair: what is expected is there, new records get offsets of their own."""
    store = writer.store = opened()
    found = [b for b in reader(store) if not b.damaged]
    assert found == expected
    for stream in (1, 2):
        ends = [b.base_offset + b.count for b in writer.expected([stream])]
        writer.offsets[stream] = store.state.streams[stream].next_offset
        assert writer.offsets[stream] == ends[-1] + gap
    commit = writer.write(1, 77)
    assert commit.lsn not in {b.lsn for b in writer.expected()[:-1]}
    again = opened()
    assert [b for b in reader(again) if not b.damaged] == [*expected, writer.expected()[-1]]
    last = writer.expected()[-1]
    for b in (*expected[-3:], last):
        got = again.read(frozenset([b.stream]), ("offset", b.base_offset, 0), 10**18, 1)
        assert got.batches[0] == b


def test_nothing_to_repair(opened, writer_of, tmp_path):
    filled(opened, writer_of)
    assert repair(tmp_path / "data") == []
    with pytest.raises(ConfigError, match="holds no log"):
        repair(tmp_path / "nothing")
    opened()
    with pytest.raises(StoreBusy):
        repair(tmp_path / "data")


def test_a_damaged_commit_in_the_middle(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of)
    newest = max(int(p.name) for p in (tmp_path / "data" / "log").iterdir())
    spoil(segment(tmp_path, newest), 24)
    with pytest.raises(StoreDamaged, match="meshmq log repair"):
        LogStore.open(tmp_path / "data")
    done = repair(tmp_path / "data")
    assert any("commits 24 to 24 are damaged" in sentence for sentence in done)
    goes_on(writer, opened, reader, [b for b in writer.expected() if b.lsn != 24], 0)


def test_the_newest_commit_damaged(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of)
    last = writer.written[-1][0].lsn
    newest = max(int(p.name) for p in (tmp_path / "data" / "log").iterdir())
    spoil(segment(tmp_path, newest), last)
    done = repair(tmp_path / "data")
    assert any("go on" in sentence for sentence in done)
    kept = [b for b in writer.expected() if b.lsn != last]
    store = opened()
    assert [b for b in reader(store) if not b.damaged] == kept
    assert store.state.streams[1].next_offset > GAP
    assert store.state.next_lsn > GAP


def test_the_newest_segment_is_no_database(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of)
    newest = max(int(p.name) for p in (tmp_path / "data" / "log").iterdir())
    path = segment(tmp_path, newest)
    (path / "cache.db").write_bytes(b"not a database" * 1000)
    for extra in path.glob("cache.db-*"):
        extra.unlink()
    done = repair(tmp_path / "data")
    assert (path.with_name(path.name + ".damaged") / "values.bin").exists()
    assert any(".damaged" in sentence for sentence in done)
    first = min(c.lsn for c, _, _ in writer.written if c.lsn > (newest - 1) * 10)
    kept = [b for b in writer.expected() if b.lsn < first]
    store = opened()
    assert [b for b in reader(store) if not b.damaged] == kept
    assert store.state.streams[1].next_offset > GAP
    assert repair_is_done(tmp_path, store)


def repair_is_done(tmp_path, store):
    store.close()
    return repair(tmp_path / "data") == []


def test_a_damaged_snapshot(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of)
    newest = max(int(p.name) for p in (tmp_path / "data" / "log").iterdir())
    spoil(segment(tmp_path, newest), "snapshot")
    done = repair(tmp_path / "data")
    assert any("no readable snapshot" in sentence for sentence in done)
    goes_on(writer, opened, reader, writer.expected(), 0)


def test_a_missing_segment(opened, writer_of, reader, tmp_path):
    writer = filled(opened, writer_of)
    shutil.rmtree(segment(tmp_path, 2))
    with pytest.raises(StoreDamaged, match="missing"):
        LogStore.open(tmp_path / "data")
    done = repair(tmp_path / "data")
    assert any("segment 2 (commits 11 to 20) is missing" in sentence for sentence in done)
    goes_on(writer, opened, reader, [b for b in writer.expected() if not 11 <= b.lsn <= 20], 0)


def test_no_snapshot_at_all(opened, writer_of, tmp_path):
    filled(opened, writer_of, commits=5)
    spoil(segment(tmp_path, 1), "snapshot")
    with pytest.raises(StoreDamaged, match="restore a copy"):
        repair(tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "said"), [("meshmq log 2\n", "log format 2"), ("", "should read"), ("x y z", "should")]
)
def test_another_format_is_refused(opened, tmp_path, text, said):
    opened().close()
    (tmp_path / "data" / "FORMAT").write_text(text)
    with pytest.raises(ConfigError, match=said):
        LogStore.open(tmp_path / "data")
