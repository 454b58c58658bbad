"""``meshmq topic``: create, list, show and delete topics."""

from __future__ import annotations

import sys
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    pattern_argument,
    topic_argument,
)
from meshmq.cli.output import (
    columns,
    emit,
    fields,
    kept_here,
    note,
    note_away,
    plural,
    said,
    say,
    without_said,
)
from meshmq.limits import COPIES_MAX
from meshmq.names import is_literal, matches, site_of

app = typer.Typer(help="Create, list, show and delete topics.", no_args_is_help=False)


class Durability(StrEnum):
    """What a topic keeps."""

    durable = "durable"
    transient = "transient"


class Confirm(StrEnum):
    """What receipts wait for."""

    synced = "synced"
    replicated = "replicated"


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="A topic, or a pattern: a rule for the topics that match it.")
    ],
    durability: Annotated[
        Durability,
        typer.Option(help="durable: synced to disk, replayable. transient: only for who listens."),
    ] = Durability.durable,
    retention: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Keep records so long, as 7d, 12h or 30m; 0s: for ever."),
    ] = None,
    retention_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Keep so many bytes, as 10GB or 500MB; 0B: all."),
    ] = None,
    copies: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=COPIES_MAX,
            help="So many nodes of the site have it, of what is published from now on; 0: as many "
            "as each node is started with.",
        ),
    ] = None,
    confirm: Annotated[
        Confirm | None,
        typer.Option(
            help="What receipts wait for where who publishes does not say: synced (the node's "
            "disk), replicated (all copies)."
        ),
    ] = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Create a topic, or set the rule for topics that match a pattern.

    One that is there keeps what is not given.
    """
    name = pattern_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        made = connection.admin.topics.create(
            name,
            durability=durability.value,
            retention=retention,
            retention_bytes=retention_bytes,
            copies=copies,
            confirm=None if confirm is None else confirm.value,
        )
    if json:
        emit(made)
    else:
        if "note" in made:
            note(made["note"])
        kind = "topic" if is_literal(name) else "rule"
        age, size = _kept(made)
        kept = f"kept for: {age}, kept bytes: {size}"
        if made["created"]:
            say(f"created {kind} {name}, {durability.value}")
        elif made["changed"]:
            say(f"changed {kind} {name}, {durability.value}, {kept}")
        else:
            say(f"{kind} {name} is there, {durability.value}, {kept}: nothing was changed")


@app.command("list")
def list_topics(
    pattern: Annotated[str, typer.Argument(help="Only topics that match it.")] = ">",
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the node's topics and the rules for others; --json: topics only."""
    pattern = pattern_argument(pattern)
    with connected(Target(url, mesh, insecure, json)) as connection:
        rules = [] if json or pattern != ">" else connection.admin.topics.policies()
        topics = [row for row in connection.admin.topics.list() if _covers(pattern, row)]
    if json:
        for row in topics:
            emit(row)
    elif topics:
        say("\n".join(_table(HEADS, [_cells(row) for row in topics], topics)))
        note_away(topics)
    else:
        say("no topics" if pattern == ">" else f"no topics match '{pattern}'")
    if rules:
        say("\nrules, the last that matches a topic counts:")
        rows = [[rule["pattern"], rule["durability"], *_kept(rule)] for rule in rules]
        say("\n".join(_table(["pattern", "durability", "kept for", "kept bytes"], rows, rules)))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The topic.", metavar="TOPIC")],
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show one topic: its streams, offsets and policy.

    published counts since each node's start; records are those that are there to be read.
    """
    name = topic_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = connection.admin.topics.show(name)
    if json:
        emit(report)
    else:
        kept_for, kept_bytes = _kept(report)
        shown = {
            k: v
            for k, v in without_said(report).items()
            if k not in ("retention_ns", "retention_bytes", "streams", "note")
        }
        lines = fields(shown | {"kept for": kept_for, "kept bytes": kept_bytes})
        if report.get("streams"):
            heads = ["stream of", "log", "records", "from", "copied to", "mirrored at"]
            rows = [_stream_cells(row) for row in report["streams"]]
            if any("retention_ns" in row for row in report["streams"]):  # some by our own word
                heads.append("kept here")
                rows = [
                    [*cells, kept_here(row["retention_ns"], row["retention_bytes"])
                     if "retention_ns" in row else "as there"]
                    for cells, row in zip(rows, report["streams"], strict=True)
                ]  # fmt: skip
            table = columns(heads, rows)
            lines += ["streams:", *(f"  {line}" for line in table)]
        say("\n".join(lines))
        _note_older(report)
        for row in [w for s in report.get("streams", ()) for w in s.get("waiting_for_sites", ())]:
            why = row["problem"] or "they have not come so far"
            wait = "1 batch waits" if row["batches"] == 1 else f"{row['batches']:,} batches wait"
            note(f"{wait} to be mirrored at {plural(row['sites'], 'site')}: {why}")
        if "note" in report:
            note(report["note"])


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="The topic.", metavar="TOPIC")],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, where there is a terminal to ask on.")
    ] = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Delete a topic and all its records, for good; or a policy, by its pattern."""
    name = pattern_argument(name)
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm(f"Delete '{name}' and all its records?", abort=True)
    with connected(Target(url, mesh, insecure, json)) as connection:
        connection.admin.topics.delete(name)
    if json:
        emit({"deleted": name})
    else:
        say(f"deleted {name}")


