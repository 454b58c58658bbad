"""Bytes to frames and batches, and back. A capnp reader never leaves this module.

Any bytes either decode or raise BadFrame, never another error. Readers alias the buffer they read
and some of their methods abort the process on malformed input, so fields are read once, one by
one, and copied into the dataclasses of ``frames``.

A frame is one or two ZeroMQ parts: the Frame message and, for publish and deliver, the batches.

Source: docs/protocol.md; ``schemas/frame.capnp`` and ``schemas/batch.capnp``.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from meshmq import (
    codec_copies,
    codec_direct,
    codec_groups,
    codec_lone,
    codec_moving,
    codec_offers,
    codec_services,
    codec_site,
    codec_site_groups,
    codec_site_words,
    codec_values,
    frames,
    limits,
    schema,
)
from meshmq.codec_checks import addresses, adds_up, bounded, short
from meshmq.codec_direct import decode_peers, encode_peers
from meshmq.codec_packing import pack, unpack
from meshmq.core.batches import BatchTools
from meshmq.errors import BadFrame, InvalidArgument, MessageTooLarge

_Frame = schema.load("frame").Frame
_Batch = schema.load("batch").Batch
_Job = schema.load("batch").Job
_Headers = schema.load("batch").Headers

checksum = zlib.crc32
"""CRC-32 of bytes, as carried beside every batch."""


# --- batches -------------------------------------------------------------------------------


class Records(NamedTuple):
    """A batch decoded: columns of equal length, or None where no record has that column."""

    values: Sequence[bytes]
    keys: Sequence[bytes] | None
    headers: Sequence[bytes] | None
    times: Sequence[int] | None
    time_ns: int


def encode_batch(
    values: Sequence[bytes],
    keys: Sequence[bytes] | None,
    headers: Sequence[bytes] | None,
    times: Sequence[int] | None,
    time_ns: int,
) -> bytes:
    """Encode records once, for the wire, the log and every copy.

    Args:
        values: 1..BATCH_RECORDS_MAX byte strings.
        keys: one a record (empty: no key), or None.
        headers: one encoded Headers message a record (empty: none), or None.
        times: one unix time in ns a record, or None if all have ``time_ns``.
        time_ns: unix time in ns.
    """
    if keys is None and headers is None and times is None:
        plain = codec_values.encode(values, time_ns)
        if plain is not None:
            return plain
    message = _Batch.new_message()
    _fill(message, values, keys, headers, times, time_ns)
    encoded: bytes = message.to_bytes()
    return encoded


def _fill(
    message: Any,
    values: Sequence[bytes],
    keys: Sequence[bytes] | None,
    headers: Sequence[bytes] | None,
    times: Sequence[int] | None,
    time_ns: int,
) -> None:
    message.values = values
    if keys is not None:
        message.keys = keys
    if headers is not None:
        message.headers = headers
    if times is not None:
        packed = array("q", times)
        if sys.byteorder == "big":
            packed.byteswap()
        message.times = packed.tobytes()
    message.time = time_ns


def decode_batch(data: bytes | memoryview, count: int) -> Records:
    """Decode a batch of ``count`` records; raise BadFrame if it is malformed."""
    plain = codec_values.decode(data, count)
    if plain is not None:
        return Records(plain[0], None, None, None, plain[1])
    data = bytes(data)  # of bytes this is no copy
    try:
        reader = schema.read(_Batch, data)
        raw = reader.values
        if len(raw) != count:
            raise BadFrame(f"batch holds {len(raw)} values, its header says {count}")
        values = list(raw)
        keys = _column(reader.keys, count, "keys")
        headers = _column(reader.headers, count, "headers")
        packed = reader.times
        time_ns = reader.time
    except schema.REFUSALS as error:
        raise BadFrame(f"malformed batch: {_reason(error)}") from None
    return Records(values, keys, headers, _times(packed, count), time_ns)


def decode_keys(data: bytes, count: int) -> Sequence[bytes]:
    """Only the keys of a batch of ``count`` records, empty if none has one; raise BadFrame."""
    if codec_values.is_plain(data, count):
        return ()
    try:
        return _column(schema.read(_Batch, data).keys, count, "keys") or ()
    except schema.REFUSALS as error:
        raise BadFrame(f"malformed batch: {_reason(error)}") from None


def check_batch(data: bytes, count: int) -> None:
    """Raise BadFrame unless ``decode_batch`` can read ``data`` as ``count`` records."""
    if codec_values.is_plain(data, count):
        return
    try:
        reader = schema.read(_Batch, data)
        raw = reader.values
        if len(raw) != count:
            raise BadFrame(f"batch holds {len(raw)} values, its header says {count}")
        largest = max(map(len, raw))
        for name, column, most in (
            ("keys", reader.keys, limits.KEY_BYTES_MAX),
            ("headers", reader.headers, limits.HEADER_BYTES_MAX),
        ):
            held = len(column)
            if held not in (0, count):
                raise BadFrame(f"batch holds {held} {name} for {count} values")
            if held and max(map(len, column)) > most:
                raise BadFrame(f"batch has {name} over the limit of {most} bytes")
        packed = len(reader.times)
    except schema.REFUSALS as error:
        raise BadFrame(f"malformed batch: {_reason(error)}") from None
    if largest > limits.VALUE_BYTES_MAX:
        raise BadFrame(f"value of {largest} bytes exceeds {limits.VALUE_BYTES_MAX}")
    if packed not in (0, 8 * count):
        raise BadFrame(f"batch holds {packed} bytes of times for {count} values")


class JobOptions(NamedTuple):
    """What the jobs of one batch share: see ``schemas/batch.capnp``. Times are unix ms, 0: none."""

    due_ms: int = 0
    expires_ms: int = 0
    priority: int = 0
    dedup: bytes = b""


def encode_jobs(
    values: Sequence[bytes],
    keys: Sequence[bytes] | None,
    headers: Sequence[bytes] | None,
    times: Sequence[int] | None,
    time_ns: int,
    options: JobOptions,
) -> bytes:
    """``encode_batch`` with the options of a queue's jobs."""
    message = _Job.new_message()
    _fill(message, values, keys, headers, times, time_ns)
    message.due, message.expires, message.priority, message.dedup = options
    encoded: bytes = message.to_bytes()
    return encoded


