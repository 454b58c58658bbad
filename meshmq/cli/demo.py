"""``meshmq demo``: two programs without a node; then one under them, that is killed; a queue."""

from __future__ import annotations

import gzip
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from meshmq.cli.boundary import CommandError
from meshmq.cli.demo_direct import RADAR, Airport
from meshmq.cli.demo_jobs import show_jobs
from meshmq.cli.output import say

if TYPE_CHECKING:
    from meshmq import Mesh, Message

PASSES = 3  # over the sample, so that the load lasts long enough to kill a node in it
LIVE_LINES_SHOWN = 4
START_TIMEOUT_S = 20.0
CONFIRM_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 10.0


class Flight(NamedTuple):
    """One record to publish."""

    topic: str
    key: bytes | None
    value: bytes


def demo(
    nodes: Annotated[
        int,
        typer.Option(min=1, max=5, help="With more than one: a site, of which one node is killed."),
    ] = 1,
    sites: Annotated[
        int,
        typer.Option(
            min=1, max=5, help="With more than one: they mirror each other over a line that is cut."
        ),
    ] = 1,
) -> None:
    """Show it all in a few seconds: no node, then one; it is killed; a replay, a job that fails.

    It needs nothing running: two programs talk directly, then a node is started under them on a
    free port of this machine, with its log in a temporary folder that is removed at the end. Exit
    code 1 if anything is lost or doubled.
    """
    if nodes > 1 and sites > 1:
        raise CommandError("give --nodes or --sites: the demo's sites have a node each")
    if sites > 1:
        from meshmq.cli.demo_links import show_sites

        show_sites(sites)
        return
    if nodes > 1:
        from meshmq.cli.demo_site import show_site

        show_site(nodes)
        return
    with tempfile.TemporaryDirectory(prefix="meshmq-demo-") as folder:
        node = DemoNode(Path(folder) / "log")
        try:
            _run(node)
        finally:
            node.stop()


class DemoNode:
    """A node in a process of its own, which can be killed and started again where it was."""

    def __init__(
        self,
        data: Path,
        name: str = "demo",
        site: str = "",
        peers: tuple[str, ...] = (),
        config: Path | None = None,
    ) -> None:
        self._data, self._name = data, name
        self.url, self.nodes_url = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
        more = ["--site", site, "--listen-nodes", self.nodes_url] if site else []
        more += ["--config", str(config)] if config else []
        self._more = [*more, *(word for peer in peers for word in ("--peer", peer))]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it says where it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "meshmq", "node", "--name", self._name, "--no-mdns",
             "--listen", self.url, "--data", str(self._data), *self._more],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if " ready at " not in line:
            raise CommandError("the demo's node did not start; `meshmq node` tells why")

    def kill(self) -> None:
        """End it as a crash does: SIGKILL, nothing is said or saved."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=DRAIN_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()


def free_port() -> int:
    """A port that the node will find free: programs are told of it before there is a node."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


class LiveReader(threading.Thread):
    """Follows ``flights.JFK.>`` and shows the first few that come."""

    def __init__(self, mesh: Mesh, wanted: int) -> None:
        super().__init__(name="live-reader", daemon=True)
        self.subscription = mesh.subscribe("flights.JFK.>")
        self.seen: list[tuple[str, int | None]] = []
        self.shown = threading.Event()
        self._wanted = wanted

    def run(self) -> None:
        for message in self.subscription:
            if len(self.seen) < LIVE_LINES_SHOWN:
                _show(message)
            else:
                self.shown.set()
            self.seen.append((message.topic, message.offset))
            if len(self.seen) == self._wanted:
                return


def _show(message: Message) -> None:
    fields = message.value.decode().split(",")
    tail = (message.key or b"-").decode()
    say(
        f"   live  {message.topic:<16} offset {message.offset:<4} {tail:<7} "
        f"{fields[1]}{fields[2]} to {fields[5]}"
    )


def read_flights() -> list[Flight]:
    """The shipped sample, PASSES times, each value unique by the pass at its end."""
    raw = resources.files("meshmq.data").joinpath("flights-sample.csv.gz").read_bytes()
    lines = gzip.decompress(raw).splitlines()[1:]
    flights = []
    for number in range(PASSES):
        for line in lines:
            fields = line.split(b",", 5)
            topic = f"flights.{fields[4].decode()}.{fields[1].decode()}"
            flights.append(Flight(topic, fields[3] or None, b"%s,%d" % (line, number)))
    return flights


