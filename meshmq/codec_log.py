"""Commits and snapshots to bytes and back: what ``schemas/log.capnp`` describes.

Any bytes either decode or raise BadFrame. Commits are written and read once per group commit, with
up to thousands of batches each, so their messages are packed at fixed places (valid Cap'n Proto in
one segment, of the struct's first version, which says all that is to be said of batches) and read
at the same places after a check of the exact layout. What has another layout takes the bounded
reader.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from meshmq import codec, schema
from meshmq.core import directory_rows, journal, mirror_log
from meshmq.core.directory_rows import Said
from meshmq.core.journal import JournalRecord
from meshmq.core.log import (
    BatchEntry,
    Commit,
    LogState,
    MirrorWord,
    ProducerState,
    RuleEntry,
    StreamState,
    TopicEntry,
    TrimEntry,
)
from meshmq.core.mirror_log import Copied
from meshmq.core.retention import Portion, SegmentInfo
from meshmq.errors import BadFrame
from meshmq.frames_moving import Moved, moved_of

FORMAT, FORMAT_COPIES = 1, 2
"""Versions of the segment format: without copies of other logs, and with; another is refused."""

_log = schema.load("log")

# A commit with batches only: segment table, root pointer (3 data words, 4 pointers), lsn, append
# time, inline, pointer to the batches, three null pointers, the list's tag word.
_HEAD = struct.Struct("<IIQQqQQ24sQ")
_NO_POINTERS = bytes(24)
_ROOT = 3 << 32 | 4 << 48
_BATCH = struct.Struct("<IIQQII16sQ")
_BATCH_WORDS = _BATCH.size // 8
_LIST_OFFSET = 3  # words from the end of the list's pointer to its tag
_COMPOSITE = 7  # element size code of a list of structs
_PORTION = struct.Struct("<IQQQq")
_PRODUCER = struct.Struct("<16sIIQq")
_RANGE = struct.Struct("<QQQ")


class BatchMeta(NamedTuple):
    """Where one batch of a commit is, and what it is; fields as in ``schemas/log.capnp``."""

    stream: int
    records: int
    base_offset: int
    position: int
    length: int
    checksum: int
    producer: bytes
    first: int
    moved: bytes = b""


class CommitMeta(NamedTuple):
    """One commit without its batches' bytes. ``batches[slot]`` costs the same at any slot."""

    lsn: int
    append_time_ns: int
    inline: bool
    batches: Sequence[BatchMeta]
    topics: tuple[TopicEntry, ...]
    rules: tuple[RuleEntry, ...]
    trims: tuple[TrimEntry, ...]
    directory: tuple[Said, ...] = ()
    copied: tuple[Copied, ...] = ()
    mirrors: tuple[MirrorWord, ...] = ()

    def without_bytes(self) -> Commit:
        """The commit as LogState.apply wants it, but for its journal; every payload is empty."""
        batches = tuple(
            BatchEntry(stream, base, count, b"", checksum, producer, first, moved)
            for stream, count, base, _, _, checksum, producer, first, moved in self.batches
        )
        return Commit(
            self.lsn, self.append_time_ns, batches, self.topics, self.rules, self.trims,
            directory=self.directory, copied=self.copied, mirrors=self.mirrors,
        )  # fmt: skip


class _PackedBatches(Sequence[BatchMeta]):
    """Batches of one commit, unpacked when looked at."""

    __slots__ = ("_count", "_data")

    def __init__(self, data: bytes, count: int) -> None:
        self._data = data
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, slot: Any) -> Any:
        if not 0 <= slot < self._count:
            raise IndexError(slot)
        return BatchMeta(*_BATCH.unpack_from(self._data, _HEAD.size + slot * _BATCH.size))

    def __iter__(self) -> Iterator[BatchMeta]:
        packed = memoryview(self._data)[_HEAD.size :]
        return starmap(BatchMeta, _BATCH.iter_unpack(packed))


# --- commits -------------------------------------------------------------------------------


