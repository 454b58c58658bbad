"""Records and jobs taken to be shown: written to stdout, then acked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshmq.cli.output import note, plural
from meshmq.cli.stopping import Stopping
from meshmq.errors import StaleDelivery

if TYPE_CHECKING:
    from meshmq import Consumer

FETCH_RECORDS_MAX = 1000  # one write to stdout for so many at most
FETCH_WAIT_S = 0.5  # a signal is noticed so soon


def show_and_ack(
    consumer: Consumer,
    render: Callable[[Any], bytes],
    count: int | None,
    timeout: float,
    named: str = "record",
) -> None:
    """Show ``count`` records, or all until a signal; each is acked once it is written. They are
    ``named`` so where they are counted.

    Returns when every ack is on the node's disk.
    """
    shown = 0
    with Stopping() as stopping:
        while not stopping.is_asked and (count is None or shown < count):
            room = FETCH_RECORDS_MAX if count is None else count - shown
            batch = consumer.fetch(min(room, FETCH_RECORDS_MAX), timeout=FETCH_WAIT_S)
            if not batch:
                continue
            sys.stdout.buffer.write(b"".join(map(render, batch)))
            sys.stdout.buffer.flush()
            shown += len(batch)
            is_last = stopping.is_asked or shown == count
            for job in batch[:-1] if is_last else batch:
                job.ack()
            if is_last:
                try:
                    batch[-1].ack(wait=True, timeout=timeout)
                except StaleDelivery:
                    pass  # counted
    consumer.close(timeout)
    tell_stale(consumer.stale)
    stopping.end(plural(shown, named))


def tell_stale(count: int) -> None:
    """Say how many acks came too late to count."""
    if count:
        note(f"{count:,} of them were handed out again meanwhile: their acks came too late")
