"""What the history of a site must keep whose nodes copy each other's logs. Each checker returns
sentences: what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshmq.testing.copies_world import CopiesWorld
from meshmq.testing.site_checkers import alarms, belonging, rest, views, words
from meshmq.testing.site_copying import Row


def check_copies(world: CopiesWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    checkers = OF_ANY_SITE if world.is_unfound else COPIES_CHECKERS
    return [fault for checker in checkers for fault in checker(world)]


# -- copies ----------------------------------------------------------------------------------------


def said(world: CopiesWorld) -> Iterator[str]:
    """Nobody is told that a record is replicated before as many disks have it."""
    yield from world.copying.early


def kept(world: CopiesWorld) -> Iterator[str]:
    """What was confirmed is read at every node, where it was confirmed: what was as replicated
    although a disk is lost, the rest unless that was its only one."""
    if not world.is_calm:
        return
    for reading in world.copying.final:
        found = dict(reading.rows)
        for one in world.copying.expected("c."):
            if reading.values[one.value] == 0:
                yield f"{reading!r} did not get {one!r}, which was confirmed"
            elif one.row is not None and found.get(one.row) != one.value:
                yield f"{reading!r} got {found.get(one.row)!r} in place of {one!r}"


def offsets(world: CopiesWorld) -> Iterator[str]:
    """A reader gets each stream in order, and nothing of it twice."""
    for reading in world.copying.readings:
        last: dict[tuple[bytes, str], int] = {}
        for row, value in reading.rows:
            stream = row[:2]
            if row.offset <= last.get(stream, -1):
                yield f"{reading!r} got {row.topic} {row.offset} behind {last[stream]}: {value!r}"
            last[stream] = row.offset


def same(world: CopiesWorld) -> Iterator[str]:
    """At rest copies are like their logs: the same bytes at the same offsets."""
    yield from world.copying.unlike


def mended(world: CopiesWorld) -> Iterator[str]:
    """What is damaged on one disk is had again from another one."""
    if not world.is_calm:
        return
    for reading in world.copying.final:
        if reading.damaged:
            yield f"{reading!r} was told that {reading.damaged} records are damaged"
    if world.recent_bytes == 0:  # else they were read from memory
        yield from world.copying.find_flips()


def refused(world: CopiesWorld) -> Iterator[str]:
    """Who runs on a copy of a disk, beside the node whose that is, is let in by nobody."""
    yield from world.taken_in


# -- takeover --------------------------------------------------------------------------------------


def worked(world: CopiesWorld) -> Iterator[str]:
    """What groups and queues were given is worked on, whatever became of its node."""
    if not world.is_calm:
        return
    for one in world.copying.expected(""):
        if world.takeovers.waits_for(one):
            yield f"{one!r} was confirmed, and nobody has worked on it"
    for value in world.takeovers.find_idle():
        yield f"{value!r} was taken over, and nobody has worked on it since"


def fenced(world: CopiesWorld) -> Iterator[str]:
    """A node that was taken over hands out nothing of what it had to give away."""
    yield from world.takeovers.taken_twice


def taken(world: CopiesWorld) -> Iterator[str]:
    """A taker takes what was left, all of it, once."""
    if world.is_calm:
        yield from world.takeovers.find_wrong_moves()


# -- moving ----------------------------------------------------------------------------------------


def once(world: CopiesWorld) -> Iterator[str]:
    """Who reads with dedup gets each confirmed record once."""
    if not world.is_calm:
        return
    for reading in world.moves.open_readings():
        for value, count in reading.values.items():
            if count > 1:
                yield f"{reading!r} got {value!r} {count} times"
        for one in world.copying.expected("c.") if not reading.damaged else ():
            if not reading.values[one.value]:
                yield f"{reading!r} did not get {one!r}"


def waiting(world: CopiesWorld) -> Iterator[str]:
    """Who is to wait for its node goes to no other."""
    for program in world.copies_programs():
        if program.stays and len(set(program.homes)) > 1:
            yield f"{program!r} was at {program.homes}"


OF_ANY_SITE: tuple[Callable[[CopiesWorld], Iterator[str]], ...] = (
    views, belonging, words, alarms,
)  # fmt: skip
COPIES_CHECKERS = (
    *OF_ANY_SITE, rest, said, kept, offsets, same, mended, refused, worked, fenced, taken, once,
    waiting,
)  # fmt: skip

__all__ = ["COPIES_CHECKERS", "Row", "check_copies"]
