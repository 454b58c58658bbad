"""``meshmq demo`` tells its story, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

# It shows how soon programs find a node, and how many records it takes.
pytestmark = [pytest.mark.slow, pytest.mark.alone]


def start(folder, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "meshmq", "demo", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip


def test_the_demo_loses_and_doubles_nothing(tmp_path):
    demo = start(tmp_path)
    out, said = demo.communicate(timeout=50)
    assert (demo.returncode, said) == (0, "")
    table = dict(re.findall(r"^   ([a-z ]+?) {2,}([\d,]+)", out, re.MULTILINE))
    assert table["lost"] == table["duplicated"] == "0"
    assert table["published"] == table["confirmed"] == table["replayed"]
    assert int(table["published"].replace(",", "")) > 10_000
    assert "brokerless -> connected -> reconnecting -> connected" in out
    assert out.count("tower to gate: 200 positions, 0 missed") == 3
    story = ["There is no node", "A node is started", "The node is killed", "replayed"]
    assert sorted(story, key=out.index) == story
    assert "failed 3 times" in out
    assert (table["jobs done"], table["jobs left dead"]) == ("200", "0")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_leaves_no_node_and_no_folder(tmp_path):
    demo = start(tmp_path)
    url = next(line for line in demo.stdout if line.startswith("2."))
    url = url.split(" started at ")[1].split(",")[0]
    assert "attach by themselves" in demo.stdout.readline()
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    gone = subprocess.run(
        [sys.executable, "-m", "meshmq", "pub", "a", "x", "--url", url, "--timeout", "0.3"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert gone.returncode == 1
    assert "no node answers" in gone.stderr


def test_the_demo_of_sites_shows_a_cut_a_lag_a_heal_and_equality(tmp_path):
    demo = start(tmp_path, "--sites", "2")
    out, said = demo.communicate(timeout=50)
    assert (demo.returncode, said) == (0, "")
    story = ["2 sites", "publishes real flights", "is CUT", "is HEALED", "read at each site"]
    assert sorted(story, key=out.index) == story
    lags = [int(lag.replace(",", "")) for lag in re.findall(r"behind are  eu ([\d,]+),", out)]
    assert lags[0] == lags[-1] == 0
    assert 0 < lags[1] < lags[2] < lags[3]
    assert len(set(re.findall(r"sha256 (\w+)", out))) == 1
    table = dict(re.findall(r"^   ([a-z ]+?) {2,}([\d,]+|yes)$", out, re.MULTILINE))
    assert table["lost"] == table["duplicated"] == table["offsets that differ"] == "0"
    assert table["published"] == table["confirmed"]
    assert table["sites are equal"] == "yes"
    assert list(tmp_path.iterdir()) == []


def test_a_demo_has_nodes_or_sites(tmp_path):
    demo = start(tmp_path, "--sites", "2", "--nodes", "2")
    _, said = demo.communicate(timeout=20)
    assert demo.returncode == 1
    assert "give --nodes or --sites" in said
