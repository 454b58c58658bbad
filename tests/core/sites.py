"""Nodes of a site with disks, joined by a network of the tests' own, in virtual time.

Frames take LATENCY_NS and keep their order on each link. A path can be cut, one way or both: what
is sent over it is lost, and nobody is told. A node can be killed, which the dialling ends of its
links are told at once, and started again from its disk.
"""

from __future__ import annotations

import heapq
import itertools
import random

from meshmq import codec
from meshmq.core.effects import (
    Append,
    CloseLink,
    MendLog,
    OpenLink,
    PlanRetention,
    ReadLog,
    Send,
    SurveyLog,
)
from meshmq.core.events import (
    Committed,
    FrameReceived,
    LinkClosed,
    ListenerCut,
    PeerSighted,
    RetentionPlanned,
    TimerFired,
    WallClock,
)
from meshmq.core.node import Node
from meshmq.core.site_identity import NODE_LINK, SiteIdentity
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    START_NEW,
    Credit,
    Deliver,
    Envelope,
    Hello,
    Nothing,
    Ping,
    Publish,
    Refuse,
    Subscribe,
    Subscribed,
    Welcome,
)
from meshmq.limits import MIB, MS, SECOND
from meshmq.testing.disk import Disk
from tests.core.helpers import batch_of, check_batch, decode

LATENCY_NS = 1 * MS
SYNC_NS = 2 * MS
WALL = 1_700_000_000 * SECOND


class SiteNode:
    """One node, on its disk."""

    def __init__(self, net, index, mesh, site, name=None, disk=None):
        self.net = net
        self.name = name or f"node-{index}"
        self.mesh, self.site = mesh, site
        self.address = f"tcp://127.0.0.1:{6000 + index}"
        self.client_address = f"tcp://127.0.0.1:{5000 + index}"
        self.disk = disk or Disk(bytes([index + 1]) * 16)
        self.incarnation = 0
        self.copies = 1
        self.fence_ns = 0
        self.clock_ns = 0  # so far its wall clock is ahead of others'
        self.far_nodes = 0
        self.node = None
        self.life = 0

    @property
    def origin(self):
        return self.disk.state.origin

    @property
    def wall_ns(self):
        return WALL + self.net.now_ns + self.clock_ns

    def start(self, peers=()):
        self.life += 1
        self.incarnation = max(self.incarnation + 1, self.net.now_ns)
        me = SiteIdentity(self.site, self.incarnation, (self.address,), (self.client_address,),
                          copies=self.copies, fence_ns=self.fence_ns, far_nodes=self.far_nodes,
                          renew=f"meshmq log renew --name {self.name} --data /there")  # fmt: skip
        self._begin(me)
        if peers:
            self.node.site.look_for(tuple(peers), self.net.now_ns)
            self.end_turn()

    def start_alone(self):
        """Without a site."""
        self.life += 1
        self._begin(None)

    def _begin(self, me):
        self.node = Node(
            self.disk.state, name=self.name, mesh=self.mesh, software="meshmq test",
            tools=self.net.tools,
            entropy=random.Random(f"{self.net.seed} {self.name} {self.life}"), site=me,
        )  # fmt: skip
        self.due_ns = 0
        self.handle(WallClock(self.wall_ns))

    def handle(self, event):
        if self.node is None:
            return
        self.perform(self.node.handle(event, self.net.now_ns))
        self.end_turn()

    def end_turn(self):
        self.perform(self.node.end_turn(self.net.now_ns))
        self.net.schedule_timer(self)

    def perform(self, effects):
        life = self.life
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    self.net.send(self, link, envelope)
                case OpenLink(link, address):
                    self.net.open(self, link, address)
                case CloseLink(link):
                    self.net.close(self, link)
                case Append():
                    self.net.at(SYNC_NS, lambda e=effect: self.sync(life, e))
                case ReadLog() | SurveyLog():
                    ask = self.disk.read if isinstance(effect, ReadLog) else self.disk.survey
                    self.net.at(self.net.read_ns, lambda a=ask, e=effect: (
                        self.life == life and self.handle(a(e))))  # fmt: skip
                case MendLog():
                    self.disk.mend(effect)
                case PlanRetention():
                    pass

    def sync(self, life, append):
        if self.node is not None and self.life == life:
            commit = self.disk.commit(append.entries, self.wall_ns, self.net.decode)
            self.handle(Committed(append.ticket, (commit,)))

    def siblings(self):
        """Names of those it is wholly linked with."""
        return sorted(s.name for s in self.node.site.siblings.values() if s.link)


