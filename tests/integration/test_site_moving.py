"""Programs of a site of real nodes, as nodes are killed, stand still, and are drained."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

import meshmq
from meshmq.errors import InvalidArgument, MeshError, NodeDrains, NodeUnreachable
from tests.integration.sites import knows_all


def wait_for(is_true, seconds=10):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("route", ["node", "auto"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_program_moves_with_what_is_open_and_unconfirmed(site, route, how):
    one, two, _ = site.nodes
    states = []
    with (
        meshmq.connect(one.url, route=route, on_state=states.append) as mover,
        meshmq.connect(two.url, route="node") as other,
        other.subscribe("orders.>", dedup=True) as there,
    ):
        with mover.subscribe("orders.>", dedup=True) as here:
            mover.publish("orders.eu", b"0").wait(5)
            wait_for(lambda: knows_all(mover))
            one.signal(how)
            receipts = [mover.publish("orders.eu", b"%d" % i) for i in range(1, 100)]
            for receipt in receipts:
                receipt.wait(10)
            if how is signal.SIGSTOP:
                one.signal(signal.SIGCONT)  # it stores what it was sent before it stood still
            else:
                one.kill()
                one.start()
            wanted = {b"%d" % i for i in range(100)}
            for sub in (here, there):
                got = []
                while set(got) != wanted:
                    more = sub.fetch(1000, timeout=10)
                    assert more
                    got += [message.value for message in more]
                assert len(got) == len(wanted)
        assert [s.state for s in states if s.state != "connected"] == ["reconnecting"]


def test_who_waits_is_at_its_node_again(site):
    one, _two, _ = site.nodes
    with meshmq.connect(one.url, route="node", on_node_loss="wait") as mesh:
        one.kill()
        receipt = mesh.publish("orders.eu", b"1")
        with pytest.raises(MeshError):
            receipt.wait(2)
        one.start()
        receipt.wait(10)
        assert mesh._connection.client.node_name == "node-1"


def test_asyncio_moves_too(site):
    one, _, _ = site.nodes

    async def main():
        async with meshmq.aio.connect(one.url) as mesh:
            await (await mesh.publish("orders.eu", b"0")).wait(5)
            await asyncio.to_thread(wait_for, lambda: knows_all(mesh))
            one.kill()
            await (await mesh.publish("orders.eu", b"1")).wait(10)
            assert mesh._connection.client.node_name in ("node-2", "node-3")

    asyncio.run(main())


@pytest.mark.parametrize("as_list", [True, False])
def test_one_of_several_addresses_is_enough(site, as_list, monkeypatch):
    _one, two, _ = site.nodes
    nowhere = "tcp://127.0.0.1:9"
    urls = [nowhere, two.url]
    if not as_list:
        monkeypatch.setenv("MESHMQ_URL", ", ".join(urls))
        urls = None
    for route in ("node", "auto"):
        with meshmq.connect(urls, route=route) as mesh:
            mesh.publish("orders.eu", b"1").wait(5)
            assert mesh._connection.client.node_name == "node-2"


def test_what_is_no_list_of_addresses_is_refused_in_words():
    for wrong in ([], [1], {"a": 1}, 5):
        with pytest.raises(InvalidArgument):
            meshmq.connect(wrong)
    with pytest.raises(InvalidArgument, match="on_node_loss"):
        meshmq.connect("tcp://127.0.0.1:5757", on_node_loss="die")
    with pytest.raises(NodeUnreachable, match=r"127\.0\.0\.1:9 or tcp://127\.0\.0\.1:10"):
        meshmq.connect(["tcp://127.0.0.1:9", "tcp://127.0.0.1:10"], route="node", timeout=0.5)


def ended(node):
    """The exit code of a node that ends by itself."""
    node.told += node.process.communicate(timeout=20)[1]
    return node.process.returncode


def meshmq_command(*words):
    command = [sys.executable, "-m", "meshmq", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def drain(node, *options):
    return meshmq_command("node", "drain", "--url", node.url, *options)


def test_drain_says_what_it_did_and_the_node_ends(site):
    one, _, _ = site.nodes
    with meshmq.connect(one.url, route="node") as mesh:
        wait_for(lambda: knows_all(mesh))
        done = drain(one)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "node node-1 drained: 1 program moved\n"
        assert ended(one) == 0
        mesh.publish("orders.eu", b"1").wait(5)
    one.start()


def test_drain_names_who_is_left_and_a_node_may_stay(site):
    one, _, _ = site.nodes
    with meshmq.connect(one.url, route="node", on_node_loss="wait"):
        done = drain(one, "--timeout", "0.5", "--stay")
        assert done.returncode == 1
        assert "0 programs moved, 1 program had not after 0.5 s" in done.stderr
        assert one.process.poll() is None
        with pytest.raises(NodeDrains, match="node-1 drains and lets no program in: go to another"):
            meshmq.connect(one.url, route="node", timeout=1, on_node_loss="wait")


def test_a_node_that_stays_answers_commands_and_can_be_undone_and_ended(site):
    one, _, _ = site.nodes
    assert drain(one, "--stay").stdout == "node node-1 drained: 0 programs moved, it stays\n"
    with meshmq.connect(one.url, route="node") as mesh:
        assert mesh._connection.client.node_name in ("node-2", "node-3")
    with meshmq.connect(one.url, route="node", admin=True) as mesh:
        assert mesh.admin.status()["drain"]["stays"]
        for use in (
            lambda: mesh.publish("a", b""),
            lambda: mesh.publish_many("a", [b""]),
            lambda: mesh.subscribe("a"),
            lambda: mesh.pull("a"),
            lambda: mesh.consume("a", "g"),
            lambda: mesh.enqueue("q", b""),
            lambda: mesh.work("q"),
            lambda: mesh.request("s", b""),
            lambda: mesh.request_nowait("s", b""),
            lambda: mesh.serve("s", bytes),
        ):
            with pytest.raises(InvalidArgument, match="admin=True is for"):
                use()
    told = meshmq_command("status", "--url", one.url, "--json")
    assert json.loads(told.stdout)["drain"]["over"]
    assert drain(one, "--undo").stdout == "node node-1 lets programs in again\n"
    assert "nothing to undo" in drain(one, "--undo").stderr
    with meshmq.connect(one.url, route="node") as mesh:
        assert mesh._connection.client.node_name == "node-1"
    drain(one, "--stay")
    assert drain(one).stdout == "node node-1 drained: 0 programs moved\n"
    assert ended(one) == 0
    one.start()
    site.wait_joined()


def test_the_last_node_is_not_drained_unless_that_is_said_twice(site):
    one, *others = site.nodes
    for node in others:
        node.kill()
    site.wait_joined()
    done = drain(one)
    assert (done.returncode, done.stdout) == (1, "")
    assert "its programs have nowhere to go" in done.stderr
    with meshmq.connect(one.url, route="node") as mesh:
        done = drain(one, "--force")
        assert done.returncode == 0, done.stderr
        assert done.stdout == (
            "node node-1 drained: 1 program had nowhere to go, and lost the node\n"
        )
        assert ended(one) == 0
        for node in site.nodes:
            node.start()
        site.wait_joined()
        mesh.publish("orders.eu", b"1").wait(10)


def test_a_rolling_restart_loses_nothing_and_fails_no_request(site):
    """Programs go on while one node after the other is drained, stopped and started."""
    one, two, three = site.nodes
    stop = threading.Event()
    receipts, got, worked, failed, answered = [], [], [], [], []
    with ExitStack() as stack:
        producer, reader, worker, server, asker = (
            stack.enter_context(meshmq.connect(node.url, route="node", name=name))
            for node, name in (
                (one, "producer"), (two, "reader"), (three, "worker"), (one, "server"),
                (two, "asker"),
            )
        )  # fmt: skip
        sub = stack.enter_context(reader.subscribe("orders.>", dedup=True))
        jobs = stack.enter_context(worker.consume("orders.>", group="billing"))
        server.serve("quote", lambda request: request.value, concurrency=4)

        def produce():
            while not stop.is_set():
                receipts.append(producer.publish("orders.eu", b"%d" % len(receipts)))
                time.sleep(0.005)

        def read():
            while not stop.is_set() or len(got) < len(receipts):
                more = [m.value for m in sub.fetch(1000, timeout=5)]
                got.extend(more)
                if stop.is_set() and not more:
                    return

        def work():
            while not stop.is_set() or len({*worked}) < len(receipts):
                more = jobs.fetch(100, timeout=5)
                for job in more:
                    worked.append(job.value)
                    job.ack()
                if stop.is_set() and not more:
                    return

        def ask():
            while not stop.is_set():
                try:
                    answered.append(asker.request("quote", b"?", timeout=10))
                except MeshError as error:
                    failed.append(repr(error))
                time.sleep(0.005)

        threads = [threading.Thread(target=run, daemon=True) for run in (produce, read, work, ask)]
        for thread in threads:
            thread.start()
        for node in site.nodes:
            for mesh in (producer, reader, worker, server, asker):
                wait_for(lambda mesh=mesh: knows_all(mesh))
            done = drain(node)
            assert done.returncode == 0, done.stderr
            assert ended(node) == 0
            node.start()
            site.wait_joined()
        stop.set()
        for receipt in receipts:
            receipt.wait(10)
        for thread in threads:
            thread.join(60)
        wanted = [b"%d" % i for i in range(len(receipts))]
        assert failed == []
        assert answered
        assert sorted(got, key=int) == wanted
        assert sorted({*worked}, key=int) == wanted
