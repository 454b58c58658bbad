"""What publishers that have other ways than this node send of transient topics, and what not.

Data: a Publisher for each session that said Routes or was told of unwanted topics; the answers to
Subscribe that wait until publishers know of the subscription.

Rules:
1. What is routed does not go to subscriptions that Routes names: they have it directly.
2. A publisher stops sending what it was told nobody wants. When somebody does, it is told so, and
   the subscription is answered once it has heard of that: from then on nothing is passed over.
   A publisher that is silent holds it up for NOTED_NS at most.
3. Another node whose clients want something is told that it is noted (``notes``) by the same rule:
   once publishers here that did not send it have heard of that. Then a subscription there is
   answered. What it notes itself of what we want it says likewise (``noted``).
4. Whoever takes back a route begins anew: nothing counts as unwanted any more, at either end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshmq import limits
from meshmq.errors import BadFrame
from meshmq.frames import Route, Routes, SiteInterests, Subscribed, Wanted
from meshmq.names import is_literal, matches

Direct = Mapping[bytes, set[int] | None]
"""By run of a program: which subscriptions have directly what is routed; None: all of them."""

NOBODY: Direct = {}

_NO_NUMBERS: set[int] = set()

_TOLD = 0  # of a topic: the publisher was told that nobody wants it
_TO_TELL = 1 << 64  # that somebody does; above every sequence


class Publisher:
    """One session of a program.

    Attributes:
        direct: see Direct.
        unwanted: by topic _TOLD, _TO_TELL, or the sequence of the Wanted that is on its way.
    """

    __slots__ = ("direct", "unwanted")

    def __init__(self) -> None:
        self.direct: dict[bytes, set[int] | None] = {}
        self.unwanted: dict[str, int] = {}


class _Held(NamedTuple):
    """An answer that waits: by the publisher's link, for what its session must acknowledge."""

    answer: Subscribed | SiteInterests
    due_ns: int
    waits: dict[bytes, int]


