"""The disk thread: one thread, one store. Appends that wait go out as one commit, then reads. What
meets a full disk waits for room; nobody is told meanwhile.

Results come back as events for the core in ``results``; ``on_result`` wakes who handles them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshmq import limits
from meshmq.core.effects import Append, MendLog, PlanRetention, ReadLog, SurveyLog
from meshmq.core.events import (
    Committed,
    ReadDone,
    RetentionPlanned,
    StorageMeasured,
    Surveyed,
)
from meshmq.core.log import Entry, LogState, payload_bytes
from meshmq.errors import MeshError, StoreFailed
from meshmq.shell.store import LogStore, NoRoom

RETRY_SECONDS = 0.05  # what met a full disk is tried again
MEASURE_BYTES = 256 * limits.KIB  # a change of the room below this is not told

Result = Committed | ReadDone | RetentionPlanned | StorageMeasured | Surveyed
Other = ReadLog | PlanRetention | SurveyLog | MendLog
Job = Append | Other


class DiskThread:
    """Runs a LogStore.

    Attributes:
        results: events in the order they happened; the runner takes them from the left.
        failure: why the store can no longer be trusted, or None. Nothing is confirmed after it.
        stats: the store's counters, as of the last job.
    """

    def __init__(self, directory: Path, on_result: Callable[[], None]) -> None:
        self.results: deque[Result] = deque()
        self.failure: MeshError | None = None
        self.stats: dict[str, Any] = {}
        self._directory = directory
        self._told_free = -MEASURE_BYTES
        self._on_result = on_result
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._opened: queue.SimpleQueue[LogState | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="meshmq-disk", daemon=True)

    def open(self) -> LogState:
        """Start the thread and open the log in it; raise what the store raises."""
        self._thread.start()
        opened = self._opened.get()
        if isinstance(opened, BaseException):
            raise opened
        return opened

    def put(self, jobs: list[Job]) -> None:
        """Hand over work; appends are committed in the order given."""
        self._jobs.put(jobs)

    def close(self) -> None:
        """Finish what was handed over and close the log."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            store = LogStore.open(self._directory, background=True)
        except BaseException as error:  # handed to the thread that opens, which raises it
            self._opened.put(error)
            return
        self.stats = store.stats()
        self._measure(store)
        self._opened.put(store.state)
        try:
            self._serve(store)
        except MeshError as error:
            self.failure = error
        except Exception as error:
            self.failure = StoreFailed(f"the log failed: {type(error).__name__}: {error}")
        finally:
            try:
                store.close()
            except Exception as error:
                self.failure = self.failure or StoreFailed(f"closing the log failed: {error}")
            self._on_result()

    def _serve(self, store: LogStore) -> None:
        """Appends first, then one other job at a time: a long replay delays no confirmation."""
        others: deque[Other] = deque()
        held: list[Append] = []
        ending = False
        while not ending or others:
            waits = not (others or held or ending or store.is_rewriting)
            appends, told = self._take(others, waits)
            ending = ending or told
            is_stuck = bool(held)
            if held or appends:
                held = self._commit(store, held + appends, 0 if held else limits.COMMIT_BYTES_MAX)
            if others:
                job = others.popleft()
                try:
                    self._do(store, job)
                except NoRoom:
                    others.append(job)
                    is_stuck = True
            elif store.is_rewriting and not ending:
                store.rewrite()
            if held or is_stuck:
                if ending:
                    return
                time.sleep(RETRY_SECONDS)

    def _take(self, others: deque[Other], waits: bool) -> tuple[list[Append], bool]:
        """All that is there: appends returned, the rest put in line; and whether to end.

        ``waits`` for the first job where there is nothing else to do.
        """
        appends: list[Append] = []
        while True:
            try:
                jobs = self._jobs.get(block=waits and not (others or appends))
            except queue.Empty:
                return appends, False
            if jobs is None:
                return appends, True
            for job in jobs:
                if isinstance(job, Append):
                    appends.append(job)
                else:
                    others.append(job)

    def _do(self, store: LogStore, job: Other) -> None:
        if isinstance(job, ReadLog):
            r = store.read(job.streams, job.start, job.end_lsn, job.bytes_max, job.origin)
            self._post(ReadDone(job.reader, tuple(r.batches), r.next_lsn, r.next_slot))
        elif isinstance(job, SurveyLog):
            lsn, rows = store.survey(job.floors, job.time_ns, job.place)
            self._post(Surveyed(job.number, lsn, tuple(rows)))
        elif isinstance(job, MendLog):
            store.mend(job.stream, job.offset, job.count, job.payload)
        else:
            self._post(RetentionPlanned(tuple(store.plan_retention())))
            self.stats = store.stats()
            self._measure(store)

    def _commit(self, store: LogStore, appends: list[Append], most: int) -> list[Append]:
        """Commit in groups of about ``most`` bytes; each is answered when it is synced. Returns
        those for which the disk has no room."""
        entries: list[Entry] = []
        size = begin = 0
        for i, append in enumerate(appends):
            entries += append.entries
            size += payload_bytes(append.entries)
            if size >= most or i + 1 == len(appends):
                try:
                    commit = store.append(entries)
                except NoRoom:
                    self._measure(store)
                    return appends[begin:]
                self._measure(store)
                self._post(Committed(append.ticket, (commit,)))
                entries, size, begin = [], 0, i + 1
        return []

    def _measure(self, store: LogStore) -> None:
        """Tell how much room there is, where that has changed by what matters."""
        room = store.measure()
        if abs(room.free_bytes - self._told_free) >= MEASURE_BYTES:
            self._told_free = room.free_bytes
            self._post(StorageMeasured(*room))

    def _post(self, event: Result) -> None:
        self.results.append(event)
        self._on_result()
