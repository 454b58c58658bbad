"""Listings of many nodes of a site as one: sums, and where each part lives.

Each merge takes what the nodes that answered say, our own node first, and gives what a single node
would say, with ``nodes``: a row for each node with its part. A name that several nodes know is one
thing: sums are over all of them, what is no sum (settings, state) is the first node's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from meshmq.core.group_commands import RANGES_MAX


class Part(NamedTuple):
    """What one node says."""

    name: str
    origin: str
    body: dict[str, Any]

    def row(self, **shown: Any) -> dict[str, Any]:
        """Its row among ``nodes``."""
        return {"node": self.name, "origin": self.origin, **shown}


Merge = Callable[[Sequence[Part]], dict[str, Any]]

GROUP_PARTS = (
    "ready", "in_flight", "delayed", "retrying", "held", "dead", "records", "bytes",
)  # fmt: skip
GROUP_SUMS = (
    *GROUP_PARTS, "acked", "nacked", "rejected", "expired", "redelivered", "overtaken",
    "expired_jobs", "damaged", "buried",
)  # fmt: skip
TOPIC_SUMS = ("published", "records", "producers", "subscriptions")
SERVICE_SUMS = ("requests", "waiting", "expired")
STATUS_PARTS = ("state", "unsynced_bytes", "published", "confirmed", "delivered", "topics")


def _sum(bodies: Iterable[dict[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    bodies = list(bodies)
    return {
        name: sum([body.get(name, 0) for body in bodies])
        for name in names
        if any(name in body for body in bodies)
    }


def _by_name(parts: Sequence[Part], rows: str, name: str) -> dict[str, list[Part]]:
    """The rows of all nodes by what they are of; each a Part of its own."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        for row in part.body.get(rows, ()):
            found.setdefault(row[name], []).append(part._replace(body=row))
    return dict(sorted(found.items()))


def group(parts: Sequence[Part]) -> dict[str, Any]:
    """One group or queue."""
    bodies = [part.body for part in parts]
    states = [body["state"] for body in bodies]
    has_conflict = any(body.get("conflict") for body in bodies)
    members: dict[tuple[Any, Any], dict[str, Any]] = {}
    for part in parts:
        for member in part.body["members"]:
            row = {**member, "home": member.get("home") or part.name}
            same = members.setdefault((row.get("instance"), row["consumer"]), row)
            if same is not row:
                for name in ("in_flight", "in_flight_bytes"):
                    same[name] += row[name]
    return {
        **bodies[0],
        **_sum(bodies, GROUP_SUMS),
        "state": "running" if "running" in states else states[0],
        "stopped_by": next((b["stopped_by"] for b in bodies if b["stopped_by"]), ""),
        "oldest_seconds": max([body["oldest_seconds"] for body in bodies]),
        "members": list(members.values()),
        "nodes": [
            part.row(
                state=part.body["state"], oldest_seconds=part.body["oldest_seconds"],
                **{name: part.body[name] for name in GROUP_PARTS},
                **({"conflict": part.body.get("conflict", "")} if has_conflict else {}),
            )
            for part in parts
        ],
    }  # fmt: skip


def groups(parts: Sequence[Part]) -> dict[str, Any]:
    """All groups and queues."""
    return {"groups": [group(some) for some in _by_name(parts, "groups", "group").values()]}


def topic(parts: Sequence[Part]) -> dict[str, Any]:
    """One topic; its offsets are of one stream, so they are shown where there is one. Records of
    older logs, which nodes that are there had before, count: they are read as all others."""
    known = streams(parts)
    past = sum([r["records"] for r in known if r.get("older")]) if known else _older(parts)
    parts = [part for part in parts if not part.body.get("elsewhere")] or parts
    parts = [part for part in parts if "mirrored_from" not in part.body] or parts
    bodies = [part.body for part in parts]
    merged = {**bodies[0], **_sum(bodies, TOPIC_SUMS)}
    if "mirrored_from" in merged:
        sites = {site for body in bodies for site in body.get("mirrored_from", ())}
        merged["mirrored_from"] = sorted(sites)
    merged.pop("older", None)
    if past:
        merged["records"] = merged.get("records", 0) + past
    offsets = ("first_offset", "next_offset")
    holders = [body for body in bodies if body.get("next_offset")]
    for name in offsets:
        merged.pop(name, None)
        if len(holders) == 1 or len(bodies) == 1:
            one = (holders or bodies)[0]
            if name in one:
                merged[name] = one[name]
    rows = []
    for part in parts:
        own = {n: part.body[n] for n in ("topic_id", "records", *offsets) if n in part.body}
        rows.append(part.row(published=part.body.get("published", 0), **own))
    merged["nodes"] = rows
    if known:
        merged["streams"] = known
    return merged


def _older(parts: Sequence[Part]) -> int:
    """Records of a topic in older logs; of several copies of one the longest counts."""
    most: dict[str, int] = {}
    for part in parts:
        for origin, records in part.body.get("older", {}).items():
            most[origin] = max(most.get(origin, 0), records)
    for part in parts:
        most.pop(part.origin, None)
    return sum(most.values())


def _is_copy(row: dict[str, Any]) -> bool:
    """Whether a stream is told of by who has a copy, not by its owner."""
    return bool(row["away"] or row.get("older"))


