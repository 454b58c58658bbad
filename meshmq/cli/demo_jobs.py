"""The part of ``meshmq demo`` about work: a job that cannot be done, and its neighbours."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from meshmq.cli.boundary import CommandError
from meshmq.cli.output import say

if TYPE_CHECKING:
    from meshmq import Job, Mesh

QUEUE = "numbers"
JOBS = 200
POISON = 77
ATTEMPTS = 3
DONE_TIMEOUT_S = 15.0


class Office:
    """Two workers that read a number of each job, and stumble over one until they are fixed."""

    def __init__(self, mesh: Mesh) -> None:
        self.is_fixed = False
        self.done: Counter[str] = Counter()
        self.tries: list[float] = []
        self._mesh = mesh
        self._began = time.perf_counter()
        self.worker = mesh.worker(QUEUE, concurrency=2)(self.work)

    def work(self, job: Job) -> None:
        """Do one job; its number is to be a number."""
        number = job.value.decode().split(",")[1]
        if number.endswith("?") and not self.is_fixed:
            self.tries.append(time.perf_counter() - self._began)
        int(number.rstrip("?") if self.is_fixed else number)
        self.done[job.job_id] += 1

    def wait(self, count: int, dead: int) -> None:
        """Wait until so many are done and so many dead."""
        deadline = time.monotonic() + DONE_TIMEOUT_S
        while len(self.done) < count or self._mesh.admin.dlq.show(QUEUE)["records"] != dead:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the demo's jobs were not done in {DONE_TIMEOUT_S:.0f} s: please report this"
                )
            time.sleep(0.02)


def show_jobs(mesh: Mesh, first_step: int) -> list[tuple[str, str]]:
    """Put jobs, one of which is poisoned; fix the workers; put it back. Returns figures."""
    # The library logs a job that failed with its traceback; here that is the story itself.
    logging.getLogger("meshmq").setLevel(logging.CRITICAL)
    mesh.admin.queues.create(QUEUE, max_deliveries=ATTEMPTS, backoff=0.2)
    say(f"{first_step}. {JOBS} jobs go to a queue; one of them cannot be done.")
    for number in range(JOBS):
        mesh.enqueue(QUEUE, b"job %d,%d%s" % (number, number % 90, b"?" * (number == POISON)))
    mesh.flush(DONE_TIMEOUT_S)
    office = Office(mesh)
    office.wait(JOBS - 1, dead=1)
    (letter,) = mesh.admin.dlq.list(QUEUE)
    times = ", ".join(f"{t:.1f}" for t in office.tries)
    say(f"   Two workers did {len(office.done)} while that one failed {letter.attempts} times,")
    say(f"   at {times} s, and went to the dead letters:")
    say(f"   dead  {letter.value.decode()}   {letter.error}")
    say(f"{first_step + 1}. The workers are fixed, the dead letter is put back, and done.")
    office.is_fixed = True
    mesh.admin.dlq.replay(QUEUE)
    office.wait(JOBS, dead=0)
    office.worker.stop()
    twice = sum(n - 1 for n in office.done.values())
    if twice or len(office.tries) != ATTEMPTS:
        raise CommandError("the demo did a job twice, or gave one up too soon: please report this")
    return [("jobs done", f"{len(office.done):,}"), ("jobs left dead", "0")]
