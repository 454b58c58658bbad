"""The producing side of a client: records gather in batches, batches travel until answered.

Data: a Lane per topic numbers its records and holds the batch that gathers; a Way is where batches
leave, by the node or directly to other programs: what waits for it and what is under way there.

Rules:
1. A batch leaves at once when little is under way: a partly filled one waits only while
   PARTIAL_FRAMES_IN_FLIGHT frames are unconfirmed, a full one goes whenever the window has room.
   So a lone record is not delayed and a flood travels in large frames, with no timer. Directly
   each topic goes to others, so there each lane counts its own batches (``by_lane``).
2. Sequences count records per topic from 1. A batch keeps its sequences and its bytes for ever,
   so sending it again is harmless; it names the sequence it follows (``after``).
3. A batch ends in one of three ways: done; failed, certainly not stored; failed, unknown.
4. ``add`` may be called from any thread; the rest belongs to one. They meet only under ``guard``.
5. A job goes to a queue. Where the node has none (somebody deleted it) the lane waits: the owner
   has it made again, and what was refused goes there, numbered anew.
6. A lane may change its way: what was not sent goes by the new one, what was sent ends where it is.
7. At another node of the site lanes go on with their numbers, and what was unconfirmed is sent
   again with the first node it went to: perhaps both have it. Not a job with an id: that must never
   be there twice, and only its first node knows.
8. Numbers that the program gives (``explicit``) are the producer's wherever it is, and in any run:
   each node is told what is stored of them before it gets more. What a producer with a name
   numbers automatically is the run's (``of_run``), so that no earlier run has these numbers.

It does not send: the owner takes Publish bodies and gives back what the node answered.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.in_flight import InFlight
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
from meshmq.core.ways import Way, goes_by
from meshmq.durability import sites_of
from meshmq.errors import InvalidArgument, MeshError, from_code
from meshmq.frames import (
    REPLICATED,
    SENT,
    Confirmation,
    Publish,
    PublishBatch,
)
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


class Publisher(InFlight):
    """All lanes of one producer.

    Args:
        encode: turns columns into a batch's bytes (the codec's, or the simulator's).
        guard: held while ``add`` and ``take`` touch what they share; a lock in a real client.
        encode_jobs: the same for batches with options.

    Attributes:
        node, direct: the ways there are.
        way_of: which one a new lane takes, by its topic; called under the guard.
        default: the durability of records of which the program says nothing.
        is_numbered: sequences number what is transient for subscribers as well; see PublishBatch.
        instance: the origin of what goes directly.
        by_name: the producer has a name; set before the first lane.
    """

    def __init__(
        self,
        encode: EncodeBatch,
        guard: AbstractContextManager[Any],
        encode_jobs: EncodeJobs | None = None,
    ) -> None:
        self._encode = encode
        self._encode_jobs = encode_jobs
        super().__init__(guard)
        self.owner: Any = None
        self.way_of: Callable[[str], Way] = lambda topic: self.node
        self.default = TOPIC_DEFAULT
        self.is_numbered = False
        self.instance = b""
        self.by_name = False
        self.queues: set[str] = set()  # topics whose records are jobs, known before the first
        self.missing: list[str] = []  # queues that the owner is to have made again
        self._frame_count = 0
        self.added_bytes = 0  # written under the guard
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
        return len(self.node.frames) + len(self.direct.frames)

    @property
    def has_work(self) -> bool:
        """Whether ``take`` would have something to send now."""
        return self.node.has_work or self.direct.has_work

    # -- any thread ---------------------------------------------------------------------

    def lane(self, topic: str) -> Lane:
        """The lane of ``topic``, made on first use; call under the guard or before sharing."""
        lane = self.lanes.get(topic)
        if lane is None:
            lane = self.lanes[topic] = Lane(topic, self.owner, self.way_of(topic), self.by_name)
        return lane

    def know(self, topic: str, last: int) -> None:
        """Earlier runs have given numbers up to ``last``: a new lane goes on behind them."""
        with self.guard:
            lane = self.lane(topic)
            if last > lane.tail and not lane.explicit:
                lane.tail = last
                lane.begins = lane.of_run

    def number_by_program(self, topic: str, last: int, said: int, topic_id: bytes) -> None:
        """The program numbers the records of a topic. Earlier runs have given numbers up to
        ``last``, and of those that programs gave, all up to ``said`` are stored.

        Raises InvalidArgument: this run has numbered some automatically.
        """
        with self.guard:
            lane = self.lane(topic)
            self._check_unused(lane)
            if lane.explicit:
                return  # another thread was quicker
            lane.explicit, lane.of_run, lane.begins = True, False, False
            lane.tail = lane.stored = said
            lane.reached, lane.topic_id = last, topic_id
            if said:
                self.untold.append(lane)

    def is_unsaid(self, topic: str) -> bool:
        """Whether ``number_by_program`` is to be called for a topic. Raises InvalidArgument."""
        with self.guard:
            lane = self.lanes.get(topic)
            if lane is not None:
                self._check_unused(lane)
            return lane is None or not lane.explicit

    def said(self, topic: str) -> int | None:
        """Of a topic that the program numbers: the highest number that is known to be stored; None:
        it does not number it, or has not yet."""
        with self.guard:
            lane = self.lanes.get(topic)
            return max(lane.stored, lane.reached) if lane is not None and lane.explicit else None

    @staticmethod
    def _check_unused(lane: Lane) -> None:
        if lane.is_used and lane.of_run:
            raise InvalidArgument(
                f"records of topic {lane.topic!r} were numbered automatically by this run: give "
                f"seq with all of them, from the first one on"
            )

    def take_untold(self) -> list[Lane]:
        """Lanes of which the node is to be told what is stored."""
        with self.guard:
            untold, self.untold = self.untold, []
        return untold

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
        pin: Way | None = None,
    ) -> tuple[Batch, int]:
        """Add one record; return its batch and its index there.

        ``time_ns`` None takes the batch's own time, read from ``clock_ns`` when it opens.
        ``sequence`` is the program's own number of the record, from 1. ``options`` are those of
        its batch; ``alone`` it shares that with no other record; ``pin`` is the way it takes
        whatever its lane takes.
        """
        with self.guard:
            lane = self.lane(topic)
            batch = lane.open
            if batch is not None and (
                alone
                or (
                    len(value) > limits.LARGE_VALUE_BYTES
                    and batch.size > limits.BATCH_BYTES_TARGET // 2
                )
            ):
                self.close(batch)
                batch = None
            if (
                batch is None
                or batch.wanted != wanted
                or sequence is not None
                or batch.options != options
                or batch.pin is not pin
            ):
                batch = self._batch_for(lane, wanted, sequence, clock_ns, options, pin)
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
                batch.size >= batch.way.batch_bytes
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
        pin: Way | None = None,
    ) -> Batch:
        """Add one slice of records that fits one batch, as a batch of its own; return it."""
        with self.guard:
            lane = self.lane(topic)
            if lane.open is not None:
                self.close(lane.open)
            lane.is_used = True
            batch = Batch(lane, lane.tail + 1, lane.tail, clock_ns(), wanted, options, pin)
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
        pin: Way | None,
    ) -> Batch:
        batch = lane.open
        if batch is not None:
            follows = sequence is None or sequence == batch.first + len(batch.values)
            same = (batch.wanted, batch.options, batch.pin) == (wanted, options, pin)
            if follows and same:
                return batch
            self.close(batch)
        if sequence is None:
            lane.is_used = True
        else:
            lane.explicit, lane.of_run = True, False
        first = lane.tail + 1 if sequence is None else sequence
        after = min(lane.tail, first - 1)  # a program may publish old sequences again
        if lane.tail == 0 and first - 1 > lane.reached:
            # It goes on where an earlier run ended, and the node must know about that.
            after = first - 1
            lane.is_fresh = False
        batch = lane.open = Batch(lane, first, after, clock_ns(), wanted, options, pin)
        is_plain = wanted == self.default and sequence is None and options is None and pin is None
        lane.plain = batch if is_plain else None
        batch.way.opened.append(batch)
        return batch

    # -- the owner's thread ---------------------------------------------------------------

    def take(self, origin: bytes, way: Way | None = None) -> list[Publish]:
        """The frames to send now by ``way`` (None: by the node) to the log ``origin``; rule 1."""
        way = way or self.node
        partial = way.by_lane or way.takes_partial
        if way.full or (partial and way.opened):
            self._gather(way, partial)
        bodies: list[Publish] = []
        if way.paused_until_ns:
            return bodies
        queue = way.queue
        chosen: list[Batch] = []
        total = 0
        while queue and way.has_room(queue[0]):
            batch = queue.popleft()
            if batch.lane.held:
                batch.lane.held.append(batch)
                self._release(batch.lane)
                continue
            data = self._bytes_of(batch)
            if chosen and (
                total + len(data) > limits.FRAME_PAYLOAD_BYTES_TARGET
                or len(chosen) == limits.FRAME_BATCHES_MAX
            ):
                bodies.append(self._frame(chosen, origin))
                chosen, total = [], 0
            chosen.append(batch)
            total += len(data)
            way.in_flight_bytes += batch.size
            way.in_flight_count += 1
            # Directly each goes on by itself: to put them together would be a copy for nothing.
            if way.by_lane or (total >= limits.BATCH_BYTES_TARGET and len(chosen) == 1):
                bodies.append(self._frame(chosen, origin))
                chosen, total = [], 0
        if chosen:
            bodies.append(self._frame(chosen, origin))
        return bodies

    def place(self, ways: dict[str, Way]) -> None:
        """Lanes, by topic, change their way; rule 6."""
        with self.guard:
            for topic, to in ways.items():
                self.lanes[topic].way = to
            for old, new in ((self.node, self.direct), (self.direct, self.node)):
                for name in ("opened", "full", "queue"):
                    mine = getattr(old, name)
                    if any(goes_by(b) is new for b in mine):
                        moved = [b for b in mine if goes_by(b) is new]
                        setattr(old, name, type(mine)(b for b in mine if goes_by(b) is not new))
                        getattr(new, name).extend(moved)
                        for batch in moved:
                            batch.way = new

    def _bytes_of(self, batch: Batch) -> bytes:
        if batch.encoded is None:
            columns = batch.values, batch.keys, batch.headers, batch.times, batch.time_ns
            if batch.options is None:
                data = self._encode(*columns)
            else:
                assert self._encode_jobs is not None, "this client publishes no jobs"
                data = self._encode_jobs(*columns, batch.options)
            batch.encoded = data
        return batch.encoded

    def _checksum_of(self, batch: Batch) -> int:
        """What a log checks. Programs check nothing between them: there it is none."""
        if batch.way.by_lane:
            return 0
        if batch.checksum is None:
            batch.checksum = zlib.crc32(self._bytes_of(batch))
        return batch.checksum

    def _frame(self, batches: list[Batch], origin: bytes) -> Publish:
        self._frame_count += 1
        batches[0].way.frames[self._frame_count] = len(batches)
        rows = []
        for batch in batches:
            length, checksum = len(self._bytes_of(batch)), self._checksum_of(batch)
            batch.frame = self._frame_count
            batch.sent_to = origin
            batch.attempts += 1
            lane = batch.lane
            if lane.begins:  # the node knows nothing of what went directly before
                lane.begins = False
                batch.after = 0
            lane.in_flight.append(batch)
            rows.append(
                PublishBatch(
                    lane.topic, batch.first, batch.after, batch.count, length, checksum,
                    batch.attempts > 1, lane.topic in self.queues,
                    self.is_numbered and not lane.explicit,
                    batch.pin is self.direct,  # by no node: nobody but Direct sees it
                    batch.moved,
                    batch.wanted == REPLICATED,
                    lane.of_run,
                    sites_of(batch.wanted),
                )
            )  # fmt: skip
        if len(batches) == 1:
            return Publish((rows[0],), self._bytes_of(batches[0]))
        return Publish(tuple(rows), b"".join([self._bytes_of(b) for b in batches]))

    def on_confirmation(self, c: Confirmation, origin: bytes) -> None:
        """Take the answer of the log ``origin`` to a run of sequences of one topic; empty: what
        went directly has come."""
        lane = self.lanes.get(c.topic)
        if lane is None:
            return
        way = self.node if origin else self.direct
        if c.code:
            self._on_refusal(lane, c, way)
            return
        if origin:
            lane.transient = c.durability == SENT
            lane.is_fresh = False
            if lane.explicit and not lane.transient:
                lane.note_stored(c, origin)
        if c.more:
            self._on_first(lane, c, origin)
            return
        covered = take_covered(lane.in_flight, c.first, c.count)
        if any(batch.way is not way for batch in covered):
            # The node has got it too; it is confirmed where it was sent.
            lane.in_flight.extendleft([b for b in reversed(covered) if b.way is not way])
            covered = [b for b in covered if b.way is way]
        for batch in covered:
            if c.has_offset:
                batch.base_offset = c.base_offset + batch.first - c.first
            batch.append_time_ns = c.append_time_ns
            batch.topic_id = c.topic_id
            batch.origin = origin or self.instance
            batch.durability = c.durability
            batch.duplicate = c.duplicate
            batch.route = c.route
            self.confirmed_records += batch.count
            self._finish(batch, DONE, None)

    def _on_first(self, lane: Lane, c: Confirmation, origin: bytes) -> None:
        """These are stored, and wait for their copies: what follows need not wait for them. Those
        of which the program has asked for less are done."""
        lane.waits = c.message
        end = c.first + c.count
        done: list[Batch] = []
        for batch in reversed(lane.in_flight):
            if batch.last < c.first:
                break
            if batch.first < c.first or batch.last >= end:
                continue
            if c.has_offset:
                batch.base_offset = c.base_offset + batch.first - c.first
            batch.append_time_ns = c.append_time_ns
            batch.topic_id = c.topic_id
            batch.origin = origin
            batch.durability = c.durability
            if batch.frame:
                self._unfly(batch)
                batch.frame = 0
            if batch.wanted != TOPIC_DEFAULT and batch.wanted <= c.durability:
                done.append(batch)
        for batch in reversed(done):
            lane.in_flight.remove(batch)
            batch.duplicate = c.duplicate
            self.confirmed_records += batch.count
            self._settle(batch, DONE, None)

    def _on_refusal(self, lane: Lane, c: Confirmation, way: Way) -> None:
        # A program that numbers its records may say some again while they are under way: the
        # first sequence alone does not tell the batches apart.
        same = (b for b in lane.in_flight if (b.first, b.count) == (c.first, c.count))
        batch = next(same, None)
        if batch is None or batch.way is not way:
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
        it anew, once all that is under way in its lane has been refused too."""
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
                # Subscribers may know the numbers already: those go on, and the node begins there.
                batch.first, batch.after = batch.first if self.is_numbered else tail + 1, tail
                batch.attempts = 0
                batch.sent_to = b""
                tail = batch.first + len(batch.values) - 1
            if not self.is_numbered:
                lane.tail = tail - (len(lane.open.values) if lane.open else 0)
        held.sort(key=lambda b: b.first)  # what was gathered meanwhile came before its predecessor
        self._put_back(held)

    def _again(self, batch: Batch) -> None:
        batch.lane.in_flight.remove(batch)
        self._unfly(batch)
        batch.attempts -= 1  # it was certainly not stored: as if never sent
        # Behind what was already put back, before what was never sent, and before what follows it
        # in its lane: that may have been refused while this was under way once more.
        self.node.queue.insert(self._resend_point(batch), batch)

    def _resend_point(self, batch: Batch) -> int:
        for i, b in enumerate(self.node.queue):
            if not b.sent_to or (b.lane is batch.lane and b.first > batch.first):
                return i
        return len(self.node.queue)

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
        batch.encoded = batch.checksum = None

    def set_aside(self, topic: str, first: int) -> None:
        """A batch was sent, and waits for something else than its way: it is no longer under way,
        so that others do not wait for it."""
        lane = self.lanes.get(topic)
        for batch in lane.in_flight if lane is not None else ():
            if batch.first == first and batch.frame:
                self._unfly(batch)
                batch.frame = 0
