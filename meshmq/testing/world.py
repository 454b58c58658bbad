"""A node and its clients on virtual time: the real core, a simulated network, disk and clock.

Everything comes from one seed: workload, delays, lost, repeated and late frames, cut links, kills
and restarts. A kill forgets what was not synced; a sync under way may have made it, unconfirmed.
Ties in time are broken by the seed, so nothing rests on an order that nobody promised.

A history has two parts: faults, then healing, after which everything must come to rest. What
happened is in ``History``; judging it is the checkers' business.
"""

from __future__ import annotations

import hashlib
from functools import partial

from meshmq import codec, limits
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import (
    Arrival,
    Arrived,
    ClientEffect,
    StateChanged,
    SubscriptionAnswered,
)
from meshmq.core.log import Entry, RuleEntry
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.subscriber import Start
from meshmq.frames import (
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_TIME,
)
from meshmq.limits import MS, SECOND
from meshmq.names import matches
from meshmq.testing.faults import FAULTS_NS, Faults
from meshmq.testing.history import History, Published, Reader, Seen, check_batch, decode, encode
from meshmq.testing.scene import Program, Scene
from meshmq.testing.stage import WALL_NS

DURABLE = ("d.a", "d.b", "d.c.x")
TRANSIENT = ("t.a", "t.b")
NAMED = "c0"
MANY = 2_000
PATTERNS = ("d.>", "d.a", "d.*", ">", "t.>", "t.a", "d.c.x", "d.b")


def is_durable(topic: str) -> bool:
    """Whether a topic of the simulated programs is."""
    return topic not in TRANSIENT


HEALED_NS = 40 * SECOND


class _Program(Program):
    """A client with its program: publishes, subscribes, consumes."""

    def __init__(self, world: World, name: str, run: int) -> None:
        # c0 keeps its producer name over restarts and numbers its records; the others are new.
        producer = name if name == NAMED else f"{name}/{run}"
        identity = ClientIdentity(
            "local",
            hashlib.sha256(f"{name}/{run}".encode()).digest()[:16],
            hashlib.sha256(producer.encode()).digest()[:16],
            name,
        )
        super().__init__(name, run, Client(identity, encode, world.rng))
        self.readers: dict[int, Reader] = {}
        self.counters: dict[str, int] = {}


