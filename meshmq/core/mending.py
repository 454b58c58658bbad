"""Stored batches that are damaged, had again from another node that has them.

Data: an Ask for each one that is being fetched, with the readers that wait for it; those that wait
for somebody who can be asked are ``waiting``, and those of groups that are asked for once fewer
others are under way (MENDS_MAX).

Rules:
1. A reader that meets one waits while somebody is asked who has a copy: of our own log its copies,
   of a copy its own node and the others. With nobody to ask, or nobody who has it whole, the batch
   is told as damaged, as without copies.
2. What comes is taken if it is the same batch: its offsets, its count, its checksum. It is given to
   readers, and the disk is told to write it in its place: again with each read that finds it
   damaged, for it may be so anew.
3. A group passes a record over once and for all. Its readers wait while fewer nodes can be asked
   than are to have copies, until that has been so for MEND_PATIENCE_NS; news of copies has them try
   again. Who has gone since then has not been waited for: that time begins anew. A copy that came
   with the damage, or has not come so far, says nothing of what an older one has: it does not count
   while somebody is away whose copy may be that.
4. To be asked for one damages nothing: who has it damaged too says so, and asks nobody.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from meshmq import limits
from meshmq.core.copy_sender import copied
from meshmq.core.effects import MendLog
from meshmq.core.feed import UNBOUNDED, Feed, Reader
from meshmq.core.forgetting import Forgetting
from meshmq.core.log import StoredBatch
from meshmq.core.sibling import Sibling
from meshmq.core.topics import Topic
from meshmq.frames import Body
from meshmq.frames_copies import CopiedBatch, CopiesRow, Fetch, Fetched

NO_BYTES_CHECKSUM = 1
"""In a copy, of a batch that came damaged: no bytes match it."""


class Whose(NamedTuple):
    """Which log a feed reads."""

    feed: Feed
    origin: bytes


class Links(Protocol):
    """Whom to ask (core/site_copies.py)."""

    forgetting: Forgetting

    def holders(self, origin: bytes) -> list[tuple[Sibling, CopiesRow]]: ...

    def links_with(self, origin: bytes) -> list[bytes]: ...

    def heard(self) -> dict[bytes, str]: ...

    def next_number(self) -> int: ...


@dataclass(slots=True, eq=False)
class _Ask:
    whose: Whose
    topic: Topic
    batch: StoredBatch
    untried: list[bytes]
    readers: list[Reader]
    needed: int  # so many others are to have a copy
    tried: set[bytes] = field(default_factory=set)
    is_silent: bool = False  # somebody did not answer
    asked: int = 0  # and so many have answered who would have it, were it whole at all
    link: bytes = b""
    due_ns: int = 0
    waits_ns: int | None = None  # since when it has waited for others
    is_due: bool = False  # somebody is asked as soon as there is room

    @property
    def key(self) -> tuple[int, int]:
        return self.batch.stream, self.batch.base_offset

    @property
    def is_kept(self) -> bool:
        """Whether its records have not been trimmed or deleted."""
        topic = self.whose.feed.topic_of(self.batch.stream)
        end = self.batch.base_offset + self.batch.count
        return topic is self.topic and topic.first_offset < end


@dataclass(slots=True, eq=False, kw_only=True)
class One(Reader):
    """Reads one batch for another node."""

    link: bytes
    number: int
    source: int
    sends: list[tuple[bytes, Body]]
    is_answered: bool = field(default=False)

    def take(self, batches: list[StoredBatch]) -> None:
        b = batches[0]
        rows = (copied(self.source, b),)
        self._answer(Fetched(self.number, (), rows, b.lsn, b.slot, b.payload))

    def read_done(self) -> None:
        self._answer(Fetched(self.number, code="not-found", message="that batch is not here"))

    def _answer(self, frame: Fetched) -> None:
        if not self.is_answered:
            self.is_answered = True
            self.sends.append((self.link, frame))


class Mender:
    """See the module's header. Frames gather in ``sends``, orders for the disk in ``effects``.

    Args:
        copies_of: how many nodes are to have a topic.

    Attributes:
        roster: other nodes of the site that may be there or away, by origin.
        name: our own.
        mended: batches so far.
    """

    def __init__(
        self, links: Links, sends: list[tuple[bytes, Body]], copies_of: Callable[[str], int]
    ) -> None:
        self._links = links
        self._sends = sends
        self._copies_of = copies_of
        self._asks: dict[int, _Ask] = {}  # by number of the Fetch
        self._by_key: dict[tuple[int, int], _Ask] = {}  # by stream here and offset
        self._waiting: dict[tuple[int, int], _Ask] = {}
        self._few_ns: int | None = None  # since when too few could be asked ...
        self._few_away: set[bytes] = set()  # ... and who has been away all that time
        self._hopeless: dict[tuple[int, int], int] = {}  # how many have been asked
        self._now_ns = 0
        self.roster: Callable[[], dict[bytes, str]] = dict
        self.name = ""
        self.effects: list[MendLog] = []
        self.mended = 0
        self._lost: dict[tuple[int, int], _Ask] = {}

    def describe(self) -> dict[str, int]:
        """As ``status`` shows it; ``not_mended``: that nobody had, or has had since, and that are
        kept still."""
        self._lost = {key: ask for key, ask in self._lost.items() if ask.is_kept}
        return {"mended": self.mended, "not_mended": len(self._lost), "mending": len(self._by_key)}

    def of(self, feed: Feed, origin: bytes) -> Callable[[Reader, StoredBatch], bool]:
        """What ``feed``, which reads the log of ``origin``, is to ask."""
        feed.again = self._write
        whose = Whose(feed, origin)
        return lambda reader, batch: self._mend(whose, reader, batch)

    def _mend(self, whose: Whose, reader: Reader, batch: StoredBatch) -> bool:
        """Whether the reader is to wait for a damaged batch."""
        key = (batch.stream, batch.base_offset)
        topic = whose.feed.topic_of(batch.stream)
        if topic is None:
            return False
        needed = self._copies_of(topic.entry.name) - 1 if reader.is_patient else 0
        ask = self._by_key.get(key)
        if ask is not None:
            if key in self._waiting and not reader.is_patient:
                return False
            ask.readers.append(reader)
            ask.needed = max(ask.needed, needed)
            return True
        if self._hopeless.get(key, -1) >= needed:
            return False
        links = self._links.links_with(whose.origin)
        ask = _Ask(whose, topic, batch, links, [reader], needed)
        if links and not self._room():
            if not reader.is_patient:
                return False
            ask.is_due = True
            self._waiting[key] = ask
        elif not links and not self._may_wait(ask):
            return False
        self._by_key[key] = ask
        if not ask.is_due:
            self._try(ask)
        return True

    def _room(self) -> int:
        """So many more may be asked for."""
        return max(0, limits.MENDS_MAX - len(self._asks))

    def _try(self, ask: _Ask) -> None:
        """Ask the next one, or wait for others, or give it up."""
        if not ask.untried:  # who is back since then has another link
            there = self._links.links_with(ask.whose.origin)
            ask.untried = [link for link in there if link not in ask.tried]
        if not ask.untried:
            if self._may_wait(ask):
                self._wait(ask)
            else:
                self._give_up(ask)
            return
        ask.link = ask.untried.pop(0)
        ask.tried.add(ask.link)
        ask.due_ns = self._now_ns + limits.MEND_NS
        number = self._links.next_number()
        self._asks[number] = ask
        origin, topic_id = ask.whose.origin, ask.topic.entry.topic_id
        frame = Fetch(number, origin, topic_id=topic_id, offset=ask.batch.base_offset)
        self._sends.append((ask.link, frame))

    def _may_wait(self, ask: _Ask) -> bool:
        """Whether somebody who is away may have it, and is waited for."""
        return ask.asked < ask.needed and not self._is_impatient(ask)

    def _is_impatient(self, ask: _Ask) -> bool:
        self._look_who_is_away()
        since = [at for at in (self._few_ns, ask.waits_ns) if at is not None]
        return bool(since) and self._now_ns - min(since) >= limits.MEND_PATIENCE_NS

    def _look_who_is_away(self) -> None:
        if self._few_ns is not None:
            away = self._away()
            if away - self._few_away:
                self._few_ns = None
            self._few_away &= away

    def _wait(self, ask: _Ask) -> None:
        if self._few_ns is None:
            self._few_ns, self._few_away = self._now_ns, self._away()
        if ask.waits_ns is None:
            ask.waits_ns = self._now_ns
        self._waiting[ask.key] = ask
        others = [reader for reader in ask.readers if not reader.is_patient]
        ask.readers = [reader for reader in ask.readers if reader.is_patient]
        for reader in others:
            ask.whose.feed.go_on(reader)

    def _give_up(self, ask: _Ask) -> None:
        if len(self._lost) < limits.NOT_MENDED_MAX:
            self._lost[ask.key] = ask
        if len(self._hopeless) >= limits.DAMAGE_TOLD_MAX:
            self._hopeless.clear()
        if not ask.is_silent:  # else the next reader asks again
            self._hopeless[ask.key] = max(ask.asked, ask.needed)
        self._end(ask)

    def _let_go(self, ask: _Ask) -> None:
        """Readers that need nothing of it any more: it was done meanwhile, or given away."""
        others = [reader for reader in ask.readers if not reader.needs(ask.batch)]
        ask.readers = [reader for reader in ask.readers if reader not in others]
        for reader in others:
            ask.whose.feed.go_on(reader)

    def _end(self, ask: _Ask) -> None:
        del self._by_key[ask.key]
        for reader in ask.readers:
            ask.whose.feed.go_on(reader)

    def on_fetched(self, link: bytes, frame: Fetched) -> bool:
        """An answer; False: to something else."""
        ask = self._asks.get(frame.number)
        if ask is None or ask.link != link:
            return False
        del self._asks[frame.number]
        b = ask.batch
        row = frame.batches[0] if frame.batches else None
        ask.asked += self._counts(ask, row)
        if 0 < ask.needed <= ask.asked:
            self._few_ns = None
        if (
            row is None
            or row.damaged
            or (row.base_offset, row.count) != (b.base_offset, b.count)
            or zlib.crc32(frame.payload) != row.checksum
            or (b.producer and b.checksum > NO_BYTES_CHECKSUM and row.checksum != b.checksum)
        ):
            self._try(ask)
            return True
        self.mended += 1
        self._lost.pop(ask.key, None)
        self._few_ns = None
        good = b._replace(payload=frame.payload, checksum=row.checksum, damaged=False)
        ask.whose.feed.note_mended(good)
        self._write(good)
        self._end(ask)
        return True

    def answer(
        self, link: bytes, frame: Fetch, feed: Feed | None, by_stream: Mapping[int, Topic]
    ) -> None:
        """A batch is damaged at another node: of the log that ``feed`` reads, if one is here."""
        same = [(a, t) for a, t in by_stream.items() if t.entry.topic_id == frame.topic_id]
        # Of another site's log the one that came by the strand that had it then.
        same.sort(key=lambda row: row[1].first_offset <= frame.offset < row[1].next_offset)
        found = [a for a, _ in reversed(same)]
        if feed is None or not found:
            refusal = Fetched(frame.number, code="not-found", message="that stream is not here")
            self._sends.append((link, refusal))
            return
        source = by_stream[found[0]].entry.source or found[0]
        one = One(
            "", UNBOUNDED, UNBOUNDED, is_live=True, link=link, number=frame.number,
            source=source, sends=self._sends,
        )  # fmt: skip
        feed.fetch(one, found[0], frame.offset, 1)

    def _counts(self, ask: _Ask, row: CopiedBatch | None) -> bool:
        """Whether who has answered would have the batch, had it ever been copied whole; who is away
        may have it, if not."""
        if row is not None:
            would = not (row.damaged and row.checksum == NO_BYTES_CHECKSUM)
        else:
            place = (ask.batch.lsn, ask.batch.slot)
            holders = self._links.holders(ask.whose.origin)
            would = any(s.link == ask.link and place < (r.lsn, r.slot) for s, r in holders)
        return would or not self._away()

    def _away(self) -> set[bytes]:
        """Who may have copies, and has not said of what."""
        links = self._links
        return set(links.forgetting.missing(self.roster(), links.heard(), self.name))

    def _write(self, b: StoredBatch) -> None:
        self.effects.append(MendLog(b.stream, b.base_offset, b.count, b.payload))

    def drop_link(self, link: bytes) -> None:
        """Nothing more comes over it."""
        for number in [n for n, ask in self._asks.items() if ask.link == link]:
            ask = self._asks.pop(number)
            ask.untried = [other for other in ask.untried if other != link]
            self._try(ask)

    def forget(self) -> None:
        """Others have copies now: what nobody had may be had."""
        self._hopeless.clear()
        self._look_who_is_away()
        for ask in self._waiting.values():
            ask.is_due = True
        self._try_due()

    def _try_due(self) -> None:
        """As far as there is room."""
        for key, ask in [(key, ask) for key, ask in self._waiting.items() if ask.is_due]:
            if not self._room():
                return
            del self._waiting[key]
            ask.is_due = False
            ask.untried, ask.asked = self._links.links_with(ask.whose.origin), 0
            ask.tried.clear()
            ask.is_silent = False
            self._try(ask)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self._now_ns = now_ns
        self._look_who_is_away()
        for number in [n for n, ask in self._asks.items() if ask.due_ns <= now_ns]:
            ask = self._asks.pop(number)
            ask.is_silent = True
            self._try(ask)
        self._try_due()
        for key, ask in list(self._waiting.items()):
            self._let_go(ask)
            if not ask.readers:
                del self._waiting[key], self._by_key[key]
            elif not ask.is_due and self._is_impatient(ask):
                del self._waiting[key]
                self._give_up(ask)
