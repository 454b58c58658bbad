"""A Mesh over a node that a test plays: it says what the node does with each frame.

Frames travel when somebody waits, virtual time passes only by timeouts, so nothing sleeps.
"""

from __future__ import annotations

import json
import random
import threading
from collections import deque

from meshmq import codec
from meshmq.client.channel import Channel
from meshmq.client.mesh import Mesh
from meshmq.core.client import ClientIdentity
from meshmq.core.events import FrameReceived, LinkClosed, LinkOpened, TimerFired
from meshmq.core.session import Session
from meshmq.errors import ClosedError
from meshmq.frames import (
    SYNCED,
    Command,
    Confirm,
    Confirmation,
    Consume,
    Consumed,
    HandOut,
    HandOutRow,
    Hello,
    Publish,
    Result,
    Settle,
    Settled,
    Transact,
    Transacted,
    Welcome,
)
from meshmq.limits import MIB, SECOND

ORIGIN = b"o" * 16


class FakeNode:
    """Says yes to everything; tests look at ``heard`` and replace what ``on`` has for a type.

    Attributes:
        heard: bodies, in order.
        on: body type -> what answers it with a list of bodies.
        answers: verb -> JSON body, or (code, message).
    """

    def __init__(self):
        self.heard = []
        self.answers = {}
        self.origin = ORIGIN
        self.numbers = 0
        self.offset = 0
        self.on = {
            Consume: lambda b: [Consumed(b.consumer)],
            Settle: lambda b: [Settled(b.consumer, b.number)],
            Command: self.on_command,
            Publish: self.on_publish,
            Transact: lambda b: [Transacted(b.id, "", "", (0,) * sum(x.count for x in b.batches))],
        }

    def of(self, kind):
        return [body for body in self.heard if isinstance(body, kind)]

    def settled(self):
        """(number, first, count, kind) of every row so far."""
        return [tuple(row[:4]) for body in self.of(Settle) for row in body.rows]

    def commands(self):
        return [(c.verb, json.loads(c.arguments)) for c in self.of(Command)]

    def on_command(self, body):
        answer = self.answers.get(body.verb, {"group": "g", "created": True, "last": 0})
        if callable(answer):
            answer = answer(json.loads(body.arguments))
        if isinstance(answer, tuple):
            return [Result(body.id, answer[0], answer[1], b"{}")]
        return [Result(body.id, "", "", json.dumps(answer).encode())]

    def on_publish(self, body):
        found = []
        for batch in body.batches:
            found.append(
                Confirmation(
                    batch.topic, batch.first, batch.count, "", "", self.offset, 7, b"t" * 16,
                    SYNCED, batch.first + batch.count - 1, False, True,
                )
            )  # fmt: skip
            self.offset += batch.count
        return [Confirm(tuple(found))]

    def row(self, *values, keys=None, headers=None, topic="jobs", first=None, **more):
        """A hand-out's row and its bytes."""
        data = codec.encode_batch(list(values), keys, headers, None, 99)
        self.numbers += 1
        base = 100 * self.numbers if first is None else first
        row = HandOutRow(
            topic, self.numbers, base, len(values), 0, len(values), len(data),
            codec.checksum(data), 5, 1, 0, topic_key=7,
        )  # fmt: skip
        return row._replace(**more), data

    def hand_out(self, consumer, *values, **more):
        row, data = self.row(*values, **more)
        return HandOut(consumer, (row,), data)


class FakeChannel(Channel):
    """See the module's header. ``now_ns`` is the virtual time."""

    def __init__(self, node):
        identity = ClientIdentity("local", b"i" * 16, b"p" * 16, "test")
        super().__init__("fake", identity, None, random.Random(1), threading.RLock())
        self.node = node
        self.now_ns = SECOND
        self.wall_ns = lambda: 1_700_000_000 * SECOND + self.now_ns
        self.sleeping = True
        self.is_cut = False  # frames to the node wait
        self.is_running = True
        self._lock = threading.RLock()
        self._outgoing = deque()
        self._incoming = deque()
        self._links = 0
        self.link = b""
        self._far = None
        self.open()

    def open(self):
        self._links += 1
        self.link = b"link-%d" % self._links
        self._far = None
        self._outgoing.clear()
        self._incoming.clear()
        self._turn(lambda now: self._handle(LinkOpened(self.link), now))

    def lose(self):
        """Cut the link and connect again."""
        self._turn(lambda now: self._handle(LinkClosed(self.link, "cut"), now))
        self.open()

    def say(self, *bodies):
        """The node says something by itself."""
        with self._lock:
            for body in bodies:
                self._far.send(body, self.now_ns)
            self._post()

    def _post(self):
        self._incoming.extend(self._far.outbox)
        self._far.outbox = []

    def _transmit(self, link, envelope):
        if link == self.link:
            self._outgoing.append(envelope)

    def _close_link(self, effect):
        pass

    def step(self):
        """Let one frame arrive; False if there is none."""
        with self._lock:
            if self._incoming:
                envelope = self._incoming.popleft()
                event = FrameReceived(self.link, envelope)
                self._turn(lambda now: self._handle(event, now))
                return True
            if self._outgoing and not self.is_cut:
                self._arrive(self._outgoing.popleft())
                return True
            return False

    def _arrive(self, envelope):
        if self._far is None:
            if not isinstance(envelope.body, Hello):
                return
            welcome = Welcome(1, 2, self.node.origin, "fake", "", 8 * MIB)
            self._far = Session(envelope.session, welcome, self.now_ns)
        body = self._far.receive(envelope, self.now_ns)
        if body is not None:
            self.node.heard.append(body)
            answer = self.node.on.get(type(body))
            for reply in answer(body) if answer else ():
                self._far.send(reply, self.now_ns)
        self._post()

    def pass_time(self, seconds):
        """Virtual time goes on; timers fire, and everything arrives."""
        end = self.now_ns + int(seconds * SECOND)
        while self.now_ns < end:
            with self._lock:
                self.now_ns = min(end, self.now_ns + SECOND // 4)
                self._turn(lambda now: self._handle(TimerFired(), now))
            self.play()

    def play(self):
        """Let everything arrive."""
        while self.step():
            pass

    def _turn(self, work):
        with self._lock:
            work(self.now_ns)
            self.client.pump(self.now_ns)
            self._perform(self.client.take_effects(self.now_ns))
            self._settle()
        if self.listener is not None:
            self.listener.tell()

    def run(self, work):
        if self.dead is None:
            self._turn(work)

    def published(self):
        self._turn(lambda now: None)

    def wait_until(self, is_true, timeout):
        while not is_true() and self.dead is None:
            if not self.step():
                assert timeout is not None, "it would wait for ever"
                self.now_ns += int(timeout * SECOND)
                break
        return is_true()

    def deadline(self, timeout):
        return None if timeout is None else self.now_ns / SECOND + timeout

    def left(self, deadline):
        return None if deadline is None else max(0.0, deadline - self.now_ns / SECOND)

    def close(self, timeout):
        if not self._closing:
            self.play()
            self.client.close(self.now_ns)
            self._closing = True
            self._perform(self.client.take_effects(self.now_ns))
            self._die(ClosedError("the connection is closed"))
            self.is_running = False
            self._note(self)
            if self.listener is not None:
                self.listener.tell()


def fake_mesh(node=None, **options):
    """A connected Mesh and its channel."""
    channel = FakeChannel(node or FakeNode())
    channel.wait_until(lambda: channel.is_greeted, 1)
    return Mesh(channel, 5.0, 1 << 25, True, options.get("named", False)), channel
