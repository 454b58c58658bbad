"""A program of the direct world: it publishes, subscribes, pushes, pulls, asks and serves."""

from __future__ import annotations

import random
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from meshmq import codec
from meshmq.core.client import ClientIdentity
from meshmq.core.direct import Tools
from meshmq.core.effects import (
    Arrival,
    Arrived,
    CallsAnswered,
    ClientEffect,
    RequestsCame,
    SubscriptionAnswered,
)
from meshmq.core.hybrid import HybridClient
from meshmq.core.lanes import WAITING, Batch
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.requester import Call
from meshmq.core.responder import Incoming, Registration
from meshmq.core.subscriber import Start
from meshmq.core.ways import Way
from meshmq.errors import ServiceError
from meshmq.frames import EACH, ONE, Noted
from meshmq.limits import MS, SECOND
from meshmq.names import push_lane

if TYPE_CHECKING:
    from meshmq.testing.direct_world import DirectWorld

TOOLS = Tools(codec.decode_batch, codec.pick_records)


class Reading:
    """One subscription or pull.

    Attributes:
        got: values, in order.
        missed: as the machine says.
        bases: by instance of a publisher: the number each topic had reached when the interest was
            noted there, of what it has noted first and said so.
        calm_missed: what was missed by the time all was calm.
    """

    def __init__(self, program: DirectProgram, number: int, pattern: str, pulls: bool) -> None:
        self.program = program
        self.number = number
        self.pattern = pattern
        self.pulls = pulls
        self.got: list[bytes] = []
        self.queue: deque[Arrival] = deque()
        self.missed = 0
        self.bases: dict[bytes, dict[str, int]] = {}
        self.calm_missed = 0
        self.answered_ns = 0
        self.opened_ns = program.world.now_ns
        self.is_closed = False

    def __repr__(self) -> str:
        return f"{self.program!r}'s {'pull' if self.pulls else 'subscription'} to {self.pattern!r}"


class Pushed:
    """One record that was pushed."""

    def __init__(self, value: bytes, batch: Batch, program: DirectProgram) -> None:
        self.value = value
        self.batch = batch
        self.program = program
        self.takers: list[Reading] = []


class Asking:
    """One request, and what became of it."""

    def __init__(self, tag: int, program: DirectProgram, call: Call) -> None:
        self.tag = tag
        self.program = program
        self.call = call
        self.asked_ns = program.world.now_ns
        self.ended_ns = 0
        self.ends = 0
        self.runs: list[Run] = []
        self.is_calm = program.world.is_calm
        self.is_cancelled = False

    def __repr__(self) -> str:
        return f"request {self.tag} of {self.program!r} to {self.call.service!r}"


class Run:
    """One handler at work."""

    def __init__(
        self, asking: Asking, program: DirectProgram, incoming: Incoming, now_ns: int
    ) -> None:
        self.asking = asking
        self.program = program
        self.deadline_ns = incoming.deadline_ns  # as the program knows it
        self.begun_ns = now_ns
        self.value = b"%d|%s" % (asking.tag, program.identity)


