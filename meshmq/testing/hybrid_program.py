"""A program of the hybrid world: with links to others, and at a node where there is one."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from meshmq import codec
from meshmq.core.client import ClientIdentity
from meshmq.core.effects import Arrival, Arrived, ClientEffect, SubscriptionAnswered
from meshmq.core.hybrid import HybridClient
from meshmq.core.lanes import Batch
from meshmq.core.requester import BY_NODE, DIRECTLY, Call
from meshmq.core.subscriber import Start
from meshmq.core.ways import Way
from meshmq.frames import (
    EACH,
    ONE,
    START_EARLIEST,
    Body,
    Deliver,
    Interests,
    Introduce,
    Publish,
    Request,
)
from meshmq.limits import DAY, MS, SECOND
from meshmq.testing.direct_program import TOOLS, Asking, DirectProgram, Reading

if TYPE_CHECKING:
    from meshmq.testing.hybrid_world import HybridWorld

STRICT, NAMED, LISTED, ALONE = "strict", "named", "listed", "alone"
SLACK_NS = 50 * MS  # between what the world saw and what the machine did about it


class HybridReading(Reading):
    """One subscription or pull.

    Attributes:
        is_earliest: it reads from the beginning of what the node has.
        is_at_node: its program was at a node when it was answered.
        firsts: by publisher and topic the least number that was ever offered.
        seen: what has come, read or not.
    """

    def __init__(self, program: HybridProgram, number: int, pattern: str, pulls: bool) -> None:
        super().__init__(program, number, pattern, pulls)
        self.is_earliest = False
        self.is_at_node = False
        self.firsts: dict[tuple[bytes, str], int] = {}
        self.seen: set[bytes] = set()


class Sent:
    """One batch that was published, and when."""

    def __init__(self, program: HybridProgram, topic: str, values: list[bytes], pin: str) -> None:
        self.program = program
        self.topic = topic
        self.values = values
        self.pin = pin
        self.at_ns = program.world.now_ns
        self.batch: Batch

    def __repr__(self) -> str:
        return f"{self.values[0]!r}"


class HybridProgram(DirectProgram):
    """One run of one program.

    Attributes:
        kind: STRICT (told its node alone), NAMED (its node, and others), LISTED (others; it looks
            for a node), ALONE (others; it wants no node).
        allowed: what nodes have allowed, by instance: patterns, services, and until when.
        served: services, by the number of each registration that ever was.
        durable_from: topics that it knows to be durable, and the last number before it did.
    """

    world: HybridWorld
    topics = ("t.a", "t.b", "d.a", "u.t", "u.d")
    patterns = ("t.>", "t.a", ">", "*.a", "u.>", "d.>", "u.t")
    patience = (50, 500, 3000, 8000)
    asks_from = 0.7
    pause_ns = 120 * MS

    def __init__(self, world: HybridWorld, name: str, run: int, kind: str) -> None:
        self.kind = kind
        self.node_links = 0
        self.node_link = b""
        self.allowed: dict[bytes, tuple[frozenset[str], frozenset[str], int]] = {}
        self.served: dict[int, str] = {}
        self.durable_from: dict[str, int] = {}
        self.started_ns = world.now_ns
        self.has_begun = False
        super().__init__(world, name, run)

    def _make_client(self, identity: ClientIdentity, entropy: random.Random) -> HybridClient:
        return HybridClient(
            identity, codec.encode_batch, entropy, addresses=(self.address,), tools=TOOLS,
            node=self.world.address_of("node") if self.kind in (STRICT, NAMED) else "",
            uses_nodes=self.kind != ALONE, is_strict=self.kind == STRICT,
        )  # fmt: skip

    # -- watching -----------------------------------------------------------------------------

    def _watch(self) -> None:
        super()._watch()
        direct = self.client.direct
        inlets, links = direct.inlets, direct.links
        on_deliver, on_node_row = inlets.on_deliver, inlets.on_node_row
        publish, send, introduce = direct.publish, links.send, links.introduce

        def watch_deliver(link: bytes, frame: Deliver, now_ns: int = 0) -> None:
            source = inlets.sources[link].instance
            for row in frame.batches:
                if row.count:
                    self._offer(frame.subscription, source, row.topic, row.base_offset)
            # What was sent before it was said to be over was allowed then.
            if link != b"own" and not inlets.is_on_its_way(link, frame.subscription):
                self._check_deliver(source, frame)
            on_deliver(link, frame, now_ns)

        def watch_node_row(number: int, row: Any, data: bytes, now_ns: int) -> None:
            self._offer(number, row.source, row.topic, row.base_offset)
            on_node_row(number, row, data, now_ns)

        def watch_publish(frame: Publish, now_ns: int) -> None:
            for row in frame.batches:
                if row.first > self.durable_from.get(row.topic, row.first):
                    self.strange(f"{row.topic!r} {row.first} went directly, and is durable")
            publish(frame, now_ns)

        def watch_send(link: Any, body: Body, now_ns: int) -> None:
            if self.kind == STRICT:
                self._check_send(link.instance, body)
            send(link, body, now_ns)

        def watch_introduce(frame: Introduce, node: bytes, now_ns: int) -> bool:
            self.on_introduce(frame)
            return introduce(frame, node, now_ns)

        links.introduce = watch_introduce  # type: ignore[method-assign]
        inlets.on_deliver = watch_deliver  # type: ignore[method-assign]
        inlets.on_node_row = watch_node_row  # type: ignore[method-assign,assignment]
        direct.publish = watch_publish  # type: ignore[method-assign]
        links.send = watch_send  # type: ignore[method-assign]

    def strange(self, what: str) -> None:
        """Something that may not be has happened."""
        self.world.strange.append(f"{self!r}: {what} (at {self.world.now_ns / SECOND:.4f} s)")

    def _offer(self, number: int, source: bytes, topic: str, first: int) -> None:
        reading = self.readings.get(number)
        if isinstance(reading, HybridReading):
            key = source, topic
            reading.firsts[key] = min(first, reading.firsts.get(key, first))

    def _on_known(self, link: bytes) -> None:
        inlets = self.client.direct.inlets
        source = inlets.sources[link]
        other = next(p for p in self.world.all_programs if p.identity == source.instance)
        wire = self.world.wire_number(self, link)
        for reading in self.readings.values():
            reader = inlets.readers.get(reading.number)
            if reader is None or reader.pulls or source.instance in reading.bases:
                continue
            if source.shown.get(reading.number, reader.version) <= source.version:
                base = other.noted.get((wire, reading.number))
                if base is None:
                    self.strange(f"{reading!r} is known to {other!r} too early")
                reading.bases[source.instance] = base or {}

    def on_introduce(self, frame: Introduce) -> None:
        """A node says what is allowed."""
        until_ns = self.world.now_ns + min(frame.lifetime_ns, DAY)
        self.allowed[frame.instance] = (
            frozenset(frame.patterns), frozenset(frame.services), until_ns
        )  # fmt: skip

    def _allows(self, instance: bytes) -> tuple[frozenset[str], frozenset[str]]:
        patterns, services, until_ns = self.allowed.get(instance, (frozenset(), frozenset(), 0))
        if self.world.now_ns > until_ns + SLACK_NS:
            return frozenset(), frozenset()
        return patterns, services

    def is_allowed(self, other: HybridProgram) -> bool:
        """Whether it may talk to another one directly, as far as the node has told."""
        return self.allowed.get(other.identity, ((), (), 0))[2] > self.world.now_ns

    def _check_deliver(self, instance: bytes, frame: Deliver) -> None:
        reading = self.readings.get(frame.subscription)
        if self.kind != STRICT or reading is None:
            return
        if reading.pulls or reading.pattern not in self._allows(instance)[0]:
            self.strange(f"got {reading.pattern!r} from {instance!r}, which is not allowed")

    def _check_send(self, instance: bytes, body: Body) -> None:
        patterns, services = self._allows(instance)
        other = next((p for p in self.world.all_programs if p.identity == instance), None)
        match body:
            case Interests():
                for interest in body.add:
                    if interest.name not in patterns | services:
                        self.strange(f"tells {other!r} of {interest.name!r}, which is not allowed")
            case Request(rows) if other is not None:
                for row in rows:
                    if other.served.get(row.registration) not in services:
                        self.strange(f"asks {other!r} for what is not allowed")
            case Deliver(number) if other is not None:
                reading = other.readings.get(number)
                has_records = any(row.count for row in body.batches)
                if has_records and reading is not None and reading.pattern not in patterns:
                    self.strange(f"gives {other!r} {reading.pattern!r}, which is not allowed")
            case _:
                pass

    # -- what it does -------------------------------------------------------------------------

    def begin(self) -> None:
        self.has_begun = True
        super().begin()

    def change(self) -> None:
        if self.has_begun:  # else ``connect`` has not returned
            super().change()

    def serve(self, service: str) -> None:
        self.served[self.client._last_id + 1] = service
        super().serve(service)

    def subscribe(self) -> None:
        is_earliest = self.client.had_node and self.rng.random() < 0.3
        self.open_at(self.rng.choice(self.patterns), is_earliest)

    def open_at(self, pattern: str, is_earliest: bool) -> None:
        """Subscribe."""
        size, records = self.world.window
        start = Start(START_EARLIEST) if is_earliest else Start()
        number = self.client.subscribe(pattern, start, size, records, self.world.now_ns)
        reading = HybridReading(self, number, pattern, False)
        reading.is_earliest = is_earliest
        self._open(reading)

    def publish(self) -> None:
        rng, publisher = self.rng, self.client.publisher
        topic = rng.choice(self.topics)
        lane = publisher.lanes.get(topic)
        pin, luck = None, rng.random()
        # Not what may wait for the node: it would be overtaken. The last ones go to all.
        if lane is not None and lane.transient and not self.world.is_calm:
            if luck < 0.05:
                pin = publisher.direct
            elif luck > 0.95:
                pin = publisher.node
        for _ in range(rng.choice([1, 1, 3, 10])):
            self._publish_some(topic, rng.choice([1, 1, 2, 5]), pin)
        self.world.note(self.name, "publishes", topic)
        self.world.settle(self)

    def _publish_some(self, topic: str, count: int, pin: Way | None = None) -> Batch:
        first = self.world.published.get((self.identity, topic), 0) + 1
        values = [
            b"%s|%s|%d" % (self.identity, topic.encode(), n) for n in range(first, first + count)
        ]
        name = "" if pin is None else BY_NODE if pin is self.client.publisher.node else DIRECTLY
        sent = Sent(self, topic, values, name)
        sent.batch = super()._publish_some(topic, count, pin)
        self.world.sent.append(sent)
        return sent.batch

    def probe(self, topic: str) -> bytes:
        """Publish one record that is looked for; returns it."""
        self._publish_some(topic, 1)
        self.world.settle(self)
        return self.world.sent[-1].values[0]

    def ask(self) -> None:
        world, rng = self.world, self.rng
        luck = rng.random()
        pin = DIRECTLY if luck < 0.05 else BY_NODE if luck > 0.95 and self.client.had_node else ""
        call = Call(
            rng.choice(self.world_services()), b"%d" % len(world.askings), b"",
            rng.choice([ONE, ONE, ONE, EACH]), rng.random() < 0.5,
            world.now_ns + rng.choice(self.patience) * MS, pin=pin,
        )  # fmt: skip
        asking = Asking(len(world.askings), self, call)
        world.askings.append(asking)
        self.askings.append(asking)
        self.client.requester.add(call)
        world.on_asked(asking)
        world.settle(self)
        if rng.random() < 0.1:
            self._later(SECOND, partial(self._cancel, asking))

    # -- what it is told ----------------------------------------------------------------------

    def pull(self) -> None:
        records = self.rng.choice([1, 4, 100])
        number = self.client.pull("jobs", 1 << 20, records, self.world.now_ns)
        self._open(HybridReading(self, number, "jobs", True))

    def on_effect(self, effect: ClientEffect) -> None:
        match effect:
            case Arrived(number, arrivals):
                reading = self.readings.get(number)
                if isinstance(reading, HybridReading):
                    for arrival in arrivals:
                        reading.seen.update(values_of(arrival))
            case SubscriptionAnswered(number):
                reading = self.readings.get(number)
                if isinstance(reading, HybridReading):
                    reading.is_at_node = self.client.has_node
        super().on_effect(effect)

    def on_settled(self) -> None:
        super().on_settled()
        client = self.client
        for topic, lane in client.publisher.lanes.items():
            if lane.transient is False and topic not in self.durable_from:
                self.durable_from[topic] = lane.tail
        inlets, now_ns = client.direct.inlets, self.world.now_ns
        if self.kind == STRICT and self.still_until_ns < now_ns - SECOND:
            for instance in client.direct.links.by_instance:
                if self.allowed.get(instance, ((), (), 0))[2] < now_ns - SECOND:
                    self.world.lapsed[self, instance] = now_ns
        for reader, _, feed in inlets._waiting.values():
            if 0 < feed.due_ns < now_ns - SLACK_NS and self.still_until_ns < now_ns - SLACK_NS:
                self.strange(f"reader {reader.number} waits {(now_ns - feed.due_ns) // MS} ms more")

    def find_unrest(self) -> list[str]:
        found = super().find_unrest()
        client, direct = self.client, self.client.direct
        if client.has_node == (self.kind == ALONE):
            found.append(f"{self!r} ({self.kind}) is {client.state}")
        session = client._session
        if session is not None and session.unacked_count:
            found.append(f"{self!r}: frames to the node are not acknowledged")
        for what, held in (
            ("links that do not answer", direct.routing.silent),
            ("links by the node", direct.outlets.over),
            ("readers that wait", direct.inlets._waiting), ("replies", client._late_replies),
            ("answers that wait", client._awaited), ("frames for the node", direct.routing.to_node),
        ):  # fmt: skip
            if held:
                found.append(f"{self!r}: {what}: {list(held)[:3]}")
        for reading in self.readings.values():
            if not reading.answered_ns:
                found.append(f"{reading!r} has no answer")
            reader = direct.inlets.readers.get(reading.number)
            if reader is not None and any(f.waiting or f.due_ns for f in reader.feeds.values()):
                found.append(f"{reading!r} waits for what is before")
        return found


def values_of(arrival: Arrival) -> list[bytes]:
    """The records of a batch that are for the program."""
    values = codec.decode_batch(arrival.payload, arrival.count).values
    return [bytes(value) for value in values[arrival.skip :]]
