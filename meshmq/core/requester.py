"""The asking side of a client: requests over any number of sessions.

Rules:
1. A call ends once: with its last reply, an error, or its deadline, which this machine keeps itself
   whatever the node does.
2. What was not sent is sent in the next session. What was sent and has no reply when its session
   ends is asked again only if it is idempotent and nothing of it has come; else it is lost, and
   whether it was done is unknown. So it is of what was asked again and then not done.
3. Of a stream no more comes than the program takes: bytes it has taken are granted again.
"""

from __future__ import annotations

import heapq
from collections import deque
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.errors import (
    NOT_DONE,
    DeadlineExceeded,
    LinkLost,
    MeshError,
    NodeUnreachable,
    ServiceError,
    from_code,
)
from meshmq.frames import EACH, STREAM, Body, Cancel, Grant, Reply, ReplyRow, Request, RequestRow


class Call:
    """One request of the program.

    Attributes:
        replies: rows with their values that the program has not taken.
        is_over: nothing more comes; ``error`` says why, if it did not end well.
        again: it was sent in an earlier session, too.
        owner: whose it is; the machine never looks at it.
    """

    __slots__ = (
        "again", "any", "data", "deadline_ns", "error", "headers", "id", "idempotent", "is_over",
        "kind", "owed", "owner", "replies", "sent", "service", "window",
    )  # fmt: skip

    def __init__(
        self, service: str, data: bytes, headers: bytes, kind: int, idempotent: bool,
        deadline_ns: int, window: int = 0, owner: Any = None,
    ) -> None:  # fmt: skip
        self.id = 0
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
        self.again = False
        self.any = False
        self.owed = 0


class Requester:
    """All calls of a client.

    Args:
        guard: held while a call is added, so that any thread may.
    """

    def __init__(self, guard: AbstractContextManager[Any]) -> None:
        self.calls: dict[int, Call] = {}
        self.ended: list[Call] = []  # or with something new; taken by ``take_news``
        self._guard = guard
        self._unsent: deque[Call] = deque()
        self._told: deque[Cancel | Grant] = deque()
        self._deadlines: list[tuple[int, int]] = []
        self._last_id = 0

    @property
    def has_work(self) -> bool:
        return bool(self._unsent or self._told)

    def add(self, call: Call) -> None:
        """Ask, from any thread; ``take`` sends it."""
        with self._guard:
            self._last_id += 1
            call.id = self._last_id
            self.calls[call.id] = call
            if len(self._deadlines) > 2 * len(self.calls) + 1024:
                self._deadlines = [(c.deadline_ns, c.id) for c in self.calls.values()]
                heapq.heapify(self._deadlines)
            else:
                heapq.heappush(self._deadlines, (call.deadline_ns, call.id))
            self._unsent.append(call)

    def cancel(self, call: Call) -> None:
        """The program no longer waits, from any thread."""
        with self._guard:
            if self.calls.pop(call.id, None) is not None:
                call.is_over = True
                if call.sent:
                    self._told.append(Cancel((call.id,)))

    def taken(self, call: Call, size: int) -> None:
        """The program has taken so many bytes of a stream, from any thread."""
        call.owed += size
        if not call.is_over and 2 * call.owed >= call.window:
            owed, call.owed = call.owed, 0
            self._told.append(Grant(call.id, owed))

    def take(self, now_ns: int) -> list[Body]:
        """Frames to send."""
        bodies: list[Body] = []
        while self._told:
            bodies.append(self._told.popleft())
        if not self._unsent:
            return bodies
        with self._guard:
            return bodies + self._requests(now_ns)

    def _requests(self, now_ns: int) -> list[Body]:
        bodies: list[Body] = []
        rows: list[RequestRow] = []
        parts: list[bytes] = []
        size = 0
        while self._unsent:
            call = self._unsent.popleft()
            if call.is_over or call.deadline_ns <= now_ns:
                continue
            if rows and (
                len(rows) >= limits.FRAME_BATCHES_MAX
                or size + len(call.data) > limits.FRAME_PAYLOAD_BYTES_TARGET
            ):
                bodies.append(Request(tuple(rows), b"".join(parts)))
                rows, parts, size = [], [], 0
            call.sent = True
            rows.append(
                RequestRow(
                    call.id, 0, call.service, call.deadline_ns - now_ns, call.kind,
                    call.idempotent, call.window, call.headers, len(call.data),
                )
            )  # fmt: skip
            parts.append(call.data)
            size += len(call.data)
        if rows:
            payload = parts[0] if len(parts) == 1 else b"".join(parts)
            bodies.append(Request(tuple(rows), payload))
        return bodies

    def on_reply(self, frame: Reply) -> None:
        """Take replies; those of calls that are over are dropped."""
        alone = len(frame.rows) == 1
        at = 0
        for row in frame.rows:
            data = frame.payload if alone else frame.payload[at : at + row.length]
            at += row.length
            call = self.calls.get(row.id)
            if call is None:
                continue
            call.any = True
            if call.kind == EACH:
                if row.end:
                    self._end(call, error_of(row) if row.code else None)
                else:
                    call.replies.append((row, data))
                    self.ended.append(call)
                continue
            if not row.code and (row.has_value or call.kind != STREAM):
                call.replies.append((row, data))
                self.ended.append(call)
            if row.end or row.code or call.kind != STREAM:
                self._end(call, error_of(row) if row.code else None)

    def on_session_lost(self) -> None:
        """See rule 2."""
        self._told.clear()
        again: list[Call] = []
        for call in list(self.calls.values()):
            if not call.sent:
                continue
            if call.idempotent and not call.any and call.kind != EACH:
                call.sent = False
                call.again = True
                again.append(call)
            else:
                self._end(
                    call,
                    LinkLost(
                        f"the link to the node was lost before {call.service!r} had answered; "
                        f"whether it was done is unknown (idempotent=True asks again by itself)"
                    ),
                )
        self._unsent.extendleft(reversed(again))

    def tick(self, now_ns: int) -> None:
        """End what is over its deadline."""
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            with self._guard:
                _, number = heapq.heappop(self._deadlines)
                call = self.calls.get(number)
            if call is None:
                continue
            if call.sent:
                self._told.append(Cancel((number,)))
                self._end(call, DeadlineExceeded(f"{call.service!r} did not answer in time"))
            else:
                why = f"no node was there in time to ask {call.service!r}; nothing was asked"
                self._end(call, NodeUnreachable(why))

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        deadlines = self._deadlines
        if deadlines and deadlines[0][1] not in self.calls:
            with self._guard:
                while deadlines and deadlines[0][1] not in self.calls:
                    heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def fail_all(self, error: MeshError) -> None:
        """Give up."""
        for call in list(self.calls.values()):
            self._end(call, error)
        self._unsent.clear()
        self._told.clear()

    def take_news(self) -> list[Call]:
        """Calls that have ended or got something since the last time."""
        ended, self.ended = self.ended, []
        return ended

    def _end(self, call: Call, error: MeshError | None) -> None:
        self.calls.pop(call.id, None)
        if error is not None and call.again and error.outcome == NOT_DONE:
            error = LinkLost(
                f"the link to the node was lost before {call.service!r} had answered, and when it "
                f"was asked again: {error}; whether it was done is unknown"
            )
        call.error = error
        call.is_over = True
        call.data = b""
        self.ended.append(call)


def error_of(row: ReplyRow) -> MeshError:
    """The error that a reply brings."""
    if row.code == ServiceError.code:
        return ServiceError(row.message, row.detail or ServiceError.code)
    return from_code(row.code, row.message)
