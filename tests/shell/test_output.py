"""What the program prints of what others have said."""

from __future__ import annotations

from meshmq.cli.output import fields


def test_neither_names_nor_values_can_steer_a_terminal():
    raw = "\x1b[2J\x07\x9b"
    lines = fields({raw: raw, "of": {raw: {raw: [raw]}}, "rows": [{"name": raw}]})
    assert all(line.isprintable() for line in lines)
