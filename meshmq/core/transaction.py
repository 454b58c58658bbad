"""A transaction of a program on its way to its node."""

from __future__ import annotations

from typing import NamedTuple

from meshmq import limits
from meshmq.core.held import Held, Told, say
from meshmq.core.runs import runs_of
from meshmq.frames import ACK, PublishBatch, Transact, TransactAck


class Transaction(NamedTuple):
    """A transaction on its way: acks are by hand-out and index, what the node calls them may be
    another thing in each session."""

    id: int
    acks: tuple[tuple[Held, int], ...]
    batches: tuple[PublishBatch, ...]
    payload: bytes

    def frame(self) -> Transact:
        """As this session says it."""
        found: dict[int, list[int]] = {}
        held_by = {}
        for held, index in self.acks:
            found.setdefault(held.row.number, []).append(index)
            held_by[held.row.number] = held
        acks = []
        for number, indices in found.items():
            held = held_by[number]
            for first, count in runs_of(sorted(indices)):
                row = say(Told(held, first, count, ACK))
                # What is no longer claimed makes it fail, unless the node has done it before.
                at = row.first if row.count == count else limits.BATCH_RECORDS_MAX
                acks.append(TransactAck(held.member.id, number, at, count))
        return Transact(self.id, tuple(acks), self.batches, self.payload)
