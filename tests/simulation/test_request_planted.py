"""Planted bugs of requests: each is a change of the core that some seed must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from meshmq.core import services as services_module
from meshmq.core.client import Client
from meshmq.core.instances import Service
from meshmq.core.outgoing import Outbox, Outgoing
from meshmq.core.requester import Requester
from meshmq.core.responder import Responder
from meshmq.core.services import Services
from meshmq.errors import NoResponders
from meshmq.frames import EACH, STREAM, Grant, Reply
from meshmq.limits import RECORD_OVERHEAD_BYTES, SECOND
from meshmq.testing import play_requests
from tests.core import test_requests
from tests.planting import Planted

SEEDS_MAX = 90

PLANTED = Planted("requests", lambda seed, _: play_requests(seed), range(SEEDS_MAX))
planted = PLANTED.register


# -- the node: who gets what ----------------------------------------------------------------------


@planted(Services, "_expire")
def never_look_at_deadlines(real: Any, self: Any, asked: Any) -> None:
    """What is late waits on, and is handed out with time that it has not."""
    asked.deadline_ns += SECOND // 10
    self._deadlines.append((asked.deadline_ns, asked.id))
    self._deadlines.sort()


@planted(Services, "_lose")
def retry_whatever_it_is(real: Any, self: Any, instance: Any, now_ns: int) -> None:
    for asked in instance.held.values():
        asked.idempotent = True
    real(self, instance, now_ns)


@planted(Services, "_lose")
def never_retry(real: Any, self: Any, instance: Any, now_ns: int) -> None:
    """An idempotent request goes under with its instance, unseen."""
    for asked in list(instance.held.values()):
        if asked.idempotent:
            del instance.held[asked.id]
            self._drop(asked)
    real(self, instance, now_ns)


@planted(Services, "_lose")
def retry_a_stream_that_has_begun(real: Any, self: Any, instance: Any, now_ns: int) -> None:
    for asked in instance.held.values():
        asked.any = False
    real(self, instance, now_ns)


@planted(Services, "_hand_out")
def never_count_attempts(real: Any, self: Any, asked: Any, *rest: Any) -> None:
    asked.attempts = 0
    real(self, asked, *rest)


@planted(services_module, "lost")
def say_that_nothing_was_done_where_an_instance_is_lost(real: Any, asked: Any) -> Any:
    return NoResponders(asked.service.name)


@planted(Services, "_drain")
def hand_more_to_who_gives_back(real: Any, self: Any, instance: Any, now_ns: int) -> None:
    """As it was once: known as draining, but still among those with room."""
    instance.draining = True
    instance.service._taking -= 1


@planted(Services, "_again")
def give_it_back_to_the_same(real: Any, self: Any, asked: Any, now_ns: int) -> None:
    at = [i for i in asked.service.instances.values() if i.draining and i.link in self._instances]
    if at and asked.parent is None and asked.link:
        self._hand_out(asked, at[0], now_ns)
    else:
        real(self, asked, now_ns)


@planted(Services, "_leave")
def forget_who_waits_when_the_last_one_leaves(
    real: Any, self: Any, instance: Any, now_ns: int
) -> None:
    with patch.object(self, "_turn_away", lambda service: None):
        real(self, instance, now_ns)


@planted(Services, "_free")
def forget_to_free_its_bytes(real: Any, self: Any, asked: Any, instance: Any) -> None:
    real(self, asked, instance)
    instance.held_bytes += asked.weight


@planted(Services, "_abandon")
def free_the_room_of_what_is_cancelled(real: Any, self: Any, asked: Any) -> None:
    """It is still at work there."""
    instance = asked.instance
    if asked.handed_ns and asked.kind != EACH:
        real(self, asked)
        self._free(asked, instance)
        self._drop(asked)
    else:
        real(self, asked)


@planted(Service, "place")
def count_room_wrongly(real: Any, self: Any, instance: Any) -> None:
    instance.concurrency += 1
    real(self, instance)
    instance.concurrency -= 1


@planted(Service, "place")
def do_not_find_who_has_room_again(real: Any, self: Any, instance: Any) -> None:
    if instance.level >= 0 or not instance.served:
        real(self, instance)


# -- the node: what goes back ---------------------------------------------------------------------


@planted(Services, "_pass_on")
def answer_twice(real: Any, self: Any, asked: Any, instance: Any, row: Any, data: bytes) -> None:
    link, number = asked.link, asked.their_id
    real(self, asked, instance, row, data)
    if link:
        self._reply(link, row._replace(id=number, instance=instance.name), data)


@planted(Services, "_pass_on")
def answer_another_number(
    real: Any, self: Any, asked: Any, instance: Any, row: Any, data: bytes
) -> None:
    others = self._asking.get(asked.link, {})
    number = asked.their_id
    asked.their_id = min(others, default=number)
    real(self, asked, instance, row, data)
    others.pop(number, None)


@planted(Services, "_pass_on")
def answer_who_asked_last(
    real: Any, self: Any, asked: Any, instance: Any, row: Any, data: bytes
) -> None:
    link = asked.link
    if link and not asked.parent:
        self._unlink(asked)
        asked.link = next(reversed(self._asking), link)
        self._reply(asked.link, row._replace(id=asked.their_id, instance=instance.name), data)
        asked.link = b""
        self._drop(asked)
    else:
        real(self, asked, instance, row, data)


@planted(Services, "on_cancel")
def drop_the_requesters_cancel(real: Any, self: Any, link: bytes, frame: Any) -> None:
    for number in frame.ids:
        asked = self._asking.get(link, {}).get(number)
        if asked is not None and asked.handed_ns:
            self._unlink(asked)
        elif asked is not None:
            self._abandon(asked)


@planted(Services, "_reply")
def say_busy_of_a_dropped_reply(real: Any, self: Any, link: bytes, row: Any, data: bytes) -> bool:
    has_room = real(self, link, row, data)
    if not has_room and link not in self.outgoing.laggards:
        replies = self.outgoing.boxes[link].replies
        told, _, size = replies[-1]
        text = told.message + " " * (len(told.code) - len("busy"))
        replies[-1] = (told._replace(code="busy", message=text), b"", size)
    return bool(has_room)


@planted(Services, "_reply")
def go_on_behind_a_dropped_value(real: Any, self: Any, link: bytes, row: Any, data: bytes) -> bool:
    """A hole in a stream, that nobody is told of."""
    if not real(self, link, row, data) and link not in self.outgoing.laggards:
        box = self.outgoing.boxes[link]
        _, _, size = box.replies.pop()
        box.reply_bytes -= size
        self.outgoing.backlog -= size
    return True


@planted(Services, "_refusal")
def take_whatever_is_asked(real: Any, self: Any, link: bytes, size: int) -> None:
    return None


@planted(Outgoing, "_has_room")
def keep_whatever_is_answered(real: Any, self: Any, *rest: Any) -> bool:
    return True


@planted(Services, "pump")
def forget_who_has_acknowledged(real: Any, self: Any, now_ns: int) -> None:
    """Its instances get nothing any more."""


@planted(Outgoing, "cancel")
def tell_nobody_of_a_cancel(real: Any, self: Any, link: bytes, number: int) -> None:
    pass


@planted(Outbox, "_take_replies")
def forget_what_it_does_not_take(real: Any, self: Any, *rest: Any) -> None:
    """And it still counts."""
    real(self, *rest)
    self.replies.clear()


@planted(Service, "drain")
def count_who_takes_wrongly(real: Any, self: Any, instance: Any) -> None:
    """As long as an instance is there, somebody serves."""
    was = instance.draining
    real(self, instance)
    if not was and instance.held:
        self._taking += 1


@planted(Services, "_close_part")
def end_each_with_the_first(real: Any, self: Any, part: Any, parent: Any) -> None:
    real(self, part, parent)
    if parent.parts and parent.link:
        self._reply(parent.link, real.__globals__["ReplyRow"](parent.their_id, False, True), b"")


@planted(Services, "on_grant")
def lose_grants(real: Any, self: Any, link: bytes, frame: Any) -> None:
    pass


@planted(Services, "on_grant")
def grant_twice(real: Any, self: Any, link: bytes, frame: Any) -> None:
    real(self, link, Grant(frame.id, 2 * frame.bytes))


# -- the responder --------------------------------------------------------------------------------


@planted(Responder, "on_session_lost")
def reply_in_the_next_session(real: Any, self: Any) -> None:
    """Work goes on as if nothing had happened, under numbers of the session before."""
    for incoming in self._incoming.values():
        incoming.session += 1
    real(self)


@planted(Responder, "_stop")
def tell_no_handler(real: Any, self: Any, incoming: Any, why: str) -> None:
    real(self, incoming, why)
    self.stopped.clear()


@planted(Responder, "tick")
def begin_what_is_late(real: Any, self: Any, now_ns: int) -> None:
    self._deadlines = [entry for entry in self._deadlines if entry[0] > now_ns]


@planted(Responder, "begin")
def begin_what_was_cancelled(real: Any, self: Any, registration: Any) -> Any:
    for incoming in registration.queue:
        incoming.cancelled = ""
    return real(self, registration)


@planted(Responder, "give_back")
def give_back_and_keep(real: Any, self: Any, registration: Any) -> None:
    kept = list(registration.queue)
    real(self, registration)
    registration.queue.extend(kept)


@planted(Responder, "reply")
def ignore_the_window(real: Any, self: Any, incoming: Any, data: bytes, end: bool) -> None:
    incoming.window += len(data) + RECORD_OVERHEAD_BYTES
    real(self, incoming, data, end)


# -- the requester --------------------------------------------------------------------------------


@planted(Requester, "on_session_lost")
def ask_again_whatever_it_is(real: Any, self: Any) -> None:
    for call in self.calls.values():
        call.idempotent = True
    real(self)


@planted(Requester, "on_session_lost")
def forget_that_it_was_asked_before(real: Any, self: Any) -> None:
    real(self)
    for call in self.calls.values():
        call.lost = 0


@planted(Requester, "on_session_lost")
def ask_a_stream_again_that_has_begun(real: Any, self: Any) -> None:
    for call in self.calls.values():
        call.any = False
    real(self)


@planted(Requester, "on_reply")
def take_replies_of_what_is_over(real: Any, self: Any, frame: Reply) -> None:
    over = self.__dict__.setdefault("over", {})
    over.update(self.calls)
    with patch.object(self, "calls", dict(over)):
        real(self, frame)
        calls = {n: call for n, call in self.calls.items() if not call.is_over}
    self.calls = calls


@planted(Requester, "on_reply")
def lose_errors_of_who_has_no_name(real: Any, self: Any, frame: Reply) -> None:
    real(self, frame)
    for row in frame.rows:
        call = self.calls.get(row.id)
        if call is not None and call.kind == EACH and not (row.has_value or row.instance):
            call.replies.pop()


@planted(Requester, "taken")
def grant_before_it_is_taken(real: Any, self: Any, call: Any, size: int) -> None:
    real(self, call, size + 10 if call.kind == STREAM else size)


@planted(Requester, "next_deadline_ns")
def look_at_deadlines_too_late(real: Any, self: Any) -> int | None:
    due = real(self)
    return None if due is None else due + SECOND // 10


# -- the client -----------------------------------------------------------------------------------


@planted(Client, "_on_welcome")
def do_not_serve_in_the_next_session(real: Any, self: Any, welcome: Any, now_ns: int) -> None:
    kept, self.responder.registrations = self.responder.registrations, {}
    real(self, replace(welcome), now_ns)
    self.responder.registrations = kept


def test_there_are_at_least_thirty() -> None:
    assert len(PLANTED) >= 30


BY_HAND: dict[str, Callable[[Any], None]] = {
    "give_back_and_keep": test_requests.test_what_is_not_begun_is_given_back,
}
"""What few seeds have: a test that makes it is broken by the bug."""

BY_SEEDS = [name for name in PLANTED if name not in BY_HAND]
CASES = [(name, "") for name in BY_SEEDS]


@pytest.mark.parametrize("name", BY_HAND)
def test_planted_bug_is_caught_by_hand(name: str) -> None:
    BY_HAND[name](test_requests.made())
    with PLANTED[name](), pytest.raises(AssertionError):
        BY_HAND[name](test_requests.made())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BY_SEEDS)
def test_planted_bug_is_caught(name: str) -> None:
    assert PLANTED.noticing(name) is not None, f"{SEEDS_MAX} seeds did not notice the bug"
