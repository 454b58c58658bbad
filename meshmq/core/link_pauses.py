"""Links that people have paused: nothing is pulled by them, at all nodes of the site.

Data: the last word on each link, a row of the site's directory, so it is kept on disk, holds at
nodes that are away when they come back, and of two words the later one counts.

Rules:
1. A paused link wishes nothing, as if its configuration had empty ``topics``, ``live`` and
   ``services``. It stays open: what sites tell each other of takeovers, and what the other site
   pulls, go on.
2. The configuration says what there is to pause; a pause outlives what it says. So a link that is
   taken out and put back is paused still, and a node that is started without it may resume it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshmq import limits
from meshmq.core.directory import Directory
from meshmq.core.directory_rows import Stamp
from meshmq.core.link_wish import LinkWish
from meshmq.errors import CommandFailed

PAUSE, RESUME = "link.pause", "link.resume"


class LinkPauses:
    """See the module's header.

    Attributes:
        changed: is told when a link is paused or resumed, here or at another node, and what time it
            is.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.changed: Callable[[int], None] = lambda now_ns: None

    def left_of(self, wishes: Sequence[LinkWish]) -> tuple[LinkWish, ...]:
        """What is to come now of what the configuration wishes."""
        return tuple([
            wish if self.shown(wish.to) is None else wish._replace(topics=(), live=(), services=())
            for wish in wishes
        ])  # fmt: skip

    def shown(self, to: str) -> dict[str, Any] | None:
        """Who has paused the link with a site and when, as listings show it; None: nobody has."""
        row = self._directory.table.link(to)
        return _shown(row.set) if row is not None and row.paused else None

    def command(
        self, verb: str, to: str, linked: Sequence[str], now_ns: int, *, node: str
    ) -> dict[str, Any]:
        """Pause or resume a link at all nodes of the site. Raises CommandFailed.

        Args:
            linked: sites with which the configuration of our node has links.
            node: its name.
        """
        before = self.shown(to)
        if to not in linked and (verb == PAUSE or before is None):
            there = f"it has: {', '.join(sorted(linked))}" if linked else "it has none at all"
            raise CommandFailed(f"node {node} has no link to site {to!r}, {there}")
        is_pause = verb == PAUSE
        changes = is_pause != (before is not None)
        if changes:
            self._directory.set_link(to, is_pause, now_ns)
            self.changed(now_ns)
        row = self._directory.table.link(to)
        if is_pause and (row is None or not row.paused):
            raise CommandFailed(
                f"{limits.LINKS_PAUSED_MAX} links of the site are paused, the limit"
            )
        said = {} if row is None else _shown(row.set)
        return {"to": to, "paused": is_pause, "changed": changes, **said}


def _shown(stamp: Stamp) -> dict[str, Any]:
    return {"set_by": stamp.by, "set_origin": stamp.origin.hex(), "set_at_ms": stamp.unix_ms}
