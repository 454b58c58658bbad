"""The log of one data directory: group commits in, batches out, what is old unlinked.

Used from one thread at a time: ``open`` may run in another thread than the rest, every later call
in the one that made the first. State changes only in ``append``, after the sync.

Rules:
1. A commit is one row of one SQLite file, so it is there whole or not at all.
2. After an error while writing nothing is known of the disk: every later append is refused, and
   the next start finds out what is there. A sync is never repeated. One error is known: a disk
   without room for a commit has not stored it, so that one is written again, after the ballast
   was given up, or when there is room (NoRoom). Nothing that can wait fails on a full disk.
3. What is confirmed is never dropped to make a start succeed: a damaged commit in the segment
   that holds the newest state refuses the start; in older segments its batches are reported as
   damaged when they are read.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diskcache

from meshmq import codec_log, limits
from meshmq.core import retention
from meshmq.core.log import Commit, Entry, LogState, StoredBatch, split_entries
from meshmq.core.log_time import LogTime
from meshmq.errors import BadFrame, StoreDamaged, StoreFailed
from meshmq.shell import store_files, store_journal
from meshmq.shell.segment import DATABASE, Segment, damage, decode_row, is_disk_full
from meshmq.shell.store_background import Background, Spare
from meshmq.shell.store_copies import mend, read_copies
from meshmq.shell.store_index import SegmentIndex
from meshmq.shell.store_read import LogReader, ReadResult
from meshmq.shell.store_retention import RetentionPlanner
from meshmq.shell.store_rewrite import DamagedRow, Rewriter
from meshmq.shell.store_segments import Problem, SegmentSet, is_needed, living
from meshmq.shell.store_space import NoRoom, Room, Space

__all__ = ["LogStore", "NoRoom", "Problem", "ReadResult"]

_WRITE_ERRORS = (sqlite3.Error, diskcache.Timeout, OSError)
_LATENCY_BUCKETS = 32  # powers of two of a microsecond: the last is over half an hour
_SPARE_SHARE = 4  # the next segment is made when the active one is full to one part in so many
_SETTLE_SECONDS = 3.0  # what loses no more records for so long is worth rewriting, not before
_PLAN_SHARE = 50  # retention may take one part in so many of the disk thread's time ...
_PLAN_SHARE_SHORT = 5  # ... and so many where the disk is short of room
_COMMIT_ROOM_BYTES = 256 * limits.KIB  # for what a commit takes besides its batches
_ROLL_ROOM_BYTES = 512 * limits.KIB  # for a new segment besides its snapshot
_ROLL_AGAIN_SECONDS = 2.0  # after a try without room
_COMPACT_SHARE = 8  # the journal may take one part in so many of the reserve, in each segment


class LogStore:
    """One open log. Make it with ``LogStore.open``; close it in the thread that used it.

    Attributes:
        state: the sum of all commits, what a restart would see.
    """

    def __init__(
        self,
        directory: Path,
        lock: store_files.DirectoryLock,
        segments: SegmentSet,
        state: LogState,
        clock: Callable[[], int],
        monotonic: Callable[[], int] | None,
        background: bool,
    ) -> None:
        self.state = state
        self._directory = directory
        self._log = directory / store_files.LOG
        self._lock = lock
        self._segments = segments
        self._reader = LogReader(segments, state)
        self._clock = clock
        self._monotonic = monotonic
        self._time = LogTime(state.append_time_ns)
        self._retention = RetentionPlanner(state, segments, self._time)
        self._thread: int | None = None
        self._failed = ""
        self._closed = False
        self._commits = 0
        self._syncs = 0
        self._rolls = 0
        self._removed = 0
        self._latencies = [0] * _LATENCY_BUCKETS
        self._plan_not_before = 0.0
        self._space = Space(directory)
        self._times_full = 0
        self._snapshot_bytes = 0  # of the active segment
        self._roll_not_before = 0.0
        self._begun: tuple[Commit, int] | None = None  # met a full disk and is not taken back yet
        self._rewriter: Rewriter | None = None
        self._not_rewritten: set[int] = set()
        self._dying: dict[int, tuple[int, float]] = {}
        self._rewritten = self._mended = 0
        self._background = Background(background)
        self._spare = Spare(self._background, self._log)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] | None = None,
        background: bool = False,
    ) -> LogStore:
        """Open the log in ``directory``, made if it is not there.

        ``clock`` gives append times, ``monotonic`` tells when it jumps; given the first alone, it
        is taken not to. With ``background``, a thread of the store's own removes files and makes
        the next segment ahead.

        Raises StoreBusy if another process has it, ConfigError if the directory will not do,
        StoreDamaged if what is confirmed cannot be read back, StoreFailed on any other I/O error.
        """
        log = store_files.prepare(directory)
        lock = store_files.DirectoryLock(directory)
        try:
            Space(directory).make_room_to_start()
            segments, state = _recover(log)
            segments.disconnect()
        except OSError as error:
            lock.release()
            raise StoreFailed(f"log {log} cannot be opened: {error}") from error
        except StoreDamaged as error:
            lock.release()
            raise StoreDamaged(
                f"{error}; restore the data directory from a copy, or give up what cannot be read "
                f"with `meshmq log repair`"
            ) from error
        except BaseException:
            lock.release()
            raise
        if monotonic is None and clock is time.time_ns:
            monotonic = time.monotonic_ns
        return cls(directory, lock, segments, state, clock, monotonic, background)

    def close(self) -> None:
        """Close all files and let others have the directory."""
        if self._closed:
            return
        self._closed = True
        if self._rewriter is not None:
            self._rewriter.abandon()
        self._background.close()
        self._segments.close()
        self._lock.release()

    # --- writing ---------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> Commit:
        """Add ``entries`` as one commit; it is synced when this returns.

        The caller gathers up to limits.COMMIT_BYTES_MAX. Raises NoRoom if it was not stored, and
        StoreFailed if it may or may not be; the store takes no more then.
        """
        self._claim()
        if self._failed:
            raise StoreFailed(self._failed)
        state = self.state
        now_ns = max(state.append_time_ns, self._look_at_clocks())
        commit = Commit(state.next_lsn, now_ns, *split_entries(list(entries)))
        try:
            if self._begun is not None:
                self._take_back(*self._begun)
            size = sum([len(b.payload) for b in commit.batches])
            if not self._space.takes(size + _COMMIT_ROOM_BYTES) and not self._space.may_try(size):
                self._need(size + _COMMIT_ROOM_BYTES)
            if self._is_full(commit):
                self._roll()
            began = time.perf_counter_ns()
            end = self._segments.active.disk.end
            try:
                self._segments.active.append(commit)
            except _WRITE_ERRORS as error:
                self._append_again(commit, end, error)
            self._note_sync(time.perf_counter_ns() - began)
        except _WRITE_ERRORS as error:
            raise self._fail(error) from error
        except StoreFailed as error:
            self._failed = str(error)
            raise
        state.apply(commit)
        self._commits += 1
        return commit

    def _look_at_clocks(self) -> int:
        wall_ns = self._clock()
        if self._monotonic is not None:
            self._time.observe(wall_ns, self._monotonic())
        return wall_ns

    def _need(self, size: int) -> None:
        """Raise NoRoom where the disk has no room for so many bytes, not even in the ballast's."""
        if not self._space.takes(size) and not (self._gave_room() and self._space.takes(size)):
            raise NoRoom

    def _append_again(self, commit: Commit, end: int, error: Exception) -> None:
        """The disk had no room for a commit: once more, in the room that the ballast had."""
        if not is_disk_full(error):
            raise error
        gave_room = self._gave_room()
        self._begun = commit, end
        self._take_back(commit, end)
        if not gave_room:
            raise NoRoom
        try:
            self._segments.active.append(commit)
        except _WRITE_ERRORS as again:
            self._append_again(commit, end, again)

    def _take_back(self, commit: Commit, end: int) -> None:
        """See Segment.take_back; on a disk without a byte even that has to wait."""
        try:
            self._segments.active.take_back(commit, end)
        except (StoreFailed, *_WRITE_ERRORS) as error:
            is_known = isinstance(error, StoreFailed) and error.__cause__ is None
            if is_known or not self._is_for_room(error):
                raise
            raise NoRoom from error
        self._begun = None

    def _gave_room(self) -> bool:
        """Whether there was a ballast to be given up."""
        if not self._space.drop_ballast():
            return False
        self._times_full += 1
        return True

    def _is_for_room(self, error: BaseException) -> bool:
        """Whether something failed because the disk is full, as far as one can tell."""
        return is_disk_full(error.__cause__ or error) or not self._space.takes(0)

    def measure(self) -> Room:
        """How much room the disk has."""
        return self._space.measure()

    def _is_full(self, commit: Commit) -> bool:
        index = self._segments.active.index
        if not index.times:
            return False
        size = sum(len(batch.payload) for batch in commit.batches)
        if (
            index.bytes * _SPARE_SHARE > limits.SEGMENT_BYTES_MAX
            or len(index.times) * _SPARE_SHARE > limits.SEGMENT_COMMITS_MAX
            or index.batches * _SPARE_SHARE > limits.SEGMENT_BATCHES_MAX
        ):
            self._spare.ask()
        return (
            index.bytes + size > limits.SEGMENT_BYTES_MAX
            or len(index.times) >= limits.SEGMENT_COMMITS_MAX
            or index.batches + len(commit.batches) > limits.SEGMENT_BATCHES_MAX
        )

    def _roll(self) -> None:
        """Close the active segment and begin the next with a snapshot of the state. Where the disk
        has no room for that, go on with the active one: its bounds are for speed."""
        if time.monotonic() < self._roll_not_before:
            return
        try:
            self._need(2 * self._snapshot_bytes + _ROLL_ROOM_BYTES)
            self.roll()
            return
        except NoRoom:
            pass
        except (StoreFailed, *_WRITE_ERRORS) as error:
            if not self._is_for_room(error):
                raise
            self._segments.active.reconnect()
        self._roll_not_before = time.monotonic() + _ROLL_AGAIN_SECONDS

    def roll(self) -> None:
        """Close the active segment, of which there is something, and begin the next one."""
        segments, state = self._segments, self.state
        old = segments.active
        old.write_index()
        info = old.index.info(old.number)
        older = [living(found, state) for found in (*segments.closed.values(), info)]
        snapshot = codec_log.encode_snapshot(state, older)
        spare = self._spare.take()
        active = Segment.create(self._log, old.number + 1, snapshot, state.next_lsn, spare)
        segments.rolled(info, active, not self._is_short(self._space.measure()))
        self._snapshot_bytes = len(snapshot)
        self._rolls += 1

    def _note_sync(self, took_ns: int) -> None:
        self._syncs += 1
        bucket = min((took_ns // 1000).bit_length(), _LATENCY_BUCKETS - 1)
        self._latencies[bucket] += 1

    def _fail(self, error: BaseException) -> StoreFailed:
        self._failed = (
            f"writing to {self._log} failed ({error or type(error).__name__}): nothing more is "
            f"stored until the node is started again"
        )
        return StoreFailed(self._failed)

    # --- reading ---------------------------------------------------------------------------

    def read(
        self,
        streams: frozenset[int],
        start: tuple[str, int, int],
        end_lsn: int,
        bytes_max: int,
        origin: bytes = b"",
    ) -> ReadResult:
        """Batches of ``streams`` from ``start`` to commit ``end_lsn``, as effects.ReadLog says.

        A place before what is kept means the first kept one. May return no batch and a place to go
        on, when much had to be passed over. Raises NoRoom where opening a segment needs some.
        """
        self._claim()
        try:
            if origin:
                return read_copies(
                    self._reader, self._segments, self.state, origin, streams, start, bytes_max
                )
            return self._reader.read(streams, start, end_lsn, bytes_max)
        except (StoreFailed, sqlite3.Error, OSError) as error:
            raise self._not_read(error) from error

    def mend(self, stream: int, offset: int, count: int, payload: bytes) -> bool:
        """Write the bytes of a damaged batch in its place; whether that was possible."""
        self._claim()
        self._reader.forget()
        try:
            done = mend(self._segments, stream, offset, count, payload)
        except _WRITE_ERRORS as error:
            if not self._is_for_room(error):
                raise self._fail(error) from error
            done = False
        self._mended += done
        return done

    def survey(
        self,
        floors: Sequence[tuple[int, int]],
        time_ns: int | None,
        place: tuple[int, int] | None = None,
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """Where streams are, as effects.SurveyLog says: (lsn, rows). Raises NoRoom as ``read``."""
        self._claim()
        try:
            return self._reader.survey(floors, time_ns, place)
        except (StoreFailed, sqlite3.Error, OSError) as error:
            raise self._not_read(error) from error

    def _not_read(self, error: Exception) -> Exception:
        if self._is_for_room(error):
            self._gave_room()
            return NoRoom()
        if isinstance(error, StoreFailed):
            return error
        return StoreFailed(f"reading {self._log} failed: {error}")

    # --- retention -------------------------------------------------------------------------

    def plan_retention(self) -> tuple[tuple[int, int], ...]:
        """Return (stream, new first offset) of what is over its age or bytes.

        The caller makes them durable with TrimEntry. Segments of which nothing is kept are
        unlinked here, and an active one whose age bound comes near is closed. Of many streams a
        part is looked at by each call; none when it is called more often than its cost allows.
        """
        self._claim()
        if self._failed:
            raise StoreFailed(self._failed)
        if time.monotonic() < self._plan_not_before:
            return ()
        now_ns = max(self.state.append_time_ns, self._look_at_clocks())
        began = time.monotonic()
        try:
            self._remove_dead()
            kept, room = self.state.first_offsets(), self._space.measure()
            is_short = self._is_short(room)
            if self._retention.is_due(now_ns, kept, is_short) or self._is_worth_a_snapshot(room):
                self._roll()
            self._plan_rewriting(kept, room)
            trims = self._retention.plan(now_ns)
        except _WRITE_ERRORS as error:
            if self._is_for_room(error):
                return ()
            raise self._fail(error) from error
        if is_short:
            trims = (*store_journal.trims(self._segments.active.index, self.state), *trims)
        took = time.monotonic() - began
        self._plan_not_before = began + took * (_PLAN_SHARE_SHORT if is_short else _PLAN_SHARE)
        return trims

    def _is_worth_a_snapshot(self, room: Room) -> bool:
        """Whether the journal takes so much of a short disk that its sum should take its place:
        what is before the active segment can go then, as a whole where nothing else is in it."""
        if not self._is_short(room):
            return False
        size = store_journal.bytes_for_nothing(self._segments.active.index, self.state)
        return size > max(room.reserve_bytes // _COMPACT_SHARE, 2 * self._snapshot_bytes)

    def _remove_dead(self) -> None:
        error = self._background.failure
        if error is not None:
            raise self._fail(error)
        self._removed += self._segments.remove_dead(self.state, self._background.remove)
        rewriter = self._rewriter
        if rewriter is not None and rewriter.number not in self._segments.closed:
            self._give_up_rewriting(rewriter)

    # --- rewriting -------------------------------------------------------------------------

    @property
    def is_rewriting(self) -> bool:
        """Whether ``rewrite`` has something to do."""
        return self._rewriter is not None

    def rewrite(self) -> None:
        """Copy one slice of the segment being rewritten (see store_rewrite): some ms of work."""
        self._claim()
        rewriter = self._rewriter
        if rewriter is None or self._failed:
            return
        try:
            if rewriter.step():
                self._rewriter, self._space.is_lent = None, False
                segment, info = rewriter.finish()
                self._segments.replaced(segment, info)
                self._reader.forget()
                self._rewritten += 1
        except DamagedRow:
            self._not_rewritten.add(rewriter.number)
            self._give_up_rewriting(rewriter)
        except (StoreFailed, *_WRITE_ERRORS) as error:
            if not self._is_for_room(error):
                raise self._fail(error) from error
            self._give_up_rewriting(rewriter)

    def _give_up_rewriting(self, rewriter: Rewriter) -> None:
        rewriter.abandon()
        self._rewriter, self._space.is_lent = None, False

    def _plan_rewriting(self, kept: dict[int, int], room: Room) -> None:
        if self._rewriter is not None:
            return
        is_short = self._is_short(room)
        closed = self._segments.closed
        self._dying = {number: seen for number, seen in self._dying.items() if number in closed}
        for number, info in closed.items():
            if number in self._not_rewritten or is_needed(info, self.state):
                continue
            living = retention.living_bytes(info, kept)
            # What was rewritten before the last start is still known with its old bytes.
            held = min(retention.held_bytes(info), self._segments.size_of(number))
            if not retention.worth_rewriting(held, living, is_short):
                continue
            if is_short or self._has_settled(number, living):
                segment = self._segments.get(number)
                if segment is None:
                    self._not_rewritten.add(number)
                    continue
                if not self._space.takes_copy(living, room):
                    continue
                try:
                    self._rewriter = Rewriter(
                        self._log, segment, info, self._is_live, self._background.remove
                    )
                except StoreFailed as error:
                    self._space.is_lent = False
                    if not self._is_for_room(error):
                        raise
                return

    def _has_settled(self, number: int, living: int) -> bool:
        """Whether a segment has lost no record lately: one that loses them soon dies by itself."""
        now = time.monotonic()
        before, since = self._dying.get(number, (living + 1, now))
        if living < before:
            self._dying[number], since = (living, now), now
        return now - since >= _SETTLE_SECONDS

    def _is_live(self, alias: int, end: int) -> bool:
        stream = self.state.streams.get(alias)
        return stream is not None and stream.first_offset < end

    def _is_short(self, room: Room) -> bool:
        """Whether the disk is so full that every dead byte counts."""
        return room.free_bytes < 2 * room.reserve_bytes

    # --- telling ---------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters since the store was opened, and sizes now.

        ``sync_latency_us`` maps the upper bound of a bucket (a power of two, in us) to commits.
        """
        self._claim()
        segments, reader = self._segments, self._reader
        return {
            "segments": len(segments.closed) + 1,
            "bytes": segments.disk_bytes(),
            "commits": self._commits,
            "syncs": self._syncs,
            "sync_latency_us": {
                str(1 << i): count for i, count in enumerate(self._latencies) if count
            },
            "rolls": self._rolls,
            "segments_removed": self._removed,
            "damaged_batches": reader.damaged_batches,
            "damaged_commits": reader.damaged_commits + segments.lost_commits,
            "first_lsn": segments.first_lsn(),
            "next_lsn": self.state.next_lsn,
            "segments_rewritten": self._rewritten,
            "batches_mended": self._mended,
            "times_full": self._times_full,
            "failed": self._failed,
        }

    def check(self) -> list[Problem]:
        """Read everything and return what is wrong; takes long."""
        self._claim()
        problems: list[Problem] = []
        lost = self._segments.lost_commits
        everything = frozenset(self.state.streams)
        for number in self._segments.numbers():
            first, last = self._segments.range_of(number)
            segment = self._segments.get(number)
            if segment is None:
                text = f"segment {number} (commits {first} to {last}) cannot be opened"
                problems.append(Problem(text))
                continue
            problems += map(Problem, segment.problems())
            place = (first, 0)
            while place[0] <= last:
                found = self._reader.read(
                    everything, ("position", *place), last, limits.COMMIT_BYTES_MAX
                )
                problems += [self._problem(segment, b) for b in found.batches if b.damaged]
                place = (found.next_lsn, found.next_slot)
        lost = self._segments.lost_commits - lost
        if lost:
            problems.append(Problem(f"{lost} commits of closed segments cannot be read at all"))
        return problems

    def _problem(self, segment: Segment, batch: StoredBatch) -> Problem:
        held = self.state.streams[batch.stream].topic
        topic, origin = held.name, (held.origin or self.state.origin).hex()
        end = batch.base_offset + batch.count
        return Problem(
            f"{segment.path}: commit {batch.lsn}: offsets {batch.base_offset} to {end - 1} of "
            f"topic {topic!r} (origin {origin}) are damaged",
            topic,
            origin,
            batch.base_offset,
            end,
        )

    def _claim(self) -> None:
        """The first caller's thread is the only one from then on."""
        if self._closed:
            raise StoreFailed(f"log {self._log} is closed")
        me = threading.get_ident()
        if self._thread is None:
            self._thread = me
            self._segments.active.connect()
        elif self._thread != me:
            raise RuntimeError("the store was used from a second thread")


# --- start -----------------------------------------------------------------------------------


def _recover(log: Path) -> tuple[SegmentSet, LogState]:
    """Find the newest segment, read its snapshot and replay what follows."""
    numbers = store_files.list_segments(log)
    while numbers:
        segment = Segment(log, numbers[-1])
        try:
            snapshot = segment.snapshot()
            if snapshot is not None:
                return _replay(log, segment, snapshot, numbers[:-1])
            if segment.last_lsn() or len(numbers) == 1:
                raise StoreDamaged(f"{segment.path / DATABASE} has lost its snapshot")
        except sqlite3.Error as error:
            segment.close()
            raise damage(segment.path, error) from error
        except BaseException:
            segment.close()
            raise
        # The node died while it made this segment: the one before is still the active one.
        segment.close()
        store_files.remove_segment(log, numbers.pop())
    state = LogState(os.urandom(16))
    first = Segment.create(log, 1, codec_log.encode_snapshot(state, []), state.next_lsn)
    return SegmentSet(log, first, []), state


def _replay(
    log: Path, segment: Segment, snapshot: bytes, older: list[int]
) -> tuple[SegmentSet, LogState]:
    path = segment.path / DATABASE
    try:
        state, infos = codec_log.decode_snapshot(snapshot)
    except BadFrame as error:
        raise StoreDamaged(f"{path}: {error}") from error
    index = SegmentIndex(state.next_lsn)
    end = 0
    for lsn, row in segment.rows(0, 2**63 - 1):
        meta = decode_row(lsn, row)
        if meta is None or lsn != state.next_lsn:
            raise StoreDamaged(
                f"{path}: commit {state.next_lsn} is damaged or missing; it was confirmed, so the "
                f"log is not opened without it"
            )
        try:
            commit = store_journal.replayed(segment, meta, row, state)
        except BadFrame as error:
            raise StoreDamaged(f"{path}: commit {lsn}: {error}") from error
        state.apply(commit)
        index.add_read(commit.append_time_ns, meta.batches)
        if meta.batches and not meta.inline:
            last = meta.batches[len(meta.batches) - 1]
            end = last.position + last.length
    segment.index = index
    segment.disk.cut_values(end)
    kept_from = state.first_offsets()
    present = set(older)
    closed = []
    for info in infos:
        if info.number in present:
            closed.append(info)
        elif not retention.is_dead(info, kept_from):
            raise StoreDamaged(f"segment {store_files.segment_path(log, info.number)} is missing")
    return SegmentSet(log, segment, closed), state
