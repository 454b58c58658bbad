"""Go on where the last run ended: the position is kept in a file, beside what was done with it.

Run it twice: no record comes twice and none is left out. Needs a node: `meshmq node`.
Usage: resume_from_position.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import meshmq

BATCH = 5


def main(file: Path) -> None:
    start = file.read_text() if file.exists() else "earliest"
    with meshmq.connect() as mesh:
        for name in ("left", "right"):
            mesh.publish_many(f"examples.resume.{name}", [b"a", b"b", b"c"])
        mesh.flush(timeout=5)
        with mesh.subscribe("examples.resume.>", start=start) as sub:
            messages = sub.fetch(max_records=BATCH, timeout=5)
        for message in messages:
            print(f"{message.topic} #{message.offset} {message.value.decode()}")
        if messages:
            # Done with all of them; a program that dies before this line sees them again.
            file.write_text(str(messages[-1].position))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "position.txt"))
    except meshmq.MeshError as error:
        sys.exit(f"{error}")
