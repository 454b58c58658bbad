"""Links that are paused: nothing is pulled at any node of the site, until they are resumed."""

from __future__ import annotations

import pytest

from meshmq.core.link_pauses import PAUSE
from meshmq.core.link_wish import LinkWish
from meshmq.errors import CommandFailed, InvalidName
from meshmq.limits import MS, SECOND
from tests.core import test_link_live, test_link_services
from tests.core.site_requests import TOLD_NS, Asker, Server
from tests.core.sites import WALL
from tests.core.test_link_live import LIVE, Live, publish
from tests.core.test_link_problems import links_of, pulls, seen
from tests.core.test_link_services import listed
from tests.core.test_registrar import Admin
from tests.core.test_replication import begin, fill, linked, of, read
from tests.core.test_site_problems import told


def say(net, node, verb, site):
    return Admin(net, node).ask(f"link.{verb}", name=site)


def paused(node):
    """By whom each link of it is."""
    return {row["to"]: row["paused"] and row["paused"]["set_by"] for row in links_of(node)}


def taken(nodes):
    """Records that have come to mirrors since the last start, at all nodes of a site."""
    return sum(log["received"] for node in nodes for row in links_of(node) for log in row["logs"])


def test_what_is_paused_at_one_node_stops_at_all_and_goes_on_where_it_was():
    net, sites = linked("eu", "us", nodes=2)
    eu, us = sites["eu"], sites["us"]
    for node in eu:
        fill(net, node, 10)
    net.run(3 * SECOND)
    had = sorted([*of(eu[0], 10), *of(eu[1], 10)])
    assert sorted(read(net, us[0])) == had
    assert say(net, us[1], "pause", "eu")["changed"]
    net.run(SECOND)
    for node in eu:
        fill(net, node, 10, first=10)
    net.run(5 * SECOND)
    assert taken(us) == 20
    for node in us:
        assert sorted(read(net, node)) == had  # what is here stays, and is read at any node
        assert paused(node) == {"eu": us[1].name}
    fill(net, us[0], 3, "orders.us")
    net.run(3 * SECOND)
    assert of(us[0], 3, "orders.us") == read(net, eu[0], "orders.us")  # eu pulls on
    assert say(net, us[0], "resume", "eu")["changed"]
    net.run(5 * SECOND)
    want = sorted([*of(eu[0], 20), *of(eu[1], 20)])
    for node in us:
        assert sorted(read(net, node, "orders.eu")) == want
        assert paused(node) == {"eu": None}
    assert taken(us) == 40  # nothing came twice


def test_a_pause_is_kept_over_restarts_and_found_by_who_was_away():
    net, sites = linked("eu", "us", nodes=2)
    (eu, _), (one, other) = sites["eu"], sites["us"]
    fill(net, eu, 10)
    net.run(3 * SECOND)
    net.kill(other)
    net.run(3 * SECOND)
    say(net, one, "pause", "eu")
    net.run(SECOND)
    net.kill(one)
    begin(one)
    net.run(3 * SECOND)
    assert paused(one) == {"eu": one.name}
    begin(other, [one.address])
    net.run(5 * SECOND)
    assert paused(other) == {"eu": one.name}
    fill(net, eu, 10, first=10)
    net.run(5 * SECOND)
    assert taken((one, other)) == 0
    assert len(read(net, one)) == len(read(net, other)) == 10
    net.kill(one)  # who has said so need not be there for the resume
    net.run(3 * SECOND)
    say(net, other, "resume", "eu")
    net.run(3 * SECOND)
    begin(one, [other.address])
    net.run(5 * SECOND)
    for node in (one, other):
        assert read(net, node) == of(eu, 20)
        assert paused(node) == {"eu": None}


def test_a_killed_puller_does_not_hand_a_paused_log_to_another_node():
    net, sites = linked("eu", "us", nodes=3)
    eu, us = sites["eu"][0], sites["us"]
    fill(net, eu, 5)
    net.run(3 * SECOND)
    say(net, us[0], "pause", "eu")
    net.run(SECOND)
    fill(net, eu, 5, first=5)
    for victim in us:
        net.kill(victim)
        net.run(5 * SECOND)
        begin(victim, [o.address for o in us if o is not victim])
        net.run(5 * SECOND)
    assert {len(read(net, node)) for node in us} == {5}


def test_the_logs_of_a_paused_site_come_by_no_third_one_and_others_do():
    net, sites = linked("eu", "us", "ap")
    (eu,), (us,), (ap,) = (sites[name] for name in ("eu", "us", "ap"))
    pulls(us, LinkWish("eu", (eu.address,), ("orders.>",)))  # it has the logs of ap by eu
    pulls(ap, LinkWish("us", (us.address,), ("orders.>",)))
    net.run(SECOND)
    say(net, ap, "pause", "us")
    net.run(SECOND)
    fill(net, eu, 3)
    fill(net, us, 3, "orders.us")
    net.run(3 * SECOND)
    assert read(net, ap) == []
    pulls(ap, *[LinkWish(n.site, (n.address,), ("orders.>",)) for n in (us, eu)])
    net.run(3 * SECOND)
    assert read(net, ap) == of(eu, 3)  # eu has the log of us, and is not asked for it
    say(net, ap, "resume", "us")
    net.run(3 * SECOND)
    assert sorted(read(net, ap)) == sorted([*of(eu, 3), *of(us, 3, "orders.us")])


