"""The asyncio client: ``mesh = await meshmq.aio.connect()``.

The same names as the synchronous client, awaited, over the same machine and I/O thread. The event
loop never waits for a lock or a socket, and a loop that is busy for long loses no session.

Cancelling an awaited call loses and doubles nothing: ``publish`` waits before it takes the record,
never after; ``fetch`` and iteration take a message only when they return it; waiting for a receipt
again is always possible.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self

from meshmq import limits
from meshmq.client import connecting
from meshmq.client import mesh as blocking
from meshmq.client.admin import (
    ROUTES,
    UNDRAIN,
    Ask,
    ask,
    ask_create,
    ask_drain,
    ask_last,
    ask_of_link,
    ask_of_node,
    ask_verify,
)
from meshmq.client.aio_admin import DeadLetters, Groups, Queues, ServiceList
from meshmq.client.aio_consumer import Consumer, Job, Worker
from meshmq.client.aio_services import Services
from meshmq.client.aio_work import Transaction, Work
from meshmq.client.bell import ROOM, Bell
from meshmq.client.channel import Answer
from meshmq.client.connection import Connection
from meshmq.client.mesh import StateChange
from meshmq.client.message import Message
from meshmq.client.opening import OnlyAsync, Opening
from meshmq.client.pushing import pull_wish
from meshmq.client.receipt import Promise, Promises
from meshmq.client.seeking import Seeking
from meshmq.client.subscription import Inbox, Wish
from meshmq.client.values import check_records, check_seq
from meshmq.client.wish import to_wish
from meshmq.client.worker import tell_unused
from meshmq.core.lanes import WAITING, Batch
from meshmq.errors import ForkedError
from meshmq.names import Position, check_topic

__all__ = [
    "Consumer", "Job", "Mesh", "Opening", "Receipt", "Receipts", "Subscription", "Transaction",
    "Worker", "connect",
]  # fmt: skip


async def _wait_for(connection: Any, batch: Batch, timeout: float | None) -> bool:
    bell: Bell = connection.listener
    return await bell.wait_until(batch, lambda: batch.state != WAITING, timeout)


class Receipt(Promise):
    """The promise for one record; ``await receipt.wait()`` makes it good.

    After ``wait`` (or once ``done``): ``stream``, ``offset``, ``durability``.
    """

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> Receipt:
        """As ``meshmq.Receipt.wait``; may be cancelled and awaited again."""
        batch = self._batch
        if batch.state == WAITING and not await _wait_for(self._connection, batch, timeout):
            raise self._in_time(timeout)
        self._judge()
        return self


class Receipts(Promises[Receipt]):
    """Receipts of one ``publish_many``, made when looked at."""

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> Receipts:
        """Wait for all of them; raise the first error. ``timeout`` is in seconds, for all."""
        deadline = self._connection.deadline(timeout)
        for _, batch in self._batches:
            await Receipt(batch, batch.skipped).wait(self._connection.left(deadline))
        return self


class Subscription(OnlyAsync, Inbox):
    """Messages of the topics that match a pattern: ``async for msg in sub``, or ``fetch``.

    One task at a time may read it. Iterating ends when it is closed.
    """

    async def _next_batch(self, timeout: float | None) -> bool:
        """Make the next batch the current one; False on timeout or when closed."""
        self._give_back()
        if self._arrivals:
            await asyncio.sleep(0)  # a flood leaves the loop to others, once a batch
        else:
            bell: Any = self._channel.listener
            await bell.wait_until(self._id, lambda: self._has_news, timeout)
        return self._take_batch()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message; waits for it without end."""
        while True:
            for message in self._current:
                return message
            if not await self._next_batch(None):
                raise StopAsyncIteration

    async def fetch(self, max_records: int = 100, timeout: float | None = None) -> list[Message]:
        """As ``meshmq.Subscription.fetch``; when it is cancelled it has taken nothing."""
        check_records(max_records)
        while True:
            messages = list(islice(self._current, max_records))
            while len(messages) < max_records and self._arrivals:
                self._give_back()
                self._take_batch()
                messages += islice(self._current, max_records - len(messages))
            if messages or not await self._next_batch(timeout):
                return messages or self._nothing()

    async def close(self) -> None:
        """End it; a task that iterates it comes to the end."""
        self._end()
        self._channel.listener.note(self._id)  # type: ignore[union-attr]
        self._channel.listener.tell()  # type: ignore[union-attr]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"aio.Subscription({self.pattern!r}, missed={self.missed})"


