"""Workers and jobs at different nodes of a site of real nodes."""

from __future__ import annotations

import json
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
