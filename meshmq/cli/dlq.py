"""``meshmq dlq``: what groups and queues have given up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.boundary import Interrupted
from meshmq.cli.group import tell
from meshmq.cli.group_options import EitherArgument, YesOption, confirm
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    group_argument,
)
from meshmq.cli.output import (
    columns,
    emit,
    fields,
    json_bytes,
    note_away,
    plural,
    printable,
    say,
)
from meshmq.errors import CommandFailed

if TYPE_CHECKING:
    from meshmq import DeadLetter, Mesh

Ranges = list[tuple[int, int]]

app = typer.Typer(help="Dead letters: what groups and queues have given up; put it back.")

LimitOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Only the N oldest of them.")
]
OffsetsOption = Annotated[
    str | None,
    typer.Option(metavar="A-B,...", help="Only those that `list` numbers so, as 3 or 0-99,120."),
]
NodeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Only those at this node of the site; needed with --offsets where several nodes have "
        "the numbers.",
    ),
]


@app.command("list")
def list_dead(
    name: EitherArgument,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 100,
    offsets: OffsetsOption = None,
    node: NodeOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List dead letters, the oldest first: why, how often it was tried, where it came from."""
    name, wanted = group_argument(name), parse_offsets(offsets)
    with connected(Target(url, mesh, insecure, json)) as connection:
        total, letters, away = _find(connection, name, wanted, limit, node)
    if json:
        for letter in letters:
            emit(_object(letter))
    elif letters:
        say("\n".join(_table(letters)))
        if total > len(letters):
            say(f"{total:,} in all, the rest with --limit {total}")
    else:
        say(_none_of(name, wanted, away))
    note_away([{"away": away}])


