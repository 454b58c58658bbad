"""Who waits for this node's log to be elsewhere: on other nodes of the site, or at other sites.

Data: by what they need, batches that are synced here and whose publishers wait for more, in log
order. How far copies and mirrors go is for the owner to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshmq import limits
from meshmq.core.copy_problems import CopyProblems
from meshmq.core.streams import Needs, Replica, confirms
from meshmq.errors import DurabilityTimeout
from meshmq.frames import SYNCED, Body, Confirm, Confirmation

Place = tuple[int, int]

Kept = tuple[bytes, int]
"""Of a topic: its id, and from which offset on it is here."""

Span = tuple[Place, Place]
"""Of a log, from a place on up to before another one."""


GONE = (
    "it was stored, do not resend; it is gone at its own node (by retention, as its topic was "
    "deleted, or as the job was done) before so many other sites said that they have it: keep a "
    "topic for longer than a link may be down"
)


class _Row(NamedTuple):
    place: Place
    link: bytes
    confirmation: Confirmation

    @property
    def first(self) -> Place:
        """Where it lies at the earliest: of what was sent again nobody knows where it is."""
        return (1, 0) if self.confirmation.duplicate else self.place

    @property
    def refusal(self) -> Confirmation:
        """For who waits for what is gone."""
        c = self.confirmation
        return c._replace(durability=SYNCED, code=DurabilityTimeout.code, message=GONE)

    def is_gone(self, kept: Kept) -> bool:
        """Whether it is not here any more. ``kept``: of its topic."""
        c, (topic_id, first) = self.confirmation, kept
        return c.topic_id != topic_id or (c.has_offset and c.base_offset + c.count <= first)


class CopyWaiting:
    """See the module's header.

    Args:
        problems: why copies stand still: who waits for them is told.
        reached: the place before which so many nodes, this one among them, have synced all.
        sends: frames for links.

    Attributes:
        count: batches that wait.
        synced_only: records whose publishers were not told, since too many waited.
        sites_with: of a topic, which spans other sites have synced, by site.
        why_sites: in words, who has what is at a place, and who is to have it still; the place as
            where it lies at the earliest and at the latest.
        kept_from: of a topic, its id, and from which offset on it is here. The owner sets these
            three.
    """

    def __init__(
        self,
        problems: CopyProblems,
        reached: Callable[[int], Place],
        sends: list[tuple[bytes, Body]],
    ) -> None:
        self._problems = problems
        self._reached = reached
        self._sends = sends
        self._rows: dict[Needs, deque[_Row]] = {}
        self._stood: dict[Needs, tuple[Place, int]] = {}  # of sites: what waits first, since when
        self._words: dict[Needs, str] = {}  # and what was said of that
        self.count = 0
        self.synced_only = 0
        self.sites_with: Callable[[str], dict[str, list[Span]]] = lambda topic: {}
        self.why_sites: Callable[[Needs, Span], str] = lambda needs, span: ""
        self.kept_from: Callable[[str], Kept] = lambda topic: (b"", 0)
        self._kept: dict[Needs, Kept] = {}  # of sites: from where on what waits was here

    def add(self, replicas: Iterable[Replica]) -> None:
        """Batches that are synced here; their publishers are told when they have what they need."""
        new: dict[Needs, list[_Row]] = {}
        for replica in replicas:
            if self.count >= limits.COPY_WAITING_MAX:
                self.synced_only += replica.confirmation.count
                continue
            row = _Row(replica.place, replica.link, replica.confirmation)
            self._rows.setdefault(replica.needs, deque()).append(row)
            self.count += 1
            if replica.confirmation.duplicate:
                self._kept.pop(replica.needs, None)  # it may be an old one
            new.setdefault(replica.needs, []).append(row)
        for needs, rows in new.items():
            if needs.sites:
                self._tell_new(needs, rows)
            elif self._problems:
                self._problems.tell(self._problems.of(needs.copies), _links_of(rows))
        self.release()

    def _tell_new(self, needs: Needs, rows: list[_Row]) -> None:
        """Words are told at once while those before wait for long."""
        if words := self._words.get(needs):
            self._problems.tell(words, _links_of(rows))

    def release(self) -> None:
        """Copies or mirrors have come further: tell those whose batches are behind that."""
        done: dict[bytes, list[Confirmation]] = {}
        self._drop_gone()
        for needs, rows in self._rows.items():
            for row in self._take(needs, rows) if rows else ():
                self.count -= 1
                done.setdefault(row.link, []).append(row.confirmation)
        for link, confirmations in done.items():
            self._sends += [(link, frame) for frame in confirms(confirmations)]
        self._rows = {needs: rows for needs, rows in self._rows.items() if rows}

    def _drop_gone(self) -> None:
        """What retention has taken here goes to no other site any more, though mirrors come further
        than that: who waits for it is told."""
        before, self._kept = self._kept, {}
        for needs, rows in self._rows.items():
            if not needs.sites:
                continue
            self._kept[needs] = kept = self.kept_from(needs.topic)
            if kept == before.get(needs):
                continue
            left = deque([row for row in rows if not row.is_gone(kept)])
            if len(left) < len(rows):
                self.count -= len(rows) - len(left)
                self._rows[needs] = left
                for row in rows:
                    if row.is_gone(kept):
                        self._sends.append((row.link, Confirm((row.refusal,))))

    def _take(self, needs: Needs, rows: deque[_Row]) -> list[_Row]:
        found = []
        if not needs.sites:
            reached = self._reached(needs.copies)
            while rows and rows[0].place < reached:
                found.append(rows.popleft())
            return found
        sites = [*self.sites_with(needs.topic).values()]
        if len(sites) < needs.sites:
            return found
        # Sites that have something only from some place on may have what is behind the first one.
        is_in_order = all(since <= rows[0].first for spans in sites for since, _ in spans)
        kept: deque[_Row] = deque()
        while rows:
            row = rows.popleft()
            has = sum([any(a <= row.first and row.place < b for a, b in spans) for spans in sites])
            if has >= needs.sites:
                found.append(row)
                continue
            kept.append(row)
            if is_in_order:
                break
        rows.extendleft(reversed(kept))
        return found

    def tell_problems(self) -> None:
        """What is wrong with the copies has changed."""
        for needs, rows in self._rows.items():
            if not needs.sites:
                self._problems.tell(self._problems.of(needs.copies), _links_of(rows))

    def tell_sites(self, now_ns: int) -> None:
        """Time has passed: who has waited for sites for long is told for which."""
        stood, self._stood = self._stood, {}
        words, self._words = self._words, {}
        for needs, rows in self._rows.items():
            if not needs.sites or not rows:
                continue
            place = rows[0].place
            before, since_ns = stood.get(needs, (place, now_ns))
            self._stood[needs] = place, since_ns if before == place else now_ns
            if now_ns - self._stood[needs][1] < limits.COPIES_TOLD_NS:
                continue
            self._words[needs] = why = self.why_sites(needs, (rows[0].first, place))
            if why != words.get(needs):
                self._problems.tell(why, _links_of(rows))

    def drop_client(self, link: bytes) -> None:
        """Nobody is told over this link any more."""
        for needs, rows in self._rows.items():
            if any(row.link == link for row in rows):
                self._rows[needs] = deque([row for row in rows if row.link != link])
        self.count = sum(map(len, self._rows.values()))

    def for_sites(self) -> list[dict[str, object]]:
        """What waits for other sites, as ``status`` shows it."""
        return [
            {
                "topic": needs.topic, "sites": needs.sites, "batches": len(rows),
                "problem": self._words.get(needs, ""),
            }
            for needs, rows in self._rows.items()
            if needs.sites and rows
        ]  # fmt: skip


def _links_of(rows: Iterable[_Row]) -> list[tuple[bytes, Confirmation]]:
    return [(row.link, row.confirmation) for row in rows]
