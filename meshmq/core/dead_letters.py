"""Moves records: to the dead letters, and from there back into their group.

Both need the record's bytes, so it is fetched first. Until then its mark (or its place among the
dead letters) says where it is; the move itself is one commit: the copy appended and the original
settled, or neither. A copy needs room above the disk's reserve: without it nothing moves, and what
waits to is handed out to nobody, and goes on when there is room.

A dead letter is the record as it was, with its lineage in headers that begin with ``$``. Put back,
it goes into a topic that only its own group reads, with the lineage kept, so that others who read
the original topic do not get it twice.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from meshmq import limits
from meshmq.core.batches import BatchTools, Records
from meshmq.core.feed import Reader
from meshmq.core.journal import REJECTED, Mark
from meshmq.core.log import StoredBatch
from meshmq.errors import BadFrame
from meshmq.names import dead_letters_of, queue_of, retries_of

if TYPE_CHECKING:
    from meshmq.core.group_waiting import Waiting

ERROR, REASON, ATTEMPTS, FIRST, LAST = "$error", "$reason", "$attempts", "$first-time", "$last-time"
TOPIC, STREAM, OFFSET, GROUP, REPLAYS = "$topic", "$stream", "$offset", "$group", "$replays"
ERROR_CHARACTERS_MAX = limits.REASON_BYTES_MAX
READ_BYTES = 32 * limits.KIB  # each record gets headers of its own, which takes some 20 us
LINEAGE_BYTES = 512  # about what the headers of a copy take, without the reason
_COUNT = re.compile("[0-9]{1,18}")  # a program may write anything into its headers


Lineage = Callable[[int, Mapping[str, str]], dict[str, str]]
"""Headers of the copy: from the record's place among those moved, and the headers it has."""


class Move(NamedTuple):
    """Records for a topic of the mesh's own, with this turn's commit."""

    topic: str
    payload: bytes
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs


class Undertaker(Reader):
    """See the module's header. Moves gather in ``moves``."""

    __slots__ = ("_heap", "_is_held", "_needs", "_owner", "_waiting", "_wanted", "moves")

    def __init__(self, owner: Waiting) -> None:
        super().__init__("", 1 << 62, 1 << 62, is_live=True, is_patient=True)
        self._owner = owner
        self._waiting: dict[tuple[int, int], bool] = {}  # whether it is to be put back
        self._heap: list[tuple[int, int]] = []
        self._wanted = (0, 0)
        self._needs = READ_BYTES  # room for the next copy, as far as that is known
        self._is_held = False  # something was read that there is no room for
        self.moves: list[Move] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def dying(self) -> int:
        """Records of the group on their way to the dead letters."""
        return len(self._waiting) - sum(self._waiting.values())

    def has(self, stream: int, offset: int) -> bool:
        return (stream, offset) in self._waiting

    def bury(self, stream: int, offset: int) -> None:
        """A marked record goes to the dead letters."""
        self._add(stream, offset, False)

    def put_back(self, stream: int, offset: int) -> None:
        """A dead letter goes back into its group."""
        self._add(stream, offset, True)

    def _add(self, stream: int, offset: int, is_back: bool) -> None:
        if (stream, offset) not in self._waiting:
            self._waiting[stream, offset] = is_back
            heapq.heappush(self._heap, (stream, offset))
        self._owner.wake()

    def drop(self, stream: int, offset: int) -> None:
        """This one is gone."""
        self._waiting.pop((stream, offset), None)

    def leave(self, stream: int, before: int, first: int) -> None:
        """What is from ``first`` to before an offset is not its own to move."""
        for key in [k for k in self._waiting if k[0] == stream and first <= k[1] < before]:
            del self._waiting[key]

    def clear(self) -> None:
        """Forget what waits (dead letters themselves stay where they are)."""
        self._waiting.clear()
        self._heap.clear()
        self.reading = 0

    def pump(self) -> None:
        """Fetch the next one."""
        if self.reading:
            return
        heap = self._heap
        while heap:
            if heap[0] not in self._waiting:
                heapq.heappop(heap)
                continue
            stream, offset = heap[0]
            topic = self._owner.topics.by_stream.get(stream)
            if topic is None or offset < topic.first_offset:
                self._lose(stream, offset)
                continue
            if not self._has_room(self._needs if heap[0] == self._wanted else READ_BYTES):
                return
            self._wanted = heap[0]
            self._owner.feed.fetch(self, stream, offset, READ_BYTES)
            return

    def _has_room(self, size: int) -> bool:
        shared = self._owner.shared
        if shared.admission.takes(shared.moving_bytes + size):
            return True
        shared.cramped.add(self._owner)  # type: ignore[arg-type]  # always a Group
        return False

    def _lose(self, stream: int, offset: int) -> None:
        """The record is no longer in the log."""
        if not self._waiting.pop((stream, offset)):
            self._owner.forget(stream, offset)

    def needs(self, batch: StoredBatch) -> bool:
        offsets = range(batch.base_offset, batch.base_offset + batch.count)
        return any((batch.stream, offset) in self._waiting for offset in offsets)

    def take(self, batches: list[StoredBatch]) -> None:
        """Move what of these batches waits for that."""
        waiting = self._waiting
        for b in batches:
            dead: list[int] = []
            back: list[int] = []
            for offset in range(b.base_offset, b.base_offset + b.count):
                is_back = waiting.get((b.stream, offset))
                if is_back is not None:
                    (back if is_back else dead).append(offset)
            if not dead and not back:
                continue
            self._needs = self._size_of(b, dead, back)
            if self._is_held or not self._has_room(self._needs):
                self._is_held = True
                return
            self._needs = READ_BYTES
            for offset in (*dead, *back):
                del waiting[b.stream, offset]
            if dead:
                self._bury(b, dead)
            if back:
                self._put_back(b, back)

    def _size_of(self, b: StoredBatch, dead: list[int], back: list[int]) -> int:
        """About how many bytes the copies take."""
        moved = len(dead) + len(back)
        marks = self._owner.state.marks
        found = [marks[b.stream, o] for o in dead if (b.stream, o) in marks]
        size = len(b.payload) * moved // b.count + moved * LINEAGE_BYTES
        return size + sum([len(mark.reason) for mark in found])

    def read_done(self) -> None:
        """What was asked for and did not come is no longer in the log."""
        is_held, self._is_held = self._is_held, False
        if self._wanted in self._waiting and not is_held:
            self._lose(*self._wanted)
        self._owner.wake()

    def _bury(self, b: StoredBatch, offsets: Sequence[int]) -> None:
        owner = self._owner
        marks = [owner.state.marks.get((b.stream, offset)) or Mark(0, 0) for offset in offsets]
        topic = owner.topics.by_stream[b.stream].entry.name

        def lineage(i: int, had: Mapping[str, str]) -> dict[str, str]:
            came = lineage_of(had, topic, owner.origin, offsets[i], owner.settings.name)
            return {**had, **came, **death_of(marks[i], had)}

        self._move(dead_letters_of(owner.settings.name), b, offsets, lineage)
        for offset, mark in zip(offsets, marks, strict=True):
            owner.settle_run(b.stream, offset, 1, True)
            owner.gone(b.stream, offset, mark)
        owner.buried += len(offsets)

    def _put_back(self, b: StoredBatch, offsets: Sequence[int]) -> None:
        def lineage(i: int, had: Mapping[str, str]) -> dict[str, str]:
            kept = {k: v for k, v in had.items() if not k.startswith("$")}
            kept |= {k: had[k] for k in (TOPIC, STREAM, OFFSET, GROUP) if k in had}
            replays = had.get(REPLAYS, "0")
            kept[REPLAYS] = str(int(replays) + 1 if _COUNT.fullmatch(replays) else 1)
            return kept

        self._move(retries_of(self._owner.settings.name), b, offsets, lineage)
        for offset in offsets:
            self._owner.settle_own(b.stream, offset, 1)

    def _move(self, topic: str, b: StoredBatch, offsets: Sequence[int], lineage: Lineage) -> None:
        tools = self._owner.tools
        try:
            records = tools.decode(b.payload, b.count)
        except BadFrame:  # damaged on the disk: nothing of it can be read, it is counted there
            self._owner.damaged += len(offsets)
            return
        indices = [offset - b.base_offset for offset in offsets]
        headers: list[bytes] = []
        for i, index in enumerate(indices):
            had = {}
            if records.headers is not None:
                try:
                    had = tools.decode_headers(records.headers[index])
                except BadFrame:
                    pass  # what nobody can read is not worth keeping a record for
            headers.append(tools.encode_headers(lineage(i, had)))
        for payload, count in remade(tools, records, indices, headers):
            self.moves.append(Move(topic, payload, count))
            self._owner.shared.moving_bytes += len(payload)


