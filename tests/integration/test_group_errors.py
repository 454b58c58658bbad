"""What groups and queues are asked and cannot do: one clear error or state each, nothing stuck."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

import meshmq
from meshmq import aio, limits
from meshmq.core import consumer as members

YEAR_AND_MORE = 366 * 24 * 3600
NO_JOB = "j1-" + "0" * 32 + "-" + "0" * 16 + "-0"


def until(is_true, timeout=15):
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def take(consumer, count, timeout=10):
    jobs = []
    while len(jobs) < count:
        more = consumer.fetch(count - len(jobs), timeout=timeout)
        assert more, f"{len(jobs)} of {count} came"
        jobs += more
    return jobs


def works(mesh, queue="fine"):
    """Whatever was refused before, this connection and the node go on."""
    mesh.enqueue(queue, b"x").wait(5)
    with mesh.work(queue) as worker:
        take(worker, 1)[0].ack(wait=True, timeout=5)


def test_settings_are_refused_in_the_units_people_write(node):
    with node.connect() as mesh:
        queues = mesh.admin.queues
        queues.create("q", dedup_window="7d")
        for settings, said in [
            ({"dedup_window": "8d"}, "dedup window is at most 7d, not 8d"),
            ({"dedup_window": 8 * 24 * 3600.0}, "dedup window is at most 7d, not 8d"),
            ({"backoff": YEAR_AND_MORE}, "backoff is at most 365d, not 366d"),
            ({"max_bytes": 1 << 54}, "max bytes is at most 8192TiB, not 16384TiB"),
            ({"max_deliveries": 0}, "max_deliveries is a number from 1 to 1000, not 0"),
        ]:
            with pytest.raises(meshmq.InvalidArgument) as raised:
                queues.set("q", **settings)
            assert str(raised.value) == said
        with pytest.raises(meshmq.InvalidArgument, match="prefetch_bytes is 1B to 64MiB, not 1GB"):
            mesh.work("q", prefetch_bytes="1GB")


# -- what is not there -------------------------------------------------------------------------

ABOUT_A_GROUP = {
    "groups.show": lambda a: a.groups.show("nope"),
    "groups.set": lambda a: a.groups.set("nope", rate=5),
    "groups.delete": lambda a: a.groups.delete("nope"),
    "groups.pause": lambda a: a.groups.pause("nope"),
    "groups.resume": lambda a: a.groups.resume("nope"),
    "groups.seek": lambda a: a.groups.seek("nope", "earliest"),
    "queues.show": lambda a: a.queues.show("nope"),
    "queues.set": lambda a: a.queues.set("nope", rate=5),
    "queues.delete": lambda a: a.queues.delete("nope"),
    "queues.purge": lambda a: a.queues.purge("nope"),
    "queues.pause": lambda a: a.queues.pause("nope"),
    "queues.resume": lambda a: a.queues.resume("nope"),
    "dlq.show": lambda a: a.dlq.show("nope"),
    "dlq.list": lambda a: a.dlq.list("nope"),
    "dlq.replay": lambda a: a.dlq.replay("nope"),
    "dlq.purge": lambda a: a.dlq.purge("nope"),
}


def test_a_group_that_is_not_there_is_named_by_every_call(node):
    with node.connect() as mesh:
        for name, call in ABOUT_A_GROUP.items():
            with pytest.raises(meshmq.GroupNotFound, match="nope") as told:
                call(mesh.admin)
            assert told.value.outcome == "not done", name
        assert mesh.admin.groups.list() == mesh.admin.queues.list() == []
        works(mesh)


def test_the_asyncio_client_says_the_same(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            for call in ABOUT_A_GROUP.values():
                with pytest.raises(meshmq.GroupNotFound, match="nope"):
                    await call(mesh.admin)
            await mesh.consume("a", "g")
            for refused in (
                mesh.consume("b", "g"), mesh.consume("a", "g", order="key"), mesh.work("g"),
            ):  # fmt: skip
                with pytest.raises(meshmq.GroupMismatch, match="'g'"):
                    await refused
            with pytest.raises(meshmq.InvalidArgument, match="365 days"):
                await mesh.enqueue("jobs", b"x", delay=YEAR_AND_MORE)

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(main(), 40))


@pytest.mark.parametrize(
    "arguments",
    [
        ("queue", "show", "nope"), ("queue", "delete", "nope", "--yes"),
        ("group", "show", "nope"), ("dlq", "list", "nope"), ("dlq", "replay", "nope"),
    ],
)  # fmt: skip
def test_commands_say_it_in_one_line(node, arguments):
    done = subprocess.run(
        [sys.executable, "-m", "meshmq", *arguments, "--url", node.url],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert "nope" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_is_not_there_or_is_done(node):
    with node.connect() as mesh:
        placed = mesh.enqueue("jobs", b"x").wait(5)
        with mesh.work("jobs") as worker:
            take(worker, 1)[0].ack(wait=True)
        unknown = placed.job_id
        with pytest.raises(meshmq.JobNotFound):
            mesh.cancel("jobs", unknown)
        with pytest.raises(meshmq.JobNotFound):
            mesh.reschedule("jobs", unknown, delay=5)
        with pytest.raises(meshmq.GroupNotFound, match="nope"):
            mesh.cancel("nope", unknown)
        for text in ("", "x", NO_JOB[:-2], unknown + "0"):
            with pytest.raises((meshmq.InvalidArgument, meshmq.InvalidName, meshmq.JobNotFound)):
                mesh.cancel("jobs", text)
        works(mesh)


# -- another pattern, order or kind ------------------------------------------------------------


def test_a_name_that_is_taken_for_something_else(node):
    with node.connect() as mesh, node.connect() as other:
        mesh.admin.groups.create("g", "a.>")
        mesh.admin.queues.create("q", order="key")
        for call, word in (
            (lambda: other.consume("b.>", "g"), r"'a\.>', not 'b\.>'"),
            (lambda: other.consume("a.>", "g", order="key"), "order 'any', not 'key'"),
            (lambda: other.work("g"), "is a group, not a queue"),
            (lambda: other.enqueue("g", b"x"), "is a group, not a queue"),
            (lambda: other.consume("q", "q"), "is a queue, not a group"),
            (lambda: other.work("q", order="any"), "order 'key', not 'any'"),
            (lambda: other.admin.groups.create("g", "b"), r"'a\.>', not 'b'"),
            (lambda: other.admin.queues.create("q", order="any"), "order 'key', not 'any'"),
            (lambda: other.admin.queues.create("g"), "is a group, not a queue"),
        ):
            with pytest.raises(meshmq.GroupMismatch, match=word) as told:
                call()
            assert told.value.outcome == "not done"
        assert [g["group"] for g in mesh.admin.groups.list()] == ["g"]
        assert other.admin.queues.show("q")["members"] == []
        works(other)


def test_a_queue_in_order_of_keys_takes_no_priorities(node):
    with node.connect() as mesh:
        mesh.admin.queues.create("q", order="key")
        with pytest.raises(meshmq.MeshError, match="priorit"):
            mesh.enqueue("q", b"x", key=b"k", priority=3).wait(5)
        mesh.enqueue("q", b"y", key=b"k").wait(5)
        with mesh.work("q") as worker:
            (job,) = take(worker, 1)
            assert job.value == b"y"
            job.ack(wait=True, timeout=5)
        assert mesh.admin.queues.show("q")["records"] == 0


# -- too much ----------------------------------------------------------------------------------


def test_times_beyond_the_limits(node):
    with node.connect() as mesh:
        for wish in (
            {"delay": YEAR_AND_MORE}, {"delay": "366d"}, {"ttl": YEAR_AND_MORE}, {"ttl": 0},
            {"at": datetime.now(UTC) + timedelta(days=366)}, {"at": datetime.now()},
            {"delay": float("nan")}, {"delay": float("inf")}, {"delay": "soon"},
            {"delay": 1, "at": datetime.now(UTC)},
        ):  # fmt: skip
            with pytest.raises(meshmq.InvalidArgument):
                mesh.enqueue("jobs", b"x", **wish)
        for wish in ({"priority": 10}, {"priority": -1}, {"priority": 1.5}, {"dedup_id": ""}):
            with pytest.raises(meshmq.InvalidArgument):
                mesh.enqueue("jobs", b"x", **wish)
        placed = mesh.enqueue("jobs", b"x", delay="365d").wait(5)
        with pytest.raises(meshmq.InvalidArgument, match="365 days"):
            mesh.reschedule("jobs", placed.job_id, delay=YEAR_AND_MORE)
        mesh.reschedule("jobs", placed.job_id, delay=0)
        with mesh.work("jobs", ack_timeout=5) as worker:
            (job,) = take(worker, 1)
            for delay in (YEAR_AND_MORE, -1, "x"):
                with pytest.raises(meshmq.InvalidArgument):
                    job.nack(delay)
            for seconds in (0.01, 2 * 24 * 3600):
                with pytest.raises(meshmq.InvalidArgument, match="a day"):
                    job.extend(seconds)
            assert not job.is_settled
            job.ack(wait=True, timeout=5)
        for timeout in (0.05, "2d"):
            with pytest.raises(meshmq.InvalidArgument):
                mesh.work("jobs", ack_timeout=timeout)
        assert mesh.admin.queues.show("jobs")["records"] == 0


def test_values_over_the_limits(node):
    with node.connect() as mesh:
        large = bytes(limits.VALUE_BYTES_MAX + 1)
        with pytest.raises(meshmq.MessageTooLarge):
            mesh.enqueue("jobs", large)
        with pytest.raises(meshmq.MessageTooLarge):
            mesh.enqueue("jobs", large, delay=1)
        with pytest.raises(meshmq.MessageTooLarge):
            mesh.enqueue_many("jobs", [b"x", large])
        with pytest.raises(meshmq.MessageTooLarge):
            mesh.enqueue("jobs", b"x", key=bytes(limits.KEY_BYTES_MAX + 1))
        mesh.enqueue("jobs", large[:-1]).wait(10)
        mesh.enqueue("jobs", large[:-1], delay=0.001).wait(10)
        with mesh.work("jobs", prefetch_bytes=1) as worker:
            for _ in range(2):
                (job,) = take(worker, 1)
                assert len(job.value) == limits.VALUE_BYTES_MAX
                job.reject("r" * 10_000, wait=True, timeout=5)
        until(lambda: mesh.admin.queues.show("jobs")["dead"] == 2)
        assert {len(one.value) for one in mesh.admin.dlq.list("jobs")} == {limits.VALUE_BYTES_MAX}
        for wish in (
            {"prefetch": 0}, {"prefetch": limits.PREFETCH_RECORDS_MAX + 1},
            {"prefetch_bytes": 0}, {"max_deliveries": 0}, {"max_deliveries": 1001},
            {"backoff": -1}, {"rate": -1}, {"order": "random"},
        ):  # fmt: skip
            with pytest.raises(meshmq.InvalidArgument):
                mesh.work("jobs", **wish)
        assert mesh.admin.queues.show("jobs")["records"] == 0


# -- what is not one's own ---------------------------------------------------------------------


def test_settling_what_is_finished(node):
    with node.connect() as mesh:
        mesh.enqueue_many("jobs", [b"%d" % i for i in range(4)]).wait(5)
        with mesh.work("jobs") as worker:
            jobs = take(worker, 4)
            jobs[0].ack(wait=True)
            jobs[1].nack(60, wait=True)
            jobs[2].reject("no", wait=True)
            for job in jobs[:3]:
                for again in (job.ack, job.nack, job.reject):
                    with pytest.raises(meshmq.StaleDelivery, match="settled"):
                        again(wait=True, timeout=5)
            assert worker.stale == 9
            jobs[0].extend(5)
            assert worker.stale == 10
        with pytest.raises(meshmq.StaleDelivery, match=r"closed|settled"):
            jobs[3].ack(wait=True, timeout=5)
        shown = mesh.admin.queues.show("jobs")
        assert (shown["acked"], shown["nacked"], shown["rejected"]) == (1, 1, 1)
        assert shown["in_flight"] == 0
        until(lambda: mesh.admin.queues.show("jobs")["dead"] == 1)
        assert mesh.admin.queues.show("jobs")["records"] == 2


def test_settling_what_another_member_holds(node, monkeypatch):
    """No member can say of another's delivery what becomes of it, whatever number it names."""
    with node.connect() as mesh, node.connect() as other:
        mesh.enqueue_many("jobs", [b"1", b"2"]).wait(5)
        mine, theirs = mesh.work("jobs", prefetch=1), other.work("jobs", prefetch=1, ack_timeout=1)
        (job,), (forger,) = take(mine, 1), take(theirs, 1)
        number, say = job[4].row.number, members.say
        monkeypatch.setattr(members, "say", lambda row: say(row)._replace(number=number))
        forger.ack()
        until(lambda: theirs.stale == 1)
        monkeypatch.undo()
        assert mesh.admin.queues.show("jobs")["acked"] == 0
        job.ack(wait=True, timeout=5)
        assert (mine.stale, mesh.admin.queues.show("jobs")["acked"]) == (0, 1)
        (again,) = take(mine, 1)  # what was not acked by that comes back
        assert (again.value, again.maybe_duplicate) == (forger.value, True)
        again.ack(wait=True, timeout=5)
        mine.close()
        theirs.close()


