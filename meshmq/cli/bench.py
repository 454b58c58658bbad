"""``meshmq bench``: measure this installation on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    help="Measure meshmq on this machine.",
    add_completion=False,
    subcommand_metavar="",
    context_settings={"allow_interspersed_args": True},
)

SIZE_MIN = 16  # two numbers of 8 bytes travel in a value where its age is measured


def _fail(message: str, code: int = 1) -> typer.Exit:
    typer.echo(f"meshmq bench: {message}", err=True)
    return typer.Exit(code)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(size: int) -> Table:
    from rich.table import Table

    table = Table(title=f"meshmq bench, values of {size:,} bytes")
    table.add_column("work", no_wrap=True)
    table.add_column("figure")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("lowest to highest", justify="right", no_wrap=True)
    return table


def _write_json(path: Path, size: int, results: dict[str, list[dict[str, float]]]) -> None:
    import json
    import os
    import platform
    import time

    document = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "size": size,
        "works": results,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _works_help() -> str:
    return (
        "durable-publish, durable-publish-many, durable-publish-aio, durable-e2e, "
        "topics-publish, topics-replay, transient-publish, transient-publish-many, replay, "
        "replay-aio, fanout, latency, confirm-latency, steady, idle, memory, queue, queue-any, "
        "queue-key, queue-backlog, queue-groups, queue-killed, queue-schedule, request, "
        "request-nowait, request-aio, site-publish, site-publish-many, site-latency, "
        "site-replay, site-replicated, direct-publish, direct-publish-many, direct-request, "
        "direct-request-nowait, direct-request-aio; "
        "may be given more than once; all if left out"
    )


@app.callback(invoke_without_command=True)
def bench(
    works: Annotated[list[str] | None, typer.Argument(metavar="WORK", help="As --work.")] = None,
    work: Annotated[list[str] | None, typer.Option("--work", help=_works_help())] = None,
    size: Annotated[int, typer.Option(help="Value size in bytes, 16 to 1,048,576.")] = 100,
    seconds: Annotated[float, typer.Option(help="How long each run goes on, 0.1 to 60.")] = 3.0,
    count: Annotated[
        int, typer.Option(help="Records, requests of a run instead of --seconds.")
    ] = 0,
    records: Annotated[int, typer.Option(help="Records stored by replay and memory.")] = 5_000_000,
    outstanding: Annotated[
        int, typer.Option(help="Requests under way at a time in request works, 1 to 1,024.")
    ] = 1,
    repeat: Annotated[int, typer.Option(help="Runs of each work, 1 to 20.")] = 3,
    url: Annotated[str, typer.Option(help="Use this node instead of starting one.")] = "",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where nodes keep their data meanwhile.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write figures here.")] = None,
) -> None:
    """Measure meshmq: publisher, node and subscribers are processes of their own."""
    from statistics import median

    from rich.console import Console

    from meshmq import limits
    from meshmq.bench.procs import ended_by_signals
    from meshmq.bench.target import Settings
    from meshmq.bench.works import WORKS
    from meshmq.errors import MeshError

    names = [*(works or ()), *(work or ())] or list(WORKS)
    for name in names:
        if name not in WORKS:
            raise _fail(f"no work is called {name!r}; there are {', '.join(WORKS)}", 2)
    if not SIZE_MIN <= size <= limits.VALUE_BYTES_MAX:
        raise _fail(f"--size must be {SIZE_MIN} to {limits.VALUE_BYTES_MAX}", 2)
    if not (0.1 <= seconds <= 60 and 1 <= repeat <= 20 and count >= 0 and records >= 1):
        raise _fail("--seconds is 0.1 to 60, --repeat 1 to 20, counts are not negative", 2)
    if not 1 <= outstanding <= limits.CONCURRENCY_MAX:
        raise _fail(f"--outstanding must be 1 to {limits.CONCURRENCY_MAX}", 2)
    if directory is not None and not directory.is_dir():
        raise _fail(f"--dir {directory} is not a folder", 2)
    settings = Settings(size, seconds, count, records, url, directory, outstanding)
    console, results, failed = Console(), dict[str, list[dict[str, float]]](), False
    table = _table(size)
    with ended_by_signals(), console.status("") as status:
        for name in names:
            runs = results.setdefault(name, [])
            try:
                for i in range(repeat):
                    status.update(f"{name}: {WORKS[name].about} ({i + 1} of {repeat})")
                    runs.append(WORKS[name].run(settings))
            except MeshError as error:
                failed = True
                typer.echo(f"meshmq bench: {name}: {error}", err=True)
            if not runs:
                continue
            label = name
            for figure, unit in WORKS[name].units.items():
                seen = [run[figure] for run in runs]
                span = f"{_number(min(seen))} to {_number(max(seen))}"
                table.add_row(label, f"{figure}, {unit}", _number(median(seen)), span)
                label = ""
            table.add_section()
    if table.row_count:
        console.print(table)
    if json_file is not None:
        _write_json(json_file, size, results)
    if failed:
        raise typer.Exit(1)
