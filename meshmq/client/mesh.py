"""``meshmq.connect`` and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

from meshmq import codec, limits
from meshmq.client import connecting
from meshmq.client.admin import Admin, ask_last
from meshmq.client.channel import Channel
from meshmq.client.connecting import (
    Where,
    Who,
    check_greeted,
    check_options,
    is_named,
    prepare,
    prepare_direct,
)
from meshmq.client.connection import Connection
from meshmq.client.opening import OnlySync
from meshmq.client.pushing import Pushing
from meshmq.client.receipt import Receipt, Receipts
from meshmq.client.seeking import Seeking
from meshmq.client.services import Services
from meshmq.client.subscription import Subscription
from meshmq.client.values import (
    check_column,
    check_key,
    check_route,
    check_seq,
    check_value,
    check_values,
    slices,
    to_ns,
)
from meshmq.client.wish import to_wish
from meshmq.client.work import Work
from meshmq.client.worker import tell_unused
from meshmq.core.lanes import Batch, Options
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.requester import DIRECTLY
from meshmq.core.ways import Way
from meshmq.durability import durability_of
from meshmq.errors import (
    BufferFull,
    DeadlineExceeded,
    DurabilityTimeout,
    InvalidArgument,
)
from meshmq.frames import SENT
from meshmq.names import Position, check_topic

_LAST_INDEX = limits.BATCH_RECORDS_MAX - 1
_LARGE, _OVERHEAD = limits.LARGE_VALUE_BYTES, limits.RECORD_OVERHEAD_BYTES
_bare = object.__new__


class StateChange(NamedTuple):
    """What ``on_state`` is called with: the new state and why, in words."""

    state: str
    reason: str


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
) -> Mesh:
    """Connect to a node, or directly to other programs, or both.

    Without a node the program publishes, subscribes, pushes, pulls, asks and serves directly to
    and from the programs it is linked with, and what needs a node raises NodeUnreachable. As soon
    as there is a node it is attached to that, and topics are what the node says they are; what may
    be lost still goes directly to those who can be reached.

    Args:
        url: the node's address, or a list of several (or one text, with commas between them), which
            are tried in turn; None takes MESHMQ_URL, else looks for a node at
            tcp://127.0.0.1:5757 and by mDNS, and for other programs by mDNS. If there is no node
            within 1.5 s, or ``timeout``, it begins without one (``state`` is then ``brokerless``),
            and looks on.
        mesh: name of the mesh; the node must belong to the same.
        producer: a name that keeps its numbers (``publish(seq=)``) over restarts, for one program.
        name: shown in listings; None: the script's name and process id.
        timeout: seconds to wait for the node, and for the answer to each later call.
        max_buffer: bytes of records accepted and not yet confirmed.
        on_full: what publish does when that is reached: ``"block"`` or ``"fail"`` (BufferFull).
        on_state: called with each StateChange, from any thread that works for the
            connection, one call at a time; must not block.
        insecure: allow other than loopback addresses without keys.
        peers: addresses where other programs, or nodes, listen, for example
            ``["tcp://127.0.0.1:7001"]``. They need not be there yet; those that are have answered
            when this returns, 200 ms later at most. ``[]``, and no ``listen``: those of the same
            mesh that mDNS finds.
        listen: where others may dial this program: an address, or several; None: a free port of
            127.0.0.1, or of all interfaces where it is to be found from other hosts.
        route: ``"auto"``; ``"node"``: all goes by a node, and there must be one; ``"direct"``:
            nodes are not looked for, and ignored.
        on_node_loss: ``"move"``: if its node dies, or drains, go to another one of its site, which
            the node has told of, or to another one of ``url``; with subscriptions, consumers,
            services, unconfirmed records (another node may have stored these as well:
            ``subscribe(dedup=True)``) and requests that may be asked twice. ``"wait"`` for it.
        durability: what receipts wait for where ``publish`` does not say; None: the topic's own.
        direct_reads: what is much at other nodes of the site is read there, if in reach.
        admin: for ``mesh.admin`` alone: a node that drains lets it in, and does not wait for it.

    Raises:
        NodeUnreachable: no node that was named (``route="node"``: none at all) answered in time.
        MeshMismatch, VersionMismatch, NodeDrains: a node answered and refused.
        ConfigError: the address cannot be used.
        InvalidArgument, InvalidName: an argument is not what it may be.
    """
    where = Where(url, peers, listen, route, on_node_loss, direct_reads, admin)
    check_options(where, producer, name, timeout, max_buffer, on_full, on_state)
    wanted = wanted_of(durability)
    callback = None if on_state is None else lambda s, r: on_state(StateChange(s, r))
    who = Who(mesh, producer, name, insecure)
    connection: Connection
    if where.talks_directly:
        connection = prepare_direct(who, callback, where)
    elif urls := where.targets:
        connection = prepare(urls, who, where, callback)
    else:
        connection = _seek(who, where, callback, timeout)
    connection.start()
    connection.wait_until(lambda: connection.is_greeted, timeout)
    check_greeted(connection)
    connection.publisher.default = wanted
    return Mesh(connection, timeout, max_buffer, on_full == "block", is_named(connection, producer))


def _seek(
    who: Who, where: Where, on_state: Callable[[str, str], None] | None, timeout: float
) -> Connection:
    """The connection to whichever node answers first; see ``seeking``."""

    def make(url: str, told: Callable[[str, str], None] | None) -> Connection:
        return prepare((url,), who, where, told)

    seeking = Seeking(make, connecting.DEFAULT_URL, who.mesh, who.insecure, timeout, on_state)
    try:
        for seconds in seeking.steps():
            connection = seeking.connection
            if connection.dead is None:
                connection.wait_until(lambda: seeking.connection.is_greeted, seconds)
            else:
                time.sleep(seconds)
    except BaseException:
        seeking.connection.close(0.0)
        raise
    finally:
        seeking.close()
    seeking.check()
    return seeking.connection


class Mesh(OnlySync, Work, Services, Pushing):
    """A connection to the mesh. Safe to use from several threads."""

    _promise = Receipt

    def __init__(
        self, connection: Channel, timeout: float, max_buffer: int, block: bool, named: bool
    ) -> None:
        self._connection = connection
        self._publisher = connection.publisher
        self._guard = connection.publisher.guard
        self._lanes = connection.publisher.lanes
        self._timeout = timeout
        self._publisher.buffer_bytes = self._publisher.ceiling_bytes = max_buffer
        self._block = block
        self._named = named
        self.admin = Admin(connection, timeout)
        self._begin_work()

    @property
    def state(self) -> str:
        """``connecting``, ``connected``, ``reconnecting``, ``brokerless`` or ``closed``."""
        return self._connection.state

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where other programs may dial this one; empty with ``route="node"``."""
        return self._connection.addresses

    def peers(self) -> list[dict[str, Any]]:
        """The programs that this one is linked with: ``name``, ``instance``, ``address`` if this
        one has dialled it, records ``delivered`` to it and ``dropped`` on the way, ``at_node``:
        whether it is at our node, and ``route``: ``"node"`` if it does not answer directly now."""
        return self._connection.peers()

    # -- publishing ---------------------------------------------------------------------------

    def publish(
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
        """Publish one record; returns at once, before it is confirmed.

        Args:
            topic: where to; made on first use, durable unless a policy says otherwise.
            value: at most 1 MiB.
            key: at most 1 KiB; an empty key is no key.
            headers: at most 32, 4 KiB together; str to str.
            timestamp: aware datetime or unix ns; None: the time its batch was begun.
            durability: what ``wait`` must reach: ``"sent"``; ``"synced"``; ``"replicated"``, where
                the node's site copies the topic; ``"mirrored:N"``, N from 1 to 16: so many other
                sites that are linked have synced it; None: as ``connect`` was told, else the
                topic's.
            seq: the program's own sequence number, from 1, rising per topic; with
                ``connect(producer=...)`` it makes publishing again after a restart harmless, at
                whatever node of a site. Such a topic's records have one all, from the first on.
            route: ``"auto"``: what the topic may lose goes directly to those who can be reached
                and by the node to the others, what it may not by the node; ``"node"``: by the node
                to all; ``"direct"``: only to those who are linked.

        Raises:
            InvalidName, InvalidArgument, MessageTooLarge: nothing was published.
            BufferFull: ``on_full="fail"`` and the buffer is full, or for ``timeout`` seconds all in
                it waits for nothing but copies; nothing was published.
            OwnerAway: ``seq`` with the topic for the first time, and a node cannot be reached that
                may know more of the producer; nothing was published.
        """
        publisher = self._publisher
        try:
            lane = self._lanes.get(topic)
        except TypeError:
            lane = None  # no text: refused where it is learned
        if (
            lane is None
            or key is not None
            or headers is not None
            or timestamp is not None
            or durability is not None
            or seq is not None
            or route != "auto"
            or type(value) is not bytes
            or (size := len(value)) > _LARGE
            or publisher.added_bytes >= publisher.ceiling_bytes
        ):
            return self._publish(topic, value, key, headers, timestamp, durability, seq, route)
        # The common case, without a call more than it needs: Publisher.add for a lone value.
        size += _OVERHEAD
        with self._guard:
            batch = lane.plain
            if batch is not None:
                values = batch.values
                index = len(values)
                values.append(value)
                batch.size += size
                publisher.added_bytes += size
                if batch.size >= batch.way.batch_bytes or index >= _LAST_INDEX:
                    publisher.close(batch)
        if batch is None:
            batch, index = publisher.add(
                topic, value, None, None, None, self._connection.wall_ns, publisher.default, None
            )
        if self._connection.sleeping:
            self._connection.published()
        # As its __init__ does, for half of what calling that costs.
        promise = _bare(self._promise)
        promise._batch, promise._index = batch, index
        return promise

    def _publish(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        headers: Mapping[str, str] | None,
        timestamp: datetime | int | None,
        durability: str | None,
        seq: int | None,
        route: str,
    ) -> Receipt:
        """``publish`` with everything it can do."""
        if seq is None:
            self._learn(topic)
        else:
            check_topic(topic)
        value = check_value(value)
        if key is not None:
            check_key(key)
        if seq is not None:
            check_seq(seq)
            self._connection.check_node("to know what an earlier run has published")
            self._learn_said(topic)
        coded = codec.encode_headers(headers) if headers else None
        time_ns = None if timestamp is None else to_ns(timestamp)
        wanted = self._wanted(durability, route)
        pin = self._pin(route, topic, wanted, seq)
        self._make_room()
        batch, index = self._publisher.add(
            topic, value, key, coded, time_ns, self._connection.wall_ns, wanted, seq, pin=pin
        )
        self._connection.published()
        return self._promise(batch, index)

    def publish_many(
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
        """Publish records of one topic in one call; returns a sequence of receipts.

        The columns have one item a record; ``headers`` may be one mapping for all. Limits and
        errors are those of ``publish``; if one record is invalid nothing is published.
        """
        batches = self._publish_many(
            topic, values, keys, headers, timestamps, durability, route=route
        )
        return Receipts(self._connection, batches, Receipt)

    def _publish_many(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None,
        timestamps: Sequence[datetime | int] | None,
        durability: str | None,
        options: Options | None = None,
        route: str = "auto",
    ) -> list[tuple[int, Batch]]:
        self._learn(topic)
        self._connection.check()
        wanted = self._wanted(durability, route)
        pin = None if route == "auto" else self._pin(route, topic, wanted, None)
        values = check_values(values)
        coded: list[bytes] | None = None
        if isinstance(headers, Mapping):
            coded = [codec.encode_headers(headers)] * len(values) if headers else None
            headers = None
        for name, column in (("keys", keys), ("headers", headers), ("timestamps", timestamps)):
            if column is not None:
                check_column(name, column, len(values))
        if headers is not None:
            coded = [codec.encode_headers(h) if h else b"" for h in headers]
        if keys is not None:
            for key in keys:
                if key is not None:
                    check_key(key)
        filled = None if keys is None else [key or b"" for key in keys]
        times = None if timestamps is None else [to_ns(t) for t in timestamps]
        publisher = self._publisher
        batches: list[tuple[int, Batch]] = []
        way = pin or publisher.lanes[topic].way
        for begin, end in slices(values, way.batch_bytes):
            self._make_room()
            batch = publisher.add_many(
                topic,
                values[begin:end],
                None if filled is None else filled[begin:end],
                None if coded is None else coded[begin:end],
                None if times is None else times[begin:end],
                self._connection.wall_ns,
                wanted,
                options,
                pin,
            )
            batches.append((begin, batch))
            self._connection.published()
        return batches

    def _pin(self, route: str, topic: str, wanted: int, seq: int | None) -> Way | None:
        """The way that ``publish(route=)`` names."""
        way = check_route(self._connection, route)
        if way != DIRECTLY:
            return self._publisher.node if way else None
        if self._lanes[topic].transient is False:
            raise InvalidArgument(f"topic {topic!r} is durable: it goes by the node")
        if wanted > SENT or seq is not None:
            raise InvalidArgument("what goes directly is not stored: no durability, no seq")
        return self._publisher.direct

    def _wanted(self, durability: str | None, route: str = "auto") -> int:
        if durability is None:
            return self._publisher.default if route != "direct" else TOPIC_DEFAULT
        wanted = wanted_of(durability)
        if wanted > SENT:
            self._connection.check_node(f"durability {durability!r}")
        return wanted

    def last_sequence(self, topic: str) -> int:
        """The highest sequence of this producer on ``topic``, over all nodes of the site; 0: none.

        Raises:
            OwnerAway: a node cannot be reached that may have more of it, and this run has published
                nothing with ``seq`` there yet.
        """
        check_topic(topic)
        said = self._publisher.said(topic)  # from then on no other run has numbered more
        return max(said or 0, int(self._do(ask_last(topic, at_least=said is not None))))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything published so far is confirmed.

        Raises:
            DeadlineExceeded: not within ``timeout`` seconds.
            DurabilityTimeout: all is stored, and not copied in time: do not resend.
            MeshError: the first failure since the last flush.
        """
        self._flush(timeout, self._publisher.unsettled())

    def _flush(self, timeout: float | None, batches: Sequence[Batch]) -> None:
        connection = self._connection
        connection.check()
        deadline = connection.deadline(timeout)
        for batch in batches:
            if not connection.wait_for(batch, connection.left(deadline)):
                raise self._not_flushed(timeout)
        failed = connection.take_failure()
        if failed is not None:
            raise failed

    def _untold(self) -> list[Batch]:
        """What ``close`` waits for: not what a receipt has said of, that it is stored and waits for
        its copies."""
        return [batch for batch in self._publisher.unsettled() if not batch.is_told]

    def _not_flushed(self, timeout: float | None) -> DeadlineExceeded | DurabilityTimeout:
        if self._publisher.waits_for_copies:
            return self._publisher.not_copied(timeout)
        return DeadlineExceeded(
            f"not everything was confirmed within {timeout} s "
            f"({self._publisher.buffered_bytes} bytes to go, {self.state})"
        )

    def _learn(self, topic: str) -> None:
        """Check a topic, and know it, on first use."""
        if isinstance(topic, str) and topic in self._lanes:
            return
        check_topic(topic)
        self._learn_lane(topic)

    def _learn_said(self, topic: str) -> None:
        """A program numbers the records of a topic itself: what is stored of them already?"""
        if not self._named:
            self._learn(topic)
        elif self._publisher.is_unsaid(topic):
            self._said(topic, self._do(ask_last(topic, part="")))

    def _said(self, topic: str, known: Mapping[str, Any]) -> None:
        """What the node has answered; one that knows no names tells of one kind of numbers."""
        last = int(known["last"])
        said, topic_id = int(known.get("said", last)), bytes.fromhex(known.get("topic_id", ""))
        self._publisher.number_by_program(topic, last, said, topic_id)

    def _make_room(self) -> None:
        """Wait, or fail, while the buffer is full; raise if the connection is no more."""
        connection, publisher = self._connection, self._publisher
        connection.check()
        if publisher.added_bytes < publisher.ceiling_bytes:
            return
        if not self._block:
            raise self._buffer_full()
        while not connection.wait_until(self._has_room, self._room_timeout):
            self._check_copies()
        connection.check()

    @property
    def _room_timeout(self) -> float:
        return max(self._timeout, 0.1)  # else who waits would not

    def _check_copies(self) -> None:
        """Raise BufferFull where the buffer holds nothing but what waits for copies: nobody knows
        for how long."""
        publisher = self._publisher
        if publisher.waits_for_copies:
            raise BufferFull(
                f"{publisher.buffered_bytes} bytes are stored and wait for their copies only, the "
                f"limit is {publisher.buffer_bytes} (connect(max_buffer=...)): "
                f"{publisher.too_few}"
            )

    def _buffer_full(self) -> BufferFull:
        publisher = self._publisher
        return BufferFull(
            f"{publisher.buffered_bytes} bytes wait for confirmation, the limit is "
            f"{publisher.buffer_bytes} (connect(max_buffer=...)); state: {self.state}"
        )

    def _has_room(self) -> bool:
        # A quarter at a time: a publisher woken for every batch would wake for each record.
        publisher = self._publisher
        low = publisher.buffer_bytes * 3 // 4
        return publisher.buffered_bytes <= low or self._connection.dead is not None

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
    ) -> Subscription:
        """Read topics that match ``pattern``, those that are made later too.

        When it returns, every record published from now on will come (``start="new"``).

        Args:
            pattern: ``*`` stands for one token, a final ``>`` for one or more.
            start: ``"new"``; ``"earliest"``; an aware datetime: the first commit not older; a
                position (``msg.position`` or its str): behind that record, and where reading was
                in the logs of other nodes; an offset of one topic: in the log of the node that we
                are at, while of the others comes what is new.
            prefetch_bytes, prefetch_records: what may be on its way or wait in this process;
                a batch is never split, so it may be exceeded by one.
            on_missed: called with how many records were passed over, as ``on_state`` is;
                ``missed`` and ``damaged`` of the subscription have the sums.
            dedup: drop what came already from the log of another node: a record that was not
                confirmed when the publisher's node was lost may be in two.
            scope: ``"site"``: nothing of what is mirrored here of other sites.

        Raises:
            InvalidName, InvalidArgument, OffsetOutOfRange, DurabilityUnavailable.
            DeadlineExceeded: the node did not answer.
        """
        window = (prefetch_bytes, prefetch_records)
        wish = to_wish(pattern, start, *window, on_missed, dedup, scope)
        self._connection.check_use()
        return Subscription(self._connection, wish, self._timeout)

    # -- ending -------------------------------------------------------------------------------

    def close(self, timeout: float = 5.0) -> None:
        """Wait up to ``timeout`` seconds for confirmations, then end; safe to call twice.

        Consumers are closed first: what they hold unsettled goes to others.

        Raises:
            DurabilityTimeout: all is stored, and not copied in time: do not resend. Not for records
                whose receipts have said so.
            MeshError: what was published could not all be confirmed.
        """
        connection = self._connection
        if connection.dead is not None:
            connection.close(timeout)
            return
        tell_unused(self._workers, "mesh.run()")
        try:
            self._close_consumers(timeout)
            self._flush(timeout, self._untold())
        finally:
            connection.close(max(timeout, 1.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close_consumers(1.0)
            self._connection.close(1.0)

    def __repr__(self) -> str:
        return f"Mesh({self._connection.url!r}, {self.state})"


def wanted_of(name: str | None) -> int:
    """What a program that says ``durability`` waits for; None: TOPIC_DEFAULT."""
    if name is None:
        return TOPIC_DEFAULT
    return durability_of(name)
