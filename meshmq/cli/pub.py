"""``meshmq pub``: publish one value, or every line of a file or a pipe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from meshmq.cli.boundary import CommandError, Interrupted
from meshmq.cli.direct import PeerOption, node_url
from meshmq.cli.lines import LineRouter, Run, read_blocks, refuse_columns
from meshmq.cli.options import (
    DurabilityOption,
    InsecureOption,
    JsonOption,
    MeshOption,
    StateTeller,
    Target,
    UrlOption,
    connected,
    topic_argument,
)
from meshmq.cli.output import emit, note, plural, say
from meshmq.cli.progress import LineProgress
from meshmq.cli.window import Window
from meshmq.errors import MeshError

if TYPE_CHECKING:
    from meshmq import Mesh

RATE_SLICES_A_SECOND = 100  # a paced publisher sends at most so many bursts a second
FIND_S = 2.0  # without a node: others are looked for so long, and pause between two looks
FIND_PAUSE_S = 0.1


def pub(
    topic: Annotated[
        str,
        typer.Argument(
            help="Topic to publish to. With --lines, {n} in it is the line's n-th field, from 0."
        ),
    ],
    value: Annotated[str | None, typer.Argument(help="The value, as text.")] = None,
    lines: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Publish each line of FILE, or of standard input ('-')."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Key of the records; with --lines {n} is a field. Empty: no key."),
    ] = None,
    key_column: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With --lines: the same as --key '{N}'.")
    ] = None,
    separator: Annotated[
        str, typer.Option(help="With --lines: what separates fields; '\\t' is a tab.")
    ] = ",",
    skip: Annotated[
        int, typer.Option(metavar="N", min=0, help="With --lines: leave out the first N lines.")
    ] = 0,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="Header of the records; repeatable."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="N", min=0.001, help="With --lines: at most N records a second."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="S", min=0.1, help="Give up when nothing is confirmed for so many seconds."
        ),
    ] = 60.0,
    durability: DurabilityOption = None,
    url: UrlOption = None,
    peer: PeerOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Publish a value, or one record for every line of a file, and wait until it is confirmed.

    Without a node it goes directly to programs that listen, if there are any.
    A line's bytes are the value as they are, without the newline. Example:
    meshmq pub 'flights.{4}.{1}' --lines flights.csv --skip 1 --key '{3}'
    """
    if (value is None) == (lines is None):
        raise typer.BadParameter("give either a VALUE or --lines FILE", param_hint="VALUE")
    if key is not None and key_column is not None:
        raise typer.BadParameter("give either --key or --key-column", param_hint="--key-column")
    headers = headers_option(header or [])
    url = node_url(url, peer)
    target = Target(
        url, mesh, insecure, json, min(timeout, 5.0), tuple(peer or ()), durability=durability
    )
    if value is not None:
        if key_column is not None or skip or rate is not None:
            raise typer.BadParameter(
                "--key-column, --skip and --rate go with --lines", param_hint="VALUE"
            )
        refuse_columns(topic, "TOPIC")
        refuse_columns(key, "--key")
        _publish_one(target, topic_argument(topic), value, key, headers, timeout)
        return
    separator = separator.replace("\\t", "\t")
    if not separator:
        raise typer.BadParameter("a separator cannot be empty", param_hint="--separator")
    if key_column is not None:
        key = f"{{{key_column}}}"
    router = LineRouter(topic, key, separator)
    if "{" not in topic:
        topic_argument(topic)
    _publish_lines(target, topic, router, lines or "-", skip, headers, rate, timeout)


def headers_option(pairs: list[str]) -> dict[str, str] | None:
    """What ``--header`` means, or wrong usage."""
    headers = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--header")
        headers[name] = value
    return headers or None


def _publish_one(
    target: Target,
    topic: str,
    value: str,
    key: str | None,
    headers: dict[str, str] | None,
    timeout: float,
) -> None:
    begun = time.monotonic()
    with connected(target, route="auto", works=True) as mesh:
        while True:
            receipt = mesh.publish(
                topic, os.fsencode(value), key=os.fsencode(key) if key else None, headers=headers
            )
            receipt.wait(timeout)
            has_looked = mesh.state != "brokerless" or time.monotonic() - begun > FIND_S
            if receipt.route or has_looked:
                break
            time.sleep(FIND_PAUSE_S)  # nobody had it: who is being linked with may want it
    if not receipt.route:
        _tell_unheard(topic, 1)
    stored = receipt.offset is not None
    if target.json:
        emit(
            {
                "topic": topic,
                "stream": str(receipt.stream) if stored else None,
                "offset": receipt.offset,
                "durability": receipt.durability,
                "route": receipt.route,
                "duplicate": receipt.duplicate,
            }
        )
    elif stored:
        say(f"published to {topic} at offset {receipt.offset}, {receipt.durability}")
    else:
        directly = " directly" if receipt.route == "direct" else ""
        if receipt.route:  # else it was said that nobody got it
            say(f"published to {topic}, {receipt.durability}{directly}")


