"""A node with programs that publish transient topics by more ways than it, for tests."""

from __future__ import annotations

from dataclasses import replace

from meshmq.core.events import FrameReceived
from meshmq.frames import (
    START_NEW,
    Confirm,
    Credit,
    Deliver,
    DeliverBatch,
    Envelope,
    Nothing,
    Publish,
    Route,
    Routes,
    Subscribe,
    Wanted,
)
from tests.core.helpers import LINK, batch_of, decode
from tests.core.nodes import NodeBench, hello

PUB, SUB, THIRD = LINK, b"link-s", b"link-t"
P, S, T = b"P" * 16, b"S" * 16, b"T" * 16
LOTS = 1 << 20


def marker(source=P):
    """What ``Bench.got`` shows of a marker."""
    return ("", source)


def routes(add=(), remove=()):
    """A frame of routes; a run alone stands for all of its subscriptions."""

    def named(items):
        return tuple([item if isinstance(item, Route) else Route(item) for item in items])

    return Routes(named(add), named(remove))


def gap(topic, first, count, source=P):
    """What ``Bench.got`` shows of records that are told to be missing."""
    return ("missing", topic, first, count, source)


class Bench(NodeBench):
    """A node with transient topics below ``t`` (and ``x``, ``y``), a publisher, and two others.

    Attributes:
        deaf: links that acknowledge nothing; others do with whatever they send.
    """

    def __init__(self, **options):
        self.options = options
        self.deaf = set()
        super().__init__()
        for link, run in ((PUB, P), (SUB, S), (THIRD, T)):
            self.join(link, run)
        for pattern in ("t.>", "x", "y"):
            self.done("topic.create", pattern=pattern, durability="transient")

    def start(self, **options):
        super().start(**self.options, **options)

    def join(self, link, run, *addresses, name=""):
        """A program connects, with a producer of its own."""
        greeting = hello(run, run, name=name or run[:1].decode("latin-1"))
        return self.connect(link, greeting=replace(greeting, addresses=addresses))

    def envelope(self, body, link, sequence):
        peer = self.node.peers.get(link)
        acked = 0
        if peer is not None:
            acked = peer.session.acked if link in self.deaf else peer.session.sent
        return Envelope(7, sequence, acked, body)

    def send(self, body, link=PUB, session=7):
        self.sequences[link, session] += 1
        number = self.sequences[link, session]
        self.handle(FrameReceived(link, self.envelope(body, link, number)))

    def together(self, *frames):
        """(link, body) that came in one turn."""
        for link, body in frames:
            self.sequences[link, 7] += 1
            number = self.sequences[link, 7]
            event = FrameReceived(link, self.envelope(body, link, number))
            self.perform(self.node.handle(event, self.now_ns))
        self.perform(self.node.end_turn(self.now_ns))

    def ack(self, link=PUB, acked=None):
        """A program acknowledges all that it was sent, or up to ``acked``."""
        if acked is None:
            acked = self.node.peers[link].session.sent
        self.handle(FrameReceived(link, Envelope(7, 0, acked, Nothing())))

    def tell(self, topic, first, *values, link=PUB, numbered=True, routed=False):
        """Publish a batch; return its confirmation."""
        self.send(batch(topic, first, *values, numbered=numbered, routed=routed), link)
        (confirm,) = self.take(link, Confirm)
        (row,) = confirm.confirmations
        assert row.code == "", row
        return row

    def routes(self, add=(), remove=(), link=PUB):
        self.send(routes(add, remove), link)

    def open(self, pattern, link=SUB, number=1, size=LOTS, records=LOTS):
        """Subscribe."""
        self.send(Subscribe(number, pattern, START_NEW, 0, b"", 0, 0, size, records), link)

    def credit(self, size=LOTS, records=LOTS, link=SUB, number=1):
        self.send(Credit(number, size, records), link)

    def got(self, link=SUB, number=1):
        """What came for one subscription: (topic, number, source, value) of each record, markers,
        and gaps."""
        found = []
        for frame in self.take(link, Deliver):
            assert frame.subscription == number
            at = 0
            for row in frame.batches:
                if row.missing:
                    assert (row.length, row.checksum, row.lsn) == (0, 0, 0)
                    found.append(gap(row.topic, row.base_offset, row.count, row.source))
                elif not row.topic:
                    assert row._replace(source=b"") == DeliverBatch("", *[0] * 7)
                    found.append(marker(row.source))
                for i, value in enumerate(decode(frame.payload[at : at + row.length])):
                    found.append((row.topic, row.base_offset + i, row.source, value))
                at += row.length
            assert at == len(frame.payload)
        return found

    def wanted(self, link=PUB):
        """Topics of the Wanted frames that came."""
        return [topic for frame in self.take(link, Wanted) for topic in frame.topics]


def batch(topic, first, *values, numbered=True, routed=False):
    """A frame with one batch."""
    row, data = batch_of(topic, first, *values)
    return Publish((row._replace(numbered=numbered, routed=routed),), data)


def rec(number, value, topic="x", source=P):
    """What ``Bench.got`` shows of a record."""
    return (topic, number, source, value)
