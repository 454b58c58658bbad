"""What a producer numbers and sends: its lane in each topic, and the batches of it."""

from __future__ import annotations

from collections import deque
from typing import Any

from meshmq.errors import MeshError
from meshmq.frames import SENT, Confirmation

Options = tuple[Any, ...]
"""What the jobs of one batch share; only the codec looks into it, but for:"""

DEDUP_ID = 3
"""Which of them is the id that a job's queue knows it again by, or empty."""

WAITING, DONE, FAILED = range(3)


class Lane:
    """One topic as this producer sees it.

    Attributes:
        tail: highest sequence given out, 0 before the first.
        open: the batch that gathers records now, or None.
        plain: the same while it holds values only and wants the topic's own durability, else None.
        in_flight: batches sent and not answered, oldest first.
        unsettled: closed batches whose end is not known, oldest first.
        held: batches that wait to be numbered anew: until ``in_flight`` has drained, and its queue
            is there.
        missing: its queue, while that has to be made again; else empty.
        is_fresh: nothing of it can be at the node yet: it begins with sequence 1, and whatever was
            sent was refused.
        explicit: whether the program numbers the records itself.
        owner: what the shell hangs here for receipts; the machine never looks at it.
        transient: None until the node has told; then whether the topic keeps nothing.
        way: where its batches leave.
        begins: the next batch is the first of it that this node gets.
        of_run: a producer with a name numbers it automatically: no other run has these numbers.
        is_used: it has given numbers automatically.
        stored: of explicit numbers, all up to it are in the site, or were left out on purpose;
            ``topic_id`` of which topic, ``stored_at`` which log has said so last.
        waits: why copies of what it has sent are not there, as the node said last; or empty.
        reached: of numbers that earlier runs have given automatically, the highest.
    """

    __slots__ = (
        "begins", "explicit", "held", "in_flight", "is_fresh", "is_used", "missing", "of_run",
        "open", "owner", "plain", "reached", "stored", "stored_at", "tail", "topic", "topic_id",
        "transient", "unsettled", "waits", "way",
    )  # fmt: skip

    def __init__(self, topic: str, owner: Any, way: Any, of_run: bool = False) -> None:
        self.way = way
        self.begins = False
        self.of_run = of_run
        self.is_used = False
        self.stored = 0
        self.stored_at = b""
        self.topic_id = b""
        self.reached = 0
        self.topic = topic
        self.owner = owner
        self.tail = 0
        self.open: Batch | None = None
        self.plain: Batch | None = None
        self.in_flight: deque[Batch] = deque()
        self.unsettled: deque[Batch] = deque()
        self.held: list[Batch] = []
        self.missing = ""
        self.waits = ""
        self.explicit = False
        self.is_fresh = True
        self.transient: bool | None = None

    def note_stored(self, c: Confirmation, origin: bytes) -> None:
        """The log ``origin`` has what ``c`` confirms."""
        last = c.first + c.count - 1
        if c.topic_id != self.topic_id and origin == self.stored_at:
            self.stored = last  # the topic was deleted, and made anew
        self.stored = max(self.stored, last)
        self.topic_id, self.stored_at = c.topic_id, origin


class Batch:
    """Records on their way, and what became of them. Receipts look here.

    Attributes:
        first: sequence of the first record still to be stored.
        after: sequence it follows.
        skipped: leading records the node had already; they are not sent again.
        size: bytes accounted.
        options: what its jobs share, or None; one batch's are equal.
        pin: the way it takes whatever its lane does, or None.
        way: the one it takes.
        moved: where it was sent first, if that was another node: see PublishBatch.
        route: how it came to those who wanted it: see Confirmation.
        state: WAITING, DONE or FAILED.
        error: why it has failed; of one that waits, what a receipt or flush has raised of it.
        base_offset: offset of record ``skipped``, or None (transient, or not known any more).
        waiter: what the shell hangs here to be told; the machine never looks at it.
    """

    __slots__ = (
        "after",
        "append_time_ns",
        "attempts",
        "base_offset",
        "checksum",
        "count",
        "duplicate",
        "durability",
        "encoded",
        "error",
        "first",
        "frame",
        "headers",
        "keys",
        "lane",
        "moved",
        "options",
        "origin",
        "pin",
        "route",
        "sent_to",
        "size",
        "skipped",
        "state",
        "time_ns",
        "times",
        "topic_id",
        "values",
        "waiter",
        "wanted",
        "way",
    )

    def __init__(
        self,
        lane: Lane,
        first: int,
        after: int,
        time_ns: int,
        wanted: int,
        options: Options | None = None,
        pin: Any = None,
    ) -> None:
        self.lane = lane
        self.pin = pin
        self.way = pin or lane.way
        self.route = ""
        self.options = options
        self.first = first
        self.after = after
        self.time_ns = time_ns
        self.wanted = wanted
        self.values: list[bytes] = []
        self.keys: list[bytes] | None = None
        self.headers: list[bytes] | None = None
        self.times: list[int] | None = None
        self.size = 0
        self.count = 0
        self.skipped = 0
        self.state = WAITING
        self.error: MeshError | None = None
        self.base_offset: int | None = None
        self.append_time_ns = 0
        self.topic_id = b""
        self.origin = b""
        self.durability = SENT
        self.duplicate = False
        self.encoded: bytes | None = None
        self.checksum: int | None = None
        self.frame = 0
        self.sent_to = b""
        self.moved = b""
        self.attempts = 0
        self.waiter: Any = None

    @property
    def is_told(self) -> bool:
        """Whether the program has heard that it waits for its copies."""
        return self.error is not None and self.error.told

    @property
    def last(self) -> int:
        """Sequence of the last record, of a closed batch."""
        return self.first + self.count - 1


def take_covered(in_flight: deque[Batch], first: int, count: int) -> list[Batch]:
    """Take the batches of ``count`` sequences from ``first``. They are the oldest, except that a
    repeat may be answered after its successors, and a program may number out of order."""
    end = first + count
    found: list[Batch] = []
    while in_flight and first <= in_flight[0].first and in_flight[0].last < end:
        batch = in_flight.popleft()
        count -= batch.count
        found.append(batch)
    if count > 0:
        for batch in [b for b in in_flight if first <= b.first and b.last < end]:
            in_flight.remove(batch)
            found.append(batch)
    return found


def put_column(batch: Batch, name: str, item: bytes | None, index: int) -> int:
    column = getattr(batch, name)
    if column is None:
        column = [b""] * index
        setattr(batch, name, column)
    column.append(item if item is not None else b"")
    return len(item) if item is not None else 0


def put_time(batch: Batch, time_ns: int | None, index: int) -> None:
    if batch.times is None:
        batch.times = [batch.time_ns] * index
    batch.times.append(batch.time_ns if time_ns is None else time_ns)
