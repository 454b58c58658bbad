"""A full disk: publishers are told in time, the rest goes on, and publishing resumes by itself.

The file system is a tmpfs of 64 MiB, so these tests need root; it is as full as a disk gets.
"""

from __future__ import annotations

import os
import subprocess
import time

import nodes
import pytest

import meshmq

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "meshmq-test", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=False)


def fill(mesh, topic, sent):
    """Publish until the node says that it is full; ``sent`` gathers what was confirmed."""
    for i in range(5000):
        value = b"%s-%d-" % (topic.encode(), i) + os.urandom(50_000)
        try:
            mesh.publish(topic, value).wait(20)
        except meshmq.StorageFull as error:
            return str(error)
        sent.append(value)
    raise AssertionError("the disk was never full")


def test_storage_full_was_certainly_not_stored():
    assert meshmq.StorageFull.outcome == meshmq.errors.NOT_DONE


def room(point):
    found = os.statvfs(point)
    return found.f_bavail * found.f_frsize


def resume(mesh, topic, sent, since):
    """Publish again and again until the node takes it; return how long after ``since``."""
    value = b"after"
    while True:
        try:
            mesh.publish(topic, value).wait(20)
        except meshmq.StorageFull:
            assert time.monotonic() < since + 20, "publishing did not resume"
            time.sleep(0.05)
            continue
        sent.append(value)
        return time.monotonic() - since


def everything(mesh, topic, count):
    with mesh.subscribe(topic, start="earliest") as sub:
        found = []
        while len(found) < count:
            more = sub.fetch(1000, timeout=10)
            assert more, f"{len(found)} of {count} came"
            found += more
        return [m.value for m in found]


def test_full_told_in_time_and_resumed(small_disk):
    """Five times: full, reading goes on, the rest of the disk is eaten, room is made."""
    node = nodes.ProcessNode(small_disk / "data")
    try:
        with meshmq.connect(node.url, timeout=20) as mesh:
            for cycle in range(5):
                keep, go = f"keep.{cycle}", f"go.{cycle}"
                mesh.publish(keep, b"first").wait(20)
                kept = [b"first"]
                gone: list[bytes] = []
                message = fill(mesh, go, gone)
                assert "reserve" in message
                assert room(small_disk) > 8 * MIB  # told before the disk is full
                assert mesh.admin.status()["state"] == "full"
                assert everything(mesh, go, len(gone)) == gone
                # Somebody else takes the reserve, and still there is room to delete.
                eater = small_disk / "eater"
                with eater.open("wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(MIB // 4))
                    except OSError:
                        pass
                with pytest.raises(meshmq.StorageFull):
                    mesh.publish(keep, b"no").wait(20)
                assert everything(mesh, keep, 1) == kept
                mesh.admin.topics.delete(go)
                began = time.monotonic()
                eater.unlink()
                took = resume(mesh, keep, kept, began)
                assert everything(mesh, keep, 2) == kept
                assert took < 15  # the goal is 5 s; a slow minute of the machine is no failure
                assert mesh.admin.status()["state"] == "ok"
            status = mesh.admin.status()
            assert status["refused"]["storage-full"] >= 10
        assert node.stop()[0] == 0
    finally:
        if node.process.poll() is None:
            node.kill()


def test_a_disk_that_is_full_to_the_last_byte(small_disk):
    """Not even the reserve is left when the node meets it: the ballast carries deletions, a
    restart finds all that was confirmed, and a node that fails exits with its own code."""
    node = nodes.ProcessNode(small_disk / "data")
    sent: list[bytes] = []
    try:
        with meshmq.connect(node.url, timeout=20) as mesh:
            fill(mesh, "t", sent)
            mesh.publish_many("t", [b"x"])  # refused, whenever it comes
            with (small_disk / "eater").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(64 * 1024))
                        file.flush()
                except OSError:
                    pass
            assert room(small_disk) < 64 * 1024
            rules = 0
            while mesh.admin.status()["store"]["times_full"] == 0:
                assert rules < 10_000, "the disk was never met full"
                for _ in range(100):  # each is a commit of its own
                    mesh.admin.topics.create(f"rule.{rules}.>", retention="1h")
                    rules += 1
            assert mesh.state == "connected"
            with pytest.raises(meshmq.StorageFull):
                mesh.flush(20)
            assert everything(mesh, "t", len(sent)) == sent
        node.kill()
        (small_disk / "eater").unlink()
        node.start()
        with meshmq.connect(node.url, timeout=20) as mesh:
            assert everything(mesh, "t", len(sent)) == sent
            assert len(mesh.admin.topics.policies()) == rules
    finally:
        if node.process.poll() is None:
            node.stop()


