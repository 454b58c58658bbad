"""A node: sessions, topics, streams and delivery put together. It routes; the parts decide.

Way of a durable message: FrameReceived -> Session.receive -> Streams.publish, end_turn -> Append;
Committed -> Delivery.on_commit (Deliver) and Streams.on_commit, end_turn -> Confirm.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from meshmq import limits
from meshmq.core import commands, drain, node_status, routes
from meshmq.core.admission import Admission
from meshmq.core.batches import BatchTools
from meshmq.core.delivery import Delivery, Subscription, Takers
from meshmq.core.doorway import judge_client
from meshmq.core.effects import Append, CloseLink, NodeEffect, PlanRetention, Send
from meshmq.core.events import (
    BadFrameReceived,
    Committed,
    FrameReceived,
    LinkClosed,
    ListenerCut,
    NodeEvent,
    PeerSighted,
    ReadDone,
    RetentionPlanned,
    StorageMeasured,
    Surveyed,
    TimerFired,
    WallClock,
)
from meshmq.core.group_commands import Clerk
from meshmq.core.groups import Groups
from meshmq.core.introductions import Introductions
from meshmq.core.log import Commit, Entry, LogState, RuleEntry, TrimEntry
from meshmq.core.registrar import Registrar
from meshmq.core.services import Services
from meshmq.core.session import Session
from meshmq.core.sessions import Peer, Sessions
from meshmq.core.sibling import Sibling
from meshmq.core.site import Site
from meshmq.core.site_copies import SiteCopies
from meshmq.core.site_doors import judge_node, of_copies
from meshmq.core.site_identity import NodeIdentity, SiteIdentity, is_of_nodes
from meshmq.core.site_reads import SiteReads
from meshmq.core.streams import Streams, confirms
from meshmq.core.topics import Topic, Topics
from meshmq.core.transact import transact
from meshmq.core.transients import NOBODY, Transients
from meshmq.errors import BadFrame
from meshmq.frames import (
    DURABLE_ONLY,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    SYNCED,
    Body,
    Cancel,
    Command,
    Confirm,
    Confirmation,
    Consume,
    Credit,
    Deliver,
    DeliverBatch,
    Envelope,
    Grant,
    Hello,
    Leave,
    Publish,
    PublishBatch,
    Refuse,
    Reply,
    Request,
    Route,
    Routes,
    Serve,
    Settle,
    Subscribe,
    Subscribed,
    Transact,
    Unserve,
    Unsubscribe,
    Welcome,
    Window,
)


class Node:
    """The machine behind ``meshmq node``.

    Args:
        state: what the log holds; the node takes a copy of what it needs.
        name, mesh, software: for the handshake.
        tools: the codec's functions.
        entropy: makes topic ids, hand-out numbers and jitter.
        recent_bytes: newest commits kept in memory for subscribers a little behind.
        queue_bytes: transient records that wait for one subscriber.
        budget_bytes: records that wait for their sync.
        delivered_bytes: records sent to all subscribers and not acknowledged.
        more_status: what the shell adds to ``status``.
        site: what the node is in its site; None: it is alone.
    """

    def __init__(
        self,
        state: LogState,
        *,
        name: str,
        mesh: str,
        software: str,
        tools: BatchTools,
        entropy: random.Random,
        recent_bytes: int = limits.RECENT_BYTES_MAX,
        queue_bytes: int = limits.TRANSIENT_QUEUE_BYTES_MAX,
        budget_bytes: int = limits.UNSYNCED_BYTES_MAX,
        delivered_bytes: int = limits.DELIVERED_BYTES_MAX,
        more_status: Callable[[], dict[str, Any]] = dict,
        site: SiteIdentity | None = None,
    ) -> None:
        self.origin = state.origin
        self.name = name
        self.mesh = mesh
        self.software, self.more_status = software, more_status
        self.topics = Topics(state, entropy)
        self.admission = Admission(budget_bytes)
        self._tools = tools
        self.delivery = Delivery(self.topics, state.next_lsn, recent_bytes, queue_bytes)
        self.sessions = Sessions(self.delivery, delivered_bytes)
        self.peers = self.sessions.by_link
        self.drain = drain.Drain(self)
        self.groups = Groups(state, self.topics, self.delivery, tools, entropy, self.admission)
        self.streams = Streams(state, self.topics, tools.check, self.admission, self.groups.intake)
        self.transients = Transients()
        self.reads = SiteReads(self.origin, self.delivery)
        self.registrar: Registrar | None = None
        if site is not None or state.directory:
            self.registrar = Registrar(state, name, self.topics, self.groups, self._forget_topics)
        self.introductions = Introductions(lambda name: self.services.by_name[name].instances)
        self.services = Services(
            self.sessions.unacked_of, lambda: self.delivery.is_crowded, self.introductions.asked
        )
        self.site: Site | None = None
        if site is not None and self.registrar is not None:
            who = NodeIdentity(self.origin, mesh, name, software)
            of_log = (self.topics, self.delivery, self.admission, tools, self.groups)
            copies = SiteCopies(state, site.copies, *of_log, site.renew)
            parts = (self.delivery, self.reads, self.services, self.groups, self._command_here,
                     self.transients, copies, entropy, self.registrar, self.topics)  # fmt: skip
            self.site = Site(site, who, self.sessions, *parts)
        clerk = Clerk(self.groups, self.topics, self.registrar)
        self._desk = commands.Desk(
            self.topics, self.delivery, clerk, self.status,
            lambda: (self.site or self).services.describe(self._now_ns),
            lambda: routes.describe(self.peers, self.transients, self.introductions),
            lambda *what: of_copies(self.site, what, self.groups.shared.wall_now_ms, self._now_ns),
            self.registrar, self.streams.learn,
        )  # fmt: skip
        self.bad_frames = self.refused_sessions = self.sessions_opened = 0
        self._retention_ns = 0
        self._retention_planned = True
        self._entries: list[Entry] = []
        self._answers: list[tuple[bytes, Body]] = []
        self._ticket = 0
        self._committed = 0
        self._after: dict[int, list[tuple[bytes, Body]]] = {}
        # Records of transactions, and copies: (ticket, link or origin, bytes).
        self._transacted: deque[tuple[int, bytes, int]] = deque()
        self._confirms: dict[bytes, list[Confirmation]] = {}
        self._busy: set[bytes] = set()
        self._dirty: dict[int, Subscription] = {}
        self._now_ns = 0

    # -- events -----------------------------------------------------------------------------

    def handle(self, event: NodeEvent, now_ns: int) -> list[NodeEffect]:
        """Take one event; return what to do now. Never raises for what a peer sends.

        ``end_turn`` gives the rest: call it once the events at hand are handled.
        """
        self.groups.shared.now_ns = self._now_ns = now_ns
        match event:
            case FrameReceived(link, envelope):
                self._on_frame(link, envelope, now_ns)
            case Committed(ticket, commits):
                self._on_committed(ticket, commits, now_ns)
            case ReadDone(reader, batches, lsn, slot):
                self.delivery.on_read(reader, batches, lsn, slot)
            case TimerFired():
                self._on_timer(now_ns)
            case BadFrameReceived(link, reason):
                self._on_bad_frame(link, reason, now_ns)
            case LinkClosed(link, reason):
                if self.site is not None and link in self.site.links.by_name:
                    self.site.on_closed(link, reason, now_ns)
                self._drop(link, now_ns)
            case PeerSighted(sight):
                if self.site is not None:
                    self.site.on_sight(sight, now_ns)
            case ListenerCut():
                if self.site is not None:
                    self.site.probe(now_ns)
            case StorageMeasured(free, reserve):
                self.admission.on_measured(free, reserve)
                self.groups.on_room()
            case RetentionPlanned(trims):
                self._retention_planned = True
                self._entries += [TrimEntry(*trim) for trim in trims]
                self._entries += self.groups.trims()
            case Surveyed(number, lsn, rows):
                self.groups.on_surveyed(number, lsn, rows)
            case WallClock(wall_ns):
                self.groups.set_wall(wall_ns, now_ns)
                if self.registrar is not None:
                    self.registrar.set_wall(wall_ns, now_ns)
        return self._deliver(now_ns)

    def next_deadline_ns(self) -> int:
        """When TimerFired is due."""
        due = self._retention_ns
        for more in (
            self.sessions.next_deadline_ns(),
            self.groups.next_deadline_ns(),
            self.services.next_deadline_ns(),
            self.transients.next_deadline_ns(),
            self.introductions.next_deadline_ns(),
            self.reads.next_deadline_ns(),
            self.drain.next_deadline_ns(),
            None if self.site is None else self.site.next_deadline_ns(),
        ):
            if more is not None and more < due:
                due = more
        return due

    def _on_frame(self, link: bytes, envelope: Envelope, now_ns: int) -> None:
        body = envelope.body
        if self.site is not None and self.site.takes(link, body):
            self.site.receive(link, envelope, now_ns)
            return
        peer = self.peers.get(link)
        if isinstance(body, Hello) and (peer is None or peer.session.id != envelope.session):
            self._on_hello(link, envelope.session, body, now_ns)
            return
        if peer is None or peer.session.id != envelope.session:
            # A session of an earlier life of this node, or one given up: say so, so that the
            # client need not wait for silence.
            if not isinstance(body, Refuse):
                refusal = Refuse("link-lost", "the node does not know this session")
                self.sessions.effects.append(Send(link, Envelope(envelope.session, 0, 0, refusal)))
            return
        received = peer.session.receive(envelope, now_ns)
        self.sessions.receive(peer)
        if link in self.transients.telling:
            self.transients.on_acked(link, peer.session.acked)
        if received is not None:
            try:
                self._on_body(peer, received, now_ns)
            except BadFrame as error:
                self._on_bad_frame(link, str(error), now_ns)

    def _on_hello(self, link: bytes, session: int, hello: Hello, now_ns: int) -> None:
        refusal, sibling = self._judge(link, hello)
        if refusal is not None:
            self.refused_sessions += 1
            self.sessions.effects.append(Send(link, Envelope(session, 0, 0, refusal)))
            return
        self._drop(link, now_ns)
        other = self.sessions.of_producer(hello.producer)
        if sibling is not None:
            self._drop(sibling.link, now_ns)
        elif other is not None:
            if other.hello.instance != hello.instance:
                reason = "another program connected with the same producer name"
                self.sessions.end_now(other, Refuse("producer-fenced", reason), now_ns)
            self._drop(other.link, now_ns)
        welcome = Welcome(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, self.origin, self.name, self.software,
            self.admission.window_bytes, node=self.site.facts if sibling and self.site else None,
            site="" if self.site is None else self.site.me.site,
        )  # fmt: skip
        peer = Peer(link, Session(session, welcome, now_ns), hello, sibling=sibling)
        self.sessions.add(peer)
        if sibling is not None and self.site is not None:
            self.site.open(peer, now_ns)
            return
        self.sessions_opened += 1
        self.introductions.join(link, hello)
        if self.site is not None:
            self.site.signposts.join(link, now_ns)

    def _judge(self, link: bytes, hello: Hello) -> tuple[Refuse | None, Sibling | None]:
        """Why there is to be no session, or the node it is with, if it is one."""
        if hello.node is not None or is_of_nodes(link):
            return judge_node(self.site, link, hello, self.name)
        return judge_client(hello, self.mesh, len(self.peers)) or self.drain.refuses(hello), None

    def _on_body(self, peer: Peer, body: Body, now_ns: int) -> None:
        link = peer.link
        if self.site is not None and self._on_site_body(self.site, peer, body, now_ns):
            return
        match body:
            case Publish():
                self._on_publish(peer, body)
            case Credit(number, size, records):
                self.reads.grant(link, number, size, records)
            case Subscribe():
                self._on_subscribe(peer, body, now_ns)
            case Unsubscribe(number):
                self.reads.close(link, number)
                self.delivery.unsubscribe(link, number)
                self.transients.release(link, number)
            case Routes():
                self._on_routes(peer, body)
            case Settle() | Consume() | Leave():
                self.groups.members.on_body(link, peer.hello, body, now_ns)
            case Request():
                self.services.on_request(link, body, now_ns)
            case Reply():
                self.services.on_reply(link, body, now_ns)
            case Cancel():
                self.services.on_cancel(link, body)
            case Grant():
                self.services.on_grant(link, body)
            case Serve():
                # What is to get no more for a while gets nothing behind the answer.
                self._send_answers(self.services.take_sends(), now_ns)
                peer.session.send(self.services.serve(link, peer.hello.name, body, now_ns), now_ns)
                self.introductions.served(link, body.service)
            case Unserve():
                # Nothing comes behind the answer: what was handed to it in this turn goes before.
                self._send_answers(self.services.take_sends(), now_ns)
                peer.session.send(self.services.unserve(link, body, now_ns), now_ns)
            case Transact():
                done, size = transact(
                    link, body.instance if peer.sibling else peer.hello.instance, body, self.groups,
                    self.topics, self.admission, self._tools,
                )  # fmt: skip
                if size:
                    self.admission.accepted(link, size)
                    self._transacted.append((self._ticket + 1, link, size))
                self._answers.append((link, done))
            case Command() if body.verb in drain.VERBS:
                self.drain.on_command(link, body, now_ns)
            case Command():
                self._on_command(link, peer.hello, body, now_ns)
            case _:
                pass  # Refuse has closed the session; the rest is not for a node.

    def _command_here(self, link: bytes, hello: Hello, body: Command) -> None:
        self._on_command(link, hello, body, self._now_ns)

    def _on_command(self, link: bytes, hello: Hello, body: Command, now_ns: int) -> None:
        done = commands.carry_out(
            self._desk, self.groups, self._forget_topics, link, hello, body, self._entries
        )
        if done.result is not None and done.waits:
            self._answers.append((link, done.result))
        elif done.result is not None:
            self.sessions.send(link, done.result, now_ns)

    def _forget_topics(self, deleted: list[str]) -> None:
        if deleted:
            self.groups.forget_streams()
        for name in deleted:
            self.transients.want(name)  # what is made anew may be durable

    def _on_subscribe(self, peer: Peer, body: Subscribe, now_ns: int) -> None:
        link, number, instance = peer.link, body.subscription, peer.hello.instance
        self.transients.release(link, number)  # every Subscribe is answered, in order
        self._send_released(now_ns)
        of_node = peer.sibling is not None
        answer = self.delivery.subscribe(link, body, self.origin, instance, of_node)
        waits: dict[bytes, int] = {}
        if not answer.code:
            wall_ns = now_ns + self.groups.shared.wall_offset_ns
            answer = replace(answer, time_ns=wall_ns)
            if not of_node:
                self.reads.subscribe(link, body, wall_ns, now_ns)
        if not answer.code and body.only != DURABLE_ONLY:
            for publisher in self.transients.routing_to(link, instance, number):
                self._mark(Route(instance, (number,)), publisher)  # of whom it gets nothing here
            waits = self.transients.want(body.pattern, instance, number)
            if self.site is not None:
                waits |= self.site.unnoted(now_ns)
        if waits:
            self.transients.hold(link, answer, waits, now_ns)
            self.delivery.hold(link, number)
            return
        self._answer(link, answer, now_ns)

    def _answer(self, link: bytes, answer: Subscribed, now_ns: int) -> None:
        """Answer a subscription, and begin to feed it, unless that waits for other nodes."""
        if self.reads.holds(link, answer, now_ns):
            self.delivery.hold(link, answer.subscription)
            return
        self._send_answers(self.reads.take_sends(), now_ns)  # whose node is away comes before it
        self.sessions.send(link, answer, now_ns)
        if not answer.code:
            self.delivery.feed_number(link, answer.subscription)

    def _on_site_body(self, site: Site, peer: Peer, body: Body, now_ns: int) -> bool:
        if peer.sibling is None:
            return site.on_program(peer, body, now_ns)
        if isinstance(body, Deliver) and body.subscription == 0:
            for row, data, abroad in site.take(peer.sibling, body):
                self._pass_on_from(row, data, abroad)
            return True
        return site.on_body(peer, body, now_ns)

    def _pass_on_from(self, row: DeliverBatch, data: bytes, abroad: Takers) -> None:
        """What a client of another node has published goes to our clients, and to ``abroad``."""
        topic = self.topics.by_name.get(row.topic)
        if topic is None:
            transient = RuleEntry(row.topic, False, 0, 0)
            topic = self.topics.create(row.topic, self._entries, transient, told=False)
        self.delivery.queue(abroad, row, data)
        self._dirty |= {id(sub): sub for sub in abroad}
        if row.missing and not row.source:
            self.delivery.lose(topic, row.count, row.site)
            return
        for sub in self.delivery.on_transient(topic, row, data):
            self._dirty[id(sub)] = sub

    def _send_released(self, now_ns: int) -> None:
        """Answers that have waited, and what has waited behind them."""
        released, self.transients.released = self.transients.released, []
        for link, answer in released:
            self._answer(link, answer, now_ns)
        released, self.reads.released = self.reads.released, []
        for link, answer in released:
            self.sessions.send(link, answer, now_ns)
            self.delivery.feed_number(link, answer.subscription)

    def _on_routes(self, peer: Peer, body: Routes) -> None:
        for route in self.transients.on_routes(peer.link, body):
            self._mark(route, peer.link)

    def _mark(self, route: Route, publisher: bytes) -> None:
        for sub in self.delivery.mark(route, self.peers[publisher].hello.instance):
            self._dirty[id(sub)] = sub

    def _on_publish(self, peer: Peer, body: Publish) -> None:
        payload = body.payload
        alone = len(body.batches) == 1
        at = 0
        for batch in body.batches:
            producer = peer.who(batch.of_run)
            data = payload if alone else payload[at : at + batch.length]
            at += batch.length
            accepted, answer = self.streams.publish(peer.link, producer, batch, data, self._entries)
            if answer is not None and answer.duplicate and answer.durability == SYNCED:
                self._answers.append((peer.link, Confirm((answer,))))  # once that is synced
            elif answer is not None:
                if (
                    accepted is not None
                    and not self._pass_on(peer, accepted.topic, batch, data)
                    and batch.numbered
                    and batch.routed
                    and self.transients.is_unwanted(peer.link, batch.topic)
                ):
                    answer = answer._replace(unwanted=True)
                self._confirms.setdefault(peer.link, []).append(answer)
                if answer.code == "busy":
                    self._busy.add(peer.link)

    def _pass_on(self, peer: Peer, topic: Topic, batch: PublishBatch, data: bytes) -> bool:
        """Queue a transient batch; whether somebody gets it."""
        first, source = (batch.first, peer.hello.instance) if batch.numbered else (0, b"")
        row = DeliverBatch(
            batch.topic, first, batch.count, batch.length, batch.checksum, 0, 0, 0, False, False,
            source,
        )  # fmt: skip
        without = self.transients.direct(peer.link) if batch.routed else NOBODY
        subs = self.delivery.on_transient(topic, row, data, without)
        for sub in subs:
            self._dirty[id(sub)] = sub
        abroad = () if self.site is None else self.site.wanting(batch.topic)
        self.delivery.queue(abroad, row, data)
        self._dirty |= {id(sub): sub for sub in abroad}
        if batch.numbered and subs:
            unmet = self.introductions.unmet(peer.link, subs)
            if unmet and self._is_for_few(topic):
                self.introductions.published(peer.link, unmet)
        return bool(subs or abroad)

    def _is_for_few(self, topic: Topic) -> bool:
        """Whether so few programs want it that it may go to them directly."""
        subs = self.delivery.subscribed_to(topic)
        return len({sub.instance for sub in subs}) <= limits.DIRECT_FANOUT_MAX

    def _on_committed(self, ticket: int, commits: tuple[Commit, ...], now_ns: int) -> None:
        is_first = not self._confirms
        for commit in commits:
            for link, confirmation in self.streams.on_commit(commit):
                self._confirms.setdefault(link, []).append(confirmation)
        if is_first:  # else refusals are among them, which come after the windows of the turn
            self._confirm(now_ns)
        for commit in commits:
            self.groups.on_commit(commit)
            self.delivery.on_commit(commit)
            if self.site is not None:
                self.site.copies.on_commit(commit)
        self._committed = ticket
        while self._transacted and self._transacted[0][0] <= ticket:
            _, link, size = self._transacted.popleft()
            self.admission.synced(link, size)
        self.groups.on_room()
        for done in [t for t in self._after if t <= ticket]:
            self._send_answers(self._after.pop(done), now_ns)

    def _send_answers(self, answers: Sequence[tuple[bytes, Body]], now_ns: int) -> None:
        for link, body in answers:
            self.sessions.send(link, body, now_ns)

    def _on_timer(self, now_ns: int) -> None:
        self.sessions.tick(now_ns)
        self.groups.tick(now_ns)
        self.services.tick(now_ns)
        self.transients.tick(now_ns)
        self.introductions.tick(now_ns)
        self.reads.tick(now_ns)
        if self.site is not None:
            self.site.tick(now_ns)
        if now_ns >= self._retention_ns:
            self._retention_ns = now_ns + limits.RETENTION_INTERVAL_NS
            if self._retention_planned:
                self._retention_planned = False
                self.sessions.effects.append(PlanRetention())

    def _on_bad_frame(self, link: bytes, reason: str, now_ns: int) -> None:
        self.bad_frames += 1
        if self.site is not None and link in self.site.links.by_name:
            self.site.on_bad_frame(link, reason, now_ns)
            return
        peer = self.peers.get(link)
        refusal = Refuse("bad-frame", reason)
        if peer is not None:
            self.sessions.end(peer, refusal, now_ns)
        else:
            self.sessions.effects.append(Send(link, Envelope(0, 0, 0, refusal)))

    def _drop(self, link: bytes, now_ns: int) -> None:
        peer = self.sessions.remove(link)
        if peer is not None:
            self.reads.drop_link(link)
            self.delivery.drop_link(link)
            self.groups.members.drop_link(link, now_ns)
            self.services.drop_link(link, now_ns)
            self.introductions.drop_link(link)
            self.transients.drop_link(link)
            if self.site is not None:
                self.site.on_dropped(peer, now_ns)
            self.sessions.effects.append(CloseLink(link))

    # -- after each event, and after each turn ------------------------------------------------

    def _deliver(self, now_ns: int) -> list[NodeEffect]:
        """Deliveries and answers leave at once: somebody waits for them."""
        delivery = self.delivery
        if self._dirty:
            for sub in self._dirty.values():
                delivery.flush(sub)
            self._dirty = {}
            for sub in delivery.overfull:
                self.transients.release(sub.link, sub.number)
            delivery.overfull = []
        delivery.feed_denied()
        self.groups.feed_denied()
        self._send_deliveries(now_ns)
        return self._take_effects(now_ns)

    def _send_deliveries(self, now_ns: int) -> None:
        if self.transients.released or self.reads.released:
            self._send_released(now_ns)
        self.reads.pump()
        self._send_answers(self.reads.take_sends(), now_ns)
        sends, self.delivery.sends = self.delivery.sends, []
        self._send_answers(sends, now_ns)

    def end_turn(self, now_ns: int) -> list[NodeEffect]:
        """What a turn of one or many events gathered goes together: one append, one read for each
        subscription that wants one, one frame of confirmations for each producer."""
        groups = self.groups
        groups.pump(now_ns)
        if self.site is not None:
            self.site.end_turn(now_ns)
        if self.registrar is not None:
            self._entries += self.registrar.take_entries()
        moved = groups.entries(self._entries)
        if self.site is not None:
            moved += self.site.copies.end_turn(self._entries, self.streams)
        if moved:
            self.admission.accepted(self.origin, moved)
            self._transacted.append((self._ticket + 1, self.origin, moved))
        if groups.answers:
            self._answers += groups.answers
            groups.answers = []
        is_asking = self.site is not None and self.site.copies.own.is_asking
        if self._entries and not is_asking:
            self._ticket += 1
            self.sessions.effects.append(Append(self._ticket, tuple(self._entries)))
            self._entries = []
        if self._answers and not is_asking:
            if self._ticket > self._committed:
                self._after.setdefault(self._ticket, []).extend(self._answers)
            else:
                self._send_answers(self._answers, now_ns)
            self._answers = []
        if groups.sends:
            self._send_answers(groups.sends, now_ns)
            groups.sends = []
        if groups.effects:
            self.sessions.effects += groups.effects
            groups.effects = []
        self._tell_windows(now_ns)
        self._confirm(now_ns)
        if self.transients.wanted:
            self._tell_wanted(now_ns)
        self._send_of_services(now_ns)
        if self.introductions.changed:
            self._send_answers(self.introductions.take_sends(now_ns), now_ns)
        if self.delivery.reads:
            self.sessions.effects += self.delivery.reads
            self.delivery.reads = []
        self.drain.look(self.streams.has_unsynced or self.services.has_requests, now_ns)
        if self.site is not None:
            self.site.flush(now_ns)
        return self._take_effects(now_ns)

    def _tell_wanted(self, now_ns: int) -> None:
        """Behind the confirmations that say the contrary."""
        for link, frames in self.transients.take_wanted():
            self._send_answers([(link, frame) for frame in frames], now_ns)
            self.transients.sent(link, self.peers[link].session.sent)

    def _send_of_services(self, now_ns: int) -> None:
        services = self.services
        services.pump(now_ns)
        self._send_answers(services.take_sends(), now_ns)
        while services.outgoing.laggards:
            for link, reason in list(services.outgoing.laggards.items()):
                self.sessions.end_now(self.peers[link], Refuse("busy", reason), now_ns)
                self._drop(link, now_ns)
            self._send_answers(services.take_sends(), now_ns)  # who worked for it is told
            self._send_deliveries(now_ns)  # so are those whose answers waited for it

    def _confirm(self, now_ns: int) -> None:
        waiting, self._confirms = self._confirms, {}
        for link, rows in waiting.items():
            for frame in confirms(rows):
                self.sessions.send(link, frame, now_ns)

    def _tell_windows(self, now_ns: int) -> None:
        """Before the refusals of the same turn, so that a producer waits before it sends again."""
        window = self.admission.new_window()
        if window is not None:
            for link in self.sessions.producers.values():
                self.sessions.send(link, window, now_ns)
        if self._busy:
            pause = Window(self.admission.window_bytes, limits.BUSY_RETRY_NS)
            for link in sorted(self._busy):
                self.sessions.send(link, pause, now_ns)
            self._busy.clear()

    def _take_effects(self, now_ns: int) -> list[NodeEffect]:
        sessions = self.sessions
        while sessions.has_news:
            over = sessions.flush()
            for link in over:
                self._drop(link, now_ns)
            if over:
                self._send_of_services(now_ns)  # who waits for what it had is told at once
                self._send_deliveries(now_ns)
        effects, sessions.effects = sessions.effects, []
        return effects

    @property
    def has_unsynced(self) -> bool:
        """Whether accepted records wait for their sync."""
        return self.streams.has_unsynced or self._ticket > self._committed

    def held_bytes(self) -> int:
        """About how much memory the node's data takes, for the shell to compare with the rest."""
        return node_status.held_bytes(self)

    def goodbye(self, now_ns: int) -> list[NodeEffect]:
        """The node ends in order: tell every client, and the other nodes."""
        if self.site is not None:
            self.site.goodbye(now_ns)
        for peer in list(self.peers.values()):
            self.sessions.end(peer, None, now_ns)
        return self._take_effects(now_ns)

    def status(self) -> dict[str, Any]:
        """Every counter there is."""
        return node_status.describe(self)
