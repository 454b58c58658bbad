"""Groups of a node that is gone are worked on by another: nothing is left, nothing comes again."""

from __future__ import annotations

import json

import pytest

from meshmq import codec, limits
from meshmq.frames import (
    ACK,
    Command,
    Consume,
    Consumed,
    HandOut,
    Publish,
    PublishBatch,
    Result,
    Settle,
    SettleRow,
)
from meshmq.limits import MIB, MS, SECOND
from tests.core.sites import Program, joined, site_of
from tests.core.test_copies import holder, is_copied


class Worker(Program):
    """A member of a group, by hand."""

    def __init__(self, net, at, group="billing", pattern="orders.>", prefetch=100, kind="group"):
        super().__init__(net, at)
        self.settles = 0
        self.got = []
        pattern = group if kind == "queue" else pattern
        wanted = {"group": group, "kind": kind, "pattern": pattern}
        settings = json.dumps(wanted).encode()
        self.send(Consume(1, group, pattern, settings, prefetch, 4 * MIB, 30 * SECOND))

    def read(self):
        """(topic, headers, value, number, index) of what came."""
        new = []
        for frame in self.take(HandOut):
            at = 0
            for row in frame.rows:
                data = frame.payload[at : at + row.length]
                at += row.length
                found = codec.decode_batch(data, row.held)
                first = 0 if row.held == row.count else row.skip
                for i in range(row.count):
                    headers = {}
                    if found.headers is not None and found.headers[first + i]:
                        headers = codec.decode_headers(found.headers[first + i])
                    value = found.values[first + i]
                    new.append((row.topic, headers, value, row.number, i))
        self.got += new
        return new

    def ack(self, rows):
        self.settles += 1
        rows = tuple(SettleRow(number, i, 1, ACK, 0, "") for *_, number, i in rows)
        self.send(Settle(1, self.settles, rows))


class Maker(Program):
    """Publishes batches that the codec reads."""

    def make(self, topic, *values, job=False):
        first = self.first.get(topic, 1)
        self.first[topic] = first + len(values)
        data = codec.encode_batch(list(values), None, None, None, 0)
        row = PublishBatch(topic, first, first - 1, len(values), len(data), codec.checksum(data),
                           job=job)  # fmt: skip
        self.send(Publish((row,), data))


def command(net, program, verb, **arguments):
    program.send(Command(1, verb, json.dumps(arguments).encode()))
    assert net.run(2 * SECOND, lambda: program.find(Result))
    (result,) = program.take(Result)
    return result


@pytest.fixture(autouse=True)
def real_batches(monkeypatch):
    """The codec's own check, since groups decode what they hand out."""
    monkeypatch.setattr("tests.core.sites.check_batch", codec.TOOLS.check)
    monkeypatch.setattr("tests.core.sites.decode", lambda data: [bytes(data)])


def begun(count=3, records=20, acked=8, kind="group", topic="orders.eu", group="billing"):
    """A site in which node 0 has records of which some are acked, all of it copied."""
    net, nodes = site_of(count, copies=2)
    a = nodes[0]
    maker = Maker(net, a)
    worker = Worker(net, a, group, kind=kind)
    assert net.run(2 * SECOND, lambda: worker.find(Consumed))
    for i in range(0, records, 2):
        maker.make(topic, b"%d" % i, b"%d" % (i + 1), job=kind == "queue")
        net.run(10 * MS)
    net.run(SECOND)
    rows = worker.read()
    assert [r[2] for r in rows] == [b"%d" % i for i in range(records)]
    worker.ack(rows[:acked])
    net.run(SECOND)
    assert is_copied(net, a)
    return net, nodes, [r[2] for r in rows[acked:]]


def values(rows):
    return [r[2] for r in rows]


def test_what_was_not_acked_is_worked_on_and_what_was_is_not():
    net, (a, *_), left = begun()
    at = holder(net, a)
    net.kill(a)
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    result = command(net, Program(net, at), "node.takeover", name=a.name)
    assert (result.code, result.message) == ("", "")
    told = json.loads(result.body)
    assert (told["epoch"], told["groups"], told["skipped"]) == (1, ["billing"], [])
    again = command(net, Program(net, at), "node.takeover", name=a.name)
    assert json.loads(again.body) == told  # the answer may have been lost
    worker = Worker(net, at)
    net.run(2 * SECOND)
    rows = worker.read()
    assert values(rows) == left
    assert {r[1]["$topic"] for r in rows} == {"orders.eu"}
    assert {r[1]["$taken-from"] for r in rows} == {a.name}
    worker.ack(rows)
    net.run(SECOND)
    again = Worker(net, at)
    net.run(2 * SECOND)
    assert values(again.read()) == []


