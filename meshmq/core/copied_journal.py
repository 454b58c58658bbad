"""What the groups of a copied log have done, and what of it was put into this node's own groups.

Rules:
1. What was taken over is kept beside what the owner says: that did not know of it, and may have
   marked such a record, or summed its journal up, in what is copied later.
2. A seek there means all records again that the owner knew as done. It knows of those that were
   taken over when it was back, and gave them away; from a seek after that on they count as others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshmq.core.journal import (
    Delta,
    GroupState,
    JournalRecord,
    JournalState,
    Summed,
    TransactionDelta,
)


@dataclass(slots=True)
class CopiedJournal(JournalState):
    """See the module's header.

    Attributes:
        taken: of each group, as ``settled``, what was taken over of it.
    """

    taken: JournalState = field(default_factory=JournalState)

    @classmethod
    def of(cls, journal: JournalState) -> CopiedJournal:
        """One's own journal, or one read back, of which nothing was taken over."""
        return cls(journal.groups, journal.next_id, journal.transactions)

    def say(self, records: Iterable[JournalRecord], now_ms: int) -> None:
        """Add what one commit of the copied log brought."""
        for record in records:
            if isinstance(record, TransactionDelta):
                self.transactions.note(record.instance, record.id, record.offsets)
                continue
            if isinstance(record, Summed):
                if record.begins:
                    self.groups.clear()
                if record.delta is None:
                    continue
                record = record.delta
            if record.resets:
                self._seek(record.group)
            self.add(record, now_ms)
            if record.settings is not None and record.settings.deleted:
                self.taken.groups.pop(record.group, None)

    def _seek(self, number: int) -> None:
        """See rule 2."""
        taken, state = self.taken.groups.get(number), self.groups.get(number)
        if taken is None or state is None:
            return
        for source, offsets in taken.streams.items():
            known = state.settled(source)
            runs = [(0, offsets.floor), *offsets.runs()]
            if any(known.missing(first, count) for first, count in runs):
                return
            if any(at == source and offset in offsets for at, offset in state.marks):
                return
        del self.taken.groups[number]

    def take(self, delta: Delta) -> None:
        """What it says is settled was taken over."""
        state = self.groups.get(delta.group)
        if delta.group not in self.taken.groups:
            if state is None:
                return
            self.taken.groups[delta.group] = GroupState(state.settings)
        self.taken.groups[delta.group].apply(delta)

    def undone(self, state: GroupState, source: int, first: int, count: int) -> list[int]:
        """Offsets, of ``count`` from ``first`` on, that a group here had not done, and that were
        not taken over: those that are not settled, and marked ones."""
        settled = state.streams.get(source)
        runs = [(first, count)] if settled is None else settled.missing(first, count)
        found = [offset for begin, width in runs for offset in range(begin, begin + width)]
        if state.marks:
            found += [o for o in range(first, first + count) if (source, o) in state.marks]
        found = sorted(set(found))
        taken = self.taken.groups.get(state.settings.id)
        if not found or taken is None or source not in taken.streams:
            return found
        offsets = taken.streams[source]
        return [offset for offset in found if offset not in offsets]

    def copy(self) -> CopiedJournal:
        taken = JournalState({number: group.copy() for number, group in self.taken.groups.items()})
        groups = {number: group.copy() for number, group in self.groups.items()}
        return CopiedJournal(groups, self.next_id, self.transactions.copy(), taken)

    def forget_streams(self, streams: set[int]) -> None:
        """These streams were deleted."""
        JournalState.forget_streams(self, streams)
        self.taken.forget_streams(streams)
