"""Programs that find each other, and a node that comes and goes under them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import uuid

import pytest

import meshmq
from meshmq import aio
from meshmq.client import connecting as client
from meshmq.testing import LocalNode


def until(is_true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it does not become true"
        time.sleep(0.01)


@pytest.fixture
def usual(monkeypatch):
    """A port that stands for the usual one, where nobody listens."""
    monkeypatch.delenv("MESHMQ_URL", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(client, "DEFAULT_URL", url)
    return url


@pytest.fixture
def mesh():
    """Other tests, and other people, have meshes of their own."""
    return f"test-{uuid.uuid4().hex[:12]}"


def linked(*programs):
    until(lambda: all(program.peers() for program in programs))


def test_two_programs_and_nothing_else(mesh, usual):
    with meshmq.connect(mesh=mesh) as one, meshmq.connect(mesh=mesh) as other:
        assert (one.state, other.state) == ("brokerless", "brokerless")
        linked(one, other)
        with other.subscribe("chat.>") as sub:
            receipt = one.publish("chat.all", b"hello").wait(5)
            assert (receipt.route, receipt.durability) == ("direct", "sent")
            assert [m.value for m in sub.fetch(1, timeout=5)] == [b"hello"]
        other.serve("upper", lambda request: request.value.upper())
        reply = one.request("upper", b"hello")
        assert (reply.value, reply.route) == (b"HELLO", "direct")
        with pytest.raises(meshmq.NodeUnreachable, match="meshmq node"):
            one.admin.topics.list()
    assert not [t for t in threading.enumerate() if t.name.startswith("meshmq-io")]


def test_asyncio_needs_nothing_else_either(mesh, usual):
    async def main():
        async with aio.connect(mesh=mesh) as one, aio.connect(mesh=mesh) as other:
            await asyncio.to_thread(linked, one, other)
            async with other.subscribe("chat.>") as sub:
                receipt = await (await one.publish("chat.all", b"hello")).wait(5)
                assert receipt.route == "direct"
                assert [m.value for m in await sub.fetch(1, timeout=5)] == [b"hello"]

    asyncio.run(main())


def test_who_has_no_time_to_look_round_begins_without_a_node(mesh, usual):
    async def main():
        async with aio.connect(mesh=mesh, timeout=0.05) as other:
            assert (await (await other.publish("a", b"")).wait(5)).durability == "sent"
            assert other.state == "brokerless"

    with meshmq.connect(mesh=mesh, timeout=0.05) as one:
        assert one.state == "brokerless"
    asyncio.run(main())


def test_a_node_appears_under_running_programs_and_goes_again(mesh, usual, tmp_path):
    with meshmq.connect(mesh=mesh) as one, meshmq.connect(mesh=mesh) as other:
        linked(one, other)
        sub = other.subscribe(">")
        one.publish("a", b"1").wait(5)
        with LocalNode(tmp_path / "data", mesh=mesh, listen=usual):
            until(lambda: {one.state, other.state} == {"connected"})
            kept = one.publish("a", b"2").wait(5)
            assert (kept.offset, kept.durability, kept.route) == (0, "synced", "node")
            one.admin.topics.create("live.>", durability="transient")
            for i in range(3, 6):
                one.publish("live.x", b"%d" % i).wait(5)
            assert one.publish("live.x", b"6").wait(5).route in ("both", "direct")
        until(lambda: {one.state, other.state} == {"reconnecting"})
        assert one.publish("live.x", b"7").wait(5).route == "direct"
        waiting = one.publish("a", b"8")
        got = []
        while len(got) < 7:
            got += sub.fetch(10, timeout=10)
        assert [m.value for m in got] == [b"%d" % i for i in range(1, 8)]
        assert sub.missed == 0
        with LocalNode(tmp_path / "data", mesh=mesh, listen=usual):
            assert waiting.wait(30).offset == 1


@pytest.fixture
def node(tmp_path):
    with LocalNode(tmp_path / "data") as found:
        yield found


def test_the_node_introduces_and_goes_out_of_the_way(node):
    with node.connect() as one, node.connect() as other, node.connect() as third:
        one.admin.topics.create("live.>", durability="transient")
        sub = other.subscribe("live.>")
        numbers = iter(range(10**6))

        def route():
            return one.publish("live.x", b"%d" % next(numbers)).wait(5).route

        until(lambda: route() == "direct")
        other.serve("s", lambda request: request.value)
        until(lambda: one.request("s").route == "direct")
        assert one.request("s", route="node").route == "node"
        late = third.subscribe("live.>")  # the node wants it again before this returns
        assert route() == "both"
        assert len(late.fetch(10, timeout=5)) == 1
        until(lambda: route() == "direct")
        sent = next(numbers)
        got = []
        while len(got) < sent:
            got += [int(m.value) for m in sub.fetch(1000, timeout=5)]
        assert got == list(range(sent))
        assert (sub.missed, late.missed) == (0, 0)


def test_a_route_that_is_asked_for_is_taken(node):
    with node.connect() as one, node.connect(route="node") as other:
        one.admin.topics.create("live.>", durability="transient")
        sub = other.subscribe("live.>")
        assert one.publish("live.x", b"1", route="node").wait(5).route == "node"
        assert one.publish("live.x", b"2", route="direct").wait(5).route == ""
        assert [m.value for m in sub.fetch(2, timeout=5)] == [b"1"]
        assert other.addresses == ()
        for ask in (
            lambda: one.publish("kept", b"", route="elsewhere"),
            lambda: one.publish("kept", b"", route="direct", durability="synced"),
            lambda: one.publish("kept", b"", route="direct", seq=1),
            lambda: other.publish("live.x", b"", route="direct"),
            lambda: other.request("s", route="direct"),
        ):
            with pytest.raises(meshmq.InvalidArgument):
                ask()
        one.publish("kept", b"").wait(5)
        with pytest.raises(meshmq.InvalidArgument, match="durable"):
            one.publish("kept", b"", route="direct")
        with pytest.raises(meshmq.NoResponders):
            one.request("s", route="direct")


def test_who_is_not_introduced_is_not_let_in(node):
    with node.connect() as one, meshmq.connect(peers=list(one.addresses)) as stranger:
        time.sleep(0.3)  # what must not happen has no end to wait for
        assert (one.peers(), stranger.peers()) == ([], [])


def test_a_program_does_without_nodes_if_told_to(mesh, usual, tmp_path):
    with LocalNode(tmp_path / "data", mesh=mesh, listen=usual):
        with meshmq.connect(mesh=mesh) as found:
            assert found.state == "connected"
        with meshmq.connect(mesh=mesh, route="direct") as alone:
            assert alone.state == "brokerless"
