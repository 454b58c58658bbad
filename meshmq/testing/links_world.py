"""Sites that mirror each other's logs, on virtual time; see ``site_world`` for the rest.

Two to six sites of one or two nodes each, as a pair, star, ring, chain or mesh. A node pulls from
all nodes of the sites beside its own. What it wishes never changes but for links that are taken
away and come back, and, in some histories, for a while: so at rest it is known what each site must
have of each log. In some the path between two sites stays cut for good, where logs can come
another way; in some there are topics that go before others, mirrors that begin at a time, or links
that people pause. In some sites keep what they mirror shorter than its nodes do, or longer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from meshmq import codec
from meshmq.core.link_wish import LinkWish
from meshmq.core.log import Commit
from meshmq.limits import MS, SECOND
from meshmq.names import covers, overlap
from meshmq.testing.copies_host import CopiesHost
from meshmq.testing.disk import Disk
from meshmq.testing.links_faults import PRIORITIES, LinksFaults
from meshmq.testing.site_crossing import SHARE, Crossing
from meshmq.testing.site_host import Host, Way
from meshmq.testing.site_linking import EVER, Linking
from meshmq.testing.site_part import Part
from meshmq.testing.site_pausing import SHARE as PAUSED_SHARE
from meshmq.testing.site_pausing import Pausing
from meshmq.testing.site_program import SiteProgram
from meshmq.testing.site_world import COMMON, SiteWorld
from meshmq.testing.stage import WALL_NS

SHAPES = ("pair", "star", "ring", "chain", "mesh", "circle")
NAMES = ("eu", "us", "asia", "sa", "af", "oz")
LATENCIES_NS = (0, 0, 5 * MS, 50 * MS, 200 * MS, 800 * MS)  # one way
TOPICS = (("o.>",), ("o.>",), (">",), ("o.a", "o.tmp.>"), ("o.*",))
EXCLUDES: tuple[tuple[str, ...], ...] = ((), (), ("o.tmp.>",), ("o.b", "x.>"))
TERMS: tuple[dict[str, Any], ...] = (
    {}, {"compression": "zstd"}, {"bytes_per_second": 20_000},
    {"compression": "zstd", "bytes_per_second": 200_000},
)  # fmt: skip
SHORT = (0, 1000)
RETENTIONS = (None, SHORT, SHORT, EVER)
LINKS_REST_NS = 90 * SECOND
LATER_SHARE = 0.25
"""Of the histories: mirrors begin at a time."""
Claim = tuple[tuple[str, ...], tuple[str, ...]]
"""Topics and what is left out of them."""


class LinkWay(Way):
    """One direction of a connection between two sites."""

    def __init__(self, source: str, target: str) -> None:
        self.sites = source, target


class LinksHost(CopiesHost):
    """A node with links.

    Attributes:
        links: what it is to pull now.
    """

    links: tuple[LinkWish, ...] = ()

    def __repr__(self) -> str:
        return f"{self.site}/{self.name}"

    def on_node_started(self) -> None:
        super().on_node_started()
        self._set_links()

    def plan_trims(self) -> list[tuple[int, int]]:
        world = self.world
        assert isinstance(world, LinksWorld)
        trims = self._plan_kept()
        if not world.has_trims or world.healed or world.retention.random() < 0.5:
            return trims
        for alias, stream in self.disk.state.streams.items():
            kept = [
                b.base_offset for commit in self.disk.commits for b in commit.batches
                if b.stream == alias and b.base_offset >= stream.first_offset
            ]  # fmt: skip
            if len(kept) > 3 and not stream.topic.origin and world.retention.random() < 0.5:
                trims.append((alias, kept[len(kept) // 2]))  # as the store does: between two
        return trims

    def _plan_kept(self) -> list[tuple[int, int]]:
        """Some of the mirrors that are kept shorter by our own word, the oldest records first."""
        world, trims = self.world, []
        assert isinstance(world, LinksWorld)
        if not world.keeps or world.healed or world.keeping.random() < 0.7:
            return []
        streams = self.disk.state.streams
        for origin, source in sorted({(s.topic.origin, s.topic.source) for s in streams.values()
                                      if s.topic.retention_bytes}):  # fmt: skip
            same = {alias: s for alias, s in streams.items()
                    if (s.topic.origin, s.topic.source) == (origin, source)}  # fmt: skip
            kept = sorted(
                b.base_offset for commit in self.disk.commits for b in commit.batches
                if b.stream in same and b.base_offset >= same[b.stream].first_offset
            )  # fmt: skip
            if len(kept) > 3 and world.keeping.random() < 0.5:
                first = kept[len(kept) // 2]
                world.linking.on_kept(
                    self.site, origin, next(iter(same.values())).topic.name, first
                )
                trims += [(alias, min(first, s.next_offset)) for alias, s in same.items()
                          if s.first_offset < min(first, s.next_offset)]  # fmt: skip
        return trims

    def set_links(self, links: tuple[LinkWish, ...]) -> None:
        """Somebody has changed its configuration, and says so."""
        self.links = links
        self._set_links()

    def _set_links(self) -> None:
        if self.node is not None and self.node.site is not None:
            self.node.site.set_links(self.links, self.now_ns)
            self._end_turn()


class LinksWorld(SiteWorld):
    """One history, from one seed. ``run`` plays it.

    Attributes:
        shape: which sites are beside each other.
        wishes: what each site pulls, by its name and the other's.
        latency_ns: between two sites now; ``usual_ns``: where nothing is wrong.
        site_of: nodes of each site.
        has_trims: nodes do not keep all of their own logs.
        crossing: of some: what programs do that is live over links. all_read: what readers of logs
            read; then nothing that is live.
        parted: two sites that hear nothing of each other, after heals either.
        has_changes: what is wished is something else for a while.
        priorities: of each site, what goes first.
        ever: what each site wished for a while, and so may have at rest.
        since_ns: from which time on each site has what it pulls, unix ns; 0: all. ages: of some,
            instead of that how long before it begins.
        pausing: of some: links are paused.
        keeps: some sites keep their mirrors by their own word. kept: what that is, by site.
    """

    host_kind = LinksHost
    crossing: Crossing | None = None
    pausing: Pausing | None = None
    all_read = ">"
    kept_share = 0.12

    def __init__(self, seed: int, _: int | None = None) -> None:
        super().__init__(seed, None, COMMON)
        rng = self.rng
        self.tools, self.encode = codec.TOOLS, codec.encode_batch
        self.records = _nothing
        self.knowing = "all"
        self.late = 0.0  # a connection keeps its order
        self.queue_bytes = 1 << 24
        self.rounds = rng.choice([1, 1, 2])
        self.is_coded = seed % 8 == 0
        self.retention = random.Random(f"{seed} retention")
        self.has_trims = self.retention.random() < 0.2
        self.recent_bytes = rng.choice([0, 2_000, 1 << 24])
        self.bounds = {
            "COPY_AWAY_NS": 3 * SECOND,
            **rng.choice([{}, {"LINK_CREDIT_BYTES": 600}]),
            **rng.choice([{}, {"COPY_CREDIT_BYTES": 600}]),
        }
        self.terms = random.Random(f"{seed} terms").choice(TERMS)
        self.shape = rng.choice(SHAPES)
        count = 2 if self.shape == "pair" else rng.choice([3, 3, 4, 4, 5, 6])
        self.sites = NAMES[:count]
        self.sizes = [rng.choice([1, 2]) if count < 5 else 1 for _ in self.sites]
        if count >= 5:
            self.sizes[rng.randrange(count)] = 2
        self.size = sum(self.sizes)
        self.copies = rng.choice([1, 1, 2])
        self.wishes: dict[tuple[str, str], Claim] = {}
        self._make_wishes(rng)
        self.changes = random.Random(f"{seed} changes")
        self.has_changes = self.changes.random() < 0.4
        self.priorities = {
            site: self.changes.choice(PRIORITIES) if self.changes.random() < 0.4 else ()
            for site in self.sites
        }
        self.ever: dict[tuple[str, str], set[Claim]] = {}
        self.keeping = random.Random(f"{seed} own word")
        self.keeps = self.shape in ("pair", "mesh") and self.keeping.random() < self.kept_share
        self.kept = {site: self.keeping.choice(RETENTIONS) if self.keeps else None
                     for site in self.sites}  # fmt: skip
        self.has_trims = self.has_trims or (self.keeps and self.keeping.random() < 0.5)
        self.usual_ns = {pair: rng.choice(LATENCIES_NS) for pair in self._pairs()}
        self.latency_ns = dict(self.usual_ns)
        self.since_ns, self.ages = dict.fromkeys(self.sites, 0), dict.fromkeys(self.sites, 0)
        self.parted: frozenset[str] = frozenset()
        if not self.keeps:
            self._begin_later(random.Random(f"{seed} since"))
        self._part(rng)
        if self.keeps:  # what begins waits for the log's own site, where there is a link with it
            self.parted = frozenset()
        self.site_of: dict[str, list[LinksHost]] = {site: [] for site in self.sites}
        self.linking = Linking(self)
        self.parts: tuple[Part, ...] = (self.linking,)
        if random.Random(f"{seed} live").random() < SHARE:
            self.crossing, self.all_read = Crossing(self), "o.>"
            self.parts = (self.linking, self.crossing)
        if random.Random(f"{seed} paused").random() < PAUSED_SHARE:
            self.pausing = Pausing(self)
            self.parts = (*self.parts, self.pausing)
        self.faults: LinksFaults = LinksFaults(self)

    # -- shape ----------------------------------------------------------------------------------

    def _pairs(self) -> list[tuple[str, str]]:
        return [(a, b) for i, a in enumerate(self.sites) for b in self.sites[i + 1 :]]

    def _beside(self) -> Iterator[tuple[str, str]]:
        """Who pulls from whom."""
        sites, count = self.sites, len(self.sites)
        match self.shape:
            case "pair" | "mesh":
                some = self._pairs()
            case "star":
                some = [(sites[0], other) for other in sites[1:]]
            case "chain":
                some = [(sites[i], sites[i + 1]) for i in range(count - 1)]
            case _:
                some = [(sites[i], sites[(i + 1) % count]) for i in range(count)]
        for one, other in some:
            yield one, other
            if self.shape != "circle":  # all logs go one way round
                yield other, one

    def _make_wishes(self, rng: random.Random) -> None:
        """Where a log has several ways to a site, that site's links all wish the same: what is
        wished of a log would change with the way it takes (core/replication.py, rule 4)."""
        is_tree = self.shape in ("pair", "star", "chain")
        is_plain = rng.random() < 0.5  # else much does not go beyond a site that wishes less
        of_site = {site: _some_wish(rng, is_plain) for site in self.sites}
        for one, other in self._beside():
            self.wishes[one, other] = _some_wish(rng, is_plain) if is_tree else of_site[one]

    def _begin_later(self, rng: random.Random) -> None:
        """Perhaps some sites are not to have what was stored before a time. With an age that is
        known only once they begin; so all logs are to come from their own sites then."""
        if rng.random() >= LATER_SHARE:
            return
        is_age = self.shape in ("pair", "mesh") and rng.random() < 0.5
        for site in self.sites:
            span_ns = int(rng.random() * 6 * SECOND)
            if rng.random() < 0.3:
                continue
            if is_age:
                self.ages[site] = span_ns + MS
            else:
                self.since_ns[site] = WALL_NS + SECOND + span_ns

    def begins_later(self, site: str) -> bool:
        """Whether a site does not have all there was."""
        return bool(self.since_ns[site] or self.ages[site])

    def _part(self, rng: random.Random) -> None:
        """Perhaps two sites are to be without each other, if all logs come another way."""
        if rng.random() < 0.5 or any(self.ages.values()):
            return
        had = self.claims()
        for pair in rng.sample(self._pairs(), len(self._pairs())):
            self.parted = frozenset(pair)
            if pair in self.wishes and self.claims() == had:
                return
        self.parted = frozenset()

    def links_of(self, site: str) -> tuple[LinkWish, ...]:
        """What its nodes pull."""
        return tuple([
            LinkWish(
                to, tuple([h.address for h in self.site_of[to]]), *claim, **self.terms,
                priority=self.priorities[site], retention=self.kept[site],
                since_ns=self.since_ns[site], since_age_ns=self.ages[site],
            )._replace(**(self.crossing.lets_in(one, to) if self.crossing is not None else {}))
            for (one, to), claim in self.wishes.items() if one == site
        ])  # fmt: skip

    def claims(self) -> dict[tuple[str, str], Claim]:
        """What a site has of the logs of another one at rest, by their names."""
        there = {pair: wish for pair, wish in self.wishes.items() if set(pair) != self.parted}
        since_ns = self.since_ns
        found = {pair: claim for pair, claim in there.items() if claim[0]}
        while True:
            more = {
                (one, far): claim
                for (one, near), claim in there.items()
                for far in self.sites
                if far != one and (one, far) not in found and (one, far) not in there
                and (near, far) in found and claim[0] and has_all(found[near, far], claim)
                and since_ns[near] <= since_ns[one]
            }  # fmt: skip
            if not more:
                return found
            found |= more

    # -- nodes ----------------------------------------------------------------------------------

    def build(self) -> None:
        rng = self.rng
        for site, size in zip(self.sites, self.sizes, strict=True):
            for i in range(size):
                host = self.add_host("ab"[i], None, site)
                assert isinstance(host, LinksHost)
                self.members.append(host)
                self.site_of[site].append(host)
        for host in self.members:
            assert isinstance(host, LinksHost)
            host.peers = tuple([h.address for h in self.site_of[host.site]])
            host.links = self.links_of(host.site)
            self.after(int(rng.random() * 300 * MS), host.start_node)
        for i in range(rng.choice([2, 3, 4])):
            at = rng.choice(self.members)
            self.after(int(rng.random() * SECOND), partial(self.start_program, f"p{i}", 0, at))

    def add_host(
        self, name: str, disk: Disk | None = None, site: str = "eu", mesh: str = "plant"
    ) -> Host:
        host = super().add_host(name, disk, site, mesh)
        host.copies = self.copies
        host.recent_bytes = self.recent_bytes
        return host

    def find_differences(self) -> Iterator[str]:
        runs = {h.origin: next(reversed(h.runs)) for h in self.members if h.node is not None}
        for host in self.members:
            view = host.view()
            for other in self.site_of[host.site]:
                if other is not host and view.get(other.origin) != runs.get(other.origin):
                    yield f"{host} is not linked with {other}"

    def on_synced(self, host: Host, commit: Commit) -> None:
        super().on_synced(host, commit)
        self.faults.on_synced(host)

    # -- the network ----------------------------------------------------------------------------

    def open_wire(self, host: Host, link: bytes, address: str) -> None:
        super().open_wire(host, link, address)
        wire = host.wires.get(link)
        if wire is not None and wire.listener is not None and wire.listener.site != host.site:
            wire.there = LinkWay(host.site, wire.listener.site)
            wire.back = LinkWay(wire.listener.site, host.site)

    def travel(self, way: Way, arrive: Callable[[], None]) -> None:
        rng = self.rng
        if rng.random() < self.loss:
            return
        delay_ns = 50_000 + int(rng.random() * 200_000)
        if isinstance(way, LinkWay):
            one, other = way.sites
            far_ns = self.latency_ns.get((one, other), self.latency_ns.get((other, one), 0))
            delay_ns += int(far_ns * (1 + rng.random() * 0.1))
        way.last_ns = max(self.now_ns + delay_ns, way.last_ns + 1)
        self.after(way.last_ns - self.now_ns, arrive)
        if rng.random() < self.repeat:
            self.after(way.last_ns - self.now_ns + int(rng.random() * 100 * MS), arrive)

    # -- programs -------------------------------------------------------------------------------

    def begin_reader(self, name: str, at: Host) -> SiteProgram:
        """A program that does what somebody has it do."""
        return self.add_program(name, at)

    # -- rest -----------------------------------------------------------------------------------

    def _break(self) -> None:
        self.linking.end_readings()
        super()._break()
        self.cut |= {(a, b) for a in self.members for b in self.members
                     if a.site != b.site and {a.site, b.site} == self.parted}  # fmt: skip

    def _rest(self) -> None:
        end = self.now_ns + LINKS_REST_NS
        self.play(self.now_ns + SECOND)
        while self.now_ns < end and (self.find_unrest() or next(self.linking.waits(), "")):
            self.play(self.now_ns + 500 * MS)
        self.unrest = self.find_unrest()
        self.linking.compare()


def has_all(wide: Claim, narrow: Claim) -> bool:
    """Whether all that one wishes is surely in what another one has."""
    return all(any(covers(w, p) for w in wide[0]) for p in narrow[0]) and all(
        any(covers(w, p) for w in narrow[1]) or not any(overlap(p, q) for q in narrow[0])
        for p in wide[1]
    )


def _some_wish(rng: random.Random, is_plain: bool) -> Claim:
    if is_plain:
        return ("o.>",), rng.choice([(), ("o.tmp.>",)]) if rng.random() < 0.2 else ()
    if rng.random() < 0.05:
        return (), ()  # nothing
    return rng.choice(TOPICS), rng.choice(EXCLUDES)


def _nothing(payload: bytes) -> list[bytes]:
    return []
