"""``meshmq demo --nodes 3``: nodes that find each other, and programs that move to another one."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshmq.cli.boundary import CommandError
from meshmq.cli.output import say

if TYPE_CHECKING:
    from meshmq import Mesh, Message
    from meshmq.cli.demo import DemoNode, Flight

JOIN_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 30.0
SERVICE, ASK_S = "departures", 0.02


def show_site(count: int) -> None:
    """A site of ``count`` nodes; CommandError if anything is lost or doubled."""
    from meshmq.cli.demo import DemoNode, read_flights

    with tempfile.TemporaryDirectory(prefix="meshmq-demo-") as folder:
        nodes: list[DemoNode] = []
        try:
            for number in range(1, count + 1):
                peers = tuple(node.nodes_url for node in nodes)
                name = f"node-{number}"
                nodes.append(DemoNode(Path(folder) / name, name, site="demo", peers=peers))
            for node in nodes:
                node.start()
            _run(nodes, read_flights())
        finally:
            for node in nodes:
                node.stop()


def _run(nodes: list[DemoNode], flights: list[Flight]) -> None:
    import meshmq

    say(f"1. {len(nodes)} nodes of site demo are started, each told where one other is:")
    with meshmq.connect(nodes[0].url, route="node", name="tower") as tower:
        _wait_joined(tower, len(nodes) - 1)
        for row in tower.admin.status()["site"]["nodes"]:
            say(f"   {row['name']} is linked with node-1, at {row['addresses'][0]}")
        first, last = nodes[0], nodes[-1]
        with meshmq.connect(last.url, route="node", name="gate") as gate:
            reader = _Reader(gate, len(flights))
            gate.serve(SERVICE, lambda request: request.value.upper())
            say(
                "2. The tower, at node-1, publishes flights; the gate, at the last node, reads them"
            )
            say(f"   and serves {SERVICE!r}, which the tower asks all the time.")
            asker = _Asker(tower)
            receipts = _publish(tower, first, flights, reader)
            tower.flush(READ_TIMEOUT_S)
            moved = tower.admin.status()["node"]["name"]
            say(f"4. The tower is at {moved} now: what was not confirmed was published there.")
            first.start()
            say("   node-1 is started again; what it had stored is read from it.")
            reader.join(READ_TIMEOUT_S)
            asker.stop()
            reader.close()
    _report(flights, receipts, reader, asker)


def _wait_joined(mesh: Mesh, wanted: int) -> None:
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while sum(row["state"] == "linked" for row in mesh.admin.status()["site"]["nodes"]) < wanted:
        if time.monotonic() > deadline:
            raise CommandError("the demo's nodes did not find each other")
        time.sleep(0.02)


class _Reader(threading.Thread):
    """Reads all flights, wherever they are, each once."""

    def __init__(self, mesh: Mesh, wanted: int) -> None:
        super().__init__(name="reader", daemon=True)
        self._subscription = mesh.subscribe("flights.>", start="earliest", dedup=True)
        self._wanted = wanted
        self.seen: Counter[tuple[str, bytes]] = Counter()
        self.origins: Counter[str] = Counter()
        self.half = threading.Event()
        self._is_over = False
        self.start()

    def run(self) -> None:
        quiet = 0
        while not self._is_over and quiet < 3:
            for message in self._subscription.fetch(5_000, timeout=0.2):
                self._add(message)
            quiet = quiet + 1 if len(self.seen) >= self._wanted else 0

    def _add(self, message: Message) -> None:
        self.seen[message.topic, message.value] += 1
        self.origins[message.origin or ""] += 1
        if len(self.seen) > self._wanted // 4:
            self.half.set()

    def close(self) -> None:
        self._is_over = True
        self._subscription.close()


class _Asker(threading.Thread):
    """Asks the service all the time."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(name="asker", daemon=True)
        self._mesh = mesh
        self._stop_it = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.start()

    def run(self) -> None:
        import meshmq

        while not self._stop_it.wait(ASK_S):
            try:
                self._mesh.request(SERVICE, b"jfk", timeout=10, idempotent=True)
            except meshmq.MeshError as error:
                self.outcomes[type(error).__name__] += 1
            else:
                self.outcomes["replies"] += 1

    def stop(self) -> None:
        self._stop_it.set()
        self.join(15)


def _publish(mesh: Mesh, node: DemoNode, flights: list[Flight], reader: _Reader) -> list[Any]:
    half = len(flights) // 2
    receipts = [mesh.publish(f.topic, f.value, key=f.key) for f in flights[:half]]
    reader.half.wait(READ_TIMEOUT_S)
    node.kill()
    say("3. node-1 is killed (SIGKILL) in the middle.")
    return receipts + [mesh.publish(f.topic, f.value, key=f.key) for f in flights[half:]]


def _report(flights: list[Flight], receipts: list[Any], reader: _Reader, asker: _Asker) -> None:
    want = Counter((f.topic, f.value) for f in flights)
    lost = sum((want - reader.seen).values())
    doubled = sum((reader.seen - want).values())
    confirmed = sum(1 for receipt in receipts if receipt.durability == "synced")
    failed = sum(asker.outcomes.values()) - asker.outcomes["replies"]
    say("")
    for name, figure in (
        ("published", f"{len(flights):,}"),
        ("confirmed", f"{confirmed:,}"),
        ("read", f"{sum(reader.seen.values()):,} from {len(reader.origins)} nodes"),
        ("lost", f"{lost:,}"),
        ("duplicated", f"{doubled:,}"),
        ("requests", f"{sum(asker.outcomes.values()):,}, {failed:,} of them failed"),
    ):
        say(f"   {name:<18} {figure}")
    say("")
    if lost or doubled or failed or confirmed != len(flights):
        raise CommandError("the demo lost, doubled or failed something: please report this")
    say("Next: `meshmq node --site eu` on each of some hosts (docs/sites.md).")
