"""Sets of patterns: what one wants, said with the fewest; what another wants, asked by topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from meshmq.names import is_literal, matches


class Patterns:
    """A set of patterns, asked whether one of them matches a topic."""

    __slots__ = ("_literal", "_wild")

    def __init__(self) -> None:
        self._literal: set[str] = set()
        self._wild: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._literal) + len(self._wild)

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._literal or pattern in self._wild

    def __iter__(self) -> Iterator[str]:
        return chain(self._literal, self._wild)

    def add(self, pattern: str) -> None:
        if is_literal(pattern):
            self._literal.add(pattern)
        else:
            self._wild[pattern] = None

    def discard(self, pattern: str) -> None:
        self._literal.discard(pattern)
        self._wild.pop(pattern, None)

    def match(self, topic: str) -> bool:
        return topic in self._literal or any(matches(p, topic) for p in self._wild)


class Wants:
    """What our own clients want, and the least that says it all.

    Attributes:
        told: patterns that siblings are told: those that no other one of ours covers.
        added, removed: what of that has changed; the owner takes them.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._wild: dict[str, None] = {}  # those of told with wildcards
        self.told: dict[str, None] = {}
        self.added: dict[str, None] = {}
        self.removed: dict[str, None] = {}

    def add(self, pattern: str) -> None:
        """One more subscription has it."""
        self._counts[pattern] += 1
        if self._counts[pattern] > 1 or self._is_covered(pattern):
            return
        self._tell(pattern)
        if not is_literal(pattern):
            for other in [p for p in self.told if p != pattern and covers(pattern, p)]:
                self._untell(other)

    def remove(self, pattern: str) -> None:
        """One subscription that had it is over."""
        self._counts[pattern] -= 1
        if self._counts[pattern]:
            return
        del self._counts[pattern]
        if pattern not in self.told:
            return
        self._untell(pattern)
        if is_literal(pattern):
            return
        # Widest first, so that what they cover is not told for nothing.
        bare = sorted((p for p in self._counts if p not in self.told and covers(pattern, p)),
                      key=lambda p: (is_literal(p), p.count("."), p))  # fmt: skip
        for other in bare:
            if not self._is_covered(other):
                self._tell(other)

    def _is_covered(self, pattern: str) -> bool:
        return any(p != pattern and covers(p, pattern) for p in self._wild)

    def _tell(self, pattern: str) -> None:
        self.told[pattern] = None
        if not is_literal(pattern):
            self._wild[pattern] = None
        if self.removed.pop(pattern, 0) == 0:
            self.added[pattern] = None

    def _untell(self, pattern: str) -> None:
        del self.told[pattern]
        self._wild.pop(pattern, None)
        if self.added.pop(pattern, 0) == 0:
            self.removed[pattern] = None


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that ``narrow`` names is named by ``wide``."""
    a, b = wide.split("."), narrow.split(".")
    for i, token in enumerate(a):
        if token == ">":
            return len(b) > i and not (i == 0 and b[0].startswith("$"))
        if i >= len(b) or b[i] == ">":
            return False
        if token == "*":
            if i == 0 and b[0].startswith("$"):
                return False
        elif token != b[i]:
            return False
    return len(a) == len(b)
