"""How long things took: counts in buckets that are a quarter of a power of two wide."""

from __future__ import annotations

from meshmq import limits

_BUCKETS = 4 * 44  # up to some 100 days in us


class Latencies:
    """Of the last one to two spans of LATENCY_SPAN_NS."""

    __slots__ = ("_before", "_begun_ns", "_now")

    def __init__(self, now_ns: int) -> None:
        self._now = [0] * _BUCKETS
        self._before = [0] * _BUCKETS
        self._begun_ns = now_ns

    def add(self, took_ns: int, now_ns: int) -> None:
        """Count one that took so long and has ended now."""
        self._turn(now_ns)
        us = max(0, took_ns) // 1000
        size = us.bit_length()
        at = us if size < 3 else 4 * (size - 2) + (us >> (size - 3) & 3)
        self._now[min(at, _BUCKETS - 1)] += 1

    def percentiles_us(self, shares: tuple[float, ...], now_ns: int) -> list[int | None]:
        """Upper ends of the buckets where these shares (0 to 1) of all lie; None: there is none."""
        self._turn(now_ns)
        counts = [a + b for a, b in zip(self._now, self._before, strict=True)]
        total = sum(counts)
        found: list[int | None] = []
        for share in shares:
            left = share * total
            value = None
            for at, count in enumerate(counts):
                left -= count
                if count and left <= 0:
                    value = _upper_us(at)
                    break
            found.append(value)
        return found

    def _turn(self, now_ns: int) -> None:
        passed = now_ns - self._begun_ns
        if passed >= limits.LATENCY_SPAN_NS:
            is_next = passed < 2 * limits.LATENCY_SPAN_NS
            self._before = self._now if is_next else [0] * _BUCKETS
            self._now = [0] * _BUCKETS
            self._begun_ns = now_ns


def _upper_us(at: int) -> int:
    if at < 4:
        return at + 1
    size, quarter = at // 4 + 2, at % 4
    return (4 + quarter + 1) << (size - 3)
