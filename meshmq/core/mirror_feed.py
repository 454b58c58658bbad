"""Readers of a log that is copied here: as of the node's own, by the places that log has.

Data: ``end`` is the place up to which it is copied; of a log of another site each strand has one
(core/strands.py), and a reader's end is the least of those that may have what it wants. A reader
there is live. What is read comes from this node's log, wherever it lies there; the effects say
whose places are meant.

Rules:
1. A reader that begins at a time waits until something is here that was stored then or later: what
   comes may be older.
2. One that begins with what is new begins behind all strands, and so gets no past.
3. One that does not mind the order has all that is here, whatever strand brought it, also one that
   is closed; it is live once a read brings nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshmq.core.delivery import Delivery, Subscription
from meshmq.core.effects import ReadLog
from meshmq.core.feed import FOREIGN_BITS, Reader
from meshmq.core.log import Commit, LogState, ProducerState, StoredBatch
from meshmq.core.mirror_log import BEHIND_ALL
from meshmq.core.sibling import LOCAL
from meshmq.core.strands import Strands, covering
from meshmq.core.topics import Topic
from meshmq.frames import Subscribe, Subscribed
from meshmq.names import group_of, is_literal


class CopiedTopics:
    """Topics of another log, in place of the node's own. One that came by several strands has a
    stream here for each.

    Attributes:
        by_stream: by number in this node's log.
        by_source: by number in their own, the oldest first.
        by_name: one of them.
        is_partial: less may be here than the log's own node keeps.
        trimmed: of such a log: by number there, before where nothing is at its own node.
    """

    def __init__(self) -> None:
        self.is_partial = False
        self.trimmed: dict[int, int] = {}
        self.by_stream: dict[int, Topic] = {}
        self.by_source: dict[int, list[Topic]] = {}
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
        self.by_stream[topic.entry.stream] = self.by_name[topic.entry.name] = topic
        same = self.by_source.setdefault(topic.entry.source, [])
        same.append(topic)
        same.sort(key=lambda t: (t.first_offset, t.next_offset))
        self.version += 1

    def remove(self, topic: Topic) -> None:
        self.by_stream.pop(topic.entry.stream, None)
        same = self.by_source.pop(topic.entry.source, [])
        same = [other for other in same if other is not topic]
        if same:
            self.by_source[topic.entry.source] = same
        if self.by_name.get(topic.entry.name) is topic:
            del self.by_name[topic.entry.name]
            if same:
                self.by_name[topic.entry.name] = same[-1]
        self.version += 1
        if group_of(topic.entry.name):
            self.policies += 1  # as in Topics

    def of_source(self, source: int) -> Topic | None:
        """The newest stream of one there."""
        return self.by_source[source][-1] if source in self.by_source else None

    def kept_from(self, topic: Topic) -> int:
        """From where on."""
        return kept_from(self.by_source.get(topic.entry.source, [topic]))

    def has_before(self, topic: Topic, offset: int) -> bool:
        """Whether the record before an offset is here, in whichever stream."""
        same = self.by_source.get(topic.entry.source, [topic])
        return any(t.first_offset < offset <= t.next_offset for t in same)

    def trimmed_to(self, topic: Topic) -> int:
        """Before where they are gone at the log's own node, as far as that is known."""
        if not self.is_partial or topic.entry.name.startswith("$"):  # that goes by its owner
            return self.kept_from(topic)
        return self.trimmed.get(topic.entry.source, 0)

    def first_of(self, name: str) -> int:
        """From which offset on a topic is here."""
        return self.kept_from(self.by_name[name])

    def records(self, name: str) -> int | None:
        """How many of a topic are synced here; None: there is no such topic."""
        same = [t for t in self.by_stream.values() if t.entry.name == name]
        return sum([max(0, t.synced_offset - t.first_offset) for t in same]) if same else None


