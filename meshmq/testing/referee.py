"""Watches what passes between a node and the members of its groups, and says what is not allowed.

It stands at the node's border: it is told of every frame that the node's sessions accept and every
one they send, in order, of lost sessions, commits and restarts. From these alone it knows who holds
which record, what a member was told, and what the node may do next. ``faults`` are sentences.

Where a kill leaves open what was stored, it looks at the disk's journal, which is what a restart
goes by as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meshmq import limits
from meshmq.core.journal import REJECTED
from meshmq.frames import (
    ACK,
    BACKOFF,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Body,
    Command,
    Consume,
    Consumed,
    HandOut,
    HandOutRow,
    Leave,
    Result,
    Revoke,
    Settle,
    Settled,
    SettleRow,
    Transact,
    Transacted,
)
from meshmq.testing.cases import (
    ACKED,
    CANCELLED,
    DEAD,
    OPEN,
    PURGED,
    Case,
    Hold,
    Membership,
    Pending,
    Place,
)
from meshmq.testing.commands import Commands

if TYPE_CHECKING:
    from meshmq.core.journal import GroupState

CLAIMED = "claimed"  # excuses what was settled before its claim was answered


class Referee(Commands):
    """See the module's header."""

    # -- what the node's sessions accept ------------------------------------------------------

    def accepted(self, link: bytes, instance: bytes, body: Body) -> None:
        """The node is about to act on a frame."""
        match body:
            case Consume():
                self._on_consume(link, instance, body)
            case Settle():
                self._on_settle(link, body)
            case Leave(consumer):
                if self.members.pop((link, consumer), None) is not None:
                    for hold in self._holds_of(link, consumer):
                        self._end_hold(hold, list(hold.deadlines), begun=False)
            case Transact():
                self._on_transact(link, body)
            case Command():
                self.on_command(link, body)
            case _:
                pass

    def _holds_of(self, link: bytes, consumer: int) -> list[Hold]:
        return [h for h in self.holds.values() if h.link == link and h.consumer == consumer]

    def _end_hold(self, hold: Hold, offsets: Sequence[int], begun: bool = True) -> None:
        """These records are no longer in the member's hands."""
        for offset in offsets:
            if hold.deadlines.pop(offset, None) is None:
                continue
            case = self.case(hold.group, (hold.topic, offset))
            if case.hold is hold:
                case.hold = None
                case.loose = case.lapsed = False
                case.begun = case.begun and begun
        if not hold.deadlines:
            self.holds.pop((hold.group, hold.number), None)

    def _on_consume(self, link: bytes, instance: bytes, body: Consume) -> None:
        group = body.group
        self.note_group(group, json.loads(body.create) if body.create else {})
        member = Membership(
            group, instance, max(limits.ACK_TIMEOUT_NS_MIN, body.ack_timeout_ns),
            body.prefetch_records, self._now,
        )  # fmt: skip
        self.members[link, body.consumer] = member
        for holding in body.holdings:
            member.claims[holding.number] = (
                holding.topic, list(holding.offsets), holding.attempt,
            )  # fmt: skip
        mine = [
            h
            for h in self.holds.values()
            if h.instance == instance and h.consumer == body.consumer and h.group == group
        ]
        for hold in mine:
            over = hold.orphan_until is not None and hold.orphan_until <= self._now
            for offset, deadline in hold.deadlines.items():
                if over or deadline <= self._now:
                    place = (hold.topic, offset)
                    self._failed_maybe(hold, place, self.case(group, place))
                    self.case(group, place).lapsed = True
            claim = member.claims.get(hold.number)
            wanted = set(claim[1]) if claim else set()
            self._end_hold(hold, [o for o in hold.deadlines if o not in wanted])
            if not hold.deadlines:
                continue
            hold.is_claimed = True
            hold.link = link
            hold.orphan_until = None
            if claim is not None:
                hold.offsets = claim[1]
            for offset in hold.deadlines:
                hold.deadlines[offset] = self._now + member.timeout_ns
        self._claim(link, body.consumer, member)

    def _claim(self, link: bytes, consumer: int, member: Membership) -> None:
        """Of what an earlier life of the node handed out, what is claimed may be the member's."""
        for number, (topic, offsets, attempt) in member.claims.items():
            if (member.group, number) in self.holds:
                continue
            hold = Hold(
                member.group, number, link, consumer, member.instance, topic, offsets, attempt,
                member.timeout_ns, {}, is_claimed=True, is_earlier=True,
            )  # fmt: skip
            for offset in offsets:
                case = self.case(member.group, (topic, offset))
                if case.hold is None and case.status == OPEN:
                    case.hold = hold
                    hold.deadlines[offset] = self._now + member.timeout_ns
            if hold.deadlines:
                self.holds[member.group, number] = hold

    def _resolve(self, link: bytes, consumer: int, number: int) -> tuple[str, list[int]]:
        """Topic and offsets of what a member calls by this number; its claims count."""
        member = self.members.get((link, consumer))
        if member is None:
            return "", []
        claim = member.claims.get(number)
        if claim is not None:
            return claim[0], claim[1]
        hold = self.holds.get((member.group, number))
        return (hold.topic, hold.offsets) if hold is not None else ("", [])

    def _pending(self, link: bytes, consumer: int, row: SettleRow) -> list[Pending]:
        member = self.members.get((link, consumer))
        found: list[Pending] = []
        topic, offsets = self._resolve(link, consumer, row.number)
        for index in range(row.first, row.first + row.count):
            offset = offsets[index] if index < len(offsets) else -1
            hold = self.holds.get((member.group, row.number)) if member else None
            case = None
            mine = hold is not None and (hold.link, hold.consumer) == (link, consumer)
            if hold is not None and mine and offset in hold.deadlines:
                case = self.case(hold.group, (topic, offset))
                if case.hold is not hold:
                    case = None
            lapsed = case is not None and self._lapsed(case, (topic, offset), hold.group)  # type: ignore[union-attr]
            deadline = hold.deadlines.get(offset, 0) if hold is not None else 0
            found.append(Pending(row, index, offset, case, hold, lapsed, deadline))
        return found

    def _on_settle(self, link: bytes, body: Settle) -> None:
        member = self.members.get((link, body.consumer))
        if member is None:
            return
        pending: list[Pending] = []
        for row in body.rows:
            some = self._pending(link, body.consumer, row)
            pending += some
            for p in some:
                if p.case is not None and p.hold is not None:
                    self._apply(p, p.hold, p.case)
        member.frames.append((body.number, pending))

    def _apply(self, p: Pending, hold: Hold, case: Case) -> None:
        """What a member says of a record that is its own, taken at its word."""
        row, place = p.row, (hold.topic, p.offset)
        if row.kind == EXTEND:
            hold.deadlines[p.offset] = self._now + max(0, row.delay_ns)
            return
        self._end_hold(hold, [p.offset], begun=row.kind != RETURN)
        case.excuse = "late" if p.lapsed else ""
        case.settled_by = p
        if row.kind == ACK:
            case.status, case.is_sure = ACKED, False
            case.acks_plain += not p.in_transaction
        if row.kind in (NACK, REJECT, RETURN):
            for later in self._later(hold.group, place):
                later.loose = later.hold is not None
        if row.kind in (NACK, REJECT):
            case.fails_max += 1
            most = self.world.wishes[hold.group]["max_deliveries"]
            if row.kind == REJECT or hold.attempt >= most:
                case.status, case.is_sure = DEAD, False
                case.may_die = True
            else:
                delay = row.delay_ns
                if delay == BACKOFF:
                    wish = self.world.wishes[hold.group]
                    delay = int(0.8 * min(wish["backoff_ns"] << (hold.attempt - 1),
                                          wish["backoff_max_ns"])) - limits.MS  # fmt: skip
                # Its time may have been over before it said so.
                wait_ms = 0 if p.lapsed else self._wall_ms + delay // limits.MS
                case.wait_ms, case.wait_sure = wait_ms, False

    def _on_transact(self, link: bytes, body: Transact) -> None:
        pending: list[Pending] = []
        if (link, body.id) in self._transactions:
            return
        for ack in body.acks:
            row = SettleRow(ack.number, ack.first, ack.count, ACK)
            some = self._pending(link, ack.consumer, row)
            pending += [p._replace(in_transaction=True) for p in some]
        if all(p.case is not None for p in pending):
            for p in pending:
                assert p.case is not None
                assert p.hold is not None
                self._apply(p, p.hold, p.case)
                if p.hold.is_claimed:  # whether it was its own is told later
                    p.case.excuse = p.case.excuse or CLAIMED
                if self.world.full_count:
                    # A full disk refuses it; its time may be over before that is told.
                    p.case.excuse = p.case.excuse or "refused"
                    p.case.fails_max += 1
                    p.case.may_die = True
        self._transactions[link, body.id] = pending

    # -- what the node's sessions send ---------------------------------------------------------

    def sent(self, link: bytes, body: Body) -> None:
        """The node sends a frame for the first time."""
        match body:
            case HandOut(consumer, rows, _):
                for row in rows:
                    self._on_hand_out(link, consumer, row)
            case Settled():
                self._on_settled(link, body)
            case Revoke(consumer, rows):
                self._on_revoke(link, consumer, rows)
            case Consumed():
                self._on_consumed(link, body)
            case Transacted():
                self._on_transacted(link, body)
            case Result():
                self.on_result(link, body)
            case _:
                pass

    def _on_hand_out(self, link: bytes, consumer: int, row: HandOutRow) -> None:
        member = self.members.get((link, consumer))
        offsets = list(row.offsets) or list(range(row.first, row.first + row.count))
        if member is None:
            return  # it left while this was on its way
        group = member.group
        hold = Hold(
            group, row.number, link, consumer, member.instance, row.topic, offsets, row.attempt,
            member.timeout_ns, {},
        )  # fmt: skip
        for offset in offsets:
            place = (row.topic, offset)
            case = self.case(group, place)
            old = case.hold
            if old is not None and self._lapsed(case, place, group):
                self._failed_maybe(old, place, case)  # its Revoke had nowhere to go
            self._judge_hand_out(group, place, case, row, link, consumer)
            if old is not None:
                if old.is_claimed:
                    claimer = self.members.get((old.link, old.consumer))
                    if claimer is not None:
                        claimer.given_away.add(old.number)
                self._end_hold(old, [offset])
            if case.status != OPEN:
                case.status = OPEN
            case.hold = hold
            case.given += 1
            case.wait_ms = 0
            hold.deadlines[offset] = self._now + member.timeout_ns
        self.holds[group, row.number] = hold
        mine = sum(len(h.deadlines) for h in self._holds_of(link, consumer))
        if mine > member.prefetch:
            self.fault(
                group, (row.topic, row.first), f"over the prefetch {member.prefetch}: {mine}"
            )

    def _judge_hand_out(
        self, group: str, place: Place, case: Case, row: HandOutRow, link: bytes, consumer: int
    ) -> None:
        def fault(what: str) -> None:
            self.fault(group, place, f"(attempt {row.attempt}) {what}")

        stored = self.log.get(place)
        if stored is None:
            fault("is handed out and not on disk")
            return
        if not self.world.sources_of(group)(place[0]):
            fault("is handed out and none of the group's")
        if place[1] < self.floors.get((group, place[0]), 0):
            fault("is handed out and lies before the group's beginning")
        held = case.hold
        if held is not None and not held.is_claimed and not self._lapsed(case, place, group):
            fault(f"is handed out and in {held.link!r}'s hands")
        if case.status != OPEN and (case.is_sure or not case.excuse):
            sure = "confirmed" if case.is_sure else "accepted"
            fault(f"is handed out again and its end was {sure}: {case.status}")
        wall = self._wall_ms
        if 0 < stored.expires_ms <= wall:
            fault(f"is handed out {wall - stored.expires_ms} ms after its time to live")
        if stored.due_ms > wall and place not in self.world.moved:
            fault(f"is handed out {stored.due_ms - wall} ms before it is due")
        if case.wait_ms > wall:
            fault(f"is handed out {case.wait_ms - wall} ms before its retry is due")
        if case.begun and row.attempt == 1 and not row.maybe_duplicate:
            fault("may be a duplicate and does not say so")
        low, high = 1 + case.fails, 1 + case.fails_max
        if not low <= row.attempt <= high:
            fault(f"has attempt {row.attempt}, not {low} to {high}")
        if row.attempt > self.world.wishes[group]["max_deliveries"]:
            fault("has more attempts than the group allows")
        if self._is_keyed(group):
            self._judge_order(group, place, (link, consumer), fault)

    def _judge_order(
        self, group: str, place: Place, who: tuple[bytes, int], fault: Callable[[str], None]
    ) -> None:
        for offset, other in self._earlier(group, place):
            held_by = other.hold
            # What is cancelled or purged is gone before that is told.
            is_going = other.excuse in (CANCELLED, PURGED)
            if other.status != OPEN or is_going or other.may_die:
                continue
            if self.is_damaged(self.log[place[0], offset]):
                continue  # the node has given it up, whoever has it
            if held_by is None or held_by.is_earlier:
                # Delayed jobs come when they are due.
                is_late = place[0].startswith("$delayed.") or (place[0], offset) in self.world.moved
                if not is_late and not self._is_over(group, (place[0], offset)):
                    fault(f"overtakes {offset} of its key, which waits")
            elif (held_by.link, held_by.consumer) != who:
                fault(f"overtakes {offset} of its key, which {held_by.link!r} has")

    def _is_over(self, group: str, place: Place) -> bool:
        """Whether a record that nobody has is none that the group will hand out."""
        stored = self.log.get(place)
        return stored is None or 0 < stored.expires_ms <= self._wall_ms or self.is_damaged(stored)

    def _on_revoke(self, link: bytes, consumer: int, rows: Sequence[SettleRow]) -> None:
        member = self.members.get((link, consumer))
        if member is None:
            return
        for row in rows:
            if row.number in member.claims and not member.is_answered:
                self._left(link, consumer, member, row)
            hold = self.holds.get((member.group, row.number))
            if hold is None or (hold.link, hold.consumer) != (link, consumer):
                continue
            for index in range(row.first, row.first + row.count):
                if index >= len(hold.offsets):
                    place = (hold.topic, hold.offsets[0])
                    self.fault(member.group, place, f"Revoke names record {index} of its hand-out")
                    continue
                offset = hold.offsets[index]
                place = (hold.topic, offset)
                case = self.case(member.group, place)
                if case.hold is not hold:
                    continue
                if not self._lapsed(case, place, member.group):
                    self.fault(member.group, place, "is taken back without a cause")
                if hold.is_claimed:
                    member.taken_back.add((row.number, offset))
                self._failed_maybe(hold, place, case)
                self._end_hold(hold, [offset])

    def _left(self, link: bytes, consumer: int, member: Membership, row: SettleRow) -> None:
        """A Revoke before the answer: the node had left it this claim. Where others name the same
        records, nobody could know which of them it would be."""
        topic, offsets, attempt = member.claims[row.number]
        hold = self.holds.get((member.group, row.number))
        if hold is None:
            hold = Hold(
                member.group, row.number, link, consumer, member.instance, topic, offsets, attempt,
                member.timeout_ns, {}, is_claimed=True,
            )  # fmt: skip
        for offset in offsets[row.first : row.first + row.count]:
            case = self.case(member.group, (topic, offset))
            other = case.hold
            if other is hold or case.status != OPEN or (other and not other.is_claimed):
                continue
            if other is not None:
                del other.deadlines[offset]
                if not other.deadlines:
                    del self.holds[member.group, other.number]
            case.hold = hold
            hold.deadlines[offset] = member.joined_ns + member.timeout_ns
            self.holds[member.group, row.number] = hold

    def _failed_maybe(self, hold: Hold, place: Place, case: Case) -> None:
        """Its delivery ended by time or with its session: perhaps that counts as a failure."""
        case.fails_max += 1
        if hold.attempt >= self.world.wishes[hold.group]["max_deliveries"]:
            case.may_die = True
        for later in self._later(hold.group, place):
            later.loose = later.hold is not None

    def _on_settled(self, link: bytes, body: Settled) -> None:
        member = self.members.get((link, body.consumer))
        if member is None:
            return
        stale: Counter[tuple[int, int, int]] = Counter()
        for row in body.stale:
            for index in range(row.first, row.first + row.count):
                stale[row.number, index, row.kind] += 1
        while member.frames and member.frames[0][0] <= body.number:
            for p in member.frames.pop(0)[1]:
                key = (p.row.number, p.place, p.row.kind)
                if p.case is None:
                    if stale[key] > 0:
                        stale[key] -= 1
                    elif not self._said_before(member, p):
                        place = self._resolve(link, body.consumer, p.row.number)[0] or "?", p.offset
                        self.fault(member.group, place, "was settled by who had it no longer")
                    continue
                if stale[key] > 0 and (p.lapsed or not self._more(member, p, key, body.number)):
                    stale[key] -= 1
                    self._refused(member, p)
                else:
                    self._confirmed(member, p)

    def _more(self, member: Membership, p: Pending, key: tuple[int, int, int], number: int) -> bool:
        """Whether a later row of the same kind was refused, rather than this one."""
        later = [q for n, rows in member.frames if n <= number for q in rows]
        return any(q is not p and (q.row.number, q.place, q.row.kind) == key for q in later)

    def _said_before(self, member: Membership, p: Pending) -> bool:
        """Whether it is the ack of a claimed record again, whose answer was lost."""
        claim = member.claims.get(p.row.number)
        if p.row.kind != ACK:
            return False
        if claim is None:
            return self.seeks[member.group] > 0
        return self.case(member.group, (claim[0], p.offset)).status == ACKED

    def _refused(self, member: Membership, p: Pending) -> None:
        assert p.case is not None
        assert p.hold is not None
        if not p.lapsed:
            place = (p.hold.topic, p.offset)
            self.fault(member.group, place, f"kind {p.row.kind} was refused to who had it")
        if p.row.kind == ACK:
            p.case.acks_plain -= 1
        if p.case.hold is None and p.case.status in (ACKED, DEAD) and not p.case.is_sure:
            p.case.status = OPEN
            p.case.begun = True

    def _confirmed(self, member: Membership, p: Pending) -> None:
        case, hold = p.case, p.hold
        assert case is not None
        assert hold is not None
        place = (hold.topic, p.offset)
        if p.row.kind in (ACK, REJECT) and case.hold is not None:
            self.fault(member.group, place, "was handed out and then its end confirmed")
        if p.row.kind == ACK:
            case.status, case.is_sure = ACKED, True
            current = self.cases.get(member.group, {}).get(place)
            forgotten = case is not current  # by a seek that came after it
            if not forgotten and not self._is_settled(member.group, place):
                self.fault(member.group, place, "was told to be acked, and the disk knows nothing")
        elif p.row.kind == REJECT:
            case.status, case.is_sure = DEAD, True
        elif p.row.kind == NACK:
            case.fails += 1
            case.wait_sure = True
            if case.status == DEAD:
                case.is_sure = True

    def _state(self, group: str) -> GroupState | None:
        for state in self.world.disk.state.journal.groups.values():
            if state.settings.name == group:
                return state
        return None

    def _is_settled(self, group: str, place: Place) -> bool:
        state = self._state(group)
        topic = self.world.disk.state.topics.get(place[0])
        if state is None or topic is None:
            return False
        stream = topic.topic.stream
        return place[1] in state.settled(stream) and (stream, place[1]) not in state.marks

    def _on_consumed(self, link: bytes, body: Consumed) -> None:
        member = self.members.get((link, body.consumer))
        if member is None:
            return
        if body.code:
            del self.members[link, body.consumer]
            return
        member.is_answered = True
        for number, (topic, offsets, attempt) in member.claims.items():
            hold = self.holds.get((member.group, number))
            if number in body.lost:
                for (at, _), pending in self._transactions.items():
                    for p in pending:
                        if p.hold is not None and p.hold.number == number:
                            p.hold.is_lost = True
                            if at == link and p.case is not None:  # it will be refused
                                self._reopen(p.case)
                if hold is not None and (hold.link, hold.consumer) == (link, body.consumer):
                    for offset in hold.deadlines:
                        self.case(member.group, (topic, offset)).fails_max += 1
                    self._end_hold(hold, list(hold.deadlines))
                continue
            if hold is None:
                hold = Hold(
                    member.group, number, link, body.consumer, member.instance, topic, offsets,
                    attempt, member.timeout_ns, {},
                )  # fmt: skip
                self.holds[member.group, number] = hold
            is_earlier = hold.is_earlier
            hold.is_claimed = hold.is_earlier = False
            for offset in offsets:
                if (number, offset) in member.taken_back:
                    continue
                place = (topic, offset)
                case = self.case(member.group, place)
                if case.hold is not None and case.hold is not hold:
                    self.fault(member.group, place, "was left to who claimed it, another has it")
                elif case.status == ACKED:  # the node knows it as this member's ack
                    case.excuse = "" if case.excuse == CLAIMED else case.excuse
                elif case.status != OPEN and (case.is_sure or not case.excuse):
                    self.fault(member.group, place, f"was left to who claimed it: {case.status}")
                elif number in member.given_away and offset not in hold.deadlines:
                    self.fault(member.group, place, "was left to who claimed it, and given away")
                else:
                    if is_earlier:
                        self._judge_left(hold, place)
                    case.hold = hold
                    hold.deadlines.setdefault(offset, member.joined_ns + member.timeout_ns)
                    if self.seeks[member.group]:  # it was handed out before that, and counts on
                        case.fails_max = max(case.fails_max, attempt - 1)

    def _judge_left(self, hold: Hold, place: Place) -> None:
        """A record is a member's again, by its claim: until then it was in nobody's hands."""
        for later in self._later(hold.group, place):
            other = later.hold
            if other is not None and (other.link, other.consumer) != (hold.link, hold.consumer):
                what = f"was left to who claimed it, a later one of its key {other.link!r} has"
                self.fault(hold.group, place, what)

    def _on_transacted(self, link: bytes, body: Transacted) -> None:
        for p in self._transactions.pop((link, body.id), ()):
            if p.case is None or p.hold is None:
                continue  # a repeat: it was done before
            if body.code:
                self._take_back(p, p.hold, p.case)
            elif p.case.status == ACKED:
                p.case.is_sure = True

    @staticmethod
    def _reopen(case: Case) -> None:
        if case.status == ACKED and not case.is_sure and case.hold is None:
            case.status = OPEN

    def _take_back(self, p: Pending, hold: Hold, case: Case) -> None:
        """A transaction was refused: its record is still in the member's hands, or was not."""
        if hold.is_lost or case.settled_by is not p:
            return
        if case.status == ACKED and not case.is_sure and case.hold is None:
            case.status = OPEN
            if p.deadline > self._now:
                case.hold = hold
                case.lapsed = True
                hold.deadlines[p.offset] = p.deadline
                self.holds[hold.group, hold.number] = hold

    # -- lost sessions, kills, programs -------------------------------------------------------

    def dropped_link(self, link: bytes) -> None:
        """The node gave a session up."""
        for key in [k for k in self.members if k[0] == link]:
            del self.members[key]
        self.lose_commands([key for key in self._commands if key[0] == link])
        for hold in self.holds.values():
            if hold.link == link and hold.orphan_until is None:
                hold.orphan_until = self._now + limits.ORPHANED_NS
                hold.is_claimed = False
                if hold.attempt >= self.world.wishes[hold.group]["max_deliveries"]:
                    for offset in hold.deadlines:
                        self.case(hold.group, (hold.topic, offset)).may_die = True

    def restarted(self) -> None:
        """A new life of the node begins, with what the disk has."""
        self.members.clear()
        self.lose_commands(list(self._commands))
        self._transactions.clear()
        self._by_time.clear()
        self._surveys.clear()
        for hold in list(self.holds.values()):
            for offset in hold.deadlines:
                self.case(hold.group, (hold.topic, offset)).fails_max += 1
            self._end_hold(hold, list(hold.deadlines))
        self.holds.clear()
        for group, cases in self.cases.items():
            for place, case in cases.items():
                self._recover(group, place, case)

    def _recover(self, group: str, place: Place, case: Case) -> None:
        if not case.wait_sure:
            case.wait_ms, case.wait_sure = 0, True
        if case.excuse in (CANCELLED, PURGED) and not self._is_settled(group, place):
            case.excuse = ""
        if case.is_sure:
            return
        if case.status == ACKED:
            if self._is_settled(group, place):
                case.is_sure = True
            else:
                case.status = OPEN
        elif case.status == DEAD:
            state = self._state(group)
            topic = self.world.disk.state.topics.get(place[0])
            mark = None
            if state is not None and topic is not None:
                mark = state.marks.get((topic.topic.stream, place[1]))
            most = self.world.wishes[group]["max_deliveries"]
            if (
                mark is not None and (mark.flags & REJECTED or mark.attempts >= most)
            ) or self._is_settled(group, place):
                case.is_sure = True
            else:
                case.status = OPEN

    def begun(self, group: str, place: Place) -> None:
        """A program begins to work on a record; after a seek that may be one it has lost."""
        case = self.case(group, place)
        case.begun = case.begun or case.hold is not None
