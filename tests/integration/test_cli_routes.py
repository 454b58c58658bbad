"""Commands with a node, with none, and directly; and what ``meshmq peers --routes`` tells."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid

import pytest

import meshmq
from meshmq import aio
from tests.integration.test_cli import run, start, the_sentence


@pytest.fixture
def mesh():
    """The name of a mesh that nobody else is in."""
    return f"t{uuid.uuid4().hex[:12]}"


def test_two_terminals_without_a_node(mesh):
    reader = start("sub", "chat.>", "--count", 3, "--mesh", mesh)
    assert "without a node" in reader.stderr.readline().decode()
    code, out, said = run("pub", "chat.x", "hi", "--mesh", mesh)
    assert (code, out, said) == (0, "published to chat.x, sent directly\n", "")
    code, out, said = run(
        "pub", "chat.y", "--lines", "-", "--json", "--mesh", mesh, given=b"a\nb\n"
    )
    assert (code, "reached nobody" in said) == (0, False)
    assert {name: json.loads(out)[name] for name in ("confirmed", "unheard")} == {
        "confirmed": 2, "unheard": 0
    }  # fmt: skip
    assert reader.communicate(timeout=20)[0] == b"chat.x hi\nchat.y a\nchat.y b\n"


def test_what_reached_nobody_is_told_and_no_failure(mesh):
    code, out, said = run("pub", "chat.x", "hi", "--mesh", mesh)
    assert (code, out) == (0, "")
    assert the_sentence(said) == (
        "nobody listens to chat.x, and it is not kept: 1 record reached nobody"
    )
    code, out, said = run("pub", "chat.x", "--lines", "-", "--mesh", mesh, given=b"a\nb\n")
    assert (code, out) == (0, "")
    assert "nobody listens to chat.x, and it is not kept: 2 records reached nobody\n" in said


def test_a_service_without_a_node(mesh):
    server = start("serve", "hello", "--echo", "--mesh", mesh)
    assert b"without a node" in server.stderr.readline()
    assert b"serving 'hello'" in server.stderr.readline()
    code, out, said = run("request", "hello", "hi", "--mesh", mesh)
    assert (code, out.strip(), said) == (0, "hi", "")
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=20)


@pytest.mark.parametrize(
    "command",
    [
        ("topic", "list"),
        ("group", "list"),
        ("queue", "list"),
        ("queue", "put", "q", "x"),
        ("dlq", "list", "q"),
        ("consume", "a", "--group", "g", "--timeout", "0.5"),
        ("status", "--timeout", "0.5"),
        ("services",),
        ("peers", "--routes"),
    ],
    ids=" ".join,
)
def test_what_needs_a_node_says_so(mesh, command):
    code, out, said = run(*command, "--mesh", mesh)
    assert (code, out) == (1, "")
    assert the_sentence(said).startswith("no node answers at tcp://127.0.0.1:5757")
    assert "start one with `meshmq node`" in said


def until_direct(publisher, topic):
    """Publish until the other one has it directly."""
    for _ in range(200):
        receipt = publisher.publish(topic, b"x").wait(5)
        if receipt.route == "both":
            return
    raise AssertionError(receipt.route)


def test_peers_routes(node):
    with (
        node.connect(name="ann") as ann,
        node.connect(name="bob") as bob,
        node.connect(name="eve", route="node") as eve,
    ):
        ann.admin.topics.create("chat.>", durability="transient")
        with bob.subscribe("chat.>"), eve.subscribe("chat.>"):
            until_direct(ann, "chat.x")
            code, out, said = run("peers", "--routes", "--url", node.url)
            assert (code, said) == (0, "")
            rows = [line.split() for line in out.splitlines()]
            assert rows == [
                ["from", "to", "route", "introduced", "for"],
                ["ann", "bob", "direct", "chat.>"],
                ["bob", "ann", "direct", "chat.>"],
                ["eve", "all", "others", "node", "-"],
            ]
            code, out, _ = run("peers", "--routes", "--json", "--url", node.url)
            first = json.loads(out.splitlines()[0])
            assert (first["from"], first["to"], first["route"]) == ("ann", "bob", "direct")
            assert first["patterns"] == ["chat.>"]
            assert first["node"] == eve.admin.status()["node"]["name"]


def test_peers_routes_asks_a_node():
    code, _, said = run("peers", "--routes", "--peer", "tcp://127.0.0.1:7001")
    assert code == 2
    assert "the node" in said


def test_peers_routes_of_nobody(node):
    code, out, said = run("peers", "--routes", "--url", node.url)
    assert (code, out, said) == (0, f"no programs are at node {name_of(node)}\n", "")


def name_of(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return mesh.admin.status()["node"]["name"]


def test_asyncio_lists_routes_too(node):
    async def main():
        async with (
            aio.connect(node.url, name="ann", route="node"),
            aio.connect(node.url, name="bob", route="node") as bob,
        ):
            return await bob.admin.routes()

    (row,) = asyncio.run(main())
    assert (row["from"], row["to"], row["route"]) == ("ann", None, "node")
