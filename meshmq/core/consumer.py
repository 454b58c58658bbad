"""The member's side of a group: what one consumer holds, over any number of sessions.

Data: a Held per hand-out knows of each record whether it is held, settled (the program has said
what becomes of it) or closed (its owner has it on disk, or took it back). ``queue`` is what the
program has not come to; an Account for each owner (the node that the member is at, and others of
its site) what was told and is not answered.

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
6. What is held of an owner that cannot be reached stays held: it is claimed once that is there
   again, and what the program says of it waits until then, but not for longer than an ack timeout.
7. ``ack``'s common case, the next record of its hand-out, moves a number and takes no lock: see
   Held. Settling may come from any thread, ``begin`` from one at a time; the rest belongs to the
   client's owner. They meet under ``guard``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from meshmq import limits
from meshmq.core.account import Account
from meshmq.core.effects import StateChanged
from meshmq.core.held import CLOSED, Held, Told, heard, merged, say
from meshmq.core.runs import runs_of
from meshmq.core.settling import TAKEN_BACK, Settling
from meshmq.frames import (
    ACK,
    EXTEND,
    RETURN,
    Consume,
    Consumed,
    HandOut,
    Holding,
    Owner,
    Revoke,
    Settle,
    Settled,
    SettleRow,
)

CLAIM_BYTES_MAX = limits.FRAME_HEADER_BYTES_MAX - 2 * limits.COMMAND_BYTES_MAX
"""What is held beyond so many bytes of claims in a Consume frame is not claimed; by default all
is, it takes tens of thousands of hand-outs of one record."""

HOLDING_BYTES = 96  # a claim without its topic and offsets


class Member(Settling):
    """See the module's header, and what it is made of."""

    # -- the owner's thread -----------------------------------------------------------------------

    def consume(self, origin: bytes = b"", epoch: int = 0) -> Consume:
        """The frame that joins in a new session with node ``origin`` (empty: the same as before),
        the ``epoch``th of the program, with what is held."""
        with self.guard:
            self.is_active = False
            self.fenced = ""  # it says so again
            if origin:
                self._accounts.pop(b"", None)
                self._own = self._account(origin)
            for account in self._accounts.values():
                account.begin_again()
            self._is_held_up = False
            for block in self._blocks.values():
                block.frame = min(block.frame, 0)
            holdings = self._claim(list(self.held.values()))
            self._consume = replace(self._consume, epoch=epoch)
        return replace(self._consume, holdings=holdings)

    def consume_of(self, owner: Owner) -> Consume:
        """The frame that joins at another owner, with what is held of it."""
        with self.guard:
            account = self._account(owner.origin)
            account.name = owner.name
            account.begin_again()
            account.is_joining = True
            self._is_held_up = False
            for block in self._blocks.values():
                if block.account is account:
                    block.frame = min(block.frame, 0)
            holdings = self._claim([h for h in self.held.values() if h.account is account])
        return replace(self._consume, holdings=holdings, origin=owner.origin)

    def _account(self, origin: bytes) -> Account:
        found = self._accounts.get(origin)
        if found is None:
            found = self._accounts[origin] = Account(origin)
            self._ranks = tuple(self._accounts.values())
        return found

    def _claim(self, mine: list[Held]) -> tuple[Holding, ...]:
        holdings: list[Holding] = []
        room = CLAIM_BYTES_MAX
        for held in mine:
            claimed = [i for i, mark in enumerate(held.marks) if mark != CLOSED]
            room -= HOLDING_BYTES + len(held.row.topic.encode()) + 8 * len(claimed)
            if room < 0:
                self._lose(held)
                continue
            held.claimed = claimed
            row = held.row
            offsets = tuple([held.offset(i) for i in claimed])
            whose = b"" if held.account is self._own else held.account.origin
            size = row.length * len(claimed) // row.held
            holdings.append(Holding(row.number, row.topic, offsets, row.attempt, whose, size))
        return tuple(holdings)

    def on_session_lost(self) -> None:
        """Nothing is sent until the node lets it in again."""
        self.is_active = False

    def on_consumed(self, frame: Consumed, now_ns: int) -> tuple[Held, ...]:
        """An owner lets it in (code empty) or not; return what it lost by that."""
        if frame.origin:
            return self._on_consumed_of(frame, now_ns)
        if frame.code:
            return self.leave()
        with self.guard:
            self.is_active = self._own.is_active = True
            self.order = frame.order
            found = self._disown_all(frame.lost)
            others = [a for a in self._accounts.values() if a is not self._own]
            for account in others:
                if not frame.shared:  # another log, which knows nothing of what is held
                    found += self._give_up(account, TAKEN_BACK)
                elif not (account.is_active or account.is_joining):
                    self._is_gone(account, now_ns)
            if self.held:
                self._renew_soon(now_ns)
        return tuple(found)

    def _on_consumed_of(self, frame: Consumed, now_ns: int) -> tuple[Held, ...]:
        with self.guard:
            account = self._account(frame.origin)
            if frame.code:
                return tuple(self._give_up(account, frame.message or TAKEN_BACK))
            account.is_active, account.is_away, account.is_joining = True, False, False
            found = self._disown_all(frame.lost)
            if self.held:
                self._renew_soon(now_ns)
        return tuple(found)

    def _disown_all(self, lost: Iterable[int]) -> list[Held]:
        found = [self.held[n] for n in lost if n in self.held]
        for held in found:
            self._disown(held)
        return found

    def _renew_soon(self, now_ns: int) -> None:
        self._renew_at = now_ns
        for held in self.held.values():
            held.fresh_ns = min(held.fresh_ns, now_ns - self._timeout_ns)

    def on_owner_away(self, owner: Owner, now_ns: int) -> None:
        """The node that the member is at cannot reach an owner."""
        with self.guard:
            account = self._accounts.get(owner.origin)
            if account is not None and account is not self._own:
                account.name = owner.name
                self._is_gone(account, now_ns)

    def _is_gone(self, account: Account, now_ns: int) -> None:
        account.is_active, account.is_away, account.is_joining = False, True, False
        account.given_up_ns = now_ns + self._timeout_ns
        self._is_held_up = False

    def _give_up(self, account: Account, reason: str) -> list[Held]:
        """Nothing of an owner is held any more."""
        account.ready.extend([row for _, rows in account.frames for row in rows])
        account.frames.clear()
        found = [held for held in self.held.values() if held.account is account]
        for held in found:
            self._lose(held, reason)
        for key in [k for k, block in self._blocks.items() if block.account is account]:
            del self._blocks[key]
        self._is_held_up = False
        if account is not self._own:
            self._accounts.pop(account.origin, None)
            self._ranks = tuple(self._accounts.values())
        return found

    def on_hand_out(self, frame: HandOut, origin: bytes, now_ns: int) -> None:
        """Records for the program."""
        at, payload = 0, frame.payload
        alone = len(frame.rows) == 1
        with self.guard:
            account = self._account(frame.origin) if frame.origin else self._own
            for row in frame.rows:
                data = payload if alone else payload[at : at + row.length]
                at += row.length
                if row.number in self.held or not row.count:
                    continue
                self._serial += 1
                held = Held(self, account, self._serial, row, origin, data, now_ns)
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
            account = self._account(frame.origin) if frame.origin else self._own
            frames = account.frames
            while frames and frames[0][0] <= frame.number:
                for told in frames.popleft()[1]:
                    found[id(told.held)] = told.held
                    if told.kind != EXTEND:
                        self._close(told.held, told.first, told.count)
                        self._advance(told.held)
            for block in self._blocks.values():
                if block.account is account and 0 < block.frame <= frame.number:
                    block.frame = -1
        return tuple(found.values())

    def _on_stale(self, row: SettleRow) -> None:
        held = self.held.get(row.number)
        if row.kind not in (EXTEND, RETURN):
            self.stale += row.count
        if held is not None:
            indices = heard(held, row)
            reason = row.reason or TAKEN_BACK
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
            self._touched.clear()
            self._rows.clear()
            self._extends.clear()
            for account in self._accounts.values():
                account.frames.clear()
                account.ready.clear()
            return found

    def take(self) -> list[Settle]:
        """The frames of settles to send now; rule 1."""
        frames: list[Settle] = []
        if not self.has_work:
            return frames
        with self.guard:
            while True:
                # Whether there is room depends on what is not gathered yet.
                news = self._has_news
                free = [a for a in self._ranks if (news or a.ready) and self._has_room(a)]
                count = len(frames)
                self._gather()
                for account in free:
                    if account.ready:
                        self._take_of(account, frames)
                if len(frames) == count:
                    return frames

    def _take_of(self, account: Account, frames: list[Settle]) -> None:
        ready = account.ready
        told: list[Told] = []
        said: list[SettleRow] = []
        while ready and len(told) < limits.SETTLE_ROWS_MAX:
            row = ready.popleft()
            spoken = say(row)
            if spoken.count:
                told.append(row)
                said.append(spoken)
            elif row.kind not in (EXTEND, RETURN):
                self.stale += row.count
        if told:
            account.frame += 1
            account.frames.append((account.frame, told))
            origin = b"" if account is self._own else account.origin
            frames.append(Settle(self.id, account.frame, tuple(said), origin))
        if not ready:
            account.waiting = 0
            for block in self._blocks.values():
                if block.account is account:
                    block.frame = block.frame or account.frame

    def _gather(self) -> None:
        """Put what was settled since the last time behind what is ready."""
        for row in self._extends:
            row.held.account.add(row)
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
            for first, last in runs:
                held.account.add(Told(held, first, last - first, ACK))
            self._advance(held)
        for row in self._rows:
            row.held.account.add(row)
        self._rows.clear()

    def tick(self, now_ns: int) -> tuple[Held, ...]:
        """Renew the timeouts of what waits unbegun, if it is time (rule 4); give up what owners
        have that were away for too long. Return what was of these."""
        closed: list[Held] = []
        late = [a for a in self._ranks if 0 < a.given_up_ns <= now_ns and a.is_away]
        for account in late:
            with self.guard:
                closed += self._give_up(account, f"its owner, node {account.name}, is away for "
                                        f"longer than the ack timeout")  # fmt: skip
        self._renew(now_ns)
        return tuple(closed)

    def _renew(self, now_ns: int) -> None:
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
                if not held.account.is_active:
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
        due = self._renew_at if self.is_active else None
        for account in self._ranks:
            if account.is_away and (due is None or account.given_up_ns < due):
                due = account.given_up_ns
        return due


def on_fenced(
    frame: Owner, member: Member, members: Iterable[Member], state: str
) -> list[StateChanged]:
    """The node that members are at says to one of them that it hands out nothing, or does again;
    what is news for the program, in ``state``."""
    fenced = [one.fenced for one in members if one is not member and one.fenced]
    was, member.fenced = member.fenced, frame.fenced
    if fenced or was == frame.fenced:
        return []  # it is known of another one
    if frame.fenced:
        return [StateChanged(state, f"consumers wait: {frame.fenced}", is_warning=True)]
    return [StateChanged(state, "consumers go on: the node hands out records again")]
