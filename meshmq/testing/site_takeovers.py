"""Groups and a queue in a site whose nodes copy each other's logs: members anywhere, and a node
that takes over what a dead one had left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meshmq import codec, limits
from meshmq.core.consumer import Member
from meshmq.core.dead_letters import ATTEMPTS, REASON
from meshmq.core.effects import ClientEffect, CommandAnswered, HandedOut
from meshmq.core.held import Held
from meshmq.core.journal import GroupState, JournalState, unpack_deltas
from meshmq.core.log import BatchEntry, Commit
from meshmq.core.mirror_log import TakeoverEntry
from meshmq.frames import ACK, Consume, HandOut
from meshmq.limits import MAX_DELIVERIES_DEFAULT, MS, SECOND
from meshmq.names import JOURNAL, dead_letters_of, queue_of, retries_of
from meshmq.testing.disk import Disk
from meshmq.testing.site_copying import QUEUE, Written
from meshmq.testing.site_part import Part
from meshmq.testing.workers import decode

if TYPE_CHECKING:
    from meshmq.testing.copies_program import CopiesProgram
    from meshmq.testing.copies_world import CopiesWorld
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_program import SiteProgram

GROUP = "g"
DEAD_LETTERS = (dead_letters_of(GROUP), dead_letters_of(QUEUE))
TOLD_NS = 2 * SECOND  # a link that stands so long has brought what the other end knew


class Begun(NamedTuple):
    """A program has begun a record."""

    program: SiteProgram
    origin: bytes
    topic: str
    offset: int
    at_ns: int


class _Met(NamedTuple):
    """The first other node that a run of a node was linked with, and whether that one knew of a
    takeover of it."""

    other: Host
    knew: bool
    at_ns: int


class TakeoverPart(Part):
    """See the module's header.

    Attributes:
        begun: by value.
        taken_twice: what was handed out by a node although another one had taken it over.
        refused: answers to commands, by their words.
        taken_ns: when a takeover was answered; 0: none was.
        noted: takeovers that are on their takers' disks, and since when.
        given_up: by value, disks on which it is a dead letter: it was handed out too often to
            programs that did not live to work on it.
    """

    world: CopiesWorld

    def __init__(self, world: CopiesWorld) -> None:
        super().__init__(world)
        self.begun: dict[bytes, list[Begun]] = {}
        self.taken_twice: list[str] = []
        self.refused: Counter[str] = Counter()
        self.taken_ns = 0
        self.noted: dict[TakeoverEntry, int] = {}
        self.given_up: dict[bytes, set[Disk]] = {}
        self.started: dict[Host, int] = {}
        self._met: dict[tuple[Host, int], _Met] = {}
        self._admin: CopiesProgram | None = None
        self._asked = 0
        self._lefts: dict[tuple[Disk, tuple[int, int]], list[bytes]] = {}
        self._groups: dict[tuple[Disk, tuple[int, int]], set[str]] = {}

    # -- members ----------------------------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        if not program.name.startswith("p"):
            return
        rng = self.world.rng
        is_first = program.name == "p0"  # every group has a member in the end
        kinds = [(GROUP, "group"), *([(QUEUE, "queue")] if self.world.copying.has_queue else [])]
        for name, kind in kinds:
            if is_first or rng.random() < 0.5:
                join = partial(self._join, program, name, kind)
                self.world.after(int(rng.random() * SECOND), join)

    def _join(self, program: SiteProgram, group: str, kind: str) -> None:
        if not program.is_alive:
            return
        rng = self.world.rng
        pattern = "g.>" if kind == "group" else group
        create = {"group": group, "kind": kind}
        if kind == "group":
            create["pattern"] = pattern
        wish = Consume(
            0, group, pattern, json.dumps(create).encode(), rng.choice([1, 5, 40]), 1 << 20,
            rng.choice([SECOND, 3 * SECOND]),
        )  # fmt: skip
        program.client.consume(wish, None, self.world.now_ns)
        program.settle()

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        match effect:
            case HandedOut(number):
                delay = 1 + int(self.world.rng.random() * MS)
                self.world.after(delay, partial(self._work, program, number))
            case CommandAnswered(_, code, message, _) if program is self._admin:
                self._on_answer(code, message)

    def _work(self, program: SiteProgram, number: int) -> None:
        member = program.client.members.get(number)
        if member is None or not program.is_alive:
            return
        rng = self.world.rng
        while (held := member.begin(decode)) is not None:
            held.feed = list(held.records)
            for index in held.cursor:
                value = bytes(held.records[index])
                one = Begun(
                    program, held.origin, held.row.topic, held.offset(index), self.world.now_ns
                )
                self.begun.setdefault(value, []).append(one)
                slow = SECOND if self.world.is_busy and rng.random() < 0.3 else 30 * MS
                ack = partial(self._ack, program, member, held, index)
                self.world.after(int(rng.random() * slow), ack)
            member.finished(held)
        program.settle()

    def _ack(self, program: SiteProgram, member: Member, held: Held, index: int) -> None:
        if program.is_alive and not held.is_settled(index):
            member.settle(held, index, ACK)
            program.settle()

    # -- takeover ---------------------------------------------------------------------------------

    def begin_taking(self, delay_ns: int) -> None:
        """Somebody will say at some node that another one is to be taken over."""
        self.world.after(delay_ns, self._take)

    def _take(self) -> None:
        world, doom = self.world, self.world.doom
        assert doom is not None
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        is_back = doom.host in world.members and doom.fate == "back"
        if self.taken_ns or is_back or not self._has_copy():
            return
        running = [h for h in world.members if h.node is not None]
        if not running:
            world.after(300 * MS, self._take)
            return
        self._asked += 1
        at = world.rng.choice(running)
        self._admin = world.begin_reader(f"a{self._asked}", at)
        wish = {"name": doom.host.name, "assume_dead": world.rng.random() < 0.8}
        self._admin.client.command("node.takeover", json.dumps(wish).encode(), world.now_ns)
        self._admin.settle()
        number = self._asked
        world.after(2 * SECOND, lambda: self._asked == number and self._take())  # type: ignore[func-returns-value,arg-type]

    def _has_copy(self) -> bool:
        assert self.world.doom is not None
        origin = self.world.doom.origin
        return any(origin in h.disk.state.mirrors for h in self.world.members)

    def _on_answer(self, code: str, message: str) -> None:
        if code:
            self.refused[message] += 1
            self._asked += 1
            self.world.after(100 * MS + int(self.world.rng.random() * SECOND), self._take)
            return
        self.taken_ns = self.world.now_ns
        self.world.after(1, self._take)

    def on_synced(self, host: Host, commit: Commit) -> None:
        for said in commit.mirrors:
            if isinstance(said, TakeoverEntry) and said.taker == host.origin:
                self.noted.setdefault(said._replace(is_moved=False), self.world.now_ns)
        for b in commit.batches:
            stream = host.disk.state.streams.get(b.stream)
            if stream is not None and stream.topic.name in DEAD_LETTERS and b.payload:
                for value in _given_up(b):
                    self.given_up.setdefault(value, set()).add(host.disk)

    def is_given_up(self, value: bytes) -> bool:
        """Whether it is a dead letter now."""
        disks = self.given_up.get(value, ())
        return any(host.disk in disks for host in self.world.members)

    # -- what nodes hand out ----------------------------------------------------------------------

    def on_view(self, host: Host) -> None:
        key = (host, host.epoch)
        if key in self._met:
            return
        for origin in host.since:
            # With a copied disk there are two; what it hears last may come from one that is dead.
            same = [h for h in self.world.hosts if h.origin == origin]
            other = max(same, key=lambda h: h.node is not None)
            knew = host.origin in other.disk.state.takeovers
            self._met[key] = _Met(other, knew, self.world.now_ns)
            return

    def on_handed(self, host: Host, body: HandOut) -> None:
        """A node hands out records of its own log."""
        found = self.world.takeover_of(host.origin)
        if found is None:
            return
        entry = found[0]
        before = (entry.lsn, entry.slot)
        rows = [
            r
            for r in body.rows
            if (r.lsn, r.slot) < before and self._had(host.disk, before, r.topic)
        ]
        if not rows or not self._must_know(host, entry):
            return
        for row in rows:
            self.taken_twice.append(
                f"{host} handed out {row.topic} {row.first}, which {found[1]} has taken over "
                f"(at {self.world.now_ns / SECOND:.4f} s)"
            )

    def _had(self, disk: Disk, place: tuple[int, int], topic: str) -> bool:
        """Whether a log had a group for a topic before a place: else nothing was taken over."""
        key = (disk, place)
        if key not in self._groups:
            groups = _journal_before(disk, place).groups.values()
            self._groups[key] = {state.settings.name for state in groups}
        return _group_of(topic) in self._groups[key]

    def _must_know(self, host: Host, entry: TakeoverEntry) -> bool:
        """Whether a node that was taken over knows it, or has to wait for who may."""
        noted = host.disk.state.takeovers.get(host.origin)
        if noted is not None and noted.rank >= entry.rank:
            return True
        now_ns = self.world.now_ns
        doom = self.world.doom
        if doom is None or self.started[host] <= doom.at_ns:
            return False  # the run that it died in
        is_early = now_ns < self.started[host] + limits.RETURN_WAIT_NS
        met = self._met.get((host, host.epoch))
        if met is None:
            return is_early
        if not met.knew:
            return False
        link = host.since.get(met.other.origin)
        return is_early or (link is not None and link[1] + TOLD_NS < now_ns)

    # -- what must be there -----------------------------------------------------------------------

    def is_work(self, topic: str) -> bool:
        """Whether it is a group's or a queue's."""
        return bool(_group_of(topic))

    def waits_for(self, one: Written) -> bool:
        """Whether somebody must work on a record, and nobody has."""
        if not self.is_work(one.topic) or one.value in self.begun or self.is_given_up(one.value):
            return False
        doom = self.world.doom
        if doom is None or not doom.has_lost or one.batch.origin != doom.origin:
            return True
        found = self.world.takeover_of(doom.origin)
        # Of a group that it did not know nothing is taken over.
        place = (found[0].lsn, found[0].slot) if found is not None else (1, 0)
        return self._had(doom.disk, place, one.topic)

    def waits(self) -> Iterator[str]:
        """What is to be done yet."""
        doom = self.world.doom
        if doom is not None and doom.has_lost and not self.taken_ns and self._has_copy():
            yield f"{doom.host} is not taken over"
        for one in self.world.copying.expected(""):
            if self.waits_for(one):
                yield f"{one!r} waits"
        for host in self.world.members:
            site = host.node.site if host.node is not None else None
            if site is not None and site.copies.takeovers._movers:
                yield f"{host} moves what it has taken over"
        for value in self.find_idle():
            yield f"{value!r} was taken over, and waits"

    def find_idle(self) -> Iterator[bytes]:
        """What was left over, and nobody has begun since it was taken over."""
        doom = self.world.doom
        found = self.world.takeover_of(doom.origin) if doom is not None else None
        if doom is None or found is None:
            return
        lefts = self._lefts_of(doom.disk, found[0])
        for value in self._left(doom.disk, (found[0].lsn, found[0].slot)):
            since_ns = min([self.noted[entry] for entry, left in lefts.items() if value in left])
            is_begun = any(one.at_ns >= since_ns for one in self.begun.get(value, ()))
            if not (is_begun or self.is_given_up(value)):
                yield value

    def _left(self, disk: Disk, place: tuple[int, int]) -> list[bytes]:
        key = (disk, place)
        if key not in self._lefts:
            groups = _journal_before(disk, place).groups.values()
            self._lefts[key] = [v for state in groups for v in _left_of(disk, state, place)]
        return self._lefts[key]

    def _lefts_of(self, disk: Disk, newest: TakeoverEntry) -> dict[TakeoverEntry, set[bytes]]:
        """What was left over at each takeover of a log by the same node, up to the newest: its copy
        may have gone less far at first."""
        return {
            entry: set(self._left(disk, (entry.lsn, entry.slot)))
            for entry in self.noted
            if (entry.origin, entry.taker) == (newest.origin, newest.taker)
        }

    def find_wrong_moves(self) -> Iterator[str]:
        """What a taker has put into its own log that was not left over, and the other way round."""
        doom = self.world.doom
        found = self.world.takeover_of(doom.origin) if doom is not None else None
        if doom is None or found is None:
            return
        entry, taker = found
        groups = _journal_before(doom.disk, (entry.lsn, entry.slot)).groups.values()
        moved = self._moved_by(taker.disk)
        values = {v for _, v in moved}
        for (topic, value), count in moved.items():
            if count > 1:
                yield f"{taker} has put {value!r} into its {topic} {count} times"
        for state in groups:
            left = set(_left_of(doom.disk, state, (entry.lsn, entry.slot)))
            name = state.settings.name
            lost = [v for v in left - values if taker.disk not in self.given_up.get(v, ())]
            yield from [f"{taker} has not taken {v!r} of {name} over" for v in lost]
            if name == GROUP:
                # What a copy said that did not go so far was left over then.
                lefts = self._lefts_of(doom.disk, entry).values()
                more = {v for t, v in moved if t == retries_of(name)}.difference(*lefts)
                yield from [f"{taker} has taken {v!r} over, which was done" for v in more]

    def _moved_by(self, disk: Disk) -> Counter[tuple[str, bytes]]:
        """Records of others in a node's own log that no program has put there."""
        found: Counter[tuple[str, bytes]] = Counter()
        for commit in disk.commits:
            copied = {c.index for c in commit.copied}
            for slot, b in enumerate(commit.batches):
                stream = disk.state.streams.get(b.stream)
                if slot in copied or stream is None or b.producer != disk.state.origin:
                    continue
                topic = stream.topic.name
                if topic == retries_of(GROUP) or (queue_of(topic) or topic) == QUEUE:
                    values = codec.decode_batch(b.payload, b.count).values
                    found.update([(topic, bytes(v)) for v in values])
        return found


