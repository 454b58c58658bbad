"""What a program of a simulated history does with requests, as it is noted for the checkers: a call
is an Asking, a handler at work a Run, an instance a Serving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshmq.core.requester import Call
from meshmq.core.responder import Incoming, Registration
from meshmq.errors import ServiceError
from meshmq.frames import ReplyRow
from meshmq.limits import RECORD_OVERHEAD_BYTES

if TYPE_CHECKING:
    from meshmq.testing.request_program import RequestProgram

OWN_CODE = "out-of-stock"


class Ask:
    """One call as the node took it, in one session of its requester.

    Attributes:
        due_ns: its deadline, as the node must know it: the program's, later by the frame's way.
        answers: how many last replies the node has sent.
        is_open: none yet, and the requester waits.
    """

    def __init__(
        self, link: bytes, kind: int, sent_ns: int, now_ns: int, remaining_ns: int
    ) -> None:
        self.link = link
        self.kind = kind
        self.sent_ns = sent_ns
        self.accepted_ns = now_ns
        self.due_ns = now_ns + remaining_ns
        self.answers = 0
        self.is_open = True


class HandOut:
    """One request as the node sent it to an instance.

    Attributes:
        beside: how many the instance had by then, this one included; ``concurrency`` is its own.
        is_behind_end: the node had said before that nothing more comes.
        is_returned: the node has heard that it was not begun.
        due_ns: the latest deadline that the node may know.
    """

    def __init__(self, asking: Asking, link: bytes, registration: int, sent_ns: int) -> None:
        self.asking = asking
        self.link = link
        self.registration = registration
        self.sent_ns = sent_ns
        self.arrived_ns = 0
        self.beside = 0
        self.concurrency = 0
        self.is_stream = False
        self.is_behind_end = False
        self.is_returned = False
        self.due_ns = asking.due_ns


class Asking:
    """One call of a program.

    Attributes:
        tag: its number, in the request's value and in every reply to it.
        ended_ns: when the program learned that it is over, or gave up (``is_cancelled``), or died
            (``is_dead``).
        taken: what the program has taken, in order.
        news_after_end: how often something came for it when it was over; ``has_heard`` of the end
            itself, that was cancelled, does not count.
        due_ns: the latest deadline that a node knows.
        is_calm: asked when there were no faults any more. is_probe: in the roll call.
    """

    def __init__(self, program: RequestProgram, tag: int, call: Call) -> None:
        world = program.world
        self.program = program
        self.tag = tag
        self.call = call
        self.asked_ns = world.now_ns
        self.ended_ns = 0
        self.is_cancelled = False
        self.is_dead = False
        self.taken: list[tuple[ReplyRow, bytes]] = []
        self.taken_bytes = 0
        self.taken_ns = 0
        self.is_taking = False
        self.news_after_end = 0
        self.has_heard = False
        self.is_calm = world.is_calm
        self.is_probe = False
        self.asks: list[Ask] = []
        self.due_ns = 0
        self.hand_outs: list[HandOut] = []
        self.runs: list[Run] = []

    def __repr__(self) -> str:
        kind = ("one", "each", "stream")[self.call.kind]
        often = ", idempotent" if self.call.idempotent else ""
        return f"request {self.tag} ({kind}{often}, {self.call.service}, {self.program.label})"


class Run:
    """One handler that has begun a request.

    Attributes:
        how: how it ended: ``"value"``, ``"error"``, ``"stopped"`` (it obeyed); empty: it did not.
        produced: values it has sent.
        ahead: most bytes that it had sent and the requester had not taken when it sent one more.
        stall_ns: longest it waited for room in a stream of which all was taken.
        told, told_ns: why nobody waits any more, and when it was told.
        lost_ns: when the session that brought it was lost.
    """

    def __init__(self, serving: Serving, incoming: Incoming, hand_out: HandOut, index: int) -> None:
        self.serving = serving
        self.incoming = incoming
        self.hand_out = hand_out
        self.asking = hand_out.asking
        self.index = index
        self.begun_ns = serving.program.world.now_ns
        self.ended_ns = 0
        self.how = ""
        self.produced: list[bytes] = []
        self.sent_bytes = 0
        self.ahead = 0
        self.left = 0
        self.waits_ns = 0
        self.stall_ns = 0
        self.obeys = True
        self.told = ""
        self.told_ns = 0
        self.lost_ns = 0

    def value(self, size: int) -> bytes:
        """The next value: it names the request, the run and its place."""
        text = b"r%d|%d|%d|" % (self.asking.tag, self.index, len(self.produced))
        value = text.ljust(size, b".")
        self.produced.append(value)
        self.sent_bytes += len(value) + RECORD_OVERHEAD_BYTES
        return value

    def error(self) -> ServiceError:
        """The error by which it fails."""
        return ServiceError(f"r{self.asking.tag}|{self.index}", OWN_CODE)


class Serving:
    """One instance of a program.

    Attributes:
        spans: when the node had it; an end of 0 is now.
        down_ns: when it began to stop, 0 if it has not. has_stopped: it begins nothing any more.
        busy: handlers at work, those of lost sessions included.
    """

    def __init__(self, program: RequestProgram, registration: Registration) -> None:
        self.program = program
        self.registration = registration
        self.concurrency = registration.concurrency
        self.service = registration.service
        self.spans: list[tuple[int, int]] = []
        self.down_ns = 0
        self.has_stopped = False
        self.busy = 0
        self.arrived: dict[Incoming, HandOut] = {}

    def is_up(self, begin_ns: int, end_ns: int) -> bool:
        """Whether it served all the time from ``begin_ns`` to ``end_ns``."""
        is_known = any(up <= begin_ns and not 0 < down <= end_ns for up, down in self.spans)
        return is_known and not 0 < self.down_ns <= end_ns

    @property
    def is_known(self) -> bool:
        """Whether the node has it now."""
        return bool(self.spans) and not self.spans[-1][1]

    def set_known(self, is_known: bool) -> None:
        """The node has it from now on, or no more."""
        now = self.program.world.now_ns
        if is_known and not self.is_known:
            self.spans.append((now, 0))
        elif self.is_known and not is_known:
            self.spans[-1] = (self.spans[-1][0], now)
