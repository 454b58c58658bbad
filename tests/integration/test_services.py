"""Requests and services against a real node, by both clients."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

import meshmq
from meshmq import aio

MIB = 1 << 20


def until(is_true, timeout=15):
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


class Steps:
    """Events by name that a handler and its test wait for."""

    def __init__(self):
        self._events = {}
        self._lock = threading.Lock()

    def _event(self, name):
        with self._lock:
            return self._events.setdefault(name, threading.Event())

    def say(self, name):
        self._event(name).set()

    def await_(self, name):
        assert self._event(name).wait(20), f"{name} did not come"


@pytest.fixture
def steps():
    return Steps()


# -- the synchronous client -----------------------------------------------------------------------


def test_a_service_answers_requests(node):
    with node.connect(name="server") as server, node.connect() as asker:
        with pytest.raises(meshmq.InvalidArgument):
            server.serve("echo", None)

        def echo(request):
            assert request.service == "echo"
            assert 0 < request.remaining <= 5
            return request.value + request.headers.get("h", "").encode()

        instance = server.serve("echo", echo)
        assert asker.request("echo", b"one") == meshmq.Reply(b"one", "server")
        assert asker.request("echo", b"x", headers={"h": "1"}, timeout=5).value == b"x1"
        assert asker.request("echo").value == b""
        big = os.urandom(MIB)
        assert asker.request("echo", big).value == big
        assert instance(type("R", (), {
            "service": "echo", "remaining": 1, "value": b"direct", "headers": {}
        })) == b"direct"  # fmt: skip
        assert instance.stop()
        with pytest.raises(meshmq.NoResponders, match="nobody serves 'echo'"):
            asker.request("echo", b"x")


def test_what_a_handler_raises_reaches_the_requester_without_a_traceback(node, caplog):
    with node.connect() as mesh:

        @mesh.service("prices")
        def prices(request):
            if request.value == b"own":
                raise meshmq.ServiceError("no such price", code="not-found")
            return 1 / 0

        with pytest.raises(meshmq.ServiceError, match=r"^no such price$") as own:
            mesh.request("prices", b"own")
        assert own.value.code == "not-found"
        with caplog.at_level(logging.ERROR, "meshmq"):
            with pytest.raises(meshmq.ServiceError) as other:
                mesh.request("prices", b"x")
            assert str(other.value) == "ZeroDivisionError: division by zero"
            assert other.value.code == "handler-failed"
        assert [r.exc_info[0] for r in caplog.records] == [ZeroDivisionError]
        assert prices.error is None


ANSWERS = [
    ("text", "str, not bytes: encode it, text.encode()"),
    (7, "int, not bytes"),
    ([b"a"], "list, not bytes"),
    (bytes(MIB + 1), "1,048,577 bytes, over the limit of 1,048,576 (1 MiB)"),
]


def check_no_answer(error, caplog, sentence, name):
    """The requester is told what the handler did, its log where that is, without a traceback."""
    assert error.code == "handler-failed"
    assert str(error).startswith(sentence)
    (record,) = caplog.records
    where = re.escape(f"({name}, test_services.py:") + r"\d+\)"
    assert re.sub(f" {where}", "", record.getMessage(), count=1) == str(error)
    assert re.search(where, record.getMessage())
    assert record.exc_info is None


@pytest.mark.parametrize("is_stream", [False, True], ids=["returned", "yielded"])
@pytest.mark.parametrize(("answer", "sentence"), ANSWERS, ids=lambda v: type(v).__name__)
def test_what_is_no_answer_is_the_handlers_fault(node, caplog, answer, sentence, is_stream):
    with node.connect() as mesh:

        def quote(request):
            return answer

        def quotes(request):
            yield answer

        mesh.serve("prices", quotes if is_stream else quote)
        with pytest.raises(meshmq.ServiceError) as raised:
            list(mesh.request_stream("prices")) if is_stream else mesh.request("prices")
        did, name = ("yielded", "quotes") if is_stream else ("returned", "quote")
        whole = f"the handler of 'prices' {did} {sentence}"
        check_no_answer(raised.value, caplog, whole, name)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (meshmq.ServiceError("no", 404), "404", "no"),
        (meshmq.ServiceError("half \udcff", "c\udcff"), r"c\udcff", r"half \udcff"),
        (FileNotFoundError("a\udcff"), "handler-failed", r"FileNotFoundError: a\udcff"),
    ],
    ids=["code-is-a-number", "half-a-character", "of-a-file"],
)
def test_whatever_an_error_says_it_is_an_answer_and_the_service_goes_on(
    node, error, code, text, caplog
):
    # Neither ids nor what was logged may hold half a character: xdist cannot send it.
    caplog.set_level(logging.CRITICAL, "meshmq")

    def fail(request):
        raise error

    async def asynchronous():
        async def fail_too(request):
            raise error

        async with aio.connect(node.url) as served:
            served.serve("too", fail_too)
            with node.connect() as mesh:
                return await asyncio.to_thread(failure, mesh, "too")

    def failure(mesh, service):
        until(lambda: mesh.admin.services.list(service))
        with pytest.raises(meshmq.ServiceError) as raised:
            mesh.request(service, b"")
        return raised.value.code, str(raised.value)

    with node.connect() as mesh:
        instance = mesh.serve("s", fail)
        for _ in range(2):
            assert failure(mesh, "s") == (code, text)
        assert instance.error is None
    assert asyncio.run(asynchronous()) == (code, text)


def test_an_exception_without_a_text_ends_no_instance(node):
    class Unspeakable(Exception):
        def __str__(self):
            return 1 / 0

    with node.connect() as mesh:

        @mesh.service("s")
        def unspeakable(request):
            raise Unspeakable

        for _ in range(2):
            with pytest.raises(meshmq.ServiceError, match="Unspeakable: its text cannot be told"):
                mesh.request("s")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.request("a..b", b""),
        lambda m: m.request("$x", b""),
        lambda m: m.request("s", "text"),
        lambda m: m.request("s", bytes(MIB + 1)),
        lambda m: m.request("s", b"", timeout=0),
        lambda m: m.request("s", b"", timeout=-1),
        lambda m: m.request("s", b"", timeout=86_401),
        lambda m: m.request("s", b"", timeout=True),
        lambda m: m.request("s", b"", timeout=float("nan")),
        lambda m: m.request("s", b"", timeout="5"),
        lambda m: m.request("s", b"", headers={"a": 1}),
        lambda m: m.request("s", b"", idempotent=1),
        lambda m: m.request_many("s", b"", max_replies=0),
        lambda m: m.request_many("s", b"", max_replies="all"),
        lambda m: m.serve("a..b", print),
        lambda m: m.serve("s", print, concurrency=0),
        lambda m: m.serve("s", print, concurrency=1025),
        lambda m: m.serve(print, print),
    ],
)
def test_wrong_arguments_are_told_where_they_are_given(node, wrong):
    with node.connect() as mesh, pytest.raises((meshmq.InvalidArgument, meshmq.InvalidName,
                                               meshmq.MessageTooLarge)):  # fmt: skip
        wrong(mesh)


def test_coroutine_functions_are_for_the_other_client(node):
    async def handler(request): ...

    with node.connect() as mesh, pytest.raises(meshmq.InvalidArgument, match=r"meshmq\.aio"):
        mesh.serve("s", handler)


def test_instances_share_the_work_and_a_busy_one_is_passed_over(node, steps):
    connect = node.connect
    with connect(name="slow") as slow, connect(name="fast") as fast, connect() as asker:

        @slow.service("s")
        def wait(request):
            steps.say("begun")
            steps.await_("go on")
            return b"slow"

        held = []
        one = threading.Thread(target=lambda: held.append(asker.request("s", b"", timeout=20)))
        one.start()
        steps.await_("begun")
        fast.serve("s", lambda request: b"fast", concurrency=2)
        assert {asker.request("s").value for _ in range(10)} == {b"fast"}
        steps.say("go on")
        one.join(20)
        assert held == [meshmq.Reply(b"slow", "slow")]


def test_so_many_are_at_work_and_not_more(node):
    most, running, lock = [0], [0], threading.Lock()
    with node.connect() as server, node.connect() as asker:

        def work(request):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.01)
            with lock:
                running[0] -= 1
            return request.value

        server.serve("s", work, concurrency=3)
        found = []
        threads = [
            threading.Thread(target=lambda i=i: found.append(asker.request("s", b"%d" % i).value))
            for i in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(found, key=int) == [b"%d" % i for i in range(30)]
        assert most[0] == 3


LATE = (
    r"^'s' did not answer within 0\.1 s; whether it was done is unknown: "
    r"allow more time with timeout= \(--timeout\)$"
)


def test_the_deadline_ends_the_wait_and_the_handler_sees_it(node, steps):
    with node.connect() as mesh:

        @mesh.service("s")
        def wait(request):
            until(lambda: request.cancelled)
            assert request.remaining == 0
            steps.say("seen")

        with pytest.raises(meshmq.DeadlineExceeded, match=LATE):
            mesh.request("s", b"", timeout=0.1)
        steps.await_("seen")


def test_an_expired_request_is_never_handed_out(node, steps):
    seen = []
    with node.connect() as mesh:

        @mesh.service("s")
        def one_at_a_time(request):
            seen.append(request.value)
            if request.value == b"first":
                steps.say("begun")
                steps.await_("go on")
            return b""

        first = threading.Thread(target=lambda: mesh.request("s", b"first", timeout=20))
        first.start()
        steps.await_("begun")
        with pytest.raises(meshmq.DeadlineExceeded):
            mesh.request("s", b"expired", timeout=0.05)
        steps.say("go on")
        first.join(20)
        mesh.request("s", b"third")
        assert seen == [b"first", b"third"]


def test_requests_to_many_gather_all_some_or_until_the_deadline(node, steps):
    with node.connect(name="a") as a, node.connect(name="b") as b, node.connect(name="c") as c:
        a.serve("s", lambda request: b"A")

        @b.service("s")
        def fails(request):
            raise meshmq.ServiceError("no", code="mine")

        @c.service("s")
        def hangs(request):
            until(lambda: request.cancelled)
            steps.say("stopped")

        with node.connect() as asker:
            replies = asker.request_many("s", b"", timeout=0.5)
            assert replies.deadline_exceeded
            found = {r.instance: r for r in replies}
            assert sorted(found) == ["a", "b"]
            assert (found["a"].value, found["a"].error) == (b"A", None)
            assert found["b"].error.code == "mine"
            steps.await_("stopped")
            some = asker.request_many("s", b"", timeout=20, max_replies=1)
            assert (len(some), some.deadline_exceeded) == (1, False)
            c.close()
            both = asker.request_many("s", b"", timeout=20)
            assert (len(both), both.deadline_exceeded) == (2, False)
            with pytest.raises(meshmq.NoResponders):
                asker.request_many("nobody", b"")


def test_a_stream_comes_in_order_to_its_end_or_error(node):
    with node.connect(name="x") as server, node.connect() as asker:

        @server.service("count")
        def count(request):
            for i in range(int(request.value)):
                yield b"%d" % i
            if request.headers:
                raise meshmq.ServiceError("no more", code="over")

        assert [r.value for r in asker.request_stream("count", b"1000")] == [
            b"%d" % i for i in range(1000)
        ]  # fmt: skip
        stream = asker.request_stream("count", b"2", headers={"fail": "1"})
        assert [next(stream).value, next(stream).value] == [b"0", b"1"]
        with pytest.raises(meshmq.ServiceError, match="no more"):
            next(stream)
        server.serve("one", lambda request: b"only")
        assert list(asker.request_stream("one")) == [meshmq.Reply(b"only", "x")]
        with pytest.raises(meshmq.ServiceError, match="request_stream") as error:
            asker.request("count", b"3")
        assert error.value.code == "stream"
        with pytest.raises(meshmq.NoResponders):
            next(asker.request_stream("nobody"))


def test_a_stream_runs_no_further_ahead_than_its_window_and_stops_when_left(node, steps):
    made = []
    with node.connect() as server, node.connect() as asker:

        @server.service("flood")
        def flood(request):
            try:
                while True:
                    made.append(1)
                    yield bytes(MIB // 4)
            finally:
                steps.say("closed")

        with asker.request_stream("flood", timeout=60) as stream:
            next(stream)
            until(lambda: len(made) >= 4)
            for _ in range(20):
                next(stream)
                assert len(made) <= 40
            assert len(made) <= 21 + 9
        steps.await_("closed")


def test_stopping_lets_what_runs_end_and_gives_the_rest_to_others(node, steps):
    connect = node.connect
    with connect(name="old") as old, connect(name="new") as new, connect() as asker:

        @old.service("s", concurrency=1)
        def old_one(request):
            steps.say("begun")
            steps.await_("go on")
            return b"old"

        found = []
        threads = [
            threading.Thread(target=lambda: found.append(asker.request("s", timeout=20).value))
            for _ in range(5)
        ]
        threads[0].start()
        steps.await_("begun")
        for thread in threads[1:]:
            thread.start()
        until(lambda: asker.admin.status()["services"][0]["waiting"] == 4)
        stopping = threading.Thread(target=old_one.stop)
        new.serve("s", lambda request: b"new")
        stopping.start()
        for thread in threads[1:]:
            thread.join(20)
        steps.say("go on")
        stopping.join(20)
        threads[0].join(20)
        assert sorted(found) == [b"new"] * 4 + [b"old"]


@pytest.mark.parametrize("kind", ["request", "request_many", "request_stream"])
def test_what_is_asked_while_the_mesh_is_being_closed_has_an_error(node, kind):
    with node.connect() as server:
        server.serve("s", lambda request: b"")
        mesh = node.connect()
        requester = mesh._connection.client.requester
        add = requester.add

        def add_late(call):
            mesh._connection.close(20)  # behind the look whether it is open
            add(call)

        requester.add = add_late
        with pytest.raises(meshmq.errors.ClosedError, match="the connection is closed"):
            list(getattr(mesh, kind)("s", timeout=40))


def test_what_was_asked_when_the_mesh_is_closed_is_lost(node, steps):
    with node.connect() as server, node.connect() as mesh:

        @server.service("s", concurrency=3)
        def wait(request):
            steps.say(request.value)
            until(lambda: request.cancelled)

        errors = []

        def ask(kind):
            try:
                list(getattr(mesh, kind)("s", kind.encode(), timeout=40))
            except meshmq.MeshError as error:
                errors.append(error)

        kinds = ["request", "request_many", "request_stream"]
        threads = [threading.Thread(target=ask, args=(kind,)) for kind in kinds]
        for thread, kind in zip(threads, kinds, strict=True):
            thread.start()
            steps.await_(kind.encode())
        mesh.close()
        for thread in threads:
            thread.join(20)
        assert [type(error) for error in errors] == [meshmq.LinkLost] * 3
        assert all("'s' had not answered" in str(error) for error in errors)


def test_a_stream_that_another_thread_closes_ends(node, steps):
    with node.connect() as mesh:

        @mesh.service("s")
        def one_and_wait(request):
            yield b"1"
            until(lambda: request.cancelled, 60)

        got = []
        stream = mesh.request_stream("s", timeout=60)

        def read():
            for reply in stream:
                got.append(reply.value)
                steps.say("read")
            steps.say("ended")

        reader = threading.Thread(target=read)
        reader.start()
        steps.await_("read")
        stream.close()
        stream.close()
        steps.await_("ended")
        reader.join(20)
        assert got == [b"1"]
        assert list(stream) == []


def test_a_stream_that_is_left_by_a_break_is_closed(node, steps):
    with node.connect() as mesh:

        @mesh.service("flood")
        def flood(request):
            try:
                while True:
                    yield bytes(MIB // 4)
            finally:
                steps.say("closed")

        for reply in mesh.request_stream("flood", timeout=60):
            assert len(reply.value) == MIB // 4
            break
        steps.await_("closed")


def test_a_stream_of_empty_values_is_bounded_and_whole(node, steps):
    made = []
    with node.connect() as server, node.connect() as asker:

        @server.service("empty")
        def empty(request):
            for _ in range(100_000):
                made.append(1)
                yield b""

        stream = asker.request_stream("empty", timeout=60)
        next(stream)
        (incoming,) = server._connection.client.responder._incoming.values()
        until(lambda: incoming.window <= 0)
        assert len(made) <= MIB // 32 + 1
        assert sum(1 for _ in stream) == 99_999


def test_a_stream_that_has_room_does_not_wait(node):
    with node.connect() as server, node.connect() as asker:

        @server.service("s")
        def many(request):
            for _ in range(1000):
                yield b""

        assert sum(1 for _ in asker.request_stream("s", timeout=20)) == 1000
        assert server._connection._drives < 500


def test_a_stream_for_which_there_is_no_room_at_first_waits_for_it(node, monkeypatch):
    with node.connect() as server, node.connect() as asker:

        @server.service("s")
        def count(request):
            yield b"a"
            yield b"b"

        monkeypatch.setattr("meshmq.limits.STREAM_WINDOW_BYTES", 0)
        stream = asker.request_stream("s", timeout=20)
        responder = server._connection.client.responder
        until(lambda: responder._incoming)
        (incoming,) = responder._incoming.values()
        until(lambda: incoming.is_begun)
        assert server.publish("a", b"v").wait(20)  # what it had to send has left
        asker._connection.client.requester.taken(stream._call, 100)
        asker._connection.urge()
        assert [reply.value for reply in stream] == [b"a", b"b"]


def test_a_handler_that_runs_when_the_mesh_is_closed_sees_it(node, steps):
    mesh = node.connect()
    with node.connect() as asker:

        @mesh.service("s")
        def wait(request):
            steps.say("begun")
            until(lambda: request.cancelled)
            steps.say("seen")

        def ask():
            with pytest.raises(meshmq.InstanceLost):
                asker.request("s", timeout=60)

        asking = threading.Thread(target=ask)
        asking.start()
        steps.await_("begun")
        mesh.close(timeout=0.1)
        steps.await_("seen")
        asking.join(20)


def test_requests_to_many_over_a_lost_link_are_lost_whatever_has_come(process_node, steps):
    url = process_node.url
    with meshmq.connect(url) as a, meshmq.connect(url) as b, meshmq.connect(url) as asker:
        a.serve("s", lambda request: b"A")

        @b.service("s")
        def hangs(request):
            until(lambda: request.cancelled)

        found = []

        def ask():
            try:
                found.append(asker.request_many("s", timeout=60))
            except meshmq.MeshError as error:
                found.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        calls = asker._connection.client.requester.calls
        until(lambda: any(call.replies for call in list(calls.values())))
        process_node.kill()
        asking.join(20)
        assert [type(what) for what in found] == [meshmq.LinkLost]
        process_node.start()


FORKING = """
import os, sys, threading
import meshmq
mesh = meshmq.connect(sys.argv[1])

