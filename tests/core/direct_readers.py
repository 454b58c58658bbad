"""A program that reads at several nodes of a site, and a history of what can happen to it.

The nodes and the client's machine are the real ones; links, disks and time are those of ``sites``
and ``movers``.
"""

from __future__ import annotations

import random
from unittest.mock import patch

from meshmq import codec
from meshmq.core.effects import Arrived, CloseLink, OpenLink, Send
from meshmq.core.events import FrameReceived, LinkClosed
from meshmq.core.owner_links import OWNER_LINK
from meshmq.core.subscriber import Start, Subscriber
from meshmq.frames import START_EARLIEST, Confirm, Drained
from meshmq.limits import KIB, MIB, MS, SECOND
from meshmq.testing.request_world import small
from tests.core.helpers import decode
from tests.core.movers import Mover, freeze, kill, moving_site
from tests.core.sites import LATENCY_NS, Program, joined

SMALL = {
    "DIRECT_READ_FRAMES": 2, "DIRECT_READ_BYTES": 300, "DIRECT_READ_WINDOW_BYTES": 64,
    "DIRECT_READ_IDLE_NS": 2 * SECOND, "DIRECT_READ_RETRY_NS_MIN": 100 * MS,
    "DIRECT_READ_RETRY_NS_MAX": SECOND,
}  # fmt: skip
TOPICS = ("a.x", "a.y", "b.x")


class Writer(Program):
    """A program that publishes at one node."""

    confirmed = 0

    def receive(self, envelope):
        super().receive(envelope)
        if isinstance(envelope.body, Confirm):
            self.confirmed += sum(row.count for row in envelope.body.confirmations)


class OwnerSide:
    """The reader's link to one node other than its own, as the network knows it."""

    def __init__(self, reader, link, node):
        self.reader, self.link, self.at = reader, link, node

    def receive(self, envelope):
        if self.at not in self.reader.blocked and self.link in self.reader.sides:
            envelope = codec.decode(codec.encode(envelope))
            self.reader.handle(FrameReceived(self.link, envelope))


class Feed:
    """One subscription: what came, and what is not consumed yet.

    Attributes:
        got: offsets by (name of the node, topic), in order.
        first: by name of the node the first offset that came, of what begins somewhere.
        last: the newest batch.
        most: the most bytes and records that were held at once.
    """

    def __init__(self, pattern, window, is_whole):
        self.pattern, self.window, self.is_whole = pattern, window, is_whole
        self.first, self.last = {}, None
        self.arrivals = []
        self.got = {}
        self.most = [0, 0]


