"""Subscriptions of one node: who gets which batch, within credit.

Data: a Subscription per (link, number), each a reader of the log (core/feed.py).

Rules:
1. Durable batches go out as the feed gives them: in log order, only after their commit.
2. Nothing is sent without credit, in bytes and in records; a batch is never split, so credit may
   be overdrawn by one batch. What a subscription is behind costs no memory.
3. Transient batches wait for credit in the subscription's own queue, bounded in bytes: the oldest
   are dropped for that subscription alone, counted, and told with the next delivery: those with a
   source by their numbers, as rows of their own, before what is newer of it; the others as a sum.
4. While more than its budget is on the way to all subscribers together, the node sends only to
   links that have acknowledged everything; the others wait in ``_denied``. So do those of a link
   that has LINK_UNACKED_BYTES_MAX on its way: a session with more of it would end.
5. A marker stands behind all that waited when it came, and needs no credit.
6. To a subscription that is held nothing goes: it waits for the answer that opens it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core.claims import claims_of
from meshmq.core.feed import Feed, Reader
from meshmq.core.log import StoredBatch
from meshmq.core.topics import Topic, Topics
from meshmq.core.transients import NOBODY, Direct, has_directly
from meshmq.core.wants import Wants
from meshmq.errors import InvalidName
from meshmq.frames import (
    ALL,
    DURABLE_ONLY,
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_TIME,
    TRANSIENT_ONLY,
    Deliver,
    DeliverBatch,
    Place,
    Published,
    Route,
    Subscribe,
    Subscribed,
)
from meshmq.frames_copies import Claim
from meshmq.names import check_pattern, is_literal, matches


class _Queued(NamedTuple):
    """A batch, or a marker (a row without a topic); ``size`` is what it counts for in a queue."""

    row: DeliverBatch
    payload: bytes
    size: int


_Lost = tuple[bytes, str, str]
"""Of which records some were dropped: the source, the topic, the other site that they come from."""


@dataclass(slots=True, eq=False, kw_only=True)
class Subscription(Reader):
    """One subscription of one client.

    Attributes:
        instance: the program's, or the origin of another node of the site.
        only: which topics: ALL, TRANSIENT_ONLY or DURABLE_ONLY.
        queue: transient batches that wait for credit.
        dropped: transient records without a source that were dropped and are not yet told.
        gaps: by source, topic and site the newest numbers that were dropped and are not yet told:
            the first, and the one behind the last. old_gaps: what was dropped of them before.
        is_held: nothing may go yet.
        meeting: by what its program meets a publisher, see core/introductions.py.
        of_node: another node of the site has it, for its clients: all that was dropped is told
            by topic.
        dedup: it asks who published what the log has.
        own_site: it is to have nothing of other sites.
    """

    link: bytes
    number: int
    instance: bytes = b""
    only: int = ALL
    queue: deque[_Queued] = field(default_factory=deque)
    queue_bytes: int = 0
    dropped: int = 0
    dropped_total: int = 0
    delivered: int = 0
    gaps: dict[_Lost, tuple[int, int]] = field(default_factory=dict)
    old_gaps: list[DeliverBatch] = field(default_factory=list)
    is_held: bool = False
    of_node: bool = False
    dedup: bool = False
    own_site: bool = False
    meeting: tuple[bytes, str] = field(init=False)

    def __post_init__(self) -> None:
        self.meeting = (self.link, self.pattern)

    def claims(self) -> tuple[Claim, ...]:
        return claims_of(self.pattern)

    @property
    def wants_transient(self) -> bool:
        """Whether it is a client's that wants transient topics."""
        return not self.of_node and self.only != DURABLE_ONLY


Takers = tuple[Subscription, ...]
"""Who is to have a transient batch."""


