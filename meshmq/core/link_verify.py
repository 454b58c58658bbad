"""Whether a log has the same bytes here and at another site: ``meshmq link verify``.

Data: of each step that a program asks for a Step; of each range that a far node asks about an
Answer. Both read a stream from the disk with a Walk.

Rules:
1. A program asks step by step, and says where it is: the node keeps nothing between two of them. A
   step compares one range of one stream, of VERIFY_RANGE_BYTES at most: its end is over when it was
   reached, whatever is published meanwhile.
2. Both sides say a sum for each part of the range; the batches of a part are compared only where
   these differ. So what crosses the link is small, and no bytes of records do.
3. What is read comes from the disk, past what the node has in memory of it. A batch whose bytes do
   not match its own checksum is damaged there: that says which side is wrong. Of two that are whole
   and differ nobody can say it.
4. Who finds a batch damaged on its own disk has it mended (core/mending.py).
5. Only what both sides keep is compared: what one has trimmed, or not got yet, is no difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from meshmq import limits
from meshmq.core.delivery import Delivery
from meshmq.core.effects import ReadLog
from meshmq.core.feed import FOREIGN_BITS, Reader
from meshmq.core.log import StoredBatch, TopicEntry
from meshmq.core.mirror_feed import kept_from
from meshmq.core.sibling import Sibling
from meshmq.core.site_copies import SiteCopies
from meshmq.core.topics import Topic, Topics
from meshmq.errors import CommandFailed, InvalidName
from meshmq.frames import Body, Command, Hello, Result
from meshmq.frames_verify import CheckedBatch, CheckRange, RangeChecked
from meshmq.names import check_pattern, matches

VERB = "link.verify"
_FEED = 1 << 20
"""Of this module's reads: no feed of a mirror has such a number."""


class Log(NamedTuple):
    """A log that is here and at a far node."""

    origin: bytes
    shown: str
    far: Sibling


class Stream(NamedTuple):
    """A stream as it is kept here: of a mirror a part for each strand that it came by, in order."""

    parts: tuple[Topic, ...]

    @property
    def entry(self) -> TopicEntry:
        return self.parts[-1].entry

    @property
    def first_offset(self) -> int:
        return kept_from(self.parts)

    @property
    def synced_offset(self) -> int:
        return max([t.synced_offset for t in self.parts])

    def at(self, offset: int) -> int:
        """The number here of what has an offset, or comes behind it."""
        found = next((t for t in self.parts if t.next_offset > offset), self.parts[-1])
        return found.entry.stream


class Logs(Protocol):
    """What is known of links (core/replication.py)."""

    def shared_with(self, site: str) -> list[Log]: ...


class _Damaged(Reader):
    """Reads a damaged batch, so that it is mended, and wants nothing else."""

    def take(self, batches: list[StoredBatch]) -> None:
        pass


