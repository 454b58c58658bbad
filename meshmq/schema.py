"""Finds and loads the ``.capnp`` files; with ``codec`` and ``codec_log`` the only user of capnp."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import capnp

capnp.remove_import_hook()


def _directory() -> Path:
    """The schemas of the installed package, or those beside the package in a plain checkout."""
    try:
        import_module("meshmq.schemas")
        found = Path(str(resources.files("meshmq.schemas")))
    except ModuleNotFoundError:
        found = Path(__file__).resolve().parent.parent / "schemas"
    return found


@lru_cache
def load(name: str) -> Any:
    """The parsed schema ``name`` (``frame``, ``batch``, ``log``)."""
    return capnp.load(str(_directory() / f"{name}.capnp"))


REFUSALS = (capnp.KjException, ValueError, OverflowError)
"""What reading malformed bytes raises: pycapnp's own error, bad UTF-8, a length not times 8."""


def limits_for(data: bytes) -> dict[str, int]:
    """Reader limits for one message: it may be walked about four times, 16 pointers deep."""
    return {"traversal_limit_in_words": len(data) // 2 + 1024, "nesting_limit": 16}


def read(kind: Any, data: bytes) -> Any:
    """A reader over ``data``, which must be exactly one message; codecs copy from it and drop it.

    The segment table is read here, so that bytes beyond the message are found (they would be
    stored and copied without anybody having looked at them) and so that the reader can own its
    segments: ``from_bytes`` lends the buffer and needs a context manager, at twice the cost.

    Raises:
        ValueError: the lengths do not add up.
    """
    size = len(data)
    if size < 16 or size % 8:
        raise ValueError(f"{size} bytes are no message")
    count = int.from_bytes(data[:4], "little") + 1
    at = 8 + count // 2 * 8
    if count > SEGMENTS_MAX or at > size:
        raise ValueError(f"message of {count} segments in {size} bytes")
    segments = []
    for i in range(count):
        end = at + 8 * int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "little")
        segments.append(data[at:end])
        at = end
    if at != size:
        raise ValueError(f"message of {at} bytes in {size}")
    return kind.from_segments(segments, **limits_for(data))


SEGMENTS_MAX = 512
