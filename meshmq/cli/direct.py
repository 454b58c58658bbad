"""Commands that do without a node: ``--peer`` and ``--listen``, and what they have to tell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.output import note
from meshmq.errors import MeshMismatch, NodeUnreachable

if TYPE_CHECKING:
    from meshmq import Mesh

PAUSE_S = 0.05  # before those that were not there are tried again

PeerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="ADDRESS",
        help="Do it without a node, directly with the program that listens at ADDRESS (it was given"
        " --listen ADDRESS); repeatable.",
    ),
]
ListenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Do it without a node: other programs reach this one at ADDRESS, as "
        "tcp://127.0.0.1:7001, by --peer ADDRESS; repeatable.",
    ),
]


def node_url(
    url: str | None, peers: list[str] | None, listen: list[str] | None = None
) -> str | None:
    """The address of the node, where one is wanted; both at a time are wrong usage."""
    if not (peers or listen):
        return url
    if url is not None and url != os.environ.get("MESHMQ_URL"):
        option = "--peer" if peers else "--listen"
        raise typer.BadParameter(
            f"give --url for a node, or {option} to do without one", param_hint=option
        )
    return None


def linked(connect: Callable[[], Mesh], peers: tuple[str, ...], mesh: str, timeout: float) -> Mesh:
    """A connection that is linked with one of ``peers`` at least; NodeUnreachable if none answers
    in time."""
    deadline = time.monotonic() + timeout
    while True:
        connection = connect()
        if connection.peers():
            return connection
        connection.close(timeout=0.0)
        if time.monotonic() >= deadline:
            raise NodeUnreachable(_why_not(peers, mesh))
        time.sleep(PAUSE_S)


def _why_not(peers: tuple[str, ...], mesh: str) -> str:
    """Why nobody is linked, for who reads it."""
    from meshmq.shell.greeting import greet

    for address in peers:
        greeting = greet(address, mesh, 1.0)
        if greeting.facts is not None:
            return f"a node is at {address}, no program without one: say --url {address}"
        if greeting.outcome == MeshMismatch.code:
            return f"another mesh is at {address}, say --mesh: {greeting.message}"
    where = " or ".join(peers)
    return (
        f"no program answers at {where}: start one there, as `meshmq sub '>' --listen {peers[0]}` "
        f"is one"
    )


def tell_addresses(connection: Mesh, peers: tuple[str, ...]) -> None:
    """Say where others reach this program, and whether those it dials are not there yet."""
    if connection.state != "brokerless":
        return  # there is a node
    if peers and not connection.peers():
        note(f"no program answers at {' or '.join(peers)} yet")
    note(f"without a node: others reach this program by --peer {connection.addresses[0]}")


def linked_rows(connection: Mesh, peers: tuple[str, ...]) -> list[dict[str, Any]]:
    """Programs that are linked, as ``meshmq peers`` shows them."""
    return [
        {
            "name": row["name"],
            "kind": "client",
            "instance": row["instance"],
            "state": "linked",
            "sources": ["peers" if row["address"] in peers else "gossip"],
            "protocol": None,
            "addresses": [row["address"]] if row["address"] else [],
        }
        for row in connection.peers()
    ]
