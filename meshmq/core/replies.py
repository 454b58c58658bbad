"""Reply frames from rows, for both ends."""

from __future__ import annotations

from collections.abc import Sequence

from meshmq.core.rows import for_frames, reply_bytes
from meshmq.frames import Reply, ReplyRow


def replies(items: list[tuple[ReplyRow, bytes]]) -> list[Reply]:
    """Frames of these rows, as many in one as fit."""
    return [reply_of(run) for run in for_frames(items, reply_bytes)]


def reply_of(items: Sequence[tuple[ReplyRow, bytes] | tuple[ReplyRow, bytes, int]]) -> Reply:
    """One frame of these rows; what is behind a row and its value is not looked at."""
    if len(items) == 1:
        return Reply((items[0][0],), items[0][1])
    return Reply(tuple([item[0] for item in items]), b"".join([item[1] for item in items]))
