"""What a log keeps of other nodes' logs: how far each is copied, and where each batch was there.

Data: a copied batch is a batch of this log like any other, in a stream of this log's own numbering
whose topic names the origin. Beside it the commit says which place it has in its own log
(``Copied``), and how far that log is copied with this commit (``MirrorEntry``): so what is copied
and the position are there together, or not at all. A MirrorState is the sum for one origin.

Rules:
1. Batches of one origin lie here in the order they have there.
2. Deltas of an origin's groups name streams by its own numbers (``streams`` maps them).

Numbers are packed little-endian; ``pack`` and ``unpack`` are each other's inverse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from meshmq.core.journal import (
    JournalRecord,
    JournalState,
    pack_deltas,
    pack_state,
    unpack_deltas,
    unpack_state,
)
from meshmq.errors import BadFrame

_COPIED, _MIRROR, _TAKEOVER, _TAKEN = range(4)
_HEAD = struct.Struct("<BI")
_PLACE = struct.Struct("<IQIq")
_MIRROR_ROW = struct.Struct("<16sQIBH")
_TAKEOVER_ROW = struct.Struct("<16sQ16sQI")
_STATE_HEAD = struct.Struct("<16sQIHII")


class Copied(NamedTuple):
    """Batch ``index`` of a commit is that of ``origin`` at (``lsn``, ``slot``) of its log."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    origin: bytes
    lsn: int
    slot: int
    append_time_ns: int


class MirrorEntry(NamedTuple):
    """The log of ``origin`` is copied up to before (``lsn``, ``slot``). ``name`` is its node's.
    ``dropped``: nothing of it is kept any more."""

    origin: bytes
    name: str
    lsn: int
    slot: int
    dropped: bool = False


class TakeoverEntry(NamedTuple):
    """What the groups of ``origin`` had not done before (``lsn``, ``slot``) of its log is
    ``taker``'s to hand out; the greatest ``epoch`` counts, of two equal ones the greater taker."""

    origin: bytes
    epoch: int
    taker: bytes
    lsn: int
    slot: int

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.epoch, self.taker


class TakenEntry(NamedTuple):
    """Records of the groups of ``origin`` were put into this node's own: for the copy's journal
    they are done."""

    origin: bytes
    records: tuple[JournalRecord, ...]


Said = Copied | MirrorEntry | TakeoverEntry | TakenEntry


@dataclass(slots=True)
class MirrorState:
    """What is copied of one log.

    Attributes:
        name: of its node.
        lsn, slot: the next place.
        streams: number of a stream there to its number here.
        journal: what its groups have done, as far as that is copied.
    """

    name: str = ""
    lsn: int = 1
    slot: int = 0
    streams: dict[int, int] = field(default_factory=dict)
    journal: JournalState = field(default_factory=JournalState)


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
            parts.append(_MIRROR_ROW.pack(row.origin, row.lsn, row.slot, row.dropped, len(name)))
            parts.append(name)
        elif isinstance(row, TakeoverEntry):
            parts.append(_HEAD.pack(_TAKEOVER, _TAKEOVER_ROW.size) + _TAKEOVER_ROW.pack(*row))
        elif isinstance(row, TakenEntry):
            deltas = pack_deltas(row.records)
            parts += [_HEAD.pack(_TAKEN, 16 + len(deltas)), row.origin, deltas]
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


def _unpack_row(kind: int, row: bytes) -> Iterable[Said]:
    if kind == _COPIED:
        origin = row[:16]
        for index, lsn, slot, time_ns in _PLACE.iter_unpack(row[16:]):
            yield Copied(index, origin, lsn, slot, time_ns)
    elif kind == _MIRROR:
        origin, lsn, slot, dropped, size = _MIRROR_ROW.unpack_from(row)
        name = row[_MIRROR_ROW.size : _MIRROR_ROW.size + size].decode()
        yield MirrorEntry(origin, name, lsn, slot, bool(dropped))
    elif kind == _TAKEOVER:
        yield TakeoverEntry(*_TAKEOVER_ROW.unpack(row))
    elif kind == _TAKEN:
        yield TakenEntry(row[:16], tuple(unpack_deltas(row[16:])))


def pack_mirrors(mirrors: Mapping[bytes, MirrorState]) -> bytes:
    """All there are but their streams, for a segment's snapshot."""
    parts: list[bytes] = []
    for origin, mirror in mirrors.items():
        name, journal = mirror.name.encode(), pack_state(mirror.journal)
        head = (origin, mirror.lsn, mirror.slot, len(name), len(journal), 0)
        parts += [_STATE_HEAD.pack(*head), name, journal]
    return b"".join(parts)


def unpack_mirrors(data: bytes) -> dict[bytes, MirrorState]:
    """Read back ``pack_mirrors``; struct.error or ValueError if it is malformed."""
    mirrors: dict[bytes, MirrorState] = {}
    at = 0
    while at < len(data):
        origin, lsn, slot, size, journal, _ = _STATE_HEAD.unpack_from(data, at)
        at += _STATE_HEAD.size
        if at + size + journal > len(data):
            raise struct.error("a mirror ends early")
        name = data[at : at + size].decode()
        at += size
        state = unpack_state(data[at : at + journal])
        at += journal
        mirrors[origin] = MirrorState(name, lsn, slot, journal=state)
    return mirrors
