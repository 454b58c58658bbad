"""Frames between programs that have no node: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames, limits
from meshmq.codec_checks import bounded, short
from meshmq.errors import BadFrame


def _encode_interests(m: Any, b: frames.Interests) -> None:
    i = m.init("interests")
    i.version, i.whole = b.version, b.whole
    for row, x in zip(i.init("add", len(b.add)), b.add, strict=True):
        row.number, row.kind, row.name, row.concurrency = x
    if b.remove:
        i.remove = b.remove


def _decode_interests(r: Any, _: bytes | None) -> frames.Interests:
    i = r.interests
    added, removed = i.add, i.remove
    if len(added) > limits.INTERESTS_MAX or len(removed) > limits.INTERESTS_MAX:
        raise BadFrame(f"more than {limits.INTERESTS_MAX} interests in a frame")
    add = tuple([frames.Interest(x.number, x.kind, short(x.name), x.concurrency) for x in added])
    return frames.Interests(i.version, i.whole, add, tuple(removed))


def _encode_noted(m: Any, b: frames.Noted) -> None:
    n = m.init("noted")
    n.version, n.whole, n.more = b.version, b.whole, b.more
    for row, (topic, number) in zip(n.init("rows", len(b.rows)), b.rows, strict=True):
        row.topic, row.next = topic, number


def _decode_noted(r: Any, _: bytes | None) -> frames.Noted:
    n = r.noted
    bounded(n.rows, "noted")
    rows = tuple([(short(x.topic), x.next) for x in n.rows])
    return frames.Noted(n.version, n.whole, rows, n.more)


ENCODERS: dict[type, Callable[..., None]] = {
    frames.Interests: _encode_interests,
    frames.Noted: _encode_noted,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "interests": _decode_interests,
    "noted": _decode_noted,
}
