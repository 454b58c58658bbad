"""Requests whose replies are waited for later: ``request_nowait``."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

import pytest

import meshmq

LINKED = "directly"  # two programs without a node


@pytest.fixture(params=["node", LINKED])
def pair(request):
    """Who serves and who asks, connected to the same node or to each other."""
    if request.param == LINKED:
        with (
            meshmq.connect(listen="tcp://127.0.0.1:*", name="server") as server,
            meshmq.connect(peers=list(server._connection.addresses[:1])) as asker,
        ):
            yield server, asker
        return
    node = request.getfixturevalue("node")
    with node.connect(name="server") as server, node.connect() as asker:
        yield server, asker


def until(is_true):
    deadline = time.monotonic() + 15
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def test_many_are_under_way_from_one_thread_and_each_has_its_own_reply(pair):
    server, asker = pair
    server.serve("echo", lambda request: request.value, concurrency=8)
    first = asker.request_nowait("echo", b"first")
    assert first.result() == meshmq.Reply(b"first", "server", None, first.result().route)
    assert first.done()
    waiting, found = deque(), []
    for number in range(500):
        waiting.append((number, asker.request_nowait("echo", b"%d" % number)))
        if len(waiting) == 64:
            number, pending = waiting.popleft()
            found.append(pending.result(timeout=20).value == b"%d" % number)
    found += [pending.result().value == b"%d" % number for number, pending in waiting]
    assert found == [True] * 500


def test_what_is_asked_leaves_though_nobody_waits(pair):
    server, asker = pair
    seen = []
    server.serve("note", lambda request: seen.append(request.value), concurrency=4)
    for number in range(100):
        asker.request_nowait("note", b"%d" % number)
    until(lambda: len(seen) == 100)
    pending = [asker.request_nowait("note", b"more") for _ in range(10)]
    until(lambda: all(one.done() for one in pending))
    assert [one.result().value for one in pending] == [b""] * 10


def test_errors_come_with_the_result_and_wrong_arguments_at_once(pair):
    server, asker = pair
    go = threading.Event()

    @server.service("s", concurrency=2)
    def handle(request):
        if request.value == b"wait":
            assert go.wait(30)
            return b"late"
        raise meshmq.ServiceError("no such thing", "missing")

    with pytest.raises(meshmq.InvalidName):
        asker.request_nowait("not a name", b"")
    with pytest.raises(meshmq.InvalidArgument):
        asker.request_nowait("s", b"", timeout=0)
    wrong = asker.request_nowait("s", b"x")
    for _ in range(2):  # as often as it is asked for
        with pytest.raises(meshmq.ServiceError, match="no such thing") as caught:
            wrong.result()
        assert caught.value.code == "missing"
    waiting = asker.request_nowait("s", b"wait", timeout=40)
    with pytest.raises(meshmq.DeadlineExceeded, match="goes on"):
        waiting.result(timeout=0.05)
    assert not waiting.done()
    assert "under way" in repr(waiting)
    go.set()
    assert waiting.result(timeout=20).value == b"late"
    with pytest.raises(meshmq.NoResponders):
        asker.request_nowait("nobody", b"", timeout=10).result()


def test_its_own_timeout_ends_it(pair):
    server, asker = pair
    go = threading.Event()
    server.serve("s", lambda request: go.wait(30) and b"", concurrency=1)
    pending = asker.request_nowait("s", b"", timeout=0.1)
    with pytest.raises(meshmq.DeadlineExceeded, match=r"within 0\.1 s"):
        pending.result()
    go.set()


def test_cancelled_it_is_over_and_the_handler_sees_it(pair):
    server, asker = pair
    begun, stopped = threading.Event(), threading.Event()

    @server.service("s")
    def wait(request):
        begun.set()
        until(lambda: request.cancelled)
        stopped.set()

    pending = asker.request_nowait("s", b"", timeout=60)
    assert begun.wait(20)
    pending.cancel()
    assert stopped.wait(20)
    assert pending.done()
    with pytest.raises(meshmq.LinkLost):
        pending.result()


def test_several_threads_wait_for_what_one_has_asked(pair):
    server, asker = pair
    server.serve("echo", lambda request: request.value, concurrency=8)
    pending = [asker.request_nowait("echo", b"%d" % i, timeout=30) for i in range(40)]
    found = {}

    def wait(number):
        found[number] = pending[number].result().value

    threads = [threading.Thread(target=wait, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {i: b"%d" % i for i in range(40)}


def test_what_is_under_way_when_the_mesh_is_closed_has_an_error(node):
    go = threading.Event()
    with node.connect() as server:
        server.serve("s", lambda request: go.wait(30) and b"")
        with node.connect() as asker:
            begun = asker.request_nowait("s", b"", timeout=60)
            until(lambda: node_has(server, 1))
        assert begun.done()
        with pytest.raises(meshmq.LinkLost):
            begun.result()
        with pytest.raises(meshmq.ClosedError):
            asker.request_nowait("s", b"")
        go.set()


def node_has(mesh, count):
    """Whether so many requests are at work."""
    return sum(worker.running for worker in mesh._workers) == count


def test_in_asyncio_it_is_a_task(node):
    async def main():
        async with meshmq.aio.connect(node.url) as mesh:

            async def echo(request):
                return request.value

            await mesh.serve("echo", echo)
            asked = [mesh.request_nowait("echo", b"%d" % number) for number in range(100)]
            replies = await asyncio.gather(*asked)
            assert [int(reply.value) for reply in replies] == list(range(100))

    asyncio.run(main())
