"""What must hold of durable topics in the history of a site. Each checker returns sentences.

A log and what it gave its readers is judged by the checkers of the world of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshmq.frames import START_EARLIEST, START_POSITION
from meshmq.names import matches
from meshmq.testing import checkers
from meshmq.testing.history import History
from meshmq.testing.site_durables import Durables, LogReader
from meshmq.testing.site_world import SiteWorld

Judge = Callable[[History], Iterator[str]]


def _part(world: SiteWorld) -> Durables | None:
    return next((part for part in world.parts if isinstance(part, Durables)), None)


def _each(world: SiteWorld, *judges: Judge) -> Iterator[str]:
    part = _part(world)
    for origin, history in part.histories() if part is not None else ():
        for judge in judges:
            for fault in judge(history):
                yield f"log {origin.hex()[:6]}: {fault}"


def logs(world: SiteWorld) -> Iterator[str]:
    """Each log has what was confirmed there, once and in order."""
    yield from _each(world, checkers.times, checkers.offsets, checkers.streams, checkers.receipts)


def deliveries(world: SiteWorld) -> Iterator[str]:
    """Of each log a reader gets synced records, in order, without a hole, none twice."""
    yield from _each(world, checkers.deliveries)


def beginnings(world: SiteWorld) -> Iterator[str]:
    """Whoever reads all has all, and who reads what is new all that came after the answer."""
    if world.is_calm and not world.unrest:
        yield from _each(world, checkers.beginnings)


def positions(world: SiteWorld) -> Iterator[str]:
    """Who reads on from a position has all behind it, of every log."""
    part = _part(world)
    if part is None or not world.is_calm or world.unrest:
        return
    for reader in part.readers:
        if reader.start.kind != START_POSITION or not reader.is_open:
            continue
        for host in world.members:
            wanted = part.expected(reader, host.disk)
            got = [(s.topic, s.offset) for s in reader.seen.get(host.origin, [])]
            if wanted is None:
                continue
            missing = sorted(set(wanted).difference(got))
            if reader.dedup:
                missing = missing if len(missing) > reader.sub.copies else []
            if missing or not set(got) <= set(wanted):
                more = sorted(set(got).difference(wanted))
                yield f"{reader!r}: of {host} it has not {missing[:4]}, and has {more[:4]}"


def confirmed(world: SiteWorld) -> Iterator[str]:
    """Who reads all without copies has each record that was confirmed, of whichever log."""
    part = _part(world)
    if part is None or not world.is_calm or world.unrest:
        return
    live = part.live()
    for reader in part.readers:
        if reader.start.kind != START_EARLIEST or not (reader.is_open and reader.dedup):
            continue
        values = set(reader.values())
        for p in part.published:
            is_there = p.batch.origin in live and matches(reader.pattern, p.topic)
            if is_there and p.value not in values:
                yield f"{reader!r} has not got {p.value!r}, which was confirmed"


def doubles(world: SiteWorld) -> Iterator[str]:
    """With dedup nothing comes twice; without it, only what is in two logs."""
    part = _part(world)
    for reader in part.readers if part is not None else ():
        yield from _doubles(reader)


def _doubles(reader: LogReader) -> Iterator[str]:
    values = list(reader.values())
    if reader.dedup and len(set(values)) < len(values):
        twice = sorted({value for value in values if values.count(value) > 1})
        yield f"{reader!r} got twice {twice[:4]}"


def away(world: SiteWorld) -> Iterator[str]:
    """A reader is told exactly which nodes are away that have what it reads."""
    part = _part(world)
    yield from part.wrong if part is not None else ()


CHECKERS: tuple[Callable[[SiteWorld], Iterator[str]], ...] = (
    logs, deliveries, beginnings, positions, confirmed, doubles, away,
)  # fmt: skip
