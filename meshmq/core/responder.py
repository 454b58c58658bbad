"""The answering side of a client: registrations of services, requests at work, replies.

Rules:
1. A registration outlives sessions; what came in a session that is lost is at most worked to its
   end, its reply goes nowhere.
2. A request is at work from when the program takes it. One that is cancelled or past its deadline
   before that is never shown to the program.
3. Every request that came is answered once with an end, so that its place is free again: also one
   that was cancelled, and one that is given back.
4. What a session takes no more of, unacknowledged, waits here.

The program's threads and whoever sees to the socket call it at the same time: ``guard`` is held
for whatever changes.
"""

from __future__ import annotations

import heapq
from collections import deque
from contextlib import AbstractContextManager
from typing import Any

from meshmq import limits
from meshmq.core.replies import replies
from meshmq.errors import Busy, MeshError, ServiceError
from meshmq.frames import (
    RETURNED,
    Body,
    Cancel,
    Grant,
    ReplyRow,
    Request,
    RequestRow,
    Serve,
)


class Incoming:
    """One request for the program.

    Attributes:
        cancelled: why nobody waits for it any more: ``"cancelled"``, ``"deadline"``, ``"lost"``;
            or empty.
        window: bytes that may be sent of a stream, with RECORD_OVERHEAD_BYTES for each value; what
            is sent may exceed it by one value.
        task: the program's own, for whoever works on it.
    """

    __slots__ = (
        "cancelled", "data", "deadline_ns", "headers", "id", "is_begun", "is_over", "kind",
        "registration", "session", "task", "window",
    )  # fmt: skip

    def __init__(
        self, registration: Registration, row: RequestRow, data: bytes, session: int, now_ns: int
    ) -> None:
        self.registration = registration
        self.id = row.id
        self.kind = row.kind
        self.window = min(row.window, limits.STREAM_WINDOW_BYTES_MAX)
        self.headers = row.headers
        self.data = data
        self.session = session
        self.deadline_ns = now_ns + min(row.remaining_ns, limits.REQUEST_TIMEOUT_NS_MAX)
        self.cancelled = ""
        self.is_begun = False
        self.is_over = False
        self.task: Any = None


class Registration:
    """One service that the program serves.

    Attributes:
        queue: requests that the program has not taken.
        held: those that came and have no end, by the node's number.
        is_serving: whether the node has let it in, in this session.
        is_ended: the node hands out nothing more; ``error`` says why, unless it was asked to.
    """

    __slots__ = ("concurrency", "error", "held", "id", "is_ended", "is_leaving", "is_serving",
                 "owner", "queue", "service")  # fmt: skip

    def __init__(self, number: int, service: str, concurrency: int, owner: Any) -> None:
        self.id = number
        self.service = service
        self.concurrency = concurrency
        self.owner = owner
        self.queue: deque[Incoming] = deque()
        self.held: dict[int, Incoming] = {}
        self.is_serving = False
        self.is_leaving = False
        self.is_ended = False
        self.error: MeshError | None = None

    def serve(self) -> Serve:
        """The frame that registers it in a session."""
        return Serve(self.id, self.service, self.concurrency)


