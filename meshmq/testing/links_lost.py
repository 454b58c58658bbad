"""Sites that are lost while others finish their groups, on virtual time; see ``links_world``.

Every site has members of one group on what it publishes. A site is lost, for a while: its nodes are
dead, with their disks. Somebody says at a node of another site, or at two, that it is taken over;
takers are killed while they move records. It comes back in the middle of that or later, and
perhaps what is left is handed back. In the end all that was published is to be worked on, and what
is worked on twice was announced as that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meshmq import limits
from meshmq.core.consumer import Member
from meshmq.core.effects import ClientEffect, CommandAnswered, HandedOut
from meshmq.core.held import Held
from meshmq.frames import ACK, REJECT, Consume
from meshmq.limits import MS, SECOND
from meshmq.testing.links_faults import LinksFaults
from meshmq.testing.links_lost_owners import GROUP, PATTERN, Owners, Place
from meshmq.testing.links_world import LinksWorld
from meshmq.testing.site_part import Part
from meshmq.testing.workers import decode

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_program import SiteProgram

LOST_NS = 30 * SECOND
NEAR_NS = 5 * MS
REJECTED_OF = 9  # one of so many records nobody can work on


class Begun(NamedTuple):
    """A program has begun a record; ``is_told``: it may be a repeat."""

    site: str
    origin: bytes
    is_told: bool
    attempt: int
    at_ns: int


class LostSites(Part):
    """See the module's header.

    Attributes:
        begun: by value.
        answered: how many takeovers and handbacks nodes have carried out.
        busy_ns: by site until when all that its members begin takes long.
    """

    world: LostSitesWorld

    def __init__(self, world: LostSitesWorld) -> None:
        super().__init__(world)
        self.begun: dict[bytes, list[Begun]] = {}
        self.answered: Counter[str] = Counter()
        self.busy_ns: dict[str, int] = {}
        self._asked = 0
        self._admins: dict[SiteProgram, tuple[str, str, int]] = {}

    # -- members --------------------------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        if program.name[0] in "pw":
            self.world.after(int(self.world.rng.random() * SECOND), partial(self._join, program))

    def _join(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        rng = self.world.rng
        create = {"group": GROUP, "kind": "group", "pattern": PATTERN}
        wish = Consume(
            0, GROUP, PATTERN, json.dumps(create).encode(), rng.choice([1, 5, 40]), 1 << 20,
            3 * SECOND,
        )  # fmt: skip
        program.client.consume(wish, None, self.world.now_ns)
        program.settle()

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        match effect:
            case HandedOut(number):
                delay = 1 + int(self.world.rng.random() * MS)
                self.world.after(delay, partial(self._work, program, number))
            case CommandAnswered(_, code, _, body) if program in self._admins:
                self._on_answer(program, code, body)

    def _work(self, program: SiteProgram, number: int) -> None:
        member = program.client.members.get(number)
        if member is None or not program.is_alive:
            return
        rng = self.world.rng
        while (held := member.begin(decode)) is not None:
            held.feed = list(held.records)
            for index in held.cursor:
                value = bytes(held.records[index])
                one = Begun(
                    program.host.site, held.origin, held.maybe_duplicate, held.row.attempt,
                    self.world.now_ns,
                )  # fmt: skip
                self.begun.setdefault(value, []).append(one)
                site = program.host.site
                is_busy = self.world.now_ns < self.busy_ns.get(site, 0)
                is_late = is_busy or rng.random() < self.world.late_share
                is_late = is_late and not self.world.healed
                slow = 20 * SECOND if is_late else 30 * MS
                kind = REJECT if is_bad(value) else ACK
                settle = partial(self._settle, program, member, held, index, kind)
                self.world.after(int(rng.random() * slow), settle)
            member.finished(held)
        program.settle()

    def _settle(
        self, program: SiteProgram, member: Member, held: Held, index: int, kind: int
    ) -> None:
        if program.is_alive and not held.is_settled(index):
            member.settle(held, index, kind)
            program.settle()

    # -- sites are lost, and taken over ---------------------------------------------------------

    def plan(self, at_ns: int, back_ns: int) -> None:
        """A site of those that publish is lost then, for that long; mostly much is left there."""
        rng = self.world.rng
        hosts = [p.host for name, p in self.world.programs.items() if name[0] == "p"]
        site = rng.choice([host.site for host in hosts] or list(self.world.sites))
        if rng.random() < 0.8:
            self.busy_ns[site] = self.world.now_ns + at_ns + back_ns
        self.world.after(at_ns, partial(self.lose, site, back_ns))

    def lose(self, site: str, back_ns: int) -> None:
        """All nodes of a site are dead until then; others take it over."""
        world, rng = self.world, self.world.rng
        for host in world.site_of[site]:
            if host.node is not None:
                world.faults.fell(host, is_silent=rng.random() < 0.3)
            world.after(back_ns + int(rng.random() * SECOND), partial(self._back, host))
        claims = world.claims()
        others = [s for s in world.sites if (s, site) in claims]  # they have something of it
        for taker in rng.sample(others, min(len(others), rng.choice([1, 1, 2]))):
            at = int(rng.random() * back_ns / 2)
            world.after(at, partial(self._say, "site.takeover", taker, site, 12))
            if rng.random() < 0.5:
                world.after(at + int(rng.random() * 6 * SECOND), partial(self._kill, taker))
            if rng.random() < 0.7:
                late = back_ns + int(rng.random() * 6 * SECOND)
                if rng.random() < 0.8:
                    self.busy_ns[taker] = world.now_ns + late + 4 * SECOND
                world.after(late, partial(self._say, "site.handback", taker, site, 12))
                for victim in (taker, site):
                    if rng.random() < 0.4:
                        world.after(late + int(rng.random() * SECOND), partial(self._kill, victim))

    def _back(self, host: Host) -> None:
        if host.node is None:
            host.start_node()

    def _kill(self, site: str) -> None:
        host = self.world.rng.choice(self.world.site_of[site])
        if host.node is not None and not self.world.healed:
            self.world.faults.fell(host, is_silent=False)
            self.world.after(int(self.world.rng.random() * SECOND), partial(self._back, host))

    def _say(self, verb: str, at: str, site: str, more: int) -> None:
        """Somebody says it at a node there, again until it is done."""
        running = [h for h in self.world.site_of[at] if h.node is not None]
        if not more or (self.world.healed and verb == "site.takeover"):
            return
        if not running:
            self.world.after(SECOND, partial(self._say, verb, at, site, more - 1))
            return
        self._asked += 1
        admin = self.world.begin_reader(f"a{self._asked}", self.world.rng.choice(running))
        self._admins[admin] = verb, site, more
        wish = {"name": site, "assume_dead": True, "may_repeat": True}
        admin.client.command(verb, json.dumps(wish).encode(), self.world.now_ns)
        admin.settle()
        self.world.after(3 * SECOND, partial(self._late, admin, at))

    def _late(self, admin: SiteProgram, at: str) -> None:
        asked = self._admins.pop(admin, None)
        self._close(admin)
        if asked is not None:
            verb, site, more = asked
            self._say(verb, at, site, more - 1)

    def _close(self, admin: SiteProgram) -> None:
        if admin.is_alive:
            admin.client.close(self.world.now_ns)
            admin.settle()
            admin.is_alive = False
            self.world.programs.pop(admin.name, None)

    def _on_answer(self, admin: SiteProgram, code: str, body: bytes) -> None:
        verb, _, _ = self._admins[admin]
        nodes = [] if code else json.loads(body)["nodes"]
        if any(row["done"] and row["logs"] for row in nodes):
            self.answered[verb] += 1
            del self._admins[admin]
        self.world.after(1, partial(self._close, admin))

    # -- what must be there ---------------------------------------------------------------------

    def waits(self) -> Iterator[bytes]:
        """Values that groups are to work on, all that is stored where it was published, and that
        are done nowhere yet."""
        for row, value in self.world.linking.values.items():
            host = next((h for h in self.world.members if h.origin == row.origin), None)
            if not row.topic.startswith("o.") or host is None:
                continue
            topic = host.disk.state.topics.get(row.topic)
            if topic is None or row.offset >= topic.next_offset:
                continue
            place = Place(row.origin, topic.topic.stream, row.offset)
            if not self.world.owners.is_done(place):
                yield value

    def find_unrest(self) -> list[str]:
        found = [f"{value!r} waits" for value in self.waits()]
        found += self._unheard()
        dead = self.world.owners.dead()
        found += [f"{v!r} is no dead letter yet" for v in self.begun if is_bad(v) and not dead[v]]
        for host in self.world.members:
            site = host.node.site if host.node is not None else None
            for origin, entry in site.copies.far.known.items() if site is not None else ():
                if site is not None and site.copies.far.is_moving(origin):
                    found.append(f"{host} moves what it has taken over")
                if entry.pending and entry.taker == host.origin:
                    found.append(f"{host} waits for what it has handed back")
        return found[:5]

    def _unheard(self) -> Iterator[str]:
        """Nodes that do not know of a takeover yet that others know of."""
        known = [h.node.site.copies.far.stored if h.node is not None and h.node.site is not None
                 else {} for h in self.world.members]  # fmt: skip
        for origin in sorted({origin for some in known for origin in some}):
            ranks = [some[origin].rank if origin in some else (0,) for some in known]
            for host, rank in zip(self.world.members, ranks, strict=True):
                if rank < max(ranks):
                    yield f"{host} has not heard of the newest takeover of {origin.hex()[:8]}"

    def ownership(self) -> Iterator[str]:
        """At rest all who know of a takeover of a log know the same one."""
        ranks: dict[bytes, set[tuple[int, str, bytes]]] = {}
        for host in self.world.members:
            for origin, entry in host.disk.state.site_taken.items():
                ranks.setdefault(origin, set()).add(entry.rank)
        for origin, found in ranks.items():
            if len(found) > 1:
                yield f"who has {origin.hex()[:8]}: {found}"


class LostFaults(LinksFaults):
    """The same, for long enough that a site is away, and back."""

    def plan(self) -> None:
        super().plan()
        self._is_on = True
        self.span_ns = max(self.span_ns, LOST_NS)


class LostSitesWorld(LinksWorld):
    """One history, from one seed. ``run`` plays it.

    Attributes:
        lost: the part that sees to groups. owners: whose each record is.
        late_share: of what is begun while there are faults, so much takes long.
    """

    kept_share = 0.0

    def __init__(self, seed: int, nodes: int | None = None) -> None:
        super().__init__(seed, nodes)
        self.has_trims = False
        self.parted = frozenset()  # what is handed back goes to its node itself
        self.since_ns, self.ages = dict.fromkeys(self.sites, 0), dict.fromkeys(self.sites, 0)
        self.late_share = self.rng.choice([0.1, 0.6, 1.0])
        self.bounds |= {"HANDED_BACK_MAX": self.rng.choice([1, 3, limits.HANDED_BACK_MAX])}
        if max(self.usual_ns.values()) > NEAR_NS:  # journals batch by batch would take minutes
            self.bounds.pop("LINK_CREDIT_BYTES", None)
        self.lost = LostSites(self)
        self.owners = Owners(self)
        self.parts = (self.linking, self.lost, self.owners)
        self.faults = LostFaults(self)

    def build(self) -> None:
        super().build()
        for site, hosts in self.site_of.items():
            at = self.rng.choice(hosts)
            self.after(int(self.rng.random() * SECOND), partial(
                self.start_program, f"w{site}", 0, at))  # fmt: skip

    def _break(self) -> None:
        rng = self.rng
        early = SECOND if self.round else 3 * SECOND
        self.after(early, partial(
            self.lost.plan, 2 * SECOND + int(rng.random() * 4 * SECOND),
            6 * SECOND + int(rng.random() * 8 * SECOND)))  # fmt: skip
        super()._break()


def is_bad(value: bytes) -> bool:
    """Whether nobody can work on a record."""
    return int(value.split(b"|")[2]) % REJECTED_OF == 0
