"""Publishing with a bounded window: what is sent and not yet confirmed is counted and limited.

The window is smaller than the client's own buffer, so publishing never blocks in there: waiting
happens here, on the oldest unconfirmed record, and can end with a timeout.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshmq import limits
from meshmq.cli.lines import Run
from meshmq.errors import DeadlineExceeded

if TYPE_CHECKING:
    from meshmq import Mesh

WINDOW_BYTES_MAX = limits.PRODUCER_BUFFER_BYTES_MAX // 2
RECORD_BYTES = 2 * limits.RECORD_OVERHEAD_BYTES  # what one record costs besides its value


class Window:
    """Publishes runs of lines and counts what was confirmed.

    ``send`` publishes one run and returns its receipt, or receipts where it has several lines.
    ``timeout`` is how long, in seconds, the oldest unconfirmed record may take; then
    DeadlineExceeded is raised.
    """

    def __init__(self, mesh: Mesh, send: Callable[[Run], Any], timeout: float) -> None:
        self.published_count = 0
        self.confirmed_count = 0
        self.duplicate_count = 0  # of those, lone records that were there already
        self.unheard_count = 0  # of those, records that nobody wanted
        self._mesh = mesh
        self._send = send
        self._timeout = timeout
        self._waiting: deque[tuple[Any, int, int]] = deque()  # receipt(s), records, bytes
        self._waiting_bytes = 0

    def publish(self, run: Run) -> None:
        """Publish one run, waiting first for room in the window."""
        count = len(run.values)
        size = sum(map(len, run.values)) + count * RECORD_BYTES
        self._take_done()
        while self._waiting and self._waiting_bytes + size > WINDOW_BYTES_MAX:
            self._wait_oldest(self._timeout)
            self._take_done()
        receipt = self._send(run)
        self.published_count += count
        self._waiting.append((receipt, count, size))
        self._waiting_bytes += size

    def settle(self, within: float | None = None) -> None:
        """Wait until all is confirmed; ``within`` bounds the whole wait, else each record's."""
        deadline = None if within is None else time.monotonic() + within
        while self._waiting:
            if deadline is None:
                self._wait_oldest(self._timeout)
            else:
                self._wait_oldest(max(deadline - time.monotonic(), 0.0))

    def _take_done(self) -> None:
        waiting = self._waiting
        while waiting:
            receipt, count, _ = waiting[0]
            if not (receipt.done if count == 1 else receipt[-1].done):
                return
            self._wait_oldest(self._timeout)

    def _wait_oldest(self, timeout: float) -> None:
        receipt, count, size = self._waiting[0]
        try:
            receipt.wait(timeout)
        except DeadlineExceeded:
            if timeout < self._timeout:
                raise
            raise DeadlineExceeded(
                f"nothing was confirmed for {timeout:g} s ({self._mesh.state}): "
                "what is not confirmed may or may not be stored"
            ) from None
        self._waiting.popleft()
        self._waiting_bytes -= size
        self.confirmed_count += count
        self.duplicate_count += count == 1 and receipt.duplicate
        last = receipt if count == 1 else receipt[-1]
        self.unheard_count += 0 if last.route else count
