"""Frames of one row or none, read and written without capnp's machinery; requests
and replies also many to a frame.

Lone messages pay for a frame's header each; for them pycapnp costs ten times what this does. So do
requests, of which each is a row. The
bytes are the same (tests hold the two against each other): a frame that does not have exactly the
shape that our own encoder gives is left to the general path, which returns None here.

A shape is a run of 64-bit words: pointers, which are constants but for the length of a topic, and
data. See the encoding's specification for what the pointers mean.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from meshmq import limits
from meshmq.frames import (
    Body,
    Confirm,
    Confirmation,
    Credit,
    Deliver,
    DeliverBatch,
    Envelope,
    Nothing,
    Payload,
    Ping,
    Publish,
    PublishBatch,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
)


def _struct_at(offset: int, data_words: int, pointers: int) -> int:
    return offset << 2 | data_words << 32 | pointers << 48


def list_at(offset: int, element: int, size: int) -> int:
    """The pointer to a list that begins ``offset`` words behind it."""
    return offset << 2 | 1 | (element | size << 3) << 32


BYTES, POINTERS, STRUCTS = 2, 6, 7  # how lists name the size of their elements
_ROOT = _struct_at(0, 4, 1)
_TAGS = {Nothing: 0, Ping: 4, Publish: 6, Confirm: 7, Credit: 11, Deliver: 12}
_FRAME = "<QQQQQQ"  # segment, root, session, sequence, ack, kind
_LOW32 = 0xFFFF_FFFF

_EMPTY = Struct(_FRAME + "Q")
_PUBLISH = Struct(_FRAME + "QQQQ" + "QQIIIIQ")
_PUBLISH_SHAPE = (_struct_at(0, 0, 2), list_at(1, STRUCTS, 5), 0, 1 << 2 | _struct_at(0, 4, 1))
_DELIVER = Struct(_FRAME + "QQQQQQ" + "QIIIIqQQQQQQ")
_DELIVER_SHAPE = (_struct_at(0, 2, 2), list_at(1, STRUCTS, 10), 0, 1 << 2 | _struct_at(0, 6, 4))
_CONFIRM = Struct(_FRAME + "QQQ" + "QIBBxxQqQQQQQ")
_CONFIRM_SHAPE = (_struct_at(0, 0, 1), list_at(0, STRUCTS, 9), 1 << 2 | _struct_at(0, 5, 4))
_CREDIT = Struct(_FRAME + "Q" + "QQQ")
_CREDIT_SHAPE = _struct_at(0, 3, 0)
BATCH_ROOT = _struct_at(0, 1, 4)
_ROWS = Struct(_FRAME + "QQQ")
_ROWS_SHAPE = _struct_at(0, 0, 1)
_REQUEST = Struct("<QIBBxxQQIxxxxQQ")
_REQUEST_TAG = _struct_at(0, 5, 2)
_REPLY = Struct("<QBxxxIQQQQ")
_REPLY_TAG = _struct_at(0, 2, 4)
_PUBLISH_WORDS, _DELIVER_WORDS, _CONFIRM_WORDS = (
    s.size // 8 - 1 for s in (_PUBLISH, _DELIVER, _CONFIRM)
)  # without the segment's own word
_REQUEST_WORDS, _REPLY_WORDS = _REQUEST.size // 8, _REPLY.size // 8

_NAMES_MAX = 4096
_texts: dict[str, tuple[int, int, bytes]] = {}
_names: dict[bytes, str] = {}


def _text(topic: str) -> tuple[int, int, bytes]:
    """Words, size with its zero, and padded bytes of a text."""
    found = _texts.get(topic)
    if found is None:
        raw = topic.encode() + b"\0"
        size = len(raw)
        raw = raw.ljust((size + 7) // 8 * 8, b"\0")
        found = len(raw) // 8, size, raw
        if len(_texts) < _NAMES_MAX:
            _texts[topic] = found
    return found


def _name(header: bytes, at: int, pointer: int, offset: int) -> tuple[str, int] | None:
    """The text at byte ``at`` that ``pointer`` names, and its words."""
    size = pointer >> 35
    if pointer != list_at(offset, BYTES, size) or not size:
        return None
    end = at + size - 1
    raw = header[at:end]
    if len(raw) != size - 1 or header[end : end + 1] != b"\0":
        return None
    topic = _names.get(raw)
    if topic is None:
        try:
            topic = raw.decode()
        except UnicodeDecodeError:
            return None
        if len(_names) < _NAMES_MAX and size <= limits.TOPIC_BYTES_MAX:
            _names[raw] = topic
    return topic, (size + 7) // 8


# --- writing --------------------------------------------------------------------------------


def encode(envelope: Envelope) -> list[bytes] | None:
    """The parts of a frame that has one row or none; None leaves it to the general path."""
    write = _WRITERS.get(type(envelope.body))
    return write(envelope, envelope.body) if write is not None else None


def _write_empty(e: Envelope, body: Body) -> list[bytes]:
    return [_EMPTY.pack(6 << 32, _ROOT, e.session, e.sequence, e.ack, _TAGS[type(body)], 0)]


def _write_publish(e: Envelope, body: Publish) -> list[bytes] | None:
    if len(body.batches) != 1:
        return None
    (
        topic, first, after, count, length, checksum, resent, job, numbered, routed, moved,
        replicated, of_run, mirrors,
    ) = body.batches[0]  # fmt: skip
    if moved:
        return None
    words, size, raw = _text(topic)
    flags = resent | job << 1 | numbered << 2 | routed << 3 | replicated << 4 | of_run << 5
    flags |= mirrors << 8
    header = _PUBLISH.pack(
        (_PUBLISH_WORDS + words) << 32, _ROOT, e.session, e.sequence, e.ack, 6, *_PUBLISH_SHAPE,
        first, after, count, length, checksum, flags, list_at(0, BYTES, size),
    )  # fmt: skip
    return [header + raw, body.payload]


def _write_deliver(e: Envelope, body: Deliver) -> list[bytes] | None:
    if len(body.batches) != 1:
        return None
    (
        topic, base, count, length, checksum, time_ns, lsn, slot, damaged, missing, source, origin,
        published, site,
    ) = body.batches[0]  # fmt: skip
    if published is not None:
        return None
    words, size, raw = _text(topic)
    struct, *lists = _DELIVER_SHAPE
    source_pointer = origin_pointer = site_pointer = 0
    if source:
        if len(source) != 16:
            return None
        source_pointer = list_at(words + 2, BYTES, 16)
        raw += source
        words += 2
    if origin:
        if len(origin) != 16:
            return None
        origin_pointer = list_at(words + 1, BYTES, 16)
        raw += origin
        words += 2
    if site:
        more, site_size, site_raw = _text(site)
        site_pointer = list_at(words, BYTES, site_size)
        raw += site_raw
        words += more
    header = _DELIVER.pack(
        (_DELIVER_WORDS + words) << 32, _ROOT, e.session, e.sequence, e.ack, 12, struct,
        body.subscription, body.missed, *lists,
        base, count, length, checksum, slot, time_ns, lsn, damaged | missing << 1,
        list_at(3, BYTES, size), source_pointer, origin_pointer, site_pointer,
    )  # fmt: skip
    return [header + raw, bytes(body.payload)]


def _write_confirm(e: Envelope, body: Confirm) -> list[bytes] | None:
    if len(body.confirmations) != 1:
        return None
    c = body.confirmations[0]
    if c.code or c.message or len(c.topic_id) != 16:
        return None
    words, size, raw = _text(c.topic)
    flags = c.duplicate | c.has_offset << 1 | c.unwanted << 2 | c.more << 3
    header = _CONFIRM.pack(
        (_CONFIRM_WORDS + words + 2) << 32, _ROOT, e.session, e.sequence, e.ack, 7, *_CONFIRM_SHAPE,
        c.first, c.count, c.durability, flags, c.base_offset,
        c.append_time_ns, c.last, list_at(3, BYTES, size), 0, 0, list_at(words, BYTES, 16),
    )  # fmt: skip
    return [header + raw + c.topic_id]


def _write_credit(e: Envelope, body: Credit) -> list[bytes]:
    return [
        _CREDIT.pack(
            (_CREDIT.size // 8 - 1) << 32, _ROOT, e.session, e.sequence, e.ack, 11, _CREDIT_SHAPE,
            body.subscription, body.bytes, body.records,
        )
    ]  # fmt: skip


def _rows_head(e: Envelope, kind: int, tag: int, words: int, count: int, more: int) -> bytes:
    """What comes before ``count`` rows of ``words`` words and ``more`` words of texts."""
    size = count * words
    return _ROWS.pack(
        (8 + size + more) << 32, _ROOT, e.session, e.sequence, e.ack, kind,
        _ROWS_SHAPE, list_at(0, STRUCTS, size), count << 2 | tag,
    )  # fmt: skip


def _write_request(e: Envelope, body: Request) -> list[bytes] | None:
    found, texts, pack = [b""], [], _REQUEST.pack
    left, more = len(body.rows) * _REQUEST_WORDS, 0
    for number, registration, service, remaining, kind, again, window, headers, length in body.rows:
        if headers:
            return None
        left -= _REQUEST_WORDS
        pointer = 0
        if service:
            words, size, raw = _text(service)
            pointer = list_at(1 + left + more, BYTES, size)
            texts.append(raw)
            more += words
        found.append(pack(number, registration, kind, again, remaining, window, length, pointer, 0))
    found[0] = _rows_head(e, 29, _REQUEST_TAG, _REQUEST_WORDS, len(body.rows), more)
    return [b"".join(found + texts), body.payload]


def _write_reply(e: Envelope, body: Reply) -> list[bytes] | None:
    found, texts, pack = [b""], [], _REPLY.pack
    left, more = len(body.rows) * _REPLY_WORDS, 0
    for number, has_value, end, code, detail, message, instance, length in body.rows:
        if code or detail or message:
            return None
        left -= _REPLY_WORDS
        pointer = 0
        if instance:
            words, size, raw = _text(instance)
            pointer = list_at(left + more, BYTES, size)
            texts.append(raw)
            more += words
        found.append(pack(number, has_value | end << 1, length, 0, 0, 0, pointer))
    found[0] = _rows_head(e, 30, _REPLY_TAG, _REPLY_WORDS, len(body.rows), more)
    return [b"".join(found + texts), body.payload]


_WRITERS: dict[Any, Callable[[Envelope, Any], list[bytes] | None]] = {
    Nothing: _write_empty,
    Ping: _write_empty,
    Publish: _write_publish,
    Deliver: _write_deliver,
    Confirm: _write_confirm,
    Credit: _write_credit,
    Request: _write_request,
    Reply: _write_reply,
}


# --- reading --------------------------------------------------------------------------------


def decode(header: bytes, payload: Payload | None) -> Envelope | None:
    """The frame, if it has one of the shapes written here; None leaves it to the general path."""
    size = len(header)
    if size < _EMPTY.size:
        return None
    segment, root, session, sequence, ack, kind, _ = _EMPTY.unpack_from(header)
    if root != _ROOT or segment != (size // 8 - 1) << 32 or size % 8:
        return None
    read = _READERS.get(kind)
    if payload is not None and read is not _read_deliver:
        payload = bytes(payload)
    body = read(header, payload) if read is not None else None
    return Envelope(session, sequence, ack, body) if body is not None else None


def _read_nothing(header: bytes, payload: bytes | None) -> Body | None:
    return Nothing() if len(header) == 56 and payload is None and header[48:] == bytes(8) else None


def _read_ping(header: bytes, payload: bytes | None) -> Body | None:
    return Ping() if len(header) == 56 and payload is None and header[48:] == bytes(8) else None


def _read_publish(header: bytes, payload: bytes | None) -> Body | None:
    if len(header) <= _PUBLISH.size or payload is None:
        return None
    (
        _, _, _, _, _, _, struct, rows, moved, row,
        first, after, count, length, checksum, flags, pointer,
    ) = _PUBLISH.unpack_from(header)  # fmt: skip
    if (struct, rows, moved, row) != _PUBLISH_SHAPE or flags & ~0xFF3F:
        return None
    found = _name(header, _PUBLISH.size, pointer, 0)
    if found is None or len(header) != _PUBLISH.size + 8 * found[1]:
        return None
    if length != len(payload) or not 1 <= count <= limits.BATCH_RECORDS_MAX or after >= first:
        return None
    batch = PublishBatch(
        found[0], first, after, count, length, checksum, bool(flags & 1), bool(flags & 2),
        bool(flags & 4), bool(flags & 8), b"", bool(flags & 16), bool(flags & 32), flags >> 8,
    )  # fmt: skip
    return Publish((batch,), payload)


def _read_deliver(header: bytes, payload: Payload | None) -> Body | None:
    if len(header) <= _DELIVER.size or payload is None:
        return None
    (
        _, _, _, _, _, _, struct, subscription, missed, rows, published, row,
        base, count, length, checksum, slot, time_ns, lsn, flags, pointer, source_pointer,
        origin_pointer, site_pointer,
    ) = _DELIVER.unpack_from(header)  # fmt: skip
    if (struct, rows, published, row) != _DELIVER_SHAPE or flags > 3 or subscription > _LOW32:
        return None
    found = _name(header, _DELIVER.size, pointer, 3)
    if found is None or length != len(payload):
        return None
    words, source, origin = found[1], b"", b""
    end = _DELIVER.size + 8 * words
    if source_pointer:
        if source_pointer != list_at(words + 2, BYTES, 16):
            return None
        source = header[end : end + 16]
        words += 2
        end += 16
    if origin_pointer:
        if origin_pointer != list_at(words + 1, BYTES, 16):
            return None
        origin = header[end : end + 16]
        words += 2
        end += 16
    site = ("", 0)
    if site_pointer:
        named = _name(header, end, site_pointer, words)
        if named is None:
            return None
        site = named
    if len(header) != end + 8 * site[1]:
        return None
    batch = DeliverBatch(
        found[0], base, count, length, checksum, time_ns, lsn, slot, bool(flags & 1), flags > 1,
        source, origin, None, site[0],
    )  # fmt: skip
    return Deliver(subscription, (batch,), missed, payload)


def _read_confirm(header: bytes, payload: bytes | None) -> Body | None:
    if len(header) <= _CONFIRM.size + 16 or payload is not None:
        return None
    (
        _, _, _, _, _, _, struct, rows, row, first, count, durability, flags,
        base, time_ns, last, pointer, code, message, topic_id,
    ) = _CONFIRM.unpack_from(header)  # fmt: skip
    if (struct, rows, row) != _CONFIRM_SHAPE or flags > 15 or code or message:
        return None
    found = _name(header, _CONFIRM.size, pointer, 3)
    if found is None or len(header) != _CONFIRM.size + 8 * found[1] + 16:
        return None
    if topic_id != list_at(found[1], BYTES, 16):
        return None
    row_read = Confirmation(
        found[0], first, count, "", "", base, time_ns, header[-16:], durability, last,
        bool(flags & 1), bool(flags & 2), bool(flags & 4), more=flags > 7,
    )  # fmt: skip
    return Confirm((row_read,))


def _read_credit(header: bytes, payload: bytes | None) -> Body | None:
    if len(header) != _CREDIT.size or payload is not None:
        return None
    _, _, _, _, _, _, struct, subscription, size, records = _CREDIT.unpack(header)
    if struct != _CREDIT_SHAPE or subscription > _LOW32:
        return None
    return Credit(subscription, size, records)


def _rows_of(header: bytes, tag: int, words: int) -> int:
    """How many rows the frame has, if it is one of ours; else 0."""
    if len(header) < _ROWS.size:
        return 0
    _, _, _, _, _, _, struct, rows, row = _ROWS.unpack_from(header)
    count: int = row >> 2 & 0x3FFF_FFFF
    if (struct, row) != (_ROWS_SHAPE, count << 2 | tag) or count > limits.FRAME_BATCHES_MAX:
        return 0
    is_whole = len(header) >= _ROWS.size + 8 * words * count
    return count if is_whole and rows == list_at(0, STRUCTS, words * count) else 0


def _read_request(header: bytes, payload: bytes | None) -> Body | None:
    count = _rows_of(header, _REQUEST_TAG, _REQUEST_WORDS)
    if not count or payload is None:
        return None
    found, new = [], RequestRow._make
    left = count * _REQUEST_WORDS
    end = at = _ROWS.size + 8 * left
    total = 0
    for (
        number, registration, kind, again, remaining, window, length, pointer, headers,
    ) in _REQUEST.iter_unpack(header[_ROWS.size : end]):  # fmt: skip
        if kind > 2 or again > 1 or headers or length > limits.VALUE_BYTES_MAX:
            return None
        left -= _REQUEST_WORDS
        service = ""
        if pointer:
            text = _name(header, at, pointer, 1 + left + (at - end) // 8)
            if text is None or len(text[0]) > limits.PEER_NAME_MAX:
                return None
            service = text[0]
            at += 8 * text[1]
        total += length
        found.append(
            new((number, registration, service, remaining, kind, again == 1, window, b"", length))
        )
    if len(header) != at or total != len(payload):
        return None
    return Request(tuple(found), payload)


def _read_reply(header: bytes, payload: bytes | None) -> Body | None:
    count = _rows_of(header, _REPLY_TAG, _REPLY_WORDS)
    if not count or payload is None:
        return None
    found, new = [], ReplyRow._make
    left = count * _REPLY_WORDS
    end = at = _ROWS.size + 8 * left
    total = 0
    for number, flags, length, code, detail, message, pointer in _REPLY.iter_unpack(
        header[_ROWS.size : end]
    ):
        if flags > 3 or code or detail or message or length > limits.VALUE_BYTES_MAX:
            return None
        if length and not flags & 1:
            return None
        left -= _REPLY_WORDS
        instance = ""
        if pointer:
            text = _name(header, at, pointer, left + (at - end) // 8)
            if text is None or len(text[0]) > limits.PEER_NAME_MAX:
                return None
            instance = text[0]
            at += 8 * text[1]
        total += length
        found.append(new((number, flags & 1 == 1, flags > 1, "", "", "", instance, length)))
    if len(header) != at or total != len(payload):
        return None
    return Reply(tuple(found), payload)


_READERS: dict[int, Callable[[bytes, Any], Body | None]] = {
    0: _read_nothing,
    4: _read_ping,
    6: _read_publish,
    7: _read_confirm,
    11: _read_credit,
    12: _read_deliver,
    29: _read_request,
    30: _read_reply,
}
