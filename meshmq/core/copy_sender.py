"""One log on its way to a node that copies it: whole, in its own order, within credit.

Data: a Sender is a reader of the log like any subscription, over all streams that are to be copied
there. ``told`` is what the other end has been told of streams, ``ends`` up to where each was sent.

Rules:
1. A stream is told of before its first batch, and again when its first offset rises or it is gone:
   soon, but with the first batch behind what was trimmed, so that this is no damage there.
2. A frame says which place comes behind it: who stores that with it can go on from there.
3. What is damaged here is sent as that, so that its offsets stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshmq import limits
from meshmq.core.feed import Reader
from meshmq.core.log import StoredBatch
from meshmq.core.topics import Topic
from meshmq.frames import Body
from meshmq.frames_copies import CopiedBatch, CopiedTopic, Fetched

NO_PRODUCER = bytes(16)


@dataclass(slots=True, eq=False, kw_only=True)
class Sender(Reader):
    """See the module's header.

    Attributes:
        number, level: as in the Fetch that asked for it.
        copied: the other end's copy is synced up to before this place.
        by_stream: topics of the log.
        takes: whether a topic is to be copied there.
        sends: where frames go.
        sum_again_ns: when the journal's sum may be sent again.
        has_holes: something was sent, now or before, that is damaged here, and could not be had
            from another copy.
        damaged_at: where something was sent last that is damaged here.
    """

    link: bytes
    number: int
    level: int
    copied: tuple[int, int]
    by_stream: dict[int, Topic]
    takes: Callable[[str], bool]
    sends: list[tuple[bytes, Body]]
    told: dict[int, CopiedTopic] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    sent: tuple[int, int] = (1, 0)
    sum_again_ns: int = 0
    has_holes: bool = False
    damaged_at: tuple[int, int] = (0, 0)

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
        self.told[topic.entry.stream] = facts = facts_of(topic)
        self.sends.append((self.link, Fetched(self.number, (facts,))))

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
            topic = self.by_stream[b.stream]
            number = topic.entry.source or b.stream
            told = self.told.get(b.stream)
            is_behind_gap = self.ends.get(b.stream) != b.base_offset
            if told is None or (is_behind_gap and topic.first_offset > told.first_offset):
                topics[b.stream] = self.told[b.stream] = facts_of(topic)
            self.ends[b.stream] = b.base_offset + b.count
            rows.append(copied(number, b))
        payload = b"".join([b.payload for b in batches])
        self.credit_bytes -= len(payload)
        self.sent = (batches[-1].lsn, batches[-1].slot + 1)
        self.put(Fetched(self.number, tuple(topics.values()), tuple(rows), *self.sent, payload))

    def put(self, frame: Fetched) -> None:
        """Batches leave."""
        self.sends.append((self.link, frame))

    def tell_changes(self) -> None:
        """Streams that were trimmed or deleted since they were told of."""
        changed = []
        for alias, told in list(self.told.items()):
            topic = self.by_stream.get(alias)
            if topic is None:
                changed.append(told._replace(deleted=True))
                del self.told[alias]
                self.ends.pop(alias, None)
            elif topic.first_offset > told.first_offset:
                changed.append(facts_of(topic))
                self.told[alias] = changed[-1]
        self.tell(changed)

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


def facts_of(topic: Topic) -> CopiedTopic:
    entry = topic.entry
    return CopiedTopic(entry.source or entry.stream, entry.topic_id, entry.name, topic.first_offset)
