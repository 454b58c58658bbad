"""Frames of groups, queues and transactions to Cap'n Proto and back; see codec.py."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from operator import lt
from typing import Any

from meshmq import frames, limits
from meshmq.codec_checks import adds_up, bounded, origin_of, short
from meshmq.errors import BadFrame


def _encode_consume(m: Any, b: frames.Consume) -> None:
    c = m.init("consume")
    c.consumer, c.group, c.pattern, c.create = b.consumer, b.group, b.pattern, b.create
    c.prefetchRecords, c.prefetchBytes = b.prefetch_records, b.prefetch_bytes
    c.ackTimeout = b.ack_timeout_ns
    rows = c.init("holdings", len(b.holdings))
    for row, holding in zip(rows, b.holdings, strict=True):
        row.number, row.topic, row.offsets, row.attempt = holding[:4]
        row.size = holding.size
        if holding.origin:
            row.origin = holding.origin
    if b.origin:
        c.origin = b.origin
    c.member, c.epoch = b.member, b.epoch
    if b.instance:
        c.instance = b.instance
    if b.name:
        c.name = b.name


def _decode_consume(r: Any, _: bytes | None) -> frames.Consume:
    c = r.consume
    create = c.create
    if len(create) > limits.COMMAND_BYTES_MAX:
        raise BadFrame(f"group settings of {len(create)} bytes")
    holdings = tuple(
        [
            frames.Holding(
                x.number, short(x.topic), tuple(x.offsets), x.attempt, origin_of(x.origin), x.size
            )
            for x in c.holdings
        ]
    )  # fmt: skip
    for holding in holdings:
        if len(holding.offsets) > limits.BATCH_RECORDS_MAX:
            raise BadFrame(f"consume: {len(holding.offsets)} records of one hand-out")
    return frames.Consume(
        c.consumer, short(c.group), short(c.pattern), create, c.prefetchRecords,
        c.prefetchBytes, c.ackTimeout, holdings, origin_of(c.origin), origin_of(c.instance),
        short(c.name), c.member, c.epoch,
    )  # fmt: skip


def _encode_consumed(m: Any, b: frames.Consumed) -> None:
    c = m.init("consumed")
    c.consumer, c.code, c.message, c.order, c.lost = (
        b.consumer, b.code, b.message, b.order, b.lost,
    )  # fmt: skip
    if b.origin:
        c.origin = b.origin
    c.shared = b.shared


def _decode_consumed(r: Any, _: bytes | None) -> frames.Consumed:
    c = r.consumed
    return frames.Consumed(
        c.consumer, short(c.code), c.message, c.order, tuple(c.lost), origin_of(c.origin), c.shared
    )


def _encode_hand_out(m: Any, b: frames.HandOut) -> None:
    d = m.init("handOut")
    d.consumer = b.consumer
    if b.origin:
        d.origin = b.origin
    rows = d.init("rows", len(b.rows))
    for row, x in zip(rows, b.rows, strict=True):
        row.topic, row.number, row.first, row.count, row.skip, row.held = x[:6]
        row.length, row.checksum, row.appendTime, row.lsn, row.slot, row.attempt = x[6:12]
        row.topicKey = x.topic_key
        if x.maybe_duplicate:
            row.maybeDuplicate = True
        if x.offsets:
            row.offsets = _pack_u64(x.offsets)


def _decode_hand_out(r: Any, payload: bytes | None) -> frames.HandOut:
    d = r.handOut
    rows = d.rows
    bounded(rows, "handOut")
    new = frames.HandOutRow
    found = tuple(
        [
            new(
                x.topic, x.number, x.first, x.count, x.skip, x.held, x.length, x.checksum,
                x.appendTime, x.lsn, x.slot, x.attempt, x.maybeDuplicate, _unpack_u64(x.offsets),
                x.topicKey,
            )
            for x in rows
        ]
    )  # fmt: skip
    body = payload or b""
    adds_up(found, body)
    for row in found:
        if not _adds_up(row):
            raise BadFrame(f"hand-out of {row.count} records of a batch of {row.held}")
    return frames.HandOut(d.consumer, found, body, origin_of(d.origin))


def _adds_up(row: frames.HandOutRow) -> bool:
    """Whether all that is handed out can be among what the bytes hold."""
    offsets = row.offsets
    if offsets and len(offsets) != row.count:
        return False
    if row.held == row.count:
        return True
    if not offsets:
        return row.skip + row.count <= row.held
    is_rising = offsets[0] == row.first and all(map(lt, offsets, offsets[1:]))
    return is_rising and row.skip + offsets[-1] - row.first < row.held


def _pack_u64(numbers: Sequence[int]) -> bytes:
    packed = array("Q", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack_u64(data: bytes) -> tuple[int, ...]:
    if not data:
        return ()
    packed = array("Q")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def _fill_settle_rows(rows: Any, found: Sequence[frames.SettleRow]) -> None:
    for row, x in zip(rows, found, strict=True):
        row.number, row.first, row.count, row.kind = x.number, x.first, x.count, x.kind
        if x.delay_ns:
            row.delay = x.delay_ns
        if x.reason:
            row.reason = x.reason


def _settle_rows(rows: Any) -> tuple[frames.SettleRow, ...]:
    bounded(rows, "settle")
    new = frames.SettleRow
    return tuple([new(x.number, x.first, x.count, x.kind, x.delay, x.reason) for x in rows])


def _encode_settle(m: Any, b: frames.Settle) -> None:
    s = m.init("settle")
    s.consumer, s.number = b.consumer, b.number
    if b.origin:
        s.origin = b.origin
    _fill_settle_rows(s.init("rows", len(b.rows)), b.rows)


def _decode_settle(r: Any, _: bytes | None) -> frames.Settle:
    s = r.settle
    rows = _settle_rows(s.rows)
    for row in rows:
        if row.kind > frames.RETURN or not row.count:
            raise BadFrame(f"settle row of kind {row.kind} and {row.count} records")
    return frames.Settle(s.consumer, s.number, rows, origin_of(s.origin))


def _encode_settled(m: Any, b: frames.Settled) -> None:
    s = m.init("settled")
    s.consumer, s.number = b.consumer, b.number
    if b.origin:
        s.origin = b.origin
    if b.stale:
        _fill_settle_rows(s.init("stale", len(b.stale)), b.stale)


def _decode_settled(r: Any, _: bytes | None) -> frames.Settled:
    s = r.settled
    return frames.Settled(s.consumer, s.number, _settle_rows(s.stale), origin_of(s.origin))


def _encode_revoke(m: Any, b: frames.Revoke) -> None:
    s = m.init("revoke")
    s.consumer = b.consumer
    if b.origin:
        s.origin = b.origin
    _fill_settle_rows(s.init("rows", len(b.rows)), b.rows)


def _decode_revoke(r: Any, _: bytes | None) -> frames.Revoke:
    s = r.revoke
    return frames.Revoke(s.consumer, _settle_rows(s.rows), origin_of(s.origin))


def _encode_leave(m: Any, b: frames.Leave) -> None:
    leave = m.init("leave")
    leave.consumer, leave.lost = b.consumer, b.lost


def _decode_leave(r: Any, _: bytes | None) -> frames.Leave:
    return frames.Leave(r.leave.consumer, r.leave.lost)


def _encode_transact(m: Any, b: frames.Transact) -> None:
    t = m.init("transact")
    t.id, t.tag = b.id, b.tag
    if b.origin:
        t.origin = b.origin
    if b.instance:
        t.instance = b.instance
    for row, ack in zip(t.init("acks", len(b.acks)), b.acks, strict=True):
        row.consumer, row.number, row.first, row.count = ack
    for row, batch in zip(t.init("batches", len(b.batches)), b.batches, strict=True):
        (
            row.topic, row.first, row.after, row.count, row.length, row.checksum, row.resent,
            row.job, row.numbered, row.routed, _, row.replicated, row.ofRun,
            row.mirrors,
        ) = batch  # fmt: skip


def _decode_transact(r: Any, payload: bytes | None) -> frames.Transact:
    t = r.transact
    acks, rows = t.acks, t.batches
    bounded(acks, "transact")
    bounded(rows, "transact")
    batches = tuple(
        [
            frames.PublishBatch(
                x.topic, x.first, x.after, x.count, x.length, x.checksum, x.resent, x.job,
                x.numbered, x.routed, b"", x.replicated, x.ofRun, x.mirrors,
            )
            for x in rows
        ]
    )  # fmt: skip
    body = payload or b""
    adds_up(batches, body)
    found = tuple([frames.TransactAck(x.consumer, x.number, x.first, x.count) for x in acks])
    return frames.Transact(
        t.id, found, batches, body, origin_of(t.origin), origin_of(t.instance), t.tag
    )


def _encode_transacted(m: Any, b: frames.Transacted) -> None:
    t = m.init("transacted")
    t.id, t.code, t.message, t.offsets = b.id, b.code, b.message, b.offsets
    t.topicKeys, t.tag = b.topic_keys, b.tag
    if b.origin:
        t.origin = b.origin


def _decode_transacted(r: Any, _: bytes | None) -> frames.Transacted:
    t = r.transacted
    return frames.Transacted(
        t.id, short(t.code), t.message, tuple(t.offsets), tuple(t.topicKeys), origin_of(t.origin),
        t.tag,
    )  # fmt: skip


ENCODERS: dict[type, Callable[..., None]] = {
    frames.Consume: _encode_consume,
    frames.Consumed: _encode_consumed,
    frames.HandOut: _encode_hand_out,
    frames.Settle: _encode_settle,
    frames.Settled: _encode_settled,
    frames.Revoke: _encode_revoke,
    frames.Leave: _encode_leave,
    frames.Transact: _encode_transact,
    frames.Transacted: _encode_transacted,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "consume": _decode_consume,
    "consumed": _decode_consumed,
    "handOut": _decode_hand_out,
    "settle": _decode_settle,
    "settled": _decode_settled,
    "revoke": _decode_revoke,
    "leave": _decode_leave,
    "transact": _decode_transact,
    "transacted": _decode_transacted,
}

WITH_PAYLOAD = frozenset({_decode_hand_out, _decode_transact})
