"""Logs that a program reads at the nodes that have them: when, and that nothing is lost by it."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core import node as node_module
from meshmq.core.subscriber import Start
from meshmq.frames import START_EARLIEST, START_POSITION, Drained, Streams, StreamsRow
from meshmq.limits import KIB, MIB, MS, SECOND
from tests.core.direct_readers import World, Writer, reading_site
from tests.core.movers import freeze, kill
from tests.core.sites import Program, joined


class Author:
    """Publishes at one node what the tests read, and knows how much that is."""

    def __init__(self, net, node, topic="t"):
        self.net, self.topic, self.count = net, topic, 0
        self.writer = Writer(net, node)

    def write(self, count=20, size=10):
        for _ in range(count):
            self.count += 1
            self.writer.publish(self.topic, b"%0*d" % (size, self.count))
        assert self.net.run(5 * SECOND, lambda: self.writer.confirmed == self.count)


def got(reader, node, topic="t", number=1):
    """How many records of one log came; that they came in order is seen as they do."""
    return len(reader.feeds[number].got.get((node.name, topic), ()))


def comes(net, reader, author, node, number=1, span=5 * SECOND):
    """All that was published came, once."""
    done = net.run(
        span, lambda: eat(reader) or got(reader, node, author.topic, number) >= author.count
    )
    assert done, (got(reader, node, author.topic, number), author.count)
    net.run(100 * MS)
    assert got(reader, node, author.topic, number) == author.count
    assert not reader.wrong


def eat(reader):
    for number in list(reader.feeds):
        reader.consume(number)


def direct_site(count=2, window=(4 * MIB, 100_000)):
    """A reader at the first node that reads the second one's log directly."""
    net, nodes, reader = reading_site(count)
    reader.open(window=window)
    author = Author(net, nodes[1])
    author.write()
    comes(net, reader, author, nodes[1])
    author.write()
    assert net.run(SECOND, lambda: reader.direct() == (nodes[1].name,))
    comes(net, reader, author, nodes[1])
    return net, nodes, reader, author


def reads(node):
    return node.node.reads.describe()


def readers(node):
    return node.node.status()["sessions"]["readers"]


# -- when ----------------------------------------------------------------------------------------


def test_what_brings_much_is_read_at_its_own_node():
    net, (home, owner), reader, author = direct_site()
    assert (reads(home)["readings"], reads(home)["direct"], readers(owner)) == (0, 1, 1)
    assert reads(owner)["subscriptions"] == 0  # it reads its own log alone for us
    passed = reads(home)["passed"]
    author.write(50)
    comes(net, reader, author, owner)
    assert reads(home)["passed"] == passed
    assert reader.directly >= 50


