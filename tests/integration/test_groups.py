"""Consumer groups against a real node, by both clients: shared work, retries, order by key, lost
links and killed nodes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict

import pytest

import meshmq
from meshmq import aio


def drain(consumer, count, timeout=10):
    """``count`` jobs, unsettled."""
    jobs = []
    while len(jobs) < count:
        more = consumer.fetch(count - len(jobs), timeout=timeout)
        assert more, f"{len(jobs)} of {count} came"
        jobs += more
    return jobs


def published(mesh, topic, count, keys=None):
    mesh.publish_many(topic, [b"%d" % i for i in range(count)], keys=keys)
    mesh.flush()


def test_members_share_the_records_and_what_is_acked_is_done(node):
    with node.connect() as mesh, node.connect() as other:
        published(mesh, "orders.eu", 3000)
        one = mesh.consume("orders.>", "billing", prefetch=500)
        two = other.consume("orders.>", "billing", prefetch=500)
        seen = Counter()
        while sum(seen.values()) < 3000:
            for consumer in (one, two):
                for job in consumer.fetch(400, timeout=0.2):
                    seen[job.offset] += 1
                    job.ack()
        assert set(seen) == set(range(3000))
        assert set(seen.values()) == {1}
        one.close()
        two.close()
        with mesh.consume("orders.>", "billing") as again:
            assert again.fetch(10, timeout=0.3) == []
        assert mesh.admin.groups.show("billing")["acked"] == 3000


def test_two_groups_have_their_own_places(node):
    with node.connect() as mesh:
        published(mesh, "a", 5)
        for group in ("g", "h"):
            with mesh.consume("a", group) as consumer:
                assert [job.offset for job in drain(consumer, 5)] == [0, 1, 2, 3, 4]
        with mesh.consume("a", "new", start="new") as consumer:
            mesh.publish("a", b"now").wait(5)
            assert [job.value for job in drain(consumer, 1)] == [b"now"]
        with mesh.consume("a", "from", start=3) as consumer:
            assert [job.offset for job in drain(consumer, 3)] == [3, 4, 5]


def test_what_was_not_settled_comes_again(node):
    with node.connect() as mesh:
        published(mesh, "a", 3)
        with mesh.consume("a", "g") as consumer:
            jobs = drain(consumer, 3)
            jobs[1].ack()
        with mesh.consume("a", "g") as consumer:
            again = drain(consumer, 2)
            assert [job.offset for job in again] == [0, 2]
            assert [job.attempt for job in again] == [1, 1]
            again[0].ack(wait=True)


def test_a_nacked_record_comes_again_after_its_delay_and_counts(node):
    with node.connect() as mesh:
        published(mesh, "a", 2)
        with mesh.consume("a", "g", max_deliveries=2) as consumer:
            first, second = drain(consumer, 2)
            second.ack()
            begun = time.monotonic()
            first.nack(0.3, "not now", wait=True)
            (again,) = drain(consumer, 1)
            assert time.monotonic() - begun >= 0.3
            assert (again.offset, again.attempt) == (0, 2)
            again.nack(0, "never", wait=True)
            assert consumer.fetch(1, timeout=0.2) == []
        (letter,) = mesh.admin.dlq.list("g")
        assert (letter.value, letter.error, letter.attempts) == (b"0", "never", 2)
        assert (letter.topic, letter.offset) == ("a", 0)


def test_after_its_ack_timeout_a_record_comes_again_and_its_first_ack_is_stale(node):
    with node.connect() as mesh, node.connect() as other:
        published(mesh, "a", 1)
        slow = mesh.consume("a", "g", ack_timeout=0.4, backoff=0)
        (job,) = drain(slow, 1)
        quick = other.consume("a", "g", ack_timeout=0.4, backoff=0)
        again = []
        while not again:
            again = slow.fetch(1, timeout=0.1) + quick.fetch(1, timeout=0.1)
        assert (again[0].attempt, again[0].maybe_duplicate) == (2, True)
        with pytest.raises(meshmq.StaleDelivery):
            job.ack(wait=True)
        assert slow.stale == 1
        again[0].ack(wait=True)


def test_what_waits_in_the_members_buffer_does_not_time_out(node):
    with node.connect() as mesh:
        published(mesh, "a", 4)
        with mesh.consume("a", "g", ack_timeout=0.5) as consumer:
            for job in consumer:
                time.sleep(0.35)
                job.ack(wait=True)
                if job.offset == 3:
                    break
            assert consumer.stale == 0
        assert mesh.admin.groups.show("g")["redelivered"] == 0


def test_extend_asks_for_more_time(node):
    with node.connect() as mesh:
        published(mesh, "a", 1)
        with mesh.consume("a", "g", ack_timeout=0.4) as consumer:
            (job,) = drain(consumer, 1)
            job.extend(5)
            time.sleep(0.8)
            job.ack(wait=True)


def test_in_order_of_keys_a_failure_holds_back_its_own_key_only(node):
    with node.connect() as mesh:
        keys = [b"k%d" % (i % 5) for i in range(50)]
        published(mesh, "a", 50, keys)
        seen = defaultdict(list)
        failed = False
        with mesh.consume("a", "g", order="key", backoff=0.3) as consumer:
            while sum(map(len, seen.values())) < 50:
                for job in consumer.fetch(7, timeout=5):
                    if not failed and job.key == b"k2" and job.offset == 22:
                        failed = True
                        job.nack()
                    elif not job.is_settled:
                        seen[job.key].append(job.offset)
                        job.ack()
        for offsets in seen.values():
            assert offsets == sorted(offsets)
        assert consumer.stale == 0


def test_another_pattern_or_order_is_refused(node):
    with node.connect() as mesh:
        mesh.consume("a", "g").close()
        with pytest.raises(meshmq.GroupMismatch):
            mesh.consume("b", "g")
        with pytest.raises(meshmq.GroupMismatch):
            mesh.consume("a", "g", order="key")
        with pytest.raises(meshmq.GroupMismatch):
            mesh.work("g")


def test_a_deleted_group_ends_its_members_with_an_error(node):
    with node.connect() as mesh:
        consumer = mesh.consume("a", "g")
        mesh.admin.groups.delete("g")
        with pytest.raises(meshmq.GroupNotFound):
            consumer.fetch(1, timeout=5)
        with pytest.raises(meshmq.GroupNotFound):
            mesh.admin.groups.show("g")


def test_steering_a_group(node):
    with node.connect() as mesh:
        published(mesh, "a", 10)
        with mesh.consume("a", "g", prefetch=4) as consumer:
            for job in drain(consumer, 4):
                job.ack(wait=True)
            mesh.admin.groups.pause("g")
            consumer.fetch(100, timeout=0.3)
            mesh.admin.groups.seek("g", "earliest")
            assert consumer.fetch(1, timeout=0.3) == []
            mesh.admin.groups.resume("g")
            assert drain(consumer, 1)[0].offset == 0


def test_a_restarted_node_goes_on_where_its_members_are(node):
    with node.connect() as mesh:
        published(mesh, "a", 200)
        with mesh.consume("a", "g", prefetch=50) as consumer:
            jobs = drain(consumer, 50)
            for job in jobs[:20]:
                job.ack(wait=True)
            node.restart()
            for job in jobs[20:]:
                job.ack(wait=True, timeout=10)
            assert consumer.stale == 0
            seen = [job.offset for job in jobs]
            while len(set(seen)) < 200:
                for job in drain(consumer, 1):
                    seen.append(job.offset)
                    job.ack()
            assert Counter(seen).most_common(1)[0][1] == 1


def test_killed_nodes_lose_no_record_and_no_confirmed_ack(process_node):
    node = process_node
    with meshmq.connect(node.url) as mesh:
        published(mesh, "a", 2000)
        confirmed, seen = set(), Counter()
        consumer = mesh.consume("a", "g", prefetch=100)
        stopping = threading.Event()

        def work():
            while not stopping.is_set():
                for job in consumer.fetch(10, timeout=0.2):
                    assert job.offset not in confirmed
                    seen[job.offset] += 1
                    try:
                        job.ack(wait=job.offset % 10 == 0, timeout=20)
                    except meshmq.StaleDelivery:
                        continue
                    if job.offset % 10 == 0:
                        confirmed.add(job.offset)

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(2):
            time.sleep(0.4)
            node.kill()
            node.start()
        deadline = time.monotonic() + 30
        while len(seen) < 2000 and time.monotonic() < deadline:
            time.sleep(0.05)
        stopping.set()
        worker.join(20)
        consumer.close()
        assert set(seen) == set(range(2000))


# -- the asyncio twin --------------------------------------------------------------------------


def run(main):
    with asyncio.Runner() as runner:
        return runner.run(asyncio.wait_for(main, 50))


def test_the_asyncio_client_has_the_same(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            await mesh.publish_many("a", [b"%d" % i for i in range(1000)])
            await mesh.flush()
            seen = []
            async with mesh.consume("a", "g", prefetch=100) as consumer:
                async for job in consumer:
                    async with job.process():
                        seen.append(job.offset)
                    if len(seen) == 1000:
                        break
            assert seen == list(range(1000))
            shown = await mesh.admin.groups.show("g")
            assert shown["acked"] == 1000
            assert [g["group"] for g in await mesh.admin.groups.list()] == ["g"]

    run(main())


def test_settling_with_wait_and_errors_in_asyncio(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            await mesh.publish_many("a", [b"x"] * 4)
            async with mesh.consume("a", "g", ack_timeout=0.4, backoff=0) as consumer:
                jobs = []
                while len(jobs) < 4:
                    jobs += await consumer.fetch(4, timeout=5)
                await jobs[0].ack(wait=True)
                await jobs[1].nack(0, "again", wait=True)
                await jobs[2].reject("no", wait=True)
                await asyncio.sleep(0.8)
                with pytest.raises(meshmq.StaleDelivery):
                    await jobs[3].ack(wait=True)
                assert consumer.stale == 1
                await consumer.fetch(1, timeout=5)
            with pytest.raises(meshmq.GroupMismatch):
                await mesh.consume("b", "g")
            letters = await mesh.admin.dlq.list("g")
            assert [letter.error for letter in letters] == ["no"]

    run(main())


def test_cancelling_takes_and_loses_nothing(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            consumer = await mesh.consume("a", "g", max_deliveries=1000)
            for i in range(40):
                waiting = asyncio.create_task(consumer.fetch(1, timeout=None))
                await asyncio.sleep(0.001 * (i % 4))
                if i % 2:
                    await mesh.publish("a", b"%d" % i)
                waiting.cancel()
                try:
                    for job in await waiting:
                        await job.nack(0)
                except asyncio.CancelledError:
                    pass
            await mesh.flush()
            seen = set()
            while len(seen) < 20:
                jobs = await consumer.fetch(100, timeout=5)
                assert jobs
                for job in jobs:
                    seen.add(job.value)
                    await job.ack()
            (task,) = [asyncio.create_task(one(consumer))]
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            await consumer.close()

    async def one(consumer):
        async for _ in consumer:
            pass

    run(main())


def test_a_task_cancelled_in_its_work_returns_the_record(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            await mesh.publish("a", b"x")
            async with mesh.consume("a", "g") as consumer:

                async def work():
                    async for job in consumer:
                        async with job.process():
                            await asyncio.sleep(30)

                task = asyncio.create_task(work())
                await asyncio.sleep(0.2)
                task.cancel()
                await asyncio.wait([task])
                (job,) = await consumer.fetch(1, timeout=5)
                assert job.attempt == 1
                await job.ack(wait=True)

    run(main())
