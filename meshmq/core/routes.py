"""Who has directly what whom publishes, as far as a node knows it: for listings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from meshmq.core.introductions import Introductions
from meshmq.core.transients import Transients
from meshmq.frames import Hello


class Session(Protocol):
    """One program at the node."""

    @property
    def hello(self) -> Hello: ...


def describe(
    sessions: Mapping[bytes, Session], transients: Transients, introductions: Introductions
) -> Iterator[dict[str, Any]]:
    """A row for each pair of programs that talk directly or were introduced: how ``to`` has what
    ``from`` publishes and may be lost. A program with no such pair has one without ``to``.

    Made one at a time: who takes them may stop before there are too many.
    """
    sessions = {link: s for link, s in sessions.items() if not s.hello.reads}
    by_run = {session.hello.instance: session.hello for session in sessions.values()}
    links = {session.hello.instance: link for link, session in sessions.items()}
    for link, session in sessions.items():
        me, direct = session.hello, transients.direct(link)
        met = {
            sessions[other].hello.instance: (patterns, services)
            for other, patterns, services in introductions.of(link)
        }
        runs = (direct.keys() | met.keys()) & by_run.keys() - {me.instance}
        for run in sorted(runs):
            patterns, services = met.get(run, ((), ()))
            # Who reaches us directly is linked: what he came to want would go to him directly, too.
            is_linked = run in direct or me.instance in transients.direct(links[run])
            route = "direct" if is_linked else "node"
            yield _row(me, by_run[run], route, patterns, services)
        if not runs:
            yield _row(me, None, "node", (), ())


def _row(
    me: Hello, other: Hello | None, route: str, patterns: tuple[str, ...], services: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "from": me.name,
        "from_instance": me.instance.hex(),
        "to": None if other is None else other.name,
        "to_instance": None if other is None else other.instance.hex(),
        "route": route,
        "patterns": patterns,
        "services": services,
    }
