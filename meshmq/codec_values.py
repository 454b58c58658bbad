"""Batches of values alone, written and read without capnp's machinery.

The general builder and reader copy every byte of a batch two or three times, which is most of what
a large value costs. Here each is copied once: into the batch, and out of it. The bytes are an
ordinary Batch in one segment: the list's pointers, then the values in order, each padded to whole
words. A batch of another shape is left to the general path, as everywhere in ``codec_lone``.

Where all values have one size, pointers and places depend on that and their number alone: they
are kept, so that a batch costs no work in Python for each record.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from struct import Struct, pack

from meshmq.codec_lone import BATCH_ROOT, BYTES, POINTERS, list_at
from meshmq.limits import BATCH_RECORDS_MAX, VALUE_BYTES_MAX

LARGE_BYTES = 512  # on average; below, values of several sizes are faster by the general path

_HEAD = Struct("<QQqQQQQ")  # segment, root, time, values, keys, headers, times
_WORD = Struct("<Q")
_PADDING = tuple(bytes(-size % 8) for size in range(8))
_KEPT_MAX = 16  # a flood has two or three; each is some 40 bytes a record


class _Even:
    """How ``count`` values of ``size`` bytes lie in a batch."""

    __slots__ = ("_count", "_places", "_size", "end", "padding", "pointers")

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._places: Struct | None = None
        words = (size + 7) // 8
        step = (words - 1) * 4
        first = list_at(count - 1, BYTES, size)
        pointers = range(first, first + step * count, step) if step else repeat(first, count)
        self.pointers = pack(f"<{count}Q", *pointers)
        self.end = _end(count, size)
        self.padding = _PADDING[size % 8]

    @property
    def places(self) -> Struct:
        """Cuts the values out of a batch, all in one call."""
        if self._places is None:  # who only writes needs none
            self._places = Struct("<" + f"{self._size}s{len(self.padding)}x" * self._count)
        return self._places


_kept: dict[tuple[int, int], _Even] = {}


def _even(count: int, size: int) -> _Even:
    found = _kept.get((count, size))
    if found is None:
        found = _Even(count, size)
        if len(_kept) >= _KEPT_MAX:
            _kept.clear()  # in one step: threads of all connections are here, without a lock
        _kept[count, size] = found
    return found


def encode(values: Sequence[bytes], time_ns: int) -> bytes | None:
    """The batch of ``values``, at least one, and nothing else; None: by the general path."""
    count = len(values)
    if count == 1:
        (value,) = values
        size = len(value)
        padding = _PADDING[size % 8]
        head = _head(1, _HEAD.size + 8 + size + len(padding), time_ns)
        head += list_at(0, BYTES, size).to_bytes(8, "little")
        return head + value + padding if padding else head + value
    sizes = list(map(len, values))
    size = sizes[0]
    if sizes.count(size) == count:
        even = _even(count, size)
        head = _head(count, even.end, time_ns)
        if not even.padding:
            return b"".join((head, even.pointers, *values))
        return b"".join((head, even.pointers, even.padding.join(values), even.padding))
    if sum(sizes) < LARGE_BYTES * count:
        return None
    parts = [b"", b""]
    pointers = []
    ahead = count - 1
    for value, size in zip(values, sizes, strict=True):
        pointers.append(list_at(ahead, BYTES, size))
        ahead += (size + 7) // 8 - 1
        parts.append(value)
        if size % 8:
            parts.append(_PADDING[size % 8])
    parts[0] = _head(count, _HEAD.size + 8 * (count + ahead + 1), time_ns)
    parts[1] = pack(f"<{count}Q", *pointers)
    return b"".join(parts)


def _head(count: int, end: int, time_ns: int) -> bytes:
    return _HEAD.pack(
        (end // 8 - 1) << 32, BATCH_ROOT, time_ns, list_at(3, POINTERS, count), 0, 0, 0
    )


def is_plain(data: bytes | memoryview, count: int) -> bool:
    """Whether it is such a batch, of values that all have one size within the bound."""
    size = _size_of(data, count)
    if not 0 <= size <= VALUE_BYTES_MAX or len(data) != _end(count, size):
        return False
    return count == 1 or data[_HEAD.size : _HEAD.size + 8 * count] == _even(count, size).pointers


def decode(data: bytes | memoryview, count: int) -> tuple[Sequence[bytes], int] | None:
    """The values and time of such a batch, whatever their sizes; None if it is another."""
    size = _size_of(data, count)
    if size < 0:
        return None
    time_ns = int.from_bytes(data[16:24], "little", signed=True)
    begin = _HEAD.size + 8 * count
    if len(data) == _end(count, size):
        if count == 1:
            return [bytes(data[begin : begin + size])], time_ns
        even = _even(count, size)
        if bytes(data[_HEAD.size : begin]) == even.pointers:
            return even.places.unpack_from(data, begin), time_ns
    values = []
    ahead, at = count - 1, begin
    for (pointer,) in _WORD.iter_unpack(data[_HEAD.size : begin]):
        size = pointer >> 35
        if pointer != list_at(ahead, BYTES, size):
            return None
        values.append(bytes(data[at : at + size]))
        words = (size + 7) // 8
        ahead += words - 1
        at += 8 * words
    return (values, time_ns) if at == len(data) else None


def _end(count: int, size: int) -> int:
    return _HEAD.size + 8 * count * (1 + (size + 7) // 8)


def _size_of(data: bytes | memoryview, count: int) -> int:
    """Size of the first of ``count`` values, if this may be a batch written here; else -1."""
    begin = _HEAD.size + 8 * count
    if not 1 <= count <= BATCH_RECORDS_MAX or len(data) < begin or len(data) % 8:
        return -1
    segment, root, _, values, keys, headers, times = _HEAD.unpack_from(data)
    if (
        (root, values) != (BATCH_ROOT, list_at(3, POINTERS, count))
        or keys or headers or times
        or segment != (len(data) // 8 - 1) << 32
    ):  # fmt: skip
        return -1
    pointer = int.from_bytes(data[_HEAD.size : _HEAD.size + 8], "little")
    size: int = pointer >> 35
    return size if pointer == list_at(count - 1, BYTES, size) else -1
