"""Makes a log that refuses to start usable again: an operator's decision, never a start's.

What can be read is kept, at its places. The damaged segment is closed as it is, or put aside where
it cannot be opened at all, and a new one begins with the state that the readable commits add up
to. Where the newest commits may be lost, commit numbers and offsets go on after a wide gap: what a
consumer has seen of them never names another record.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from meshmq import codec_log, limits
from meshmq.codec_log import CommitMeta
from meshmq.core.log import Commit, LogState
from meshmq.core.retention import SegmentInfo
from meshmq.errors import BadFrame, ConfigError, MeshError, StoreDamaged, StoreFailed
from meshmq.shell import store_files
from meshmq.shell.segment import Segment, decode_row
from meshmq.shell.store import LogStore
from meshmq.shell.store_index import SegmentIndex
from meshmq.shell.store_journal import replayed

GAP = 1 << 32
"""Commits and offsets left out where the end of the log is lost: more than a segment can hold."""
DAMAGED = ".damaged"


def repair(directory: Path) -> list[str]:
    """Repair the log in ``directory``; return what was done, one sentence each.

    An empty list: there was nothing to repair. Raises StoreBusy, ConfigError as an open does, and
    StoreDamaged if no segment has a readable snapshot.
    """
    if not (directory / store_files.LOG).is_dir():
        raise ConfigError(f"{directory} holds no log: say where it is with --data")
    try:
        LogStore.open(directory).close()
        return []
    except StoreDamaged:
        pass
    log = store_files.prepare(directory)
    lock = store_files.DirectoryLock(directory)
    try:
        done = _Repair(log).run()
    finally:
        lock.release()
    LogStore.open(directory).close()
    return done


class _Repair:
    def __init__(self, log: Path) -> None:
        self._log = log
        self._done: list[str] = []
        self._infos: list[SegmentInfo] = []
        self._tail_lost = False

    def run(self) -> list[str]:
        numbers = store_files.list_segments(self._log)
        state, begin = self._newest_state(numbers)
        for number in [n for n in numbers if n >= begin]:
            self._replay(number, state)
        if self._tail_lost:
            state.next_lsn += GAP
            for stream in state.streams.values():
                if not stream.topic.origin:  # what is copied is fetched again
                    stream.next_offset += GAP
            self._done.append(
                f"commits at the end of the log may be lost: commit numbers and offsets go on "
                f"{GAP} further"
            )
        number = numbers[-1] + 1
        snapshot = codec_log.encode_snapshot(state, self._infos)
        Segment.create(self._log, number, snapshot, state.next_lsn).close()
        self._done.append(f"the log goes on in segment {number}, commit {state.next_lsn}")
        return self._done

    def _newest_state(self, numbers: list[int]) -> tuple[LogState, int]:
        """The newest readable snapshot, and the number of its segment."""
        present = set(numbers)
        for number in reversed(numbers):
            snapshot = self._snapshot(number)
            if snapshot is None:
                self._done.append(f"segment {number} has no readable snapshot")
                continue
            try:
                state, infos = codec_log.decode_snapshot(snapshot)
            except BadFrame:
                continue
            for info in infos:
                if info.number in present:
                    self._infos.append(info)
                else:
                    self._done.append(
                        f"segment {info.number} (commits {info.first_lsn} to {info.last_lsn}) is "
                        f"missing: its records are given up"
                    )
            return state, number
        raise StoreDamaged(f"no segment of {self._log} has a readable snapshot: restore a copy")

    def _snapshot(self, number: int) -> bytes | None:
        try:
            segment = Segment(self._log, number)
        except MeshError:
            return None
        try:
            return segment.snapshot()
        except MeshError:
            return None
        finally:
            segment.close()

    def _replay(self, number: int, state: LogState) -> None:
        """Add what can be read of one segment to ``state``."""
        try:
            segment = Segment(self._log, number)
        except (ConfigError, StoreDamaged) as error:
            path = store_files.segment_path(self._log, number)
            aside = path.with_name(path.name + DAMAGED)
            path.rename(aside)
            self._tail_lost = True
            self._done.append(f"{error}; it is kept as {aside}")
            return
        try:
            first = state.next_lsn
            index = SegmentIndex(first)
            last = self._last_lsn(segment, first)
            lost: list[int] = []
            for lsn in range(first, last + 1):
                meta = self._read(segment, lsn)
                if meta is None:
                    lost.append(lsn)
                    index.add_time(state.append_time_ns)
                    continue
                state.next_lsn = lsn
                state.apply(self._commit(segment, meta, state))
                index.add_read(meta.append_time_ns, meta.batches)
            state.next_lsn = last + 1
            self._tell_lost(segment, lost)
            if lost and lost[-1] == last:
                self._tail_lost = True
            self._infos.append(index.info(number))
        finally:
            segment.close()

    def _commit(self, segment: Segment, meta: CommitMeta, state: LogState) -> Commit:
        try:
            return replayed(segment, meta, segment.row(meta.lsn) or b"", state)
        except (BadFrame, OSError):
            self._done.append(
                f"{segment.path}: what groups did in commit {meta.lsn} is damaged: records that "
                f"were acked there may be handed out again"
            )
            return meta.without_bytes()

    def _last_lsn(self, segment: Segment, first: int) -> int:
        try:
            return max(segment.last_lsn(), first - 1)
        except sqlite3.Error:
            # The tree above the rows is damaged: try all that could be there.
            return first + limits.SEGMENT_COMMITS_MAX

    def _read(self, segment: Segment, lsn: int) -> CommitMeta | None:
        try:
            return decode_row(lsn, segment.row(lsn))
        except StoreFailed:
            return None

    def _tell_lost(self, segment: Segment, lost: list[int]) -> None:
        begin = 0
        for i, lsn in enumerate(lost):
            if i + 1 == len(lost) or lost[i + 1] != lsn + 1:
                self._done.append(
                    f"{segment.path}: commits {lost[begin]} to {lsn} are damaged: their records "
                    f"are given up"
                )
                begin = i + 1
