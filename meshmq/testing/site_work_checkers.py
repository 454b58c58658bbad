"""What must hold of groups and queues, and of requests, in the history of a site. Each checker
returns sentences; those of requests are of the world of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshmq.testing import request_checkers as rules
from meshmq.testing.request_ledger import RequestLedger
from meshmq.testing.site_calls import Calls
from meshmq.testing.site_works import Works
from meshmq.testing.site_world import SiteWorld

# -- groups and queues -----------------------------------------------------------------------------


def _works(world: SiteWorld) -> Works | None:
    return next((part for part in world.parts if isinstance(part, Works)), None)


def hands(world: SiteWorld) -> Iterator[str]:
    """What a member is given is in no other's hands, is not done, says that it may have been begun,
    and is within the prefetch."""
    part = _works(world)
    yield from part.wrong if part is not None else ()


def sums(world: SiteWorld) -> Iterator[str]:
    """Counters of groups add up at every node, and at rest nothing stays in memory."""
    part = _works(world)
    if part is not None:
        yield from part.audits
        yield from part.leftovers


def worked(world: SiteWorld) -> Iterator[str]:
    """Each record of a group was begun, by whoever, or is among the dead."""
    part = _works(world)
    if part is None or not world.is_calm or world.unrest:
        return
    for group, wish in part.wishes.items():
        if wish.get("start") == "new":
            continue
        dead = part.dead(group)
        for place, value in part.stored(group):
            if not part.counts[place] and value not in dead and b"|last|" not in value:
                yield f"{group}: {place[2]} {place[3]} of {place[1].hex()[:6]}: nobody began it"


def lags(world: SiteWorld) -> Iterator[str]:
    """Whichever node is asked how much a group has left says the same, and what is so."""
    part = _works(world)
    if part is None or not world.is_calm or world.unrest:
        return
    for group in part.wishes:
        said = dict(part.lags(group))
        backlog = sum(
            host.node.groups.by_name[group].backlog
            for host in world.members
            if host.node is not None and group in host.node.groups.by_name
        )
        for node, lag in said.items():
            if lag != next(iter(said.values())):
                yield f"{group}: {node} says {lag}, others {next(iter(said.values()))}"
            if lag["records"] != backlog:
                yield f"{group}: {node} says that {lag['records']} are left, {backlog} are"
        if len(said) < len(world.members):
            yield f"{group}: only {sorted(said)} say how much is left"


# -- requests --------------------------------------------------------------------------------------

Judge = Callable[[RequestLedger], Iterator[str]]


def _calls(world: SiteWorld, *judges: Judge) -> Iterator[str]:
    part = next((part for part in world.parts if isinstance(part, Calls)), None)
    for judge in judges if part is not None else ():
        assert part is not None
        for fault in judge(part):
            yield f"{judge.__name__}: {fault}"


def answers(world: SiteWorld) -> Iterator[str]:
    """Each call ends once and in time, with what a handler has said for it."""
    yield from _calls(
        world, rules.ends, rules.replies, rules.last_replies, rules.streams, rules.windows
    )


def handlers(world: SiteWorld) -> Iterator[str]:
    """What may not be done twice is begun once; none is begun too late, or beyond the places of its
    instance; who works for nobody is told."""
    yield from _calls(
        world, rules.begun_once, rules.attempts, rules.not_done, rules.deadlines, rules.places,
        rules.told,
    )  # fmt: skip


def answered(world: SiteWorld) -> Iterator[str]:
    """Without faults each call is answered, wherever it is served; at rest all places take one."""
    yield from _calls(world, rules.calm, rules.each, rules.roll_call)


def kept(world: SiteWorld) -> Iterator[str]:
    """What nodes know of requests adds up, and at rest nothing stays."""
    yield from _calls(world, rules.counters, rules.memory)


CHECKERS: tuple[Callable[[SiteWorld], Iterator[str]], ...] = (
    hands, sums, worked, lags, answers, handlers, answered, kept,
)  # fmt: skip
