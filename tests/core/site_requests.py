"""Programs that ask and serve at nodes of a site, by hand; see ``sites`` for the network."""

from __future__ import annotations

import itertools

from meshmq.frames import (
    ONE,
    Cancel,
    Envelope,
    Grant,
    Nothing,
    Ping,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
    Serve,
    Served,
    Unserve,
)
from meshmq.limits import MS, SECOND
from tests.core.sites import LATENCY_NS, Program, site_of

TOLD_NS = 20 * LATENCY_NS
"""By then what has begun or ended is known at all nodes."""


class Alive(Program):
    """It answers pings."""

    def receive(self, envelope):
        super().receive(envelope)
        if isinstance(envelope.body, Ping):
            self.net.at(1, lambda: self.raw(Envelope(self.session, 0, self.heard, Nothing())))


class Server(Alive):
    """A program with instances. It answers when it is told to."""

    def __init__(self, net, at, name, *services, concurrency=1):
        super().__init__(net, at, name)
        self.name = name
        self.services = services or ("s",)
        for number, service in enumerate(self.services, 1):
            self.send(Serve(number, service, concurrency))

    def came(self):
        """Requests that came, as (row, value)."""
        found = []
        for frame in self.take(Request):
            at = 0
            for row in frame.rows:
                found.append((row, frame.payload[at : at + row.length]))
                at += row.length
        return found

    def values(self):
        return [value for _, value in self.came()]

    def answer(self, row, value=b"r", **more):
        given = {"has_value": True, "end": True, "length": len(value), **more}
        self.send(Reply((ReplyRow(row.id, **given),), value))

    def fail(self, row, code):
        self.answer(row, b"", has_value=False, code=code)

    def answer_all(self, value=b"r"):
        """Answer what came; return how many there were."""
        rows = self.came()
        for row, _ in rows:
            self.answer(row, value)
        return len(rows)

    def stop(self, registration=1):
        self.send(Unserve(registration))

    def cancelled(self):
        return [number for frame in self.take(Cancel) for number in frame.ids]

    def granted(self):
        return [(frame.id, frame.bytes) for frame in self.take(Grant)]

    @property
    def is_registered(self):
        return bool(self.take(Served))


class Asker(Alive):
    """A program that asks."""

    def __init__(self, net, at, name="asker"):
        super().__init__(net, at, name)
        self._ids = itertools.count(1)

    def ask(self, value=b"v", service="s", kind=ONE, timeout=10 * SECOND, **more):
        given = {"idempotent": False, "window": 0, "headers": b"", **more}
        number = next(self._ids)
        row = RequestRow(
            number, 0, service, timeout, kind, given["idempotent"], given["window"],
            given["headers"], len(value),
        )  # fmt: skip
        self.send(Request((row,), value))
        return number

    def cancel(self, *numbers):
        self.send(Cancel(numbers))

    def grant(self, number, size):
        self.send(Grant(number, size))

    def replies(self):
        """(id, value or code, end, instance) of each reply that came."""
        return [(row.id, row.code or value, row.end, row.instance) for row, value in self.rows()]

    def rows(self):
        found = []
        for frame in self.take(Reply):
            at = 0
            for row in frame.rows:
                found.append((row, frame.payload[at : at + row.length]))
                at += row.length
        return found


def old_site(count, seed=0):
    """A site that has stood for a while: nobody is waited for."""
    net, nodes = site_of(count, seed)
    net.run(3 * SECOND)
    return net, nodes


def is_idle(node):
    """Whether nothing of a request is left at a node."""
    services = node.node.services
    kept = services._asked or services._bytes or services._shares or services._stuck
    held = any(outpost.count or outpost.bytes for outpost in services.siblings.values())
    return not (kept or held or services.outgoing.backlog or services.outgoing.boxes)


__all__ = ["MS", "SECOND", "TOLD_NS", "Asker", "Server", "is_idle", "old_site"]
