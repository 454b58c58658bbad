"""What is not well with a node of a site, and what to do about it: read off what ``status`` shows.

Data: none. Rules:
1. A ``failure`` keeps somebody's records or receipts waiting until somebody sees to it; a
   ``warning`` may, or takes something from the site that it is to have.
2. ``about`` names what is meant, the same at whatever node it is noticed: several nodes that say
   one thing have said it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core.link_rows import LACKS_PAST, LACKS_SOME
from meshmq.core.link_wish import CONNECTING
from meshmq.core.site_copies import FULL

WARNING, FAILURE = "warning", "failure"


class Problem(NamedTuple):
    """One of them.

    Attributes:
        problem: its name, for programs.
        about: whose it is: a node, or what is at it.
        level: ``warning`` or ``failure``.
        seen, remedy: in words.
    """

    problem: str
    about: str
    level: str
    seen: str
    remedy: str


def problems(name: str, site: dict[str, Any], directory: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the node called ``name``, by its ``site`` and ``directory`` as ``status`` has them."""
    copies = site["copies"]
    if copies["behind"] is not None:
        found = [_behind(name, copies["behind"])]
    else:
        found = list(_of_copies(name, site, copies))
    if site["held_by"] and site["fence_seconds"]:
        found.append(_fenced(name, site["held_by"]))
    found += [*_of_nodes(name, site), *_of_links(name, site["links"])]
    found += _of_takeovers(name, site, copies)
    found += [*_of_disk(name, copies), *_of_clocks(directory)]
    return [problem._asdict() for problem in found[: limits.PROBLEMS_MAX]]


def _fenced(name: str, why: str) -> Problem:
    return Problem(
        "fenced", name, FAILURE, f"node {name}: {why}",
        "mend the network, or start a node of another site; if there is none any more take "
        "'fence_after' out of [site] and start the node again",
    )  # fmt: skip


_LESS = {
    LACKS_PAST: "has it from a time on that is later than this node wishes ('since')",
    LACKS_SOME: "has less of it than its own node keeps ('retention' of its [[link]])",
}
"""Who wishes other topics than the site between has need not miss those of sites behind it."""


def _behind(name: str, behind: dict[str, Any]) -> Problem:
    return Problem(
        "behind", name, FAILURE,
        f"node {name} takes no records: an older state of its disk was put back, and node "
        f"{behind['told_by']} knows of a copy of its log that goes further (commit "
        f"{behind['lsn']})",
        f"stop it, run '{behind['renew']}', start it, then 'meshmq node takeover {name} "
        f"--url URL', said to the node itself",
    )  # fmt: skip


def _of_nodes(name: str, site: dict[str, Any]) -> Iterator[Problem]:
    """Those that are away, or were refused."""
    for row in site["away"]:
        away, seconds = row["name"], row["seconds"]
        how_long = f"for {_span(seconds)}" if seconds is not None else f"since {name} was started"
        yield Problem(
            "away", away, WARNING, f"node {away} is away, {how_long}",
            f"start it; if it does not come back: 'meshmq node takeover {away}' at a node with a "
            f"copy of it, then 'meshmq node forget {away}'",
        )  # fmt: skip
    of_links = {who for row in site["links"] if not row["nodes"] for who in row["refused"]}
    for who, why in site["refused"].items():
        if who in of_links:
            continue  # the link says so
        yield Problem(
            "refused", who, WARNING, f"node {who} was refused: {why}",
            "start it with a name, mesh, site and version that fit, or stop it; one that has gone "
            "is named until the node that says this is started again",
        )  # fmt: skip


def _of_links(name: str, links: list[dict[str, Any]]) -> Iterator[Problem]:
    """With other sites."""
    for row in links:
        to = row["to"]
        if row["paused"] is not None:
            yield _paused(to, row["paused"])
            continue  # whatever else is the matter, nothing is to come
        if not row["nodes"] and row["state"] != CONNECTING:
            mend = f"mend 'endpoints' of its [[link]] to {to}, then send the node SIGHUP"
            if row["refused"]:
                why = "; ".join([f"at {at}, {said}" for at, said in row["refused"].items()])
            else:
                why = f"nobody answers at {' or '.join(row['endpoints'])}"
                mend = f"start a node of site {to} there, or see to the network; else {mend}"
            seen = f"there is no link with a node of site {to}: {why}"
            yield Problem("link-down", to, WARNING, seen, mend)
        for log in row["not_pulled"]:
            of, why = log["name"].partition("/")[0], _LESS.get(log["lacks"], "")
            if why and of not in [other["to"] for other in links]:
                # What a retention took is not had again when it is taken out: only a link helps.
                do = f"give this node a [[link]] to {of}"
                if log["lacks"] == LACKS_PAST:
                    do += ", or ask for no more than is there: 'since' of the [[link]] to " + to
                yield Problem(
                    "not-pulled", f"{log['name']} from {to}", WARNING,
                    f"of {log['name']} nothing comes from site {to}, which {why}",
                    do,
                )  # fmt: skip
        for log in row["logs"]:
            if log["problem"]:
                at = name if log["problem"] == FULL else log["from"] or log["name"]
                yield Problem(
                    "mirror", f"{log['name']} at {name}", WARNING,
                    f"the mirror of {log['name']} at node {name} stands still: {log['problem']}",
                    f"see to node {at}; it goes on by itself",
                )  # fmt: skip


