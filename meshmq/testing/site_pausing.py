"""Links between sites that people pause and resume while there are faults, at whatever node."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from meshmq.core.link_pauses import PAUSE, RESUME
from meshmq.errors import CommandFailed
from meshmq.frames import Envelope, Request
from meshmq.limits import MS, SECOND
from meshmq.testing.site_part import Part

if TYPE_CHECKING:
    from meshmq.testing.links_world import LinksWorld
    from meshmq.testing.site_host import Host, Wire

SHARE = 0.25
"""Of the histories of linked sites."""
SOON_NS = 10 * MS  # a node that has heard of it has looked at it by then
AGAIN_NS = 500 * MS


class Pausing(Part):
    """See the module's header.

    Attributes:
        wrong: what came over a link that is paused, or was asked there.
        said: pauses that somebody said.
    """

    world: LinksWorld

    def __init__(self, world: LinksWorld) -> None:
        super().__init__(world)
        self.rng = random.Random(f"{world.seed} pauses")
        self.wrong: list[str] = []
        self.said = 0
        self._asked: set[tuple[int, int]] = set()  # frames: a session may send one again
        self._known: dict[tuple[Host, str], tuple[int, int]] = {}  # in which life, since when

    def break_down(self) -> None:
        for _ in range(self.rng.choice([1, 2, 4])):
            self.world.after(int(self.rng.random() * self.world.faults.span_ns), self._pause)

    def _pause(self) -> None:
        rng = self.rng
        site, to = rng.choice(sorted(self.world.wishes))
        host = rng.choice(self.world.site_of[site])
        if not self.world.healed and self._say(host, PAUSE, to):
            self.said += 1
            self.world.after(int(rng.random() * 6 * SECOND), partial(self._resume, site, to))

    def _resume(self, site: str, to: str) -> None:
        """At one of the nodes that know of it."""
        at = [host for host in self.world.site_of[site] if self._is_paused(host, to)]
        if at:
            self._say(self.rng.choice(at), RESUME, to)

    def _say(self, host: Host, verb: str, to: str) -> bool:
        """Whether the node could be told."""
        site = host.node.site if host.node is not None else None
        if site is None or host.still_until_ns > self.world.now_ns:
            return False
        self.world.note(verb, host, to)
        try:
            site.far_side.command(verb, to, self.world.now_ns, node=host.name)
        except CommandFailed:  # somebody has taken the link out
            return False
        host._end_turn()
        return True

    @staticmethod
    def _is_paused(host: Host, to: str) -> bool:
        site = host.node.site if host.node is not None else None
        return site is not None and site.far_side._pauses.shown(to) is not None

    def _paused(self) -> Iterator[tuple[Host, str]]:
        for site, to in self.world.wishes:
            for host in self.world.site_of[site]:
                if self._is_paused(host, to):
                    yield host, to

    # -- what must hold of it ---------------------------------------------------------------------

    def rejoined(self) -> None:
        """Somebody resumes all; what a node hears of only then as well."""
        for host, to in list(self._paused()):
            self._say(host, RESUME, to)
            self.world.after(AGAIN_NS, self.rejoined)

    def find_unrest(self) -> list[str]:
        return [f"the link of {host} with {to} is paused" for host, to in self._paused()]

    def on_turn_ended(self, host: Host) -> None:
        # Where somebody has taken the link out, what is of that site comes by other ones.
        site = host.node.site if host.node is not None else None
        linked = site.far_side._wishes if site is not None else {}
        for to in [to for site, to in self.world.wishes if site == host.site]:
            if to not in linked or not self._is_paused(host, to):
                self._known.pop((host, to), None)
                continue
            known = self._known.get((host, to))
            if known is None or known[0] != host.epoch:
                self._known[host, to] = host.epoch, self.world.now_ns
            elif self._is_known(host, to):
                self._look(host, to)

    def _is_known(self, host: Host, to: str) -> bool:
        """Whether it is long enough that a node knows of a pause."""
        epoch, since_ns = self._known.get((host, to), (0, 0))
        return epoch == host.epoch and self.world.now_ns > since_ns + SOON_NS

    def _look(self, host: Host, to: str) -> None:
        assert host.node is not None
        assert host.node.site is not None
        site = host.node.site
        far = {node.link: node.site for node in site.far.values()}
        of = {other.origin for other in self.world.site_of[to]}
        for mirror in site.copies.mirrors.of_others:
            by = far.get(mirror.link) if mirror.number else None
            if by == to or (by is not None and mirror.origin in of):
                self._say_wrong(f"{host} pulls {mirror.shown} from {by}", to)
        wished = site.live._wished.get(to)
        if wished is not None and wished.wants.told:
            self._say_wrong(f"{host} wants what is live there", to)

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        to = wire.listener if wire.dialler is host and wire.link in host.wires else wire.dialler
        if to is None or to.site == host.site or not isinstance(envelope.body, Request):
            return
        frame = envelope.session, envelope.sequence
        if frame not in self._asked and self._is_known(host, to.site):
            self._say_wrong(f"{host} asks there", to.site)
        self._asked.add(frame)

    def _say_wrong(self, what: str, to: str) -> None:
        at = self.world.now_ns / SECOND
        self.wrong.append(f"{what}, and its link with {to} is paused (at {at:.4f} s)")
