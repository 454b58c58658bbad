"""What a node's services send, by link: gathered, merged, and no more than the link takes.

Rules:
1. A session that has much unacknowledged is sent nothing more, for it ends at bounds of its own:
   its instances are handed nothing; its replies wait, and merged, what is told of its requests.
2. Replies that wait have a share for each link. A value beyond it is dropped, counted, and told in
   its place; a program that does not even take that is a laggard, whose session is to end.
3. When replies of all links together are too many, who has the most bears it.
4. While more than the node's budget is on its way over all links together, one that has more than
   CROWDED_UNACKED_BYTES of it is sent nothing more: many sessions that acknowledge nothing would
   each be harmless by rule 1, and fill the memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from meshmq import limits
from meshmq.core.replies import reply_of
from meshmq.core.rows import for_frames, is_one_frame, reply_bytes, request_bytes
from meshmq.errors import LinkLost
from meshmq.frames import Body, Cancel, Grant, ReplyRow, Request, RequestRow


class Outbox:
    """What waits to leave over one link."""

    __slots__ = ("cancels", "grants", "replies", "reply_bytes", "request_bytes", "requests")

    def __init__(self) -> None:
        self.requests: list[tuple[RequestRow, bytes, int]] = []  # with what each counts for
        self.request_bytes = 0
        self.cancels: list[int] = []
        self.grants: dict[int, int] = {}
        self.replies: deque[tuple[ReplyRow, bytes, int]] = deque()
        self.reply_bytes = 0

    @property
    def is_empty(self) -> bool:
        return not (self.requests or self.replies or self.cancels or self.grants)

    def take(self, size: int, frames: int, most: int) -> list[Body]:
        """Frames for a session with so many bytes and frames unacknowledged; replies as long as it
        has no more than ``most`` bytes. Requests, which were handed out, leave all of them, and
        what is told of them behind them."""
        bodies: list[Body] = []
        if self.requests:
            if is_one_frame(len(self.requests), self.request_bytes):
                bodies.append(_request_of(self.requests))
            else:
                bodies += [_request_of(run) for run in for_frames(self.requests, _size_of)]
            size += self.request_bytes
            self.requests, self.request_bytes = [], 0
        room = limits.SERVICES_UNACKED_FRAMES - frames - len(bodies)
        while self.cancels and room > 0:
            bodies.append(Cancel(tuple(self.cancels[: limits.FRAME_BATCHES_MAX])))
            del self.cancels[: limits.FRAME_BATCHES_MAX]
            room -= 1
        if self.grants:
            for number in list(islice(self.grants, max(0, room))):
                bodies.append(Grant(number, self.grants.pop(number)))
                room -= 1
        if self.replies:
            self._take_replies(bodies, size, room, most)
        return bodies

    def _take_replies(self, bodies: list[Body], size: int, room: int, most: int) -> None:
        if size > most or room <= 0:
            return  # not to make up in each turn what cannot leave
        if is_one_frame(len(self.replies), self.reply_bytes):
            bodies.append(reply_of(self.replies))
            self.replies.clear()
            self.reply_bytes = 0
            return
        count = 0
        for run in for_frames(self.replies, _size_of):
            if size > most or room <= 0:
                break
            bodies.append(reply_of(run))
            size += sum(map(_size_of, run))
            room -= 1
            count += len(run)
        for _ in range(count):
            self.reply_bytes -= self.replies.popleft()[2]


class Outgoing:
    """What waits to leave over all links.

    Args:
        unacked: of a link: bytes and frames that were sent over it and are not acknowledged.
        is_crowded: whether rule 4 is on.

    Attributes:
        boxes: those of links for which something waits.
        backlog: bytes of replies that wait.
        dropped: replies that had no room.
        wide: links of siblings: they have the bounds of rule 1 for programs behind them, and carry
            records for many.
        laggards: links whose sessions are to end, with the sentence to say. Their replies are gone.
    """

    def __init__(
        self, unacked: Callable[[bytes], tuple[int, int]], is_crowded: Callable[[], bool]
    ) -> None:
        self.boxes: dict[bytes, Outbox] = {}
        self.backlog = 0
        self.dropped = 0
        self.wide: set[bytes] = set()
        self.laggards: dict[bytes, str] = {}
        self._unacked = unacked
        self._is_crowded = is_crowded
        self._all: dict[bytes, Outbox] = {}

    def _box(self, link: bytes) -> Outbox:
        box = self.boxes.get(link)
        if box is None:
            box = self._all.get(link)
            if box is None:
                box = self._all[link] = Outbox()
            self.boxes[link] = box
        return box

    def request(self, link: bytes, row: RequestRow, data: bytes) -> None:
        """Hand a request to an instance over ``link``."""
        box = self._box(link)
        size = request_bytes((row, data))
        if box.grants:  # for who had it over this link before: the row counts it
            box.grants.pop(row.id, None)
        box.requests.append((row, data, size))
        box.request_bytes += size

    def cancel(self, link: bytes, number: int) -> None:
        """Nobody waits for it any more."""
        self._box(link).cancels.append(number)

    def grant(self, link: bytes, number: int, size: int) -> None:
        """So much more of a stream may come."""
        grants = self._box(link).grants
        grants[number] = grants.get(number, 0) + size

    def is_full(self, link: bytes) -> bool:
        """Whether an instance behind ``link`` is to get nothing more before it acknowledges."""
        size, frames = self._unacked(link)
        box = self.boxes.get(link)
        if box is not None:
            size += box.request_bytes
            frames += 1
        most = limits.REQUESTS_UNACKED_BYTES
        if link in self.wide:
            most = limits.SIBLING_UNACKED_BYTES
        if size > limits.CROWDED_UNACKED_BYTES and self._is_crowded():
            most = limits.CROWDED_UNACKED_BYTES
        return size >= most or frames >= limits.SERVICES_UNACKED_FRAMES

    def reply(self, link: bytes, row: ReplyRow, data: bytes) -> bool:
        """Whether there is room for it; else the requester is told so in its place."""
        if link in self.laggards:
            return False
        box = self._box(link)
        size = reply_bytes((row, data))
        has_room = True
        if data and not self._has_room(box, size):
            has_room = False
            self.dropped += 1
            why = "a reply was dropped: its requester does not take what it was sent"
            # Not Busy, which says that nothing was done.
            row = ReplyRow(row.id, False, row.end, LinkLost.code, "", why, row.instance)
            data = b""
            size = reply_bytes((row, data))
        if not data and not self._has_room(box, size, limits.REPLY_TOLD_BYTES_MAX):
            self._give_up(link)
            return False
        box.replies.append((row, data, size))
        box.reply_bytes += size
        self.backlog += size
        return has_room

    def _has_room(self, box: Outbox, size: int, more: int = 0) -> bool:
        """Whether so much may wait for it, and ``more``; others that have more make room."""
        if box.reply_bytes + size > limits.REPLY_BACKLOG_BYTES_MAX + more:
            return False
        while self.backlog + size > limits.REPLY_BACKLOGS_BYTES_MAX + more:
            most = max(self.boxes, key=lambda link: self.boxes[link].reply_bytes)
            if self.boxes[most].reply_bytes <= box.reply_bytes + size:
                return False
            self._give_up(most)
        return True

    def _give_up(self, link: bytes) -> None:
        box = self.boxes[link]
        self.laggards[link] = (
            f"the program does not take its replies: {box.reply_bytes} bytes of them wait, more "
            f"than the node has room for"
        )
        self.dropped += sum([row.has_value for row, _, _ in box.replies])
        self._clear(box)

    def _clear(self, box: Outbox) -> None:
        self.backlog -= box.reply_bytes
        box.reply_bytes = 0
        box.replies.clear()

    def drop_link(self, link: bytes) -> None:
        """Its session is over."""
        self.wide.discard(link)
        self.laggards.pop(link, None)
        self.boxes.pop(link, None)
        box = self._all.pop(link, None)
        if box is not None:
            self._clear(box)

    def take(self) -> list[tuple[bytes, Body]]:
        """Frames to send now."""
        sends: list[tuple[bytes, Body]] = []
        crowded = self._is_crowded()
        most = limits.CROWDED_UNACKED_BYTES if crowded else limits.REPLIES_UNACKED_BYTES
        for link, box in list(self.boxes.items()):
            waiting = box.reply_bytes
            is_wide = link in self.wide and not crowded
            bound = limits.SIBLING_UNACKED_BYTES if is_wide else most
            sends += [(link, body) for body in box.take(*self._unacked(link), bound)]
            self.backlog += box.reply_bytes - waiting
            if box.is_empty:
                del self.boxes[link]
        return sends


def _size_of(item: tuple[RequestRow | ReplyRow, bytes, int]) -> int:
    return item[2]


def _request_of(items: list[tuple[RequestRow, bytes, int]]) -> Request:
    if len(items) == 1:
        return Request((items[0][0],), items[0][1])
    return Request(tuple([item[0] for item in items]), b"".join([item[1] for item in items]))
