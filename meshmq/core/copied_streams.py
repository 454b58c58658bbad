"""A topic's streams and which nodes copy each, as ``topic show`` has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meshmq.core.copy_waiting import CopyWaiting
from meshmq.core.mirror import Mirror
from meshmq.core.sibling import Sibling

OLDER = "older"
"""What ``site.of_copies`` is asked for ``older``."""

MIRRORED = "mirrored"
"""What it is asked for ``mirrored``."""

_SHOWN = ("name", "caught_up", "lag_commits", "lsn", "problem")


def stream(
    owner: str, origin: bytes, first: int, records: int, rows: Iterable[Mapping[str, Any]],
    away: bool = False, older: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One stream, kept from offset ``first`` on; ``rows`` say who copies it, ``away``: its owner is
    not there, ``older``: that has another log now."""
    return {
        "owner": owner,
        "origin": origin.hex(),
        "away": away,
        "older": older,
        "first_offset": first,
        "records": records,
        "copied_to": [{key: row[key] for key in _SHOWN} for row in rows],
    }


def kept(
    mirrors: Iterable[Mirror], there: Mapping[bytes, Sibling], name: str, node: str
) -> list[dict[str, Any]]:
    """Those that are copied at our ``node``, of logs that nobody who is ``there`` has as its own;
    their owner may be there, with another log."""
    streams = []
    for mirror, away in _not_there(mirrors, there):
        records = mirror.topics.records(name)
        if records is not None:
            row = dict(zip(_SHOWN, (node, True, 0, mirror.synced[0], ""), strict=True))
            is_older = not (away or mirror.linked)
            first = mirror.topics.first_of(name)
            found = stream(mirror.shown, mirror.origin, first, records, [row], away, is_older)
            if not mirror.follows(name):
                age_ns, size = mirror.retention_of(name)
                found |= {"retention_ns": age_ns, "retention_bytes": size}
            streams.append(found)
    return streams


def at_sites(waiting: CopyWaiting, committed_lsn: int, name: str) -> dict[str, Any]:
    """Other sites that mirror a topic of our log, and what waits for them."""
    end = (committed_lsn + 1, 0)
    found: dict[str, Any] = {}
    if sites := waiting.sites_with(name):
        found["mirrored_at"] = [
            {"site": site, "caught_up": any(until >= end for _, until in spans)}
            for site, spans in sorted(sites.items())
        ]
    rows = [row for row in waiting.for_sites() if row["topic"] == name]
    return found | ({"waiting_for_sites": rows} if rows else {})


def older(
    mirrors: Iterable[Mirror], there: Mapping[bytes, Sibling]
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Of older logs that are kept here, of nodes that are there: by topic their records, by
    origin."""
    found: dict[str, dict[str, int]] = {}
    for mirror, away in _not_there(mirrors, there):
        for name in mirror.topics.by_name if not away else ():
            records = mirror.topics.records(name) or 0
            found.setdefault(name, {})[mirror.origin.hex()] = records
    return found


def mirrored(mirrors: Iterable[Mirror]) -> dict[str, dict[str, Any]]:
    """By topic, what is here of it of other sites' logs: their ``sites``, and ``records``."""
    found: dict[str, dict[str, Any]] = {}
    for mirror in mirrors:
        assert mirror.linked is not None
        for name in [name for name in mirror.topics.by_name if not name.startswith("$")]:
            row = found.setdefault(name, {"sites": set(), "records": 0})
            row["sites"].add(mirror.linked.site)
            row["records"] += mirror.topics.records(name) or 0
    return found


def _not_there(
    mirrors: Iterable[Mirror], there: Mapping[bytes, Sibling]
) -> Iterator[tuple[Mirror, bool]]:
    """Those of logs that nobody has as its own; whether their owner is away, or has another."""
    names = {sibling.name for sibling in there.values()}
    for mirror in mirrors:
        if mirror.origin not in there:
            yield mirror, not (mirror.is_own or mirror.linked) and mirror.name not in names
