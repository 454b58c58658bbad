"""Two stages over real flights: one publishes rows, one reads them and publishes mean delays.

The rows are the sample that comes with the package. Needs a node: `meshmq node`.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections import defaultdict
from datetime import UTC, datetime
from importlib import resources

import meshmq

ROWS = 2000


def publish_rows(mesh: meshmq.Mesh) -> int:
    """Stage one: a record for each flight, its tail number as key; returns how many."""
    raw = resources.files("meshmq.data").joinpath("flights-sample.csv.gz").read_bytes()
    header, *lines = gzip.decompress(raw).splitlines()
    names = header.decode().split(",")
    carrier, tail, origin = (names.index(n) for n in ("carrier", "tailnum", "origin"))
    for line in lines[:ROWS]:
        fields = line.decode().split(",")
        topic = f"examples.flights.{fields[origin]}.{fields[carrier]}"
        mesh.publish(topic, line, key=fields[tail].encode(), headers={"columns": header.decode()})
    mesh.flush(timeout=10)
    return min(ROWS, len(lines))


def publish_delays(mesh: meshmq.Mesh, start: datetime, count: int) -> int:
    """Stage two: read ``count`` rows from ``start`` on, publish each carrier's mean delay.

    Returns how many carriers there are.
    """
    delays: dict[str, list[float]] = defaultdict(list)
    seen = 0
    with mesh.subscribe("examples.flights.>", start=start) as sub:
        while seen < count:
            for message in sub.fetch(max_records=count - seen, timeout=5):
                seen += 1
                columns = message.headers["columns"].split(",")
                (row,) = csv.DictReader(io.StringIO(message.value.decode()), columns)
                if row["dep_delay"] not in ("", "NA"):
                    delays[row["carrier"]].append(float(row["dep_delay"]))
    for carrier, values in sorted(delays.items()):
        mean = sum(values) / len(values)
        mesh.publish(f"examples.delays.{carrier}", f"{mean:.1f}".encode())
    mesh.flush(timeout=10)
    return len(delays)


def main() -> None:
    began = datetime.now(UTC)
    with meshmq.connect() as mesh, mesh.subscribe("examples.delays.*") as results:
        count = publish_rows(mesh)
        print(f"published {count} rows")
        left = publish_delays(mesh, began, count)  # it may come late: what it reads is stored
        while left and (messages := results.fetch(max_records=left, timeout=5)):
            for message in messages:  # what has come so far, perhaps not all
                carrier = message.topic.rsplit(".", 1)[1]
                print(f"{carrier}: mean departure delay {message.value.decode()} min")
            left -= len(messages)


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")
