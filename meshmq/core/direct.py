"""One program among others: links, interests, records, requests put together.

It routes; the parts decide. The program's own side speaks the same frames as to a node: what it
sends comes in by ``publish``, ``subscribe``, ``ask`` ..., what is for it gathers in ``own``.

Way of a record: publish -> Outlets (a row for each program that wants it) -> session; there
session -> Inlets (numbers, who of the program wants it) -> Arrived.
Way of a request: ask -> Services, of this program: who serves, who has the least -> session; there
session -> Relay (whose it is) -> Responder; and back.

A node that the program is at is one more whom records and requests come from and go to (NODE):
what is for it gathers in ``to_node``, for the owner, who has that session. Each linked program that
is at the same node has what is published directly, unless its link does not acknowledge for
ROUTE_SILENT_NS: then by the node, until it does again.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core.demand import Demand
from meshmq.core.discovery import GOSSIP, PEERS, Discovery, Sighted
from meshmq.core.gossip import Gossip
from meshmq.core.inlets import Inlets
from meshmq.core.interests import Wishes
from meshmq.core.links import Link, Links
from meshmq.core.outlets import NODE, Outlets
from meshmq.core.permits import Permit, Permits
from meshmq.core.pushes import Decode, Pick, Pushes
from meshmq.core.relay import Relay
from meshmq.core.routing import Routing, to_publish
from meshmq.core.services import Services
from meshmq.errors import BadFrame, LimitReached
from meshmq.frames import (
    PULL,
    SERVICE,
    SUBSCRIPTION,
    Body,
    Cancel,
    Confirm,
    Credit,
    Deliver,
    Envelope,
    Grant,
    Hello,
    Interest,
    Interests,
    Introduce,
    Known,
    Noted,
    PeerFacts,
    Publish,
    Refuse,
    Reply,
    Request,
    Serve,
    Served,
    Subscribed,
    Unserve,
)
from meshmq.names import pushed_topic

OWN = b"own"
"""Stands for the program itself where others are named by their link."""


class Tools(NamedTuple):
    """The codec's functions that are used here."""

    decode: Decode
    pick: Pick


