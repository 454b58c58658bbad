"""``meshmq link``: what a node pulls from other sites, and how that goes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshmq.cli.group_options import span
from meshmq.cli.link_pause import pause, resume
from meshmq.cli.link_verify import verify
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import columns, emit, fields, kept_here, rate, said, say, size
from meshmq.errors import CommandFailed

app = typer.Typer(
    help="Links with other sites: what a node pulls from there, and how that goes.",
    no_args_is_help=False,
)
_LACKS = {
    "topics": "less topics of it are there than are wished here",
    "past": "it begins there later than is wished here",
    "some": "less of it is there than its own node keeps",
}
_IF_ANY = ("paused", "refused", "not pulled", "retention", "live", "services")
HEADS = (
    "to", "state", "nodes", "topics", "exclude", "logs", "received", "behind", "for", "records/s",
    "ratio", "in flight", "caught up in",
)  # fmt: skip


@app.command("list")
def list_links(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the node's links: with whom, what is pulled, and what has come.

    A link is paused if somebody has said so, who is below; linked if there is
    a node of the other site behind one of its endpoints; refused if who is
    there is of another site or mesh; connecting while each endpoint is asked
    for the first time; else down. Endpoints where nobody answers are below.
    Logs are those of single nodes that this one mirrors; other nodes of its
    site may have the rest. Received are records since this node's start, and
    behind are those that the other site has and this node not, as it was told
    last; for says how old the oldest of that word is. Records/s are those of
    the last seconds, ratio is how many bytes are stored for each that crossed,
    in flight what was on its way with the last frame, as the other node said.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = connection.admin.status()
    links, node = links_of(report), report["node"]["name"]
    if json:
        for row in links:
            emit({**row, "node": node})
    elif links:
        table = columns(HEADS, [_cells(row) for row in links])
        trouble = [line for row in links for line in troubles(row)]
        say("\n".join([*table, *trouble, *the_rest(report)]))
    else:
        say(without_links(report))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The other site.")],
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show one link: its endpoints, what is pulled, and each log that is mirrored.

    Of each endpoint how it goes there, as for a link in `meshmq link list`, and
    which node is linked. Of each log: from which node it comes, records
    received since this node's start, its position (a commit of that log), how
    many records and bytes it is behind, for how long, when it will have caught
    up, what is in the way, and where a retention of the link may have taken some
    of it, `less than there`; and the same of each of its topics that is behind
    or has records coming. Bytes behind are reckoned by those that came. Not
    pulled are logs that are offered there, but of which less is there than is
    wished here. If transient topics come live: how many records of them this
    node has received from there, and how many were dropped on their way.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = connection.admin.status()
        links = {row["to"]: row for row in links_of(report)}
        if not links:
            raise CommandFailed(without_links(report))
        if name not in links:
            known = ", ".join(sorted(links))
            node = report["node"]["name"]
            raise CommandFailed(f"node {node} has no link to site {name!r}, it has: {known}")
    if json:
        emit({**links[name], "node": report["node"]["name"]})
    else:
        say("\n".join(fields(_page(links[name]))))


app.command("pause")(pause)
app.command("resume")(resume)
app.command("verify")(verify)


def links_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the node that has reported; a node of an earlier version has none."""
    site = report["site"]
    return [] if site is None else list(site.get("links", ()))


def without_links(report: dict[str, Any]) -> str:
    """Why a node has no links, and what to do for some."""
    node, site = report["node"]["name"], report["site"]
    if site is None:
        return f"node {node} belongs to no site: start it with --site, and [[link]] in its --config"
    return (
        f"node {node} of site {site['name']} has no links with other sites: [[link]] in its "
        f"--config says what it pulls from where"
    )


def the_rest(report: dict[str, Any]) -> list[str]:
    """Who else of our site mirrors logs, which are not in the tables of one node; a line, or
    none."""
    nodes = report["site"]["nodes"]
    others = [f"{node['name']} (--url {at})" for node in nodes for at in node["clients"][:1]]
    if not others:
        return []
    return [
        f"logs are those of node {report['node']['name']}; others may be at {', '.join(others)}"
    ]


def troubles(row: dict[str, Any]) -> list[str]:
    """What is in the way of a link, a line each; nothing if all goes on."""
    to = row["to"]
    lines = [f"{to}: refused at {at}: {why}" for at, why in row["refused"].items()]
    if row.get("paused"):  # a node of an earlier version knows of none
        lines.append(f"{to}: paused by {said(row['paused'])}: `meshmq link resume {to}` goes on")
    silent = [end["endpoint"] for end in reached(row) if end["state"] == "down"]
    # Where as many nodes are linked they have dialled us, and nobody misses an answer.
    if silent and len(row["nodes"]) < len(row["endpoints"]):
        lines.append(f"{to}: nobody answers at {' or '.join(silent)}")
    flow = row.get("flow", {})
    if row["state"] in ("down", "refused") and flow.get("last_error"):
        ago = span(flow["last_error_seconds"])
        lines.append(
            f"{to}: {flow['last_error']}, {ago} ago: what is behind is as it was told then"
        )
    return lines + [f"{to}: {log['name']}: {log['problem']}" for log in row["logs"]
                    if log["problem"]]  # fmt: skip


