"""Where a program finds a node: which address it dials next, and when.

Data: the addresses that the program was given; nodes that its node has told of, by origin, with
their addresses, those that are away among them; addresses that are avoided for a while.

Rules:
1. At first the addresses that were given are dialled in their order, again and again.
2. When the node is lost, it gets one quick try (it may have been started again); then the others
   that were given, then those of the site, each in random order, so that the programs of a dead
   node do not all come to the same one. Before the first of them is a random pause for the same
   reason. Those that are said to be away come last.
3. When all were tried there is a pause, longer each time, and everything begins again.
4. A node that drains, or is full, is avoided for AVOIDED_NS, unless there is no other.
5. Where there are several, none gets long to answer: longer each time all were tried.
6. ``stays``: the program wants its node and no other; it is dialled where it was found.

It does not know whose node answers: a program that comes to another site is at another log.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from meshmq import limits
from meshmq.core.hints import LOCAL_MESH, address_fault
from meshmq.frames import KnownPeer


class Dial(NamedTuple):
    """What to do next: dial ``address`` after ``delay_ns``; whether there are others to try."""

    address: str
    delay_ns: int
    is_one_of: bool


class _Node(NamedTuple):
    name: str
    addresses: tuple[str, ...]
    is_here: bool


class Moving:
    """See the module's header.

    Args:
        given: addresses that the program was given; not empty, unless ``found`` comes.
        mesh, insecure: whether addresses beyond this host are of use.
        stays: rule 6.

    Attributes:
        address: the one that is dialled, or where we are.
        is_at: whether a node has let us in there.
    """

    def __init__(
        self,
        given: Iterable[str],
        entropy: random.Random,
        mesh: str = LOCAL_MESH,
        insecure: bool = False,
        stays: bool = False,
    ) -> None:
        self.given = tuple(dict.fromkeys(given))
        self.address = self.given[0] if self.given else ""
        self.is_at = False
        self.stays = stays
        self._on_host = not insecure or mesh == LOCAL_MESH
        self._entropy = entropy
        self._known: dict[bytes, _Node] = {}
        self._origin = b""
        self._round: deque[str] = deque(self.given[1:])
        self._rounds = 0  # how often all were tried
        self._pauses = True  # before the next other one
        self._avoided: dict[str, int] = {}

    @property
    def has_others(self) -> bool:
        """Whether there is another address than this one to try."""
        if self.stays and self.is_at:
            return False
        return any(a != self.address for a in self._all())

    @property
    def has_tried_all(self) -> bool:
        """Whether all addresses were tried since a node was lost."""
        return self._rounds > 0

    @property
    def nodes(self) -> dict[bytes, str]:
        """Names of the nodes that are known, by origin."""
        return {origin: node.name for origin, node in self._known.items()}

    def addresses_of(self, origin: bytes) -> tuple[str, ...]:
        """Where a node of our node's site can be dialled; none if it is away."""
        node = self._known.get(origin)
        return node.addresses if node is not None and node.is_here else ()

    def greeting_ns(self) -> int:
        """How long a node has to answer; rule 5."""
        if not self.has_others:
            return limits.LINK_SILENT_NS
        return min(limits.LINK_SILENT_NS, limits.MOVE_GREETING_NS << min(self._rounds, 4))

    # -- what is learned ------------------------------------------------------------------------

    def found(self, address: str) -> None:
        """A node answers there: it is dialled from now on."""
        self.address = address
        self._round.clear()

    def on_known(self, peers: Iterable[KnownPeer]) -> None:
        """Our node tells of the nodes of its site: these are there, others are away."""
        known = {o: node._replace(is_here=False) for o, node in self._known.items()}
        for peer in peers:
            usable = [a for a in peer.addresses if not address_fault(a, self._on_host)]
            if peer.is_node and usable:
                known.pop(peer.instance, None)  # the newest come last
                known[peer.instance] = _Node(peer.name, tuple(usable), True)
        while len(known) > limits.SITE_NODES_MAX:
            away = next((o for o, node in known.items() if not node.is_here), next(iter(known)))
            del known[away]
        self._known = known

    def connected(self, origin: bytes) -> None:
        """A node has let us in at ``address``."""
        self.is_at, self._origin = True, origin
        self._rounds, self._pauses = 0, True
        self._round.clear()
        self._avoided.pop(self.address, None)

    def avoid(self, now_ns: int) -> None:
        """The node at ``address`` drains, or is full; rule 4."""
        if len(self._avoided) >= limits.SITE_NODES_MAX:
            del self._avoided[next(iter(self._avoided))]
        for address in self._addresses_here():
            self._avoided[address] = now_ns + limits.AVOIDED_NS

    def _addresses_here(self) -> list[str]:
        """All that lead to the node we are at, as far as is known."""
        node = self._known.get(self._origin) if self.is_at else None
        return [self.address, *(node.addresses if node is not None else ())]

    # -- what to dial ---------------------------------------------------------------------------

    def next(self, now_ns: int) -> Dial:
        """The node is lost, or has not answered: what to dial instead. The first one of all is
        ``address``."""
        if self.stays and self.is_at:
            self._rounds += 1
            return Dial(self.address, self._pause_ns(self._rounds - 1), False)
        if self.is_at:
            here = self._addresses_here()
            self.is_at = False
            self._round = deque(self._order(here, now_ns))
            if self.address not in self._avoided:
                return Dial(self.address, 0, self.has_others)
        if self._round:
            before, self.address = self.address, self._round.popleft()
            delay_ns = 0
            if self._pauses and before != self.address:
                self._pauses = False
                delay_ns = self._entropy.randrange(limits.MOVE_SPREAD_NS)
            return Dial(self.address, delay_ns, self.has_others)
        self._rounds += 1
        self._pauses = False
        order = self._order((), now_ns) or list(self._all()) or [self.address]
        self._round = deque(order[1:])
        self.address = order[0]
        return Dial(self.address, self._pause_ns(self._rounds), self.has_others)

    def _pause_ns(self, rounds: int) -> int:
        if not rounds:
            return 0
        longest = limits.RECONNECT_NS_MAX
        pause_ns = min(longest, limits.RECONNECT_NS_MIN << min(rounds - 1, 10))
        return int(pause_ns * (0.5 + self._entropy.random()))

    def _all(self) -> dict[str, None]:
        """Every address there is, the given ones first."""
        found = dict.fromkeys(self.given)
        for node in self._known.values():
            found |= dict.fromkeys(node.addresses)
        if not found and self.address:
            found[self.address] = None
        return found

    def _order(self, but: Iterable[str], now_ns: int) -> list[str]:
        """Rule 2: all addresses ``but`` those, and those that are avoided."""
        self._avoided = {a: until for a, until in self._avoided.items() if until > now_ns}
        skipped = {*but, *self._avoided}
        given = list(self.given)
        if self._origin:  # else they are in their order
            self._entropy.shuffle(given)
        parts = [given]
        for is_here in (True, False):
            nodes = [n.addresses for n in self._known.values() if n.is_here is is_here]
            self._entropy.shuffle(nodes)
            # The first of each, then the second ones: most can be reached at their first.
            longest = max(map(len, nodes), default=0)
            parts.append([n[i] for i in range(longest) for n in nodes if i < len(n)])
        if not self.given and self.address:
            parts.append([self.address])
        found = dict.fromkeys(a for part in parts for a in part)
        return [address for address in found if address not in skipped]
