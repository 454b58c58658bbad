"""What members of a group have in their hands, and what becomes of it.

Rules:
1. Only what is synced is handed out, within a member's prefetch, the group's rate, and what the
   journal has room for (core/group_journal.py).
2. A hand-out's number is good for the member it was made for until its records are settled, taken
   back (time, lost session, seek) or handed to another; later words about it are refused.
"""

from __future__ import annotations

import heapq
import zlib
from array import array
from collections.abc import Iterable, Sequence

from meshmq import limits
from meshmq.core.group_waiting import AGAIN_MAX, Waiting
from meshmq.core.hand_out import HandOut, Member, Ready
from meshmq.core.journal import REJECTED, SUSPECT, Mark
from meshmq.core.key_walk import Walk
from meshmq.core.runs import of_indices, records_in, runs_of, runs_of_bits
from meshmq.frames import BACKOFF, HandOutRow, SettleRow
from meshmq.names import dead_letters_of, topic_key

EXPIRED_A_TURN = 2048  # records that are taken back at once: others' turns come in between
WHOLE_SHARE = 4  # at least one part in so many of a batch: its bytes go out whole, not cut
SPREAD_SHARE = 2  # the same for records that lie scattered in it


class Hands(Waiting):
    """See the module's header."""

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
        if self._is_short:
            due.append(self._tokens_at_ns + int((1 - self._tokens) * 1e9 / self.settings.rate) + 1)
        return min(due) if due else None

    def tick(self, now_ns: int) -> None:
        """Take back what is over its time, a part at a time; what is due can be handed out."""
        until = self.expired + EXPIRED_A_TURN
        while self._deadlines and self._deadlines[0][0] <= now_ns and self.expired < until:
            when, number = heapq.heappop(self._deadlines)
            hand_out = self.hand_outs.get(number)
            if hand_out is not None and hand_out.check_ns == when:
                self._expire(hand_out, now_ns)
        self.wake()

    def pump(self, now_ns: int) -> None:
        """Hand out what can be, within the members' room."""
        self._take_due(now_ns)
        if self._early:
            self._push_early()
        self.undertaker.pump()
        self._is_short = False
        members = self._takers()
        if not members:
            self.feed_sources()
            return
        if self.by_key is not None:
            for member in self.members.values():
                if member.pending and member.is_slow and member not in members:
                    self.drop_pending(member)  # others are asked first: its turn may never come
            for member in members:
                if member.pending:
                    self._hand_out_pending(member, self._allowed(now_ns), now_ns)
        while any(m.in_flight < m.most_records for m in members):
            if self._again:
                self._fetch_again()
            ready = self._next_ready(now_ns)
            if ready is None:
                break
            if 0 < ready.expires_ms <= self.shared.wall_now_ms:
                runs = list(ready.runs)
                ready.runs.clear()
                self._drop_expired(ready, runs)
                self._used_up(ready)
                continue
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
        if self._early:  # all that was walked may be held back: nobody would look again
            self._push_early()
        self.feed_sources()

    @property
    def prefetch_records(self) -> int:
        """Of all members."""
        return sum([m.prefetch_records for m in self.members.values()])

    def _takers(self) -> list[Member]:
        """Members that may be given something now."""
        if self.settings.paused or self.shared.admission.is_draining:
            return []
        if self.shared.admission.is_tight:  # its acks would take from what is left
            self.shared.cramped.add(self)  # type: ignore[arg-type]  # always a Group
            return []
        active = [m for m in self.members.values() if m.is_active and m.most_records > 0]
        takers = [m for m in active if self.feed.may_send_to(m.link)]
        if len(takers) < len(active):
            self.shared.denied.add(self)  # type: ignore[arg-type]  # always a Group
        quick = [m for m in takers if not m.is_slow]
        if len(quick) < len(takers) and any(m.in_flight < m.most_records for m in quick):
            return quick
        return takers

    @property
    def unmet(self) -> int:
        """About how many records could be handed out if some member had room for them."""
        if not self.is_placed or self._is_short or self.go_ahead_records <= 0:
            return 0
        admission = self.shared.admission
        if self.settings.paused or admission.is_tight or admission.is_draining:
            return 0
        if any(m.in_flight < m.most_records for m in self._takers()):
            return 0
        held = self.by_key.held if self.by_key is not None else 0
        away = self.in_flight + self.delayed + self.retrying + held + self.undertaker.dying
        pending = sum([m.pending_count for m in self.members.values()])
        most = self.backlog - away - pending
        if self.is_stopped:  # what was read may be handed out all the same: retries that are due
            read = sum([records_in(r.runs) for queue in self.ready.values() for r in queue])
            most = min(most, read + len(self._again_set))
        return max(0, most)

    def _next_ready(self, now_ns: int) -> Ready | None:
        """What is to be handed out next, the highest priority first."""
        for place in sorted(self.ready):
            queue = self.ready[place]
            while queue:
                ready = queue[0]
                if ready.version != self._version:
                    self._look_again(ready)
                if not ready.runs:
                    self._used_up(ready)
                    continue
                if ready.suspect and not ready.is_fetched and now_ns < self.grace_until_ns:
                    break  # their member may come back for them
                return ready
            if not queue:
                del self.ready[place]
        return None

    def _drop_expired(self, ready: Ready, runs: Iterable[tuple[int, int]]) -> None:
        """Their time to live is over: nobody gets them."""
        base, stream = ready.batch.base_offset, ready.batch.stream
        for index, count in runs:
            first = base + index
            known = range(first, first + count) if ready.is_fetched else ()
            gone = [(offset, self.state.marks.get((stream, offset))) for offset in known]
            self.settle_run(stream, first, count, ready.marked)
            self.expired_jobs += count
            if ready.entry is not None:
                self.lift(ready.entry, count)
            for offset, mark in gone:
                self.gone(stream, offset, mark)

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
        self._is_short = self._tokens < 1
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
        room, or waits for its member or its key. Returns how many records left ``ready``."""
        order = self.by_key
        assert order is not None
        b = ready.batch
        keys = self._keys_of(ready)
        if keys is None:
            return self._hand_out_any(ready, members, most, now_ns)
        max_held = 1 << 62 if self.is_catching_up else self.settings.max_held
        walk = Walk(order, ready, members, keys, most, max_held, now_ns)
        walked = walk.run(self._may_go)
        for member, indices in walk.given.items():
            self._give(ready, member, indices, keys, now_ns)
        if ready.suspect:
            self._suspects.update((b.stream, offset) for offset in walk.put_off)
        self._release_keys(b.stream, walk.held)
        for member, indices in walk.queued.items():
            member.pending.append((ready, indices, now_ns))
            member.pending_count += len(indices)
            ready.pins += 1
        return walked

    def _hand_out_pending(self, member: Member, most: int, now_ns: int) -> None:
        """Give a member what its keys bind to it, as far as it has room now."""
        order = self.by_key
        assert order is not None
        while member.pending and most > 0:
            ready, indices, since = member.pending[0]
            b = ready.batch
            keys = self._keys_of(ready)
            assert keys is not None
            if 0 < ready.expires_ms <= self.shared.wall_now_ms:
                member.pending.popleft()
                member.pending_count -= len(indices)
                self._drop_expired(ready, runs_of(indices))
                self._unpin(ready, 1)
                freed = order.of(b.stream).unbind(of_indices(keys, indices))
                self._release_keys(b.stream, freed)
                continue
            room = min(most, member.room(len(b.payload) / b.count))
            if room <= 0:
                return
            part, rest = indices[:room], indices[room:]
            held_up = order.of(b.stream).held_up
            freed = []
            if held_up:
                for i in [i for i in part if keys[i] in held_up]:
                    self.hold_back(order, ready, i, keys[i])
                    freed.append(keys[i])
                part = [i for i in part if keys[i] not in held_up] if freed else part
            member.pending_count -= len(part) + len(freed)
            if rest:
                member.pending[0] = (ready, rest, since)
            else:
                member.pending.popleft()
            if part:
                self._give(ready, member, part, keys, now_ns)
                most -= len(part)
            if not rest:
                self._unpin(ready, 1)
            self._release_keys(b.stream, freed)

    def _may_go(self, stream: int, key: bytes, offset: int, marked: bool) -> bool:
        """Whether a record fetched by its offset goes out now; else it waits for its turn."""
        order = self.by_key
        assert order is not None
        books = order.of(stream)
        state = books.held_up.get(key)
        is_behind = state is not None and state.held is not None and state.held[0] < offset
        if marked:
            order.fail(stream, key, offset)  # its time may have been changed by hand
            state = books.held_up[key]
            if key in books.bound or state.released or is_behind or state.failed[0] != offset:
                self._blocked.add((stream, offset))
                return False
            return True
        order.arrived(stream, offset)
        member = books.member.get(key)
        if (
            is_behind
            or (member is not None and member.pending)
            or (state is not None and state.failed and state.failed[0] < offset)
        ):
            order.hold(stream, key, offset)
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
        if n * (WHOLE_SHARE if contiguous else SPREAD_SHARE) >= b.count:
            payload, checksum, held = b.payload, b.checksum, b.count
        else:
            if ready.records is None:
                ready.records = self.tools.decode(b.payload, b.count)
            payload, held = self.tools.pick(ready.records, indices), n
            checksum = zlib.crc32(payload)
        offsets = None if contiguous else [base + i for i in indices]
        h = HandOut(
            self.shared.number(), member, b.stream, base + first, n, offsets, (1 << n) - 1,
            now_ns + member.ack_timeout_ns, ready.attempt, ready.priority, ready.entry,
            record_bytes, ready.marked, ready.suspect,
            None if keys is None else of_indices(keys, indices),
            append_ms=b.append_time_ns // limits.MS,
        )  # fmt: skip
        self._hold(h)
        is_maybe_twice = ready.suspect or bool(b.moved) or self.shared.doubts.has(b)
        row = HandOutRow(
            ready.topic, h.number, h.first, n, first, held, len(payload), checksum,
            b.append_time_ns, b.lsn, b.slot, ready.attempt, is_maybe_twice,
            () if offsets is None else tuple(offsets),
            topic_key(self.topics.by_stream[b.stream].entry.topic_id),
        )  # fmt: skip
        member.rows.append((row, payload))
        self.touched[id(member)] = member
        if self._suspects:
            self._suspects.difference_update((b.stream, base + i) for i in indices)
        self.handed_total += n
        member.handed += n
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
        self._check_at(h, h.deadline_ns)

    def _check_at(self, h: HandOut, when_ns: int) -> None:
        """Look at its deadlines then; of all that were asked for only this one counts."""
        h.check_ns = when_ns
        heapq.heappush(self._deadlines, (when_ns, h.number))
        if len(self._deadlines) > 2 * len(self.hand_outs) + 4096:  # most are of what is settled
            self._deadlines = [(h.check_ns, number) for number, h in self.hand_outs.items()]
            heapq.heapify(self._deadlines)

    def _let_go(self, h: HandOut, bits: int) -> None:
        """These records are no longer in the member's hands."""
        if not bits:
            return  # a failed one of their key has taken them already
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

    def ack(self, h: HandOut, bits: int) -> None:
        """Done."""
        self.acked += bits.bit_count()
        runs = h.runs(bits)
        h.acked += runs
        n = self.settle_runs(h.stream, runs, h.marked)
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

    def give_back(self, h: HandOut, bits: int, suspect: bool, alone: bool = False) -> None:
        """Not begun, or nobody knows: to anybody, at once, as if it had not been handed out.
        ``alone``: the member keeps others, and those that follow in their keys come back too."""
        self._let_go(h, bits)
        back = []
        for index in h.indices(bits):
            offset = h.offset_of(index)
            key = h.keys[index] if h.keys is not None else b""
            if key and self.by_key is not None:
                self.by_key.of(h.stream).unbind((key,))
            if not self._is_open(h, offset):  # retention took it meanwhile
                self._suspects.discard((h.stream, offset))
                continue
            if suspect or h.suspect:
                self._suspects.add((h.stream, offset))
            if key and self.by_key is not None:
                back.append((key, offset))
                if h.marked:
                    self.by_key.fail(h.stream, key, offset)
                else:
                    self.by_key.hold(h.stream, key, offset)
                    continue
            self._push_again(h.stream, offset, h.priority)
        if h.keys is not None:
            if alone:
                self._revoke_later(h.stream, back)
            self._release_keys(h.stream, {h.keys[i]: None for i in h.indices(bits)})

    def _fail(
        self, h: HandOut, bits: int, delay_ns: int, reason: str, flags: int, now_ns: int
    ) -> None:
        now_ms = self.wall_ms(now_ns)
        most = self.settings.max_deliveries
        if self.shared.admission.is_low:
            reason = reason[: limits.REASON_CHARACTERS_LOW]
        self._let_go(h, bits)
        gone = []
        failed = []
        for index in h.indices(bits):
            offset = h.offset_of(index)
            key = h.keys[index] if h.keys is not None else b""
            old = self.state.marks.get((h.stream, offset))
            if not self._is_open(h, offset):
                self._suspects.discard((h.stream, offset))
                if key and self.by_key is not None:
                    self.by_key.of(h.stream).unbind((key,))
                    gone.append(key)
                continue
            if not h.marked and h.entry is not None:
                self.lift(h.entry, 1)
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
                self.by_key.of(h.stream).unbind((key,))
                self.by_key.fail(h.stream, key, offset)
                failed.append((key, offset))
            if dies:
                self._suspects.discard((h.stream, offset))
                self.undertaker.bury(h.stream, offset)
            else:
                self.waits.add((h.stream, offset))
                self.schedule.add(mark.due_ms, h.stream, offset, h.priority)
        self._revoke_later(h.stream, failed)
        self._release_keys(h.stream, gone)

    def _is_open(self, h: HandOut, offset: int) -> bool:
        """Whether a record in a member's hands is still in the log."""
        if h.marked:
            return (h.stream, offset) in self.state.marks
        return offset not in self.state.settled(h.stream)

    def _backoff_ms(self, attempt: int) -> int:
        s = self.settings
        delay = min(s.backoff_ns << min(attempt - 1, 40), s.backoff_max_ns)
        return int(delay * (0.8 + 0.4 * self.shared.entropy.random())) // limits.MS

    def _expire(self, h: HandOut, now_ns: int) -> None:
        """Take back what was not settled in time."""
        bits, later = 0, 0
        for index in h.indices(h.left):
            deadline = h.deadline_of(index)
            if deadline <= now_ns:
                bits |= 1 << index
            elif not later or deadline < later:
                later = deadline
        if later:
            self._check_at(h, later)
        if not bits:
            return
        self.expired += bits.bit_count()
        # Members extend what they have not begun, so all was, except that a key's later records
        # wait for the first one.
        begun = bits if self.by_key is None else bits & -bits
        self.take_back(h, bits, begun, "no answer within the ack timeout", now_ns)

    def take_back(
        self, h: HandOut, bits: int, begun: int, reason: str, now_ns: int, alone: bool = True
    ) -> None:
        """The member did not answer. What it had begun counts as a failure: what kills a worker
        must not go round for ever. The others are given back as they were. ``alone``: the member
        keeps others."""
        self.revoke(h, bits)
        for index in h.indices(begun):
            self._suspects.add((h.stream, h.offset_of(index)))
        if begun:
            self._fail(h, begun, 0, reason, 0, now_ns)
        rest = bits & ~begun & h.left  # a key's later records went back with its failed one
        if rest:
            self.give_back(h, rest, True, alone)

    def revoke(self, h: HandOut, bits: int) -> None:
        """Tell the member what is no longer its own."""
        rows = [SettleRow(h.number, begin, width, 0) for begin, width in runs_of_bits(bits)]
        self.shared.revoked.append((h.member, tuple(rows)))

    def extend(self, h: HandOut, first: int, count: int, deadline_ns: int) -> None:
        """These records have until then."""
        if first == 0 and count >= h.count:
            h.longer = None
            h.deadline_ns = deadline_ns
        else:
            if h.longer is None:
                h.longer = array("q", (h.deadline_ns,)) * h.count
            h.longer[first : first + count] = array("q", (deadline_ns,)) * count
        if deadline_ns < h.check_ns:
            self._check_at(h, deadline_ns)

    def _keys_taken(self, h: HandOut, bits: int) -> None:
        order, keys = self.by_key, h.keys
        assert order is not None
        assert keys is not None
        books = order.of(h.stream)
        freed = []
        for index, count in runs_of_bits(bits):
            freed += books.unbind(keys[index : index + count])
        self._release_keys(h.stream, freed)

    def _revoke_later(self, stream: int, failed: Sequence[tuple[bytes, int]]) -> None:
        """Records (key, offset) failed or came back: what follows them in their keys and is in a
        member's hands comes back too."""
        order = self.by_key
        if order is None:
            return
        owner = order.of(stream).member
        firsts: dict[Member, dict[bytes, int]] = {}
        for key, offset in failed:
            member = owner.get(key)
            if member is not None:
                keys = firsts.setdefault(member, {})
                keys[key] = min(offset, keys.get(key, offset))
        for member, keys in firsts.items():
            for h in list(member.hand_outs.values()):
                if h.stream != stream or h.keys is None:
                    continue
                bits = 0
                for index in h.indices(h.left):
                    first = keys.get(h.keys[index])
                    if first is not None and h.offset_of(index) > first:
                        bits |= 1 << index
                if bits:
                    self.revoke(h, bits)
                    self.give_back(h, bits, True)  # nobody knows which of them are begun

    def adopt(self, member: Member, h: HandOut) -> None:
        """A member that comes back goes on with what it holds."""
        for index in h.indices(h.left):
            offset = h.offset_of(index)
            if not h.marked:
                if not any(offset < s.seen.get(h.stream, 0) for s in self.sources):
                    self._unread.add((h.stream, offset))
                elif self._is_delayed(h.stream, offset):
                    self._undue.add((h.stream, offset))
                    self.delayed -= 1
            self.waits.discard((h.stream, offset))
            self.adopted.add((h.stream, offset))
            self._again_set.pop((h.stream, offset), None)
            self._suspects.discard((h.stream, offset))
        if not h.marked:
            for source in self.sources:
                for (stream, base), entry in source.trail.items():
                    if self._is_of(h, stream, base, entry.count):
                        h.entry = entry
        for queue in self.ready.values():
            for ready in queue:
                if self._is_of(h, ready.batch.stream, ready.batch.base_offset, ready.batch.count):
                    self._look_again(ready)
        self._version += 1
        self._hold(h)

    def move(
        self, h: HandOut, member: Member, offsets: Sequence[int], places: int, now_ns: int
    ) -> None:
        """A member came back in another session: its hand-out goes on. From now on it counts
        what it claimed: ``offsets``, of which those at ``places`` are still its own."""
        old = h.member
        old.hand_outs.pop(h.number, None)
        if h.keys is not None:
            known = {h.offset_of(index): key for index, key in enumerate(h.keys)}
            h.keys = [known.get(offset, b"") for offset in offsets]
        h.member = member
        h.offsets, h.first, h.count, h.left = offsets, offsets[0], len(offsets), places
        h.deadline_ns = now_ns + member.ack_timeout_ns
        h.longer = None
        n = places.bit_count()
        member.hand_outs[h.number] = h
        member.in_flight += n
        member.in_flight_bytes += n * h.record_bytes
        self._check_at(h, h.deadline_ns)
        if h.keys is not None and self.by_key is not None:
            owner = self.by_key.of(h.stream).member
            for index in h.indices(h.left):
                if owner.get(h.keys[index]) is old:
                    owner[h.keys[index]] = member

    def may_adopt(self, stream: int, offset: int, attempt: int) -> bool:
        """Whether a record that nobody has can be that of a hand-out of an earlier session."""
        if (stream, offset) in self.adopted:
            return False
        mark = self.state.marks.get((stream, offset))
        if mark is not None:
            return mark.attempts == attempt - 1 and not mark.flags & REJECTED
        return offset not in self.state.settled(stream)

    def held(self) -> set[tuple[int, int]]:
        """(stream, offset) of all that is in members' hands."""
        return {
            (h.stream, offset)
            for h in self.hand_outs.values()
            for offset in map(h.offset_of, h.indices(h.left))
        }

    def buries_in(self, topic: str) -> bool:
        """Whether a topic is that of the group's dead letters."""
        return topic == dead_letters_of(self.settings.name)

    def reads(self, stream: int) -> bool:
        """Whether the group takes what is in a stream."""
        return any(stream in self.feed.streams_of(source) for source in self.sources)
