"""How a site grows: control traffic, memory and convergence, simulated.

``python -m tests.bench.site_growth [--nodes 5,10,20,50] [--topics 10000] [--services 1000]``: real
cores on virtual time, a process for each size; frames go through the codec. Memory is that of the
process, shared out. Times are virtual: frames take 50 to 250 us, and work takes no time.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from meshmq import codec
from meshmq.core.directory_rows import Stamp, TopicRow
from meshmq.core.directory_table import time_of
from meshmq.core.events import FrameReceived
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.subscriber import Start
from meshmq.frames import START_NEW, Deliver, Publish
from meshmq.limits import MS, SECOND
from meshmq.testing.site_world import SiteWorld
from meshmq.testing.stage import WALL_NS

REST_NS = 10 * SECOND
MESSAGES = 200
READERS = 3


class Growth(SiteWorld):
    """A site without faults, and without programs that do as they like."""

    def __init__(self, nodes):
        super().__init__(1, nodes)
        self.parts = ()
        self.healed = True
        self.loss = self.repeat = self.late = 0.0
        self.knowing = "first"
        self.is_coded = True
        self.bounds = {}
        self.queue_bytes = 1 << 24
        self.bytes = 0
        self.is_counting = False
        self.kinds = {}
        self.rng = random.Random(1)
        for _ in range(nodes):
            self.add_member()

    def add_member(self):
        host = super().add_member()
        host.queue_bytes = 1 << 24
        host.peers = (self.members[0].address,)
        return host

    def on_carried(self, host, wire, envelope):
        kind = type(envelope.body).__name__
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.is_counting:
            self.bytes += sum(map(len, codec.encode(envelope)))

    def until(self, is_so, most=120 * SECOND, step=10 * MS):
        """Virtual seconds until something is so."""
        begun = self.now_ns
        while not is_so():
            if self.now_ns - begun > most:
                return None
            self.events = 0
            self.play(self.now_ns + step)
        return (self.now_ns - begun) / SECOND

    def count(self, span_ns):
        """Frames and bytes that all nodes send in a while, and what kinds of frames."""
        frames, self.bytes, self.is_counting, self.kinds = self.frames, 0, True, {}
        self.events = 0
        self.play(self.now_ns + span_ns)
        self.is_counting = False
        return self.frames - frames, self.bytes, dict(self.kinds)

    def directories_agree(self):
        roots = {h.node.registrar.directory.table.root for h in self.members if h.node}
        return len(roots) == 1

    def all_know(self, topics, services):
        """Whether all nodes know all topics and services."""
        tables = [h.node.registrar.directory.table for h in self.members]
        known = all(table.alive(TopicRow) >= topics for table in tables)
        return known and self.directories_agree() and self.services_known(services)

    def services_known(self, count):
        return all(len(h.node.services.by_name) >= count for h in self.members if h.node)


def memory():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(nodes, topics, services):
    world = Growth(nodes)
    before = memory()
    for host in world.members:
        host.start_node()
    found = {"nodes": nodes, "topics": topics, "services": services}
    found["cold_start_s"] = world.until(world.views_agree)
    world.count(5 * SECOND)
    empty = memory()
    found["empty_node_bytes"] = (empty - before) // nodes
    frames, size, kinds = world.count(REST_NS)
    found["rest_empty"] = rates(frames, size, nodes, REST_NS)

    for i, host in enumerate(world.members):
        world.start_program(f"p{i}", 0, host)
    world.until(lambda: all(p.client.is_connected for p in world.programs.values()))
    for i in range(topics):  # the first record makes a topic
        program = world.programs[f"p{i % nodes}"]
        publish(program, f"area{i % 100}.topic{i}")
        program.settle()
        if i % 50 == 49:
            world.events = 0
            world.play(world.now_ns + 2 * MS)
    for i in range(services):
        program = world.programs[f"p{i % nodes}"]
        program.client.serve(f"service.number{i}", 4, None, world.now_ns)
    for program in world.programs.values():
        program.settle()
    found["all_know_s"] = world.until(lambda: world.all_know(topics, services))
    world.count(5 * SECOND)
    found["full_node_bytes"] = (memory() - empty) // nodes
    frames, size, kinds = world.count(REST_NS)
    found["rest_full"] = rates(frames, size, nodes, REST_NS)
    found["rest_kinds"] = kinds
    found["message"] = message(world)

    newcomer = world.add_member()
    frames, world.bytes, world.is_counting, world.kinds = world.frames, 0, True, {}
    begun = time.process_time()
    newcomer.start_node()
    found["join_s"] = world.until(world.views_agree)
    found["join_knows_s"] = world.until(lambda: world.all_know(topics, services))
    span_ns = (found["join_s"] + found["join_knows_s"]) * SECOND
    found["join_cpu_s"] = round(time.process_time() - begun, 2)
    found["join"] = {"frames": world.frames - frames, "bytes": world.bytes, "kinds": world.kinds}
    found["join"]["at_rest_meanwhile"] = round(frames_at_rest(found, span_ns, nodes))
    return found


def measure_join(nodes, topics):
    """A node joins others that have known their topics from the start; nothing is served."""
    rows = {}
    for i in range(topics):
        set_by = Stamp(time_of(WALL_NS // MS - topics + i), bytes(16), f"n{i % nodes}")
        row = TopicRow(i.to_bytes(16, "big"), f"area{i % 100}.topic{i}", True, set_by)
        rows[row.key] = row
    world = Growth(nodes)
    for host in world.members:
        host.disk.state.directory = rows
        host.start_node()
    world.until(world.views_agree)
    world.count(3 * SECOND)
    newcomer = world.add_member()
    frames, world.bytes, world.is_counting, world.kinds = world.frames, 0, True, {}
    begun = time.process_time()
    newcomer.start_node()
    return {
        "nodes": nodes,
        "topics": topics,
        "services": 0,
        "join_s": world.until(world.views_agree),
        "join_knows_s": world.until(lambda: world.all_know(topics, 0)),
        "join_cpu_s": round(time.process_time() - begun, 2),
        "join": {"frames": world.frames - frames, "bytes": world.bytes, "kinds": world.kinds},
    }


def frames_at_rest(found, span_ns, nodes):
    return found["rest_full"]["frames_per_node_s"] * nodes * span_ns / SECOND


def rates(frames, size, nodes, span_ns):
    seconds = span_ns / SECOND
    return {
        "frames_per_node_s": round(frames / nodes / seconds, 1),
        "bytes_per_node_s": round(size / nodes / seconds),
        "frames_per_pair_s": round(frames / (nodes * (nodes - 1) / 2) / seconds, 2),
    }


def publish(program, topic):
    program.client.publisher.add(
        topic, bytes(100), None, None, None, lambda: WALL_NS, TOPIC_DEFAULT, None
    )


def message(world):
    """What one record costs that three nodes want: frames, and the work of the nodes."""
    for i in range(1, 1 + READERS):
        reader = world.programs[f"p{i}"]
        reader.client.subscribe("growth.>", Start(START_NEW), 1 << 24, 100_000, world.now_ns)
        reader.settle()
    publisher = world.programs["p0"]
    host = publisher.host
    wish = {"pattern": "growth.>", "durability": "transient"}
    publisher.client.command("topic.create", json.dumps(wish).encode(), world.now_ns)
    publisher.settle()
    world.count(3 * SECOND)
    took = []
    steps = cProfile.Profile()
    handle = host.node.handle

    def timed(event, now_ns):
        if not (isinstance(event, FrameReceived) and isinstance(event.envelope.body, Publish)):
            return handle(event, now_ns)
        if len(took) < MESSAGES // 2:
            begun = time.perf_counter()
            effects = handle(event, now_ns)
            took.append(time.perf_counter() - begun)
            return effects
        steps.enable()
        effects = handle(event, now_ns)
        steps.disable()
        return effects

    host.node.handle = timed
    world.kinds = {}
    for _ in range(MESSAGES):
        publish(publisher, "growth.x")
        publisher.settle()
        world.events = 0
        world.play(world.now_ns + 20 * MS)
    del host.node.handle
    took.sort()
    return {
        "readers_at_nodes": READERS,
        "deliver_frames": round(world.kinds.get(Deliver.__name__, 0) / MESSAGES, 2),
        "publisher_node_calls": round(pstats.Stats(steps).total_calls / (MESSAGES - len(took))),
        "publisher_node_us_p50": round(took[len(took) // 2] * 1e6, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", default="5,10,20,50")
    parser.add_argument("--topics", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--joins", action="store_true", help="a join alone, without services")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help="one size, in this process")
    given = parser.parse_args()
    if given.one:
        if given.joins:
            json.dump(measure_join(given.one, given.topics), sys.stdout)
        else:
            json.dump(measure(given.one, given.topics, given.services), sys.stdout)
        return
    rows = []
    for nodes in map(int, given.nodes.split(",")):
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.site_growth", "--one", str(nodes),
             "--topics", str(given.topics), "--services", str(given.services),
             *(["--joins"] if given.joins else [])],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        at = datetime.now(UTC)
        path = given.out / f"site-{'joins' if given.joins else 'growth'}-{at:%Y-%m-%d-%H%M%S}.json"
        path.write_text(
            json.dumps({"at": at.isoformat(timespec="seconds"), "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
