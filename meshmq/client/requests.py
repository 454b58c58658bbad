"""What both clients share of services: requests, replies, what a handler is given."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from meshmq import codec, limits
from meshmq.client.channel import Channel
from meshmq.client.values import check_route, check_value
from meshmq.core.requester import BY_NODE, Call, error_of
from meshmq.core.responder import Incoming
from meshmq.errors import (
    DeadlineExceeded,
    InstanceLost,
    InvalidArgument,
    LinkLost,
    MeshError,
    MessageTooLarge,
    NodeUnreachable,
    ServiceError,
)
from meshmq.frames import ONE, STREAM, ReplyRow
from meshmq.names import check_service

logger = logging.getLogger("meshmq")


class Reply(NamedTuple):
    """What a service answered.

    Attributes:
        value: its bytes.
        instance: the name of the program that answered (``connect(name=)``).
        error: of ``request_many`` only: why this instance has no value; else None.
        route: how it came: ``"direct"`` or ``"node"``.
    """

    value: bytes
    instance: str
    error: MeshError | None = None
    route: str = BY_NODE


class Question(Call):
    """A Call as a program makes it.

    Attributes:
        timeout: what it was asked with, in seconds.
        url: of the node.
    """

    __slots__ = ("timeout", "url")

    timeout: float
    url: str


def reply_of(call: Call, row: ReplyRow, data: bytes) -> Reply:
    """A row as the program sees it."""
    return Reply(data, row.instance, error_of(row) if row.code else None, call.way)


def call_of(
    channel: Channel,
    service: str,
    value: bytes,
    kind: int,
    timeout: float,
    headers: Mapping[str, str] | None,
    idempotent: bool,
    route: str,
) -> Question:
    """Check what a request was asked with."""
    check_service(service)
    value = check_value(value)
    coded = codec.encode_headers(headers) if headers else b""
    if not isinstance(idempotent, bool):
        raise InvalidArgument(f"idempotent is True or False, not {idempotent!r}")
    most = limits.REQUEST_TIMEOUT_NS_MAX // limits.SECOND
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= most:
        raise InvalidArgument(f"timeout is more than 0 and up to {most} seconds, not {timeout!r}")
    deadline_ns = channel.now_ns() + int(timeout * limits.SECOND)
    window = limits.STREAM_WINDOW_BYTES if kind == STREAM else 0
    pin = check_route(channel, route)
    question = Question(service, value, coded, kind, idempotent, deadline_ns, window, pin=pin)
    question.timeout, question.url = timeout, channel.url
    return question


def failure_told(call: Question) -> MeshError:
    """The error of a call that has one, as the program gets it. The node's timer and the client's
    own race for the deadline: whichever was first, it is said alike."""
    error = call.error
    assert error is not None
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded(
            f"{call.service!r} did not answer within {call.timeout:g} s; whether it was done is "
            f"unknown: allow more time with timeout= (--timeout)"
        )
    if isinstance(error, NodeUnreachable):
        return NodeUnreachable(f"{error} (the node's address is {call.url})")
    return error


class Replies(list[Reply]):
    """What ``request_many`` returns: a list of Reply.

    Attributes:
        deadline_exceeded: whether it ended at its deadline, before every instance had answered.
    """

    def __init__(self, replies: Iterable[Reply], deadline_exceeded: bool) -> None:
        super().__init__(replies)
        self.deadline_exceeded = deadline_exceeded


def result_of(call: Question) -> Reply:
    """The one reply of a call that is over; raises its error."""
    if call.error is not None:
        raise failure_told(call)
    if not call.replies:
        raise _unanswered(call)
    return reply_of(call, *call.replies[0])


def gathered(call: Question, most: int | None) -> Replies:
    """The replies of a request to all instances; raises its error, unless that is its deadline, or
    ``most`` have come."""
    found = [reply_of(call, row, data) for row, data in call.replies][:most]
    is_enough = most is not None and len(found) >= most
    is_late = isinstance(call.error, DeadlineExceeded) and not is_enough
    if call.error is not None and not (is_enough or is_late):
        raise failure_told(call)
    if not (found or is_late):
        raise _unanswered(call)
    return Replies(found, is_late)


def _unanswered(call: Call) -> LinkLost:
    return LinkLost(f"the wait for {call.service!r} was cut short; whether it was done is unknown")


def check_name(service: object, how: str) -> None:
    """Raise InvalidArgument, with how to write it, or InvalidName for what is no service's name."""
    if not isinstance(service, str):
        given = "a function" if callable(service) else f"{service!r}"
        raise InvalidArgument(f"{how}, not with {given} for it")
    check_service(service)


