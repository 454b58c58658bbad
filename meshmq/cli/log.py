"""``meshmq log``: look after the log of a node that is not running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshmq.cli.options import JsonOption
from meshmq.cli.output import emit, note, plural, say
from meshmq.errors import ConfigError

app = typer.Typer(
    help="Verify, repair and renew the log of a node that is not running.", no_args_is_help=False
)
LOST = (
    "only a copy of the directory made before brings them back; a node starts with the rest and "
    "tells readers of the gap"
)
NameOption = Annotated[str, typer.Option(help="Name of the node.")]
RenewName = Annotated[
    str | None, typer.Option(help=r"Name of the node. \[default: as the log knows it]")
]
DataOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help=r"Directory of its log. \[default: as `meshmq node`]"),
]


@app.command()
def verify(name: NameOption = "node-1", data: DataOption = None, json: JsonOption = False) -> None:
    """Read everything; tell which records are damaged. Exit 65 if any are.

    A log with damaged records opens all the same: they are lost, but in a copy made before, and
    there is nothing to repair. `repair` is for a log that does not open.
    """
    verify_log(_directory(name, data), json)


@app.command()
def repair(name: NameOption = "node-1", data: DataOption = None, json: JsonOption = False) -> None:
    """Make a log that refuses to open usable again, giving up what cannot be read.

    Nothing readable is lost, and files that cannot be opened are put aside, not deleted. If there
    is a good copy of the directory, restore that instead.
    """
    from meshmq.shell import store_repair

    directory = _directory(name, data)
    done = store_repair.repair(directory)
    if json:
        emit({"data": str(directory), "done": done})
        return
    for sentence in done:
        say(sentence)
    if not done:
        say(
            f"{directory} opens as it is: there is nothing to repair. Records that "
            f"`meshmq log verify` calls damaged are lost: {LOST}"
        )


@app.command()
def renew(name: RenewName = None, data: DataOption = None, json: JsonOption = False) -> None:
    """Give a log that was restored from an older copy of its directory an identity of its own.

    Other nodes of the site have copies that go further, and readers have seen what is in them: the
    node must not give the same offsets again. What the log has stays, read-only, and is made whole
    from the copies; what is published from now on is another log's. When the node runs again,
    `meshmq node takeover NAME`, said to it, brings back the work of its groups.
    """
    from meshmq.shell import store_renew

    directory = _directory(name or "node-1", data)
    before, after = store_renew.renew(directory, name or "")
    if json:
        emit({"data": str(directory), "before": before.hex(), "after": after.hex()})
        return
    say(f"{directory}: what was log {before.hex()[:8]} is kept as a copy of that")
    say(f"the node goes on with log {after.hex()[:8]}")


def _directory(name: str, data: Path | None) -> Path:
    from meshmq.cli.config import data_directory

    directory = data_directory(data, name)
    if not (directory / "log").is_dir():
        raise ConfigError(f"{directory} holds no log: say where it is with --data")
    return directory


def verify_log(directory: Path, json: bool) -> None:
    """Read the whole log and say how it is; exit 65 if something is damaged."""
    from meshmq.cli.boundary import EXIT_DAMAGED
    from meshmq.shell.store import LogStore

    store = LogStore.open(directory)
    try:
        problems = store.check()
        stats = store.stats()
        topics = len(store.state.streams)
    finally:
        store.close()
    if json:
        emit(
            {
                "data": str(directory),
                "ok": not problems,
                "durable_topics": topics,
                "segments": stats["segments"],
                "bytes": stats["bytes"],
                "next_lsn": stats["next_lsn"],
                "problems": [problem._asdict() for problem in problems],
            }
        )
    else:
        for problem in problems:
            say(problem.sentence)
        if not problems:
            say(
                f"{directory}: {topics} durable topics, {stats['segments']} segments, "
                f"{stats['bytes']:,} bytes: all is well"
            )
    if problems:
        if not json:
            note(
                f"{plural(len(problems), 'problem')} found; the log opens, there is nothing to "
                f"repair. Damaged records are lost: {LOST}"
            )
        raise typer.Exit(EXIT_DAMAGED)
