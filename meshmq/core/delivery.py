"""Subscriptions of one node: who gets which batch, within credit.

Data: a Subscription per (link, number), each a reader of the log (core/feed.py).

Rules:
1. Durable batches go out as the feed gives them: in log order, only after their commit.
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
from meshmq.core.feed import Feed, Reader
from meshmq.core.log import StoredBatch
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


@dataclass(slots=True, eq=False, kw_only=True)
class Subscription(Reader):
    """One subscription of one client.

    Attributes:
        queue: transient batches that wait for credit.
        dropped: transient records dropped and not yet told.
    """

    link: bytes
    number: int
    queue: deque[_Queued] = field(default_factory=deque)
    queue_bytes: int = 0
    dropped: int = 0
    dropped_total: int = 0
    delivered: int = 0


class Delivery(Feed):
    """See the module's header. Effects and frames gather in ``reads`` and ``sends``.

    Attributes:
        delivered, dropped, damaged: records so far.
        is_crowded: rule 4 is on; set by the owner.
        burdened: links with unacknowledged deliveries; kept by the owner.
        queued_bytes: transient batches that wait for credit, of all subscriptions.
        damaged_ranges: (topic, first offset) -> next offset, of what readers met damaged.
    """

    def __init__(self, topics: Topics, next_lsn: int, recent_bytes: int, queue_bytes: int) -> None:
        super().__init__(topics, next_lsn, recent_bytes)
        self._queue_bytes_max = queue_bytes
        self._subscriptions: dict[tuple[bytes, int], Subscription] = {}
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
            pattern,
            min(frame.credit_bytes, limits.CREDIT_BYTES_MAX),
            min(frame.credit_records, limits.CREDIT_RECORDS_MAX),
            link=link,
            number=number,
        )
        refusal = self._place(sub, frame, origin)
        if refusal is not None:
            return refusal
        self._subscriptions[link, number] = sub
        self.add_reader(sub)
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
            self.remove_reader(sub)
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

    def on_transient(self, topic: Topic, row: DeliverBatch, payload: bytes) -> list[Subscription]:
        """Queue a transient batch for whoever wants it; ``flush`` those it returns."""
        subs = [r for r in self.wanting(topic) if isinstance(r, Subscription)]
        for sub in subs:
            sub.queue.append(_Queued(row, payload))
            sub.queue_bytes += row.length
            self.queued_bytes += row.length
        return subs

    def _give(self, reader: Reader, batches: list[StoredBatch]) -> None:
        """Send log batches to a subscription; other readers take them as they like."""
        if not isinstance(reader, Subscription):
            super()._give(reader, batches)
            return
        rows: list[_Queued] = []
        by_stream = self._topics.by_stream
        for b in batches:
            topic = by_stream[b.stream]
            if b.damaged:
                self._note_damage(topic, b)
            row = DeliverBatch(
                topic.entry.name, b.base_offset, b.count, len(b.payload), b.checksum,
                b.append_time_ns, b.lsn, b.slot, b.damaged,
            )  # fmt: skip
            rows.append(_Queued(row, b.payload))
        self._deliver(reader, rows)

    def _note_damage(self, topic: Topic, batch: StoredBatch) -> None:
        self.damaged += batch.count
        ranges = self.damaged_ranges
        ranges.setdefault((topic.entry.name, batch.base_offset), batch.base_offset + batch.count)
        if len(ranges) > limits.DAMAGE_TOLD_MAX:
            del ranges[next(iter(ranges))]

    # -- what goes out ----------------------------------------------------------------------

    def may_send_to(self, link: bytes) -> bool:
        """Rule 4, for others that send batches."""
        return not (self.is_crowded and link in self.burdened)

    def _may_feed(self, reader: Reader) -> bool:
        return self._may_send(reader) if isinstance(reader, Subscription) else reader.has_credit

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

    def feed(self, reader: Reader) -> None:
        """Send what credit allows: transient batches that wait, then the log from the cursor."""
        if isinstance(reader, Subscription) and reader.queue:
            self.flush(reader)
        super().feed(reader)

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
