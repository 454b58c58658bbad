"""Frames by which nodes of two sites compare what they have of one log; see ``frames``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class CheckedBatch(NamedTuple):
    """One batch as it was read from the disk; ``sum`` is of its bytes, empty of a damaged one."""

    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    damaged: bool
    sum: bytes


@dataclass(frozen=True, slots=True)
class CheckRange:
    """Read a stream of the log of ``origin`` from the disk, and say what is there: from offset
    ``first`` to each of ``ends``, in order, a sum; with ``batches`` each batch instead. Without
    ends: only from where to where there are records."""

    number: int
    origin: bytes
    topic_id: bytes
    first: int = 0
    ends: tuple[int, ...] = ()
    batches: bool = False


@dataclass(frozen=True, slots=True)
class RangeChecked:
    """The answer: there are records from ``first`` up to before ``end``; a ``code`` says why there
    is nothing else."""

    number: int
    first: int = 0
    end: int = 0
    sums: tuple[bytes, ...] = ()
    batches: tuple[CheckedBatch, ...] = ()
    code: str = ""
    message: str = ""


Body = CheckRange | RangeChecked
