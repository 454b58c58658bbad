"""What is in members' hands, and what is on its way there."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshmq.core.batches import Records
from meshmq.core.feed import Reader
from meshmq.core.log import StoredBatch
from meshmq.core.runs import runs_of, runs_of_bits
from meshmq.frames import HandOutRow

if TYPE_CHECKING:
    from meshmq.core.group_waiting import Waiting


@dataclass(slots=True, eq=False)
class Entry:
    """One batch that was read: how many of its records reading would find again after a restart.

    The oldest one that has some is where a restart must begin to read.
    """

    lsn: int
    slot: int
    left: int
    count: int
    append_ms: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Source(Reader):
    """One cursor of a group: its pattern, or one lane of a queue.

    Attributes:
        index: 0 the pattern or the queue's own topic, 1 to 9 a priority's lane, then DELAYED and
            RETRY.
        trail: by (stream, base offset), in log order.
        seen: by stream, the offset after the newest batch that was read.
        suspect_until: hand-outs of an earlier life of the node had come as far as this place ...
        suspect_records: ... and so many records further at most.
    """

    owner: Waiting
    index: int
    trail: dict[tuple[int, int], Entry] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    ready_bytes: int = 0
    suspect_until: tuple[int, int] = (0, 0)
    suspect_records: int = 0
    advanced: bool = False

    def needs(self, batch: StoredBatch) -> bool:
        settled = self.owner.state.settled(batch.stream)
        return bool(settled.missing(batch.base_offset, batch.count))

    def take(self, batches: list[StoredBatch]) -> None:
        self.owner.on_fresh(self, batches)


@dataclass(slots=True, eq=False)
class Ready:
    """Records of one batch that can be handed out.

    Attributes:
        runs: (index in the batch, count) of those that still wait, in order.
        attempt: number of their next delivery.
        marked: they are known by marks.
        suspect: somebody may have worked on them.
        source: to give its room back, None for what was fetched.
        keys, records: the batch opened, once that is needed; ``keys`` is empty if it has none.
        pins: members that have some of it pending.
        is_fetched: it was asked for by its offset.
        expires_ms: unix ms after which these jobs are not handed out; 0: never.
    """

    batch: StoredBatch
    topic: str
    runs: deque[tuple[int, int]]
    priority: int
    entry: Entry | None
    source: Source | None
    attempt: int = 1
    marked: bool = False
    suspect: bool = False
    version: int = 0
    keys: Sequence[bytes] | None = None
    records: Records | None = None
    pins: int = 0
    is_fetched: bool = False
    expires_ms: int = 0


@dataclass(slots=True, eq=False)
class Member:
    """One consumer of one program in a group.

    Attributes:
        is_active: its joining is stored; only then it is given something.
        is_slow: it has returned records and settled none since.
        in_flight, in_flight_bytes: what it holds.
        most_records, most_bytes: what of its prefetch it may have here: the node it is at may lend
            it to one owner after the other.
        may_exceed: it has nothing of other owners: a record larger than its bytes may come alone.
        handed: records it was given.
        number: its program's own for it; ``consumer`` is that of the link.
        home: name of the node it is at, where that is another one.
        epoch: counts its program's sessions.
        rows: what goes out with this turn, with the bytes.
        said: by hand-out of an earlier session: a bit for each record it has acked already.
        pending: records that its keys bind to it and it has no room for: (ready, indices, since).
    """

    link: bytes
    consumer: int
    instance: bytes
    name: str
    prefetch_records: int
    prefetch_bytes: int
    ack_timeout_ns: int
    is_active: bool = False
    is_slow: bool = False
    number: int = 0
    home: str = ""
    epoch: int = 0
    in_flight: int = 0
    in_flight_bytes: float = 0.0
    most_records: int = 0
    most_bytes: int = 0
    may_exceed: bool = True
    handed: int = 0
    hand_outs: dict[int, HandOut] = field(default_factory=dict)
    rows: list[tuple[HandOutRow, bytes]] = field(default_factory=list)
    pending: deque[tuple[Ready, list[int], int]] = field(default_factory=deque)
    pending_count: int = 0
    said: dict[int, int] = field(default_factory=dict)

    def room(self, record_bytes: float) -> int:
        """How many records of this size it can take; a large one alone."""
        records = self.most_records - self.in_flight
        if records <= 0:
            return 0
        size = self.most_bytes - self.in_flight_bytes
        fits = int(size / record_bytes) if record_bytes > 0 else records
        return min(records, max(fits, 1 if self.may_exceed and not self.in_flight else 0))

    @property
    def key(self) -> tuple[bytes, int]:
        """Which consumer of which run of a program it is, whatever session it comes by."""
        return self.instance, self.number


@dataclass(slots=True, eq=False)
class HandOut:
    """Records of one batch in one member's hands, under one number.

    Attributes:
        first: offset of the first; ``offsets`` where they do not follow each other.
        left: a bit for each record that is not settled.
        record_bytes: about how large each is.
        keys: of each, where order goes by key.
        longer: the deadline of each record, where some were extended.
        append_ms: when the records were appended (unix ms).
        acked: runs (offset, count) of those its member has acked.
        check_ns: when its deadlines are looked at next.
    """

    number: int
    member: Member
    stream: int
    first: int
    count: int
    offsets: Sequence[int] | None
    left: int
    deadline_ns: int
    attempt: int
    priority: int
    entry: Entry | None
    record_bytes: float
    marked: bool = False
    suspect: bool = False
    keys: Sequence[bytes] | None = None
    longer: array[int] | None = None
    append_ms: int = 0
    acked: list[tuple[int, int]] = field(default_factory=list)
    check_ns: int = 0

    def offset_of(self, index: int) -> int:
        return self.first + index if self.offsets is None else self.offsets[index]

    def indices(self, bits: int) -> Iterator[int]:
        """Positions of the set bits, ascending."""
        while bits:
            low = bits & -bits
            yield low.bit_length() - 1
            bits ^= low

    def runs(self, bits: int) -> list[tuple[int, int]]:
        """(offset, count) of the records of ``bits``, joined where they follow each other."""
        if self.offsets is None:
            return [(self.first + index, count) for index, count in runs_of_bits(bits)]
        offsets: list[int] = []
        for index, count in runs_of_bits(bits):
            offsets += self.offsets[index : index + count]
        return runs_of(offsets)

    def deadline_of(self, index: int) -> int:
        """When the record at ``index`` is taken back."""
        return self.deadline_ns if self.longer is None else self.longer[index]

    def has(self, stream: int, offset: int) -> bool:
        """Whether that record is among those that are not settled."""
        if stream != self.stream:
            return False
        if self.offsets is None:
            index = offset - self.first
        elif offset in self.offsets:
            index = self.offsets.index(offset)
        else:
            return False
        return 0 <= index < self.count and bool(self.left >> index & 1)
