"""``meshmq status``: what a node says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from meshmq.cli.group_options import span, summary
from meshmq.cli.link import behind
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import columns, emit, fields, plural, said, say


def status(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the node.", min=0.1)] = 5.0,
) -> None:
    """Show how a node does, its site, its groups and queues; --json: every counter."""
    with connected(Target(url, mesh, insecure, json, timeout)) as connection:
        report = connection.admin.status()
    if json:
        emit(report)
    else:
        say("\n".join(page(report)))


def page(report: dict[str, Any]) -> list[str]:
    """For people: a block for the node, a line each for what else there is."""
    lines = fields(_node(report))
    site = report["site"]
    if site is not None:
        copies = site["copies"]
        lines += _table(f"site {site['name']}", _nodes(report, site))
        lines += _table("copied to", (_copy(row) for row in copies["nodes"]))
        lines += _table("copies kept here", (_kept(row) for row in copies["kept"]))
        lines += _table("takeovers", (_takeover(row) for row in copies["takeovers"]))
        lines += _table("links with other sites", (_link(row) for row in site.get("links", ())))
    for kind in ("group", "queue"):
        groups = [summary(g, kind) for g in report["groups"] if g["kind"] == kind]
        rows = [{k: v for k, v in row.items() if k != "set by"} for row in groups]
        lines += _table(f"{kind}s", rows)
    lines += _table("services", (_service(row) for row in report["services"]))
    subscriptions = [row for row in report["subscriptions"] if row["pattern"]]  # not other nodes
    lines += _table("subscriptions", (_subscription(row) for row in subscriptions))
    lines += _table("damaged", report["damage"])
    return lines + _problems(report)


def _node(report: dict[str, Any]) -> dict[str, Any]:
    node, sessions, store = report["node"], report["sessions"], report.get("store", {})
    shown = {
        "node": f"{node['name']} of mesh {node['mesh']}, {node['software']}",
        "log": node["origin"],
        "state": report["state"],
        "up": span(report.get("uptime_seconds", 0)),
        "sessions": sessions["open"],
        "topics": report["topics"],
        "records": f"{report['published']:,} published, {report['confirmed']:,} confirmed, "
        f"{report['delivered']:,} delivered",
        "waiting": f"{report['unsynced_bytes']:,} B for the disk, "
        f"{report['undelivered_bytes']:,} B for readers",
        "refused": [f"{code} {count:,}" for code, count in report["refused"].items()],
        "dropped": [f"{why} {count:,}" for why, count in report["drops"].items() if count],
    }
    if store:
        shown["disk"] = f"{store['bytes']:,} B in {plural(store['segments'], 'segment')}"
        shown["disk failed"] = store["failed"]
    if report["site"] is not None:
        copies = report["site"]["copies"]
        waits = f", {copies['waiting']:,} batches wait for theirs" if copies["waiting"] else ""
        shown["copies"] = f"{copies['wanted']} wanted{waits}"
    return {name: value for name, value in shown.items() if value not in ("", [])}


def _nodes(report: dict[str, Any], site: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the site, with what each has said of itself; those that are away."""
    said = {row["origin"]: row["state"] for row in report.get("nodes", ())}
    linked = [
        {
            "node": row["name"],
            "link": row["state"],
            "for": span(row["linked_seconds"] or 0),
            "state": said.get(row["origin"], ""),
            "answers in us": row["pulse_p50_us"],
            "programs at": row["clients"],
        }
        for row in site["nodes"]
    ]
    away = [
        {"node": row["name"], "link": "away", "for": span(row["seconds"] or 0), "state": "",
         "answers in us": "", "programs at": ""}
        for row in site["away"]
    ]  # fmt: skip
    return linked + away


def _copy(row: dict[str, Any]) -> dict[str, Any]:
    lag = "" if row["lag_commits"] is None else f"{row['lag_commits']:,} commits behind"
    state = "caught up" if row["caught_up"] else lag or "not begun"
    return {"node": row["name"], "state": row["problem"] or state}


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    state = row["problem"] or ("following" if row["fetching"] else "at rest")
    return {"of node": row["name"], "log": row["origin"][:8], "topics": row["topics"],
            "state": state}  # fmt: skip


def _takeover(row: dict[str, Any]) -> dict[str, Any]:
    state = "under way" if row["moving"] else "done"
    return {"of node": row["of"], "log": row["origin"][:8], "by": row["by"], "state": state,
            "moved": row["moved"]}  # fmt: skip


def _link(row: dict[str, Any]) -> dict[str, Any]:
    logs = row["logs"]
    received = sum(log["received"] for log in logs)
    state = row["state"]
    if row.get("paused"):
        state = f"paused by {said(row['paused'])}"
    return {"to": row["to"], "state": state, "nodes": row["nodes"], "logs": len(logs),
            "received": received, "behind": sum(behind(log) for log in logs)}  # fmt: skip


def _service(row: dict[str, Any]) -> dict[str, Any]:
    return {"service": row["service"], "instances": len(row["instances"]),
            "requests": row["requests"], "waiting": row["waiting"]}  # fmt: skip


def _subscription(row: dict[str, Any]) -> dict[str, Any]:
    return {"client": row["client"], "pattern": row["pattern"], "behind": row["lag_commits"],
            "delivered": row["delivered"], "dropped": row["dropped"]}  # fmt: skip


def _table(title: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    table = columns(list(rows[0]), [list(row.values()) for row in rows])
    return ["", f"{title}:", *(f"  {line}" for line in table)]


def _problems(report: dict[str, Any]) -> list[str]:
    """Of all nodes that have answered, each said once."""
    rows = list(report["problems"])
    for node in report.get("nodes", ()):
        rows += node.get("problems", ())
    told = list({(row["problem"], row["about"]): row for row in reversed(rows)}.values())[::-1]
    if not told:
        return []
    return ["", "problems (`meshmq doctor` says what to do):",
            *(f"  {row['level']}: {row['seen']}" for row in told)]  # fmt: skip
