"""What both clients share of services: requests, replies, what a handler is given."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from meshmq import codec, limits
from meshmq.client.channel import Channel
from meshmq.client.values import check_value
from meshmq.core.requester import Call, error_of
from meshmq.core.responder import Incoming
from meshmq.errors import DeadlineExceeded, InvalidArgument, LinkLost, MeshError, ServiceError
from meshmq.frames import ONE, STREAM, ReplyRow
from meshmq.names import check_service

logger = logging.getLogger("meshmq")


class Reply(NamedTuple):
    """What a service answered.

    Attributes:
        value: its bytes.
        instance: the name of the program that answered (``connect(name=)``).
        error: of ``request_many`` only: why this instance has no value; else None.
    """

    value: bytes
    instance: str
    error: MeshError | None = None


def reply_of(row: ReplyRow, data: bytes) -> Reply:
    """A row as the program sees it."""
    return Reply(data, row.instance, error_of(row) if row.code else None)


def call_of(
    channel: Channel,
    service: str,
    value: bytes,
    kind: int,
    timeout: float,
    headers: Mapping[str, str] | None,
    idempotent: bool,
) -> Call:
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
    return Call(service, value, coded, kind, idempotent, deadline_ns, window)


class Replies(list[Reply]):
    """What ``request_many`` returns: a list of Reply.

    Attributes:
        deadline_exceeded: whether it ended at its deadline, before every instance had answered.
    """

    def __init__(self, replies: Iterable[Reply], deadline_exceeded: bool) -> None:
        super().__init__(replies)
        self.deadline_exceeded = deadline_exceeded


def result_of(call: Call) -> Reply:
    """The one reply of a call that is over; raises its error."""
    if call.error is not None:
        raise call.error
    if not call.replies:
        raise _unanswered(call)
    return reply_of(*call.replies[0])


def gathered(call: Call, most: int | None) -> Replies:
    """The replies of a request to all instances; raises its error, unless that is its deadline and
    some have come, or ``most`` have."""
    found = [reply_of(row, data) for row, data in call.replies][:most]
    is_enough = most is not None and len(found) >= most
    is_late = isinstance(call.error, DeadlineExceeded) and not is_enough
    if call.error is not None and not is_enough and not (is_late and found):
        raise call.error
    if not found:
        raise _unanswered(call)
    return Replies(found, is_late)


def _unanswered(call: Call) -> LinkLost:
    return LinkLost(f"the wait for {call.service!r} was cut short; whether it was done is unknown")


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


def failure_of(error: Exception, request: Request) -> ServiceError:
    """A handler's exception as the requester gets it: a code and a text, no traceback. What is
    not the service's own answer is logged."""
    if isinstance(error, ServiceError):
        return ServiceError(_sendable(error), _sendable(error.code))
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


def answer_of(result: Any) -> bytes:
    """What a handler returned, as bytes; None is an empty value."""
    return b"" if result is None else check_value(result)


NO_STREAM = ServiceError("this service answers with a stream: ask with request_stream", "stream")


def takes_stream(incoming: Incoming) -> bool:
    """Whether its requester can take more than one reply."""
    return incoming.kind != ONE
