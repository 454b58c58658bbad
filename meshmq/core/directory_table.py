"""The rows of a site's directory: merged, looked up, hashed for comparison.

Data: a row by its key; topics by name; every row in one of 256 buckets, each of which has a hash
of its rows.

Rules:
1. Rows change by ``merge`` only, so it does not matter in which order they come.
2. A topic's retention is that of the newest rule that matches it and is of its kind (durable or
   transient). When that rule is removed, the topics there are keep what they have.
3. Of one name with several topics (two nodes made it before they knew of each other) it is
   durable if one of them is, and the oldest id is the one that other nodes take.
4. What would exceed a bound is refused and counted; what is deleted is remembered for
   TOMBSTONE_NS, the newest TOMBSTONES_MAX of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import NamedTuple

from meshmq import limits
from meshmq.core.directory_rows import (
    COUNTER_BITS,
    NEVER,
    Forgotten,
    GroupRow,
    LinkRow,
    NodeRow,
    Row,
    RuleRow,
    Said,
    Stamp,
    TopicRow,
    merge,
    pack_row,
    stamps_of,
)
from meshmq.names import is_literal, matches

BUCKETS = 256

_MOST: dict[type, int] = {
    RuleRow: limits.TOPICS_MAX, TopicRow: limits.TOPICS_MAX, GroupRow: limits.GROUPS_MAX,
    LinkRow: limits.LINKS_PAUSED_MAX,
}  # fmt: skip


class Change(NamedTuple):
    """A row before (None: there was none) and after."""

    before: Row | None
    after: Row


class Policy(NamedTuple):
    """What holds for a topic; ``set``: NEVER where nobody has said anything."""

    durable: bool
    retention_ns: int
    retention_bytes: int
    set: Stamp
    copies: int = 0
    replicated: bool = False


class Table:
    """See the module's header.

    Args:
        rows: what the log holds.

    Attributes:
        rows: by key.
        ids: by name, the ids of its topics that live.
        unstored: keys of rows that the log does not have as they are now.
        refused: rows that were not taken because there were too many of their kind.
        newest_rule: the stamp of the newest word on any rule.
        nodes: rows of nodes, by key.
    """

    def __init__(self, rows: Mapping[bytes, Row]) -> None:
        self.rows: dict[bytes, Row] = {}
        self.ids: dict[str, set[bytes]] = {}
        self._wild: dict[str, RuleRow] = {}
        self._buckets: list[dict[bytes, int]] = [{} for _ in range(BUCKETS)]
        self._hashes = [0] * BUCKETS
        self._alive: dict[type, int] = dict.fromkeys(_MOST, 0)
        self.unstored: dict[bytes, None] = {}
        self.refused = 0
        self.newest_rule = NEVER
        self.nodes: dict[bytes, NodeRow] = {}
        for row in rows.values():
            self._put(None, row)

    # -- changes ----------------------------------------------------------------------------

    def take(self, row: Row, forget_before: int = 0) -> list[Change]:
        """Merge one row; return what that changes, of other rows too.

        What died before ``forget_before`` (a stamp's time) and is not known is passed over.
        """
        before = self.rows.get(row.key)
        after = merge(row, row if before is None else before)
        if after == before:
            return []
        if before is None and after.died > NEVER and after.died.time < forget_before:
            return []
        is_new = after.died == NEVER and (before is None or before.died != NEVER)
        if is_new and self._alive[type(row)] >= _MOST[type(row)]:
            self.refused += 1
            return []
        changes = [Change(before, after)]
        if isinstance(before, RuleRow) and isinstance(after, RuleRow) and not before.removed:
            changes += self._left_by(before, after)
        for old, new in changes:
            self._put(old, new)
            self.unstored[new.key] = None
        if self.dead > limits.TOMBSTONES_MAX:
            self._forget(sorted(self._died())[: limits.TOMBSTONES_MAX // 10])
        return changes

    def _left_by(self, rule: RuleRow, after: RuleRow) -> list[Change]:
        """Topics that go on with the retention of ``rule``, which no longer covers them."""
        changes = []
        for name in [rule.pattern] if is_literal(rule.pattern) else list(self.ids):
            if not matches(rule.pattern, name):
                continue
            for topic in self.topics(name):
                if topic.durable != rule.durable or self._newest(name, topic.durable) != rule:
                    continue
                if after.removed or after.durable != topic.durable:
                    left = topic._replace(
                        kept=rule.set, retention_ns=rule.retention_ns,
                        retention_bytes=rule.retention_bytes,
                    )  # fmt: skip
                    merged = merge(topic, left)
                    if merged != topic:
                        changes.append(Change(topic, merged))
        return changes

    def _put(self, before: Row | None, row: Row) -> None:
        key = row.key
        self.rows[key] = row
        number = bucket_of(key)
        new = int.from_bytes(blake2b(pack_row(row), digest_size=8).digest(), "little")
        self._hashes[number] ^= self._buckets[number].get(key, 0) ^ new
        self._buckets[number][key] = new
        if before is not None and before.died == NEVER:
            self._alive[type(row)] -= 1
            self._unlist(before)
        if row.died == NEVER:
            self._alive[type(row)] += 1
            self._list(row)
        if isinstance(row, NodeRow):
            self.nodes[key] = row
        if isinstance(row, RuleRow):
            self.newest_rule = max(self.newest_rule, row.set)

    def _list(self, row: Row) -> None:
        if isinstance(row, TopicRow):
            self.ids.setdefault(row.name, set()).add(row.topic_id)
        elif isinstance(row, RuleRow) and not is_literal(row.pattern):
            self._wild[row.pattern] = row

    def _unlist(self, row: Row) -> None:
        if isinstance(row, TopicRow):
            ids = self.ids[row.name]
            ids.discard(row.topic_id)
            if not ids:
                del self.ids[row.name]
        elif isinstance(row, RuleRow):
            self._wild.pop(row.pattern, None)

    def forget_dead(self, before: int) -> None:
        """Forget what died before a stamp's time."""
        self._forget([found for found in self._died() if found[0].time < before])

    def _died(self) -> Iterator[tuple[Stamp, bytes]]:
        return ((row.died, key) for key, row in self.rows.items() if row.died != NEVER)

    def _forget(self, found: Iterable[tuple[Stamp, bytes]]) -> None:
        for _, key in found:
            del self.rows[key]
            self.nodes.pop(key, None)
            number = bucket_of(key)
            self._hashes[number] ^= self._buckets[number].pop(key)
            self.unstored[key] = None

    def take_unstored(self) -> tuple[Said, ...]:
        """What the log is to be told."""
        keys, self.unstored = self.unstored, {}
        return tuple([self.rows.get(key) or Forgotten(key) for key in keys])

    # -- looked up --------------------------------------------------------------------------

    @property
    def dead(self) -> int:
        """Rows of what is deleted."""
        return len(self.rows) - len(self.nodes) - sum(self._alive.values())

    def alive(self, kind: type) -> int:
        """Rows of one kind that live."""
        return self._alive[kind]

    def rules(self) -> list[RuleRow]:
        """Those that hold, oldest first."""
        found = [r for r in self.rows.values() if isinstance(r, RuleRow) and not r.removed]
        return sorted(found, key=lambda rule: rule.set)

    def rule(self, pattern: str) -> RuleRow | None:
        """The one that holds for ``pattern``."""
        found = self.rows.get(b"r" + pattern.encode())
        return found if isinstance(found, RuleRow) and not found.removed else None

    def group(self, name: str) -> GroupRow | None:
        found = self.rows.get(b"g" + name.encode())
        return found if isinstance(found, GroupRow) else None

    def link(self, to: str) -> LinkRow | None:
        """The last word on the link with a site."""
        found = self.rows.get(b"l" + to.encode())
        return found if isinstance(found, LinkRow) else None

    def topics(self, name: str) -> list[TopicRow]:
        """Those of one name that live, the oldest first."""
        found = [self.rows[b"t" + topic_id] for topic_id in self.ids.get(name, ())]
        return sorted(
            [row for row in found if isinstance(row, TopicRow)],
            key=lambda row: (row.made, row.topic_id),
        )

    def is_deleted(self, topic_id: bytes) -> bool:
        """Whether a topic was deleted, as far as that is remembered."""
        found = self.rows.get(b"t" + topic_id)
        return isinstance(found, TopicRow) and found.deleted != NEVER

    def made(self, topic_id: bytes) -> Stamp:
        """When a topic was made, if it lives; else NEVER."""
        found = self.rows.get(b"t" + topic_id)
        if isinstance(found, TopicRow) and found.deleted == NEVER:
            return found.made
        return NEVER

    def topic_id(self, name: str, durable: bool) -> bytes | None:
        """The id that a node takes which has no such topic yet."""
        return next((t.topic_id for t in self.topics(name) if t.durable == durable), None)

    def _newest(self, name: str, durable: bool | None) -> RuleRow | None:
        """The newest rule that matches, of one kind or of any."""
        found = [rule for pattern, rule in self._wild.items() if matches(pattern, name)]
        literal = self.rule(name)
        if literal is not None:
            found.append(literal)
        found = [rule for rule in found if durable is None or rule.durable == durable]
        return max(found, key=lambda rule: rule.set, default=None)

    def policy(self, name: str) -> Policy:
        """What holds for a topic, whether it exists or would be made now."""
        topics = self.topics(name)
        rule = self._newest(name, any(t.durable for t in topics) if topics else None)
        durable = any(t.durable for t in topics) if topics else rule is None or rule.durable
        best = Policy(durable, 0, 0, NEVER)
        if rule is not None:
            best = Policy(
                durable, rule.retention_ns, rule.retention_bytes, rule.set, rule.copies,
                rule.replicated,
            )  # fmt: skip
        for topic in topics:
            if topic.durable == durable and topic.kept > best.set:
                best = Policy(durable, topic.retention_ns, topic.retention_bytes, topic.kept)
        return best

    # -- compared ---------------------------------------------------------------------------

    @property
    def root(self) -> int:
        """A hash of everything."""
        total = 0
        for found in self._hashes:
            total ^= found
        return total

    def digest(self) -> bytes:
        """The hashes of all buckets, packed."""
        return b"".join([found.to_bytes(8, "little") for found in self._hashes])

    def differing(self, digest: bytes) -> list[int]:
        """Buckets of which somebody's digest says something else."""
        mine = self.digest()
        if mine == digest:
            return []
        return [n for n in range(BUCKETS) if mine[8 * n : 8 * n + 8] != digest[8 * n : 8 * n + 8]]

    def keys_of(self, bucket: int) -> list[bytes]:
        return list(self._buckets[bucket])

    def newest(self, until: int) -> int:
        """The newest stamp's time that is not beyond ``until``."""
        times = [stamp.time for row in self.rows.values() for stamp in stamps_of(row)]
        return max([time for time in times if time <= until], default=0)


def bucket_of(key: bytes) -> int:
    """Which of the buckets a row belongs to."""
    return zlib.crc32(key) % BUCKETS


def time_of(unix_ms: int) -> int:
    """A stamp's time at the beginning of a ms."""
    return max(0, unix_ms) << COUNTER_BITS
