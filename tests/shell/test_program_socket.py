"""The sockets of a program that talks to others, over loopback."""

from __future__ import annotations

import select
import time

import pytest
import zmq

from meshmq.errors import ConfigError
from meshmq.shell.sockets import ProgramSocket, check_url

WAIT_S = 20


def wait_for(socket, look):
    """Sleep on the socket's descriptors, as a connection does, until ``look`` finds something."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        poll = select.poll()
        for fd in socket.fds:
            poll.register(fd, select.POLLIN)
        poll.poll(max(0, deadline - time.monotonic()) * 1000)
        socket.look()
        found = look()
        if found:
            return found
    return None


def test_that_a_link_was_cut_is_told_by_its_descriptor():
    with zmq.Context() as context:
        far = context.socket(zmq.ROUTER)
        far.setsockopt(zmq.LINGER, 0)
        port = far.bind_to_random_port("tcp://127.0.0.1")
        near = ProgramSocket(["tcp://127.0.0.1:*"])
        try:
            near.open(b"link", f"tcp://127.0.0.1:{port}")
            near.send(b"link", [b"hello"])
            name, hello = far.recv_multipart()
            assert hello == b"hello"
            near.look()
            assert near.take_cut() == []
            far.send_multipart([name, b"hello yourself"])
            assert wait_for(near, near.receive) == (b"link", [b"hello yourself"])
            far.close()
            assert wait_for(near, near.take_cut) == [b"link"]
        finally:
            near.close()


def test_a_link_that_is_never_empty_does_not_keep_another_one_waiting():
    with zmq.Context() as context:
        far = context.socket(zmq.ROUTER)
        far.setsockopt(zmq.LINGER, 0)
        port = far.bind_to_random_port("tcp://127.0.0.1")
        near = ProgramSocket(["tcp://127.0.0.1:*"], is_node=True)
        try:
            names = {}
            for link in (b"data", b"control"):
                near.open(link, f"tcp://127.0.0.1:{port}")
                near.send(link, [link])
                names[link] = far.recv_multipart()[0]
            for number in range(100):
                far.send_multipart([names[b"data"], b"%d" % number])
            far.send_multipart([names[b"control"], b"pulse"])
            for link in names:
                near._dealers[link].socket.poll(WAIT_S * 1000)
            near.look()
            first = [near.receive()[0] for _ in range(2)]
            assert sorted(first) == [b"control", b"data"]
        finally:
            near.close()
            far.close()


def test_where_it_listens_others_may_dial():
    program = ProgramSocket(["tcp://[::1]:0", "tcp://127.0.0.1:0"])
    try:
        for url, host in zip(program.urls, ("[::1]", "127.0.0.1"), strict=True):
            assert url.startswith(f"tcp://{host}:")
            check_url(url, bind=False, insecure=False, mesh="local")
    finally:
        program.close()


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "ipc:///" + "x" * 107])
def test_what_nobody_can_dial_is_said_at_once(url):
    with pytest.raises(ConfigError, match="not an address"):
        check_url(url, bind=False, insecure=False, mesh="local")
