"""The other nodes of a node's site: who they are, and what each has to do with ours.

Two links with each. The control link (core/site_links.py) says who is there; over it go pulses,
gossip, and what all nodes agree on. While it stands there is a data link, a session of the node
like a client's: over it each end is a client of the other, and what is asked over it is answered by
the node alone, never by a third one. So what crosses the site takes two hops at most.

Rules:
1. Who dialled the control link dials the data link, to the same address, and again while that
   node answers.
2. When the control link is over, so is the data link; when both are there, the parts are told
   (``join``), and say all anew; when one of them is over, they are told that (``leave``).
3. A pulse goes to each node every PULSE_NS, less often where there are many; nothing of what
   clients send can stand before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from meshmq import limits
from meshmq.core.delivery import Delivery, Takers
from meshmq.core.discovery import PEERS, Discovery, Sighted, SightLost
from meshmq.core.effects import OpenLink
from meshmq.core.far_side import FarSide
from meshmq.core.gossip import Gossip
from meshmq.core.groups import Groups
from meshmq.core.latency import Latencies
from meshmq.core.link_live import LinkLive
from meshmq.core.link_wish import LinkWish
from meshmq.core.links import Link
from meshmq.core.registrar import Registrar
from meshmq.core.replication import Replication
from meshmq.core.services import Services
from meshmq.core.session import Session, SessionState
from meshmq.core.sessions import Peer, Sessions
from meshmq.core.sibling import LOCAL, Sibling
from meshmq.core.signposts import Signposts
from meshmq.core.site_copies import SiteCopies
from meshmq.core.site_groups import SiteGroups
from meshmq.core.site_identity import NodeIdentity, SiteIdentity, is_of_nodes
from meshmq.core.site_interests import Reach
from meshmq.core.site_links import SiteLinks
from meshmq.core.site_listings import HERE, SiteListings
from meshmq.core.site_producers import SiteProducers
from meshmq.core.site_reads import SiteReads
from meshmq.core.site_services import SiteServices
from meshmq.core.site_words import SiteWordsPart
from meshmq.core.topics import Topic, Topics
from meshmq.core.transients import Transients
from meshmq.errors import BadFrame
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Body,
    Command,
    Deliver,
    DeliverBatch,
    DirectoryFrame,
    Envelope,
    Hello,
    Known,
    KnownPeer,
    NodeFacts,
    Offers,
    PeerFacts,
    Publish,
    Pulse,
    Refuse,
    Result,
    SiteInterests,
    Streams,
    Subscribed,
    Welcome,
)
from meshmq.frames_copies import LogOffers, Mirrored


class Site:
    """See the module's header.

    Args:
        me, who: what we say of ourselves.
        sessions: of the node; data links are among them.
        delivery: the node's, for transient topics between nodes.
        reads: durable ones.
        copies: logs that nodes copy from each other.
        services: the node's, for requests between nodes.
        groups: the node's, for members and records of other nodes.
        ask_here: carries out a command, and answers over the link that is named.
        transients: what our own publishers know of who wants what.
        registrar: what all nodes agree on.
        topics: of our own log.

    Attributes:
        signposts: tells clients of the other nodes.
        siblings: nodes with a control link, by origin.
        far: the same of nodes of other sites; ``far_side``: what we have to do with them.
        version: changes when a node comes, goes, or its data link does.
    """

    def __init__(
        self,
        me: SiteIdentity,
        who: NodeIdentity,
        sessions: Sessions,
        delivery: Delivery,
        reads: SiteReads,
        services: Services,
        groups: Groups,
        ask_here: Callable[[bytes, Hello, Command], None],
        transients: Transients,
        copies: SiteCopies,
        entropy: random.Random,
        registrar: Registrar,
        topics: Topics,
    ) -> None:
        self._registrar = registrar
        self._hello = hello = Hello(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, who.mesh, who.origin, who.origin, who.name,
            who.software, False, me.addresses, NodeFacts(me.incarnation, me.site, me.clients),
        )  # fmt: skip
        discovery = Discovery(
            hello.instance, hello.mesh, entropy, ("node",), me.insecure, limits.SITE_BACKOFF_NS_MAX
        )
        self.links = SiteLinks(self._hello, discovery, entropy)
        self.gossip = Gossip(discovery, hello.mesh, tells_more=True)
        self.reach = Reach(delivery)
        self._transients = transients
        self.reads = reads
        self.copies = reads.copies = copies
        copies.mender.roster, copies.mender.name = registrar.roster, who.name
        self.services = SiteServices(services, who.name)
        self._shared = groups.shared
        self._shared.doubts.is_on = True
        self.groups = SiteGroups(who.origin, groups, delivery.may_send_to)
        self.listings = SiteListings(who.origin, who.name, partial(ask_here, HERE))
        self.producers = SiteProducers(
            who.origin, sessions, ask_here, HERE, registrar.roster, copies.takeovers.known,
            copies.forgetting.is_forgotten,
        )  # fmt: skip
        sessions.here = self._on_own
        here = KnownPeer(who.origin, True, who.name, me.clients)
        self.signposts = Signposts(here, sessions)
        self.siblings: dict[bytes, Sibling] = {}
        self.far: dict[bytes, Sibling] = {}
        self.replication = Replication(
            me.site, who.name, copies, topics, delivery, lambda: self._shared.now_ns
        )
        self.live = LinkLive(delivery, self.reach)
        self.words = SiteWordsPart(me, who.name, copies, self.groups.tell_fenced)
        self.far_side = FarSide(self.replication, self.live, self.services, transients, registrar)
        self.version = 0
        self.me = me
        self._sessions = sessions
        self._entropy = entropy
        self._by_control: dict[bytes, Sibling] = {}
        self._count = 0
        self._dials: dict[bytes, tuple[int, int]] = {}  # by origin: when, and the wait after it
        self._told: dict[bytes, int] = {}  # by data link: the last frame that says what we want
        self._pulse_ns = 0
        self._is_pulsing = False
        self._latencies: dict[bytes, Latencies] = {}

    # -- what comes in --------------------------------------------------------------------------

    def look_for(self, addresses: tuple[str, ...], now_ns: int) -> None:
        """Dial these, for as long as the node lives."""
        self.links.tell(Sighted(PEERS, PeerFacts(addresses=addresses)), now_ns)

    def set_links(self, wishes: tuple[LinkWish, ...], now_ns: int) -> None:
        """Pull this from other sites, from now on."""
        self.far_side.set_wishes(wishes, now_ns)
        self.words.set_links(wishes, now_ns)
        self.links.look_for_sites(wishes, now_ns)

    def on_sight(self, sight: Sighted | SightLost, now_ns: int) -> None:
        """mDNS says something."""
        me = self._hello.instance
        if isinstance(sight, Sighted) and sight.facts.instance == me:
            others = tuple([a for a in sight.facts.addresses if a not in self.me.addresses])
            if others:
                # Somebody runs our log, or a copy of it: the handshake says so to both.
                self.links.tell(Sighted(PEERS, PeerFacts(addresses=others[:1])), now_ns)
            return
        self.links.tell(sight, now_ns)

    @property
    def facts(self) -> NodeFacts:
        """What we say of ourselves over data links."""
        return self.links.me._replace(is_data=True)

    def takes(self, link: bytes, body: Body) -> bool:
        """Whether a frame is of a control link."""
        if link in self.links.by_name:
            return True
        if not isinstance(body, Hello) or body.node is None or not is_of_nodes(link):
            return False
        return not body.node.is_data

    def receive(self, link: bytes, envelope: Envelope, now_ns: int) -> None:
        """A frame of a control link."""
        got = self.links.receive(link, envelope, now_ns)
        self._note_links(now_ns)
        if got is None:
            return
        sibling = self._by_control.get(got[0].name)
        if sibling is not None and (not sibling.site or isinstance(got[1], Pulse | Offers)):
            try:
                self._on_control(got[0], sibling, got[1], now_ns)
            except BadFrame as error:
                self.on_bad_frame(link, str(error), now_ns)

    def _on_control(self, link: Link, sibling: Sibling, body: Body, now_ns: int) -> None:
        match body:
            case Pulse(stamp, is_answer):
                if not is_answer:
                    self.links.send(link, Pulse(stamp, True), now_ns)
                elif stamp <= now_ns:
                    self.links.prove(link, stamp)
                    self._latencies[sibling.origin].add(now_ns - stamp, now_ns)
                    self.replication.on_round_trip(sibling, now_ns - stamp)
                if sibling.dials and not sibling.link and sibling.origin not in self._dials:
                    self._dials[sibling.origin] = (now_ns, limits.DATA_DIAL_NS)
                    self._dial(now_ns)
            case Offers():
                self.services.on_offers(sibling, body, now_ns)
            case Known():
                for fact in self.gossip.hear(sibling.origin, body):
                    self.links.tell(fact, now_ns)
            case DirectoryFrame():
                self._registrar.on_frame(sibling.origin, body, now_ns)
            case _:
                pass

    def on_closed(self, link: bytes, reason: str, now_ns: int) -> None:
        """The transport of a control link says that nothing more comes."""
        self.links.on_closed(link, reason, now_ns)
        self._note_links(now_ns)

    def on_bad_frame(self, link: bytes, reason: str, now_ns: int) -> None:
        """Bytes that are no frame came over a control link."""
        self.links.on_bad_frame(link, reason, now_ns)
        self._note_links(now_ns)

    def probe(self, now_ns: int) -> None:
        """A connection to our listener was cut, whose is not known: ask all who dialled."""
        for link in self.links.by_instance.values():
            if not link.address:
                self.links.send(link, Pulse(now_ns), now_ns)
        for peer in self._sessions.by_link.values():
            if peer.sibling is not None and not peer.sibling.dials:
                peer.session.ping(now_ns)
                self._sessions.receive(peer)

    # -- who is there ---------------------------------------------------------------------------

    def _note_links(self, now_ns: int) -> None:
        links = self.links
        left, links.left = links.left, []
        for link in left:
            self._forget(link, now_ns)
        joined, links.joined = links.joined, []
        for link in joined:
            self._meet(link, now_ns)
        if left or joined:
            self.signposts.look(self.siblings.values())

    def _meet(self, link: Link, now_ns: int) -> None:
        facts, node = link.facts, link.node
        assert node is not None, "only nodes are linked here"
        sibling = Sibling(
            facts.instance, facts.name, node.incarnation, facts.addresses, node.clients, link.name,
            bool(link.address), site="" if node.site == self.me.site else node.site,
        )  # fmt: skip
        self._by_control[link.name] = sibling
        for who in (sibling.name, link.address):
            self.links.refusals.pop(who, None)
        self._latencies[sibling.origin] = Latencies(now_ns)
        self.version += 1
        if sibling.site:
            self.far[sibling.origin] = sibling
            self.links.send(link, Pulse(now_ns), now_ns)
            return
        self.siblings[sibling.origin] = sibling
        self.gossip.join(link.name, sibling.origin, now_ns)
        self.services.expect(sibling, now_ns)
        self._registrar.join(sibling.origin, now_ns)
        self.links.send(link, Pulse(now_ns), now_ns)

    def _forget(self, link: Link, now_ns: int) -> None:
        sibling = self._by_control.pop(link.name, None)
        if sibling is None:
            return
        there = self.far if sibling.site else self.siblings
        if not sibling.site:
            self.gossip.leave(link.name, now_ns)
        if there.get(sibling.origin) is sibling:
            del there[sibling.origin]
            del self._latencies[sibling.origin]
            self._dials.pop(sibling.origin, None)
            if not sibling.site:
                self._registrar.leave(sibling.origin, now_ns)
        self.version += 1
        for peer in list(self._sessions.by_link.values()):
            if peer.sibling is sibling:
                why = "the link that says the node is there is over"
                self._sessions.end(peer, Refuse("link-lost", why), now_ns)

    def _find(self, origin: bytes) -> Sibling | None:
        """A node with a control link, of our site or of another one."""
        return self.siblings.get(origin) or self.far.get(origin)

    # -- data links -----------------------------------------------------------------------------

    def _dial(self, now_ns: int) -> None:
        for origin, (due_ns, wait_ns) in list(self._dials.items()):
            sibling = self._find(origin)
            if sibling is None or due_ns > now_ns or sibling.attempt:
                continue
            self._dials[origin] = (now_ns + wait_ns, min(2 * wait_ns, limits.SECOND))
            self._count += 1
            name = b"\0data-%d" % self._count
            producer = self._entropy.getrandbits(128).to_bytes(16, "big")
            facts = self.facts._replace(link_to=sibling.site)
            hello = replace(self._hello, producer=producer, node=facts)
            session = Session(self._entropy.getrandbits(63) + 1, hello, now_ns)
            address = self.links.by_name[sibling.control].address
            self._sessions.effects.append(OpenLink(name, address))
            self._sessions.add(Peer(name, session, self._their_hello(sibling), sibling=sibling))
            sibling.attempt = name

    def _their_hello(self, sibling: Sibling) -> Hello:
        """As if it had dialled."""
        return Hello(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, self._hello.mesh, sibling.origin, b"", sibling.name
        )

    def judge(self, hello: Hello) -> Refuse | Sibling:
        """A node wants a data link: with whom, or why not."""
        sibling, node = self._find(hello.instance), hello.node
        if sibling is None or node is None or node.incarnation != sibling.incarnation:
            return Refuse("link-lost", "there is no link that says the node is there")
        if sibling.dials:  # it is of an earlier control link, and late
            return Refuse("link-lost", "the other end of the pair dials")
        return sibling

    def on_welcome(self, peer: Peer, welcome: Welcome, now_ns: int) -> None:
        """The data link that we dialled is open."""
        sibling = peer.sibling
        assert sibling is not None
        node = welcome.node
        if node is None or (welcome.origin, node.incarnation) != (
            sibling.origin,
            sibling.incarnation,
        ):
            why = "another node answers at the address"
            self._sessions.end(peer, Refuse("link-lost", why), now_ns)
            return
        sibling.attempt = b""
        self._dials.pop(sibling.origin, None)
        self.open(peer, now_ns)

    def open(self, peer: Peer, now_ns: int) -> None:
        """A data link is open: all parts say anew what they want of it."""
        sibling = peer.sibling
        assert sibling is not None
        self._leave(sibling, now_ns)
        sibling.link, sibling.since_ns = peer.link, now_ns
        self.version += 1
        self.words.join(sibling, now_ns)
        if sibling.site:
            self.far_side.join(peer, sibling, now_ns)
            return
        self.replication.join_sibling(sibling)
        self.reach.join(sibling)
        self.reads.join(sibling)
        self.copies.join(sibling, now_ns)
        self.services.join(sibling, now_ns)
        self.groups.join(sibling, now_ns)
        self.listings.join(sibling)
        self.producers.join(sibling)

    def on_dropped(self, peer: Peer, now_ns: int) -> None:
        """A session of the node is over: a program's, a data link, or the attempt at one."""
        sibling = peer.sibling
        if sibling is None:
            self._doubt(peer, now_ns)
            self.groups.drop_link(peer.link)
            self.listings.drop_link(peer.link)
            self.producers.drop_link(peer.link)
            self.copies.waiting.drop_client(peer.link)
            return
        if sibling.attempt == peer.link:
            sibling.attempt = b""
        if sibling.link == peer.link:
            self._leave(sibling, now_ns)
        if sibling.dials and self._find(sibling.origin) is sibling:
            self._dials.setdefault(
                sibling.origin, (now_ns + limits.DATA_DIAL_NS, 2 * limits.DATA_DIAL_NS)
            )

    def _doubt(self, peer: Peer, now_ns: int) -> None:
        """What a program has published may be at another node, unless it said goodbye."""
        session = peer.session
        if session.state is SessionState.CLOSED and not session.closed_code:
            return
        ids = (peer.who(False), peer.who(True))
        offset_ns = self._shared.wall_offset_ns
        self._shared.doubts.lose(ids, session.heard_ns + offset_ns, now_ns + offset_ns)

    def _leave(self, sibling: Sibling, now_ns: int) -> None:
        if not sibling.link:
            return
        self.version += 1
        self.words.leave(sibling, now_ns)
        if sibling.site:
            self.far_side.leave(sibling, now_ns)
            sibling.link = b""
            return
        self.replication.leave_sibling(sibling)
        self._told.pop(sibling.link, None)
        self.reach.leave(sibling)
        self.copies.leave(sibling, now_ns)
        self.reads.leave(sibling)
        self.services.leave(sibling, now_ns)
        self.groups.leave(sibling, now_ns)
        self.listings.leave(sibling, now_ns)
        self.producers.leave(sibling)
        sibling.link = b""

    def on_program(self, peer: Peer, body: Body, now_ns: int) -> bool:
        """What one of our programs asks, if other nodes have to do with it."""
        if isinstance(body, Publish):
            return self.producers.is_over(peer, body, now_ns)
        if isinstance(body, Streams):
            self.reads.on_streams(peer.link, body)
            return True
        if isinstance(body, Command):
            parts = (self.replication.verify, self.producers, self.listings)
            return any(p.on_program(peer.link, peer.hello, body, now_ns) for p in parts)
        return self.groups.on_program(peer, body, now_ns)

    def _on_own(self, link: bytes, body: Body) -> None:
        if link == HERE and isinstance(body, Result):
            self._on_result(body)

    def _on_result(self, result: Result) -> None:
        if not self.producers.on_result(result):
            self.listings.on_result(result)

    def on_body(self, peer: Peer, body: Body, now_ns: int) -> bool:
        """What came over a data link, if it is ours; the rest is as from a client."""
        sibling = peer.sibling
        assert sibling is not None
        if isinstance(body, Welcome):
            self.on_welcome(peer, body, now_ns)
            return True
        if self.words.on_body(sibling, body, now_ns):
            return True
        if sibling.site:
            return self.far_side.on_body(sibling, body, now_ns)
        match body:
            case LogOffers():
                self.replication.on_sibling(sibling, body)
            case Mirrored():
                self.replication.on_mirrored(sibling, body)
            case SiteInterests():
                self._on_interests(peer, body, now_ns)
            case Subscribed():
                self.reads.on_subscribed(peer.link, body)
            case Deliver():
                self.reads.on_deliver(peer.link, body)
            case Result():
                self._on_result(body)
            case Command():
                return self.producers.on_sibling(peer, body, now_ns)
            case _:
                if self.copies.on_body(sibling, body, now_ns):
                    return True
                return self.groups.on_sibling(peer, body, now_ns)
        return True

    def take(self, sibling: Sibling, body: Deliver) -> Iterator[tuple[DeliverBatch, bytes, Takers]]:
        """Batches of transient topics that another node brings, each with the nodes that are to
        have it from us: siblings, of what comes from another site. Raises BadFrame."""
        if sibling.site:
            for row, data in self.live.take(sibling.link, body):
                yield row, data, self.reach.wanting(row.topic)
        else:
            for row, data in self.reach.take(sibling.link, body):
                yield row, data, ()

    def wanting(self, topic: str) -> Takers:
        """Other nodes that are to have a transient topic of our clients."""
        return self.reach.wanting(topic) + self.live.wanting(topic)

    def _on_interests(self, peer: Peer, body: SiteInterests, now_ns: int) -> None:
        if body.noted:
            self._transients.note(peer.link, body.noted - 1)
        if not (body.whole or body.add or body.remove):
            return
        new = self.reach.on_interests(peer.link, body)
        # A subscriber there waits for that.
        if not self._transients.want_all(peer.link, peer.session.received, new, now_ns):
            peer.session.acknowledge(now_ns)  # an older node counts on that alone

    # -- time, and what goes out ----------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self.links.tick(now_ns)
        self._note_links(now_ns)
        self.gossip.tick(now_ns)
        self.listings.tick(now_ns)
        self.producers.tick(now_ns)
        self._registrar.tick(now_ns)
        if now_ns >= self._pulse_ns:
            if self._is_pulsing and now_ns - self._pulse_ns > limits.STILL_NS:
                self._shared.doubts.stood_still(now_ns + self._shared.wall_offset_ns)
            self._is_pulsing = bool(self.siblings or self.far)
            self._pulse_ns = now_ns + self._pulse_interval_ns()
            for link in self.links.by_instance.values():
                self.links.send(link, Pulse(now_ns), now_ns)
        self._dial(now_ns)
        self.copies.tick(now_ns)
        self.words.tick(now_ns)
        self.replication.tick(now_ns, now_ns + self._shared.wall_offset_ns)

    def _pulse_interval_ns(self) -> int:
        spread = len(self.siblings) * limits.SECOND // limits.PULSES_PER_SECOND_MAX
        return max(limits.PULSE_NS, spread)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        dialled = [(due_ns, self._find(o)) for o, (due_ns, _) in self._dials.items()]
        due = [due_ns for due_ns, sibling in dialled if sibling and not sibling.attempt]
        parts = (
            self.links, self.gossip, self.services, self.groups, self.listings, self._registrar,
            self.signposts, self.copies, self.producers, self.replication, self.words,
        )  # fmt: skip
        due += [at for at in [part.next_deadline_ns() for part in parts] if at is not None]
        if self.siblings or self.far:
            due.append(self._pulse_ns)
        return min(due, default=None)

    def end_turn(self, now_ns: int) -> None:
        """Members' credit goes where there is work. What other owners say to a member leaves
        before what our own log hands out to it: of what they took back the room may be used
        already."""
        self.groups.end_turn(now_ns)
        sends, self.groups.sends = self.groups.sends, []
        for link, body in sends:
            self._sessions.send(link, body, now_ns)

    def flush(self, now_ns: int) -> None:
        """The turn is over: put what is to leave among the effects of the sessions."""
        self.signposts.tick(now_ns)
        self._send_of_reach(now_ns)
        sends = [*self.groups.sends, *self.listings.sends, *self.producers.sends]
        self.groups.sends, self.listings.sends, self.producers.sends = [], [], []
        for link, body in sends:
            self._sessions.send(link, body, now_ns)
        self._exchange(now_ns)
        links = self.links
        for origin, frame in self._registrar.take_sends():
            if origin in links.by_instance:
                links.send(links.by_instance[origin], frame, now_ns)
        for name, known in self.gossip.take():
            if name in links.by_name:
                links.send(links.by_name[name], known, now_ns)
        self.services.end_turn(now_ns)
        tells, self.services.tells = self.services.tells, []
        for sibling, body in tells:
            if sibling.control in links.by_name:
                links.send(links.by_name[sibling.control], body, now_ns)
        links.flush(now_ns)
        self._note_links(now_ns)
        if links.effects:
            self._sessions.effects += links.effects
            links.effects = []

    def _exchange(self, now_ns: int) -> None:
        """What is to leave of copies, and what our clients read of those that are kept here."""
        reads, copies = self.reads, self.copies
        self.links.news += self.words.take_news()
        for part in (copies.own, copies.forgetting):
            self.links.news += part.news
            part.news = []
        for origin in copies.forgetting.told:
            reads.forget(origin)
            self.listings.forget(origin)
        copies.forgetting.told = []
        while True:
            asked, reads.local = reads.local, []
            for body in asked:
                copies.on_body(copies.me, body, now_ns)
            parts = (copies, self.words, self.replication, reads)
            sends = [send for part in parts for send in part.take_sends()]
            for link, body in sends:
                if link != LOCAL:
                    self._sessions.send(link, body, now_ns)
                elif isinstance(body, Subscribed):
                    reads.on_subscribed(LOCAL, body)
                elif isinstance(body, Deliver):
                    reads.on_deliver(LOCAL, body)
            if not sends and not reads.local:
                break
        self._sessions.effects += copies.take_effects()

    def _send_of_reach(self, now_ns: int) -> None:
        self.reach.tell()
        for link, body in self.live.take_sends():
            self._sessions.send(link, body, now_ns)
        sends, self.reach.sends = self.reach.sends, []
        for link, body in sends:
            self._sessions.send(link, body, now_ns)
            if isinstance(body, SiteInterests) and link in self._sessions.by_link:
                self._told[link] = self._sessions.by_link[link].session.sent
        notes, self._transients.notes = self._transients.notes, []
        for link, note in notes:
            self._sessions.send(link, note, now_ns)

    def unnoted(self, now_ns: int) -> dict[bytes, int]:
        """Tell other nodes what we want; data links whose node has not noted that, and the frames
        that say it. Until then what is published there may pass us by."""
        self._send_of_reach(now_ns)
        noted = self._transients.noted
        acked = {
            link: noted.get(link, self._sessions.by_link[link].session.acked) for link in self._told
        }
        return {link: told for link, told in self._told.items() if acked[link] < told}

    def goodbye(self, now_ns: int) -> None:
        """The node ends: tell all."""
        self.links.goodbye(now_ns)
        self._note_links(now_ns)
        self.flush(now_ns)

    # -- what is shown --------------------------------------------------------------------------

    def describe(self, now_ns: int) -> dict[str, Any]:
        """As ``status`` shows it."""
        siblings = sorted(self.siblings.values(), key=lambda s: s.name)
        far = sorted(self.far.values(), key=lambda s: (s.site, s.name))
        return {
            "name": self.me.site,
            "incarnation": self.me.incarnation,
            "addresses": list(self.me.addresses),
            "nodes": [self._shown(sibling, now_ns) for sibling in siblings],
            "far": [{"site": node.site, **self._shown(node, now_ns)} for node in far],
            "there": self._there(),
            "away": self._away(now_ns),
            "refused": dict(self.links.refusals),
            "groups": self.groups.describe(),
            **self.words.describe(),
            "dropped_on_the_way": self.reach.lost,
            "reads": self.reads.describe(),
            "copies": self.copies.describe(self.links.hello.name),
            "links": self.far_side.describe(now_ns, self.links.endpoints()),
        }

    def _shown(self, sibling: Sibling, now_ns: int) -> dict[str, Any]:
        median, tail = self._latencies[sibling.origin].percentiles_us((0.5, 0.999), now_ns)
        seconds = round((now_ns - sibling.since_ns) / limits.SECOND, 3)
        return {
            "name": sibling.name,
            "origin": sibling.origin.hex(),
            "incarnation": sibling.incarnation,
            "state": "linked" if sibling.link else "joining",
            "addresses": list(sibling.addresses),
            "clients": list(sibling.clients),
            "linked_seconds": seconds if sibling.link else None,
            "pulse_p50_us": median,
            "pulse_p999_us": tail,
        }

    def of_topic(self, topic: Topic | None, name: str) -> dict[str, Any]:
        """Where a durable topic's streams are; ``there``: so many nodes are."""
        return {**self.copies.of_topic(topic, name, self.links.hello.name), "there": self._there()}

    def _there(self) -> int:
        """How many nodes are linked, with this one."""
        return 1 + sum([bool(sibling.link) for sibling in self.siblings.values()])

    def _away(self, now_ns: int) -> list[dict[str, Any]]:
        """Nodes that were there lately, or in this life of ours, and are not."""
        known = {**self._registrar.roster(), **self.listings.known}
        there = {origin: sibling.name for origin, sibling in self.siblings.items()}
        away = self.copies.forgetting.missing(known, there, self.links.hello.name)
        rows = []
        for origin, name in away.items():
            seen_ns = self.copies.seen_ns(origin, now_ns)
            seconds = None if seen_ns is None else round(seen_ns / limits.SECOND, 3)
            rows.append({"name": name, "origin": origin.hex(), "seconds": seconds})
        return sorted(rows, key=lambda row: str(row["name"]))
