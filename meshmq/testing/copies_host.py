"""A node of the world of copies, which handles what comes while it stands still later, in order.

A disk that answers out of order is not to be seen by a node that is to read its own log.
"""

from __future__ import annotations

from functools import partial

from meshmq.core.events import NodeEvent
from meshmq.testing.site_host import Host
from meshmq.testing.stage import Stage


class CopiesHost(Host):
    """See the module's header."""

    _held: tuple[NodeEvent, ...] = ()

    def node_event(self, event: NodeEvent) -> None:
        still_ns = self.still_until_ns - self.now_ns
        if still_ns > 0 and self.node is not None:
            if not self._held:
                self.after(still_ns, partial(self._go_on, self.epoch))
            self._held = (*self._held, event)
            return
        if self._held:
            self._go_on(self.epoch)
        Stage.node_event(self, event)

    def _go_on(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        still_ns = self.still_until_ns - self.now_ns
        if still_ns > 0:
            self.after(still_ns, partial(self._go_on, epoch))
            return
        held, self._held = self._held, ()
        for event in held:
            Stage.node_event(self, event)

    def wake(self) -> None:
        super().wake()
        self._go_on(self.epoch)

    def on_node_started(self) -> None:
        self._held = ()
        super().on_node_started()
