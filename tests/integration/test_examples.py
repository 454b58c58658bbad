"""The examples and the programs of a page run as they are, and do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NEED_NONE = ("chat.py", "three_sites_ring.py")  # and use none that is there


def run(name, url, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        env={**os.environ, "MESHMQ_URL": url}, capture_output=True, text=True, timeout=50,
    )  # fmt: skip


def lines(name, url, *arguments):
    done = run(name, url, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_hello_pub_sub(node):
    published, received = lines("hello_pub_sub.py", node.url)
    assert published == "published at offset 0, synced"
    assert received == "received hello.world: hi there, headers {'trace': '1'}"


def test_durable_replay_also_the_second_time(node):
    for stored in (4, 8):
        assert lines("durable_replay.py", node.url) == [
            "from the first of this run: one two three four",
            "from the third: three four",
            "since a time: four",
            f"stored in all: {stored}",
        ]


def test_resume_from_position_repeats_and_skips_nothing(node, tmp_path):
    seen = []
    for _ in range(4):
        seen += lines("resume_from_position.py", node.url, tmp_path / "position")
    assert len(seen) == 20
    for name in ("left", "right"):
        own = [line.split()[1:] for line in seen if line.startswith(f"examples.resume.{name} ")]
        assert own == [[f"#{i}", "abc"[i % 3]] for i in range(len(own))]
        assert len(own) >= 8


def test_csv_pipeline(node):
    first, *means = lines("csv_pipeline.py", node.url)
    assert first == "published 2000 rows"
    assert len(means) > 5
    assert all("mean departure delay" in line for line in means)


def test_worker_pool_also_the_second_time(node):
    for count in (100, 30):
        assert lines("worker_pool.py", node.url, count) == [
            f"made {count} thumbnails",
            "dead: notes.txt after 3 attempts (ValueError: notes.txt is no picture)",
        ]


def test_ordered_by_key_also_the_second_time(node):
    for _ in range(2):
        first, order, dead = lines("ordered_by_key.py", node.url)
        assert first.endswith("aircraft by 6 workers")
        assert order == "each aircraft's in order: yes"
        assert dead == "dead letters: 20, each tried 3 times"


def test_transaction_also_the_second_time(node):
    for _ in range(2):
        *crashes, counts, each = lines("transaction.py", node.url)
        assert len(crashes) == 3
        assert counts == "10 orders, 3 crashes, 10 invoices"
        assert each == "each order has one: yes"


def test_calculator_service_also_the_second_time_and_without_a_node(node):
    for url in (node.url, node.url, ""):
        assert lines("calculator_service.py", url) == [
            "12 + 30: 42",
            "7 / 2: 3.5",
            "1 / 0: infinite, or so",
            "two and two: ask like this: 7 / 2 (not-understood)",
        ]


def test_scatter_gather_also_the_second_time(node):
    for _ in range(2):
        assert lines("scatter_gather.py", node.url) == [
            "north: 17",
            "south: 15",
            "the best in time: south, 15",
            "too late: west",
        ]


@pytest.mark.slow
def test_three_sites_ring_needs_no_node():
    *orders, same, without, back = lines("three_sites_ring.py", "")
    assert orders == [
        f"{site} #{i}: {site} {i + 1}" for site in ("asia", "eu", "us") for i in (0, 1)
    ]
    assert same == "the same at all three: yes"
    assert without == "without eu, asia has of us: us 3"
    assert back == "eu is back, and has: 7"


def test_two_sites_as_their_page_says(tmp_path):
    """Its settings and its commands, on other ports."""
    folder, ports = EXAMPLES / "two_sites", {}
    for port in re.findall(
        r"127\.0\.0\.1:(\d+)", (folder / "eu.toml").read_text() + "127.0.0.1:5767"
    ):
        with socket.create_server(("127.0.0.1", 0)) as unused:
            ports[port] = str(unused.getsockname()[1])

    def moved(text):
        return re.sub(r"(127\.0\.0\.1:)(\d+)", lambda found: found[1] + ports[found[2]], text)

    for name in ("eu.toml", "us.toml"):
        (tmp_path / name).write_text(moved((folder / name).read_text()))
    page = moved((folder / "README.md").read_text()).replace("examples/two_sites/", "")
    first, second = [
        [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    ]
    command = [sys.executable, "-m", "meshmq"]
    nodes = [
        subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for words in first
    ]
    try:
        for node in nodes:
            assert " ready at " in node.stdout.readline()
        done = [
            subprocess.run([*command, *words], capture_output=True, text=True, timeout=30)
            for words in second
        ]
    finally:
        for node in nodes:
            node.terminate()
            node.communicate(timeout=20)
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * len(second)
    *_, at_eu, at_us, sites, links = done
    for one in (at_eu, at_us):
        found = [json.loads(line) for line in one.stdout.splitlines()]
        assert sorted((m["site"], m["offset"]) for m in found) == [("eu", 0), ("us", 0)]
    assert "linked" in links.stdout
    assert "linked" in sites.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    sorted({*EXAMPLES.glob("*.py")} - {EXAMPLES / name for name in NEED_NONE}),
    ids=lambda p: p.name,
)
def test_without_a_node_it_says_what_to_do(path, tmp_path):
    done = run(path.name, "ipc://" + str(tmp_path / "nobody"))
    assert done.returncode == 1
    assert done.stderr.startswith("no node answers at ")
    assert done.stderr.count("\n") == 1


def test_every_example_is_in_the_list():
    listed = (EXAMPLES / "README.md").read_text()
    assert all(path.name in listed for path in EXAMPLES.glob("*.py"))


# -- pages ----------------------------------------------------------------------------------------

PAGES = [EXAMPLES.parent / "docs" / name for name in ("asyncio.md", "routes.md")]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(
        r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", page.read_text(), re.M | re.S
    )
]
TESTS = [code for code, _ in BLOCKS if "def test_" in code]
PROGRAMS = [(code, out) for code, out in BLOCKS if "def test_" not in code]


@pytest.mark.parametrize(("code", "expected"), PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_page_prints_what_the_page_says(node, code, expected):
    assert expected, "a program of the page shows what it prints"
    process = subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", code],
        env={**os.environ, "MESHMQ_URL": node.url},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    printed = ""
    if "mesh.run()" in code:  # it works until it is told to stop
        printed = "".join(process.stdout.readline() for _ in expected.splitlines())
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
    rest, said = process.communicate(timeout=50)
    assert (process.returncode, said) == (0, "")
    assert sorted((printed + rest).splitlines()) == sorted(expected.splitlines())


def test_a_test_of_the_page_passes(tmp_path):
    (code,) = TESTS
    (tmp_path / "test_page.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_chat_needs_no_node():
    everything = "hello from ann, hello from bob, hello from eve"
    assert lines("chat.py", "") == [
        f"{name} heard: {everything}; missed 0" for name in ("ann", "bob", "eve")
    ]


def test_chat_between_processes():
    def begin(*arguments):
        return subprocess.Popen(
            [sys.executable, EXAMPLES / "chat.py", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    with begin("ann", "--listen", "tcp://127.0.0.1:*") as ann:
        address = ann.stdout.readline().split()[-1]
        with begin("bob", "--peer", address) as bob:
            bob.stdout.readline()
            bob.stdin.write("hi\n")
            bob.stdin.flush()
            assert ann.stdout.readline() == "bob: hi\n"
            bob.stdin.close()
        ann.stdin.close()
    assert (ann.returncode, bob.returncode) == (0, 0)
