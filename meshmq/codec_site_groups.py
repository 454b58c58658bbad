"""Frames of groups across the nodes of a site: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames
from meshmq.codec_checks import bounded, origin_of, short
from meshmq.errors import BadFrame


def _encode_work_ready(m: Any, b: frames.WorkReady) -> None:
    for row, x in zip(m.init("workReady").init("rows", len(b.rows)), b.rows, strict=True):
        row.group, row.records = x


def _decode_work_ready(r: Any, _: bytes | None) -> frames.WorkReady:
    rows = r.workReady.rows
    bounded(rows, "workReady")
    return frames.WorkReady(tuple([frames.WorkReadyRow(short(x.group), x.records) for x in rows]))


def _encode_lend(m: Any, b: frames.Lend) -> None:
    x = m.init("lend")
    x.consumer, x.number, x.records, x.bytes = b.consumer, b.number, b.records, b.bytes
    x.alone, x.answer = b.alone, b.answer


def _decode_lend(r: Any, _: bytes | None) -> frames.Lend:
    x = r.lend
    return frames.Lend(x.consumer, x.number, x.records, x.bytes, x.alone, x.answer)


def _encode_lent(m: Any, b: frames.Lent) -> None:
    x = m.init("lent")
    x.consumer, x.number = b.consumer, b.number


def _decode_lent(r: Any, _: bytes | None) -> frames.Lent:
    return frames.Lent(r.lent.consumer, r.lent.number)


def _encode_owner(m: Any, b: frames.Owner) -> None:
    x = m.init("owner")
    x.consumer, x.origin, x.name, x.here, x.fenced = b.consumer, b.origin, b.name, b.here, b.fenced


def _decode_owner(r: Any, _: bytes | None) -> frames.Owner:
    x = r.owner
    origin = origin_of(x.origin)
    if not origin:
        raise BadFrame("owner: a node is named by 16 bytes")
    return frames.Owner(x.consumer, origin, short(x.name), x.here, x.fenced)


ENCODERS: dict[type, Callable[..., None]] = {
    frames.WorkReady: _encode_work_ready,
    frames.Lend: _encode_lend,
    frames.Lent: _encode_lent,
    frames.Owner: _encode_owner,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "workReady": _decode_work_ready,
    "lend": _decode_lend,
    "lent": _decode_lent,
    "owner": _decode_owner,
}