class Responder:
    """All registrations of a client. The program's threads call what says so.

    Args:
        guard: see the module's header.
    """

    def __init__(self, guard: AbstractContextManager[Any]) -> None:
        self.registrations: dict[int, Registration] = {}
        self.stopped: list[Incoming] = []  # at work, and nobody waits for them: ``take_stopped``
        self.came: set[Registration] = set()  # have something new for their program
        self._guard = guard
        self._incoming: dict[int, Incoming] = {}
        self._replies: deque[tuple[int, ReplyRow, bytes]] = deque()
        self._deadlines: list[tuple[int, int]] = []
        self._session = 0

    @property
    def has_work(self) -> bool:
        return bool(self._replies)

    def on_request(self, frame: Request, now_ns: int) -> None:
        """Take requests for the program: never more of them than it said it has room for."""
        payload, alone = frame.payload, len(frame.rows) == 1
        at = 0
        with self._guard:
            for row in frame.rows:
                data = payload if alone else payload[at : at + row.length]
                at += row.length
                registration = self.registrations.get(row.registration)
                if row.id in self._incoming:
                    continue  # it is here already, and will be answered
                if registration is None or registration.is_leaving:
                    self._put(self._session, ReplyRow(row.id, False, True, RETURNED), b"")
                elif len(registration.held) >= registration.concurrency:
                    why = f"more than {registration.concurrency} requests at a time"
                    refusal = ReplyRow(row.id, False, True, Busy.code, "", why)
                    self._put(self._session, refusal, b"")
                else:
                    self._enter(Incoming(registration, row, data, self._session, now_ns))

    def _enter(self, incoming: Incoming) -> None:
        number, registration = incoming.id, incoming.registration
        self._incoming[number] = incoming
        registration.held[number] = incoming
        registration.queue.append(incoming)
        if len(self._deadlines) > 2 * len(self._incoming) + 1024:
            self._deadlines = [(i.deadline_ns, i.id) for i in self._incoming.values()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (incoming.deadline_ns, number))
        self.came.add(registration)

    def begin(self, registration: Registration) -> Incoming | None:
        """The next request that somebody waits for; for the program's threads."""
        with self._guard:
            while registration.queue:
                incoming = registration.queue.popleft()
                if not incoming.cancelled:
                    incoming.is_begun = True
                    return incoming
                late = "deadline-exceeded" if incoming.cancelled == "deadline" else ""
                self._end(incoming, ReplyRow(incoming.id, False, True, late), b"")
        return None

    def give_back(self, registration: Registration) -> None:
        """What the program has not begun goes to other instances; for the program's threads."""
        with self._guard:
            while registration.queue:
                incoming = registration.queue.popleft()
                self._end(incoming, ReplyRow(incoming.id, False, True, RETURNED), b"")

    def on_cancel(self, frame: Cancel) -> None:
        """Nobody waits for these."""
        with self._guard:
            for number in frame.ids:
                self._stop(self._incoming.get(number), "cancelled")

    def on_grant(self, frame: Grant) -> None:
        """More of a stream may be sent."""
        with self._guard:
            incoming = self._incoming.get(frame.id)
            if incoming is not None:
                more = incoming.window + frame.bytes
                incoming.window = min(more, limits.STREAM_WINDOW_BYTES_MAX)
                self.came.add(incoming.registration)

    def _stop(self, incoming: Incoming | None, why: str) -> None:
        if incoming is None or incoming.cancelled or incoming.is_over:
            return
        incoming.cancelled = why
        if incoming.is_begun:
            self.stopped.append(incoming)
        self.came.add(incoming.registration)  # one that waits for room, or is not begun

    def on_session_lost(self) -> None:
        """See rule 1."""
        with self._guard:
            self._session += 1
            self._replies.clear()
            self._deadlines.clear()
            for incoming in self._incoming.values():
                self._stop(incoming, "lost")
            self._incoming.clear()
            for registration in self.registrations.values():
                registration.is_serving = False
                registration.queue.clear()
                registration.held.clear()

    def tick(self, now_ns: int) -> None:
        """Stop what is past its deadline."""
        with self._guard:
            while self._deadlines and self._deadlines[0][0] <= now_ns:
                self._stop(self._incoming.get(heapq.heappop(self._deadlines)[1]), "deadline")

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        if not self._deadlines:
            return None
        with self._guard:
            deadlines = self._deadlines
            while deadlines and deadlines[0][1] not in self._incoming:
                heapq.heappop(deadlines)
            return deadlines[0][0] if deadlines else None

    # -- what the program answers, from any thread ----------------------------------------------

    def reply(self, incoming: Incoming, data: bytes, end: bool) -> None:
        """Send a value; ``end``: the last."""
        row = ReplyRow(incoming.id, True, end, "", "", "", "", len(data))
        with self._guard:
            incoming.window -= len(data) + limits.RECORD_OVERHEAD_BYTES
            if end:
                self._end(incoming, row, data)
            elif not incoming.cancelled:
                self._put(incoming.session, row, data)

    def finish(self, incoming: Incoming, error: MeshError | None = None) -> None:
        """End it without a value."""
        row = ReplyRow(incoming.id, False, True)
        if error is not None:
            text = str(error)[: limits.SERVICE_TEXT_MAX]
            is_own = isinstance(error, ServiceError)
            code = ServiceError.code if is_own else error.code
            detail = error.code[:255] if is_own else ""
            row = ReplyRow(incoming.id, False, True, code, detail, text)
        with self._guard:
            self._end(incoming, row, b"")

    def _end(self, incoming: Incoming, row: ReplyRow, data: bytes) -> None:
        if incoming.is_over:
            return
        incoming.is_over = True
        incoming.data = b""
        if incoming.session == self._session:
            self._incoming.pop(incoming.id, None)
            incoming.registration.held.pop(incoming.id, None)
            self._put(incoming.session, row, data)

    def _put(self, session: int, row: ReplyRow, data: bytes) -> None:
        if session == self._session:
            self._replies.append((session, row, data))

    def take(
        self,
        most_bytes: int = limits.CALLS_UNACKED_BYTES_MAX,
        most_frames: int = limits.CALLS_UNACKED_FRAMES_MAX,
    ) -> list[Body]:
        """Frames to send: not more than ``most_frames``, and values of ``most_bytes`` and one."""
        rows: list[tuple[ReplyRow, bytes]] = []
        size = 0
        with self._guard:
            # Each is in one frame, so there are no more frames than these.
            while self._replies and size < most_bytes and len(rows) < most_frames:
                session, row, data = self._replies.popleft()
                if session == self._session:
                    rows.append((row, data))
                    size += len(data)
        return list(replies(rows))

    def take_stopped(self) -> list[Incoming]:
        """Requests at work that nobody waits for any more."""
        with self._guard:
            stopped, self.stopped = self.stopped, []
        return stopped

    def take_came(self) -> set[Registration]:
        """Registrations with something new."""
        with self._guard:
            came, self.came = self.came, set()
        return came
