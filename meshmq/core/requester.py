"""The asking side of a client: requests over any number of sessions.

Rules:
1. A call ends once: with its last reply, an error, or its deadline, which this machine keeps itself
   whatever the node does.
2. What was not sent is sent in the next session. What was sent and has no reply when its session
   ends is asked again only if it is idempotent, nothing of it has come, and it was in fewer than
   REQUEST_ATTEMPTS_MAX sessions; else it is lost, and whether it was done is unknown. So it is of
   what was asked again and then not done.
3. Of a stream no more comes than the program takes: bytes it has taken are granted again, and for
   each value RECORD_OVERHEAD_BYTES, or empty ones would have no bound.
4. What a session takes no more of, unacknowledged, waits here.
5. A call goes by the node or directly (``way``). One that certainly was not done may change.

The program's threads and whoever sees to the socket call it at the same time: ``guard`` is held
for whatever changes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.rows import for_frames, request_bytes
from meshmq.errors import (
    NOT_DONE,
    DeadlineExceeded,
    LinkLost,
    MeshError,
    NodeUnreachable,
    ServiceError,
    from_code,
)
from meshmq.frames import (
    EACH,
    ONE,
    Body,
    Cancel,
    Grant,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
)

BY_NODE, DIRECTLY = "node", "direct"


class Call:
    """One request of the program.

    Attributes:
        pin: the way it must take: BY_NODE, DIRECTLY, or empty.
        way: the one it took last, or empty.
        replies: rows with their values that the program has not taken.
        is_over: nothing more comes; ``error`` says why, if it did not end well.
        lost: how many sessions have ended in which it was sent.
        owner: whose it is; the machine never looks at it.
    """

    __slots__ = (
        "any", "data", "deadline_ns", "error", "headers", "id", "idempotent", "is_over", "kind",
        "lost", "owed", "owner", "pin", "replies", "sent", "service", "way", "window",
    )  # fmt: skip

    def __init__(
        self, service: str, data: bytes, headers: bytes, kind: int, idempotent: bool,
        deadline_ns: int, window: int = 0, owner: Any = None, pin: str = "",
    ) -> None:  # fmt: skip
        self.id = 0
        self.pin = pin
        self.way = BY_NODE
        self.service = service
        self.data = data
        self.headers = headers
        self.kind = kind
        self.idempotent = idempotent
        self.deadline_ns = deadline_ns
        self.window = window
        self.owner = owner
        self.replies: deque[tuple[ReplyRow, bytes]] = deque()
        self.is_over = False
        self.error: MeshError | None = None
        self.sent = False
        self.lost = 0
        self.any = False
        self.owed = 0  # taken of a stream and not granted again


class Requester:
    """All calls of a client.

    Args:
        guard: see the module's header.

    Attributes:
        ended: calls that are over or have something new; taken by ``take_news``.
        is_paused: nothing new is asked; set by the owner.
    """

    def __init__(self, guard: AbstractContextManager[Any]) -> None:
        self.is_paused = False
        self.calls: dict[int, Call] = {}
        self.ended: list[Call] = []
        self._guard = guard
        self._held: deque[Call] = deque()
        self._unsent: deque[Call] = deque()
        self._cancels: dict[str, list[int]] = {BY_NODE: [], DIRECTLY: []}
        self._grants: dict[int, int] = {}
        self._abandoned: deque[Call] = deque()
        self._deadlines: list[tuple[int, int]] = []
        self._failed: MeshError | None = None
        self._last_id = 0

    @property
    def has_work(self) -> bool:
        return bool(
            (self._unsent and not self.is_paused)
            or self._cancels[BY_NODE]
            or self._cancels[DIRECTLY]
            or self._grants
            or self._abandoned
        )

    @property
    def unsent(self) -> int:
        """How many calls ``take`` has not seen."""
        return len(self._unsent)

    @property
    def has_held(self) -> bool:
        """Whether calls wait for the node's session to take more."""
        return bool(self._held) and not self.is_paused

    # -- what the program says, from any thread -------------------------------------------------

    def add(self, call: Call) -> None:
        """Ask; ``take`` sends it. After ``fail_all`` it is over at once."""
        with self._guard:
            self._last_id += 1
            call.id = self._last_id
            if self._failed is not None:
                self._fail(call, self._failed)
                return
            self.calls[call.id] = call
            if len(self._deadlines) > 2 * len(self.calls) + 1024:
                self._deadlines = [(c.deadline_ns, c.id) for c in self.calls.values()]
                heapq.heapify(self._deadlines)
            else:
                heapq.heappush(self._deadlines, (call.deadline_ns, call.id))
            if len(self._unsent) > 2 * len(self.calls) + 1024:
                self._unsent = deque([c for c in self._unsent if not c.is_over])
            self._unsent.append(call)

    def cancel(self, call: Call) -> None:
        """The program no longer waits: the call is over, without an error."""
        with self._guard:
            self._cancel(call)

    def abandon(self, call: Call) -> None:
        """As ``cancel``, with the next ``take``. Takes no lock: the garbage collector may call it
        in a thread that holds the guard."""
        self._abandoned.append(call)

    def fail(self, call: Call, error: MeshError) -> None:
        """The connection is over: so is the call, with ``error`` if nothing of it was sent."""
        with self._guard:
            if call.id in self.calls:
                self._fail(call, error)

    def taken(self, call: Call, size: int) -> None:
        """The program has taken a value of so many bytes of a stream."""
        with self._guard:
            call.owed += size + limits.RECORD_OVERHEAD_BYTES
            if not call.is_over and 2 * call.owed >= call.window:
                self._grants[call.id] = self._grants.get(call.id, 0) + call.owed
                call.owed = 0

    # -- the session's side ---------------------------------------------------------------------

    def take(
        self,
        now_ns: int,
        most_bytes: int = limits.CALLS_UNACKED_BYTES_MAX,
        most_frames: int = limits.CALLS_UNACKED_FRAMES_MAX,
    ) -> list[Body]:
        """Frames to send: not more than ``most_frames``, and values of ``most_bytes`` and one."""
        return self.take_by(lambda call: BY_NODE, now_ns, most_bytes, most_frames)[0]

    def take_by(
        self,
        way_of: Callable[[Call], str],
        now_ns: int,
        most_bytes: int,
        most_frames: int,
    ) -> tuple[list[Body], list[Body]]:
        """Frames to send by the node (see ``take``), and directly: of those there is no bound."""
        by_node: list[Body] = []
        direct: list[Body] = []
        with self._guard:
            if self._abandoned:
                self._cancel_abandoned()
            if self._cancels[BY_NODE] or self._cancels[DIRECTLY]:
                self._take_cancels(BY_NODE, by_node, most_frames)
                self._take_cancels(DIRECTLY, direct, limits.CALLS_UNACKED_FRAMES_MAX)
            if self._grants:
                for number in list(self._grants):
                    call = self.calls.get(number)
                    if call is not None and call.way == DIRECTLY:
                        direct.append(Grant(number, self._grants.pop(number)))
                    elif len(by_node) < most_frames:
                        by_node.append(Grant(number, self._grants.pop(number)))
            if (self._unsent or self._held) and not self.is_paused:
                self._take_requests(by_node, direct, way_of, now_ns, most_bytes, most_frames)
        return by_node, direct

    def _take_cancels(self, way: str, bodies: list[Body], most_frames: int) -> None:
        cancels = self._cancels[way]
        while cancels and len(bodies) < most_frames:
            bodies.append(Cancel(tuple(cancels[: limits.FRAME_BATCHES_MAX])))
            del cancels[: limits.FRAME_BATCHES_MAX]

    def _take_requests(
        self, by_node: list[Body], direct: list[Body], way_of: Callable[[Call], str],
        now_ns: int, most_bytes: int, most_frames: int,
    ) -> None:  # fmt: skip
        most_rows = most_frames - len(by_node)  # each is in one frame: there are no more of these
        rows_by_node: list[tuple[RequestRow, bytes]] = []
        rows_direct: list[tuple[RequestRow, bytes]] = []
        held, unsent = self._held, self._unsent
        size = 0
        while held or unsent:
            has_room = size < most_bytes and len(rows_by_node) < most_rows
            if held and has_room:
                call, way = held.popleft(), BY_NODE
            elif unsent:
                call = unsent.popleft()
                way = call.pin or way_of(call)
                if way == BY_NODE and not has_room:
                    held.append(call)
                    continue
            else:
                break
            if call.is_over or call.deadline_ns <= now_ns:
                continue
            call.sent = True
            call.way = way
            data = call.data
            row = RequestRow(
                call.id, 0, call.service, call.deadline_ns - now_ns, call.kind,
                call.idempotent, call.window, call.headers, len(data),
            )  # fmt: skip
            if way == BY_NODE:
                rows_by_node.append((row, data))
                size += len(data)
            else:
                rows_direct.append((row, data))
        if rows_by_node:
            by_node += _frames_of(rows_by_node)
        if rows_direct:
            direct += _frames_of(rows_direct)

    def on_reply(self, frame: Reply) -> None:
        """Take replies; those of calls that are over are dropped."""
        alone = len(frame.rows) == 1
        at = 0
        with self._guard:
            for row in frame.rows:
                data = frame.payload if alone else frame.payload[at : at + row.length]
                at += row.length
                call = self.calls.get(row.id)
                if call is not None:
                    self._on_row(call, row, data)

    def _on_row(self, call: Call, row: ReplyRow, data: bytes) -> None:
        call.any = True
        if call.kind == ONE:
            if row.code:
                self._end(call, error_of(row))
                return
            call.replies.append((row, data))
            self._end(call, None)
            return
        if call.kind == EACH:
            if row.end:
                self._end(call, error_of(row) if row.code else None)
            else:
                call.replies.append((row, data))
                self.ended.append(call)
            return
        if not row.code and row.has_value:
            call.replies.append((row, data))
            self.ended.append(call)
        if row.end or row.code:
            self._end(call, error_of(row) if row.code else None)

    def on_session_lost(self) -> None:
        """The session with the node is over; see rule 2."""
        with self._guard:
            self._cancel_abandoned()
            self._cancels[BY_NODE].clear()
            again: list[Call] = []
            for call in list(self.calls.values()):
                if not call.sent or call.way != BY_NODE:
                    continue
                self._grants.pop(call.id, None)
                call.lost += 1
                if not call.idempotent or call.any or call.kind == EACH:
                    hint = " (idempotent=True asks again by itself)" if call.kind == ONE else ""
                elif call.lost >= limits.REQUEST_ATTEMPTS_MAX:
                    hint = f" (it was asked over {call.lost} links that were lost)"
                else:
                    call.sent = False
                    again.append(call)
                    continue
                why = f"the link to the node was lost before {call.service!r} had answered"
                self._end(call, LinkLost(f"{why}; whether it was done is unknown{hint}"))
            self._unsent.extendleft(reversed([*again, *self._held]))
            self._held.clear()

    def again(self, number: int, *, is_lost: bool) -> bool:
        """Ask again, by the node: directly it was not done, or (``is_lost``) it may have been, may
        be done twice, and nothing of it has come. False: it cannot be."""
        with self._guard:
            call = self.calls.get(number)
            if call is None or call.any or call.pin or call.way != DIRECTLY:
                return False
            call.sent = False
            call.lost += is_lost
            call.pin = BY_NODE
            self._unsent.append(call)
            return True

    def tick(self, now_ns: int, is_connected: bool = False) -> None:
        """End what is over its deadline."""
        with self._guard:
            while self._deadlines and self._deadlines[0][0] <= now_ns:
                call = self.calls.get(heapq.heappop(self._deadlines)[1])
                if call is None:
                    continue
                if call.sent:
                    self._cancels[call.way].append(call.id)
                    why = f"{call.service!r} did not answer in time"
                    self._end(call, DeadlineExceeded(why))
                elif is_connected:
                    why = f"there was no time to send what was asked of {call.service!r}"
                    self._end(call, NodeUnreachable(f"{why}; nothing was asked"))
                else:
                    why = f"no node was there in time to ask {call.service!r}; nothing was asked"
                    self._end(call, NodeUnreachable(why))

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        if not self._deadlines:
            return None
        with self._guard:
            deadlines = self._deadlines
            while deadlines and deadlines[0][1] not in self.calls:
                heapq.heappop(deadlines)
            return deadlines[0][0] if deadlines else None

    def fail_all(self, error: MeshError) -> None:
        """The connection is over: so is every call, and what is added later; see ``fail``."""
        with self._guard:
            if self._failed is None:
                self._failed = error
            for call in list(self.calls.values()):
                self._fail(call, error)
            self._unsent.clear()
            self._held.clear()
            for cancels in self._cancels.values():
                cancels.clear()
            self._grants.clear()
            self._abandoned.clear()

    def take_news(self) -> list[Call]:
        """Calls that are over or got something since the last time."""
        with self._guard:
            ended, self.ended = self.ended, []
        return ended

    # -- under the guard ------------------------------------------------------------------------

    def _cancel(self, call: Call) -> None:
        if call.id in self.calls:
            if call.sent:
                self._cancels[call.way].append(call.id)
            self._end(call, None)

    def _cancel_abandoned(self) -> None:
        while self._abandoned:
            self._cancel(self._abandoned.popleft())

    def _fail(self, call: Call, error: MeshError) -> None:
        if call.sent or call.lost:
            error = LinkLost(
                f"{error}; {call.service!r} had not answered, whether it was done is unknown"
            )
        self._end(call, error)

    def _end(self, call: Call, error: MeshError | None) -> None:
        self.calls.pop(call.id, None)
        if self._grants:
            self._grants.pop(call.id, None)
        if error is not None and call.lost and error.outcome == NOT_DONE:
            error = LinkLost(
                f"the link to the node was lost before {call.service!r} had answered, and when it "
                f"was asked again: {error}; whether it was done is unknown"
            )
        call.error = error
        call.is_over = True
        call.data = b""
        self.ended.append(call)


def _frames_of(items: list[tuple[RequestRow, bytes]]) -> list[Request]:
    if len(items) == 1:
        return [Request((items[0][0],), items[0][1])]
    return [
        Request(tuple([row for row, _ in run]), b"".join([data for _, data in run]))
        for run in for_frames(items, request_bytes)
    ]


def error_of(row: ReplyRow) -> MeshError:
    """The error that a reply brings."""
    if row.code == ServiceError.code:
        return ServiceError(row.message, row.detail or ServiceError.code)
    return from_code(row.code, row.message)
