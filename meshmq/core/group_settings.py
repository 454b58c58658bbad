"""What people ask of groups and queues, checked: JSON objects to Settings."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from meshmq.core.bounds import BOUNDS, out_of_range
from meshmq.core.journal import ANY, GROUP, KEY, QUEUE, Settings
from meshmq.core.topics import Topic
from meshmq.errors import CommandFailed, GroupMismatch
from meshmq.names import check_group, check_pattern, check_topic, is_literal


class Start(NamedTuple):
    """Where a group begins: ``earliest``, ``new``, ``time`` (unix ns) or ``offset``."""

    name: str
    value: int = 0


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object; raise CommandFailed for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CommandFailed("the settings of a group are a JSON object")
    return found


def numbers(arguments: dict[str, Any]) -> dict[str, int]:
    """Those settings of ``arguments`` that are numbers, within their bounds."""
    found: dict[str, int] = {}
    for name, (low, high) in BOUNDS.items():
        value = arguments.get(name)
        if value is None:
            continue
        wrong = out_of_range(name, value, low, high)
        if wrong:
            raise CommandFailed(wrong)
        found[name] = value
    return found


def wanted(arguments: dict[str, Any]) -> Settings:
    """Settings of the group or queue that ``arguments`` describe."""
    kind = arguments.get("kind", GROUP)
    order = arguments.get("order", ANY)
    if kind not in (GROUP, QUEUE):
        raise CommandFailed(f"kind is {GROUP!r} or {QUEUE!r}, not {kind!r}")
    if order not in (ANY, KEY):
        raise CommandFailed(f"order is {ANY!r} or {KEY!r}, not {order!r}")
    name = check_group(arguments.get("group", ""), kind)
    pattern = name if kind == QUEUE else check_pattern(arguments.get("pattern", ""))
    if is_literal(pattern):
        check_topic(pattern)
    elif pattern.startswith("$"):
        raise CommandFailed(f"pattern {pattern!r}: names that begin with '$' are the mesh's own")
    return Settings(0, name, kind, pattern, order)._replace(**numbers(arguments))  # type: ignore[arg-type]


def check_same(found: Settings, asked: Settings, arguments: dict[str, Any]) -> None:
    """Raise GroupMismatch where a group is not what somebody takes it for; who does not say an
    order takes the one there is."""
    if found.kind != asked.kind:
        raise GroupMismatch(
            f"{found.name!r} is a {found.kind}, not a {asked.kind}: choose another name"
        )
    if found.pattern != asked.pattern:
        raise GroupMismatch(
            f"group {found.name!r} takes {found.pattern!r}, not {asked.pattern!r}: a group has one "
            f"pattern; choose another name, or delete the group first"
        )
    if "order" in arguments and found.order != asked.order:
        raise GroupMismatch(
            f"{found.kind} {found.name!r} has order {found.order!r}, not {asked.order!r}: join "
            f"it in its order, choose another name, or delete it first"
        )


def start_of(arguments: dict[str, Any], settings: Settings) -> Start:
    """Where a group begins to read; a queue has all its jobs."""
    start = arguments.get("start", "earliest")
    if settings.kind == QUEUE:
        if start != "earliest":
            raise CommandFailed("a queue has all its jobs: it takes no start")
        return Start("earliest")
    if start in ("earliest", "new"):
        return Start(start)
    if isinstance(start, dict) and len(start) == 1:
        ((name, value),) = start.items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
            if name == "time_ns":
                return Start("time", value)
            if name == "offset":
                if not is_literal(settings.pattern):
                    raise CommandFailed(
                        f"an offset belongs to one stream, {settings.pattern!r} may match many"
                    )
                return Start("offset", value)
    raise CommandFailed(
        f"start is 'earliest', 'new', {{'time_ns': n}} or {{'offset': n}}, not {start!r}"
    )


def check_queue_topic(topic: Topic | None, queue: str) -> None:
    """Raise CommandFailed where a topic cannot hold a queue's jobs."""
    if topic is not None and not topic.entry.durable:
        raise CommandFailed(
            f"topic {queue!r} exists and is transient: a queue keeps its jobs; delete the topic "
            f"first, or choose another name"
        )