def encode_commit(commit: Commit, start: int, inline: bool) -> bytes:
    """Encode all of ``commit`` but its batches' bytes, which lie back to back from ``start``."""
    moved = [(i, moved_of(b.moved)) for i, b in enumerate(commit.batches) if b.moved]
    of_copies = commit.copied or commit.mirrors
    others = commit.topics or commit.rules or commit.trims or commit.directory or of_copies
    if commit.batches and not (moved or others):
        return _pack_commit(commit, start, inline)
    message = _log.Commit.new_message(
        lsn=commit.lsn, appendTime=commit.append_time_ns, inline=inline
    )
    if commit.batches:
        _build_batches(message.init("batches", len(commit.batches)), commit.batches, start)
    if commit.topics:
        built = message.init("topics", len(commit.topics))
        for i, topic in enumerate(commit.topics):
            _build_topic(built[i], topic)
    if commit.rules:
        built = message.init("rules", len(commit.rules))
        for i, rule in enumerate(commit.rules):
            _build_rule(built[i], rule)
    if commit.trims:
        built = message.init("trims", len(commit.trims))
        for i, trim in enumerate(commit.trims):
            built[i].stream, built[i].firstOffset = trim
    if of_copies:
        message.mirrors = mirror_log.pack((*commit.copied, *commit.mirrors))
    if commit.directory:
        message.directory = directory_rows.pack(commit.directory)
    if moved:
        for item, (slot, was) in zip(message.init("moved", len(moved)), moved, strict=True):
            item.slot, item.origin, item.first = slot, was.origin, was.first
    encoded: bytes = message.to_bytes()
    return encoded


def _pack_commit(commit: Commit, start: int, inline: bool) -> bytes:
    count = len(commit.batches)
    words = count * _BATCH_WORDS
    pack = _BATCH.pack
    parts = [
        _HEAD.pack(
            0,
            9 + words,
            _ROOT,
            commit.lsn,
            commit.append_time_ns,
            inline,
            1 | _LIST_OFFSET << 2 | _COMPOSITE << 32 | words << 35,
            _NO_POINTERS,
            count << 2 | _BATCH_WORDS << 32,
        )
    ]
    for stream, base_offset, records, payload, checksum, producer, first, _ in commit.batches:
        if len(producer) != 16:
            raise BadFrame(f"producer id of {len(producer)} bytes, it must be 16")
        length = len(payload)
        parts.append(pack(stream, records, base_offset, start, length, checksum, producer, first))
        start += length
    return b"".join(parts)


def _build_batches(built: Any, batches: Sequence[BatchEntry], start: int) -> None:
    for i, batch in enumerate(batches):
        if len(batch.producer) != 16:
            raise BadFrame(f"producer id of {len(batch.producer)} bytes, it must be 16")
        item = built[i]
        item.stream = batch.stream
        item.baseOffset = batch.base_offset
        item.count = batch.count
        item.position = start
        item.length = len(batch.payload)
        item.checksum = batch.checksum
        item.producerHead = int.from_bytes(batch.producer[:8], "little")
        item.producerTail = int.from_bytes(batch.producer[8:], "little")
        item.first = batch.first
        start += len(batch.payload)


def decode_commit(data: bytes) -> CommitMeta:
    """Decode what encode_commit made; raise BadFrame if it is malformed."""
    if len(data) >= _HEAD.size:
        table, words, root, lsn, time_ns, inline, pointer, others, tag = _HEAD.unpack_from(data)
        count = (tag & 0xFFFF_FFFF) >> 2
        body = count * _BATCH_WORDS
        if (
            table == 0
            and root == _ROOT
            and inline <= 1
            and others == _NO_POINTERS
            and tag == count << 2 | _BATCH_WORDS << 32
            and pointer == 1 | _LIST_OFFSET << 2 | _COMPOSITE << 32 | body << 35
            and words == 9 + body
            and len(data) == 8 + 8 * words
        ):
            packed = _PackedBatches(data, count)
            return CommitMeta(lsn, time_ns, bool(inline), packed, (), (), ())
    return _read_commit(data)


