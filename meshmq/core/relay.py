"""Requests of many programs for one responder: each program numbers its own, so they are numbered
anew here, and replies find back.

Each program has its own count of what it has given an instance. What is over the instance's
concurrency waits here, in turn, and is not handed on once its deadline is over; or it is refused,
where the program that asks can ask a node instead.
"""

from __future__ import annotations

from collections import OrderedDict

from meshmq import limits
from meshmq.errors import Busy, DeadlineExceeded
from meshmq.frames import RETURNED, Cancel, Grant, Reply, ReplyRow, Request, RequestRow


class _Place:
    """One registration: how many it may have, has, and what waits."""

    __slots__ = ("at_work", "concurrency", "waiting")

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.at_work = 0
        self.waiting: OrderedDict[int, tuple[RequestRow, bytes, int]] = OrderedDict()


class _Whose:
    """One request that has not been answered to its end."""

    __slots__ = ("is_at_work", "link", "number", "registration", "size")

    def __init__(self, link: bytes, row: RequestRow) -> None:
        self.link = link
        self.number = row.id
        self.registration = row.registration
        self.size = row.length
        self.is_at_work = False


class Relay:
    """See the module's header.

    Attributes:
        ready: requests that the responder may have now.
        refused: answers to what it does not see.
    """

    def __init__(self) -> None:
        self.ready: list[tuple[RequestRow, bytes]] = []
        self.refused: list[tuple[bytes, Reply]] = []
        self._places: dict[int, _Place] = {}
        self._whose: dict[int, _Whose] = {}
        self._numbers: dict[bytes, dict[int, int]] = {}
        self._bytes = 0
        self._last_id = 0

    @property
    def count(self) -> int:
        """Requests that have not been answered to their end."""
        return len(self._whose)

    def open(self, registration: int, concurrency: int) -> None:
        """The program serves."""
        self._places[registration] = _Place(concurrency)

    def close(self, registration: int) -> None:
        """It does no longer: what waits goes to others."""
        place = self._places.pop(registration, None)
        for number in list(place.waiting) if place is not None else ():
            self._refuse(number, RETURNED)

    def request(self, link: bytes, frame: Request, now_ns: int, *, may_wait: bool = True) -> None:
        """Requests from ``link``; those that may not wait for a place are refused instead: there is
        a node that may know a better one."""
        mine = self._numbers.setdefault(link, {})
        payload, alone = frame.payload, len(frame.rows) == 1
        at = 0
        for row in frame.rows:
            size = row.length
            data = payload if alone else payload[at : at + size]
            at += size
            if row.id in mine:
                continue  # it is here already, and will be answered
            if (
                len(mine) >= limits.REQUESTS_PER_SESSION_MAX
                or self._bytes + size > limits.REQUESTS_BYTES_MAX
            ):
                why = f"{self._bytes} bytes of requests, {len(mine)} of one program: the limit"
                no = ReplyRow(row.id, False, True, Busy.code, "", why)
                self.refused.append((link, Reply((no,), b"")))
                continue
            place = self._places.get(row.registration)
            if not may_wait and place is not None and place.at_work >= place.concurrency:
                why = "the instance that was asked directly is busy"
                no = ReplyRow(row.id, False, True, Busy.code, "", why)
                self.refused.append((link, Reply((no,), b"")))
                continue
            self._enter(link, mine, row, data, now_ns)
        if not mine:
            del self._numbers[link]

    def _enter(
        self, link: bytes, mine: dict[int, int], row: RequestRow, data: bytes, now_ns: int
    ) -> None:
        self._last_id += 1
        number = mine[row.id] = self._last_id
        whose = self._whose[number] = _Whose(link, row)
        self._bytes += whose.size
        row = RequestRow._make((number, *row[1:]))
        place = self._places.get(whose.registration)
        if place is not None and place.at_work >= place.concurrency:
            deadline_ns = now_ns + min(row.remaining_ns, limits.REQUEST_TIMEOUT_NS_MAX)
            place.waiting[number] = (row, data, deadline_ns)
            return
        if place is not None:
            whose.is_at_work = True
            place.at_work += 1
        self.ready.append((row, data))

    def _free(self, whose: _Whose, now_ns: int) -> None:
        """It is over: its place is for the next one."""
        place = self._places.get(whose.registration)
        if place is None or not whose.is_at_work:
            return
        place.at_work -= 1
        while place.waiting and place.at_work < place.concurrency:
            number, (row, data, deadline_ns) = place.waiting.popitem(last=False)
            if deadline_ns <= now_ns:
                self._refuse(number, DeadlineExceeded.code)
                continue
            self._whose[number].is_at_work = True
            place.at_work += 1
            self.ready.append((row._replace(remaining_ns=deadline_ns - now_ns), data))

    def _refuse(self, number: int, code: str) -> None:
        """End one that the responder has not seen."""
        whose = self._forget(number)
        row = ReplyRow(whose.number, False, True, code)
        self.refused.append((whose.link, Reply((row,), b"")))

    def _forget(self, number: int) -> _Whose:
        whose = self._whose.pop(number)
        self._bytes -= whose.size
        mine = self._numbers.get(whose.link)
        if mine is not None:
            mine.pop(whose.number, None)
            if not mine:
                del self._numbers[whose.link]
        return whose

    def reply(self, frame: Reply, now_ns: int) -> list[tuple[bytes, Reply]]:
        """Replies of the responder, each to whom it belongs."""
        found: dict[bytes, tuple[list[ReplyRow], list[bytes]]] = {}
        payload, alone = frame.payload, len(frame.rows) == 1
        at = 0
        for row in frame.rows:
            data = payload if alone else payload[at : at + row.length]
            at += row.length
            whose = self._whose.get(row.id)
            if whose is None:
                continue
            if row.end:
                self._forget(row.id)
                self._free(whose, now_ns)
            if whose.link:
                mine = found.get(whose.link)
                if mine is None:
                    mine = found[whose.link] = ([], [])
                mine[0].append(ReplyRow._make((whose.number, *row[1:])))
                mine[1].append(data)
        return [
            (link, Reply(tuple(rows), parts[0] if len(parts) == 1 else b"".join(parts)))
            for link, (rows, parts) in found.items()
        ]

    def cancel(self, link: bytes, frame: Cancel) -> Cancel:
        """As the responder is to see it; what it has not seen is over."""
        mine = self._numbers.get(link, {})
        ids = dict.fromkeys(frame.ids)  # named twice, it is over with the first
        return self._cancel([mine[number] for number in ids if number in mine])

    def _cancel(self, numbers: list[int]) -> Cancel:
        seen = []
        for number in numbers:
            place = self._places.get(self._whose[number].registration)
            if place is not None and place.waiting.pop(number, None) is not None:
                self._refuse(number, "")
            else:
                seen.append(number)
        return Cancel(tuple(seen))

    def grant(self, link: bytes, frame: Grant) -> Grant | None:
        """As the responder is to see it."""
        number = self._numbers.get(link, {}).get(frame.id)
        return None if number is None else Grant(number, frame.bytes)

    def leave(self, link: bytes) -> Cancel:
        """A program is gone: what nobody waits for any more. Its places are free once that ends."""
        cancel = self._cancel(list(self._numbers.get(link, {}).values()))
        self._numbers.pop(link, None)
        for number in cancel.ids:
            self._whose[number].link = b""
        return cancel

    def take_ready(self) -> Request:
        """What the responder gets."""
        ready, self.ready = self.ready, []
        rows = tuple([row for row, _ in ready])
        return Request(rows, ready[0][1] if len(ready) == 1 else b"".join([d for _, d in ready]))

    def take_refused(self) -> list[tuple[bytes, Reply]]:
        """Answers to requests that the responder does not see."""
        refused, self.refused = self.refused, []
        return refused