def streams(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """A topic's streams, and which nodes copy each: its owner knows, or where that is not there
    those that have a copy, of which the longest counts as all there is."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for row in part.body.get("streams", ()):
            same = found.setdefault(row["origin"], row)
            if same is row:
                continue
            if row["away"] == same["away"] and _is_copy(row) and _is_copy(same):
                same["copied_to"] += row["copied_to"]
                same["records"] = max(same["records"], row["records"])
            elif (_is_copy(same), same["away"]) > (_is_copy(row), row["away"]):
                found[row["origin"]] = row  # some see it and some do not
    for row in filter(_is_copy, found.values()):
        furthest = max([copy["lsn"] for copy in row["copied_to"]], default=0)
        for copy in row["copied_to"]:
            copy["lag_commits"] = furthest - copy["lsn"]
            copy["caught_up"] = not copy["lag_commits"]
    return sorted(found.values(), key=lambda row: (row["owner"], row["away"], row["origin"]))


def topics(parts: Sequence[Part]) -> dict[str, Any]:
    """All topics, and the policies for those to come."""
    policies: dict[str, dict[str, Any]] = {}  # in the order in which they count
    for part in parts:
        for row in part.body.get("policies", ()):
            policies.setdefault(row["pattern"], row)
    return {
        "topics": [topic(some) for some in _by_name(parts, "topics", "topic").values()],
        "policies": list(policies.values()),
    }


def services(parts: Sequence[Part]) -> dict[str, Any]:
    """All services. A node has heard what others serve; each knows best what it serves itself."""
    found = []
    for some in _by_name(parts, "services", "service").values():
        bodies = [part.body for part in some]
        sums = _sum(bodies, SERVICE_SUMS)
        # One that another node passed on was counted there, where it was asked.
        sums["requests"] -= sum([body.get("of_nodes", 0) for body in bodies])
        rows = {row["node"]: row for body in reversed(bodies) for row in body.get("nodes", ())}
        for part in some:
            rows.update(
                {r["node"]: r for r in part.body.get("nodes", ()) if r["node"] == part.name}
            )
        first = parts[0].name
        found.append(
            {
                **{name: value for name, value in bodies[0].items() if name != "of_nodes"},
                **sums,
                "instances": [
                    {**row, "node": part.name} for part in some for row in part.body["instances"]
                ],
                "nodes": [rows[n] for n in sorted(rows, key=lambda n: (n != first, n))],
            }
        )
    return {"services": found}


def dead_letters(parts: Sequence[Part]) -> dict[str, Any]:
    """The dead letters of a group; ``ranges`` are those of our own log. Where they are many runs
    each node's first ones are shown, so that the answer fits a frame."""
    bodies = [part.body for part in parts]
    most = RANGES_MAX // (len(parts) + 1)
    return {
        **bodies[0],
        **_sum(bodies, ("records",)),
        "ranges": bodies[0]["ranges"][:most],
        "nodes": [
            part.row(records=part.body["records"], ranges=part.body["ranges"][:most])
            for part in parts
        ],
    }


def seek(parts: Sequence[Part]) -> dict[str, Any]:
    """What a group's seek did at each node."""
    body = {name: value for name, value in parts[0].body.items() if name != "sought"}
    return {**body, "nodes": [part.row() for part in parts]}


def status(parts: Sequence[Part]) -> dict[str, Any]:
    """Our own node's, and in short that of the others."""
    rows = []
    for part in parts:
        body = part.body
        shown = {name: body[name] for name in STATUS_PARTS if name in body}
        shown["problems"] = body.get("problems", [])
        rows.append(
            part.row(
                **shown, sessions=body.get("sessions", {}).get("open", 0),
                groups=len(body.get("groups", ())), services=len(body.get("services", ())),
            )
        )  # fmt: skip
    return {**parts[0].body, "nodes": rows}


def of_sites(parts: Sequence[Part]) -> dict[str, Any]:
    """What each node has done of a takeover of another site, or of what is handed back."""
    first = parts[0].body
    doubts = [part.body["doubt"] for part in parts if part.body["doubt"]]
    nodes = [row for part in parts for row in part.body["nodes"]]
    # Whom one node of ours hears, or hears of, all of them will.
    unheard = [set(part.body.get("unheard", ())) for part in parts]
    return {
        **first, "doubt": doubts[0] if doubts else "",
        "unheard": sorted(set.intersection(*unheard)), "nodes": nodes,
    }  # fmt: skip


def sums(*names: str) -> Merge:
    """Of what a command did at each node."""

    def merge(parts: Sequence[Part]) -> dict[str, Any]:
        bodies = [part.body for part in parts]
        return {
            **bodies[0],
            **_sum(bodies, names),
            "nodes": [part.row(**{n: part.body.get(n, 0) for n in names}) for part in parts],
        }

    return merge


MERGES: dict[str, Merge] = {
    "topic.list": topics,
    "topic.show": topic,
    "group.list": groups,
    "group.show": group,
    "service.list": services,
    "dlq.show": dead_letters,
    "status": status,
    "queue.purge": sums("purged"),
    "group.seek": seek,
    "dlq.replay": sums("replaying"),
    "dlq.purge": sums("purged"),
    "site.takeover": of_sites,
    "site.handback": of_sites,
}
"""What is asked of, or done at, all nodes."""

LISTED = ("topics", "groups", "services")  # rows of lists
CHANGING = frozenset({"queue.purge", "dlq.replay", "dlq.purge"})
"""Of these: what is not done at all nodes is told as an error. A seek is done where it was not once
that node is back."""
