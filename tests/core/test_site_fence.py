"""A site that sees no other one hands out nothing after a while, and others know when that is."""

from __future__ import annotations

from meshmq import limits
from meshmq.core.sibling import Sibling
from meshmq.frames_site_words import SiteWords
from meshmq.limits import SECOND
from tests.core.test_links_groups import FENCE_NS, begin, far_sites, filled
from tests.core.test_site_takeover import command, hand_back, lost, member, status, worked


def cut(net, one, other):
    for a in one:
        for b in other:
            net.cut(a, b)


def put(net, at, *values):
    maker = net.worker(at)
    maker.put("orders.us", *values)
    net.run(SECOND)
    maker.die()


def test_a_site_that_is_cut_off_hands_out_nothing_after_its_fence_and_goes_on_when_it_is_back():
    net, sites = far_sites("eu", "us", fences=("us",))
    (eu,), (us,) = sites["eu"], sites["us"]
    worker = member(net, us)
    put(net, us, b"before")
    net.cut(eu, us)
    net.run(FENCE_NS - 2 * SECOND)
    put(net, us, b"within")
    assert worker.got == [b"before", b"within"]
    net.run(5 * SECOND)
    put(net, us, b"behind")
    net.run(FENCE_NS)
    assert worker.got == [b"before", b"within"]
    said = "site us has no link with any other site: its groups hand out nothing"
    assert status(net, us)["held_by"].startswith(said)
    assert any(news.startswith(said) for news in us.node.site.links.news)
    (problem,) = [p for p in us.node.status()["problems"] if p["problem"] == "fenced"]
    assert problem["level"] == "failure"
    net.heal()
    net.run(10 * SECOND)
    assert b"behind" in worker.got
    assert status(net, us)["held_by"] == ""


def of_fence(worker):
    """What its program was told of a fence: whether as a warning, and how it begins."""
    return [
        (news.is_warning, news.reason.split(":")[0])
        for news in worker.news if news.reason.startswith("consumers ")
    ]  # fmt: skip


def test_members_of_a_fenced_site_are_told_once_why_nothing_comes_and_that_it_goes_on():
    net, sites = far_sites("eu", "us", nodes=2, fences=("us",))
    one, other = sites["us"]
    here, there = member(net, one), member(net, other)
    first = here.member
    second = here.consume("printing", "orders.us").member
    cut(net, sites["eu"], sites["us"])
    net.run(FENCE_NS + 10 * SECOND)
    waits, goes_on = (True, "consumers wait"), (False, "consumers go on")
    assert [of_fence(worker) for worker in (here, there)] == [[waits]] * 2
    why = status(net, one)["held_by"]
    assert [m.fenced for m in (first, second, there.member)] == [why] * 3
    assert any(why in news.reason for news in here.news)
    late = member(net, one)
    here.lose()
    net.run(2 * SECOND)
    assert (late.member.fenced, of_fence(late)) == (why, [waits])
    assert (first.fenced, of_fence(here)) == (why, [waits, waits])
    net.heal()
    net.run(15 * SECOND)
    assert [of_fence(worker)[-1] for worker in (here, there, late)] == [goes_on] * 3
    assert of_fence(here) == [waits, waits, goes_on]
    assert [m.fenced for m in (first, second, there.member, late.member)] == [""] * 4
    put(net, one, b"behind")
    assert here.got == [b"behind"]


def test_a_fence_is_waited_out_and_no_record_is_worked_on_at_both():
    net, sites = far_sites("eu", "us", fences=("us",))
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us)
    net.cut(eu, us)
    net.run(10 * SECOND)
    _, _, answer = command(net, eu)
    assert "it is certain in" in answer["doubt"]
    assert not answer["nodes"][0]["done"]
    net.run(FENCE_NS + limits.FENCE_MARGIN_NS)
    late = member(net, us)
    _, _, answer = command(net, eu)
    assert (answer["doubt"], answer["nodes"][0]["done"]) == ("", True)
    assert sorted(worked(net, member(net, eu), late)) == sorted(left)
    put(net, us, b"tail")
    assert late.got == []
    net.heal()
    net.run(15 * SECOND)
    assert late.got == [b"tail"]


