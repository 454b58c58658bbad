"""What a program meets: full buffers, lost nodes, names that are taken, its own mistakes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

import meshmq
from meshmq import limits
from meshmq.core import client as client_module

MIB = 1 << 20


def drain(subscription, count):
    messages = []
    while len(messages) < count:
        more = subscription.fetch(count - len(messages), timeout=20)
        assert more, f"{len(messages)} of {count} came"
        messages += more
    return messages


def wait_for_state(mesh, state):
    """Until the connection is in ``state``; on_state's callback is the clock."""
    mesh._connection.wait_until(lambda: mesh.state == state, 20)
    assert mesh.state == state


# -- a full buffer ---------------------------------------------------------------------------


def test_a_full_buffer_fails_or_blocks_as_asked(process_node):
    value = bytes(MIB)
    with meshmq.connect(process_node.url, max_buffer=4 * MIB, on_full="fail") as mesh:
        process_node.kill()
        wait_for_state(mesh, "reconnecting")
        kept = [mesh.publish("a", value) for _ in range(4)]
        with pytest.raises(meshmq.BufferFull, match="max_buffer"):
            mesh.publish("a", value)
        process_node.start()
        assert [r.wait(20).offset for r in kept] == list(range(len(kept)))

    with meshmq.connect(process_node.url, max_buffer=4 * MIB, on_full="block") as mesh:
        process_node.kill()
        wait_for_state(mesh, "reconnecting")
        with ThreadPoolExecutor(1) as pool:
            blocked = pool.submit(lambda: [mesh.publish("b", value) for _ in range(12)])
            process_node.start()
            assert [r.wait(20).offset for r in blocked.result(20)] == list(range(12))


def test_closing_tells_what_could_not_be_confirmed(process_node):
    mesh = meshmq.connect(process_node.url)
    process_node.kill()
    receipt = mesh.publish("a", b"v")
    with pytest.raises(meshmq.DeadlineExceeded, match="not everything was confirmed"):
        mesh.close(timeout=0.3)
    with pytest.raises(meshmq.LinkLost):
        receipt.wait(1)
    assert repr(receipt).startswith("Receipt(topic='a', failed")


def test_closing_waits_for_confirmations(node):
    with meshmq.connect(node.url) as mesh:
        receipts = mesh.publish_many("a", [b"%d" % i for i in range(50_000)])
    assert receipts[-1].offset == 49_999


def test_after_close_everything_says_so(node):
    mesh = meshmq.connect(node.url)
    sub = mesh.subscribe("a")
    mesh.close()
    mesh.close()
    for call in (
        lambda: mesh.publish("a", b"v"),
        lambda: mesh.publish_many("a", [b"v"]),
        lambda: mesh.flush(),
        lambda: mesh.subscribe("a"),
        lambda: mesh.admin.status(),
        lambda: sub.fetch(timeout=0),
    ):
        with pytest.raises(meshmq.ClosedError, match="closed"):
            call()


def test_an_exception_in_the_block_is_not_hidden(node):
    def fail(mesh):
        with mesh:
            mesh.publish("a", b"v")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(meshmq.connect(node.url))


# -- receipts --------------------------------------------------------------------------------


def test_a_receipt_waits_and_then_knows(process_node):
    with meshmq.connect(process_node.url) as mesh:
        mesh.publish("a", b"0").wait(10)
        process_node.kill()
        receipt = mesh.publish("a", b"1")
        assert (receipt.done, repr(receipt)) == (False, "Receipt(topic='a', waiting)")
        with pytest.raises(meshmq.DeadlineExceeded, match="still on its way"):
            receipt.wait(0.2)
        process_node.start()
        assert receipt.wait(20) is receipt
        assert (receipt.offset, receipt.durability, receipt.done) == (1, "synced", True)
        many = mesh.publish_many("a", [b"2", b"3", b"4"]).wait(10)
        assert [r.offset for r in many] == [2, 3, 4]
        assert (many[-1].offset, [r.offset for r in many[:2]], len(many)) == (4, [2, 3], 3)
        with pytest.raises(IndexError):
            many[3]


def test_flush_raises_the_first_failure_once(node):
    with meshmq.connect(node.url) as mesh:
        mesh.publish("a", b"v", seq=5)
        with pytest.raises(meshmq.ProducerUnknown, match="sequences begin at 1"):
            mesh.flush(10)
        mesh.flush(10)


