"""Frames about services between nodes of a site: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames
from meshmq.codec_checks import bounded, short
from meshmq.codec_copies import link_patterns


def _encode_offers(m: Any, b: frames.Offers) -> None:
    o = m.init("offers")
    o.version, o.whole, o.asks = b.version, b.whole, b.asks
    for row, x in zip(o.init("rows", len(b.rows)), b.rows, strict=True):
        row.number, row.instances, row.places = x.number, x.instances, x.places
        row.free, row.waiting = x.free, x.waiting
        if x.service:
            row.service = x.service
    if b.patterns:
        o.patterns = b.patterns


def _decode_offers(r: Any, _: bytes | None) -> frames.Offers:
    o = r.offers
    bounded(o.rows, "offers")
    new = frames.Offer
    rows = tuple(
        [new(x.number, short(x.service), x.instances, x.places, x.free, x.waiting) for x in o.rows]
    )
    return frames.Offers(o.version, o.whole, o.asks, rows, link_patterns(o.patterns))


ENCODERS: dict[type, Callable[..., None]] = {frames.Offers: _encode_offers}

DECODERS: dict[str, Callable[..., Any]] = {"offers": _decode_offers}