def test_a_site_that_a_third_one_sees_is_not_fenced():
    net, sites = far_sites("asia", "eu", "us", fences=("us",))
    filled(net, sites["us"][0])
    cut(net, sites["eu"], sites["us"])
    net.run(FENCE_NS + 2 * limits.FENCE_MARGIN_NS)
    _, _, answer = command(net, sites["eu"][0])
    assert answer["doubt"] == "site us is linked with another one, so it goes on"
    cut(net, sites["asia"], sites["us"])
    net.run(10 * SECOND)
    assert "certain in" in command(net, sites["eu"][0])[2]["doubt"]
    net.run(FENCE_NS + limits.FENCE_MARGIN_NS)
    assert command(net, sites["eu"][0], check=True)[2]["doubt"] == ""
    cut(net, sites["asia"], sites["eu"])
    net.run(10 * SECOND)
    assert "linked with asia, which is not linked here" in command(
        net, sites["eu"][0], check=True
    )[2]["doubt"]  # fmt: skip


def test_one_node_that_is_linked_counts_for_its_site():
    net, sites = far_sites("eu", "us", nodes=2, fences=("us",))
    one, other = sites["us"]
    cut(net, sites["eu"], [other])
    net.run(FENCE_NS + 10 * SECOND)
    assert [status(net, node)["held_by"] for node in (one, other)] == ["", ""]
    cut(net, sites["eu"], [one])
    net.run(FENCE_NS + 10 * SECOND)
    assert all(status(net, node)["held_by"] for node in (one, other))
    net.heal()
    net.run(15 * SECOND)
    assert [status(net, node)["held_by"] for node in (one, other)] == ["", ""]


def test_a_start_without_any_link_stays_fenced():
    net, sites = far_sites("eu", "us", fences=("us",))
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us)
    net.kill(us)
    net.kill(eu)
    begin(us)
    worker = member(net, us)
    net.run(3 * FENCE_NS)
    assert worker.got == []
    begin(eu)
    net.run(20 * SECOND)
    assert sorted(worker.got) == sorted(left)


def test_without_a_fence_a_start_waits_a_moment_and_goes_on():
    net, _, us, left = lost()
    net.kill(net.nodes[0])
    begin(us)
    worker = member(net, us)
    net.run(limits.RETURN_WAIT_NS - SECOND)
    assert worker.got == []
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted(left)


def test_of_two_that_are_fenced_people_say_which_goes_on():
    net, sites = far_sites("eu", "us", fences=("eu", "us"))
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us)
    net.kill(us)
    net.run(3 * FENCE_NS)
    worker = member(net, eu)
    _, _, answer = command(net, eu)
    assert answer["doubt"].startswith("site eu has no link with any other site either")
    assert not answer["nodes"][0]["done"]
    assert command(net, eu, assume_dead=True)[2]["nodes"][0]["done"]
    net.run(10 * SECOND)
    assert worker.got == left
    assert "site eu is the one that goes on: what groups" in eu.node.site.links.news[-1]
    assert of_fence(worker) == [(True, "consumers wait"), (False, "consumers go on")]


def test_what_is_handed_back_to_a_site_with_two_nodes_goes_to_whose_it_was():
    net, sites = far_sites("eu", "us", nodes=2)
    lefts = [filled(net, node, count=10, acked=2) for node in sites["us"][:1]]
    for node in sites["us"]:
        net.kill(node)
    net.run(5 * SECOND)
    _, _, answer = command(net, sites["eu"][0], assume_dead=True)
    assert sum(len(row["logs"]) for row in answer["nodes"]) == 2
    net.run(10 * SECOND)
    for node in sites["us"]:
        begin(node, [o.address for o in sites["us"] if o is not node])
    net.run(15 * SECOND)
    hand_back(net, sites["eu"][1])
    net.run(10 * SECOND)
    workers = [member(net, node) for node in (*sites["us"], *sites["eu"])]
    got = worked(net, *workers)
    assert sorted(got) == sorted(lefts[0])
    assert all(worker.got == [] for worker in workers[2:])


def test_siblings_are_told_of_a_site_as_linked_once_it_has_said_what_it_knows():
    _, sites = far_sites("eu", "us")
    fence = sites["us"][0].node.site.words.fence
    other = Sibling(b"x" * 16, "a", 1, (), (), b"c", True, site="asia")
    now_ns = 100 * SECOND
    fence.join(other, now_ns)
    is_linked = [
        {row.site: row.is_linked for row in fence.told(by_site, now_ns)}["asia"]
        for by_site in (True, False)
    ]
    assert is_linked == [True, False]
    fence.on_words(other, SiteWords(0), now_ns)
    assert {row.site: row.is_linked for row in fence.told(False, now_ns)}["asia"]
