"""The store does what it says: what is appended is read back, now and after it is opened again."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meshmq import limits
from meshmq.core.log import RuleEntry, TopicEntry, TrimEntry
from meshmq.errors import ConfigError, StoreBusy, StoreFailed
from meshmq.shell import store_disk, store_files
from meshmq.shell.segment import Segment
from meshmq.shell.store import LogStore


def test_new_log_is_empty_and_private(opened, tmp_path):
    store = opened()
    assert store.state.next_lsn == 1
    assert len(store.state.origin) == 16
    assert store.read(frozenset([1]), ("position", 1, 0), 0, 1000).batches == ()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert opened().state.origin == store.state.origin


def test_round_trip_small_large_and_mixed(opened, writer_of, reader):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2)])
    for size in (1, 100, 5_000, limits.COMMIT_INLINE_BYTES_MAX, 70_000, 1_100_000):
        writer.append([writer.batch(1, size, 3), writer.batch(2, 10), writer.batch(1, 7)])
    assert reader(writer.store) == writer.expected()
    assert reader(writer.store, [2]) == writer.expected([2])
    store = opened()
    assert reader(store) == writer.expected()
    assert reader(store, [1]) == writer.expected([1])


def test_commit_is_stamped_and_numbered(opened, writer_of):
    times = iter([1000, 2000, 1500, 3000])
    writer = writer_of(opened(clock=lambda: next(times)))
    first = writer.store.append([writer.topic(1)])
    commits = [writer.write(1) for _ in range(3)]
    assert first.lsn == 1
    assert [c.lsn for c in commits] == [2, 3, 4]
    assert [c.append_time_ns for c in commits] == [2000, 2000, 3000]


def test_many_streams_in_one_commit(opened, writer_of, reader):
    writer = writer_of(opened())
    writer.store.append([writer.topic(i) for i in range(1, 301)])
    for size in (20, 300):  # inline, and in the values file
        writer.append([writer.batch(i, size, 2) for i in range(1, 301)])
    for store in (writer.store, None):
        store = store or opened()
        assert reader(store) == writer.expected()
        for stream in (1, 150, 300):
            assert reader(store, [stream]) == writer.expected([stream])
        some = [3, 5, 299]
        assert reader(store, some, bytes_max=1) == writer.expected(some)


def test_more_batches_than_one_system_call_takes(opened, writer_of, reader, monkeypatch):
    monkeypatch.setattr(store_disk, "_IOV_MAX", 3)
    real = os.pwritev
    monkeypatch.setattr(
        store_disk.os,
        "pwritev",
        lambda fd, buffers, at: real(fd, [b"".join(buffers)[:5000]], at),  # stops early
    )
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    writer.append([writer.batch(1, 3_000) for _ in range(17)])
    assert reader(opened()) == writer.expected()


def test_rolls_over_and_reads_through(opened, writer_of, reader, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2)])
    for i in range(95):
        writer.append([writer.batch(1 + i % 2, 30_000 if i % 5 == 0 else 50)])
    assert writer.store.stats()["segments"] == 10
    assert reader(writer.store) == writer.expected()
    store = opened()
    assert store.stats()["segments"] == 10
    assert reader(store) == writer.expected()
    assert reader(store, [2]) == writer.expected([2])
    writer.store = store
    for _ in range(20):
        writer.write(1)
    assert reader(opened()) == writer.expected()


def test_rolls_by_bytes_and_by_batches(opened, writer_of, reader, monkeypatch):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    monkeypatch.setattr(limits, "SEGMENT_BYTES_MAX", 100_000)
    for _ in range(8):
        writer.write(1, 40_000)
    assert writer.store.stats()["segments"] == 4
    monkeypatch.setattr(limits, "SEGMENT_BATCHES_MAX", 10)
    writer.append([writer.batch(1) for _ in range(20)])  # a commit is never split
    writer.write(1)
    assert writer.store.stats()["segments"] == 6
    assert reader(writer.store) == writer.expected()


def test_state_survives_reopening(opened, writer_of, small_segments):
    writer = writer_of(opened())
    writer.store.append(
        [
            writer.topic(1),
            writer.topic(2, retention_ns=5, retention_bytes=7),
            TopicEntry(0, b"t" * 16, "loose", False, 0, 0),
            RuleEntry("a.>", True, 1, 2),
            RuleEntry("b.*", False, 0, 0),
        ]
    )
    for i in range(37):
        writer.append([writer.batch(1 + i % 2, 50, 1 + i % 3)])
        if i == 20:
            writer.store.append([TrimEntry(1, 6), RuleEntry("b.*", False, 0, 0, removed=True)])
            writer.store.append([writer.topic(3)])
            writer.write(3)
            writer.store.append([writer.topic(3, deleted=True)])
    before = repr(writer.store.state)
    assert writer.store.state.producers
    assert repr(opened().state) == before
    assert repr(opened().state) == before


def test_second_open_is_refused(opened, tmp_path):
    opened()
    with pytest.raises(StoreBusy, match="in use by another node") as refused:
        LogStore.open(tmp_path / "data")
    assert str(os.getpid()) in str(refused.value)
    code = (
        "import sys; from pathlib import Path; from meshmq.errors import StoreBusy\n"
        "from meshmq.shell.store import LogStore\n"
        "try: LogStore.open(Path(sys.argv[1]))\n"
        "except StoreBusy: sys.exit(42)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 42


def test_directory_open_to_others_is_refused(tmp_path):
    shared = tmp_path / "shared"
    LogStore.open(shared).close()
    shared.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        LogStore.open(shared)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_directory_with_other_files_is_left_as_it_is(tmp_path, mode):
    foreign = tmp_path / "foreign"
    (foreign / "log").mkdir(parents=True)
    (foreign / "something").touch()
    foreign.chmod(mode)
    with pytest.raises(ConfigError, match=r"no log of meshmq \('something'"):
        LogStore.open(foreign)
    assert stat.S_IMODE(foreign.stat().st_mode) == mode
    assert {path.name for path in foreign.iterdir()} == {"log", "something"}


def test_an_empty_directory_is_taken(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    empty.chmod(0o755)
    LogStore.open(empty).close()
    assert stat.S_IMODE(empty.stat().st_mode) == 0o700


def test_a_path_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="NUL"):
        LogStore.open(tmp_path / "a\0b")


def test_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        LogStore.open(tmp_path / "file")


def test_network_file_systems_are_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda rw\n"
        f"22 21 0:40 / {tmp_path}/far\\040away rw shared:1 - nfs4 host:/x rw\n"
        f"23 21 0:41 / {tmp_path}/fused rw - fuse.sshfs x rw\n"
    )
    assert store_files.file_system(tmp_path, mounts) == "ext4"
    assert store_files.file_system(tmp_path / "far away" / "x", mounts) == "nfs4"
    assert store_files.file_system(tmp_path / "fused", mounts) == "fuse.sshfs"
    assert store_files.file_system(tmp_path, tmp_path / "none") == ""
    monkeypatch.setattr(store_files, "file_system", lambda directory: "nfs4")
    with pytest.raises(ConfigError, match="local disk"):
        LogStore.open(tmp_path / "data")


def test_sqlite_uses_what_the_log_needs(opened, writer_of, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for _ in range(15):
        writer.write(1)
    for number in writer.store._segments.numbers():
        cache = writer.store._segments.get(number)._cache
        pragmas = {
            name: cache._sql(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode", "auto_vacuum", "mmap_size", "page_size")
        }
        assert pragmas == {
            "synchronous": 2,
            "journal_mode": "wal",
            "auto_vacuum": 0,
            "mmap_size": 0,
            "page_size": 4096,
        }
        assert (cache.eviction_policy, cache.cull_limit) == ("none", 0)


def test_a_connection_with_other_settings_is_refused(opened, tmp_path, monkeypatch):
    opened().close()
    monkeypatch.setitem(Segment.connect.__globals__["_PRAGMAS"], "synchronous", 3)
    with pytest.raises(ConfigError, match="synchronous=2, the log needs 3"):
        LogStore.open(tmp_path / "data")


def test_no_side_file_ever(opened, writer_of, tmp_path, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for size in (10, 16_384, 40_000, 300_000) * 10:
        writer.write(1, size)
    opened()
    names = {path.name for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert names <= {"LOCK", "FORMAT", "cache.db", "cache.db-wal", "cache.db-shm", "values.bin"}


def test_pickle_is_neither_written_nor_read(opened, tmp_path):
    store = opened()
    cache = store._segments.active._cache
    for value in ({"a": 1}, "text", 5, 1.5, None):
        with pytest.raises(TypeError):
            cache.set("x", value)
    for key in (b"bytes", 1.5, (1, 2), None):
        with pytest.raises(TypeError):
            cache.set(key, b"x")
    planted = sqlite3.Binary(pickle.dumps(print))
    cache._sql("INSERT INTO Cache (key, raw, mode, value) VALUES ('evil', 1, 4, ?)", (planted,))
    cache._sql("INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 1, ?)", (planted, b"x"))
    with pytest.raises(ValueError, match="not written by meshmq"):
        cache.get("evil")
    with pytest.raises(ValueError, match="not written by meshmq"):
        list(cache)


def test_failed_write_ends_all_writing(opened, writer_of, reader, monkeypatch):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    writer.write(1, 20_000)
    syncs = []

    def fail(fd):
        syncs.append(fd)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store_disk.os, "fdatasync", fail)
    with pytest.raises(StoreFailed, match="Input/output error"):
        writer.store.append([writer.batch(1, 20_000)])
    monkeypatch.undo()
    with pytest.raises(StoreFailed):
        writer.store.append([writer.batch(1, 10)])
    assert len(syncs) == 1
    assert writer.store.stats()["failed"]
    assert reader(writer.store) == writer.expected()  # what was confirmed can still be read
    assert reader(opened()) == writer.expected()


def test_sqlite_error_ends_all_writing(opened, writer_of, reader):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    writer.write(1)
    writer.store._segments.active._cache._sql(
        "CREATE TRIGGER fail BEFORE INSERT ON Cache BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    for _ in range(2):
        with pytest.raises(StoreFailed):
            writer.store.append([writer.batch(1)])
    assert reader(writer.store) == writer.expected()


def test_one_thread_only(tmp_path):
    store = LogStore.open(tmp_path / "data")
    used, leave = threading.Event(), threading.Event()

    def use():
        store.append([TopicEntry(1, b"t" * 16, "a", True, 0, 0)])
        used.set()
        leave.wait(10)
        store.close()

    thread = threading.Thread(target=use)
    thread.start()
    assert used.wait(10)  # another thread may go on after open ...
    assert store.state.next_lsn == 2
    with pytest.raises(RuntimeError, match="second thread"):
        store.stats()  # ... and is the only one then
    leave.set()
    thread.join(10)


def test_stats_count(opened, writer_of, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for _ in range(14):
        writer.write(1, 1000)
    stats = writer.store.stats()
    assert stats["commits"] == stats["syncs"] == 15
    assert sum(stats["sync_latency_us"].values()) == 15
    assert stats["segments"] == 2
    assert stats["rolls"] == 1
    assert stats["bytes"] > 14_000
    assert (stats["first_lsn"], stats["next_lsn"]) == (1, 16)
    assert stats["damaged_batches"] == stats["damaged_commits"] == 0
    assert writer.store.check() == []


def test_index_is_rebuilt_when_its_row_is_missing(opened, writer_of, reader, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1), writer.topic(2)])
    for i in range(35):
        writer.append([writer.batch(1 + i % 2, 50, 2), writer.batch(1, 30_000)])
    for number in writer.store._segments.closed:
        writer.store._segments.get(number)._cache.delete("index")
    store = opened()
    assert reader(store, [2]) == writer.expected([2])
    assert reader(store, [1], ("offset", 7, 0)) == [
        batch for batch in writer.expected([1]) if batch.base_offset + batch.count > 7
    ]


def test_stale_index_is_not_believed(opened, writer_of, reader, small_segments):
    writer = writer_of(opened())
    writer.store.append([writer.topic(1)])
    for _ in range(3):
        writer.write(1)
    writer.store._segments.active.write_index()  # as a roll does that then goes no further
    for _ in range(20):
        writer.write(1)
    assert reader(opened(), [1]) == writer.expected([1])


def test_closed_store_refuses(tmp_path: Path):
    store = LogStore.open(tmp_path / "deep" / "er")
    store.close()
    store.close()  # closing twice is harmless
    with pytest.raises(StoreFailed, match="closed"):
        store.append([])


def test_format_cut_off_by_a_power_cut_is_written_again(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "FORMAT.new").write_text("mesh")
    LogStore.open(data).close()
    assert (data / "FORMAT").read_text() == "meshmq log 1\n"
    assert not (data / "FORMAT.new").exists()
