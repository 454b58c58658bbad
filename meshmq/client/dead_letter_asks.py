"""What replaying, purging and listing dead letters ask of nodes, step by step: for both clients.

A generator yields commands to run and seconds to wait, is sent each command's answer, and returns
the outcome.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from meshmq.client.admin import Ask, ask
from meshmq.client.dead_letters import (
    DeadLetter,
    Lot,
    Ranges,
    after,
    chosen,
    in_order,
    lots_of,
    overlap,
    pace_of,
    portions,
    ranges_of,
)
from meshmq.errors import InvalidArgument, OwnerAway
from meshmq.names import check_group

LOOK_AGAIN_S = 0.1

Steps = Generator[Ask | float, Any, int]


def ask_show(group: str) -> Ask:
    """``dlq.show``."""
    return ask("dlq.show", group=check_group(group))


def _ask(verb: str, group: str, part: str, origin: str, ranges: Ranges | None = None) -> Ask:
    arguments: dict[str, Any] = {"ranges": ranges} if ranges is not None else {}
    if origin:
        arguments["origin"] = origin
    return ask(verb, part, group=check_group(group), **arguments)


class _Named:
    """Dead letters as a program names them: by themselves, which says where each is, or by
    numbers."""

    def __init__(self, wanted: Iterable[Any]) -> None:
        self.letters: dict[tuple[str, str], list[DeadLetter]] = {}
        if not isinstance(wanted, Iterable):
            raise InvalidArgument(
                f"dead letters are named in a list, or all by None, not {wanted!r}"
            )
        others = []
        for item in wanted:
            if isinstance(item, DeadLetter) and item.origin:
                self.letters.setdefault((item.origin, item.node), []).append(item)
            else:
                others.append(item)
        self.numbers = ranges_of(others)

    def lots(self) -> list[Lot]:
        return [Lot(*who, ranges_of(letters)) for who, letters in self.letters.items()]


def _check_node(node: object) -> None:
    if node is not None and not isinstance(node, str):
        raise InvalidArgument(f"node is the name of a node, or its origin, not {node!r}")


def _find(group: str, named: _Named, node: str | None) -> Generator[Ask, Any, list[Lot]]:
    lots = named.lots()
    if named.numbers:
        lots += chosen((yield ask_show(group)), named.numbers, node)
    return lots


def replaying(
    group: str, wanted: Iterable[Any] | None, node: str | None, rate: float | None
) -> Steps:
    """``dlq.replay``: how many were put back."""
    records, seconds = pace_of(rate)
    _check_node(node)
    named = None if wanted is None else _Named(wanted)
    moved, last, away = 0, dict[str, int](), list[str]()
    while True:
        if named is not None:
            lots = yield from _find(group, named, node)
        else:
            shown = yield ask_show(group)
            away = [] if node is not None else list(shown.get("away", ()))
            lots = lots_of(shown, node)
        left = False
        for lot in lots:
            ranges = after(lot.ranges, last.get(lot.origin, -1))
            if ranges:
                left = True
                last[lot.origin] = sum(ranges[-1]) - 1
            for portion in portions(ranges, records):
                if moved and seconds:
                    yield seconds
                moved += int((yield _ask("dlq.replay", group, "replaying", lot.origin, portion)))
        if named is not None or all(lot.is_all for lot in lots):
            break
        if not left:
            yield LOOK_AGAIN_S
    if away:
        names = ", ".join(away)
        raise OwnerAway(f"{moved} were put back, but none of {names}: what is there stays "
                        f"as it is until it is asked again")  # fmt: skip
    return moved


def purging(group: str, wanted: Iterable[Any] | None, node: str | None) -> Steps:
    """``dlq.purge``: how many are gone."""
    _check_node(node)
    if wanted is None:
        origin = ""
        if node is not None:
            origin = lots_of((yield ask_show(group)), node)[0].origin
        return int((yield _ask("dlq.purge", group, "purged", origin)))
    lots = yield from _find(group, _Named(wanted), node)
    purged = 0
    for lot in lots:
        for portion in portions(lot.ranges, None):
            purged += int((yield _ask("dlq.purge", group, "purged", lot.origin, portion)))
    return purged


def listed(shown: dict[str, Any], wanted: Iterable[Any] | None, node: str | None) -> list[Lot]:
    """Dead letters to list: numbers may be of several nodes."""
    _check_node(node)
    lots = lots_of(shown, node)
    if wanted is None:
        return lots
    numbers = in_order(ranges_of(wanted))
    return [lot._replace(ranges=overlap(lot.ranges, numbers)) for lot in lots]
