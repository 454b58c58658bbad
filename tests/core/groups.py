"""A node's core with members of groups that say what the test says."""

from __future__ import annotations

import json
import random
import zlib

from meshmq import codec, limits
from meshmq.core.effects import Send, SurveyLog
from meshmq.core.events import Committed, FrameReceived, TimerFired, WallClock
from meshmq.core.node import Node
from meshmq.frames import (
    ACK,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Consume,
    Consumed,
    Envelope,
    HandOut,
    Leave,
    Ping,
    Publish,
    PublishBatch,
    Revoke,
    Settle,
    Settled,
    SettleRow,
    Transact,
    TransactAck,
    Transacted,
)
from tests.core.helpers import LINK, SECOND
from tests.core.nodes import NodeBench, hello

MS = limits.MS


class GroupBench(NodeBench):
    """A NodeBench with real batches, members and a wall clock that goes with its time."""

    def __init__(self):
        self.lives = 0
        self.nexts = {}  # producers go on where they were, whatever becomes of the node
        super().__init__()

    def start(self, **options):
        self.lives += 1
        self.node = Node(
            self.disk.state, name="node-1", mesh="local", software="meshmq test",
            tools=codec.TOOLS, entropy=random.Random(self.lives), **options,
        )  # fmt: skip
        self.inbox, self.closed, self.plans, self.appends, self.sequences = {}, [], 0, [], {}
        self.frames, self.heard = {}, {}
        self.tell_time()

    def tick_clock(self):
        self.handle(WallClock(self.wall_ns + self.now_ns))

    def perform(self, effects):
        # Reads are answered at once: what was sent before them must be out by then.
        for effect in sorted(effects, key=lambda e: not isinstance(e, Send)):
            if isinstance(effect, SurveyLog):
                self.handle(self.disk.survey(effect))
            elif isinstance(effect, Send) and 0 < effect.envelope.sequence <= self.heard.get(
                (effect.link, effect.envelope.session), 0
            ):
                pass  # sent again: nobody acknowledges here
            elif isinstance(effect, Send):
                place = (effect.link, effect.envelope.session)
                self.heard[place] = max(self.heard.get(place, 0), effect.envelope.sequence)
                super().perform([effect])
            else:
                super().perform([effect])

    def sync(self):
        appends, self.appends = self.appends, []
        for append in appends:
            commit = self.disk.commit(append.entries, self.wall_ns + self.now_ns, lambda data: [])
            self.handle(Committed(append.ticket, (commit,)))

    def settle_down(self):
        """Sync until nothing more comes of it."""
        while self.appends:
            self.sync()

    def wait(self, delay_ns):
        """Let time pass, with timers when they are due and links that ping."""
        until = self.now_ns + delay_ns
        while self.now_ns < until:
            due = self.node.next_deadline_ns()
            self.now_ns = min(until, max(due, self.now_ns + 1), self.now_ns + SECOND)
            for link, session in self.sequences:
                self.handle(FrameReceived(link, Envelope(session, 0, 0, Ping())))
            self.tick_clock()
            self.handle(TimerFired())
            self.settle_down()

    def join(self, link=LINK, instance=b"i" * 16):
        self.heard[link, 7] = 0
        self.connect(link, greeting=hello(producer=link.ljust(16, b"p")[:16], instance=instance))

    # -- producing --------------------------------------------------------------------------

    def put(self, topic, *values, keys=None, link=LINK, sync=True, **options):
        """Publish values of one topic as one batch; options are those of a job."""
        if options:
            given = codec.JobOptions(**options)
            data = codec.encode_jobs(list(values), keys, None, None, 0, given)
        else:
            data = codec.encode_batch(list(values), keys, None, None, 0)
        first = self.nexts.get((link, topic), 1)
        self.nexts[link, topic] = first + len(values)
        row = PublishBatch(topic, first, first - 1, len(values), len(data), zlib.crc32(data))
        self.send(Publish((row,), data), link)
        if sync:
            self.settle_down()

    # -- consuming --------------------------------------------------------------------------

    def consume(
        self, group, pattern="", kind="group", link=LINK, number=1, prefetch=100, timeout_s=30,
        holdings=(), size=1 << 20, **settings,
    ):  # fmt: skip
        """Join; return the answer."""
        create = {"group": group, "kind": kind, **settings}
        if kind == "group":
            create["pattern"] = pattern
        self.frames[link, number] = 0
        self.send(
            Consume(
                number, group, pattern, json.dumps(create).encode(), prefetch, size,
                int(timeout_s * SECOND), holdings,
            ),
            link,
        )  # fmt: skip
        self.settle_down()
        (answer,) = self.take(link, Consumed)
        return answer

    def got(self, link=LINK):
        """What was handed out over a link since the last time: (value, number, index, row)."""
        found = []
        for frame in self.take(link, HandOut):
            at = 0
            for row in frame.rows:
                records = codec.decode_batch(frame.payload[at : at + row.length], row.held)
                at += row.length
                found += [
                    (records.values[place], row.number, i, row)
                    for i, place in enumerate(row.places())
                ]
        return found

    def values(self, link=LINK):
        return [item[0] for item in self.got(link)]

    def settle(self, *rows, link=LINK, number=1, sync=True):
        """Say rows; return the answer once it is synced."""
        self.frames[link, number] = self.frames.get((link, number), 0) + 1
        self.send(Settle(number, self.frames[link, number], rows), link)
        if not sync:
            return None
        self.settle_down()
        return self.take(link, Settled)[-1]

    def ack(self, *items, **options):
        return self.settle(*[SettleRow(n, i, 1, ACK) for _, n, i, _ in items], **options)

    def nack(self, item, delay_s=0.0, reason="", **options):
        row = SettleRow(item[1], item[2], 1, NACK, int(delay_s * SECOND), reason)
        return self.settle(row, **options)

    def reject(self, item, reason="", **options):
        return self.settle(SettleRow(item[1], item[2], 1, REJECT, 0, reason), **options)

    def extend(self, item, seconds, **options):
        return self.settle(SettleRow(item[1], item[2], 1, EXTEND, int(seconds * SECOND)), **options)

    def give_back(self, item, **options):
        return self.settle(SettleRow(item[1], item[2], 1, RETURN), **options)

    def leave(self, link=LINK, number=1):
        self.send(Leave(number), link)
        self.settle_down()

    def revoked(self, link=LINK):
        rows = [row for frame in self.take(link, Revoke) for row in frame.rows]
        return [(row.number, row.first, row.count) for row in rows]

    def transact(self, number, acks, outputs, link=LINK):
        """A transaction of lone records; return the answer once it is synced."""
        rows, payload = [], b""
        for topic, value in outputs:
            data = codec.encode_batch([value], None, None, None, 0)
            rows.append(PublishBatch(topic, 1, 0, 1, len(data), zlib.crc32(data)))
            payload += data
        said = tuple([TransactAck(1, n, i, 1) for _, n, i, _ in acks])
        self.send(Transact(number, said, tuple(rows), payload), link)
        self.settle_down()
        return self.take(link, Transacted)[-1]

    def show(self, group):
        return self.done("group.show", group=group)

    def crash(self, **options):
        """Kill the node; what was not synced is gone. Nobody is connected after it."""
        self.now_ns += SECOND
        self.start(**options)
