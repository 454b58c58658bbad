"""The asyncio client against a real node: the same promises, and cancellation anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
import uvloop

import meshmq
from meshmq import aio

MIB = 1 << 20


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine to its end, on both event loops."""

    def go(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(main, 50))

    return go


async def drain(sub, count):
    messages = []
    while len(messages) < count:
        more = await sub.fetch(count - len(messages), timeout=20)
        assert more, f"{len(messages)} of {count} came"
        messages += more
    return messages


def test_publish_subscribe_and_receipts(node, run):
    async def main():
        async with aio.connect(node.url) as mesh, mesh.subscribe("a.>") as sub:
            receipt = await mesh.publish("a.b", b"one", key=b"k", headers={"h": "1"})
            assert (await receipt.wait(20)).offset == 0
            assert receipt.durability == "synced"
            message = await anext(sub)
            assert (message.topic, message.value, message.key) == ("a.b", b"one", b"k")
            assert message.headers == {"h": "1"}
            many = await mesh.publish_many("a.b", [b"%d" % i for i in range(5000)])
            assert (await many.wait(20))[-1].offset == 5000
            got = await drain(sub, 5000)
            assert [m.value for m in got] == [b"%d" % i for i in range(5000)]
            assert [t["topic"] for t in await mesh.admin.topics.list()] == ["a.b"]
            assert (await mesh.admin.status())["published"] == 5001

    run(main())


def test_iteration_ends_when_it_is_closed_and_fetch_times_out(node, run):
    async def main():
        mesh = await aio.connect(node.url)
        sub = await mesh.subscribe("a")
        assert await sub.fetch(timeout=0.01) == []
        assert await sub.fetch(timeout=0) == []
        seen, arrived = [], asyncio.Event()

        async def read():
            async for message in sub:
                seen.append(message.value)
                arrived.set()

        reader = asyncio.create_task(read())
        await (await mesh.publish("a", b"x")).wait(20)
        await arrived.wait()
        await sub.close()
        await asyncio.wait_for(reader, 20)
        assert seen == [b"x"]
        await mesh.close()
        await mesh.close()
        with pytest.raises(meshmq.ClosedError):
            await mesh.publish("a", b"y")

    run(main())


def test_errors_are_the_synchronous_clients(node, run):
    async def main():
        with pytest.raises(meshmq.NodeUnreachable, match="meshmq node"):
            await aio.connect("tcp://127.0.0.1:9", timeout=0.2)
        with pytest.raises(meshmq.MeshMismatch):
            await aio.connect(node.url, mesh="other")
        async with aio.connect(node.url) as mesh:
            with pytest.raises(meshmq.InvalidName):
                await mesh.publish("a..b", b"")
            with pytest.raises(meshmq.InvalidArgument):
                mesh.subscribe("a", prefetch_bytes=0)
            with pytest.raises(meshmq.TopicNotFound):
                await mesh.admin.topics.show("nothing")
            with pytest.raises(meshmq.OffsetOutOfRange):
                await mesh.subscribe("a", start=7)

    run(main())


def test_what_was_not_awaited_says_so(node, run):
    async def main():
        opening = aio.connect(node.url)
        with pytest.raises(
            AttributeError, match=r"write 'x = await meshmq\.aio\.connect\(\.\.\.\)'"
        ):
            opening.publish("a", b"x")
        assert not hasattr(opening, "__fspath__")
        with pytest.raises(TypeError, match="write 'async with' for 'with'"), opening:
            pass
        async with opening as mesh:
            with pytest.raises(AttributeError, match=r"await mesh\.subscribe\(\.\.\.\)"):
                mesh.subscribe("a").fetch()
            with pytest.raises(TypeError, match="write 'async with' for 'with'"), mesh:
                pass
            with pytest.raises(TypeError, match="'async with'"), mesh.transaction():
                pass
        with node.connect() as other:
            with pytest.raises(TypeError, match=r"write 'with' for 'async with', or connect with"):
                async with other:
                    pass
            with pytest.raises(TypeError, match="write 'with' for 'async with'"):
                async with other.subscribe("a"):
                    pass

    run(main())
    with pytest.raises(ValueError, match=r"meshmq\.aio\.connect\(\.\.\.\), not awaited"):
        asyncio.run(aio.connect(node.url))


def test_a_second_run_is_told_to_connect_again(node, run):
    made = {}

    async def first():
        made["mesh"] = mesh = await aio.connect(node.url)
        made["sub"] = await mesh.subscribe("a")
        made["receipt"] = await mesh.publish("a", b"x")
        await made["receipt"].wait(20)
        await drain(made["sub"], 1)

    async def second():
        mesh = made["mesh"]
        for call in (
            mesh.last_sequence("a"), mesh.subscribe("a"), mesh.enqueue("q", b"x"), mesh.work("q"),
            mesh.flush(), made["sub"].fetch(), mesh.close(), mesh.run(),
        ):  # fmt: skip
            with pytest.raises(meshmq.MeshError, match=r"aio\.connect\(\) again, in each"):
                await call
        await made["receipt"].wait(20)  # it is known, and needs no loop
        await asyncio.to_thread(mesh._connection.close, 20)  # until it has ended
        await mesh.close()
        assert mesh.state == "closed"

    run(first())
    mesh = made["mesh"]

    async def no_worker():
        @mesh.worker("q")
        async def work(job):
            pass

        await work.wait()
        assert "again, in each" in str(work.error)

    run(no_worker())
    run(second())


