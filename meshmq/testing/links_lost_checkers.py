"""What the history of sites that are lost and taken over must keep. Each checker returns sentences:
what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshmq.testing.links_checkers import single, stable
from meshmq.testing.links_lost import LostSitesWorld, is_bad
from meshmq.testing.site_checkers import alarms, belonging, rest, views


def check_lost(world: LostSitesWorld) -> list[str]:
    """Everything that is wrong with a history; empty when it kept its promises."""
    return [fault for checker in LOST_CHECKERS for fault in checker(world)]


def finished(world: LostSitesWorld) -> Iterator[str]:
    """In the end all that was published is worked on, wherever."""
    if _is_over(world):
        yield from [f"{v!r} waits" for v in world.lost.expected() if v not in world.lost.begun][:5]


def announced(world: LostSitesWorld) -> Iterator[str]:
    """Whoever begins a record after somebody else is told that it may be a repeat."""
    for value, some in world.lost.begun.items():
        clean = [one for one in some if not one.is_told and one.attempt == 1]
        if len(clean) > 1:
            yield f"{value!r} was begun as new at {[(one.site, one.at_ns) for one in clean]}"


def given(world: LostSitesWorld) -> Iterator[str]:
    """No node hands out what it knows that another site has."""
    yield from world.lost.handed[:5]


def owned(world: LostSitesWorld) -> Iterator[str]:
    """In the end all know the same takeover of a log, the greatest."""
    if _is_over(world):
        yield from world.lost.ownership()


def buried(world: LostSitesWorld) -> Iterator[str]:
    """In the end what nobody can work on is a dead letter: once, or once more for each other site
    that was told that it may be a repeat, or took it over with its log as well."""
    if not _is_over(world):
        return
    dead = world.lost.dead()
    for value, some in world.lost.begun.items():
        sites = len({one.site for one in some})
        takers = max([len(world.lost.takers.get(one.origin, ())) for one in some])
        if is_bad(value) and not 1 <= dead[value] <= max(sites, takers):
            yield f"{value!r} is {dead[value]} dead letters"


def _is_over(world: LostSitesWorld) -> bool:
    """Whether it was played to its end: at rest, or as far as it came to rest in time."""
    return min(world.heals) >= 0


LOST_CHECKERS: tuple[Callable[[LostSitesWorld], Iterator[str]], ...] = (
    views, belonging, alarms, rest, stable, single, finished, announced, given, owned, buried,
)  # fmt: skip