def job_options(data: bytes) -> JobOptions | None:
    """The options of a batch, or None if it has none (or is malformed: ``check_batch`` tells)."""
    segments = int.from_bytes(data[:4], "little")
    at = 8 + (segments + 1) // 2 * 8
    if int.from_bytes(data[at + 4 : at + 6], "little") <= 1:
        return None
    try:
        reader = schema.read(_Job, data)
        dedup = reader.dedup
        if len(dedup) not in (0, 16):
            return None
        return JobOptions(reader.due, reader.expires, min(reader.priority, 9), dedup)
    except schema.REFUSALS:
        return None


def pick_records(records: Records, indices: Sequence[int]) -> bytes:
    """Encode some records of a decoded batch as a batch of their own."""

    def some(column: Any) -> Any:
        return None if column is None else [column[i] for i in indices]

    return encode_batch(
        [records.values[i] for i in indices], some(records.keys), some(records.headers),
        some(records.times), records.time_ns,
    )  # fmt: skip


def _column(raw: Any, count: int, name: str) -> list[bytes] | None:
    held = len(raw)
    if held == 0:
        return None
    if held != count:
        raise BadFrame(f"batch holds {held} {name} for {count} values")
    return list(raw)


def _times(packed: bytes, count: int) -> Sequence[int] | None:
    if not packed:
        return None
    if len(packed) != 8 * count:
        raise BadFrame(f"batch holds {len(packed)} bytes of times for {count} values")
    times = array("q")
    times.frombytes(packed)
    if sys.byteorder == "big":
        times.byteswap()
    return times


