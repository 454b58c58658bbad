"""What a history of programs without a node must keep. Each checker returns sentences: what is
wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

from meshmq.core.lanes import DONE, FAILED
from meshmq.errors import NOT_DONE
from meshmq.frames import ONE
from meshmq.limits import MS
from meshmq.names import matches
from meshmq.testing.direct_program import Reading
from meshmq.testing.direct_world import DirectWorld

SOON_NS = 100 * MS


def check_direct(world: DirectWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in CHECKERS for fault in checker(world)]


def numbers_of(reading: Reading) -> dict[tuple[bytes, str], list[int]]:
    """Numbers of what a subscription got, by publisher and topic."""
    found: dict[tuple[bytes, str], list[int]] = {}
    for value in reading.got:
        instance, topic, number = value.split(b"|")
        found.setdefault((instance, topic.decode()), []).append(int(number))
    return found


def order(world: DirectWorld) -> Iterator[str]:
    """A subscription gets each publisher's records of a topic in order, none twice."""
    for reading in world.readings:
        if reading.pulls:
            continue
        for (instance, topic), numbers in numbers_of(reading).items():
            if not matches(reading.pattern, topic):
                yield f"{reading!r} got records of {topic!r}"
            if any(a >= b for a, b in pairwise(numbers)):
                yield f"{reading!r} got {numbers[:40]} of {topic!r} from {instance!r}"


def beginnings(world: DirectWorld) -> Iterator[str]:
    """Nothing comes that was published before the interest was noted."""
    for reading in world.readings:
        if reading.pulls:
            continue
        for (instance, topic), numbers in numbers_of(reading).items():
            base = reading.bases.get(instance)
            if base is None:
                yield f"{reading!r} got records of {instance!r}, which does not know of it"
            elif numbers[0] <= base.get(topic, 0):
                yield f"{reading!r} got {topic!r} {numbers[0]}, its interest came at {base}"


def counts(world: DirectWorld) -> Iterator[str]:
    """Received and missed together are all that was sent since the interest was known; of a
    publisher that died the last may be unknown."""
    alive = {program.identity for program in world.programs.values()}
    for reading in world.readings:
        if reading.pulls or reading.is_closed or not reading.program.is_alive:
            continue
        got: Counter[bytes] = Counter(value.split(b"|")[0] for value in reading.got)
        least = most = 0
        for instance, base in reading.bases.items():
            sent = sum(
                count - base.get(topic, 0)
                for (publisher, topic), count in world.published.items()
                if publisher == instance and matches(reading.pattern, topic)
            )
            most += sent
            least += sent if instance in alive else got[instance]
        total = reading.missed + sum(got.values())
        if not least <= total <= most:
            yield (
                f"{reading!r} got {sum(got.values())} and missed {reading.missed}, sent were "
                f"{least} to {most}"
            )


def pushes(world: DirectWorld) -> Iterator[str]:
    """What is pushed comes to one program at most, and to one if it was confirmed and nobody who
    pulled has died or stopped."""
    is_sure = not world.kill_count and not any(
        r.pulls and (r.is_closed or not r.program.is_alive) for r in world.readings
    )
    for pushed in world.pushes:
        takers = pushed.takers
        if len(takers) > 1:
            yield f"{pushed.value!r} came to {takers}"
        batch = pushed.batch
        if batch.state == DONE and not takers and is_sure and not world.break_count:
            yield f"{pushed.value!r} was confirmed and came to nobody"
        if batch.state == FAILED and takers:
            assert batch.error is not None
            if batch.error.outcome == NOT_DONE:
                yield f"{pushed.value!r} was said to be not done, and came to {takers}"


def requests(world: DirectWorld) -> Iterator[str]:
    """A request ends once and by its deadline, with one reply of its own handler or an error; what
    is said to be not done was not begun, what is not idempotent once at most."""
    for asking in world.askings:
        call = asking.call
        if not asking.program.is_alive:
            continue
        if asking.ends > 1:
            yield f"{asking!r} ended {asking.ends} times"
        is_punctual = not world.stop_count
        if is_punctual and asking.ended_ns > call.deadline_ns + MS:
            yield f"{asking!r} ended {(asking.ended_ns - call.deadline_ns) // MS} ms late"
        values = [data for row, data in call.replies if not row.code]
        if call.kind == ONE:
            if len(call.replies) > 1 or (call.replies and call.error is not None):
                yield f"{asking!r} has {len(call.replies)} replies and {call.error!r}"
            if len(asking.runs) > 1 and not call.idempotent:
                yield f"{asking!r} was begun {len(asking.runs)} times"
        else:
            programs = [run.program.identity for run in asking.runs]
            most = {p: len(r.registrations) + 12 for p in programs for r in world.all_programs}
            if any(count > most[p] for p, count in Counter(programs).items()):
                yield f"{asking!r} was begun too often: {Counter(programs)}"
        for value in values:
            if value not in [run.value for run in asking.runs]:
                yield f"{asking!r} got {value!r}, which no handler of it said"
        if call.error is not None and call.error.outcome == NOT_DONE and asking.runs:
            yield f"{asking!r} was begun, and is said to be not done: {call.error!r}"
        for run in asking.runs:
            # As who begins it knows: the way there is not counted, which is long on a bad link.
            if is_punctual and run.begun_ns > run.deadline_ns:
                yield f"{asking!r} was begun {run.begun_ns - call.deadline_ns} ns late"


def calm(world: DirectWorld) -> Iterator[str]:
    """Once faults are over all that can be linked is, and everything comes through."""
    for reading in world.readings:
        if reading.is_closed or not reading.program.is_alive or reading.pulls:
            continue
        if world.window[1] > 1000 and not world.bounds and reading.missed > reading.calm_missed:
            yield f"{reading!r} missed {reading.missed - reading.calm_missed} in the calm part"
    served = {
        registration.service
        for program in world.programs.values()
        for registration in program.registrations
        if registration.is_serving
    }
    for asking in world.askings:
        call = asking.call
        if not asking.is_calm or asking.is_cancelled or call.service not in served:
            continue
        linked = asking.program.client.direct.services.by_name.get(call.service)
        is_reachable = linked is not None and linked.is_served
        if is_reachable and call.error is not None and call.error.code == "no-responders":
            yield f"{asking!r} found nobody in the calm part"


def rest(world: DirectWorld) -> Iterator[str]:
    """Everything comes to rest, and nothing strange has happened."""
    yield from world.unrest
    yield from world.strange


def sessions(world: DirectWorld) -> Iterator[str]:
    """Two programs have one session, and both know which."""
    for program in world.programs.values():
        links = program.client.direct.links
        for instance, link in links.by_instance.items():
            other = next((p for p in world.programs.values() if p.identity == instance), None)
            if other is None:
                yield f"{program!r} is linked with {instance!r}, which is dead"
                continue
            theirs = other.client.direct.links.by_instance.get(program.identity)
            if theirs is None or theirs.session.id != link.session.id:
                yield f"{program!r} and {other!r} are linked by different sessions"
        if len(links.by_name) != len(links.by_instance):
            yield f"{program!r} has {len(links.by_name)} links, {len(links.by_instance)} count"


CHECKERS: list[Callable[[DirectWorld], Iterator[str]]] = [
    order, beginnings, counts, pushes, requests, calm, rest, sessions,
]  # fmt: skip