# -- a handler that never returns --------------------------------------------------------------


def test_a_handler_that_never_returns(node, caplog):
    """Its job goes to others and in the end to the dead letters; neighbours and close go on."""
    forever, seen, done = threading.Event(), Counter(), set()
    lock = threading.Lock()
    first, second = node.connect(), node.connect()

    def handle(job):
        with lock:
            seen[job.value] += 1
        if job.value == b"hang":
            forever.wait()
        with lock:
            done.add(job.value)

    try:
        with caplog.at_level(logging.CRITICAL, "meshmq"):
            options = {"concurrency": 3, "ack_timeout": 0.4, "max_deliveries": 3, "backoff": 0}
            workers = [mesh.worker("jobs", **options)(handle) for mesh in (first, second)]
            with node.connect() as mesh:
                mesh.enqueue("jobs", b"hang").wait(5)
                mesh.enqueue_many("jobs", [b"%d" % i for i in range(50)]).wait(5)
                until(lambda: mesh.admin.queues.show("jobs")["dead"] == 1)
                (letter,) = mesh.admin.dlq.list("jobs")
                assert (letter.value, letter.reason, letter.attempts) == (
                    b"hang", "max-deliveries", 3,
                )  # fmt: skip
                assert "ack timeout" in letter.error
                assert seen[b"hang"] == 3
                until(lambda: len(done) == 50)
                mesh.enqueue("jobs", b"after").wait(5)
                until(lambda: b"after" in done)
                until(lambda: mesh.admin.queues.show("jobs")["records"] == 0)
            assert [worker.stop(timeout=0.5) for worker in workers] != [True, True]
            first.close(timeout=0.5)
            second.close(timeout=0.5)
            assert b"hang" not in done  # nobody was waited for who hangs
    finally:
        forever.set()
        first.close()
        second.close()


