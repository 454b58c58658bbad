"""Programs that are not told where their node is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

import meshmq
from meshmq import aio
from meshmq.client import connecting as client
from meshmq.client import seeking
from meshmq.frames import PROTOCOL_MAJOR, PROTOCOL_MINOR, PeerFacts
from meshmq.shell import discovery
from meshmq.shell.discovery import Mdns
from meshmq.shell.search import Search
from meshmq.testing import LocalNode

pytestmark = pytest.mark.xdist_group("mdns")


@pytest.fixture
def mesh():
    """Other tests, and other people, have meshes of their own."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _no_url(monkeypatch):
    monkeypatch.delenv("MESHMQ_URL", raising=False)


@pytest.fixture
def usual(monkeypatch):
    """A port that stands for the usual one, where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(client, "DEFAULT_URL", url)
    monkeypatch.setattr(seeking, "SEEK_S", 20.0)  # a busy machine is no reason to fail
    return url


@pytest.fixture
def in_vain(usual, monkeypatch):
    """The same, for who is not to find anybody."""
    monkeypatch.setattr(seeking, "SEEK_S", 2.0)
    return usual


class Node:
    """A node that tells of itself, in a process."""

    def __init__(self, data, mesh, *arguments, listen="tcp://127.0.0.1:0"):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meshmq", "node", "--listen", listen,
             "--mesh", mesh, "--data", data, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert " ready at " in line, line + self.process.stderr.read()
        self.url = line.split(" ready at ")[1].split(",")[0]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.communicate(timeout=20)


@pytest.fixture
def start(tmp_path, mesh):
    started = []

    def make(*arguments, **options):
        started.append(Node(tmp_path / str(len(started)), mesh, *arguments, **options))
        return started[-1]

    yield make
    for node in started:
        node.stop()


def run(*arguments, mesh=None):
    environment = {k: v for k, v in os.environ.items() if k != "MESHMQ_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "meshmq", *map(str, arguments), *(["--mesh", mesh] if mesh else [])],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=50,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_node_is_found_by_mdns(start, mesh, usual):
    node = start()
    states = []
    with meshmq.connect(
        mesh=mesh, route="node", on_state=lambda change: states.append(change.state)
    ) as found:
        assert found.publish("a", b"x").wait(5).offset == 0
        assert found._connection.url == node.url
    assert states[0] == "connected", "what was tried before is nobody's business"


@pytest.mark.parametrize("listen", ["tcp://[::1]:0", "ipc://{}", "tcp://localhost:0"])
def test_a_node_is_found_wherever_it_listens(start, mesh, usual, tmp_path, listen):
    node = start(listen=listen.format(tmp_path / "a socket"))
    with meshmq.connect(mesh=mesh, route="node") as found:
        assert found._connection.url == node.url


def test_asyncio_finds_it_too(start, mesh, usual):
    node = start()

    async def main():
        async with aio.connect(mesh=mesh, route="node") as found:
            assert (await (await found.publish("a", b"x")).wait(5)).offset == 0
            return found._connection.url

    assert asyncio.run(main()) == node.url


def test_a_node_at_the_usual_address_is_taken_at_once(tmp_path, mesh, usual):
    with LocalNode(tmp_path / "data", mesh=mesh) as node:
        client.DEFAULT_URL = node.url
        before = {thread.name for thread in threading.enumerate()}
        with meshmq.connect(mesh=mesh, route="node") as found:
            assert found._connection.url == node.url
            made = {thread.name for thread in threading.enumerate()} - before
        assert made == {"meshmq-io"}, "nobody looked around"


def test_a_node_of_another_mesh_at_the_usual_address_is_passed_over(start, tmp_path, mesh, usual):
    node = start()
    states = []
    with LocalNode(tmp_path / "data", mesh="other") as other:
        client.DEFAULT_URL = other.url
        with meshmq.connect(
            mesh=mesh, route="node", on_state=lambda c: states.append(c.state)
        ) as found:
            assert found._connection.url == node.url
    assert states[0] == "connected"


def test_a_node_of_another_mesh_and_no_other_is_said(tmp_path, mesh, in_vain):
    with LocalNode(tmp_path / "data", mesh="other") as other:
        client.DEFAULT_URL = other.url
        with pytest.raises(meshmq.MeshMismatch, match="'other'"):
            meshmq.connect(mesh=mesh, route="node")


def test_a_program_at_the_usual_port_that_is_no_node_is_passed_over(start, mesh, usual):
    node = start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        client.DEFAULT_URL = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with meshmq.connect(mesh=mesh, route="node") as found:
            assert found._connection.url == node.url


def test_a_node_that_does_not_tell_is_not_found(start, mesh, in_vain):
    start("--no-mdns")
    with pytest.raises(meshmq.NodeUnreachable) as failed:
        meshmq.connect(mesh=mesh, route="node")
    assert str(failed.value) == (
        f"no node answers at {in_vain}, and mDNS finds none of mesh {mesh!r}: start one with "
        f"`meshmq node`, say where it is with --url (connect(url=...), MESHMQ_URL), or ask "
        f"`meshmq doctor`"
    )


def test_asyncio_says_so_too_and_the_loop_goes_on(mesh, in_vain):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        with pytest.raises(meshmq.NodeUnreachable, match="mDNS finds none"):
            await aio.connect(mesh=mesh, route="node")
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) > 30


def test_a_short_timeout_is_kept(mesh, in_vain):
    seeking.SEEK_S = 3600.0  # it would not come to an end
    with pytest.raises(meshmq.NodeUnreachable):
        meshmq.connect(mesh=mesh, route="node", timeout=0.3)


def threads():
    return {t.name for t in threading.enumerate() if t.name.startswith("meshmq-")}


def ends(seconds=5.0):
    deadline = time.monotonic() + seconds
    while threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not threads()


def test_looking_in_vain_leaves_nothing_behind(mesh, in_vain):
    assert ends()
    with pytest.raises(meshmq.NodeUnreachable):
        meshmq.connect(mesh=mesh, route="node", timeout=0.5)
    assert ends()


def test_finding_one_leaves_nothing_behind_either(start, mesh, usual):
    start()
    with meshmq.connect(mesh=mesh, route="node"):
        deadline = time.monotonic() + 5
        while threads() != {"meshmq-io"} and time.monotonic() < deadline:
            time.sleep(0.02)
        assert threads() == {"meshmq-io"}
    assert ends()


def test_a_wait_that_is_cut_short_leaves_nothing_behind(mesh, usual):
    async def main():
        looking = asyncio.ensure_future(opened())
        await asyncio.sleep(0.5)
        assert "meshmq-search" in threads()
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking

    async def opened():
        return await aio.connect(mesh=mesh, route="node")

    asyncio.run(main())
    assert ends()


def test_a_wait_that_is_interrupted_leaves_nothing_behind(mesh, usual):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            meshmq.connect(mesh=mesh, route="node")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ends()


def test_an_address_that_is_given_is_the_only_one(start, mesh, usual):
    start()
    with pytest.raises(meshmq.NodeUnreachable) as failed:
        meshmq.connect(usual, mesh=mesh, timeout=1)
    assert "mDNS" not in str(failed.value)


def test_where_mdns_does_not_work_it_is_said(mesh, in_vain, monkeypatch):
    monkeypatch.setattr(discovery, "multicast_addresses", lambda everywhere: ["192.0.2.222"])
    with pytest.raises(meshmq.NodeUnreachable, match="mDNS does not work here"):
        meshmq.connect(mesh=mesh, route="node", timeout=1)


def test_a_node_that_hangs_is_not_taken(start, mesh, in_vain):
    hanging, other = start(), start()
    hanging.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        with meshmq.connect(mesh=mesh, route="node") as found:
            assert found._connection.url == other.url


def test_a_program_waits_for_a_node_that_is_just_starting(tmp_path, mesh, usual):
    mdns = Mdns(mesh, False, lambda: None, browse=False)
    mdns.start()
    with LocalNode(tmp_path / "data", mesh=mesh) as node:
        facts = PeerFacts(b"n" * 16, "node", mesh, "late", addresses=(node.url,))
        telling = threading.Timer(0.7, mdns.advertise, [facts])
        telling.start()
        try:
            with meshmq.connect(mesh=mesh, route="node", timeout=5) as found:
                assert found._connection.url == node.url
        finally:
            telling.join()
            mdns.close()


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.alone  # it has two seconds to find somebody
def test_commands_need_no_address(start, mesh):
    start()
    code, out, said = run("pub", "a", "x", mesh=mesh)
    assert (code, out, said) == (0, "published to a at offset 0, synced\n", "")


@pytest.mark.slow
@pytest.mark.alone  # it has two seconds to find somebody
def test_peers_lists_who_is_found(start, mesh):
    node = start("--name", "here")
    code, out, _ = run("peers", mesh=mesh)
    assert code == 0
    heads, row = out.splitlines()
    assert heads.split() == ["name", "kind", "state", "found", "by", "protocol", "addresses"]
    assert row.split()[:4] == ["here", "node", "answers", "mdns"]
    assert row.split()[-1] == node.url
    code, out, _ = run("peers", "--json", mesh=mesh)
    (found,) = map(json.loads, out.splitlines())
    assert found["kind"] == "node"
    assert found["sources"] == ["mdns"]
    assert found["addresses"] == [node.url]
    assert len(found["instance"]) == 32


def test_peers_says_what_became_of_a_node_that_hangs(start, mesh):
    node = start("--name", "here")
    node.process.send_signal(signal.SIGSTOP)
    code, out, _ = run("peers", "--json", "--url", node.url, mesh=mesh)
    assert code == 0
    (found,) = map(json.loads, out.splitlines())
    assert (found["sources"], found["addresses"]) == (["peers"], [node.url])
    assert found["state"] in ("no answer yet", "silent")


@pytest.mark.slow
@pytest.mark.alone  # it has two seconds to find somebody
def test_peers_lists_programs(mesh):
    mdns = Mdns(mesh, False, lambda: None, browse=False)
    mdns.advertise(PeerFacts(b"p" * 16, "client", mesh, "prog", addresses=("tcp://127.0.0.1:9",)))
    mdns.start()
    try:
        code, out, _ = run("peers", mesh=mesh)
    finally:
        mdns.close()
    assert code == 0
    assert out.splitlines()[1].split() == [
        "prog", "client", "found", "mdns", f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
        "tcp://127.0.0.1:9",
    ]  # fmt: skip


def test_peers_of_nobody(mesh):
    code, out, _ = run("peers", mesh=mesh)
    assert code == 0
    assert out == (
        f"nobody of mesh {mesh} is found from here: `meshmq doctor` says what was tried\n"
    )
    assert run("peers", "--json", mesh=mesh)[:2] == (0, "")


@pytest.mark.parametrize("command", ["peers", "doctor"])
def test_a_wrong_mesh_or_address_is_said(command):
    code, _, said = run(command, mesh="no mesh")
    assert (code, said.count("\n")) == (2, 1)
    code, _, said = run(command, "--url", "nonsense")
    assert (code, said.count("\n")) == (1, 1)
    code, _, said = run(command, "--url", "tcp://192.0.2.1:1")
    assert code == 1
    assert "--insecure" in said


@pytest.mark.slow
@pytest.mark.alone  # it has two seconds to find somebody
def test_status_tells_of_mdns(start, mesh):
    node = start()
    with meshmq.connect(node.url, mesh=mesh) as found:
        deadline = time.monotonic() + 5
        while found.admin.status()["mdns"]["state"] == "starting":
            assert time.monotonic() < deadline
        report = found.admin.status()
    assert report["mdns"]["state"] == "on"
    assert report["mdns"]["addresses"] == ["127.0.0.1"]
    assert abs(report["wall_time"] - time.time()) < 5


def test_a_node_says_goodbye(start, mesh):
    node = start()
    search = Search(mesh, False)
    search.start()
    try:
        assert search.first(5) == node.url
        node.stop()
        deadline = time.monotonic() + 2
        while not search.counters().get("lost"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        search.close()


def test_mdns_is_switched_off_by_a_file_too(tmp_path, mesh, start):
    settings = tmp_path / "node.toml"
    settings.write_text("mdns = false\n")
    node = start("--config", settings)
    with meshmq.connect(node.url, mesh=mesh) as found:
        assert found.admin.status()["mdns"] == {"state": "off"}
