"""Gives a log that was restored from a backup another identity: an operator's decision.

Copies of it, and readers, know records that it has not got; what it gave their offsets to would be
taken for them. So nobody goes on with it: it becomes a copy, of all its topics, in the same place,
and a log with an identity of its own begins behind it. Nothing is moved: a new segment begins with
a state in which its streams, and what its groups have done, are those of another log, as they were
when the backup was put back (core/own_log.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from meshmq import codec_log
from meshmq.core.directory_rows import NodeRow
from meshmq.core.log import LogState, StreamState
from meshmq.core.own_log import give_up
from meshmq.errors import BadFrame, ConfigError, MeshError
from meshmq.shell import store_files
from meshmq.shell.segment import Segment, decode_row
from meshmq.shell.store import LogStore
from meshmq.shell.store_journal import replayed


def renew(directory: Path, name: str) -> tuple[bytes, bytes]:
    """Renew the log in ``directory``, of node ``name`` (empty: as the log knows it); return its
    origin before and after.

    Raises what an open of it raises, and ConfigError if it is another node's, or was renewed and
    has stored nothing since. A crash leaves the log as it was, or renewed.
    """
    store = LogStore.open(directory)
    try:
        state = store.state
        known = _name_in(state)
        if name and known not in ("", name):
            raise ConfigError(f"{directory} is the log of node {known!r}: say --name {known}")
        if not name and not known:
            raise ConfigError(f"{directory} does not say whose log it is: give --name")
        if _is_fresh(state, directory / store_files.LOG):
            raise ConfigError(
                f"{directory} was renewed already, and nothing was stored in it since: start the "
                f"node, which says so if it must be renewed once more"
            )
        lsn, before, lacks = state.next_lsn, state, False
        if state.behind is not None:
            lsn = state.behind.began
            found = _state_before(directory / store_files.LOG, lsn)
            lacks = found is None
            before = _streams_before(store, lsn) if found is None else found
        store.append(())  # a segment in which there is nothing cannot be closed
        origin = state.origin
        give_up(state, os.urandom(16), name or known, lsn, before, lacks)
        store.roll()
        return origin, store.state.origin
    finally:
        store.close()


def _name_in(state: LogState) -> str:
    """What a log's node was called, as far as its site knew; empty: it was in none."""
    row = state.directory.get(b"n" + state.origin)
    return row.set.by if isinstance(row, NodeRow) else ""


def _is_fresh(state: LogState, log: Path) -> bool:
    """Whether a log was renewed and is as it was then: a renewal ends a segment, and leaves no
    stream of its own. If a copy has more of it all the same, its node will be told so."""
    was_renewed = any(mirror.own_until for mirror in state.mirrors.values())
    has_own = any(not held.topic.origin for held in state.streams.values())
    if state.behind is not None or not was_renewed or has_own or state.journal.groups:
        return False
    segment = Segment(log, store_files.list_segments(log)[-1])
    try:
        snapshot = segment.snapshot()
    finally:
        segment.close()
    return (
        snapshot is not None and codec_log.decode_snapshot(snapshot)[0].next_lsn == state.next_lsn
    )


def _state_before(log: Path, lsn: int) -> LogState | None:
    """What the log was before a commit; None: the rows that say it are not there any more."""
    for number in reversed(store_files.list_segments(log)):
        try:
            segment = Segment(log, number)
        except MeshError:
            continue
        try:
            snapshot = segment.snapshot()
            state = codec_log.decode_snapshot(snapshot)[0] if snapshot is not None else None
            if state is not None and state.next_lsn <= lsn:
                return _replayed(segment, state, lsn)
        except (BadFrame, MeshError, OSError):
            continue
        finally:
            segment.close()
    return None


def _replayed(segment: Segment, state: LogState, lsn: int) -> LogState | None:
    for at in range(state.next_lsn, lsn):
        row = segment.row(at)
        meta = decode_row(at, row)
        if row is None or meta is None:
            return None
        state.apply(replayed(segment, meta, row, state))
    return state


def _streams_before(store: LogStore, lsn: int) -> LogState:
    """Where the log's own streams ended; which of them had nothing does not matter."""
    state = store.state
    before = LogState(state.origin, lsn)
    own = [(number, 0) for number, held in state.streams.items() if not held.topic.origin]
    for number, end, _ in store.survey(own, None, (lsn, 0))[1]:
        if end:
            held = state.streams[number]
            before.streams[number] = StreamState(held.topic, end, held.first_offset)
    return before
