"""Reply frames from rows, for both ends."""

from __future__ import annotations

from meshmq.core.rows import for_frames, reply_bytes
from meshmq.frames import Reply, ReplyRow


def replies(items: list[tuple[ReplyRow, bytes]]) -> list[Reply]:
    """Frames of these rows, as many in one as fit."""
    return [reply_of(run) for run in for_frames(items, reply_bytes)]


def reply_of(items: list[tuple[ReplyRow, bytes]]) -> Reply:
    """One frame of these rows."""
    if len(items) == 1:
        return Reply((items[0][0],), items[0][1])
    return Reply(tuple([row for row, _ in items]), b"".join([data for _, data in items]))
