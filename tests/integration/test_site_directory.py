"""Policies, topics and groups of a site of real nodes: set at one, shown at all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

import meshmq
from meshmq import MeshError
from tests.integration.sites import LocalSite

AGREED_S = 10.0


@pytest.fixture
def site(tmp_path):
    made = LocalSite(tmp_path, 3)
    yield made
    made.stop()


def run(node, *words):
    argv = [sys.executable, "-m", "meshmq", *words, "--url", node.url]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def hashes(nodes):
    found = set()
    for node in nodes:
        with meshmq.connect(node.url, route="node") as mesh:
            found.add(mesh.admin.status()["directory"]["hash"])
    return found


def wait_agreed(nodes):
    deadline = time.monotonic() + AGREED_S
    while True:
        try:
            found = hashes(nodes)
        except MeshError as error:
            found = {"", str(error)}
        if len(found) == 1:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_what_is_set_at_one_node_is_shown_at_all_and_outlives_them(site):
    site.wait_joined()
    a, b, c = site.nodes
    run(a, "topic", "create", "orders.>", "--retention", "7d")
    run(b, "pub", "orders.eu", "1")
    run(c, "group", "create", "billing", "orders.>", "--rate", "9")
    run(c, "queue", "create", "mail")
    run(c, "topic", "create", "old")
    run(a, "topic", "delete", "old", "--yes")
    wait_agreed(site.nodes)
    c.kill()
    run(b, "topic", "delete", "orders.eu", "--yes")
    run(b, "group", "set", "billing", "--rate", "5")
    c.start()
    site.wait_joined()
    wait_agreed(site.nodes)
    for node in site.nodes:
        node.kill()
    for node in site.nodes:
        node.start()
    site.wait_joined()
    wait_agreed(site.nodes)
    for node in site.nodes:
        shown = run(node, "topic", "list")
        assert re.search(r"orders\.> +durable +7 days.* node-1, \d{4}-\d\d-\d\d \d\d:\d\d", shown)
        assert "orders.eu" not in shown
        assert not re.search(r"^old ", shown, re.M)
        details = run(node, "group", "show", "billing")
        assert re.search(r"set by: +node-2, \d{4}", details), details
        assert re.search(r"rate: +5\b", details), details
        assert "conflict" not in details
        (group,) = map(json.loads, run(node, "group", "list", "--json").splitlines())
        assert (group["settings"]["rate"], group["set_by"]) == (5, "node-2")
        assert re.search(r"^mail .*node-3, \d{4}", run(node, "queue", "list"), re.M)
    run(c, "pub", "orders.eu", "2")
    wait_agreed(site.nodes)
    assert re.search(r"set by: +node-1, \d{4}", run(a, "topic", "show", "orders.eu"))
