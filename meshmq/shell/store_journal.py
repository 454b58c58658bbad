"""Reads the journal's batches at start: the only ones whose bytes are part of the live state."""

from __future__ import annotations

from meshmq import codec_log
from meshmq.codec_log import CommitMeta
from meshmq.core.journal import JournalRecord
from meshmq.core.log import Commit, LogState
from meshmq.names import JOURNAL
from meshmq.shell.segment import Segment
from meshmq.shell.store_disk import payload_start


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
