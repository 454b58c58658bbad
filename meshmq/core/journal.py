"""What the log keeps of groups and queues: the deltas of each commit, and their sum.

Data: a Delta is what one commit changes of one group; it travels as one record of the node's own
stream ``$journal``, which is numbered, stored and copied like any other. GroupState is the sum of
a group's deltas: what a restart, a copy or another site has to know to go on.

Rules:
1. A record is known by (stream, offset), never by its place in one log, so a copy understands it.
   The cursor is the exception: a hint where this log may begin to read.
2. ``settled`` holds what reading must pass over: what is done, and what is marked. A Mark is a
   record that is handed out by its mark: it failed, or its time was changed.
3. GroupState changes only by ``apply``; the same deltas give the same state.
4. The journal is trimmed; a copy that begins later than it does is given its sum: all groups, as
   Summed records of one commit. They are for copies, which forget what they had with the first
   one and have all with the last; to their own log they say nothing new.

Numbers are packed little-endian; ``pack_deltas`` and ``unpack_deltas`` are each other's inverse.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core.runs import runs_of_bits

GROUP, QUEUE = "group", "queue"
ANY, KEY = "any", "key"
REJECTED = 1  # a mark's flag: on its way to the dead letters
MOVED = 2  # a mark's flag: its due time was changed by hand, it did not fail
SUSPECT = 4  # a mark's flag: somebody may have worked on it

CHUNK = 1024
_FULL = (1 << CHUNK) - 1
UNSTORED = (1 << 62, 0)  # a group is on its way to the log


class Settings(NamedTuple):
    """What a group or queue is asked to do; times in ns, 0: no bound.

    Attributes:
        id: number of the group in its node's journal.
        kind: ``group`` or ``queue``.
        pattern: topics it takes; a queue's own name.
        order: ``any`` or ``key``.
        max_deliveries: then a record goes to the dead letters.
        backoff_ns, backoff_max_ns: delay after the first failure, doubled with each, up to this.
        max_held: records behind keys that wait; then the group stops.
        rate: records a second handed out at most.
        max_records, max_bytes: of a queue; then it answers QueueFull.
        dedup_ns: how long a queue remembers the ids of jobs.
        sought: the last of the site's seeks that was done here; see core/registrar.py.
        made: where its node's log says that it was made (lsn, slot); (0, 0): nobody noted it.
    """

    id: int
    name: str
    kind: str
    pattern: str
    order: str = ANY
    max_deliveries: int = limits.MAX_DELIVERIES_DEFAULT
    backoff_ns: int = limits.BACKOFF_NS_DEFAULT
    backoff_max_ns: int = limits.BACKOFF_NS_MAX_DEFAULT
    max_held: int = limits.MAX_HELD_DEFAULT
    rate: int = 0
    max_records: int = 0
    max_bytes: int = 0
    dedup_ns: int = limits.DEDUP_NS_DEFAULT
    paused: bool = False
    deleted: bool = False
    sought: str = ""
    made: tuple[int, int] = (0, 0)


class Mark(NamedTuple):
    """One record that is handed out by its mark. Times are unix ms.

    Attributes:
        attempts: deliveries that failed.
        due_ms: not before.
        flags: REJECTED, MOVED.
        first_ms, last_ms: of its first and last failure.
        priority: of a job.
        key: where the group keeps order by key.
        reason: of the last failure.
    """

    attempts: int
    due_ms: int
    flags: int = 0
    first_ms: int = 0
    last_ms: int = 0
    priority: int = 0
    key: bytes = b""
    reason: str = ""


class Delta(NamedTuple):
    """What one commit changes of one group; what is None or empty does not change.

    Attributes:
        group: its id.
        settings: made, changed or deleted.
        resets: everything known of records is forgotten first (a seek).
        cursors: (source, lsn, slot): where reading may begin.
        floors: (stream, offset): the group begins, or goes on, there.
        settled: (stream, first, count): reading passes these over from now on.
        marks: (stream, offset, mark): and these are handed out by their mark.
        unmarked: (stream, offset): done, after all.
        dedups: (16 bytes, stream, offset, unix ms); of stream 0: it is forgotten.
        reached: (source, lsn, slot): hand-outs had come as far as there.
        ahead: and may have gone on so many records, before the next delta was synced.
    """

    group: int
    settings: Settings | None = None
    resets: bool = False
    cursors: tuple[tuple[int, int, int], ...] = ()
    floors: tuple[tuple[int, int], ...] = ()
    settled: tuple[tuple[int, int, int], ...] = ()
    marks: tuple[tuple[int, int, Mark], ...] = ()
    unmarked: tuple[tuple[int, int], ...] = ()
    dedups: tuple[tuple[bytes, int, int, int], ...] = ()
    reached: tuple[tuple[int, int, int], ...] = ()
    ahead: int = 0


class TransactionDelta(NamedTuple):
    """The last transaction of one program's run, and what it was answered."""

    instance: bytes
    id: int
    offsets: tuple[int, ...]


