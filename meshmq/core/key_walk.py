"""One walk over the records of a batch in a group in order of keys: who gets which, what waits.

It decides and keeps the keys' books; putting records into hands is its caller's (group_hands).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshmq import limits
from meshmq.core.hand_out import Member, Ready
from meshmq.core.key_order import KeyOrder, KeyState

PATIENCE_NS = 200 * limits.MS
"""How long a member may let its keys' records wait before they are held back, so that those of
others go on: fetching them again costs ten times what waiting does."""

MayGo = Callable[[KeyOrder, KeyState, tuple[int, int], bool], bool]
"""Whether a record that was fetched by its place goes out now."""


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
        self._ready = ready
        self._members = members
        self._keys = keys
        self._most = most
        b = ready.batch
        record_bytes = len(b.payload) / b.count
        self._rooms = {id(m): m.room(record_bytes) for m in members}
        self._target = max(members, key=lambda m: self._rooms[id(m)])
        self.given: dict[int, tuple[Member, list[int]]] = {}
        self.queued: dict[int, tuple[Member, list[int]]] = {}
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

    def _run_fresh(self, index: int, count: int) -> int:
        """Walk a run of what the log has; return how many records left it. The common case,
        whose calls would cost as much as it does itself, stands here."""
        states, rooms = self._order.keys, self._rooms
        stream, given = self._ready.batch.stream, self.given
        keys = self._keys
        for i in range(index, index + count):
            key = keys[i]
            if key and self._most > 0:
                place = (stream, key)
                state = states.get(place)
                member: Member | None = None
                if state is None:
                    if rooms[id(self._target)] > 0:
                        member = self._target
                        states[place] = KeyState(member, 1)
                elif (
                    state.member is not None
                    and not state.queued
                    and not state.is_held_up
                    and rooms.get(id(state.member), 0) > 0
                ):
                    member = state.member
                    state.out += 1
                if member is not None:
                    known = id(member)
                    rooms[known] -= 1
                    self._most -= 1
                    found = given.get(known)
                    if found is None:
                        found = given[known] = (member, [])
                    found[1].append(i)
                    continue
            if not self._fresh(i):
                return i - index
        return count

    def _fresh(self, i: int) -> bool:
        """One record as the log has it; False if it must wait where it is."""
        key = self._keys[i]
        if not key:
            return self._to_target(i, None)
        ready, order = self._ready, self._order
        place = (ready.batch.stream, key)
        state = order.keys.get(place)
        if state is None:
            state = KeyState()
            if not self._to_target(i, state):
                return False
            order.keys[place] = state
            return True
        offset = ready.batch.base_offset + i
        if state.is_held_up:
            return self._hold(state, offset)
        member = state.member
        if member is None:
            return self._to_target(i, state)
        known = id(member)
        if state.queued or self._rooms.get(known, 0) <= 0 or self._most <= 0:
            mine = self.queued.get(known)
            waiting = member.pending_count + (len(mine[1]) if mine is not None else 0)
            if known not in self._rooms:
                return self._hold(state, offset)
            if waiting >= member.prefetch_records:
                if not member.pending or member.pending[0][2] > self._patient_until:
                    return False
                return self._hold(state, offset)
            if mine is None:
                mine = self.queued[known] = (member, [])
            mine[1].append(i)
            state.queued += 1
            return True
        self._to(member, i, state)
        return True

    def _again(self, i: int, may_go: MayGo) -> bool:
        """One record that was fetched by its offset."""
        key = self._keys[i]
        ready = self._ready
        if not key:
            return self._to_target(i, None)
        place = (ready.batch.stream, key)
        state = self._order.keys.get(place)
        if state is None:
            state = KeyState()
            if not self._to_target(i, state):
                return False
            self._order.keys[place] = state
            return True
        if self._most <= 0 or max(self._rooms.values()) <= 0:
            return False
        offset = ready.batch.base_offset + i
        if not may_go(self._order, state, (place[0], offset), ready.marked):
            self.put_off.append(offset)
            self.held.append(key)
            return True
        # One that failed goes to anybody: nothing of its key is in flight.
        member = None if ready.marked else state.member
        if member is not None and self._rooms.get(id(member), 0) <= 0:
            self._put_off(state, offset)
            self.held.append(key)
            return True
        if ready.marked:
            state.failed = [o for o in state.failed if o != offset]
        if member is not None:
            self._to(member, i, state)
            return True
        return self._to_target(i, state)

    def _hold(self, state: KeyState, offset: int) -> bool:
        """Hold a record back, unless as many are as may be."""
        if self._order.held >= self._max_held:
            return False
        self._put_off(state, offset)
        return True

    def _put_off(self, state: KeyState, offset: int) -> None:
        self._order.hold(state, offset)
        self.put_off.append(offset)

    def _to_target(self, i: int, state: KeyState | None) -> bool:
        rooms = self._rooms
        if rooms[id(self._target)] <= 0:
            self._target = max(self._members, key=lambda m: rooms[id(m)])
        if rooms[id(self._target)] <= 0 or self._most <= 0:
            return False
        self._to(self._target, i, state)
        return True

    def _to(self, member: Member, i: int, state: KeyState | None) -> None:
        if state is not None:
            state.member = member
            state.out += 1
        self._rooms[id(member)] -= 1
        self._most -= 1
        found = self.given.get(id(member))
        if found is None:
            found = self.given[id(member)] = (member, [])
        found[1].append(i)
