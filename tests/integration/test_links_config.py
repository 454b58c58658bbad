"""Links with other sites by configuration: at the start of a node, and while it runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading

import pytest

from meshmq.core.link_wish import LinkWish
from meshmq.core.site import Site
from meshmq.errors import ConfigError
from meshmq.shell.runner import NodeConfig, NodeRunner
from meshmq.shell.site import SiteConfig, SiteShell

HEAD = 'listen = "tcp://127.0.0.1:0"\nlisten_nodes = "tcp://127.0.0.1:0"\nmdns = false\n'
SITE = '[site]\nname = "eu"\n'
US = '[[link]]\nto = "us"\nendpoints = ["tcp://127.0.0.1:1"]\ntopics = ["a.>"]\n'
WISH = LinkWish("us", ("tcp://127.0.0.1:1",), ("a.>",))

NODE = """
import sys
from meshmq import cli
from meshmq.core.site import Site

def set_links(self, links, now_ns):
    print("links:", *[wish.to for wish in links], flush=True)

Site.set_links = set_links
sys.exit(cli.main(sys.argv[1:]))
"""


def check(path, *more):
    argv = [sys.executable, "-m", "meshmq", "node", "--check", "--config", path, *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_check_reads_the_links_and_tells_each_fault_in_a_line_of_its_own(tmp_path):
    path = tmp_path / "node.toml"
    data = f'data = "{tmp_path}/data"\n'
    path.write_text(data + HEAD + SITE + US)
    done = check(path)
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text(data + HEAD + SITE + US.replace("to =", "too =").replace(":1", ""))
    done = check(path)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert [re.match(rf"meshmq: {path}:(\d+): ", line)[1] for line in lines] == ["7", "8", "9"]
    assert "unknown key 'too' in [[link]], did you mean 'to'?" in lines[1]
    assert "not an address" in lines[2]


def test_a_node_takes_links_over_when_it_is_told_to_and_runs_on(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(HEAD + SITE + US)
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, "node", "--config", path, "--data", tmp_path / "data"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "links: us\n"
        assert " ready at " in process.stdout.readline()
        process.stdout.readline()
        path.write_text(HEAD + SITE + US + US.replace("us", "ap").replace(":1", ":2"))
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline() == f"meshmq: {path} read again: links to ap are new\n"
        assert process.stdout.readline() == "links: us ap\n"
        path.write_text("][")
        process.send_signal(signal.SIGHUP)
        assert "is not valid TOML" in process.stderr.readline()
        assert "goes on with the links that it had" in process.stderr.readline()
        path.write_text(HEAD.replace("false", "true") + SITE)
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline() == (
            f"meshmq: {path} read again: links to ap, us are gone; "
            "mdns changed, which needs a restart\n"
        )
        assert process.stdout.readline() == "links:\n"
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert re.fullmatch(r"meshmq: node \S+ stopped \(SIGTERM\)\n", said)


def config(tmp_path, site):
    return NodeConfig("one", tmp_path / "data", listen="tcp://127.0.0.1:0", site=site)


def test_links_reach_the_core_at_the_start_and_from_other_threads(tmp_path, monkeypatch):
    taken, is_taken = [], threading.Event()

    def set_links(site, links, now_ns):
        taken.append((threading.current_thread(), links, now_ns > 0))
        if links == ():
            is_taken.set()

    monkeypatch.setattr(Site, "set_links", set_links, raising=False)
    site = SiteConfig("eu", "tcp://127.0.0.1:0", links=(WISH,))
    runner = NodeRunner(config(tmp_path, site))
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        runner.set_links((WISH, WISH._replace(to="ap")))
        runner.set_links(())
        assert is_taken.wait(30)
    finally:
        runner.stop()
        thread.join(30)
    assert taken == [
        (threading.current_thread(), (WISH,), True),
        (thread, (WISH, WISH._replace(to="ap")), True),
        (thread, (), True),
    ]


def test_a_node_of_no_site_has_no_links_and_takes_none(tmp_path):
    runner = NodeRunner(config(tmp_path, None))
    runner.set_links((WISH,))
    runner.stop()
    runner._turn()
    runner.run()


def test_endpoints_are_checked_as_peers_are():
    far = SiteConfig("eu", "tcp://127.0.0.1:0", links=(WISH._replace(endpoints=("tcp://us:1",)),))
    with pytest.raises(ConfigError, match="refusing to connect to tcp://us:1"):
        SiteShell(far, "local", False)
