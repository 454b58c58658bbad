"""The measurements of links: one short run, and the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.bench.link_plot import plot

ROWS = [
    {"round_trip_ms": 1, "median": 2_000_000, "lowest": 1_900_000, "highest": 2_100_000},
    {"round_trip_ms": 200, "median": 1_000_000, "lowest": 900_000, "highest": 1_000_000},
]


def test_the_picture_has_a_place_for_each_round_trip_and_the_higher_is_the_faster():
    root = ElementTree.fromstring(plot(ROWS, 0.8))
    circles = [
        (float(c.get("cx")), float(c.get("cy"))) for c in root.iter(root.tag[:-3] + "circle")
    ]
    (x1, y1), (x2, y2) = circles
    assert x1 < x2
    assert y1 < y2  # y grows downwards
    words = [text.text for text in root.iter(root.tag[:-3] + "text")]
    assert {"1 ms", "200 ms", "goal: 80% of the first"} < set(words)


@pytest.mark.slow
def test_a_short_run_mirrors_all_and_says_whether_the_goal_is_met(tmp_path):
    argv = [
        sys.executable, "-m", "tests.bench.links", "throughput", "--records", "30000", "--runs",
        "1", "--round-trips", "1,20", "--out", str(tmp_path), "--plot", str(tmp_path / "x.svg"),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50)
    (path,) = tmp_path.glob("links-throughput-*.json")
    found = json.loads(path.read_text())
    assert [row["round_trip_ms"] for row in found["rows"]] == [1, 20]
    assert done.returncode == bool(found["missed"]), done.stderr
    assert "<svg" in (tmp_path / "x.svg").read_text()
