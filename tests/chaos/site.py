"""Three nodes of a site under load, one after another ended, paused, cut off, started again:
``python -m tests.chaos.site --minutes 30``.

Ten programs publish real flights, five subscribe to all of them with ``dedup=True``, five work in a
group, four serve, four ask, each attached to one of the nodes at first. Nodes and programs are on
hosts of their own (network namespaces); every so often one node is

``killed``: SIGKILL, and started again after some seconds,
``stopped``: told to stop, and started again,
``paused``: SIGSTOP for some seconds,
``cut``: nothing comes to it from one other node, or the other way round, for some seconds.

Behind each it is waited until all nodes hold the same view. At the end: every confirmed record came
to each subscriber once, and to the group; every request has ended in time, with its own reply or an
error that has a name. With ``--copies 2 --destroy`` one node's disk is destroyed half-way.

It needs root, ``ip`` and ``nft``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench import about
from tests.bench.flights import FLIGHTS
from tests.chaos.hosts import Network, address, why_not

NODES, PRODUCERS, SUBSCRIBERS, MEMBERS, SERVERS, ASKERS = 3, 10, 5, 5, 4, 4
PORT, NODES_PORT, MESH = 5757, 5758, "chaos"
VIEW_S = 5.0
QUIET_S = 8  # of a reader: then nothing more comes


class Chaos:
    """The site, its programs and what is done to it."""

    def __init__(self, network: Network, folder: Path, seed: int, copies: int, rate: float) -> None:
        self.network, self.folder, self.copies, self.rate = network, folder, copies, rate
        self.random = random.Random(seed)
        self.nodes: list[subprocess.Popen[str] | None] = [None] * NODES
        self.programs: list[tuple[str, subprocess.Popen[str]]] = []
        self.events: list[dict[str, Any]] = []
        self.destroyed = 0

    # -- nodes ----------------------------------------------------------------------------------

    def start_node(self, index: int) -> None:
        peers = [w for i in range(NODES) if i != index
                 for w in ("--peer", f"tcp://{address(i + 1)}:{NODES_PORT}")]  # fmt: skip
        copies = ["--copies", str(self.copies)] if self.copies > 1 else []
        self.nodes[index] = self.network.node(
            self.network.hosts[index], self.data(index), "--site", "eu", "--name",
            f"node-{index + 1}", "--mesh", MESH, "--insecure", "--no-mdns", "--listen",
            f"tcp://{address(index + 1)}:{PORT}", *peers, *copies,
        )  # fmt: skip

    def data(self, index: int) -> Path:
        return self.folder / f"node-{index + 1}"

    def process(self, index: int) -> subprocess.Popen[str]:
        found = self.nodes[index]
        assert found is not None
        return found

    def status(self, index: int) -> dict[str, Any] | None:
        code, out, _ = self.network.run(
            self.network.hosts[index], "-m", "meshmq", "status", "--json", "--url",
            f"tcp://{address(index + 1)}:{PORT}", "--mesh", MESH, "--insecure",
        )  # fmt: skip
        return json.loads(out) if code == 0 else None

    def wait_view(self, healed: float) -> float:
        """Seconds from ``healed`` (wall time) until all nodes are linked with all others."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            told = [self.status(i) for i in range(NODES)]
            if all(told):
                rows = [(one["wall_time"], row) for one in told if one
                        for row in one["site"]["nodes"]]  # fmt: skip
                linked = [wall - row["linked_seconds"] for wall, row in rows
                          if row["state"] == "linked"]  # fmt: skip
                if len(linked) == NODES * (NODES - 1):
                    return max(0.0, max(linked) - healed)
            time.sleep(0.2)
        return 60.0

    # -- programs -------------------------------------------------------------------------------

    def start_programs(self) -> None:
        host = self.network.hosts[NODES]
        names = [("subscribe", SUBSCRIBERS), ("consume", MEMBERS), ("serve", SERVERS),
                 ("ask", ASKERS), ("produce", PRODUCERS)]  # fmt: skip
        for role, count in names:
            for number in range(count):
                options = {
                    "name": f"{role}-{number}", "mesh": MESH, "quiet": QUIET_S,
                    "url": f"tcp://{address(number % NODES + 1)}:{PORT}", "rate": self.rate,
                    "flights": str(FLIGHTS), "timeout": 5.0, "idempotent": number % 2,
                }  # fmt: skip
                if role == "ask":
                    options["rate"] = 20
                if role == "produce" and self.copies > 1:
                    options["durability"] = "replicated"
                process = self.network.start(
                    host, "-m", "tests.chaos.site_programs", role, json.dumps(options)
                )
                self.programs.append((role, process))
        for role, process in self.programs:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", (role, line, process.communicate()[1][-2000:])

    def finish(self, roles: tuple[str, ...]) -> list[dict[str, Any]]:
        """End these programs; what they saw."""
        chosen = [process for role, process in self.programs if role in roles]
        for process in chosen:
            assert process.stdin is not None
            process.stdin.close()
        found = []
        for process in chosen:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.wait(timeout=120)
            assert process.stderr is not None
            assert line, process.stderr.read()[-4000:]
            found.append(json.loads(line))
        return found

    # -- what is done to it ---------------------------------------------------------------------

    def round(self) -> None:
        index = self.random.randrange(NODES)
        what = self.random.choice(["killed", "killed", "stopped", "paused", "cut", "cut"])
        seconds = round(self.random.uniform(1, 8), 2)
        other = (index + self.random.choice([1, 2])) % NODES
        if what == "killed":
            self.process(index).kill()
            self.process(index).wait()
            time.sleep(seconds)
            self.start_node(index)
        elif what == "stopped":
            self.process(index).terminate()
            self.process(index).wait(timeout=30)
            time.sleep(seconds)
            self.start_node(index)
        elif what == "paused":
            self.process(index).send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.process(index).send_signal(signal.SIGCONT)
        else:
            self.network.drop(self.network.hosts[index], other + 1)
            time.sleep(seconds)
            self.network.let_through(self.network.hosts[index])
        took = self.wait_view(time.time())
        self.events.append({"what": what, "node": index + 1, "seconds": seconds,
                            "view_s": round(took, 3)})  # fmt: skip
        print(json.dumps(self.events[-1]), flush=True)

    def destroy(self) -> None:
        """One node's disk is lost: it starts again with an empty one."""
        index = self.random.randrange(NODES)
        self.process(index).kill()
        self.process(index).wait()
        shutil.rmtree(self.data(index))
        self.start_node(index)
        took = self.wait_view(time.time())
        self.destroyed = index + 1
        self.events.append({"what": "destroyed", "node": index + 1, "view_s": round(took, 3)})
        print(json.dumps(self.events[-1]), flush=True)