class Summed(NamedTuple):
    """Part of a sum; ``begins``, ``ends``: the first and the last one, which may have none."""

    begins: bool
    ends: bool
    delta: Delta | None = None


JournalRecord = Delta | TransactionDelta | Summed


class OffsetSet:
    """Offsets of one stream from 0 on; everything before ``floor`` is in it.

    Memory: a bit an offset in chunks of CHUNK between the floor and the highest one.
    """

    __slots__ = ("above", "chunks", "floor")

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self.above = 0  # how many are in it from the floor on
        self.chunks: dict[int, int] = {}

    def add(self, first: int, count: int) -> int:
        """Add a run; return how many were not in it."""
        end = first + count
        if first < self.floor:
            first = self.floor
            if first >= end:
                return 0
        if first == self.floor and not self.chunks:
            self.floor = end
            return end - first
        new = 0
        at = first
        chunks = self.chunks
        while at < end:
            number, low = divmod(at, CHUNK)
            high = min(end - number * CHUNK, CHUNK)
            bits = (1 << high) - (1 << low)
            had = chunks.get(number, 0)
            now = had | bits
            if now != had:
                new += now.bit_count() - had.bit_count()
                chunks[number] = now if now != _FULL else _FULL
            at = number * CHUNK + high
        self.above += new
        if first == self.floor:
            self._sink()
        return new

    def add_runs(self, runs: Sequence[tuple[int, int]]) -> int:
        """Add many runs (first, count); return how many offsets were not in it."""
        new = 0
        added: dict[int, int] = {}
        for first, count in runs:
            number, low = divmod(first, CHUNK)
            if first < self.floor or low + count > CHUNK:
                new += self.add(first, count)
            else:
                added[number] = added.get(number, 0) | ((1 << count) - 1) << low
        if not added:
            return new
        chunks = self.chunks
        above = 0
        for number, bits in added.items():
            if number * CHUNK < self.floor:  # it has risen meanwhile
                bits = bits >> (self.floor - number * CHUNK) << (self.floor - number * CHUNK)
            had = chunks.get(number, 0)
            now = had | bits
            if now != had:
                above += now.bit_count() - had.bit_count()
                chunks[number] = now if now != _FULL else _FULL
        self.above += above
        self._sink()
        return new + above

    def _sink(self) -> None:
        """Let the floor rise over what follows it."""
        chunks = self.chunks
        while True:
            number, low = divmod(self.floor, CHUNK)
            bits = chunks.get(number)
            if bits is None:
                return
            run = ~(bits >> low) & ((1 << (CHUNK - low)) - 1)
            width = (run & -run).bit_length() - 1 if run else CHUNK - low
            self.floor += width
            self.above -= width
            if low + width < CHUNK:
                if not bits >> (low + width):
                    del chunks[number]  # nothing in it lies above the floor
                else:
                    chunks[number] = bits >> (low + width) << (low + width)
                return
            del chunks[number]

    def discard(self, first: int, count: int) -> None:
        """Take a run out that lies above the floor."""
        for offset in range(max(first, self.floor), first + count):
            number, low = divmod(offset, CHUNK)
            had = self.chunks.get(number, 0)
            if had >> low & 1:
                self.above -= 1
                self.chunks[number] = had & ~(1 << low)
                if not self.chunks[number]:
                    del self.chunks[number]

    def raise_floor(self, floor: int) -> int:
        """Add everything before ``floor``; return how many were not in it."""
        if floor <= self.floor:
            return 0
        new = floor - self.floor
        if self.chunks:
            for number in [n for n in self.chunks if n * CHUNK < floor]:
                bits = self.chunks[number]
                keep = max(0, floor - number * CHUNK)
                below = bits & ((1 << min(keep, CHUNK)) - 1)
                new -= below.bit_count()
                self.above -= below.bit_count()
                if keep >= CHUNK or bits == below:
                    del self.chunks[number]
                else:
                    self.chunks[number] = bits & ~below
        self.floor = floor
        if self.chunks:
            self._sink()
        return new

    def __contains__(self, offset: int) -> bool:
        if offset < self.floor:
            return True
        number, low = divmod(offset, CHUNK)
        return bool(self.chunks.get(number, 0) >> low & 1)

    def missing(self, first: int, count: int) -> list[tuple[int, int]]:
        """Runs (first, count) of ``first`` .. that are not in it, in order."""
        end = first + count
        first = max(first, self.floor)
        if first >= end:
            return []
        if not self.chunks:
            return [(first, end - first)]
        found: list[tuple[int, int]] = []
        at = first
        while at < end:
            number, low = divmod(at, CHUNK)
            high = min(end - number * CHUNK, CHUNK)
            free = ~self.chunks.get(number, 0) & ((1 << high) - (1 << low))
            base = number * CHUNK
            for begin, width in runs_of_bits(free):
                if found and sum(found[-1]) == base + begin:
                    found[-1] = (found[-1][0], found[-1][1] + width)
                else:
                    found.append((base + begin, width))
            at = base + high
        return found

    def runs(self) -> Iterator[tuple[int, int]]:
        """Runs (first, count) from the floor on that are in it, in order."""
        for number in sorted(self.chunks):
            for begin, width in runs_of_bits(self.chunks[number]):
                yield number * CHUNK + begin, width

    def copy(self) -> OffsetSet:
        new = OffsetSet(self.floor)
        new.above = self.above
        new.chunks = dict(self.chunks)
        return new

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, OffsetSet)
            and self.floor == other.floor
            and self.chunks == other.chunks
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class GroupState:
    """The sum of one group's deltas.

    Attributes:
        streams: by stream, what reading passes over.
        marks: by (stream, offset).
        cursors: by source: (lsn, slot).
        dedups: id to (stream, offset, unix ms), oldest first.
        reached, ahead: see Delta; ``reached`` is by source.
    """

    settings: Settings
    streams: dict[int, OffsetSet] = field(default_factory=dict)
    marks: dict[tuple[int, int], Mark] = field(default_factory=dict)
    cursors: dict[int, tuple[int, int]] = field(default_factory=dict)
    dedups: OrderedDict[bytes, tuple[int, int, int]] = field(default_factory=OrderedDict)
    reached: dict[int, tuple[int, int]] = field(default_factory=dict)
    ahead: int = 0

    def apply(self, delta: Delta) -> None:
        """Add one delta; its settings are the owner's business."""
        if delta.resets:
            self.streams.clear()
            self.marks.clear()
            self.cursors.clear()
            self.reached.clear()
        self.ahead = delta.ahead or self.ahead
        for source, lsn, slot in delta.reached:
            self.reached[source] = (lsn, slot)
        for source, lsn, slot in delta.cursors:
            self.cursors[source] = (lsn, slot)
        for stream, floor in delta.floors:
            self.settled(stream).raise_floor(floor)
        for stream, rows in groupby(delta.settled, itemgetter(0)):
            self.settled(stream).add_runs([(first, count) for _, first, count in rows])
        for stream, offset, mark in delta.marks:
            self.settled(stream).add(offset, 1)
            self.marks[stream, offset] = mark
        for key in delta.unmarked:
            self.marks.pop(key, None)
        for dedup, stream, offset, time_ms in delta.dedups:
            self.dedups.pop(dedup, None)
            if stream:
                self.dedups[dedup] = (stream, offset, time_ms)

    def settled(self, stream: int) -> OffsetSet:
        found = self.streams.get(stream)
        if found is None:
            found = self.streams[stream] = OffsetSet()
        return found

    def copy(self) -> GroupState:
        return GroupState(
            self.settings,
            {stream: found.copy() for stream, found in self.streams.items()},
            dict(self.marks),
            dict(self.cursors),
            OrderedDict(self.dedups),
            dict(self.reached),
            self.ahead,
        )


