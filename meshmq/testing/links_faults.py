"""What goes wrong between sites that mirror each other's logs: all of it from the world's seed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from meshmq.limits import MS, SECOND
from meshmq.testing.site_faults import FAULTS_NS, LONG_NS, SiteFaults

if TYPE_CHECKING:
    from meshmq.core.link_wish import LinkWish
    from meshmq.testing.links_world import LinksHost, LinksWorld
    from meshmq.testing.site_host import Host

PRIORITIES = (("o.a",), ("o.b", "o.a"), ("o.tmp.>",), ("x.>", "o.>"))
CHANGED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((">",), ()), (("o.a",), ()), (("o.>",), ("o.a",)), (("x.>", "o.b"), ()),
)  # fmt: skip
"""Topics that a site wishes for a while, and what is left out of them."""

SPIKES_NS = (300 * MS, 1 * SECOND, 2 * SECOND, 4 * SECOND)


class LinksFaults(SiteFaults):
    """Breaks a world, in each round anew."""

    world: LinksWorld

    restarted = "p"
    is_to_kill = False  # the next node that has stored something

    def plan(self) -> None:
        world, rng = self.world, self.world.rng
        self._is_on = True
        is_long = world.size <= 5 and rng.random() < 0.15
        self.span_ns = LONG_NS if is_long else rng.choice([FAULTS_NS, 2 * FAULTS_NS])
        if rng.random() < 0.05:
            return
        counts = (
            (self._kill, [0, 1, 2, 4]), (self._cut, [0, 0, 1]), (self._cut_sites, [0, 1, 2, 3]),
            (self._flap_sites, [0, 0, 1]), (self._slow, [0, 0, 1, 2]), (self._break, [0, 0, 2, 6]),
            (self._stand_still, [0, 0, 1]), (self._jump, [0, 0, 1]), (self._unlink, [0, 0, 1, 2]),
            (self._restart_program, [0, 1, 2]), (self._kill_behind_a_sync, [0, 1, 3]),
            (self._lose_site, [0, 0, 1]),
        )  # fmt: skip
        for work, choices in counts:
            for _ in range(rng.choice(choices)):
                self._some_time(work)
        if world.has_changes:
            for _ in range(world.changes.choice([1, 2, 4])):
                world.after(int(world.changes.random() * self.span_ns), self._wish_otherwise)
        if is_long:
            world.after(SECOND, partial(self._lose_site, LONG_NS))

    def end(self) -> None:
        super().end()
        world = self.world
        world.latency_ns = dict(world.usual_ns)
        for host in self._all():
            host.links = world.links_of(host.site)
            host.set_links(host.links)

    def _all(self) -> list[LinksHost]:
        return [host for hosts in self.world.site_of.values() for host in hosts]

    # -- nodes ----------------------------------------------------------------------------------

    def kill(self, host: Host) -> None:
        """All of its disk is there when it is back, but what was not synced."""
        rng = self.world.rng
        if host.node is None or not self._is_on:
            return
        self.fell(host, is_silent=rng.random() < 0.3)
        delay = int(rng.random() ** 2 * 4 * SECOND)
        self.world.after(delay, partial(self._start, host, "same", self.world.round))

    def _kill_behind_a_sync(self) -> None:
        self.is_to_kill = True

    def on_synced(self, host: Host) -> None:
        """A node has stored something, its own or of others; nobody has been told."""
        if self.is_to_kill and self._is_on:
            self.is_to_kill = False
            self.kill(host)

    def _lose_site(self, span_ns: int = 0) -> None:
        """A site is away for a while: all its nodes are dead, or nothing comes there or from
        there."""
        world, rng = self.world, self.world.rng
        site = rng.choice(world.sites)
        here = world.site_of[site]
        there = [h for h in self._all() if h.site != site]
        span_ns = span_ns or int(rng.random() * 6 * SECOND)
        world.note("site lost", site)
        if rng.random() < 0.5:
            pairs: set[tuple[Host, Host]] = {(a, b) for a in here for b in there}
            self._lose(pairs | {(b, a) for a, b in pairs}, span_ns)
            return
        for host in here:
            if host.node is not None and self._is_on:
                self.fell(host, is_silent=rng.random() < 0.3)
                world.after(span_ns, partial(self._start, host, "same", world.round))

    # -- between sites --------------------------------------------------------------------------

    def _two_sites(self) -> tuple[list[LinksHost], list[LinksHost]]:
        one, other = self.world.rng.choice(sorted(self.world.wishes))
        return self.world.site_of[one], self.world.site_of[other]

    def _cut_sites(self) -> None:
        """Nothing comes from one site to the other, or either way."""
        one, other = self._two_sites()
        pairs: set[tuple[Host, Host]] = {(a, b) for a in one for b in other}
        if self.world.rng.random() < 0.5:
            pairs |= {(b, a) for a, b in pairs}
        self._lose(pairs, self._span())

    def _flap_sites(self) -> None:
        """The path between two sites comes and goes."""
        rng = self.world.rng
        one, other = self._two_sites()
        pairs: set[tuple[Host, Host]] = {(a, b) for a in one for b in other}
        pairs |= {(b, a) for a, b in pairs}
        at = 0
        for _ in range(rng.randrange(4, 12)):
            span_ns = int(rng.random() * 1500 * MS)
            self.world.after(at, partial(self._lose, pairs, span_ns))
            at += span_ns + int(rng.random() * 1500 * MS)

    def _slow(self) -> None:
        """Frames between two sites take long for a while."""
        world, rng = self.world, self.world.rng
        pair = rng.choice(sorted(world.latency_ns))
        world.latency_ns[pair] = rng.choice(SPIKES_NS)
        world.note("slow", pair, world.latency_ns[pair])

        def mend() -> None:
            world.latency_ns[pair] = world.usual_ns[pair]

        world.after(int(rng.random() * 5 * SECOND), mend)

    def _unlink(self) -> None:
        """Somebody takes a link of a site out of the configuration of its nodes, then puts it back
        in."""
        world, rng = self.world, self.world.rng
        site, to = rng.choice(sorted(world.wishes))
        end = int(rng.random() * 5 * SECOND)
        if world.keeps:
            return  # who has no link with a log's own site may pass over what others keep no more
        world.note("unlink", site, to)
        for host in world.site_of[site]:
            world.after(int(rng.random() * 500 * MS), partial(self._set, host, to, False))
            world.after(end + int(rng.random() * SECOND), partial(self._set, host, to, True))

    def _wish_otherwise(self) -> None:
        """Somebody has a site pull other topics, or others first, and after a while the same as
        before; its nodes learn that one after the other."""
        world, rng = self.world, self.world.changes
        if not self._is_on:
            return
        site, _ = rng.choice(sorted(world.wishes))
        claim, priority = rng.choice(CHANGED), rng.choice([(), *PRIORITIES])
        world.note("wish", site, claim, priority)
        for one, to in world.wishes:
            if one == site:
                world.ever.setdefault((one, to), set()).add(claim)
        end = int(rng.random() * 6 * SECOND)
        for host in world.site_of[site]:
            links = tuple([
                wish._replace(topics=claim[0], exclude=claim[1], priority=priority)
                for wish in world.links_of(site)
            ])  # fmt: skip
            world.after(int(rng.random() * 300 * MS), partial(self._set_links, host, links))
            after = end + int(rng.random() * SECOND)
            world.after(after, partial(self._set_links, host, world.links_of(site)))

    def _set_links(self, host: LinksHost, links: tuple[LinkWish, ...]) -> None:
        if self._is_on:
            host.set_links(links)

    def _set(self, host: LinksHost, to: str, is_there: bool) -> None:
        if not self._is_on:
            return
        links = self.world.links_of(host.site)
        held = {wish.to for wish in host.links} - {to}
        kept: tuple[LinkWish, ...] = tuple(
            [wish for wish in links if wish.to in held or (is_there and wish.to == to)]
        )
        host.set_links(kept)