@dataclass(slots=True, eq=False)
class Walk:
    """Reads a stream from the disk, part by part.

    Attributes:
        ends: where parts end, if that is given; else each ends as it is full.
        start: where it began.
        parts: batches of each part that is whole, as they are on the disk. bounds: where they end.
        size: bytes read so far.
    """

    topic: Stream
    feed: Any
    offset: int
    end: int
    ends: tuple[int, ...]
    done: Callable[[], None]
    start: int = field(init=False)
    parts: list[list[CheckedBatch]] = field(default_factory=list)
    bounds: list[int] = field(default_factory=list)
    open: list[CheckedBatch] = field(default_factory=list)
    size: int = 0
    in_part: int = 0
    is_full: bool = False

    def __post_init__(self) -> None:
        self.start = self.offset

    def take(self, batches: Iterable[StoredBatch]) -> bool:
        """What a read has brought; whether to read on."""
        came = 0
        for b in batches:
            if b.base_offset >= self.end:
                break
            came += 1
            if b.base_offset < self.offset:
                self.offset = b.base_offset + b.count  # trimmed in the middle
                continue
            self._close(b.base_offset)
            digest = b"" if b.damaged else _sum(b.payload)
            self.open.append(CheckedBatch(b.base_offset, b.count, b.damaged, digest))
            self.offset = b.base_offset + b.count
            self.size += len(b.payload)
            self.in_part += len(b.payload)
        if not self.ends:
            self.is_full = self.size >= limits.VERIFY_RANGE_BYTES or len(self.parts) >= _PARTS
        return bool(came) and self.offset < self.end and not self.is_full

    def _close(self, next_offset: int) -> None:
        """A part ends before the batch at an offset."""
        if not self.ends:
            is_full = self.in_part >= limits.VERIFY_PART_BYTES
            if self.open and (is_full or len(self.open) >= limits.VERIFY_BATCHES_MAX):
                self._end_part(next_offset)
            return
        while len(self.parts) < len(self.ends) and next_offset >= self.ends[len(self.parts)]:
            self._end_part(self.ends[len(self.parts)])

    def _end_part(self, at: int) -> None:
        self.parts.append(self.open)
        self.bounds.append(at)
        self.open, self.in_part = [], 0

    def finish(self) -> None:
        """Nothing more is read."""
        if self.ends:
            self._close(self.ends[-1])
        elif not self.is_full:  # nothing more is here: perhaps there
            self.offset = self.end
        if not self.ends and (self.open or self.bounds[-1:] != [self.offset]):
            self._end_part(self.offset)
        self.done()

    def begin_of(self, part: int) -> int:
        """The offset where a part begins."""
        return self.bounds[part - 1] if part else self.start

    def sums(self, side: bytes) -> tuple[bytes, ...]:
        """Of each part. What is damaged on both sides is a difference too, so it counts as another
        on each ``side``."""
        found = []
        for part in self.parts:
            rows = [b"%d %d " % (b.first, b.count) + (side if b.damaged else b.sum) for b in part]
            found.append(_sum(b"".join(rows)))
        return tuple(found)


_PARTS = limits.VERIFY_SUMS_MAX - 1


def _sum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=limits.VERIFY_SUM_BYTES).digest()


@dataclass(slots=True, eq=False)
class Step:
    """One step of a program.

    Attributes:
        link, id: of its command.
        place: where it is: log, topic's id, offset, and up to where that stream is compared.
        unlike: parts that differ, and are to be looked at yet.
    """

    link: bytes
    id: int
    pattern: str | None
    is_one: bool
    logs: list[Log]
    place: tuple[bytes, bytes, int, int] | None
    due_ns: int
    log: Log | None = None
    topic: Stream | None = None
    asked: CheckRange | None = None
    walk: Walk | None = None
    end: int = 0
    unlike: list[int] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)


