"""The producing side of a client: records gather in batches, batches travel until answered.

Data: a Lane per topic numbers its records; ``open`` holds the batch each topic is gathering;
``_queue`` what is closed and waits; ``_in_flight`` what was sent and is not yet answered.

Rules:
1. A batch leaves at once when little is under way: a partly filled one waits only while
   PARTIAL_FRAMES_IN_FLIGHT frames are unconfirmed, a full one goes whenever the window has room.
   So a lone record is not delayed and a flood travels in large frames, with no timer. Without a
   node each topic has its own way, so there each lane counts its own batches (``by_lane``).
2. Sequences count records per topic from 1. A batch keeps its sequences and its bytes for ever,
   so sending it again is harmless; it names the sequence it follows (``after``).
3. A batch ends in one of three ways: done; failed, certainly not stored; failed, unknown.
4. ``add`` may be called from any thread; the rest belongs to one. They meet only under ``guard``.
5. A job goes to a queue. Where the node has none (somebody deleted it) the lane waits: the owner
   has it made again, and what was refused goes there, numbered anew.

It does not send: the owner takes Publish bodies and gives back what the node answered.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.lanes import (
    DONE,
    FAILED,
    Batch,
    Lane,
    Options,
    put_column,
    put_time,
    take_covered,
)
from meshmq.errors import MeshError, from_code
from meshmq.frames import SENT, Confirmation, Publish, PublishBatch
from meshmq.names import queue_of

EncodeBatch = Callable[
    [
        Sequence[bytes],
        Sequence[bytes] | None,
        Sequence[bytes] | None,
        Sequence[int] | None,
        int,
    ],
    bytes,
]

EncodeJobs = Callable[
    [
        Sequence[bytes],
        Sequence[bytes] | None,
        Sequence[bytes] | None,
        Sequence[int] | None,
        int,
        Options,
    ],
    bytes,
]

TOPIC_DEFAULT = -1
"""For ``wanted``: the durability the topic itself has."""


class Publisher:
    """All lanes of one producer.

    Args:
        encode: turns columns into a batch's bytes (the codec's, or the simulator's).
        guard: held while ``add`` and ``take`` touch what they share; a lock in a real client.
        encode_jobs: the same for batches with options.

    Attributes:
        by_lane: see rule 1.
    """

    def __init__(
        self,
        encode: EncodeBatch,
        guard: AbstractContextManager[Any],
        encode_jobs: EncodeJobs | None = None,
    ) -> None:
        self._encode = encode
        self._encode_jobs = encode_jobs
        self.guard = guard
        self.owner: Any = None
        self.by_lane = False
        self.lanes: dict[str, Lane] = {}
        self.queues: set[str] = set()  # topics whose records are jobs, known before the first
        self.missing: list[str] = []  # queues that the owner is to have made again
        self._full: list[Batch] = []  # closed by add(), not yet taken
        self._opened: list[Batch] = []  # in the order their first record came
        self._queue: deque[Batch] = deque()
        self._frames: dict[int, int] = {}  # frame number -> batches unanswered
        self._frame_count = 0
        self._in_flight_bytes = 0
        self._in_flight_count = 0
        self.paused_until_ns = 0  # set by the owner, who also ends it
        self.window_bytes = limits.PRODUCER_IN_FLIGHT_BYTES_MAX
        self.added_bytes = 0  # written under the guard
        self.released_bytes = 0  # written by the owner's thread only
        self.buffer_bytes = limits.PRODUCER_BUFFER_BYTES_MAX
        self.ceiling_bytes = self.buffer_bytes  # added_bytes may grow up to here
        self.finished: list[Batch] = []
        self.confirmed_records = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes accepted and not yet answered."""
        return self.added_bytes - self.released_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self.added_bytes == self.released_bytes

    @property
    def frames_in_flight(self) -> int:
        """Frames sent and not wholly answered."""
        return len(self._frames)

    @property
    def has_full(self) -> bool:
        """Whether a batch was closed and not yet taken."""
        return bool(self._full)

    @property
    def has_work(self) -> bool:
        """Whether ``take`` would have something to send now."""
        if self.paused_until_ns:
            return False
        if self._full or self._queue:
            head = self._queue[0] if self._queue else self._full[0]
            return self._has_room(head)
        if self.by_lane:
            return any(b.lane.open is b and _has_way(b.lane) for b in self._opened)
        return bool(self._opened) and len(self._frames) < limits.PARTIAL_FRAMES_IN_FLIGHT

    # -- any thread ---------------------------------------------------------------------

    def lane(self, topic: str) -> Lane:
        """The lane of ``topic``, made on first use; call under the guard or before sharing."""
        lane = self.lanes.get(topic)
        if lane is None:
            lane = self.lanes[topic] = Lane(topic, self.owner)
        return lane

    def add(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        headers: bytes | None,
        time_ns: int | None,
        clock_ns: Callable[[], int],
        wanted: int,
        sequence: int | None,
        options: Options | None = None,
        alone: bool = False,
    ) -> tuple[Batch, int]:
        """Add one record; return its batch and its index there.

        ``time_ns`` None takes the batch's own time, read from ``clock_ns`` when it opens.
        ``sequence`` is the program's own number of the record, from 1. ``options`` are those of
        its batch; ``alone`` it shares that with no other record.
        """
        with self.guard:
            lane = self.lane(topic)
            batch = lane.open
            if alone and batch is not None:
                self.close(batch)
                batch = None
            if (
                batch is None
                or batch.wanted != wanted
                or sequence is not None
                or batch.options != options
            ):
                batch = self._batch_for(lane, wanted, sequence, clock_ns, options)
            if key is not None or headers is not None or time_ns is not None:
                lane.plain = None
            values = batch.values
            index = len(values)
            values.append(value)
            size = len(value) + limits.RECORD_OVERHEAD_BYTES
            if key is not None or batch.keys is not None:
                size += put_column(batch, "keys", key, index)
            if headers is not None or batch.headers is not None:
                size += put_column(batch, "headers", headers, index)
            if time_ns is not None or batch.times is not None:
                put_time(batch, time_ns, index)
            batch.size += size
            self.added_bytes += size
            if (
                batch.size >= limits.BATCH_BYTES_TARGET
                or index + 1 == limits.BATCH_RECORDS_MAX
                or alone
            ):
                self.close(batch)
            return batch, index

    def add_many(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes] | None,
        headers: Sequence[bytes] | None,
        times: Sequence[int] | None,
        clock_ns: Callable[[], int],
        wanted: int,
        options: Options | None = None,
    ) -> Batch:
        """Add one slice of records that fits one batch, as a batch of its own; return it."""
        with self.guard:
            lane = self.lane(topic)
            if lane.open is not None:
                self.close(lane.open)
            batch = Batch(lane, lane.tail + 1, lane.tail, clock_ns(), wanted, options)
            batch.values = values if isinstance(values, list) else list(values)
            batch.keys = list(keys) if keys is not None else None
            batch.headers = list(headers) if headers is not None else None
            batch.times = list(times) if times is not None else None
            size = limits.RECORD_OVERHEAD_BYTES * len(values) + sum(map(len, values))
            for column in (keys, headers):
                if column is not None:
                    size += sum(map(len, column))
            batch.size = size
            self.added_bytes += size
            lane.open = batch
            self._opened.append(batch)
            self.close(batch)
            return batch

    def unsettled(self) -> list[Batch]:
        """Every batch whose end is not known, the ones that gather included."""
        with self.guard:
            return [
                batch
                for lane in self.lanes.values()
                for batch in (*lane.unsettled, *((lane.open,) if lane.open else ()))
            ]

    def _batch_for(
        self,
        lane: Lane,
        wanted: int,
        sequence: int | None,
        clock_ns: Callable[[], int],
        options: Options | None,
    ) -> Batch:
        batch = lane.open
        if batch is not None:
            follows = sequence is None or sequence == batch.first + len(batch.values)
            if follows and batch.wanted == wanted and batch.options == options:
                return batch
            self.close(batch)
        lane.explicit = lane.explicit or sequence is not None
        first = lane.tail + 1 if sequence is None else sequence
        after = min(lane.tail, first - 1)  # a program may publish old sequences again
        if lane.tail == 0 and first > 1:
            # It goes on where an earlier run ended, and the node must know about that.
            after = first - 1
            lane.is_fresh = False
        batch = lane.open = Batch(lane, first, after, clock_ns(), wanted, options)
        is_plain = wanted == TOPIC_DEFAULT and sequence is None and options is None
        lane.plain = batch if is_plain else None
        self._opened.append(batch)
        return batch

    def close(self, batch: Batch) -> None:
        """End the gathering of an open batch; call under the guard."""
        lane = batch.lane
        lane.open = lane.plain = None
        batch.count = len(batch.values)
        lane.tail = batch.first + batch.count - 1
        lane.unsettled.append(batch)
        self._full.append(batch)

    # -- the owner's thread ---------------------------------------------------------------

    def take(self, origin: bytes) -> list[Publish]:
        """The frames to send now to the node whose log is ``origin``; rule 1."""
        partial = self.by_lane or len(self._frames) < limits.PARTIAL_FRAMES_IN_FLIGHT
        if self._full or (partial and self._opened):
            self._gather(partial)
        bodies: list[Publish] = []
        if self.paused_until_ns:
            return bodies
        queue = self._queue
        chosen: list[Batch] = []
        total = 0
        while queue and self._has_room(queue[0]):
            batch = queue.popleft()
            if batch.lane.held:
                batch.lane.held.append(batch)
                self._release(batch.lane)
                continue
            data = self._bytes_of(batch)
            if chosen and (
                total + len(data[0]) > limits.FRAME_PAYLOAD_BYTES_TARGET
                or len(chosen) == limits.FRAME_BATCHES_MAX
            ):
                bodies.append(self._frame(chosen, origin))
                chosen, total = [], 0
            chosen.append(batch)
            total += len(data[0])
            self._in_flight_bytes += batch.size
            self._in_flight_count += 1
            if total >= limits.BATCH_BYTES_TARGET and len(chosen) == 1:
                bodies.append(self._frame(chosen, origin))
                chosen, total = [], 0
        if chosen:
            bodies.append(self._frame(chosen, origin))
        return bodies

    def _gather(self, partial: bool) -> None:
        with self.guard:
            if self.by_lane:
                for batch in self._opened:
                    if batch.lane.open is batch and _has_way(batch.lane):
                        self.close(batch)
                self._opened = [b for b in self._opened if b.lane.open is b]
            elif partial:
                for batch in self._opened:
                    if batch.lane.open is batch:
                        self.close(batch)
                self._opened.clear()
            elif len(self._opened) > 64:
                self._opened = [b for b in self._opened if b.lane.open is b]
            full, self._full = self._full, []
        self._queue.extend(full)

    def _has_room(self, batch: Batch) -> bool:
        if self._in_flight_count == 0:
            return True
        return (
            self._in_flight_bytes + batch.size <= self.window_bytes
            and self._in_flight_count < limits.PRODUCER_IN_FLIGHT_BATCHES_MAX
        )

    def _bytes_of(self, batch: Batch) -> tuple[bytes, int]:
        if batch.encoded is None:
            columns = batch.values, batch.keys, batch.headers, batch.times, batch.time_ns
            if batch.options is None:
                data = self._encode(*columns)
            else:
                assert self._encode_jobs is not None, "this client publishes no jobs"
                data = self._encode_jobs(*columns, batch.options)
            batch.encoded = (data, zlib.crc32(data))
        return batch.encoded

    def _frame(self, batches: list[Batch], origin: bytes) -> Publish:
        self._frame_count += 1
        self._frames[self._frame_count] = len(batches)
        rows = []
        for batch in batches:
            data, checksum = self._bytes_of(batch)
            batch.frame = self._frame_count
            batch.sent_to = origin
            batch.attempts += 1
            lane = batch.lane
            lane.in_flight.append(batch)
            rows.append(
                PublishBatch(
                    lane.topic, batch.first, batch.after, batch.count, len(data), checksum,
                    batch.attempts > 1, lane.topic in self.queues,
                )
            )  # fmt: skip
        if len(batches) == 1:
            return Publish((rows[0],), self._bytes_of(batches[0])[0])
        return Publish(tuple(rows), b"".join([self._bytes_of(b)[0] for b in batches]))

    def on_confirmation(self, c: Confirmation, origin: bytes) -> None:
        """Take the node's answer to a run of sequences of one topic."""
        lane = self.lanes.get(c.topic)
        if lane is None:
            return
        if c.code:
            self._on_refusal(lane, c)
            return
        lane.transient = c.durability == SENT
        lane.is_fresh = False
        for batch in take_covered(lane.in_flight, c.first, c.count):
            if c.has_offset:
                batch.base_offset = c.base_offset + batch.first - c.first
            batch.append_time_ns = c.append_time_ns
            batch.topic_id = c.topic_id
            batch.origin = origin
            batch.durability = c.durability
            batch.duplicate = c.duplicate
            self.confirmed_records += batch.count
            self._finish(batch, DONE, None)

    def _on_refusal(self, lane: Lane, c: Confirmation) -> None:
        # A program that numbers its records may say some again while they are under way: the
        # first sequence alone does not tell the batches apart.
        same = (b for b in lane.in_flight if (b.first, b.count) == (c.first, c.count))
        batch = next(same, None)
        if batch is None:
            return
        if c.code == "sequence-overlap" and batch.first <= c.last < batch.first + batch.count - 1:
            self._trim(batch, c.last)
        elif c.code == "sequence-gap":
            # Once everything before it is settled, a batch may follow whatever the node has;
            # those behind it follow their neighbours as before. Not where the program numbers
            # its records: it will say those that were refused again, and the node must not take
            # them for stored by then.
            if lane.unsettled[0] is batch:
                if lane.explicit and not lane.transient:
                    self._refused(batch, c)
                    return
                batch.after = min(batch.after, c.last)
        elif c.code == "busy":
            pass  # it was told with a Window how long to wait
        elif c.code == "producer-unknown" and lane.unsettled[0] is not batch:
            pass  # the one before it was refused; what becomes of that decides
        elif c.code == "producer-unknown" and batch.attempts == 1 and not lane.explicit:
            self._hold(batch)
            return
        elif c.code == "group-not-found":
            self._on_missing(batch, c)
            return
        elif c.code == "producer-unknown" and lane.is_fresh and c.last == 0:
            # The program numbers its records, and all before this one were refused.
            why = "earlier records of this producer were refused: publish those again first"
            self._refused(batch, c._replace(code="sequence-gap", message=why))
            return
        else:
            self._refused(batch, c)
            return
        self._again(batch)

    def _refused(self, batch: Batch, c: Confirmation) -> None:
        batch.lane.in_flight.remove(batch)
        self._finish(batch, FAILED, from_code(c.code, c.message))
        self._release(batch.lane)

    def _hold(self, batch: Batch) -> None:
        """The node knows nothing of this producer, and this batch was never sent before: number
        it anew from 1, once all that is under way in its lane has been refused too."""
        batch.lane.in_flight.remove(batch)
        self._unfly(batch)
        batch.lane.held.append(batch)
        self._release(batch.lane)

    def _on_missing(self, batch: Batch, c: Confirmation) -> None:
        """The node has no such queue (any more)."""
        lane = batch.lane
        queue = queue_of(lane.topic) or lane.topic
        self.missing.append(queue)
        if batch.attempts > 1:
            why = f"queue {queue!r} was deleted meanwhile: whether the job was in it is unknown"
            self._refused(batch, c._replace(code="producer-unknown", message=why))
        elif lane.explicit:
            self._refused(batch, c)
        else:
            lane.missing = queue
            batch.attempts = 0  # it was certainly not stored: as if never sent
            batch.sent_to = b""
            self._hold(batch)

    def on_queue(self, queue: str, error: MeshError | None) -> None:
        """A queue of ``missing`` is there, or cannot be."""
        for lane in [lane for lane in self.lanes.values() if lane.missing == queue]:
            lane.missing = ""
            if error is not None:
                held, lane.held = lane.held, []
                for batch in held:
                    self._fail_waiting(batch, error)
            self._release(lane)

    def _release(self, lane: Lane) -> None:
        if lane.in_flight or lane.missing or not lane.held:
            return
        held, lane.held = lane.held, []
        with self.guard:
            tail = 0
            for batch in [*lane.unsettled, *([lane.open] if lane.open else [])]:
                batch.first, batch.after = tail + 1, tail
                batch.attempts = 0
                batch.sent_to = b""
                tail += len(batch.values)
            lane.tail = tail - (len(lane.open.values) if lane.open else 0)
        held.sort(key=lambda b: b.first)  # what was gathered meanwhile came before its predecessor
        self._queue.extendleft(reversed(held))

    def _again(self, batch: Batch) -> None:
        batch.lane.in_flight.remove(batch)
        self._unfly(batch)
        batch.attempts -= 1  # it was certainly not stored: as if never sent
        # Behind what was already put back, before what was never sent: order per lane holds
        # because refusals of one lane come in the order its batches were sent.
        self._queue.insert(self._resend_point(), batch)

    def _resend_point(self) -> int:
        for i, batch in enumerate(self._queue):
            if not batch.sent_to:
                return i
        return len(self._queue)

    def _trim(self, batch: Batch, last: int) -> None:
        """Drop the leading records the node already has; the rest keeps its sequences."""
        k = last - batch.first + 1
        batch.values = batch.values[k:]
        for name in ("keys", "headers", "times"):
            column = getattr(batch, name)
            if column is not None:
                setattr(batch, name, column[k:])
        batch.skipped += k
        batch.count -= k
        batch.first = last + 1
        batch.after = last
        batch.encoded = None

    def on_session_lost(self) -> None:
        """Put what is unanswered back, in order; what may be lost and was sent has failed."""
        again: list[Batch] = []
        for lane in self.lanes.values():
            while lane.in_flight:
                batch = lane.in_flight.popleft()
                if lane.transient:
                    error = from_code("link-lost", "the link was lost before the node confirmed")
                    self._finish(batch, FAILED, error)
                else:
                    lane.is_fresh = False
                    self._unfly(batch)
                    again.append(batch)
            lane.held, held = [], lane.held
            again.extend(held)
        again.sort(key=lambda b: b.frame)
        self._queue.extendleft(reversed(again))
        self._frames.clear()

    def on_origin(self, origin: bytes, away_ns: int) -> None:
        """A session with the log ``origin`` begins, ``away_ns`` after the last one ended: what
        went to another log, or was sent so long ago that it is forgotten, stays unknown."""
        forgotten = away_ns > limits.PRODUCER_FORGET_NS - limits.PRODUCER_SWEEP_NS
        stale = [b for b in self._queue if b.sent_to and (forgotten or b.sent_to != origin)]
        for batch in stale:
            self._queue.remove(batch)
            reason = (
                "the node answers with another log than the one this record was sent to"
                if batch.sent_to != origin
                else "the node was away for longer than it remembers who sent what"
            )
            error = from_code("producer-unknown", f"{reason}; whether it was stored is unknown")
            self._fail_waiting(batch, error)

    def fail_all(self, error: MeshError) -> None:
        """Give up: everything that is not answered fails with ``error``."""
        self._gather(True)
        for lane in self.lanes.values():
            while lane.in_flight:
                self._finish(lane.in_flight.popleft(), FAILED, error)
            for batch in lane.held:
                self._fail_waiting(batch, error)
            lane.held.clear()
        while self._queue:
            self._fail_waiting(self._queue.popleft(), error)

    def set_aside(self, topic: str, first: int) -> None:
        """A batch was sent, and waits for something else than its way: it is no longer under way,
        so that others do not wait for it."""
        lane = self.lanes.get(topic)
        for batch in lane.in_flight if lane is not None else ():
            if batch.first == first and batch.frame:
                self._unfly(batch)
                batch.frame = 0

    def _unfly(self, batch: Batch) -> None:
        if not batch.frame:
            return  # set aside
        self._in_flight_bytes -= batch.size
        self._in_flight_count -= 1
        left = self._frames.get(batch.frame)
        if left is not None:
            if left == 1:
                del self._frames[batch.frame]
            else:
                self._frames[batch.frame] = left - 1

    def _finish(self, batch: Batch, state: int, error: MeshError | None) -> None:
        self._unfly(batch)
        self._settle(batch, state, error)

    def _fail_waiting(self, batch: Batch, error: MeshError) -> None:
        self._settle(batch, FAILED, error)

    def _settle(self, batch: Batch, state: int, error: MeshError | None) -> None:
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


def _has_way(lane: Lane) -> bool:
    """Whether a partly filled batch of it need not wait."""
    return len(lane.in_flight) < limits.PARTIAL_FRAMES_IN_FLIGHT