def _reason(error: BaseException) -> str:
    """One line of what the reader said; its own message spans several and names C++ files."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Encode one record's headers: at most HEADER_COUNT_MAX pairs, HEADER_BYTES_MAX in all."""
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise InvalidArgument(f"headers are a mapping of str to str, not {headers!r}")
    encoded = encode_lineage(headers)
    if len(headers) > limits.HEADER_COUNT_MAX:
        raise MessageTooLarge(
            f"{len(headers)} headers on one record, the limit is {limits.HEADER_COUNT_MAX}"
        )
    if len(encoded) > limits.HEADER_BYTES_MAX:
        raise MessageTooLarge(
            f"headers of {len(encoded)} bytes exceed the limit of {limits.HEADER_BYTES_MAX}"
        )
    return encoded


def encode_lineage(headers: Mapping[str, str]) -> bytes:
    """Headers without a bound: a dead letter has its own ones besides the record's."""
    pairs: list[bytes] = []
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"headers are str to str, not {name!r}: {value!r}")
        try:
            pairs += (name.encode(), value.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"header {name!r}: {value!r} is not text: {error}") from None
    message = _Headers.new_message(pairs=pairs)
    encoded: bytes = message.to_bytes()
    return encoded


def decode_headers(data: bytes) -> dict[str, str]:
    """Read back ``encode_headers``; empty bytes are no headers. Raises BadFrame."""
    if not data:
        return {}
    try:
        pairs = list(schema.read(_Headers, data).pairs)
    except schema.REFUSALS as error:
        raise BadFrame(f"malformed headers: {_reason(error)}") from None
    try:
        return {
            name.decode(): value.decode("utf-8", "surrogateescape")
            for name, value in zip(pairs[::2], pairs[1::2], strict=True)
        }
    except ValueError as error:
        raise BadFrame(f"malformed headers: {error}") from None


TOOLS = BatchTools(
    check_batch, decode_batch, decode_keys, pick_records, encode_batch, job_options,
    encode_lineage, decode_headers, pack, unpack,
)  # fmt: skip
"""What a node's machines use of this module."""


# --- frames --------------------------------------------------------------------------------


def encode(envelope: frames.Envelope) -> list[bytes]:
    """Encode a frame to its ZeroMQ parts: the header, then the batches' bytes if it has any."""
    lone = codec_lone.encode(envelope)
    if lone is not None:
        return lone
    message = _Frame.new_message()
    message.session = envelope.session
    message.sequence = envelope.sequence
    message.ack = envelope.ack
    body = envelope.body
    _ENCODERS[type(body)](message, body)
    header: bytes = message.to_bytes()
    if isinstance(body, frames.WITH_PAYLOAD):
        return [header, bytes(body.payload)]
    return [header]


def decode(parts: Sequence[frames.Payload]) -> frames.Envelope:
    """Decode the ZeroMQ parts of one frame; raise BadFrame for anything malformed. Of a view only
    the payload of Deliver keeps one."""
    if not 1 <= len(parts) <= limits.FRAME_PARTS_MAX:
        raise BadFrame(f"frame of {len(parts)} parts, the limit is {limits.FRAME_PARTS_MAX}")
    header = bytes(parts[0])
    if len(header) > limits.FRAME_HEADER_BYTES_MAX:
        raise BadFrame(
            f"frame header of {len(header)} bytes exceeds {limits.FRAME_HEADER_BYTES_MAX}"
        )
    payload = parts[1] if len(parts) == 2 else None
    if payload is not None and len(payload) > limits.FRAME_PAYLOAD_BYTES_MAX:
        raise BadFrame(
            f"frame payload of {len(payload)} bytes exceeds {limits.FRAME_PAYLOAD_BYTES_MAX}"
        )
    lone = codec_lone.decode(header, payload)
    if lone is not None:
        return lone
    try:
        reader = schema.read(_Frame, header)
        kind = str(reader.which())
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise BadFrame(f"frame of unknown kind {kind}")
        if (payload is not None) != (decoder in _WITH_PAYLOAD):
            raise BadFrame(f"{kind} frame with {len(parts)} parts")
        if payload is not None and decoder is not _decode_deliver:
            payload = bytes(payload)
        body = decoder(reader, payload)
        return frames.Envelope(reader.session, reader.sequence, reader.ack, body)
    except schema.REFUSALS as error:
        raise BadFrame(f"malformed frame: {_reason(error)}") from None


