"""What a log keeps of other nodes' logs: how far each is copied, and where each batch was there.

Data: a copied batch is a batch of this log like any other, in a stream of this log's own numbering
whose topic names the origin. Beside it the commit says which place it has in its own log
(``Copied``), and how far that log is copied with this commit (``MirrorEntry``): so what is copied
and the position are there together, or not at all. A MirrorState is the sum for one origin.

Rules:
1. Batches of one origin lie here in the order they have there; of a log of another site those of
   each strand do. A topic that comes by another strand than before has another stream here from
   then on, which begins where the one before ends.
2. Deltas of an origin's groups name streams by its own numbers (``streams`` maps them).

Numbers are packed little-endian; ``pack`` and ``unpack`` are each other's inverse.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from meshmq import limits
from meshmq.core.copied_journal import CopiedJournal
from meshmq.core.journal import (
    Delta,
    pack_deltas,
    pack_state,
    unpack_deltas,
    unpack_state,
)
from meshmq.core.site_taken import (
    MovedEntry,
    pack_moved,
    pack_taken,
    unpack_moved,
    unpack_taken,
)
from meshmq.errors import BadFrame
from meshmq.frames_copies import Claim, Strand
from meshmq.frames_site_words import SiteTaken

_COPIED, _MIRROR, _TAKEOVER, _TAKEN, _BEHIND, _FORGOTTEN, _LINKED, _STRANDS, _GONE_ON = range(9)
_SITE_TAKEN, _MOVED = 16, 17
_DROPPED, _LACKS, _HOLES = 1, 2, 4
_HEAD = struct.Struct("<BI")
_PLACE = struct.Struct("<IQIq")
_MIRROR_ROW = struct.Struct("<16sQIBH")
_TAKEOVER_ROW = struct.Struct("<16sQ16sQIQI?")
_BEHIND_ROW = struct.Struct("<16sQIQ")
_FORGOTTEN_ROW = struct.Struct("<16sQ?")
_GONE_ON_ROW = struct.Struct("<16sHQI")
_STATE_HEAD = struct.Struct("<16sQIHII")
_STATE_OWN = struct.Struct("<Q")
_STATE_PART = struct.Struct("<I")  # bytes of what follows
_STATE_LACKS, _STATE_HAS_OWN, _STATE_HOLES, _STATE_HAS_TAKEN, _STATE_LINKED = 1, 2, 4, 8, 16
_STATE_STRANDS = 32


BEHIND_ALL = (1 << 62, 0)
"""Behind all places of a log."""


class Copied(NamedTuple):
    """Batch ``index`` of a commit is that of ``origin`` at (``lsn``, ``slot``) of its log."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    origin: bytes
    lsn: int
    slot: int
    append_time_ns: int


class MirrorEntry(NamedTuple):
    """The log of ``origin`` is copied up to before (``lsn``, ``slot``). ``name`` is its node's.
    ``dropped``: nothing of it is kept any more. ``lacks``: part of its journal is not here.
    ``holes``: part of it came damaged, and has no bytes here."""

    origin: bytes
    name: str
    lsn: int
    slot: int
    dropped: bool = False
    lacks: bool = False
    holes: bool = False


class TakeoverEntry(NamedTuple):
    """What the groups of ``origin`` had not done before (``lsn``, ``slot``) of its log is
    ``taker``'s to hand out; the greatest ``epoch`` counts, of two equal ones the greater taker.
    Only the taker knows that it took nothing before (``since_lsn``, ``since_slot``), which was
    another one's, and that all of it ``is_moved`` into its own log."""

    origin: bytes
    epoch: int
    taker: bytes
    lsn: int
    slot: int
    since_lsn: int = 0
    since_slot: int = 0
    is_moved: bool = False

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.epoch, self.taker


class TakenEntry(NamedTuple):
    """Records of a group of ``origin`` were put into this node's own: those that are settled in
    ``taken``."""

    origin: bytes
    taken: Delta


class BehindEntry(NamedTuple):
    """The node's own log, of ``origin``, is an older state of its disk: ``name`` told that a copy
    of it goes as far as (``lsn``, ``slot``). From commit ``began`` on, the first one after that was
    put back, it is not the log of that name."""

    origin: bytes
    lsn: int
    slot: int
    began: int
    name: str


class ForgottenEntry(NamedTuple):
    """The node ``name`` with the log ``origin`` does not come back; the greatest ``epoch`` counts.
    ``lifted``: it did."""

    origin: bytes
    epoch: int
    name: str
    lifted: bool = False


class SiteRetention(NamedTuple):
    """What a site keeps of a mirror by its own word, given at the link with a site: as a topic's
    policy does, of each topic of each log, 0: no bound. What its node trims is kept here."""

    to: str
    retention_ns: int
    retention_bytes: int


