"""The fixtures for programs' own tests: a real node in the process, a mesh on virtual time."""

from __future__ import annotations

import asyncio
import time

import pytest

import meshmq
from meshmq.testing import LocalNode, Simulation


def test_a_real_node_in_this_process(meshmq_node):
    with meshmq_node.connect() as mesh:
        assert mesh.publish("a", b"1").wait(20).offset == 0
        meshmq_node.restart()
        assert mesh.publish("a", b"2").wait(20).offset == 1

    async def main():
        async with meshmq_node.aconnect() as mesh, mesh.subscribe("a", start="earliest") as sub:
            assert [(await anext(sub)).value for _ in range(2)] == [b"1", b"2"]

    asyncio.run(main())
    meshmq_node.stop()
    meshmq_node.stop()


def test_a_node_for_who_does_not_use_pytest(tmp_path):
    with LocalNode(tmp_path / "data", mesh="orders") as node, node.connect() as mesh:
        assert mesh.state == "connected"


def test_virtual_time_passes_in_no_time(meshmq_simulation):
    sim = meshmq_simulation
    began = time.monotonic()
    mesh = sim.connect()
    assert mesh.publish("orders.eu", b"1", key=b"k", headers={"a": "b"}).wait().offset == 0
    with mesh.subscribe("orders.>", start="earliest") as sub:
        (message,) = sub.fetch(10)
        assert (message.value, message.key, message.headers) == (b"1", b"k", {"a": "b"})
        before = sim.now
        assert sub.fetch(timeout=3600) == []
        assert sim.now - before == pytest.approx(3600)
    assert time.monotonic() - began < 30


def test_a_killed_node_and_what_its_clients_make_of_it():
    states = []
    sim = Simulation(seed=3)
    mesh = sim.connect(on_state=lambda change: states.append(change.state))
    reader = sim.connect(name="reader").subscribe("a")
    mesh.publish("a", b"1").wait()
    sim.kill_node()
    receipt = mesh.publish("a", b"2")
    with pytest.raises(meshmq.DeadlineExceeded):
        receipt.wait(timeout=60)
    sim.start_node()
    assert receipt.wait(timeout=10).offset == 1
    assert [next(iter(reader)).value for _ in range(2)] == [b"1", b"2"]
    assert states == ["connected", "reconnecting", "connected"]
    sim.kill_node()
    with pytest.raises(meshmq.NodeUnreachable):
        sim.connect()


def test_cut_links_loss_full_disks_damage_and_clocks():
    sim = Simulation(seed=4)
    mesh = sim.connect()
    sim.cut(mesh)
    receipt = mesh.publish("a", b"1")
    sim.advance(30)
    assert (receipt.done, mesh.state) == (False, "reconnecting")
    sim.mend(mesh)
    receipt.wait(10)
    sim.loss = 0.2
    receipts = mesh.publish_many("a", [b"%d" % i for i in range(2, 100)])
    receipts.wait(60)
    assert [r.offset for r in receipts] == list(range(1, 99))
    sim.loss = 0.0
    sim.fill_disk()
    with pytest.raises(meshmq.StorageFull):
        mesh.publish("a", b"x").wait(10)
    sim.free_disk()
    mesh.publish("b", b"y").wait(10)
    sim.jump_clock(-3600)
    mesh.publish("b", b"z").wait(10)
    sim.kill_node()
    sim.damage("b", 0)
    sim.start_node()
    sim.advance(5)
    with mesh.subscribe("b", start="earliest") as sub:
        assert [(m.offset, m.value) for m in sub.fetch(10)] == [(1, b"z")]
        assert sub.missed == 1


def test_the_same_seed_gives_the_same_run():
    def play(seed):
        sim = Simulation(seed=seed)
        sim.loss = 0.3
        mesh = sim.connect(timeout=600)
        mesh.publish_many("a", [b"x"] * 50).wait(600)
        for i in range(30):
            mesh.publish(f"t.{i}", b"y").wait(600)
        return sim.now, sim.events

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_waiting_for_what_never_comes_ends_in_an_error():
    sim = Simulation()
    mesh = sim.connect()
    with mesh.subscribe("a") as sub, pytest.raises(meshmq.DeadlineExceeded, match="virtual hour"):
        next(iter(sub))
    mesh.close()
    with pytest.raises(meshmq.ClosedError):
        mesh.publish("a", b"")
