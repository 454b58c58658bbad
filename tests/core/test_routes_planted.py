"""Planted bugs of a node's routes and introductions: each is caught by the test that it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from meshmq import limits
from meshmq.core import streams as streams_module
from meshmq.core import transients as transients_module
from meshmq.core.delivery import Delivery, _gap
from meshmq.core.introductions import Introductions
from meshmq.core.node import Node
from meshmq.core.services import Services
from meshmq.core.transients import Transients
from tests.core import test_introductions as introductions
from tests.core import test_routes_node as routes
from tests.planting import Planted, play_test

PLANTED = Planted()
planted = PLANTED.register  # with the test that catches it


# -- numbers and gaps -----------------------------------------------------------------------------


@planted(Node, "_pass_on", routes, "test_rows_of_numbered_batches_carry_the_number_and_whose_it_is")
def number_nothing(real: Any, self: Any, peer: Any, topic: Any, batch: Any, data: bytes) -> Any:
    return real(self, peer, topic, batch._replace(numbered=False), data)


@planted(Node, "_pass_on", routes, "test_rows_of_others_are_as_before")
def number_everything(real: Any, self: Any, peer: Any, topic: Any, batch: Any, data: bytes) -> Any:
    return real(self, peer, topic, batch._replace(numbered=True), data)


@planted(
    Delivery,
    "_drop_oldest",
    routes,
    "test_what_was_dropped_is_told_by_its_numbers_before_what_is_newer",
)
def drop_and_say_nothing(real: Any, self: Any, sub: Any) -> None:
    real(self, sub)
    sub.gaps, sub.old_gaps = {}, []


@planted(
    Delivery,
    "_drop_oldest",
    routes,
    "test_what_was_dropped_is_counted_as_before_but_not_told_as_missed",
)
def tell_a_gap_twice(real: Any, self: Any, sub: Any) -> None:
    sub.dropped += sub.queue[0].row.count
    real(self, sub)


@planted(Delivery, "_take_gaps", routes, "test_what_was_dropped_is_told_by_its_numbers_before_what_"
         "is_newer")  # fmt: skip
def tell_it_again_and_again(real: Any, self: Any, sub: Any) -> Any:
    gaps, old = dict(sub.gaps), list(sub.old_gaps)
    told = real(self, sub)
    sub.gaps, sub.old_gaps = gaps, old
    return told


@planted(Delivery, "_take_gaps", routes, "test_gaps_are_told_of_each_source_and_topic")
def one_source_is_all(real: Any, self: Any, sub: Any) -> Any:
    return [row for row in real(self, sub) if row.source == routes.P]


@planted(
    Delivery,
    "_take_gaps",
    routes,
    "test_numbers_between_two_gaps_that_went_another_way_are_not_told_as_missing",
)
def one_range_for_all(real: Any, self: Any, sub: Any) -> Any:
    merged: dict[Any, tuple[int, int]] = {}
    for row in real(self, sub):
        key = (row.source, row.topic)
        first = merged.get(key, (row.base_offset, 0))[0]
        merged[key] = (first, row.base_offset + row.count)
    return [_gap(key, *numbers) for key, numbers in merged.items()]


@planted(
    Delivery,
    "_drop_oldest",
    routes,
    "test_gaps_that_are_not_told_are_bounded_then_told_without_credit",
)
def gaps_without_end(real: Any, self: Any, sub: Any) -> None:
    with patch.object(limits, "GAPS_MAX", 1 << 30):
        real(self, sub)


# -- routes and markers ---------------------------------------------------------------------------


@planted(
    Transients, "direct", routes, "test_what_is_routed_does_not_go_to_those_who_have_it_directly"
)
def all_by_both_ways(real: Any, self: Any, link: bytes) -> Any:
    return frozenset()


@planted(Node, "_pass_on", routes, "test_what_is_routed_does_not_go_to_those_who_have_it_directly")
def routed_or_not(real: Any, self: Any, peer: Any, topic: Any, batch: Any, data: bytes) -> Any:
    return real(self, peer, topic, batch._replace(routed=True), data)


@planted(Transients, "direct", routes, "test_routes_are_of_one_publisher")
def routes_are_everybodys(real: Any, self: Any, link: bytes) -> Any:
    return {run: None for publisher in self._publishers.values() for run in publisher.direct}


@planted(Transients, "drop_link", routes, "test_routes_end_with_their_session")
def routes_outlive_their_session(real: Any, self: Any, link: bytes) -> None:
    publisher = self._publishers.get(link)
    real(self, link)
    if publisher is not None:
        self._publishers[link] = publisher


@planted(Transients, "on_routes", routes, "test_only_what_changes_has_a_marker")
def a_marker_for_all_that_is_said(real: Any, self: Any, link: bytes, frame: Any) -> Any:
    real(self, link, frame)
    return [*frame.add, *frame.remove]


@planted(
    Transients,
    "on_routes",
    routes,
    "test_a_route_that_is_taken_back_has_a_marker_too_and_all_goes_by_the_node",
)
def no_marker_on_the_way_back(real: Any, self: Any, link: bytes, frame: Any) -> Any:
    return [run for run in real(self, link, frame) if run in frame.add]


@planted(
    Delivery, "mark", routes, "test_a_marker_stands_behind_what_waits_and_needs_no_credit_itself"
)
def markers_overtake(real: Any, self: Any, instance: bytes, source: bytes) -> Any:
    subs = real(self, instance, source)
    for sub in subs:
        sub.queue.appendleft(sub.queue.pop())
    return subs


@planted(
    Delivery, "_send_queue", routes, "test_a_marker_leaves_at_once_where_nothing_waits_before_it"
)
def markers_want_credit(real: Any, self: Any, sub: Any) -> None:
    if sub.has_credit:
        real(self, sub)


@planted(Delivery, "_send_queue", routes, "test_a_node_that_is_crowded_lets_markers_pass")
def markers_wait_in_a_crowd(real: Any, self: Any, sub: Any) -> None:
    if self._may_send(sub):
        real(self, sub)


@planted(Delivery, "_drop_oldest", routes, "test_a_marker_is_not_dropped_with_what_is_before_it")
def drop_markers_too(real: Any, self: Any, sub: Any) -> None:
    real(self, sub)
    while len(sub.queue) > 1 and not sub.queue[0].row.topic:
        sub.queue.popleft()


@planted(Delivery, "mark", routes, "test_markers_that_wait_are_bounded")
def markers_weigh_nothing(real: Any, self: Any, instance: bytes, source: bytes) -> Any:
    with patch.object(limits, "MARKER_BYTES", 0):
        return real(self, instance, source)


@planted(Delivery, "mark", routes, "test_each_subscription_of_the_program_has_its_marker_and_"
         "nobody_elses")  # fmt: skip
def mark_everybody(real: Any, self: Any, instance: bytes, source: bytes) -> Any:
    return [sub for run in list(self._of_instance) for sub in real(self, run, source)]


@planted(
    Delivery,
    "mark",
    routes,
    "test_each_subscription_of_the_program_has_its_marker_and_nobody_elses",
)
def mark_one_subscription(real: Any, self: Any, route: Any, source: bytes) -> Any:
    same = self._of_instance.get(route.instance, {})
    with patch.dict(self._of_instance, {route.instance: dict(list(same.items())[:1])}):
        return real(self, route, source)


@planted(Transients, "on_routes", routes, "test_too_many_routes_end_the_session")
def routes_without_end(real: Any, self: Any, link: bytes, frame: Any) -> Any:
    with patch.object(limits, "DIRECT_PEERS_MAX", 1 << 30):
        return real(self, link, frame)


# -- unwanted topics ------------------------------------------------------------------------------


@planted(Transients, "is_unwanted", routes, "test_a_topic_nobody_wants_here_is_said_to_be_unwanted")
def never_say_unwanted(real: Any, self: Any, link: bytes, topic: str) -> bool:
    return False


@planted(
    streams_module, "merge", routes, "test_confirmations_are_joined_only_where_both_are_unwanted"
)
def join_them_all(real: Any, rows: Any) -> Any:
    return real([row._replace(unwanted=rows[0].unwanted) for row in rows])


@planted(Transients, "is_unwanted", routes, "test_so_many_topics_are_said_to_be_unwanted")
def say_it_of_all(real: Any, self: Any, link: bytes, topic: str) -> Any:
    with (
        patch.object(limits, "UNWANTED_MAX", 1 << 30),
        patch.object(limits, "UNWANTED_PER_SESSION_MAX", 1 << 30),
    ):
        return real(self, link, topic)


@planted(
    Transients,
    "want",
    routes,
    "test_a_publisher_is_told_when_somebody_wants_it_and_only_then_the_answer_goes",
)
def answer_at_once(real: Any, self: Any, *args: Any) -> Any:
    real(self, *args)
    return {}


@planted(Node, "_on_subscribe", routes, "test_what_comes_while_the_answer_waits_goes_behind_it")
def deliver_before_the_answer(real: Any, self: Any, peer: Any, body: Any, now_ns: int) -> None:
    with patch.object(Delivery, "hold", lambda *_: None):
        real(self, peer, body, now_ns)


@planted(Transients, "want", routes, "test_who_has_it_directly_waits_for_nobody")
def wake_all_publishers(real: Any, self: Any, pattern: str, *whom: Any) -> Any:
    return real(self, pattern)


@planted(Transients, "_on_known", routes, "test_the_answer_waits_for_every_publisher")
def the_first_one_will_do(real: Any, self: Any, link: bytes, acked: int) -> None:
    for (to, number), held in list(self._held.items()):
        if link in held.waits and held.waits[link] <= acked:
            self.release(to, number)


@planted(Transients, "want", routes, "test_a_second_one_waits_for_what_is_on_its_way_already")
def what_is_told_is_known(real: Any, self: Any, *args: Any) -> Any:
    return {k: v for k, v in real(self, *args).items() if v == transients_module._TO_TELL}


@planted(Transients, "on_acked", routes, "test_the_session_must_acknowledge_that_frame")
def any_acknowledgement_will_do(real: Any, self: Any, link: bytes, acked: int) -> None:
    real(self, link, 1 << 60)


@planted(Transients, "sent", routes, "test_topics_that_are_wanted_share_frames")
def the_first_frame_will_do(real: Any, self: Any, link: bytes, sequence: int) -> None:
    real(self, link, sequence - 2)


@planted(Transients, "drop_link", routes, "test_a_publisher_that_is_gone_holds_nothing_up")
def wait_for_the_dead(real: Any, self: Any, link: bytes) -> None:
    with patch.object(Transients, "_on_known", lambda *_: None):
        real(self, link)


@planted(Transients, "tick", routes, "test_a_publisher_that_is_silent_holds_it_up_for_so_long")
def wait_for_the_silent(real: Any, self: Any, now_ns: int) -> None:
    pass


@planted(
    Transients,
    "next_deadline_ns",
    routes,
    "test_the_node_wakes_up_for_an_answer_that_waits",
)
def nobody_wakes_the_node(real: Any, self: Any) -> None:
    return None


@planted(
    Transients,
    "release",
    routes,
    "test_a_subscription_closed_while_its_answer_waits_is_answered_and_gone",
)
def forget_the_answer(real: Any, self: Any, link: bytes, number: int) -> None:
    self._held.pop((link, number), None)


@planted(Delivery, "grant", routes, "test_credit_that_comes_while_the_answer_waits_counts")
def no_credit_while_it_waits(real: Any, self: Any, link: bytes, number: int, *more: int) -> None:
    sub = self._subscriptions.get((link, number))
    if sub is None or not sub.is_held:
        real(self, link, number, *more)


@planted(Delivery, "_is_overfull", routes, "test_a_queue_that_is_full_ends_the_waiting")
def what_is_held_has_no_bound(real: Any, self: Any, sub: Any) -> Any:
    return real(self, sub) and not sub.is_held


@planted(
    Node,
    "_on_subscribe",
    routes,
    "test_wanted_comes_behind_the_confirmation_that_says_the_contrary",
)
def wanted_before_unwanted(real: Any, self: Any, peer: Any, body: Any, now_ns: int) -> None:
    real(self, peer, body, now_ns)
    self._tell_wanted(now_ns)


@planted(
    Transients,
    "on_routes",
    routes,
    "test_a_route_that_is_taken_back_makes_both_forget_what_was_unwanted",
)
def remember_what_they_forget(real: Any, self: Any, link: bytes, frame: Any) -> Any:
    with patch.object(Transients, "_forget", lambda *_: None):
        return real(self, link, frame)


@planted(Transients, "is_unwanted", routes, "test_what_is_wanted_no_more_is_unwanted_again")
def unwanted_only_once(real: Any, self: Any, link: bytes, topic: str) -> Any:
    publisher = self._publishers.get(link)
    if publisher is not None and topic in publisher.unwanted:
        return True
    return real(self, link, topic)


# -- introductions --------------------------------------------------------------------------------


@planted(Introductions, "join", introductions, "test_who_has_no_address_is_never_introduced")
def introduce_anybody(real: Any, self: Any, link: bytes, hello: Any) -> None:
    real(self, link, replace(hello, addresses=hello.addresses or ("tcp://127.0.0.1:1",)))


@planted(
    Introductions,
    "take_sends",
    introductions,
    "test_who_publishes_and_who_subscribes_are_introduced_to_each_other",
)
def tell_one_end(real: Any, self: Any, now_ns: int) -> Any:
    return real(self, now_ns)[::2]


@planted(
    Introductions, "take_sends", introductions, "test_a_grant_that_grows_is_told_whole_to_both"
)
def tell_what_is_new(real: Any, self: Any, now_ns: int) -> Any:
    sends = real(self, now_ns)
    for pair in self._pairs:
        pair.patterns.clear()
    return sends


@planted(Node, "end_turn", introductions, "test_they_are_told_once")
def tell_them_at_every_turn(real: Any, self: Any, now_ns: int) -> Any:
    self.introductions.changed = dict.fromkeys(self.introductions._pairs)
    return real(self, now_ns)


@planted(Services, "_hand_out", introductions, "test_who_asks_and_who_serves_are_introduced_to_"
         "each_other")  # fmt: skip
def requests_introduce_nobody(real: Any, self: Any, *args: Any) -> None:
    self._met = None
    real(self, *args)


@planted(Node, "_is_for_few", introductions, "test_a_topic_for_many_introduces_nobody")
def introduce_a_crowd(real: Any, self: Any, topic: Any) -> bool:
    return True


@planted(Node, "_is_for_few", introductions, "test_a_topic_for_many_introduces_nobody")
def count_subscriptions(real: Any, self: Any, topic: Any) -> bool:
    return len(self.delivery.subscribed_to(topic)) <= limits.DIRECT_FANOUT_MAX


@planted(Introductions, "tick", introductions, "test_the_nodes_timer_renews_them")
def let_grants_run_out(real: Any, self: Any, now_ns: int) -> None:
    pass


@planted(Introductions, "tick", introductions, "test_those_that_are_due_are_renewed_and_no_others")
def renew_all(real: Any, self: Any, now_ns: int) -> None:
    self.changed = dict.fromkeys(self._pairs)


@planted(Introductions, "drop_link", introductions, "test_an_introduction_ends_with_either_session")
def they_stay_introduced(real: Any, self: Any, link: bytes) -> None:
    pass


@planted(
    Introductions,
    "drop_link",
    introductions,
    "test_who_comes_back_over_the_same_link_with_an_address_is_introduced",
)
def never_look_again(real: Any, self: Any, link: bytes) -> None:
    known = {other: set(program.met_publishing) for other, program in self._programs.items()}
    real(self, link)
    for other, program in self._programs.items():
        program.met_publishing = known[other]


@planted(
    Introductions,
    "_grant",
    introductions,
    "test_a_program_has_so_many_introductions_and_room_again_once_one_is_over",
)
def introduce_without_end(real: Any, self: Any, *args: Any, **more: Any) -> Any:
    with patch.object(limits, "DIRECT_PEERS_MAX", 1 << 30):
        return real(self, *args, **more)


@planted(
    Introductions,
    "drop_link",
    introductions,
    "test_a_program_has_so_many_introductions_and_room_again_once_one_is_over",
)
def turned_away_for_good(real: Any, self: Any, link: bytes) -> None:
    never_look_again(real, self, link)


@planted(Introductions, "_grant", introductions, "test_a_grant_has_so_many_patterns_and_services")
def grants_without_end(real: Any, self: Any, *args: Any, **more: Any) -> Any:
    with patch.object(limits, "INTRODUCTION_NAMES_MAX", 1 << 30):
        return real(self, *args, **more)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bugs_are_caught(name: str) -> None:
    rules, caught_by = PLANTED.about[name]
    test = getattr(rules, caught_by)
    play_test(test)
    with PLANTED[name](), pytest.raises((AssertionError, ValueError)):
        play_test(test)