def test_another_threads_loop_is_told_to_connect_itself(node, run):
    async def main():
        async with aio.connect(node.url) as mesh:

            async def elsewhere():
                await mesh.last_sequence("a")

            with pytest.raises(meshmq.MeshError, match="belongs to another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
            with pytest.raises(meshmq.MeshError, match="belongs to another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(mesh.close()))
            loop = asyncio.get_running_loop()

            def hand_over():
                return asyncio.run_coroutine_threadsafe(mesh.last_sequence("a"), loop).result(20)

            assert await asyncio.to_thread(hand_over) == 0

    run(main())


def test_a_full_buffer_waits_and_can_be_cancelled(process_node, run):
    async def main():
        states, lost = [], asyncio.Event()

        def on_state(change):
            states.append(change.state)
            if change.state == "reconnecting":
                lost.set()

        mesh = await aio.connect(process_node.url, max_buffer=4 * MIB, on_state=on_state)
        process_node.kill()
        await lost.wait()
        kept = [await mesh.publish("a", b"%d" % i + bytes(MIB - 8)) for i in range(4)]
        for _ in range(3):  # what is cancelled while it waits for room was not published
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(mesh.publish("a", b"cancelled"), 0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(mesh.publish_many("a", [b"cancelled"] * 3), 0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kept[0].wait(), 0.01)
        process_node.start()
        last = await mesh.publish("a", b"last")
        assert [(await r.wait(20)).offset for r in (*kept, last)] == [0, 1, 2, 3, 4]
        assert states[:2] == ["connected", "reconnecting"]
        await mesh.close()

    run(main())


def test_cancellation_anywhere_loses_and_doubles_nothing(node, run):
    """Publishers and readers are cancelled at random; what is kept must be what was promised."""
    count = 2000
    rng = random.Random(5)

    async def main():
        async with aio.connect(node.url, max_buffer=3 * MIB) as mesh:
            sent: list[bytes] = []

            async def publish():
                for i in range(count):
                    task = asyncio.create_task(mesh.publish("a", b"%d" % i + bytes(9000)))
                    if rng.random() < 0.3:
                        if rng.random() < 0.5:
                            await asyncio.sleep(0)
                        task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                        sent.append(b"%d" % i)

            seen: list[bytes] = []
            done = asyncio.Event()

            async def read(sub):
                while not done.is_set() or len(seen) < len(sent):
                    task = asyncio.create_task(sub.fetch(7, timeout=0.05))
                    if rng.random() < 0.3:
                        await asyncio.sleep(0)
                        task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        seen.extend(m.value.rstrip(b"\0") for m in await task)

            async with mesh.subscribe("a") as sub:
                reader = asyncio.create_task(read(sub))
                await publish()
                await mesh.flush(20)
                done.set()
                await asyncio.wait_for(reader, 30)
            assert 0 < len(sent) < count
            assert seen == sent

    run(main())


def test_a_cancelled_subscribe_leaves_nothing_at_the_node(node, run):
    async def main():
        async with aio.connect(node.url) as mesh:
            for turns in range(6):
                task = asyncio.ensure_future(asyncio.wait_for(mesh.subscribe("a"), 20))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await task).close()  # the answer was there before the cancellation
            assert (await mesh.admin.status())["subscriptions"] == []

    run(main())


def test_a_busy_loop_does_not_cost_the_session(node, run):
    """The I/O thread answers pings while the event loop is stuck in the program's code."""

    async def main():
        async with aio.connect(node.url, timeout=20) as mesh:
            opened = (await mesh.admin.status())["sessions"]["opened"]
            with meshmq.connect(node.url, timeout=20) as other:
                for _ in range(500):
                    other.publish("a", b"x").wait(20)  # blocks this loop
            assert (await mesh.admin.status())["sessions"]["opened"] == opened + 1
            assert mesh.state == "connected"

    run(main())


def test_many_tasks_wait_for_their_own_receipts(node, run):
    async def main():
        async with aio.connect(node.url) as mesh:

            async def one(i):
                return (await (await mesh.publish(f"t{i % 7}", b"x")).wait(20)).offset

            offsets = await asyncio.gather(*[one(i) for i in range(700)])
            assert sorted(offsets) == sorted(list(range(100)) * 7)

    run(main())


def test_a_named_producer_goes_on_where_it_ended(node, run):
    async def main():
        for first in (1, 4):
            async with aio.connect(node.url, producer="p") as mesh:
                assert await mesh.last_sequence("a") == first - 1
                for seq in range(1, first + 3):
                    await mesh.publish("a", b"%d" % seq, seq=seq)
        async with aio.connect(node.url) as mesh, mesh.subscribe("a", start="earliest") as sub:
            assert [m.value for m in await drain(sub, 6)] == [b"%d" % i for i in range(1, 7)]

    run(main())


def test_a_connection_for_commands_is_for_nothing_else(node, run):
    async def main():
        async with aio.connect(node.url, admin=True) as mesh:
            assert (await mesh.admin.status())["node"]["name"]
            await mesh.admin.queues.create("q")
            assert await mesh.admin.dlq.list("q") == []
            for use in (
                lambda: mesh.publish("a", b""),
                lambda: mesh.subscribe("a"),
                lambda: mesh.consume("a", "g"),
                lambda: mesh.enqueue("q", b""),
                lambda: mesh.request("s", b""),
            ):
                with pytest.raises(meshmq.InvalidArgument, match="admin=True is for"):
                    await use()

    run(main())
