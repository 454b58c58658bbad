"""Topics, services and status of the node a client is connected to."""

from __future__ import annotations

import builtins
import json
import re
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.client.channel import Channel
from meshmq.client.values import is_text
from meshmq.errors import InvalidArgument
from meshmq.names import check_mesh, check_pattern

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_UNITS_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
                "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def parse_duration(text: str | float | None) -> int:
    """``"7d"``, ``"12h"``, ``"30m"``, ``"90s"``, ``"500ms"`` or seconds, in ns; None is 0."""
    if text is None:
        return 0
    if isinstance(text, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", text)
        if not found:
            raise InvalidArgument(f"{text!r} is not a duration: write it like 7d, 12h, 30m or 90s")
        return _bounded(float(found[1]) * _UNITS_NS[found[2]], text)
    if not isinstance(text, int | float):
        raise InvalidArgument(f"{text!r} is not a duration: give seconds, or a text like 7d or 30m")
    return _bounded(text * 10**9, text)


def parse_size(text: str | int | None) -> int:
    """``"10GB"``, ``"64MiB"`` or bytes, in bytes; None is 0."""
    if text is None:
        return 0
    if isinstance(text, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b)\s*", text.lower())
        if not found or found[2] == "ib":
            raise InvalidArgument(f"{text!r} is not a size: write it like 10GB or 64MiB")
        return _bounded(float(found[1]) * _UNITS_BYTES[found[2]], text)
    if not isinstance(text, int | float):
        raise InvalidArgument(f"{text!r} is not a size: give bytes, or a text like 10GB or 64MiB")
    return _bounded(text, text)


def _bounded(value: float, given: object) -> int:
    """``value`` as what a node takes for an age or a size."""
    if not 0 <= value < 1 << 62:  # false for what is not a number, too
        raise InvalidArgument(f"{given!r} is not between 0 and what a node can count (2**62)")
    return int(value)


class Ask(NamedTuple):
    """One admin command and what of its answer is wanted; the same for both clients."""

    verb: str
    arguments: bytes
    part: str = ""

    def read(self, body: bytes) -> Any:
        """What the command returns, from the node's answer."""
        answer = json.loads(body)
        return answer[self.part] if self.part else answer


def ask(verb: str, part: str = "", **arguments: Any) -> Ask:
    """A command with its arguments; raises InvalidArgument for what JSON has no form for."""
    try:
        return Ask(verb, json.dumps(arguments).encode(), part)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{verb}: {arguments!r} cannot be sent: {error}") from None


def ask_last(topic: str, part: str = "last", at_least: bool = False) -> Ask:
    """``producer.last``; ``at_least``: whatever is known now will do."""
    more = {"at_least": True} if at_least else {}
    return ask("producer.last", part, topic=topic, **more)


def check_node(name: object, how: str = "a text") -> None:
    """Raise InvalidArgument for what names no node."""
    if not isinstance(name, str) or not name or not is_text(name):
        raise InvalidArgument(f"a node is named by {how}, not {cut(name)}")
    if len(name) > limits.PEER_NAME_MAX:
        raise InvalidArgument(
            f"a node's name has at most {limits.PEER_NAME_MAX} characters, not {len(name)}"
        )


def ask_of_node(verb: str, name: object, **flags: Any) -> Ask:
    """``node.takeover`` and ``node.forget``, checked."""
    check_node(name)
    for what, flag in flags.items():
        if not isinstance(flag, bool):
            raise InvalidArgument(f"{what} is True or False, not {cut(flag)}")
    return ask(verb, name=name, **flags)


def ask_of_link(verb: str, site: object) -> Ask:
    """``link.pause`` and ``link.resume``, checked."""
    if not isinstance(site, str):
        raise InvalidArgument(f"a site is named by a text, not {cut(site)}")
    return ask(verb, name=check_mesh(site))


def ask_verify(
    site: str, topic: str | None, place: list[Any] | None, one: bool
) -> tuple[Ask, float]:
    """``link.verify``, and how long the node may take in seconds."""
    wanted = ask("link.verify", site=site, topic=topic, place=place, one=one)
    return wanted, limits.VERIFY_NS / limits.SECOND


def cut(value: object) -> str:
    """How a value is repeated in a sentence: not all of a long one."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def ask_create(
    pattern: str,
    durability: str,
    retention: str | float | None,
    retention_bytes: str | int | None,
    copies: int | None = None,
    confirm: str | None = None,
) -> Ask:
    """``topics.create``."""
    kept: dict[str, Any] = {}
    if retention is not None:
        kept["retention_ns"] = parse_duration(retention)
    if retention_bytes is not None:
        kept["retention_bytes"] = parse_size(retention_bytes)
    if copies is not None:
        kept["copies"] = copies
    if confirm is not None:
        kept["confirm"] = confirm
    return ask("topic.create", pattern=check_pattern(pattern), durability=durability, **kept)


def ask_services(pattern: str) -> Ask:
    """``services.list``."""
    return ask("service.list", "services", pattern=check_pattern(pattern))


ROUTES = ask("route.list", "routes")


UNDRAIN = ask("node.undrain")


def ask_drain(timeout: object, stay: object, force: object) -> tuple[Ask, float]:
    """``node.drain``, and how long it may take in seconds."""
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise InvalidArgument(f"timeout is a number of seconds, not {timeout!r}")
    if not 0 <= timeout <= limits.DAY // limits.SECOND:  # false for what is not a number, too
        raise InvalidArgument(f"timeout is from 0 to 86400 seconds, not {timeout!r}")
    for name, flag in (("stay", stay), ("force", force)):
        if not isinstance(flag, bool):
            raise InvalidArgument(f"{name} is True or False, not {flag!r}")
    timeout_ns = int(timeout * limits.SECOND)
    return ask("node.drain", timeout_ns=timeout_ns, stay=stay, force=force), float(timeout)


class Topics:
    """``mesh.admin.topics``."""

    def __init__(self, connection: Channel, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def _run(self, ask: Ask) -> Any:
        return ask.read(self._connection.command(ask.verb, ask.arguments, self._timeout))

    def create(
        self,
        pattern: str,
        *,
        durability: str = "durable",
        retention: str | float | None = None,
        retention_bytes: str | int | None = None,
        copies: int | None = None,
        confirm: str | None = None,
    ) -> dict[str, Any]:
        """Make a topic, or set the policy of all topics that match a pattern.

        One that is there keeps what is not given.

        Args:
            pattern: a topic's name, or a pattern.
            durability: ``durable`` (kept on disk) or ``transient`` (may be lost, never stored).
            retention: how long records are kept (``"7d"``, or seconds); 0 is for ever, as is
                None for a new one.
            retention_bytes: how many bytes of each topic are kept (``"10GB"``); 0 is all, as is
                None for a new one.
            copies: how many nodes of the site have each stream of it, of what is published from
                then on; 0: as many as each node is started with.
            confirm: what receipts wait for where who publishes does not say: ``"synced"``, or
                ``"replicated"``: that all copies are.

        Returns:
            ``pattern``, ``durability``, ``retention_ns``, ``retention_bytes``, and whether it was
            ``created`` or ``changed``. ``note``: what the policy asks for that the site cannot do
            yet, in words.
        """
        made: dict[str, Any] = self._run(
            ask_create(pattern, durability, retention, retention_bytes, copies, confirm)
        )
        return made

    def list(self, pattern: str = ">") -> builtins.list[dict[str, Any]]:
        """Topics that match, by name."""
        topics: builtins.list[dict[str, Any]] = self._run(
            ask("topic.list", "topics", pattern=pattern)
        )
        return topics

    def policies(self) -> builtins.list[dict[str, Any]]:
        """Policies by pattern, the newest last (it wins)."""
        found: builtins.list[dict[str, Any]] = self._run(ask("topic.list", "policies", pattern=">"))
        return found

    def show(self, topic: str) -> dict[str, Any]:
        """One topic; raises TopicNotFound. In a site ``streams`` tells of each stream whose it is
        (``owner``), and which nodes copy it (``copied_to``)."""
        shown: dict[str, Any] = self._run(ask("topic.show", topic=topic))
        return shown

    def delete(self, topic: str) -> dict[str, Any]:
        """Delete a topic with its records, or a policy; raises TopicNotFound."""
        deleted: dict[str, Any] = self._run(ask("topic.delete", topic=topic))
        return deleted


class ServiceList:
    """``mesh.admin.services``."""

    def __init__(self, connection: Channel, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def list(self, pattern: str = ">") -> builtins.list[dict[str, Any]]:
        """Services that match and have instances or requests at the node, or in its site, by name.

        Of each: ``service``, ``requests`` so far, ``waiting`` (for an instance with room),
        ``expired`` (at their deadline), and its ``instances``: ``client`` (the program's name),
        ``state`` (``"serving"`` or ``"draining"``), ``concurrency``, ``in_flight``, ``served``,
        ``failed``, and how long requests took, ``p50_us`` and ``p99_us`` (None: none lately).
        In a site also ``nodes``, those where it is served, this one first: ``node`` (its name),
        how many ``instances``, their ``concurrency`` together, how much of it is ``free``, and how
        many requests are ``waiting`` there; of others as they told last.
        """
        asked = ask_services(pattern)
        found: builtins.list[dict[str, Any]] = asked.read(
            self._connection.command(asked.verb, asked.arguments, self._timeout)
        )
        return found


class Admin:
    """``mesh.admin``."""

    def __init__(self, connection: Channel, timeout: float) -> None:
        from meshmq.client.admin_groups import DeadLetters, Groups, Queues

        self._connection = connection
        self._timeout = timeout
        self.topics = Topics(connection, timeout)
        self.groups = Groups(connection, timeout)
        self.queues = Queues(connection, timeout)
        self.dlq = DeadLetters(connection, timeout)
        self.services = ServiceList(connection, timeout)

    def routes(self) -> list[dict[str, Any]]:
        """How programs at the node have what others of them publish, of topics that may be lost.

        Of each pair that talks directly, or that the node has introduced: ``from`` and ``to``
        (names; also ``from_instance``, ``to_instance``), ``route`` (``"direct"`` or ``"node"``),
        and the ``patterns`` and ``services`` by which the node has introduced them. A program
        without such a pair has one row, without ``to``: all that it publishes goes by the node.
        The list ends at 512 KiB.
        """
        routes: list[dict[str, Any]] = self.topics._run(ROUTES)
        return routes

    def drain(
        self, timeout: float = 30.0, stay: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """Have the node let nobody in and send its programs to other nodes, then end.

        Returns when all are gone, or ``timeout`` seconds are over: the name of the ``node``, how
        many have ``moved``, and how many are ``left``. What these had under way is then as with a
        node that is lost. With ``stay`` the node does not end, until it is drained without.

        Where the node sees no other one there is nowhere to go: then it does so with ``force``
        only, no program moves, and ``forced`` says so.

        Raises:
            CommandFailed: it sees no other node, or the drain was undone.
        """
        wanted, seconds = ask_drain(timeout, stay, force)
        answer = self._connection.command(wanted.verb, wanted.arguments, seconds + self._timeout)
        drained: dict[str, Any] = wanted.read(answer)
        return drained

    def undrain(self) -> str:
        """Have a node that drains, or was drained with ``stay``, let programs in again; return its
        name. Programs that were asked to go still do. Connect with ``admin=True``.

        Raises:
            CommandFailed: it does not drain.
        """
        undone: dict[str, Any] = self.topics._run(UNDRAIN)
        return str(undone["node"])

    def takeover(
        self, name: str, *, assume_dead: bool = False, may_repeat: bool = False
    ) -> dict[str, Any]:
        """Let the node that we are at, which has a copy of the log of node ``name``, hand out what
        that one's groups and queues had not done.

        Args:
            name: of a node of the site that is gone.
            assume_dead: do not refuse because it was seen lately.
            may_repeat: do not refuse because the copy lacks part of what groups had done.

        Returns:
            ``epoch``, and the names of ``groups``; of those ``skipped`` something else has the
            name here. ``origins``: its logs; more than one, if its disk was lost once. Records are
            moved in the background: ``status`` tells how many so far, and which nobody can read.

        Raises:
            CommandFailed: it is alive, may be, or no copy of it is kept here.
        """
        done: dict[str, Any] = self.topics._run(
            ask_of_node("node.takeover", name, assume_dead=assume_dead, may_repeat=may_repeat)
        )
        return done

    def forget(self, name: str, *, assume_dead: bool = False) -> dict[str, Any]:
        """Drop what is left of node ``name``, which does not come back, at all nodes: copies of its
        log, and that it is named as away.

        Args:
            name: of a node of the site that is gone; of one that is there under another log, what
                is left of the older one.
            assume_dead: do not refuse because it was seen lately.

        Returns:
            ``origins``: the logs that are forgotten.

        Raises:
            CommandFailed: it is there, may be, or is not known; or its records are being moved.
        """
        done: dict[str, Any] = self.topics._run(
            ask_of_node("node.forget", name, assume_dead=assume_dead)
        )
        return done

    def site_takeover(
        self, name: str, *, assume_dead: bool = False, may_repeat: bool = False, check: bool = False
    ) -> dict[str, Any]:
        """Let our site finish what groups and queues of site ``name`` had not done, as far as that
        has arrived here.

        Args:
            name: of the other site, which is lost.
            assume_dead: do it though the site may be alive, and go on handing out the same.
            may_repeat: do it though a mirror lacks part of what groups had done.
            check: only say what it would do.

        Returns:
            ``doubt``: why it may be alive, or another site at its work, or empty; with that nothing
            is done without ``assume_dead``. ``unheard``: other sites that no node of ours sees, so
            that they may take it over as well. ``nodes``: for each node of our site ``refused``, a
            reason or empty, ``done`` and ``logs`` that it has: ``name``, ``epoch``, ``groups``,
            ``records``.
            ``away``: nodes of our site that cannot be asked.

        Raises:
            CommandFailed: it is our own site, or the node belongs to none.
        """
        done: dict[str, Any] = self.topics._run(
            ask_of_node(
                "site.takeover", name, assume_dead=assume_dead, may_repeat=may_repeat, check=check
            )
        )
        return done

    def site_handback(self, name: str, *, check: bool = False) -> dict[str, Any]:
        """Return to site ``name``, which is back, what is left of its groups' work here.

        Args:
            name: of the other site, which ours has taken over.
            check: only say how much that is.

        Returns:
            ``nodes``, as of ``site_takeover``: ``records`` of a log are those that are left. They
            go back in the background: ``status`` tells when all have (``over``).

        Raises:
            CommandFailed: what was taken over is still being moved.
        """
        done: dict[str, Any] = self.topics._run(ask_of_node("site.handback", name, check=check))
        return done

    def pause_link(self, site: str) -> dict[str, Any]:
        """Pull nothing from ``site``, at all nodes of our own one, until it is resumed.

        Holds over restarts, and at nodes that are away when they come back. Mirrors keep what they
        have. Says the same again if it is paused already.

        Returns:
            ``to``, ``paused``, whether that is new (``changed``), and who has said so and when:
            ``set_by`` (a node's name), ``set_origin``, ``set_at_ms`` (unix).

        Raises:
            CommandFailed: the node has no link to that site, or belongs to none itself.
        """
        done: dict[str, Any] = self.topics._run(ask_of_link("link.pause", site))
        return done

    def resume_link(self, site: str) -> dict[str, Any]:
        """Pull from ``site`` again, from where it was; as ``pause_link``, also of a link that the
        node has no more, if it is paused."""
        done: dict[str, Any] = self.topics._run(ask_of_link("link.resume", site))
        return done

    def verify_link(
        self, site: str, topic: str | None = None, place: list[Any] | None = None,
        *, one: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Compare one range of what the node that we are at and another site have of one log, from
        their disks; at most about 16 MiB.

        Args:
            site: the other one; the node must be linked with it.
            topic: a pattern; None: all that they have in common.
            place: as the step before has answered; None: from the beginning.
            one: go no further than the stream of ``place``.

        Returns:
            ``differences``: of each batch that is not the same ``topic``, ``offset``, ``count``,
            ``log``, and whether it is ``"whole"``, ``"damaged"`` or ``"missing"`` ``here`` and
            ``there``. ``done``: there is nothing more; else ``place``, for the next step, and what
            was compared: ``topic``, ``log``, ``records``, ``bytes``. What is damaged on one side is
            then mended from the other one, by itself.

        Raises:
            CommandFailed: there is no link, or it broke.
        """
        wanted, seconds = ask_verify(site, topic, place, one)
        step: dict[str, Any] = wanted.read(
            self._connection.command(wanted.verb, wanted.arguments, seconds + self._timeout)
        )
        return step

    def status(self) -> dict[str, Any]:
        """Every counter of the node."""
        status: dict[str, Any] = self.topics._run(ask("status"))
        return status
