"""Two sites of two nodes each, linked by a bad line that is cut again and again:
``python -m tests.chaos.links --cuts 20 --records 200000 --round-trip 200 --loss 0.02``.

Each node is on a host of its own (network namespaces), the sites at two switches, between them a
line with a delay and a loss (tests/chaos/wire.py). At each node a program publishes real flights;
both sites pull all of them from each other. Meanwhile the line is cut, both ways or one, for 1 to
60 s, most cuts being short (``--cut-seconds``); ``--shortest 0.2`` and less for many of them.

A program at one node of each site reads all the while. At the end, behind the last heal, one reads
all of it at every node. All must have seen the same: of each stream the same record at every
offset by checksum, offsets without gaps, each record that was confirmed, none twice.

It needs root, ``ip`` and ``/dev/net/tun``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from meshmq.bench.procs import ended_by_signals
from tests.bench import about
from tests.bench.flights import FLIGHTS
from tests.chaos.hosts import FarNetwork, address, why_not

SITES = ("eu", "eu", "us", "us")
PORT, NODES_PORT, MESH = 5757, 5758, "chaos"
UP_S = (2.0, 8.0)  # between two cuts
BOUND_S = 900.0  # until all has come behind the last heal


class Chaos:
    """The sites and their programs."""

    def __init__(self, network: FarNetwork, folder: Path, options: argparse.Namespace) -> None:
        self.network, self.folder, self.options = network, folder, options
        self.random = random.Random(options.seed)
        self.cuts: list[dict[str, Any]] = []
        for index in range(len(SITES)):
            self._start_node(index)
        self.each = options.records // len(SITES)
        self.total = self.each * len(SITES)

    def _start_node(self, index: int) -> None:
        site = SITES[index]
        others = [i for i in range(len(SITES)) if i != index]
        peers = [w for i in others if SITES[i] == site
                 for w in ("--peer", f"tcp://{address(i + 1)}:{NODES_PORT}")]  # fmt: skip
        far = [i for i in others if SITES[i] != site]
        ends = ", ".join(f'"tcp://{address(i + 1)}:{NODES_PORT}"' for i in far)
        config = self.folder / f"{index}.toml"
        config.write_text(
            f'[[link]]\nto = "{SITES[far[0]]}"\nendpoints = [{ends}]\ntopics = ["flights.>"]\n'
        )
        self.network.node(
            self.network.hosts[index], self.folder / f"node-{index + 1}", "--site", site, "--name",
            f"{site}-{index % 2 + 1}", "--mesh", MESH, "--insecure", "--no-mdns", "--listen",
            f"tcp://{address(index + 1)}:{PORT}", "--config", config, *peers,
        )  # fmt: skip

    def start(self, role: str, index: int, **more: Any) -> subprocess.Popen[str]:
        """A program beside a node; once it is ready."""
        url = f"tcp://{address(index + 1)}:{PORT}"
        options = {"name": f"{role}-{index + 1}", "mesh": MESH, "url": url, **more}
        process = self.network.start(
            self.network.hosts[index], "-m", "tests.chaos.link_programs", role, json.dumps(options)
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", (role, line, process.communicate()[1][-2000:])
        return process

    def plan(self) -> list[tuple[str, float, float]]:
        """How each cut is, seconds before it, and its seconds: short ones as many as long ones."""
        low, high = map(math.log, self.options.cut_seconds)
        return [
            (
                self.random.choice(["both", "both", "there", "back"]),
                round(self.random.uniform(*self.options.up_seconds), 2),
                round(math.exp(self.random.uniform(low, high)), 2),
            )
            for _ in range(self.options.cuts)
        ]

    def round(self, way: str, up: float, seconds: float) -> None:
        """A cut, and a heal."""
        time.sleep(up)
        self.network.cut(way)
        time.sleep(seconds)
        self.network.heal()
        self.cuts.append({"way": way, "seconds": seconds})
        print(json.dumps({"cut": len(self.cuts), **self.cuts[-1]}), flush=True)

    def run(self) -> dict[str, Any]:
        """All of it; what each program saw."""
        plan = self.plan()
        length = sum(up + seconds for _, up, seconds in plan)
        rate = self.each / length  # so it is published until the last heal
        bound = length * 2 + BOUND_S
        readers = [self.start("read", i, total=self.total, bound=bound) for i in (0, 3)]
        publishers = [
            self.start("publish", i, count=self.each, rate=rate, flights=str(FLIGHTS))
            for i in range(len(SITES))
        ]
        for process in publishers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for cut in plan:
            self.round(*cut)
        healed = time.monotonic()
        published = [_result(process, bound) for process in publishers]
        ended = time.monotonic()
        live = [_result(process, BOUND_S + 60) for process in readers]
        caught = time.monotonic() - 3.0
        stored = []
        for i in range(len(SITES)):
            process = self.start("read", i, total=self.total, bound=BOUND_S)
            stored.append(_result(process, BOUND_S + 60))
        return {
            "published": published, "live": live, "stored": stored, "rate": round(rate),
            "published_after_heal_s": round(ended - healed, 1),
            "caught_up_s": round(caught - max(healed, ended), 1), "wire": self.network.heal(),
        }  # fmt: skip


def _result(process: subprocess.Popen[str], bound: float) -> dict[str, Any]:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], bound)[0]:
        process.kill()
    line = process.stdout.readline()
    said = process.communicate()[1]
    assert line, said[-4000:]
    found: dict[str, Any] = json.loads(line)
    return found


def judge(seen: dict[str, Any], total: int) -> tuple[dict[str, Any], list[str]]:
    """Counts, and what was not kept."""
    faults = []
    confirmed = sum(one["confirmed"] for one in seen["published"])
    if confirmed != total:
        refused = [one["refused"] for one in seen["published"]]
        faults.append(f"{confirmed} of {total} were confirmed: {refused}")
    first = seen["stored"][0]
    for kind in ("live", "stored"):
        for one in seen[kind]:
            who = f"{kind} {one['name']}"
            if one["records"] != total or one["count"] != total or one["missed"]:
                faults.append(
                    f"{who}: {one['records']} records in {one['count']} of {total}, "
                    f"{one['missed']} missed"
                )
            if one["doubled"]:
                faults.append(f"{who} has records twice: {one['doubled']}")
            faults += [f"{who}: {fault}" for fault in one["faults"]]
            if one["sums"] != first["sums"]:
                other = [s for s in first["sums"] if one["sums"].get(s) != first["sums"][s]]
                faults.append(f"{who} differs from {first['name']} in {other[:5]}")
    counts = {
        "records": total, "confirmed": confirmed, "streams": len(first["sums"]),
        "by_site": first["sites"], "readers": len(seen["live"]) + len(seen["stored"]),
        "doubled": sum(len(one["doubled"]) for one in [*seen["live"], *seen["stored"]]),
        "rate_of_each": seen["rate"], "published_after_heal_s": seen["published_after_heal_s"],
        "caught_up_s": seen["caught_up_s"], "frames": seen["wire"],
    }  # fmt: skip
    return counts, faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Two sites on a bad line that is cut.")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--round-trip", type=float, default=200, help="ms")
    parser.add_argument("--loss", type=float, default=0.02, help="share of the frames, each way")
    parser.add_argument("--cut-seconds", type=_span, default=(1.0, 60.0), help="shortest,longest")
    parser.add_argument("--up-seconds", type=_span, default=UP_S, help="shortest,longest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    if why_not():
        sys.exit(f"links: {why_not()}")
    begin = time.monotonic()
    with (
        ended_by_signals(),  # so that no host is left behind
        FarNetwork(2, 2, options.round_trip / 2000, options.loss, options.seed) as network,
        tempfile.TemporaryDirectory() as folder,
    ):
        chaos = Chaos(network, Path(folder), options)
        counts, faults = judge(chaos.run(), chaos.total)
        cuts = chaos.cuts
    result = {
        "what": "links", "commit": about.commit(), "date": about.date(), "seed": options.seed,
        "round_trip_ms": options.round_trip, "loss": options.loss,
        "seconds": round(time.monotonic() - begin), **counts, "faults": faults, "cuts": cuts,
    }  # fmt: skip
    about.keep("links", result, options.out)
    print(json.dumps({**result, "cuts": len(cuts)}, indent=1))
    if faults:
        sys.exit("links: " + "; ".join(faults))


def _span(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    return low, high


if __name__ == "__main__":
    main()
