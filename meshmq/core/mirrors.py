"""Copies of other nodes' logs, as the node that has them keeps them.

Data: a Mirror for each log: its topics by their numbers there, how far it was received, and how far
that is synced.

Rules:
1. What came and where to go on are entries of one append. So after any crash fetching goes on where
   the copy ends, and nothing is there twice.
2. A batch whose bytes do not match their checksum is not taken: all from there on is fetched again.
   What is damaged at the other end already keeps its offsets here, without bytes: the copy has
   ``holes``, and says so to the owner as long as it is kept.
3. Of a journal that was trimmed or damaged before it came, the owner is asked for the sum. Until
   that is here the copy ``lacks`` what its groups had done.
4. One that is dropped begins again once that is stored: of two in one commit nobody could tell
   whose a stream is.
5. What the owner has trimmed or deleted goes here too. Of a log of another site, what was deleted
   while it was not sent goes when that goes on, or when a later topic of its name comes. A hole in
   the offsets that a trim has made is one here; any other is kept as damaged. Where the site keeps
   a mirror by a retention of its own, that alone says what of plain topics goes; the store plans
   that as for all topics. Journals, queues and what groups keep go by their owner. Which topics are
   queues the journal says: while part of that is not here, nothing goes.
6. A source that has not all that the owner keeps says where what it sends begins. What is here
   and gone there stays; what lies between is not here, and the mirror is partial.
7. A log of another site comes by strands (core/strands.py), each with a place of its own. What of a
   topic is here already is passed over by its offset, whatever strand brings it again.
8. That nothing more lies before a place is stored with the next batch, or when it is far behind
   what is stored: where all else is synced it holds at once. Else two sites that mirror each
   other would write for ever, each what the other one has written.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

from meshmq import limits
from meshmq.core.batches import BatchTools
from meshmq.core.delivery import Delivery
from meshmq.core.journal import JournalRecord, Summed, unpack_deltas
from meshmq.core.log import (
    BatchEntry,
    Commit,
    CopiedEntry,
    Entry,
    LogState,
    ProducerState,
    TopicEntry,
    TrimEntry,
)
from meshmq.core.mending import NO_BYTES_CHECKSUM, Mender
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_log import (
    LinkedEntry,
    MirrorEntry,
    SiteRetention,
    StrandEntry,
    StrandsEntry,
    least,
)
from meshmq.core.producers import producer_last
from meshmq.core.strands import (
    Strands,
    begin,
    furthest,
    rewish,
    split,
    together,
)
from meshmq.core.topics import Topic, Topics
from meshmq.errors import BadFrame
from meshmq.frames_copies import CopiedBatch, CopiedTopic, Fetched
from meshmq.names import JOURNAL, is_named


class Mirrors:
    """See the module's header. What is to be stored gathers in ``entries``.

    Attributes:
        by_origin: all there are.
        dropping: whose drop is not stored yet; rule 4.
        has_passed: the mirror that a part came of last goes further, with nothing to be stored.
    """

    def __init__(
        self, state: LogState, topics: Topics, feed: Delivery, tools: BatchTools, mender: Mender
    ) -> None:
        self._mender = mender
        self._topics = topics
        self._feed = feed
        self._tools = tools
        self._feeds = 0
        self._producers = 0  # that are known by name, with their topics
        self.by_origin: dict[bytes, Mirror] = {}
        self.dropping: set[bytes] = set()
        self.has_passed = False
        self.entries: list[Entry] = []
        self.bytes = 0  # of batches in ``entries``
        for origin, held in state.mirrors.items():
            mirror = self.open(origin, held.name, (held.lsn, held.slot))
            mirror.topics.load(state, held.streams)
            self._producers += sum([len(t.producers) for t in mirror.topics.by_stream.values()])
            mirror.journal = held.journal.copy()
            mirror.lacks, mirror.holes = held.lacks, held.holes
            mirror.is_own = held.own_until > 0
            mirror.queues = mirror.find_queues()
            if held.linked is not None:
                mirror.note(held.linked)
                mirror.strands = dict(held.strands)
                mirror.store_strands(tuple(held.strands.values()))
                mirror.feed.strands = mirror.stored
                mirror.feed.end = furthest(mirror.stored)
                mirror.kept = furthest(mirror.stored)[0]

    def describe(self) -> list[dict[str, Any]]:
        """As ``status`` shows them."""
        return [
            {
                "name": mirror.shown,
                "site": None if mirror.linked is None else mirror.linked.site,
                "origin": mirror.origin.hex(),
                "lsn": mirror.synced[0],
                "topics": len(mirror.topics.by_stream),
                "received": mirror.received,
                "refused": mirror.refused,
                "fetching": bool(mirror.number),
                "lacks_groups": mirror.lacks,
                "holes": mirror.holes,
                "partial": mirror.topics.is_partial,
                "problem": mirror.problem,
            }
            for mirror in self.by_origin.values()
        ]

    def open(self, origin: bytes, name: str, place: tuple[int, int] = (1, 0)) -> Mirror:
        """Begin a copy, or go on with one."""
        self._feeds += 1
        mirror = self.by_origin[origin] = Mirror(origin, name, place, self._feed, self._feeds)
        mirror.feed.mend = self._mender.of(mirror.feed, origin)
        return mirror

    def open_linked(self, name: str, linked: LinkedEntry) -> Mirror:
        """Begin a mirror of a log of another site."""
        mirror = self.open(linked.origin, name)
        mirror.note(linked)
        self.entries.append(linked)
        self.set_strands(mirror, begin(linked.claim, linked.priority))
        return mirror

    def set_strands(self, mirror: Mirror, strands: Strands) -> None:
        """A log of another site comes by these from now on."""
        mirror.strands = {strand.number: strand for strand in strands}
        mirror.place = least(strands)
        mirror.begin_strands(strands)
        mirror.passed, mirror.kept = set(), furthest(strands)[0]  # with this all is stored
        self.entries.append(StrandsEntry(mirror.origin, strands))
        self.entries.append(mirror.entry)

    def rewish(self, mirror: Mirror, linked: LinkedEntry) -> bool:
        """Something else is wished of it; False: that has to wait."""
        assert mirror.linked is not None
        had, strands = mirror.linked, tuple(mirror.strands.values())
        if linked[1:5] != had[1:5]:
            found = rewish(strands, had.claim, linked.claim, linked.priority, mirror.used)
            if found is None:
                return False
            self._note(mirror, linked._replace(
                since=had.since, retention=had.retention, partial=had.partial, whole=had.whole
            ))  # fmt: skip
            self.set_strands(mirror, found)
        return True

    def split(self, mirror: Mirror, theirs: Strands) -> bool:
        """It is to come from where it has these strands, or has them now; whether it is to be
        fetched anew for that."""
        had = tuple(mirror.strands.values())
        found = split(had, theirs, mirror.used)
        if found != had:
            self.set_strands(mirror, found)
        return found != had

    def keep(self, mirror: Mirror, retention: SiteRetention | None) -> None:
        """What of a log of another site is kept from now on; rule 5."""
        assert mirror.linked is not None
        if retention == mirror.linked.retention:
            return
        linked = mirror.linked._replace(retention=retention)
        # What is gone does not come back.
        self._note(mirror, linked._replace(partial=mirror.linked.is_partial))
        self._bound(mirror)

    def begin_at(self, mirror: Mirror, since: int) -> None:
        """Of which nothing is here: it begins at a time, if that is later than was said."""
        assert mirror.linked is not None
        if since > mirror.linked.since and not mirror.topics.by_stream:
            self._note(mirror, mirror.linked._replace(since=since))

    def _bound(self, mirror: Mirror) -> None:
        """Each topic is kept by what holds for it now; rule 5."""
        mirror.queues = mirror.find_queues()
        for topic in list(mirror.topics.by_stream.values()):
            name, source = topic.entry.name, topic.entry.source
            age_ns, size = mirror.retention_of(name)
            entry = topic.entry._replace(retention_ns=age_ns, retention_bytes=size)
            if entry != topic.entry:
                topic.entry = entry
                self.entries.append(entry)
            if mirror.follows(name):
                self._follow(mirror, topic, mirror.topics.trimmed.get(source, 0))

    @property
    def of_site(self) -> list[Mirror]:
        """Copies of logs of our own site."""
        return [mirror for mirror in self.by_origin.values() if mirror.linked is None]

    @property
    def of_others(self) -> list[Mirror]:
        """Mirrors of logs of other sites."""
        return [mirror for mirror in self.by_origin.values() if mirror.linked is not None]

    def drop(self, origin: bytes) -> None:
        """Keep nothing of a log."""
        mirror = self.by_origin.pop(origin, None)
        if mirror is not None:
            mirror.feed.close()
            self.dropping.add(origin)
            self.entries.append(MirrorEntry(origin, mirror.name, 1, 0, True))

    def take_entries(self, entries: list[Entry]) -> int:
        """Move what is to be stored to ``entries``; the bytes of its batches."""
        entries += self.entries
        size, self.bytes = self.bytes, 0
        self.entries = []
        return size

    # -- what comes -----------------------------------------------------------------------------

    def on_fetched(self, mirror: Mirror, frame: Fetched) -> bool:
        """Take a part of a log; False: it is to be fetched again from ``mirror.place``."""
        if mirror.linked is not None and frame.strand not in mirror.strands:
            mirror.problem = f"a part came of strand {frame.strand}, which was not asked for"
            return False
        lacked, before = mirror.lacks, mirror.place_of(frame.strand)
        was_at_rest, self.has_passed = mirror.is_at_rest, False
        if frame.streams is not None:
            self._on_streams(mirror, frame.streams)
        for facts in frame.topics:
            if not self._on_topic(mirror, facts, frame.strand):
                return False
        at, place, is_whole = 0, before, True
        for row in frame.batches:
            data = frame.payload[at : at + row.length]
            at += row.length
            if not row.damaged and zlib.crc32(data) != row.checksum:
                mirror.refused += 1
                mirror.problem = f"a batch at {row.lsn}, {row.slot} came damaged"
                is_whole = False
            elif (row.lsn, row.slot) < place:
                mirror.passed_bytes += len(data)
            else:
                is_whole = self._store(mirror, row, data, frame.strand)
            if not is_whole:
                break
            place = max(place, (row.lsn, row.slot + 1))
        if is_whole:
            place = max(place, (frame.lsn, frame.slot))
        if place > before:
            mirror.go_on(frame.strand, place)
        for number, lsn, slot in frame.places if is_whole else ():
            if number in mirror.strands and (lsn, slot) > mirror.place_of(number):
                mirror.go_on(number, (lsn, slot))
        has_come = frame.batches or place > before or mirror.lacks != lacked
        if has_come or (frame.places and not (was_at_rest and self._pass(mirror))):
            self.entries += mirror.take_passed()
            self.entries.append(mirror.entry)
        if mirror.lacks != lacked and mirror.linked is not None:
            self._bound(mirror)
        return is_whole

    def _pass(self, mirror: Mirror) -> bool:
        """Take it as synced that nothing more lies before the places that came; rule 8."""
        strands = tuple(mirror.strands.values())
        if furthest(strands)[0] - mirror.kept > limits.PASSED_COMMITS_MAX:
            return False
        mirror.store_strands(strands)
        mirror.feed.advance(furthest(strands), strands)
        self.has_passed = True
        return True

    def come_together(self, mirror: Mirror, frame: Fetched) -> bool:
        """Whether strands have come together that were beside each other."""
        if mirror.linked is None:
            return False
        told = [place.number for place in frame.places]
        had = tuple(mirror.strands.values())
        found = together(had, told, mirror.linked.claim, mirror.linked.priority)
        if found == had:
            return False
        self.set_strands(mirror, found)
        return True

    def _on_streams(self, mirror: Mirror, streams: tuple[int, ...]) -> None:
        """All that there are where the log comes from; what is not wished any more may have come
        from elsewhere, and stays."""
        for source in mirror.topics.by_source.keys() - set(streams):
            newest = mirror.topics.of_source(source)
            if newest is not None and newest.next_offset and mirror.is_wished(newest.entry.name):
                self._remove_source(mirror, source)

    def _on_topic(self, mirror: Mirror, facts: CopiedTopic, strand: int) -> bool:
        same = list(mirror.topics.by_source.get(facts.stream, ()))
        if facts.deleted:
            self._remove_source(mirror, facts.stream)
            return True
        before = mirror.topics.by_name.get(facts.name)
        if before is not None and before.entry.source < facts.stream and mirror.linked is not None:
            self._remove_source(mirror, before.entry.source)  # rule 5
        if facts.end:
            mirror.ends[facts.stream] = facts.end
        if any(topic.entry.topic_id != facts.topic_id for topic in same):
            mirror.problem = f"stream {facts.stream} is another topic there than here"
            return False
        if not same:
            same = [self._add(mirror, facts.stream, facts.topic_id, facts.name, strand)]
        first, newest = facts.first_offset, same[-1]
        if first > newest.next_offset and not facts.begins:
            self._lose(mirror, newest)
        mirror.begins[facts.stream] = facts.begins
        known = mirror.topics.trimmed.get(facts.stream, 0)
        mirror.topics.trimmed[facts.stream] = max(known, first)
        for topic in same if mirror.follows(facts.name) else ():
            self._follow(mirror, topic, first)
        if first > newest.next_offset and not facts.begins:
            self._go_on_at(mirror, newest, first, strand)
        return True

    def _go_on_at(self, mirror: Mirror, topic: Topic, offset: int, strand: int) -> Topic:
        """What comes next of a stream is there, and what lies between does not come; rule 6. The
        stream for it."""
        if topic.first_offset >= topic.next_offset:
            self._trim(topic, offset)
            return topic
        _, topic_id, name, *_ = topic.entry
        return self._add(mirror, topic.entry.source, topic_id, name, strand, offset)

    def _follow(self, mirror: Mirror, topic: Topic, offset: int) -> None:
        """Before an offset nothing is at the log's own node."""
        if offset >= topic.next_offset and topic is not mirror.topics.of_source(topic.entry.source):
            self._remove(mirror, topic)  # nothing of it is kept
        elif offset > topic.first_offset:
            self._trim(topic, offset)

    def _add(
        self, mirror: Mirror, source: int, topic_id: bytes, name: str, strand: int, end: int = 0
    ) -> Topic:
        """A stream for what comes of one there from offset ``end`` on."""
        entry = TopicEntry(
            self._topics.new_stream(), topic_id, name, True, *mirror.retention_of(name),
            origin=mirror.origin, source=source, strand=strand,
        )  # fmt: skip
        topic = Topic(entry, end, end, end)
        mirror.topics.add(topic)
        self.entries.append(entry)
        if end:
            self.entries.append(TrimEntry(entry.stream, end))
        return topic

    def _remove_source(self, mirror: Mirror, source: int) -> None:
        """A stream there was deleted."""
        mirror.ends.pop(source, None)
        for topic in list(mirror.topics.by_source.get(source, ())):
            self._remove(mirror, topic)

    def _remove(self, mirror: Mirror, topic: Topic) -> None:
        mirror.topics.remove(topic)
        self.entries.append(topic.entry._replace(deleted=True))

    def _trim(self, topic: Topic, offset: int) -> None:
        topic.first_offset = offset
        topic.next_offset = max(topic.next_offset, offset)
        self.entries.append(TrimEntry(topic.entry.stream, offset))

    def _store(self, mirror: Mirror, row: CopiedBatch, data: bytes, strand: int) -> bool:
        newest = mirror.topics.of_source(row.stream)
        if newest is None:
            mirror.problem = f"a batch came of stream {row.stream}, of which nothing was told"
            return False
        if row.base_offset + row.count <= newest.next_offset:
            mirror.passed_bytes += len(data)
            return True  # it is there, or was trimmed
        topic = newest
        if newest.entry.strand != strand:  # it came by another one before
            _, topic_id, name, *_ = newest.entry
            end = newest.next_offset
            topic = self._add(mirror, row.stream, topic_id, name, strand, end)
            if newest.first_offset == end:
                self._remove(mirror, newest)  # it is empty
        if row.base_offset > topic.next_offset:
            self._lose(mirror, topic)
            if mirror.topics.trimmed.get(row.stream, 0) >= row.base_offset:
                topic = self._go_on_at(mirror, topic, row.base_offset, strand)
            elif mirror.begins.get(row.stream, 0) > row.base_offset:
                topic = self._go_on_at(mirror, topic, row.base_offset, strand)
                self._pass_over(mirror, (row.lsn, row.slot))
            else:
                self._skip(mirror, topic, row)
        if mirror.linked is not None and row.append_time_ns >= mirror.linked.since:
            self._note_whole(mirror, (row.lsn, row.slot))
        alias = topic.entry.stream
        mirror.holes = mirror.holes or row.damaged
        checksum = NO_BYTES_CHECKSUM if row.damaged else row.checksum
        batch = BatchEntry(
            alias, row.base_offset, row.count, data, checksum, row.producer, row.first, row.moved
        )
        words = self._words(mirror, topic, row, data)
        self.entries.append(
            CopiedEntry(batch, mirror.origin, row.lsn, row.slot, row.append_time_ns, words)
        )
        self.bytes += len(data)
        topic.next_offset = row.base_offset + row.count
        mirror.received += row.count
        return True

    def _pass_over(self, mirror: Mirror, place: tuple[int, int]) -> None:
        """Something that lies before a place does not come, and its node may keep it."""
        if mirror.linked is not None:
            whole = max(mirror.linked.whole, place)
            self._note(mirror, mirror.linked._replace(partial=True, whole=whole))

    def _note_whole(self, mirror: Mirror, place: tuple[int, int]) -> None:
        """A mirror that began at a time has all that lies at a place or behind it, as far as its
        strands have come."""
        linked = mirror.linked
        if linked is None or not linked.begins_at or linked.partial:
            return
        if not (0, 0) < linked.whole <= place:
            self._note(mirror, linked._replace(whole=place))

    def _note(self, mirror: Mirror, linked: LinkedEntry) -> None:
        if linked != mirror.linked:
            mirror.note(linked)
            self.entries.append(linked)

    def _skip(self, mirror: Mirror, topic: Topic, row: CopiedBatch) -> None:
        """Nothing comes of the offsets before a batch."""
        begin = max(topic.next_offset, topic.first_offset)
        if mirror.topics.kept_from(topic) >= begin:  # nothing of it is kept here
            self._trim(topic, row.base_offset)
        elif row.base_offset > begin:
            mirror.holes = True
            hole = BatchEntry(
                topic.entry.stream, begin, row.base_offset - begin, b"", NO_BYTES_CHECKSUM,
                bytes(16), 0,
            )  # fmt: skip
            self.entries.append(
                CopiedEntry(hole, mirror.origin, row.lsn, row.slot, row.append_time_ns)
            )

    @staticmethod
    def _lose(mirror: Mirror, topic: Topic) -> None:
        """Something of a stream does not come: if it is a journal, that says what groups did."""
        if topic.entry.name == JOURNAL:
            mirror.lacks, mirror.is_summing = True, False

    def _words(
        self, mirror: Mirror, topic: Topic, row: CopiedBatch, data: bytes
    ) -> tuple[JournalRecord, ...]:
        """What a batch of a journal says."""
        if topic.entry.name != JOURNAL:
            return ()
        try:
            values = self._tools.decode(data, row.count).values
            words = tuple([record for value in values for record in unpack_deltas(value)])
        except (BadFrame, ValueError, TypeError, struct.error):
            self._lose(mirror, topic)  # it is damaged
            return ()
        for word in words:
            if isinstance(word, Summed) and word.begins:
                mirror.lacks = mirror.is_summing = True
            elif isinstance(word, Summed) and word.ends and mirror.is_summing:
                mirror.asks_sum = False
                mirror.lacks = mirror.is_summing = False
        return words

    def _on_trims(self, trims: Iterable[TrimEntry]) -> None:
        """These are stored; those that the store has planned are news."""
        for mirror in self.of_others:
            for trim in trims:
                topic = mirror.topics.by_stream.get(trim.stream)
                if topic is None or trim.first_offset <= topic.first_offset:
                    continue
                topic.first_offset = trim.first_offset
                newest = mirror.topics.of_source(topic.entry.source)
                if topic.first_offset >= topic.next_offset and topic is not newest:
                    self._remove(mirror, topic)

    # -- producers ------------------------------------------------------------------------------

    def _note_producer(self, topic: Topic, batch: BatchEntry) -> None:
        known = topic.producers.pop(batch.producer, None)
        if known is None:
            known = ProducerState()
            self._producers += 1
        known.last = max(known.last, batch.first + batch.count - 1)
        topic.producers[batch.producer] = known
        if self._producers > limits.PRODUCERS_MAX and len(topic.producers) > 1:
            mirrors = self.by_origin.values()
            held = [t for m in mirrors for t in m.topics.by_stream.values()]
            self._producers = sum([len(t.producers) for t in held]) - 1
            del topic.producers[next(iter(topic.producers))]

    def producer_last(self, name: str, producer: bytes) -> dict[str, Any]:
        """What each copy knows of a producer in a topic, and how far it goes, by origin."""
        found = {}
        for mirror in self.of_site:
            topics = [
                topic
                for topic in mirror.topics.by_stream.values()
                if topic.entry.name == name
                and not self._topics.was_deleted(name, topic.entry.topic_id)
            ]
            place = {"lsn": mirror.synced[0], "slot": mirror.synced[1]}
            found[mirror.origin.hex()] = {**producer_last(topics, producer), **place}
        return found

    # -- what is stored -------------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> list[tuple[Mirror, int]]:
        """Of which logs more is synced, with the bytes of it."""
        sizes: dict[bytes, int] = {}
        for c in commit.copied:
            batch = commit.batches[c.index]
            sizes[c.origin] = sizes.get(c.origin, 0) + len(batch.payload)
            mirror = self.by_origin.get(c.origin)
            topic = mirror.topics.by_stream.get(batch.stream) if mirror is not None else None
            if topic is not None:
                topic.synced_offset = batch.base_offset + batch.count
                if is_named(batch.producer):
                    self._note_producer(topic, batch)
        for origin, records in commit.journals:
            if origin in self.by_origin:
                now_ms = commit.append_time_ns // limits.MS
                mirror = self.by_origin[origin]
                mirror.journal.say(records, now_ms)
                is_bound = mirror.linked is not None and mirror.linked.retention is not None
                if is_bound and mirror.find_queues() != mirror.queues:
                    self._bound(mirror)
        for said in commit.mirrors:
            if isinstance(said, MirrorEntry) and said.dropped:
                self.dropping.discard(said.origin)
            elif isinstance(said, MirrorEntry) and said.origin in self.by_origin:
                if self.by_origin[said.origin].linked is None:
                    self.by_origin[said.origin].synced = (said.lsn, said.slot)
                sizes.setdefault(said.origin, 0)
            elif isinstance(said, StrandsEntry | StrandEntry) and said.origin in self.by_origin:
                self.by_origin[said.origin].on_strands(said)
        if commit.trims:
            self._on_trims(commit.trims)
        found = []
        for origin, size in sizes.items():
            mirror = self.by_origin.get(origin)
            if mirror is not None:
                end = furthest(mirror.stored) if mirror.linked is not None else mirror.synced
                mirror.feed.advance(end, mirror.stored)
                found.append((mirror, size + mirror.passed_bytes))
                mirror.passed_bytes = 0
        return found
