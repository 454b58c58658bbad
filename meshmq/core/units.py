"""Durations and sizes in words, as people write them in settings."""

from __future__ import annotations

from meshmq import limits

_DURATIONS = (
    ("d", limits.DAY), ("h", 3600 * limits.SECOND), ("m", 60 * limits.SECOND),
    ("s", limits.SECOND), ("ms", limits.MS),
)  # fmt: skip
_SIZES = (
    ("TiB", 1 << 40), ("TB", 10**12), ("GiB", 1 << 30), ("GB", 10**9), ("MiB", 1 << 20),
    ("MB", 10**6), ("KiB", 1 << 10), ("kB", 1000), ("B", 1),
)  # fmt: skip


def duration(ns: int) -> str:
    """``7d``, ``90m``, ``1.5s``: the largest unit of which it is a whole number, else seconds."""
    for name, unit in _DURATIONS:
        if ns and ns % unit == 0:
            return f"{ns // unit}{name}"
    return f"{ns / limits.SECOND:.9f}".rstrip("0").rstrip(".") + "s"


def size(count: int) -> str:
    """``64MiB``, ``100kB``, ``1234B``: the shortest in a unit of which it is a whole number."""
    units = [(count // unit, name) for name, unit in _SIZES if count % unit == 0] if count else []
    return "{}{}".format(*min(units)) if units else "0B"