def reached(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Endpoints of a link, and how it goes with each; a node of an earlier version does not say."""
    known = [{"endpoint": at, "state": row["state"], "node": None} for at in row["endpoints"]]
    return list(row.get("reached", known))


def _cells(row: dict[str, Any]) -> list[Any]:
    received = sum(log["received"] for log in row["logs"])
    return [row["to"], row["state"], row["nodes"], row["topics"], row["exclude"],
            len(row["logs"]), received, sum(behind(log) for log in row["logs"]),
            *_pace(row.get("flow", {}))]  # fmt: skip


def _pace(flow: dict[str, Any]) -> list[Any]:
    """How a link goes; a node of an earlier version does not say."""
    left = flow.get("catch_up_seconds")
    return [span(flow["lag_seconds"]) if flow.get("lag") else None,
            rate(flow.get("records_per_second")), _ratio(flow), size(flow.get("in_flight")),
            span(left) if left else None]  # fmt: skip


def _ratio(flow: dict[str, Any]) -> str | None:
    """How much smaller the line saw it; empty: nothing has come."""
    return f"{flow['ratio']:.2f}" if flow.get("ratio") else None


def behind(log: dict[str, Any]) -> int:
    """Records of a log that are at the other site and not here."""
    return sum(log["lag"].values())


def _page(row: dict[str, Any]) -> dict[str, Any]:
    is_partial = any(log.get("partial") for log in row["logs"])
    logs = [
        {"log": log["name"], "from": log["from"], "received": log["received"],
         "position": log["lsn"], "behind": behind(log),
         "bytes behind": size(log.get("lag_bytes")),
         "for": span(log["lag_seconds"]) if log["lag"] else None,
         "records/s": rate(log.get("records_per_second")),
         "caught up in": span(log["catch_up_seconds"]) if log.get("catch_up_seconds") else None,
         "problem": log["problem"]}
        | ({"has": "less than there" if log.get("partial") else "all"} if is_partial else {})
        for log in row["logs"]
    ]  # fmt: skip
    topics = [
        {"topic": topic["name"], "log": log["name"], "behind": topic["lag"],
         "bytes behind": size(topic["lag_bytes"]),
         "for": span(topic["lag_seconds"]) if topic["lag"] else None,
         "records/s": rate(topic["records_per_second"]),
         "bytes/s": size(topic["bytes_per_second"])}
        for log in row["logs"] for topic in log.get("topics", ())
    ]  # fmt: skip
    flow = row.get("flow", {})
    error = flow.get("last_error")
    error = f"{error} ({span(flow['last_error_seconds'])} ago)" if error else None
    refused = [{"endpoint": at, "why": why} for at, why in row["refused"].items()]
    not_pulled = [
        {"log": log["name"], "why": _LACKS[log["lacks"]]} for log in row.get("not_pulled", ())
    ]
    page = {
        "to": row["to"], "state": row["state"], "paused": said(row.get("paused") or {}),
        "endpoints": reached(row),
        "refused": refused, "linked nodes": row["nodes"], "topics": row["topics"],
        "exclude": row["exclude"], "priority": row.get("priority", []), "mirrored logs": logs,
        "not pulled": not_pulled,
        "topics that move": topics, "records behind": flow.get("lag"),
        "bytes behind": size(flow.get("lag_bytes")),
        "records/s": rate(flow.get("records_per_second")),
        "on the line": f"{size(flow['bytes_per_second'])}/s" if flow else None,
        "budget": f"{size(row['bytes_per_second'])}/s" if row.get("bytes_per_second") else None,
        "retention": None if row.get("retention_ns") is None
        else kept_here(row["retention_ns"], row["retention_bytes"]),
        "compression": row.get("compression"), "ratio": _ratio(flow),
        "in flight": size(flow.get("in_flight")),
        "caught up in": span(flow["catch_up_seconds"]) if flow.get("catch_up_seconds") else None,
        "last error": error,
        "live": row.get("live", []), "received live": row.get("live_received"),
        "lost live": row.get("live_lost"), "services": row.get("services", []),
    }  # fmt: skip
    if not page["live"]:
        del page["received live"], page["lost live"]
    return {name: value for name, value in page.items() if value or name not in _IF_ANY}
