"""Whom to dial: what is said of peers in, dials out.

Rules:
1. An address is a hint: from mDNS, from the program's own peers list, from a linked peer that tells
   of others (gossip), or the default one. All are dialled at the same time, within bounds; the
   handshake says who is there, and nothing else does.
2. Nothing that is said of a peer ends a link: no goodbye, no record that expired or changed, no
   flood. Nor does it end the dials to a peer at once, since a goodbye is as easily forged as a
   record: who was lost is dialled for SIGHT_LOST_NS more.
3. Each address has its back-off, whoever names it and how often. Dials to addresses that others
   name are bounded in number and rate, by who names them: nobody can make us flood a third.
4. Peers that are not linked fill a bounded table: the one sighted longest ago goes first, those
   that were never linked before those that were. What is listed is dialled for ever.
5. Two that dial each other at once have two links for a moment: the one that the smaller instance
   id dialled stays (``_link``).

Whoever makes links tells what became of dials, and of links that others dialled.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from meshmq import limits
from meshmq.core.hints import LOCAL_MESH, address_fault, fault_of
from meshmq.core.peers import (
    DIALLING,
    FOREIGN,
    GOSSIP_RANK,
    KNOWN,
    KNOWN_RANK,
    LINKED,
    LISTED_RANK,
    MDNS_RANK,
    OWN,
    WAITING,
    Address,
    Claim,
    Lane,
    Peer,
    address_row,
)  # fmt: skip
from meshmq.frames import PeerFacts

MDNS, PEERS, GOSSIP, DEFAULT, LINKS = "mdns", "peers", "gossip", "default", "links"


@dataclass(frozen=True, slots=True)
class Sighted:
    """``source`` says that there is a peer.

    Attributes:
        source: ``mdns``, ``gossip``, or with addresses only: ``peers``,
            ``default``, or ``links``, which says all that are listed as such.
        facts: all that it says, in place of what it said before.
        teller: instance of the linked peer that gossips.
    """

    source: str
    facts: PeerFacts
    teller: bytes = b""


@dataclass(frozen=True, slots=True)
class SightLost:
    """``source`` says that it is gone: a goodbye, or its record expired."""

    source: str
    instance: bytes
    teller: bytes = b""


@dataclass(frozen=True, slots=True)
class DialFailed:
    """Nobody is there, or not one of us; ``reason`` is an error's code or words for people."""

    address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A handshake is done.

    Attributes:
        facts: what the peer said in it; its addresses may be none.
        address: the one dialled; empty: the peer dialled us.
    """

    facts: PeerFacts
    address: str = ""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A link of LinkUp is over."""

    instance: bytes
    address: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to ``address``; answer by LinkUp or DialFailed. ``kind`` is what it is said to be."""

    address: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the dial to ``address``, or the link it became; nothing need be answered."""

    address: str


Event = Sighted | SightLost | DialFailed | LinkUp | LinkDown | Tick
Effect = Dial | GiveUp


