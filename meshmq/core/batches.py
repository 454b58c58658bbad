"""What the core asks of the codec: batches opened, cut and made. It never sees an encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Records(Protocol):
    """A batch opened: columns of equal length, or None where no record has that column."""

    @property
    def values(self) -> Sequence[bytes]: ...
    @property
    def keys(self) -> Sequence[bytes] | None: ...
    @property
    def headers(self) -> Sequence[bytes] | None: ...
    @property
    def times(self) -> Sequence[int] | None: ...
    @property
    def time_ns(self) -> int: ...


class Options(Protocol):
    """What the jobs of one batch share; times are unix ms, 0: none."""

    @property
    def due_ms(self) -> int: ...
    @property
    def expires_ms(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def dedup(self) -> bytes: ...


class BatchTools(NamedTuple):
    """The codec's functions that a node's machines use.

    Attributes:
        check: raises BadFrame for a batch that is malformed.
        decode: bytes and count to records; raises BadFrame.
        keys: bytes and count to the key of each record, nothing if none has one; raises BadFrame.
        pick: some records of a batch, as a batch of their own.
        encode: values, keys, headers, times, time in ns to bytes.
        options: of a batch of jobs, else None.
        encode_headers, decode_headers: of one record.
        pack: bytes as one block, compressed.
        unpack: a block of so many bytes; raises BadFrame.
    """

    check: Callable[[bytes, int], None]
    decode: Callable[[bytes, int], Records]
    keys: Callable[[bytes, int], Sequence[bytes]]
    pick: Callable[[Any, Sequence[int]], bytes]
    encode: Callable[
        [
            Sequence[bytes],
            Sequence[bytes] | None,
            Sequence[bytes] | None,
            Sequence[int] | None,
            int,
        ],
        bytes,
    ]
    options: Callable[[bytes], Options | None]
    encode_headers: Callable[[Mapping[str, str]], bytes]
    decode_headers: Callable[[bytes], dict[str, str]]
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes, int], bytes]
