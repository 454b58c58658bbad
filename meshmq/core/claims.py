"""What is wished of a log, as patterns: which topics, and whether two wishes have some in common.

Data: a Claim is patterns of topics, and of those among them that are left out. Topics that match
each one of several claims are what a strand is of (core/strands.py).

Rules:
1. What groups do (their journal, dead letters, what was put back) is apart from all else: it is in
   claims that have OF_GROUPS among them, and only there. Whether it is wished says core/wished.py.
2. ``disjoint``, ``has_all`` and what is made of them say yes only where it is sure; where patterns
   alone do not show it they say no.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshmq.core.wished import Patterns, is_wished, no_groups
from meshmq.frames_copies import Claim
from meshmq.names import covers, is_of_groups, overlap, queue_of

OF_GROUPS: Claim = (("$",), ())
"""In place of patterns: rule 1."""


def claims_of(pattern: str) -> tuple[Claim, ...]:
    """Those that all topics match which a pattern covers, or that one which it names."""
    if is_of_groups(pattern):
        return (OF_GROUPS,)
    return (((queue_of(pattern) or pattern,), ()),)


def takes(claims: Sequence[Claim], name: str, pattern_of: Patterns = no_groups) -> bool:
    """Whether a topic matches each one of them."""
    if is_of_groups(name) != (OF_GROUPS in claims):
        return False
    return all(is_wished(name, *claim, pattern_of) for claim in claims if claim != OF_GROUPS)


def has_all(wide: Claim, narrow: Claim) -> bool:
    """Whether all topics of ``narrow`` are in ``wide``; rule 2."""
    return all(any(covers(w, p) for w in wide[0]) for p in narrow[0]) and all(
        any(covers(w, p) for w in narrow[1]) or not any(overlap(p, q) for q in narrow[0])
        for p in wide[1]
    )


def disjoint(one: Claim, other: Claim) -> bool:
    """Whether no topic is in both; rule 2."""
    out = one[1] + other[1]
    return not any(
        overlap(p, q) and not any(covers(x, p) or covers(x, q) for x in out)
        for p in one[0]
        for q in other[0]
    )


def is_empty(claims: Sequence[Claim]) -> bool:
    """Whether no topic matches each of them; rule 2."""
    some = [claim for claim in claims if claim != OF_GROUPS]
    if len(some) < len(claims):
        return not all(topics for topics, _ in some)
    return any(disjoint(a, b) for i, a in enumerate(some) for b in some[i:])


def are_disjoint(some: Sequence[Claim], others: Sequence[Claim]) -> bool:
    """Whether no topic matches each one of all of them; rule 2."""
    if OF_GROUPS in some or OF_GROUPS in others:
        return bool(some and others) and not (OF_GROUPS in some and OF_GROUPS in others)
    return any(disjoint(a, b) for a in some for b in others)


def have_all(wide: Sequence[Claim], narrow: Sequence[Claim]) -> bool:
    """Whether topics that match each of ``narrow`` match each of ``wide``; rule 2."""
    if (OF_GROUPS in wide) != (OF_GROUPS in narrow):
        return False
    return all(any(has_all(w, n) for n in narrow) for w in wide)


def joined(*claims: Claim) -> tuple[Claim, ...]:
    """The same without those that say nothing beside the others."""
    found: list[Claim] = []
    for claim in claims:
        if any(has_all(claim, other) for other in found):
            continue
        found = [other for other in found if not has_all(other, claim)] + [claim]
    return tuple(found)


def classes(priority: tuple[str, ...]) -> tuple[Claim, ...]:
    """What groups do, then those who go first, in their order, and the rest; a topic is in one of
    them."""
    first = [((pattern,), priority[:i]) for i, pattern in enumerate(priority)]
    return (OF_GROUPS, *first, ((">",), priority))
