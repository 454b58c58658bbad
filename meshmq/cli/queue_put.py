"""``meshmq queue put``: put one job, or one for every line of a file or a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from meshmq.cli.boundary import CommandError, Interrupted
from meshmq.cli.group_options import AtOption, QueueArgument
from meshmq.cli.lines import LineRouter, Run, has_columns, read_blocks, refuse_columns
from meshmq.cli.options import (
    DurabilityOption,
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    parse_due,
    parse_seconds,
    queue_argument,
)
from meshmq.cli.output import emit, note, say
from meshmq.cli.progress import LineProgress
from meshmq.cli.pub import counts, headers_option, opened, pace, settle_rest
from meshmq.cli.window import Window
from meshmq.errors import MeshError
from meshmq.limits import PRIORITY_MAX

if TYPE_CHECKING:
    from meshmq import Mesh


class JobOptions(NamedTuple):
    """What all jobs of one command share."""

    headers: dict[str, str] | None
    delay: float | None
    at: datetime | None
    priority: int
    ttl: float | None


TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="S", min=0.1, help="Give up when nothing is confirmed for so many seconds."
    ),
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME=VALUE", help="Header of the jobs; repeatable."),
]
TtlOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Drop it if it is not begun so long after it was due."),
]


def put(
    name: QueueArgument,
    value: Annotated[str | None, typer.Argument(help="The value, as text.")] = None,
    lines: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A job for each line of FILE, or of standard input."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Key of the jobs; with --lines {n} is the line's n-th field, from 0."),
    ] = None,
    dedup_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="Jobs of one id are stored once at a node; {n} as for --key."
        ),
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Due so long from now, as 10s or 7d.")
    ] = None,
    at: AtOption = None,
    priority: Annotated[
        int, typer.Option(min=0, max=PRIORITY_MAX, metavar="N", help="0 to 9, the highest first.")
    ] = 0,
    ttl: TtlOption = None,
    header: HeaderOption = None,
    separator: Annotated[
        str, typer.Option(help="With --lines: what separates fields; '\\t' is a tab.")
    ] = ",",
    skip: Annotated[
        int, typer.Option(metavar="N", min=0, help="With --lines: leave out the first N lines.")
    ] = 0,
    timeout: TimeoutOption = 60.0,
    durability: DurabilityOption = None,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Put a job into a queue, or one for every line of a file, and wait until it is confirmed.

    The queue is made on first use. Example:
    meshmq queue put resize --lines photos.csv --key '{0}' --delay 10m
    """
    name = queue_argument(name)
    if has_columns(name):
        raise typer.BadParameter(
            "a queue is one for all: columns like {0} are for --key and --id", param_hint="QUEUE"
        )
    if (value is None) == (lines is None):
        raise typer.BadParameter("give either a VALUE or --lines FILE", param_hint="VALUE")
    if delay is not None and at is not None:
        raise typer.BadParameter("give either --delay or --at", param_hint="--delay")
    options = JobOptions(
        headers_option(header or []),
        None if delay is None else parse_seconds(delay, "--delay"),
        None if at is None else parse_due(at, "--at"),
        priority,
        None if ttl is None else parse_seconds(ttl, "--ttl"),
    )
    target = Target(url, mesh, insecure, json, min(timeout, 5.0), durability=durability)
    if value is not None:
        refuse_columns(key, "--key")
        refuse_columns(dedup_id, "--id")
        _put_one(target, name, value, key, dedup_id, options, timeout)
        return
    separator = separator.replace("\\t", "\t")
    if not separator:
        raise typer.BadParameter("a separator cannot be empty", param_hint="--separator")
    if dedup_id is not None and "{" not in dedup_id:
        raise typer.BadParameter(
            "with --lines an id is made of the line's fields, as '{0}'", param_hint="--id"
        )
    keys = LineRouter(name, key, separator)
    ids = None if dedup_id is None else LineRouter(name, dedup_id, separator)
    _put_lines(target, name, keys, ids, lines or "-", skip, options, timeout)


