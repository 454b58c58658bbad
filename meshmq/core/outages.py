"""What a publisher does about what is under way when a session is over: what is sent again, what
another node is to have, what has failed. See the rules of core/publisher.py."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.lanes import DEDUP_ID, FAILED, Batch, Lane
from meshmq.core.ways import Way
from meshmq.errors import UNKNOWN, MeshError, OwnerAway, from_code
from meshmq.frames import SENT, Moved, moved_of

_WITHOUT_COPIES = (
    "the record is stored and synced by the node it was sent to, and another one answers now: how "
    "many copies it has is not known"
)


class Outages:
    """See the module's header; the base of ``Publisher``."""

    guard: AbstractContextManager[Any]
    node: Way
    direct: Way
    lanes: dict[str, Lane]

    def close(self, batch: Batch) -> None:
        raise NotImplementedError

    def _gather(self, way: Way, partial: bool) -> None:
        raise NotImplementedError

    def _put_back(self, batches: list[Batch]) -> None:
        raise NotImplementedError

    def _unfly(self, batch: Batch) -> None:
        raise NotImplementedError

    def _finish(self, batch: Batch, state: int, error: MeshError | None) -> None:
        raise NotImplementedError

    def _fail_waiting(self, batch: Batch, error: MeshError) -> None:
        raise NotImplementedError

    def on_session_lost(self) -> None:
        """The node's session has ended: put what is unanswered there back, in order; what may be
        lost and was sent has failed."""
        again: list[Batch] = []
        for lane in self.lanes.values():
            elsewhere: deque[Batch] = deque()
            while lane.in_flight:
                batch = lane.in_flight.popleft()
                if batch.way is not self.node:
                    elsewhere.append(batch)
                elif lane.transient:
                    error = from_code("link-lost", "the link was lost before the node confirmed")
                    self._finish(batch, FAILED, error)
                else:
                    lane.is_fresh = False
                    self._unfly(batch)
                    again.append(batch)
            lane.in_flight = elsewhere
            lane.held, held = [], lane.held
            again.extend(held)
        again.sort(key=lambda b: b.frame)
        self._put_back(again)
        self.node.frames.clear()

    def on_origin(self, origin: bytes, away_ns: int, name: str | None = None) -> None:
        """A session with the log ``origin`` begins, ``away_ns`` after the last one ended: what
        went to another log, or was sent so long ago that it is forgotten, stays unknown. Not where
        the other log is of the same site, that of node ``name``: rule 7."""
        forgotten = away_ns > limits.PRODUCER_FORGET_NS - limits.PRODUCER_SWEEP_NS
        queue = self.node.queue
        stale = [b for b in queue if b.sent_to and (forgotten or b.sent_to != origin)]
        if name is not None:
            for lane in self.lanes.values():
                # This log has another part of what it has published, or nothing.
                lane.begins = lane.begins or (lane.way is self.node and lane.tail > 0)
        for batch in stale:
            is_stored = batch.durability > SENT and not forgotten
            if name is not None and not (forgotten or is_stored or _has_id(batch)):
                self._move(batch, origin)
                continue
            queue.remove(batch)
            if is_stored:
                self._fail_waiting(batch, from_code("durability-timeout", _WITHOUT_COPIES))
                continue
            if name is not None and not forgotten:
                why = f"node {name} had the job, unconfirmed, and is away; only it knows the id"
                error: MeshError = OwnerAway(f"{why}: whether it is in the queue is unknown")
                error.outcome = UNKNOWN
                self._fail_waiting(batch, error)
                continue
            reason = (
                "the node answers with another log than the one this record was sent to"
                if batch.sent_to != origin
                else "the node was away for longer than it remembers who sent what"
            )
            error = from_code("producer-unknown", f"{reason}; whether it was stored is unknown")
            self._fail_waiting(batch, error)

    def _move(self, batch: Batch, origin: bytes) -> None:
        if not batch.moved:
            batch.moved = Moved(batch.sent_to, batch.first).pack()
        elif moved_of(batch.moved).origin == origin:
            batch.moved = b""  # it is back where it was first

    def fail_sent(self, error: MeshError) -> None:
        """What was sent and is not answered fails with ``error``: it may have come."""
        for lane in self.lanes.values():
            while lane.in_flight:
                self._finish(lane.in_flight.popleft(), FAILED, error)

    def fail_all(self, error: MeshError) -> None:
        """Give up: everything that is not answered fails with ``error``."""
        with self.guard:
            for lane in self.lanes.values():
                if lane.open is not None:
                    self.close(lane.open)
        for way in (self.node, self.direct):
            self._gather(way, True)
        self.fail_sent(error)
        for lane in self.lanes.values():
            for batch in lane.held:
                self._fail_waiting(batch, error)
            lane.held.clear()
        for way in (self.node, self.direct):
            while way.queue:
                self._fail_waiting(way.queue.popleft(), error)


def _has_id(batch: Batch) -> bool:
    """Whether its jobs have an id that their queue knows them again by."""
    return batch.options is not None and bool(batch.options[DEDUP_ID])
