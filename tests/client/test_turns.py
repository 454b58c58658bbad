"""A worker in order of keys: which job may begin, what waits behind it, what follows it."""

from __future__ import annotations

import pytest

from meshmq import errors
from meshmq.client.worker import Turns, check_concurrency
from meshmq.frames import EXTEND, Consume, Consumed, Revoke, SettleRow
from tests.client.fake_node import FakeNode, fake_mesh
from tests.client.test_consumer import working


@pytest.fixture
def node():
    node = FakeNode()
    node.on[Consume] = lambda b: [Consumed(b.consumer, order=1)]
    return node


@pytest.fixture
def mesh(node):
    return fake_mesh(node)[0]


def jobs_of(mesh, *names):
    worker = working(
        mesh, *[n.encode() for n in names], keys=[n[0].encode().strip() for n in names]
    )
    return worker, worker.fetch(len(names))


def test_a_key_at_work_holds_back_its_own_only(mesh):
    _, (a1, b1, a2, a3) = jobs_of(mesh, "a1", "b1", "a2", "a3")
    turns = Turns()
    assert turns.begin(a1)
    assert turns.begin(b1)
    assert not turns.begin(a2)
    assert not turns.begin(a3)
    assert turns.end(b1, True) is None
    assert turns.end(a1, True) is a2
    assert turns.end(a2, True) is a3
    assert turns.end(a3, True) is None
    assert turns.begin(a1)


def test_without_a_key_every_job_begins(mesh):
    _, jobs = jobs_of(mesh, " 1", " 2")
    turns = Turns()
    assert [turns.begin(job) for job in jobs] == [True, True]
    assert turns.end(jobs[0], True) is None


def test_what_waits_behind_a_key_is_renewed_and_can_be_taken_back(mesh, node):
    worker, (a1, a2, a3) = jobs_of(mesh, "a1", "a2", "a3")
    channel = mesh._connection
    turns = Turns()
    turns.begin(a1)
    turns.begin(a2)
    turns.begin(a3)
    channel.pass_time(11)
    assert node.settled() == [(1, 1, 2, EXTEND)]
    channel.say(Revoke(worker.member.id, (SettleRow(1, 1, 1, 0),)))
    channel.play()
    assert turns.end(a1, True) is a3


def test_a_failed_job_takes_what_waits_behind_it_along(mesh):
    _, (a1, a2) = jobs_of(mesh, "a1", "a2")
    turns = Turns()
    turns.begin(a1)
    turns.begin(a2)
    with a1.process():
        raise ValueError
    assert turns.end(a1, True) is None


def test_at_the_end_nothing_follows(mesh):
    _, (a1, a2) = jobs_of(mesh, "a1", "a2")
    turns = Turns()
    turns.begin(a1)
    turns.begin(a2)
    assert turns.end(a1, False) is None


@pytest.mark.parametrize("wrong", [0, -1, 1025, True, 2.0, "8"])
def test_concurrency_has_bounds(wrong, mesh):
    with pytest.raises(errors.InvalidArgument):
        check_concurrency(wrong)
    with pytest.raises(errors.InvalidArgument):
        mesh.worker("jobs", concurrency=wrong)


def test_a_coroutine_is_for_the_other_client(mesh):
    with pytest.raises(errors.InvalidArgument, match=r"meshmq\.aio"):

        @mesh.worker("jobs")
        async def work(job):
            pass


def test_there_must_be_something_to_run(mesh):
    with pytest.raises(errors.InvalidArgument, match="nothing to run"):
        mesh.run()
