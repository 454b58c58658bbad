"""``meshmq node takeover``: work on what a dead node's groups had not done."""

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


def takeover(
    name: Annotated[str, typer.Argument(help="The node that is gone.", metavar="NAME")],
    assume_dead: Annotated[
        bool,
        typer.Option(
            "--assume-dead",
            help="Do not wait: it is dead. If it is not, what it still hands out is worked on "
            "twice.",
        ),
    ] = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Let the node at --url, which has a copy of another one's log, hand out what that one's groups
    and queues had not done. If it comes back it hands out only what had not been copied."""
    with connected(Target(url, mesh, insecure, json)) as connection:
        done = connection.admin.takeover(name, assume_dead=assume_dead)
    if json:
        emit(done)
        return
    groups = ", ".join(done["groups"]) or "none"
    say(f"took over from node {name}, epoch {done['epoch']}: groups and queues {groups}")
    if done["skipped"]:
        names = ", ".join(done["skipped"])
        say(f"not taken over, since something else has the name here: {names}")
