"""One group or queue of a node: what waits, who has what, what becomes of it.

Data: ``state`` is what the journal says (core/journal.py); ``sources`` read the log; what they
bring waits in ``ready``; a HandOut is in a member's hands; ``_again`` are records to be handed out
by their offset: what failed and is due, what was given back, what a key held back.

Rules:
1. A record is in one place: unread, ready, in a member's hands, waiting for its time (a mark, or a
   delayed job), held back by its key, on its way to the dead letters, or settled.
2. Only what is synced is handed out. What it changes is journaled with the next commit; a member is
   told that its acks are stored after that.
3. A hand-out's number is good for the member it was made for until its records are settled, taken
   back (time, lost session, seek) or handed to another; later words about it are refused.
4. What is waiting costs no memory beyond one batch a source; what is in flight, failed or held does.

It knows nothing of frames' order or links' ends: core/groups.py brings what members say.
"""

from __future__ import annotations

import heapq
import random
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from meshmq import limits
from meshmq.core.batches import BatchTools
from meshmq.core.dead_letters import Undertaker
from meshmq.core.feed import Feed, Reader
from meshmq.core.group_journal import Journaling
from meshmq.core.hand_out import Entry, HandOut, Member, Ready, Source
from meshmq.core.journal import KEY, MOVED, QUEUE, REJECTED, SUSPECT, GroupState, Mark
from meshmq.core.key_order import KeyOrder, KeyState
from meshmq.core.log import StoredBatch
from meshmq.core.schedule import Schedule
from meshmq.core.topics import Topics
from meshmq.errors import BadFrame
from meshmq.frames import BACKOFF, HandOutRow, SettleRow
from meshmq.names import lane_of, retries_of

DELAYED, RETRY = 10, 11
AGAIN_MAX = 50_000  # records to be handed out by their offset; what is due beyond waits on
FETCH_NEAR = 4096  # offsets: what is due within so many is fetched in one read
WHOLE_SHARE = 4  # at least one part in so many of a batch: its bytes go out whole, not cut


@dataclass(slots=True)
class Shared:
    """What all groups of a node have in common.

    Attributes:
        number: gives the next hand-out's number.
        woken: groups that have something to do.
        revoked: (member, rows) to tell.
        wall_offset_ns: unix time minus the machines' time.
        now_ns: time of the event at hand.
    """

    origin: bytes
    entropy: random.Random
    number: Callable[[], int]
    woken: set[Group] = field(default_factory=set)
    revoked: list[tuple[Member, tuple[SettleRow, ...]]] = field(default_factory=list)
    wall_offset_ns: int = 0
    now_ns: int = 0

    @property
    def wall_now_ms(self) -> int:
        return (self.now_ns + self.wall_offset_ns) // limits.MS


class _Fetcher(Reader):
    """Brings the batches of records that are handed out by their offset."""

    __slots__ = ("owner", "wanted")

    def __init__(self, owner: Group) -> None:
        super().__init__("", 1 << 62, 1 << 62, is_live=True)
        self.owner = owner
        self.wanted = (0, 0)

    def take(self, batches: list[StoredBatch]) -> None:
        self.owner.on_fetched(batches)


