"""A site of real nodes."""

from __future__ import annotations

import shutil
import signal
import threading
import time

import pytest

import meshmq
from tests.integration.sites import SiteProcess


def test_nodes_join_and_one_that_was_killed_comes_back(site):
    one, two, _ = site.nodes
    two.kill()
    site.wait_joined()
    assert one.siblings() == ["node-3"]
    two.start()
    site.wait_joined()
    assert one.siblings() == ["node-2", "node-3"]


def test_a_node_that_stands_still_is_missed_and_taken_back(site):
    one, two, three = site.nodes
    two.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while one.siblings() != ["node-3"] or three.siblings() != ["node-1"]:
        assert time.monotonic() < deadline
    two.signal(signal.SIGCONT)
    site.wait_joined()


def test_what_may_be_lost_goes_from_node_to_node(site):
    one, two, three = site.nodes
    with (
        meshmq.connect(one.url, route="node") as here,
        meshmq.connect(two.url, route="node") as there,
        meshmq.connect(three.url, route="node") as third,
    ):
        for mesh in (here, there, third):
            mesh.admin.topics.create("live.>", durability="transient")
        with there.subscribe("live.>") as sub, third.subscribe("live.eu") as other:
            here.publish_many("live.eu", [b"%d" % i for i in range(1000)])
            here.publish("live.us", b"x").wait(5)
            got = [m.value for m in (sub.fetch(2000, timeout=0.2) or []) if m.topic == "live.eu"]
            while len(got) < 1000:
                more = sub.fetch(2000, timeout=5)
                assert more
                got += [m.value for m in more if m.topic == "live.eu"]
            assert got == [b"%d" % i for i in range(1000)]
            seen = []
            while len(seen) < 1000:
                more = other.fetch(2000, timeout=5)
                assert more
                seen += [m.value for m in more]
            assert seen == got


def test_a_copied_data_directory_is_refused_in_words_on_both_sides(site, tmp_path):
    one, two, _ = site.nodes
    two.kill()
    shutil.copytree(two.data, tmp_path / "copy")
    two.start()
    site.wait_joined()
    copy = SiteProcess(tmp_path / "copy", "copy", (one.nodes_url, two.nodes_url))
    try:
        deadline = time.monotonic() + 10
        while not _refusals(two) or not _refusals(copy):
            assert time.monotonic() < deadline
        assert copy.siblings() == []
        assert "copies of one data directory" in _refusals(two)
    finally:
        copy.stop()
    assert "data directory" in copy.told
    two.stop()
    assert "copies of one data directory" in two.told


def _refusals(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return " ".join(mesh.admin.status()["site"]["refused"].values())


def test_a_service_is_reached_at_every_node(site):
    one, two, three = site.nodes
    with (
        meshmq.connect(one.url, route="node") as here,
        meshmq.connect(two.url, route="node", name="there") as there,
        meshmq.connect(three.url, route="node", name="third") as third,
    ):
        there.serve("echo", lambda request: request.value.upper(), concurrency=4)

        @third.service("count")
        def count(request):
            for number in range(5):
                yield b"%d" % number

        third.serve("echo", lambda request: request.value.upper(), concurrency=4)
        while [len(s["nodes"]) for s in here.admin.services.list()] != [1, 2]:
            pass
        # The listing asks every node; what its own node knows of the others is some 10 ms older.
        deadline = time.monotonic() + 10
        while {r.instance for r in here.request_many("echo", b"x", timeout=5)} != {
            "there",
            "third",
        }:
            assert time.monotonic() < deadline
        pending = [here.request_nowait("echo", b"v%d" % i, timeout=20) for i in range(200)]
        replies = [one_of_them.result() for one_of_them in pending]
        assert [r.value for r in replies] == [b"V%d" % i for i in range(200)]
        assert {r.instance for r in replies} == {"there", "third"}
        assert [r.value for r in here.request_stream("count", b"", timeout=10)] == [
            b"%d" % n for n in range(5)
        ]
        listed = {s["service"]: s for s in here.admin.services.list()}
        assert listed["count"]["requests"] == 1  # which two nodes had to do with
        assert [i["node"] for i in listed["count"]["instances"]] == ["node-3"]
        shown = {name: s["nodes"] for name, s in listed.items()}
        assert [n["node"] for n in shown["echo"]] == ["node-2", "node-3"]
        assert [n["node"] for n in shown["count"]] == ["node-3"]
        with pytest.raises(meshmq.NoResponders):
            here.request("nobody", b"", timeout=10)


def answered(mesh, service):
    """Whether the node of ``mesh`` knows who serves: others tell it a moment after they do."""
    try:
        return mesh.request(service, b"", timeout=10) is not None
    except meshmq.NoResponders:
        return False


def test_what_a_killed_node_had_is_an_outcome_at_once_or_goes_elsewhere(site):
    one, two, three = site.nodes
    begun = threading.Event()

    def slow(request):
        begun.set()
        time.sleep(request.remaining)
        return b"late"

    with (
        meshmq.connect(one.url, route="node") as here,
        meshmq.connect(two.url, route="node", name="there") as there,
    ):
        there.serve("work", slow, concurrency=8)
        there.serve("later", lambda request: b"")  # once that is known, so is the first
        deadline = time.monotonic() + 20
        while not answered(here, "later"):
            assert time.monotonic() < deadline
        lost = here.request_nowait("work", b"", timeout=60)
        again = here.request_nowait("work", b"", timeout=60, idempotent=True)
        assert begun.wait(20)
        with meshmq.connect(three.url, route="node", name="third") as third:
            third.serve("work", lambda request: b"done")
            while len({n["node"] for n in here.admin.services.list("work")[0]["nodes"]}) < 2:
                pass
            two.kill()
            with pytest.raises(meshmq.InstanceLost, match="node-2"):
                lost.result(timeout=20)
            assert again.result(timeout=20).instance == "third"
