"""A client that has no node: what it asks is done by itself and by the programs it is linked with.

It is a Client whose frames go to ``Direct`` instead of a node's session: producer, subscriptions,
requester and responder are the same. What only a node has is refused with the remedy.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.direct import Direct, Tools
from meshmq.core.effects import (
    Arrived,
    ClientEffect,
    StateChanged,
)
from meshmq.core.events import (
    BadFrameReceived,
    ClientEvent,
    FrameReceived,
    LinkClosed,
    TimerFired,
)
from meshmq.core.publisher import EncodeBatch, EncodeJobs
from meshmq.core.subscriber import Start, Subscriber
from meshmq.errors import ClosedError, NodeUnreachable
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    START_NEW,
    Body,
    Cancel,
    Command,
    Consume,
    Consumed,
    Grant,
    Hello,
    Publish,
    Reply,
    Request,
    Result,
    Serve,
    Subscribe,
    Subscribed,
    Transact,
    Transacted,
    Unserve,
    Unsubscribe,
)

NO_NODE = "and there is none: start one with `meshmq node`, and connect to it"


def needs_node(what: str) -> NodeUnreachable:
    """The error for what no program can do without a node."""
    return NodeUnreachable(f"{what} needs a node, {NO_NODE}")


class BrokerlessClient(Client):
    """See the module's header.

    Args:
        addresses: where others may dial this program.
        tools: the codec's functions that Direct needs.
        insecure: dial beyond this host, if the mesh is not ``local``.
        others: see Client.
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
    ) -> None:
        super().__init__(identity, encode, entropy, guard, encode_jobs)
        hello = Hello(
            PROTOCOL_MAJOR, PROTOCOL_MINOR, identity.mesh, identity.instance, identity.producer,
            identity.name, identity.software, True, addresses,
        )  # fmt: skip
        self.direct = Direct(hello, tools, entropy, insecure)
        self.origin = identity.instance
        self.node_name = ""
        self.publisher.by_lane = True
        self.publisher.window_bytes = limits.DIRECT_IN_FLIGHT_BYTES

    def start(self, peers: tuple[str, ...], now_ns: int) -> None:
        """Begin to look for others."""
        self.state = "brokerless"
        self._effects.append(StateChanged("brokerless", "directly with other programs"))
        self.direct.start(now_ns)
        self.direct.look_for(peers, now_ns)

    @property
    def is_connected(self) -> bool:
        return self.state == "brokerless"

    @property
    def has_link(self) -> bool:
        return self.direct.linked > 0

    def _room(self) -> tuple[int, int]:
        return limits.CALLS_UNACKED_BYTES_MAX, limits.CALLS_UNACKED_FRAMES_MAX  # no session's

    def is_thirsty(self, number: int) -> bool:
        reader = self.direct.inlets.readers.get(number)
        return reader is not None and reader.is_thirsty

    # -- what the program asks for ------------------------------------------------------------

    def pull(self, pattern: str, window_bytes: int, window_records: int, now_ns: int) -> int:
        """Take what others push; the answer comes as SubscriptionAnswered. Returns its number."""
        self._last_id += 1
        sub = Subscriber(self._last_id, pattern, Start(), window_bytes, window_records)
        self.subscribers[sub.id] = sub
        self.direct.pull(sub.id, pattern, window_bytes, window_records, now_ns)
        return sub.id

    def consumed(self, number: int, size: int, records: int, now_ns: int) -> None:
        self.direct.inlets.consumed(number, records)

    def close(self, now_ns: int) -> None:
        if self.state == "closed":
            return
        self.direct.goodbye(now_ns)
        self._effects += self.direct.links.effects
        self.direct.links.effects = []
        self._end(ClosedError("the connection was closed"), "closed here", "")

    def pump(self, now_ns: int) -> None:
        if self.state != "brokerless":
            return
        direct = self.direct
        if self.publisher.has_work:
            for body in self.publisher.take(self.origin):
                direct.publish(body, now_ns)
        if self.requester.has_work:
            for asked in self.requester.take(now_ns):
                self._send(asked, now_ns)
        if self.responder.has_work:
            for answered in self.responder.take():
                self._send(answered, now_ns)

    def _send(self, body: Body, now_ns: int) -> None:
        direct = self.direct
        match body:
            case Publish():
                direct.publish(body, now_ns)
            case Request():
                direct.ask(body, now_ns)
            case Reply():
                direct.reply(body, now_ns)
            case Cancel():
                direct.cancel(body)
            case Grant():
                direct.grant(body)
            case Subscribe(number, pattern, start):
                if start == START_NEW:
                    size, records = body.credit_bytes, body.credit_records
                    direct.subscribe(number, pattern, size, records, now_ns)
                else:
                    no = needs_node("reading what was published before")
                    direct.own.append(Subscribed(number, no.code, str(no)))
            case Unsubscribe(number):
                direct.close(number, now_ns)
            case Serve():
                direct.serve(self._identity.name, body, now_ns)
            case Unserve():
                direct.unserve(body, now_ns)
            case Command(number, verb):
                no = needs_node(f"{verb!r}")
                direct.own.append(Result(number, no.code, str(no), b"{}"))
            case Consume(number, group):
                no = needs_node(f"the group {group!r}")
                direct.own.append(Consumed(number, no.code, str(no)))
            case Transact(number):
                no = needs_node("a transaction")
                direct.own.append(Transacted(number, no.code, str(no)))
            case _:
                pass  # what is said of consumers, which are refused

    # -- events -------------------------------------------------------------------------------

    def handle(self, event: ClientEvent, now_ns: int) -> list[ClientEffect]:
        """Take one event. What to do comes with ``take_effects``, for a turn of many together."""
        direct = self.direct
        match event:
            case FrameReceived(link, envelope):
                direct.on_frame(link, envelope, now_ns)
            case LinkClosed(link, reason):
                direct.on_closed(link, reason, now_ns)
            case BadFrameReceived(link, reason):
                direct.on_bad_frame(link, reason, now_ns)
            case TimerFired():
                direct.tick(now_ns)
                self.requester.tick(now_ns)
                self.responder.tick(now_ns)
        return []

    def take_effects(self, now_ns: int) -> list[ClientEffect]:
        direct = self.direct
        if self.state == "brokerless":
            direct.end_turn(now_ns)
            while direct.own:
                own, direct.own = direct.own, []
                for body in own:
                    self._on_body(body, now_ns)
            if direct.pushes.waiting:
                for lane, first in direct.pushes.waiting:
                    self.publisher.set_aside(lane, first)
                direct.pushes.waiting = []
            self._hand_on()
            if direct.news:
                news, direct.news = direct.news, []
                self._effects += [StateChanged("brokerless", what) for what in news]
        if direct.links.effects:
            self._effects += direct.links.effects
            direct.links.effects = []
        return self._taken()

    def _hand_on(self) -> None:
        """Give readers what has come for them."""
        inlets = self.direct.inlets
        if not (inlets.arrived or inlets.missing):
            return
        arrived, inlets.arrived = inlets.arrived, {}
        missing, inlets.missing = inlets.missing, {}
        for number in (arrived | missing) if missing else arrived:
            reader, sub = inlets.readers.get(number), self.subscribers.get(number)
            if reader is not None and sub is not None:
                sub.missed = reader.missed
                arrivals = tuple(arrived.get(number, ()))
                self._effects.append(Arrived(number, arrivals, sub.missed, sub.damaged))

    def next_deadline_ns(self) -> int | None:
        if self.state != "brokerless":
            return None
        due = self.direct.next_deadline_ns()
        calls = self.requester.next_deadline_ns()
        if calls is not None and (due is None or calls < due):
            due = calls
        requests = self.responder.next_deadline_ns()
        if requests is not None and (due is None or requests < due):
            due = requests
        return due
