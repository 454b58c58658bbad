"""What the nodes of a site agree on, as rows: rules, topics by their ids, groups and queues, which
nodes there are, or were, and which links with other sites are paused.

Data: a row is the newest word on one thing. Its Stamps say when something was set, and by which
node. Rows with one key are merged; the log keeps them, and siblings tell each other of them, in
the same packed form.

Rules:
1. ``merge`` is commutative, associative and idempotent: whatever order words come in, and however
   often, the outcome is the same.
2. What is deleted by its identity stays deleted: a topic by its id, a group by the time it was
   made. No later word about it brings it back; what is made anew is another one.

Numbers are packed little-endian; ``pack`` and ``unpack`` are each other's inverse, so one row has
one form and one hash. Rows of an unknown kind are passed over: a later version may have more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.errors import BadFrame, InvalidName
from meshmq.names import check_group, check_mesh, check_pattern, check_topic

COUNTER_BITS = 16
"""Of a stamp's time: above them are unix ms, below what tells words of one ms apart."""

_FORGOTTEN, _RULE, _TOPIC, _GROUP, _NODE, _LINK = range(6)
_HEAD = struct.Struct("<BH")
_TIME = struct.Struct("<Q")
_WHO = struct.Struct("<16sH")
_SIZE = struct.Struct("<H")
_PAUSED = struct.Struct("<B")
_POLICY = struct.Struct("<BQQ")
_DURABLE, _REMOVED, _REPLICATED = 1, 2, 32
_COPIES_SHIFT, _COPIES_MASK = 2, 7  # of a rule


class Stamp(NamedTuple):
    """When something was set, and by whom; they are ordered. ``time``: see COUNTER_BITS."""

    time: int
    origin: bytes
    by: str

    @property
    def unix_ms(self) -> int:
        """By the clock of the node that set it, unless that had heard of a later word."""
        return self.time >> COUNTER_BITS


NEVER = Stamp(0, b"", "")


class RuleRow(NamedTuple):
    """The policy of topics that match ``pattern``; ``removed``: there is none any more."""

    pattern: str
    set: Stamp
    durable: bool
    retention_ns: int
    retention_bytes: int
    removed: bool = False
    copies: int = 0
    replicated: bool = False

    @property
    def key(self) -> bytes:
        return b"r" + self.pattern.encode()

    @property
    def died(self) -> Stamp:
        """When it was removed; NEVER: it lives."""
        return self.set if self.removed else NEVER


class TopicRow(NamedTuple):
    """One topic by its id.

    Attributes:
        made, deleted: when; NEVER: it lives.
        kept: the time of the removed rule whose retention it goes on with, and ``retention_ns``,
            ``retention_bytes`` are that rule's.
    """

    topic_id: bytes
    name: str
    durable: bool
    made: Stamp
    deleted: Stamp = NEVER
    kept: Stamp = NEVER
    retention_ns: int = 0
    retention_bytes: int = 0

    @property
    def key(self) -> bytes:
        return b"t" + self.topic_id

    @property
    def died(self) -> Stamp:
        return self.deleted


class GroupRow(NamedTuple):
    """The definition of a group or queue.

    Attributes:
        born: when it was made; NEVER: there is none.
        set: when ``settings`` were last changed.
        settings: a JSON object, in one form: what ``group.create`` takes, and ``paused``.
        gone: when one of this name was last deleted; those made before that are dead.
        sought: when it was last set to go on elsewhere at all nodes; NEVER, or later than both.
        to: where, a JSON text as ``group.seek`` takes it.
    """

    name: str
    born: Stamp
    set: Stamp
    settings: str
    gone: Stamp = NEVER
    sought: Stamp = NEVER
    to: str = ""

    @property
    def key(self) -> bytes:
        return b"g" + self.name.encode()

    @property
    def is_alive(self) -> bool:
        return self.born > self.gone

    @property
    def died(self) -> Stamp:
        return NEVER if self.is_alive else self.gone


class NodeRow(NamedTuple):
    """A node has said that it is one of the site: ``set`` tells which, and when."""

    set: Stamp

    @property
    def key(self) -> bytes:
        return b"n" + self.set.origin

    @property
    def died(self) -> Stamp:
        """What is not said again is forgotten as what was deleted is."""
        return self.set


class LinkRow(NamedTuple):
    """Whether what is pulled from site ``to`` is paused; without such a row it is not."""

    to: str
    set: Stamp
    paused: bool

    @property
    def key(self) -> bytes:
        return b"l" + self.to.encode()

    @property
    def died(self) -> Stamp:
        """When it was resumed; NEVER: it is paused."""
        return NEVER if self.paused else self.set


