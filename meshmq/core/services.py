"""Services of a node: their instances, who gets which request, what goes back to whom.

Rules:
1. A request goes to the instance that has the least, in turn among equals, and only to one with
   room (its concurrency, its bytes). Else it waits here, within bounds.
2. It is handed out before its deadline or never. At its deadline the requester is told, and who
   works on it is told to stop.
3. The requester gets one last reply. What comes for a request that is over is dropped, counted.
4. What a lost instance had goes to another one if it is idempotent and nothing of it has come;
   else the requester is told that it is lost. What an instance gave back, not begun, always goes
   to another.
5. An instance's room is free again when it has answered, whoever still waits for that.
6. An instance that answers what it may not, or sends more of a stream than it was granted, is in
   breach, and its session ends: nothing else stops what it sends. What it had is lost (rule 4).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from meshmq import limits
from meshmq.core.instances import Asked, Instance, Service, breach_of, lost, nobody, size_of
from meshmq.core.outgoing import Outgoing
from meshmq.errors import (
    BadFrame,
    Busy,
    DeadlineExceeded,
    InvalidArgument,
    LimitReached,
    MeshError,
    NoResponders,
)
from meshmq.frames import (
    EACH,
    ONE,
    RETURNED,
    STREAM,
    Body,
    Cancel,
    Grant,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
    Serve,
    Served,
    Unserve,
)
from meshmq.names import check_service


class Services:
    """The node's machine for services.

    For STARTED_NS from the first event on, a request for a service that nobody serves waits: after
    a restart of the node its instances are on their way back, too. One for each instance waits in
    any case, until that time or half of its own is over: not all may be back.

    Args:
        unacked, is_crowded: see Outgoing.
        met: hears of each request that is handed out: the link that asked, the instance's, and the
            service.

    Attributes:
        late: replies that came for what was over.
        no_responders: requests for what nobody served.
        outgoing: what waits to leave, and links that take none of it.
    """

    def __init__(
        self,
        unacked: Callable[[bytes], tuple[int, int]],
        is_crowded: Callable[[], bool],
        met: Callable[[bytes, bytes, str], None] | None = None,
    ) -> None:
        self._met = met
        self.by_name: dict[str, Service] = {}
        self.late = 0
        self.no_responders = 0
        self.outgoing = Outgoing(unacked, is_crowded)
        self._young_until_ns = -1  # known with the first tick
        self._instances: dict[bytes, dict[int, Instance]] = {}  # by link and registration
        self._asked: dict[int, Asked] = {}
        self._asking: dict[bytes, dict[int, Asked]] = {}  # by link and the requester's number
        self._deadlines: list[tuple[int, int]] = []
        self._early: list[tuple[int, int]] = []  # of kind EACH, by when to ask who is there
        self._bytes = 0  # of requests that are held
        self._shares: dict[bytes, int] = {}  # of those, by the link that asked
        self._stuck: dict[bytes, None] = {}  # links that are handed nothing
        self._last_id = 0

    # -- instances ----------------------------------------------------------------------------

    def serve(self, link: bytes, name: str, serve: Serve, now_ns: int) -> Served:
        """Register an instance; it may get requests at once."""
        try:
            check_service(serve.service)
            mine = self._instances.setdefault(link, {})
            if serve.registration in mine:
                raise InvalidArgument(f"registration {serve.registration} is in use")
            if not 1 <= serve.concurrency <= limits.CONCURRENCY_MAX:
                raise InvalidArgument(
                    f"concurrency is 1..{limits.CONCURRENCY_MAX}, not {serve.concurrency}"
                )
            if len(mine) >= limits.SERVICES_PER_SESSION_MAX:
                raise LimitReached(
                    f"one program serves at most {limits.SERVICES_PER_SESSION_MAX} times"
                )
        except MeshError as error:
            return Served(serve.registration, error.code, str(error))
        service = self._service(serve.service)
        instance = Instance(link, name, serve, service, now_ns)
        instance.is_stuck = link in self._stuck
        mine[serve.registration] = instance
        service.add(instance)
        self._feed(service, now_ns)
        return Served(serve.registration)

    def unserve(self, link: bytes, frame: Unserve, now_ns: int) -> Served:
        """Hand nothing more to an instance; what it has it may still answer."""
        instance = self._instances.get(link, {}).get(frame.registration)
        if instance is not None:
            self._drain(instance, now_ns)
            self._let_go(instance)
        return Served(frame.registration, ended=True)

    def _drain(self, instance: Instance, now_ns: int) -> None:
        if not instance.draining:
            instance.service.drain(instance)
            self._leave(instance, now_ns)

    def _leave(self, instance: Instance, now_ns: int) -> None:
        """It takes nothing more: what waits for it alone, or for nobody else, is answered."""
        for asked in list(instance.waiting.values()):
            self._finish(asked, NoResponders(f"{instance.name} stopped before its turn came"))
        if not instance.service.is_served and not self._is_young(now_ns):
            self._turn_away(instance.service)

    def _let_go(self, instance: Instance) -> None:
        if instance.draining and not instance.held:
            mine = self._instances.get(instance.link, {})
            if mine.get(instance.registration) is instance:
                del mine[instance.registration]
            instance.service.instances.pop((instance.link, instance.registration), None)
            self._forget(instance.service)

    def _service(self, name: str) -> Service:
        service = self.by_name.get(name)
        if service is None:
            service = self.by_name[name] = Service(name)
        return service

    def _forget(self, service: Service) -> None:
        if not (service.instances or service.waiting or service.early):
            self.by_name.pop(service.name, None)

    # -- requests -----------------------------------------------------------------------------

    def on_request(self, link: bytes, frame: Request, now_ns: int) -> None:
        """Take requests of a program."""
        alone = len(frame.rows) == 1
        at = 0
        for row in frame.rows:
            data = frame.payload if alone else frame.payload[at : at + row.length]
            at += row.length
            mine = self._asking.get(link)
            if mine is None:
                mine = self._asking[link] = {}
            error = self._judge(link, mine, row, data, now_ns)
            if error is not None:
                self._answer(link, row.id, error)
            else:
                self._accept(link, mine, row, data, now_ns)
        if not self._asking.get(link, True):
            del self._asking[link]

    def _judge(
        self, link: bytes, mine: dict[int, Asked], row: RequestRow, data: bytes, now_ns: int
    ) -> MeshError | None:
        if row.id in mine:
            return InvalidArgument(f"request {row.id} is under way")
        most = limits.REQUESTS_PER_SESSION_MAX
        if len(mine) >= most:
            why = f"at most {most} requests of a program are under way: wait for some replies first"
            return LimitReached(why)
        service = self.by_name.get(row.service)
        if service is None or not service.is_served:
            if not self._is_young(now_ns):
                self.no_responders += 1
                return nobody(row.service, service)
            try:
                check_service(row.service)
            except MeshError as error:
                return error
        return self._refusal(link, size_of(row, data))

    def _refusal(self, link: bytes, size: int) -> Busy | None:
        """Why a program may not ask for so much more now."""
        share = self._shares.get(link, 0)
        if share + size > limits.REQUESTS_SHARE_BYTES_MAX:
            return Busy(f"the program has {share} bytes of requests under way, its share")
        if self._bytes + size > limits.REQUESTS_BYTES_MAX:
            return Busy(f"{self._bytes} bytes of requests are under way at the node, its limit")
        return None

    def _accept(
        self, link: bytes, mine: dict[int, Asked], row: RequestRow, data: bytes, now_ns: int
    ) -> None:
        service = self._service(row.service)
        service.requests += 1
        self._last_id += 1
        asked = Asked(self._last_id, link, row, service, data, now_ns)
        self._enter(asked)
        mine[row.id] = asked
        if len(self._deadlines) > 2 * len(self._asked) + 1024:
            self._deadlines = [(a.deadline_ns, a.id) for a in self._asked.values() if a.link]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (asked.deadline_ns, asked.id))
        if row.kind != EACH:
            instance = None if service.waiting or not row.remaining_ns else service.choose()
            if instance is not None:
                self._hand_out(asked, instance, now_ns)
                return
            service.waiting[asked.id] = asked
            self._feed(service, now_ns)
        elif self._is_young(now_ns):
            service.early[asked.id] = asked
            half_ns = now_ns + (asked.deadline_ns - now_ns) // 2
            heapq.heappush(self._early, (min(half_ns, self._young_end_ns(now_ns)), asked.id))
        else:
            self._spread(asked, now_ns)

    def _spread(self, asked: Asked, now_ns: int) -> None:
        """To every instance there is."""
        takers = [i for i in asked.service.instances.values() if not i.draining]
        error = self._refusal(asked.payer, len(takers) * limits.REQUEST_OVERHEAD_BYTES)
        if error is not None:
            self._finish(asked, error)
            return
        for instance in takers:
            self._last_id += 1
            self._enter(asked.part(self._last_id, instance, now_ns))
        for instance in takers:
            self._serve_own(instance, now_ns)

    def _enter(self, asked: Asked) -> None:
        self._asked[asked.id] = asked
        self._count(asked, asked.size)

    def _count(self, asked: Asked, size: int) -> None:
        """What is held grows by so much, or shrinks."""
        self._bytes += size
        share = self._shares.get(asked.payer, 0) + size
        if share:
            self._shares[asked.payer] = share
        else:
            del self._shares[asked.payer]

    def _feed(self, service: Service, now_ns: int) -> None:
        """Hand out what waits, as far as there is room."""
        waiting = service.waiting
        while waiting:
            instance = service.choose()
            if instance is None:
                return
            _, asked = waiting.popitem(last=False)
            if asked.deadline_ns <= now_ns:
                self._expire(asked)
            else:
                self._hand_out(asked, instance, now_ns)

    def _serve_own(self, instance: Instance, now_ns: int) -> None:
        while instance.waiting and instance.has_room:
            _, asked = instance.waiting.popitem(last=False)
            if asked.deadline_ns <= now_ns:
                self._expire(asked)
            else:
                self._hand_out(asked, instance, now_ns)

    def _hand_out(self, asked: Asked, instance: Instance, now_ns: int) -> None:
        asked.instance = instance
        asked.attempts += 1
        asked.handed_ns = now_ns
        instance.held[asked.id] = asked
        instance.held_bytes += asked.weight
        asked.service.place(instance)
        kind = ONE if asked.kind == EACH else asked.kind
        row = RequestRow(
            asked.id, instance.registration, "", asked.deadline_ns - now_ns, kind,
            asked.idempotent, asked.window, asked.headers, len(asked.data),
        )  # fmt: skip
        self.outgoing.request(instance.link, row, asked.data)
        if self._met is not None:
            self._met(asked.payer, instance.link, asked.service.name)
        if self.outgoing.is_full(instance.link):
            self._stuck[instance.link] = None
            self._place_all(instance.link)

    def _place_all(self, link: bytes) -> None:
        is_stuck = link in self._stuck
        for instance in self._instances.get(link, {}).values():
            instance.is_stuck = is_stuck
            instance.service.place(instance)

    def pump(self, now_ns: int) -> None:
        """Hand out to instances whose links have acknowledged what they were sent."""
        if not self._stuck:
            return
        for link in [link for link in self._stuck if not self.outgoing.is_full(link)]:
            del self._stuck[link]
            self._place_all(link)
            for instance in list(self._instances.get(link, {}).values()):
                self._serve_own(instance, now_ns)
                self._feed(instance.service, now_ns)

    def on_cancel(self, link: bytes, frame: Cancel) -> None:
        """A program gives up on requests."""
        mine = self._asking.get(link, {})
        for number in frame.ids:
            asked = mine.get(number)
            if asked is not None:
                self._abandon(asked)

    def on_grant(self, link: bytes, frame: Grant) -> None:
        """A program has taken so much of a stream."""
        asked = self._asking.get(link, {}).get(frame.id)
        if asked is None or asked.kind != STREAM:
            return
        size = min(frame.bytes, limits.STREAM_WINDOW_BYTES_MAX - asked.window)
        if size > 0:
            asked.window += size
            if asked.handed_ns and asked.instance is not None:
                self.outgoing.grant(asked.instance.link, asked.id, size)

    # -- replies ------------------------------------------------------------------------------

    def on_reply(self, link: bytes, frame: Reply, now_ns: int) -> None:
        """Take replies of an instance; raise BadFrame if it is in breach."""
        alone = len(frame.rows) == 1
        at = 0
        for row in frame.rows:
            data = frame.payload if alone else frame.payload[at : at + row.length]
            at += row.length
            asked = self._asked.get(row.id)
            instance = asked.instance if asked is not None and asked.handed_ns else None
            if asked is None or instance is None or instance.link != link:
                self.late += 1
                continue
            breach = breach_of(asked, row)
            if breach:
                raise BadFrame(f"{instance.service.name!r} answered with {breach}")
            if row.has_value:
                asked.window -= len(data) + limits.RECORD_OVERHEAD_BYTES
            self._on_row(asked, instance, row, data, now_ns)

    def _on_row(
        self, asked: Asked, instance: Instance, row: ReplyRow, data: bytes, now_ns: int
    ) -> None:
        if row.end or asked.kind != STREAM:
            handed_ns = asked.handed_ns
            self._free(asked, instance)
            if row.code == RETURNED:
                self._drain(instance, now_ns)  # it gives back only what it will never take
                self._again(asked, now_ns)
            else:
                instance.served += 1
                instance.latencies.add(now_ns - handed_ns, now_ns)
                if row.code:
                    instance.failed += 1
                elif row.has_value:
                    pass
                elif asked.kind != STREAM or asked.deadline_ns <= now_ns:
                    # It has stopped by its own clock, before the node's own timer fired.
                    why = "the instance ended it without a reply: its time was over there"
                    row = row._replace(code=DeadlineExceeded.code, message=why)
                if row.code == Busy.code and asked.attempts > 1:
                    # This one has done nothing; who had it before may have.
                    error = lost(asked)
                    row = row._replace(code=error.code, message=str(error))
                self._pass_on(asked, instance, row, data)
            if instance.waiting:
                self._serve_own(instance, now_ns)
            if instance.service.waiting:
                self._feed(instance.service, now_ns)
            if instance.draining:
                self._let_go(instance)
        elif not asked.link:
            self.late += 1
        else:
            asked.any = True
            row = row._replace(id=asked.their_id, instance=instance.name)
            if not self._reply(asked.link, row, data):
                self._abandon(asked)  # a stream with a hole is none

    def _free(self, asked: Asked, instance: Instance) -> None:
        del instance.held[asked.id]
        instance.held_bytes -= asked.weight
        instance.service.place(instance)
        asked.handed_ns = 0
        if asked.parent is None:
            asked.instance = None

    def _pass_on(self, asked: Asked, instance: Instance, row: ReplyRow, data: bytes) -> None:
        """The last row of an instance, to whoever waits for it; then it is over."""
        _, has_value, _, code, detail, message, _, length = row
        parent = asked.parent
        if parent is not None:
            self._drop(asked)
            if parent.link:
                part = ReplyRow(
                    parent.their_id, has_value, False, code, detail, message, instance.name, length
                )
                self._reply(parent.link, part, data)
            self._close_part(asked, parent)
            return
        if asked.link:
            last = ReplyRow(
                asked.their_id, has_value, True, code, detail, message, instance.name, length
            )
            self._reply(asked.link, last, data)
        else:
            self.late += 1
        self._drop(asked)

    def _close_part(self, part: Asked, parent: Asked) -> None:
        del parent.parts[part.id]
        if not parent.parts:
            if parent.link:
                self._reply(parent.link, ReplyRow(parent.their_id, False, True), b"")
            self._drop(parent)

    def _again(self, asked: Asked, now_ns: int) -> None:
        """It was not begun where it was: to another, unless it is for that one alone."""
        if asked.parent is not None:
            self._finish(asked, NoResponders("the instance stopped before its turn came"))
        elif not asked.link:
            self._drop(asked)
        else:
            asked.attempts -= 1
            self._wait_again(asked, now_ns)

    def _wait_again(self, asked: Asked, now_ns: int) -> None:
        service = asked.service
        if asked.deadline_ns <= now_ns:
            self._expire(asked)
        elif not service.is_served and not self._is_young(now_ns):
            self._give_up(asked)
        else:
            asked.service = service = self._service(service.name)
            service.waiting[asked.id] = asked
            service.waiting.move_to_end(asked.id, last=False)
            self._feed(service, now_ns)

    # -- ends ---------------------------------------------------------------------------------

    def _finish(self, asked: Asked, error: MeshError) -> None:
        """It is over without a reply of a service: tell who asked."""
        parent = asked.parent
        if parent is not None:
            name = asked.instance.name if asked.instance is not None else ""
            self._drop(asked)
            if parent.link:
                self._answer(parent.link, parent.their_id, error, end=False, instance=name)
            self._close_part(asked, parent)
            return
        if asked.link:
            self._answer(asked.link, asked.their_id, error)
        self._drop(asked)

    def _drop(self, asked: Asked) -> None:
        """Forget it."""
        if self._asked.pop(asked.id, None) is not None:
            self._count(asked, -asked.size)
        service = asked.service
        if service.waiting:
            service.waiting.pop(asked.id, None)
        if asked.kind == EACH:
            service.early.pop(asked.id, None)
        if asked.instance is not None:
            asked.instance.waiting.pop(asked.id, None)
        self._unlink(asked)
        if not service.instances:
            self._forget(service)

    def _unlink(self, asked: Asked) -> None:
        """Nobody waits for it any more."""
        if asked.link:
            mine = self._asking.get(asked.link, {})
            mine.pop(asked.their_id, None)
            if not mine:
                self._asking.pop(asked.link, None)
            asked.link = b""

    def _let_bytes_go(self, asked: Asked) -> None:
        """Who works on it has them, and nobody else will get them."""
        for part in asked.parts.values():
            part.data = part.headers = b""
        asked.data = asked.headers = b""
        self._count(asked, limits.REQUEST_OVERHEAD_BYTES - asked.size)
        asked.size = limits.REQUEST_OVERHEAD_BYTES

    def hold(self, link: bytes) -> None:
        """Hand nothing out over this link, until Outgoing has room."""
        self._stuck[link] = None
        self._place_all(link)

    def withdraw(self, link: bytes) -> list[int]:
        """A link does not answer: what another may do is over here; who asked asks elsewhere."""
        found = []
        for instance in self._instances.get(link, {}).values():
            held = [a for a in instance.held.values() if a.idempotent and not a.any]
            waiting = list(instance.service.waiting.values()) if not instance.draining else []
            for asked in [*held, *waiting]:
                if asked.link and asked.kind != EACH and asked.parent is None:
                    found.append(asked.their_id)
                    self._abandon(asked)
        return found

    def _abandon(self, asked: Asked) -> None:
        """The requester is no longer interested, or too late: stop who works on it."""
        for part in list(asked.parts.values()):
            if not self._stop(part):
                del asked.parts[part.id]
        if asked.parts or (asked.kind != EACH and self._stop(asked)):
            self._unlink(asked)
            self._let_bytes_go(asked)
        else:
            self._drop(asked)

    def _stop(self, asked: Asked) -> bool:
        """Tell who works on it, if somebody does: its place is free when the instance says so."""
        if asked.handed_ns and asked.instance is not None:
            self.outgoing.cancel(asked.instance.link, asked.id)
            return True
        if asked.parent is not None:
            self._drop(asked)
        return False

    def _expire(self, asked: Asked) -> None:
        if asked.parent is not None:
            return  # its parent's time is over as well
        asked.service.expired += 1
        what = "the service did not answer" if asked.handed_ns else "no instance had room"
        self._answer(asked.link, asked.their_id, DeadlineExceeded(f"{what} in time"))
        self._abandon(asked)

    def _turn_away(self, service: Service) -> None:
        """Nobody is left to take what waits."""
        for asked in list(service.waiting.values()):
            self._give_up(asked)

    def _give_up(self, asked: Asked) -> None:
        """Nobody is left to take it. Who had it before may have done it."""
        self.no_responders += 1
        service = asked.service
        self._finish(asked, lost(asked) if asked.attempts else nobody(service.name, service))

    def drop_link(self, link: bytes, now_ns: int) -> None:
        """A program is gone, with its instances and its requests."""
        for asked in list(self._asking.get(link, {}).values()):
            self._abandon(asked)
        self.outgoing.drop_link(link)
        instances = self._instances.pop(link, {})
        for instance in instances.values():
            instance.service.drain(instance)
            del instance.service.instances[link, instance.registration]
        for instance in instances.values():
            self._lose(instance, now_ns)

    def _lose(self, instance: Instance, now_ns: int) -> None:
        held, instance.held = instance.held, {}
        for asked in held.values():
            asked.handed_ns = 0
            retry = asked.idempotent and not asked.any
            retry = retry and asked.attempts < limits.REQUEST_ATTEMPTS_MAX
            if asked.parent is not None:
                self._finish(asked, lost(asked))
                continue
            asked.instance = None
            if not asked.link:
                self._drop(asked)
            elif retry and instance.service.is_served:
                self._wait_again(asked, now_ns)
            else:
                self._finish(asked, lost(asked))
        self._leave(instance, now_ns)
        self._forget(instance.service)

    # -- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        while self._deadlines and self._deadlines[0][1] not in self._asked:
            heapq.heappop(self._deadlines)
        due = self._deadlines[0][0] if self._deadlines else None
        if self._early:
            due = self._early[0][0] if due is None else min(due, self._early[0][0])
        if self._young_until_ns and self.by_name:
            due = self._young_until_ns if due is None else min(due, self._young_until_ns)
        return due

    def _is_young(self, now_ns: int) -> bool:
        return self._young_until_ns < 0 or now_ns < self._young_until_ns

    def _young_end_ns(self, now_ns: int) -> int:
        return self._young_until_ns if self._young_until_ns >= 0 else now_ns + limits.STARTED_NS

    def tick(self, now_ns: int) -> None:
        """Requests whose time is over; those for nobody once the node is up for a while."""
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, number = heapq.heappop(self._deadlines)
            asked = self._asked.get(number)
            if asked is not None and asked.link:
                self._expire(asked)
        if self._young_until_ns < 0:
            self._young_until_ns = now_ns + limits.STARTED_NS
        elif self._young_until_ns and now_ns >= self._young_until_ns:
            self._young_until_ns = 0
            for service in list(self.by_name.values()):
                if not service.is_served:
                    self._turn_away(service)
                    self._forget(service)
        while self._early and self._early[0][0] <= now_ns:
            _, number = heapq.heappop(self._early)
            asked = self._asked.get(number)
            if asked is not None and asked.id in asked.service.early:
                self._on_early(asked, now_ns)

    def _on_early(self, asked: Asked, now_ns: int) -> None:
        """It has waited for instances to come back."""
        if asked.service.is_served:
            del asked.service.early[asked.id]
            self._spread(asked, now_ns)
        elif self._is_young(now_ns):
            heapq.heappush(self._early, (self._young_end_ns(now_ns), asked.id))
        else:
            self._give_up(asked)

    # -- what leaves --------------------------------------------------------------------------

    def _answer(
        self, link: bytes, number: int, error: MeshError, end: bool = True, instance: str = ""
    ) -> None:
        row = ReplyRow(number, False, end, error.code, "", str(error), instance)
        self._reply(link, row, b"")

    def _reply(self, link: bytes, row: ReplyRow, data: bytes) -> bool:
        """Whether there is room for it; else the requester is told so in its place."""
        return self.outgoing.reply(link, row, data)

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames to send, what goes to one program together."""
        return self.outgoing.take() if self.outgoing.boxes else []

    def held_bytes(self) -> int:
        """About how much memory requests and replies take."""
        return self._bytes + self.outgoing.backlog

    def counters(self) -> dict[str, int]:
        """What is counted over all services."""
        return {
            "in_flight": len(self._asked),
            "held_bytes": self._bytes,
            "no_responders": self.no_responders,
            "late_replies": self.late,
            "dropped_replies": self.outgoing.dropped,
        }

    def describe(self, now_ns: int) -> list[dict[str, Any]]:
        """Services and their instances as listings show them; times in us."""
        shown = []
        for service in sorted(self.by_name.values(), key=lambda s: s.name):
            rows = []
            for instance in service.instances.values():
                p50, p99 = instance.latencies.percentiles_us((0.5, 0.99), now_ns)
                rows.append(
                    {
                        "client": instance.name,
                        "concurrency": instance.concurrency,
                        "in_flight": len(instance.held),
                        "served": instance.served,
                        "failed": instance.failed,
                        "p50_us": p50,
                        "p99_us": p99,
                        "state": "draining" if instance.draining else "serving",
                    }
                )
            shown.append(
                {
                    "service": service.name,
                    "requests": service.requests,
                    "waiting": len(service.waiting) + len(service.early),
                    "expired": service.expired,
                    "instances": rows,
                }
            )
        return shown
