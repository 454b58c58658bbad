"""mDNS for real, over the loopback interface: who is found, and that forgeries do no harm."""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from meshmq import limits
from meshmq.core.discovery import MDNS, Discovery, LinkUp, Sighted, SightLost
from meshmq.frames import PeerFacts
from meshmq.shell import discovery as shell
from meshmq.shell.discovery import Mdns, facts_of, service_info
from meshmq.shell.interfaces import GROUP, PORT, multicast_addresses, reachable_at
from tests.chaos.forger import FORGERIES, facts, forged, records

FOUND_S = 20.0  # how long to look; it takes a fraction of a second
pytestmark = pytest.mark.xdist_group("mdns")  # a flood of one test is heard by all


def until(is_true: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(is_true())


def sorted_event(event: Any) -> Any:
    """A record does not keep the order of addresses."""
    if isinstance(event, SightLost):
        return event
    return replace(event, facts=sorted_facts(event.facts))


def sorted_facts(told: PeerFacts) -> PeerFacts:
    return replace(told, addresses=tuple(sorted(told.addresses)))


class Peer:
    """One that tells of itself, and hears of others of its mesh."""

    def __init__(self, mesh: str, **other: Any) -> None:
        self.facts = facts(mesh, **other)
        self.mdns = Mdns(mesh, False, lambda: None)
        self.mdns.advertise(self.facts)
        self.mdns.start()
        self.heard: list[Any] = []

    def listen(self) -> list[Any]:
        while self.mdns.events:
            self.heard.append(self.mdns.events.popleft())
        return self.heard

    def hears(self, event: Any) -> bool:
        return sorted_event(event) in map(sorted_event, self.listen())


@pytest.fixture
def mesh() -> str:
    """Others speak mDNS on this host too."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def peers(mesh: str) -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(**other: Any) -> Peer:
        made.append(Peer(mesh, **other))
        return made[-1]

    yield make
    for peer in made:
        peer.mdns.close(0)
    for peer in made:
        peer.mdns.close(2)
        assert peer.mdns.state in ("closed", "failed")


class Forger:
    """Says anything to everybody on this host."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        here = socket.inet_aton("127.0.0.1")
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)

    def say(self, *packets: bytes) -> None:
        for packet in packets:
            self._socket.sendto(packet, (GROUP, PORT))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()


def test_those_who_start_find_those_who_are_there(peers):
    first = peers(name="first", kind="node")
    assert until(lambda: first.mdns.state == "on", 5)
    second = peers(name="second")
    assert until(lambda: first.hears(Sighted(MDNS, second.facts)), FOUND_S)
    assert until(lambda: second.hears(Sighted(MDNS, first.facts)), FOUND_S)


def test_several_of_one_host_hear_the_same_answer(peers):
    """An answer to the port that they share would reach one of them."""
    first = peers()
    assert until(lambda: first.mdns.state == "on", 5)
    time.sleep(1.2)  # what it said by itself is over: from now on it only answers
    others = [peers() for _ in range(4)]
    for other in others:
        assert until(lambda one=other: one.hears(Sighted(MDNS, first.facts)), FOUND_S)


def test_a_goodbye_is_heard(peers):
    first, second = peers(), peers()
    assert until(lambda: second.hears(Sighted(MDNS, first.facts)), FOUND_S)
    first.mdns.close()
    assert until(lambda: second.hears(SightLost(MDNS, first.facts.instance)), FOUND_S)


def test_what_is_told_may_change(peers, mesh):
    first, second = peers(), peers()
    assert until(lambda: second.hears(Sighted(MDNS, first.facts)), FOUND_S)
    changed = facts(mesh, 2002, name="again")
    first.mdns.advertise(changed)
    assert until(lambda: second.hears(Sighted(MDNS, changed)), FOUND_S)
    first.mdns.advertise(None)
    assert until(lambda: second.hears(SightLost(MDNS, changed.instance)), FOUND_S)