def eat(point):
    """Somebody else takes what is left, to the last byte."""
    eater = point / "eater"
    with eater.open("ab", buffering=0) as file:
        for size in (MIB // 4, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return eater


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_what_is_rejected_on_a_full_disk_moves_when_there_is_room(small_disk):
    """Dead letters are copies: they wait, come to nobody meanwhile, and outlive a kill."""
    node = nodes.ProcessNode(small_disk / "data")
    try:
        with meshmq.connect(node.url, timeout=20) as mesh:
            for i in range(100):
                mesh.publish("work", b"%d" % i + bytes(100_000)).wait(20)
            fill(mesh, "go", [])
            with mesh.consume("work", "g", prefetch=64) as consumer:
                rejected = 0
                while rejected < 100:
                    for message in consumer.fetch(16, timeout=10):
                        message.reject("no good")
                        rejected += 1
                assert consumer.fetch(1, timeout=2) == []
            shown = mesh.admin.groups.show("g")
            assert shown["records"] == 100
            assert shown["dead"] < 20  # as many as there was room for
            assert room(small_disk) > 8 * MIB
        node.kill()
        node.start()
        with meshmq.connect(node.url, timeout=20) as mesh:
            with mesh.consume("work", "g") as consumer:
                assert consumer.fetch(1, timeout=2) == []
            mesh.admin.topics.delete("go")
            until(lambda: mesh.admin.groups.show("g")["dead"] == 100)
            assert mesh.admin.groups.show("g")["records"] == 0
            assert mesh.admin.dlq.replay("g") == 100
            until(lambda: mesh.admin.groups.show("g")["ready"] == 100)
        assert node.stop()[0] == 0
    finally:
        if node.process.poll() is None:
            node.kill()


def test_jobs_that_fail_on_a_full_disk_leave_the_reserve(small_disk):
    """Some 20,000 failures with 1 KiB of stderr: what the journal keeps of them stays small."""
    node = nodes.ProcessNode(small_disk / "data")
    try:
        with meshmq.connect(node.url, timeout=20) as mesh:
            mesh.admin.queues.create("q", max_deliveries=1000)
            for i in range(200):
                mesh.enqueue("q", b"%d" % i).wait(20)
            fill(mesh, "t", [])
            with mesh.work("q", prefetch=64) as worker:
                for _ in range(400):
                    for job in worker.fetch(50, timeout=10):
                        job.nack(delay=0, reason="E" * 1000)
                    assert node.process.poll() is None
            assert room(small_disk) > 4 * MIB
            with mesh.work("q", prefetch=64) as worker:
                done = 0
                while done < 200:
                    for job in worker.fetch(50, timeout=10):
                        job.ack(wait=True)
                        done += 1
            assert mesh.admin.queues.show("q")["records"] == 0
        assert node.stop()[0] == 0
    finally:
        if node.process.poll() is None:
            node.kill()


def test_a_node_that_was_killed_starts_on_a_disk_without_a_byte(small_disk):
    """What cannot be stored waits, unconfirmed, and goes on with the first room."""
    node = nodes.ProcessNode(small_disk / "data")
    sent: list[bytes] = []
    try:
        with meshmq.connect(node.url, timeout=20) as mesh:
            for i in range(10):
                mesh.enqueue("q", b"%d" % i).wait(20)
            fill(mesh, "t", sent)
            worker = mesh.work("q", prefetch=10)
            jobs: list[meshmq.Job] = []
            while len(jobs) < 10:
                jobs += worker.fetch(10, timeout=10)
            eat(small_disk)
            jobs[0].ack(wait=True)  # in the ballast's room
            (small_disk / "data" / "ballast").unlink(missing_ok=True)
            eater = eat(small_disk)
            jobs[1].ack()
            time.sleep(0.5)
            assert mesh.admin.status()["state"] == "full"
            assert everything(mesh, "t", len(sent)) == sent
            assert node.process.poll() is None
            for _ in range(2):
                eat(small_disk)
                node.kill()
                eat(small_disk)
                assert room(small_disk) < 64 * 1024
                node.start()
                until(lambda: mesh.state == "connected")
            assert everything(mesh, "t", len(sent)) == sent
            eater.unlink()
            jobs[2].ack(wait=True)
            until(lambda: mesh.admin.queues.show("q")["records"] == 7)
            mesh.admin.topics.delete("t")
            resume(mesh, "u", [], time.monotonic())
        assert node.stop()[0] == 0
    finally:
        if node.process.poll() is None:
            node.kill()
