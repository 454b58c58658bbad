"""The streams of one node: what is accepted, numbered, appended and confirmed.

Data: per topic what each producer has sent (``last`` and the ranges that answer a repeat);
``_unsynced`` the batches on their way to disk.

Rules:
1. A batch is accepted only if it follows what the node has of its producer and topic. What it has
   already is confirmed again with its first offset; what would leave a gap is refused, so a
   refused batch refuses its successors.
2. Offsets are given on acceptance, in order, without gaps. A batch of a durable topic is confirmed
   by ``on_commit`` only, which follows the sync.
3. A malformed batch is refused before anything changes.

It knows nothing of subscribers; the node hands it what is accepted.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.log import (
    BatchEntry,
    Commit,
    Entry,
    LogState,
    ProducerState,
)
from meshmq.core.topics import Topic, Topics
from meshmq.durability import mirrored
from meshmq.errors import BadFrame, InvalidName
from meshmq.frames import REPLICATED, SENT, SYNCED, Confirm, Confirmation, PublishBatch
from meshmq.names import check_topic, queue_of

CheckBatch = Callable[[bytes, int], None]


class Gate(Protocol):
    """Who looks at jobs before they are accepted (core/intake.py)."""

    def judge(
        self, batch: PublishBatch, data: bytes
    ) -> tuple[str, str, int | None, int] | None: ...

    def accepted(self, topic: Topic, base: int, count: int, data: bytes) -> None: ...


class Accepted(NamedTuple):
    """A batch the node took: for the log if ``topic`` is durable, else for its subscribers."""

    topic: Topic
    batch: BatchEntry


class Needs(NamedTuple):
    """What a second confirmation waits for: so many nodes of the site that have it, this one among
    them, or so many other ``sites`` that have it of this topic."""

    copies: int = 0
    sites: int = 0
    topic: str = ""

    @property
    def durability(self) -> int:
        return mirrored(self.sites) if self.sites else REPLICATED


class _Unsynced(NamedTuple):
    """``repeats``: what is confirmed with it, and what this waits for then."""

    link: bytes
    topic: str
    size: int
    repeats: list[tuple[bytes, Confirmation, Needs | None]]
    needs: Needs | None


class Replica(NamedTuple):
    """A confirmation for when the batch at ``place`` has what it needs."""

    place: tuple[int, int]
    needs: Needs
    link: bytes
    confirmation: Confirmation


class Streams:
    """See the module's header.

    Args:
        state: what the log holds at start.
        topics: the node's topics; they are made on first use.
        check: raises BadFrame for a malformed batch (the codec's).
        admission: says whether the log takes more.
        gate: says whether a queue takes a job.
    """

    def __init__(
        self,
        state: LogState,
        topics: Topics,
        check: CheckBatch,
        admission: Admission,
        gate: Gate | None = None,
    ) -> None:
        self._origin = state.origin
        self._gate = gate
        self._topics = topics
        self._admission = admission
        self._check = check
        self.published = 0
        self.confirmed = 0
        self.repeated = 0
        self.refused: dict[str, int] = {}
        self.replicas: list[Replica] = []
        self._last_place = (state.next_lsn - 1, limits.FRAME_BATCHES_MAX << 16)  # behind all slots
        self._unsynced: deque[_Unsynced] = deque()
        self._swept_ns = state.append_time_ns
        self._producer_count = sum([len(t.producers) for t in topics.by_stream.values()])

    @property
    def has_unsynced(self) -> bool:
        """Whether accepted batches wait for their sync."""
        return bool(self._unsynced)

    @property
    def producer_count(self) -> int:
        """(producer, durable topic) pairs that are remembered."""
        return self._producer_count

    def publish(
        self, link: bytes, producer: bytes, batch: PublishBatch, data: bytes, entries: list[Entry]
    ) -> tuple[Accepted | None, Confirmation | None]:
        """Judge one batch; what goes to the log is added to ``entries``.

        Returns:
            What was accepted, and what to answer now. A durable batch is answered by
            ``on_commit``; so is a repeat of one that is not yet synced.
        """
        topic = self._topics.by_name.get(batch.topic)
        known = topic.producers.get(producer) if topic is not None else None
        last = known.last if known is not None else 0
        if last >= batch.first and topic is not None and known is not None:
            return None, self._repeat(link, topic, known, batch)
        code = message = ""
        if self._topics.is_durable(batch.topic) if topic is None else topic.entry.durable:
            # First of all: a batch behind one refused for room must not be told of a gap.
            code, message = self._admission.judge(link, len(data))
        if not code:
            code, message = self._judge(batch, last, known is not None)
        if not code:
            code, message = self._inspect(batch, data)
        if not code and batch.mirrors:
            code, message = self._judge_mirrors(batch.topic)
        elif not code and self._waits_for_copies(batch):
            code, message = self._judge_copies(batch.topic)
        offset, stream = None, 0
        if not code and self._gate is not None:
            verdict = self._gate.judge(batch, data)
            if verdict is not None:
                code, message, offset, stream = verdict
        if code:
            self.refused[code] = self.refused.get(code, 0) + 1
            return None, Confirmation(
                batch.topic, batch.first, batch.count, code, message, last=last
            )
        if topic is None:
            topic = self._topics.create(batch.topic, entries)
        if offset is not None:
            return None, self._had(link, producer, topic, batch, (stream, offset))
        accepted = self._accept(link, producer, topic, batch, data, entries)
        if self._gate is not None:
            self._gate.accepted(topic, accepted[0].batch.base_offset, batch.count, data)
        return accepted

    def learn(
        self, producer: bytes, name: str, last: int, topic_id: bytes, entries: list[Entry]
    ) -> None:
        """All that a producer has numbered up to ``last`` is in the site, or was left out on
        purpose: as if it were here, but that no offset of it is known."""
        if self._topics.was_deleted(name, topic_id) or not self._topics.is_durable(name):
            return
        topic = self._topics.by_name.get(name) or self._topics.create(name, entries)
        state = topic.producers.get(producer)
        if state is None:
            state = topic.producers[producer] = ProducerState()
            self._bound_producers(topic)
        state.last = max(state.last, last)

    def _accept(
        self, link: bytes, producer: bytes, topic: Topic, batch: PublishBatch, data: bytes,
        entries: list[Entry],
    ) -> tuple[Accepted, Confirmation | None]:  # fmt: skip
        base = topic.next_offset
        entry = BatchEntry(
            topic.entry.stream, base, batch.count, data, batch.checksum, producer, batch.first,
            batch.moved,
        )  # fmt: skip
        topic.next_offset = base + batch.count
        state = topic.producers.get(producer)
        if state is None:
            state = topic.producers[producer] = ProducerState()
            self._bound_producers(topic)
        state.add(batch.first, base, batch.count, 0)
        topic.published += batch.count
        self.published += batch.count
        accepted = Accepted(topic, entry)
        if topic.entry.durable:
            entries.append(entry)
            needs = self._needs_of(batch)
            self._unsynced.append(_Unsynced(link, batch.topic, len(data), [], needs))
            self._admission.accepted(link, len(data))
            return accepted, None
        self.confirmed += batch.count
        return accepted, Confirmation(
            batch.topic, batch.first, batch.count, topic_id=topic.entry.topic_id, durability=SENT,
            last=state.last,
        )  # fmt: skip

    def _had(
        self, link: bytes, producer: bytes, topic: Topic, batch: PublishBatch,
        place: tuple[int, int],
    ) -> Confirmation | None:  # fmt: skip
        """A job that its queue has already: it is confirmed by the first one's offset, or without
        one where that is in another lane."""
        state = topic.producers.get(producer)
        if state is None:
            state = topic.producers[producer] = ProducerState()
            self._bound_producers(topic)
        stream, offset = place
        if stream == topic.entry.stream:
            state.add(batch.first, offset, batch.count, 0)
        else:
            state.last = batch.first + batch.count - 1
        # The first one may be on its way with a transaction: the node waits for all there is.
        return self._repeat(link, topic, state, batch, True)

    def _bound_producers(self, topic: Topic) -> None:
        """A producer was added to ``topic``: forget its oldest one where there are too many."""
        if topic.entry.durable:
            self._producer_count += 1
            if self._producer_count <= limits.PRODUCERS_MAX or len(topic.producers) < 2:
                return
            self._producer_count -= 1
        elif len(topic.producers) <= limits.TRANSIENT_PRODUCERS_MAX:
            return
        del topic.producers[next(iter(topic.producers))]

    def _repeat(
        self, link: bytes, topic: Topic, known: ProducerState, batch: PublishBatch,
        at_once: bool = False,
    ) -> Confirmation | None:  # fmt: skip
        durable = topic.entry.durable
        offset = None
        if known.last < batch.first + batch.count - 1:
            answer = Confirmation(
                batch.topic, batch.first, batch.count, "sequence-overlap",
                f"sequences up to {known.last} are stored already", last=known.last,
            )  # fmt: skip
        else:
            self.repeated += batch.count
            offset = known.offset_of(batch.first, batch.count)
            answer = Confirmation(
                batch.topic, batch.first, batch.count, base_offset=offset or 0,
                topic_id=topic.entry.topic_id, durability=SYNCED if durable else SENT,
                last=known.last, duplicate=True, has_offset=durable and offset is not None,
            )  # fmt: skip
        needs = self._needs_of(batch) if durable else None
        if needs is not None and not answer.code:
            answer = answer._replace(more=True)
        if (
            durable
            and not at_once
            and self._unsynced
            and (offset is None or offset + batch.count > topic.synced_offset)
        ):
            # Perhaps still on its way to disk: say yes with what is last in the line.
            self._unsynced[-1].repeats.append((link, answer, needs))
            return None
        if answer.more and needs is not None:
            self._await(link, answer, needs, self._last_place)
        return answer

    def _await(
        self, link: bytes, synced: Confirmation, needs: Needs, place: tuple[int, int]
    ) -> None:
        """Confirm it once more when it has what it needs; a repeat when all there is has."""
        last = synced._replace(durability=needs.durability, more=False)
        self.replicas.append(Replica(place, needs, link, last))

    def _needs_of(self, batch: PublishBatch) -> Needs | None:
        """What its second confirmation waits for: what its publisher says goes before what the
        topic's policy does."""
        if batch.mirrors:
            return Needs(sites=batch.mirrors, topic=batch.topic)
        copies = self._topics.copies_of(batch.topic) if self._waits_for_copies(batch) else 0
        return Needs(copies) if copies > 1 else None

    def _waits_for_copies(self, batch: PublishBatch) -> bool:
        """Whether it is confirmed a second time: its publisher asked for that, or the topic's
        policy does. A publisher that asked for less is content with the first one."""
        return batch.replicated or self._topics.confirms_copies(batch.topic)

    def _judge_mirrors(self, name: str) -> tuple[str, str]:
        """Whether other sites may have a topic."""
        why = ""
        if not self._topics.is_durable(name):
            why = f"topic {name!r} is transient: no site mirrors it"
        elif self._topics.is_alone:
            why = "the node belongs to no site, so nothing is mirrored: start it with --site"
        return ("durability-unavailable", why) if why else ("", "")

    def _judge_copies(self, name: str) -> tuple[str, str]:
        """Whether a topic has copies to wait for."""
        topics = self._topics
        if not topics.is_durable(name):
            return "durability-unavailable", f"topic {name!r} is transient: it has no copies"
        if topics.is_alone:
            return "durability-unavailable", (
                "the node belongs to no site, so nothing is copied: start several with --site and "
                "--copies 2"
            )
        if topics.copies_of(name) < 2:
            return "durability-unavailable", (
                f"topic {name!r} is kept by one node: start nodes with --copies 2, or give the "
                f"topic copies with `meshmq topic create {name} --copies 2`"
            )
        return "", ""

    def _judge(self, batch: PublishBatch, last: int, is_known: bool) -> tuple[str, str]:
        # What producers of a transient topic have sent is known to one life of the node only.
        # What a log knows of them it knows: there an unknown producer's first batch is new.
        lost = batch.resent and not self._topics.is_durable(batch.topic)
        if not is_known and (batch.after > 0 or lost):
            return "producer-unknown", (
                f"the node knows nothing of this producer on topic {batch.topic!r}, so it cannot "
                f"tell whether sequence {batch.first} was stored before; sequences begin at 1"
            )
        if last < batch.after:
            return "sequence-gap", (
                f"sequence {batch.first} follows {batch.after}, the node has up to {last}"
            )
        return "", ""

    def _inspect(self, batch: PublishBatch, data: bytes) -> tuple[str, str]:
        if zlib.crc32(data) != batch.checksum:
            return "batch-refused", "the batch's bytes do not match their checksum"
        topic = self._topics.by_name.get(batch.topic)
        if topic is not None and not topic.entry.durable:
            return "", ""  # never stored; who decodes it finds out, within the same bounds
        try:
            self._check(data, batch.count)
        except BadFrame as error:
            return "batch-refused", str(error)
        if topic is None:
            try:
                if not queue_of(batch.topic):
                    check_topic(batch.topic)
            except InvalidName as error:
                return error.code, str(error)
            if len(self._topics.by_name) >= limits.TOPICS_MAX:
                return "limit", f"the node has {limits.TOPICS_MAX} topics, its limit"
        return "", ""

    def on_commit(self, commit: Commit) -> list[tuple[bytes, Confirmation]]:
        """These batches are synced: the confirmations, with the link each goes to."""
        answers: list[tuple[bytes, Confirmation]] = []
        copied = {c.index for c in commit.copied}
        for slot, batch in enumerate(commit.batches):
            if slot in copied:
                continue
            self._last_place = (commit.lsn, slot)
            if batch.producer == self._origin:  # the node's own: nobody waits for it
                own = self._topics.by_stream.get(batch.stream)
                if own is not None:
                    own.synced_offset = batch.base_offset + batch.count
                continue
            waiting = self._unsynced.popleft()
            self._admission.synced(waiting.link, waiting.size)
            topic = self._topics.by_stream.get(batch.stream)
            end = batch.base_offset + batch.count
            if topic is not None:
                topic.synced_offset = end
                state = topic.producers.get(batch.producer)
                if state is not None:
                    state.last_time_ns = commit.append_time_ns
            self.confirmed += batch.count
            c = Confirmation(
                waiting.topic, batch.first, batch.count, "", "", batch.base_offset,
                commit.append_time_ns, topic.entry.topic_id if topic else b"", SYNCED,
                batch.first + batch.count - 1, False, True, more=waiting.needs is not None,
            )  # fmt: skip
            answers.append((waiting.link, c))
            if waiting.needs is not None:
                self._await(waiting.link, c, waiting.needs, self._last_place)
            for link, answer, needs in waiting.repeats:
                answers.append((link, answer))
                if answer.more and needs is not None:
                    self._await(link, answer, needs, self._last_place)
        if commit.append_time_ns - self._swept_ns > limits.PRODUCER_SWEEP_NS:
            self._forget_producers(commit.append_time_ns)
        for trim in commit.trims:
            topic = self._topics.by_stream.get(trim.stream)
            if topic is not None:
                topic.first_offset = max(topic.first_offset, trim.first_offset)
        return answers

    def _forget_producers(self, now_ns: int) -> None:
        """Forget who sent nothing for PRODUCER_FORGET_NS, by the log's own clock (unix ns)."""
        self._swept_ns = now_ns
        self._producer_count = 0
        for topic in self._topics.by_stream.values():
            before = now_ns - limits.PRODUCER_FORGET_NS
            old = [p for p, s in topic.producers.items() if 0 < s.last_time_ns < before]
            for producer in old:
                del topic.producers[producer]
            self._producer_count += len(topic.producers)


def confirms(rows: list[Confirmation]) -> Iterator[Confirm]:
    """Frames that tell one publisher of all these, joined where they continue each other."""
    merged = merge(rows)
    for i in range(0, len(merged), limits.FRAME_BATCHES_MAX):
        yield Confirm(tuple(merged[i : i + limits.FRAME_BATCHES_MAX]))


def merge(rows: list[Confirmation]) -> list[Confirmation]:
    """Join confirmations that continue each other in sequence and offset."""
    merged: list[Confirmation] = []
    for c in rows:
        if merged and not c.code and not c.duplicate:
            p = merged[-1]
            if (
                p.topic == c.topic
                and not p.code
                and not p.duplicate
                and p.unwanted == c.unwanted
                and (p.durability, p.more) == (c.durability, c.more)
                and p.first + p.count == c.first
                and p.append_time_ns == c.append_time_ns
                and (not c.has_offset or p.base_offset + p.count == c.base_offset)
            ):
                merged[-1] = p._replace(count=p.count + c.count, last=c.last)
                continue
        merged.append(c)
    return merged
