"""How one commit becomes one row: diskcache's Disk, without pickle and without side files.

A row's value, all numbers little-endian:

    0  u32  CRC-32 of everything up to the end of the meta, except these four bytes
    4  u32  length of the meta
    8       meta: a Commit message (``schemas/log.capnp``)
    ..      the batches' bytes back to back, if the meta says ``inline``

The bytes of larger commits are appended to ``values.bin`` and synced before the row is written,
so a committed row never names bytes that a power cut can take. What lies behind the last
committed row's bytes is nobody's and is cut at the next start.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diskcache import Disk
from diskcache.core import MODE_RAW

from meshmq import codec_log, limits
from meshmq.core.log import Commit
from meshmq.errors import BadFrame

VALUES = "values.bin"
_PREFIX = struct.Struct("<II")
_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024) if "SC_IOV_MAX" in os.sysconf_names else 16


class SyncFailed(OSError):
    """A sync failed: what of the bytes is on disk nobody knows, and it is not tried again."""


class CommitValue:
    """A commit on its way into a row; ``position`` is where its bytes lie once stored."""

    __slots__ = ("commit", "copied", "inline", "position", "size")

    def __init__(self, commit: Commit, copied: bool = False) -> None:
        self.copied = copied  # its bytes are synced later, with others
        self.commit = commit
        self.size = sum(len(batch.payload) for batch in commit.batches)
        self.inline = self.size <= limits.COMMIT_INLINE_BYTES_MAX
        self.position = 0


class SegmentDisk(Disk):  # type: ignore[misc]
    """Keys are int or str, values are bytes or a CommitValue; anything else is refused.

    ``end`` is where the next large commit's bytes go. The owner sets it when it has replayed the
    rows, before the first commit.
    """

    def __init__(self, directory: str, min_file_size: int = 0, pickle_protocol: int = 0) -> None:
        super().__init__(directory, min_file_size=min_file_size, pickle_protocol=pickle_protocol)
        self.end = 0
        self._values = -1

    def put(self, key: Any) -> tuple[int | str, bool]:
        if type(key) is int or type(key) is str:
            return key, True
        raise TypeError(f"a log's keys are int or str, not {type(key).__name__}")

    def get(self, key: Any, raw: Any) -> int | str:
        if raw and (type(key) is int or type(key) is str):
            return key
        raise ValueError("a key of the log is not an int or str: it was not written by meshmq")

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, Any]:
        if type(value) is CommitValue and not read:
            return 0, MODE_RAW, None, self._store_commit(value)
        if type(value) is bytes and not read:
            return 0, MODE_RAW, None, sqlite3.Binary(value)
        raise TypeError(f"a log's values are bytes, not {type(value).__name__}")

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        if mode == MODE_RAW and filename is None and type(value) is bytes and not read:
            return value
        raise ValueError(f"a row of the log has mode {mode}: it was not written by meshmq")

    def _store_commit(self, value: CommitValue) -> bytes:
        payloads = [batch.payload for batch in value.commit.batches]
        if value.inline:
            return b"".join((seal(codec_log.encode_commit(value.commit, 0, True)), *payloads))
        value.position = self.end
        write_all(self.open_values(), payloads, self.end)
        if not value.copied:
            self.sync_values()
        self.end += value.size
        return seal(codec_log.encode_commit(value.commit, value.position, False))

    def sync_values(self) -> None:
        """Make the bytes of ``values.bin`` durable."""
        try:
            os.fdatasync(self.open_values())
        except OSError as error:
            raise SyncFailed(error.errno, error.strerror) from error

    def open_values(self) -> int:
        """File descriptor of ``values.bin``, which is made with the segment."""
        if self._values < 0:
            self._values = os.open(Path(self._directory) / VALUES, os.O_RDWR | os.O_CLOEXEC)
        return self._values

    def read_values(self, length: int, position: int) -> bytes:
        """``length`` bytes of ``values.bin``, fewer where the file ends early."""
        fd = self.open_values()
        found = os.pread(fd, length, position)
        if len(found) < length:
            found = _read_rest(fd, found, length, position)
        return found

    def write_values(self, data: bytes, position: int) -> None:
        """Write bytes of ``values.bin`` anew, synced."""
        write_all(self.open_values(), [data], position)
        self.sync_values()

    def cut_values(self, end: int) -> None:
        """Drop what lies behind ``end``; the next commit goes there."""
        fd = self.open_values()
        if os.fstat(fd).st_size > end:
            os.ftruncate(fd, end)
        self.end = end

    def move(self, directory: Path) -> None:
        """The segment's directory has this name now."""
        self._directory = str(directory)

    def close(self) -> None:
        if self._values >= 0:
            os.close(self._values)
            self._values = -1


def sqlite_version() -> tuple[int, ...]:
    """Of the library that keeps the log, which comes with Python or the system."""
    return sqlite3.sqlite_version_info


def write_all(fd: int, buffers: Sequence[bytes], position: int) -> None:
    """Write ``buffers`` back to back at ``position``, however often the kernel stops early."""
    rest: list[bytes | memoryview] = [buffer for buffer in buffers if buffer]
    while rest:
        chunk = rest[:_IOV_MAX]
        expected = sum(map(len, chunk))
        written = os.pwritev(fd, chunk, position)
        position += written
        del rest[: len(chunk)]
        if written == expected:
            continue
        for i, buffer in enumerate(chunk):
            if written < len(buffer):
                rest[:0] = [memoryview(buffer)[written:], *chunk[i + 1 :]]
                break
            written -= len(buffer)


def _read_rest(fd: int, found: bytes, length: int, position: int) -> bytes:
    """Go on after a short read, until the end of the file."""
    while len(found) < length:
        more = os.pread(fd, length - len(found), position + len(found))
        if not more:
            break
        found += more
    return found


def seal(meta: bytes) -> bytes:
    """``meta`` with its length and checksum in front."""
    size = len(meta).to_bytes(4, "little")
    return zlib.crc32(meta, zlib.crc32(size)).to_bytes(4, "little") + size + meta


def unseal(row: bytes) -> bytes:
    """The meta of ``row``; raise BadFrame if its checksum fails."""
    if len(row) < _PREFIX.size:
        raise BadFrame(f"row of {len(row)} bytes")
    checksum, size = _PREFIX.unpack_from(row)
    end = _PREFIX.size + size
    if end > len(row) or zlib.crc32(memoryview(row)[4:end]) != checksum:
        raise BadFrame(f"row of {len(row)} bytes fails its checksum")
    return row[_PREFIX.size : end]


def payload_start(row: bytes) -> int:
    """Where the inline bytes of an unsealed ``row`` begin."""
    return _PREFIX.size + int(_PREFIX.unpack_from(row)[1])
