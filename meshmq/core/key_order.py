"""Order by key: who gets which record, so that each key of a stream stays in order.

Data: for each stream, the keys bound to a member, and a KeyState for each key of which something
failed or is held back.

Rules:
1. A key is bound to a member while something of it is in that member's hands, or queued for it
   where it has no room: more of the key goes to that member, in order.
2. A key of which a record failed hands out nothing until that record is due, and it first.
3. What cannot be handed out for its key's sake is held: by its offset only, its bytes stay in the
   log. A held record is released when its key is not bound and none before it failed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence

from meshmq.core.hand_out import Member

RELEASE_MAX = 256  # held records of one key that are fetched together


class KeyState:
    """One key of one stream that is held up.

    Attributes:
        failed: offsets of those that failed, ascending.
        held: offsets held back, ascending; None while there are none.
        released: held ones that are being fetched.
    """

    __slots__ = ("failed", "held", "released")

    def __init__(self) -> None:
        self.failed: list[int] = []
        self.held: array[int] | None = None
        self.released = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing holds the key up any more."""
        return not (self.failed or self.held or self.released)


class StreamKeys:
    """The keys of one stream.

    Attributes:
        member: by bound key, who has it.
        bound: by bound key, how many of its records that member has or is to get.
        held_up: by key, what a record that comes now must wait behind.
    """

    # Of a wide range of keys nearly every record has one of its own: whole batches are bound and
    # unbound at once, by dicts of what costs nothing to make.
    __slots__ = ("bound", "held_up", "member")

    def __init__(self) -> None:
        self.member: dict[bytes, Member] = {}
        self.bound: Counter[bytes] = Counter()
        self.held_up: dict[bytes, KeyState] = {}

    def bind(self, keys: Sequence[bytes], member: Member) -> None:
        """Records of these keys go to a member, or wait for its room."""
        self.bound.update(keys)
        self.member.update(dict.fromkeys(keys, member))

    def unbind(self, keys: Iterable[bytes]) -> list[bytes]:
        """They are with it no longer; return which keys, now free, hold something back."""
        bound, member, held_up = self.bound, self.member, self.held_up
        freed = []
        for key in keys:
            n = bound.get(key, 0)
            if n > 1:
                bound[key] = n - 1
            elif n:
                bound.pop(key)  # as a dict: Counter's own del is slow
                del member[key]
                if held_up and key in held_up:
                    freed.append(key)
        return freed


class KeyOrder:
    """See the module's header.

    Attributes:
        held: records held back, of all keys.
        fetching: key of each held record that is being fetched, by its place.
    """

    def __init__(self) -> None:
        self.streams: dict[int, StreamKeys] = {}
        self.fetching: dict[tuple[int, int], bytes] = {}
        self.held = 0

    @property
    def known(self) -> int:
        """How many keys something is kept of."""
        return sum([len(keys.bound) + len(keys.held_up) for keys in self.streams.values()])

    def of(self, stream: int) -> StreamKeys:
        found = self.streams.get(stream)
        if found is None:
            found = self.streams[stream] = StreamKeys()
        return found

    def state(self, stream: int, key: bytes) -> KeyState:
        """The state of a key that is about to be held up."""
        held_up = self.of(stream).held_up
        found = held_up.get(key)
        if found is None:
            found = held_up[key] = KeyState()
        return found

    def _find(self, stream: int, key: bytes) -> KeyState | None:
        keys = self.streams.get(stream)
        return keys.held_up.get(key) if keys is not None else None

    def _tidy(self, stream: int, key: bytes, state: KeyState) -> None:
        if state.is_idle:
            del self.streams[stream].held_up[key]

    def hold(self, stream: int, key: bytes, offset: int) -> None:
        """Keep a record back; its order among the held ones is by offset."""
        state = self.state(stream, key)
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
        state = self._find(stream, key)
        if state is not None and offset in state.failed:
            state.failed = [failed for failed in state.failed if failed != offset]
            self._tidy(stream, key, state)

    def is_bound(self, stream: int, key: bytes) -> bool:
        """Whether something of the key is with a member, or on its way there."""
        keys = self.streams.get(stream)
        return keys is not None and key in keys.bound

    def release(self, stream: int, key: bytes) -> list[int]:
        """What of the key may be fetched now."""
        state = self._find(stream, key)
        if state is None or not state.held or state.released or self.is_bound(stream, key):
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
        state = self._find(stream, key) if key else None
        if state is not None and state.released:
            state.released -= 1
            self._tidy(stream, key, state)
        return key

    def leave(self, stream: int, offset: int) -> bytes:
        """A record waits no longer for its key; return the key if it did."""
        key = self.arrived(stream, offset)
        if key:
            return key
        keys = self.streams.get(stream)
        for found, state in keys.held_up.items() if keys is not None else ():
            if state.held is not None and offset in state.held:
                state.held.remove(offset)
                state.held = state.held or None
                self.held -= 1
            elif offset in state.failed:
                state.failed = [failed for failed in state.failed if failed != offset]
            else:
                continue
            self._tidy(stream, found, state)
            return found
        return b""

    def holds(self, stream: int, offset: int) -> bool:
        """Whether a record is held back."""
        keys = self.streams.get(stream)
        return keys is not None and any(
            state.held is not None and offset in state.held for state in keys.held_up.values()
        )

    def longest(self) -> str:
        """The key that holds back most, in words."""
        states = [pair for keys in self.streams.values() for pair in keys.held_up.items()]
        if not states:
            return ""
        key, state = max(states, key=lambda pair: len(pair[1].held or ()))
        return f"key {key.decode('utf-8', 'replace')!r} holds back {len(state.held or ())} records"

    def forget_offsets(self, stream: int, before: int, first: int = 0) -> list[bytes]:
        """Held records from ``first`` to before an offset are gone; return which keys are held up
        still."""
        keys = self.streams.get(stream)
        if keys is None:
            return []
        for place in [p for p in self.fetching if p[0] == stream and first <= p[1] < before]:
            self.arrived(*place)
        for key, state in list(keys.held_up.items()):
            if state.held and state.held[0] < before:
                kept = array("Q", [o for o in state.held if not first <= o < before])
                self.held -= len(state.held) - len(kept)
                state.held = kept or None
                self._tidy(stream, key, state)
        return list(keys.held_up)

    def forget_stream(self, stream: int) -> None:
        """A topic was deleted."""
        keys = self.streams.pop(stream, None)
        if keys is not None:
            self.held -= sum([len(state.held or ()) for state in keys.held_up.values()])
            for place in [p for p in self.fetching if p[0] == stream]:
                del self.fetching[place]

    def purge(self) -> None:
        """Nothing waits any more; what is in members' hands stays there."""
        for keys in self.streams.values():
            keys.held_up.clear()
        self.fetching.clear()
        self.held = 0

    def clear(self) -> None:
        self.streams.clear()
        self.fetching.clear()
        self.held = 0
