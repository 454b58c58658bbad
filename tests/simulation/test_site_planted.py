"""Planted bugs of a site of nodes: each is a change of the core that some seed must catch.

For each checker one is named that it notices by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshmq import limits
from meshmq.core.delivery import Delivery
from meshmq.core.discovery import Discovery
from meshmq.core.links import Links
from meshmq.core.node import Node
from meshmq.core.site import Site
from meshmq.core.site_interests import Reach
from meshmq.core.site_links import SiteLinks
from meshmq.core.transients import Transients
from meshmq.core.wants import Wants
from meshmq.frames import Refuse, SiteInterests
from meshmq.testing import SiteWorld, site_checkers
from meshmq.testing.site_directory_checkers import CHECKERS as OF_DIRECTORY
from meshmq.testing.site_world import COMMON
from tests.core import test_site, test_site_noted
from tests.planting import Planted

OF_COMMON = [c for c in site_checkers.CHECKERS if c.__module__ == site_checkers.__name__]
CHECKERS = (*OF_COMMON, *OF_DIRECTORY)
SEEDS = [
    int(line.split()[0])
    for line in Path(__file__).with_name("site_seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def faults_of(seed: int, checker: str) -> list[str]:
    return PLANTED.faults_of(SiteWorld(seed, features=COMMON), CHECKERS, checker)


PLANTED = Planted("site", faults_of, SEEDS)
planted = PLANTED.register  # with the name of a checker that notices it by itself


# -- who is there ----------------------------------------------------------------------------------


@planted(Discovery, "_back_off")
def dial_ever_more_seldom(real: Any, self: Any, *args: Any) -> None:
    """The simulator found it: after a long cut nodes were apart for 17 s more."""
    self._backoff_ns_max = limits.DIAL_BACKOFF_NS_MAX
    real(self, *args)


@planted(SiteLinks, "_on_first", "belonging")
def judge_a_name_with_the_hello_only(real: Any, self: Any, link: Any, now_ns: int) -> bool:
    """The simulator found it: two that said hello at once were both linked."""
    return Links._on_first(self, link, now_ns)


@planted(SiteLinks, "_impostor")
def link_with_copies(real: Any, self: Any, origin: bytes, name: str, node: Any) -> Any:
    return None


@planted(SiteLinks, "_say", "words")
def refuse_without_words(real: Any, self: Any, who: str, refusal: Refuse) -> None: ...


@planted(SiteLinks, "_suspect", "alarms")
def call_who_starts_again_a_copy(
    real: Any, self: Any, holder: Any, origin: bytes, node: Any, refusal: Refuse
) -> Refuse:
    return refusal


@planted(Site, "_dial", "views")
def dial_a_data_link_once(real: Any, self: Any, now_ns: int) -> None:
    dialled = self.__dict__.setdefault("dialled", set())
    for origin in list(self._dials):
        if id(self.siblings[origin]) in dialled:
            del self._dials[origin]
    dialled |= {id(self.siblings[origin]) for origin in self._dials}
    real(self, now_ns)


@planted(Site, "judge")
def take_a_late_hello_for_a_data_link(real: Any, self: Any, hello: Any) -> Any:
    """The simulator found it: the node with two data links had each of its frames twice."""
    sibling = self.siblings.get(hello.instance)
    return real(self, hello) if sibling is None else sibling


# -- transient topics ------------------------------------------------------------------------------


@planted(Reach, "join", "rest")
def say_nothing_to_who_joins(real: Any, self: Any, sibling: Any) -> None:
    sends = list(self.sends)
    real(self, sibling)
    self.sends = sends


@planted(Reach, "on_interests")
def forget_the_first_frames_of_a_whole(real: Any, self: Any, link: bytes, frame: Any) -> Any:
    self._theirs[link].arriving = None
    return real(self, link, frame)


@planted(Reach, "on_interests")
def forget_nothing(real: Any, self: Any, link: bytes, frame: SiteInterests) -> Any:
    return real(self, link, SiteInterests(frame.whole, frame.add, (), frame.more))


@planted(Wants, "remove")
def forget_what_was_covered(real: Any, self: Any, pattern: str) -> None:
    self._counts[pattern] -= 1
    if not self._counts[pattern]:
        del self._counts[pattern]
        if pattern in self.told:
            self._untell(pattern)


@planted(Reach, "take", "order")
def hand_on_twice(real: Any, self: Any, link: bytes, frame: Any) -> Iterator[Any]:
    for row, data in real(self, link, frame):
        yield row, data
        yield row, data


@planted(Node, "_pass_on_from", "copies")
def pass_on_what_another_node_brought(
    real: Any, self: Any, row: Any, data: bytes, abroad: Any
) -> None:
    real(self, row, data, abroad)
    passed = self.__dict__.setdefault("passed", set())
    if data in passed:
        return  # once: it goes round and round
    passed.add(data)
    siblings = self.site.reach.wanting(row.topic)
    self.delivery.queue(siblings, row, data)
    for sub in siblings:
        self._dirty[id(sub)] = sub


@planted(Reach, "wanting", "audience")
def send_to_all(real: Any, self: Any, topic: str) -> Any:
    return tuple([theirs.subscription for theirs in self._theirs.values()])


@planted(Delivery, "lose", "calm")
def do_not_count_what_was_dropped_on_the_way(
    real: Any, self: Any, topic: Any, count: int, site: str
) -> None: ...


@planted(Reach, "wanting", "coming")
def pass_over_some(real: Any, self: Any, topic: str) -> Any:
    self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
    return () if self.calls % 7 == 0 else real(self, topic)


@planted(Transients, "want_all")
def note_before_publishers_know(
    real: Any, self: Any, link: bytes, number: int, patterns: Iterable[str], now_ns: int
) -> bool:
    for pattern in patterns:
        self.want(pattern)
    return bool(real(self, link, number, (), now_ns))


@planted(Reach, "take")
def give_no_credit_back(real: Any, self: Any, link: bytes, frame: Any) -> Iterable[Any]:
    got = list(real(self, link, frame))
    self._owed[link] = (0, 0)
    self.sends.clear()
    return got


# Those of what a site agrees on have theirs in test_site_directory_planted.
BY_HAND: dict[str, Callable[[], None]] = {
    "dial_ever_more_seldom": (
        test_site.test_nodes_that_only_gossip_has_told_of_are_linked_soon_after_a_long_cut
    ),
    "take_a_late_hello_for_a_data_link": (
        test_site.test_a_late_hello_of_who_does_not_dial_is_no_data_link
    ),
    "note_before_publishers_know": lambda: (
        test_site_noted.test_a_subscription_is_answered_once_publishers_at_other_nodes_know_of_it(
            test_site_noted.made()
        )
    ),
}
"""What few seeds have: a test that makes it is broken by the bug."""

BY_SEEDS = [name for name in PLANTED if name not in BY_HAND]
SHOWN_BY = {c.__name__: PLANTED.noticed_by(c.__name__) for c in CHECKERS if c not in OF_DIRECTORY}
CASES = [*[(name, "") for name in BY_SEEDS], *[(name, c) for c, name in SHOWN_BY.items()]]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_planted_bug_is_caught_by_hand(name: str) -> None:
    BY_HAND[name]()
    with PLANTED[name](), pytest.raises(AssertionError):
        BY_HAND[name]()


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
