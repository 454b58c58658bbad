"""One group or queue of a node: what waits, who has what, what becomes of it.

A Group is made of layers, each in a module of its own: what is journaled of it
(group_journal.Journaling), what waits (group_waiting.Waiting), what is in members' hands
(group_hands.Hands), and here what people ask of it: cancel, reschedule, purge, seek.

Rules:
1. A record is in one place: unread, ready, in a member's hands, waiting for its time (a mark, or a
   delayed job), held back by its key, on its way to the dead letters, or settled.
2. Only what is synced is handed out. What changes is journaled with the next commit; a member is
   told that its acks are stored after that.

It knows nothing of frames' order or links' ends: core/groups.py brings what members say.
"""

from __future__ import annotations

from collections import deque

from meshmq.core.group_hands import Hands
from meshmq.core.journal import MOVED, REJECTED, SUSPECT, Mark
from meshmq.core.runs import runs_of
from meshmq.frames_site_words import HandedRun


class Group(Hands):
    """See the module's header."""

    def cancel(self, stream: int, offset: int) -> bool:
        """Settle a record nobody works on; whether it was there."""
        if not self._is_waiting(stream, offset):
            return False
        self._take_from_pending(stream, offset)
        mark = self.state.marks.get((stream, offset))
        if mark is None and self._is_delayed(stream, offset):
            self.delayed -= 1
        self._again_set.pop((stream, offset), None)
        self._suspects.discard((stream, offset))
        self.settle_run(stream, offset, 1, mark is not None)
        self.recount_trail(stream)
        self._version += 1
        self.gone(stream, offset, mark)
        self.leave_key(stream, offset)
        return True

    def reschedule(self, stream: int, offset: int, due_ms: int) -> bool:
        """Give a record that waits another time; whether it was there."""
        if not self._is_waiting(stream, offset):
            return False
        self._take_from_pending(stream, offset)
        old = self.state.marks.get((stream, offset))
        if old is None and self._is_delayed(stream, offset):
            self.delayed -= 1
        self._again_set.pop((stream, offset), None)
        self._take_from_ready(stream, offset)
        priority = old.priority if old else 0
        mark = (old or Mark(0, 0))._replace(due_ms=due_ms, flags=MOVED, priority=priority)
        self.set_mark(stream, offset, mark)
        self.recount_trail(stream)
        self.leave_key(stream, offset)
        self.waits.add((stream, offset))
        self.schedule.add(due_ms, stream, offset, priority)
        self._version += 1
        return True

    def on_clock_back(self, now_ms: int, is_start: bool) -> None:
        """The clock may have been set back: what failed, as it seems, later than now waits as long
        as it was to wait then, from now on. A time that somebody has given stays as it is."""
        for (stream, offset), mark in self.state.marks.items():
            if mark.last_ms <= now_ms or mark.flags & MOVED or (stream, offset) not in self.waits:
                continue
            if offset in self._early.get(stream, ()):
                continue  # its time has come
            due_ms = now_ms + max(0, mark.due_ms - mark.last_ms)
            # Not journaled: a restart finds the same, and a clock that is set right needs none.
            self.state.marks[stream, offset] = mark._replace(due_ms=due_ms, last_ms=now_ms)
            self.schedule.add(due_ms, stream, offset, mark.priority)
            if is_start:  # an earlier life may have handed it out, whatever its time says
                self._suspects.add((stream, offset))

    def _is_waiting(self, stream: int, offset: int) -> bool:
        topic = self.topics.by_stream.get(stream)
        if topic is None or not topic.first_offset <= offset < topic.synced_offset:
            return False
        mark = self.state.marks.get((stream, offset))
        if mark is not None and (mark.flags & REJECTED or self.undertaker.has(stream, offset)):
            return False
        if mark is None and offset in self.state.settled(stream):
            return False
        return not self._is_in_hands(stream, offset)

    def _take_from_pending(self, stream: int, offset: int) -> None:
        """What waits for room at the same member as this record waits by its key again."""
        for member in self._waiting_at(stream, offset):
            self.drop_pending(member)

    def _take_from_ready(self, stream: int, offset: int) -> None:
        """What was fetched of it is not handed out."""
        for ready in [r for queue in self.ready.values() for r in queue if r.is_fetched]:
            at = offset - ready.batch.base_offset
            if ready.batch.stream == stream and 0 <= at < ready.batch.count:
                parts: list[tuple[int, int]] = []
                for i, n in ready.runs:
                    begin = max(i, at + 1)
                    parts += [(i, min(n, at - i)), (begin, i + n - begin)]
                ready.runs = deque([part for part in parts if part[1] > 0])

    def forget_stream(self, stream: int) -> None:
        """A topic was deleted."""
        self._drop_all_pending()
        for h in [h for h in self.hand_outs.values() if h.stream == stream]:
            self.revoke(h, h.left)
            self._let_go(h, h.left)
        for key in [k for k in self.state.marks if k[0] == stream]:
            if self.undertaker.has(*key):
                self.undertaker.drop(*key)
            del self.state.marks[key]
        self.waits = {k for k in self.waits if k[0] != stream}
        for ready in [r for queue in self.ready.values() for r in queue]:
            if ready.batch.stream == stream:
                ready.runs.clear()
        self._early.pop(stream, None)
        self._owed.pop(stream, None)
        self._unread = {k for k in self._unread if k[0] != stream}
        self._blocked = {k for k in self._blocked if k[0] != stream}
        for key in [k for k in self._again_set if k[0] == stream]:
            del self._again_set[key]
        for source in self.sources:
            for place in [p for p in source.trail if p[0] == stream]:
                del source.trail[place]
            source.seen.pop(stream, None)
        if self.by_key is not None:
            self.by_key.forget_stream(stream)
        self.state.streams.pop(stream, None)
        self._version += 1
        self.recount()
        self.wake()

    def _drop_all_pending(self) -> None:
        for member in self.members.values():
            self.drop_pending(member)

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

    def note_trims(self) -> None:
        """What the log lost before the node's start, and no delta tells."""
        for stream in {s for source in self.sources for s in self.feed.streams_of(source)}:
            first = self.topics.by_stream[stream].first_offset
            if first:
                self.on_trim(stream, first)

    def on_trim(self, stream: int, before: int, first: int = 0) -> None:
        """Records before an offset are gone from the log, or from ``first`` to there others'."""
        settled, version = self.state.settled(stream), self._version
        if settled.floor < before:
            begin = max(settled.floor, first)
            self.pass_over(stream, begin, before - begin)
            self.recount_trail(stream)
            self._recount_delayed(stream)
            self._version += 1
        for key in [k for k in self.state.marks if k[0] == stream and first <= k[1] < before]:
            if not self.undertaker.has(*key):
                self._again_set.pop(key, None)
                self.forget(*key)
                self._version += 1  # it may have been fetched

        def stays(k: tuple[int, int]) -> bool:
            return k[0] != stream or not first <= k[1] < before

        self._suspects = set(filter(stays, self._suspects))
        self._unread = set(filter(stays, self._unread))
        self._blocked = set(filter(stays, self._blocked))
        if self.by_key is not None:
            self._release_keys(stream, self.by_key.forget_offsets(stream, before, first))
        if self._version != version:
            self._drop_read(stream)

    def _drop_read(self, stream: int) -> None:
        """What was read of a stream and is settled gives its room back, members or none."""
        for queue in self.ready.values():
            mine = [ready for ready in queue if ready.batch.stream == stream]
            for ready in mine:
                self._look_again(ready)
                if not ready.runs:
                    queue.remove(ready)
                    self._unpin(ready, 0)
                    self.wake()

    def _recount_delayed(self, stream: int) -> None:
        """Records were settled that may wait for their time."""
        if not self._is_delayed_lane(stream):
            return
        settled, marks = self.state.settled(stream), self.state.marks
        waiting = [(s, o) for _, s, o, _ in self.schedule if o >= settled.floor and s == stream]
        self.delayed = sum(
            [
                key not in marks and key not in self._undue and key[1] not in settled
                for key in waiting
            ]
        )

    def give_away(self, stream: int, first: int, before: int) -> None:
        """Records from one offset to before another one are another node's to hand out, and its
        dead letters; what is before ``first`` nobody else has."""
        if first >= before:
            return
        topic = self.topics.by_stream.get(stream)
        if topic is not None and self.buries_in(topic.entry.name):
            self.undertaker.leave(stream, before, first)
            if first <= self.state.settled(stream).floor:
                self.set_floor(stream, before)
            else:
                self.settle_own(stream, first, before - first)
        if not self.reads(stream):
            return
        self._drop_all_pending()
        self.undertaker.leave(stream, before, first)
        overtaken = self.overtaken
        self.on_trim(stream, before, first)
        self.overtaken = overtaken  # they are not lost
        for h in [h for h in self.hand_outs.values() if h.stream == stream]:
            bits = sum([1 << i for i in h.indices(h.left) if first <= h.offset_of(i) < before])
            if not bits:
                continue
            self.revoke(h, bits)
            self._let_go(h, bits)
            if h.keys is not None:
                self._keys_taken(h, bits)
        self.wake()

    def left_of(self, stream: int, first: int, count: int) -> list[tuple[int, int, Mark | None]]:
        """Runs (first, count) of these records that are not done, each with its mark; what is
        to become a dead letter is done."""
        settled = self.state.streams.get(stream)
        runs = [(first, count)] if settled is None else settled.missing(first, count)
        found: list[tuple[int, int, Mark | None]] = [(at, n, None) for at, n in runs]
        marks = self.state.marks
        for offset in range(first, first + count) if marks else ():
            mark = marks.get((stream, offset))
            if mark is not None and not self.undertaker.has(stream, offset):
                found.append((offset, 1, mark))
        return sorted(found, key=lambda row: row[:2])

    def undone_of(self, stream: int, first: int, count: int) -> list[tuple[int, int]]:
        """Runs (first, count) of these records that are not done, in hands or on their way to the
        dead letters as well."""
        settled = self.state.streams.get(stream)
        runs = [(first, count)] if settled is None else settled.missing(first, count)
        marked = [o for s, o in self.state.marks if s == stream and first <= o < first + count]
        return [*runs, *runs_of(sorted(marked))]

    def due_of(self, stream: int) -> dict[int, tuple[int, int]]:
        """When jobs of a lane are due that wait for their time, by offset: unix ms, priority."""
        if not self._is_delayed_lane(stream):
            return {}
        return {
            offset: (due, priority) for due, s, offset, priority in self.schedule if s == stream
        }

    def make_ready(self, run: HandedRun) -> int:
        """Records that were given away are handed out again, as ones that somebody may have worked
        on; of how many that can be."""
        stream = run.stream
        topic = self.topics.by_stream.get(stream)
        if topic is None:
            return 0
        now_ms = self.shared.wall_now_ms
        done = 0
        for offset in range(run.first, run.first + run.count):
            if not topic.first_offset <= offset < topic.synced_offset:
                continue
            done += 1
            key = (stream, offset)
            if key in self.state.marks or offset not in self.state.settled(stream):
                continue  # it was not given away
            flags = MOVED | SUSPECT
            mark = Mark(run.attempts, run.due_ms or now_ms, flags, priority=run.priority)
            self.set_mark(stream, offset, mark)
            self.waits.add(key)
            self._suspects.add(key)
            self.schedule.add(mark.due_ms, stream, offset, mark.priority)
        self._version += 1
        self.recount()
        self.wake()
        return done

    def purge(self) -> int:
        """Settle everything that is not in a member's hands; return how many records."""
        held = self.held()
        before = self.backlog
        self._drop_all_pending()
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
                self.recount_trail(stream)
        self.schedule.clear()
        self._early.clear()
        self._owed.clear()
        self._again_set.clear()
        self._suspects.clear()
        self._blocked.clear()
        self.undertaker.clear()
        self.delayed = 0
        self.waits.clear()
        if self.by_key is not None:
            self.by_key.purge()
        self._version += 1
        self.wake()
        return before - self.backlog

    def clear(self) -> None:
        """Forget what was read and what waits, for a seek or a purge; hand-outs are taken back."""
        self._drop_all_pending()
        for h in list(self.hand_outs.values()):
            self.revoke(h, h.left)
            self._let_go(h, h.left)
        self.ready.clear()
        self._again.clear()
        self._again_set.clear()
        self._suspects.clear()
        self._blocked.clear()
        self.schedule.clear()
        self._early.clear()
        self._owed.clear()
        self.undertaker.clear()
        self.adopted.clear()
        self._unread.clear()
        self._undue.clear()
        self._deadlines.clear()
        self.delayed = 0
        self.waits.clear()
        if self.by_key is not None:
            self.by_key.clear()
        for fetcher in self._fetchers:
            fetcher.reading = 0
        for source in self.sources:
            source.trail.clear()
            source.seen.clear()
            source.ready_bytes = 0
            lsn, slot = self.place_reached(source)  # somebody has worked on what comes before
            source.suspect_until = max(source.suspect_until, (lsn, slot + 1))
        self._version += 1
        self.wake()
