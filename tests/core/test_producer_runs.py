"""Runs of programs with producer names, played over a site, and bugs that they notice."""

from __future__ import annotations

import pytest

from meshmq import names
from meshmq.core import sessions
from meshmq.core.directory import Directory
from meshmq.core.in_flight import InFlight
from meshmq.core.site_producers import SiteProducers
from meshmq.core.streams import Streams
from tests.core.producer_runs import CHECKERS, World
from tests.planting import Planted

PLANTED = Planted()


@PLANTED.register(sessions, "run_of", 0)
def number_all_runs_of_a_name_as_one(original, producer, instance):
    return producer



@PLANTED.register(SiteProducers, "_missing", 0)
def answer_without_those_that_are_away(original, self, asking):
    return []


@PLANTED.register(SiteProducers, "_begin", 0)
def leave_the_earlier_run_alone(original, self, producer, instance, now_ns):
    return None


@PLANTED.register(SiteProducers, "is_over", 0)
def let_an_earlier_run_say_more(original, self, peer, frame, now_ns):
    return False


@PLANTED.register(Streams, "learn", 0)
def forget_what_is_told_of_a_producer(original, self, *what):
    return None


@PLANTED.register(InFlight, "on_origin", 0)
def tell_the_next_node_nothing(original, self, origin, away_ns, name=None):
    original(self, origin, away_ns, name)
    self.untold = []


@PLANTED.register(InFlight, "on_origin", 0)
def begin_anew_at_the_next_node(original, self, origin, away_ns, name=None):
    original(self, origin, away_ns, name)
    self.untold = []
    for lane in self.lanes.values() if name is not None else ():
        lane.begins = lane.tail > 0


@PLANTED.register(Directory, "roster", 0)
def know_only_those_that_were_seen(original, self, now_ns):
    return {}


@PLANTED.register(SiteProducers, "_ask", 0)
def ask_nobody(original, self, asking, sibling):
    asking.parts[sibling.origin] = {"last": 0, "said": 0, "topic_id": ""}
