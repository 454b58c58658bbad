"""Frames by which nodes copy each other's logs: see ``codec``, which uses this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshmq import codec_verify, frames_copies, limits
from meshmq.codec_checks import a_place, adds_up, bounded, in_log, short
from meshmq.errors import BadFrame, InvalidName
from meshmq.frames_moving import MOVED_BYTES
from meshmq.names import check_pattern


def an_id(data: bytes, what: str, or_none: bool = False) -> bytes:
    """16 bytes, or nothing where that may be; else BadFrame."""
    if len(data) != 16 and not (or_none and not data):
        raise BadFrame(f"{what} of {len(data)} bytes, it must be 16")
    return data


def _encode_ask(m: Any, b: frames_copies.AskCopy) -> None:
    m.init("askCopy").level = b.level


def _decode_ask(r: Any, _: bytes | None) -> frames_copies.AskCopy:
    return frames_copies.AskCopy(r.askCopy.level)


def _encode_fetch(m: Any, b: frames_copies.Fetch) -> None:
    f = m.init("fetch")
    f.number, f.origin, f.lsn, f.slot = b.number, b.origin, b.lsn, b.slot
    f.bytes, f.level, f.offset = b.credit, b.level, b.offset
    if b.topic_id:
        f.topicId = b.topic_id
    f.since, f.packs = b.since, b.packs
    f.wholeLsn, f.wholeSlot = b.whole
    _put_strands(f, b.strands)
    if b.had:
        for row, (stream, offset) in zip(f.init("had", len(b.had)), b.had, strict=True):
            row.stream, row.offset = stream, offset


def _put_strands(m: Any, strands: tuple[frames_copies.Strand, ...]) -> None:
    if not strands:
        return
    for row, strand in zip(m.init("strands", len(strands)), strands, strict=True):
        row.number, row.rank, row.lsn, row.slot, claims = strand
        _put_claims(row, claims)


def _put_claims(m: Any, claims: tuple[frames_copies.Claim, ...]) -> None:
    for row, claim in zip(m.init("claims", len(claims)), claims, strict=True):
        row.topics, row.exclude = claim


def _strands(rows: Any) -> tuple[frames_copies.Strand, ...]:
    if len(rows) > limits.STRANDS_MAX:
        raise BadFrame(f"{len(rows)} strands of a log, the limit is {limits.STRANDS_MAX}")
    return tuple(
        [
            frames_copies.Strand(x.number, x.rank, *a_place(x.lsn, x.slot), _claims(x.claims))
            for x in rows
        ]
    )


def _claims(rows: Any) -> tuple[frames_copies.Claim, ...]:
    if not 1 <= len(rows) <= limits.STRAND_CLAIMS_MAX:
        raise BadFrame(f"a strand of {len(rows)} claims, the limit is {limits.STRAND_CLAIMS_MAX}")
    return tuple([(link_patterns(x.topics), link_patterns(x.exclude)) for x in rows])


def _put_places(m: Any, places: tuple[frames_copies.StrandPlace, ...]) -> None:
    if places:
        for row, place in zip(m.init("places", len(places)), places, strict=True):
            row.number, row.lsn, row.slot = place


def _places(rows: Any) -> tuple[frames_copies.StrandPlace, ...]:
    if len(rows) > limits.STRANDS_MAX:
        raise BadFrame(f"places of {len(rows)} strands, the limit is {limits.STRANDS_MAX}")
    return tuple([frames_copies.StrandPlace(x.number, *a_place(x.lsn, x.slot)) for x in rows])


def _decode_fetch(r: Any, _: bytes | None) -> frames_copies.Fetch:
    f = r.fetch
    if len(f.had) > limits.STRAND_HAD_MAX:
        raise BadFrame(f"{len(f.had)} streams in part, the limit is {limits.STRAND_HAD_MAX}")
    return frames_copies.Fetch(
        f.number, an_id(f.origin, "an origin"), *a_place(f.lsn, f.slot), f.bytes, f.level,
        an_id(f.topicId, "a topic's id", True), f.offset, _strands(f.strands), f.since,
        tuple([(x.stream, x.offset) for x in f.had]), f.packs,
        a_place(f.wholeLsn, f.wholeSlot),
    )  # fmt: skip


def _sites(rows: Any) -> tuple[str, ...]:
    if len(rows) > limits.LINK_PATH_MAX:
        raise BadFrame(f"a log came by {len(rows)} sites, the limit is {limits.LINK_PATH_MAX}")
    return tuple([short(site) for site in rows])


def link_patterns(rows: Any) -> tuple[str, ...]:
    """Patterns of what a link between sites brings, at most LINK_PATTERNS_MAX."""
    if len(rows) > limits.LINK_PATTERNS_MAX:
        raise BadFrame(f"{len(rows)} patterns of a link, the limit is {limits.LINK_PATTERNS_MAX}")
    try:
        return tuple([check_pattern(short(pattern)) for pattern in rows])
    except InvalidName as error:
        raise BadFrame(str(error)) from None


def _encode_fetched(m: Any, b: frames_copies.Fetched) -> None:
    f = m.init("fetched")
    f.number, f.lsn, f.slot, f.size, f.strand = b.number, b.lsn, b.slot, b.size, b.strand
    f.flight = b.flight
    if b.streams is not None:
        f.streams, f.namesAll = b.streams, True
    _put_places(f, b.places)
    if b.code:
        f.code = b.code
    if b.message:
        f.message = b.message
    for row, t in zip(f.init("topics", len(b.topics)), b.topics, strict=True):
        row.stream, row.topicId, row.name, row.firstOffset, row.deleted, row.end, row.begins = t
    for row, x in zip(f.init("batches", len(b.batches)), b.batches, strict=True):
        (
            row.stream, row.baseOffset, row.count, row.length, row.checksum, row.appendTime,
            row.lsn, row.slot, row.damaged, row.producer, row.first, moved,
        ) = x  # fmt: skip
        if moved:
            row.moved = moved


def _decode_fetched(r: Any, payload: bytes | None) -> frames_copies.Fetched:
    f = r.fetched
    bounded(f.topics, "fetched")
    bounded(f.batches, "fetched")
    for t in f.topics:
        in_log(t.firstOffset, t.end, t.begins)
    if len(f.streams) > limits.LINK_STREAMS_MAX:
        raise BadFrame(f"{len(f.streams)} streams named in one frame")
    topics = tuple(
        [
            frames_copies.CopiedTopic(
                t.stream,
                an_id(t.topicId, "a topic's id"),
                short(t.name),
                t.firstOffset,
                t.deleted,
                t.end,
                t.begins,
            )
            for t in f.topics
        ]
    )
    batches = tuple([_read_batch(x) for x in f.batches])
    body = bytes(payload or b"")
    if f.size:
        _is_packed(batches, body, f.size)
    else:
        adds_up(batches, body)
    return frames_copies.Fetched(
        f.number, topics, batches, *a_place(f.lsn, f.slot), body, f.code, f.message, f.size,
        f.strand, _places(f.places), f.flight, tuple(f.streams) if f.namesAll else None,
    )  # fmt: skip


def _is_packed(batches: Sequence[frames_copies.CopiedBatch], block: bytes, size: int) -> None:
    if size > limits.FRAME_PAYLOAD_BYTES_MAX:
        raise BadFrame(f"a block of {size} bytes exceeds {limits.FRAME_PAYLOAD_BYTES_MAX}")
    if not block:
        raise BadFrame("a frame of one block has no bytes")
    total = sum([batch.length for batch in batches])
    if total != size:
        raise BadFrame(f"batches of {total} bytes in a block of {size}")


def _read_batch(x: Any) -> frames_copies.CopiedBatch:
    # What is damaged may be known as one run, of a whole segment.
    if x.count < 1 or (x.count > limits.BATCH_RECORDS_MAX and not x.damaged):
        raise BadFrame(f"copied batch of {x.count} records")
    if x.damaged and x.length:
        raise BadFrame("a damaged batch has no bytes")
    if len(x.moved) not in (0, MOVED_BYTES):
        raise BadFrame("a copied batch was moved from a node of 16 bytes, and a sequence")
    a_place(x.lsn, x.slot + 1)  # where it goes on, and is told of
    in_log(x.baseOffset + x.count, x.first + x.count)
    return frames_copies.CopiedBatch(
        x.stream, x.baseOffset, x.count, x.length, x.checksum, x.appendTime,
        x.lsn, x.slot, x.damaged, an_id(x.producer, "a producer"), x.first, bytes(x.moved),
    )  # fmt: skip


def _encode_copied(m: Any, b: frames_copies.Copied) -> None:
    c = m.init("copied")
    c.origin, c.lsn, c.slot, c.bytes, c.lacks = b.origin, b.lsn, b.slot, b.credit, b.lacks
    c.holes = b.holes
    _put_places(c, b.places)
    if b.problem:
        c.problem = b.problem


def _decode_copied(r: Any, _: bytes | None) -> frames_copies.Copied:
    c = r.copied
    return frames_copies.Copied(
        an_id(c.origin, "an origin"), *a_place(c.lsn, c.slot), c.bytes, c.lacks, short(c.problem),
        c.holes, _places(c.places),
    )  # fmt: skip


def _encode_copies(m: Any, b: frames_copies.Copies) -> None:
    build_copies(m.init("copies").init("rows", len(b.rows)), b.rows)


def build_copies(built: Any, rows: tuple[frames_copies.CopiesRow, ...]) -> None:
    """Rows of copies, in whatever frame."""
    for row, x in zip(built, rows, strict=True):
        (
            row.origin, row.name, row.lsn, row.slot, row.epoch, row.taker, row.taken, row.takenSlot,
            row.whole, row.forgotten, row.furthest, row.furthestSlot, row.lifted, strands, topics,
            exclude, row.since,
        ) = x  # fmt: skip
        _put_wish(row, strands, topics, exclude)


def _put_wish(
    m: Any,
    strands: tuple[frames_copies.Strand, ...],
    topics: tuple[str, ...],
    exclude: tuple[str, ...],
) -> None:
    _put_strands(m, strands)
    if topics:
        m.topics = topics
    if exclude:
        m.exclude = exclude


def _decode_copies(r: Any, _: bytes | None) -> frames_copies.Copies:
    return frames_copies.Copies(read_copies(r.copies.rows))


def read_copies(rows: Any) -> tuple[frames_copies.CopiesRow, ...]:
    """Read back ``build_copies``; BadFrame if it is malformed."""
    if len(rows) > limits.MIRRORS_MAX:
        raise BadFrame(f"copies of {len(rows)} logs in a frame, the limit is {limits.MIRRORS_MAX}")
    return tuple(
        [
            frames_copies.CopiesRow(
                an_id(x.origin, "an origin"), short(x.name), *a_place(x.lsn, x.slot), x.epoch,
                an_id(x.taker, "an origin", True), *a_place(x.taken, x.takenSlot), x.whole,
                x.forgotten, *a_place(x.furthest, x.furthestSlot), x.lifted, _strands(x.strands),
                link_patterns(x.topics), link_patterns(x.exclude), x.since,
            )
            for x in rows
        ]
    )  # fmt: skip


def _encode_log_offers(m: Any, b: frames_copies.LogOffers) -> None:
    for row, x in zip(m.init("logOffers").init("rows", len(b.rows)), b.rows, strict=True):
        (
            row.origin, row.name, row.site, row.lsn, row.slot, topics, exclude, path, strands,
            row.since, row.partial, row.clock,
        ) = x  # fmt: skip
        _put_wish(row, strands, topics, exclude)
        if path:
            row.path = path


def _a_clock(unix_ns: int) -> int:
    """What time it is somewhere. Raises BadFrame for one that nobody could count on from."""
    if not 0 <= unix_ns < 1 << 62:
        raise BadFrame(f"a clock at {unix_ns} ns")
    return unix_ns


def _decode_log_offers(r: Any, _: bytes | None) -> frames_copies.LogOffers:
    rows = r.logOffers.rows
    if len(rows) > limits.MIRRORS_MAX:
        raise BadFrame(f"{len(rows)} logs in a frame, the limit is {limits.MIRRORS_MAX}")
    return frames_copies.LogOffers(
        tuple(
            [
                frames_copies.LogOffer(
                    an_id(x.origin, "an origin"), short(x.name), short(x.site),
                    *a_place(x.lsn, x.slot), link_patterns(x.topics),
                    link_patterns(x.exclude), _sites(x.path), _strands(x.strands),
                    x.since, x.partial, _a_clock(x.clock),
                )
                for x in rows
            ]
        )
    )  # fmt: skip


def _encode_mirrored(m: Any, b: frames_copies.Mirrored) -> None:
    told = m.init("mirrored")
    told.origin = b.origin
    for row, x in zip(told.init("rows", len(b.rows)), b.rows, strict=True):
        row.site, claims, row.sinceLsn, row.sinceSlot, row.lsn, row.slot = x
        _put_claims(row, claims)


def _decode_mirrored(r: Any, _: bytes | None) -> frames_copies.Mirrored:
    rows = r.mirrored.rows
    if len(rows) > limits.MIRRORED_ROWS_MAX:
        raise BadFrame(f"{len(rows)} sites in a frame, the limit is {limits.MIRRORED_ROWS_MAX}")
    return frames_copies.Mirrored(
        an_id(r.mirrored.origin, "an origin"),
        tuple(
            [
                frames_copies.MirroredRow(
                    short(x.site),
                    _claims(x.claims),
                    x.sinceLsn,
                    x.sinceSlot,
                    *a_place(x.lsn, x.slot),
                )
                for x in rows
            ]
        ),
    )


ENCODERS: dict[type, Callable[..., None]] = {
    frames_copies.AskCopy: _encode_ask,
    frames_copies.Fetch: _encode_fetch,
    frames_copies.Fetched: _encode_fetched,
    frames_copies.Copied: _encode_copied,
    frames_copies.Copies: _encode_copies,
    frames_copies.LogOffers: _encode_log_offers,
    frames_copies.Mirrored: _encode_mirrored,
    **codec_verify.ENCODERS,
}

DECODERS: dict[str, Callable[..., Any]] = {
    "askCopy": _decode_ask,
    "fetch": _decode_fetch,
    "fetched": _decode_fetched,
    "copied": _decode_copied,
    "copies": _decode_copies,
    "logOffers": _decode_log_offers,
    "mirrored": _decode_mirrored,
    **codec_verify.DECODERS,
}

WITH_PAYLOAD = frozenset({_decode_fetched})
