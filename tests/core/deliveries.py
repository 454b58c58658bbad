"""Delivery with a disk beside it, for tests."""

from __future__ import annotations

import random
import zlib

from meshmq.core.delivery import Delivery
from meshmq.core.log import BatchEntry, RuleEntry
from meshmq.core.topics import Topics
from meshmq.frames import START_EARLIEST, DeliverBatch, Subscribe
from meshmq.testing.disk import Disk
from tests.core.helpers import LINK, ORIGIN, A, decode, packed

CREDIT = 1 << 20


class Bench:
    """Delivery with a disk beside it. Reads are answered only by ``read``."""

    def __init__(self, *, recent=0, queue=1 << 20, durable="ab", transient="tu"):
        self.disk = Disk(ORIGIN)
        self.topics = Topics(self.disk.state, random.Random(1))
        self.entries = []
        self.bounds = (recent, queue)
        self.restart()
        for names, kind in ((durable, True), (transient, False)):
            for name in names:
                self.topics.create(name, self.entries, RuleEntry(name, kind, 0, 0))
        self.sequence = 0

    def restart(self):
        """Begin from the log, with no commits in memory and no subscriptions."""
        self.delivery = Delivery(self.topics, self.disk.state.next_lsn, *self.bounds)

    def store(self, *batches, wall_ns=0, tell=True):
        """Commit batches, each ("topic", value, ...); with ``tell`` delivery hears of it."""
        for name, *values in batches:
            topic = self.topics.by_name[name]
            data = packed(*values)
            self.entries.append(
                BatchEntry(
                    topic.entry.stream, topic.next_offset, len(values), data, zlib.crc32(data), A,
                    self.sequence + 1,
                )
            )  # fmt: skip
            self.sequence += len(values)
            topic.next_offset += len(values)
        entries, self.entries = self.entries, []
        commit = self.disk.commit(entries, wall_ns, decode)
        for batch in commit.batches:
            self.topics.by_stream[batch.stream].synced_offset = batch.base_offset + batch.count
        if tell:
            self.delivery.on_commit(commit)
        return commit

    def subscribe(self, pattern, start=START_EARLIEST, value=0, *, number=1, link=LINK,
                  origin=ORIGIN, lsn=0, slot=0, size=CREDIT, records=CREDIT):  # fmt: skip
        frame = Subscribe(number, pattern, start, value, origin, lsn, slot, size, records)
        answer = self.delivery.subscribe(link, frame, ORIGIN)
        if not answer.code:
            self.delivery.feed_number(link, number)
        return answer

    def sub(self, number=1, link=LINK):
        (found,) = [s for s in self.delivery.subscriptions if (s.number, s.link) == (number, link)]
        return found

    def read(self):
        """Answer the reads asked for, and those that follow."""
        count = 0
        while self.delivery.reads:
            orders, self.delivery.reads = self.delivery.reads, []
            for order in orders:
                done = self.disk.read(order)
                self.delivery.on_read(done.reader, done.batches, done.next_lsn, done.next_slot)
                count += 1
        return count

    def transient(self, name, *values):
        data = packed(*values)
        row = DeliverBatch(name, 0, len(values), len(data), zlib.crc32(data), 0, 0, 0)
        for sub in self.delivery.on_transient(self.topics.by_name[name], row, data):
            self.delivery.flush(sub)

    def frames(self, link=LINK, number=1):
        """Take the frames for one subscription; what is for others stays."""
        mine = [f for to, f in self.delivery.sends if (to, f.subscription) == (link, number)]
        self.delivery.sends = [
            (to, f) for to, f in self.delivery.sends if (to, f.subscription) != (link, number)
        ]
        return mine

    def got(self, link=LINK, number=1):
        """(topic, offset, value) of each record sent to one subscription since the last time."""
        found = []
        for frame in self.frames(link, number):
            at = 0
            for b in frame.batches:
                data = frame.payload[at : at + b.length]
                at += b.length
                assert zlib.crc32(data) == b.checksum
                found += [(b.topic, b.base_offset + i, v) for i, v in enumerate(decode(data))]
            assert at == len(frame.payload)
        return found

    def values(self, link=LINK, number=1):
        return [value for _, _, value in self.got(link, number)]
