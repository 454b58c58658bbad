"""Rows of requests and replies: as many in one frame as another end takes."""

from __future__ import annotations

import pytest

from meshmq import codec, limits
from meshmq.core.replies import replies
from meshmq.core.rows import for_frames, reply_bytes, request_bytes
from meshmq.frames import ONE, Envelope, Reply, ReplyRow, Request, RequestRow
from meshmq.limits import MIB


def request(data=b"", service="s", headers=b""):
    return RequestRow(1 << 60, 9, service, 1 << 60, ONE, True, 1 << 60, headers, len(data)), data


def reply(data=b"", **more):
    return ReplyRow(1 << 60, bool(data), True, length=len(data), **more), data


def test_rows_go_together_in_order_as_long_as_they_fit():
    assert list(for_frames([], reply_bytes)) == []
    assert list(for_frames([3, 4, 5], lambda n: n)) == [[3, 4, 5]]
    half = limits.FRAME_PAYLOAD_BYTES_TARGET // 2
    assert list(for_frames([half, half, 1], lambda n: n)) == [[half, half], [1]]
    assert list(for_frames([MIB, 1, MIB], lambda n: n)) == [[MIB], [1], [MIB]]
    many = list(for_frames(range(2500), lambda n: 1))
    assert [len(run) for run in many] == [1024, 1024, 452]
    assert [item for run in many for item in run] == list(range(2500))


LONG = "ü" * limits.PEER_NAME_MAX


@pytest.mark.parametrize(
    "item",
    [
        reply(bytes(100)),
        reply(code="x", detail=LONG, message="☃" * limits.SERVICE_TEXT_MAX, instance=LONG),
        reply(message="m" * limits.SERVICE_TEXT_MAX, detail="d" * 255),
        reply(code="service-error", message="\U0001f600" * limits.SERVICE_TEXT_MAX),
    ],
)
def test_no_reply_outgrows_what_it_is_counted_as(item):
    bodies = replies([item] * 3000)
    assert sum(len(body.rows) for body in bodies) == 3000
    for body in bodies:
        parts = codec.encode(Envelope(1 << 60, 1 << 60, 1 << 60, body))
        assert sum(map(len, parts)) <= len(body.rows) * reply_bytes(item) + 100
        assert isinstance(codec.decode(parts).body, Reply)


@pytest.mark.parametrize(
    "item",
    [
        request(bytes(100)),
        request(headers=bytes(limits.HEADER_BYTES_MAX)),
        request(service="☃" * 85),
        request(service="s" * 255, headers=b"h"),
    ],
)
def test_no_request_outgrows_what_it_is_counted_as(item):
    for run in for_frames([item] * 3000, request_bytes):
        body = Request(tuple(row for row, _ in run), b"".join(data for _, data in run))
        parts = codec.encode(Envelope(1 << 60, 1 << 60, 1 << 60, body))
        assert sum(map(len, parts)) <= len(run) * request_bytes(item) + 100
        assert isinstance(codec.decode(parts).body, Request)