@dataclass(slots=True)
class Transactions:
    """The last transaction of each program; who was heard of longest ago is forgotten."""

    _by_instance: OrderedDict[bytes, tuple[int, tuple[int, ...]]] = field(
        default_factory=OrderedDict
    )
    _offsets: int = 0

    def __len__(self) -> int:
        return len(self._by_instance)

    def __contains__(self, instance: bytes) -> bool:
        return instance in self._by_instance

    def get(self, instance: bytes) -> tuple[int, tuple[int, ...]] | None:
        """(id, offsets) of a program's last one."""
        return self._by_instance.get(instance)

    def items(self) -> Iterable[tuple[bytes, tuple[int, tuple[int, ...]]]]:
        return self._by_instance.items()

    def note(self, instance: bytes, number: int, offsets: tuple[int, ...]) -> None:
        """This is a program's last one."""
        known = self._by_instance
        had = known.pop(instance, None)
        self._offsets += len(offsets) - (len(had[1]) if had is not None else 0)
        known[instance] = (number, offsets)
        while len(known) > 1 and (
            len(known) > limits.TRANSACTIONS_REMEMBERED_MAX
            or self._offsets > limits.TRANSACTION_OFFSETS_REMEMBERED_MAX
        ):
            _, (_, forgotten) = known.popitem(last=False)
            self._offsets -= len(forgotten)

    def copy(self) -> Transactions:
        return Transactions(self._by_instance.copy(), self._offsets)


