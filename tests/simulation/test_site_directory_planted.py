"""Planted bugs of what a site agrees on: each is a change of the core that its seed must catch.

With each stands the checker that notices it by itself, if it is that one's, and the seed; where
other changes of the world have made another history of that, one of the rest of SEEDS will do.
"""

from __future__ import annotations

from typing import Any

import pytest

from meshmq.core.directory import Directory
from meshmq.core.directory_rows import NEVER, Stamp, TopicRow
from meshmq.core.directory_table import Table, time_of
from meshmq.core.registrar import Registrar
from meshmq.core.topics import Topics
from meshmq.testing import SiteWorld
from meshmq.testing.site_checkers import CHECKERS
from meshmq.testing.site_directory_checkers import CHECKERS as OWN
from meshmq.testing.site_world import COMMON
from tests.planting import Planted

PLANTED = Planted()
planted = PLANTED.register  # with the seed, and the checker that notices it by itself


# -- agreeing --------------------------------------------------------------------------------------


@planted(Directory, "join", 18, "agreement")
def do_not_compare_with_who_joins(real: Any, self: Any, origin: bytes, now_ns: int) -> None:
    real(self, origin, now_ns)
    self._sends = [send for send in self._sends if send[0] != origin]


@planted(Directory, "_end_asking", 16, "agreement")
def ask_once_and_never_again(real: Any, self: Any) -> None:
    self._teller_ns = 1 << 62


# -- what was deleted ------------------------------------------------------------------------------


@planted(Table, "take", 8, "deleted")
def keep_nothing_of_what_is_deleted(real: Any, self: Any, row: Any, before: int = 0) -> Any:
    changes = real(self, row, before)
    if type(row) is TopicRow and row.deleted != NEVER and row.key in self.rows:
        self._forget([(row.deleted, row.key)])
    return changes


@planted(Registrar, "_follow_topic", 8, "deleted")
def go_on_with_what_was_deleted(real: Any, self: Any, name: str) -> bool:
    topic = self._topics.by_name.get(name)
    if topic is not None and self._table.is_deleted(topic.entry.topic_id):
        return False
    return bool(real(self, name))


# -- who said it last ------------------------------------------------------------------------------


@planted(Directory, "stamp", 13, "last")
def go_by_the_clock_alone(real: Any, self: Any, now_ns: int, *after: Stamp) -> Stamp:
    return Stamp(time_of(self.wall_ms(now_ns)), self.origin, self.name)


@planted(Directory, "_rule_stamps", 13)
def follow_no_other_rule(real: Any, self: Any, pattern: str) -> Any:
    return ()


# -- records ---------------------------------------------------------------------------------------


@planted(Registrar, "_follow_topic", 16, "kept")
def take_the_id_of_the_others(real: Any, self: Any, name: str) -> bool:
    """Two nodes made it, each with an id."""
    topic = self._topics.by_name.get(name)
    first = self._table.topic_id(name, True)
    if topic is not None and topic.entry.durable and first not in (None, topic.entry.topic_id):
        self._topics.forget(name, self._entries)
        self._topics.create(name, self._entries)
        return True
    return bool(real(self, name))


# -- doing likewise --------------------------------------------------------------------------------


@planted(Topics, "keep", 16, "likeness")
def apply_what_is_set_here_only(real: Any, self: Any, topic: Any, policy: Any, entries: Any) -> Any:
    if self.book is None or not self.book._is_following:
        real(self, topic, policy, entries)


@planted(Registrar, "_follow_group", 16)
def make_groups_where_they_were_asked_for(real: Any, self: Any, before: Any, row: Any) -> None:
    if row.name in self._groups.by_name:
        real(self, before, row)


SEEDS = (8, 13, 16, 18)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str) -> None:
    first, checker = (*PLANTED.about[name], "")[:2]
    seeds = [first, *[seed for seed in SEEDS if seed != first]]
    with PLANTED[name]():
        found = any(
            PLANTED.faults_of(SiteWorld(seed, features=COMMON), CHECKERS, checker) for seed in seeds
        )
    assert found, f"{name} was not noticed by {checker or 'any checker'} in seeds {seeds}"


def test_each_checker_notices_something_by_itself() -> None:
    named = {checker for _, *checkers in PLANTED.about.values() for checker in checkers}
    assert named == {checker.__name__ for checker in OWN}
