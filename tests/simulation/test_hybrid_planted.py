"""Planted bugs of programs with two routes: each is a change of the core that some seed must catch.

For each checker one is named that it notices by itself. What machines without a node do wrong is
in test_direct_planted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from meshmq.core.hybrid import HybridClient
from meshmq.core.inlets import Inlets
from meshmq.core.interests import Wishes
from meshmq.core.lanes import Lane
from meshmq.core.links import Link, Links
from meshmq.core.outlets import Outlets
from meshmq.core.permits import Permit
from meshmq.core.pushes import Pushes
from meshmq.core.requester import Requester
from meshmq.core.routing import Routing
from meshmq.core.services import Services
from meshmq.core.streams import Streams
from meshmq.core.subscriber import Subscriber
from meshmq.errors import NoResponders
from meshmq.frames import Interest, Reply
from meshmq.limits import MS
from meshmq.testing import HybridWorld
from meshmq.testing.hybrid_checkers import CHECKERS
from tests.core import test_hybrid
from tests.planting import Planted

SEEDS = [
    int(line.split()[0])
    for line in Path(__file__).with_name("hybrid_seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


class OneCut(HybridWorld):
    """A world whose only fault is that two programs are cut off from each other, for long.

    ``through`` looks at what has been quiet for 2 s. In most worlds that is next to nothing.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.kill_count = self.cut_count = self.break_count = self.stop_count = 0
        self.node_kill_count = self.node_stop_count = self.leave_count = self.change_count = 0
        self.loss = self.late = self.stall = 0.0
        self.bounds = {}
        self.window = (1 << 20, 10_000)
        self.after(1500 * MS, self._cut_two)

    def _cut_two(self) -> None:
        one, other = self.rng.sample(sorted(self.programs), 2)
        self._cut |= {(one, other), (other, one)}
        self._disturb(one, other)


def faults_of(seed: int, checker: str) -> list[str]:
    world = OneCut(seed) if checker == "through" else HybridWorld(seed)
    return PLANTED.faults_of(world, CHECKERS, checker)


PLANTED = Planted("hybrid", faults_of, SEEDS)
planted = PLANTED.register  # with the name of a checker that notices it by itself


# -- records that may be lost ----------------------------------------------------------------------


@planted(Inlets, "_miss", "counts")
def count_nothing(real: Any, self: Any, reader: Any, records: int) -> None: ...


@planted(Inlets, "_begin")
def count_nothing_between_two_sessions(
    real: Any, self: Any, reader: Any, feed: Any, rows: Any
) -> None:
    missed = reader.missed
    real(self, reader, feed, rows)
    reader.missed = missed


@planted(Inlets, "_place", "order")
def hand_on_what_came_by_the_other_route(real: Any, self: Any, *more: Any) -> int:
    real(self, *more)
    return 0


@planted(HybridClient, "_hand_on")
def hand_on_the_newest_first(real: Any, self: Any, now_ns: int) -> None:
    for arrivals in self.direct.inlets.arrived.values():
        arrivals.reverse()
    real(self, now_ns)


@planted(Wishes, "whole", "calm")
def tell_who_joins_nothing(real: Any, self: Any) -> Any:
    return replace(real(self), add=())


@planted(Outlets, "number")
def let_what_is_sent_again_set_numbers_back(
    real: Any, self: Any, row: Any, *, is_sure: bool
) -> None:
    self.numbers.pop(row.topic, None)
    real(self, row, is_sure=is_sure)


@planted(Outlets, "number")
def tell_as_missing_what_the_node_may_keep(
    real: Any, self: Any, row: Any, *, is_sure: bool
) -> None:
    real(self, row, is_sure=True)


# -- records that are kept -------------------------------------------------------------------------


@planted(HybridClient, "_way_of")
def send_what_is_kept_directly(real: Any, self: Any, lane: Lane) -> Any:
    return real(self, lane) if lane.transient is not False else self.publisher.direct


@planted(Subscriber, "take", "durable")
def pass_over_what_is_kept(real: Any, self: Any, row: Any, data: bytes) -> Any:
    arrival = real(self, row, data)
    return None if row.lsn % 7 == 6 else arrival


@planted(HybridClient, "_asks_node")
def open_what_the_node_has_not_answered(real: Any, self: Any, number: int) -> bool:
    return False


@planted(Streams, "publish")
def confirm_before_it_is_stored(real: Any, self: Any, link: bytes, producer: bytes, batch: Any,
                                data: bytes, entries: Any) -> Any:  # fmt: skip
    mine: list[Any] = []
    found = real(self, link, producer, batch, data, mine)
    if batch.first % 11:
        entries += mine
    return found


# -- requests --------------------------------------------------------------------------------------


