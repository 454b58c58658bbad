"""The relay carries all bytes, in order, and does with them what it is told."""

from __future__ import annotations

import select
import socket
import subprocess
import sys

import pytest

from meshmq.testing.relay import SEGMENT_BYTES, Relay, _Line, _Way

DATA = bytes(range(256)) * 4096


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def ends(relay, server):
    """The two ends of one connection over the relay."""
    url = relay.to(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    port = int(url.rpartition(":")[2])
    near = socket.create_connection(("127.0.0.1", port), timeout=20)
    near.sendall(b"!")
    far, _ = server.accept()
    far.settimeout(20)
    assert far.recv(1) == b"!"
    return near, far


def test_what_comes_goes_on_both_ways_and_so_does_the_end(server):
    with Relay(delay_s=0.001) as relay:
        near, far = ends(relay, server)
        with near, far:
            for one, other in ((near, far), (far, near)):
                one.sendall(DATA)
                one.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda other=other: other.recv(65536), b""))
                assert got == DATA
        assert relay.stats()["carried"] == [len(DATA) + 1, len(DATA)]


def test_nothing_passes_while_it_is_cut_and_all_of_it_behind_the_heal(server):
    with Relay() as relay:
        near, far = ends(relay, server)
        with near, far:
            relay.cut()
            near.sendall(b"held")
            near.close()
            assert select.select([far], [], [], 0.1)[0] == []
            relay.heal()
            assert far.recv(4, socket.MSG_WAITALL) == b"held"
            assert far.recv(1) == b""


def test_a_reset_ends_both_ends(server):
    with Relay() as relay:
        near, far = ends(relay, server)
        with near, far:
            relay.reset()
            for one in (near, far):
                with pytest.raises(ConnectionResetError):
                    one.recv(1)
        for one in ends(relay, server):
            one.close()


def test_a_short_message_does_not_wait_behind_a_long_stream(server):
    with Relay(bytes_per_second=1_000_000) as relay:
        (slow, slow_far), (quick, quick_far) = ends(relay, server), ends(relay, server)
        with slow, slow_far, quick, quick_far:
            slow.setblocking(False)
            sent = 0
            while select.select([], [slow], [], 0.2)[1]:
                sent += slow.send(DATA)
            quick.sendall(b"x")
            came = 0
            while not select.select([quick_far], [], [], 0)[0]:
                came += len(slow_far.recv(4096))
            assert quick_far.recv(1) == b"x"
            assert came < sent


def test_what_comes_is_due_behind_the_delay_at_the_rate_by_turns():
    a, b = socket.socketpair()
    line = _Line()
    with a, b:
        for _ in range(2):
            way = _Way(a, b)
            way.waiting.append(memoryview(bytes(3 * SEGMENT_BYTES)))
            line.ways.append(way)
        line.free_at = 100.0
        for turn in range(6):
            line.turn(SEGMENT_BYTES, 2.0, 100.0 + turn)
        dues = [[due for due, _ in way.under_way] for way in line.ways]
    assert sorted(dues) == [[102.0, 104.0, 106.0], [103.0, 105.0, 107.0]]


def test_by_hand():
    argv = [sys.executable, "-m", "meshmq.testing.relay", "tcp://127.0.0.1:1", "--delay", "0.1"]
    done = subprocess.run(
        argv, input="cut\nheal\nto nowhere\nhop\n", capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")
    where, cut, heal, *wrong = done.stdout.splitlines()
    assert "tcp://127.0.0.1:" in where
    assert (cut, heal) == ("{}", "{}")
    assert [("error" in line) for line in wrong] == [True, True]
