"""A flood of transient records from one node to another: ``python -m tests.chaos.site_flood``.

For five minutes one program publishes at one node as fast as it may, another reads at the other
node. Meanwhile the nodes' pulses must not be late, and neither may take the other for dead.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench import between_works
from meshmq.bench.target import Settings
from tests.bench import about

PULSE_P999_US = 100_000
LOOK_S = 2.0


def flood(seconds: float, size: int) -> dict[str, Any]:
    """Flood; the worst p99.9 of pulses, how often a node was lost, the rate."""
    samples: list[dict[str, Any]] = []
    over = threading.Event()

    def look(urls: tuple[str, str]) -> None:
        links = [meshmq.connect(url, route="node") for url in urls]
        try:
            while not over.wait(LOOK_S):
                for link in links:
                    site = link.admin.status()["site"]
                    (row,) = site["nodes"] or ({"state": "lost", "name": "?"},)
                    samples.append({"at": time.monotonic(), **row})
        finally:
            for link in links:
                link.close()

    def watch(urls: tuple[str, str]) -> None:
        thread = threading.Thread(target=look, args=(urls,), daemon=True)
        thread.start()

    began = time.monotonic()
    figures = between_works.flood(Settings(size=size, seconds=seconds), watch)
    over.set()
    lost = sum(row["state"] != "linked" for row in samples)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "rate": round(figures["rate"]),
        "lost_records": figures["lost"],
        "pulse_p999_us": max(row.get("pulse_p999_us") or 0 for row in samples),
        "pulse_p50_us": max(row.get("pulse_p50_us") or 0 for row in samples),
        "looks": len(samples),
        "looks_without_a_link": lost,
        "links_begun": _begun(samples),
    }


def _begun(samples: list[dict[str, Any]]) -> int:
    """How many links there were: of each node one, unless it was lost meanwhile."""
    count, last = 0, dict[str, float]()
    for row in samples:
        if row["state"] != "linked":
            continue
        since = row["at"] - row["linked_seconds"]
        if abs(last.get(row["origin"], 0.0) - since) > 1:
            count += 1
        last[row["origin"]] = since
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="A flood between two nodes.")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--out", type=Path, help="directory for the results as JSON")
    options = parser.parse_args()
    found = flood(options.seconds, options.size)
    result = {"what": "site-flood", "commit": about.commit(), "date": about.date(), **found}
    print(json.dumps(result, indent=1), flush=True)
    about.keep("site-flood", result, options.out)
    if (
        found["pulse_p999_us"] > PULSE_P999_US
        or found["looks_without_a_link"]
        or (found["links_begun"] != 2)
    ):
        sys.exit("site-flood: pulses were late, or a node was taken for dead")


if __name__ == "__main__":
    main()