class Delivery(Feed):
    """See the module's header. Effects and frames gather in ``reads`` and ``sends``.

    Attributes:
        delivered, dropped, damaged: records so far.
        is_crowded: rule 4 is on; set by the owner.
        burdened: links with unacknowledged deliveries; kept by the owner.
        unacked: bytes on their way over each link, and LINK_UNACKED_FRAME_BYTES for each frame;
            corrected by the owner.
        queued_bytes: transient batches that wait for credit, of all subscriptions.
        damaged_ranges: (topic, first offset) -> next offset, of what readers met damaged.
        overfull: subscriptions that are held and have no room for more.
        wants: patterns of our clients' subscriptions, for other nodes.
    """

    def __init__(self, topics: Topics, next_lsn: int, recent_bytes: int, queue_bytes: int) -> None:
        super().__init__(topics, next_lsn, recent_bytes)
        self._queue_bytes_max = queue_bytes
        self._subscriptions: dict[tuple[bytes, int], Subscription] = {}
        self._of_instance: dict[bytes, dict[int, Subscription]] = {}  # by id()
        self.sends: list[tuple[bytes, Deliver]] = []
        self.delivered = 0
        self.dropped = 0
        self.damaged = 0
        self.is_crowded = False
        self.burdened: set[bytes] = set()
        self.unacked: dict[bytes, int] = {}
        self._counts: dict[bytes, int] = {}  # subscriptions by link
        self._denied: dict[int, Subscription] = {}
        self.queued_bytes = 0
        self.damaged_ranges: dict[tuple[str, int], int] = {}
        self.overfull: list[Subscription] = []
        self.wants = Wants()

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def subscriptions(self) -> Iterable[Subscription]:
        return self._subscriptions.values()

    def held_bytes(self) -> int:
        """Payload bytes in memory: the newest commits and what waits for credit."""
        return self._recent_bytes + self.queued_bytes

    # -- coming and going -------------------------------------------------------------------

    def subscribe(
        self,
        link: bytes,
        frame: Subscribe,
        origin: bytes,
        instance: bytes = b"",
        of_node: bool = False,
    ) -> Subscribed:
        """Open a subscription and begin to feed it; the answer to send before anything else."""
        number = frame.subscription
        try:
            pattern = check_pattern(frame.pattern)
        except InvalidName as error:
            return Subscribed(number, error.code, str(error))
        mine = self._counts.get(link, 0)
        most = limits.SITE_READINGS_MAX if of_node else limits.SUBSCRIPTIONS_PER_SESSION_MAX
        if mine >= most:
            why = f"{mine} subscriptions on one connection, the limit is {most}"
            return Subscribed(number, "limit", why)
        self.unsubscribe(link, number)
        sub = Subscription(
            pattern,
            min(frame.credit_bytes, limits.CREDIT_BYTES_MAX),
            min(frame.credit_records, limits.CREDIT_RECORDS_MAX),
            link=link,
            number=number,
            instance=instance,
            of_node=of_node,
            only=frame.only,
            dedup=frame.dedup,
            own_site=frame.own_site,
        )
        refusal = self._place(sub, frame, origin)
        if refusal is not None:
            return refusal
        self._subscriptions[link, number] = sub
        self._counts[link] = self._counts.get(link, 0) + 1
        self._of_instance.setdefault(instance, {})[id(sub)] = sub
        self.add_reader(sub)
        if sub.wants_transient:
            self.wants.add(pattern)
        topics = sum(1 for name in self._topics.by_name if matches(pattern, name))
        if sub.start is not None and frame.start != START_OFFSET:
            return Subscribed(number, "", "", origin, 0, 0, topics)  # the read shows where
        return Subscribed(number, "", "", origin, sub.lsn, sub.slot, topics)

    def open_node(self, link: bytes, origin: bytes) -> Subscription:
        """A subscription, number 0, that has what is queued for it and nothing of the log."""
        sub = Subscription(
            "", limits.SITE_CREDIT_BYTES, limits.CREDIT_RECORDS_MAX, is_live=True, link=link,
            number=0, instance=origin, of_node=True,
        )  # fmt: skip
        self._subscriptions[link, 0] = sub
        self._counts[link] = self._counts.get(link, 0) + 1
        self._of_instance.setdefault(origin, {})[id(sub)] = sub
        return sub

    def find(self, link: bytes, number: int) -> Subscription | None:
        """An open subscription."""
        return self._subscriptions.get((link, number))

    def _place(self, sub: Subscription, frame: Subscribe, origin: bytes) -> Subscribed | None:
        end = self.committed_lsn + 1
        if frame.only == TRANSIENT_ONLY:
            sub.lsn, sub.is_live, sub.reads_log = end, True, False
            return None
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
                for log, lsn, slot, *_ in (_own_place(frame), *frame.places):
                    if log == origin:
                        sub.lsn, sub.slot = max(1, lsn), slot
                        return None
                # Of this log nothing was seen since the time it says, or ever.
                if frame.value > 0:
                    sub.start = ("time", frame.value, 0)
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
            if sub.wants_transient:
                self.wants.remove(sub.pattern)
            self._counts[link] -= 1
            if not self._counts[link]:
                del self._counts[link]
            self.queued_bytes -= sub.queue_bytes
            same = self._of_instance[sub.instance]
            del same[id(sub)]
            if not same:
                del self._of_instance[sub.instance]

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

    def hold(self, link: bytes, number: int) -> None:
        """Let nothing go to a subscription just opened before ``feed_number``."""
        self._subscriptions[link, number].is_held = True

    def feed_number(self, link: bytes, number: int) -> None:
        """Begin to feed a subscription just opened."""
        sub = self._subscriptions.get((link, number))
        if sub is not None:
            sub.is_held = False
            self.feed(sub)

    # -- what comes in ----------------------------------------------------------------------

    def subscribed_to(self, topic: Topic) -> list[Subscription]:
        """Which clients want a transient topic of our own site."""
        return [r for r in self.wanting(topic) if isinstance(r, Subscription) and r.wants_transient]

    def _takers(self, topic: Topic, site: str) -> list[Subscription]:
        """Which want it of a site; empty: of our own."""
        return [s for s in self.subscribed_to(topic) if not (site and s.own_site)]

    def on_transient(
        self, topic: Topic, row: DeliverBatch, payload: bytes, without: Direct = NOBODY
    ) -> list[Subscription]:
        """Queue a transient batch for whoever wants it, but for those that are to be ``without``;
        ``flush`` those it returns."""
        subs = self._takers(topic, row.site)
        if without:
            subs = [s for s in subs if not has_directly(without, s.instance, s.number)]
        self.queue(subs, row, payload)
        return subs

    def queue(self, subs: Iterable[Subscription], row: DeliverBatch, payload: bytes) -> None:
        """Queue one transient batch for these; ``flush`` them."""
        queued = _Queued(row, payload, row.length)
        for sub in subs:
            sub.queue.append(queued)
            sub.queue_bytes += row.length
            self.queued_bytes += row.length

    def lose(self, topic: Topic, count: int, site: str = "") -> None:
        """Records without a source were dropped on their way here: all who want them are told."""
        for sub in self._takers(topic, site):
            sub.dropped += count
            if not (sub.queue or sub.is_held):
                self._deliver(sub, [])  # nothing may follow that would tell it

    def mark(self, route: Route, source: bytes) -> list[Subscription]:
        """Queue a marker of ``source`` for subscriptions; ``flush`` those it returns."""
        queued = _Queued(
            DeliverBatch("", 0, 0, 0, 0, 0, 0, 0, source=source), b"", limits.MARKER_BYTES
        )
        instance, numbers = route
        subs = [
            sub
            for sub in self._of_instance.get(instance, {}).values()
            if not numbers or sub.number in numbers
        ]
        for sub in subs:
            sub.queue.append(queued)
            sub.queue_bytes += queued.size
            self.queued_bytes += queued.size
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
                published=Published(b.producer, b.first, b.moved) if reader.dedup and b.producer
                else None,
            )  # fmt: skip
            rows.append(_Queued(row, b.payload, 0))
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
        if self.is_crowded and link in self.burdened:
            return False
        return self.unacked.get(link, 0) < limits.LINK_UNACKED_BYTES_MAX

    def sent(self, sub: Subscription, size: int, records: int) -> None:
        """So much goes to a subscription: count it, and take its credit."""
        sub.credit_bytes -= size
        sub.credit_records -= records
        sub.delivered += records
        self.delivered += records
        if self.is_crowded and size:
            self.burdened.add(sub.link)  # one delivery each, until it is acknowledged
        on_the_way = self.unacked.get(sub.link, 0)
        self.unacked[sub.link] = on_the_way + size + limits.LINK_UNACKED_FRAME_BYTES

    def _may_feed(self, reader: Reader) -> bool:
        return self._may_send(reader) if isinstance(reader, Subscription) else reader.has_credit

    def _may_send(self, sub: Subscription) -> bool:
        if sub.is_held or not sub.has_credit:
            return False
        if not self.may_send_to(sub.link):
            self._denied[id(sub)] = sub
            return False
        return True

    def feed_denied(self) -> None:
        """Acknowledgements came: try again for those that rule 4 held back."""
        for feed in self.foreign.values():
            if isinstance(feed, Delivery):
                feed.feed_denied()
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
        if sub.is_held:
            if self._is_overfull(sub):
                self.overfull.append(sub)
            return
        self._send_queue(sub)
        # The newest stays, so that there is always a delivery to tell of those dropped.
        queue = sub.queue
        while len(queue) > 1 and self._is_overfull(sub):
            self._drop_oldest(sub)
            if not queue[0].row.topic:
                self._send_queue(sub)

    def _is_overfull(self, sub: Subscription) -> bool:
        return (
            sub.queue_bytes > self._queue_bytes_max
            or self.queued_bytes > limits.TRANSIENT_QUEUES_BYTES_MAX
        )

    def _send_queue(self, sub: Subscription) -> None:
        queue = sub.queue
        while queue:
            may_send = self._may_send(sub)
            if not may_send and queue[0].row.topic:
                return
            gaps = self._take_gaps(sub)
            most = limits.FRAME_BATCHES_MAX - len(gaps)
            rows: list[_Queued] = []
            size = records = weight = 0
            while queue and len(rows) < most:
                row = queue[0].row
                if row.topic and (
                    not may_send
                    or (
                        rows
                        and (
                            size >= sub.credit_bytes
                            or records >= sub.credit_records
                            or size + row.length > limits.BATCH_BYTES_TARGET * 5 // 4
                        )
                    )
                ):
                    break
                rows.append(queue.popleft())
                size += row.length
                records += row.count
                weight += rows[-1].size
            sub.queue_bytes -= weight
            self.queued_bytes -= weight
            self._deliver(sub, rows, gaps)

    def _drop_oldest(self, sub: Subscription) -> None:
        row, _, size = sub.queue.popleft()
        sub.queue_bytes -= size
        self.queued_bytes -= size
        if not row.missing:
            sub.dropped_total += row.count
            self.dropped += row.count
        key, base = (row.source, row.topic, row.site), row.base_offset
        if not row.source and not sub.of_node:
            sub.dropped += row.count
            return
        if not row.source:
            base = sub.gaps.get(key, (0, 0))[1]
        first, end = sub.gaps.get(key, (base, base))
        if end != base or end - first + row.count > limits.GAP_RECORDS_MAX:
            # What is between them was not dropped here: it went another way.
            sub.old_gaps.append(_gap(key, first, end))
            first = base
        sub.gaps[key] = (first, base + row.count)
        if len(sub.old_gaps) + len(sub.gaps) >= limits.GAPS_MAX:
            self._deliver(sub, [], self._take_gaps(sub))

    def _take_gaps(self, sub: Subscription) -> list[DeliverBatch]:
        if not sub.gaps:
            return []
        gaps = sub.old_gaps + [_gap(key, *numbers) for key, numbers in sub.gaps.items()]
        sub.gaps, sub.old_gaps = {}, []
        return gaps

    def _deliver(
        self, sub: Subscription, rows: list[_Queued], gaps: Iterable[DeliverBatch] = ()
    ) -> None:
        while len(rows) > limits.FRAME_BATCHES_MAX:
            self._deliver(sub, rows[: limits.FRAME_BATCHES_MAX])
            rows = rows[limits.FRAME_BATCHES_MAX :]
        payload = rows[0].payload if len(rows) == 1 else b"".join([r.payload for r in rows])
        records = sum([0 if r.row.missing else r.row.count for r in rows])
        self.sent(sub, len(payload), records)
        missed, sub.dropped = sub.dropped, 0
        frame = Deliver(sub.number, (*gaps, *[r.row for r in rows]), missed, payload)
        self.sends.append((sub.link, frame))

    # -- what is shown ----------------------------------------------------------------------

    def describe(self, name_of: Callable[[bytes], str]) -> list[dict[str, Any]]:
        """Subscriptions as ``status`` shows them; ``name_of`` a link: its program's."""
        return [
            {
                "client": name_of(s.link),
                "pattern": s.pattern,
                "live": s.is_live,
                "lag_commits": 0 if s.is_live else max(0, self.committed_lsn + 1 - s.lsn),
                "delivered": s.delivered,
                "dropped": s.dropped_total,
                "queued_bytes": s.queue_bytes,
                "credit_bytes": s.credit_bytes,
                "credit_records": s.credit_records,
            }
            for s in self.subscriptions
        ]

    def describe_damage(self, origin: bytes) -> list[dict[str, Any]]:
        """Damaged ranges as ``status`` shows them."""
        return [
            {
                "topic": topic,
                "origin": origin.hex(),
                "first_offset": first,
                "next_offset": end,
            }
            for (topic, first), end in self.damaged_ranges.items()
        ]


def _own_place(frame: Subscribe) -> Place:
    return Place(frame.origin, frame.lsn, frame.slot)


def _gap(key: _Lost, first: int, end: int) -> DeliverBatch:
    """Records of a source that were dropped, from ``first`` to before ``end``."""
    source, topic, site = key
    return DeliverBatch(
        topic, first, end - first, 0, 0, 0, 0, 0, missing=True, source=source, site=site
    )
