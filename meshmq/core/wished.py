"""Which topics of a log are mirrored at another site, by what that wishes.

Rules:
1. A topic is, if it matches one of the patterns and none of the excluded ones.
2. The journal is, wherever anything is wished: what groups had done is known there then.
3. A queue is, lanes and all, if a topic of its name would be.
4. What is put back into a group, and its dead letters, are of any topic that the group reads. So
   they are mirrored only where all of these would be.
5. Nothing else is that begins with ``$``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshmq.names import JOURNAL, covers, group_of, matches, overlap, queue_of

if TYPE_CHECKING:
    from meshmq.core.groups import Groups
    from meshmq.core.mirror import Mirror

Patterns = Callable[[str], str | None]
"""The topics that a group reads, by its name; None: no such group is known."""


def no_groups(name: str) -> str | None:
    """Of a log without any."""
    return None


def patterns_of(groups: Groups) -> Patterns:
    """Of the node's own groups."""

    def pattern(name: str) -> str | None:
        group = groups.by_name.get(name)
        return None if group is None else group.settings.pattern

    return pattern


def patterns_in(mirror: Mirror) -> Patterns:
    """Of the groups of a log that is mirrored here. Of one that its journal does not know yet
    anything goes on that came: it was wished here."""

    def pattern(name: str) -> str | None:
        for state in mirror.journal.groups.values():
            if state.settings.name == name:
                return state.settings.pattern
        return ANY_GROUP

    return pattern


ANY_GROUP = ""
"""In place of a pattern: whatever it reads is wished."""


def is_wished(
    name: str, topics: tuple[str, ...], exclude: tuple[str, ...], pattern_of: Patterns = no_groups
) -> bool:
    """Whether a topic is mirrored."""
    if not name.startswith("$"):
        return any(matches(p, name) for p in topics) and not any(matches(p, name) for p in exclude)
    if name == JOURNAL:
        return bool(topics)
    if queue := queue_of(name):
        return is_wished(queue, topics, exclude)
    pattern = pattern_of(group_of(name)) if group_of(name) else None
    if pattern is None:
        return False
    return pattern == ANY_GROUP or is_wished_whole(pattern, topics, exclude)


def is_wished_whole(pattern: str, topics: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    """Whether all topics that a group reads are mirrored."""
    is_covered = any(covers(wide, pattern) for wide in topics)
    return is_covered and not any(overlap(pattern, other) for other in exclude)