def check_most(max_replies: int | None) -> None:
    """Raise InvalidArgument for what ``request_many`` does not take."""
    if max_replies is None:
        return
    if isinstance(max_replies, bool) or not isinstance(max_replies, int) or max_replies < 1:
        raise InvalidArgument(f"max_replies is at least 1, or None, not {max_replies!r}")


class Request:
    """What a handler is given.

    Attributes:
        service: what was asked for.
        value: the request's bytes.
    """

    def __init__(self, incoming: Incoming, channel: Channel) -> None:
        self._incoming = incoming
        self._channel = channel
        self.service = incoming.registration.service
        self.value = incoming.data

    @cached_property
    def headers(self) -> dict[str, str]:
        """The request's headers, empty if it has none."""
        return codec.decode_headers(self._incoming.headers)

    @property
    def remaining(self) -> float:
        """Seconds until nobody waits for the reply any more, 0 if so."""
        if self.cancelled:
            return 0.0
        left = self._incoming.deadline_ns - self._channel.now_ns()
        return max(0.0, left / limits.SECOND)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more: it was cancelled, is too late, or the link
        was lost. A long handler looks now and then."""
        return bool(self._incoming.cancelled)

    def __repr__(self) -> str:
        return f"Request({self.service!r}, {len(self.value)} bytes, {self.remaining:.1f} s left)"


class NoAnswer(Exception):
    """What a handler returned, or yielded, is none; the text says what it did, in words."""


def failure_of(
    error: Exception, request: Request, handler: Callable[[Request], Any]
) -> ServiceError:
    """A handler's exception as the requester gets it: a code and a text, no traceback. What is
    not the service's own answer is logged."""
    if isinstance(error, ServiceError):
        return ServiceError(_sendable(error), _sendable(error.code))
    if isinstance(error, NoAnswer):
        which = f"the handler of {request.service!r}"
        logger.error("%s%s %s", which, _where(handler), error)
        return ServiceError(f"{which} {error}", "handler-failed")
    name, text = type(error).__name__, _sendable(error)
    logger.error(
        "the handler of %r failed with a request: %s: %s", request.service, name, text,
        exc_info=error,
    )  # fmt: skip
    return ServiceError(f"{name}: {text}" if text else name, "handler-failed")


def _sendable(what: object) -> str:
    """As text that can be sent: a code may be a number, texts about files may hold halves of
    characters, and an exception of the program's own may have no text at all."""
    try:
        return str(what).encode("utf-8", "backslashreplace").decode()
    except Exception as error:
        return f"its text cannot be told: {type(error).__name__}"


def _where(handler: Callable[[Request], Any]) -> str:
    """Name, file and line of a function, for its author; empty where there is none to see."""
    handler = inspect.unwrap(handler)
    code = getattr(handler, "__code__", None)
    if code is None:
        return ""
    return f" ({handler.__name__}, {os.path.basename(code.co_filename)}:{code.co_firstlineno})"


def instance_lost(service: str) -> InstanceLost:
    """What a requester is told whose handler was ended in the middle. Asked again by itself it is
    not, idempotent or not: it was this instance's answer."""
    return InstanceLost(
        f"the instance of {service!r} that had the request was stopped while it worked on it; "
        f"whether it was done is unknown"
    )


def answer_of(result: Any, did: str = "returned") -> bytes:
    """What a handler returned or yielded, as bytes; None is an empty value. Raises NoAnswer."""
    if result is None:
        return b""
    try:
        return check_value(result)
    except InvalidArgument:
        hint = ": encode it, text.encode()" if isinstance(result, str) else ""
        raise NoAnswer(f"{did} {type(result).__name__}, not bytes{hint}") from None
    except MessageTooLarge:
        raise NoAnswer(
            f"{did} {memoryview(result).nbytes:,} bytes, over the limit of "
            f"{limits.VALUE_BYTES_MAX:,} (1 MiB): a generator answers with a stream of smaller ones"
        ) from None


NO_STREAM = ServiceError("this service answers with a stream: ask with request_stream", "stream")


def takes_stream(incoming: Incoming) -> bool:
    """Whether its requester can take more than one reply."""
    return incoming.kind != ONE