class _Records(blocking.Mesh):
    """The synchronous client's publishing, where somebody else waits for room and answers."""

    _promise = Receipt  # type: ignore[assignment]

    def _make_room(self) -> None:
        self._connection.check()


class Mesh(OnlyAsync, Work, Services):
    """A connection to the mesh, for the tasks of one event loop."""

    def __init__(
        self,
        connection: Connection,
        bell: Bell,
        timeout: float,
        max_buffer: int,
        block: bool,
        named: bool,
    ) -> None:
        self._connection = connection
        self._bell = bell
        self._publisher = connection.publisher
        self._lanes = connection.publisher.lanes
        self._timeout = timeout
        self._block = block
        self._named = named
        self._records = _Records(connection, timeout, max_buffer, False, False)
        self._add: Callable[..., Receipt] = self._records.publish  # type: ignore[assignment]
        self.admin = Admin(self)
        self._begin_work()

    @property
    def state(self) -> str:
        """``connecting``, ``connected``, ``reconnecting``, ``brokerless`` or ``closed``."""
        return self._connection.state

    @property
    def addresses(self) -> tuple[str, ...]:
        """As ``meshmq.Mesh.addresses``."""
        return self._connection.addresses

    def peers(self) -> list[dict[str, Any]]:
        """As ``meshmq.Mesh.peers``."""
        return self._connection.peers()

    # -- publishing ---------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timestamp: datetime | int | None = None,
        durability: str | None = None,
        seq: int | None = None,
        route: str = "auto",
    ) -> Receipt:
        """As ``meshmq.Mesh.publish``: waits for room in the buffer, never for the confirmation.

        Cancelled, it has published nothing.
        """
        publisher = self._publisher
        lane = self._lanes.get(topic) if isinstance(topic, str) else None
        if seq is not None and self._named:
            await self._learn_said(topic, seq)
        elif lane is None:
            await self._learn(topic)
        elif lane.plain is None:
            await asyncio.sleep(0)  # a flood leaves the loop to others, once a batch
        if publisher.added_bytes >= publisher.ceiling_bytes:
            await self._make_room()
        if (
            key is None
            and headers is None
            and timestamp is None
            and durability is None
            and seq is None
            and route == "auto"
        ):
            return self._add(topic, value)
        return self._add(
            topic,
            value,
            key=key,
            headers=headers,
            timestamp=timestamp,
            durability=durability,
            seq=seq,
            route=route,
        )

    async def publish_many(
        self,
        topic: str,
        values: Sequence[bytes],
        *,
        keys: Sequence[bytes | None] | None = None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
        timestamps: Sequence[datetime | int] | None = None,
        durability: str | None = None,
        route: str = "auto",
    ) -> Receipts:
        """As ``meshmq.Mesh.publish_many``; all of it or, cancelled, nothing.

        It waits for room once, so the buffer may be exceeded by one call's records.
        """
        if not isinstance(topic, str) or topic not in self._lanes:
            await self._learn(topic)
        await asyncio.sleep(0)
        if self._publisher.added_bytes >= self._publisher.ceiling_bytes:
            await self._make_room()
        batches = self._records._publish_many(
            topic, values, keys, headers, timestamps, durability, route=route
        )
        return self._receipts(batches)

    async def push(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Receipt:
        """As ``meshmq.Mesh.push``: waits for room in the buffer. Cancelled, it pushed nothing."""
        await asyncio.sleep(0)
        if self._publisher.added_bytes >= self._publisher.ceiling_bytes:
            await self._make_room()
        pushed: Receipt = self._records.push(topic, value, key=key, headers=headers)  # type: ignore[assignment]
        return pushed

    async def push_many(
        self,
        topic: str,
        values: Sequence[bytes],
        *,
        keys: Sequence[bytes | None] | None = None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
    ) -> Receipts:
        """As ``meshmq.Mesh.push_many``; all of it or, cancelled, nothing."""
        await asyncio.sleep(0)
        if self._publisher.added_bytes >= self._publisher.ceiling_bytes:
            await self._make_room()
        return self._receipts(self._records._push_many(topic, values, keys, headers))

    def _receipts(self, batches: list[tuple[int, Batch]]) -> Receipts:
        return Receipts(self._connection, batches, Receipt)

    async def last_sequence(self, topic: str) -> int:
        """As ``meshmq.Mesh.last_sequence``."""
        check_topic(topic)
        said = self._publisher.said(topic)
        return max(said or 0, int(await self._run(ask_last(topic, at_least=said is not None))))

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until everything published so far is confirmed; raise as ``meshmq.Mesh.flush``."""
        await self._flush(timeout, self._publisher.unsettled())

    async def _flush(self, timeout: float | None, batches: Sequence[Batch]) -> None:
        connection = self._connection
        self._bell.check_loop()
        connection.check()
        deadline = connection.deadline(timeout)
        for batch in batches:
            if not await _wait_for(connection, batch, connection.left(deadline)):
                raise self._records._not_flushed(timeout)
        failed = connection.take_failure()
        if failed is not None:
            raise failed

    async def _learn(self, topic: str) -> None:
        check_topic(topic)
        await self._learn_lane(topic)

    async def _learn_said(self, topic: str, seq: int) -> None:
        check_topic(topic)
        check_seq(seq)
        self._connection.check_node("to know what an earlier run has published")
        if self._publisher.is_unsaid(topic):
            self._records._said(topic, await self._run(ask_last(topic, part="")))

    async def _make_room(self) -> None:
        self._connection.check()
        if not self._block:
            raise self._records._buffer_full()
        records = self._records
        while not await self._bell.wait_until(ROOM, records._has_room, records._room_timeout):
            records._check_copies()
        self._connection.check()

    # -- subscribing --------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str,
        *,
        start: str | int | datetime | Position = "new",
        prefetch_bytes: int = limits.CREDIT_BYTES_DEFAULT,
        prefetch_records: int = limits.CREDIT_RECORDS_DEFAULT,
        on_missed: Callable[[int], None] | None = None,
        dedup: bool = False,
        scope: str = "all",
    ) -> Opening[Subscription]:
        """As ``meshmq.Mesh.subscribe``: await it, or ``async with mesh.subscribe(...) as sub``.

        ``on_missed`` is called in the event loop.
        """
        self._connection.check_use()
        loop = asyncio.get_running_loop()
        told = None
        if on_missed is not None:
            told = lambda n: _call_soon(loop, on_missed, n)  # noqa: E731
        window = (prefetch_bytes, prefetch_records)
        wish = to_wish(pattern, start, *window, told, dedup, scope)
        return Opening(lambda: self._open(wish), "mesh.subscribe(...)")

    def pull(
        self, pattern: str, *, prefetch_records: int = limits.PULL_RECORDS_DEFAULT
    ) -> Opening[Subscription]:
        """As ``meshmq.Mesh.pull``: await it, or ``async with mesh.pull(...) as sub``."""
        wish = pull_wish(self._connection, pattern, prefetch_records)
        return Opening(lambda: self._open(wish), "mesh.pull(...)")

    async def _open(self, wish: Wish) -> Subscription:
        self._bell.check_loop()
        sub = Subscription(self._connection, wish)
        answer = sub._open()
        await self._wait_answer(answer, "subscribe")
        sub._opened(answer)
        return sub

    # -- the rest -----------------------------------------------------------------------------

    async def _run(self, wanted: Ask, longer: float = 0.0) -> Any:
        self._bell.check_loop()
        answer = self._connection.ask(wanted.verb, wanted.arguments)
        await self._wait_answer(answer, wanted.verb, longer)
        return wanted.read(answer.get())

    async def _wait_answer(self, answer: Answer, what: str, longer: float = 0.0) -> None:
        """Wait for an answer; undo what was asked if none comes, or the task is cancelled."""
        is_there = False
        timeout = self._timeout + longer
        try:
            is_there = await self._bell.wait_until(answer, lambda: answer.is_set, timeout)
        finally:
            if not is_there:
                self._connection.run(answer.undo)
        if not is_there:
            raise self._connection.no_answer(what, timeout)

    async def close(self, timeout: float = 5.0) -> None:
        """Wait up to ``timeout`` seconds for confirmations, then end; safe to call twice.

        Workers and consumers are closed first: what they hold unsettled goes to others. In
        another loop than its own it raises; if its own has ended, it ends the connection first.

        Raises:
            MeshError: what was published could not all be confirmed.
        """
        if self._connection.is_running:
            if self._bell.has_ended:
                self._connection.close(0)
            self._bell.check_loop()
        try:
            if self._connection.dead is None:
                tell_unused(self._workers, "await mesh.run()")
                await self._close_consumers(timeout)
                await self._flush(timeout, self._records._untold())
        finally:
            await self._end()

    async def _end(self) -> None:
        connection = self._connection
        connection.close(0)
        # In a forked child nobody runs it, and nobody will.
        if connection.is_running and not isinstance(connection.dead, ForkedError):
            await self._bell.wait_until(connection, lambda: not connection.is_running, 5)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            try:
                await self._close_consumers(1.0)
            finally:
                await self._end()

    def __repr__(self) -> str:
        return f"aio.Mesh({self._connection.url!r}, {self.state})"


def connect(
    url: str | Sequence[str] | None = None,
    *,
    mesh: str = "local",
    producer: str | None = None,
    name: str | None = None,
    timeout: float = 5.0,
    max_buffer: int = limits.PRODUCER_BUFFER_BYTES_MAX,
    on_full: str = "block",
    on_state: Callable[[StateChange], None] | None = None,
    insecure: bool = False,
    peers: Sequence[str] | None = None,
    listen: str | Sequence[str] | None = None,
    route: str = "auto",
    on_node_loss: str = "move",
    durability: str | None = None,
    direct_reads: bool = True,
    admin: bool = False,
) -> Opening[Mesh]:
    """As ``meshmq.connect``: await it, or ``async with meshmq.aio.connect() as mesh``.

    ``on_state`` is called in the event loop.
    """
    where = connecting.Where(url, peers, listen, route, on_node_loss, direct_reads, admin)
    connecting.check_options(where, producer, name, timeout, max_buffer, on_full, on_state)
    wanted = blocking.wanted_of(durability)

    async def opening() -> Mesh:
        loop = asyncio.get_running_loop()
        told: Callable[[str, str], None] | None = None
        if on_state is not None:
            told = lambda s, r: _call_soon(loop, on_state, StateChange(s, r))  # noqa: E731
        who = connecting.Who(mesh, producer, name, insecure)

        def make(
            address: str, told: Callable[[str, str], None] | None, urls: Sequence[str] = ()
        ) -> Connection:
            made = connecting.prepare(urls or (address,), who, where, told, hands_over=True)
            made.listener = Bell(loop, made)
            return made

        connection: Connection
        if where.talks_directly:
            connection = connecting.prepare_direct(who, told, where, True)
            connection.listener = Bell(loop, connection)
        elif urls := where.targets:
            connection = make(urls[0], told, urls)
        else:
            connection = await _seek(make, who, timeout, told)
        connection.start()
        try:
            await _wait_greeted(connection, timeout)
            connecting.check_greeted(connection)
        except BaseException:
            connection.close(0)
            raise
        connection.publisher.default = wanted
        bell: Any = connection.listener
        named = connecting.is_named(connection, producer)
        return Mesh(connection, bell, timeout, max_buffer, on_full == "block", named)

    return Opening(opening, "meshmq.aio.connect(...)")


async def _wait_greeted(connection: Connection, seconds: float) -> None:
    bell: Any = connection.listener
    await bell.wait_until(connection, lambda: connection.is_greeted, seconds)


async def _seek(
    make: Callable[[str, Callable[[str, str], None] | None], Connection],
    who: connecting.Who,
    timeout: float,
    told: Callable[[str, str], None] | None,
) -> Connection:
    """The connection to whichever node answers first; see ``client.seeking``."""
    seeking = Seeking(make, connecting.DEFAULT_URL, who.mesh, who.insecure, timeout, told)
    try:
        for seconds in seeking.steps():
            if seeking.connection.dead is None:
                await _wait_greeted(seeking.connection, seconds)
            else:
                await asyncio.sleep(seconds)
    except BaseException:
        seeking.connection.close(0)
        raise
    finally:
        seeking.close()
    seeking.check()
    return seeking.connection


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[Any], None], told: Any) -> None:
    try:
        loop.call_soon_threadsafe(call, told)
    except RuntimeError:
        pass  # the loop was closed before the connection


class Topics:
    """``mesh.admin.topics``: as in the synchronous client, awaited."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def create(
        self,
        pattern: str,
        *,
        durability: str = "durable",
        retention: str | float | None = None,
        retention_bytes: str | int | None = None,
        copies: int | None = None,
        confirm: str | None = None,
    ) -> dict[str, Any]:
        """Make a topic, or set the policy of all topics that match a pattern."""
        made: dict[str, Any] = await self._mesh._run(
            ask_create(pattern, durability, retention, retention_bytes, copies, confirm)
        )
        return made

    async def list(self, pattern: str = ">") -> builtins.list[dict[str, Any]]:
        """Topics that match, by name."""
        found: builtins.list[dict[str, Any]] = await self._mesh._run(
            ask("topic.list", "topics", pattern=pattern)
        )
        return found

    async def policies(self) -> builtins.list[dict[str, Any]]:
        """Policies by pattern, the newest last (it wins)."""
        found: builtins.list[dict[str, Any]] = await self._mesh._run(
            ask("topic.list", "policies", pattern=">")
        )
        return found

    async def show(self, topic: str) -> dict[str, Any]:
        """One topic; raises TopicNotFound."""
        shown: dict[str, Any] = await self._mesh._run(ask("topic.show", topic=topic))
        return shown

    async def delete(self, topic: str) -> dict[str, Any]:
        """Delete a topic with its records, or a policy; raises TopicNotFound."""
        deleted: dict[str, Any] = await self._mesh._run(ask("topic.delete", topic=topic))
        return deleted


