"""Frames of programs that move from node to node: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshmq import frames
from meshmq.codec_checks import bounded
from meshmq.codec_direct import decode_peers, encode_peers
from meshmq.errors import BadFrame
from meshmq.frames_moving import MOVED_BYTES


def encode_moved(p: Any, batches: Sequence[frames.PublishBatch]) -> None:
    """Of a publish: which of its batches were sent to another node before."""
    found = [(i, frames.moved_of(b.moved)) for i, b in enumerate(batches) if b.moved]
    if found:
        for row, (i, moved) in zip(p.init("moved", len(found)), found, strict=True):
            row.row, row.origin, row.first = i, moved.origin, moved.first


def decode_moved(
    p: Any, batches: tuple[frames.PublishBatch, ...]
) -> tuple[frames.PublishBatch, ...]:
    """Of a publish: its batches, with where they were sent before."""
    rows = p.moved
    if not len(rows):
        return batches
    found = list(batches)
    for x in _rows(rows, found, "publish"):
        origin = x.origin
        if len(origin) != 16 or not x.first:
            raise BadFrame("publish: a batch was moved from a node of 16 bytes, and a sequence")
        found[x.row] = found[x.row]._replace(moved=frames.Moved(origin, x.first).pack())
    return tuple(found)


def encode_published(d: Any, batches: Sequence[frames.DeliverBatch]) -> None:
    """Of a delivery: who published its batches, where that is told."""
    found = [(i, b.published) for i, b in enumerate(batches) if b.published is not None]
    if found:
        for row, (i, published) in zip(d.init("published", len(found)), found, strict=True):
            row.row = i
            row.producer, row.first, row.moved = published


def decode_published(
    d: Any, batches: tuple[frames.DeliverBatch, ...]
) -> tuple[frames.DeliverBatch, ...]:
    """Of a delivery: its batches, with who published them where that is told."""
    rows = d.published
    if not len(rows):
        return batches
    found = list(batches)
    for x in _rows(rows, found, "deliver"):
        producer, moved = x.producer, x.moved
        if len(producer) != 16 or len(moved) not in (0, MOVED_BYTES):
            raise BadFrame("deliver: a producer is named by 16 bytes, where it was by 24 or none")
        found[x.row] = found[x.row]._replace(published=frames.Published(producer, x.first, moved))
    return tuple(found)


def _rows(rows: Any, batches: list[Any], kind: str) -> Sequence[Any]:
    """Rows that name batches of their frame."""
    bounded(rows, kind)
    found = list(rows)
    if any(x.row >= len(batches) for x in found):
        raise BadFrame(f"{kind}: a row names a batch that is not there")
    return found


def _encode_drained(m: Any, b: frames.Drained) -> None:
    encode_peers(m.init("drained").init("peers", len(b.peers)), b.peers)


def _decode_drained(r: Any, _: bytes | None) -> frames.Drained:
    return frames.Drained(decode_peers(r.drained.peers, "drained"))


ENCODERS: dict[type, Callable[..., None]] = {frames.Drained: _encode_drained}

DECODERS: dict[str, Callable[..., Any]] = {"drained": _decode_drained}
