"""Planted bugs of programs without a node: each is a change of the core that some seed must catch.

For each checker one is named that it notices by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from meshmq.core.demand import Demand
from meshmq.core.direct import Direct
from meshmq.core.gossip import Gossip
from meshmq.core.hybrid import HybridClient
from meshmq.core.inlets import Feed, Inlets
from meshmq.core.interests import Wishes
from meshmq.core.links import Link, Links
from meshmq.core.outlets import Outlets
from meshmq.core.pushes import Pushes
from meshmq.core.relay import Relay
from meshmq.core.requester import Requester
from meshmq.core.responder import Responder
from meshmq.core.services import Services
from meshmq.core.session import Session
from meshmq.errors import NoResponders
from meshmq.frames import Deliver, Noted, Reply
from meshmq.testing import DirectWorld
from meshmq.testing.direct_checkers import CHECKERS
from tests.planting import Planted

SEEDS = [49, *range(80)]  # the first one sees what few do


def faults_of(seed: int, checker: str) -> list[str]:
    return PLANTED.faults_of(DirectWorld(seed), CHECKERS, checker)


PLANTED = Planted("direct", faults_of, SEEDS)
planted = PLANTED.register  # with the name of a checker that notices it by itself


# -- records --------------------------------------------------------------------------------------


@planted(Inlets, "_miss", "counts")
def count_nothing(real: Any, self: Any, reader: Any, records: int) -> None: ...


@planted(Inlets, "on_noted")
def forget_what_was_missed_between_sessions(
    real: Any, self: Any, link: bytes, frame: Noted, *now: int, **more: Any
) -> bool:
    source = self.sources[link]
    if frame.whole and not frame.more:
        for reader in self.readers.values():
            feed = reader.feeds.get(source.instance)
            if feed is not None:
                feed.is_noted = False
                feed.last.clear()
    return bool(real(self, link, frame, *now, **more))


@planted(Inlets, "on_noted")
def count_what_was_before_the_interest(
    real: Any, self: Any, link: bytes, frame: Noted, *now: int, **more: Any
) -> bool:
    for reader in self.readers.values():
        feed = reader.feeds.get(self.sources[link].instance)
        if feed is not None:
            feed.is_noted = frame.whole or feed.is_noted
    return bool(real(self, link, frame, *now, **more))


@planted(HybridClient, "_hand_on", "order")
def hand_on_the_newest_first(real: Any, self: Any, now_ns: int) -> None:
    for arrivals in self.direct.inlets.arrived.values():
        arrivals.reverse()
    real(self, now_ns)


@planted(Inlets, "on_deliver", "beginnings")
def hand_on_what_was_before_the_interest(
    real: Any, self: Any, link: bytes, frame: Deliver, now_ns: int
) -> None:
    """A new subscription gets what comes for the others, too."""
    real(self, link, frame, now_ns)
    reader = self.readers.get(frame.subscription)
    found = self.arrived.get(frame.subscription)
    for other in list(self.readers.values()):
        if reader is not None and found and other is not reader and not other.pulls:
            feed = other.feeds[self.sources[link].instance]
            if not feed.is_noted and other.pattern == reader.pattern:
                self.arrived.setdefault(other.number, []).append(found[-1])
                other.held.append((feed, 0, found[-1].count))


@planted(Outlets, "grant", "rest")
def lose_credit(real: Any, self: Any, link: bytes, number: int, size: int, records: int) -> bool:
    return bool(real(self, link, number, size // 8, records // 8))


@planted(Feed, "grant")
def grant_too_little(real: Any, self: Any, size: int, records: int) -> tuple[int, int]:
    granted: tuple[int, int] = real(self, size, records)
    return (granted[0] // 2, granted[1] // 2) if any(granted) else granted


@planted(Outlets, "unwant")
def send_to_subscriptions_that_are_closed(real: Any, self: Any, link: bytes, number: int) -> None:
    if link not in self._outlets:
        real(self, link, number)


@planted(Outlets, "tick")
def never_tell_of_gaps_by_time(real: Any, self: Any, now_ns: int) -> None:
    gaps, self._gaps = self._gaps, {}
    real(self, now_ns)
    self._gaps = {**gaps, **self._gaps}


# -- interests and links --------------------------------------------------------------------------


@planted(Demand, "lose")
def keep_services_that_ended(real: Any, self: Any, name: bytes, number: int, now_ns: int) -> None:
    self._known[name].pop(number, None)


@planted(Services, "_judge", "calm")
def find_nobody_now_and_then(
    real: Any, self: Any, link: bytes, mine: Any, row: Any, *more: Any
) -> Any:
    return NoResponders("nobody") if row.id % 5 == 0 else real(self, link, mine, row, *more)


@planted(Wishes, "whole")
def tell_who_joins_nothing(real: Any, self: Any) -> Any:
    return replace(real(self), add=())


@planted(Links, "_on_first", "sessions")
def keep_what_was_dialled_whoever_dialled(real: Any, self: Any, link: Link, now_ns: int) -> bool:
    if link.instance in self.by_instance:
        return False
    return bool(real(self, link, now_ns))


@planted(Links, "_on_first")
def keep_both_sessions(real: Any, self: Any, link: Link, now_ns: int) -> bool:
    if link.instance in self.by_instance:
        self._keep(link, now_ns)
        return True
    return bool(real(self, link, now_ns))


@planted(Links, "_lose")
def tell_discovery_of_no_loss(real: Any, self: Any, link: Link, reason: str, now_ns: int) -> None:
    self._drop(link, now_ns)


@planted(Gossip, "hear")
def believe_no_gossip(real: Any, self: Any, teller: bytes, frame: Any) -> Any:
    return []


@planted(Session, "tick")
def never_give_up(real: Any, self: Any, now_ns: int) -> None:
    self._heard_at = now_ns
    real(self, now_ns)


@planted(Direct, "_part")
def keep_the_services_of_who_is_gone(real: Any, self: Any, link: Link, now_ns: int) -> None:
    with patch.object(self.services, "drop_link", lambda name, now_ns: None):
        real(self, link, now_ns)


# -- pushes ---------------------------------------------------------------------------------------


@planted(Pushes, "_hand_over", "pushes")
def push_to_two(real: Any, self: Any, push: Any, puller: Any, count: int) -> None:
    at = push.at
    real(self, push, puller, count)
    other = next((p for p in self._pullers.values() if p is not puller and p.has_credit), None)
    if other is not None:
        push.at = at
        real(self, push, other, count)


@planted(Pushes, "leave")
def confirm_what_was_lost(real: Any, self: Any, link: bytes, now_ns: int) -> None:
    for _, push in self._sent.pop(link, ()):
        self.came(push)
    real(self, link, now_ns)


# -- requests -------------------------------------------------------------------------------------


@planted(Relay, "request")
def mix_up_who_asked(
    real: Any, self: Any, link: bytes, frame: Any, now_ns: int, **more: Any
) -> Any:
    """The numbers of programs are taken as they are: the second one overwrites the first."""
    for row in frame.rows:
        self._last_id = row.id - 1
    return real(self, link, frame, now_ns, **more)


@planted(Services, "_lose")
def retry_whatever_it_is(real: Any, self: Any, instance: Any, now_ns: int) -> None:
    for asked in instance.held.values():
        asked.idempotent = True
    real(self, instance, now_ns)


@planted(Requester, "on_reply", "requests")
def take_every_reply_twice(real: Any, self: Any, frame: Reply) -> None:
    calls = dict(self.calls)
    real(self, frame)
    again = [row for row in frame.rows if row.has_value and row.id in calls]
    for row in again:
        calls[row.id].replies.append((row, b""))


@planted(Responder, "begin")
def begin_what_is_late(real: Any, self: Any, registration: Any) -> Any:
    for incoming in registration.queue:
        if incoming.cancelled == "deadline":
            incoming.cancelled = ""
    return real(self, registration)


SHOWN_BY = {one.__name__: PLANTED.noticed_by(one.__name__) for one in CHECKERS}
CASES = [*[(name, "") for name in PLANTED], *[(name, c) for c, name in SHOWN_BY.items()]]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str) -> None:
    assert PLANTED.noticing(name) is not None, f"{name} was not noticed"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", SHOWN_BY)
def test_each_checker_can_fail_by_itself(checker: str) -> None:
    found = PLANTED.noticing(SHOWN_BY[checker], checker)
    assert found is not None, f"{checker} does not notice {SHOWN_BY[checker]}"
