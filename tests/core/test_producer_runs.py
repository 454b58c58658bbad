"""Runs of programs with producer names, played over a site, and bugs that must be noticed: by a
history, or by one of the tests of such producers."""

from __future__ import annotations

import pytest

from meshmq.core import sessions
from meshmq.core.directory import Directory
from meshmq.core.in_flight import InFlight
from meshmq.core.mirrors import Mirrors
from meshmq.core.publisher import Publisher
from meshmq.core.site_producers import SiteProducers
from meshmq.core.streams import Streams
from tests.core import test_site_producers as tests
from tests.core.producer_runs import CHECKERS, World
from tests.planting import Planted, play_test

PLANTED = Planted()
"""With each what notices it: the seed of a history, or a test."""


@PLANTED.register(
    sessions,
    "run_of",
    tests.test_a_later_run_s_records_are_not_taken_for_repeats_where_an_earlier_one_got_further,
)
def number_all_runs_of_a_name_as_one(original, producer, instance):
    return producer


@PLANTED.register(SiteProducers, "_missing", 0)
def answer_without_those_that_are_away(original, self, asking):
    return []


@PLANTED.register(
    SiteProducers,
    "_may_be_alone_yet",
    tests.test_a_node_that_has_just_begun_waits_for_others_that_may_be_there,
)
def answer_before_others_are_linked(original, self, asking):
    return False


@PLANTED.register(
    SiteProducers,
    "_begin",
    tests.test_an_earlier_run_at_another_node_is_ended_before_that_answers,
)
def leave_the_earlier_run_alone(original, self, producer, instance, now_ns):
    return None


@PLANTED.register(
    SiteProducers, "is_over", tests.test_an_earlier_run_that_comes_back_numbers_no_more
)
def let_an_earlier_run_say_more(original, self, peer, frame, now_ns):
    return False


@PLANTED.register(Streams, "learn", 0)
def forget_what_is_told_of_a_producer(original, self, *what):
    return None


@PLANTED.register(InFlight, "on_origin", 6)
def tell_the_next_node_nothing(original, self, origin, away_ns, name=None):
    original(self, origin, away_ns, name)
    self.untold = []


@PLANTED.register(
    InFlight, "on_origin", tests.test_what_was_refused_comes_first_at_the_next_node_too
)
def begin_anew_at_the_next_node(original, self, origin, away_ns, name=None):
    original(self, origin, away_ns, name)
    self.untold = []
    for lane in self.lanes.values() if name is not None else ():
        lane.begins = lane.tail > 0


@PLANTED.register(Directory, "roster", 14)
def know_only_those_that_were_seen(original, self, now_ns):
    return {}


@PLANTED.register(SiteProducers, "_ask", 14)
def ask_nobody(original, self, asking, sibling):
    asking.parts[sibling.origin] = {"last": 0, "said": 0, "topic_id": ""}


@PLANTED.register(
    Publisher,
    "know",
    tests.test_a_run_goes_on_with_the_numbers_of_the_site_as_far_as_they_are_known,
)
def begin_each_run_with_one(original, self, topic, last):
    original(self, topic, 0)


@PLANTED.register(
    Mirrors, "_note_producer", tests.test_a_copy_answers_for_a_node_that_was_taken_over
)
def copy_nothing_of_producers(original, self, topic, batch):
    return None


@PLANTED.register(
    SiteProducers, "_has_copy", tests.test_a_copy_answers_for_a_node_that_was_taken_over
)
def take_any_copy_for_the_node(original, self, asking, origin):
    return any(origin.hex() in part.get("copies", {}) for part in asking.parts.values())


@PLANTED.register(Streams, "learn", tests.test_a_topic_that_was_deleted_takes_its_numbers_with_it)
def believe_what_is_told_of_a_deleted_topic(original, self, producer, name, last, id_, entries):
    self._topics.was_deleted = lambda name, topic_id: False
    original(self, producer, name, last, id_, entries)


def faults(seed):
    return PLANTED.faults_of(World(seed), CHECKERS)


@pytest.mark.parametrize("seed", [14, 29, 31])
def test_histories_lose_and_double_nothing(seed):
    assert faults(seed) == []


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_noticed(bug):
    (noticed_by,) = PLANTED.about[bug]
    with PLANTED[bug]():
        if isinstance(noticed_by, int):
            assert faults(noticed_by)
        else:
            with pytest.raises(AssertionError):
                play_test(noticed_by)
