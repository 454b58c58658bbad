"""A program of the requests' world: it asks, it serves, and not always as it should.

What it does is noted, for the checkers to judge: see ``request_records``.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from meshmq import codec
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.effects import (
    CallsAnswered,
    ClientEffect,
    RequestsCame,
    RequestsStopped,
    ServiceAnswered,
    StateChanged,
)
from meshmq.core.requester import Call
from meshmq.core.responder import Incoming, Registration
from meshmq.frames import EACH, ONE, STREAM
from meshmq.limits import MS, RECORD_OVERHEAD_BYTES, SECOND
from meshmq.testing.request_records import Asking, Run, Serving
from meshmq.testing.scene import Program

if TYPE_CHECKING:
    from meshmq.testing.request_ledger import RequestLedger

PROBE_NS = 100 * MS  # how long a handler takes in the roll call


class RequestProgram(Program):
    """See the module's header.

    Attributes:
        title: what it tells the node as its name; may be empty.
    """

    def __init__(
        self, world: RequestLedger, name: str, run: int, title: str, client: Client | None = None
    ) -> None:
        identity = ClientIdentity(
            "local",
            hashlib.sha256(f"{name}/{run}".encode()).digest()[:16],
            hashlib.sha256(f"{name}/{run}".encode()).digest()[:16],
            title,
        )
        super().__init__(name, run, client or Client(identity, codec.encode_batch, world.rng))
        self.world = world
        self.title = title
        self.label = f"{name}/{run}"
        self.servings: dict[int, Serving] = {}
        self.runs: list[Run] = []  # that have not ended

    def on_effect(self, effect: ClientEffect) -> None:
        """What the client's machine tells."""
        match effect:
            case CallsAnswered(calls):
                self.on_calls(calls)
            case RequestsCame(registrations):
                for registration in sorted(registrations, key=lambda r: r.id):
                    self.on_came(registration)
            case RequestsStopped(requests):
                self.on_stopped(requests)
            case ServiceAnswered(registration, code, _):
                self.on_answer(registration, code)
            case StateChanged("reconnecting" | "closed", _, _):
                self.on_lost()
            case _:
                pass

    # -- asking -------------------------------------------------------------------------------

    def ask_now_and_then(self) -> None:
        """Ask something, and again after a while."""
        world, rng = self.world, self.world.rng
        if not self.alive or not world.is_asking:
            return
        for _ in range(rng.choice([1, 1, 1, 1, 2, 5])):
            service = rng.choice(world.services)
            kind = rng.choice([ONE, ONE, ONE, STREAM, EACH])
            patience = rng.choice([5, 100, 1_000, 3_000, 6_000]) * MS
            asking = self.ask(service, kind, rng.random() < 0.5, 1 + int(rng.random() * patience))
            if rng.random() < world.cancelling:
                world.after(int(rng.random() * 200 * MS), partial(self.cancel, asking))
        world.settle(self)
        world.after(int(rng.random() ** 2 * world.pace_ns), self.ask_now_and_then)

    def probe(self, service: str, kind: int) -> None:
        """Ask for the roll call; small, so that an instance has room for all it may have."""
        self.ask(service, kind, False, SECOND // 2, 8).is_probe = True

    def ask(
        self, service: str, kind: int, idempotent: bool, patience_ns: int, size: int = 0
    ) -> Asking:
        """Ask; ``settle`` sends it."""
        world, rng = self.world, self.world.rng
        tag = len(world.askings)
        value = (b"q%d|" % tag).ljust(size or rng.choice([10, 10, 200]), b".")
        window = rng.choice([1, 120, 600]) if kind == STREAM else 0
        call = Call(
            service, value, b"", kind, idempotent and kind != EACH, world.now_ns + patience_ns,
            window,
        )  # fmt: skip
        asking = Asking(self, tag, call)
        call.owner = asking
        world.askings.append(asking)
        self.client.requester.add(call)
        return asking

    def cancel(self, asking: Asking) -> None:
        """Wait no longer."""
        if self.alive and not asking.ended_ns:
            asking.is_cancelled = True
            asking.ended_ns = self.world.now_ns
            self.client.requester.cancel(asking.call)
            self.world.note("cancel", asking.tag)
            self.world.settle(self)

    def on_calls(self, calls: tuple[Call, ...]) -> None:
        """Some have something new."""
        world = self.world
        for call in dict.fromkeys(calls):
            asking: Asking = call.owner
            if asking.is_cancelled and not asking.has_heard:
                asking.has_heard = True  # that it is over, as whoever reads it does
            elif asking.ended_ns:
                asking.news_after_end += 1
            elif call.is_over:
                asking.ended_ns = world.now_ns
                world.note("over", asking.tag, call.error.code if call.error else "")
            if call.kind != STREAM:
                while call.replies:
                    asking.taken.append(call.replies.popleft())
            elif not asking.is_taking:
                asking.is_taking = True
                self._take_later(asking)

    def _take_later(self, asking: Asking) -> None:
        slow = 1 if self.world.rng.random() < 0.5 else int(self.world.rng.random() * 20 * MS)
        self.world.after(1 + slow, partial(self._take, asking))

    def _take(self, asking: Asking) -> None:
        """Take the next value of a stream."""
        call = asking.call
        if not self.alive:
            return
        if not call.replies:
            asking.is_taking = False
            return
        row, data = call.replies.popleft()
        asking.taken.append((row, data))
        asking.taken_bytes += len(data) + RECORD_OVERHEAD_BYTES
        asking.taken_ns = self.world.now_ns
        self.client.requester.taken(call, len(data))
        self._take_later(asking)
        self.world.settle(self)

    # -- serving ------------------------------------------------------------------------------

    def serve(self, service: str) -> None:
        """One more instance."""
        if self.alive:
            concurrency = self.world.rng.choice([1, 1, 2, 3])
            registration = self.client.serve(service, concurrency, None, self.world.now_ns)
            serving = Serving(self, registration)
            registration.owner = serving
            self.servings[registration.id] = serving
            self.world.servings.append(serving)
            self.world.settle(self)

    def stop(self, serving: Serving) -> None:
        """An instance stops in order and is there again after a while. Some give back first."""
        world, rng = self.world, self.world.rng
        if not self.alive or serving.down_ns:
            return
        serving.down_ns = world.now_ns
        world.note("stop", self.name, serving.service)
        give_back = partial(self.client.responder.give_back, serving.registration)
        if rng.random() < 0.3:
            give_back()
            if rng.random() < 0.5:
                world.settle(self)
            self.client.unserve(serving.registration, world.now_ns)
        else:
            self.client.unserve(serving.registration, world.now_ns)
            if rng.random() < 0.5:
                give_back()
        # What came meanwhile, at the latest.
        world.after(int(rng.random() * 20 * MS), partial(self._give_back, serving))
        again = int(rng.random() * 400 * MS)
        world.after(again, partial(self.serve, serving.service))
        world.settle(self)

    def _give_back(self, serving: Serving) -> None:
        serving.has_stopped = True
        if self.alive:
            self.client.responder.give_back(serving.registration)
            self.world.settle(self)

    def on_answer(self, registration: Registration, code: str) -> None:
        """The node has let an instance in, or out."""
        serving: Serving = registration.owner
        serving.set_known(not code and registration.is_serving)
        if code:
            self.world.strange.append(f"{self.label}: {serving.service}: {code}")

    def on_lost(self) -> None:
        """The session is over."""
        for serving in self.servings.values():
            serving.set_known(False)
        for run in self.runs:
            run.lost_ns = run.lost_ns or self.world.now_ns

    def die(self) -> None:
        """It forgets everything."""
        now = self.world.now_ns
        self.alive = False
        for asking in self.world.askings:
            if asking.program is self and not asking.ended_ns:
                asking.ended_ns, asking.is_dead = now, True
        for serving in self.servings.values():
            serving.down_ns = serving.down_ns or now
            serving.set_known(False)

    # -- handlers -----------------------------------------------------------------------------

    def on_came(self, registration: Registration) -> None:
        """Requests, or room in a stream."""
        serving: Serving = registration.owner
        for incoming in registration.queue:
            if incoming not in serving.arrived:
                hand_out = self.world.arrived(self, incoming)
                serving.arrived[incoming] = hand_out
        for run in self.runs:
            if run.waits_ns and run.serving is serving:
                self.world.after(1, partial(self._go_on, run))
        # A program's threads may be at other things.
        luck, lag = self.world.rng.random(), self.world.rng.random()
        lag *= 200 * MS if luck < 0.05 else 10 * MS if luck < 0.3 else 0
        self.world.after(1 + int(lag * (not self.world.rested_ns)), partial(self.work, serving))

    def work(self, serving: Serving) -> None:
        """Begin what there is a thread for."""
        if not self.alive:
            return
        while serving.busy < serving.concurrency and not serving.has_stopped:
            incoming = self.client.responder.begin(serving.registration)
            if incoming is None:
                break
            hand_out = serving.arrived[incoming]
            run = Run(serving, incoming, hand_out, len(self.world.runs))
            self.world.runs.append(run)
            self.world.note("begin", hand_out.asking.tag)
            hand_out.asking.runs.append(run)
            self.runs.append(run)
            serving.busy += 1
            self._begin(run)
        self.world.settle(self)

    def _begin(self, run: Run) -> None:
        """Decide what a handler does."""
        world, rng = self.world, self.world.rng
        if run.asking.is_probe:
            world.after(PROBE_NS, partial(self._answer, run, False))
            return
        luck = rng.random()
        run.obeys = rng.random() < 0.5
        delay = int(rng.random() ** 2 * 30 * MS)
        if luck < self.world.slowness:
            delay = int(rng.random() * 3 * SECOND)
        if run.incoming.kind == STREAM and luck < 0.9:
            run.left = rng.randint(1, 20)
            world.after(delay, partial(self._go_on, run))
        elif luck > 0.95:
            self._answer(run, False)  # at once
        else:
            world.after(delay, partial(self._answer, run, luck > 0.85))

    def _answer(self, run: Run, fails: bool) -> None:
        """End with one value, or an error."""
        if not self.alive or run.ended_ns:
            return
        rng, responder = self.world.rng, self.client.responder
        if fails:
            self._note_end(run, "error")
            responder.finish(run.incoming, run.error())
        else:
            value = run.value(rng.choice([20, 20, 300]))
            self._note_end(run, "value")
            responder.reply(run.incoming, value, True)
        if rng.random() < 0.05:
            # A program with a mistake: it answers twice.
            responder.reply(run.incoming, b"twice", True)
        self.work(run.serving)

    def _go_on(self, run: Run) -> None:
        """Send the next value of a stream, if there is room."""
        if not self.alive or run.ended_ns:
            return
        incoming, responder, rng = run.incoming, self.client.responder, self.world.rng
        if run.waits_ns and run.asking.taken_bytes >= run.sent_bytes:
            stall_ns = self.world.now_ns - max(run.waits_ns, run.asking.taken_ns)
            run.stall_ns = max(run.stall_ns, stall_ns)
        run.waits_ns = 0
        if incoming.cancelled and run.obeys:
            self._obey(run)
            return
        if not run.left:
            self._note_end(run, "error" if rng.random() < 0.2 else "value")
            responder.finish(incoming, run.error() if run.how == "error" else None)
            self.work(run.serving)
            return
        if incoming.window <= 0 and not incoming.cancelled:
            run.waits_ns = self.world.now_ns
            return
        run.left -= 1
        if not incoming.cancelled:
            run.ahead = max(run.ahead, run.sent_bytes - run.asking.taken_bytes)
        last = not run.left and rng.random() < 0.3
        value = run.value(rng.choice([10, 25, 90]))
        if last:
            self._note_end(run, "value")
        responder.reply(incoming, value, last)
        if last:
            self.work(run.serving)
            return
        pause = 0 if rng.random() < 0.5 else int(rng.random() * 10 * MS)
        self.world.after(1 + pause, partial(self._go_on, run))
        self.world.settle(self)

    def _obey(self, run: Run) -> None:
        """It was told that nobody waits, and ends."""
        if self.alive and not run.ended_ns:
            self._note_end(run, "stopped")
            self.client.responder.finish(run.incoming)
            self.work(run.serving)

    def on_stopped(self, requests: tuple[Incoming, ...]) -> None:
        """Nobody waits for these."""
        world = self.world
        for run in list(self.runs):
            if any(run.incoming is incoming for incoming in requests):
                run.told = run.told or run.incoming.cancelled
                run.told_ns = run.told_ns or world.now_ns
                world.note("told", run.asking.tag, run.told)
                if run.obeys and run.incoming.kind != STREAM:
                    world.after(1 + int(world.rng.random() * MS), partial(self._obey, run))

    def _note_end(self, run: Run, how: str) -> None:
        run.how = how
        run.ended_ns = self.world.now_ns
        run.serving.busy -= 1
        self.runs.remove(run)
        self.world.note("end", run.asking.tag, how)
