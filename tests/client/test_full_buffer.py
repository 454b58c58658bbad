"""A full buffer that nothing but copies can empty blocks nobody for ever."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from meshmq import aio
from meshmq.client.mesh import Mesh
from meshmq.errors import BufferFull


class Connection:
    """Time passes as soon as somebody waits."""

    dead = None

    def __init__(self, mesh):
        self.mesh = mesh
        self.waits = 0

    def check(self):
        pass

    def wait_until(self, is_true, timeout):
        assert timeout is not None
        self.waits += 1
        assert self.waits < 10
        if self.waits == 3:  # so long there was other work
            self.mesh._publisher.waits_for_copies = self.only_copies
            self.mesh._publisher.buffered_bytes = 1000 if self.only_copies else 0
        return is_true()

    async def wait_until_async(self, _what, is_true, timeout):
        return self.wait_until(is_true, timeout)


def full(kind, only_copies):
    mesh = kind.__new__(kind)
    mesh._block, mesh._timeout = True, 0.0
    mesh._publisher = SimpleNamespace(
        added_bytes=1000, ceiling_bytes=1000, buffered_bytes=1000, buffer_bytes=1000,
        waits_for_copies=False, too_few="too few nodes (node 'b': its disk is full)",
    )  # fmt: skip
    mesh._connection = Connection(mesh)
    mesh._connection.only_copies = only_copies
    return mesh


def test_it_is_told_that_copies_are_missing_and_why():
    mesh = full(Mesh, True)
    with pytest.raises(BufferFull, match=r"copies only.*node 'b': its disk is full"):
        mesh._make_room()
    assert mesh._connection.waits == 3


def test_what_goes_on_is_waited_for():
    mesh = full(Mesh, False)
    mesh._make_room()
    assert mesh._connection.waits == 3


def test_the_same_for_tasks():
    mesh = full(aio.Mesh, True)
    mesh._records = full(aio._Records, True)
    mesh._connection.mesh = mesh._records
    mesh._bell = SimpleNamespace(wait_until=mesh._connection.wait_until_async)
    with pytest.raises(BufferFull, match="copies only"):
        asyncio.run(mesh._make_room())