def lineage_of(
    had: Mapping[str, str], topic: str, origin: bytes, offset: int, group: str
) -> dict[str, str]:
    """Where a record came from, if its headers do not say so yet, and whose it is."""
    return {
        TOPIC: had.get(TOPIC) or queue_of(topic) or topic,
        STREAM: had.get(STREAM) or origin.hex(),
        OFFSET: had.get(OFFSET) or str(offset),
        GROUP: group,
    }


def death_of(mark: Mark, had: Mapping[str, str]) -> dict[str, str]:
    """Why a record was given up."""
    return {
        REASON: "rejected" if mark.flags & REJECTED else "max-deliveries",
        ERROR: mark.reason[:ERROR_CHARACTERS_MAX],
        ATTEMPTS: str(mark.attempts),
        FIRST: _time(mark.first_ms),
        LAST: _time(mark.last_ms),
        REPLAYS: had.get(REPLAYS, "0"),
    }


def remade(
    tools: BatchTools, records: Records, indices: Sequence[int], headers: Sequence[bytes]
) -> Iterator[tuple[bytes, int]]:
    """Batches of chosen records with other headers, and how many are in each.

    What a record says of itself makes it longer: one batch may not fit a frame any more.
    """
    keys = None if records.keys is None else [records.keys[i] for i in indices]
    times = None if records.times is None else [records.times[i] for i in indices]
    values = [records.values[i] for i in indices]
    for part in parts_of(values, headers):
        payload = tools.encode(
            values[part], keys and keys[part], headers[part], times and times[part],
            records.time_ns,
        )  # fmt: skip
        yield payload, len(values[part])


def parts_of(values: Sequence[bytes], headers: Sequence[bytes]) -> list[slice]:
    """Where to cut, so that batches stay near BATCH_BYTES_TARGET."""
    cuts, size = [0], 0
    for i, (value, head) in enumerate(zip(values, headers, strict=True)):
        size += len(value) + len(head)
        if size > limits.BATCH_BYTES_TARGET and i > cuts[-1]:
            cuts.append(i)
            size = len(value) + len(head)
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(values)], strict=True)]


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