def test_durability_that_one_node_does_not_have(node):
    with meshmq.connect(node.url) as mesh:
        with pytest.raises(meshmq.DurabilityUnavailable, match="belongs to no site"):
            mesh.publish("a", b"v", durability="replicated").wait(10)
        with pytest.raises(meshmq.DurabilityUnavailable, match="belongs to no site"):
            mesh.publish("a", b"v", durability="mirrored:1").wait(10)
        with pytest.raises(meshmq.InvalidArgument, match="1 to 16"):
            mesh.publish("a", b"v", durability="mirrored:0")
        mesh.admin.topics.create("t", durability="transient")
        assert mesh.publish("t", b"v").wait(10).durability == "sent"
        with pytest.raises(meshmq.DurabilityUnavailable, match="is transient"):
            mesh.publish("t", b"v", durability="synced").wait(10)


# -- many threads, many connections ----------------------------------------------------------


def test_threads_that_publish_keep_their_own_order(node):
    with meshmq.connect(node.url) as mesh:

        def work(number):
            for i in range(3000):
                mesh.publish("shared", b"%d %d" % (number, i))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        mesh.flush(20)
        with mesh.subscribe("shared", start="earliest") as sub:
            values = [m.value for m in drain(sub, 24_000)]
            assert sub.fetch(timeout=0) == []
    for number in range(8):
        own = [v for v in values if v.startswith(b"%d " % number)]
        assert own == [b"%d %d" % (number, i) for i in range(3000)]


def test_two_connections_in_one_program(node):
    with (
        meshmq.connect(node.url) as one,
        meshmq.connect(node.url) as two,
        one.subscribe("from.two") as first,
        two.subscribe("from.one") as second,
    ):
        for i in range(20):
            one.publish("from.one", b"%d" % i)
            two.publish("from.two", b"%d" % i)
            assert drain(first, 1)[0].value == drain(second, 1)[0].value == b"%d" % i


# -- names: of producers, of meshes, of versions ---------------------------------------------


def test_a_producers_name_belongs_to_the_newest_program(node):
    old = meshmq.connect(node.url, producer="p")
    old.publish("a", b"1").wait(10)
    with meshmq.connect(node.url, producer="p") as new:
        with pytest.raises(meshmq.ProducerFenced, match="same producer name"):
            old.publish("a", b"late").wait(10)
        assert old.state == "closed"
        with pytest.raises(meshmq.ProducerFenced):
            old.publish("a", b"later")
        assert new.publish("a", b"2").wait(10).offset == 1
    old.close()


def test_a_program_that_is_killed_goes_on_where_it_was(node):
    program = """
        import os, sys
        import meshmq
        with meshmq.connect(sys.argv[1], producer="import") as mesh:
            done = mesh.last_sequence("rows")
            for number in range(max(1, done - 500), 20_001):  # says some of it again
                receipt = mesh.publish("rows", b"%d" % number, seq=number)
                if number == int(sys.argv[2]):
                    receipt.wait(20)
                    os.kill(os.getpid(), 9)
    """
    for stop in (3000, 9000, 15_000, 0):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), node.url, str(stop)],
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
        assert done.returncode == (-9 if stop else 0), done.stderr
    with meshmq.connect(node.url) as mesh, mesh.subscribe("rows", start="earliest") as sub:
        assert [m.value for m in drain(sub, 20_000)] == [b"%d" % i for i in range(1, 20_001)]
        assert sub.fetch(timeout=0) == []


def test_a_refusal_names_both_meshes_and_both_versions(node, monkeypatch):
    with pytest.raises(meshmq.MeshMismatch, match=r"'local'.*'other'"):
        meshmq.connect(node.url, mesh="other")
    monkeypatch.setattr(client_module, "PROTOCOL_MAJOR", 99)
    with pytest.raises(meshmq.VersionMismatch, match=r"1\.\d+.*99\.\d+"):
        meshmq.connect(node.url)


def test_a_name_too_long_is_told_here_and_not_by_the_node(node):
    with pytest.raises(meshmq.InvalidArgument, match="at most 255 characters, not 256"):
        meshmq.connect(node.url, name="n" * 256)
    meshmq.connect(node.url, name="n" * 255).close()


