"""What the log holds, as values, and the state that a restart would see.

Data: a Commit is what one synced transaction adds: batches, topics, rules, trims, words of the
site's directory, copies of other logs (core/mirror_log.py). LogState is the sum of all commits:
which topics exist, where each stream ends, what each producer has sent, how far other logs are
copied.

Rules:
1. LogState changes only by ``apply``; replaying the same commits gives the same state.
2. Nothing here is newer than what is synced: the node keeps its own view of what is under way.
3. No I/O: the store and the simulator's disk both keep one of these and write it as snapshot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

from meshmq import limits
from meshmq.core import directory_rows
from meshmq.core.directory_rows import Row, Said
from meshmq.core.journal import JournalRecord, JournalState
from meshmq.core.mirror_log import (
    BehindEntry,
    Copied,
    ForgottenEntry,
    LinkedEntry,
    MirrorEntry,
    MirrorState,
    StrandEntry,
    StrandsEntry,
    TakenEntry,
    TakeoverEntry,
    least,
)
from meshmq.core.site_taken import MovedEntry, MovedRun, note_moved
from meshmq.frames_site_words import SiteTaken
from meshmq.names import JOURNAL, is_named


class BatchEntry(NamedTuple):
    """One batch as it is stored.

    Attributes:
        stream: alias of the stream in this data directory, from 1.
        base_offset: offset of its first record.
        count: records in it, at least 1.
        payload: the producer's bytes, as they came.
        checksum: CRC-32 of payload.
        producer: 16 bytes.
        first: the producer's sequence of its first record, from 1.
        moved: where it was sent before, see PublishBatch; or empty.
    """

    stream: int
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    payload: bytes
    checksum: int
    producer: bytes
    first: int
    moved: bytes = b""


class TopicEntry(NamedTuple):
    """A topic made, changed or deleted. ``stream`` is 0 for a transient topic.

    Attributes:
        copies: nodes that are to have its stream; 0: as many as the node says.
        replicated: receipts wait for the copies, where who publishes does not say.
        origin: whose log it is copied from, where it is ``source``; empty: it is the node's own.
        copied_from: one more than the offset from which on other nodes may have it; 0: nobody noted
            that; COPIED_NO_MORE: it was copied, and is not any more.
        strand: of a log of another site, by which it came.
    """

    stream: int
    topic_id: bytes
    name: str
    durable: bool
    retention_ns: int
    retention_bytes: int
    deleted: bool = False
    copies: int = 0
    origin: bytes = b""
    source: int = 0
    replicated: bool = False
    copied_from: int = 0
    strand: int = 0


COPIED_NO_MORE = (1 << 64) - 1


class RuleEntry(NamedTuple):
    """Policy for topics that match ``pattern`` and are made later; ``copies`` and ``replicated`` as
    of a topic."""

    pattern: str
    durable: bool
    retention_ns: int
    retention_bytes: int
    removed: bool = False
    copies: int = 0
    replicated: bool = False


class TrimEntry(NamedTuple):
    """Records of ``stream`` before ``first_offset`` are gone."""

    stream: int
    first_offset: int


class JournalEntry(NamedTuple):
    """What groups did: ``batch`` is its record in the journal's stream, ``records`` its words."""

    batch: BatchEntry
    records: tuple[JournalRecord, ...]


class CopiedEntry(NamedTuple):
    """A batch of another node's log: ``batch`` as it is stored here, and its place there; of that
    node's journal ``records`` are its words."""

    batch: BatchEntry
    origin: bytes
    lsn: int
    slot: int
    append_time_ns: int
    records: tuple[JournalRecord, ...] = ()


MirrorWord = (
    MirrorEntry | TakeoverEntry | TakenEntry | BehindEntry | ForgottenEntry | LinkedEntry
    | SiteTaken | MovedEntry | StrandsEntry | StrandEntry
)  # fmt: skip
_MIRROR_WORDS = (
    MirrorEntry, TakeoverEntry, TakenEntry, BehindEntry, ForgottenEntry, LinkedEntry, SiteTaken,
    MovedEntry, StrandsEntry, StrandEntry,
)  # fmt: skip

Entry = (
    BatchEntry | TopicEntry | RuleEntry | TrimEntry | JournalEntry | CopiedEntry | MirrorEntry
    | TakeoverEntry | TakenEntry | BehindEntry | ForgottenEntry | LinkedEntry | SiteTaken
    | MovedEntry | StrandsEntry | StrandEntry | Said
)  # fmt: skip

_OFTEN = frozenset({BatchEntry, TopicEntry, RuleEntry, TrimEntry})
_SAID = get_args(Said)


