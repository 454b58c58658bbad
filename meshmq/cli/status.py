"""``meshmq status``: what a node says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

from meshmq.cli.group_options import summary
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import emit, fields, say


def status(
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the node.", min=0.1)] = 5.0,
) -> None:
    """Show a node's counters: published, confirmed, delivered, dropped, sync times."""
    with connected(Target(url, mesh, insecure, json, timeout)) as connection:
        report = connection.admin.status()
    if json:
        emit(report)
    else:
        groups = report.pop("groups", [])
        for kind in ("group", "queue"):
            report[f"{kind}s"] = [summary(g, kind) for g in groups if g["kind"] == kind]
        say("\n".join(fields(report)))