class LinkVerify:
    """See the module's header. Frames gather in ``sends``."""

    def __init__(
        self, logs: Logs, copies: SiteCopies, topics: Topics, delivery: Delivery,
        sends: list[tuple[bytes, Body]], now: Callable[[], int],
    ) -> None:  # fmt: skip
        self._logs = logs
        self._copies = copies
        self._topics = topics
        self._delivery = delivery
        self._sends = sends
        self._now = now
        self._last = 0
        self._steps: dict[int, Step] = {}  # by number of what is asked, or of the step
        self._walks: dict[int, Walk] = {}  # by read
        self._answering: dict[bytes, int] = {}  # by link
        delivery.foreign[_FEED] = self  # type: ignore[assignment]  # it takes reads as a feed does

    # -- a program asks -------------------------------------------------------------------------

    def on_program(self, link: bytes, _: Hello, command: Command, now_ns: int) -> bool:
        """A step of ``meshmq link verify``; False: it is another command."""
        if command.verb != VERB:
            return False
        try:
            step = self._step_of(link, command)
        except (CommandFailed, InvalidName, ValueError, KeyError, TypeError) as error:
            is_ours = isinstance(error, CommandFailed | InvalidName)
            why = str(error) if is_ours else f"{VERB} needs a site, and where to go on"
            self._sends.append((link, Result(command.id, CommandFailed.code, why, b"{}")))
            return True
        self._begin(step)
        return True

    def _step_of(self, link: bytes, command: Command) -> Step:
        said = json.loads(command.arguments)
        site, pattern, place = str(said["site"]), said.get("topic"), said.get("place")
        if pattern is not None:
            check_pattern(pattern)
        logs = self._logs.shared_with(site)
        if place is not None:
            origin, topic_id, offset, end = place
            place = bytes.fromhex(origin), bytes.fromhex(topic_id), int(offset), int(end)
        if len(self._steps) >= limits.VERIFY_STEPS_MAX:
            raise CommandFailed(f"{limits.VERIFY_STEPS_MAX} comparisons are under way, the limit")
        due_ns = self._now() + limits.VERIFY_NS
        is_one = bool(said.get("one"))
        return Step(link, command.id, pattern, is_one, logs, place, due_ns)

    def _begin(self, step: Step) -> None:
        """Go on where it is, or with the next stream."""
        if step.place is None or step.place[2] >= step.place[3] > 0:
            self._next(step)
            return
        origin, topic_id, offset, end = step.place
        step.log = next((log for log in step.logs if log.origin == origin), None)
        step.topic = self._find(origin, topic_id)
        if step.log is None or step.topic is None:
            self._next(step)
            return
        step.end = end
        self._walk(step, offset)

    def _next(self, step: Step) -> None:
        """The next stream; first of all it is asked what the other side has of it."""
        after = (b"", b"") if step.place is None else step.place[:2]
        for key, log, topic in self._all(step):
            if key <= after or step.is_one:
                continue
            step.log, step.topic, step.place = log, topic, (*key, 0, 0)
            self._ask(step, CheckRange(self._number(), log.origin, topic.entry.topic_id))
            return
        self._answer(step, None)

    def _all(self, step: Step) -> list[tuple[tuple[bytes, bytes], Log, Stream]]:
        found = [
            ((log.origin, topic.entry.topic_id), log, topic)
            for log in step.logs
            for topic in self._streams_of(log.origin)
            if step.pattern is None or matches(step.pattern, topic.entry.name)
        ]
        return sorted(found, key=lambda row: row[0])

    def _streams_of(self, origin: bytes) -> list[Stream]:
        if origin == self._copies.origin:
            return [Stream((t,)) for t in self._topics.by_stream.values() if t.entry.durable]
        mirror = self._copies.mirrors.by_origin.get(origin)
        same = [] if mirror is None else mirror.topics.by_source.values()
        return [Stream(tuple(parts)) for parts in same]

    def _find(self, origin: bytes, topic_id: bytes) -> Stream | None:
        some = self._streams_of(origin)
        return next((t for t in some if t.entry.topic_id == topic_id), None)

    def _number(self) -> int:
        self._last = (self._last + 1) & 0xFFFFFFFF
        return self._last

    def _ask(self, step: Step, frame: CheckRange) -> None:
        assert step.log is not None
        step.asked = frame
        self._steps[frame.number] = step
        self._sends.append((step.log.far.link, frame))

    def _walk(self, step: Step, offset: int) -> None:
        assert step.topic is not None
        self._steps[-self._number()] = step  # so that it is known while its disk is read
        step.walk = Walk(step.topic, self._feed_of(step.place[0] if step.place else b""), offset,
                         step.end, (), lambda: self._walked(step))  # fmt: skip
        self._read(step.walk)

    def _walked(self, step: Step) -> None:
        """Our side of a range is there: ask for the other one's."""
        self._forget(step)
        walk, place = step.walk, step.place
        assert walk is not None
        assert place is not None
        bounds = tuple(walk.bounds)
        self._ask(step, CheckRange(self._number(), place[0], place[1], walk.start, bounds))

    def on_checked(self, far: Sibling, frame: RangeChecked) -> None:
        """A far node has answered."""
        step = self._steps.get(frame.number)
        if step is None or step.log is None or step.log.far.link != far.link:
            return
        self._forget(step)
        asked, topic = step.asked, step.topic
        assert asked is not None
        assert topic is not None
        assert step.place is not None
        if frame.code == "not-found" and not asked.ends:
            self._next(step)  # it is not wished there
        elif frame.code:
            self._fail(step, frame.message)
        elif not asked.ends:
            offset = max(topic.first_offset, frame.first)
            step.end = min(topic.synced_offset, frame.end)
            step.place = (*step.place[:2], offset, step.end)
            if offset >= step.end:
                self._next(step)
            else:
                self._walk(step, offset)
        elif asked.batches:
            self._compare(step, frame)
        else:
            assert step.walk is not None
            mine = step.walk.sums(b"asks")
            step.unlike = [i for i, s in enumerate(mine) if frame.sums[i : i + 1] != (s,)]
            self._look_closer(step)

    def _look_closer(self, step: Step) -> None:
        walk, place = step.walk, step.place
        assert walk is not None
        assert place is not None
        if not step.unlike:
            step.place = (*place[:2], walk.offset, step.end)
            self._answer(step, walk)
            return
        part = step.unlike.pop(0)
        begin, end = walk.begin_of(part), walk.bounds[part]
        self._ask(step, CheckRange(self._number(), place[0], place[1], begin, (end,), True))

    def _compare(self, step: Step, frame: RangeChecked) -> None:
        """One part, batch by batch; rule 3."""
        asked, walk, topic, log = step.asked, step.walk, step.topic, step.log
        assert asked is not None
        assert walk is not None
        assert topic is not None
        assert log is not None
        part = walk.parts[walk.bounds.index(asked.ends[0])]
        mine, theirs = {b.first: b for b in part}, {b.first: b for b in frame.batches}
        kept = max(topic.first_offset, frame.first)
        for first in sorted({*mine, *theirs}):
            here, there = mine.get(first), theirs.get(first)
            some = here or there
            assert some is not None
            is_same = here == there and not some.damaged
            if is_same or first + some.count <= kept:
                continue
            step.differences.append(
                {
                    "topic": topic.entry.name, "topic_id": topic.entry.topic_id.hex(),
                    "log": log.shown, "origin": log.origin.hex(), "offset": first,
                    "count": some.count, "here": _word(here), "there": _word(there),
                    "node": log.far.name,
                }
            )  # fmt: skip
            if here is not None and here.damaged:
                self._mend(log.origin, topic, first)
        self._look_closer(step)

    def _answer(self, step: Step, walk: Walk | None) -> None:
        place, topic, log = step.place, step.topic, step.log
        body: dict[str, Any] = {"done": walk is None, "differences": step.differences}
        if walk is not None and place is not None and topic is not None and log is not None:
            records = sum([b.count for part in walk.parts for b in part])
            body |= {
                "place": [place[0].hex(), place[1].hex(), *place[2:]], "topic": topic.entry.name,
                "log": log.shown, "node": log.far.name, "records": records, "bytes": walk.size,
            }  # fmt: skip
        self._sends.append((step.link, Result(step.id, "", "", json.dumps(body).encode())))

    def _fail(self, step: Step, why: str) -> None:
        self._forget(step)
        if step.walk is not None:
            self._stop(step.walk)
        far = "" if step.log is None else f" with {step.log.far.site}/{step.log.far.name}"
        words = f"the comparison{far} stopped: {why}"
        self._sends.append((step.link, Result(step.id, CommandFailed.code, words, b"{}")))

    def _forget(self, step: Step) -> None:
        for number in [n for n, s in self._steps.items() if s is step]:
            del self._steps[number]

    # -- a far node asks ------------------------------------------------------------------------

    def on_check(self, far: Sibling, frame: CheckRange) -> None:
        """What is here of a range?"""
        topic = self._find(frame.origin, frame.topic_id)
        if topic is None:
            self._refuse(far, frame, "not-found", "that stream is not there")
        elif not frame.ends:
            first, end = topic.first_offset, topic.synced_offset
            self._sends.append((far.link, RangeChecked(frame.number, first, end)))
        elif self._answering.get(far.link, 0) >= limits.VERIFY_STEPS_MAX:
            self._refuse(far, frame, "busy", "its node compares as much as it may: try again")
        elif sorted({frame.first, *frame.ends}) != [frame.first, *frame.ends]:
            self._refuse(far, frame, "bad-frame", "the ends of a range are in order")
        else:
            self._answering[far.link] = self._answering.get(far.link, 0) + 1
            walk = Walk(topic, self._feed_of(frame.origin), frame.first, frame.ends[-1],
                        frame.ends, lambda: self._answered(far, frame, walk))  # fmt: skip
            self._read(walk)

    def _refuse(self, far: Sibling, frame: CheckRange, code: str, why: str) -> None:
        self._sends.append((far.link, RangeChecked(frame.number, code=code, message=why)))

    def _answered(self, far: Sibling, frame: CheckRange, walk: Walk) -> None:
        self._answering[far.link] = max(0, self._answering.get(far.link, 0) - 1)
        topic = walk.topic
        answer = RangeChecked(frame.number, topic.first_offset, topic.synced_offset)
        if not frame.batches:
            sums = walk.sums(b"answers")
            self._sends.append((far.link, RangeChecked(*_head(answer), sums=sums)))
            return
        batches = [b for part in walk.parts for b in part][: limits.VERIFY_BATCHES_MAX]
        self._sends.append((far.link, RangeChecked(*_head(answer), batches=tuple(batches))))
        for b in batches:
            if b.damaged:
                self._mend(frame.origin, topic, b.first)

    # -- the disk -------------------------------------------------------------------------------

    def _feed_of(self, origin: bytes) -> Any:
        mirror = self._copies.mirrors.by_origin.get(origin)
        return self._delivery if mirror is None else mirror.feed

    def _read(self, walk: Walk) -> None:
        number = _FEED << FOREIGN_BITS | self._number()
        self._walks[number] = walk
        self._delivery.reads.append(
            ReadLog(
                number, frozenset((walk.topic.at(walk.offset),)), ("fresh", walk.offset, 0),
                self._delivery.committed_lsn, limits.VERIFY_PART_BYTES,
            )
        )  # fmt: skip

    def on_foreign_read(
        self, number: int, batches: Iterable[StoredBatch], lsn: int, slot: int
    ) -> None:
        """A read of ours was done."""
        walk = self._walks.pop(number, None)
        if walk is None:
            return
        if walk.take(batches):
            self._read(walk)
        else:
            walk.finish()

    def _stop(self, walk: Walk) -> None:
        for number in [n for n, w in self._walks.items() if w is walk]:
            del self._walks[number]

    def _mend(self, origin: bytes, topic: Stream, offset: int) -> None:
        """Rule 4."""
        self._feed_of(origin).fetch(_Damaged("", 0, 0), topic.at(offset), offset, 1)

    # -- time -----------------------------------------------------------------------------------

    def leave(self, far: Sibling) -> None:
        """The link with a far node is over."""
        self._answering.pop(far.link, None)
        for step in list({id(s): s for s in self._steps.values()}.values()):
            if step.log is not None and step.log.far.link == far.link:
                self._fail(step, "the link is over; it can be begun again")

    def tick(self) -> None:
        """Time has passed."""
        for step in list({id(s): s for s in self._steps.values()}.values()):
            if self._now() >= step.due_ns:
                self._fail(step, f"no answer in {limits.VERIFY_NS // limits.SECOND} s")


def _head(answer: RangeChecked) -> tuple[int, int, int]:
    return answer.number, answer.first, answer.end


def _word(batch: CheckedBatch | None) -> str:
    return "missing" if batch is None else "damaged" if batch.damaged else "whole"
