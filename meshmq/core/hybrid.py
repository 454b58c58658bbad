"""A client that talks directly to other programs, and to a node where there is one.

It is a Client whose session with a node comes and goes, beside ``Direct``, which has the links to
other programs. Producer, subscriptions, requester and responder are the same for both.

States: connecting, brokerless (there was no node yet), connected, reconnecting, closed.

Rules:
1. What may be lost goes directly: topics that the node has called transient, and requests of
   services that somebody who is linked serves. The node gets the same records, for those who are
   not linked (see Outlets).
2. A topic that a node may keep goes to the node and nowhere else: one that is durable, or not known
   while there is a node, or was one. Without a node it waits, within the buffer.
3. Before there was a node everything goes directly. What only a node has is refused with the
   remedy.
4. A subscription is the node's and that of every linked program at the same time; it is open once
   all that are there have said so. So is an instance of a service.
5. What was asked directly and certainly not done, or may be done twice, is asked again by the node.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from meshmq import limits
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.direct import Direct, Tools
from meshmq.core.discovery import LinkDown, LinkUp
from meshmq.core.effects import (
    Arrived,
    ClientEffect,
    FoundNode,
    StateChanged,
    SubscriptionAnswered,
)
from meshmq.core.events import (
    BadFrameReceived,
    ClientEvent,
    FrameReceived,
    LinkClosed,
)
from meshmq.core.lanes import Lane
from meshmq.core.moving import Moving
from meshmq.core.outlets import NODE
from meshmq.core.owner_links import OWNER_LINK
from meshmq.core.publisher import EncodeBatch, EncodeJobs
from meshmq.core.requester import BY_NODE, DIRECTLY, Call
from meshmq.core.responder import Registration
from meshmq.core.session import Session
from meshmq.core.subscriber import Start, Subscriber
from meshmq.core.ways import Way
from meshmq.errors import (
    Busy,
    ClosedError,
    InstanceLost,
    LimitReached,
    LinkLost,
    NodeUnreachable,
    NoResponders,
)
from meshmq.frames import (
    EACH,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    START_NEW,
    Body,
    Cancel,
    Command,
    Confirm,
    Confirmation,
    Consume,
    Consumed,
    Deliver,
    Grant,
    Hello,
    Introduce,
    KnownPeer,
    PeerFacts,
    Publish,
    Reply,
    Request,
    Result,
    Serve,
    Served,
    Subscribe,
    Subscribed,
    Transact,
    Transacted,
    Unserve,
    Unsubscribe,
    Wanted,
    Welcome,
)
from meshmq.names import pushed_topic, queue_of

_AT_NODE, _DIRECT = "node", "direct"

_ASKED_OF_NODES = {"group.create": "a group or queue", "topic.create": "a topic's policy"}


def needs_node(what: str) -> NodeUnreachable:
    """The error for what no program can do without a node."""
    return NodeUnreachable(f"{what} needs a node, and there is none: start one with `meshmq node`")


class HybridClient(Client):
    """See the module's header.

    Args:
        addresses: where others may dial this program.
        tools: the codec's functions that Direct needs.
        insecure: dial beyond this host, if the mesh is not ``local``.
        node: address of the node, if one was named; until it is there nothing is done without one.
        is_strict: see Direct.
        uses_nodes: nodes that are found are used.
        others: see Client.

    Attributes:
        had_node: there is a node, or was, or will be.
    """

    def __init__(
        self,
        identity: ClientIdentity,
        encode: EncodeBatch,
        entropy: random.Random,
        guard: AbstractContextManager[Any] | None = None,
        encode_jobs: EncodeJobs | None = None,
        *,
        addresses: tuple[str, ...],
        tools: Tools,
        insecure: bool = False,
        node: str = "",
        uses_nodes: bool = True,
        is_strict: bool = False,
    ) -> None:
        super().__init__(identity, encode, entropy, guard, encode_jobs)
        # Probing a node by this hello must not look like the producer itself.
        hello = Hello(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, identity.mesh, identity.instance, identity.instance,
            identity.name, identity.software, True, addresses,
        )  # fmt: skip
        self.addresses = addresses
        self.direct = Direct(hello, tools, entropy, insecure, uses_nodes, is_strict)
        self.had_node = self.expects_node = bool(node)
        self.moving = Moving((node,) if node else (), entropy, identity.mesh, insecure)
        publisher = self.publisher
        publisher.is_numbered = True
        publisher.instance = identity.instance
        publisher.direct.window_bytes = limits.DIRECT_IN_FLIGHT_BYTES
        publisher.node.is_open = False
        publisher.way_of = self._way_of_topic
        self._awaited: dict[int, set[str]] = {}  # whose answers a subscription or service waits for
        self._topics: dict[int, int] = {}  # how many match, as the node has said
        self._late_replies: deque[Reply] = deque()  # to the node, that it has no room for

    def start(self, peers: tuple[str, ...], now_ns: int) -> None:
        """Begin to look for others."""
        self.direct.start(now_ns)
        self.direct.look_for(peers, now_ns)

    def do_without(self) -> None:
        """No node has come in time: begin without one."""
        if self.state == "connecting":
            self.state = "brokerless"
            # What it numbers now no node has seen: to none it is a producer known by name.
            self._identity = replace(self._identity, producer=self._identity.instance)
            self.publisher.by_name = False
            self._effects.append(StateChanged("brokerless", "directly with other programs"))

    @property
    def node_address(self) -> str:
        """Where the node is, or is looked for."""
        return self.moving.address

    @property
    def is_connected(self) -> bool:
        return self.state not in ("connecting", "closed")

    @property
    def has_link(self) -> bool:
        return self._session is not None or self.direct.linked > 0

    @property
    def has_work(self) -> bool:
        if self.state == "closed":
            return False
        requester, publisher = self.requester, self.publisher
        if publisher.has_work or requester.ended or requester.has_work or self.responder.has_work:
            return True
        if not self.has_node:
            return False
        if (requester.has_held or self._late_replies) and min(self._room()) > 0:
            return True
        return any(member.has_work for member in self._ranks)

    def is_thirsty(self, number: int) -> bool:
        reader = self.direct.inlets.readers.get(number)
        is_thirsty = reader is not None and reader.is_thirsty and self.direct.linked > 0
        return is_thirsty or super().is_thirsty(number)

    # -- ways ---------------------------------------------------------------------------------

    def _way_of_topic(self, topic: str) -> Way:
        publisher = self.publisher
        if topic.startswith("$") and pushed_topic(topic):
            return publisher.direct
        if self.had_node or topic in publisher.queues or queue_of(topic):
            return publisher.node
        return publisher.direct

    def _way_of(self, lane: Lane) -> Way:
        if lane.transient and not lane.explicit:
            return self.publisher.direct
        if lane.transient is False:
            return self.publisher.node
        return self._way_of_topic(lane.topic)

    def _place_lanes(self) -> None:
        """Rules 1 to 3, where something of that has changed."""
        changed = {}
        for topic, lane in list(self.publisher.lanes.items()):
            way = self._way_of(lane)
            if way is not lane.way:
                changed[topic] = way
                lane.begins = way is self.publisher.node and lane.is_fresh and lane.tail > 0
        if changed:
            self.publisher.place(changed)

    # -- what the program asks for ------------------------------------------------------------

    def pull(self, pattern: str, window_bytes: int, window_records: int, now_ns: int) -> int:
        """Take what others push; the answer comes as SubscriptionAnswered. Returns its number."""
        self._last_id += 1
        sub = Subscriber(self._last_id, pattern, Start(), window_bytes, window_records)
        sub.is_pull = True
        self.subscribers[sub.id] = sub
        self._awaited[sub.id] = {_DIRECT}
        self.direct.pull(sub.id, pattern, window_bytes, window_records, now_ns)
        return sub.id

    def consumed(self, number: int, size: int, records: int, now_ns: int) -> None:
        size, records = self.direct.inlets.consumed(number, records)
        if records:
            super().consumed(number, size, records, now_ns)

    def unserve(self, registration: Registration, now_ns: int) -> None:
        if registration.is_ended or registration.is_leaving:
            return
        registration.is_leaving = True
        self.responder.give_back(registration)
        self._pass_on_replies(now_ns)
        self._ask(Unserve(registration.id), now_ns)

    def close(self, now_ns: int) -> None:
        if self.state == "closed":
            return
        self.direct.goodbye(now_ns)
        self._take_links()
        if self.had_node:
            super().close(now_ns)
        else:
            self.publisher.fail_sent(LinkLost("the connection was closed before it had come"))
            self._end(ClosedError("the connection was closed"), "closed here", "")

    def pump(self, now_ns: int) -> None:
        if not self.is_connected:
            return
        direct, publisher = self.direct, self.publisher
        if self.has_node:
            if publisher.node.has_work:
                self._tell_stored(now_ns)
                for body in publisher.take(self.origin):
                    self._number(body)
                    self._send(body, now_ns)
            for member in self.members.values():
                for settle in member.take():
                    self._send(settle, now_ns)
        if publisher.direct.has_work:
            for body in publisher.take(self._identity.instance, publisher.direct):
                direct.publish(body, now_ns)
        self._pass_on_replies(now_ns)
        if self.requester.has_work or self.requester.has_held:
            by_node, directly = self.requester.take_by(self._way_of_call, now_ns, *self._room())
            for asked in by_node:
                self._send(asked, now_ns)
            for asked in directly:
                match asked:
                    case Cancel():
                        direct.cancel(asked)
                    case Grant():
                        direct.grant(asked)
                    case Request():
                        direct.ask(asked, now_ns)
        self._go_if_time(now_ns)

    def _number(self, body: Publish) -> None:
        """Numbers of what may turn out to be transient count for what goes directly later."""
        lanes, outlets = self.publisher.lanes, self.direct.outlets
        for row in body.batches:
            lane = lanes[row.topic]
            if row.numbered and lane.transient is not False:
                outlets.number(row, is_sure=lane.transient is True)

    def _room(self) -> tuple[int, int]:
        return super()._room() if self.has_node else (0, 0)

    def _way_of_call(self, call: Call) -> str:
        if not self.has_node:
            return DIRECTLY if not self.had_node or self.direct.serves(call.service) else BY_NODE
        if call.kind != EACH and self.direct.serves(call.service):
            return DIRECTLY
        return BY_NODE

    def _pass_on_replies(self, now_ns: int) -> None:
        if self.responder.has_work:
            for answered in self.responder.take():
                if isinstance(answered, Reply):
                    self.direct.reply(answered, now_ns)

    def _ask(self, body: Body, now_ns: int) -> None:
        direct, is_open = self.direct, self.has_node
        match body:
            case Subscribe(number, pattern, start):
                if start != START_NEW and not self.had_node:
                    no = needs_node("reading what was published before")
                    direct.own.append(Subscribed(number, no.code, str(no)))
                    return
                waits_for_node = is_open or start != START_NEW
                self._awaited[number] = {_DIRECT, _AT_NODE} if waits_for_node else {_DIRECT}
                size, records = body.credit_bytes, body.credit_records
                direct.subscribe(number, pattern, size, records, now_ns)
            case Unsubscribe(number):
                self._awaited.pop(number, None)
                direct.close(number, now_ns)
            case Serve(number):
                self._awaited[number] = {_DIRECT, _AT_NODE} if is_open else {_DIRECT}
                direct.serve(self._identity.name, body, now_ns)
            case Unserve(number):
                self._awaited[number] = {_DIRECT, _AT_NODE} if is_open else {_DIRECT}
                direct.unserve(body, now_ns)
            case Command(number, verb) if not self.had_node:
                no = needs_node(_ASKED_OF_NODES.get(verb, f"{verb!r}"))
                direct.own.append(Result(number, no.code, str(no), b"{}"))
            case Consume(number, group) if not self.had_node:
                no = needs_node(f"the group {group!r}")
                direct.own.append(Consumed(number, no.code, str(no)))
            case Transact(number) if not self.had_node:
                no = needs_node("a transaction")
                direct.own.append(Transacted(number, no.code, str(no)))
        self._send(body, now_ns)

    def _send(self, body: Body, now_ns: int) -> None:
        if isinstance(body, Subscribe) and self.subscribers[body.subscription].is_pull:
            return  # the node knows nothing of it
        super()._send(body, now_ns)

    # -- events -------------------------------------------------------------------------------

    def handle(self, event: ClientEvent, now_ns: int) -> list[ClientEffect]:
        """Take one event. What to do comes with ``take_effects``, for a turn of many together."""
        direct = self.direct
        match event:
            case FrameReceived(link, envelope) if self._is_program(link):
                direct.on_frame(link, envelope, now_ns)
            case LinkClosed(link, reason) if self._is_program(link):
                direct.on_closed(link, reason, now_ns)
            case BadFrameReceived(link, reason) if self._is_program(link):
                direct.on_bad_frame(link, reason, now_ns)
            case _:
                self._take(event, now_ns)
        return []

    def _is_program(self, link: bytes) -> bool:
        """Whether a link is not of a node."""
        own = self._link if self._session is not None else None
        return link != own and not link.startswith(OWNER_LINK)

    def _on_heard(self, session: Session) -> None:
        if self.has_node:
            self.direct.outlets.on_acked(NODE, session.acked)

    def _tick(self, now_ns: int) -> None:
        self.direct.tick(now_ns)
        super()._tick(now_ns)

    def take_effects(self, now_ns: int) -> list[ClientEffect]:
        direct = self.direct
        if self.state != "closed":
            direct.end_turn(now_ns)
            while direct.own or direct.routing.to_node:
                self._take_own(now_ns)
                self._to_node(now_ns)
            if direct.returned:
                returned, direct.returned = direct.returned, []
                for number in returned:
                    self.requester.again(number, is_lost=True)
            if direct.pushes.waiting:
                for lane, first in direct.pushes.waiting:
                    self.publisher.set_aside(lane, first)
                direct.pushes.waiting = []
            self._hand_on(now_ns)
            if direct.news and self.state != "connecting":
                news, direct.news = direct.news, []
                self._effects += [StateChanged(self.state, what) for what in news]
            if direct.links.nodes:
                nodes, direct.links.nodes = direct.links.nodes, []
                if not self.expects_node and self._turns_to(nodes[0], now_ns):
                    self.moving.found(nodes[0])
                    self._effects.append(FoundNode(nodes[0]))
            self._to_node(now_ns)
        self._take_links()
        had_session = self._session is not None
        effects = super().take_effects(now_ns)
        if had_session and self._session is None and self.state != "closed":
            effects += self.take_effects(now_ns)  # others are told that we are at no node
        return effects

    def _turns_to(self, address: str, now_ns: int) -> bool:
        """Whether to be at a node that answers: our own had the time of a handshake to be back,
        and no other of its site has answered."""
        moving = self.moving
        if self._session is not None:
            if self.state != "reconnecting" or address == moving.address or moving.stays:
                return False
            if not moving.has_tried_all:
                return False
            self._lose("another node answers", "link-lost", now_ns)
        return True

    def _take_links(self) -> None:
        effects, self.direct.links.effects = self.direct.links.effects, []
        self._effects += effects

    def _to_node(self, now_ns: int) -> None:
        """Send the node what Direct has for it."""
        to_node, self.direct.routing.to_node = self.direct.routing.to_node, []
        for body, batches in to_node:
            if isinstance(body, Reply):
                self._late_replies.append(body)
                continue
            self._send(body, now_ns)
            if isinstance(body, Publish) and self._session is not None:
                size = len(body.payload)
                self.direct.outlets.sent(NODE, self._session.sent, batches, now_ns, size)
        while self._late_replies and min(self._room()) > 0:
            self._send(self._late_replies.popleft(), now_ns)

    def _hand_on(self, now_ns: int) -> None:
        """Give readers what has come for them."""
        inlets = self.direct.inlets
        if inlets.returned:
            returned, inlets.returned = inlets.returned, []
            for number, size, records in returned:
                super().consumed(number, size, records, now_ns)
        if not (inlets.arrived or inlets.missing):
            return
        arrived, inlets.arrived = inlets.arrived, {}
        missing, inlets.missing = inlets.missing, {}
        for number in (arrived | missing) if missing else arrived:
            reader, sub = inlets.readers.get(number), self.subscribers.get(number)
            if reader is not None and sub is not None:
                arrivals = tuple(arrived.get(number, ()))
                missed = sub.missed + reader.missed
                self._effects.append(Arrived(number, arrivals, missed, sub.damaged))

    def next_deadline_ns(self) -> int | None:
        if self.state == "closed":
            return None
        due = (
            self.direct.next_deadline_ns(), self.responder.next_deadline_ns(),
            super().next_deadline_ns(),
        )  # fmt: skip
        return min([at for at in due if at is not None], default=None)

    # -- from other programs, and from Direct itself ------------------------------------------

    def _on_own(self, body: Body, now_ns: int) -> None:
        match body:
            case Confirm(confirmations):
                for c in confirmations:
                    self.publisher.on_confirmation(c, b"")
            case Subscribed(number) | Served(number):
                self._on_answer(number, _DIRECT, body, now_ns)
            case Reply():
                self._on_direct_reply(body)
            case Request():
                self.responder.on_request(body, now_ns)
            case _:
                super()._on_body(body, now_ns)

    def _on_direct_reply(self, reply: Reply) -> None:
        """Rule 5; the rest is for the requester."""
        if self.has_node and any(row.code for row in reply.rows):
            rows = tuple([row for row in reply.rows if not self._is_asked_again(row)])
            reply = Reply(rows, reply.payload)
        if reply.rows:
            self.requester.on_reply(reply)

    def _is_asked_again(self, row: Any) -> bool:
        if row.code not in (NoResponders.code, Busy.code, InstanceLost.code):
            return False
        call = self.requester.calls.get(row.id)
        if call is None or call.kind == EACH:
            return False
        is_lost = row.code == InstanceLost.code  # else nothing was done
        return (call.idempotent or not is_lost) and self.requester.again(row.id, is_lost=is_lost)

    def _on_answer(self, number: int, who: str, body: Subscribed | Served, now_ns: int) -> None:
        """One of those who have to answer has; rule 4."""
        awaited = self._awaited.get(number)
        if awaited is not None:
            awaited.discard(who)
            if awaited and not body.code:
                return
            del self._awaited[number]
        elif not body.code:
            return  # it is open already, and now at this node too
        if isinstance(body, Subscribed):
            sub = self.subscribers.pop(number, None) if body.code else None
            if sub is not None:
                self.reads.closed(sub, now_ns)
                self._send(Unsubscribe(number), now_ns)
                self.direct.close(number, now_ns)
            topics = self._topics.pop(number, 0)
            answer = SubscriptionAnswered(number, body.code, body.message, topics)
            self._effects.append(answer)
            return
        registration = self.responder.registrations.get(number)
        if registration is None:
            return
        if body.code and not registration.is_leaving:
            self._send(Unserve(number), now_ns)
            self.direct.unserve(Unserve(number), now_ns)
        self._on_served(body)

    # -- the node -----------------------------------------------------------------------------

    def _on_body(self, body: Body, now_ns: int) -> None:
        direct = self.direct
        match body:
            case Confirm(confirmations):
                self._on_confirmations(confirmations)
                super()._on_body(body, now_ns)
                self._on_kinds(confirmations)
            case Subscribed(number):
                sub = self.subscribers.get(number)
                if sub is not None and not body.code:
                    sub.on_subscribed(body)
                    self._grant(sub, now_ns)
                    self._topics[number] = body.topics
                self._on_answer(number, _AT_NODE, body, now_ns)
            case Served() if self._leaving.takes(body):
                pass
            case Served(number):
                registration = self.responder.registrations.get(number)
                if body.ended and registration is not None and not registration.is_leaving:
                    why = "the node has ended it without being asked"
                    body = Served(number, body.code or LinkLost.code, body.message or why)
                self._on_answer(number, _AT_NODE, body, now_ns)
            case Request() | Cancel() | Grant():
                direct.on_node_request(body, now_ns)
            case Introduce():
                direct.introduce(body, now_ns)
            case Wanted(topics):
                direct.outlets.unwanted.difference_update(topics)
                direct.outlets.changed()
            case _:
                super()._on_body(body, now_ns)

    def _on_confirmations(self, confirmations: tuple[Confirmation, ...]) -> None:
        outlets = self.direct.outlets
        for c in confirmations:
            if c.unwanted:
                outlets.want_no_more(c.topic, c.first + c.count - 1)

    def _on_kinds(self, confirmations: tuple[Confirmation, ...]) -> None:
        """The node has told of topics what they are."""
        lanes, outlets = self.publisher.lanes, self.direct.outlets
        has_moved = False
        for c in confirmations:
            lane = lanes.get(c.topic)
            if lane is None or c.code:
                continue
            outlets.unsure.pop(c.topic, None)
            if lane.transient is False:
                outlets.numbers.pop(c.topic, None)  # what the node keeps has other numbers
            has_moved = has_moved or self._way_of(lane) is not lane.way
        if has_moved:
            self._place_lanes()

    def _on_deliver(self, frame: Deliver, now_ns: int) -> None:
        sub = self.subscribers.get(frame.subscription)
        if sub is None:
            return
        number, inlets = sub.id, self.direct.inlets
        before = sub.missed
        sub.missed += frame.missed
        payload, at = frame.payload, 0
        alone = len(frame.batches) == 1
        for row in frame.batches:
            data = payload if alone else payload[at : at + row.length]
            at += row.length
            if not row.source or row.lsn:
                arrival = sub.take(row, data)
                if arrival is not None:
                    inlets.arrive(number, arrival, row.length)
            elif not row.count:
                inlets.on_marker(number, row.source)
            else:
                if not row.missing:
                    sub.hold(row)
                try:
                    inlets.on_node_row(number, row, data, now_ns)
                except LimitReached:
                    sub.missed += row.count
        if sub.missed != before and number not in inlets.missing:
            reader = inlets.readers.get(number)
            if reader is not None:
                inlets.missing[number] = reader
        self._delivered(sub, frame, now_ns)

    def _on_welcome(self, welcome: Welcome, now_ns: int) -> None:
        is_other = bool(self.origin) and self.origin != welcome.origin
        was_brokerless = not self.had_node
        self.had_node = True
        self.publisher.node.is_open = True
        for lane in list(self.publisher.lanes.values()) if is_other else ():
            if lane.transient:
                lane.transient = None  # another node may keep it
                lane.is_fresh = True
        super()._on_welcome(welcome, now_ns)
        for number, awaited in self._awaited.items():
            if self._asks_node(number):
                awaited.add(_AT_NODE)  # it was asked now
        self.direct.attach(welcome.origin, limits.DIRECT_IN_FLIGHT_BYTES, now_ns)
        self._to_node(now_ns)
        if is_other or was_brokerless:
            self._place_lanes()
        facts = PeerFacts(
            welcome.origin, "node", self._identity.mesh, welcome.name, welcome.major, welcome.minor
        )
        self.direct.links.node_address = self.node_address
        self.direct.links.tell(LinkUp(facts), now_ns)
        known = KnownPeer(welcome.origin, True, welcome.name, (self.node_address,))
        self.direct.gossip.attach((known,), now_ns)

    def _tries_again(self) -> bool:
        return self.expects_node or self.state == "reconnecting"

    def _is_final(self, code: str) -> bool:
        return code == "producer-fenced" or (self.expects_node and super()._is_final(code))

    def _on_session_lost(self, now_ns: int) -> None:
        if self.state == "connected":
            self.direct.detach(now_ns)
            self._take_own(now_ns)
            self.direct.links.node_address = ""
            self.direct.links.tell(LinkDown(self.origin, "", "the node is gone"), now_ns)
            self.direct.gossip.attach((), now_ns)
        self.publisher.node.is_open = False
        self._late_replies.clear()
        super()._on_session_lost(now_ns)
        for number, awaited in list(self._awaited.items()):
            sub = self.subscribers.get(number)
            if sub is not None and sub.needs_node:
                continue  # it is asked again in the next session
            if _AT_NODE in awaited:
                is_sub = sub is not None
                body = Subscribed(number) if is_sub else Served(number, ended=self._leaves(number))
                self._on_answer(number, _AT_NODE, body, now_ns)

    def _take_own(self, now_ns: int) -> None:
        own, self.direct.own = self.direct.own, []
        for body in own:
            self._on_own(body, now_ns)

    def _asks_node(self, number: int) -> bool:
        """Whether each new session begins with the question for this subscription or service."""
        sub = self.subscribers.get(number)
        if sub is not None:
            return not sub.is_pull
        return number in self.responder.registrations and not self._leaves(number)

    def _leaves(self, number: int) -> bool:
        found = self.responder.registrations.get(number)
        return found is not None and found.is_leaving

    def _drop_requests(self, now_ns: int) -> None:
        pass  # Direct has told the responder which ones are over
