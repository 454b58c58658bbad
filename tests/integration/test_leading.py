"""The thread of a service that leads does quick requests itself; nobody waits for slow ones."""

from __future__ import annotations

import threading
import time

import pytest

import meshmq

WARM_SECONDS = 0.3  # far beyond what it takes until a service counts as quick


def warm(asker, service):
    """Ask until the thread that leads does all requests itself."""
    end = time.monotonic() + WARM_SECONDS
    while time.monotonic() < end:
        asker.request(service, b"quick")


def in_threads(count, function):
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_a_handler_that_was_quick_and_blocks_holds_up_no_other_request(node):
    blocked, go = threading.Event(), threading.Event()

    def handle(request):
        if request.value == b"block":
            blocked.set()
            assert go.wait(30)
        return request.value

    with node.connect() as server, node.connect() as asker:
        server.serve("s", handle, concurrency=4)
        warm(asker, "s")
        waiting = in_threads(1, lambda: asker.request("s", b"block", timeout=40))
        assert blocked.wait(10)
        assert asker.request("s", b"other", timeout=20).value == b"other"
        go.set()
        waiting[0].join(20)
        assert not waiting[0].is_alive()


def test_what_came_together_with_one_that_blocks_is_done_by_others(node):
    """All are at the instance before the first is begun: no turn brings anything more."""
    together = threading.Barrier(8)

    def handle(request):
        if request.value == b"meet":
            together.wait(30)
        return request.value

    with node.connect() as server, node.connect() as asker:
        server.serve("s", handle, concurrency=8)
        for _ in range(3):
            warm(asker, "s")
            meeting = in_threads(8, lambda: asker.request("s", b"meet", timeout=40))
            for thread in meeting:
                thread.join(40)
            assert not any(thread.is_alive() for thread in meeting)


def test_a_quick_handler_that_asks_itself_is_answered(node):
    with node.connect() as server, node.connect() as asker:

        @server.service("s", concurrency=2)
        def handle(request):
            if request.value == b"deep":
                return server.request("s", b"own", timeout=20).value
            return request.value

        warm(asker, "s")
        assert asker.request("s", b"deep", timeout=20).value == b"own"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_leader_whose_handler_exits_ends_the_instance_and_stops_in_order(node, concurrency):
    with node.connect() as server, node.connect() as asker:

        def handle(request):
            if request.value == b"exit":
                raise SystemExit(3)
            return request.value

        instance = server.serve("s", handle, concurrency=concurrency)
        warm(asker, "s")
        with pytest.raises(meshmq.InstanceLost):
            asker.request("s", b"exit", timeout=20)
        assert instance.stop(timeout=10)
        assert isinstance(instance.error, SystemExit)


def test_a_quick_service_stops_and_its_last_replies_leave(node):
    with node.connect() as server, node.connect() as asker:
        instance = server.serve("s", lambda request: request.value, concurrency=4)
        warm(asker, "s")
        found, errors = [], []

        def ask():
            try:
                while True:
                    found.append(asker.request("s", b"v", timeout=20).value)
            except meshmq.NoResponders as error:
                errors.append(error)

        asking = in_threads(8, ask)
        assert instance.stop(timeout=10)
        for thread in asking:
            thread.join(30)
        assert len(errors) == 8
        assert set(found) <= {b"v"}
