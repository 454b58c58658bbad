"""Subscriptions of one node: who gets which batch, from memory or from the log, within credit.

Data: a Subscription per (link, number); ``_recent`` the newest commits, in memory; ``_interest``
which subscriptions want a topic, filled as topics come up.

Rules:
1. Durable batches go out in log order, only after their commit. A subscription is *live* (at the
   end of the log, fed by ``on_commit``) or reads on from its cursor: from ``_recent`` while that
   reaches back far enough, else from the log, one read at a time. The change has no gap because
   the cursor is the same number on both sides.
2. Nothing is sent without credit, in bytes and in records; a batch is never split, so credit may
   be overdrawn by one batch. What a subscription is behind costs no memory.
3. Transient batches wait for credit in the subscription's own queue, bounded in bytes: the oldest
   are dropped for that subscription alone, counted, and told with the next delivery.
4. While more than its budget is on the way to all subscribers together, the node sends only to
   links that have acknowledged everything; the others wait in ``_denied``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from meshmq import limits
from meshmq.core.effects import ReadLog
from meshmq.core.log import Commit, StoredBatch
from meshmq.core.topics import Topic, Topics
from meshmq.errors import InvalidName
from meshmq.frames import (
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_TIME,
    Deliver,
    DeliverBatch,
    Subscribe,
    Subscribed,
)
from meshmq.names import check_pattern, is_literal, matches


class _Queued(NamedTuple):
    row: DeliverBatch
    payload: bytes


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscription of one client.

    Attributes:
        credit_bytes, credit_records: what may still be sent.
        lsn, slot: cursor, the next place in the log to look at.
        start: where the first read begins, until it is made.
        is_live: the cursor is at the end of the log.
        reading: number of the read under way, 0 if none.
        queue: transient batches that wait for credit.
        dropped: transient records dropped and not yet told.
    """

    link: bytes
    number: int
    pattern: str
    credit_bytes: int
    credit_records: int
    lsn: int = 1
    slot: int = 0
    start: tuple[str, int, int] | None = None
    is_live: bool = False
    reading: int = 0
    queue: deque[_Queued] = field(default_factory=deque)
    queue_bytes: int = 0
    dropped: int = 0
    dropped_total: int = 0
    delivered: int = 0
    streams: frozenset[int] = frozenset()
    streams_version: int = -1

    @property
    def has_credit(self) -> bool:
        return self.credit_bytes > 0 and self.credit_records > 0