def judge(results: list[dict[str, Any]], views: list[float]) -> tuple[dict[str, Any], list[str]]:
    """Counts, and what was not kept."""
    by_role: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_role.setdefault(result["role"], []).append(result)
    faults: list[str] = []
    confirmed = {r["name"]: _numbers(r["confirmed"]) for r in by_role["produce"]}
    for reader in by_role["subscribe"]:
        for producer, numbers in confirmed.items():
            lost = numbers - _numbers(reader["seen"].get(producer, []))
            if lost:
                faults.append(
                    f"{reader['name']} lacks {len(lost)} of {producer}: {sorted(lost)[:5]}"
                )
        if reader["doubled"]:
            faults.append(f"{reader['name']} has records twice: {reader['doubled']}")
        if reader["back"]:
            faults.append(f"{reader['name']} went back {reader['back']} times in a stream")
    worked: dict[str, set[int]] = {}
    for member in by_role["consume"]:
        for producer, runs in member["worked"].items():
            worked.setdefault(producer, set()).update(_numbers(runs))
        if member["unsaid"]:
            faults.append(
                f"{member['name']} had {len(member['unsaid'])} records again, unsaid: "
                f"{member['unsaid'][:5]}"
            )
    for producer, numbers in confirmed.items():
        lost = numbers - worked.get(producer, set())
        if lost:
            faults.append(f"the group lacks {len(lost)} of {producer}: {sorted(lost)[:5]}")
    outcomes: Counter[str] = Counter()
    for asker in by_role["ask"]:
        outcomes.update(asker["outcomes"])
        if asker["late"] or asker["wrong"]:
            faults.append(f"{asker['name']}: late {asker['late'][:5]}, wrong {asker['wrong']}")
    late = [view for view in views if view > VIEW_S]
    if late:
        faults.append(f"views were equal only after {late} s")
    refused: Counter[str] = Counter()
    durabilities: Counter[str] = Counter()
    for one in by_role["produce"]:
        refused.update(one["refused"])
        durabilities.update(one["durabilities"])
    counts = {
        "published": sum(r["published"] for r in by_role["produce"]),
        "confirmed": sum(map(len, confirmed.values())),
        "refused": dict(refused), "durabilities": dict(durabilities),
        "requests": dict(outcomes), "views_max_s": max(views, default=0.0),
    }  # fmt: skip
    return counts, faults


def _numbers(runs: list[list[int]]) -> set[int]:
    return {n for first, last in runs for n in range(first, last + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A site under load while its nodes fail.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=50, help="records a second, each producer")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--destroy", action="store_true", help="one node's disk, half-way")
    parser.add_argument("--out", type=Path, help="directory for the results as JSON")
    options = parser.parse_args()
    if why_not():
        sys.exit(f"site: {why_not()}")
    with Network(NODES + 1) as network, tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(network, Path(folder), options.seed, options.copies, options.rate)
        for index in range(NODES):
            chaos.start_node(index)
        chaos.wait_view(time.time())
        chaos.start_programs()
        begin = time.monotonic()
        end = begin + 60 * options.minutes
        while time.monotonic() < end:
            time.sleep(chaos.random.uniform(2, 8))
            if options.destroy and not chaos.destroyed and time.monotonic() > (begin + end) / 2:
                chaos.destroy()
            chaos.round()
        time.sleep(5)
        results = chaos.finish(("produce", "ask"))
        time.sleep(3)
        results += chaos.finish(("subscribe", "consume"))
        results += chaos.finish(("serve",))
        counts, faults = judge(results, [e["view_s"] for e in chaos.events])
    result = {
        "what": "site", "commit": about.commit(), "date": about.date(), "seed": options.seed,
        "minutes": options.minutes, "copies": options.copies, "destroyed": chaos.destroyed,
        "faults_done": dict(Counter(e["what"] for e in chaos.events)), **counts, "faults": faults,
        "events": chaos.events,
    }  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k != "events"}, indent=1), flush=True)
    about.keep("site", result, options.out)
    if faults:
        sys.exit(f"site: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
