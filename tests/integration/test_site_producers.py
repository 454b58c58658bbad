"""Producers with names at real nodes of a site."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

import meshmq
from meshmq.errors import InvalidArgument, OwnerAway
from tests.integration.sites import joined


@pytest.fixture
def pair(tmp_path):
    """Two nodes that are joined."""
    with joined(tmp_path, 2) as made:
        yield made


def run(stack, node, **more):
    return stack.enter_context(meshmq.connect(node.url, producer="import", route="node", **more))


def test_runs_at_two_nodes_lose_nothing_and_store_each_number_once(pair):
    one, two = pair.nodes
    with ExitStack() as stack:
        first = run(stack, one)
        for number in range(1, 101):
            first.publish("rows", b"%d" % number, seq=number)
            first.publish("logs", b"first-%d" % number)
        first.flush(20)
        second = run(stack, two)
        assert second.last_sequence("rows") == 100
        again = [second.publish("rows", b"%d" % n, seq=n) for n in range(91, 121)]
        for number in range(30):
            second.publish("logs", b"second-%d" % number)
        second.flush(20)
        assert [r.duplicate for r in again] == [True] * 10 + [False] * 20
        with pytest.raises(InvalidArgument, match="numbered automatically"):
            second.publish("logs", b"x", seq=1)

        one.kill()
        assert second.last_sequence("rows") == 120  # it knows, and needs nobody else
        third = run(stack, two)
        third.publish("logs", b"third").wait(10)  # that needs nobody
        with pytest.raises(OwnerAway, match="node-1 cannot be reached"):
            third.publish("rows", b"121", seq=121)
        with pytest.raises(OwnerAway, match="node-1 cannot be reached"):
            third.last_sequence("rows")
        one.start()
        pair.wait_joined()
        assert third.publish("rows", b"120", seq=120).wait(10).duplicate
        third.publish("rows", b"121", seq=121).wait(10)

        async def asynchronous():
            async with meshmq.aio.connect(one.url, producer="import", route="node") as fourth:
                assert await fourth.last_sequence("rows") == 121
                for number in (120, 122):
                    await (await fourth.publish("rows", b"%d" % number, seq=number)).wait(10)
                    assert await fourth.last_sequence("rows") == max(121, number)
                await (await fourth.publish("logs", b"fourth")).wait(10)

        asyncio.run(asynchronous())
        reader = stack.enter_context(meshmq.connect(one.url, route="node"))
        wanted = {
            "rows": [b"%d" % n for n in range(1, 123)],
            "logs": [b"first-%d" % n for n in range(1, 101)]
            + [b"second-%d" % n for n in range(30)]
            + [b"third", b"fourth"],
        }
        for topic, values in wanted.items():
            sub = stack.enter_context(reader.subscribe(topic, start="earliest"))
            got = []
            while len(got) < len(values):
                more = sub.fetch(1000, timeout=10)
                assert more, (topic, len(got))
                got += [message.value for message in more]
            assert sorted(got) == sorted(values)
            assert sub.fetch(10, timeout=0.2) == []
