"""Names and their rules: topics, patterns, meshes, streams, positions.

A topic is dot-separated tokens (``orders.eu.created``). In a pattern ``*`` stands for one whole
token and a final ``>`` for one or more. Names that begin with ``$`` are the mesh's own and no
wildcard matches them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from meshmq import limits
from meshmq.errors import InvalidArgument, InvalidName

# A lone surrogate (undecodable bytes of a command line become one) has no UTF-8 to send.
_TOKEN = re.compile(r"[^\s.*>\x00-\x1f\x7f\ud800-\udfff]+\Z")
_MESH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")


def _tokens(name: str, kind: str) -> list[str]:
    if not isinstance(name, str) or not name:
        raise InvalidName(f"a {kind} is a non-empty string of dot-separated tokens, not {name!r}")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > limits.TOPIC_BYTES_MAX:
        raise InvalidName(f"{kind} of {size} bytes exceeds the limit of {limits.TOPIC_BYTES_MAX}")
    tokens = name.split(".")
    if len(tokens) > limits.TOPIC_TOKENS_MAX:
        raise InvalidName(
            f"{kind} {name!r} has {len(tokens)} tokens, the limit is {limits.TOPIC_TOKENS_MAX}"
        )
    return tokens


def check_topic(name: str) -> str:
    """Return ``name`` if it is a topic a program may publish to; raise InvalidName if not."""
    try:
        return _check_literal(name, "topic")
    except TypeError:  # a list, say: the cache cannot hash it
        raise InvalidName(f"a topic is a string, not {name!r}") from None


@lru_cache(maxsize=65_536)
def _check_literal(name: str, kind: str) -> str:
    for token in _tokens(name, kind):
        if not _TOKEN.match(token):
            hint = "; wildcards are for subscribing" if token in ("*", ">") else ""
            raise InvalidName(
                f"{kind} {name!r}: token {token!r} is not valid (no spaces, '*', '>', control "
                f"characters or empty tokens){hint}"
            )
    if name.startswith("$"):
        raise InvalidName(f"{kind} {name!r}: names that begin with '$' are the mesh's own")
    return name


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` if it is well formed; raise InvalidName if not."""
    try:
        return _check_pattern(pattern)
    except TypeError:
        raise InvalidName(f"a pattern is a string, not {pattern!r}") from None


@lru_cache(maxsize=4096)
def _check_pattern(pattern: str) -> str:
    tokens = _tokens(pattern, "pattern")
    for i, token in enumerate(tokens):
        if token == "*" or (token == ">" and i == len(tokens) - 1):
            continue
        if not _TOKEN.match(token):
            raise InvalidName(
                f"pattern {pattern!r}: token {token!r} is not valid ('*' stands for one whole "
                f"token, '>' only at the end)"
            )
    return pattern


def check_mesh(name: str) -> str:
    """Return ``name`` if it can name a mesh; raise InvalidName if not."""
    if not isinstance(name, str) or not _MESH.match(name) or len(name) > limits.MESH_BYTES_MAX:
        raise InvalidName(
            f"mesh name {name!r} must be 1 to {limits.MESH_BYTES_MAX} letters, digits, '-' or '_'"
        )
    return name


def is_literal(pattern: str) -> bool:
    """Whether ``pattern`` has no wildcard, so that it names exactly one topic."""
    return "*" not in pattern and ">" not in pattern


def matches(pattern: str, topic: str) -> bool:
    """Whether ``topic`` is covered by ``pattern``. Both must be well formed."""
    return pattern == topic if is_literal(pattern) else covers(pattern, topic)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that pattern ``narrow`` covers is covered by ``wide``."""
    want, have = wide.split("."), narrow.split(".")
    if narrow.startswith("$") and want[0] in ("*", ">"):
        return False
    for i, token in enumerate(want):
        if token == ">":
            return len(have) > i
        if i >= len(have) or have[i] == ">" or token not in ("*", have[i]):
            return False
    return len(want) == len(have)


def overlap(one: str, other: str) -> bool:
    """Whether there may be a topic that both patterns cover."""
    if one.startswith("$") != other.startswith("$"):
        return False
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return one.count(".") == other.count(".")


def meet(one: str, other: str) -> str:
    """The pattern of the topics that both patterns cover; empty: there are none."""
    a, b = one.split("."), other.split(".")
    found: list[str] = []
    if one.startswith("$") != other.startswith("$"):
        return ""
    for i, (x, y) in enumerate(zip_longest(a, b, fillvalue="")):
        if ">" in (x, y):
            found += b[i:] if x == ">" else a[i:]
            break
        if "*" not in (x, y) and x != y:
            return ""
        found.append(y if x == "*" else x)
    is_whole = all(found) and len(found) >= max(len(a), len(b))
    name = ".".join(found)
    return name if is_whole and len(name.encode()) <= limits.TOPIC_BYTES_MAX else ""


def site_of(name: str) -> str:
    """The site of a node of another site, by its name with that before it; empty: of our own."""
    site, slash, _ = name.partition("/")
    return site if slash else ""


# --- groups and queues: topics of the mesh's own -----------------------------------------------

JOURNAL = "$journal"
"""Topic of the node's own stream of what its groups did."""

