"""Puts the commands together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshmq.cli import (
    bench,
    consume,
    demo,
    dlq,
    doctor,
    group,
    log,
    node,
    peers,
    pub,
    queue,
    request,
    serve,
    services,
    status,
    sub,
    takeover,
    topic,
)  # fmt: skip
from meshmq.cli.output import emit, say

app = typer.Typer(
    name="meshmq",
    help="A messaging mesh: programs talk directly, and a node keeps what must not be lost.",
    add_completion=False,  # completion would run in main() of the library, past our boundary
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,  # they would show keys and values
    rich_markup_mode="rich",
)
node_app = typer.Typer(invoke_without_command=True)
node_app.callback()(node.node)
node_app.command("takeover")(takeover.takeover)
app.add_typer(node_app, name="node")
app.command("pub")(pub.pub)
app.command("sub")(sub.sub)
app.command("consume")(consume.consume)
app.command("request")(request.request)
app.command("serve")(serve.serve)
app.command("services")(services.services)
app.add_typer(queue.app, name="queue")
app.add_typer(group.app, name="group")
app.add_typer(dlq.app, name="dlq")
app.add_typer(topic.app, name="topic")
app.add_typer(log.app, name="log")
app.command("peers")(peers.peers)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(bench.app, name="bench")


def _version_text() -> str:
    from importlib.metadata import version

    return version("meshmq")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"meshmq {_version_text()}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
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


@app.command("version")
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


def command() -> Any:
    """The whole command tree, ready to be run."""
    return typer.main.get_command(app)
