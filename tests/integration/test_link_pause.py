"""A link that is paused by a command, at real nodes: at all of a site, over restarts."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

import meshmq
import meshmq.aio
from meshmq.cli import doctor
from meshmq.cli.findings import OK, WARNING
from tests.integration.linked import until
from tests.integration.sites import ConfiguredNode
from tests.integration.test_cli_site import of_site, run
from tests.integration.test_cli_sites import fails, links, received
from tests.integration.test_site_links import everything, link


@pytest.fixture
def sites(tmp_path, monkeypatch):
    """A node of us, and two of eu that pull from it."""
    monkeypatch.setattr(doctor, "LISTEN_S", 0.3)
    nodes = []
    for name, peers in (("us-1", 0), ("eu-1", 0), ("eu-2", 1)):
        at = tuple([node.nodes_url for node in nodes[1:]]) if peers else ()
        nodes.append(ConfiguredNode(tmp_path, name, at))
    us, *eu = nodes
    link(us, "eu", eu, "[]")
    for node in eu:
        link(node, "us", [us])
    until(lambda: states(nodes) == ["linked"] * 3, 20)
    yield us, eu
    for node in nodes:
        assert node.stop() == 0, node.told


def publish(node, *values):
    with meshmq.connect(node.url, route="node") as mesh:
        mesh.publish_many("flights.a", values).wait(20)


def states(nodes):
    return [row["state"] for node in nodes for row in links(node)]


def test_a_link_is_paused_at_all_nodes_until_it_is_resumed(sites, tmp_path):
    us, (one, other) = sites
    publish(us, b"1", b"2", b"3")
    until(lambda: received(one) + received(other) == 3, 20)
    assert run(one, "link", "pause", "us") == (
        "the link with site us is paused: its mirrors stay as they are\n", "",
    )  # fmt: skip
    until(lambda: states((one, other)) == ["paused", "paused"], 20)
    assert run(other, "link", "pause", "us")[0].startswith(
        "the link with site us was paused already, by eu-1, 20"
    )
    publish(us, b"4", b"5")
    by = r"eu-1, \d{4}-\d\d-\d\d \d\d:\d\d"
    for words in (["link", "list"], ["sites"]):
        shown = run(other, *words)[0]
        assert re.search(r"\nus +paused +us-1 ", shown), shown
        assert re.search(rf"\nus: paused by {by}: `meshmq link resume us` goes on\n", shown)
        rest = f"logs are those of node eu-2; others may be at eu-1 (--url {one.url})"
        assert shown.splitlines()[-1] == rest
    assert re.search(rf"^paused: +{by}$", run(other, "link", "show", "us")[0], re.MULTILINE)
    assert re.search(rf"\n +us +paused by {by} +us-1 ", run(other, "status")[0])
    for words in (["link", "list"], ["link", "show", "us"], ["sites"]):
        row = json.loads(run(other, *words, "--json")[0].splitlines()[-1])
        assert (row["state"], row["paused"]["set_by"]) == ("paused", "eu-1")
    found = of_site(other, tmp_path)
    assert {check: f.level for check, f in found.items()} == {
        "site eu, link-paused us": WARNING,
    }  # fmt: skip
    for node in (one, other):  # killed, and started with the settings that wish it
        node.kill()
        node.start()
    until(lambda: states((one, other)) == ["paused", "paused"], 20)
    assert [value for *_, value in everything(other, 3)] == [b"1", b"2", b"3"]
    done = json.loads(run(other, "link", "resume", "us", "--json")[0])
    assert (done["to"], done["paused"], done["changed"], done["set_by"]) == (
        "us", False, True, "eu-2",
    )  # fmt: skip
    until(lambda: states((one, other)) == ["linked", "linked"], 20)
    want = [("flights.a", i, b"%d" % (i + 1)) for i in range(5)]
    for node in (one, other):
        assert everything(node, 5) == want
    until(lambda: [f.level for f in of_site(one, tmp_path).values()] == [OK], 20)
    assert run(one, "link", "resume", "us")[0] == "the link with site us was not paused\n"


def test_the_asyncio_client_has_the_commands_of_links_and_sites(sites):
    _, (one, other) = sites

    async def work():
        async with meshmq.aio.connect(one.url, route="node") as mesh:
            paused = await mesh.admin.pause_link("us")
            until(lambda: states((one, other)) == ["paused", "paused"], 20)
            resumed = await mesh.admin.resume_link("us")
            until(lambda: states((one, other)) == ["linked", "linked"], 20)
            verified = await mesh.admin.verify_link("us")
            taken = await mesh.admin.site_takeover("us", check=True)
            back = await mesh.admin.site_handback("us", check=True)
            return paused["paused"], resumed["paused"], verified["differences"], taken, back

    paused, resumed, differences, taken, back = asyncio.run(work())
    assert (paused, resumed, differences) == (True, False, [])
    assert taken["doubt"]
    assert [log["records"] for node in back["nodes"] for log in node["logs"]] == []


def test_a_site_without_a_link_is_named(sites):
    _, (one, _) = sites
    words = "node eu-1 has no link to site 'asia', it has: us"
    assert fails(one, "link", "pause", "asia") == (1, "", f"meshmq: {words}\n")
