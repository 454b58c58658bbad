"""Batches that cross a link compressed, as one block for each frame; they are stored as they were.

Rules:
1. A frame whose block is not smaller by a sixteenth goes as it is.
2. Where one was not, the next frames of that log are not tried: 1, 2, 4 and so on to
   PACK_SKIPPED_MAX, until one shrinks again. So what is compressed already costs next to nothing.
3. A block is opened only if it is as long as its frame says, which the codec has bounded.
"""

from __future__ import annotations

from dataclasses import replace

from meshmq import limits
from meshmq.core.batches import BatchTools
from meshmq.frames_copies import Fetched


class Packer:
    """Packs the frames of one log."""

    def __init__(self, tools: BatchTools) -> None:
        self._pack = tools.pack
        self._skips = 0  # frames that go untried
        self._failed = 0  # how many they were the last time

    def packed(self, frame: Fetched) -> Fetched:
        """The frame, with its batches as one block if that is worth it."""
        size = len(frame.payload)
        if size < limits.PACK_BYTES_MIN:
            return frame
        if self._skips:
            self._skips -= 1
            return frame
        block = self._pack(frame.payload)
        if len(block) > size - size // 16:
            self._skips = self._failed = min(max(1, 2 * self._failed), limits.PACK_SKIPPED_MAX)
            return frame
        self._failed = 0
        return replace(frame, payload=block, size=size)


def opened(frame: Fetched, tools: BatchTools) -> Fetched:
    """The frame with its batches as they are stored; raises BadFrame."""
    if not frame.size:
        return frame
    return replace(frame, payload=tools.unpack(frame.payload, frame.size), size=0)
