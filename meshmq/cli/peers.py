"""``meshmq peers``: who is there, and how we know."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from meshmq.cli.node import DEFAULT_URL
from meshmq.cli.options import InsecureOption, JsonOption, MeshOption, UrlOption, as_usage
from meshmq.cli.output import columns, emit, say
from meshmq.names import check_mesh

HEADS = ("name", "kind", "state", "found by", "protocol", "addresses")


def peers(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to listen for them.", min=0.1, max=600)
    ] = 2.0,
) -> None:
    """List nodes and programs of a mesh that are found from here.

    Nodes found are greeted: the state says what came of that. Programs are
    listed as they say they are.
    """
    from meshmq.shell.search import Search
    from meshmq.shell.sockets import check_url

    mesh = as_usage(check_mesh, mesh, "--mesh")
    if url is not None:
        check_url(url, bind=False, insecure=insecure, mesh=mesh)
    search = Search(
        mesh, insecure, default=DEFAULT_URL, listed=[url] if url else [], name="meshmq peers"
    )
    search.start()
    time.sleep(seconds)
    rows = [_shown(row) for row in search.peers()]
    search.close()
    rows = [row for row in rows if row["instance"] or url in row["addresses"]]
    if json:
        for row in rows:
            emit(row)
    elif rows:
        say("\n".join(columns(HEADS, [_cells(row) for row in rows])))
    else:
        say(f"nobody of mesh {mesh} is found from here: `meshmq doctor` says what was tried")


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


def _cells(row: dict[str, Any]) -> list[Any]:
    return [row["name"], row["kind"], row["state"], row["sources"], row["protocol"],
            row["addresses"]]  # fmt: skip
