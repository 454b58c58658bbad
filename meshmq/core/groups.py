"""All groups and queues of one node: made and deleted, fed by the log, journaled turn by turn.

Data: a Group by name; ``members`` knows who is in which (core/members.py).

Rules:
1. A turn's changes of all groups, their moves of records and a transaction's records are entries
   of one append, so they are stored together.
2. What a member is told about its words follows their sync.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from meshmq import limits
from meshmq.core import group_settings
from meshmq.core.admission import Admission
from meshmq.core.batches import BatchTools
from meshmq.core.doubts import Doubts
from meshmq.core.effects import SurveyLog
from meshmq.core.feed import Feed
from meshmq.core.group import Group
from meshmq.core.group_waiting import Shared
from meshmq.core.hand_out import Member
from meshmq.core.intake import Intake
from meshmq.core.journal import (
    QUEUE,
    UNSTORED,
    Delta,
    GroupState,
    JournalRecord,
    Settings,
    TransactionDelta,
    pack_deltas,
)
from meshmq.core.journal_sum import parts_of, sum_of
from meshmq.core.lane_trims import trims_of
from meshmq.core.log import BatchEntry, Commit, Entry, JournalEntry, LogState, RuleEntry, TrimEntry
from meshmq.core.members import Members
from meshmq.core.topics import Topic, Topics
from meshmq.errors import GroupNotFound, LimitReached, OffsetOutOfRange
from meshmq.frames import Body, HandOut, Result, Revoke
from meshmq.names import JOURNAL, dead_letters_of, lanes_of, retries_of

NUMBERS_A_LIFE = 1 << 44
JOURNAL_BYTES = 64 * limits.MIB  # a copy that is further behind begins with a snapshot


def _nothing() -> None:
    """No change waits for this survey."""


def _untold(settings: Settings, start: group_settings.Start | None) -> None:
    """The node is alone: nobody else is to have the group."""


def _unstamped(name: str, start: group_settings.Start) -> str:
    """The node is alone: a seek is nobody else's to do."""
    return ""


def _gone(answer: Body) -> Body:
    """What a command is told whose group was deleted while it waited for the log."""
    assert isinstance(answer, Result)
    return Result(answer.id, GroupNotFound.code, "the group was deleted meanwhile", b"{}")


