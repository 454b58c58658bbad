"""One thread beside the disk thread, for what may take long and what no commit should wait for.

Freeing 256 MiB takes a file system some 0.2 s, in one transaction of its journal that every sync
waits for. So what is unlinked is cut off in slices, with pauses in which commits pass.
"""

from __future__ import annotations

import os
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import diskcache

from meshmq.limits import MIB
from meshmq.shell import store_files
from meshmq.shell.segment import Segment

SLICE_BYTES = 4 * MIB  # takes some 3 ms to free
PAUSE_SHARE = 2  # after a slice, commits have so many times as long as it took
PAUSE_SECONDS_MAX = 0.1
BACKLOG_MAX = 4  # more than so many jobs that wait: no pauses


class Background:
    """Runs jobs one after the other: in a thread, or at once where ``threaded`` is false.

    Attributes:
        failure: the first error of a job, or None.
    """

    def __init__(self, threaded: bool) -> None:
        self.threaded = threaded
        self.failure: Exception | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self, job: Callable[[], None]) -> None:
        """Do ``job``; not at all if ``close`` comes before."""
        if not self.threaded:
            job()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="meshmq-files", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def remove(self, path: Path) -> None:
        """Remove a directory that ``store_files.set_aside`` renamed; the next start removes what
        is left of it."""
        self.run(lambda: self._remove(path))

    def close(self) -> None:
        """End soon: what was not begun is not done."""
        self._ending.set()
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        """Until told to end."""
        while (job := self._jobs.get()) is not None and not self._ending.is_set():
            try:
                job()
            except Exception as error:
                self.failure = self.failure or error

    def _remove(self, path: Path) -> None:
        # First the name must be gone for good: a start never finds a segment that is cut.
        store_files.sync_directory(path.parent)
        if self.threaded:
            for file in path.iterdir():
                if not self._cut(file):
                    return
        shutil.rmtree(path)

    def _cut(self, file: Path) -> bool:
        """Free a file slice by slice; whether it was done, not told to end."""
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            while size > SLICE_BYTES:
                size -= SLICE_BYTES
                began = time.monotonic()
                os.ftruncate(fd, size)
                pause = min((time.monotonic() - began) * PAUSE_SHARE, PAUSE_SECONDS_MAX)
                if self._jobs.qsize() > BACKLOG_MAX:
                    pause = 0.0
                if self._ending.wait(pause):
                    return False
        finally:
            os.close(fd)
        return True


class Spare:
    """The next segment, made ahead in the background; never two at a time."""

    def __init__(self, background: Background, log: Path) -> None:
        self._background = background
        self._log = log
        self._made: Segment | None = None
        self._is_asked = not background.threaded
        self._has_failed = False

    def ask(self) -> None:
        """Have one made, unless that is under way."""
        if not self._is_asked:
            self._is_asked = True
            self._background.run(self._make)

    def _make(self) -> None:
        try:
            self._made = Segment.prepare(self._log)
        except (OSError, sqlite3.Error, diskcache.Timeout):
            self._has_failed = True  # the roll makes one and tells what is wrong

    def take(self) -> Segment | None:
        """The one that was made, if it is ready; the next may be asked for then."""
        made, self._made = self._made, None
        if made is not None or self._has_failed:
            self._is_asked = self._has_failed = False
        return made
