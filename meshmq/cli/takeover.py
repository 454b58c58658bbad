"""``meshmq node takeover``: work on what a dead node's groups had not done; ``node forget``: keep
nothing of one that does not come back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import emit, plural, say

if TYPE_CHECKING:
    from meshmq.client.admin import Admin


NameArgument = Annotated[str, typer.Argument(help="The node that is gone.", metavar="NAME")]
MOVING_S = 60.0  # so long the command waits for what is moved in the background


def takeover(
    name: NameArgument,
    assume_dead: Annotated[
        bool,
        typer.Option(
            "--assume-dead",
            help="Do not wait: it is dead. If it is not, what it still hands out is worked on "
            "twice.",
        ),
    ] = False,
    may_repeat: Annotated[
        bool,
        typer.Option(
            "--may-repeat",
            help="The copy may lack part of what the groups had done: work on that again.",
        ),
    ] = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Let the node at --url, which has a copy of another one's log, hand out what that one's groups
    and queues had not done, and have its dead letters. If it comes back it hands out only what had
    not been copied."""
    with connected(Target(url, mesh, insecure, json)) as connection:
        admin = connection.admin
        done = admin.takeover(name, assume_dead=assume_dead, may_repeat=may_repeat)
        moved = _wait_moved(admin, done.get("origins", [done["origin"]]))
    if json:
        emit({**done, **moved})
        return
    groups = ", ".join(done["groups"]) or "none"
    say(f"took over from node {name}, epoch {done['epoch']}: groups and queues {groups}")
    if done["skipped"]:
        names = ", ".join(done["skipped"])
        say(f"not taken over, since something else has the name here: {names}")
    dead = f", and {plural(moved['dead_letters'], 'dead letter')}" if moved["dead_letters"] else ""
    more = ", more are" if moved["moving"] else ""
    say(f"{plural(moved['moved'], 'record')} moved{dead}{more}")
    for row in moved["unreadable"]:
        first, last = row["first_offset"], row["first_offset"] + row["records"] - 1
        say(f"passed over, for nobody can read them: {row['topic']}, offsets {first} to {last}")


def _wait_moved(admin: Admin, origins: list[str]) -> dict[str, Any]:
    """How many records were moved, and which cannot be, once all are looked at."""
    deadline = time.monotonic() + MOVING_S
    while True:
        rows = admin.status()["site"]["copies"]["takeovers"]
        found: list[dict[str, Any]] = [row for row in rows if row["origin"] in origins]
        moving = any(row["moving"] for row in found)
        if not moving or time.monotonic() >= deadline:
            return {
                "moved": sum(row["moved"] for row in found),
                "dead_letters": sum(row["dead_letters"] for row in found),
                "moving": moving,
                "unreadable": [skipped for row in found for skipped in row["skipped"]],
            }
        time.sleep(0.1)


def forget(
    name: NameArgument,
    assume_dead: Annotated[
        bool,
        typer.Option("--assume-dead", help="Do not wait: it is dead."),
    ] = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Drop what is left of a node that does not come back, at all nodes of the site: the copies of
    its log, and that listings name it as away. Records that only its copies had are gone.

    Take its work over first. If it comes back all the same, it is told so, and copied anew.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        done = connection.admin.forget(name, assume_dead=assume_dead)
    if json:
        emit(done)
        return
    origins = ", ".join(origin[:8] for origin in done["origins"])
    say(f"forgot node {name}: its log ({origins}) is dropped at all nodes")
