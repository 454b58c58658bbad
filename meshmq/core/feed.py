"""Cursors through a node's log: who wants more gets it from memory or from the log, in log order.

Data: a Reader per cursor; ``_recent`` the newest commits, in memory; ``_interest`` which readers
want a topic, filled as topics come up.

Rules:
1. A reader sees durable batches in log order, only after their commit. It is *live* (at the end of
   the log, fed by ``on_commit``) or reads on from its cursor: from ``_recent`` while that reaches
   back far enough, else from the log, one read at a time. The change has no gap because the cursor
   is the same number on both sides.
2. Nothing is given to a reader without room for it; a batch is never split, so the room may be
   overdrawn by one batch. What a reader is behind costs no memory.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from meshmq import limits
from meshmq.core.effects import ReadLog
from meshmq.core.log import Commit, StoredBatch
from meshmq.core.topics import Topic, Topics
from meshmq.frames_copies import Claim, Strand
from meshmq.names import is_literal, matches

UNBOUNDED = 1 << 60
"""Room of a reader, or credit, that never ends."""

FOREIGN_BITS = 40
"""Numbers of reads of another log have something above these."""


@dataclass(slots=True, eq=False)
class Reader:
    """One cursor through the log.

    Attributes:
        pattern: topics it wants.
        credit_bytes, credit_records: room for more.
        lsn, slot: cursor, the next place in the log to look at.
        start: where the first read begins, until it is made.
        is_live: the cursor is at the end of the log.
        is_mending: it waits for a damaged batch that another node may have.
        is_patient: also while that node is away: what it passes over is gone for good.
        order: what was fetched last out of turn.
        reading: number of the read under way, 0 if none.
        reads_log: it wants what is stored; without that it is live for ever, and gets nothing.
        in_order: it waits for what is still to come of a mirrored log before what is there.
        is_bulk: small batches go together to it up to DELIVER_BYTES_MAX, else up to about
            BATCH_BYTES_TARGET.
    """

    in_order: ClassVar[bool] = True
    is_bulk: ClassVar[bool] = False

    pattern: str
    credit_bytes: int
    credit_records: int
    lsn: int = 1
    slot: int = 0
    start: tuple[str, int, int] | None = None
    is_live: bool = False
    reading: int = 0
    streams: frozenset[int] = frozenset()
    streams_version: int = -1
    reads_log: bool = True
    is_mending: bool = False
    is_patient: bool = False
    order: tuple[int, int, int] | None = None

    @property
    def has_credit(self) -> bool:
        return self.credit_bytes > 0 and self.credit_records > 0

    def take(self, batches: list[StoredBatch]) -> None:
        """These are next, in log order."""
        raise AssertionError("a reader says what it does with batches")

    def needs(self, batch: StoredBatch) -> bool:
        """Whether a damaged batch is waited for: what comes with others may be of no use."""
        return True

    def wants(self, name: str) -> bool:
        """Whether it wants a topic, where its pattern is not that topic's name."""
        return matches(self.pattern, name)

    def claims(self) -> tuple[Claim, ...]:
        """Topics that match each of these are all that it may want; none: it may want any."""
        return ()

    def besides(self) -> Sequence[Strand]:
        """What else is read for who is sent this: topics of these strands it does not want."""
        return ()

    def read_done(self) -> None:
        """All that one read of the log brought was taken; it may have been nothing."""


