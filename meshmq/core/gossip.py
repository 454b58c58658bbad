"""Programs that tell each other whom they are linked with, so that who lists one finds all.

Rules:
1. A linked program is told of all the others at once, in place of what it was told before: when it
   joins, and when that has changed, at most once in GOSSIP_NS then.
   Nodes of a site, of which there may be many that come one after another, are told only of those
   that have come, unless others have gone.
2. It is told neither of itself nor of us, and of no address that the mesh's rules forbid.
3. What others tell is a hint, and no more: discovery judges it.

What is to be sent gathers until ``take``.
"""

from __future__ import annotations

from dataclasses import replace

from meshmq import limits
from meshmq.core.discovery import GOSSIP, Discovery, Sighted, SightLost
from meshmq.frames import Known, KnownPeer, PeerFacts


class Gossip:
    """See the module's header.

    Args:
        discovery: knows who is linked, and is told what others say.
        mesh: our own; who is linked belongs to it, and so do those it tells of.
        tells_more: who is told understands what has come alone.
    """

    def __init__(self, discovery: Discovery, mesh: str, tells_more: bool = False) -> None:
        self._discovery = discovery
        self._mesh = mesh
        self._tells_more = tells_more
        self._nodes: tuple[KnownPeer, ...] = ()
        self._instances: dict[bytes, bytes] = {}  # of who is linked, by link
        self._told: dict[bytes, Known] = {}  # by link
        self._sends: list[tuple[bytes, Known]] = []
        self._due_ns: int | None = None  # when all are told, if it has changed
        self._told_ns = -limits.GOSSIP_NS

    def join(self, link: bytes, instance: bytes, now_ns: int) -> None:
        """A program is linked, and discovery knows it."""
        self._instances[link] = instance
        self._tell(link, self._all())
        self._change(now_ns)

    def leave(self, link: bytes, now_ns: int) -> None:
        """A link is over."""
        del self._instances[link]
        self._told.pop(link, None)
        self._change(now_ns)

    def attach(self, nodes: tuple[KnownPeer, ...], now_ns: int) -> None:
        """Nodes that we are attached to now."""
        self._nodes = nodes
        self._change(now_ns)

    def hear(self, teller: bytes, frame: Known) -> list[Sighted | SightLost]:
        """What discovery is to know of what the linked ``teller`` says."""
        told = frame.peers[: limits.GOSSIP_PEERS_MAX]
        now = {peer.instance for peer in told}
        gone = set() if frame.more else self._discovery.told_by(teller) - now
        facts: list[Sighted | SightLost] = [
            SightLost(GOSSIP, instance, teller) for instance in sorted(gone)
        ]
        for instance, is_node, name, addresses in told:
            kind = "node" if is_node else "client"
            said = PeerFacts(instance, kind, self._mesh, name, addresses=addresses)
            if instance != teller:  # its handshake says that
                facts.append(Sighted(GOSSIP, said, teller))
        return facts

    def take(self) -> list[tuple[bytes, Known]]:
        """What is to be sent, by link."""
        sends, self._sends = self._sends, []
        return sends

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if self._due_ns is None or now_ns < self._due_ns:
            return
        self._due_ns = None
        known = self._all()
        for link in self._instances:
            if self._tell(link, known):
                self._told_ns = now_ns

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return self._due_ns

    def _change(self, now_ns: int) -> None:
        if self._due_ns is None:
            self._due_ns = max(now_ns, self._told_ns + limits.GOSSIP_NS)

    def _all(self) -> Known:
        linked = [
            KnownPeer(peer.instance, peer.kind == "node", peer.name, peer.addresses)
            for peer in self._discovery.gossip()
        ]
        return Known((*self._nodes, *linked)[: limits.GOSSIP_PEERS_MAX])

    def _tell(self, link: bytes, known: Known) -> bool:
        """Say it unless that was said before; whether it was."""
        instance = self._instances[link]
        frame = replace(known, peers=tuple([p for p in known.peers if p.instance != instance]))
        told = set(self._told[link].peers) if link in self._told else set()
        if set(frame.peers) == told:
            return False
        self._told[link] = frame
        if self._tells_more and told and told <= set(frame.peers):
            frame = Known(tuple([p for p in frame.peers if p not in told]), more=True)
        self._sends.append((link, frame))
        return True
