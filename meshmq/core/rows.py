"""Rows of requests and replies: what they weigh, and how many go into one frame. For both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from meshmq import limits
from meshmq.frames import Reply, ReplyRow, Request, RequestRow

T = TypeVar("T")


def for_frames(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut items into runs, in order, each for one frame: at most FRAME_BATCHES_MAX items, and at
    most FRAME_PAYLOAD_BYTES_TARGET bytes of ``size_of`` or one larger item. No run is empty.

    ``size_of`` counts what an item takes in the payload and in the header (``request_bytes``,
    ``reply_bytes``): then neither outgrows its own bound.
    """
    run: list[T] = []
    size = 0
    for item in items:
        more = size_of(item)
        if run and (
            size + more > limits.FRAME_PAYLOAD_BYTES_TARGET or len(run) >= limits.FRAME_BATCHES_MAX
        ):
            yield run
            run, size = [], 0
        run.append(item)
        size += more
    if run:
        yield run


def is_one_frame(count: int, size: int) -> bool:
    """Whether so many items of so many bytes together go into one frame."""
    return size <= limits.FRAME_PAYLOAD_BYTES_TARGET and count <= limits.FRAME_BATCHES_MAX


def request_bytes(item: tuple[RequestRow, bytes]) -> int:
    """At most so many bytes of a frame are a request: its value, headers, names, the row itself."""
    row, data = item
    return len(data) + len(row.headers) + _text(row.service) + limits.ROW_OVERHEAD_BYTES


def reply_bytes(item: tuple[ReplyRow, bytes]) -> int:
    """At most so many bytes of a frame are a reply: its value, texts, names, the row itself."""
    row, data = item
    texts = row.instance
    if row.code or row.detail or row.message:
        texts += row.code + row.detail + row.message
    return len(data) + _text(texts) + limits.ROW_OVERHEAD_BYTES


def header_bytes(frame: Request | Reply) -> int:
    """At most so many bytes its rows are, besides their values."""
    size = len(frame.rows) * limits.ROW_OVERHEAD_BYTES
    if isinstance(frame, Reply):
        texts = [row.instance for row in frame.rows]
        texts += [row.code + row.detail + row.message for row in frame.rows]
    else:
        texts = [row.service for row in frame.rows]
        size += sum([len(row.headers) for row in frame.rows])
    return size + _text("".join(texts))


def _text(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)
