"""Requests, services and their instances by the command line, against a real node."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

import meshmq
import meshmq.aio
from meshmq.cli.services import took

LARGEST = 1 << 20


def start(*arguments, url, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "meshmq", *map(str, arguments)],
        stdin=options.get("stdin", subprocess.DEVNULL),
        stdout=options.get("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
        env={**os.environ, "MESHMQ_URL": url},
    )  # fmt: skip


def run(*arguments, url, given=None):
    """Exit code, stdout and stderr of a command."""
    process = start(*arguments, url=url, stdin=subprocess.PIPE)
    out, said = process.communicate(given, timeout=50)
    assert b"Traceback" not in said
    return process.returncode, out, said.decode()


def done(*arguments, url, given=None):
    """Stdout of a command that ends well and says nothing else."""
    code, out, said = run(*arguments, url=url, given=given)
    assert (code, said) == (0, ""), (out, said)
    return out


def objects(*arguments, url, given=None):
    return [json.loads(line) for line in done(*arguments, "--json", url=url, given=given).split(
        b"\n")[:-1]]  # fmt: skip


def failed(*arguments, url, given=None, code=1):
    """The one sentence of a command that fails and shows nothing."""
    found, out, said = run(*arguments, url=url, given=given)
    assert (found, out) == (code, b""), said
    assert said.startswith("meshmq: "), said
    assert said.count("\n") == 1, said
    return said.removeprefix("meshmq: ").rstrip("\n")


def wait_until(check, seconds=20):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


class Serving:
    """``meshmq serve``; what it says on stderr is read all the time, so that it never blocks."""

    def __init__(self, *arguments, url):
        self.process = start("serve", *arguments, url=url)
        self.first = self.process.stderr.readline().decode()
        self._said = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._said.append(line.decode())

    def end(self, *numbers, timeout=20):
        """Send signals; exit code, stdout, stderr after the first line."""
        for number in numbers:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        out = b"" if self.process.stdout.closed else self.process.stdout.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, out.decode(), self.said

    @property
    def said(self):
        return "".join(self._said)


@pytest.fixture
def serve(node):
    """Start instances; they are serving when it returns."""
    begun = []

    def serve(*arguments, url=node.url):
        begun.append(Serving(*arguments, url=url))
        assert begun[-1].first.startswith("meshmq: serving "), begun[-1].first
        return begun[-1]

    yield serve
    for serving in begun:
        code, _, said = serving.end(signal.SIGTERM)
        # Seen with a test that fails: why an instance was not there, only it can say.
        print(f"{serving.first}{said}exit code {code}")


# -- one answer -----------------------------------------------------------------------------------


def test_an_echo_in_two_terminals(node, serve):
    serving = serve("hello", "--echo", "--name", "one")
    assert serving.first == (
        "meshmq: serving 'hello' with an echo as one, 1 at a time; Ctrl-C ends it\n"
    )
    assert done("request", "hello", "hi there", url=node.url) == b"hi there"
    assert done("request", "hello", "hi", "--lines", url=node.url) == b"hi\n"
    assert done("request", "hello", url=node.url) == b""
    assert objects("request", "hello", "hi", url=node.url) == [
        {"service": "hello", "instance": "one", "value": "hi"}
    ]
    code, out, said = serving.end(signal.SIGTERM)
    assert (code, out) == (0, "")
    assert said == "meshmq: stopped after 4 requests, 0 answered with an error (SIGTERM)\n"


def test_a_terminal_gets_a_newline_unless_there_is_one(node, serve):
    serve("hello", "--echo")
    for asked, shown in (("hi", b"hi\r\n"), ("hi\n", b"hi\r\n"), ("", b"\r\n")):
        ours, theirs = pty.openpty()
        process = start("request", "hello", asked, url=node.url, stdout=theirs)
        _, said = process.communicate(timeout=20)
        os.close(theirs)
        assert (process.returncode, said) == (0, b"")
        with open(ours, "rb", buffering=0) as terminal:
            assert terminal.read(100) == shown


@pytest.mark.parametrize("how", [("--echo",), ("--exec", "cat")], ids=["echo", "exec"])
def test_values_come_back_byte_for_byte(node, serve, how):
    serve("mirror", *how)
    for value in (b"", b"\0", b"a\0b\xff\r\n\0", os.urandom(LARGEST)):
        assert done("request", "mirror", "-", url=node.url, given=value) == value
    (shown,) = objects("request", "mirror", "-", url=node.url, given=b"\0\xff")
    assert shown["value"] == {"base64": "AP8="}
    (shown,) = objects("request", "mirror", "-", url=node.url, given=b"a\0b")
    assert shown["value"] == "a\0b"


def test_a_value_over_the_limit_is_not_asked(node, serve):
    serve("mirror", "--echo")
    over = bytes(LARGEST + 1)
    sentence = "standard input has more than 1048576 bytes, the limit of one value"
    assert failed("request", "mirror", "-", url=node.url, given=over) == sentence
    code, out, said = run("request", "mirror", "-", "--json", url=node.url, given=over)
    assert (code, said) == (1, f"meshmq: {sentence}\n")
    assert json.loads(out) == {
        "error": "message-too-large", "message": sentence, "outcome": "not done",
    }  # fmt: skip
    (service,) = objects("services", url=node.url)
    assert service["requests"] == 0


def test_an_answer_over_the_limit_is_an_error_and_ends_its_command(node, serve):
    serving = serve("endless", "--exec", "cat /dev/zero")
    assert failed("request", "endless", url=node.url) == (
        "'endless' answered with an error, message-too-large: "
        "the answer has more than 1048576 bytes, the limit of one value"
    )
    code, _, said = serving.end(signal.SIGINT)
    assert code == 130
    assert said.splitlines()[0] == (
        "meshmq: a request was answered with an error: "
        "the answer has more than 1048576 bytes, the limit of one value"
    )


def test_headers_and_errors_of_a_program(node):
    def handler(request):
        if request.value == b"bad":
            raise meshmq.ServiceError("no \x1b[31m such\nthing", "not-here")
        if request.value == b"bug":
            raise ValueError("oh")
        return json.dumps(request.headers).encode()

    with meshmq.connect(node.url, name="program") as mesh:
        mesh.serve("s", handler)
        out = done("request", "s", "--header", "a=b", "--header", "c=d=e", url=node.url)
        assert json.loads(out) == {"a": "b", "c": "d=e"}
        # Its words steer no terminal.
        sentence = r"'s' answered with an error, not-here: no \x1b[31m such thing"
        assert failed("request", "s", "bad", url=node.url) == sentence
        code, out, _ = run("request", "s", "bad", "--json", url=node.url)
        assert code == 1
        assert json.loads(out) == {
            "error": "not-here", "message": "no \x1b[31m such\nthing", "outcome": "unknown",
        }  # fmt: skip
        assert failed("request", "s", "bug", url=node.url) == (
            "'s' answered with an error, handler-failed: ValueError: oh"
        )


def test_nobody_serves(node):
    for more in ((), ("--many",), ("--stream",), ("--idempotent",)):
        sentence = failed("request", "nope", "x", *more, url=node.url)
        assert sentence == (
            "nobody serves 'nope': start a program that does, or look for the name in `meshmq "
            "services` (a node's list)"
        )
    code, out, _ = run("request", "nope", "--json", url=node.url)
    assert (code, json.loads(out)["error"]) == (1, "no-responders")


LATE = (
    "'{}' did not answer within {} s; whether it was done is unknown: allow more time with "
    "timeout= (--timeout)"
)


def test_no_answer_in_time(node, serve):
    serve("slow", "--exec", "sleep 50")
    assert failed("request", "slow", "--timeout", "0.3", url=node.url) == LATE.format("slow", "0.3")
    assert failed("request", "slow", "--many", "--timeout", "0.3", url=node.url) == (
        "no instance of 'slow' answered within 0.3 s; whether it was done is unknown: "
        "allow more time with --timeout"
    )


# -- commands -------------------------------------------------------------------------------------


def test_a_command_finds_its_request_in_its_environment(node, serve):
    serve("env", "--exec", 'read -r v; echo "$v $MESHMQ_SERVICE $MESHMQ_DEADLINE_SECONDS"')
    value, service, seconds = done("request", "env", "v", "--timeout", 9, url=node.url).split()
    assert (value, service) == (b"v", b"env")
    assert 0 < float(seconds) <= 9


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("exit 3", "exit-3", "exit status 3"),
        ("echo on its way; echo ' what failed ' >&2; exit 7", "exit-7", "what failed"),
        ("kill -KILL $$", "exit-137", "ended by SIGKILL"),
        ("sh -c 'kill -TERM $$'; exit $?", "exit-143", None),
        ("/nonexistent/program", "exit-127", None),
    ],
)
def test_a_command_that_fails(node, serve, command, code, text):
    serving = serve("s", "--exec", command)
    sentence = failed("request", "s", url=node.url)
    assert sentence.startswith(f"'s' answered with an error, {code}: ")
    if text is not None:
        assert sentence.endswith(f": {text}")
    _, _, said = serving.end(signal.SIGTERM)
    assert "meshmq: a request was answered with an error: e" in said
    assert said.endswith("stopped after 1 request, 1 answered with an error (SIGTERM)\n")


def test_the_end_of_stderr_is_what_counts(node, serve):
    serving = serve(
        "s", "--exec", "head -c 200000 /dev/zero | tr '\\0' x >&2; echo ' the end' >&2; exit 1"
    )
    sentence = failed("request", "s", url=node.url)
    assert sentence.endswith("xxx the end")
    assert len(sentence) < 600
    assert len(serving.end(signal.SIGTERM)[2]) > 200_000  # it is shown, all of it


STUBBORN = "trap '' TERM; echo $$ > {pid}; while :; do sleep 0.1; done"
PIPELINE = "(echo $$ > {pid}; sleep 50; echo never) | cat"


@pytest.mark.parametrize("command", [STUBBORN, PIPELINE], ids=["ignores SIGTERM", "pipeline"])
def test_a_command_is_killed_at_the_deadline(node, serve, tmp_path, command):
    """With its process group; then there is room for the next request."""
    pid, first = tmp_path / "pid", tmp_path / "first"
    serving = serve(
        "s", "--exec", f"[ -e {first} ] && exec cat; touch {first}; {command.format(pid=pid)}",
    )  # fmt: skip
    assert failed("request", "s", "--timeout", 1, url=node.url) == LATE.format("s", "1")
    assert done("request", "s", "next", "--timeout", 20, url=node.url) == b"next"
    group = int(pid.read_text())
    assert not group_is_there(group)
    _, _, said = serving.end(signal.SIGTERM)
    dropped, stopped = said.splitlines()
    assert dropped.startswith("meshmq: a request was given up after ")
    assert stopped == (
        "meshmq: stopped after 2 requests, 0 answered with an error, 1 given up by who asked "
        "(SIGTERM)"
    )


def group_is_there(group):
    found = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout
    states = [row.split()[1] for row in found.splitlines() if int(row.split()[0]) == group]
    return any(not state.startswith("Z") for state in states)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_is_killed_when_who_asked_goes_away(node, serve, tmp_path, number):
    pid = tmp_path / "pid"
    serve("s", "--exec", f"echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 50")
    asking = start("request", "s", "--timeout", 50, url=node.url)
    wait_until(pid.exists)
    asking.send_signal(number)
    out, said = asking.communicate(timeout=20)
    if number == signal.SIGINT:
        assert (asking.returncode, out, said) == (130, b"", b"meshmq: interrupted\n")
    wait_until(lambda: not group_is_there(int(pid.read_text())), 30)


def test_requests_at_a_time(node, serve, tmp_path):
    """Each command ends only once all of them run."""
    serve("s", "--concurrency", 3, "--exec",
          f"read -r n; touch {tmp_path}/$n; while [ $(ls {tmp_path} | wc -l) -lt 3 ]; do "
          f"sleep 0.05; done; echo $n")  # fmt: skip
    asking = [start("request", "s", n, "--timeout", 30, url=node.url) for n in "abc"]
    assert [a.communicate(timeout=40)[0] for a in asking] == [b"a\n", b"b\n", b"c\n"]


# -- the end of an instance -----------------------------------------------------------------------


ENDS = {
    signal.SIGINT: "interrupted after 1 request, 0 answered with an error",
    signal.SIGTERM: "stopped after 1 request, 0 answered with an error (SIGTERM)",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_runs_come_to_its_end(node, serve, tmp_path, number):
    begun, go = tmp_path / "begun", tmp_path / "go"
    serving = serve("s", "--exec", f"touch {begun}; while [ ! -e {go} ]; do sleep 0.05; done; cat")
    asking = start("request", "s", "it", "--timeout", 30, url=node.url)
    wait_until(begun.exists)
    serving.process.send_signal(number)
    with meshmq.connect(node.url) as mesh:
        wait_until(lambda: state_of(mesh, "s") == ["draining"])
    assert "nobody serves 's' any more: its last instance" in failed("request", "s", url=node.url)
    go.touch()
    out, said = asking.communicate(timeout=20)
    assert (asking.returncode, out, said) == (0, b"it", b"")
    code, _, said = serving.end()
    assert code == (130 if number == signal.SIGINT else 0)
    assert said.splitlines() == [
        "meshmq: finishing 1 request (30 s at most), Ctrl-C again ends it",
        f"meshmq: {ENDS[number]}",
    ]
    assert objects("services", url=node.url) == []


def state_of(mesh, service):
    return [i["state"] for s in mesh.admin.services.list(service) for i in s["instances"]]


def test_a_second_signal_cuts_off_and_who_asked_is_told(node, serve, tmp_path):
    pid = tmp_path / "pid"
    serving = serve("s", "--exec", f"echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 50")
    asking = start("request", "s", "--timeout", 40, url=node.url)
    wait_until(pid.exists)
    serving.process.send_signal(signal.SIGINT)
    with meshmq.connect(node.url) as mesh:
        wait_until(lambda: state_of(mesh, "s") == ["draining"])
    began = time.monotonic()
    code, _, said = serving.end(signal.SIGINT)
    assert time.monotonic() - began < 10
    assert code == 130
    _, cut, stopped = said.splitlines()
    assert cut.startswith("meshmq: a request was cut off after ")
    assert stopped == ("meshmq: interrupted after 1 request, 0 answered with an error, 1 cut off")
    assert not group_is_there(int(pid.read_text()))
    out, said = asking.communicate(timeout=20)
    assert (asking.returncode, out) == (1, b"")
    assert b"the instance of 's' that had the request went away" in said


def test_what_is_cut_off_goes_to_another_if_it_may(node, serve, tmp_path):
    begun = tmp_path / "begun"
    command = f"if [ -e {begun} ]; then echo $MESHMQ_SERVICE; else touch {begun}; sleep 50; fi"
    first = serve("s", "--exec", command)
    asking = start("request", "s", "--idempotent", "--timeout", 40, url=node.url)
    wait_until(begun.exists)
    serve("s", "--exec", command)
    first.process.send_signal(signal.SIGTERM)
    with meshmq.connect(node.url) as mesh:
        wait_until(lambda: sorted(state_of(mesh, "s")) == ["draining", "serving"])
    first.end(signal.SIGTERM)
    out, said = asking.communicate(timeout=20)
    assert (asking.returncode, out, said) == (0, b"s\n", b"")


def test_an_instance_outlives_a_kill_of_the_node(process_node, serve):
    url = process_node.url
    serving = serve("s", "--echo", url=url)
    assert done("request", "s", "a", url=url) == b"a"
    process_node.kill()
    wait_until(lambda: "connection lost" in serving.said, 30)
    process_node.start()
    assert done("request", "s", "b", "--timeout", 20, url=url) == b"b"
    code, _, said = serving.end(signal.SIGTERM)
    assert code == 0
    assert said.endswith("stopped after 2 requests, 0 answered with an error (SIGTERM)\n")


def test_what_is_refused_is_told_once(node):
    assert failed("serve", "s", "--echo", "--mesh", "other", url=node.url).startswith(
        "the node belongs to mesh 'local'"
    )


def test_serve_in_json(node, serve):
    serving = serve("s", "--json", "--exec", "read -r v; printf abc; echo bad >&2; exit $v")
    assert done("request", "s", "0", url=node.url) == b"abc"
    failed("request", "s", "4", url=node.url)
    code, out, said = serving.end(signal.SIGTERM)
    shown = [json.loads(line) for line in out.splitlines()]
    assert all(0 <= row.pop("seconds") < 20 for row in shown)
    assert shown == [
        {"service": "s", "outcome": "replied", "request_bytes": 1, "reply_bytes": 3,
         "exit_code": 0, "error": None, "message": None},
        {"service": "s", "outcome": "failed", "request_bytes": 1, "reply_bytes": 0,
         "exit_code": 4, "error": "exit-4", "message": "bad"},
    ]  # fmt: skip
    assert code == 0
    assert said.startswith("bad\nbad\n")


def test_serve_ends_when_nobody_reads_its_objects(node, serve):
    serving = serve("s", "--json", "--echo")
    serving.process.stdout.close()
    failed("request", "s", "x", url=node.url)
    assert serving.process.wait(20) == 141


# -- many, streams --------------------------------------------------------------------------------


def test_many(node, serve):
    serve("s", "--exec", "cat; echo ' mine'", "--name", "good")
    serve("s", "--exec", "echo no >&2; exit 2", "--name", "bad")
    out = done("request", "s", "yours", "--many", url=node.url)
    assert sorted(out.decode().splitlines()) == ["bad [exit-2: no]", "good yours mine"]
    found = objects("request", "s", "x", "--many", url=node.url)
    assert sorted(found, key=lambda row: row["instance"]) == [
        {"service": "s", "instance": "bad", "value": None, "error": "exit-2", "message": "no"},
        {"service": "s", "instance": "good", "value": "x mine\n", "error": None, "message": None},
    ]
    serve("t", "--echo")
    serve("t", "--echo")
    assert len(objects("request", "t", "--many", url=node.url)) == 2
    assert len(objects("request", "t", "--many", "--max-replies", 1, url=node.url)) == 1


def test_many_has_what_came_in_time(node, serve):
    serve("s", "--exec", "sleep 50", "--name", "slow")
    serve("s", "--echo", "--name", "fast")
    code, out, said = run("request", "s", "a\tb\nc", "--many", "--timeout", 1, url=node.url)
    assert (code, out) == (0, b"fast a\tb\\x0ac\n")
    assert said == "meshmq: 1 instance answered within 1 s, the others did not\n"


def test_many_without_any_value_has_failed(node, serve):
    serve("s", "--exec", "exit 1", "--name", "one")
    code, out, said = run("request", "s", "--many", url=node.url)
    assert (code, out) == (1, b"one [exit-1: exit status 1]\n")
    assert said == "meshmq: no value from 's': 1 instance answered, with errors only\n"


def test_a_stream_shows_its_values_as_they_come(node):
    shown = threading.Event()

    def count(request):
        yield b"one\0"
        assert shown.wait(20)
        yield b"two"
        if request.value:
            raise meshmq.ServiceError("enough", "tired")

    with meshmq.connect(node.url, name="program") as mesh:
        mesh.serve("s", count)
        asking = start("request", "s", "--stream", "--timeout", 40, url=node.url)
        assert asking.stdout.read(4) == b"one\0"
        shown.set()
        out, said = asking.communicate(timeout=20)
        assert (asking.returncode, out, said) == (0, b"two", b"")
        assert done("request", "s", "--stream", "--lines", url=node.url) == b"one\0\ntwo\n"
        found = objects("request", "s", "--stream", url=node.url)
        assert found == [
            {"service": "s", "instance": "program", "value": value} for value in ("one\0", "two")
        ]
        code, out, said = run("request", "s", "x", "--stream", url=node.url)
        assert (code, out) == (1, b"one\0two")
        assert said == "meshmq: 's' answered with an error, tired: enough\n"
        assert failed("request", "s", url=node.url) == (
            "'s' answers with a stream: ask with --stream"
        )


def test_a_command_gives_a_stream_of_one(node, serve):
    serve("s", "--exec", "cat; echo", "--name", "one")
    assert done("request", "s", "x", "--stream", url=node.url) == b"x\n"


def test_a_stream_whose_reader_is_gone_ends_it(node):
    ended = threading.Event()

    def flood(request):
        try:
            while True:
                yield bytes(100_000)
        finally:
            ended.set()

    with meshmq.connect(node.url) as mesh:
        mesh.serve("s", flood)
        asking = start("request", "s", "--stream", "--timeout", 50, url=node.url)
        assert asking.stdout.read(1) == b"\0"
        asking.stdout.close()
        with asking.stderr:
            assert (asking.wait(20), asking.stderr.read()) == (141, b"")
        assert ended.wait(20)


# -- listings -------------------------------------------------------------------------------------


def test_services(node, serve, tmp_path):
    assert done("services", url=node.url) == (
        b"no services: start one with `meshmq serve NAME --echo`, or mesh.serve in a program\n"
    )
    assert objects("services", url=node.url) == []
    go = tmp_path / "go"
    serve("a.b", "--echo", "--name", "one")
    serve("a.c", "--exec", f"while [ ! -e {go} ]; do sleep 0.05; done; exit 1",
          "--name", "two", "--concurrency", 2)  # fmt: skip
    done("request", "a.b", url=node.url)
    asking = [start("request", "a.c", "--timeout", 30, url=node.url) for _ in range(3)]
    with meshmq.connect(node.url) as mesh:
        wait_until(lambda: mesh.admin.services.list("a.c")[0]["waiting"] == 1)
    lines = done("services", url=node.url).decode().splitlines()
    assert [lines[0], lines[3]] == ["a.b: 1 request, 0 waiting", "a.c: 3 requests, 1 waiting"]
    heads = "instance node state in flight served failed p50 p99"
    assert lines[1].split() == lines[4].split() == heads.split()
    *row, p50, p99 = lines[2].split()
    assert row == ["one", "test", "serving", "0/1", "1", "0"]
    assert p50 == p99
    assert p50.endswith(("us", "ms"))
    assert lines[5].split() == ["two", "test", "serving", "2/2", "0", "0", "-", "-"]
    go.touch()
    for process in asking:
        _, said = process.communicate(timeout=20)
        sentence = b"meshmq: 'a.c' answered with an error, exit-1: exit status 1\n"
        assert (process.returncode, said) == (1, sentence)
    (service,) = objects("services", "*.c", url=node.url)
    assert (service["service"], service["node"], service["waiting"]) == ("a.c", "test", 0)
    (instance,) = service["instances"]
    assert (instance["served"], instance["failed"], instance["in_flight"]) == (3, 3, 0)
    assert done("services", "nope.>", url=node.url).startswith(b"no services match 'nope.>': ")


def test_both_clients_list_services(node):
    async def listed(pattern):
        async with meshmq.aio.connect(node.url) as mesh:
            return await mesh.admin.services.list(pattern)

    with meshmq.connect(node.url, name="program") as mesh:
        mesh.serve("a.b", lambda request: request.value, concurrency=3)
        for pattern in (">", "a.*"):
            (service,) = mesh.admin.services.list(pattern)
            assert service == asyncio.run(listed(pattern))[0]
        (instance,) = service.pop("instances")
        assert service == {"service": "a.b", "requests": 0, "waiting": 0, "expired": 0}
        assert instance == {
            "client": "program", "state": "serving", "concurrency": 3, "in_flight": 0,
            "served": 0, "failed": 0, "p50_us": None, "p99_us": None,
        }  # fmt: skip
        assert mesh.admin.services.list("b.>") == []
        with pytest.raises(meshmq.MeshError, match="not valid"):
            mesh.admin.services.list("a b")


def test_latencies_to_read():
    assert [took(us) for us in (None, 0, 999, 1000, 14_336, 999_499, 999_500, 3_210_000)] == [
        None, "0us", "999us", "1ms", "14.3ms", "999ms", "1s", "3.21s",
    ]  # fmt: skip


# -- mistakes -------------------------------------------------------------------------------------

MISTAKES = [
    (("request",), 2, "Missing argument 'SERVICE'"),
    (("request", "a b", "x"), 2, "token 'a b' is not valid"),
    (("request", "a.>", "x"), 2, "service name 'a.>': token '>' is not valid"),
    (("request", "a", "x", "y"), 2, "unexpected extra argument"),
    (("request", "a", "x", "--header", "novalue"), 2, "is not NAME=VALUE"),
    (("request", "a", "x", "--many", "--stream"), 2, "give either --many or --stream"),
    (("request", "a", "x", "--max-replies", "2"), 2, "--max-replies goes with --many"),
    (("request", "a", "x", "--many", "--max-replies", "0"), 2, "'--max-replies'"),
    (("request", "a", "x", "--many", "--idempotent"), 2, "only a request with one answer"),
    (("request", "a", "x", "--stream", "--idempotent"), 2, "only a request with one answer"),
    (("request", "a", "x", "--lines", "--json"), 2, "write lines anyway"),
    (("request", "a", "x", "--timeout", "0"), 2, "'--timeout'"),
    (("request", "a", "x", "--timeout", "86401"), 2, "'--timeout'"),
    (("request", "a", "x", "--timeout", "soon"), 2, "'--timeout'"),
    (("request", "a", "x", "--header", "a=" + "b" * 5000), 1, "4096"),
    (("serve", "a"), 2, "give either --echo or --exec CMD"),
    (("serve", "a", "--echo", "--exec", "cat"), 2, "give either --echo or --exec CMD"),
    (("serve", "a b", "--echo"), 2, "token 'a b' is not valid"),
    (("serve", "$a", "--echo"), 2, "begin with '$'"),
    (("serve", "a", "--echo", "--concurrency", "0"), 2, "'--concurrency'"),
    (("serve", "a", "--echo", "--concurrency", "1025"), 2, "'--concurrency'"),
    (("serve", "a", "--echo", "--name", ""), 2, "1 to 255 characters, not 0"),
    (("serve", "a", "--echo", "--name", "n" * 256), 2, "1 to 255 characters, not 256"),
    (("serve", "a", "--echo", "--url", "nonsense"), 1, "write it like tcp://127.0.0.1:5757"),
    (("services", "a..b"), 2, "token '' is not valid"),
]


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    from meshmq.testing import LocalNode

    with LocalNode(tmp_path_factory.mktemp("steady")) as running:
        yield running


@pytest.mark.parametrize(("command", "code", "sentence"), MISTAKES, ids=lambda v: str(v)[:50])
def test_a_mistake_ends_in_one_sentence(steady, command, code, sentence):
    assert sentence in failed(*command, url=steady.url, code=code)


@pytest.mark.parametrize("command", [("request", "a"), ("serve", "a", "--echo")], ids=" ".join)
def test_no_node_there(command, tmp_path):
    sentence = failed(*command, "--timeout", "0.2", url=f"ipc://{tmp_path}/nobody")
    assert f"start one with `meshmq node --listen ipc://{tmp_path}/nobody`" in sentence


def test_help_is_there():
    for command in ("request", "serve", "services"):
        out = done(command, "--help", url="tcp://127.0.0.1:1").decode()
        assert out.lstrip().startswith("Usage: meshmq")
    listed = done("--help", url="tcp://127.0.0.1:1").decode()
    assert all(f"│ {name} " in listed for name in ("request", "serve", "services"))