class Delivery:
    """See the module's header. Effects and frames gather in ``reads`` and ``sends``.

    Attributes:
        delivered, dropped, damaged: records so far.
        is_crowded: rule 4 is on; set by the owner.
        burdened: links with unacknowledged deliveries; kept by the owner.
        queued_bytes: transient batches that wait for credit, of all subscriptions.
        damaged_ranges: (topic, first offset) -> next offset, of what readers met damaged.
    """

    def __init__(self, topics: Topics, next_lsn: int, recent_bytes: int, queue_bytes: int) -> None:
        self._topics = topics
        self._recent_bytes_max = recent_bytes
        self._queue_bytes_max = queue_bytes
        self.committed_lsn = next_lsn - 1
        self._subscriptions: dict[tuple[bytes, int], Subscription] = {}
        self._reads: dict[int, Subscription] = {}
        self._last_read = 0
        self._recent: deque[Commit] = deque()
        self._recent_bytes = 0
        self._interest: dict[str, tuple[Subscription, ...]] = {}
        self.reads: list[ReadLog] = []
        self.sends: list[tuple[bytes, Deliver]] = []
        self.delivered = 0
        self.dropped = 0
        self.damaged = 0
        self.is_crowded = False
        self.burdened: set[bytes] = set()
        self._denied: dict[int, Subscription] = {}
        self.queued_bytes = 0
        self.damaged_ranges: dict[tuple[str, int], int] = {}

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def subscriptions(self) -> Iterable[Subscription]:
        return self._subscriptions.values()

    def held_bytes(self) -> int:
        """Payload bytes in memory: the newest commits and what waits for credit."""
        return self._recent_bytes + self.queued_bytes

    # -- coming and going -------------------------------------------------------------------

    def subscribe(self, link: bytes, frame: Subscribe, origin: bytes) -> Subscribed:
        """Open a subscription and begin to feed it; the answer to send before anything else."""
        number = frame.subscription
        try:
            pattern = check_pattern(frame.pattern)
        except InvalidName as error:
            return Subscribed(number, error.code, str(error))
        mine = sum(1 for key in self._subscriptions if key[0] == link)
        if mine >= limits.SUBSCRIPTIONS_PER_SESSION_MAX:
            return Subscribed(
                number, "limit",
                f"{mine} subscriptions on one connection, the limit is "
                f"{limits.SUBSCRIPTIONS_PER_SESSION_MAX}",
            )  # fmt: skip
        self.unsubscribe(link, number)
        sub = Subscription(
            link, number, pattern,
            min(frame.credit_bytes, limits.CREDIT_BYTES_MAX),
            min(frame.credit_records, limits.CREDIT_RECORDS_MAX),
        )  # fmt: skip
        refusal = self._place(sub, frame, origin)
        if refusal is not None:
            return refusal
        self._subscriptions[link, number] = sub
        self._interest.clear()
        topics = sum(1 for name in self._topics.by_name if matches(pattern, name))
        return Subscribed(number, "", "", origin, sub.lsn, sub.slot, topics)

    def _place(self, sub: Subscription, frame: Subscribe, origin: bytes) -> Subscribed | None:
        end = self.committed_lsn + 1
        match frame.start:
            case k if k == START_NEW:
                sub.lsn, sub.is_live = end, True
            case k if k == START_EARLIEST:
                pass
            case k if k == START_TIME:
                sub.start = ("time", frame.value, 0)
            case k if k == START_OFFSET:
                return self._place_offset(sub, frame.value)
            case _:
                # A position in another log says nothing here: all of this one is unseen.
                if frame.origin == origin:
                    sub.lsn, sub.slot = max(1, frame.lsn), frame.slot
        return None

    def _place_offset(self, sub: Subscription, offset: int) -> Subscribed | None:
        if not is_literal(sub.pattern):
            return Subscribed(
                sub.number, "invalid-argument",
                f"an offset belongs to one stream, {sub.pattern!r} may match many topics",
            )  # fmt: skip
        topic = self._topics.by_name.get(sub.pattern)
        have = topic.synced_offset if topic is not None else 0
        if topic is not None and not topic.entry.durable:
            return Subscribed(
                sub.number, "durability-unavailable",
                f"topic {sub.pattern!r} is transient and keeps no offsets",
            )  # fmt: skip
        if not 0 <= offset <= have:
            return Subscribed(
                sub.number, "offset-out-of-range",
                f"offset {offset} of topic {sub.pattern!r} does not exist: the next is {have}",
            )  # fmt: skip
        if offset == have:
            sub.lsn, sub.is_live = self.committed_lsn + 1, True
        else:
            sub.start = ("offset", offset, 0)
        return None

    def unsubscribe(self, link: bytes, number: int) -> None:
        sub = self._subscriptions.pop((link, number), None)
        if sub is not None:
            self._reads.pop(sub.reading, None)
            self._interest.clear()
            self.queued_bytes -= sub.queue_bytes

    def drop_link(self, link: bytes) -> None:
        """Forget every subscription of a session that ended."""
        for key in [k for k in self._subscriptions if k[0] == link]:
            self.unsubscribe(*key)

    def grant(self, link: bytes, number: int, size: int, records: int) -> None:
        """The client can take so much more."""
        sub = self._subscriptions.get((link, number))
        if sub is not None:
            sub.credit_bytes = min(sub.credit_bytes + size, limits.CREDIT_BYTES_MAX)
            sub.credit_records = min(sub.credit_records + records, limits.CREDIT_RECORDS_MAX)
            self.feed(sub)

    def feed_number(self, link: bytes, number: int) -> None:
        """Begin to feed a subscription just opened."""
        sub = self._subscriptions.get((link, number))
        if sub is not None:
            self.feed(sub)

    # -- what comes in ----------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> None:
        """A commit is synced: keep it at hand and feed those that are live."""
        self.committed_lsn = commit.lsn
        self._recent.append(commit)
        self._recent_bytes += _memory_of(commit)
        while self._recent_bytes > self._recent_bytes_max and len(self._recent) > 1:
            old = self._recent.popleft()
            self._recent_bytes -= _memory_of(old)
        touched: dict[int, Subscription] = {}
        by_stream = self._topics.by_stream
        for stream in {b.stream: None for b in commit.batches}:
            topic = by_stream.get(stream)
            if topic is not None:
                for sub in self._wanting(topic):
                    touched[id(sub)] = sub
        for sub in touched.values():
            if sub.is_live:
                sub.is_live = False
                sub.lsn, sub.slot = commit.lsn, 0
                self.feed(sub)

    def on_transient(self, topic: Topic, row: DeliverBatch, payload: bytes) -> list[Subscription]:
        """Queue a transient batch for whoever wants it; ``flush`` those it returns."""
        subs = self._wanting(topic)
        for sub in subs:
            sub.queue.append(_Queued(row, payload))
            sub.queue_bytes += row.length
            self.queued_bytes += row.length
        return list(subs)

    def on_read(self, reader: int, batches: Iterable[StoredBatch], lsn: int, slot: int) -> None:
        """Deliver what a read brought and read on while there is credit."""
        sub = self._reads.pop(reader, None)
        if sub is None or sub.reading != reader:
            return
        sub.reading = 0
        sub.lsn, sub.slot = lsn, slot
        rows: list[_Queued] = []
        size = records = 0
        credit = sub.credit_records
        for b in batches:
            topic = self._topics.by_stream.get(b.stream)
            if topic is None:
                continue
            if records >= credit:
                sub.lsn, sub.slot = b.lsn, b.slot  # read again when there is credit
                break
            records += b.count
            row = DeliverBatch(
                topic.entry.name, b.base_offset, b.count, len(b.payload), b.checksum,
                b.append_time_ns, b.lsn, b.slot, b.damaged,
            )  # fmt: skip
            if b.damaged:
                self._note_damage(topic, b)
            if rows and size + row.length > limits.BATCH_BYTES_TARGET * 5 // 4:
                self._deliver(sub, rows)
                rows, size = [], 0
            rows.append(_Queued(row, b.payload))
            size += row.length
        if rows:
            self._deliver(sub, rows)
        self.feed(sub)

    def _note_damage(self, topic: Topic, batch: StoredBatch) -> None:
        self.damaged += batch.count
        ranges = self.damaged_ranges
        ranges.setdefault((topic.entry.name, batch.base_offset), batch.base_offset + batch.count)
        if len(ranges) > limits.DAMAGE_TOLD_MAX:
            del ranges[next(iter(ranges))]

    # -- what goes out ----------------------------------------------------------------------

    def _may_send(self, sub: Subscription) -> bool:
        if not sub.has_credit:
            return False
        if self.is_crowded and sub.link in self.burdened:
            self._denied[id(sub)] = sub
            return False
        return True

    def feed_denied(self) -> None:
        """Acknowledgements came: try again for those that rule 4 held back."""
        if not self._denied:
            return
        denied, self._denied = self._denied, {}
        for sub in denied.values():
            if self._subscriptions.get((sub.link, sub.number)) is sub:
                self.feed(sub)

    def feed(self, sub: Subscription) -> None:
        """Send what credit allows: transient batches that wait, then the log from the cursor."""
        if sub.queue:
            self.flush(sub)
        while not sub.is_live and not sub.reading and self._may_send(sub):
            if sub.lsn > self.committed_lsn and sub.start is None:
                sub.is_live = True
            elif sub.start is None and self._recent and sub.lsn >= self._recent[0].lsn:
                self._feed_recent(sub)
            elif not self._read(sub):
                sub.lsn, sub.slot, sub.start = self.committed_lsn + 1, 0, None

    def _read(self, sub: Subscription) -> bool:
        streams = self._streams_of(sub)
        if not streams or self.committed_lsn == 0:
            return False
        self._last_read += 1
        start = sub.start if sub.start is not None else ("position", sub.lsn, sub.slot)
        sub.start = None
        sub.reading = self._last_read
        self._reads[sub.reading] = sub
        most = min(limits.READ_BYTES_MAX, sub.credit_bytes)
        self.reads.append(ReadLog(sub.reading, streams, start, self.committed_lsn, most))
        return True

    def _feed_recent(self, sub: Subscription) -> None:
        """One delivery from the commits in memory, and the cursor behind it."""
        streams = self._streams_of(sub)
        by_stream = self._topics.by_stream
        rows: list[_Queued] = []
        size = records = 0
        index = sub.lsn - self._recent[0].lsn
        most = min(limits.BATCH_BYTES_TARGET, sub.credit_bytes)
        while index < len(self._recent):
            commit = self._recent[index]
            for slot in range(sub.slot, len(commit.batches)):
                b = commit.batches[slot]
                if b.stream not in streams:
                    continue
                if rows and (size >= most or records >= sub.credit_records
                             or size + len(b.payload) > limits.DELIVER_BYTES_MAX
                             or len(rows) == limits.FRAME_BATCHES_MAX):  # fmt: skip
                    sub.lsn, sub.slot = commit.lsn, slot
                    self._deliver(sub, rows)
                    return
                row = DeliverBatch(
                    by_stream[b.stream].entry.name, b.base_offset, b.count, len(b.payload),
                    b.checksum, commit.append_time_ns, commit.lsn, slot,
                )  # fmt: skip
                rows.append(_Queued(row, b.payload))
                size += row.length
                records += b.count
            index += 1
            sub.lsn, sub.slot = commit.lsn + 1, 0
        if rows:
            self._deliver(sub, rows)

    def flush(self, sub: Subscription) -> None:
        """Send transient batches within credit, then drop the oldest over the queue's bound."""
        queue = sub.queue
        while queue and self._may_send(sub):
            rows: list[_Queued] = []
            size = records = 0
            while queue and len(rows) < limits.FRAME_BATCHES_MAX:
                if rows and (
                    size >= sub.credit_bytes
                    or records >= sub.credit_records
                    or size + queue[0].row.length > limits.BATCH_BYTES_TARGET * 5 // 4
                ):
                    break
                rows.append(queue.popleft())
                size += rows[-1].row.length
                records += rows[-1].row.count
            sub.queue_bytes -= size
            self.queued_bytes -= size
            self._deliver(sub, rows)
        # The newest stays, so that there is always a delivery to tell of those dropped.
        while len(queue) > 1 and (
            sub.queue_bytes > self._queue_bytes_max
            or self.queued_bytes > limits.TRANSIENT_QUEUES_BYTES_MAX
        ):
            old = queue.popleft().row
            sub.queue_bytes -= old.length
            self.queued_bytes -= old.length
            sub.dropped += old.count
            sub.dropped_total += old.count
            self.dropped += old.count

    def _deliver(self, sub: Subscription, rows: list[_Queued]) -> None:
        while len(rows) > limits.FRAME_BATCHES_MAX:
            self._deliver(sub, rows[: limits.FRAME_BATCHES_MAX])
            rows = rows[limits.FRAME_BATCHES_MAX :]
        payload = rows[0].payload if len(rows) == 1 else b"".join([r.payload for r in rows])
        records = sum([r.row.count for r in rows])
        sub.credit_bytes -= len(payload)
        sub.credit_records -= records
        sub.delivered += records
        self.delivered += records
        if self.is_crowded and payload:
            self.burdened.add(sub.link)  # one delivery each, until it is acknowledged
        missed, sub.dropped = sub.dropped, 0
        frame = Deliver(sub.number, tuple([r.row for r in rows]), missed, payload)
        self.sends.append((sub.link, frame))

    def _wanting(self, topic: Topic) -> tuple[Subscription, ...]:
        name = topic.entry.name
        found = self._interest.get(name)
        if found is None:
            found = tuple(sub for sub in self._subscriptions.values() if matches(sub.pattern, name))
            self._interest[name] = found
        return found

    def _streams_of(self, sub: Subscription) -> frozenset[int]:
        if sub.streams_version != self._topics.version:
            sub.streams_version = self._topics.version
            sub.streams = frozenset(
                alias
                for alias, topic in self._topics.by_stream.items()
                if matches(sub.pattern, topic.entry.name)
            )
        return sub.streams


def _memory_of(commit: Commit) -> int:
    """About what ``commit`` takes in memory: with small batches, mostly not their bytes."""
    batches = commit.batches
    own = limits.COMMIT_MEMORY_BYTES + limits.BATCH_MEMORY_BYTES * len(batches)
    return own + sum([len(batch.payload) for batch in batches])
