"""What the program's threads do with what a member holds: begin it, settle it. See ``consumer``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.account import Account
from meshmq.core.held import CLOSED, HELD, SETTLED, Held, Told
from meshmq.core.runs import runs_of
from meshmq.errors import BadFrame
from meshmq.frames import (
    ACK,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Consume,
)

ORDER_ANY, ORDER_KEY = 0, 1
URGENT_FRAMES_IN_FLIGHT = 8
"""Settle frames in flight while a quarter of the prefetch waits to be settled."""

TAKEN_BACK = "the record was handed to another member or settled meanwhile"


class _Block:
    """A key whose record failed: what came up to ``serial`` is dropped, later ones wait until
    frame ``frame`` to its owner is answered (0: not sent, -1: answered)."""

    __slots__ = ("account", "frame", "serial")

    def __init__(self, account: Account, serial: int) -> None:
        self.account = account
        self.serial = serial
        self.frame = 0


class Settling:
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
        fenced: why the node that it is at hands out nothing now; or empty.
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
        self.fenced = ""
        self._consume = consumer
        self._timeout_ns = consumer.ack_timeout_ns
        self._serial = 0
        self._own = Account(b"")  # with the node that it is at
        self._accounts = {b"": self._own}
        self._ranks: tuple[Account, ...] = (self._own,)  # the same, for threads that only look
        self._touched: list[Held] = []
        self._rows: list[Told] = []
        self._extends: list[Told] = []
        self._waiting = 0  # about how many settles wait to be gathered
        self._blocks: dict[tuple[Account, str, bytes], _Block] = {}
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
        return not self._has_news and all(a.is_idle for a in self._ranks)

    @property
    def has_work(self) -> bool:
        """Whether ``take`` would have something to send now."""
        if not self.is_active:
            return False
        news = self._has_news
        for account in self._ranks:  # noqa: SIM110 - asked for with each ack
            if (news or account.ready) and self._has_room(account):
                return True
        return False

    @property
    def _has_news(self) -> bool:
        return bool(self._touched or self._rows or self._extends)

    def _has_room(self, account: Account) -> bool:
        if not account.is_active:
            return account.is_away
        frames = len(account.frames)
        if frames < limits.SETTLE_FRAMES_IN_FLIGHT:
            return True
        waiting = self._waiting + max(len(account.ready), account.waiting)
        return frames < URGENT_FRAMES_IN_FLIGHT and waiting * 4 >= self._consume.prefetch_records

    @property
    def away(self) -> list[str]:
        """Names of owners of what is held that cannot be reached."""
        found = {held.account for held in list(self.held.values())}
        return sorted(account.name for account in found if account.is_away)

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

    def _take_back(self, held: Held, indices: Iterable[int], reason: str = TAKEN_BACK) -> None:
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

    def _lose(self, held: Held, reason: str = TAKEN_BACK) -> None:
        """A whole hand-out is gone; what the program said of it and the node has not answered
        counts for nothing."""
        if held.is_lost:
            return
        held.is_lost = True
        acked = sum(end - first for first, end in held.runs) + max(0, held.next - held.start)
        self.stale += acked
        held.runs.clear()
        held.start = held.next
        for rows in (self._rows, self._extends, held.account.ready):
            kept = [row for row in rows if row.held is not held]
            self.stale += sum(row.count for row in rows if row.held is held and row.kind != EXTEND)
            rows.clear()
            rows.extend(kept)
        self._take_back(held, range(held.row.count), reason)

    def _disown(self, held: Held) -> None:
        """Something of a hand-out went to others while there was no session, nobody says what:
        what is not begun goes back in case it did not; of the rest the node will judge."""
        held.is_doubtful = True
        self._give_back(held, held.unbegun())

    @property
    def has_own(self) -> bool:
        """Whether something is held, or not yet settled, of the node that the member is at."""
        own = self._own
        return bool(self._has_news or not own.is_idle) or any(
            held.account is own for held in self.held.values()
        )

    def give_back(self) -> None:
        """Return what the program has not begun of the node that the member is at."""
        with self.guard:
            for held in [h for h in self.held.values() if h.account is self._own]:
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
        topic, offset, account = held.row.topic, held.offset(index), held.account
        self._blocks[account, topic, key] = _Block(account, self._serial)
        for other in list(self.held.values()):
            keys = other.keys
            if other.account is not account or other.row.topic != topic:
                continue
            if keys is not None and key in keys:
                later = [
                    i for i, k in enumerate(keys)
                    if k == key and other.offset(i) > offset and not other.is_settled(i)
                ]  # fmt: skip
                self._take_back(other, later, "an earlier record of its key failed")

    def _is_blocked(self, held: Held) -> bool:
        """Drop what is blocked of a hand-out; True if it must wait until the node has heard."""
        keys, topic, account = held.keys, held.row.topic, held.account
        if keys is not None:
            for i in held.picks:
                block = self._blocks.get((account, topic, keys[i]))
                if block is None:
                    continue
                if held.serial <= block.serial:
                    self._take_back(held, [i])
                elif not self._is_told(block):
                    if not account.is_away:
                        return True
                    self._give_back(held, [i])  # others need not wait for its owner
        done = [k for k, b in self._blocks.items() if b.serial < held.serial and self._is_told(b)]
        for k in done:
            del self._blocks[k]
        return False

    def _is_told(self, block: _Block) -> bool:
        if block.frame:
            return block.frame < 0
        return block.account.is_idle and not self._has_news
