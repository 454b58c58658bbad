"""What waits in a group: what its sources read next, what is due again, what is held back.

Data: ``sources`` read the log; what they bring waits in ``ready``; ``schedule`` holds what waits
for its time; ``_again`` are records that are handed out by their offset: what failed and is due,
what was given back, what a key held back. Their batches are fetched from the log, one read at a
time.

Waiting costs no memory but for one batch a source (up to GROUP_READY_BYTES_MAX while members wait),
and a few bytes for each record that failed, was given back or is held.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.batches import BatchTools, Options
from meshmq.core.dead_letters import Undertaker
from meshmq.core.doubts import Doubts
from meshmq.core.feed import Feed, Reader
from meshmq.core.group_journal import Journaling
from meshmq.core.hand_out import Entry, HandOut, Member, Ready, Source
from meshmq.core.journal import KEY, MOVED, QUEUE, REJECTED, SUSPECT, GroupState, Mark
from meshmq.core.key_order import KeyOrder
from meshmq.core.log import StoredBatch
from meshmq.core.runs import records_in, runs_of
from meshmq.core.schedule import Schedule
from meshmq.core.topics import Topics
from meshmq.frames import SettleRow
from meshmq.names import lane_of, retries_of

if TYPE_CHECKING:
    from meshmq.core.group import Group

DELAYED, RETRY = 10, 11
DUE_A_TURN = 4096  # records that come due at once: others' turns come in between
AGAIN_MAX = 50_000  # records to be handed out by their offset; what is due beyond waits on
KEY_READY_SHARE = 4  # so many times more is read ahead where keys bind records to members
FETCHES = 8  # reads of such records at a time
RUN_MAX = 1024  # records fetched in one read ...
RUN_GAP = 8  # ... of which each is at most so many offsets behind the one before


@dataclass(slots=True)
class Shared:
    """What all groups of a node have in common.

    Attributes:
        number: gives the next hand-out's number.
        woken, changed: groups that have something to do, or to tell the journal.
        denied: groups of which a member's link may not be sent more for now.
        admission: says whether the disk has room.
        doubts: says which records another node may have as well.
        cramped: groups that wait for that.
        moving_bytes: records moved in this turn.
        revoked: (member, rows) to tell.
        wall_offset_ns: unix time minus the machines' time.
        now_ns: time of the event at hand.
    """

    origin: bytes
    entropy: random.Random
    number: Callable[[], int]
    admission: Admission
    doubts: Doubts
    woken: set[Group] = field(default_factory=set)
    changed: set[Group] = field(default_factory=set)
    denied: set[Group] = field(default_factory=set)
    cramped: set[Group] = field(default_factory=set)
    moving_bytes: int = 0
    revoked: list[tuple[Member, tuple[SettleRow, ...]]] = field(default_factory=list)
    wall_offset_ns: int = 0
    now_ns: int = 0

    @property
    def wall_now_ms(self) -> int:
        return (self.now_ns + self.wall_offset_ns) // limits.MS


class _Fetcher(Reader):
    """Brings the batches of records that are handed out by their offset."""

    __slots__ = ("owner", "pushes", "run")

    def __init__(self, owner: Waiting) -> None:
        super().__init__("", 1 << 62, 1 << 62, is_live=True, is_patient=True)
        self.owner = owner
        self.run: list[tuple[int, int]] = []
        self.pushes = 0

    def needs(self, batch: StoredBatch) -> bool:
        return bool(self.owner.wanted_of(self, batch))

    def take(self, batches: list[StoredBatch]) -> None:
        self.owner.on_fetched(self, batches)

    def read_done(self) -> None:
        self.owner.on_fetch_done(self)


class Waiting(Journaling):
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
        super().__init__(state, shared.woken, shared.changed)
        self.topics = topics
        self.feed = feed
        self.tools = tools
        self.shared = shared
        self.origin = shared.origin
        self.started_lsn = feed.committed_lsn
        self.started_ms = 0  # when the node was started (unix ms), if this is older
        self.is_placed = True  # whether it is known where to read
        self.due_ns = 0  # when ``tick`` is due, as the owner knows it
        self.members: dict[tuple[bytes, int], Member] = {}
        self.hand_outs: dict[int, HandOut] = {}
        self.ready: dict[tuple[int, bool], deque[Ready]] = {}  # by -priority, whether it is fresh
        self.by_key = KeyOrder() if self.settings.order == KEY else None
        self.schedule = Schedule()
        self.undertaker = Undertaker(self)
        self.adopted: set[tuple[int, int]] = set()
        # Adopted before their source read or their time found them: they are handed out by their
        # offset from then on, whatever became of the adoption.
        self._unread: set[tuple[int, int]] = set()
        self._undue: set[tuple[int, int]] = set()
        self.grace_until_ns = 0
        self._again: list[tuple[int, int, int]] = []  # (-priority, stream, offset)
        self._again_set: dict[tuple[int, int], int] = {}  # with the number of the push
        self._pushes = 0
        self._suspects: set[tuple[int, int]] = set()
        self._blocked: set[tuple[int, int]] = set()  # failed and due, but their key is in flight
        self._early: dict[int, list[int]] = {}  # by stream: due before the walk has come to them
        self._owed: dict[int, int] = {}  # by stream: the highest of those that were in hands once
        self._has_caught_up = False
        count = 1 if self.by_key is not None else FETCHES
        self._fetchers = [_Fetcher(self) for _ in range(count)]
        self._deadlines: list[tuple[int, int]] = []
        self._version = 0
        self._tokens = 0.0
        self._tokens_at_ns = 0
        self._is_short = False  # records wait for nothing but the group's rate
        self.in_flight = 0
        self.delayed = 0
        self.waits: set[tuple[int, int]] = set()  # records with a mark that wait for their time
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
            source = Source(pattern, 1, 1 << 62, owner=self, index=index, is_patient=True)
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
            self.waits.add((stream, offset))
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
        for reader in (*self.sources, *self._fetchers, self.undertaker):
            self.feed.remove_reader(reader)

    def wall_ms(self, now_ns: int) -> int:
        return (now_ns + self.shared.wall_offset_ns) // limits.MS

    def _take_due(self, now_ns: int) -> None:
        """What waited for its time joins what is to be handed out, bounded."""
        most = min(DUE_A_TURN, AGAIN_MAX - len(self._again))
        if most > 0:
            for row in self.schedule.pop_due(self.wall_ms(now_ns), most):
                self._on_due(*row)

    def _on_due(self, due_ms: int, stream: int, offset: int, priority: int) -> None:
        mark = self.state.marks.get((stream, offset))
        if (stream, offset) in self._undue and (mark is None or mark.due_ms != due_ms):
            self._undue.discard((stream, offset))
            return
        if mark is not None:
            if mark.due_ms != due_ms or mark.flags & REJECTED or (stream, offset) in self.adopted:
                return
            is_moved = bool(mark.flags & MOVED)
            if (stream, offset) not in self.waits:
                return  # it was given this time twice
            if is_moved and offset in self._early.get(stream, ()):
                return
            if (mark.key or is_moved) and offset >= self._walked_to(stream, is_moved):
                heapq.heappush(self._early.setdefault(stream, []), offset)
                if mark.key:
                    self._owed[stream] = max(self._owed.get(stream, 0), offset)
                return
            self.waits.discard((stream, offset))
        elif not self._is_delayed_lane(stream) or offset in self.state.settled(stream):
            return  # cancelled, moved to another time, or its topic was deleted
        else:
            self.delayed -= 1
        self._push_again(stream, offset, priority)

    @property
    def retrying(self) -> int:
        """Failed or moved records that wait for their time."""
        return len(self.waits)

    def _is_delayed_lane(self, stream: int) -> bool:
        """Whether jobs in it wait for their time."""
        delayed = self.sources[-1]
        return delayed.index == DELAYED and stream in self.feed.streams_of(delayed)

    def _is_due(self, stream: int, offset: int) -> bool:
        """Whether a record has left the schedule: it is looked for, ready, held or in hands."""
        if (stream, offset) in self._again_set or (stream, offset) in self._blocked:
            return True
        for queue in self.ready.values():
            for ready in queue:
                if ready.is_fetched and ready.batch.stream == stream:
                    index = offset - ready.batch.base_offset
                    if any(i <= index < i + n for i, n in ready.runs):
                        return True
        if self.by_key is not None and self.by_key.holds(stream, offset):
            return True
        return self._is_in_hands(stream, offset) or bool(self._waiting_at(stream, offset))

    def _is_delayed(self, stream: int, offset: int) -> bool:
        """Whether ``delayed`` counts a record that has no mark and is not settled."""
        return (
            self._is_delayed_lane(stream)
            and offset < self.sources[-1].seen.get(stream, 0)
            and (stream, offset) not in self._undue
            and not self._is_due(stream, offset)
        )

    def _waiting_at(self, stream: int, offset: int) -> list[Member]:
        """The member at which a record waits for room."""
        return [
            member
            for member in self.members.values()
            if any(
                r.batch.stream == stream and offset - r.batch.base_offset in indices
                for r, indices, _ in member.pending
            )
        ]

    def _is_in_hands(self, stream: int, offset: int) -> bool:
        return any(h.has(stream, offset) for h in self.hand_outs.values())

    def _walked_to(self, stream: int, is_moved: bool = False) -> int:
        """In a group in order of keys, up to where the log was walked since the node's start:
        beyond that, older records of a failed one's key may be found yet, which go before it.
        Of a job that was moved, older ones may be found at any time."""
        if self.by_key is None or (self._has_caught_up and not is_moved):
            return 1 << 62
        start = self.started_lsn
        fresh = [r for place, queue in self.ready.items() if place[1] for r in queue if r.runs]
        read = all(s.is_live or s.lsn > start for s in self.sources if s.index != DELAYED)
        self._has_caught_up = read and not any(r.batch.lsn <= start for r in fresh)
        for ready in fresh:
            if ready.batch.stream == stream:
                return ready.batch.base_offset + ready.runs[0][0]
        for source in self.sources:
            is_read = source.is_live if is_moved else read
            if stream in source.streams and source.index != DELAYED and not is_read:
                return source.seen.get(stream, 0)
        return 1 << 62

    def _push_early(self) -> None:
        """Failed or moved records that were due and waited until the log was walked so far."""
        for stream in list(self._early):
            end = self._walked_to(stream, True)
            heap = self._early[stream]
            while heap and heap[0] < end:
                offset = heapq.heappop(heap)
                mark = self.state.marks.get((stream, offset))
                if (stream, offset) not in self.waits:
                    continue
                if mark is not None and mark.due_ms <= self.shared.wall_now_ms:
                    self.waits.discard((stream, offset))
                    self._push_again(stream, offset, mark.priority)
            if not heap:
                del self._early[stream]
                self._owed.pop(stream, None)

    def feed_sources(self) -> None:
        """Read where there is room: one batch ahead, or more while members wait for it."""
        ahead = limits.GROUP_READY_BYTES_MAX if self.members else 1
        if self.by_key is not None and self.members:
            ahead *= KEY_READY_SHARE
        if (self.is_stopped and not self.is_catching_up) or not self.is_placed:
            for source in self.sources:
                source.credit_bytes = 0
            return
        for source in self.sources:
            room = ahead - source.ready_bytes
            if source.index == DELAYED:  # all of it, a part at a time
                room = limits.GROUP_READ_BYTES_MAX // 2
            if room > 0:
                source.credit_bytes = room
                self.feed.feed(source)

    @property
    def is_stopped(self) -> bool:
        """Whether so much is held back by keys, or has failed and waits, that reading waits."""
        held = self.by_key.held if self.by_key is not None else 0
        marks = len(self.state.marks)
        if self._early:  # these wait for reading to go on
            marks -= sum(map(len, self._early.values()))
        return max(held, marks) >= self.settings.max_held

    @property
    def is_catching_up(self) -> bool:
        """Whether the log is walked however much is held: up to records that were in hands before
        the node's start and are due. An earlier life had walked as far and held no more, and older
        ones of their keys go first."""
        owed = self._owed.items()
        return any(offset >= self._walked_to(stream) for stream, offset in owed)

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
        total = records_in(runs)
        if self._unread:
            runs = self._without(self._unread, stream, runs)
            for offset in range(base, base + count):
                self._unread.discard((stream, offset))
        if not total:
            return
        options = self.tools.options(b.payload) if self.settings.kind == QUEUE else None
        if b.damaged:
            for first, n in runs:
                self.settle_run(stream, first, n)
            self.damaged += records_in(runs)
            return
        priority = options.priority if options else 0
        if options and source.index == DELAYED:
            for first, n in runs:
                self.schedule.add_run(options.due_ms, stream, first, n, priority)
            self.delayed += records_in(runs)
            return
        priority = max(priority, source.index if source.index < DELAYED else 0)
        entry = source.trail[stream, base] = Entry(
            b.lsn, b.slot, total, count, b.append_time_ns // limits.MS
        )
        if records_in(runs) < total:
            for h in self.hand_outs.values():
                if h.entry is None and not h.marked and self._is_of(h, stream, base, count):
                    h.entry = entry
            for queue in self.ready.values():
                for r in queue:
                    place = (r.batch.stream, r.batch.base_offset)
                    if r.entry is None and not r.marked and place == (stream, base):
                        r.entry = entry
        if not runs:
            return
        ready = Ready(
            b, self.topics.by_stream[stream].entry.name,
            deque([(first - base, n) for first, n in runs]), priority, entry, source,
            suspect=self._is_suspect(source, b, records_in(runs)), version=self._version,
            expires_ms=options.expires_ms if options else 0,
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

    @staticmethod
    def _without(
        out: set[tuple[int, int]], stream: int, runs: Iterable[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        offsets = [o for first, n in runs for o in range(first, first + n)]
        return runs_of([o for o in offsets if (stream, o) not in out])

    def _queue(self, ready: Ready) -> None:
        # What was fetched goes before what is read now: it has waited longer.
        place = (-ready.priority, not ready.is_fetched)
        queue = self.ready.get(place)
        if queue is None:
            queue = self.ready[place] = deque()
        queue.append(ready)

    def _look_again(self, ready: Ready) -> None:
        """Drop what was cancelled or adopted since it was read."""
        b = ready.batch
        ready.version = self._version
        kept: deque[tuple[int, int]] = deque()
        for index, n in ready.runs:
            first = b.base_offset + index
            if ready.marked:
                # One that was given another time meanwhile comes again by that.
                now_ms, marks = self.shared.wall_now_ms, self.state.marks
                found = [(o, marks.get((b.stream, o))) for o in range(first, first + n)]
                runs = [(o, 1) for o, mark in found if mark is not None and mark.due_ms <= now_ms]
            else:
                runs = self.state.settled(b.stream).missing(first, n)
                if ready.is_fetched and records_in(runs) < n:
                    for o in range(first, first + n):
                        if o in self.state.settled(b.stream):
                            self.leave_key(b.stream, o)
            kept += [(o - b.base_offset, c) for o, c in self._without(self.adopted, b.stream, runs)]
        ready.runs = kept

    def _used_up(self, ready: Ready) -> None:
        queue = self.ready[-ready.priority, not ready.is_fetched]
        assert queue[0] is ready
        queue.popleft()
        self._unpin(ready, 0)

    def _unpin(self, ready: Ready, pins: int) -> None:
        """One member less has some of it pending (or none had): nobody may need its bytes now."""
        ready.pins -= pins
        if ready.source is not None and not ready.pins and not ready.runs:
            ready.source.ready_bytes -= len(ready.batch.payload)
            ready.source = None

    def hold_back(self, order: KeyOrder, ready: Ready, index: int, key: bytes) -> None:
        """What waited for room at a member is its key's again, whoever gets that."""
        stream, offset = ready.batch.stream, ready.batch.base_offset + index
        order.of(stream).unbind((key,))
        if offset in self.state.settled(stream):
            return  # retention took it meanwhile
        order.hold(stream, key, offset)
        if ready.suspect:
            self._suspects.add((stream, offset))

    def _keys_of(self, ready: Ready) -> Sequence[bytes] | None:
        """The key of each record of its batch; None if none has one."""
        if ready.keys is None:
            ready.keys = self.tools.keys(ready.batch.payload, ready.batch.count)
        return ready.keys or None

    def drop_pending(self, member: Member) -> None:
        """What waited for room at a member is held back by its keys again."""
        order = self.by_key
        if order is None:
            return
        freed: dict[tuple[int, bytes], None] = {}
        for ready, indices, _ in member.pending:
            keys = self._keys_of(ready)
            assert keys is not None
            for i in indices:
                self.hold_back(order, ready, i, keys[i])
                freed[ready.batch.stream, keys[i]] = None
            self._unpin(ready, 1)
        member.pending.clear()
        member.pending_count = 0
        for stream, key in freed:
            self._release_keys(stream, (key,))
        self.wake()

    def _push_again(self, stream: int, offset: int, priority: int) -> None:
        if (stream, offset) not in self._again_set:
            self._pushes += 1
            self._again_set[stream, offset] = self._pushes
            heapq.heappush(self._again, (-priority, stream, offset))
            self.wake()

    def _fetch_again(self) -> None:
        """Read batches of records that are to be handed out by their offset, the first ones
        first; by key one read at a time, since each must see what the one before brought."""
        for fetcher in self._fetchers:
            if not fetcher.reading:
                run = self._pop_run()
                if not run:
                    return
                fetcher.run = run
                fetcher.pushes = self._pushes
                size = 1  # its own batch, however large
                if len(run) > 1:
                    span = run[-1][1] - run[0][1] + 1
                    each = self.backlog_bytes / self.backlog if self.backlog else 0
                    size = min(limits.GROUP_READ_BYTES_MAX, int(span * each) + 1)
                self.feed.fetch(fetcher, *run[0], size)

    def _pop_run(self) -> list[tuple[int, int]]:
        """The first records that are still wanted, taken off the heap: one, or as many as lie
        close together in the log, for one read."""
        run: list[tuple[int, int]] = []
        again, wanted = self._again, self._again_set
        while again and len(run) < RUN_MAX:
            _, stream, offset = again[0]
            if run and (stream != run[-1][0] or offset - run[-1][1] > RUN_GAP):
                break
            heapq.heappop(again)
            if (stream, offset) not in wanted:
                continue
            topic = self.topics.by_stream.get(stream)
            if topic is not None and offset >= topic.first_offset:
                run.append((stream, offset))
                continue
            del wanted[stream, offset]
            self.forget(stream, offset)
        return run

    def wanted_of(self, fetcher: _Fetcher, b: StoredBatch) -> list[int]:
        """Offsets that are to be handed out again."""
        # What was pushed since the read was ordered may come after others of its key.
        again, most = self._again_set, fetcher.pushes
        offsets = range(b.base_offset, b.base_offset + b.count)
        return [o for o in offsets if again.get((b.stream, o), most + 1) <= most]

    def on_fetched(self, fetcher: _Fetcher, batches: list[StoredBatch]) -> None:
        """What ``_fetch_again`` asked for; it may hold more of what is wanted."""
        for b in batches:
            stream = b.stream
            wanted = self.wanted_of(fetcher, b)
            for offset in wanted:
                del self._again_set[stream, offset]
            if b.damaged:
                for offset in wanted:
                    self.forget(stream, offset)
                    self.damaged += 1
            elif wanted:
                self._queue_again(b, wanted)
        self.wake()

    def on_fetch_done(self, fetcher: _Fetcher) -> None:
        """The first record asked for is no longer in the log if it did not come; what else was
        to come with it is asked for again."""
        for i, key in enumerate(fetcher.run):
            serial = self._again_set.get(key)
            if serial is None or serial > fetcher.pushes:
                continue
            if i == 0:
                del self._again_set[key]
                self.forget(*key)
            else:
                mark = self.state.marks.get(key)
                heapq.heappush(self._again, (-(mark.priority if mark else 0), *key))
        fetcher.run = []
        self.wake()

    def _queue_again(self, b: StoredBatch, offsets: list[int]) -> None:
        """Make them ready, together where they are alike; by key they stay in order."""
        options = self.tools.options(b.payload) if self.settings.kind == QUEUE else None
        expires_ms = options.expires_ms if options else 0
        name = self.topics.by_stream[b.stream].entry.name
        alike: dict[tuple[int, bool, bool, int, int], list[int]] = {}
        last, parts = (0, False, False, 0), 0
        for offset in offsets:
            key = (b.stream, offset)
            if key in self.adopted:
                continue
            mark = self.state.marks.get(key)
            if mark is None and offset in self.state.settled(b.stream):
                self.leave_key(b.stream, offset)
                self._suspects.discard(key)
                continue
            attempt = 1 + (mark.attempts if mark else 0)
            suspect = key in self._suspects or self._was_due(b, mark, options)
            priority = mark.priority if mark else options.priority if options else 0
            kind = (attempt, mark is not None, suspect, priority)
            if self.by_key is not None and kind != last:
                last, parts = kind, parts + 1
            alike.setdefault((*kind, parts), []).append(offset)
        entry = self._entry_of(b.stream, b.base_offset)
        for (attempt, marked, suspect, priority, _), some in alike.items():
            runs = deque(runs_of([offset - b.base_offset for offset in some]))
            ready = Ready(
                b, name, runs, priority, None if marked else entry, None, attempt, marked, suspect,
                self._version, is_fetched=True, expires_ms=expires_ms,
            )  # fmt: skip
            self._queue(ready)

    def _was_due(self, b: StoredBatch, mark: Mark | None, options: Options | None) -> bool:
        """Whether an earlier life of the node may have handed out what waited for its time."""
        due_ms = options.due_ms if options is not None else 0
        if mark is not None:
            if mark.due_ms <= self.started_ms:
                return True
            # Before it got another time it may have been in somebody's hands.
            is_moved = bool(mark.flags & MOVED)
            return is_moved and b.lsn <= self.started_lsn and due_ms <= self.started_ms
        return b.lsn <= self.started_lsn and 0 < due_ms <= self.started_ms

    def _entry_of(self, stream: int, base: int) -> Entry | None:
        for source in self.sources:
            entry = source.trail.get((stream, base))
            if entry is not None:
                return entry
        return None

    @staticmethod
    def _is_of(h: HandOut, stream: int, base: int, count: int) -> bool:
        """Whether a hand-out is of this batch."""
        return h.stream == stream and base <= h.first < base + count

    def recount_trail(self, stream: int) -> None:
        """Records were settled that nobody lifted: count again what reading would find."""
        settled = self.state.settled(stream)
        for source in self.sources:
            for (at, base), entry in source.trail.items():
                if at == stream and entry.left:
                    entry.left = records_in(settled.missing(base, entry.count))

    def _release_keys(self, stream: int, keys: Iterable[bytes]) -> None:
        """Nothing of these keys may be in flight any more: what waited for that can go."""
        order = self.by_key
        if order is None:
            return
        books = order.of(stream)
        for key in keys:
            state = books.held_up.get(key)
            if state is None:
                continue
            for offset in order.release(stream, key):
                self._push_again(stream, offset, 0)
            if state.failed and not (key in books.bound or state.released):
                first = (stream, state.failed[0])
                if first in self._blocked:
                    self._blocked.discard(first)
                    mark = self.state.marks.get(first)
                    self._push_again(*first, mark.priority if mark else 0)

    def gone(self, stream: int, offset: int, mark: Mark | None) -> None:
        """A record is settled for good: its key goes on."""
        self.waits.discard((stream, offset))
        self._suspects.discard((stream, offset))
        if self.by_key is not None and mark is not None and mark.key:
            self.by_key.unfail(stream, mark.key, offset)
            self._release_keys(stream, (mark.key,))
        key = self.by_key.arrived(stream, offset) if self.by_key is not None else b""
        if key:
            self._release_keys(stream, (key,))

    def leave_key(self, stream: int, offset: int) -> None:
        """A record is settled, or gets another time: what its key holds behind it can go."""
        key = self.by_key.leave(stream, offset) if self.by_key is not None else b""
        if key:
            self._release_keys(stream, (key,))
