"""What a history of the hybrid world must keep. Each checker returns sentences: what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

from meshmq import codec
from meshmq.core.lanes import DONE, FAILED
from meshmq.core.requester import BY_NODE, DIRECTLY
from meshmq.errors import NOT_DONE, Busy, NoResponders, ServiceError
from meshmq.frames import SYNCED
from meshmq.limits import SECOND
from meshmq.names import matches
from meshmq.testing import direct_checkers
from meshmq.testing.direct_checkers import numbers_of
from meshmq.testing.hybrid_program import HybridReading
from meshmq.testing.hybrid_world import HybridWorld

DURABLE = ("d.a", "u.d")


def check_hybrid(world: HybridWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in CHECKERS for fault in checker(world)]


def _readings(world: HybridWorld) -> Iterator[HybridReading]:
    """Subscriptions that are kept to the end."""
    for reading in world.readings:
        if not (reading.pulls or reading.is_closed) and reading.program.is_alive:
            assert isinstance(reading, HybridReading)
            yield reading


def order(world: HybridWorld) -> Iterator[str]:
    """A subscription gets each publisher's records of a topic in order, none twice; where a topic
    turned out to be durable, what went directly before and what is stored each by itself."""
    stored = {v for s in world.sent if s.batch.durability == SYNCED for v in s.values}
    for reading in world.readings:
        if reading.pulls:
            continue
        for (instance, topic), numbers in numbers_of(reading).items():
            if not matches(reading.pattern, topic):
                yield f"{reading!r} got records of {topic!r}"
            if len(set(numbers)) < len(numbers):
                yield f"{reading!r} got some of {topic!r} from {instance!r} twice"
            parts = [numbers]
            if topic in DURABLE:
                kept = [n for n in numbers if _value(instance, topic, n) in stored]
                parts = [kept, [n for n in numbers if _value(instance, topic, n) not in stored]]
            for part in parts:
                if any(a >= b for a, b in pairwise(part)):
                    yield f"{reading!r} got {part[:40]} of {topic!r} from {instance!r}"


def _value(instance: bytes, topic: str, number: int) -> bytes:
    return b"%s|%s|%d" % (instance, topic.encode(), number)


def counts(world: HybridWorld) -> Iterator[str]:
    """Of what is transient, received and missed together are all that was sent since the interest
    was known, or since the first that came; of a publisher that died the last may be unknown."""
    alive = {program.identity for program in world.programs.values()}
    for reading in _readings(world):
        got = numbers_of(reading)
        least = most = total = 0
        direct = [s for s in world.sent if s.topic in DURABLE and s.batch.durability != SYNCED]
        for batch in direct:  # before their node was known; they may be missed, too
            if matches(reading.pattern, batch.topic):
                most += sum(value not in reading.seen for value in batch.values)
        for (publisher, topic), sent in world.published.items():
            if topic in DURABLE or not matches(reading.pattern, topic):
                continue
            mine = got.get((publisher, topic), [])
            total += len(mine)
            base = reading.bases.get(publisher)
            first = reading.firsts.get((publisher, topic), sent + 1)
            known = mine[0] if mine else sent + 1
            if base is not None:
                known = base.get(topic, 0) + 1
                first = min(first, known)
            most += sent + 1 - first
            if publisher in alive:
                least += sent + 1 - known
            elif mine:
                least += len(mine)
        if not least <= total + reading.missed <= most:
            yield (
                f"{reading!r} got {total} and missed {reading.missed}, sent were {least} to {most}"
            )


def calm(world: HybridWorld) -> Iterator[str]:
    """Once faults are over all that is published comes to all who have a way to its publisher."""
    if world.window[1] < 1000 or world.bounds or world.queue_bytes < 1 << 20:
        return
    programs = {program.identity: program for program in world.programs.values()}
    at_node = {v for s in world.sent if s.batch.route == BY_NODE for v in s.values}
    for reading in _readings(world):
        if not 0 < reading.answered_ns < world.calm_ns:
            continue
        for (instance, topic), sent in world.published.items():
            publisher = programs.get(instance)
            if publisher is None or not matches(reading.pattern, topic):
                continue
            reader = reading.program
            is_linked = instance in reader.client.direct.links.by_instance
            both = reader.client.has_node and publisher.client.has_node
            if not (both or (is_linked and topic not in DURABLE)):
                continue
            first = world.calm_from.get((instance, topic), 0) + 1
            lost = [
                number
                for number in range(first, sent + 1)
                if _value(instance, topic, number) not in reading.seen
            ]
            if not both:  # the first ones asked the node what the topic is, and went there alone
                lost = [n for n in lost if _value(instance, topic, n) not in at_node]
            if lost:
                yield f"{reading!r} did not get {topic!r} {lost[:9]} of {publisher!r} when calm"


def durable(world: HybridWorld) -> Iterator[str]:
    """What was confirmed as stored is stored, once and in order, and whoever reads from the
    beginning gets it; what was said to be not done is nowhere."""
    stored: Counter[bytes] = Counter()
    for commit in world.disk.commits:
        for batch in commit.batches:
            if batch.count:
                stored.update(
                    bytes(v) for v in codec.decode_batch(batch.payload, batch.count).values
                )
    for value, count in stored.items():
        if count > 1:
            yield f"{value!r} is stored {count} times"
    kept = [s for s in world.sent if s.batch.state == DONE and s.batch.durability == SYNCED]
    for sent in kept:
        if sent.topic not in DURABLE:
            yield f"{sent!r} was confirmed as stored, and is transient"
        for value in sent.values:
            if value not in stored:
                yield f"{value!r} was confirmed and is not stored"
    for reading in _readings(world):
        since_ns = 0 if reading.is_earliest else reading.answered_ns
        if not (reading.is_earliest or reading.is_at_node):
            continue
        got = set(reading.got)
        for sent in kept:
            if sent.at_ns > since_ns and matches(reading.pattern, sent.topic):
                lost = [value for value in sent.values if value not in got]
                if lost:
                    yield f"{reading!r} did not get {lost[0]!r}, which is stored"
    seen = {value for r in world.readings for value in r.got} | set(stored)
    for sent in world.sent:
        error = sent.batch.error
        if sent.batch.state == FAILED and error is not None and error.outcome == NOT_DONE:
            for value in sent.values:
                if value in seen:
                    yield f"{value!r} was said to be not done ({error.code}), and came"


def requests(world: HybridWorld) -> Iterator[str]:
    """See there; and while faults leave a way to somebody who serves, he is found."""
    yield from direct_checkers.requests(world)
    for asking, instances in world.sure.items():
        call, asker = asking.call, asking.program
        if not asker.is_alive or asking.is_cancelled or not asking.ended_ns:
            continue
        since_ns = asking.asked_ns - 2 * SECOND
        steady = [
            program
            for program, registration in instances
            if registration.service == call.service
            and program.is_alive
            and registration.is_serving
            and not registration.is_leaving
            and (asking.is_calm or world.is_quiet({asker.name, program.name, "node"}, since_ns))
        ]
        if not steady:
            continue
        if call.pin == DIRECTLY and call.error is not None and call.error.code == Busy.code:
            continue  # who serves works for others, and no other way may be tried
        if call.error is not None and call.error.code == NoResponders.code:
            yield f"{asking!r} found nobody, and {steady} serve"
        is_long = call.deadline_ns - asking.asked_ns >= (8 if not asking.is_calm else 3) * SECOND
        if is_long and call.idempotent and call.kind == 0 and not asking.runs:
            yield f"{asking!r} was not begun: {call.error!r}"
        is_own = call.error is None or isinstance(call.error, ServiceError)
        if is_long and call.idempotent and not is_own:
            yield f"{asking!r} failed: {call.error!r}"


def through(world: HybridWorld) -> Iterator[str]:
    """Whoever has a route that has been quiet for 2 s gets what is published."""
    yield from world.overdue


def strict(world: HybridWorld) -> Iterator[str]:
    """A link of a program that goes by its node lasts as long as what the node allowed."""
    for (program, instance), at_ns in world.lapsed.items():
        when = f"at {at_ns / SECOND:.4f} s"
        yield f"{program!r} is linked with {instance!r}, which is not allowed ({when})"


def rest(world: HybridWorld) -> Iterator[str]:
    """Everything comes to rest, directly where it can, and nothing strange has happened."""
    yield from world.unrest
    yield from world.strange


def sessions(world: HybridWorld) -> Iterator[str]:
    """Two programs have one session, and both know which."""
    for fault in direct_checkers.sessions(world):
        if not fault.endswith(" count"):  # dials to those who refuse go on
            yield fault


CHECKERS: list[Callable[[HybridWorld], Iterator[str]]] = [
    order, counts, calm, durable, direct_checkers.pushes, requests, through, strict, rest,
    sessions,
]  # fmt: skip
