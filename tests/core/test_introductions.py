"""Programs that met at a node are introduced: whom, to whom, when, how often, and how many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshmq import limits
from meshmq.core.introductions import Introductions
from meshmq.frames import (
    EACH,
    ONE,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Introduce,
    Request,
    RequestRow,
    Serve,
)
from meshmq.limits import SECOND
from tests.core.nodes import hello
from tests.core.routes import PUB, SUB, THIRD, Bench, P, S, T

LIFE = limits.INTRODUCTION_NS


class Town(Bench):
    """A node with programs that say where they may be dialled."""

    def join(self, link, run, *addresses, name=""):
        return super().join(link, run, *(addresses or (at(run),)), name=name)

    def met(self, link):
        """(instance, patterns, services) of each introduction that came over ``link``."""
        return [(i.instance, i.patterns, i.services) for i in self.take(link, Introduce)]


def at(run):
    return f"tcp://127.0.0.1:{run[0]}"


def ask(bench, number=1, service="calc", link=PUB, kind=ONE):
    row = RequestRow(number, 0, service, SECOND, kind, False, 0, b"", 1)
    bench.send(Request((row,), b"v"), link)


# -- at a node -------------------------------------------------------------------------------------


def test_who_publishes_and_who_subscribes_are_introduced_to_each_other():
    town = Town()
    town.open("x")
    assert town.met(SUB) == []
    town.tell("x", 1, b"a")
    assert town.take(PUB, Introduce) == [Introduce(S, "S", (at(S),), ("x",), (), LIFE)]
    assert town.take(SUB, Introduce) == [Introduce(P, "P", (at(P),), ("x",), (), LIFE)]
    assert town.met(THIRD) == []


def test_who_asks_and_who_serves_are_introduced_to_each_other():
    town = Town()
    town.send(Serve(1, "calc", 4), SUB)
    assert town.met(SUB) == []
    ask(town)
    assert town.met(PUB) == [(S, (), ("calc",))]
    assert town.met(SUB) == [(P, (), ("calc",))]
    ask(town, 2)
    assert town.met(PUB) == town.met(SUB) == []


def test_who_asks_all_meets_all_who_serve():
    town = Town()
    town.wait(0)
    town.wait(2 * limits.STARTED_NS)
    for link in (PUB, SUB, THIRD):
        town.ack(link)
    for link in (SUB, THIRD):
        town.send(Serve(1, "calc", 4), link)
    ask(town, kind=EACH)
    assert {instance for instance, *_ in town.met(PUB)} == {S, T}


def test_they_are_told_once():
    town = Town()
    town.open("x")
    for i in range(1, 4):
        town.tell("x", i, b"a")
    town.tell("t.other", 1, b"a")
    assert len(town.met(PUB)) == len(town.met(SUB)) == 1


def test_a_grant_that_grows_is_told_whole_to_both():
    town = Town()
    town.open("x")
    town.open("t.>", number=2)
    town.send(Serve(1, "calc", 4), SUB)
    town.tell("x", 1, b"a")
    town.tell("t.a", 1, b"a")
    ask(town)
    for link, other in ((PUB, S), (SUB, P)):
        assert town.met(link) == [
            (other, ("x",), ()), (other, ("x", "t.>"), ()), (other, ("x", "t.>"), ("calc",)),
        ]  # fmt: skip


def test_what_grows_in_one_turn_is_told_once():
    town = Town()
    town.open("x")
    town.open(">", number=2)
    town.tell("x", 1, b"a")
    ((_, patterns, _),) = town.met(PUB)
    assert sorted(patterns) == [">", "x"]


def test_both_ways_are_one_grant():
    town = Town()
    town.open("x")
    town.open("y", PUB)
    town.tell("x", 1, b"a")
    town.tell("y", 1, b"a", link=SUB)
    assert town.met(PUB)[-1] == (S, ("x", "y"), ())
    assert town.node.status()["introductions"] == 1


def test_who_has_no_address_is_never_introduced():
    town = Town()
    Bench.join(town, b"q", b"Q" * 16)
    town.open("x", b"q")
    town.tell("x", 1, b"a")
    town.tell("x", 1, b"a", link=b"q")
    assert town.met(PUB) == town.met(b"q") == []
    assert town.node.status()["introductions"] == 0


def test_who_says_hello_as_between_programs_is_not_introduced():
    town = Town()
    greeting = replace(hello(b"Q" * 16, b"Q" * 16), direct=True, addresses=("tcp://127.0.0.1:1",))
    assert (greeting.major, greeting.minor) == (PROTOCOL_MAJOR, PROTOCOL_MINOR)
    town.connect(b"q", greeting=greeting)
    town.open("x", b"q")
    town.tell("x", 1, b"a")
    assert town.met(PUB) == town.met(b"q") == []


def test_nobody_is_introduced_to_itself():
    town = Town()
    town.open("x", PUB)
    town.send(Serve(1, "calc", 4), PUB)
    town.tell("x", 1, b"a")
    ask(town)
    assert town.met(PUB) == []


def test_what_has_no_numbers_introduces_nobody():
    town = Town()
    town.open("x")
    town.tell("x", 1, b"a", numbered=False)
    assert town.met(PUB) == []
    town.tell("x", 2, b"a")
    assert len(town.met(PUB)) == 1


def test_a_topic_for_many_introduces_nobody(monkeypatch):
    monkeypatch.setattr(limits, "DIRECT_FANOUT_MAX", 2)
    town = Town()
    for i in range(3):
        link = bytes([i])
        town.join(link, bytes([65 + i]) * 16)
        town.open("x", link)
        town.open(">", link, number=2)  # one program, however often it subscribes
    town.tell("x", 1, b"a")
    assert town.met(PUB) == []
    town.lose(bytes([0]))
    town.tell("x", 2, b"a")
    assert len(town.met(PUB)) == 2


def test_those_who_have_it_directly_count_among_the_many(monkeypatch):
    monkeypatch.setattr(limits, "DIRECT_FANOUT_MAX", 2)
    town = Town()
    for i in range(3):
        town.join(bytes([i]), bytes([65 + i]) * 16)
        town.open("x", bytes([i]))
        town.routes([bytes([65 + j]) * 16 for j in range(i)])
        town.tell("x", i + 1, b"a", routed=True)
    assert len(town.met(PUB)) == 2


def test_an_introduction_is_renewed_at_half_of_its_life():
    town = Town()
    town.open("x")
    town.tell("x", 1, b"a")
    assert len(town.met(PUB)) == len(town.met(SUB)) == 1
    began_ns = town.now_ns
    introductions = town.node.introductions
    for _ in range(2):
        began_ns = town.now_ns
        assert introductions.next_deadline_ns() == began_ns + LIFE // 2
        town.now_ns = began_ns + LIFE // 2 - 1
        introductions.tick(town.now_ns)
        assert introductions.take_sends(town.now_ns) == []
        town.now_ns += 1
        introductions.tick(town.now_ns)
        assert [link for link, _ in introductions.take_sends(town.now_ns)] == [PUB, SUB]


def test_the_nodes_timer_renews_them(monkeypatch):
    monkeypatch.setattr(limits, "INTRODUCTION_NS", SECOND)
    town = Town()
    town.open("x")
    town.tell("x", 1, b"a")
    for link in (PUB, SUB, THIRD):
        town.ack(link)
    town.wait(SECOND // 2)
    assert len(town.met(PUB)) == len(town.met(SUB)) == 2
    town.wait(0)
    assert town.node.next_deadline_ns() <= town.now_ns + SECOND // 2


@pytest.mark.parametrize("gone", [PUB, SUB])
def test_an_introduction_ends_with_either_session(gone):
    town = Town()
    town.open("x")
    town.tell("x", 1, b"a")
    town.lose(gone)
    introductions = town.node.introductions
    assert len(introductions) == introductions.held_bytes() == 0
    assert introductions.next_deadline_ns() is None
    town.join(gone, {PUB: P, SUB: S}[gone])
    town.take(PUB)
    town.take(SUB)
    if gone == SUB:
        town.open("x")
    town.tell("x", 2, b"a")
    assert town.met(PUB) == [(S, ("x",), ())]
    assert town.met(SUB) == [(P, ("x",), ())]


def test_who_comes_back_over_the_same_link_with_an_address_is_introduced():
    town = Town()
    Bench.join(town, b"q", b"Q" * 16)
    town.open("x", b"q")
    town.tell("x", 1, b"a")
    assert town.met(PUB) == []
    town.lose(b"q")
    town.join(b"q", b"Q" * 16)
    town.open("x", b"q")
    town.tell("x", 2, b"a")
    assert town.met(PUB) == [(b"Q" * 16, ("x",), ())]


def test_what_grew_is_not_told_to_a_session_that_is_gone():
    introductions = circle(2)
    publish(introductions, 0, 1)
    introductions.drop_link(b"1")
    assert introductions.take_sends(0) == []
    assert introductions.next_deadline_ns() is None


# -- the machine -----------------------------------------------------------------------------------


def circle(count):
    """Introductions of so many programs."""
    introductions = Introductions(lambda service: [])
    for i in range(count):
        run = i.to_bytes(16, "big")
        introductions.join(b"%d" % i, replace(hello(run, run), addresses=("tcp://127.0.0.1:1",)))
    return introductions


class Sub:
    def __init__(self, link, pattern):
        self.meeting = (link, pattern)


def publish(introductions, one, other, pattern="x"):
    """Whether they had to be looked at."""
    sub = Sub(b"%d" % other, pattern)
    unmet = introductions.unmet(b"%d" % one, [sub])
    introductions.published(b"%d" % one, unmet)
    return bool(unmet)


def test_a_program_has_so_many_introductions_and_room_again_once_one_is_over(monkeypatch):
    monkeypatch.setattr(limits, "DIRECT_PEERS_MAX", 2)
    introductions = circle(5)
    for other in (1, 2, 3):
        publish(introductions, 0, other)
    assert len(introductions) == 2
    publish(introductions, 3, 0)  # nor by the other's word
    introductions.asked(b"3", b"0", "calc")
    assert len(introductions) == 2
    introductions.drop_link(b"1")
    publish(introductions, 0, 3)
    introductions.take_sends(0)
    assert len(introductions) == 2
    introductions.asked(b"0", b"3", "calc")
    (_, frame), _ = introductions.take_sends(0)
    assert (frame.patterns, frame.services) == (("x",), ("calc",))


def test_a_node_has_so_many_introductions(monkeypatch):
    monkeypatch.setattr(limits, "INTRODUCTIONS_MAX", 1)
    introductions = circle(4)
    publish(introductions, 0, 1)
    publish(introductions, 2, 3)
    assert len(introductions) == 1


def test_a_grant_has_so_many_patterns_and_services():
    introductions = circle(2)
    for i in range(limits.INTRODUCTION_NAMES_MAX + 5):
        publish(introductions, 0, 1, f"t.{i}")
        introductions.asked(b"0", b"1", f"s{i}")
    (_, frame), _ = introductions.take_sends(0)
    assert len(frame.patterns) == len(frame.services) == limits.INTRODUCTION_NAMES_MAX
    assert frame.patterns[0] == "t.0"
    publish(introductions, 0, 1, "t.more")
    assert introductions.take_sends(0) == []


def test_who_met_is_looked_at_once():
    introductions = circle(2)
    assert publish(introductions, 0, 1)
    assert not publish(introductions, 0, 1)
    assert publish(introductions, 1, 0)


def test_what_needs_no_second_look_is_bounded_and_tells_nothing_twice(monkeypatch):
    monkeypatch.setattr(limits, "MEETINGS_MAX", 4)
    introductions = circle(2)
    for _ in range(3):
        for i in range(6):
            publish(introductions, 0, 1, f"t.{i}")
            introductions.asked(b"0", b"1", f"s{i}")
    program = introductions._programs[b"0"]
    assert len(program.met_publishing) <= 4
    assert len(program.met_asking) <= 4
    (_, frame), _ = introductions.take_sends(0)
    assert len(frame.patterns) == 6
    publish(introductions, 0, 1, "t.0")
    assert introductions.take_sends(0) == []


def test_those_that_are_due_are_renewed_and_no_others():
    introductions = circle(4)
    publish(introductions, 0, 1)
    introductions.take_sends(0)
    publish(introductions, 2, 3)
    introductions.take_sends(5)
    introductions.tick(LIFE // 2)
    assert [link for link, _ in introductions.take_sends(LIFE // 2)] == [b"0", b"1"]
    assert introductions.next_deadline_ns() == LIFE // 2 + 5
    introductions.tick(LIFE // 2 + 5)
    assert [link for link, _ in introductions.take_sends(LIFE // 2 + 5)] == [b"2", b"3"]


def test_a_grant_that_grows_begins_its_life_anew():
    introductions = circle(2)
    publish(introductions, 0, 1)
    introductions.take_sends(0)
    publish(introductions, 0, 1, "y")
    introductions.take_sends(100)
    assert introductions.next_deadline_ns() == 100 + LIFE // 2


def test_memory_is_accounted_for():
    introductions = circle(2)
    publish(introductions, 0, 1)
    introductions.asked(b"1", b"0", "calc")
    assert introductions.held_bytes() == (
        limits.INTRODUCTION_BYTES + 2 * limits.INTRODUCTION_NAME_BYTES
    )
    introductions.drop_link(b"0")
    assert introductions.held_bytes() == 0