def _journal_before(disk: Disk, place: tuple[int, int]) -> JournalState:
    """What the groups of a log had done before a place of it."""
    journal = JournalState()
    for commit in disk.commits:
        copied = {c.index for c in commit.copied}
        for slot, b in enumerate(commit.batches):
            stream = disk.state.streams.get(b.stream)
            if slot in copied or stream is None or stream.topic.name != JOURNAL:
                continue
            if (commit.lsn, slot) < place:
                values = codec.decode_batch(b.payload, b.count).values
                records = [record for value in values for record in unpack_deltas(bytes(value))]
                journal.apply(records, commit.append_time_ns // limits.MS)
    return journal


def _given_up(b: BatchEntry) -> Iterator[bytes]:
    """Records of a batch of dead letters that were handed out as often as a group does."""
    records = codec.TOOLS.decode(b.payload, b.count)
    for value, headers in zip(records.values, records.headers or (), strict=True):
        said = codec.decode_headers(bytes(headers))
        if said[REASON] == "max-deliveries" and int(said[ATTEMPTS]) == MAX_DELIVERIES_DEFAULT:
            yield bytes(value)


def _group_of(topic: str) -> str:
    """Whose records are in a topic."""
    if topic.startswith("g.") or topic == retries_of(GROUP):
        return GROUP
    return QUEUE if (queue_of(topic) or topic) == QUEUE else ""


def _left_of(disk: Disk, state: GroupState, place: tuple[int, int]) -> Iterator[bytes]:
    """Values that a group had not done."""
    for commit in disk.commits:
        copied = {c.index for c in commit.copied}
        for slot, b in enumerate(commit.batches):
            stream = disk.state.streams.get(b.stream)
            if slot in copied or stream is None or (commit.lsn, slot) >= place:
                continue
            topic = stream.topic.name
            if _group_of(topic) != state.settings.name:
                continue
            values = codec.decode_batch(b.payload, b.count).values
            settled = state.streams.get(b.stream)
            runs = [(b.base_offset, b.count)]
            if settled is not None:
                runs = settled.missing(b.base_offset, b.count)
            for first, count in runs:
                yield from [bytes(values[o - b.base_offset]) for o in range(first, first + count)]
            for i in range(b.count):
                if (b.stream, b.base_offset + i) in state.marks:
                    yield bytes(values[i])
