"""What a log keeps of takeovers between sites: whose work it is, and where the taker put it.

Data: a SiteTaken for each log that another site was ever given, the newest by (epoch, site, node).
Of records that its taker moved into its own log a MovedEntry says where they are: so it is known
what of them is left, and what can be handed back.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import NamedTuple

from meshmq.frames_site_words import HandedRun, SiteTaken, TakenRange

_RUN = struct.Struct("<IQIIQ")
_MOVED_HEAD = struct.Struct("<16s?H")


class MovedRun(NamedTuple):
    """Records of ``stream`` of another log lie in ``to`` of this one, from ``at`` on."""

    stream: int
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    to: int
    at: int


class MovedEntry(NamedTuple):
    """Where records of a group of ``origin`` were put. ``begins``: nothing that was said of it
    before counts any more."""

    origin: bytes
    group: str
    runs: tuple[MovedRun, ...]
    begins: bool = False


def pack_taken(row: SiteTaken) -> bytes:
    """All but the origin."""
    said = row[1:]
    return json.dumps([v.hex() if isinstance(v, bytes) else v for v in said]).encode()


def unpack_taken(origin: bytes, data: bytes) -> SiteTaken:
    """Read back ``pack_taken``; ValueError or TypeError if it is malformed."""
    try:
        name, site, epoch, by, taker, groups, ranges, over, back, moved, part, pending = json.loads(
            data
        )
    except RecursionError:
        raise ValueError("what is said of a takeover is nested too deep") from None
    return SiteTaken(
        origin, str(name), str(site), int(epoch), str(by), bytes.fromhex(taker),
        tuple([int(g) for g in groups]), tuple([TakenRange(*map(int, r)) for r in ranges]),
        bool(over), bool(back), bool(moved), int(part),
        tuple([HandedRun(str(group), *map(int, rest)) for group, *rest in pending]),
    )  # fmt: skip


def pack_moved(row: MovedEntry) -> bytes:
    """The whole entry."""
    name = row.group.encode()
    runs = [_RUN.pack(*run) for run in row.runs]
    return _MOVED_HEAD.pack(row.origin, row.begins, len(name)) + name + b"".join(runs)


def unpack_moved(data: bytes) -> MovedEntry:
    """Read back ``pack_moved``; struct.error or ValueError if it is malformed."""
    origin, begins, size = _MOVED_HEAD.unpack_from(data)
    at = _MOVED_HEAD.size + size
    name = data[_MOVED_HEAD.size : at].decode()
    return MovedEntry(origin, name, tuple(map(MovedRun._make, _RUN.iter_unpack(data[at:]))), begins)


def note_moved(known: dict[tuple[bytes, str], list[MovedRun]], said: MovedEntry) -> None:
    """Keep what an entry says, by (origin, group)."""
    if said.begins:
        for key in [key for key in known if key[0] == said.origin]:
            del known[key]
    if said.runs:
        known.setdefault((said.origin, said.group), []).extend(said.runs)


def runs_to(stream: int, offsets: Sequence[int], to: int, at: int) -> tuple[MovedRun, ...]:
    """Where ``offsets`` are that were put one behind the other from ``at`` on."""
    found: list[MovedRun] = []
    for i, offset in enumerate(offsets):
        if found and found[-1].first + found[-1].count == offset:
            found[-1] = found[-1]._replace(count=found[-1].count + 1)
        else:
            found.append(MovedRun(stream, offset, 1, to, at + i))
    return tuple(found)
