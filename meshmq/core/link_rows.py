"""Links with other sites, as ``status`` shows them (docs/operating.md names each field)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshmq.core.link_wish import CONNECTING, DOWN, LINKED, REFUSED, Endpoint, LinkWish
from meshmq.core.mirror import Mirror
from meshmq.core.sibling import Sibling

LACKS_TOPICS, LACKS_PAST, LACKS_SOME = "topics", "past", "some"
"""What a mirror at another site has not of what is wished here: topics, what was stored before the
time that it begins at, or what its site's own retention takes."""

Row = dict[str, Any]


def log_row(mirror: Mirror, source: Sibling | None, rates: Row) -> Row:
    """A log that is mirrored; ``source``: which node it comes from, if any."""
    assert mirror.linked is not None
    return {
        "name": mirror.shown, "origin": mirror.origin.hex(),
        "from": None if source is None else source.name, "lsn": mirror.synced[0],
        "received": mirror.received, "lag": mirror.lag(),
        "strands": len(mirror.strands), "since": mirror.linked.since,
        "partial": mirror.topics.is_partial, "problem": mirror.problem, **rates,
    }  # fmt: skip


def link_row(
    wish: LinkWish, nodes: Iterable[str], endpoints: Mapping[str, Endpoint], flow: Row,
    logs: Iterable[Row], not_pulled: Iterable[Row],
) -> Row:  # fmt: skip
    """A link, with its logs; ``nodes``: of the other site, that are linked now."""
    nodes = sorted(nodes)
    ends = {address: endpoints[address] for address in wish.endpoints}
    return {
        "to": wish.to, "state": LINKED if nodes else _state(ends.values()),
        "endpoints": list(wish.endpoints),
        "refused": {at: end.why for at, end in ends.items() if end.why},
        "reached": [
            {"endpoint": at, "state": end.state, "node": end.node or None}
            for at, end in ends.items()
        ],
        "topics": list(wish.topics), "exclude": list(wish.exclude),
        "priority": list(wish.priority),
        "retention_ns": None if wish.retention is None else wish.retention[0],
        "retention_bytes": None if wish.retention is None else wish.retention[1],
        "bytes_per_second": wish.bytes_per_second or None, "compression": wish.compression,
        "flow": flow, "nodes": nodes, "logs": sorted(logs, key=_name),
        "not_pulled": sorted(not_pulled, key=_name),
    }  # fmt: skip


def _name(row: Row) -> str:
    return str(row["name"])


def _state(ends: Iterable[Endpoint]) -> str:
    """Of a link with no node of the other site: what is said at one of its endpoints, or known."""
    states = {end.state for end in ends}
    if REFUSED in states:
        return REFUSED
    # A node that is linked here has no data link yet: that comes within a moment.
    return CONNECTING if states & {CONNECTING, LINKED} else DOWN