def test_all_that_is_told_is_heard(peers):
    """Names of people, two addresses of one port, a socket's path with a space."""
    addresses = ("tcp://127.0.0.1:1001", "tcp://127.0.0.2:1001", "ipc:///tmp/a b/c")
    first = peers(name="Zoë's laptop", addresses=addresses, kind="node", major=3, minor=14)
    second = peers()
    assert until(lambda: second.hears(Sighted(MDNS, first.facts)), FOUND_S)


@pytest.mark.parametrize(
    "addresses",
    [
        ("tcp://[fd00::7]:5757",),
        ("ipc:///run/x",),
        ("tcp://192.0.2.7:1", "tcp://[fd00::7]:1"),
        ("tcp://127.0.0.1:1", "ipc:///run/x"),
    ],
)
def test_records_keep_addresses(addresses):
    told = facts("lab", addresses=addresses)
    info = service_info(told)
    heard = facts_of(info.name, info.port, info.parsed_addresses(), info.properties)
    assert sorted_facts(heard) == sorted_facts(told)


def test_all_interfaces_are_told_as_their_addresses():
    told = facts("lab", addresses=("tcp://0.0.0.0:5757", "ipc://relative"))
    info = service_info(told)
    heard = facts_of(info.name, info.port, info.parsed_addresses(), info.properties)
    assert set(heard.addresses) == {
        *reachable_at("tcp://0.0.0.0:5757"), f"ipc://{os.getcwd()}/relative",
    }  # fmt: skip


