"""Whom discovery dials, and that nothing that is merely said does any harm."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from meshmq import limits
from meshmq.core.discovery import (
    DEFAULT,
    GOSSIP,
    LINKS,
    MDNS,
    PEERS,
    Dial,
    DialFailed,
    Discovery,
    Event,
    GiveUp,
    LinkDown,
    LinkUp,
    Sighted,
    SightLost,
    Tick,
)
from meshmq.core.peers import DIALLING
from meshmq.frames import PeerFacts
from meshmq.limits import MS, SECOND

ME = b"\x80" * 16
SMALL, LARGE = b"\x01" * 16, b"\xf0" * 16  # ids below and above ours


def at(port: int, host: str = "127.0.0.1") -> str:
    return f"tcp://{host}:{port}"


def facts(instance: bytes, *addresses: str, **other: Any) -> PeerFacts:
    return PeerFacts(instance, **{"kind": "client", "mesh": "local", **other}, addresses=addresses)


def listed(*addresses: str) -> Sighted:
    return Sighted(PEERS, PeerFacts(addresses=addresses))


def many(number: int) -> bytes:
    return b"many" + number.to_bytes(12, "big")


class World:
    """A Discovery, the time, and what became of its dials."""

    def __init__(self, mesh: str = "local", **options: Any) -> None:
        self.discovery = Discovery(ME, mesh, random.Random(7), **options)
        self.now = 10 * SECOND
        self.dialling: list[str] = []
        self.given_up: list[str] = []
        self.dialled: list[tuple[int, str]] = []

    def tell(self, event: Event) -> list[str]:
        """The addresses that are dialled because of it."""
        if isinstance(event, DialFailed | LinkUp) and event.address in self.dialling:
            self.dialling.remove(event.address)
        begun = []
        for effect in self.discovery.handle(event, self.now):
            if isinstance(effect, Dial):
                assert effect.address not in self.dialling
                self.dialling.append(effect.address)
                self.dialled.append((self.now, effect.address))
                begun.append(effect.address)
            else:
                assert isinstance(effect, GiveUp)
                self.given_up.append(effect.address)
                if effect.address in self.dialling:
                    self.dialling.remove(effect.address)
        return begun

    def see(self, instance: bytes, *addresses: str, **other: Any) -> list[str]:
        return self.tell(Sighted(MDNS, facts(instance, *addresses, **other)))

    def gossip(self, teller: bytes, instance: bytes, *addresses: str) -> list[str]:
        return self.tell(Sighted(GOSSIP, facts(instance, *addresses), teller))

    def up(self, instance: bytes, address: str = "", **other: Any) -> list[str]:
        return self.tell(LinkUp(facts(instance, **other), address))

    def run(self, ns: int, answer: Callable[[str], Event | None] = lambda _: None) -> None:
        """Let time pass, tick when it is due; ``answer`` says what comes of a dial."""
        end = self.now + ns
        while True:
            for address in list(self.dialling):
                event = answer(address)
                if event is not None:
                    self.tell(event)
            due = self.discovery.next_deadline_ns()
            if due is None or due > end:
                break
            self.now = max(due, self.now + 1)
            self.tell(Tick())
            after = self.discovery.next_deadline_ns()
            assert after is None or after > self.now, "a tick that was due and did nothing"
        self.now = end

    @property
    def counters(self) -> Any:
        return self.discovery.counters

    def row(self, instance: bytes) -> dict[str, Any]:
        return next(r for r in self.discovery.rows() if r["instance"] == instance.hex())

    def knows(self, instance: bytes) -> bool:
        return any(r["instance"] == instance.hex() for r in self.discovery.rows())


def refused(address: str) -> Event:
    return DialFailed(address, "refused")


# -- dials --------------------------------------------------------------------------------------


def test_all_addresses_are_dialled_at_once():
    world = World()
    begun = world.see(SMALL, at(1), at(2), "ipc:///tmp/s")
    assert sorted(begun) == ["ipc:///tmp/s", at(1), at(2)]


def test_the_first_link_ends_the_other_dials():
    world = World()
    world.see(SMALL, at(1), at(2))
    world.up(SMALL, at(2))
    assert world.given_up == [at(1)]
    world.run(60 * SECOND)
    assert len(world.dialled) == 2
    assert world.row(SMALL)["state"] == "linked"


def test_kinds_that_are_not_dialled_are_listed():
    world = World(dials=["node"])
    assert world.see(SMALL, at(1)) == []
    assert world.see(LARGE, at(2), kind="node") == [at(2)]
    assert world.row(SMALL)["state"] == "found"


def test_a_dial_nobody_answers_for_is_given_up():
    world = World()
    world.see(SMALL, at(1))
    world.run(limits.DIAL_TIMEOUT_NS)
    assert world.given_up == [at(1)]
    assert world.row(SMALL)["addresses"][0]["reason"] == "timed out"


def test_addresses_back_off():
    world = World()
    world.see(SMALL, at(1))
    world.run(300 * SECOND, refused)
    times = [t for t, _ in world.dialled]
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert limits.DIAL_BACKOFF_NS_MIN // 2 <= waits[0] <= limits.DIAL_BACKOFF_NS_MIN
    assert all(
        limits.DIAL_BACKOFF_NS_MAX // 2 <= w <= limits.DIAL_BACKOFF_NS_MAX for w in waits[-5:]
    )
    assert 20 <= len(waits) <= 40


def test_saying_it_again_does_not_shorten_the_back_off():
    world = World()
    for n in range(2000):
        # It comes and goes, under one address and another, under one id and another.
        world.see(SMALL, at(1 + n % 2))
        world.see(many(n % 3), at(1))
        world.tell(SightLost(MDNS, SMALL))
        world.run(10 * MS, refused)
    for address in (at(1), at(2)):
        assert len([a for _, a in world.dialled if a == address]) < 16


def test_an_address_that_is_another_meshs_waits_long():
    world = World()
    world.see(SMALL, at(1))
    world.run(14 * SECOND, lambda a: DialFailed(a, "mesh-mismatch"))
    assert len(world.dialled) == 1


def test_what_is_listed_is_dialled_for_ever():
    world = World()
    assert world.tell(listed(at(1), "tcp://host.example:5757")) == [
        at(1),
        "tcp://host.example:5757",
    ]
    world.run(3600 * SECOND, refused)
    recent = [t for t, a in world.dialled if a == at(1) and t > world.now - 60 * SECOND]
    assert len(recent) >= 60 * SECOND // limits.DIAL_BACKOFF_LISTED_NS_MAX
    early = [t for t, a in world.dialled if a == at(1) and t <= 10 * SECOND + 150 * MS]
    assert len(early) >= 3, "who has just been started is there within 150 ms"


def test_what_links_name_no_more_is_not_dialled_however_often_they_change():
    world = World()
    for n in range(2 * limits.LISTED_ADDRESSES_MAX):
        failed, open_ = at(1 + 2 * n), at(2 + 2 * n)
        begun = world.tell(Sighted(LINKS, PeerFacts(addresses=(failed, open_))))
        assert set(begun) == {failed, open_}
        world.tell(refused(failed))
        world.tell(Sighted(LINKS, PeerFacts()))
        assert world.given_up[n:] == [open_]
    assert world.dialling == []
    assert world.discovery.next_deadline_ns() is None


def test_an_address_that_a_peers_list_names_too_is_dialled_when_links_do_not():
    world = World()
    world.tell(listed(at(1)))
    world.tell(Sighted(LINKS, PeerFacts(addresses=(at(1),))))
    world.tell(Sighted(LINKS, PeerFacts()))
    assert world.dialling == [at(1)]


def test_the_default_address_is_dialled_like_a_listed_one():
    world = World()
    assert world.tell(Sighted(DEFAULT, PeerFacts(addresses=(at(5757),)))) == [at(5757)]
    assert world.discovery.rows()[0]["sources"] == [DEFAULT]


def test_a_listed_peer_that_is_linked_is_not_dialled_by_another_address():
    world = World()
    world.tell(listed(at(1), "tcp://localhost:1"))
    world.up(SMALL, at(1))
    world.up(SMALL, "tcp://localhost:1")
    assert world.given_up == ["tcp://localhost:1"]
    assert len(world.discovery.rows()) == 1
    world.run(60 * SECOND)
    assert len(world.dialled) == 2
    world.tell(LinkDown(SMALL, at(1)))
    world.run(1 * SECOND)
    assert sorted(world.dialling) == [at(1), "tcp://localhost:1"]


def test_dials_in_flight_are_bounded():
    world = World()
    for n in range(100):
        world.see(many(n), at(1000 + n))
    assert len(world.dialling) == limits.DIALS_MDNS_MAX
    for n in range(40):
        world.tell(listed(at(2000 + n)))
    assert len(world.dialling) == limits.DIALS_MDNS_MAX + limits.DIALS_LISTED_MAX
    world.run(10 * SECOND, refused)
    assert {a for _, a in world.dialled} >= {at(1000 + n) for n in range(100)}


def test_new_dials_by_what_mdns_says_are_bounded_in_rate():
    world = World()
    for n in range(5000):
        world.see(many(n), at(1000 + n))
        world.run(1 * MS, refused)
    most = limits.DIAL_BURST_COUNT + 5 * SECOND // limits.DIAL_INTERVAL_NS + 1
    assert most // 2 < len(world.dialled) <= most


def test_too_many_listed_are_counted():
    world = World()
    for n in range(limits.LISTED_ADDRESSES_MAX + 5):
        world.tell(listed(at(1000 + n)))
        world.tell(listed(at(1000 + n)))
    assert world.counters["listed-full"] == 10


# -- links --------------------------------------------------------------------------------------


def test_nothing_that_is_said_ends_a_link():
    world = World()
    world.see(SMALL, at(1))
    world.up(SMALL, at(1))
    world.tell(SightLost(MDNS, SMALL))
    world.see(SMALL, at(9), name="other", kind="node")
    world.tell(SightLost(MDNS, SMALL))
    for n in range(2 * limits.FOUND_PEERS_MAX):
        world.see(many(n), at(1))
    world.run(3600 * SECOND, refused)
    assert at(1) not in world.given_up
    row = world.row(SMALL)
    assert (row["state"], row["kind"], row["name"]) == ("linked", "client", "")


def test_a_goodbye_does_not_end_the_dials_at_once():
    """It may be forged: only who stays lost is forgotten."""
    world = World()
    world.see(SMALL, at(1))
    world.tell(SightLost(MDNS, SMALL))
    world.run(limits.SIGHT_LOST_NS - 1, refused)
    assert len(world.dialled) > 5
    world.see(SMALL, at(1))
    world.run(limits.SIGHT_LOST_NS, refused)
    assert world.knows(SMALL)
    world.tell(SightLost(MDNS, SMALL))
    world.run(limits.SIGHT_LOST_NS, refused)
    assert not world.knows(SMALL)
    assert world.discovery.next_deadline_ns() is None


def test_goodbyes_again_and_again_do_not_keep_it():
    world = World()
    world.see(SMALL, at(1))
    for _ in range(70):
        world.tell(SightLost(MDNS, SMALL))
        world.run(1 * SECOND, refused)
    assert not world.knows(SMALL)


def test_a_lost_link_is_dialled_again_at_once():
    world = World()
    world.see(SMALL, at(1))
    world.up(SMALL, at(1))
    world.run(limits.LINK_STEADY_NS)
    assert world.tell(LinkDown(SMALL, at(1))) == [at(1)]


def test_a_link_that_does_not_last_backs_off():
    world = World()
    world.see(SMALL, at(1))
    for _ in range(1000):
        if at(1) in world.dialling:
            world.up(SMALL, at(1))
            world.tell(LinkDown(SMALL, at(1)))
        world.run(20 * MS)
    assert len(world.dialled) < 12


def test_a_link_that_was_is_dialled_where_it_was_whatever_records_say():
    world = World()
    world.see(SMALL, at(1))
    world.up(SMALL, at(1))
    world.see(SMALL, at(666))
    world.run(limits.LINK_STEADY_NS)
    assert at(1) in world.tell(LinkDown(SMALL, at(1)))


def test_who_says_goodbye_and_is_gone_is_forgotten():
    world = World()
    world.see(SMALL, at(1))
    world.up(SMALL, at(1))
    world.tell(SightLost(MDNS, SMALL))
    world.tell(LinkDown(SMALL, at(1)))
    world.run(limits.SIGHT_LOST_NS + SECOND, refused)
    assert not world.knows(SMALL)
    assert world.discovery.next_deadline_ns() is None


def test_one_who_dialled_us_is_not_dialled():
    world = World()
    world.up(SMALL)
    assert world.see(SMALL, at(1)) == []
    world.tell(LinkDown(SMALL))
    assert world.dialling == [at(1)]


def test_one_who_dialled_us_and_went_is_forgotten():
    world = World()
    world.up(SMALL)
    world.tell(LinkDown(SMALL))
    assert not world.knows(SMALL)


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("other", [SMALL, LARGE])
def test_of_two_links_the_one_that_the_smaller_dialled_stays(first, other):
    world = World()
    world.see(other, at(1))
    if first == "ours":
        world.up(other, at(1))
        world.up(other)
    elif other == SMALL:
        world.up(other)
        assert world.given_up == [at(1)], "ours would end anyhow"
    else:
        world.up(other)
        assert world.given_up == [], "the other end gives up its own"
        world.up(other, at(1))
    assert world.given_up == ([at(1)] if other == SMALL else [])
    world.tell(LinkDown(other, "" if other == LARGE else at(1)))
    assert world.discovery.is_linked(other)


class Pair:
    """Two that dial each other; each hears of its two links in any order."""

    def __init__(self, seed: int) -> None:
        self.entropy = random.Random(seed)
        self.machines = {i: Discovery(i, "local", self.entropy) for i in (SMALL, LARGE)}
        self.news: list[tuple[bytes, bytes, Event]] = []  # who hears, who dialled, what
        self.ended: set[bytes] = set()  # who gave up the link that it dialled
        self.seen: set[tuple[bytes, bytes]] = set()

    def handle(self, me: bytes, event: Event) -> None:
        other = LARGE if me == SMALL else SMALL
        for effect in self.machines[me].handle(event, 0):
            if isinstance(effect, Dial):
                self.news.append((other, me, LinkUp(facts(me))))
                self.news.append((me, me, LinkUp(facts(other), effect.address)))
            elif me not in self.ended:
                self.ended.add(me)
                if (other, me) in self.seen:
                    self.news.append((other, me, LinkDown(me)))

    def play(self) -> None:
        self.handle(SMALL, Sighted(MDNS, facts(LARGE, at(2))))
        self.handle(LARGE, Sighted(MDNS, facts(SMALL, at(1))))
        while self.news:
            me, dialler, event = self.news.pop(self.entropy.randrange(len(self.news)))
            if isinstance(event, LinkDown) or dialler not in self.ended:
                self.seen.add((me, dialler))
                self.handle(me, event)


def test_two_that_dial_each_other_always_end_with_one_link():
    for seed in range(200):
        pair = Pair(seed)
        pair.play()
        assert pair.ended == {LARGE}
        for machine in pair.machines.values():
            (row,) = machine.rows()
            assert row["state"] == "linked"


def test_a_second_link_by_another_address_ends():
    world = World()
    world.see(SMALL, at(1))
    world.tell(listed(at(2)))
    world.up(SMALL, at(1))
    world.up(SMALL, at(2))
    assert world.given_up == [at(2)]
    assert world.discovery.is_linked(SMALL)


def test_a_link_after_it_was_given_up_ends():
    world = World()
    world.see(SMALL, at(1))
    world.run(limits.DIAL_TIMEOUT_NS)
    world.up(SMALL, at(1))
    assert world.given_up == [at(1), at(1)]
    assert not world.discovery.is_linked(SMALL)


def test_our_own_address_is_not_dialled_twice():
    world = World()
    world.tell(listed(at(1)))
    world.up(ME, at(1))
    world.run(60 * SECOND)
    assert world.given_up == [at(1)]
    assert len(world.dialled) == 1


def test_who_is_there_is_what_the_handshake_says():
    world = World()
    world.see(SMALL, at(1), name="forged", kind="node")
    world.up(LARGE, at(1), name="real")
    assert world.counters["mistaken"] == 1
    assert not world.discovery.is_linked(SMALL)
    assert world.row(LARGE)["name"] == "real"
    world.run(60 * SECOND)
    assert len(world.dialled) == 1, "the one who is there is linked: no use to dial it again"
    world.run(1)
    world.tell(LinkDown(LARGE, at(1)))
    world.run(SECOND)
    assert len(world.dialled) > 1


# -- what is said ---------------------------------------------------------------------------------

ABSURD = {
    "own": facts(ME, at(1)),
    "other-mesh": facts(SMALL, at(1), mesh="other"),
    "bad-mesh": facts(SMALL, at(1), mesh="no mesh"),
    "bad-instance": facts(b"short", at(1)),
    "bad-kind": facts(SMALL, at(1), kind="broker"),
    "bad-name": facts(SMALL, at(1), name="a\x1b[2J"),
    "bad-version": facts(SMALL, at(1), major=-1),
    "no-address": facts(SMALL),
    "too-many-addresses": facts(SMALL, *map(at, range(1, limits.PEER_ADDRESSES_MAX + 2))),
    "address-too-long": facts(SMALL, "ipc:///" + "x" * limits.PEER_ADDRESS_BYTES_MAX),
    "not-local": facts(SMALL, at(1), at(1, "192.0.2.7")),
    "bad-port": facts(SMALL, at(0)),
}


@pytest.mark.parametrize("reason", ABSURD)
def test_what_is_absurd_is_counted_and_ignored(reason):
    world = World()
    assert world.tell(Sighted(MDNS, ABSURD[reason])) == []
    assert world.counters == {reason: 1}
    assert world.discovery.rows() == []
    assert world.discovery.next_deadline_ns() is None


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("tcp://127.0.0.1:65536", "bad-port"),
        ("tcp://127.0.0.1:", "bad-port"),
        ("tcp://127.0.0.1", "bad-port"),
        ("tcp://127.0.0.1:x", "bad-port"),
        ("tcp://127.0.0.1:-1", "bad-port"),
        ("tcp://localhost:1", "bad-address"),
        ("tcp://forged.example:1", "bad-address"),
        ("tcp://0.0.0.0:1", "bad-address"),
        ("tcp://[::]:1", "bad-address"),
        ("tcp://224.0.0.1:1", "bad-address"),
        ("tcp://255.255.255.255:1", "bad-address"),
        ("tcp://127.0.0.1:1/path", "bad-address"),
        ("tcp://127.0.0.1:1\n", "bad-address"),
        ("udp://127.0.0.1:1", "bad-address"),
        ("ipc://relative", "bad-address"),
        ("ipc:///", "bad-address"),
        ("", "bad-address"),
        ("tcp://[::1]:1", ""),
        ("tcp://127.0.0.1:65535", ""),
        ("tcp://127.8.8.8:1", ""),
        ("ipc:///run/x", ""),
    ],
)
def test_addresses_that_nobody_should_dial(address, fault):
    world = World()
    world.see(SMALL, address)
    assert world.dialling == ([] if fault else [address])
    assert not fault or world.counters == {fault: 1}


def test_a_mesh_with_a_name_does_not_leave_the_host_by_itself():
    world = World("lab")
    assert world.see(SMALL, at(1, "192.0.2.7"), mesh="lab") == []
    assert world.counters == {"not-local": 1}


def test_local_does_not_leave_the_host_whatever_is_allowed():
    world = World(insecure=True)
    assert world.see(SMALL, at(1, "192.0.2.7")) == []


def test_a_mesh_with_a_name_goes_beyond_the_host():
    world = World("lab", insecure=True)
    address = at(1, "192.0.2.7")
    assert world.see(SMALL, address, mesh="lab") == [address]
    assert world.see(LARGE, at(2), mesh="local") == []


def test_a_flood_pushes_out_nobody_who_is_linked_and_grows_nothing():
    world = World()
    world.see(SMALL, at(1))
    world.up(SMALL, at(1))
    world.see(LARGE, at(2))
    world.up(LARGE, at(2))
    world.tell(LinkDown(LARGE, at(2)))  # it was linked: the flood's own go first
    for n in range(5 * limits.FOUND_PEERS_MAX):
        world.see(many(n), *(at(1 + (n * 7 + i) % 65_000) for i in range(16)))
        world.now += MS // 10
    assert world.discovery.is_linked(SMALL)
    assert world.knows(LARGE)
    assert len(world.discovery.rows()) <= limits.FOUND_PEERS_MAX + 1
    assert world.counters["pushed-out"] >= 4 * limits.FOUND_PEERS_MAX
    discovery: Any = world.discovery
    assert len(discovery._addresses) <= 17 * limits.FOUND_PEERS_MAX + limits.FOUND_PEERS_MAX
    assert len(discovery._idle) <= limits.FOUND_PEERS_MAX
    for lane in (discovery._mdns, discovery._known, discovery._listed):
        assert len(lane.queue) <= 2 * len(discovery._addresses) + 64


def test_who_was_here_shortly_is_pushed_out_by_those_who_come_later():
    """Of the one address of each the network has told, and he himself."""
    world = World()
    for n in range(2 * limits.FOUND_PEERS_MAX):
        address = at(1000 + n)
        world.see(many(n), address)
        world.tell(LinkUp(facts(many(n), address)))
        world.tell(LinkDown(many(n), "", "the peer said goodbye"))
        for gone in list(world.dialling):
            world.tell(DialFailed(gone, "refused"))
        world.now += MS
    assert world.counters["pushed-out"] == limits.FOUND_PEERS_MAX
    assert len(world.discovery.rows()) == limits.FOUND_PEERS_MAX


def test_a_flood_of_one_address_is_dialled_as_one_and_costs_no_more():
    """All are said to be where nobody answers; who is there is met all the same."""
    world = World()
    world.tell(Sighted(MDNS, facts(many(0), at(7))))
    world.tell(DialFailed(at(7), "refused"))
    for number in range(1, 5000):
        world.tell(Sighted(MDNS, facts(many(number), at(7))))
    assert world.discovery.counters["crowded"] == 5000 - limits.ADDRESS_CLAIMS_MAX
    assert len(world.discovery.rows()) == limits.ADDRESS_CLAIMS_MAX
    world.tell(Sighted(MDNS, facts(SMALL, at(7), at(8))))
    assert at(8) in world.dialling, "the other address of one who is at a crowded one, too"
    for number in range(1, 5000):  # said again, as mDNS does
        world.tell(Sighted(MDNS, facts(many(number), at(7))))
    world.run(limits.DIAL_TIMEOUT_NS // 2)
    assert at(7) in world.dialling
    world.tell(LinkUp(facts(LARGE), at(7)))
    assert world.discovery.is_linked(LARGE)


def test_one_record_that_changes_again_and_again_grows_nothing():
    world = World()
    for n in range(20_000):
        world.see(SMALL, at(1 + n % 60_000))
    discovery: Any = world.discovery
    assert len(discovery._addresses) <= limits.FOUND_PEERS_MAX + 40
    assert len(discovery._mdns.queue) <= 2 * limits.FOUND_PEERS_MAX
    assert len(world.discovery.rows()) == 1


def test_a_flood_does_not_keep_us_from_what_is_listed_nor_from_who_was_linked():
    world = World()
    world.see(LARGE, at(2))
    world.up(LARGE, at(2))
    world.run(limits.LINK_STEADY_NS)
    for n in range(2000):
        world.see(many(n), at(1000 + n))
    assert world.tell(LinkDown(LARGE, at(2))) == [at(2)]
    assert world.tell(listed(at(3))) == [at(3)]


def test_the_one_sighted_longest_ago_goes_first():
    world = World(dials=[])
    for n in range(limits.FOUND_PEERS_MAX):
        world.see(many(n), at(1 + n))
    world.see(many(0), at(1))
    world.see(SMALL, at(9999))
    assert world.knows(many(0))
    assert not world.knows(many(1))


# -- gossip ----------------------------------------------------------------------------------------


def linked_world() -> World:
    world = World()
    world.up(SMALL)
    return world


def test_what_a_linked_peer_tells_is_dialled():
    world = linked_world()
    assert world.gossip(SMALL, LARGE, at(1)) == [at(1)]


def test_what_others_tell_is_ignored():
    world = World()
    assert world.gossip(SMALL, LARGE, at(1)) == []
    assert world.counters == {"gossip-unlinked": 1}


def test_gossip_of_another_mesh_is_ignored():
    world = linked_world()
    world.tell(Sighted(GOSSIP, facts(LARGE, at(1), mesh="other"), SMALL))
    assert world.counters["other-mesh"] == 1
    assert not world.knows(LARGE)


def test_dials_by_gossip_are_bounded_by_teller_and_in_all():
    world = World()
    tellers = [many(9000 + t) for t in range(10)]
    for t, teller in enumerate(tellers):
        world.up(teller)
        for n in range(20):
            world.gossip(teller, many(100 * t + n), at(1000 + 100 * t + n))
        if t == 0:
            assert len(world.dialling) == limits.DIALS_GOSSIPER_MAX
    assert len(world.dialling) == limits.DIALS_GOSSIP_MAX
    assert world.see(LARGE, at(1)) == [at(1)], "own sight goes its own way"
    world.run(3 * SECOND, refused)
    others = {a for _, a in world.dialled if a >= at(1100)}
    assert len(others) > 100, "none of them keeps the others from being heard"


def test_a_teller_cannot_make_us_knock_all_over():
    world = linked_world()
    for n in range(1000):
        # Others each time, in place of those it told of before.
        world.gossip(SMALL, many(n % 60), at(1000 + n))
        world.run(5 * MS, refused)
    most = limits.DIAL_GOSSIPER_BURST_COUNT + 5 * SECOND // limits.DIAL_GOSSIPER_INTERVAL_NS + 1
    assert len(world.dialled) <= most


def test_a_teller_tells_of_so_many():
    world = linked_world()
    for n in range(limits.GOSSIP_PEERS_MAX + 5):
        world.gossip(SMALL, many(n), at(1000 + n))
    assert world.counters["gossip-full"] == 5
    world.gossip(SMALL, many(0), at(1000))
    assert world.counters["gossip-full"] == 5


def test_so_many_tell_of_one():
    world = World()
    for n in range(limits.GOSSIPERS_PER_PEER_MAX + 2):
        world.up(many(n))
        world.gossip(many(n), LARGE, at(1))
    assert world.counters["gossip-known"] == 2


def test_what_a_peer_told_goes_with_it():
    world = linked_world()
    world.gossip(SMALL, LARGE, at(1))
    world.tell(LinkDown(SMALL))
    world.run(limits.SIGHT_LOST_NS + SECOND, refused)
    assert not world.knows(LARGE)
    discovery: Any = world.discovery
    assert not discovery._tellers
    assert not discovery._told


def test_own_sight_goes_before_gossip():
    world = World(dials=[])
    world.up(SMALL)
    world.see(LARGE, at(1), name="seen")
    world.tell(Sighted(GOSSIP, facts(LARGE, at(2), name="told"), SMALL))
    assert world.row(LARGE)["name"] == "seen"
    assert [a["address"] for a in world.row(LARGE)["addresses"]] == [at(1), at(2)]


def test_only_who_is_linked_is_told_of():
    world = World()
    world.see(SMALL, at(1), name="linked")
    world.see(LARGE, at(2), name="found")
    world.up(SMALL, at(1), name="linked")
    world.up(many(1))
    told = world.discovery.gossip()
    assert told == (facts(SMALL, at(1), name="linked"),), "nor of one without an address"


def test_what_others_say_of_a_peer_is_not_told_on():
    world = linked_world()
    world.tell(LinkUp(facts(LARGE, at(1)), ""))
    world.see(LARGE, at(2))
    world.gossip(SMALL, LARGE, at(3))
    assert [told.addresses for told in world.discovery.gossip()] == [(at(1),)]


def test_whom_a_peer_tells_of():
    world = World()
    world.tell(LinkUp(facts(SMALL, at(1)), ""))
    world.gossip(SMALL, LARGE, at(2))
    assert world.discovery.told_by(SMALL) == {LARGE}
    assert world.discovery.told_by(LARGE) == set()


def test_names_are_not_told():
    """A peers list may have host names; others take IP addresses only."""
    world = World()
    world.tell(listed("tcp://localhost:1"))
    world.up(SMALL, "tcp://localhost:1")
    assert world.discovery.gossip() == ()


def test_so_many_are_told_of():
    world = World()
    for n in range(limits.GOSSIP_PEERS_MAX + 5):
        world.tell(LinkUp(facts(many(n), at(1000 + n))))
    told = world.discovery.gossip()
    assert len(told) == limits.GOSSIP_PEERS_MAX
    assert told[0].instance == many(limits.GOSSIP_PEERS_MAX + 4)


def test_addresses_of_a_handshake_are_dialled_when_the_link_is_lost():
    world = World()
    world.tell(LinkUp(facts(SMALL, at(4))))
    assert world.dialling == []
    world.tell(LinkDown(SMALL))
    assert world.dialling == [at(4)]


# -- anything --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_anything_in_any_order(seed):
    """No event upsets it, its counts stay right, and what it dials stays within its bounds."""
    entropy = random.Random(seed)
    world = World()
    instances = [ME, SMALL, LARGE, *map(many, range(6))]
    addresses = [at(n) for n in range(1, 12)]
    links: set[tuple[bytes, str]] = set()
    for _ in range(1500):
        one = entropy.choice(instances)
        some = entropy.sample(addresses, entropy.randrange(1, 4))
        match entropy.randrange(9):
            case 0:
                world.see(one, *some)
            case 1:
                world.gossip(entropy.choice(instances), one, *some)
            case 2:
                world.tell(
                    SightLost(entropy.choice([MDNS, GOSSIP]), one, entropy.choice([b"", one]))
                )
            case 3 if len(addresses) > 3:
                world.tell(listed(entropy.choice(addresses[:3])))
            case 4 | 5 if world.dialling:
                address = entropy.choice(world.dialling)
                if entropy.random() < 0.5:
                    world.tell(refused(address))
                else:
                    links.add((one, address))
                    world.up(one, address)
            case 6:
                links.add((one, ""))
                world.up(one)
            case 7 if links:
                instance, address = entropy.choice(sorted(links))
                links.discard((instance, address))
                world.tell(LinkDown(instance, address))
            case _:
                world.run(entropy.randrange(1, 5 * SECOND))
        discovery: Any = world.discovery
        assert sorted(world.dialling) == sorted(discovery._dialling)
        lanes = [discovery._listed, discovery._known, discovery._mdns, *discovery._tellers.values()]
        for lane in lanes:
            assert 0 <= lane.in_flight <= lane.room
            assert lane.queued == sum(a.queue is lane for a in discovery._addresses.values())
        for address in discovery._addresses.values():
            assert (address.state == DIALLING) == (address.text in world.dialling)
            for instance, source, teller in address.claims:
                if instance:
                    assert address.text in discovery._peers[instance].sights[source, teller]
        unlinked = {i for i, p in discovery._peers.items() if not p.links}
        assert unlinked == set(discovery._fresh) | set(discovery._former)
