"""The asyncio client has what the blocking one has: the same names, with the same arguments."""

from __future__ import annotations

import inspect

import pytest

from meshmq import aio
from meshmq.client import admin, admin_groups, aio_admin

PAIRS = [
    (admin.Admin, aio.Admin),
    (admin.Topics, aio.Topics),
    (admin.ServiceList, aio_admin.ServiceList),
    (admin_groups.Groups, aio_admin.Groups),
    (admin_groups.Queues, aio_admin.Queues),
    (admin_groups.DeadLetters, aio_admin.DeadLetters),
]


def calls(owner):
    """Its public calls, with their arguments and defaults."""
    return {
        name: [(p.name, p.kind, p.default) for p in inspect.signature(call).parameters.values()]
        for name, call in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS)
def test_both_clients_have_the_same_calls(blocking, awaited):
    assert calls(awaited) == calls(blocking)
