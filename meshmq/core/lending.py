"""A member's prefetch, lent to one owner of records at a time.

Data: for each member at this node, what each other owner may use of its prefetch (``said``) and
what it has of it in flight; what our own log may use is the Member's own.

Rules:
1. What is in flight and what is lent is never more than the prefetch, over all owners. One that
   was lent something keeps it in our books until it has answered that it uses no more of it.
2. Credit that is free is our own log's, or that of one other owner (``lender``). It moves to one
   that has work which nobody has room for: at once where the lender has none, else when the
   lender's turn is over (LENT_NS, or LENT_RECORDS of them), so that each gets its share. A turn
   begins when there is credit to use: one whose member is busy with another's records loses none.
3. It moves for as much work as there is: members that are at this node are counted together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from meshmq import limits
from meshmq.core.group import Group
from meshmq.core.hand_out import Member
from meshmq.frames import EXTEND, Body, Consume, HandOutRow, Holding, Lend, SettleRow

AWAY, ASKED, JOINING, JOINED, REFUSED = range(5)

OWN = b""
"""Our own log among the owners."""


class Out:
    """One hand-out of another owner in a member's hands: a bit for each record that is not
    settled."""

    __slots__ = ("left", "record_bytes")

    def __init__(self, count: int, record_bytes: float) -> None:
        self.left = (1 << count) - 1
        self.record_bytes = record_bytes


@dataclass(slots=True, eq=False)
class Part:
    """A member at one other owner.

    Attributes:
        state: AWAY: there is no link with it; ASKED: the program was told that there is; JOINING;
            JOINED; REFUSED by it.
        outs: hand-outs by number.
        records, bytes, alone: what was said with the last Lend; ``number`` counts these.
        waits: of the last Lend that took something back and is not answered; 0: none.
        old_records, old_bytes: what the owner may use until then.
        handed: records it has handed out in all.
    """

    state: int = AWAY
    outs: dict[int, Out] = field(default_factory=dict)
    in_flight: int = 0
    in_flight_bytes: float = 0.0
    records: int = 0
    bytes: int = 0
    alone: bool = False
    number: int = 0
    waits: int = 0
    old_records: int = 0
    old_bytes: int = 0
    handed: int = 0

    def claim(self, holdings: Iterable[Holding]) -> None:
        """The program says what it holds: that, and nothing else."""
        self.outs.clear()
        self.in_flight, self.in_flight_bytes = 0, 0.0
        for holding in holdings:
            count = len(holding.offsets)
            if count:
                self._add(holding.number, Out(count, holding.size / count), count)

    def hand_out(self, rows: Iterable[HandOutRow]) -> None:
        """Records came for it."""
        for row in rows:
            if row.number not in self.outs:
                self._add(row.number, Out(row.count, row.length / max(1, row.held)), row.count)
                self.handed += row.count

    def _add(self, number: int, out: Out, count: int) -> None:
        self.outs[number] = out
        self.in_flight += count
        self.in_flight_bytes += count * out.record_bytes

    def close(self, rows: Iterable[SettleRow]) -> None:
        """The program has settled records, or they were taken back."""
        for row in rows:
            out = self.outs.get(row.number)
            if out is None or row.kind == EXTEND:
                continue
            count = min(row.count, limits.BATCH_RECORDS_MAX)
            bits = out.left & (((1 << count) - 1) << min(row.first, limits.BATCH_RECORDS_MAX))
            n = bits.bit_count()
            out.left &= ~bits
            self.in_flight -= n
            self.in_flight_bytes -= n * out.record_bytes
            if not out.left:
                del self.outs[row.number]
                if not self.outs:
                    self.in_flight_bytes = 0.0

    def forget(self) -> None:
        """Nothing of the owner is held any more."""
        self.outs.clear()
        self.in_flight, self.in_flight_bytes = 0, 0.0

    def is_away(self) -> None:
        """The link with the owner is over, and with it what was lent."""
        self.state = AWAY
        self.records = self.bytes = self.waits = self.old_records = self.old_bytes = 0
        self.alone = False

    @property
    def used(self) -> tuple[int, float]:
        """What of the prefetch is in flight, or may be."""
        records, size = self.records, self.bytes
        if self.waits:
            records, size = max(records, self.old_records), max(size, self.old_bytes)
        return max(records, self.in_flight), max(size, self.in_flight_bytes)


@dataclass(slots=True, eq=False)
class Borrower:
    """A member of a program that is at this node.

    Attributes:
        number: ours for it, on the links with other nodes.
        link, consumer: of its program.
        member: as it is in our own group.
        parts: by owner, but our own log.
        lender: whose credit is free.
        since_ns, handed: when the lender's turn began, and how much it had handed out then;
            ``has_begun``: whether it has.
        frame: with which it joined.
        is_told: its program was told of the owners that are there.
    """

    number: int
    link: bytes
    consumer: int
    group: Group
    member: Member
    frame: Consume
    parts: dict[bytes, Part] = field(default_factory=dict)
    lender: bytes = OWN
    since_ns: int = 0
    handed: int = 0
    has_begun: bool = True
    is_told: bool = False

    def part(self, origin: bytes) -> Part:
        found = self.parts.get(origin)
        if found is None:
            found = self.parts[origin] = Part()
        return found

    @property
    def is_moving(self) -> bool:
        """Whether some owner has not answered what was taken back."""
        return any(part.waits for part in self.parts.values())

    def free(self, origin: bytes) -> int:
        """How many records an owner may hand out to it now."""
        if origin == OWN:
            return max(0, self.member.most_records - self.member.in_flight)
        part = self.parts.get(origin)
        return max(0, part.records - part.in_flight) if part is not None else 0

    @property
    def in_flight(self) -> int:
        return self.member.in_flight + sum([part.in_flight for part in self.parts.values()])

    def handed_by(self, origin: bytes) -> int:
        return self.member.handed if origin == OWN else self.part(origin).handed

    def may_take_of(self, origin: bytes) -> bool:
        part = self.parts.get(origin)
        return origin == OWN or (part is not None and part.state == JOINED)


class Lending:
    """See the module's header.

    Args:
        link_of: name of the link with an owner.
        may_send: whether a program's link may be sent more.

    Attributes:
        sends: frames for owners; their user takes them.
        moved: groups whose credit with our own log has changed.
        denied: groups of which a program's link may not be sent more for now.
    """

    def __init__(
        self, link_of: Callable[[bytes], bytes], may_send: Callable[[bytes], bool]
    ) -> None:
        self._link_of = link_of
        self._may_send = may_send
        self.sends: list[tuple[bytes, Body]] = []
        self.moved: set[Group] = set()
        self.denied: set[Group] = set()

    def steer(
        self, borrowers: Sequence[Borrower], wants: dict[bytes, int], now_ns: int
    ) -> int | None:
        """Let the credit of a group's members here go where there is work: ``wants`` says about
        how much of it waits at each owner. Return when to look again."""
        covered = dict.fromkeys(wants, 0)
        for b in borrowers:
            if b.lender != OWN:
                covered[b.lender] = covered.get(b.lender, 0) + b.free(b.lender)
        due: int | None = None
        ring = sorted(wants)  # our own log first
        for b in borrowers:
            if not b.is_moving:
                at = self._steer_one(b, ring, wants, covered, now_ns)
                if at is not None and (due is None or at < due):
                    due = at
            self.grant(b, now_ns)
        return due

    def _steer_one(
        self, b: Borrower, ring: Sequence[bytes], wants: dict[bytes, int],
        covered: dict[bytes, int], now_ns: int,
    ) -> int | None:  # fmt: skip
        here = b.lender
        others = [o for o in ring if o != here and wants[o] > covered[o] and b.may_take_of(o)]
        if not others:
            return None
        room = b.member.prefetch_records - b.in_flight
        if not wants.get(here):
            if room <= 0:
                return None  # looked at again when something is settled
            to = others[0]
        else:
            if not b.has_begun:
                return None
            over_ns = b.since_ns + limits.LENT_NS
            most = max(b.member.prefetch_records, limits.LENT_RECORDS)
            if now_ns < over_ns and b.handed_by(here) - b.handed < most:
                return over_ns
            to = next((o for o in others if o > here), others[0])
        covered[here] = covered.get(here, 0) - b.free(here)
        covered[to] += max(0, room)
        self._move(b, to, now_ns)
        return None

    def _move(self, b: Borrower, to: bytes, now_ns: int) -> None:
        old, b.lender = b.lender, to
        b.handed, b.has_begun = b.handed_by(to), False
        if old == OWN:
            self._set_own(b, 0, 0, False)
            return
        part = b.part(old)
        if part.records:
            part.old_records, part.old_bytes = part.records, part.bytes
            part.number += 1
            part.waits = part.number
            part.records = part.bytes = 0
            part.alone = False
            self._lend(b, old, part, True)

    def take_back(self, b: Borrower, now_ns: int) -> None:
        """Its lender is gone: our own log is it."""
        self._move(b, OWN, now_ns)
        self.grant(b, now_ns)

    def grant(self, b: Borrower, now_ns: int) -> None:
        """Lend all that is free to the one whose turn it is."""
        self._grant(b)
        if not b.has_begun and b.free(b.lender):
            b.has_begun, b.since_ns = True, now_ns

    def _grant(self, b: Borrower) -> None:
        member, to = b.member, b.lender
        used = size = 0.0
        for origin, part in b.parts.items():
            if origin != to:
                more = part.used
                used, size = used + more[0], size + more[1]
        if to != OWN:
            used, size = used + member.in_flight, size + member.in_flight_bytes
        records = max(0, member.prefetch_records - int(used))
        left = int(member.prefetch_bytes - size)
        if left <= 0:
            records = left = 0
        alone = not used
        if to == OWN:
            self._set_own(b, records, left, alone)
            return
        part = b.part(to)
        if part.state != JOINED or part.waits or not records:
            return
        is_more = records > part.records or left > part.bytes or alone > part.alone
        if not is_more:
            return
        if not self._may_send(b.link):
            self.denied.add(b.group)
            return
        # It may have what it was lent before in flight already, and less is never said here.
        part.records, part.bytes = max(records, part.records), max(left, part.bytes)
        part.alone = alone or part.alone
        part.number += 1
        self._lend(b, to, part, False)

    def _set_own(self, b: Borrower, records: int, size: int, alone: bool) -> None:
        member, group = b.member, b.group
        if (member.most_records, member.most_bytes, member.may_exceed) == (records, size, alone):
            return
        if not records:
            group.drop_pending(member)
        member.most_records, member.most_bytes, member.may_exceed = records, size, alone
        group.wake()
        self.moved.add(group)

    def _lend(self, b: Borrower, origin: bytes, part: Part, answer: bool) -> None:
        frame = Lend(b.number, part.number, part.records, part.bytes, part.alone, answer)
        self.sends.append((self._link_of(origin), frame))
