"""Groups, queues, dead letters and services for the asyncio client: as in ``admin_groups`` and
``admin``, awaited."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshmq.client.admin import Ask, ask, ask_services
from meshmq.client.admin_groups import (
    ask_group,
    ask_seek,
    ask_set,
    check_seek,
    only_kind,
    those_of,
    with_time,
)
from meshmq.client.dead_letter_asks import Steps, ask_show, listed, purging, replaying
from meshmq.client.dead_letters import DeadLetter, Search, check_limit, is_origin, origin_of
from meshmq.client.group_settings import group_of, named_settings, queue_of, start_of
from meshmq.client.opening import Opening
from meshmq.names import check_group

if TYPE_CHECKING:
    from meshmq.aio import Mesh


class _Asking:
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def _run(self, ask: Ask) -> Any:
        return await self._mesh._run(ask)

    async def _shown(self, ask: Ask) -> dict[str, Any]:
        answer: dict[str, Any] = await self._mesh._run(ask)
        return answer


class Groups(_Asking):
    """``mesh.admin.groups``. Every call raises GroupNotFound for a group that is not there."""

    async def create(
        self,
        group: str,
        pattern: str,
        *,
        order: str = "any",
        start: str | int | datetime = "earliest",
        **settings: Any,
    ) -> dict[str, Any]:
        """Make a group before its first consumer; what is there stays as it is.

        Args:
            group: its name.
            pattern: the topics it reads.
            order: ``"any"``, or ``"key"``: each key's records one after the other.
            start: ``"earliest"``, ``"new"``, an aware datetime or an offset (of one topic).
            settings: as for ``set``.

        Raises:
            GroupMismatch: it is there with another pattern or order.
        """
        wanted = group_of(group, pattern, order, start, named_settings(settings))
        return await self._shown(ask("group.create", **wanted))

    async def list(self) -> builtins.list[dict[str, Any]]:
        """All groups (not queues), by name."""
        return those_of(await self._run(ask("group.list", "groups")), "group")

    async def show(self, group: str) -> dict[str, Any]:
        """Its state and lag, true at this moment: ``ready``, ``in_flight``, ``delayed``,
        ``retrying``, ``held``, ``dead``, ``records``, ``bytes``, ``oldest_seconds`` and the
        ``members`` with what each holds."""
        return await self._shown(ask_group("group.show", group))

    async def set(self, group: str, **settings: Any) -> dict[str, Any]:
        """Change settings of a group or queue.

        Args:
            group: its name.
            settings: any of max_deliveries (1 to 1000), backoff and backoff_max (``"1s"`` or
                seconds), max_held (records behind keys that wait), rate (records a second, 0:
                no limit); of a queue also max_records, max_bytes, dedup_window.
        """
        return await self._shown(ask_set(group, settings))

    async def delete(self, group: str) -> dict[str, Any]:
        """Delete it with its state and its dead letters; the topics' records stay."""
        return await self._shown(ask_group("group.delete", group))

    async def pause(self, group: str) -> dict[str, Any]:
        """Hand out nothing until ``resume``; what is out may be settled."""
        return await self._shown(ask_group("group.pause", group))

    async def resume(self, group: str) -> dict[str, Any]:
        """Go on after ``pause``."""
        return await self._shown(ask_group("group.resume", group))

    async def seek(
        self, group: str, start: str | int | datetime, *, node: str | None = None
    ) -> dict[str, Any]:
        """Read on from elsewhere: ``"earliest"``, ``"new"``, an aware datetime or an offset."""
        found = start_of(start)
        check_seek(found, node)
        if node is not None and not is_origin(node):
            node = origin_of(await self.show(group), node)
        return with_time(await self._shown(ask_seek(group, found, node)))


