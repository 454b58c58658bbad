"""Who takes requests, by how much they have: least first, in turn among equals."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Placed(Protocol):
    """``level``: where it is; -1: nowhere."""

    level: int


T = TypeVar("T", bound=Placed)


class Levels(Generic[T]):
    """See the module's header. There are few levels, and any number on each."""

    __slots__ = ("_by_level",)

    def __init__(self) -> None:
        self._by_level: dict[int, OrderedDict[T, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_level)

    def put(self, item: T, level: int) -> None:
        """It belongs to this level from now on, behind all that are there; -1: to none."""
        before = item.level
        if level == before:
            return
        by_level = self._by_level
        if before >= 0:
            beside = by_level[before]
            del beside[item]
            if not beside:
                del by_level[before]
        item.level = level
        if level >= 0:
            by_level.setdefault(level, OrderedDict())[item] = None

    def first(self) -> T:
        """Of the lowest level the one that came to it first; there is one."""
        return next(iter(self._by_level[min(self._by_level)]))

    def turn(self, item: T) -> None:
        """It had its turn: the others of its level come first."""
        self._by_level[item.level].move_to_end(item)