def kept_from(same: Sequence[Topic]) -> int:
    """From where on there is something of a stream that came by several strands, in their order."""
    kept = [t.first_offset for t in same if t.next_offset > t.first_offset]
    return min(kept, default=same[-1].first_offset)


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
        self.unacked, self.burdened = main.unacked, main.burdened
        self.strands: Strands = ()
        # By read: how far it went when that was asked, and where it began, if that was a time.
        self._asked: dict[int, tuple[tuple[int, int], tuple[str, int, int] | None]] = {}
        main.foreign[number] = self

    def close(self) -> None:
        """Nothing of it is kept any more."""
        self._main.foreign.pop(self._number, None)
        self._reads.clear()
        self._asked.clear()

    def may_send_to(self, link: bytes) -> bool:
        return link == LOCAL or self._main.may_send_to(link)

    def on_commit(self, commit: Commit) -> None:
        raise AssertionError("a mirror's feed is told how far it goes")

    def advance(self, end: tuple[int, int], strands: Strands = ()) -> None:
        """More is copied and synced; ``end`` is the place that the furthest strand has."""
        if end == self.end and strands == self.strands:
            return
        self.end, self.committed_lsn, self.strands = end, end[0], strands
        for reader in self.readers():
            if reader.is_live:
                reader.is_live = False
                self.feed(reader)

    def end_of(self, reader: Reader) -> tuple[int, int]:
        """Before which place a reader has all that it wants."""
        if not reader.in_order:
            return BEHIND_ALL
        if len(self.strands) < 2:
            return self.strands[0].place if self.strands else self.end
        held = covering(self.strands, reader.claims(), reader.besides())
        return min([strand.place for strand in held], default=self.end)

    def on_foreign_read(
        self, number: int, batches: Iterable[StoredBatch], lsn: int, slot: int
    ) -> None:
        reader = self._reads.get(number)
        asked = self._asked.pop(number, None)
        if asked is None:  # fetched out of turn: it stays where it is
            place = (lsn, slot) if reader is None else (reader.lsn, reader.slot)
            super().on_foreign_read(number, batches, *place)
            self._hand_over()
            return
        # Behind the end may be what has been stored since, of streams that were not asked for.
        end, start = asked
        if end == BEHIND_ALL:  # rule 3
            batches = list(batches)
            lsn, slot = (batches[-1].lsn, batches[-1].slot + 1) if batches else BEHIND_ALL
        if (lsn, slot) >= end:
            batches = [b for b in batches if (b.lsn, b.slot) < end]
            lsn, slot = end
            if start is not None and not batches and reader is not None:
                del self._reads[number]
                reader.reading, reader.start = 0, start
                if self.end_of(reader) > end:  # more has come meanwhile
                    self.feed(reader)
                else:
                    reader.is_live = True  # rule 1
                return
        super().on_foreign_read(number, batches, lsn, slot)
        self._hand_over()

    def _read(self, reader: Reader) -> bool:
        start = reader.start if reader.start is not None and reader.start[0] == "time" else None
        is_asked = super()._read(reader)
        if is_asked:
            self._asked[reader.reading] = self.end_of(reader), start
        return is_asked

    def _place(self, sub: Subscription, frame: Subscribe, origin: bytes) -> Subscribed | None:
        refusal = super()._place(sub, frame, origin)
        if sub.is_live:
            sub.lsn, sub.slot = self.end  # rule 2
        return refusal

    def feed(self, reader: Reader) -> None:
        while not (reader.is_live or reader.reading or reader.is_mending) and self._may_feed(
            reader
        ):
            if reader.start is None and (reader.lsn, reader.slot) >= self.end_of(reader):
                reader.is_live = True
            elif not self._read(reader):
                if reader.start is not None and reader.start[0] == "time":
                    reader.is_live = True  # rule 1
                    continue
                (reader.lsn, reader.slot), reader.start = self.end_of(reader), None
        self._hand_over()

    def streams_of(self, reader: Reader) -> frozenset[int]:
        if is_literal(reader.pattern) and reader.streams_version != self._topics.version:
            reader.streams_version = self._topics.version
            reader.streams = frozenset(
                alias
                for alias, topic in self._topics.by_stream.items()
                if topic.entry.name == reader.pattern
            )
        return super().streams_of(reader)

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
