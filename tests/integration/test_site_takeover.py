"""A site of real nodes is lost; another one finishes its groups and its queue, and hands back."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import meshmq
from meshmq import aio
from tests.integration.test_site_links import link, meshmq_command, pair

__all__ = ["pair"]  # the fixture

TOPICS = '["flights.>", "thumbs"]'
MORE_S = 1.5  # so long nothing may come before nothing is said to


def status(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return mesh.admin.status()["site"]


def wished(node):
    """What it pulls by its link; nothing, while its settings are read."""
    return [topic for link in status(node)["links"] for topic in link["topics"]]


def linked(node):
    return [name for link in status(node)["links"] for name in link["nodes"]]


def until(what, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


def members(mesh, kind, **more):
    return mesh.consume("flights.>", "billing", **more) if kind == "group" else mesh.work(
        "thumbs", **more
    )  # fmt: skip


def fill(node):
    """A group and a queue with 100 records each, of which 40 are done."""
    with meshmq.connect(node.url, route="node") as mesh:
        for kind in ("group", "queue"):
            members(mesh, kind).close()
        mesh.publish_many("flights.us", [b"%d" % i for i in range(100)]).wait(20)
        mesh.enqueue_many("thumbs", [b"%d" % i for i in range(100)]).wait(20)
        for kind in ("group", "queue"):
            with members(mesh, kind, prefetch=40) as some:
                work(some, 40)


def work(some, count):
    """So many values, all acked."""
    found = []
    while len(found) < count:
        batch = some.fetch(count - len(found), timeout=20)
        assert batch, f"{len(found)} of {count} came"
        for job in batch:
            found.append(bytes(job.value))
            job.ack()
    return found


def rest(node, kind, count):
    """Values that members there get, all acked; each may be a repeat, and there are no more."""
    found = []
    with meshmq.connect(node.url, route="node") as mesh, members(mesh, kind) as some:
        while len(found) < count:
            batch = some.fetch(100, timeout=20)
            assert batch, f"{len(found)} of {count} came"
            assert all(job.maybe_duplicate for job in batch)
            for job in batch:
                found.append(bytes(job.value))
                job.ack()
        assert some.fetch(1, timeout=MORE_S) == []
    return sorted(found, key=int)


def undone(node):
    """What a takeover of the other site would bring."""
    with meshmq.connect(node.url, route="node") as mesh:
        answer = mesh.admin.site_takeover("us", check=True)
    return sum(log["records"] for row in answer["nodes"] for log in row["logs"])


def left(count, first=40):
    return [b"%d" % i for i in range(first, first + count)]


def test_groups_and_a_queue_of_a_killed_site_are_finished_and_handed_back(pair):
    eu, us = pair
    link(eu, "us", [us], TOPICS)
    nobody = '[[link]]\nto = "ap"\nendpoints = ["tcp://127.0.0.1:1"]\ntopics = []\n'
    eu.config.write_text(eu.config.read_text() + nobody)
    eu.signal(signal.SIGHUP)
    link(us, "eu", [eu], TOPICS)
    until(lambda: wished(eu) == wished(us) == ["flights.>", "thumbs"])
    until(lambda: linked(eu))
    fill(us)
    until(lambda: undone(eu) == 120)
    us.kill()
    until(lambda: not linked(eu))

    where = ("--url", eu.url)
    doubted = meshmq_command("site", "takeover", "us", *where)
    assert doubted.returncode == 1
    assert "site us has told no fence_after" in doubted.stderr
    assert "--assume-dead" in doubted.stderr
    assert status(eu)["taken"] == []
    none = meshmq_command("site", "takeover", "nowhere", "--assume-dead", *where)
    assert "no log of site 'nowhere' is mirrored at this site" in none.stderr

    done = meshmq_command("site", "takeover", "us", "--assume-dead", *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("careful: site us has told no fence_after")
    assert (
        "careful: nobody here hears of site ap. If it takes us over too, both work on"
        in done.stdout
    )
    assert "took over us/us-1 at node eu-1, epoch 1: groups and queues billing, thumbs" in (
        done.stdout
    )
    assert "120 records moved by this node" in done.stdout
    assert rest(eu, "group", 60) == left(60)
    shown = meshmq_command("sites", *where).stdout
    assert "us: the link with us/us-1 was lost, " in shown
    assert "us/us-1: groups taken over by site eu at node eu-1 (epoch 1), 60 left to do" in shown

    us.start()
    link(eu, "us", [us], TOPICS)  # it listens elsewhere, perhaps
    until(lambda: status(us)["taken"])
    until(lambda: linked(eu))
    with meshmq.connect(us.url, route="node") as mesh:
        mesh.publish("flights.us", b"tail").wait(10)
        with members(mesh, "group") as some:
            (job,) = some.fetch(10, timeout=20)
            assert bytes(job.value) == b"tail"
            job.ack()
            assert some.fetch(1, timeout=MORE_S) == []
        with members(mesh, "queue") as some:
            assert some.fetch(1, timeout=MORE_S) == []

    with meshmq.connect(eu.url, route="node") as mesh, members(mesh, "queue", prefetch=10) as some:
        assert sorted(work(some, 10), key=int) == left(10)
    back = meshmq_command("site", "handback", "us", *where)
    assert back.returncode == 0, back.stderr
    assert "50 records of us/us-1 handed back by node eu-1" in back.stdout
    assert rest(us, "queue", 50) == left(50, 50)
    with meshmq.connect(eu.url, route="node") as mesh, members(mesh, "queue") as some:
        assert some.fetch(1, timeout=MORE_S) == []
    rows = json.loads(meshmq_command("sites", "--json", *where).stdout.splitlines()[1])["taken"]
    assert [(row["left"], row["back"], row["over"]) for row in rows] == [(0, True, True)]
    nothing = meshmq_command("site", "handback", "us", *where)
    assert "nothing of site 'us' is left here to be handed back" in nothing.stderr


def test_both_clients_are_told_of_a_fence_and_that_it_is_over(pair):
    eu, us = pair
    for node in pair:
        node.stop()
    us.config.write_text('[site]\nname = "us"\nfence_after = "5s"\n' + us.config.read_text())
    us.start()
    told = []

    async def main():
        with (
            meshmq.connect(us.url, route="node", on_state=told.append) as mesh,
            members(mesh, "group") as one,
        ):
            async with await aio.connect(us.url, on_state=told.append) as other:
                consumer = await other.consume("flights.>", "billing")
                await until_both(one, consumer, True)
                assert one.fenced == consumer.fenced
                assert one.fenced.startswith("site us has no link with any other site")
                eu.start()
                await until_both(one, consumer, False)

    async def until_both(one, other, is_fenced):
        told = lambda: bool(one.fenced) == bool(other.fenced) == is_fenced  # noqa: E731
        await asyncio.to_thread(until, told)

    asyncio.run(main())
    reasons = [change.reason.split(":")[0] for change in told]
    assert reasons.count("consumers wait") == reasons.count("consumers go on") == 2
