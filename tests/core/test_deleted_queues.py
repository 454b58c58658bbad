"""A program that puts jobs while somebody deletes its queues and its links are cut: each job is
stored once, or is told to be not done, or, after a lost link, unknown."""

from __future__ import annotations

import random
import zlib
from collections import Counter, defaultdict

import pytest

from meshmq import codec
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import Send, TransactionAnswered
from meshmq.core.events import FrameReceived, LinkClosed, LinkOpened, TimerFired
from meshmq.core.lanes import DONE, FAILED
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.errors import UNKNOWN
from meshmq.frames import PublishBatch
from meshmq.limits import MS
from meshmq.names import lane_of
from tests.core.groups import GroupBench
from tests.core.helpers import OTHER_LINK

QUEUES = ["q", "r"]


class Play:
    """One client and one node, frame by frame."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.bench = GroupBench()
        self.bench.join(OTHER_LINK, instance=b"o" * 16)
        identity = ClientIdentity("local", b"c" * 16, b"c" * 16)
        self.client = Client(identity, codec.encode_batch, self.rng, encode_jobs=codec.encode_jobs)
        self.sent, self.links, self.jobs, self.answers, self.outputs = [], 0, [], {}, {}
        self.number = self.cuts = 0
        self.transaction = None
        for queue in QUEUES:
            self.command("group.create", group=queue, kind="queue")
            self.client.publisher.queues.add(queue)
        self.open()

    @property
    def link(self):
        return b"c%d" % self.links

    def command(self, verb, **arguments):
        self.bench.command(verb, link=OTHER_LINK, **arguments)
        self.bench.settle_down()

    def open(self):
        self.links += 1
        self.do(self.client.handle(LinkOpened(self.link), self.bench.now_ns))

    def do(self, effects):
        for effect in effects:
            match effect:
                case Send(_, envelope):
                    self.sent.append(envelope)
                case TransactionAnswered(number, code, _, _):
                    self.answers[number] = code
                    self.transaction = None

    def pump(self):
        self.client.pump(self.bench.now_ns)
        self.do(self.client.take_effects(self.bench.now_ns))

    def put(self):
        self.number += 1
        value = b"job-%d" % self.number
        queue, kind = self.rng.choice(QUEUES), self.rng.randrange(4)
        options = (0, 0, 3, b"") if kind == 1 else None
        topic = lane_of(queue, 3 if kind == 1 else 0)
        if kind == 2 and self.transaction is None:
            data = codec.encode_batch([value], None, None, None, 0)
            row = PublishBatch(topic, 1, 0, 1, len(data), zlib.crc32(data), False, True)
            self.transaction = self.client.transact((), (row,), data, self.bench.now_ns)
            self.outputs[self.transaction] = value
            return
        if options is not None:
            options = codec.JobOptions(*options)
        batch, _ = self.client.publisher.add(
            topic, value, None, None, None, lambda: 0, TOPIC_DEFAULT, None, options,
            self.rng.random() < 0.3,
        )  # fmt: skip
        self.jobs.append((value, batch))

    def cut(self):
        self.cuts += 1
        self.sent.clear()
        self.bench.lose(self.link)
        self.bench.inbox.pop(self.link, None)
        self.do(self.client.handle(LinkClosed(self.link, "cut"), self.bench.now_ns))
        self.sent.clear()
        self.open()

    def carry(self):
        """One frame each way."""
        if self.sent:
            self.bench.handle(FrameReceived(self.link, self.sent.pop(0)))
        inbox = self.bench.inbox.get(self.link)
        if inbox:
            self.do(self.client.handle(FrameReceived(self.link, inbox.pop(0)), self.bench.now_ns))

    def rest(self):
        for _ in range(4000):
            self.bench.now_ns += MS
            self.pump()
            self.carry()
            self.bench.settle_down()
            self.do(self.client.handle(TimerFired(), self.bench.now_ns))
            if self.client.publisher.is_idle and self.transaction is None and not self.sent:
                return

    def stored(self):
        """How often each value is in the log, deleted topics included, and the most in one."""
        by_stream = defaultdict(Counter)
        for commit in self.bench.disk.commits:
            for batch in commit.batches:
                values = codec.decode_batch(batch.payload, batch.count).values
                by_stream[batch.stream].update([bytes(value) for value in values])
        total, most = Counter(), Counter()
        for found in by_stream.values():
            total += found
            most |= found
        return total, most


@pytest.mark.parametrize("seed", range(150))
def test_jobs_are_stored_once_whoever_deletes_their_queue(seed):
    play = Play(seed)
    rng = play.rng
    cuts = rng.choice([0, 0, 0.01])
    for _ in range(rng.choice([60, 300])):
        luck = rng.random()
        play.bench.now_ns += rng.choice([1, MS])
        if luck < 0.2:
            play.put()
        elif luck < 0.3:
            play.pump()
        elif luck < 0.34:
            play.command("group.delete", group=rng.choice(QUEUES))
        elif luck < 0.34 + cuts:
            play.cut()
        elif luck < 0.5:
            play.bench.sync()
        else:
            play.carry()
    play.rest()
    assert play.client.publisher.is_idle
    total, most = play.stored()
    for value, batch in play.jobs:
        assert most[value] <= 1
        if batch.state == DONE:
            # After a lost link the first job of a program may be stored again, in a new queue.
            assert total[value] == 1 or (play.cuts and total[value]), value
        else:
            assert batch.state == FAILED
            assert play.cuts, f"{value}: {batch.error}"
            assert batch.error.outcome == UNKNOWN
    for number, value in play.outputs.items():
        assert play.answers[number] == ""
        assert total[value] == 1
    for queue in QUEUES:  # there is no topic of that name alone
        topic = play.bench.node.topics.by_name.get(queue)
        assert topic is None or queue in play.bench.node.groups.by_name