def _encode_hello(m: Any, b: frames.Hello) -> None:
    h = m.init("hello")
    h.major, h.minor, h.mesh = b.major, b.minor, b.mesh
    h.instance, h.producer, h.name, h.software = b.instance, b.producer, b.name, b.software
    h.direct, h.reads, h.admin = b.direct, b.reads, b.admin
    if b.addresses:
        h.addresses = b.addresses
    codec_site.encode_node(h, b.node)


def _decode_hello(r: Any, _: bytes | None) -> frames.Hello:
    h = r.hello
    instance, producer = h.instance, h.producer
    if len(instance) != 16 or len(producer) != 16:
        raise BadFrame("hello: instance and producer are 16 bytes each")
    return frames.Hello(
        h.major, h.minor, short(h.mesh), instance, producer, short(h.name), short(h.software),
        h.direct, addresses(h.addresses), codec_site.decode_node(h), h.reads, h.admin,
    )  # fmt: skip


def _encode_welcome(m: Any, b: frames.Welcome) -> None:
    w = m.init("welcome")
    w.major, w.minor, w.origin, w.name = b.major, b.minor, b.origin, b.name
    w.software, w.inFlightBytes, w.direct = b.software, b.in_flight_bytes, b.direct
    if b.addresses:
        w.addresses = b.addresses
    codec_site.encode_node(w, b.node)
    if b.site:
        w.site = b.site


def _decode_welcome(r: Any, _: bytes | None) -> frames.Welcome:
    w = r.welcome
    origin = w.origin
    if len(origin) != 16:
        raise BadFrame("welcome: the origin is 16 bytes")
    return frames.Welcome(
        w.major, w.minor, origin, short(w.name), short(w.software), w.inFlightBytes, w.direct,
        addresses(w.addresses), codec_site.decode_node(w), short(w.site),
    )  # fmt: skip


def _encode_refuse(m: Any, b: frames.Refuse) -> None:
    m.init("refuse").code = b.code
    m.refuse.message = b.message
    if b.peers:
        encode_peers(m.refuse.init("peers", len(b.peers)), b.peers)


def _decode_refuse(r: Any, _: bytes | None) -> frames.Refuse:
    told = r.refuse
    return frames.Refuse(short(told.code), told.message[:4096], decode_peers(told.peers, "refuse"))


def _encode_publish(m: Any, b: frames.Publish) -> None:
    p = m.init("publish")
    rows = p.init("batches", len(b.batches))
    for row, batch in zip(rows, b.batches, strict=True):
        (
            row.topic, row.first, row.after, row.count, row.length, row.checksum, row.resent,
            row.job, row.numbered, row.routed, _, row.replicated, row.ofRun,
            row.mirrors,
        ) = batch  # fmt: skip
    codec_moving.encode_moved(p, b.batches)


def _decode_publish(r: Any, payload: bytes | None) -> frames.Publish:
    rows = r.publish.batches
    bounded(rows, "publish")
    new = frames.PublishBatch
    batches = tuple(
        [
            new(
                x.topic, x.first, x.after, x.count, x.length, x.checksum, x.resent, x.job,
                x.numbered, x.routed, b"", x.replicated, x.ofRun, x.mirrors,
            )
            for x in rows
        ]
    )  # fmt: skip
    body = payload or b""
    adds_up(batches, body)
    for batch in batches:
        if not 1 <= batch.count <= limits.BATCH_RECORDS_MAX:
            raise BadFrame(f"batch of {batch.count} records (1..{limits.BATCH_RECORDS_MAX})")
        if not batch.after < batch.first:
            raise BadFrame("a batch follows an earlier sequence than its first")
    return frames.Publish(codec_moving.decode_moved(r.publish, batches), body)


def _encode_confirm(m: Any, b: frames.Confirm) -> None:
    rows = m.init("confirm").init("confirmations", len(b.confirmations))
    for row, c in zip(rows, b.confirmations, strict=True):
        row.topic, row.first, row.count = c.topic, c.first, c.count
        if c.code:
            row.code = c.code
        if c.message:
            row.message = c.message
        row.baseOffset, row.appendTime, row.topicId = c.base_offset, c.append_time_ns, c.topic_id
        row.durability, row.last = c.durability, c.last
        row.duplicate, row.hasOffset, row.unwanted = c.duplicate, c.has_offset, c.unwanted
        row.more = c.more


