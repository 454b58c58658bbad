"""Programs of a site's nodes that work for groups and queues: real client machines on a Net."""

from __future__ import annotations

import itertools
import json
import random
from functools import partial

from meshmq import codec
from meshmq.client.job import decode
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import CloseLink, CommandAnswered, Send, StateChanged, TransactionAnswered
from meshmq.core.events import FrameReceived, LinkClosed, LinkOpened, TimerFired
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.frames import ACK, Consume, Consumed
from meshmq.limits import MIB, MS, SECOND
from meshmq.names import lane_of
from tests.core.sites import LATENCY_NS, WALL, Net, site_of


class WorkNet(Net):
    """A Net whose batches are real ones."""

    tools = codec.TOOLS
    decode = staticmethod(lambda data: [])

    def __init__(self, seed=0):
        super().__init__(seed)
        self.workers = []
        self.on_given = None

    def given(self, worker, held, index, value):
        """A program has begun a record."""
        if self.on_given is not None:
            self.on_given(worker, held, index, value)

    def worker(self, at, name="worker"):
        worker = Worker(self, at, name)
        self.workers.append(worker)
        return worker


def works_of(count, seed=0):
    """A site of so many nodes, joined, and its WorkNet."""
    return site_of(count, seed, WorkNet)


class Worker:
    """A program with one client machine; it begins what it is given at once and holds it.

    Attributes:
        hands: (held, index, value) that it has begun and not settled, oldest first.
        got: values in the order in which it began them.
        peak: the most records that it held at one time.
        news: StateChanged that it was told.
    """

    _numbers = itertools.count(1)

    def __init__(self, net, at, name="worker"):
        number = next(self._numbers)
        self.net, self.at, self.name = net, at, name
        self.rng = random.Random(f"{net.seed} {number}")
        instance = b"w%015d" % number
        self.client = Client(
            ClientIdentity(at.mesh, instance, instance, name, "test"), codec.encode_batch, self.rng,
            encode_jobs=codec.encode_jobs,
        )  # fmt: skip
        self.link = b""
        self.member = None
        self.hands, self.got, self.answers, self.transactions = [], [], [], []
        self.news = []
        self.lost = set()  # hand-outs that are others' now
        self.peak = 0
        self.due_ns = 0
        self.is_gone = False
        self.connect()

    # -- its transport --------------------------------------------------------------------------

    def connect(self):
        if self.is_gone or self.client.has_link:
            return
        if self.at.node is None:
            self.net.at(100 * MS, self.connect)
            return
        self.link = b"\0p%05d" % next(self._numbers)
        self.net.programs[self.link] = self
        self.handle(LinkOpened(self.link))

    def receive(self, envelope):
        link = self.link
        if not self.is_gone:
            if isinstance(envelope.body, Consumed):
                self.lost.update(envelope.body.lost)
            self.handle(FrameReceived(link, envelope))

    def handle(self, event):
        if not self.is_gone:
            self.perform(self.client.handle(event, self.net.now_ns))
            self.flush()

    def flush(self):
        self.client.pump(self.net.now_ns)
        self.perform(self.client.take_effects(self.net.now_ns))
        self.begin()
        due = self.client.next_deadline_ns()
        if due is not None and (not self.due_ns or due < self.due_ns):
            self.due_ns = due
            self.net.at(max(1, due - self.net.now_ns), lambda: self.fire(due))

    def fire(self, due):
        if self.due_ns == due:
            self.due_ns = 0
            self.handle(TimerFired())

    def perform(self, effects):
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    arrive = partial(self.arrive, self.at, self.at.life, link, envelope)
                    self.net.at(1, arrive)
                case CloseLink(link, delay) if link == self.link:
                    self.net.programs.pop(link, None)
                    self.net.at(1, partial(self.at.handle, LinkClosed(link, "gone")))
                    if delay >= 0:
                        self.net.at(delay + LATENCY_NS, self.connect)
                case CommandAnswered():
                    self.answers.append(effect)
                case TransactionAnswered():
                    self.transactions.append(effect)
                case StateChanged():
                    self.news.append(effect)

    @staticmethod
    def arrive(at, life, link, envelope):
        if at.life == life:
            at.handle(FrameReceived(link, envelope))

    def lose(self, move_to=None):
        """The connection ends; it goes on at another node, if one is given."""
        link = self.link
        self.net.programs.pop(link, None)  # nothing more comes
        old = self.at
        self.net.at(1, lambda: old.handle(LinkClosed(link, "gone")))
        self.at = move_to or self.at
        self.handle(LinkClosed(link, "cut"))

    def die(self):
        """Killed: the transport tells its node."""
        self.is_gone = True
        at, link = self.at, self.link
        self.net.programs.pop(link, None)
        self.net.at(1, lambda: at.handle(LinkClosed(link, "gone")))

    # -- what it does ---------------------------------------------------------------------------

    def consume(
        self, group, pattern="", prefetch=10, kind="group", size=MIB, timeout_ns=30 * SECOND,
        **settings,
    ):  # fmt: skip
        create = {"group": group, "kind": kind, **settings}
        if kind == "group":
            create["pattern"] = pattern
        wish = Consume(
            0, group, pattern or group, json.dumps(create).encode(), prefetch, size, timeout_ns
        )
        self.member = self.client.consume(wish, None, self.net.now_ns)
        self.flush()
        return self

    def work(self, queue, **options):
        return self.consume(queue, kind="queue", **options)

    def leave(self):
        self.client.leave(self.member.id, self.net.now_ns)
        self.hands.clear()
        self.flush()

    def in_hands(self):
        """How many records are the program's or wait for it, not settled, as its owners know."""
        held = list(self.member.held.values()) if self.member is not None else []
        mine = [h for h in held if h.row.number not in self.lost]
        return sum([not h.is_settled(i) for h in mine for i in range(h.row.count)])

    def begin(self):
        member = self.member
        if member is None:
            return
        self.peak = max(self.peak, self.in_hands())
        while (held := member.begin(decode)) is not None:
            held.feed = list(held.records.values)
            for index in held.cursor:
                value = held.records.values[index]
                self.got.append(value)
                self.hands.append((held, index, value))
                self.net.given(self, held, index, value)
            member.finished(held)
        self.hands = [one for one in self.hands if not one[0].is_settled(one[1])]

    def settle(self, one, kind=ACK, delay_ns=0):
        held, index, _ = one
        if one in self.hands:
            self.hands.remove(one)
        done = self.member.settle(held, index, kind, delay_ns)
        self.flush()
        return done

    def ack_all(self):
        for one in list(self.hands):
            self.settle(one)

    def put(self, topic, *values, keys=None, priority=None):
        """Publish as one batch; with a priority as jobs of a queue. The batch."""
        options = None
        if priority is not None:
            options = codec.JobOptions(priority=priority)
            topic = lane_of(topic, priority)
        batch = self.client.publisher.add_many(
            topic, list(values), keys, None, None, lambda: WALL + self.net.now_ns, TOPIC_DEFAULT,
            options,
        )  # fmt: skip
        self.flush()
        return batch

    def command(self, verb, **arguments):
        """The answer of an admin command, once it has come."""
        number = self.client.command(verb, json.dumps(arguments).encode(), self.net.now_ns)
        self.flush()
        found = []
        assert self.net.run(
            10 * SECOND, lambda: found.extend(a for a in self.answers if a.id == number) or found
        )
        return found[0].code, found[0].message, json.loads(found[0].body or b"{}")

    def show(self, group, **arguments):
        code, message, body = self.command("group.show", group=group, **arguments)
        assert code == "", message
        return body