class DirectProgram:
    """One run of one program.

    Attributes:
        topics, patterns: what it publishes, and subscribes to.
        patience: how long it waits for replies, in ms.
        asks_from: of draws in [0, 1), those below 0.6 publish, from here on they ask.
        pause_ns: the longest time between two things that it does.
    """

    topics: tuple[str, ...] = ("a.x", "a.y", "b.x", "c")
    patterns: tuple[str, ...] = ("a.*", "a.x", ">", "*.x", "c")
    patience: tuple[int, ...] = (50, 500, 3000)
    asks_from = 0.75
    pause_ns = 40 * MS

    def __init__(self, world: DirectWorld, name: str, run: int) -> None:
        self.world = world
        self.rng = random.Random(f"{world.seed}/{name}/{run}")
        self.name = name
        self.run = run
        self.address = world.address_of(name)
        self.identity = bytes([self.rng.randrange(65, 91)]) + f"{name}/{run}".encode().ljust(15)
        identity = ClientIdentity("local", self.identity, self.identity, name, "simulated")
        self.client = self._make_client(identity, random.Random(self.rng.random()))
        self.is_alive = True
        self.still_until_ns = 0
        self.due_ns: int | None = None
        self.readings: dict[int, Reading] = {}
        self.registrations: list[Registration] = []
        self.askings: list[Asking] = []
        self.at_work = 0
        self.lazy = self.rng.random() < world.laziness
        # (connection, number of the interest) -> where topics stood when it was noted.
        self.noted: dict[tuple[int, int], dict[str, int]] = {}
        self._watch()

    def __repr__(self) -> str:
        return f"{self.name}/{self.run}"

    def _make_client(self, identity: ClientIdentity, entropy: random.Random) -> HybridClient:
        return HybridClient(
            identity, codec.encode_batch, entropy, addresses=(self.address,), tools=TOOLS
        )

    def _watch(self) -> None:
        """Note where topics stand when others' interests are noted, and when ours are known."""
        direct = self.client.direct
        want, on_noted = direct.outlets.want, direct.inlets.on_noted

        def watch_want(link: bytes, number: int, pattern: str) -> None:
            key = self.world.wire_number(self, link), number
            self.noted[key] = dict(direct.outlets.numbers)
            want(link, number, pattern)

        def watch_noted(link: bytes, frame: Noted, now_ns: int = 0, *, waits: bool = True) -> bool:
            is_whole = on_noted(link, frame, now_ns, waits=waits)
            if is_whole and link != b"own":
                self._on_known(link)
            return is_whole

        direct.outlets.want = watch_want  # type: ignore[method-assign]
        direct.inlets.on_noted = watch_noted  # type: ignore[method-assign]

    def _on_known(self, link: bytes) -> None:
        """A program has said that it knows what we want."""
        inlets = self.client.direct.inlets
        instance = inlets.sources[link].instance
        other = next(p for p in self.world.all_programs if p.identity == instance)
        wire = self.world.wire_number(self, link)
        for reading in self.readings.values():
            reader = inlets.readers.get(reading.number)
            if reader is None or reader.pulls or instance in reading.bases:
                continue
            if reader.feeds[instance].is_noted:
                base = other.noted.get((wire, reading.number))
                if base is None:
                    self.world.strange.append(f"{reading!r} is known to {other!r} too early")
                reading.bases[instance] = base or {}

    # -- what it does -------------------------------------------------------------------------

    def begin(self) -> None:
        """It wants something, and does something now and then."""
        rng = self.rng
        for _ in range(rng.choice([0, 1, 2])):
            self.subscribe()
        if rng.random() < 0.5:
            self.pull()
        for service in self.world_services():
            if rng.random() < 0.5:
                self.serve(service)
        self._later(50 * MS, self.act)

    @staticmethod
    def world_services() -> list[str]:
        return ["s.a", "s.b"]

    def begin_calm(self) -> None:
        """From now on everything must come through."""
        self.lazy = False
        for reading in self.readings.values():
            if reading.queue:
                self.read(reading)
            reading.calm_missed = reading.missed
        self._later(MS, self.act)

    def _later(self, most_ns: int, work: Any) -> None:
        self.world.after(int(self.rng.random() * most_ns) + 1, partial(self._do, work))

    def _do(self, work: Any) -> None:
        if not self.is_alive:
            return
        world = self.world
        if world.now_ns < self.still_until_ns and not world.healed:
            world.after(self.still_until_ns - world.now_ns, partial(self._do, work))
            return
        work()

    def act(self) -> None:
        """Do one thing, and another one later."""
        world, rng = self.world, self.rng
        if not world.is_busy:
            return
        kind = rng.random()
        if kind < 0.6:
            self.publish()
        elif kind < self.asks_from:
            self.push()
        else:
            self.ask()
        self._later(self.pause_ns, self.act)

    def change(self) -> None:
        """Want something else."""
        rng = self.rng
        if self.readings and rng.random() < 0.4:
            self.close(self.readings[rng.choice(sorted(self.readings))])
        elif rng.random() < 0.6:
            self.subscribe()
        elif rng.random() < 0.5:
            self.pull()
        elif self.registrations and rng.random() < 0.5:
            self.stop(self.registrations.pop())
        else:
            self.serve(rng.choice(self.world_services()))

    def subscribe(self) -> None:
        pattern = self.rng.choice(self.patterns)
        size, records = self.world.window
        number = self.client.subscribe(pattern, Start(), size, records, self.world.now_ns)
        self._open(Reading(self, number, pattern, False))

    def pull(self) -> None:
        records = self.rng.choice([1, 4, 100])
        number = self.client.pull("jobs", 1 << 20, records, self.world.now_ns)
        self._open(Reading(self, number, "jobs", True))

    def _open(self, reading: Reading) -> None:
        self.readings[reading.number] = reading
        if not reading.pulls:
            reading.bases[self.identity] = self.noted[0, reading.number]
        self.world.readings.append(reading)
        self.world.note(self.name, "opens", reading.pattern, reading.pulls)
        self.world.settle(self)

    def close(self, reading: Reading) -> None:
        reading.is_closed = True
        del self.readings[reading.number]
        self.client.unsubscribe(reading.number, self.world.now_ns)
        self.world.settle(self)

    def publish(self) -> None:
        world = self.world
        topic = self.rng.choice(self.topics)
        for _ in range(self.rng.choice([1, 1, 3, 20])):
            self._publish_some(topic, self.rng.choice([1, 1, 2, 5]))
        world.note(self.name, "publishes", topic, world.published[self.identity, topic])
        world.settle(self)

    def _publish_some(self, topic: str, count: int, pin: Way | None = None) -> Batch:
        world, key = self.world, (self.identity, topic)
        first = world.published.get(key, 0) + 1
        world.published[key] = first + count - 1
        values = [
            b"%s|%s|%d" % (self.identity, topic.encode(), n) for n in range(first, first + count)
        ]
        return self._add(topic, values, pin)

    def _add(self, lane: str, values: list[bytes], pin: Way | None = None) -> Batch:
        return self.client.publisher.add_many(
            lane, values, None, None, None, lambda: 0, TOPIC_DEFAULT, pin=pin
        )

    def push(self) -> None:
        world = self.world
        values = [
            b"push|%d" % (len(world.pushes) + i) for i in range(self.rng.choice([1, 1, 3, 10]))
        ]
        batch = self._add(push_lane("jobs"), values)
        world.pushes += [Pushed(value, batch, self) for value in values]
        world.settle(self)

    def serve(self, service: str) -> None:
        concurrency = self.rng.choice([1, 4])
        self.registrations.append(self.client.serve(service, concurrency, self, self.world.now_ns))
        self.world.settle(self)

    def stop(self, registration: Registration) -> None:
        self.client.unserve(registration, self.world.now_ns)
        self.world.settle(self)

    def ask(self) -> None:
        world, rng = self.world, self.rng
        tag = len(world.askings)
        deadline_ns = world.now_ns + rng.choice(self.patience) * MS
        kind = rng.choice([ONE, ONE, EACH])
        call = Call(
            rng.choice(self.world_services()), b"%d" % tag, b"", kind, rng.random() < 0.3,
            deadline_ns,
        )  # fmt: skip
        asking = Asking(tag, self, call)
        world.askings.append(asking)
        self.askings.append(asking)
        self.client.requester.add(call)
        world.settle(self)
        if rng.random() < 0.1:
            self._later(SECOND, partial(self._cancel, asking))

    def _cancel(self, asking: Asking) -> None:
        if not asking.call.is_over:
            asking.is_cancelled = True
            asking.ended_ns = self.world.now_ns
            self.client.requester.cancel(asking.call)
            self.world.settle(self)

    # -- what it is told ----------------------------------------------------------------------

    def on_effect(self, effect: ClientEffect) -> None:
        """Its machine tells it something."""
        match effect:
            case Arrived(number, arrivals, missed):
                reading = self.readings.get(number)
                if reading is not None:
                    was_empty = not reading.queue
                    reading.missed = missed
                    reading.queue.extend(arrivals)
                    if arrivals and was_empty:
                        self._read_later(reading)
            case SubscriptionAnswered(number, code):
                if number in self.readings:
                    self.readings[number].answered_ns = self.world.now_ns
                if code:
                    self.world.strange.append(f"{self!r} is refused {number}: {code}")
            case CallsAnswered(calls):
                over = {call.id for call in calls if call.is_over}
                for asking in self.askings:
                    if asking.call.id in over and asking.call.is_over:
                        asking.ends += not asking.ended_ns
                        asking.ended_ns = asking.ended_ns or self.world.now_ns
            case RequestsCame(registrations):
                for registration in sorted(registrations, key=lambda r: r.id):
                    self._begin_all(registration)
            case _:
                pass

    def on_settled(self) -> None:
        """What its machine wanted is done."""
        publisher = self.client.publisher
        if publisher.finished:
            publisher.take_finished()

    def _read_later(self, reading: Reading) -> None:
        if self.lazy and self.rng.random() < 0.3:
            self._later(3 * SECOND, partial(self.read, reading))
        else:
            self._later(2 * MS, partial(self.read, reading))

    def read(self, reading: Reading) -> None:
        """Take what has come, or some of it."""
        size = records = 0
        count = min(1, len(reading.queue)) if self.lazy else len(reading.queue)
        for _ in range(count):
            arrival = reading.queue.popleft()
            size += len(arrival.payload)
            records += arrival.count
            values = list(codec.decode_batch(arrival.payload, arrival.count).values)[arrival.skip :]
            reading.got += [bytes(value) for value in values]
            if reading.pulls:
                self._note_pulled(reading, values)
        self.world.note(self.name, "reads", reading.number, records)
        if records and not reading.is_closed:
            self.client.consumed(reading.number, size, records, self.world.now_ns)
            self.world.settle(self)
        if reading.queue:
            self._read_later(reading)

    def _note_pulled(self, reading: Reading, values: list[bytes]) -> None:
        for value in values:
            self.world.pushes[int(value.split(b"|")[1])].takers.append(reading)

    def _begin_all(self, registration: Registration) -> None:
        while self.at_work < 2:
            incoming = self.client.responder.begin(registration)
            if incoming is None:
                return
            self.at_work += 1
            asking = self.world.askings[int(incoming.data)]
            run = Run(asking, self, incoming, self.world.now_ns)
            asking.runs.append(run)
            self.world.runs.append(run)
            slow = self.rng.random() < 0.1 and not self.world.is_calm
            self._later(SECOND if slow else 5 * MS, partial(self._answer, incoming, run))

    def _answer(self, incoming: Incoming, run: Run) -> None:
        self.at_work -= 1
        responder = self.client.responder
        if self.rng.random() < 0.1:
            responder.finish(incoming, ServiceError("no", "mine"))
        else:
            responder.reply(incoming, run.value, True)
        self.world.settle(self)
        for registration in self.registrations:
            self._begin_all(registration)

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet."""
        client, direct = self.client, self.client.direct
        found = [f"{r!r}: something is not read" for r in self.readings.values() if r.queue]
        found += [f"{a!r} has no end" for a in self.askings if not a.ended_ns]
        if self.at_work or client.responder._incoming:
            found.append(f"{self!r} works on requests")
        if direct.relay.count or direct.services._asked:
            found.append(f"{self!r} has requests that are not answered")
        waiting = [b for b in client.publisher.unsettled() if b.state == WAITING]
        if waiting:
            found.append(f"{self!r}: {len(waiting)} batches are not confirmed")
        for link in direct.links.by_instance.values():
            # A session that lost many frames sends them again 64 at a time.
            if link.session.unacked_count:
                found.append(f"{self!r}: frames to {link.facts.name} are not acknowledged")
        for outlets in direct.outlets._outlets.values():
            for outlet in outlets.values():
                if outlet.queue or outlet.gaps:
                    found.append(f"{self!r}: something waits for {outlet.number}")
        return found