def _decode_confirm(r: Any, _: bytes | None) -> frames.Confirm:
    rows = r.confirm.confirmations
    bounded(rows, "confirm")
    new = frames.Confirmation
    return frames.Confirm(
        tuple(
            [
                new(
                    x.topic, x.first, x.count, x.code, x.message, x.baseOffset, x.appendTime,
                    x.topicId, x.durability, x.last, x.duplicate, x.hasOffset, x.unwanted,
                    more=x.more,
                )
                for x in rows
            ]
        )
    )  # fmt: skip


def _encode_subscribe(m: Any, b: frames.Subscribe) -> None:
    s = m.init("subscribe")
    s.subscription, s.pattern, s.start, s.value = b.subscription, b.pattern, b.start, b.value
    s.origin, s.lsn, s.slot = b.origin, b.lsn, b.slot
    s.creditBytes, s.creditRecords, s.only = b.credit_bytes, b.credit_records, b.only
    s.dedup, s.alone, s.ownSite = b.dedup, b.alone, b.own_site
    codec_site.encode_places(s, b.places)
    if b.copy_of:
        s.copyOf = b.copy_of


def _decode_subscribe(r: Any, _: bytes | None) -> frames.Subscribe:
    s = r.subscribe
    return frames.Subscribe(
        s.subscription, s.pattern, s.start, s.value, s.origin, s.lsn, s.slot,
        s.creditBytes, s.creditRecords, s.only, codec_site.decode_places(s), s.dedup, s.copyOf,
        s.alone, s.ownSite,
    )  # fmt: skip


def _encode_subscribed(m: Any, b: frames.Subscribed) -> None:
    s = m.init("subscribed")
    s.subscription, s.code, s.message, s.origin = b.subscription, b.code, b.message, b.origin
    s.lsn, s.slot, s.topics, s.time = b.lsn, b.slot, b.topics, b.time_ns


def _decode_subscribed(r: Any, _: bytes | None) -> frames.Subscribed:
    s = r.subscribed
    return frames.Subscribed(
        s.subscription, s.code, s.message, s.origin, s.lsn, s.slot, s.topics, s.time
    )


def _encode_unsubscribe(m: Any, b: frames.Unsubscribe) -> None:
    m.init("unsubscribe").subscription = b.subscription


def _decode_unsubscribe(r: Any, _: bytes | None) -> frames.Unsubscribe:
    return frames.Unsubscribe(r.unsubscribe.subscription)


def _encode_credit(m: Any, b: frames.Credit) -> None:
    c = m.init("credit")
    c.subscription, c.bytes, c.records = b.subscription, b.bytes, b.records


def _decode_credit(r: Any, _: bytes | None) -> frames.Credit:
    return frames.Credit(r.credit.subscription, r.credit.bytes, r.credit.records)


def _encode_deliver(m: Any, b: frames.Deliver) -> None:
    d = m.init("deliver")
    d.subscription = b.subscription
    if b.missed:
        d.missed = b.missed
    rows = d.init("batches", len(b.batches))
    for row, x in zip(rows, b.batches, strict=True):
        row.topic, row.baseOffset, row.count, row.length = x[0], x[1], x[2], x[3]
        row.checksum, row.appendTime, row.lsn, row.slot = x[4], x[5], x[6], x[7]
        if x.damaged:
            row.damaged = True
        if x.missing:
            row.missing = True
        if x.source:
            row.source = x.source
        if x.origin:
            row.origin = x.origin
        if x.site:
            row.site = x.site
    codec_moving.encode_published(d, b.batches)


def _decode_deliver(r: Any, payload: frames.Payload | None) -> frames.Deliver:
    d = r.deliver
    rows = d.batches
    bounded(rows, "deliver")
    new = frames.DeliverBatch
    batches = tuple(
        [
            new(
                x.topic, x.baseOffset, x.count, x.length, x.checksum, x.appendTime, x.lsn,
                x.slot, x.damaged, x.missing, x.source, x.origin, None, short(x.site),
            )
            for x in rows
        ]
    )  # fmt: skip
    body = payload or b""
    adds_up(batches, body)
    codec_site.check_origins(batches)
    batches = codec_moving.decode_published(d, batches)
    return frames.Deliver(d.subscription, batches, d.missed, body)


