"""What the commands write: plain lines, aligned columns, JSON, and notes on stderr."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def say(text: str) -> None:
    """One line on stdout, at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """One line about the command itself, on stderr."""
    print(f"meshmq: {text}", file=sys.stderr, flush=True)


def note_away(rows: Iterable[Mapping[str, Any]]) -> None:
    """Which nodes of the site did not answer, so that what they have is not in these rows."""
    away = sorted({name for row in rows for name in row.get("away", ())})
    if away:
        note(f"not counted is what lies at {', '.join(away)}: away")


def emit(item: Mapping[str, Any]) -> None:
    """One JSON object on a line of stdout."""
    print(json.dumps(item, ensure_ascii=False, default=str), flush=True)


def json_bytes(data: bytes | None) -> Any:
    """``data`` as a JSON string where it is UTF-8, else as ``{"base64": ...}``; None stays None."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def printable(data: bytes) -> str:
    """``data`` as text that cannot steer a terminal: what is not UTF-8 or is control is escaped."""
    text = data.decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def plural(count: int, name: str) -> str:
    """``1 job``, ``2,000 jobs``."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def size(count: int | None) -> str | None:
    """About so many bytes, in a unit that people read."""
    if count is None:
        return None
    for unit, many in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= many:
            return f"{count / many:.1f} {unit}"
    return f"{count} B"


def rate(per_second: float | None) -> str | None:
    """About so many a second; below ten with a place behind the point."""
    if per_second is None:
        return None
    return f"{per_second:,.0f}" if per_second >= 10 or not per_second else f"{per_second:.1f}"


def columns(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table, left-aligned; numbers right-aligned. Never cut to a terminal's width."""
    table = [[_cell(value) for value in row] for row in rows]
    numeric = [all(row[i].replace(",", "").isdigit() for row in table) for i in range(len(heads))]
    widths = [max([len(head), *(len(row[i]) for row in table)]) for i, head in enumerate(heads)]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [list(heads), *table]
    ]


def said(row: Mapping[str, Any]) -> str:
    """Which node of a site has set it, and when by that node's clock; empty: it was never set."""
    if "set_by" not in row:
        return ""
    if not row["set_at_ms"]:
        return f"{row['set_by']}, before it was in the site"
    at = datetime.fromtimestamp(row["set_at_ms"] / 1000)
    return f"{row['set_by']}, {at:%Y-%m-%d %H:%M}"


def without_said(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with that in one field, where there is any."""
    kept = {k: v for k, v in row.items() if k not in ("set_by", "set_at_ms", "set_origin")}
    if kept.get("conflict", True) == "":
        del kept["conflict"]
    return kept | {"set by": said(row)} if "set_by" in row else kept


def kept_here(age_ns: int, size: int) -> str:
    """What a link's retention says, for people."""
    seconds = age_ns // 10**9
    parts = [str(timedelta(seconds=seconds)).removesuffix(", 0:00:00")] if age_ns else []
    return ", ".join(parts + ([f"{size:,} bytes of each topic"] if size else [])) or "for ever"


def fields(item: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines ``name: value`` of a nested mapping; a list of mappings becomes columns."""
    width = max((len(_label(name)) for name in item), default=0)
    lines: list[str] = []
    for name, value in item.items():
        label = _label(name)
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{label}:", *fields(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            heads = list(value[0])
            table = columns(heads, [[row.get(head) for head in heads] for row in value])
            lines += [f"{indent}{label}:", *(f"{indent}  {line}" for line in table)]
        else:
            lines.append(f"{indent}{(label + ':').ljust(width + 1)} {_cell(value)}")
    return lines


def _label(name: object) -> str:
    return printable(str(name).replace("_", " ").encode("utf-8", "surrogateescape"))


def _cell(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(part) for part in value)
    return printable(str(value).encode("utf-8", "surrogateescape"))