_GROUP_BYTES_MAX = limits.TOPIC_BYTES_MAX - 16  # room for the longest prefix below
_GROUP_TOKENS_MAX = limits.TOPIC_TOKENS_MAX - 2
_LANE = re.compile(r"\$(?:priority\.([1-9])|delayed)\.(.+)")


def check_group(name: str, kind: str = "group") -> str:
    """Return ``name`` if it can name a group or queue; raise InvalidName if not."""
    check_topic(name)
    size, tokens = len(name.encode()), name.count(".") + 1
    if size > _GROUP_BYTES_MAX or tokens > _GROUP_TOKENS_MAX:
        raise InvalidName(
            f"{kind} name of {size} bytes and {tokens} tokens: the limits are {_GROUP_BYTES_MAX} "
            f"and {_GROUP_TOKENS_MAX}"
        )
    return name


def check_service(name: str) -> str:
    """Return ``name`` if it can name a service; raise InvalidName if not."""
    try:
        return _check_literal(name, "service name")
    except TypeError:
        raise InvalidName(f"a service name is a string, not {name!r}") from None


def dead_letters_of(group: str) -> str:
    """Topic that holds the dead letters of a group or queue."""
    return f"$dlq.{group}"


def retries_of(group: str) -> str:
    """Topic of dead letters put back into a group or queue."""
    return f"$retry.{group}"


def is_of_groups(topic: str) -> bool:
    """Whether a topic tells what groups do, beside what is published: their journal, dead letters,
    what was put back."""
    return topic == JOURNAL or bool(group_of(topic))


def group_of(topic: str) -> str:
    """The group or queue that a topic of dead letters, or of what was put back, belongs to; empty
    for any other topic."""
    kind, _, group = topic.partition(".")
    return group if kind in ("$dlq", "$retry") else ""


def lane_of(queue: str, priority: int = 0, delayed: bool = False) -> str:
    """Topic that jobs of ``queue`` are published to."""
    if delayed:
        return f"$delayed.{queue}"
    return f"$priority.{priority}.{queue}" if priority else queue


def priority_of(topic: str) -> int:
    """Of jobs in this lane, where that says it; else 0."""
    found = _LANE.fullmatch(topic)
    return int(found[1] or 0) if found else 0


def lanes_of(queue: str) -> list[str]:
    """Topics of a queue's jobs."""
    return [
        *(lane_of(queue, p) for p in range(limits.PRIORITY_MAX + 1)),
        lane_of(queue, delayed=True),
    ]


def queue_of(topic: str) -> str:
    """The queue that a lane with a ``$`` belongs to; empty for any other topic."""
    found = _LANE.fullmatch(topic)
    return found[2] if found else ""


_PUSH = "$push."


def push_lane(topic: str) -> str:
    """Lane of what is pushed to ``topic``: its records have numbers of their own."""
    return _PUSH + topic


def pushed_topic(lane: str) -> str:
    """The topic that such a lane belongs to; empty for any other lane."""
    return lane[len(_PUSH) :] if lane.startswith(_PUSH) else ""


def topic_key(topic_id: bytes) -> int:
    """The beginning of a topic's id, as a number: enough to tell a topic from those before it."""
    return int.from_bytes(topic_id[:8], "big")