def test_a_program_that_never_settles(node):
    with node.connect() as mesh:
        mesh.admin.queues.create("jobs", max_deliveries=2, backoff=0)
        mesh.enqueue("jobs", b"x").wait(5)
        with mesh.work("jobs", ack_timeout=0.3) as worker:
            first = take(worker, 1)[0]
            second = take(worker, 1)[0]
            assert [first.attempt, second.attempt] == [1, 2]
            until(lambda: mesh.admin.queues.show("jobs")["dead"] == 1)
            assert first.is_settled
            for job in (first, second):
                with pytest.raises(meshmq.StaleDelivery):
                    job.ack(wait=True, timeout=5)
            # It waits for nothing when it ends: what it holds is nothing it could still settle.
            assert worker.member.is_idle
        assert mesh.admin.queues.show("jobs")["records"] == 0


def test_fetching_from_what_is_closed_is_an_error(node):
    async def main():
        async with aio.connect(node.url) as mesh:
            async with mesh.work("q") as worker:
                pass
            async with mesh.subscribe("t") as sub:
                pass
            for closed in (worker, sub):
                with pytest.raises(meshmq.ClosedError):
                    await closed.fetch(timeout=0)

    asyncio.run(main())
    with node.connect() as mesh:
        sub, worker = mesh.subscribe("t"), mesh.work("q")
        sub.close()
    for closed in (worker, sub):
        with pytest.raises(meshmq.ClosedError):
            closed.fetch(timeout=0)
