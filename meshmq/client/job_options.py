"""When and how a job is to be done: what ``enqueue`` takes, checked; the same for both clients."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import NamedTuple

from meshmq import limits
from meshmq.client.group_settings import duration_ns, time_ns
from meshmq.errors import InvalidArgument
from meshmq.names import lane_of

PLAIN = (0, 0, 0, b"")


class JobWish(NamedTuple):
    """Where a job goes and with what.

    Attributes:
        topic: the queue's lane for it.
        options: codec.JobOptions as a plain tuple, or None where it has none.
        alone: it shares its batch with no other job.
    """

    topic: str
    options: tuple[int, int, int, bytes] | None
    alone: bool


def wish_of(
    queue: str,
    delay: float | str | None,
    at: datetime | None,
    priority: int,
    ttl: float | str | None,
    dedup_id: str | None,
    now_ns: int,
) -> JobWish:
    """Check what ``enqueue`` was asked for at unix time ``now_ns``; raises InvalidArgument."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not (
        0 <= priority <= limits.PRIORITY_MAX
    ):  # fmt: skip
        raise InvalidArgument(f"priority is 0..{limits.PRIORITY_MAX}, not {priority!r}")
    due_ms = due_of(delay, at, now_ns)
    expires_ms = 0
    if ttl is not None:
        lives_ns = duration_ns(ttl)
        if not 0 < lives_ns <= limits.DELAY_NS_MAX:
            raise InvalidArgument(f"ttl is above 0 and at most 365 days, not {ttl!r}")
        expires_ms = _up_to_ms(max(now_ns, due_ms * limits.MS) + lives_ns)
    dedup = b""
    if dedup_id is not None:
        if not isinstance(dedup_id, str) or not dedup_id:
            raise InvalidArgument(f"dedup_id is a text that is not empty, not {dedup_id!r}")
        try:
            dedup = hashlib.sha256(dedup_id.encode("utf-8", "surrogateescape")).digest()[:16]
        except UnicodeEncodeError:
            raise InvalidArgument(f"dedup_id is no text: {dedup_id!r}") from None
    options = (due_ms, expires_ms, priority, dedup)
    topic = lane_of(queue, priority, due_ms > 0)
    return JobWish(topic, None if options == PLAIN else options, bool(dedup))


def due_of(delay: float | str | None, at: datetime | None, now_ns: int) -> int:
    """When a job is due, in unix ms and never early; 0: at once."""
    if delay is not None and at is not None:
        raise InvalidArgument("a job is due after a delay or at a time, not both")
    if delay is not None:
        due_ns = now_ns + duration_ns(delay)
    elif at is not None:
        due_ns = time_ns(at)
    else:
        return 0
    if due_ns <= now_ns:
        return 0
    if due_ns - now_ns > limits.DELAY_NS_MAX:
        raise InvalidArgument(
            f"a job is due within {limits.DELAY_NS_MAX // limits.DAY} days, "
            f"not {repr(delay) if at is None else at.isoformat()}"
        )
    return _up_to_ms(due_ns)


def _up_to_ms(ns: int) -> int:
    return -(-ns // limits.MS)
