"""The journal's batches in the log: read at start, the only ones whose bytes are part of the live
state, and let go of where the disk is short of room, for each segment begins with their sum.
"""

from __future__ import annotations

import contextlib

from meshmq import codec_log
from meshmq.codec_log import CommitMeta
from meshmq.core.journal import JournalRecord
from meshmq.core.log import Commit, LogState
from meshmq.errors import BadFrame
from meshmq.names import JOURNAL
from meshmq.shell.segment import Segment
from meshmq.shell.store_disk import payload_start
from meshmq.shell.store_index import SegmentIndex

ROW_BYTES = 512  # about what a small commit's row takes besides its batches


def replayed(segment: Segment, meta: CommitMeta, row: bytes, state: LogState) -> Commit:
    """The commit as LogState.apply wants it, with what its journal says.

    Raises BadFrame if a batch of the journal is damaged.
    """
    commit = meta.without_bytes()
    stream = _journal_stream(meta, state)
    foreign = _foreign_journals(meta, state) if meta.copied else {}
    if not stream and not foreign:
        return commit
    records: list[JournalRecord] = []
    others: list[tuple[bytes, tuple[JournalRecord, ...]]] = []
    for batch in meta.batches:
        if batch.stream != stream and batch.stream not in foreign:
            continue
        if meta.inline:
            start = payload_start(row) + batch.position
            payload = row[start : start + batch.length]
        else:
            payload = segment.disk.read_values(batch.length, batch.position)
        if batch.stream == stream:
            records += codec_log.decode_journal(payload, batch.checksum, batch.records)
            continue
        with contextlib.suppress(BadFrame):  # it came damaged: that is known since then
            words = codec_log.decode_journal(payload, batch.checksum, batch.records)
            others.append((foreign[batch.stream], words))
    return commit._replace(journal=tuple(records), journals=tuple(others))


def _foreign_journals(meta: CommitMeta, state: LogState) -> dict[int, bytes]:
    """Of copied journals in this commit: their number here, and whose they are."""
    streams = {b.stream for b in meta.batches}
    found = {
        alias: held.topic.origin
        for alias in streams
        if (held := state.streams.get(alias)) and held.topic.origin and held.topic.name == JOURNAL
    }
    for topic in meta.topics:
        if topic.origin and topic.name == JOURNAL and topic.stream in streams:
            found[topic.stream] = topic.origin
    return found


def _journal_stream(meta: CommitMeta, state: LogState) -> int:
    """Alias of the journal's stream, 0 while there is none."""
    for topic in meta.topics:
        if topic.name == JOURNAL and not topic.origin:
            return topic.stream
    found = state.topics.get(JOURNAL)
    return found.topic.stream if found is not None else 0


def bytes_for_nothing(index: SegmentIndex, state: LogState) -> int:
    """About what a segment holds that the next one's snapshot would do for: journal and rows."""
    found = state.topics.get(JOURNAL)
    portion = index.portion(0, found.topic.stream) if found is not None else None
    return (portion.bytes if portion is not None else 0) + len(index.times) * ROW_BYTES


def trims(index: SegmentIndex, state: LogState) -> tuple[tuple[int, int], ...]:
    """The journal before the active segment, whose ``index`` this is: (stream, offset)."""
    found = state.topics.get(JOURNAL)
    if found is None:
        return ()
    portion = index.portion(0, found.topic.stream)
    first = portion.first_offset if portion is not None else found.next_offset
    return ((found.topic.stream, first),) if first > found.first_offset else ()
