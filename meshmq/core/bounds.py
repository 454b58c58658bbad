"""What settings of groups and queues may be, and what is said of those that are not."""

from __future__ import annotations

from typing import Any

from meshmq import limits
from meshmq.core import units

BOUNDS: dict[str, tuple[int, int]] = {
    "max_deliveries": (1, limits.MAX_DELIVERIES_MAX),
    "backoff_ns": (0, limits.DELAY_NS_MAX),
    "backoff_max_ns": (0, limits.DELAY_NS_MAX),
    "max_held": (1, 10 * limits.MAX_HELD_DEFAULT),
    "rate": (0, 1_000_000_000),
    "max_records": (0, 1 << 53),
    "max_bytes": (0, 1 << 53),
    "dedup_ns": (0, limits.DEDUP_NS_MAX),
}
"""Settings that are numbers, and what they may be."""

CALLED = {
    "backoff_ns": "backoff", "backoff_max_ns": "backoff max", "dedup_ns": "dedup window",
    "max_bytes": "max bytes",
}  # fmt: skip
"""Those that people write with a unit."""


def out_of_range(name: str, value: Any, low: int, high: int) -> str:
    """What is wrong with a setting, in the units people write; empty: nothing."""
    if isinstance(value, int) and not isinstance(value, bool):
        if low <= value <= high:
            return ""
        if name in CALLED and value > high:
            say = units.duration if name.endswith("_ns") else units.size
            return f"{CALLED[name]} is at most {say(high)}, not {say(value)}"
    return f"{name} is a number from {low} to {high}, not {value!r}"