class Queues(_Asking):
    """``mesh.admin.queues``. Every call raises GroupNotFound for a queue that is not there."""

    async def create(
        self, queue: str, *, order: str | None = None, **settings: Any
    ) -> dict[str, Any]:
        """Make a queue before its first job; what is there stays as it is.

        Args:
            queue: its name, which is a topic's.
            order: ``"any"``, or ``"key"``: each key's jobs one after the other, no priorities.
            settings: as for ``groups.set``.

        Raises:
            GroupMismatch: it is there with another order.
        """
        wanted = queue_of(queue, order, named_settings(settings))
        return await self._shown(ask("group.create", **wanted))

    async def list(self) -> builtins.list[dict[str, Any]]:
        """All queues, by name."""
        return those_of(await self._run(ask("group.list", "groups")), "queue")

    async def show(self, queue: str) -> dict[str, Any]:
        """Its state, as ``groups.show`` tells it."""
        return only_kind(await self._shown(ask_group("group.show", queue)), "queue")

    async def set(self, queue: str, **settings: Any) -> dict[str, Any]:
        """Change settings: see ``groups.set``."""
        return await self._shown(ask_set(queue, settings))

    async def delete(self, queue: str) -> dict[str, Any]:
        """Delete it with its jobs and dead letters."""
        return await self._shown(ask_group("group.delete", queue))

    async def purge(self, queue: str) -> int:
        """Remove the jobs that wait, due or not; return how many. What is out stays out."""
        purged: int = await self._run(
            ask("queue.purge", "purged", queue=check_group(queue, "queue"))
        )
        return purged

    async def pause(self, queue: str) -> dict[str, Any]:
        """Hand out nothing until ``resume``; what is out may be settled."""
        return await self._shown(ask_group("group.pause", queue))

    async def resume(self, queue: str) -> dict[str, Any]:
        """Go on after ``pause``."""
        return await self._shown(ask_group("group.resume", queue))


class DeadLetters(_Asking):
    """``mesh.admin.dlq``: what a group or queue has given up."""

    async def show(self, group: str) -> dict[str, Any]:
        """How many there are (``records``) and their numbers (``ranges``: first and count)."""
        return await self._shown(ask_show(group))

    async def list(
        self, group: str, limit: int = 100, *, wanted: Iterable[Any] | None = None,
        node: str | None = None,
    ) -> builtins.list[DeadLetter]:  # fmt: skip
        """The oldest dead letters, at most ``limit`` (from 1) of them: see ``list`` of the
        synchronous client."""
        check_limit(limit)
        search = Search(group, listed(await self.show(group), wanted, node), limit)
        while not search.is_over:
            async with Opening(lambda: self._mesh._open(search.wish()), "list(...)") as sub:
                while True:
                    messages = await sub.fetch(1000, self._mesh._timeout)
                    if not messages:
                        search.give_up()
                    if not search.take(messages):
                        break
        return search.found

    async def replay(
        self, group: str, wanted: Iterable[Any] | None = None, *, rate: float | None = None,
        node: str | None = None,
    ) -> int:  # fmt: skip
        """Put dead letters back to where they came from; return how many.

        Their attempts count from the beginning again; their headers keep the lineage. They are
        moved in the background: ``show`` counts down.

        Args:
            group: the group or queue.
            wanted: DeadLetters, their numbers or (first, count) pairs; None: all.
            rate: so many a second at most; the call then takes as long. None: at once.
            node: name or origin of the node whose numbers are meant, in a site. It is needed where
                several nodes have dead letters of one number; a DeadLetter says so itself.

        Raises:
            OwnerAway: the node that has them cannot be reached.
        """
        return await self._drive(replaying(group, wanted, node, rate))

    async def purge(
        self, group: str, wanted: Iterable[Any] | None = None, *, node: str | None = None
    ) -> int:
        """Remove dead letters for good, named as for ``replay``; return how many."""
        return await self._drive(purging(group, wanted, node))

    async def _drive(self, steps: Steps) -> int:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                return int(done.value)
            if isinstance(step, float):
                await asyncio.sleep(step)
                self._mesh._connection.check()
            else:
                answer = await self._run(step)


class ServiceList(_Asking):
    """``mesh.admin.services``."""

    async def list(self, pattern: str = ">") -> builtins.list[dict[str, Any]]:
        """Services that match, by name: see ``list`` of the synchronous client."""
        found: builtins.list[dict[str, Any]] = await self._run(ask_services(pattern))
        return found
