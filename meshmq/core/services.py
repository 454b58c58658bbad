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

In a site (see ``remotes``, ``site_services``):
7. Where no instance here has room, a sibling that has gets it; where nobody has, it waits for
   whoever has first. EACH goes to all that are here, and once to each sibling, for all of its.
8. A sibling's request goes to instances here, never further. If none is left, or the one that had
   it is lost, the sibling is told, and decides by rule 4 where it goes.

Between sites (see ``link_services``) a far node is as a sibling, but for the order:
9. It gets what nobody at our own site has room for, and waits there only for what nobody at our
   site serves; EACH goes to other sites only then, too. Rule 8 goes for it: no request crosses two
   links.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from meshmq import limits
from meshmq.core.comeback import Comeback
from meshmq.core.instances import (
    Asked,
    Instance,
    Service,
    Taker,
    breach_of,
    lost,
    nobody,
    resize,
    size_of,
)
from meshmq.core.outgoing import Outgoing
from meshmq.core.remotes import Outpost, Remote
from meshmq.core.service_ledger import Ledger
from meshmq.errors import (
    BadFrame,
    Busy,
    DeadlineExceeded,
    InstanceLost,
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
    Offer,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
    Serve,
    Served,
    Unserve,
)
from meshmq.frames_offers import OF_NODE
from meshmq.names import check_service


