"""The throughput of a link by its round trip, as a picture (SVG) that pages can show."""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 80, 44, 24, 20
INK, GRAY, BLUE, RED = "#24292f", "#8c959f", "#0969da", "#cf222e"


def plot(rows: list[dict[str, Any]], goal: float) -> str:
    """Medians with their spans over round trips on a scale of logarithms, and the goal: a share of
    the first median."""
    trips = [row["round_trip_ms"] for row in rows]
    most = max(row["highest"] for row in rows)
    step = _step(most / 4)
    top = step * math.ceil(most / step)
    low, high = math.log(trips[0]), math.log(max(trips[-1], trips[0] + 1))

    def x(ms: float) -> float:
        return LEFT + (math.log(ms) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - rate / top * (HEIGHT - BOTTOM - TOP)

    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'{head} width="{WIDTH}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="14">records a second mirrored, by the round trip of the link</text>',
    ]
    for i in range(int(top / step) + 1):
        at = y(i * step)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "#eaeef2"))
        parts.append(_text(LEFT - 6, at + 4, f"{i * step:,.0f}", "end"))
    wished = y(goal * rows[0]["median"])
    parts.append(_line(LEFT, wished, WIDTH - RIGHT, wished, RED, ' stroke-dasharray="5 4"'))
    parts.append(_text(WIDTH - RIGHT, wished - 5, f"goal: {goal:.0%} of the first", "end", RED))
    places = []
    for row in rows:
        at = x(row["round_trip_ms"])
        parts.append(_line(at, y(row["lowest"]), at, y(row["highest"]), GRAY, ' stroke-width="2"'))
        parts.append(_text(at, HEIGHT - BOTTOM + 18, f"{row['round_trip_ms']} ms", "middle"))
        places.append(f"{at:.1f},{y(row['median']):.1f}")
        parts.append(f'<circle cx="{at:.1f}" cy="{y(row["median"]):.1f}" r="4" fill="{BLUE}"/>')
    parts.append(
        f'<polyline points="{" ".join(places)}" fill="none" stroke="{BLUE}" stroke-width="2"/>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _step(least: float) -> float:
    """1, 2 or 5 with zeros."""
    unit = 10 ** math.floor(math.log10(least))
    return next(unit * n for n in (1, 2, 5, 10) if unit * n >= least)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{more}/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{text}</text>'