@app.command()
def show(
    name: EitherArgument,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 10,
    offsets: OffsetsOption = None,
    node: NodeOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show dead letters with all that is known of them, and their values."""
    name, wanted = group_argument(name), parse_offsets(offsets)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _, letters, away = _find(connection, name, wanted, limit, node)
    if json:
        for letter in letters:
            emit(_object(letter))
    elif letters:
        say("\n\n".join("\n".join(fields(_shown(letter))) for letter in letters))
    else:
        say(_none_of(name, wanted, away))
    note_away([{"away": away}])


@app.command()
def replay(
    name: EitherArgument,
    limit: LimitOption = None,
    offsets: OffsetsOption = None,
    node: NodeOption = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="N", min=0.001, help="So many a second; the command takes as long."),
    ] = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Put dead letters back into their group or queue: all, or some.

    Their attempts count from the beginning again. They go to this group only, whoever else reads
    the topic they came from.
    """
    name, wanted = group_argument(name), parse_offsets(offsets)
    with connected(Target(url, mesh, insecure, json)) as connection:
        chosen = _choose(connection, name, wanted, limit, node)
        try:
            count = connection.admin.dlq.replay(name, chosen, rate=rate, node=node)
        except KeyboardInterrupt:
            raise Interrupted("interrupted: what was put back so far stays so") from None
        _check_some(count, wanted, "replay", name)
    tell(
        f"put back {plural(count, 'dead letter')} of {name}",
        {"group": name, "replaying": count},
        json,
    )


@app.command()
def purge(
    name: EitherArgument,
    limit: LimitOption = None,
    offsets: OffsetsOption = None,
    node: NodeOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Remove dead letters for good: all, or some."""
    name, wanted = group_argument(name), parse_offsets(offsets)
    confirm(f"Remove dead letters of '{name}' for good?", yes)
    with connected(Target(url, mesh, insecure, json)) as connection:
        chosen = _choose(connection, name, wanted, limit, node)
        count = connection.admin.dlq.purge(name, chosen, node=node)
        _check_some(count, wanted, "purge", name)
    tell(f"purged {plural(count, 'dead letter')} of {name}", {"group": name, "purged": count}, json)


def parse_offsets(text: str | None) -> Ranges | None:
    """``3`` or ``0-99,120`` as (first, count) pairs in order; or wrong usage."""
    if text is None:
        return None
    found: Ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise typer.BadParameter(
                f"{part!r} is no range of numbers, write it like 3 or 0-99,120",
                param_hint="--offsets",
            )
        first, last = int(match[1]), int(match[2] or match[1])
        found.append((first, last - first + 1))
    return sorted(found)


def _check_some(count: int, wanted: Ranges | None, verb: str, name: str) -> None:
    """What was named and is not there is an error; all of nothing is none."""
    if wanted is not None and not count:
        raise CommandFailed(f"nothing to {verb} at these offsets: see `meshmq dlq list {name}`")


def _choose(
    mesh: Mesh, name: str, wanted: Ranges | None, limit: int | None, node: str | None
) -> Iterable[Any] | None:
    """The dead letters meant; None: all."""
    from meshmq.client.dead_letter_asks import listed

    if limit is None:
        return wanted
    lots = listed(mesh.admin.dlq.show(name), wanted, node)
    if len(lots) > 1:  # which are the oldest they say themselves
        return mesh.admin.dlq.list(name, limit, wanted=wanted, node=node)
    return _cut(lots[0].ranges, limit)


def _cut(ranges: Ranges, limit: int) -> Ranges:
    found: Ranges = []
    for first, count in ranges:
        if limit <= 0:
            break
        found.append((first, min(count, limit)))
        limit -= count
    return found


def _none_of(name: str, wanted: Ranges | None, away: list[str]) -> str:
    where = " at the nodes that answer" if away else ""
    return (
        f"{name} has no dead letters{where}{' that `meshmq dlq list` numbers so' if wanted else ''}"
    )


def _find(
    mesh: Mesh, name: str, wanted: Ranges | None, limit: int, node: str | None
) -> tuple[int, list[DeadLetter], list[str]]:
    """How many of the wanted there are, the oldest of them, and whose are not known."""
    from meshmq.client.dead_letter_asks import listed

    shown = mesh.admin.dlq.show(name)
    lots = listed(shown, wanted, node)
    total = sum(count for lot in lots for _, count in lot.ranges)
    if wanted is None and node is None:
        total = shown["records"]
    letters = mesh.admin.dlq.list(name, limit, wanted=wanted, node=node) if total else []
    return total, letters, list(shown.get("away", ())) if node is None else []


def _table(letters: list[DeadLetter]) -> list[str]:
    if not any(letter.node for letter in letters):
        return columns(HEADS, map(_cells, letters))
    return columns(["node", *HEADS], [[letter.node, *_cells(letter)] for letter in letters])


HEADS = ["number", "reason", "attempts", "last time", "from", "offset", "key", "error"]


def _cells(letter: DeadLetter) -> list[Any]:
    """What ``list`` shows of a dead letter; ``show`` and ``--json`` have it all."""
    key = printable(letter.key) if letter.key else ""
    error = letter.error.strip().splitlines()
    return [
        letter.number, letter.reason, letter.attempts, _time(letter.last_time), letter.topic,
        letter.offset, key, error[-1] if error else "",
    ]  # fmt: skip


def _shown(letter: DeadLetter) -> dict[str, Any]:
    item = _object(letter)
    for name in ("first_time", "last_time"):
        item[name] = _time(getattr(letter, name))
    item["error"] = " ".join(letter.error.split())
    item["key"] = printable(letter.key) if letter.key else ""
    item["value"] = printable(letter.value)
    return item


def _time(time: Any) -> str:
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _object(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.number,
        "group": letter.group,
        **({"node": letter.node, "origin": letter.origin} if letter.node else {}),
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "first_time": letter.first_time.isoformat() if letter.first_time else None,
        "last_time": letter.last_time.isoformat() if letter.last_time else None,
        "topic": letter.topic,
        "stream": letter.stream,
        "offset": letter.offset,
        "replays": letter.replays,
        "headers": letter.headers,
        "key": json_bytes(letter.key),
        "value": json_bytes(letter.value),
    }
