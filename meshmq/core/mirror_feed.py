"""Readers of a log that is copied here: as of the node's own, by the places that log has.

Data: ``end`` is the place up to which it is copied; a reader there is live. What is read comes from
this node's log, wherever it lies there; the effects say whose places are meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshmq.core.delivery import Delivery, Subscription
from meshmq.core.effects import ReadLog
from meshmq.core.feed import FOREIGN_BITS, Reader
from meshmq.core.log import Commit, LogState, ProducerState, StoredBatch
from meshmq.core.sibling import LOCAL
from meshmq.core.topics import Topic
from meshmq.frames import Subscribe, Subscribed
from meshmq.names import group_of


class CopiedTopics:
    """Topics of another log, in place of the node's own.

    Attributes:
        by_stream: by number in this node's log.
        by_source: by number in their own.
    """

    def __init__(self) -> None:
        self.by_stream: dict[int, Topic] = {}
        self.by_source: dict[int, Topic] = {}
        self.by_name: dict[str, Topic] = {}
        self.version = self.policies = 0

    def load(self, state: LogState, streams: Iterable[int]) -> None:
        """What the log holds at start."""
        for alias in streams:
            held = state.streams[alias]
            topic = Topic(
                held.topic,
                max(held.next_offset, held.first_offset),
                held.next_offset,
                held.first_offset,
            )
            self.add(topic)
        for (producer, alias), known in state.producers.items():
            if alias in self.by_stream:
                self.by_stream[alias].producers[producer] = ProducerState(known.last)

    def add(self, topic: Topic) -> None:
        self.by_stream[topic.entry.stream] = self.by_source[topic.entry.source] = topic
        self.by_name[topic.entry.name] = topic
        self.version += 1

    def remove(self, topic: Topic) -> None:
        self.by_stream.pop(topic.entry.stream, None)
        self.by_source.pop(topic.entry.source, None)
        if self.by_name.get(topic.entry.name) is topic:
            del self.by_name[topic.entry.name]
        self.version += 1
        if group_of(topic.entry.name):
            self.policies += 1  # as in Topics


class MirrorFeed(Delivery):
    """See the module's header.

    Args:
        origin: whose log it is.
        main: the node's own feed, which reads for this one, and knows what is on its way over each
            link.
        number: of this feed among those of other logs.
    """

    def __init__(
        self, topics: CopiedTopics, origin: bytes, main: Delivery, number: int, end: tuple[int, int]
    ) -> None:
        super().__init__(topics, 1, 0, 0)  # type: ignore[arg-type]  # looks no further than that
        self.origin = origin
        self.end = end
        self.committed_lsn = end[0]
        self._main = main
        self._number = number
        self._last_read = number << FOREIGN_BITS
        self._ends: dict[int, tuple[int, int]] = {}  # by read: how far it went when that was asked
        self.unacked, self.burdened = main.unacked, main.burdened
        main.foreign[number] = self

    def close(self) -> None:
        """Nothing of it is kept any more."""
        self._main.foreign.pop(self._number, None)
        self._reads.clear()
        self._ends.clear()

    def may_send_to(self, link: bytes) -> bool:
        return link == LOCAL or self._main.may_send_to(link)

    def on_commit(self, commit: Commit) -> None:
        raise AssertionError("a mirror's feed is told how far it goes")

    def advance(self, end: tuple[int, int]) -> None:
        """More is copied and synced."""
        if end == self.end:
            return
        self.end, self.committed_lsn = end, end[0]
        for reader in self.readers():
            if reader.is_live:
                reader.is_live = False
                self.feed(reader)

    def on_foreign_read(
        self, number: int, batches: Iterable[StoredBatch], lsn: int, slot: int
    ) -> None:
        # Behind that may be what has been stored since, of streams that were not asked for.
        end = self._ends.pop(number, (lsn, slot))
        if (lsn, slot) > end:
            batches = [b for b in batches if (b.lsn, b.slot) < end]
            lsn, slot = end
        super().on_foreign_read(number, batches, lsn, slot)
        self._hand_over()

    def _read(self, reader: Reader) -> bool:
        is_asked = super()._read(reader)
        if is_asked:
            self._ends[reader.reading] = self.end
        return is_asked

    def _place(self, sub: Subscription, frame: Subscribe, origin: bytes) -> Subscribed | None:
        refusal = super()._place(sub, frame, origin)
        if sub.is_live:
            sub.lsn, sub.slot = self.end
        return refusal

    def feed(self, reader: Reader) -> None:
        while not (reader.is_live or reader.reading or reader.is_mending) and self._may_feed(
            reader
        ):
            if reader.start is None and (reader.lsn, reader.slot) >= self.end:
                reader.is_live = True
            elif not self._read(reader):
                (reader.lsn, reader.slot), reader.start = self.end, None
        self._hand_over()

    def fetch(self, reader: Reader, stream: int, offset: int, bytes_max: int) -> None:
        super().fetch(reader, stream, offset, bytes_max)
        self._hand_over()

    def _hand_over(self) -> None:
        """The node's own feed has these read."""
        if self.reads:
            self._main.reads += [
                ReadLog(r.reader, r.streams, r.start, 0, r.bytes_max, self.origin)
                for r in self.reads
            ]
            self.reads = []
