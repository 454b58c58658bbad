"""What the history of a site must keep of what its nodes agree on. Sentences: what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshmq.core import group_settings
from meshmq.core.directory_rows import GroupRow, RuleRow
from meshmq.limits import SECOND
from meshmq.testing.site_directory import KEPT, PATTERNS, Agreements, Word, directory_of

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_world import SiteWorld

AGREED_NS = 5 * SECOND  # after a heal: the longest until all are linked, and what they compare


def _part(world: SiteWorld) -> Agreements | None:
    return next((part for part in world.parts if isinstance(part, Agreements)), None)


def agreement(world: SiteWorld) -> Iterator[str]:
    """After each heal all nodes agree on the same, soon."""
    for number, took_ns in enumerate(world.agreed):
        if not 0 <= took_ns <= AGREED_NS:
            took = "never" if took_ns < 0 else f"after {took_ns / SECOND:.2f} s"
            yield f"round {number}: all nodes had the same directory {took}"


def deleted(world: SiteWorld) -> Iterator[str]:
    """A topic of which somebody was told that it is deleted does not come back."""
    part = _part(world)
    if part is None:
        return
    yield from part.odd
    for host in world.members if world.is_calm else ():
        for name, topic in host.disk.state.topics.items():
            if topic.topic.topic_id in part.gone:
                yield f"{host} has {name} on its disk, which was deleted"


def last(world: SiteWorld) -> Iterator[str]:
    """Of two words on one policy the one that was said by who knew of the other holds."""
    part = _part(world)
    if part is None:
        return
    if not world.is_calm or world.unrest:
        return
    for pattern in PATTERNS:
        words = [w for w in part.words if w.pattern == pattern]
        row = _rule(world.members[0], pattern)
        if row is None:
            missing = next((w for w in words if w.is_calm and w.done_ns > 0), None)
            if missing is not None:
                yield f"nobody has a word on {pattern!r}: {missing!r}"
            continue
        found = _said_by(world, words, row)
        if not found:
            yield f"policy {row} was not set by anybody"
        later = [[w for w in words if w.follows(one)] for one in found]
        if later and all(later):
            yield f"{found[-1]!r} holds, and {later[-1][-1]!r} was said by who knew of it"


def _rule(host: Host, pattern: str) -> RuleRow | None:
    directory = directory_of(host)
    row = directory.table.rows.get(b"r" + pattern.encode()) if directory is not None else None
    return row if isinstance(row, RuleRow) else None


def _said_by(world: SiteWorld, words: list[Word], row: RuleRow) -> list[Word]:
    """Which words may have made a row what it is."""
    if not row.removed:
        return [w for w in words if w.size == row.retention_bytes]
    return [w for w in words if not w.size and w.at.name == row.set.by]


def kept(world: SiteWorld) -> Iterator[str]:
    """What is stored under topics that nobody deletes stays, whatever nodes agree on."""
    part = _part(world)
    for stored in part.stored if part is not None else ():
        offset = stored.offset
        if stored.topic not in KEPT or offset is None:
            continue
        state = stored.at.disk.state.topics.get(stored.topic)
        if state is None or not state.topic.durable:
            yield f"{stored.at} lost {stored.topic}, where {stored.value!r} was stored"
        elif stored.at.disk.synced.get((state.topic.stream, offset)) != stored.value:
            yield f"{stored.at} lost {stored.value!r}, {offset} in {stored.topic}"


def likeness(world: SiteWorld) -> Iterator[str]:
    """Each node does as they agree: topics are kept so long, and the groups are there."""
    if not world.is_calm or world.unrest:
        return
    for host in world.members:
        yield from _topics_unlike(host)
        yield from _groups_unlike(host)


def _topics_unlike(host: Host) -> Iterator[str]:
    node, directory = host.node, directory_of(host)
    assert node is not None
    assert directory is not None
    queues = {n for n, g in node.groups.by_name.items() if g.settings.kind == "queue"}
    for name, topic in node.topics.by_name.items():
        if name.startswith("$") or name in queues:
            continue
        policy = directory.table.policy(name)
        entry, wanted = topic.entry, (policy.durable, policy.retention_bytes)
        if (entry.durable, entry.retention_bytes) != wanted:
            yield f"{host} keeps {name} as {entry}, and {wanted} was agreed"
        on_disk = host.disk.state.topics[name].topic
        if on_disk != entry:
            yield f"{host} keeps {name} as {entry}, and stored {on_disk}"


def _groups_unlike(host: Host) -> Iterator[str]:
    node, directory = host.node, directory_of(host)
    assert node is not None
    assert node.registrar is not None
    assert directory is not None
    agreed = {r.name: r for r in directory.table.rows.values() if isinstance(r, GroupRow)}
    conflicts = node.registrar.conflicts
    for name, group in node.groups.by_name.items():
        row = agreed.get(name)
        if name not in conflicts and (row is None or not row.is_alive):
            yield f"{host} has a group {name}, which was not agreed"
        elif name not in conflicts and row is not None:
            wanted = group_settings.parse(row.settings.encode())["pattern"]
            if group.settings.pattern != wanted:
                yield f"{host} has {name} of {group.settings.pattern}, and {wanted} was agreed"
    for name, row in agreed.items():
        if row.is_alive and name not in node.groups.by_name and name not in conflicts:
            yield f"{host} has no group {name}, which was agreed"


CHECKERS = (agreement, deleted, last, kept, likeness)
