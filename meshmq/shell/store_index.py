"""Where the batches of one segment are: found by offset, by commit or by time, without a scan.

Data: per stream four arrays in log order (base offset, lsn, slot, bytes so far: 28 bytes a batch),
and the append time of each commit. Lookups bisect. The active segment's index is kept while it is
written; a closed segment holds its own as bytes.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from meshmq.codec_log import BatchMeta
from meshmq.core.log import BatchEntry
from meshmq.core.retention import Portion, SegmentInfo
from meshmq.errors import BadFrame

_MAGIC = 0x3158494D  # "MIX1"
_SEAL = struct.Struct("<II")  # magic, CRC-32 of the rest
_HEAD = struct.Struct("<QQI")  # first lsn, commits, streams
_STREAM = struct.Struct("<IIQ")  # stream, batches, next offset


class StreamIndex:
    """The batches of one stream in one segment; ``sizes[i]`` counts bytes up to batch i's end."""

    __slots__ = ("bases", "lsns", "next_offset", "sizes", "slots")

    def __init__(self) -> None:
        self.bases = array("Q")
        self.lsns = array("Q")
        self.slots = array("I")
        self.sizes = array("Q")
        self.next_offset = 0

    def __len__(self) -> int:
        return len(self.bases)

    def at_offset(self, offset: int) -> int:
        """Index of the batch that holds ``offset``, or of the first one after it."""
        i = bisect_right(self.bases, offset) - 1
        if i < 0:
            return 0
        return i if offset < self.end_of(i) else i + 1

    def at_place(self, lsn: int, slot: int) -> int:
        """Index of the first batch not before (``lsn``, ``slot``)."""
        i = bisect_left(self.lsns, lsn)
        while i < len(self.lsns) and self.lsns[i] == lsn and self.slots[i] < slot:
            i += 1
        return i

    def end_of(self, i: int) -> int:
        """Offset after batch ``i``."""
        return self.bases[i + 1] if i + 1 < len(self.bases) else self.next_offset

    def size_of(self, i: int) -> int:
        """Bytes of batch ``i``."""
        return self.sizes[i] - (self.sizes[i - 1] if i else 0)

    def cut(self, keep_bytes: int) -> int:
        """First offset so that at most ``keep_bytes`` stay, and at least the newest batch."""
        excess = self.sizes[-1] - keep_bytes
        i = bisect_left(self.sizes, excess) if excess > 0 else -1
        return self.bases[min(i + 1, len(self.bases) - 1)]


