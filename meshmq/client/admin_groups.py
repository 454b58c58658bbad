"""Groups, queues and dead letters of the node a client is connected to."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from meshmq.client.admin import Ask, ask, check_node
from meshmq.client.channel import Channel
from meshmq.client.dead_letter_asks import Steps, ask_show, listed, purging, replaying
from meshmq.client.dead_letters import DeadLetter, Search, check_limit, is_origin, origin_of
from meshmq.client.group_settings import group_of, named_settings, queue_of, start_of
from meshmq.client.subscription import Subscription
from meshmq.errors import GroupMismatch, InvalidArgument
from meshmq.names import check_group


def ask_group(verb: str, group: str, part: str = "", **arguments: Any) -> Ask:
    """A command about one group or queue."""
    return ask(verb, part, group=check_group(group), **arguments)


def ask_set(group: str, settings: dict[str, Any]) -> Ask:
    """``groups.set``."""
    found = named_settings(settings)
    if not found:
        raise InvalidArgument("set needs a setting, like rate=100 or max_deliveries=10")
    return ask_group("group.set", group, **found)


def only_kind(shown: dict[str, Any], kind: str) -> dict[str, Any]:
    """What ``group.show`` told, if it is of that kind."""
    if shown.get("kind") != kind:
        raise GroupMismatch(f"{shown.get('group')!r} is a {shown.get('kind')}, not a {kind}")
    return shown


def those_of(groups: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """What of ``group.list`` is of one kind, by name."""
    return sorted((g for g in groups if g.get("kind") == kind), key=lambda g: str(g["group"]))


def check_seek(start: Any, node: object) -> None:
    """Raise InvalidArgument where no node is to be named."""
    if node is None:
        return
    check_node(node, "a text, its name or origin,")
    if not (isinstance(start, dict) and "offset" in start):
        raise InvalidArgument("a node is named, by its name or origin, with an offset only")


def ask_seek(group: str, start: Any, origin: str | None) -> Ask:
    """``groups.seek``."""
    if origin is not None:
        start = {**start, "origin": origin}
    return ask_group("group.seek", group, start=start)


def with_time(shown: dict[str, Any]) -> dict[str, Any]:
    """What a seek told, with the time as people write it."""
    start = shown.get("start")
    if isinstance(start, dict) and isinstance(start.get("time_ns"), int):
        seconds, ns = divmod(start["time_ns"], 10**9)
        at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ns // 1000)
        return {**shown, "start": at.isoformat()}
    return shown


class _Asking:
    def __init__(self, connection: Channel, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def _run(self, ask: Ask) -> Any:
        return ask.read(self._connection.command(ask.verb, ask.arguments, self._timeout))

    def _shown(self, ask: Ask) -> dict[str, Any]:
        answer: dict[str, Any] = self._run(ask)
        return answer


class Groups(_Asking):
    """``mesh.admin.groups``. Every call raises GroupNotFound for a group that is not there."""

    def create(
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
        return self._shown(ask("group.create", **wanted))

    def list(self) -> builtins.list[dict[str, Any]]:
        """All groups (not queues), by name."""
        return those_of(self._run(ask("group.list", "groups")), "group")

    def show(self, group: str) -> dict[str, Any]:
        """Its state and lag, true at this moment: ``ready``, ``in_flight``, ``delayed``,
        ``retrying``, ``held``, ``dead``, ``records``, ``bytes``, ``oldest_seconds`` and the
        ``members`` with what each holds."""
        return self._shown(ask_group("group.show", group))

    def set(self, group: str, **settings: Any) -> dict[str, Any]:
        """Change settings of a group or queue.

        Args:
            group: its name.
            settings: any of max_deliveries (1 to 1000), backoff and backoff_max (``"1s"`` or
                seconds), max_held (records behind keys that wait), rate (records a second, 0:
                no limit); of a queue also max_records, max_bytes, dedup_window.
        """
        return self._shown(ask_set(group, settings))

    def delete(self, group: str) -> dict[str, Any]:
        """Delete it with its state and its dead letters; the topics' records stay."""
        return self._shown(ask_group("group.delete", group))

    def pause(self, group: str) -> dict[str, Any]:
        """Hand out nothing until ``resume``; what is out may be settled."""
        return self._shown(ask_group("group.pause", group))

    def resume(self, group: str) -> dict[str, Any]:
        """Go on after ``pause``."""
        return self._shown(ask_group("group.resume", group))

    def seek(
        self, group: str, start: str | int | datetime, *, node: str | None = None
    ) -> dict[str, Any]:
        """Read on from elsewhere: ``"earliest"``, ``"new"``, an aware datetime or an offset.

        In a site this is done at all nodes; those of ``away`` in the answer do it when they are
        back. An offset is of the stream of one ``node`` (its name or origin), and is sought there
        only.

        Raises:
            OwnerAway: that node cannot be reached.
        """
        found = start_of(start)
        check_seek(found, node)
        if node is not None and not is_origin(node):
            node = origin_of(self.show(group), node)
        return with_time(self._shown(ask_seek(group, found, node)))


