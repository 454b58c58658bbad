"""What the history of a site must keep. Each checker returns sentences: what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from meshmq.limits import SECOND
from meshmq.names import matches
from meshmq.testing import (
    site_directory_checkers,
    site_durable_checkers,
    site_work_checkers,
)
from meshmq.testing.site_faults import WORDS
from meshmq.testing.site_transients import Reading, Sent, Transients, is_done
from meshmq.testing.site_world import VIEW_NS, SiteWorld

TOLD_NS = 5 * SECOND  # who does not belong, and who it is mistaken for, have told people by then


def check_site(world: SiteWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in CHECKERS for fault in checker(world)]


# -- membership ------------------------------------------------------------------------------------


def views(world: SiteWorld) -> Iterator[str]:
    """After each heal all nodes have the same view, soon."""
    for number, took_ns in enumerate(world.heals):
        if not 0 <= took_ns <= VIEW_NS:
            took = "never" if took_ns < 0 else f"after {took_ns / SECOND:.2f} s"
            yield f"round {number}: all nodes had the same view {took}"


def belonging(world: SiteWorld) -> Iterator[str]:
    """No node is linked with itself, a copy of itself, its namesake, or one of elsewhere."""
    yield from world.strange


def words(world: SiteWorld) -> Iterator[str]:
    """Who does not belong is told why, and so is who it is mistaken for."""
    for stay in world.faults.stays:
        since_ns, until_ns = stay.since_ns, stay.until_ns
        hosts = {stay.host, stay.rival}
        if until_ns - since_ns < TOLD_NS or stay.rival.epoch != stay.epoch:
            continue
        begun_ns = max(
            [at for hit, at in world.faults.disturbed.items() if hit <= hosts and at <= until_ns],
            default=0,
        )
        if until_ns - begun_ns < TOLD_NS:
            continue
        for host in hosts:
            said = [text for at, text in host.words if at <= until_ns]  # the same is said once
            if not any(word in text for text in said for word in WORDS[stay.kind]):
                yield f"{host} did not tell of {stay.kind}: {stay.host} and {stay.rival}: {said}"


def alarms(world: SiteWorld) -> Iterator[str]:
    """Nobody is said to run a copy, or to have a name that is taken, where that is not so."""
    kinds = {stay.kind for stay in world.faults.stays}
    if "copy" in kinds:
        kinds.add("name")  # it may have that as well
    for kind in ("copy", "name"):
        for host in world.members:
            for at, text in host.words:
                if kind not in kinds and any(word in text for word in WORDS[kind]):
                    yield f"{host} told of a {kind} that is none at {at / SECOND:.4f} s: {text}"


def rest(world: SiteWorld) -> Iterator[str]:
    """After healing everything comes to rest."""
    for fault in world.unrest:
        yield f"no rest: {fault}"


# -- transient topics ------------------------------------------------------------------------------


def _part(world: SiteWorld) -> Transients | None:
    return next((part for part in world.parts if isinstance(part, Transients)), None)


def order(world: SiteWorld) -> Iterator[str]:
    """A subscription gets each publisher's records of a topic in order, none twice."""
    part = _part(world)
    for reading in part.readings if part is not None else ():
        numbers: dict[tuple[str, str], list[int]] = {}
        for topic, value in reading.seen:
            program, _, number = value.decode().split("|")
            numbers.setdefault((program, topic), []).append(int(number))
            if not matches(reading.pattern, topic):
                yield f"{reading!r} got {value!r}"
        for key, row in numbers.items():
            if any(a >= b for a, b in pairwise(row)):
                yield f"{reading!r} got {row[:40]} of {key}"


def copies(world: SiteWorld) -> Iterator[str]:
    """A record leaves its publisher's node once for each other node, and no other one passes it
    on; nothing comes back."""
    part = _part(world)
    if part is None:
        return
    yield from part.odd
    for sent in part.sent.values():
        for host, frames in sent.copies.items():
            if host is sent.at:
                yield f"{sent!r} came back to {host}"
            if len(frames) > 1:
                yield f"{sent!r} came to {host} {len(frames)} times"


def audience(world: SiteWorld) -> Iterator[str]:
    """In the calm a record goes to the nodes where somebody wants it, and to no other."""
    part = _part(world)
    if part is None or not world.is_calm or not part._is_roomy():
        return
    final = [s for s in part.sent.values() if s.is_calm and s.round == world.round]
    for sent in final:
        wanting = {r.at for r in part.open_readings() if matches(r.pattern, sent.topic)}
        if set(sent.copies) != wanting - {sent.at}:
            yield f"{sent!r} of {sent.at} went to {set(sent.copies)}, and {wanting} want it"


def calm(world: SiteWorld) -> Iterator[str]:
    """What is published in the calm comes to all who want it, or is counted."""
    part = _part(world)
    if part is None or not world.is_calm:
        return
    final = [s for s in part.sent.values() if s.is_calm and s.round == world.round]
    for sent in final:
        if not is_done(sent):
            yield f"{sent!r} was published in the calm and is not confirmed"
    for reading in part.open_readings():
        yield from _counted(reading, final, part._is_roomy())


def _counted(reading: Reading, final: list[Sent], is_roomy: bool) -> Iterator[str]:
    wanted = {s.value for s in final if matches(reading.pattern, s.topic)}
    missing = wanted - reading.values
    told = reading.missed - reading.missed_before
    if is_roomy and not reading.is_narrow and (missing or told):
        yield f"{reading!r} did not get {sorted(missing)[:5]}, and was told of {told}"
    elif len(missing) != told:
        yield f"{reading!r} did not get {len(missing)} records, and was told of {told}"


def coming(world: SiteWorld) -> Iterator[str]:
    """What is published while an interest is noted and links stand comes."""
    part = _part(world)
    yield from part.overdue if part is not None else ()


CHECKERS: tuple[Callable[[SiteWorld], Iterator[str]], ...] = (
    views, belonging, words, alarms, rest, order, copies, audience, calm, coming,
    *site_directory_checkers.CHECKERS,
    *site_durable_checkers.CHECKERS, *site_work_checkers.CHECKERS,
)  # fmt: skip
