"""How much of all logs may be on its way over one link with another site, at the node that sends.

Data: of each log that is sent over the link a Flight: frames that left, until the other end has
stored them. The link's delivery rate, measured by that, and its smallest round trip, measured by
pulses on the control link, which no record is ever in front of.

Rules:
1. The window is what the line delivers in 5/4 of its smallest round trip and LINK_SLACK_NS: enough
   that it never runs dry, and so little that who is to overtake waits for LINK_SLACK_NS of it. It
   grows by itself: as long as more in flight brings a higher rate, that brings a larger window. On
   a new link it is three round trips more, until the rate grows by less than a quarter in one.
2. The rate is the greatest of the last rounds. What is measured while there was less to send than
   the window allows says nothing against it.
3. The smallest round trip is forgotten after LINK_ROUND_TRIP_NS; then half of what it says is in
   flight for a moment, so that what waits in a queue on the way is not taken for distance.
4. A log of a higher rank (0 is the highest) is not held up by those below it: only what is in
   flight of its own rank and above counts against it. A small part of the window is open to those
   below always: none stands still for the others. All together is at most LINK_CREDIT_BYTES.
5. When nothing is in flight, one batch may go, however large it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from meshmq import limits
from meshmq.core.feed import Reader

Place = tuple[int, int]


class _Frame(NamedTuple):
    """One that is in flight; what the link had delivered when it left, and when that was."""

    end: Place
    size: int
    sent_ns: int
    delivered: int
    delivered_ns: int
    before_ns: int  # when the newest frame had left that was stored then


@dataclass(slots=True, eq=False)
class Flight:
    """What of one log is on its way.

    Attributes:
        reader: the cursor that reads the log for it, whose read under way is bound to come too.
        rank: see the module's rule 4.
        bytes: in flight, as they are on the line.
        turn: when it was served last, counted: who waited longest goes first.
    """

    reader: Reader
    rank: int = 0
    bytes: int = 0
    turn: int = 0
    frames: deque[_Frame] = field(default_factory=deque)

    @property
    def reserved(self) -> int:
        """What a read under way may bring."""
        reader = self.reader
        return min(limits.READ_BYTES_MAX, max(0, reader.credit_bytes)) if reader.reading else 0


class LinkFlow:
    """See the module's header.

    Args:
        now: what time it is.
        round_trip_ns: of the last pulse before the link opened; 0: none came back.

    Attributes:
        sent_bytes, raw_bytes: that left, as they were on the line and as they are stored.
        is_freed: a read brought less than was kept free for it, so that others may go on.
    """

    def __init__(self, now: Callable[[], int], round_trip_ns: int = 0) -> None:
        self._now = now
        self._flights: dict[int, Flight] = {}  # by id()
        self._turns = 0
        self._delivered = 0
        self._delivered_ns = 0
        self._before_ns = 0
        self._denied_ns = -1
        self._best = self._best_before = 0  # bytes per second, of this span and the one before
        self._span_ns = 0  # when this span began
        self._is_measured = False  # the window was full once
        self._is_new = True  # the end of rule 1
        self._round_end = self._round_rate = 0  # when a round is over, in bytes; the one before
        self._round_trip_ns = round_trip_ns
        self._round_trip_at = now()
        self._probing_ns = 0  # until when
        self._probed_ns = 0  # the smallest that was seen meanwhile
        self.sent_bytes = self.raw_bytes = 0
        self.is_freed = False

    # -- what is measured -----------------------------------------------------------------------

    @property
    def rate(self) -> int:
        """Bytes per second that the link delivers; 0: nothing was measured."""
        return max(self._best, self._best_before)

    @property
    def round_trip_ns(self) -> int:
        """The smallest of late; 0: none was measured."""
        return self._round_trip_ns

    @property
    def window(self) -> int:
        """Bytes that may be in flight; rules 1 and 3."""
        if not self._is_measured:
            return min(limits.LINK_FIRST_BYTES, limits.LINK_CREDIT_BYTES)
        span_ns = self._round_trip_ns * 5 // 4 + limits.LINK_SLACK_NS
        if self._is_new:
            span_ns += min(self._round_trip_ns * 3, limits.LINK_NEW_NS)
        if self._now() < self._probing_ns:
            span_ns = self._round_trip_ns // 2
        size = self.rate * span_ns // limits.SECOND
        return min(max(size, limits.LINK_LEAST_BYTES), limits.LINK_CREDIT_BYTES)

    def on_round_trip(self, ns: int) -> None:
        """A pulse on the control link was answered after so long."""
        now_ns = self._now()
        if not self._round_trip_ns or ns <= self._round_trip_ns:
            self._set_round_trip(ns)
        elif self._probing_ns:
            self._probed_ns = min(self._probed_ns or ns, ns)
            if now_ns >= self._probing_ns:
                self._set_round_trip(self._probed_ns)
        elif now_ns - self._round_trip_at >= limits.LINK_ROUND_TRIP_NS:
            # What is in flight has to shrink first, then a pulse has to come and go.
            span_ns = min(2 * ns + limits.PULSE_NS, limits.LINK_PROBE_NS_MAX)
            self._probing_ns = now_ns + span_ns

    def _set_round_trip(self, ns: int) -> None:
        self._round_trip_ns, self._round_trip_at = ns, self._now()
        self._probing_ns = self._probed_ns = 0

    def _measure(self, frame: _Frame) -> None:
        now_ns = self._now()
        spans = (now_ns - frame.delivered_ns, frame.sent_ns - frame.before_ns)
        if max(spans) < max(1, self._round_trip_ns):
            return
        rate = (self._delivered - frame.delivered) * limits.SECOND // max(spans)
        if self._denied_ns >= frame.sent_ns:
            self._is_measured = True
            length_ns = max(limits.LINK_RATE_NS, 5 * self._round_trip_ns)
            if now_ns - self._span_ns >= length_ns:
                self._best_before, self._best = self._best, 0
                self._span_ns = now_ns
        elif rate <= self.rate:
            return  # rule 2
        self._best = max(self._best, rate)
        if self._is_new and frame.delivered >= self._round_end:
            self._is_new = self.rate * 4 >= self._round_rate * 5
            self._round_end, self._round_rate = self._delivered, self.rate

    # -- what is in flight ----------------------------------------------------------------------

    def join(self, flight: Flight) -> None:
        """One more log is sent."""
        self._flights[id(flight)] = flight

    def leave(self, flight: Flight) -> None:
        """It is sent no more, and what is on its way is no business of ours."""
        self._flights.pop(id(flight), None)
        flight.frames.clear()
        flight.bytes = 0

    @property
    def in_flight(self) -> int:
        """Bytes on their way, as they are on the line."""
        return sum([flight.bytes for flight in self._flights.values()])

    def room(self, flight: Flight) -> int:
        """Bytes of a log that may leave now; 0 is noted, as the window then is what holds it up."""
        others = [f for f in self._flights.values() if f is not flight]
        total = flight.bytes + sum([f.bytes + f.reserved for f in others])
        above = flight.bytes + sum(
            [f.bytes + f.reserved for f in others if f.rank <= flight.rank]
        )  # fmt: skip
        room = self.window - above
        if any(f.rank < flight.rank for f in others):
            room = max(room, self.window // limits.LINK_SHARE_PART - flight.bytes)
        room = min(room, limits.LINK_CREDIT_BYTES - total)
        if above == 0:
            room = max(1, room)
        if room <= 0:
            self._denied_ns = self._now()
        return max(0, room)

    def on_sent(self, flight: Flight, end: Place, size: int, raw: int) -> None:
        """A frame left up to before the place ``end``: ``size`` bytes on the line, of ``raw``."""
        now_ns = self._now()
        if not any(f.frames for f in self._flights.values()):
            self._delivered_ns = self._before_ns = now_ns
        flight.frames.append(
            _Frame(end, size, now_ns, self._delivered, self._delivered_ns, self._before_ns)
        )
        flight.bytes += size
        self.sent_bytes += size
        self.raw_bytes += raw
        self._turns += 1
        flight.turn = self._turns

    def on_stored(self, flight: Flight, place: Place) -> None:
        """The other end has stored a log up to before this place."""
        last = None
        while flight.frames and flight.frames[0].end <= place:
            last = flight.frames.popleft()
            flight.bytes -= last.size
            self._delivered += last.size
        if last is not None:
            self._delivered_ns = self._now()
            self._before_ns = last.sent_ns
            self._measure(last)

    def in_turn(self) -> list[Flight]:
        """All logs, those first that are to be served first."""
        return sorted(self._flights.values(), key=lambda flight: (flight.rank, flight.turn))