class Discovery:
    """See the module's header. One for each program or node.

    Args:
        instance: our own, 16 bytes.
        mesh: our own; records of others are counted and ignored.
        entropy: for the spread of back-offs.
        dials: kinds of peers that are dialled, and told of; others are listed only.
        insecure: dial beyond this host, if the mesh is not ``local``.
        backoff_ns_max: of addresses that are not listed.

    Attributes:
        counters: what was done, and what was ignored, by reason.
    """

    def __init__(
        self,
        instance: bytes,
        mesh: str,
        entropy: random.Random,
        dials: Iterable[str] = ("node", "client"),
        insecure: bool = False,
        backoff_ns_max: int = limits.DIAL_BACKOFF_NS_MAX,
    ) -> None:
        self._backoff_ns_max = backoff_ns_max
        self.counters: Counter[str] = Counter()
        self._me = instance
        self._mesh = mesh
        self._entropy = entropy
        self._dials = frozenset(dials)
        self._on_host = mesh == LOCAL_MESH or not insecure
        self._peers: dict[bytes, Peer] = {}
        self._fresh: OrderedDict[bytes, None] = OrderedDict()  # never linked, oldest sight first
        self._former: OrderedDict[bytes, None] = OrderedDict()  # linked once, not now
        self._lost: OrderedDict[Claim, int] = OrderedDict()  # to when it is forgotten
        self._told: dict[bytes, set[bytes]] = {}  # of whom each teller tells
        self._listed_count = 0
        self._addresses: dict[str, Address] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # nobody names them any more
        self._dialling: OrderedDict[str, int] = OrderedDict()  # to when it is given up
        self._listed = Lane(LISTED_RANK, limits.DIALS_LISTED_MAX)
        self._known = Lane(KNOWN_RANK, limits.DIALS_KNOWN_MAX)
        self._mdns = Lane(
            MDNS_RANK, limits.DIALS_MDNS_MAX, limits.DIAL_BURST_COUNT, limits.DIAL_INTERVAL_NS
        )
        self._tellers: dict[bytes, Lane] = {}
        self._gossip_in_flight = 0
        self._pending: dict[Lane, None] = {}  # those with something in the queue
        self._effects: list[Effect] = []

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take in what happened; what to do about it."""
        match event:
            case Sighted(source, facts) if source in (PEERS, DEFAULT, LINKS):
                self._on_listed(source, facts, now_ns)
            case Sighted(source, facts, teller):
                self._on_sighted(source, facts, teller, now_ns)
            case SightLost(source, instance, teller):
                self._on_lost(source, instance, teller, now_ns)
            case DialFailed(address, reason):
                self._on_failed(address, reason, now_ns)
            case LinkUp(facts, address):
                self._on_up(facts, address, now_ns)
            case LinkDown(instance, address, reason):
                self._on_down(instance, address, reason, now_ns)
            case Tick():
                pass
        self._expire(now_ns)
        self._dial(now_ns)
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_ns(self) -> int | None:
        """When a Tick has something to do, if nothing else happens; None: never."""
        due = [next(iter(self._dialling.values()))] if self._dialling else []
        if self._lost:
            due.append(next(iter(self._lost.values())))
        due += [
            max(lane.queue[0][0], lane.free_ns())
            for lane in self._pending
            if lane.queue and self._has_room(lane)
        ]
        return min(due, default=None)

    def gossip(self) -> tuple[PeerFacts, ...]:
        """What to tell linked peers: who is linked, those met last first.

        Of each the addresses where it has answered and those that it has named itself: what others
        say of it is not passed on, or one forger would have many knock for it.
        """
        found: list[PeerFacts] = []
        for instance, peer in reversed(self._peers.items()):
            if not peer.links or peer.facts.kind not in self._dials:
                continue
            own = dict.fromkeys([*peer.answered, *peer.sights.get((GOSSIP, instance), ())])
            told = [a for a in own if not address_fault(a, self._on_host)]
            if told:
                facts = replace(peer.facts, addresses=tuple(told[: limits.PEER_ADDRESSES_MAX]))
                found.append(facts)
            if len(found) == limits.GOSSIP_PEERS_MAX:
                break
        return tuple(found)

    def told_by(self, teller: bytes) -> set[bytes]:
        """Of whom a linked peer tells, but for itself."""
        return self._told.get(teller, set()) - {teller}

    def is_linked(self, instance: bytes) -> bool:
        """Whether there is a link to ``instance``."""
        peer = self._peers.get(instance)
        return peer is not None and bool(peer.links)

    def at(self, address: str) -> tuple[bytes, bool]:
        """Who has answered there (empty: nobody yet), and whether no dial has failed."""
        known = self._addresses.get(address)
        return (known.answered, not known.failures) if known is not None else (b"", True)

    def rows(self) -> list[dict[str, Any]]:
        """What is known, for people: peers, then listed addresses where nobody answered yet."""
        rows = [self._row(peer) for peer in self._peers.values()]
        for address in self._addresses.values():
            if self.is_linked(address.answered):
                continue  # a further address of one that is among the rows
            if not any(instance for instance, _, _ in address.claims) and address.claims:
                source = next(iter(address.claims))[1]
                rows.append(
                    {
                        "instance": None,
                        "kind": None,
                        "name": None,
                        "protocol": None,
                        "state": address.state,
                        "sources": [source],
                        "addresses": [address_row(address)],
                    }
                )
        return rows

    def _row(self, peer: Peer) -> dict[str, Any]:
        facts = peer.facts
        known = [self._addresses[a] for a in peer.addresses() if a in self._addresses]
        state = "linked" if peer.links else "found"
        if not peer.links and any(a.state == DIALLING for a in known):
            state = DIALLING
        return {
            "instance": facts.instance.hex(),
            "kind": facts.kind,
            "name": facts.name,
            "protocol": f"{facts.major}.{facts.minor}",
            "state": state,
            "sources": _sources(peer),
            "addresses": [address_row(address) for address in known],
        }

    # -- what is said ----------------------------------------------------------------------------

    def _on_listed(self, source: str, facts: PeerFacts, now_ns: int) -> None:
        key = (b"", source, b"")
        listed = [text for text, a in self._addresses.items() if key in a.claims]
        for text in listed if source == LINKS else ():
            if text not in facts.addresses:
                self._unclaim(text, key, now_ns)
        for text in facts.addresses:
            address = self._addresses.get(text)
            if address is not None and key in address.claims:
                continue
            if source != LINKS:  # the settings bound these
                if self._listed_count >= limits.LISTED_ADDRESSES_MAX:
                    self.counters["listed-full"] += 1
                    continue
                self._listed_count += 1
            self._claim(text, key, self._listed, now_ns)

    def _on_sighted(self, source: str, facts: PeerFacts, teller: bytes, now_ns: int) -> None:
        instance = facts.instance
        if instance == self._me:
            self.counters["own"] += 1
            return
        fault = fault_of(facts, self._mesh, self._on_host)
        if fault:
            self.counters[fault] += 1
            return
        key = (instance, source, teller)
        addresses = [text for text in facts.addresses if self._has_place(text, key)]
        if not addresses:
            self.counters["crowded"] += 1
            return
        peer = self._peers.get(instance)
        lane = self._mdns
        if source == GOSSIP:
            refusal = self._gossip_fault(instance, peer, teller, now_ns)
            if refusal:
                self.counters[refusal] += 1
                return
            lane = self._tell(teller, instance)
        if peer is None:
            self._make_room(now_ns, 1)
            peer = self._peers[instance] = Peer(facts)
            self._fresh[instance] = None
        elif not peer.links:
            if source == MDNS or (MDNS, b"") not in peer.sights:
                peer.facts = facts
            table = self._former if instance in self._former else self._fresh
            table.move_to_end(instance)
        self.counters["sighted"] += 1
        self._see(peer, (source, teller), addresses, lane, now_ns)

    def _has_place(self, text: str, key: Claim) -> bool:
        """Whether one more may be said to be there. It is dialled whoever is said to be."""
        address = self._addresses.get(text)
        if address is None or len(address.claims) < limits.ADDRESS_CLAIMS_MAX:
            return True
        return key in address.claims

    def _gossip_fault(self, instance: bytes, peer: Peer | None, teller: bytes, now_ns: int) -> str:
        by = self._peers.get(teller)
        if by is None or not by.links:
            return "gossip-unlinked"
        told = self._told.get(teller, ())
        most = limits.DIRECT_PEERS_MAX if by.facts.kind == "node" else limits.GOSSIP_PEERS_MAX
        if instance not in told and len(told) >= most:
            gone = next((key for key in self._lost if key[1:] == (GOSSIP, teller)), None)
            if gone is None:
                return "gossip-full"
            del self._lost[gone]
            self._forget_sight(*gone, now_ns)
        if peer is not None and (GOSSIP, teller) not in peer.sights:
            tellers = sum(source == GOSSIP for source, _ in peer.sights)
            if tellers >= limits.GOSSIPERS_PER_PEER_MAX:
                return "gossip-known"
        return ""

    def _see(
        self,
        peer: Peer,
        sight: tuple[str, bytes],
        addresses: Iterable[str],
        lane: Lane,
        now_ns: int,
    ) -> None:
        """Addresses of one source, in place of those it named before."""
        instance = peer.facts.instance
        self._lost.pop((instance, *sight), None)
        before = peer.sights.get(sight, ())
        now = peer.sights[sight] = tuple(dict.fromkeys(addresses))
        for text in now:
            self._claim(text, (instance, *sight), lane, now_ns)
        for text in before:
            if text not in now:
                self._unclaim(text, (instance, *sight), now_ns)

    def _on_lost(self, source: str, instance: bytes, teller: bytes, now_ns: int) -> None:
        peer = self._peers.get(instance)
        key = (instance, source, teller)
        if peer is None or (source, teller) not in peer.sights or key in self._lost:
            return
        self.counters["lost"] += 1
        self._lost[key] = now_ns + limits.SIGHT_LOST_NS

    def _forget_sight(self, instance: bytes, source: str, teller: bytes, now_ns: int) -> None:
        peer = self._peers[instance]
        for text in peer.sights.pop((source, teller)):
            self._unclaim(text, (instance, source, teller), now_ns)
        self._forget_told(teller, instance)
        if not peer.sights and not peer.links:
            self._forget(instance, now_ns)

    def _forget_told(self, teller: bytes, instance: bytes) -> None:
        told = self._told.get(teller)
        if told is not None:
            told.discard(instance)
            if not told:
                del self._told[teller], self._tellers[teller]

    def _tell(self, teller: bytes, instance: bytes) -> Lane:
        """Note that ``teller`` tells of ``instance``; the lane for what it says."""
        self._told.setdefault(teller, set()).add(instance)
        lane = self._tellers.get(teller)
        if lane is None:
            lane = self._tellers[teller] = Lane(
                GOSSIP_RANK, limits.DIALS_GOSSIPER_MAX,
                limits.DIAL_GOSSIPER_BURST_COUNT, limits.DIAL_GOSSIPER_INTERVAL_NS,
            )  # fmt: skip
        return lane

    def _make_room(self, now_ns: int, count: int) -> None:
        """Let those go that are too many, of those that are not linked."""
        while len(self._fresh) + len(self._former) + count > limits.FOUND_PEERS_MAX:
            self.counters["pushed-out"] += 1
            self._forget(next(iter(self._fresh or self._former)), now_ns)

    def _forget(self, instance: bytes, now_ns: int) -> None:
        peer = self._peers[instance]
        self._fresh.pop(instance, None)
        self._former.pop(instance, None)
        for (source, teller), addresses in peer.sights.items():
            self._lost.pop((instance, source, teller), None)
            self._forget_told(teller, instance)
            for text in addresses:
                self._unclaim(text, (instance, source, teller), now_ns)
        del self._peers[instance]  # last: of one address it may have several claims

    # -- addresses -------------------------------------------------------------------------------

    def _claim(self, text: str, key: Claim, lane: Lane, now_ns: int) -> None:
        address = self._addresses.get(text)
        if address is None:
            address = self._addresses[text] = Address(text, now_ns)
        self._idle.pop(text, None)
        if key not in address.claims:
            address.claims[key] = lane
        self._queue(address)

    def _unclaim(self, text: str, key: Claim, now_ns: int) -> None:
        address = self._addresses[text]
        del address.claims[key]
        if address.claims:
            self._queue(address)
            return
        self._unqueue(address)
        if address.state == DIALLING:
            self._release(address)
            self._back_off(address, "", now_ns)
            self._effects.append(GiveUp(text))
        if address.state != LINKED:
            # Who says it again is to find its back-off as it was.
            self._idle[text] = None
            if len(self._idle) > limits.FOUND_PEERS_MAX:
                del self._addresses[self._idle.popitem(last=False)[0]]

    def _lane_of(self, address: Address) -> Lane | None:
        """Who dials it; None: it is not to be dialled now."""
        if address.state != WAITING or self.is_linked(address.answered):
            return None
        found: Lane | None = None
        for (instance, _, _), lane in address.claims.items():
            if instance:
                peer = self._peers[instance]
                if peer.links or peer.facts.kind not in self._dials:
                    continue
            if found is None or lane.rank < found.rank:
                found = lane
        return found

    def _queue(self, address: Address) -> None:
        lane = self._lane_of(address)
        if lane is None:
            self._unqueue(address)
        elif address.queue is not lane or address.queued_ns != address.due_ns:
            self._unqueue(address)
            address.queue, address.queued_ns = lane, address.due_ns
            lane.queued += 1
            heapq.heappush(lane.queue, (address.due_ns, address.text))
            self._pending[lane] = None
            if len(lane.queue) > 2 * lane.queued + 64:
                self._sweep(lane)

    def _sweep(self, lane: Lane) -> None:
        """Take what is stale out of a queue that may stand still while records flood in."""
        lane.queue = [entry for entry in set(lane.queue) if self._is_queued(lane, *entry)]
        heapq.heapify(lane.queue)

    def _is_queued(self, lane: Lane, due_ns: int, text: str) -> bool:
        address = self._addresses.get(text)
        return address is not None and address.queue is lane and address.queued_ns == due_ns

    def _unqueue(self, address: Address) -> None:
        if address.queue is not None:
            address.queue.queued -= 1
            address.queue = None

    # -- dials -----------------------------------------------------------------------------------

    def _has_room(self, lane: Lane) -> bool:
        if lane.rank == GOSSIP_RANK and self._gossip_in_flight >= limits.DIALS_GOSSIP_MAX:
            return False
        return lane.in_flight < lane.room

    def _dial(self, now_ns: int) -> None:
        for lane in sorted(self._pending, key=lambda lane: lane.rank):
            begun = False
            while lane.queue and self._has_room(lane) and lane.free_ns() <= now_ns:
                due_ns, text = lane.queue[0]
                if not self._is_queued(lane, due_ns, text):
                    heapq.heappop(lane.queue)
                    continue
                if due_ns > now_ns:
                    break
                heapq.heappop(lane.queue)
                address = self._addresses[text]
                self._unqueue(address)
                if self._lane_of(address) is lane:
                    self._begin(address, lane, now_ns)
                    begun = True
                else:
                    self._queue(address)
            if begun or not lane.queue:
                del self._pending[lane]
                if lane.queue:
                    self._pending[lane] = None  # behind the others of its rank

    def _begin(self, address: Address, lane: Lane, now_ns: int) -> None:
        address.state, address.lane = DIALLING, lane
        lane.spend(now_ns)
        self._gossip_in_flight += lane.rank == GOSSIP_RANK
        self._dialling[address.text] = now_ns + limits.DIAL_TIMEOUT_NS
        self.counters["dials"] += 1
        self._effects.append(Dial(address.text, self._kind_of(address)))

    def _kind_of(self, address: Address) -> str:
        for instance, _, _ in address.claims:
            if instance:
                return self._peers[instance].facts.kind
        return ""

    def _release(self, address: Address) -> None:
        """Its dial is over."""
        lane = address.lane
        assert lane is not None, "only a dial in flight has a lane"
        del self._dialling[address.text]
        lane.in_flight -= 1
        self._gossip_in_flight -= lane.rank == GOSSIP_RANK
        address.state, address.lane = WAITING, None

    def _on_failed(self, text: str, reason: str, now_ns: int) -> None:
        address = self._addresses.get(text)
        if address is None or address.state != DIALLING:
            return  # it was given up meanwhile
        self.counters["failed"] += 1
        self._release(address)
        self._back_off(address, reason, now_ns)

    def _back_off(self, address: Address, reason: str, now_ns: int) -> None:
        is_listed = any(not instance for instance, _, _ in address.claims)
        longest = limits.DIAL_BACKOFF_LISTED_NS_MAX if is_listed else self._backoff_ns_max
        wait = min(longest, limits.DIAL_BACKOFF_NS_MIN << min(address.failures, 16))
        address.failures += 1
        if reason in FOREIGN:
            wait = longest  # it is somebody else's and will be so for a while
        address.reason = reason
        address.due_ns = now_ns + wait // 2 + self._entropy.randrange(wait // 2 + 1)
        self._queue(address)

    def _expire(self, now_ns: int) -> None:
        while self._dialling:
            text, due_ns = next(iter(self._dialling.items()))
            if due_ns > now_ns:
                break
            self._effects.append(GiveUp(text))
            self._on_failed(text, "timed out", now_ns)
        while self._lost:
            key, due_ns = next(iter(self._lost.items()))
            if due_ns > now_ns:
                break
            del self._lost[key]
            self._forget_sight(*key, now_ns)

    # -- links -----------------------------------------------------------------------------------

    def _on_up(self, facts: PeerFacts, text: str, now_ns: int) -> None:
        instance = facts.instance
        address = self._addresses.get(text) if text else None
        if text:
            if address is None or address.state != DIALLING:
                self._effects.append(GiveUp(text))  # again: it was given up meanwhile
                return
            self._release(address)
            if instance == self._me:
                address.state = OWN
                self._effects.append(GiveUp(text))
                return
            self._note_answer(address, instance)
        peer = self._peers.get(instance)
        if peer is None:
            peer = self._peers[instance] = Peer(facts)
        peer.facts = facts
        self._fresh.pop(instance, None)
        self._former.pop(instance, None)
        self._link(peer, address, now_ns)
        if facts.addresses and not fault_of(facts, self._mesh, self._on_host):
            # What it says of itself is no more certain than what it says of others.
            lane = self._tell(instance, instance)
            self._see(peer, (GOSSIP, instance), facts.addresses, lane, now_ns)

    def _note_answer(self, address: Address, instance: bytes) -> None:
        said = {claimed for claimed, _, _ in address.claims if claimed}
        if said and instance not in said:
            self.counters["mistaken"] += 1
        address.answered = instance

    def _link(self, peer: Peer, address: Address | None, now_ns: int) -> None:
        """A further link of ``peer``: at most one of each direction, in the end one at all."""
        instance = peer.facts.instance
        if address is not None:
            peer.answered[address.text] = None
            if len(peer.answered) > limits.PEER_ADDRESSES_MAX:
                peer.answered.popitem(last=False)
        if address is None:
            peer.links.add("")
        elif any(peer.links):
            self._effects.append(GiveUp(address.text))
        else:
            peer.links.add(address.text)
            address.state, address.since_ns, address.reason = LINKED, now_ns, ""
            self._see(peer, (KNOWN, b""), [address.text], self._known, now_ns)
        ours = next(filter(None, peer.links), None)
        if ours is not None and "" in peer.links and instance < self._me:
            # The other end, being smaller, keeps the one that it dialled.
            peer.links.discard(ours)
            self._addresses[ours].state = WAITING
            self._effects.append(GiveUp(ours))
        self.counters["links"] += 1
        # When it dialled us and we are the smaller, our dial goes on: the other end gave up its own
        # way of ending with one link if we gave up ours.
        if any(peer.links) or instance < self._me:
            self._give_up_dials(peer)
        self._queue_all(peer)

    def _give_up_dials(self, peer: Peer) -> None:
        for text in peer.addresses():
            address = self._addresses[text]
            if address.state != DIALLING:
                continue
            others = any(not self.is_linked(i) for i, _, _ in address.claims)
            if not others or self.is_linked(address.answered):
                self._release(address)
                self._effects.append(GiveUp(text))

    def _on_down(self, instance: bytes, text: str, reason: str, now_ns: int) -> None:
        peer = self._peers.get(instance)
        if peer is None or text not in peer.links:
            return
        peer.links.discard(text)
        address = self._addresses[text] if text else None
        if address is not None:
            address.state = WAITING
        if not peer.links:
            self.counters["links-lost"] += 1
            self._former[instance] = None
            self._on_lost(KNOWN, instance, b"", now_ns)
            for told in list(self._told.get(instance, ())):
                self._on_lost(GOSSIP, told, instance, now_ns)
        if address is not None:
            if now_ns - address.since_ns >= limits.LINK_STEADY_NS:
                address.failures, address.due_ns = 0, now_ns
            else:
                self._back_off(address, reason, now_ns)
        if not peer.sights and not peer.links:
            self._forget(instance, now_ns)
        elif not peer.links:
            self._make_room(now_ns, 0)
        self._queue_all(peer)

    def _queue_all(self, peer: Peer) -> None:
        for text in peer.addresses():
            address = self._addresses.get(text)
            if address is not None:
                self._queue(address)


def _sources(peer: Peer) -> list[str]:
    """Who says so, for people. Where it was before says nothing beside others."""
    me = peer.facts.instance
    found = {"handshake" if (s, t) == (GOSSIP, me) else s for s, t in peer.sights}
    return sorted(found - {KNOWN} or found)
