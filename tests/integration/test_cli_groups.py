"""Groups, queues and dead letters by the command line, against a real node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import meshmq
from meshmq.cli.dlq import parse_offsets
from meshmq.cli.group_options import span


def start(*arguments, url, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "meshmq", *map(str, arguments)],
        stdin=options.get("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MESHMQ_URL": url},
    )  # fmt: skip


def run(*arguments, url, given=None):
    """Exit code, stdout and stderr of a command."""
    process = start(*arguments, url=url, stdin=subprocess.PIPE)
    out, said = process.communicate(given, timeout=50)
    assert "Traceback" not in said
    return process.returncode, out, said


def done(*arguments, url, given=None):
    """Stdout of a command that ends well and says nothing else."""
    code, out, said = run(*arguments, url=url, given=given)
    assert (code, said) == (0, ""), (out, said)
    return out


def objects(*arguments, url):
    return [json.loads(line) for line in done(*arguments, "--json", url=url).splitlines()]


def table(text):
    """Rows of a table as dicts; its cells have no two spaces in a row."""
    heads, *rows = [[c.strip() for c in line.split("  ") if c.strip()] for line in
                    text.splitlines()]  # fmt: skip
    return [dict(zip(heads, row, strict=True)) for row in rows]


def wait_until(check, seconds=20):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.05)


def test_a_group_shares_the_records_and_goes_on_where_it_was(node):
    with meshmq.connect(node.url) as mesh:
        mesh.publish_many("a.b", [b"%d" % i for i in range(10)], keys=[b"k"] * 10).wait(10)
    first = done("consume", "a.>", "--group", "g", "--count", 4, url=node.url)
    assert first == "".join(f"a.b #{i} [k] {i}\n" for i in range(4))
    rest = objects("consume", "a.>", "--group", "g", "--count", 6, url=node.url)
    assert sorted(r["offset"] for r in rest) == list(range(4, 10))
    assert rest[0].keys() == {
        "topic", "offset", "key", "value", "headers", "timestamp", "position", "attempt",
        "maybe_duplicate",
    }  # fmt: skip
    assert {r["attempt"] for r in rest} == {1}
    (row,) = table(done("group", "list", url=node.url))
    assert (row["group"], row["pattern"], row["state"]) == ("g", "a.>", "running")
    assert row["ready"] == row["in flight"] == row["members"] == "0"


def test_ctrl_c_returns_what_is_not_shown_and_sigterm_is_no_error(node):
    with meshmq.connect(node.url) as mesh:
        mesh.publish("a", b"x").wait(10)
        for number, code, word in (
            (signal.SIGINT, 130, "interrupted after 1 record"),
            (signal.SIGTERM, 0, "stopped after 1 record (SIGTERM)"),
        ):
            reader = start("consume", "a", "--group", f"g{number}", url=node.url)
            assert reader.stdout.readline() == "a #0 x\n"
            reader.send_signal(number)
            _, said = reader.communicate(timeout=20)
            assert (reader.returncode, said) == (code, f"meshmq: {word}\n")
            shown = mesh.admin.groups.show(f"g{number}")
            assert (shown["acked"], shown["records"], shown["members"]) == (1, 0, [])


def test_group_steering(node):
    with meshmq.connect(node.url) as mesh:
        mesh.publish_many("a", [b"%d" % i for i in range(5)]).wait(10)
    assert "created group g" in done("group", "create", "g", "a", "--order", "key", url=node.url)
    assert "its settings stay" in done(
        "group", "create", "g", "a", "--order", "key", "--rate", 7, url=node.url
    )
    take = ("consume", "a", "--group", "g", "--order", "key", "--count")
    assert done(*take, 5, url=node.url).count("\n") == 5
    assert "from 3" in done("group", "seek", "g", "3", url=node.url)
    assert done(*take, 2, url=node.url) == "a #3 3\na #4 4\n"
    assert "earliest" in done("group", "seek", "g", "earliest", url=node.url)
    done("group", "pause", "g", url=node.url)
    (shown,) = objects("group", "show", "g", url=node.url)
    assert (shown["state"], shown["ready"]) == ("paused", 5)
    done("group", "resume", "g", url=node.url)
    assert done(*take, 1, url=node.url) == "a #0 0\n"
    said = done("group", "set", "g", "--max-deliveries", 2, "--backoff", "1500ms", "--rate", 100,
                url=node.url)  # fmt: skip
    assert "max deliveries: 2" in said
    assert "1.5s" in said
    settings = objects("group", "show", "g", url=node.url)[0]["settings"]
    assert (settings["max_deliveries"], settings["backoff_ns"], settings["rate"]) == (
        2, 1_500_000_000, 100,
    )  # fmt: skip
    done("group", "delete", "g", url=node.url)
    assert done("group", "list", url=node.url) == "no groups\n"


def test_jobs_are_put_one_by_one_and_from_lines(node):
    (one,) = objects("queue", "put", "jobs", "v", "--key", "k", "--header", "a=b", url=node.url)
    assert one["job"].startswith("j1-")
    assert (one["durability"], one["duplicate"]) == ("synced", False)
    code, _, said = run("queue", "put", "jobs", "--lines", "-", "--key", "{1}", url=node.url,
                        given="a,x\nb,y\n")  # fmt: skip
    assert code == 0
    assert "put 2, confirmed 2" in said
    got = objects("queue", "work", "jobs", "--count", 3, url=node.url)
    assert [(j["value"], j["key"]) for j in got] == [("v", "k"), ("a,x", "x"), ("b,y", "y")]
    assert got[0]["headers"] == {"a": "b"}
    assert got[0]["job"] == one["job"]


def test_dedup_ids_priorities_and_times(node):
    put = ("queue", "put", "jobs")
    assert "synced" in done(*put, "one", "--id", "a", url=node.url)
    assert "nothing was stored again" in done(*put, "two", "--id", "a", url=node.url)
    run(*put, "--lines", "-", "--id", "{0}", url=node.url, given="a,3\nb,4\nb,5\n")
    lines = (*put, "--lines", "-", "--id", "{0}")
    _, _, said = run(*lines, url=node.url, given="b,4\n")
    assert "put 1, stored 0, 1 were there already, in " in said
    told = json.loads(done(*lines, "--json", url=node.url, given="a\n"))
    assert (told["put"], told["confirmed"], told["stored"], told["duplicates"]) == (1, 1, 0, 1)
    done(*put, "urgent", "--priority", 9, url=node.url)
    done(*put, "never", "--delay", "1h", url=node.url)
    got = objects("queue", "work", "jobs", "--count", 3, url=node.url)
    assert [j["value"] for j in got] == ["urgent", "one", "b,4"]


def test_times(node):
    put = ("queue", "put", "jobs")
    ids = [objects(*put, v, "--delay", "1h", url=node.url)[0]["job"] for v in ("a", "b", "c")]
    (row,) = table(done("queue", "list", url=node.url))
    assert (row["delayed"], row["ready"]) == ("3", "0")
    assert "cancelled" in done("queue", "cancel", "jobs", ids[0], url=node.url)
    done("queue", "reschedule", "jobs", ids[1], "--delay", "0", url=node.url)
    past = ("--at", "2020-01-01T00:00:00Z")
    for command in (("reschedule", "jobs", ids[2]), ("put", "jobs", "d")):
        code, _, said = run("queue", *command, *past, url=node.url)
        assert code == 0
        assert said.startswith("meshmq: --at 2020-01-01T0"), said
        assert said.endswith(" is past: due at once\n")
    out = done("queue", "work", "jobs", "--count", 3, "--format", "raw", url=node.url)
    assert sorted(out.split()) == ["b", "c", "d"]
    done(*put, "soon", "--delay", "300ms", url=node.url)
    assert "soon" in done("queue", "work", "jobs", "--count", 1, url=node.url)
    code, _, said = run("queue", "cancel", "jobs", ids[0], url=node.url)
    assert code == 1
    assert "does not wait" in said


def test_a_worker_of_a_queue_that_was_not_there_says_so(node):
    worker = start("queue", "work", "thumbz", "--count", 1, url=node.url)
    assert worker.stderr.readline() == (
        "meshmq: made queue 'thumbz', it was not there: waiting for jobs\n"
    )
    done("queue", "put", "thumbz", "x", url=node.url)
    out, said = worker.communicate(timeout=20)
    assert (worker.returncode, said) == (0, "")
    assert "x" in out


def test_queue_steering(node):
    done("queue", "create", "q", "--max-records", 2, url=node.url)
    for _ in range(2):
        done("queue", "put", "q", "v", url=node.url)
    code, _, said = run("queue", "put", "q", "v", url=node.url)
    assert code == 1
    assert "is full: it holds at most 2 jobs" in said
    done("queue", "set", "q", "--max-records", 0, url=node.url)
    done("queue", "pause", "q", url=node.url)
    done("queue", "put", "q", "v", url=node.url)
    assert "state:" in done("queue", "show", "q", url=node.url)
    assert objects("queue", "show", "q", url=node.url)[0]["ready"] == 3
    done("queue", "resume", "q", url=node.url)
    assert done("queue", "purge", "q", url=node.url) == "purged 3 jobs of queue q\n"
    assert "queue  order" in done("status", url=node.url)
    done("queue", "delete", "q", url=node.url)
    assert done("queue", "list", url=node.url) == "no queues\n"


def test_jobs_of_a_queue_ordered_by_key(node):
    done("queue", "create", "q", "--order", "key", url=node.url)
    done("queue", "put", "q", "v", "--key", "k", url=node.url)
    assert done("queue", "work", "q", "--count", 1, url=node.url) == "q [k] v\n"


def test_a_command_for_each_job(node, tmp_path):
    """Exit code 0 acks; anything else nacks, and the end of stderr is in the dead letter."""
    done("queue", "create", "jobs", "--max-deliveries", 2, "--backoff", "50ms", url=node.url)
    for value in ("good", "bad"):
        done("queue", "put", "jobs", value, "--key", f"k-{value}", url=node.url)
    script = tmp_path / "job.sh"
    script.write_text(
        'read -r value\n'
        'echo "$MESHMQ_QUEUE $MESHMQ_KEY $MESHMQ_ATTEMPT $value"\n'
        '[ "$value" = good ] && exit 0\n'
        'head -c 3000 /dev/zero | tr "\\0" x >&2; echo " the very end" >&2\n'
        "exit 7\n"
    )  # fmt: skip
    code, out, said = run("queue", "work", "jobs", "--exec", f"sh {script}", "--count", 3,
                          url=node.url)  # fmt: skip
    assert code == 0
    assert sorted(out.splitlines()) == [
        "jobs k-bad 1 bad", "jobs k-bad 2 bad", "jobs k-good 1 good",
    ]  # fmt: skip
    assert "attempt 2: exit code 7" in said
    assert said.endswith("meshmq: 1 job done, 2 failed\n")
    (dead,) = objects("dlq", "list", "jobs", url=node.url)
    assert (dead["value"], dead["key"], dead["attempts"]) == ("bad", "k-bad", 2)
    assert dead["error"].startswith("exit code 7: xxx")
    assert dead["error"].endswith("x the very end")
    assert len(dead["error"].encode()) <= 512
    (row,) = table(done("dlq", "list", "jobs", url=node.url))
    assert (row["number"], row["reason"], row["from"]) == ("0", "max-deliveries", "jobs")
    assert "put back 1 dead letter" in done("dlq", "replay", "jobs", url=node.url)
    code, out, said = run("queue", "work", "jobs", "--exec", "cat", "--count", 1, url=node.url)
    assert (code, out, said) == (0, "bad", "meshmq: 1 job done, 0 failed\n")
    assert "no dead letters" in done("dlq", "list", "jobs", url=node.url)


def test_a_command_may_take_longer_than_the_ack_timeout_and_any_value(node):
    value = os.urandom(500_000).hex().encode()
    with meshmq.connect(node.url) as mesh:
        mesh.enqueue("jobs", value).wait(10)
    code, out, said = run(
        "queue", "work", "jobs", "--exec", "sleep 1.5; wc -c", "--count", 1, "--ack-timeout", "0.3",
        url=node.url,
    )  # fmt: skip
    assert (code, out.strip(), said) == (0, "1000000", "meshmq: 1 job done, 0 failed\n")


def test_a_command_that_takes_too_long_has_failed(node):
    with meshmq.connect(node.url) as mesh:
        mesh.enqueue("jobs", b"v").wait(10)
    (told,) = objects("queue", "work", "jobs", "--exec", "sleep 50", "--max-time", "200ms",
                      "--count", 1, url=node.url)  # fmt: skip
    assert (told["settled"], told["reason"]) == ("nacked", "took too long")
    assert told["exit_code"] == -signal.SIGTERM


def test_commands_run_at_a_time(node, tmp_path):
    """Each waits for the three others."""
    met = tmp_path / "met"
    met.mkdir()
    command = f"touch {met}/$$; while [ $(ls {met} | wc -l) -lt 4 ]; do sleep 0.05; done"
    with meshmq.connect(node.url) as mesh:
        for i in range(4):
            mesh.enqueue("jobs", b"%d" % i)
        mesh.flush(10)
    code, _, said = run("queue", "work", "jobs", "--exec", command, "--concurrency", 4,
                        "--count", 4, url=node.url)  # fmt: skip
    assert (code, said) == (0, "meshmq: 4 jobs done, 0 failed\n")


def test_commands_for_one_key_run_one_after_the_other(node, tmp_path):
    done("queue", "create", "jobs", "--order", "key", "--backoff", "100ms", url=node.url)
    for i in range(8):
        done("queue", "put", "jobs", str(i), "--key", "ab"[i % 2], url=node.url)
    log = tmp_path / "log"
    script = tmp_path / "job.sh"
    script.write_text(
        'read -r value\n'
        f'echo "$MESHMQ_KEY begin $value" >> {log}; sleep 0.3\n'
        '[ "$value$MESHMQ_ATTEMPT" = 21 ] && result=failed || result=end\n'
        f'echo "$MESHMQ_KEY $result $value" >> {log}\n'
        '[ $result = end ]\n'
    )  # fmt: skip
    code, _, said = run("queue", "work", "jobs", "--exec", f"sh {script}", "--concurrency", 4,
                        "--count", 9, url=node.url)  # fmt: skip
    assert code == 0
    assert said.endswith("8 jobs done, 1 failed\n")
    lines = log.read_text().splitlines()
    for key, order in (("a", "0 2 2 4 6"), ("b", "1 3 5 7")):
        own = [line.split()[1:] for line in lines if line.startswith(key)]
        begins, ends = own[0::2], own[1::2]
        assert {word for word, _ in begins} == {"begin"}
        assert [v for _, v in begins] == [v for _, v in ends] == order.split()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_finishes_the_command_that_runs_and_returns_the_rest(node, tmp_path, number, code):
    begun = tmp_path / "begun"
    with meshmq.connect(node.url) as mesh:
        for i in range(3):
            mesh.enqueue("jobs", b"%d" % i)
        mesh.flush(10)
        worker = start("queue", "work", "jobs", "--prefetch", 3, "--exec",
                       f"touch {begun}; sleep 1; cat", url=node.url)  # fmt: skip
        wait_until(begun.exists)
        worker.send_signal(number)
        out, said = worker.communicate(timeout=20)
        assert (worker.returncode, out) == (code, "0")
        assert "after 1 job done, 0 failed" in said
        shown = mesh.admin.queues.show("jobs")
        assert (shown["acked"], shown["ready"], shown["in_flight"]) == (1, 2, 0)
        with mesh.work("jobs") as consumer:
            assert {job.attempt for job in consumer.fetch(2, timeout=10)} == {1}


def test_a_second_signal_ends_the_command_and_returns_its_job(node, tmp_path):
    begun = tmp_path / "begun"
    with meshmq.connect(node.url) as mesh:
        mesh.enqueue("jobs", b"v").wait(10)
        worker = start("queue", "work", "jobs", "--exec", f"touch {begun}; sleep 50", url=node.url)
        wait_until(begun.exists)
        worker.send_signal(signal.SIGINT)
        assert worker.stderr.readline() == "meshmq: taking jobs of 'jobs'; Ctrl-C ends it\n"
        assert worker.stderr.readline() == "meshmq: finishing 1 job, Ctrl-C again ends it\n"
        worker.send_signal(signal.SIGINT)
        _, said = worker.communicate(timeout=20)
        assert worker.returncode == 130
        assert said == "meshmq: interrupted after 0 jobs done, 0 failed, 1 returned\n"
        with mesh.work("jobs") as consumer:
            (job,) = consumer.fetch(1, timeout=10)
            assert job.attempt == 1


def test_a_command_outlives_a_kill_of_the_node(process_node, tmp_path):
    """Its ack counts afterwards; what fell due meanwhile comes at once."""
    begun, url = tmp_path / "begun", process_node.url
    done("queue", "put", "jobs", "late", "--delay", "1s", url=url)
    done("queue", "put", "jobs", "now", url=url)
    worker = start("queue", "work", "jobs", "--exec", f"touch {begun}; sleep 2; cat", "--count", 2,
                   url=url)  # fmt: skip
    wait_until(begun.exists)
    process_node.kill()
    time.sleep(1)
    process_node.start()
    out, said = worker.communicate(timeout=30)
    assert (worker.returncode, out) == (0, "nowlate")
    assert "connection lost" in said
    assert said.endswith("meshmq: 2 jobs done, 0 failed\n")
    (shown,) = objects("queue", "show", "jobs", url=url)
    assert (shown["records"], shown["in_flight"]) == (0, 0)


def test_the_job_of_a_killed_worker_goes_to_another(node, tmp_path):
    begun = tmp_path / "begun"
    done("queue", "put", "jobs", "v", url=node.url)
    worker = start("queue", "work", "jobs", "--exec", f"touch {begun}; sleep 8", url=node.url)
    wait_until(begun.exists)
    worker.kill()
    worker.communicate()
    (told,) = objects("queue", "work", "jobs", "--exec", "true", "--count", 1, url=node.url)
    assert (told["settled"], told["attempt"]) == ("acked", 2)


def test_workers_of_a_deleted_queue_end_in_one_sentence(node, tmp_path):
    done("queue", "create", "jobs", url=node.url)
    workers = [start("queue", "work", "jobs", *more, url=node.url)
               for more in ((), ("--exec", "cat", "--concurrency", 2))]  # fmt: skip
    wait_until(lambda: len(objects("queue", "show", "jobs", url=node.url)[0]["members"]) == 3)
    done("queue", "delete", "jobs", url=node.url)
    for worker in workers:
        out, said = worker.communicate(timeout=20)
        assert (worker.returncode, out) == (1, "")
        assert said.splitlines() == [
            "meshmq: taking jobs of 'jobs'; Ctrl-C ends it", "meshmq: 'jobs' was deleted",
        ]  # fmt: skip


def test_dead_letters_are_chosen_by_number(node):
    with meshmq.connect(node.url) as mesh, mesh.work("jobs") as consumer:
        for i in range(6):
            mesh.enqueue("jobs", b"%d" % i)
        mesh.flush(10)
        for _, job in zip(range(6), consumer, strict=False):
            job.reject(f"no {job.value.decode()}", wait=True, timeout=10)
        wait_until(lambda: mesh.admin.dlq.show("jobs")["records"] == 6)
    listed = objects("dlq", "list", "jobs", "--limit", 2, url=node.url)
    assert [d["number"] for d in listed] == [0, 1]
    assert "6 in all" in done("dlq", "list", "jobs", "--limit", 2, url=node.url)
    shown = objects("dlq", "show", "jobs", "--offsets", "5,1-2", url=node.url)
    assert [(d["number"], d["error"]) for d in shown] == [(1, "no 1"), (2, "no 2"), (5, "no 5")]
    assert "value:" in done("dlq", "show", "jobs", "--offsets", "3", url=node.url)
    assert "purged 2" in done("dlq", "purge", "jobs", "--offsets", "1-2", url=node.url)
    assert "put back 2" in done("dlq", "replay", "jobs", "--limit", 2, "--rate", 50, url=node.url)
    left = [d["number"] for d in objects("dlq", "list", "jobs", url=node.url)]
    assert left == [4, 5]
    got = objects("queue", "work", "jobs", "--count", 2, url=node.url)
    assert sorted(j["value"] for j in got) == ["0", "3"]
    assert "purged 2" in done("dlq", "purge", "jobs", url=node.url)
    assert "purged 0" in done("dlq", "purge", "jobs", url=node.url)


MISTAKES = [
    (("group", "show", "nope"), 1, "nope"),
    (("queue", "purge", "nope"), 1, "nope"),
    (("dlq", "list", "nope"), 1, "nope"),
    (("group", "delete", "jobs"), 1, "'jobs' is a queue: use `meshmq queue`"),
    (("queue", "delete", "g"), 1, "'g' is a group, not a queue"),
    (("consume", "b", "--group", "g", "--count", "1"), 1, "takes 'a.>', not 'b'"),
    (("consume", "a.>", "--group", "g", "--order", "key"), 1, "has order 'any', not 'key'"),
    (("consume", "a.>", "--group", "g", "--from", "3"), 2, "an offset belongs to one topic"),
    (("consume", "a.>", "--group", "g", "--from", "p1-x"), 2, "a position is for sub"),
    (("consume", "a.>", "--group", "g", "--ack-timeout", "long"), 2, "write it like 7d"),
    (("consume", "a.>", "--group", "g", "--ack-timeout", "0.01"), 1, "0.1 s to a day"),
    (("consume", "a.>"), 2, "Missing option"),
    (("group", "seek", "g", "3"), 1, "an offset belongs to one stream"),
    (("group", "seek", "g", "then"), 2, "'then' is none of: new, earliest"),
    (("group", "set", "g"), 2, "give a setting"),
    (("queue", "put", "jobs"), 2, "give either a VALUE or --lines FILE"),
    (("queue", "put", "jobs", "x", "--delay", "1s", "--at", "2030-01-01"), 2, "--delay or --at"),
    (("queue", "put", "jobs", "x", "--delay", "400d"), 1, "within 365 days"),
    (("queue", "put", "jobs", "x", "--at", "2999-01-01T00:00Z"), 1, "not 2999-01-01T00:00"),
    (("queue", "put", "jobs", "x", "--at", "then"), 2, "is not a time"),
    (("queue", "create", "q", "--dedup-window", "8d"), 1, "dedup window is at most 7d, not 8d"),
    (("queue", "create", "q", "--backoff", "400d"), 1, "backoff is at most 365d, not 400d"),
    (("queue", "put", "jobs", "x", "--priority", "10"), 2, "'--priority'"),
    (("queue", "put", "jobs", "--lines", "-", "--id", "same"), 2, "made of the line's fields"),
    (("queue", "put", "a b", "x"), 2, "not valid"),
    (("queue", "cancel", "jobs", "17"), 1, "'17' is not a job id"),
    (("queue", "reschedule", "jobs", "x"), 2, "either --delay or --at"),
    (("queue", "work", "jobs", "--concurrency", "2"), 2, "go with --exec"),
    (("dlq", "replay", "jobs", "--offsets", "9-2"), 2, "'9-2' is no range"),
    (("dlq", "replay", "jobs", "--offsets", "55"), 1, "nothing to replay at these offsets: see"),
    (("dlq", "purge", "jobs", "--offsets", "5-9"), 1, "nothing to purge at these offsets: see"),
    (("dlq", "list", "nope"), 1, "a queue by its first put or worker"),
    (("queue", "put", "jobs", "x", "--key", "{0}"), 2, "columns like {0} need --lines"),
    (("queue", "put", "jobs", "x", "--id", "a{12}"), 2, "columns like {0} need --lines"),
    (("queue", "put", "j{0}", "--lines", "-"), 2, "a queue is one for all"),
]


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    from meshmq.testing import LocalNode

    with LocalNode(tmp_path_factory.mktemp("steady")) as running:
        with running.connect() as mesh:
            mesh.admin.groups.create("g", "a.>")
            mesh.admin.queues.create("jobs")
        yield running


@pytest.mark.parametrize(("command", "code", "sentence"), MISTAKES, ids=lambda v: str(v)[:50])
def test_a_mistake_ends_in_one_sentence(steady, command, code, sentence):
    found, out, said = run(*command, url=steady.url)
    assert (found, out) == (code, "")
    assert said.startswith("meshmq: ")
    assert said.count("\n") == 1
    assert sentence in said


HELPS = [["consume"], ["queue"], ["queue", "put"], ["queue", "work"], ["group"], ["group", "seek"],
         ["dlq"], ["dlq", "replay"]]  # fmt: skip


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_is_there(command):
    out = done(*command, "--help", url="tcp://127.0.0.1:1")
    assert out.lstrip().startswith("Usage: meshmq")


def test_offsets_and_spans():
    assert parse_offsets("7,0-2") == [(0, 3), (7, 1)]
    assert parse_offsets(None) is None
    spans = [span(s) for s in (0, 0.25, 3.21, 59.96, 312, 7500, 273_600)]
    assert spans == ["", "250ms", "3.21s", "60s", "5m12s", "2h05m", "3d04h"]