class LinkedEntry(NamedTuple):
    """The log of ``origin`` is that of a node of another ``site``; of its topics those are mirrored
    that match one of ``topics`` and none of ``exclude``, those that match ``priority`` first.
    ``since``: nothing that was stored before, unix ns; 0: all. ``retention``: None: as its node.
    ``partial``: something was passed over, or trimmed, that its node may keep. ``whole``: from this
    place on, up to those of the strands, all is here; (0, 0): from the beginning, or with ``since``
    it is not known."""

    origin: bytes
    site: str
    topics: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    priority: tuple[str, ...] = ()
    since: int = 0
    retention: SiteRetention | None = None
    partial: bool = False
    whole: tuple[int, int] = (0, 0)

    @property
    def begins_at(self) -> int:
        """Before which time nothing is mirrored, unix ns; 0: all is."""
        return self.since if self.since > limits.LINK_EVER_UNTIL_NS else 0

    @property
    def is_partial(self) -> bool:
        """Whether less may be here than its node keeps."""
        return self.retention is not None or self.partial

    @property
    def claim(self) -> Claim:
        """What is mirrored."""
        return self.topics, self.exclude


class StrandsEntry(NamedTuple):
    """The strands by which the log of ``origin`` is pulled from now on, in place of those before:
    streams of these stay as they are."""

    origin: bytes
    strands: tuple[Strand, ...]


class StrandEntry(NamedTuple):
    """A strand of the log of ``origin`` has come up to before (``lsn``, ``slot``)."""

    origin: bytes
    number: int
    lsn: int
    slot: int


Said = (
    LinkedEntry | Copied | MirrorEntry | TakeoverEntry | TakenEntry | BehindEntry | ForgottenEntry
    | SiteTaken | MovedEntry | StrandsEntry | StrandEntry
)  # fmt: skip


@dataclass(slots=True)
class MirrorState:
    """What is copied of one log.

    Attributes:
        name: of its node.
        lsn, slot: the next place.
        streams: number of a stream here to its number there; several can be of one there.
        journal: what its groups have done, as far as that is copied, and what was taken over.
        lacks: it was trimmed or damaged before it could be copied, and its sum has not come yet.
        own_until: batches of its streams in commits before this one are at the places where they
            lie: this log was its own then (shell/store_renew.py).
        holes: part of it came damaged, and has no bytes here.
        linked: of a log of another site, which, and what of it. strands: those it is pulled by, in
            their order; ``lsn``, ``slot`` are the least of their places.
    """

    name: str = ""
    lsn: int = 1
    slot: int = 0
    streams: dict[int, int] = field(default_factory=dict)
    journal: CopiedJournal = field(default_factory=CopiedJournal)
    lacks: bool = False
    own_until: int = 0
    holes: bool = False
    linked: LinkedEntry | None = None
    strands: dict[int, Strand] = field(default_factory=dict)

    @property
    def end(self) -> tuple[int, int]:
        """Before which place all lies that is here."""
        return max([s.place for s in self.strands.values()], default=(self.lsn, self.slot))

    def go_on(self, number: int, lsn: int, slot: int) -> None:
        """A strand has come further."""
        if number in self.strands:
            self.strands[number] = self.strands[number]._replace(lsn=lsn, slot=slot)
            self.lsn, self.slot = least(self.strands.values())


def least(strands: Iterable[Strand]) -> tuple[int, int]:
    """The place before which all of them have come; of none: the beginning."""
    return min([strand.place for strand in strands], default=(1, 0))


def pack(rows: Sequence[Said]) -> bytes:
    """What one commit says."""
    parts: list[bytes] = []
    copied = [row for row in rows if isinstance(row, Copied)]
    for origin, some in groupby(copied, attrgetter("origin")):
        places = [_PLACE.pack(c.index, c.lsn, c.slot, c.append_time_ns) for c in some]
        parts += [_HEAD.pack(_COPIED, 16 + len(places) * _PLACE.size), origin, *places]
    for row in rows:
        if isinstance(row, MirrorEntry):
            name = row.name.encode()
            parts.append(_HEAD.pack(_MIRROR, _MIRROR_ROW.size + len(name)))
            flags = _DROPPED * row.dropped | _LACKS * row.lacks | _HOLES * row.holes
            parts.append(_MIRROR_ROW.pack(row.origin, row.lsn, row.slot, flags, len(name)))
            parts.append(name)
        elif isinstance(row, TakeoverEntry):
            parts.append(_HEAD.pack(_TAKEOVER, _TAKEOVER_ROW.size) + _TAKEOVER_ROW.pack(*row))
        elif isinstance(row, TakenEntry):
            delta = pack_deltas([row.taken])
            parts += [_HEAD.pack(_TAKEN, 16 + len(delta)), row.origin, delta]
        elif isinstance(row, BehindEntry):
            body = _BEHIND_ROW.pack(*row[:4]) + row.name.encode()
            parts += [_HEAD.pack(_BEHIND, len(body)), body]
        elif isinstance(row, ForgottenEntry):
            body = _FORGOTTEN_ROW.pack(row.origin, row.epoch, row.lifted) + row.name.encode()
            parts += [_HEAD.pack(_FORGOTTEN, len(body)), body]
        elif isinstance(row, LinkedEntry):
            body = row.origin + _pack_linked(row)
            parts += [_HEAD.pack(_LINKED, len(body)), body]
        elif isinstance(row, SiteTaken):
            body = row.origin + pack_taken(row)
            parts += [_HEAD.pack(_SITE_TAKEN, len(body)), body]
        elif isinstance(row, MovedEntry):
            body = pack_moved(row)
            parts += [_HEAD.pack(_MOVED, len(body)), body]
        elif isinstance(row, StrandsEntry):
            body = row.origin + _pack_strands(row.strands)
            parts += [_HEAD.pack(_STRANDS, len(body)), body]
        elif isinstance(row, StrandEntry):
            parts.append(_HEAD.pack(_GONE_ON, _GONE_ON_ROW.size) + _GONE_ON_ROW.pack(*row))
    return b"".join(parts)