class SegmentIndex:
    """All streams of one segment and its commits' times.

    Attributes:
        first_lsn: of the segment.
        times: append time (unix ns) of each commit from ``first_lsn`` on.
        streams: by alias.
        batches, bytes: in all.
    """

    __slots__ = ("batches", "bytes", "first_lsn", "streams", "times")

    def __init__(self, first_lsn: int) -> None:
        self.first_lsn = first_lsn
        self.times = array("q")
        self.streams: dict[int, StreamIndex] = {}
        self.batches = 0
        self.bytes = 0

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + len(self.times) - 1

    def add_time(self, time_ns: int) -> int:
        """Note a commit and return its lsn."""
        self.times.append(time_ns)
        return self.first_lsn + len(self.times) - 1

    def add_written(self, time_ns: int, batches: Iterable[BatchEntry]) -> None:
        """Note a commit that was just stored."""
        lsn = self.add_time(time_ns)
        for slot, (stream, base, count, payload, *_) in enumerate(batches):
            self.add_at(lsn, slot, stream, base, count, len(payload))

    def add_read(self, time_ns: int, batches: Iterable[BatchMeta]) -> None:
        """Note a commit that was read back."""
        lsn = self.add_time(time_ns)
        for slot, (stream, count, base, _, length, *_) in enumerate(batches):
            self.add_at(lsn, slot, stream, base, count, length)

    def add_at(self, lsn: int, slot: int, stream: int, base: int, count: int, size: int) -> None:
        """Note one batch of a commit noted before."""
        held = self.streams.get(stream)
        if held is None:
            held = self.streams[stream] = StreamIndex()
        held.bases.append(base)
        held.lsns.append(lsn)
        held.slots.append(slot)
        sizes = held.sizes
        sizes.append(size + (sizes[-1] if sizes else 0))
        held.next_offset = base + count
        self.batches += 1
        self.bytes += size

    def places(self, streams: Iterable[int], first_lsn: int, last_lsn: int) -> list[int]:
        """The commits that hold batches of ``streams``, from one to another."""
        found: set[int] = set()
        for stream in streams:
            held = self.streams.get(stream)
            if held is not None:
                i, j = bisect_left(held.lsns, first_lsn), bisect_right(held.lsns, last_lsn)
                found.update(held.lsns[i:j])
        return sorted(found)

    def time_of(self, lsn: int) -> int:
        return self.times[lsn - self.first_lsn]

    def at_time(self, time_ns: int) -> int:
        """lsn of the first commit not older than ``time_ns``, or the one after the last."""
        return self.first_lsn + bisect_left(self.times, time_ns)

    def portion(self, number: int, stream: int) -> Portion | None:
        """What segment ``number`` holds of ``stream``."""
        held = self.streams.get(stream)
        if held is None:
            return None
        return Portion(
            number,
            stream,
            held.bases[0],
            held.next_offset,
            held.sizes[-1],
            self.time_of(held.lsns[-1]),
        )

    def info(self, number: int) -> SegmentInfo:
        """Summary of segment ``number``, for snapshots and retention."""
        info = SegmentInfo(
            number,
            self.first_lsn,
            self.last_lsn,
            self.times[0] if self.times else 0,
            self.times[-1] if self.times else 0,
        )
        for stream in self.streams:
            portion = self.portion(number, stream)
            if portion is not None:
                info.portions[stream] = portion
        return info


def encode_index(index: SegmentIndex) -> bytes:
    """Pack ``index``: head, times, then per stream its numbers and arrays; little-endian."""
    parts = [_bytes(index.times)]
    for stream, held in index.streams.items():
        parts.append(_STREAM.pack(stream, len(held), held.next_offset))
        parts.extend(map(_bytes, (held.bases, held.lsns, held.sizes, held.slots)))
    body = b"".join(parts)
    head = _HEAD.pack(index.first_lsn, len(index.times), len(index.streams))
    return _SEAL.pack(_MAGIC, zlib.crc32(body, zlib.crc32(head))) + head + body


def decode_index(data: bytes) -> SegmentIndex:
    """Unpack what encode_index made; raise BadFrame if it is damaged."""
    if len(data) < _SEAL.size + _HEAD.size:
        raise BadFrame(f"index of {len(data)} bytes")
    magic, checksum = _SEAL.unpack_from(data)
    if magic != _MAGIC or zlib.crc32(memoryview(data)[_SEAL.size :]) != checksum:
        raise BadFrame(f"index of {len(data)} bytes fails its checksum")
    first_lsn, commits, streams = _HEAD.unpack_from(data, _SEAL.size)
    index = SegmentIndex(first_lsn)
    at = _fill(index.times, data, _SEAL.size + _HEAD.size, commits)
    for _ in range(streams):
        stream, batches, next_offset = _STREAM.unpack_from(data, at)
        at += _STREAM.size
        held = index.streams[stream] = StreamIndex()
        for values in (held.bases, held.lsns, held.sizes, held.slots):
            at = _fill(values, data, at, batches)
        held.next_offset = next_offset
        index.batches += batches
        index.bytes += held.sizes[-1]
    return index


def _bytes(values: array[int]) -> bytes:
    if sys.byteorder == "little":
        return values.tobytes()
    swapped = array(values.typecode, values)
    swapped.byteswap()
    return swapped.tobytes()


def _fill(values: array[int], data: bytes, at: int, count: int) -> int:
    end = at + count * values.itemsize
    values.frombytes(data[at:end])
    if sys.byteorder == "big":
        values.byteswap()
    return end
