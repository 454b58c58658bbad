"""What a history of groups and queues must keep. Each checker returns sentences: what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from meshmq.core.group_commands import dead_count
from meshmq.core.lanes import DONE
from meshmq.names import dead_letters_of, retries_of
from meshmq.testing.cases import ACKED, CANCELLED, DEAD, PURGED, Case, Place, Stored
from meshmq.testing.group_audit import leftovers
from meshmq.testing.group_world import GroupWorld


def check_groups(world: GroupWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in CHECKERS for fault in checker(world)]


def referee(world: GroupWorld) -> Iterator[str]:
    """Nothing passed between node and members that is not allowed."""
    yield from world.referee.faults


def counters(world: GroupWorld) -> Iterator[str]:
    """Counters added up at the end of every turn."""
    yield from world.audits


def rest(world: GroupWorld) -> Iterator[str]:
    """After healing every group has nothing left."""
    for fault in world.unrest:
        yield f"no rest: {fault}"


def memory(world: GroupWorld) -> Iterator[str]:
    """At rest nothing stays in memory."""
    if not world.unrest and world.node is not None:
        yield from leftovers(world.node)


def receipts(world: GroupWorld) -> Iterator[str]:
    """A confirmed record is in the log where its receipt says; one with an id, the first one."""
    log = world.referee.log
    for topic, value, batch, index, dedup in world.published:
        if batch.state != DONE or batch.base_offset is None or index < batch.skipped:
            continue
        stored = log.get((topic, batch.base_offset + index - batch.skipped))
        if stored is None:
            yield f"{topic}: {value!r} was confirmed and is not there"
        elif dedup and stored.dedup != dedup:
            yield f"{topic}: {value!r} was confirmed in place of another id"
        elif not dedup and stored.value != value:
            yield f"{topic}: {value!r} was confirmed where {stored.value!r} is"


def dedups(world: GroupWorld) -> Iterator[str]:
    """One job per id in a queue's window."""
    seen: Counter[tuple[str, bytes]] = Counter()
    for (topic, _), stored in world.referee.log.items():
        if stored.dedup:
            queue = next((q for q in world.queues if world.sources_of(q)(topic)), "")
            if topic != retries_of(queue):
                seen[queue, stored.dedup] += 1
    for (queue, dedup), n in seen.items():
        if n > 1:
            yield f"{queue}: {n} jobs with the id {dedup[:1].hex()}"


def _letters(world: GroupWorld, topic: str) -> Counter[tuple[bytes, int]]:
    """Of a dead letter or retry topic: how often it has (value, replays)."""
    return Counter(
        (stored.value, int(stored.headers.get("$replays", "0")))
        for (name, _), stored in world.referee.log.items()
        if name == topic
    )


def fates(world: GroupWorld) -> Iterator[str]:
    """Nothing is lost: each record was acked, is dead, or something took it that may."""
    for group in world.wishes:
        dead = _letters(world, dead_letters_of(group))
        wanted = world.sources_of(group)
        for place, stored in world.referee.log.items():
            if not wanted(place[0]):
                continue
            case = world.referee.cases.get(group, {}).get(place)
            if not _is_done(world, group, place, stored, case, dead):
                state = f"{case.status}, given {case.given} times" if case else "never handed out"
                yield f"{group}: {place[0]} {place[1]} is lost: {state}"


def _is_done(
    world: GroupWorld, group: str, place: Place, stored: Stored, case: Case | None,
    dead: Counter[tuple[bytes, int]],
) -> bool:  # fmt: skip
    pair = (group, place[0])
    if place[1] < max(world.referee.floors.get(pair, 0), world.referee.excused.get(pair, 0)):
        return True
    if place[1] < world.referee.trimmed.get(place[0], 0) and place[0].startswith("w."):
        return True
    if stored.expires_ms or world.referee.is_damaged(stored):
        return True
    if dead[stored.value, int(stored.headers.get("$replays", "0"))]:
        return True
    if case is None:
        return False
    return case.status in (ACKED, CANCELLED, PURGED) or case.excuse == PURGED


def dead_letters(world: GroupWorld) -> Iterator[str]:
    """One dead letter for each record that died, none for others; put back once."""
    for group in world.wishes:
        letters = _letters(world, dead_letters_of(group))
        retries = _letters(world, retries_of(group))
        most = 1 + world.referee.seeks[group]
        wanted = world.sources_of(group)
        cases = {
            (s.value, int(s.headers.get("$replays", "0"))): world.referee.cases.get(group, {}).get(
                p
            )
            for p, s in world.referee.log.items()
            if wanted(p[0])
        }
        for (value, replays), n in letters.items():
            if n > most:
                yield f"{group}: {n} dead letters of {value!r}, replay {replays}"
            case = cases.get((value, replays))
            if not world.referee.seeks[group] and (case is None or not case.may_die):
                yield f"{group}: {value!r} has a dead letter and did not die"
            if case is not None and case.status == ACKED and not world.referee.seeks[group]:
                yield f"{group}: {value!r} was acked and has a dead letter"
        for (value, replays), case in cases.items():
            sure = case is not None and case.status == DEAD and case.is_sure
            if sure and not letters[value, replays] and not world.trims and not world.flips:
                yield f"{group}: {value!r} died and has no dead letter"
        for (value, replays), n in retries.items():
            if n > letters[value, replays - 1]:
                yield f"{group}: {value!r} was put back {n} times"
        yield from _dead_count(world, group, sum(letters.values()) - sum(retries.values()))


def _dead_count(world: GroupWorld, group: str, most: int) -> Iterator[str]:
    assert world.node is not None
    found = world.node.groups.by_name.get(group)
    if found is not None and not (world.unrest or world.referee.seeks[group] or world.flips):
        dead = dead_count(found, world.node.topics.by_name.get(dead_letters_of(group)))
        topic = dead_letters_of(group)
        retries = _letters(world, retries_of(group))
        letters = [world.referee.log[topic, o] for o in world.referee.dropped.get(group, ())]
        purged = sum(not retries[s.value, int(s.headers.get("$replays", "0")) + 1] for s in letters)
        if dead != most - purged:
            yield f"{group}: {dead} dead letters are told, {most - purged} are there"


def transactions(world: GroupWorld) -> Iterator[str]:
    """A transaction's output is there when its ack is, and once."""
    outputs = world.referee.outputs
    for output, n in outputs.items():
        group = output.split(b"|")[1].decode()
        if n > 1 + world.referee.seeks[group]:
            yield f"{output!r} is there {n} times"
    for output, n in world.outputs_told.items():
        if outputs[output] < n:
            yield f"{output!r} was told to be done and is not there"
    for group, topic, offset, output in world.transactions:
        case = world.referee.cases.get(group, {}).get((topic, offset))
        if case is None or world.referee.seeks[group]:
            continue
        if case.status == ACKED and not case.acks_plain and not outputs[output]:
            yield f"{output!r} is missing and its record acked"
        if case.status != ACKED and outputs[output]:
            yield f"{output!r} is there and its record is {case.status}"


CHECKERS: tuple[Callable[[GroupWorld], Iterator[str]], ...] = (
    referee,
    counters,
    rest,
    memory,
    receipts,
    dedups,
    fates,
    dead_letters,
    transactions,
)