def _encode_command(m: Any, b: frames.Command) -> None:
    c = m.init("command")
    c.id, c.verb, c.arguments = b.id, b.verb, b.arguments


def _decode_command(r: Any, _: bytes | None) -> frames.Command:
    c = r.command
    arguments = c.arguments
    if len(arguments) > limits.COMMAND_BYTES_MAX:
        raise BadFrame(f"command of {len(arguments)} bytes exceeds {limits.COMMAND_BYTES_MAX}")
    return frames.Command(c.id, short(c.verb), arguments)


def _encode_result(m: Any, b: frames.Result) -> None:
    x = m.init("result")
    x.id, x.code, x.message, x.body = b.id, b.code, b.message, b.body


def _decode_result(r: Any, _: bytes | None) -> frames.Result:
    x = r.result
    return frames.Result(x.id, x.code, x.message, x.body)


def _encode_window(m: Any, b: frames.Window) -> None:
    w = m.init("window")
    w.inFlightBytes, w.pause = b.in_flight_bytes, b.pause_ns


def _decode_window(r: Any, _: bytes | None) -> frames.Window:
    w = r.window
    return frames.Window(w.inFlightBytes, w.pause)


def _void(name: str, body: type) -> tuple[Callable[..., None], Callable[..., Any]]:
    return (lambda m, b: setattr(m, name, None)), (lambda r, p: body())


_VOID: dict[str, type] = {
    "nothing": frames.Nothing,
    "gap": frames.Gap,
    "ping": frames.Ping,
    "bye": frames.Bye,
}

_ENCODERS: dict[type, Callable[..., None]] = {
    frames.Hello: _encode_hello,
    frames.Welcome: _encode_welcome,
    frames.Refuse: _encode_refuse,
    frames.Publish: _encode_publish,
    frames.Confirm: _encode_confirm,
    frames.Subscribe: _encode_subscribe,
    frames.Subscribed: _encode_subscribed,
    frames.Unsubscribe: _encode_unsubscribe,
    frames.Credit: _encode_credit,
    frames.Deliver: _encode_deliver,
    frames.Command: _encode_command,
    frames.Result: _encode_result,
    frames.Window: _encode_window,
    **{body: _void(name, body)[0] for name, body in _VOID.items()},
    **codec_groups.ENCODERS,
    **codec_services.ENCODERS,
    **codec_offers.ENCODERS,
    **codec_direct.ENCODERS,
    **codec_site.ENCODERS,
    **codec_copies.ENCODERS,
    **codec_site_words.ENCODERS,
    **codec_site_groups.ENCODERS,
    **codec_moving.ENCODERS,
}

_DECODERS: dict[str, Callable[..., Any]] = {
    "hello": _decode_hello,
    "welcome": _decode_welcome,
    "refuse": _decode_refuse,
    "publish": _decode_publish,
    "confirm": _decode_confirm,
    "subscribe": _decode_subscribe,
    "subscribed": _decode_subscribed,
    "unsubscribe": _decode_unsubscribe,
    "credit": _decode_credit,
    "deliver": _decode_deliver,
    "command": _decode_command,
    "result": _decode_result,
    "window": _decode_window,
    **{name: _void(name, body)[1] for name, body in _VOID.items()},
    **codec_groups.DECODERS,
    **codec_services.DECODERS,
    **codec_offers.DECODERS,
    **codec_direct.DECODERS,
    **codec_site.DECODERS,
    **codec_copies.DECODERS,
    **codec_site_words.DECODERS,
    **codec_site_groups.DECODERS,
    **codec_moving.DECODERS,
}
_WITH_PAYLOAD = (
    frozenset({_decode_publish, _decode_deliver})
    | codec_groups.WITH_PAYLOAD
    | codec_services.WITH_PAYLOAD
    | codec_copies.WITH_PAYLOAD
)
