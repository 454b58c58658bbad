"""What ``subscribe`` is asked for, checked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from meshmq import limits
from meshmq.client.subscription import Wish
from meshmq.client.values import INT64_END, check_range, to_ns
from meshmq.core.subscriber import Start
from meshmq.errors import InvalidArgument
from meshmq.frames import (
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_POSITION,
    START_TIME,
    Place,
)
from meshmq.names import Position, check_pattern, is_position

SCOPES = ("site", "all")
"""Whose logs are read: those of the node's site, or also what is mirrored there of other sites."""


def to_wish(
    pattern: str,
    start: object,
    prefetch_bytes: int,
    prefetch_records: int,
    on_missed: Callable[[int], None] | None,
    dedup: object = False,
    scope: object = "all",
) -> Wish:
    """Check what ``subscribe`` was asked for."""
    check_pattern(pattern)
    check_range("prefetch_bytes", prefetch_bytes, 1, limits.CREDIT_BYTES_MAX)
    check_range("prefetch_records", prefetch_records, 1, limits.CREDIT_RECORDS_MAX)
    if on_missed is not None and not callable(on_missed):
        raise InvalidArgument(f"on_missed is a function of a number, not {on_missed!r}")
    if not isinstance(dedup, bool):
        raise InvalidArgument(f"dedup is True or False, not {dedup!r}")
    if scope not in SCOPES:
        raise InvalidArgument(f"scope is {' or '.join(map(repr, SCOPES))}, not {scope!r}")
    window = (prefetch_bytes, prefetch_records)
    own_site = scope == SCOPES[0]
    return Wish(pattern, _to_start(start), *window, on_missed, dedup=dedup, own_site=own_site)


def _to_start(start: object) -> Start:
    if isinstance(start, str):
        if start == "new":
            return Start(START_NEW)
        if start == "earliest":
            return Start(START_EARLIEST)
        if is_position(start):
            start = Position.parse(start)
    if isinstance(start, Position):
        origin = bytes.fromhex(start.origin)
        rows = [Place(bytes.fromhex(o), lsn, slot, skip) for o, lsn, slot, skip in start.others]
        others = tuple(rows)
        return Start(
            START_POSITION, start.since, origin, start.lsn, start.slot, start.index + 1, others
        )
    if isinstance(start, datetime):
        return Start(START_TIME, to_ns(start))
    if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        if start >= INT64_END:
            raise InvalidArgument(f"offset {start} is larger than any there can be")
        return Start(START_OFFSET, start)
    raise InvalidArgument(
        f"start is 'new', 'earliest', an aware datetime, a position (msg.position) or an offset, "
        f"not {start!r}"
    )
