"""``meshmq peers``: who is there, and how we know."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from meshmq.cli.direct import PeerOption, linked_rows, node_url
from meshmq.cli.node import DEFAULT_URL
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
from meshmq.names import check_mesh

NAME = "meshmq peers"  # as others see it
HEADS = ("name", "kind", "state", "found by", "protocol", "addresses")


def peers(
    url: UrlOption = None,
    peer: PeerOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to listen for them.", min=0.1, max=600)
    ] = 2.0,
) -> None:
    """List nodes and programs of a mesh that are found from here.

    Nodes found are greeted: the state says what came of that. Programs are
    listed as they say they are. With --peer it asks the program there
    instead: it is linked with it, and with all those that it tells of.
    """
    url = node_url(url, peer)
    mesh = as_usage(check_mesh, mesh, "--mesh")
    if peer:
        listed = tuple(peer)
        with connected(Target(None, mesh, insecure, json, peers=listed), name=NAME) as connection:
            time.sleep(seconds)
            rows = linked_rows(connection, listed)
    else:
        rows = _found(url, mesh, insecure, seconds)
    if json:
        for row in rows:
            emit(row)
    elif rows:
        say("\n".join(columns(HEADS, [_cells(row) for row in rows])))
    else:
        say(f"nobody of mesh {mesh} is found from here: `meshmq doctor` says what was tried")


def _found(url: str | None, mesh: str, insecure: bool, seconds: float) -> list[dict[str, Any]]:
    from meshmq.shell.search import Search
    from meshmq.shell.sockets import check_url

    if url is not None:
        check_url(url, bind=False, insecure=insecure, mesh=mesh)
    search = Search(mesh, insecure, default=DEFAULT_URL, listed=[url] if url else [], name=NAME)
    search.start()
    time.sleep(seconds)
    rows = [_shown(row) for row in search.peers()]
    search.close()
    return [row for row in rows if row["instance"] or url in row["addresses"]]


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
