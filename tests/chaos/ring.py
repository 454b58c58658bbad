"""Three sites in a ring, one is lost under load and taken over: ``python -m tests.chaos.ring``.

Each site is a node, linked with both others; at each a program publishes orders and two members of
one group work them. Then the lines of one site are cut, it goes on by itself for some seconds, and
is killed with all its programs. ``meshmq site takeover`` has another site finish its groups. Some
seconds later it comes back with its old disk, and its programs with it; what had not crossed the
lines is worked after all.

At the end, of each confirmed record: it was worked, and each time but the first it was said that it
may be a repeat. What the taker had of the lost site when that was gone is counted apart from the
tail that it had not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench.procs import ended_by_signals
from meshmq.testing.relay import Relay
from tests.bench import about
from tests.integration.sites import SiteProcess

SITES = ("eu", "us", "asia")
LOST, TAKER = "eu", "us"
MEMBERS, WORK_S = 2, 0.007
SETTLED_S, BOUND_S = 6.0, 120.0


class Ring:
    """The sites, their lines and programs."""

    def __init__(self, folder: Path, line: Relay, rate: float) -> None:
        self.folder, self.line, self.rate = folder, line, rate
        self.nodes: dict[str, SiteProcess] = {}
        self.programs: dict[str, list[subprocess.Popen[str]]] = {site: [] for site in SITES}
        self.runs = 0

    def start(self) -> None:
        """All sites, and their links: those of the lost one go over the line."""
        for site in SITES:
            config = self.folder / f"{site}.toml"
            config.write_text("")
            more = ("--site", site, "--config", str(config))
            self.nodes[site] = SiteProcess(self.folder / site, f"{site}-1", (), *more)
        for site in SITES:
            links = []
            for other in SITES:
                if other != site:
                    at = self.nodes[other].nodes_url
                    at = self.line.to(at) if LOST in (site, other) else at
                    links.append(
                        f'[[link]]\nto = "{other}"\nendpoints = ["{at}"]\ntopics = ["orders.>"]\n'
                    )
            (self.folder / f"{site}.toml").write_text("\n".join(links))
            self.nodes[site].kill()
            self.nodes[site].start()
        for site in SITES:
            _wait(lambda site=site: _linked(self.nodes[site].url) == len(SITES) - 1, "links")

    def start_programs(self, site: str) -> None:
        """Members and who publishes; a new run of the latter."""
        self.runs += 1
        names = [("work", f"{site}-work-{i}") for i in range(MEMBERS)]
        for role, name in [*names, ("feed", f"{site}-feed-{self.runs}")]:
            options = {
                "name": name, "mesh": "local", "url": self.nodes[site].url, "site": site,
                "rate": self.rate, "seconds": WORK_S, "file": str(self.folder / f"{role}.txt"),
            }  # fmt: skip
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.link_programs", role, json.dumps(options)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=about.ROOT,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", name
            self.programs[site].append(process)

    def lose(self) -> None:
        """The site burns down, with all its programs."""
        self.nodes[LOST].kill()
        for process in self.programs[LOST]:
            process.kill()
            process.communicate()
        self.programs[LOST] = []

    def takeover(self) -> str:
        """What the command says, once the taker has noticed that nobody is there."""
        _wait(lambda: _linked(self.nodes[TAKER].url) < len(SITES) - 1, "the loss is not noticed")
        argv = [sys.executable, "-m", "meshmq", "site", "takeover", LOST, "--assume-dead", "--url",
                self.nodes[TAKER].url]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def stop_feeding(self) -> None:
        for processes in self.programs.values():
            process = processes.pop()
            process.communicate("", timeout=60)

    def stop(self) -> None:
        for process in [p for processes in self.programs.values() for p in processes]:
            try:
                process.communicate("", timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        for node in self.nodes.values():
            node.stop()

    def lines(self, role: str) -> list[list[str]]:
        """What programs of a role have put down."""
        path = self.folder / f"{role}.txt"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [line.split() for line in text.splitlines()]

    def has(self, site: str, of: str) -> set[str]:
        """Records of another site that a site has."""
        found: set[str] = set()
        with (
            meshmq.connect(self.nodes[site].url, route="node") as mesh,
            mesh.subscribe(f"orders.{of}", start="earliest") as sub,
        ):
            while batch := sub.fetch(10_000, timeout=1.5):
                found |= {m.value.decode() for m in batch}
        return found

    def settle(self) -> None:
        """Until all that is confirmed was worked, or nothing more is for some seconds."""
        until, quiet, before = time.monotonic() + BOUND_S, time.monotonic(), 0
        while time.monotonic() < until and time.monotonic() - quiet < SETTLED_S:
            count = len(self.lines("work"))
            if count != before:
                before, quiet = count, time.monotonic()
            time.sleep(0.2)


def _linked(url: str) -> int:
    with meshmq.connect(url, route="node") as mesh:
        return sum(row["state"] == "linked" for row in mesh.admin.status()["site"]["links"])


def _wait(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def play(seed: int, rate: float, seconds: float) -> dict[str, Any]:
    """One round: what was confirmed, begun, and had crossed the lines."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, Relay(delay_s=0.02) as line:
        ring = Ring(Path(name), line, rate)
        try:
            ring.start()
            for site in SITES:
                ring.start_programs(site)
            time.sleep(chance.uniform(0.5, 1) * seconds)
            line.cut()
            time.sleep(chance.uniform(0.2, 2))
            ring.lose()
            mirrored = ring.has(TAKER, LOST)
            said = ring.takeover()
            time.sleep(chance.uniform(0.5, 1) * seconds)
            before = {" ".join(words[:2]) for words in ring.lines("work")}
            line.heal()
            ring.nodes[LOST].start()
            ring.start_programs(LOST)
            time.sleep(seconds / 2)
            ring.stop_feeding()
            ring.settle()
        finally:
            ring.stop()
        return {
            "confirmed": [" ".join(words) for words in ring.lines("feed")], "before": before,
            "begun": [(f"{a} {b}", again == "1", who) for a, b, again, who in ring.lines("work")],
            "mirrored": mirrored, "said": said,
        }  # fmt: skip


