"""``meshmq sub``: show what is published to topics that match a pattern."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.boundary import Interrupted
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    pattern_argument,
)
from meshmq.cli.output import json_bytes, note, printable
from meshmq.errors import InvalidArgument
from meshmq.names import Position, is_literal, matches

if TYPE_CHECKING:
    from meshmq import Mesh, Message

FETCH_RECORDS_MAX = 1000  # one write to stdout for so many at most
FETCH_WAIT_S = 1.0  # so that a stopped terminal or a signal is noticed in time


class Format(StrEnum):
    """How a message looks on stdout."""

    text = "text"
    raw = "raw"


def sub(
    pattern: Annotated[
        str,
        typer.Argument(help="Topics to show: '*' stands for one token, a final '>' for the rest."),
    ],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="START",
            help="new, earliest, an offset (one topic only), a time as 2024-05-01T12:00:00Z, "
            "or a position that sub printed.",
        ),
    ] = "new",
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N messages.")
    ] = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="text: a line to read. raw: the value and a newline."),
    ] = Format.text,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the node.", min=0.1)] = 5.0,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show messages as they come, or from an earlier place on, until Ctrl-C."""
    pattern = pattern_argument(pattern)
    begin = parse_start(start, pattern)
    render = _render_json if json else _render_raw if output is Format.raw else _render_text
    target = Target(url, mesh, insecure, json, timeout)
    shown, last = 0, None
    try:
        with (
            connected(target, on_state=StateTeller()) as connection,
            connection.subscribe(pattern, start=begin, on_missed=_tell_missed) as subscription,
        ):
            _tell_waiting(connection, pattern)
            while count is None or shown < count:
                room = FETCH_RECORDS_MAX if count is None else count - shown
                batch = subscription.fetch(min(room, FETCH_RECORDS_MAX), timeout=FETCH_WAIT_S)
                if batch:
                    sys.stdout.buffer.write(b"".join(map(render, batch)))
                    sys.stdout.buffer.flush()
                    shown += len(batch)
                    last = batch[-1]
    except KeyboardInterrupt:
        raise Interrupted(_stopped_sentence(shown, last)) from None


def parse_start(text: str, pattern: str) -> str | int | datetime | Position:
    """What ``--from`` means: new, earliest, an offset, a position or a time; or wrong usage."""
    if text in ("new", "earliest"):
        return text
    if text.isascii() and text.isdigit():
        if not is_literal(pattern):
            raise typer.BadParameter(
                f"an offset belongs to one topic, and {pattern!r} can match several: "
                "use a time or a position",
                param_hint="--from",
            )
        return int(text)
    try:
        if text.startswith("p1-"):
            return Position.parse(text)
        # A time without a zone is this machine's, as a user would read it off the wall.
        return datetime.fromisoformat(text).astimezone()
    except (InvalidArgument, ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is none of: new, earliest, an offset, a time as 2024-05-01T12:00:00Z, "
            "a position that sub printed",
            param_hint="--from",
        ) from None


def _tell_waiting(connection: Mesh, pattern: str) -> None:
    """A misspelt topic looks like silence; say that nothing matches yet."""
    names = [str(row["topic"]) for row in connection.admin.topics.list()]
    if not any(matches(pattern, name) for name in names):
        note(f"waiting for '{pattern}': no topic matches yet")


def _tell_missed(count: int) -> None:
    note(f"{count:,} messages missed: dropped because this reader was too slow, or expired")


def _stopped_sentence(shown: int, last: Message | None) -> str:
    if last is None:
        return "interrupted, no messages received"
    place = f"; go on with --from {last.position}" if last.offset is not None else ""
    return f"interrupted after {shown:,} messages{place}"


def _render_text(message: Message) -> bytes:
    offset = "" if message.offset is None else f" #{message.offset}"
    key = "" if message.key is None else f" [{printable(message.key)}]"
    return f"{message.topic}{offset}{key} {printable(message.value)}\n".encode()


def _render_raw(message: Message) -> bytes:
    return bytes(message.value) + b"\n"


def _render_json(message: Message) -> bytes:
    import json

    item: dict[str, Any] = {
        "topic": message.topic,
        "offset": message.offset,
        "key": json_bytes(message.key),
        "value": json_bytes(message.value),
        "headers": message.headers,
        "timestamp": message.timestamp.isoformat(),
        "position": str(message.position) if message.offset is not None else None,
    }
    return json.dumps(item, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
