"""Ending in order on SIGINT or SIGTERM, for commands that hold what others wait for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Self

from meshmq.cli.boundary import Interrupted
from meshmq.cli.output import note


class Stopping:
    """Notes the first signal; the second calls ``again``, by default KeyboardInterrupt.

    Attributes:
        signal_name: the first one's, or empty.
    """

    def __init__(self, again: Callable[[], None] | None = None) -> None:
        self.signal_name = ""
        self._again = again
        self._before: dict[int, Any] = {}
        self._news: SimpleQueue[None] = SimpleQueue()

    def wait(self, seconds: float) -> None:
        """Wait for the next signal, or ``wake``, so long at most."""
        try:
            self._news.get(timeout=seconds)
        except Empty:
            pass

    def wake(self) -> None:
        """End a ``wait``, from any thread: there is something else to look at."""
        self._news.put(None)

    @property
    def is_asked(self) -> bool:
        """Whether there was a signal."""
        return bool(self.signal_name)

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._news.put(None)
        if not self.signal_name:
            self.signal_name = signal.Signals(number).name
        elif self._again is not None:
            self._again()
        else:
            raise KeyboardInterrupt

    def end(self, counts: str) -> None:
        """Say how it ended: a Ctrl-C is an interruption, what a service manager sends is not."""
        if self.signal_name == "SIGINT":
            raise Interrupted(f"interrupted after {counts}")
        if self.signal_name:
            note(f"stopped after {counts} ({self.signal_name})")
