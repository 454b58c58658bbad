"""A topic's streams and which nodes copy each, as ``topic show`` has them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from meshmq.core.mirrors import Mirror
from meshmq.core.topics import Topic

_SHOWN = ("name", "caught_up", "lag_commits", "lsn", "problem")


def stream(
    owner: str, origin: bytes, topic: Topic, rows: Iterable[Mapping[str, Any]], away: bool = False
) -> dict[str, Any]:
    """One stream; ``rows`` say who copies it, ``away``: its owner is not there."""
    return {
        "owner": owner,
        "origin": origin.hex(),
        "away": away,
        "records": topic.synced_offset - topic.first_offset,
        "copied_to": [{key: row[key] for key in _SHOWN} for row in rows],
    }


def kept(
    mirrors: Iterable[Mirror], there: Container[bytes], name: str, node: str
) -> list[dict[str, Any]]:
    """Those that are copied at our ``node``, of owners that are not ``there`` to say it."""
    streams = []
    for mirror in mirrors:
        topic = mirror.topics.by_name.get(name)
        if topic is not None and mirror.origin not in there:
            row = dict(zip(_SHOWN, (node, True, 0, mirror.synced[0], ""), strict=True))
            streams.append(stream(mirror.name, mirror.origin, topic, [row], away=True))
    return streams