@planted(Requester, "on_reply", "requests")
def take_every_reply_twice(real: Any, self: Any, frame: Reply) -> None:
    calls = dict(self.calls)
    real(self, frame)
    for row in frame.rows:
        if row.has_value and row.id in calls:
            calls[row.id].replies.append((row, b""))


@planted(Services, "_judge")
def find_nobody_now_and_then(
    real: Any, self: Any, link: bytes, mine: Any, row: Any, *more: Any
) -> Any:
    return NoResponders("nobody") if row.id % 3 == 0 else real(self, link, mine, row, *more)


@planted(HybridClient, "_is_asked_again")
def ask_again_whatever_it_is(real: Any, self: Any, row: Any) -> bool:
    call = self.requester.calls.get(row.id)
    return call is not None and self.requester.again(row.id, is_lost=False)


# -- routes ----------------------------------------------------------------------------------------


@planted(Routing, "turned")
def never_notice_that_a_link_is_silent(real: Any, self: Any, now_ns: int) -> Iterable[Any]:
    return []


@planted(Routing, "fall_silent")
def leave_the_node_in_the_belief_that_it_goes_directly(real: Any, self: Any, link: bytes) -> None:
    with patch.object(self, "_tell", lambda **more: None):
        real(self, link)


@planted(Outlets, "given")
def say_that_they_have_what_they_may_not(real: Any, self: Any, link: bytes) -> list[int]:
    return list(self._outlets[link])


@planted(Routing, "hear")
def stay_with_the_node(real: Any, self: Any, link: bytes) -> None: ...


@planted(Routing, "move")
def forget_where_others_are(real: Any, self: Any, link: bytes, node: bytes) -> None: ...


@planted(Inlets, "tick")
def wait_for_ever(real: Any, self: Any, now_ns: int) -> None: ...


@planted(Outlets, "grant", "rest")
def lose_credit(real: Any, self: Any, link: bytes, number: int, size: int, records: int) -> bool:
    return bool(real(self, link, number, size // 8, records // 8))


@planted(Outlets, "want_again", "through")
def keep_what_nobody_wanted_from_the_node(real: Any, self: Any) -> None: ...


@planted(Links, "_on_first", "sessions")
def keep_what_was_dialled_whoever_dialled(real: Any, self: Any, link: Link, now_ns: int) -> bool:
    if link.instance in self.by_instance:
        return False
    return bool(real(self, link, now_ns))


@planted(Pushes, "_hand_over", "pushes")
def push_to_two(real: Any, self: Any, push: Any, puller: Any, count: int) -> None:
    at = push.at
    real(self, push, puller, count)
    other = next((p for p in self._pullers.values() if p is not puller and p.has_credit), None)
    if other is not None:
        push.at = at
        real(self, push, other, count)


# -- what a node allows ----------------------------------------------------------------------------


@planted(Permit, "covers")
def show_everything_to_who_was_introduced(real: Any, self: Any, interest: Interest) -> bool:
    return True


@planted(Links, "_stranger")
def talk_to_strangers(real: Any, self: Any, instance: bytes) -> None: ...


@planted(Links, "_expire", "strict")
def stay_linked_when_the_permit_is_over(real: Any, self: Any, now_ns: int) -> None:
    if self.permits is not None:
        self.permits.expired(now_ns)
        self._permits_due_ns = self.permits.next_deadline_ns()


BY_HAND: dict[str, Callable[[Any], None]] = {
    "open_what_the_node_has_not_answered": (
        test_hybrid.test_a_node_that_is_back_before_the_others_have_answered_is_waited_for
    ),
    "say_that_they_have_what_they_may_not": (
        test_hybrid.test_what_one_may_give_no_longer_comes_by_the_node_whatever_else_is_wanted
    ),
}
"""What few seeds have: a test that makes it is broken by the bug."""

BY_SEEDS = [name for name in PLANTED if name not in BY_HAND]
SHOWN_BY = {one.__name__: PLANTED.noticed_by(one.__name__) for one in CHECKERS}
CASES = [*[(name, "") for name in BY_SEEDS], *[(name, c) for c, name in SHOWN_BY.items()]]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_planted_bug_is_caught_by_hand(name: str) -> None:
    BY_HAND[name](test_hybrid.made())
    with PLANTED[name](), pytest.raises(AssertionError):
        BY_HAND[name](test_hybrid.made())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BY_SEEDS)
def test_a_planted_bug_is_caught(name: str) -> None:
    assert PLANTED.noticing(name) is not None, f"{name} was not noticed"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", SHOWN_BY)
def test_each_checker_can_fail_by_itself(checker: str) -> None:
    found = PLANTED.noticing(SHOWN_BY[checker], checker)
    assert found is not None, f"{checker} does not notice {SHOWN_BY[checker]}"
    assert not faults_of(found, checker)  # it is the bug that it noticed
