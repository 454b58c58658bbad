"""The consuming side of a client: one subscription over any number of sessions.

Rules:
1. What was received once is never handed on again, and nothing unseen is skipped: after a
   reconnect reading resumes behind the last batch received, by its place in the node's log.
2. Offsets of a stream that are passed over (retention, damage) are counted in ``missed``, like the
   transient records the node dropped for this subscription.
3. Credit is what the program can still take: window minus what it was given and has not consumed.
"""

from __future__ import annotations

from typing import NamedTuple

from meshmq.core.effects import Arrival
from meshmq.frames import (
    START_NEW,
    START_OFFSET,
    START_POSITION,
    Credit,
    Deliver,
    DeliverBatch,
    Payload,
    Subscribe,
    Subscribed,
)


class Start(NamedTuple):
    """Where to begin: one of the START_ kinds and what it needs.

    ``value`` is unix ns or an offset; ``origin``, ``lsn`` and ``slot`` name a batch in a log, of
    which the first ``skip`` records are not wanted.
    """

    kind: int = START_NEW
    value: int = 0
    origin: bytes = b""
    lsn: int = 0
    slot: int = 0
    skip: int = 0


class Subscriber:
    """One subscription's state on the client.

    Attributes:
        missed: records that were passed over or dropped so far.
        damaged: records lost because their stored bytes failed the checksum (part of ``missed``).
        is_active: whether the node has accepted it in this session.
        is_pull: it takes what programs push, and is not the node's.
    """

    def __init__(
        self, number: int, pattern: str, start: Start, window_bytes: int, window_records: int
    ) -> None:
        self.id = number
        self.pattern = pattern
        self.missed = 0
        self.damaged = 0
        self.is_active = False
        self.is_pull = False
        self._start = start
        self._origin = start.origin
        self._window_bytes = window_bytes
        self._window_records = window_records
        self._held_bytes = 0
        self._held_records = 0
        self._owed_bytes = 0
        self._owed_records = 0
        self._next_offset: dict[str, int] = {}
        self._last_place = (0, 0)  # lsn and slot of the last batch: what is behind it is new
        self._floor = start.value if start.kind == START_OFFSET else 0

    @property
    def needs_node(self) -> bool:
        """Whether it reads what a node keeps, and has not begun to."""
        return self._start.kind != START_NEW

    def subscribe(self) -> Subscribe:
        """The frame that opens it in a new session."""
        self.is_active = False
        self._owed_bytes = self._owed_records = 0
        s = self._start
        return Subscribe(
            self.id, self.pattern, s.kind, s.value, s.origin, s.lsn, s.slot,
            max(0, self._window_bytes - self._held_bytes),
            max(0, self._window_records - self._held_records),
        )  # fmt: skip

    def on_subscribed(self, frame: Subscribed) -> None:
        """The node's yes; from here on reading resumes by place, never by the first wish."""
        self.is_active = True
        start = self._start
        same = start.origin == frame.origin
        if self._origin and self._origin != frame.origin:
            # Another log: everything in it is unseen.
            self._next_offset.clear()
            self._last_place = (0, 0)
            self._floor = 0
        self._origin = frame.origin
        if start.kind == START_OFFSET:
            return  # the place is known with the first batch
        skip = start.skip if same else 0
        self._start = Start(START_POSITION, 0, frame.origin, frame.lsn, frame.slot, skip)

    def on_deliver(self, frame: Deliver) -> list[Arrival]:
        """Take a delivery; return what is new, in order."""
        arrivals: list[Arrival] = []
        self.missed += frame.missed
        at = 0
        payload = frame.payload
        alone = len(frame.batches) == 1
        for b in frame.batches:
            data = payload if alone else payload[at : at + b.length]
            at += b.length
            arrival = self.take(b, data)
            if arrival is not None:
                arrivals.append(arrival)
        return arrivals

    def hold(self, b: DeliverBatch) -> None:
        """What came takes of the window until the program has consumed it."""
        self._held_bytes += b.length
        self._held_records += b.count

    def take(self, b: DeliverBatch, data: Payload) -> Arrival | None:
        """Take one batch of a delivery; None: nothing of it is new."""
        self.hold(b)
        skip = self._place(b.topic, b.base_offset, b.count, b.lsn, b.slot) if b.lsn else 0
        if b.damaged:
            self.missed += b.count - skip
            self.damaged += b.count - skip
            skip = b.count
        if skip >= b.count:
            self.on_consumed(b.length, b.count)
            return None
        return Arrival(
            b.topic, b.base_offset, b.count, skip, data, b.checksum, b.append_time_ns,
            self._origin, b.lsn, b.slot,
        )  # fmt: skip

    def _place(self, topic: str, base: int, count: int, lsn: int, slot: int) -> int:
        """Note a durable batch; return how many of its leading records were seen or unwanted."""
        skip = 0
        expected = self._next_offset.get(topic)
        start = self._start
        if expected is not None and base < expected and (lsn, slot) > self._last_place:
            expected = 0  # the topic was deleted and made anew
        self._last_place = max(self._last_place, (lsn, slot))
        if expected is not None:
            if base > expected:
                self.missed += base - expected
            skip = max(0, expected - base)
        elif self._floor:
            skip = max(0, self._floor - base)
            self.missed += max(0, base - self._floor)
        elif (start.lsn, start.slot) == (lsn, slot):
            skip = start.skip
        self._next_offset[topic] = max(expected or 0, base + count)
        self._start = Start(START_POSITION, 0, self._origin, lsn, slot + 1, 0)
        return skip

    def on_consumed(self, size: int, records: int) -> None:
        """The program is done with so much; it becomes credit."""
        self._held_bytes -= size
        self._held_records -= records
        self._owed_bytes += size
        self._owed_records += records

    def credit(self) -> Credit | None:
        """Credit to grant now, or None while it is too little to be worth a frame."""
        if not self.is_active:
            return None
        if (
            self._owed_bytes * 4 < self._window_bytes
            and self._owed_records * 4 < self._window_records
        ):
            return None
        grant = Credit(self.id, self._owed_bytes, self._owed_records)
        self._owed_bytes = self._owed_records = 0
        return grant
