"""Whether the counters of a node's groups add up, and whether their machines keep only what they
need. It looks inside: these are the groups' own invariants."""

from __future__ import annotations

from collections.abc import Iterator

from meshmq.core.group import Group
from meshmq.core.group_waiting import RETRY
from meshmq.core.node import Node


def audit(node: Node) -> list[str]:
    """What does not add up at the end of a turn."""
    return [
        f"{name}: {text}" for name, group in node.groups.by_name.items() for text in _sums(group)
    ]


def _sums(group: Group) -> Iterator[str]:
    in_hands = sum(h.left.bit_count() for h in group.hand_outs.values())
    if group.in_flight != in_hands:
        yield f"in_flight says {group.in_flight}, hands hold {in_hands}"
    for member in group.members.values():
        mine = sum(h.left.bit_count() for h in member.hand_outs.values())
        if member.in_flight != mine:
            yield f"member's in_flight says {member.in_flight}, it holds {mine}"
    backlog = group.backlog
    streams = {s for source in group.sources for s in group.feed.streams_of(source)}
    truth = len(group.state.marks)
    for stream in streams:
        topic = group.topics.by_stream[stream]
        runs = group.state.settled(stream).missing(
            topic.first_offset, topic.synced_offset - topic.first_offset
        )
        truth += sum(n for _, n in runs)
    if backlog != truth:
        yield f"backlog says {backlog}, the state has {truth}"
    held = group.by_key.held if group.by_key is not None else 0
    if group.by_key is not None:
        books = group.by_key.streams.values()
        kept = sum(len(state.held or ()) for keys in books for state in keys.held_up.values())
        if held != kept:
            yield f"held says {held}, keys hold {kept}"
    away = group.in_flight + group.delayed + group.retrying + held + group.undertaker.dying
    # What retention took while it was in somebody's hands is no longer counted.
    overtaken = sum(
        not group._is_open(h, h.offset_of(i))
        for h in group.hand_outs.values()
        for i in h.indices(h.left)
    )
    numbers = f"{group.in_flight} {group.delayed} {group.retrying} {held} {group.undertaker.dying}"
    if away - overtaken > backlog:
        yield f"away are {numbers}, more than the {backlog} there are"
    if min(group.in_flight, group.delayed, group.retrying, held) < 0:
        yield f"below zero: {numbers}"
    yield from _waiting(group)
    yield from _bounds(group)
    for source in group.sources:
        for (stream, base), entry in source.trail.items():
            runs = group.state.settled(stream).missing(base, entry.count)
            if entry.left != sum(n for _, n in runs):
                yield f"the trail says {entry.left} of {stream} {base} are left, not {runs}"


def _waiting(group: Group) -> Iterator[str]:
    """``retrying`` are the marks that wait for their time."""
    away = {(h.stream, h.offset_of(i)) for h in group.hand_outs.values() for i in h.indices(h.left)}
    ready = {
        (r.batch.stream, r.batch.base_offset + i)
        for queue in group.ready.values()
        for r in queue
        if r.marked
        for first, n in r.runs
        for i in range(first, first + n)
    }
    waits = [
        key
        for key in group.state.marks
        if key not in away
        and key not in ready
        and key not in group._again_set
        and key not in group._blocked
        and not group.undertaker.has(*key)
    ]
    if len(waits) != group.retrying:
        yield f"retrying says {group.retrying}, {len(waits)} marks wait"


def _bounds(group: Group) -> Iterator[str]:
    """A queue has no more jobs than it may, but for dead letters that were put back."""
    most = group.settings.max_records
    if not most:
        return
    count = group.unsynced
    for source in group.sources:
        if source.index != RETRY:
            for stream in group.feed.streams_of(source):
                topic = group.topics.by_stream[stream]
                count += group._open_records(stream, topic.first_offset, topic.synced_offset)
                count += sum(key[0] == stream for key in group.state.marks)
    if count > most:
        yield f"{count} jobs, its limit is {most}"


def leftovers(node: Node) -> list[str]:
    """What groups at rest still hold in memory."""
    found = []
    for name, group in node.groups.by_name.items():
        kept: dict[str, object] = {
            "hand_outs": group.hand_outs,
            "marks": group.state.marks,
            "adopted": group.adopted,
            "again": group._again_set,
            "suspects": group._suspects,
            "blocked": group._blocked,
            "keys": _known(group),
            "ready": [q for q in group.ready.values() if q],
            "trail": [e for s in group.sources for e in s.trail.values() if e.left],
            "told": group._told,
            "unsynced": group.unsynced or group.unsynced_bytes,
        }
        for what, value in kept.items():
            if value:
                found.append(f"{name}: {what} holds {str(value)[:200]} at rest")
        found += [
            f"{name}: source {source.index} has {source.ready_bytes} ready bytes"
            for source in group.sources
            if source.ready_bytes
        ]
    if node.groups.members._orphans:
        found.append("orphans at rest")
    return found


def _known(group: Group) -> list[object]:
    """What is kept of keys."""
    if group.by_key is None:
        return []
    books = group.by_key.streams.items()
    return [(s, k.bound, list(k.held_up)) for s, k in books if k.bound or k.held_up]
