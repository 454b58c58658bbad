"""Durable topics in the history of a site: who publishes, who reads, what each log must have given.

Programs publish at any node and read at any node the logs of all: from the beginning, from now on,
or from a position that another reader has had; some without what was stored twice (``dedup``).
What one log must have given its readers is judged as that of a lone node: see ``histories``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meshmq.core.effects import Arrival, Arrived, ClientEffect, SubscriptionAnswered
from meshmq.core.lanes import DONE
from meshmq.core.log import Commit, LogState
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.subscriber import Start, Subscriber
from meshmq.frames import START_EARLIEST, START_NEW, START_POSITION, Place
from meshmq.limits import MS, SECOND
from meshmq.names import matches
from meshmq.testing.disk import Disk
from meshmq.testing.history import History, Published, Reader, Seen
from meshmq.testing.site_part import Part
from meshmq.testing.stage import WALL_NS

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_program import SiteProgram
    from meshmq.testing.site_world import SiteWorld

TOPICS = ("d.a", "d.b", "d.c.x")
PATTERNS = ("d.>", "d.>", "d.*", "d.a", "d.b", "d.c.x")
READERS_MAX = 4  # of a program
RECORDS_MAX = 400
TOKENS_MAX = 50
AWAY_NS = 6 * SECOND  # a node that is silent is taken for dead by then, and programs have moved


class LogReader:
    """One subscription of a program.

    Attributes:
        sub: its machine.
        seen: what has come, by log, in order.
        sure: logs of others whose end its node had noted when it answered; see ``new``.
        is_slow: it takes its time.
    """

    def __init__(
        self, program: SiteProgram, number: int, start: Start, dedup: bool, is_slow: bool
    ) -> None:
        self.program = program
        self.number = number
        self.start = start
        self.dedup = dedup
        self.is_slow = is_slow
        self.sub: Subscriber = program.client.subscribers[number]
        self.pattern = self.sub.pattern
        self.seen: dict[bytes, list[Seen]] = {}
        self.answered_ns = 0
        self.sure: set[bytes] = set()
        self.refused = ""
        self.is_over = False

    def __repr__(self) -> str:
        kind = {START_EARLIEST: "all", START_NEW: "new", START_POSITION: "on"}[self.start.kind]
        return f"{self.program!r} {self.pattern} ({kind}{', dedup' if self.dedup else ''})"

    @property
    def is_open(self) -> bool:
        """Whether it still reads."""
        return self.program.is_alive and not self.is_over and not self.refused

    def values(self) -> Iterator[bytes]:
        """Of all logs."""
        for seen in self.seen.values():
            yield from [s.value for s in seen]


class _Log(NamedTuple):
    """A disk, as far as topics of this part are concerned; see History."""

    state: LogState
    commits: list[Commit]
    synced: dict[tuple[int, int], bytes]
    flipped: set[tuple[int, int]]


class Durables(Part):
    """See the module's header.

    Attributes:
        wrong: what a reader was told, and is not so.
    """

    def __init__(self, world: SiteWorld) -> None:
        super().__init__(world)
        self.has_copies = False
        more = world.more
        self.bounds = more.choice([{}, {}, {"SITE_READS_HELD_BYTES_MAX": 500}])
        self.published: list[Published] = []
        self.readers: list[LogReader] = []
        self.wrong: list[str] = []
        self._tokens: list[tuple[str, Start]] = []
        self._counters: Counter[tuple[SiteProgram, str]] = Counter()

    def begin(self, program: SiteProgram) -> None:
        rng = self.world.rng
        for _ in range(rng.choice([0, 1, 1, 2])):
            self.world.after(int(rng.random() * 2 * SECOND), partial(self._subscribe, program))
        self._publish_later(program)

    def break_down(self) -> None:
        for _ in range(self.world.more.choice([0, 1, 3])):
            self.world.after(int(self.world.rng.random() * SECOND * 6), self._kill_busy)

    def _kill_busy(self) -> None:
        """A node dies that has stored records which it has not confirmed; some are sent again."""
        world, rng = self.world, self.world.rng
        programs = [p for p in world.programs.values() if p.moves and p.client.is_connected]
        if programs:
            program = rng.choice(programs)
            for _ in range(5):
                self._publish_one(program, rng.choice(TOPICS))
            program.settle()
            host = program.host
            world.after(int(rng.random() * 10 * MS), partial(world.faults.kill, host))

    # -- what programs do -----------------------------------------------------------------------

    def _publish_later(self, program: SiteProgram) -> None:
        self.later(500 * MS, 10 * SECOND, partial(self._publish, program))

    def _publish(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        if not self.world.healed and len(self.published) < RECORDS_MAX:
            rng = self.world.rng
            topic = rng.choice(TOPICS)
            for _ in range(rng.choice([1, 1, 2, 5])):
                self._publish_one(program, topic)
            program.settle()
            if rng.random() < 0.1:
                self._subscribe(program)
        self._publish_later(program)

    def _publish_one(self, program: SiteProgram, topic: str) -> None:
        world = self.world
        self._counters[program, topic] += 1
        name = repr(program)
        value = f"{name}|{topic}|{self._counters[program, topic]}".encode()
        value = value.ljust(world.rng.choice([20, 20, 300]))
        batch, index = program.client.publisher.add(
            topic, value, None, None, None, lambda: WALL_NS + world.now_ns, TOPIC_DEFAULT, None
        )
        self.published.append(Published(name, topic, value, batch, index, world.now_ns))

    def _subscribe(self, program: SiteProgram) -> None:
        world, rng = self.world, self.world.rng
        mine = [r for r in self.readers if r.program is program and r.is_open]
        if world.healed or not program.is_alive or len(mine) >= READERS_MAX:
            return
        pattern = rng.choice(PATTERNS)
        start = Start(rng.choice([START_EARLIEST, START_EARLIEST, START_NEW]))
        if self._tokens and rng.random() < 0.3:
            pattern, start = rng.choice(self._tokens)
        window = rng.choice([(1 << 20, 10_000), (1 << 20, 10_000), (600, 8), (1, 1)])
        dedup = rng.random() < 0.5
        number = program.client.subscribe(pattern, start, *window, world.now_ns, dedup)
        self.readers.append(LogReader(program, number, start, dedup, rng.random() < 0.3))
        program.settle()
        if rng.random() < 0.1:
            world.after(int(rng.random() * 3 * SECOND), partial(self._end, self.readers[-1]))

    def _end(self, reader: LogReader) -> None:
        if reader.is_open and not self.world.healed:
            reader.is_over = True
            reader.program.client.unsubscribe(reader.number, self.world.now_ns)
            reader.program.settle()

    # -- what happens -----------------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        match effect:
            case Arrived(number, arrivals):
                reader = self._reader(program, number)
                if reader is not None:
                    self._arrived(reader, arrivals)
            case SubscriptionAnswered(number, code):
                reader = self._reader(program, number)
                if reader is not None:
                    reader.refused = code
                    if not reader.answered_ns:
                        reader.answered_ns = self.world.now_ns
                        self._note_sure(reader)

    def _reader(self, program: SiteProgram, number: int) -> LogReader | None:
        found = (r for r in self.readers if r.program is program and r.number == number)
        return next(found, None)

    def _note_sure(self, reader: LogReader) -> None:
        """Of which logs all that is new from now on must come."""
        program = reader.program
        node = program.host.node
        across = node.reads._across.get((program.link, reader.number)) if node is not None else None
        if across is not None:
            reader.sure = {r.origin for r in across.readings.values() if r.lsn}
            reader.sure.add(program.host.origin)

    def _arrived(self, reader: LogReader, arrivals: tuple[Arrival, ...]) -> None:
        world = self.world
        for a in arrivals:
            if not a.lsn:
                continue
            values = world.records(bytes(a.payload))
            synced = self._synced(a)
            seen = reader.seen.setdefault(a.origin, [])
            for i in range(a.skip, a.count):
                is_synced = i < len(synced) and synced[i] == values[i]
                seen.append(Seen(a.topic, a.base_offset + i, values[i], is_synced))
        last = arrivals[-1] if arrivals else None
        if last is not None and last.lsn and world.rng.random() < 0.2:
            skip = world.rng.randint(last.skip, last.count - 1) + 1
            token = Start(
                START_POSITION, last.since, last.origin, last.lsn, last.slot, skip, last.others
            )
            self._tokens = [*self._tokens[-TOKENS_MAX:], (reader.pattern, token)]
        size, records = sum(len(a.payload) for a in arrivals), sum(a.count for a in arrivals)
        most = 300 * MS if reader.is_slow and not world.healed else 10 * MS
        world.after(int(world.rng.random() * most), partial(self._consume, reader, size, records))

    def _synced(self, a: Arrival) -> list[bytes]:
        """What the disk has at the place that an arrival names."""
        disk = self.world.disks.get(a.origin)
        if disk is None or a.lsn > len(disk.commits):
            return []
        return self.world.records(disk.commits[a.lsn - 1].batches[a.slot].payload)

    def _consume(self, reader: LogReader, size: int, records: int) -> None:
        program = reader.program
        if program.is_alive and not reader.is_over:
            program.client.consumed(reader.number, size, records, self.world.now_ns)
            program.settle()

    # -- calm, rest and the end -------------------------------------------------------------------

    def calm(self) -> None:
        world = self.world
        for program in world.programs.values():
            for topic in TOPICS:
                if world.rng.random() < 0.5:
                    delay = int(world.rng.random() * SECOND)
                    world.after(delay, partial(self._publish_calmly, program, topic))

    def _publish_calmly(self, program: SiteProgram, topic: str) -> None:
        self._publish_one(program, topic)
        program.settle()

    def live(self) -> dict[bytes, Host]:
        """By their logs: nodes that there are."""
        return {host.origin: host for host in self.world.members}

    def find_unrest(self) -> list[str]:
        found = [
            f"{host} holds {host.node.reads.held_bytes} bytes of other logs"
            for host in self.world.members
            if host.node is not None and host.node.reads.held_bytes
        ]
        for reader in self.readers:
            if not reader.is_open:
                continue
            if not reader.answered_ns:
                found.append(f"{reader!r} is not answered")
                continue
            for host in self.world.members:
                found += self._behind(reader, host)
        return found

    def _behind(self, reader: LogReader, host: Host) -> Iterator[str]:
        log = reader.sub._logs.get(host.origin)
        for name, topic in host.disk.state.topics.items():
            if not (topic.next_offset and name in TOPICS and matches(reader.pattern, name)):
                continue
            at = log.next_offset.get(name) if log is not None else None
            if at is None and reader.start.kind == START_EARLIEST:
                yield f"{reader!r} has nothing of {name} in the log of {host}"
            elif at is not None and at < topic.next_offset:
                yield f"{reader!r} has {at} of {topic.next_offset} of {name} in the log of {host}"

    def close(self) -> None:
        """Who is away is told, and nobody else: now one node is."""
        world = self.world
        self._judge_away("at rest")
        if not world.unrest and world.size <= 6:
            host = world.more.choice(world.members)
            world.faults.fell(host, is_silent=world.more.random() < 0.5)
            world.play(world.now_ns + AWAY_NS)
            self._judge_away(f"without {host}")
            host.start_node()
            world.play(world.now_ns + AWAY_NS)
            self._judge_away(f"with {host} again")

    def _judge_away(self, when: str) -> None:
        live = {origin: host for origin, host in self.live().items() if host.node is not None}
        for reader in self.readers:
            program = reader.program
            if not (reader.is_open and program.client.is_connected and reader.sub.is_active):
                continue
            logs = reader.sub._logs.items()
            gone = {log.name for origin, log in logs if log.lsn and origin not in live}
            may_be = {log.name for origin, log in logs if origin not in live}
            if not gone <= set(reader.sub.away) <= may_be:
                self.wrong.append(
                    f"{reader!r} at {program.host} is told {when} that {reader.sub.away} are away, "
                    f"{gone} are (at {self.world.now_ns / SECOND:.2f} s)"
                )

    # -- what is judged -------------------------------------------------------------------------

    def histories(self) -> Iterator[tuple[bytes, History]]:
        """What happened of each log, as if its node were alone: that of readers without and with
        ``dedup`` by itself, since from these what is in two logs is kept."""
        live = self.live()
        is_first = True
        for origin, disk in self.world.disks.items():
            log = _log_of(disk)
            for dedup in (False, True):
                mine = [r for r in self.readers if r.dedup is dedup]
                readers = [self._as_reader(r, origin, origin in live) for r in mine]
                published = [
                    p
                    for p in self.published
                    if p.batch.origin == origin or (is_first and p.batch.state != DONE)
                ]
                is_first = False
                yield (
                    origin,
                    History(
                        self.world.seed, log, published, readers, dedup,  # type: ignore[arg-type]
                        not self.world.unrest, 0, 0, "", [], len(self.world.disks) > len(live),
                    ),
                )  # fmt: skip

    def _as_reader(self, reader: LogReader, origin: bytes, is_live: bool) -> Reader:
        is_known = reader.start.kind == START_EARLIEST or origin in reader.sure
        missed = reader.sub.missed + (reader.sub.copies if reader.dedup else 0)
        return Reader(
            repr(reader), reader.number, reader.pattern, reader.start, reader.answered_ns,
            reader.refused, not (reader.is_open and is_live and is_known), missed=missed,
            seen=reader.seen.get(origin, []),
        )  # fmt: skip

    def expected(self, reader: LogReader, disk: Disk) -> list[tuple[str, int]] | None:
        """Topics and offsets that a reader from a position must have had of a log; None: it is not
        known."""
        start = reader.start
        places = {p.origin: p for p in start.places}
        places[start.origin] = Place(start.origin, start.lsn, start.slot, start.skip)
        place = places.get(disk.state.origin)
        if place is None:
            if start.value:
                return None
            place = Place(b"", 1, 0, 0)
        names = {alias: s.topic.name for alias, s in disk.state.streams.items()}
        found = []
        for commit in disk.commits:
            for slot, batch in enumerate(commit.batches):
                name, at = names[batch.stream], (commit.lsn, slot)
                if at < (place.lsn, place.slot) or name not in TOPICS:
                    continue
                skip = place.skip if at == (place.lsn, place.slot) else 0
                if matches(reader.pattern, name):
                    found += [(name, batch.base_offset + i) for i in range(skip, batch.count)]
        return found


def _log_of(disk: Disk) -> _Log:
    mine = {alias: s for alias, s in disk.state.streams.items() if s.topic.name in TOPICS}
    state = LogState(disk.state.origin)
    state.streams = mine
    commits = [
        c._replace(batches=tuple([b for b in c.batches if b.stream in mine])) for c in disk.commits
    ]
    return _Log(state, commits, disk.synced, disk.flipped)
