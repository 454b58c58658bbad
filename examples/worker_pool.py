"""A worker pool: jobs in a queue, several threads that do them, retries, a dead letter.

Start it several times at once: they share the jobs. Needs a node: `meshmq node`.
Usage: worker_pool.py [JOBS]
"""

from __future__ import annotations

import logging
import sys
import threading
import time

import meshmq

QUEUE = "examples.thumbnails"
WORKERS = 4


def thumbnail(job: meshmq.Job) -> str:
    """The work: what cannot be done raises, what fails now and then is tried again."""
    name = job.value.decode()
    if name.endswith(".txt"):
        raise ValueError(f"{name} is no picture")
    if name.endswith("7.jpg") and job.attempt == 1:
        raise OSError(f"{name}: the disk is busy")
    return name.replace(".jpg", "-small.jpg")


def main(count: int) -> None:
    logging.getLogger("meshmq").setLevel(logging.CRITICAL)  # it tells of every failed attempt
    made: list[str] = []
    all_made = threading.Event()
    with meshmq.connect() as mesh:
        mesh.admin.queues.create(QUEUE, max_deliveries=3, backoff=0.1)
        dead_before = mesh.admin.dlq.show(QUEUE)["records"]
        mesh.enqueue(QUEUE, b"notes.txt")
        mesh.enqueue_many(QUEUE, [b"photo-%d.jpg" % n for n in range(count)])
        mesh.flush(timeout=10)

        @mesh.worker(QUEUE, concurrency=WORKERS)
        def work(job: meshmq.Job) -> None:
            made.append(thumbnail(job))  # it returns: acked; it raises: tried again
            if len(made) == count:
                all_made.set()

        all_made.wait(timeout=20)
        while mesh.admin.dlq.show(QUEUE)["records"] == dead_before:
            time.sleep(0.05)
        work.stop()
        print(f"made {len(made)} thumbnails")
        (letter,) = mesh.admin.dlq.list(QUEUE, limit=1_000_000)[dead_before:]
        print(f"dead: {letter.value.decode()} after {letter.attempts} attempts ({letter.error})")


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    except meshmq.MeshError as error:
        sys.exit(f"{error}")
