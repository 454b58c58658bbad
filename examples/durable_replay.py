"""What was published stays: publish, connect again, replay from the start, an offset and a time.

Needs a node: `meshmq node`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import meshmq

TOPIC = "examples.replay"


def read(mesh: meshmq.Mesh, start: object, count: int) -> list[str]:
    """The first ``count`` values from ``start`` on."""
    found: list[str] = []
    with mesh.subscribe(TOPIC, start=start) as sub:
        while len(found) < count:
            found += [m.value.decode() for m in sub.fetch(count - len(found), timeout=5)]
    return found


def main() -> None:
    with meshmq.connect() as mesh:
        first = mesh.publish(TOPIC, b"one").wait(timeout=5).offset
        mesh.publish_many(TOPIC, [b"two", b"three"]).wait(timeout=5)
        between = datetime.now(UTC)
        mesh.publish(TOPIC, b"four").wait(timeout=5)
    # Another connection, as another program would have: all of it is there.
    with meshmq.connect() as mesh:
        print("from the first of this run:", *read(mesh, first, 4))
        print("from the third:", *read(mesh, first + 2, 2))
        print("since a time:", *read(mesh, between, 1))
        shown = mesh.admin.topics.show(TOPIC)
        print("stored in all:", shown["records"])


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")