class Program:
    """A client's session at a node, by hand."""

    _numbers = itertools.count(1)

    def __init__(self, net, at, name="test"):
        self.net, self.at = net, at
        self.link = b"\0%04d" % next(self._numbers)
        self.session, self.sent, self.heard = 7, 0, 0
        self.bodies = []
        self.first = {}
        instance = self.link.rjust(16, b"i")
        net.programs[self.link] = self
        hello = Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, at.mesh, instance, instance, name, "test")
        self.raw(Envelope(7, 0, 0, hello))

    def raw(self, envelope):
        self.at.handle(FrameReceived(self.link, envelope))

    def send(self, body):
        self.sent += 1
        self.raw(Envelope(self.session, self.sent, self.heard, body))

    def receive(self, envelope):
        if envelope.sequence or isinstance(envelope.body, Ping):
            self.heard = max(self.heard, envelope.sequence)
            self.net.at(1, lambda: self.raw(Envelope(self.session, 0, self.heard, Nothing())))
        self.bodies.append(envelope.body)

    def find(self, kind):
        return any(isinstance(b, kind) for b in self.bodies)

    def take(self, kind):
        found = [b for b in self.bodies if isinstance(b, kind)]
        self.bodies = [b for b in self.bodies if not isinstance(b, kind)]
        return found

    def subscribe(self, pattern, number=1, start=START_NEW, size=4 * MIB, records=100_000):
        self.send(Subscribe(number, pattern, start, 0, b"", 0, 0, size, records))

    def publish(self, topic, *values, replicated=False, first=None, mirrors=0):
        first = first or self.first.get(topic, 1)
        self.first[topic] = first + len(values)
        row, data = batch_of(topic, first, *values)
        self.send(Publish((row._replace(replicated=replicated, mirrors=mirrors),), data))

    def values(self, number=1):
        """Records that came for a subscription, as (topic, value)."""
        found = []
        for frame in self.take(Deliver):
            at = 0
            for row in frame.batches:
                found += [(row.topic, v) for v in decode(frame.payload[at : at + row.length])]
                at += row.length
        return found


