"""``meshmq request``: ask a service, one instance or all, and show what it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshmq.cli.boundary import CommandError
from meshmq.cli.direct import PeerOption, node_url
from meshmq.cli.messages import json_line
from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
    service_argument,
)
from meshmq.cli.output import json_bytes, note, plural, printable
from meshmq.cli.pub import headers_option
from meshmq.errors import DeadlineExceeded, MeshError, MessageTooLarge, ServiceError
from meshmq.limits import REQUEST_TIMEOUT_NS_MAX, SECOND, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from meshmq import Replies, Reply


def request(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The service to ask.")],
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="What to ask, as text; '-': standard input as it is."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="S",
            min=0.001,
            max=REQUEST_TIMEOUT_NS_MAX // SECOND,
            help="Seconds to wait for the answer; the service is told, and stops then.",
        ),
    ] = 5.0,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="Header of the request; repeatable."),
    ] = None,
    idempotent: Annotated[
        bool,
        typer.Option(
            "--idempotent",
            help="Doing it twice does no harm: another instance may be asked if one goes away.",
        ),
    ] = False,
    many: Annotated[
        bool,
        typer.Option("--many", help="Ask every instance; a line for each: its name, its answer."),
    ] = False,
    max_replies: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --many: N answers are enough."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show the values of a streamed answer as they come.")
    ] = False,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="A newline after each value; on a terminal there is one."),
    ] = False,
    url: UrlOption = None,
    peer: PeerOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Ask a service and show its answer, byte for byte.

    The exit code is 1 if nobody serves it, it answers with an error, or not
    in time. To try it, run meshmq serve hello --echo in another terminal,
    then meshmq request hello hi. Neither needs a node.
    """
    service = service_argument(service)
    _check_usage(idempotent, many, max_replies, stream, lines, json)
    options: dict[str, Any] = {"timeout": timeout, "headers": headers_option(header or [])}
    # A node that is there answers in a moment, however little time the service is given.
    wait = min(max(timeout, 1.0), 5.0)
    target = Target(node_url(url, peer), mesh, insecure, json, wait, tuple(peer or ()))
    show = _renderer(service, json, many, lines)
    try:
        with connected(target, route="auto", works=True) as connection:
            data = _value_of(value)
            if many:
                options["max_replies"] = max_replies
                _show_all(show, service, connection.request_many(service, data, **options), timeout)
            elif stream:
                with connection.request_stream(service, data, **options) as found:
                    _write(show, found)
            else:
                _write(show, [connection.request(service, data, idempotent=idempotent, **options)])
    except ServiceError as error:
        raise CommandError(_sentence(service, error)) from None


def _check_usage(
    idempotent: bool, many: bool, max_replies: int | None, stream: bool, lines: bool, json: bool
) -> None:
    """Options that contradict each other are wrong usage."""
    for is_wrong, sentence, hint in (
        (many and stream, "give either --many or --stream", "--stream"),
        (max_replies is not None and not many, "--max-replies goes with --many", "--max-replies"),
        (
            idempotent and (many or stream),
            "only a request with one answer is asked again",
            "--idempotent",
        ),
        (
            lines and (many or json),
            "--many and --json write lines anyway, without --lines",
            "--lines",
        ),
    ):
        if is_wrong:
            raise typer.BadParameter(sentence, param_hint=hint)


def _value_of(text: str | None) -> bytes:
    """What to ask: the argument, or standard input as far as it can be a value."""
    if text != "-":
        return os.fsencode(text or "")
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise MessageTooLarge(
            f"standard input has more than {VALUE_BYTES_MAX} bytes, the limit of one value"
        )
    return data


def _show_all(
    show: Callable[[Reply], bytes], service: str, replies: Replies, timeout: float
) -> None:
    _write(show, replies)
    if not replies:
        raise DeadlineExceeded(
            f"no instance of '{service}' answered within {timeout:g} s; whether it was "
            "done is unknown: allow more time with --timeout"
        )
    if replies.deadline_exceeded:
        count = plural(len(replies), "instance")
        note(f"{count} answered within {timeout:g} s, the others did not")
    _check_any(service, replies)


def _write(show: Callable[[Reply], bytes], replies: Iterable[Reply]) -> None:
    for reply in replies:
        sys.stdout.buffer.write(show(reply))
        sys.stdout.buffer.flush()


def _renderer(service: str, json: bool, many: bool, lines: bool) -> Callable[[Reply], bytes]:
    """What makes an answer's bytes on stdout."""
    if json:
        return lambda reply: json_line(_object(service, reply, many))
    if many:
        return _line
    if lines:
        return lambda reply: reply.value + b"\n"
    if sys.stdout.isatty():
        return lambda reply: reply.value + (b"" if reply.value.endswith(b"\n") else b"\n")
    return lambda reply: reply.value


def _object(service: str, reply: Reply, many: bool) -> dict[str, Any]:
    item = {"service": service, "instance": reply.instance, "value": json_bytes(reply.value)}
    if many:
        error = reply.error
        item |= {"error": None, "message": None}
        if error is not None:
            item |= {"value": None, "error": error.code, "message": str(error)}
    return item


def _line(reply: Reply) -> bytes:
    """One of many: whose it is, and its value, or its error. What a command answers ends with a
    newline, as a rule, and the line has its own."""
    value = printable(reply.value.removesuffix(b"\n"))
    shown = value if reply.error is None else f"[{_told(reply.error)}]"
    return f"{printable(reply.instance.encode())} {shown}\n".encode()


def _told(error: MeshError) -> str:
    """Code and text of an error. They can be a service's own words: they steer no terminal."""
    text = " ".join(f"{error.code}: {error}".split())
    return printable(text.encode("utf-8", "replace"))


def _sentence(service: str, error: ServiceError) -> str:
    from meshmq.client.requests import NO_STREAM

    if (error.code, str(error)) == (NO_STREAM.code, str(NO_STREAM)):
        return f"'{service}' answers with a stream: ask with --stream"
    return f"'{service}' answered with an error, {_told(error)}"


def _check_any(service: str, replies: list[Reply]) -> None:
    """Raise CommandError where every instance answered with an error."""
    if all(reply.error is not None for reply in replies):
        count = plural(len(replies), "instance")
        raise CommandError(f"no value from '{service}': {count} answered, with errors only")
