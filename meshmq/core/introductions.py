"""Programs that met at a node are told of each other, so that they can talk directly.

Data: a Program for each session that may be introduced; a Pair for two of them that met, with the
patterns and services that they met by: the grant.

Rules:
1. They meet when a record of one goes to a subscription of the other, or its request to an instance
   of the other. Who met one instance of a service meets all there are, and those that come: what it
   asks goes to no other once it goes directly. Only who says addresses is introduced, and nobody to
   itself.
2. Both ends are told the whole grant, each time it grows, and again at half of its life. It ends
   with the session of either.
3. A program has at most DIRECT_PEERS_MAX introductions, a grant INTRODUCTION_NAMES_MAX patterns and
   as many services. What is beyond is not granted: it goes through the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from meshmq import limits
from meshmq.frames import Hello, Introduce


class Reached(Protocol):
    """A subscription that a record went to; ``meeting`` is its link and pattern."""

    meeting: tuple[bytes, str]


class Program:
    """One session of a program that may be introduced.

    Attributes:
        pairs: by the other's link.
        asks: services that it has asked.
        met: links with a pattern, and with a service, that need no second look.
    """

    __slots__ = ("asks", "hello", "link", "met_asking", "met_publishing", "pairs")

    def __init__(self, link: bytes, hello: Hello) -> None:
        self.link = link
        self.hello = hello
        self.pairs: dict[bytes, Pair] = {}
        self.asks: set[str] = set()
        self.met_publishing: set[tuple[bytes, str]] = set()
        self.met_asking: set[tuple[bytes, str]] = set()


class Pair:
    """Two programs that met, and what may pass between them."""

    __slots__ = ("ends", "patterns", "renew_ns", "services")

    def __init__(self, one: Program, other: Program) -> None:
        self.ends = (one, other)
        self.patterns: dict[str, None] = {}
        self.services: dict[str, None] = {}
        self.renew_ns = 0


class Introductions:
    """See the module's header.

    Args:
        instances_of: those of a service that is asked, named by link and registration.

    Attributes:
        changed: grants to be told, by ``take_sends``.
    """

    def __init__(self, instances_of: Callable[[str], Iterable[tuple[bytes, int]]]) -> None:
        self._instances_of = instances_of
        self._programs: dict[bytes, Program] = {}
        self._pairs: dict[Pair, None] = {}  # by when they are renewed, the next one first
        self.changed: dict[Pair, None] = {}
        self._names = 0

    def __len__(self) -> int:
        return len(self._pairs)

    def held_bytes(self) -> int:
        """About how much memory grants take."""
        return (
            len(self._pairs) * limits.INTRODUCTION_BYTES
            + self._names * limits.INTRODUCTION_NAME_BYTES
        )

    def join(self, link: bytes, hello: Hello) -> None:
        """A session begins."""
        if hello.addresses and not hello.direct:
            self._programs[link] = Program(link, hello)

    def drop_link(self, link: bytes) -> None:
        """A session is over, and with it what was granted for it."""
        program = self._programs.pop(link, None)
        for other_link, pair in program.pairs.items() if program is not None else ():
            self._names -= len(pair.patterns) + len(pair.services)
            del self._pairs[pair]
            self.changed.pop(pair, None)
            del self._programs[other_link].pairs[link]
        for other in self._programs.values():  # there is room, and links may be used again
            other.met_publishing.clear()
            other.met_asking.clear()

    # -- meetings -----------------------------------------------------------------------------

    def unmet(self, link: bytes, subscriptions: Iterable[Reached]) -> list[tuple[bytes, str]]:
        """Of those whom a record of ``link`` went to, who has not met it by that pattern."""
        program = self._programs.get(link)
        if program is None:
            return []
        met = program.met_publishing
        return [sub.meeting for sub in subscriptions if sub.meeting not in met]

    def published(self, link: bytes, meetings: Iterable[tuple[bytes, str]]) -> None:
        """A record of ``link`` went to these."""
        program = self._programs[link]
        for meeting in meetings:
            _note(program.met_publishing, meeting)
            self._grant(program, *meeting, is_service=False)

    def asked(self, link: bytes, instance_link: bytes, service: str) -> None:
        """A request of ``link`` was handed to an instance of ``service``."""
        program = self._programs.get(link)
        if program is None or (instance_link, service) in program.met_asking:
            return
        if len(program.asks) < limits.INTRODUCTION_NAMES_MAX:
            program.asks.add(service)
        others = [other for other, _ in self._instances_of(service)]
        for other_link in dict.fromkeys((instance_link, *others)):
            _note(program.met_asking, (other_link, service))
            self._grant(program, other_link, service, is_service=True)

    def served(self, link: bytes, service: str) -> None:
        """A program serves, or wants to: whoever has asked for that meets it."""
        if link in self._programs:
            for program in self._programs.values():
                if service in program.asks:
                    self._grant(program, link, service, is_service=True)

    def _grant(self, one: Program, link: bytes, name: str, is_service: bool) -> None:
        other = self._programs.get(link)
        if other is None or other.hello.instance == one.hello.instance:
            return
        pair = one.pairs.get(link)
        if pair is None:
            if (
                max(len(one.pairs), len(other.pairs)) >= limits.DIRECT_PEERS_MAX
                or len(self._pairs) >= limits.INTRODUCTIONS_MAX
            ):
                return
            pair = one.pairs[link] = other.pairs[one.link] = Pair(one, other)
            self._pairs[pair] = None
        names = pair.services if is_service else pair.patterns
        if name not in names and len(names) < limits.INTRODUCTION_NAMES_MAX:
            names[name] = None
            self._names += 1
            self.changed[pair] = None

    def of(self, link: bytes) -> list[tuple[bytes, tuple[str, ...], tuple[str, ...]]]:
        """Those whom a program was introduced to: link, patterns, services."""
        program = self._programs.get(link)
        return [
            (other, tuple(pair.patterns), tuple(pair.services))
            for other, pair in (program.pairs.items() if program is not None else ())
        ]

    # -- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        first = next(iter(self._pairs), None)
        return first.renew_ns if first is not None and first not in self.changed else None

    def tick(self, now_ns: int) -> None:
        """Renew what has half of its life behind it."""
        for pair in self._pairs:
            if pair.renew_ns > now_ns:
                break
            self.changed[pair] = None

    def take_sends(self, now_ns: int) -> list[tuple[bytes, Introduce]]:
        """What to tell, by link."""
        sends = []
        for pair in self.changed:
            pair.renew_ns = now_ns + limits.INTRODUCTION_NS // 2
            del self._pairs[pair]
            self._pairs[pair] = None
            patterns, services = tuple(pair.patterns), tuple(pair.services)
            one, other = pair.ends
            for to, of in ((one, other.hello), (other, one.hello)):
                frame = Introduce(
                    of.instance, of.name, of.addresses, patterns, services, limits.INTRODUCTION_NS
                )
                sends.append((to.link, frame))
        self.changed = {}
        return sends


def _note(met: set[tuple[bytes, str]], meeting: tuple[bytes, str]) -> None:
    if len(met) >= limits.MEETINGS_MAX:
        met.clear()
    met.add(meeting)
