"""A program without a node, and others that come and go or break rules."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import FrameReceived
from meshmq.frames import (
    ONE,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Body,
    Bye,
    Cancel,
    Deliver,
    DeliverBatch,
    Envelope,
    Hello,
    Interests,
    Noted,
    NotedRow,
    Request,
    RequestRow,
)
from meshmq.limits import SECOND
from tests.core.helpers import encode
from tests.core.programs import Network


@pytest.fixture
def network():
    return Network()


class Peer:
    """What dials a program, and says what a test wants it to."""

    def __init__(self, network, program, number):
        self.network = network
        self.program = program
        self.name = b"<%d" % number
        self.number = number
        self.sent = 0
        instance = b"%016d" % number
        self._say(
            0, Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, "local", instance, instance, direct=True)
        )
        self.say(Interests(0, True))

    def say(self, body: Body):
        self.sent += 1
        self._say(self.sent, body)

    def leave(self):
        self._say(0, Bye())

    def _say(self, sequence, body):
        envelope = Envelope(self.number, sequence, 0, body)
        self.program.client.handle(FrameReceived(self.name, envelope), self.network.now_ns)
        self.program.flush()

    @property
    def is_linked(self):
        return self.name in self.program.direct.links.by_name


def test_more_programs_come_and_go_than_are_remembered(network):
    a = network.add("a")
    b = network.add("b", ["a"])
    network.run()
    sub = a.subscribe("x")
    network.run()
    for number in range(1, limits.DIRECT_PEERS_REMEMBERED_MAX + 10):
        Peer(network, a, number).leave()
    assert len(a.direct.inlets.readers[sub].feeds) == limits.DIRECT_PEERS_REMEMBERED_MAX
    a.publish("x", b"1")
    b.publish("x", b"2")
    network.run()
    assert sorted(a.values(sub)) == [b"1", b"2"]


def test_a_request_that_is_cancelled_twice_in_a_frame_is_over_once(network):
    a = network.add("a")
    held = []
    registration = a.serve("s", held.append)
    peer = Peer(network, a, 1)
    rows = [RequestRow(n, registration.id, "s", SECOND, ONE, False, 0, b"", 0) for n in (1, 2)]
    peer.say(Request(tuple(rows), b""))
    peer.say(Cancel((2, 2)))
    assert peer.is_linked
    assert a.direct.relay.count == 1


@pytest.mark.parametrize("count", [1, 0])
def test_who_sends_without_credit_is_let_go(network, count):
    a = network.add("a")
    a.auto = False
    sub = a.subscribe("x", records=10)
    peer = Peer(network, a, 1)
    payload = encode([b"1"] * count, 0, 0, 0, 0)
    for number in range(1, 100):
        row = DeliverBatch("x", number, count, len(payload), 0, 0, 0, 0)
        peer.say(Deliver(sub, (row,), 0, payload))
        if not peer.is_linked:
            break
    assert not peer.is_linked
    assert len(a.values(sub)) == 10 * count


def test_who_notes_without_end_is_let_go(network):
    a = network.add("a")
    a.subscribe(">")
    peer = Peer(network, a, 1)
    rows = tuple(NotedRow(f"t{i}", 1) for i in range(limits.FRAME_BATCHES_MAX))
    for _ in range(limits.TOPICS_MAX // len(rows) + 1):
        assert peer.is_linked
        peer.say(Noted(0, False, rows, True))
    assert not peer.is_linked
