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


def is_whole(data: bytes) -> bool:
    """Whether ``data`` is exactly one message: its segment table adds up to its length.

    Bytes beyond the message would be stored and copied without anybody having looked at them.
    """
    if len(data) < 16 or len(data) % 8:
        return False
    segments = int.from_bytes(data[:4], "little") + 1
    table = (4 + 4 * segments + 7) // 8 * 8
    if segments > 512 or table > len(data):
        return False
    words = sum(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "little") for i in range(segments))
    return table + 8 * words == len(data)
