"""Frames by which sites say what became of their groups; see ``frames``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from meshmq.frames_copies import CopiesRow


class TakenRange(NamedTuple):
    """Offsets of a stream, by its number in its own log, from ``first`` to before ``end``."""

    stream: int
    first: int
    end: int


class HandedRun(NamedTuple):
    """Records of a group of a log, by the stream's number there, that are its own again. They are
    due at ``due_ms``, 0: at once; ``attempts`` have failed; ``priority`` of jobs."""

    group: str
    stream: int
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    due_ms: int = 0
    attempts: int = 0
    priority: int = 0


class SiteTaken(NamedTuple):
    """Site ``by`` finishes what groups of a log had not done.

    Attributes:
        origin, name, site: of the log: its node's, and the site of that.
        epoch: the greatest counts, of two the greater site, of two in one the greater node.
        by, taker: the site that finishes it, and the node there that has it.
        groups: numbers of groups, as in that log.
        ranges: what of them: what they had not done of these records.
        is_over: nothing of it is left at the taker.
        is_back: its site asked for what was left, and has or gets it.
        is_moved: all is in the taker's own log; only the taker knows.
        part: so many parts of it were handed back; at the log's own node: were taken in.
        pending: at the taker the part that is on its way back; at the log's own node what it gave
            away: what it had done by then does not come back.
    """

    origin: bytes
    name: str
    site: str
    epoch: int
    by: str
    taker: bytes
    groups: tuple[int, ...] = ()
    ranges: tuple[TakenRange, ...] = ()
    is_over: bool = False
    is_back: bool = False
    is_moved: bool = False
    part: int = 0
    pending: tuple[HandedRun, ...] = ()

    @property
    def rank(self) -> tuple[int, str, bytes]:
        return self.epoch, self.by, self.taker

    @property
    def news(self) -> tuple[bool, bool]:
        """What may become of it."""
        return self.is_back, self.is_over

    def told(self) -> SiteTaken:
        """As others know it."""
        return self._replace(is_moved=False, part=0, pending=())

    def has(self, stream: int, offset: int) -> bool:
        """Whether a record is among those that were taken."""
        return self.has_some(stream, offset, 1)

    def among(self, stream: int, offsets: list[int]) -> list[int]:
        """Those of a stream's records that are."""
        spans = [r for r in self.ranges if r.stream == stream]
        return [o for o in offsets if any(r.first <= o < r.end for r in spans)]

    def has_some(self, stream: int, first: int, count: int) -> bool:
        """The same of any of some records: a batch may have lost those that were first in it."""
        end = first + count
        return any(r.stream == stream and r.first < end and first < r.end for r in self.ranges)


class SeenRow(NamedTuple):
    """Of another site: whether it is linked, or else how long ago it was, ms."""

    site: str
    is_linked: bool
    ms: int = 0


@dataclass(frozen=True, slots=True)
class SiteWords:
    """What a node knows of sites: to a node of its own site what it sees itself, to one of another
    site what its site sees.

    Attributes:
        fence_ms: so long without any link its site hands out what its groups have; 0: for ever.
        seen: the other sites.
        taken: logs that another site was given, as all know them.
        inside: takeovers inside the sender's site (epoch, taker, taken, taken_slot).
    """

    fence_ms: int
    seen: tuple[SeenRow, ...] = ()
    taken: tuple[SiteTaken, ...] = ()
    inside: tuple[CopiesRow, ...] = ()


@dataclass(frozen=True, slots=True)
class HandBack:
    """By a taker to the node whose log it is: these records are its own again, from ``part`` of
    ``epoch`` on; parts are counted from 1."""

    epoch: int
    part: int
    runs: tuple[HandedRun, ...]


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The answer, once that is stored. ``gone``: records of it that are there no more."""

    epoch: int
    part: int
    gone: tuple[HandedRun, ...] = ()


Body = SiteWords | HandBack | HandedBack
