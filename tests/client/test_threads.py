"""What many threads do at once: acks, without a lock in the common case, of which none is lost and
none told twice; calls, of which each ends once."""

from __future__ import annotations

import queue
import random
import sys
import threading

import pytest

from meshmq.client.job import Job, decode, feed
from meshmq.core.consumer import Member
from meshmq.core.requester import Call, Requester
from meshmq.frames import (
    ACK,
    NACK,
    STREAM,
    Consume,
    Consumed,
    HandOut,
    Reply,
    ReplyRow,
    Request,
    Settled,
)
from tests.client.fake_node import ORIGIN, FakeNode


class Owner:
    def touched(self, held):
        held.member.touch(held)

    def settle(self, held, index, kind, delay_ns, reason):
        return held.member.settle(held, index, kind, delay_ns, reason)


@pytest.mark.parametrize("mixed", [False, True])
def test_acks_of_many_threads_are_each_told_once(mixed):
    """Threads take jobs from a queue and settle them as they please, one gathers and answers."""
    node = FakeNode()
    member = Member(Consume(1, "g", "a", b"", 100_000, 1 << 26, 10**12), threading.Lock(), Owner())
    member.consume()
    member.on_consumed(Consumed(1), 0)
    jobs, wanted, told = queue.SimpleQueue(), {}, {}
    for _ in range(200):
        row, data = node.row(*[b"x"] * 100)
        member.on_hand_out(HandOut(1, (row,), data), ORIGIN, 0)
    while (held := member.begin(decode)) is not None:
        for job in feed(held, Job):
            jobs.put(job)
        member.finished(held)
    is_over = threading.Event()

    def work(seed):
        rng, mine = random.Random(seed), {}
        while True:
            try:
                job = jobs.get_nowait()
            except queue.Empty:
                break
            kind = NACK if mixed and rng.random() < 0.1 else ACK
            mine[job[4].row.number, job[3]] = kind
            if kind == NACK:
                job.nack(0)
            else:
                job.ack()
        wanted.update(mine)

    def gather():
        while not (is_over.is_set() and member.is_idle):
            for frame in member.take():
                for row in frame.rows:
                    for i in range(row.first, row.first + row.count):
                        assert (row.number, i) not in told
                        told[row.number, i] = row.kind
                member.on_settled(Settled(1, frame.number))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        gatherer = threading.Thread(target=gather)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in (gatherer, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        is_over.set()
        gatherer.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert len(wanted) == 20_000
    assert told == wanted
    assert member.stale == 0
    assert not member.held


def test_calls_of_many_threads_end_each_once_while_another_sees_to_them():
    """Threads ask, cancel and look for deadlines, one answers: no change of a dict under another's
    feet, and no call is forgotten."""
    requester = Requester(threading.Lock())
    is_over = threading.Event()
    answered, asked, failed = [], [], []

    def work(seed):
        rng, mine = random.Random(seed), []
        try:
            for _ in range(3000):
                call = Call("s", b"", b"", STREAM, False, rng.randrange(1 << 40), 64)
                requester.add(call)
                mine.append(call)
                requester.next_deadline_ns()
                requester.taken(call, 1)
                if rng.random() < 0.3:
                    requester.cancel(call)
        except Exception as error:
            failed.append(error)
        asked.extend(mine)

    def answer():
        try:
            while not is_over.is_set() or requester.has_work:
                for frame in requester.take(0):
                    if isinstance(frame, Request):
                        rows = tuple(ReplyRow(row.id, False, True) for row in frame.rows)
                        requester.on_reply(Reply(rows, b""))
                requester.tick(0)
                requester.next_deadline_ns()
                answered.extend(requester.take_news())
        except Exception as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        answerer = threading.Thread(target=answer)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in (answerer, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        is_over.set()
        answerer.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
    assert len(asked) == 12_000
    assert all(call.is_over for call in asked)
    assert sorted(call.id for call in answered) == sorted(call.id for call in asked)
    assert requester.calls == {}
    assert requester.next_deadline_ns() is None
