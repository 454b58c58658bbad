"""Batches that go to another node as one zstd block; the only importer of ``zstandard``."""

from __future__ import annotations

import threading

import zstandard

from meshmq.errors import BadFrame

_LEVEL = 3  # 64 KiB take some 0.2 ms


class _Tools(threading.local):
    """zstandard's are not for several threads at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_tools = _Tools()


def pack(data: bytes) -> bytes:
    """One block."""
    return _tools.compressor.compress(data)


def unpack(block: bytes, size: int) -> bytes:
    """The ``size`` bytes of a block; raises BadFrame if it is none, or not of so many. No more than
    those are ever taken of memory."""
    try:
        # What the block says of itself is what zstandard takes of memory.
        said = zstandard.get_frame_parameters(block).content_size
        if said != size:
            told = "no length" if said == zstandard.CONTENTSIZE_UNKNOWN else f"{said} bytes"
            raise BadFrame(f"a block says it has {told}, the frame says {size}")
        data = _tools.decompressor.decompress(block, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrame(f"a block is not zstd, or damaged: {error}") from None
    if len(data) != size:
        raise BadFrame(f"a block has {len(data)} bytes, the frame says {size}")
    return data
