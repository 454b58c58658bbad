"""What a node says of who has directly what whom publishes."""

from __future__ import annotations

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.frames import Serve
from tests.core.routes import PUB, SUB, THIRD, P, S, T, routes
from tests.core.test_introductions import Town, ask

ASKER, A = b"link-a", b"A" * 16


class Listed(Town):
    def __init__(self):
        super().__init__()
        self.join(ASKER, A)

    def rows(self):
        """(from, to, route, patterns, services) of each row, and whether those are all."""
        body = self.done("route.list", link=ASKER)
        keys = ("from", "to", "route", "patterns", "services")
        return [tuple(row[key] for key in keys) for row in body["routes"]], body["complete"]


def test_programs_that_never_met_have_all_by_the_node():
    town = Listed()
    assert town.rows() == ([(name, None, "node", [], []) for name in "PST"], True)


def test_who_was_introduced_has_it_by_the_node_until_the_publisher_says_otherwise():
    town = Listed()
    town.open("x")
    town.tell("x", 1, b"a")
    there = ("P", "S", "node", ["x"], [])
    back = ("S", "P", "node", ["x"], [])
    assert town.rows()[0] == [there, back, ("T", None, "node", [], [])]
    town.send(routes((P, S)), PUB)
    both = [("P", "S", "direct", ["x"], []), ("S", "P", "direct", ["x"], [])]  # they are linked
    assert town.rows()[0][:2] == both
    town.send(routes((), (S,)), PUB)
    assert town.rows()[0][:2] == [there, back]


def test_who_is_linked_without_the_node_is_listed_and_who_is_not_here_is_not():
    town = Listed()
    town.send(routes((S, T, b"X" * 16)), PUB)
    assert [row[:3] for row in town.rows()[0]] == [
        ("P", "S", "direct"), ("P", "T", "direct"), ("S", None, "node"), ("T", None, "node")
    ]  # fmt: skip
    town.handle(LinkClosed(SUB, "gone"))
    assert [row[:2] for row in town.rows()[0]] == [("P", "T"), ("T", None)]


def test_services_are_named():
    town = Listed()
    town.send(Serve(1, "calc", 4), THIRD)
    ask(town)
    assert ("P", "T", "node", [], ["calc"]) in town.rows()[0]
    assert ("T", "P", "node", [], ["calc"]) in town.rows()[0]


def test_the_list_ends_where_it_is_too_long(monkeypatch):
    town = Listed()
    monkeypatch.setattr(limits, "ROUTES_LISTED_BYTES_MAX", 400)
    rows, is_complete = town.rows()
    assert (rows, is_complete) == ([(name, None, "node", [], []) for name in "PS"], False)
