"""Who is in which group of a node, and what members say.

Data: members by link and number; ``_orphans`` are members whose session ended, whose hand-outs wait
a moment for them to come back.

Rules:
1. A member that comes back within ORPHANED_NS (or STARTED_NS after the node's start) goes on with
   what it holds; after that its records are others'.
2. What of its prefetch a member at another node may have here that node says (``lend``); such a
   member comes back by whatever node its program is at then (MOVED_NS).
3. What it says about records that are no longer its own changes nothing, and it is told so. An ack
   that is said again because its answer was lost is no such word.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from meshmq import limits
from meshmq.core import group_settings
from meshmq.core.group import Group
from meshmq.core.hand_out import HandOut, Member
from meshmq.core.runs import joined, runs_of_bits
from meshmq.core.topics import Topics
from meshmq.errors import BadFrame, CommandFailed, LimitReached, LinkLost, MeshError
from meshmq.frames import (
    ACK,
    BACKOFF,
    EXTEND,
    NACK,
    REJECT,
    Body,
    Consume,
    Consumed,
    Hello,
    Holding,
    Leave,
    Lend,
    Lent,
    Settle,
    Settled,
    SettleRow,
)

if TYPE_CHECKING:
    from meshmq.core.groups import Groups


LOST = "the session of its consumer was lost"
STALE_ROWS_MAX = 4096  # of one frame: a member that takes care has few, but perhaps a row each


class _Orphan(NamedTuple):
    group: Group
    member: Member
    until_ns: int


class Members:
    """See the module's header."""

    def __init__(self, groups: Groups, topics: Topics) -> None:
        self._groups = groups
        self._topics = topics
        self.is_shared = False  # members get other owners' records too
        self._by_link: dict[bytes, dict[int, tuple[Group, Member]]] = {}
        self._places: dict[tuple[bytes, int, int], tuple[bytes, int]] = {}  # link and consumer
        self._orphans: dict[tuple[bytes, int, int], _Orphan] = {}
        self._settled: dict[tuple[bytes, int], Settled] = {}
        self._done: OrderedDict[int, list[tuple[int, int]]] = OrderedDict()  # runs that were acked
        self._done_runs = 0

    # -- members ----------------------------------------------------------------------------

    def on_body(
        self, link: bytes, hello: Hello, frame: Settle | Consume | Leave, now_ns: int
    ) -> None:
        """What a program, or a node on behalf of one, says. Raises BadFrame."""
        if isinstance(frame, Settle):
            self.settle(link, frame, now_ns)
        elif isinstance(frame, Consume):
            self.consume(link, hello, frame, now_ns)
        else:
            self.leave(link, frame, now_ns)

    def consume(
        self, link: bytes, hello: Hello, frame: Consume, now_ns: int, home: str = ""
    ) -> None:
        """A member joins, or comes back; of a node (``home``) on behalf of its program."""
        try:
            answer = self._join(link, hello, frame, now_ns, home)
        except RecursionError:
            error: MeshError = CommandFailed("the settings of a group are a plain JSON object")
        except MeshError as refused:
            error = refused
        else:
            # Others' words come first: nothing is handed out before this is known.
            self._groups.answers.append((link, answer))
            return
        self._groups.sends.append((link, Consumed(frame.consumer, error.code, str(error))))

    def find(self, link: bytes, consumer: int) -> tuple[Group, Member] | None:
        """A member and its group."""
        return self._by_link.get(link, {}).get(consumer)

    def _join(self, link: bytes, hello: Hello, frame: Consume, now_ns: int, home: str) -> Consumed:
        arguments = group_settings.parse(frame.create) if frame.create else {}
        if arguments:
            group, _ = self._groups.create({**arguments, "group": frame.group})
        else:
            group = self._groups.get(frame.group)
        mine = self._by_link.setdefault(link, {})
        self._leave(link, frame.consumer)
        most = limits.MEMBERS_PER_NODE_MAX if home else limits.MEMBERS_PER_SESSION_MAX
        if len(mine) >= most:
            raise LimitReached(f"{len(mine)} consumers on one connection, the limit is {most}")
        member = Member(
            link, frame.consumer, hello.instance, hello.name,
            max(1, min(frame.prefetch_records, limits.PREFETCH_RECORDS_MAX)),
            max(1, min(frame.prefetch_bytes, limits.PREFETCH_BYTES_MAX)),
            max(limits.ACK_TIMEOUT_NS_MIN, min(frame.ack_timeout_ns, limits.ACK_TIMEOUT_NS_MAX)),
            number=frame.consumer, epoch=frame.epoch,
        )  # fmt: skip
        if home:
            member.instance, member.name, member.number = frame.instance, frame.name, frame.member
            member.home = home
        else:
            member.most_records, member.most_bytes = member.prefetch_records, member.prefetch_bytes
        self._supersede(group, member, now_ns)
        mine[frame.consumer] = group, member
        group.members[link, frame.consumer] = member
        lost = self._take_over(group, member, frame.holdings, now_ns)
        group.joins(member)
        group.wake()
        order = 1 if group.by_key is not None else 0
        return Consumed(
            frame.consumer, order=order, lost=tuple(lost), shared=self.is_shared and not home
        )

    def _supersede(self, group: Group, member: Member, now_ns: int) -> None:
        """The same consumer of the same run may be here by another session, which is over or will
        be. Raises LinkLost if it is the other way round."""
        key = (*member.key, group.settings.id)
        place = self._places.get(key)
        old = self.find(*place) if place is not None else None
        if place is not None and old is not None:
            if old[1].epoch > member.epoch:
                raise LinkLost("the program has a newer session with another node")
            del self._by_link[place[0]][place[1]]
            self._orphan(*old, now_ns + limits.ORPHANED_NS, now_ns)
        self._places[key] = (member.link, member.consumer)

    def lend(self, link: bytes, frame: Lend) -> None:
        """What a member that is at another node may have in flight here from now on."""
        found = self.find(link, frame.consumer)
        if found is not None:
            group, member = found
            member.most_records = min(frame.records, member.prefetch_records)
            member.most_bytes = min(frame.bytes, member.prefetch_bytes)
            member.may_exceed = frame.alone
            if not frame.records:
                group.drop_pending(member)
            group.wake()
        if frame.answer:
            self._groups.sends.append((link, Lent(frame.consumer, frame.number)))

    def _take_over(
        self, group: Group, member: Member, holdings: Iterable[Holding], now_ns: int
    ) -> list[int]:
        """Give a member back what it holds; return the hand-outs of which it lost something."""
        key = (*member.key, group.settings.id)
        orphan = self._orphans.pop(key, None)
        left = dict(orphan.member.hand_outs) if orphan is not None else {}
        lost: list[int] = []
        held: set[tuple[int, int]] | None = None
        for holding in holdings:
            if holding.origin:
                continue  # it is another owner's to claim of
            h = left.pop(holding.number, None)
            if h is not None and len(holding.offsets) > h.count:  # more than it ever had
                group.give_back(h, h.left, False)
                lost.append(holding.number)
                continue
            if h is not None:
                h.acked = joined(h.acked)
            said = self._said(holding, h.acked if h is not None else self._done.get(holding.number))
            if said:
                member.said[holding.number] = said
            if h is None:
                everything = (1 << len(holding.offsets)) - 1
                if said == everything:
                    continue
                if held is None:
                    held = group.held() if now_ns < group.grace_until_ns else set()
                if not self._adopt(group, member, holding, held, now_ns):
                    lost.append(holding.number)
                continue
            claimed = {offset: i for i, offset in enumerate(holding.offsets)}
            kept = places = 0
            for index in h.indices(h.left):
                place = claimed.get(h.offset_of(index))
                if place is not None:
                    kept |= 1 << index
                    places |= 1 << place
            if places | said != (1 << len(holding.offsets)) - 1:
                # It drops all of it: nothing of it waits for its ack timeout.
                lost.append(holding.number)
                group.give_back(h, h.left, True, alone=True)
                continue
            if h.left & ~kept:
                group.give_back(h, h.left & ~kept, False)
            if kept:
                group.move(h, member, holding.offsets, places, now_ns)
        for h in left.values():
            group.give_back(h, h.left, False)  # it never arrived
        return lost

    @staticmethod
    def _said(holding: Holding, acked: list[tuple[int, int]] | None) -> int:
        """Which of the claimed records their member has acked already, a bit each; ``acked`` is in
        order."""
        said = 0
        if acked:
            for place, offset in enumerate(holding.offsets):
                at = bisect_right(acked, (offset, 1 << 64)) - 1
                if at >= 0 and offset < sum(acked[at]):
                    said |= 1 << place
        return said

    def _adopt(
        self, group: Group, member: Member, holding: Holding, held: set[tuple[int, int]],
        now_ns: int,
    ) -> bool:  # fmt: skip
        """A hand-out of an earlier life of this node goes on; whether all of it can."""
        topic = self._topics.by_name.get(holding.topic)
        offsets = holding.offsets
        if topic is None or not offsets or not holding.attempt:
            return False
        stream = topic.entry.stream
        if now_ns >= group.grace_until_ns or holding.number in group.hand_outs:
            return False
        if self._groups.is_of_this_life(holding.number) or not group.reads(stream):
            return False
        # It is a claim: only what the log has can have been handed out, and only once.
        first, end = topic.first_offset, topic.synced_offset
        if min(offsets) < first or max(offsets) >= end or len(set(offsets)) < len(offsets):
            return False
        if not all(
            (stream, o) not in held and group.may_adopt(stream, o, holding.attempt) for o in offsets
        ):
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

    def leave(self, link: bytes, frame: Leave, now_ns: int) -> None:
        """A member goes in order: what it holds is anybody's. Or the node it is at has lost it."""
        if not frame.lost:
            self._leave(link, frame.consumer)
            return
        found = self._by_link.get(link, {}).pop(frame.consumer, None)
        if found is not None:
            self._orphan(*found, now_ns + limits.ORPHANED_NS, now_ns)

    def _leave(self, link: bytes, consumer: int) -> None:
        found = self._by_link.get(link, {}).pop(consumer, None)
        if found is None:
            return
        group, member = found
        del group.members[link, consumer]
        self._forget_place(group, member)
        group.drop_pending(member)
        for h in list(member.hand_outs.values()):
            group.give_back(h, h.left, False)
        group.wake()

    def drop_link(self, link: bytes, now_ns: int) -> None:
        """A session ended: its members may come back in another one."""
        for group, member in self._by_link.pop(link, {}).values():
            # A whole node is gone: its programs go to others.
            wait_ns = limits.MOVED_NS if member.home else limits.ORPHANED_NS
            self._orphan(group, member, now_ns + wait_ns, now_ns)

    def _orphan(self, group: Group, member: Member, until_ns: int, now_ns: int) -> None:
        del group.members[member.link, member.consumer]
        self._forget_place(group, member)
        group.drop_pending(member)
        group.wake()
        self._settled.pop((member.link, member.consumer), None)
        if member.hand_outs:
            key = (*member.key, group.settings.id)
            # Two sessions of one program, both lost: which one comes back cannot be told.
            self._end_orphan(key, now_ns)
            self._orphans[key] = _Orphan(group, member, until_ns)

    def _forget_place(self, group: Group, member: Member) -> None:
        key = (*member.key, group.settings.id)
        if self._places.get(key) == (member.link, member.consumer):
            del self._places[key]

    def _end_orphans(self, now_ns: int) -> None:
        for key in [k for k, o in self._orphans.items() if o.until_ns <= now_ns]:
            self._end_orphan(key, now_ns)

    def _end_orphan(self, key: tuple[bytes, int, int], now_ns: int) -> None:
        orphan = self._orphans.pop(key, None)
        if orphan is not None:
            group = orphan.group
            hand_outs = sorted(orphan.member.hand_outs.values(), key=lambda h: h.number)
            for n, h in enumerate(hand_outs):
                begun = h.left & -h.left if n == 0 else 0
                group.take_back(h, h.left, begun, LOST, now_ns, alone=False)

    # -- what members say -------------------------------------------------------------------

    def settle(self, link: bytes, frame: Settle, now_ns: int) -> None:
        """A member settles records. Raises BadFrame where most of it is not its own."""
        found = self._by_link.get(link, {}).get(frame.consumer)
        stale: list[SettleRow] = []
        if found is None:
            stale += [row._replace(reason="no such consumer") for row in frame.rows]
        else:
            group, member = found
            group.wake()
            for n, row in enumerate(frame.rows, 1):
                self._settle_row(group, member, row, stale, now_ns)
                if len(stale) > STALE_ROWS_MAX and member.home:
                    # One program's fault: the link is that of all programs of its node.
                    stale += [row._replace(reason="not looked at") for row in frame.rows[n:]]
                    break
                if len(stale) > STALE_ROWS_MAX:
                    raise BadFrame(f"a settle frame has over {STALE_ROWS_MAX} runs of records that "
                                   f"are not its member's")  # fmt: skip
        key = (link, frame.consumer)
        had = self._settled.get(key)
        self._settled[key] = Settled(
            frame.consumer, frame.number, (*(had.stale if had else ()), *stale)
        )

    def _settle_row(
        self, group: Group, member: Member, row: SettleRow, stale: list[SettleRow], now_ns: int
    ) -> None:
        h = member.hand_outs.get(row.number)
        if row.kind in (ACK, NACK, REJECT):
            member.is_slow = False
        if row.first + row.count > (h.count if h is not None else limits.BATCH_RECORDS_MAX):
            stale.append(row._replace(delay_ns=0, reason=_stale(group, row.number)))
            return
        wanted = ((1 << row.count) - 1) << row.first
        if row.kind == ACK and member.said:
            wanted &= ~member.said.get(row.number, 0)
            if not wanted:
                return
        if h is None:
            stale.append(row._replace(delay_ns=0, reason=_stale(group, row.number)))
            return
        bits = h.left & wanted
        if bits != wanted:
            for first, count in runs_of_bits(wanted & ~bits):
                stale.append(SettleRow(row.number, first, count, row.kind, 0, _stale(group, 0)))
            if not bits:
                return
        if row.kind == ACK:
            group.ack(h, bits)
            if not h.left:
                self._remember(h)
        elif row.kind == NACK:
            delay = max(BACKOFF, min(row.delay_ns, limits.DELAY_NS_MAX))
            group.nack(h, bits, delay, row.reason[: limits.REASON_BYTES_MAX], now_ns)
        elif row.kind == REJECT:
            group.reject(h, bits, row.reason[: limits.REASON_BYTES_MAX], now_ns)
        elif row.kind == EXTEND:
            longer = max(0, min(row.delay_ns, limits.ACK_TIMEOUT_NS_MAX))
            group.extend(h, row.first, row.count, now_ns + longer)
        else:
            # Its program does not come to them: others that have room are asked first.
            member.is_slow = True
            group.drop_pending(member)
            group.give_back(h, bits, False, alone=True)

    def _remember(self, h: HandOut) -> None:
        """All of it is settled; its acks may be said again. The oldest are forgotten."""
        done = self._done[h.number] = joined(h.acked)
        self._done_runs += len(done)
        while (
            len(self._done) > limits.HAND_OUTS_REMEMBERED_MAX
            or self._done_runs > limits.ACKED_RUNS_REMEMBERED_MAX
        ):
            _, forgotten = self._done.popitem(last=False)
            self._done_runs -= len(forgotten)

    def held_by(self, link: bytes, consumer: int, number: int) -> tuple[Group, HandOut] | None:
        """A hand-out that a member of this link has."""
        found = self._by_link.get(link, {}).get(consumer)
        h = found[1].hand_outs.get(number) if found is not None else None
        return (found[0], h) if found is not None and h is not None else None

    def forget(self, group: Group) -> None:
        """A group was deleted."""
        name = group.settings.name
        for link, members in self._by_link.items():
            for number in [n for n, (g, _) in members.items() if g is group]:
                self._forget_place(*members.pop(number))
                gone = Consumed(number, "group-not-found", f"{name!r} was deleted")
                self._groups.sends.append((link, gone))
        self._orphans = {k: o for k, o in self._orphans.items() if o.group is not group}

    # -- time -------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` is due."""
        return min([orphan.until_ns for orphan in self._orphans.values()], default=None)

    def tick(self, now_ns: int) -> None:
        """Members that have not come back in time are gone."""
        if self._orphans:
            self._end_orphans(now_ns)

    def take_settled(self) -> list[tuple[bytes, Body]]:
        """The answers to what members said in this turn, for when it is synced."""
        found: list[tuple[bytes, Body]] = []
        for (link, _), settled in self._settled.items():
            stale = settled.stale
            while len(stale) > limits.FRAME_BATCHES_MAX:
                part, stale = stale[: limits.FRAME_BATCHES_MAX], stale[limits.FRAME_BATCHES_MAX :]
                found.append((link, Settled(settled.consumer, 0, part)))
            found.append((link, Settled(settled.consumer, settled.number, stale)))
        self._settled = {}
        return found


def _stale(group: Group, number: int) -> str:
    if number in group.hand_outs:
        return "it is in another consumer's hands"
    return "it was settled, or taken back after its time"
