"""Programs, and a node, for tests of their machines: a network that does what a test says.

A batch's bytes are length, value, length, value ..., as in ``helpers``.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

from meshmq import codec
from meshmq.core.client import ClientIdentity
from meshmq.core.direct import Tools
from meshmq.core.effects import (
    Append,
    Arrived,
    CloseLink,
    FoundNode,
    OpenLink,
    ReadLog,
    RequestsCame,
    Send,
    ServiceAnswered,
    StateChanged,
    SubscriptionAnswered,
)
from meshmq.core.events import (
    Committed,
    FrameReceived,
    LinkClosed,
    LinkOpened,
    TimerFired,
    WallClock,
)
from meshmq.core.hybrid import HybridClient
from meshmq.core.node import Node
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.requester import Call
from meshmq.core.subscriber import Start
from meshmq.frames import ONE
from meshmq.limits import MS, SECOND
from meshmq.testing.disk import Disk
from tests.core.helpers import ORIGIN, check_batch, decode, encode

WALL = 1_700_000_000 * SECOND

TOOLS = Tools(
    lambda data, count: SimpleNamespace(values=decode(data)),
    lambda records, indices: encode([records.values[i] for i in indices], 0, 0, 0, 0),
)


class Program:
    """One program: its machine, and what it was told."""

    def __init__(self, network, name, peers=(), mesh="local", instance=None, node="", **options):
        self.network = network
        self.name = name
        self.address = f"tcp://127.0.0.1:{network.port(name)}"
        instance = instance or name.encode().ljust(16, b"\0")
        identity = ClientIdentity(mesh, instance, instance, name, "meshmq test")
        self.client = HybridClient(
            identity, encode, random.Random(name), addresses=(self.address,), tools=TOOLS,
            node=node, is_strict=bool(node), **options,
        )  # fmt: skip
        self.got = {}
        self.missed = {}
        self.answers = {}
        self.effects = []
        self.links = {}  # our name of a link -> (program, its name of it)
        self.auto = True  # what arrives is read at once
        self.states = []
        self.sessions = 0
        self.client.start(tuple(network.address(p) for p in peers), network.now_ns)
        network.programs[self.address] = self
        if node:
            self.attach(node)
        else:
            self.client.do_without()
        self.flush()

    def attach(self, address):
        """Open a session with the node there."""
        self.node = address
        self.sessions += 1
        link = b"node-%d" % self.sessions
        self.network.connect(self, link, address)
        self.client.handle(LinkOpened(link), self.network.now_ns)

    @property
    def direct(self):
        return self.client.direct

    def flush(self):
        client = self.client
        for _ in range(100):
            client.pump(self.network.now_ns)
            effects = client.take_effects(self.network.now_ns)
            for effect in effects:
                self._perform(effect)
            if not (effects or client.has_work):
                return
        raise AssertionError("it does not come to rest")

    def _perform(self, effect):
        self.effects.append(effect)
        match effect:
            case OpenLink(link, address):
                self.network.connect(self, link, address)
            case Send(link, envelope):
                self.network.carry(self, link, envelope)
            case CloseLink(link, again_ns):
                self.network.hang_up(self, link)
                if link.startswith(b"node-") and again_ns >= 0:
                    self.network.after(again_ns, self._attach_again)
            case FoundNode(address):
                self.attach(address)
            case StateChanged(state, reason):
                self.states.append((state, reason))
            case Arrived(number, arrivals, missed):
                self.missed[number] = missed
                for a in arrivals:
                    self.got.setdefault(number, []).extend(
                        (a.topic, v) for v in decode(a.payload)[a.skip :]
                    )
                if self.auto:
                    for a in arrivals:
                        self.read(number, len(a.payload), a.count)
            case SubscriptionAnswered(number, code):
                self.answers[number] = code
            case ServiceAnswered(registration, code):
                self.answers[registration.id] = code
            case RequestsCame(registrations):
                for registration in registrations:
                    if registration.owner is not None:
                        self._serve(registration)

    def _attach_again(self):
        if self.network.programs.get(self.address) is self and self.client._session is None:
            self.attach(self.node)
            self.flush()

    def _serve(self, registration):
        responder = self.client.responder
        while (incoming := responder.begin(registration)) is not None:
            registration.owner(incoming)

    def read(self, number, size, records):
        self.client.consumed(number, size, records, self.network.now_ns)

    def subscribe(self, pattern, size=1 << 24, records=100_000):
        number = self.client.subscribe(pattern, Start(), size, records, self.network.now_ns)
        self.flush()
        return number

    def pull(self, pattern, size=1 << 24, records=100):
        number = self.client.pull(pattern, size, records, self.network.now_ns)
        self.flush()
        return number

    def close(self, number):
        self.client.unsubscribe(number, self.network.now_ns)
        self.flush()

    def publish(self, topic, *values, pin=None):
        batch = self.client.publisher.add_many(
            topic, list(values), None, None, None, lambda: 0, TOPIC_DEFAULT, pin=pin
        )
        self.flush()
        return batch

    def serve(self, service, handler, concurrency=1):
        registration = self.client.serve(service, concurrency, handler, self.network.now_ns)
        self.flush()
        return registration

    def answer(self, incoming, value=b"yes"):
        self.client.responder.reply(incoming, value, True)
        self.flush()

    def request(self, service, value=b"?", kind=ONE, timeout_ns=SECOND, idempotent=False,
                pin=""):  # fmt: skip
        now = self.network.now_ns
        call = Call(service, value, b"", kind, idempotent, now + timeout_ns, pin=pin)
        self.client.requester.add(call)
        self.flush()
        return call

    def values(self, number):
        return [value for _, value in self.got.get(number, [])]


class Station:
    """A node in the network; what it appends is synced at once.

    Attributes:
        is_stopped: it handles nothing, and what comes waits.
    """

    def __init__(self, network, address, disk=None):
        self.network = network
        self.address = address
        self.disk = disk or Disk(ORIGIN)
        self.node = self.client = Node(
            self.disk.state, name="node-1", mesh="local", software="meshmq test",
            tools=codec.TOOLS._replace(check=check_batch), entropy=random.Random(1),
        )  # fmt: skip
        self.links = {}
        self.waiting = []
        self.is_stopped = False
        network.programs[address] = self
        self.handle(WallClock(WALL + network.now_ns))

    def handle(self, event):
        if self.is_stopped:
            self.waiting.append(event)
            return
        now = self.network.now_ns
        self._perform(self.node.handle(event, now))
        self.flush()

    def go_on(self):
        """It was stopped, and is not any more."""
        self.is_stopped = False
        waiting, self.waiting = self.waiting, []
        for event in waiting:
            self.handle(event)

    def flush(self):
        self._perform(self.node.end_turn(self.network.now_ns))

    def _perform(self, effects):
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    self.network.carry(self, link, envelope)
                case Append(ticket, entries):
                    commit = self.disk.commit(entries, WALL, decode)
                    self.handle(Committed(ticket, (commit,)))
                case ReadLog():
                    self.handle(self.disk.read(effect))
                case CloseLink(link):
                    self.links.pop(link, None)


class Network:
    """Carries frames after a millisecond, but those that ``lose`` says."""

    def __init__(self):
        self.now_ns = SECOND
        self.programs = {}
        self.lose = lambda sender, receiver, envelope: False
        self._ports = {}
        self._heap = []
        self._count = 0

    def port(self, name):
        return self._ports.setdefault(name, 7000 + len(self._ports))

    def address(self, name):
        if name.startswith("tcp:"):
            return name
        return f"tcp://127.0.0.1:{self.port(name)}"

    def add(self, name, peers=(), **more):
        return Program(self, name, peers, **more)

    def after(self, delay_ns, work):
        self._count += 1
        self._heap.append((self.now_ns + delay_ns, self._count, work))

    def connect(self, program, link, address):
        self._count += 1
        program.links[link] = (address, b"from-%d" % self._count)

    def carry(self, sender, link, envelope):
        found = sender.links.get(link)
        if found is None:
            return
        to, theirs = found
        receiver = self.programs.get(to) if isinstance(to, str) else to
        if receiver is None or self.lose(sender, receiver, envelope):
            return
        self.after(MS, lambda: self._arrive(sender, link, receiver, theirs, envelope))

    def _arrive(self, sender, link, receiver, theirs, envelope):
        if self.programs.get(receiver.address) is not receiver:
            return
        receiver.links.setdefault(theirs, (sender, link))
        if isinstance(receiver, Station):
            receiver.handle(FrameReceived(theirs, envelope))
            return
        receiver.client.handle(FrameReceived(theirs, envelope), self.now_ns)
        receiver.flush()

    def hang_up(self, program, link):
        program.links.pop(link, None)

    def kill(self, program):
        """It is gone without a word."""
        del self.programs[program.address]

    def cut(self, program):
        """Connections of a program end, and it is told."""
        for link in list(program.links):
            program.client.handle(LinkClosed(link, "cut"), self.now_ns)
        program.flush()

    def run(self, duration_ns=SECOND // 5):
        end_ns = self.now_ns + duration_ns
        while True:
            due = [
                (p.client.next_deadline_ns(), p)
                for p in self.programs.values()
                if not (isinstance(p, Station) and p.is_stopped)
            ]
            timers = [d for d, _ in due if d is not None]
            at = min([h[0] for h in self._heap] + [max(d, self.now_ns) for d in timers] + [end_ns])
            if at >= end_ns:
                self.now_ns = end_ns
                return
            self.now_ns = at
            ready = sorted(h for h in self._heap if h[0] <= at)
            self._heap = [h for h in self._heap if h[0] > at]
            for _, _, work in ready:
                work()
            for deadline, program in due:
                if deadline is None or deadline > at:
                    continue
                if isinstance(program, Station):
                    program.handle(TimerFired())
                else:
                    program.client.handle(TimerFired(), at)
                    program.flush()
