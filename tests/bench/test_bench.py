"""The measuring itself: loops, counters and one short run of the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meshmq.bench.job import CHUNK_BYTES, VALUE_COUNT, Board, Job, Tally, send_chunks, spread
from meshmq.bench.procs import BenchError, Team
from meshmq.bench.works import WORKS
from meshmq.cli import bench


@pytest.mark.parametrize("size", [16, 100, 1024, 65_536, 1 << 20])
def test_values_have_the_size_asked_for_and_chunks_stay_small(size: int) -> None:
    job = Job("", size=size)
    values, chunk = job.values(), job.chunk(1000)
    assert len(values) == VALUE_COUNT
    assert {len(value) for value in values} == {size}
    assert VALUE_COUNT % chunk == 0
    assert chunk == 1 or chunk * size <= CHUNK_BYTES


def test_a_hundred_byte_values_are_distinct() -> None:
    assert len(set(Job("").values())) == VALUE_COUNT


def test_a_count_is_published_in_whole_chunks_and_in_order() -> None:
    got: list[bytes] = []
    job = Job("", count=2100)
    sent = send_chunks(job, got.extend, 100)
    assert sent.count == len(got) == 2100
    assert got == (job.values() * 3)[:2100]


def test_the_window_holds_a_publisher_back_until_the_slowest_receiver_moves(tmp_path: Path) -> None:
    board = Board(Board.create(str(tmp_path / "board")))
    job = Job("", count=500, window=200, receivers=2, board=str(tmp_path / "board"))
    sent, ahead = 0, list[int]()

    def send(values: object) -> None:
        nonlocal sent
        sent += 100
        ahead.append(sent - board.least(2))
        board.note(0, sent)

    send_chunks(job, send, 100, idle=lambda _: board.note(1, sent))
    assert sent == 500
    assert max(ahead) == 200


def test_a_receiver_is_finished_when_it_has_what_was_sent(tmp_path: Path) -> None:
    path = Board.create(str(tmp_path / "board"))
    tally = Tally(Job("", board=path))
    assert not tally.is_finished()
    tally.add(b"abc")
    tally.stamp()
    Board(path).finish(2)
    assert not tally.is_finished()
    tally.add(b"de")
    assert tally.is_finished()
    assert tally.result()["bytes"] == 5


def test_percentiles_are_in_microseconds() -> None:
    found = spread([n * 1000 for n in range(1000, 0, -1)])
    assert (found["p50"], found["p99"], found["samples"]) == (501, 991, 1000)


def test_a_process_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with Team(tmp_path) as team:
        role = team.role("meshmq.bench.nowhere", "none", Job(""))
        with pytest.raises(BenchError, match=r"No module named 'meshmq\.bench\.nowhere'"):
            role.wait_ready()
    assert role.popen.returncode is not None
    assert not list(tmp_path.iterdir())


def test_the_help_names_every_work() -> None:
    named = bench._works_help().partition(";")[0].split(", ")
    assert named == list(WORKS)


def test_the_command_measures_a_node_of_its_own(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "figures.json"
    data.mkdir()
    command = [sys.executable, "-m", "meshmq", "bench", "--work", "durable-e2e", "--count", "5000"]
    options = ["--repeat", "1", "--dir", str(data), "--json", str(target)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "durable-e2e" in done.stdout
    run = json.loads(target.read_text())["works"]["durable-e2e"][0]
    assert run["rate"] > 0
    assert run["lost"] == 0
    assert not list(data.iterdir())


def test_an_unknown_work_is_wrong_usage() -> None:
    command = [sys.executable, "-m", "meshmq", "bench", "--work", "nope"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    assert "no work is called 'nope'" in done.stderr
