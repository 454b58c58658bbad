"""Options that commands about groups and queues share, and how such are shown to people."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer

from meshmq.cli.options import parse_seconds
from meshmq.cli.output import columns, fields, said, without_said

GroupArgument = Annotated[str, typer.Argument(help="The group.", metavar="GROUP")]
QueueArgument = Annotated[str, typer.Argument(help="The queue.", metavar="QUEUE")]
EitherArgument = Annotated[str, typer.Argument(help="The group or queue.", metavar="GROUP")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask, where there is a terminal to ask on.")
]
CountOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N.")]
AckTimeoutOption = Annotated[
    str,
    typer.Option(metavar="TIME", help="How long one may take before others get it, as 30s or 5m."),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Due then, within a year, as 2026-12-24T18:00:00Z; local time where no zone is given.",
    ),
]
MaxDeliveriesOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=1000, help="Dead letter after N attempts; new ones: 5."),
]
BackoffOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Delay of the first retry, doubled each time; new ones: 1s."),
]
BackoffMaxOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Longest delay of a retry; new ones: 5m.")
]
MaxHeldOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Records behind keys that wait; new ones: 1,000,000."),
]
RateOption = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Hand out at most N a second; 0: no limit.")
]
MaxRecordsOption = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Refuse jobs beyond N; 0: no limit.")
]
MaxBytesOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Refuse jobs beyond SIZE, as 10GB; 0B: no limit.")
]
DedupOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long a dedup id is remembered; new queues: 10m."),
]


class Order(StrEnum):
    """What follows what."""

    any = "any"
    key = "key"


def settings_option(
    backoff: str | None = None,
    backoff_max: str | None = None,
    dedup_window: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The settings that were given, as the library takes them; or wrong usage."""
    found = {name: value for name, value in others.items() if value is not None}
    for name, text in (
        ("backoff", backoff), ("backoff_max", backoff_max), ("dedup_window", dedup_window),
    ):  # fmt: skip
        if text is not None:
            found[name] = parse_seconds(text, f"--{name.replace('_', '-')}")
    return found


def confirm(question: str, yes: bool) -> None:
    """Ask where there is somebody to ask."""
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm(question, abort=True)


COUNTS = ("ready", "in_flight", "delayed", "retrying", "held", "dead")


def listing(groups: Iterable[dict[str, Any]], named: str) -> list[str]:
    """Lines of a table; ``named`` is what its first column is called."""
    rows = [summary(group, named) for group in groups]
    return columns(list(rows[0]), [list(row.values()) for row in rows])


def summary(group: dict[str, Any], named: str) -> dict[str, Any]:
    """What a table shows of a group or queue; ``--json`` has it all."""
    pattern = {} if named == "queue" else {"pattern": group["pattern"]}
    return {
        named: group["group"],
        **pattern,
        "order": group["order"],
        "state": group["state"],
        **{name.replace("_", " "): group[name] for name in COUNTS},
        "oldest": span(group["oldest_seconds"]),
        "members": len(group["members"]),
        **({"set by": said(group)} if "conflict" in group else {}),
    }


def details(group: dict[str, Any]) -> list[str]:
    """All of one group or queue, line by line."""
    shown = {group["kind"]: group["group"]}
    for name, value in without_said(group).items():
        if name == "oldest_seconds":
            shown["oldest"] = span(value)
        elif name not in ("group", "kind", "settings", "members"):
            shown[name] = value
    settings = dict(group["settings"])
    for name in ("backoff_ns", "backoff_max_ns", "dedup_ns"):
        if name in settings:
            settings[name.removesuffix("_ns")] = span(settings.pop(name) / 1e9)
    for name in ("rate", "max_records", "max_bytes"):
        if not settings.get(name, 1):
            settings[name] = "no limit"
    shown |= {"settings": settings, "members": group["members"]}
    return fields(shown)


def span(seconds: float) -> str:
    """A time's length to read: 850ms, 3.2s, 5m12s, 2h05m, 3d04h; empty for none."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms" if seconds else ""
    if seconds < 60:
        return f"{seconds:.3g}s"
    for unit, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}{int(seconds % size // part_size):02}{part}"
    return f"{int(seconds // 60)}m{int(seconds % 60):02}s"
