"""The measuring itself: loops, counters and one short run of the command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from meshmq.bench.asking import Asking, WrongReply
from meshmq.bench.job import (
    CHUNK_BYTES,
    NUMBER,
    VALUE_COUNT,
    Board,
    Job,
    Tally,
    WorkTally,
    send_chunks,
    spread,
    worked,
)
from meshmq.bench.procs import BenchError, Team
from meshmq.bench.works import WORKS, Settings
from meshmq.cli import bench
from tests.bench import report
from tests.bench.peers import zmq_raw
from tests.bench.rows import ROWS


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


def test_shared_records_carry_their_numbers() -> None:
    got: list[bytes] = []
    send_chunks(Job("", size=100, count=2100, shared=True), got.extend, 100)
    assert [NUMBER.unpack_from(value)[0] for value in got] == list(range(2100))
    assert {len(value) for value in got} == {100}


def test_the_window_of_shared_records_counts_what_the_workers_have_together(tmp_path: Path) -> None:
    board = Board(Board.create(str(tmp_path / "board")))
    path = str(tmp_path / "board")
    job = Job("", count=500, window=200, receivers=2, shared=True, board=path)
    sent, ahead = 0, list[int]()

    def send(values: object) -> None:
        nonlocal sent
        sent += 100
        ahead.append(sent - board.total(2))
        board.note(0, sent // 2)

    send_chunks(job, send, 100, idle=lambda _: board.note(1, sent // 2))
    assert sent == 500
    assert max(ahead) == 200


@pytest.mark.parametrize(
    ("shares", "lost", "doubled"),
    [
        (([0, 2, 4], [1, 3]), 0, 0),
        (([0, 2, 4], [1]), 1, 0),
        (([0, 2, 4], [1, 2, 3]), 0, 1),
        (([0, 2, 2], [1, 3]), 1, 1),
        (([], [0, 1, 2, 3, 4]), 0, 0),
    ],
)
def test_what_workers_got_is_compared_with_what_was_sent(
    tmp_path: Path, shares: tuple[list[int], ...], lost: int, doubled: int
) -> None:
    path = Board.create(str(tmp_path / "board"))
    tallies = [WorkTally(Job("", index=i, receivers=2, shared=True, board=path)) for i in (0, 1)]
    for tally, numbers in zip(tallies, shares, strict=True):
        for number in numbers:
            tally.add(NUMBER.pack(number) + b"value")
        tally.stamp()
    assert not any(tally.is_finished() for tally in tallies)
    Board(path).finish(5)
    assert all(tally.is_finished() for tally in tallies) == (sum(map(len, shares)) >= 5)
    got = [tally.result() for tally in tallies]
    Board(path).wait_flags(2, timeout=0)
    sent = {"count": 5, "start_ns": got[0]["last_ns"] - 10**9, "unacked": 3}
    found = worked(path, got, sent)
    assert (found["lost"], found["doubled"], found["unacked"]) == (lost, doubled, 3)
    assert found["rate"] == pytest.approx(5 - lost, rel=0.1)


@pytest.mark.parametrize("run", [zmq_raw.work_queue_one_a_send, zmq_raw.work_queue_batches])
def test_two_workers_share_what_one_producer_sends(
    tmp_path: Path, run: Callable[[Settings], dict[str, float]]
) -> None:
    found = run(Settings(count=20_000, directory=tmp_path))
    assert found.pop("rate") > 0
    assert found == {"lost": 0, "doubled": 0, "unacked": 0}
    assert not list(tmp_path.iterdir())


def asking(count: int, outstanding: int, size: int = 100) -> Asking:
    found = Asking(Job("", size=size, count=count, options={"outstanding": outstanding}))
    found.start()
    return found


def test_requests_under_way_stay_as_many_as_wished_and_each_is_answered_once() -> None:
    one = asking(count=10, outstanding=4)
    under_way, numbers = one.first(), list[int]()
    assert len(under_way) == 4
    while not one.is_over:
        value = under_way.pop()  # the youngest first: replies may come in any order
        numbers.append(NUMBER.unpack_from(value)[0])
        following = one.replied(value)
        under_way += [following] if following else []
        assert len(under_way) == min(4, 10 - len(numbers))
    assert sorted(numbers) == list(range(10))
    assert one.result()["samples"] == 10


def test_a_reply_comes_once() -> None:
    one = asking(count=10, outstanding=2)
    first, _ = one.first()
    one.replied(first)
    with pytest.raises(WrongReply, match="nothing that is under way"):
        one.replied(first)


WRONG: list[Callable[[bytes], bytes]] = [
    lambda value: value[:-1],
    lambda value: value + b"x",
    lambda value: b"",
    lambda value: NUMBER.pack(NUMBER.unpack_from(value)[0] + 100) + value[8:],
]


@pytest.mark.parametrize("spoil", WRONG, ids=["short", "long", "empty", "another's"])
def test_a_reply_that_is_no_echo_ends_the_measurement(spoil: Callable[[bytes], bytes]) -> None:
    async def call(value: bytes) -> bytes:
        return spoil(value)

    for outstanding in (1, 3):
        with pytest.raises(WrongReply):
            asking(count=10, outstanding=outstanding).by_calls(spoil)
        with pytest.raises(ExceptionGroup) as found:
            asyncio.run(asking(count=10, outstanding=outstanding).by_tasks(call))
        assert found.group_contains(WrongReply)
        one = asking(count=10, outstanding=outstanding)
        with pytest.raises(WrongReply):
            one.replied(spoil(one.first()[0]))


def test_threads_ask_together_and_each_request_once() -> None:
    together, numbers = threading.Barrier(4, timeout=20), list[int]()

    def call(value: bytes) -> bytes:
        together.wait()  # passes only with four at a time
        numbers.append(NUMBER.unpack_from(value)[0])
        return value

    one = asking(count=40, outstanding=4, size=16)
    one.by_calls(call)
    assert sorted(numbers) == list(range(40))
    assert one.result()["samples"] == 40


def test_tasks_ask_together_and_each_request_once() -> None:
    numbers = list[int]()

    async def main() -> None:
        together = asyncio.Condition()

        async def call(value: bytes) -> bytes:
            async with together:
                numbers.append(NUMBER.unpack_from(value)[0])
                due = len(numbers) + (-len(numbers) % 4)
                together.notify_all()
                await asyncio.wait_for(together.wait_for(lambda: len(numbers) >= due), 20)
            return value

        await asking(count=40, outstanding=4, size=16).by_tasks(call)

    asyncio.run(main())
    assert sorted(numbers) == list(range(40))


@pytest.mark.parametrize("outstanding", [1, 64])
@pytest.mark.parametrize("run", [zmq_raw.request_direct, zmq_raw.request_broker])
def test_requests_come_back_from_a_bare_service(
    tmp_path: Path, run: Callable[[Settings], dict[str, float]], outstanding: int
) -> None:
    found = run(Settings(count=2000, outstanding=outstanding, directory=tmp_path))
    assert set(found) == {"p50", "p99", "rate"}
    assert 0 < found["p50"] <= found["p99"]
    assert found["rate"] > 0
    assert not list(tmp_path.iterdir())


def test_goals_are_told_without_our_entry_too() -> None:
    lines = list(report.goal_lines({"rows": {key: {} for key in ROWS}}))
    assert len(lines) == sum(len(row.goals) for row in ROWS.values())
    assert {line[3] for line in lines} == {"not measured"}


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


def test_the_newest_result_of_a_kind_is_not_of_another_that_begins_alike() -> None:
    flights, of_a_queue = report.newest("flights"), report.newest("flights-queue")
    assert flights is not None
    assert of_a_queue is not None
    assert "kills" in flights
    assert "workers" in of_a_queue


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


def test_a_folder_for_data_is_made_if_it_can_be(tmp_path: Path) -> None:
    with Team(tmp_path / "not" / "there") as team:
        assert team.folder.parent == tmp_path / "not" / "there"
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"there can be no folder in .*file: "):
        Team(tmp_path / "file")


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


def test_the_command_measures_requests(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "figures.json"
    data.mkdir()
    command = [sys.executable, "-m", "meshmq", "bench", "request", "request-aio"]
    options = ["--count", "500", "--outstanding", "8", "--repeat", "1"]
    places = ["--dir", str(data), "--json", str(target)]
    done = subprocess.run([*command, *options, *places], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    for work in ("request", "request-aio"):
        (run,) = json.loads(target.read_text())["works"][work]
        assert 0 < run["p50"] <= run["p99"]
        assert run["rate"] > 0
    assert not list(data.iterdir())


@pytest.mark.parametrize("outstanding", ["0", "1025"])
def test_more_outstanding_than_a_service_takes_are_wrong_usage(outstanding: str) -> None:
    command = [sys.executable, "-m", "meshmq", "bench", "request", "--outstanding", outstanding]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    assert "--outstanding must be 1 to 1024" in done.stderr


def test_an_unknown_work_is_wrong_usage() -> None:
    command = [sys.executable, "-m", "meshmq", "bench", "--work", "nope"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    assert "no work is called 'nope'" in done.stderr
