"""The topics of one node, their policies and the state every part of the node shares.

Data: a Topic per name; by stream number those that are durable; rules, which decide the policy of
a topic when it is made by its first publish. In a site all nodes have one Book of topics and rules,
of which a node makes those that it needs itself: ``book`` is asked first, and told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from meshmq.core.log import (
    COPIED_NO_MORE,
    Entry,
    LogState,
    ProducerState,
    RuleEntry,
    TopicEntry,
)
from meshmq.errors import TopicNotFound
from meshmq.names import JOURNAL, group_of, is_literal, matches, queue_of


@dataclass(slots=True)
class Topic:
    """One topic of this node.

    Attributes:
        next_offset: of the next record accepted.
        synced_offset: records before it are on disk (durable topics).
        first_offset: records before it are gone.
        producers: what each producer has sent here.
    """

    entry: TopicEntry
    next_offset: int = 0
    synced_offset: int = 0
    first_offset: int = 0
    published: int = 0
    producers: dict[bytes, ProducerState] = field(default_factory=dict)


class Book(Protocol):
    """What a site agrees on (core/registrar.py)."""

    def topic_id(self, name: str, durable: bool) -> bytes | None:
        """The id of a topic that another node has."""

    def is_deleted(self, topic_id: bytes) -> bool:
        """Whether a topic was deleted, as far as that is remembered."""

    def policy(self, name: str) -> RuleEntry | None:
        """What holds for a topic; None: nobody has said anything."""

    def topics(self, pattern: str) -> Iterable[tuple[str, bool]]:
        """Names of topics that exist, and whether they are durable."""

    def made(self, entry: TopicEntry) -> None: ...

    def ruled(self, rule: RuleEntry) -> None: ...

    def deleted(self, name: str, entry: TopicEntry | None) -> bool:
        """Whether there was anything of that name."""


class Kept(Protocol):
    """What of a policy holds for a topic that is there."""

    @property
    def retention_ns(self) -> int: ...
    @property
    def retention_bytes(self) -> int: ...
    @property
    def copies(self) -> int: ...
    @property
    def replicated(self) -> bool: ...


class Topics:
    """See the module's header.

    Args:
        state: what the log holds at start; what is needed of it is copied.
        entropy: makes topic ids.

    Attributes:
        by_name, by_stream: all topics; the durable ones by the number of their stream.
        rules: by pattern, oldest first.
        version: changes when a topic or a rule is made, changed or deleted.
        policies: changes when a policy does.
        copies: nodes that have a stream whose policy says nothing of that; set by the owner.
        is_alone: the node belongs to no site, so there are no copies; set by the owner.
        book: what the node's site agrees on; None: it is alone.
        copied: what copies of other logs know of a producer in a topic; set by the owner.
    """

    is_partial = False

    def __init__(self, state: LogState, entropy: random.Random) -> None:
        self._entropy = entropy
        self._next_stream = state.next_stream
        self.copies = 1
        self.is_alone = True
        self.policies = 0
        self.rules: dict[str, RuleEntry] = dict(state.rules)
        self.by_name: dict[str, Topic] = {}
        self.by_stream: dict[int, Topic] = {}
        self.version = 0
        self._had_copies = False  # the log was copied when that was noted last
        self.book: Book | None = None
        self.copied: Callable[[str, bytes], dict[str, Any]] = lambda name, producer: {}
        for name, s in state.topics.items():
            topic = Topic(s.topic, s.next_offset, s.next_offset, s.first_offset)
            self.by_name[name] = topic
            if s.topic.durable:
                self.by_stream[s.topic.stream] = topic
        for (producer, stream), p in state.producers.items():
            if stream in self.by_stream:
                self.by_stream[stream].producers[producer] = p.copy()

    def create(
        self, name: str, entries: list[Entry], policy: RuleEntry | None = None, told: bool = True
    ) -> Topic:
        """Make a topic by ``policy``, or by the newest rule that matches, or durable for ever.

        Args:
            told: the site is told of it; what only passes through is the business of others.
        """
        if policy is None:
            policy = self._rule_for(name) or RuleEntry(name, True, 0, 0)
        stream = self.new_stream() if policy.durable else 0
        topic_id = self.book.topic_id(name, policy.durable) if self.book is not None else None
        if topic_id is None:
            topic_id = self._entropy.getrandbits(128).to_bytes(16, "big")
        entry = TopicEntry(
            stream, topic_id, name, policy.durable, policy.retention_ns, policy.retention_bytes,
            copies=policy.copies, replicated=policy.replicated,
        )  # fmt: skip
        topic = self.by_name[name] = Topic(entry)
        if stream:
            self.by_stream[stream] = topic
            if not self.is_alone and self.copies_of(name) > 1:
                topic.entry = entry = entry._replace(copied_from=1)
        entries.append(entry)
        self.version += 1
        if self.book is not None and told:
            self.book.made(entry)
        return topic

    def of_source(self, source: int) -> Topic | None:
        """A stream by its number."""
        return self.by_stream.get(source)

    @staticmethod
    def kept_from(topic: Topic) -> int:
        """From where on its offsets are here."""
        return topic.first_offset

    trimmed_to = kept_from

    @staticmethod
    def has_before(topic: Topic, offset: int) -> bool:
        """Whether the record before an offset is here."""
        return topic.first_offset < offset

    def new_stream(self) -> int:
        """The number of one more stream in this log."""
        self._next_stream += 1
        return self._next_stream - 1

    def copies_of(self, name: str) -> int:
        """How many nodes are to have the stream of a topic, or would if it were made now. What
        groups have done goes wherever anything is copied to."""
        if name == JOURNAL:
            return self.copies_max
        policy = self._policy_of(name)
        return (policy.copies if policy is not None else 0) or self.copies

    def note_copies(self, entries: list[Entry]) -> None:
        """Note from where on each topic is copied: a copy that is there goes on where it is, so
        what a topic had before its copies were raised goes nowhere. Where nothing was copied until
        then, copies begin with the log."""
        is_first = not (self._had_copies or self._notes_copies)
        for topic in self.by_stream.values():
            was = topic.entry.copied_from not in (0, COPIED_NO_MORE)
            if was == (self.copies_of(topic.entry.name) > 1):
                continue
            begin = 1 if is_first else topic.next_offset + 1
            topic.entry = topic.entry._replace(copied_from=COPIED_NO_MORE if was else begin)
            entries.append(topic.entry)
        self._had_copies = self.copies_max > 1

    def copied_from(self, topic: Topic) -> int:
        """From which offset on others may have its records; its end: they have none."""
        if self.copies_of(topic.entry.name) < 2:
            return topic.next_offset
        noted = topic.entry.copied_from
        if not self._notes_copies:
            return 0  # the log is older than such notes
        return noted - 1 if noted not in (0, COPIED_NO_MORE) else topic.next_offset

    @property
    def _notes_copies(self) -> bool:
        """Whether the log says of any topic from where on it is copied."""
        return any(topic.entry.copied_from for topic in self.by_stream.values())

    def confirms_copies(self, name: str) -> bool:
        """Whether who publishes to a topic, and says nothing of that, waits for its copies."""
        policy = self._policy_of(name)
        return policy is not None and policy.replicated

    def _policy_of(self, name: str) -> TopicEntry | RuleEntry | None:
        name = queue_of(name) or name
        topic = self.by_name.get(name)
        return topic.entry if topic is not None else self._rule_for(name)

    @property
    def copies_max(self) -> int:
        """The most that any topic is to have."""
        named = [topic.entry.copies for topic in self.by_name.values()]
        return max([self.copies, *named, *[rule.copies for rule in self.rules.values()]])

    @property
    def confirmed_max(self) -> int:
        """The most copies that receipts of a topic wait for by its policy; 0: none do."""
        entries = [topic.entry for topic in self.by_name.values()]
        named = [entry.copies or self.copies for entry in entries if entry.replicated]
        ruled = [rule.copies or self.copies for rule in self.rules.values() if rule.replicated]
        return max([*named, *ruled], default=0)

    def _rule_for(self, name: str) -> RuleEntry | None:
        """The newest rule that matches."""
        if self.book is not None and not name.startswith("$"):
            return self.book.policy(name)
        found = [r for r in self.rules.values() if matches(r.pattern, name)]
        return found[-1] if found else None

    def is_durable(self, name: str) -> bool:
        """Whether a topic is durable, or would be if it were made now."""
        topic = self.by_name.get(name)
        if topic is not None:
            return topic.entry.durable
        rule = self._rule_for(name)
        return rule is None or rule.durable

    def was_deleted(self, name: str, topic_id: bytes) -> bool:
        """Whether what is known of a topic is of one that is no more; only a site remembers."""
        if self.book is not None:
            return self.book.is_deleted(topic_id)
        topic = self.by_name.get(name)
        return topic is None or topic.entry.topic_id != topic_id

    def existing(self, pattern: str) -> dict[str, bool]:
        """Topics that match, here or anywhere in the site, and whether they are durable."""
        found = {n: t.entry.durable for n, t in self.by_name.items() if matches(pattern, n)}
        if self.book is not None:
            found.update(self.book.topics(pattern))
        return found

    def set_policy(self, rule: RuleEntry, entries: list[Entry]) -> list[str]:
        """Keep ``rule`` for topics to come and apply it to those that match now.

        Returns:
            Names of topics it could not be applied to, because they are of the other kind
            (durable or transient): those must be deleted first.
        """
        self.rules.pop(rule.pattern, None)
        self.rules[rule.pattern] = rule
        entries.append(rule)
        if self.book is not None:
            self.book.ruled(rule)
        if is_literal(rule.pattern) and rule.pattern not in self.by_name:
            self.create(rule.pattern, entries, rule)
            self.policies += 1  # of the lanes of a queue
            return []
        unchanged = []
        for name, topic in self.by_name.items():
            if not matches(rule.pattern, name):
                continue
            if topic.entry.durable != rule.durable:
                unchanged.append(name)
                continue
            self.keep(topic, rule, entries)
        self.policies += 1
        self.version += 1
        return unchanged

    def keep(self, topic: Topic, policy: Kept, entries: list[Entry]) -> None:
        """Set a topic's retention, and on how many nodes it is to be."""
        topic.entry = topic.entry._replace(
            retention_ns=policy.retention_ns, retention_bytes=policy.retention_bytes,
            copies=policy.copies, replicated=policy.replicated,
        )  # fmt: skip
        self.policies += 1
        self.version += 1
        entries.append(topic.entry)

    def delete(self, name: str, entries: list[Entry]) -> None:
        """Delete a topic or a rule of that name; raise TopicNotFound if there is neither."""
        topic = self.by_name.get(name)
        entry = topic.entry if topic is not None else None
        is_known = self.book is not None and self.book.deleted(name, entry)
        if name not in self.rules and topic is None and not is_known:
            raise TopicNotFound(f"there is no topic or policy named {name!r}")
        self.forget_rule(name, entries)
        self.forget(name, entries)

    def forget_rule(self, pattern: str, entries: list[Entry]) -> None:
        """There is no such rule any more."""
        rule = self.rules.pop(pattern, None)
        if rule is not None:
            entries.append(rule._replace(removed=True))
            self.policies += 1
            self.version += 1

    def forget(self, name: str, entries: list[Entry]) -> None:
        """There is no such topic any more."""
        topic = self.by_name.pop(name, None)
        if topic is not None:
            self.by_stream.pop(topic.entry.stream, None)
            entries.append(topic.entry._replace(deleted=True))
            self.version += 1
            if group_of(name):
                self.policies += 1  # the next group of that name may be of other topics
