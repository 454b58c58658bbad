"""The newcomer's hour: real commands against a real node; each mistake ends in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys

import pytest

import meshmq
import meshmq.cli.app
from meshmq import cli
from meshmq.client.connecting import node_command


def start(*arguments, url=None, **options):
    environment = {k: v for k, v in os.environ.items() if k != "MESHMQ_URL"}
    if url:
        environment["MESHMQ_URL"] = url
    return subprocess.Popen(
        [sys.executable, "-m", "meshmq", *map(str, arguments)],
        stdin=options.get("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip


def run(*arguments, url=None, given=None):
    """Exit code, stdout and stderr of a command."""
    process = start(*arguments, url=url, stdin=subprocess.PIPE)
    out, said = process.communicate(given, timeout=50)
    return process.returncode, out.decode(), said.decode()


def the_sentence(said):
    """The only line on stderr."""
    assert said.startswith("meshmq: "), said
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    return said.removeprefix("meshmq: ").rstrip()


def test_two_terminals(node):
    reader = start("sub", "hello.>", "--count", 2, url=node.url)
    waiting = reader.stderr.readline().decode()
    assert waiting == "meshmq: waiting for 'hello.>': no topic matches yet\n"
    code, out, said = run("pub", "hello.world", "hi there", "--key", "k", url=node.url)
    assert (code, out, said) == (0, "published to hello.world at offset 0, synced\n", "")
    assert run("pub", "hello.you", "x", "--header", "a=b", url=node.url)[0] == 0
    out, said = reader.communicate(timeout=20)
    assert out.decode() == "hello.world #0 [k] hi there\nhello.you #0 x\n"
    assert (reader.returncode, said) == (0, b"")


def test_json_is_one_object_a_line(node):
    code, out, _ = run("pub", "a.b", "v", "--json", "--header", "h=1", url=node.url)
    assert code == 0
    assert json.loads(out) == {
        "topic": "a.b", "stream": json.loads(out)["stream"], "offset": 0,
        "durability": "synced", "route": "node", "duplicate": False,
    }  # fmt: skip
    for command in (
        ("sub", "a.>", "--from", "earliest", "--count", "1", "--json"),
        ("topic", "list", "--json"),
        ("topic", "show", "a.b", "--json"),
        ("topic", "create", "t.>", "--durability", "transient", "--json"),
        ("topic", "delete", "a.b", "--json"),
        ("status", "--json"),
        ("version", "--json"),
    ):
        code, out, said = run(*command, url=node.url)
        assert (code, said) == (0, ""), said
        assert out.count("\n") == 1
        assert isinstance(json.loads(out), dict)


def test_an_error_is_an_object_too_with_json(node):
    code, out, said = run("topic", "show", "nope", "--json", url=node.url)
    assert code == 1
    assert json.loads(out)["error"] == "topic-not-found"
    assert "made by the first publish" in the_sentence(said)


MISTAKES = [
    (("pub", "a b", "x"), 2, "token 'a b' is not valid"),
    (("pub", "a.>", "x"), 2, "wildcards are for subscribing"),
    (("sub", "a..b"), 2, "token '' is not valid"),
    (("pub", "a", "x", "--header", "novalue"), 2, "is not NAME=VALUE"),
    (("pub", "a"), 2, "give either a VALUE or --lines FILE"),
    (("pub", "a", "--lines", "/nonexistent/file"), 1, "cannot read /nonexistent/file"),
    (("pub", "lit.{0}", "x"), 2, "columns like {0} need --lines"),
    (("pub", "a", "x", "--key", "k{0}"), 2, "columns like {0} need --lines"),
    (("sub", "a", "--from", "yesterday"), 2, "'yesterday' is none of: new, earliest"),
    (("sub", "a.>", "--from", "3"), 2, "an offset belongs to one topic"),
    (("sub", "a", "--from", "99"), 1, "offset 99 of topic 'a' does not exist: the next is 0"),
    (("topic", "show", "nope"), 1, "there is no topic 'nope'"),
    (("topic", "delete", "nope"), 1, "there is no topic or policy named 'nope'"),
    (("topic", "create", "a", "--retention", "long"), 1, "write it like 7d, 12h, 30m or 90s"),
    (("topic", "create", "$SYS.a"), 1, "begin with '$'"),
    (("pub", "a", "x", "--url", "nonsense"), 1, "write it like tcp://127.0.0.1:5757"),
    (("pub", "a", "x", "--url", "tcp://192.0.2.1:5757"), 1, "off this host"),
    (("pub", "a", "x", "--mesh", "other"), 1, "the node belongs to mesh 'local'"),
    (("nonsense",), 2, "No such command 'nonsense'"),
    (("pub", "a", "x", "--nonsense"), 2, "No such option"),
]


@pytest.mark.parametrize(("command", "code", "sentence"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_ends_in_one_sentence(node, command, code, sentence):
    found, out, said = run(*command, url=node.url)
    assert (found, out) == (code, "")
    assert sentence in the_sentence(said)


def test_no_node_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, out, said = run("pub", "a", "x", "--timeout", "0.5", url=url)
    assert (code, out) == (1, "")
    assert f"start one with `meshmq node --listen {url}`" in the_sentence(said)


def test_what_starts_a_node_is_said_as_it_is_needed():
    assert node_command("tcp://127.0.0.1:5757") == "meshmq node"
    assert node_command("tcp://example.org:5757") == "meshmq node"
    for url in ("tcp://127.0.0.1:5758", "tcp://localhost:5757", "tcp://[::1]:1", "ipc:///a"):
        assert node_command(url) == f"meshmq node --listen {url}"


def test_ctrl_c_while_the_commands_are_put_together_is_no_traceback(monkeypatch):
    def interrupted(first):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.app, "command", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 130


def test_a_node_that_cannot_start_says_what_to_do(node, process_node, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "bad.toml").write_text("][")
    (tmp_path / "key.toml").write_text("nme = 'x'")
    (tmp_path / "type.toml").write_text("listen = 3")
    (tmp_path / "nul.toml").write_text(r'data = "/tmp/a\u0000b"')
    (tmp_path / "home.toml").write_text("data = '~nobody-of-that-name/data'")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    fresh = ("--data", tmp_path / "fresh")
    busy = ("--listen", "tcp://127.0.0.1:0", "--data", process_node.data)
    for arguments, sentence in [
        (("--listen", node.url, *fresh), "is in use: another node runs there"),
        (busy, "is in use by another node (process"),
        (("--listen", "tcp://127.0.0.1:0", "--data", tmp_path / "file"), "cannot be used"),
        (("--listen", "tcp://0.0.0.0:0", *fresh), "refusing to bind"),
        (("--config", tmp_path / "none.toml"), "cannot read"),
        (("--config", tmp_path / "bad.toml"), "bad.toml:1: is not valid TOML"),
        (("--config", tmp_path / "key.toml"), ":1: unknown key 'nme', did you mean 'name'?"),
        (("--config", tmp_path / "type.toml"), "type.toml:1: 'listen' must be a string"),
        (("--config", tmp_path / "nul.toml"), "nul.toml:1: 'data' has a NUL in it"),
        (("--config", tmp_path / "home.toml"), "names a home that there is not"),
        (("--data", tmp_path / "mine", "--listen", "tcp://127.0.0.1:0"), "('thesis.txt', for one)"),
    ]:
        code, out, said = run("node", *arguments)
        assert (code, out) == (1, ""), (arguments, out, said)
        assert sentence in the_sentence(said)


def test_a_line_that_is_too_large_is_named_and_what_went_before_is_stored(node):
    lines = b"one\ntwo\n" + b"x" * (1 << 21) + b"\n"
    code, _, said = run("pub", "a", "--lines", "-", url=node.url, given=lines)
    assert code == 1
    counts, sentence = said.splitlines()
    assert "published 2, confirmed 2" in counts
    assert sentence.startswith("meshmq: line 3 has")
    assert "the limit of one message is 1048576 bytes" in sentence


def test_lines_go_to_topics_and_keys_from_their_columns_byte_for_byte(node):
    lines = [b"%d,k%d,t%d,\xff \x00 ok\r" % (i, i % 7, i % 5) for i in range(20_000)]
    code, out, said = run(
        "pub", "col.{2}", "--lines", "-", "--key", "{1}", url=node.url, given=b"\n".join(lines)
    )
    assert (code, out) == (0, "")
    assert "published 20,000, confirmed 20,000" in said
    with (
        meshmq.connect(node.url) as mesh,
        mesh.subscribe("col.>", start="earliest") as sub,
    ):
        messages = []
        while len(messages) < 20_000:
            messages += sub.fetch(5000, timeout=20)
    for i in range(5):
        own = [m for m in messages if m.topic == f"col.t{i}"]
        assert [bytes(m.value) for m in own] == lines[i::5]
        assert all(m.key == b"k%d" % (n % 7) for n, m in zip(range(i, 20_000, 5), own, strict=True))


def test_a_bad_line_is_named(node):
    code, _, said = run("pub", "a.{1}", "--lines", "-", url=node.url, given=b"x,y\nx,z\nbad\nx,y\n")
    assert code == 1
    assert said.splitlines()[-1] == (
        "meshmq: line 3 has 1 fields, too few for {1} (fields are counted from 0)"
    )
    code, out, _ = run("topic", "list", "--json", url=node.url)
    assert sorted(json.loads(row)["topic"] for row in out.splitlines()) == ["a.y", "a.z"]


@pytest.mark.slow
def test_lines_of_any_number_need_bounded_memory(node):
    probe = (
        "import resource, sys\n"
        "from meshmq.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )

    def peak(count):
        process = subprocess.Popen(
            [sys.executable, "-c", probe, "pub", "big", "--lines", "-", "--url", node.url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        line = b"v" * 199 + b"\n"
        for _ in range(count // 1000):
            process.stdin.write(line * 1000)
        out, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        return int(out)

    # 60 and 240 MB of lines.
    assert peak(1_200_000) < peak(300_000) + 40


def test_ctrl_c_ends_what_waits_in_one_sentence(node):
    run("pub", "hello.a", "x", url=node.url)
    reader = start("sub", "hello.>", "--from", "earliest", url=node.url)
    assert reader.stdout.readline() == b"hello.a #0 x\n"
    run("pub", "hello.a", "y", url=node.url)
    assert reader.stdout.readline() == b"hello.a #1 y\n"  # so the first one is counted by now
    reader.send_signal(signal.SIGINT)
    _, said = reader.communicate(timeout=20)
    assert reader.returncode == 130
    assert re.match(
        r"interrupted after (1 message|2 messages); go on with --from p1-",
        the_sentence(said.decode()),
    )

    writer = start("pub", "hello.b", "--lines", "-", url=node.url, stdin=subprocess.PIPE)
    writer.stdin.write(b"line\n")
    writer.stdin.flush()
    with meshmq.connect(node.url) as mesh, mesh.subscribe("hello.b", start="earliest") as sub:
        assert sub.fetch(1, timeout=20)
    writer.send_signal(signal.SIGINT)
    _, said = writer.communicate(timeout=20)
    assert writer.returncode == 130
    assert "interrupted: published 1, confirmed" in the_sentence(said.decode())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_cleanly(process_node, number):
    with meshmq.connect(process_node.url) as mesh:
        mesh.publish("a", b"v").wait(10)
    process_node.process.send_signal(number)
    _, said = process_node.process.communicate(timeout=20)
    assert process_node.process.returncode == 0
    assert "stopped" in the_sentence(said)
    process_node.start()
    with meshmq.connect(process_node.url) as mesh, mesh.subscribe("a", start="earliest") as sub:
        assert [m.value for m in sub.fetch(1, timeout=10)] == [b"v"]


def test_a_reader_that_is_closed_ends_quietly(node):
    with meshmq.connect(node.url) as mesh:
        mesh.publish_many("a", [b"%d" % i for i in range(50_000)]).wait(20)
    reader = start("sub", "a", "--from", "earliest", url=node.url)
    assert reader.stdout.readline() == b"a #0 0\n"
    reader.stdout.close()
    with reader.stderr:
        assert (reader.wait(20), reader.stderr.read()) == (141, b"")


def test_topic_list_shows_both_kinds(node):
    run("pub", "d.a", "x", url=node.url)
    run("topic", "create", "t.a", "--durability", "transient", url=node.url)
    run("topic", "create", "d.>", "--retention", "7d", url=node.url)
    _, out, _ = run("topic", "list", url=node.url)
    heads, *rows = out.splitlines()
    assert heads.split()[:3] == ["topic", "durability", "records"]
    assert rows[0].split() == ["d.a", "durable", "1", "0", "1", "7", "days,", "0:00:00", "any"]
    assert rows[1].split() == ["t.a", "transient", "-", "-", "-", "ever", "any"]
    assert run("topic", "delete", "d.>", url=node.url)[0] == 0


HELPS = [[], ["node"], ["pub"], ["sub"], ["topic"], ["topic", "create"], ["topic", "list"],
         ["topic", "show"], ["topic", "delete"], ["status"], ["demo"], ["bench"],
         ["version"]]  # fmt: skip


@pytest.mark.parametrize("command", HELPS, ids=lambda c: " ".join(c) or "meshmq")
def test_help_is_there(command):
    code, out, said = run(*command, "--help")
    assert (code, said) == (0, "")
    assert out.lstrip().startswith("Usage: meshmq")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from meshmq.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    print([m for m in ('zmq', 'capnp', 'diskcache', 'asyncio') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


# -- the log of a node that is not running --------------------------------------------------------


def test_verify_check_and_repair(process_node):
    """A flipped bit is found, told with topic and offsets, and a log that refuses is repaired."""
    data = process_node.data
    with meshmq.connect(process_node.url) as mesh:
        for i in range(5):
            mesh.publish("orders", b"%d" % i + bytes(40_000)).wait(20)
    code, _, said = run("log", "verify", "--data", data)
    assert code == 1
    assert "in use" in the_sentence(said)
    process_node.stop()
    assert "all is well" in run("log", "verify", "--data", data)[1]
    assert "all is well" in run("node", "--check", "--data", data)[1]
    assert "nothing to repair" in run("log", "repair", "--data", data)[1]
    values = next(data.rglob("values.bin"))
    content = bytearray(values.read_bytes())
    content[100_000] ^= 1
    values.write_bytes(content)
    code, found, _ = run("log", "verify", "--data", data)
    assert code == 65
    assert "offsets 2 to 2 of topic 'orders'" in found
    told = json.loads(run("log", "verify", "--data", data, "--json")[1])
    assert (told["ok"], told["problems"][0]["first_offset"]) == (False, 2)
    assert run("node", "--check", "--data", data)[0] == 65
    # Nothing mends it, and both commands say so: nobody is sent from one to the other.
    code, _, said = run("log", "verify", "--data", data)
    assert code == 65
    assert "1 problem found; the log opens, there is nothing to repair" in the_sentence(said)
    code, found, _ = run("log", "repair", "--data", data)
    assert code == 0
    assert "calls damaged are lost: only a copy of the directory made before" in found
    connection = sqlite3.connect(next(data.rglob("cache.db")))
    connection.execute("UPDATE Cache SET value = zeroblob(99) WHERE key = 2")
    connection.commit()
    connection.close()
    code, _, said = run("node", "--data", data, "--listen", "tcp://127.0.0.1:0")
    assert code == 65
    assert "meshmq log repair" in the_sentence(said)
    assert "commits 2 to 2 are damaged" in run("log", "repair", "--data", data)[1]
    process_node.start()
    with meshmq.connect(process_node.url) as mesh:
        with mesh.subscribe("orders", start="earliest") as sub:
            got = [sub.fetch(1, timeout=20)[0] for _ in range(3)]
            assert [m.offset for m in got] == [0, 3, 4]
            assert (sub.missed, sub.damaged) == (2, 1)
        (lost,) = mesh.admin.status()["damage"]
        assert (lost["topic"], lost["first_offset"], lost["next_offset"]) == ("orders", 2, 3)


def test_a_reader_is_told_of_damage_as_such(process_node):
    with meshmq.connect(process_node.url) as mesh:
        mesh.publish_many("orders", [b"%d" % i + bytes(30_000) for i in range(6)]).wait(20)
    process_node.stop()
    values = next(process_node.data.rglob("values.bin"))
    content = bytearray(values.read_bytes())
    content[100] ^= 1
    values.write_bytes(content)
    process_node.start()
    sub = ("sub", "orders", "--from", "earliest", "--format", "raw")
    code, out, said = run(*sub, "--count", 1, url=process_node.url)
    with meshmq.connect(process_node.url) as mesh, mesh.subscribe("orders", start=0) as reader:
        assert reader.fetch(1, timeout=20)
        lost = reader.damaged
        assert 0 < lost == reader.missed
    assert (code, int(out.split("\0")[0])) == (0, lost)
    told = (
        "message is damaged on disk and was"
        if lost == 1
        else "messages are damaged on disk and were"
    )
    assert the_sentence(said) == f"{lost} {told} left out: see `meshmq log verify`"


def test_log_commands_say_where_there_is_nothing(tmp_path):
    code, _, said = run("log", "verify", "--data", tmp_path)
    assert code == 1
    assert "holds no log" in the_sentence(said)
