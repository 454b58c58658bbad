"""The segments of one log: which there are, which are open, and which one has what.

Data: a SegmentInfo of every closed segment (always in memory), the active segment (open), and the
few closed ones that were read last (open, least recently used first).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from meshmq.core.log import LogState
from meshmq.core.retention import Portion, SegmentInfo, is_dead
from meshmq.errors import ConfigError, StoreDamaged, StoreFailed
from meshmq.shell import store_files
from meshmq.shell.segment import Segment, disk_bytes

OPEN_SEGMENTS_MAX = 4  # closed segments kept open for reading, with their index in memory


class Problem(NamedTuple):
    """What ``check`` found: a sentence, and which records are lost where that is known."""

    sentence: str
    topic: str = ""
    origin: str = ""
    first_offset: int = 0
    next_offset: int = 0


def is_needed(info: SegmentInfo, state: LogState) -> bool:
    """Whether a renewal needs all rows of a segment: they say what the log was when an older state
    of its disk was put back (shell/store_renew.py)."""
    behind = state.behind
    return behind is not None and info.first_lsn <= behind.began <= info.last_lsn + 1


class SegmentSet:
    """All segments of a log, oldest first, the active one last.

    Attributes:
        active: the segment being written.
        closed: what the others hold, by number, ascending.
        lost_commits: commits found unreadable while an index was built.
    """

    def __init__(self, log: Path, active: Segment, closed: list[SegmentInfo]) -> None:
        self._log = log
        self.active = active
        self.closed: dict[int, SegmentInfo] = {}
        self.lost_commits = 0
        self._open: OrderedDict[int, Segment] = OrderedDict()
        self._by_stream: dict[int, list[Portion]] = {}
        self._damaged: set[int] = set()
        self._sizes: dict[int, int] = {}
        for info in closed:
            self._add(info)

    def _add(self, info: SegmentInfo) -> None:
        self.closed[info.number] = info
        for stream, portion in info.portions.items():
            self._by_stream.setdefault(stream, []).append(portion)

    def rolled(self, info: SegmentInfo, active: Segment, keeps_open: bool) -> None:
        """The active segment is closed and holds ``info``; ``active`` follows it. One that is not
        kept open gives back its write-ahead log."""
        if keeps_open:
            self._keep_open(self.active)
        else:
            self.active.close()
        self._add(info)
        self.active = active

    def remove_dead(self, state: LogState, remove: Callable[[Path], None]) -> int:
        """Drop closed segments of which nothing is kept, their files by ``remove``; return how
        many."""
        kept_from = state.first_offsets()
        closed = [info for info in self.closed.values() if not is_needed(info, state)]
        dead = [info for info in closed if is_dead(info, kept_from)]
        for info in dead:
            held = self._open.pop(info.number, None)
            if held is not None:
                held.close()
            path = store_files.segment_path(self._log, info.number)
            try:
                remove(store_files.set_aside(path))
            except OSError as error:
                raise StoreFailed(f"segment {path} could not be removed: {error}") from error
            del self.closed[info.number]
            self._sizes.pop(info.number, None)
            for stream, portion in info.portions.items():
                portions = self._by_stream[stream]
                portions.remove(portion)
                if not portions:
                    del self._by_stream[stream]
        return len(dead)

    def replaced(self, segment: Segment, info: SegmentInfo) -> None:
        """A closed segment was rewritten: ``segment`` holds ``info`` in its place."""
        number = info.number
        old = self.closed[number]
        held = self._open.pop(number, None)
        if held is not None:
            held.close()
        self.closed[number] = info
        self._sizes.pop(number, None)
        for stream, portion in old.portions.items():
            portions = self._by_stream[stream]
            i = portions.index(portion)
            new = info.portions.get(stream)
            if new is not None:
                portions[i] = new
            else:
                del portions[i]
            if not portions:
                del self._by_stream[stream]
        segment.load_index(info)
        self._keep_open(segment)

    def size_of(self, number: int) -> int:
        """Bytes of the files of a closed segment."""
        if number not in self._sizes:
            self._sizes[number] = disk_bytes(store_files.segment_path(self._log, number))
        return self._sizes[number]

    def get(self, number: int) -> Segment | None:
        """The segment ``number``, open, with its index; None if its file is damaged."""
        if number == self.active.number:
            return self.active
        found = self._open.get(number)
        if found is not None:
            self._open.move_to_end(number)
            return found
        if number in self._damaged:
            return None
        info = self.closed[number]
        try:
            segment = Segment(self._log, number)
        except (ConfigError, StoreDamaged):
            self._damaged.add(number)
            self.lost_commits += info.last_lsn - info.first_lsn + 1
            return None
        self.lost_commits += segment.load_index(info)
        self._keep_open(segment)
        return segment

    def _keep_open(self, segment: Segment) -> None:
        self._open[segment.number] = segment
        while len(self._open) > OPEN_SEGMENTS_MAX:
            self._open.popitem(last=False)[1].close()

    # --- lookups ---------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """All segments, oldest first."""
        return [*self.closed, self.active.number]

    def portions(self, stream: int) -> list[Portion]:
        """What each segment holds of ``stream``, oldest first."""
        found = list(self._by_stream.get(stream, ()))
        last = self.active.index.portion(self.active.number, stream)
        if last is not None:
            found.append(last)
        return found

    def holds_any(self, number: int, streams: frozenset[int]) -> bool:
        """Whether segment ``number`` has batches of one of ``streams``."""
        if number == self.active.number:
            return not streams.isdisjoint(self.active.index.streams)
        return not streams.isdisjoint(self.closed[number].portions)

    def first_lsn(self) -> int:
        """First commit that is kept."""
        for info in self.closed.values():
            return info.first_lsn
        return self.active.index.first_lsn

    def from_lsn(self, lsn: int) -> list[int]:
        """Segments that hold commit ``lsn`` or later ones, oldest first."""
        infos = list(self.closed.values())
        i = bisect_left(infos, lsn, key=lambda info: info.last_lsn)
        return [*(info.number for info in infos[i:]), self.active.number]

    def range_of(self, number: int) -> tuple[int, int]:
        """First and last lsn of a segment; the last is less than the first while it is empty."""
        if number == self.active.number:
            return self.active.index.first_lsn, self.active.index.last_lsn
        info = self.closed[number]
        return info.first_lsn, info.last_lsn

    def lsn_at_time(self, time_ns: int) -> int:
        """First kept commit not older than ``time_ns``, or the one after the last."""
        infos = list(self.closed.values())
        i = bisect_left(infos, time_ns, key=lambda info: info.last_time_ns)
        if i == len(infos):
            return self.active.index.at_time(time_ns)
        segment = self.get(infos[i].number)
        return infos[i].first_lsn if segment is None else segment.index.at_time(time_ns)

    # --- the rest --------------------------------------------------------------------------

    def disk_bytes(self) -> int:
        """Bytes of all files of all segments."""
        return sum(map(self.size_of, self.closed)) + self.active.disk_bytes()

    def disconnect(self) -> None:
        """Close this thread's connections, so that another thread can go on."""
        for segment in (*self._open.values(), self.active):
            segment.disconnect()

    def close(self) -> None:
        for segment in (*self._open.values(), self.active):
            segment.close()
        self._open.clear()


def living(info: SegmentInfo, state: LogState) -> SegmentInfo:
    """``info`` without portions of which nothing is kept."""
    kept = {
        alias: portion
        for alias, portion in info.portions.items()
        if (stream := state.streams.get(alias)) and stream.first_offset < portion.next_offset
    }
    return SegmentInfo(
        info.number, info.first_lsn, info.last_lsn, info.first_time_ns, info.last_time_ns, kept
    )
