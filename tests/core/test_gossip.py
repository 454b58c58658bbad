"""Programs that tell each other whom they are linked with."""

from __future__ import annotations

import random

import pytest

from meshmq import limits
from meshmq.core.discovery import GOSSIP, Discovery, LinkDown, LinkUp, Sighted, SightLost
from meshmq.core.gossip import Gossip
from meshmq.frames import Known, KnownPeer, PeerFacts
from meshmq.limits import MS, SECOND
from tests.core.programs import Network

A, B, C, NODE = (letter * 16 for letter in (b"a", b"b", b"c", b"n"))


def at(number):
    return f"tcp://127.0.0.1:{7000 + number}"


class Teller:
    """A program that others are linked with."""

    def __init__(self, mesh="local", tells_more=False):
        self.discovery = Discovery(b"m" * 16, mesh, random.Random(1), ("client",))
        self.gossip = Gossip(self.discovery, mesh, tells_more)
        self.mesh = mesh
        self.now_ns = SECOND

    def join(self, instance, *addresses):
        facts = PeerFacts(instance, "client", self.mesh, instance[:1].decode(), addresses=addresses)
        self.discovery.handle(LinkUp(facts), self.now_ns)
        self.gossip.join(instance[:1], instance, self.now_ns)

    def leave(self, instance):
        self.discovery.handle(LinkDown(instance), self.now_ns)
        self.gossip.leave(instance[:1], self.now_ns)

    def hear(self, teller, *peers, more=False):
        for fact in (found := self.gossip.hear(teller, Known(peers, more))):
            self.discovery.handle(fact, self.now_ns)
        return found

    def told(self, after_ns=0):
        """Who is told of whom."""
        self.now_ns += after_ns
        self.gossip.tick(self.now_ns)
        return [
            (link, sorted(peer.instance for peer in known.peers))
            for link, known in self.gossip.take()
        ]


def test_a_newcomer_is_told_of_the_others_and_they_of_it():
    teller = Teller()
    teller.join(A, at(1))
    assert teller.told() == []
    assert teller.gossip.next_deadline_ns() is None
    teller.join(B, at(2))
    assert teller.told() == [(b"b", [A]), (b"a", [B])]
    teller.join(C, at(3))
    assert teller.told() == [(b"c", [A, B])], "the others were told a moment ago"
    assert teller.gossip.next_deadline_ns() == teller.now_ns + limits.GOSSIP_NS
    assert teller.told(limits.GOSSIP_NS - 1) == []
    assert teller.told(1) == [(b"a", [B, C]), (b"b", [A, C])]
    assert teller.gossip.next_deadline_ns() is None


def test_who_left_is_told_of_no_more():
    teller = Teller()
    for number, instance in enumerate((A, B, C)):
        teller.join(instance, at(number))
    teller.told()
    teller.leave(C)
    assert teller.told(limits.GOSSIP_NS) == [(b"a", [B]), (b"b", [A])]


def test_nodes_are_told_of_those_that_came_alone_and_of_all_when_one_has_gone():
    teller = Teller(tells_more=True)
    for number, instance in enumerate((A, B)):
        teller.join(instance, at(number))
    teller.told()
    teller.join(C, at(3))
    assert teller.told(limits.GOSSIP_NS) == [(b"c", [A, B]), (b"a", [C]), (b"b", [C])]
    teller.leave(A)
    assert teller.told(limits.GOSSIP_NS) == [(b"b", [C]), (b"c", [B])]


def test_what_came_is_added_to_what_was_heard_before():
    teller = Teller()
    teller.join(A, at(1))
    b, c = KnownPeer(B, False, "b", (at(2),)), KnownPeer(C, False, "c", (at(3),))
    teller.hear(A, b)
    assert [type(fact) for fact in teller.hear(A, c, more=True)] == [Sighted]
    assert teller.discovery.told_by(A) == {B, C}
    assert [type(fact) for fact in teller.hear(A, c)] == [SightLost, Sighted]


def test_what_has_not_changed_is_not_said_again():
    teller = Teller()
    for number, instance in enumerate((A, B, C)):
        teller.join(instance, at(number))
    teller.told(SECOND)
    teller.leave(C)
    teller.join(C, at(2))
    assert teller.told(limits.GOSSIP_NS) == [(b"c", [A, B])]


