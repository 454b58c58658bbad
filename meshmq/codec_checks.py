"""What every decoder of frames checks; see codec.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshmq import limits
from meshmq.errors import BadFrame
from meshmq.frames import Payload


def short(text: str) -> str:
    """A name, at most 255 characters."""
    if len(text) > limits.PEER_NAME_MAX:
        raise BadFrame(
            f"name of {len(text)} characters in a frame, the limit is {limits.PEER_NAME_MAX}"
        )
    return text


def in_log(*numbers: int) -> None:
    """Commits of a log, offsets of a stream, a producer's numbers, also those behind the last."""
    if max(numbers) > limits.LOG_NUMBER_MAX:
        raise BadFrame(f"a place at {max(numbers)} of a log, the last is {limits.LOG_NUMBER_MAX}")


def a_place(lsn: int, slot: int) -> tuple[int, int]:
    """A place of a log: one behind it is one too."""
    in_log(lsn)
    if slot > limits.LOG_SLOT_MAX:
        raise BadFrame(f"a place at slot {slot} of a commit, the last is {limits.LOG_SLOT_MAX}")
    return lsn, slot


def origin_of(data: bytes) -> bytes:
    """The identity of a log or a program's run: 16 bytes, or none."""
    if data and len(data) != 16:
        raise BadFrame(f"an identity of {len(data)} bytes in a frame, it has 16")
    return data


def bounded(rows: Any, kind: str) -> None:
    """Rows of a frame, at most FRAME_BATCHES_MAX."""
    if len(rows) > limits.FRAME_BATCHES_MAX:
        raise BadFrame(
            f"{kind} frame of {len(rows)} batches, the limit is {limits.FRAME_BATCHES_MAX}"
        )


def adds_up(batches: Sequence[Any], payload: Payload) -> None:
    """The lengths of batches must be that of the payload."""
    total = sum([batch.length for batch in batches])
    if total != len(payload):
        raise BadFrame(f"batches of {total} bytes in a payload of {len(payload)}")


def addresses(rows: Any) -> tuple[str, ...]:
    """Where a peer may be dialled, at most PEER_ADDRESSES_MAX."""
    if len(rows) > limits.PEER_ADDRESSES_MAX:
        raise BadFrame(f"{len(rows)} addresses, the limit is {limits.PEER_ADDRESSES_MAX}")
    return tuple([short(address) for address in rows])
