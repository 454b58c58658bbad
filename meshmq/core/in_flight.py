"""A publisher's batches from when they are closed to their end, and what becomes of those that are
under way when a session is over: what is sent again, what another node is to have, what has failed.

See the rules of core/publisher.py, which builds on this.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.lanes import DEDUP_ID, FAILED, Batch, Lane
from meshmq.core.ways import Way, goes_by, may_leave
from meshmq.durability import name_of, sites_of
from meshmq.errors import (
    NOT_DONE,
    UNKNOWN,
    DurabilityTimeout,
    MeshError,
    OwnerAway,
    from_code,
)
from meshmq.frames import REPLICATED, SENT, SYNCED, Moved, moved_of

_STORED = "the record is stored and synced by the node it was sent to, do not resend"
_WITHOUT_COPIES = f"{_STORED}; another one answers now: how many copies it has is unknown"


class InFlight:
    """See the module's header; the base of ``Publisher``.

    Attributes:
        lanes: by topic.
        released_bytes: of batches that have ended; written by the owner's thread only.
        ceiling_bytes: what may have been added: ``buffer_bytes`` beyond that.
        finished: batches that have ended, until ``take_finished``.
        untold: lanes of explicit numbers, of which the node is to be told what is stored before it
            gets more.
    """

    def __init__(self, guard: AbstractContextManager[Any]) -> None:
        self.guard = guard
        self.node = Way()
        self.direct = Way(by_lane=True)
        self.lanes: dict[str, Lane] = {}
        self.released_bytes = 0
        self.buffer_bytes = limits.PRODUCER_BUFFER_BYTES_MAX
        self.ceiling_bytes = self.buffer_bytes
        self.finished: list[Batch] = []
        self.untold: list[Lane] = []
        self._origin = b""

    @property
    def waits_for_copies(self) -> bool:
        """Whether all that is not answered is stored, and waits for its copies only."""
        if any(way.queue or way.full or way.opened for way in (self.node, self.direct)):
            return False
        unsettled = [b for lane in list(self.lanes.values()) for b in list(lane.unsettled)]
        return bool(unsettled) and all(b.durability > SENT for b in unsettled)

    @property
    def has_uncopied(self) -> bool:
        """Whether something is stored, and waits for its copies."""
        return any(b.durability > SENT for lane in self.lanes.values() for b in lane.in_flight)

    @property
    def why_copies(self) -> str:
        """What the node said of copies that are not there, in brackets, or empty."""
        said = {lane.waits for lane in list(self.lanes.values()) if lane.waits}
        return f" ({'; '.join(sorted(said))})" if said else ""

    @property
    def too_few(self) -> str:
        """What is waited for where ``waits_for_copies``, with what the node said of it."""
        return f"{too_few(self._wanted, 'them')}{self.why_copies}"

    @property
    def _wanted(self) -> int:
        """The most that a batch which is not answered waits for."""
        unsettled = [b.wanted for lane in list(self.lanes.values()) for b in list(lane.unsettled)]
        return max(unsettled, default=REPLICATED)

    def not_copied(self, timeout: float | None) -> DurabilityTimeout:
        """What to say where ``waits_for_copies`` goes on for too long; the program has heard of it
        then."""
        waiting = [b for lane in list(self.lanes.values()) for b in list(lane.unsettled)]
        count = sum(batch.count for batch in waiting)
        error = DurabilityTimeout(
            f"all is stored and {name_of(SYNCED)}, do not resend; {count} "
            f"record{'' if count == 1 else 's'} not {name_of(max(self._wanted, REPLICATED))} "
            f"within {timeout} s: {self.too_few}"
        )
        error.told = True
        for batch in waiting:
            batch.error = error
        return error

    def close(self, batch: Batch) -> None:
        """End the gathering of an open batch; call under the guard."""
        lane = batch.lane
        lane.open = lane.plain = None
        batch.count = len(batch.values)
        lane.tail = max(lane.tail, batch.first + batch.count - 1)
        lane.unsettled.append(batch)
        batch.way.full.append(batch)

    def _gather(self, way: Way, partial: bool) -> None:
        with self.guard:
            if way.by_lane:
                for batch in way.opened:
                    if batch.lane.open is batch and may_leave(batch.lane):
                        self.close(batch)
                way.opened = [b for b in way.opened if b.lane.open is b]
            elif partial:
                for batch in way.opened:
                    if batch.lane.open is batch:
                        self.close(batch)
                way.opened.clear()
            elif len(way.opened) > 64:
                way.opened = [b for b in way.opened if b.lane.open is b]
            full, way.full = way.full, []
        way.queue.extend(full)

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
        queue = self.node.queue
        again += [b for b in queue if b.sent_to]  # refused for now, while others were under way
        self.node.queue = deque([b for b in queue if not b.sent_to])
        again.sort(key=lambda b: b.frame)
        self._put_back(_in_turn(again))
        self.node.frames.clear()

    def on_origin(self, origin: bytes, away_ns: int, name: str | None = None) -> None:
        """A session with the log ``origin`` begins, ``away_ns`` after the last one ended: what
        went to another log, or was sent so long ago that it is forgotten, stays unknown. Not where
        the other log is of the same site, that of node ``name``: rule 7."""
        forgotten = away_ns > limits.PRODUCER_FORGET_NS - limits.PRODUCER_SWEEP_NS
        queue = self.node.queue
        stale = [b for b in queue if b.sent_to and (forgotten or b.sent_to != origin)]
        is_other = name is None and origin != self._origin
        self._origin = origin
        with self.guard:
            said = [lane for lane in self.lanes.values() if lane.explicit and not lane.transient]
            for lane in said if is_other else ():
                lane.stored = 0
            self.untold = [lane for lane in said if lane.stored]
            for lane in self.lanes.values() if name is not None else ():
                # This log has another part of what it has published, or nothing.
                if lane.way is self.node and lane.tail > 0 and lane not in said:
                    lane.begins = True
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
        error = _of_sent(error)
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
                batch = way.queue.popleft()
                self._fail_waiting(batch, _of_sent(error) if batch.attempts else error)

    def _put_back(self, batches: list[Batch]) -> None:
        """Send these first: again where they were, else by the way that each takes now."""
        for batch in reversed(batches):
            if not batch.sent_to:
                batch.way = goes_by(batch)
            batch.way.queue.appendleft(batch)

    def _unfly(self, batch: Batch) -> None:
        if not batch.frame:
            return  # set aside
        way = batch.way
        way.in_flight_bytes -= batch.size
        way.in_flight_count -= 1
        left = way.frames.get(batch.frame)
        if left is not None:
            if left == 1:
                del way.frames[batch.frame]
            else:
                way.frames[batch.frame] = left - 1

    def _finish(self, batch: Batch, state: int, error: MeshError | None) -> None:
        self._unfly(batch)
        self._settle(batch, state, error)

    def _fail_waiting(self, batch: Batch, error: MeshError) -> None:
        self._settle(batch, FAILED, error)

    def _settle(self, batch: Batch, state: int, error: MeshError | None) -> None:
        is_stored = batch.durability > SENT
        if error is not None and is_stored and not isinstance(error, DurabilityTimeout):
            error = DurabilityTimeout(f"{_STORED}; how many copies it has is unknown: {error}")
        if batch.is_told and isinstance(error, DurabilityTimeout):
            error.told = True  # the program knows that it is stored, and its copies are not known
        batch.lane.unsettled.remove(batch)
        self.released_bytes += batch.size
        self.ceiling_bytes = self.released_bytes + self.buffer_bytes
        batch.error = error
        batch.state = state
        # The bytes are no longer needed; receipts may keep the batch alive for long.
        batch.values = []
        batch.keys = batch.headers = batch.times = batch.encoded = None
        self.finished.append(batch)

    def take_finished(self) -> list[Batch]:
        """Batches settled since the last call, in order."""
        finished, self.finished = self.finished, []
        return finished


def too_few(wanted: int, what: str) -> str:
    """Of records that are stored, and not yet what was wanted."""
    if sites_of(wanted):
        return f"too few other sites have synced {what} so far"
    return f"too few nodes that copy {what} have answered so far"


def _in_turn(batches: list[Batch]) -> list[Batch]:
    """In the places of a lane its batches in the order of their numbers: another node takes the
    first one that it gets for where the lane begins."""
    turns: dict[Lane, deque[Batch]] = {}
    for batch in sorted(batches, key=lambda b: b.first):
        turns.setdefault(batch.lane, deque()).append(batch)
    return [turns[b.lane].popleft() for b in batches]


def _of_sent(error: MeshError) -> MeshError:
    """``error``, for what was sent and may be stored."""
    if error.outcome != NOT_DONE:
        return error
    found = from_code(error.code, f"{error}; whether what was sent is stored is unknown")
    found.outcome = UNKNOWN
    return found


def _has_id(batch: Batch) -> bool:
    """Whether its jobs have an id that their queue knows them again by."""
    return batch.options is not None and bool(batch.options[DEDUP_ID])
