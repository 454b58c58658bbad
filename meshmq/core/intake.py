"""Whether queues take jobs: that there is a queue, its bounds, the ids it has had.

Data: with each queue what was accepted and is on its way to disk (``Group.unsynced``,
``unsynced_bytes``), and the ids of its jobs.

Rules:
1. What is accepted counts at once, synced or not.
2. A transaction is judged as a whole: each of its jobs with those before it, less what it acks.
3. The node remembers DEDUP_IDS_MAX ids. Beyond that the oldest one of all queues is forgotten, and
   the journal says which: after a restart the same are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from meshmq import limits
from meshmq.core import units
from meshmq.core.batches import BatchTools
from meshmq.core.group import Group
from meshmq.core.group_waiting import Shared
from meshmq.core.journal import forget_dedups
from meshmq.core.log import BatchEntry
from meshmq.core.topics import Topic, Topics
from meshmq.frames import PublishBatch
from meshmq.names import queue_of


class Verdict(NamedTuple):
    """What a queue says to a batch of jobs: a refusal, or where it has the job already."""

    code: str = ""
    message: str = ""
    offset: int | None = None
    stream: int = 0


@dataclass(slots=True)
class Load:
    """What a transaction brings to one queue so far, less what it takes from it."""

    records: int = 0
    size: float = 0.0
    ids: set[bytes] = field(default_factory=set)

    def take(self, group: Group, records: int) -> None:
        """So many records of the group are done with it."""
        self.records -= records
        if group.backlog:
            self.size -= group.backlog_bytes / group.backlog * records


class Intake:
    """See the module's header.

    Args:
        by_name: the node's groups and queues.
        lanes: the queue that a topic belongs to.
    """

    def __init__(
        self,
        by_name: Mapping[str, Group],
        lanes: Mapping[str, Group],
        topics: Topics,
        tools: BatchTools,
        shared: Shared,
    ) -> None:
        self._by_name = by_name
        self._lanes = lanes
        self._topics = topics
        self._tools = tools
        self._shared = shared

    def judge(
        self, batch: PublishBatch, data: bytes, whole: dict[Group, Load] | None = None
    ) -> Verdict | None:
        """What a queue says to jobs that are published to one of its lanes; ``whole`` gathers
        what a transaction brings."""
        group = self._lanes.get(batch.topic)
        if group is None:
            return _without_queue(batch)
        options = self._tools.options(data)
        if group.by_key is not None and options is not None and options.priority:
            return Verdict(
                "invalid-argument",
                f"queue {group.settings.name!r} keeps its jobs in order of keys: they have no "
                f"priorities",
            )
        load = Load() if whole is None else whole.setdefault(group, Load())
        dedup = options.dedup if options is not None else b""
        if dedup:
            found = self._find(group, dedup)
            if found is not None:
                return Verdict(offset=found[1], stream=found[0])
            if dedup in load.ids:
                return None  # it has the id of a job before it, and is not stored
        verdict = _room(group, batch.count, len(data), load, whole is not None)
        if verdict is None:
            load.records += batch.count
            load.size += len(data)
            load.ids.add(dedup)
        return verdict

    def had(self, topic: str, data: bytes) -> int | None:
        """The offset of a job that its queue has already."""
        group = self._lanes.get(topic)
        options = self._tools.options(data) if group is not None else None
        if group is None or options is None or not options.dedup:
            return None
        found = self._find(group, options.dedup)
        return found[1] if found is not None else None

    def accepted(self, topic: Topic, base: int, count: int, data: bytes) -> None:
        """Jobs were accepted for a lane."""
        group = self._lanes.get(topic.entry.name)
        if group is None:
            return
        group.unsynced += count
        group.unsynced_bytes += len(data)
        options = self._tools.options(data)
        if options is not None and options.dedup:
            now_ms = self._shared.wall_now_ms
            group.note_dedup(options.dedup, topic.entry.stream, base, now_ms)
            self._forget_oldest()
            group.wake()

    def synced(self, batch: BatchEntry) -> None:
        """A batch of any topic is on disk."""
        topic = self._topics.by_stream.get(batch.stream)
        group = self._lanes.get(topic.entry.name) if topic is not None else None
        if group is not None:
            group.unsynced = max(0, group.unsynced - batch.count)
            group.unsynced_bytes = max(0, group.unsynced_bytes - len(batch.payload))

    def _find(self, group: Group, dedup: bytes) -> tuple[int, int, int] | None:
        """(stream, offset, unix ms) of the job with this id, within the queue's window."""
        self._forget_ended(group)
        return group.state.dedups.get(dedup)

    def _forget_ended(self, group: Group) -> None:
        """Drop ids whose window has ended; the journal does the same with any delta."""
        dedups = group.state.dedups
        before = len(dedups)
        forget_dedups(dedups, group.settings.dedup_ns, self._shared.wall_now_ms)
        if len(dedups) < before:
            group.change()

    def _forget_oldest(self) -> None:
        groups = [g for g in self._by_name.values() if g.state.dedups]
        if sum([len(g.state.dedups) for g in groups]) <= limits.DEDUP_IDS_MAX:
            return
        for group in groups:
            self._forget_ended(group)
        while sum([len(g.state.dedups) for g in groups]) > limits.DEDUP_IDS_MAX:
            oldest = min(
                [g for g in groups if g.state.dedups],
                key=lambda g: (next(iter(g.state.dedups.values()))[2], g.settings.id),
            )
            oldest.forget_dedup()


def _without_queue(batch: PublishBatch) -> Verdict | None:
    own = batch.topic.startswith("$")
    queue = queue_of(batch.topic) if own else batch.topic if batch.job else ""
    if queue:
        return Verdict("group-not-found", f"there is no queue {queue!r}")
    if own:
        return Verdict("invalid-name", f"topic {batch.topic!r} is the mesh's own")
    return None


def _room(group: Group, count: int, size: int, load: Load, is_part: bool) -> Verdict | None:
    """The refusal of so many jobs and bytes more, or None."""
    settings = group.settings
    what = "a transaction" if is_part else "one batch"
    if settings.max_records:
        most = settings.max_records
        if load.records + count > most:
            return _full(settings.name, f"{most} jobs", what)
        if group.backlog + group.unsynced + load.records + count > most:
            return _full(settings.name, f"{most} jobs")
    if settings.max_bytes:
        most = settings.max_bytes
        if not group.is_weighed and not is_part:
            # A transaction is small, and would fail where a batch is only sent again.
            return Verdict("busy", f"the node still reads how large queue {settings.name!r} is")
        if load.size + size > most:
            return _full(settings.name, units.size(most), what)
        if group.backlog_bytes + group.unsynced_bytes + load.size + size > most:
            return _full(settings.name, units.size(most))
    return None


def _full(queue: str, most: str, what: str = "") -> Verdict:
    """It has no room; ``what`` never fits, not even where nothing is."""
    if what:
        why = f"holds at most {most}: {what} of more never fits, put fewer at a time"
    else:
        why = f"is full: it holds at most {most}"
    return Verdict("queue-full", f"queue {queue!r} {why}")