@dataclass(slots=True)
class JournalState:
    """All groups of one log, and the last transaction of each program.

    Attributes:
        groups: by id.
        next_id: for the next group.
        transactions: what the programs' last ones were answered.
    """

    groups: dict[int, GroupState] = field(default_factory=dict)
    next_id: int = 1
    transactions: Transactions = field(default_factory=Transactions)

    def apply(
        self, records: Iterable[JournalRecord], now_ms: int, place: tuple[int, int] = (0, 0)
    ) -> None:
        """Add what one commit of this log brought; ``now_ms`` is its append time, ``place`` where
        in the log that is."""
        for record in records:
            if isinstance(record, TransactionDelta):
                self.transactions.note(record.instance, record.id, record.offsets)
            elif isinstance(record, Delta):
                self.add(record, now_ms, place)

    def add(self, delta: Delta, now_ms: int, place: tuple[int, int] | None = None) -> None:
        """Add what changes of one group; ``place`` None: where it was made is what it says."""
        group = self.groups.get(delta.group)
        made = delta.settings
        if made is not None:
            self.next_id = max(self.next_id, made.id + 1)
            if made.deleted:
                self.groups.pop(made.id, None)
                return
            if group is None:
                made = made if place is None else made._replace(made=place)
                group = self.groups[made.id] = GroupState(made)
            group.settings = made._replace(made=group.settings.made)
        if group is not None:
            group.apply(delta)
            forget_dedups(group.dedups, group.settings.dedup_ns, now_ms)

    def forget_streams(self, streams: set[int]) -> None:
        """These streams were deleted."""
        for group in self.groups.values():
            for stream in streams:
                group.streams.pop(stream, None)
            if group.marks:
                for key in [k for k in group.marks if k[0] in streams]:
                    del group.marks[key]


def forget_dedups(
    dedups: OrderedDict[bytes, tuple[int, int, int]], window_ns: int, now_ms: int
) -> None:
    """Drop ids that are older than their queue remembers."""
    before = now_ms - window_ns // limits.MS
    while dedups:
        dedup = next(iter(dedups))
        if dedups[dedup][2] >= before:
            return
        del dedups[dedup]


# --- bytes ---------------------------------------------------------------------------------