class Group(Journaling):
    """See the module's header.

    Args:
        state: the group's own copy of what the journal says.
        shared: what all groups of a node have in common.
    """

    def __init__(
        self,
        state: GroupState,
        topics: Topics,
        feed: Feed,
        tools: BatchTools,
        shared: Shared,
    ) -> None:
        super().__init__(state, shared.woken)
        self.topics = topics
        self.feed = feed
        self.tools = tools
        self.shared = shared
        self.origin = shared.origin
        self.started_lsn = feed.committed_lsn
        self.due_ns = 0  # when ``tick`` is due, as the owner knows it
        self.members: dict[tuple[bytes, int], Member] = {}
        self.hand_outs: dict[int, HandOut] = {}
        self.ready: dict[int, deque[Ready]] = {}
        self.by_key = KeyOrder() if self.settings.order == KEY else None
        self.schedule = Schedule()
        self.undertaker = Undertaker(self)
        self.adopted: set[tuple[int, int]] = set()
        self.grace_until_ns = 0
        self._again: list[tuple[int, int, int]] = []  # (-priority, stream, offset)
        self._again_set: set[tuple[int, int]] = set()
        self._suspects: set[tuple[int, int]] = set()
        self._blocked: set[tuple[int, int]] = set()  # failed and due, but their key is in flight
        self._fetcher = _Fetcher(self)
        self._deadlines: list[tuple[int, int]] = []
        self._version = 0
        self._tokens = 0.0
        self._tokens_at_ns = 0
        self.in_flight = 0
        self.delayed = 0
        self.retrying = 0
        self.sources = self._make_sources()
        self._resume()

    def _make_sources(self) -> list[Source]:
        name = self.settings.name
        lanes = [(0, self.settings.pattern), (RETRY, retries_of(name))]
        if self.settings.kind == QUEUE:
            lanes += [(p, lane_of(name, p)) for p in range(1, limits.PRIORITY_MAX + 1)]
            lanes.append((DELAYED, lane_of(name, delayed=True)))
        sources = []
        for index, pattern in lanes:
            source = Source(pattern, 1, 1 << 62, owner=self, index=index)
            source.lsn, source.slot = self.state.cursors.get(index, (1, 0))
            if index == DELAYED:
                source.lsn = 1
            source.suspect_until = self.state.reached.get(index, (0, 0))
            source.suspect_records = self.state.ahead
            sources.append(source)
        return sources

    def _resume(self) -> None:
        """What the marks say waits."""
        for (stream, offset), mark in self.state.marks.items():
            if mark.flags & REJECTED or mark.attempts >= self.settings.max_deliveries:
                self.undertaker.bury(stream, offset)
                continue
            self.retrying += 1
            if mark.flags & SUSPECT:
                self._suspects.add((stream, offset))
            self.schedule.add(mark.due_ms, stream, offset, mark.priority)
            if self.by_key is not None and mark.key:
                self.by_key.fail(stream, mark.key, offset)

    def open(self) -> None:
        """Begin to read."""
        for source in self.sources:
            self.feed.add_reader(source)
        self.feed_sources()

    def close(self) -> None:
        """Read no more."""
        for reader in (*self.sources, self._fetcher, self.undertaker):
            self.feed.remove_reader(reader)

    # -- time -------------------------------------------------------------------------------

    def wall_ms(self, now_ns: int) -> int:
        return (now_ns + self.shared.wall_offset_ns) // limits.MS

    def next_deadline_ns(self, now_ns: int) -> int | None:
        """When ``tick`` has something to do."""
        due: list[int] = []
        if self._deadlines:
            due.append(self._deadlines[0][0])
        at_ms = self.schedule.next_ms()
        if at_ms is not None and len(self._again) < AGAIN_MAX:
            due.append(max(now_ns, at_ms * limits.MS - self.shared.wall_offset_ns))
        if self.grace_until_ns > now_ns and self.members:
            due.append(self.grace_until_ns)
        if self.settings.rate and self._tokens < 1 and self.members and self._has_work:
            due.append(self._tokens_at_ns + int((1 - self._tokens) * 1e9 / self.settings.rate) + 1)
        return min(due) if due else None

    @property
    def _has_work(self) -> bool:
        return bool(self._again) or any(self.ready.values())

    def tick(self, now_ns: int) -> None:
        """Take back what is over its time; what is due can be handed out."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ns:
            _, number = heapq.heappop(deadlines)
            hand_out = self.hand_outs.get(number)
            if hand_out is not None:
                self._expire(hand_out, now_ns)
        self.wake()

    def _take_due(self, now_ns: int) -> None:
        """What waited for its time joins what is to be handed out, bounded."""
        most = AGAIN_MAX - len(self._again)
        if most > 0:
            for row in self.schedule.pop_due(self.wall_ms(now_ns), most):
                self._on_due(*row)

    def _on_due(self, due_ms: int, stream: int, offset: int, priority: int) -> None:
        mark = self.state.marks.get((stream, offset))
        if mark is not None:
            if mark.due_ms != due_ms or mark.flags & REJECTED or (stream, offset) in self.adopted:
                return
            self.retrying -= 1
        elif offset in self.state.settled(stream):
            return  # cancelled, or moved to another time
        else:
            self.delayed -= 1
        self._push_again(stream, offset, priority)

    # -- what the log brings ----------------------------------------------------------------

    def feed_sources(self) -> None:
        """Read where there is room: one batch ahead, or more while members wait for it."""
        ahead = limits.GROUP_READY_BYTES_MAX if self.members else 1
        if self.is_stopped:
            return
        for source in self.sources:
            room = 1 << 40 if source.index == DELAYED else ahead - source.ready_bytes
            if room > 0:
                source.credit_bytes = room
                self.feed.feed(source)

    @property
    def is_stopped(self) -> bool:
        """Whether so much is held back by keys that reading waits."""
        return self.by_key is not None and self.by_key.held >= self.settings.max_held

    def on_fresh(self, source: Source, batches: list[StoredBatch]) -> None:
        """Batches that one source read next."""
        for batch in batches:
            self._fresh(source, batch)
        self.wake()

    def _fresh(self, source: Source, b: StoredBatch) -> None:
        stream, base, count = b.stream, b.base_offset, b.count
        settled = self.state.settled(stream)
        expected = source.seen.get(stream, settled.floor)
        source.seen[stream] = base + count
        if base > expected:
            self.pass_over(stream, expected, base - expected)
        runs = settled.missing(base, count)
        if self.adopted and runs:
            runs = self._without_adopted(stream, runs)
        total = sum([n for _, n in settled.missing(base, count)]) if self.adopted else _sum(runs)
        if not total:
            return
        options = self.tools.options(b.payload) if self.settings.kind == QUEUE else None
        if b.damaged or (options and 0 < options.expires_ms <= self.shared.wall_now_ms):
            for first, n in runs:
                self.settle_run(stream, first, n)
            if b.damaged:
                self.damaged += _sum(runs)
            else:
                self.expired_jobs += _sum(runs)
            return
        priority = options.priority if options else 0
        if options and source.index == DELAYED:
            for first, n in runs:
                for offset in range(first, first + n):
                    self.schedule.add(options.due_ms, stream, offset, priority)
            self.delayed += _sum(runs)
            return
        priority = max(priority, source.index if source.index < DELAYED else 0)
        entry = source.trail[stream, base] = Entry(b.lsn, b.slot, total)
        if not runs:
            return
        ready = Ready(
            b, self.topics.by_stream[stream].entry.name,
            deque([(first - base, n) for first, n in runs]), priority, entry, source,
            suspect=self._is_suspect(source, b, _sum(runs)), version=self._version,
        )  # fmt: skip
        source.ready_bytes += len(b.payload)
        source.credit_bytes -= len(b.payload)
        self._queue(ready)

    def _is_suspect(self, source: Source, b: StoredBatch, records: int) -> bool:
        """Whether an earlier life of the node may have handed these out."""
        if (b.lsn, b.slot) < source.suspect_until:
            return True
        if source.suspect_records <= 0:
            return False
        source.suspect_records -= records
        return b.lsn <= self.started_lsn

    def _without_adopted(
        self, stream: int, runs: Iterable[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for first, n in runs:
            for offset in range(first, first + n):
                if (stream, offset) in self.adopted:
                    continue
                if found and _end(found[-1]) == offset:
                    found[-1] = (found[-1][0], found[-1][1] + 1)
                else:
                    found.append((offset, 1))
        return found

    def _queue(self, ready: Ready) -> None:
        queue = self.ready.get(ready.priority)
        if queue is None:
            queue = self.ready[ready.priority] = deque()
        if ready.source is None:
            queue.appendleft(ready)  # it has waited longer than what is read now
        else:
            queue.append(ready)

    # -- records handed out by their offset -------------------------------------------------

    def _push_again(self, stream: int, offset: int, priority: int) -> None:
        if (stream, offset) not in self._again_set:
            self._again_set.add((stream, offset))
            heapq.heappush(self._again, (-priority, stream, offset))
            self.wake()

    def _fetch_again(self) -> None:
        """Read the batch of the first record that is to be handed out by its offset."""
        again = self._again
        while again and (again[0][1], again[0][2]) not in self._again_set:
            heapq.heappop(again)
        if not again or self._fetcher.reading:
            return
        _, stream, offset = again[0]
        topic = self.topics.by_stream.get(stream)
        if topic is None or offset < topic.first_offset:
            heapq.heappop(again)
            self._again_set.discard((stream, offset))
            self.forget(stream, offset)
            self._fetch_again()
            return
        near = heapq.nsmallest(2, again)[-1] if len(again) < 64 else again[1]
        dense = near[1] == stream and near[2] - offset < FETCH_NEAR
        self._fetcher.wanted = (stream, offset)
        self.feed.fetch(self._fetcher, stream, offset, limits.GROUP_READ_BYTES_MAX if dense else 1)

    def on_fetched(self, batches: list[StoredBatch]) -> None:
        """What ``_fetch_again`` asked for; it may hold more of what is wanted."""
        stream, offset = self._fetcher.wanted
        self.wake()
        if not batches or batches[0].base_offset > offset:
            if (stream, offset) in self._again_set:
                self._again_set.discard((stream, offset))
                self.forget(stream, offset)
        for b in batches:
            wanted = self._take_wanted(b)
            if not wanted:
                continue
            if b.damaged:
                for at in wanted:
                    self.forget(stream, at)
                    self.damaged += 1
                continue
            self._queue_again(b, wanted)

    def _take_wanted(self, b: StoredBatch) -> list[int]:
        """Offsets of ``b`` that are to be handed out, taken off the heap; one priority at a time."""
        found: list[int] = []
        again, end = self._again, b.base_offset + b.count
        while again:
            _, stream, offset = again[0]
            known = (stream, offset) in self._again_set
            if known and (stream != b.stream or offset >= end or offset < b.base_offset):
                break
            heapq.heappop(again)
            if known:
                self._again_set.discard((stream, offset))
                found.append(offset)
        return found

    def _queue_again(self, b: StoredBatch, offsets: list[int]) -> None:
        """Make them ready, together where they are alike."""
        name = self.topics.by_stream[b.stream].entry.name
        alike: dict[tuple[int, bool, bool, int], list[int]] = {}
        for offset in offsets:
            key = (b.stream, offset)
            if key in self.adopted:
                continue
            mark = self.state.marks.get(key)
            if mark is None and offset in self.state.settled(b.stream):
                continue
            attempt = 1 + (mark.attempts if mark else 0)
            suspect = key in self._suspects
            self._suspects.discard(key)
            priority = mark.priority if mark else self._priority_of(b)
            alike.setdefault((attempt, mark is not None, suspect, priority), []).append(offset)
        entry = self._entry_of(b.stream, b.base_offset)
        for (attempt, marked, suspect, priority), some in alike.items():
            runs: deque[tuple[int, int]] = deque()
            for offset in some:
                index = offset - b.base_offset
                if runs and sum(runs[-1]) == index:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((index, 1))
            ready = Ready(
                b, name, runs, priority, None if marked else entry, None, attempt, marked, suspect,
                self._version,
            )  # fmt: skip
            self._queue(ready)

    def _priority_of(self, b: StoredBatch) -> int:
        options = self.tools.options(b.payload) if self.settings.kind == QUEUE else None
        return options.priority if options else 0

    def _entry_of(self, stream: int, base: int) -> Entry | None:
        for source in self.sources:
            entry = source.trail.get((stream, base))
            if entry is not None:
                return entry
        return None

    # -- handing out ------------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Hand out what can be, within the members' room."""
        self._take_due(now_ns)
        self.undertaker.pump()
        members = self._takers()
        if not members:
            self.feed_sources()
            return
        while any(m.in_flight < m.prefetch_records for m in members):
            if self._again:
                self._fetch_again()
            ready = self._next_ready(now_ns)
            if ready is None:
                break
            most = self._allowed(now_ns)
            if most <= 0:
                break
            if self.by_key is not None:
                handed = self._hand_out_by_key(ready, members, most, now_ns)
            else:
                handed = self._hand_out_any(ready, members, most, now_ns)
            if not ready.runs:
                self._used_up(ready)
            elif not handed:
                break
        self.feed_sources()

    def _takers(self) -> list[Member]:
        """Members that may be given something now."""
        if self.settings.paused:
            return []
        may_send_to = self.feed.may_send_to
        return [m for m in self.members.values() if m.is_active and may_send_to(m.link)]

    def _next_ready(self, now_ns: int) -> Ready | None:
        """What is to be handed out next, the highest priority first."""
        for priority in sorted(self.ready, reverse=True):
            queue = self.ready[priority]
            while queue:
                ready = queue[0]
                if ready.version != self._version:
                    self._look_again(ready)
                if not ready.runs:
                    self._used_up(ready)
                    continue
                if ready.suspect and now_ns < self.grace_until_ns:
                    break  # their member may come back for them
                return ready
            if not queue:
                del self.ready[priority]
        return None

    def _look_again(self, ready: Ready) -> None:
        """Drop what was cancelled or adopted since it was read."""
        b = ready.batch
        ready.version = self._version
        kept: deque[tuple[int, int]] = deque()
        for index, n in ready.runs:
            first = b.base_offset + index
            if ready.marked:
                runs = [
                    (o, 1) for o in range(first, first + n) if (b.stream, o) in self.state.marks
                ]
            else:
                runs = self.state.settled(b.stream).missing(first, n)
            kept += [(o - b.base_offset, c) for o, c in self._without_adopted(b.stream, runs)]
        ready.runs = kept

    def _used_up(self, ready: Ready) -> None:
        queue = self.ready[ready.priority]
        assert queue[0] is ready
        queue.popleft()
        if ready.source is not None:
            ready.source.ready_bytes -= len(ready.batch.payload)
            self.feed_soon = True

    def _allowed(self, now_ns: int) -> int:
        """Records that may go out now: the group's rate, and what the journal has room for."""
        most = self.go_ahead_records
        rate = self.settings.rate
        if not rate:
            return most
        burst = max(1.0, rate / 10)
        passed = max(0, now_ns - self._tokens_at_ns)
        self._tokens = min(burst, self._tokens + passed * rate / 1e9)
        self._tokens_at_ns = now_ns
        return min(most, int(self._tokens))

    def _hand_out_any(self, ready: Ready, members: Sequence[Member], most: int, now_ns: int) -> int:
        """Give the front of ``ready`` to whoever has most room; return how many records."""
        b = ready.batch
        record_bytes = len(b.payload) / b.count
        member, room = None, 0
        for m in members:
            fits = m.room(record_bytes)
            if fits > room:
                member, room = m, fits
        if member is None:
            return 0
        index, count = ready.runs[0]
        n = min(count, room, most)
        if n == count:
            ready.runs.popleft()
        else:
            ready.runs[0] = (index + n, count - n)
        self._give(ready, member, range(index, index + n), None, now_ns)
        return n

    def _hand_out_by_key(
        self, ready: Ready, members: Sequence[Member], most: int, now_ns: int
    ) -> int:
        """Walk the front of ``ready``: each record goes where its key is, or to whoever has most
        room, or is held back. Returns how many records left ``ready``."""
        order = self.by_key
        assert order is not None
        b = ready.batch
        if ready.records is None:
            try:
                ready.records = self.tools.decode(b.payload, b.count)
            except BadFrame:
                ready.runs.clear()
                return 0
        keys = ready.records.keys
        if keys is None:
            return self._hand_out_any(ready, members, most, now_ns)
        record_bytes = len(b.payload) / b.count
        rooms = {id(m): m.room(record_bytes) for m in members}
        target = max(members, key=lambda m: rooms[id(m)])
        given: dict[int, tuple[Member, list[int]]] = {}
        walked = handed = 0
        states, stream, base = order.keys, b.stream, b.base_offset
        again = ready.source is None
        while ready.runs and handed < most:
            index, count = ready.runs[0]
            done = 0
            for i in range(index, index + count):
                key = keys[i]
                state = states.get((stream, key)) if key else None
                member = target
                if state is not None:
                    if again and not self._may_go(order, state, base + i, ready.marked):
                        done += 1
                        continue
                    if not again and (state.failed or state.held or state.released):
                        order.hold(state, base + i)
                        done += 1
                        continue
                    if state.out:
                        member = state.member or target
                        if rooms.get(id(member), 0) <= 0:
                            order.hold(state, base + i)
                            done += 1
                            continue
                if rooms[id(member)] <= 0:
                    target = max(members, key=lambda m: rooms[id(m)])
                    if member is not target:
                        member = target
                    if rooms[id(member)] <= 0:
                        break
                if handed >= most:
                    break
                if key:
                    if state is None:
                        state = states[stream, key] = KeyState()
                    order.given(state, member)
                    if again and ready.marked:
                        state.failed.remove(base + i)
                rooms[id(member)] -= 1
                handed += 1
                done += 1
                found = given.get(id(member))
                if found is None:
                    found = given[id(member)] = (member, [])
                found[1].append(i)
            walked += done
            if done < count:
                ready.runs[0] = (index + done, count - done)
                break
            ready.runs.popleft()
        for member, indices in given.values():
            self._give(ready, member, indices, keys, now_ns)
        return walked

    def _may_go(self, order: KeyOrder, state: KeyState, offset: int, marked: bool) -> bool:
        """Whether a record fetched by its offset goes out now; else it waits for its turn."""
        if marked:
            if state.out or state.failed[:1] != [offset]:
                self._blocked.add((self._fetcher.wanted[0], offset))
                return False
            return True
        if state.released:
            state.released -= 1
        if state.failed or (state.out and state.member is None):
            order.hold(state, offset)
            return False
        return True

    def _give(
        self, ready: Ready, member: Member, indices: Sequence[int],
        keys: Sequence[bytes] | None, now_ns: int,
    ) -> None:  # fmt: skip
        """Put records of one batch into a member's hands."""
        b = ready.batch
        n, first, base = len(indices), indices[0], b.base_offset
        contiguous = indices[-1] - first == n - 1
        record_bytes = len(b.payload) / b.count
        if contiguous and n * WHOLE_SHARE >= b.count:
            payload, checksum, skip, held = b.payload, b.checksum, first, b.count
        else:
            if ready.records is None:
                ready.records = self.tools.decode(b.payload, b.count)
            payload, skip, held = self.tools.pick(ready.records, indices), 0, n
            checksum = zlib.crc32(payload)
        offsets = None if contiguous else [base + i for i in indices]
        h = HandOut(
            self.shared.number(), member, b.stream, base + first, n, offsets, (1 << n) - 1,
            now_ns + member.ack_timeout_ns, ready.attempt, ready.priority, ready.entry,
            record_bytes, ready.marked, ready.suspect,
            None if keys is None else [keys[i] for i in indices],
            append_ms=b.append_time_ns // limits.MS,
        )  # fmt: skip
        self._hold(h)
        row = HandOutRow(
            ready.topic, h.number, h.first, n, skip, held, len(payload), checksum,
            b.append_time_ns, b.lsn, b.slot, ready.attempt, ready.suspect,
            () if offsets is None else tuple(offsets),
        )  # fmt: skip
        member.rows.append((row, payload))
        self.touched[id(member)] = member
        self.handed_total += n
        if ready.attempt > 1 or ready.suspect:
            self.redelivered += n
        if self.settings.rate:
            self._tokens -= n
        if ready.source is not None:
            self.reached(ready.source, b.lsn, b.slot)

    def _hold(self, h: HandOut) -> None:
        member = h.member
        self.hand_outs[h.number] = h
        member.hand_outs[h.number] = h
        n = h.left.bit_count()
        member.in_flight += n
        member.in_flight_bytes += n * h.record_bytes
        self.in_flight += n
        heapq.heappush(self._deadlines, (h.deadline_ns, h.number))

    def _let_go(self, h: HandOut, bits: int) -> None:
        """These records are no longer in the member's hands."""
        n = bits.bit_count()
        member = h.member
        h.left &= ~bits
        member.in_flight -= n
        member.in_flight_bytes -= n * h.record_bytes
        self.in_flight -= n
        self.wake()
        if not h.left:
            del self.hand_outs[h.number]
            del member.hand_outs[h.number]
            if not member.hand_outs:
                member.in_flight_bytes = 0.0
        if self.adopted:
            for first, count in h.runs(bits):
                self.adopted.difference_update((h.stream, o) for o in range(first, first + count))

    # -- what becomes of records ------------------------------------------------------------

    def ack(self, h: HandOut, bits: int) -> None:
        """Done."""
        n = bits.bit_count()
        self.acked += n
        for first, count in h.runs(bits):
            self.settle_run(h.stream, first, count, h.marked)
        if h.entry is not None and not h.marked:
            self.lift(h.entry, n)
        self._let_go(h, bits)
        if h.keys is not None:
            self._keys_taken(h, bits)

    def nack(self, h: HandOut, bits: int, delay_ns: int, reason: str, now_ns: int) -> None:
        """Again, after a delay; too often, and it goes to the dead letters."""
        self.nacked += bits.bit_count()
        self._fail(h, bits, delay_ns, reason, 0, now_ns)

    def reject(self, h: HandOut, bits: int, reason: str, now_ns: int) -> None:
        """Never again: to the dead letters."""
        self.rejected += bits.bit_count()
        self._fail(h, bits, 0, reason, REJECTED, now_ns)

    def give_back(self, h: HandOut, bits: int, suspect: bool) -> None:
        """Not begun, or nobody knows: to anybody, at once, as if it had not been handed out."""
        self._let_go(h, bits)
        for index in h.indices(bits):
            offset = h.offset_of(index)
            if suspect or h.suspect:
                self._suspects.add((h.stream, offset))
            key = h.keys[index] if h.keys is not None else b""
            if self.by_key is not None and key:
                self.by_key.taken(h.stream, key)
                if h.marked:
                    self.by_key.fail(h.stream, key, offset)
                else:
                    self.by_key.hold(self.by_key.state(h.stream, key), offset)
                    continue
            self._push_again(h.stream, offset, h.priority)
        if h.keys is not None:
            self._release_keys(h.stream, {h.keys[i] for i in h.indices(bits)})

    def _fail(
        self, h: HandOut, bits: int, delay_ns: int, reason: str, flags: int, now_ns: int
    ) -> None:
        now_ms = self.wall_ms(now_ns)
        most = self.settings.max_deliveries
        self._let_go(h, bits)
        if not h.marked and h.entry is not None:
            self.lift(h.entry, bits.bit_count())
        for index in h.indices(bits):
            offset = h.offset_of(index)
            key = h.keys[index] if h.keys is not None else b""
            old = self.state.marks.get((h.stream, offset))
            dies = flags & REJECTED or h.attempt >= most
            wait_ms = (
                self._backoff_ms(h.attempt) if delay_ns == BACKOFF else -(-delay_ns // limits.MS)
            )
            mark = Mark(
                h.attempt, now_ms if dies else now_ms + wait_ms,
                flags | (SUSPECT if (h.stream, offset) in self._suspects else 0),
                old.first_ms if old and old.first_ms else now_ms, now_ms, h.priority, key, reason,
            )  # fmt: skip
            self.set_mark(h.stream, offset, mark)
            if key and self.by_key is not None:
                self.by_key.taken(h.stream, key)
                self.by_key.fail(h.stream, key, offset)
                self._revoke_later(h.stream, key, offset)
            if dies:
                self.undertaker.bury(h.stream, offset)
            else:
                self.retrying += 1
                self.schedule.add(mark.due_ms, h.stream, offset, h.priority)

    def _backoff_ms(self, attempt: int) -> int:
        s = self.settings
        delay = min(s.backoff_ns << min(attempt - 1, 40), s.backoff_max_ns)
        return int(delay * (0.8 + 0.4 * self.shared.entropy.random())) // limits.MS

    def _expire(self, h: HandOut, now_ns: int) -> None:
        """Take back what was not settled in time."""
        bits, later = 0, 0
        if h.longer:
            for index in h.indices(h.left):
                deadline = h.deadline_of(index)
                if deadline <= now_ns:
                    bits |= 1 << index
                else:
                    later = min(later, deadline) if later else deadline
        else:
            bits = h.left
        if later:
            heapq.heappush(self._deadlines, (later, h.number))
        if not bits:
            return
        self.expired += bits.bit_count()
        self.take_back(h, bits, "no answer within the ack timeout", self.by_key is None, now_ns)

    def take_back(self, h: HandOut, bits: int, reason: str, all_begun: bool, now_ns: int) -> None:
        """The member did not answer. What it had begun counts as a failure: what kills a worker
        must not go round for ever. Of a lost session that is the oldest record of the hand-out,
        the others did not get so far; members extend what they have not begun, so of a time-out
        it is all, except that a key's later records wait for the first one anyway."""
        self.revoke(h, bits)
        begun = bits if all_begun else bits & -bits
        for index in h.indices(begun):
            self._suspects.add((h.stream, h.offset_of(index)))
        self._fail(h, begun, 0, reason, 0, now_ns)
        rest = bits & ~begun
        if rest:
            self.give_back(h, rest, True)

    def revoke(self, h: HandOut, bits: int) -> None:
        """Tell the member what is no longer its own."""
        rows = []
        while bits:
            begin = (bits & -bits).bit_length() - 1
            rest = ~(bits >> begin)
            width = (rest & -rest).bit_length() - 1
            rows.append(SettleRow(h.number, begin, width, 0))
            bits &= ~(((1 << width) - 1) << begin)
        self.shared.revoked.append((h.member, tuple(rows)))

    def extend(self, h: HandOut, first: int, count: int, deadline_ns: int) -> None:
        """These records have until then."""
        if first == 0 and count >= h.count:
            h.longer.clear()
            h.deadline_ns = deadline_ns
        else:
            h.longer = [x for x in h.longer if not first <= x[0] < x[0] + x[1] <= first + count]
            h.longer.append((first, count, deadline_ns))
        heapq.heappush(self._deadlines, (deadline_ns, h.number))

    # -- keys -------------------------------------------------------------------------------

    def _keys_taken(self, h: HandOut, bits: int) -> None:
        order, keys = self.by_key, h.keys
        assert order is not None and keys is not None
        for index in h.indices(bits):
            key = keys[index]
            if not key:
                continue
            state = order.keys.get((h.stream, key))
            if state is None:
                continue
            state.out -= 1
            if state.out <= 0:
                state.out = 0
                state.member = None
                if state.failed or state.held or state.released:
                    self._release_keys(h.stream, (key,))
                else:
                    del order.keys[h.stream, key]

    def _release_keys(self, stream: int, keys: Iterable[bytes]) -> None:
        """Nothing of these keys may be in flight any more: what waited for that can go."""
        order = self.by_key
        if order is None:
            return
        for key in keys:
            state = order.keys.get((stream, key))
            if state is None:
                continue
            if state.failed and not state.out and (stream, state.failed[0]) in self._blocked:
                self._blocked.discard((stream, state.failed[0]))
                mark = self.state.marks.get((stream, state.failed[0]))
                self._push_again(stream, state.failed[0], mark.priority if mark else 0)
            for offset in order.release(stream, key):
                self._push_again(stream, offset, 0)

    def _revoke_later(self, stream: int, key: bytes, offset: int) -> None:
        """A record of the key failed: what follows it and is in a member's hands comes back."""
        order = self.by_key
        state = order.keys.get((stream, key)) if order is not None else None
        if state is None or not state.out or state.member is None:
            return
        for h in list(state.member.hand_outs.values()):
            if h.stream != stream or h.keys is None:
                continue
            bits = 0
            for index in h.indices(h.left):
                if h.keys[index] == key and h.offset_of(index) > offset:
                    bits |= 1 << index
            if bits:
                self.revoke(h, bits)
                self.give_back(h, bits, False)

    def gone(self, stream: int, offset: int, mark: Mark | None) -> None:
        """A marked record is settled for good: its key goes on."""
        if self.by_key is not None and mark is not None and mark.key:
            self.by_key.unfail(stream, mark.key, offset)
            self._release_keys(stream, (mark.key,))

    # -- members ----------------------------------------------------------------------------

    def adopt(self, member: Member, h: HandOut) -> None:
        """A member that comes back goes on with what it holds."""
        for index in h.indices(h.left):
            offset = h.offset_of(index)
            self.adopted.add((h.stream, offset))
            self._again_set.discard((h.stream, offset))
            self._suspects.discard((h.stream, offset))
        self._version += 1
        self._hold(h)

    def move(self, h: HandOut, member: Member, now_ns: int) -> None:
        """A member came back in another session: its hand-out goes on."""
        n, old = h.left.bit_count(), h.member
        old.hand_outs.pop(h.number, None)
        h.member = member
        h.deadline_ns = now_ns + member.ack_timeout_ns
        h.longer.clear()
        member.hand_outs[h.number] = h
        member.in_flight += n
        member.in_flight_bytes += n * h.record_bytes
        heapq.heappush(self._deadlines, (h.deadline_ns, h.number))
        if h.keys is not None and self.by_key is not None:
            for index in h.indices(h.left):
                state = self.by_key.keys.get((h.stream, h.keys[index]))
                if state is not None and state.member is old:
                    state.member = member

    def may_adopt(self, stream: int, offset: int, attempt: int) -> bool:
        """Whether a record can still be that of a hand-out of an earlier session."""
        if (stream, offset) in self.adopted:
            return False
        mark = self.state.marks.get((stream, offset))
        if mark is not None:
            return mark.attempts == attempt - 1 and not mark.flags & REJECTED
        return offset not in self.state.settled(stream) and not any(
            h.stream == stream and o == offset
            for h in self.hand_outs.values()
            for o in map(h.offset_of, h.indices(h.left))
        )

    # -- what people ask --------------------------------------------------------------------

    def cancel(self, stream: int, offset: int) -> bool:
        """Settle a record nobody works on; whether it was there."""
        if not self._is_waiting(stream, offset):
            return False
        mark = self.state.marks.get((stream, offset))
        if mark is not None:
            self.retrying -= (stream, offset) not in self._again_set
        elif self._is_delayed(stream, offset):
            self.delayed -= 1
        else:
            self._lift_at(stream, offset)
        self._again_set.discard((stream, offset))
        self.settle_run(stream, offset, 1, mark is not None)
        self._version += 1
        self.gone(stream, offset, mark)
        return True

    def reschedule(self, stream: int, offset: int, due_ms: int) -> bool:
        """Give a record that waits another time; whether it was there."""
        if not self._is_waiting(stream, offset):
            return False
        old = self.state.marks.get((stream, offset))
        if old is not None:
            self.retrying -= (stream, offset) not in self._again_set
        elif self._is_delayed(stream, offset):
            self.delayed -= 1
        else:
            self._lift_at(stream, offset)
        self._again_set.discard((stream, offset))
        priority = old.priority if old else 0
        mark = (old or Mark(0, 0))._replace(due_ms=due_ms, flags=MOVED, priority=priority)
        self.set_mark(stream, offset, mark)
        self.retrying += 1
        self.schedule.add(due_ms, stream, offset, priority)
        self._version += 1
        return True

    def _is_waiting(self, stream: int, offset: int) -> bool:
        topic = self.topics.by_stream.get(stream)
        if topic is None or not topic.first_offset <= offset < topic.synced_offset:
            return False
        mark = self.state.marks.get((stream, offset))
        if mark is not None and (mark.flags & REJECTED or self.undertaker.has(stream, offset)):
            return False
        if mark is None and offset in self.state.settled(stream):
            return False
        return not any(
            h.stream == stream and o == offset
            for h in self.hand_outs.values()
            for o in map(h.offset_of, h.indices(h.left))
        )

    def _is_delayed(self, stream: int, offset: int) -> bool:
        delayed = next((s for s in self.sources if s.index == DELAYED), None)
        return (
            delayed is not None
            and stream in delayed.streams
            and (stream, offset) not in self._again_set
        )

    def _lift_at(self, stream: int, offset: int) -> None:
        """A record leaves the trail of its source, if it was read."""
        for source in self.sources:
            for (s, base), entry in source.trail.items():
                if s == stream and base <= offset < source.seen.get(stream, 0):
                    if offset - base < limits.BATCH_RECORDS_MAX and self._holds(
                        source, s, base, offset
                    ):
                        self.lift(entry, 1)
                        return

    @staticmethod
    def _holds(source: Source, stream: int, base: int, offset: int) -> bool:
        """Whether no later batch of the trail begins at or before ``offset``."""
        return not any(s == stream and base < b <= offset for s, b in source.trail)

    def forget_stream(self, stream: int) -> None:
        """A topic was deleted."""
        for h in [h for h in self.hand_outs.values() if h.stream == stream]:
            self.revoke(h, h.left)
            self._let_go(h, h.left)
        for key in [k for k in self.state.marks if k[0] == stream]:
            if self.undertaker.has(*key):
                self.undertaker.drop(*key)
            else:
                self.retrying -= key not in self._again_set
            del self.state.marks[key]
        self._again_set = {k for k in self._again_set if k[0] != stream}
        for source in self.sources:
            for place in [p for p in source.trail if p[0] == stream]:
                del source.trail[place]
            source.seen.pop(stream, None)
        if self.by_key is not None:
            self.by_key.forget_offsets(stream, 1 << 63)
        self.state.streams.pop(stream, None)
        self._version += 1
        self.recount()
        self.wake()

    def recount(self) -> None:
        """Count what is not settled, from the state and the topics."""
        streams = {s for source in self.sources for s in self.feed.streams_of(source)}
        total = 0
        for stream in streams:
            topic = self.topics.by_stream[stream]
            total += self._open_records(stream, topic.first_offset, topic.synced_offset)
        total += len(self.state.marks)
        if self.backlog:
            self.backlog_bytes *= total / self.backlog
        self.backlog = total

    def _open_records(self, stream: int, first: int, end: int) -> int:
        """Records from ``first`` to ``end`` that reading would bring."""
        settled = self.state.streams.get(stream)
        if settled is None:
            return max(0, end - first)
        return max(0, end - max(first, settled.floor) - settled.above)

    def on_trim(self, stream: int, before: int) -> None:
        """Records before an offset are gone from the log."""
        settled = self.state.settled(stream)
        if settled.floor < before:
            self.pass_over(stream, settled.floor, before - settled.floor)
            self._version += 1
        for key in [k for k in self.state.marks if k[0] == stream and k[1] < before]:
            if not self.undertaker.has(*key):
                self.retrying -= key not in self._again_set
                self._again_set.discard(key)
                self.forget(*key)
        if self.by_key is not None:
            self.by_key.forget_offsets(stream, before)

    def purge(self) -> int:
        """Settle everything that is not in a member's hands; return how many records."""
        held = {
            (h.stream, offset)
            for h in self.hand_outs.values()
            for offset in map(h.offset_of, h.indices(h.left))
        }
        before = self.backlog
        for key in [k for k in self.state.marks if k not in held]:
            self.settle_run(*key, 1, True)
        for source in self.sources:
            for stream in self.feed.streams_of(source):
                topic = self.topics.by_stream[stream]
                begin = max(self.state.settled(stream).floor, topic.first_offset)
                mine = sorted(o for s, o in held if s == stream and o not in self.state.settled(s))
                for offset in [*mine, topic.synced_offset]:
                    if offset > begin:
                        self.settle_run(stream, begin, offset - begin)
                    begin = offset + 1
            for entry in source.trail.values():
                entry.left = 0
        for h in self.hand_outs.values():
            if h.entry is not None and not h.marked:
                h.entry.left += h.left.bit_count()
        self.schedule.clear()
        self._again_set.clear()
        self._blocked.clear()
        self.undertaker.clear()
        self.delayed = self.retrying = 0
        if self.by_key is not None:
            for state in self.by_key.keys.values():
                state.held = array("Q")
                state.failed.clear()
                state.released = 0
            self.by_key.held = 0
        self._version += 1
        self.wake()
        return before - self.backlog

    def clear(self) -> None:
        """Forget what was read and what waits, for a seek or a purge; hand-outs are taken back."""
        for h in list(self.hand_outs.values()):
            self.revoke(h, h.left)
            self._let_go(h, h.left)
        self.ready.clear()
        self._again.clear()
        self._again_set.clear()
        self._suspects.clear()
        self._blocked.clear()
        self.schedule.clear()
        self.undertaker.clear()
        self.adopted.clear()
        self._deadlines.clear()
        self.delayed = self.retrying = 0
        if self.by_key is not None:
            self.by_key.clear()
        self._fetcher.reading = 0
        for source in self.sources:
            source.trail.clear()
            source.seen.clear()
            source.ready_bytes = 0
            source.suspect_until = (0, 0)
            source.suspect_records = 0
        self._version += 1
        self.wake()


def _sum(runs: Iterable[tuple[int, int]]) -> int:
    return sum([n for _, n in runs])


def _end(run: tuple[int, int]) -> int:
    return run[0] + run[1]
