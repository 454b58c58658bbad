"""What a check of the doctor finds."""

from __future__ import annotations

from typing import Any, NamedTuple

OK, WARNING, FAILURE = "ok", "warning", "failure"


class Finding(NamedTuple):
    """One check: what was tried, what was seen, what to do.

    Attributes:
        check: its name, for programs: ``python``, ``interface eth0``, ``dial tcp://...``.
        level: ``ok``; ``warning``: something will not work, or not well; ``failure``: it does not.
        tried, seen: in words.
        remedy: what to do, in words; empty if it is ok.
    """

    check: str
    level: str
    tried: str
    seen: str
    remedy: str = ""

    def row(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**self._asdict(), "remedy": self.remedy or None}