def fork(how):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if how == b"_exit":
        os._exit(3)
    if how == b"exit":
        sys.exit(4)
    if how == b"text":
        sys.exit("in words")
    if how == b"raise":
        raise ValueError("in the child")
    return 0

@mesh.service("s", concurrency=2)
def forks(request):
    return b"%d" % fork(request.value)

@mesh.service("t")
def forks_between(request):
    for how in (b"exit", b"", b"raise"):
        yield b"%d" % fork(how)

done = threading.Event()

@mesh.worker("jobs")
def works(job):
    print("job", fork(job.value), flush=True)
    if job.value == b"":
        done.set()

for how in (b"_exit", b"exit", b"text", b"raise", b""):
    print(how.decode(), mesh.request("s", how, timeout=20).value.decode(), flush=True)
print([reply.value for reply in mesh.request_stream("t", timeout=20)], flush=True)
for how in (b"exit", b"raise", b""):
    mesh.enqueue("jobs", how)
assert done.wait(20)
mesh.close()
print("closed")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_a_handler_forks_can_end_in_every_way(node):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, node.url],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "_exit 3", "exit 4", "text 1", "raise 1", " 0", "[b'4', b'0', b'1']",
        "job 4", "job 1", "job 0", "job 0", "closed",
    ], done.stdout + done.stderr  # fmt: skip
    assert done.stderr.count("in words") == 1
    assert done.stderr.count("ValueError: in the child") == 3