class DirectReader(Mover):
    """A program with subscriptions that reads directly where it can.

    Attributes:
        sides: links to other nodes, by name.
        blocked: nodes that it does not reach by these.
        wrong: what may not be and was.
        directly: records that came by them; dials: how many were begun.
    """

    def __init__(self, net, *addresses, is_on=True, **options):
        self.sides, self.blocked = {}, set()
        self.feeds, self.wrong = {}, []
        self.directly = self.dials = 0
        super().__init__(net, *addresses, **options)
        self.client.reads.is_on = is_on
        self.names = {n.origin: n.name for n in net.nodes}

    def open(self, pattern="t", start=None, window=(4 * MIB, 100_000), dedup=False):
        is_whole = start is None
        start = Start(START_EARLIEST) if start is None else start
        number = self.client.subscribe(pattern, start, *window, self.net.now_ns, dedup)
        self.feeds[number] = Feed(pattern, window, is_whole)
        self.flush()
        return number

    def close(self, number):
        self.client.unsubscribe(number, self.net.now_ns)
        del self.feeds[number]
        self.flush()

    def perform(self, effects):
        rest = []
        for effect in effects:
            match effect:
                case OpenLink(link, address):
                    self.dial_owner(link, address)
                case CloseLink(link) if link.startswith(OWNER_LINK):
                    self.forget(link)
                case Send(link, envelope) if link.startswith(OWNER_LINK):
                    self.send_owner(link, envelope)
                case Arrived(number, arrivals):
                    self.arrive(number, arrivals)
                case _:
                    rest.append(effect)
        super().perform(rest)

    def dial_owner(self, link, address):
        self.dials += 1
        node = next(n for n in self.net.nodes if n.client_address == address)
        if node.node is None and node not in self.blocked:
            self.net.at(LATENCY_NS, lambda: self.handle(LinkClosed(link, "nobody listens")))
        side = self.sides[link] = OwnerSide(self, link, node)
        self.net.programs[self.wire(link)] = side

    def wire(self, link):
        """The link as nodes name it."""
        return b"\0" + self.name.encode() + link

    def forget(self, link):
        self.sides.pop(link, None)
        self.net.programs.pop(self.wire(link), None)

    def send_owner(self, link, envelope):
        side = self.sides.get(link)
        if side is None or side.at in self.blocked or side.at.node is None:
            return
        node, life, sent = side.at, side.at.life, codec.decode(codec.encode(envelope))
        self.net.at(LATENCY_NS, lambda: node.life == life and node.handle(
            FrameReceived(self.wire(link), sent)))  # fmt: skip

    def cut_owner(self, node):
        """Its link to a node ends, and it is told."""
        for link, side in list(self.sides.items()):
            if side.at is node:
                self.forget(link)
                self.net.at(1, lambda gone=link: self.handle(LinkClosed(gone, "cut")))

    # -- what comes -----------------------------------------------------------------------------

    def arrive(self, number, arrivals):
        feed = self.feeds.get(number)
        if feed is None:
            return
        for a in arrivals:
            node = self.names[a.origin]
            got = feed.got.setdefault((node, a.topic), [])
            offsets = range(a.base_offset + a.skip, a.base_offset + a.count)
            begins = 0 if feed.is_whole else offsets.start
            expected = got[-1] + 1 if got else begins
            feed.first.setdefault(node, offsets.start)
            if offsets.start != expected:
                self.wrong.append(f"{node} {a.topic}: {offsets} came for {expected}")
            if len(decode(a.payload)) != a.count:
                self.wrong.append("not what it says")
            got += offsets
            feed.arrivals.append(a)
            feed.last = a
            share = self.client.subscribers[number].shares.get(a.origin)
            self.directly += a.count if share is not None else 0
        size = sum(len(a.payload) for a in feed.arrivals)
        records = sum(a.count for a in feed.arrivals)
        feed.most = [max(feed.most[0], size), max(feed.most[1], records)]

    def consume(self, number, batches=None):
        """Be done with so many batches, or all."""
        feed = self.feeds[number]
        todo = feed.arrivals[:batches]
        del feed.arrivals[:batches]
        if todo:
            size, count = sum(len(a.payload) for a in todo), sum(a.count for a in todo)
            self.client.consumed(number, size, count, self.net.now_ns)
            self.flush()

    def direct(self, number=1):
        return self.client.reads.read_directly(number)


def reading_site(count, seed=0, at=0, **options):
    """Nodes, and a reader at one of them."""
    net, nodes = moving_site(count, seed)
    reader = DirectReader(net, nodes[at].client_address, **options)
    assert net.run(5 * SECOND, lambda: reader.is_connected)
    net.run(2 * SECOND)  # it is told of the others
    return net, nodes, reader