class Feed:
    """See the module's header. Reads gather in ``reads``.

    Attributes:
        committed_lsn: newest commit that is synced.
        mend: whether a reader is to wait for a damaged batch; then it is fed when that is over.
        again: is told of a damaged batch that was had again before: it is damaged still, or anew.
        foreign: feeds of other logs, by what the numbers of their reads begin with.
    """

    def __init__(self, topics: Topics, next_lsn: int, recent_bytes: int) -> None:
        self._topics = topics
        self._recent_bytes_max = recent_bytes
        self.committed_lsn = next_lsn - 1
        self._wild: dict[int, Reader] = {}  # by id(): those with wildcards
        self._literal: dict[str, dict[int, Reader]] = {}  # by topic: the others
        self._reads: dict[int, Reader] = {}
        self._last_read = 0
        self._recent: deque[Commit] = deque()
        self._recent_bytes = 0
        self._interest: dict[str, tuple[Reader, ...]] = {}
        self._policies = -1
        self.reads: list[ReadLog] = []
        self.foreign: dict[int, Feed] = {}
        self.mend: Callable[[Reader, StoredBatch], bool] = _mends_nothing
        self.again: Callable[[StoredBatch], None] = _again_nothing
        self._mended: OrderedDict[tuple[int, int], StoredBatch] = OrderedDict()
        self._mended_bytes = 0

    # -- coming and going -------------------------------------------------------------------

    def add_reader(self, reader: Reader) -> None:
        """Begin to feed a reader, once ``feed`` is called for it."""
        if is_literal(reader.pattern):
            self._literal.setdefault(reader.pattern, {})[id(reader)] = reader
            self._interest.pop(reader.pattern, None)
        else:
            self._wild[id(reader)] = reader
            self._interest.clear()

    def remove_reader(self, reader: Reader) -> None:
        """Feed it no more; an answer to its read is dropped."""
        self._reads.pop(reader.reading, None)
        reader.is_mending = False
        same = self._literal.get(reader.pattern)
        if same is not None and same.pop(id(reader), None) is not None:
            if not same:
                del self._literal[reader.pattern]
            self._interest.pop(reader.pattern, None)
        elif self._wild.pop(id(reader), None) is not None:
            self._interest.clear()

    def readers(self) -> list[Reader]:
        """All there are."""
        named = [r for same in self._literal.values() for r in same.values()]
        return [*self._wild.values(), *named]

    def move_reader(self, reader: Reader, lsn: int, start: tuple[str, int, int] | None) -> None:
        """Read on from somewhere else; what is on its way is dropped."""
        self._reads.pop(reader.reading, None)
        reader.reading = 0
        reader.is_live = reader.is_mending = False
        reader.lsn, reader.slot, reader.start = lsn, 0, start

    # -- what comes in ----------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> None:
        """A commit is synced: keep it at hand and feed those that are live."""
        self.committed_lsn = commit.lsn
        self._recent.append(commit)
        self._recent_bytes += _memory_of(commit)
        while self._recent_bytes > self._recent_bytes_max and len(self._recent) > 1:
            old = self._recent.popleft()
            self._recent_bytes -= _memory_of(old)
        touched: dict[int, Reader] = {}
        by_stream = self._topics.by_stream
        for stream in {b.stream: None for b in commit.batches}:
            topic = by_stream.get(stream)
            if topic is not None:
                for reader in self.wanting(topic):
                    touched[id(reader)] = reader
        for reader in touched.values():
            if reader.is_live and reader.reads_log:
                reader.is_live = False
                reader.lsn, reader.slot = commit.lsn, 0
                self.feed(reader)

    def on_read(self, number: int, batches: Iterable[StoredBatch], lsn: int, slot: int) -> None:
        """Hand on what a read brought and read on while there is room."""
        if number >> FOREIGN_BITS:
            feed = self.foreign.get(number >> FOREIGN_BITS)
            if feed is not None:
                feed.on_foreign_read(number, batches, lsn, slot)
            return
        self._take_read(number, batches, lsn, slot)

    def on_foreign_read(
        self, number: int, batches: Iterable[StoredBatch], lsn: int, slot: int
    ) -> None:
        """A read of another log, whose feed this is."""
        self._take_read(number, batches, lsn, slot)

    def _take_read(self, number: int, batches: Iterable[StoredBatch], lsn: int, slot: int) -> None:
        reader = self._reads.pop(number, None)
        if reader is None or reader.reading != number:
            return
        reader.reading = 0
        reader.lsn, reader.slot = lsn, slot
        found: list[StoredBatch] = []
        size = records = 0
        credit = reader.credit_records
        by_stream = self._topics.by_stream
        most = limits.DELIVER_BYTES_MAX if reader.is_bulk else limits.BATCH_BYTES_TARGET * 5 // 4
        for b in batches:
            if b.stream not in by_stream:
                continue
            if b.damaged:
                b = self._mended.get((b.stream, b.base_offset), b)
                if not b.damaged:
                    self.again(b)
                is_to_wait = b.damaged and (reader.is_patient or not reader.is_live)
                if is_to_wait and reader.needs(b) and self.mend(reader, b):
                    reader.is_mending = True
                    if reader.is_live:  # fetched out of turn: it is fetched once more
                        reader.reading = number
                        return
                    reader.lsn, reader.slot = b.lsn, b.slot
                    break
            if records >= credit:
                reader.lsn, reader.slot = b.lsn, b.slot  # read again when there is room
                break
            records += b.count
            if found and size + len(b.payload) > most:
                self._give(reader, found)
                found, size = [], 0
            found.append(b)
            size += len(b.payload)
        if found:
            self._give(reader, found)
        reader.read_done()
        self.feed(reader)

    def end_of(self, reader: Reader) -> tuple[int, int]:
        """Before which place a reader has all that it wants, when it is live."""
        return self.committed_lsn + 1, 0

    def topic_of(self, stream: int) -> Topic | None:
        """The topic of a stream."""
        return self._topics.by_stream.get(stream)

    def note_mended(self, batch: StoredBatch) -> None:
        """A batch that is damaged on the disk is this."""
        self._mended[batch.stream, batch.base_offset] = batch
        self._mended_bytes += len(batch.payload)
        while self._mended_bytes > limits.MENDED_BYTES_MAX:
            self._mended_bytes -= len(self._mended.popitem(last=False)[1].payload)

    # -- what goes out ----------------------------------------------------------------------

    def feed(self, reader: Reader) -> None:
        """Give what there is room for, from the cursor on."""
        while not (reader.is_live or reader.reading or reader.is_mending) and self._may_feed(
            reader
        ):
            if reader.lsn > self.committed_lsn and reader.start is None:
                reader.is_live = True
            elif reader.start is None and self._recent and reader.lsn >= self._recent[0].lsn:
                self._feed_recent(reader)
            elif not self._read(reader):
                reader.lsn, reader.slot, reader.start = self.committed_lsn + 1, 0, None

    def go_on(self, reader: Reader) -> None:
        """The damaged batch that it waits for is there now, or cannot be had."""
        if not reader.is_mending:
            return  # it was removed, or reads elsewhere
        reader.is_mending = False
        if reader.is_live and reader.order is not None:
            self.fetch(reader, *reader.order)
        else:
            self.feed(reader)

    def may_send_to(self, link: bytes) -> bool:
        """Whether a link may be sent more batches now."""
        return True

    def _may_feed(self, reader: Reader) -> bool:
        return reader.has_credit

    def _give(self, reader: Reader, batches: list[StoredBatch]) -> None:
        reader.take(batches)

    def _read(self, reader: Reader) -> bool:
        streams = self.streams_of(reader)
        if not streams or self.committed_lsn == 0:
            return False
        self._last_read += 1
        start = reader.start if reader.start is not None else ("position", reader.lsn, reader.slot)
        reader.start = None
        reader.reading = self._last_read
        self._reads[reader.reading] = reader
        most = min(limits.READ_BYTES_MAX, reader.credit_bytes)
        self.reads.append(ReadLog(reader.reading, streams, start, self.committed_lsn, most))
        return True

    def fetch(self, reader: Reader, stream: int, offset: int, bytes_max: int) -> None:
        """Read the batch that holds ``offset``, and what follows it, out of turn."""
        self._last_read += 1
        reader.reading = self._last_read
        reader.order, reader.is_mending = (stream, offset, bytes_max), False
        self._reads[reader.reading] = reader
        self.reads.append(
            ReadLog(
                reader.reading, frozenset((stream,)), ("offset", offset, 0), self.committed_lsn,
                bytes_max,
            )
        )  # fmt: skip

    def _feed_recent(self, reader: Reader) -> None:
        """One delivery from the commits in memory, and the cursor behind it."""
        streams = self.streams_of(reader)
        found: list[StoredBatch] = []
        size = records = 0
        index = reader.lsn - self._recent[0].lsn
        target = limits.DELIVER_BYTES_MAX if reader.is_bulk else limits.BATCH_BYTES_TARGET
        most = min(target, reader.credit_bytes)
        while index < len(self._recent):
            commit = self._recent[index]
            for slot in range(reader.slot, len(commit.batches)):
                b = commit.batches[slot]
                if b.stream not in streams:
                    continue
                if found and (size >= most or records >= reader.credit_records
                              or size + len(b.payload) > limits.DELIVER_BYTES_MAX
                              or len(found) == limits.FRAME_BATCHES_MAX):  # fmt: skip
                    reader.lsn, reader.slot = commit.lsn, slot
                    self._give(reader, found)
                    return
                found.append(
                    StoredBatch(
                        b.stream, b.base_offset, b.count, b.payload, b.checksum,
                        commit.append_time_ns, commit.lsn, slot, False,
                        b.producer, b.first, b.moved,
                    )
                )  # fmt: skip
                size += len(b.payload)
                records += b.count
            index += 1
            reader.lsn, reader.slot = commit.lsn + 1, 0
        if found:
            self._give(reader, found)

    def wanting(self, topic: Topic) -> tuple[Reader, ...]:
        """Readers of a topic."""
        name = topic.entry.name
        if self._policies != self._topics.policies:
            self._policies = self._topics.policies  # what is copied may be another now
            self._interest.clear()
        found = self._interest.get(name)
        if found is None:
            found = (
                *self._literal.get(name, {}).values(),
                *(r for r in self._wild.values() if r.wants(name)),
            )
            self._interest[name] = found
        return found

    def streams_of(self, reader: Reader) -> frozenset[int]:
        """Streams of the topics that a reader wants."""
        if reader.streams_version != self._topics.version:
            reader.streams_version = self._topics.version
            if is_literal(reader.pattern):
                topic = self._topics.by_name.get(reader.pattern)
                reader.streams = frozenset((topic.entry.stream,) if topic else ()) - {0}
                return reader.streams
            reader.streams = frozenset(
                alias
                for alias, topic in self._topics.by_stream.items()
                if reader.wants(topic.entry.name)
            )
        return reader.streams


def _mends_nothing(reader: Reader, batch: StoredBatch) -> bool:
    return False


def _again_nothing(batch: StoredBatch) -> None:
    pass


def _memory_of(commit: Commit) -> int:
    """About what ``commit`` takes in memory: with small batches, mostly not their bytes."""
    batches = commit.batches
    own = limits.COMMIT_MEMORY_BYTES + limits.BATCH_MEMORY_BYTES * len(batches)
    return own + sum([len(batch.payload) for batch in batches])
