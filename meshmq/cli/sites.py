"""``meshmq sites``: our site, and the others that it has to do with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshmq.cli.group_options import span
from meshmq.cli.link import behind, links_of, the_rest, troubles, without_links
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import columns, emit, rate, say, size

HEADS = (
    "site", "state", "nodes", "pulled", "logs", "received", "behind", "bytes behind", "for",
    "records/s", "bytes/s", "by",
)  # fmt: skip
_HOW_IT_COMES = ("lag_bytes", "lag_seconds", "records_per_second", "bytes_per_second")


def sites(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the node's site, and those with which it has links, or whose logs it mirrors.

    Nodes are those that are linked; of our own site all that are there.
    Pulled says whether this node's configuration pulls from there; where it
    does not, that site may pull from us, or its logs come by a third one. Logs
    are those of that site that this node mirrors, wherever they come from;
    other nodes of its site may have the rest. Received are their records since
    this node's start, behind are those that it has not got, as it was told
    last, for says how old the oldest of that word is, and bytes are reckoned by
    those that came; by says from which nodes they come now. Below is who has
    paused a link, whose groups were taken over by whom, and what is left of
    that.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = connection.admin.status()
    rows, node = rows_of(report), report["node"]["name"]
    if json:
        for row in rows:
            emit({**row, "node": node})
    elif len(rows) > 1 or (rows and _taken(report["site"])):
        table = columns(HEADS, [_cells(row) for row in rows])
        trouble = [line for row in links_of(report) for line in troubles(row)]
        say("\n".join([*table, *trouble, *_taken(report["site"]), *the_rest(report)]))
    else:
        say(without_links(report))


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each site, our own first, as JSON has it; none if the node belongs to no site."""
    site = report["site"]
    if site is None:
        return []
    links = {row["to"]: row for row in links_of(report)}
    far = site.get("far", ())
    kept = [row for row in site["copies"]["kept"] if row.get("site")]
    by = {log["origin"]: {**log, "from": _source(row, log)}
          for row in links.values() for log in row["logs"]}  # fmt: skip
    ours = sorted([report["node"]["name"], *[row["name"] for row in site["nodes"]]])
    taken = site.get("taken", ())
    rows = [_row(site["name"], "ours", ours, False, [], {}, taken, None)]
    for name in sorted({*links, *[row["site"] for row in far], *[row["site"] for row in kept]}):
        nodes = [row["name"] for row in far if row["site"] == name and row["state"] == "linked"]
        state = links[name]["state"] if name in links else "linked" if nodes else "not linked"
        logs = [row for row in kept if row["site"] == name]
        is_pulled = name in links and bool(links[name]["topics"])
        paused = links[name].get("paused") if name in links else None
        rows.append(_row(name, state, nodes, is_pulled, logs, by, taken, paused))
    return rows


def _taken(site: dict[str, Any]) -> list[str]:
    """Whose groups were taken over by whom, a line each, and whether our own site is fenced."""
    lines = [site["held_by"]] if site.get("held_by") else []
    for row in site.get("taken", ()):
        text = f"{row['log']}: groups taken over by site {row['by']} at node {row['node']}"
        if row["moving"]:
            more = "being moved"
        elif row["back"]:
            more = "handed back" if row["over"] else "being handed back"
        elif row["left"]:
            more = f"{row['left']} left to do"
        else:
            more = "nothing left to do" if row["over"] or row["left"] == 0 else ""
        if row.get("beaten"):
            here = f"{row['beaten']} that were moved here before that was known are left to do"
            more = f"{more}, {here}" if more else here
        lines.append(f"{text} (epoch {row['epoch']})" + (f", {more}" if more else ""))
    return lines


def _source(link: dict[str, Any], log: dict[str, Any]) -> str | None:
    """From which node a log comes: of another site with that before it, or a sibling of ours."""
    node: str | None = log["from"]
    return f"{link['to']}/{node}" if node in link["nodes"] else node


def _row(
    name: str,
    state: str,
    nodes: list[str],
    is_pulled: bool,
    logs: list[dict[str, Any]],
    by: dict[str, dict[str, Any]],
    taken: Iterable[dict[str, Any]],
    paused: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "site": name, "state": state, "nodes": nodes, "pulled": is_pulled, "paused": paused,
        "logs": [_log(log, by.get(log["origin"], {})) for log in logs],
        "taken": [one for one in taken if one["of"] == name],
    }  # fmt: skip


def _log(log: dict[str, Any], comes: dict[str, Any]) -> dict[str, Any]:
    """A mirrored log, and how it comes by one of our links, if it does."""
    return {
        "name": log["name"], "origin": log["origin"], "received": log["received"],
        "from": comes.get("from"), "problem": log["problem"],
        "lag": behind(comes) if comes else None,
        **{what: comes.get(what) for what in _HOW_IT_COMES},
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> list[Any]:
    if row["state"] == "ours":
        return [row["site"], "ours", row["nodes"], *[None] * (len(HEADS) - 3)]
    logs = row["logs"]
    by = sorted({log["from"] for log in logs if log["from"]})
    sums = {
        what: sum([log[what] for log in logs if log[what] is not None])
        for what in ("received", "lag", "lag_bytes", "records_per_second", "bytes_per_second")
    }
    # What is missing of a log of which nothing came has no length to be reckoned by.
    is_known = all(log["lag_bytes"] is not None for log in logs if log["lag"])
    oldest = max([log["lag_seconds"] or 0 for log in logs if log["lag"]], default=None)
    return [row["site"], row["state"], row["nodes"], row["pulled"], len(logs), sums["received"],
            sums["lag"], size(sums["lag_bytes"]) if is_known else None,
            None if oldest is None else span(oldest), rate(sums["records_per_second"]),
            size(round(sums["bytes_per_second"])), by]  # fmt: skip
