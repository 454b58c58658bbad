"""Which records are over their topic's age or bytes.

Data: a Portion is what one segment holds of one stream; SegmentInfo is one segment's portions.
``plan`` looks at a stream's oldest portions only, so its cost is per stream, never per record.

Rules:
1. Age takes a portion whole when its newest batch is too old.
2. Bytes take a portion whole when the ones after it still reach the bound.
3. What is left above the bound inside the oldest remaining portion is reported as a Boundary, for
   the store to cut at a batch; that is worth a look into an index only when it is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meshmq import limits

REFINE_BYTES_MIN = 1 * limits.MIB
"""An excess up to this (or a tenth of the bound, if that is less) waits for a whole portion."""


REWRITE_BYTES_MIN = 8 * limits.MIB
SHORT_BYTES_MIN = 1 * limits.MIB


class Portion(NamedTuple):
    """What one segment holds of one stream.

    Attributes:
        segment: its number.
        stream: alias of the stream.
        first_offset, next_offset: of its records; trimmed ones may be among them.
        bytes: of its batches.
        last_time_ns: append time of the newest (unix ns).
    """

    segment: int
    stream: int
    first_offset: int
    next_offset: int
    bytes: int
    last_time_ns: int


@dataclass(slots=True)
class SegmentInfo:
    """One segment: its commits (none when ``last_lsn < first_lsn``), times and portions."""

    number: int
    first_lsn: int
    last_lsn: int
    first_time_ns: int
    last_time_ns: int
    portions: dict[int, Portion] = field(default_factory=dict)


class Boundary(NamedTuple):
    """Cut ``portion`` so that at most ``keep_bytes`` of it stay (at least its newest batch)."""

    portion: Portion
    keep_bytes: int


class StreamPlan(NamedTuple):
    """New first offset of a stream (not less than the old one), and where to look closer."""

    first_offset: int
    boundary: Boundary | None


def live_bytes(portion: Portion, first_offset: int) -> int:
    """About how many bytes of ``portion`` belong to records from ``first_offset`` on.

    Exact for a portion that is whole or gone; in between, records count as equally large.
    """
    if first_offset <= portion.first_offset:
        return portion.bytes
    if first_offset >= portion.next_offset:
        return 0
    records = portion.next_offset - portion.first_offset
    return portion.bytes * (portion.next_offset - first_offset) // records


def plan(
    portions: Sequence[Portion],
    first_offset: int,
    retention_ns: int,
    retention_bytes: int,
    now_ns: int,
) -> StreamPlan:
    """Decide for one stream.

    Args:
        portions: of this stream, oldest first.
        first_offset: what is kept from now.
        retention_ns: age bound, 0 for none.
        retention_bytes: bound on the batches' bytes, 0 for none.
        now_ns: unix ns.
    """
    at = 0
    while at < len(portions) and portions[at].next_offset <= first_offset:
        at += 1
    if retention_ns > 0:
        while at < len(portions) and portions[at].last_time_ns < now_ns - retention_ns:
            first_offset = portions[at].next_offset
            at += 1
    boundary = None
    if retention_bytes > 0 and at < len(portions):
        sizes = [live_bytes(portion, first_offset) for portion in portions[at:]]
        total = sum(sizes)
        for size in sizes[:-1]:
            if total - size < retention_bytes:
                break
            total -= size
            first_offset = portions[at].next_offset
            at += 1
        excess = total - retention_bytes
        if excess > min(REFINE_BYTES_MIN, retention_bytes // 10):
            later = total - live_bytes(portions[at], first_offset)
            boundary = Boundary(portions[at], retention_bytes - later)
    return StreamPlan(first_offset, boundary)


def is_dead(info: SegmentInfo, first_offsets: dict[int, int]) -> bool:
    """Whether no record of ``info`` is kept; a stream not in ``first_offsets`` was deleted."""
    for stream, portion in info.portions.items():
        kept_from = first_offsets.get(stream)
        if kept_from is not None and kept_from < portion.next_offset:
            return False
    return True


def held_bytes(info: SegmentInfo) -> int:
    """Bytes of all batches of a segment."""
    return sum([portion.bytes for portion in info.portions.values()])


def living_bytes(info: SegmentInfo, first_offsets: dict[int, int]) -> int:
    """About how many bytes of a segment belong to records that are kept."""
    total = 0
    for stream, portion in info.portions.items():
        kept_from = first_offsets.get(stream)
        if kept_from is not None:
            total += live_bytes(portion, kept_from)
    return total


def worth_rewriting(size: int, living: int, is_short: bool) -> bool:
    """Whether a segment of ``size`` bytes of which ``living`` are kept should be copied without
    the rest: when three quarters are dead, or one quarter where the disk ``is_short`` of room."""
    if is_short:
        return size >= SHORT_BYTES_MIN and living * 4 <= size * 3
    return size >= REWRITE_BYTES_MIN and living * 4 <= size


def due_to_roll(first_time_ns: int, size: int, shortest_ns: int, now_ns: int) -> bool:
    """Whether the active segment should be closed so that age can free it as a whole.

    Args:
        first_time_ns: append time of its oldest commit.
        size: bytes of its batches; a tiny segment is not worth closing.
        shortest_ns: shortest age bound among its streams, 0 if none has one.
        now_ns: unix ns.
    """
    if not shortest_ns or size < REFINE_BYTES_MIN:
        return False
    return now_ns - first_time_ns > max(shortest_ns // 4, 10 * limits.SECOND)
