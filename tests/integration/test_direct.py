"""Programs without a node, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import uuid

import pytest

import meshmq
from meshmq import limits
from meshmq.errors import (
    ConfigError,
    InvalidArgument,
    LinkLost,
    NodeUnreachable,
    NoResponders,
)
from meshmq.shell.interfaces import reachable_at
from tests.integration.linked import take, until


def pair(programs):
    a = programs(listen="tcp://127.0.0.1:*", name="a")
    # By a name, or they would be linked inside this process: test_inside.py does that.
    return a, programs(peers=[a.addresses[0].replace("127.0.0.1", "localhost")], name="b")


def test_a_program_gets_what_another_publishes(programs):
    a, b = pair(programs)
    assert (a.state, b.state) == ("brokerless", "brokerless")
    sub = a.subscribe("orders.*")
    receipt = b.publish("orders.eu", b"1", key=b"k", headers={"h": "v"}).wait(5)
    (message,) = take(sub, 1)
    assert (message.topic, message.value, message.key) == ("orders.eu", b"1", b"k")
    assert (message.headers, message.offset, message.position) == ({"h": "v"}, None, None)
    assert receipt.durability == "sent"
    assert receipt.offset is None


def test_both_ways_and_to_itself(programs):
    a, b = pair(programs)
    subs = [a.subscribe(">"), b.subscribe(">")]
    a.publish("x", b"a").wait(5)
    b.publish("x", b"b").wait(5)
    for sub in subs:
        assert sorted(m.value for m in take(sub, 2)) == [b"a", b"b"]
        assert sub.missed == 0


def test_over_ipc(programs, tmp_path):
    a = programs(listen=[f"ipc://{tmp_path}/a", "tcp://127.0.0.1:*"])
    b = programs(peers=[f"ipc://{tmp_path}/a"])
    sub = a.subscribe("x")
    b.publish("x", b"1").wait(5)
    assert take(sub, 1)[0].value == b"1"
    assert len(a.addresses) == 2


def test_the_first_record_comes_by_the_first_dial(programs):
    """Nobody has to try again, which would take seconds."""
    a = programs(listen="tcp://127.0.0.1:*")
    sub = a.subscribe("x")
    b = programs(peers=list(a.addresses))
    b.publish("x", b"1")
    assert take(sub, 1)[0].value == b"1"
    counters = b._connection.client.direct.links.discovery.counters
    assert (counters["dials"], counters["failed"]) == (1, 0)


def test_a_flood_loses_nothing_and_keeps_its_order(programs):
    a, b = pair(programs)
    sub = a.subscribe("x")
    count = 200_000
    got = []
    thread = threading.Thread(target=lambda: got.extend(take(sub, count)))
    thread.start()
    for i in range(count):
        b.publish("x", b"%d" % i)
    b.flush(20)
    thread.join(20)
    assert [m.value for m in got] == [b"%d" % i for i in range(count)]
    assert sub.missed == 0


def test_values_of_all_sizes_come_as_they_were_published(programs):
    a, b = pair(programs)
    sub = a.subscribe("x")
    sizes = [0, 1, 7, 8, 100, 1000, 1024, 4096, 65_536, 300_001, limits.VALUE_BYTES_MAX]
    values = [bytes([i % 251]) * size for size in sizes for i in range(5)]
    mixed = values[::7] + values[::3] + [b"s" * 100] * 2500 + [b"l" * limits.VALUE_BYTES_MAX]
    for value in mixed:
        b.publish("x", value)
    b.publish_many("x", values)
    keys = [b"%d" % i for i in range(len(mixed))]
    b.publish_many("x", mixed, keys=keys)
    got = take(sub, 2 * len(mixed) + len(values))
    b.flush(20)
    assert [m.value for m in got] == [*mixed, *values, *mixed]
    assert [m.key for m in got[-len(keys) :]] == keys
    assert {type(m.value) for m in got} == {bytes}
    assert sub.missed == 0


def test_what_a_reader_misses_that_does_not_read_is_told(programs):
    a, b = pair(programs)
    sub = a.subscribe("x", prefetch_bytes=100_000)
    total = 300
    for _ in range(total):
        b.publish("x", bytes(64 * 1024))
    b.flush(20)
    got = 0
    while got + sub.missed < total:
        batch = sub.fetch(1000, timeout=5)
        assert batch
        got += len(batch)
    assert sub.missed > 0
    assert got + sub.missed == total


def test_a_small_window_that_many_share_starves_nobody(programs):
    a = programs(listen="tcp://127.0.0.1:*")
    others = [programs(peers=list(a.addresses)) for _ in range(8)]
    sub = a.subscribe("x", prefetch_records=100, prefetch_bytes=1 << 20)
    for turn in range(100):
        for other in others:
            other.publish("x", b"%d" % turn)
    for other in others:
        other.flush(5)
    assert len(take(sub, 800)) == 800
    assert sub.missed == 0


def test_a_subscription_that_is_not_read_costs_the_others_nothing(programs):
    a, b = pair(programs)
    a.subscribe("unread", prefetch_bytes=100_000)
    sub = a.subscribe("read")
    for i in range(100):
        b.publish("unread", bytes(500_000))
        b.publish("read", b"%d" % i)
        assert take(sub, 1)[0].value == b"%d" % i


def test_requests_and_services(programs):
    a, b = pair(programs)
    a.serve("greet", lambda request: b"hello " + request.value, concurrency=4)
    reply = b.request("greet", b"b")
    assert (reply.value, reply.instance) == (b"hello b", "a")
    a.serve("count", lambda request: iter([b"1", b"2", b"3"]) and (v for v in [b"1", b"2", b"3"]))
    with b.request_stream("count") as stream:
        assert [r.value for r in stream] == [b"1", b"2", b"3"]
    b.serve("greet", lambda request: b"me")
    assert {r.instance for r in a.request_many("greet")} == {"a", "b"}


def test_nobody_serves(programs):
    _, b = pair(programs)
    for _ in range(2):  # at once, as core/test_direct.py has it in virtual time
        with pytest.raises(NoResponders):
            b.request("nobody", timeout=5)


def test_pushed_records_come_to_one_program_each(programs):
    a = programs(listen="tcp://127.0.0.1:*")
    others = [programs(peers=list(a.addresses)) for _ in range(3)]
    pulls = [p.pull("jobs") for p in others]
    a.push_many("jobs", [b"%d" % i for i in range(300)]).wait(5)
    for i in range(300, 400):
        a.push("jobs", b"%d" % i)
    a.flush(5)
    got = [[m.value for m in pull.fetch(1000, timeout=1)] for pull in pulls]
    assert sorted(int(v) for values in got for v in values) == list(range(400))
    assert all(len(values) > 50 for values in got)


def test_a_push_that_nobody_pulls_fails(programs, monkeypatch):
    monkeypatch.setattr(limits, "PUSH_WAIT_NS", 200 * limits.MS)
    _, b = pair(programs)
    receipt = b.push("jobs", b"1")
    with pytest.raises(NoResponders):
        receipt.wait(5)


def test_what_needs_a_node_says_so(programs):
    _, b = pair(programs)
    for ask in (
        lambda: b.subscribe("x", start="earliest"),
        lambda: b.enqueue("q", b"1"),
        lambda: b.consume("x", group="g"),
        lambda: b.work("q"),
        lambda: b.publish("x", b"1", durability="synced"),
        lambda: b.publish_many("x", [b"1"], durability="synced"),
        lambda: b.publish("x", b"1", seq=1),
        lambda: b.admin.topics.list(),
        lambda: b.admin.status(),
        lambda: b.last_sequence("x"),
    ):
        with pytest.raises(NodeUnreachable, match="meshmq node"):
            ask()


def test_push_and_pull_need_programs(node):
    with meshmq.connect(node.url, route="node") as mesh:
        for ask in (
            lambda: mesh.push("x", b""),
            lambda: mesh.push_many("x", [b""]),
            lambda: mesh.pull("x"),
        ):
            with pytest.raises(InvalidArgument, match="enqueue"):
                ask()
        assert mesh.addresses == ()
        assert mesh.peers() == []


def test_wrong_arguments():
    for options in (
        {"peers": "tcp://127.0.0.1:1"},
        {"peers": [1]},
        {"peers": ["tcp://127.0.0.1:1"] * 100},
        {"listen": 5},
        {"route": "elsewhere"},
        {"route": "node", "peers": []},
        {"route": "node", "listen": "tcp://127.0.0.1:*"},
        {"route": "direct", "url": "tcp://127.0.0.1:1"},
    ):
        with pytest.raises(InvalidArgument):
            meshmq.connect(**options)
    for options in ({"peers": ["what"]}, {"peers": ["tcp://10.1.1.1:1"]}, {"listen": "tcp://"}):
        with pytest.raises(ConfigError):
            meshmq.connect(**options)


def test_an_address_in_use_is_told(programs):
    a = programs(listen="tcp://127.0.0.1:*")
    with pytest.raises(ConfigError, match="in use"):
        meshmq.connect(listen=a.addresses[0])


def test_a_client_that_looks_for_a_node_finds_a_program(programs):
    a = programs(listen="tcp://127.0.0.1:*", name="shop")
    with pytest.raises(NodeUnreachable, match="a program, not a node"):
        meshmq.connect(a.addresses[0])


def test_a_node_in_the_peers_list_is_no_program(programs, node):
    a = programs(peers=[node.url])
    assert a.peers() == []
    assert a.publish("x", b"1").wait(5).durability == "sent"


@pytest.mark.slow
@pytest.mark.alone  # not beside a test that floods mDNS
def test_programs_that_name_nobody_find_each_other(programs):
    mesh = f"test-{uuid.uuid4().hex[:12]}"
    a = programs(mesh=mesh, peers=[], name="a")
    b = programs(mesh=mesh, peers=[], name="b")
    until(lambda: [p["name"] for p in a.peers()] == ["b"], 20)
    until(lambda: [p["name"] for p in b.peers()] == ["a"], 20)
    with a.subscribe("x") as sub:
        b.publish("x", b"hi")
        assert [m.value for m in sub.fetch(1, timeout=10)] == [b"hi"]
    b.close()
    until(lambda: a.peers() == [])


def test_a_program_that_others_find_is_where_mdns_is_spoken(programs):
    """On this host only, unless it is told otherwise; what it tells can be dialled."""
    here = programs(mesh=f"test-{uuid.uuid4().hex[:12]}", peers=[])
    assert all(a.startswith("tcp://127.0.0.1:") for a in here.addresses)
    assert all(
        a.startswith("tcp://127.0.0.1:") for a in programs(peers=[], insecure=True).addresses
    )
    everywhere = programs(mesh=f"test-{uuid.uuid4().hex[:12]}", peers=[], insecure=True)
    port = everywhere.addresses[-1].rpartition(":")[2]
    assert everywhere.addresses == reachable_at(f"tcp://0.0.0.0:{port}")


def test_programs_of_other_meshes_do_not_meet(programs):
    a = programs(listen="tcp://127.0.0.1:*", mesh="one")
    b = programs(peers=list(a.addresses), mesh="two")
    assert b.peers() == []


PROGRAM = """
import json, sys, meshmq
options = json.loads(sys.argv[1])
with meshmq.connect(**options) as mesh:
    mesh.serve("where", lambda request: options["name"].encode())
    with mesh.subscribe("x") as sub:
        print(json.dumps(mesh.addresses), flush=True)
        for message in sub:
            mesh.publish("back", message.value)
