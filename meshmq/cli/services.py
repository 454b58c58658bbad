"""``meshmq services``: who serves what, how busy, how fast."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshmq.cli.group_options import span
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    pattern_argument,
)
from meshmq.cli.output import columns, emit, note_away, plural, say

HEADS = ("instance", "node", "state", "in flight", "served", "failed", "p50", "p99")


def services(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="Services to list: '*' is one token, a final '>' the rest."
        ),
    ] = ">",
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List services and their instances: how much each has in flight, and how long it takes.

    They are those at the node, in a site those at all its nodes, and their
    figures those of requests that went by nodes, not directly. Nodes of other
    sites that a link lets requests ask are SITE/NODE, with what they told. A node that
    did not answer has a line for what it told before: how many instances,
    and how busy they are.
    In flight are requests at work, of how many there may be at a time.
    Requests are those that were accepted. Served counts those an instance
    has ended, failed the ones of them without a value: an error, or given
    up by who asked. Half of the latest took p50 or less, 99 of 100 took
    p99 or less.
    """
    pattern = pattern_argument(pattern)
    with connected(Target(url, mesh, insecure, json)) as connection:
        found = connection.admin.services.list(pattern)
        node = connection.admin.status()["node"]["name"]
    if json:
        for service in found:
            emit({**service, "node": node})
    elif found:
        say("\n".join(line for service in found for line in _lines(service, node)))
        note_away(found)
    else:
        what = "no services" if pattern == ">" else f"no services match '{pattern}'"
        say(f"{what}: start one with `meshmq serve NAME --echo`, or mesh.serve in a program")


def _lines(service: dict[str, Any], node: str) -> list[str]:
    counts = f"{plural(service['requests'], 'request')}, {service['waiting']:,} waiting"
    if service["expired"]:
        counts += f", {service['expired']:,} not answered in time"
    rows = [_cells(instance, node) for instance in service["instances"]]
    listed = {node, *[instance.get("node", node) for instance in service["instances"]]}
    rows += [_cells_of(other) for other in service.get("nodes", ()) if other["node"] not in listed]
    table = columns(HEADS, rows) if rows else ["no instance yet"]
    return [f"{service['service']}: {counts}", *(f"  {line}" for line in table)]


def _cells(instance: dict[str, Any], node: str) -> list[Any]:
    return [
        instance["client"],
        instance.get("node", node),
        instance["state"],
        f"{instance['in_flight']:,}/{instance['concurrency']:,}",
        instance["served"],
        instance["failed"],
        took(instance["p50_us"]),
        took(instance["p99_us"]),
    ]


def _cells_of(other: dict[str, Any]) -> list[Any]:
    """Another node of the site, which has told that the service lives there too."""
    state = f"{other['waiting']:,} waiting" if other["waiting"] else "serving"
    places = other["concurrency"]
    load = f"{places - other['free']:,}/{places:,}"
    return [plural(other["instances"], "instance"), other["node"], state, load, *[None] * 4]


def took(us: int | None) -> str | None:
    """A latency to read: 250us, 1.5ms, 3.2s; None where there is none."""
    if us is None or us < 1000:
        return None if us is None else f"{us}us"
    return f"{us / 1000:.3g}ms" if us < 999_500 else span(max(1.0, us / 1_000_000))
