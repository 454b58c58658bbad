"""The disk thread: what waits goes out in commits of bounded size."""

from __future__ import annotations

import pytest

from meshmq.core.effects import Append
from meshmq.core.events import Committed
from meshmq.core.journal import Delta
from meshmq.core.log import BatchEntry, CopiedEntry, JournalEntry, payload_bytes
from meshmq.shell.disk import DiskThread
from tests.shell.test_store_copies import HOUR, THEIRS, copied_topic


def own(size):
    return BatchEntry(1, 0, 1, bytes(size), 0, b"p" * 16, 1)


def copied(offset, size):
    return CopiedEntry(own(size)._replace(base_offset=offset), THEIRS, offset + 1, 0, HOUR)


def test_bytes_are_counted_of_batches_of_any_kind():
    journal = JournalEntry(own(30), (Delta("group"),))
    assert payload_bytes([copied_topic(1), own(5), copied(0, 200), journal]) == 235


@pytest.mark.parametrize("is_copied", [False, True])
def test_what_waits_is_committed_in_parts_also_of_other_nodes_logs(
    tmp_path, monkeypatch, is_copied
):
    monkeypatch.setattr("meshmq.limits.COMMIT_BYTES_MAX", 1000)
    disk = DiskThread(tmp_path / "log", lambda: None)
    disk.open()
    topic = copied_topic(1) if is_copied else copied_topic(1)._replace(origin=bytes(16), source=0)
    batches = [copied(i, 400) if is_copied else copied(i, 400).batch for i in range(9)]
    entries = [(topic,), *[(batch,) for batch in batches]]
    disk.put([Append(i, rows) for i, rows in enumerate(entries)])
    disk.close()
    assert disk.failure is None
    commits = [c for done in disk.results if isinstance(done, Committed) for c in done.commits]
    assert [len(commit.batches) for commit in commits] == [3, 3, 3]