class Forgotten(NamedTuple):
    """In the log: the row with this key is no longer kept."""

    key: bytes


Row = RuleRow | TopicRow | GroupRow | NodeRow | LinkRow
Said = Row | Forgotten


def merge(a: Row, b: Row) -> Row:
    """The newest word of both, which have the same key."""
    if isinstance(a, TopicRow) and isinstance(b, TopicRow):
        return _merge_topics(a, b)
    if isinstance(a, GroupRow) and isinstance(b, GroupRow):
        return _merge_groups(a, b)
    if isinstance(a, NodeRow) and isinstance(b, NodeRow):
        return max(a, b)
    if isinstance(a, LinkRow) and isinstance(b, LinkRow):
        return max(a, b)
    assert isinstance(a, RuleRow)
    assert isinstance(b, RuleRow)
    return max(a, b)


def _merge_topics(a: TopicRow, b: TopicRow) -> TopicRow:
    best = max(a[:4], b[:4])
    return TopicRow(*best, max(a.deleted, b.deleted), *max(a[5:], b[5:]))


def _merge_groups(a: GroupRow, b: GroupRow) -> GroupRow:
    born, set_, settings = max(a[1:4], b[1:4])
    gone = max(a.gone, b.gone)
    sought, to = max(a[5:], b[5:])
    if sought <= max(born, gone):  # of one that was there before
        sought, to = NEVER, ""
    if born <= gone:
        born, set_, settings = NEVER, NEVER, ""
    return GroupRow(a.name, born, set_, settings, gone, sought, to)


def stamps_of(row: Row) -> tuple[Stamp, ...]:
    """All that a row has."""
    if isinstance(row, RuleRow | NodeRow | LinkRow):
        return (row.set,)
    if isinstance(row, TopicRow):
        return row.made, row.deleted, row.kept
    return row.born, row.set, row.gone, row.sought


# --- packed --------------------------------------------------------------------------------


def pack(rows: Iterable[Said]) -> bytes:
    """Rows as they are stored and told."""
    return b"".join([pack_row(row) for row in rows])


def pack_row(row: Said) -> bytes:
    """One of them."""
    if isinstance(row, RuleRow):
        kind, parts = _RULE, _pack_rule(row)
    elif isinstance(row, TopicRow):
        kind, parts = _TOPIC, _pack_topic(row)
    elif isinstance(row, GroupRow):
        stamps = [_pack_stamp(stamp) for stamp in (row.born, row.set, row.gone)]
        kind, parts = _GROUP, [_pack_text(row.name), *stamps, _pack_text(row.settings)]
        if row.sought != NEVER:
            parts += [_pack_stamp(row.sought), _pack_text(row.to)]
    elif isinstance(row, NodeRow):
        kind, parts = _NODE, [_pack_stamp(row.set)]
    elif isinstance(row, LinkRow):
        flags = _PAUSED.pack(row.paused)
        kind, parts = _LINK, [_pack_text(row.to), _pack_stamp(row.set), flags]
    else:
        kind, parts = _FORGOTTEN, [row.key]
    body = b"".join(parts)
    return _HEAD.pack(kind, len(body)) + body


def _pack_rule(row: RuleRow) -> list[bytes]:
    flags = _DURABLE * row.durable | _REMOVED * row.removed | _REPLICATED * row.replicated
    flags |= row.copies << _COPIES_SHIFT
    policy = _POLICY.pack(flags, row.retention_ns, row.retention_bytes)
    return [_pack_text(row.pattern), _pack_stamp(row.set), policy]


def _pack_topic(row: TopicRow) -> list[bytes]:
    stamps = [_pack_stamp(stamp) for stamp in (row.made, row.deleted, row.kept)]
    policy = _POLICY.pack(_DURABLE * row.durable, row.retention_ns, row.retention_bytes)
    return [row.topic_id, _pack_text(row.name), *stamps, policy]


def _pack_stamp(stamp: Stamp) -> bytes:
    if not stamp.time:
        return _TIME.pack(0)
    by = stamp.by.encode()
    return _TIME.pack(stamp.time) + _WHO.pack(stamp.origin, len(by)) + by


def _pack_text(text: str) -> bytes:
    data = text.encode()
    return _SIZE.pack(len(data)) + data