class World:
    """One history, from one seed: ``run`` plays it, ``faults`` says what was wrong."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        with small(SMALL):
            size = rng.choice([2, 3, 3, 4])
            self.net, self.nodes, self.reader = reading_site(size, seed)
        self.writers = {}
        self.batch = rng.choice([1, 1, 5])
        self.window = rng.choice([(2 * KIB, 10_000), (MIB, 64), (MIB, 10_000)])
        self.is_slow = rng.random() < 0.5

    def run(self):
        with small(SMALL), self._watch():
            self._open()
            often, rare = [self._write] * 24 + [self._consume] * 6, [
                self._cut_link, self._cut_link, self._block, self._unblock, self._unblock,
                self._kill, self._start, self._start, self._start, self._drain, self._part,
                self._join, self._join, self._freeze, self._rest, self._turn_over,
            ]  # fmt: skip
            acts = often + rare
            for _ in range(self.rng.choice([60, 150])):
                self.rng.choice(acts)()
                self.net.run(self.rng.choice([1, 3, 10, 50]) * MS)
                if not self.is_slow:
                    self._consume_all()
            self._heal()

    def faults(self):
        """In words."""
        yield from self.reader.wrong
        for number, feed in self.reader.feeds.items():
            sub = self.reader.client.subscribers[number]
            if sub.missed or sub.damaged:
                yield f"{number} has missed {sub.missed}"
            for node in self.nodes:
                for topic, held in node.disk.state.topics.items():
                    if not self._wants(feed.pattern, topic):
                        continue
                    came = len(feed.got.get((node.name, topic), ()))
                    if came != held.next_offset:
                        yield f"{number}: {came} of {held.next_offset} of {node.name} {topic} came"
            most = [w + len(self.nodes) * 6 * n for w, n in zip(
                feed.window, (self.batch * 20, self.batch), strict=True)]  # fmt: skip
            if any(m > limit for m, limit in zip(feed.most, most, strict=True)):
                yield f"{number} held {feed.most}, its window is {feed.window}"
        if self.reader.client.state != "connected":
            yield f"it is {self.reader.client.state}"

    @staticmethod
    def _wants(pattern, topic):
        return topic == pattern or (pattern.endswith(">") and topic.startswith(pattern[:-1]))

    def _watch(self):
        """Notice what comes a second time: the program would not see it."""
        real, wrong = Subscriber._place, self.reader.wrong

        def place(sub, log, row):
            seen = log.next_offset.get(row.topic, 0)
            if row.base_offset < seen:
                wrong.append(f"{row.topic} {row.base_offset} came again, {seen} is expected")
            return real(sub, log, row)

        return patch.object(Subscriber, "_place", place)

    # -- what happens ---------------------------------------------------------------------------

    def _up(self):
        return [n for n in self.nodes if n.node is not None]

    def _open(self):
        pattern = self.rng.choice(["a.x", "a.>", ">"])
        self.reader.open(pattern, window=self.window, dedup=self.rng.random() < 0.2)

    def _turn_over(self):
        """One subscription more, or less."""
        if len(self.reader.feeds) < 3:
            self._open()
        elif self.rng.random() < 0.5:
            self.reader.close(self.rng.choice(list(self.reader.feeds)))

    def _write(self):
        up = self._up()
        if not up:
            return
        node = self.rng.choice(up)
        writer = self.writers.get(node.name)
        if writer is None or writer.life != node.life:
            writer = self.writers[node.name] = Writer(self.net, node)
            writer.life = node.life
        for _ in range(self.rng.choice([1, 3, 12])):
            count = self.rng.randint(1, self.batch)
            writer.publish(self.rng.choice(TOPICS), *[b"%d" % i for i in range(count)])

    def _consume(self):
        for number in list(self.reader.feeds):
            self.reader.consume(number, self.rng.randint(1, 8))

    def _consume_all(self):
        for number in list(self.reader.feeds):
            self.reader.consume(number)

    def _cut_link(self):
        self.reader.cut_owner(self.rng.choice(self.nodes))

    def _block(self):
        self.reader.blocked.add(self.rng.choice(self.nodes))

    def _unblock(self):
        self.reader.blocked.clear()

    def _kill(self):
        up = self._up()
        if len(up) > 1:
            node = self.rng.choice(up)
            kill(self.net, node)
            self.reader.cut_owner(node)

    def _freeze(self):
        up = self._up()
        if len(up) > 1:
            freeze(self.net, self.rng.choice(up))

    def _start(self):
        for node in self.nodes:
            if node.node is None:
                node.start([o.address for o in self.nodes if o is not node])
                return

    def _drain(self):
        for side in list(self.reader.sides.values()):
            if side.at.node is not None:
                side.at.node.sessions.send(
                    self.reader.wire(side.link), Drained(()), self.net.now_ns
                )
                side.at.end_turn()

    def _part(self):
        self.net.cut(*self.rng.sample(self.nodes, 2))

    def _join(self):
        self.net.heal()

    def _rest(self):
        self.net.run(self.rng.choice([200 * MS, 4 * SECOND]), None)

    def _heal(self):
        self.net.heal()
        self.reader.blocked.clear()
        for _ in self.nodes:
            self._start()
        self.net.run(10 * SECOND, lambda: joined(self.net) and self.reader.is_connected)
        for _ in range(30):
            self._consume_all()
            self.net.run(200 * MS)
            if not list(self.faults()):
                break
        for node in self.nodes:  # what is new still comes, whatever has happened
            writer = Writer(self.net, node)
            for topic in TOPICS:
                writer.publish(topic, b"last")
        self.net.run(50 * MS)
        for _ in range(20):
            self._consume_all()
            self.net.run(100 * MS)
            if not list(self.faults()):
                break
