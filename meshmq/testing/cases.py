"""What the referee of the groups' world knows: the log, and a case of each record in each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from meshmq import limits
from meshmq.core.log import Commit
from meshmq.frames import SettleRow

if TYPE_CHECKING:
    from meshmq.testing.group_world import GroupWorld

Place = tuple[str, int]  # topic, offset
Pair = tuple[str, str]  # group, topic
OPEN, ACKED, DEAD, CANCELLED, PURGED = "open", "acked", "dead", "cancelled", "purged"


class Stored(NamedTuple):
    """One record of the log."""

    value: bytes
    key: bytes
    headers: dict[str, str]
    due_ms: int
    expires_ms: int
    priority: int
    dedup: bytes
    append_ns: int
    lsn: int
    slot: int


@dataclass(slots=True, eq=False)
class Hold:
    """One hand-out in a member's hands."""

    group: str
    number: int
    link: bytes
    consumer: int
    instance: bytes
    topic: str
    offsets: list[int]
    attempt: int
    timeout_ns: int
    deadlines: dict[int, int]  # by offset, of what is left
    orphan_until: int | None = None
    is_lost: bool = False
    is_claimed: bool = False  # it came back, and the node has not answered
    is_earlier: bool = False  # ... and an earlier life of the node handed it out


@dataclass(slots=True, eq=False)
class Case:
    """What the referee knows of one record in one group.

    Attributes:
        is_sure: what ``status`` says was confirmed, or is on disk.
        begun: a program has begun it in a delivery that did not end as "not begun".
        fails, fails_max: deliveries that failed for certain; that may have.
        wait_ms: not before; ``wait_sure`` whether that survives a kill.
        loose: it failed with an earlier record of its key.
        acks_plain: accepted, over its life, but for those in transactions.
        settled_by: what was said of it last.
        maybe_cancelled: the answer to a cancel was lost.
    """

    status: str = OPEN
    is_sure: bool = False
    hold: Hold | None = None
    begun: bool = False
    fails: int = 0
    fails_max: int = 0
    wait_ms: int = 0
    wait_sure: bool = True
    loose: bool = False
    lapsed: bool = False
    excuse: str = ""
    may_die: bool = False
    acks_plain: int = 0
    given: int = 0
    settled_by: Pending | None = None
    maybe_cancelled: bool = False


class Pending(NamedTuple):
    """One row of a Settle frame that was accepted, by record."""

    row: SettleRow
    place: int
    offset: int
    case: Case | None  # None: not the member's
    hold: Hold | None
    lapsed: bool
    deadline: int = 0  # of the hold
    in_transaction: bool = False


@dataclass(slots=True, eq=False)
class Membership:
    """One member, by link and number.

    Attributes:
        claims: what it said it holds when it came back: (topic, offsets, attempt) by hand-out.
        is_answered: whether the node has said which of them it has left.
        given_away: claimed hand-outs of which others got something before it was answered.
        taken_back: (hand-out, offset) of what was claimed and revoked before it was answered.
    """

    group: str
    instance: bytes
    timeout_ns: int
    prefetch: int
    joined_ns: int
    claims: dict[int, tuple[str, list[int], int]] = field(default_factory=dict)
    given_away: set[int] = field(default_factory=set)
    taken_back: set[tuple[int, int]] = field(default_factory=set)
    is_answered: bool = False
    frames: list[tuple[int, list[Pending]]] = field(default_factory=list)


