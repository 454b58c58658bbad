"""What crosses links between sites as it happens: transient records and requests.

Programs of their own, at some nodes, publish, read, ask and serve. Records carry who published them
and where, requests a number; so whatever comes somewhere says what it is.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from meshmq import codec
from meshmq.core.effects import Arrived, CallsAnswered, ClientEffect, RequestsCame
from meshmq.core.log import Entry, RuleEntry
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.requester import Call
from meshmq.core.responder import Incoming, Registration
from meshmq.core.subscriber import Start
from meshmq.frames import ONE, START_NEW, Deliver, Envelope, Request
from meshmq.limits import MS, SECOND
from meshmq.names import matches
from meshmq.testing.site_part import Part
from meshmq.testing.stage import WALL_NS

if TYPE_CHECKING:
    from meshmq.testing.links_world import LinksWorld
    from meshmq.testing.site_host import Host, Wire
    from meshmq.testing.site_program import SiteProgram

SHARE = 0.4
"""Of the histories of linked sites."""
LIVE: tuple[tuple[str, ...], ...] = ((), ("t.>",), ("t.>",), ("t.a",), ("*.b", "t.*"))
ASKED: tuple[tuple[str, ...], ...] = ((), ("s.*",), ("s.*",), ("s.a",))
TOPICS = ("t.a", "t.b", "t.c.x")
PATTERNS = ("t.>", "t.a", "*.b", ">")
SERVICES = ("s.a", "s.b")
PUBLISHED_MAX, ASKED_MAX = 150, 80
PATIENCES_NS = (300 * MS, 3 * SECOND, 10 * SECOND)
PLACES = 50  # of an instance: they always have room
CALM_PATIENCE_NS = 20 * SECOND


class Told:
    """One transient record.

    Attributes:
        at: the node where it was published.
        number: of its publisher's, by topic.
        crossed: frames that brought it to another site, and to which node.
    """

    def __init__(self, program: SiteProgram, topic: str, number: int, is_calm: bool) -> None:
        self.at, self.by, self.topic, self.number = program.host, repr(program), topic, number
        self.is_calm, self.round = is_calm, program.world.round
        self.crossed: dict[str, dict[tuple[int, int], Host]] = {}

    def __repr__(self) -> str:
        return f"{self.by}'s {self.topic} {self.number} of {self.at}"


class Hearing:
    """One subscription.

    Attributes:
        got: what came, in order, with the site that it was said to be of.
    """

    def __init__(self, program: SiteProgram, number: int, pattern: str, own_site: bool) -> None:
        self.program, self.number, self.pattern = program, number, pattern
        self.own_site = own_site
        self.at = program.host
        self.got: list[tuple[Told, str]] = []

    def __repr__(self) -> str:
        return f"{self.program!r} at {self.at}, reading {self.pattern}"


class Question:
    """One request.

    Attributes:
        begun: nodes whose instances have begun it, each time. crossed: frames that took it to
            another site: from which node to which.
        ends: how often the program was told that it is over.
    """

    def __init__(self, program: SiteProgram, call: Call, is_calm: bool) -> None:
        self.program, self.call, self.at = program, call, program.host
        self.value = call.data
        self.is_calm, self.round = is_calm, program.world.round
        self.begun: list[Host] = []
        self.crossed: dict[tuple[int, int], tuple[Host, Host]] = {}
        self.ends = 0

    def __repr__(self) -> str:
        return f"{self.value!r} for {self.call.service} at {self.at}"


class Crossing(Part):
    """See the module's header.

    Attributes:
        live, asked: by a site and the other what its link lets in, and what it lets be asked.
        records, hearings, questions: all that ever were.
        odd: what may not be and was.
    """

    world: LinksWorld

    def __init__(self, world: LinksWorld) -> None:
        super().__init__(world)
        self.rng = rng = random.Random(f"{world.seed} crossing")
        self.live = {pair: rng.choice(LIVE) for pair in world.wishes}
        self.asked = {pair: rng.choice(ASKED) for pair in world.wishes}
        self.records: dict[bytes, Told] = {}
        self.hearings: list[Hearing] = []
        self.questions: dict[bytes, Question] = {}
        self.servings: list[tuple[SiteProgram, Registration]] = []
        self.odd: list[str] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def prepare(self) -> list[Entry]:
        return [RuleEntry("t.>", False, 0, 0)]

    def break_down(self) -> None:
        world, rng = self.world, self.rng
        if world.round:
            return
        for host in world.members:
            if rng.random() < 0.8:
                name = f"v{len(world.programs)}{host.site}{host.name}"
                start = partial(world.start_program, name, 0, host)
                world.after(int(rng.random() * SECOND), start)

    def begin(self, program: SiteProgram) -> None:
        if not program.name.startswith("v"):
            return
        rng = self.rng
        for _ in range(rng.randrange(3)):
            self._subscribe(program, rng.choice(PATTERNS), rng.random() < 0.2)
        for service in SERVICES:
            if rng.random() < 0.3:
                self._serve(program, service)
        self._do_later(program)

    # -- what programs do -------------------------------------------------------------------------

    def _do_later(self, program: SiteProgram) -> None:
        most = 500 * MS if self.world.is_busy else 8 * SECOND
        self.world.after(int(self.rng.random() * most), partial(self._do, program))

    def _do(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        rng = self.rng
        if not self.world.healed:
            if len(self.records) < PUBLISHED_MAX:
                self._publish(program, rng.choice(TOPICS), rng.choice([1, 1, 3]))
            if len(self.questions) < ASKED_MAX and rng.random() < 0.5:
                self._ask(program, rng.choice(SERVICES), rng.choice(PATIENCES_NS))
            mine = [h for h in self.hearings if h.program is program]
            if rng.random() < 0.1 and len(mine) < 4:
                self._subscribe(program, rng.choice(PATTERNS), rng.random() < 0.2)
            elif rng.random() < 0.1 and mine:
                self.hearings.remove(mine[0])
                program.client.unsubscribe(mine[0].number, self.world.now_ns)
                program.settle()
        self._do_later(program)

    def _publish(self, program: SiteProgram, topic: str, count: int) -> None:
        for _ in range(count):
            self._counts[program.name, topic] += 1
            told = Told(program, topic, self._counts[program.name, topic], self.world.is_calm)
            value = f"{program!r}|{topic}|{told.number}".encode()
            self.records[value] = told
            program.client.publisher.add(
                topic, value, None, None, None, lambda: WALL_NS + self.world.now_ns,
                TOPIC_DEFAULT, None, None,
            )  # fmt: skip
        program.settle()

    def _subscribe(self, program: SiteProgram, pattern: str, own_site: bool) -> None:
        number = program.client.subscribe(
            pattern, Start(START_NEW), 1 << 20, 10_000, self.world.now_ns, own_site=own_site
        )
        self.hearings.append(Hearing(program, number, pattern, own_site))
        program.settle()

    def _serve(self, program: SiteProgram, service: str) -> None:
        registration = program.client.serve(service, PLACES, None, self.world.now_ns)
        self.servings.append((program, registration))
        program.settle()

    def _ask(self, program: SiteProgram, service: str, patience_ns: int) -> None:
        value = b"q%d" % len(self.questions)
        due_ns = self.world.now_ns + patience_ns
        call = Call(service, value, b"", ONE, self.rng.random() < 0.5, due_ns)
        call.owner = self.questions[value] = Question(program, call, self.world.is_calm)
        program.client.requester.add(call)
        program.settle()

    # -- what happens -----------------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        match effect:
            case Arrived():
                self._on_arrived(program, effect)
            case CallsAnswered(calls):
                for call in dict.fromkeys(calls):
                    if isinstance(call.owner, Question) and call.is_over:
                        call.owner.ends += 1
            case RequestsCame(registrations):
                for registration in sorted(registrations, key=lambda r: r.id):
                    self._on_came(program, registration)
            case _:
                pass

    def _on_arrived(self, program: SiteProgram, effect: Arrived) -> None:
        key = program, effect.subscription
        hearing = next((h for h in self.hearings if (h.program, h.number) == key), None)
        if hearing is None:
            return
        for a in effect.arrivals:
            if a.lsn:
                continue
            for value in codec.decode_batch(a.payload, a.count).values[a.skip :]:
                told = self.records.get(bytes(value))
                if told is None:
                    self.odd.append(f"{hearing!r} got {value!r}, which nobody published")
                else:
                    hearing.got.append((told, a.site))
        self.consume_soon(program, effect)

    def _on_came(self, program: SiteProgram, registration: Registration) -> None:
        responder = program.client.responder
        while (incoming := responder.begin(registration)) is not None:
            self.questions[bytes(incoming.data)].begun.append(program.host)
            delay = int(self.rng.random() ** 3 * 500 * MS)
            self.world.after(delay, partial(self._answer, program, incoming))

    def _answer(self, program: SiteProgram, incoming: Incoming) -> None:
        if program.is_alive and not incoming.is_over:
            program.client.responder.reply(incoming, incoming.data + b"!", True)
            program.settle()

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        to = wire.listener if wire.dialler is host and wire.link in host.wires else wire.dialler
        if to is None or to.site == host.site:
            return
        body, frame = envelope.body, (envelope.session, envelope.sequence)
        if isinstance(body, Deliver) and not body.subscription:
            at = 0
            for row in body.batches:
                data = bytes(body.payload[at : at + row.length])
                at += row.length
                for value in codec.decode_batch(data, row.count).values if data else ():
                    self._on_crossed(self.records[bytes(value)], host, to, frame)
        elif isinstance(body, Request):
            at = 0
            for asked in body.rows:
                question = self.questions[bytes(body.payload[at : at + asked.length])]
                at += asked.length
                question.crossed[frame] = host, to

    def _on_crossed(self, told: Told, host: Host, to: Host, frame: tuple[int, int]) -> None:
        told.crossed.setdefault(to.site, {})[frame] = to
        if host is not told.at:
            self.odd.append(f"{told!r} went from {host} to {to}")
        if not self.is_let_in(to.site, told):
            self.odd.append(f"{told!r} went to {to}, whose link does not say so")

    def lets_in(self, site: str, to: str) -> dict[str, Any]:
        """What a link brings live, and what it lets be asked."""
        return {"live": self.live[site, to], "services": self.asked[site, to]}

    # -- what must be -----------------------------------------------------------------------------

    def is_let_in(self, site: str, told: Told) -> bool:
        """Whether a link of a site brings a record of another one."""
        return any(matches(p, told.topic) for p in self.live.get((site, told.at.site), ()))

    def calm(self) -> None:
        """All links stand, but one that stays cut: what is live comes, and requests are served."""
        for program in [p for p in self.world.programs.values() if p.name.startswith("v")]:
            for topic in TOPICS:
                later = partial(self._publish, program, topic, self.rng.choice([1, 3]))
                self.world.after(int(self.rng.random() * SECOND // 2), later)
            for service in SERVICES:
                self._ask(program, service, CALM_PATIENCE_NS)

    def in_calm(self) -> Iterator[Told]:
        """Records of this round's calm."""
        return (t for t in self.records.values() if t.is_calm and t.round == self.world.round)

    def is_parted(self, one: str, other: str) -> bool:
        """Whether two sites are without each other from some moment of the calm on."""
        return {one, other} == self.world.parted

    def sites_for(self, told: Told) -> set[str]:
        """Other sites that are to have a record of the calm: a link says so, and somebody wants
        it."""
        found = set()
        for hearing in self.hearings:
            site = hearing.at.site
            wants = hearing.program.is_alive and matches(hearing.pattern, told.topic)
            if wants and self.is_let_in(site, told) and not self.is_parted(site, told.at.site):
                found.add(site)
        return found

    def servers_for(self, question: Question) -> tuple[list[Host], list[Host]]:
        """Nodes with instances for a request of the calm: at its own site, and at those that its
        node's links let it ask."""
        service, site = question.call.service, question.at.site
        at = [p.host for p, r in self.servings if p.is_alive and r.service == service]
        own = [host for host in at if host.site == site]
        far = [
            host for host in at
            if not self.is_parted(site, host.site)
            and any(matches(p, service) for p in self.asked.get((site, host.site), ()))
        ]  # fmt: skip
        return own, far

    def find_unrest(self) -> list[str]:
        found = [f"{q!r} has no outcome" for q in self.questions.values()
                 if not q.ends and q.program.is_alive]  # fmt: skip
        for one, to in self.world.wishes:
            if self.is_parted(one, to):
                continue
            for host in self.world.site_of[one]:
                for other in self.world.site_of[to]:
                    found += self._differences(host, other)
        return found

    def _differences(self, host: Host, other: Host) -> Iterator[str]:
        """What another node does not know of what one's site wants."""
        here, there = (h.node.site if h.node is not None else None for h in (host, other))
        mine = here.far.get(other.origin) if here is not None else None
        theirs = there.far.get(host.origin) if there is not None else None
        if here is None or there is None or not (mine and mine.link and theirs and theirs.link):
            yield f"{host} is not linked with {other}"
            return
        wished = here.live._wished.get(other.site)
        wants = set(wished.wants.told) if wished is not None else set()
        told = there.live._theirs[theirs.link].patterns
        if set(told) != wants:
            yield f"{other} takes {host} to want {set(told)}, and it wants {wants}"
        offers = here.services._heard[other.origin].offers
        known = {name: offer.instances for name, offer in offers.items()}
        serves = Counter(r.service for p, r in self.servings if p.is_alive and p.host is other)
        asked = self.asked[host.site, other.site]
        may = {name: n for name, n in serves.items() if any(matches(p, name) for p in asked)}
        if known != may:
            yield f"{host} takes {other} to serve {known}, and that is {may}"
