"""Runs (first, count) of records that follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


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


def runs_of_bits(bits: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits."""
    while bits:
        begin = (bits & -bits).bit_length() - 1
        rest = ~(bits >> begin)
        width = (rest & -rest).bit_length() - 1
        yield begin, width
        bits &= ~(((1 << width) - 1) << begin)


def joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs in order, those that touch or overlap joined."""
    found: list[tuple[int, int]] = []
    for first, count in sorted(runs):
        begin, had = found[-1] if found else (first, 0)
        if found and first <= begin + had:
            found[-1] = (begin, max(had, first + count - begin))
        else:
            found.append((first, count))
    return found


def records_in(runs: Iterable[tuple[int, int]]) -> int:
    """How many records they hold."""
    return sum([count for _, count in runs])


def of_indices(column: Sequence[T], indices: Sequence[int]) -> Sequence[T]:
    """The items at rising ``indices``, of which there are some."""
    first, n = indices[0], len(indices)
    if indices[-1] - first == n - 1:
        return column[first : first + n]
    return [column[i] for i in indices]