class Cases:
    """See the module's header."""

    def __init__(self, world: GroupWorld) -> None:
        self.world = world
        self.faults: list[str] = []
        self.log: dict[Place, Stored] = {}
        self.by_key: dict[tuple[str, bytes], list[int]] = {}
        self.ends: dict[str, int] = {}  # by topic, behind the last record stored
        self.trimmed: dict[str, int] = {}
        self.cases: dict[str, dict[Place, Case]] = {}
        self.floors: dict[Pair, int] = {}  # (group, topic): it begins there
        self.excused: dict[Pair, int] = {}  # the same, but nobody knows it exactly
        self.seeks: Counter[str] = Counter()
        self.replayed: dict[str, set[int]] = {}
        self.dropped: dict[str, set[int]] = {}
        self.members: dict[tuple[bytes, int], Membership] = {}
        self.holds: dict[tuple[str, int], Hold] = {}
        self._commands: dict[tuple[bytes, int], tuple[str, dict[str, Any]]] = {}
        self._transactions: dict[tuple[bytes, int], list[Pending]] = {}
        self._by_time: list[tuple[int, str]] = []  # seeks (time, group) the log is not asked for
        self._surveys: dict[int, str] = {}  # group of the seek that waits for the log's answer
        self._said: set[str] = set()
        self.streams: dict[int, str] = {}
        self.outputs: Counter[bytes] = Counter()

    # -- words ------------------------------------------------------------------------------

    @property
    def _now(self) -> int:
        return self.world.now_ns

    @property
    def _wall_ms(self) -> int:
        return (self.world.now_ns + self.world.wall_ns) // limits.MS

    def fault(self, group: str, place: Place, what: str) -> None:
        """Note what was not allowed, once."""
        text = f"{group}: {place[0]} {place[1]} {what}"
        if text not in self._said:
            self._said.add(text)
            self.faults.append(f"{text} (at {self._now / 1e9:.4f} s)")

    def case(self, group: str, place: Place) -> Case:
        return self.cases.setdefault(group, {}).setdefault(place, Case())

    def is_damaged(self, stored: Stored) -> bool:
        """Whether what the disk has of it has changed."""
        return (stored.lsn, stored.slot) in self.world.disk.flipped

    def _is_keyed(self, group: str) -> bool:
        return bool(self.world.wishes[group].get("order") == "key")

    def _lapsed(self, case: Case, place: Place, group: str) -> bool:
        """Whether the node may take the record from who has it, as far as anybody can tell."""
        hold = case.hold
        assert hold is not None
        if case.loose or case.lapsed:
            return True
        if hold.deadlines.get(place[1], 0) <= self._now:
            return True
        if hold.orphan_until is not None and hold.orphan_until <= self._now:
            return True
        return self._is_keyed(group) and any(
            c.hold is not None
            and c.hold.link == hold.link
            and (c.hold.deadlines.get(offset, 0) <= self._now)
            for offset, c in self._earlier(group, place, is_all=True)
        )

    def _earlier(
        self, group: str, place: Place, is_all: bool = False
    ) -> Iterator[tuple[int, Case]]:
        """Records of the same key before this one, as far as the group may have to do with;
        ``is_all``: what retention took from somebody's hands, too."""
        topic, offset = place
        stored = self.log.get(place)
        if stored is None or not stored.key:
            return
        pair = (group, topic)
        floor = max(self.floors.get(pair, 0), self.excused.get(pair, 0), self.trimmed.get(topic, 0))
        for other in self.by_key.get((topic, stored.key), ()):
            if other >= offset:
                return
            if other >= floor or is_all:
                yield other, self.case(group, (topic, other))

    def _later(self, group: str, place: Place) -> Iterator[Case]:
        topic, offset = place
        stored = self.log.get(place)
        if stored is None or not stored.key or not self._is_keyed(group):
            return
        cases = self.cases.get(group, {})
        for other in self.by_key.get((topic, stored.key), ()):
            if other > offset and (topic, other) in cases:
                yield cases[topic, other]

    # -- the log ----------------------------------------------------------------------------

    def synced(self, commit: Commit) -> None:
        """A commit is on disk."""
        for topic in commit.topics:
            self.streams[topic.stream] = topic.name
        tools = self.world.tools
        for slot, batch in enumerate(commit.batches):
            name = self.streams[batch.stream]
            if name == "$journal":
                continue
            records = tools.decode(batch.payload, batch.count)
            options: Any = tools.options(batch.payload)
            for i in range(batch.count):
                headers = tools.decode_headers(records.headers[i]) if records.headers else {}
                key = bytes(records.keys[i]) if records.keys else b""
                place = (name, batch.base_offset + i)
                value = bytes(records.values[i])
                self.log[place] = Stored(
                    value, key, headers,
                    options.due_ms if options else 0, options.expires_ms if options else 0,
                    options.priority if options else 0, options.dedup if options else b"",
                    commit.append_time_ns, commit.lsn, slot,
                )  # fmt: skip
                if key:
                    self.by_key.setdefault((name, key), []).append(place[1])
                if value.startswith(b"out|"):
                    self.outputs[value] += 1
            self.ends[name] = batch.base_offset + batch.count
        for trim in commit.trims:
            name = self.streams[trim.stream]
            self.trimmed[name] = max(self.trimmed.get(name, 0), trim.first_offset)