"""


@pytest.fixture
def start():
    """Starts programs in processes of their own; returns the process and its addresses."""
    running = []

    def begin(**options):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, json.dumps(options)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        return process, json.loads(process.stdout.readline())

    yield begin
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_two_processes(programs, start):
    _, addresses = start(listen="tcp://127.0.0.1:*", name="child")
    mesh = programs(peers=addresses)
    back = mesh.subscribe("back")
    for i in range(100):
        mesh.publish("x", b"%d" % i)
    assert [m.value for m in take(back, 100)] == [b"%d" % i for i in range(100)]
    assert mesh.request("where").value == b"child"


def test_a_program_that_is_killed_is_gone_and_one_that_comes_back_is_met(programs, start):
    process, addresses = start(listen="tcp://127.0.0.1:*", name="child")
    states = []
    mesh = programs(peers=addresses, on_state=states.append)
    back = mesh.subscribe("back")
    process.kill()
    process.wait()
    until(lambda: not mesh.peers())
    start(listen=addresses[0], name="again")
    until(mesh.peers)
    until(lambda: mesh.publish("x", b"1") and back.fetch(timeout=0.1))
    assert mesh.request("where", timeout=5).value == b"again"


def test_a_stopped_program_is_missed_exactly(programs, start):
    process, addresses = start(listen="tcp://127.0.0.1:*", name="child")
    mesh = programs(peers=addresses)
    back = mesh.subscribe("back")
    mesh.publish("x", b"1").wait(5)
    assert take(back, 1)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        receipt = mesh.publish("x", b"2")
        receipt.wait(5)
        assert mesh.peers(), "the receipt waits for no link to be lost"
        until(lambda: not mesh.peers())
    finally:
        os.kill(process.pid, signal.SIGCONT)
    until(mesh.peers)
    mesh.publish("x", b"3").wait(5)
    found = [m.value for m in take(back, 1)]
    while found[-1] != b"3":
        found += [m.value for m in take(back, 1)]
    assert found in ([b"3"], [b"2", b"3"])


def test_a_push_to_a_killed_program_is_lost_and_told(programs, start):
    a = programs(listen="tcp://127.0.0.1:*")
    code = (
        "import sys, time, meshmq\n"
        "mesh = meshmq.connect(peers=[sys.argv[1]])\n"
        "pull = mesh.pull('jobs')\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, a.addresses[0]], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    a.push("jobs", b"1").wait(5)
    os.kill(process.pid, signal.SIGSTOP)
    receipt = a.push("jobs", b"2")
    process.kill()
    process.wait()
    process.stdout.close()
    with pytest.raises((LinkLost, NoResponders)):
        receipt.wait(10)


def test_the_asynchronous_client():
    async def play():
        async with meshmq.aio.connect(listen="tcp://127.0.0.1:*", name="a") as a:
            assert a.state == "brokerless"
            async with meshmq.aio.connect(peers=list(a.addresses), name="b") as b:
                assert [p["name"] for p in b.peers()] == ["a"]
                async with a.subscribe("x") as sub, a.pull("jobs") as pull:
                    await (await b.publish("x", b"1")).wait(5)
                    assert [m.value for m in await sub.fetch(timeout=5)] == [b"1"]
                    await (await b.push("jobs", b"2")).wait(5)
                    await (await b.push_many("jobs", [b"3", b"4"])).wait(5)
                    got = []
                    while len(got) < 3:
                        got += [m.value for m in await pull.fetch(timeout=5)]
                    assert got == [b"2", b"3", b"4"]

                async def double(request):
                    return request.value * 2

                a.serve("double", double)  # in the background, and the request waits for it
                assert (await b.request("double", b"ab")).value == b"abab"
                with pytest.raises(NodeUnreachable, match="meshmq node"):
                    await b.subscribe("x", start="earliest")

    asyncio.run(play())


def test_a_flood_of_the_asynchronous_client():
    async def play():
        async with (
            meshmq.aio.connect(listen="tcp://127.0.0.1:*") as a,
            meshmq.aio.connect(peers=list(a.addresses)) as b,
            a.subscribe("x") as sub,
        ):
            count = 50_000

            async def publish():
                for i in range(count):
                    await b.publish("x", b"%d" % i)

            task = asyncio.create_task(publish())
            got = []
            while len(got) < count:
                got += [m.value for m in await sub.fetch(10_000, timeout=10)]
            await task
            assert got == [b"%d" % i for i in range(count)]
            assert sub.missed == 0

    asyncio.run(play())


def test_what_is_pushed_and_taken_by_nobody_is_said_so(programs):
    a = programs(listen="tcp://127.0.0.1:*")
    with pytest.raises(meshmq.DeadlineExceeded, match="nobody has taken the record so far"):
        a.push("jobs", b"1").wait(0.05)
    with programs(peers=list(a.addresses)).pull("jobs") as pulled:
        assert take(pulled, 1)[0].value == b"1"


def test_a_queue_needs_a_node_in_words(programs):
    a = programs(listen="tcp://127.0.0.1:*")
    with pytest.raises(meshmq.NodeUnreachable, match="a group or queue needs a node"):
        a.enqueue("q", b"1")