@dataclass(frozen=True, slots=True)
class JobId:
    """Names one job of one queue, and never another; opaque to programs.

    Attributes:
        origin: whose log (hex of its 128-bit id).
        topic_key: of the topic that its record is in, one of the queue's lanes.
        offset: its offset there.
    """

    origin: str
    topic_key: int
    offset: int

    def __str__(self) -> str:
        return f"j1-{self.origin}-{self.topic_key:016x}-{self.offset}"

    @classmethod
    def parse(cls, text: object) -> JobId:
        """Read back ``str(job_id)``; raise InvalidArgument for anything else."""
        found = isinstance(text, str) and re.fullmatch(
            r"j1-([0-9a-f]{32})-([0-9a-f]{16})-([0-9]{1,19})", text
        )
        if not found:
            raise InvalidArgument(f"{text!r} is not a job id (take one from receipt.job_id)")
        return cls(found[1], int(found[2], 16), int(found[3]))


@dataclass(frozen=True, slots=True)
class Stream:
    """Identity of an append-only log with one writer: (topic id, origin, partition).

    ``topic`` is a label; the identity is the two 128-bit ids (hex) and the partition.
    """

    topic: str
    topic_id: str
    origin: str
    partition: int = 0

    def __str__(self) -> str:
        return f"{self.topic}@{self.origin[:8]}/{self.partition}"


_PLACE = r"([0-9a-f]{32})-([0-9]{1,19})-([0-9]{1,9})-([0-9]{1,9})"
_POSITION = re.compile(rf"p1-{_PLACE}|p2-{_PLACE}-([0-9]{{1,19}})((?:-{_PLACE})*)")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a read over many streams; opaque to programs, stable over restarts.

    Attributes:
        origin: whose log (hex of its 128-bit id).
        lsn: number of the commit in that log, from 1.
        slot: index of the batch in that commit, from 0.
        index: index of the record in that batch, from 0. A read resumes after this record.
        since: logs of which nothing is said here are read from this time (unix ns) on.
        others: the next batch in the log of each other node: origin, lsn, slot, and how many of its
            records are not wanted.
    """

    origin: str
    lsn: int
    slot: int
    index: int
    since: int = 0
    others: tuple[tuple[str, int, int, int], ...] = ()

    def __str__(self) -> str:
        place = f"{self.origin}-{self.lsn}-{self.slot}-{self.index}"
        if not (self.since or self.others):
            return f"p1-{place}"
        others = "".join([f"-{o}-{lsn}-{slot}-{skip}" for o, lsn, slot, skip in self.others])
        return f"p2-{place}-{self.since}{others}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read back ``str(position)``; raise InvalidArgument for anything else."""
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        refusal = InvalidArgument(f"{shown!r} is not a position (take one from msg.position)")
        if len(text) > limits.POSITION_CHARACTERS_MAX or not _POSITION.fullmatch(text):
            raise refusal
        kind, *parts = text.split("-")
        since = int(parts.pop(4)) if kind == "p2" else 0
        places = [
            (parts[i], int(parts[i + 1]), int(parts[i + 2]), int(parts[i + 3]))
            for i in range(0, len(parts), 4)
        ]
        if since >= 1 << 63 or len(places) > limits.PLACES_MAX:
            raise refusal
        return cls(*places[0], since, tuple(places[1:]))


def is_position(text: str) -> bool:
    """Whether a text means to be a position, right or not."""
    return text.startswith(("p1-", "p2-"))


# --- producers -----------------------------------------------------------------------------

_BY_NAME = b"\xffn"
_NAME_BYTES = 10
_PRODUCER_BYTES = 16


def producer_of(mesh: str, name: str) -> bytes:
    """The id of a producer that has a name: what comes behind the name is zero."""
    digest = hashlib.sha256(f"{mesh}/{name}".encode()).digest()
    return (_BY_NAME + digest)[:_NAME_BYTES] + bytes(_PRODUCER_BYTES - _NAME_BYTES)


def run_of(producer: bytes, instance: bytes) -> bytes:
    """The id of one run of such a producer, for what is numbered by that alone."""
    return producer[:_NAME_BYTES] + instance[: _PRODUCER_BYTES - _NAME_BYTES]


def is_named(producer: bytes) -> bool:
    """Whether it is the id of a producer that has a name, or of a run of it."""
    return producer.startswith(_BY_NAME)


def has_name_of(producer: bytes, other: bytes) -> bool:
    """Whether two ids are of one name; of producers without a name: whether they are one."""
    if is_named(other):
        return producer[:_NAME_BYTES] == other[:_NAME_BYTES]
    return producer == other
