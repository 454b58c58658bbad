"""Runs a command for each job of a queue: threads that take, run and settle."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshmq.cli.output import emit, json_bytes, note, plural
from meshmq.cli.processes import Ended, Running, reason_of, why_of
from meshmq.cli.stopping import Stopping
from meshmq.cli.taking import FETCH_WAIT_S, tell_stale
from meshmq.errors import MeshError

if TYPE_CHECKING:
    from meshmq import Consumer, Job


LOOK_S = 1.0  # a signal that comes just before the thread falls asleep does not wake it


class Runner:
    """Runs a command for each job of a queue: a thread for each of its consumers.

    Each thread is a member of its own, so that the node sees to it that two jobs of one key never
    run at the same time where the queue has an order.
    """

    def __init__(
        self,
        consumers: Sequence[Consumer],
        command: str,
        count: int | None,
        limit: float | None,
        json: bool,
        url: str | None,
        timeout: float,
    ) -> None:
        self._consumers = consumers
        self._command = command
        self._left = count
        self._limit = limit
        self._json = json
        self._url = url
        self._timeout = timeout
        self._guard = threading.Lock()
        self._running: dict[Running, bool] = {}
        self._ended = 0  # threads
        self._done = self._failed = self._returned = 0
        self._error: BaseException | None = None
        self._ending = False  # what runs is to end, its jobs go back
        self._stopping = Stopping(self._end_all)
        self._threads = [
            threading.Thread(target=self._work, args=[consumer], name=f"worker-{n}")
            for n, consumer in enumerate(consumers)
        ]

    def run(self) -> None:
        """Work until the count is reached or a signal comes; say what was done."""
        with self._stopping:
            for thread in self._threads:
                thread.start()
            self._await_threads()
        if self._error is not None:
            raise self._error
        tell_stale(sum(consumer.stale for consumer in self._consumers))
        counts = f"{plural(self._done, 'job')} done, {self._failed:,} failed"
        if self._returned:
            counts += f", {self._returned:,} returned"
        self._stopping.end(counts)
        if not self._stopping.is_asked and not self._json:
            note(counts)

    def _await_threads(self) -> None:
        is_told = False
        while self._ended < len(self._threads):
            self._stopping.wait(LOOK_S)
            running = len(self._running)
            if self._stopping.is_asked and running and not is_told:
                note(f"finishing {plural(running, 'job')}, Ctrl-C again ends it")
                is_told = True
        for thread in self._threads:
            thread.join()

    # -- one thread's work ------------------------------------------------------------------------

    def _work(self, consumer: Consumer) -> None:
        try:
            while (job := self._take(consumer)) is not None:
                self._do(job, consumer.ack_timeout)
            consumer.close(self._timeout)  # at once: what it holds may be what others wait for
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._guard:
                self._ended += 1
            self._stopping.wake()

    def _take(self, consumer: Consumer) -> Job | None:
        """The next job; None when it is time to end."""
        while not (self._stopping.is_asked or self._error is not None or consumer.closed):
            if not self._claim():
                return None
            found = consumer.fetch(1, timeout=FETCH_WAIT_S)
            if found:
                return found[0]
            self._unclaim()
        return None

    def _claim(self) -> bool:
        """Count a job that is going to be taken; False where it would be one too many."""
        with self._guard:
            if self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            return True

    def _unclaim(self) -> None:
        """It was not taken after all."""
        with self._guard:
            if self._left is not None:
                self._left += 1

    def _do(self, job: Job, seconds: float) -> None:
        began = time.monotonic()
        running = Running(self._command, job.value, self._environment(job), self._stdout)
        with self._guard:
            self._running[running] = True
            is_late = self._ending
        if is_late:
            running.end()
        try:
            ended = running.wait(self._limit, seconds / 3, lambda: _extend(job, seconds))
        finally:
            with self._guard:
                del self._running[running]
        self._settle(job, ended, time.monotonic() - began)

    def _settle(self, job: Job, ended: Ended, seconds: float) -> None:
        reason = ""
        if ended.code == 0:
            job.ack()
            settled = "acked"
        elif self._ending:
            settled = "returned"  # by leaving
        else:
            reason = reason_of(ended)
            job.nack(reason=reason)
            settled = "nacked"
        with self._guard:
            self._done += settled == "acked"
            self._failed += settled == "nacked"
            self._returned += settled == "returned"
        if self._json:
            emit(
                {
                    "queue": job.topic,
                    "job": job.job_id,
                    "key": json_bytes(job.key),
                    "attempt": job.attempt,
                    "exit_code": ended.code,
                    "seconds": round(seconds, 3),
                    "settled": settled,
                    "reason": reason or None,
                }
            )
        elif reason:
            note(f"job {job.job_id}, attempt {job.attempt}: {why_of(ended)}")

    def _environment(self, job: Job) -> dict[bytes, bytes]:
        found = {
            b"MESHMQ_QUEUE": job.topic.encode(),
            b"MESHMQ_JOB": job.job_id.encode(),
            b"MESHMQ_KEY": (job.key or b"").replace(b"\0", b""),  # an environment takes no NUL
            b"MESHMQ_ATTEMPT": b"%d" % job.attempt,
        }
        if self._url is not None:
            found[b"MESHMQ_URL"] = self._url.encode()
        return found

    @property
    def _stdout(self) -> int:
        """Where a command's output goes: ours, unless that is for objects."""
        return 2 if self._json else 1

    def _end_all(self) -> None:
        """The second signal: commands end, at the third by force."""
        number = signal.SIGKILL if self._ending else signal.SIGTERM
        self._ending = True
        for running in list(self._running):
            running.end(number)


def _extend(job: Job, seconds: float) -> bool:
    """Keep a job while its command runs; that the node is away is no reason to stop it."""
    try:
        job.extend(seconds)
    except MeshError:
        pass
    return True
