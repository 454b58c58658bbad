"""``meshmq serve``: answer the requests of a service, by a command or with what they ask."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from meshmq.cli.direct import ListenOption, PeerOption, node_url, tell_addresses
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    service_argument,
)
from meshmq.limits import CONCURRENCY_MAX, PEER_NAME_MAX


def serve(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The service's name.")],
    echo: Annotated[bool, typer.Option("--echo", help="Answer with what was asked.")] = False,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Run CMD by the shell for each request, its value on standard input. What it "
            "writes to stdout is the answer. An exit code N other than 0 is an error, exit-N, "
            "with the end of what it wrote to stderr.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, max=CONCURRENCY_MAX, metavar="N", help="So many requests at a time; others wait."
        ),
    ] = 1,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What listings and answers call it.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the node of --url.", min=0.1)
    ] = 5.0,
    url: UrlOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Answer the requests of a service until Ctrl-C: run a command for each, or echo it.

    It needs no node: who asks finds it, or asks by the node that both are at.
    The command finds MESHMQ_SERVICE and MESHMQ_DEADLINE_SECONDS, the time
    it has, in its environment. It is ended when nobody waits for its answer
    any more. Ctrl-C and SIGTERM let what runs come to its end, for at most
    30 seconds; a second one ends it at once.
    """
    service = service_argument(service)
    if echo == (command is not None):
        raise typer.BadParameter("give either --echo or --exec CMD", param_hint="--exec")
    if name is not None and not 0 < len(name) <= PEER_NAME_MAX:
        raise typer.BadParameter(
            f"a name has 1 to {PEER_NAME_MAX} characters, not {len(name)}",
            param_hint="--name",
        )
    name = name or f"meshmq-serve:{os.getpid()}"
    url = node_url(url, peer, listen)
    target = Target(url, mesh, insecure, json, timeout, tuple(peer or ()), tuple(listen or ()))
    teller = StateTeller()
    with connected(
        target, on_state=teller, name=name, lasting=True, route="auto", works=True
    ) as connection:
        tell_addresses(connection, target.peers)
        from meshmq.cli.serving import Server

        Server(connection, service, command, concurrency, name, json, url).run()
