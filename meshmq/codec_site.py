"""Frames between the nodes of a site: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames, limits
from meshmq.codec_checks import addresses, bounded, short
from meshmq.errors import BadFrame


def encode_node(m: Any, facts: frames.NodeFacts | None) -> None:
    """Of a hello or a welcome."""
    if facts is None:
        return
    n = m.init("node")
    n.incarnation, n.site, n.isData = facts.incarnation, facts.site, facts.is_data
    if facts.clients:
        n.clients = facts.clients
    if facts.link_to:
        n.linkTo = facts.link_to


def decode_node(r: Any) -> frames.NodeFacts | None:
    """Of a hello or a welcome."""
    n = r.node
    if not n.incarnation:
        return None
    clients, link_to = addresses(n.clients), short(n.linkTo)
    return frames.NodeFacts(n.incarnation, short(n.site), clients, n.isData, link_to)


def _encode_site_interests(m: Any, b: frames.SiteInterests) -> None:
    i = m.init("siteInterests")
    i.whole, i.more, i.noted = b.whole, b.more, b.noted
    if b.add:
        i.add = b.add
    if b.remove:
        i.remove = b.remove


def _decode_site_interests(r: Any, _: bytes | None) -> frames.SiteInterests:
    i = r.siteInterests
    return frames.SiteInterests(i.whole, _patterns(i.add), _patterns(i.remove), i.more, i.noted)


def _patterns(rows: Any) -> tuple[str, ...]:
    if len(rows) > limits.SITE_PATTERNS_PER_FRAME:
        raise BadFrame(
            f"{len(rows)} patterns in a frame, the limit is {limits.SITE_PATTERNS_PER_FRAME}"
        )
    return tuple([short(pattern) for pattern in rows])


def _encode_pulse(m: Any, b: frames.Pulse) -> None:
    p = m.init("pulse")
    p.stamp, p.isAnswer = b.stamp, b.is_answer


def _decode_pulse(r: Any, _: bytes | None) -> frames.Pulse:
    return frames.Pulse(r.pulse.stamp, r.pulse.isAnswer)


def encode_places(m: Any, places: tuple[frames.Place, ...]) -> None:
    """Of a subscription."""
    if places:
        for row, place in zip(m.init("places", len(places)), places, strict=True):
            row.origin, row.lsn, row.slot = place.origin, place.lsn, place.slot
            row.direct = place.direct


def decode_places(r: Any) -> tuple[frames.Place, ...]:
    """Of a subscription."""
    rows = r.places
    if len(rows) > limits.PLACES_MAX:
        raise BadFrame(f"{len(rows)} places in logs, the limit is {limits.PLACES_MAX}")
    return tuple([frames.Place(_origin(x.origin), x.lsn, x.slot, 0, x.direct) for x in rows])


def _origin(origin: bytes) -> bytes:
    if len(origin) != 16:
        raise BadFrame("a log is named by 16 bytes")
    return origin


def check_origins(batches: tuple[frames.DeliverBatch, ...]) -> None:
    """Of a delivery: batches are of the node's own log, or say whose."""
    for batch in batches:
        if batch.origin:
            _origin(batch.origin)


def _encode_streams(m: Any, b: frames.Streams) -> None:
    s = m.init("streams")
    s.subscription = b.subscription
    for row, x in zip(s.init("rows", len(b.rows)), b.rows, strict=True):
        (
            row.origin, row.name, row.away, row.lsn, row.slot, row.direct, row.bytes, row.records,
            row.gone,
        ) = x  # fmt: skip


def _decode_streams(r: Any, _: bytes | None) -> frames.Streams:
    rows = r.streams.rows
    bounded(rows, "streams")
    return frames.Streams(
        r.streams.subscription,
        tuple(
            [
                frames.StreamsRow(
                    _origin(x.origin),
                    short(x.name),
                    x.away,
                    x.lsn,
                    x.slot,
                    x.direct,
                    x.bytes,
                    x.records,
                    x.gone,
                )
                for x in rows
            ]
        ),
    )


def _encode_directory(m: Any, b: frames.DirectoryFrame) -> None:
    d = m.init("directory")
    d.kind, d.data = b.kind, b.data


def _decode_directory(r: Any, _: bytes | None) -> frames.DirectoryFrame:
    data = r.directory.data
    if len(data) > limits.DIRECTORY_FRAME_BYTES_MAX:
        raise BadFrame(
            f"directory of {len(data)} bytes in a frame, the limit is "
            f"{limits.DIRECTORY_FRAME_BYTES_MAX}"
        )
    return frames.DirectoryFrame(r.directory.kind, data)


ENCODERS: dict[type, Callable[..., None]] = {
    frames.SiteInterests: _encode_site_interests,
    frames.Pulse: _encode_pulse,
    frames.Streams: _encode_streams,
    frames.DirectoryFrame: _encode_directory,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "siteInterests": _decode_site_interests,
    "pulse": _decode_pulse,
    "streams": _decode_streams,
    "directory": _decode_directory,
}