def test_many_that_come_and_go_are_told_of_together():
    teller = Teller()
    teller.join(A, at(1))
    frames = 0
    for _ in range(1000):
        teller.join(B, at(2))
        frames += sum(link == b"a" for link, _ in teller.told(5 * MS))
        teller.leave(B)
        frames += sum(link == b"a" for link, _ in teller.told(5 * MS))
    assert 2 <= frames <= 10 * SECOND // limits.GOSSIP_NS + 1


def test_addresses_that_the_mesh_forbids_are_not_told():
    teller = Teller()
    teller.discovery.handle(
        LinkUp(PeerFacts(A, "client", "local", addresses=("tcp://10.0.0.1:1",))), 0
    )
    teller.gossip.join(b"a", A, SECOND)
    teller.join(B, at(2))
    assert teller.told() == [(b"a", [B])]


def test_a_frame_has_so_many():
    teller = Teller()
    for number in range(limits.GOSSIP_PEERS_MAX + 5):
        instance = b"%016d" % number
        facts = PeerFacts(instance, "client", "local", addresses=(at(number),))
        teller.discovery.handle(LinkUp(facts), teller.now_ns)
    teller.gossip.join(b"a", A, teller.now_ns)
    ((_, peers),) = teller.told()
    assert len(peers) == limits.GOSSIP_PEERS_MAX


def test_nodes_that_it_is_attached_to_are_told():
    teller = Teller()
    teller.join(A, at(1))
    teller.gossip.attach((KnownPeer(NODE, True, "node-1", (at(9),)),), teller.now_ns)
    assert teller.told() == [(b"a", [NODE])]
    teller.gossip.attach((), teller.now_ns)
    assert teller.told(limits.GOSSIP_NS) == [(b"a", [])]


def test_what_is_heard_takes_the_place_of_what_was_heard_before():
    teller = Teller()
    teller.join(A, at(1))
    b, c = KnownPeer(B, False, "b", (at(2),)), KnownPeer(C, False, "c", (at(3),))
    assert [type(fact) for fact in teller.hear(A, b, c)] == [Sighted, Sighted]
    assert teller.hear(A, c)[0] == SightLost(GOSSIP, B, A)
    rows = {row["name"]: row["sources"] for row in teller.discovery.rows()}
    assert rows == {"a": ["handshake"], "b": ["gossip"], "c": ["gossip"]}
    teller.now_ns += limits.SIGHT_LOST_NS
    teller.told()
    teller.hear(A, c)
    assert {row["name"] for row in teller.discovery.rows()} == {"a", "c"}


def test_what_a_peer_tells_of_itself_counts_only_in_its_handshake():
    teller = Teller()
    teller.join(A, at(1))
    assert teller.hear(A, KnownPeer(A, False, "a", (at(9),))) == []
    assert teller.hear(A) == []
    assert [p.addresses for p in teller.discovery.gossip()] == [(at(1),)]


def test_a_node_that_is_told_of_is_one():
    teller = Teller()
    teller.join(A, at(1))
    ((fact,)) = teller.hear(A, KnownPeer(NODE, True, "node-1", (at(9),)))
    assert fact.facts == PeerFacts(NODE, "node", "local", "node-1", addresses=(at(9),))
    assert [row["kind"] for row in teller.discovery.rows()] == ["client", "node"]


# -- programs -------------------------------------------------------------------------------------


def linked(program):
    return sorted(row["name"] for row in program.direct.peers())


def test_two_that_list_the_same_one_find_each_other():
    network = Network()
    b = network.add("b")
    a = network.add("a", ["b"])
    network.run()
    c = network.add("c", ["b"])
    network.run()
    assert [linked(p) for p in (a, b, c)] == [["b", "c"], ["a", "c"], ["a", "b"]]


@pytest.mark.parametrize("shape", ["star", "chain"])
def test_all_are_linked_in_the_end(shape):
    network = Network()
    names = [f"p{n}" for n in range(12)]
    programs = [
        network.add(name, [names[0] if shape == "star" else names[n - 1]] if n else [])
        for n, name in enumerate(names)
    ]
    network.run(10 * SECOND)
    for program in programs:
        assert linked(program) == sorted(set(names) - {program.name})


def test_they_stay_linked_when_the_one_they_list_is_gone_and_find_who_comes_back():
    network = Network()
    b = network.add("b")
    a, c = network.add("a", ["b"]), network.add("c", ["b"])
    network.run(2 * SECOND)
    network.kill(b)
    network.run(10 * SECOND)
    assert (linked(a), linked(c)) == (["c"], ["a"])
    sub = a.subscribe("x")
    network.run()
    c.publish("x", b"1")
    network.run()
    assert a.values(sub) == [b"1"]
