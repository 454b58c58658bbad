"""What is known of a producer in a topic: the highest numbers, over one node or a site.

A number that a program gives is the producer's, in whatever run and at whatever node. One that is
given automatically by a producer with a name is its run's alone (names.run_of).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshmq.core.topics import Topic
from meshmq.names import has_name_of, is_named


def producer_last(topics: Iterable[Topic | None], producer: bytes) -> dict[str, Any]:
    """What ``producer.last`` answers: of all ``topics`` the highest number; and where the producer
    has a name, of those that programs gave, with the id of the topic that has it."""
    last = said = 0
    topic_id = b""
    for topic in topics:
        if topic is None:
            continue
        known = topic.producers.get(producer)
        if known is not None and known.last > said:
            said, topic_id = known.last, topic.entry.topic_id
        if is_named(producer):
            runs = [s.last for p, s in topic.producers.items() if has_name_of(p, producer)]
            last = max([last, *runs])
    shown: dict[str, Any] = {"last": max(last, said)}
    if is_named(producer):
        shown |= {"said": said, "topic_id": topic_id.hex()}
    return shown


def highest(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What several nodes have answered, as one; raises where that does not fit together."""
    best: dict[str, Any] = {"last": 0}
    for part in parts:
        best["last"] = max(best["last"], int(part["last"]))
        if "said" in part and int(part["said"]) >= best.get("said", 0):
            best |= {"said": int(part["said"]), "topic_id": str(part["topic_id"])}
    return best