class Direct:
    """See the module's header.

    Args:
        hello: what we say of ourselves.
        tools: the codec's.
        entropy: chooses session numbers, spreads dials.
        insecure: dial beyond this host, if the mesh is not ``local``.
        uses_nodes: dial nodes, too; whoever owns this is told of those that answer.
        is_strict: talk only to those whom the node introduces; see Permits.

    Attributes:
        own: frames for the program, in order.
        routing: which way is taken; what is for the node gathers there.
        returned: requests of the program that are to be asked again by the node.
        news: programs that have come or gone, in words.
    """

    def __init__(
        self,
        hello: Hello,
        tools: Tools,
        entropy: random.Random,
        insecure: bool = False,
        uses_nodes: bool = True,
        is_strict: bool = False,
    ) -> None:
        kinds = ("client", "node") if uses_nodes else ("client",)
        discovery = Discovery(hello.instance, hello.mesh, entropy, kinds, insecure)
        self.links = Links(hello, discovery, entropy)
        if is_strict:
            self.links.permits = Permits()
        self.outlets = Outlets()
        self.inlets = Inlets()
        self.pushes = Pushes(tools.decode, tools.pick)
        self.wishes = Wishes()
        self.services = Services(self._unacked_of, self._is_crowded)
        self.relay = Relay()
        self.gossip = Gossip(discovery, hello.mesh)
        self.own: list[Body] = []
        self.news: list[str] = []
        self.routing = Routing(hello.instance, self.outlets)
        self.returned: list[int] = []
        self._timed = (
            self.outlets, self.inlets, self.pushes, self.wishes, self.services, self.gossip,
        )  # fmt: skip
        self._by_link: dict[bytes, Link] = {}  # those that count
        self.demand = Demand(self.outlets, self.pushes, self.services)
        self.outlets.join(OWN)
        self.inlets.join(OWN, hello.instance)

    # -- the node -----------------------------------------------------------------------------

    def attach(self, origin: bytes, window_bytes: int, now_ns: int) -> None:
        """There is a session with a node."""
        self.routing.attach(origin, window_bytes)
        self._move(origin, now_ns)

    def detach(self, now_ns: int) -> None:
        """It is over."""
        if self.routing.node:
            self.routing.detach()
            self._watch(now_ns)
            self._to_responder(self.relay.leave(NODE))
            self._move(b"", now_ns)

    def _move(self, origin: bytes, now_ns: int) -> None:
        self.inlets.on_node(origin)
        self.inlets.on_their_node(OWN, origin)
        self._tell_all(self.wishes.moved(origin), now_ns)

    def introduce(self, frame: Introduce, now_ns: int) -> None:
        """The node says that we may talk to another program directly, and where it is."""
        links = self.links
        link = links.by_instance.get(frame.instance)
        before = links.permit_of(link) if link is not None else None
        if not links.introduce(frame, self.routing.node, now_ns):
            return
        facts = PeerFacts(
            frame.instance, "client", links.hello.mesh, frame.name, addresses=frame.addresses
        )
        links.tell(Sighted(GOSSIP, facts, self.routing.node), now_ns)
        if link is not None and before is not None and link.name in self._by_link:
            self._show(link, before, now_ns)
            self._confine(link, now_ns)
            try:
                self._take_early(link, now_ns)
            except LimitReached as error:
                links.refuse(link, Refuse(error.code, str(error)), now_ns)

    def _take_early(self, link: Link, now_ns: int) -> None:
        interests, credit = self.demand.take_early(link.name)
        for early in interests:
            self._on_interests(link, early, now_ns)
        for more in credit:
            self._on_credit(link.name, more, now_ns)

    def _on_credit(self, name: bytes, credit: Credit, now_ns: int) -> None:
        number, size, records = credit.subscription, credit.bytes, credit.records
        if not self.outlets.grant(name, number, size, records) and not self.pushes.grant(
            name, number, size, records, now_ns
        ):
            self.demand.keep_credit(name, credit)

    def _confine(self, link: Link, now_ns: int) -> None:
        """Let a program have no more than it may. It may be allowed more again before it has heard
        that it was less: what it gave credit for is kept."""
        for interest in self.demand.known(link.name):
            is_allowed = self.links.may_know(link, interest)
            if interest.kind == SUBSCRIPTION:
                self.outlets.withhold(link.name, interest.number, not is_allowed)
                change = self.routing.note if is_allowed else self.routing.forget
                change(link.name, (interest.number,))
            elif not is_allowed:
                self.demand.lose(link.name, interest.number, now_ns)

    def _show(self, link: Link, before: Permit, now_ns: int) -> None:
        """Let a program know what it may, where that is not what it was."""
        changed = self.wishes.changed(before, self.links.permit_of(link) or before)
        if changed is None:
            return
        self.links.send(link, changed, now_ns)
        for number in changed.remove:
            self.inlets.hide(link.name, number, changed.version)
        for interest in changed.add:
            self.inlets.show(link.name, interest.number, changed.version)

    def on_node_request(self, body: Request | Cancel | Grant, now_ns: int) -> None:
        """What the node says of requests to the program."""
        match body:
            case Request():
                self.relay.request(NODE, body, now_ns)
            case Cancel():
                self._to_responder(self.relay.cancel(NODE, body))
            case Grant():
                self._to_responder(self.relay.grant(NODE, body))

    def serves(self, service: str) -> bool:
        """Whether an instance that is linked, or our own, may take a request now."""
        found = self.services.by_name.get(service)
        return found is not None and any(
            not (i.draining or i.link in self.routing.silent) for i in found.instances.values()
        )

    def _watch(self, now_ns: int) -> None:
        """Who does not answer is reached by the node, if he is there."""
        for name, is_silent in self.routing.turned(now_ns):
            if is_silent:
                self._fall_silent(name, now_ns)
            else:
                self._hear(name, now_ns)

    def _fall_silent(self, name: bytes, now_ns: int) -> None:
        self._route_records(now_ns)  # what was published before goes as it was to go
        self.routing.fall_silent(name)
        self.services.hold(name)
        self.returned += self.services.withdraw(name)
        who = self._by_link[name].facts.name or "?"
        self.news.append(f"{who} does not answer directly: by the node")

    def _hear(self, name: bytes, now_ns: int) -> None:
        self._route_records(now_ns)
        self.routing.hear(name)
        self.news.append(f"{self._by_link[name].facts.name or '?'} answers directly again")

    # -- the program's side -------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        """The program is there: requests for what nobody serves yet wait a moment from now on."""
        self.services.tick(now_ns)

    def look_for(self, addresses: tuple[str, ...], now_ns: int) -> None:
        """Dial these, for as long as the program lives."""
        self.links.tell(Sighted(PEERS, PeerFacts(addresses=addresses)), now_ns)

    def publish(self, frame: Publish, now_ns: int) -> None:
        """Send to all who want it, or push to one."""
        alone = len(frame.batches) == 1
        at = 0
        for row in frame.batches:
            data = frame.payload if alone else frame.payload[at : at + row.length]
            at += row.length
            if row.topic.startswith("$") and pushed_topic(row.topic):
                self.pushes.push(row, data, now_ns)
            else:
                self.outlets.publish(row, data, now_ns, by_node=not row.routed)

    def subscribe(self, number: int, pattern: str, size: int, records: int, now_ns: int) -> None:
        """Open a subscription; the answer is Subscribed."""
        self._wish(Interest(number, SUBSCRIPTION, pattern), Subscribed(number), now_ns)
        if number in self.wishes.by_number:
            version = self.wishes.version
            hidden = self._hidden_from(Interest(number, SUBSCRIPTION, pattern))
            self.inlets.open(number, pattern, False, version, size, records, hidden)
            self.outlets.want(OWN, number, pattern)
            rows = tuple(self.outlets.next_numbers([pattern]))
            self.inlets.on_noted(OWN, Noted(version, False, rows), now_ns, waits=False)

    def pull(self, number: int, pattern: str, size: int, records: int, now_ns: int) -> None:
        """Open a pull; the answer is Subscribed."""
        self._wish(Interest(number, PULL, pattern), Subscribed(number), now_ns)
        if number in self.wishes.by_number:
            self.pushes.want(OWN, number, pattern)
            hidden = self._hidden_from(Interest(number, PULL, pattern))
            self.inlets.open(number, pattern, True, self.wishes.version, size, records, hidden)

    def close(self, number: int, now_ns: int) -> None:
        """End a subscription or pull."""
        self._unwish(number, None, now_ns)
        self.outlets.unwant(OWN, number)
        self.pushes.unwant(OWN, number)
        self.inlets.close(number)

    def serve(self, name: str, frame: Serve, now_ns: int) -> None:
        """Register an instance; the answer is Served."""
        served = self.services.serve(OWN, name, frame, now_ns)
        if served.code:
            self.own.append(served)
            return
        self.relay.open(frame.registration, frame.concurrency)
        number, service = frame.registration, frame.service
        self._wish(Interest(number, SERVICE, service, frame.concurrency), served, now_ns)

    def unserve(self, frame: Unserve, now_ns: int) -> None:
        """End an instance; the answer is Served."""
        self._route(now_ns)  # what was handed to it in this turn goes before
        self.relay.close(frame.registration)
        served = self.services.unserve(OWN, frame, now_ns)
        self._unwish(frame.registration, served, now_ns)

    def _wish(self, interest: Interest, answer: Subscribed | Served, now_ns: int) -> None:
        links = [link for link in self._by_link.values() if self.links.may_know(link, interest)]
        names = {link.name for link in links}
        try:
            frame = self.wishes.add(interest, answer, names, now_ns)
            for link in links:
                self.links.send(link, frame, now_ns)
        except LimitReached as error:
            number = interest.number
            if isinstance(answer, Served):
                self.services.unserve(OWN, Unserve(number), now_ns)
                self.own.append(Served(number, error.code, str(error)))
            else:
                self.own.append(Subscribed(number, error.code, str(error)))

    def _hidden_from(self, interest: Interest) -> list[bytes]:
        """Links that may not know of it."""
        links = self._by_link.values() if self.links.permits is not None else ()
        return [link.name for link in links if not self.links.may_know(link, interest)]

    def _may_act(self, link: Link, number: int) -> bool:
        """Whether it may send what is for this interest of ours; one that is over matters not."""
        interest = self.wishes.by_number.get(number)
        return interest is None or self.links.may_know(link, interest)

    def _unwish(self, number: int, answer: Served | None, now_ns: int) -> None:
        frame = self.wishes.remove(number, answer, set(self._by_link), now_ns)
        if frame is not None:
            self._tell_all(frame, now_ns)
        elif answer is not None:
            self.own.append(answer)

    def _tell_all(self, body: Body, now_ns: int) -> None:
        for link in self._by_link.values():
            self.links.send(link, body, now_ns)

    def ask(self, frame: Request, now_ns: int) -> None:
        """Requests of the program."""
        self.services.on_request(OWN, frame, now_ns)

    def cancel(self, frame: Cancel) -> None:
        """It waits for these no longer."""
        self.services.on_cancel(OWN, frame)

    def grant(self, frame: Grant) -> None:
        """It has taken so much of a stream."""
        self.services.on_grant(OWN, frame)

    def reply(self, frame: Reply, now_ns: int) -> None:
        """What its responder answers."""
        for link, reply in self.relay.reply(frame, now_ns):
            self._send_reply(link, reply, now_ns)

    def _send_reply(self, name: bytes, reply: Reply, now_ns: int) -> None:
        if name == OWN:
            self.services.on_reply(OWN, reply, now_ns)
        elif name == NODE:
            self.routing.to_node.append((reply, []))
        else:
            link = self._by_link.get(name)
            if link is not None:
                self.links.send(link, reply, now_ns)

    # -- events -------------------------------------------------------------------------------

    def on_frame(self, name: bytes, envelope: Envelope, now_ns: int) -> None:
        """Take a frame of another program. Never raises for what it sends."""
        found = self.links.receive(name, envelope, now_ns)
        if self.links.joined or self.links.left:
            self._meet(now_ns)
        link = self._by_link.get(name)
        if link is None:
            return
        self.inlets.sources[name].heard_ns = now_ns
        if name in self.routing.silent and link.session.waits_since_ns in (None, now_ns):
            self._hear(name, now_ns)
        acked = link.session.acked
        self.outlets.on_acked(name, acked)
        self.pushes.on_acked(name, acked)
        if found is not None:
            try:
                self._on_body(link, found[1], now_ns)
            except (LimitReached, BadFrame) as error:
                self.links.refuse(link, Refuse(error.code, str(error)), now_ns)

    def _on_body(self, link: Link, body: Body, now_ns: int) -> None:
        name = link.name
        match body:
            case Deliver(number):
                if self._may_act(link, number) or self.inlets.is_on_its_way(name, number):
                    self.inlets.on_deliver(name, body, now_ns)
                else:
                    raise BadFrame("records of what the node has not allowed")
                self.links.owe(link)
            case Credit():
                self._on_credit(name, body, now_ns)
            case Request(rows):
                if not all(self._may_act(link, row.registration) for row in rows):
                    raise BadFrame("requests of a service that the node has not allowed")
                at_node = self.routing.is_at_our_node(name)
                self.relay.request(name, body, now_ns, may_wait=not at_node)
            case Reply():
                self.services.on_reply(name, body, now_ns)
            case Cancel():
                self._to_responder(self.relay.cancel(name, body))
            case Grant():
                self._to_responder(self.relay.grant(name, body))
            case Interests():
                self._on_interests(link, body, now_ns)
            case Noted():
                if self.inlets.on_noted(name, body, now_ns):
                    self.wishes.on_noted(name, body.version, now_ns)
            case Known() if self.links.permits is None:
                for fact in self.gossip.hear(link.instance, body):
                    self.links.tell(fact, now_ns)
            case _:
                pass  # nothing that one program says to another

    def on_bad_frame(self, name: bytes, reason: str, now_ns: int) -> None:
        """Bytes that are no frame came."""
        self.links.on_bad_frame(name, reason, now_ns)

    def on_closed(self, name: bytes, reason: str, now_ns: int) -> None:
        """The transport says that nothing more comes over this link."""
        self.links.on_closed(name, reason, now_ns)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self.links.tick(now_ns)
        self._watch(now_ns)
        for part in self._timed:
            part.tick(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        due = self.links.next_deadline_ns()
        for part in (*self._timed, self.routing):
            more = part.next_deadline_ns()
            if more is not None and (due is None or more < due):
                due = more
        return due

    # -- coming and going ---------------------------------------------------------------------

    def _meet(self, now_ns: int) -> None:
        links = self.links
        self._route_records(now_ns)  # what was published before goes as it was to go
        while links.left or links.joined:
            left, links.left = links.left, []
            joined, links.joined = links.joined, []
            for link in left:
                self._part(link, now_ns)
            for link in joined:
                name = link.name
                self._by_link[name] = link
                self.demand.join(name)
                self.routing.join(name, link.instance, link.session)
                self.outlets.join(name)
                permit = links.permit_of(link)
                whole = self.wishes.whole()
                hidden: set[int] = set()
                if permit is not None:
                    whole = self.wishes.permitted(permit)
                    hidden = set(self.wishes.by_number) - {i.number for i in whole.add}
                links.send(link, whole, now_ns)
                self.inlets.join(name, link.instance, hidden)
                if links.permits is None:  # else each pair is introduced by the node
                    self.gossip.join(name, link.instance, now_ns)
                self.news.append(f"linked with {link.facts.name or '?'}")

    def _part(self, link: Link, now_ns: int) -> None:
        name = link.name
        if self._by_link.pop(name, None) is None:
            return
        self.demand.leave(name)
        self.outlets.leave(name)
        self.routing.leave(name)
        self.inlets.leave(name)
        self.pushes.leave(name, now_ns)
        self.services.drop_link(name, now_ns)
        self._to_responder(self.relay.leave(name))
        self.wishes.leave(name, now_ns)
        if self.links.permits is None:
            self.gossip.leave(name, now_ns)
        reason = link.session.closed_reason or "gone"
        self.news.append(f"lost {link.facts.name or '?'}: {reason}")

    def _on_interests(self, link: Link, frame: Interests, now_ns: int) -> None:
        name = link.name
        is_allowed = all(self.links.may_know(link, interest) for interest in frame.add)
        self._route_records(now_ns)  # what was published before goes as it was to go
        if frame.node != self.inlets.sources[name].node:
            self.inlets.on_their_node(name, frame.node)
            self.routing.move(name, frame.node)
        has_dropped = self.demand.drop_early(name, frame.remove)
        if self.demand.is_early(name, frame, is_allowed):
            if has_dropped:
                self._take_early(link, now_ns)  # perhaps nothing of it is forbidden any more
            return
        patterns = self.demand.take(name, link.facts.name, frame, now_ns)
        for noted in self.demand.noted(frame, patterns):
            self.links.send(link, noted, now_ns)
        self.routing.forget(name, frame.remove)
        self.routing.note(name, self.outlets.given(name))

    # -- after each turn ----------------------------------------------------------------------

    def end_turn(self, now_ns: int) -> None:
        """Send what a turn of one or many events has gathered."""
        links = self.links
        if links.joined or links.left:
            self._meet(now_ns)
        self._route(now_ns)
        for name, known in self.gossip.take():
            if name in self._by_link:
                links.send(self._by_link[name], known, now_ns)
        links.acknowledge(now_ns)
        links.flush(now_ns)
        while links.joined or links.left:  # a session has come to its end
            self._meet(now_ns)
            self._route(now_ns)
            links.flush(now_ns)
        confirmations = self.outlets.confirmations
        if self.pushes.confirmations:
            confirmations += self.pushes.confirmations
            self.pushes.confirmations = []
        if confirmations:
            self.outlets.confirmations = []
            self.own.append(Confirm(tuple(confirmations)))
        if self.wishes.answers:
            self.own += self.wishes.answers
            self.wishes.answers = []

    def _route(self, now_ns: int) -> None:
        """Give what the parts have to send to whom it is for."""
        outlets, pushes, inlets = self.outlets, self.pushes, self.inlets
        more = True
        while more:
            more = False
            if outlets.sends:
                more = True
                self._route_records(now_ns)
            if pushes.sends:
                more = True
                self._route_pushes(now_ns)
            if inlets.credits:
                more = True
                self._route_credits(now_ns)
            more = self._route_requests(now_ns) or more

    def _route_requests(self, now_ns: int) -> bool:
        """Whether something was moved that may bring about more."""
        relay, services = self.relay, self.services
        more = False
        services.pump(now_ns)
        for name, body in services.take_sends():
            if name == OWN:
                more = True
                self._to_own(body, now_ns)
            else:
                link = self._by_link.get(name)
                if link is not None:
                    self.links.send(link, body, now_ns)
        if services.outgoing.laggards:
            more = True
            for name, reason in list(services.outgoing.laggards.items()):
                self._end_session(name, Refuse("busy", reason), now_ns)
        if relay.ready:
            self.own.append(relay.take_ready())
        if relay.refused:
            more = True
            for name, reply in relay.take_refused():
                self._send_reply(name, reply, now_ns)
        return more

    def _end_session(self, name: bytes, refusal: Refuse, now_ns: int) -> None:
        """A program broke a rule, or does not keep up."""
        link = self._by_link.get(name)
        self.services.outgoing.laggards.pop(name, None)
        if link is not None:
            self.links.refuse(link, refusal, now_ns)
            self._meet(now_ns)

    def _route_records(self, now_ns: int) -> None:
        for name, frame, batches in self.outlets.take_sends():
            if name == OWN:
                self.inlets.on_deliver(OWN, frame, now_ns)
                self.outlets.settle(batches, True)
                continue
            if name == NODE:
                self.routing.to_node.append((to_publish(frame, batches), batches))
                continue
            link = self._by_link[name]
            self.links.send(link, frame, now_ns)
            if batches:
                self.outlets.sent(name, link.session.sent, batches, now_ns)

    def _route_credits(self, now_ns: int) -> None:
        for name, credit in self.inlets.take_credits():
            if name != OWN:
                link = self._by_link.get(name)
                if link is not None:
                    self.links.send(link, credit, now_ns)
            else:
                self._on_credit(OWN, credit, now_ns)

    def _route_pushes(self, now_ns: int) -> None:
        sends, self.pushes.sends = self.pushes.sends, []
        for name, frame, push in sends:
            link = self._by_link.get(name)
            if link is not None:
                self.links.send(link, frame, now_ns)
                self.pushes.sent(name, link.session.sent, push)
            elif name == OWN and frame.subscription in self.inlets.readers:
                self.inlets.on_deliver(OWN, frame, now_ns)
                self.pushes.came(push)
            else:
                self.pushes.lost(push)

    def _to_own(self, body: Body, now_ns: int) -> None:
        match body:
            case Request():
                self.relay.request(OWN, body, now_ns)
            case Cancel():
                self._to_responder(self.relay.cancel(OWN, body))
            case Grant():
                self._to_responder(self.relay.grant(OWN, body))
            case _:
                self.own.append(body)  # replies, to the requester

    def _to_responder(self, body: Cancel | Grant | None) -> None:
        if self.relay.ready:
            self.own.append(self.relay.take_ready())  # what they are about
        if body is not None:
            self.own.append(body)

    def _is_crowded(self) -> bool:
        """Whether more is on its way to all programs together than may be."""
        unacked = sum([link.session.unacked_bytes for link in self._by_link.values()])
        return unacked > limits.DELIVERED_BYTES_MAX

    def _unacked_of(self, name: bytes) -> tuple[int, int]:
        link = self._by_link.get(name)
        if link is None:
            return 0, 0
        if name in self.routing.silent:
            return limits.SESSION_UNACKED_BYTES_MAX, limits.SESSION_UNACKED_FRAMES_MAX
        return link.session.unacked_bytes, link.session.unacked_count

    def goodbye(self, now_ns: int) -> None:
        """The program ends: tell all."""
        self._route(now_ns)
        self.links.goodbye(now_ns)

    @property
    def linked(self) -> int:
        """How many programs are linked."""
        return len(self._by_link)

    def is_settled(self, addresses: tuple[str, ...]) -> bool:
        """Whether each of these has answered, and all who are linked know what we want."""
        if not self.links.answered.issuperset(addresses):
            return False
        return all(self.inlets.sources[x].version >= self.wishes.version for x in self._by_link)

    def knows_of_none(self) -> bool:
        """Whether somebody is linked, and knows what we want, and nobody linked is at a node."""
        version, linked = self.wishes.version, [self.inlets.sources[x] for x in self._by_link]
        return bool(linked) and all(x.version >= version and not x.node for x in linked)

    def peers(self) -> list[dict[str, Any]]:
        """Linked programs, as listings show them."""
        rows = []
        for name, link in self._by_link.items():
            delivered, dropped, queued = self.outlets.counts(name)
            rows.append(
                {
                    "route": "node" if name in self.outlets.over else "direct",
                    "at_node": self.routing.is_at_our_node(name),
                    "name": link.facts.name,
                    "instance": link.instance.hex(),
                    "address": link.address or None,
                    "dialled": bool(link.address),
                    "delivered": delivered,
                    "dropped": dropped,
                    "queued_bytes": queued,
                }
            )
        return rows
