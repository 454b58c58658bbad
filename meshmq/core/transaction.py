"""A program's transaction on its way to a node."""

from __future__ import annotations

from typing import NamedTuple

from meshmq import limits
from meshmq.core.held import Held, Told, say
from meshmq.core.runs import runs_of
from meshmq.frames import ACK, PublishBatch, Transact, TransactAck


class Transaction(NamedTuple):
    """A transaction on its way: acks are by hand-out and index, what the node calls them may be
    another thing in each session.

    Attributes:
        origin: where it is done: the owner of what it acks, or the node it was first sent to.
    """

    id: int
    acks: tuple[tuple[Held, int], ...]
    batches: tuple[PublishBatch, ...]
    payload: bytes
    origin: bytes

    @property
    def is_ready(self) -> bool:
        """Whether the owner has let in the members whose records it acks."""
        return all(held.account.is_active for held, _ in self.acks)

    def frame(self, node: bytes) -> Transact:
        """As this session, which is with ``node``, says it."""
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
        origin = self.origin if self.origin != node else b""
        return Transact(self.id, tuple(acks), self.batches, self.payload, origin)
