"""All groups and queues of one node: who joins and leaves, what members say, what is journaled.

Data: a Group by name; members by link; ``_orphans`` are members whose session ended, whose
hand-outs wait a moment for them to come back.

Rules:
1. A turn's changes of all groups, their moves of records and a transaction's records are entries
   of one append, so they are stored together.
2. What a member is told about its words follows their sync.
3. A member that comes back within ORPHANED_NS (or STARTED_NS after the node's start) goes on with
   what it holds; after that its records are others'.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core import group_settings
from meshmq.core.batches import BatchTools
from meshmq.core.effects import SurveyLog
from meshmq.core.feed import Feed
from meshmq.core.group import Group
from meshmq.core.group_waiting import Shared
from meshmq.core.hand_out import HandOut, Member
from meshmq.core.journal import (
    QUEUE,
    Delta,
    GroupState,
    JournalRecord,
    Settings,
    TransactionDelta,
    forget_dedups,
    pack_deltas,
)
from meshmq.core.log import BatchEntry, Commit, Entry, JournalEntry, LogState, RuleEntry, TrimEntry
from meshmq.core.topics import Topic, Topics
from meshmq.errors import GroupNotFound, LimitReached, MeshError
from meshmq.frames import (
    ACK,
    EXTEND,
    NACK,
    REJECT,
    Body,
    Consume,
    Consumed,
    Hello,
    Holding,
    Leave,
    Revoke,
    Settle,
    Settled,
    SettleRow,
)
from meshmq.frames import HandOut as HandOutFrame
from meshmq.names import JOURNAL, dead_letters_of, lane_of, queue_of, retries_of

JOURNAL_BYTES = 64 * limits.MIB  # a copy that is further behind begins with a snapshot


class _Orphan(NamedTuple):
    group: Group
    member: Member
    until_ns: int


class Verdict(NamedTuple):
    """What a queue says to a batch of jobs: a refusal, or that it has the job already."""

    code: str = ""
    message: str = ""
    offset: int | None = None


class Groups:
    """See the module's header. Frames gather in ``sends``, answers that wait for the sync of this
    turn's entries in ``answers``.

    Attributes:
        by_name: all groups and queues.
        lanes: the queue that a topic belongs to.
    """

    def __init__(
        self,
        state: LogState,
        topics: Topics,
        feed: Feed,
        tools: BatchTools,
        entropy: random.Random,
    ) -> None:
        self._topics = topics
        self._feed = feed
        self._tools = tools
        self._next_number = entropy.getrandbits(48) << 14 | 1
        self.shared = Shared(state.origin, entropy, self._number)
        self._next_id = state.journal.next_id
        self.transactions = dict(state.journal.transactions)
        self.by_name: dict[str, Group] = {}
        self._by_id: dict[int, Group] = {}
        self.lanes: dict[str, Group] = {}
        self._by_link: dict[bytes, dict[int, tuple[Group, Member]]] = {}
        self._orphans: dict[tuple[bytes, int, int], _Orphan] = {}
        self._due: list[tuple[int, int]] = []  # (when, group id)
        self._settled: dict[tuple[bytes, int], Settled] = {}
        self._surveys: dict[int, tuple[Group, int | None]] = {}
        self._last_survey = 0
        self._records: list[JournalRecord] = []
        self._deleted: list[Delta] = []
        self._own: list[Entry] = []
        self._swept_ms = 0
        self.effects: list[SurveyLog] = []
        self.sends: list[tuple[bytes, Body]] = []
        self.answers: list[tuple[bytes, Body]] = []
        self._is_started = False
        for held in state.journal.groups.values():
            self._open(held.copy())

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _open(self, state: GroupState, is_new: bool = False) -> Group:
        group = Group(state, self._topics, self._feed, self._tools, self.shared)
        group.is_placed = not is_new
        name = state.settings.name
        self.by_name[name] = group
        self._by_id[state.settings.id] = group
        if state.settings.kind == QUEUE:
            for lane in lanes_of(name):
                self.lanes[lane] = group
        group.recount()
        group.open()
        self._survey(group, None)
        return group

    def start(self, now_ns: int) -> None:
        """The first event is at hand: members of before may come back for what they hold."""
        self._is_started = True
        for group in self.by_name.values():
            group.grace_until_ns = now_ns + limits.STARTED_NS
            self.shared.woken.add(group)

    def set_wall(self, wall_ns: int, now_ns: int) -> None:
        """What time it is."""
        self.shared.wall_offset_ns = wall_ns - now_ns
        self.shared.woken.update(self.by_name.values())

    # -- groups -----------------------------------------------------------------------------

    def get(self, name: str) -> Group:
        found = self.by_name.get(name)
        if found is None:
            raise GroupNotFound(
                f"there is no group or queue {name!r}: it is made by the first consumer, or by "
                f"`meshmq group create` or `meshmq queue create`"
            )
        return found

    def create(self, arguments: dict[str, Any]) -> tuple[Group, bool]:
        """Make a group or queue, or check that the one there is the same; whether it was made.

        Raises GroupMismatch, InvalidName, CommandFailed, LimitReached.
        """
        wanted = group_settings.wanted(arguments)
        found = self.by_name.get(wanted.name)
        if found is not None:
            group_settings.check_same(found.settings, wanted, arguments)
            return found, False
        if len(self.by_name) >= limits.GROUPS_MAX:
            raise LimitReached(f"the node has {limits.GROUPS_MAX} groups and queues, its limit")
        start = group_settings.start_of(arguments, wanted)
        settings = wanted._replace(id=self._next_id)
        self._next_id += 1
        if settings.kind == QUEUE:
            self._keep_all(settings.name)
        group = self._open(GroupState(settings), True)
        group.set_settings(settings)
        if self._is_started:
            group.grace_until_ns = 0
        self._begin(group, start)
        return group, True

    def _keep_all(self, queue: str) -> None:
        """A queue's topic keeps its jobs until they are done, whatever a policy says."""
        group_settings.check_queue_topic(self._topics.by_name.get(queue), queue)
        self._topic(queue)
        topic = self._topics.by_name[queue]
        if topic.entry.retention_ns or topic.entry.retention_bytes:
            topic.entry = topic.entry._replace(retention_ns=0, retention_bytes=0)
            self._own.append(topic.entry)

    def _begin(self, group: Group, start: group_settings.Start) -> None:
        """Set where a group begins to read."""
        name, value = start
        if name == "time":
            self._survey(group, value)
            return
        floors: dict[int, int] = {}
        for stream in self._feed.streams_of(group.sources[0]):
            topic = self._topics.by_stream[stream]
            if name == "new":
                floors[stream] = topic.next_offset
            elif name == "offset":
                floors[stream] = value
            else:
                floors[stream] = topic.first_offset
        lsn = self._feed.committed_lsn + 1 if name == "new" else 1
        at = ("offset", value, 0) if name == "offset" and floors else None
        self._place(group, floors, lsn, at)

    def _place(
        self, group: Group, floors: dict[int, int], lsn: int, at: tuple[str, int, int] | None
    ) -> None:
        for stream, floor in floors.items():
            if floor:
                group.set_floor(stream, floor)
        self._feed.move_reader(group.sources[0], lsn, at)
        group.is_placed = True
        group.recount()
        self._survey(group, None)
        group.wake()

    def seek(self, group: Group, start: group_settings.Start) -> None:
        """Go on somewhere else: everything known of records is forgotten."""
        group.clear()
        group.reset()
        group.is_placed = False
        for source in group.sources[1:]:
            self._feed.move_reader(source, 1, None)
        for own in (dead_letters_of(group.settings.name), retries_of(group.settings.name)):
            topic = self._topics.by_name.get(own)
            if topic is not None and own == retries_of(group.settings.name):
                group.set_floor(topic.entry.stream, topic.next_offset)
        self._begin(group, start)

    def delete(self, name: str) -> None:
        """Forget a group; a queue's jobs and a group's dead letters go with it."""
        group = self.get(name)
        for h in list(group.hand_outs.values()):
            group.revoke(h, h.left)
        group.close()
        del self.by_name[name], self._by_id[group.settings.id]
        self.shared.woken.discard(group)
        self.shared.changed.discard(group)
        for lane in [lane for lane, g in self.lanes.items() if g is group]:
            del self.lanes[lane]
        for link, members in self._by_link.items():
            for number in [n for n, (g, _) in members.items() if g is group]:
                del members[number]
                gone = Consumed(number, "group-not-found", f"{name!r} was deleted")
                self.sends.append((link, gone))
        self._orphans = {k: o for k, o in self._orphans.items() if o.group is not group}
        topics = [dead_letters_of(name), retries_of(name)]
        if group.settings.kind == QUEUE:
            topics += lanes_of(name)
        for topic in topics:
            if topic in self._topics.by_name:
                self._topics.delete(topic, self._own)
        deleted = group.settings._replace(deleted=True)
        self._deleted.append(Delta(deleted.id, deleted))

    def judge(self, topic: str, count: int, data: bytes) -> Verdict | None:
        """What a queue says to jobs that are published to one of its lanes."""
        group = self.lanes.get(topic)
        if group is None:
            if topic.startswith("$"):
                queue = queue_of(topic)
                if queue:
                    return Verdict("group-not-found", f"there is no queue {queue!r}")
                return Verdict("invalid-name", f"topic {topic!r} is the mesh's own")
            return None
        settings = group.settings
        if settings.max_records and group.backlog + group.unsynced + count > settings.max_records:
            return Verdict(
                "queue-full", f"queue {settings.name!r} has {settings.max_records} jobs, its limit"
            )
        if settings.max_bytes and group.backlog_bytes + len(data) > settings.max_bytes:
            return Verdict(
                "queue-full",
                f"queue {settings.name!r} has {settings.max_bytes} bytes of jobs, its limit",
            )
        options = self._tools.options(data)
        if options is None or not options.dedup:
            return None
        dedups = group.state.dedups
        forget_dedups(dedups, settings.dedup_ns, self.shared.wall_now_ms)
        found = dedups.get(options.dedup)
        if found is not None:
            return Verdict(offset=found[1])
        if len(dedups) >= limits.DEDUP_IDS_MAX:
            return Verdict("limit", f"the queue remembers {limits.DEDUP_IDS_MAX} ids, its limit")
        return None

    def accepted(self, topic: Topic, base: int, count: int, data: bytes) -> None:
        """Jobs were accepted for a lane."""
        group = self.lanes.get(topic.entry.name)
        if group is None:
            return
        group.unsynced += count
        options = self._tools.options(data)
        if options is not None and options.dedup:
            now_ms = self.shared.wall_now_ms
            group.note_dedup(options.dedup, topic.entry.stream, base, now_ms)
            group.wake()

    # -- members ----------------------------------------------------------------------------

    def consume(self, link: bytes, hello: Hello, frame: Consume, now_ns: int) -> None:
        """A member joins, or comes back."""
        try:
            answer = self._join(link, hello, frame, now_ns)
        except MeshError as error:
            self.sends.append((link, Consumed(frame.consumer, error.code, str(error))))
            return
        # Others' words come first: nothing is handed out before this is known.
        self.answers.append((link, answer))

    def _join(self, link: bytes, hello: Hello, frame: Consume, now_ns: int) -> Consumed:
        arguments = group_settings.parse(frame.create) if frame.create else {}
        if arguments:
            group, _ = self.create({**arguments, "group": frame.group})
        else:
            group = self.get(frame.group)
        mine = self._by_link.setdefault(link, {})
        self._leave(link, frame.consumer)
        if len(mine) >= limits.MEMBERS_PER_SESSION_MAX:
            raise LimitReached(
                f"{len(mine)} consumers on one connection, the limit is "
                f"{limits.MEMBERS_PER_SESSION_MAX}"
            )
        member = Member(
            link, frame.consumer, hello.instance, hello.name,
            max(1, min(frame.prefetch_records, limits.PREFETCH_RECORDS_MAX)),
            max(1, min(frame.prefetch_bytes, limits.PREFETCH_BYTES_MAX)),
            max(limits.ACK_TIMEOUT_NS_MIN, min(frame.ack_timeout_ns, limits.ACK_TIMEOUT_NS_MAX)),
        )  # fmt: skip
        mine[frame.consumer] = group, member
        group.members[link, frame.consumer] = member
        lost = self._take_over(group, member, frame.holdings, now_ns)
        group.joins(member)
        group.wake()
        order = 1 if group.by_key is not None else 0
        return Consumed(frame.consumer, order=order, lost=tuple(lost))

    def _take_over(
        self, group: Group, member: Member, holdings: Iterable[Holding], now_ns: int
    ) -> list[int]:
        """Give a member back what it holds; return the hand-outs of which it lost something."""
        key = (member.instance, member.consumer, group.settings.id)
        orphan = self._orphans.pop(key, None)
        left = dict(orphan.member.hand_outs) if orphan is not None else {}
        lost: list[int] = []
        for holding in holdings:
            h = left.pop(holding.number, None)
            if h is None:
                if not self._adopt(group, member, holding, now_ns):
                    lost.append(holding.number)
                continue
            claimed = {offset: i for i, offset in enumerate(holding.offsets)}
            kept = places = 0
            for index in h.indices(h.left):
                place = claimed.get(h.offset_of(index))
                if place is not None:
                    kept |= 1 << index
                    places |= 1 << place
            if places != (1 << len(holding.offsets)) - 1:
                lost.append(holding.number)
            if h.left & ~kept:
                group.give_back(h, h.left & ~kept, False)
            if kept:
                group.move(h, member, holding.offsets, places, now_ns)
        for h in left.values():
            group.give_back(h, h.left, False)  # it never arrived
        return lost

    def _adopt(self, group: Group, member: Member, holding: Holding, now_ns: int) -> bool:
        """A hand-out of an earlier life of this node goes on; whether all of it can."""
        topic = self._topics.by_name.get(holding.topic)
        offsets = holding.offsets
        if topic is None or not offsets or len(offsets) > limits.BATCH_RECORDS_MAX:
            return False
        stream = topic.entry.stream
        if now_ns >= group.grace_until_ns or holding.number in group.hand_outs:
            return False
        if not all(group.may_adopt(stream, o, holding.attempt) for o in offsets):
            return False
        # By key, what the key's other records wait for is not known here: they go round again.
        if group.by_key is not None:
            return False
        marked = (stream, offsets[0]) in group.state.marks
        if any(((stream, o) in group.state.marks) != marked for o in offsets):
            return False
        h = HandOut(
            holding.number, member, stream, offsets[0], len(offsets), offsets,
            (1 << len(offsets)) - 1, now_ns + member.ack_timeout_ns, holding.attempt, 0, None,
            0.0, marked, True,
        )  # fmt: skip
        group.adopt(member, h)
        return True

    def leave(self, link: bytes, frame: Leave) -> None:
        """A member goes in order: what it holds is anybody's."""
        self._leave(link, frame.consumer)

    def _leave(self, link: bytes, consumer: int) -> None:
        found = self._by_link.get(link, {}).pop(consumer, None)
        if found is None:
            return
        group, member = found
        del group.members[link, consumer]
        group.drop_pending(member)
        for h in list(member.hand_outs.values()):
            group.give_back(h, h.left, False)
        group.wake()

    def drop_link(self, link: bytes, now_ns: int) -> None:
        """A session ended: its members may come back in another one."""
        for consumer, (group, member) in self._by_link.pop(link, {}).items():
            del group.members[link, consumer]
            group.drop_pending(member)
            self._settled.pop((link, consumer), None)
            if member.hand_outs:
                until = now_ns + limits.ORPHANED_NS
                key = (member.instance, consumer, group.settings.id)
                self._orphans[key] = _Orphan(group, member, until)

    def _end_orphans(self, now_ns: int) -> None:
        for key in [k for k, o in self._orphans.items() if o.until_ns <= now_ns]:
            group, member, _ = self._orphans.pop(key)
            for h in list(member.hand_outs.values()):
                group.take_back(h, h.left, "the session of its consumer was lost", False, now_ns)

    # -- what members say -------------------------------------------------------------------

    def settle(self, link: bytes, frame: Settle, now_ns: int) -> None:
        """A member settles records."""
        found = self._by_link.get(link, {}).get(frame.consumer)
        stale: list[SettleRow] = []
        if found is None:
            stale += [row._replace(reason="no such consumer") for row in frame.rows]
        else:
            group, member = found
            for row in frame.rows:
                self._settle_row(group, member, row, stale, now_ns)
            group.wake()
        key = (link, frame.consumer)
        had = self._settled.get(key)
        self._settled[key] = Settled(
            frame.consumer, frame.number, (*(had.stale if had else ()), *stale)
        )

    def _settle_row(
        self, group: Group, member: Member, row: SettleRow, stale: list[SettleRow], now_ns: int
    ) -> None:
        h = member.hand_outs.get(row.number)
        if h is None or row.first + row.count > h.count:
            stale.append(row._replace(delay_ns=0, reason=_stale(group, row.number)))
            return
        wanted = ((1 << row.count) - 1) << row.first
        bits = h.left & wanted
        if bits != wanted:
            for first, count in _bit_runs(wanted & ~bits):
                stale.append(SettleRow(row.number, first, count, row.kind, 0, _stale(group, 0)))
            if not bits:
                return
        if row.kind == ACK:
            group.ack(h, bits)
        elif row.kind == NACK:
            delay = min(row.delay_ns, limits.DELAY_NS_MAX)
            group.nack(h, bits, delay, row.reason, now_ns)
        elif row.kind == REJECT:
            group.reject(h, bits, row.reason, now_ns)
        elif row.kind == EXTEND:
            longer = max(0, min(row.delay_ns, limits.ACK_TIMEOUT_NS_MAX))
            group.extend(h, row.first, row.count, now_ns + longer)
        else:
            group.give_back(h, bits, False)

    def held_by(self, link: bytes, consumer: int, number: int) -> tuple[Group, HandOut] | None:
        """A hand-out that a member of this link has."""
        found = self._by_link.get(link, {}).get(consumer)
        h = found[1].hand_outs.get(number) if found is not None else None
        return (found[0], h) if found is not None and h is not None else None

    # -- time -------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` is due."""
        due = self._due[0][0] if self._due else None
        for orphan in self._orphans.values():
            due = orphan.until_ns if due is None else min(due, orphan.until_ns)
        return due

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        if self._orphans:
            self._end_orphans(now_ns)
        while self._due and self._due[0][0] <= now_ns:
            when, number = heapq.heappop(self._due)
            group = self._by_id.get(number)
            if group is not None and group.due_ns == when:
                group.due_ns = 0
                group.tick(now_ns)

    # -- the log ----------------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> None:
        """A commit is synced, the feed has not told anybody yet."""
        for record in commit.journal:
            if isinstance(record, Delta):
                group = self._by_id.get(record.group)
                if group is not None:
                    group.on_delta_synced()
        if not self.by_name:
            return
        for batch in commit.batches:
            for group in self._interested(batch.stream):
                group.appended(batch.stream, batch.base_offset, batch.count, len(batch.payload))
                if batch.producer != self.shared.origin:
                    group.unsynced = max(0, group.unsynced - batch.count)
        for trim in commit.trims:
            for group in self._interested(trim.stream):
                group.on_trim(trim.stream, trim.first_offset)

    def _interested(self, stream: int) -> list[Group]:
        topic = self._topics.by_stream.get(stream)
        if topic is None:
            return []
        return [reader.owner for reader in self._feed.wanting(topic) if hasattr(reader, "owner")]

    def on_surveyed(self, number: int, lsn: int, rows: Iterable[tuple[int, int, int]]) -> None:
        """The log has said where streams are at a time, or how many bytes they hold."""
        group, time_ns = self._surveys.pop(number, (None, None))
        if group is None or self.by_name.get(group.settings.name) is not group:
            return
        found = list(rows)
        if time_ns is not None:
            self._place(group, {stream: offset for stream, offset, _ in found}, lsn, None)
            return
        group.backlog_bytes = max(group.backlog_bytes, float(sum([row[2] for row in found])))

    def _survey(self, group: Group, time_ns: int | None) -> None:
        floors = []
        for source in group.sources:
            for stream in self._feed.streams_of(source):
                settled = group.state.streams.get(stream)
                floors.append((stream, settled.floor if settled is not None else 0))
        if not floors and time_ns is None:
            return
        self._last_survey += 1
        self._surveys[self._last_survey] = group, time_ns
        self.effects.append(SurveyLog(self._last_survey, tuple(floors), time_ns))

    def forget_streams(self) -> None:
        """Topics were deleted."""
        alive = self._topics.by_stream
        for group in self.by_name.values():
            known = set(group.state.streams) | {h.stream for h in group.hand_outs.values()}
            for stream in known - alive.keys():
                group.forget_stream(stream)
            group.recount()

    def trims(self) -> list[TrimEntry]:
        """What of queues' lanes, dead letters and retries is done, in large steps."""
        found = []
        for group in self.by_name.values():
            name = group.settings.name
            own = [dead_letters_of(name), retries_of(name)]
            if group.settings.kind == QUEUE:
                own += lanes_of(name)
            for topic_name in own:
                topic = self._topics.by_name.get(topic_name)
                if topic is None:
                    continue
                stream = topic.entry.stream
                settled = group.state.streams.get(stream)
                if settled is None or settled.floor <= topic.first_offset:
                    continue
                low = settled.floor
                if low - topic.first_offset < limits.TRIM_RECORDS_MIN and low < topic.next_offset:
                    continue
                low = min([low, *(o for s, o in group.state.marks if s == stream)])
                if low > topic.first_offset:
                    found.append(TrimEntry(stream, low))
        return found

    # -- the end of a turn ------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Hand out what can be, send it, and look when to look again."""
        shared = self.shared
        shared.now_ns = now_ns
        if not self._is_started:
            self.start(now_ns)
        for _ in range(3):  # reads from memory may bring more at once
            if not shared.woken:
                break
            woken = sorted(shared.woken, key=lambda g: g.settings.id)
            shared.woken.clear()
            for group in woken:
                group.pump(now_ns)
                group.may_be_told(group.prefetch_records)
                self._send_hand_outs(group)
                due = group.next_deadline_ns(now_ns)
                if due is not None and (not group.due_ns or due < group.due_ns):
                    group.due_ns = due
                    heapq.heappush(self._due, (due, group.settings.id))
        for member, rows in shared.revoked:
            self.sends.append((member.link, Revoke(member.consumer, rows)))
        shared.revoked.clear()

    def _send_hand_outs(self, group: Group) -> None:
        for member in group.touched.values():
            rows, member.rows = member.rows, []
            size = begin = 0
            for i, (_, payload) in enumerate(rows):
                if i > begin and (
                    size + len(payload) > limits.DELIVER_BYTES_MAX
                    or i - begin == limits.FRAME_BATCHES_MAX
                ):
                    self.sends.append((member.link, _frame(member, rows[begin:i])))
                    begin, size = i, 0
                size += len(payload)
            if rows:
                self.sends.append((member.link, _frame(member, rows[begin:])))
        group.touched.clear()

    def entries(self, entries: list[Entry]) -> None:
        """Add what this turn changed: records moved, and the journal's record of it all."""
        records: list[JournalRecord] = [*self._deleted, *self._records]
        for group in sorted(self.shared.changed, key=lambda g: g.settings.id):
            for move in group.undertaker.moves:
                self.append_own(move.topic, move.payload, move.count)
            group.undertaker.moves.clear()
            delta = group.take_delta(group.prefetch_records)
            if delta is not None:
                records.append(delta)
        self.shared.changed.clear()
        self._deleted, self._records = [], []
        if records:
            journal = self._topic(JOURNAL)
            payload = self._tools.encode([pack_deltas(records)], None, None, None, 0)
            batch = self._own_batch(journal, payload, 1)
            self._own.append(JournalEntry(batch, tuple(records)))
        entries += self._own
        self._own = []
        self.answers += [(link, settled) for (link, _), settled in self._settled.items()]
        self._settled = {}

    def append_own(self, topic_name: str, payload: bytes, count: int) -> int:
        """Append records of the node's own making; return their base offset."""
        topic = self._topic(topic_name)
        batch = self._own_batch(topic, payload, count)
        self._own.append(batch)
        return batch.base_offset

    def note_transaction(self, instance: bytes, number: int, offsets: tuple[int, ...]) -> None:
        """A transaction is part of this turn's entries."""
        self.transactions[instance] = (number, offsets)
        if len(self.transactions) > limits.TRANSACTIONS_REMEMBERED_MAX:
            del self.transactions[next(iter(self.transactions))]
        self._records.append(TransactionDelta(instance, number, offsets))

    def _topic(self, name: str) -> Topic:
        topic = self._topics.by_name.get(name)
        if topic is None:
            kept = JOURNAL_BYTES if name == JOURNAL else 0
            topic = self._topics.create(name, self._own, RuleEntry(name, True, 0, kept))
        return topic

    def _own_batch(self, topic: Topic, payload: bytes, count: int) -> BatchEntry:
        base = topic.next_offset
        topic.next_offset += count
        return BatchEntry(
            topic.entry.stream, base, count, payload, zlib.crc32(payload), self.shared.origin,
            base + 1,
        )  # fmt: skip

    def held_bytes(self) -> int:
        """About what groups take in memory."""
        total = 0
        for group in self.by_name.values():
            total += len(group.state.marks) * limits.MARK_MEMORY_BYTES
            total += len(group.state.dedups) * 256 + len(group.schedule) * 64
            total += sum([s.ready_bytes for s in group.sources])
            if group.by_key is not None:
                total += len(group.by_key.keys) * limits.MARK_MEMORY_BYTES + group.by_key.held * 8
        return total


def lanes_of(queue: str) -> list[str]:
    """Topics of a queue's jobs."""
    return [
        *(lane_of(queue, p) for p in range(limits.PRIORITY_MAX + 1)),
        lane_of(queue, delayed=True),
    ]


def _frame(member: Member, rows: list[tuple[Any, bytes]]) -> HandOutFrame:
    payload = rows[0][1] if len(rows) == 1 else b"".join([payload for _, payload in rows])
    return HandOutFrame(member.consumer, tuple([row for row, _ in rows]), payload)


def _stale(group: Group, number: int) -> str:
    if number in group.hand_outs:
        return "it is in another consumer's hands"
    return "it was settled, or taken back after its time"


def _bit_runs(bits: int) -> list[tuple[int, int]]:
    found = []
    while bits:
        begin = (bits & -bits).bit_length() - 1
        rest = ~(bits >> begin)
        width = (rest & -rest).bit_length() - 1
        found.append((begin, width))
        bits &= ~(((1 << width) - 1) << begin)
    return found


def describe(settings: Settings) -> dict[str, Any]:
    """Settings as listings show them."""
    shown = settings._asdict()
    for hidden in ("id", "name", "kind", "pattern", "order", "paused", "deleted"):
        del shown[hidden]
    return shown
