"""The member's side of a group: what one consumer holds, over any number of sessions.

Data: a Held per hand-out knows of each record whether it is held, settled (the program has said
what becomes of it) or closed (the node has it on disk, or took it back). ``queue`` is what the
program has not come to; ``_frames`` what was told to the node and is not answered.

Rules:
1. Settles gather while SETTLE_FRAMES_IN_FLIGHT frames of them are unanswered and leave as ranges.
   So a lone ack is not delayed and a flood travels in few rows, with no timer. Only when a quarter
   of the prefetch is settled do they leave all the same, or the flow of records would stop.
2. What was told and not answered is told again in the next session, after what is still held was
   claimed. Records of which the node gave some away meanwhile are dropped unless they were begun;
   of those the node judges what is said.
3. A record is dropped without trace only while the program has not begun it. One that was begun
   and taken back makes its settle stale: counted, and told to who waits.
4. Before a third of the ack timeout has passed, the timeout of what is not begun is renewed: it is
   there for the program's work, not for the time in its buffer. But if the program has begun
   nothing for a whole ack timeout, though something waited, what waits goes back: others may have
   time for it.
5. In a group in order of keys a record that fails takes what follows it of its key along: what is
   here is taken back (the node does the same), and what comes before the node has heard of it
   waits.
6. ``ack``'s common case, the next record of its hand-out, moves a number and takes no lock: see
   Held. Settling may come from any thread, ``begin`` from one at a time; the rest belongs to the
   client's owner. They meet under ``guard``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.held import CLOSED, HELD, SETTLED, Held, Told, heard, merged, say
from meshmq.core.runs import runs_of
from meshmq.errors import BadFrame
from meshmq.frames import (
    ACK,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Consume,
    Consumed,
    HandOut,
    Holding,
    Revoke,
    Settle,
    Settled,
    SettleRow,
)

ORDER_ANY, ORDER_KEY = 0, 1
CLAIM_BYTES_MAX = limits.FRAME_HEADER_BYTES_MAX - 2 * limits.COMMAND_BYTES_MAX
"""What is held beyond so many bytes of claims in a Consume frame is not claimed; by default all
is, it takes tens of thousands of hand-outs of one record."""

_HOLDING_BYTES = 96  # a claim without its topic and offsets

URGENT_FRAMES_IN_FLIGHT = 8
"""Settle frames in flight while a quarter of the prefetch waits to be settled."""

_TAKEN_BACK = "the record was handed to another member or settled meanwhile"


class _Block:
    """A key whose record failed: what came up to ``serial`` is dropped, later ones wait until
    frame ``frame`` is answered (0: not sent, -1: answered)."""

    __slots__ = ("frame", "serial")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.frame = 0


class Member:
    """One consumer's state on the client.

    Args:
        consumer: the Consume frame that joins, without holdings.
        guard: see the module's header; a lock in a real client.
        owner: what the shell hangs here for its messages.

    Attributes:
        queue: hand-outs the program has not come to, or not to their end.
        held: open hand-outs by number, oldest first.
        stale: settles that counted for nothing, since the record was taken back before.
        is_active: whether the node has let it in, in this session.
        is_done: it left, was refused, or its group is gone.
    """

    def __init__(
        self, consumer: Consume, guard: AbstractContextManager[Any], owner: Any = None
    ) -> None:
        self.id = consumer.consumer
        self.owner = owner
        self.guard = guard
        self.order = ORDER_ANY
        self.queue: deque[Held] = deque()
        self.held: dict[int, Held] = {}
        self.stale = 0
        self.is_active = False
        self.is_done = False
        self._consume = consumer
        self._timeout_ns = consumer.ack_timeout_ns
        self._serial = 0
        self._frame = 0
        self._frames: deque[tuple[int, list[Told]]] = deque()
        self._ready: deque[Told] = deque()  # gathered, or to be told again
        self._touched: list[Held] = []
        self._rows: list[Told] = []
        self._extends: list[Told] = []
        self._waiting = 0  # about how many settles wait to be gathered
        self._blocks: dict[tuple[str, bytes], _Block] = {}
        self._is_held_up = False  # the queue's head waits for the node to hear of a failed key
        self._renew_at: int | None = None
        self._waits = (0, 0)  # newest hand-out and how many records wait, as last looked at
        self._waits_since = 0

    @property
    def is_ready(self) -> bool:
        """Whether ``begin`` is worth a call."""
        return bool(self.queue) and not self._is_held_up

    @property
    def is_idle(self) -> bool:
        """Whether everything the program has settled is answered."""
        return not (self._frames or self._has_news)

    @property
    def has_work(self) -> bool:
        """Whether ``take`` would have something to send now."""
        return self.is_active and self._has_news and self._has_room

    @property
    def _has_news(self) -> bool:
        return bool(self._touched or self._rows or self._extends or self._ready)

    @property
    def _has_room(self) -> bool:
        frames = len(self._frames)
        if frames < limits.SETTLE_FRAMES_IN_FLIGHT:
            return True
        return (
            frames < URGENT_FRAMES_IN_FLIGHT
            and (self._waiting + len(self._ready)) * 4 >= self._consume.prefetch_records
        )

    # -- the program's threads -----------------------------------------------------------------

    def begin(self, decode: Callable[[Held], None]) -> Held | None:
        """The next hand-out for the program, with at least one pick; None if none is ready.

        ``decode`` hangs records and keys on it, or raises BadFrame: then it is rejected whole.
        Call under the guard, with the last one's iteration at its end; feed it before leaving.
        """
        queue = self.queue
        while queue:
            held = queue[0]
            if held.records is None:
                try:
                    decode(held)
                except BadFrame as error:
                    queue.popleft()
                    self._tell_all(held, REJECT, str(error))
                    continue
                held.data = b""
            if self._blocks and self._is_blocked(held):
                self._is_held_up = True
                return None
            queue.popleft()
            if any(held.marks):
                held.pick(held.picks)
            if held.picks:
                return held
        return None

    def finished(self, held: Held) -> None:
        """The program's iteration has come to the end of a hand-out."""
        held.feed = None
        if not held.is_quiet:
            self._waiting += max(0, held.next - held.start - 1)

    def touch(self, held: Held) -> bool:
        """An ack has moved ``held.next``; return whether it would leave now."""
        with self.guard:
            if self.is_done:
                self.stale += 1
                return False
            if held.is_quiet:
                held.is_quiet = False
                self._touched.append(held)
                self._waiting += 1
            return self.has_work

    def settle(
        self, held: Held, index: int, kind: int, delay_ns: int = 0, reason: str = ""
    ) -> bool:
        """Say what becomes of one record; False (and counted) if it is not the member's to say.

        EXTEND settles nothing, it asks for more time.
        """
        with self.guard:
            if self.is_done or held.is_settled(index):
                self.stale += 1
                return False
            if kind == EXTEND:
                self._extends.append(Told(held, index, 1, kind, delay_ns))
                return True
            held.marks[index] = SETTLED
            self._waiting += 1
            if kind == ACK:
                held.runs.append((index, index + 1))
                if held.is_quiet:
                    held.is_quiet = False
                    self._touched.append(held)
            else:
                self._add_row(Told(held, index, 1, kind, delay_ns, reason))
            self._advance(held)
            if kind in (NACK, REJECT) and self.order == ORDER_KEY:
                self._block(held, index)
            return True

    def close(self, held: Held, index: int) -> None:
        """The record was settled elsewhere: in a transaction."""
        with self.guard:
            self._close(held, index, 1)
            held.parked.discard(index)
            self._advance(held)

    def park(self, held: Held, index: int) -> None:
        """The record left the iteration and is not begun; ``unpark`` begins it."""
        with self.guard:
            held.parked.add(index)
            if self._renew_at is None:
                self._renew_at = 0

    def unpark(self, held: Held, index: int) -> bool:
        """Begin a parked record; False if it was taken back or dropped meanwhile."""
        with self.guard:
            held.parked.discard(index)
            return not self.is_done and not held.is_settled(index)

    # -- settling: under the guard --------------------------------------------------------------

    def _add_row(self, row: Told) -> None:
        rows = self._rows
        if rows:
            last = rows[-1]
            if (
                last.held is row.held
                and last.first + last.count == row.first
                and last[3:] == row[3:]
            ):
                rows[-1] = last._replace(count=last.count + row.count)
                return
        rows.append(row)

    def _advance(self, held: Held) -> None:
        """Move ``next`` over what was settled out of turn, closing the run of acks before it."""
        marks, at = held.marks, held.next
        n = at
        while n < len(marks) and marks[n] != HELD:
            n += 1
        if n == at:
            return
        if at > held.start:
            held.runs.append((held.start, at))
            if held.is_quiet:  # only by an ack that is just about to tell
                held.is_quiet = False
                self._touched.append(held)
        # In this order: whoever finds ``next`` at its record must find ``start`` there too.
        held.start = n
        held.next = n

    def _tell_all(self, held: Held, kind: int, reason: str) -> None:
        for first, count in runs_of([i for i, mark in enumerate(held.marks) if mark == HELD]):
            held.marks[first : first + count] = bytes([SETTLED]) * count
            self._add_row(Told(held, first, count, kind, 0, reason))
            self._waiting += count
        self._advance(held)

    def _close(self, held: Held, first: int, count: int) -> None:
        marks, end = held.marks, first + count
        held.open -= count - marks.count(CLOSED, first, end)
        marks[first:end] = bytes([CLOSED]) * count
        if not held.open and self.held.get(held.row.number) is held:
            del self.held[held.row.number]

    def _take_back(self, held: Held, indices: Iterable[int], reason: str = _TAKEN_BACK) -> None:
        """Records are no longer the member's: what is not begun is never shown."""
        gone = [i for i in indices if held.marks[i] != CLOSED]
        if not gone:
            return
        for first, count in runs_of(gone):
            self._close(held, first, count)
        held.parked.difference_update(gone)
        for i in gone:
            held.refused[i] = reason
        was_read = held.feed is not None
        if was_read and not set(gone).isdisjoint(held.unread()):
            held.cut()
            if held.picks:
                self.queue.appendleft(held)
        self._advance(held)

    def _lose(self, held: Held) -> None:
        """A whole hand-out is gone; what the program said of it and the node has not answered
        counts for nothing."""
        if held.is_lost:
            return
        held.is_lost = True
        acked = sum(end - first for first, end in held.runs) + max(0, held.next - held.start)
        self.stale += acked
        held.runs.clear()
        held.start = held.next
        for name in ("_rows", "_extends", "_ready"):
            rows = getattr(self, name)
            kept = [row for row in rows if row.held is not held]
            self.stale += sum(row.count for row in rows if row.held is held and row.kind != EXTEND)
            rows.clear()
            rows.extend(kept)
        self._take_back(held, range(held.row.count))

    def _disown(self, held: Held) -> None:
        """Something of a hand-out went to others while there was no session, nobody says what:
        what is not begun goes back in case it did not; of the rest the node will judge."""
        self._give_back(held, held.unbegun())

    def _give_back(self, held: Held, waiting: Sequence[int]) -> None:
        """Return records that the program has not begun."""
        for first, count in runs_of(waiting):
            self._add_row(Told(held, first, count, RETURN))
        self._take_back(held, list(waiting))

    # -- keys in order: under the guard ---------------------------------------------------------

    def _block(self, held: Held, index: int) -> None:
        """A record failed: drop what follows it of its key."""
        key = held.keys[index] if held.keys is not None else b""
        if not key:
            return  # records without a key have no order
        topic, offset = held.row.topic, held.offset(index)
        self._blocks[topic, key] = _Block(self._serial)
        for other in list(self.held.values()):
            keys = other.keys
            if keys is not None and other.row.topic == topic and key in keys:
                later = [
                    i for i, k in enumerate(keys)
                    if k == key and other.offset(i) > offset and not other.is_settled(i)
                ]  # fmt: skip
                self._take_back(other, later, "an earlier record of its key failed")

    def _is_blocked(self, held: Held) -> bool:
        """Drop what is blocked of a hand-out; True if it must wait until the node has heard."""
        keys, topic = held.keys, held.row.topic
        if keys is not None:
            for i in held.picks:
                block = self._blocks.get((topic, keys[i]))
                if block is None:
                    continue
                if held.serial <= block.serial:
                    self._take_back(held, [i])
                elif not self._is_told(block):
                    return True
        done = [k for k, b in self._blocks.items() if b.serial < held.serial and self._is_told(b)]
        for k in done:
            del self._blocks[k]
        return False

    def _is_told(self, block: _Block) -> bool:
        return block.frame < 0 or (block.frame == 0 and self.is_idle)

    # -- the owner's thread -----------------------------------------------------------------------

    def consume(self) -> Consume:
        """The frame that joins in a new session, with what is held."""
        with self.guard:
            self.is_active = False
            again = [row for _, rows in self._frames for row in rows]
            self._ready.extendleft(reversed(again))
            self._frames.clear()
            self._frame = 0
            self._is_held_up = False
            for block in self._blocks.values():
                block.frame = min(block.frame, 0)
            holdings: list[Holding] = []
            room = CLAIM_BYTES_MAX
            for held in list(self.held.values()):
                claimed = [i for i, mark in enumerate(held.marks) if mark != CLOSED]
                room -= _HOLDING_BYTES + len(held.row.topic.encode()) + 8 * len(claimed)
                if room < 0:
                    self._lose(held)
                    continue
                held.claimed = claimed
                row = held.row
                offsets = tuple([held.offset(i) for i in claimed])
                holdings.append(Holding(row.number, row.topic, offsets, row.attempt))
        c = self._consume
        return Consume(
            c.consumer, c.group, c.pattern, c.create, c.prefetch_records, c.prefetch_bytes,
            c.ack_timeout_ns, tuple(holdings),
        )  # fmt: skip

    def on_session_lost(self) -> None:
        """Nothing is sent until the node lets it in again."""
        self.is_active = False

    def on_other_log(self) -> None:
        """The node answers with another log: nothing of the old one is held."""
        with self.guard:
            for _, rows in self._frames:
                self._ready.extend(rows)
            self._frames.clear()
            for held in list(self.held.values()):
                self._lose(held)

    def on_consumed(self, frame: Consumed, now_ns: int) -> tuple[Held, ...]:
        """The node lets it in (code empty) or not; return what it lost by that."""
        if frame.code:
            return self.leave()
        with self.guard:
            self.is_active = True
            self.order = frame.order
            found = [self.held[n] for n in frame.lost if n in self.held]
            for held in found:
                self._disown(held)
            if self.held:
                self._renew_at = now_ns
                for held in self.held.values():
                    held.fresh_ns = min(held.fresh_ns, now_ns - self._timeout_ns)
        return tuple(found)

    def on_hand_out(self, frame: HandOut, origin: bytes, now_ns: int) -> None:
        """Records for the program."""
        at, payload = 0, frame.payload
        alone = len(frame.rows) == 1
        with self.guard:
            for row in frame.rows:
                data = payload if alone else payload[at : at + row.length]
                at += row.length
                if row.number in self.held or not row.count:
                    continue
                self._serial += 1
                held = Held(self, self._serial, row, origin, data, now_ns)
                self.held[row.number] = held
                self.queue.append(held)
        if self._renew_at is None:
            self._renew_at = now_ns + self._timeout_ns // 3

    def on_settled(self, frame: Settled) -> tuple[Held, ...]:
        """Frames of settles are on disk; return the hand-outs they were of."""
        found: dict[int, Held] = {}
        with self.guard:
            self._is_held_up = False
            for row in frame.stale:
                self._on_stale(row)
            frames = self._frames
            while frames and frames[0][0] <= frame.number:
                for told in frames.popleft()[1]:
                    found[id(told.held)] = told.held
                    if told.kind != EXTEND:
                        self._close(told.held, told.first, told.count)
                        self._advance(told.held)
            for block in self._blocks.values():
                if 0 < block.frame <= frame.number:
                    block.frame = -1
        return tuple(found.values())

    def _on_stale(self, row: SettleRow) -> None:
        held = self.held.get(row.number)
        if row.kind not in (EXTEND, RETURN):
            self.stale += row.count
        if held is not None:
            indices = heard(held, row)
            reason = row.reason or _TAKEN_BACK
            if row.kind == EXTEND:
                self._take_back(held, indices, reason)
            else:
                held.refused.update(dict.fromkeys(indices, reason))

    def on_revoke(self, frame: Revoke) -> tuple[Held, ...]:
        """The node takes records back; return the hand-outs they are of."""
        found: dict[int, Held] = {}
        with self.guard:
            self._is_held_up = False
            for row in frame.rows:
                held = self.held.get(row.number)
                if held is not None:
                    found[row.number] = held
                    self._take_back(held, heard(held, row))
        return tuple(found.values())

    def leave(self) -> tuple[Held, ...]:
        """The member goes; what it holds is no longer its own. Return what that was."""
        with self.guard:
            self.is_done = True
            self.is_active = False
            self._renew_at = None
            found = tuple(self.held.values())
            for held in found:
                held.next = -1  # its acks must ask
                held.start = 0
                held.refused.update(
                    {i: "the consumer was closed" for i, m in enumerate(held.marks) if m != CLOSED}
                )
                held.cut()
                held.marks[:] = bytes([CLOSED]) * held.row.count
                held.picks = ()
                held.cursor = iter(())
            self.held.clear()
            self.queue.clear()
            self._frames.clear()
            self._touched.clear()
            self._rows.clear()
            self._extends.clear()
            self._ready.clear()
            return found

    def take(self) -> list[Settle]:
        """The frames of settles to send now; rule 1."""
        frames: list[Settle] = []
        if not self.has_work:
            return frames
        with self.guard:
            while self._has_news and self._has_room:
                self._gather()
                told: list[Told] = []
                said: list[SettleRow] = []
                while self._ready and len(told) < limits.SETTLE_ROWS_MAX:
                    row = self._ready.popleft()
                    spoken = say(row)
                    if spoken.count:
                        told.append(row)
                        said.append(spoken)
                    elif row.kind not in (EXTEND, RETURN):
                        self.stale += row.count
                if not told:
                    break
                self._frame += 1
                self._frames.append((self._frame, told))
                frames.append(Settle(self.id, self._frame, tuple(said)))
            if self._blocks and not self._ready:
                for block in self._blocks.values():
                    block.frame = block.frame or self._frame
        return frames

    def _gather(self) -> None:
        """Put what was settled since the last time behind what is ready."""
        ready = self._ready
        ready.extend(self._extends)
        self._extends.clear()
        touched, self._touched = self._touched, []
        self._waiting = 0
        for held in touched:
            held.is_quiet = True  # before looking: see Held
            end = held.next
            runs, held.runs = held.runs, []
            if end > held.start:
                runs.append((held.start, end))
                held.start = end
            if len(runs) > 1:
                runs = merged(runs)
            ready.extend([Told(held, first, end - first, ACK) for first, end in runs])
            self._advance(held)
        ready.extend(self._rows)
        self._rows.clear()

    def tick(self, now_ns: int) -> None:
        """Renew the timeouts of what waits unbegun, if it is time; rule 4."""
        if self._renew_at is None or now_ns < self._renew_at or not self.is_active:
            return
        third = self._timeout_ns // 3
        # So that one that is begun just before it is renewed again has all its time.
        longer = min(self._timeout_ns + third, limits.ACK_TIMEOUT_NS_MAX)
        oldest: int | None = None
        with self.guard:
            waits = (self._serial, sum([len(held.unbegun()) for held in self.held.values()]))
            if waits != self._waits:
                self._waits, self._waits_since = waits, now_ns
            is_stuck = now_ns - self._waits_since >= self._timeout_ns
            for held in list(self.held.values()):
                waiting = held.unbegun()
                if not waiting:
                    continue
                if is_stuck:
                    self._give_back(held, waiting)
                    continue
                # Not only what is due: many hand-outs share a frame.
                if now_ns - held.fresh_ns >= third // 2:
                    held.fresh_ns = now_ns
                    for first, count in runs_of(waiting):
                        self._extends.append(Told(held, first, count, EXTEND, longer))
                oldest = held.fresh_ns if oldest is None else min(oldest, held.fresh_ns)
        self._renew_at = None if oldest is None else oldest + third

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do, or None."""
        return self._renew_at if self.is_active else None
