"""How records look on stdout: a line to read, the bare value, or a JSON object."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from meshmq.cli.output import json_bytes, printable

if TYPE_CHECKING:
    from meshmq import Job, Message


class Format(StrEnum):
    """How a message looks on stdout."""

    text = "text"
    raw = "raw"


def renderer(output: Format, json: bool, of_message: Any = None) -> Callable[[Any], bytes]:
    """What makes a message's line. ``of_message`` gives its JSON object, else it is plain."""
    if json:
        describe = of_message or message_object
        return lambda message: json_line(describe(message))
    if output is Format.raw:
        return _raw_line
    return _job_line if of_message is job_object else _text_line


def message_object(message: Message) -> dict[str, Any]:
    """A message as an object."""
    return {**_columns(message), "site": message.site}


def _columns(message: Message | Job) -> dict[str, Any]:
    position = message.position if message.offset is not None else None
    return {
        "topic": message.topic,
        "offset": message.offset,
        "key": json_bytes(message.key),
        "value": json_bytes(message.value),
        "headers": message.headers,
        "timestamp": message.timestamp.isoformat(),
        "position": str(position) if position is not None else None,
    }


def record_object(job: Job) -> dict[str, Any]:
    """A record that a group handed out, as an object."""
    return {
        **_columns(job),
        "attempt": job.attempt,
        "maybe_duplicate": job.maybe_duplicate,
    }


def job_object(job: Job) -> dict[str, Any]:
    """A queue's job as an object."""
    return {
        "queue": job.topic,
        "job": job.job_id,
        "key": json_bytes(job.key),
        "value": json_bytes(job.value),
        "headers": job.headers,
        "timestamp": job.timestamp.isoformat(),
        "attempt": job.attempt,
        "maybe_duplicate": job.maybe_duplicate,
    }


def _text_line(message: Message) -> bytes:
    offset = "" if message.offset is None else f" #{message.offset}"
    key = "" if message.key is None else f" [{printable(message.key)}]"
    return f"{message.topic}{offset}{key} {printable(message.value)}\n".encode()


def _job_line(job: Job) -> bytes:
    """Without the offset: it counts in the job's lane, and says nothing of the order."""
    key = "" if job.key is None else f" [{printable(job.key)}]"
    again = "" if job.attempt == 1 else f" (attempt {job.attempt})"
    return f"{job.topic}{key} {printable(job.value)}{again}\n".encode()


def _raw_line(message: Message) -> bytes:
    return bytes(message.value) + b"\n"


def json_line(item: dict[str, Any]) -> bytes:
    """An object as bytes for stdout."""
    import json

    return json.dumps(item, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
