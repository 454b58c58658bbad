"""What a row of the comparison is made of: who takes part, and the goals beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshmq.bench.target import Figures, Settings

SYNCED, NOT_SYNCED, NOTHING = "synced", "not synced", ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One system in one row.

    Attributes:
        key: stable name in the JSON, unique in its row; ours begin with "meshmq".
        label: what the table calls it.
        run: takes the measurement once.
        confirms: what has happened when it confirms; NOTHING where nothing is confirmed.
    """

    key: str
    label: str
    run: Callable[[Settings], Figures]
    confirms: str = NOTHING

    @property
    def is_ours(self) -> bool:
        return self.key.startswith("meshmq")


Medians = Mapping[str, Mapping[str, float]]
"""Entry key to figure to median; entries that were skipped are not in it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one figure of one of our entries.

    The bound is ``factor``, or ``factor`` times the best of ``peers`` (their sum if ``is_sum``).
    """

    entry: str
    figure: str
    at_least: bool
    factor: float
    peers: tuple[str, ...] = ()
    is_sum: bool = False
    text: str = ""

    def bound(self, medians: Medians) -> float | None:
        """The number to reach, None if a peer that it needs was not measured."""
        if not self.peers:
            return self.factor
        seen = [medians[key][self.figure] for key in self.peers if key in medians]
        if not seen or (self.is_sum and len(seen) < len(self.peers)):
            return None
        best = sum(seen) if self.is_sum else max(seen) if self.at_least else min(seen)
        return self.factor * best

    def is_met(self, medians: Medians) -> bool | None:
        bound = self.bound(medians)
        if bound is None or self.entry not in medians:
            return None
        value = medians[self.entry][self.figure]
        return value >= bound if self.at_least else value <= bound


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work.

    Attributes:
        figure, unit: what the ratios compare.
        others: further figures of ours worth a line, with their units.
        size: value size in bytes.
    """

    key: str
    title: str
    figure: str
    unit: str
    entries: tuple[Entry, ...]
    goals: tuple[Goal, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    size: int = 100
    note: str = ""


def least(entry: str, value: float, figure: str = "rate") -> Goal:
    return Goal(entry, figure, True, value)


def most(entry: str, figure: str, value: float) -> Goal:
    return Goal(entry, figure, False, value)


def times(entry: str, factor: float, *peers: str, text: str) -> Goal:
    return Goal(entry, "rate", True, factor, peers, text=text)
