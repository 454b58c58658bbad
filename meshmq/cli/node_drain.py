"""``meshmq node drain``: send a node's programs to other nodes before it ends."""

from __future__ import annotations

from typing import Annotated

import typer

from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import emit, say
from meshmq.errors import DeadlineExceeded


def drain(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=86400,
            help="How long programs may take to move; who is left then loses its node.",
        ),
    ] = 30.0,
    stay: Annotated[
        bool, typer.Option("--stay", help="Do not end the node: it goes on for the other nodes.")
    ] = False,
) -> None:
    """Let no program in at a node, have those that are there go to other nodes, and end it.

    They go when nothing of theirs is under way: records are confirmed, requests answered, what
    was handed out is settled. The streams of the node wait on its disk until it is started again.
    """
    with connected(Target(url, mesh, insecure, json), on_node_loss="wait") as connection:
        drained = connection.admin.drain(timeout, stay)
        name, moved, left = drained["node"], drained["moved"], drained["left"]
        if left:
            raise DeadlineExceeded(
                f"node {name}: {_programs(moved)} moved, {_programs(left)} had not after "
                f"{timeout:g} s{'' if stay else ', and lost the node'}"
            )
        if json:
            emit(drained)
        else:
            say(f"node {name} drained: {_programs(moved)} moved{', it stays' if stay else ''}")


def _programs(count: int) -> str:
    return f"{count} program{'' if count == 1 else 's'}"
