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
    Envelope,
    Hello,
    Interests,
    Request,
    RequestRow,
)
from meshmq.limits import SECOND
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
