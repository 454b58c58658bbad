"""A progress line on stderr, where stderr is a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

SHOW_INTERVAL_S = 0.1  # faster than anybody reads; keeps the cost off the publishing loop


class LineProgress:
    """Bytes read and records confirmed; ``size`` is the input's, or None for a pipe."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._bytes = 0
        self._next = 0.0
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(binary_units=True),
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
            )
            self._task = self._progress.add_task("publishing", total=self._size)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def add(self, byte_count: int) -> None:
        """Note bytes read from the input."""
        self._bytes += byte_count

    def show(self, confirmed_count: int) -> None:
        """Draw, at most ten times a second."""
        if self._progress is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SHOW_INTERVAL_S
        self._progress.update(
            self._task,
            completed=self._bytes,
            description=f"{confirmed_count:,} confirmed",
            refresh=True,
        )