class StoredBatch(NamedTuple):
    """One batch read back. ``payload`` is empty and ``damaged`` set if its checksum failed.

    ``producer`` and ``first`` are empty and 0 where its row is lost. ``place``: of a copied one,
    (lsn, slot, append time in ns) in its own log.
    """

    stream: int
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    payload: bytes
    checksum: int
    append_time_ns: int
    lsn: int
    slot: int
    damaged: bool = False
    producer: bytes = b""
    first: int = 0
    moved: bytes = b""
    place: tuple[int, int, int] | None = None


class Commit(NamedTuple):
    """One synced transaction. A batch's slot is its index in ``batches``; ``journal`` is what
    those of the journal's stream say, ``directory`` what the site agrees on from here on.

    ``copied`` tells of which batches are other nodes'; ``mirrors`` how far their logs are copied
    now, and who has taken over whose groups; ``journals`` what batches of their journals say.
    """

    lsn: int
    append_time_ns: int
    batches: tuple[BatchEntry, ...]
    topics: tuple[TopicEntry, ...] = ()
    rules: tuple[RuleEntry, ...] = ()
    trims: tuple[TrimEntry, ...] = ()
    journal: tuple[JournalRecord, ...] = ()
    directory: tuple[Said, ...] = ()
    copied: tuple[Copied, ...] = ()
    mirrors: tuple[MirrorWord, ...] = ()
    journals: tuple[tuple[bytes, tuple[JournalRecord, ...]], ...] = ()

    def place_of(self, stream: int) -> tuple[int, int]:
        """Where the last batch of a stream is in it, in the node's log."""
        batches = self.batches
        for slot in range(len(batches) - 1, -1, -1):
            if batches[slot].stream == stream:
                return self.lsn, slot
        return self.lsn, 0


def payload_bytes(entries: Iterable[Entry]) -> int:
    """Of all batches among them, also of the journal and of other nodes' logs."""
    size = 0
    for e in entries:
        if type(e) is BatchEntry:
            size += len(e.payload)
        elif isinstance(e, JournalEntry | CopiedEntry):
            size += len(e.batch.payload)
    return size


def split_entries(
    entries: list[Entry],
) -> tuple[
    tuple[BatchEntry, ...],
    tuple[TopicEntry, ...],
    tuple[RuleEntry, ...],
    tuple[TrimEntry, ...],
    tuple[JournalRecord, ...],
    tuple[Said, ...],
    tuple[Copied, ...],
    tuple[MirrorWord, ...],
    tuple[tuple[bytes, tuple[JournalRecord, ...]], ...],
]:
    """Sort ``entries`` into what a Commit holds, keeping the order within each kind."""
    journals = [e for e in entries if type(e) is JournalEntry]
    foreign = [e for e in entries if type(e) is CopiedEntry]
    batches: list[BatchEntry] = []
    copied: list[Copied] = []
    for e in entries if journals or foreign else ():
        if type(e) is CopiedEntry:
            copied.append(Copied(len(batches), e.origin, e.lsn, e.slot, e.append_time_ns))
            batches.append(e.batch)
        elif type(e) is JournalEntry:
            batches.append(e.batch)
        elif type(e) is BatchEntry:
            batches.append(e)
    has_said = not _OFTEN.issuperset(map(type, entries))
    return (
        tuple(batches or [e for e in entries if type(e) is BatchEntry]),
        tuple(e for e in entries if type(e) is TopicEntry),
        tuple(e for e in entries if type(e) is RuleEntry),
        tuple(e for e in entries if type(e) is TrimEntry),
        tuple(record for e in journals for record in e.records),
        tuple(e for e in entries if isinstance(e, _SAID)) if has_said else (),
        tuple(copied),
        tuple(e for e in entries if isinstance(e, _MIRROR_WORDS)) if has_said else (),
        tuple((e.origin, e.records) for e in foreign if e.records),
    )


@dataclass(slots=True)
class StreamState:
    """One topic and, if it is durable, its stream."""

    topic: TopicEntry
    next_offset: int = 0
    first_offset: int = 0


@dataclass(slots=True)
class ProducerState:
    """What one producer has sent to one stream.

    Attributes:
        last: highest sequence stored.
        last_time_ns: append time of it (unix ns).
        ranges: (first sequence, base offset, count), oldest first; runs that continue each other
            in both numbers are one range.
    """

    last: int = 0
    last_time_ns: int = 0
    ranges: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, first: int, base_offset: int, count: int, time_ns: int) -> None:
        """Note a batch; sequences only grow."""
        self.last = first + count - 1
        self.last_time_ns = time_ns
        ranges = self.ranges
        if ranges:
            f, b, c = ranges[-1]
            if f + c == first and b + c == base_offset:
                ranges[-1] = (f, b, c + count)
                return
        ranges.append((first, base_offset, count))
        if len(ranges) > limits.PRODUCER_RECENT_RANGES_MAX:
            del ranges[0]

    def offset_of(self, first: int, count: int) -> int | None:
        """Offset of a batch stored earlier, or None if that is no longer remembered."""
        for f, b, c in reversed(self.ranges):
            if f <= first and first + count <= f + c:
                return b + first - f
        return None

    def copy(self) -> ProducerState:
        return ProducerState(self.last, self.last_time_ns, list(self.ranges))


