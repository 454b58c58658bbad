"""The bad line between hosts of the chaos tests does what it is told."""

from __future__ import annotations

import pytest

from tests.chaos.hosts import FarNetwork, address, why_not

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not()),
]  # fmt: skip

SERVER = """
import socket, sys
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("ready", flush=True)
    while True:
        one, _ = server.accept()
        with one:
            while data := one.recv(65536):
                one.sendall(data)
"""
CLIENT = """
import socket, sys
data = bytes(300_000)
with socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])) as one:
    one.sendall(data)
    one.shutdown(socket.SHUT_WR)
    print(sum(len(got) for got in iter(lambda: one.recv(65536), b"")))
"""


def test_what_is_lost_is_sent_again_and_nothing_passes_while_it_is_cut():
    try:
        network = FarNetwork(1, 1, delay_s=0.002, loss=0.02)
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    with network:
        near, far = network.hosts
        assert network.start(far, "-c", SERVER).stdout.readline() == "ready\n"
        assert network.run(near, "-c", CLIENT, address(2), 20)[1] == "300000\n"
        before = network.cut()
        assert before["lost"] > 0
        assert "timed out" in network.run(near, "-c", CLIENT, address(2), 1)[2]
        after = network.heal()
        assert after["carried"] == before["carried"]
        assert after["cut"] > before["cut"]
        assert network.run(near, "-c", CLIENT, address(2), 20)[1] == "300000\n"
