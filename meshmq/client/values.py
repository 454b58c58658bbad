"""Values, keys and sequences as programs give them: checked, and cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from meshmq import limits
from meshmq.core.requester import BY_NODE, DIRECTLY
from meshmq.errors import InvalidArgument, MessageTooLarge

if TYPE_CHECKING:
    from meshmq.client.channel import Channel

INT64_END = 1 << 63  # what frames have room for


def check_value(value: object) -> bytes:
    """Return a value as bytes; raise InvalidArgument or MessageTooLarge."""
    if not isinstance(value, bytes | bytearray | memoryview):
        hint = " (encode it: value.encode())" if isinstance(value, str) else ""
        raise InvalidArgument(f"a value is bytes, not {type(value).__name__}{hint}")
    value = bytes(value)
    if len(value) > limits.VALUE_BYTES_MAX:
        raise MessageTooLarge(
            f"value of {len(value)} bytes exceeds the limit of {limits.VALUE_BYTES_MAX} "
            f"(1 MiB): split it, or publish where it can be fetched from"
        )
    return value


def check_values(values: Sequence[bytes]) -> list[bytes]:
    """``check_value`` for many."""
    try:
        checked = values if isinstance(values, list) else list(values)
    except TypeError:
        raise InvalidArgument(f"values are a sequence of bytes, not {values!r}") from None
    if set(map(type, checked)) <= {bytes}:
        if checked and max(map(len, checked)) > limits.VALUE_BYTES_MAX:
            for value in checked:
                check_value(value)
        return checked
    return [check_value(value) for value in checked]


def is_text(text: str) -> bool:
    """Whether it can be sent: Python's strings may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_FOR_EVER_S = 1e9  # what waits has no room for much more: 31 years are taken as without end


def deadline_of(now: float, timeout: float | None) -> float | None:
    """When a wait that begins at ``now`` ends, in seconds; None: never."""
    if timeout is None:
        return None
    try:
        deadline = now + timeout
        if timeout < _FOR_EVER_S:
            return deadline
        if timeout >= _FOR_EVER_S:
            return None
    except TypeError:
        pass
    raise InvalidArgument(f"a timeout is a number of seconds, or None, not {timeout!r}")


def check_range(name: str, value: object, least: int, most: int) -> int:
    """Return ``value`` if it is a number in a range; raise InvalidArgument if not."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidArgument(f"{name} is {least}..{most}, not {value!r}")
    return value


def check_column(name: str, column: object, count: int) -> None:
    """Raise InvalidArgument for what is no column with one item for each of ``count`` values."""
    try:
        items = len(column)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(
            f"{name} are a sequence, one for each value, not {column!r}"
        ) from None
    if items != count:
        raise InvalidArgument(f"{items} {name} for {count} values")


def check_records(count: object) -> None:
    """Raise InvalidArgument for what no ``fetch`` takes as ``max_records``."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidArgument(f"max_records is at least 1, not {count!r}")


def check_seq(seq: object) -> None:
    """Raise InvalidArgument for what is no sequence number."""
    if isinstance(seq, bool) or not isinstance(seq, int) or not 1 <= seq < 1 << 62:
        raise InvalidArgument(f"seq is a number from 1, not {seq!r}")


def check_key(key: object) -> None:
    """Raise InvalidArgument or MessageTooLarge for what is no key."""
    if type(key) is not bytes:
        raise InvalidArgument(f"a key is bytes, not {type(key).__name__}")
    if len(key) > limits.KEY_BYTES_MAX:
        raise MessageTooLarge(
            f"key of {len(key)} bytes exceeds the limit of {limits.KEY_BYTES_MAX}"
        )


def slices(values: Sequence[bytes], batch_bytes: int) -> list[tuple[int, int]]:
    """Cut ``values`` into runs of about ``batch_bytes``."""
    slices: list[tuple[int, int]] = []
    begin, size = 0, 0
    for i, value in enumerate(values):
        more = len(value) + limits.RECORD_OVERHEAD_BYTES
        full = size + more > batch_bytes or i - begin == limits.BATCH_RECORDS_MAX
        if full and i > begin:
            slices.append((begin, i))
            begin, size = i, 0
        size += more
    if begin < len(values):
        slices.append((begin, len(values)))
    return slices


def check_route(channel: Channel, route: object) -> str:
    """The way that ``route`` names, empty for any; raises for one that this connection has not."""
    if route == "auto":
        return ""
    if route == "node":
        channel.check_node("route='node'")
        return BY_NODE
    if route != "direct":
        raise InvalidArgument(f"route is 'auto', 'node' or 'direct', not {route!r}")
    if not channel.addresses:
        raise InvalidArgument("this connection goes by the node (route='node'), nothing is direct")
    return DIRECTLY


def to_ns(time: datetime | int) -> int:
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise InvalidArgument("a time needs a time zone: datetime.now(timezone.utc)")
        found = int(time.timestamp() * 1_000_000) * 1000
    elif isinstance(time, int):
        found = int(time)
    else:
        raise InvalidArgument(
            f"a time is an aware datetime, or unix ns as time.time_ns() gives them, not {time!r}"
        )
    if not -INT64_END <= found < INT64_END:
        raise InvalidArgument(f"a time is in the years 1678 to 2261 (unix ns), not {time}")
    return found
