"""Hosts of their own, as far as a network is concerned: they find each other by mDNS."""

from __future__ import annotations

import json
import time

import pytest

from tests.chaos import network as programs
from tests.chaos.hosts import Network, ip, why_not

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not()),
]  # fmt: skip


@pytest.fixture
def network():
    try:
        made = Network(3)
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.close()


LAB = ("--mesh", "lab", "--insecure")
EVERYWHERE = ("--listen", "tcp://0.0.0.0:5757", *LAB)


@pytest.mark.alone  # it has seconds to find it
def test_programs_find_a_node_on_another_host(network, tmp_path):
    one, two, three = network.hosts
    network.node(one, tmp_path / "one", *EVERYWHERE)
    code, out, said = network.run(two, "-m", "meshmq", "pub", "a.b", "hello", *LAB)
    assert (code, said) == (0, ""), out
    code, out, said = network.run(
        three, "-m", "meshmq", "sub", "a.b", "--from", "earliest", "--count", "1", *LAB
    )
    assert (code, out) == (0, "a.b #0 hello\n"), said


def test_nodes_and_their_addresses_are_listed(network, tmp_path):
    one, two, three = network.hosts
    network.node(one, tmp_path / "one", "--name", "first", *EVERYWHERE)
    network.node(two, tmp_path / "two", "--name", "second", *EVERYWHERE)
    network.node(two, tmp_path / "other", "--listen", "tcp://0.0.0.0:5758", "--mesh", "other",
                 "--insecure")  # fmt: skip
    time.sleep(1.5)
    code, out, said = network.run(three, "-m", "meshmq", "peers", "--json", *LAB)
    assert code == 0, said
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert set(rows) == {"first", "second"}
    assert rows["first"]["state"] == rows["second"]["state"] == "answers"
    assert "tcp://10.77.0.1:5757" in rows["first"]["addresses"]


def test_local_does_not_leave_its_host(network, tmp_path):
    one, two, _ = network.hosts
    network.node(one, tmp_path / "one", "--listen", "tcp://127.0.0.1:6000")
    listening = network.start(two, "-c", HEARS)
    assert listening.stdout.readline() == "on\n"
    code, out, _ = network.run(one, "-m", "meshmq", "peers", "--json")
    assert (code, out.count("answers")) == (0, 1)
    code, out, _ = network.run(two, "-m", "meshmq", "peers", "--json")
    assert (code, out) == (0, "")
    assert listening.communicate("\n", timeout=20)[0] == "0\n", "packets that came to another host"


HEARS = """
import socket, struct, sys, threading
heard = []
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
ear.bind(("", 5353))
ear.setsockopt(socket.IPPROTO_IP, 49, 0)
member = socket.inet_aton("224.0.0.251") + socket.inet_aton("10.77.0.2")
ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
def listen():
    while True:
        heard.append(ear.recv(9000))
threading.Thread(target=listen, daemon=True).start()
print("on", flush=True)
sys.stdin.readline()
print(len(heard), flush=True)
"""


@pytest.mark.alone  # it has seconds to find the other
def test_one_who_was_killed_is_not_waited_for(network, tmp_path):
    """Its record stays for two minutes; who looks for a node takes the other, for all are dialled
    at the same time (core/test_discovery.py has how soon, in virtual time)."""
    one, two, three = network.hosts
    killed = network.node(one, tmp_path / "one", "--name", "killed", *EVERYWHERE)
    network.node(two, tmp_path / "two", "--name", "alive", *EVERYWHERE)
    listening = network.start(three, "-c", KEEPS_RECORDS)
    assert listening.stdout.readline() == "heard 2\n"
    killed.kill()
    killed.wait()
    out, said = listening.communicate("\n", timeout=20)
    assert out.strip() == "alive", said


KEEPS_RECORDS = """
import sys, threading, time, meshmq
from meshmq.shell.search import Search
search = Search("lab", True)
search.start()
until = time.monotonic() + 8
while time.monotonic() < until and sum(r["kind"] == "node" for r in search.peers()) < 2:
    time.sleep(0.05)
print("heard", len(search.peers()), flush=True)
sys.stdin.readline()
with meshmq.connect(mesh="lab", insecure=True) as mesh:
    print(mesh.admin.status()["node"]["name"], flush=True)
search.close()
"""


def test_a_cable_that_is_pulled_and_put_back(network, tmp_path):
    one, two, _ = network.hosts
    network.node(one, tmp_path / "one", *EVERYWHERE)
    assert network.run(two, "-m", "meshmq", "status", *LAB)[0] == 0
    ip("-n", one, "link", "set", "eth0", "down")
    code, _, said = network.run(two, "-m", "meshmq", "status", *LAB)
    assert code == 1
    assert "mDNS finds none of mesh 'lab'" in said
    ip("-n", one, "link", "set", "eth0", "up")
    deadline = time.monotonic() + 25
    while (code := network.run(two, "-m", "meshmq", "status", *LAB)[0]) != 0:
        assert time.monotonic() < deadline
    assert code == 0


def test_a_node_that_was_there_before_its_network(network, tmp_path):
    """As when a host starts: it tells the addresses that there are, not those that there were."""
    one, two, _ = network.hosts
    ip("-n", one, "addr", "del", "10.77.0.1/24", "dev", "eth0")
    network.node(one, tmp_path / "one", *EVERYWHERE)
    ip("-n", one, "addr", "add", "10.77.0.9/24", "dev", "eth0")
    deadline = time.monotonic() + 25
    while network.run(two, "-m", "meshmq", "status", *LAB)[0] != 0:
        assert time.monotonic() < deadline


# -- programs without a node: short runs of what `python -m tests.chaos.network` plays -------------


def test_programs_of_several_hosts_find_each_other(network):
    found = programs.found(network, "found", per_host=2)
    assert found["pairs_met"] == found["pairs"] == 30
    assert found["links"] == 30
    assert found["missed"] == 0
    assert found["max_s"] < 10


@pytest.mark.alone  # they have seconds to find each other
@pytest.mark.parametrize("order", [("subscriber", "publisher"), ("publisher", "subscriber")])
def test_the_first_record_of_two_that_have_just_started(network, order):
    found = programs.first(network, "peers", order, True)
    assert found["from_start"] < 5
    found = programs.first(network, "mdns", order, True)
    assert found["from_start"] < 5


def test_lies_by_mdns_change_nothing_but_the_report(network):
    found = programs.talk(network, 6, 100, True)
    assert programs.faults_of(found, 100) == []
    assert found["lies"] > 5000
