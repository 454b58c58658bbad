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
        bool,
        typer.Option(
            "--stay",
            help="Do not end the node: it goes on for the other nodes, until it is drained without "
            "--stay, or --undo.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also if no other node is there: programs stay, and lose the node."
        ),
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let programs in again at a node that drains.")
    ] = False,
) -> None:
    """Let no program in at a node, have those that are there go to other nodes, and end it.

    They go when nothing of theirs is under way: records are confirmed, requests answered, what
    was handed out is settled. The streams of the node wait on its disk until it is started again.
    Commands as status are answered meanwhile; a second drain takes the place of the first.

    Exit code 1: some had not gone in time, or the node sees no other one of a site, so that they
    have nowhere to go: stop that one, or say --force.
    """
    if undo and (stay or force):
        raise typer.BadParameter("it takes back a drain, and goes with neither --stay nor --force",
                                 param_hint="--undo")  # fmt: skip
    with connected(Target(url, mesh, insecure, json), on_node_loss="wait") as connection:
        if undo:
            name = connection.admin.undrain()
            if json:
                emit({"node": name})
            else:
                say(f"node {name} lets programs in again")
            return
        drained = connection.admin.drain(timeout, stay, force)
        name, moved, left = drained["node"], drained["moved"], drained["left"]
        is_forced = drained.get("forced", False)
        if left and not is_forced:
            raise DeadlineExceeded(
                f"node {name}: {_programs(moved)} moved, {_programs(left)} had not after "
                f"{timeout:g} s{'' if stay else ', and lost the node'}"
            )
        if json:
            emit(drained)
            return
        what = f"{_programs(moved)} moved"
        if is_forced and left:
            what = f"{_programs(left)} had nowhere to go{'' if stay else ', and lost the node'}"
        say(f"node {name} drained: {what}{', it stays' if stay else ''}")


def _programs(count: int) -> str:
    return f"{count} program{'' if count == 1 else 's'}"
