"""What the command line tells of other sites: which there are, what is pulled, what is not well."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import meshmq
from meshmq.cli import doctor
from meshmq.cli.findings import OK, WARNING
from tests.integration.linked import until
from tests.integration.sites import ConfiguredNode
from tests.integration.test_cli_site import documented, fields, of_site, run
from tests.integration.test_site_links import link

NOBODY = "tcp://127.0.0.1:1"


class Nowhere:
    """In place of a node, where there is none."""

    nodes_url = NOBODY


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A node of eu that pulls from one of us, which pulls nothing, with three records there."""
    folder = tmp_path_factory.mktemp("sites")
    nodes = eu, us = [ConfiguredNode(folder, name) for name in ("eu-1", "us-1")]
    pulls(eu, us)
    with meshmq.connect(us.url, route="node") as mesh:
        mesh.publish_many("flights.a", [b"1", b"2", b"3"]).wait(20)
    until(lambda: received(eu) == 3, 20)
    yield eu, us
    for node in nodes:
        assert node.stop() == 0, node.told


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Nobody is looked for by mDNS, so it need not listen for long."""
    monkeypatch.setattr(doctor, "LISTEN_S", 0.3)


def pulls(node, *others):
    link(node, "us", others, '["flights.>"]\nexclude = ["flights.tmp.>"]')


def links(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return mesh.admin.status()["site"]["links"]


def received(node):
    return sum(log["received"] for row in links(node) for log in row["logs"])


def rows(node, *words):
    return [json.loads(line) for line in run(node, *words, "--json")[0].splitlines()]


def fails(node, *words):
    """Exit code, stdout and stderr of a command."""
    argv = [sys.executable, "-m", "meshmq", *words, "--url", node.url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_sites_tells_of_ours_and_the_others(pair):
    eu, us = pair
    shown, said = run(eu, "sites")
    assert said == ""
    lines = [re.split(" {2,}", line) for line in shown.splitlines()]
    assert lines == [
        ["site", "state", "nodes", "pulled", "logs", "received", "behind", "bytes behind", "for",
         "records/s", "bytes/s", "by"],
        ["eu", "ours", "eu-1", *["-"] * 9],
        ["us", "linked", "us-1", "yes", "1", "3", "0", "0 B", "-", *lines[2][9:11], "us/us-1"],
    ]  # fmt: skip
    assert re.fullmatch(r"\d+(\.\d)? \d+ B", " ".join(lines[2][9:11]))
    ours, other = rows(eu, "sites")
    assert (ours["site"], ours["state"], ours["nodes"], ours["node"]) == (
        "eu", "ours", ["eu-1"], "eu-1",
    )  # fmt: skip
    (log,) = other["logs"]
    assert log.pop("origin")
    assert (log.pop("records_per_second"), log.pop("bytes_per_second")) >= (0, 0)
    assert log == {"name": "us/us-1", "received": 3, "from": "us/us-1", "problem": "",
                   "lag": 0, "lag_bytes": 0, "lag_seconds": 0.0}  # fmt: skip
    # Who is pulled from knows who does.
    assert [(r["site"], r["state"], r["nodes"], r["pulled"], r["logs"])
            for r in rows(us, "sites")] == [
        ("us", "ours", ["us-1"], False, []), ("eu", "linked", ["eu-1"], False, []),
    ]  # fmt: skip


def test_topics_that_are_only_mirrored_are_listed_and_what_an_offset_is_of_is_said(pair):
    eu, _ = pair
    shown, _ = run(eu, "topic", "list")
    assert re.search(r"\nflights.a +durable +3 +- +- +as at us +as at us\n", shown), shown
    shown, _ = run(eu, "topic", "show", "flights.a")
    assert re.search(r"\n  us/us-1 +\S+ +3 +0 ", shown), shown
    run(eu, "pub", "flights.a", "here")
    shown, said = run(eu, "sub", "flights.a", "--from", "0", "--count", "1", "--format", "raw")
    assert shown == "here\n"
    assert (
        "the offset is of the stream of eu-1, where we are; of us/us-1 comes what is new (--from "
        "earliest: all)"
    ) in said


def test_link_list_and_show_tell_what_is_pulled_and_has_come(pair):
    eu, us = pair
    shown, said = run(eu, "link", "list")
    assert said == ""
    assert [re.split(" {2,}", line)[:9] for line in shown.splitlines()] == [
        ["to", "state", "nodes", "topics", "exclude", "logs", "received", "behind", "for"],
        ["us", "linked", "us-1", "flights.>", "flights.tmp.>", "1", "3", "0", "-"],
    ]
    assert shown.splitlines()[0].endswith("records/s  ratio  in flight  caught up in")
    (row,) = rows(eu, "link", "list")
    (again,) = rows(eu, "link", "show", "us")  # some time later
    assert again.keys() == row.keys()
    assert {**again, "flow": 0, "logs": 0} == {**row, "flow": 0, "logs": 0}
    assert (row["node"], row["to"], row["state"]) == ("eu-1", "us", "linked")
    assert row["endpoints"] == [us.nodes_url]
    (log,) = row["logs"]
    assert (log["name"], log["from"], log["received"], log["problem"]) == (
        "us/us-1", "us-1", 3, "",
    )  # fmt: skip
    assert log["lsn"] > 0
    page = run(eu, "link", "show", "us")[0]
    for line in (
        rf"  {us.nodes_url} +linked +us-1", "linked nodes: +us-1", "topics: +flights.>",
        "exclude: +flights.tmp.>", rf"  us/us-1 +us-1 +3 +{log['lsn']} +0 +0 B +- +[0-9.]+ +- +-",
        "compression: +none",
    ):  # fmt: skip
        assert re.search(rf"^{line}$", page, re.MULTILINE), page
    assert "refused" not in page


def test_a_node_without_links_says_so(pair, tmp_path):
    _, us = pair
    words = "node us-1 of site us has no links with other sites: [[link]] in its --config says"
    shown, said = run(us, "link", "list")
    assert shown.startswith(words)
    assert said == ""
    assert run(us, "link", "list", "--json") == ("", "")
    code, shown, said = fails(us, "link", "show", "eu")
    assert (code, shown) == (1, "")
    assert said.startswith(f"meshmq: {words}")
    assert "links with other sites" not in run(us, "status")[0]


def test_a_link_that_there_is_not_is_refused_with_those_that_there_are(pair):
    eu, _ = pair
    words = "node eu-1 has no link to site 'asia', it has: us"
    assert fails(eu, "link", "show", "asia") == (1, "", f"meshmq: {words}\n")
    code, shown, _ = fails(eu, "link", "show", "asia", "--json")
    told = json.loads(shown)
    assert (code, told["error"], told["message"]) == (1, "command-failed", words)


def test_a_node_of_no_site_says_so(tmp_path):
    argv = [sys.executable, "-m", "meshmq", "node", "--no-mdns", "--listen", "tcp://127.0.0.1:0",
            "--name", "alone", "--data", str(tmp_path / "log")]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        url = re.search(r" ready at (\S+?),", process.stdout.readline())[1]
        node = type("Alone", (), {"url": url})
        words = "node alone belongs to no site: start it with --site, and [[link]] in its --config"
        for command in (["sites"], ["link", "list"]):
            assert run(node, *command) == (f"{words}\n", "")
            assert run(node, *command, "--json") == ("", "")
        assert fails(node, "link", "show", "us") == (1, "", f"meshmq: {words}\n")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_status_shows_links_and_every_field_of_them_is_in_the_page(pair):
    eu, _ = pair
    page = run(eu, "status")[0]
    table = page.split("links with other sites:\n")[1].splitlines()[:2]
    assert [line.split() for line in table] == [
        ["to", "state", "nodes", "logs", "received", "behind"],
        ["us", "linked", "us-1", "1", "3", "0"],
    ]
    with meshmq.connect(eu.url, route="node") as mesh:
        site = mesh.admin.status()["site"]
    named = documented()
    within = {f"site.{name}" for name in fields(site) if re.match(r"links|copies\.kept", name)}
    assert {"site.links.logs.received", "site.copies.kept.site"} <= within
    assert within - named == set()
    (far,) = site["far"]
    assert set(far) == {"site", *[n.rpartition(".")[2] for n in named if "site.nodes." in n]}


def test_what_is_in_the_way_of_a_link_is_told_until_it_is_mended(pair, tmp_path):
    """In this order: one of another site is at the endpoint, nobody is, the right one is."""
    eu, us = pair
    link(us, "asia", [eu])
    until(lambda: [row["state"] for row in links(us)] == ["refused"], 20)
    shown = run(us, "link", "list")[0]
    assert re.search(r"\nasia +refused +- ", shown)
    why = "node 'eu-1' belongs to site 'eu', and 'us-1' of site 'us' looks for site 'asia' there"
    assert f"\nasia: refused at {eu.nodes_url}: {why}" in shown
    assert why in run(us, "link", "show", "asia")[0]
    assert f"\nasia: refused at {eu.nodes_url}: {why}" in run(us, "sites")[0]
    found = of_site(us, tmp_path)
    assert {check: f.level for check, f in found.items()} == {"site us, link-down asia": WARNING}
    assert why in found["site us, link-down asia"].seen
    assert "'endpoints'" in found["site us, link-down asia"].remedy
    assert "warning: there is no link with a node of site asia" in run(us, "status")[0]
    link(us, "asia", [Nowhere])
    until(lambda: [row["state"] for row in links(us)] == ["down"], 20)
    assert f"\nasia: nobody answers at {NOBODY}\n" in run(us, "link", "list")[0]
    found = of_site(us, tmp_path)
    assert f"nobody answers at {NOBODY}" in found["site us, link-down asia"].seen
    link(us, "eu", [eu])
    until(lambda: [row["state"] for row in links(us)] == ["linked"], 20)
    until(lambda: [f.level for f in of_site(us, tmp_path).values()] == [OK], 20)
    us.config.write_text("")
    us.signal(1)
    until(lambda: links(us) == [], 20)
