"""Nodes that never come back: what is left of them at the others is dropped, by command.

Data: a ForgottenEntry for each log that was ever forgotten, the newest by its epoch (unix ms).

Rules:
1. A node is forgotten by a command at any node that does not see it; not while what its groups had
   not done is being moved (core/takeover.py).
2. All nodes keep what they are told of that, and tell it on: one that was away drops its copy when
   it hears of it. An epoch is acted upon once.
3. A node that is linked is not forgotten. If one comes back that was, it is told so, and from then
   on the old word says nothing (``lifted``), at all nodes: who links with it tells the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshmq import limits
from meshmq.core.log import Entry, LogState
from meshmq.core.mirror_log import ForgottenEntry
from meshmq.errors import CommandFailed
from meshmq.frames_copies import CopiesRow


class Forgetting:
    """See the module's header. What is to be stored gathers in ``entries``, sentences for people
    in ``news``.

    Attributes:
        known: by origin.
        gone: logs of which nothing is to be kept; the owner takes those that it can let go.
        told: those of which the rest of the node is to be told; the owner takes them.
    """

    def __init__(self, state: LogState) -> None:
        self._origin = state.origin
        self.known: dict[bytes, ForgottenEntry] = dict(state.forgotten)
        self.gone: set[bytes] = {o for o, e in self.known.items() if not e.lifted}
        self.told: list[bytes] = []
        self.entries: list[Entry] = []
        self.news: list[str] = []

    def is_forgotten(self, origin: bytes) -> bool:
        """Whether nothing of a log is kept."""
        known = self.known.get(origin)
        return known is not None and not known.lifted

    def missing(
        self, known: Mapping[bytes, str], there: Mapping[bytes, str], own_name: str
    ) -> dict[bytes, str]:
        """Nodes, with their names, that are not there and may come back. An older log of one that
        is there is no node."""
        names = {own_name, *there.values()}
        return {
            origin: name
            for origin, name in known.items()
            if origin not in there and name not in names and not self.is_forgotten(origin)
        }

    def forget(self, origin: bytes, name: str, now_ms: int) -> None:
        """``node forget``. Raises CommandFailed."""
        known = self.known.get(origin)
        if known is None and len(self.known) >= limits.MIRRORS_MAX:
            oldest = min(self.known.values(), key=lambda e: e.epoch)
            if not oldest.lifted and now_ms - oldest.epoch < limits.TOMBSTONE_NS // limits.MS:
                raise CommandFailed(f"{limits.MIRRORS_MAX} nodes were forgotten lately, the limit")
            del self.known[oldest.origin]
        epoch = now_ms if known is None else max(now_ms, known.epoch + 1)
        self._note(ForgottenEntry(origin, epoch, name))
        self._drop(origin)

    def told_of(self, name: object) -> dict[str, Any]:
        """The logs of a node that were forgotten when that was last said."""
        found = [e for e in self.known.values() if e.name == name and not e.lifted]
        last = max([e.epoch for e in found], default=0)
        return {"name": name, "origins": sorted(e.origin.hex() for e in found if e.epoch == last)}

    def on_rows(self, rows: tuple[CopiesRow, ...], linked: set[bytes]) -> None:
        """A sibling tells what was forgotten."""
        for row in rows:
            known = self.known.get(row.origin)
            if not row.forgotten or (known is not None and known.epoch > row.forgotten):
                continue
            if known is not None and known.epoch == row.forgotten:
                if row.lifted:
                    self.lift(row.origin)
                continue
            if known is None and len(self.known) >= limits.MIRRORS_MAX:
                del self.known[min(self.known.values(), key=lambda e: e.epoch).origin]
            is_back = row.lifted or row.origin in linked or row.origin == self._origin
            self._note(ForgottenEntry(row.origin, row.forgotten, row.name, is_back))
            if row.origin == self._origin:
                self.news.append(
                    "this node was forgotten while it was away (`meshmq node forget`): what others "
                    "had of its log was dropped, and is copied anew where that is to have copies"
                )
            elif not is_back:
                self._drop(row.origin)

    def describe(self) -> list[dict[str, Any]]:
        """As ``status`` shows it."""
        return [
            {"name": e.name, "origin": e.origin.hex(), "unix_ms": e.epoch, "lifted": e.lifted}
            for e in self.known.values()
        ]

    def lift(self, origin: bytes) -> None:
        """It is back."""
        if self.is_forgotten(origin):
            self._note(self.known[origin]._replace(lifted=True))
            self.gone.discard(origin)

    def _drop(self, origin: bytes) -> None:
        self.gone.add(origin)
        self.told.append(origin)

    def _note(self, entry: ForgottenEntry) -> None:
        self.known[entry.origin] = entry
        self.entries.append(entry)
