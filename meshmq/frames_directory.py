"""The frame by which a site's nodes agree; ``frames`` has them all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirectoryFrame:
    """What a site's nodes agree on, compared and told: see core/directory.py."""

    kind: int
    data: bytes = b""