def test_jobs_of_a_queue_are_taken_over_in_their_lane():
    net, (a, *_), left = begun(kind="queue", topic="thumbs", group="thumbs")
    at = holder(net, a)
    net.kill(a)
    net.run(100 * MS)
    result = command(net, Program(net, at), "node.takeover", name=a.name, assume_dead=True)
    assert result.code == ""
    worker = Worker(net, at, "thumbs", kind="queue")
    net.run(2 * SECOND)
    rows = worker.read()
    assert values(rows) == left
    assert {r[0] for r in rows} == {"thumbs"}


def test_it_is_refused_while_the_node_lives_or_was_just_seen_or_no_copy_is_here():
    net, (a, *others), _ = begun()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    refused = command(net, Program(net, at), "node.takeover", name=a.name)
    assert "is alive" in refused.message
    assert (
        "alive"
        in command(net, Program(net, at), "node.takeover", name=a.name, assume_dead=True).message
    )
    net.kill(a)
    net.run(SECOND)
    refused = command(net, Program(net, at), "node.takeover", name=a.name)
    assert "--assume-dead" in refused.message
    refused = command(net, Program(net, other), "node.takeover", name=a.name)
    assert "no copy of a node named" in refused.message
    assert not at.disk.state.takeovers


def test_the_node_that_is_back_hands_out_only_what_had_not_been_copied():
    net, (a, *others), left = begun()
    at = holder(net, a)
    net.cut(a, at)
    for other in others:
        net.cut(a, other)
    maker = Maker(net, a)
    maker.make("orders.eu", b"tail 1", b"tail 2")  # no copy gets it
    net.run(SECOND)
    net.kill(a)
    net.run(4 * SECOND)
    assert command(net, Program(net, at), "node.takeover", name=a.name,
                   assume_dead=True).code == ""  # fmt: skip
    worker = Worker(net, at)
    net.run(2 * SECOND)
    assert values(worker.read()) == left
    net.heal()
    a.start([n.address for n in others])
    back = Worker(net, a)
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    assert values(back.read()) == [b"tail 1", b"tail 2"]
    # So it is after another restart, which finds that in its log.
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    again = Worker(net, a)
    net.run(8 * SECOND)
    assert values(again.read()) == [b"tail 1", b"tail 2"]
    assert a.disk.state.takeovers[a.origin].taker == at.origin
    Maker(net, a).make("orders.eu", b"new")
    net.run(2 * SECOND)
    assert values(again.read()) == [b"new"]


def test_a_taker_that_is_killed_in_the_middle_moves_each_record_once(monkeypatch):
    monkeypatch.setattr(limits, "TAKEOVER_BYTES", 1)  # one batch a commit
    net, (a, *others), left = begun(records=40)
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert command(net, Program(net, at), "node.takeover", name=a.name,
                   assume_dead=True).code == ""  # fmt: skip
    for wait in (3, 7, 5, 11):
        net.run(wait * MS)
        net.kill(at)
        at.start([n.address for n in others if n is not at])
        net.run(700 * MS)
    net.run(5 * SECOND)
    worker = Worker(net, at)
    net.run(3 * SECOND)
    assert sorted(values(worker.read())) == sorted(left)


def test_a_node_that_starts_alone_hands_out_after_a_bounded_wait():
    net, (a, *others), left = begun()
    net.kill(a)
    for other in others:
        net.kill(other)
    a.start()
    worker = Worker(net, a)
    net.run(limits.RETURN_WAIT_NS - SECOND)
    assert values(worker.read()) == []
    net.run(3 * SECOND)
    assert values(worker.read()) == left


def test_a_restart_with_siblings_there_waits_no_longer_than_it_takes_to_meet_them():
    net, (a, *others), left = begun()
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    worker = Worker(net, a)
    net.run(2500 * MS)
    assert values(worker.read()) == left


def test_a_second_takeover_says_who_has_it():
    net, nodes, _ = begun(4)
    a = nodes[0]
    at = holder(net, a)
    net.kill(a)
    net.run(limits.TAKEOVER_SEEN_NS)
    net.run(limits.COPY_AWAY_NS)
    assert command(net, Program(net, at), "node.takeover", name=a.name).code == ""
    net.run(2 * SECOND)
    for node in nodes[1:]:
        assert node.disk.state.takeovers[a.origin].taker == at.origin  # all keep it
    (row,) = at.node.site.describe(net.now_ns)["copies"]["takeovers"]
    assert (row["of"], row["epoch"], row["moving"]) == (a.name, 1, False)
