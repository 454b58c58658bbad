"""Admin verbs of groups, queues and dead letters; see core/commands.py."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from meshmq import limits
from meshmq.core import group_settings
from meshmq.core.group import Group
from meshmq.core.groups import Groups, describe
from meshmq.core.hand_out import Ready
from meshmq.core.journal import QUEUE
from meshmq.core.registrar import Registrar
from meshmq.core.topics import Topic, Topics
from meshmq.errors import CommandFailed, JobNotFound
from meshmq.names import JobId, dead_letters_of, topic_key

RANGES_MAX = 10_000  # runs of dead letters in one answer, of all nodes together
_SOUGHT = re.compile("[0-9a-f]{48}")
OLDEST_MARKS = 1000  # so many may have been moved by hand, which is no failure


def show(group: Group, topics: Topics, now_ms: int) -> dict[str, Any]:
    """One group as listings show it: records by where they are, ages in seconds."""
    settings = group.settings
    held = group.by_key.held if group.by_key is not None else 0
    dying = group.undertaker.dying
    stopped = group.is_stopped
    away = group.in_flight + group.delayed + group.retrying + held + dying
    oldest = oldest_ms(group)
    dead = topics.by_name.get(dead_letters_of(settings.name))
    return {
        "group": settings.name,
        "kind": settings.kind,
        "pattern": settings.pattern,
        "order": settings.order,
        "state": "paused" if settings.paused else "stopped" if stopped else "running",
        "stopped_by": group.by_key.longest() if stopped and group.by_key is not None else "",
        "ready": max(0, group.backlog - away),
        "in_flight": group.in_flight,
        "delayed": group.delayed,
        "retrying": group.retrying,
        "held": held,
        "dead": dead_count(group, dead),
        "records": group.backlog,
        "bytes": int(group.backlog_bytes),
        "oldest_seconds": max(0.0, round((now_ms - oldest) / 1000, 3)) if oldest else 0.0,
        "acked": group.acked,
        "nacked": group.nacked,
        "rejected": group.rejected,
        "expired": group.expired,
        "redelivered": group.redelivered,
        "overtaken": group.overtaken,
        "expired_jobs": group.expired_jobs,
        "damaged": group.damaged,
        "buried": group.buried,
        "members": [
            {
                "client": m.name,
                "consumer": m.number,
                "instance": m.instance.hex(),
                "home": m.home,
                "in_flight": m.in_flight,
                "in_flight_bytes": int(m.in_flight_bytes),
                "prefetch_records": m.prefetch_records,
            }
            for m in group.members.values()
        ],
        "settings": describe(settings),
    }


def oldest_ms(group: Group) -> int:
    """Append time (unix ms) of the oldest record that is known and not settled; 0 if none is."""
    times = [h.append_ms for h in group.hand_outs.values()]
    # They are kept in the order of their first failure.
    marks = islice(group.state.marks.values(), OLDEST_MARKS)
    times += [mark.first_ms for mark in marks if mark.first_ms]
    heads: list[Ready] = [queue[0] for queue in group.ready.values() if queue]
    times += [ready.batch.append_time_ns // limits.MS for ready in heads]
    for source in group.sources:  # given back, or held by their keys
        first = next((entry for entry in source.trail.values() if entry.left > 0), None)
        times.append(first.append_ms if first is not None else 0)
    return min([t for t in times if t], default=0)


def dead_count(group: Group, topic: Topic | None) -> int:
    """Dead letters that are neither put back nor purged."""
    if topic is None:
        return 0
    settled = group.state.streams.get(topic.entry.stream)
    begin = max(topic.first_offset, settled.floor if settled is not None else 0)
    return topic.synced_offset - begin - (settled.above if settled is not None else 0)


class Clerk:
    """What these verbs ask of a node and change at it."""

    def __init__(self, groups: Groups, topics: Topics, registrar: Registrar | None = None) -> None:
        self._groups = groups
        self._topics = topics
        self._registrar = registrar

    @property
    def queues(self) -> list[str]:
        """Names of all queues."""
        return [n for n, g in self._groups.by_name.items() if g.settings.kind == QUEUE]

    def _group(self, arguments: dict[str, Any], word: str = "group") -> Group:
        name = arguments.get(word)
        if not isinstance(name, str):
            raise CommandFailed(f"the command needs {word!r}, a string")
        group = self._groups.get(name)
        if word == "queue" and group.settings.kind != QUEUE:
            raise CommandFailed(f"{name!r} is a group, not a queue")
        return group

    def _shown(self, group: Group) -> dict[str, Any]:
        shown = show(group, self._topics, self._groups.shared.wall_now_ms)
        if self._registrar is not None:
            shown |= self._registrar.set_group(group.settings.name)
        return shown

    def create(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group, made = self._groups.create(arguments)
        return {"group": group.settings.name, "created": made}

    def set(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group = self._group(arguments)
        changed = group_settings.numbers(arguments)
        self._groups.change(group, group.settings._replace(**changed))  # type: ignore[arg-type]
        return self._shown(group)

    def list(self, arguments: dict[str, Any]) -> dict[str, Any]:
        kind = arguments.get("kind")
        found = [g for _, g in sorted(self._groups.by_name.items())]
        return {"groups": [self._shown(g) for g in found if kind in (None, g.settings.kind)]}

    def show(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._shown(self._group(arguments))

    def delete(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = self._group(arguments).settings.name
        self._groups.delete(name)
        return {"deleted": name}

    def pause(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._paused(arguments, True)

    def resume(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._paused(arguments, False)

    def _paused(self, arguments: dict[str, Any], paused: bool) -> dict[str, Any]:
        group = self._group(arguments)
        if group.settings.paused != paused:
            self._groups.change(group, group.settings._replace(paused=paused))
        return {"group": group.settings.name, "state": "paused" if paused else "running"}

    def seek(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group = self._group(arguments)
        if group.settings.kind == QUEUE:
            raise CommandFailed("a queue's jobs are done once: only a group can seek")
        at, sought = arguments.get("start", "earliest"), arguments.get("sought", "")
        if isinstance(at, dict) and "offset" in at:
            self._check_own(at)
            at = {k: v for k, v in at.items() if k != "origin"}
        if not isinstance(sought, str) or (sought and not _SOUGHT.fullmatch(sought)):
            raise CommandFailed("'sought' is a stamp of the site's")
        start = group_settings.start_of({"start": at}, group.settings)
        sought = self._groups.seek(group, start, sought)
        shown = {"group": group.settings.name, "start": arguments.get("start", "earliest")}
        return {**shown, "sought": sought} if sought else shown

    def _check_own(self, arguments: dict[str, Any]) -> None:
        """Raise CommandFailed for what is about another node's stream."""
        origin = arguments.get("origin", self._groups.shared.origin.hex())
        if origin != self._groups.shared.origin.hex():
            raise CommandFailed(f"no node that is known here has the origin {origin!r}")

    def purge(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"purged": self._group(arguments, "queue").purge()}

    def cancel(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group, stream, offset = self._job(arguments)
        if not group.cancel(stream, offset):
            raise self._no_job(arguments)
        group.wake()
        return {"cancelled": arguments["job"]}

    def reschedule(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group, stream, offset = self._job(arguments)
        now_ms = self._groups.shared.wall_now_ms
        due_ms = arguments.get("due_ms")
        most = now_ms + limits.DELAY_NS_MAX // limits.MS
        if not isinstance(due_ms, int) or isinstance(due_ms, bool) or not 0 <= due_ms <= most:
            raise CommandFailed("due_ms is a unix time in ms, at most 365 days ahead")
        if not group.reschedule(stream, offset, due_ms):
            raise self._no_job(arguments)
        group.wake()
        return {"rescheduled": arguments["job"], "due_ms": due_ms}

    def _job(self, arguments: dict[str, Any]) -> tuple[Group, int, int]:
        group = self._group(arguments, "queue")
        job = JobId.parse(str(arguments.get("job", "")))
        if job.origin != self._groups.shared.origin.hex():
            raise JobNotFound(f"job {job} is in another node's log")
        for source in group.sources:
            topic = self._topics.by_name.get(source.pattern)
            if topic is not None and topic_key(topic.entry.topic_id) == job.topic_key:
                return group, topic.entry.stream, job.offset
        raise self._no_job(arguments)

    def _no_job(self, arguments: dict[str, Any]) -> JobNotFound:
        return JobNotFound(
            f"job {arguments.get('job')} does not wait in queue {arguments.get('queue')!r}: it is "
            f"done, dead, in a worker's hands, or another queue's"
        )

    # -- dead letters -----------------------------------------------------------------------

    def dead_show(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group = self._group(arguments)
        name = dead_letters_of(group.settings.name)
        topic = self._topics.by_name.get(name)
        return {
            "topic": name,
            "records": dead_count(group, topic),
            "ranges": self._dead(group, topic)[:RANGES_MAX],
        }

    def _dead(self, group: Group, topic: Topic | None) -> builtins.list[tuple[int, int]]:
        if topic is None:
            return []
        settled = group.state.settled(topic.entry.stream)
        first = topic.first_offset
        return settled.missing(first, topic.synced_offset - first)

    def dead_replay(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group, topic, offsets = self._chosen(arguments)
        if topic is not None:
            for offset in offsets:
                group.undertaker.put_back(topic.entry.stream, offset)
        return {"replaying": len(offsets)}

    def dead_purge(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group, topic, offsets = self._chosen(arguments)
        if topic is not None:
            for offset in offsets:
                group.undertaker.drop(topic.entry.stream, offset)
                group.settle_own(topic.entry.stream, offset, 1)
        return {"purged": len(offsets)}

    def _chosen(self, arguments: dict[str, Any]) -> tuple[Group, Topic | None, builtins.list[int]]:
        """The dead letters that ``ranges`` name, all where it is not given."""
        group = self._group(arguments)
        self._check_own(arguments)
        topic = self._topics.by_name.get(dead_letters_of(group.settings.name))
        dead = self._dead(group, topic)
        ranges = arguments.get("ranges")
        if ranges is not None:
            if not _are_ranges(ranges):
                raise CommandFailed("ranges are a list of [first offset, count]")
            dead = _overlap(dead, ranges)
        return group, topic, [o for first, n in dead for o in range(first, first + n)]


def _are_ranges(ranges: Any) -> bool:
    return isinstance(ranges, list) and all(
        isinstance(r, list)
        and len(r) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 62 for n in r)
        for r in ranges
    )


def _overlap(runs: list[tuple[int, int]], ranges: list[list[int]]) -> list[tuple[int, int]]:
    """What of ``runs``, which are in order, ``ranges`` name; each record once."""
    found: list[tuple[int, int]] = []
    at = end = 0
    for begin, count in sorted(ranges):
        begin, end = max(begin, end), max(begin + count, end)
        while at < len(runs) and sum(runs[at]) <= begin:
            at += 1
        here = at
        while here < len(runs) and runs[here][0] < end:
            low, high = max(runs[here][0], begin), min(sum(runs[here]), end)
            if low < high:
                found.append((low, high - low))
            here += 1
        at = max(at, here - 1)
    return found


Verb = Callable[[Clerk, dict[str, Any]], dict[str, Any]]

VERBS: dict[str, Verb] = {
    "group.create": Clerk.create,
    "group.set": Clerk.set,
    "group.list": Clerk.list,
    "group.show": Clerk.show,
    "group.delete": Clerk.delete,
    "group.pause": Clerk.pause,
    "group.resume": Clerk.resume,
    "group.seek": Clerk.seek,
    "queue.purge": Clerk.purge,
    "queue.cancel": Clerk.cancel,
    "queue.reschedule": Clerk.reschedule,
    "dlq.show": Clerk.dead_show,
    "dlq.replay": Clerk.dead_replay,
    "dlq.purge": Clerk.dead_purge,
}

CHANGING = frozenset(VERBS) - {"group.list", "group.show", "dlq.show"}
"""Those whose answer means that the change is kept."""
