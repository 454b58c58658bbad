"""``meshmq consume``: take the records of a group, show them, ack them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from meshmq.cli.group_options import (
    AckTimeoutOption,
    BackoffMaxOption,
    BackoffOption,
    MaxDeliveriesOption,
    MaxHeldOption,
    Order,
    RateOption,
    settings_option,
)
from meshmq.cli.messages import Format, record_object, renderer
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    group_argument,
    parse_place,
    parse_seconds,
    pattern_argument,
)
from meshmq.cli.sub import tell_waiting
from meshmq.cli.taking import show_and_ack
from meshmq.limits import PREFETCH_RECORDS_DEFAULT, PREFETCH_RECORDS_MAX
from meshmq.names import is_position


def consume(
    pattern: Annotated[
        str,
        typer.Argument(help="Topics of the group: '*' is one token, a final '>' the rest."),
    ],
    group: Annotated[
        str, typer.Option(metavar="GROUP", help="The group to join; made if it is not there.")
    ],
    order: Annotated[
        Order,
        typer.Option(help="any, or key: records of one key one after the other, over all members."),
    ] = Order.any,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="START",
            help="Where a new group begins: earliest, new, an offset (one topic only) or a time "
            "as 2024-05-01T12:00:00Z.",
        ),
    ] = "earliest",
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N records.")
    ] = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="text: a line to read. raw: the value and a newline."),
    ] = Format.text,
    ack_timeout: AckTimeoutOption = "30s",
    prefetch: Annotated[
        int,
        typer.Option(
            min=1, max=PREFETCH_RECORDS_MAX, metavar="N", help="Hold at most N records at a time."
        ),
    ] = PREFETCH_RECORDS_DEFAULT,
    max_deliveries: MaxDeliveriesOption = None,
    backoff: BackoffOption = None,
    backoff_max: BackoffMaxOption = None,
    max_held: MaxHeldOption = None,
    rate: RateOption = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the node.", min=0.1)] = 5.0,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Join a group: show the records it hands to this member, ack each once it is shown.

    Members share the records; what this one has not shown when it ends goes to the others. Ctrl-C
    ends it.
    """
    pattern, group = pattern_argument(pattern), group_argument(group)
    begin = parse_group_start(start, pattern, "--from")
    settings = settings_option(
        backoff, backoff_max, max_deliveries=max_deliveries, max_held=max_held, rate=rate
    )
    seconds = parse_seconds(ack_timeout, "--ack-timeout")
    with (
        connected(
            Target(url, mesh, insecure, json, timeout), on_state=StateTeller(), works=True
        ) as connection,
        connection.consume(
            pattern,
            group,
            order=order.value,
            start=begin,
            ack_timeout=seconds,
            prefetch=prefetch if count is None else min(prefetch, count),
            **settings,
        ) as consumer,
    ):
        tell_waiting(connection, pattern)
        show_and_ack(consumer, renderer(output, json, record_object), count, timeout)


def parse_group_start(text: str, pattern: str, hint: str) -> str | int | datetime:
    """Where a group begins: new, earliest, an offset or a time; or wrong usage."""
    if is_position(text):
        raise typer.BadParameter(
            "a group begins at an offset or a time, a position is for sub", param_hint=hint
        )
    return parse_place(text, pattern, hint)
