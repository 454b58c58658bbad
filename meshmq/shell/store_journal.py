"""The journal's batches in the log: read at start, the only ones whose bytes are part of the live
state, and let go of where the disk is short of room, for each segment begins with their sum.
"""

from __future__ import annotations

from meshmq import codec_log
from meshmq.codec_log import CommitMeta
from meshmq.core.journal import JournalRecord
from meshmq.core.log import Commit, LogState
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
    if not stream:
        return commit
    records: list[JournalRecord] = []
    for batch in meta.batches:
        if batch.stream != stream:
            continue
        if meta.inline:
            start = payload_start(row) + batch.position
            payload = row[start : start + batch.length]
        else:
            payload = segment.disk.read_values(batch.length, batch.position)
        records += codec_log.decode_journal(payload, batch.checksum, batch.records)
    return commit._replace(journal=tuple(records))


def _journal_stream(meta: CommitMeta, state: LogState) -> int:
    """Alias of the journal's stream, 0 while there is none."""
    for topic in meta.topics:
        if topic.name == JOURNAL:
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
