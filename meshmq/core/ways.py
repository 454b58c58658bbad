"""The ways that a producer's batches leave by: by the node, or directly to other programs."""

from __future__ import annotations

from collections import deque

from meshmq import limits
from meshmq.core.lanes import Batch, Lane


class Way:
    """Where batches leave.

    Attributes:
        by_lane: each lane counts what is under way of it, not all together: see Publisher, rule 1.
        batch_bytes: a batch is closed when its records reach this.
        is_open: whether anything can be sent by it.
        opened: batches that gather, in the order their first record came; written under the guard.
        full: those that were closed and not taken; written under the guard.
        queue: those that were taken and wait to be sent.
        frames: number of each frame under way -> its batches that are unanswered.
        paused_until_ns: set by the owner, who also ends it.
    """

    __slots__ = (
        "batch_bytes", "by_lane", "frames", "full", "in_flight_bytes", "in_flight_count", "is_open",
        "opened", "paused_until_ns", "queue", "window_bytes",
    )  # fmt: skip

    def __init__(self, by_lane: bool = False) -> None:
        self.by_lane = by_lane
        self.batch_bytes = limits.DIRECT_BATCH_BYTES if by_lane else limits.BATCH_BYTES_TARGET
        self.is_open = True
        self.opened: list[Batch] = []
        self.full: list[Batch] = []
        self.queue: deque[Batch] = deque()
        self.frames: dict[int, int] = {}
        self.in_flight_bytes = 0
        self.in_flight_count = 0
        self.paused_until_ns = 0
        self.window_bytes = limits.PRODUCER_IN_FLIGHT_BYTES_MAX

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way and nothing full waits."""
        return not (self.frames or self.full)

    @property
    def takes_partial(self) -> bool:
        """Whether a partly filled batch leaves at once."""
        return len(self.frames) < limits.PARTIAL_FRAMES_IN_FLIGHT

    @property
    def has_work(self) -> bool:
        """Whether there is something to send now."""
        if self.paused_until_ns or not self.is_open:
            return False
        if self.full or self.queue:
            return self.has_room(self.queue[0] if self.queue else self.full[0])
        if self.by_lane:
            return any(b.lane.open is b and may_leave(b.lane) for b in self.opened)
        return bool(self.opened) and self.takes_partial

    def has_room(self, batch: Batch) -> bool:
        """Whether one more may be under way."""
        if self.in_flight_count == 0:
            return True
        return (
            self.in_flight_bytes + batch.size <= self.window_bytes
            and self.in_flight_count < limits.PRODUCER_IN_FLIGHT_BATCHES_MAX
        )


def goes_by(batch: Batch) -> Way:
    """The way it is to take, as long as it was not sent."""
    way: Way = batch.pin or batch.lane.way
    return way


def may_leave(lane: Lane) -> bool:
    """Whether a partly filled batch of it need not wait."""
    return len(lane.in_flight) < limits.PARTIAL_FRAMES_IN_FLIGHT
