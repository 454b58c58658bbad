"""A planted bug that cannot be called is told, and is no fault that a world has noticed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planting import Planted, known_seeds
from tests.simulation.find_seeds import MODULES, planted_of


class Core:
    def step(self, count: int) -> int:
        return count


class World:
    def run(self) -> None:
        Core().step(1)


BUGS = Planted()


@BUGS.register(Core, "step")
def with_an_old_signature(real: Any, self: Any, count: int, more: int) -> int:
    return count


@BUGS.register(Core, "step")
def with_an_error_of_its_own(real: Any, self: Any, count: int) -> int:
    return len(count)  # type: ignore[arg-type]


def test_a_bug_that_cannot_be_called_is_told() -> None:
    with BUGS["with_an_old_signature"](), pytest.raises(pytest.fail.Exception, match="proves"):
        BUGS.faults_of(World(), [])


def test_an_error_of_a_bug_is_a_fault_but_none_that_a_checker_noticed() -> None:
    with BUGS["with_an_error_of_its_own"]():
        assert BUGS.faults_of(World(), []) == ["TypeError: object of type 'int' has no len()"]
        assert BUGS.faults_of(World(), [], only="order") == []
    assert BUGS.faults_of(World(), []) == []


@pytest.mark.parametrize("world", MODULES)
def test_seeds_are_known_of_bugs_that_are_there(world: str) -> None:
    planted, cases = planted_of(world)
    assert set(known_seeds().get(world, {})) <= {planted.key(*case) for case in cases}
    assert set(known_seeds()) <= set(MODULES)


@pytest.mark.parametrize(
    ("noticing", "found", "tried"),
    [({3}, 3, [3]), ({2, 4}, 2, [3, 0, 1, 2]), (set(), None, [3, 0, 1, 2, 4])],
)
def test_the_seed_that_is_known_is_played_first_and_others_where_it_notices_nothing(
    noticing: set[int], found: int | None, tried: list[int]
) -> None:
    played: list[int] = []

    def faults(seed: int, checker: str) -> list[str]:
        played.append(seed)
        return ["wrong"] if seed in noticing else []

    def bug(real: Any, self: Any, count: int) -> int:
        return count

    bugs = Planted("", faults, range(5))
    bugs.register(Core, "step")(bug)
    bugs._known = {"bug": 3}
    assert bugs.noticing("bug") == found
    assert played == tried
