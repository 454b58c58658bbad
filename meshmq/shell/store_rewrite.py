"""Gives back the bytes of records that are gone from a closed segment of which some still live.

What lives is copied, slice by slice between commits, into a new segment of the same number with the
same commits at the same places; dead batches keep their slot without bytes, commits of which
nothing lives leave a hole. Then the two change places.

A crash leaves the old segment, or both, of which the complete new one wins at the next start (see
store_files). A segment in which a row is damaged is left as it is: a hole must never hide a loss.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from meshmq.codec_log import CommitMeta
from meshmq.core.log import BatchEntry, Commit
from meshmq.core.retention import SegmentInfo
from meshmq.errors import StoreFailed
from meshmq.limits import MIB
from meshmq.shell import store_files
from meshmq.shell.segment import Segment, decode_row
from meshmq.shell.store_disk import payload_start
from meshmq.shell.store_index import SegmentIndex

SLICE_BYTES = 1 * MIB
SLICE_SECONDS = 0.005  # then commits that wait go first

IsLive = Callable[[int, int], bool]
"""Whether of a stream anything before an offset is still kept."""


class Rewriter:
    """One segment on its way.

    Attributes:
        number: of the segment.
    """

    def __init__(
        self,
        log: Path,
        segment: Segment,
        info: SegmentInfo,
        is_live: IsLive,
        remove: Callable[[Path], None],
    ) -> None:
        self.number = segment.number
        self._log = log
        self._old = segment
        self._info = info
        self._is_live = is_live
        self._remove = remove
        self._next_lsn = info.first_lsn
        self._index = SegmentIndex(info.first_lsn)
        self._index.times = segment.index.times[:]
        snapshot = segment.snapshot()
        if snapshot is None:
            raise StoreFailed(f"{segment.path} has no snapshot")
        self._making = store_files.new_path(log, self.number)
        self._new = Segment.begin_copy(self._making, snapshot)

    def step(self) -> bool:
        """Copy one slice; whether that was the last. Raises DamagedRow where one is found."""
        until = time.monotonic() + SLICE_SECONDS
        size = 0
        commits: list[Commit] = []
        rows = self._old.rows(self._next_lsn, self._info.last_lsn)
        is_last = True
        try:
            for lsn, row in rows:
                meta = decode_row(lsn, row)
                if meta is None or (lsn != self._next_lsn and not self._old.is_rewritten):
                    raise DamagedRow(f"{self._old.path}: commit {self._next_lsn}")
                commit = self._living(meta, row)
                if commit is not None:
                    commits.append(commit)
                    size += sum([len(b.payload) for b in commit.batches])
                self._next_lsn = lsn + 1
                if size >= SLICE_BYTES or time.monotonic() >= until:
                    is_last = False
                    break
        except sqlite3.DatabaseError as error:
            raise DamagedRow(f"{self._old.path}: {error}") from error
        finally:
            rows.close()
        if is_last and self._next_lsn <= self._info.last_lsn and not self._old.is_rewritten:
            raise DamagedRow(f"{self._old.path}: commit {self._next_lsn}")
        self._new.append_copies(commits)
        return is_last

    def _living(self, meta: CommitMeta, row: bytes) -> Commit | None:
        """The commit with the bytes of what lives, or None if nothing does."""
        batches = []
        lives = False
        for slot, b in enumerate(meta.batches):
            payload = b""
            if b.length and self._is_live(b.stream, b.base_offset + b.records):
                lives = True
                if meta.inline:
                    start = payload_start(row) + b.position
                    payload = row[start : start + b.length]
                else:
                    payload = self._old.disk.read_values(b.length, b.position)
                self._index.add_at(meta.lsn, slot, b.stream, b.base_offset, b.records, len(payload))
            batches.append(
                BatchEntry(
                    b.stream,
                    b.base_offset,
                    b.records,
                    payload,
                    b.checksum,
                    b.producer,
                    b.first,
                    b.moved,
                )
            )
        if not lives:
            return None
        return Commit(meta.lsn, meta.append_time_ns, tuple(batches), copied=meta.copied)

    def finish(self) -> tuple[Segment, SegmentInfo]:
        """Put the new segment in the old one's place."""
        self._new.index = self._index
        self._new.end_copy()
        self._old.close()
        old = store_files.exchange(self._log, self.number)
        if old is not None:
            self._remove(old)
        return Segment(self._log, self.number), self._index.info(self.number)

    def abandon(self) -> None:
        """Leave the old segment as it is."""
        self._new.close()
        with contextlib.suppress(OSError):
            self._remove(store_files.set_aside(self._making))


class DamagedRow(Exception):
    """A row of the old segment cannot be read: it stays."""
