"""Three sites of real nodes: what is live over a link between them, and requests."""

from __future__ import annotations

import re
import signal
import threading
import time

import pytest

import meshmq
from tests.integration.linked import until
from tests.integration.sites import ConfiguredNode
from tests.integration.test_cli_site import run


def write(node, *links):
    """Its configuration: (site, its nodes, more lines) each."""
    text = ""
    for to, others, more in links:
        places = ", ".join(f'"{other.nodes_url}"' for other in others)
        text += f'[[link]]\nto = "{to}"\nendpoints = [{places}]\ntopics = []\n{more}\n'
    node.config.write_text(text)
    node.signal(signal.SIGHUP)


@pytest.fixture
def three(tmp_path):
    """eu of two nodes, us and ap of one: us has eu's prices live and may ask it for
    quotes, ap has and may those of us."""
    nodes = {}
    for name in ("eu-1", "eu-2", "us-1", "ap-1"):
        peers = (nodes["eu-1"].nodes_url,) if name == "eu-2" else ()
        nodes[name] = ConfiguredNode(tmp_path, name, peers)
    live = 'live = ["prices.>"]\nservices = ["quote.>"]'
    write(nodes["us-1"], ("eu", [nodes["eu-1"], nodes["eu-2"]], live))
    write(nodes["ap-1"], ("us", [nodes["us-1"]], live))
    yield nodes
    for node in nodes.values():
        assert node.stop() == 0, node.told


def links(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return {row["to"]: row for row in mesh.admin.status()["site"]["links"]}


def numbers(sub, count):
    """Values and sites of so many records, and that no more come."""
    found = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += sub.fetch(count, timeout=1)
    found += sub.fetch(1, timeout=0.3)
    return [(int(m.value), m.site) for m in found]


def test_live_topics_cross_one_link_with_the_name_of_their_site(three):
    eu, us, ap = three["eu-1"], three["us-1"], three["ap-1"]
    until(lambda: links(us).get("eu", {}).get("nodes") == ["eu-1", "eu-2"], 20)
    until(lambda: links(ap).get("us", {}).get("state") == "linked", 20)
    with (
        meshmq.connect(eu.url, route="node") as writer,
        meshmq.connect(us.url, route="node") as at_us,
        meshmq.connect(ap.url, route="node") as at_ap,
        at_us.subscribe("prices.>") as reader,
        at_us.subscribe("prices.>", scope="site") as own,
        at_ap.subscribe("prices.>") as beyond,
    ):
        writer.admin.topics.create("prices.a", durability="transient")
        at_us.admin.topics.create("prices.a", durability="transient")
        # It does not wait for other sites: so until the first one comes.
        until(
            lambda: writer.publish("prices.a", b"0").wait(10) and reader.fetch(1, timeout=0.2), 20
        )
        reader.fetch(100, timeout=0.5)
        writer.publish_many("prices.a", [b"%d" % i for i in range(1, 501)]).wait(20)
        assert numbers(reader, 500) == [(i, "eu") for i in range(1, 501)]
        assert reader.missed == 0
        at_us.publish("prices.a", b"7").wait(10)
        assert numbers(reader, 1) == [(7, None)]
        assert numbers(own, 1) == [(7, None)]
        until(lambda: at_us.publish("prices.a", b"8").wait(10) and beyond.fetch(1, timeout=0.2), 20)
        assert {m.site for m in beyond.fetch(100, timeout=0.5)} <= {"us"}
    assert links(us)["eu"]["live_received"] >= 501


def test_requests_cross_one_link_when_nobody_here_serves_and_the_loss_of_a_node_is_told(three):
    eu, us, ap = (three[name] for name in ("eu-1", "us-1", "ap-1"))
    until(lambda: links(us).get("eu", {}).get("nodes") == ["eu-1", "eu-2"], 20)
    until(lambda: links(ap).get("us", {}).get("state") == "linked", 20)
    with (
        meshmq.connect(eu.url, route="node") as server,
        meshmq.connect(us.url, route="node") as at_us,
        meshmq.connect(ap.url, route="node") as at_ap,
    ):
        begun, go = threading.Event(), threading.Event()

        def quote(request):
            if request.value == b"stay":
                begun.set()
                go.wait(30)
            return b"eu " + request.value

        server.serve("quote.eur", quote, concurrency=2)
        until(lambda: shown(us, "quote.eur") == [("eu/eu-1", "eu")], 20)
        assert at_us.request("quote.eur", b"1", timeout=20).value == b"eu 1"
        with pytest.raises(meshmq.NoResponders):  # us serves nothing itself
            at_ap.request("quote.eur", b"2", timeout=20)
        listed = run(us, "services")[0]
        assert re.search(r"^  1 instance +eu/eu-1 +serving +0/2", listed, re.MULTILINE), listed
        page = run(us, "link", "show", "eu")[0]
        assert re.search(r"^services: +quote.>$", page, re.MULTILINE), page
        here = at_us.serve("quote.eur", lambda request: b"us")
        assert at_us.request("quote.eur", b"3", timeout=20).value == b"us"
        here.stop()
        waiting = at_us.request_nowait("quote.eur", b"stay", timeout=60)
        assert begun.wait(20)
        eu.kill()
        with pytest.raises(meshmq.InstanceLost, match="eu/eu-1"):
            waiting.result(20)
        go.set()
        eu.start()


def shown(node, service):
    """Nodes that serve it, as a node lists them, each with its site."""
    with meshmq.connect(node.url, route="node") as mesh:
        rows = mesh.admin.services.list(service)
    return [(n["node"], n.get("site")) for row in rows for n in row["nodes"]]