def _run(node: DemoNode) -> None:
    flights = read_flights()
    say("1. There is no node. Two programs, tower and gate, talk directly:")
    with Airport(node.url) as airport:
        mesh = airport.tower
        airport.talk()
        node.start()
        say(f"2. A node is started at {node.url}, its log in a temporary folder.")
        airport.attach()
        say(f"   Both attach by themselves; {RADAR} may be lost, so it still goes directly:")
        airport.talk()
        say(f"3. {len(flights):,} records of real flights go to topics flights.<origin>.<carrier>,")
        say("   durable ones, with the tail number as key; the gate follows flights.JFK.>")
        live = LiveReader(airport.gate, sum(f.topic.startswith("flights.JFK.") for f in flights))
        live.start()
        began = time.perf_counter()
        receipts = _publish(airport, node, live, flights)
        mesh.flush(CONFIRM_TIMEOUT_S)
        seconds = time.perf_counter() - began
        say(f"   ... and publishing by itself: {' -> '.join(airport.states)}")
        live.join(DRAIN_TIMEOUT_S)
        say("5. Everything is replayed from the start and compared byte for byte.")
        began = time.perf_counter()
        replayed = _replay(mesh, len(flights))
        replay_seconds = time.perf_counter() - began
        live.subscription.close()
        jobs = show_jobs(mesh, first_step=6)
    _report(flights, receipts, replayed, live, seconds, replay_seconds, jobs)


def _publish(
    airport: Airport, node: DemoNode, live: LiveReader, flights: list[Flight]
) -> list[Any]:
    """Publish all of them, and kill the node when half are out."""
    half, mesh = len(flights) // 2, airport.tower
    receipts = [mesh.publish(f.topic, f.value, key=f.key) for f in flights[:half]]
    live.shown.wait(DRAIN_TIMEOUT_S)
    node.kill()
    say("4. The node is killed (SIGKILL) in the middle. The two still talk:")
    receipts += [mesh.publish(f.topic, f.value, key=f.key) for f in flights[half:]]
    airport.talk()
    node.start()
    say("   Flights wait for it. It is started again, and they go on ...")
    return receipts


def _replay(mesh: Mesh, wanted: int) -> list[Message]:
    messages: list[Message] = []
    with mesh.subscribe("flights.>", start="earliest") as subscription:
        while len(messages) < wanted:
            more = subscription.fetch(max_records=10_000, timeout=2.0)
            if not more:
                break
            messages += more
        # One more look: what is doubled would come after the last one wanted.
        messages += subscription.fetch(max_records=10_000, timeout=0.2)
    return messages


def _report(
    flights: list[Flight],
    receipts: list[Any],
    replayed: list[Message],
    live: LiveReader,
    seconds: float,
    replay_seconds: float,
    jobs: list[tuple[str, str]],
) -> None:
    confirmed = sum(1 for receipt in receipts if receipt.durability == "synced")
    want = Counter(flights)
    have = Counter(Flight(m.topic, m.key, m.value) for m in replayed)
    lost = sum((want - have).values())
    doubled = sum((have - want).values()) + len(live.seen) - len(set(live.seen))
    live_wanted = sum(f.topic.startswith("flights.JFK.") for f in flights)
    lost += max(0, live_wanted - len(set(live.seen)))
    rows = [
        ("published", f"{len(flights):,}"),
        ("confirmed", f"{confirmed:,}"),
        ("received live", f"{len(live.seen):,}"),
        ("replayed", f"{len(replayed):,}"),
        ("lost", f"{lost:,}"),
        ("duplicated", f"{doubled:,}"),
        ("messages a second", f"{len(flights) / seconds:,.0f} (the kill included)"),
        ("replayed a second", f"{len(replayed) / replay_seconds:,.0f}"),
        *jobs,
    ]
    say("")
    for name, figure in rows:
        say(f"   {name:<18} {figure}")
    say("")
    if lost or doubled or confirmed != len(flights) or not _in_order(flights, replayed):
        raise CommandError("the demo lost, doubled or reordered records: please report this")
    say("Next: `meshmq sub 'hello.>'` in one terminal, `meshmq pub hello.world 'hi there'` in a")
    say("      second; and the same again after `meshmq node` in a third.")


def _in_order(flights: list[Flight], replayed: list[Message]) -> bool:
    """Whether each topic's records came back in the order they were published."""
    want: dict[str, list[bytes]] = {}
    have: dict[str, list[bytes]] = {}
    for flight in flights:
        want.setdefault(flight.topic, []).append(flight.value)
    for message in replayed:
        have.setdefault(message.topic, []).append(message.value)
    return want == have