def _tell_unheard(what: str, count: int) -> None:
    """Nobody wanted it: that is no failure, and may be a misspelt topic."""
    note(f"nobody listens to {what}, and it is not kept: {plural(count, 'record')} reached nobody")


def _publish_lines(
    target: Target,
    topic: str,
    router: LineRouter,
    name: str,
    skip: int,
    headers: dict[str, str] | None,
    rate: float | None,
    timeout: float,
) -> None:
    """Stream a file; at the end, however it comes, say what was published and confirmed."""
    with opened(name) as (stream, size), _connected_for_lines(target) as mesh:
        window = Window(mesh, partial(_publish_run, mesh, headers), timeout)
        start = time.monotonic()
        try:
            with LineProgress(size) as progress:
                for run in paced_runs(router, stream, skip, rate, progress):
                    window.publish(run)
                    progress.show(window.confirmed_count)
                window.settle()
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {counts(window, start)}") from None
        except (MeshError, CommandError):
            settle_rest(window)
            note(counts(window, start))
            raise
        seconds = max(time.monotonic() - start, 1e-9)
    if window.unheard_count:
        _tell_unheard(topic, window.unheard_count)
    if target.json:
        emit(
            {
                "published": window.published_count,
                "confirmed": window.confirmed_count,
                "unheard": window.unheard_count,
                "seconds": round(seconds, 6),
                "rate": round(window.confirmed_count / seconds, 1),
            }
        )
    else:
        note(counts(window, start))


@contextmanager
def _connected_for_lines(target: Target) -> Iterator[Mesh]:
    """As ``connected``; without a node it is linked with somebody, or has looked long enough."""
    begun = time.monotonic()
    with connected(target, on_state=StateTeller(), route="auto", works=True) as mesh:
        while mesh.state == "brokerless" and time.monotonic() - begun < FIND_S:
            if mesh.peers():
                break
            time.sleep(FIND_PAUSE_S)
        yield mesh


def _publish_run(mesh: Mesh, headers: dict[str, str] | None, run: Run) -> Any:
    if len(run.values) == 1:
        key = run.keys[0] if run.keys else None
        return mesh.publish(run.topic, run.values[0], key=key, headers=headers)
    return mesh.publish_many(run.topic, run.values, keys=run.keys, headers=headers)


def settle_rest(window: Window) -> None:
    """After an error: what went before may still be confirmed; the first error is told."""
    try:
        window.settle(within=2.0)
    except MeshError:
        pass


def counts(window: Window, start: float, verb: str = "published") -> str:
    """How far a window came since ``start``, in words."""
    done = f"{verb} {window.published_count:,}, confirmed {window.confirmed_count:,}"
    return f"{done} {pace(window, start)}"


def pace(window: Window, start: float) -> str:
    """How fast it came that far."""
    seconds = max(time.monotonic() - start, 1e-9)
    return f"in {seconds:.2f} s ({window.confirmed_count / seconds:,.0f} a second)"


def paced_runs(
    router: LineRouter, stream: BinaryIO, skip: int, rate: float | None, progress: LineProgress
) -> Iterator[Run]:
    """Runs of lines, slowed down to ``rate`` records a second if it is given."""
    due = time.monotonic()
    burst = max(1, int(rate / RATE_SLICES_A_SECOND)) if rate else 0
    for number, lines in read_blocks(stream, skip):
        for run in router.runs(number, lines):
            if rate is None:
                yield run
                continue
            for piece in run.pieces(burst):
                time.sleep(max(0.0, due - time.monotonic()))
                # An input that paused is not made up for with a flood.
                due = max(due, time.monotonic() - 1 / RATE_SLICES_A_SECOND)
                due += len(piece.values) / rate
                yield piece
        progress.add(sum(map(len, lines)) + len(lines))


@contextmanager
def opened(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The input and, where it is a file, its size in bytes."""
    if name == "-":
        yield sys.stdin.buffer, None
        return
    try:
        stream = Path(name).open("rb")  # noqa: SIM115  (only the opening is guarded)
    except OSError as error:
        raise CommandError(f"cannot read {name}: {error.strerror}") from None
    with stream:
        size = os.fstat(stream.fileno()).st_size
        yield stream, size or None
