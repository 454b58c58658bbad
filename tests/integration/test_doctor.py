"""The doctor: each thing that may be wrong is made wrong, and it says what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

import meshmq
from meshmq import limits
from meshmq.cli import checks, checks_network, doctor
from meshmq.cli.findings import FAILURE, OK, WARNING
from meshmq.frames import PeerFacts
from meshmq.shell import clock, discovery, greeting, store_files
from meshmq.shell.discovery import Mdns
from meshmq.shell.interfaces import Interface, interfaces
from meshmq.testing import LocalNode

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None,
    reason="needs root, unshare and ip",
)


@pytest.fixture
def mesh():
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No address is given, nobody is at the usual port, and it need not listen for long."""
    monkeypatch.delenv("MESHMQ_URL", raising=False)
    monkeypatch.setattr(doctor, "DEFAULT_URL", f"tcp://127.0.0.1:{free_port()}")


@pytest.fixture
def node(tmp_path, mesh):
    with LocalNode(tmp_path / "node", mesh=mesh, name="here") as running:
        yield running


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def examine(tmp_path, mesh, url=None, insecure=False):
    """All findings by their names."""
    found = list(doctor._findings(url, mesh, insecure, tmp_path / "log"))
    assert all(f.tried and f.seen for f in found)
    assert all(bool(f.remedy) == (f.level != OK) for f in found), "what is wrong has a remedy"
    assert len({f.check for f in found}) == len(found)
    return {f.check: f for f in found}