_U32 = struct.Struct("<I")
_DELTA = struct.Struct("<BIBQIIIIIIII")  # kind, group, resets, ahead, then eight lengths
_CURSOR = struct.Struct("<BQI")
_FLOOR = struct.Struct("<IQ")
_RUN = struct.Struct("<IQI")
_MARK = struct.Struct("<IQHqBqqBHH")
_UNMARKED = struct.Struct("<IQ")
_DEDUP = struct.Struct("<16sIQq")
_TRANSACTION = struct.Struct("<B16sQI")
_SUMMED = struct.Struct("<B???")  # kind, begins, ends, whether a delta follows
_STREAM = struct.Struct("<IQI")
_CHUNK_ROW = struct.Struct(f"<Q{CHUNK // 8}s")
_GROUP_HEAD = struct.Struct("<IIIIIIQ")
_STATE = struct.Struct("<III")


def pack_deltas(records: Sequence[JournalRecord]) -> bytes:
    """Records of one commit, as one value of the journal's stream."""
    parts: list[bytes] = []
    for record in records:
        if isinstance(record, TransactionDelta):
            parts.append(_TRANSACTION.pack(1, record.instance, record.id, len(record.offsets)))
            parts.append(struct.pack(f"<{len(record.offsets)}Q", *record.offsets))
        elif isinstance(record, Summed):
            parts.append(_SUMMED.pack(2, record.begins, record.ends, record.delta is not None))
            parts += [] if record.delta is None else _pack_delta(record.delta)
        else:
            parts += _pack_delta(record)
    return b"".join(parts)


def _pack_delta(d: Delta) -> list[bytes]:
    settings = b"" if d.settings is None else json.dumps(d.settings._asdict()).encode()
    parts = [
        _DELTA.pack(
            0, d.group, d.resets, d.ahead, len(settings), len(d.cursors), len(d.floors),
            len(d.settled), len(d.marks), len(d.unmarked), len(d.dedups), len(d.reached),
        ),
        settings,
    ]  # fmt: skip
    parts += [_CURSOR.pack(*row) for row in d.cursors]
    parts += [_FLOOR.pack(*row) for row in d.floors]
    parts += [_RUN.pack(*row) for row in d.settled]
    parts += [_pack_mark(*row) for row in d.marks]
    parts += [_UNMARKED.pack(*row) for row in d.unmarked]
    parts += [_DEDUP.pack(*row) for row in d.dedups]
    parts += [_CURSOR.pack(*row) for row in d.reached]
    return parts


def _pack_mark(stream: int, offset: int, m: Mark) -> bytes:
    reason = m.reason.encode("utf-8", "replace")[: limits.REASON_BYTES_MAX]
    head = _MARK.pack(
        stream, offset, m.attempts, m.due_ms, m.flags, m.first_ms, m.last_ms, m.priority,
        len(m.key), len(reason),
    )  # fmt: skip
    return head + m.key + reason


class _Reader:
    """Takes packed rows off the front of bytes; struct.error where they end early."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def row(self, kind: struct.Struct) -> tuple[Any, ...]:
        found = kind.unpack_from(self.data, self.at)
        self.at += kind.size
        return found

    def rows(self, kind: struct.Struct, count: int) -> Iterator[tuple[Any, ...]]:
        end = self.at + kind.size * count
        if end > len(self.data):
            raise struct.error("rows end early")
        begin, self.at = self.at, end
        return kind.iter_unpack(self.data[begin:end])

    def bytes(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise struct.error("bytes end early")
        begin, self.at = self.at, end
        return self.data[begin:end]

    def mark(self) -> tuple[int, int, Mark]:
        stream, offset, attempts, due, flags, first, last, priority, key, reason = self.row(_MARK)
        mark = Mark(
            attempts, due, flags, first, last, priority, self.bytes(key),
            self.bytes(reason).decode("utf-8", "replace"),
        )  # fmt: skip
        return stream, offset, mark


def unpack_deltas(data: bytes) -> list[JournalRecord]:
    """Read back ``pack_deltas``; ValueError or struct.error if it is malformed."""
    reader = _Reader(data)
    records: list[JournalRecord] = []
    while reader.at < len(data):
        if data[reader.at] == 1:
            _, instance, number, count = reader.row(_TRANSACTION)
            offsets = struct.unpack(f"<{count}Q", reader.bytes(8 * count))
            records.append(TransactionDelta(instance, number, offsets))
        elif data[reader.at] == 2:
            _, begins, ends, has_delta = reader.row(_SUMMED)
            records.append(Summed(begins, ends, _unpack_delta(reader) if has_delta else None))
        else:
            records.append(_unpack_delta(reader))
    return records


def _unpack_delta(reader: _Reader) -> Delta:
    _, group, resets, ahead, size, *counts = reader.row(_DELTA)
    cursors, floors, settled, marks, unmarked, dedups, reached = counts
    settings = _settings(reader.bytes(size)) if size else None
    return Delta(
        group,
        settings,
        bool(resets),
        tuple(reader.rows(_CURSOR, cursors)),
        tuple(reader.rows(_FLOOR, floors)),
        tuple(reader.rows(_RUN, settled)),
        tuple([reader.mark() for _ in range(marks)]),
        tuple(reader.rows(_UNMARKED, unmarked)),
        tuple(reader.rows(_DEDUP, dedups)),
        tuple(reader.rows(_CURSOR, reached)),
        ahead,
    )


def _settings(data: bytes) -> Settings:
    """Settings from JSON; fields that this version does not know are another version's."""
    found = json.loads(data)
    settings = Settings(**{k: v for k, v in found.items() if k in Settings._fields})
    lsn, slot = settings.made
    return settings._replace(made=(lsn, slot))


