"""Nodes of a site on hosts of their own, started at once: ``python -m tests.chaos.site_join``.

How long it takes until each is linked with each other one, by mDNS alone and by a peers list alone:
from the start of the processes, and from when the last of them said that it is ready.

Needs root and ``ip``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from tests.bench import about
from tests.chaos.hosts import Network, address, why_not

NODES = 5
GOALS_S = {"mdns": 3.0, "peers": 1.0}
PORT, NODES_PORT = 5757, 5758


def join(network: Network, folder: Path, how: str) -> dict[str, float]:
    """Start all nodes at once; seconds until they are one mesh."""
    mesh = f"site-{uuid.uuid4().hex[:8]}"
    lab = ("--mesh", mesh, "--insecure")
    processes = []
    began = time.time()
    for number, host in enumerate(network.hosts, 1):
        found = ["--no-mdns"] if how == "peers" else []
        if how == "peers" and number > 1:
            found += ["--peer", f"tcp://{address(1)}:{NODES_PORT}"]
        processes.append(
            network.start(
                host, "-m", "meshmq", "node", "--site", "eu", "--name", f"node-{number}",
                "--listen", f"tcp://0.0.0.0:{PORT}", "--data", folder / f"{mesh}-{number}", *lab,
                *found,
            )
        )  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stderr is not None
        assert " ready at " in process.stdout.readline(), process.stderr.read()
    ready = time.time()
    deadline = time.monotonic() + 20
    while True:
        time.sleep(0.5)
        statuses = [status(network, host, lab) for host in network.hosts]
        rows = [row for told in statuses for row in told["site"]["nodes"]]
        if len(rows) == NODES * (NODES - 1) and all(row["state"] == "linked" for row in rows):
            break
        assert time.monotonic() < deadline, rows
    joined = max(
        told["wall_time"] - row["linked_seconds"]
        for told in statuses
        for row in told["site"]["nodes"]
    )
    network.end()
    return {"from_start_s": round(joined - began, 3), "from_ready_s": round(joined - ready, 3)}


def status(network: Network, host: str, lab: tuple[str, ...]) -> dict[str, Any]:
    """What the node there says of itself."""
    url = f"tcp://127.0.0.1:{PORT}"
    code, out, said = network.run(host, "-m", "meshmq", "status", "--json", "--url", url, *lab)
    assert code == 0, said
    told: dict[str, Any] = json.loads(out)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="directory for the results as JSON")
    options = parser.parse_args()
    if why_not():
        sys.exit(f"cannot make hosts: {why_not()}")
    results: dict[str, Any] = {"nodes": NODES}
    with Network(NODES) as network, tempfile.TemporaryDirectory() as folder:
        for how, goal in GOALS_S.items():
            rounds = [join(network, Path(folder), how) for _ in range(options.rounds)]
            results[how] = {
                "rounds": rounds,
                "from_ready_median_s": statistics.median([r["from_ready_s"] for r in rounds]),
                "from_ready_max_s": max(r["from_ready_s"] for r in rounds),
                "from_start_max_s": max(r["from_start_s"] for r in rounds),
                "goal_s": goal,
            }
            print(how, json.dumps(results[how]), flush=True)
    found = {"what": "site-join", "commit": about.commit(), "date": about.date(), **results}
    about.keep("site-join", found, options.out)


if __name__ == "__main__":
    main()