class Transients:
    """See the module's header. Answers that wait no longer gather in ``released``.

    Attributes:
        wanted: by link the topics that it is to be told of, by ``take_wanted``.
        telling: links that have not acknowledged what they were told.
        noted: by link with another node that says so, up to which frame of ours it has noted what
            we want; that it has it says less.
        notes: what is to be told to other nodes.
    """

    def __init__(self) -> None:
        self._publishers: dict[bytes, Publisher] = {}
        self._unwanted: dict[str, dict[bytes, None]] = {}  # by topic: links
        self._count = 0
        self.wanted: dict[bytes, list[str]] = {}
        self._held: dict[tuple[bytes, int], _Held] = {}  # the one that is due first, first
        self.telling: dict[bytes, None] = {}
        self.noted: dict[bytes, int] = {}
        self.notes: list[tuple[bytes, SiteInterests]] = []
        self.released: list[tuple[bytes, Subscribed]] = []

    # -- routes -------------------------------------------------------------------------------

    def direct(self, link: bytes) -> Direct:
        """Who has directly what a publisher routes."""
        publisher = self._publishers.get(link)
        return publisher.direct if publisher is not None else NOBODY

    def routing_to(self, own: bytes, instance: bytes, number: int) -> list[bytes]:
        """Other publishers, by link, that reach a subscription of ``own`` directly."""
        return [
            link
            for link, publisher in self._publishers.items()
            if link != own and has_directly(publisher.direct, instance, number)
        ]

    def on_routes(self, link: bytes, frame: Routes) -> list[Route]:
        """Note who has what directly; return for whom that has changed. Raise BadFrame for too
        many."""
        publisher = self._publishers.setdefault(link, Publisher())
        direct = publisher.direct
        changed = [_remove(direct, route) for route in frame.remove]
        changed += [_add(direct, route) for route in frame.add]
        if len(direct) > limits.DIRECT_PEERS_MAX + 1:
            raise BadFrame(
                f"routes to more than {limits.DIRECT_PEERS_MAX} programs and the publisher itself"
            )
        if frame.remove:
            self._forget(link, publisher)
        return list(dict.fromkeys([route for route in changed if route is not None]))

    # -- topics nobody wants ------------------------------------------------------------------

    def is_unwanted(self, link: bytes, topic: str) -> bool:
        """A batch went to nobody: whether to tell its publisher."""
        publisher = self._publishers.setdefault(link, Publisher())
        known = publisher.unwanted.get(topic)
        if known == _TO_TELL:
            return False
        if known is None:
            if (
                len(publisher.unwanted) >= limits.UNWANTED_PER_SESSION_MAX
                or self._count >= limits.UNWANTED_MAX
            ):
                return False
            self._unwanted.setdefault(topic, {})[link] = None
            self._count += 1
        publisher.unwanted[topic] = _TOLD
        return True

    def _forget(self, link: bytes, publisher: Publisher) -> None:
        """It sends all of its topics again."""
        for topic in publisher.unwanted:
            self._forget_topic(link, topic)
        publisher.unwanted = {}
        self.wanted.pop(link, None)
        self.telling.pop(link, None)
        self._on_known(link, _TO_TELL)

    def _forget_topic(self, link: bytes, topic: str) -> None:
        links = self._unwanted[topic]
        del links[link]
        if not links:
            del self._unwanted[topic]
        self._count -= 1

    def want(self, pattern: str, instance: bytes = b"", number: int = 0) -> dict[bytes, int]:
        """Somebody wants what ``pattern`` covers: tell those who do not send it, unless they reach
        the subscription directly; return their links, with what each must acknowledge first."""
        if is_literal(pattern):
            topics = [pattern] if pattern in self._unwanted else []
        else:
            topics = [topic for topic in self._unwanted if matches(pattern, topic)]
        waits: dict[bytes, int] = {}
        for topic in topics:
            for link in self._unwanted[topic]:
                publisher = self._publishers[link]
                if has_directly(publisher.direct, instance, number):
                    continue
                if publisher.unwanted[topic] == _TOLD:
                    publisher.unwanted[topic] = _TO_TELL
                    self.wanted.setdefault(link, []).append(topic)
                waits[link] = max(waits.get(link, 0), publisher.unwanted[topic])
        return waits

    def want_all(self, link: bytes, number: int, patterns: Iterable[str], now_ns: int) -> bool:
        """Another node's clients want what ``patterns`` cover, as its frame ``number`` says;
        whether that is noted at once."""
        waits: dict[bytes, int] = {}
        for pattern in patterns:
            _add_waits(waits, self.want(pattern))
        for (to, before), held in self._held.items():
            if to == link and before < 0:  # what is noted later is no less
                _add_waits(waits, held.waits)
        note = SiteInterests(False, noted=number + 1)
        if waits:
            self._hold(link, -number, note, waits, now_ns)
        else:
            self.notes.append((link, note))
        return not waits

    def note(self, link: bytes, number: int) -> None:
        """Another node has noted what we want, as far as our frame ``number`` says it."""
        self.noted[link] = number
        if link in self.telling:
            self.on_acked(link, number)

    def take_wanted(self) -> list[tuple[bytes, list[Wanted]]]:
        """What to tell publishers, behind the confirmations; then ``sent`` for each."""
        wanted, self.wanted = self.wanted, {}
        most = limits.FRAME_BATCHES_MAX
        return [
            (link, [Wanted(tuple(topics[i : i + most])) for i in range(0, len(topics), most)])
            for link, topics in wanted.items()
        ]

    def sent(self, link: bytes, sequence: int) -> None:
        """All of it has left, up to ``sequence``."""
        unwanted = self._publishers[link].unwanted
        for topic, state in unwanted.items():
            if state == _TO_TELL:
                unwanted[topic] = sequence
        self.telling[link] = None
        for held in self._held.values():
            if held.waits.get(link) == _TO_TELL:
                held.waits[link] = sequence

    def on_acked(self, link: bytes, acked: int) -> None:
        """A session of ``telling`` has every frame up to ``acked``."""
        acked = self.noted.get(link, acked)
        publisher = self._publishers.get(link)  # or another node, told what we want
        unwanted = publisher.unwanted if publisher is not None else {}
        on_way = {topic: n for topic, n in unwanted.items() if _TOLD < n < _TO_TELL}
        known = [topic for topic, n in on_way.items() if n <= acked]
        for topic in known:
            del unwanted[topic]
            self._forget_topic(link, topic)
        self._on_known(link, acked)
        if len(known) == len(on_way) and not any(link in h.waits for h in self._held.values()):
            del self.telling[link]

    # -- subscriptions whose answer waits -----------------------------------------------------

    def hold(self, link: bytes, answer: Subscribed, waits: dict[bytes, int], now_ns: int) -> None:
        """Let the answer wait for what these links must acknowledge, see ``want``."""
        self._hold(link, answer.subscription, answer, waits, now_ns)

    def _hold(
        self, link: bytes, number: int, answer: Subscribed | SiteInterests,
        waits: dict[bytes, int], now_ns: int,
    ) -> None:  # fmt: skip
        for publisher in [to for to, sequence in waits.items() if sequence != _TO_TELL]:
            self.telling[publisher] = None
        self._held[link, number] = _Held(answer, now_ns + limits.NOTED_NS, waits)

    def release(self, link: bytes, number: int) -> None:
        """The answer waits no longer, if it did."""
        held = self._held.pop((link, number), None)
        if held is None:
            return
        if isinstance(held.answer, SiteInterests):
            self.notes.append((link, held.answer))
        else:
            self.released.append((link, held.answer))

    def _on_known(self, link: bytes, acked: int) -> None:
        for (to, number), held in list(self._held.items()):
            if link in held.waits and held.waits[link] <= acked:
                del held.waits[link]
                if not held.waits:
                    self.release(to, number)

    def drop_link(self, link: bytes) -> None:
        """A session is over."""
        for key in [key for key in self._held if key[0] == link]:
            del self._held[key]
        publisher = self._publishers.pop(link, None)
        if publisher is not None:
            self._forget(link, publisher)
        self.telling.pop(link, None)
        self.noted.pop(link, None)
        self._on_known(link, _TO_TELL)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return next(iter(self._held.values())).due_ns if self._held else None

    def tick(self, now_ns: int) -> None:
        """Answer those that have waited long enough."""
        for key in [key for key, held in self._held.items() if held.due_ns <= now_ns]:
            self.release(*key)


