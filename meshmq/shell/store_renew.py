"""Gives a log that was restored from a backup another identity: an operator's decision.

Copies of it, and readers, know records that it has not got; what it gave their offsets to would be
taken for them. So nobody goes on with it: it becomes a copy, of all its topics, in the same place,
and a log with an identity of its own begins behind it. Nothing is moved: a new segment begins with
a state in which its streams, and what its groups have done, are those of another log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from meshmq.core.journal import JournalState
from meshmq.core.log import LogState
from meshmq.core.mirror_log import MirrorState
from meshmq.shell.store import LogStore


def renew(directory: Path, name: str) -> tuple[bytes, bytes]:
    """Renew the log in ``directory``, of node ``name``; return its origin before and after.

    Raises what an open of it raises. A crash leaves the log as it was, or renewed.
    """
    store = LogStore.open(directory)
    try:
        state = store.state
        lsn = state.behind.began if state.behind is not None else state.next_lsn
        own = [(number, 0) for number, held in state.streams.items() if not held.topic.origin]
        _, rows = store.survey(own, None, (lsn, 0))
        store.append(())  # a segment in which there is nothing cannot be closed
        before = state.origin
        give_up(state, name, lsn, {number: offset for number, offset, _ in rows})
        store.roll()
        return before, store.state.origin
    finally:
        store.close()


def give_up(state: LogState, name: str, lsn: int, ends: Mapping[int, int]) -> None:
    """All that was this log's own before commit ``lsn`` is another one's; ``ends`` are the offsets
    of its streams there. What came after that is nobody's: the other log has something else."""
    before, state.origin = state.origin, os.urandom(16)
    copy = MirrorState(name, lsn, 0, journal=state.journal, own_until=lsn)
    for held in [s for s in state.topics.values() if s.topic.stream]:
        # Its policy was for its owner: it is kept until the old log is forgotten.
        held.topic = held.topic._replace(
            origin=before, source=held.topic.stream, retention_ns=0, retention_bytes=0, copies=0
        )
        held.next_offset = max(held.first_offset, ends[held.topic.stream])
        copy.streams[held.topic.stream] = held.topic.stream
        del state.topics[held.topic.name]
    state.mirrors[before] = copy
    state.journal = JournalState(next_id=state.journal.next_id)
    state.producers.clear()
    state.behind = None
