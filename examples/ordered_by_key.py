"""Each aircraft's flights in order, over several workers, although some of them fail.

Real flights are keyed by tail number. A record that fails holds back its own key only; what fails
for good goes to the dead letters, and its key goes on. Needs a node: `meshmq node`.
"""

from __future__ import annotations

import gzip
import logging
import sys
import threading
import time
from collections import defaultdict
from importlib import resources

import meshmq

TOPIC = "examples.departures"
ROWS = 2000
WORKERS = 6


def read_flights() -> list[tuple[bytes, bytes]]:
    """(tail number, line) of the flights that have a tail number."""
    raw = resources.files("meshmq.data").joinpath("flights-sample.csv.gz").read_bytes()
    header, *lines = gzip.decompress(raw).splitlines()
    tail = header.split(b",").index(b"tailnum")
    return [(key, line) for line in lines[:ROWS] if (key := line.split(b",")[tail])]


def main() -> None:
    logging.getLogger("meshmq").setLevel(logging.CRITICAL)  # it tells of every failed attempt
    flights = read_flights()
    broken = {line for _, line in flights[::100]}  # these never work
    flaky = {line for _, line in flights[50::100]}  # these work when they are tried again
    with meshmq.connect() as mesh:
        receipts = mesh.publish_many(TOPIC, [v for _, v in flights], keys=[k for k, _ in flights])
        first = receipts.wait(timeout=10)[0].offset
        group = f"examples-board-{first}"  # a new one, so that it can be run again
        seen: dict[bytes, list[bytes]] = defaultdict(list)
        lock = threading.Lock()

        def show(job: meshmq.Job) -> None:
            if job.value in broken or (job.value in flaky and job.attempt == 1):
                raise ValueError("cannot be shown")
            with lock:
                seen[job.key or b""].append(job.value)

        mesh.admin.groups.create(
            group, TOPIC, order="key", start=first, max_deliveries=3, backoff=0.05
        )
        worker = mesh.worker(TOPIC, group=group, order="key", concurrency=WORKERS)(show)
        while mesh.admin.groups.show(group)["records"]:  # neither done nor dead
            time.sleep(0.1)
        worker.stop()
        wanted: dict[bytes, list[bytes]] = defaultdict(list)
        for key, line in flights:
            if line not in broken:
                wanted[key].append(line)
        print(
            f"{len(flights) - len(broken)} flights of {len(wanted)} aircraft by {WORKERS} workers"
        )
        print("each aircraft's in order:", "yes" if seen == wanted else "no")
        dead = mesh.admin.dlq.list(group)
        print(f"dead letters: {len(dead)}, each tried {max(d.attempts for d in dead)} times")
        mesh.admin.groups.delete(group)


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")