def test_closing_the_mesh_stops_its_services(node):
    asker = node.connect()
    with node.connect() as mesh:
        instance = mesh.serve("s", lambda request: b"")
        asker.request("s")
    assert instance.stopped
    assert instance.error is None
    with pytest.raises(meshmq.NoResponders):
        asker.request("s")
    asker.close()


SERVER = """
import sys, time, meshmq
mesh = meshmq.connect(sys.argv[1], name="child")
def hang(request):
    print("begun", flush=True)
    time.sleep(60)
mesh.serve("s", hang)
print("serving", flush=True)
mesh.run()
"""


def start_server(node):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, node.url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "serving\n"
    return process


def test_a_killed_instance_s_request_is_lost_or_done_by_another(node):
    server = start_server(node)
    with node.connect() as asker, node.connect() as other:
        outcomes = []

        def ask(idempotent):
            try:
                outcomes.append(asker.request("s", timeout=30, idempotent=idempotent).value)
            except meshmq.MeshError as error:
                outcomes.append(type(error))

        lost = threading.Thread(target=ask, args=(False,))
        lost.start()
        assert server.stdout.readline() == "begun\n"
        server.kill()
        server.communicate()
        lost.join(20)
        assert outcomes == [meshmq.InstanceLost]
        server = start_server(node)
        again = threading.Thread(target=ask, args=(True,))
        again.start()
        assert server.stdout.readline() == "begun\n"
        other.serve("s", lambda request: b"done")
        server.kill()
        server.communicate()
        again.join(20)
        assert outcomes[1:] == [b"done"]


