"""What the history of sites must keep that mirror each other's logs. Each checker returns
sentences: what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshmq.testing import crossing_checkers
from meshmq.testing.links_world import LinksWorld
from meshmq.testing.site_checkers import alarms, belonging, rest, views


def check_links(world: LinksWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in LINKS_CHECKERS for fault in checker(world)]


def mirrored(world: LinksWorld) -> Iterator[str]:
    """At rest a site has of the logs of the others exactly what it wishes: the same bytes at the
    same offsets and places."""
    yield from world.linking.unlike


def stable(world: LinksWorld) -> Iterator[str]:
    """An offset of a log names one batch, on whatever disk and whenever."""
    yield from world.linking.changed[:5]


def single(world: LinksWorld) -> Iterator[str]:
    """No log comes back to its own site, and no batch is on one disk twice."""
    yield from world.linking.misplaced[:5]


def read(world: LinksWorld) -> Iterator[str]:
    """A reader gets each wished record, once, in order; of whichever log."""
    for reading in world.linking.readings:
        ends: dict[tuple[bytes, str], int] = {}
        for row in reading.rows:
            stream = row[:2]
            end = ends.get(stream, 0)
            # A topic that is wished again comes with what lies behind such a reader.
            later = world.begins_later(reading.at.site)
            may_lack = world.has_trims or world.ever or world.keeps or later
            if row.offset < end or (row.offset > end and not may_lack):
                yield f"{reading!r} got {row.topic} {row.offset} for {ends.get(stream, 0)}"
            ends[stream] = row.offset + 1
            if reading.values[row] != world.linking.values.get(row):
                value = world.linking.values.get(row)
                yield f"{reading!r} got {reading.values[row]!r} for {value!r}"
    if world.is_calm:
        yield from world.linking.find_unread()


def ordered(world: LinksWorld) -> Iterator[str]:
    """Who reads several topics has each log in its order."""
    for reading in world.linking.readings:
        places: dict[bytes, tuple[int, int]] = {}
        for row in reading.rows:
            place = world.linking.place_of(row)
            if place < places.get(row.origin, (1, 0)):
                yield f"{reading!r} got {row.topic} {row.offset} at {place} behind {places}"
            places[row.origin] = place


def shared(world: LinksWorld) -> Iterator[str]:
    """At rest one node of a site keeps each log that is wished, and goes on pulling it."""
    yield from world.linking.kept


def waited(world: LinksWorld) -> Iterator[str]:
    """Who waits for other sites is told when so many have a record, not before, and not never."""
    yield from world.linking.early[:5]
    yield from world.linking.late


def paused(world: LinksWorld) -> Iterator[str]:
    """Nothing is pulled or asked over a link that a node knows to be paused."""
    if world.pausing is not None:
        yield from world.pausing.wrong[:5]


def kept(world: LinksWorld) -> Iterator[str]:
    """A site that keeps for ever what it mirrors has all that it ever had."""
    yield from world.linking.lost[:5]


LINKS_CHECKERS: tuple[Callable[[LinksWorld], Iterator[str]], ...] = (
    views, belonging, alarms, rest, mirrored, stable, single, read, ordered, shared, waited, paused,
    kept,
    *crossing_checkers.CHECKERS,
)  # fmt: skip
