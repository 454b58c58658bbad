"""What two routes do to numbers and credit; each was found by a seed of the hybrid world."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from meshmq.core.inlets import Inlets
from meshmq.core.outlets import Outlets
from meshmq.core.publisher import Publisher
from meshmq.frames import Deliver, DeliverBatch, Noted, NotedRow, PublishBatch
from meshmq.limits import SECOND
from tests.core.helpers import encode
from tests.core.programs import Network, Station
from tests.core.publishing import add, answer, no, take, yes

NODE = "tcp://127.0.0.1:5757"
ME, P = b"M" * 16, b"P" * 16
LINK = b"link"


@pytest.fixture
def inlets():
    found = Inlets()
    found.join(b"own", ME)
    found.join(LINK, P)
    return found


@pytest.fixture
def pub():
    found = Publisher(encode, nullcontext())
    found.is_numbered = True
    return found


def row(number, count=1):
    return DeliverBatch("x", number, count, count, 0, 0, 0, 0, source=P)


def granted(inlets):
    """Who was granted any."""
    return [link for link, _ in inlets.take_credits()]


def test_who_may_not_know_of_a_subscription_gets_credit_once_it_may(inlets):
    inlets.open(1, "x", False, 1, 1000, 10, [LINK])
    assert granted(inlets) == [b"own"]
    inlets.show(LINK, 1, 2)
    assert granted(inlets) == [LINK]


def test_numbers_begin_when_a_program_is_told_of_the_subscription(inlets):
    inlets.open(1, "x", False, 1, 1000, 10, [LINK])
    inlets.on_noted(LINK, Noted(1, False, ()))  # of others
    inlets.show(LINK, 1, 2)
    inlets.on_noted(LINK, Noted(2, False, (NotedRow("x", 50),)))
    inlets.on_deliver(LINK, Deliver(1, (row(50)._replace(source=b""),), 0, b"v"))
    assert inlets.readers[1].missed == 0
    assert [a.count for a in inlets.arrived[1]] == [1]


def test_a_subscription_that_is_hidden_again_needs_credit_anew(inlets):
    inlets.open(1, "x", False, 1, 1000, 10)
    granted(inlets)
    inlets.hide(LINK, 1, 2)
    inlets.show(LINK, 1, 3)
    assert granted(inlets) == [LINK]


def test_what_was_sent_before_the_subscription_was_said_to_be_over_is_no_breach(inlets):
    inlets.open(1, "x", False, 1, 1000, 10)
    inlets.on_noted(LINK, Noted(1, True, ()))
    assert not inlets.is_on_its_way(LINK, 1)
    inlets.hide(LINK, 1, 2)
    assert inlets.is_on_its_way(LINK, 1)
    inlets.on_noted(LINK, Noted(2, False, ()))
    assert not inlets.is_on_its_way(LINK, 1)


def test_what_came_first_by_the_node_counts_what_it_has_overtaken(inlets):
    inlets.open(1, "x", False, 1, 1000, 10)
    inlets.on_node_row(1, row(8), b"v", 0)
    inlets.on_noted(LINK, Noted(1, False, (NotedRow("x", 5),)))  # 5 to 7 come directly, too late
    for number in (5, 6, 7):
        inlets.on_deliver(LINK, Deliver(1, (row(number)._replace(source=b""),), 0, b"v"))
    assert inlets.readers[1].missed == 3
    assert len(inlets.arrived[1]) == 1


def test_what_a_node_keeps_is_not_missing_among_what_came_directly():
    network = Network()
    a, b = network.add("a", [NODE]), network.add("b", ["a", NODE])
    network.run(SECOND)
    sub = b.subscribe("kept")
    network.run()
    a.publish("kept", b"1")
    network.run()
    Station(network, NODE)
    network.run(20 * SECOND)
    for i in range(2, 6):
        a.publish("kept", b"%d" % i)
        network.run()
    network.cut(b)
    network.run(5 * SECOND)
    assert b.values(sub) == [b"%d" % i for i in range(1, 6)]
    assert b.missed.get(sub, 0) == 0


def test_numbers_that_subscribers_know_go_on_where_a_node_has_forgotten_the_publisher(pub):
    add(pub, "a", b"1", b"2")
    take(pub)
    answer(pub, yes("a", 1, 2))
    add(pub, "a", b"3")
    take(pub)
    answer(pub, no("a", 3, "producer-unknown"))
    assert take(pub) == [("a", 3, 0, [b"3"])]
    answer(pub, yes("a", 3, 1))
    add(pub, "a", b"4")
    assert take(pub) == [("a", 4, 3, [b"4"])]


def test_what_is_held_back_goes_where_its_topic_goes_by_then(pub):
    add(pub, "a", b"1")
    take(pub)
    answer(pub, yes("a", 1, 1))
    for value in (b"2", b"3"):
        add(pub, "a", value)
        take(pub)
    answer(pub, no("a", 2, "producer-unknown"))
    pub.place({"a": pub.direct})
    batch, _ = add(pub, "a", b"4")
    with pub.guard:
        pub.close(batch)
    assert pub.take(b"", pub.direct) == []  # it waits for those before
    answer(pub, no("a", 3, "producer-unknown"))
    take(pub)
    assert batch.way is pub.direct
    assert batch in pub.direct.queue
    assert batch not in pub.node.queue


def test_a_pinned_record_that_is_sent_again_does_not_set_numbers_back():
    outlets = Outlets()
    outlets.publish(PublishBatch("x", 66, 0, 17, 17, 0), bytes(17), 0)
    outlets.number(PublishBatch("x", 65, 0, 1, 1, 0), is_sure=True)
    assert outlets.next_numbers([">"]) == [NotedRow("x", 83)]


def test_what_a_node_was_asked_of_is_unsure_from_there_on():
    outlets = Outlets()
    outlets.publish(PublishBatch("x", 1, 0, 4, 4, 0), bytes(4), 0)
    outlets.number(PublishBatch("x", 5, 0, 2, 2, 0), is_sure=False)
    outlets.number(PublishBatch("x", 7, 0, 2, 2, 0), is_sure=False)
    assert outlets.next_numbers([">"]) == [NotedRow("x", 9, 5)]


def test_who_may_not_know_of_a_subscription_is_not_told_what_was_dropped_for_it(monkeypatch):
    monkeypatch.setattr("meshmq.limits.DIRECT_QUEUE_BYTES_MAX", 3)
    outlets = Outlets()
    outlets.join(LINK)
    outlets.want(LINK, 1, "x")
    for number in range(1, 7):
        outlets.publish(PublishBatch("x", number, 0, 1, 1, 0), b"v", 0)
    outlets.withhold(LINK, 1, True)
    outlets.tick(SECOND)
    assert outlets.sends == []


def test_who_may_not_have_what_is_published_is_not_said_to_have_it_directly():
    outlets = Outlets()
    outlets.join(LINK)
    for number in (1, 2):
        outlets.want(LINK, number, "x")
    outlets.withhold(LINK, 1, True)
    assert outlets.given(LINK) == [2]
