"""Names and their rules: topics, patterns, meshes, streams, positions.

A topic is dot-separated tokens (``orders.eu.created``). In a pattern ``*`` stands for one whole
token and a final ``>`` for one or more. Names that begin with ``$`` are the mesh's own and no
wildcard matches them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

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
        return _check_topic(name)
    except TypeError:  # a list, say: the cache cannot hash it
        raise InvalidName(f"a topic is a string, not {name!r}") from None


@lru_cache(maxsize=65_536)
def _check_topic(name: str) -> str:
    for token in _tokens(name, "topic"):
        if not _TOKEN.match(token):
            hint = "; wildcards are for subscribing" if token in ("*", ">") else ""
            raise InvalidName(
                f"topic {name!r}: token {token!r} is not valid (no spaces, '*', '>', control "
                f"characters or empty tokens){hint}"
            )
    if name.startswith("$"):
        raise InvalidName(f"topic {name!r}: names that begin with '$' are the mesh's own")
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
    if is_literal(pattern):
        return pattern == topic
    want, have = pattern.split("."), topic.split(".")
    if topic.startswith("$") and want[0] in ("*", ">"):
        return False
    for i, token in enumerate(want):
        if token == ">":
            return len(have) > i
        if i >= len(have) or (token != "*" and token != have[i]):
            return False
    return len(want) == len(have)


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


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a read over many streams; opaque to programs, stable over restarts.

    Attributes:
        origin: whose log (hex of its 128-bit id).
        lsn: number of the commit in that log, from 1.
        slot: index of the batch in that commit, from 0.
        index: index of the record in that batch, from 0. A read resumes after this record.
    """

    origin: str
    lsn: int
    slot: int
    index: int

    def __str__(self) -> str:
        return f"p1-{self.origin}-{self.lsn}-{self.slot}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read back ``str(position)``; raise InvalidArgument for anything else."""
        found = re.fullmatch(r"p1-([0-9a-f]{32})-([0-9]{1,19})-([0-9]{1,9})-([0-9]{1,9})", text)
        if not found:
            raise InvalidArgument(f"{text!r} is not a position (take one from msg.position)")
        origin, lsn, slot, index = found.groups()
        return cls(origin, int(lsn), int(slot), int(index))
