"""A node's core with a disk and hand-carried frames, for tests."""

from __future__ import annotations

import json
import random

from meshmq import codec
from meshmq.core.effects import Append, CloseLink, PlanRetention, ReadLog, Send
from meshmq.core.events import Committed, FrameReceived, LinkClosed, TimerFired, WallClock
from meshmq.core.node import Node
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    START_NEW,
    Command,
    Deliver,
    Envelope,
    Hello,
    Publish,
    Refuse,
    Result,
    Subscribe,
    Welcome,
)
from meshmq.testing.disk import Disk
from tests.core.helpers import LINK, ORIGIN, SECOND, A, batch_of, check_batch, decode

WALL = 1_700_000_000 * SECOND


def hello(producer=A, instance=b"i" * 16, mesh="local", major=PROTOCOL_MAJOR, name="test"):
    return Hello(major, PROTOCOL_MINOR, mesh, instance, producer, name, "test 1")


class NodeBench:
    """A node; appends wait until ``sync``, reads are answered at once.

    Attributes:
        inbox: link -> bodies the node sent over it and nobody has taken.
        closed: links the node has let go.
        plans: retention plans asked for.
        wall_ns: unix time less the machine's.
    """

    wall_ns = WALL

    def __init__(self):
        self.disk = Disk(ORIGIN)
        self.now_ns = SECOND
        self.start()

    def start(self, **options):
        """Start the node from what the disk holds, as after a crash."""
        self.node = Node(
            self.disk.state, name="node-1", mesh="local", software="meshmq test",
            tools=codec.TOOLS._replace(check=check_batch), entropy=random.Random(1), **options,
        )  # fmt: skip
        self.inbox = {}
        self.closed = []
        self.plans = 0
        self.appends = []
        self.sequences = {}
        self.tell_time()

    def tell_time(self):
        """As the runner does, before the first turn."""
        self.perform(self.node.handle(WallClock(self.wall_ns + self.now_ns), self.now_ns))

    def handle(self, event):
        """Give the node one event; carry out what it orders."""
        self.perform(self.node.handle(event, self.now_ns))
        self.perform(self.node.end_turn(self.now_ns))

    def turn(self, *bodies, link=LINK, session=7):
        """Many frames that came together: what they gather goes at the turn's end. A Hello begins
        the session."""
        for body in bodies:
            number = 0 if isinstance(body, Hello) else self.sequences[link, session] + 1
            self.sequences[link, session] = number
            envelope = Envelope(session, number, 0, body)
            self.perform(self.node.handle(FrameReceived(link, envelope), self.now_ns))
        self.perform(self.node.end_turn(self.now_ns))

    def perform(self, effects):
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    self.inbox.setdefault(link, []).append(envelope)
                case Append():
                    self.appends.append(effect)
                case ReadLog():
                    self.handle(self.disk.read(effect))
                case CloseLink(link):
                    self.closed.append(link)
                case PlanRetention():
                    self.plans += 1

    def sync(self):
        """Sync every append that waits, each as a commit of its own."""
        appends, self.appends = self.appends, []
        for append in appends:
            commit = self.disk.commit(append.entries, WALL, decode)
            self.handle(Committed(append.ticket, (commit,)))

    def wait(self, delay_ns):
        self.now_ns += delay_ns
        self.handle(TimerFired())

    def lose(self, link=LINK):
        self.handle(LinkClosed(link, "gone"))

    def connect(self, link=LINK, session=7, greeting=None):
        """Say hello; return the answer."""
        self.sequences[link, session] = 0
        self.handle(FrameReceived(link, Envelope(session, 0, 0, greeting or hello())))
        (answer,) = self.take(link, (Welcome, Refuse))
        return answer

    def send(self, body, link=LINK, session=7):
        """Send a body in order, as the session at the other end would."""
        self.sequences[link, session] += 1
        self.handle(FrameReceived(link, Envelope(session, self.sequences[link, session], 0, body)))

    def take(self, link=LINK, kind=object):
        """Take the bodies of ``kind`` that came over ``link``; the others stay."""
        held = self.inbox.get(link, [])
        self.inbox[link] = [e for e in held if not isinstance(e.body, kind)]
        return [e.body for e in held if isinstance(e.body, kind)]

    def publish(self, topic, first, *values, link=LINK, **options):
        row, data = batch_of(topic, first, *values, **options)
        self.send(Publish((row,), data), link)

    def subscribe(self, pattern, start=START_NEW, number=1, link=LINK):
        self.send(Subscribe(number, pattern, start, 0, b"", 0, 0, 1 << 20, 1 << 16), link)

    def delivered(self, link=LINK):
        """(topic, value) of each record delivered over ``link`` since the last time."""
        found = []
        for frame in self.take(link, Deliver):
            at = 0
            for row in frame.batches:
                found += [(row.topic, v) for v in decode(frame.payload[at : at + row.length])]
                at += row.length
        return found

    def command(self, verb, link=LINK, sync=True, **arguments):
        """Send an admin command; return (code, message, body)."""
        self.send(Command(5, verb, json.dumps(arguments).encode()), link)
        if sync:
            self.sync()
        (result,) = self.take(link, Result)
        assert result.id == 5
        return result.code, result.message, json.loads(result.body)

    def done(self, verb, **arguments):
        """The body of a command that must be done."""
        code, message, body = self.command(verb, **arguments)
        assert code == "", message
        return body