def judge(seen: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Counts, and what was not kept."""
    confirmed, mirrored = set(seen["confirmed"]), seen["mirrored"]
    first = f"{LOST}-feed-1 "
    tail = {record for record in confirmed if record.startswith(first)} - mirrored
    times = Counter(record for record, _, _ in seen["begun"])
    unsaid: dict[str, list[str]] = {}
    known: dict[str, str] = {}
    for record, again, who in seen["begun"]:
        if record in known and not again:
            unsaid.setdefault(record, [known[record]]).append(who)
        known.setdefault(record, who)
    lost = confirmed - set(times)
    here = [r for r, _, who in seen["begun"] if r.startswith(first) and who.startswith(TAKER)]
    counts = {
        "confirmed": len(confirmed), "mirrored": len(mirrored), "tail": len(tail),
        "begun_at_taker": len(set(here)), "tail_worked_after_return": len(
            (tail & set(times)) - seen["before"]),
        "again_and_said": sum(n - 1 for r, n in times.items() if r not in unsaid),
        "again_unsaid": len(unsaid), "lost": len(lost),
    }  # fmt: skip
    faults = []
    if lost:
        of = {"mirrored": len(lost & mirrored), "tail": len(lost & tail)}
        faults.append(f"{len(lost)} were never worked, {of}: {sorted(lost)[:5]}")
    if unsaid:
        of = {"mirrored": len(unsaid.keys() & mirrored), "tail": len(unsaid.keys() & tail)}
        faults.append(f"{len(unsaid)} were worked again, unsaid, {of}: {list(unsaid.items())[:5]}")
    return counts, faults


def main() -> None:
    parser = argparse.ArgumentParser(description="A site of three is lost, taken over, and back.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=300, help="records a second, each site")
    parser.add_argument(
        "--seconds", type=float, default=8, help="of load before and after the loss"
    )
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    rows, wrong = [], []
    for seed in range(options.seed, options.seed + options.rounds):
        with ended_by_signals():
            seen = play(seed, options.rate, options.seconds)
        counts, faults = judge(seen)
        rows.append({"seed": seed, **counts, "faults": faults})
        wrong += faults
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "what": "ring", "commit": about.commit(), "date": about.date(), "seed": options.seed,
        "rate": options.rate, "rounds": rows,
    }  # fmt: skip
    about.keep("ring", result, options.out)
    if wrong:
        sys.exit("ring: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
