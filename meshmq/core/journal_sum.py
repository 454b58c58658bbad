"""All that a journal says, once more: for a copy that began after the journal was trimmed.

It is stored behind everything else, in parts that fit batches (core/journal.py, rule 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from meshmq.core.journal import Delta, GroupState, JournalRecord, Summed

SUM_ROWS, SUM_MARKS = 1000, 25  # in one part: some 40 and 55 KiB at most


def sum_of(groups: Iterable[GroupState]) -> Iterator[Summed]:
    """All there is to know of groups, in small parts."""
    yield Summed(True, False)
    for group in groups:
        streams = group.streams.items()
        yield Summed(False, False, Delta(
            group.settings.id, group.settings, True,
            tuple([(source, *place) for source, place in group.cursors.items()]),
            reached=tuple([(source, *place) for source, place in group.reached.items()]),
            ahead=group.ahead,
        ))  # fmt: skip
        parts: list[tuple[str, int, Iterable[Any]]] = [
            ("floors", SUM_ROWS, ((stream, held.floor) for stream, held in streams)),
            ("settled", SUM_ROWS, ((s, *run) for s, held in streams for run in held.runs())),
            ("marks", SUM_MARKS, ((*key, mark) for key, mark in group.marks.items())),
            ("dedups", SUM_ROWS, ((dedup, *row) for dedup, row in group.dedups.items())),
        ]
        for name, most, rows in parts:
            for part in batched(rows, most):
                changed: dict[str, Any] = {name: part}
                yield Summed(False, False, Delta(group.settings.id, **changed))
    yield Summed(False, True)


def parts_of(record: JournalRecord) -> Iterator[JournalRecord]:
    """A record of the journal that is too long for a batch, in small ones that say the same one
    after the other."""
    if not isinstance(record, Delta):
        yield record
        return
    rows: list[tuple[str, int]] = [
        ("settled", SUM_ROWS), ("marks", SUM_MARKS), ("unmarked", SUM_ROWS), ("dedups", SUM_ROWS)
    ]  # fmt: skip
    none: dict[str, Any] = dict.fromkeys([name for name, _ in rows], ())
    yield record._replace(**none)
    for name, most in rows:
        for part in batched(getattr(record, name), most):
            changed: dict[str, Any] = {name: part}
            yield Delta(record.group, **changed)


def batched(rows: Iterable[Any], most: int) -> Iterator[tuple[Any, ...]]:
    """Rows in tuples of so many."""
    some = iter(rows)
    while part := tuple(islice(some, most)):
        yield part