def _stream_cells(row: dict[str, Any]) -> list[Any]:
    """Whose stream it is, and which nodes have a copy of it."""
    copies = []
    for copy in row["copied_to"]:
        lag = copy["lag_commits"]
        late = copy["problem"] or ("not begun" if lag is None else f"{lag:,} commits behind")
        copies.append(copy["name"] + ("" if copy["caught_up"] else f" ({late})"))
    what = " (away)" if row["away"] else " (older log)" if row.get("older") else ""
    sites = [
        s["site"] + ("" if s["caught_up"] else " (behind)") for s in row.get("mirrored_at", ())
    ]
    log = row["origin"][:8]
    # Who mirrors a stream its own site knows; that we have it is why it is shown here.
    at = "this site" if site_of(row["owner"]) else sites or "no site"
    first = row.get("first_offset")
    return [row["owner"] + what, log, row["records"], first, copies or "no node", at]


def _note_older(report: dict[str, Any]) -> None:
    """What becomes of logs that nodes had before those they have now."""
    for name in sorted({r["owner"] for r in report.get("streams", ()) if r.get("older")}):
        note(
            f"an older log of {name} is read as all others; once its records are not needed "
            f"`meshmq node forget {name}` drops it"
        )


def _covers(pattern: str, row: dict[str, Any]) -> bool:
    return pattern == ">" or matches(pattern, str(row["topic"]))


HEADS = ["topic", "durability", "records", "first", "next", "kept for", "kept bytes"]


def _cells(row: dict[str, Any]) -> list[Any]:
    """What ``list`` shows of a topic to people; ``--json`` has it all."""
    offsets = [row.get(name) for name in ("records", "first_offset", "next_offset")]
    return [row["topic"], row["durability"], *offsets, *_kept(row)]


def _table(heads: list[str], cells: list[list[Any]], rows: list[dict[str, Any]]) -> list[str]:
    """In a site with who has set each policy, and when."""
    if not any("set_by" in row for row in rows):
        return columns(heads, cells)
    return columns([*heads, "set by"], [[*c, said(r)] for c, r in zip(cells, rows, strict=True)])


def _kept(row: dict[str, Any]) -> tuple[str, Any]:
    """For how long and how many bytes."""
    if "mirrored_from" in row:
        there = "as at " + ", ".join(row["mirrored_from"])
        return there, there
    seconds = row["retention_ns"] // 10**9
    return str(timedelta(seconds=seconds)) if seconds else "ever", row["retention_bytes"] or "any"
