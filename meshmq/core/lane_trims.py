"""What of a node's own topics of groups nobody needs any more: jobs, dead letters, and what was put
back, once they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshmq import limits
from meshmq.core.group import Group
from meshmq.core.journal import QUEUE
from meshmq.core.log import TrimEntry
from meshmq.core.topics import Topics
from meshmq.names import dead_letters_of, lanes_of, retries_of


def trims_of(
    groups: Iterable[Group], topics: Topics, in_small_steps: bool, kept: Callable[[int], int | None]
) -> list[TrimEntry]:
    """What is done is trimmed, in large steps while the disk has room.

    Args:
        kept: from which offset on a stream is kept all the same: another site may hand it back.
    """
    found = []
    step = 1 if in_small_steps else limits.TRIM_RECORDS_MIN
    for group in groups:
        name = group.settings.name
        own = [dead_letters_of(name), retries_of(name)]
        if group.settings.kind == QUEUE:
            own += lanes_of(name)
        for topic_name in own:
            topic = topics.by_name.get(topic_name)
            if topic is None:
                continue
            stream = topic.entry.stream
            settled = group.state.streams.get(stream)
            if settled is None or settled.floor <= topic.first_offset:
                continue
            low = settled.floor
            if low - topic.first_offset < step and low < topic.next_offset:
                continue
            low = min([low, *(o for s, o in group.state.marks if s == stream)])
            first = kept(stream)
            low = low if first is None else min(low, first)
            if low > topic.first_offset:
                found.append(TrimEntry(stream, low))
    return found
