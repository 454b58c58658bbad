"""Options that client commands share, and the connection they describe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.direct import linked
from meshmq.cli.output import emit, note, printable
from meshmq.errors import InvalidArgument, InvalidName, MeshError
from meshmq.names import (
    check_group,
    check_mesh,
    check_pattern,
    check_service,
    check_topic,
    is_literal,
)

if TYPE_CHECKING:
    from meshmq import Mesh

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="MESHMQ_URL",
        metavar="URL",
        help="Where the node is, as tcp://HOST:PORT; else tcp://127.0.0.1:5757, or found by mDNS.",
    ),
]
MeshOption = Annotated[str, typer.Option("--mesh", help="Name of the mesh: others are not seen.")]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Allow an address beyond this host, without encryption or passwords."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]


def _durability(text: str | None) -> str | None:
    from meshmq.durability import durability_of

    try:
        durability_of("sent" if text is None else text)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error)) from None
    return text


DurabilityOption = Annotated[
    str | None,
    typer.Option(
        help="Wait until they are in the node's memory (sent), on its disk (synced), on all copies "
        "(replicated), or on disks of N other sites (mirrored:N).",
        metavar="sent|synced|replicated|mirrored:N",
        callback=_durability,
        show_default="as the topic's policy says",
    ),
]


@dataclass(frozen=True, slots=True)
class Target:
    """Which node, or else which programs, a client command talks to, and how it answers."""

    url: str | None
    mesh: str
    insecure: bool
    json: bool
    timeout: float = 5.0
    peers: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    durability: str | None = None


@contextmanager
def connected(
    target: Target,
    *,
    on_state: Callable[[Any], None] | None = None,
    name: str | None = None,
    lasting: bool = False,
    route: str = "node",
    on_node_loss: str = "move",
    works: bool = False,
) -> Iterator[Mesh]:
    """A connection for one command: drained at the end, dropped at once after an error. Listings
    show it by its ``name``. What needs no node says ``route="auto"``. With ``--peer`` one program
    at least must be there, unless the command is a ``lasting`` one, which others may join later.
    One that ``works`` does more than ask and set: a node that drains sends it to another one.

    With ``--json`` an error is also an object on stdout (error, message, outcome).
    """
    import meshmq

    try:
        connect = partial(
            meshmq.connect,
            target.url,
            mesh=as_usage(check_mesh, target.mesh, "--mesh"),
            timeout=target.timeout,
            insecure=target.insecure,
            on_state=on_state,
            name=name,
            peers=target.peers or None,
            listen=target.listen or None,
            route="direct" if target.peers or target.listen else route,
            on_node_loss=on_node_loss,
            durability=target.durability,
            admin=not works,
        )
        if target.peers and not lasting:
            mesh = linked(connect, target.peers, target.mesh, target.timeout)
        else:
            mesh = connect()
        try:
            yield mesh
        except BaseException:
            with contextlib.suppress(MeshError):  # that not all is confirmed is not the news here
                mesh.close(timeout=0.0)
            raise
        mesh.close()
    except MeshError as error:
        if target.json:
            emit({"error": error.code, "message": str(error), "outcome": error.outcome})
        raise


class StateTeller:
    """Says on stderr that the connection was lost, and that there is one, where there was none;
    without a node, which programs come and go."""

    def __init__(self) -> None:
        self._state = "connecting"

    def __call__(self, change: Any) -> None:
        before, self._state = self._state, change.state
        if change.state == before and change.state != "brokerless":
            return  # another program has come or gone
        if change.state == "reconnecting":
            note(f"connection lost ({change.reason}), trying again")
        elif change.state == "connected" and before != "connecting":
            note(change.reason)
        elif change.state == "brokerless" and change.reason.startswith(("linked with ", "lost ")):
            note(printable(change.reason.encode("utf-8", "replace")))


def as_usage(check: Callable[[str], str], text: str, hint: str) -> str:
    """``check(text)``, an invalid name being wrong usage of the argument or option ``hint``."""
    try:
        return check(text)
    except InvalidName as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def topic_argument(text: str) -> str:
    """A topic from the command line, or wrong usage."""
    return as_usage(check_topic, text, "TOPIC")


def pattern_argument(text: str) -> str:
    """A pattern from the command line, or wrong usage."""
    return as_usage(check_pattern, text, "PATTERN")


def group_argument(text: str) -> str:
    """A group's name from the command line, or wrong usage."""
    return as_usage(check_group, text, "GROUP")


def queue_argument(text: str) -> str:
    """A queue's name from the command line, or wrong usage."""
    return as_usage(lambda name: check_group(name, "queue"), text, "QUEUE")


def service_argument(text: str) -> str:
    """A service's name from the command line, or wrong usage."""
    return as_usage(check_service, text, "SERVICE")


def parse_place(text: str, pattern: str, hint: str, more: str = "") -> str | int | datetime:
    """Where to begin to read ``pattern``: new, earliest, an offset or a time; or wrong usage.

    ``more`` names what else the option ``hint`` takes.
    """
    if text in ("new", "earliest"):
        return text
    if text.isascii() and text.isdigit():
        if not is_literal(pattern):
            raise typer.BadParameter(
                f"an offset belongs to one topic, and {pattern!r} can match several: "
                f"use a time{' or a position' if more else ''}",
                param_hint=hint,
            )
        return int(text)
    try:
        return parse_time(text, hint)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"{text!r} is none of: new, earliest, an offset, a time as 2024-05-01T12:00:00Z"
            f"{', ' + more if more else ''}",
            param_hint=hint,
        ) from None


def parse_time(text: str, hint: str) -> datetime:
    """A time from the command line, or wrong usage."""
    try:
        # A time without a zone is this machine's, as a user would read it off the wall.
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time, write it like 2024-05-01T12:00:00Z", param_hint=hint
        ) from None


def parse_due(text: str, hint: str) -> datetime:
    """When a job is to be due; says so if that is past."""
    time = parse_time(text, hint)
    if time <= datetime.now(time.tzinfo):
        note(f"{hint} {time.isoformat()} is past: due at once")
    return time


def parse_seconds(text: str, hint: str) -> float:
    """A duration as 500ms, 30s, 5m, 2h or 7d, or bare seconds; or wrong usage."""
    from meshmq.client.admin import parse_duration

    try:
        if text.replace(".", "", 1).isdigit() and text.isascii():
            return float(text)
        return parse_duration(text) / 1e9
    except InvalidArgument as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None
