"""Queues, workers and transactions against a real node, by both clients."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

import meshmq
from meshmq import aio
from meshmq.shell import sockets


def until(is_true, timeout=15):
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def take(worker, count, timeout=10):
    jobs = []
    while len(jobs) < count:
        more = worker.fetch(count - len(jobs), timeout=timeout)
        assert more, f"{len(jobs)} of {count} came"
        jobs += more
    return jobs


# -- jobs --------------------------------------------------------------------------------------


def test_jobs_go_to_workers_and_are_gone_when_acked(node):
    with node.connect() as mesh:
        receipts = mesh.enqueue_many("jobs", [b"%d" % i for i in range(100)])
        receipts.wait(5)
        with mesh.work("jobs", prefetch=100) as worker:
            jobs = take(worker, 100)
            assert [job.job_id for job in jobs] == [r.job_id for r in receipts]
            for job in jobs:
                job.ack()
        assert mesh.admin.queues.show("jobs")["acked"] == 100


def test_a_job_comes_when_it_is_due_and_never_early(node):
    with node.connect() as mesh, mesh.work("jobs") as worker:
        begun = time.time()
        mesh.enqueue("jobs", b"later", delay=0.5)
        mesh.enqueue("jobs", b"at", at=datetime.now(UTC) + timedelta(seconds=0.3))
        mesh.enqueue("jobs", b"now")
        came = []
        for job in worker:
            came.append((job.value, time.time() - begun))
            job.ack()
            if len(came) == 3:
                break
        assert [value for value, _ in came] == [b"now", b"at", b"later"]
        assert came[1][1] >= 0.299
        assert came[2][1] >= 0.5
        assert came[2][1] < 1.5


def test_higher_priorities_go_first(node):
    with node.connect() as mesh:
        for priority in (0, 3, 9, 3, 0):
            mesh.enqueue("jobs", b"%d" % priority, priority=priority)
        mesh.flush()
        with mesh.work("jobs", prefetch=1) as worker:
            seen = []
            for job in worker:
                seen.append(int(job.value))
                job.ack()
                if len(seen) == 5:
                    break
        assert seen == [9, 3, 3, 0, 0]


def test_a_dedup_id_is_stored_once(node):
    with node.connect() as mesh:
        first = mesh.enqueue("jobs", b"x", dedup_id="img-9").wait(5)
        second = mesh.enqueue("jobs", b"x", dedup_id="img-9").wait(5)
        assert (first.duplicate, second.duplicate) == (False, True)
        assert second.job_id == first.job_id
        with mesh.work("jobs") as worker:
            take(worker, 1)[0].ack()
            assert worker.fetch(1, timeout=0.3) == []


def test_a_job_that_lived_its_time_is_not_done(node):
    with node.connect() as mesh:
        mesh.enqueue("jobs", b"old", ttl=0.2).wait(5)
        time.sleep(0.4)
        mesh.enqueue("jobs", b"new").wait(5)
        with mesh.work("jobs") as worker:
            (job,) = take(worker, 1)
            assert job.value == b"new"
            job.ack()


def test_cancel_and_reschedule(node):
    with node.connect() as mesh:
        one = mesh.enqueue("jobs", b"one", delay=60).wait(5).job_id
        two = mesh.enqueue("jobs", b"two", delay=60).wait(5).job_id
        mesh.cancel("jobs", one)
        with pytest.raises(meshmq.JobNotFound):
            mesh.cancel("jobs", one)
        mesh.reschedule("jobs", two, delay=0.1)
        with mesh.work("jobs") as worker:
            (job,) = take(worker, 1)
            assert job.value == b"two"
            with pytest.raises(meshmq.JobNotFound):
                mesh.cancel("jobs", two)
            job.ack(wait=True)


def test_a_full_queue_says_so(node):
    with node.connect() as mesh:
        mesh.admin.queues.create("jobs", max_records=2)
        mesh.enqueue_many("jobs", [b"1", b"2"]).wait(5)
        with pytest.raises(meshmq.QueueFull):
            mesh.enqueue("jobs", b"3").wait(5)
        assert mesh.admin.queues.purge("jobs") == 2
        mesh.enqueue("jobs", b"4").wait(5)


def refusals(receipts):
    """How many were refused for want of room."""
    found = 0
    for receipt in receipts:
        try:
            receipt.wait(10)
        except meshmq.QueueFull:
            found += 1
    return found


def test_bounds_hold_for_many_at_once_and_for_transactions(node):
    with node.connect() as mesh, ExitStack() as stack:
        queues = mesh.admin.queues
        queues.create("bytes", max_bytes=100_000)
        assert refusals(mesh.enqueue_many("bytes", [b"x" * 1000] * 2000)) > 1800
        assert 50_000 < queues.show("bytes")["bytes"] <= 100_000
        queues.create("many", max_bytes=100_000)
        programs = [stack.enter_context(node.connect()) for _ in range(6)]
        for program in programs:
            program.enqueue("other", b"").wait(5)
        receipts = [p.enqueue("many", b"x" * 40_000) for p in programs]
        assert refusals(receipts) == 4
        assert queues.show("many")["records"] == 2
        queues.create("few", max_records=10)
        tx = mesh.transaction()
        for priority in range(10):
            for i in range(2):
                tx.enqueue("few", b"x", priority=priority, dedup_id=f"{priority}.{i}")
        with pytest.raises(meshmq.QueueFull, match="at most 10 jobs"):
            tx.commit()
        assert queues.show("few")["records"] == 0
        with mesh.transaction() as tx:
            for i in range(10):
                tx.enqueue("few", b"x", dedup_id=str(i))
        assert queues.show("few")["records"] == 10


def test_jobs_make_a_deleted_queue_again(node):
    with node.connect() as mesh, node.connect() as other:
        for kind in ({}, {"priority": 3}, {"delay": 0.01}, {"dedup_id": "a"}):
            mesh.enqueue("jobs", b"before", **kind).wait(5)
            other.admin.queues.delete("jobs")
            receipts = [mesh.enqueue("jobs", b"%d" % i, **kind) for i in range(3)]
            for receipt in receipts:
                receipt.wait(5)
            stored = 1 if "dedup_id" in kind else 3
            assert [q["records"] for q in mesh.admin.queues.list()] == [stored]
        other.admin.queues.delete("jobs")
        mesh.enqueue_many("jobs", [b"x" * 1000] * 500).wait(5)
        other.admin.queues.delete("jobs")
        with mesh.transaction() as tx:
            placed = tx.enqueue("jobs", b"of a transaction")
            tx.publish("plain", b"x")
        assert placed.offset == 0
        with mesh.work("jobs") as worker:
            (job,) = take(worker, 1)
            assert job.value == b"of a transaction"
            job.ack(wait=True)


def test_jobs_of_a_queue_that_cannot_be_made_again_say_why(node):
    with node.connect() as mesh, node.connect() as other:
        mesh.enqueue("jobs", b"before").wait(5)
        other.admin.queues.delete("jobs")
        other.admin.topics.create("jobs", durability="transient")
        for _ in range(2):
            with pytest.raises(meshmq.MeshError, match="is transient: a queue keeps its jobs"):
                mesh.enqueue("jobs", b"x").wait(5)
        with (
            pytest.raises(meshmq.MeshError, match="is transient: "),
            mesh.transaction() as tx,
        ):
            tx.enqueue("jobs", b"x")
        other.admin.topics.delete("jobs")
        mesh.enqueue("jobs", b"x").wait(5)
        assert mesh.admin.queues.show("jobs")["records"] == 1


def test_dead_letters_go_back_to_their_queue(node):
    with node.connect() as mesh:
        mesh.enqueue_many("jobs", [b"%d" % i for i in range(5)], headers={"h": "v"}).wait(5)
        with mesh.work("jobs") as worker:
            for job in take(worker, 5):
                job.reject("bad", wait=True)
            until(lambda: mesh.admin.dlq.show("jobs")["records"] == 5)
            letters = mesh.admin.dlq.list("jobs", limit=3)
            assert [letter.value for letter in letters] == [b"0", b"1", b"2"]
            assert mesh.admin.dlq.replay("jobs", letters[:2]) == 2
            back = take(worker, 2)
            assert sorted(job.value for job in back) == [b"0", b"1"]
            assert {job.topic for job in back} == {"jobs"}
            assert back[0].headers["h"] == "v"
            for job in back:
                job.ack(wait=True)
        assert mesh.admin.dlq.purge("jobs") == 3
        assert mesh.admin.dlq.list("jobs") == []


# -- workers -----------------------------------------------------------------------------------


def test_a_worker_runs_its_function_for_each_job(node):
    with node.connect() as mesh:
        done, lock = [], threading.Lock()

        @mesh.worker("jobs", concurrency=4)
        def work(job):
            with lock:
                done.append(job.value)

        assert work.__name__ == "work"
        mesh.enqueue_many("jobs", [b"%d" % i for i in range(1000)])
        until(lambda: len(done) == 1000)
        assert len(set(done)) == 1000
        assert work.stop()
        assert work.stopped
        mesh.enqueue("jobs", b"after").wait(5)
        time.sleep(0.1)
        assert len(done) == 1000


def test_a_failing_job_is_logged_once_and_comes_again(node, caplog):
    with node.connect() as mesh:
        seen = []

        @mesh.worker("jobs", concurrency=2, backoff=0.1)
        def work(job):
            seen.append(job.attempt)
            if job.attempt == 1:
                raise ValueError("not yet")

        mesh.enqueue("jobs", b"x").wait(5)
        until(lambda: len(seen) == 2)
        work.stop()
        assert seen == [1, 2]
        told = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
        assert len(told) == 1
        assert told[0].startswith("job j1-")


def test_a_keys_jobs_never_run_together_nor_out_of_turn(node):
    with node.connect() as mesh:
        mesh.admin.queues.create("jobs", order="key")
        seen, active, wrong, lock = defaultdict(list), set(), [], threading.Lock()

        @mesh.worker("jobs", concurrency=6, prefetch=50, backoff=0.05, order="key")
        def work(job):
            with lock:
                if job.key in active:
                    wrong.append(job)
                active.add(job.key)
            time.sleep(0.0005)
            with lock:
                active.discard(job.key)
                if int(job.value) % 50 == 7 and job.attempt == 1:
                    raise ValueError("once")
                seen[job.key].append(int(job.value))

        for i in range(400):
            mesh.enqueue("jobs", b"%d" % i, key=b"k%d" % (i % 7))
        until(lambda: sum(map(len, seen.values())) == 400, 30)
        work.stop()
        assert wrong == []
        for numbers in seen.values():
            assert numbers == sorted(numbers)


def test_stopping_lets_what_runs_end_and_returns_the_rest(node):
    with node.connect() as mesh, node.connect() as other:
        begun, done = threading.Event(), []

        @mesh.worker("jobs", concurrency=1, prefetch=10)
        def work(job):
            begun.set()
            time.sleep(0.3)
            done.append(job.value)

        mesh.enqueue_many("jobs", [b"%d" % i for i in range(5)]).wait(5)
        begun.wait(5)
        assert work.running == 1
        assert work.stop()
        assert done == [b"0"]
        with other.work("jobs") as rest:
            jobs = take(rest, 4, timeout=2)
            assert [job.attempt for job in jobs] == [1] * 4


def test_stopping_has_an_end_with_a_function_that_never_returns(node):
    with node.connect() as mesh, node.connect() as other:
        begun, forever = threading.Event(), threading.Event()

        @mesh.worker("jobs")
        def work(job):
            begun.set()
            forever.wait(20)

        mesh.enqueue("jobs", b"x").wait(5)
        begun.wait(5)
        assert not work.stop(timeout=0.2)
        with other.work("jobs") as rest:
            assert take(rest, 1)[0].value == b"x"
        forever.set()


def test_closing_the_mesh_stops_its_workers(node):
    done = []
    with node.connect() as mesh:

        @mesh.worker("jobs", concurrency=3)
        def work(job):
            time.sleep(0.1)
            done.append(job)

        mesh.enqueue("jobs", b"x").wait(5)
        until(lambda: work.running or done)
    assert len(done) == 1
    assert work.stopped
    with node.connect() as mesh:
        assert mesh.admin.queues.show("jobs")["acked"] == 1


def test_a_deleted_queue_ends_its_workers_and_run_says_why(node):
    with node.connect() as mesh:

        @mesh.worker("jobs", concurrency=2)
        def work(job):
            pass

        mesh.admin.queues.delete("jobs")
        with pytest.raises(meshmq.GroupNotFound):
            mesh.run()
        assert isinstance(work.error, meshmq.GroupNotFound)


def test_a_worker_of_a_group_and_one_that_waits_for_run(node):
    with node.connect() as mesh:
        done = []

        @mesh.worker("a.>", group="g", start=False)
        def work(job):
            done.append(job.topic)
            work.stop()

        assert not work.started
        mesh.publish("a.b", b"x").wait(5)
        mesh.run()
        assert done == ["a.b"]


PROGRAM = """
import sys, time
import meshmq