def _add_waits(waits: dict[bytes, int], more: Mapping[bytes, int]) -> None:
    for link, number in more.items():
        waits[link] = max(number, waits.get(link, 0))


def has_directly(direct: Direct, instance: bytes, number: int) -> bool:
    """Whether a subscription has directly what is routed."""
    numbers = direct.get(instance, _NO_NUMBERS)
    return numbers is None or number in numbers


def _add(direct: dict[bytes, set[int] | None], route: Route) -> Route | None:
    """What of it is new."""
    instance, subscriptions = route
    known = direct.get(instance, _NO_NUMBERS)
    if known is None:
        return None
    if not subscriptions:
        direct[instance] = None
        return route
    new = tuple([number for number in dict.fromkeys(subscriptions) if number not in known])
    direct[instance] = numbers = {*known, *new}
    if len(numbers) > limits.INTERESTS_MAX:
        raise BadFrame(f"routes to more than {limits.INTERESTS_MAX} subscriptions of a program")
    return Route(instance, new) if new else None


def _remove(direct: dict[bytes, set[int] | None], route: Route) -> Route | None:
    """What of it was there."""
    instance, subscriptions = route
    known = direct.get(instance, _NO_NUMBERS)
    if not subscriptions:
        return Route(instance) if direct.pop(instance, _NO_NUMBERS) is not _NO_NUMBERS else None
    if known is None:
        return None  # all are named, whatever their numbers
    old = tuple([number for number in dict.fromkeys(subscriptions) if number in known])
    left = {*known} - {*old}
    if left:
        direct[instance] = left
    else:
        direct.pop(instance, None)
    return Route(instance, old) if old else None
