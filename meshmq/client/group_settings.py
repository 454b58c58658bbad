"""What groups and queues can be told, checked before it travels; the same for both clients."""

from __future__ import annotations

import inspect
import json
from datetime import datetime
from typing import Any

from meshmq import limits
from meshmq.client.admin import parse_duration, parse_size
from meshmq.client.values import check_range
from meshmq.core import units
from meshmq.core.bounds import BOUNDS, out_of_range
from meshmq.errors import InvalidArgument
from meshmq.frames import Consume
from meshmq.names import check_group, check_pattern

ORDERS = ("any", "key")


def duration_ns(value: object) -> int:
    """Seconds or a text like ``"5m"``, in ns; raises InvalidArgument for anything else."""
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        try:
            return parse_duration(value)
        except (ValueError, OverflowError):  # what is no number, or endless
            pass
    raise InvalidArgument(f"{value!r} is not a duration: give seconds, or a text like '5m' or '2h'")


def time_ns(time: object) -> int:
    """An aware datetime, in unix ns."""
    if not isinstance(time, datetime):
        raise InvalidArgument(f"a time is an aware datetime, not {time!r}")
    if time.tzinfo is None:
        raise InvalidArgument("a time needs a time zone: datetime.now(timezone.utc)")
    return int(time.timestamp() * 1_000_000) * 1000


def start_of(start: object) -> Any:
    """Where a group begins, as the node reads it."""
    if start in ("earliest", "new"):
        return start
    if isinstance(start, datetime):
        return {"time_ns": time_ns(start)}
    if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        return {"offset": start}
    raise InvalidArgument(
        f"start is 'earliest', 'new', an aware datetime or an offset, not {start!r}"
    )


def settings_of(
    *,
    max_deliveries: int | None = None,
    backoff: float | str | None = None,
    backoff_max: float | str | None = None,
    max_held: int | None = None,
    rate: int | None = None,
    max_records: int | None = None,
    max_bytes: int | str | None = None,
    dedup_window: float | str | None = None,
) -> dict[str, Any]:
    """Those that are given, as the node reads them; raises InvalidArgument for one out of range."""
    found: dict[str, Any] = {}
    if max_deliveries is not None:
        found["max_deliveries"] = max_deliveries
    if max_held is not None:
        found["max_held"] = max_held
    if max_records is not None:
        found["max_records"] = max_records
    if max_bytes is not None:
        found["max_bytes"] = parse_size(max_bytes)
    if rate is not None:
        found["rate"] = rate
    for name, value in (
        ("backoff_ns", backoff), ("backoff_max_ns", backoff_max), ("dedup_ns", dedup_window),
    ):  # fmt: skip
        if value is not None:
            found[name] = duration_ns(value)
    for name, value in found.items():
        wrong = out_of_range(name, value, *BOUNDS[name])
        if wrong:
            raise InvalidArgument(wrong)
    return found


NAMES = sorted(inspect.signature(settings_of).parameters)


def named_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings_of`` for what came by name; raises InvalidArgument for a name there is not."""
    for name in settings:
        if name not in NAMES:
            raise InvalidArgument(f"there is no setting {name!r}; there are {', '.join(NAMES)}")
    return settings_of(**settings)


def _size(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise InvalidArgument(f"{name} is 1B to {units.size(most)}, not {units.size(value)}")
    return value


def group_of(
    group: str, pattern: str, order: str, start: object, settings: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of ``group.create`` for a group."""
    check_order(order)
    return {
        "group": check_group(group),
        "kind": "group",
        "pattern": check_pattern(pattern),
        "order": order,
        "start": start_of(start),
        **settings,
    }


def queue_of(queue: str, order: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``group.create`` for a queue; ``order`` None: as it is, or ``any``."""
    created: dict[str, Any] = {"group": check_group(queue, "queue"), "kind": "queue"}
    if order is not None:
        created["order"] = check_order(order)
    return {**created, **settings}


def check_order(order: str) -> str:
    """Return ``order`` if it is one."""
    if order not in ORDERS:
        raise InvalidArgument(f"order is 'any' or 'key', not {order!r}")
    return order


def to_consume(
    create: dict[str, Any], ack_timeout: float | str, prefetch: int, prefetch_bytes: int | str
) -> Consume:
    """The frame that joins, but for its number, from arguments of ``group.create``."""
    timeout_ns = duration_ns(ack_timeout)
    if not limits.ACK_TIMEOUT_NS_MIN <= timeout_ns <= limits.ACK_TIMEOUT_NS_MAX:
        raise InvalidArgument(f"ack_timeout is 0.1 s to a day, not {ack_timeout!r}")
    records = check_range("prefetch", prefetch, 1, limits.PREFETCH_RECORDS_MAX)
    size = _size("prefetch_bytes", parse_size(prefetch_bytes), limits.PREFETCH_BYTES_MAX)
    name = create["group"]
    return Consume(
        0, name, create.get("pattern", name), json.dumps(create).encode(), records, size, timeout_ns
    )