class Net:
    """Nodes, links and time.

    Attributes:
        tools, decode: of batches; groups look into them, so their tests take the real ones.
        read_ns: how long a disk takes to look.
    """

    read_ns = 1

    tools = codec.TOOLS._replace(check=check_batch)
    decode = staticmethod(decode)

    def __init__(self, seed=0):
        self.seed = seed
        self.now_ns = SECOND
        self.nodes = []
        self.programs = {}
        self.cuts = set()  # (from node, to node)
        self.links = {}  # (node, link) -> (other node, its name of it)
        self.frames = 0
        self._events = []
        self._order = itertools.count()
        self._names = itertools.count(1)

    def add(self, mesh="plant", site="eu", name=None, disk=None):
        node = SiteNode(self, len(self.nodes), mesh, site, name, disk)
        self.nodes.append(node)
        return node

    def at(self, delay_ns, act):
        heapq.heappush(self._events, (self.now_ns + delay_ns, next(self._order), act))

    def schedule_timer(self, node):
        due = max(node.node.next_deadline_ns(), self.now_ns + 1)
        if not node.due_ns or due < node.due_ns:
            node.due_ns = due
            life = node.life
            self.at(due - self.now_ns, lambda: self._fire(node, life, due))

    def _fire(self, node, life, due):
        if node.node is not None and node.life == life and node.due_ns == due:
            node.due_ns = 0
            node.handle(WallClock(node.wall_ns))
            node.handle(TimerFired())

    def run(self, span_ns, until=None):
        """Let time pass; return whether ``until`` came true, if that is given."""
        end = self.now_ns + span_ns
        while self._events and self._events[0][0] <= end:
            at, _, act = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, at)
            act()
            if until is not None and until():
                return True
        self.now_ns = end
        return until is None or until()

    # -- the network ----------------------------------------------------------------------------

    def open(self, node, link, address):
        other = next((n for n in self.nodes if n.address == address), None)
        if other is None or other.node is None:
            self.at(LATENCY_NS, lambda: node.handle(LinkClosed(link, "nobody is there")))
            return
        name = NODE_LINK + b"%06d" % next(self._names)
        self.links[node, link] = (other, name)
        self.links[other, name] = (node, link)

    def close(self, node, link):
        end = self.links.pop((node, link), None)
        if end is None:
            return
        other, name = end
        if self.links.pop((other, name), None) and (node, other) not in self.cuts:
            dialled = not name.startswith(NODE_LINK)
            event = LinkClosed(name, "cut") if dialled else ListenerCut()
            self.at(LATENCY_NS, lambda: other.handle(event))

    def send(self, node, link, envelope):
        if link in self.programs:
            program = self.programs[link]
            if program.at is node:
                self.at(1, lambda: program.receive(envelope))
            return
        end = self.links.get((node, link))
        if end is None:
            if link.startswith(NODE_LINK):  # the transport knows that it is gone
                self.at(1, lambda: node.handle(LinkClosed(link, "gone")))
            return
        other, name = end
        self.frames += 1
        envelope = codec.decode(codec.encode(envelope))
        if (node, other) not in self.cuts:
            life = other.life
            self.at(LATENCY_NS, lambda: other.life == life and other.handle(
                FrameReceived(name, envelope)))  # fmt: skip

    def cut(self, a, b, one_way=False):
        self.cuts.add((a, b))
        if not one_way:
            self.cuts.add((b, a))

    def heal(self):
        self.cuts.clear()

    def kill(self, node):
        node.node = None
        node.life += 1
        for key in [k for k in self.links if k[0] is node]:
            self.close(*key)

    def sight(self, node, other):
        """mDNS at ``node`` hears of ``other``."""
        from meshmq.core.discovery import MDNS, Sighted
        from meshmq.frames import PeerFacts

        facts = PeerFacts(other.origin, "node", other.mesh, other.name, addresses=(other.address,))
        node.handle(PeerSighted(Sighted(MDNS, facts)))


def joined(net):
    """Whether all that run are linked with all others."""
    up = [n for n in net.nodes if n.node is not None]
    return all(n.siblings() == sorted(o.name for o in up if o is not n) for n in up)


def site_of(count, seed=0, kind=Net, copies=1):
    """A network with so many nodes that know each other by a peers list, joined."""
    net = kind(seed)
    nodes = [net.add() for _ in range(count)]
    for node in nodes:
        node.copies = copies
        node.start([o.address for o in nodes if o is not node])
    assert net.run(5 * SECOND, lambda: joined(net))
    return net, nodes


__all__ = [
    "Credit", "Net", "Program", "Refuse", "SiteNode", "Subscribed", "Welcome", "joined", "site_of",
]  # fmt: skip


def trim(node, origin, offset, topic="orders.eu"):
    """The store of a node finds that what is before is over its bound."""
    state = node.disk.state
    node.handle(RetentionPlanned(tuple(
        (alias, min(offset, stream.next_offset)) for alias, stream in state.streams.items()
        if stream.topic.name == topic and (stream.topic.origin or node.origin) == origin
        and stream.first_offset < min(offset, stream.next_offset)
    )))  # fmt: skip
    node.net.run(SECOND)
