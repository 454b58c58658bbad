"""A node under load, killed again and again: ``python -m tests.bench.kills --kills 100``.

One process publishes from three threads (two share a connection) to five topics and has a live
subscriber over all of them. Another, this one, kills the node with SIGKILL at random moments,
sometimes while it starts, and starts it again. In the end every record is confirmed, and

1. each record is where its receipt says (nothing confirmed is lost),
2. nothing else is in any stream, and offsets have no gaps (nothing doubled),
3. each thread's records are in its order in every topic,
4. the live subscriber has seen exactly the same, once, in the same order.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import threading
import time
from array import array
from collections import deque
from typing import Any

import meshmq
from meshmq.bench.job import Job, ready_then_go
from meshmq.bench.procs import Node, Team, node_argv
from tests.bench import about, report

TOPICS = [f"kills.{i}" for i in range(5)]
THREADS = 3
BURST, PAUSE_SECONDS = 40, 0.004  # about 10,000 a second and thread while the node is there
NUMBER = struct.Struct("<Q")
THREAD_SHIFT = 48  # a value's number: thread above, sequence below
UP_SECONDS = (0.05, 1.0)  # a node lives so long between its ready line and its end
START_KILL_SHARE = 0.15  # so many of the kills come before the ready line
SETTLE_SECONDS = 120.0
MODULE = __name__ if __name__ != "__main__" else "tests.bench.kills"


class Producer(threading.Thread):
    """Publishes numbered records until told to stop, and notes where each was confirmed."""

    def __init__(self, mesh: meshmq.Mesh, index: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.mesh, self.index, self.stop = mesh, index, stop
        self.count = 0
        self.places: list[tuple[str, int, int]] = []  # topic, offset, number
        self.errors: list[str] = []
        self._open: deque[tuple[str, int, meshmq.Receipt]] = deque()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                for _ in range(BURST):
                    number = self.index << THREAD_SHIFT | self.count
                    topic = TOPICS[self.count % len(TOPICS)]
                    receipt = self.mesh.publish(topic, NUMBER.pack(number), key=b"k")
                    self._open.append((topic, number, receipt))
                    self.count += 1
                self._collect()
                time.sleep(PAUSE_SECONDS)
            self.mesh.flush(SETTLE_SECONDS)
            while self._open:
                self._open[0][2].wait(SETTLE_SECONDS)
                self._collect()
        except meshmq.MeshError as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _collect(self) -> None:
        """Take confirmed receipts; ``wait`` raises what a refused record was refused for."""
        while self._open and self._open[0][2].done:
            topic, number, receipt = self._open.popleft()
            offset = receipt.wait(0).offset
            if offset is None or receipt.durability != "synced":
                self.errors.append(f"{topic}: confirmed as {receipt.durability} at {offset}")
                continue
            self.places.append((topic, offset, number))


class Watcher(threading.Thread):
    """The live subscriber: numbers per topic as they came, and offsets that were not the next."""

    def __init__(self, sub: meshmq.Subscription) -> None:
        super().__init__(daemon=True)
        self.sub = sub
        self.seen = {topic: array("Q") for topic in TOPICS}
        self.count = 0
        self.skips = 0
        self.expected = sys.maxsize
        self.errors: list[str] = []

    def run(self) -> None:
        try:
            quiet_from = time.monotonic()
            while self.count < self.expected or time.monotonic() - quiet_from < 1.0:
                for message in self.sub.fetch(1000, timeout=0.2):
                    take(message, self.seen, self)
                    quiet_from = time.monotonic()
                if time.monotonic() - quiet_from > SETTLE_SECONDS:
                    self.errors.append(f"nothing came for {SETTLE_SECONDS:g} s")
                    return
        except meshmq.MeshError as error:
            self.errors.append(f"{type(error).__name__}: {error}")


class _Counter:
    def __init__(self) -> None:
        self.count = 0
        self.skips = 0


def take(message: meshmq.Message, seen: dict[str, array[int]], to: Watcher | _Counter) -> None:
    """Add one record to what was seen; its offset has to be the next of its topic."""
    numbers = seen[message.topic]
    to.skips += message.offset != len(numbers)
    numbers.append(NUMBER.unpack(message.value)[0])
    to.count += 1


def _replay(url: str, count: int) -> tuple[dict[str, array[int]], int]:
    """All that is stored, per topic, and how many offsets were not the next."""
    seen, counter = {topic: array("Q") for topic in TOPICS}, _Counter()
    with (
        meshmq.connect(url, route="node") as mesh,
        mesh.subscribe("kills.>", start="earliest") as sub,
    ):
        while batch := sub.fetch(4096, timeout=10 if counter.count < count else 1):
            for message in batch:
                take(message, seen, counter)
    return seen, counter.skips


def _disorder(seen: dict[str, array[int]]) -> int:
    """Records that come after a later one of the same thread."""
    wrong = 0
    for numbers in seen.values():
        last = [-1] * THREADS
        for number in numbers:
            thread, sequence = number >> THREAD_SHIFT, number & ((1 << THREAD_SHIFT) - 1)
            wrong += sequence <= last[thread]
            last[thread] = max(last[thread], sequence)
    return wrong


def load(job: Job) -> dict[str, Any]:
    """The load: publish and watch until a line comes on standard input, then check everything."""
    with (
        meshmq.connect(job.address, route="node") as first,
        meshmq.connect(job.address, route="node") as second,
        meshmq.connect(job.address, route="node") as third,
    ):
        for topic in TOPICS:
            first.admin.topics.create(topic)
        stop = threading.Event()
        producers = [
            Producer(mesh, i, stop) for i, mesh in enumerate([first, first, second][:THREADS])
        ]
        with third.subscribe("kills.>", start="earliest") as sub:
            watcher = Watcher(sub)
            ready_then_go()
            for thread in (watcher, *producers):
                thread.start()
            sys.stdin.readline()
            stop.set()
            for producer in producers:
                producer.join(2 * SETTLE_SECONDS)
            watcher.expected = sum(producer.count for producer in producers)
            watcher.join(2 * SETTLE_SECONDS)
    errors = [error for producer in producers for error in producer.errors] + watcher.errors
    return _check(job.address, producers, watcher, errors)


def _check(
    url: str, producers: list[Producer], watcher: Watcher, errors: list[str]
) -> dict[str, Any]:
    published = sum(producer.count for producer in producers)
    confirmed = sum(len(producer.places) for producer in producers)
    stored, gaps = _replay(url, published)
    lost, numbers = 0, {number for seen in stored.values() for number in seen}
    for producer in producers:
        for topic, offset, number in producer.places:
            at_place = offset < len(stored[topic]) and stored[topic][offset] == number
            lost += not at_place
    total = sum(map(len, stored.values()))
    return {
        "published": published,
        "confirmed": confirmed,
        "stored": total,
        "lost": lost,
        "doubled": total - len(numbers),
        "out_of_order": _disorder(stored),
        "gaps": gaps,
        "live_received": watcher.count,
        "live_differs": int(any(watcher.seen[topic] != stored[topic] for topic in TOPICS)),
        "live_skips": watcher.skips,
        "errors": errors[:20],
    }


ROLES = {"load": load}


def _kill_and_restart(team: Team, node: Node, chance: random.Random) -> tuple[Node, int]:
    """One life of the node ends, the next begins; returns it and the kills it took (1 or more)."""
    time.sleep(chance.uniform(*UP_SECONDS))
    team.stop(node.process, 0.0)
    kills = 1
    while chance.random() < START_KILL_SHARE:
        starting = team.server(node_argv(node.data, node.url), "starting")
        time.sleep(chance.uniform(0.0, 0.5))
        team.stop(starting, 0.0)
        kills += 1
    return Node(team, node.data, node.url), kills


def _run(kills_wanted: int, seed: int, directory: Any) -> dict[str, Any]:
    chance = random.Random(seed)
    begin = time.monotonic()
    with Team(directory) as team:
        node = Node(team)
        role = team.role(MODULE, "load", Job(node.url))
        role.wait_ready()
        role.go()
        kills, slowest = 0, 0.0
        while kills < kills_wanted:
            node, more = _kill_and_restart(team, node, chance)
            kills += more
            slowest = max(slowest, node.start_seconds)
            if role.popen.poll() is not None:
                break
        role.go()  # any line ends the load
        found = role.result(6 * SETTLE_SECONDS)
    return {
        "date": about.date(),
        "commit": about.commit(),
        "seed": seed,
        "kills": kills,
        "seconds": round(time.monotonic() - begin, 1),
        "slowest_start_seconds": round(slowest, 3),
        **found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, help="when the kills come; default: a random one")
    parser.add_argument("--dir", help="where all data go meanwhile")
    parser.add_argument("--json", help="write the result here instead")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    result = _run(options.kills, seed, options.dir)
    for name, value in result.items():
        print(f"{name:22} {value:,}" if isinstance(value, int) else f"{name:22} {value}")
    bad = ("lost", "doubled", "out_of_order", "gaps", "live_differs", "live_skips", "errors")
    wrong = [name for name in bad if result[name]]
    whole = result["published"] == result["confirmed"] == result["stored"]
    report.write_result("kills", result, options.json)
    good = whole and not wrong
    print("every promise kept" if good else f"BROKEN: {', '.join(wrong) or 'counts differ'}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(report.run(main))