def test_long_names_are_cut_where_a_letter_ends():
    told = facts("lab", name="ü" * 200)
    info = service_info(told)
    heard = facts_of(info.name, info.port, info.parsed_addresses(), info.properties)
    assert heard.name == "ü" * (limits.MDNS_NAME_BYTES_MAX // 2)
    assert max(map(len, records(info))) < 1460


def test_forged_records_change_nothing_but_the_counters(peers, mesh):
    """Each is counted under its reason; who is there is found as ever."""
    listener = peers()
    discovery = Discovery(listener.facts.instance, mesh, random.Random(1))
    linked = facts(mesh, 7)
    discovery.handle(Sighted(MDNS, linked), 0)
    discovery.handle(LinkUp(linked, linked.addresses[0]), 0)
    before = discovery.rows()
    assert until(lambda: listener.mdns.state == "on", 5)

    def counted(reason: str) -> int:
        for event in listener.listen():
            assert discovery.handle(event, 1) == []
        listener.heard.clear()
        return discovery.counters[reason] + listener.mdns.counters[reason]

    with Forger() as forger:
        for what, (reason, changes) in FORGERIES.items():
            had = counted(reason)
            forger.say(*records(forged(mesh, **changes)))
            assert until(lambda r=reason, n=had: counted(r) > n, FOUND_S), what
        forger.say(b"", b"\0" * 12, os.urandom(500), b"\xff" * 9000)
        forger.say(*records(service_info(linked), ttl=0))  # a forged goodbye
        time.sleep(0.3)
    assert counted("own") >= 1, "it hears itself"
    assert discovery.rows() == before
    late = peers()
    assert until(lambda: listener.hears(Sighted(MDNS, late.facts)), FOUND_S)


FLOOD = """
import os, socket, sys, time
packets = [bytes.fromhex(line) for line in sys.stdin]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
until, sent = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < until:
    for packet in packets[sent % len(packets):][:50]:
        s.sendto(packet, ("224.0.0.251", 5353))
        sent += 1
    time.sleep(0.005)
print(sent)
"""


@pytest.mark.slow
@pytest.mark.alone  # others on this host would hear it, too
def test_a_flood_of_records_costs_no_core_no_memory_and_no_link(peers, mesh):
    """Some 10,000 forged records a second, each with another name."""
    seconds, count = 6.0, 20_000
    packets = "\n".join(records(forged(mesh))[0].hex() for _ in range(count))
    listener = peers()
    discovery = Discovery(listener.facts.instance, mesh, random.Random(1))
    linked = facts(mesh, 7)
    discovery.handle(Sighted(MDNS, linked), 0)
    discovery.handle(LinkUp(linked, linked.addresses[0]), 0)
    assert until(lambda: listener.mdns.state == "on", 5)
    time.sleep(1.5)  # what the start costs is over
    used = cpu_of(listener.mdns)
    flood = subprocess.Popen(
        [sys.executable, "-c", FLOOD, str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    threading.Thread(target=lambda: flood.communicate(packets), daemon=True).start()
    began, dials = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for event in listener.listen():
            dials += len(discovery.handle(event, time.monotonic_ns()))
        listener.heard.clear()
        assert len(listener.mdns.events) <= limits.MDNS_EVENTS_MAX
        time.sleep(0.02)
    share = (cpu_of(listener.mdns) - used) / seconds
    assert listener.mdns.counters["throttled"] > 5
    assert share < 1.5 / limits.MDNS_SHARE, share
    assert discovery.is_linked(linked.instance)
    assert len(discovery.rows()) <= limits.FOUND_PEERS_MAX + 1
    assert dials <= limits.DIALS_MDNS_MAX + limits.DIAL_BURST_COUNT
    flood.wait(20)
    late = peers()
    assert until(lambda: late.hears(Sighted(MDNS, listener.facts)), 5)


def cpu_of(mdns: Any) -> float:
    """Seconds that its thread has used."""
    text = Path(f"/proc/self/task/{mdns._thread.native_id}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_records_that_flap_end_nothing(peers, mesh):
    """One comes and goes, again and again, as a host with a bad network does."""
    listener = peers()
    discovery = Discovery(listener.facts.instance, mesh, random.Random(1))
    flapping = facts(mesh, 7)
    assert until(lambda: listener.mdns.state == "on", 5)
    dialled = 0
    with Forger() as forger:
        for n in range(20):
            forger.say(*records(service_info(flapping), ttl=0 if n % 2 else None))
            time.sleep(0.05)
            for event in listener.listen():
                effects = discovery.handle(event, n)
                dialled += len(effects)
                if effects:
                    discovery.handle(LinkUp(flapping, flapping.addresses[0]), n)
            listener.heard.clear()
    assert dialled == 1
    assert discovery.counters["lost"] + discovery.counters["sighted"] > 1
    assert discovery.is_linked(flapping.instance)


def test_what_the_program_does_not_take_is_bounded(peers, mesh, monkeypatch):
    monkeypatch.setattr(limits, "MDNS_EVENTS_MAX", 3)
    listener = peers()
    assert until(lambda: listener.mdns.state == "on", 5)
    with Forger() as forger:
        for _ in range(10):
            forger.say(*records(forged(mesh)))
        assert until(lambda: listener.mdns.counters["overflow"] >= 7, FOUND_S)
    assert len(listener.mdns.events) == 3


# -- what may fail --------------------------------------------------------------------------------


def test_that_mdns_fails_is_a_state_and_may_end(peers, monkeypatch):
    monkeypatch.setattr(limits, "INTERFACES_INTERVAL_NS", 100 * limits.MS)
    monkeypatch.setattr(shell, "multicast_addresses", lambda everywhere: ["192.0.2.222"])
    peer = peers()
    assert until(lambda: peer.mdns.state == "failed", 5)
    assert peer.mdns.reason == "the interface is down or gone"
    monkeypatch.setattr(shell, "multicast_addresses", multicast_addresses)
    assert until(lambda: peer.mdns.state == "on", 5)
    assert peer.mdns.reason == ""


def test_a_bug_of_the_library_is_a_state_too(peers, monkeypatch):
    monkeypatch.setattr(Mdns, "_confine", lambda self, zeroconf: 1 // 0)
    peer = peers()
    assert until(lambda: peer.mdns.state == "failed", 5)
    assert "ZeroDivisionError" in peer.mdns.reason


def test_interfaces_that_change_are_used(peers, monkeypatch):
    monkeypatch.setattr(limits, "INTERFACES_INTERVAL_NS", 100 * limits.MS)
    found = [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]]
    monkeypatch.setattr(shell, "multicast_addresses", lambda everywhere: found[0])
    first = peers()
    assert until(lambda: first.mdns.state == "on", 5)
    found.pop(0)
    assert until(lambda: len(first.mdns.addresses) == 2 and first.mdns.state == "on", 5)
    second = peers()
    assert until(lambda: second.hears(Sighted(MDNS, first.facts)), 5)


ALONE = """
import os, sys, time
from meshmq.frames import PeerFacts
from meshmq.shell.discovery import Mdns
mdns = Mdns("local", False, lambda: None)
mdns.advertise(PeerFacts(os.urandom(16), "node", "local", addresses=("tcp://127.0.0.1:1",)))
mdns.start()
until = time.monotonic() + 5
while mdns.state == "starting" and time.monotonic() < until:
    time.sleep(0.01)
print(mdns.state, mdns.reason, flush=True)
sys.stdin.read(1)
"""

HOG = (
    "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    's.bind(("", 5353)); time.sleep(4)'
)

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None,
    reason="needs root, unshare and ip",
)


def in_namespace(commands: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a network namespace of its own, prepared by shell commands."""
    return subprocess.run(
        ["unshare", "-n", "sh", "-c", f'{commands}\nexec "$0" -c "$1"', sys.executable, script],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50,
    )  # fmt: skip


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ("true", "failed the interface is down or gone"),
        ("ip link set lo up", "on"),
        (
            f"ip link set lo up; {sys.executable} -c '{HOG}' & sleep 1",
            "failed port 5353 is taken by a program that does not share it",
        ),
    ],
)
def test_where_mdns_cannot_work(commands, said):
    done = in_namespace(commands, ALONE)
    assert done.stdout.strip() == said, done.stderr


def test_local_hears_nothing_from_beyond_the_host(peers):
    """Nor is it asked: its socket is the loopback interface's, whoever else on this host is a
    member of the group elsewhere."""
    peer = peers()
    assert until(lambda: peer.mdns.state == "on", 5)
    bound = [
        line.split()[1] for line in Path("/proc/self/net/udp").read_text().splitlines()
        if ":14E9" in line
    ]  # fmt: skip
    assert bound
    beyond = [i for i in multicast_addresses(everywhere=True) if i != "127.0.0.1"]
    if not beyond:
        pytest.skip("no other interface than the loopback one")
    told = facts(peer.facts.mesh)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
    ):
        member.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(GROUP) + socket.inet_aton(beyond[0]),
        )  # fmt: skip
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(beyond[0]))
        for packet in records(service_info(told)):
            mouth.sendto(packet, (GROUP, PORT))
        time.sleep(0.5)
    assert not peer.hears(Sighted(MDNS, told))


def test_what_listens_everywhere_is_reached_at_each_address():
    found = reachable_at("tcp://0.0.0.0:5757")
    assert found[-1] == "tcp://127.0.0.1:5757"
    assert all(":5757" in address and "0.0.0.0" not in address for address in found)
    assert reachable_at("tcp://127.0.0.1:1") == ("tcp://127.0.0.1:1",)
    assert reachable_at("ipc:///tmp/x") == ("ipc:///tmp/x",)
    assert reachable_at("ipc://x") == (f"ipc://{os.getcwd()}/x",)


def test_nothing_of_it_is_loaded_before_it_is_needed():
    script = (
        "import sys, meshmq, meshmq.client.mesh, meshmq.cli.app, meshmq.shell.runner; "
        "print([m for m in sys.modules if m.startswith(('zeroconf', 'ifaddr'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_who_closes_at_once_says_nothing_of_it(mesh: str, caplog: pytest.LogCaptureFixture) -> None:
    mdns: Mdns
    mdns = Mdns(mesh, False, lambda: mdns.close(0))
    mdns.start()
    assert until(lambda: not mdns._thread.is_alive(), FOUND_S)
    gc.collect()  # asyncio tells of a failed task once nobody can ask for its end
    assert caplog.records == []
