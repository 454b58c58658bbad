"""``meshmq site takeover|handback``: what becomes of the groups of another site that is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.group_options import YesOption, confirm
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import emit, plural, say
from meshmq.errors import CommandFailed

if TYPE_CHECKING:
    from meshmq.client.admin import Admin

app = typer.Typer(
    help="Another site that is lost: finish its groups here, and hand back what is left.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The other site.")]
WAIT_S = 60.0  # so long a command waits for what goes on in the background


@app.command()
def takeover(
    name: NameArgument,
    assume_dead: Annotated[
        bool,
        typer.Option(
            "--assume-dead",
            help="Do not wait for its fence: it is dead. If it is not, what it still hands out is "
            "worked on twice.",
        ),
    ] = False,
    may_repeat: Annotated[
        bool,
        typer.Option(
            "--may-repeat",
            help="A mirror may lack part of what its groups had done: work on that again.",
        ),
    ] = False,
    yes: YesOption = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Let the site of the node at --url finish what groups and queues of another one had not done.

    As far as it has arrived here, at whatever node of this site. Members of
    groups of the same name get it, marked as a possible repeat. The other
    site has to be without any link for its fence_after, or --assume-dead says
    that it is gone. When it is back it hands out what had not arrived, and
    nothing of what was taken.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        admin = connection.admin
        flags = {"assume_dead": assume_dead, "may_repeat": may_repeat}
        planned = admin.site_takeover(name, check=True, **flags)
        records = _check(planned, f"no log of site {name!r} is mirrored at this site")
        if planned["doubt"] and not assume_dead:
            raise CommandFailed(f"{planned['doubt']}; if it is gone say --assume-dead")
        if not json:
            for sentence in _careful(planned):
                say(sentence)
        confirm(f"Finish {plural(records, 'record')} of groups of site '{name}' here?", yes)
        done = admin.site_takeover(name, **flags)
        _check(done, f"no log of site {name!r} is mirrored at this site")
        rows = _wait(admin, name, lambda row: bool(row["moving"]))
    if json:
        emit({**done, "taken": rows})
        return
    for log, node in _taken(done, rows):
        groups = ", ".join(log["groups"]) or "none"
        say(
            f"took over {log['name']} at node {node}, epoch {log['epoch']}: groups and queues "
            f"{groups}"
        )
        if log["skipped"]:
            others = ", ".join(log["skipped"])
            say(f"not taken over, since something else has the name here: {others}")
    moved, dead = (sum(row[what] for row in rows) for what in ("moved", "dead_letters"))
    more = ", more are" if any(row["moving"] for row in rows) else ""
    beside = f", and {plural(dead, 'dead letter')}" if dead else ""
    say(f"{plural(moved, 'record')} moved by this node{beside}{more}")


def _careful(planned: dict[str, Any]) -> Iterator[str]:
    """What may be worked on twice."""
    if planned["doubt"]:
        yield f"careful: {planned['doubt']}."
        yield "What was worked on there and is not known here may repeat, until it is back."
    if planned["unheard"]:
        others = " or ".join(planned["unheard"])
        yield (
            f"careful: nobody here hears of site {others}. If it takes {planned['site']} over too, "
            f"both work on what had arrived at both, until they hear of each other; the one that "
            f"is beaten then says so, and finishes what it had moved."
        )


def _taken(
    done: dict[str, Any], rows: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each log that was taken over, once, with the node that has it: of several nodes that had a
    mirror of it, and so took it over at once, one keeps it."""
    keeps = {row["origin"]: row["node"] for row in rows}
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for node in done["nodes"]:
        for log in node["logs"]:
            if log["origin"] not in found or keeps.get(log["origin"]) == node["node"]:
                found[log["origin"]] = log, node["node"]
    yield from found.values()


@app.command()
def handback(
    name: NameArgument,
    yes: YesOption = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Return what is left of a site's groups to it, which is back.

    Its own nodes hand out exactly that again, marked as a possible repeat,
    and this site no more. What is in hands here is taken from them. Dead
    letters stay here.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        admin = connection.admin
        nothing = f"nothing of site {name!r} is left here to be handed back"
        records = _check(admin.site_handback(name, check=True), nothing)
        confirm(f"Return {plural(records, 'record')} to site '{name}'?", yes)
        done = admin.site_handback(name)
        _check(done, nothing)
        rows = _wait(admin, name, lambda row: bool(row["here"] and not row["over"]))
    if json:
        emit({**done, "taken": rows})
        return
    for node in done["nodes"]:
        for log in node["logs"]:
            count = plural(log["records"], "record")
            say(f"{count} of {log['name']} handed back by node {node['node']}")
    if any(row["here"] and not row["over"] for row in rows):
        say("some are on their way: `meshmq sites` tells when all are there")


def _check(answer: dict[str, Any], nothing: str) -> int:
    """How many records it is about. Raises CommandFailed where a node refuses, is away, or there is
    nothing."""
    refused = dict.fromkeys([row["refused"] for row in answer["nodes"] if row["refused"]])
    if refused:
        raise CommandFailed("; ".join(refused))
    logs = [log for row in answer["nodes"] for log in row["logs"]]
    if not logs:
        away = answer.get("away")
        raise CommandFailed(nothing + (f"; node {', '.join(away)} is away" if away else ""))
    return sum(log["records"] for log in logs)


def _wait(admin: Admin, name: str, goes_on: Any) -> list[dict[str, Any]]:
    """What our node knows of takeovers of a site, once nothing goes on there."""
    deadline = time.monotonic() + WAIT_S
    while True:
        taken = admin.status()["site"]["taken"]
        rows: list[dict[str, Any]] = [row for row in taken if row["of"] == name]
        if not any(goes_on(row) for row in rows) or time.monotonic() >= deadline:
            return rows
        time.sleep(0.1)
