"""A topic's streams and which nodes copy each, as ``topic show`` has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshmq.core.mirrors import Mirror
from meshmq.core.sibling import Sibling
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
    mirrors: Iterable[Mirror], there: Mapping[bytes, Sibling], name: str, node: str
) -> list[dict[str, Any]]:
    """Those that are copied at our ``node``, of logs that nobody who is ``there`` has as its own;
    their owner may be there, with another log."""
    names = {sibling.name for sibling in there.values()}
    streams = []
    for mirror in mirrors:
        topic = mirror.topics.by_name.get(name)
        if topic is not None and mirror.origin not in there:
            row = dict(zip(_SHOWN, (node, True, 0, mirror.synced[0], ""), strict=True))
            away = not mirror.is_own and mirror.name not in names
            streams.append(stream(mirror.name, mirror.origin, topic, [row], away))
    return streams
