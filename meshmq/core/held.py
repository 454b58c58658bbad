"""One hand-out in a member's hands: what of it is begun, settled, answered. See ``consumer``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, NamedTuple

from meshmq.frames import HandOutRow, SettleRow

if TYPE_CHECKING:
    from meshmq.core.account import Account
    from meshmq.core.consumer import Member

HELD, SETTLED, CLOSED = range(3)
"""What ``marks`` say of a record; one below ``next`` is settled whatever its mark says."""


class Held:
    """One hand-out in the member's hands, for as long as a record of it is open.

    ``ack`` of record ``next`` raises ``next`` by one and, if ``is_quiet``, calls ``touch``. Nobody
    else moves ``next`` off a record that the program holds, and who gathers sets ``is_quiet``
    before it looks: so an ack is gathered now, or it finds ``is_quiet`` set and tells.

    Attributes:
        row: as it came; ``data`` its bytes until they are decoded.
        origin: whose log.
        account: with its owner.
        member, owner: whose it is; the machine never looks at ``owner``.
        records, keys: the decoded batch and its column of keys, hung here by ``begin``'s decoder.
        next: every record below it is settled or closed.
        start: of those, the ones from here on are acks that are not gathered.
        is_quiet: whether no ack waits to be gathered.
        picks: indices that the program is to see; ``cursor`` iterates over them as it does.
        feed: the list that the program's iteration reads values from, while it reads any.
        parked: indices that left the iteration and are not begun: a worker keeps them.
        refused: why a record's settle counts for nothing, by index.
        claimed: indices that were claimed in this session; the node counts in those from then on.
        is_doubtful: something of it went to others while there was no session, nobody says what.
    """

    __slots__ = (
        "account", "claimed", "cursor", "data", "feed", "fresh_ns", "is_doubtful", "is_lost",
        "is_quiet", "keys", "marks", "member", "next", "open", "origin", "owner", "parked", "picks",
        "records", "refused", "row", "runs", "serial", "start",
    )  # fmt: skip

    def __init__(
        self, member: Member, account: Account, serial: int, row: HandOutRow, origin: bytes,
        data: bytes, now_ns: int,
    ) -> None:  # fmt: skip
        self.member = member
        self.account = account
        self.owner = member.owner
        self.serial = serial
        self.row = row
        self.origin = origin
        self.data = data
        self.records: Any = None
        self.keys: Sequence[bytes] | None = None
        self.marks = bytearray(row.count)
        self.open = row.count
        self.next = 0
        self.start = 0
        self.is_quiet = True
        self.is_lost = False
        self.is_doubtful = False
        self.runs: list[tuple[int, int]] = []
        self.picks: Sequence[int] = range(row.count)
        self.cursor: Iterator[int] = iter(self.picks)
        self.feed: list[Any] | None = None
        self.parked: set[int] = set()
        self.refused: dict[int, str] = {}
        self.claimed: list[int] | None = None
        self.fresh_ns = now_ns

    def offset(self, index: int) -> int:
        """Offset in its stream of record ``index``."""
        row = self.row
        return row.offsets[index] if row.offsets else row.first + index

    @property
    def maybe_duplicate(self) -> bool:
        """Whether somebody may have worked on it: its owner has said so, or cannot be heard, and
        perhaps gives it to another."""
        is_heard = self.member.is_active and self.account.is_active
        return self.row.maybe_duplicate or self.is_doubtful or not is_heard

    def is_settled(self, index: int) -> bool:
        """Whether the program has settled the record, or lost it."""
        return index < self.next or self.marks[index] != HELD

    def is_closed(self, index: int) -> bool:
        """Whether the node has answered what became of the record."""
        return self.marks[index] == CLOSED

    def unread(self) -> Sequence[int]:
        """Indices that the program's iteration has not reached."""
        left = length_hint(self.cursor)
        return self.picks[len(self.picks) - left :]

    def unbegun(self) -> Sequence[int]:
        """Indices that are held and that the program has not begun, in order."""
        rest = self.unread()
        marks = self.marks
        if not self.parked and (
            not rest or (isinstance(rest, range) and not any(marks[rest[0] : rest[-1] + 1]))
        ):
            return rest
        return [i for i in sorted({*self.parked, *rest}) if marks[i] == HELD]

    def cut(self) -> None:
        """End the iteration that reads it now; what it has not reached can be fed again."""
        if self.feed is not None:
            # An iterator over a list ends where the list does. Only then is it certain how far
            # the program's thread has come.
            self.feed.clear()
            self.feed = None
        self.pick(self.unread())

    def pick(self, indices: Iterable[int]) -> None:
        """What the program is to see of it from now on: those that are still held."""
        marks = self.marks
        if not isinstance(indices, range) or any(marks):
            indices = [i for i in indices if marks[i] == HELD]
        self.picks = indices
        self.cursor = iter(indices)


class Told(NamedTuple):
    """A row of a Settle frame, in the hand-out's own indices."""

    held: Held
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    kind: int
    delay_ns: int = 0
    reason: str = ""


def say(row: Told) -> SettleRow:
    """A row as the node counts: in the records that were claimed, once some were."""
    held, first, count, kind, delay_ns, reason = row
    if held.claimed is not None:
        end = bisect_left(held.claimed, first + count)
        first = bisect_left(held.claimed, first)
        count = end - first
    return SettleRow(held.row.number, first, count, kind, delay_ns, reason)


def heard(held: Held, row: SettleRow) -> Sequence[int]:
    """The records that the node names."""
    mine = range(held.row.count) if held.claimed is None else held.claimed
    return mine[row.first : row.first + row.count]


def merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first, end) pairs in order, neighbours joined."""
    runs.sort()
    merged = [runs[0]]
    for first, end in runs[1:]:
        if first == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((first, end))
    return merged