class Services(Ledger):
    """The node's machine for services.

    As long as instances may be on their way here (``comeback``) a request for a service that nobody
    serves waits. One for each instance waits in any case, until then or until half of its time is
    over: not all may be back.

    Args:
        unacked, is_crowded: see Outgoing.
        met: hears of each request that is handed out: the link that asked, the instance's, and the
            service.

    Attributes:
        late: replies that came for what was over.
        no_responders: requests for what nobody served.
        comeback: who may be on the way here.
    """

    def __init__(
        self,
        unacked: Callable[[bytes], tuple[int, int]],
        is_crowded: Callable[[], bool],
        met: Callable[[bytes, bytes, str], None] | None = None,
    ) -> None:
        super().__init__(Outgoing(unacked, is_crowded))
        self._met = met
        self.late = 0
        self.no_responders = 0
        self.comeback = Comeback()
        self._instances: dict[bytes, dict[int, Instance]] = {}  # by link and registration
        self._early: list[tuple[int, int]] = []  # of kind EACH, by when to ask who is there
        self._stuck: dict[bytes, None] = {}  # links that are handed nothing

    # -- instances ----------------------------------------------------------------------------

    def serve(self, link: bytes, name: str, serve: Serve, now_ns: int) -> Served:
        """Register an instance; it may get requests at once."""
        try:
            check_service(serve.service)
            mine = self._instances.setdefault(link, {})
            if resize(mine.get(serve.registration), serve):
                self._serve_own(mine[serve.registration], now_ns)
                self._change(mine[serve.registration].service)
                self._feed(mine[serve.registration].service, now_ns)
                return Served(serve.registration)
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
        self._change(service)
        self._feed(service, now_ns)
        return Served(serve.registration)

    def unserve(self, link: bytes, frame: Unserve, now_ns: int) -> Served:
        """Hand nothing more to an instance; what it has it may still answer."""
        instance = self._instances.get(link, {}).get(frame.registration)
        if instance is not None:
            self._drain(instance, now_ns)
            self._let_go(instance)
        return Served(frame.registration, ended=True)

    def _drain(self, instance: Taker, now_ns: int) -> None:
        if not instance.draining:
            instance.service.drain(instance)
            if instance.is_remote and not instance.service.is_served:
                self.comeback.lost(instance.service.name, now_ns)
            self._leave(instance, now_ns)

    def _leave(self, instance: Taker, now_ns: int) -> None:
        """It takes nothing more: what waits for it alone, or for nobody else, is answered."""
        service = instance.service
        self._change(service)
        for asked in list(instance.waiting.values()):
            self._finish(asked, NoResponders(f"{instance.name} stopped before its turn came"))
        if service.guests and not service.is_served_here:
            for asked in list(service.guests.values()):
                self._give_up(asked)
        if not (service.is_served or self._is_young(service.name, now_ns)):
            self._turn_away(service)

    def _let_go(self, instance: Taker) -> None:
        if not instance.draining or instance.held:
            return
        if isinstance(instance, Remote):
            instance.outpost.remotes.pop(instance.service.name, None)
        else:
            mine = self._instances.get(instance.link, {})
            if mine.get(instance.registration) is instance:
                del mine[instance.registration]
        instance.service.remove(instance)
        self._forget(instance.service)

    # -- siblings -----------------------------------------------------------------------------

    def join(self, link: bytes, name: str, is_far: bool = False) -> None:
        """A sibling is linked, or a node of another site; what it serves comes with ``offer``. It
        is gone by ``drop_link``."""
        self.siblings[link] = Outpost(link, name, is_far)
        self.outgoing.wide.add(link)

    def offer(self, link: bytes, offer: Offer, now_ns: int) -> None:
        """A sibling has told what it serves, or how busy that is."""
        outpost = self.siblings.get(link)
        if outpost is None:
            return  # its link has just gone
        remote = outpost.remotes.get(offer.service)
        if not offer.instances:
            if remote is not None:
                self._drain(remote, now_ns)
                self._let_go(remote)
            return
        service = self._service(offer.service)
        if remote is None:
            remote = outpost.remotes[offer.service] = Remote(outpost, service)
            remote.is_stuck = link in self._stuck
            remote.draining = True
        if remote.draining:
            service.offered(remote)
        remote.follow(offer)
        service.place(remote)
        self._feed(service, now_ns)

    def heard(self, origin: bytes, now_ns: int) -> None:
        """A sibling that was waited for has told all that it serves, or will not."""
        if self.comeback.heard(origin):
            self._settle(now_ns)

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
                self._refuse(link, row.id, error)
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
        if link in self.siblings:
            if service is None or not service.is_served_here:
                return nobody(row.service, service)
        elif service is None or not service.is_served:
            if not self._is_young(row.service, now_ns):
                self.no_responders += 1
                return nobody(row.service, service)
            try:
                check_service(row.service)
            except MeshError as error:
                return error
        return self._refusal(link, size_of(row, data))

    def _accept(
        self, link: bytes, mine: dict[int, Asked], row: RequestRow, data: bytes, now_ns: int
    ) -> None:
        service = self._service(row.service)
        service.requests += 1
        self._last_id += 1
        asked = Asked(self._last_id, link, row, service, data, now_ns)
        asked.is_guest = bool(self.siblings) and link in self.siblings
        service.of_nodes += asked.is_guest
        self._enter(asked)
        mine[row.id] = asked
        self._await(asked)
        if row.kind != EACH:
            waits = service.waiting or service.guests or not row.remaining_ns
            instance = None if waits else service.choose()
            if instance is not None:
                self._hand_out(asked, instance, now_ns)
                return
            (service.guests if asked.is_guest else service.waiting)[asked.id] = asked
            self._feed(service, now_ns)
        elif not asked.is_guest and self._is_young(service.name, now_ns):
            service.early[asked.id] = asked
            half_ns = now_ns + (asked.deadline_ns - now_ns) // 2
            until_ns = min(half_ns, self.comeback.until_ns(service.name, now_ns))
            heapq.heappush(self._early, (until_ns, asked.id))
        else:
            self._spread(asked, now_ns)

    def _refuse(self, link: bytes, number: int, error: MeshError) -> None:
        """It is not taken. A sibling asks elsewhere, if nobody serves it here."""
        if type(error) is NoResponders and link in self.siblings:
            self._reply(link, ReplyRow(number, False, True, RETURNED), b"")
        else:
            self._answer(link, number, error)

    def _spread(self, asked: Asked, now_ns: int) -> None:
        """To every instance there is."""
        service = asked.service
        takers: list[Taker] = [i for i in service.instances.values() if not i.draining]
        if not asked.is_guest:
            remotes = [remote for remote in service.remotes.values() if not remote.draining]
            near = service.is_served_near
            takers += [remote for remote in remotes if not (near and remote.is_far)]
        error = self._refusal(asked.payer, len(takers) * limits.REQUEST_OVERHEAD_BYTES)
        if error is not None:
            self._finish(asked, error)
            return
        for instance in takers:
            self._last_id += 1
            self._enter(asked.part(self._last_id, instance, now_ns))
        for instance in takers:
            self._serve_own(instance, now_ns)

    def _feed(self, service: Service, now_ns: int) -> None:
        """Hand out what waits, as far as there is room."""
        waiting = service.waiting
        while waiting or service.guests:
            instance = service.choose()
            if instance is not None:
                asked = service.next_here()
            else:
                instance = service.choose_remote() if waiting and service.remotes else None
                if instance is None:
                    return
                _, asked = waiting.popitem(last=False)
            if asked.deadline_ns <= now_ns:
                self._expire(asked)
            else:
                self._hand_out(asked, instance, now_ns)

    def _serve_own(self, instance: Taker, now_ns: int) -> None:
        while instance.waiting and instance.takes_own:
            _, asked = instance.waiting.popitem(last=False)
            if asked.deadline_ns <= now_ns:
                self._expire(asked)
            else:
                self._hand_out(asked, instance, now_ns)

    def _hand_out(self, asked: Asked, instance: Taker, now_ns: int) -> None:
        asked.instance = instance
        asked.attempts += 1
        asked.handed_ns = now_ns
        instance.hold(asked)
        service = asked.service
        service.place(instance)
        name, kind = "", ONE if asked.kind == EACH else asked.kind
        if instance.is_remote:
            name, kind = service.name, asked.kind
        elif self.changed is not None:
            self.changed[service.name] = None
        row = RequestRow(
            asked.id, instance.registration, name, asked.deadline_ns - now_ns, kind,
            asked.idempotent, asked.window, asked.headers, len(asked.data),
        )  # fmt: skip
        self.outgoing.request(instance.link, row, asked.data)
        if self._met is not None and not (instance.is_remote or asked.is_guest):
            self._met(asked.payer, instance.link, service.name)
        if self._is_full(instance.link):
            self._stuck[instance.link] = None
            self._place_all(instance.link)

    def _is_full(self, link: bytes) -> bool:
        """Whether who takes requests over this link is to have nothing more for now."""
        outpost = self.siblings.get(link) if self.siblings else None
        return self.outgoing.is_full(link) or (outpost is not None and outpost.is_full)

    def _takers(self, link: bytes) -> list[Taker]:
        outpost = self.siblings.get(link)
        if outpost is not None:
            return [*outpost.remotes.values()]
        return [*self._instances.get(link, {}).values()]

    def _place_all(self, link: bytes) -> None:
        is_stuck = link in self._stuck
        for instance in self._takers(link):
            instance.is_stuck = is_stuck
            instance.service.place(instance)
            self._change(instance.service, is_moved=False)

    def pump(self, now_ns: int) -> None:
        """Hand out to those whose links have acknowledged what they were sent, or that have room
        because nobody waits any more."""
        while self._freed:
            self._feed(self._freed.popitem()[0], now_ns)
        if not self._stuck:
            return
        for link in [link for link in self._stuck if not self._is_full(link)]:
            del self._stuck[link]
            self._place_all(link)
            for instance in self._takers(link):
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
            if instance.is_remote and asked.kind == EACH and not row.end:
                self._pass_on_one(asked, row, data)
            else:
                self._on_row(asked, instance, row, data, now_ns)

    def _on_row(
        self, asked: Asked, instance: Taker, row: ReplyRow, data: bytes, now_ns: int
    ) -> None:
        if row.end or row.code or asked.kind != STREAM:
            handed_ns = asked.handed_ns
            self._free(asked, instance)
            if row.code == RETURNED:
                self._drain(instance, now_ns)  # it gives back only what it will never take
                self._again(asked, now_ns)
            elif instance.is_remote and row.code == InstanceLost.code and row.detail == OF_NODE:
                asked.lost_at = ""
                self._lose_one(asked, instance, now_ns)
            else:
                instance.ended(now_ns - handed_ns, bool(row.code), now_ns)
                if row.code or row.has_value or (instance.is_remote and asked.kind == EACH):
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
            if instance.service.waiting or instance.service.guests:
                self._feed(instance.service, now_ns)
            if instance.draining:
                self._let_go(instance)
        elif not asked.link:
            self.late += 1
        else:
            asked.any = True
            row = row._replace(id=asked.their_id, instance=_who(instance, row))
            if not self._reply(asked.link, row, data):
                self._abandon(asked)  # a stream with a hole is none

    def _pass_on(self, asked: Asked, instance: Taker, row: ReplyRow, data: bytes) -> None:
        """The last row of an instance, to whoever waits for it; then it is over."""
        _, has_value, _, code, detail, message, _, length = row
        who = _who(instance, row)
        parent = asked.parent
        if parent is not None:
            self._drop(asked)
            if parent.link and (has_value or code):  # else it is the end of what a sibling says
                part = ReplyRow(
                    parent.their_id, has_value, False, code, detail, message, who, length
                )
                self._reply(parent.link, part, data)
            self._close_part(asked, parent)
            return
        if asked.link:
            last = ReplyRow(asked.their_id, has_value, True, code, detail, message, who, length)
            self._reply(asked.link, last, data)
        else:
            self.late += 1
        self._drop(asked)

    def _pass_on_one(self, part: Asked, row: ReplyRow, data: bytes) -> None:
        """What one instance at a sibling says of an EACH; more may come."""
        parent = part.parent
        if parent is not None and parent.link:
            self._reply(parent.link, row._replace(id=parent.their_id), data)

    def _again(self, asked: Asked, now_ns: int) -> None:
        """It was not begun where it was: to another, unless it is for that one alone."""
        parent, instance = asked.parent, asked.instance
        if parent is not None and instance is not None and instance.is_remote:
            self._drop(asked)  # a sibling without an instance has nothing to say
            self._close_part(asked, parent)
        elif parent is not None:
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
        elif not self._may_wait(asked, now_ns):
            self._give_up(asked)
        else:
            asked.service = service = self._service(service.name)
            queue = service.guests if asked.is_guest else service.waiting
            queue[asked.id] = asked
            queue.move_to_end(asked.id, last=False)
            self._feed(service, now_ns)

    def _may_wait(self, asked: Asked, now_ns: int) -> bool:
        """Whether somebody takes it, or may come who does."""
        service = asked.service
        if asked.is_guest:
            return service.is_served_here
        return service.is_served or self._is_young(service.name, now_ns)

    # -- ends ---------------------------------------------------------------------------------

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

    def _turn_away(self, service: Service) -> None:
        """Nobody is left to take what waits."""
        for asked in list(service.waiting.values()):
            self._give_up(asked)

    def _give_up(self, asked: Asked) -> None:
        """Nobody is left to take it. Who had it before may have done it."""
        service = asked.service
        if asked.is_guest and not asked.attempts:
            self._refuse(asked.link, asked.their_id, nobody(service.name, service))
            self._drop(asked)
            return
        self.no_responders += 1
        self._finish(asked, lost(asked) if asked.attempts else nobody(service.name, service))

    def drop_link(self, link: bytes, now_ns: int) -> None:
        """A program is gone, with its instances and its requests."""
        for asked in list(self._asking.get(link, {}).values()):
            self._abandon(asked)
        self.outgoing.drop_link(link)
        self._stuck.pop(link, None)
        takers = self._takers(link)
        self._instances.pop(link, None)
        if self.siblings.pop(link, None) is not None or self.changed is not None:
            for taker in takers:
                self.comeback.lost(taker.service.name, now_ns)
        for taker in takers:
            taker.service.drain(taker)
            taker.service.remove(taker)
        for taker in takers:
            self._lose(taker, now_ns)

    def _lose(self, instance: Taker, now_ns: int) -> None:
        held, instance.held = instance.held, {}
        for asked in held.values():
            asked.lost_at = instance.name if instance.is_remote else ""
            self._lose_one(asked, instance, now_ns)
        self._leave(instance, now_ns)
        self._forget(instance.service)

    def _lose_one(self, asked: Asked, instance: Taker, now_ns: int) -> None:
        """Who had it is gone, and may have done it."""
        asked.handed_ns = 0
        retry = asked.idempotent and not asked.any and not asked.is_guest
        retry = retry and asked.attempts < limits.REQUEST_ATTEMPTS_MAX
        if asked.parent is not None:
            self._finish(asked, lost(asked))
            return
        asked.instance = None
        if not asked.link:
            self._drop(asked)
        elif retry and (instance.service.is_served or instance.is_remote):
            self._wait_again(asked, now_ns)
        else:
            self._finish(asked, lost(asked))

    # -- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        while self._deadlines and self._deadlines[0][1] not in self._asked:
            heapq.heappop(self._deadlines)
        due = self._deadlines[0][0] if self._deadlines else None
        if self._early:
            due = self._early[0][0] if due is None else min(due, self._early[0][0])
        over_ns = self.comeback.next_deadline_ns() if self.by_name else None
        if over_ns is not None:
            due = over_ns if due is None else min(due, over_ns)
        return due

    def _is_young(self, name: str, now_ns: int) -> bool:
        return self.comeback.is_due(name, now_ns)

    def tick(self, now_ns: int) -> None:
        """Requests whose time is over; those for nobody once nobody is on the way any more."""
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, number = heapq.heappop(self._deadlines)
            asked = self._asked.get(number)
            if asked is not None and asked.link:
                self._expire(asked)
        if self.comeback.is_over(now_ns):
            self._settle(now_ns)
        while self._early and self._early[0][0] <= now_ns:
            _, number = heapq.heappop(self._early)
            asked = self._asked.get(number)
            if asked is not None and asked.id in asked.service.early:
                self._on_early(asked, now_ns)

    def _settle(self, now_ns: int) -> None:
        """Some who were on the way are there, or will not come."""
        for service in list(self.by_name.values()):
            if self._is_young(service.name, now_ns):
                continue
            if not service.is_served:
                self._turn_away(service)
                self._forget(service)
            for asked in list(service.early.values()):
                self._on_early(asked, now_ns)

    def _on_early(self, asked: Asked, now_ns: int) -> None:
        """It has waited for instances to come back."""
        name = asked.service.name
        if asked.service.is_served:
            del asked.service.early[asked.id]
            self._spread(asked, now_ns)
        elif self._is_young(name, now_ns):
            heapq.heappush(self._early, (self.comeback.until_ns(name, now_ns), asked.id))
        else:
            self._give_up(asked)

    # -- what leaves --------------------------------------------------------------------------

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames to send, what goes to one program together."""
        return self.outgoing.take() if self.outgoing.boxes else []

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
        shown = [s for s in self.by_name.values() if s.instances or s.requests or s.waiting]
        return [s.describe(now_ns) for s in sorted(shown, key=lambda service: service.name)]


def _who(instance: Taker, row: ReplyRow) -> str:
    """The name of who answered: a sibling says which of its instances."""
    return (row.instance or instance.name) if instance.is_remote else instance.name
