"""What of a group is journaled: every change of its state goes through here, into the next delta.

Data: ``state`` is what the group goes by now; what has changed since the last delta gathers beside
it. ``backlog`` counts what is not settled, marked records included.

Rules:
1. ``state`` and the delta change together, so a restart sees what was decided, in order.
2. Hand-outs may go on only so far beyond what a synced delta tells (``ahead``): a restart then
   knows which records somebody may have worked on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from meshmq import limits
from meshmq.core.hand_out import Entry, Member, Source
from meshmq.core.journal import Delta, GroupState, Mark, OffsetSet, Settings
from meshmq.core.runs import joined

if TYPE_CHECKING:
    from meshmq.core.group import Group

AHEAD_MIN = 65_536  # records


class Journaling:
    """See the module's header.

    Attributes:
        woken, changed: groups that have something to do, or to tell the journal; shared by all
            groups of a node.
        touched: members that get a frame with this turn.
        handed_total: records handed out so far.
    """

    sources: list[Source]

    def __init__(self, state: GroupState, woken: set[Group], changed: set[Group]) -> None:
        self.state = state
        self.woken = woken
        self.changed = changed
        self.touched: dict[int, Member] = {}
        self.backlog = 0
        self.backlog_bytes = 0.0
        self.unsynced = 0  # jobs accepted for a queue and on their way to disk ...
        self.unsynced_bytes = 0  # ... and their bytes
        self.is_weighed = True  # whether ``backlog_bytes`` is known
        self.handed_total = 0
        self.acked = self.nacked = self.rejected = self.expired = 0
        self.redelivered = self.overtaken = self.damaged = self.expired_jobs = self.buried = 0
        self._synced_handed = 0
        self._synced_ahead = 0
        self._told: deque[tuple[int, int, list[Member]]] = deque()
        self._joining: list[Member] = []
        self._told_handed = 0
        self._is_new = False
        self._resets = False
        self._has_changed = False
        self._floors: dict[int, int] = {}
        self._settled: list[tuple[int, int, int]] = []
        self._marks: dict[tuple[int, int], Mark] = {}
        self._unmarked: dict[tuple[int, int], None] = {}
        self._dedups: list[tuple[bytes, int, int, int]] = []
        self._reached: dict[int, tuple[int, int]] = {}

    @property
    def settings(self) -> Settings:
        return self.state.settings

    def wake(self) -> None:
        """Have ``pump`` called at the turn's end."""
        self.woken.add(self)  # type: ignore[arg-type]  # always a Group

    def change(self) -> None:
        """Have ``take_delta`` called at the turn's end."""
        self._has_changed = True
        self.changed.add(self)  # type: ignore[arg-type]  # as above

    # -- changes ----------------------------------------------------------------------------

    def settle_run(self, stream: int, first: int, count: int, marked: bool = False) -> int:
        """These records are done, for whatever reason; return how many were not before."""
        self.change()
        if marked:
            n = 0
            for offset in range(first, first + count):
                if self.state.marks.pop((stream, offset), None) is not None:
                    n += 1
                    self._unmarked[stream, offset] = None
                    self._marks.pop((stream, offset), None)
        else:
            n = self.state.settled(stream).add(first, count)
            self._settled.append((stream, first, count))
        self._count_down(n)
        return n

    def settle_runs(self, stream: int, runs: Sequence[tuple[int, int]], marked: bool) -> int:
        """As ``settle_run``, for many."""
        if marked or len(runs) < 2:
            return sum([self.settle_run(stream, *run, marked) for run in runs])
        self.change()
        n = self.state.settled(stream).add_runs(runs)
        self._settled += [(stream, first, count) for first, count in runs]
        self._count_down(n)
        return n

    def settle_own(self, stream: int, first: int, count: int) -> None:
        """These dead letters are no longer there."""
        self.change()
        self.state.settled(stream).add(first, count)
        self._settled.append((stream, first, count))

    def keep(self, stream: int, known: OffsetSet, end: int) -> None:
        """What was known of this stream outlives a reset."""
        self.set_floor(stream, known.floor)
        at = known.floor
        for first, count in (*known.missing(at, end - at), (end, 0)):
            if first > at:
                self.settle_own(stream, at, first - at)
            at = first + count

    def appended(self, stream: int, base: int, count: int, size: int) -> None:
        """A batch of a topic that the group takes is synced."""
        settled = self.state.streams.get(stream)
        open_records = count
        if settled is not None and (base < settled.floor or settled.chunks):
            open_records = sum([n for _, n in settled.missing(base, count)])
        self.backlog += open_records
        self.backlog_bytes += size * open_records / count

    def _count_down(self, n: int) -> None:
        if not n:
            return
        if n >= self.backlog:
            self.backlog, self.backlog_bytes = 0, 0.0
            return
        self.backlog_bytes -= self.backlog_bytes / self.backlog * n
        self.backlog -= n

    def set_mark(self, stream: int, offset: int, mark: Mark) -> None:
        """From now on this record is known by its mark."""
        self.change()
        self.state.settled(stream).add(offset, 1)
        self.state.marks[stream, offset] = mark
        self._marks[stream, offset] = mark
        self._unmarked.pop((stream, offset), None)

    def pass_over(self, stream: int, first: int, count: int) -> None:
        """Records that the log no longer has: nobody will get them."""
        self.change()
        settled = self.state.settled(stream)
        if first <= settled.floor:
            n = settled.raise_floor(first + count)
            self._floors[stream] = max(self._floors.get(stream, 0), first + count)
        else:
            n = settled.add(first, count)
            self._settled.append((stream, first, count))
        self.overtaken += n
        self._count_down(n)

    def set_floor(self, stream: int, offset: int) -> None:
        """The group begins here."""
        self.change()
        self.state.settled(stream).raise_floor(offset)
        self._floors[stream] = max(self._floors.get(stream, 0), offset)

    def forget(self, stream: int, offset: int) -> None:
        """A record that was to be handed out again is no longer in the log."""
        mark = self.state.marks.get((stream, offset))
        before = self.backlog
        self.settle_run(stream, offset, 1, mark is not None)
        self.overtaken += before - self.backlog
        if mark is None:
            self.recount_trail(stream)
        self.gone(stream, offset, mark)

    def recount_trail(self, stream: int) -> None:
        """Records were settled that nobody lifted."""

    def gone(self, stream: int, offset: int, mark: Mark | None) -> None:
        """A marked record is settled for good."""

    def note_dedup(self, dedup: bytes, stream: int, offset: int, now_ms: int) -> None:
        """A job with this id was accepted."""
        self.change()
        self.state.dedups[dedup] = (stream, offset, now_ms)
        self._dedups.append((dedup, stream, offset, now_ms))

    def forget_dedup(self) -> None:
        """The oldest id is one too many."""
        self.change()
        dedup, _ = self.state.dedups.popitem(last=False)
        self._dedups.append((dedup, 0, 0, 0))

    def set_settings(self, settings: Settings) -> None:
        self.state.settings = settings
        self._is_new = True
        self.change()

    def reset(self) -> None:
        """Forget what the journal says of records (a seek), but not how far hand-outs had come:
        up to there somebody has worked on them, whatever is read again."""
        state = self.state
        reached = {**state.reached, **self._reached}
        for known in (state.streams, state.marks, state.cursors, state.reached):
            known.clear()
        self._floors.clear()
        self._settled.clear()
        self._marks.clear()
        self._unmarked.clear()
        self._reached = {index: place for index, place in reached.items() if place != (0, 0)}
        self._resets = True
        self.change()

    def lift(self, entry: Entry, n: int) -> None:
        """So many records of a batch that was read need not be found by reading again."""
        entry.left -= n

    def reached(self, source: Source, lsn: int, slot: int) -> None:
        """Something of this place was handed out."""
        if (lsn, slot) > self.place_reached(source):
            self._reached[source.index] = (lsn, slot)

    def place_reached(self, source: Source) -> tuple[int, int]:
        """How far hand-outs have come."""
        return self._reached.get(source.index) or self.state.reached.get(source.index, (0, 0))

    # -- how far hand-outs may go -----------------------------------------------------------

    def joins(self, member: Member) -> None:
        """A member gets something once the next delta is synced."""
        self._joining.append(member)
        self.change()

    @property
    def go_ahead_records(self) -> int:
        """Records that may be handed out before the next delta is synced."""
        return self._synced_handed + self._synced_ahead - self.handed_total

    def may_be_told(self, prefetch_records: int) -> None:
        """Hand-outs went on: tell the journal in time."""
        ahead = max(2 * prefetch_records, AHEAD_MIN)
        if (self.handed_total - self._told_handed) * 2 >= ahead:
            self.change()

    def take_delta(self, prefetch_records: int) -> Delta | None:
        """What has changed since the last time; None if nothing has that must be kept."""
        if not self._has_changed:
            return None
        ahead = max(2 * prefetch_records, AHEAD_MIN)
        settings = self.settings if self._is_new else None
        cursors = self._take_cursors()
        self.state.reached.update(self._reached)
        self.state.ahead = ahead
        delta = Delta(
            self.settings.id, settings, self._resets, cursors, tuple(self._floors.items()),
            _joined(self._settled), tuple([(*k, m) for k, m in self._marks.items()]),
            tuple(self._unmarked), tuple(self._dedups),
            tuple([(source, *place) for source, place in self._reached.items()]), ahead,
        )  # fmt: skip
        self._told.append((self.handed_total, ahead, self._joining))
        self._joining = []
        self._told_handed = self.handed_total
        self._is_new = self._resets = self._has_changed = False
        self._floors.clear()
        self._settled.clear()
        self._marks.clear()
        self._unmarked.clear()
        self._dedups.clear()
        self._reached.clear()
        return delta

    def on_delta_synced(self) -> None:
        """The oldest delta that was under way is on disk."""
        if self._told:
            self._synced_handed, self._synced_ahead, members = self._told.popleft()
            for member in members:
                member.is_active = True
        self.wake()

    def _take_cursors(self) -> tuple[tuple[int, int, int], ...]:
        """Where each source would begin to read after a restart, where that has changed."""
        rows = []
        for source in self.sources:
            trail = source.trail
            while trail:
                key = next(iter(trail))
                if trail[key].left > 0:
                    break
                del trail[key]
            if trail:
                entry = trail[next(iter(trail))]
                place = (entry.lsn, entry.slot)
            elif source.start is None:
                place = (source.lsn, source.slot)
            else:
                continue
            if self.state.cursors.get(source.index, (1, 0)) != place:
                self.state.cursors[source.index] = place
                rows.append((source.index, *place))
        return tuple(rows)


def _joined(rows: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Rows (stream, first, count), neighbours joined: members settle parts of one batch."""
    return tuple(
        [
            (stream, *run)
            for stream, some in groupby(sorted(rows), itemgetter(0))
            for run in joined([row[1:] for row in some])
        ]
    )


assert AHEAD_MIN >= limits.PREFETCH_RECORDS_DEFAULT
