"""Frames of services, requests and replies to Cap'n Proto and back; see codec.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames, limits
from meshmq.codec_checks import adds_up, bounded, short
from meshmq.errors import BadFrame


def _encode_serve(m: Any, b: frames.Serve) -> None:
    s = m.init("serve")
    s.registration, s.service, s.concurrency = b.registration, b.service, b.concurrency


def _decode_serve(r: Any, _: bytes | None) -> frames.Serve:
    s = r.serve
    return frames.Serve(s.registration, short(s.service), s.concurrency)


def _encode_served(m: Any, b: frames.Served) -> None:
    s = m.init("served")
    s.registration, s.code, s.message, s.ended = b.registration, b.code, b.message, b.ended


def _decode_served(r: Any, _: bytes | None) -> frames.Served:
    s = r.served
    return frames.Served(s.registration, short(s.code), s.message, s.ended)


def _encode_unserve(m: Any, b: frames.Unserve) -> None:
    m.init("unserve").registration = b.registration


def _decode_unserve(r: Any, _: bytes | None) -> frames.Unserve:
    return frames.Unserve(r.unserve.registration)


def _encode_request(m: Any, b: frames.Request) -> None:
    rows = m.init("request").init("rows", len(b.rows))
    for row, x in zip(rows, b.rows, strict=True):
        row.id, row.remaining, row.length = x.id, x.remaining_ns, x.length
        if x.registration:
            row.registration = x.registration
        if x.service:
            row.service = x.service
        if x.kind:
            row.kind = x.kind
        if x.idempotent:
            row.idempotent = True
        if x.window:
            row.window = x.window
        if x.headers:
            row.headers = x.headers


def _decode_request(r: Any, payload: bytes | None) -> frames.Request:
    rows = r.request.rows
    bounded(rows, "request")
    new = frames.RequestRow
    found = tuple(
        [
            new(
                x.id, x.registration, x.service, x.remaining, x.kind, x.idempotent, x.window,
                x.headers, x.length,
            )
            for x in rows
        ]
    )  # fmt: skip
    body = payload or b""
    adds_up(found, body)
    for row in found:
        short(row.service)
        if row.length > limits.VALUE_BYTES_MAX:
            raise BadFrame(f"request of {row.length} bytes exceeds {limits.VALUE_BYTES_MAX}")
        if len(row.headers) > limits.HEADER_BYTES_MAX:
            raise BadFrame(f"headers of {len(row.headers)} bytes in a request")
        if row.kind > frames.STREAM:
            raise BadFrame(f"request of unknown kind {row.kind}")
    return frames.Request(found, body)


def _encode_reply(m: Any, b: frames.Reply) -> None:
    rows = m.init("reply").init("rows", len(b.rows))
    for row, x in zip(rows, b.rows, strict=True):
        row.id, row.hasValue, row.end, row.length = x.id, x.has_value, x.end, x.length
        if x.code:
            row.code = x.code
        if x.message:
            row.message = x.message
        if x.detail:
            row.detail = x.detail
        if x.instance:
            row.instance = x.instance


def _decode_reply(r: Any, payload: bytes | None) -> frames.Reply:
    rows = r.reply.rows
    bounded(rows, "reply")
    new = frames.ReplyRow
    found = tuple(
        [
            new(x.id, x.hasValue, x.end, x.code, x.detail, x.message, x.instance, x.length)
            for x in rows
        ]
    )
    body = payload or b""
    adds_up(found, body)
    for row in found:
        short(row.code)
        short(row.detail)
        short(row.instance)
        if row.length > limits.VALUE_BYTES_MAX or (row.length and not row.has_value):
            raise BadFrame(f"reply of {row.length} bytes")
        if len(row.message) > limits.SERVICE_TEXT_MAX:
            raise BadFrame(f"reply with a message of {len(row.message)} characters")
    return frames.Reply(found, body)


def _encode_cancel(m: Any, b: frames.Cancel) -> None:
    m.init("cancel").ids = b.ids


def _decode_cancel(r: Any, _: bytes | None) -> frames.Cancel:
    ids = r.cancel.ids
    bounded(ids, "cancel")
    return frames.Cancel(tuple(ids))


def _encode_grant(m: Any, b: frames.Grant) -> None:
    g = m.init("grant")
    g.id, g.bytes = b.id, b.bytes


def _decode_grant(r: Any, _: bytes | None) -> frames.Grant:
    return frames.Grant(r.grant.id, r.grant.bytes)


ENCODERS: dict[type, Callable[..., None]] = {
    frames.Serve: _encode_serve,
    frames.Served: _encode_served,
    frames.Unserve: _encode_unserve,
    frames.Request: _encode_request,
    frames.Reply: _encode_reply,
    frames.Cancel: _encode_cancel,
    frames.Grant: _encode_grant,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "serve": _decode_serve,
    "served": _decode_served,
    "unserve": _decode_unserve,
    "request": _decode_request,
    "reply": _decode_reply,
    "cancel": _decode_cancel,
    "grant": _decode_grant,
}

WITH_PAYLOAD = frozenset({_decode_request, _decode_reply})
