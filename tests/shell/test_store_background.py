"""What the store does beside the disk thread: files removed in slices, the next segment ahead."""

from __future__ import annotations

import threading
import time

import pytest

from meshmq.core.log import TrimEntry
from meshmq.shell import store_background
from meshmq.shell.store import LogStore
from meshmq.shell.store_background import Background


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


@pytest.fixture
def threaded():
    background = Background(threaded=True)
    yield background
    background.close()


def directory(tmp_path, size):
    path = tmp_path / "1.removing"
    path.mkdir()
    (path / "values.bin").write_bytes(bytes(size))
    (path / "cache.db").write_bytes(b"x")
    return path


def test_a_directory_is_removed_in_slices(tmp_path, threaded, monkeypatch):
    monkeypatch.setattr(store_background, "SLICE_BYTES", 1000)
    cuts = []
    real = store_background.os.ftruncate
    monkeypatch.setattr(
        store_background.os, "ftruncate", lambda fd, size: (cuts.append(size), real(fd, size))
    )
    path = directory(tmp_path, 10_000)
    threaded.remove(path)
    wait_until(lambda: not path.exists())
    assert cuts == list(range(9000, 0, -1000))
    assert threaded.failure is None


def test_closing_waits_for_no_slices(tmp_path, threaded, monkeypatch):
    monkeypatch.setattr(store_background, "SLICE_BYTES", 1)
    monkeypatch.setattr(store_background, "PAUSE_SHARE", 1e9)
    path = directory(tmp_path, 10_000)
    threaded.remove(path)
    wait_until(lambda: (path / "values.bin").stat().st_size < 10_000)
    threaded.close()  # the pause behind a slice is longer than any test may take
    assert path.exists()  # the next start removes it


def test_without_a_thread_it_is_gone_at_once(tmp_path):
    background = Background(threaded=False)
    path = directory(tmp_path, 10_000)
    before = threading.active_count()
    background.remove(path)
    assert not path.exists()
    assert threading.active_count() == before
    background.close()


def test_what_cannot_be_removed_is_told(tmp_path, threaded):
    threaded.remove(tmp_path / "nothing" / "there")
    wait_until(lambda: threaded.failure is not None)


@pytest.fixture
def store(tmp_path, small_segments):
    store = LogStore.open(tmp_path / "data", background=True)
    yield store
    store.close()


def test_segments_are_made_ahead_and_used(store, writer_of, reader, tmp_path):
    writer = writer_of(store)
    store.append([writer.topic(1)])
    log = tmp_path / "data" / "log"
    used = 0
    for _ in range(60):
        spare = store._spare._made
        rolls = store.stats()["rolls"]
        writer.write(1, 200)
        if store.stats()["rolls"] > rolls and spare is not None:
            used += 1
            assert store._segments.active is spare
        time.sleep(0.005)
    assert used >= 3
    assert reader(store) == writer.expected()
    store.close()
    again = LogStore.open(tmp_path / "data")
    assert reader(again) == writer.expected()
    assert again.check() == []
    assert not list(log.glob("*.new"))
    again.close()


def test_a_spare_that_cannot_be_made_is_made_by_the_roll(store, writer_of, reader, monkeypatch):
    def fail(log):
        raise OSError(28, "no room")

    monkeypatch.setattr(store_background.Segment, "prepare", fail)
    writer = writer_of(store)
    store.append([writer.topic(1)])
    for _ in range(60):
        writer.write(1, 200)
    assert store.stats()["rolls"] >= 5
    assert reader(store) == writer.expected()


def test_dead_segments_leave_the_log_at_once_and_the_disk_soon(store, writer_of, tmp_path):
    writer = writer_of(store)
    store.append([writer.topic(1)])
    for _ in range(45):
        writer.write(1, 200)
    store.append([TrimEntry(1, 40)])
    store.plan_retention()
    assert store.stats()["segments"] == 1
    log = tmp_path / "data" / "log"
    wait_until(lambda: not list(log.glob("*.removing")))
    assert len([path for path in log.iterdir() if path.name.isdecimal()]) == 1