def unpack(data: bytes) -> list[Said]:
    """Rows as ``pack`` made them; raise BadFrame if they are malformed."""
    found: list[Said] = []
    at = 0
    try:
        while at < len(data):
            kind, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            if at + size > len(data):
                raise BadFrame("a row of the directory ends early")
            read = _READERS.get(kind)
            if read is not None:
                found.append(read(_Reader(data[at : at + size])))
            at += size
    except (struct.error, UnicodeDecodeError, InvalidName) as error:
        raise BadFrame(f"a malformed row of the directory: {error}") from None
    return found


class _Reader:
    """Takes values off the front of a row; struct.error where it ends early."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def values(self, kind: struct.Struct) -> tuple[Any, ...]:
        found = kind.unpack_from(self.data, self.at)
        self.at += kind.size
        return found

    def bytes(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise struct.error("a text ends early")
        self.at += size
        return found

    def text(self, most: int) -> str:
        (size,) = self.values(_SIZE)
        if size > most:
            raise BadFrame(f"a text of {size} bytes in a row of the directory, at most {most}")
        return self.bytes(size).decode()

    def stamp(self) -> Stamp:
        (time,) = self.values(_TIME)
        if not time:
            return NEVER
        if time >> COUNTER_BITS > limits.STAMP_MS_MAX:
            raise BadFrame("a row of the directory has a time that no clock shows")
        origin, size = self.values(_WHO)
        by = self.bytes(size).decode()
        if len(by) > limits.PEER_NAME_MAX:
            raise BadFrame(f"name of {len(by)} characters, the limit is {limits.PEER_NAME_MAX}")
        return Stamp(time, origin, by)

    def policy(self) -> tuple[bool, bool, int, int, int, bool]:
        flags, age, size = self.values(_POLICY)
        copies = flags >> _COPIES_SHIFT & _COPIES_MASK
        if copies > limits.COPIES_MAX:
            raise BadFrame(f"a row of the directory has {copies} copies")
        if age >> 62 or size >> 62:
            raise BadFrame("a row of the directory has a retention beyond 2**62")
        durable, removed, waits = (bool(flags & f) for f in (_DURABLE, _REMOVED, _REPLICATED))
        return durable, removed, age, size, copies, waits


def _read_rule(r: _Reader) -> RuleRow:
    pattern, stamp = check_pattern(r.text(limits.TOPIC_BYTES_MAX)), r.stamp()
    durable, removed, age, size, copies, replicated = r.policy()
    if not stamp.time:
        raise BadFrame("a rule of the directory was never set")
    return RuleRow(pattern, stamp, durable, age, size, removed, copies, replicated)


def _read_topic(r: _Reader) -> TopicRow:
    topic_id, name = r.bytes(16), check_topic(r.text(limits.TOPIC_BYTES_MAX))
    made, deleted, kept = r.stamp(), r.stamp(), r.stamp()
    durable, _, age, size, _, _ = r.policy()
    return TopicRow(topic_id, name, durable, made, deleted, kept, age, size)


def _read_group(r: _Reader) -> GroupRow:
    name = check_group(r.text(limits.TOPIC_BYTES_MAX))
    born, set_, gone = r.stamp(), r.stamp(), r.stamp()
    settings = r.text(limits.SETTINGS_BYTES_MAX)
    if r.at == len(r.data):
        return GroupRow(name, born, set_, settings, gone)
    sought, to = r.stamp(), r.text(limits.SETTINGS_BYTES_MAX)
    if sought == NEVER:
        raise BadFrame("a seek in the directory was never said")
    return GroupRow(name, born, set_, settings, gone, sought, to)


def _read_node(r: _Reader) -> NodeRow:
    stamp = r.stamp()
    if not stamp.time:
        raise BadFrame("a node of the directory has never said that it is there")
    return NodeRow(stamp)


def _read_link(r: _Reader) -> LinkRow:
    to, stamp = check_mesh(r.text(limits.MESH_BYTES_MAX)), r.stamp()
    (flags,) = r.values(_PAUSED)
    if not stamp.time:
        raise BadFrame("a link in the directory was never paused or resumed")
    return LinkRow(to, stamp, bool(flags & 1))


def _read_forgotten(r: _Reader) -> Forgotten:
    return Forgotten(r.data)


_READERS: dict[int, Any] = {
    _FORGOTTEN: _read_forgotten, _RULE: _read_rule, _TOPIC: _read_topic, _GROUP: _read_group,
    _NODE: _read_node, _LINK: _read_link,
}  # fmt: skip


# --- the log -------------------------------------------------------------------------------


def apply(rows: dict[bytes, Row], said: Iterable[Said]) -> None:
    """Add what one commit says to what the log holds: the newest word replaces the one before."""
    for row in said:
        if isinstance(row, Forgotten):
            rows.pop(row.key, None)
        else:
            rows[row.key] = row