class Groups:
    """See the module's header. Frames gather in ``sends``, answers that wait for the sync of this
    turn's entries in ``answers``.

    Attributes:
        by_name: all groups and queues.
        lanes: the queue that a topic belongs to.
        intake: whether queues take jobs.
        is_fenced: nothing is handed out: others may (core/takeover.py).
        held_by: why nothing is handed out, as another site may (core/site_fence.py); or empty.
        kept: from which offset on a stream is not trimmed, though it is done.
        is_surveying: the log is asked what that is.
        sums: a copy needs all that the journal says, with this turn (core/mirrors.py).
        defined: is told of each group that is made (with its start), changed or deleted.
        sought: is told of each seek that is asked for here, and gives it a stamp: the later, the
            greater.
    """

    def __init__(
        self,
        state: LogState,
        topics: Topics,
        feed: Feed,
        tools: BatchTools,
        entropy: random.Random,
        admission: Admission,
    ) -> None:
        self._topics = topics
        self._feed = feed
        self._tools = self.tools = tools
        self._first_number = self._next_number = entropy.getrandbits(48) << 14 | 1
        self.pumped: set[Group] | None = None  # looked at lately, where somebody wants to know
        doubts = Doubts(state.append_time_ns)
        self.shared = Shared(state.origin, entropy, self._number, admission, doubts)
        self._next_id = state.journal.next_id
        self.transactions = state.journal.transactions.copy()
        self.by_name: dict[str, Group] = {}
        self._by_id: dict[int, Group] = {}
        self.lanes: dict[str, Group] = {}
        self.intake = Intake(self.by_name, self.lanes, topics, tools, self.shared)
        self.members = Members(self, topics)
        self._due: list[tuple[int, int]] = []  # (when, group id)
        self._surveys: dict[int, tuple[Group, int | None, Callable[[], None]]] = {}
        self._placed: dict[int, list[tuple[bytes, Body]]] = {}  # answers, by survey
        self.asked = 0  # the survey that the command at hand waits for
        self._last_survey = 0
        self._records: list[JournalRecord] = []
        self._deleted: list[Delta] = []
        self._own: list[Entry] = []
        self._swept_ms = 0
        self.effects: list[SurveyLog] = []
        self.sends: list[tuple[bytes, Body]] = []
        self.answers: list[tuple[bytes, Body]] = []
        self.defined: Callable[[Settings, group_settings.Start | None], None] = _untold
        self.sought: Callable[[str, group_settings.Start], str] = _unstamped
        self._seeking: dict[Group, tuple[int, str]] = {}  # by the survey that it waits for
        self._is_started = False
        self.is_fenced = False
        self.held_by = ""
        self.kept: Callable[[int], int | None] = lambda stream: None
        self.is_surveying = False
        self.sums = False
        self._given: tuple[int, list[Group], Callable[[], None]] = (0, [], _nothing)
        for held in state.journal.groups.values():
            self._open(held.copy())

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def is_of_this_life(self, number: int) -> bool:
        """Whether a hand-out's number is, or will be, one of this life of the node."""
        return 0 <= number - self._first_number < NUMBERS_A_LIFE

    def _open(self, state: GroupState, is_new: bool = False) -> Group:
        group = Group(state, self._topics, self._feed, self._tools, self.shared)
        group.is_placed = not is_new
        name = state.settings.name
        self.by_name[name] = group
        self._by_id[state.settings.id] = group
        if state.settings.kind == QUEUE:
            for lane in lanes_of(name):
                self.lanes[lane] = group
        if not is_new:
            group.note_trims()
        group.recount()
        group.open()
        self._survey(group, None)
        return group

    def _start(self, now_ns: int) -> None:
        """Members of before may come back for what they hold: from the node's first turn on."""
        self._is_started = True
        for group in self.by_name.values():
            group.grace_until_ns = now_ns + limits.STARTED_NS
            group.started_ms = self.shared.wall_now_ms
            self.shared.woken.add(group)

    def set_wall(self, wall_ns: int, now_ns: int) -> None:
        """What time it is; the first time ever before anything else happens."""
        offset_ns = wall_ns - now_ns
        moved = offset_ns - self.shared.wall_offset_ns
        self.shared.wall_offset_ns = offset_ns
        if abs(moved) > limits.MS:  # somebody set the clock: other jobs are due now
            self.wake_all()
        if moved < -limits.MS or not self._is_started:
            for group in self.by_name.values():
                group.on_clock_back(wall_ns // limits.MS, not self._is_started)
        if not self._is_started:
            self._start(now_ns)

    def wake_all(self) -> None:
        """Look at all groups again: what held them back is over."""
        self.shared.woken.update(self.by_name.values())

    def feed_denied(self) -> None:
        """Some link may be sent more now: look again at groups that were held back by that."""
        if self.shared.denied:
            self.shared.woken |= self.shared.denied
            self.shared.denied.clear()

    def on_room(self) -> None:
        """The disk may have more room: look again at groups that were held back by that."""
        if self.shared.cramped:
            self.shared.woken |= self.shared.cramped
            self.shared.cramped.clear()

    # -- groups -----------------------------------------------------------------------------

    def get(self, name: str) -> Group:
        found = self.by_name.get(name)
        if found is None:
            raise GroupNotFound(
                f"there is no group or queue {name!r}: a group is made by its first consumer, a "
                f"queue by its first put or worker, or with `meshmq group create` or "
                f"`meshmq queue create`"
            )
        return found

    def create(self, arguments: dict[str, Any], paused: bool = False) -> tuple[Group, bool]:
        """Make a group or queue, or check that the one there is the same; whether it was made.

        Raises GroupMismatch, InvalidName, CommandFailed, LimitReached, OffsetOutOfRange.
        """
        wanted = group_settings.wanted(arguments)
        found = self.by_name.get(wanted.name)
        if found is not None:
            group_settings.check_same(found.settings, wanted, arguments)
            return found, False
        if len(self.by_name) >= limits.GROUPS_MAX:
            raise LimitReached(f"the node has {limits.GROUPS_MAX} groups and queues, its limit")
        start = group_settings.start_of(arguments, wanted)
        self._check_start(wanted, start)
        settings = wanted._replace(id=self._next_id, paused=paused, made=UNSTORED)
        self._next_id += 1
        if settings.kind == QUEUE:
            self._keep_all(settings.name)
        group = self._open(GroupState(settings), True)
        if self._is_started:
            group.grace_until_ns = 0
        self._begin(group, start, lambda: group.set_settings(group.settings))
        self.defined(settings, start)
        return group, True

    def change(self, group: Group, settings: Settings) -> None:
        """Give a group other settings."""
        group.set_settings(settings)
        group.wake()
        self.defined(settings, None)

    def _check_start(self, settings: Settings, start: group_settings.Start) -> None:
        """Raise OffsetOutOfRange for a beginning that would pass over records to come."""
        topic = self._topics.by_name.get(settings.pattern)
        have = topic.synced_offset if topic is not None else 0
        if start.name == "offset" and start.value > have:
            raise OffsetOutOfRange(
                f"offset {start.value} of topic {settings.pattern!r} does not exist: the next is "
                f"{have}"
            )

    def _keep_all(self, queue: str) -> None:
        """A queue's topic keeps its jobs until they are done, whatever a policy says."""
        group_settings.check_queue_topic(self._topics.by_name.get(queue), queue)
        self._topic(queue)
        topic = self._topics.by_name[queue]
        if topic.entry.retention_ns or topic.entry.retention_bytes:
            topic.entry = topic.entry._replace(retention_ns=0, retention_bytes=0)
            self._own.append(topic.entry)

    def _begin(self, group: Group, start: group_settings.Start, change: Callable[[], None]) -> None:
        """Do ``change`` and set where a group begins to read, in one turn: with a time, once the
        log has said where that is. A kill before that leaves everything as it was."""
        name, value = start
        if name == "time":
            self._survey(group, value, change)
            self.asked = self._last_survey
            return
        change()
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

    def seek(self, group: Group, start: group_settings.Start, sought: str = "") -> str:
        """Go on somewhere else: everything known of records is forgotten, but not what became of
        dead letters. Raises OffsetOutOfRange.

        Args:
            group: that is to go on there.
            start: where.
            sought: the stamp of a seek of the site, which is done once, and not after a later one.

        Returns:
            the stamp; empty: the node is alone.
        """
        pending, newest = self._seeking.get(group, (0, ""))
        if sought and sought <= max(newest, group.settings.sought):
            self.asked = pending if sought == newest else 0
            return sought
        self._check_start(group.settings, start)
        stamp = sought or self.sought(group.settings.name, start)
        waiting = self._supersede(group) if stamp else []
        self.asked = 0
        self._begin(group, start, lambda: self._forget_records(group, stamp))
        if self.asked and stamp:
            self._seeking[group] = self.asked, stamp
            self._placed.setdefault(self.asked, []).extend(waiting)
        else:
            self.answers += waiting
        return stamp

    def _supersede(self, group: Group) -> list[tuple[bytes, Body]]:
        """What waits for the log to say where it begins does not count any more; the answers to
        it."""
        waiting: list[tuple[bytes, Body]] = []
        self._seeking.pop(group, None)
        for number, (some, time_ns, _) in list(self._surveys.items()):
            if some is group and time_ns is not None:
                del self._surveys[number]
                waiting += self._placed.pop(number, [])
        return waiting

    def _forget_records(self, group: Group, sought: str) -> None:
        name = group.settings.name
        if sought:
            self._seeking.pop(group, None)
            group.set_settings(group.settings._replace(sought=sought))
        own = [self._topics.by_name.get(t) for t in (dead_letters_of(name), retries_of(name))]
        kept = [(t, group.state.settled(t.entry.stream)) for t in own if t is not None]
        group.clear()
        group.reset()
        for topic, settled in kept:
            group.keep(topic.entry.stream, settled, topic.next_offset)
        group.is_placed = False
        group.recount()
        for source in group.sources[1:]:
            self._feed.move_reader(source, 1, None)

    def delete(self, name: str, keeps_topic: bool = False) -> None:
        """Forget a group; a queue's jobs and a group's dead letters go with it.

        Args:
            keeps_topic: the queue's own topic is already that of a later queue of this name.
        """
        group = self.get(name)
        for h in list(group.hand_outs.values()):
            group.revoke(h, h.left)
        group.close()
        self._seeking.pop(group, None)
        del self.by_name[name], self._by_id[group.settings.id]
        self.shared.woken.discard(group)
        self.shared.changed.discard(group)
        self.shared.denied.discard(group)
        self.shared.cramped.discard(group)
        for lane in [lane for lane, g in self.lanes.items() if g is group]:
            del self.lanes[lane]
        self.members.forget(group)
        if self.pumped is not None:
            self.pumped.add(group)
        topics = [dead_letters_of(name), retries_of(name)]
        if group.settings.kind == QUEUE:
            topics += lanes_of(name)
        for topic in topics:
            if topic in self._topics.by_name and not (keeps_topic and topic == name):
                self._topics.delete(topic, self._own)
        deleted = group.settings._replace(deleted=True)
        self._deleted.append(Delta(deleted.id, deleted))
        self.defined(deleted, None)

    # -- time -------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` is due; 0: ``pump`` has more to do."""
        if self.shared.woken and not (self.is_fenced or self.held_by):
            return 0
        due = self._due[0][0] if self._due else None
        until = self.members.next_deadline_ns()
        return until if due is None else due if until is None else min(due, until)

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        self.members.tick(now_ns)
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
                    if group.settings.made == UNSTORED:
                        place = commit.place_of(self._topics.by_name[JOURNAL].entry.stream)
                        group.state.settings = group.settings._replace(made=place)
        if not self.by_name:
            return
        for batch in commit.batches:
            self.intake.synced(batch)
            for group in self._interested(batch.stream):
                group.appended(batch.stream, batch.base_offset, batch.count, len(batch.payload))
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
        if number == self._given[0]:
            self._on_given(rows)
            return
        group, time_ns, change = self._surveys.pop(number, (None, None, _nothing))
        if group is None or self.by_name.get(group.settings.name) is not group:
            self.answers += [(link, _gone(body)) for link, body in self._placed.pop(number, [])]
            return
        found = list(rows)
        if time_ns is not None:
            change()
            self._place(group, {stream: offset for stream, offset, _ in found}, lsn, None)
            self.answers += self._placed.pop(number, [])
            return
        group.is_weighed = True
        group.backlog_bytes = max(group.backlog_bytes, float(sum([row[2] for row in found])))

    def _survey(
        self, group: Group, time_ns: int | None, change: Callable[[], None] = _nothing
    ) -> None:
        floors = []
        for source in group.sources:
            for stream in self._feed.streams_of(source):
                settled = group.state.streams.get(stream)
                floors.append((stream, settled.floor if settled is not None else 0))
        if not floors and time_ns is None:
            return
        if time_ns is None and group.backlog:
            group.is_weighed = False
        self._last_survey += 1
        self._surveys[self._last_survey] = group, time_ns, change
        self.effects.append(SurveyLog(self._last_survey, tuple(floors), time_ns))

    # -- when others have taken them over ---------------------------------------------------

    def give_away(self, lsn: int, slot: int, done: Callable[[], None]) -> None:
        """What groups have not done before this place of the log is others' to hand out: those that
        are made behind it were known to nobody who could have taken it."""
        given = [g for g in self.by_name.values() if g.settings.made < (lsn, slot)]
        streams = {
            stream
            for group in given
            for source in group.sources
            for stream in self._feed.streams_of(source)
        }
        dead = [self._topics.by_name.get(dead_letters_of(g.settings.name)) for g in given]
        streams |= {topic.entry.stream for topic in dead if topic is not None}
        held, first = self._topics.by_stream, self._topics.copied_from
        # Nobody else has what is not copied.
        streams = {s for s in streams if first(held[s]) < held[s].next_offset}
        if not streams:
            done()
            return
        self.is_surveying = True
        self._last_survey += 1
        self._given = self._last_survey, given, done
        floors = tuple([(stream, 0) for stream in sorted(streams)])
        self.effects.append(SurveyLog(self._last_survey, floors, None, (lsn, slot)))

    def _on_given(self, rows: Iterable[tuple[int, int, int]]) -> None:
        (_, given, done), self._given = self._given, (0, [], _nothing)
        self.is_surveying = False
        there = [group for group in given if self.by_name.get(group.settings.name) is group]
        for stream, before, _ in rows:
            topic = self._topics.by_stream.get(stream)
            first = self._topics.copied_from(topic) if topic is not None else 0
            for group in there:
                group.give_away(stream, first, before)
        done()

    def unfence(self) -> None:
        """Hand out what there is, unless the log takes nothing."""
        if self.shared.admission.refusal[0]:
            return
        self.is_fenced = False
        self.shared.woken.update(self.by_name.values())

    def stream_of(self, topic: str) -> int:
        """The stream of a topic that is there."""
        return self._topics.by_name[topic].entry.stream

    def forget_streams(self) -> None:
        """Topics were deleted."""
        alive = self._topics.by_stream
        for group in self.by_name.values():
            known = set(group.state.streams) | {h.stream for h in group.hand_outs.values()}
            for stream in known - alive.keys():
                group.forget_stream(stream)
            group.recount()

    def trims(self) -> list[TrimEntry]:
        """What of queues' lanes, dead letters and retries is done."""
        admission = self.shared.admission
        is_tight = admission.is_low or admission.is_full
        return trims_of(self.by_name.values(), self._topics, is_tight, self.kept)

    def answer_when_placed(self, link: bytes, body: Body) -> bool:
        """Keep the answer to a command that waits for the log; False if it does not."""
        number, self.asked = self.asked, 0
        if number:
            self._placed.setdefault(number, []).append((link, body))
        return bool(number)

    # -- the end of a turn ------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Hand out what can be, send it, and look when to look again."""
        shared = self.shared
        shared.now_ns = now_ns
        # Before what is handed out: nobody is told of a record twice, or of more than it asked for.
        for member, rows in shared.revoked:
            for i in range(0, len(rows), limits.FRAME_BATCHES_MAX):
                part = rows[i : i + limits.FRAME_BATCHES_MAX]
                self.sends.append((member.link, Revoke(member.consumer, part)))
        shared.revoked.clear()
        if self.is_fenced or self.held_by:
            return
        for _ in range(3):  # reads from memory may bring more at once
            if not shared.woken:
                break
            woken = sorted(shared.woken, key=lambda g: g.settings.id)
            shared.woken.clear()
            if self.pumped is not None:
                self.pumped.update(woken)
            for group in woken:
                group.pump(now_ns)
                group.may_be_told(group.prefetch_records)
                self._send_hand_outs(group)
                due = group.next_deadline_ns(now_ns)
                if due is not None and (not group.due_ns or due < group.due_ns):
                    group.due_ns = due
                    heapq.heappush(self._due, (due, group.settings.id))

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

    def entries(self, entries: list[Entry]) -> int:
        """Add what this turn changed: records moved, and the journal's record of it all. Returns
        the bytes of the former."""
        records: list[JournalRecord] = [*self._deleted, *self._records]
        for group in sorted(self.shared.changed, key=lambda g: g.settings.id):
            for move in group.undertaker.moves:
                self.append_own(move.topic, move.payload, move.count)
            group.undertaker.moves.clear()
            delta = group.take_delta(group.prefetch_records)
            if delta is not None:
                records.append(delta)
        self.shared.changed.clear()
        moved, self.shared.moving_bytes = self.shared.moving_bytes, 0
        self._deleted, self._records = [], []
        if records:
            self._note(records)
        if self.sums:
            self.sums = False
            self._note_sum()
        entries += self._own
        self._own = []
        self.answers += self.members.take_settled()
        return moved

    def _note(self, records: Sequence[JournalRecord]) -> None:
        """One more batch of the journal; more, if that would be longer than frames may be."""
        value = pack_deltas(records)
        if len(value) > limits.JOURNAL_VALUE_BYTES_MAX:
            self._note_parts(part for record in records for part in parts_of(record))
        else:
            self._write(records, value)

    def _write(self, records: Sequence[JournalRecord], value: bytes) -> None:
        payload = self._tools.encode([value], None, None, None, 0)
        batch = self._own_batch(self._topic(JOURNAL), payload, 1)
        self._own.append(JournalEntry(batch, tuple(records)))

    def _note_sum(self) -> None:
        """All that there is to know of groups, for a copy that has not got it all."""
        self._note_parts(sum_of([group.state for group in self.by_name.values()]))

    def _note_parts(self, records: Iterable[JournalRecord]) -> None:
        part: list[JournalRecord] = []
        size = 0
        for record in records:
            part.append(record)
            size += len(pack_deltas([record]))
            if size >= limits.BATCH_BYTES_TARGET:
                self._write(part, pack_deltas(part))
                part, size = [], 0
        if part:
            self._write(part, pack_deltas(part))

    def append_own(self, topic_name: str, payload: bytes, count: int, moved: bytes = b"") -> int:
        """Append records of the node's own making, ``moved`` as of a PublishBatch; return their
        base offset."""
        topic = self._topic(topic_name)
        batch = self._own_batch(topic, payload, count)
        self._own.append(batch._replace(moved=moved))
        return batch.base_offset

    def note_transaction(self, instance: bytes, number: int, offsets: tuple[int, ...]) -> None:
        """A transaction is part of this turn's entries."""
        self.transactions.note(instance, number, offsets)
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
                total += group.by_key.known * limits.MARK_MEMORY_BYTES + group.by_key.held * 8
        return total


def _frame(member: Member, rows: list[tuple[Any, bytes]]) -> HandOut:
    payload = rows[0][1] if len(rows) == 1 else b"".join([payload for _, payload in rows])
    return HandOut(member.consumer, tuple([row for row, _ in rows]), payload)


def describe(settings: Settings) -> dict[str, Any]:
    """Settings as listings show them."""
    shown = settings._asdict()
    for hidden in ("id", "name", "kind", "pattern", "order", "paused", "deleted", "sought", "made"):
        del shown[hidden]
    return shown
