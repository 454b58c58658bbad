"""Why copies of this node's log stand still, as the nodes that are to have them say it.

Data: by node its words, while its copy stands still; of who waits for copies, who was told of that.

Rules:
1. A node says it when its copy stops, and with it how far that goes; what is synced there later
   takes it back.
2. Who waits for such a copy is told why, with the first confirmation once more: so a program that
   waits no longer can say what it waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshmq.core.copy_sender import Sender
from meshmq.core.streams import confirms
from meshmq.frames import SYNCED, Body, Confirmation


class CopyProblems:
    """See the module's header.

    Args:
        level_of: what a node copies, as in AskCopy; 0: nothing.
        names: of nodes, by origin.
        sends: frames for links.
    """

    def __init__(
        self,
        level_of: Callable[[bytes], int],
        names: Mapping[bytes, str],
        sends: list[tuple[bytes, Body]],
    ) -> None:
        self._level_of = level_of
        self._names = names
        self._sends = sends
        self._words: dict[bytes, str] = {}

    def note(self, origin: bytes, words: str) -> bool:
        """A node says how its copy stands; whether that is news."""
        before = self._words.pop(origin, "")
        if words:
            self._words[origin] = words
        return words != before

    def of(self, copies: int) -> str:
        """Why so many copies are not reached, as far as nodes have said it; or empty."""
        return "; ".join(
            [
                f"node {self._names.get(origin, origin.hex()[:8])!r}: {words}"
                for origin, words in self._words.items()
                if 0 < self._level_of(origin) < copies
            ]
        )

    def __bool__(self) -> bool:
        return bool(self._words)

    def tell(self, why: str, rows: Iterable[tuple[bytes, Confirmation]]) -> None:
        """Tell those who wait why, each with its link; rule 2."""
        last = {(link, c.topic): c for link, c in rows}  # one for each: it is said of the topic
        by_link: dict[bytes, list[Confirmation]] = {}
        for (link, _), c in last.items():
            said = c._replace(durability=SYNCED, more=True, message=why)
            by_link.setdefault(link, []).append(said)
        for link, said_to in by_link.items():
            self._sends += [(link, frame) for frame in confirms(said_to)]

    def describe(self, senders: Mapping[bytes, Sender], committed: int) -> list[dict[str, Any]]:
        """Nodes that copy this one's log, or are to, as ``status`` shows them."""
        rows = []
        for origin in dict.fromkeys([*senders, *self._words]):
            sender = senders.get(origin)
            caught_up = sender is not None and sender.is_caught_up
            row = {
                "name": self._names.get(origin, origin.hex()[:8]),
                "origin": origin.hex(),
                "level": self._level_of(origin) if sender is None else sender.level,
                "lsn": 0 if sender is None else sender.copied[0],
                "caught_up": caught_up,
                "lag_commits": None,
                "problem": self._words.get(origin, ""),
            }
            if sender is not None:
                row["lag_commits"] = 0 if caught_up else committed + 1 - sender.copied[0]
            rows.append(row)
        return rows