mesh = meshmq.connect(sys.argv[1])

@mesh.worker("jobs", concurrency=2, start=False)
def work(job):
    print("begun", flush=True)
    time.sleep(0.5)
    print("done", flush=True)

mesh.run()
print("stopped", flush=True)
mesh.close()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_in_order_with_a_signal(node, number):
    with node.connect() as mesh:
        mesh.enqueue("jobs", b"x").wait(5)
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, node.url], stdout=subprocess.PIPE, text=True,
            env=os.environ,
        )  # fmt: skip
        assert program.stdout.readline() == "begun\n"
        program.send_signal(number)
        said, _ = program.communicate(timeout=20)
        assert said == "done\nstopped\n"
        assert program.returncode == 0
        assert mesh.admin.queues.show("jobs")["acked"] == 1


def test_idle_workers_burn_nothing(node, monkeypatch):
    """They and their node, which runs in this process too, are woken some times a second, by timers
    of theirs; who looks all the time whether there is something is woken thousands of times."""
    wakes = []
    for kind, name in ((sockets.NodeSocket, "poll"), (sockets.Sleeper, "sleep")):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name), wakes))
    with node.connect() as mesh:

        @mesh.worker("jobs", concurrency=8)
        def work(job):
            pass

        mesh.enqueue("jobs", b"x").wait(5)
        until(lambda: mesh.admin.queues.show("jobs")["records"] == 0)
        assert wakes  # what is counted is what sleeps here
        before = len(wakes)
        time.sleep(1)
        assert len(wakes) - before < 200
        work.stop()


