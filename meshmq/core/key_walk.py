"""One walk over the records of a batch in a group in order of keys: who gets which, what waits.

It decides and keeps the keys' books; putting records into hands is its caller's (group_hands).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence

from meshmq import limits
from meshmq.core.hand_out import Member, Ready
from meshmq.core.key_order import KeyOrder
from meshmq.core.runs import of_indices

PATIENCE_NS = 200 * limits.MS
"""How long a member may let its keys' records wait before they are held back, so that those of
others go on: fetching them again costs ten times what waiting does."""

STEPS = 32  # records looked at one by one where a whole run could not go on

MayGo = Callable[[int, bytes, int, bool], bool]
"""Whether a record (stream, key, offset, marked) that was fetched by its place goes out now."""


class Walk:
    """One walk over the front of a batch in a group in order of keys.

    Attributes:
        given, queued: by member: the indices it gets now, and those it gets when it has room.
        held: keys of fetched records that were held back again.
        put_off: offsets that wait for their key.
    """

    def __init__(
        self, order: KeyOrder, ready: Ready, members: Sequence[Member], keys: Sequence[bytes],
        most: int, max_held: int, now_ns: int,
    ) -> None:  # fmt: skip
        self._max_held = max_held
        self._patient_until = now_ns - PATIENCE_NS
        self._order = order
        self._stream = ready.batch.stream
        self._base = ready.batch.base_offset
        self._books = order.of(self._stream)
        self._ready = ready
        self._members = members
        self._keys = keys
        self._most = most
        record_bytes = len(ready.batch.payload) / ready.batch.count
        self._rooms = {m: m.room(record_bytes) for m in members}
        self._target = max(members, key=self._rooms.__getitem__)
        self.given: dict[Member, list[int]] = defaultdict(list)
        self.queued: dict[Member, list[int]] = defaultdict(list)
        self.held: list[bytes] = []
        self.put_off: list[int] = []

    def run(self, may_go: MayGo) -> int:
        """Walk; return how many records left ``ready``."""
        runs = self._ready.runs
        walked = 0
        while runs:
            index, count = runs[0]
            if self._ready.is_fetched:
                done = 0
                while done < count and self._again(index + done, may_go):
                    done += 1
            else:
                done = self._run_fresh(index, count)
            walked += done
            if done < count:
                runs[0] = (index + done, count - done)
                break
            runs.popleft()
        return walked

    # -- as the log has it ---------------------------------------------------------------------

    def _run_fresh(self, index: int, count: int) -> int:
        """Walk a run of what the log has; return how many records left it."""
        at, end = index, index + count
        while at < end:
            done = self._all_at_once(at, end)
            at += done
            if not done:
                for _ in range(min(STEPS, end - at)):
                    if not self._fresh(at):
                        return at - index
                    at += 1
        return count

    def _all_at_once(self, at: int, end: int) -> int:
        """Of a run, take as many as need no second look; return how many.

        They go where their key is bound to, the others to the member with most room. Whoever has
        no room left ends it, as does a key that has none.
        """
        books, rooms = self._books, self._rooms
        end = min(end, at + self._most)
        keys = self._keys[at:end]
        if not keys or b"" in keys:
            return 0
        held_up: list[int] = []
        if books.held_up and not books.held_up.keys().isdisjoint(keys):
            held_up = [i for i, key in enumerate(keys, at) if key in books.held_up]
            if self._order.held + len(held_up) > self._max_held:
                return 0
        free: Sequence[int]
        shares: dict[Member, Sequence[int]] = {}
        if books.member.keys().isdisjoint(keys):
            free = range(at, end)
        else:
            found: dict[Member | None, list[int]] = defaultdict(list)
            for i, member in enumerate(map(books.member.get, keys), at):
                found[member].append(i)
            free = found.pop(None, ())
            shares = {member: some for member, some in found.items() if member is not None}
        if held_up:
            apart = set(held_up)
            free = [i for i in free if i not in apart]
            shares = {m: [i for i in some if i not in apart] for m, some in shares.items()}
        # Where somebody's room ends: nothing behind it may go before what waits there.
        for member, some in shares.items():
            fits = self._fits(member)
            if len(some) > fits:
                end = min(end, some[fits])
        if free:
            if rooms[self._target] <= 0:
                self._target = max(self._members, key=rooms.__getitem__)
            target, own = self._target, shares.get(self._target)
            shares[target] = mine = sorted([*free, *own]) if own else free
            room = self._room(target)
            if len(mine) > room:
                end = min(end, mine[room])
        if end <= at:
            return 0
        for member, some in shares.items():
            self._give_many(member, some, end)
        for i in held_up[: bisect_left(held_up, end)]:
            self._put_off(self._keys[i], self._base + i)
        return end - at

    def _room(self, member: Member) -> int:
        """How many records a member can get now: none before what is queued for it."""
        is_behind = member.pending or member in self.queued
        return 0 if is_behind else max(0, self._rooms.get(member, 0))

    def _fits(self, member: Member) -> int:
        """How many records a member can get or have queued for it."""
        if member not in self._rooms:
            return 0
        waiting = member.pending_count + len(self.queued.get(member, ()))
        return self._room(member) + max(0, member.most_records - waiting)

    def _give_many(self, member: Member, indices: Sequence[int], end: int) -> None:
        """Those before ``end``: into its hands, and what it has no room for is queued."""
        if indices and indices[-1] >= end:
            indices = indices[: bisect_left(indices, end)]
        if not indices:
            return
        self._books.bind(of_indices(self._keys, indices), member)
        room = self._room(member)
        now = indices[:room]
        if now:
            self.given[member] += now
            self._rooms[member] -= len(now)
            self._most -= len(now)
        if len(now) < len(indices):
            self.queued[member] += indices[room:]

    def _fresh(self, i: int) -> bool:
        """One record as the log has it; False if it must wait where it is."""
        key = self._keys[i]
        if not key:
            return self._to_target(i, key)
        offset = self._base + i
        if key in self._books.held_up:
            return self._hold(key, offset)
        member = self._books.member.get(key)
        if member is None:
            return self._to_target(i, key)
        if member not in self._rooms:
            return self._hold(key, offset)
        queued = self.queued.get(member)
        if member.pending or queued or self._rooms[member] <= 0 or self._most <= 0:
            # Behind what is queued for it, which may be of this key.
            if member.pending_count + len(queued or ()) >= member.most_records:
                if not member.pending or member.pending[0][2] > self._patient_until:
                    return False
                return self._hold(key, offset)
            self.queued[member].append(i)
            self._books.bind((key,), member)
            return True
        self._to(member, i, key)
        return True

    # -- fetched again -------------------------------------------------------------------------

    def _again(self, i: int, may_go: MayGo) -> bool:
        """One record that was fetched by its offset."""
        key = self._keys[i]
        books, marked = self._books, self._ready.marked
        if not key or not (key in books.member or key in books.held_up):
            return self._to_target(i, key)
        if self._most <= 0 or max(self._rooms.values()) <= 0:
            return False
        offset = self._base + i
        if not may_go(self._stream, key, offset, marked):
            self.put_off.append(offset)
            self.held.append(key)
            return True
        # One that failed goes to anybody: nothing of its key is bound.
        member = None if marked else books.member.get(key)
        if member is not None and self._rooms.get(member, 0) <= 0:
            self._put_off(key, offset)
            self.held.append(key)
            return True
        if marked:
            self._order.unfail(self._stream, key, offset)
        if member is not None:
            self._to(member, i, key)
            return True
        return self._to_target(i, key)

    def _hold(self, key: bytes, offset: int) -> bool:
        """Hold a record back, unless as many are as may be."""
        if self._order.held >= self._max_held:
            return False
        self._put_off(key, offset)
        return True

    def _put_off(self, key: bytes, offset: int) -> None:
        self._order.hold(self._stream, key, offset)
        self.put_off.append(offset)

    def _to_target(self, i: int, key: bytes) -> bool:
        rooms = self._rooms
        if rooms[self._target] <= 0:
            self._target = max(self._members, key=rooms.__getitem__)
        if rooms[self._target] <= 0 or self._most <= 0:
            return False
        self._to(self._target, i, key)
        return True

    def _to(self, member: Member, i: int, key: bytes) -> None:
        if key:
            self._books.bind((key,), member)
        self._rooms[member] -= 1
        self._most -= 1
        self.given[member].append(i)
