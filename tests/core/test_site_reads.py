"""Durable topics across nodes: what a subscription at one node has of the logs of all."""

from __future__ import annotations

import random

import pytest

from meshmq import limits
from meshmq.core.events import RetentionPlanned
from meshmq.core.subscriber import Start, Subscriber
from meshmq.errors import BadFrame
from meshmq.frames import (
    DURABLE_ONLY,
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_POSITION,
    START_TIME,
    TRANSIENT_ONLY,
    Command,
    Confirm,
    Deliver,
    DeliverBatch,
    Place,
    Streams,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from meshmq.limits import MIB, MS, SECOND
from meshmq.names import Position
from tests.core.helpers import decode
from tests.core.sites import WALL, Program, joined, site_of


class Reader(Program):
    """A client's subscription at a node, that takes all at once unless it is told to wait.

    Attributes:
        got: (name of the node whose log it is, offset, value) of each record, in order.
        tokens: the position behind each record of ``got``.
        refused: the code of a refusal.
        greatest: the most bytes and records that were granted and not yet read.
    """

    def __init__(self, net, at, pattern="t", start=Start(START_EARLIEST), window=(MIB, 10_000)):
        self.sub = Subscriber(1, pattern, start, *window)
        self.got, self.tokens, self.arrived = [], [], []
        self.refused = ""
        self.is_open = False
        self.waits = False
        self.granted = [0, 0]
        self.came = [0, 0]
        self.frames = []
        self.news = []
        super().__init__(net, at)
        self.names = {n.origin: n.name for n in net.nodes}
        self.open()

    def open(self):
        frame = self.sub.subscribe()
        self.granted = [frame.credit_bytes, frame.credit_records]
        self.came = [0, 0]
        self.places = set()
        self.send(frame)

    def move(self, at):
        """Be a client of another node, as one is whose node has died."""
        del self.net.programs[self.link]
        other = Reader.__new__(Reader)
        other.__dict__.update(self.__dict__)
        Program.__init__(other, self.net, at)
        other.is_open = False
        other.open()
        return other

    def receive(self, envelope):
        super().receive(envelope)
        body = envelope.body
        match body:
            case Subscribed():
                self.refused, self.is_open = body.code, not body.code
                if not body.code:
                    self.sub.on_subscribed(body)
                    self.grant()
            case Streams():
                self.news += self.sub.on_streams(body)
            case Deliver():
                assert self.is_open, "something came before the answer"
                assert min(g - c for g, c in zip(self.granted, self.came, strict=True)) > 0
                self.came[0] += len(body.payload)
                self.came[1] += sum(row.count for row in body.batches)
                self.frames.append(body)
                places = {(row.origin, row.lsn, row.slot) for row in body.batches if row.lsn}
                assert not places & self.places, "a batch came twice in one session"
                self.places |= places
                self.arrived += self.sub.on_deliver(body)
                if not self.waits:
                    self.read()

    def read(self, batches=None):
        """Read what has come, or so many batches of it."""
        todo, self.arrived = self.arrived[:batches], self.arrived[len(self.arrived[:batches]) :]
        for a in todo:
            for i, value in list(enumerate(decode(a.payload)))[a.skip :]:
                self.got.append((self.names[a.origin], a.base_offset + i, value))
                others = tuple((p.origin.hex(), p.lsn, p.slot, p.skip) for p in a.others)
                position = Position(a.origin.hex(), a.lsn, a.slot, i, a.since, others)
                self.tokens.append(str(position))
            self.sub.on_consumed(len(a.payload), a.count)
        self.grant()

    def grant(self):
        credit = self.sub.credit()
        if credit is not None:
            self.granted[0] += credit.bytes
            self.granted[1] += credit.records
            self.send(credit)

    def values(self):
        return [value for _, _, value in self.got]

    def of(self, node):
        """Offsets that came of one node's log."""
        return [offset for name, offset, _ in self.got if name == node.name]


def start_at(token):
    """As the client does with a position's text."""
    p = Position.parse(token)
    others = tuple(Place(bytes.fromhex(o), *place) for o, *place in p.others)
    return Start(
        START_POSITION, p.since, bytes.fromhex(p.origin), p.lsn, p.slot, p.index + 1, others
    )


class Writer(Program):
    """A client that publishes at a node and knows how much is confirmed."""

    def __init__(self, net, at):
        super().__init__(net, at)
        self.confirmed = self.published = 0

    def receive(self, envelope):
        super().receive(envelope)
        if isinstance(envelope.body, Confirm):
            for row in envelope.body.confirmations:
                assert not row.code, row
                self.confirmed += row.count

    def write(self, *values, topic="t"):
        self.published += len(values)
        self.publish(topic, *values)

    def flush(self):
        assert self.net.run(5 * SECOND, lambda: self.confirmed == self.published)


def site(count):
    net, nodes = site_of(count)
    return net, nodes, [Writer(net, node) for node in nodes]


def numbered(name, first, count):
    return [b"%s%d" % (name.encode(), i) for i in range(first, first + count)]


def fill(writers, count=3, first=0):
    """Every node's log gets so many records, each in a batch of its own."""
    for i in range(first, first + count):
        for w in writers:
            w.write(b"%s.%d" % (w.at.name.encode(), i))
    for w in writers:
        w.flush()


def expect(net, reader, nodes, count, span=5 * SECOND):
    """All of so many records of each log came once, each log in order."""
    want = [(n, list(range(count))) for n in nodes]
    assert net.run(span, lambda: all(len(reader.of(n)) >= count for n, _ in want)), reader.got
    net.run(100 * MS)
    for node, offsets in want:
        assert reader.of(node) == offsets


# -- what it covers ------------------------------------------------------------------------------


def test_a_replay_at_any_node_has_the_logs_of_all_each_in_its_order():
    net, nodes, writers = site(3)
    fill(writers, 5)
    for node in nodes:
        reader = Reader(net, node)
        expect(net, reader, nodes, 5)
        assert reader.sub.missed == 0


def test_what_is_published_later_anywhere_comes():
    net, nodes, writers = site(3)
    reader = Reader(net, nodes[0])
    net.run(100 * MS)
    fill(writers, 4)
    expect(net, reader, nodes, 4)


def test_a_topic_that_another_node_makes_later_comes_for_a_pattern():
    net, (a, b), (_, write) = site(2)
    reader = Reader(net, a, "x.>", Start(START_NEW))
    net.run(100 * MS)
    write.write(b"1", topic="x.late")
    write.write(b"no", topic="y.late")
    write.flush()
    assert net.run(SECOND, lambda: reader.values() == [b"1"])
    assert reader.got[0][0] == b.name


def test_new_is_all_that_is_published_after_the_answer_and_nothing_before():
    net, (a, b), writers = site(2)
    fill(writers, 3)
    reader = Reader(net, a, start=Start(START_NEW))
    assert not reader.is_open
    assert net.run(SECOND, lambda: reader.is_open)
    writers[1].write(b"after")
    writers[1].flush()
    assert net.run(SECOND, lambda: bool(reader.got))
    assert reader.got == [(b.name, 3, b"after")]


def test_the_answer_to_new_waits_for_siblings_but_not_for_ever():
    net, (a, b), _ = site(2)
    net.cut(a, b)
    reader = Reader(net, a, start=Start(START_NEW))
    began = net.now_ns
    assert not net.run(limits.NOTED_NS - MS, lambda: reader.is_open)
    assert net.run(10 * MS, lambda: reader.is_open)
    assert net.now_ns - began <= limits.NOTED_NS + 10 * MS


def test_new_goes_by_no_clock():
    net, (a, b), writers = site(2)
    commit = b.disk.commit
    b.disk.commit = lambda entries, wall_ns, records: commit(entries, wall_ns + SECOND, records)
    fill(writers[1:], 2)
    reader = Reader(net, a, start=Start(START_NEW))
    assert net.run(SECOND, lambda: reader.is_open)
    fill(writers[1:], 1, first=2)
    net.run(100 * MS)
    assert reader.of(b) == [2]


def test_nothing_comes_before_an_answer_that_waits():
    """``Reader`` asserts that."""
    net, (a, b, c), writers = site(3)
    net.cut(a, b)
    reader = Reader(net, a, start=Start(START_NEW))
    net.run(10 * MS)
    fill([writers[0], writers[2]], 3)
    assert not reader.is_open
    assert net.run(2 * SECOND, lambda: (reader.of(a), reader.of(c)) == ([0, 1, 2],) * 2)


def test_a_time_still_counts_after_a_move_before_the_first_record():
    net, (a, b), writers = site(2)
    fill(writers, 2)
    net.run(SECOND)
    reader = Reader(net, a, start=Start(START_TIME, WALL + net.now_ns))
    assert net.run(SECOND, lambda: reader.is_open)
    reader = reader.move(b).move(a)
    net.run(100 * MS)
    assert reader.got == []
    fill(writers, 1, first=2)
    net.run(100 * MS)
    assert (reader.of(a), reader.of(b)) == ([2], [2])


def test_at_a_node_that_is_met_later_new_is_what_is_younger_than_the_subscription():
    net, (a, _), _ = site(2)
    late = net.add()
    late.start()
    writer = Writer(net, late)
    writer.write(b"old")
    writer.flush()
    net.run(SECOND)
    reader = Reader(net, a, start=Start(START_NEW))
    reader.names[late.origin] = late.name
    assert net.run(SECOND, lambda: reader.is_open)
    writer.write(b"young")
    writer.flush()
    reader = reader.move(late)
    assert net.run(SECOND, lambda: reader.values() == [b"young"])


def test_an_answer_that_waits_is_sent_when_the_sibling_is_gone():
    net, (a, b), _ = site(2)
    net.cut(a, b)
    reader = Reader(net, a, start=Start(START_NEW))
    net.run(10 * MS)
    assert not reader.is_open
    net.heal()
    net.kill(b)
    assert net.run(100 * MS, lambda: reader.is_open)


def test_an_answer_that_waits_is_sent_when_the_subscription_ends():
    net, (a, b), _ = site(2)
    net.cut(a, b)
    reader = Reader(net, a, start=Start(START_NEW))
    reader.send(Unsubscribe(1))
    assert net.run(10 * MS, lambda: reader.is_open)


def test_a_time_counts_in_every_log():
    net, nodes, writers = site(2)
    fill(writers, 2)
    net.run(SECOND)
    now = WALL + net.now_ns
    fill(writers, 2, first=2)
    reader = Reader(net, nodes[0], start=Start(START_TIME, now))
    assert net.run(SECOND, lambda: len(reader.got) == 4)
    assert [reader.of(n) for n in nodes] == [[2, 3], [2, 3]]


def test_an_offset_counts_in_the_own_log_and_of_the_others_comes_what_is_new():
    net, (a, b), writers = site(2)
    fill(writers, 4)
    reader = Reader(net, a, start=Start(START_OFFSET, 2))
    assert net.run(SECOND, lambda: reader.of(a) == [2, 3])
    fill(writers, 1, first=4)
    assert net.run(SECOND, lambda: (reader.of(a), reader.of(b)) == ([2, 3, 4], [4]))


def test_a_subscription_to_transient_topics_alone_reads_no_log():
    net, (a, _), writers = site(2)
    fill(writers)
    program = Program(net, a)
    program.send(Subscribe(1, ">", START_EARLIEST, 0, b"", 0, 0, MIB, 1000, TRANSIENT_ONLY))
    net.run(SECOND)
    assert not program.take(Deliver)
    assert not program.take(Streams)
    fill(writers, 1, first=3)
    assert not program.take(Deliver)


def test_a_subscription_to_durable_topics_alone_has_no_transient_records():
    net, (a, b), writers = site(2)
    for node in (a, b):
        Program(net, node).send(
            Command(1, "topic.create", b'{"pattern": "x", "durability": "transient"}')
        )
    net.run(100 * MS)
    program = Program(net, a)
    program.send(Subscribe(1, ">", START_NEW, 0, b"", 0, 0, MIB, 1000, DURABLE_ONLY))
    net.run(100 * MS)
    writers[0].write(b"own", topic="x")
    writers[1].write(b"other", topic="x")
    writers[1].write(b"stored", topic="t")
    net.run(SECOND)
    assert program.values() == [("t", b"stored")]


def test_a_sibling_asks_for_its_own_clients_only_and_is_given_nothing_of_third_ones():
    net, nodes, writers = site(3)
    reader = Reader(net, nodes[0])
    fill(writers, 2)
    expect(net, reader, nodes, 2)
    assert [len(n.node.reads._across) for n in nodes] == [1, 0, 0]
    assert [len(n.node.reads._by_number) for n in nodes] == [2, 0, 0]


def test_what_is_damaged_in_another_log_is_counted():
    net, (a, b), writers = site(2)
    fill([writers[1]], 6)
    net.kill(b)
    (place,) = [
        (commit.lsn, slot)
        for commit in b.disk.commits
        for slot, batch in enumerate(commit.batches)
        if batch.base_offset == 2
    ]
    b.disk.flipped.add(place)
    b.start([a.address])
    reader = Reader(net, a)
    assert net.run(5 * SECOND, lambda: reader.of(b) == [0, 1, 3, 4, 5])
    assert (reader.sub.missed, reader.sub.damaged) == (1, 1)


def test_what_retention_took_of_another_log_is_counted():
    net, (a, b), writers = site(2)
    fill([writers[1]], 10)
    reader = Reader(net, a, window=(MIB, 1))
    reader.waits = True
    net.run(SECOND)
    reader.read()
    net.run(SECOND)
    (topic,) = [t for t in b.node.topics.by_name.values() if t.entry.name == "t"]
    b.handle(RetentionPlanned(((topic.entry.stream, 8),)))
    net.run(100 * MS)
    net.kill(b)  # which has the newest in memory
    b.start([a.address])
    assert net.run(5 * SECOND, lambda: joined(net))
    reader.waits = False
    reader.read()
    assert net.run(SECOND, lambda: reader.of(b)[-2:] == [8, 9])
    assert len(reader.got) + reader.sub.missed == 10
    assert reader.sub.missed > 0


# -- away and back -------------------------------------------------------------------------------


def test_whose_node_has_died_is_away_and_what_it_has_comes_when_it_is_back():
    net, (a, b, c), writers = site(3)
    fill(writers, 2)
    reader = Reader(net, a)
    expect(net, reader, [a, b, c], 2)
    assert reader.sub.away == ()
    writers[1].write(b"last")
    writers[1].flush()
    net.kill(b)
    assert net.run(SECOND, lambda: reader.sub.away == (b.name,))
    fill([writers[0], writers[2]], 1, first=2)
    b.start([a.address])
    assert net.run(5 * SECOND, lambda: reader.sub.away == ())
    expect(net, reader, [a, b, c], 3)
    assert reader.news == [
        f"subscription to 't': node {b.name} is away: its records wait",
        f"subscription to 't': node {b.name} is back",
    ]


def test_who_subscribes_while_a_node_is_away_is_told_and_gets_all_when_it_is_back():
    net, (a, b), writers = site(2)
    fill(writers, 2)
    net.kill(b)
    net.run(SECOND)
    reader = Reader(net, a)
    assert net.run(SECOND, lambda: reader.is_open)
    assert reader.sub.away == (b.name,)  # who has the answer knows
    b.start([a.address])
    expect(net, reader, [a, b], 2)


def test_a_cut_between_nodes_neither_skips_nor_repeats():
    net, (a, b), writers = site(2)
    reader = Reader(net, a)
    net.run(100 * MS)
    for i in range(40):
        fill([writers[1]], 1, first=i)
        if i % 10 == 5:
            net.cut(a, b, one_way=bool(i % 20 == 5))
        if i % 10 == 9:
            net.run(4 * SECOND)
            net.heal()
            assert net.run(5 * SECOND, lambda: joined(net))
    expect(net, reader, [b], 40)


def test_a_new_subscription_has_all_of_a_node_that_joins_later():
    net, (a, _), _ = site(2)
    reader = Reader(net, a, start=Start(START_NEW))
    assert net.run(SECOND, lambda: reader.is_open)
    late = net.add()
    late.start()  # alone, and published to before anybody knows of it
    writer = Writer(net, late)
    reader.names[late.origin] = late.name
    writer.write(b"before it joins")
    writer.flush()
    late.node.site.look_for((a.address,), net.now_ns)
    assert net.run(3 * SECOND, lambda: joined(net))
    writer.write(b"behind")
    writer.flush()
    assert net.run(SECOND, lambda: len(reader.got) == 2)
    assert reader.values() == [b"before it joins", b"behind"]


def test_a_new_subscription_has_nothing_older_than_it_of_a_node_that_joins_later():
    net, (a, _), _ = site(2)
    late = net.add()
    late.start()
    writer = Writer(net, late)
    writer.write(b"old")
    writer.flush()
    net.run(SECOND)
    reader = Reader(net, a, start=Start(START_NEW))
    assert net.run(SECOND, lambda: reader.is_open)
    reader.names[late.origin] = late.name
    late.node.site.look_for((a.address,), net.now_ns)
    assert net.run(3 * SECOND, lambda: joined(net))
    net.run(SECOND)
    assert reader.got == []
    writer.write(b"new")
    writer.flush()
    assert net.run(SECOND, lambda: reader.values() == [b"new"])


# -- another node, and positions -----------------------------------------------------------------


def test_a_client_that_moves_reads_on_at_the_same_places_of_all_logs():
    net, nodes, writers = site(3)
    reader = Reader(net, nodes[0])
    fill(writers, 3)
    expect(net, reader, nodes, 3)
    fill(writers, 1, first=3)
    reader = reader.move(nodes[1])
    fill(writers, 1, first=4)
    expect(net, reader, nodes, 5)
    reader = reader.move(nodes[2])
    fill(writers, 1, first=5)
    expect(net, reader, nodes, 6)
    assert reader.sub.missed == 0


def test_a_client_whose_node_has_died_has_the_rest_of_it_when_it_is_back():
    net, (a, b), writers = site(2)
    reader = Reader(net, a, start=Start(START_NEW))
    assert net.run(SECOND, lambda: reader.is_open)
    reader.waits = True
    fill(writers, 3)
    reader.read(2)
    net.kill(a)
    net.run(4 * SECOND)
    reader.arrived = []  # what was not taken by then is lost with the process, in this test
    token = reader.tokens[-1]
    reader = Reader(net, b, start=start_at(token))
    assert net.run(SECOND, lambda: reader.sub.away == (a.name,))
    a.start([b.address])
    assert net.run(5 * SECOND, lambda: len(reader.got) == 4)
    net.run(SECOND)
    assert len(reader.got) == 4
    assert (reader.sub.away, reader.sub.missed) == ((), 0)


def test_a_position_stands_for_all_logs_whichever_node_reads_on():
    """From behind every record the rest comes once, at every node."""
    net, nodes, writers = site(3)
    fill(writers, 4)
    reader = Reader(net, nodes[0])
    expect(net, reader, nodes, 4)
    everything = set(reader.got)
    for i, token in enumerate(reader.tokens):
        rest = Reader(net, nodes[i % 3], start=start_at(token))
        want = everything - set(reader.got[: i + 1])
        net.run(100 * MS)
        assert len(rest.got) == len(want)
        assert set(rest.got) == want


def test_a_position_inside_a_batch_stands_for_all_logs_too():
    net, nodes, writers = site(2)
    for w in writers:
        w.write(*numbered("r", 0, 5))
        w.flush()
    reader = Reader(net, nodes[0])
    expect(net, reader, nodes, 5)
    for i, token in enumerate(reader.tokens):
        rest = Reader(net, nodes[1], start=start_at(token))
        net.run(100 * MS)
        assert sorted(rest.got) == sorted(reader.got[i + 1 :])
        if rest.tokens:
            again = Reader(net, nodes[0], start=start_at(rest.tokens[0]))
            net.run(100 * MS)
            assert sorted(again.got) == sorted(rest.got[1:])


def test_a_position_in_the_log_of_a_node_that_nobody_knows_waits_for_it():
    net, (a, b), writers = site(2)
    fill(writers, 2)
    reader = Reader(net, a)
    expect(net, reader, [a, b], 2)
    stranger = b"?" * 16
    at = start_at(reader.tokens[-1])
    other = Reader(net, a, start=at._replace(places=(*at.places, Place(stranger, 5, 0))))
    assert net.run(SECOND, lambda: other.sub.away == (stranger.hex()[:8],))
    frame = other.sub.subscribe()
    assert Place(stranger, 5, 0, 0) in frame.places


# -- credit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(1, 1), (40, 3), (1000, 1000), (MIB, 2), (1, 10_000)])
@pytest.mark.parametrize("reads", [True, False])
def test_the_window_is_one_budget_and_no_log_starves(window, reads):
    """``Reader`` asserts with each delivery that there was credit left before it."""
    net, nodes, writers = site(3)
    fill(writers, 30)
    reader = Reader(net, nodes[0], window=window)
    if not reads:
        reader.waits = True
        for _ in range(200):
            net.run(5 * MS)
            reader.read(1)
    expect(net, reader, nodes, 30, 20 * SECOND)


def test_a_client_that_reads_nothing_gets_its_window_and_one_delivery_more():
    net, nodes, writers = site(3)
    for w in writers:
        for i in range(40):
            w.write(b"%d" % i * 500)
        w.flush()
    reader = Reader(net, nodes[0], window=(8000, 10_000))
    reader.waits = True
    net.run(2 * SECOND)
    assert reader.came[0] >= 8000
    assert reader.came[0] - len(reader.frames[-1].payload) < 8000
    reads = nodes[0].node.reads
    # What is held for it is no more than a base of each sibling, and a batch.
    assert reads.held_bytes <= 2 * (max(1, 8000 // 16) + 600)
    reader.waits = False
    reader.read()
    expect(net, reader, nodes, 40)
    assert reads.held_bytes == 0


def read_slowly(net, reader, is_enough):
    """Read 20 batches a ms until it is enough."""
    reader.waits = True
    for _ in range(1000):
        if is_enough():
            break
        net.run(MS)
        reader.read(20)
    reader.waits = False
    reader.read()


def test_logs_of_siblings_come_while_the_own_log_is_a_flood():
    net, nodes, writers = site(3)
    for i in range(400):
        writers[0].write(b"%d" % i * 100)
    fill(writers[1:], 5)
    writers[0].flush()
    reader = Reader(net, nodes[0], window=(20_000, 10_000))
    read_slowly(net, reader, lambda: all(len(reader.of(n)) == 5 for n in nodes[1:]))
    assert len(reader.of(nodes[0])) < 200
    expect(net, reader, [nodes[0]], 400)


def test_the_own_log_and_a_quiet_one_come_while_a_third_one_is_a_flood():
    net, nodes, writers = site(3)
    for i in range(400):
        writers[1].write(b"%d" % i * 100)
    fill([writers[0], writers[2]], 5)
    writers[1].flush()
    reader = Reader(net, nodes[0], window=(20_000, 10_000))
    read_slowly(net, reader, lambda: len(reader.of(nodes[0])) == len(reader.of(nodes[2])) == 5)
    assert len(reader.of(nodes[1])) < 200
    fill(writers[2:], 5, first=5)
    expect(net, reader, [nodes[1]], 400)
    expect(net, reader, [nodes[2]], 10)


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_with_room_for_one_record_the_own_log_has_its_turn(is_on_disk):
    net, nodes, writers = site(3)
    fill(writers[:1], 5)
    fill(writers[1:], 60)
    if is_on_disk:
        net.kill(nodes[0])
        nodes[0].start([n.address for n in nodes[1:]])
        assert net.run(5 * SECOND, lambda: joined(net))
    reader = Reader(net, nodes[0], window=(1, 1))
    reader.waits = True
    for _ in range(30):
        net.run(10 * MS)  # all have something each time
        reader.read(1)
    assert len(reader.of(nodes[0])) == 5
    assert all(len(reader.of(n)) > 5 for n in nodes[1:])
    reader.waits = False
    reader.read()
    expect(net, reader, nodes[1:], 60)


def test_a_log_that_delivers_is_lent_half_of_the_window_and_no_more():
    net, (a, _), writers = site(2)
    for i in range(300):
        writers[1].write(b"%d" % i * 100)
    writers[1].flush()
    reader = Reader(net, a, window=(64_000, 10_000))
    across = next(iter(a.node.reads._across.values()))
    lent = set()
    net.run(5 * SECOND, lambda: lent.add(across.lent_bytes) or len(reader.got) == 300)
    assert len(reader.got) == 300
    assert 16_000 <= max(lent) <= 32_000


def test_what_was_lent_is_taken_back_from_a_log_that_has_nothing_more():
    net, (a, b), writers = site(2)
    for i in range(300):
        writers[1].write(b"%d" % i * 100)
    writers[1].flush()
    reader = Reader(net, a, window=(64_000, 10_000))
    expect(net, reader, [b], 300)
    across = next(iter(a.node.reads._across.values()))
    assert across.lent_bytes > 0
    reader.waits = True  # so that the own log wants all there is
    for i in range(2000):
        writers[0].write(b"%d" % i * 50)
    writers[0].flush()
    for _ in range(40):
        net.run(20 * MS)
        reader.read()
    assert across.lent_bytes == 0
    reader.waits = False
    reader.read()
    writers[1].write(b"one more")
    writers[1].flush()
    expect(net, reader, [a], 2000)
    assert reader.of(b) == list(range(301))


def test_what_waits_here_is_bounded_and_read_again(monkeypatch):
    monkeypatch.setattr(limits, "SITE_READS_HELD_BYTES_MAX", 3000)
    net, nodes, writers = site(3)
    for w in writers:
        for i in range(30):
            w.write(b"%d" % i * 500)
        w.flush()
    readers = [Reader(net, nodes[0], window=(2000, 1000)) for _ in range(4)]
    for reader in readers:
        reader.waits = True
    net.run(SECOND)
    reads = nodes[0].node.reads
    assert 0 < reads.held_bytes <= 3000
    assert reads.given_up > 0
    for reader in readers:
        reader.waits = False
        reader.read()
    for reader in readers:
        expect(net, reader, nodes, 30, 20 * SECOND)
    assert reads.held_bytes == 0


def test_what_waits_is_forgotten_with_its_subscription():
    net, nodes, writers = site(3)
    fill(writers, 20)
    reader = Reader(net, nodes[0], window=(30, 2))
    reader.waits = True
    net.run(SECOND)
    assert nodes[0].node.reads.held_bytes > 0
    reader.send(Unsubscribe(1))
    assert nodes[0].node.reads.held_bytes == 0


def test_a_client_that_acknowledges_nothing_gets_no_more_of_siblings(monkeypatch):
    monkeypatch.setattr(limits, "LINK_UNACKED_BYTES_MAX", 64 * 1024)
    net, (a, _), writers = site(2)
    for i in range(100):
        writers[1].write(b"%d" % i * 2000)
    writers[1].flush()
    program = Program(net, a)
    program.receive = lambda envelope: program.bodies.append(envelope.body)  # and says nothing
    program.subscribe("t", start=START_EARLIEST)
    net.run(SECOND)
    came = sum(len(frame.payload) for frame in program.take(Deliver))
    assert 0 < came < 128 * 1024
    assert a.node.reads.held_bytes > 0


def test_many_subscriptions_that_take_nothing_do_not_end_the_link_between_nodes(monkeypatch):
    """What is on its way over one link is bounded, however many read over it."""
    monkeypatch.setattr(limits, "LINK_UNACKED_BYTES_MAX", 64 * 1024)
    net, (a, b), writers = site(2)
    for i in range(200):
        writers[1].write(b"%d" % i * 1000)
    writers[1].flush()
    link = a.node.site.siblings[b.origin].link
    at_b = b.node.site.siblings[a.origin].link
    readers = [Reader(net, a) for _ in range(30)]
    most = 0

    def look():
        nonlocal most
        most = max(most, b.node.sessions.unacked_of(at_b)[0])
        return all(len(r.got) == 200 for r in readers)

    assert net.run(20 * SECOND, look)
    assert most <= 64 * 1024 + 300_000  # and what one subscription may be sent at a time
    assert a.node.site.siblings[b.origin].link == link
    for reader in readers:
        assert reader.of(b) == list(range(200))


def test_a_subscription_that_ends_ends_at_the_siblings():
    net, (a, b), _ = site(2)
    reader, other = Reader(net, a), Program(net, a)
    other.subscribe("t")
    net.run(100 * MS)
    assert len(b.node.delivery) == 2 + 1  # and what is queued of transient topics
    reader.send(Unsubscribe(1))
    net.run(100 * MS)
    assert len(b.node.delivery) == 1 + 1
    a.node.sessions.end(a.node.peers[other.link], None, net.now_ns)
    a.end_turn()
    net.run(100 * MS)
    assert len(b.node.delivery) == 0 + 1
    assert a.node.reads.describe()["readings"] == 0


def test_a_sibling_that_has_no_room_is_away_for_that_subscription(monkeypatch):
    monkeypatch.setattr(limits, "SITE_READINGS_MAX", 2)  # transient topics take one
    net, (a, b), writers = site(2)
    fill(writers, 1)
    one, two = Reader(net, a, window=(100, 4)), Reader(net, a, window=(100, 4))
    assert net.run(SECOND, lambda: two.sub.away == (b.name,))
    assert one.sub.away == ()
    frames = net.frames
    net.run(100 * MS)
    assert net.frames - frames < 20  # it does not ask again and again
    one.send(Unsubscribe(1))
    net.run(100 * MS)
    fill(writers[:1], 4, first=1)  # with what it reads it grants more
    assert net.run(SECOND, lambda: two.sub.away == ())
    expect(net, two, [b], 1)


def test_a_node_that_delivers_what_is_not_of_its_log_breaks_the_protocol():
    net, (a, _), _ = site(2)
    Reader(net, a)
    net.run(100 * MS)
    reads = a.node.reads
    ((link, number),) = reads._by_number
    good = DeliverBatch("t", 0, 1, 0, 0, 0, 1, 0)
    for row in (
        good._replace(lsn=0),
        good._replace(origin=a.origin),
        good._replace(source=b"p" * 16),
    ):
        with pytest.raises(BadFrame, match="not of its log"):
            reads.on_deliver(link, Deliver(number, (row,), 0, b""))
    reads.on_deliver(link, Deliver(number + 100, (good._replace(lsn=0),), 0, b""))


# -- all of it, at random ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_each_log_comes_once_and_in_order(seed):
    rng = random.Random(seed)
    net, nodes, writers = site(3)
    window = rng.choice([(1, 1), (500, 20), (MIB, 10_000)])
    reader = Reader(net, nodes[0], window=window)
    net.run(100 * MS)
    for _ in range(40):
        match rng.randrange(8):
            case 0:
                node = rng.choice(nodes)
                if node is not reader.at and node.node is not None:
                    net.kill(node)
            case 1:
                for node in nodes:
                    if node.node is None:
                        node.start([n.address for n in nodes if n is not node])
                        writers[nodes.index(node)] = Writer(net, node)
            case 2:
                pair = rng.sample(nodes, 2)
                net.cut(*pair, one_way=rng.random() < 0.5)
            case 3:
                net.heal()
            case 4:
                others = [n for n in nodes if n.node is not None]
                reader = reader.move(rng.choice(others))
            case 5:
                reader.waits = not reader.waits
                reader.read()
            case _:
                for w in writers:
                    if w.at.node is not None and rng.random() < 0.8:
                        w.write(*[b"x" * rng.randrange(200) for _ in range(rng.randrange(1, 6))])
        net.run(rng.randrange(1, 2000) * MS)
    net.heal()
    for node in nodes:
        if node.node is None:
            node.start([n.address for n in nodes if n is not node])
    assert net.run(20 * SECOND, lambda: joined(net))
    if reader.link not in reader.at.node.peers:  # its session was lost with a cut, a kill
        reader = reader.move(reader.at)
    reader.waits = False
    reader.read()
    counts = {n: n.node.topics.by_name["t"].synced_offset if "t" in n.node.topics.by_name else 0
              for n in nodes}  # fmt: skip

    def is_there():
        return all(len(reader.of(n)) >= count for n, count in counts.items())

    assert net.run(20 * SECOND, is_there), {n.name: c for n, c in counts.items()}
    net.run(SECOND)
    for node, count in counts.items():
        assert reader.of(node) == list(range(count))
    assert reader.sub.missed == 0
    assert reader.sub.away == ()
