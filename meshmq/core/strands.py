"""Strands of a log of another site: parts of it that are pulled beside each other, each in order.

Data: of a log the strands that are pulled, in their order. A topic is in the first one whose claims
it matches. A strand has a place of its own: of its topics all is here that lies before it.

Rules:
1. Who goes first over a thin link has strands of a lower rank; before all others goes what groups
   do. At rest a log has one strand for each rank that some wished topic can have.
2. When the wish changes, strands go on with what of theirs is wished still, each from its place;
   where a strand has topics of several ranks then, it is split. Topics that were not wished
   before are new strands, from the beginning on.
3. Strands of one rank that have come equally far come together: one of them goes on with all.
4. What is read of a source whose strands are at unequal places is split as that has it: else one
   place would stand for all, the least.
5. A reader is held by the strands that may have what it wants: it goes no further than they have
   come. So it has all in the order of the log, and its position is the same at all sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshmq import limits
from meshmq.core.claims import (
    OF_GROUPS,
    are_disjoint,
    classes,
    has_all,
    have_all,
    is_empty,
    joined,
    takes,
)
from meshmq.core.wished import Patterns, no_groups
from meshmq.frames_copies import Claim, Strand

Strands = tuple[Strand, ...]

BEGIN = (1, 0)


def begin(claim: Claim, priority: tuple[str, ...], used: Iterable[int] = ()) -> Strands:
    """Those by which what is wished is pulled from the beginning on; rule 1.

    Args:
        used: numbers that are not to be given.
    """
    numbers = _Numbers(used)
    return tuple(
        [
            Strand(numbers.next(), rank, *BEGIN, claims)
            for rank, among in enumerate(classes(priority))
            if not is_empty(claims := joined(claim, among))
        ]
    )


def rewish(
    strands: Strands, old: Claim, new: Claim, priority: tuple[str, ...], used: Iterable[int]
) -> Strands | None:
    """Those that pull what is wished now; rule 2. None: there would be too many, for now."""
    numbers = _Numbers({*used, *[strand.number for strand in strands]})
    found: list[Strand] = []
    for strand in strands:
        parts = [
            (rank, claims)
            for rank, among in enumerate(classes(priority))
            if (among == OF_GROUPS) == (OF_GROUPS in strand.claims)
            and not _is_had(found, claims := joined(*strand.claims, new, among))
        ]
        for i, (rank, claims) in enumerate(parts):
            number = numbers.next() if i else strand.number
            found.append(strand._replace(number=number, rank=rank, claims=claims))
    if not has_all(old, new):
        found += begin(new, priority, {*numbers.used, *[strand.number for strand in found]})
    return tuple(found) if _may_be(found) else None


def split(strands: Strands, theirs: Strands, used: Iterable[int]) -> Strands:
    """As many as are needed to take from a source with unequal strands all that it has; rule 4."""
    numbers = _Numbers({*used, *[strand.number for strand in strands]})
    found: list[Strand] = []
    for strand in strands:
        beside = covering(theirs, strand.claims)
        each = [joined(*strand.claims, *t.claims) for t in beside]
        if not (beside and have_all(beside[-1].claims, strand.claims)):
            each.append(strand.claims)
        parts = [claims for claims in each if not _is_had(found, claims)]
        if len(parts) < 2 or len({t.place for t in beside}) < 2:
            parts = [strand.claims]
        for i, claims in enumerate(parts):
            number = numbers.next() if i else strand.number
            found.append(strand._replace(number=number, claims=claims))
    return tuple(found) if _may_be(found) else strands


def together(
    strands: Strands, told: Iterable[int], claim: Claim, priority: tuple[str, ...]
) -> Strands:
    """The same with those made one that can be, of those that were ``told`` to have come to the end
    of what the source has; rule 3."""
    at_end = set(told)
    found: list[Strand] = []
    among = classes(priority)
    for strand in strands:
        same = [s for s in strands if s.rank == strand.rank]
        is_one = len({s.place for s in same}) == 1 and at_end.issuperset({s.number for s in same})
        if len(same) == 1 or not is_one:
            found.append(strand)
        elif strand is same[0]:
            found.append(strand._replace(claims=joined(claim, among[strand.rank])))
    return tuple(found)


def strand_of(strands: Iterable[Strand], name: str, pattern_of: Patterns = no_groups) -> int | None:
    """The number of the one that a topic is in."""
    return next((s.number for s in strands if takes(s.claims, name, pattern_of)), None)


def covering(
    strands: Iterable[Strand], claims: Sequence[Claim], besides: Sequence[Strand] = ()
) -> list[Strand]:
    """Those that may have topics that match each of ``claims``, and are of none of ``besides``."""
    found = []
    for strand in strands:
        if are_disjoint(strand.claims, claims):
            continue
        if besides and _is_had(besides, joined(*strand.claims, *claims)):
            continue
        found.append(strand)
        if have_all(strand.claims, claims):
            break
    return found


def furthest(strands: Iterable[Strand]) -> tuple[int, int]:
    """The place of the one that has come furthest."""
    return max([strand.place for strand in strands], default=BEGIN)


def have_more(theirs: Strands, ours: Strands) -> bool:
    """Whether something may be there that is not here."""
    return any(
        t.place > o.place
        and not are_disjoint(t.claims, o.claims)
        # A topic of both is in the first one that it matches, there and here.
        and not _is_had((*theirs[:i], *ours[:j]), joined(*t.claims, *o.claims))
        for i, t in enumerate(theirs)
        for j, o in enumerate(ours)
    )


def _is_had(strands: Iterable[Strand], claims: Sequence[Claim]) -> bool:
    """Whether no topic would be in one more strand behind these."""
    return is_empty(claims) or any(have_all(strand.claims, claims) for strand in strands)


def _may_be(strands: Sequence[Strand]) -> bool:
    return len(strands) <= limits.STRANDS_MAX and all(
        len(strand.claims) <= limits.STRAND_CLAIMS_MAX and strand.number < limits.STRANDS_MAX
        for strand in strands
    )


class _Numbers:
    """Numbers that no strand has."""

    def __init__(self, used: Iterable[int]) -> None:
        self.used = set(used)

    def next(self) -> int:
        number = 0
        while number in self.used:
            number += 1
        self.used.add(number)
        return number