def _put_one(
    target: Target,
    name: str,
    value: str,
    key: str | None,
    dedup_id: str | None,
    options: JobOptions,
    timeout: float,
) -> None:
    with connected(target, works=True) as mesh:
        receipt = mesh.enqueue(
            name, os.fsencode(value), key=os.fsencode(key) if key else None, dedup_id=dedup_id,
            **options._asdict(),
        )  # fmt: skip
        receipt.wait(timeout)
    job = receipt.job_id if receipt.offset is not None else None
    if target.json:
        emit(
            {
                "queue": name,
                "job": job,
                "durability": receipt.durability,
                "duplicate": receipt.duplicate,
            }
        )
    elif receipt.duplicate:
        say(f"{name} had a job of this id before: nothing was stored again")
    else:
        say(f"put {job} into {name}, {receipt.durability}")


def _put_lines(
    target: Target,
    name: str,
    keys: LineRouter,
    ids: LineRouter | None,
    file: str,
    skip: int,
    options: JobOptions,
    timeout: float,
) -> None:
    with (
        opened(file) as (stream, size),
        connected(target, on_state=StateTeller(), works=True) as mesh,
    ):
        window = Window(mesh, lambda run: _send(mesh, name, run, options), timeout)
        start = time.monotonic()
        try:
            with LineProgress(size) as progress:
                for number, lines in read_blocks(stream, skip):
                    for run in _runs(number, lines, keys, ids):
                        window.publish(run)
                    progress.add(sum(map(len, lines)) + len(lines))
                    progress.show(window.confirmed_count)
                window.settle()
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {_counts(window, start, ids)}") from None
        except (MeshError, CommandError):
            settle_rest(window)
            note(_counts(window, start, ids))
            raise
        seconds = max(time.monotonic() - start, 1e-9)
    if target.json:
        emit(
            {
                "put": window.published_count,
                "confirmed": window.confirmed_count,
                "stored": window.confirmed_count - _duplicates(window, ids),
                "duplicates": _duplicates(window, ids),
                "seconds": round(seconds, 6),
                "rate": round(window.confirmed_count / seconds, 1),
            }
        )
    else:
        note(_counts(window, start, ids))


def _duplicates(window: Window, ids: LineRouter | None) -> int:
    """Jobs that the queue had already. Without ids there are none: what is confirmed twice is then
    only a repeat of this command's own, after a lost connection."""
    return window.duplicate_count if ids is not None else 0


def _counts(window: Window, start: float, ids: LineRouter | None) -> str:
    if ids is None:
        return counts(window, start, "put")
    had = window.duplicate_count
    return (
        f"put {window.published_count:,}, stored {window.confirmed_count - had:,}, {had:,} were "
        f"there already, {pace(window, start)}"
    )


def _runs(
    number: int, lines: list[bytes], keys: LineRouter, ids: LineRouter | None
) -> Iterator[Run]:
    """Lines with their keys; where they have ids, one by one."""
    if ids is None:
        yield from keys.runs(number, lines)
        return
    # Each router gives one run, cut short before a line it refuses, which it names when asked on.
    for run, named in zip(keys.runs(number, lines), ids.runs(number, lines), strict=True):
        count = min(len(run.values), len(named.values))
        for i in range(count):
            found = named.keys[i] if named.keys else None
            dedup_id = None if found is None else found.decode("utf-8", "surrogateescape")
            yield Run(run.topic, [run.values[i]], [run.keys[i]] if run.keys else None, dedup_id)


def _send(mesh: Mesh, name: str, run: Run, options: JobOptions) -> Any:
    """Put one run; its receipt, or receipts where it has several lines."""
    if len(run.values) > 1:
        return mesh.enqueue_many(name, run.values, keys=run.keys, **options._asdict())
    key = run.keys[0] if run.keys else None
    return mesh.enqueue(name, run.values[0], key=key, dedup_id=run.dedup_id, **options._asdict())