@dataclass(slots=True)
class LogState:
    """The sum of all commits of one log.

    Attributes:
        origin: 16 bytes, identity of this log.
        next_lsn: number of the next commit.
        append_time_ns: of the newest commit (unix ns); the next is not less.
        next_stream: alias for the next durable topic.
        topics: by name; deleted ones are not in it.
        streams: durable ones by alias, the same objects as in ``topics``.
        rules: by pattern, oldest first.
        producers: by (producer, stream), least recently active first.
        journal: what groups and queues have done.
        mirrors: logs of other nodes of which there are copies here, by origin; their streams are in
            ``streams`` too.
        takeovers: of whose groups others hand out what is left, by origin.
        site_taken: logs that another site was given, by origin.
        moved: where this node put records of such logs, by (origin, group).
        forgotten: which logs no node goes on with, by origin.
        behind: a copy of this log goes further: it is an older state of its disk.
        directory: what the node's site agrees on, by the rows' keys.
    """

    origin: bytes
    next_lsn: int = 1
    append_time_ns: int = 0
    next_stream: int = 1
    topics: dict[str, StreamState] = field(default_factory=dict)
    streams: dict[int, StreamState] = field(default_factory=dict)
    rules: dict[str, RuleEntry] = field(default_factory=dict)
    producers: OrderedDict[tuple[bytes, int], ProducerState] = field(default_factory=OrderedDict)
    journal: JournalState = field(default_factory=JournalState)
    mirrors: dict[bytes, MirrorState] = field(default_factory=dict)
    takeovers: dict[bytes, TakeoverEntry] = field(default_factory=dict)
    site_taken: dict[bytes, SiteTaken] = field(default_factory=dict)
    moved: dict[tuple[bytes, str], list[MovedRun]] = field(default_factory=dict)
    forgotten: dict[bytes, ForgottenEntry] = field(default_factory=dict)
    behind: BehindEntry | None = None
    directory: dict[bytes, Row] = field(default_factory=dict)

    def first_offsets(self) -> dict[int, int]:
        """By stream, the offset from which records are kept."""
        return {alias: stream.first_offset for alias, stream in self.streams.items()}

    def apply(self, commit: Commit) -> None:
        """Add one commit; ``commit.lsn`` must be ``next_lsn``."""
        assert commit.lsn == self.next_lsn, (commit.lsn, self.next_lsn)
        self.next_lsn += 1
        self.append_time_ns = commit.append_time_ns
        for topic in commit.topics:
            self._apply_topic(topic)
        for rule in commit.rules:
            self.rules.pop(rule.pattern, None)
            if not rule.removed:
                self.rules[rule.pattern] = rule
        for batch in commit.batches:
            stream = self.streams.get(batch.stream)
            if stream is not None:
                stream.next_offset = batch.base_offset + batch.count
                # The node's own records are never sent again, and copies are not sent to it: of
                # those it is asked what producers with names have numbered.
                if batch.producer != self.origin and (
                    not stream.topic.origin or is_named(batch.producer)
                ):
                    self.note_producer(batch, commit.append_time_ns)
        for trim in commit.trims:
            stream = self.streams.get(trim.stream)
            if stream is not None and trim.first_offset > stream.first_offset:
                stream.first_offset = trim.first_offset
        if commit.journal:
            held = self.topics.get(JOURNAL)
            place = commit.place_of(held.topic.stream if held is not None else 0)
            now_ms = commit.append_time_ns // limits.MS
            self.journal.apply(commit.journal, now_ms, place=place)
        if commit.directory:
            directory_rows.apply(self.directory, commit.directory)
        for origin, records in commit.journals:
            mirror = self.mirrors.get(origin)
            if mirror is not None:
                mirror.journal.say(records, commit.append_time_ns // limits.MS)
        for said in commit.mirrors:
            self._apply_mirror(said)

    def _apply_mirror(self, said: MirrorWord) -> None:
        if isinstance(said, TakenEntry):
            if said.origin in self.mirrors:
                self.mirrors[said.origin].journal.take(said.taken)
            return
        if isinstance(said, TakeoverEntry):
            known = self.takeovers.get(said.origin)
            if known is None or known.rank <= said.rank:
                self.takeovers[said.origin] = said
            return
        if isinstance(said, SiteTaken):
            self.site_taken[said.origin] = said
            return
        if isinstance(said, MovedEntry):
            note_moved(self.moved, said)
            return
        if isinstance(said, BehindEntry):
            self.behind = said
            return
        if isinstance(said, LinkedEntry | StrandsEntry | StrandEntry):
            mirror = self.mirrors.setdefault(said.origin, MirrorState())
            if isinstance(said, LinkedEntry):
                mirror.linked = said
            elif isinstance(said, StrandEntry):
                mirror.go_on(*said[1:])
            else:
                mirror.strands = {strand.number: strand for strand in said.strands}
                mirror.lsn, mirror.slot = least(said.strands)
            return
        if isinstance(said, ForgottenEntry):
            self.forgotten[said.origin] = said
            while len(self.forgotten) > limits.MIRRORS_MAX:
                del self.forgotten[min(self.forgotten.values(), key=lambda e: e.epoch).origin]
            return
        if said.dropped:
            over = self.mirrors.pop(said.origin, None)
            gone = set(over.streams) if over is not None else set()
            for alias in gone:
                self.streams.pop(alias, None)
            self._forget_producers(gone)
            return
        mirror = self.mirrors.setdefault(said.origin, MirrorState())
        mirror.name, mirror.lsn, mirror.slot = said.name, said.lsn, said.slot
        mirror.lacks, mirror.holes = said.lacks, said.holes

    def _apply_copied_topic(self, topic: TopicEntry) -> None:
        mirror = self.mirrors.setdefault(topic.origin, MirrorState())
        if topic.deleted:
            self.streams.pop(topic.stream, None)
            self._forget_producers({topic.stream})
            mirror.streams.pop(topic.stream, None)
            if topic.source not in mirror.streams.values():
                mirror.journal.forget_streams({topic.source})
            return
        held = self.streams.setdefault(topic.stream, StreamState(topic))
        held.topic = topic
        mirror.streams[topic.stream] = topic.source

    def add_stream(self, held: StreamState) -> None:
        """One that a snapshot tells of."""
        topic = held.topic
        if topic.origin:
            mirror = self.mirrors.setdefault(topic.origin, MirrorState())
            mirror.streams[topic.stream] = topic.source
        else:
            self.topics[topic.name] = held
        if topic.stream:
            self.streams[topic.stream] = held

    def add_word(self, said: MirrorWord) -> None:
        """One that a snapshot tells of."""
        self._apply_mirror(said)

    @property
    def words(self) -> tuple[MirrorWord, ...]:
        """All that ``add_word`` is to be told of for a snapshot."""
        behind = () if self.behind is None else (self.behind,)
        moved = [MovedEntry(*key, tuple(runs)) for key, runs in self.moved.items()]
        taken = (*self.takeovers.values(), *self.site_taken.values(), *moved)
        return (*taken, *self.forgotten.values(), *behind)

    def all_streams(self) -> list[StreamState]:
        """All that ``add_stream`` is to be told of for a snapshot."""
        copied = [s for s in self.streams.values() if s.topic.origin]
        return [*self.topics.values(), *copied]

    def _apply_topic(self, topic: TopicEntry) -> None:
        if topic.stream >= self.next_stream:
            self.next_stream = topic.stream + 1
        if topic.origin:
            self._apply_copied_topic(topic)
            return
        if topic.deleted:
            self.topics.pop(topic.name, None)
            if self.streams.pop(topic.stream, None) is not None:
                self._forget_producers({topic.stream})
                self.journal.forget_streams({topic.stream})
            return
        state = self.topics.get(topic.name)
        if state is None:
            state = self.topics[topic.name] = StreamState(topic)
        else:
            state.topic = topic
        if topic.durable:
            self.streams[topic.stream] = state

    def _forget_producers(self, streams: set[int]) -> None:
        for key in [k for k in self.producers if k[1] in streams]:
            del self.producers[key]

    def note_producer(self, batch: BatchEntry, time_ns: int) -> None:
        key = (batch.producer, batch.stream)
        state = self.producers.get(key)
        if state is None:
            state = self.producers[key] = ProducerState()
        else:
            self.producers.move_to_end(key)
        state.add(batch.first, batch.base_offset, batch.count, time_ns)
        producers = self.producers
        while len(producers) > limits.PRODUCERS_MAX or (
            next(iter(producers.values())).last_time_ns < time_ns - limits.PRODUCER_FORGET_NS
        ):
            producers.popitem(last=False)