def counted(real, calls):
    """``real``, with each of its calls noted."""

    def call(*args, **kwargs):
        calls.append(real)
        return real(*args, **kwargs)

    return call


# -- transactions ------------------------------------------------------------------------------


def test_outputs_and_acks_are_one(node):
    with node.connect() as mesh:
        mesh.enqueue_many("in", [b"%d" % i for i in range(20)]).wait(5)
        with mesh.work("in") as worker:
            for job in take(worker, 20):
                with job.process(), mesh.transaction() as tx:
                    placed = tx.publish("out", b"of " + job.value)
                    tx.ack(job)
                    if job.value == b"13":
                        raise ValueError("13")
                if job.value == b"0":
                    assert placed.offset == 0
            assert worker.stale == 0
        assert mesh.admin.topics.show("out")["records"] == 19
        assert mesh.admin.queues.show("in")["acked"] == 19


def test_a_transaction_with_what_was_taken_back_does_nothing(node):
    with node.connect() as mesh:
        mesh.enqueue("in", b"x").wait(5)
        mesh.publish("out", b"before").wait(5)
        with mesh.work("in", ack_timeout=0.3) as worker:
            (job,) = take(worker, 1)
            tx = mesh.transaction()
            tx.publish("out", b"y")
            tx.ack(job)
            time.sleep(0.7)
            with pytest.raises((meshmq.StaleDelivery, meshmq.TransactionFailed)):
                tx.commit()
        assert mesh.admin.topics.show("out")["records"] == 1


