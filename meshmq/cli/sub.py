"""``meshmq sub``: show what is published to topics that match a pattern."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self

import typer

from meshmq.cli.boundary import Interrupted
from meshmq.cli.direct import ListenOption, PeerOption, node_url, tell_addresses
from meshmq.cli.messages import Format, renderer
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    parse_place,
    pattern_argument,
)
from meshmq.cli.output import note, plural
from meshmq.errors import InvalidArgument, TopicNotFound
from meshmq.names import Position, is_position, matches

if TYPE_CHECKING:
    from meshmq import Mesh, Message, Subscription

FETCH_RECORDS_MAX = 1000  # one write to stdout for so many at most
FETCH_WAIT_S = 1.0  # so that a stopped terminal or a signal is noticed in time


class Scope(StrEnum):
    """Whose records are shown."""

    site = "site"
    all = "all"


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
    scope: Annotated[
        Scope,
        typer.Option(help="site: nothing of what the node's site mirrors of other sites."),
    ] = Scope.all,
    output: Annotated[
        Format,
        typer.Option("--format", help="text: a line to read. raw: the value and a newline."),
    ] = Format.text,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the node of --url.", min=0.1)
    ] = 5.0,
    url: UrlOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Show messages as they come, or from an earlier place on, until Ctrl-C.

    Without a node they come directly from the programs that publish them.
    """
    pattern = pattern_argument(pattern)
    begin = parse_start(start, pattern)
    render = renderer(output, json)
    url = node_url(url, peer, listen)
    target = Target(url, mesh, insecure, json, timeout, tuple(peer or ()), tuple(listen or ()))
    shown, last = 0, None
    try:
        with (
            connected(
                target, on_state=StateTeller(), lasting=True, route="auto", works=True
            ) as connection,
            connection.subscribe(pattern, start=begin, scope=scope.value) as subscription,
            _TellMissed(subscription) as missed,
        ):
            tell_addresses(connection, target.peers)
            if connection.state != "brokerless":
                tell_waiting(connection, pattern)
                if isinstance(begin, int):
                    tell_others(connection, pattern)
            while count is None or shown < count:
                room = FETCH_RECORDS_MAX if count is None else count - shown
                batch = subscription.fetch(min(room, FETCH_RECORDS_MAX), timeout=FETCH_WAIT_S)
                missed.tell()
                if batch:
                    sys.stdout.buffer.write(b"".join(map(render, batch)))
                    sys.stdout.buffer.flush()
                    shown += len(batch)
                    last = batch[-1]
    except KeyboardInterrupt:
        raise Interrupted(_stopped_sentence(shown, last)) from None


def parse_start(text: str, pattern: str) -> str | int | datetime | Position:
    """What ``--from`` means: new, earliest, an offset, a position or a time; or wrong usage."""
    if is_position(text):
        try:
            return Position.parse(text)
        except InvalidArgument as error:
            raise typer.BadParameter(str(error), param_hint="--from") from None
    return parse_place(text, pattern, "--from", "a position that sub printed")


def tell_waiting(connection: Mesh, pattern: str) -> None:
    """A misspelt topic looks like silence; say that nothing matches yet."""
    names = [str(row["topic"]) for row in connection.admin.topics.list()]
    if not any(matches(pattern, name) for name in names):
        note(f"waiting for '{pattern}': no topic matches yet")


def tell_others(connection: Mesh, topic: str) -> None:
    """An offset is of one stream, and the topic may have more."""
    try:
        streams = connection.admin.topics.show(topic).get("streams", ())
    except TopicNotFound:
        return
    here = str(connection.admin.status()["node"]["name"])
    if others := [row["owner"] for row in streams if row["owner"] != here]:
        note(
            f"the offset is of the stream of {here}, where we are; of {', '.join(others)} comes "
            f"what is new (--from earliest: all)"
        )


class _TellMissed:
    """Says how many messages were passed over and why, once for what is new; at the end too."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._damaged = 0
        self._others = 0

    def tell(self) -> None:
        damaged = self._subscription.damaged
        others = self._subscription.missed - damaged
        if damaged > self._damaged:
            count, self._damaged = damaged - self._damaged, damaged
            is_one = count == 1
            note(
                f"{plural(count, 'message')} {'is' if is_one else 'are'} damaged on disk and "
                f"{'was' if is_one else 'were'} left out: see `meshmq log verify`"
            )
        if others > self._others:
            count, self._others = others - self._others, others
            note(
                f"{plural(count, 'message')} missed: dropped because this reader was too slow, "
                f"expired, or given up by a repair of the log"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.tell()


def _stopped_sentence(shown: int, last: Message | None) -> str:
    if last is None:
        return "interrupted, no messages received"
    place = f"; go on with --from {last.position}" if last.offset is not None else ""
    return f"interrupted after {plural(shown, 'message')}{place}"
