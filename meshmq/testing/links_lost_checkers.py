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
    """In the end all that was published is done, wherever."""
    if _is_over(world):
        yield from [f"{value!r} waits" for value in world.lost.waits()][:5]


def announced(world: LostSitesWorld) -> Iterator[str]:
    """Whoever begins a record after somebody else is told that it may be a repeat."""
    for value, some in world.lost.begun.items():
        clean = [one for one in some if not one.is_told and one.attempt == 1]
        if len(clean) > 1:
            yield f"{value!r} was begun as new at {[(one.site, one.at_ns) for one in clean]}"


def given(world: LostSitesWorld) -> Iterator[str]:
    """No node hands out what it knows that another site has, but for records that this one has
    handed back; one that has started waits to hear of that."""
    yield from world.owners.given[:5]


def shared(world: LostSitesWorld) -> Iterator[str]:
    """No group works a record in two sites under one (epoch, site): a taker nothing more that it
    has handed back, its own site nothing before."""
    yield from world.owners.shared[:5]


def again(world: LostSitesWorld) -> Iterator[str]:
    """What is done at a node it does not hand out again: not after a handback either."""
    yield from world.owners.again[:5]


def moved(world: LostSitesWorld) -> Iterator[str]:
    """Only the newest taker that a node knows moves records of a log, and each once."""
    yield from world.owners.strayed[:5]


def returned(world: LostSitesWorld) -> Iterator[str]:
    """What goes back was taken over, is not done, and goes once."""
    yield from world.owners.returned[:5]


def owned(world: LostSitesWorld) -> Iterator[str]:
    """In the end all know the same takeover of a log, the greatest."""
    if _is_over(world):
        yield from world.lost.ownership()


def buried(world: LostSitesWorld) -> Iterator[str]:
    """In the end what nobody can work on is a dead letter: of each node that has given it up one,
    once at a node, and not at one any more that gave it away."""
    if not _is_over(world):
        return
    dead = world.owners.dead()
    for value in world.lost.begun:
        if is_bad(value) and not dead[value]:
            yield f"{value!r} is no dead letter"
    yield from world.owners.find_doubled()


def _is_over(world: LostSitesWorld) -> bool:
    """Whether it was played to its end: at rest, or as far as it came to rest in time."""
    return min(world.heals) >= 0


LOST_CHECKERS: tuple[Callable[[LostSitesWorld], Iterator[str]], ...] = (
    views, belonging, alarms, rest, stable, single, finished, announced, given, shared, again,
    moved, returned, owned, buried,
)  # fmt: skip