# -- the asyncio twin --------------------------------------------------------------------------


def run(main):
    with asyncio.Runner() as runner:
        return runner.run(asyncio.wait_for(main, 50))


async def turned(is_true):
    """Wait until it is true."""
    for _ in range(3000):
        if is_true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true")


def test_the_asyncio_client_has_queues_too(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            plain = await mesh.enqueue("jobs", b"1", key=b"k")
            await plain.wait(5)
            later = await mesh.enqueue("jobs", b"2", delay=60)
            await later.wait(5)
            await mesh.reschedule("jobs", later.job_id, delay=0.05)
            gone = await mesh.enqueue("jobs", b"3", delay=60, priority=3)
            await gone.wait(5)
            await mesh.cancel("jobs", gone.job_id)
            await (await mesh.enqueue_many("jobs", [b"4", b"5"], priority=2)).wait(5)
            seen = []
            async with mesh.work("jobs") as worker:
                async for job in worker:
                    seen.append(job.value)
                    await job.ack()
                    if len(seen) == 4:
                        break
            assert sorted(seen) == [b"1", b"2", b"4", b"5"]
            shown = await mesh.admin.queues.show("jobs")
            assert shown["acked"] == 4

    run(main())


def test_asyncio_workers_run_tasks_and_stop_in_order(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            done, failed = [], []

            @mesh.worker("jobs", concurrency=10, backoff=0.05)
            async def work(job):
                await asyncio.sleep(0.002)
                if job.value == b"7" and job.attempt == 1:
                    failed.append(job)
                    raise ValueError("once")
                done.append(job.value)

            await mesh.enqueue_many("jobs", [b"%d" % i for i in range(300)])
            await turned(lambda: len(done) == 300)
            assert len(failed) == 1
            assert await work.stop()
            assert work.stopped

            @mesh.worker("slow", prefetch=5)
            async def slow(job):
                await asyncio.sleep(30)

            await mesh.enqueue_many("slow", [b"1", b"2"])
            await turned(lambda: slow.running)
            assert not await slow.stop(timeout=0.1)
            async with mesh.work("slow") as rest:
                jobs = []
                while len(jobs) < 2:
                    jobs += await rest.fetch(2, timeout=5)
                assert [job.attempt for job in jobs] == [1, 1]

    run(main())


def test_asyncio_workers_keep_keys_in_order(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            await mesh.admin.queues.create("jobs", order="key")
            seen, active = defaultdict(list), set()

            @mesh.worker("jobs", concurrency=6, prefetch=60, order="key")
            async def work(job):
                assert job.key not in active
                active.add(job.key)
                await asyncio.sleep(0.001)
                active.discard(job.key)
                seen[job.key].append(int(job.value))

            for i in range(200):
                await mesh.enqueue("jobs", b"%d" % i, key=b"k%d" % (i % 7))
            await turned(lambda: sum(map(len, seen.values())) == 200)
            for numbers in seen.values():
                assert numbers == sorted(numbers)
        assert work.stopped

    run(main())


def test_asyncio_run_ends_when_its_workers_do_or_it_is_cancelled(node):
    async def main():
        async with aio.connect(node.url) as mesh:

            @mesh.worker("jobs", start=False)
            async def work(job):
                work.announce_stop()

            await mesh.enqueue("jobs", b"x")
            await mesh.run()

            @mesh.worker("more")
            async def more(job):
                pass

            running = asyncio.create_task(mesh.run())
            await asyncio.sleep(0.1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert more.stopped

            @mesh.worker("jobs", order="key")
            async def wrong(job):
                pass

            with pytest.raises(meshmq.GroupMismatch):
                await mesh.run()

    run(main())


def test_asyncio_transactions(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            await mesh.enqueue("in", b"x")
            async with mesh.work("in") as worker:
                (job,) = await worker.fetch(1, timeout=5)
                async with mesh.transaction() as tx:
                    await tx.publish("out", b"y")
                    placed = await tx.enqueue("next", b"z", delay=9)
                    await tx.ack(job)
                assert tx.committed
                await mesh.cancel("next", placed.job_id)
                with pytest.raises(meshmq.StaleDelivery):
                    await job.ack(wait=True)
            assert (await mesh.admin.queues.show("in"))["acked"] == 1

    run(main())


def test_a_worker_without_a_queue_is_refused(node):
    """``@mesh.worker`` with neither parentheses nor a queue would drop the function unseen."""
    with (
        node.connect() as mesh,
        pytest.raises(meshmq.InvalidArgument, match=r'@mesh.worker\("queue'),
    ):
        mesh.worker(print)

    async def main():
        async with aio.connect(node.url) as mesh:
            with pytest.raises(meshmq.InvalidArgument, match=r'@mesh.worker\("queue'):
                mesh.worker(print)

    asyncio.run(main())