def _read_commit(data: bytes) -> CommitMeta:
    try:
        with _log.Commit.from_bytes(data, **schema.limits_for(data)) as reader:
            said = mirror_log.unpack(bytes(reader.mirrors))
            return CommitMeta(
                reader.lsn,
                reader.appendTime,
                reader.inline,
                _read_batches(reader),
                tuple(_read_topic(item) for item in reader.topics),
                tuple(_read_rule(item) for item in reader.rules),
                tuple(TrimEntry(item.stream, item.firstOffset) for item in reader.trims),
                tuple(directory_rows.unpack(bytes(reader.directory))),
                tuple(row for row in said if isinstance(row, Copied)),
                tuple(row for row in said if not isinstance(row, Copied)),
            )
    except schema.REFUSALS:
        raise BadFrame(f"malformed commit of {len(data)} bytes") from None


def _read_batches(reader: Any) -> tuple[BatchMeta, ...]:
    batches = [_read_batch(item) for item in reader.batches]
    for item in reader.moved:
        origin = bytes(item.origin)
        if item.slot >= len(batches) or len(origin) != 16:
            raise BadFrame("a commit with a moved batch that is not there")
        moved = Moved(origin, item.first).pack()
        batches[item.slot] = batches[item.slot]._replace(moved=moved)
    return tuple(batches)


def _read_batch(item: Any) -> BatchMeta:
    head: int = item.producerHead
    tail: int = item.producerTail
    return BatchMeta(
        item.stream,
        item.count,
        item.baseOffset,
        item.position,
        item.length,
        item.checksum,
        head.to_bytes(8, "little") + tail.to_bytes(8, "little"),
        item.first,
    )


def _build_topic(item: Any, topic: TopicEntry) -> None:
    item.stream = topic.stream
    item.topicId = topic.topic_id
    item.name = topic.name
    item.durable = topic.durable
    item.retention = topic.retention_ns
    item.retentionBytes = topic.retention_bytes
    item.deleted = topic.deleted
    item.copies, item.source, item.replicated = topic.copies, topic.source, topic.replicated
    item.copiedFrom, item.strand = topic.copied_from, topic.strand
    if topic.origin:
        item.origin = topic.origin


def _read_topic(item: Any) -> TopicEntry:
    return TopicEntry(
        item.stream,
        bytes(item.topicId),
        item.name,
        item.durable,
        item.retention,
        item.retentionBytes,
        item.deleted,
        item.copies,
        bytes(item.origin),
        item.source,
        item.replicated,
        item.copiedFrom,
        item.strand,
    )


def _build_rule(item: Any, rule: RuleEntry) -> None:
    item.pattern = rule.pattern
    item.durable = rule.durable
    item.retention = rule.retention_ns
    item.retentionBytes = rule.retention_bytes
    item.removed = rule.removed
    item.copies, item.replicated = rule.copies, rule.replicated


def _read_rule(item: Any) -> RuleEntry:
    return RuleEntry(
        item.pattern, item.durable, item.retention, item.retentionBytes, item.removed, item.copies,
        item.replicated,
    )  # fmt: skip


# --- the journal ---------------------------------------------------------------------------


def decode_journal(payload: bytes, checksum: int, count: int) -> tuple[JournalRecord, ...]:
    """What one batch of the journal's stream says; raise BadFrame if it is damaged."""
    if zlib.crc32(payload) != checksum:
        raise BadFrame("a batch of the journal fails its checksum")
    try:
        values = codec.decode_batch(payload, count).values
        return tuple([record for value in values for record in journal.unpack_deltas(value)])
    except (ValueError, TypeError, struct.error) as error:
        raise BadFrame(f"malformed journal: {error}") from None


# --- snapshots -----------------------------------------------------------------------------


