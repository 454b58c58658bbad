"""What the command line tells of a site: that all is well, and what is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import meshmq
from meshmq.cli import doctor
from meshmq.cli.findings import FAILURE, OK, WARNING
from tests.integration.linked import until
from tests.integration.sites import joined

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
BY_DATA = {
    "refused",
    "lag",
    "sync_latency_us",
    "clocks_ahead_ms",
    "conflicts",
    "settings",
    "members",
}
"""Fields whose keys are data, or which their row tells in words."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with joined(tmp_path_factory.mktemp("site"), 2, "--copies", "2") as made:
        one, two = made.nodes
        for node, values in ((one, [b"1"]), (two, [b"1", b"2"])):
            with meshmq.connect(node.url, route="node") as mesh:
                for value in values:
                    mesh.publish("mails", value, durability="replicated").wait(20)
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Nobody is looked for by mDNS, so it need not listen for long."""
    monkeypatch.setattr(doctor, "LISTEN_S", 0.3)


def run(node, *words):
    """What a command says on stdout and stderr; it must succeed."""
    argv = [sys.executable, "-m", "meshmq", *words, "--url", node.url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def of_site(node, tmp_path):
    """What the doctor finds of the site, by its names."""
    found = list(doctor._findings(node.url, "local", False, tmp_path / "log"))
    assert all(bool(f.remedy) == (f.level != OK) for f in found)
    return {f.check: f for f in found if f.check.startswith("site ")}


def fields(item, at=""):
    """Names of all fields of a report, those within others with a dot."""
    if isinstance(item, list):
        for one in item:
            yield from fields(one, at)
    elif isinstance(item, dict):
        for name, value in item.items():
            yield at + name
            if name not in BY_DATA:
                yield from fields(value, f"{at}{name}.")


def documented():
    """Names of all fields that the page's table has; the first of a row says what the others are
    within, but for those that are within nothing."""
    names = set()
    for row in PAGE.read_text().split("## Counters")[1].split("\n## ")[0].splitlines():
        first, *others = re.findall(r"`([^`]+)`", row.split("|")[1] if "|" in row else "") or [""]
        within = first.rpartition(".")[0]
        names |= {n.replace("[]", "") for n in (first, *others, *[f"{within}.{n}" for n in others])}
    return names | {name.rpartition(".")[0] for name in names if "." in name}


def test_every_field_of_status_is_in_the_page(site):
    with meshmq.connect(site.nodes[0].url, route="node") as mesh:
        mesh.enqueue("thumbs", b"1").wait(10)
        sub = mesh.subscribe("mails")
        report = mesh.admin.status()
        sub.close()
    found = set(fields(report))
    assert {"site.copies.nodes.lag_commits", "groups.ready", "subscriptions.client"} <= found
    names = documented()
    names |= {name.rpartition(".")[0] for name in names}
    inner = ("nodes.problems.", "problems.")
    assert {f for f in found if f not in names and not f.startswith(inner)} == set()


def test_a_site_in_which_all_is_well(site, tmp_path):
    one, two = site.nodes
    found = of_site(one, tmp_path)
    assert [f.level for f in found.values()] == [OK]
    assert found["site eu"].seen == f"2 nodes ({one.name}, {two.name})"
    page = run(one, "status")[0]
    assert re.search(rf"^node: +{one.name} of mesh local", page)
    assert re.search(rf"\n  {two.name} +linked +\S+ +ok ", page)
    assert re.search(rf"copies kept here:\n.*\n  {two.name} +\w{{8}} +\d+ +following\n", page)
    assert "problems" not in page
    assert max(map(len, page.splitlines())) <= 100


def test_topic_show_tells_whose_streams_are_where(site):
    one, two = site.nodes
    for node in site.nodes:
        shown, said = run(node, "topic", "show", "mails")
        rows = [line.split() for line in shown.split("streams:")[1].strip().splitlines()]
        heads = "stream of log records from copied to mirrored at"
        assert rows[0] == heads.split()
        assert [[row[0], *row[2:]] for row in rows[1:]] == [
            [one.name, "1", "0", two.name, "no", "site"],
            [two.name, "2", "0", one.name, "no", "site"],
        ]  # fmt: skip
        assert said == ""


def test_a_topic_that_asks_for_more_copies_than_nodes(site, tmp_path):
    one = site.nodes[0]
    words = "2 nodes are there, and it is to be on 5: receipts wait until there are so many"
    shown, said = run(one, "topic", "create", "t", "--copies", "5", "--confirm", "replicated")
    assert (shown, said) == ("created topic t, durable\n", f"meshmq: {words}\n")
    assert words in run(one, "topic", "show", "t")[1]
    assert json.loads(run(one, "topic", "show", "t", "--json")[0])["note"] == words
    found = of_site(one, tmp_path)
    assert [(check, f.level) for check, f in found.items()] == [
        ("site eu, too-few-nodes 5 copies", FAILURE)
    ]
    assert "(says node-1, node-2)" in found["site eu, too-few-nodes 5 copies"].seen
    run(one, "topic", "delete", "t", "--yes")
    # How many copies are wanted is looked at with the next tick.
    until(lambda: list(of_site(one, tmp_path)) == ["site eu"])


def test_a_node_that_is_away(site, tmp_path):
    one, two = site.nodes
    two.kill()
    deadline = time.monotonic() + 10
    while one.siblings():
        assert time.monotonic() < deadline
    found = of_site(one, tmp_path)
    away = found.pop(f"site eu, away {two.name}")
    assert away.level == WARNING
    assert f"meshmq node takeover {two.name}" in away.remedy
    assert [f.level for f in found.values()] == [WARNING], "nor is there anybody for its copies"
    page = run(one, "status")[0]
    assert re.search(rf"\n  {two.name} +away ", page)
    assert f"warning: node {two.name} is away, for " in page
    shown = run(one, "topic", "show", "mails")[0]
    assert re.search(rf"\n  {two.name} \(away\) +\S+ +2 +0  {one.name} +no site\n", shown)
    two.start()
    site.wait_joined()
