"""Frames between programs, and of the routes between them: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshmq import frames, limits
from meshmq.codec_checks import addresses, bounded, short
from meshmq.errors import BadFrame


def _encode_interests(m: Any, b: frames.Interests) -> None:
    i = m.init("interests")
    i.version, i.whole = b.version, b.whole
    for row, x in zip(i.init("add", len(b.add)), b.add, strict=True):
        row.number, row.kind, row.name, row.concurrency = x
    if b.remove:
        i.remove = b.remove
    if b.node:
        i.node = b.node


def _decode_interests(r: Any, _: bytes | None) -> frames.Interests:
    i = r.interests
    added, removed = i.add, i.remove
    if len(added) > limits.INTERESTS_MAX or len(removed) > limits.INTERESTS_MAX:
        raise BadFrame(f"more than {limits.INTERESTS_MAX} interests in a frame")
    add = tuple([frames.Interest(x.number, x.kind, short(x.name), x.concurrency) for x in added])
    return frames.Interests(i.version, i.whole, add, tuple(removed), i.node)


def _encode_noted(m: Any, b: frames.Noted) -> None:
    n = m.init("noted")
    n.version, n.whole, n.more = b.version, b.whole, b.more
    for row, noted in zip(n.init("rows", len(b.rows)), b.rows, strict=True):
        row.topic, row.next, row.unsure = noted


def _decode_noted(r: Any, _: bytes | None) -> frames.Noted:
    n = r.noted
    bounded(n.rows, "noted")
    rows = tuple([frames.NotedRow(short(x.topic), x.next, x.unsure) for x in n.rows])
    return frames.Noted(n.version, n.whole, rows, n.more)


def _encode_routes(m: Any, b: frames.Routes) -> None:
    r = m.init("routes")
    for name, routes in (("add", b.add), ("remove", b.remove)):
        for row, route in zip(r.init(name, len(routes)), routes, strict=True):
            row.instance, row.subscriptions = route


def _decode_routes(r: Any, _: bytes | None) -> frames.Routes:
    return frames.Routes(_routes(r.routes.add), _routes(r.routes.remove))


def _routes(rows: Any) -> tuple[frames.Route, ...]:
    bounded(rows, "routes")
    found = []
    for row in rows:
        instance, subscriptions = row.instance, row.subscriptions
        if len(instance) != 16:
            raise BadFrame("routes: a run of a program is named by 16 bytes")
        if len(subscriptions) > limits.INTERESTS_MAX:
            raise BadFrame(f"a route of more than {limits.INTERESTS_MAX} subscriptions")
        found.append(frames.Route(instance, tuple(subscriptions)))
    return tuple(found)


def _encode_wanted(m: Any, b: frames.Wanted) -> None:
    m.init("wanted").topics = b.topics


def _decode_wanted(r: Any, _: bytes | None) -> frames.Wanted:
    topics = r.wanted.topics
    bounded(topics, "wanted")
    return frames.Wanted(tuple([short(topic) for topic in topics]))


def _encode_introduce(m: Any, b: frames.Introduce) -> None:
    i = m.init("introduce")
    i.instance, i.name, i.lifetime = b.instance, b.name, b.lifetime_ns
    i.addresses, i.patterns, i.services = b.addresses, b.patterns, b.services


def _decode_introduce(r: Any, _: bytes | None) -> frames.Introduce:
    i = r.introduce
    instance = i.instance
    if len(instance) != 16:
        raise BadFrame("introduce: a run of a program is named by 16 bytes")
    bounded(i.patterns, "introduce")
    bounded(i.services, "introduce")
    return frames.Introduce(
        instance, short(i.name), addresses(i.addresses), tuple([short(x) for x in i.patterns]),
        tuple([short(x) for x in i.services]), i.lifetime,
    )  # fmt: skip


def encode_peers(rows: Any, peers: Sequence[frames.KnownPeer]) -> None:
    """Whom somebody tells of."""
    for row, x in zip(rows, peers, strict=True):
        row.instance, row.isNode, row.name, row.addresses = x


def decode_peers(rows: Any, kind: str) -> tuple[frames.KnownPeer, ...]:
    """Whom somebody tells of, in a frame of a kind."""
    bounded(rows, kind)
    found = []
    for x in rows:
        instance = x.instance
        if len(instance) != 16:
            raise BadFrame(f"{kind}: a peer is named by 16 bytes")
        found.append(frames.KnownPeer(instance, x.isNode, short(x.name), addresses(x.addresses)))
    return tuple(found)


def _encode_known(m: Any, b: frames.Known) -> None:
    known = m.init("known")
    encode_peers(known.init("peers", len(b.peers)), b.peers)
    known.more = b.more


def _decode_known(r: Any, _: bytes | None) -> frames.Known:
    return frames.Known(decode_peers(r.known.peers, "known"), r.known.more)


ENCODERS: dict[type, Callable[..., None]] = {
    frames.Interests: _encode_interests,
    frames.Noted: _encode_noted,
    frames.Routes: _encode_routes,
    frames.Wanted: _encode_wanted,
    frames.Introduce: _encode_introduce,
    frames.Known: _encode_known,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "interests": _decode_interests,
    "noted": _decode_noted,
    "routes": _decode_routes,
    "wanted": _decode_wanted,
    "introduce": _decode_introduce,
    "known": _decode_known,
}
