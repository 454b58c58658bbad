"""Programs with a client's machine at the nodes of ``sites``, which go from one to the other.

A node that is killed is noticed at once by those who are at it; one that is stopped (``freeze``)
only by its silence.
"""

from __future__ import annotations

import json
import random

from meshmq import codec
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import (
    Arrived,
    CallsAnswered,
    CloseLink,
    CommandAnswered,
    RequestsCame,
    Send,
    StateChanged,
    SubscriptionAnswered,
    TransactionAnswered,
)
from meshmq.core.events import FrameReceived, LinkClosed, LinkOpened, TimerFired
from meshmq.core.lanes import DONE, FAILED
from meshmq.core.moving import Moving
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.requester import Call
from meshmq.core.subscriber import Start
from meshmq.frames import ONE, START_EARLIEST, START_NEW
from meshmq.limits import MIB, SECOND
from tests.core.helpers import decode, encode
from tests.core.sites import LATENCY_NS, joined, site_of


class Mover:
    """A program with a client's machine."""

    def __init__(self, net, *addresses, name="mover", stays=False, producer=None,
                 admin=False):  # fmt: skip
        self.net, self.name = net, name
        self.at = None  # the node that its link leads to
        self.links = 0
        self.link = b""
        self.states, self.calls, self.answers, self.transactions = [], [], {}, {}
        self.got = {}
        self.copies = {}
        instance = name.encode().ljust(16, b"i")
        entropy = random.Random(f"{net.seed} {name}")
        identity = ClientIdentity("plant", instance, producer or instance, name, "meshmq test",
                                  admin)  # fmt: skip
        self.client = Client(identity, encode, entropy, None, lambda *columns: encode(*columns[:5]))
        self.client.moving = Moving(addresses, entropy, stays=stays)
        self.due = 0
        self.handlers = {}
        net.movers.append(self)
        self.dial(addresses[0], False)

    # -- its transport --------------------------------------------------------------------------

    def dial(self, address, is_one_of):
        net = self.net
        self.links += 1
        self.link = link = b"\0m-%s-%d" % (self.name.encode(), self.links)
        self.at = next((n for n in net.nodes if n.client_address == address), None)
        net.programs[link] = self
        if (self.at is None or self.at.node is None) and is_one_of:
            net.at(LATENCY_NS, lambda: self.handle(LinkClosed(link, "nobody listens")))
        self.handle(LinkOpened(link))

    def cut(self):
        link = self.link
        self.net.at(LATENCY_NS, lambda: self.handle(LinkClosed(link, "cut")))

    def receive(self, envelope):
        self.handle(FrameReceived(self.link, codec.decode(codec.encode(envelope))))

    def handle(self, event):
        self.perform(self.client.handle(event, self.net.now_ns))
        self.flush()

    def flush(self):
        client, now = self.client, self.net.now_ns
        for _ in range(100):
            client.pump(now)
            effects = client.take_effects(now)
            self.perform(effects)
            if not (effects or client.has_work):
                break
        else:
            raise AssertionError("it does not come to rest")
        due = client.next_deadline_ns()
        if due is not None and due != self.due:
            self.due = due
            self.net.at(max(1, due - now), lambda: self.fire(due))

    def fire(self, due):
        if self.due == due:
            self.due = 0
            self.handle(TimerFired())

    def perform(self, effects):
        net = self.net
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    node, name = self.at, link
                    if node is None or node.node is None or (self, node) in net.cuts:
                        continue
                    life, sent = node.life, codec.decode(codec.encode(envelope))
                    net.at(LATENCY_NS, lambda n=node, f=life, m=name, e=sent: n.life == f and (
                        n.handle(FrameReceived(m, e))))  # fmt: skip
                case CloseLink(link, again_ns, address, is_one_of):
                    net.programs.pop(link, None)
                    self.link = b""
                    if again_ns >= 0:
                        net.at(again_ns + 1, lambda a=address, o=is_one_of: self.dial(a, o))
                case StateChanged(state, reason):
                    self.states.append((net.now_ns, state, reason))
                case Arrived(number, arrivals):
                    for a in arrivals:
                        rows = self.got.setdefault(number, [])
                        rows += [(a.topic, v) for v in decode(a.payload)[a.skip :]]
                        self.client.consumed(number, len(a.payload), a.count, net.now_ns)
                case SubscriptionAnswered(number, code):
                    self.answers[number] = code
                case CommandAnswered(number, code, message, body):
                    self.answers[number] = (code, message, body)
                case TransactionAnswered(number, code, message):
                    self.transactions[number] = (code, message)
                case CallsAnswered(calls):
                    self.calls += [c for c in calls if c.is_over]
                case RequestsCame(registrations):
                    for registration in registrations:
                        self.serve_one(registration)

    def serve_one(self, registration):
        while (incoming := self.client.responder.begin(registration)) is not None:
            self.handlers[registration.id](incoming)

    # -- what it asks ---------------------------------------------------------------------------

    @property
    def is_connected(self):
        return self.client.state == "connected"

    def subscribe(self, pattern, start=START_NEW, dedup=False):
        number = self.client.subscribe(
            pattern, Start(start), 4 * MIB, 100_000, self.net.now_ns, dedup
        )
        self.flush()
        return number

    def values(self, number):
        return [value for _, value in self.got.get(number, [])]

    def publish(self, topic, *values, options=None):
        batch = self.client.publisher.add_many(
            topic, list(values), None, None, None, lambda: 0, TOPIC_DEFAULT, options
        )
        self.flush()
        return batch

    def learn(self, topic, by_program=True):
        """As the client does before a topic's first record: ask what is known of the producer.
        Returns what the answer is: a code, and what the node says."""
        wish = {"topic": topic, **({} if by_program else {"at_least": True})}
        number = self.command("producer.last", json.dumps(wish).encode())
        net = self.net
        if not net.run(5 * SECOND, lambda: number in self.answers or not self.is_connected):
            return "no-answer", {}
        return self.learned(topic, by_program, number)

    def learned(self, topic, by_program, number):
        code, message, body = self.answers.get(number, ("link-lost", "", b"{}"))
        known = json.loads(body)
        if code:
            return code, {"message": message}
        publisher = self.client.publisher
        if by_program:
            topic_id = bytes.fromhex(known["topic_id"])
            publisher.number_by_program(topic, known["last"], known["said"], topic_id)
        else:
            publisher.know(topic, known["last"])
        return "", known

    def say(self, topic, number, value=None):
        """Publish a record under the program's own number."""
        value = b"%d" % number if value is None else value
        batch, _ = self.client.publisher.add(
            topic, value, None, None, None, lambda: 0, TOPIC_DEFAULT, number
        )
        self.flush()
        return batch

    def die(self):
        """The program is gone, with all it had; what it has sent may still arrive."""
        self.net.programs.pop(self.link, None)
        self.net.movers.remove(self)
        self.link, self.at = b"", None
        self.handle = self.flush = self.dial = lambda *what: None

    def request(self, service, value=b"?", timeout_ns=5 * SECOND, idempotent=False):
        call = Call(service, value, b"", ONE, idempotent, self.net.now_ns + timeout_ns)
        self.client.requester.add(call)
        self.flush()
        return call

    def serve(self, service, handler, concurrency=1):
        registration = self.client.serve(service, concurrency, None, self.net.now_ns)
        self.handlers[registration.id] = handler
        self.flush()
        return registration

    def answer(self, incoming, value=b"yes"):
        self.client.responder.reply(incoming, value, True)
        self.flush()

    def command(self, verb, arguments=b"{}"):
        number = self.client.command(verb, arguments, self.net.now_ns)
        self.flush()
        return number


def kill(net, node):
    """Its process is gone: who is at it is told."""
    net.kill(node)
    for mover in net.movers:
        if mover.at is node and mover.link:
            mover.cut()


def freeze(net, node):
    """It does nothing any more, and nobody is told."""
    node.node = None
    node.life += 1
    for key in [k for k in net.links if k[0] is node]:
        other, name = net.links.pop(key)
        net.links.pop((other, name), None)


def moving_site(count, seed=0, copies=1):
    net, nodes = site_of(count, seed, copies=copies)
    net.movers = []
    return net, nodes


__all__ = [
    "DONE", "FAILED", "Mover", "START_EARLIEST", "START_NEW", "freeze", "joined", "kill",
    "moving_site",
]  # fmt: skip
