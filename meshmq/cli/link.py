"""``meshmq link``: what a node pulls from other sites, and how that goes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshmq.cli.group_options import span
from meshmq.cli.link_verify import verify
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import columns, emit, fields, say
from meshmq.errors import CommandFailed

app = typer.Typer(
    help="Links with other sites: what a node pulls from there, and how that goes.",
    no_args_is_help=False,
)
_IF_ANY = ("refused", "live", "services")
HEADS = ("to", "state", "nodes", "topics", "exclude", "logs", "received", "behind")


@app.command("list")
def list_links(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the node's links: with whom, what is pulled, and what has come.

    A link is linked if there is a node of the other site behind one of its
    endpoints; refused if who is there is of another site or mesh; else down.
    Logs are those of single nodes that this one mirrors; other nodes of its
    site may have the rest. Received are records since this node's start, and
    behind are those that the other site has and this node not, as it was told
    last.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = connection.admin.status()
    links, node = links_of(report), report["node"]["name"]
    if json:
        for row in links:
            emit({**row, "node": node})
    elif links:
        table = columns(HEADS, [_cells(row) for row in links])
        say("\n".join([*table, *[line for row in links for line in troubles(row)]]))
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

    Of each log: from which node it comes, records received since this node's
    start, its position (a commit of that log), how many records it is behind
    and for how long, and what is in the way. If transient topics come live:
    how many records of them this node has received from there, and how many
    were dropped on their way.
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


def troubles(row: dict[str, Any]) -> list[str]:
    """What is in the way of a link, a line each; nothing if all goes on."""
    to = row["to"]
    lines = [f"{to}: refused at {at}: {why}" for at, why in row["refused"].items()]
    if row["state"] == "down":
        lines.append(f"{to}: nobody answers at {' or '.join(row['endpoints'])}")
    return lines + [f"{to}: {log['name']}: {log['problem']}" for log in row["logs"]
                    if log["problem"]]  # fmt: skip


def _cells(row: dict[str, Any]) -> list[Any]:
    received = sum(log["received"] for log in row["logs"])
    return [row["to"], row["state"], row["nodes"], row["topics"], row["exclude"],
            len(row["logs"]), received, sum(behind(log) for log in row["logs"])]  # fmt: skip


def behind(log: dict[str, Any]) -> int:
    """Records of a log that are at the other site and not here."""
    return sum(log["lag"].values())


def _page(row: dict[str, Any]) -> dict[str, Any]:
    logs = [
        {"log": log["name"], "from": log["from"], "received": log["received"],
         "position": log["lsn"], "behind": behind(log),
         "for": span(log["lag_seconds"]) if log["lag"] else None, "problem": log["problem"]}
        for log in row["logs"]
    ]  # fmt: skip
    refused = [{"endpoint": at, "why": why} for at, why in row["refused"].items()]
    page = {
        "to": row["to"], "state": row["state"], "endpoints": row["endpoints"],
        "refused": refused, "linked nodes": row["nodes"], "topics": row["topics"],
        "exclude": row["exclude"], "priority": row.get("priority", []), "mirrored logs": logs,
        "live": row.get("live", []), "received live": row.get("live_received"),
        "lost live": row.get("live_lost"), "services": row.get("services", []),
    }  # fmt: skip
    if not page["live"]:
        del page["received live"], page["lost live"]
    return {name: value for name, value in page.items() if value or name not in _IF_ANY}
