"""Commands that do without a node, against each other."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import meshmq


def start(*arguments, url=None):
    environment = {k: v for k, v in os.environ.items() if k != "MESHMQ_URL"}
    if url:
        environment["MESHMQ_URL"] = url
    return subprocess.Popen(
        [sys.executable, "-m", "meshmq", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


def run(*arguments, url=None):
    """Exit code, stdout and stderr of a command."""
    process = start(*arguments, url=url)
    out, said = process.communicate(timeout=50)
    assert "Traceback" not in said
    return process.returncode, out, said


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def lasting():
    """Starts a command that lasts; its process and its address."""
    processes = []

    def begin(*arguments, **options):
        process = start(*arguments, **options)
        processes.append(process)
        lines = []
        while True:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
            found = re.fullmatch(r"meshmq: without a node: .* by --peer (tcp://\S+)\n", lines[-1])
            if found:
                return process, found[1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_two_terminals_without_a_node(lasting):
    reader, address = lasting("sub", "hello.>", "--listen", "tcp://127.0.0.1:*", "--count", 2)
    code, out, said = run("pub", "hello.world", "hi there", "--key", "k", "--peer", address)
    assert (code, out, said) == (0, "published to hello.world, sent directly\n", "")
    code, out, said = run("pub", "hello.you", "x", "--peer", address, "--json")
    assert (code, said) == (0, "")
    assert json.loads(out) == {
        "topic": "hello.you", "stream": None, "offset": None, "durability": "sent",
        "route": "direct", "duplicate": False,
    }  # fmt: skip
    out, _ = reader.communicate(timeout=20)
    assert out.splitlines() == ["hello.world [k] hi there", "hello.you x"]
    assert reader.returncode == 0


def test_a_reader_that_dials_gets_what_a_program_publishes(lasting):
    with meshmq.connect(listen="tcp://127.0.0.1:*", name="shop") as shop:
        reader, _ = lasting("sub", "x", "--peer", shop.addresses[0], "--count", 1, "--json")
        shop.publish("x", b"1").wait(5)
        out, _ = reader.communicate(timeout=20)
    message = json.loads(out)
    assert (message["value"], message["offset"], message["position"]) == ("1", None, None)


def test_lines(lasting, tmp_path):
    reader, address = lasting(
        "sub", "x", "--listen", "tcp://127.0.0.1:*", "--count", 1000, "--format", "raw"
    )
    text = "".join(f"{n}\n" for n in range(1000))
    (tmp_path / "lines").write_text(text)
    code, _, said = run("pub", "x", "--lines", tmp_path / "lines", "--peer", address)
    assert code == 0
    assert "published 1,000, confirmed 1,000" in said
    assert reader.communicate(timeout=20)[0] == text


def test_ask_and_answer(lasting):
    server, address = lasting("serve", "hello", "--echo", "--listen", "tcp://127.0.0.1:*")
    assert run("request", "hello", "hi", "--peer", address) == (0, "hi", "")
    code, out, said = run("request", "nobody", "hi", "--peer", address)
    assert (code, out) == (1, "")
    assert "nobody" in said
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=20)
    assert "1 request, 0 answered with an error" in said


def test_a_service_that_is_a_hop_away_is_asked(lasting):
    """By what the program in the middle tells of it."""
    _, address = lasting("sub", "x", "--listen", "tcp://127.0.0.1:*")
    lasting("serve", "hello", "--echo", "--peer", address)
    assert run("request", "hello", "hi", "--peer", address) == (0, "hi", "")


def test_who_is_there(lasting):
    _, address = lasting("serve", "a", "--echo", "--name", "a", "--listen", "tcp://127.0.0.1:*")
    lasting("serve", "b", "--echo", "--name", "b", "--peer", address)
    code, out, said = run("peers", "--peer", address, "--seconds", 1, "--json")
    assert (code, said) == (0, "")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert sorted(rows) == ["a", "b"]
    assert rows["a"]["addresses"] == [address]
    assert [rows[name]["sources"] for name in "ab"] == [["peers"], ["gossip"]]
    assert {row["state"] for row in rows.values()} == {"linked"}
    code, out, _ = run("peers", "--peer", address, "--seconds", 1)
    assert code == 0
    assert "linked" in out


def test_the_environment_has_a_node_and_the_command_does_without(lasting):
    _, address = lasting("serve", "hello", "--echo", "--listen", "tcp://127.0.0.1:*",
                         url="tcp://127.0.0.1:1")  # fmt: skip
    found = run("request", "hello", "hi", "--peer", address, url="tcp://127.0.0.1:1")
    assert found == (0, "hi", "")


def test_one_who_comes_later_is_told_of(lasting):
    address = free_address()
    process = start("sub", "x", "--peer", address, "--count", 1)
    try:
        assert process.stderr.readline() == f"meshmq: no program answers at {address} yet\n"
        process.stderr.readline()
        with meshmq.connect(listen=address, name="shop") as shop:
            assert process.stderr.readline() == "meshmq: linked with shop\n"
            while not shop.publish("x", b"1").wait(5) or process.poll() is None:
                pass
        assert process.stdout.read() == "x 1\n"
    finally:
        process.kill()
        process.communicate()


def the_sentence(said):
    assert said.startswith("meshmq: "), said
    assert said.count("\n") == 1, said
    return said.removeprefix("meshmq: ").rstrip()


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (("pub", "a", "x", "--peer", "nonsense"), 1, "write it like tcp://127.0.0.1:5757"),
        (("pub", "a", "x", "--peer", "tcp://192.0.2.1:1"), 1, "--insecure"),
        (("sub", "a", "--listen", "tcp://192.0.2.1:1"), 1, "refusing to bind"),
        (("pub", "a", "x", "--peer", "tcp://127.0.0.1:1", "--url", "tcp://127.0.0.1:2"), 2,
         "give --url for a node, or --peer to do without one"),
        (("serve", "a", "--echo", "--listen", "tcp://127.0.0.1:*", "--url", "tcp://127.0.0.1:2"), 2,
         "give --url for a node, or --listen to do without one"),
        (("sub", "a", "--listen", "tcp://127.0.0.1:*", "--from", "earliest"), 1,
         "reading what was published before needs a node"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_sentence(command, code, sentence):
    found, out, said = run(*command)
    assert (found, out) == (code, ""), said
    assert sentence in said.splitlines()[-1]


def test_nobody_there():
    address = free_address()
    code, out, said = run("pub", "a", "x", "--peer", address, "--timeout", "0.5")
    assert (code, out) == (1, "")
    assert f"`meshmq sub '>' --listen {address}`" in the_sentence(said)
    code, out, said = run("request", "a", "x", "--peer", address, "--timeout", "0.5", "--json")
    assert code == 1
    assert json.loads(out)["error"] == "node-unreachable"


def test_a_node_is_there(node):
    code, _, said = run("pub", "a", "x", "--peer", node.url, "--timeout", "0.5")
    assert code == 1
    assert f"say --url {node.url}" in the_sentence(said)


def test_another_mesh_is_there():
    with meshmq.connect(listen="tcp://127.0.0.1:*", mesh="lab") as mesh:
        address = mesh.addresses[0]
        code, _, said = run("pub", "a", "x", "--peer", address, "--timeout", "0.5")
        assert code == 1
        assert "this program belongs to mesh 'lab'" in the_sentence(said)
        assert run("pub", "a", "x", "--peer", address, "--mesh", "lab")[0] == 0
