"""Short versions of ``tests.chaos.jobs`` and ``tests.bench.flights_queue``, and what their judges
notice."""

from __future__ import annotations

import argparse
from importlib import resources

import pytest

from tests.bench import flights_queue
from tests.chaos import jobs
from tests.chaos.job_history import (
    ACKED,
    ACKING,
    DOUBTFUL,
    GOT,
    NACKED,
    NACKING,
    PUT,
    REJECTED,
    REJECTING,
    Event,
    Judge,
    Letter,
    Span,
    Trouble,
)

SECOND = 1_000_000_000


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_queue_on_a_bad_day(tmp_path):
    options = argparse.Namespace(jobs=10_000, minutes=0.4, kills=2, workers=3, dir=tmp_path)
    found = jobs.jobs(options, seed=11)
    assert found["faults"] == []
    assert found["node_kills"] == 2
    assert found["counts"]["lives"] == 3
    assert found["counts"]["acked for certain"] > 1000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flights_as_jobs_by_tail_number(tmp_path):
    with resources.as_file(resources.files("meshmq.data") / "flights-sample.csv.gz") as sample:
        found = flights_queue.run(sample, seed=11, workers=3, directory=tmp_path)
    assert flights_queue.wrong(found) == []
    assert found["dead"] > 80


# -- the judges notice -------------------------------------------------------------------------


class Story:
    """What workers said of job 0; times are in seconds."""

    def __init__(self, trouble=None, letters=()):
        self.said = []
        self.judge = Judge(1, 2.0, 5, {0: letters} if letters else {}, trouble or Trouble())
        self.lives = [(1, 99), (100, 199)]

    def put(self, at, delay):
        self.said.append((9, Event(int(at * SECOND), 0, 0, int(delay * 1000), 0, PUT, 0)))
        return self

    def got(self, at, worker=1, number=1, attempt=1, doubtful=False):
        flags = DOUBTFUL if doubtful else 0
        self.said.append((worker, Event(int(at * SECOND), number, 0, 0, attempt, GOT, flags)))
        return self

    def does(self, at, *kinds, worker=1, number=1, delay=0.0):
        for kind in kinds:
            event = Event(int(at * SECOND), number, 0, int(delay * 1000), 1, kind, 0)
            self.said.append((worker, event))
        return self

    def faults(self):
        self.judge.job(0, self.said, self.lives)
        return {name[7:] for name in self.judge.verdict.counts if name.startswith("fault: ")}


def stopped(worker, begin, end):
    trouble = Trouble()
    trouble.stopped[worker].append(Span(int(begin * SECOND), int(end * SECOND)))
    return trouble


def test_what_is_allowed_is_no_fault():
    assert Story().got(10).does(10, ACKING, ACKED).faults() == set()
    nacked = Story().got(10).does(10, NACKING, NACKED, delay=1)
    nacked.got(11.1, 2, 2, 2).does(11.1, ACKING, ACKED, worker=2, number=2)
    assert nacked.faults() == set()
    expired = Story().got(10).got(12.5, 2, 2, 2, True).does(13, ACKING, worker=2, number=2)
    assert expired.faults() == set()
    # It lay in a stopped worker's buffer while another did it.
    late = Story(stopped(1, 10, 20)).got(20.1).does(20.1, ACKING)
    late.got(13, 2, 2, 2, True).does(13, ACKING, ACKED, worker=2, number=2)
    assert late.faults() == set()
    dead = Story(letters=[Letter("rejected", 1)]).got(10).does(10, REJECTING, REJECTED)
    assert dead.faults() == set()
    killed = Story().got(10).does(10, ACKING).got(11, 2, 150, 1, True)
    assert killed.does(11, ACKING, worker=2, number=150).faults() == set()


def test_every_kind_of_fault_is_noticed():
    assert Story().faults() == {"lost"}
    assert Story().got(10).faults() == {"lost"}
    again = Story().got(10).does(10, ACKING, ACKED).got(11, 2, 150, 1, True)
    assert "returned" in again.faults()
    assert "unmarked" in Story().got(10).does(10, ACKING).got(11, 2, 150).faults()
    assert "no cause" in Story().got(10).does(10, ACKING).got(10.5, 2, 2, 2).faults()
    assert "early" in Story().put(10, 5).got(14.9).does(14.9, ACKING).faults()
    early = Story().got(10).does(10, NACKING, NACKED, delay=1).got(10.9, 2, 2, 2)
    assert "early" in early.faults()
    assert "attempts" in Story().got(10, attempt=6).does(10, ACKING).faults()
    same = Story().got(10).does(10, NACKING, NACKED).got(10.1, 2, 2, 1, True)
    assert "attempts" in same.faults()
    assert "shown twice" in Story().got(10).got(10.1).does(11, ACKING).faults()
    twice = Story(letters=[Letter("rejected", 1)] * 2).got(10).does(10, REJECTING)
    assert twice.faults() == {"dead twice"}
    both = Story(letters=[Letter("rejected", 1)]).got(10).does(10, ACKING, ACKED)
    assert both.faults() == {"dead and done", "dead"}
    assert Story(letters=[Letter("max-deliveries", 2)]).got(10).faults() == {"dead"}
    assert Story().got(10).does(10, REJECTING, REJECTED).faults() == {"no letter"}
    spent = Story().got(10, attempt=5).does(10, NACKING, NACKED)
    assert spent.faults() == {"no letter"}


def flight(tail):
    return b"2013,AA,1," + tail + b",JFK,MIA"


def test_the_judge_of_flights_notices():
    lines = [flight(b"N1"), flight(b"N1"), flight(b"N2")]
    seed = next(s for s in range(1000) if [flights_queue.fails(s, i) for i in range(3)] == [
        True, False, False,
    ])  # fmt: skip

    def story(*rows):
        return [Event(at, 0, row, 0, attempt, kind, 0, again)
                for at, (row, kind, attempt, again) in enumerate(rows)]  # fmt: skip

    fails = [(0, kind, attempt, 0) for attempt in (1, 2, 3) for kind in (GOT, NACKING)]
    rest = [(row, kind, 1, 0) for row in (1, 2) for kind in (GOT, ACKING)]
    replay = [(0, GOT, 1, 1), (0, ACKING, 1, 1)]
    letters = [flights_queue.Letter(0, lines[0], "max-deliveries", 3)]

    def faults(events, letters=letters):
        found = flights_queue.judge(lines, seed, events, letters)
        return {name for name, n in found.items() if n}

    assert faults(story(*fails, *rest, *replay)) == set()
    assert faults(story(*rest, *fails, *replay)) == {"out_of_order"}
    assert faults(story(*fails[:4], *rest, *fails[4:], *replay)) == {"out_of_order"}
    assert faults(story(*fails, *rest[2:], *replay)) == {"lost"}
    assert "acked_twice" in faults(story(*fails, *rest, *rest[2:], *replay))
    assert faults(story(*fails, *rest)) == {"replay_lost"}
    assert "replay_acked_twice" in faults(story(*fails, *rest, *replay, *replay))
    assert faults(story(*fails, *rest, *replay), []) == {"dead_missing"}
    assert faults(story(*fails, *rest, *replay), letters * 2) == {"dead_twice"}
    wrong = [flights_queue.Letter(2, lines[2], "max-deliveries", 3)]
    assert faults(story(*fails, *rest, *replay), letters + wrong) == {"dead_wrong"}