def encode_snapshot(state: LogState, segments: Sequence[SegmentInfo]) -> bytes:
    """Encode the live state and the older segments, as the first row of a new segment."""
    message = _log.Snapshot.new_message(
        format=FORMAT_COPIES if state.mirrors else FORMAT,
        origin=state.origin,
        nextLsn=state.next_lsn,
        appendTime=state.append_time_ns,
        nextStream=state.next_stream,
        producers=_pack_producers(state),
        groups=journal.pack_state(state.journal),
        mirrors=mirror_log.pack_mirrors(state.mirrors),
        takeovers=mirror_log.pack(state.words),
        directory=directory_rows.pack(state.directory.values()),
    )
    streams = state.all_streams()
    built = message.init("streams", len(streams))
    for i, stream in enumerate(streams):
        item = built[i]
        _build_topic(item.topic, stream.topic)
        item.nextOffset = stream.next_offset
        item.firstOffset = stream.first_offset
    built = message.init("rules", len(state.rules))
    for i, rule in enumerate(state.rules.values()):
        _build_rule(built[i], rule)
    built = message.init("segments", len(segments))
    for i, segment in enumerate(segments):
        item = built[i]
        item.number = segment.number
        item.firstLsn = segment.first_lsn
        item.lastLsn = segment.last_lsn
        item.firstTime = segment.first_time_ns
        item.lastTime = segment.last_time_ns
        item.portions = b"".join(
            _PORTION.pack(p.stream, p.first_offset, p.next_offset, p.bytes, p.last_time_ns)
            for p in segment.portions.values()
        )
    encoded: bytes = message.to_bytes()
    return encoded


def decode_snapshot(data: bytes) -> tuple[LogState, list[SegmentInfo]]:
    """Decode what encode_snapshot made; raise BadFrame if it is malformed or of another format."""
    try:
        with _log.Snapshot.from_bytes(data, **schema.limits_for(data)) as reader:
            if reader.format not in (FORMAT, FORMAT_COPIES):
                raise BadFrame(
                    f"snapshot of format {reader.format}, this version reads up to {FORMAT_COPIES}"
                )
            state = LogState(
                bytes(reader.origin), reader.nextLsn, reader.appendTime, reader.nextStream
            )
            state.mirrors = mirror_log.unpack_mirrors(bytes(reader.mirrors))
            for item in reader.streams:
                topic = _read_topic(item.topic)
                state.add_stream(StreamState(topic, item.nextOffset, item.firstOffset))
            for said in mirror_log.unpack(bytes(reader.takeovers)):
                assert not isinstance(said, Copied)
                state.add_word(said)
            state.rules = {rule.pattern: rule for rule in map(_read_rule, reader.rules)}
            state.producers = _unpack_producers(bytes(reader.producers))
            state.journal = journal.unpack_state(bytes(reader.groups))
            directory_rows.apply(state.directory, directory_rows.unpack(bytes(reader.directory)))
            segments = [_read_segment(item) for item in reader.segments]
    except (*schema.REFUSALS, struct.error, TypeError):
        raise BadFrame(f"malformed snapshot of {len(data)} bytes") from None
    return state, segments


def _read_segment(item: Any) -> SegmentInfo:
    number: int = item.number
    portions = (Portion(number, *found) for found in _PORTION.iter_unpack(bytes(item.portions)))
    return SegmentInfo(
        number,
        item.firstLsn,
        item.lastLsn,
        item.firstTime,
        item.lastTime,
        {portion.stream: portion for portion in portions},
    )


def _pack_producers(state: LogState) -> bytes:
    parts: list[bytes] = []
    for (producer, stream), held in state.producers.items():
        parts.append(
            _PRODUCER.pack(producer, stream, len(held.ranges), held.last, held.last_time_ns)
        )
        parts.extend(_RANGE.pack(*found) for found in held.ranges)
    return b"".join(parts)


def _unpack_producers(data: bytes) -> OrderedDict[tuple[bytes, int], ProducerState]:
    found: OrderedDict[tuple[bytes, int], ProducerState] = OrderedDict()
    at = 0
    while at < len(data):
        producer, stream, count, last, last_time_ns = _PRODUCER.unpack_from(data, at)
        at += _PRODUCER.size
        end = at + count * _RANGE.size
        if end > len(data):
            raise struct.error("ranges end early")
        ranges = list(_RANGE.iter_unpack(data[at:end]))
        found[producer, stream] = ProducerState(last, last_time_ns, ranges)
        at = end
    return found
