"""Frames by which sites say what became of their groups: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import frames_site_words as frames
from meshmq import limits
from meshmq.codec_checks import short
from meshmq.codec_copies import an_id, build_copies, read_copies
from meshmq.errors import BadFrame
from meshmq.frames_site_words import HandedRun, SiteTaken, TakenRange


def _most(rows: Any, most: int, what: str) -> Any:
    if len(rows) > most:
        raise BadFrame(f"{len(rows)} {what} in a frame, the limit is {most}")
    return rows


def _encode_words(m: Any, b: frames.SiteWords) -> None:
    w = m.init("siteWords")
    w.fence = b.fence_ms
    for row, x in zip(w.init("seen", len(b.seen)), b.seen, strict=True):
        row.site, row.linked, row.ms = x
    for row, t in zip(w.init("taken", len(b.taken)), b.taken, strict=True):
        row.origin, row.name, row.site, row.epoch, row.by, row.taker = t[:6]
        row.groups = t.groups
        row.over, row.back = t.is_over, t.is_back
        for range_, r in zip(row.init("ranges", len(t.ranges)), t.ranges, strict=True):
            range_.stream, range_.first, range_.end = r
    build_copies(w.init("inside", len(b.inside)), b.inside)


def _decode_words(r: Any, _: bytes | None) -> frames.SiteWords:
    w = r.siteWords
    seen = _most(w.seen, limits.SITES_MAX, "sites")
    taken = _most(w.taken, limits.MIRRORS_MAX, "logs")
    return frames.SiteWords(
        w.fence, tuple([frames.SeenRow(short(x.site), x.linked, x.ms) for x in seen]),
        tuple([_read_taken(x) for x in taken]), read_copies(w.inside),
    )  # fmt: skip


def _read_taken(x: Any) -> SiteTaken:
    groups = _most(x.groups, limits.GROUPS_MAX, "groups")
    ranges = _most(x.ranges, limits.TAKEN_RANGES_MAX, "ranges")
    return SiteTaken(
        an_id(x.origin, "an origin"), short(x.name), short(x.site), x.epoch, short(x.by),
        an_id(x.taker, "an origin"), tuple(groups),
        tuple([TakenRange(r.stream, r.first, r.end) for r in ranges]), x.over, x.back,
    )  # fmt: skip


def _build_runs(rows: Any, runs: tuple[HandedRun, ...]) -> None:
    for row, x in zip(rows, runs, strict=True):
        row.group, row.stream, row.first, row.count, row.due, row.attempts, row.priority = x


def _read_runs(rows: Any) -> tuple[HandedRun, ...]:
    _most(rows, limits.HANDED_BACK_MAX, "runs")
    return tuple(
        [
            HandedRun(short(x.group), x.stream, x.first, x.count, x.due, x.attempts, x.priority)
            for x in rows
        ]
    )


def _encode_back(m: Any, b: frames.HandBack) -> None:
    h = m.init("handBack")
    h.epoch, h.part = b.epoch, b.part
    _build_runs(h.init("runs", len(b.runs)), b.runs)


def _decode_back(r: Any, _: bytes | None) -> frames.HandBack:
    h = r.handBack
    return frames.HandBack(h.epoch, h.part, _read_runs(h.runs))


def _encode_backed(m: Any, b: frames.HandedBack) -> None:
    h = m.init("handedBack")
    h.epoch, h.part = b.epoch, b.part
    _build_runs(h.init("gone", len(b.gone)), b.gone)


def _decode_backed(r: Any, _: bytes | None) -> frames.HandedBack:
    h = r.handedBack
    return frames.HandedBack(h.epoch, h.part, _read_runs(h.gone))


ENCODERS: dict[type, Callable[..., None]] = {
    frames.SiteWords: _encode_words,
    frames.HandBack: _encode_back,
    frames.HandedBack: _encode_backed,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "siteWords": _decode_words,
    "handBack": _decode_back,
    "handedBack": _decode_backed,
}
