"""One log on its way to a node that copies it: whole, in its own order, within credit.

Data: a Sender is a reader of the log like any subscription, over all streams that are to be copied
there. ``told`` is what the other end has been told of streams, ``ends`` up to where each was sent;
both by their numbers in the log that is copied.

Rules:
1. A stream is told of before its first batch, and again when its first offset rises or it is gone:
   soon, but with the first batch behind what was trimmed, so that this is no damage there.
2. A frame says which place comes behind it: who stores that with it can go on from there.
3. What is damaged here is sent as that, so that its offsets stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from meshmq import limits
from meshmq.core.feed import Reader
from meshmq.core.log import StoredBatch
from meshmq.core.topics import Topic
from meshmq.frames import Body
from meshmq.frames_copies import CopiedBatch, CopiedTopic, Fetched

NO_PRODUCER = bytes(16)


class LogTopics(Protocol):
    """Topics of a log, the node's own or one that is copied here."""

    by_stream: dict[int, Topic]

    @property
    def is_partial(self) -> bool:
        """Whether less may be here than the log's own node keeps."""

    def of_source(self, source: int) -> Topic | None:
        """A stream by its number in that log."""

    def kept_from(self, topic: Topic) -> int:
        """From where on the offsets of a stream are here."""

    def has_before(self, topic: Topic, offset: int) -> bool:
        """Whether the record before an offset is here."""

    def trimmed_to(self, topic: Topic) -> int:
        """Before where they are gone at the log's own node."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sender(Reader):
    """See the module's header.

    Attributes:
        number, level: as in the Fetch that asked for it.
        copied: the other end's copy is synced up to before this place.
        topics: of the log.
        takes: whether a topic is to be copied there.
        sends: where frames go.
        sum_again_ns: when the journal's sum may be sent again.
        has_holes: something was sent, now or before, that is damaged here, and could not be had
            from another copy.
        damaged_at: where something was sent last that is damaged here. gap_at: or before which
            something is not here.
    """

    is_bulk: ClassVar[bool] = True

    link: bytes
    number: int
    level: int
    copied: tuple[int, int]
    topics: LogTopics
    takes: Callable[[str], bool]
    sends: list[tuple[bytes, Body]]
    told: dict[int, CopiedTopic] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    sent: tuple[int, int] = (1, 0)
    sum_again_ns: int = 0
    has_holes: bool = False
    damaged_at: tuple[int, int] = (0, 0)
    gap_at: tuple[int, int] = (0, 0)

    def wants(self, name: str) -> bool:
        return self.takes(name)

    @property
    def is_caught_up(self) -> bool:
        """Whether all there is has been sent, and is synced there."""
        return self.is_live and self.copied >= self.sent

    def grant(self, size: int) -> None:
        """So much more may be on its way."""
        self.credit_bytes = min(self.credit_bytes + size, limits.CREDIT_BYTES_MAX)

    def introduce(self, topic: Topic) -> None:
        """Tell of a stream before its first batch: perhaps nothing of it is left to be sent."""
        facts = self.facts_of(topic)
        self.told[facts.stream] = facts
        self.sends.append((self.link, Fetched(self.number, (facts,))))

    def facts_of(self, topic: Topic, base: int = 0) -> CopiedTopic:
        """What the other end is told of a stream. ``base``: of the batch that is sent next."""
        entry, first = topic.entry, self.topics.trimmed_to(topic)
        facts = CopiedTopic(entry.source or entry.stream, entry.topic_id, entry.name, first)
        if not self.topics.is_partial or entry.name.startswith("$"):
            return facts
        return facts._replace(begins=max(base, self.topics.kept_from(topic)) + 1)

    def take(self, batches: list[StoredBatch]) -> None:
        most = limits.FRAME_BATCHES_MAX // 2  # each may bring a topic with it
        for i in range(0, len(batches), most):
            self._send(batches[i : i + most])

    def _send(self, batches: list[StoredBatch]) -> None:
        rows, topics = [], {}
        self.has_holes = self.has_holes or any(b.damaged for b in batches)
        for b in batches:
            if b.damaged:
                self.damaged_at = b.lsn, b.slot
            topic = self.topics.by_stream[b.stream]
            number = topic.entry.source or b.stream
            told = self.told.get(number)
            is_behind_gap = self.ends.get(number) != b.base_offset
            base = b.base_offset if is_behind_gap and self._is_cut(topic, b) else 0
            if base:
                self.gap_at = b.lsn, b.slot
            if (
                told is None or base
                or (is_behind_gap and self.topics.kept_from(topic) > told.first_offset)
            ):  # fmt: skip
                topics[number] = self.told[number] = self.facts_of(topic, base)
            self.ends[number] = b.base_offset + b.count
            rows.append(copied(number, b))
        payload = b"".join([b.payload for b in batches])
        self.sent = (batches[-1].lsn, batches[-1].slot + 1)
        self.credit_bytes -= len(payload)
        self.put(Fetched(self.number, tuple(topics.values()), tuple(rows), *self.sent, payload))

    def put(self, frame: Fetched) -> None:
        """Batches leave."""
        self.sends.append((self.link, frame))

    def tell_changes(self) -> None:
        """Streams that were trimmed or deleted since they were told of."""
        changed = []
        for number, told in list(self.told.items()):
            topic = self.topics.of_source(number)
            if topic is None:
                changed.append(told._replace(deleted=True))
                del self.told[number]
                self.ends.pop(number, None)
            elif self._is_news(topic, told):
                self.told[number] = facts = self.facts_of(topic)
                changed.append(facts)
        self.tell(changed)

    def _is_cut(self, topic: Topic, b: StoredBatch) -> bool:
        """Whether what lies before a batch is not kept here, and may be at the log's own node."""
        base = b.base_offset
        is_cut = self.topics.is_partial and not self.topics.has_before(topic, base)
        return is_cut and base > self.topics.trimmed_to(topic)

    def _is_news(self, topic: Topic, told: CopiedTopic) -> bool:
        """Whether more of it is gone than was told."""
        kept, first = self.topics.kept_from(topic), told.first_offset
        known = told.begins - 1 if told.begins else first
        return kept > known or self.topics.trimmed_to(topic) > first

    def tell(self, changed: list[CopiedTopic]) -> None:
        """Streams, as they are now."""
        for i in range(0, len(changed), limits.FRAME_BATCHES_MAX):
            part = tuple(changed[i : i + limits.FRAME_BATCHES_MAX])
            self.sends.append((self.link, Fetched(self.number, part)))


def copied(stream: int, b: StoredBatch) -> CopiedBatch:
    """A batch as it goes to another node, of a stream by its number in its own log."""
    return CopiedBatch(
        stream, b.base_offset, b.count, len(b.payload), b.checksum, b.append_time_ns, b.lsn, b.slot,
        b.damaged, b.producer or NO_PRODUCER, b.first, b.moved,
    )  # fmt: skip
