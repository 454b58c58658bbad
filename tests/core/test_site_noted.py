"""Publishers at one node that were told that nobody wants a topic, and a subscriber at another."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.core.log import RuleEntry
from meshmq.frames import (
    START_NEW,
    TRANSIENT_ONLY,
    Confirm,
    Envelope,
    Nothing,
    Ping,
    Publish,
    SiteInterests,
    Subscribe,
    Subscribed,
    Wanted,
)
from meshmq.limits import MIB, MS, SECOND
from tests.core.helpers import batch_of
from tests.core.sites import Program, site_of


class Publisher(Program):
    """One that goes directly as well; while it is ``deaf`` it acknowledges nothing."""

    deaf = False

    def receive(self, envelope):
        if not self.deaf:
            super().receive(envelope)
            return
        self.heard = max(self.heard, envelope.sequence)
        if not isinstance(envelope.body, Ping):
            self.bodies.append(envelope.body)

    def answer(self):
        """It has heard all of it."""
        self.raw(Envelope(self.session, 0, self.heard, Nothing()))

    def tell(self, topic, value):
        """Publish; whether the node wants no more of it."""
        first = self.first.get(topic, 1)
        self.first[topic] = first + 1
        row, data = batch_of(topic, first, value)
        self.send(Publish((row._replace(numbered=True, routed=True),), data))
        self.net.run(MS)
        (confirm,) = self.take(Confirm)
        return confirm.confirmations[0].unwanted


def made():
    """A publisher at the second node that was told that nobody wants ``t.a``, and is deaf now."""
    net, (a, b) = site_of(2)
    for node in (a, b):
        node.node.topics.set_policy(RuleEntry("t.>", False, 0, 0), [])
    publisher, reader = Publisher(net, b), Program(net, a)
    net.run(100 * MS)
    assert publisher.tell("t.a", b"0")
    net.run(100 * MS)
    publisher.deaf = True
    return net, a, b, publisher, reader


@pytest.fixture
def two():
    return made()


def subscribe(reader, pattern="t.>", number=1):
    reader.send(Subscribe(number, pattern, START_NEW, 0, b"", 0, 0, MIB, 1000, only=TRANSIENT_ONLY))


def answered(reader):
    return [answer.subscription for answer in reader.take(Subscribed)]


def test_a_subscription_is_answered_once_publishers_at_other_nodes_know_of_it(two):
    net, _a, _b, publisher, reader = two
    subscribe(reader)
    net.run(20 * MS)
    assert [frame.topics for frame in publisher.take(Wanted)] == [("t.a",)]
    assert answered(reader) == []
    publisher.answer()
    net.run(10 * MS)
    assert answered(reader) == [1]
    assert not publisher.deaf or not publisher.tell("t.a", b"1")
    net.run(10 * MS)
    assert reader.values() == [("t.a", b"1")]


def test_what_no_publisher_there_has_to_hear_of_is_answered_at_once(two):
    net, _a, _b, _publisher, reader = two
    subscribe(reader, "t.b")
    net.run(10 * MS)
    assert answered(reader) == [1]


def test_what_is_said_later_is_not_noted_earlier(two):
    net, a, b, publisher, reader = two
    subscribe(reader)
    net.run(10 * MS)
    subscribe(reader, "u.a", 2)
    net.run(10 * MS)
    assert answered(reader) == [], "the second waits for what was said before it"
    link = next(iter(a.node.site.siblings.values())).link
    assert a.node.transients.noted[link] < a.node.sessions.by_link[link].session.acked
    publisher.answer()
    net.run(10 * MS)
    assert answered(reader) == [1, 2]
    assert b.node.transients.next_deadline_ns() is None


def test_a_publisher_that_is_silent_holds_it_up_for_so_long(two):
    net, _a, _b, _publisher, reader = two
    subscribe(reader)
    net.run(limits.NOTED_NS - 50 * MS)
    assert answered(reader) == []
    net.run(100 * MS)
    assert answered(reader) == [1]


def test_a_publisher_that_is_gone_holds_nothing_up(two):
    net, _a, b, publisher, reader = two
    subscribe(reader)
    net.run(20 * MS)
    b.handle(LinkClosed(publisher.link, "gone"))
    net.run(10 * MS)
    assert answered(reader) == [1]


def test_a_node_that_is_gone_holds_nothing_up(two):
    net, a, b, _publisher, reader = two
    subscribe(reader)
    net.run(20 * MS)
    net.kill(b)
    net.run(10 * MS)
    assert answered(reader) == [1]
    assert a.node.transients.noted == {}


def test_a_subscriber_that_is_gone_leaves_nothing(two):
    net, a, b, publisher, reader = two
    subscribe(reader)
    net.run(20 * MS)
    a.handle(LinkClosed(reader.link, "gone"))
    publisher.answer()
    net.run(20 * MS)
    for node in (a, b):
        assert node.node.transients.next_deadline_ns() is None
        assert node.node.transients.telling == {}


def test_a_node_of_before_is_waited_for_no_longer_than_it_acknowledges(two):
    """It says nothing of what it has noted."""
    net, a, b, _publisher, reader = two
    sibling = next(iter(a.node.site.siblings.values()))
    a.node.transients.noted.clear()
    b.node.transients.want_all = lambda *_: False
    subscribe(reader)
    net.run(10 * MS)
    assert answered(reader) == [1]
    assert sibling.link


def test_saying_what_is_noted_is_not_answered(two):
    net, a, b, _publisher, _reader = two
    net.run(SECOND)
    heard = []
    for node in (a, b):
        on_body = node.node.site.on_body

        def listen(peer, body, now_ns, on_body=on_body):
            if isinstance(body, SiteInterests):
                heard.append(body)
            return on_body(peer, body, now_ns)

        node.node.site.on_body = listen
    reader = Program(net, a)
    subscribe(reader, "u.a")
    net.run(SECOND)
    assert [bool(body.noted) for body in heard] == [False, True]
