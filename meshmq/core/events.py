"""What happened: facts that the shell, or the simulator, tells a machine."""

from __future__ import annotations

from dataclasses import dataclass

from meshmq.core.discovery import Sighted, SightLost
from meshmq.core.log import Commit, StoredBatch
from meshmq.frames import Envelope


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A decoded frame came in over ``link`` (a routing id at a node, a number at a client)."""

    link: bytes
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class BadFrameReceived:
    """Bytes that are no frame came in over ``link``."""

    link: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The transport says that nothing more will come over ``link``."""

    link: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """A client's transport is ready to try ``link``."""

    link: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """These commits are synced, in order; they hold every Append up to ticket ``ticket``."""

    ticket: int
    commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True)
class ReadDone:
    """Answer to a ReadLog.

    Attributes:
        reader: as in the effect.
        batches: in log order, at most about the bytes asked for.
        next_lsn, next_slot: where to go on; at ``next_lsn == end_lsn + 1`` the end was reached.
    """

    reader: int
    batches: tuple[StoredBatch, ...]
    next_lsn: int
    next_slot: int


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Answer to a SurveyLog: (stream, offset, bytes from there on) of each stream.

    ``lsn`` is the commit that the time asked for falls on; 0 if none was asked for.
    """

    number: int
    lsn: int
    rows: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class WallClock:
    """What time it is (unix ns); a node's first event, and told before every TimerFired."""

    wall_ns: int


@dataclass(frozen=True, slots=True)
class RetentionPlanned:
    """Answer to a PlanRetention: (stream, new first offset) of what is over its age or bytes."""

    trims: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class StorageMeasured:
    """The disk has ``free_bytes``, of which ``reserve_bytes`` are not for records."""

    free_bytes: int
    reserve_bytes: int


@dataclass(frozen=True, slots=True)
class PeerSighted:
    """mDNS says that a node of the site may be somewhere, or is gone."""

    sight: Sighted | SightLost


@dataclass(frozen=True, slots=True)
class ListenerCut:
    """A connection that another node had dialled was cut; which one is not known."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """Time has passed; machines look at their own deadlines."""


NodeEvent = (
    FrameReceived | BadFrameReceived | LinkClosed | Committed | ReadDone | RetentionPlanned
    | StorageMeasured | TimerFired | Surveyed | WallClock | PeerSighted | ListenerCut
)  # fmt: skip
ClientEvent = LinkOpened | FrameReceived | BadFrameReceived | LinkClosed | TimerFired