def test_sigterm_lets_a_service_end_in_order(node):
    code = (
        "import sys, time, meshmq\n"
        "mesh = meshmq.connect(sys.argv[1])\n"
        "def slow(request):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(0.3)\n"
        "    return b'whole'\n"
        "mesh.serve('s', slow)\n"
        "print('serving', flush=True)\n"
        "with mesh:\n"
        "    mesh.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, node.url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "serving\n"
    with node.connect() as asker:
        found = []
        asking = threading.Thread(target=lambda: found.append(asker.request("s").value))
        asking.start()
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        asking.join(20)
        assert found == [b"whole"]
        assert process.wait(20) == 0
        process.stdout.close()


def test_a_node_that_restarts_finds_its_services_again(process_node):
    url = process_node.url
    with meshmq.connect(url, route="node") as server, meshmq.connect(url, route="node") as asker:
        server.serve("s", lambda request: request.value)
        assert asker.request("s", b"before").value == b"before"
        process_node.kill()
        with pytest.raises((meshmq.NodeUnreachable, meshmq.LinkLost)) as error:
            asker.request("s", b"meanwhile", timeout=0.2)
        assert error.value.outcome in ("not done", "unknown")
        until(lambda: asker.state != "connected")
        with pytest.raises(meshmq.NodeUnreachable, match=f"is {process_node.url}\\)$"):
            asker.request("s", b"meanwhile", timeout=0.2)
        process_node.start()
        # It waits for the node, and at the node for the instance that comes back.
        assert asker.request("s", b"after", timeout=20, idempotent=True).value == b"after"


def test_ctrl_c_while_it_waits_cancels_the_request(node, steps):
    stopped = threading.Event()
    with node.connect() as server:

        @server.service("s")
        def wait(request):
            steps.say("begun")
            until(lambda: request.cancelled)
            stopped.set()

        code = (
            "import sys, meshmq\n"
            "mesh = meshmq.connect(sys.argv[1])\n"
            "try:\n"
            "    mesh.request('s', timeout=60)\n"
            "except KeyboardInterrupt:\n"
            "    print('interrupted', flush=True)\n"
            "    sys.stdin.readline()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, node.url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        steps.await_("begun")
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert stopped.wait(20)  # by its Cancel: the program is still there
        process.communicate("\n", timeout=20)


@pytest.mark.parametrize("kind", ["request", "request_many", "request_stream"])
def test_ctrl_c_just_behind_the_sending_cancels_the_request_too(node, steps, monkeypatch, kind):
    with node.connect() as server, node.connect() as asker:

        @server.service("s")
        def wait(request):
            steps.say("begun")
            until(lambda: request.cancelled)
            steps.say("stopped")

        call = asker._connection.call

        def call_interrupted(asked, waits=False):
            call(asked)
            steps.await_("begun")
            raise KeyboardInterrupt

        monkeypatch.setattr(asker._connection, "call", call_interrupted)
        with pytest.raises(KeyboardInterrupt):
            getattr(asker, kind)("s", timeout=60)
        steps.await_("stopped")


# -- asyncio --------------------------------------------------------------------------------------


def go(main):
    asyncio.run(asyncio.wait_for(main, 50))


def test_aio_services_and_requests(node):
    async def main():
        async with aio.connect(node.url, name="server") as server, aio.connect(node.url) as asker:

            @server.service("echo", concurrency=10)
            async def echo(request):
                await asyncio.sleep(0.001)
                if request.value == b"fail":
                    raise meshmq.ServiceError("no", code="mine")
                return request.value

            @server.service("count")
            async def count(request):
                for i in range(int(request.value)):
                    yield b"%d" % i

            await until_served(asker, "echo", "count")
            values = [b"%d" % i for i in range(200)]
            replies = await asyncio.gather(*[asker.request("echo", v) for v in values])
            assert [r.value for r in replies] == values
            assert replies[0].instance == "server"
            with pytest.raises(meshmq.ServiceError) as error:
                await asker.request("echo", b"fail")
            assert error.value.code == "mine"
            got = [r.value async for r in asker.request_stream("count", b"500")]
            assert got == [b"%d" % i for i in range(500)]
            assert [r.value for r in await asker.request_many("echo", b"all")] == [b"all"]
            with pytest.raises(meshmq.NoResponders):
                await asker.request("nobody")
            assert await echo.stop()
            with pytest.raises(meshmq.NoResponders):
                await asker.request("echo")

    go(main())


async def until_served(mesh, *services):
    async with asyncio.timeout(20):
        while {s["service"] for s in (await mesh.admin.status())["services"]} < set(services):
            pass  # each status is a round trip


def test_aio_cancelling_reaches_the_handler_s_task(node):
    async def main():
        begun, cancelled = asyncio.Event(), asyncio.Event()
        async with aio.connect(node.url) as mesh:

            async def wait(request):
                begun.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    assert request.cancelled
                    cancelled.set()
                    raise

            instance = mesh.serve("s", wait)
            await until_served(mesh, "s")
            for how in ("cancelled", "deadline"):
                begun.clear()
                cancelled.clear()
                timeout = 60 if how == "cancelled" else 0.2
                task = asyncio.create_task(mesh.request("s", timeout=timeout))
                await begun.wait()
                if how == "cancelled":
                    task.cancel()
                await asyncio.wait([task])
                await asyncio.wait_for(cancelled.wait(), 20)
                if how == "deadline":
                    assert isinstance(task.exception(), meshmq.DeadlineExceeded)
            async with asyncio.timeout(20):
                while instance.running:
                    await mesh.admin.status()

    go(main())


def test_aio_a_stream_that_is_left_stops_its_generator(node):
    async def main():
        closed = asyncio.Event()
        async with aio.connect(node.url) as mesh:

            async def flood(request):
                try:
                    while True:
                        yield bytes(MIB // 4)
                finally:
                    closed.set()

            mesh.serve("flood", flood)
            await until_served(mesh, "flood")
            async with mesh.request_stream("flood", timeout=60) as stream:
                for _ in range(10):
                    await anext(stream)
            await asyncio.wait_for(closed.wait(), 20)

    go(main())


def test_aio_what_is_not_done_when_it_stops_is_lost(node):
    async def main():
        begun = asyncio.Event()
        async with aio.connect(node.url) as mesh, aio.connect(node.url) as asker:

            async def hang(request):
                begun.set()
                await asyncio.sleep(60)

            instance = mesh.serve("s", hang)
            await until_served(asker, "s")
            task = asyncio.create_task(asker.request("s", timeout=30))
            await begun.wait()
            assert not await instance.stop(0.1)
            with pytest.raises(meshmq.InstanceLost):
                await task

    go(main())


def test_aio_an_instance_can_be_awaited_until_it_is_registered(node, monkeypatch):
    async def main():
        async with aio.connect(node.url) as mesh, aio.connect(node.url) as asker:

            async def echo(request):
                return request.value

            instance = await mesh.serve("s", echo)
            assert (await asker.request("s", b"v")).value == b"v"
            assert await instance is instance
            lazy = mesh.service("t", start=False)(echo)
            assert not lazy.started
            await lazy
            assert (await asker.request("t", b"v")).value == b"v"
            monkeypatch.setattr(meshmq.limits, "SERVICES_PER_SESSION_MAX", 2)
            with pytest.raises(meshmq.errors.LimitReached, match="at most 2"):
                await mesh.serve("u", echo)
            never = mesh.serve("v", echo)
            await never.stop()  # before its first step
            assert (await never).stopped

    go(main())


def test_aio_a_request_whose_task_is_cancelled_before_its_first_step_frees_its_place(node):
    async def main():
        async with aio.connect(node.url) as mesh, aio.connect(node.url) as asker:

            async def echo(request):
                return request.value

            await mesh.serve("s", echo)
            responder = mesh._connection.client.responder
            begin = responder.begin

            def begin_cancelled(registration):
                incoming = begin(registration)
                if incoming is not None:
                    loop.call_soon(lambda: incoming.task.cancel())  # it runs before the task does
                    responder.begin = begin
                return incoming

            loop = asyncio.get_running_loop()
            responder.begin = begin_cancelled
            with pytest.raises(meshmq.InstanceLost):
                await asker.request("s", b"1", timeout=20)
            assert (await asker.request("s", b"2", timeout=20)).value == b"2"

    go(main())


def test_aio_a_stream_that_another_task_closes_ends(node):
    async def main():
        async with aio.connect(node.url) as mesh:

            async def one_and_wait(request):
                yield b"1"
                await asyncio.sleep(60)

            await mesh.serve("s", one_and_wait)
            stream = mesh.request_stream("s", timeout=60)
            assert (await anext(stream)).value == b"1"
            reading = asyncio.create_task(anext(stream, "ended"))
            await asyncio.sleep(0)  # it waits
            assert stream._call in mesh._bell._waiting
            await stream.close()
            assert await reading == "ended"
            assert [reply async for reply in stream] == []

    go(main())


def test_aio_a_stream_that_is_left_by_a_break_is_closed(node):
    async def main():
        closed = asyncio.Event()
        async with aio.connect(node.url) as mesh:

            async def flood(request):
                try:
                    while True:
                        yield bytes(MIB // 4)
                finally:
                    closed.set()

            await mesh.serve("flood", flood)
            async for _ in mesh.request_stream("flood", timeout=60):
                break
            await closed.wait()

    go(main())


def test_aio_stop_leaves_behind_what_swallows_its_cancellation(node, monkeypatch, caplog):
    monkeypatch.setattr("meshmq.client.aio_services.CANCELLED_SECONDS", 0.01)

    async def main():
        begun, go_on = asyncio.Event(), asyncio.Event()
        async with aio.connect(node.url) as mesh, aio.connect(node.url) as asker:

            async def deaf(request):
                begun.set()
                while not go_on.is_set():
                    try:
                        await go_on.wait()
                    except asyncio.CancelledError:
                        pass

            instance = await mesh.serve("s", deaf)
            asking = asyncio.create_task(asker.request("s", timeout=60))
            await begun.wait()
            try:
                with caplog.at_level(logging.ERROR, "meshmq"):
                    assert not await instance.stop(0.01)
                assert "1 handlers of 's' do not end" in caplog.text
                assert (instance.stopped, instance.running) == (True, 1)
                with pytest.raises(meshmq.InstanceLost):
                    await asking
            finally:
                go_on.set()

    go(main())


def test_aio_a_stream_whose_generator_swallows_its_cancellation_ends(node):
    async def main():
        ended = asyncio.Event()
        async with aio.connect(node.url) as mesh:

            async def deaf(request):
                try:
                    while True:
                        try:
                            await asyncio.sleep(0)
                        except asyncio.CancelledError:
                            pass
                        yield b""
                finally:
                    ended.set()

            await mesh.serve("s", deaf)
            async with mesh.request_stream("s", timeout=60) as stream:
                await anext(stream)
            await ended.wait()

    go(main())


def test_aio_a_stream_for_which_there_is_no_room_at_first_waits_for_it(node, monkeypatch):
    async def main():
        async with aio.connect(node.url) as server, aio.connect(node.url) as asker:

            async def count(request):
                yield b"a"
                yield b"b"

            await server.serve("s", count)
            monkeypatch.setattr("meshmq.limits.STREAM_WINDOW_BYTES", 0)
            stream = asker.request_stream("s", timeout=20)
            responder = server._connection.client.responder
            await asyncio.to_thread(until, lambda: responder._incoming)
            (incoming,) = responder._incoming.values()
            await asyncio.to_thread(until, lambda: incoming.is_begun)
            await (await server.publish("a", b"v")).wait(20)  # what it had to send has left
            asker._connection.client.requester.taken(stream._call, 100)
            asker._connection.urge()
            assert [reply.value async for reply in stream] == [b"a", b"b"]

    go(main())


@pytest.mark.parametrize("kind", ["request", "request_many"])
def test_aio_what_is_asked_while_the_mesh_is_being_closed_has_an_error(node, kind):
    async def main():
        mesh = await aio.connect(node.url)
        requester = mesh._connection.client.requester
        add = requester.add

        def add_late(call):
            mesh._connection.close(20)
            add(call)

        requester.add = add_late
        with pytest.raises(meshmq.errors.ClosedError, match="the connection is closed"):
            await getattr(mesh, kind)("s", timeout=40)

    go(main())


def test_aio_plain_functions_and_wrong_names_are_refused(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            with pytest.raises(meshmq.InvalidArgument, match="async def"):
                mesh.serve("s", lambda request: b"")
            with pytest.raises(meshmq.InvalidName, match=r"service name 'a\.\.b'"):
                await mesh.request("a..b")
            with pytest.raises(meshmq.InvalidArgument, match="write it as"):
                mesh.service(print)

    go(main())


# -- what the program is told ---------------------------------------------------------------------


def test_aio_what_is_no_answer_is_the_handlers_fault(node, caplog):
    async def main():
        async with aio.connect(node.url) as mesh:

            async def quote(request):
                return "text"

            async def quotes(request):
                yield 7

            await mesh.serve("prices", quote)
            with pytest.raises(meshmq.ServiceError) as raised:
                await mesh.request("prices")
            sentence = "the handler of 'prices' returned str, not bytes"
            check_no_answer(raised.value, caplog, sentence, "quote")
            caplog.clear()
            await mesh.serve("many", quotes)
            with pytest.raises(meshmq.ServiceError) as raised:
                await anext(mesh.request_stream("many"))
            sentence = "the handler of 'many' yielded int, not bytes"
            check_no_answer(raised.value, caplog, sentence, "quotes")

    go(main())


def test_nobody_of_many_in_time_is_an_empty_list(node):
    with node.connect() as mesh:

        def wait(request):
            until(lambda: request.cancelled)

        mesh.serve("s", wait)
        replies = mesh.request_many("s", timeout=0.1)
        assert replies == []
        assert replies.deadline_exceeded

        async def main():
            async with aio.connect(node.url) as asker:
                found = await asker.request_many("s", timeout=0.1)
                assert (found, found.deadline_exceeded) == ([], True)

        go(main())


NO_HANDLER = "^a handler is called with a Request: "
NO_WORKER = "^a worker is called with a Job: "


def test_a_handler_that_takes_no_request_is_refused_at_once(node):
    class Two:
        def __call__(self, request, more):
            return b""

    with node.connect() as mesh:
        for handler in (lambda: b"", Two(), lambda request, *, more: b""):
            with pytest.raises(meshmq.InvalidArgument, match=NO_HANDLER):
                mesh.serve("s", handler)
            with pytest.raises(meshmq.InvalidArgument, match=NO_WORKER):
                mesh.worker("q")(handler)
        assert mesh.admin.services.list() == []
        for handler in (lambda *all: b"", lambda request, more=1: b"", bytes):
            assert mesh.serve("s", handler).stop()

    async def nothing():
        return b""

    async def main():
        async with aio.connect(node.url) as mesh:
            with pytest.raises(meshmq.InvalidArgument, match=NO_HANDLER):
                mesh.serve("s", nothing)
            with pytest.raises(meshmq.InvalidArgument, match=NO_WORKER):
                mesh.worker("q")(nothing)

    go(main())


def test_a_name_in_the_wrong_place_says_where_it_belongs(node):
    def handler(request):
        return b""

    with node.connect() as mesh:
        with pytest.raises(meshmq.InvalidArgument) as swapped:
            mesh.serve(handler, "name")
        assert str(swapped.value) == (
            'the name comes first: mesh.serve("name", handler), not with a function for it'
        )
        with pytest.raises(meshmq.InvalidArgument) as bare:
            mesh.service(handler)
        assert str(bare.value) == ('write it as @mesh.service("name"), not with a function for it')


def unused(caplog):
    return [r.getMessage().split(" ends, ")[0] for r in caplog.records if "never had" in r.msg]


def test_what_ends_unused_with_its_mesh_is_logged(node, caplog):
    with node.connect() as mesh:
        mesh.service("s")(lambda request: b"")
        mesh.worker("q")(lambda job: None)
        mesh.service("later", start=False)(lambda request: b"")
        mesh.serve("stopped", lambda request: b"").stop()
        mesh.serve("asked", lambda request: b"")
        mesh.request("asked")
    assert unused(caplog) == ["an instance of 's'", "a worker of 'q'"]


def test_aio_what_ends_unused_with_its_mesh_is_logged(node, caplog):
    async def handler(item):
        return b""

    async def main():
        async with aio.connect(node.url) as mesh:
            await mesh.serve("s", handler)
            mesh.worker("q")(handler)
            await (await mesh.serve("stopped", handler)).stop()
            await mesh.serve("asked", handler)
            await mesh.request("asked")

    go(main())
    assert unused(caplog) == ["an instance of 's'", "a worker of 'q'"]


RUN = """
import signal, sys, threading
import meshmq

with meshmq.connect(sys.argv[1]) as mesh:

    @mesh.service("s")
    def wait(request):
        # A request may be here before run() is, which takes signals.
        while signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            threading.Event().wait(0.01)
        print("begun", flush=True)
        threading.Event().wait()

    mesh.run()
"""

AIO_RUN = """
import asyncio, sys
import meshmq

async def main():
    async with meshmq.aio.connect(sys.argv[1]) as mesh:

        @mesh.service("s")
        async def wait(request):
            print("begun", flush=True)
            await asyncio.Event().wait()

        await mesh.run()

asyncio.run(main())
"""


@pytest.mark.parametrize("code", [RUN, AIO_RUN], ids=["sync", "aio"])
def test_a_first_ctrl_c_says_what_it_waits_for_and_a_second_ends_without_noise(node, code):
    program = subprocess.Popen(
        [sys.executable, "-c", code, node.url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with node.connect() as mesh:
        until(lambda: mesh.admin.services.list("s"))
        stream = mesh.request_stream("s", timeout=60)
        assert program.stdout.readline() == "begun\n"
        program.send_signal(signal.SIGINT)
        assert program.stderr.readline() == (
            "finishing 1 request (30 s at most), Ctrl-C again ends it\n"
        )
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=20)
        with pytest.raises(meshmq.InstanceLost, match="the instance of 's' that had the request"):
            next(stream)
    if code == AIO_RUN:
        assert (program.returncode, said) == (0, "")
    else:
        assert said.endswith("KeyboardInterrupt: what ran was not waited for\n")
        assert said.count("Traceback") == 1
        assert "join" not in said
