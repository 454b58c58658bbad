"""``meshmq group``: make, list, steer and delete groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.consume import parse_group_start
from meshmq.cli.group_options import (
    BackoffMaxOption,
    BackoffOption,
    GroupArgument,
    MaxDeliveriesOption,
    MaxHeldOption,
    Order,
    RateOption,
    YesOption,
    confirm,
    details,
    listing,
    settings_option,
)
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    group_argument,
    pattern_argument,
)
from meshmq.cli.output import emit, note_away, say
from meshmq.errors import GroupMismatch

if TYPE_CHECKING:
    from meshmq import Mesh

app = typer.Typer(help="Make, list, steer and delete groups.", no_args_is_help=False)


@app.command("list")
def list_groups(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the node's groups: how much is ready, out, waiting for a retry, held, dead."""
    with connected(Target(url, mesh, insecure, json)) as connection:
        groups = connection.admin.groups.list()
    tell_listing(groups, "group", json)


@app.command()
def show(
    name: GroupArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show one group: its lag, settings and members with what each holds."""
    name = group_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        report = _only_group(connection, name)
    tell_details(report, json)


@app.command()
def create(
    name: GroupArgument,
    pattern: Annotated[str, typer.Argument(help="Topics it reads, for good.")],
    order: Annotated[
        Order, typer.Option(help="any, or key: records of one key one after the other.")
    ] = Order.any,
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="START", help="Where it begins: earliest, new, an offset or a time."
        ),
    ] = "earliest",
    max_deliveries: MaxDeliveriesOption = None,
    backoff: BackoffOption = None,
    backoff_max: BackoffMaxOption = None,
    max_held: MaxHeldOption = None,
    rate: RateOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Make a group before its first member comes; one that is there stays as it is."""
    name, pattern = group_argument(name), pattern_argument(pattern)
    begin = parse_group_start(start, pattern, "--from")
    settings = settings_option(
        backoff, backoff_max, max_deliveries=max_deliveries, max_held=max_held, rate=rate
    )
    with connected(Target(url, mesh, insecure, json)) as connection:
        made = connection.admin.groups.create(
            name, pattern, order=order.value, start=begin, **settings
        )
    tell_created(made, "group", json)


@app.command("set")
def set_group(
    name: GroupArgument,
    max_deliveries: MaxDeliveriesOption = None,
    backoff: BackoffOption = None,
    backoff_max: BackoffMaxOption = None,
    max_held: MaxHeldOption = None,
    rate: RateOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Change settings of a group."""
    name = group_argument(name)
    settings = settings_option(
        backoff, backoff_max, max_deliveries=max_deliveries, max_held=max_held, rate=rate
    )
    if not settings:
        raise typer.BadParameter("give a setting, like --rate 100", param_hint="GROUP")
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_group(connection, name)
        report = connection.admin.groups.set(name, **settings)
    tell_details(report, json)


@app.command()
def delete(
    name: GroupArgument,
    yes: YesOption = False,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Delete a group with what it knows and its dead letters; the topics' records stay."""
    name = group_argument(name)
    confirm(f"Delete group '{name}' and its dead letters?", yes)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_group(connection, name)
        connection.admin.groups.delete(name)
    tell(f"deleted group {name}", {"deleted": name}, json)


@app.command()
def pause(
    name: GroupArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Hand out nothing until `resume`; what is out may be finished."""
    name = group_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_group(connection, name)
        told = connection.admin.groups.pause(name)
    tell(f"paused group {name}", told, json)


@app.command()
def resume(
    name: GroupArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Go on after `pause`."""
    name = group_argument(name)
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_group(connection, name)
        told = connection.admin.groups.resume(name)
    tell(f"resumed group {name}", told, json)


@app.command()
def seek(
    name: GroupArgument,
    start: Annotated[
        str,
        typer.Argument(
            metavar="START",
            help="earliest, new, an offset (of a group of one topic) or a time as "
            "2024-05-01T12:00:00Z.",
        ),
    ],
    node: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose stream an offset is of, in a site."),
    ] = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Have a group read on from elsewhere, at all nodes; what its members hold is taken back."""
    name = group_argument(name)
    # The node knows the pattern: it refuses an offset where that can match several topics.
    begin = parse_group_start(start, "any", "START")
    with connected(Target(url, mesh, insecure, json)) as connection:
        _only_group(connection, name)
        told = connection.admin.groups.seek(name, begin, node=node)
    away = told.get("away")
    where = f"; at {', '.join(away)} once that is back" if away else ""
    tell(f"group {name} reads on from {start}{where}", told, json)


def _only_group(connection: Mesh, name: str) -> dict[str, Any]:
    """What a group is like; a queue of that name has commands of its own."""
    report = connection.admin.groups.show(name)
    if report["kind"] != "group":
        raise GroupMismatch(f"'{name}' is a queue: use `meshmq queue`")
    return report


def tell_listing(rows: Sequence[dict[str, Any]], kind: str, json: bool) -> None:
    """All groups, or all queues."""
    if json:
        for row in rows:
            emit(row)
    else:
        say("\n".join(listing(rows, kind)) if rows else f"no {kind}s")
        note_away(rows)


def tell_details(report: dict[str, Any], json: bool) -> None:
    """One group or queue."""
    if json:
        emit(report)
    else:
        say("\n".join(details(report)))


def tell_created(made: dict[str, Any], kind: str, json: bool) -> None:
    """Say what ``create`` did."""
    name = made["group"]
    if made["created"]:
        tell(f"created {kind} {name}", made, json)
    else:
        tell(f"{kind} {name} is there already, its settings stay as they are", made, json)


def tell(sentence: str, item: dict[str, Any], json: bool) -> None:
    """One answer, for people or as an object."""
    if json:
        emit(item)
    else:
        say(sentence)