def _paused(to: str, by: dict[str, Any]) -> Problem:
    at = datetime.fromtimestamp(by["set_at_ms"] / 1000, UTC)
    return Problem(
        "link-paused", to, WARNING,
        f"the link with site {to} is paused since {at:%Y-%m-%dT%H:%MZ}, said at node "
        f"{by['set_by']}: nothing is pulled from there",
        f"'meshmq link resume {to}' when it is to go on",
    )  # fmt: skip


def _of_copies(name: str, site: dict[str, Any], copies: dict[str, Any]) -> Iterator[Problem]:
    """Copies of the node's own log."""
    wanted, waits = copies["wanted"], copies["waiting"] > 0
    there = site["there"]
    if wanted > there:
        is_waited_for = waits or copies["confirm"] > there
        for_what = "receipts wait for the rest" if is_waited_for else "fewer disks may be lost"
        yield Problem(
            "too-few-nodes", f"{wanted} copies", FAILURE if is_waited_for else WARNING,
            f"of {wanted} nodes that are to have what is published {there} "
            f"{'is' if there == 1 else 'are'} there: {for_what}",
            f"start more nodes, or those that are away, until there are {wanted}; or want fewer "
            f"copies: 'meshmq topic create TOPIC --copies N' of a topic, 'meshmq node --copies N'",
        )  # fmt: skip
    rows = [row for row in copies["nodes"] if row["level"] or row["problem"]]
    for row in rows:
        if row["caught_up"] and not row["problem"]:
            continue
        lag = "" if row["lag_commits"] is None else f"{row['lag_commits']} commits behind"
        yield Problem(
            "copy", f"{name} at {row['name']}", FAILURE if waits and row["problem"] else WARNING,
            f"the copy of {name} at node {row['name']} is not caught up: "
            f"{row['problem'] or lag or 'it has not begun'}",
            f"see to node {row['name']}" if row["problem"] else "wait, and ask again",
        )  # fmt: skip
    missing = min(wanted, there) - 1 - len(rows)
    if missing > 0:
        yield Problem(
            "copy", name, WARNING,
            f"{missing} of {wanted - 1} nodes that are to copy {name} have not begun",
            "wait: where one has just gone, another one copies 30 s later",
        )  # fmt: skip


def _of_takeovers(name: str, site: dict[str, Any], copies: dict[str, Any]) -> Iterator[Problem]:
    """What came to a copy after its node was taken over."""
    away = {row["name"] for row in site["away"]}
    for row in copies["takeovers"]:
        if row["left"] and row["of"] in away:
            yield Problem(
                "left-over", f"{row['of']} at {name}", WARNING,
                f"the copy of node {row['of']} goes further than it did when {name} took it over: "
                f"what its groups had left behind that place is worked on by nobody",
                f"start node {row['of']}; if it does not come back: 'meshmq node takeover "
                f"{row['of']}' again, at {name}",
            )  # fmt: skip
    for row in site["taken"]:
        if row["beaten"]:
            yield Problem(
                "taken-twice", f"{row['log']} at {name}", WARNING,
                f"site {row['by']} has {row['log']} (epoch {row['epoch']}), which node {name} had "
                f"taken over too: "
                f"{row['beaten']} records that it had moved before it heard of that are left to do "
                f"at {name}, and may be worked on there as well",
                f"let members of these groups at {name}'s site finish them: they are marked as "
                f"possible repeats",
            )  # fmt: skip


def _of_disk(name: str, copies: dict[str, Any]) -> Iterator[Problem]:
    """Records that nobody can read."""
    for row in copies["takeovers"]:
        if not row["skipped"]:
            continue
        records = sum(skipped["records"] for skipped in row["skipped"])
        yield Problem(
            "unreadable", f"{row['of']} at {name}", WARNING,
            f"of node {row['of']}, which {name} took over, {records} records were passed over: no "
            f"copy of them can be read",
            f"start a node with another copy, and say 'meshmq node takeover {row['of']}' again; "
            f"site.copies.takeovers in 'meshmq status --json' has their offsets",
        )  # fmt: skip
    if copies["not_mended"]:
        yield Problem(
            "not-mended", name, WARNING,
            f"{copies['not_mended']} damaged batches of {name} have been had from no other node "
            f"since it was started",
            f"start a node with a copy; 'damage' in 'meshmq status --json' has their offsets, and "
            f"'meshmq log verify --name {name} --data DIR' too, with the node stopped",
        )  # fmt: skip


def _of_clocks(directory: dict[str, Any]) -> Iterator[Problem]:
    for other, ahead_ms in directory["clocks_ahead_ms"].items():
        yield Problem(
            "clock", other, WARNING,
            f"the clock of node {other} is ahead by {_span(ahead_ms / 1000)}",
            "set the clocks of all nodes, by NTP at best (timedatectl set-ntp true): of two "
            "changes the later one holds",
        )  # fmt: skip


def _span(seconds: float) -> str:
    """To read."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