def test_little_is_not_worth_a_link():
    net, (_, owner), reader = reading_site(2)
    reader.open()
    author = Author(net, owner)
    for _ in range(20):
        author.write(limits.DIRECT_READ_FRAMES // 2)
        net.run(limits.DIRECT_READ_SPAN_NS)
    comes(net, reader, author, owner)
    assert (reader.dials, reader.direct()) == (0, ())


def test_many_bytes_in_one_delivery_are_worth_it():
    net, (_, owner), reader = reading_site(2)
    author = Author(net, owner)
    author.write(1, limits.DIRECT_READ_BYTES)
    reader.open()
    assert net.run(SECOND, lambda: reader.direct() == (owner.name,))


def test_a_program_may_do_without():
    net, (home, owner), reader = reading_site(2, is_on=False)
    reader.open()
    author = Author(net, owner)
    author.write(100)
    comes(net, reader, author, owner)
    assert (reader.dials, reads(home)["direct"]) == (0, 0)


def test_a_small_window_is_not_divided():
    net, (_, owner), reader = reading_site(2)
    reader.open(window=(limits.DIRECT_READ_WINDOW_BYTES - 1, 1000))
    reader.open(window=(MIB, limits.DIRECT_READ_SHARE - 1))
    author = Author(net, owner)
    author.write(50)
    comes(net, reader, author, owner)
    comes(net, reader, author, owner, number=2)
    assert reader.direct(1) == reader.direct(2) == ()
    assert reader.dials == 0


def test_nodes_that_do_not_know_of_it_are_left_alone(monkeypatch):
    monkeypatch.setattr(node_module, "PROTOCOL_MINOR", 6)
    net, (_, owner), reader = reading_site(2)
    reader.open()
    author = Author(net, owner)
    author.write(50)
    comes(net, reader, author, owner)
    assert (reader.dials, reader.direct()) == (0, ())


def test_one_link_serves_all_subscriptions_and_ends_with_them():
    net, (home, owner), reader, author = direct_site()
    for _ in range(5):
        reader.open()
    author.write()
    for number in range(1, 7):
        comes(net, reader, author, owner, number)
    author.write()
    net.run(SECOND)
    assert all(reader.direct(number) for number in range(1, 7))
    assert (reader.dials, readers(owner), reads(home)["direct"]) == (1, 1, 6)
    many = len(owner.node.delivery)
    reader.close(6)
    net.run(100 * MS)
    assert len(owner.node.delivery) == many - 1
    for number in range(1, 6):
        reader.close(number)
    net.run(2 * limits.DIRECT_READ_IDLE_NS)
    assert (readers(owner), reader.sides) == (0, {})


def test_a_pattern_over_many_topics():
    net, (_, owner), reader = reading_site(2)
    reader.open("x.>")
    authors = [Author(net, owner, f"x.{i}") for i in range(5)]
    for _ in range(4):
        for author in authors:
            author.write(5)
    for author in authors:
        comes(net, reader, author, owner)
    assert reader.direct() == (owner.name,)
    late = Author(net, owner, "x.late")
    late.write(3)
    comes(net, reader, late, owner)


# -- and when no longer --------------------------------------------------------------------------


def test_what_brings_nothing_is_our_nodes_again():
    net, (home, owner), reader, author = direct_site()
    net.run(2 * limits.DIRECT_READ_IDLE_NS)
    assert (reader.direct(), reader.sides, readers(owner)) == ((), {}, 0)
    assert (reads(home)["readings"], reads(home)["direct"]) == (1, 0)
    author.write(3)
    comes(net, reader, author, owner)
    author.write(20)
    comes(net, reader, author, owner)
    assert reader.direct() == (owner.name,)


def test_a_link_that_is_cut_is_had_again_and_nothing_is_missed_meanwhile():
    net, (home, owner), reader, author = direct_site(window=(MIB, 32))
    for _ in range(10):  # a share of the window each time
        author.write(20)
        reader.cut_owner(owner)
        author.write(3)
        comes(net, reader, author, owner)
        net.run(2 * limits.DIRECT_READ_RETRY_NS_MIN)
        author.write(20)
        comes(net, reader, author, owner)
        assert reader.direct() == (owner.name,)
    assert reads(home)["readings"] == 0


def test_a_link_that_dies_in_silence():
    net, (_, owner), reader, author = direct_site()
    reader.blocked.add(owner)
    author.write(20)
    comes(net, reader, author, owner, span=limits.LINK_SILENT_NS + SECOND)
    assert reader.direct() == ()


def test_where_the_network_does_not_reach_all_goes_by_our_node_and_nobody_is_told():
    net, (_, owner), reader = reading_site(2)
    reader.blocked.add(owner)
    reader.open()
    author, before = Author(net, owner), list(reader.states)
    for _ in range(60):
        author.write(10)
        net.run(SECOND)
        eat(reader)
    comes(net, reader, author, owner)
    assert (reader.direct(), reader.states) == ((), before)
    assert 2 <= reader.dials <= 10  # 1 s, 2 s, 4 s ... or half of that


def test_another_node_at_its_address_is_not_taken_for_it():
    net, (_, owner), reader = reading_site(2)
    stray = net.add(site="us")
    stray.start_alone()
    reader.client.reads._addresses_of = lambda origin: (stray.client_address,)
    reader.open()
    author = Author(net, owner)
    for _ in range(4):
        author.write(10)
    comes(net, reader, author, owner)
    assert (reader.dials, reader.direct()) == (1, ())


def test_an_owner_that_drains_is_left_at_once():
    net, (_, owner), reader, author = direct_site()
    (side,) = reader.sides.values()
    owner.node.sessions.send(reader.wire(side.link), Drained(()), net.now_ns)
    owner.end_turn()
    net.run(100 * MS)
    assert (reader.direct(), readers(owner)) == ((), 0)
    author.write(20)
    comes(net, reader, author, owner)
    assert reader.dials == 1


def test_an_owner_that_dies_is_away_and_read_on_when_it_is_back():
    net, (home, owner), reader, author = direct_site()
    kill(net, owner)
    reader.cut_owner(owner)
    sub = reader.client.subscribers[1]
    assert net.run(SECOND, lambda: sub.away == (owner.name,))
    owner.start([home.address])
    assert net.run(10 * SECOND, lambda: joined(net))
    more = Author(net, owner)
    more.write()
    author.count += more.count
    comes(net, reader, author, owner)
    assert sub.away == ()


def test_a_copy_is_read_by_our_node_while_the_owner_is_away():
    net, (home, owner, third), reader = reading_site(3)
    for node in (home, owner, third):
        kill(net, node)
        node.copies = 3
    for node in (home, owner, third):
        node.start([n.address for n in (home, owner, third) if n is not node])
    assert net.run(20 * SECOND, lambda: joined(net) and reader.is_connected)
    net.run(2 * SECOND)
    at = reader.at
    other = owner if at is not owner else third
    reader.open()
    author = Author(net, other)
    author.write(40)
    comes(net, reader, author, other)
    author.write(10)
    comes(net, reader, author, other)
    assert reader.direct() == (other.name,)
    net.run(5 * SECOND, lambda: bool(at.node.site.copies.source(other.origin)))
    reader.blocked.add(other)  # it does not get what the copy has
    author.write(10)
    net.run(200 * MS)
    kill(net, other)
    reader.cut_owner(other)
    comes(net, reader, author, other)
    assert reader.client.subscribers[1].away == ()


def test_the_owner_goes_on_delivering_while_our_node_is_lost():
    net, (home, owner, third), reader, author = direct_site(3)
    freeze(net, home)
    author.write(20)
    comes(net, reader, author, owner, span=SECOND)
    assert reader.is_connected  # it does not know yet
    assert net.run(10 * SECOND, lambda: not reader.is_connected)
    author.write(20)
    comes(net, reader, author, owner, span=100 * MS)
    assert net.run(10 * SECOND, lambda: reader.is_connected and reader.at is not home)
    author.write(20)
    comes(net, reader, author, owner)
    if reader.at is third:
        assert (reads(third)["direct"], reads(third)["readings"]) == (1, 0)
        assert reader.direct() == (owner.name,)
    else:
        assert (reader.direct(), readers(owner)) == ((), 0)


def test_at_the_node_that_was_read_directly_it_is_the_nodes_own():
    net, (home, owner), reader, author = direct_site()
    kill(net, home)
    assert net.run(10 * SECOND, lambda: reader.is_connected and reader.at is owner)
    author.write(20)
    comes(net, reader, author, owner)
    assert (reader.direct(), readers(owner), reader.sides) == ((), 0, {})


def test_a_token_has_the_places_of_logs_read_directly():
    net, (home, owner), reader, author = direct_site()
    own = Author(net, home)
    own.write(5)
    author.write(10)
    comes(net, reader, author, owner)
    comes(net, reader, own, home)
    last = reader.feeds[1].last
    author.write(5)
    own.write(5)
    start = Start(
        START_POSITION, last.since, last.origin, last.lsn, last.slot, last.count, last.others
    )
    number = reader.open(start=start)
    net.run(SECOND)
    assert reader.feeds[number].first == {owner.name: 50, home.name: 5}


# -- the window ----------------------------------------------------------------------------------


def test_a_slow_reader_holds_its_window_and_no_more():
    net, (home, owner, third), reader = reading_site(3)
    window = MIB
    reader.open(window=(window, 100_000))
    authors = [Author(net, node) for node in (home, owner, third)]
    for author in authors:
        author.write(30, 10 * KIB)
    for _ in range(400):
        reader.consume(1, 1)
        net.run(5 * MS)
    assert set(reader.direct()) == {owner.name, third.name}
    for author in authors:
        author.write(150, 10 * KIB)
    net.run(SECOND)
    assert reader.feeds[1].most[0] <= window + 3 * 64 * KIB
    for author, node in zip(authors, (home, owner, third), strict=True):
        comes(net, reader, author, node)


# -- what a node makes of it ---------------------------------------------------------------------


def test_what_a_program_says_of_logs_is_bounded_and_harms_nobody(monkeypatch):
    monkeypatch.setattr(limits, "PLACES_MAX", 10)
    net, (home, owner), reader = reading_site(2)
    program = Program(net, home)
    program.subscribe("t", start=START_EARLIEST)
    for i in range(50):
        rows = (StreamsRow(bytes([i]) * 16, "x", False, 1, 1, bool(i % 2), 2**64 - 1, 2**64 - 1),)
        program.send(Streams(1, rows))
        program.send(Streams(2, rows))
    program.send(Streams(1, (StreamsRow(home.origin, "", False, 0, 0, True),)))
    net.run(SECOND)
    (across,) = home.node.reads._across.values()
    assert len(across.readings) <= 10
    reader.open()
    author = Author(net, owner)
    author.write()
    comes(net, reader, author, owner)


# -- whatever happens ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 9, 11, 14, 18, 26, 34])
def test_each_log_comes_whole_once_and_in_order(seed):
    world = World(seed)
    world.run()
    assert not list(world.faults())
    assert world.reader.directly > 100  # it is about that