def pack_state(state: JournalState) -> bytes:
    """All groups, for a segment's snapshot."""
    parts = [_STATE.pack(state.next_id, len(state.groups), len(state.transactions))]
    for group in state.groups.values():
        settings = json.dumps(group.settings._asdict()).encode()
        parts.append(
            _GROUP_HEAD.pack(
                len(settings), len(group.cursors), len(group.streams), len(group.marks),
                len(group.dedups), len(group.reached), group.ahead,
            )
        )  # fmt: skip
        parts.append(settings)
        parts += [_CURSOR.pack(source, *place) for source, place in group.reached.items()]
        parts += [_CURSOR.pack(source, *place) for source, place in group.cursors.items()]
        for stream, held in group.streams.items():
            parts.append(_STREAM.pack(stream, held.floor, len(held.chunks)))
            parts += [
                _CHUNK_ROW.pack(number, bits.to_bytes(CHUNK // 8, "little"))
                for number, bits in held.chunks.items()
            ]
        parts += [_pack_mark(*key, mark) for key, mark in group.marks.items()]
        parts += [_DEDUP.pack(dedup, *row) for dedup, row in group.dedups.items()]
    for instance, (number, offsets) in state.transactions.items():
        parts.append(pack_deltas([TransactionDelta(instance, number, offsets)]))
    return b"".join(parts)


def unpack_state(data: bytes) -> JournalState:
    """Read back ``pack_state``; empty bytes are a log without groups."""
    state = JournalState()
    if not data:
        return state
    reader = _Reader(data)
    state.next_id, groups, transactions = reader.row(_STATE)
    for _ in range(groups):
        size, cursors, streams, marks, dedups, reached, ahead = reader.row(_GROUP_HEAD)
        settings = _settings(reader.bytes(size))
        group = state.groups[settings.id] = GroupState(settings, ahead=ahead)
        group.reached = {s: (lsn, slot) for s, lsn, slot in reader.rows(_CURSOR, reached)}
        group.cursors = {s: (lsn, slot) for s, lsn, slot in reader.rows(_CURSOR, cursors)}
        for _ in range(streams):
            stream, floor, chunks = reader.row(_STREAM)
            held = group.streams[stream] = OffsetSet(floor)
            for number, bits in reader.rows(_CHUNK_ROW, chunks):
                held.chunks[number] = int.from_bytes(bits, "little")
            held.above = sum([bits.bit_count() for bits in held.chunks.values()])
        for _ in range(marks):
            stream, offset, mark = reader.mark()
            group.marks[stream, offset] = mark
        for dedup, stream, offset, time_ms in reader.rows(_DEDUP, dedups):
            group.dedups[dedup] = (stream, offset, time_ms)
    for record in unpack_deltas(data[reader.at :]) if transactions else ():
        assert isinstance(record, TransactionDelta)
        state.transactions.note(record.instance, record.id, record.offsets)
    return state
