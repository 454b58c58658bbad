"""Requests of many programs for one responder: each program numbers its own, so they are numbered
anew here, and replies find back."""

from __future__ import annotations

from meshmq import limits
from meshmq.errors import Busy, LimitReached, MeshError
from meshmq.frames import Cancel, Grant, Reply, ReplyRow, Request, RequestRow


class Relay:
    """Knows of each request that has not been answered to its end whose it is.

    Attributes:
        refused: answers to what is over a bound, for ``take_refused``.
    """

    def __init__(self) -> None:
        self._whose: dict[int, tuple[bytes, int, int]] = {}  # link, its number, bytes
        self._numbers: dict[bytes, dict[int, int]] = {}
        self._bytes = 0
        self._last_id = 0
        self.refused: list[tuple[bytes, Reply]] = []

    def request(self, link: bytes, frame: Request) -> Request | None:
        """Requests from ``link``, as the responder is to see them."""
        mine = self._numbers.setdefault(link, {})
        rows: list[RequestRow] = []
        parts: list[bytes] = []
        at = 0
        for row in frame.rows:
            data = frame.payload[at : at + row.length]
            at += row.length
            error = self._judge(mine, row)
            if error is not None:
                no = ReplyRow(row.id, False, True, error.code, "", str(error))
                self.refused.append((link, Reply((no,), b"")))
                continue
            self._last_id += 1
            mine[row.id] = self._last_id
            self._whose[self._last_id] = (link, row.id, row.length)
            self._bytes += row.length
            rows.append(row._replace(id=self._last_id))
            parts.append(data)
        if not rows:
            return None
        return Request(tuple(rows), parts[0] if len(parts) == 1 else b"".join(parts))

    def _judge(self, mine: dict[int, int], row: RequestRow) -> MeshError | None:
        if row.id in mine:
            return LimitReached(f"request {row.id} is under way")
        if len(mine) >= limits.REQUESTS_PER_SESSION_MAX:
            return LimitReached(
                f"a program has at most {limits.REQUESTS_PER_SESSION_MAX} requests under way"
            )
        if self._bytes + row.length > limits.REQUESTS_BYTES_MAX:
            return Busy(f"{self._bytes} bytes of requests are under way here, the limit")
        return None

    def reply(self, frame: Reply) -> list[tuple[bytes, Reply]]:
        """Replies of the responder, each to whom it belongs."""
        found: dict[bytes, tuple[list[ReplyRow], list[bytes]]] = {}
        at = 0
        for row in frame.rows:
            data = frame.payload[at : at + row.length]
            at += row.length
            whose = self._whose.get(row.id)
            if whose is None:
                continue  # its program is gone
            link, number, size = whose
            if row.end:
                del self._whose[row.id]
                self._bytes -= size
                mine = self._numbers[link]
                del mine[number]
                if not mine:
                    del self._numbers[link]
            rows, parts = found.setdefault(link, ([], []))
            rows.append(row._replace(id=number))
            parts.append(data)
        return [
            (link, Reply(tuple(rows), parts[0] if len(parts) == 1 else b"".join(parts)))
            for link, (rows, parts) in found.items()
        ]

    def cancel(self, link: bytes, frame: Cancel) -> Cancel:
        """As the responder is to see it."""
        mine = self._numbers.get(link, {})
        return Cancel(tuple([mine[number] for number in frame.ids if number in mine]))

    def grant(self, link: bytes, frame: Grant) -> Grant | None:
        """As the responder is to see it."""
        number = self._numbers.get(link, {}).get(frame.id)
        return None if number is None else Grant(number, frame.bytes)

    def leave(self, link: bytes) -> Cancel:
        """A program is gone: what nobody waits for any more."""
        mine = self._numbers.pop(link, {})
        for number in mine.values():
            self._bytes -= self._whose.pop(number)[2]
        return Cancel(tuple(mine.values()))

    def take_refused(self) -> list[tuple[bytes, Reply]]:
        """Answers to requests that the responder does not see."""
        refused, self.refused = self.refused, []
        return refused
