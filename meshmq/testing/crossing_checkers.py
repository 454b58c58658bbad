"""What must hold of transient records and requests that cross links between sites. Each checker
returns sentences: what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshmq.limits import REQUEST_ATTEMPTS_MAX
from meshmq.names import matches
from meshmq.testing.links_world import LinksWorld
from meshmq.testing.site_crossing import Crossing, Hearing, Told


def _part(world: LinksWorld) -> Crossing | None:
    return next((part for part in world.parts if isinstance(part, Crossing)), None)


def crossed(world: LinksWorld) -> Iterator[str]:
    """A record goes from its publisher's node, over one link to each site whose link says so, in
    one frame."""
    part = _part(world)
    if part is None:
        return
    yield from part.odd[:5]
    for told in part.records.values():
        for site, frames in told.crossed.items():
            if len(frames) > 1:
                yield f"{told!r} went to {site} {len(frames)} times: {frames}"


def heard(world: LinksWorld) -> Iterator[str]:
    """A reader has no record twice, in the order of each publisher as far as they came by one
    node, with the name of its site, and nothing that it does not want."""
    part = _part(world)
    for hearing in part.hearings if part is not None else ():
        yield from _heard(hearing)


def _heard(hearing: Hearing) -> Iterator[str]:
    last: dict[tuple[str, str, tuple[str, ...]], int] = {}
    seen: set[Told] = set()
    for told, site in hearing.got:
        here = hearing.at.site
        is_far = told.at.site != here
        if told in seen:
            yield f"{hearing!r} got {told!r} twice"
        seen.add(told)
        if site != (told.at.site if is_far else ""):
            yield f"{hearing!r} got {told!r} as of site {site!r}"
        if (is_far and hearing.own_site) or not matches(hearing.pattern, told.topic):
            yield f"{hearing!r} got {told!r}"
        ways = sorted(map(repr, told.crossed.get(here, {}).values()))
        key = (told.by, told.topic, tuple(ways))
        if told.number <= last.get(key, 0):
            yield f"{hearing!r} got {told!r} behind {last[key]}"
        last[key] = told.number


def live(world: LinksWorld) -> Iterator[str]:
    """In the calm a record goes to all sites where a link says so and somebody wants it, to no
    other, and comes to all who do."""
    part = _part(world)
    if part is None or not world.is_calm:
        return
    for told in part.in_calm():
        want = part.sites_for(told)
        went = {site for site in told.crossed if not part.is_parted(site, told.at.site)}
        if went != want:
            yield f"{told!r} went to {sorted(went)}, for {sorted(want)}"
        for hearing in part.hearings:
            is_far = hearing.at.site != told.at.site
            if not hearing.program.is_alive or (is_far and hearing.own_site):
                continue
            is_for = not is_far or hearing.at.site in want
            has = any(record is told for record, _ in hearing.got)
            if is_for and matches(hearing.pattern, told.topic) and not has:
                yield f"{hearing!r} did not get {told!r}"


def asked(world: LinksWorld) -> Iterator[str]:
    """A request has one outcome, is begun once, or a few times if it may be, and crosses no link
    but one of its own node, that says so."""
    part = _part(world)
    for question in part.questions.values() if part is not None else ():
        assert part is not None
        call = question.call
        if question.ends > 1 or len(call.replies) > 1:
            yield f"{question!r} has {question.ends} outcomes, {len(call.replies)} replies"
        most = REQUEST_ATTEMPTS_MAX * 3 if call.idempotent else 1 + call.lost
        if len(question.begun) > most:
            yield f"{question!r} was begun at {question.begun}"
        for host, to in question.crossed.values():
            patterns = part.asked.get((host.site, to.site), ())
            if host is not question.at:
                yield f"{question!r} went from {host} to {to}"
            elif not any(matches(p, call.service) for p in patterns):
                yield f"{question!r} went to {to}, which no link lets it"


def answered(world: LinksWorld) -> Iterator[str]:
    """In the calm a request is answered where somebody serves: at the own site, else at another
    one that it may ask; else it is told that nobody does."""
    part = _part(world)
    if part is None or not world.is_calm:
        return
    for question in part.questions.values():
        if not question.is_calm or question.round != world.round or not question.program.is_alive:
            continue
        if any(part.is_parted(host.site, to.site) for host, to in question.crossed.values()):
            continue
        own, far = part.servers_for(question)
        code = question.call.error.code if question.call.error is not None else ""
        if (own or far) and (code or question.begun[0] not in (own or far)):
            yield f"{question!r} was begun at {question.begun}, ended as {code!r}: {own}, {far}"
        elif not (own or far) and code != "no-responders":
            yield f"{question!r} ended as {code!r}, and nobody serves it"


CHECKERS: tuple[Callable[[LinksWorld], Iterator[str]], ...] = (
    crossed, heard, live, asked, answered,
)  # fmt: skip