class Queues(_Asking):
    """``mesh.admin.queues``. Every call raises GroupNotFound for a queue that is not there."""

    def create(self, queue: str, *, order: str | None = None, **settings: Any) -> dict[str, Any]:
        """Make a queue before its first job; what is there stays as it is.

        Args:
            queue: its name, which is a topic's.
            order: ``"any"``, or ``"key"``: each key's jobs one after the other, no priorities.
            settings: as for ``groups.set``.

        Raises:
            GroupMismatch: it is there with another order.
        """
        wanted = queue_of(queue, order, named_settings(settings))
        return self._shown(ask("group.create", **wanted))

    def list(self) -> builtins.list[dict[str, Any]]:
        """All queues, by name."""
        return those_of(self._run(ask("group.list", "groups")), "queue")

    def show(self, queue: str) -> dict[str, Any]:
        """Its state, as ``groups.show`` tells it."""
        return only_kind(self._shown(ask_group("group.show", queue)), "queue")

    def set(self, queue: str, **settings: Any) -> dict[str, Any]:
        """Change settings: see ``groups.set``."""
        return self._shown(ask_set(queue, settings))

    def delete(self, queue: str) -> dict[str, Any]:
        """Delete it with its jobs and dead letters."""
        return self._shown(ask_group("group.delete", queue))

    def purge(self, queue: str) -> int:
        """Remove the jobs that wait, due or not; return how many. What is out stays out."""
        purged: int = self._run(ask("queue.purge", "purged", queue=check_group(queue, "queue")))
        return purged

    def pause(self, queue: str) -> dict[str, Any]:
        """Hand out nothing until ``resume``; what is out may be settled."""
        return self._shown(ask_group("group.pause", queue))

    def resume(self, queue: str) -> dict[str, Any]:
        """Go on after ``pause``."""
        return self._shown(ask_group("group.resume", queue))


class DeadLetters(_Asking):
    """``mesh.admin.dlq``: what a group or queue has given up."""

    def show(self, group: str) -> dict[str, Any]:
        """How many there are (``records``) and their numbers (``ranges``: first and count)."""
        return self._shown(ask_show(group))

    def list(
        self, group: str, limit: int = 100, *, wanted: Iterable[Any] | None = None,
        node: str | None = None,
    ) -> builtins.list[DeadLetter]:  # fmt: skip
        """The oldest dead letters, at most ``limit`` (from 1) of them; in a site of the nodes that
        answer (``show`` has the others in ``away``).

        Args:
            group: the group or queue.
            limit: at most so many.
            wanted: only those of these numbers or (first, count) pairs.
            node: only those at this node (its name or origin) of a site.
        """
        check_limit(limit)
        search = Search(group, listed(self.show(group), wanted, node), limit)
        while not search.is_over:
            with Subscription(self._connection, search.wish(), self._timeout) as sub:
                while True:
                    messages = sub.fetch(1000, self._timeout)
                    if not messages:
                        search.give_up()
                    if not search.take(messages):
                        break
        return search.found

    def replay(
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
        return self._drive(replaying(group, wanted, node, rate))

    def purge(
        self, group: str, wanted: Iterable[Any] | None = None, *, node: str | None = None
    ) -> int:
        """Remove dead letters for good, named as for ``replay``; return how many."""
        return self._drive(purging(group, wanted, node))

    def _drive(self, steps: Steps) -> int:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                return int(done.value)
            if isinstance(step, float):
                self._connection.wait_until(lambda: False, step)
                self._connection.check()
            else:
                answer = self._run(step)
