"""Who waits for copies of this node's log.

Data: by number of copies, batches that are synced here and whose publishers wait for more, in log
order. How far copies go is for the owner to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshmq import limits
from meshmq.core.copy_problems import CopyProblems
from meshmq.core.streams import Replica, confirms
from meshmq.frames import Body, Confirmation


class _Row(NamedTuple):
    place: tuple[int, int]
    link: bytes
    confirmation: Confirmation


class CopyWaiting:
    """See the module's header.

    Args:
        problems: why copies stand still: who waits for them is told.
        reached: the place before which so many nodes, this one among them, have synced all.
        sends: frames for links.

    Attributes:
        count: batches that wait.
        synced_only: records whose publishers were not told, since too many waited.
    """

    def __init__(
        self,
        problems: CopyProblems,
        reached: Callable[[int], tuple[int, int]],
        sends: list[tuple[bytes, Body]],
    ) -> None:
        self._problems = problems
        self._reached = reached
        self._sends = sends
        self._rows: dict[int, deque[_Row]] = {}
        self.count = 0
        self.synced_only = 0

    def add(self, replicas: Iterable[Replica]) -> None:
        """Batches that are synced here; their publishers are told when their copies are too."""
        new: dict[int, list[tuple[bytes, Confirmation]]] = {}
        for replica in replicas:
            if self.count >= limits.COPY_WAITING_MAX:
                self.synced_only += replica.confirmation.count
                continue
            row = _Row(replica.place, replica.link, replica.confirmation)
            self._rows.setdefault(replica.copies, deque()).append(row)
            self.count += 1
            new.setdefault(replica.copies, []).append(row[1:])
        for copies, rows in new.items() if self._problems else ():
            self._problems.tell(copies, rows)
        self.release()

    def release(self) -> None:
        """Copies have come further: tell those whose batches are behind that."""
        done: dict[bytes, list[Confirmation]] = {}
        for copies, rows in self._rows.items():
            reached = self._reached(copies)
            while rows and rows[0].place < reached:
                row = rows.popleft()
                self.count -= 1
                done.setdefault(row.link, []).append(row.confirmation)
        for link, confirmations in done.items():
            self._sends += [(link, frame) for frame in confirms(confirmations)]

    def tell_problems(self) -> None:
        """What is wrong with the copies has changed."""
        for copies, rows in self._rows.items():
            self._problems.tell(copies, [(row.link, row.confirmation) for row in rows])

    def drop_client(self, link: bytes) -> None:
        """Nobody is told over this link any more."""
        for copies, rows in self._rows.items():
            if any(row.link == link for row in rows):
                self._rows[copies] = deque([row for row in rows if row.link != link])
        self.count = sum(map(len, self._rows.values()))
