"""``meshmq peers``: who is there, and how we know."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from meshmq.cli.direct import PeerOption, linked_rows, node_url
from meshmq.cli.node_options import DEFAULT_URL
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    as_usage,
    connected,
)
from meshmq.cli.output import columns, emit, say
from meshmq.errors import MeshError
from meshmq.names import check_mesh

NAME = "meshmq peers"  # as others see it
HEADS = ("name", "kind", "state", "found by", "protocol", "addresses")
ROUTE_HEADS = ("from", "to", "route", "introduced for")


def peers(
    url: UrlOption = None,
    peer: PeerOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to listen for them.", min=0.1, max=600)
    ] = 2.0,
    routes: Annotated[
        bool,
        typer.Option(
            "--routes", help="Ask the node which of its programs talk directly to which others."
        ),
    ] = False,
) -> None:
    """List nodes and programs of a mesh that are found from here.

    Nodes found are greeted: the state says what came of that; the first
    that answers is asked for the other nodes of its site. Programs are
    listed as they say they are. With --peer it asks the program there
    instead: it is linked with it, and with all those that it tells of.

    With --routes, one line for each two programs at the node that talk
    directly or were introduced by it: how what the one publishes, and may
    be lost, comes to the other. All else goes by the node.
    """
    url = node_url(url, peer)
    if routes:
        if peer:
            raise typer.BadParameter("it is the node that is asked", param_hint="--routes")
        _show_routes(Target(url, mesh, insecure, json))
        return
    mesh = as_usage(check_mesh, mesh, "--mesh")
    if peer:
        listed = tuple(peer)
        with connected(Target(None, mesh, insecure, json, peers=listed), name=NAME) as connection:
            time.sleep(seconds)
            rows = linked_rows(connection, listed)
    else:
        rows = _found(url, mesh, insecure, seconds)
        rows = _with_site(rows, mesh, insecure)
    if json:
        for row in rows:
            emit(row)
    elif rows:
        has_site = any(row.get("site") for row in rows)
        heads = (*HEADS[:-1], "site", HEADS[-1]) if has_site else HEADS
        say("\n".join(columns(heads, [_cells(row, has_site) for row in rows])))
    else:
        say(f"nobody of mesh {mesh} is found from here: `meshmq doctor` says what was tried")


def _show_routes(target: Target) -> None:
    with connected(target, name=NAME) as connection:
        rows = connection.admin.routes()
        node = connection.admin.status()["node"]["name"]
    if target.json:
        for row in rows:
            emit({**row, "node": node})
    elif rows:
        say("\n".join(columns(ROUTE_HEADS, [_route_cells(row) for row in rows])))
    else:
        say(f"no programs are at node {node}")


def _route_cells(row: dict[str, Any]) -> list[Any]:
    to = "all others" if row["to"] is None else row["to"]
    return [row["from"], to, row["route"], [*row["patterns"], *row["services"]]]


def _found(url: str | None, mesh: str, insecure: bool, seconds: float) -> list[dict[str, Any]]:
    from meshmq.shell.search import Search
    from meshmq.shell.sockets import check_url

    if url is not None:
        check_url(url, bind=False, insecure=insecure, mesh=mesh)
    search = Search(
        mesh, insecure, default=DEFAULT_URL, listed=[url] if url else [], name=NAME, admin=True
    )
    search.start()
    time.sleep(seconds)
    rows = [_shown(row) for row in search.peers()]
    search.close()
    return [row for row in rows if row["instance"] or url in row["addresses"]]


def _with_site(rows: list[dict[str, Any]], mesh: str, insecure: bool) -> list[dict[str, Any]]:
    """The nodes, and those that the first of them knows of its site."""
    nodes = [row for row in rows if row["kind"] == "node" and row["state"] == "answers"]
    if not nodes:
        return rows
    try:
        target = Target(nodes[0]["addresses"][0], mesh, insecure, json=False)
        with connected(target, name=NAME) as connection:
            site = connection.admin.status()["site"]
    except MeshError:  # it has just gone
        return rows
    if site is None:
        return rows
    by_origin = {row["instance"]: row for row in rows}
    nodes[0]["site"] = site["name"]
    for other in site["nodes"]:
        row = by_origin.get(other["origin"])
        if row is not None:
            row["site"] = site["name"]
            row["sources"] = [*row["sources"], "site"]
            continue
        rows.append(
            {
                "name": other["name"],
                "kind": "node",
                "instance": other["origin"],
                "state": other["state"],
                "sources": ["site"],
                "protocol": None,
                "addresses": other["clients"],
                "site": site["name"],
            }
        )
    for name, why in site["refused"].items():
        rows.append(
            {"name": name, "kind": "node", "instance": None, "state": f"refused: {why}",
             "sources": ["site"], "protocol": None, "addresses": [], "site": None}
        )  # fmt: skip
    return rows


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    state = row["state"]
    addresses = [address["address"] for address in row["addresses"]]
    reasons = [address["reason"] for address in row["addresses"] if address["reason"]]
    if state == "linked":
        state = "answers"
    elif row["kind"] != "client":
        state = reasons[0] if reasons else "no answer yet"
    return {
        "name": row["name"],
        "kind": row["kind"],
        "instance": row["instance"],
        "state": state,
        "sources": row["sources"],
        "protocol": row["protocol"],
        "addresses": addresses,
    }


def _cells(row: dict[str, Any], has_site: bool) -> list[Any]:
    site = [row.get("site")] if has_site else []
    return [row["name"], row["kind"], row["state"], row["sources"], row["protocol"], *site,
            row["addresses"]]  # fmt: skip
