"""Order by key: who gets which record, so that each key of a stream stays in order.

Data: a KeyState for each key of which something is in a member's hands, failed, or held back.

Rules:
1. Records of a key that are in flight are with one member, handed to it in order.
   What its member has no room for is queued for that member, up to its prefetch.
2. A key of which a record failed hands out nothing until that record is due, and it first.
3. What cannot be handed out for its key's sake is held: by its offset only, its bytes stay in the
   log. A held record is released when nothing of its key is in flight and none before it failed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort

from meshmq.core.hand_out import Member

RELEASE_MAX = 256  # held records of one key that are fetched together


_NONE: list[int] = []  # what a key has that never failed; replaced, never changed


class KeyState:
    """One key of one stream.

    Attributes:
        member: who has what is in flight.
        out: records in flight.
        queued: records that wait for room at the member.
        failed: offsets of those that failed, ascending.
        held: offsets held back, ascending; None while there are none.
        released: held ones that are being fetched.
    """

    # One is made for nearly every record of a wide range of keys: it costs little at first.
    __slots__ = ("failed", "held", "member", "out", "queued", "released")

    def __init__(self, member: Member | None = None, out: int = 0) -> None:
        self.member = member
        self.out = out
        self.queued = 0
        self.failed = _NONE
        self.held: array[int] | None = None
        self.released = 0

    @property
    def is_idle(self) -> bool:
        return not (self.out or self.queued or self.failed or self.held or self.released)

    @property
    def is_held_up(self) -> bool:
        """Whether a record that comes now must wait behind others of the key."""
        return bool(self.failed or self.held or self.released)


class KeyOrder:
    """See the module's header.

    Attributes:
        held: records held back, of all keys.
        fetching: key of each held record that is being fetched, by its place.
    """

    def __init__(self) -> None:
        self.keys: dict[tuple[int, bytes], KeyState] = {}
        self.fetching: dict[tuple[int, int], bytes] = {}
        self.held = 0

    def state(self, stream: int, key: bytes) -> KeyState:
        found = self.keys.get((stream, key))
        if found is None:
            found = self.keys[stream, key] = KeyState()
        return found

    def hold(self, state: KeyState, offset: int) -> None:
        """Keep a record back; its order among the held ones is by offset."""
        held = state.held
        if held is None:
            state.held = array("Q", (offset,))
        elif held[-1] > offset:
            insort(held, offset)
        else:
            held.append(offset)
        self.held += 1

    def fail(self, stream: int, key: bytes, offset: int) -> None:
        """A record of the key failed, and waits."""
        state = self.state(stream, key)
        if offset not in state.failed:
            state.failed = sorted([*state.failed, offset])

    def unfail(self, stream: int, key: bytes, offset: int) -> None:
        """It waits no longer: it was handed out, or is gone."""
        state = self.keys.get((stream, key))
        if state is not None and offset in state.failed:
            state.failed = [failed for failed in state.failed if failed != offset]

    def given(self, state: KeyState, member: Member) -> None:
        state.member = member
        state.out += 1

    def taken(self, stream: int, key: bytes) -> None:
        """One record of the key left a member's hands."""
        state = self.keys.get((stream, key))
        if state is not None and state.out:
            state.out -= 1
            self.unbind(state)

    @staticmethod
    def unbind(state: KeyState) -> None:
        """With nothing of it at its member or on the way there a key is anybody's."""
        if not state.out and not state.queued:
            state.member = None

    def unqueue(self, state: KeyState) -> None:
        """One record of the key no longer waits for room at its member."""
        state.queued -= 1
        if not state.out and not state.queued:
            state.member = None

    def release(self, stream: int, key: bytes) -> list[int]:
        """What of the key may be fetched now; forgets keys of which nothing is left."""
        state = self.keys.get((stream, key))
        if state is None:
            return []
        if state.is_idle:
            del self.keys[stream, key]
            return []
        if state.out or state.queued or state.released or not state.held:
            return []
        most = min(RELEASE_MAX, len(state.held))
        if state.failed:  # what comes before it goes before it
            most = min(most, bisect_left(state.held, state.failed[0]))
        free = list(state.held[:most])
        state.held = state.held[most:] or None
        self.held -= len(free)
        state.released = len(free)
        self.fetching.update(((stream, offset), key) for offset in free)
        return free

    def arrived(self, stream: int, offset: int) -> bytes:
        """A record is no longer being fetched; return its key if it was."""
        key = self.fetching.pop((stream, offset), b"")
        state = self.keys.get((stream, key)) if key else None
        if state is not None and state.released:
            state.released -= 1
        return key

    def leave(self, stream: int, offset: int) -> bytes:
        """A record waits no longer for its key; return the key if it did."""
        key = self.arrived(stream, offset)
        if key:
            return key
        for (at, found), state in self.keys.items():
            if at != stream:
                continue
            if state.held is not None and offset in state.held:
                state.held.remove(offset)
                state.held = state.held or None
                self.held -= 1
                return found
            if offset in state.failed:
                self.unfail(stream, found, offset)
                return found
        return b""

    def holds(self, stream: int, offset: int) -> bool:
        """Whether a record is held back."""
        return any(
            at == stream and state.held is not None and offset in state.held
            for (at, _), state in self.keys.items()
        )

    def longest(self) -> str:
        """The key that holds back most, in words."""
        if not self.keys:
            return ""
        (_, key), state = max(self.keys.items(), key=lambda item: len(item[1].held or ()))
        return f"key {key.decode('utf-8', 'replace')!r} holds back {len(state.held or ())} records"

    def forget_offsets(self, stream: int, before: int) -> int:
        """Held records before an offset are gone; return how many were."""
        gone = 0
        for (at, _), state in self.keys.items():
            if at == stream and state.held and state.held[0] < before:
                kept = array("Q", [offset for offset in state.held if offset >= before])
                gone += len(state.held) - len(kept)
                state.held = kept or None
        self.held -= gone
        for place in [p for p in self.fetching if p[0] == stream and p[1] < before]:
            self.arrived(*place)
        return gone

    def purge(self) -> None:
        """Nothing waits any more; what is in members' hands stays there."""
        for state in self.keys.values():
            state.held = None
            state.failed = _NONE
            state.released = 0
        self.held = 0
        self.fetching.clear()
        self.keys = {place: state for place, state in self.keys.items() if not state.is_idle}

    def clear(self) -> None:
        self.fetching.clear()
        self.keys.clear()
        self.held = 0
