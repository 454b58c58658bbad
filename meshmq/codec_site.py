"""Frames between the nodes of a site: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames, limits
from meshmq.codec_checks import addresses, short
from meshmq.errors import BadFrame


def encode_node(m: Any, facts: frames.NodeFacts | None) -> None:
    """Of a hello or a welcome."""
    if facts is None:
        return
    n = m.init("node")
    n.incarnation, n.site, n.isData = facts.incarnation, facts.site, facts.is_data
    if facts.clients:
        n.clients = facts.clients


def decode_node(r: Any) -> frames.NodeFacts | None:
    """Of a hello or a welcome."""
    n = r.node
    if not n.incarnation:
        return None
    return frames.NodeFacts(n.incarnation, short(n.site), addresses(n.clients), n.isData)


def _encode_site_interests(m: Any, b: frames.SiteInterests) -> None:
    i = m.init("siteInterests")
    i.whole, i.more = b.whole, b.more
    if b.add:
        i.add = b.add
    if b.remove:
        i.remove = b.remove


def _decode_site_interests(r: Any, _: bytes | None) -> frames.SiteInterests:
    i = r.siteInterests
    return frames.SiteInterests(i.whole, _patterns(i.add), _patterns(i.remove), i.more)


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


ENCODERS: dict[type, Callable[..., None]] = {
    frames.SiteInterests: _encode_site_interests,
    frames.Pulse: _encode_pulse,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "siteInterests": _decode_site_interests,
    "pulse": _decode_pulse,
}
