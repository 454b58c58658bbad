"""Stored batches that are damaged, had again from another node that has them.

Data: an Ask for each one that is being fetched, with the readers that wait for it.

Rules:
1. A reader that meets one waits while somebody is asked who has a copy: of our own log its copies,
   of a copy its own node and the others. With nobody to ask, or nobody who has it whole, the batch
   is told as damaged, as without copies.
2. What comes is taken if it is the same batch: its offsets, its count, its checksum. It is given to
   readers, and the disk is told to write it in its place.
3. To be asked for one damages nothing: who has it damaged too says so, and asks nobody.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from meshmq import limits
from meshmq.core.copy_sender import copied
from meshmq.core.effects import MendLog
from meshmq.core.feed import Feed, Reader
from meshmq.core.log import StoredBatch
from meshmq.core.topics import Topic
from meshmq.frames import Body
from meshmq.frames_copies import Fetch, Fetched


class Whose(NamedTuple):
    """Which log a feed reads."""

    feed: Feed
    origin: bytes


class Links(Protocol):
    """Whom to ask (core/site_copies.py)."""

    def links_with(self, origin: bytes) -> list[bytes]: ...

    def next_number(self) -> int: ...


@dataclass(slots=True, eq=False)
class _Ask:
    whose: Whose
    topic: Topic
    batch: StoredBatch
    untried: list[bytes]
    readers: list[Reader]
    link: bytes = b""
    due_ns: int = 0


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

    Attributes:
        mended, failed: batches so far.
    """

    def __init__(self, links: Links, sends: list[tuple[bytes, Body]]) -> None:
        self._links = links
        self._sends = sends
        self._asks: dict[int, _Ask] = {}  # by number of the Fetch
        self._by_key: dict[tuple[int, int], _Ask] = {}  # by stream here and offset
        self._hopeless: set[tuple[int, int]] = set()
        self._now_ns = 0
        self.effects: list[MendLog] = []
        self.mended = 0
        self.failed = 0

    def of(self, feed: Feed, origin: bytes) -> Callable[[Reader, StoredBatch], bool]:
        """What ``feed``, which reads the log of ``origin``, is to ask."""
        whose = Whose(feed, origin)
        return lambda reader, batch: self._mend(whose, reader, batch)

    def _mend(self, whose: Whose, reader: Reader, batch: StoredBatch) -> bool:
        """Whether the reader is to wait for a damaged batch."""
        key = (batch.stream, batch.base_offset)
        ask = self._by_key.get(key)
        if ask is not None:
            ask.readers.append(reader)
            return True
        if key in self._hopeless or len(self._asks) >= limits.MENDS_MAX:
            return False
        topic = whose.feed.topic_of(batch.stream)
        links = self._links.links_with(whose.origin)
        if topic is None or not links:
            return False
        self._by_key[key] = ask = _Ask(whose, topic, batch, links, [reader])
        self._try(ask)
        return True

    def _try(self, ask: _Ask) -> None:
        """Ask the next one, or give it up."""
        if not ask.untried:
            self.failed += 1
            if len(self._hopeless) >= limits.DAMAGE_TOLD_MAX:
                self._hopeless.clear()
            self._hopeless.add((ask.batch.stream, ask.batch.base_offset))
            self._end(ask)
            return
        ask.link = ask.untried.pop(0)
        ask.due_ns = self._now_ns + limits.MEND_NS
        number = self._links.next_number()
        self._asks[number] = ask
        origin, topic_id = ask.whose.origin, ask.topic.entry.topic_id
        frame = Fetch(number, origin, topic_id=topic_id, offset=ask.batch.base_offset)
        self._sends.append((ask.link, frame))

    def _end(self, ask: _Ask) -> None:
        del self._by_key[ask.batch.stream, ask.batch.base_offset]
        for reader in ask.readers:
            reader.is_mending = False
            ask.whose.feed.feed(reader)

    def on_fetched(self, link: bytes, frame: Fetched) -> bool:
        """An answer; False: to something else."""
        ask = self._asks.get(frame.number)
        if ask is None or ask.link != link:
            return False
        del self._asks[frame.number]
        b = ask.batch
        row = frame.batches[0] if frame.batches else None
        if (
            row is None
            or row.damaged
            or (row.base_offset, row.count) != (b.base_offset, b.count)
            or zlib.crc32(frame.payload) != row.checksum
            or (b.producer and b.checksum > 1 and row.checksum != b.checksum)
        ):
            self._try(ask)
            return True
        self.mended += 1
        good = b._replace(payload=frame.payload, checksum=row.checksum, damaged=False)
        ask.whose.feed.note_mended(good)
        self.effects.append(MendLog(b.stream, b.base_offset, b.count, frame.payload))
        self._end(ask)
        return True

    def drop_link(self, link: bytes) -> None:
        """Nothing more comes over it."""
        for number in [n for n, ask in self._asks.items() if ask.link == link]:
            ask = self._asks.pop(number)
            ask.untried = [other for other in ask.untried if other != link]
            self._try(ask)

    def forget(self) -> None:
        """Others have copies now: what nobody had may be had."""
        self._hopeless.clear()

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self._now_ns = now_ns
        for number in [n for n, ask in self._asks.items() if ask.due_ns <= now_ns]:
            self._try(self._asks.pop(number))