class World(Scene[_Program]):
    """One history, from one seed. ``run`` plays it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, codec.TOOLS._replace(check=check_batch), decode)
        self.trims = False
        self.published: list[Published] = []
        self.readers: list[Reader] = []
        self._digest = hashlib.sha256()
        rng = self.rng
        self.loss = rng.choice([0.0, 0.0, 0.01, 0.1])
        self.repeat = rng.choice([0.0, 0.02, 0.1])
        self.late = rng.choice([0.0, 0.05, 0.2])
        self.kill_count = rng.choice([0, 1, 2, 4])
        self.cuts = rng.choice([0, 1, 3])
        self.stall = rng.choice([0.0, 0.0, 0.1])  # how often a sync takes up to a second
        self.recent_bytes = rng.choice([0, 500, 1 << 24])
        self.queue_bytes = rng.choice([1_000, 1 << 22])
        self.retention = rng.random() < 0.2
        self.budget_bytes = rng.choice([200, 2_000, 1 << 30])
        self.delivered_bytes = rng.choice([100, 1_000, 1 << 30])
        self.full_count = rng.choice([0, 0, 1, 3])  # how often the disk has no room for a while
        self.flips = rng.choice([0, 0, 0, 2])  # bytes that change on the disk
        self.jumps = rng.choice([0, 0, 2])  # of the wall clock, an hour either way
        self.swizzle = rng.random() < 0.2
        self.many = MANY if rng.random() < 0.01 else 0  # topics
        if self.many:
            self.budget_bytes = 1 << 30  # else they take longer than a history has
        self.faults = Faults(self)

    def run(self) -> History:
        """Play the history: faults, healing, rest."""
        self.start_node()
        for i in range(self.rng.choice([2, 3])):
            self._start_program(f"c{i}", 0)
        self.faults.plan()
        self.play(self.now_ns + FAULTS_NS)
        self._heal()
        end = self.now_ns + HEALED_NS
        self.play(self.now_ns + 4 * limits.RESEND_NS)  # what is on its way arrives, in the end
        while self.now_ns < end and self._unrest():
            self.play(self.now_ns + 250 * MS)
        unrest = self._unrest()
        return History(
            self.seed, self.disk, self.published, self.readers, self.trims, not unrest,
            self.kills, self.events, self._digest.hexdigest(), unrest,
            self.full_count > 0,
        )  # fmt: skip

    def note(self, *what: object) -> None:
        self._digest.update(repr((self.now_ns, what)).encode())

    # -- faults -------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.heal_links()
        self.faults.make_room()
        for reader in self.readers:
            if not reader.consumes:
                reader.consumes = True
                self._consume_later(reader)

    # -- the node -----------------------------------------------------------------------------

    def on_node_started(self) -> None:
        if not self.disk.commits:
            self._make_topics()
        self.faults.measure()

    def _make_topics(self) -> None:
        """Policies as an operator would set them before programs come."""
        assert self.node is not None
        entries: list[Entry] = []
        for topic in TRANSIENT:
            self.node.topics.create(topic, entries, RuleEntry(topic, False, 0, 0))
        self.disk.commit(entries, WALL_NS, decode)
        self.node.delivery.committed_lsn = len(self.disk.commits)

    def plan_trims(self) -> list[tuple[int, int]]:
        trims: list[tuple[int, int]] = []
        if self.retention and not self.healed and self.rng.random() < 0.3:
            for alias, stream in self.disk.state.streams.items():
                kept = stream.next_offset - stream.first_offset
                if kept > 20 and self.rng.random() < 0.5:
                    trims.append((alias, stream.first_offset + kept // 2))
                    self.trims = True
        return trims

    # -- programs -----------------------------------------------------------------------------

    def _start_program(self, name: str, run: int) -> None:
        program = self.programs[name] = _Program(self, name, run)
        self.open_link(program)
        rng = self.rng
        for _ in range(rng.randrange(1, 4)):
            self.after(int(rng.random() * 2 * SECOND), lambda: self._subscribe(program))
        self._publish_later(program)

    def restart(self, name: str) -> None:
        """The program dies with everything it had in memory and starts again."""
        old = self.programs[name]
        if self.healed:
            return
        self.note("restart", name)
        old.alive = False
        for reader in old.readers.values():
            reader.ended = True
        self._start_program(name, old.run + 1)

    def on_effect(self, program: _Program, effect: ClientEffect) -> None:
        match effect:
            case Arrived(number, arrivals, missed):
                self._arrived(program, number, arrivals, missed)
            case SubscriptionAnswered(number, code, _, _):
                reader = program.readers[number]
                reader.refused = code
                reader.answered_ns = reader.answered_ns or self.now_ns
            case StateChanged(state, _, _):
                for reader in program.readers.values():
                    reader.sessions_lost += state == "reconnecting"
                    if state == "connected" and self.rng.random() < 0.5:
                        # Consume while the subscription is being opened again.
                        self.after(int(self.rng.random() * MS), partial(self._take, reader))

    def on_handled(self, program: _Program) -> None:
        for batch in program.client.publisher.take_finished():
            code = batch.error.code if batch.error is not None else ""
            if program.name == NAMED and code in ("storage-full", "sequence-gap"):
                # It numbers its records: it says what was refused again.
                counters = program.counters
                topic = batch.lane.topic
                counters[topic] = min(counters[topic], batch.first - 1)

    def _publish_later(self, program: _Program) -> None:
        self.after(int(self.rng.random() ** 2 * 300 * MS), lambda: self._publish(program))

    def _publish(self, program: _Program) -> None:
        if self.healed or not program.alive:
            return
        rng = self.rng
        explicit = program.name == NAMED
        topic = rng.choice(DURABLE if explicit or rng.random() < 0.7 else TRANSIENT)
        count = rng.choice([1, 1, 2, 5, 30])
        if self.many and topic in DURABLE and not explicit:
            count = 200
        for _ in range(count):
            if self.many and not explicit:
                topic = f"m.{rng.randrange(self.many)}"
            self._publish_one(program, topic, explicit)
        if topic in DURABLE and not explicit and rng.random() < 0.03:
            program.client.publisher.add(topic, b"malformed", None, None, None, lambda: 0, 0, None)
        self.settle(program)
        self._publish_later(program)

    def _publish_one(self, program: _Program, topic: str, explicit: bool) -> None:
        number = program.counters.get(topic, 0) + 1
        program.counters[topic] = number
        # A program that numbers its records itself says the same again after a restart.
        tag = program.name if explicit else f"{program.name}.{program.run}"
        value = f"{tag}|{topic}|{number}".encode().ljust(self.rng.choice([20, 20, 400]))
        if explicit:
            value = value.strip()
        batch, index = program.client.publisher.add(
            topic, value, None, None, None, lambda: WALL_NS + self.now_ns, TOPIC_DEFAULT,
            number if explicit else None,
        )  # fmt: skip
        # An unnamed producer is a new one in each run of the program.
        record = Published(tag, topic, value, batch, index, self.now_ns)
        self.published.append(record)

    def _subscribe(self, program: _Program) -> None:
        if self.healed or not program.alive:
            return
        rng = self.rng
        pattern = rng.choice(PATTERNS)
        start = self._choose_start(pattern)
        window = rng.choice([200, 2000, 100_000])
        number = program.client.subscribe(
            pattern, start, window, rng.choice([3, 50, 10_000]), self.now_ns
        )
        reader = Reader(program.name, number, pattern, start)
        reader.consumes = rng.random() < 0.8
        program.readers[number] = reader
        self.readers.append(reader)
        self.settle(program)
        self._consume_later(reader)
        if rng.random() < 0.15:
            self.after(int(rng.random() * 2 * SECOND), lambda: self._unsubscribe(program, reader))

    def _choose_start(self, pattern: str) -> Start:
        kind = self.rng.choice([START_NEW, START_EARLIEST, START_OFFSET, START_TIME])
        if kind == START_OFFSET:
            topic = self.disk.state.topics.get(pattern)
            if topic is None or not topic.topic.durable:
                return Start(START_EARLIEST)
            return Start(START_OFFSET, self.rng.randrange(topic.next_offset + 1))
        if kind == START_TIME:
            return Start(START_TIME, WALL_NS + self.now_ns - self.rng.randrange(2 * SECOND))
        return Start(kind)

    def _unsubscribe(self, program: _Program, reader: Reader) -> None:
        if program.alive and not self.healed:
            reader.ended = True
            program.client.unsubscribe(reader.number, self.now_ns)
            self.settle(program)

    def _arrived(
        self, program: _Program, number: int, arrivals: tuple[Arrival, ...], missed: int
    ) -> None:
        reader = program.readers[number]
        reader.missed = missed
        for arrival in arrivals:
            values = decode(bytes(arrival.payload))
            synced = self._synced(arrival, values)
            for i in range(arrival.skip, arrival.count):
                offset = arrival.base_offset + i if arrival.lsn else None
                is_synced = i < len(synced) and synced[i] == values[i]
                reader.seen.append(Seen(arrival.topic, offset, values[i], is_synced))
        reader.inbox += arrivals

    def _synced(self, arrival: Arrival, values: list[bytes]) -> list[bytes]:
        """What the disk has at the place an arrival names; its own values if it was transient."""
        if not arrival.lsn:
            return values
        if arrival.lsn > len(self.disk.commits):
            return []
        return decode(self.disk.commits[arrival.lsn - 1].batches[arrival.slot].payload)

    def _consume_later(self, reader: Reader) -> None:
        delay = 5 * MS if self.healed else int(self.rng.random() * 200 * MS)
        self.after(delay, lambda: self._consume(reader))

    def _consume(self, reader: Reader) -> None:
        program = self.programs[reader.client]
        if reader.ended or program.readers.get(reader.number) is not reader:
            return
        if reader.consumes:
            self._take(reader)
            self._consume_later(reader)

    def _take(self, reader: Reader) -> None:
        program = self.programs[reader.client]
        taken, reader.inbox = reader.inbox, []
        if taken and program.readers.get(reader.number) is reader:
            size = sum(len(a.payload) for a in taken)
            records = sum(a.count for a in taken)
            program.client.consumed(reader.number, size, records, self.now_ns)
            self.settle(program)

    # -- rest ---------------------------------------------------------------------------------

    def _unrest(self) -> list[str]:
        """What has not come to rest yet, in words; empty when all has."""
        found = []
        for program in self.programs.values():
            if not program.client.publisher.is_idle:
                found.append(f"{program.name}: publishes without an outcome")
            if not program.client.is_connected:
                found.append(f"{program.name}: {program.client.state}")
        if self.node is not None:
            waiting = [s.pattern for s in self.node.delivery.subscriptions if s.queue]
            found += [f"{pattern}: transient records wait at the node" for pattern in waiting]
            links = {program.link for program in self.programs.values()}
            behind = [s for s in self.node.delivery.subscriptions if not s.is_live]
            # Only the node knows it of a reader that began at new and has nothing of a topic yet.
            found += [f"{s.link!r} {s.pattern}: reads on" for s in behind if s.link in links]
        ends = self.disk.ends()
        for reader in self.readers:
            if reader.ended or reader.refused:
                continue
            if not reader.answered_ns:
                found.append(f"{reader.client} {reader.pattern}: subscription without an answer")
                continue
            last: dict[str, int] = {}
            for seen in reader.seen:
                if seen.offset is not None:
                    last[seen.topic] = seen.offset
            for name, topic in self.disk.state.topics.items():
                wanted = topic.topic.durable and matches(reader.pattern, name)
                end = ends.get(topic.topic.stream, 0)  # 0: transient
                if wanted and name in last and last[name] + 1 < end:
                    found.append(f"{reader.client} {reader.pattern}: behind on {name}")
                early = reader.start.kind == START_EARLIEST and name not in last
                if wanted and early and end > topic.first_offset:
                    found.append(f"{reader.client} {reader.pattern}: nothing of {name}")
        return found