def unpack(data: bytes) -> tuple[Said, ...]:
    """Read back ``pack``; raise BadFrame if it is malformed."""
    found: list[Said] = []
    at = 0
    try:
        while at < len(data):
            kind, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            row = data[at : at + size]
            if len(row) != size:
                raise BadFrame("what a commit says of copies ends early")
            at += size
            found += _unpack_row(kind, row)
    except (struct.error, ValueError, TypeError) as error:
        raise BadFrame(f"malformed words on copies: {error}") from None
    return tuple(found)


def _pack_linked(row: LinkedEntry) -> bytes:
    is_more = row.is_partial or row.whole > (0, 0)
    return json.dumps(row[1:] if is_more else row[1:-3]).encode()


def _unpack_linked(origin: bytes, data: bytes) -> LinkedEntry:
    match _loaded(data):
        case [str(site), [*topics], [*exclude], [*priority], int(since), *more]:
            if since >= 0:
                wish = _texts(topics), _texts(exclude), _texts(priority)
                return LinkedEntry(origin, site, *wish, since, *_unpack_more(more))
    raise ValueError("what is said of a link is no site and patterns")


def _unpack_more(more: list[object]) -> tuple[SiteRetention | None, bool, tuple[int, int]]:
    match more:
        case []:
            return None, False, (0, 0)
        case [None, bool(partial), [int(lsn), int(slot)]] if min(lsn, slot) >= 0:
            return None, partial, (lsn, slot)
        case [[str(to), int(age_ns), int(size)], bool(partial), [int(lsn), int(slot)]]:
            if min(age_ns, size, lsn, slot) >= 0:
                return SiteRetention(to, age_ns, size), partial, (lsn, slot)
    raise ValueError("what is kept of a link's logs is no site, age and bytes")


def _pack_strands(strands: Iterable[Strand]) -> bytes:
    return json.dumps(list(strands)).encode()


def _unpack_strands(data: bytes) -> tuple[Strand, ...]:
    said = _loaded(data)
    if not isinstance(said, list):
        raise ValueError("strands of a log are a list")
    return tuple([_unpack_strand(row) for row in said])


def _unpack_strand(said: object) -> Strand:
    match said:
        case [int(number), int(rank), int(lsn), int(slot), [*rows]]:
            if min(number, rank, lsn, slot) >= 0:
                return Strand(number, rank, lsn, slot, tuple([_unpack_claim(row) for row in rows]))
    raise ValueError("what is said of a strand is no place and claims")


def _unpack_claim(said: object) -> Claim:
    match said:
        case [[*topics], [*exclude]]:
            return _texts(topics), _texts(exclude)
    raise ValueError("a claim of a strand is no patterns")


def _texts(rows: list[object]) -> tuple[str, ...]:
    texts = tuple([row for row in rows if isinstance(row, str)])
    if len(texts) != len(rows):
        raise ValueError("a pattern of a link is no text")
    return texts


def _loaded(data: bytes) -> object:
    try:
        found: object = json.loads(data)
    except RecursionError:
        raise ValueError("what is said of a link is nested too deep") from None
    return found


