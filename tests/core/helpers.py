"""What the core's tests share: names for moments and ids, and short ways to say a frame.

A batch's bytes here are length, value, length, value ...: the core never looks into them.
"""

from __future__ import annotations

import struct
import zlib

from meshmq.errors import BadFrame
from meshmq.frames import PublishBatch
from meshmq.limits import MS, SECOND

__all__ = [
    "A", "B", "LINK", "MS", "ORIGIN", "OTHER_LINK", "OTHER_ORIGIN", "SECOND", "batch_of",
    "check_batch", "decode", "encode", "packed",
]  # fmt: skip

A, B = b"a" * 16, b"b" * 16  # producers
LINK, OTHER_LINK = b"link-1", b"link-2"
ORIGIN, OTHER_ORIGIN = b"o" * 16, b"p" * 16


def encode(values, keys, headers, times, time_ns):
    return b"".join([struct.pack("<I", len(v)) + v for v in values])


def decode(data):
    values, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        values.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return values


def check_batch(data, count):
    """The node's check; a record ``malformed`` stands for bytes that do not decode."""
    values = decode(data)
    if len(values) != count or b"malformed" in values:
        raise BadFrame("malformed batch")


def packed(*values):
    """A batch's bytes."""
    return encode(values, None, None, None, 0)


def batch_of(topic, first, *values, after=None, resent=False):
    """A batch of ``values`` from sequence ``first`` on: its row in a frame, and its bytes."""
    data = packed(*values)
    after = first - 1 if after is None else after
    row = PublishBatch(topic, first, after, len(values), len(data), zlib.crc32(data), resent)
    return row, data
