"""Puts the commands together."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from meshmq.cli.output import emit, say

COMMANDS = (
    "node", "pub", "sub", "consume", "request", "serve", "services", "queue", "group", "dlq",
    "topic", "log", "peers", "sites", "site", "link", "status", "doctor", "demo", "bench",
)  # fmt: skip
"""Each is in the module of that name: one command of that name, or more below it (``app``)."""


def _version_text() -> str:
    from importlib.metadata import version

    return version("meshmq")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"meshmq {_version_text()}")
        raise typer.Exit()


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        say(context.get_help())


def _version(
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show the version of meshmq, its protocol and its Python."""
    import platform

    from meshmq.frames import PROTOCOL_MAJOR, PROTOCOL_MINOR

    protocol = f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
    python = platform.python_version()
    if json:
        emit({"meshmq": _version_text(), "protocol": protocol, "python": python})
    else:
        say(f"meshmq {_version_text()}, protocol {protocol}, Python {python}")


def command(first: str = "") -> Any:
    """The command tree, ready to be run; without what is beside ``first``, if that is one of its
    commands: all of them together take longer to make than most of them to run."""
    app = typer.Typer(
        name="meshmq",
        help="A messaging mesh: programs talk directly, and a node keeps what must not be lost.",
        add_completion=False,  # completion would run in main() of the library, past our boundary
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,  # they would show keys and values
        rich_markup_mode="rich",
    )
    app.callback(invoke_without_command=True)(_root)
    for name in [first] if first in COMMANDS else COMMANDS:
        module = import_module(f"meshmq.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    app.command("version")(_version)
    return typer.main.get_command(app)
