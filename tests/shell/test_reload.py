"""A file of settings that is read again: what is changed in the node, and what is said."""

from __future__ import annotations

import os
import queue
import signal

import pytest

from meshmq.cli.config import settings_of
from meshmq.cli.reload import Reload, Source, what_changed
from meshmq.core.link_wish import LinkWish

US = '[[link]]\nto = "us"\nendpoints = ["tcp://127.0.0.1:1"]\ntopics = ["a"]\n'
AP = US.replace("us", "ap").replace(":1", ":9")
SITE = 'copies = 2\n[site]\nname = "eu"\n'


class Runner:
    """Takes links as a node does."""

    def __init__(self):
        self.links = queue.SimpleQueue()

    def set_links(self, links):
        self.links.put([wish.to for wish in links])

    def taken(self):
        return [self.links.get() for _ in range(self.links.qsize())]


class Node:
    """A file, and what reads it again."""

    def __init__(self, path, capsys):
        self.path, self._capsys = path, capsys
        self.runner = Runner()
        path.write_text(SITE + US)
        self.reload = Reload(Source(path, self._read), self._read())

    def _read(self):
        return settings_of(self.path, {"name": "one", "data": str(self.path.parent)})

    def write(self, text):
        """What is noted when the file is so, and is read again; without the file's name."""
        self.path.write_text(text)
        return self.again()

    def again(self):
        self.reload.read_again(self.runner)
        said = self._capsys.readouterr().err
        return [line.removeprefix(f"meshmq: {self.path}").lstrip() for line in said.splitlines()]


@pytest.fixture
def node(tmp_path, capsys):
    before = signal.getsignal(signal.SIGHUP)
    yield Node(tmp_path / "node.toml", capsys)
    signal.signal(signal.SIGHUP, before)


def test_links_are_taken_over_and_it_is_said_which(node):
    assert node.again() == ["read again: nothing changed"]
    assert node.runner.taken() == []
    assert node.write(SITE + US + AP) == ["read again: links to ap are new"]
    assert node.write(SITE + US + AP) == ["read again: nothing changed"]
    other = US.replace("1:1", "1:2")
    assert node.write(SITE + other + AP) == ["read again: links to us are changed"]
    assert node.write(SITE) == ["read again: links to ap, us are gone"]
    assert node.runner.taken() == [["us", "ap"], ["us", "ap"], []]


def test_what_else_has_changed_needs_a_restart_and_is_said_each_time(node):
    text = SITE.replace("2", "3")
    restart = "copies changed, which needs a restart"
    assert node.write(f"{text}{US}{AP}") == [f"read again: links to ap are new; {restart}"]
    assert node.write(f"mdns = false\n{text}{US}{AP}") == [
        "read again: mdns, copies changed, which needs a restart"
    ]
    assert node.write(SITE + US + AP) == ["read again: nothing changed"]
    assert node.runner.taken() == [["us", "ap"]]


def test_what_an_option_says_or_is_the_default_has_not_changed(node):
    assert node.write('name = "two"\nmdns = true\n' + SITE + US) == ["read again: nothing changed"]


@pytest.mark.parametrize(
    "text", ['[site]\nname = "us"\n', 'mesh = "shop"\n' + SITE, "insecure = true\n" + SITE]
)
def test_links_that_another_node_would_have_wait_for_the_restart(node, text):
    [told] = node.write(text + AP)
    assert told.endswith(", links changed, which needs a restart")
    assert node.runner.taken() == []
    assert node.write(SITE + US + AP) == ["read again: links to ap are new"]


def test_with_a_faulty_file_the_links_stay_and_each_fault_is_said(node):
    kept = "has faults: the node goes on with the links that it had"
    told = node.write(SITE + US.replace("to =", "too =").replace('["a"]', '["$a"]'))
    assert [line.split(" ", 1)[0] for line in told[:-1]] == [":4:", ":5:", ":7:"]
    assert told[-1] == kept
    assert node.write("][")[1:] == [kept]
    node.path.unlink()
    assert node.again() == [
        f"meshmq: cannot read {node.path}: No such file or directory", kept,
    ]  # fmt: skip
    assert node.runner.taken() == []
    assert node.write(SITE + AP) == ["read again: links to ap are new, links to us are gone"]


def test_a_signal_that_came_before_the_node_was_up_is_not_lost(node):
    os.kill(os.getpid(), signal.SIGHUP)
    node.path.write_text(SITE + AP)
    node.reload.attach(node.runner)
    assert node.runner.links.get(timeout=20) == ["ap"]
    node.path.write_text(SITE)
    os.kill(os.getpid(), signal.SIGHUP)
    assert node.runner.links.get(timeout=20) == []


def test_that_nobody_reads_the_notes_ends_nothing(node, monkeypatch):
    def broken(text):
        raise OSError("the terminal is gone")

    monkeypatch.setattr("meshmq.cli.reload.note", broken)
    node.reload.attach(node.runner)
    for text, links in ((SITE + AP, ["ap"]), (SITE + US, ["us"])):
        node.path.write_text(text)
        os.kill(os.getpid(), signal.SIGHUP)
        assert node.runner.links.get(timeout=20) == links


def test_another_order_is_a_change_as_well():
    one, two = LinkWish("us", ("tcp://us:1",), ()), LinkWish("ap", ("tcp://ap:1",), ())
    assert what_changed((one, two), (two, one)) == "the order of links is changed"