def _unpack_row(kind: int, row: bytes) -> Iterable[Said]:
    if kind == _COPIED:
        origin = row[:16]
        for index, lsn, slot, time_ns in _PLACE.iter_unpack(row[16:]):
            yield Copied(index, origin, lsn, slot, time_ns)
    elif kind == _MIRROR:
        origin, lsn, slot, flags, size = _MIRROR_ROW.unpack_from(row)
        name = row[_MIRROR_ROW.size : _MIRROR_ROW.size + size].decode()
        is_set = [bool(flags & flag) for flag in (_DROPPED, _LACKS, _HOLES)]
        yield MirrorEntry(origin, name, lsn, slot, *is_set)
    elif kind == _TAKEOVER:
        yield TakeoverEntry(*_TAKEOVER_ROW.unpack(row.ljust(_TAKEOVER_ROW.size, b"\0")))
    elif kind == _TAKEN:
        for record in unpack_deltas(row[16:]):
            if not isinstance(record, Delta):
                raise ValueError("what was taken over is not a group's")
            yield TakenEntry(row[:16], record)
    elif kind == _BEHIND:
        origin, lsn, slot, began = _BEHIND_ROW.unpack_from(row)
        yield BehindEntry(origin, lsn, slot, began, row[_BEHIND_ROW.size :].decode())
    elif kind == _FORGOTTEN:
        origin, epoch, lifted = _FORGOTTEN_ROW.unpack_from(row)
        yield ForgottenEntry(origin, epoch, row[_FORGOTTEN_ROW.size :].decode(), lifted)
    elif kind == _LINKED:
        yield _unpack_linked(row[:16], row[16:])
    elif kind == _SITE_TAKEN:
        yield unpack_taken(row[:16], row[16:])
    elif kind == _MOVED:
        yield unpack_moved(row)
    elif kind == _STRANDS:
        yield StrandsEntry(row[:16], _unpack_strands(row[16:]))
    elif kind == _GONE_ON:
        yield StrandEntry(*_GONE_ON_ROW.unpack(row))


def pack_mirrors(mirrors: Mapping[bytes, MirrorState]) -> bytes:
    """All there are but their streams, for a segment's snapshot."""
    parts: list[bytes] = []
    for origin, mirror in mirrors.items():
        name, journal = mirror.name.encode(), pack_state(mirror.journal)
        flags = _STATE_LACKS * mirror.lacks | _STATE_HOLES * mirror.holes
        flags |= _STATE_HAS_OWN * bool(mirror.own_until)
        flags |= _STATE_HAS_TAKEN * bool(mirror.journal.taken.groups)
        flags |= _STATE_LINKED * (mirror.linked is not None)
        flags |= _STATE_STRANDS * bool(mirror.strands)
        head = (origin, mirror.lsn, mirror.slot, len(name), len(journal), flags)
        own = _STATE_OWN.pack(mirror.own_until) if mirror.own_until else b""
        parts += [_STATE_HEAD.pack(*head), own, name, journal]
        if mirror.journal.taken.groups:
            taken = pack_state(mirror.journal.taken)
            parts += [_STATE_PART.pack(len(taken)), taken]
        if mirror.linked is not None:
            linked = _pack_linked(mirror.linked)
            parts += [_STATE_PART.pack(len(linked)), linked]
        if mirror.strands:
            strands = _pack_strands(mirror.strands.values())
            parts += [_STATE_PART.pack(len(strands)), strands]
    return b"".join(parts)


def unpack_mirrors(data: bytes) -> dict[bytes, MirrorState]:
    """Read back ``pack_mirrors``; struct.error or ValueError if it is malformed."""
    mirrors: dict[bytes, MirrorState] = {}
    at = 0
    while at < len(data):
        origin, lsn, slot, size, journal, flags = _STATE_HEAD.unpack_from(data, at)
        at += _STATE_HEAD.size
        own = 0
        if flags & _STATE_HAS_OWN:
            (own,) = _STATE_OWN.unpack_from(data, at)
            at += _STATE_OWN.size
        if at + size + journal > len(data):
            raise struct.error("a mirror ends early")
        name = data[at : at + size].decode()
        at += size
        state = CopiedJournal.of(unpack_state(data[at : at + journal]))
        at += journal
        if flags & _STATE_HAS_TAKEN:
            taken, at = _part(data, at)
            state.taken = unpack_state(taken)
        linked = None
        if flags & _STATE_LINKED:
            said, at = _part(data, at)
            linked = _unpack_linked(origin, said)
        strands: tuple[Strand, ...] = ()
        if flags & _STATE_STRANDS:
            said, at = _part(data, at)
            strands = _unpack_strands(said)
        lacks, holes = bool(flags & _STATE_LACKS), bool(flags & _STATE_HOLES)
        mirrors[origin] = MirrorState(
            name, lsn, slot, journal=state, lacks=lacks, own_until=own, holes=holes, linked=linked,
            strands={strand.number: strand for strand in strands},
        )  # fmt: skip
    return mirrors


def _part(data: bytes, at: int) -> tuple[bytes, int]:
    """What follows its length, and where that ends."""
    (size,) = _STATE_PART.unpack_from(data, at)
    begin = at + _STATE_PART.size
    if begin + size > len(data):
        raise struct.error("part of a mirror ends early")
    return data[begin : begin + size], begin + size
