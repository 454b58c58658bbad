"""Frames by which nodes of two sites compare a log: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames_verify, limits
from meshmq.codec_checks import in_log, short
from meshmq.errors import BadFrame


def _check(rows: Any, most: int, what: str) -> None:
    if len(rows) > most:
        raise BadFrame(f"{len(rows)} {what} in a frame, the limit is {most}")


def _exact(data: bytes, sizes: tuple[int, ...], what: str) -> bytes:
    if len(data) not in sizes:
        raise BadFrame(f"{what} has {len(data)} bytes")
    return data


def _encode_check(m: Any, b: frames_verify.CheckRange) -> None:
    c = m.init("checkRange")
    c.number, c.origin, c.topicId, c.first = b.number, b.origin, b.topic_id, b.first
    c.ends, c.batches = b.ends, b.batches


def _decode_check(r: Any, _: bytes | None) -> frames_verify.CheckRange:
    c = r.checkRange
    _check(c.ends, limits.VERIFY_SUMS_MAX, "sums")
    origin, topic_id = (
        _exact(c.origin, (16,), "an origin"),
        _exact(c.topicId, (16,), "a topic's id"),
    )
    in_log(c.first, *c.ends)
    return frames_verify.CheckRange(c.number, origin, topic_id, c.first, tuple(c.ends), c.batches)


def _encode_checked(m: Any, b: frames_verify.RangeChecked) -> None:
    c = m.init("rangeChecked")
    c.number, c.first, c.end, c.sums = b.number, b.first, b.end, b.sums
    for row, x in zip(c.init("batches", len(b.batches)), b.batches, strict=True):
        row.first, row.count, row.damaged, row.sum = x
    if b.code:
        c.code = b.code
    if b.message:
        c.message = b.message


def _decode_checked(r: Any, _: bytes | None) -> frames_verify.RangeChecked:
    c = r.rangeChecked
    _check(c.sums, limits.VERIFY_SUMS_MAX, "sums")
    _check(c.batches, limits.VERIFY_BATCHES_MAX, "batches")
    in_log(c.first, c.end)
    new = frames_verify.CheckedBatch
    size = limits.VERIFY_SUM_BYTES
    return frames_verify.RangeChecked(
        c.number, c.first, c.end,
        tuple([_exact(x, (size,), "a sum") for x in c.sums]),
        tuple([new(x.first, x.count, x.damaged, _exact(x.sum, (0, size), "a sum"))
               for x in c.batches]),
        short(c.code), c.message[:4096],
    )  # fmt: skip


ENCODERS: dict[type, Callable[..., None]] = {
    frames_verify.CheckRange: _encode_check,
    frames_verify.RangeChecked: _encode_checked,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "checkRange": _decode_check,
    "rangeChecked": _decode_checked,
}
