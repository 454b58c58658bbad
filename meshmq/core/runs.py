"""Runs (first, count) of records that follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def runs_of(indices: Sequence[int]) -> list[tuple[int, int]]:
    """The runs in rising ``indices``."""
    if isinstance(indices, range):
        return [(indices[0], len(indices))] if indices else []
    runs: list[tuple[int, int]] = []
    for i in indices:
        if runs and runs[-1][0] + runs[-1][1] == i:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((i, 1))
    return runs


def joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs in order, neighbours joined."""
    found: list[tuple[int, int]] = []
    for first, count in sorted(runs):
        if found and sum(found[-1]) == first:
            found[-1] = (found[-1][0], found[-1][1] + count)
        else:
            found.append((first, count))
    return found


def records_in(runs: Iterable[tuple[int, int]]) -> int:
    """How many records they hold."""
    return sum([count for _, count in runs])
