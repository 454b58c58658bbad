"""Copies between real nodes: a disk is destroyed, and what was confirmed as replicated is read."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time

import pytest

import meshmq
from tests.integration.linked import until
from tests.integration.sites import LocalSite, joined, knows_all


@pytest.fixture
def site(tmp_path):
    with joined(tmp_path, 3, "--copies", "2") as made:
        yield made


def read_all(node, topic, count):
    """Values of so many records, by origin, with offsets without gaps."""
    found = {}
    with (
        meshmq.connect(node.url, route="node") as mesh,
        mesh.subscribe(topic, start="earliest") as sub,
    ):
        left = count
        while left:
            more = sub.fetch(left, timeout=15)
            assert more, (found.keys(), left)
            left -= len(more)
            for m in more:
                mine = found.setdefault(m.origin, [])
                assert m.offset == len(mine)
                mine.append(m.value)
        assert sub.missed == 0
    return found


def status(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return mesh.admin.status()


def wait_stored(receipt):
    """Until the node has stored a record; however long that takes, its copies are what is missing
    then."""

    def is_stored():
        try:
            return receipt.offset is not None
        except meshmq.DeadlineExceeded:
            return False

    until(is_stored)


def test_a_destroyed_disk_loses_nothing_that_was_replicated(site):
    one, two, three = site.nodes
    values = [b"%d" % i * 20 for i in range(3000)]
    with meshmq.connect(one.url, route="node") as mesh:
        lone = mesh.publish("orders", b"first", durability="replicated").wait(20)
        assert (lone.durability, lone.offset) == ("replicated", 0)
        receipts = mesh.publish_many("orders", values, durability="replicated")
        receipts.wait(60)
        assert {r.durability for r in (receipts[0], receipts[-1])} == {"replicated"}
        deadline = time.monotonic() + 10
        while True:  # who came first may have copied it until the one that is chosen was there
            shown = mesh.admin.topics.show("orders")
            assert shown["copies"] == 2
            (own,) = [row for row in shown["streams"] if row["records"]]
            assert own["owner"] == one.name
            if [row["caught_up"] for row in own["copied_to"]] == [True]:
                break
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)
    origin = status(one)["node"]["origin"]
    one.kill()
    shutil.rmtree(one.data)
    for node in (two, three):
        assert read_all(node, "orders", 3001) == {origin: [b"first", *values]}
    one.start()  # with an empty disk: another log
    site.wait_joined()
    with meshmq.connect(one.url, route="node") as mesh:
        mesh.publish("orders", b"new", durability="replicated").wait(20)
    for node in site.nodes:
        found = read_all(node, "orders", 3002)
        assert found.pop(origin) == [b"first", *values]
        assert list(found.values()) == [[b"new"]]


def test_without_its_copies_a_record_is_stored_and_says_so(site):
    one, two, three = site.nodes
    with meshmq.connect(one.url, route="node") as mesh:
        mesh.publish("orders", b"1", durability="replicated").wait(20)
        two.kill()
        three.kill()
        receipt = mesh.publish("orders", b"2", durability="replicated")
        wait_stored(receipt)
        with pytest.raises(meshmq.DurabilityTimeout, match="do not resend") as caught:
            receipt.wait(1)
        assert caught.value.receipt is receipt
        assert (receipt.offset, receipt.durability, receipt.done) == (1, "synced", False)
        two.start()
        three.start()
        assert receipt.wait(30).durability == "replicated"


def test_close_says_that_copies_are_missing_once_and_never_that_records_are_not_stored(site):
    one = site.nodes[0]
    mesh = meshmq.connect(one.url, route="node")
    mesh.admin.topics.create("foo", copies=5, confirm="replicated")  # three nodes are there
    receipt = mesh.publish("foo", b"1")
    wait_stored(receipt)
    with pytest.raises(meshmq.DurabilityTimeout) as caught:
        receipt.wait(0.5)
    assert caught.value.outcome == "done"
    assert repr(receipt).endswith("offset=0, durability='synced', waiting to be replicated)")
    mesh.publish("foo", b"2", durability="synced").wait(5)
    mesh.close()  # which it has said
    with pytest.raises(meshmq.DurabilityTimeout, match="do not resend"):
        receipt.wait(1)
    mesh = meshmq.connect(one.url, route="node")
    wait_stored(mesh.publish("foo", b"3"))
    with pytest.raises(meshmq.DurabilityTimeout, match="do not resend; 1 record not replicated"):
        mesh.close(0.5)


def test_close_of_the_asyncio_client_says_it_as_well(site):
    async def main():
        mesh = await meshmq.aio.connect(site.nodes[0].url, route="node")
        await mesh.admin.topics.create("foo", copies=5, confirm="replicated")
        receipt = await mesh.publish("foo", b"1")
        await asyncio.to_thread(wait_stored, receipt)
        with pytest.raises(meshmq.DurabilityTimeout):
            await receipt.wait(0.5)
        await mesh.close()
        mesh = await meshmq.aio.connect(site.nodes[0].url, route="node")
        await asyncio.to_thread(wait_stored, await mesh.publish("foo", b"2"))
        with pytest.raises(meshmq.DurabilityTimeout, match="not replicated"):
            await mesh.flush(0.5)
        await mesh.close()  # as flush has said

    asyncio.run(main())


def test_who_stays_is_told_of_the_copies_after_all_and_who_moves_that_they_are_unknown(site):
    one, two, three = site.nodes
    with (
        meshmq.connect(one.url, route="node", on_node_loss="wait") as stays,
        meshmq.connect(one.url, route="node") as moves,
    ):
        stays.publish("orders", b"0", durability="replicated").wait(20)
        until(lambda: knows_all(moves))
        two.kill()
        three.kill()
        stayed, moved = (m.publish("orders", b"1", durability="replicated") for m in (stays, moves))
        for receipt in (stayed, moved):
            wait_stored(receipt)
            with pytest.raises(meshmq.DurabilityTimeout, match="not replicated within"):
                receipt.wait(0.5)
        one.kill()
        two.start()
        three.start()
        with pytest.raises(meshmq.DurabilityTimeout, match="another one answers now"):
            moved.wait(30)
        one.start()
        assert stayed.wait(30).durability == "replicated"
        assert {stayed.offset, moved.offset} == {1, 2}


def test_a_topic_s_own_copies(tmp_path):
    made = LocalSite(tmp_path, 2)
    try:
        made.wait_joined()
        one, two = made.nodes
        with meshmq.connect(one.url, route="node") as mesh:
            with pytest.raises(meshmq.DurabilityUnavailable, match="--copies 2"):
                mesh.publish("orders", b"1", durability="replicated").wait(10)
            mesh.admin.topics.create("orders", copies=2)
            assert mesh.publish("orders", b"1", durability="replicated").wait(20).offset == 0
            mesh.publish("others", b"1").wait(10)
        deadline = time.monotonic() + 10
        while True:
            (kept,) = status(two)["site"]["copies"]["kept"]
            if (kept["received"], kept["topics"]) == (1, 1):
                break
            assert time.monotonic() < deadline, kept
    finally:
        made.stop()


def test_a_dead_node_s_jobs_are_done_by_another_one(site):
    one, *others = site.nodes
    with meshmq.connect(one.url, route="node") as mesh:
        for i in range(50):
            mesh.enqueue("thumbs", b"%d" % i).wait(20)
        with mesh.work("thumbs", prefetch=1) as worker:
            done = []
            for job in worker:
                done.append(job.value)
                job.ack(wait=True)
                if len(done) == 20:
                    break
        deadline = time.monotonic() + 15
        while not [row for row in mesh.admin.status()["site"]["copies"]["nodes"]
                   if row["caught_up"]]:  # fmt: skip
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (row, *_) = [r for r in mesh.admin.status()["site"]["copies"]["nodes"] if r["caught_up"]]
    one.kill()
    (taker,) = [node for node in others if node.name == row["name"]]
    with meshmq.connect(taker.url, route="node") as mesh:
        deadline = time.monotonic() + 15
        while one.name in taker.siblings():
            assert time.monotonic() < deadline
        taken = mesh.admin.takeover(one.name, assume_dead=True)
        assert taken["groups"] == ["thumbs"]
        with mesh.work("thumbs") as worker:
            for job in worker:
                done.append(job.value)
                job.ack()
                if len(done) == 50:
                    break
    assert sorted(done, key=int) == [b"%d" % i for i in range(50)]


def run(node, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "meshmq", *arguments, "--url", node.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def copied_at(mesh):
    """The node that has a copy of all that is stored; empty: there is none yet."""
    rows = mesh.admin.status()["site"]["copies"]["nodes"]
    return next((row["name"] for row in rows if row["caught_up"]), "")


def test_dead_letters_of_a_dead_node_are_another_one_s_and_a_node_that_is_back_works(site):
    one, *others = site.nodes
    with meshmq.connect(one.url, route="node") as mesh:
        for value in (b"a", b"b", b"c"):
            mesh.enqueue("thumbs", value).wait(20)
        mesh.enqueue("thumbs", b"later", delay=3600).wait(20)
        with mesh.work("thumbs", prefetch=1) as worker:
            worker.fetch(1, timeout=10)[0].reject("no a", wait=True)
        until(lambda: mesh.admin.dlq.show("thumbs")["records"] == 1)
        until(lambda: copied_at(mesh))
        name = copied_at(mesh)
    (taker,) = [node for node in others if node.name == name]
    one.kill()
    until(lambda: one.name not in taker.siblings())
    code, out, said = run(taker, "dlq", "list", "thumbs")
    assert (code, out) == (0, "thumbs has no dead letters at the nodes that answer\n")
    assert f"not counted is what lies at {one.name}: away" in said
    assert f"{one.name}: away" in run(taker, "dlq", "show", "thumbs", "--json")[2]
    assert "try again in" in run(taker, "node", "takeover", one.name)[2]
    assert "there is no node 'onne'" in run(taker, "node", "takeover", "onne")[2]
    code, out, _ = run(taker, "node", "takeover", one.name, "--assume-dead")
    assert (code, out.splitlines()[1]) == (0, "3 records moved, and 1 dead letter")
    out = run(taker, "node", "takeover", one.name, "--assume-dead")[1]
    assert out.splitlines()[1] == "0 records moved"
    code, out, _ = run(taker, "dlq", "list", "thumbs")
    assert (code, [line.split()[:2] for line in out.splitlines()[1:]]) == (0, [[taker.name, "0"]])
    with meshmq.connect(taker.url, route="node") as mesh:
        with mesh.work("thumbs") as worker:
            jobs = [job for _ in range(2) for job in worker.fetch(1, timeout=10)]
            assert sorted(job.value for job in jobs) == [b"b", b"c"]
            for job in jobs:
                job.ack(wait=True)
        one.start()
        until(lambda: len(one.siblings()) == 2)
        with (
            mesh.work("thumbs") as worker,
            meshmq.connect(one.url, route="node") as back,
        ):
            until(lambda: not back.admin.dlq.show("thumbs")["nodes"][0]["records"])
            back.enqueue("thumbs", b"new").wait(20)
            assert [job.value for job in worker.fetch(1, timeout=10)] == [b"new"]


@pytest.mark.timeout(240)
def test_a_disk_that_was_put_back_from_a_backup_goes_on_as_another_log(tmp_path):
    made = LocalSite(tmp_path, 2, "--copies", "2")
    try:
        made.wait_joined()
        one, two = made.nodes
        old = status(one)["node"]["origin"]
        with meshmq.connect(one.url, route="node", durability="replicated") as mesh:
            assert mesh.publish("orders", b"0").wait(20).durability == "replicated"
            assert mesh.enqueue("thumbs", b"job", priority=3).wait(20).durability == "replicated"
        one.stop()
        shutil.copytree(one.data, tmp_path / "backup")
        one.start()
        with meshmq.connect(one.url, route="node", durability="replicated") as mesh:
            mesh.publish("orders", b"1").wait(30)
            mesh.publish("late", b"topic").wait(30)  # neither is in the backup
            mesh.enqueue("late-jobs", b"late").wait(30)
        one.kill()
        shutil.rmtree(one.data)
        shutil.copytree(tmp_path / "backup", one.data)
        one.start()
        with (
            meshmq.connect(one.url, route="node", on_node_loss="wait") as mesh,
            pytest.raises(meshmq.LogBehind, match="meshmq log renew"),
        ):
            mesh.publish("orders", b"again").wait(30)
        one.stop()
        assert "an older state of its disk was put back" in one.told
        command = f"meshmq log renew --name {one.name} --data {one.data}"
        assert f"`{command}`" in one.told
        meshmq_command(*command.split()[1:])
        one.start()
        made.wait_joined()
        with meshmq.connect(one.url, route="node") as mesh:
            mesh.publish("orders", b"new", durability="replicated").wait(30)
        new = status(one)["node"]["origin"]
        for node in (one, two):
            assert read_all(node, "orders", 3) == {old: [b"0", b"1"], new: [b"new"]}
        with meshmq.connect(one.url, route="node") as mesh:
            assert taken_over(mesh, one)["groups"] == ["late-jobs", "thumbs"]
        for node in (one, two):
            assert read_all(node, "late", 1) == {old: [b"topic"]}
        for queue, value in (("thumbs", b"job"), ("late-jobs", b"late")):
            with meshmq.connect(two.url, route="node") as mesh, mesh.work(queue) as worker:
                job = next(iter(worker))
                assert job.value == value
                job.ack()
        meshmq_command("node", "forget", one.name, "--assume-dead", "--url", two.url)
        for node in (one, two):  # which drops it once it has heard of it
            until(lambda node=node: read_all(node, "orders", 1) == {new: [b"new"]}, 20)
    finally:
        made.stop()


def taken_over(mesh, node):
    """What a takeover says, once the copy here goes as far as any other."""
    until = time.monotonic() + 20
    while True:
        try:
            return mesh.admin.takeover(node.name)
        except meshmq.CommandFailed as error:
            if "goes further" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.1)


def meshmq_command(*words):
    """What a command says; it must succeed."""
    argv = [sys.executable, "-m", "meshmq", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