def test_what_is_live_stops_and_goes_on():
    net, found = test_link_live.sites("eu", "us", links={("us", "eu"): LIVE}, nodes=2)
    eu, us = found["eu"][0], found["us"]
    readers, writer = [Live(net, node) for node in us], Live(net, eu)
    for reader in readers:
        reader.want("prices.>")
    net.run(50 * MS)
    publish(net, writer, 1)
    say(net, us[0], "pause", "eu")
    net.run(50 * MS)
    publish(net, writer, 2)
    assert not eu.node.site.live.wanting("prices.a")  # it does not even cross
    assert links_of(us[1])[0]["live"] == list(LIVE)  # as configured
    say(net, us[1], "resume", "eu")
    net.run(50 * MS)
    publish(net, writer, 3)
    for reader in readers:
        assert [value for *_, value in reader.got()[0]] == [b"1", b"3"]


def test_requests_are_asked_there_no_more_and_then_again():
    net, (eu,), (us,) = test_link_services.pair()
    server, asker = Server(net, eu, "eu-server"), Asker(net, us)
    net.run(TOLD_NS)
    under_way = asker.ask(b"1", timeout=5 * SECOND)
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    say(net, us, "pause", "eu")
    net.run(TOLD_NS)
    server.answer(row, b"a")  # what is under way is answered
    net.run(TOLD_NS)
    assert asker.replies() == [(under_way, b"a", True, "eu-server")]
    asker.ask(b"2", timeout=SECOND)
    net.run(2 * SECOND)
    assert server.came() == []
    assert [row[1] for row in asker.replies()] == ["no-responders"]
    assert listed(us, net) == {}
    assert links_of(us)[0]["services"] == ["s"]
    say(net, us, "resume", "eu")
    net.run(SECOND)
    again = asker.ask(b"3", timeout=SECOND)
    net.run(TOLD_NS)
    ((row, value),) = server.came()
    assert value == b"3"
    server.answer(row, b"c")
    net.run(TOLD_NS)
    assert asker.replies() == [(again, b"c", True, "eu-server")]


def test_no_request_goes_there_from_the_pause_on_though_the_other_site_has_not_heard_of_it():
    net, (eu,), (us,) = test_link_services.pair()
    server, asker = Server(net, eu, "eu-server"), Asker(net, us)
    net.run(TOLD_NS)
    net.at(MS, lambda: us.node.site.far_side.command(PAUSE, "eu", net.now_ns, node=us.name))
    net.at(MS + 1, lambda: asker.ask(b"1", timeout=SECOND))
    net.run(2 * SECOND)
    assert server.came() == []
    assert [row[1] for row in asker.replies()] == ["no-responders"]


def test_who_paused_it_and_when_is_told_and_nothing_else_is_the_matter_with_it():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, us, 3)
    net.run(2 * SECOND)
    done = say(net, eu, "pause", "us")
    assert (done["to"], done["paused"], done["changed"]) == ("us", True, True)
    since_ms = (WALL + net.now_ns) // MS
    (row,) = links_of(eu)
    assert row["state"] == "paused"
    assert (row["nodes"], row["topics"]) == ([us.name], ["orders.>"])
    assert row["paused"]["set_by"] == done["set_by"] == eu.name
    assert row["paused"]["set_origin"] == eu.origin.hex()
    assert 0 <= since_ms - row["paused"]["set_at_ms"] < 1000
    assert told(eu) == [("link-paused", "us", "warning")]
    (words,) = seen(eu)
    assert words == (
        f"the link with site us is paused since 2023-11-14T22:13Z, said at node {eu.name}: nothing "
        f"is pulled from there"
    )
    net.kill(us)
    net.run(5 * SECOND)
    assert told(eu) == [("link-paused", "us", "warning")]
    assert [row["state"] for row in links_of(eu)] == ["paused"]
    say(net, eu, "resume", "us")
    assert told(eu) == [("link-down", "us", "warning")]


def test_a_second_pause_keeps_who_said_the_first_and_a_resume_may_be_said_twice():
    net, sites = linked("eu", "us", nodes=2)
    one, other = sites["us"]
    net.run(2 * SECOND)
    first = say(net, one, "pause", "eu")
    net.run(SECOND)
    assert say(net, other, "pause", "eu") == {**first, "changed": False}
    assert say(net, other, "resume", "eu")["changed"]
    net.run(SECOND)
    again = say(net, one, "resume", "eu")
    assert (again["changed"], again["paused"], again["set_by"]) == (False, False, other.name)


def test_a_site_that_no_link_names_is_refused_in_words():
    net, sites = linked("eu", "us")
    (eu,), _ = sites["eu"], sites["us"]
    net.run(SECOND)
    code = CommandFailed.code
    for verb in ("pause", "resume"):
        assert say(net, eu, verb, "asia") == (
            code, f"node {eu.name} has no link to site 'asia', it has: us",
        )  # fmt: skip
    assert say(net, eu, "pause", "eu")[0] == code
    assert say(net, eu, "pause", 7)[0] == code
    pulls(eu)
    assert say(net, eu, "pause", "us") == (
        code, f"node {eu.name} has no link to site 'us', it has none at all",
    )  # fmt: skip


def test_a_pause_outlives_the_settings_and_is_resumed_without_them():
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(SECOND)
    say(net, eu, "pause", "us")
    pulls(eu)
    assert links_of(eu) == []
    assert told(eu) == []
    wish = LinkWish("us", (us.address,), ("orders.>",))
    pulls(eu, wish)
    assert paused(eu) == {"us": eu.name}
    pulls(eu)
    say(net, eu, "resume", "us")
    pulls(eu, wish)
    fill(net, us, 3)
    net.run(3 * SECOND)
    assert read(net, eu) == of(us, 3)


@pytest.mark.parametrize("name", ["", "a b", "x" * 300])
def test_the_client_says_what_names_no_site(name):
    from meshmq.client.admin import ask_of_link

    with pytest.raises(InvalidName):
        ask_of_link("link.pause", name)
