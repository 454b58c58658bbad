"""Keeps a node's own topics, rules and groups and the directory of its site in agreement.

Data: the Directory; what the log is to be told of a turn.

Rules:
1. What is set here is a word of the directory in the same turn, and of the log in the same commit.
2. What a sibling says is done at once as an admin command would do it, before anything else
   happens: so a later command here builds on it.
3. Groups and queues are made at every node, so that a member can join anywhere. Topics are made
   where somebody publishes to them, with the id that the site has for the name.
4. No records are lost by agreeing, but for what somebody deleted: a topic that is durable at one
   node and transient at another becomes durable; where two nodes made a group under one name with
   another pattern, order or kind each keeps its own, and that is told (``conflicts``).
5. A seek is a word on its group, and each node does the last one once: what was done is in the
   group's own journal. A node that hears of it within LISTING_NS, as it does unless it was away,
   takes ``new`` for the end of its log; one that hears later takes the time of the seek. An offset
   is of one node's stream, so it is nobody else's, but counts as later than what was before.
6. What a node had before it belonged to a site gives way to what the site has set, but is not
   deleted by what the site deleted before that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from meshmq import limits
from meshmq.core import group_settings
from meshmq.core.directory import Directory
from meshmq.core.directory_rows import NEVER, GroupRow, LinkRow, Row, RuleRow, Stamp, TopicRow
from meshmq.core.directory_table import Policy
from meshmq.core.group_settings import Start
from meshmq.core.groups import Groups
from meshmq.core.journal import QUEUE, Settings
from meshmq.core.link_pauses import LinkPauses
from meshmq.core.log import Entry, LogState, RuleEntry, TopicEntry
from meshmq.core.topics import Topic, Topics
from meshmq.errors import MeshError
from meshmq.frames import Body, DirectoryFrame
from meshmq.names import is_literal, matches

_NOT_SETTINGS = ("id", "name", "deleted", "sought", "made")


class Registrar:
    """See the module's header.

    Args:
        state: what the log holds.
        name: the node's.
        forget: is told of topics that were deleted.

    Attributes:
        conflicts: by name of a group, why it is not here as the site has it.
        pauses: links with other sites that are paused.
    """

    def __init__(
        self, state: LogState, name: str, topics: Topics, groups: Groups,
        forget: Callable[[list[str]], None],
    ) -> None:  # fmt: skip
        self.directory = Directory(state.origin, name, state.directory)
        self.conflicts: dict[str, str] = {}
        self.pauses = LinkPauses(self.directory)
        self._table = self.directory.table
        self._topics = topics
        self._groups = groups
        self._forget = forget
        self._entries: list[Entry] = []
        self._is_following = False
        self._is_started = False
        self._again: set[str] = set()

    @property
    def _now_ns(self) -> int:
        return self._groups.shared.now_ns

    def set_wall(self, wall_ns: int, now_ns: int) -> None:
        """What time it is; the first time the node begins."""
        self.directory.set_wall(wall_ns, now_ns)
        if not self._is_started:
            self._is_started = True
            if not self._table.rows:
                self.directory.adopt(self._own_rows())
            self._topics.book = self
            self._groups.defined = self._on_group
            self._groups.sought = self._on_seek
            rows = list(self._table.rows.values())
            self._follow([(None, row) for row in rows if isinstance(row, GroupRow)])

    def _own_rows(self) -> Iterable[Row]:
        """What the node had before it belonged to a site."""
        count = 2

        def stamp(time: int) -> Stamp:
            return Stamp(time, self.directory.origin, self.directory.name)

        for rule in self._topics.rules.values():
            age, size = rule.retention_ns, rule.retention_bytes
            policy = age, size, False, rule.copies, rule.replicated
            yield RuleRow(rule.pattern, stamp(count), rule.durable, *policy)
            count += 1
        for name, topic in self._topics.by_name.items():
            if not name.startswith("$"):
                entry = topic.entry
                age, size = entry.retention_ns, entry.retention_bytes
                kept = stamp(1) if age or size else NEVER
                yield TopicRow(
                    entry.topic_id, name, entry.durable, stamp(1), NEVER, kept, age, size
                )
        for name, group in self._groups.by_name.items():
            yield GroupRow(name, stamp(1), stamp(1), _said(group.settings, "earliest"))

    def take_entries(self) -> list[Entry]:
        """For the log, of this turn."""
        if self._again:
            names, self._again = self._again, set()
            rows = [self._table.group(name) for name in sorted(names)]
            self._follow([(row, row) for row in rows if row is not None])
        entries, self._entries = self._entries, []
        if self._table.unstored:
            entries += self.directory.take_unstored()
        return entries

    # -- siblings ---------------------------------------------------------------------------

    def join(self, origin: bytes, now_ns: int) -> None:
        """There is a control link with a sibling."""
        self.directory.join(origin, now_ns)
        self.directory.be_there(now_ns)

    def leave(self, origin: bytes, now_ns: int) -> None:
        """There is none any more."""
        self.directory.leave(origin, now_ns)

    def on_frame(self, origin: bytes, frame: DirectoryFrame, now_ns: int) -> None:
        """A sibling says something; raises BadFrame."""
        self.directory.on_frame(origin, frame, now_ns)
        changes, self.directory.changes = self.directory.changes, []
        if changes:
            self._follow([(change.before, change.after) for change in changes])

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames for siblings' control links, by origin."""
        return self.directory.take_sends()

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self.directory.tick(now_ns)
        self.directory.be_there(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` is due."""
        return self.directory.next_deadline_ns()

    # -- what the node does is told (core/topics.py: Book) ----------------------------------

    def topic_id(self, name: str, durable: bool) -> bytes | None:
        """The id that the site has for a topic."""
        return None if name.startswith("$") else self._table.topic_id(name, durable)

    def is_deleted(self, topic_id: bytes) -> bool:
        """Whether a topic was deleted, as far as that is remembered."""
        return self._table.is_deleted(topic_id)

    def roster(self) -> dict[bytes, str]:
        """Nodes of the site, with their names, that may know producers: those that were there
        within the time that producers are known."""
        return self.directory.roster(self._now_ns)

    def policy(self, name: str) -> RuleEntry | None:
        """What holds for a topic; None: nobody has said anything."""
        if name not in self._table.ids and self._table.policy(name).set == NEVER:
            return None
        found = self._policy(name)
        return RuleEntry(
            name, found.durable, found.retention_ns, found.retention_bytes, copies=found.copies,
            replicated=found.replicated,
        )  # fmt: skip

    def _policy(self, name: str) -> Policy:
        if self._is_queue(name):  # its jobs are kept until they are done
            return Policy(True, 0, 0, NEVER, *self._table.policy(name)[4:])
        return self._table.policy(name)

    def _is_queue(self, name: str) -> bool:
        group = self._groups.by_name.get(name)
        return group is not None and group.settings.kind == QUEUE

    def topics(self, pattern: str) -> Iterable[tuple[str, bool]]:
        """Topics of the site, and whether they are durable."""
        names = [pattern] if is_literal(pattern) else list(self._table.ids)
        for name in names:
            if name in self._table.ids and matches(pattern, name):
                yield name, self._table.policy(name).durable

    def made(self, entry: TopicEntry) -> None:
        """A topic is made here."""
        if not entry.name.startswith("$") and entry.topic_id not in self._table.ids.get(
            entry.name, ()
        ):
            self.directory.add_topic(entry.topic_id, entry.name, entry.durable, self._now_ns)

    def ruled(self, rule: RuleEntry) -> None:
        """Somebody has set a policy here."""
        self.directory.set_rule(
            rule.pattern,
            rule.durable,
            rule.retention_ns,
            rule.retention_bytes,
            self._now_ns,
            rule.copies,
            rule.replicated,
        )

    def deleted(self, name: str, entry: TopicEntry | None) -> bool:
        """Somebody deletes a topic or a policy here; whether the site had one."""
        if name.startswith("$"):
            return False
        known = name in self._table.ids or self._table.rule(name) is not None
        if self._is_following or name in self.conflicts:  # nobody said so of all there are
            if entry is not None:
                self.directory.delete_id(entry.topic_id, self._now_ns)
            return known
        self.directory.remove_rule(name, self._now_ns)
        self.directory.delete_topic(name, self._now_ns)
        return known

    def _on_group(self, settings: Settings, start: Start | None) -> None:
        """A group is made, changed or deleted here."""
        name = settings.name
        if self._is_following:
            return
        if name in self.conflicts:
            if settings.deleted:
                del self.conflicts[name]
                self._again.add(name)  # then it is made as the site has it
            return
        if settings.deleted:
            self.directory.delete_group(name, self._now_ns)
            return
        row = self._table.group(name)
        begin: Any = "earliest"
        if start is not None and start.name in ("new", "time"):
            now_ms = self.directory.wall_ms(self._now_ns)
            begin = {"time_ns": start.value if start.name == "time" else now_ms * limits.MS}
        elif start is None and row is not None and row.is_alive:
            begin = _start_of(row)
        self.directory.set_group(name, _said(settings, begin), self._now_ns)

    def _on_seek(self, name: str, start: Start) -> str:
        """A group is to go on elsewhere; the stamp of that."""
        row = self._table.group(name)
        if row is None or not row.is_alive or name in self.conflicts:
            return ""
        if start.name == "offset":
            after = (row.born, row.sought)
            return _text(self.directory.stamp(self._now_ns, *after))
        to = {"time_ns": start.value} if start.name == "time" else start.name
        return _text(self.directory.seek_group(row, json.dumps(to), self._now_ns))

    # -- what the site has, the node does likewise --------------------------------------------

    def _follow(self, changes: list[tuple[Row | None, Row]]) -> None:
        self._is_following = True
        try:
            self._follow_all(changes)
        finally:
            self._is_following = False

    def _follow_all(self, changes: list[tuple[Row | None, Row]]) -> None:
        names: dict[str, None] = {}
        for _, after in changes:
            if isinstance(after, RuleRow):
                self._follow_rule(after, names)
            elif isinstance(after, TopicRow):
                names[after.name] = None
        if any(isinstance(after, LinkRow) for _, after in changes):
            self.pauses.changed(self._now_ns)
        deleted = [name for name in names if self._follow_topic(name)]
        if deleted:
            self._forget(deleted)
        for before, after in changes:
            if isinstance(after, GroupRow):
                self._follow_group(before if isinstance(before, GroupRow) else None, after)

    def _follow_rule(self, row: RuleRow, names: dict[str, None]) -> None:
        if row.removed:
            self._topics.forget_rule(row.pattern, self._entries)
        else:
            rule = RuleEntry(
                row.pattern, row.durable, row.retention_ns, row.retention_bytes, copies=row.copies,
                replicated=row.replicated,
            )  # fmt: skip
            self._topics.policies += 1
            self._topics.version += 1
            self._topics.rules.pop(row.pattern, None)
            self._topics.rules[row.pattern] = rule
            self._entries.append(rule)
        if is_literal(row.pattern):
            names[row.pattern] = None
        else:
            names.update({n: None for n in self._topics.by_name if matches(row.pattern, n)})

    def _follow_topic(self, name: str) -> bool:
        """Make a topic here what it is in the site; whether one was deleted for that."""
        topic = self._topics.by_name.get(name)
        if topic is None or name.startswith("$"):
            return False
        ids = self._table.ids.get(name, set())
        entry = topic.entry
        is_known = entry.topic_id in ids
        if self._table.is_deleted(entry.topic_id) or (not ids and not entry.durable):
            self._topics.forget(name, self._entries)
            return True
        policy = self._policy(name)
        if policy.durable and not entry.durable:
            self._topics.forget(name, self._entries)
            self._topics.create(name, self._entries)
            return True
        if not is_known and not entry.durable:  # its records came before word of it
            self._rename(topic, self._table.topic_id(name, False) or entry.topic_id)
        kept = (policy.retention_ns, policy.retention_bytes, *policy[4:])
        if kept != (*topic.entry[4:6], topic.entry.copies, topic.entry.replicated):
            self._topics.keep(topic, policy, self._entries)
        return False

    def _rename(self, topic: Topic, topic_id: bytes) -> None:
        topic.entry = topic.entry._replace(topic_id=topic_id)
        self._entries.append(topic.entry)

    def _follow_group(self, before: GroupRow | None, row: GroupRow) -> None:
        name = row.name
        own = self._groups.by_name.get(name)
        if own is not None and before is not None and NEVER < before.born <= row.gone:
            if name not in self.conflicts and before.born.unix_ms:
                topic = self._topics.by_name.get(name)
                made = self._table.made(topic.entry.topic_id) if topic is not None else NEVER
                self._groups.delete(name, keeps_topic=made > row.gone)
                self._groups.forget_streams()
            elif not row.is_alive:  # another one was deleted, not that which is here
                self.directory.set_group(name, _said(own.settings, "earliest"), self._now_ns)
        self.conflicts.pop(name, None)
        if not row.is_alive:
            return
        try:
            self._define(row)
        except MeshError as error:
            self.conflicts[name] = str(error)
        else:
            self._seek(row)

    def _define(self, row: GroupRow) -> None:
        """Make a group, or give it its settings; raises what its settings are wrong with."""
        arguments = _arguments(row)
        paused = arguments.pop("paused", False) is True
        group, is_new = self._groups.create({**arguments, "group": row.name}, paused)
        numbers = group_settings.numbers(arguments)
        wanted = group.settings._replace(paused=paused, **numbers)  # type: ignore[arg-type]
        if not is_new and wanted != group.settings:
            self._groups.change(group, wanted)

    def _seek(self, row: GroupRow) -> None:
        """Do what was last sought, if that is not done."""
        group = self._groups.by_name[row.name]
        stamp = row.sought
        if stamp == NEVER or group.settings.kind == QUEUE:
            return
        try:
            start = group_settings.start_of({"start": json.loads(row.to)}, group.settings)
        except (ValueError, RecursionError, MeshError):
            return  # a later version's, or nobody's
        age_ms = self.directory.wall_ms(self._now_ns) - stamp.unix_ms
        if start.name == "new" and age_ms > limits.LISTING_NS // limits.MS:
            start = Start("time", stamp.unix_ms * limits.MS)
        if start.name != "offset":
            self._groups.seek(group, start, _text(stamp))

    # -- listings ---------------------------------------------------------------------------

    def rules(self) -> list[RuleEntry]:
        """Rules of the site, oldest first."""
        return [
            RuleEntry(
                rule.pattern,
                rule.durable,
                rule.retention_ns,
                rule.retention_bytes,
                copies=rule.copies,
                replicated=rule.replicated,
            )
            for rule in self._table.rules()
        ]

    def set_topic(self, name: str) -> dict[str, Any]:
        """Who has set a topic's policy and when, as listings show it."""
        return _shown(self._policy(name).set)

    def set_rule(self, pattern: str) -> dict[str, Any]:
        """The same of a rule."""
        rule = self._table.rule(pattern)
        return _shown(rule.set if rule is not None else NEVER)

    def set_group(self, name: str) -> dict[str, Any]:
        """The same of a group or queue, and why it is another one here, if it is."""
        row = self._table.group(name)
        shown = _shown(row.set if row is not None else NEVER)
        return {**shown, "conflict": self.conflicts.get(name, "")}

    def elsewhere(self, pattern: str) -> list[str]:
        """Topics that other nodes have and this one has not."""
        return [name for name, _ in self.topics(pattern) if name not in self._topics.by_name]

    def entry_of(self, name: str) -> TopicEntry:
        """One of those, as this node would make it."""
        policy = self._policy(name)
        topic_id = self._table.topic_id(name, policy.durable) or b""
        return TopicEntry(
            0, topic_id, name, policy.durable, policy.retention_ns, policy.retention_bytes
        )

    def describe(self) -> dict[str, Any]:
        """Counters, for ``status``."""
        return {**self.directory.describe(), "conflicts": dict(self.conflicts)}


def _said(settings: Settings, start: Any) -> str:
    """The definition of a group, in the one form it has."""
    said = {k: v for k, v in settings._asdict().items() if k not in _NOT_SETTINGS}
    return json.dumps({**said, "start": start}, sort_keys=True, separators=(",", ":"))


def _arguments(row: GroupRow) -> dict[str, Any]:
    """What ``create`` takes for a definition; raises CommandFailed."""
    return group_settings.parse(row.settings.encode())


def _text(stamp: Stamp) -> str:
    """As a text: they are ordered likewise."""
    return f"{stamp.time:016x}{stamp.origin.hex()}"


def _start_of(row: GroupRow) -> Any:
    try:
        return _arguments(row).get("start", "earliest")
    except MeshError:
        return "earliest"


def _shown(stamp: Stamp) -> dict[str, Any]:
    """0: before the node belonged to a site."""
    if stamp == NEVER:
        return {}
    return {"set_by": stamp.by, "set_origin": stamp.origin.hex(), "set_at_ms": stamp.unix_ms}
