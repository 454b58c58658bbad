"""Transient topics in the history of a site: who publishes, who reads, and what must have come."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from meshmq.core.effects import Arrived, ClientEffect, StateChanged, SubscriptionAnswered
from meshmq.core.lanes import DONE, Batch
from meshmq.core.log import Entry, RuleEntry
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.subscriber import Start
from meshmq.frames import START_NEW, Deliver, Envelope
from meshmq.limits import MS, NOTED_NS, SECOND
from meshmq.names import matches
from meshmq.testing.site_part import Part
from meshmq.testing.stage import WALL_NS

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host, Wire
    from meshmq.testing.site_program import SiteProgram
    from meshmq.testing.site_world import SiteWorld

TOPICS = ("t.a", "t.b", "t.c.x", "u.a")
PATTERNS = ("t.>", "t.*", "t.a", "*.a", "t.c.>", "t.c.x", "u.*", "*.b", "t.b", "u.a")
READINGS_MAX = 5  # of a program: frames that are late hold up those behind them
LONG = 300  # bytes of a value, some of which fill a small queue
LOOK_NS = 3 * SECOND  # a record that must come has come by then


class Sent:
    """One record that was published.

    Attributes:
        at: the node that its program was at.
        copies: by the node that got it, the frames it was in: (session, sequence).
        rows: readings that must get it, and why they do: the links, see ``Transients``.
    """

    def __init__(
        self, program: SiteProgram, topic: str, number: int, is_calm: bool, length: int
    ) -> None:
        self.program = program
        self.topic = topic
        self.number = number
        self.value = f"{program!r}|{topic}|{number}".encode().ljust(length)
        self.at = program.host
        self.at_ns = program.world.now_ns
        self.is_calm = is_calm
        self.round = program.world.round
        self.copies: dict[Host, set[tuple[int, int]]] = {}
        self.batch: Batch
        self.index = 0

    def __repr__(self) -> str:
        return f"{self.value.decode().strip()!r}"


class Reading:
    """One subscription of a program.

    Attributes:
        at: the node that its program was at in the newest calm.
        answered_ns: when it was answered, in the session that its program has.
        seen: what has come, in order.
        missed: records that it was told of and did not get; ``missed_before``: until the calm.
        is_narrow: it takes little at a time.
        interrupted: how often its program lost its session.
    """

    def __init__(self, program: SiteProgram, number: int, pattern: str, is_narrow: bool) -> None:
        self.program = program
        self.at = program.host
        self.is_narrow = is_narrow
        self.number = number
        self.pattern = pattern
        self.asked_ns = program.world.now_ns
        self.answered_ns = 0
        self.seen: list[tuple[str, bytes]] = []
        self.values: set[bytes] = set()
        self.missed = 0
        self.missed_before = 0
        self.interrupted = 0
        self.is_over = False

    def __repr__(self) -> str:
        return f"{self.program!r} {self.pattern}"


class Transients(Part):
    """See the module's header.

    A record must come to a reading at another node if, when it was published, both nodes were
    linked and its node had noted the interest (as it has of a reading that was answered since they
    were linked), and if both programs' sessions and the link stand until it is looked for.

    Attributes:
        sent: by value; ``overdue``: what must have come and had not; ``probes``: how many must.
    """

    def __init__(self, world: SiteWorld) -> None:
        super().__init__(world)
        self.sent: dict[bytes, Sent] = {}
        self.readings: list[Reading] = []
        self.overdue: list[str] = []
        self.odd: list[str] = []
        self.probes = 0
        self._counters: Counter[tuple[SiteProgram, str]] = Counter()

    def prepare(self) -> list[Entry]:
        return [RuleEntry(pattern, False, 0, 0) for pattern in ("t.>", "u.>")]

    def begin(self, program: SiteProgram) -> None:
        rng = self.world.rng
        for reading in self.readings:
            if not reading.program.is_alive:
                reading.is_over = True
        for _ in range(rng.randrange(0, 4)):
            self.world.after(int(rng.random() * SECOND), partial(self._subscribe, program))
        if not program.moves:  # else it is not known what is published where
            self._publish_later(program)

    # -- what programs do -----------------------------------------------------------------------

    def _subscribe(self, program: SiteProgram) -> None:
        mine = [r for r in self.readings if r.program is program and not r.is_over]
        if self.world.healed or not program.is_alive or len(mine) >= READINGS_MAX:
            return
        rng = self.world.rng
        pattern = rng.choice(PATTERNS)
        window = rng.choice([(1 << 20, 10_000), (1 << 20, 10_000), (200, 4)])
        if self.world.is_sparing:
            window = (1 << 20, 10_000)
        number = program.client.subscribe(pattern, Start(START_NEW), *window, self.world.now_ns)
        reading = Reading(program, number, pattern, window[0] < 1 << 20)
        self.readings.append(reading)
        program.settle()
        if rng.random() < 0.3:
            delay = int(rng.random() * 3 * SECOND)
            self.world.after(delay, partial(self._unsubscribe, reading))

    def _unsubscribe(self, reading: Reading) -> None:
        program = reading.program
        if self.world.healed or not program.is_alive:
            return
        reading.is_over = True
        program.client.unsubscribe(reading.number, self.world.now_ns)
        program.settle()
        if self.world.rng.random() < 0.5:
            self._subscribe(program)

    def _publish_later(self, program: SiteProgram) -> None:
        self.later(400 * MS, 10 * SECOND, partial(self._publish, program))

    def _publish(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        if not self.world.healed:
            rng = self.world.rng
            topic = rng.choice(TOPICS)
            for _ in range(rng.choice([1, 1, 2, 5])):
                self._publish_one(program, topic)
            program.settle()
            if rng.random() < 0.05:
                self._subscribe(program)
        self._publish_later(program)

    def _publish_one(self, program: SiteProgram, topic: str, length: int = 0) -> None:
        if topic in program.unwanted:
            self._check_unwanted(program, topic)
            return
        self._counters[program, topic] += 1
        number = self._counters[program, topic]
        sent = Sent(program, topic, number, self.world.is_calm, length)
        self.sent[sent.value] = sent
        sent.batch, sent.index = program.client.publisher.add(
            topic, sent.value, None, None, None, lambda: WALL_NS + self.world.now_ns,
            TOPIC_DEFAULT, None,
        )  # fmt: skip
        if self.world.loss <= 0.01 and not self.world.late and self._is_roomy():
            for reading in self.readings:
                if matches(reading.pattern, topic) and not reading.is_over:
                    self._expect(sent, reading)

    def _is_roomy(self) -> bool:
        """Whether nothing is dropped for want of room."""
        return "SITE_CREDIT_BYTES" not in self.world.bounds and self.world.queue_bytes > 1 << 20

    def _check_unwanted(self, program: SiteProgram, topic: str) -> None:
        """Its node wants nothing of a topic: nobody may have been told that it comes."""
        for reading in self.readings:
            if reading.is_over or not matches(reading.pattern, topic):
                continue
            took_ns = reading.answered_ns - reading.asked_ns
            sent = Sent(program, topic, 0, False, 0)
            if self._standing(sent, reading) is None or not 0 < took_ns < NOTED_NS:
                continue
            here, there = program.host, reading.program.host
            if here is there or reading.asked_ns > self._linked_ns(here, there):
                self.overdue.append(
                    f"{reading!r} at {there} was answered, and {program!r} at {here} sends "
                    f"nothing of {topic} at {self.world.now_ns / 1e9} s"
                )

    @staticmethod
    def _linked_ns(here: Host, there: Host) -> int:
        return max(here.since[there.origin][1], there.since[here.origin][1])

    def _probe(self) -> None:
        """Somebody was told that all comes from now on."""
        for program in list(self.world.programs.values()):
            if program.is_alive:
                for topic in sorted(program.unwanted):
                    self._check_unwanted(program, topic)

    # -- what must come ---------------------------------------------------------------------------

    def _standing(self, sent: Sent, reading: Reading) -> tuple[object, ...] | None:
        """What a record and its reading depend on, if all of it is there: sessions and links."""
        publisher, reader = sent.program, reading.program
        here, there = publisher.host, reader.host
        for program in (publisher, reader):
            node = program.host.node
            if not (program.is_alive and program.client.is_connected and node is not None):
                return None
            if program.link not in node.peers:
                return None
        if not reading.answered_ns or reading.is_over:
            return None
        links: tuple[object, ...] = ()
        if here is not there:
            if not self.world.are_linked(here, there):
                return None
            links = (here.since[there.origin], there.since[here.origin])
        return (publisher.link, reader.link, *links)

    def _expect(self, sent: Sent, reading: Reading) -> None:
        standing = self._standing(sent, reading)
        if standing is None:
            return
        here, there = sent.at, reading.program.host
        if here is not there:
            begun = self._linked_ns(here, there)
            assert here.node is not None
            assert here.node.site is not None
            wanting = here.node.site.reach.wanting(sent.topic)
            is_noted = any(sub.instance == there.origin for sub in wanting)
            if not is_noted and not reading.asked_ns > begun:
                return
        self.probes += 1
        self.world.after(LOOK_NS, partial(self._look_for, sent, reading, standing))

    def _look_for(self, sent: Sent, reading: Reading, standing: tuple[object, ...]) -> None:
        if sent.value in reading.values or self._standing(sent, reading) != standing:
            return
        now = self.world.now_ns
        hosts = {sent.at, reading.program.host}
        if any(host.still_until_ns > now - LOOK_NS for host in hosts):
            return
        if not self.world.faults.is_quiet(hosts, sent.at_ns - LOOK_NS):
            return  # what was lost comes when the path is mended, if the link lives so long
        if reading.missed:
            return
        self.overdue.append(f"{reading!r} at {hosts} did not get {sent!r} of {sent.at_ns / 1e9} s")

    # -- what happens -----------------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        match effect:
            case Arrived(number, arrivals, missed):
                reading = self._reading(program, number)
                if reading is None:
                    return
                reading.missed = missed
                for arrival in arrivals:
                    if not arrival.lsn:
                        values = self.world.records(bytes(arrival.payload))
                        reading.seen += [(arrival.topic, value) for value in values]
                        reading.values.update(values)
                size = sum(len(a.payload) for a in arrivals)
                records = sum(a.count for a in arrivals)
                delay = int(self.world.rng.random() * 20 * MS)
                self.world.after(delay, partial(self._consume, reading, size, records))
            case SubscriptionAnswered(number):
                reading = self._reading(program, number)
                if reading is not None:
                    reading.answered_ns = self.world.now_ns
                    if self.world.is_sparing:
                        self._probe()
            case StateChanged("reconnecting"):
                for reading in self.readings:
                    if reading.program is program:
                        reading.answered_ns = 0
                        reading.asked_ns = 0  # asked again, nobody knows when
                        reading.interrupted += 1

    def _reading(self, program: SiteProgram, number: int) -> Reading | None:
        for reading in self.readings:
            if reading.program is program and reading.number == number:
                return reading
        return None

    def _consume(self, reading: Reading, size: int, records: int) -> None:
        program = reading.program
        if program.is_alive and not reading.is_over:
            program.client.consumed(reading.number, size, records, self.world.now_ns)
            program.settle()

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        body = envelope.body
        if not isinstance(body, Deliver) or body.subscription:
            return
        to = wire.listener if wire.dialler is host and wire.link in host.wires else wire.dialler
        assert to is not None
        at = 0
        for row in body.batches:
            for value in self.world.records(bytes(body.payload[at : at + row.length])):
                sent = self.sent.get(value)
                if sent is None:
                    self.odd.append(f"{host} sent {value!r}, which nobody published")
                    continue
                if sent.at is not host:
                    self.odd.append(f"{host} passed on {sent!r}, which came from {sent.at}")
                sent.copies.setdefault(to, set()).add((envelope.session, envelope.sequence))
            at += row.length

    # -- calm and rest ------------------------------------------------------------

    def calm(self) -> None:
        for reading in self.readings:
            reading.missed_before = reading.missed
        for program in [p for p in self.world.programs.values() if not p.moves]:
            for topic in TOPICS:
                for _ in range(self.world.rng.randrange(3)):
                    delay = int(self.world.rng.random() * SECOND)
                    self.world.after(delay, partial(self._publish_calmly, program, topic))

            if not self._is_roomy():
                delay = int(self.world.rng.random() * SECOND)
                self.world.after(delay, partial(self._storm, program))

    def _storm(self, program: SiteProgram) -> None:
        """More at once than queues have room for."""
        for topic in TOPICS:
            for _ in range(3):
                self._publish_one(program, topic, LONG)
        program.settle()

    def _publish_calmly(self, program: SiteProgram, topic: str) -> None:
        for _ in range(self.world.rng.choice([1, 1, 3, 10])):
            self._publish_one(program, topic)
        program.settle()

    def hush(self) -> None:
        for reading in self.open_readings():  # later, somebody may have a node fail once more
            reading.at = reading.program.host

    def open_readings(self) -> list[Reading]:
        """Those that were not ended."""
        return [r for r in self.readings if r.program.is_alive and not r.is_over]

    def find_unrest(self) -> list[str]:
        found = [f"{r!r} is not answered" for r in self.open_readings() if not r.answered_ns]
        for host in self.world.members:
            node = host.node
            if node is None or node.site is None:
                continue
            waiting = [s for s in node.delivery.subscriptions if s.queue or s.is_held]
            found += [f"{host} has something for {sub.link!r}" for sub in waiting]
            wanted = set(node.delivery.wants.told)
            for other in self.world.members:
                theirs = self._noted(other, host)
                if other is not host and theirs != wanted:
                    found.append(f"{other} takes {host} to want {theirs}, and it wants {wanted}")
        return found

    def _noted(self, host: Host, other: Host) -> set[str]:
        """What one node takes another one to want."""
        since = host.since.get(other.origin)
        if since is None or host.node is None or host.node.site is None:
            return set()
        theirs = host.node.site.reach._theirs.get(since[0])
        if theirs is None:
            return set()
        return {*theirs.patterns._literal, *theirs.patterns._wild}


def is_done(sent: Sent) -> bool:
    """Whether its node has said that it has it."""
    return sent.batch.state == DONE


__all__ = ["Reading", "Sent", "Transients", "is_done"]