def test_wrong_arguments_are_told_before_anything_is_sent(node):
    with meshmq.connect(node.url) as mesh:
        for call, error in [
            (lambda: mesh.publish("a", "text"), "encode it: value.encode"),
            (lambda: mesh.publish("a", None), "a value is bytes, not NoneType"),
            (lambda: mesh.publish("a", bytes(MIB + 1)), "exceeds the limit of 1048576"),
            (lambda: mesh.publish("a", b"v", key="k"), "a key is bytes"),
            (lambda: mesh.publish("a", b"v", key=bytes(2000)), "exceeds the limit of 1024"),
            (lambda: mesh.publish("a", b"v", headers={"n": 1}), "headers are str to str"),
            (lambda: mesh.publish("a", b"v", seq=0), "seq is a number from 1"),
            (lambda: mesh.publish("a", b"v", timestamp=datetime(2024, 1, 1)), "needs a time zone"),
            (lambda: mesh.publish("a b", b"v"), "not valid"),
            (lambda: mesh.publish("a.*", b"v"), "wildcards are for subscribing"),
            (lambda: mesh.publish_many("a", [b"v"], keys=[]), "0 keys for 1 values"),
            (lambda: mesh.subscribe("a..b"), "not valid"),
            (lambda: mesh.subscribe("a", start="sometime"), "start is .new., .earliest."),
            (lambda: mesh.subscribe("a", start="p1-x"), "not a position"),
            (lambda: mesh.publish("a", b"v", durability="sync"), "durability is 'sent', 'synced'"),
            (lambda: mesh.subscribe("a", start=7), "the next is 0"),
            (lambda: mesh.subscribe("a", prefetch_records=0), "prefetch_records is 1"),
        ]:  # fmt: skip
            with pytest.raises((meshmq.MeshError, ValueError), match=error):
                call()
        assert mesh.admin.topics.list() == []
        mesh.flush(1)


# -- retention, deletion, time ---------------------------------------------------------------


def test_what_retention_takes_is_counted_for_who_had_not_read_it(node):
    with meshmq.connect(node.url) as mesh, meshmq.connect(node.url) as reader:
        mesh.admin.topics.create("short", retention_bytes="1MB")
        told = []
        with reader.subscribe("short", start="earliest", on_missed=told.append) as sub:
            for i in range(12):  # far more than is kept, in many commits
                mesh.publish_many("short", [b"%06d" % (i * 1000 + j) + bytes(1000)
                                            for j in range(1000)]).wait(20)  # fmt: skip
            first = mesh.admin.topics.show("short")["first_offset"]
            assert first >= 0
            got = drain(sub, 12_000 - sub.missed)
            offsets = [m.offset for m in got]
            assert offsets == sorted(set(offsets))
            assert len(got) + sub.missed == 12_000
            assert sum(told) == sub.missed


def test_a_deleted_topic_begins_anew(node):
    with meshmq.connect(node.url) as mesh:
        old = mesh.publish("a", b"old").wait(10)
        mesh.admin.topics.delete("a")
        assert mesh.admin.topics.list() == []
    with meshmq.connect(node.url) as mesh:
        new = mesh.publish("a", b"new").wait(10)
        assert new.offset == 0
        assert new.stream.topic_id != old.stream.topic_id
        with mesh.subscribe("a", start="earliest") as sub:
            assert [m.value for m in drain(sub, 1)] == [b"new"]
            assert sub.fetch(timeout=0) == []


def test_a_message_has_its_times_and_place(node):
    with meshmq.connect(node.url) as mesh, mesh.subscribe("a") as sub:
        before = datetime.now(UTC)
        mesh.publish("a", b"v")
        mesh.publish("a", b"v", timestamp=datetime(2001, 2, 3, tzinfo=UTC))
        one, two = drain(sub, 2)
        after = datetime.now(UTC)
        assert before.timestamp() - 0.001 <= one.timestamp.timestamp() <= after.timestamp() + 0.001
        assert two.timestamp == datetime(2001, 2, 3, tzinfo=UTC)
        assert one.append_time_ns <= two.append_time_ns
        assert str(two.position).startswith("p2-")  # of when it began there is more to say
        assert "topic='a', offset=1" in repr(two)


# -- callbacks -------------------------------------------------------------------------------


def test_a_callback_that_fails_harms_nobody(process_node, caplog):
    def on_state(change):
        raise ZeroDivisionError

    with meshmq.connect(process_node.url, on_state=on_state) as mesh:
        process_node.kill()
        process_node.start()
        assert mesh.publish("a", b"v").wait(20).offset == 0
    assert "a callback of the program failed" in caplog.text


def test_states_are_told_in_order(process_node):
    states = []
    back = threading.Event()

    def on_state(change):
        states.append(change.state)
        if len(states) == 3:
            back.set()

    with meshmq.connect(process_node.url, on_state=on_state) as mesh:
        process_node.kill()
        process_node.start()
        assert back.wait(20)
        assert mesh.publish("a", b"v").wait(10)
    assert states == ["connected", "reconnecting", "connected", "closed"]


def test_limits_hold_together():
    assert limits.CREDIT_BYTES_DEFAULT <= limits.CREDIT_BYTES_MAX
    assert limits.CREDIT_RECORDS_DEFAULT <= limits.CREDIT_RECORDS_MAX