class Admin:
    """``mesh.admin``."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.topics = Topics(mesh)
        self.groups = Groups(mesh)
        self.queues = Queues(mesh)
        self.dlq = DeadLetters(mesh)
        self.services = ServiceList(mesh)

    async def routes(self) -> list[dict[str, Any]]:
        """How programs at the node have what others of them publish: see the synchronous one."""
        routes: list[dict[str, Any]] = await self._mesh._run(ROUTES)
        return routes

    async def drain(
        self, timeout: float = 30.0, stay: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """Have the node send its programs to others, and end: see the synchronous one."""
        wanted, seconds = ask_drain(timeout, stay, force)
        drained: dict[str, Any] = await self._mesh._run(wanted, seconds)
        return drained

    async def undrain(self) -> str:
        """Have a node that drains let programs in again: see the synchronous one."""
        return str((await self._mesh._run(UNDRAIN))["node"])

    async def takeover(
        self, name: str, *, assume_dead: bool = False, may_repeat: bool = False
    ) -> dict[str, Any]:
        """As ``meshmq.Mesh.admin.takeover``."""
        done: dict[str, Any] = await self._mesh._run(
            ask_of_node("node.takeover", name, assume_dead=assume_dead, may_repeat=may_repeat)
        )
        return done

    async def forget(self, name: str, *, assume_dead: bool = False) -> dict[str, Any]:
        """As ``meshmq.Mesh.admin.forget``."""
        done: dict[str, Any] = await self._mesh._run(
            ask_of_node("node.forget", name, assume_dead=assume_dead)
        )
        return done

    async def site_takeover(
        self, name: str, *, assume_dead: bool = False, may_repeat: bool = False, check: bool = False
    ) -> dict[str, Any]:
        """As ``meshmq.Mesh.admin.site_takeover``."""
        done: dict[str, Any] = await self._mesh._run(
            ask_of_node(
                "site.takeover", name, assume_dead=assume_dead, may_repeat=may_repeat, check=check
            )
        )
        return done

    async def site_handback(self, name: str, *, check: bool = False) -> dict[str, Any]:
        """As ``meshmq.Mesh.admin.site_handback``."""
        done: dict[str, Any] = await self._mesh._run(
            ask_of_node("site.handback", name, check=check)
        )
        return done

    async def pause_link(self, site: str) -> dict[str, Any]:
        """As ``meshmq.Mesh.admin.pause_link``."""
        done: dict[str, Any] = await self._mesh._run(ask_of_link("link.pause", site))
        return done

    async def resume_link(self, site: str) -> dict[str, Any]:
        """As ``meshmq.Mesh.admin.resume_link``."""
        done: dict[str, Any] = await self._mesh._run(ask_of_link("link.resume", site))
        return done

    async def verify_link(
        self, site: str, topic: str | None = None, place: list[Any] | None = None,
        *, one: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """As ``meshmq.Mesh.admin.verify_link``."""
        step: dict[str, Any] = await self._mesh._run(*ask_verify(site, topic, place, one))
        return step

    async def status(self) -> dict[str, Any]:
        """Every counter of the node."""
        status: dict[str, Any] = await self._mesh._run(ask("status"))
        return status
