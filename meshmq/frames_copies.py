"""Frames by which nodes copy each other's logs; see ``frames``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from meshmq import frames_verify

NO_LEVEL = 255
"""Of a Fetch: it ends."""

Claim = tuple[tuple[str, ...], tuple[str, ...]]
"""Patterns of topics, and of those among them that are left out."""


class Strand(NamedTuple):
    """Part of a log that is pulled by itself, up to before (``lsn``, ``slot``): of its topics those
    that match each one of ``claims``, and are of none of the strands before it. The lower its
    ``rank`` the sooner it goes over a thin link."""

    number: int
    rank: int
    lsn: int
    slot: int
    claims: tuple[Claim, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        return self.lsn, self.slot


class StrandPlace(NamedTuple):
    """How far a strand goes: up to before (``lsn``, ``slot``)."""

    number: int
    lsn: int
    slot: int


@dataclass(frozen=True, slots=True)
class AskCopy:
    """Copy the sender's log: its topics that are to have more copies than ``level``; 0: no copy is
    needed any more."""

    level: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send the log of ``origin`` from a place on, ``credit`` bytes at a time; a greater
    ``number`` ends those before. With a ``topic_id``: only the batch of that stream that holds
    ``offset``.

    Of a log of another site: by ``strands``, each from its place on, at least one; nothing that
    was stored before ``since`` (unix ns, 0: all); of streams in ``had`` only what lies at this
    offset or behind it, and that also if it is older. ``packs``: batches
    may come compressed. ``whole``: from this place on, up to those of the strands, all is there;
    (0, 0): from the beginning, or, with ``since``, it is not known."""

    number: int
    origin: bytes
    lsn: int = 1
    slot: int = 0
    credit: int = 0
    level: int = 0
    topic_id: bytes = b""
    offset: int = 0
    strands: tuple[Strand, ...] = ()
    since: int = 0
    had: tuple[tuple[int, int], ...] = ()
    packs: bool = False
    whole: tuple[int, int] = (0, 0)


class CopiedTopic(NamedTuple):
    """A stream of the log that is fetched, by its number there. ``first_offset``: what lies before
    is gone at its own node. ``begins``: one more than the offset from which on the sender has what
    comes next, whatever others have; 0: all from ``first_offset`` on. ``end``: between sites, there
    are records up to before this offset; 0: it is not said."""

    stream: int
    topic_id: bytes
    name: str
    first_offset: int
    deleted: bool = False
    end: int = 0
    begins: int = 0


class CopiedBatch(NamedTuple):
    """One batch as its own log has it; ``moved`` as of a PublishBatch."""

    stream: int
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    length: int
    checksum: int
    append_time_ns: int
    lsn: int
    slot: int
    damaged: bool
    producer: bytes
    first: int
    moved: bytes = b""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Part of a log, or of one of its strands, up to before (``lsn``, ``slot``); ``topics`` those
    that are new to the asking node, or have changed. ``places``: up to where there is nothing more
    of strands, behind what was sent of them. ``size``: ``payload`` is one block, compressed, of so
    many bytes. ``flight``: between sites, what is on its way over the link, with this.
    ``streams``: between sites, all that there are of the log, by number; None: it does not say."""

    number: int
    topics: tuple[CopiedTopic, ...] = ()
    batches: tuple[CopiedBatch, ...] = ()
    lsn: int = 0
    slot: int = 0
    payload: bytes = b""
    code: str = ""
    message: str = ""
    size: int = 0
    strand: int = 0
    places: tuple[StrandPlace, ...] = ()
    flight: int = 0
    streams: tuple[int, ...] | None = None

    @property
    def has_more(self) -> bool:
        """Whether something comes of the log; else it is about that only."""
        return bool(self.batches or self.places or self.lsn)


@dataclass(frozen=True, slots=True)
class Copied:
    """The copy of a log is synced up to before a place; ``credit`` more bytes may be on their
    way. ``lacks``: it needs the sum of the journal, of which a part could not be copied.
    ``problem``: why it stands still, in words for people. ``holes``: part of it came damaged, and
    has no bytes there. ``places``: of a log of another site, how far each strand is synced; the
    place before is the least of them."""

    origin: bytes
    lsn: int
    slot: int
    credit: int
    lacks: bool = False
    problem: str = ""
    holes: bool = False
    places: tuple[StrandPlace, ...] = ()


class CopiesRow(NamedTuple):
    """A log of which the sender has a copy up to before (``lsn``, ``slot``); ``epoch``, ``taker``
    tell who hands out what its groups had not done before (``taken``, ``taken_slot``). lsn 0: the
    sender has no copy, and knows of the rest only.

    ``whole``: of all topics, whatever copies they were to have. ``forgotten``: the epoch at which
    it was given up, 0: it was not; ``lifted``: it came back since. ``furthest``,
    ``furthest_slot``: of the log of who is told, how far any copy goes that the sender has heard
    of. ``strands``, ``topics``, ``exclude``, ``since``: of a log of another site, as in
    LogOffer."""

    origin: bytes
    name: str
    lsn: int
    slot: int
    epoch: int = 0
    taker: bytes = b""
    taken: int = 0
    taken_slot: int = 0
    whole: bool = False
    forgotten: int = 0
    furthest: int = 0
    furthest_slot: int = 0
    lifted: bool = False
    strands: tuple[Strand, ...] = ()
    topics: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: int = 0


@dataclass(frozen=True, slots=True)
class Copies:
    rows: tuple[CopiesRow, ...]


class LogOffer(NamedTuple):
    """A log that another site can have from the sender: its own, or one that it mirrors, up to
    before (``lsn``, ``slot``).

    ``name`` and ``site`` are its node's. ``topics``, ``exclude``: of a mirror, what is mirrored; of
    the own log both are empty. ``path``: of a mirror, the sites by which it comes, from its own one
    to the one before the sender's; empty: it is pulled from nowhere now. ``strands``: of a mirror,
    how far each goes; ``since``: nothing is there that was stored before (unix ns, 0: all is).
    ``partial``: of a mirror, it may have less than the log's own node keeps. ``clock``: what
    time it was at the log's node when that told it (unix ns, 0: unknown)."""

    origin: bytes
    name: str
    site: str
    lsn: int
    slot: int
    topics: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    strands: tuple[Strand, ...] = ()
    since: int = 0
    partial: bool = False
    clock: int = 0


@dataclass(frozen=True, slots=True)
class LogOffers:
    """All that the sender offers."""

    rows: tuple[LogOffer, ...]


class MirroredRow(NamedTuple):
    """A site has synced a log from (``since_lsn``, ``since_slot``) on up to before (``lsn``,
    ``slot``): of topics that match each of ``claims``."""

    site: str
    claims: tuple[Claim, ...]
    since_lsn: int
    since_slot: int
    lsn: int
    slot: int


@dataclass(frozen=True, slots=True)
class Mirrored:
    """Which sites have synced the log of ``origin``, as the sender knows it: goes to the node that
    it has the log from, and so on to the log's own."""

    origin: bytes
    rows: tuple[MirroredRow, ...]


Body = frames_verify.Body | Mirrored | LogOffers | AskCopy | Fetch | Fetched | Copied | Copies
