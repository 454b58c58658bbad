"""Transactions of one node: records published and others acked, in one commit or not at all.

All of it is judged before anything changes. A program numbers its transactions and says one again
when its answer was lost; the journal knows the last one of each program.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.batches import BatchTools
from meshmq.core.group import Group
from meshmq.core.groups import Groups
from meshmq.core.hand_out import HandOut
from meshmq.core.intake import Load
from meshmq.core.topics import Topics
from meshmq.errors import (
    BadFrame,
    GroupNotFound,
    MeshError,
    OwnerAway,
    QueueFull,
    TransactionFailed,
    from_code,
)
from meshmq.frames import Transact, Transacted
from meshmq.names import check_topic, queue_of, topic_key

FAILED = TransactionFailed.code


def transact(
    link: bytes, instance: bytes, frame: Transact, groups: Groups, topics: Topics,
    admission: Admission, tools: BatchTools,
) -> tuple[Transacted, int]:  # fmt: skip
    """Carry it out, or say why not: the answer, which waits for the sync of this turn's entries,
    and how many bytes go with them."""
    if frame.origin and frame.origin != groups.shared.origin:
        return Transacted(
            frame.id, OwnerAway.code,
            "the transaction belongs to another node's log: nothing of it is done now, but if it "
            "was on its way to that node, what became of it is not known", tag=frame.tag,
        ), 0  # fmt: skip
    done, size = _transact(link, instance, frame, groups, topics, admission, tools)
    return (replace(done, tag=frame.tag) if frame.tag else done), size


def _transact(
    link: bytes, instance: bytes, frame: Transact, groups: Groups, topics: Topics,
    admission: Admission, tools: BatchTools,
) -> tuple[Transacted, int]:  # fmt: skip
    known = groups.transactions.get(instance)
    if known is not None and known[0] == frame.id:
        return _done(frame, known[1], topics), 0
    if known is not None and known[0] > frame.id:
        return Transacted(
            frame.id, FAILED,
            f"transaction {frame.id} is said after {known[0]} of the same program: what became of "
            f"it is not known, for only the last one is remembered",
        ), 0  # fmt: skip
    try:
        acks = _judge_acks(link, frame, groups)
        whole: dict[Group, Load] = {}
        for group, _, bits in acks:
            whole.setdefault(group, Load()).take(group, bits.bit_count())
        parts = _judge_batches(link, frame, groups, topics, admission, tools, whole)
    except (QueueFull, GroupNotFound) as error:
        return Transacted(frame.id, error.code, str(error)), 0
    except MeshError as error:
        return Transacted(frame.id, FAILED, str(error)), 0
    offsets = []
    for topic, count, data, had in parts:
        if had is None:  # but an earlier one of this transaction may have the same id
            had = groups.intake.had(topic, data)
        if had is None:
            offsets.append(groups.append_own(topic, data, count))
            groups.intake.accepted(topics.by_name[topic], offsets[-1], count, data)
        else:
            offsets.append(had)
    for group, h, bits in acks:
        group.ack(h, bits)
        group.wake()
    groups.note_transaction(instance, frame.id, tuple(offsets))
    return _done(frame, tuple(offsets), topics), len(frame.payload)


def _done(frame: Transact, offsets: tuple[int, ...], topics: Topics) -> Transacted:
    found = [topics.by_name.get(batch.topic) for batch in frame.batches]
    keys = [topic_key(topic.entry.topic_id) if topic is not None else 0 for topic in found]
    return Transacted(frame.id, offsets=offsets, topic_keys=tuple(keys))


def _judge_acks(link: bytes, frame: Transact, groups: Groups) -> list[tuple[Group, HandOut, int]]:
    wanted: dict[int, tuple[Group, HandOut, int]] = {}
    for ack in frame.acks:
        found = groups.members.held_by(link, ack.consumer, ack.number)
        bits = ((1 << min(ack.count, limits.BATCH_RECORDS_MAX)) - 1) << min(
            ack.first, limits.BATCH_RECORDS_MAX
        )
        if found is None or found[1].left & bits != bits or not bits:
            raise TransactionFailed(
                "a message that the transaction acks is no longer this consumer's: it was settled, "
                "or taken back after its time"
            )
        group, h = found
        had = wanted.get(h.number)
        wanted[h.number] = (group, h, bits | (had[2] if had is not None else 0))
    return list(wanted.values())


def _judge_batches(
    link: bytes, frame: Transact, groups: Groups, topics: Topics, admission: Admission,
    tools: BatchTools, whole: dict[Group, Load],
) -> list[tuple[str, int, bytes, int | None]]:  # fmt: skip
    """(topic, records, bytes, the offset of a job that its queue has already) of each batch."""
    code, message = admission.judge(link, len(frame.payload)) if frame.batches else ("", "")
    if code:  # acks alone need no more room than other acks
        raise TransactionFailed(message)
    found: list[tuple[str, int, bytes, int | None]] = []
    at = 0
    for batch in frame.batches:
        data = frame.payload[at : at + batch.length]
        at += batch.length
        if zlib.crc32(data) != batch.checksum:
            raise BadFrame(f"the batch for topic {batch.topic!r} does not match its checksum")
        tools.check(data, batch.count)
        if not queue_of(batch.topic):
            check_topic(batch.topic)
        if not topics.is_durable(batch.topic):
            raise TransactionFailed(
                f"topic {batch.topic!r} is transient: a transaction is stored or not done, and "
                f"what is transient is never stored"
            )
        verdict = groups.intake.judge(batch, data, whole)
        if verdict is not None and verdict.code:
            raise from_code(verdict.code, verdict.message)
        found.append((batch.topic, batch.count, data, verdict.offset if verdict else None))
    if len(topics.by_name) + len(found) > limits.TOPICS_MAX:
        raise TransactionFailed(f"the node has {limits.TOPICS_MAX} topics, its limit")
    return found
