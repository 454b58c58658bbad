"""Peers that break the rules cost their own session; a client beside them notices little."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

import meshmq
from meshmq import codec
from meshmq.frames import Envelope, Nothing, Ping
from tests.chaos import fuzz, hostile

MIB = 1 << 20


def resident_mib(process):
    text = Path(f"/proc/{process.pid}/statm").read_text()
    return int(text.split()[1]) * 4096 // MIB


def status(mesh):
    return mesh.admin.status()


def refusal(sock):
    """The first Refuse that comes over a raw connection."""
    import struct

    while True:
        flags = sock.recv(1)[0]
        size = struct.unpack(">Q", sock.recv(8))[0] if flags & 2 else sock.recv(1)[0]
        data = b""
        while len(data) < size:
            data += sock.recv(size - len(data))
        body = codec.decode([data]).body
        if type(body).__name__ == "Refuse":
            return body


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([b"garbage"], "frame"),
        ([b"\0" * 64], ""),
        ([b"x" * 100, b"y", b"z"], "parts"),
        ([b"x"] * 500, "parts"),
        ([b""], ""),
    ],
)
def test_garbage_gets_one_typed_error_and_is_counted(node, parts, said):
    with meshmq.connect(node.url) as mesh:
        before = status(mesh)["bad_frames"]
        with hostile.connect(node.url) as sock:
            hostile.greet(sock)
            sock.sendall(hostile.message(parts))
            body = refusal(sock)
        assert body.code == "bad-frame"
        assert said in body.message
        assert status(mesh)["bad_frames"] == before + 1


def test_a_bad_frame_costs_the_sender_its_session(node):
    rng = random.Random(1)
    with meshmq.connect(node.url) as mesh, hostile.connect(node.url) as sock:
        hostile.greet(sock)
        sock.sendall(hostile.message(codec.encode(Envelope(7, 0, 0, hostile.hello(rng)))))
        while status(mesh)["sessions"]["open"] < 2:
            pass
        sock.sendall(hostile.message([b"garbage"]))
        assert refusal(sock).code == "bad-frame"
        assert status(mesh)["sessions"]["open"] == 1
        sock.sendall(hostile.message(codec.encode(Envelope(7, 0, 0, Ping()))))
        assert refusal(sock).code == "link-lost"


def test_another_version_and_another_mesh_are_told(node):
    rng = random.Random(2)
    for wrong, code in (({"major": 9}, "version-mismatch"), ({"mesh": "x"}, "mesh-mismatch")):
        with hostile.connect(node.url) as sock:
            hostile.greet(sock)
            hello = hostile.hello(rng, **wrong)
            sock.sendall(hostile.message(codec.encode(Envelope(7, 0, 0, hello))))
            assert refusal(sock).code == code


def test_what_is_too_large_or_cut_off_costs_the_connection_alone(node):
    with meshmq.connect(node.url) as mesh:
        with hostile.connect(node.url) as sock:
            hostile.greet(sock)
            with contextlib.suppress(OSError):
                sock.sendall(hostile.part(bytes(3 * MIB)))
                assert sock.recv(1) == b""
        with hostile.connect(node.url) as sock:
            hostile.greet(sock)
            whole = hostile.message(codec.encode(Envelope(7, 0, 0, Nothing())))
            sock.sendall(whole[:-3])
        with hostile.connect(node.url) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        assert mesh.publish("a", b"x").wait(20).durability == "synced"
        assert status(mesh)["sessions"]["opened"] == 1


def test_an_endless_message_trips_the_memory_breaker(process_node):
    """It costs the listener's clients one reconnect, the node its patience, and nothing else."""
    with meshmq.connect(process_node.url, timeout=30) as mesh:
        receipts = [mesh.publish("a", b"%d" % i) for i in range(100)]
        mesh.flush(20)
        before = resident_mib(process_node.process)
        sent = hostile.endless_multipart(process_node.url, 700 * MIB, 20)
        until = time.monotonic() + 20
        while time.monotonic() < until and not status(mesh)["memory_breaks"]:
            receipts.append(mesh.publish("a", b"%d" % len(receipts)))
        found = status(mesh)
        assert found["memory_breaks"] >= 1
        assert sent > 160 * MIB
        receipts.append(mesh.publish("a", b"%d" % len(receipts)))
        mesh.flush(20)
        assert resident_mib(process_node.process) < before + 400
        with mesh.subscribe("a", start="earliest") as sub:
            got = []
            while len(got) < len(receipts):
                got += sub.fetch(1000, timeout=20)
        assert [m.value for m in got] == [b"%d" % i for i in range(len(receipts))]
        assert process_node.process.poll() is None


def test_idle_connections_keep_nobody_out(node):
    """300 connections that never say a word; a new client is served, the old one goes on."""
    with meshmq.connect(node.url) as mesh, contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(hostile.connect(node.url))
        assert mesh.publish("a", b"x").wait(20).offset == 0
        with meshmq.connect(node.url, timeout=20) as other:
            assert other.publish("a", b"y").wait(20).offset == 1
        assert status(mesh)["sessions"]["opened"] == 2
        assert mesh.state == "connected"


@pytest.mark.slow
def test_fuzz_of_a_node_beside_a_well_behaved_client():
    """A few seconds of what ``tests.chaos.fuzz`` does for ten minutes."""
    found = fuzz.attack_node(10, seed=6, breaker=False)
    assert found["beside_reconnects"] == 0
    assert found["bad_frames"] > 20
