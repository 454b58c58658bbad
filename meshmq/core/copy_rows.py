"""What a node tells its siblings of the logs that it has copies of, and what that says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from meshmq import limits
from meshmq.core.claims import has_all
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_log import ForgottenEntry, TakeoverEntry
from meshmq.core.mirrors import Mirrors
from meshmq.core.strands import have_more
from meshmq.frames_copies import CopiesRow


def told_rows(
    mirrors: Mirrors,
    takeovers: Mapping[bytes, TakeoverEntry],
    forgotten: Mapping[bytes, ForgottenEntry],
    names: Mapping[bytes, str],
    furthest: Mapping[bytes, tuple[int, int]],
) -> tuple[CopiesRow, ...]:
    """All of it; ``furthest`` is of the one log whose node is told, and stands first."""
    rows = {m.origin: _row_of(m) for m in mirrors.by_origin.values()}
    for origin, taken in takeovers.items():
        row = rows.get(origin) or CopiesRow(origin, names.get(origin, ""), 0, 0)
        rows[origin] = row._replace(
            epoch=taken.epoch, taker=taken.taker, taken=taken.lsn, taken_slot=taken.slot
        )
    for origin, gone in forgotten.items():
        row = rows.get(origin) or CopiesRow(origin, gone.name, 0, 0)
        rows[origin] = row._replace(forgotten=gone.epoch, lifted=gone.lifted)
    for told, (lsn, slot) in furthest.items():
        row = rows.get(told) or CopiesRow(told, "", 0, 0)
        row = row._replace(furthest=lsn, furthest_slot=slot)
        rows = {told: row, **{o: r for o, r in rows.items() if o != told}}
    return tuple(rows.values())[: limits.MIRRORS_MAX]


def _row_of(mirror: Mirror) -> CopiesRow:
    row = CopiesRow(mirror.origin, mirror.shown, *mirror.synced, whole=mirror.is_own)
    if mirror.linked is None:
        return row
    topics, exclude = mirror.linked.claim
    return row._replace(
        strands=mirror.stored, topics=topics, exclude=exclude, since=mirror.linked.since
    )


def is_ahead(row: CopiesRow, mirror: Mirror) -> bool:
    """Whether who tells it has more of a log of another site than was received here, and all that
    is wished of it."""
    assert mirror.linked is not None
    is_source = has_all((row.topics, row.exclude), mirror.linked.claim)
    is_source = is_source and row.since <= mirror.linked.since
    return is_source and have_more(row.strands, tuple(mirror.strands.values()))


def reach(row: CopiesRow) -> tuple[tuple[int, int], bool]:
    """How far a copy goes, and whether it has all topics."""
    return (row.lsn, row.slot), row.whole


def weight(log: bytes, node: bytes) -> bytes:
    """Of the nodes that may have a log those are to that have the greatest; both by their origins:
    one that comes or goes changes the choice only where it is among the first."""
    return hashlib.blake2b(log + node, digest_size=8).digest()
