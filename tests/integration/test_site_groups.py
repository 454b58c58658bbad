"""Workers and jobs at different nodes of a site of real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import meshmq


def works(node):
    return meshmq.connect(node.url, route="node")


def take(worker, count):
    """Fetch and ack so many jobs; their values."""
    found = []
    deadline = time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        for job in worker.fetch(100, timeout=1):
            found.append((job.value, job.origin))
            job.ack()
    return found


def test_a_worker_has_the_jobs_of_all_nodes_and_listings_are_of_the_site(site):
    one, two, three = site.nodes
    with works(one) as here, works(two) as there, works(three) as third:
        with here.work("thumbnails", prefetch=8) as worker:
            for n, mesh in enumerate((here, there, third)):
                mesh.enqueue_many("thumbnails", [b"%d-%d" % (n, i) for i in range(50)])
                mesh.flush()
            found = take(worker, 150)
            assert len({value for value, _ in found}) == 150
            assert len({origin for _, origin in found}) == 3
            third.enqueue("thumbnails", b"last").wait(5)
            (job,) = worker.fetch(1, timeout=5)
            job.ack(wait=True, timeout=5)
        shown = there.admin.queues.show("thumbnails")
        assert (shown["records"], shown["acked"]) == (0, 151)
        assert [row["node"] for row in shown["nodes"]] == ["node-2", "node-1", "node-3"]
        assert json.dumps(shown)


def test_a_transaction_acks_another_nodes_record_and_publishes_there(site):
    one, two, _ = site.nodes
    with works(one) as here, works(two) as there:
        with here.consume("in", "g") as consumer:
            there.publish("in", b"x").wait(5)
            (record,) = consumer.fetch(1, timeout=5)
            with here.transaction() as tx:
                placed = tx.publish("out", b"y")
                tx.ack(record)
            assert placed.offset == 0
        assert there.admin.topics.show("out")["records"] == 1


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "meshmq", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_dead_letters_of_all_nodes_are_listed_and_put_back_from_any(site):
    one, two, three = site.nodes
    with works(one) as here, works(two) as there, works(three) as third:
        with here.work("jobs", prefetch=8) as worker:
            for mesh in (there, third):
                mesh.enqueue_many("jobs", [b"a", b"b"])
                mesh.flush()
            second = there.admin.status()["node"]["origin"]
            jobs = [job for _ in range(4) for job in worker.fetch(1, timeout=10)]
            # Lists have the oldest first: those of node-2 are given up before those of node-3.
            for job in sorted(jobs, key=lambda job: (job.origin != second, job.offset)):
                job.reject(f"no {job.value.decode()}", wait=True, timeout=10)
            deadline = time.monotonic() + 20
            while here.admin.dlq.show("jobs")["records"] < 4:
                assert time.monotonic() < deadline
        letters = here.admin.dlq.list("jobs")
        assert sorted((x.node, x.number, x.value) for x in letters) == [
            ("node-2", 0, b"a"), ("node-2", 1, b"b"), ("node-3", 0, b"a"), ("node-3", 1, b"b"),
        ]  # fmt: skip
        assert here.admin.dlq.replay("jobs", [x for x in letters if x.value == b"a"]) == 2
        with here.work("jobs") as worker:
            assert sorted(value for value, _ in take(worker, 2)) == [b"a", b"a"]
        code, _, said = run("dlq", "purge", "jobs", "--offsets", "1", "--yes", "--url", one.url)
        assert code == 1
        assert "node-2 and node-3 each have a dead letter of number 1" in said
        code, out, _ = run("dlq", "list", "jobs", "--url", one.url)
        assert [line.split()[0] for line in out.splitlines()] == ["node", "node-2", "node-3"]
        code, out, _ = run(
            "dlq", "purge", "jobs", "--offsets", "1", "--node", "node-3", "--yes", "--url", one.url
        )
        assert (code, out) == (0, "purged 1 dead letter of jobs\n")
        assert [x.node for x in here.admin.dlq.list("jobs")] == ["node-2"]


def test_a_group_goes_on_elsewhere_at_all_nodes(site):
    one, two, _ = site.nodes
    with works(one) as here, works(two) as there:
        with here.consume("t", "readers") as consumer:
            here.publish_many("t", [b"1", b"2"])
            there.publish_many("t", [b"11", b"12"])
            here.flush()
            there.flush()
            take(consumer, 4)
            told = there.admin.groups.seek("readers", "earliest")
            assert (len(told["nodes"]), told["away"]) == (3, [])
            got = take(consumer, 4)
            (origin,) = {origin for value, origin in got if value == b"12"}
            assert sorted(value for value, _ in got) == [b"1", b"11", b"12", b"2"]
            here.admin.groups.seek("readers", 1, node="node-2")
            assert take(consumer, 1) == [(b"12", origin)]
            here.admin.groups.seek("readers", 1, node=origin)
            assert take(consumer, 1) == [(b"12", origin)]
        code, _, said = run("group", "seek", "readers", "1", "--url", one.url)
        assert code == 1
        assert "offset 1 is of one node's stream" in said