def run(*arguments, **options):
    environment = {k: v for k, v in os.environ.items() if k != "MESHMQ_URL"}
    done = subprocess.run(
        [*options.get("within", ()), sys.executable, "-m", "meshmq", "doctor",
         *map(str, arguments)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=50,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


# -- as a whole ---------------------------------------------------------------------------------


def test_all_is_well(node, tmp_path, mesh):
    found = examine(tmp_path, mesh, node.url)
    assert {f.level for f in found.values()} == {OK}, found
    assert found[f"dial {node.url}"].seen.startswith("node here, protocol 1.")
    assert found[f"clock {node.url}"].seen == "they agree within 0.1 s"
    assert found["interface lo"].seen == "mDNS works, from 127.0.0.1"
    assert {"python", "pyzmq", "libzmq", "sqlite", "data room", "data access", "mdns"} <= set(found)


def test_the_command(node, tmp_path, mesh):
    arguments = ("--mesh", mesh, "--data", tmp_path / "log")
    code, out, said = run(*arguments, "--url", node.url)
    assert (code, said) == (0, "")
    assert out.splitlines()[0].startswith("ok       python: CPython 3.")
    assert out.splitlines()[-1] in ("all is well", "nothing failed, 1 warning")
    code, out, said = run(*arguments, "--json", "--url", f"tcp://127.0.0.1:{free_port()}")
    assert (code, said) == (1, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(list(row) == ["check", "level", "tried", "seen", "remedy"] for row in rows)
    assert [row["level"] for row in rows].count("failure") == 1


def test_a_failure_is_told_in_words(tmp_path, mesh):
    url = f"tcp://127.0.0.1:{free_port()}"
    code, out, _ = run("--mesh", mesh, "--data", tmp_path / "log", "--url", url)
    assert code == 1
    assert (
        f"failure  dial {url}: nobody listens there\n"
        f"         tried:  a node of mesh {mesh} answers at {url}\n"
        f"         to do:  start a node there (meshmq node --listen URL), or correct the address\n"
    ) in out
    assert out.splitlines()[-1].startswith("1 check failed")


def test_it_changes_nothing(tmp_path, mesh):
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log" / "FORMAT").write_text("meshmq log 1\n")
    examine(tmp_path, mesh)
    assert [p.name for p in (tmp_path / "log").iterdir()] == ["FORMAT"]


# -- this host ------------------------------------------------------------------------------------


def test_versions_that_are_too_old():
    assert checks.check_python((3, 10, 12)).level == FAILURE
    assert checks.check_python((3, 11, 0)).level == OK
    assert checks.check_libzmq((4, 3, 2)).level == FAILURE
    assert checks.check_libzmq((4, 3, 5)).level == OK
    assert checks.check_sqlite((3, 34, 1)).level == FAILURE
    assert checks.check_sqlite((3, 40, 1)).level == OK


@pytest.mark.parametrize(
    ("requirement", "level"),
    [
        ("pyzmq>=26.2", OK),
        ("pyzmq<28,>=26.2", OK),
        ("pyzmq>=999", FAILURE),
        ("pyzmq<26", FAILURE),
        ("meshmq-no-such-library>=1", FAILURE),
    ],
)
def test_libraries_of_the_wrong_version(requirement, level):
    found = checks.check_package(requirement)
    assert found.level == level
    assert level == OK or found.remedy == f"run 'pip install {requirement!r}'"


def levels(directory):
    return {f.check: f.level for f in checks.check_data(directory)}


def test_a_directory_that_is_there_is_tried(tmp_path):
    found = {f.check: f for f in checks.check_data(tmp_path)}
    assert found["data sync"].seen.startswith("a sync takes ")
    assert {f.level for f in found.values()} <= {OK, WARNING}


def test_a_directory_that_others_may_enter(tmp_path):
    (tmp_path / "mine").write_text("")
    tmp_path.chmod(0o755)
    (found,) = [f for f in checks.check_data(tmp_path) if f.level == FAILURE]
    assert (found.check, found.remedy) == ("data access", f"run 'chmod 700 {tmp_path}'")


def test_a_file_where_a_directory_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    assert levels(tmp_path / "file")["data access"] == FAILURE


def test_a_directory_that_cannot_be_written(tmp_path):
    if os.geteuid() == 0:
        place = Path("/proc/sys")  # not even root may write there
    else:
        place = tmp_path
        place.chmod(0o500)
    found = checks.check_access(place / "log", place)
    tmp_path.chmod(0o700)
    assert found.level == FAILURE
    assert "cannot be written" in found.seen


@pytest.mark.parametrize(
    ("kind", "level"), [("nfs4", FAILURE), ("fuse.sshfs", FAILURE), ("tmpfs", WARNING)]
)
def test_file_systems_that_keep_no_log(tmp_path, monkeypatch, kind, level):
    monkeypatch.setattr(store_files, "file_system", lambda place: kind)
    assert levels(tmp_path)["data file system"] == level


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory to write to as to a disk")
def test_a_log_in_memory():
    found = checks.check_file_system(Path("/dev/shm/log"), Path("/dev/shm"))
    assert found.level == WARNING
    assert "when the system restarts" in found.remedy


@pytest.mark.root
@needs_root
def test_a_disk_that_is_full(tmp_path, mesh):
    mount = f'mount -t tmpfs -o size=8m none {tmp_path} && exec "$@"'
    code, out, said = run(
        "--mesh", mesh, "--data", tmp_path / "log", "--json",
        within=["unshare", "-m", "--propagation", "slave", "sh", "-c", mount, "sh"],
    )  # fmt: skip
    rows = {row["check"]: row for row in map(json.loads, out.splitlines())}
    assert code == 1, said
    assert rows["data room"]["level"] == "failure"
    assert rows["data room"]["seen"].startswith("8 MiB free")


def test_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SEGMENT_BYTES_MAX", 1 << 60)
    assert levels(tmp_path)["data room"] == WARNING


def test_a_disk_that_is_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "SLOW_SYNC_S", 0.0)
    assert levels(tmp_path)["data sync"] == WARNING


def test_a_disk_that_fails(tmp_path, monkeypatch):
    def fails(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    assert levels(tmp_path)["data sync"] == FAILURE


# -- mDNS -----------------------------------------------------------------------------------------


def test_interfaces_that_are_not_used_are_named(tmp_path, mesh):
    found = examine(tmp_path, mesh)
    others = [i.name for i in interfaces() if not i.is_loopback]
    for name in others:
        assert found[f"interface {name}"].seen == "not used: that needs --insecure"
    local = {f.check: f for f in checks_network.check_interfaces("local", True)}
    for name in others:
        assert local[f"interface {name}"].seen == "not used: mesh local stays on this host"
    everywhere = {f.check: f for f in checks_network.check_interfaces(mesh, True)}
    assert all("not used" not in f.seen for f in everywhere.values())


@pytest.mark.parametrize(
    ("interface", "seen"),
    [
        (Interface("eth9", ("192.0.2.1",), False, False, True), "the interface is down"),
        (Interface("eth9", ("fd00::1",), True, False, True), "no IPv4 address"),
        (Interface("wg0", ("192.0.2.1",), True, False, False), "does not take multicast"),
        (Interface("eth9", ("192.0.2.222",), True, False, True), "cannot send a question"),
    ],
)
def test_interfaces_where_mdns_does_not_work(interface, seen):
    found = checks_network.check_interface(interface)
    assert found.level == WARNING
    assert seen in found.seen


HOG = (
    "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    's.bind(("", 5353)); time.sleep(20)'
)
UP = "ip link set lo up; "
DROP = "tc qdisc add dev lo root pfifo limit 0 || exit 77"  # as a firewall that drops


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    ("commands", "seen"),
    [
        ("", "the interface is down"),
        (f"{UP}{sys.executable} -c '{HOG}' & sleep 1", "another program has UDP port 5353"),
        (f"{UP}{DROP}", "a question by mDNS does not come back"),
    ],
)
def test_a_host_where_mdns_cannot_work(tmp_path, mesh, commands, seen):
    code, out, said = run(
        "--mesh", mesh, "--data", tmp_path / "log", "--json",
        within=["unshare", "-n", "sh", "-c", f'{commands}\n"$@"', "sh"],
    )  # fmt: skip
    if code == 77:
        pytest.skip(f"no tc here: {said}")
    rows = {row["check"]: row for row in map(json.loads, out.splitlines())}
    assert code == 1, out + said
    assert seen in rows["interface lo"]["seen"]
    assert rows["interface lo"]["level"] == "failure"


def test_that_mdns_failed_is_a_failure(tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(discovery, "multicast_addresses", lambda everywhere: ["192.0.2.222"])
    found = examine(tmp_path, mesh)
    assert found["mdns"].level == FAILURE
    assert found["mdns"].seen == "the interface is down or gone"


def told(mesh, *addresses, kind="node", **other):
    mdns = Mdns(mesh, False, lambda: None, browse=False)
    mdns.advertise(PeerFacts(os.urandom(16), kind, mesh, addresses=addresses, **other))
    mdns.start()
    return mdns


def test_who_is_found_is_counted_and_dialled(node, tmp_path, mesh):
    made = [
        told(mesh, node.url),
        told(mesh, f"tcp://127.0.0.1:{free_port()}"),
        told(mesh, "tcp://127.0.0.1:9", kind="client"),
        told("test-other", "tcp://127.0.0.1:9"),
    ]
    try:
        found = examine(tmp_path, mesh)
    finally:
        for mdns in made:
            mdns.close()
    assert found["mdns"].seen in ("2 nodes and 1 client", "3 nodes and 1 client")
    assert found[f"dial {node.url}"].level == OK
    dials = [f for check, f in found.items() if check.startswith("dial ")]
    assert sorted(f.level for f in dials) == [OK, WARNING], "another answers: no failure"
    assert "node" not in found
    assert found["other meshes"].level == OK


def test_absurd_records_are_told(node, tmp_path, mesh):
    made = told(mesh, "tcp://192.0.2.1:1")
    try:
        found = examine(tmp_path, mesh, node.url)
    finally:
        made.close()
    assert found["records"].level == WARNING
    assert found["records"].seen == "ignored: not-local 1"


# -- dials ----------------------------------------------------------------------------------------


def test_nobody_at_all(tmp_path, mesh):
    found = examine(tmp_path, mesh)
    assert found["node"].level == WARNING
    assert "`meshmq node`" in found["node"].remedy
    assert not any(check.startswith("dial ") for check in found)


class Other:
    """A program at a port that is no node."""

    def __init__(self, says=b""):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._says = says
        self._links = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        try:
            while True:
                link, _ = self._listener.accept()
                self._links.append(link)
                if self._says:
                    link.sendall(self._says)
        except OSError:
            return

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()


@pytest.mark.parametrize(
    ("says", "seen"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "the port is taken by a program that is no node"),
        (b"", "somebody takes the connection and says nothing"),
    ],
)
def test_the_usual_port_is_taken_by_something_else(tmp_path, mesh, monkeypatch, says, seen):
    with Other(says) as other:
        monkeypatch.setattr(doctor, "DEFAULT_URL", other.url)
        found = examine(tmp_path, mesh)
    assert found[f"dial {other.url}"].level == FAILURE
    assert found[f"dial {other.url}"].seen.startswith(seen)
    assert "--listen" in found[f"dial {other.url}"].remedy


def test_mesh_names_that_are_apart(node, tmp_path, mesh):
    found = examine(tmp_path, "test-mine", node.url)
    assert found[f"dial {node.url}"].level == FAILURE
    assert mesh in found[f"dial {node.url}"].seen
    assert "--mesh" in found[f"dial {node.url}"].remedy


def test_a_node_that_drains_answers(node, tmp_path, mesh):
    with meshmq.connect(node.url, mesh=mesh, admin=True) as connection:
        connection.admin.drain(timeout=10.0, stay=True, force=True)
    found = examine(tmp_path, mesh, node.url)
    assert found[f"dial {node.url}"].level == OK
    assert found[f"clock {node.url}"].level == OK


def test_versions_that_are_apart(node, tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(greeting, "PROTOCOL_MAJOR", 99)
    found = examine(tmp_path, mesh, node.url)
    assert found[f"dial {node.url}"].level == FAILURE
    assert found[f"dial {node.url}"].seen.startswith("the node speaks another version")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("tcp://no-such-host.invalid:5757", "nobody knows that name"),
        ("ipc:///no/such/path", "nobody listens there"),
    ],
)
def test_addresses_that_lead_nowhere(tmp_path, mesh, url, seen):
    found = examine(tmp_path, mesh, url, insecure=True)
    assert found[f"dial {url}"].level == FAILURE
    assert found[f"dial {url}"].seen.startswith(seen)


VETH = (
    f"{UP}ip link add eth9 type veth peer name eth8; ip link set eth8 up; ip link set eth9 up; "
    "ip addr add 192.0.2.1/24 dev eth9; ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth9"
)


@pytest.mark.root
@needs_root
def test_a_host_that_drops_what_is_sent(tmp_path):
    """A cable that leads into nothing: as with a firewall that drops."""
    code, out, said = run(
        "--mesh", "lab", "--insecure", "--data", tmp_path / "log", "--json",
        "--url", "tcp://192.0.2.9:5757",
        within=["unshare", "-n", "sh", "-c", f'{VETH}\n"$@"', "sh"],
    )  # fmt: skip
    rows = {row["check"]: row for row in map(json.loads, out.splitlines())}
    assert code == 1, said
    assert rows["dial tcp://192.0.2.9:5757"]["seen"] == "no connection within 2 s"
    assert rows["interface eth9"]["seen"] == "mDNS works, from 192.0.2.1"


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (PermissionError(1, "Operation not permitted"), "the system forbids"),
        (OSError(101, "Network is unreachable"), "the system cannot send"),
    ],
)
def test_what_the_system_says_is_put_in_words(monkeypatch, error, seen):
    def fails(address, timeout=0.5):
        raise error

    monkeypatch.setattr("meshmq.shell.interfaces._join", lambda ear, address: fails(address))
    found = checks_network.check_interface(Interface("lo", ("127.0.0.1",), True, True, False))
    assert found.level == FAILURE
    assert found.seen.startswith(seen)
    assert error.strerror in found.seen


def test_clocks_that_are_apart(node, tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(clock, "wall_ns", lambda: time.time_ns() + 3600 * limits.SECOND)
    found = examine(tmp_path, mesh, node.url)[f"clock {node.url}"]
    assert (found.level, found.seen) == (WARNING, "they are 3600.0 s apart")
    assert "NTP" in found.remedy
