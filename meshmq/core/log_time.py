"""How old records are when the wall clock jumps.

Append times come from the wall clock, so that people can seek by them. Ages must not: somebody who
sets the clock an hour ahead must not make an hour of records expire. What is remembered is where
the wall clock ran ahead of the monotonic one, as (before, after) in append time; a clock set back
only makes records older later, for append times never go back.
"""

from __future__ import annotations

from meshmq import limits

JUMP_NS = 2 * limits.SECOND  # less is a clock being steered, or a pause between two looks
JUMPS_MAX = 64


class LogTime:
    """Watches both clocks of one log, from its opening on.

    Args:
        append_time_ns: of the newest record then.
    """

    def __init__(self, append_time_ns: int = 0) -> None:
        self._newest_ns = append_time_ns
        self._ahead_ns: int | None = None  # wall minus monotonic, as last seen
        self._jumps: list[tuple[int, int]] = []

    def observe(self, wall_ns: int, monotonic_ns: int) -> None:
        """Look at both clocks, at least every few seconds."""
        ahead = wall_ns - monotonic_ns
        if self._ahead_ns is not None and ahead - self._ahead_ns > JUMP_NS:
            before = max(wall_ns - (ahead - self._ahead_ns), self._newest_ns)
            if wall_ns > before:  # else it only came back to where it was
                self._jumps.append((before, wall_ns))
                if len(self._jumps) > JUMPS_MAX:
                    del self._jumps[0]
        self._ahead_ns = ahead
        self._newest_ns = max(self._newest_ns, wall_ns)

    def oldest_ns(self, now_ns: int, age_ns: int) -> int:
        """Append time of a record that is ``age_ns`` old at ``now_ns``; jumps do not age it."""
        oldest = now_ns - age_ns
        for before, after in reversed(self._jumps):
            if oldest >= after:
                break
            oldest -= after - before
        return oldest
