"""Planted bugs of direct reads: each is a change of the core that its seed or test must catch."""

from __future__ import annotations

import pytest

from meshmq.core.direct_reads import DirectReads, Route
from meshmq.core.node import Node
from meshmq.core.site_reads import SiteReads
from meshmq.core.subscriber import Subscriber
from tests.core import test_direct_reads as reads
from tests.core.direct_readers import World
from tests.planting import Planted, play_test

PLANTED = Planted()
planted = PLANTED.register  # with the seed of a history, or a test, that catches it


@planted(Subscriber, "begin_direct", 0)
def begin_a_batch_late(real, self, *args):
    frame = real(self, *args)
    object.__setattr__(frame, "lsn", frame.lsn + 1)
    object.__setattr__(frame, "slot", 1)
    return frame


@planted(Subscriber, "begin_direct", 0)
def begin_a_batch_early(real, self, *args):
    frame = real(self, *args)
    object.__setattr__(frame, "slot", max(0, frame.slot - 1))
    return frame


@planted(Subscriber, "resume", 0)
def resume_a_batch_late(real, self, origin):
    row = real(self, origin)
    return row._replace(lsn=row.lsn + 1, slot=1)


@planted(Subscriber, "subscribe", 0)
def tell_the_next_node_nothing(real, self):
    shares, self.shares = self.shares, {}
    try:
        return real(self)
    finally:
        self.shares = shares


@planted(
    Subscriber,
    "end_direct",
    reads.test_a_link_that_is_cut_is_had_again_and_nothing_is_missed_meanwhile,
)
def forget_the_credit_of_a_lost_link(real, self, origin):
    self.shares.pop(origin, None)


@planted(Subscriber, "take_back", 11)
def forget_the_credit_that_was_taken_back(real, self, share):
    pass


@planted(Subscriber, "grants", 11)
def give_credit_to_our_node_alone(real, self):
    return [row for row in real(self) if not row[0]]


@planted(DirectReads, "_return", 1)
def leave_our_node_in_the_dark(real, self, branch, now_ns):
    sent = list(self.to_node)
    real(self, branch, now_ns)
    self.to_node[:] = sent


@planted(DirectReads, "on_streams", 0)
def never_hear_that_our_node_has_ended(real, self, number, frame, now_ns):
    pass


@planted(DirectReads, "_ask", 1)
def do_not_wait_for_the_end_at_our_node(real, self, branch, now_ns):
    real(self, branch, now_ns)
    if branch.route is Route.ASKED:
        branch.sub.take_back(branch.asked.pop())
        self._open(branch, now_ns)


@planted(DirectReads, "attach", reads.test_at_the_node_that_was_read_directly_it_is_the_nodes_own)
def read_at_our_own_node_as_at_another(real, self, origin, minor, now_ns):
    self._at_node = True


@planted(
    DirectReads, "_leave_owner", reads.test_one_link_serves_all_subscriptions_and_ends_with_them
)
def leave_it_open_at_the_owner(real, self, branch, now_ns):
    link = self.links.by_origin.pop(branch.origin, None)
    real(self, branch, now_ns)
    if link is not None:
        self.links.by_origin[branch.origin] = link


@planted(SiteReads, "_drop_held", 9)
def pass_on_what_is_read_directly(real, self, reading):
    pass


@planted(SiteReads, "on_streams", reads.test_a_slow_reader_holds_its_window_and_no_more)
def take_no_credit_back(real, self, link, frame):
    rows = tuple([row._replace(bytes=0, records=0) for row in frame.rows])
    object.__setattr__(frame, "rows", rows)
    real(self, link, frame)


@planted(SiteReads, "join", 0)
def read_for_all_who_joins(real, self, sibling):
    for across in self._across.values():
        if sibling.origin in across.readings:
            across.readings[sibling.origin].is_direct = False
    real(self, sibling)


@planted(Node, "_on_subscribe", reads.test_what_brings_much_is_read_at_its_own_node)
def give_all_logs_to_who_reads_one(real, self, peer, body, now_ns):
    object.__setattr__(body, "alone", False)
    real(self, peer, body, now_ns)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name):
    (how,) = PLANTED.about[name]
    with PLANTED[name]():
        if isinstance(how, int):
            assert PLANTED.faults_of(World(how), [World.faults]), f"{name} was not noticed"
        else:
            with pytest.raises((AssertionError, LookupError)):
                play_test(how)
