"""Reply frames from rows, for both ends."""

from __future__ import annotations

from meshmq import limits
from meshmq.frames import Reply, ReplyRow


def replies(items: list[tuple[ReplyRow, bytes]]) -> list[Reply]:
    """Frames of these rows, as many in one as fit."""
    found: list[Reply] = []
    begin = size = 0
    for i, (_, data) in enumerate(items):
        full = size + len(data) > limits.FRAME_PAYLOAD_BYTES_TARGET
        if i > begin and (full or i - begin >= limits.FRAME_BATCHES_MAX):
            found.append(_reply_of(items[begin:i]))
            begin, size = i, 0
        size += len(data)
    if items[begin:]:
        found.append(_reply_of(items[begin:]))
    return found


def _reply_of(items: list[tuple[ReplyRow, bytes]]) -> Reply:
    if len(items) == 1:
        return Reply((items[0][0],), items[0][1])
    return Reply(tuple([row for row, _ in items]), b"".join([data for _, data in items]))
