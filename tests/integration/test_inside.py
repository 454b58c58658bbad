"""Programs of one process are linked by inproc, wherever they listen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import meshmq
from meshmq import limits
from tests.integration.linked import take, until

ESTABLISHED = "01"
is_linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="it is asked of /proc")


def pair(programs, listen="tcp://127.0.0.1:*"):
    a = programs(listen=listen, name="a")
    return a, programs(peers=list(a.addresses), name="b")


def connections(address):
    """How many there are by tcp to who listens at ``address``."""
    port = f":{int(address.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] == ESTABLISHED for row in rows)


@is_linux
def test_no_connection_is_made():
    with meshmq.connect(listen="tcp://127.0.0.1:*") as a:
        with meshmq.connect(peers=list(a.addresses)) as b:
            assert len(b.peers()) == 1
            assert connections(a.addresses[0]) == 0
        named = a.addresses[0].replace("127.0.0.1", "localhost")
        with meshmq.connect(peers=[named]) as b:
            assert len(b.peers()) == 1
            assert connections(a.addresses[0]) == 1, "a name is not what it listens at"


def test_records_requests_and_pushes(programs):
    a, b = pair(programs)
    subs = [a.subscribe("x"), b.subscribe("x")]
    a.serve("up", lambda request: request.value.upper())
    assert b.request("up", b"hi", timeout=5).value == b"HI"
    a.publish("x", b"a").wait(5)
    b.publish("x", b"b").wait(5)
    for sub in subs:
        assert sorted(m.value for m in take(sub, 2)) == [b"a", b"b"]
    with a.pull("jobs") as work:
        b.push("jobs", b"1").wait(5)
        assert take(work, 1)[0].value == b"1"


@pytest.mark.parametrize(("size", "count"), [(8, 100_000), (limits.VALUE_BYTES_MAX, 60)])
def test_a_flood_loses_nothing_and_keeps_its_order(programs, size, count):
    a, b = pair(programs)
    sub = a.subscribe("x")
    got = []
    thread = threading.Thread(target=lambda: got.extend(m.value[:8] for m in take(sub, count)))
    thread.start()
    for i in range(count):
        b.publish("x", b"%8d" % i + bytes(size - 8))
    b.flush(20)
    thread.join(20)
    assert got == [b"%8d" % i for i in range(count)]
    assert sub.missed == 0


def test_by_ipc_too(programs, tmp_path):
    a, b = pair(programs, [f"ipc://{tmp_path}/a", "tcp://127.0.0.1:*"])
    assert [len(p.peers()) for p in (a, b)] == [1, 1]


def test_who_ends_is_noticed_at_once_and_who_comes_back_is_found(programs):
    a = meshmq.connect(listen="tcp://127.0.0.1:*", name="a")
    address = a.addresses[0]
    b = programs(peers=[address], name="b")
    begin = time.monotonic()
    a.close()
    until(lambda: not b.peers())
    silent_ns = limits.LINK_SILENT_NS - limits.PING_INTERVAL_NS  # of who goes without a word
    assert time.monotonic() - begin < silent_ns / limits.SECOND
    a = programs(listen=address, name="a")
    until(lambda: a.peers() and b.peers())
    sub = a.subscribe("x")
    b.publish("x", b"1").wait(5)
    assert take(sub, 1)[0].value == b"1"


FORKED = """
import os
import meshmq

a = meshmq.connect(listen="tcp://127.0.0.1:*", name="parent")
a.serve("up", lambda request: request.value.upper())
b = meshmq.connect(peers=list(a.addresses))
assert b.request("up", b"hi", timeout=5).value == b"HI"
child = os.fork()
if not child:
    try:
        b.request("up", b"hi", timeout=1)
        os._exit(1)
    except meshmq.ForkedError:
        pass
    c = meshmq.connect(listen="tcp://127.0.0.1:*", peers=list(a.addresses), name="child")
    if c.request("up", b"hi", timeout=5).value != b"HI":
        os._exit(2)
    d = meshmq.connect(peers=list(c.addresses))
    c.serve("down", lambda request: request.value.lower())
    if d.request("down", b"HI", timeout=5).value != b"hi":
        os._exit(3)
    d.close()
    c.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert b.request("up", b"hi", timeout=5).value == b"HI"
b.close()
a.close()
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_a_child_has_none_of_its_parents_sockets():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, timeout=50)
    assert (done.stdout, done.returncode) == (b"0\n", 0), done.stderr.decode()


def test_ending_the_process_without_closing_waits_for_nothing():
    program = """if True:
        import meshmq
        a = meshmq.connect(listen="tcp://127.0.0.1:*")
        b = meshmq.connect(peers=list(a.addresses))
        a.subscribe("x")
        b.publish("x", b"1")
    """
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - begin < 10
